/* SPDX-License-Identifier: Apache-2.0
 *
 * test_recover.c - checkpoints and restart, on the real log, pool and page store over a simulated
 * disk.
 *
 * A small engine: tasks create, change and free pages in mini-transactions, several at once, over
 * a pool that is too small for them, with checkpoints in between.  Every mini-transaction is noted
 * with its LSNs.  Power is cut at I/O events, during recovery too.
 *
 * Oracle: recovery says where the log ends.  Everything acknowledged lies below; the pages are
 * exactly those that the noted mini-transactions up to that end make; no other page is allocated;
 * everything on disk verifies.
 */
#include "base/bits.h"
#include "wal/wal_recover.h"

#include <inttypes.h>

#include "tests/storage/io_env.h"

/* For inner loops: libcheck's own assertions cost a system call each. */
#define must(cond, ...)                \
    do {                               \
        if (!(cond))                   \
            ck_abort_msg(__VA_ARGS__); \
    } while (0)

#define OP_ADD    60 /* adds to a value: unlike putting bytes, doing it twice or not at all shows */
#define SLOTS     8u /* values of a page, spread over it */
#define IDS       1024u
#define NOTES_MAX 20000u
#define WORKERS   2u
#define LIVE_MAX  70u /* pages per worker */

/* ---- What must survive a run: static ---- */

struct change {
    uint64_t page;
    uint8_t op, slot, class;
    uint64_t value;
};
struct note { /* a mini-transaction */
    uint64_t start, end;
    unsigned count;
    struct change change[4];
};
static struct note notes[NOTES_MAX];
static unsigned note_count;
static bool match_notes, with_task;
static uint64_t acked;   /* the log was durable up to here */
static uint64_t log_end; /* where recovery said that it ends; 0: not known yet */
static struct recover_result found;
static struct sim_disk *disk;
static struct task_runtime *runtime;
static uint64_t seed_now;

struct snapshot {
    struct sim_disk *disk;
    uint64_t acked, log_end;
};
#define SNAPSHOTS_MAX 256u
static struct snapshot snapshots[SNAPSHOTS_MAX];
static unsigned snapshot_count;

/* ---- The engine ---- */

struct engine {
    struct env *e;
    struct pstore *ps;
    struct buf_pool *pool;
    struct wal *wal;
    struct checkpointer *ck;
    struct recover_participant participant;
    uint64_t wish; /* the participant's oldest LSN */
    uint64_t last; /* end of the record analysed last */
    bool made;     /* there was no database */
    unsigned running;
};

static ash_rc
log_flush_to(void *ctx, uint64_t lsn)
{
    return wal_flush_to(((struct engine *)ctx)->wal, lsn);
}

static uint64_t
log_durable(void *ctx)
{
    return wal_durable(((struct engine *)ctx)->wal);
}

static ash_rc
log_append_map(void *ctx, const struct pstore_write *writes, unsigned count, uint64_t *end_out)
{
    return recover_append_map(((struct engine *)ctx)->wal, writes, count, end_out);
}

/* The participant keeps one LSN, and sees to it that analysis shows it every record from there, in
 * order. */
static ash_rc
part_collect(void *ctx, struct wal_blob *blob, uint64_t *oldest_out)
{
    struct engine *g = ctx;
    *oldest_out = g->wish;
    return wal_blob_add(blob, &g->wish, sizeof(g->wish));
}

static ash_rc
part_restore(void *ctx, const uint8_t *data, size_t size)
{
    struct engine *g = ctx;
    ck_assert_uint_eq(size, sizeof(g->wish));
    memcpy(&g->wish, data, size);
    return ASH_OK;
}

/* A run that was halted may have appended a record without learning its LSNs: its note waits with
 * the changes. */
static void
note_find(const struct wal_record *rec)
{
    for (unsigned i = 0; i < note_count; i++)
        if (notes[i].start == rec->start)
            return;
    for (unsigned i = 0; i < note_count; i++) {
        struct wal_change c;
        uint32_t pos = 0;
        unsigned n = 0;
        while (notes[i].start == UINT64_MAX && wal_record_change(rec, &pos, &c) &&
               n < notes[i].count && c.head->page == notes[i].change[n].page &&
               c.head->op == notes[i].change[n].op &&
               (c.head->size != 16 || get_le64(c.payload + 8) == notes[i].change[n].value))
            n++;
        if (n == 0 || n != notes[i].count || n != rec->head->changes)
            continue;
        notes[i].start = rec->start;
        notes[i].end = rec->end;
        return;
    }
}

static ash_rc
part_analyse(void *ctx, const struct wal_record *rec)
{
    struct engine *g = ctx;
    if (g->last == 0 && g->wish != UINT64_MAX)
        ck_assert_uint_le(rec->start, g->wish);
    must(g->last <= rec->start, "records out of order");
    if (match_notes && rec->head->type == WAL_REC_MTR)
        note_find(rec);
    g->last = rec->end;
    return ASH_OK;
}

static void
engine_log(struct engine *g, const struct wal_position *at, struct wal_segments *live,
           uint32_t epoch)
{
    struct wal_options wal = { .io = g->e->io,
                               .dir = g->e->dir,
                               .rt = g->e->rt,
                               .buffer_bytes = 1u << 20,
                               .segment_bytes = 64u << 10,
                               .writers = 2,
                               .epoch = epoch };
    memcpy(wal.uuid, pstore_uuid(g->ps), 16);
    ck_ok(wal_open(&wal, at, live, &g->wal));
    struct buf_log_ops ops = { g, log_flush_to, log_durable, log_append_map };
    ck_ok(buf_start(g->pool, &ops));
    struct checkpoint_options ck = { .rt = g->e->rt,
                                     .io = g->e->io,
                                     .wal = g->wal,
                                     .pool = g->pool,
                                     .pstore = g->ps,
                                     .log_limit = 1u << 20,
                                     .epoch = epoch,
                                     .manual = !with_task,
                                     .participants = &g->participant,
                                     .participant_count = 1 };
    ck_ok(checkpoint_start(&ck, &g->ck));
}

/* Opens or makes the database; recovery, and the checkpoint after it. */
static ash_rc
engine_open(struct engine *g, struct env *e, bool read_only)
{
    struct pstore_options o = { .io = e->io,
                                .dir = e->dir,
                                .zone_bytes = 64u << 10,
                                .grow_bytes = 1u << 20,
                                .page_id_max = IDS,
                                .read_only = read_only };
    struct pstore_checkpoint_info info;

    memset(g, 0, sizeof(*g));
    g->e = e;
    g->wish = UINT64_MAX;
    g->participant = (struct recover_participant){
        .id = 1, .ctx = g, .collect = part_collect, .restore = part_restore, .analyse = part_analyse
    };
    ash_rc rc = pstore_exists(e->dir) ? pstore_open(&o, &g->ps) : pstore_create(&o, &g->ps);
    if (rc != ASH_OK)
        return rc;
    struct buf_options b = { .bytes = 64 * 4096,
                             .io = e->io,
                             .rt = e->rt,
                             .pstore = g->ps,
                             .writers = 1,
                             .read_only = read_only,
                             .page_id_max = IDS };
    ck_ok(buf_create(&b, &g->pool));
    pstore_info(g->ps, &info);
    if (info.checkpoint_lsn == 0) {
        struct wal_position first = { WAL_LSN_FIRST, 1 };
        g->made = true;
        ck_ok(wal_remove_all(e->io, e->dir));
        ck_ok(pstore_recovered(g->ps));
        engine_log(g, &first, NULL, 1);
        ck_ok(checkpoint_now(g->ck));
        log_end = WAL_LSN_FIRST;
        return ASH_OK;
    }
    struct recover_options r = { .io = e->io,
                                 .rt = e->rt,
                                 .workers = 2,
                                 .dir = e->dir,
                                 .pool = g->pool,
                                 .pstore = g->ps,
                                 .participants = &g->participant,
                                 .participant_count = 1,
                                 .read_only = read_only };
    rc = recover_run(&r, &found);
    if (rc != ASH_OK)
        return rc;
    g->wish = UINT64_MAX;
    if (log_end == 0)
        log_end = found.next.lsn;
    ck_assert_uint_ge(found.next.lsn, log_end);
    if (read_only) {
        wal_segments_free(found.live);
        return ASH_OK;
    }
    engine_log(g, &found.next, found.live, found.epoch + 1);
    if (!found.clean)
        ck_ok(checkpoint_now(g->ck));
    return ASH_OK;
}

static void
engine_close(struct engine *g, bool clean)
{
    if (clean)
        ck_ok(checkpoint_final(g->ck));
    checkpoint_stop(g->ck);
    if (g->wal != NULL) {
        buf_stop(g->pool);
        ck_ok(wal_close(g->wal));
    }
    buf_destroy(g->pool);
    pstore_close(g->ps);
}

/* ---- The oracle ---- */

static struct {
    bool alive;
    uint8_t class;
    uint64_t value[SLOTS];
} model[IDS];

static int
by_start(const void *a, const void *b)
{
    const struct note *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

/* Forgets what lies beyond `end`, and makes the model of the rest. */
static void
model_make(uint64_t end, bool forget)
{
    qsort(notes, note_count, sizeof(notes[0]), by_start);
    memset(model, 0, sizeof(model));
    unsigned n = 0;
    for (; n < note_count && notes[n].end <= end; n++)
        for (unsigned i = 0; i < notes[n].count; i++) {
            const struct change *c = &notes[n].change[i];
            if (c->op == WAL_OP_PAGE_INIT) {
                memset(&model[c->page], 0, sizeof(model[0]));
                model[c->page].alive = true;
                model[c->page].class = c->class;
            } else if (c->op == WAL_OP_PAGE_FREE) {
                must(model[c->page].alive, "a change of a page that is free");
                model[c->page].alive = false;
            } else {
                must(model[c->page].alive, "a change of a page that is free");
                model[c->page].value[c->slot] =
                    c->value + (c->op == OP_ADD ? model[c->page].value[c->slot] : 0);
            }
        }
    if (forget)
        note_count = n;
}

static uint32_t
slot_offset(uint8_t class, unsigned slot)
{
    return 64 + slot * ((PAGE_CLASS_SIZE(class) - 64) / SLOTS / 8 * 8);
}

static void
engine_check(struct engine *g)
{
    struct buf_page p;

    ck_assert_msg(log_end >= acked,
                  "seed %" PRIu64 ": acknowledged up to %" PRIu64 ", the log ends at %" PRIu64,
                  seed_now, acked, log_end);
    model_make(log_end, false);
    for (uint64_t page = 1; page < IDS; page++) {
        must(pstore_page_allocated(g->ps, page) == model[page].alive,
             "seed %" PRIu64 ": page %" PRIu64 " is%s allocated", seed_now, page,
             model[page].alive ? " not" : "");
        if (!model[page].alive)
            continue;
        must(buf_latch_s(g->pool, page, &p) == ASH_OK, "seed %" PRIu64 ": %s", seed_now,
             err_current()->message);
        must(p.size == PAGE_CLASS_SIZE(model[page].class), "page %" PRIu64 " has %u bytes", page,
             p.size);
        for (unsigned s = 0; s < SLOTS; s++) {
            uint64_t v = get_le64(p.data + slot_offset(model[page].class, s));
            must(v == model[page].value[s],
                 "seed %" PRIu64 ": page %" PRIu64 ", slot %u: %" PRIu64 " instead of %" PRIu64,
                 seed_now, page, s, v, model[page].value[s]);
        }
        buf_unlatch_s(g->pool, &p);
    }
    unsigned problems = 0;
    ck_ok(pstore_verify_map(g->ps, env_problem, &problems));
    ck_ok(pstore_verify_pages(g->ps, env_problem, &problems));
    must(problems == 0, "%u problems", problems);
}

/* ---- Work ---- */

static unsigned ops_per_worker, checkpoint_every = 25;

struct worker {
    struct engine *g;
    struct random r;
    struct task *task;
    unsigned number, ops;
    uint64_t live[LIVE_MAX];
    uint8_t class[LIVE_MAX];
    unsigned count;
};

static ash_rc
redo_add(uint8_t *page, uint32_t size, uint16_t op, const uint8_t *payload, uint32_t payload_size,
         uint64_t start)
{
    (void)op;
    (void)start;
    uint32_t offset = payload_size == 16 ? get_le32(payload) : size;
    if (offset > size - 8)
        return ash_raise(ASH_CORRUPT, "a change that does not fit");
    put_le64(page + offset, get_le64(page + offset) + get_le64(payload + 8));
    return ASH_OK;
}

static void
work_change(struct worker *w, struct mtr *m, struct buf_page *p, struct note *n)
{
    struct {
        uint32_t offset, zero;
        uint64_t value;
    } payload;
    struct change *c = &n->change[n->count++];
    uint8_t class = ((struct page_head *)(void *)p->data)->page_class;
    uint8_t op = random_chance(&w->r, 2, 3) ? OP_ADD : WAL_OP_PAGE_BYTES;
    *c = (struct change){ .page = p->page,
                          .op = op,
                          .slot = (uint8_t)random_below(&w->r, SLOTS),
                          .value = random_u64(&w->r) };
    payload.offset = slot_offset(class, c->slot);
    payload.zero = 0;
    payload.value = c->value;
    struct wal_part part = { &payload, sizeof(payload) };
    ck_ok(mtr_change(m, p, (enum wal_op)op, &part, 1));
    if (op == OP_ADD)
        put_le64(p->data + payload.offset, get_le64(p->data + payload.offset) + payload.value);
    else
        put_le64(p->data + payload.offset, payload.value);
}

static void
work_commit(struct worker *w, struct mtr *m, struct note *n)
{
    struct mtr_record rec = { .type = WAL_REC_MTR };
    struct note *slot = &notes[note_count++]; /* taken before it parks */
    ck_assert_uint_le(note_count, NOTES_MAX);
    *slot = *n;
    slot->start = slot->end = UINT64_MAX;
    ck_ok(mtr_commit(m, &rec, &n->start, &n->end));
    *slot = *n;
    (void)w;
}

/* A new page, with a value in it. */
static void
work_create(struct worker *w)
{
    struct engine *g = w->g;
    struct note n = { 0 };
    struct buf_page p;
    struct mtr m;
    uint8_t type = PAGE_TYPE_BTREE_LEAF, class = random_chance(&w->r, 1, 8) ? 1 : 0;
    struct wal_part part = { &type, 1 };

    ck_ok(pstore_ensure_room(g->ps, 1u << 16));
    ck_ok(buf_new(g->pool, PAGE_TYPE_BTREE_LEAF, class, 3, &p));
    mtr_begin(&m, g->wal, g->pool);
    ck_ok(mtr_change(&m, &p, WAL_OP_PAGE_INIT, &part, 1));
    n.change[n.count++] = (struct change){ .page = p.page, .op = WAL_OP_PAGE_INIT, .class = class };
    work_change(w, &m, &p, &n);
    w->live[w->count] = p.page;
    w->class[w->count++] = class;
    work_commit(w, &m, &n);
    buf_unlatch_x(g->pool, &p);
}

static void
work_free(struct worker *w)
{
    struct note n = { 0 };
    struct buf_page p;
    struct mtr m;
    unsigned at = (unsigned)random_below(&w->r, w->count);

    ck_ok(buf_latch_x(w->g->pool, w->live[at], &p));
    mtr_begin(&m, w->g->wal, w->g->pool);
    if (random_chance(&w->r, 1, 2))
        work_change(w, &m, &p, &n);
    ck_ok(mtr_change(&m, &p, WAL_OP_PAGE_FREE, NULL, 0));
    n.change[n.count++] = (struct change){ .page = p.page, .op = WAL_OP_PAGE_FREE };
    w->live[at] = w->live[--w->count];
    w->class[at] = w->class[w->count];
    work_commit(w, &m, &n);
}

/* Changes one to three pages together. */
static void
work_update(struct worker *w)
{
    struct note n = { 0 };
    struct buf_page p[3];
    struct mtr m;
    unsigned count = 0, want = 1 + (unsigned)random_below(&w->r, 3),
             at = (unsigned)random_below(&w->r, w->count);

    for (unsigned i = 0; i < want && i < w->count; i++)
        ck_ok(buf_latch_x(w->g->pool, w->live[(at + i) % w->count], &p[count++]));
    mtr_begin(&m, w->g->wal, w->g->pool);
    for (unsigned i = 0; i < count; i++)
        work_change(w, &m, &p[i], &n);
    if (random_chance(&w->r, 1, 3))
        work_change(w, &m, &p[0], &n); /* twice in one record */
    work_commit(w, &m, &n);
    for (unsigned i = count; i-- > 0;)
        buf_unlatch_x(w->g->pool, &p[i]);
}

static void
worker_main(void *arg)
{
    struct worker *w = arg;
    for (unsigned op = 0; op < w->ops; op++) {
        uint64_t dice = random_below(&w->r, 100);
        ck_ok(buf_throttle(w->g->pool));
        if (w->count == 0 || (dice < 30 && w->count < LIVE_MAX))
            work_create(w);
        else if (dice < 38)
            work_free(w);
        else
            work_update(w);
        if (random_chance(&w->r, 1, 6)) {
            uint64_t end = wal_reserved(w->g->wal);
            ck_ok(wal_flush_to(w->g->wal, end));
            acked = max_u64(acked, end);
        }
        if (random_chance(
                &w->r, 1,
                40)) { /* an open transaction, as it were: restart has to read from here */
            bool wish = random_chance(&w->r, 1, 2) && w->g->wish == UINT64_MAX;
            w->g->wish = wish ? wal_reserved(w->g->wal) : UINT64_MAX;
        }
        if (w->number == 0 && random_chance(&w->r, 1, checkpoint_every))
            ck_ok(checkpoint_now(w->g->ck));
        task_yield();
    }
}

static void
engine_work(struct engine *g, struct random *r)
{
    static struct worker w[WORKERS];
    memset(w, 0, sizeof(w));
    model_make(log_end, true);
    for (uint64_t page = 1; page < IDS; page++) {
        struct worker *x = &w[page % WORKERS];
        if (!model[page].alive)
            continue;
        if (x->count == LIVE_MAX)
            x = &w[(page + 1) % WORKERS];
        ck_assert_uint_lt(x->count, LIVE_MAX);
        x->class[x->count] = model[page].class;
        x->live[x->count++] = page;
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        w[i].g = g;
        w[i].number = i;
        w[i].ops = ops_per_worker;
        random_init(&w[i].r, random_u64(r));
        ck_ok(task_spawn(g->e->rt, "worker", worker_main, &w[i], &w[i].task));
    }
    for (unsigned i = 0; i < WORKERS; i++)
        task_join(w[i].task);
}

/* ---- The checkpointer's own pace ---- */

/* Goal: the log stays bounded, and pages reach the disk, with nobody asking for a checkpoint. */
static void
body_bounded(struct env *e)
{
    static struct {
        uint32_t offset, zero;
        uint8_t bytes[2000];
    } payload = { .offset = 64 };
    struct wal_part part = { &payload, sizeof(payload) };
    struct mtr_record rec = { .type = WAL_REC_MTR };
    struct worker w = { 0 };
    struct engine g;
    struct mtr m;
    uint64_t longest = 0;

    ck_ok(engine_open(&g, e, false));
    w.g = &g;
    random_init(&w.r, e->seed);
    for (unsigned i = 0; i < 40; i++)
        work_create(&w);
    for (unsigned i = 0; i < 4000; i++) {
        struct buf_page p;
        uint64_t end;
        must(buf_throttle(g.pool) == ASH_OK, "%s", err_current()->message);
        must(buf_latch_x(g.pool, w.live[i % w.count], &p) == ASH_OK, "%s", err_current()->message);
        mtr_begin(&m, g.wal, g.pool);
        must(mtr_change(&m, &p, WAL_OP_PAGE_BYTES, &part, 1) == ASH_OK, "%s",
             err_current()->message);
        memcpy(p.data + payload.offset, payload.bytes, sizeof(payload.bytes));
        must(mtr_commit(&m, &rec, NULL, &end) == ASH_OK, "%s", err_current()->message);
        buf_unlatch_x(g.pool, &p);
        if (i % 16 == 0)
            must(wal_flush_to(g.wal, end) == ASH_OK, "%s", err_current()->message);
        longest = max_u64(longest, wal_reserved(g.wal) - wal_oldest(g.wal));
        task_sleep_ns(100000);
    }
    ck_assert_uint_gt(wal_reserved(g.wal), 8u << 20);
    ck_assert_uint_lt(longest, 2u << 20); /* the limit is 1 MiB; segments and what is under way */
    engine_close(&g, true);
}

/* ---- Lives ---- */

static unsigned take_every; /* events between snapshots; 0: none */
static struct random cut_random;

static void
take(void *arg)
{
    (void)arg;
    if (snapshot_count < SNAPSHOTS_MAX) {
        struct snapshot *s = &snapshots[snapshot_count];
        enum sim_cut_policy policy = (enum sim_cut_policy)random_below(&cut_random, 4);
        ck_ok(sim_disk_cut(disk, policy, random_u64(&cut_random), &s->disk));
        s->acked = acked;
        s->log_end = log_end;
        snapshot_count++;
    }
    sim_disk_cut_at(disk, sim_disk_events(disk) + 1 + random_below(&cut_random, take_every * 2),
                    take, NULL);
}

static void
run(uint64_t seed, void (*fn)(struct env *e), ash_rc expected)
{
    struct env e = { .kind = IO_BACKEND_SIM, .disk = disk, .seed = seed, .fn = fn };
    struct task_sim_options o = { .seed = seed, .step_max = 20000000 };
    snprintf(e.path, sizeof(e.path), "db");
    ck_ok(task_sim_create(&o, &e.rt));
    runtime = e.rt;
    sim_disk_cut_at(
        disk,
        take_every == 0 ? 0 : sim_disk_events(disk) + 1 + random_below(&cut_random, take_every),
        take, NULL);
    ash_rc rc = task_sim_run(e.rt, env_body, &e);
    ck_assert_msg(rc == expected, "seed %" PRIu64 ": %s: %s", seed_now, ash_rc_name(rc),
                  err_current()->message);
    sim_disk_cut_at(disk, 0, NULL, NULL);
    task_runtime_destroy(e.rt);
}

static void
body_life(struct env *e)
{
    struct engine g;
    struct random r;
    random_init(&r, e->seed);
    ck_ok(engine_open(&g, e, false));
    engine_check(&g);
    engine_work(&g, &r);
    log_end = wal_reserved(g.wal);
    engine_check(&g);
    engine_close(&g, random_chance(&r, 1, 2));
}

static void
body_recover(struct env *e)
{
    struct engine g;
    ck_ok(engine_open(&g, e, false));
    engine_check(&g);
    engine_close(&g, true);
}

/* After a clean close. */
static void
body_reopen(struct env *e)
{
    struct engine g;
    ck_ok(engine_open(&g, e, false));
    ck_assert(found.clean);
    ck_assert_uint_eq(found.changes_redone, 0);
    ck_assert_uint_lt(found.records_scanned, 100);
    engine_close(&g, true);
}

/* Nothing is written, and the check is the same. */
static void
body_second(struct env *e)
{
    struct engine g;
    ck_ok(engine_open(&g, e, true));
    ck_assert(found.clean);
    ck_assert_uint_eq(found.changes_redone, 0);
    engine_check(&g);
    engine_close(&g, false);
}

/* Recovers an image, with power cuts in between when `nested`, and once more. */
static void
check_image(struct sim_disk *image, uint64_t acked_then, uint64_t seed, bool nested)
{
    struct sim_disk *disk_before = disk;
    uint64_t acked_before = acked;
    unsigned first = snapshot_count;

    disk = image;
    acked = acked_then;
    log_end = 0;
    take_every = nested ? 30 : 0;
    run(seed, body_recover, ASH_OK);
    take_every = 0;
    if (log_end != WAL_LSN_FIRST) {
        uint64_t hash = sim_disk_hash(disk);
        run(seed + 1, body_second, ASH_OK);
        ck_assert_uint_eq(sim_disk_hash(disk), hash);
    }
    /* The cuts in recovery: what it decided about the log's end holds. */
    uint64_t end = log_end;
    for (unsigned i = first; i < snapshot_count; i++) {
        disk = snapshots[i].disk;
        log_end = end;
        run(seed + 2 + i, body_recover, ASH_OK);
        sim_disk_destroy(disk);
    }
    snapshot_count = first;
    disk = disk_before;
    acked = acked_before;
}

/* Lives of one database, each ended by a power cut at a random event; many other events' images are
 * checked. */
static void
history(uint64_t seed, unsigned lives, unsigned every)
{
    struct random r;

    seed_now = seed;
    random_init(&r, seed);
    random_init(&cut_random, seed + 77);
    note_count = 0;
    acked = 0;
    log_end = 0;
    ck_ok(sim_disk_create(seed, &disk));
    sim_disk_latency(disk, 1000, 200000);
    for (unsigned life = 0; life < lives; life++) {
        snapshot_count = 0;
        take_every = every;
        run(random_u64(&r), body_life, ASH_OK);
        take_every = 0;
        unsigned n = snapshot_count, next = (unsigned)random_below(&r, n);
        uint64_t chosen_acked = snapshots[next].acked;
        for (unsigned i = 0; i < n; i++) {
            struct sim_disk *copy;
            ck_ok(sim_disk_cut(snapshots[i].disk, SIM_CUT_ALL, 1, &copy)); /* recovery changes it */
            check_image(copy, snapshots[i].acked, random_u64(&r), i % 4 == 0);
            sim_disk_destroy(copy);
        }
        sim_disk_destroy(disk);
        disk = snapshots[next].disk;
        for (unsigned i = 0; i < n; i++)
            if (i != next)
                sim_disk_destroy(snapshots[i].disk);
        acked = chosen_acked;
        log_end = 0; /* the next life's recovery says */
    }
    sim_disk_destroy(disk);
}

/* ---- The process dies, the machine lives on: what was written is visible, but may still be in the
 * device's cache ---- */

static void
halt(void *arg)
{
    (void)arg;
    task_sim_halt(runtime);
}

static void
body_short_life(struct env *e)
{
    struct engine g;
    struct random r;
    random_init(&r, e->seed);
    ck_ok(engine_open(&g, e, false));
    engine_check(&g);
    engine_work(&g, &r);
    engine_close(&g, false);
}

/* A life that is halted; one more on the same disk, with power cuts: what the second built on must
 * not go away. */
static void
crash_then_cut(uint64_t seed)
{
    struct random r;
    struct env e = { .kind = IO_BACKEND_SIM, .seed = seed, .fn = body_life };
    struct task_sim_options o = { .seed = seed, .step_max = 20000000 };

    seed_now = seed;
    random_init(&r, seed);
    random_init(&cut_random, seed + 77);
    note_count = 0;
    acked = 0;
    log_end = 0;
    ck_ok(sim_disk_create(seed, &disk));
    sim_disk_latency(disk, 1000, 200000);
    e.disk = disk;
    snprintf(e.path, sizeof(e.path), "db");
    ck_ok(task_sim_create(&o, &e.rt));
    runtime = e.rt;
    sim_disk_cut_at(disk, 100 + random_below(&r, 1500), halt, NULL);
    ash_rc rc = task_sim_run(e.rt, env_body, &e);
    ck_assert(rc == ASH_OK || rc == ASH_CANCELLED);
    sim_disk_cut_at(disk, 0, NULL, NULL);
    task_runtime_destroy(e.rt);
    sim_disk_restart(disk);

    log_end = 0;
    match_notes = true;
    snapshot_count = 0;
    take_every = 6;
    ops_per_worker = 20;
    run(random_u64(&r), body_short_life, ASH_OK);
    take_every = 0;
    match_notes = false;
    for (unsigned i = 0; i < snapshot_count; i++) {
        struct sim_disk *whole = disk;
        uint64_t acked_whole = acked;
        disk = snapshots[i].disk;
        acked = max_u64(snapshots[i].acked, snapshots[i].log_end);
        log_end = 0;
        run(random_u64(&r), body_recover, ASH_OK);
        sim_disk_destroy(disk);
        disk = whole;
        acked = acked_whole;
    }
    sim_disk_destroy(disk);
}

START_TEST(what_a_restart_built_on_survives_a_later_cut)
{
    uint64_t first = test_seed(2000), n = test_scale(60, 2000);
    checkpoint_every = 5;
    for (uint64_t seed = first; seed < first + n; seed++) {
        ops_per_worker = 60;
        crash_then_cut(seed);
    }
    checkpoint_every = 25;
}
END_TEST

START_TEST(the_log_stays_within_its_limit)
{
    seed_now = 3;
    note_count = 0;
    acked = log_end = 0;
    with_task = true;
    take_every = 0;
    ck_ok(sim_disk_create(3, &disk));
    run(3, body_bounded, ASH_OK);
    with_task = false;
    run(4, body_reopen, ASH_OK);
    sim_disk_destroy(disk);
}
END_TEST

/* ---- Read-only, and damage ---- */

static ash_rc open_rc;
static char open_message[512];

static void
body_read_only(struct env *e)
{
    struct engine g;
    open_rc = engine_open(&g, e, true);
    snprintf(open_message, sizeof(open_message), "%s", err_current()->message);
    if (open_rc == ASH_OK)
        engine_check(&g);
    buf_destroy(g.pool);
    pstore_close(g.ps);
}

/* Goal: a read-only open changes no byte, and succeeds exactly when there is nothing to redo. */
START_TEST(read_only_never_writes)
{
    unsigned refused = 0;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        seed_now = seed;
        note_count = 0;
        acked = log_end = 0;
        snapshot_count = 0;
        ops_per_worker = 60;
        take_every = 100;
        random_init(&cut_random, seed);
        ck_ok(sim_disk_create(seed, &disk));
        run(seed, body_life, ASH_OK);
        take_every = 0;
        for (unsigned i = 0; i < snapshot_count; i++) {
            sim_disk_destroy(disk);
            disk = snapshots[i].disk;
            acked = snapshots[i].acked;
            log_end = 0;
            uint64_t hash = sim_disk_hash(disk);
            open_rc = ASH_OK;
            if (acked != 0)
                run(seed, body_read_only, ASH_OK);
            ck_assert(open_rc == ASH_OK || open_rc == ASH_READ_ONLY);
            refused += open_rc == ASH_READ_ONLY;
            ck_assert_uint_eq(sim_disk_hash(disk), hash);
        }
        sim_disk_destroy(disk);
    }
    ck_assert_uint_gt(refused, 5);
}
END_TEST

static unsigned rotten;
static char segment_name[64];
static uint64_t segment_size;

static void
newest_segment(void *arg, const char *dir, const char *name, uint64_t size)
{
    (void)arg;
    (void)dir;
    if (strncmp(name, "wal-", 4) == 0 && strcmp(name, segment_name) > 0) {
        snprintf(segment_name, sizeof(segment_name), "%s", name);
        segment_size = size;
    }
}

/* Pages may be reported as damaged, none may be wrong. */
static void
rotten_check(struct engine *g)
{
    struct buf_page p;

    model_make(log_end, false);
    for (uint64_t page = 1; page < IDS; page++) {
        must(pstore_page_allocated(g->ps, page) == model[page].alive,
             "page %" PRIu64 " is%s allocated", page, model[page].alive ? " not" : "");
        if (!model[page].alive)
            continue;
        ash_rc rc = buf_latch_s(g->pool, page, &p);
        must(rc == ASH_OK || rc == ASH_CORRUPT, "%s", err_current()->message);
        rotten += rc != ASH_OK;
        for (unsigned s = 0; rc == ASH_OK && s < SLOTS; s++)
            must(get_le64(p.data + slot_offset(model[page].class, s)) == model[page].value[s],
                 "page %" PRIu64 " is wrong", page);
        if (rc == ASH_OK)
            buf_unlatch_s(g->pool, &p);
    }
}

static void
body_rotten(struct env *e)
{
    struct engine g;
    open_rc = engine_open(&g, e, false);
    snprintf(open_message, sizeof(open_message), "%s", err_current()->message);
    if (open_rc == ASH_OK) {
        rotten_check(&g);
        engine_close(&g, false);
        return;
    }
    buf_destroy(g.pool);
    pstore_close(g.ps);
}

/* Goal: whatever byte of the log or the data file rots, restart says so or is not concerned; it
 * never crashes or invents data. */
START_TEST(rot_is_an_error_or_harmless)
{
    struct random r;
    unsigned errors = 0;
    random_init(&r, test_seed(5));
    seed_now = 5;
    note_count = 0;
    acked = log_end = 0;
    ops_per_worker = 100;
    ck_ok(sim_disk_create(5, &disk));
    run(5, body_life, ASH_OK);
    struct sim_disk *sound = disk;
    sim_disk_list(disk, newest_segment, NULL);
    for (unsigned i = 0; i < test_scale(600, 10000); i++) {
        uint8_t b;
        const char *name = i % 2 == 0 ? segment_name : "data-0000.ash";
        uint64_t offset = i % 2 == 0 ? random_below(&r, 8192) : random_below(&r, 512u << 10);
        ck_ok(sim_disk_cut(sound, SIM_CUT_ALL, 1, &disk));
        if (sim_disk_peek(disk, "db", name, offset, &b, 1) == ASH_OK) {
            b ^= (uint8_t)(1u << random_below(&r, 8));
            ck_ok(sim_disk_poke(disk, "db", name, offset, &b, 1));
            acked = log_end = 0;
            struct env e = { .kind = IO_BACKEND_SIM, .disk = disk, .seed = i };
            struct task_sim_options o = { .seed = i, .step_max = 20000000 };
            snprintf(e.path, sizeof(e.path), "db");
            e.fn = body_rotten;
            ck_ok(task_sim_create(&o, &e.rt));
            ck_ok(task_sim_run(e.rt, env_body, &e));
            task_runtime_destroy(e.rt);
            must(open_rc == ASH_OK || open_rc == ASH_CORRUPT, "%s: %s", ash_rc_name(open_rc),
                 open_message);
            errors += open_rc != ASH_OK;
        }
        sim_disk_destroy(disk);
    }
    ck_assert_uint_gt(errors + rotten, 5);
    sim_disk_destroy(sound);
}
END_TEST

START_TEST(power_cuts_lose_nothing_acknowledged)
{
    uint64_t first = test_seed(1000), n = test_scale(12, 400);
    ops_per_worker = 150;
    for (uint64_t seed = first; seed < first + n; seed++)
        history(seed, 4, 60);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("wal/recover");
    wal_redo_register(OP_ADD, OP_ADD, redo_add);
    TCase *c = tcase_create("recover");
    tcase_set_timeout(c, 600);
    tcase_add_test(c, power_cuts_lose_nothing_acknowledged);
    tcase_add_test(c, what_a_restart_built_on_survives_a_later_cut);
    tcase_add_test(c, the_log_stays_within_its_limit);
    tcase_add_test(c, read_only_never_writes);
    tcase_add_test(c, rot_is_an_error_or_harmless);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
