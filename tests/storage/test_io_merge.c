/* SPDX-License-Identifier: Apache-2.0
 *
 * test_io_merge.c - merged I/Os, windows, credits, cancelling and the watchdog through the backends:
 * real files, and a simulated disk that fails at every index.
 */
#include "base/bits.h"
#include "base/clock.h"

#include <errno.h>
#include <pthread.h>

#include "tests/storage/io_env.h"

#define PAGES 256u

static struct io_req req[PAGES], *list[PAGES];
static char *data;

static void
shuffle(unsigned *order, unsigned n, uint64_t seed)
{
    struct random r;

    random_init(&r, seed);
    for (unsigned i = 0; i < n; i++)
        order[i] = i;
    for (unsigned i = n - 1; i > 0; i--) {
        unsigned k = (unsigned)random_below(&r, i + 1), t = order[i];
        order[i] = order[k];
        order[k] = t;
    }
}

/* Every page of the first n, in a random order, each a request of its own. */
static void
submit_pages(struct io_file *f, enum io_op op, enum io_class class, unsigned n, uint64_t seed)
{
    unsigned order[PAGES];

    shuffle(order, n, seed);
    for (unsigned i = 0; i < n; i++) {
        unsigned p = order[i];
        if (op == IO_OP_WRITE)
            env_fill(data + p * 4096, 4096, seed * 1000 + p);
        else
            memset(data + p * 4096, 0, 4096);
        req[i] = (struct io_req){ .file = f,
                                  .op = op,
                                  .class = class,
                                  .offset = p * 4096,
                                  .buf = data + p * 4096,
                                  .bytes = 4096 };
        list[i] = &req[i];
    }
    io_submit(list, n);
}

static bool
page_is(unsigned p, uint64_t seed)
{
    static uint64_t want[512];
    env_fill(want, 4096, seed * 1000 + p);
    return memcmp(data + p * 4096, want, 4096) == 0;
}

static uint64_t
ios_of(struct io *io, enum io_class class)
{
    struct io_stats s;
    io_stats(io, &s);
    return s.ios[class];
}

/* ---- Data ---- */

static void
body_merged(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);

    data = env_buffer(PAGES * 4096);
    ck_ok(io_file_allocate(f, PAGES * 4096, true));
    for (uint64_t seed = 1; seed <= 6; seed++) {
        uint64_t before = ios_of(e->io, IO_CLASS_COMPACTION);
        submit_pages(f, IO_OP_WRITE, IO_CLASS_COMPACTION, PAGES, seed);
        for (unsigned i = 0; i < PAGES; i++)
            ck_ok(io_wait(&req[i]));
        uint64_t writes = ios_of(e->io, IO_CLASS_COMPACTION) - before;
        before = ios_of(e->io, IO_CLASS_SCRUB);
        submit_pages(f, IO_OP_READ, IO_CLASS_SCRUB, PAGES, seed);
        for (unsigned i = 0; i < PAGES; i++)
            ck_ok(io_wait(&req[i]));
        uint64_t reads = ios_of(e->io, IO_CLASS_SCRUB) - before;
        for (unsigned p = 0; p < PAGES; p++)
            ck_assert_msg(page_is(p, seed), "page %u of round %u", p, (unsigned)seed);
        if (io__test_hooks.short_bytes == 0) {
            ck_assert_uint_le(writes, PAGES * 3 / 10); /* at least 70 % fewer */
            ck_assert_uint_le(reads, PAGES * 3 / 10);
        }
    }
    mem_free(MEM_TEST, data);
    io_file_close(f);
}

/* Goal (R11): requests that arrive in any order travel together, and each page is where it belongs. */
START_TEST(merged_requests_land_where_they_belong)
{
    ENV_RUN(body_merged);
}
END_TEST

static void
body_merged_short(struct env *e)
{
    io__test_hooks.short_bytes = 12288;
    body_merged(e);
    io__test_hooks.short_bytes = 0;
}

/* Goal: a merged I/O that is cut short is continued, request by request. */
START_TEST(merged_requests_survive_short_transfers)
{
    ENV_RUN(body_merged_short);
}
END_TEST

static void
body_merged_end(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);

    data = env_buffer(PAGES * 4096);
    ck_ok(io_file_allocate(f, 20 * 4096, true));
    submit_pages(f, IO_OP_READ, IO_CLASS_SCRUB, 32, 1);
    for (unsigned i = 0; i < 32; i++)
        ck_rc(io_wait(&req[i]), req[i].offset < 20 * 4096 ? ASH_OK : ASH_CORRUPT);
    mem_free(MEM_TEST, data);
    io_file_close(f);
}

/* Goal (R7, R11): of merged reads across the end of the file only those beyond it fail. */
START_TEST(merged_reads_end_with_the_file_one_by_one)
{
    ENV_RUN(body_merged_end);
}
END_TEST

/* ---- Failures at every index (simulated) ---- */

static struct sim_fault fault;
static enum io_op fault_op;
static unsigned failures, wrong;
static bool poisoned;

static void
body_fault(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);

    data = env_buffer(PAGES * 4096);
    ck_ok(io_file_allocate(f, PAGES * 4096, true));
    submit_pages(f, IO_OP_WRITE, IO_CLASS_FLUSH, PAGES, 1);
    for (unsigned i = 0; i < PAGES; i++)
        ck_ok(io_wait(&req[i]));
    sim_disk_fault(e->disk, &fault);
    failures = wrong = 0;
    unsigned n = 96;
    submit_pages(f, fault_op, IO_CLASS_FLUSH, n, fault_op == IO_OP_READ ? 1 : 2);
    bool ok[PAGES] = { false };
    for (unsigned i = 0; i < n; i++) {
        bool good = io_wait(&req[i]) == ASH_OK;
        ok[req[i].offset / 4096] = good;
        failures += !good;
    }
    poisoned = io_poisoned(e->io);
    for (unsigned p = 0; p < n; p++) {
        if (fault_op == IO_OP_WRITE)
            ck_ok(sim_disk_peek(e->disk, "db", "a", p * 4096, data + p * 4096, 4096));
        wrong += ok[p] && !page_is(p, fault_op == IO_OP_READ ? 1 : 2);
    }
    mem_free(MEM_TEST, data);
    io_file_close(f);
}

static void
run_fault(uint64_t seed)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = seed };
    ck_ok(env_run(&e, body_fault));
    ck_assert_uint_eq(wrong, 0); /* success is never a lie */
}

/* Goal (R2, R3, R11): whichever I/O of a merged load fails however: reads come through by being read
 * alone, writes fail together and poison, short ones are continued. */
START_TEST(failures_of_merged_ios_are_shared_out)
{
    static const int errnos[] = { EIO, ENOSPC, ECANCELED, EAGAIN, EINTR };

    fault_op = _i == 0 ? IO_OP_READ : IO_OP_WRITE;
    for (uint64_t nth = 1; nth <= 8; nth++) {
        uint64_t at = nth;
        for (unsigned k = 0; k < ASH_ARRAY_SIZE(errnos); k++) {
            bool again = errnos[k] == EAGAIN || errnos[k] == EINTR;
            fault = (struct sim_fault){
                .kind = SIM_FAULT_ERROR, .op = (int)fault_op, .nth = at, .sys_errno = errnos[k]
            };
            if (fault_op == IO_OP_WRITE)
                fault.nth += 1; /* the first load of pages is one I/O */
            run_fault(nth);
            if (fault_op == IO_OP_READ || again) {
                ck_assert_uint_eq(failures, 0);
                ck_assert(!poisoned);
            } else {
                ck_assert((failures > 0) == poisoned);
                ck_assert(failures > 0 || nth > 1);
            }
        }
        for (int64_t cut = 512; cut < 96 * 4096; cut += 37 * 512) {
            fault = (struct sim_fault){
                .kind = SIM_FAULT_SHORT, .op = (int)fault_op, .nth = at, .delta = cut
            };
            if (fault_op == IO_OP_WRITE)
                fault.nth += 1;
            run_fault(nth);
            ck_assert_uint_eq(failures, 0);
            ck_assert(!poisoned);
        }
    }
}
END_TEST

/* Goal: an error that stays fails exactly the reads that meet it. */
START_TEST(a_lasting_read_error_fails_every_read_it_meets)
{
    fault_op = IO_OP_READ;
    fault = (struct sim_fault){
        .kind = SIM_FAULT_ERROR, .op = IO_OP_READ, .nth = 1, .sticky = true, .sys_errno = EIO
    };
    run_fault(1);
    ck_assert_uint_eq(failures, 96);
    ck_assert(!poisoned);
}
END_TEST

static void
body_hung(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    struct io_stats s;

    data = env_buffer(PAGES * 4096);
    ck_ok(io_file_allocate(f, PAGES * 4096, true));
    fault = (struct sim_fault){
        .kind = SIM_FAULT_DELAY, .op = IO_OP_WRITE, .nth = 1, .delta = 60000000000
    };
    sim_disk_fault(e->disk, &fault);
    env_log_start();
    uint64_t begin = clock_ns();
    submit_pages(f, IO_OP_WRITE, IO_CLASS_FLUSH, 16, 1);
    ck_ok(io_wait(&req[0]));
    ck_assert_uint_ge(clock_ns() - begin, 60000000000);
    for (unsigned i = 1; i < 16; i++)
        ck_ok(io_wait(&req[i]));
    ck_assert_uint_eq(env_log.count, 1);
    ck_assert_ptr_nonnull(strstr(env_log.last, "device may hang"));
    io_stats(e->io, &s);
    ck_assert_uint_ge(s.stuck, 1);
    mem_free(MEM_TEST, data);
    io_file_close(f);
}

/* Goal: a device that hangs is reported, and what it had is neither given up nor lost. */
START_TEST(a_hung_device_is_reported)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(3) };
    ck_ok(env_run(&e, body_hung));
}
END_TEST

/* ---- Cancelling ---- */

static void
body_cancel(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    unsigned taken = 0;
    struct io_stats s;

    data = env_buffer(PAGES * 4096);
    ck_ok(io_file_allocate(f, PAGES * 4096, true));
    submit_pages(f, IO_OP_WRITE, IO_CLASS_COMPACTION, PAGES, 1);
    bool gone[PAGES] = { false };
    for (unsigned i = 0; i < PAGES; i += 2) {
        gone[req[i].offset / 4096] = io_cancel(&req[i]);
        taken += gone[req[i].offset / 4096];
    }
    for (unsigned i = 0; i < PAGES; i++) {
        bool was = gone[req[i].offset / 4096];
        ck_rc(io_wait(&req[i]), was ? ASH_CANCELLED : ASH_OK);
        ck_assert(!io_cancel(&req[i]));
    }
    ck_assert(!io_poisoned(e->io));
    io_stats(e->io, &s);
    ck_assert_uint_eq(s.cancelled, taken);
    if (io_backend(e->io) == IO_BACKEND_URING)
        ck_assert_uint_eq(taken, PAGES / 2); /* this thread had not looked at its ring yet */
    ck_ok(io_read(f, data, PAGES * 4096, 0, IO_CLASS_READ));
    static char zero[4096];
    for (unsigned p = 0; p < PAGES; p++)
        ck_assert(gone[p] ? memcmp(data + p * 4096, zero, 4096) == 0 : page_is(p, 1));
    mem_free(MEM_TEST, data);
    io_file_close(f);
}

/* Goal: what was taken back never touched the file, what was not did, and nothing is poisoned. */
START_TEST(cancelled_requests_leave_no_trace)
{
    ENV_RUN(body_cancel);
}
END_TEST

/* ---- Windows and credits on real backends ---- */

static struct io_file *shared;
static _Atomic unsigned fiber_bad, fiber_ended;

static void
unwaited_main(void *arg)
{
    enum {
        N = 32
    };
    struct io_req *r = mem_zalloc(MEM_TEST, N * sizeof(*r)), *p;
    char *buf = mem_aligned(MEM_TEST, IO_ALIGN, N * 4096);
    (void)arg;

    for (unsigned i = 0; i < N; i++) {
        r[i] = (struct io_req){ .file = shared,
                                .op = IO_OP_WRITE,
                                .class = IO_CLASS_FLUSH,
                                .offset = (i * 7 % N) * 4096,
                                .buf = buf + i * 4096,
                                .bytes = 4096 };
        memset(buf + i * 4096, (int)i, 4096);
        p = &r[i];
        io_submit(&p, 1);
    }
    task_sleep_ns(500000000); /* longer than any window */
    for (unsigned i = 0; i < N; i++)
        if (!atomic_load(&r[i].done))
            atomic_fetch_add(&fiber_bad, 1);
    for (unsigned i = 0; i < N; i++)
        if (io_wait(&r[i]) != ASH_OK)
            atomic_fetch_add(&fiber_bad, 1);
    mem_free(MEM_TEST, r);
    mem_free(MEM_TEST, buf);
    atomic_fetch_add(&fiber_ended, 1);
}

static void
body_unwaited(struct env *e)
{
    struct task_executor *ex;

    shared = env_file(e, "a", IO_CREATE);
    atomic_store(&fiber_bad, 0);
    atomic_store(&fiber_ended, 0);
    ck_ok(task_executor_create(e->rt, "test", 4, 16, 0, &ex));
    ck_ok(task_executor_submit(ex, unwaited_main, NULL, true));
    task_executor_destroy(ex);
    ck_assert_uint_eq(atomic_load(&fiber_ended), 1);
    ck_assert_uint_eq(atomic_load(&fiber_bad), 0);
    io_file_close(shared);
}

/* Goal: what nobody waits for goes all the same, when its window ends. */
START_TEST(requests_go_without_anybody_waiting)
{
    ENV_RUN(body_unwaited);
}
END_TEST

static void *
background_main(void *arg)
{
    struct env *e = arg;
    enum {
        N = 8,
        BYTES = 65536
    };
    static _Atomic unsigned next;
    struct io_req r[N], *p[N];
    char *buf = mem_aligned(MEM_TEST, IO_ALIGN, N * BYTES);
    uint64_t base = atomic_fetch_add(&next, 1) % 8 * (N * BYTES);
    (void)e;

    memset(buf, 1, N * BYTES);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < N; i++) {
            r[i] = (struct io_req){ .file = shared,
                                    .op = IO_OP_WRITE,
                                    .class = (enum io_class)(IO_CLASS_PAGE_WRITER + i % 5),
                                    .offset = base + i * BYTES,
                                    .buf = buf + i * BYTES,
                                    .bytes = BYTES };
            p[i] = &r[i];
        }
        io_submit(p, N);
        for (unsigned i = 0; i < N; i++)
            if (io_wait(p[i]) != ASH_OK)
                atomic_fetch_add(&fiber_bad, 1);
    }
    mem_free(MEM_TEST, buf);
    return NULL;
}

static void
body_rings(struct env *e)
{
    enum {
        N = 6
    };
    pthread_t t[N];
    struct io_stats s;

    shared = env_file(e, "a", IO_CREATE);
    atomic_store(&fiber_bad, 0);
    ck_ok(io_file_allocate(shared, 8 * 8 * 65536, true));
    io__credit_take(e->io, 1u << 30, clock_ns()); /* somebody holds all credits for ever */
    for (unsigned i = 0; i < N; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, background_main, e), 0);
    usleep(300000);
    io__credit_give(e->io, 1u << 30);
    for (unsigned i = 0; i < N; i++)
        pthread_join(t[i], NULL);
    ck_assert_uint_eq(atomic_load(&fiber_bad), 0);
    io_stats(e->io, &s);
    ck_assert_uint_eq(s.credit_used_ns, 0);
    ck_assert_uint_gt(s.overdue[IO_CLASS_PAGE_WRITER] + s.overdue[IO_CLASS_FLUSH] +
                          s.overdue[IO_CLASS_COMPACTION],
                      0);
    io_file_close(shared);
}

/* Goal (R10): rings without credit go on by deadline, notice when there is credit again, and all
 * credits come back. */
START_TEST(rings_share_credits)
{
    ENV_RUN(body_rings);
}
END_TEST

/* ---- What only io_uring has ---- */

static void
body_stale(struct env *e)
{
    struct io_stats s;

    if (io_backend(e->io) != IO_BACKEND_URING)
        return;
    io__test_hooks.stale_completions = true;
    body_merged(e);
    io__test_hooks.stale_completions = false;
    io_stats(e->io, &s);
    ck_assert_uint_gt(s.stale, 0);
}

/* Goal (I3): a completion that comes a second time, for a slot that serves another request by then,
 * is dropped and counted. */
START_TEST(stale_completions_are_dropped)
{
    struct env e = { .kind = IO_BACKEND_URING };
    ck_ok(env_run(&e, body_stale));
}
END_TEST

static void
body_tick(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    struct io_stats s = { .stuck = 0 };

    data = env_buffer(PAGES * 4096);
    env_log_start();
    ck_ok(io_file_allocate(f, PAGES * 4096, true));
    io__test_hooks.stuck_ns = 1; /* everything is stuck, */
    io__test_hooks.tick_ns = 20000;
    for (unsigned round = 0; round < 3000 && s.stuck == 0; round++) {
        submit_pages(f, IO_OP_READ, IO_CLASS_READ, PAGES, round);
        for (unsigned i = 0; i < PAGES; i++)
            ck_ok(io_wait(&req[i]));
        io_stats(e->io, &s);
    }
    io__test_hooks.stuck_ns = io__test_hooks.tick_ns = 0;
    ck_assert_uint_gt(s.stuck, 0); /* and that is seen while somebody waits */
    mem_free(MEM_TEST, data);
    io_file_close(f);
}

/* Goal: the watchdog looks while threads sleep in the kernel. */
START_TEST(the_watchdog_looks_while_others_wait)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    ck_ok(env_run(&e, body_tick));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("io_merge");
    TCase *t = tcase_create("every backend");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, merged_requests_land_where_they_belong, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, merged_requests_survive_short_transfers, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, merged_reads_end_with_the_file_one_by_one, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, cancelled_requests_leave_no_trace, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, requests_go_without_anybody_waiting, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, rings_share_credits, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    suite_add_tcase(s, t);
    t = tcase_create("simulated failures");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, failures_of_merged_ios_are_shared_out, 0, 2);
    tcase_add_test(t, a_lasting_read_error_fails_every_read_it_meets);
    tcase_add_test(t, a_hung_device_is_reported);
    suite_add_tcase(s, t);
    t = tcase_create("rings");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, stale_completions_are_dropped);
    tcase_add_loop_test(t, the_watchdog_looks_while_others_wait, IO_BACKEND_URING,
                        IO_BACKEND_THREADS + 1);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
