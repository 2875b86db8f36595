/* SPDX-License-Identifier: Apache-2.0
 *
 * test_buffer_evict.c - which pages stay.
 */
#define TOY_PAGES_MAX 40000u
#include "tests/buffer/buffer_env.h"

#define HOT 1200u

static void
touch(struct world *w, uint64_t page)
{
    struct buf_page p;
    uint64_t value;
    do {
        while (buf_opt_begin(w->pool, page, &p) != ASH_OK)
            ash_assert(buf_fault(w->pool, page, IO_CLASS_READ) == ASH_OK);
        ash_assert(page_value_opt(&p, &value));
    } while (!buf_opt_valid(w->pool, &p));
}

/* Share of hits of uses of the hot set, in per mille. */
static unsigned
hot_round(struct world *w, const uint64_t *page, struct random *rnd, unsigned uses)
{
    uint64_t before = w->ps.reads;
    for (unsigned i = 0; i < uses; i++)
        touch(w, page[random_below(rnd, HOT)]);
    return 1000 - (unsigned)((w->ps.reads - before) * 1000 / uses);
}

static uint64_t *
make_pages(struct world *w, unsigned count, uint8_t page_class)
{
    uint64_t *page = mem_alloc(MEM_TEST, count * sizeof(*page));
    ash_assert(page != NULL);
    for (unsigned i = 0; i < count; i++)
        page[i] = page_make(w, page_class, i);
    ck_ok(buf_write_until(w->pool, UINT64_MAX));
    return page;
}

static void
body_scan(struct env *e)
{
    struct world w;
    struct random rnd;

    world_open(&w, e, 8 << 20, 1); /* 2048 frames */
    uint64_t *page = make_pages(&w, HOT + 20480, 0);
    random_init(&rnd, 1);
    hot_round(&w, page, &rnd, 40000);
    unsigned calm = hot_round(&w, page, &rnd, 20000);
    ck_assert_uint_ge(calm, 995);
    /* a scan of ten times the pool, each page used three times in a row, while the hot set is in
     * use */
    uint64_t misses = 0, uses = 0;
    for (unsigned i = 0; i < 20480; i++) {
        for (unsigned k = 0; k < 3; k++)
            touch(&w, page[HOT + i]);
        uint64_t reads = w.ps.reads;
        touch(&w, page[random_below(&rnd, HOT)]);
        misses += w.ps.reads - reads;
        uses++;
    }
    ck_assert_msg(misses * 1000 / uses <= 30, "%llu misses in %llu uses of the hot set",
                  (unsigned long long)misses, (unsigned long long)uses);
    /* and what it leaves */
    unsigned after = hot_round(&w, page, &rnd, HOT);
    ck_assert_msg(after >= 970, "%u per mille hits after the scan", after);
    mem_free(MEM_TEST, page);
    world_close(&w);
}

/* Goal: a scan of ten times the pool costs a hot set at most 3 per cent of its hits. */
START_TEST(scans_leave_the_hot_set_alone)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 3 };
    ck_ok(env_run(&e, body_scan));
}
END_TEST

static void
body_shift(struct env *e)
{
    struct world w;
    struct random rnd;

    world_open(&w, e, 8 << 20, 1);
    uint64_t *page = make_pages(&w, HOT * 4, 0);
    random_init(&rnd, 2);
    for (unsigned set = 0; set < 4; set++) {
        hot_round(&w, page + (size_t)set * HOT, &rnd, 20000);
        ck_assert_uint_ge(hot_round(&w, page + (size_t)set * HOT, &rnd, 10000), 990);
    }
    mem_free(MEM_TEST, page);
    world_close(&w);
}

/* Goal: a new hot set displaces the old one. */
START_TEST(the_hot_set_can_change)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 4 };
    ck_ok(env_run(&e, body_shift));
}
END_TEST

static void
body_memory_moves(struct env *e)
{
    struct world w;
    struct random rnd;
    struct buf_stats s;

    world_open(&w, e, 8 << 20, 1);
    /* 16 MiB and 6.4 MiB */
    uint64_t *small = make_pages(&w, 4000, 0), *large = make_pages(&w, 100, 4);
    random_init(&rnd, 5);
    for (unsigned i = 0; i < 20000; i++)
        touch(&w, large[random_below(&rnd, 100)]);
    buf_stats(w.pool, &s);
    ck_assert_msg(s.by_class[4] >= 6 << 20, "64 KiB pages have %llu bytes",
                  (unsigned long long)s.by_class[4]);
    for (unsigned i = 0; i < 60000; i++)
        touch(&w, small[random_below(&rnd, 1500)]);
    buf_stats(w.pool, &s);
    ck_assert_msg(s.by_class[0] >= 5 << 20, "4 KiB pages have %llu bytes",
                  (unsigned long long)s.by_class[0]);
    mem_free(MEM_TEST, small);
    mem_free(MEM_TEST, large);
    world_close(&w);
}

/* Goal: memory follows use from one size class to another. */
START_TEST(memory_moves_to_the_class_in_use)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 6 };
    ck_ok(env_run(&e, body_memory_moves));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("buffer/evict");
    TCase *c = tcase_create("evict");
    tcase_add_test(c, scans_leave_the_hot_set_alone);
    tcase_add_test(c, the_hot_set_can_change);
    tcase_add_test(c, memory_moves_to_the_class_in_use);
    tcase_set_timeout(c, 120);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
