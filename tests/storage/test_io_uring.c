/* SPDX-License-Identifier: Apache-2.0
 *
 * test_io_uring.c - what only the real backends have: rings and their lives, fallbacks, threads,
 * executors.
 */
#include "base/bits.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/storage/io_env.h"

#define FILE_PAGES 256u

static void
fill_file(struct io_file *f)
{
    char *buf = env_buffer(FILE_PAGES * 4096);
    for (unsigned i = 0; i < FILE_PAGES; i++)
        env_fill(buf + i * 4096, 4096, i);
    ck_ok(io_write(f, buf, FILE_PAGES * 4096, 0, IO_CLASS_WRITE));
    ck_ok(io_flush(f, IO_CLASS_WRITE));
    mem_free(MEM_TEST, buf);
}

/* Reads random pages, `depth` at a time, into buf (depth pages); false when one is wrong. */
static bool
read_pages(struct io_file *f, char *buf, unsigned depth, unsigned rounds, uint64_t seed)
{
    struct random r;
    uint64_t *want = mem_aligned(MEM_TEST, IO_ALIGN, 4096);
    bool good = true;

    random_init(&r, seed);
    for (unsigned k = 0; k < rounds; k++) {
        struct io_req req[32], *ptr[32];
        uint64_t page[32];
        for (unsigned i = 0; i < depth; i++) {
            page[i] = random_below(&r, FILE_PAGES);
            req[i] =
                (struct io_req){ .file = f,
                                 .op = IO_OP_READ,
                                 .class = (enum io_class)(1 + random_below(&r, IO_CLASS_COUNT - 1)),
                                 .offset = page[i] * 4096,
                                 .bytes = 4096,
                                 .buf = buf + i * 4096 };
            ptr[i] = &req[i];
        }
        io_submit(ptr, depth);
        for (unsigned i = 0; i < depth; i++) {
            good = good && io_wait(ptr[i]) == ASH_OK;
            env_fill(want, 4096, page[i]);
            good = good && memcmp(buf + i * 4096, want, 4096) == 0;
        }
    }
    mem_free(MEM_TEST, want);
    return good;
}

/* ---- The ladder ---- */

static unsigned rung_wanted;

static void
body_ladder(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *buf = env_buffer(32 * 4096);

    ck_assert_int_eq(io_backend(e->io), IO_BACKEND_URING);
    ck_assert_uint_ge(io__uring_rung(e->io), rung_wanted);
    fill_file(f);
    ck_assert(read_pages(f, buf, 32, 20, 1));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: every rung of the flag ladder works.  Method: the hook makes the better ones fail with
 * EINVAL. */
START_TEST(every_rung_of_the_ladder_works)
{
    struct env e = { .kind = IO_BACKEND_AUTO };
    rung_wanted = (unsigned)_i;
    io__test_hooks.ladder_skip = (unsigned)_i;
    env_run(&e, body_ladder);
    io__test_hooks.ladder_skip = 0;
}
END_TEST

static void
body_ring(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *buf = env_buffer(32 * 4096);

    if (io_backend(e->io) != IO_BACKEND_URING) {
        printf("no ring with the flags %u here: skipped\n", e->ring);
    } else if ((e->ring & IO_RING_IOPOLL) == 0) {
        fill_file(f);
        io_register_buffer(e->io, buf, 32 * 4096);
        ck_assert(read_pages(f, buf, 32, 20, 1));
        usleep(100000); /* the kernel's thread has gone to sleep: it is woken */
        ck_assert(read_pages(f, buf, 1, 20, 2));
        io_unregister_buffer(e->io, buf);
    }
    ck_ok(io_flush(f, IO_CLASS_WRITE)); /* not through a ring that polls */
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: rings of other kinds do the same.  Few devices can be polled: there only the flush. */
START_TEST(rings_of_every_kind_do_the_same)
{
    struct env e = { .kind = IO_BACKEND_URING, .ring = (unsigned)_i };
    env_run(&e, body_ring);
}
END_TEST

static void
body_fallback(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *buf = env_buffer(32 * 4096);

    ck_assert_int_eq(io_backend(e->io), IO_BACKEND_THREADS);
    ck_assert_uint_eq(env_log.count, 1);
    ck_assert_ptr_nonnull(strstr(env_log.last, "thread pool"));
    fill_file(f);
    ck_assert(read_pages(f, buf, 32, 20, 1));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: where io_uring is forbidden or too old, threads take over with one logged line. */
START_TEST(without_io_uring_threads_take_over)
{
    struct env e = { .kind = IO_BACKEND_AUTO };
    static const int errs[] = { EPERM, ENOSYS, ENOMEM };
    env_log_start();
    io__test_hooks.setup_errno = errs[_i];
    env_run(&e, body_fallback);
    io__test_hooks.setup_errno = 0;
}
END_TEST

/* Goal: who asks for io_uring by name gets it, or one sentence that says why not and what to do. */
START_TEST(io_uring_asked_for_by_name_is_never_replaced)
{
    struct io_options o = { .backend = IO_BACKEND_URING };
    struct io *io = NULL;

    env_log_start();
    io__test_hooks.setup_errno = EPERM;
    ck_rc(io_create(&o, &io), ASH_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "io_uring"));
    ck_assert_ptr_nonnull(strstr(err_current()->message, "threads"));
    ck_assert_int_eq(err_current()->sys_errno, EPERM);
    ck_assert_uint_eq(env_log.count, 0);
    io__test_hooks.setup_errno = 0;
    ck_ok(io_create(&o, &io));
    ck_assert_int_eq(io_backend(io), IO_BACKEND_URING);
    io_destroy(io);
}
END_TEST

static void
body_late_refusal(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *buf = env_buffer(32 * 4096);

    io__test_hooks.setup_errno = EMFILE; /* from now on: no ring for this thread */
    fill_file(f);
    ck_assert(read_pages(f, buf, 8, 5, 1));
    io__test_hooks.setup_errno = 0;
    ck_assert(read_pages(f, buf, 8, 5, 2));
    ck_assert_uint_eq(env_log.count, 1);
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: a thread that gets no ring still gets its I/O done. */
START_TEST(a_thread_without_a_ring_works_synchronously)
{
    struct env e = { .kind = IO_BACKEND_URING };
    env_log_start();
    env_run(&e, body_late_refusal);
}
END_TEST

/* ---- Failing system calls ---- */

static int enter_errno;

static void
body_enter(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *buf = env_buffer(32 * 4096);

    fill_file(f);
    for (unsigned k = 0; k < 20; k++) {
        atomic_store(&io__test_hooks.enter_count, 1 + (int)k % 3);
        io__test_hooks.enter_errno = enter_errno;
        ck_assert(read_pages(f, buf, 32, 1, k));
    }
    io__test_hooks.enter_errno = 0;
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal (I4): an io_uring_enter() that fails loses no request. */
START_TEST(failed_enters_lose_nothing)
{
    struct env e = { .kind = IO_BACKEND_URING };
    static const int errs[] = { EINTR, EAGAIN, EBUSY };
    enter_errno = errs[_i];
    env_run(&e, body_enter);
}
END_TEST

/* ---- Registered files and buffers ---- */

static int buffers_errno;

static void
body_buffers(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *arena = mem_map(MEM_TEST, 4 << 20, false), *other;
    ck_assert_ptr_nonnull(arena);

    fill_file(f);
    io__test_hooks.buffers_errno = buffers_errno;
    io_register_buffer(e->io, arena, 4 << 20);
    ck_assert(read_pages(f, arena, 32, 40, 1)); /* becomes hot on the way */
    /* The same addresses, other memory: pinned pages of the first must not be used for the second.
     * */
    io_unregister_buffer(e->io, arena);
    mem_unmap(MEM_TEST, arena, 4 << 20);
    other = mem_map(MEM_TEST, 4 << 20, false);
    ck_assert_ptr_nonnull(other);
    io_register_buffer(e->io, other, 4 << 20);
    ck_assert(read_pages(f, other, 32, 20, 2));
    /* Writes from registered memory, too. */
    for (unsigned i = 0; i < 8; i++) {
        env_fill(other + i * 4096, 4096, 1000 + i);
        ck_ok(io_write(f, other + i * 4096, 4096, i * 4096, IO_CLASS_WRITE));
    }
    char *back = env_buffer(8 * 4096);
    ck_ok(io_read(f, back, 8 * 4096, 0, IO_CLASS_READ));
    ck_assert_mem_eq(back, other, 8 * 4096);
    ck_assert_uint_eq(env_log.count, buffers_errno != 0);
    io_unregister_buffer(e->io, other);
    mem_free(MEM_TEST, back);
    mem_unmap(MEM_TEST, other, 4 << 20);
    io_file_close(f);
    io__test_hooks.buffers_errno = 0;
}

/* Goal: registered memory gives the same data, follows changes, and its refusal is one line and no
 * error. */
START_TEST(registered_buffers_are_followed_or_done_without)
{
    struct env e = { .kind = IO_BACKEND_URING };
    env_log_start();
    buffers_errno = _i == 0 ? 0 : ENOMEM;
    env_run(&e, body_buffers);
}
END_TEST

static void
body_files(struct env *e)
{
    char *buf = env_buffer(4096), *want = env_buffer(4096), name[32];

    /* The same name and, surely, the same descriptor number again and again, each hot enough to be
     * registered. */
    for (unsigned k = 0; k < 5; k++) {
        snprintf(name, sizeof(name), "f%u", k);
        struct io_file *f = env_file(e, name, IO_CREATE);
        env_fill(want, 4096, k);
        ck_ok(io_write(f, want, 4096, 0, IO_CLASS_WRITE));
        for (unsigned i = 0; i < 200; i++) {
            ck_ok(io_read(f, buf, 4096, 0, IO_CLASS_READ));
            if (memcmp(buf, want, 4096) != 0)
                ck_abort_msg("file %u: read of another file", k);
        }
        io_file_close(f);
    }
    /* More hot files than the table has places. */
    struct io_file *many[150];
    for (unsigned k = 0; k < 150; k++) {
        snprintf(name, sizeof(name), "m%u", k);
        many[k] = env_file(e, name, IO_CREATE);
        env_fill(want, 4096, 500 + k);
        ck_ok(io_write(many[k], want, 4096, 0, IO_CLASS_WRITE));
    }
    for (unsigned i = 0; i < 100 * 150; i++) {
        ck_ok(io_read(many[i % 150], buf, 4096, 0, IO_CLASS_READ));
        env_fill(want, 64, 500 + i % 150);
        if (memcmp(buf, want, 64) != 0)
            ck_abort_msg("file %u: read of another file", i % 150);
    }
    for (unsigned k = 0; k < 150; k++)
        io_file_close(many[k]);
    mem_free(MEM_TEST, want);
    mem_free(MEM_TEST, buf);
}

/* Goal: a registered file is never taken for another one that got its place or its descriptor. */
START_TEST(registered_files_are_not_confused)
{
    struct env e = { .kind = IO_BACKEND_URING };
    env_run(&e, body_files);
}
END_TEST

/* ---- Threads ---- */

struct reader {
    struct io_file *f;
    uint64_t seed;
    bool good;
};

static void *
reader_main(void *arg)
{
    struct reader *r = arg;
    char *buf = mem_aligned(MEM_TEST, IO_ALIGN, 32 * 4096);
    r->good = read_pages(r->f, buf, 1 + (unsigned)(r->seed % 32), 60, r->seed);
    mem_free(MEM_TEST, buf);
    return NULL;
}

static void
body_threads(struct env *e)
{
    enum {
        N = 8,
        ROUNDS = 3
    };
    struct io_file *f = env_file(e, "a", IO_CREATE);

    fill_file(f);
    for (unsigned k = 0; k < ROUNDS; k++) { /* threads end, their rings with them */
        pthread_t t[N];
        struct reader r[N];
        for (unsigned i = 0; i < N; i++) {
            r[i] = (struct reader){ f, k * N + i, false };
            ck_assert_int_eq(pthread_create(&t[i], NULL, reader_main, &r[i]), 0);
        }
        for (unsigned i = 0; i < N; i++) {
            pthread_join(t[i], NULL);
            ck_assert(r[i].good);
        }
    }
    struct io_stats s;
    uint64_t total = 0;
    io_stats(e->io, &s);
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        total += s.requests[c];
    uint64_t want = 2;
    for (unsigned i = 0; i < N * ROUNDS; i++)
        want += 60 * (1 + i % 32);
    ck_assert_uint_eq(total, want); /* counted also after their threads ended */
    io_file_close(f);
}

/* Goal: many threads at once, each with its own ring or share of the pool. */
START_TEST(threads_do_not_disturb_each_other)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_threads);
}
END_TEST

static sem_t ring_made, may_exit;

static void *
lingering_main(void *arg)
{
    struct reader *r = arg;
    reader_main(r);
    sem_post(&ring_made);
    sem_wait(&may_exit); /* the disk manager goes meanwhile */
    return NULL;
}

static void
body_lingering(struct env *e)
{
    struct io_file *f;
    pthread_t t;
    struct reader r;

    sem_init(&ring_made, 0, 0);
    sem_init(&may_exit, 0, 0);
    env_open(e);
    f = env_file(e, "a", IO_CREATE);
    fill_file(f);
    r = (struct reader){ f, 3, false };
    ck_assert_int_eq(pthread_create(&t, NULL, lingering_main, &r), 0);
    sem_wait(&ring_made);
    io_file_close(f);
    env_close(e);
    env_open(
        e); /* another one, perhaps at the same address; this thread's old ring must not serve it */
    f = env_file(e, "a", 0);
    char *buf = env_buffer(32 * 4096);
    ck_assert(read_pages(f, buf, 32, 10, 1));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
    env_close(e);
    sem_post(&may_exit);
    pthread_join(t, NULL);
    ck_assert(r.good);
}

/* Goal (I5): a disk manager may go before the threads that used it. */
START_TEST(rings_survive_neither_thread_nor_manager)
{
    struct env e = { .kind = (enum io_backend_kind)_i, .no_io = true };
    for (unsigned k = 0; k < 5; k++)
        env_run(&e, body_lingering);
}
END_TEST

/* ---- Executors ---- */

static _Atomic unsigned fibers_done, fibers_good;
static _Atomic bool fibers_fiber;

static void
fiber_main(void *arg)
{
    struct reader *r = arg;
    char *buf = mem_aligned(MEM_TEST, IO_ALIGN, 8 * 4096);
    atomic_store(&fibers_fiber, task_is_fiber());
    if (read_pages(r->f, buf, 1 + (unsigned)(r->seed % 8), 20, r->seed))
        atomic_fetch_add(&fibers_good, 1);
    mem_free(MEM_TEST, buf);
    atomic_fetch_add(&fibers_done, 1);
}

static void
body_executor(struct env *e)
{
    enum {
        N = 400
    };
    struct io_file *f = env_file(e, "a", IO_CREATE);
    struct reader *r = mem_alloc(MEM_TEST, N * sizeof(*r));
    struct task_executor *ex[2];
    struct io_stats before, after;

    fill_file(f);
    atomic_store(&fibers_done, 0);
    atomic_store(&fibers_good, 0);
    io_stats(e->io, &before);
    for (unsigned k = 0; k < 2; k++)
        ck_ok(task_executor_create(e->rt, "test", 64, 1000, 0, &ex[k]));
    for (unsigned i = 0; i < N; i++) {
        r[i] = (struct reader){ f, i, false };
        ck_ok(task_executor_submit(ex[i % 2], fiber_main, &r[i], true));
        if (i == N / 2)
            usleep(
                20000); /* lets them run dry and sleep in the ring: a submission must wake them */
    }
    for (unsigned k = 0; k < 2; k++)
        task_executor_destroy(ex[k]);
    ck_assert_uint_eq(atomic_load(&fibers_done), N);
    ck_assert_uint_eq(atomic_load(&fibers_good), N);
    ck_assert(atomic_load(&fibers_fiber));
    io_stats(e->io, &after);
    uint64_t requests = 0;
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        requests += after.requests[c] - before.requests[c];
    if (e->kind == IO_BACKEND_URING)
        ck_assert_msg(
            after.syscalls - before.syscalls < requests / 2, "%llu system calls for %llu requests",
            (unsigned long long)(after.syscalls - before.syscalls), (unsigned long long)requests);
    mem_free(MEM_TEST, r);
    io_file_close(f);
}

/* Goal: fibers park for their I/O, many are in flight at once, and a batch costs few system calls.
 * */
START_TEST(fibers_share_a_ring)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_executor);
}
END_TEST

static void
body_executor_outlives(struct env *e)
{
    struct task_executor *ex;
    struct reader r[2];

    ck_ok(task_executor_create(e->rt, "test", 8, 16, 0, &ex));
    for (unsigned k = 0; k < 2; k++) {
        atomic_store(&fibers_done, 0);
        atomic_store(&fibers_good, 0);
        env_open(e);
        struct io_file *f = env_file(e, "a", IO_CREATE);
        fill_file(f);
        r[k] = (struct reader){ f, k, false };
        ck_ok(task_executor_submit(ex, fiber_main, &r[k], true));
        while (atomic_load(&fibers_done) == 0)
            task_yield();
        ck_assert_uint_eq(atomic_load(&fibers_good), 1);
        usleep(2000); /* the executor goes to sleep in the ring */
        io_file_close(f);
        env_close(e);
    }
    task_executor_destroy(ex);
}

/* Goal (I5): an executor outlives the disk managers whose rings it sleeps in. */
START_TEST(an_executor_outlives_its_disk_manager)
{
    struct env e = { .kind = (enum io_backend_kind)_i, .no_io = true };
    for (unsigned k = 0; k < 5; k++)
        env_run(&e, body_executor_outlives);
}
END_TEST

/* ---- fork ---- */

static void
body_fork(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE | IO_LOCK), *g = NULL;
    char *buf = env_buffer(4096);
    int status;

    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    pid_t pid = fork();
    if (pid == 0) {
        bool good = io_read(f, buf, 4096, 0, IO_CLASS_READ) == ASH_MISUSE &&
                    io_write(f, buf, 4096, 0, IO_CLASS_WRITE) == ASH_MISUSE &&
                    io_flush(f, IO_CLASS_WRITE) == ASH_MISUSE &&
                    io_file_truncate(f, 0) == ASH_MISUSE &&
                    io_file_open(e->dir, "b", IO_CREATE, &g) == ASH_MISUSE;
        io_file_close(f);
        io_dir_close(e->dir);
        io_destroy(e->io);
        _exit(good ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    ck_rc(io_file_open(e->dir, "a", IO_LOCK, &g),
          ASH_BUSY); /* the child's close released nothing */
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal (R8): a forked child is refused and does no harm. */
START_TEST(a_forked_child_is_refused)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_fork);
}
END_TEST

/* Skips what cannot be tested here, visibly. */
static void
skip_without_io_uring(void)
{
    struct io_options o = { .backend = IO_BACKEND_AUTO };
    struct io *io;
    ck_ok(io_create(&o, &io));
    bool have = io_backend(io) == IO_BACKEND_URING;
    io_destroy(io);
    if (!have) {
        printf("io_uring is not available: skipped\n");
        exit(77);
    }
}

static Suite *
suite(void)
{
    skip_without_io_uring();
    Suite *s = suite_create("io_uring");
    TCase *t = tcase_create("rings");

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, every_rung_of_the_ladder_works, 0, 5);
    tcase_add_loop_test(t, rings_of_every_kind_do_the_same, 1, 8);
    tcase_add_loop_test(t, without_io_uring_threads_take_over, 0, 3);
    tcase_add_test(t, io_uring_asked_for_by_name_is_never_replaced);
    tcase_add_test(t, a_thread_without_a_ring_works_synchronously);
    tcase_add_loop_test(t, failed_enters_lose_nothing, 0, 3);
    tcase_add_loop_test(t, registered_buffers_are_followed_or_done_without, 0, 2);
    tcase_add_test(t, registered_files_are_not_confused);
    suite_add_tcase(s, t);
    t = tcase_create("threads");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, threads_do_not_disturb_each_other, IO_BACKEND_URING,
                        IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, rings_survive_neither_thread_nor_manager, IO_BACKEND_URING,
                        IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, fibers_share_a_ring, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, an_executor_outlives_its_disk_manager, IO_BACKEND_URING,
                        IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, a_forked_child_is_refused, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
