/* SPDX-License-Identifier: Apache-2.0
 *
 * test_run_io.c - what executors are for: reads that overlap, few system calls, short work that is
 * not kept waiting by long work, stacks that give their memory back.
 */
#include "base/clock.h"

#include "tests/api/db_env.h"

#define ROWS        20000u
#define ROW_BYTES   1000u
#define CLIENTS     64u
#define READS       100u /* of each client */
#define BATCH       64u
#define OPTIONS_ONE "cache=8MiB,executors=1,zone_size=1MiB,wal_segment=1MiB"

/* ---- A table larger than the cache ---- */

struct load {
    uint32_t next, rows;
    uint8_t key[4];
    uint8_t value[ROW_BYTES];
};

static struct ash_slice
row_key(uint8_t key[4], uint32_t row)
{
    key[0] = (uint8_t)(row >> 24);
    key[1] = (uint8_t)(row >> 16);
    key[2] = (uint8_t)(row >> 8);
    key[3] = (uint8_t)row;
    return ash_slice(key, 4);
}

static ash_rc
load_next(void *arg, struct ash_slice *key_out, struct ash_slice *value_out)
{
    struct load *l = arg;

    if (l->next == l->rows)
        return ASH_NOT_FOUND;
    memset(l->value, (int)(l->next & 0xff), sizeof(l->value));
    *key_out = row_key(l->key, l->next++);
    *value_out = ash_slice(l->value, sizeof(l->value));
    return ASH_OK;
}

struct world {
    struct db_env *e;
    ash_db *db;
    ash_table *table;
    uint32_t rows;
};

static void
world_open(struct world *w, const char *options)
{
    ash_session *s;

    w->db = db_env_open(w->e, options, /* quiet= */ false);
    must_ok(ash_session_open(w->db, &s));
    must_ok(ash_table_open(s, "t", &w->table));
    ash_session_close(s);
}

static void
world_close(struct world *w)
{
    ash_table_close(w->table);
    must_ok(ash_close(w->db));
}

/* Makes the table and opens the database anew, so that no page is in memory. */
static void
world_make(struct world *w, struct db_env *e, const char *options, uint32_t rows)
{
    static struct load l;
    ash_session *s;

    *w = (struct world){ .e = e, .rows = rows };
    l = (struct load){ .rows = rows };
    w->db = db_env_open(e, options, /* quiet= */ false);
    must_ok(ash_session_open(w->db, &s));
    must_ok(ash_table_create(s, "t", NULL));
    must_ok(ash_table_open(s, "t", &w->table));
    must_ok(ash_bulk_load(s, w->table, load_next, &l));
    ash_session_close(s);
    world_close(w);
    world_open(w, options);
}

struct figures {
    uint64_t syscalls, reads, ahead, slices, high, resident, given_back, running;
};

static void
figures_fn(void *arg, const char *name, uint64_t value)
{
    struct figures *f = arg;
    const struct {
        const char *name;
        uint64_t *value;
    } wanted[] = { { "io.syscalls", &f->syscalls },
                   { "io.read.requests", &f->reads },
                   { "io.read_ahead.requests", &f->ahead },
                   { "executors.slices_spent", &f->slices },
                   { "executors.stack_high_water", &f->high },
                   { "executors.stack_resident", &f->resident },
                   { "executors.stacks_given_back", &f->given_back },
                   { "executors.running", &f->running } };

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (strcmp(name, wanted[i].name) == 0)
            *wanted[i].value = value;
}

static struct figures
figures(const struct world *w)
{
    struct figures f = { 0 };

    must_ok(ash_stats(w->db, figures_fn, &f));
    return f;
}

/* ---- Overlapping reads ---- */

/* Reads of one batch that fall into different leaves; returns how long it took. */
static uint64_t
multiget(struct world *w, ash_session *s)
{
    static const uint32_t step = 211;
    uint8_t bytes[BATCH][4];
    struct ash_slice keys[BATCH], values[BATCH];
    ash_rc results[BATCH];
    uint64_t start = clock_ns();

    for (uint32_t i = 0; i < BATCH; i++)
        keys[i] = row_key(bytes[i], i * step % w->rows);
    must_ok(ash_multiget(s, w->table, BATCH, keys, values, results));
    for (uint32_t i = 0; i < BATCH; i++)
        must(results[i] == ASH_OK && values[i].size == ROW_BYTES &&
                 *(const uint8_t *)values[i].data == (i * step % w->rows & 0xff),
             "row %u", i);
    return clock_ns() - start;
}

static uint64_t
scan(struct world *w, ash_session *s)
{
    ash_cursor *c;
    struct ash_row row;
    uint64_t start = clock_ns();
    uint32_t n = 0;
    ash_rc rc;

    must_ok(ash_cursor_open(s, w->table, NULL, &c));
    while ((rc = ash_cursor_next(c, &row)) == ASH_OK)
        n++;
    must_rc(rc, ASH_NOT_FOUND);
    must(n == w->rows, "%u rows", n);
    ash_cursor_close(c);
    return clock_ns() - start;
}

/* Every read of the simulated disk takes 1 ms, so time counts the reads that were waited for. */
#define READ_NS  UINT64_C(1000000)
#define SIM_ROWS 15000u

static void
body_sim_overlap(struct db_env *e)
{
    struct world w;
    ash_session *s;

    world_make(&w, e,
               "cache=8MiB,executors=1,zone_size=1MiB,wal_segment=1MiB,checkpoint_ms=86400000",
               SIM_ROWS);
    sim_disk_latency(e->disk, READ_NS, READ_NS);
    must_ok(ash_session_open(w.db, &s));
    uint64_t before = figures(&w).reads;
    uint64_t ns = multiget(&w, s);
    uint64_t reads = figures(&w).reads - before;
    must(reads >= BATCH, "%llu reads", (unsigned long long)reads);
    must(ns < 12 * READ_NS, "a batch of %u rows took the time of %llu reads", BATCH,
         (unsigned long long)(ns / READ_NS));
    before = figures(&w).ahead;
    ns = scan(&w, s);
    uint64_t ahead = figures(&w).ahead - before;
    must(ahead > SIM_ROWS / 4, "%llu leaves were read ahead", (unsigned long long)ahead);
    must(ns < ahead * READ_NS / 8, "a scan of %llu leaves took the time of %llu reads",
         (unsigned long long)ahead, (unsigned long long)(ns / READ_NS));
    ash_session_close(s);
    sim_disk_latency(e->disk, 5000, 100000);
    world_close(&w);
}

/* Goal: the reads of a batch, and those ahead of a scan, are under way together. */
START_TEST(reads_overlap_in_simulation)
{
    struct db_env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(1), .name = "overlap" };

    must_ok(db_env_run(&e, body_sim_overlap));
}
END_TEST

static ash_rc
multiget_and_scan(ash_session *s, void *arg)
{
    struct world *w = arg;
    struct figures before = figures(w), after;

    multiget(w, s);
    after = figures(w);
    uint64_t reads = after.reads - before.reads, calls = after.syscalls - before.syscalls;
    must(reads >= BATCH, "%llu reads", (unsigned long long)reads);
    must(w->e->kind != IO_BACKEND_URING || calls <= reads / 4, "%llu system calls for %llu reads",
         (unsigned long long)calls, (unsigned long long)reads);
    before = after;
    scan(w, s);
    after = figures(w);
    uint64_t ahead = after.ahead - before.ahead;
    calls = after.syscalls - before.syscalls;
    must(ahead >= ROWS / 8, "%llu leaves were read ahead", (unsigned long long)ahead);
    must(w->e->kind != IO_BACKEND_URING || calls <= ahead / 4, "%llu system calls for %llu leaves",
         (unsigned long long)calls, (unsigned long long)ahead);
    return ASH_OK;
}

static void
body_overlap(struct db_env *e)
{
    struct world w;
    ash_session *s;
    ash_future *f;

    world_make(&w, e, OPTIONS_ONE, ROWS);
    must_ok(ash_session_open(w.db, &s));
    must_ok(multiget_and_scan(s, &w));
    ash_session_close(s);
    world_close(&w);
    world_open(&w, OPTIONS_ONE);
    must_ok(ash_submit(w.db, multiget_and_scan, &w, 0, &f));
    must_ok(ash_future_wait(f));
    ash_future_close(f);
    world_close(&w);
}

/* Goal: the same on a thread and on an executor: one system call submits many of these reads. */
START_TEST(reads_overlap_on_threads_and_executors)
{
    struct db_env e = { .kind = (enum io_backend_kind)_i, .name = "overlap" };

    must_ok(db_env_run(&e, body_overlap));
}
END_TEST

/* ---- Batched submission ---- */

struct client {
    struct world *w;
    unsigned index;
};

static ash_rc
client_read(ash_session *s, void *arg)
{
    struct client *c = arg;
    struct random rnd;
    struct ash_slice value;
    uint8_t key[4];

    random_init(&rnd, c->index);
    for (unsigned i = 0; i < READS; i++) {
        uint32_t row = (uint32_t)random_below(&rnd, c->w->rows);
        must_ok(ash_get(s, c->w->table, row_key(key, row), &value));
    }
    return ASH_OK;
}

static void
body_batches(struct db_env *e)
{
    struct world w;
    struct client client[CLIENTS];
    ash_future *f[CLIENTS];

    world_make(&w, e, OPTIONS_ONE, ROWS);
    struct figures before = figures(&w);
    for (unsigned i = 0; i < CLIENTS; i++) {
        client[i] = (struct client){ &w, i };
        must_ok(ash_submit(w.db, client_read, &client[i], 0, &f[i]));
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        must_ok(ash_future_wait(f[i]));
        ash_future_close(f[i]);
    }
    struct figures after = figures(&w);
    uint64_t reads = after.reads - before.reads, calls = after.syscalls - before.syscalls;
    printf("%u fibers: %llu reads of %u gets, %.3f system calls per read\n", CLIENTS,
           (unsigned long long)reads, CLIENTS * READS, (double)calls / (double)reads);
    must(reads > CLIENTS * READS / 4, "%llu reads", (unsigned long long)reads);
    must(calls <= reads / 2, "%llu system calls for %llu reads", (unsigned long long)calls,
         (unsigned long long)reads);
    world_close(&w);
}

/* Goal: with many fibers waiting, one system call submits and reaps for several of them. */
START_TEST(fibers_share_system_calls)
{
    struct db_env e = { .kind = IO_BACKEND_URING, .name = "batches" };

    must_ok(db_env_run(&e, body_batches));
}
END_TEST

/* ---- Fairness ---- */

#define SCANS   4u
#define SHORTS  200u
#define LATE_NS UINT64_C(2000000000)
#define GIVE_UP_NS \
    UINT64_C(5000000000) /* long work ends then, whether short work came through or not */

struct long_work {
    struct world *w;
    uint64_t until_ns;
    _Atomic bool stop;
    _Atomic uint64_t rounds[SCANS];
    _Atomic unsigned started;
};

static ash_rc
scan_until_stopped(ash_session *s, void *arg)
{
    struct long_work *l = arg;
    unsigned me = atomic_fetch_add(&l->started, 1);

    while (!atomic_load(&l->stop) && clock_ns() < l->until_ns) {
        scan(l->w, s);
        atomic_fetch_add(&l->rounds[me], 1);
    }
    return ASH_OK;
}

static ash_rc
read_and_wait(ash_session *s, void *arg)
{
    struct world *w = arg;
    struct ash_slice value;
    uint8_t key[4];

    must_ok(ash_get(s, w->table, row_key(key, 7), &value));
    task_sleep_ns(1000); /* once out and in again, as for a page */
    must_ok(ash_get(s, w->table, row_key(key, 70), &value));
    return ASH_OK;
}

static int
by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void
body_fair(struct db_env *e)
{
    struct world w;
    struct long_work l = { 0 };
    uint64_t ns[SHORTS];
    ash_session *s;
    ash_future *scans[SCANS], *f;

    world_make(&w, e, "cache=64MiB,executors=1", 4000); /* it stays in memory: scans never park */
    must_ok(ash_session_open(w.db, &s));
    scan(&w, s);
    ash_session_close(s);
    l.w = &w;
    l.until_ns = clock_ns() + GIVE_UP_NS;
    for (unsigned i = 0; i < SCANS; i++)
        must_ok(ash_submit(w.db, scan_until_stopped, &l, 0, &scans[i]));
    while (atomic_load(&l.started) == 0)
        task_sleep_ns(100000);
    for (unsigned i = 0; i < SHORTS; i++) {
        uint64_t start = clock_ns();
        must_ok(ash_submit(w.db, read_and_wait, &w, 0, &f));
        must_ok(ash_future_wait(f));
        ns[i] = clock_ns() - start;
        must(ns[i] < LATE_NS, "short work %u took %llu ms beside %u scans", i,
             (unsigned long long)(ns[i] / 1000000), SCANS);
        ash_future_close(f);
    }
    atomic_store(&l.stop, true);
    for (unsigned i = 0; i < SCANS; i++) {
        must_ok(ash_future_wait(scans[i]));
        ash_future_close(scans[i]);
        must(atomic_load(&l.rounds[i]) > 0, "scan %u had no turn", i);
    }
    qsort(ns, SHORTS, sizeof(ns[0]), by_value);
    printf("beside %u scans: half within %llu us, 99%% within %llu us; %llu slices\n", SCANS,
           (unsigned long long)(ns[SHORTS / 2] / 1000),
           (unsigned long long)(ns[SHORTS * 99 / 100] / 1000),
           (unsigned long long)figures(&w).slices);
    must(ns[SHORTS / 2] < 20000000, "half of the short work took more than %llu us",
         (unsigned long long)(ns[SHORTS / 2] / 1000));
    must(figures(&w).slices > SHORTS / 4, "%llu slices", (unsigned long long)figures(&w).slices);
    world_close(&w);
}

/* Goal: short work waits for a slice of the long work on its executor, not for its end; all long
 * work advances. */
START_TEST(long_work_lets_short_work_through)
{
    struct db_env e = { .kind = IO_BACKEND_URING, .name = "fair" };

    must_ok(db_env_run(&e, body_fair));
}
END_TEST

/* ---- Stacks ---- */

#define DEEP 20000u

struct deep {
    struct task_waitq waiters;
    _Atomic unsigned inside;
    _Atomic bool open;
};

__attribute__((noinline)) static unsigned
use_stack(struct deep *d)
{
    volatile char frame[DEEP];
    struct task_waiter w;

    for (unsigned i = 0; i < DEEP; i += 512)
        frame[i] = (char)i;
    atomic_fetch_add(&d->inside, 1);
    task_wait_begin(&d->waiters, &w, 0);
    while (!atomic_load(&d->open))
        task_park();
    task_wait_end(&d->waiters, &w);
    return (unsigned)frame[512];
}

static ash_rc
go_deep(ash_session *s, void *arg)
{
    (void)s;
    return use_stack(arg) == 12345 ? ASH_INVALID : ASH_OK;
}

static void
body_stacks(struct db_env *e)
{
    struct world w;
    struct deep d = { .inside = 0 };

    world_make(&w, e, "cache=8MiB,executors=1", 100);
    task_waitq_init(&d.waiters);
    for (unsigned i = 0; i < CLIENTS; i++)
        must_ok(ash_run(w.db, go_deep, &d, NULL));
    while (atomic_load(&d.inside) < CLIENTS)
        task_sleep_ns(100000);
    struct figures during = figures(&w);
    must(during.high >= DEEP, "high-water mark %llu", (unsigned long long)during.high);
    must(during.resident >= CLIENTS * DEEP, "%llu resident", (unsigned long long)during.resident);
    atomic_store(&d.open, true);
    task_wait_wake(&d.waiters);
    struct figures after = figures(&w);
    for (unsigned i = 0; i < 1000 && after.resident > during.resident / 3; i++) {
        task_sleep_ns(10000000);
        after = figures(&w);
    }
    must(after.resident <= during.resident / 3, "%llu of %llu bytes stay",
         (unsigned long long)after.resident, (unsigned long long)during.resident);
    must(after.given_back > 0 && after.high >= DEEP, "high-water mark %llu",
         (unsigned long long)after.high);
    atomic_store(&d.inside, 0); /* the fibers still work */
    for (unsigned i = 0; i < CLIENTS; i++)
        must_ok(ash_run(w.db, go_deep, &d, NULL));
    world_close(&w);
    must(atomic_load(&d.inside) == CLIENTS, "%u", d.inside);
}

/* Goal: fibers that are idle give their memory back, and what the deepest needed is known. */
START_TEST(idle_fibers_give_memory_back)
{
    struct db_env e = { .kind = IO_BACKEND_URING, .name = "stacks" };

    must_ok(db_env_run(&e, body_stacks));
}
END_TEST

/* Is there io_uring on this machine? */
static bool
have_uring(void)
{
    ash_db *db = NULL;
    char dir[] = "dbtest.XXXXXX";

    must(mkdtemp(dir) != NULL, "mkdtemp");
    ash_rc rc = ash_open(dir, ASH_OPEN_CREATE, DB_ENV_TINY ",executors=1,io_backend=uring", &db);
    if (rc == ASH_OK)
        must_ok(ash_close(db));
    test_dir_remove(dir);
    return rc == ASH_OK;
}

static Suite *
suite(void)
{
    Suite *s = suite_create("run_io");
    TCase *t = tcase_create("run_io");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, reads_overlap_in_simulation);
    if (have_uring()) {
        tcase_add_loop_test(t, reads_overlap_on_threads_and_executors, IO_BACKEND_URING,
                            IO_BACKEND_THREADS + 1);
        tcase_add_test(t, fibers_share_system_calls);
    } else {
        tcase_add_loop_test(t, reads_overlap_on_threads_and_executors, IO_BACKEND_THREADS,
                            IO_BACKEND_THREADS + 1);
    }
    tcase_add_test(t, long_work_lets_short_work_through);
    tcase_add_test(t, idle_fibers_give_memory_back);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
