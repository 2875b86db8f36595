/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pstore_check.c - the page store's checks of bytes: page heads, map pages, map roots, MAP
 * records.
 *
 * Goal: each field is looked at, also behind a right checksum, as a foreign or older writer or a
 * misdirected write leaves it; and the sentence says which.
 */
#include <stddef.h>

#include "tests/storage/pstore_env.h"

static void
seal(void *image, uint32_t size)
{
    struct page_head *h = image;
    h->crc32c = crc32c(0, (const uint8_t *)image + 4, size - 4);
}

static void
must_refuse_page(const void *image, uint32_t size, ash_rc expected, const char *words)
{
    ck_rc(page_check(image, size, 9, 77, "file", 4096), expected);
    ck_assert_msg(strstr(err_current()->message, words) != NULL, "%s", err_current()->message);
}

START_TEST(each_field_of_a_page_head_is_checked)
{
    uint8_t *image = env_buffer(8192);
    struct page_head *h = (struct page_head *)(void *)image, good;

    image_make(image, 9, 0, 1, 0);
    h->database = 77;
    good = *h;
    seal(image, 4096);
    ck_ok(page_check(image, 4096, 9, 77, "file", 4096));
    for (uint32_t size = 0; size < 3 * 4096; size += 1024)
        if (size != 4096 && size != 8192)
            must_refuse_page(image, size, ASH_CORRUPT, "no page has");
    must_refuse_page(image, 8192, ASH_CORRUPT, "checksum");
    image[4000] ^= 1;
    must_refuse_page(image, 4096, ASH_CORRUPT, "checksum");
    image[4000] ^= 1;

    static const struct {
        size_t offset;
        uint8_t value;
        ash_rc rc;
        const char *words;
    } wrong[] = {
        { offsetof(struct page_head, format), PAGE_FORMAT + 1, ASH_VERSION_MISMATCH, "format" },
        { offsetof(struct page_head, format), 0, ASH_CORRUPT, "format" },
        { offsetof(struct page_head, page), 10, ASH_CORRUPT, "misdirected" },
        { offsetof(struct page_head, database), 78, ASH_CORRUPT, "another database" },
        { offsetof(struct page_head, page_class), 1, ASH_CORRUPT, "size class" },
        { offsetof(struct page_head, page_class), PAGE_CLASS_COUNT, ASH_CORRUPT, "size class" },
        { offsetof(struct page_head, type), 0, ASH_CORRUPT, "type" },
        { offsetof(struct page_head, flags), 1, ASH_CORRUPT, "flags" },
    };
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(wrong); i++) {
        *h = good;
        image[wrong[i].offset] = wrong[i].value;
        seal(image, 4096);
        must_refuse_page(image, 4096, wrong[i].rc, wrong[i].words);
    }
    mem_free(MEM_TEST, image);
}
END_TEST

static void
must_refuse_map(void *page, const char *words)
{
    seal(page, 4096);
    ck_rc(pstore_map_page_check(page, 4096), ASH_CORRUPT);
    ck_assert_msg(strstr(err_current()->message, words) != NULL, "%s", err_current()->message);
}

START_TEST(each_field_of_a_map_page_is_checked)
{
    struct map_page *m = env_buffer(4096), good;
    uint64_t place = map_entry_make(SUPER_AREA, 4096, 5).v;

    image_make(m, MAP_PAGE_ID(3), 0, 0, 0);
    memset(&m->index, 0, 4096 - sizeof(m->head));
    m->head.type = PAGE_TYPE_MAP;
    m->index = 3;
    m->entry[7] = place;
    good = *m;
    seal(m, 4096);
    ck_ok(pstore_map_page_check(m, 4096));
    ck_rc(pstore_map_page_check(m, 8192), ASH_CORRUPT);
    m->index = 4;
    must_refuse_map(m, "number");
    *m = good;
    m->entry[8] = MAP_UNIT; /* in the superblock area */
    must_refuse_map(m, "entry 8");
    *m = good;
    m->entry[8] = place | 1ull << 24; /* not on a unit of 4 KiB */
    must_refuse_map(m, "entry 8");
    *m = good;
    m->entry[8] = map_entry_make(SUPER_AREA, 3 * 4096, 5).v; /* no size of a page */
    must_refuse_map(m, "entry 8");
    *m = good;
    m->head.page = MAP_PAGE_ID(0);
    m->index = 0;
    m->entry[0] = place;
    must_refuse_map(m, "page 0");
    *m = good;
    m->head.type = PAGE_TYPE_BTREE_LEAF;
    must_refuse_map(m, "");
    mem_free(MEM_TEST, m);
}
END_TEST

START_TEST(each_field_of_a_map_root_is_checked)
{
    struct map_root *r = env_buffer(4096), good;
    uint64_t place = map_entry_make(SUPER_AREA, 4096, 5).v;

    image_make(r, MAP_ROOT_ID(2), 0, 0, 0);
    memset(&r->index, 0, 4096 - sizeof(r->head));
    r->head.type = PAGE_TYPE_MAP_ROOT;
    r->index = 2;
    r->count = MAP_ROOT_ENTRIES;
    r->next = place;
    r->entry[1] = place;
    good = *r;
    seal(r, 4096);
    ck_ok(pstore_map_page_check(r, 4096));
    r->index = 3;
    must_refuse_map(r, "malformed");
    *r = good;
    r->count = MAP_ROOT_ENTRIES + 1;
    must_refuse_map(r, "malformed");
    *r = good;
    r->count = 5; /* one that is not full has no successor */
    must_refuse_map(r, "malformed");
    *r = good;
    r->next = 1;
    must_refuse_map(r, "malformed");
    *r = good;
    r->reserved = 1;
    must_refuse_map(r, "malformed");
    *r = good;
    r->next = 0;
    r->count = 1; /* an entry behind the last */
    must_refuse_map(r, "entry 1");
    *r = good;
    r->entry[2] = 1;
    must_refuse_map(r, "entry 2");
    mem_free(MEM_TEST, r);
}
END_TEST

START_TEST(map_records_are_checked_and_read_back)
{
    struct pstore_write w[3];
    uint64_t body[64];
    uint8_t *image = env_buffer(4096);
    unsigned count;

    image_make(image, 5, 0, 1, 4242);
    for (unsigned i = 0; i < 3; i++)
        w[i] = (struct pstore_write){ .page = 5 + i,
                                      .image = image,
                                      .entry = map_entry_make(SUPER_AREA + i * 4096, 4096, i) };
    uint32_t size = pstore_map_record_size(3);
    ck_assert_uint_le(size, sizeof(body));
    pstore_map_record_fill(body, w, 3);
    ck_ok(pstore_map_record_check(body, size, &count));
    ck_assert_uint_eq(count, 3);
    ck_assert_uint_eq(pstore_map_record_move(body, 1)->page, 6);
    ck_assert_uint_eq(pstore_map_record_move(body, 1)->entry, w[1].entry.v);
    ck_assert_uint_eq(pstore_map_record_move(body, 2)->lsn, 4242);
    for (uint32_t s = 0; s < 200; s++)
        if (s != size)
            ck_rc(pstore_map_record_check(body, s, &count), ASH_CORRUPT);
    body[2] = 1; /* a place inside the superblock area */
    ck_rc(pstore_map_record_check(body, size, &count), ASH_CORRUPT);
    mem_free(MEM_TEST, image);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("storage/pstore-check");
    TCase *c = tcase_create("check");
    tcase_add_test(c, each_field_of_a_page_head_is_checked);
    tcase_add_test(c, each_field_of_a_map_page_is_checked);
    tcase_add_test(c, each_field_of_a_map_root_is_checked);
    tcase_add_test(c, map_records_are_checked_and_read_back);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
