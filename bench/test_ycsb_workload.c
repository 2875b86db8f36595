/* SPDX-License-Identifier: Apache-2.0
 *
 * test_ycsb_workload.c - the benchmark's workloads are YCSB's: constants, keys, shares of operations, distributions.
 */
#include "bench/ycsb.h"
#include "tests/test_main.h"

#include <math.h>

#define ROWS  10000u
#define DRAWS 200000u

static struct ycsb_keyspace keys;
static _Atomic uint8_t window[YCSB_ACK_WINDOW];
static struct ycsb_config config;
static struct ycsb_chooser chooser;
static unsigned seen[2 * ROWS];

static void
start(const char *name, enum ycsb_distribution distribution)
{
    memset(&config, 0, sizeof(config));
    config.key_size = YCSB_KEY_TEXT_MIN;
    config.value_size = 100;
    config.hashed = true;
    config.distribution = distribution;
    memset(seen, 0, sizeof(seen));
    memset((void *)(uintptr_t)window, 0, sizeof(window));
    keys.window = window;
    atomic_store(&keys.next, ROWS);
    atomic_store(&keys.acked, ROWS);
    ycsb_chooser_init(&chooser, &config, ycsb_workload_find(name, strlen(name)), &keys, NULL,
                      test_seed(1));
}

/* Goal: the sum by formula equals YCSB's constant for 10^10 items, and the sum term by term. */
START_TEST(zeta_is_ycsbs)
{
    double sum = 0;

    ck_assert_double_eq_tol(ycsb_zeta(10000000000ull), 26.46902820178302, 1e-6);
    for (unsigned i = 1; i <= 100000; i++)
        sum += 1 / pow(i, 0.99);
    ck_assert_double_eq_tol(ycsb_zeta(100000), sum, 1e-9);
    ck_assert_double_eq_tol(ycsb_zeta(1), 1, 1e-12);
}
END_TEST

/* Goal: growing item by item ends where starting with all ends. */
START_TEST(zipf_grows_to_the_same)
{
    struct ycsb_zipf a, b;

    ycsb_zipf_init(&a, 1000);
    for (unsigned i = 1001; i <= 3000; i++)
        ycsb_zipf_grow(&a, i);
    ycsb_zipf_init(&b, 3000);
    ck_assert_double_eq_tol(a.zetan, b.zetan, 1e-9);
    ck_assert_double_eq_tol(a.eta, b.eta, 1e-9);
}
END_TEST

/* Goal: item i comes with probability 1 / (i + 1)^0.99 / zeta. */
START_TEST(zipf_has_the_right_frequencies)
{
    struct ycsb_zipf z;
    struct random r;

    start("c", YCSB_OWN);
    random_init(&r, test_seed(2));
    ycsb_zipf_init(&z, ROWS);
    for (unsigned i = 0; i < DRAWS; i++)
        seen[ycsb_zipf_next(&z, &r)]++;
    ck_assert_double_eq_tol(seen[0], DRAWS / z.zetan, DRAWS * 0.01);
    ck_assert_double_eq_tol(seen[1], DRAWS / z.zetan / pow(2, 0.99), DRAWS * 0.01);
}
END_TEST

START_TEST(first_key_is_ycsbs)
{
    uint8_t key[YCSB_KEY_TEXT_MIN + 1] = { 0 };
    uint8_t binary[8];

    start("c", YCSB_OWN);
    ycsb_key(&config, 0, key);
    ck_assert_str_eq((char *)key, "user6284781860667377211");
    config.hashed = false;
    ycsb_key(&config, 1234, key);
    ck_assert_str_eq((char *)key, "user0000000000000001234");
    config.key_size = YCSB_KEY_BINARY;
    ycsb_key(&config, 258, binary);
    ck_assert_mem_eq(binary, "\0\0\0\0\0\0\1\2", 8);
}
END_TEST

/* Goal: operations come in the shares that YCSB gives each workload. */
START_TEST(shares_of_operations)
{
    static const struct {
        const char *name;
        enum ycsb_op_kind kind;
        double share;
    } rows[] = { { "a", YCSB_UPDATE, 0.5 },  { "b", YCSB_UPDATE, 0.05 }, { "c", YCSB_READ, 1 },
                 { "d", YCSB_INSERT, 0.05 }, { "e", YCSB_SCAN, 0.95 },   { "f", YCSB_RMW, 0.5 } };
    unsigned count = 0;

    start(rows[_i].name, YCSB_OWN);
    for (unsigned i = 0; i < DRAWS; i++) {
        struct ycsb_op op;
        ycsb_choose(&chooser, &op);
        count += op.kind == rows[_i].kind;
        if (op.kind == YCSB_SCAN) {
            ck_assert_uint_ge(op.scan_rows, 1);
            ck_assert_uint_le(op.scan_rows, YCSB_SCAN_MAX);
        }
        if (op.kind != YCSB_INSERT)
            ck_assert_uint_lt(op.number, ROWS);
    }
    ck_assert_double_eq_tol(count, DRAWS * rows[_i].share, DRAWS * 0.01);
}
END_TEST

/* Goal: zipfian spreads its popular rows, latest prefers the newest, uniform prefers none. */
START_TEST(distributions_prefer_what_they_should)
{
    unsigned most = 0, newest = 0;

    start("c", _i);
    for (unsigned i = 0; i < DRAWS; i++) {
        struct ycsb_op op;
        ycsb_choose(&chooser, &op);
        seen[op.number]++;
    }
    for (unsigned i = 0; i < ROWS; i++) {
        most = seen[i] > most ? seen[i] : most;
        newest += i >= ROWS - 100 ? seen[i] : 0;
    }
    if (_i == YCSB_UNIFORM)
        ck_assert_uint_lt(most, DRAWS / ROWS * 4);
    else
        ck_assert_uint_gt(most, DRAWS / 30);
    if (_i == YCSB_LATEST)
        ck_assert_uint_gt(newest, DRAWS / 3);
    else
        ck_assert_uint_lt(newest, DRAWS / 10);
}
END_TEST

/* Goal: a row counts as present only when all before it do. */
START_TEST(acknowledged_has_no_holes)
{
    start("d", YCSB_OWN);
    ycsb_acknowledge(&keys, ROWS + 1);
    ck_assert_uint_eq(atomic_load(&keys.acked), ROWS);
    ycsb_acknowledge(&keys, ROWS + 2);
    ycsb_acknowledge(&keys, ROWS);
    ck_assert_uint_eq(atomic_load(&keys.acked), ROWS + 3);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("bench/ycsb_workload");
    TCase *c = tcase_create("ycsb_workload");
    tcase_add_test(c, zeta_is_ycsbs);
    tcase_add_test(c, zipf_grows_to_the_same);
    tcase_add_test(c, zipf_has_the_right_frequencies);
    tcase_add_test(c, first_key_is_ycsbs);
    tcase_add_loop_test(c, shares_of_operations, 0, 6);
    tcase_add_loop_test(c, distributions_prefer_what_they_should, YCSB_ZIPFIAN, YCSB_LATEST + 1);
    tcase_add_test(c, acknowledged_has_no_holes);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
