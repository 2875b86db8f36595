/* SPDX-License-Identifier: Apache-2.0
 *
 * test_error.c - the last failure: what is kept, what is cut, and whose it is.
 */
#include "base/error.h"
#include "tests/test_main.h"

#include <errno.h>
#include <pthread.h>

/* Goal: one raise carries every part to the public view, and passes the code through. */
START_TEST(raise_keeps_every_detail)
{
    ash_rc rc =
        ash_raise_sys(ASH_IO, EIO, "wal-000001", "Reading %s at %d failed", "wal-000001", 4096);
    int line = __LINE__ - 1;
    char where[64];

    snprintf(where, sizeof(where), "test_error.c:%d", line);
    ck_assert_int_eq(rc, ASH_IO);
    const struct ash_error *e = ash_error_last();
    ck_assert_int_eq(e->code, ASH_IO);
    ck_assert_int_eq(e->sys_errno, EIO);
    ck_assert_str_eq(e->object, "wal-000001");
    ck_assert_str_eq(e->message, "Reading wal-000001 at 4096 failed");
    ck_assert_str_eq(e->where, where);
}
END_TEST

static void *
fresh_thread(void *arg)
{
    *(struct ash_error *)arg = *ash_error_last();
    return NULL;
}

/* Goal: before any failure the view is empty but complete; and a thread does not see another's
 * failure. */
START_TEST(threads_start_without_a_failure)
{
    struct ash_error e;
    pthread_t t;

    ck_assert_int_eq(ash_raise(ASH_CORRUPT, "mine"), ASH_CORRUPT);
    ck_assert_int_eq(pthread_create(&t, NULL, fresh_thread, &e), 0);
    ck_assert_int_eq(pthread_join(t, NULL), 0);
    ck_assert_int_eq(e.code, ASH_OK);
    ck_assert_int_eq(e.sys_errno, 0);
    ck_assert_int_eq(ash_error_last()->code, ASH_CORRUPT);
}
END_TEST

/* Goal: the task layer can move the slot; each keeps its own failure. */
START_TEST(slots_are_independent)
{
    static struct err_detail fiber;

    ck_assert_int_eq(ash_raise(ASH_BUSY, "of the thread"), ASH_BUSY);
    err_slot = &fiber;
    ck_assert_int_eq(ash_error_last()->code, ASH_OK);
    ck_assert_str_eq(ash_error_last()->message, "");
    ck_assert_str_eq(ash_error_last()->object, "");
    ck_assert_str_eq(ash_error_last()->where, "");
    ck_assert_int_eq(ash_raise(ASH_CONFLICT, "of the fiber"), ASH_CONFLICT);
    err_slot = NULL;
    ck_assert_str_eq(ash_error_last()->message, "of the thread");
    ck_assert_str_eq(fiber.message, "of the fiber");
}
END_TEST

/* Goal: texts of every length end within their slot; a cut one says so and is valid UTF-8. */
START_TEST(long_texts_are_cut_visibly)
{
    static char text[2 * ERR_MESSAGE_MAX];

    for (size_t n = 0; n < sizeof(text) - 1; n++) {
        memset(text, 'x', n);
        text[n] = '\0';
        ck_assert_int_eq(ash_raise_obj(ASH_INVALID, text, "%s", text), ASH_INVALID);
        const struct ash_error *e = ash_error_last();
        ck_assert_uint_eq(strlen(e->message), n < ERR_MESSAGE_MAX ? n : ERR_MESSAGE_MAX - 1);
        ck_assert_uint_eq(strlen(e->object), n < ERR_OBJECT_MAX ? n : ERR_OBJECT_MAX - 1);
        if (n >= ERR_MESSAGE_MAX)
            ck_assert_str_eq(e->message + ERR_MESSAGE_MAX - 4, "...");
    }
    for (size_t lead = 0; lead < 4;
         lead++) { /* a cut may fall at any place of a three-byte character */
        memset(text, 'x', lead);
        for (size_t i = lead; i + 3 < sizeof(text); i += 3)
            memcpy(text + i, "\xe2\x82\xac", 4);
        ck_assert_int_eq(ash_raise(ASH_INVALID, "%s", text), ASH_INVALID);
        const char *m = ash_error_last()->message;
        size_t n = strlen(m);
        ck_assert_uint_lt(n, ERR_MESSAGE_MAX);
        ck_assert_str_eq(m + n - 3, "...");
        ck_assert_uint_eq((n - 3 - lead) % 3, 0);
    }
}
END_TEST

/* Goal: a sentence may quote the one in the slot, and raising does not disturb errno. */
START_TEST(raise_may_quote_the_last_message)
{
    ck_assert_int_eq(ash_raise(ASH_IO, "first"), ASH_IO);
    errno = ENOSPC;
    ck_assert_int_eq(
        ash_raise_obj(ASH_POISONED, err_current()->object, "after: %s", err_current()->message),
        ASH_POISONED);
    ck_assert_int_eq(errno, ENOSPC);
    ck_assert_str_eq(ash_error_last()->message, "after: first");
}
END_TEST

START_TEST(save_and_restore_bridge_clean_up)
{
    struct err_detail saved;

    ck_assert_int_eq(ash_raise(ASH_CORRUPT, "the cause"), ASH_CORRUPT);
    err_save(&saved);
    ck_assert_int_eq(ash_raise(ASH_IO, "clean-up failed too"), ASH_IO);
    err_restore(&saved);
    ck_assert_str_eq(ash_error_last()->message, "the cause");
}
END_TEST

START_TEST(errno_maps_to_codes)
{
    ck_assert_int_eq(err_from_errno(ENOMEM), ASH_NO_MEMORY);
    ck_assert_int_eq(err_from_errno(ENOSPC), ASH_NO_SPACE);
    ck_assert_int_eq(err_from_errno(EDQUOT), ASH_NO_SPACE);
    ck_assert_int_eq(err_from_errno(EFBIG), ASH_NO_SPACE);
    ck_assert_int_eq(err_from_errno(EROFS), ASH_READ_ONLY);
    ck_assert_int_eq(err_from_errno(EIO), ASH_IO);
    ck_assert_int_eq(err_from_errno(0), ASH_IO);
}
END_TEST

/* Goal: every number that names itself is a real code with a phrase; the others are answered
 * too. */
START_TEST(codes_have_names_and_phrases)
{
    unsigned known = 0;

    for (int i = -5; i < 100; i++) {
        const char *name = ash_rc_name((ash_rc)i);
        const char *phrase = ash_strerror((ash_rc)i);
        ck_assert_ptr_nonnull(name);
        ck_assert_ptr_nonnull(phrase);
        ck_assert_str_ne(phrase, "");
        known += strcmp(name, "ASH_?") != 0;
    }
    ck_assert_uint_eq(known, 23); /* all of enum ash_rc; a new code needs its words in error.c */
    ck_assert_str_eq(ash_rc_name(ASH_OK), "ASH_OK");
    ck_assert_str_eq(ash_rc_name(ASH_INTERNAL), "ASH_INTERNAL");
}
END_TEST

START_TEST(version_matches_the_header)
{
    char text[32];
    snprintf(text, sizeof(text), "%d.%d.%d", ASH_VERSION_MAJOR, ASH_VERSION_MINOR,
             ASH_VERSION_PATCH);
    ck_assert_str_eq(ash_version(), text);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/error");
    TCase *c = tcase_create("error");
    tcase_add_test(c, raise_keeps_every_detail);
    tcase_add_test(c, threads_start_without_a_failure);
    tcase_add_test(c, slots_are_independent);
    tcase_add_test(c, long_texts_are_cut_visibly);
    tcase_add_test(c, raise_may_quote_the_last_message);
    tcase_add_test(c, save_and_restore_bridge_clean_up);
    tcase_add_test(c, errno_maps_to_codes);
    tcase_add_test(c, codes_have_names_and_phrases);
    tcase_add_test(c, version_matches_the_header);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
