/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_env.h - pages that tell who they are, and a toy log, for the page store's tests.
 */
#ifndef ASH_TESTS_PSTORE_ENV_H
#define ASH_TESTS_PSTORE_ENV_H

#include "base/bits.h"
#include "base/crc.h"
#include "storage/pstore.h"
#include "storage/pstore_format.h"

#include "tests/storage/io_env.h"

#define TEST_ZONE (64u << 10)
/* For inner loops: libcheck's own assertions cost a system call each. */
#define must(cond, ...)                \
    do {                               \
        if (!(cond))                   \
            ck_abort_msg(__VA_ARGS__); \
    } while (0)

__attribute__((unused)) static struct pstore_options
ps_options(struct env *e)
{
    return (struct pstore_options){ .io = e->io,
                                    .dir = e->dir,
                                    .zone_bytes = TEST_ZONE,
                                    .grow_bytes = 1u << 20,
                                    .page_id_max = 4096 };
}

/* An image of `page` whose contents follow from page and version. */
__attribute__((unused)) static void
image_make(void *image, uint64_t page, uint8_t class, uint64_t version, uint64_t lsn)
{
    memset(image, 0, PAGE_CLASS_SIZE(class));
    *(struct page_head *)image = (struct page_head){ .format = PAGE_FORMAT,
                                                     .type = PAGE_TYPE_BTREE_LEAF,
                                                     .page_class = class,
                                                     .page = page,
                                                     .tree = 7,
                                                     .lsn = lsn };
    uint64_t *w = (uint64_t *)image + 5;
    w[0] = version;
    for (uint32_t i = 1; i < PAGE_CLASS_SIZE(class) / 8 - 5; i++)
        w[i] = hash_u64(page << 32 ^ version) + i;
}

/* The version in an image, after checking every byte of it. */
__attribute__((unused)) static uint64_t
image_version(const void *image, uint64_t page, uint8_t class)
{
    const uint64_t *w = (const uint64_t *)image + 5;
    for (uint32_t i = 1; i < PAGE_CLASS_SIZE(class) / 8 - 5; i++)
        must(w[i] == hash_u64(page << 32 ^ w[0]) + i, "page %llu holds foreign bytes",
             (unsigned long long)page);
    return w[0];
}

/* ---- The toy log: a list; the LSN of a record is its index + 1, and the same is its end ---- */

enum toy_type {
    TOY_INIT = 1,
    TOY_MAP,
    TOY_FREE
};
struct toy_record {
    enum toy_type type;
    uint64_t page;
    struct map_entry entry;
    uint64_t version;
};
#define TOY_MAX 20000u
static struct {
    struct toy_record rec[TOY_MAX];
    uint64_t count;   /* appended */
    uint64_t durable; /* records below survive */
} toy;

__attribute__((unused)) static uint64_t
toy_append(enum toy_type type, uint64_t page, struct map_entry entry, uint64_t version)
{
    ck_assert_uint_lt(toy.count, TOY_MAX);
    toy.rec[toy.count] = (struct toy_record){ type, page, entry, version };
    return ++toy.count;
}

__attribute__((unused)) static void
toy_flush(struct pstore *ps)
{
    toy.durable = toy.count;
    pstore_release(ps, toy.durable);
}

/* Restart: what recovery's analysis does, with the first `count` records. */
__attribute__((unused)) static ash_rc
toy_replay(struct pstore *ps, uint64_t count)
{
    struct pstore_checkpoint_info info;
    pstore_info(ps, &info);
    for (uint64_t i = info.scan_lsn; i < count;
         i++) { /* below map_lsn too, as an old redo LSN makes it */
        const struct toy_record *r = &toy.rec[i];
        bool below = i < info.map_lsn;
        ash_rc rc = pstore_replay_check(ps, r->page, r->entry);
        if (rc != ASH_OK)
            return rc;
        if (r->type == TOY_INIT)
            pstore_page_mark(ps, r->page);
        else if (r->type == TOY_FREE && below)
            pstore_page_unmark(ps, r->page);
        else if (r->type == TOY_FREE)
            pstore_page_free(ps, r->page, i + 1);
        else if (!below)
            pstore_install(ps, r->page, r->entry, i + 1);
    }
    return pstore_recovered(ps);
}

/* ---- Acting on the store ---- */

/* Writes new versions of pages, in one call, and installs them. */
__attribute__((unused)) static ash_rc
pages_write(struct pstore *ps, const uint64_t *page, const uint8_t *class, const uint64_t *version,
            unsigned count)
{
    struct pstore_write w[16];
    ck_assert_uint_le(count, 16);
    for (unsigned i = 0; i < count; i++) {
        w[i] = (struct pstore_write){ .page = page[i],
                                      .page_class = class[i],
                                      .image = mem_aligned(MEM_TEST, IO_ALIGN,
                                                           PAGE_CLASS_SIZE(class[i])) };
        image_make(w[i].image, page[i], class[i], version[i], 0);
    }
    ash_rc rc = pstore_write(ps, w, count, toy.durable, IO_CLASS_PAGE_WRITER);
    if (rc == ASH_OK) {
        pstore_map_lock(ps);
        for (unsigned i = 0; i < count; i++) {
            uint64_t lsn = toy_append(TOY_MAP, page[i], w[i].entry, version[i]);
            pstore_install(ps, page[i], w[i].entry, lsn);
        }
        pstore_map_unlock(ps);
    }
    for (unsigned i = 0; i < count; i++)
        mem_free(MEM_TEST, w[i].image);
    return rc;
}

__attribute__((unused)) static ash_rc
page_write(struct pstore *ps, uint64_t page, uint8_t class, uint64_t version)
{
    return pages_write(ps, &page, &class, &version, 1);
}

__attribute__((unused)) static uint64_t
page_new(struct pstore *ps)
{
    uint64_t page;
    ck_ok(pstore_page_alloc(ps, &page));
    toy_append(TOY_INIT, page, (struct map_entry){ 0 }, 0);
    return page;
}

__attribute__((unused)) static void
page_drop(struct pstore *ps, uint64_t page)
{
    pstore_map_lock(ps);
    pstore_page_free(ps, page, toy_append(TOY_FREE, page, (struct map_entry){ 0 }, 0));
    pstore_map_unlock(ps);
}

__attribute__((unused)) static ash_rc
page_read(struct pstore *ps, uint64_t page, uint64_t *version_out)
{
    struct map_entry e;
    uint8_t class = 0;
    (void)pstore_locate(ps, page, &e, &class);
    void *buf = mem_aligned(MEM_TEST, IO_ALIGN, PAGE_CLASS_SIZE(class));
    ash_rc rc = pstore_read(ps, page, class, buf, IO_CLASS_READ);
    if (rc == ASH_OK)
        *version_out = image_version(buf, page, class);
    mem_free(MEM_TEST, buf);
    return rc;
}

__attribute__((unused)) static void
ps_verify(struct pstore *ps, pstore_found_fn found, void *arg)
{
    ck_ok(pstore_verify_map(ps, found, arg));
    ck_ok(pstore_verify_pages(ps, found, arg));
}

__attribute__((unused)) static bool
toy_unplaced(struct pstore *ps, uint64_t page)
{
    struct map_entry e;
    uint8_t class;
    return pstore_page_allocated(ps, page) && !pstore_locate(ps, page, &e, &class);
}

/* redo_lsn: where the scan begins, <= map_lsn. */
__attribute__((unused)) static ash_rc
ps_checkpoint(struct pstore *ps, uint64_t redo_back)
{
    struct pstore_checkpoint_info info = { 0 };
    pstore_map_lock(ps);
    info.map_lsn = toy.count;
    ash_rc rc = pstore_checkpoint_begin(ps);
    pstore_map_unlock(ps);
    if (rc != ASH_OK)
        return rc;
    rc = pstore_checkpoint_write(ps);
    if (rc != ASH_OK) {
        pstore_checkpoint_abort(ps);
        return rc;
    }
    info.scan_lsn = info.map_lsn > redo_back ? info.map_lsn - redo_back : 0;
    /* A page without a place is dirty: its PAGE_INIT must be read again. */
    for (uint64_t i = info.scan_lsn; i-- > 0;)
        if (toy.rec[i].type == TOY_INIT && toy_unplaced(ps, toy.rec[i].page))
            info.scan_lsn = i;
    info.checkpoint_lsn = toy.count + 1;
    toy_flush(ps);
    return pstore_checkpoint_commit(ps, &info);
}

#endif
