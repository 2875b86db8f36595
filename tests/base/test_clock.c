/* SPDX-License-Identifier: Apache-2.0
 *
 * test_clock.c - the clock moves forward, and a simulation replaces it for its own thread only.
 */
#include "base/clock.h"
#include "tests/test_main.h"

#include <pthread.h>

START_TEST(clock_never_goes_back)
{
    uint64_t last = clock_ns(), start = last;
    for (int i = 0; i < 100000; i++) {
        uint64_t now = clock_ns();
        ck_assert_uint_ge(now, last);
        last = now;
    }
    ck_assert_uint_gt(last, start);
    ck_assert_uint_gt(clock_wall_us(), 1600000000000000u); /* after 2020 */
}
END_TEST

static uint64_t
five_seconds(void)
{
    return 5000000000u;
}

static void *
other_thread(void *arg)
{
    *(bool *)arg = clock_source == NULL;
    return NULL;
}

/* Goal: a simulated clock decides both times, repeatably, and other threads keep the real one. */
START_TEST(simulated_clock_is_per_thread)
{
    bool real_there = false;
    pthread_t t;

    clock_source = five_seconds;
    ck_assert_uint_eq(clock_ns(), 5000000000u);
    uint64_t wall = clock_wall_us();
    ck_assert_uint_eq(clock_wall_us(), wall);
    ck_assert_int_eq(pthread_create(&t, NULL, other_thread, &real_there), 0);
    ck_assert_int_eq(pthread_join(t, NULL), 0);
    clock_source = NULL;
    ck_assert(real_there);
    ck_assert_uint_eq(wall % 1000000u, 0);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/clock");
    TCase *c = tcase_create("clock");
    tcase_add_test(c, clock_never_goes_back);
    tcase_add_test(c, simulated_clock_is_per_thread);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
