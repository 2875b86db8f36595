/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_recover.c - restart: reads the checkpoint, analyses the log behind it, repeats history on
 * the pages.
 *
 * Entry point: recover_run().     Read first: wal_recover.h, wal_checkpoint.c,
 * storage/README-pstore.md.
 *
 * Analysis brings the location map up to date and builds the dirty-page table: for each page the
 * LSN from which its changes may be missing on disk.  An entry changes with
 *     checkpoint    page, rec_lsn as listed
 *     a change      at or above begin_lsn: entered with the record's start, unless it is there
 *     PAGE_INIT     raised to the record's start: nothing before matters
 *     MAP           raised to the LSN of the image that was written
 *     PAGE_FREE     above rec_lsn: nothing to redo, until an INIT
 * so redo skips the changes of a page's former lives (whose place may be overwritten) and those
 * that its image has.
 *
 * The map: MAP and FREE records at or above map_lsn move and free pages, in log order.  Below
 * map_lsn the map pages are newer than the records: those only say which ids without a place are
 * in use (INIT, FREE).
 *
 * Page writes during redo: the log is not open yet, so no MAP record can say where a page went.
 * The pool's writers run with log ops that log nothing: a page goes to a new place, the map in
 * memory points there, and the old place waits for the commit of the next checkpoint
 * (PSTORE_LSN_CHECKPOINT), which writes that map.  A crash before then finds the old places as
 * they were and redoes again.  See docs/decisions.
 *
 * What was read must not disappear again: the log's tail may sit in the device's volatile cache
 * after a process crash.  So the segments are flushed before any space that they declare dead is
 * reused.
 */
#include "wal/wal_recover.h"

#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/random.h"
#include "storage/pstore_format.h"
#include "wal/wal_checkpoint_format.h"

#include <inttypes.h>
#include <stdio.h>

#define PREFETCH_PAGES       64u        /* loaded together ahead of redo */
#define PREFETCH_LOG         (1u << 20) /* log looked through for them at most */
#define SEGMENTS_FLUSHED_MAX 1024u

/* ---- Dirty-page table ---- */

#define NOTHING_TO_REDO UINT64_MAX

struct page_table { /* open addressing; page 0: empty */
    struct checkpoint_dirty *slot;
    uint64_t capacity, count;
};

static struct checkpoint_dirty *
table_find(const struct page_table *t, uint64_t page)
{
    if (t->capacity == 0)
        return NULL;
    for (uint64_t i = hash_u64(page);; i++) {
        struct checkpoint_dirty *s = &t->slot[i & (t->capacity - 1)];
        if (s->page == page)
            return s;
        if (s->page == 0)
            return NULL;
    }
}

static void
table_insert(struct page_table *t, const struct checkpoint_dirty *d)
{
    uint64_t i = hash_u64(d->page);
    while (t->slot[i & (t->capacity - 1)].page != 0)
        i++;
    t->slot[i & (t->capacity - 1)] = *d;
    t->count++;
}

static ash_rc
table_grow(struct page_table *t)
{
    struct page_table grown = { .capacity = max_u64(64, t->capacity * 2) };
    grown.slot = mem_zalloc(MEM_WAL, grown.capacity * sizeof(*grown.slot));
    if (grown.slot == NULL)
        return ASH_NO_MEMORY;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (t->slot[i].page != 0)
            table_insert(&grown, &t->slot[i]);
    mem_free(MEM_WAL, t->slot);
    *t = grown;
    return ASH_OK;
}

/* The entry of a page, made with `rec_lsn` when it is not there. */
static ash_rc
table_get(struct page_table *t, uint64_t page, uint64_t rec_lsn, struct checkpoint_dirty **out)
{
    struct checkpoint_dirty *s = table_find(t, page);
    if (s == NULL) {
        if (t->count * 4 >= t->capacity * 3) {
            ash_rc rc = table_grow(t);
            if (rc != ASH_OK)
                return rc;
        }
        struct checkpoint_dirty d = { page, rec_lsn };
        table_insert(t, &d);
        s = table_find(t, page);
    }
    *out = s;
    return ASH_OK;
}

static uint64_t
table_oldest(const struct page_table *t)
{
    uint64_t oldest = NOTHING_TO_REDO;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (t->slot[i].page != 0)
            oldest = min_u64(oldest, t->slot[i].rec_lsn);
    return oldest;
}

/* Does this page lack the changes of a record that starts there? */
static bool
table_needs(const struct page_table *t, uint64_t page, uint64_t start)
{
    const struct checkpoint_dirty *s = table_find(t, page);
    return s != NULL && s->rec_lsn != NOTHING_TO_REDO && start >= s->rec_lsn;
}

/* ---- The run ---- */

struct recovery {
    const struct recover_options *o;
    struct recover_result *result;
    struct pstore_checkpoint_info info;
    struct page_table dirty;
    uint64_t begin_lsn;      /* changes from here on are entered into the table */
    uint64_t checkpoint_end; /* of its last record */
    bool beyond;             /* something follows the checkpoint in the log */
};

static ash_rc
reader_open(const struct recovery *r, uint64_t lsn, uint64_t segment, struct wal_reader **out)
{
    struct wal_position from = { .lsn = lsn, .segment = segment };
    return wal_reader_open(r->o->io, r->o->dir, pstore_uuid(r->o->pstore), &from, out);
}

/* Adds the place in the log to a failure that happened while a record was looked at. */
static ash_rc
at_record(const struct wal_reader *reader, const struct wal_record *rec, ash_rc rc)
{
    const char *file;
    uint64_t offset;
    struct err_detail why;

    if (rc != ASH_CORRUPT)
        return rc;
    err_save(&why);
    wal_reader_where(reader, &file, &offset);
    return ash_raise_obj(rc, file, "%s, block at offset %" PRIu64 ", record at LSN %" PRIu64 ": %s",
                         file, offset, rec->start, why.message);
}

/* ---- The checkpoint ---- */

static ash_rc
checkpoint_bad(const struct recovery *r, const char *what)
{
    return ash_raise(ASH_CORRUPT,
                     "The checkpoint at LSN %" PRIu64
                     ", which the superblock names, %s; restore from a backup.",
                     r->info.checkpoint_lsn, what);
}

/* Takes one part.  *next: the part to come. */
static ash_rc
checkpoint_take(struct recovery *r, const struct wal_record *rec, struct checkpoint_part *first,
                uint32_t *next, struct wal_blob *blob)
{
    struct checkpoint_part part;
    uint32_t size = rec->head->size - (uint32_t)sizeof(*rec->head);

    if (size < sizeof(part))
        return checkpoint_bad(r, "has a record that is too short");
    memcpy(&part, rec->head + 1, sizeof(part));
    if (*next == 0)
        *first = part;
    else if (part.number != first->number)
        return ASH_OK; /* of another checkpoint, given up */
    if (part.part != *next || part.parts != first->parts || part.part >= part.parts)
        return checkpoint_bad(r, "has parts out of order");
    ++*next;
    r->checkpoint_end = rec->end;
    return wal_blob_add(blob, (const uint8_t *)(rec->head + 1) + sizeof(part), size - sizeof(part));
}

static ash_rc
checkpoint_read(struct recovery *r, struct wal_blob *blob)
{
    struct checkpoint_part first = { 0 };
    struct wal_reader *reader;
    struct wal_record rec;
    uint32_t next = 0;

    ash_rc rc = reader_open(r, r->info.checkpoint_lsn, r->info.checkpoint_segment, &reader);
    if (rc != ASH_OK)
        return rc;
    do {
        rc = wal_reader_next(reader, &rec);
        if (rc == ASH_NOT_FOUND)
            rc = checkpoint_bad(r, "is not in the log, or not all of it");
        else if (rc == ASH_OK && next == 0 && rec.head->type != WAL_REC_CHECKPOINT)
            rc = checkpoint_bad(r, "is not there");
        else if (rc == ASH_OK && rec.head->type == WAL_REC_CHECKPOINT)
            rc = at_record(reader, &rec, checkpoint_take(r, &rec, &first, &next, blob));
    } while (rc == ASH_OK && next < first.parts);
    wal_reader_close(reader);
    return rc;
}

/* Hands `bytes` of a section to the participant that wrote it. */
static ash_rc
section_restore(const struct recovery *r, uint32_t id, const uint8_t *data, size_t bytes)
{
    for (unsigned i = 0; i < r->o->participant_count; i++)
        if (r->o->participants[i].id == id)
            return r->o->participants[i].restore(r->o->participants[i].ctx, data, bytes);
    return ash_raise(ASH_VERSION_MISMATCH,
                     "The checkpoint holds state of a part %" PRIu32
                     " that this library does not have; use a newer one.",
                     id);
}

ash_rc
recover_checkpoint_check(const void *bytes, size_t size)
{
    const uint8_t *data = bytes;
    struct checkpoint_head head;
    struct checkpoint_section section;
    size_t at = sizeof(head);

    if (size < sizeof(head))
        return ash_raise(ASH_CORRUPT, "A checkpoint of %zu bytes is too short.", size);
    memcpy(&head, data, sizeof(head));
    if (head.version != CHECKPOINT_VERSION)
        return ash_raise(head.version > CHECKPOINT_VERSION ? ASH_VERSION_MISMATCH : ASH_CORRUPT,
                         "The checkpoint has version %" PRIu32
                         ", but this library knows %u; use a newer Ashlar.",
                         head.version, CHECKPOINT_VERSION);
    if (head.dirty_count > (size - at) / sizeof(struct checkpoint_dirty))
        return ash_raise(ASH_CORRUPT, "A checkpoint of %zu bytes lists %" PRIu64 " dirty pages.",
                         size, head.dirty_count);
    at += head.dirty_count * sizeof(struct checkpoint_dirty);
    for (uint32_t i = 0; i < head.participants; i++) {
        if (size - at < sizeof(section))
            return ash_raise(ASH_CORRUPT,
                             "A checkpoint of %zu bytes ends before its part %" PRIu32 ".", size,
                             i);
        memcpy(&section, data + at, sizeof(section));
        at += sizeof(section);
        if (section.bytes > size - at || round_up(section.bytes, 8) > size - at)
            return ash_raise(ASH_CORRUPT, "A checkpoint of %zu bytes ends in its part %" PRIu32 ".",
                             size, i);
        at += round_up(section.bytes, 8);
    }
    return at == size ? ASH_OK
                      : ash_raise(ASH_CORRUPT, "A checkpoint has %zu bytes too many.", size - at);
}

/* What recover_checkpoint_check() has accepted. */
static ash_rc
checkpoint_parse(struct recovery *r, const struct wal_blob *blob)
{
    struct checkpoint_head head;
    struct checkpoint_section section;
    size_t at = sizeof(head);

    ash_rc rc = recover_checkpoint_check(blob->data, blob->size);
    if (rc != ASH_OK)
        return rc;
    memcpy(&head, blob->data, sizeof(head));
    if (head.map_lsn != r->info.map_lsn)
        return checkpoint_bad(r, "belongs to another map");
    r->begin_lsn = head.begin_lsn;
    for (uint64_t i = 0; i < head.dirty_count && rc == ASH_OK;
         i++, at += sizeof(struct checkpoint_dirty)) {
        struct checkpoint_dirty d, *s;
        memcpy(&d, blob->data + at, sizeof(d));
        rc = pstore_replay_check(r->o->pstore, d.page, (struct map_entry){ 0 });
        if (rc == ASH_OK)
            rc = table_get(&r->dirty, d.page, d.rec_lsn, &s);
        if (rc ==
            ASH_OK) /* a page may be listed twice: in its frame, and in a batch being written */
            s->rec_lsn = min_u64(s->rec_lsn, d.rec_lsn);
    }
    for (uint32_t i = 0; i < head.participants && rc == ASH_OK; i++) {
        memcpy(&section, blob->data + at, sizeof(section));
        at += sizeof(section);
        rc = section_restore(r, section.id, blob->data + at, section.bytes);
        at += round_up(section.bytes, 8);
    }
    return rc;
}

static ash_rc
checkpoint_load(struct recovery *r)
{
    struct wal_blob blob = { 0 };
    if (r->info.checkpoint_lsn == 0)
        return ASH_OK; /* none yet: the log from its beginning is everything */
    ash_rc rc = checkpoint_read(r, &blob);
    if (rc == ASH_OK)
        rc = checkpoint_parse(r, &blob);
    wal_blob_free(&blob);
    return rc;
}

/* ---- Analysis ---- */

static ash_rc
analyse_map(struct recovery *r, const struct wal_record *rec)
{
    struct pstore *ps = r->o->pstore;
    const void *body = rec->head + 1;
    unsigned count;

    ash_rc rc =
        pstore_map_record_check(body, rec->head->size - (uint32_t)sizeof(*rec->head), &count);
    for (unsigned i = 0; i < count && rc == ASH_OK; i++) {
        const struct map_move *m = pstore_map_record_move(body, i);
        struct checkpoint_dirty *d = table_find(&r->dirty, m->page);
        rc = pstore_replay_check(ps, m->page, (struct map_entry){ m->entry });
        if (rc != ASH_OK)
            return rc;
        if (rec->start >= r->info.map_lsn || PLANTED(62))
            pstore_install(ps, m->page, (struct map_entry){ m->entry }, rec->end);
        if (d != NULL && d->rec_lsn != NOTHING_TO_REDO && !PLANTED(63))
            d->rec_lsn = max_u64(d->rec_lsn, m->lsn);
    }
    return rc;
}

static ash_rc
analyse_change(struct recovery *r, const struct wal_record *rec, const struct wal_change_head *c)
{
    struct pstore *ps = r->o->pstore;
    bool moved = rec->start >= r->info.map_lsn, since = rec->start >= r->begin_lsn;
    struct checkpoint_dirty *d = table_find(&r->dirty, c->page);

    ash_rc rc = pstore_replay_check(ps, c->page, (struct map_entry){ 0 });
    if (rc != ASH_OK)
        return rc;
    if (c->op == WAL_OP_PAGE_FREE) {
        if (moved)
            pstore_page_free(ps, c->page, rec->end);
        else
            pstore_page_unmark(ps, c->page);
        if (d != NULL && d->rec_lsn <= rec->start && !PLANTED(61))
            d->rec_lsn = NOTHING_TO_REDO;
        return ASH_OK;
    }
    if (c->op == WAL_OP_PAGE_INIT)
        pstore_page_mark(ps, c->page);
    if (since && d == NULL)
        return table_get(&r->dirty, c->page, rec->start, &d);
    /* Also when the checkpoint listed only a former life (a batch that was still being
     * confirmed): its entry went with the FREE, and redoing all of the new life is right. */
    if (c->op == WAL_OP_PAGE_INIT && d != NULL)
        d->rec_lsn = d->rec_lsn == NOTHING_TO_REDO ? rec->start : max_u64(d->rec_lsn, rec->start);
    return ASH_OK;
}

static ash_rc
analyse_record(struct recovery *r, const struct wal_record *rec)
{
    struct wal_change change;
    uint32_t pos = 0;
    ash_rc rc = ASH_OK;

    r->result->records_scanned++;
    r->beyond |= rec->start >= r->checkpoint_end;
    if (rec->head->type == WAL_REC_MAP)
        rc = analyse_map(r, rec);
    while (rc == ASH_OK && wal_record_change(rec, &pos, &change))
        rc = analyse_change(r, rec, change.head);
    for (unsigned i = 0; i < r->o->participant_count && rc == ASH_OK; i++)
        if (r->o->participants[i].analyse != NULL)
            rc = r->o->participants[i].analyse(r->o->participants[i].ctx, rec);
    return rc;
}

static ash_rc
analyse(struct recovery *r)
{
    struct wal_reader *reader;
    struct wal_record rec;
    uint64_t scan = max_u64(r->info.scan_lsn, WAL_LSN_FIRST);

    ash_rc rc = reader_open(r, scan, r->info.scan_segment, &reader);
    if (rc != ASH_OK)
        return rc;
    wal_reader_require(reader, r->checkpoint_end);
    while ((rc = wal_reader_next(reader, &rec)) == ASH_OK) {
        rc = at_record(reader, &rec, analyse_record(r, &rec));
        if (rc != ASH_OK)
            break;
    }
    if (rc == ASH_NOT_FOUND) {
        wal_reader_end(reader, &r->result->next, &r->result->epoch, &r->result->live);
        r->result->epoch = (uint32_t)max_u64(r->result->epoch, r->info.epoch);
        rc = ASH_OK;
    }
    wal_reader_close(reader);
    return rc;
}

/* ---- Making durable what was read ---- */

struct names {
    char name[SEGMENTS_FLUSHED_MAX][32];
    unsigned count;
};

static bool
names_add(void *arg, const char *name)
{
    struct names *n = arg;
    if (strncmp(name, "wal-", 4) == 0 && strlen(name) < sizeof(n->name[0])) {
        /* In name order: with more than fit, the newest stay. */
        snprintf(n->name[n->count % SEGMENTS_FLUSHED_MAX], sizeof(n->name[0]), "%s", name);
        n->count++;
    }
    return true;
}

static ash_rc
segments_flush(const struct recovery *r)
{
    struct names *n = mem_alloc(MEM_WAL, sizeof(*n));
    if (n == NULL)
        return ASH_NO_MEMORY;
    n->count = 0;
    ash_rc rc = io_dir_list(r->o->dir, names_add, n);
    for (unsigned i = 0; i < min_u64(n->count, SEGMENTS_FLUSHED_MAX) && rc == ASH_OK; i++) {
        struct io_file *f;
        rc = io_file_open(r->o->dir, n->name[i], 0, &f);
        if (rc != ASH_OK)
            break;
        if (io_file_device_class(f) != IO_DEVICE_WRITE_THROUGH)
            rc = io_flush(f, IO_CLASS_WAL);
        io_file_close(f);
    }
    mem_free(MEM_WAL, n);
    return rc;
}

/* ---- Page writes during redo ---- */

static ash_rc
redo_flush_to(void *ctx, uint64_t lsn)
{
    (void)ctx;
    (void)lsn;
    return ASH_OK; /* every record that redo applies was read from disk */
}

static uint64_t
redo_durable(void *ctx)
{
    (void)ctx;
    return UINT64_MAX;
}

static uint64_t
redo_reserved(void *ctx)
{
    const struct recovery *r = ctx;
    return r->result->next.lsn;
}

static ash_rc
redo_append_map(void *ctx, const struct pstore_write *writes, unsigned count, uint64_t *end_out)
{
    (void)ctx;
    (void)writes;
    (void)count;
    *end_out = PSTORE_LSN_CHECKPOINT;
    return ASH_OK;
}

/* ---- Redo ---- */

/* Was this change's page handled with an earlier change of the record? */
static bool
seen_before(const struct wal_record *rec, uint32_t end, uint64_t page)
{
    struct wal_change c;
    uint32_t pos = 0;
    while (pos < end && wal_record_change(rec, &pos, &c) && pos < end)
        if (c.head->page == page)
            return true;
    return false;
}

static ash_rc
redo_latch(struct recovery *r, const struct wal_change *c, struct buf_page *p)
{
    const struct wal_change_head *h = c->head;
    if (h->op != WAL_OP_PAGE_INIT)
        return buf_latch_x(r->o->pool, h->page, p);
    if (r->o->read_only)
        return ash_raise(
            ASH_READ_ONLY,
            "Page %" PRIu64
            " would have to be created by recovery; open the database for writing once.",
            h->page);
    if (h->size != 1)
        return ash_raise(ASH_CORRUPT,
                         "PAGE_INIT of page %" PRIu64 " has %" PRIu32
                         " bytes of payload instead of 1.",
                         h->page, h->size);
    return buf_redo_init(r->o->pool, h->page, h->page_class, h->tree, c->payload[0], p);
}

/* Applies all changes of a record to one page, of which *change is the first; pos: behind it. */
static ash_rc
redo_page(struct recovery *r, const struct wal_record *rec, struct wal_change change, uint32_t pos)
{
    uint64_t page = change.head->page;
    struct buf_page p;
    ash_rc rc = redo_latch(r, &change, &p);
    if (rc != ASH_OK)
        return rc;
    struct page_head *head = (struct page_head *)(void *)p.data;
    if (head->lsn >= rec->end && !PLANTED(63))
        goto out_unlatch;
    if (r->o->read_only) {
        rc = ash_raise(
            ASH_READ_ONLY,
            "Page %" PRIu64
            " lacks changes that recovery would have to make; open the database for writing once.",
            page);
        goto out_unlatch;
    }
    buf_mark_dirty(r->o->pool, &p, rec->start);
    do {
        if (change.head->page != page)
            continue;
        rc = wal_redo_apply(p.data, p.size, &change, rec->start);
        r->result->changes_redone++;
    } while (rc == ASH_OK && wal_record_change(rec, &pos, &change));
    head->lsn = rec->end;
    if (rc != ASH_OK)
        buf_mark_broken(r->o->pool, &p); /* half changed: it must not reach the disk */
out_unlatch:
    buf_unlatch_x(r->o->pool, &p);
    return rc;
}

static ash_rc
redo_record(struct recovery *r, const struct wal_record *rec)
{
    struct wal_change change;
    uint32_t pos = 0;

    for (;;) {
        uint32_t before = pos;
        if (!wal_record_change(rec, &pos, &change))
            return ASH_OK;
        if (change.head->op == WAL_OP_PAGE_FREE ||
            !table_needs(&r->dirty, change.head->page, rec->start))
            continue;
        if (before > 0 && seen_before(rec, pos, change.head->page))
            continue;
        ash_rc rc = redo_page(r, rec, change, pos);
        if (rc != ASH_OK)
            return rc;
    }
}

/* Loads what the coming records need, together.  Runs ahead of redo on a reader of its own;
 * *until_out: how far it looked. */
static ash_rc
redo_scout(struct recovery *r, struct wal_reader *scout, uint64_t *until_out)
{
    uint64_t page[PREFETCH_PAGES], begin = 0;
    struct wal_record rec;
    struct wal_change c;
    struct map_entry e;
    uint8_t class;
    unsigned n = 0;
    ash_rc rc;

    while ((rc = wal_reader_next(scout, &rec)) == ASH_OK) {
        uint32_t pos = 0;
        begin = begin == 0 ? rec.start : begin;
        while (n < PREFETCH_PAGES && wal_record_change(&rec, &pos, &c)) {
            bool known = n > 0 && page[n - 1] == c.head->page;
            if (!known && table_needs(&r->dirty, c.head->page, rec.start) &&
                pstore_locate(r->o->pstore, c.head->page, &e, &class))
                page[n++] = c.head->page;
        }
        *until_out = rec.end;
        if (n == PREFETCH_PAGES || rec.end - begin >= PREFETCH_LOG)
            break;
    }
    if (n > 0)
        buf_prefetch(r->o->pool, page, n, IO_CLASS_READ);
    if (rc == ASH_NOT_FOUND) {
        *until_out = UINT64_MAX;
        rc = ASH_OK;
    }
    return rc;
}

static ash_rc
redo_from(struct recovery *r, uint64_t lsn)
{
    struct wal_reader *reader = NULL, *scout = NULL;
    struct wal_record rec;
    uint64_t until = 0;

    ash_rc rc = reader_open(r, lsn, 0, &reader);
    if (rc == ASH_OK)
        rc = reader_open(r, lsn, 0, &scout);
    while (rc == ASH_OK && (rc = wal_reader_next(reader, &rec)) == ASH_OK) {
        if (rec.start >= until)
            rc = redo_scout(r, scout, &until);
        if (rc == ASH_OK)
            rc = at_record(reader, &rec, redo_record(r, &rec));
    }
    wal_reader_close(scout);
    wal_reader_close(reader);
    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

static ash_rc
redo(struct recovery *r)
{
    struct buf_log_ops ops = { .ctx = r,
                               .flush_to = redo_flush_to,
                               .durable = redo_durable,
                               .reserved = redo_reserved,
                               .append_map = redo_append_map };
    uint64_t oldest = table_oldest(&r->dirty);

    if (oldest == NOTHING_TO_REDO)
        return ASH_OK;
    ash_rc rc = r->o->read_only ? ASH_OK : buf_start(r->o->pool, &ops);
    if (rc != ASH_OK)
        return rc;
    rc = redo_from(r, max_u64(oldest, max_u64(r->info.scan_lsn, WAL_LSN_FIRST)));
    if (!r->o->read_only)
        buf_stop(r->o->pool);
    return rc;
}

/* ---- All of it ---- */

ash_rc
recover_run(const struct recover_options *options, struct recover_result *result_out)
{
    struct recovery r = { .o = options, .result = result_out };

    *result_out = (struct recover_result){ 0 };
    pstore_info(options->pstore, &r.info);
    result_out->checkpoint_lsn = r.info.checkpoint_lsn;
    ash_rc rc = checkpoint_load(&r);
    if (rc == ASH_OK)
        rc = analyse(&r);
    if (rc == ASH_OK && !options->read_only)
        rc = segments_flush(&r);
    if (rc == ASH_OK)
        rc = pstore_recovered(options->pstore);
    if (rc == ASH_OK)
        rc = redo(&r);
    result_out->clean = r.info.clean && !r.beyond;
    mem_free(MEM_WAL, r.dirty.slot);
    if (rc != ASH_OK) {
        struct err_detail why;
        err_save(&why);
        wal_segments_free(result_out->live);
        result_out->live = NULL;
        err_restore(&why);
    }
    return rc;
}
