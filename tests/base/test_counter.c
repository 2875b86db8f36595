/* SPDX-License-Identifier: Apache-2.0
 *
 * test_counter.c - no addition is lost, whichever shard it went to.
 */
#include "base/counter.h"
#include "tests/test_main.h"

#include <pthread.h>

#define THREADS 12 /* more than shards, so that some share one */
#define ADDS    20000

static struct counter c;

static void *
adder(void *arg)
{
    uint64_t step = (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < ADDS; i++)
        counter_add(&c, step);
    ck_assert_uint_ge(counter_shard, 1);
    ck_assert_uint_le(counter_shard, COUNTER_SHARDS);
    return NULL;
}

START_TEST(sum_is_exact_over_threads)
{
    pthread_t t[THREADS];
    uint64_t expected = 0;

    for (uintptr_t i = 0; i < THREADS; i++) {
        expected += (i + 1) * ADDS;
        ck_assert_int_eq(pthread_create(&t[i], NULL, adder, (void *)(i + 1)), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(t[i], NULL), 0);
    ck_assert_uint_eq(counter_sum(&c), expected);
}
END_TEST

START_TEST(shards_have_own_cache_lines)
{
    ck_assert_uint_eq(sizeof(c.shard[0]), 64);
    ck_assert_uint_eq((uintptr_t)&c % 64, 0);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/counter");
    TCase *t = tcase_create("counter");
    tcase_add_test(t, sum_is_exact_over_threads);
    tcase_add_test(t, shards_have_own_cache_lines);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
