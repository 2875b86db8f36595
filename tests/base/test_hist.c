/* SPDX-License-Identifier: Apache-2.0
 *
 * test_hist.c - quantiles within the promised error, against sorted values.
 */
#include "base/hist.h"
#include "base/random.h"
#include "tests/test_main.h"

#define VALUES 20000

static struct hist h, other, both;

static int
compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Goal: the quantile is never below the exact one and at most 1/64 above it.
 * Method: values spread over all magnitudes, compared with the sorted array. */
START_TEST(quantiles_are_exact_to_one_64th)
{
    static const double qs[] = { 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999 };
    static uint64_t v[VALUES];
    struct random r;

    random_init(&r, test_seed(11));
    hist_init(&h);
    for (unsigned i = 0; i < VALUES; i++) {
        v[i] = random_u64(&r) >> random_below(&r, 64);
        hist_add(&h, v[i]);
    }
    qsort(v, VALUES, sizeof(v[0]), compare);
    for (unsigned i = 0; i < sizeof(qs) / sizeof(qs[0]); i++) {
        double exact_rank = qs[i] * VALUES;
        unsigned rank = (unsigned)exact_rank;
        rank += rank < exact_rank;
        uint64_t exact = v[rank - 1], got = hist_quantile(&h, qs[i]);
        ck_assert_uint_ge(got, exact);
        ck_assert_uint_le(got - exact, exact / 64);
    }
    ck_assert_uint_eq(hist_quantile(&h, 0.0), v[0]);
    ck_assert_uint_eq(hist_quantile(&h, 1.0), v[VALUES - 1]);
    ck_assert_uint_eq(h.count, VALUES);
}
END_TEST

START_TEST(edges_of_every_bucket_fit)
{
    for (unsigned bit = 0; bit < 64; bit++)
        for (int d = -1; d <= 1; d++) {
            uint64_t v = ((uint64_t)1 << bit) + (uint64_t)d;
            hist_init(&h);
            hist_add(&h, v);
            ck_assert_uint_eq(hist_quantile(&h, 0.5), v); /* never above max */
            ck_assert_uint_eq(h.min, v);
        }
    hist_init(&h);
    hist_add(&h, UINT64_MAX);
    hist_add(&h, UINT64_MAX);
    ck_assert_uint_eq(hist_quantile(&h, 0.5), UINT64_MAX);
    ck_assert_uint_eq(h.sum, UINT64_MAX); /* saturated */
}
END_TEST

START_TEST(small_values_are_exact)
{
    hist_init(&h);
    for (uint64_t v = 0; v < 128; v++)
        hist_add(&h, v);
    for (unsigned i = 1; i <= 128; i++)
        ck_assert_uint_eq(hist_quantile(&h, i / 128.0), i - 1);
    ck_assert_uint_eq(h.sum, 127 * 128 / 2);
}
END_TEST

START_TEST(merge_equals_adding_all)
{
    struct random r;

    random_init(&r, 12);
    hist_init(&h);
    hist_init(&other);
    hist_init(&both);
    for (unsigned i = 0; i < VALUES; i++) {
        uint64_t v = random_u64(&r) >> (20 + random_below(&r, 44));
        hist_add(i % 3 == 0 ? &h : &other, v);
        hist_add(&both, v);
    }
    hist_merge(&h, &other);
    ck_assert_mem_eq(&h, &both, sizeof(h));
}
END_TEST

START_TEST(empty_answers_zero)
{
    hist_init(&h);
    ck_assert_uint_eq(hist_quantile(&h, 0.5), 0);
    hist_init(&other);
    hist_merge(&h, &other);
    ck_assert_uint_eq(h.count, 0);
    ck_assert_uint_eq(h.min, UINT64_MAX);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/hist");
    TCase *c = tcase_create("hist");
    tcase_add_test(c, quantiles_are_exact_to_one_64th);
    tcase_add_test(c, edges_of_every_bucket_fit);
    tcase_add_test(c, small_values_are_exact);
    tcase_add_test(c, merge_equals_adding_all);
    tcase_add_test(c, empty_answers_zero);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
