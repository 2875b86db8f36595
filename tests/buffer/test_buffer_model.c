/* SPDX-License-Identifier: Apache-2.0
 *
 * test_buffer_model.c - many tasks against a model, with far more pages than frames.
 *
 * Method: slots refer to pages; each page is filled with words made from its id and a value, the
 * model knows the value.  Workers read (optimistically, shared), change, free and create pages,
 * prefetch, evict and write at random.  Checked all the time: what a validated or latched read saw
 * is one state and the right one; the dirty-page table covers every change that a crash would lose;
 * the assertions of pool and toy store (R5, I1, MAP after FREE).  At the end everything is written,
 * evicted and read again. Simulated with many seeds (interleavings at every task_point), and with
 * threads.
 */
#include "tests/buffer/buffer_env.h"

#define SLOTS       150u
#define CHANGES_MAX 64u /* remembered per page */
#define WORKERS     6u
#define must(cond)  ash_assert(cond) /* also in threads */

struct slot {
    _Atomic uint64_t page;  /* 0: none now */
    _Atomic uint64_t value; /* of the page */
    _Atomic uint64_t gen;   /* changes with the page, under its exclusive latch */
    _Atomic bool busy;      /* somebody frees or creates its page */
    uint8_t page_class;
    /* of the changes since the page was made; under the exclusive latch */
    uint32_t changes;
    uint64_t start[CHANGES_MAX], end[CHANGES_MAX];
};

struct model {
    struct world w;
    struct slot slot[SLOTS];
    unsigned ops, classes;
    uint64_t seed;
    bool faults;   /* the disk fails, for good perhaps */
    bool hindered; /* writes fail now and then for want of room or memory */
    struct task *task[WORKERS];
    struct {
        struct model *m;
        unsigned index;
    } arg[WORKERS];
    _Atomic uint64_t reads, valid, changed, freed;
};

/* ---- Operations ---- */

static void
slot_changed(struct model *m, struct slot *s, struct buf_page *p, uint64_t value)
{
    if (s->changes == CHANGES_MAX) { /* forget those that are durable */
        memmove(s->start, s->start + CHANGES_MAX / 2, CHANGES_MAX / 2 * 8);
        memmove(s->end, s->end + CHANGES_MAX / 2, CHANGES_MAX / 2 * 8);
        s->changes = CHANGES_MAX / 2;
    }
    atomic_store(&s->value, value);
    uint64_t end = page_change(&m->w, p, value);
    s->start[s->changes] = end - 32;
    s->end[s->changes++] = end;
}

/* Is this failure of something that needs frames or page writers one that the run provokes? */
static bool
excused(const struct model *m, ash_rc rc)
{
    return m->faults || (m->hindered && (rc == ASH_NO_SPACE || rc == ASH_NO_MEMORY));
}

/* A failure is right only when the slot got another page meanwhile, or when the disk fails. */
static void
check_failure(struct model *m, struct slot *s, uint64_t gen, ash_rc rc)
{
    if (m->hindered && excused(m, rc))
        return;
    must(rc == ASH_CORRUPT || (m->faults && (rc == ASH_IO || rc == ASH_POISONED)));
    must(m->faults || atomic_load(&s->gen) != gen);
}

static void
op_read_opt(struct model *m, struct slot *s)
{
    struct buf_page p;
    uint64_t gen = atomic_load(&s->gen), before = atomic_load(&s->value),
             page = atomic_load(&s->page), value = 0;

    if (page == 0 || atomic_load(&s->gen) != gen)
        return;
    for (unsigned tries = 0; tries < 20; tries++) {
        if (buf_opt_begin(m->w.pool, page, &p) != ASH_OK) {
            ash_rc rc = buf_fault(m->w.pool, page, IO_CLASS_READ);
            if (rc != ASH_OK) {
                check_failure(m, s, gen, rc);
                return;
            }
            continue;
        }
        atomic_fetch_add_explicit(&m->reads, 1, memory_order_relaxed);
        bool same = page_value_opt(&p, &value);
        if (!buf_opt_valid(m->w.pool, &p))
            continue;
        uint64_t after = atomic_load(&s->value);
        must(same);
        if (atomic_load(&s->gen) == gen)
            must(value >= before && value <= after);
        atomic_fetch_add_explicit(&m->valid, 1, memory_order_relaxed);
        return;
    }
}

static void
op_read_s(struct model *m, struct slot *s)
{
    struct buf_page p;
    uint64_t gen = atomic_load(&s->gen), page = atomic_load(&s->page);

    if (page == 0 || atomic_load(&s->gen) != gen)
        return;
    ash_rc rc = buf_latch_s(m->w.pool, page, &p);
    if (rc != ASH_OK) {
        check_failure(m, s, gen, rc);
        return;
    }
    task_point();
    if (atomic_load(&s->gen) == gen)
        must(page_value(&p) == atomic_load(&s->value));
    buf_unlatch_s(m->w.pool, &p);
}

static void
op_change(struct model *m, struct slot *s, bool optimistic)
{
    struct buf_page p;
    uint64_t gen = atomic_load(&s->gen), page = atomic_load(&s->page);
    ash_rc rc = buf_throttle(m->w.pool);

    if (rc != ASH_OK) {
        must(excused(m, rc));
        return;
    }
    if (page == 0 || atomic_load(&s->gen) != gen)
        return;
    if (optimistic) {
        if (buf_opt_begin(m->w.pool, page, &p) != ASH_OK)
            return;
        task_point();
        if (!buf_opt_to_x(m->w.pool, &p))
            return;
    } else {
        rc = buf_latch_x(m->w.pool, page, &p);
        if (rc != ASH_OK) {
            check_failure(m, s, gen, rc);
            return;
        }
    }
    if (atomic_load(&s->gen) == gen) {
        must(page_value(&p) == atomic_load(&s->value));
        slot_changed(m, s, &p, atomic_load(&s->value) + 1);
        task_point();
        atomic_fetch_add_explicit(&m->changed, 1, memory_order_relaxed);
    }
    buf_unlatch_x(m->w.pool, &p);
}

static void
slot_create(struct model *m, struct slot *s, struct random *rnd)
{
    struct buf_page p;
    s->page_class = (uint8_t)random_below(rnd, m->classes);
    ash_rc rc = buf_new(m->w.pool, PAGE_TYPE_VALUE, s->page_class, 7, &p);
    if (rc != ASH_OK) {
        must(rc == ASH_NO_MEMORY || excused(m, rc));
        return;
    }
    must(p.size == PAGE_CLASS_SIZE(s->page_class));
    must(page_value(&(struct buf_page){ .page = 0, .data = p.data, .size = p.size }) == 0);
    if (random_chance(rnd, 1, 8)) {
        buf_new_cancel(m->w.pool, &p);
        return;
    }
    s->changes = 0;
    atomic_fetch_add(&s->gen, 1);
    slot_changed(m, s, &p, 1 + random_below(rnd, 1000));
    atomic_store(&s->page, p.page);
    buf_unlatch_x(m->w.pool, &p);
}

static void
op_replace(struct model *m, struct slot *s, struct random *rnd)
{
    struct buf_page p;
    uint64_t page;

    if (atomic_exchange(&s->busy, true))
        return;
    page = atomic_load(&s->page);
    ash_rc rc = buf_throttle(m->w.pool);
    if (rc != ASH_OK) {
        must(excused(m, rc));
    } else if (page == 0) {
        slot_create(m, s, rnd);
    } else if ((rc = buf_latch_x(m->w.pool, page, &p)) == ASH_OK) {
        must(page_value(&p) == atomic_load(&s->value));
        pstore_map_lock(&m->w.ps);
        uint64_t end = toy_append(&m->w.log, 32);
        atomic_store(&s->page, 0); /* first: who reads the new gen must not find the old page */
        atomic_fetch_add(&s->gen, 1);
        buf_free(m->w.pool, &p, end);
        pstore_map_unlock(&m->w.ps);
        atomic_fetch_add_explicit(&m->freed, 1, memory_order_relaxed);
    } else {
        must(excused(m, rc));
    }
    atomic_store(&s->busy, false);
}

static void
op_prefetch(struct model *m, struct random *rnd)
{
    uint64_t page[8];
    unsigned n = 1 + (unsigned)random_below(rnd, 8);
    for (unsigned i = 0; i < n; i++)
        page[i] = atomic_load(&m->slot[random_below(rnd, SLOTS)].page);
    buf_prefetch(m->w.pool, page, n, IO_CLASS_READ_AHEAD);
}

static void
op_reserve(struct model *m, struct random *rnd)
{
    ash_rc rc = buf_reserve(m->w.pool, (uint8_t)random_below(rnd, m->classes), 2);
    must(rc == ASH_OK || excused(m, rc));
}

static void
op_write_until(struct model *m)
{
    ash_rc rc = buf_write_until(m->w.pool, atomic_load(&m->w.log.reserved));
    must(rc == ASH_OK || excused(m, rc));
}

/* One of the next writes fails. */
static void
op_hinder(struct model *m, struct random *rnd)
{
    m->w.ps.fail_rc = random_chance(rnd, 1, 2) ? ASH_NO_SPACE : ASH_NO_MEMORY;
    m->w.ps.fail_write_at = m->w.ps.writes + 1 + random_below(rnd, 3);
}

/* ---- The dirty-page table ---- */

struct dpt {
    uint64_t rec[TOY_PAGES_MAX];
    uint64_t oldest;
};

static void
dpt_add(void *arg, uint64_t page, uint64_t rec_lsn)
{
    struct dpt *d = arg;
    must(rec_lsn != 0 && page < TOY_PAGES_MAX);
    if (d->rec[page] == 0 || d->rec[page] > rec_lsn)
        d->rec[page] = rec_lsn;
    d->oldest = min_u64(d->oldest, rec_lsn);
}

/* Every change that a crash would lose begins at or after its page's rec_lsn, or after the end of
 * the log before the collection. */
static void
op_dirty_table(struct model *m)
{
    struct dpt *d = mem_zalloc(MEM_TEST, sizeof(*d));
    must(d != NULL);
    d->oldest = UINT64_MAX;
    uint64_t end = atomic_load(&m->w.log.reserved);
    uint64_t oldest = buf_oldest_dirty(m->w.pool);
    buf_dirty_pages(m->w.pool, dpt_add, d);
    for (unsigned i = 0; i < SLOTS && task_sim_active; i++) { /* no other task runs from here on */
        struct slot *s = &m->slot[i];
        uint64_t page = atomic_load(&s->page);
        if (page == 0)
            continue;
        uint64_t durable = toy_durable_lsn(&m->w.ps, page);
        uint64_t redo = d->rec[page] != 0 ? min_u64(d->rec[page], end) : end;
        for (uint32_t k = 0; k < s->changes; k++)
            if (s->end[k] > durable) {
                must(s->start[k] >= redo);
                must(s->start[k] >= min_u64(oldest, end));
            }
    }
    mem_free(MEM_TEST, d);
}

/* ---- Runs ---- */

static void
worker(void *arg)
{
    struct model *m = ((typeof(&((struct model *)0)->arg[0]))arg)->m;
    unsigned index = ((typeof(&((struct model *)0)->arg[0]))arg)->index;
    struct random rnd;

    random_init(&rnd, m->seed * 100 + index);
    for (unsigned i = 0; i < m->ops; i++) {
        /* half of the uses go to few slots, so that tasks meet */
        struct slot *s =
            &m->slot[random_chance(&rnd, 1, 2) ? random_below(&rnd, 6) : random_below(&rnd, SLOTS)];
        uint64_t what = random_below(&rnd, 1000);
        if (m->hindered && random_chance(&rnd, 1, 20))
            op_hinder(m, &rnd);
        if (what < 350)
            op_read_opt(m, s);
        else if (what < 500)
            op_read_s(m, s);
        else if (what < 750)
            op_change(m, s, /* optimistic= */ false);
        else if (what < 850)
            op_change(m, s, /* optimistic= */ true);
        else if (what < 910)
            op_replace(m, s, &rnd);
        else if (what < 950)
            op_prefetch(m, &rnd);
        else if (what < 955)
            buf_evict_all(m->w.pool);
        else if (what < 965)
            op_write_until(m);
        else if (what < 975)
            buf_pace(m->w.pool, atomic_load(&m->w.log.reserved));
        else if (what < 985)
            op_dirty_table(m);
        else
            op_reserve(m, &rnd);
    }
}

static void
model_end(struct model *m)
{
    struct buf_page p;
    ck_ok(buf_write_until(m->w.pool, UINT64_MAX));
    must(buf_oldest_dirty(m->w.pool) == UINT64_MAX);
    buf_evict_all(m->w.pool);
    struct buf_stats st;
    buf_stats(m->w.pool, &st);
    must(st.free_frames == st.frames && st.dirty_frames == 0);
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *s = &m->slot[i];
        if (s->page == 0)
            continue;
        ck_ok(buf_latch_s(m->w.pool, s->page, &p));
        must(page_value(&p) == s->value);
        must(p.size == PAGE_CLASS_SIZE(s->page_class));
        buf_unlatch_s(m->w.pool, &p);
    }
}

static void
model_run(struct model *m, struct env *e, uint64_t bytes, unsigned writers)
{
    struct random rnd;

    random_init(&rnd, m->seed);
    world_open(&m->w, e, bytes, writers);
    for (unsigned i = 0; i < SLOTS; i++) {
        must(buf_throttle(m->w.pool) == ASH_OK);
        slot_create(m, &m->slot[i], &rnd);
    }
    for (unsigned i = 0; i < WORKERS; i++) {
        m->arg[i].m = m;
        m->arg[i].index = i;
        ck_ok(task_spawn(e->rt, "worker", worker, &m->arg[i], &m->task[i]));
    }
    for (unsigned i = 0; i < WORKERS; i++)
        task_join(m->task[i]);
    task_mutex_lock(&m->w.ps.space_lock);
    m->w.ps.fail_write_at = 0;
    task_mutex_unlock(&m->w.ps.space_lock);
    if (!m->faults)
        model_end(m);
    world_close(&m->w);
}

static struct {
    uint64_t seed, trace, restarts;
    unsigned classes, writers, ops;
    uint64_t bytes;
    bool faults, hindered;
} run;

static void
body(struct env *e)
{
    struct model *m = mem_zalloc(MEM_TEST, sizeof(*m));
    must(m != NULL);
    m->seed = run.seed;
    m->classes = run.classes;
    m->ops = run.ops;
    m->faults = run.faults;
    m->hindered = run.hindered;
    model_run(m, e, run.bytes, run.writers);
    if (e->kind == IO_BACKEND_SIM) {
        task_sim_trace_add(e->rt, m->valid * 31 + m->changed * 7 + m->freed);
        run.trace = task_sim_trace(e->rt);
    }
    run.restarts += m->reads - m->valid;
    mem_free(MEM_TEST, m);
}

static void
sim_run(uint64_t seed, uint64_t bytes, unsigned classes, unsigned writers)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = seed };
    run.seed = seed;
    run.bytes = bytes;
    run.classes = classes;
    run.writers = writers;
    run.ops = 120;
    assert_note_seed(seed);
    ash_rc rc = env_run(&e, body);
    ck_assert_msg(rc == ASH_OK, "seed %llu: %s", (unsigned long long)seed, ash_rc_name(rc));
}

/* Goal: contents, dirty-page table and WAL rule hold under every interleaving. */
START_TEST(contents_agree_with_the_model)
{
    uint64_t first = test_seed(1), count = test_scale(500, 20000);
    memset(&run, 0, sizeof(run));
    for (uint64_t seed = first; seed < first + count; seed++)
        sim_run(seed, 256 << 10, 1 + (unsigned)(seed % 4), (unsigned)(1 + seed / 4 % 2));
    ck_assert_uint_gt(run.restarts, 0);
}
END_TEST

/* Goal: without page writer tasks, write_until does it all; a larger pool where little is evicted.
 * */
START_TEST(contents_agree_in_other_shapes)
{
    memset(&run, 0, sizeof(run));
    for (uint64_t seed = 1; seed <= test_scale(30, 1000); seed++)
        sim_run(seed, 1 << 20, 5, 1);
}
END_TEST

/* Goal: reads that fail now and then, or writes that fail for good, leave no latch, frame or wrong
 * content behind. */
START_TEST(disk_errors_leave_contents_right)
{
    memset(&run, 0, sizeof(run));
    run.faults = true;
    for (uint64_t seed = 1; seed <= test_scale(100, 3000); seed++) {
        struct env e = { .kind = IO_BACKEND_SIM, .seed = seed };
        ck_ok(sim_disk_create(seed, &e.disk));
        for (unsigned i = 0; i < 8; i++)
            sim_disk_fault(e.disk, &(struct sim_fault){ .kind = SIM_FAULT_ERROR,
                                                        .op = IO_OP_READ,
                                                        .nth = 5 + seed % 7 + i * 23,
                                                        .sys_errno = 5 });
        if (seed % 3 == 0)
            sim_disk_fault(e.disk, &(struct sim_fault){ .kind = SIM_FAULT_ERROR,
                                                        .op = IO_OP_WRITE,
                                                        .nth = 150 + seed * 7 % 300,
                                                        .sys_errno = 5 });
        run.seed = seed;
        run.bytes = 256 << 10;
        run.classes = 3;
        run.writers = 1;
        run.ops = 120;
        assert_note_seed(seed);
        ash_rc rc = env_run(&e, body);
        ck_assert_msg(rc == ASH_OK, "seed %llu: %s", (unsigned long long)seed, ash_rc_name(rc));
        sim_disk_destroy(e.disk);
    }
}
END_TEST

/* Goal: batches that are taken back, at any moment and under any traffic, lose nothing. */
START_TEST(batches_taken_back_lose_nothing)
{
    memset(&run, 0, sizeof(run));
    run.hindered = true;
    for (uint64_t seed = 1; seed <= test_scale(200, 10000); seed++)
        sim_run(seed, 256 << 10, 1 + (unsigned)(seed % 4), (unsigned)(1 + seed / 4 % 3));
}
END_TEST

/* Goal: equal seeds give equal runs. */
START_TEST(runs_are_reproducible)
{
    for (uint64_t seed = 1; seed <= 10; seed++) {
        sim_run(seed, 256 << 10, 3, 2);
        uint64_t trace = run.trace;
        sim_run(seed, 256 << 10, 3, 2);
        ck_assert_uint_eq(trace, run.trace);
    }
}
END_TEST

/* Goal: the same with threads (and what a thread sanitizer says to it). */
START_TEST(contents_agree_with_threads)
{
    struct env e = { .kind = _i == 0 ? IO_BACKEND_URING : IO_BACKEND_THREADS };
    memset(&run, 0, sizeof(run));
    run.seed = test_seed(5);
    run.bytes = 256 << 10;
    run.classes = 3;
    run.writers = 2;
    run.ops = (unsigned)test_scale(4000, 100000);
    ck_ok(env_run(&e, body));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("buffer/model");
    TCase *c = tcase_create("model");
    tcase_add_test(c, contents_agree_with_the_model);
    tcase_add_test(c, contents_agree_in_other_shapes);
    tcase_add_test(c, disk_errors_leave_contents_right);
    tcase_add_test(c, batches_taken_back_lose_nothing);
    tcase_add_test(c, runs_are_reproducible);
    tcase_set_timeout(c, 600);
    suite_add_tcase(s, c);
    c = tcase_create("threads");
    tcase_add_loop_test(c, contents_agree_with_threads, 0, 2);
    tcase_set_timeout(c, (double)test_scale(60, 600));
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
