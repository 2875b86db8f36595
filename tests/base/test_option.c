/* SPDX-License-Identifier: Apache-2.0
 *
 * test_option.c - properties that every row of the option table has, and what parsing accepts.
 */
#include "base/error.h"
#include "base/option.h"
#include "base/random.h"
#include "tests/test_main.h"

/* Goal: every row is complete, its default is in its own range and survives printing and
 * parsing. */
START_TEST(every_default_is_in_range)
{
    struct ash_option_info info;
    struct options o, again;
    unsigned iter = 0, count = 0;
    char text[64];

    options_default(&o);
    while (option_next(&iter, &info)) {
        ck_assert_str_ne(info.name, "");
        ck_assert_str_ne(info.help, "");
        ck_assert_str_ne(info.range, "");
        ck_assert_str_ne(info.default_value, "");
        ck_assert_ptr_nonnull(info.unit);
        again = o;
        ck_assert_msg(options_set(&again, info.name, info.default_value) == ASH_OK, "%s",
                      ash_error_last()->message);
        ck_assert_mem_eq(&again, &o, sizeof(o));
        ck_assert_int_eq(options_format(&o, info.name, text, sizeof(text)), ASH_OK);
        ck_assert_str_eq(text, info.default_value);
        count++;
    }
    ck_assert_uint_eq(count, OPTION_COUNT);
    ck_assert(!option_next(&iter, &info));
    iter = 0;
    ck_assert(ash_option_next(&iter, &info));
}
END_TEST

/* Goal: names are found, and a name with one letter wrong suggests the right one. */
START_TEST(unknown_names_suggest_the_nearest)
{
    struct ash_option_info info;
    enum option_id id;
    unsigned iter = 0;

    while (option_next(&iter, &info)) {
        char name[64], quoted[70];
        ck_assert_int_eq(option_find(info.name, &id), ASH_OK);
        ck_assert_uint_eq(id, iter - 1);
        ck_assert_int_eq(option_changeable(id), info.changeable);
        snprintf(quoted, sizeof(quoted), "did you mean '%s'", info.name);
        for (size_t i = 0; i < strlen(info.name); i++) {
            snprintf(name, sizeof(name), "%s", info.name);
            name[i] = '#';
            ck_assert_int_eq(option_find(name, &id), ASH_INVALID);
            ck_assert_msg(strstr(ash_error_last()->message, quoted) != NULL, "%s",
                          ash_error_last()->message);
            ck_assert_str_eq(ash_error_last()->object, name);
        }
    }
}
END_TEST

/* Goal: a value outside the range is refused with option, value and range in the sentence;
 * inside it is taken. */
START_TEST(ranges_are_enforced)
{
    struct options o;

    options_default(&o);
    ck_assert_int_eq(options_set(&o, "wal_writers", "9"), ASH_INVALID);
    ck_assert_ptr_nonnull(strstr(ash_error_last()->message, "wal_writers"));
    ck_assert_ptr_nonnull(strstr(ash_error_last()->message, "'9'"));
    ck_assert_ptr_nonnull(strstr(ash_error_last()->message, "1..8"));
    ck_assert_int_eq(options_set(&o, "wal_writers", "0"), ASH_INVALID);
    ck_assert_int_eq(options_set(&o, "wal_writers", "-1"), ASH_INVALID);
    ck_assert_int_eq(options_set(&o, "wal_writers", "8"), ASH_OK);
    ck_assert_uint_eq(o.v[OPT_wal_writers], 8);
    ck_assert_int_eq(options_set(&o, "page_size", "12KiB"), ASH_INVALID); /* not a power of two */
    ck_assert_int_eq(options_set(&o, "page_size", "16KiB"), ASH_OK);
    ck_assert_int_eq(options_set(&o, "durability", "maybe"), ASH_INVALID);
    ck_assert_int_eq(options_set(&o, "durability", "ASYNC"), ASH_OK);
    ck_assert_uint_eq(o.v[OPT_durability], 1);
    ck_assert_int_eq(options_set(&o, "durability", "syn"), ASH_INVALID);
    ck_assert_int_eq(options_set(&o, "direct_io", "off"), ASH_OK);
    ck_assert_uint_eq(o.v[OPT_direct_io], 0);
    ck_assert_int_eq(options_set(&o, "direct_io", "2"), ASH_INVALID);
}
END_TEST

START_TEST(a_list_is_taken_whole_or_not_at_all)
{
    struct options o, before;

    options_default(&o);
    ck_assert_int_eq(options_parse(&o, " cache = 64MiB , wal_writers=4,durability=none"), ASH_OK);
    ck_assert_uint_eq(o.v[OPT_cache], 64u << 20);
    ck_assert_uint_eq(o.v[OPT_wal_writers], 4);
    ck_assert_uint_eq(o.v[OPT_durability], 2);
    before = o;
    static const char *const wrong[] = {
        "cache",
        "cache=",
        "=1",
        ",",
        "cache=1GiB,",
        ",cache=1GiB",
        "cache=1GiB,,wal_writers=1",
        "cache=1GiB,wal_writers=99",
        "cache=1GiB wal_writers=1",
        "cache=1GiB;wal_writers=1",
        "nothing=1",
        "cache==1GiB",
    };
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert_msg(options_parse(&o, wrong[i]) == ASH_INVALID, "'%s' was taken", wrong[i]);
        ck_assert_mem_eq(&o, &before, sizeof(o));
    }
    ck_assert_int_eq(options_parse(&o, NULL), ASH_OK);
    ck_assert_int_eq(options_parse(&o, ""), ASH_OK);
    ck_assert_int_eq(options_parse(&o, "  "), ASH_OK);
    ck_assert_mem_eq(&o, &before, sizeof(o));
}
END_TEST

START_TEST(sizes_parse_as_written)
{
    static const struct {
        const char *text;
        bool good;
        uint64_t value;
    } cases[] = {
        { "0", true, 0 },
        { "4096", true, 4096 },
        { "1B", true, 1 },
        { "1K", true, 1024 },
        { "64kib", true, 65536 },
        { "1GiB", true, 1u << 30 },
        { "2T", true, (uint64_t)2 << 40 },
        { "16777215TiB", true, (uint64_t)16777215 << 40 },
        { "16777216TiB", false, 0 },
        { "18446744073709551615", true, UINT64_MAX },
        { "18446744073709551616", false, 0 },
        { "1KB", false, 0 },
        { "1 KiB", false, 0 },
        { "", false, 0 },
        { "KiB", false, 0 },
        { "-1", false, 0 },
        { "+1", false, 0 },
        { "0x10", false, 0 },
        { "1.5GiB", false, 0 },
    };
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t v = 99;
        ck_assert_msg(option_parse_size(cases[i].text, &v) == cases[i].good, "'%s'", cases[i].text);
        ck_assert_uint_eq(v, cases[i].good ? cases[i].value : 99);
    }
}
END_TEST

START_TEST(sizes_print_what_parses_back)
{
    struct random r;
    char text[32];

    random_init(&r, 5);
    for (int i = 0; i < 20000; i++) {
        uint64_t v = (random_u64(&r) >> random_below(&r, 64)) << (10 * random_below(&r, 5)), back;
        option_format_size(v, text);
        ck_assert(option_parse_size(text, &back));
        ck_assert_uint_eq(back, v);
    }
    option_format_size(64u << 20, text);
    ck_assert_str_eq(text, "64MiB");
    option_format_size(1000, text);
    ck_assert_str_eq(text, "1000");
}
END_TEST

START_TEST(format_needs_room)
{
    struct options o;
    char text[8];

    options_default(&o);
    ck_assert_int_eq(options_format(&o, "durability", text, 4), ASH_INVALID);
    ck_assert_int_eq(options_format(&o, "durability", text, 5), ASH_OK);
    ck_assert_str_eq(text, "sync");
    ck_assert_int_eq(options_format(&o, "durabilit", text, 5), ASH_INVALID);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/option");
    TCase *c = tcase_create("option");
    tcase_add_test(c, every_default_is_in_range);
    tcase_add_test(c, unknown_names_suggest_the_nearest);
    tcase_add_test(c, ranges_are_enforced);
    tcase_add_test(c, a_list_is_taken_whole_or_not_at_all);
    tcase_add_test(c, sizes_parse_as_written);
    tcase_add_test(c, sizes_print_what_parses_back);
    tcase_add_test(c, format_needs_room);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
