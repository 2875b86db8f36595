/* SPDX-License-Identifier: Apache-2.0
 *
 * test_log.c - messages reach the hook, whole or cut, and stop when it is taken away.
 */
#include "base/log.h"
#include "tests/test_main.h"

#include <pthread.h>
#include <stdatomic.h>

struct seen {
    unsigned count;
    int level;
    char text[4096];
};

static void
note(void *arg, int level, const char *message)
{
    struct seen *seen = arg;
    seen->count++;
    seen->level = level;
    snprintf(seen->text, sizeof(seen->text), "%s", message);
}

START_TEST(hook_gets_level_and_text)
{
    static struct seen seen;

    log_write(LOG_WARN, "nobody listens");
    ash_log_hook(note, &seen);
    log_write(LOG_INFO, "recovered %d pages", 17);
    ck_assert_uint_eq(seen.count, 1);
    ck_assert_int_eq(seen.level, LOG_INFO);
    ck_assert_str_eq(seen.text, "recovered 17 pages");
    ash_log_hook(NULL, NULL);
    log_write(LOG_ERROR, "silence");
    ck_assert_uint_eq(seen.count, 1);
}
END_TEST

START_TEST(long_messages_are_cut)
{
    static struct seen seen;
    static char text[3000];

    memset(text, 'y', sizeof(text) - 1);
    log_hook(note, &seen);
    log_write(LOG_DEBUG, "%s", text);
    log_hook(NULL, NULL);
    ck_assert_uint_gt(strlen(seen.text), 1000);
    ck_assert_uint_lt(strlen(seen.text), sizeof(text) - 1);
}
END_TEST

static _Atomic bool stop;

static void *
talker(void *arg)
{
    while (!atomic_load(&stop))
        log_write(LOG_DEBUG, "talk");
    return arg;
}

static void
must_be_alive(void *arg, int level, const char *message)
{
    (void)level;
    (void)message;
    ck_assert_int_eq(*(int *)arg, 1);
}

/* Goal: when log_hook() returns, the previous hook is no longer running: its argument may go.
 * Method: the argument is marked dead right after, while threads keep talking. */
START_TEST(replaced_hook_is_not_called_again)
{
    static int alive[200];
    pthread_t t[2];

    atomic_store(&stop, false);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, talker, NULL), 0);
    for (unsigned i = 0; i < 200; i++) {
        alive[i] = 1;
        log_hook(must_be_alive, &alive[i]);
        if (i > 0)
            alive[i - 1] = 0;
    }
    log_hook(NULL, NULL);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_join(t[i], NULL), 0);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/log");
    TCase *c = tcase_create("log");
    tcase_add_test(c, hook_gets_level_and_text);
    tcase_add_test(c, long_messages_are_cut);
    tcase_add_test(c, replaced_hook_is_not_called_again);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
