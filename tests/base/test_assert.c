/* SPDX-License-Identifier: Apache-2.0
 *
 * test_assert.c - assertions stop the process, say why, and cost nothing when they hold.
 */
#include "base/assert.h"
#include "tests/test_main.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

struct sample {
    uint32_t a;
    uint16_t b, c;
};
ASH_ONDISK_SIZE(struct sample, 8);
ASH_ONDISK_FIELD(struct sample, a, 0, 4);
ASH_ONDISK_FIELD(struct sample, b, 4, 2);
ASH_ONDISK_FIELD(struct sample, c, 6, 2);

START_TEST(a_true_condition_is_evaluated_once)
{
    int calls = 0;
    ash_assert(++calls == 1);
    ck_assert_int_eq(calls, 1);
}
END_TEST

/* Goal: debug assertions are evaluated in debug builds only.  Method: look whether the side
 * effect happened. */
START_TEST(debug_asserts_follow_the_build)
{
    int calls = 0;
    (void)calls;
    ash_debug_assert(++calls == 1);
#ifdef ASH_DEBUG
    ck_assert_int_eq(calls, 1);
#else
    ck_assert_int_eq(calls, 0);
#endif
}
END_TEST

START_TEST(no_bug_is_planted_by_default)
{
#ifndef PLANT
    ck_assert(!PLANTED(0));
    ck_assert(!PLANTED(1));
#endif
}
END_TEST

/* Goal: the line names file, condition and seed.  Method: fail in a child whose stderr is a
 * pipe. */
START_TEST(a_false_condition_aborts_with_a_line)
{
    char text[600] = "";
    int fds[2], status;

    ck_assert_int_eq(pipe(fds), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        dup2(fds[1], STDERR_FILENO);
        assert_note_seed(4711);
        ash_assert(2 + 2 == 5);
        _exit(0);
    }
    close(fds[1]);
    ck_assert_int_gt(read(fds[0], text, sizeof(text) - 1), 0);
    close(fds[0]);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status));
    ck_assert_int_eq(WTERMSIG(status), SIGABRT);
    ck_assert_ptr_nonnull(strstr(text, "test_assert.c:"));
    ck_assert_ptr_nonnull(strstr(text, "2 + 2 == 5"));
    ck_assert_ptr_nonnull(strstr(text, "seed 4711"));
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/assert");
    TCase *c = tcase_create("assert");
    tcase_add_test(c, a_true_condition_is_evaluated_once);
    tcase_add_test(c, debug_asserts_follow_the_build);
    tcase_add_test(c, no_bug_is_planted_by_default);
    tcase_add_test(c, a_false_condition_aborts_with_a_line);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
