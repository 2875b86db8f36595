/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_segment.c - opens and closes the log; makes segment files ahead of need and recycles old
 * ones.
 *
 * Entry points: wal_open(), wal_close(), wal_truncate(), wal_room(), wal_tell().     Read first:
 * README.md, wal_format.h.
 *
 * The keeper is a background task that has one duty: `next` is a file, of full size, written once
 * (zeros or a former life), known to its directory.  So that a log writer that fills a segment goes
 * on in the next one without waiting, and a block's write changes no metadata.  Life of a file:
 *
 *     created, zeroed --> prepared (next) --> current --> full (live) --> doomed [truncated]
 *                             ^                                             |
 *                             `-- [renamed] -- spare <--------- [renamed] --+--> unlinked, when
 *                                                                                spares are enough
 *
 *   I3  A segment is doomed only when wal_truncate() has passed its end and a durable block lies in
 *       a later one: at any moment the disk holds a segment from which a reader finds the end of
 *       the log.
 *   I6  The directory is synced after the rename or creation that makes a prepared file, before
 *       anything is written to it.  Hence a file's old content is untouched as long as its old name
 *       could come back.
 *   I7  A file is renamed only when the directory has been synced since its last rename: so a cut
 *       never leaves it with two names.
 * Files of former lives with a number that the new life is going to use (prepared but unused, or
 * begun and then cut off by a crash) are turned into spares before the new life's first segment is
 * made.
 * Locks: wal->lock for lists and tickets, never held over I/O.
 */
#include "base/clock.h"
#include "base/crc.h"
#include "base/log.h"
#include "wal/wal_int.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- Names and structures ---- */

void
wal__segment_name(char name[WAL_NAME_MAX], uint64_t number)
{
    snprintf(name, WAL_NAME_MAX, "wal-%016" PRIx64 ".log", number);
}

static void
spare_name(char name[WAL_NAME_MAX], uint32_t number)
{
    snprintf(name, WAL_NAME_MAX, "wal-spare-%" PRIu32 ".log", number);
}

bool
wal__segment_parse(const char *name, uint64_t *number_out)
{
    static const char prefix[] = "wal-";
    if (strncmp(name, prefix, 4) != 0 || strlen(name) != 24 || strcmp(name + 20, ".log") != 0)
        return false;
    uint64_t v = 0;
    for (const char *p = name + 4; p < name + 20; p++) {
        if (*p >= '0' && *p <= '9')
            v = v << 4 | (uint64_t)(*p - '0');
        else if (*p >= 'a' && *p <= 'f')
            v = v << 4 | (uint64_t)(*p - 'a' + 10);
        else
            return false;
    }
    *number_out = v;
    return true;
}

static bool
spare_parse(const char *name, uint32_t *number_out)
{
    unsigned v;
    char again[WAL_NAME_MAX];
    if (sscanf(name, "wal-spare-%u.log", &v) != 1)
        return false;
    spare_name(again, v);
    if (strcmp(again, name) != 0)
        return false;
    *number_out = v;
    return true;
}

ash_rc
wal__segment_new(uint64_t number, uint64_t size, uint32_t capacity, struct wal_segment **out)
{
    struct wal_segment *s = mem_zalloc(MEM_WAL, sizeof(*s));
    if (s == NULL)
        return ASH_NO_MEMORY;
    s->number = number;
    s->size = size;
    s->capacity = capacity;
    if (capacity > 0) {
        s->blocks = mem_alloc(MEM_WAL, capacity * sizeof(*s->blocks));
        if (s->blocks == NULL) {
            mem_free(MEM_WAL, s);
            return ASH_NO_MEMORY;
        }
    }
    *out = s;
    return ASH_OK;
}

ash_rc
wal__segment_index(struct wal_segment *s, uint64_t lsn, uint64_t offset, uint32_t payload)
{
    if (s->count == s->capacity) {
        uint32_t capacity = s->capacity < 16 ? 16 : s->capacity * 2;
        struct wal_block_ref *blocks = mem_realloc(MEM_WAL, s->blocks, capacity * sizeof(*blocks));
        if (blocks == NULL)
            return ASH_NO_MEMORY;
        s->blocks = blocks;
        s->capacity = capacity;
    }
    s->blocks[s->count++] = (struct wal_block_ref){ lsn, (uint32_t)(offset / 4096), payload };
    return ASH_OK;
}

void
wal__segment_free(struct wal_segment *s)
{
    if (s == NULL)
        return;
    if (s->file != NULL)
        io_file_close(s->file);
    mem_free(MEM_WAL, s->blocks);
    mem_free(MEM_WAL, s);
}

static void
segment_list_free(struct list *list)
{
    LIST_FOREACH_SAFE(it, tmp, list)
        wal__segment_free(list_entry(it, struct wal_segment, link));
    list_init(list);
}

void
wal_segments_free(struct wal_segments *s)
{
    if (s == NULL)
        return;
    segment_list_free(&s->list);
    mem_free(MEM_WAL, s);
}

void
wal__segment_head(const struct wal *wal, const struct wal_segment *s, uint64_t durable,
                  uint8_t page[4096])
{
    struct wal_segment_head h = {
        .magic = WAL_SEGMENT_MAGIC,
        .format = WAL_FORMAT,
        .epoch = s->epoch,
        .segment = s->number,
        .lsn = s->lsn,
        .size = s->size,
        .durable = durable,
    };
    memcpy(h.uuid, wal->options.uuid, sizeof(h.uuid));
    memset(page, 0, 4096);
    memcpy(page, &h, sizeof(h));
    put_le32(page + 4, crc32c(0, page + 8, 4096 - 8));
}

/* ---- Keeper: preparing ---- */

static struct wal_segment *
newest_locked(struct wal *wal)
{
    return list_empty(&wal->live) ? NULL : list_entry(wal->live.prev, struct wal_segment, link);
}

static ash_rc
sync_names(struct wal *wal)
{
    ash_rc rc = io_dir_sync(wal->options.dir);
    if (rc == ASH_OK)
        wal->spares_dirty = false;
    return rc;
}

/* Opens a spare under its new name.  ASH_NOT_FOUND: there is none of the right size. */
static ash_rc
reuse_spare(struct wal *wal, const char *name, struct io_file **out)
{
    if (wal->spare_count > 0 && wal->spares_dirty) {
        ash_rc rc = sync_names(wal); /* I7 */
        if (rc != ASH_OK)
            return rc;
    }
    while (wal->spare_count > 0) {
        char spare[WAL_NAME_MAX];
        spare_name(spare, wal->spares[--wal->spare_count]);
        struct io_file *f;
        ash_rc rc = io_file_open(wal->options.dir, spare, 0, &f);
        if (rc == ASH_NOT_FOUND)
            continue;
        if (rc != ASH_OK)
            return rc;
        uint64_t size = 0;
        rc = io_file_size(f, &size);
        io_file_close(f);
        if (rc != ASH_OK)
            return rc;
        if (size != wal->options.segment_bytes) {
            rc = io_dir_unlink(wal->options.dir,
                               spare); /* the option changed, or it was never finished */
            if (rc != ASH_OK)
                return rc;
            continue;
        }
        rc = io_dir_rename(wal->options.dir, spare, name);
        if (rc != ASH_OK)
            return rc;
        return io_file_open(wal->options.dir, name, 0, out);
    }
    return ASH_NOT_FOUND;
}

static ash_rc
make_file(struct wal *wal, const char *name, struct io_file **out)
{
    struct io_file *f;
    ash_rc rc = io_file_open(wal->options.dir, name, IO_CREATE | IO_EXCLUSIVE, &f);
    if (rc != ASH_OK)
        return rc;
    rc = io_file_allocate(f, wal->options.segment_bytes, /* zero= */ true);
    if (rc == ASH_OK)
        rc = io_flush(f, IO_CLASS_WAL);
    if (rc == ASH_OK) {
        *out = f;
        return ASH_OK;
    }
    struct err_detail why;
    err_save(&why);
    io_file_close(f);
    if (rc == ASH_NO_SPACE)
        ash_ignore(io_dir_unlink(
            wal->options.dir,
            name)); /* gives back what it got; the failure to report is the first one */
    err_restore(&why);
    return rc;
}

/* Makes wal->next. */
static ash_rc
prepare(struct wal *wal, uint64_t number)
{
    struct wal_segment *s;
    char name[WAL_NAME_MAX];
    wal__segment_name(name, number);
    uint64_t bytes = wal->options.segment_bytes;
    ash_rc rc = wal__segment_new(number, bytes, (uint32_t)(bytes / 4096 - 1), &s);
    if (rc != ASH_OK)
        return rc;
    rc = reuse_spare(wal, name, &s->file);
    bool recycled = rc == ASH_OK;
    if (rc == ASH_NOT_FOUND)
        rc = make_file(wal, name, &s->file);
    if (rc == ASH_OK && !PLANTED(36))
        rc = sync_names(wal); /* I6 */
    if (rc != ASH_OK) {
        struct err_detail why;
        err_save(&why);
        wal__segment_free(s);
        err_restore(&why);
        return rc;
    }
    s->dsync = io_file_device_class(s->file) == IO_DEVICE_VOLATILE;
    wal__lock(&wal->lock);
    wal->next = s;
    wal->next_number = number + 1;
    wal->stats.recycled += recycled;
    wal__unlock(&wal->lock);
    return ASH_OK;
}

/* Turns a truncated segment's file into a spare, or unlinks it. */
static ash_rc
recycle(struct wal *wal, const char *name, bool keep)
{
    if (!keep || wal->spare_count == WAL_SPARES_MAX)
        return io_dir_unlink(wal->options.dir, name);
    char spare[WAL_NAME_MAX];
    uint32_t number = wal->spare_next++;
    spare_name(spare, number);
    ash_rc rc = io_dir_rename(wal->options.dir, name, spare);
    if (rc == ASH_OK) {
        wal->spares[wal->spare_count++] = number;
        wal->spares_dirty = !PLANTED(42);
    }
    return rc;
}

void
wal__keeper_kick(struct wal *wal)
{
    task_wait_wake(&wal->keeper_q);
}

/* The next doomed segment that nobody reads any more, unlinked from the list. */
static struct wal_segment *
take_doomed_locked(struct wal *wal)
{
    LIST_FOREACH(it, &wal->doomed) {
        struct wal_segment *s = list_entry(it, struct wal_segment, link);
        if (s->refs == 0) {
            list_remove(&s->link);
            return s;
        }
    }
    return NULL;
}

/* One attempt to prepare; a full disk is remembered, anything else kills the log. */
static void
keeper_prepare(struct wal *wal, uint64_t number, uint64_t ticket)
{
    ash_rc rc = prepare(wal, number);
    bool full = rc == ASH_NO_SPACE || rc == ASH_NO_MEMORY;
    if (rc != ASH_OK && !full) {
        io_poison(wal->options.io, rc);
        wal__fail(wal, rc);
        return;
    }
    wal__lock(&wal->lock);
    bool was_full = atomic_exchange(&wal->no_space, full);
    bool asked = wal->ticket_done < wal->ticket_wanted;
    wal->ticket_done = ticket;
    if (full) {
        wal->ticket_failed = ticket;
        wal->room_rc = rc;
    }
    wal__unlock(&wal->lock);
    uint64_t now = clock_ns();
    bool warn = full && !was_full && rc == ASH_NO_SPACE &&
                (wal->warned_ns == 0 || now - wal->warned_ns >= WAL_WARN_NS);
    if (warn) {
        wal->warned_ns = now;
        log_write(LOG_WARN,
                  "The disk is full: the next log segment of %" PRIu64
                  " bytes cannot be made in %s.",
                  wal->options.segment_bytes, io_dir_path(wal->options.dir));
    }
    if (asked)
        task_wait_wake(&wal->waiters);
    if (was_full && !full)
        task_wait_wake(&wal->writer_q);
}

static void
keeper_recycle(struct wal *wal, struct wal_segment *s)
{
    char name[WAL_NAME_MAX];
    wal__segment_name(name, s->number);
    bool keep = s->size == wal->options.segment_bytes;
    wal__segment_free(s);
    ash_rc rc = recycle(wal, name, keep);
    if (rc != ASH_OK && rc != ASH_NOT_FOUND) {
        io_poison(wal->options.io, rc);
        wal__fail(wal, rc);
    }
}

void
wal__keeper_main(void *arg)
{
    struct wal *wal = arg;
    for (;;) {
        struct task_waiter waiter;
        task_wait_begin(&wal->keeper_q, &waiter, 0);
        bool dead = atomic_load(&wal->failed) != ASH_OK;
        bool stop = atomic_load(&wal->stop_keeper);
        wal__lock(&wal->lock);
        struct wal_segment *doomed = dead ? NULL : take_doomed_locked(wal);
        uint64_t ticket = wal->ticket_wanted, number = wal->next_number;
        /* A spare makes another attempt worth it, but not one that failed for want of memory. */
        bool retry = ticket > wal->ticket_done ||
                     (wal->spare_count > 0 &&
                      !(atomic_load(&wal->no_space) && wal->room_rc == ASH_NO_MEMORY));
        bool need = !dead && !stop && doomed == NULL && wal->next == NULL &&
                    (retry || !atomic_load(&wal->no_space));
        wal__unlock(&wal->lock);
        if (!stop && doomed == NULL && !need)
            task_park();
        task_wait_end(&wal->keeper_q, &waiter);
        if (doomed != NULL)
            keeper_recycle(wal, doomed);
        else if (need)
            keeper_prepare(wal, number, ticket);
        else if (stop)
            return;
    }
}

/* ---- Truncating ---- */

void
wal__segment_unref(struct wal *wal, struct wal_segment *s)
{
    wal__lock(&wal->lock);
    ash_assert(s->refs > 0);
    bool last = --s->refs == 0 && s != wal->current;
    wal__unlock(&wal->lock);
    if (last)
        wal__keeper_kick(wal); /* it may be doomed */
}

ash_rc
wal_truncate(struct wal *wal, uint64_t lsn)
{
    ash_rc rc = wal__check(wal);
    if (rc != ASH_OK)
        return rc;
    unsigned doomed = 0;
    wal__lock(&wal->lock);
    uint64_t durable = atomic_load_explicit(&wal->durable, memory_order_relaxed);
    while (!list_empty(&wal->live) && wal->live.next != wal->live.prev) {
        struct wal_segment *s = list_entry(wal->live.next, struct wal_segment, link);
        struct wal_segment *after = list_entry(s->link.next, struct wal_segment, link);
        if ((after->lsn > lsn && !PLANTED(37)) || after->lsn >= durable)
            break; /* I3 */
        list_remove(&s->link);
        list_push_back(&wal->doomed, &s->link);
        atomic_store(&wal->oldest, after->lsn);
        doomed++;
    }
    wal__unlock(&wal->lock);
    if (doomed > 0)
        wal__keeper_kick(wal);
    return ASH_OK;
}

uint64_t
wal_oldest(const struct wal *wal)
{
    return atomic_load(&wal->oldest);
}

static ash_rc
raise_room(struct wal *wal)
{
    wal__lock(&wal->lock);
    ash_rc why = wal->room_rc;
    wal__unlock(&wal->lock);
    return ash_raise_obj(why, io_dir_path(wal->options.dir),
                         "The log in %s cannot grow by a segment of %" PRIu64
                         " bytes, because %s; free some, then go on.",
                         io_dir_path(wal->options.dir), wal->options.segment_bytes,
                         why == ASH_NO_SPACE ? "the disk is full" : "there is no memory");
}

/* The ticket of an attempt that begins now or is being made; 0 when the last one has just failed:
 * many who are refused in a row do not each try the file system. */
static uint64_t
room_ticket(struct wal *wal)
{
    uint64_t now = clock_ns(), ticket = 0;

    wal__lock(&wal->lock);
    if (wal->ticket_wanted > wal->ticket_done) {
        ticket = wal->ticket_wanted;
    } else if (now - wal->room_asked_ns >= WAL_ROOM_RETRY_NS) {
        wal->room_asked_ns = now;
        ticket = ++wal->ticket_wanted;
    }
    wal__unlock(&wal->lock);
    return ticket;
}

static bool
room_answered(struct wal *wal, uint64_t ticket)
{
    wal__lock(&wal->lock);
    bool answered = wal->ticket_done >= ticket;
    wal__unlock(&wal->lock);
    return answered || !atomic_load(&wal->no_space) || atomic_load(&wal->failed) != ASH_OK;
}

/* The last attempt to make a segment failed.  Space may have come back since: asks once more. */
static ash_rc
ask_room(struct wal *wal)
{
    struct task_waiter waiter;
    uint64_t ticket = room_ticket(wal);

    if (ticket != 0) {
        wal__keeper_kick(wal);
        task_wait_begin(&wal->waiters, &waiter, UINT64_MAX);
        while (!room_answered(wal, ticket))
            task_park();
        task_wait_end(&wal->waiters, &waiter);
    }
    ash_rc rc = wal__check(wal);
    return rc != ASH_OK || !atomic_load(&wal->no_space) ? rc : raise_room(wal);
}

bool
wal_full(const struct wal *wal)
{
    return atomic_load_explicit(&wal->no_space, memory_order_relaxed);
}

ash_rc
wal_room(struct wal *wal)
{
    return ASH_LIKELY(!wal_full(wal)) || PLANTED(323) ? ASH_OK : ask_room(wal);
}

/* Does what is in the buffer, and a record more, fit the segments that are there?  Each block takes
 * its head and whole pages. */
static bool
rest_fits(struct wal *wal, uint64_t bytes)
{
    wal__lock(&wal->lock);
    uint64_t pending =
        atomic_load(&wal->reserved) - atomic_load_explicit(&wal->cut, memory_order_relaxed) + bytes;
    uint64_t rest = wal->current == NULL ? 0 : wal->current->size - wal->position;
    bool next = wal->next != NULL;
    wal__unlock(&wal->lock);
    rest += next ? wal->options.segment_bytes - 4096 : 0;
    return rest >= pending + pending / 8 + (wal->options.writers + 1) * UINT64_C(4096);
}

ash_rc
wal_room_for(struct wal *wal, uint64_t bytes)
{
    if (ASH_LIKELY(!wal_full(wal)) || rest_fits(wal, bytes) || PLANTED(324))
        return ASH_OK;
    return ask_room(wal);
}

uint64_t
wal_segment_of(struct wal *wal, uint64_t lsn)
{
    wal__lock(&wal->lock);
    uint64_t number = 0;
    LIST_FOREACH(it, &wal->live) {
        struct wal_segment *s = list_entry(it, struct wal_segment, link);
        if (s->lsn > lsn && number != 0)
            break;
        number = s->number;
    }
    wal__unlock(&wal->lock);
    return number;
}

void
wal_tell(struct wal *wal, struct wal_position *out)
{
    wal__lock(&wal->lock);
    out->lsn = atomic_load_explicit(&wal->cut, memory_order_relaxed);
    bool full = wal->current == NULL || wal->position == wal->current->size;
    out->segment = !full               ? wal->current->number
                   : wal->next != NULL ? wal->next->number
                                       : wal->next_number;
    wal__unlock(&wal->lock);
}

void
wal_stats(const struct wal *wal, struct wal_stats *out)
{
    struct wal *w = (struct wal *)(uintptr_t)wal;
    wal__lock(&w->lock);
    *out = w->stats;
    wal__unlock(&w->lock);
    out->bytes = atomic_load(&w->reserved) - w->first;
    out->flush_waits = counter_sum(&w->flush_waits);
    out->reads_buffer = counter_sum(&w->reads_buffer);
    out->reads_disk = counter_sum(&w->reads_disk);
}

/* ---- Opening ---- */

struct found {
    struct wal *wal;
    uint64_t first, next;
    char names[64][WAL_NAME_MAX];
    unsigned count;
};

/* Collects the files that no live segment is: former lives' leftovers, and segments below the
 * oldest live one. */
static bool
find_leftover(void *arg, const char *name)
{
    struct found *f = arg;
    uint64_t number;
    uint32_t spare;
    if (spare_parse(name, &spare)) {
        struct wal *wal = f->wal;
        wal->spare_next = spare >= wal->spare_next ? spare + 1 : wal->spare_next;
        if (wal->spare_count < WAL_SPARES_MAX) {
            wal->spares[wal->spare_count++] = spare;
            return true;
        }
    } else if (!wal__segment_parse(name, &number) || (number >= f->first && number < f->next)) {
        return true;
    }
    snprintf(f->names[f->count++], WAL_NAME_MAX, "%s", name);
    return f->count < ASH_ARRAY_SIZE(f->names);
}

ash_rc
wal__segments_adopt(struct wal *wal, uint64_t next_number)
{
    struct found *f = mem_alloc(MEM_WAL, sizeof(*f));
    if (f == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc;
    bool any = false;
    do {
        f->wal = wal;
        f->next = next_number;
        f->first = list_empty(&wal->live)
                       ? next_number
                       : list_entry(wal->live.next, struct wal_segment, link)->number;
        f->count = 0;
        wal->spare_count = 0;
        rc = io_dir_list(wal->options.dir, find_leftover, f);
        for (unsigned i = 0; rc == ASH_OK && i < f->count; i++) {
            uint32_t spare;
            rc = recycle(wal, f->names[i], /* keep= */ !spare_parse(f->names[i], &spare));
            any = true;
        }
    } while (rc == ASH_OK && f->count == ASH_ARRAY_SIZE(f->names));
    mem_free(MEM_WAL, f);
    wal->spares_dirty = wal->spare_count > 0; /* by a life that was closed without a sync */
    if (rc == ASH_OK && any)
        rc = sync_names(wal); /* the old names are gone before they are given again */
    return rc;
}

static ash_rc
check_options(const struct wal_options *o, const struct wal_position *at)
{
    if (!is_pow2(o->buffer_bytes) || o->buffer_bytes < 4 * WAL_RECORD_MAX)
        return ash_raise(ASH_INVALID,
                         "A log buffer of %" PRIu64
                         " bytes is not possible; it must be a power of two and at least %u.",
                         o->buffer_bytes, 4 * WAL_RECORD_MAX);
    if (o->segment_bytes % 4096 != 0 || o->segment_bytes < (64u << 10) ||
        o->segment_bytes > (UINT64_C(1) << 40))
        return ash_raise(
            ASH_INVALID,
            "Log segments of %" PRIu64
            " bytes are not possible; their size must be a multiple of 4096 from 64 KiB to 1 TiB.",
            o->segment_bytes);
    if (o->writers < 1 || o->writers > WAL_WRITERS_MAX)
        return ash_raise(ASH_INVALID, "%u log writers are not possible; use 1 to %u.", o->writers,
                         WAL_WRITERS_MAX);
    if (at->lsn % WAL_RECORD_ALIGN != 0 || at->lsn < WAL_LSN_FIRST || at->segment == 0)
        return ash_raise(ASH_INVALID,
                         "A log cannot start at position %" PRIu64 " in segment %" PRIu64 ".",
                         at->lsn, at->segment);
    return ASH_OK;
}

/* Memory of the ring, its links and the write buffers. */
static ash_rc
allocate(struct wal *wal)
{
    const struct wal_options *o = &wal->options;
    uint32_t block = (uint32_t)min_u64(WAL_BLOCK_MAX, round_down(o->segment_bytes / 2, 4096));
    wal->block_payload_max = (uint32_t)round_down(block - WAL_BLOCK_HEAD, WAL_RECORD_ALIGN);
    wal->buffer_bytes = (size_t)o->writers * (4096 + block);
    wal->ring = mem_aligned(MEM_WAL, 4096, o->buffer_bytes);
    wal->links = mem_zalloc(MEM_WAL, o->buffer_bytes / WAL_RECORD_ALIGN * sizeof(*wal->links));
    wal->buffers = mem_aligned(MEM_WAL, 4096, wal->buffer_bytes);
    if (wal->ring == NULL || wal->links == NULL || wal->buffers == NULL)
        return ASH_NO_MEMORY;
    for (unsigned i = 0; i < o->writers; i++)
        wal->flight[i].buffer = wal->buffers + (size_t)i * (4096 + block);
    io_register_buffer(o->io, wal->buffers, wal->buffer_bytes);
    return ASH_OK;
}

static void
destroy(struct wal *wal)
{
    for (unsigned i = 0; i < WAL_CACHE_BLOCKS; i++)
        mem_free(MEM_WAL, wal->cache[i].block);
    segment_list_free(&wal->live);
    segment_list_free(&wal->doomed);
    wal__segment_free(wal->next);
    if (wal->buffers != NULL)
        io_unregister_buffer(wal->options.io, wal->buffers);
    mem_free(MEM_WAL, wal->buffers);
    mem_free(MEM_WAL, (void *)(uintptr_t)wal->links);
    mem_free(MEM_WAL, wal->ring);
    mem_free(MEM_WAL, wal);
}

static void
stop_tasks(struct wal *wal)
{
    if (wal->writer != NULL) {
        atomic_store(&wal->stop_writer, true);
        task_wait_wake(&wal->writer_q);
        task_join(wal->writer);
    }
    if (wal->keeper != NULL) {
        atomic_store(&wal->stop_keeper, true);
        task_wait_wake(&wal->keeper_q);
        task_join(wal->keeper);
    }
}

static void
set_up(struct wal *wal, const struct wal_options *options, const struct wal_position *at)
{
    memset(wal, 0, sizeof(*wal));
    wal->options = *options;
    wal->capacity = options->buffer_bytes;
    wal->mask = wal->capacity - 1;
    wal->link_mask = wal->capacity / WAL_RECORD_ALIGN - 1;
    wal->first = wal->ready = at->lsn;
    atomic_init(&wal->reserved, at->lsn);
    atomic_init(&wal->durable, at->lsn);
    atomic_init(&wal->cut, at->lsn);
    atomic_init(&wal->oldest, at->lsn);
    wal->next_number = at->segment;
    list_init(&wal->live);
    list_init(&wal->doomed);
    task_waitq_init(&wal->waiters);
    task_waitq_init(&wal->keeper_q);
    task_waitq_init(&wal->writer_q);
}

/* Takes over the segments that a reader found. */
static void
take_live(struct wal *wal, struct wal_segments *live)
{
    if (live == NULL)
        return;
    LIST_FOREACH_SAFE(it, tmp, &live->list) {
        list_remove(it);
        list_push_back(&wal->live, it);
        wal->stats.segments++;
    }
    mem_free(MEM_WAL, live);
    if (!list_empty(&wal->live))
        atomic_store(&wal->oldest, list_entry(wal->live.next, struct wal_segment, link)->lsn);
}

ash_rc
wal_open(const struct wal_options *options, const struct wal_position *at,
         struct wal_segments *live, struct wal **out)
{
    struct wal *wal = NULL;
    ash_rc rc = check_options(options, at);
    if (rc == ASH_OK && (wal = mem_aligned(MEM_WAL, ASH_CACHE_LINE, sizeof(*wal))) == NULL)
        rc = ASH_NO_MEMORY;
    if (rc != ASH_OK) {
        wal_segments_free(live);
        return rc;
    }
    set_up(wal, options, at);
    take_live(wal, live);
    struct wal_segment *newest = newest_locked(wal);
    rc = newest == NULL || newest->number < at->segment
             ? allocate(wal)
             : ash_raise(ASH_INVALID, "Log segment %" PRIu64 " is not a fresh one.", at->segment);
    if (rc == ASH_OK && options->read_only) {
        atomic_store(&wal->failed, ASH_READ_ONLY); /* what an append will be told */
        *out = wal;
        return ASH_OK;
    }
    if (rc == ASH_OK)
        rc = wal__segments_adopt(wal, at->segment);
    if (rc == ASH_OK)
        rc = task_spawn(options->rt, "wal-keeper", wal__keeper_main, wal, &wal->keeper);
    if (rc == ASH_OK)
        rc = task_spawn(options->rt, "wal-writer", wal__writer_main, wal, &wal->writer);
    if (rc != ASH_OK) {
        struct err_detail why;
        err_save(&why);
        stop_tasks(wal);
        destroy(wal);
        err_restore(&why);
        return rc;
    }
    *out = wal;
    return ASH_OK;
}

ash_rc
wal_close(struct wal *wal)
{
    if (wal == NULL)
        return ASH_OK;
    ash_rc rc = wal->options.read_only ? ASH_OK : wal__check(wal);
    if (rc == ASH_OK)
        rc = wal_flush_to(wal, atomic_load(&wal->reserved));
    struct err_detail why;
    err_save(&why);
    stop_tasks(wal);
    destroy(wal);
    if (rc != ASH_OK)
        err_restore(&why);
    return rc;
}

static bool
is_log_file(const char *name)
{
    uint64_t number;
    uint32_t spare;

    return wal__segment_parse(name, &number) || spare_parse(name, &spare);
}

static bool
look_for_log_file(void *arg, const char *name)
{
    bool *found = arg;

    *found = is_log_file(name);
    return !*found;
}

ash_rc
wal_look(struct io_dir *dir, bool *exists_out)
{
    bool found = false;
    ash_rc rc = io_dir_list(dir, look_for_log_file, &found);

    if (rc == ASH_OK)
        *exists_out = found;
    return rc;
}

struct remove_files {
    unsigned count;
    char names[32][WAL_NAME_MAX]; /* a round; more files: another round */
};

static bool
find_log_file(void *arg, const char *name)
{
    struct remove_files *f = arg;

    if (is_log_file(name))
        snprintf(f->names[f->count++], WAL_NAME_MAX, "%s", name);
    return f->count < ASH_ARRAY_SIZE(f->names);
}

ash_rc
wal_remove_all(struct io *io, struct io_dir *dir)
{
    struct remove_files *f = mem_zalloc(MEM_WAL, sizeof(*f));
    bool any = false;
    ash_rc rc = ASH_OK;

    (void)io;
    if (f == NULL)
        return ASH_NO_MEMORY;
    do {
        f->count = 0;
        rc = io_dir_list(dir, find_log_file, f);
        for (unsigned i = 0; i < f->count && rc == ASH_OK; i++)
            rc = io_dir_unlink(dir, f->names[i]);
        any |= f->count != 0;
    } while (rc == ASH_OK && f->count != 0);
    mem_free(MEM_WAL, f);
    return rc == ASH_OK && any ? io_dir_sync(dir) : rc;
}
