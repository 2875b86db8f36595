/* SPDX-License-Identifier: Apache-2.0
 *
 * test_task_sim.c - the simulated scheduler.
 *
 * Goal: equal seeds give equal runs, different seeds explore; lost wake-ups, hangs and races
 * planted in test code are found; a power cut at any step leaves nothing behind.  Method: small
 * programs under many seeds.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "base/random.h"
#include "task/task.h"

#include <signal.h>

#include "tests/task/task_env.h"

static struct task_runtime *
sim(uint64_t seed)
{
    struct task_sim_options o = { .seed = seed, .step_max = 100000 };
    struct task_runtime *rt;
    ck_assert_int_eq(task_sim_create(&o, &rt), ASH_OK);
    return rt;
}

/* ---- A small world: `rt` and counters, for one test at a time ---- */

#define WORKERS 5

struct world {
    struct task_runtime *rt;
    struct task_mutex mutex;
    struct task_cond cond;
    struct task_waitq queue;
    uint64_t shared, tokens;
    uint64_t words[4];
    uint64_t order;
    struct task *main;
    struct task *worker[WORKERS];
    bool planted;
};

static void
world_init(struct world *w, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    w->rt = sim(seed);
    task_mutex_init(&w->mutex);
    task_cond_init(&w->cond);
    task_waitq_init(&w->queue);
}

static void
spawn_all(struct world *w, void (*fn)(void *arg))
{
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq(task_spawn(w->rt, "worker", fn, w, &w->worker[i]), ASH_OK);
}

static void
join_all(struct world *w)
{
    for (int i = 0; i < WORKERS; i++)
        task_join(w->worker[i]);
}

/* ---- Order ---- */

static void
order_worker(void *arg)
{
    struct world *w = arg;
    for (int i = 0; i < 10; i++) {
        w->order = hash_u64(w->order + (uint64_t)(task_self() == w->worker[0]) * 2 + 1);
        task_yield();
    }
}

static void
order_main(void *arg)
{
    spawn_all(arg, order_worker);
    join_all(arg);
}

static uint64_t
order_run(uint64_t seed, uint64_t *trace_out)
{
    struct world w;
    world_init(&w, seed);
    ck_assert_int_eq(task_sim_run(w.rt, order_main, &w), ASH_OK);
    *trace_out = task_sim_trace(w.rt);
    task_runtime_destroy(w.rt);
    return w.order;
}

START_TEST(equal_seeds_give_equal_traces)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        uint64_t a, b;
        ck_assert_uint_eq(order_run(seed, &a), order_run(seed, &b));
        ck_assert_uint_eq(a, b);
    }
}
END_TEST

START_TEST(different_seeds_give_different_traces)
{
    uint64_t seen[200], orders = 0, first = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        uint64_t order = order_run(seed, &seen[seed]);
        if (seed == 0)
            first = order;
        orders += order != first;
        for (uint64_t i = 0; i < seed; i++)
            ck_assert_uint_ne(seen[seed], seen[i]);
    }
    ck_assert_uint_gt(orders, 150);
}
END_TEST

/* ---- Races in test code are found ---- */

static void
racy_worker(void *arg)
{
    struct world *w = arg;
    for (int i = 0; i < 4; i++) {
        if (!w->planted)
            task_mutex_lock(&w->mutex);
        uint64_t seen = w->shared;
        task_point();
        w->shared = seen + 1;
        if (!w->planted)
            task_mutex_unlock(&w->mutex);
    }
}

static void
racy_main(void *arg)
{
    spawn_all(arg, racy_worker);
    join_all(arg);
}

START_TEST(a_lost_update_is_found_and_a_mutex_prevents_it)
{
    unsigned lost = 0;
    for (uint64_t seed = 0; seed < 1000; seed++) {
        struct world w;
        world_init(&w, seed);
        w.planted = seed % 2 == 0;
        ck_assert_int_eq(task_sim_run(w.rt, racy_main, &w), ASH_OK);
        if (w.planted)
            lost += w.shared != WORKERS * 4;
        else
            ck_assert_uint_eq(w.shared, WORKERS * 4);
        task_runtime_destroy(w.rt);
    }
    ck_assert_uint_gt(lost, 250); /* of 500 */
}
END_TEST

/* A consumer that tests, then says that it waits: the producer may look in between. */
static void
consumer(void *arg)
{
    struct world *w = arg;
    for (int i = 0; i < 8; i++) {
        if (w->planted) {
            while (w->tokens == 0) {
                task_point();
                w->main = task_self();
                task_park();
            }
        } else {
            w->main = task_self();
            while (w->tokens == 0) {
                task_point();
                task_park();
            }
        }
        w->main = NULL;
        w->tokens--;
    }
}

static void
producer_main(void *arg)
{
    struct world *w = arg;
    struct task *c;
    ck_assert_int_eq(task_spawn(w->rt, "consumer", consumer, w, &c), ASH_OK);
    for (int i = 0; i < 8; i++) {
        task_point();
        w->tokens++;
        if (w->main != NULL)
            task_unpark(w->main);
    }
    task_join(c);
}

START_TEST(a_lost_wake_up_is_found)
{
    unsigned hangs = 0;
    for (uint64_t seed = 0; seed < 1000; seed++) {
        struct world w;
        world_init(&w, seed);
        w.planted = seed % 2 == 0;
        ash_rc rc = task_sim_run(w.rt, producer_main, &w);
        if (w.planted) {
            hangs += rc == ASH_INTERNAL;
            if (rc == ASH_INTERNAL)
                ck_assert_ptr_nonnull(strstr(err_current()->message, "consumer"));
        } else {
            ck_assert_int_eq(rc, ASH_OK);
        }
        task_runtime_destroy(w.rt);
    }
    ck_assert_uint_gt(hangs, 20); /* of 500 */
}
END_TEST

/* ---- Hangs ---- */

static void
park_for_ever(void *arg)
{
    (void)arg;
    for (;;)
        task_park();
}

static void
spin_for_ever(void *arg)
{
    struct world *w = arg;
    unsigned spins = 0;
    while (w->shared == 0)
        task_relax(&spins);
}

START_TEST(all_parked_for_ever_is_a_hang)
{
    struct world w;
    for (uint64_t seed = 0; seed < 50; seed++) {
        world_init(&w, seed);
        ck_assert_int_eq(task_sim_run(w.rt, park_for_ever, &w), ASH_INTERNAL);
        ck_assert_int_eq(task_sim_run(w.rt, park_for_ever, &w), ASH_MISUSE);
        task_runtime_destroy(w.rt);
    }
}
END_TEST

START_TEST(a_spent_step_budget_is_a_hang)
{
    struct world w;
    world_init(&w, 1);
    ck_assert_int_eq(task_sim_run(w.rt, spin_for_ever, &w), ASH_INTERNAL);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "budget"));
    ck_assert_uint_eq(task_sim_steps(w.rt), 100000);
    task_runtime_destroy(w.rt);
}
END_TEST

/* Spinning on another's work ends under every manner of scheduling (no starvation by priority). */
static void
setter_worker(void *arg)
{
    struct world *w = arg;
    for (int i = 0; i < 50; i++)
        task_point();
    w->shared = 1;
}

static void
spin_main(void *arg)
{
    struct world *w = arg;
    struct task *t;
    ck_assert_int_eq(task_spawn(w->rt, "setter", setter_worker, w, &t), ASH_OK);
    spin_for_ever(w);
    task_join(t);
}

START_TEST(a_spinning_task_does_not_starve_others)
{
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct world w;
        world_init(&w, seed);
        ck_assert_int_eq(task_sim_run(w.rt, spin_main, &w), ASH_OK);
        ck_assert_uint_lt(task_sim_steps(w.rt), 5000);
        task_runtime_destroy(w.rt);
    }
}
END_TEST

/* ---- Time ---- */

static void
sleep_main(void *arg)
{
    struct world *w = arg;
    uint64_t start = clock_ns();
    task_sleep_ns(3600 * UINT64_C(1000000000));
    ck_assert_uint_ge(clock_ns() - start, 3600 * UINT64_C(1000000000));
    ck_assert_uint_lt(clock_ns() - start, 3601 * UINT64_C(1000000000));
    (void)task_park_until(0); /* may take a permit that the sleep found and gave back */
    ck_assert(!task_park_until(clock_ns()));
    ck_assert(!task_park_until(0));
    task_unpark(task_self());
    ck_assert(task_park_until(clock_ns() + 1000));
    uint64_t deadline = clock_ns() + 1000000;
    while (task_park_until(deadline))
        ; /* spurious */
    ck_assert_uint_ge(clock_ns(), deadline);
    w->shared = 1;
}

START_TEST(an_hour_passes_at_once)
{
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct world w;
        world_init(&w, seed);
        ck_assert_int_eq(task_sim_run(w.rt, sleep_main, &w), ASH_OK);
        ck_assert_uint_eq(w.shared, 1);
        task_runtime_destroy(w.rt);
    }
    ck_assert_ptr_null((void *)(uintptr_t)clock_source);
    ck_assert_ptr_null(random_entropy_source);
}
END_TEST

static void
event_count(void *arg)
{
    struct world *w = arg;
    ck_assert(!task_is_fiber() && !task_sim_active);
    w->words[w->shared] = clock_ns();
    w->shared++;
    task_unpark(w->main);
}

static void
event_main(void *arg)
{
    struct world *w = arg;
    uint64_t now = clock_ns();
    w->main = task_self();
    ck_assert_int_eq(task_sim_at(w->rt, now + 300000, event_count, w), ASH_OK);
    ck_assert_int_eq(task_sim_at(w->rt, now + 100000, event_count, w), ASH_OK);
    ck_assert_int_eq(task_sim_at(w->rt, now + 200000, event_count, w), ASH_OK);
    ck_assert_int_eq(task_sim_at(w->rt, now + UINT64_C(1000000000000), event_count, w),
                     ASH_OK); /* never comes */
    while (w->shared < 3)
        task_park();
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_uint_ge(w->words[i], now + (i + 1) * 100000);
        ck_assert_uint_le(w->words[i], now + (i + 1) * 100000 + 10000);
    }
}

START_TEST(events_come_in_time_and_order)
{
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct world w;
        world_init(&w, seed);
        ck_assert_int_eq(task_sim_run(w.rt, event_main, &w), ASH_OK);
        task_runtime_destroy(w.rt);
    }
}
END_TEST

/* ---- The waiting tools ---- */

static void
cond_worker(void *arg)
{
    struct world *w = arg;
    for (int i = 0; i < 6; i++) {
        task_mutex_lock(&w->mutex);
        while (w->tokens == 0)
            task_cond_wait(&w->cond, &w->mutex);
        w->tokens--;
        w->shared++;
        task_mutex_unlock(&w->mutex);
    }
}

static void
cond_main(void *arg)
{
    struct world *w = arg;
    spawn_all(w, cond_worker);
    for (int i = 0; i < 6 * WORKERS;) {
        unsigned n = 1 + (unsigned)random_below(task_sim_random(w->rt), 3);
        task_mutex_lock(&w->mutex);
        for (; n > 0 && i < 6 * WORKERS; n--, i++) {
            w->tokens++;
            task_cond_signal(&w->cond);
        }
        if (n == 0 && i % 5 == 0)
            task_cond_broadcast(&w->cond);
        task_mutex_unlock(&w->mutex);
        task_point();
    }
    join_all(w);
    ck_assert_uint_eq(w->shared, 6 * WORKERS);
    ck_assert_uint_eq(w->tokens, 0);
}

START_TEST(conditions_lose_no_wake)
{
    for (uint64_t seed = 0; seed < test_scale(1000, 20000); seed++) {
        struct world w;
        world_init(&w, seed);
        ck_assert_msg(task_sim_run(w.rt, cond_main, &w) == ASH_OK, "seed %llu: %s",
                      (unsigned long long)seed, err_current()->message);
        task_runtime_destroy(w.rt);
    }
}
END_TEST

static void
cond_timeout_main(void *arg)
{
    struct world *w = arg;
    task_mutex_lock(&w->mutex);
    uint64_t deadline = clock_ns() + 5000000;
    while (task_cond_wait_until(&w->cond, &w->mutex, deadline))
        ;
    ck_assert_uint_ge(clock_ns(), deadline);
    ck_assert(!task_mutex_trylock(&w->mutex));
    task_mutex_unlock(&w->mutex);
}

START_TEST(a_timed_wait_ends)
{
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct world w;
        world_init(&w, seed);
        ck_assert_int_eq(task_sim_run(w.rt, cond_timeout_main, &w), ASH_OK);
        task_runtime_destroy(w.rt);
    }
}
END_TEST

/* A log's group commit in small: each worker waits until `durable` reaches its number. */
static void
key_worker(void *arg)
{
    struct world *w = arg;
    for (int i = 0; i < 4; i++) {
        struct task_waiter waiter;
        uint64_t mine = ++w->tokens;
        task_point();
        if (w->shared >= mine)
            continue;
        task_wait_begin(&w->queue, &waiter, mine);
        while (w->shared < mine)
            task_park();
        task_wait_end(&w->queue, &waiter);
    }
}

static void
key_main(void *arg)
{
    struct world *w = arg;
    spawn_all(w, key_worker);
    while (w->shared < 4 * WORKERS) {
        uint64_t to = w->tokens;
        task_point();
        w->shared = to;
        if (w->words[0]++ % 2 == 0)
            task_wait_wake_key(&w->queue, to);
        else
            task_wait_wake(&w->queue);
        task_sleep_ns(1000);
    }
    join_all(w);
}

START_TEST(wait_queues_lose_no_wake)
{
    for (uint64_t seed = 0; seed < test_scale(1000, 20000); seed++) {
        struct world w;
        world_init(&w, seed);
        ck_assert_msg(task_sim_run(w.rt, key_main, &w) == ASH_OK, "seed %llu: %s",
                      (unsigned long long)seed, err_current()->message);
        ck_assert_uint_eq(atomic_load(&w.queue.count), 0);
        task_runtime_destroy(w.rt);
    }
}
END_TEST

/* ---- Power cuts ---- */

struct cut {
    struct world w;
    uint64_t at;
    bool from_event;
};

static void
cut_now(void *arg)
{
    task_sim_halt(((struct cut *)arg)->w.rt);
}

static void
cut_worker(void *arg)
{
    struct cut *c = arg;
    for (int i = 0; i < 20; i++) {
        char *kept = mem_alloc(MEM_TEST, 100); /* nobody frees it after the cut */
        char *map = mem_map(MEM_TEST, 10000, false);
        ck_assert(kept != NULL && map != NULL && map[9999] == 0);
        memset(kept, 1, 100);
        memset(map, 1, 10000);
        task_mutex_lock(&c->w.mutex);
        c->w.shared++;
        if (!c->from_event && c->w.shared == c->at) {
            task_sim_halt(c->w.rt);
            ck_abort_msg("ran after the halt");
        }
        task_point();
        task_mutex_unlock(&c->w.mutex);
        mem_free(MEM_TEST, kept);
        mem_unmap(MEM_TEST, map, 10000);
    }
}

static void
cut_main(void *arg)
{
    struct cut *c = arg;
    if (c->from_event)
        ck_assert_int_eq(task_sim_at(c->w.rt, clock_ns() + c->at * 1000, cut_now, c), ASH_OK);
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq(task_spawn(c->w.rt, "worker", cut_worker, c, &c->w.worker[i]), ASH_OK);
    join_all(&c->w);
    if (c->from_event)
        park_for_ever(NULL);
}

static void
cut_run(uint64_t seed)
{
    struct cut c = { .at = 1 + seed % 100, .from_event = seed % 3 == 0 };
    world_init(&c.w, seed);
    ck_assert_int_eq(task_sim_run(c.w.rt, cut_main, &c), ASH_CANCELLED);
    if (!c.from_event)
        ck_assert_uint_eq(c.w.shared, c.at);
    task_runtime_destroy(c.w.rt);
}

START_TEST(a_power_cut_at_any_step_leaves_nothing)
{
    for (uint64_t seed = 0; seed < 20; seed++)
        cut_run(seed); /* fills the caches */
    uint64_t used = mem_used(MEM_TASK), used_test = mem_used(MEM_TEST);
    for (uint64_t seed = 0; seed < test_scale(1000, 100000); seed++)
        cut_run(seed);
    ck_assert_uint_eq(mem_used(MEM_TASK), used);
    ck_assert_uint_eq(mem_used(MEM_TEST), used_test);
}
END_TEST

/* ---- Memory runs out ---- */

static void
spawn_some(void *arg)
{
    struct world *w = arg;
    int n = 0;
    for (; n < WORKERS; n++)
        if (task_spawn(w->rt, "worker", order_worker, w, &w->worker[n]) != ASH_OK)
            break;
    w->tokens = (uint64_t)n;
    for (int i = 0; i < n; i++)
        task_join(w->worker[i]);
}

START_TEST(a_failed_allocation_is_reported_and_leaves_nothing)
{
    uint64_t failed = 0, n = 0;
    do {
        struct world w = { 0 };
        struct task_sim_options o = { .seed = ++n, .stack_bytes = 64 << 10 };
        task_cache_release();
        uint64_t used = mem_used(MEM_TASK);
        mem_fail_at(n, true);
        ash_rc rc = task_sim_create(&o, &w.rt);
        if (rc == ASH_OK) {
            rc = task_sim_run(w.rt, spawn_some, &w);
            task_runtime_destroy(w.rt);
        }
        failed = rc != ASH_OK || w.tokens < WORKERS;
        ck_assert(rc == ASH_OK || rc == ASH_NO_MEMORY);
        mem_fail_at(0, false);
        task_cache_release();
        ck_assert_uint_le(mem_used(MEM_TASK), used + 8 * 2048); /* the pool of structs */
    } while (failed);
    ck_assert_uint_gt(n, 6);
}
END_TEST

/* ---- Executors in simulation ---- */

struct requests {
    struct task_runtime *rt;
    struct task_executor *ex;
    unsigned done, running, running_max;
};

static void
request(void *arg)
{
    struct requests *r = arg;
    ck_assert_ptr_eq(task_executor_self(), r->ex);
    r->running++;
    if (r->running > r->running_max)
        r->running_max = r->running;
    task_sleep_ns(10000);
    r->running--;
    r->done++;
}

static void
requests_main(void *arg)
{
    struct requests *r = arg;
    ck_assert_int_eq(task_executor_create(r->rt, "ex", 3, 4, 0, &r->ex), ASH_OK);
    for (int i = 0; i < 40; i++)
        ck_assert_int_eq(task_executor_submit(r->ex, request, r, true), ASH_OK);
    task_executor_destroy(r->ex);
    ck_assert_uint_eq(r->done, 40);
    ck_assert_uint_le(r->running_max, 3);
}

START_TEST(executors_run_all_requests)
{
    unsigned together = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct requests r = { .rt = sim(seed) };
        ck_assert_msg(task_sim_run(r.rt, requests_main, &r) == ASH_OK, "seed %llu: %s",
                      (unsigned long long)seed, err_current()->message);
        together += r.running_max == 3;
        ck_assert_uint_eq(task_sim_memory(r.rt), 0);
        task_runtime_destroy(r.rt);
    }
    ck_assert_uint_gt(together, 100);
}
END_TEST

/* ---- Several simulations, each on a thread of its own ---- */

static void
parallel_thread(void *arg)
{
    uint64_t *sum = arg;
    for (uint64_t seed = 0; seed < 100; seed++) {
        uint64_t trace;
        *sum += order_run(seed, &trace) + trace;
    }
}

START_TEST(threads_simulate_independently)
{
    struct task_runtime *threads;
    struct task *t[3];
    uint64_t sum[4] = { 0 };
    ck_assert_int_eq(task_runtime_create(&threads), ASH_OK);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(task_spawn(threads, "sim", parallel_thread, &sum[i], &t[i]), ASH_OK);
    parallel_thread(&sum[3]);
    for (int i = 0; i < 3; i++) {
        task_join(t[i]);
        ck_assert_uint_eq(sum[i], sum[3]);
    }
    task_runtime_destroy(threads);
}
END_TEST

/* ---- Errors belong to tasks ---- */

static void
error_worker(void *arg)
{
    struct world *w = arg;
    ck_assert_int_eq(err_current()->code, ASH_OK);
    int code = task_self() == w->worker[0] ? ASH_NOT_FOUND : ASH_EXISTS;
    ash_ignore(ash_raise((ash_rc)code, "of this task"));
    task_yield();
    ck_assert_int_eq(err_current()->code, (ash_rc)code);
}

static void
error_main(void *arg)
{
    spawn_all(arg, error_worker);
    join_all(arg);
    ck_assert_int_eq(err_current()->code, ASH_OK);
}

START_TEST(each_task_has_its_own_error)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct world w;
        world_init(&w, seed);
        ash_ignore(ash_raise(ASH_BUSY, "of the host"));
        ck_assert_int_eq(task_sim_run(w.rt, error_main, &w), ASH_OK);
        ck_assert_int_eq(err_current()->code, ASH_BUSY);
        task_runtime_destroy(w.rt);
    }
}
END_TEST

/* ---- The stack ends in a guard page ---- */

START_TEST(a_stack_overflow_hits_the_guard_page)
{
    struct world w;
    world_init(&w, 1);
    ash_ignore(task_sim_run(w.rt, overflow_main, &w)); /* does not return */
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("task_sim");
    TCase *t = tcase_create("scheduler");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, equal_seeds_give_equal_traces);
    tcase_add_test(t, different_seeds_give_different_traces);
    tcase_add_test(t, a_lost_update_is_found_and_a_mutex_prevents_it);
    tcase_add_test(t, a_lost_wake_up_is_found);
    tcase_add_test(t, all_parked_for_ever_is_a_hang);
    tcase_add_test(t, a_spent_step_budget_is_a_hang);
    tcase_add_test(t, a_spinning_task_does_not_starve_others);
    tcase_add_test(t, an_hour_passes_at_once);
    tcase_add_test(t, events_come_in_time_and_order);
    tcase_add_test(t, threads_simulate_independently);
    tcase_add_test(t, each_task_has_its_own_error);
    suite_add_tcase(s, t);
    t = tcase_create("waiting");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, conditions_lose_no_wake);
    tcase_add_test(t, a_timed_wait_ends);
    tcase_add_test(t, wait_queues_lose_no_wake);
    tcase_add_test(t, executors_run_all_requests);
    suite_add_tcase(s, t);
    t = tcase_create("power cut");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_power_cut_at_any_step_leaves_nothing);
    tcase_add_test(t, a_failed_allocation_is_reported_and_leaves_nothing);
    if (test_forks())
        tcase_add_test_raise_signal(t, a_stack_overflow_hits_the_guard_page, SIGSEGV);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
