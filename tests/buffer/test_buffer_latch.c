/* SPDX-License-Identifier: Apache-2.0
 *
 * test_buffer_latch.c - single pages: latches, loading, new and free, failures.  Backends by loop
 * index.
 */
#include "tests/buffer/buffer_env.h"

static void
body_new_and_read(struct env *e)
{
    struct world w;
    struct buf_page p;
    uint64_t page[200];

    world_open(&w, e, 256 << 10, 1);
    for (uint64_t i = 0; i < 200; i++)
        page[i] = page_make(&w, 0, i + 1);
    for (uint64_t i = 0; i < 200; i++) {
        ck_ok(buf_latch_s(w.pool, page[i], &p));
        ck_assert_uint_eq(page_value(&p), i + 1);
        buf_unlatch_s(w.pool, &p);
    }
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    ck_assert_uint_eq(buf_oldest_dirty(w.pool), UINT64_MAX);
    buf_evict_all(w.pool);
    struct buf_stats s;
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.free_frames, s.frames);
    ck_assert_uint_eq(s.dirty_frames, 0);
    buf_prefetch(w.pool, page, 50, IO_CLASS_READ_AHEAD);
    for (uint64_t i = 0; i < 200; i++) {
        uint64_t value = 0;
        while (buf_opt_begin(w.pool, page[i], &p) != ASH_OK)
            ck_ok(buf_fault(w.pool, page[i], IO_CLASS_READ));
        ck_assert(page_value_opt(&p, &value));
        ck_assert(buf_opt_valid(w.pool, &p));
        ck_assert_uint_eq(value, i + 1);
    }
    world_close(&w);
}

/* Goal: what was put into more pages than the pool holds comes back by each way of reading. */
START_TEST(pages_survive_eviction)
{
    ENV_RUN(body_new_and_read);
}
END_TEST

static void
body_versions(struct env *e)
{
    struct world w;
    struct buf_page o, p, q;

    world_open(&w, e, 256 << 10, 1);
    uint64_t page = page_make(&w, 0, 1);
    ck_ok(buf_opt_begin(w.pool, page, &o));
    ck_assert(buf_opt_valid(w.pool, &o));
    /* shared latches don't disturb, exclusive ones do */
    ck_ok(buf_latch_s(w.pool, page, &p));
    ck_ok(buf_latch_s(w.pool, page, &q));
    ck_assert(buf_opt_valid(w.pool, &o));
    ck_rc(buf_try_latch_x(w.pool, page, &p), ASH_WOULD_BLOCK);
    buf_unlatch_s(w.pool, &p);
    buf_unlatch_s(w.pool, &q);
    ck_ok(buf_latch_x(w.pool, page, &p));
    ck_assert(!buf_opt_valid(w.pool, &o));
    ck_rc(buf_opt_begin(w.pool, page, &q), ASH_WOULD_BLOCK);
    buf_unlatch_x(w.pool, &p);
    ck_assert(!buf_opt_valid(w.pool, &o));
    ck_assert(!buf_opt_to_x(w.pool, &o));
    ck_assert(!buf_opt_to_s(w.pool, &o));
    /* upgrade */
    ck_ok(buf_opt_begin(w.pool, page, &o));
    q = o;
    ck_assert(buf_opt_to_x(w.pool, &o));
    ck_assert(!buf_opt_to_s(w.pool, &q));
    buf_unlatch_x(w.pool, &o);
    ck_ok(buf_opt_begin(w.pool, page, &o));
    ck_assert(buf_opt_to_s(w.pool, &o));
    buf_unlatch_s(w.pool, &o);
    /* eviction and reload change the version even when the frame is the same */
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    ck_ok(buf_opt_begin(w.pool, page, &o));
    buf_evict_all(w.pool);
    ck_assert(!buf_opt_valid(w.pool, &o));
    ck_ok(buf_fault(w.pool, page, IO_CLASS_READ));
    ck_assert(!buf_opt_valid(w.pool, &o));
    world_close(&w);
}

/* Goal: an optimistic read is valid exactly while nobody could have changed the page. */
START_TEST(optimistic_reads_notice_changes)
{
    ENV_RUN(body_versions);
}
END_TEST

static void
body_free(struct env *e)
{
    struct world w;
    struct buf_page p;

    world_open(&w, e, 256 << 10, 1);
    uint64_t page = page_make(&w, 0, 1);
    ck_ok(buf_latch_x(w.pool, page, &p));
    pstore_map_lock(&w.ps);
    buf_free(w.pool, &p, toy_append(&w.log, 32));
    pstore_map_unlock(&w.ps);
    ck_rc(buf_fault(w.pool, page, IO_CLASS_READ), ASH_CORRUPT);
    ck_rc(buf_latch_x(w.pool, page, &p), ASH_CORRUPT);
    ck_assert_uint_eq(buf_oldest_dirty(w.pool), UINT64_MAX);
    ck_ok(buf_new(w.pool, PAGE_TYPE_VALUE, 2, 1, &p)); /* the id comes back with another class */
    ck_assert_uint_eq(p.page, page);
    ck_assert_uint_eq(p.size, 16384);
    buf_new_cancel(w.pool, &p);
    ck_rc(buf_fault(w.pool, 0, IO_CLASS_READ), ASH_CORRUPT);
    ck_rc(buf_fault(w.pool, TOY_PAGES_MAX, IO_CLASS_READ), ASH_CORRUPT);
    ck_rc(buf_fault(w.pool, UINT64_MAX, IO_CLASS_READ), ASH_CORRUPT);
    ck_rc(buf_opt_begin(w.pool, UINT64_MAX, &p), ASH_WOULD_BLOCK);
    struct buf_stats s;
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.free_frames, s.frames);
    world_close(&w);
}

/* Goal: freed pages leave nothing behind, ids that are not pages are errors. */
START_TEST(freed_pages_are_gone)
{
    ENV_RUN(body_free);
}
END_TEST

static void
body_load_fails(struct env *e)
{
    struct world w;
    struct buf_page p;

    world_open(&w, e, 256 << 10, 1);
    uint64_t page = page_make(&w, 0, 1), other = page_make(&w, 0, 2);
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    buf_evict_all(w.pool);
    uint64_t good = w.ps.page[page].offset;
    w.ps.page[page].offset = (uint64_t)w.ps.page[other].offset; /* reads another page */
    ck_rc(buf_fault(w.pool, page, IO_CLASS_READ), ASH_CORRUPT);
    ck_rc(buf_latch_s(w.pool, page, &p), ASH_CORRUPT);
    ck_rc(buf_latch_x(w.pool, page, &p), ASH_CORRUPT);
    buf_prefetch(w.pool, &page, 1, IO_CLASS_READ_AHEAD);
    ck_rc(buf_opt_begin(w.pool, page, &p), ASH_WOULD_BLOCK);
    struct buf_stats s;
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.free_frames, s.frames);
    w.ps.page[page].offset = good;
    ck_ok(buf_latch_x(w.pool, page, &p));
    ck_assert_uint_eq(page_value(&p), 1);
    buf_unlatch_x(w.pool, &p);
    world_close(&w);
}

/* Goal: a load that fails leaves neither a latch nor a frame behind, and can be repeated. */
START_TEST(failed_loads_leave_nothing)
{
    ENV_RUN(body_load_fails);
}
END_TEST

static void
body_write_fails(struct env *e)
{
    struct world w;
    struct buf_page p;

    world_open(&w, e, 256 << 10, 0);
    uint64_t page[10];
    for (uint64_t i = 0; i < 10; i++)
        page[i] = page_make(&w, 0, i);
    uint64_t oldest = buf_oldest_dirty(w.pool);
    ck_assert_uint_eq(oldest, 4096);
    /* no room: nothing is lost, later it works */
    w.ps.fail_write_at = w.ps.writes + 1;
    w.ps.fail_sticky = true;
    w.ps.fail_rc = ASH_NO_SPACE;
    ck_rc(buf_write_until(w.pool, UINT64_MAX), ASH_NO_SPACE);
    ck_assert_uint_eq(buf_oldest_dirty(w.pool), oldest);
    struct buf_stats s;
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.dirty_frames, 10);
    w.ps.fail_write_at = 0;
    ck_ok(buf_write_until(w.pool, oldest + 1));
    ck_assert_uint_gt(buf_oldest_dirty(w.pool), oldest);
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    buf_evict_all(w.pool);
    for (uint64_t i = 0; i < 10; i++) {
        ck_ok(buf_latch_x(w.pool, page[i], &p));
        ck_assert_uint_eq(page_value(&p), i);
        page_change(&w, &p, i + 100);
        buf_unlatch_x(w.pool, &p);
    }
    /* the log fails: for good */
    w.log.fail_flush = true;
    ck_rc(buf_write_until(w.pool, UINT64_MAX), ASH_IO);
    ck_rc(buf_throttle(w.pool), ASH_IO);
    ck_rc(buf_write_until(w.pool, UINT64_MAX), ASH_IO);
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.dirty_frames, 10);
    world_close(&w);
}

/* Goal: a write that fails takes nothing away; no room is for a while, other failures are for good.
 * */
START_TEST(failed_writes_lose_nothing)
{
    ENV_RUN(body_write_fails);
}
END_TEST

static void
body_classes(struct env *e)
{
    struct world w;
    struct buf_page p;
    uint64_t page[120];

    world_open(&w, e, 1 << 20, 1);
    ck_assert_uint_eq(buf_class_max(w.pool), 7);
    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < 120; i++) {
            uint8_t k = (uint8_t)((i * 7 + round) % 8);
            page[i] = page_make(&w, k, i);
        }
        for (uint64_t i = 0; i < 120; i++) {
            uint8_t k = (uint8_t)((i * 7 + round) % 8);
            ck_ok(buf_latch_x(w.pool, page[i], &p));
            ck_assert_uint_eq(p.size, PAGE_CLASS_SIZE(k));
            ck_assert_uint_eq(page_value(&p), i);
            page_change(&w, &p, i + 7);
            buf_unlatch_x(w.pool, &p);
            ck_ok(buf_throttle(w.pool));
        }
        for (uint64_t i = 0; i < 120; i++) {
            ck_ok(buf_latch_x(w.pool, page[119 - i], &p));
            ck_assert_uint_eq(page_value(&p), 119 - i + 7);
            pstore_map_lock(&w.ps);
            buf_free(w.pool, &p, toy_append(&w.log, 32));
            pstore_map_unlock(&w.ps);
        }
    }
    ck_rc(buf_new(w.pool, PAGE_TYPE_VALUE, 8, 1, &p), ASH_NO_MEMORY);
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    struct buf_stats s;
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.free_frames, s.frames);
    world_close(&w);
}

/* Goal: every size class finds room in a pool full of other classes. */
START_TEST(classes_share_the_arena)
{
    ENV_RUN(body_classes);
}
END_TEST

static void
body_redo(struct env *e)
{
    struct world w;
    struct buf_page p;

    world_create(&w, e, 256 << 10, 1);
    world_start_redo(&w);
    w.log.reserved = 1 << 20;
    w.log.durable = 1 << 20; /* of a life before */
    for (unsigned round = 0; round < 2; round++)
        for (uint64_t page = 1; page <= 300; page++) {
            if (round == 0) {
                ck_ok(buf_redo_init(w.pool, page, (uint8_t)(page % 3), 1, PAGE_TYPE_VALUE, &p));
            } else {
                ck_ok(buf_latch_x(w.pool, page, &p));
                ck_assert_uint_eq(page_value(&p), page);
            }
            buf_mark_dirty(w.pool, &p, 8192 + page);
            uint64_t *words = (uint64_t *)(void *)(p.data + sizeof(struct page_head));
            for (size_t i = 0; i < (p.size - sizeof(struct page_head)) / 8; i++)
                words[i] = (page + round) * 1000003 + page;
            ((struct page_head *)(void *)p.data)->lsn = 8192 + page + 32 + round;
            buf_unlatch_x(w.pool, &p);
        }
    /* an init over an older page of another class, and a page that a later record freed */
    ck_ok(buf_redo_init(w.pool, 300, 3, 1, PAGE_TYPE_VALUE, &p));
    ck_assert_uint_eq(p.size, 32768);
    buf_mark_dirty(w.pool, &p, 10000);
    buf_unlatch_x(w.pool, &p);
    buf_stop(w.pool); /* no page writer is about to give it a place any more */
    w.ps.page[300].allocated = false;
    w.ps.page[300].offset = 0;
    world_start(&w);
    ck_rc(buf_fault(w.pool, 300, IO_CLASS_READ), ASH_CORRUPT);
    for (uint64_t page = 1; page < 300; page++) {
        ck_ok(buf_latch_x(w.pool, page, &p));
        ck_assert_uint_eq(page_value(&p), page + 1);
        buf_unlatch_x(w.pool, &p);
    }
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    world_close(&w);
}

/* Goal: redo may dirty more pages than the pool holds, and what is still dirty is written under the
 * real log. */
START_TEST(redo_needs_no_room_for_all)
{
    ENV_RUN(body_redo);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("buffer/latch");
    TCase *c = tcase_create("latch");
    tcase_add_loop_test(c, pages_survive_eviction, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, optimistic_reads_notice_changes, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, freed_pages_are_gone, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, failed_loads_leave_nothing, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, failed_writes_lose_nothing, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, classes_share_the_arena, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, redo_needs_no_room_for_all, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
