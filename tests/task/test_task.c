/* SPDX-License-Identifier: Apache-2.0
 *
 * test_task.c - host threads: permits, deadlines, spawn and join, and the waiting tools under real
 * concurrency.
 *
 * Goal: no wake is ever lost and a permit means what R4 says.  Method: storms between threads; a
 * lost wake shows as a test that runs into its time limit.
 */
#include "base/clock.h"
#include "task/task.h"

#include "tests/task/task_env.h"

#define THREADS 4

/* ---- Permits ---- */

START_TEST(a_permit_makes_the_next_park_return)
{
    ck_assert(!task_is_fiber());
    task_unpark(task_self());
    task_unpark(task_self());
    task_park();
    /* permits don't add up: this one runs into its deadline */
    uint64_t before = clock_ns();
    ck_assert(!task_park_until(before + 2000000));
    ck_assert_uint_ge(clock_ns(), before + 2000000);
}
END_TEST

START_TEST(a_past_deadline_returns_at_once)
{
    ck_assert(!task_park_until(0));
    ck_assert(!task_park_until(clock_ns()));
    task_unpark(task_self());
    ck_assert(task_park_until(0));
}
END_TEST

START_TEST(deadlines_are_met)
{
    for (int i = 1; i <= 20; i++) {
        uint64_t start = clock_ns();
        task_sleep_ns((uint64_t)i * 100000);
        uint64_t took = clock_ns() - start;
        ck_assert_uint_ge(took, (uint64_t)i * 100000);
        ck_assert_uint_lt(took, UINT64_C(2000000000)); /* a busy machine may be late, not lost */
    }
}
END_TEST

START_TEST(a_sleep_keeps_the_permit_for_a_later_park)
{
    task_unpark(task_self());
    uint64_t start = clock_ns();
    task_sleep_ns(1000000);
    ck_assert_uint_ge(clock_ns() - start, 1000000);
    ck_assert(task_park_until(clock_ns() + UINT64_C(10000000000)));
}
END_TEST

/* ---- Ping-pong: each round needs both wakes ---- */

START_TEST(ping_pong_loses_no_wake)
{
    struct pingpong p = { .rounds = test_scale(20000, 1000000) };
    struct task *t;
    ck_assert_int_eq(task_spawn(host_rt, "first", play_0, &p, &t), ASH_OK);
    play(&p, 1);
    task_join(t);
    ck_assert_uint_eq(atomic_load(&p.turn), 2 * p.rounds);
}
END_TEST

/* ---- Threads that come and go while others still wake them (T: structs are never freed) ---- */

struct brief {
    _Atomic bool done;
    struct task *_Atomic sleeper;
};

static void
brief_sleeper(void *arg)
{
    struct brief *b = arg;
    atomic_store(&b->sleeper, task_self());
    while (!atomic_load(&b->done))
        task_park();
}

START_TEST(a_late_unpark_of_an_ended_task_is_harmless)
{
    for (uint64_t i = 0; i < test_scale(500, 20000); i++) {
        struct brief b = { 0 };
        struct task *t;
        ck_assert_int_eq(task_spawn(host_rt, "brief", brief_sleeper, &b, &t), ASH_OK);
        struct task *seen;
        while ((seen = atomic_load(&b.sleeper)) == NULL)
            task_yield();
        atomic_store(&b.done, true); /* it may end right here, before the wake */
        task_unpark(seen);
        task_join(t);
        task_unpark(seen);
    }
}
END_TEST

/* ---- Mutex ---- */

struct counted {
    struct task_mutex mutex;
    struct task_cond cond, room;
    uint64_t value, items;
    uint64_t rounds;
    _Atomic uint64_t inside;
};

static void
count_up(void *arg)
{
    struct counted *c = arg;
    for (uint64_t i = 0; i < c->rounds; i++) {
        if (i % 8 != 0 || !task_mutex_trylock(&c->mutex))
            task_mutex_lock(&c->mutex);
        ck_assert_uint_eq(atomic_fetch_add(&c->inside, 1), 0);
        c->value++;
        if (i % 1024 == 0)
            task_sleep_ns(10000); /* lets the others queue up */
        atomic_fetch_sub(&c->inside, 1);
        task_mutex_unlock(&c->mutex);
    }
}

START_TEST(a_mutex_excludes)
{
    struct counted c = { .rounds = test_scale(20000, 1000000) };
    struct task *t[THREADS];
    task_mutex_init(&c.mutex);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(task_spawn(host_rt, "count", count_up, &c, &t[i]), ASH_OK);
    for (int i = 0; i < THREADS; i++)
        task_join(t[i]);
    ck_assert_uint_eq(c.value, THREADS * c.rounds);
    ck_assert_uint_eq(atomic_load(&c.mutex.state), 0);
}
END_TEST

/* ---- Condition: a bounded buffer ---- */

#define BUFFER_MAX 3

static void
produce(void *arg)
{
    struct counted *c = arg;
    for (uint64_t i = 0; i < c->rounds; i++) {
        task_mutex_lock(&c->mutex);
        while (c->items == BUFFER_MAX)
            task_cond_wait(&c->room, &c->mutex);
        c->items++;
        if (i % 16 == 0)
            task_cond_broadcast(&c->cond);
        else
            task_cond_signal(&c->cond);
        task_mutex_unlock(&c->mutex);
    }
}

static void
consume(void *arg)
{
    struct counted *c = arg;
    for (uint64_t i = 0; i < c->rounds; i++) {
        task_mutex_lock(&c->mutex);
        while (c->items == 0)
            (void)task_cond_wait_until(&c->cond, &c->mutex,
                                       i % 2 == 0 ? TASK_FOREVER : clock_ns() + 50000);
        c->items--;
        c->value++;
        task_cond_signal(&c->room);
        task_mutex_unlock(&c->mutex);
    }
}

START_TEST(conditions_lose_no_wake)
{
    struct counted c = { .rounds = test_scale(5000, 200000) };
    struct task *t[4];
    task_mutex_init(&c.mutex);
    task_cond_init(&c.cond);
    task_cond_init(&c.room);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(task_spawn(host_rt, "buffer", i < 2 ? produce : consume, &c, &t[i]),
                         ASH_OK);
    for (int i = 0; i < 4; i++)
        task_join(t[i]);
    ck_assert_uint_eq(c.value, 2 * c.rounds);
    ck_assert_uint_eq(c.items, 0);
    ck_assert_uint_eq(atomic_load(&c.cond.count), 0);
}
END_TEST

/* ---- Wait queue: group commit in small ---- */

struct group {
    struct task_waitq queue;
    _Atomic uint64_t next, durable, served;
    _Atomic uint32_t writers;
    uint64_t rounds;
};

static void
commit(void *arg)
{
    struct group *g = arg;
    for (uint64_t i = 0; i < g->rounds; i++) {
        uint64_t mine = atomic_fetch_add(&g->next, 1) + 1;
        struct task_waiter w;
        task_wait_begin(&g->queue, &w, mine);
        while (atomic_load_explicit(&g->durable, memory_order_acquire) < mine)
            task_park();
        task_wait_end(&g->queue, &w);
        atomic_fetch_add(&g->served, 1);
    }
    atomic_fetch_sub(&g->writers, 1);
}

START_TEST(wait_queues_lose_no_wake)
{
    struct group g = { .rounds = test_scale(5000, 200000), .writers = THREADS };
    struct task *t[THREADS];
    task_waitq_init(&g.queue);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(task_spawn(host_rt, "commit", commit, &g, &t[i]), ASH_OK);
    for (unsigned n = 0; atomic_load(&g.writers) > 0; n++) {
        uint64_t to = atomic_load(&g.next);
        if (atomic_load_explicit(&g.durable, memory_order_relaxed) == to) {
            task_yield();
            continue;
        }
        uint64_t from = atomic_load_explicit(&g.durable, memory_order_relaxed);
        atomic_store_explicit(&g.durable, to, memory_order_release);
        if (n % 3 == 0)
            task_wait_wake(&g.queue);
        else if (n % 3 == 1)
            task_wait_wake_key(&g.queue, to);
        else
            for (uint64_t key = from + 1; key <= to; key++)
                task_wait_wake_equal(&g.queue, key);
    }
    for (int i = 0; i < THREADS; i++)
        task_join(t[i]);
    ck_assert_uint_eq(atomic_load(&g.served), THREADS * g.rounds);
    ck_assert_uint_eq(atomic_load(&g.queue.count), 0);
}
END_TEST

START_TEST(a_wake_by_key_leaves_the_others_asleep)
{
    struct task_waitq q;
    struct task_waiter w;
    task_waitq_init(&q);
    /* Without fork this task has run other tests: a thread that ended there may have left a permit. */
    while (task_park_until(clock_ns() + 20000000))
        continue;
    task_wait_begin(&q, &w, 10);
    task_wait_wake_key(&q, 9);
    task_wait_wake_equal(&q, 11);
    task_wait_wake_equal(&q, 9);
    ck_assert(!task_park_until(clock_ns() + 100000));
    task_wait_wake_key(&q, 10);
    ck_assert(task_park_until(clock_ns() + UINT64_C(10000000000)));
    task_wait_wake_equal(&q, 10);
    ck_assert(task_park_until(clock_ns() + UINT64_C(10000000000)));
    task_wait_wake(&q);
    ck_assert(task_park_until(clock_ns() + UINT64_C(10000000000)));
    task_wait_end(&q, &w);
    task_wait_wake(&q);
    ck_assert(!task_park_until(clock_ns() + 100000));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("task");
    TCase *t = tcase_create("permits");
    tcase_add_checked_fixture(t, host_setup, host_teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_permit_makes_the_next_park_return);
    tcase_add_test(t, a_past_deadline_returns_at_once);
    tcase_add_test(t, deadlines_are_met);
    tcase_add_test(t, a_sleep_keeps_the_permit_for_a_later_park);
    tcase_add_test(t, ping_pong_loses_no_wake);
    tcase_add_test(t, a_late_unpark_of_an_ended_task_is_harmless);
    suite_add_tcase(s, t);
    t = tcase_create("waiting");
    tcase_add_checked_fixture(t, host_setup, host_teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_mutex_excludes);
    tcase_add_test(t, conditions_lose_no_wake);
    tcase_add_test(t, wait_queues_lose_no_wake);
    tcase_add_test(t, a_wake_by_key_leaves_the_others_asleep);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
