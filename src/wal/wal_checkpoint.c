/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_checkpoint.c - fuzzy checkpoints: bound the work of a restart and the length of the log, and
 * stop nobody.
 *
 * Entry points: checkpoint_start(), checkpoint_now(), checkpoint_final().
 * Read first: wal_recover.h, storage/README-pstore.md.
 *
 * Order of a checkpoint, and why:
 *   1. old dirty pages are written                       so that redo need not begin far back
 *   2. map_lsn, under the map lock; map pages written    they hold every move below map_lsn
 *   3. begin_lsn, then the dirty-page table              buf_mark_dirty() comes before an append:
 *                                  a change that the table lacks begins at or above begin_lsn
 *   4. participants' state
 *   5. CHECKPOINT records, made durable                  and with them every MAP record that the
 *                                  map pages anticipate
 *   6. superblock                                        from now on this is the checkpoint
 *   7. the log is cut, dead map pages are reused         the superblock before needed them
 * A failure before 6 leaves the checkpoint before in force.
 *
 * Locks: checkpointer.mutex: one checkpoint at a time, its outcome, the task's wishes.  Parks
 * while holding it.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/pstore_format.h"
#include "wal/wal_checkpoint_format.h"
#include "wal/wal_recover.h"

#define TICK_NS \
    20000000ull /* how often the task looks at the log's length and paces page writers */
#define INTERVAL_MS_DEFAULT 60000u
#define MAP_MOVES_LOCAL     64u
#define FULL_GROWN_MIN      8192u /* bytes of log since the last checkpoint: worth one on a full disk */

enum checkpoint_kind {
    CHECKPOINT_PACED,
    CHECKPOINT_FULL,
    CHECKPOINT_CLEAN
};

struct checkpointer {
    struct checkpoint_options options;
    struct recover_participant participants[RECOVER_PARTICIPANTS_MAX];
    struct task_mutex mutex;
    struct task_cond cond;
    struct task *task;
    bool stopping, wanted; /* mutex; wanted: checkpoint_soon() */
    _Atomic uint64_t log_limit, interval_ns;
    /* mutex: where the last one began in the log, where it ended, and when */
    uint64_t last_lsn, end_lsn, last_ns, last_scan;
    uint64_t last_segment; /* mutex: the log's newest when it began: what is older it could free */
};

/* ---- MAP records ---- */

ash_rc
recover_append_map(struct wal *wal, const struct pstore_write *writes, unsigned count,
                   uint64_t *end_out)
{
    uint64_t local[(sizeof(struct map_record) + MAP_MOVES_LOCAL * sizeof(struct map_move)) / 8];
    uint32_t size = pstore_map_record_size(count);
    void *body = size <= sizeof(local) ? local : mem_alloc(MEM_WAL, size);
    struct wal_record_head head = { .size = (uint32_t)sizeof(head) + size, .type = WAL_REC_MAP };
    uint64_t start;

    if (body == NULL)
        return ASH_NO_MEMORY;
    pstore_map_record_fill(body, writes, count);
    const struct wal_part parts[2] = { { &head, (uint32_t)sizeof(head) }, { body, size } };
    ash_rc rc = PLANTED(404) ? ASH_OK : wal_room_for(wal, size); /* the writer tries again */
    if (rc == ASH_OK)
        rc = wal_append(wal, parts, 2, &start, end_out);
    if (body != local)
        mem_free(MEM_WAL, body);
    return rc;
}

/* ---- Collecting ---- */

struct collect {
    struct wal_blob *blob;
    ash_rc rc;
    uint64_t oldest, count;
};

static void
collect_dirty(void *arg, uint64_t page, uint64_t rec_lsn)
{
    struct collect *c = arg;
    struct checkpoint_dirty d = { page, rec_lsn };
    if (c->rc == ASH_OK)
        c->rc = wal_blob_add(c->blob, &d, sizeof(d));
    c->oldest = min_u64(c->oldest, rec_lsn);
    c->count++;
}

static ash_rc
collect_participant(const struct recover_participant *p, struct wal_blob *blob, uint64_t *oldest)
{
    static const uint8_t zeros[8];
    struct checkpoint_section section = { .id = p->id };
    uint64_t wish = UINT64_MAX;
    size_t at = blob->size;
    ash_rc rc = wal_blob_add(blob, &section, sizeof(section));
    if (rc == ASH_OK)
        rc = p->collect(p->ctx, blob, &wish);
    if (rc != ASH_OK)
        return rc;
    section.bytes = blob->size - at - sizeof(section);
    memcpy(blob->data + at, &section, sizeof(section));
    *oldest = min_u64(*oldest, wish);
    return wal_blob_add(blob, zeros, round_up(section.bytes, 8) - section.bytes);
}

/* Steps 3 and 4.  *scan: in map_lsn, out: where restart must begin to read.  *idle_out: nobody
 * needs anything from the log. */
static ash_rc
collect(struct checkpointer *c, struct wal_blob *blob, uint64_t map_lsn, uint64_t *scan_out,
        bool *idle_out)
{
    struct checkpoint_head head = { .version = CHECKPOINT_VERSION,
                                    .participants = c->options.participant_count,
                                    .map_lsn = map_lsn };
    struct collect dirty = { .blob = blob, .oldest = UINT64_MAX };
    uint64_t oldest = UINT64_MAX;

    dirty.rc = wal_blob_add(blob, &head, sizeof(head));
    head.begin_lsn = wal_reserved(c->options.wal);
    buf_dirty_pages(c->options.pool, collect_dirty, &dirty);
    ash_rc rc = dirty.rc;
    if (PLANTED(60))
        dirty.oldest = UINT64_MAX;
    head.redo_lsn = min_u64(head.begin_lsn, dirty.oldest);
    head.dirty_count = dirty.count;
    for (unsigned i = 0; i < c->options.participant_count && rc == ASH_OK; i++)
        rc = collect_participant(&c->participants[i], blob, &oldest);
    if (rc != ASH_OK)
        return rc;
    memcpy(blob->data, &head, sizeof(head));
    *scan_out = min_u64(min_u64(head.redo_lsn, map_lsn), oldest);
    *idle_out = dirty.count == 0 && oldest == UINT64_MAX;
    return ASH_OK;
}

/* ---- Writing ---- */

static ash_rc
append_parts(struct wal *wal, const struct wal_blob *blob, uint64_t *first_out, uint64_t *end_out)
{
    struct checkpoint_part part = {
        .number = ((const struct checkpoint_head *)(const void *)blob->data)->begin_lsn
    };
    size_t at = 0;

    part.parts = (uint32_t)((blob->size + CHECKPOINT_PART_MAX - 1) / CHECKPOINT_PART_MAX);
    for (; part.part < part.parts; part.part++) {
        uint32_t size = (uint32_t)min_u64(blob->size - at, CHECKPOINT_PART_MAX);
        struct wal_record_head head = { .size = (uint32_t)(sizeof(head) + sizeof(part)) + size,
                                        .type = WAL_REC_CHECKPOINT };
        const struct wal_part parts[3] = { { &head, (uint32_t)sizeof(head) },
                                           { &part, (uint32_t)sizeof(part) },
                                           { blob->data + at, size } };
        uint64_t start;
        ash_rc rc = wal_append(wal, parts, 3, &start, end_out);
        if (rc != ASH_OK)
            return rc;
        if (part.part == 0)
            *first_out = start;
        at += size;
    }
    return ASH_OK;
}

/* Step 7: whatever neither restart nor readers of old versions need. */
static ash_rc
truncate_log(struct checkpointer *c, uint64_t scan)
{
    for (unsigned i = 0; i < c->options.participant_count; i++)
        if (c->participants[i].retain != NULL)
            scan = min_u64(scan, c->participants[i].retain(c->participants[i].ctx));
    return wal_truncate(c->options.wal, scan);
}

/* Steps 2 to 6.  The map's checkpoint has begun. */
static ash_rc
write_parts(struct checkpointer *c, enum checkpoint_kind kind, uint64_t map_lsn,
            struct wal_blob *blob, uint64_t *scan_out)
{
    const struct checkpoint_options *o = &c->options;
    struct pstore_checkpoint_info info = { .map_lsn = map_lsn, .epoch = o->epoch };
    uint64_t end = 0;
    bool idle = false;

    ash_rc rc = pstore_checkpoint_write(o->pstore);
    if (rc == ASH_OK)
        rc = collect(c, blob, map_lsn, &info.scan_lsn, &idle);
    /* One that does not fit would be appended in vain, again and again. */
    if (rc == ASH_OK && !PLANTED(404))
        rc = wal_room_for(o->wal, blob->size);
    if (rc == ASH_OK)
        rc = append_parts(o->wal, blob, &info.checkpoint_lsn, &end);
    if (rc == ASH_OK)
        rc = wal_flush_to(o->wal, end);
    if (rc != ASH_OK) {
        struct err_detail why;
        err_save(&why);
        pstore_checkpoint_abort(o->pstore);
        err_restore(&why);
        return rc;
    }
    pstore_release(o->pstore, wal_durable(o->wal));
    info.checkpoint_segment = wal_segment_of(o->wal, info.checkpoint_lsn);
    info.scan_segment = wal_segment_of(o->wal, info.scan_lsn);
    info.clean = kind == CHECKPOINT_CLEAN && idle && wal_reserved(o->wal) == end;
    *scan_out = info.scan_lsn;
    if (PLANTED(64))
        ash_ignore(truncate_log(c, wal_reserved(o->wal)));
    return pstore_checkpoint_commit(o->pstore, &info);
}

static ash_rc
checkpoint_locked(struct checkpointer *c, enum checkpoint_kind kind)
{
    const struct checkpoint_options *o = &c->options;
    uint64_t now = wal_reserved(o->wal), behind = atomic_load(&c->log_limit) / 2, scan = 0;
    struct wal_blob blob = { 0 };

    uint64_t until = kind != CHECKPOINT_PACED ? now : now > behind ? now - behind : 0;
    ash_rc rc = buf_write_until(o->pool, until);
    if (rc != ASH_OK)
        return rc;
    uint64_t begun = wal_segment_of(o->wal, wal_reserved(o->wal));
    pstore_map_lock(o->pstore);
    uint64_t map_lsn = wal_reserved(o->wal);
    rc = pstore_checkpoint_begin(o->pstore);
    pstore_map_unlock(o->pstore);
    if (rc != ASH_OK)
        return rc;
    rc = write_parts(c, kind, map_lsn, &blob, &scan);
    wal_blob_free(&blob);
    if (rc != ASH_OK)
        return rc;
    c->last_lsn = map_lsn;
    c->end_lsn = wal_reserved(o->wal);
    c->last_scan = scan;
    c->last_segment = begun;
    c->last_ns = clock_ns();
    c->wanted = false;
    return truncate_log(c, scan);
}

static ash_rc
checkpoint_run(struct checkpointer *c, enum checkpoint_kind kind)
{
    task_mutex_lock(&c->mutex);
    ash_rc rc = checkpoint_locked(c, kind);
    task_mutex_unlock(&c->mutex);
    return rc;
}

ash_rc
checkpoint_now(struct checkpointer *c)
{
    return checkpoint_run(c, CHECKPOINT_FULL);
}

void
checkpoint_soon(struct checkpointer *c)
{
    task_mutex_lock(&c->mutex);
    c->wanted = true;
    task_cond_signal(&c->cond);
    task_mutex_unlock(&c->mutex);
}

ash_rc
checkpoint_final(struct checkpointer *c)
{
    return checkpoint_run(c, CHECKPOINT_CLEAN);
}

/* ---- The task ---- */

/* Page writers follow the log at half its limit, so that a checkpoint never has much to wait for.
 * */
static bool
is_due(struct checkpointer *c, enum checkpoint_kind *kind_out)
{
    uint64_t limit = atomic_load(&c->log_limit), now = wal_reserved(c->options.wal);
    if (now > limit / 2)
        buf_pace(c->options.pool, now - limit / 2);
    uint64_t grown = now - c->last_lsn;
    /* What a checkpoint itself logs is no reason for the next one. */
    bool changed = grown > CHECKPOINT_PART_MAX;
    *kind_out = CHECKPOINT_PACED;
    if (wal_full(c->options.wal) && (now - c->end_lsn > FULL_GROWN_MIN ||
                                     wal_segment_of(c->options.wal, now) != c->last_segment)) {
        *kind_out = CHECKPOINT_FULL; /* as much of the log as can be gets free for new segments */
        return true;
    }
    return grown > limit / 2 || c->wanted ||
           (changed && clock_ns() - c->last_ns > atomic_load(&c->interval_ns));
}

/* On a full disk and not due: readers that held old segments back may have ended since. */
static void
truncate_again(struct checkpointer *c)
{
    if (wal_full(c->options.wal) && c->last_scan != 0 && !PLANTED(326))
        ash_ignore(truncate_log(c, c->last_scan)); /* fails only when the log has failed */
}

static void
checkpoint_main(void *arg)
{
    struct checkpointer *c = arg;
    bool complained = false;
    enum checkpoint_kind kind;

    task_mutex_lock(&c->mutex);
    while (!c->stopping) {
        if (is_due(c, &kind)) {
            ash_rc rc = checkpoint_locked(c, kind);
            if (rc != ASH_OK && !complained)
                log_write(LOG_WARN, "A checkpoint failed, the log grows until one succeeds: %s",
                          err_current()->message);
            complained = rc != ASH_OK;
            if (io_poisoned(c->options.io))
                break;
            if (rc != ASH_OK) /* a full disk, most likely: not again at once */
                ash_ignore(
                    (ash_rc)task_cond_wait_until(&c->cond, &c->mutex, clock_ns() + 50 * TICK_NS));
            continue;
        }
        truncate_again(c);
        ash_ignore((ash_rc)task_cond_wait_until(&c->cond, &c->mutex, clock_ns() + TICK_NS));
    }
    task_mutex_unlock(&c->mutex);
}

void
checkpoint_tune(struct checkpointer *c, uint64_t log_limit, uint64_t interval_ms)
{
    atomic_store(&c->log_limit, max_u64(log_limit, 1u << 20));
    atomic_store(&c->interval_ns,
                 (interval_ms == 0 ? INTERVAL_MS_DEFAULT : interval_ms) * 1000000ull);
}

ash_rc
checkpoint_start(const struct checkpoint_options *options, struct checkpointer **out)
{
    ash_assert(options->participant_count <= RECOVER_PARTICIPANTS_MAX);
    struct checkpointer *c = mem_zalloc(MEM_WAL, sizeof(*c));
    if (c == NULL)
        return ASH_NO_MEMORY;
    c->options = *options;
    for (unsigned i = 0; i < options->participant_count; i++)
        c->participants[i] = options->participants[i];
    task_mutex_init(&c->mutex);
    task_cond_init(&c->cond);
    checkpoint_tune(c, options->log_limit, options->interval_ms);
    c->last_lsn = c->end_lsn = wal_reserved(options->wal);
    c->last_ns = clock_ns();
    if (!options->manual) {
        ash_rc rc = task_spawn(options->rt, "checkpointer", checkpoint_main, c, &c->task);
        if (rc != ASH_OK) {
            mem_free(MEM_WAL, c);
            return rc;
        }
    }
    *out = c;
    return ASH_OK;
}

void
checkpoint_pause(struct checkpointer *c)
{
    if (c != NULL)
        task_mutex_lock(&c->mutex);
}

void
checkpoint_resume(struct checkpointer *c)
{
    if (c != NULL)
        task_mutex_unlock(&c->mutex);
}

void
checkpoint_stop(struct checkpointer *c)
{
    if (c == NULL)
        return;
    if (c->task != NULL) {
        task_mutex_lock(&c->mutex);
        c->stopping = true;
        task_cond_broadcast(&c->cond);
        task_mutex_unlock(&c->mutex);
        task_join(c->task);
    }
    mem_free(MEM_WAL, c);
}
