/* SPDX-License-Identifier: Apache-2.0
 *
 * test_random.c - sequences that never change, and values that are uniform enough.
 */
#include "base/random.h"
#include "tests/test_main.h"

/* Goal: printed seeds must replay in every later release.  The values were made by the reference
 * code of the authors. */
START_TEST(sequence_is_pinned)
{
    static const uint64_t expected[] = { 0x99ec5f36cb75f2b4u, 0xbf6e1f784956452au,
                                         0x1a5f849d4933e6e0u, 0x6aa594f1262d2d2cu };
    struct random r, again;

    random_init(&r, 0);
    for (unsigned i = 0; i < 4; i++)
        ck_assert_uint_eq(random_u64(&r), expected[i]);
    random_init(&r, 42);
    random_init(&again, 42);
    for (unsigned i = 0; i < 1000; i++)
        ck_assert_uint_eq(random_u64(&r), random_u64(&again));
}
END_TEST

/* Goal: every value below the bound appears about equally often.  Method: chi-square with fixed
 * seeds. */
START_TEST(below_is_uniform)
{
    static const uint64_t bounds[] = { 1, 2, 3, 7, 10, 100, 255 };
    struct random r;

    random_init(&r, 7);
    for (unsigned b = 0; b < sizeof(bounds) / sizeof(bounds[0]); b++) {
        uint64_t bound = bounds[b], n = 1000 * bound, seen[255] = { 0 };
        double chi = 0;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t v = random_below(&r, bound);
            ck_assert_uint_lt(v, bound);
            seen[v]++;
        }
        for (uint64_t v = 0; v < bound; v++)
            chi += ((double)seen[v] - 1000.0) * ((double)seen[v] - 1000.0) / 1000.0;
        ck_assert_double_lt(chi, (double)bound +
                                     6.0 * 23.0); /* mean bound-1, six standard deviations at 255 */
    }
    /* At two thirds of the range, multiplying without rejecting would give odd numbers of the lower
     * half twice as often as even ones. */
    uint64_t large = (UINT64_MAX / 3) * 2, upper = 0, odd = 0;
    for (int i = 0; i < 10000; i++) {
        uint64_t v = random_below(&r, large);
        ck_assert_uint_lt(v, large);
        upper += v >= large / 2;
        odd += v < large / 2 && v % 2 != 0;
    }
    ck_assert_uint_gt(upper, 4700);
    ck_assert_uint_lt(upper, 5300);
    ck_assert_uint_gt(odd, 2200);
    ck_assert_uint_lt(odd, 2800);
}
END_TEST

START_TEST(chance_and_unit_hit_their_means)
{
    struct random r;
    unsigned hits = 0;
    double sum = 0;

    random_init(&r, 8);
    for (int i = 0; i < 100000; i++) {
        double u = random_unit(&r);
        ck_assert(u >= 0.0 && u < 1.0);
        sum += u;
        hits += random_chance(&r, 1, 4);
    }
    ck_assert_double_eq_tol(sum / 100000, 0.5, 0.01);
    ck_assert_double_eq_tol(hits / 100000.0, 0.25, 0.01);
    ck_assert(!random_chance(&r, 0, 5));
    ck_assert(random_chance(&r, 5, 5));
}
END_TEST

/* Goal: entropy fills exactly the bytes asked for, comes from the seed under simulation, and
 * differs otherwise. */
START_TEST(entropy_obeys_its_source)
{
    unsigned char a[37], b[37];
    struct random r;

    for (size_t n = 0; n <= 33; n++) {
        memset(a, 0xa5, sizeof(a));
        random_init(&r, 3);
        random_entropy_source = &r;
        random_entropy(a, n);
        for (size_t i = n; i < sizeof(a); i++)
            ck_assert_uint_eq(a[i], 0xa5);
        memset(b, 0xa5, sizeof(b));
        random_init(&r, 3);
        random_entropy(b, n);
        random_entropy_source = NULL;
        ck_assert_mem_eq(a, b, sizeof(a));
    }
    random_entropy(a, sizeof(a));
    random_entropy(b, sizeof(b));
    ck_assert_mem_ne(a, b, sizeof(a));
}
END_TEST

/* Goal: near keys do not collide, neither in all 64 bits nor visibly in the low 16. */
START_TEST(hashes_spread)
{
    static uint32_t low[1 << 16];
    unsigned char text[40];
    unsigned most = 0;

    for (uint32_t i = 0; i < 1 << 16; i++) {
        memcpy(text, "user000000000000000000000000000000000000", 40);
        memcpy(text + 20, &i, 4);
        uint32_t bucket = (uint32_t)hash_bytes(text, 24 + i % 9, 0) & 0xffff;
        most = ++low[bucket] > most ? low[bucket] : most;
    }
    ck_assert_uint_le(most, 14); /* 65536 balls in as many bins: 8 or 9 expected */
    ck_assert_uint_ne(hash_bytes("a", 1, 0), hash_bytes("a", 1, 1));
    ck_assert_uint_ne(hash_bytes("a\0", 2, 0), hash_bytes("a", 1, 0));
    ck_assert_uint_eq(hash_bytes(NULL, 0, 5), hash_bytes("", 0, 5));
    ck_assert_uint_ne(hash_u64(1), hash_u64(2));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/random");
    TCase *c = tcase_create("random");
    tcase_add_test(c, sequence_is_pinned);
    tcase_add_test(c, below_is_uniform);
    tcase_add_test(c, chance_and_unit_hit_their_means);
    tcase_add_test(c, entropy_obeys_its_source);
    tcase_add_test(c, hashes_spread);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
