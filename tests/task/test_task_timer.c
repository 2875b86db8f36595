/* SPDX-License-Identifier: Apache-2.0
 *
 * test_task_timer.c - the heap of timers against a sorted model: always the earliest, first come
 * first among equals.
 */
#include "base/random.h"
#include "task/task_int.h"
#include "tests/test_main.h"

#define TIMERS 200

static struct task__timer timer[TIMERS];

static const struct task__timer *
model_first(void)
{
    const struct task__timer *best = NULL;
    for (unsigned i = 0; i < TIMERS; i++) {
        const struct task__timer *t = &timer[i];
        if (t->pos != 0 && (best == NULL || t->at_ns < best->at_ns ||
                            (t->at_ns == best->at_ns && t->seq < best->seq)))
            best = t;
    }
    return best;
}

START_TEST(the_first_is_the_earliest)
{
    struct task__heap h = { 0 };
    struct random r;
    uint64_t seed = test_seed(1);
    random_init(&r, seed);
    memset(timer, 0, sizeof(timer));
    ck_assert_int_eq(task__heap_reserve(&h, TIMERS), ASH_OK);
    for (uint64_t i = 0; i < test_scale(20000, 1000000); i++) {
        struct task__timer *t = &timer[random_below(&r, TIMERS)];
        if (t->pos == 0)
            task__heap_add(&h, t, random_below(&r, 50));
        else if (random_chance(&r, 1, 2))
            task__heap_remove(&h, t);
        else
            task__heap_remove(&h, task__heap_first(&h));
        ck_assert_msg(task__heap_first(&h) == model_first(), "seed %llu, step %llu",
                      (unsigned long long)seed, (unsigned long long)i);
    }
    task__heap_deinit(&h);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("task_timer");
    TCase *t = tcase_create("heap");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_first_is_the_earliest);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
