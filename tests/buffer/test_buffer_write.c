/* SPDX-License-Identifier: Apache-2.0
 *
 * test_buffer_write.c - page writers: starting, being hindered, going on.
 */
#include "tests/buffer/buffer_env.h"

static void
body_start_fails(struct env *e)
{
    struct world w;
    uint64_t n = 0;
    ash_rc rc = ASH_NO_MEMORY;

    world_create(&w, e, 256 << 10, 4);
    struct buf_log_ops ops = { &w.log, toy_flush_to, toy_durable, toy_append_map };
    while (rc != ASH_OK) {
        mem_fail_at(++n, /* sticky= */ false);
        rc = buf_start(w.pool, &ops);
        mem_fail_at(0, false);
        ck_assert(rc == ASH_OK || rc == ASH_NO_MEMORY);
    }
    ck_assert_uint_gt(n, 4); /* one per writer, at least */
    uint64_t page = page_make(&w, 0, 1);
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    ck_assert_uint_ne(w.ps.page[page].offset, 0);
    world_close(&w);
}

/* Goal: a start that fails half way leaves no writer running, and can be repeated. */
START_TEST(a_start_that_fails_can_be_repeated)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 1 };
    ck_ok(env_run(&e, body_start_fails));
}
END_TEST

static void
body_hindered(struct env *e)
{
    static const ash_rc why[] = { ASH_NO_SPACE, ASH_NO_MEMORY };
    struct world w;
    struct buf_page p;
    struct buf_stats s;

    world_open(&w, e, 256 << 10, 2);
    for (unsigned k = 0; k < ASH_ARRAY_SIZE(why); k++) {
        uint64_t page[40];
        w.ps.fail_write_at = w.ps.writes + 1;
        w.ps.fail_sticky = true;
        w.ps.fail_rc = why[k];
        unsigned n = 0;
        ash_rc rc = ASH_OK;
        for (; n < 40 && (rc = buf_throttle(w.pool)) == ASH_OK; n++) {
            ck_ok(buf_new(w.pool, PAGE_TYPE_VALUE, 0, 1, &p));
            page[n] = p.page;
            page_change(&w, &p, n);
            buf_unlatch_x(w.pool, &p);
            task_sleep_ns(10000000);
        }
        ck_rc(rc, why[k]);
        ck_rc(buf_write_until(w.pool, UINT64_MAX), why[k]);
        /* Large frames are only in dirty pages: whoever needs one is told the same, and soon. */
        uint64_t begin = clock_ns();
        rc = buf_reserve(w.pool, 5, 2);
        ck_assert(rc == why[k]);
        ck_assert_uint_lt(clock_ns() - begin, 2000000000ull);
        w.ps.fail_write_at = 0;
        task_sleep_ns(200000000); /* the writers try again by themselves */
        buf_stats(w.pool, &s);
        ck_assert_uint_lt(s.dirty_frames, s.frames / 2);
        ck_ok(buf_throttle(w.pool));
        ck_ok(buf_write_until(w.pool, UINT64_MAX));
        buf_evict_all(w.pool);
        for (unsigned i = 0; i < n; i++) {
            ck_ok(buf_latch_s(w.pool, page[i], &p));
            ck_assert_uint_eq(page_value(&p), i);
            buf_unlatch_s(w.pool, &p);
        }
    }
    world_close(&w);
}

/* Goal: a full disk or memory hinders page writers while it lasts, and stops nothing for good. */
START_TEST(writers_go_on_when_there_is_room_or_memory_again)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 2 };
    ck_ok(env_run(&e, body_hindered));
}
END_TEST

/* Changes each of these pages and lets eviction find them cold: they wait in the laundry. */
static void
dirty_cold(struct world *w, const uint64_t *page, unsigned count, uint8_t page_class)
{
    struct buf_page p;

    for (unsigned i = 0; i < count; i++) {
        ck_ok(buf_latch_x(w->pool, page[i], &p));
        page_change(w, &p, i);
        buf_unlatch_x(w->pool, &p);
    }
    buf__evict(w->pool, page_class, /* force= */ true);
}

static void
body_large_laundry(struct env *e)
{
    struct world w;
    uint64_t small[100], large;
    uint32_t count;

    world_open(&w, e, 1 << 20, 0);
    for (unsigned i = 0; i < 100; i++)
        small[i] = page_make(&w, 0, i);
    large = page_make(&w, 7, 1); /* as large as a batch: it goes alone */
    dirty_cold(&w, &large, 1, 7);
    unsigned rounds = 0;
    for (; rounds < 20 && w.ps.page[large].offset == 0; rounds++) {
        dirty_cold(&w, small, 100, 0);
        ck_ok(buf__write_round(&w.pool->guest, 0, /* laundry= */ true, &count));
        ck_assert_uint_gt(count, 0);
    }
    ck_assert_uint_le(rounds, 8); /* classes 0 to 7 */
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    world_close(&w);
}

/* Goal: small pages in the laundry, however many, do not keep a large one from being written. */
START_TEST(every_class_in_the_laundry_has_its_turn)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 3 };
    ck_ok(env_run(&e, body_large_laundry));
}
END_TEST

struct reserver {
    struct world *w;
    uint64_t page;
    struct task *task;
};

static void
reserver_main(void *arg)
{
    struct reserver *r = arg;
    struct buf_page p;

    for (unsigned i = 0; i < 20; i++) {
        ash_assert(buf_throttle(r->w->pool) == ASH_OK);
        ash_assert(buf_reserve(r->w->pool, 5, 2) == ASH_OK);
        ash_assert(buf_latch_x(r->w->pool, r->page, &p) == ASH_OK);
        page_change(r->w, &p, i);
        buf_unlatch_x(r->w->pool, &p);
    }
}

static void
body_reservers(struct env *e)
{
    struct world w;
    struct reserver r[3];

    world_open(&w, e, 256 << 10, 1); /* two frames of 128 KiB, if nothing else is there */
    ck_assert_uint_eq(buf_class_max(w.pool), 5);
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(r); i++) {
        r[i].w = &w;
        r[i].page = page_make(&w, 5, i);
    }
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(r); i++)
        ck_ok(task_spawn(e->rt, "reserver", reserver_main, &r[i], &r[i].task));
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(r); i++)
        task_join(r[i].task);
    world_close(&w);
}

/* Goal: tasks that need several frames each do not keep what they have from one another. */
START_TEST(reservations_do_not_block_one_another)
{
    for (uint64_t seed = 1; seed <= test_scale(20, 500); seed++) {
        struct env e = { .kind = IO_BACKEND_SIM, .seed = seed };
        assert_note_seed(seed);
        ck_ok(env_run(&e, body_reservers));
    }
}
END_TEST

static void
write_all(void *arg)
{
    struct world *w = arg;
    ash_assert(buf_write_until(w->pool, UINT64_MAX) == ASH_OK);
}

static void
body_redo_init(struct env *e)
{
    struct world w;
    struct buf_page p;
    struct task *t;

    world_create(&w, e, 256 << 10, 0);
    world_start_redo(&w);
    w.log.reserved = w.log.durable = 1 << 20; /* of a life before */
    ck_ok(buf_redo_init(w.pool, 1, 0, 1, PAGE_TYPE_VALUE, &p));
    buf_mark_dirty(w.pool, &p, 8192);
    buf_unlatch_x(w.pool, &p);
    uint32_t frame = p.frame;
    ck_ok(task_spawn(e->rt, "writer", write_all, &w, &t));
    while ((atomic_load(&w.pool->frames[frame].flags) & FRAME_WRITING) == 0)
        task_yield();
    ck_ok(buf_redo_init(w.pool, 1, 2, 1, PAGE_TYPE_VALUE, &p));
    task_join(t);
    ck_assert_uint_eq(w.ps.page[1].offset, 0); /* what was written is of the life before */
    ck_assert_uint_eq(w.ps.cancelled, 1);
    buf_mark_dirty(w.pool, &p, 9000);
    buf_unlatch_x(w.pool, &p);
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    ck_assert_uint_eq(w.ps.page[1].page_class, 2);
    world_close(&w);
}

/* Goal: a page that redo makes anew while its former self is being written does not get that
 * place. */
START_TEST(redo_over_a_page_being_written_takes_the_new_one)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 4 };
    ck_ok(env_run(&e, body_redo_init));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("buffer/write");
    TCase *c = tcase_create("write");
    tcase_add_test(c, a_start_that_fails_can_be_repeated);
    tcase_add_test(c, writers_go_on_when_there_is_room_or_memory_again);
    tcase_add_test(c, every_class_in_the_laundry_has_its_turn);
    tcase_add_test(c, reservations_do_not_block_one_another);
    tcase_add_test(c, redo_over_a_page_being_written_takes_the_new_one);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
