/* SPDX-License-Identifier: Apache-2.0
 *
 * test_task_executor.c - executor threads and their fibers.
 *
 * Goal: every request runs exactly once whoever submits it, fibers wake across threads, timers and
 * pollers get their turn while the queue is long, and nothing is left when the executor is
 * destroyed.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "task/task.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

#include "tests/task/task_env.h"

#define SUBMITTERS 4

static struct task_executor *
executor(unsigned fibers, unsigned queue_max)
{
    struct task_executor *ex;
    ck_assert_int_eq(task_executor_create(host_rt, "test", fibers, queue_max, 0, &ex), ASH_OK);
    return ex;
}

/* ---- Requests ---- */

struct load {
    struct task_executor *ex;
    _Atomic uint64_t runs;
    _Atomic uint32_t running, running_max;
    uint64_t count;
};

static void
request(void *arg)
{
    struct load *l = arg;
    ck_assert(task_is_fiber());
    ck_assert_ptr_eq(task_executor_self(), l->ex);
    uint32_t n = atomic_fetch_add(&l->running, 1) + 1;
    if (n > atomic_load(&l->running_max))
        atomic_store(&l->running_max, n);
    uint64_t k = atomic_fetch_add(&l->runs, 1);
    if (k % 3 == 0)
        task_yield();
    if (k % 64 == 0)
        task_sleep_ns(1000);
    atomic_fetch_sub(&l->running, 1);
}

static void
submitter(void *arg)
{
    struct load *l = arg;
    for (uint64_t i = 0; i < l->count; i++)
        ck_assert_int_eq(task_executor_submit(l->ex, request, l, true), ASH_OK);
}

START_TEST(every_request_of_many_threads_runs_once)
{
    static const unsigned fibers[] = { 1, 7, 200 }, queue[] = { 1, 5, 1024 };
    for (int i = 0; i < 3; i++) {
        struct load l = { .ex = executor(fibers[i], queue[i]), .count = test_scale(2500, 100000) };
        struct task *t[SUBMITTERS];
        for (int k = 0; k < SUBMITTERS; k++)
            ck_assert_int_eq(task_spawn(host_rt, "submit", submitter, &l, &t[k]), ASH_OK);
        for (int k = 0; k < SUBMITTERS; k++)
            task_join(t[k]);
        task_executor_destroy(l.ex);
        ck_assert_uint_eq(atomic_load(&l.runs), SUBMITTERS * l.count);
        ck_assert_uint_le(atomic_load(&l.running_max), fibers[i]);
        ck_assert_uint_eq(atomic_load(&l.running), 0);
    }
}
END_TEST

struct gate {
    struct task_waitq queue;
    _Atomic bool open;
    _Atomic uint32_t waiting, passed;
};

static void
pass_gate(void *arg)
{
    struct gate *g = arg;
    struct task_waiter w;
    atomic_fetch_add(&g->waiting, 1);
    task_wait_begin(&g->queue, &w, 0);
    while (!atomic_load(&g->open))
        task_park();
    task_wait_end(&g->queue, &w);
    atomic_fetch_add(&g->passed, 1);
}

static void
gate_wait(struct gate *g, uint32_t n)
{
    while (atomic_load(&g->waiting) < n)
        task_sleep_ns(100000);
}

static void
gate_open(struct gate *g)
{
    atomic_store(&g->open, true);
    task_wait_wake(&g->queue);
}

START_TEST(a_full_queue_says_so)
{
    struct gate g = { 0 };
    struct task_executor *ex = executor(2, 3);
    task_waitq_init(&g.queue);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(task_executor_submit(ex, pass_gate, &g, true), ASH_OK);
    gate_wait(&g, 2);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(task_executor_submit(ex, pass_gate, &g, false), ASH_OK);
    ck_assert_int_eq(task_executor_submit(ex, pass_gate, &g, false), ASH_WOULD_BLOCK);
    gate_open(&g);
    ck_assert_int_eq(task_executor_submit(ex, pass_gate, &g, true), ASH_OK);
    task_executor_destroy(ex);
    ck_assert_uint_eq(atomic_load(&g.passed), 6);
}
END_TEST

START_TEST(hundreds_of_fibers_park_and_wake_together)
{
    struct gate g = { 0 };
    struct task_executor *ex = executor(500, 500);
    task_waitq_init(&g.queue);
    for (int i = 0; i < 500; i++)
        ck_assert_int_eq(task_executor_submit(ex, pass_gate, &g, true), ASH_OK);
    gate_wait(&g, 500);
    gate_open(&g);
    task_executor_destroy(ex);
    ck_assert_uint_eq(atomic_load(&g.passed), 500);
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    struct task_executor *ex;
    ck_assert_int_eq(task_executor_create(host_rt, "x", 0, 1, 0, &ex), ASH_INVALID);
    ck_assert_int_eq(task_executor_create(host_rt, "x", 1, 0, 0, &ex), ASH_INVALID);
    task_executor_destroy(NULL);
}
END_TEST

/* ---- Wakes across threads ---- */

START_TEST(ping_pong_between_fibers_of_one_thread)
{
    struct pingpong p = { .rounds = test_scale(50000, 1000000) };
    struct task_executor *ex = executor(2, 2);
    ck_assert_int_eq(task_executor_submit(ex, play_0, &p, true), ASH_OK);
    ck_assert_int_eq(task_executor_submit(ex, play_1, &p, true), ASH_OK);
    task_executor_destroy(ex);
    ck_assert_uint_eq(atomic_load(&p.turn), 2 * p.rounds);
}
END_TEST

START_TEST(ping_pong_between_executors)
{
    struct pingpong p[3] = { { .rounds = test_scale(5000, 300000) } };
    struct task_executor *a = executor(10, 10), *b = executor(10, 10);
    for (int i = 0; i < 3; i++) {
        p[i].rounds = p[0].rounds;
        ck_assert_int_eq(task_executor_submit(a, play_0, &p[i], true), ASH_OK);
        ck_assert_int_eq(task_executor_submit(b, play_1, &p[i], true), ASH_OK);
    }
    task_executor_destroy(a);
    task_executor_destroy(b);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(atomic_load(&p[i].turn), 2 * p[i].rounds);
}
END_TEST

START_TEST(ping_pong_between_a_thread_and_a_fiber)
{
    struct pingpong p = { .rounds = test_scale(5000, 300000) };
    struct task_executor *ex = executor(1, 1);
    ck_assert_int_eq(task_executor_submit(ex, play_0, &p, true), ASH_OK);
    play(&p, 1);
    task_executor_destroy(ex);
    ck_assert_uint_eq(atomic_load(&p.turn), 2 * p.rounds);
}
END_TEST

/* Destroying right after the last wake: the waker may still be inside task_unpark() (I3). */
struct last {
    struct task *_Atomic fiber;
    _Atomic bool go;
};

static void
last_wait(void *arg)
{
    struct last *l = arg;
    atomic_store(&l->fiber, task_self());
    while (!atomic_load(&l->go))
        task_park();
}

static void
last_wake(void *arg)
{
    struct last *l = arg;
    struct task *t;
    while ((t = atomic_load(&l->fiber)) == NULL)
        task_yield();
    atomic_store(&l->go, true);
    task_unpark(t);
}

START_TEST(a_wake_may_overlap_the_end_of_the_executor)
{
    for (uint64_t i = 0; i < test_scale(300, 20000); i++) {
        struct last l = { .fiber = NULL };
        struct task *waker;
        struct task_executor *ex = executor(1, 1);
        ck_assert_int_eq(task_spawn(host_rt, "waker", last_wake, &l, &waker), ASH_OK);
        ck_assert_int_eq(task_executor_submit(ex, last_wait, &l, true), ASH_OK);
        task_executor_destroy(ex);
        task_join(waker);
    }
}
END_TEST

/* ---- Mutex and condition between fibers and threads ---- */

struct shared {
    struct task_mutex mutex;
    struct task_cond cond;
    uint64_t value, turn, rounds;
};

static void
count_up(void *arg)
{
    struct shared *s = arg;
    for (uint64_t i = 0; i < s->rounds; i++) {
        task_mutex_lock(&s->mutex);
        uint64_t seen = s->value;
        if (i % 4 == 0)
            task_yield();
        s->value = seen + 1;
        task_cond_broadcast(&s->cond);
        task_mutex_unlock(&s->mutex);
    }
}

START_TEST(a_mutex_excludes_fibers_and_threads)
{
    struct shared s = { .rounds = test_scale(500, 10000) };
    struct task_executor *a = executor(10, 10), *b = executor(10, 10);
    task_mutex_init(&s.mutex);
    task_cond_init(&s.cond);
    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(task_executor_submit(a, count_up, &s, true), ASH_OK);
        ck_assert_int_eq(task_executor_submit(b, count_up, &s, true), ASH_OK);
    }
    count_up(&s);
    task_mutex_lock(&s.mutex);
    while (s.value < 21 * s.rounds)
        task_cond_wait(&s.cond, &s.mutex);
    task_mutex_unlock(&s.mutex);
    task_executor_destroy(a);
    task_executor_destroy(b);
    ck_assert_uint_eq(s.value, 21 * s.rounds);
}
END_TEST

/* ---- Timers ---- */

struct timing {
    struct task_executor *ex;
    _Atomic uint32_t early, done;
    _Atomic bool stop;
};

static void
sleeper(void *arg)
{
    struct timing *t = arg;
    for (uint64_t i = 1; i <= 10; i++) {
        uint64_t deadline = clock_ns() + i * 200000;
        while (task_park_until(deadline))
            ;
        if (clock_ns() < deadline)
            atomic_fetch_add(&t->early, 1);
    }
    atomic_fetch_add(&t->done, 1);
}

START_TEST(fibers_meet_their_deadlines)
{
    struct timing t = { .ex = executor(50, 50) };
    uint64_t start = clock_ns();
    for (int i = 0; i < 50; i++)
        ck_assert_int_eq(task_executor_submit(t.ex, sleeper, &t, true), ASH_OK);
    task_executor_destroy(t.ex);
    ck_assert_uint_eq(atomic_load(&t.early), 0);
    ck_assert_uint_eq(atomic_load(&t.done), 50);
    ck_assert_uint_ge(clock_ns() - start, 11000000);
    ck_assert_uint_lt(clock_ns() - start, UINT64_C(5000000000));
}
END_TEST

/* Fibers that are always ready must not keep timers and new requests from their turn. */
static void
busy(void *arg)
{
    struct timing *t = arg;
    while (!atomic_load(&t->stop))
        task_yield();
}

static void
stop_after_sleep(void *arg)
{
    struct timing *t = arg;
    task_sleep_ns(1000000);
    atomic_store(&t->stop, true);
}

START_TEST(busy_fibers_do_not_starve_timers_and_requests)
{
    struct timing t = { .ex = executor(20, 20) };
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(task_executor_submit(t.ex, busy, &t, true), ASH_OK);
    ck_assert_int_eq(task_executor_submit(t.ex, stop_after_sleep, &t, true), ASH_OK);
    task_executor_destroy(t.ex);
    ck_assert(atomic_load(&t.stop));
}
END_TEST

/* ---- Pollers ---- */

struct fake_ring {
    struct task_poller poller; /* first */
    struct task_executor *ex;
    struct task *waiting; /* completes at the next poll */
    _Atomic uint32_t polls, waits, destroyed;
};

static bool
fake_poll(struct task_poller *p)
{
    struct fake_ring *r = (struct fake_ring *)p;
    atomic_fetch_add(&r->polls, 1);
    struct task *t = r->waiting;
    if (t == NULL)
        return false;
    r->waiting = NULL;
    task_unpark(t);
    return true;
}

static void
fake_wait(struct task_poller *p, int wake_fd, uint64_t deadline_ns)
{
    struct fake_ring *r = (struct fake_ring *)p;
    struct pollfd fd = { .fd = wake_fd, .events = POLLIN };
    atomic_fetch_add(&r->waits, 1);
    int ms = deadline_ns == TASK_FOREVER ? -1 : 1;
    int n = poll(&fd, 1, ms);
    ck_assert(n >= 0 || errno == EINTR);
}

static void
fake_destroy(struct task_poller *p)
{
    atomic_fetch_add(&((struct fake_ring *)p)->destroyed, 1);
}

static void
poller_user(void *arg)
{
    struct fake_ring *r = arg;
    r->poller =
        (struct task_poller){ .poll = fake_poll, .wait = fake_wait, .destroy = fake_destroy };
    task_executor_add_poller(task_executor_self(), &r->poller);
    for (int i = 0; i < 1000; i++) {
        r->waiting = task_self();
        while (r->waiting != NULL)
            task_park();
    }
    task_sleep_ns(3000000);
    uint32_t before = atomic_load(&r->polls);
    for (int i = 0; i < 640; i++)
        task_yield();
    ck_assert_uint_ge(atomic_load(&r->polls), before + 10); /* every 32 switches */
}

START_TEST(pollers_get_their_turn)
{
    struct fake_ring r = { .ex = executor(4, 4) };
    ck_assert_int_eq(task_executor_submit(r.ex, poller_user, &r, true), ASH_OK);
    task_executor_destroy(r.ex);
    ck_assert_uint_ge(atomic_load(&r.polls), 1000);
    ck_assert_uint_ge(atomic_load(&r.waits), 1);
    ck_assert_uint_eq(atomic_load(&r.destroyed), 1);
}
END_TEST

/* ---- Memory ---- */

START_TEST(executors_leave_nothing)
{
    uint64_t used = 0;
    for (int i = 0; i < 20; i++) {
        struct load l = { .ex = executor(20, 64), .count = 500 };
        submitter(&l);
        task_executor_destroy(l.ex);
        if (i == 4)
            used = mem_used(MEM_TASK);
    }
    ck_assert_uint_le(mem_used(MEM_TASK),
                      used + 64 * 1024); /* the pool of structs may still grow a little */
}
END_TEST

START_TEST(a_failed_allocation_is_reported_and_leaves_nothing)
{
    for (uint64_t n = 1;; n++) {
        task_cache_release(); /* so that stacks are mapped again */
        uint64_t used = mem_used(MEM_TASK);
        struct task_executor *ex = NULL;
        mem_fail_at(n, false);
        ash_rc rc = task_executor_create(host_rt, "test", 3, 8, 0, &ex);
        mem_fail_at(0, false);
        if (rc == ASH_OK) {
            task_executor_destroy(ex);
            ck_assert_uint_gt(n, 3);
            break;
        }
        ck_assert_int_eq(rc, ASH_NO_MEMORY);
        task_cache_release();
        ck_assert_uint_le(mem_used(MEM_TASK), used + 4096); /* the pool of structs */
    }
}
END_TEST

START_TEST(a_stack_overflow_hits_the_guard_page)
{
    struct task_executor *ex = executor(1, 1);
    ck_assert_int_eq(task_executor_submit(ex, overflow_main, NULL, true), ASH_OK);
    task_executor_destroy(ex); /* does not return */
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("task_executor");
    TCase *t = tcase_create("requests");
    tcase_add_checked_fixture(t, host_setup, host_teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, every_request_of_many_threads_runs_once);
    tcase_add_test(t, a_full_queue_says_so);
    tcase_add_test(t, hundreds_of_fibers_park_and_wake_together);
    tcase_add_test(t, bad_arguments_are_refused);
    tcase_add_test(t, executors_leave_nothing);
    tcase_add_test(t, a_failed_allocation_is_reported_and_leaves_nothing);
    if (test_forks())
        tcase_add_test_raise_signal(t, a_stack_overflow_hits_the_guard_page, SIGSEGV);
    suite_add_tcase(s, t);
    t = tcase_create("wakes");
    tcase_add_checked_fixture(t, host_setup, host_teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, ping_pong_between_fibers_of_one_thread);
    tcase_add_test(t, ping_pong_between_executors);
    tcase_add_test(t, ping_pong_between_a_thread_and_a_fiber);
    tcase_add_test(t, a_wake_may_overlap_the_end_of_the_executor);
    tcase_add_test(t, a_mutex_excludes_fibers_and_threads);
    suite_add_tcase(s, t);
    t = tcase_create("loop");
    tcase_add_checked_fixture(t, host_setup, host_teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, fibers_meet_their_deadlines);
    tcase_add_test(t, busy_fibers_do_not_starve_timers_and_requests);
    tcase_add_test(t, pollers_get_their_turn);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
