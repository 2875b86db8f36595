/* SPDX-License-Identifier: Apache-2.0
 *
 * test_main.h - what every test program shares: main(), and how long and with which seed random
 * tests run.
 *
 * A test file defines `static Suite *suite(void)` and ends with TEST_MAIN(suite).  Tests that
 * expect a signal are registered only when test_forks() is true: without fork (CK_FORK=no, as
 * under sanitizers) they would end the program.
 *
 *   ASH_TEST_LONG=1   random tests run their long form (`make check-long`)
 *   ASH_TEST_SEED=n   replays what a failure printed
 */
#ifndef ASH_TEST_MAIN_H
#define ASH_TEST_MAIN_H

#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Says whether tests run in child processes. */
__attribute__((unused)) static bool
test_forks(void)
{
    const char *fork = getenv("CK_FORK");
    return fork == NULL || strcmp(fork, "no") != 0;
}

/* `quick` normally, `full` in the long form. */
__attribute__((unused)) static uint64_t
test_scale(uint64_t quick, uint64_t full)
{
    const char *s = getenv("ASH_TEST_LONG");
    return s != NULL && *s != '\0' && *s != '0' ? full : quick;
}

/* The seed to use: ASH_TEST_SEED when given, else `fallback`.  Print it in every failure
 * message. */
__attribute__((unused)) static uint64_t
test_seed(uint64_t fallback)
{
    const char *s = getenv("ASH_TEST_SEED");
    return s != NULL && *s != '\0' ? strtoull(s, NULL, 0) : fallback;
}

__attribute__((unused)) static int
test_run(Suite *s)
{
    SRunner *runner = srunner_create(s);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#define TEST_MAIN(suite_fn)          \
    int main(void)                   \
    {                                \
        return test_run(suite_fn()); \
    }

#endif
