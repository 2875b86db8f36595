/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crc.c - CRC32C against published vectors.
 */
#include "base/crc.h"
#include "tests/test_main.h"

/* Goal: the polynomial, reflection and inversion of RFC 3720, whose appendix B.4 gives these
 * values. */
START_TEST(crc_matches_published_vectors)
{
    unsigned char bytes[32];

    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283u);
    ck_assert_uint_eq(crc32c(0, "", 0), 0);
    ck_assert_uint_eq(crc32c(0, NULL, 0), 0);
    memset(bytes, 0, sizeof(bytes));
    ck_assert_uint_eq(crc32c(0, bytes, sizeof(bytes)), 0x8a9136aau);
    memset(bytes, 0xff, sizeof(bytes));
    ck_assert_uint_eq(crc32c(0, bytes, sizeof(bytes)), 0x62a8ab43u);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)i;
    ck_assert_uint_eq(crc32c(0, bytes, sizeof(bytes)), 0x46dd794eu);
}
END_TEST

/* Goal: every length and alignment goes the same way as a bit-by-bit computation, and chaining
 * equals one call. */
START_TEST(crc_of_pieces_is_crc_of_the_whole)
{
    unsigned char bytes[600];

    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (unsigned char)(i * 7 + i / 13);
    for (size_t start = 0; start < 17; start++)
        for (size_t n = 0; n <= 520; n += n < 40 ? 1 : 37) {
            uint32_t slow = ~0u;
            for (size_t i = 0; i < n; i++) {
                slow ^= bytes[start + i];
                for (int bit = 0; bit < 8; bit++)
                    slow = (slow >> 1) ^ (0x82f63b78u & (0u - (slow & 1)));
            }
            slow = ~slow;
            ck_assert_uint_eq(crc32c(0, bytes + start, n), slow);
            size_t cut = n / 3;
            ck_assert_uint_eq(crc32c(crc32c(0, bytes + start, cut), bytes + start + cut, n - cut),
                              slow);
        }
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/crc");
    TCase *c = tcase_create("crc");
    tcase_add_test(c, crc_matches_published_vectors);
    tcase_add_test(c, crc_of_pieces_is_crc_of_the_whole);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
