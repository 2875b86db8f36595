/* SPDX-License-Identifier: Apache-2.0
 *
 * test_buffer_resize.c - the arena follows the budget: what it gives back, and that no page suffers.
 */
#define TOY_PAGES_MAX 40000u
#include "tests/buffer/buffer_env.h"

#define MIB    (1ull << 20)
#define ARENA  (32 * MIB)
#define TASKS  4u
#define PAGES  12288u                        /* 48 MiB */
#define BUDGET (ARENA + PAGES * 8 + 5 * MIB) /* page table, images, reserve */
#define ROUNDS 6u
#define TURNS  4u /* of work, until the arena has followed */
#define OPS    3000u

struct work {
    struct world *w;
    const uint64_t *page;
    _Atomic uint64_t *value; /* by index: what the page was last given */
    uint64_t seed;
    unsigned ops;
};

/* Each task changes pages of its own and reads everybody's. */
static void
worker(void *arg)
{
    struct work *work = arg;
    struct buf_pool *pool = work->w->pool;
    struct random rnd;
    struct buf_page p;

    random_init(&rnd, work->seed);
    for (unsigned i = 0; i < work->ops; i++) {
        uint64_t at = random_below(&rnd, PAGES);
        bool change = at % TASKS == work->seed % TASKS && random_below(&rnd, 4) == 0;
        if (change) {
            ash_assert(buf_throttle(pool) == ASH_OK);
            ash_assert(buf_latch_x(pool, work->page[at], &p) == ASH_OK);
            uint64_t value = atomic_load(&work->value[at]);
            ash_assert(page_value(&p) == value);
            page_change(work->w, &p, value + 1);
            atomic_store(&work->value[at], value + 1);
            buf_unlatch_x(pool, &p);
        } else {
            ash_assert(buf_latch_s(pool, work->page[at], &p) == ASH_OK);
            ash_assert(page_value(&p) == atomic_load(&work->value[at]));
            buf_unlatch_s(pool, &p);
        }
    }
}

static void
work_round(struct world *w, const uint64_t *page, _Atomic uint64_t *value, unsigned round)
{
    struct work work[TASKS];
    struct task *task[TASKS];

    for (unsigned i = 0; i < TASKS; i++) {
        work[i] = (struct work){
            .w = w, .page = page, .value = value, .seed = round * TASKS + i, .ops = OPS
        };
        ck_ok(task_spawn(w->env->rt, "worker", worker, &work[i], &task[i]));
    }
    for (unsigned i = 0; i < TASKS; i++)
        task_join(task[i]);
}

static void
body(struct env *e)
{
    /* of the arena that stays in each round */
    static const uint64_t left[ROUNDS] = { 32, 12, 32, 20, 8, 28 };
    struct world w;
    uint64_t *page = mem_alloc(MEM_TEST, PAGES * sizeof(*page));
    _Atomic uint64_t *value = mem_zalloc(MEM_TEST, PAGES * sizeof(*value));
    struct buf_stats s;

    ck_assert(page != NULL && value != NULL);
    world_budget = BUDGET;
    world_open(&w, e, ARENA, 1);
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.resident_bytes, 0); /* what was never used costs nothing */
    for (unsigned i = 0; i < PAGES; i++)
        page[i] = page_make(&w, 0, 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        atomic_store(&w.others, ARENA - left[round] * MIB);
        unsigned turn = 0;
        do {
            work_round(&w, page, value, round + turn * ROUNDS);
            buf_stats(w.pool, &s);
        } while (s.bytes > left[round] * MIB + s.image_bytes && ++turn < TURNS);
        ck_assert_uint_le(s.bytes, left[round] * MIB + s.image_bytes);
        ck_assert_uint_ge(s.bytes + 4 * MIB, left[round] * MIB);
        ck_assert_uint_le(s.resident_bytes, s.bytes);
        ck_assert_uint_le(s.budget_peak, BUDGET + ARENA); /* it was looked at too late at times */
    }
    ck_assert_uint_gt(s.chunks_retired, 0);
    ck_assert_uint_gt(s.chunks_returned, 0);
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    world_close(&w);
    mem_free(MEM_TEST, page);
    mem_free(MEM_TEST, (void *)value);
}

/* Goal: in simulation, with every interleaving of a few seeds, pages keep their contents while the
 * arena shrinks and grows below them, and it ends at the size that the budget leaves. */
START_TEST(pages_survive_resizing)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed((uint64_t)_i) };
    ck_ok(env_run(&e, body));
}
END_TEST

/* Goal: the same with threads and io_uring, whose registered buffers are pinned memory: after a
 * region was given back and used again, reads must arrive where the pool looks. */
START_TEST(pages_survive_resizing_with_registered_buffers)
{
    struct env e = { .kind = IO_BACKEND_URING, .seed = 1 };
    ck_ok(env_run(&e, body));
}
END_TEST

/* ---- What small pools do ---- */

static void
body_floor(struct env *e)
{
    struct world w;
    struct buf_stats s;

    world_budget = ARENA;
    world_open(&w, e, ARENA, 1);
    atomic_store(&w.others, 2 * ARENA); /* more than there is */
    for (unsigned i = 0; i < PAGES; i++)
        page_make(&w, 0, i);
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.bytes, 8 * MIB); /* room for four pages of the largest class */
    ck_assert_uint_le(s.resident_bytes, 8 * MIB);
    for (unsigned i = 0; i < 16; i++)
        page_make(&w, 9, i); /* and they fit */
    world_close(&w);
}

/* Goal: something is always left, and serves every size of page. */
START_TEST(some_frames_always_stay)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 5 };
    ck_ok(env_run(&e, body_floor));
}
END_TEST

/* ---- Chunks that cannot be emptied ---- */

#define CHUNK (2 * MIB)

/* The arena may take `bytes`, and looks at once. */
static void
give(struct world *w, uint64_t bytes)
{
    struct buf_stats s;

    buf_stats(w->pool, &s);
    atomic_store(&w->others, BUDGET - BUDGET / 64 - s.words_bytes - s.image_bytes - bytes);
    for (unsigned i = 0; i < 8; i++) /* a few chunks each time */
        buf__budget(w->pool);
}

static void
throttled(void *arg)
{
    struct world *w = arg;
    ck_ok(buf_throttle(w->pool));
}

/* 5100 pages, of which the last 3600 are dirty: 10 chunks of 512.  So many are too many for 9. */
static void
body_cancel(struct env *e)
{
    struct world w;
    struct buf_stats s;
    struct buf_page p;
    struct task *task;
    uint64_t page = 0;

    world_budget = BUDGET;
    world_open(&w, e, ARENA, 0);
    for (unsigned i = 0; i < 5100; i++) {
        if (i == 1500)
            ck_ok(buf_write_until(w.pool, UINT64_MAX));
        page = page_make(&w, 0, i);
    }
    ck_ok(buf_latch_x(w.pool, page, &p)); /* it cannot leave the highest chunk */
    give(&w, 9 * CHUNK + MIB);
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.bytes, 9 * CHUNK);
    ck_assert_uint_eq(s.dirty_frames, 3600);
    ck_ok(task_spawn(e->rt, "throttled", throttled, &w, &task));
    task_sleep_ns(1000000);
    give(&w, 10 * CHUNK + MIB);
    buf_stats(w.pool, &s);
    ck_assert_uint_eq(s.bytes, 10 * CHUNK);
    task_join(task);
    buf_unlatch_x(w.pool, &p);
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    world_close(&w);
}

/* Goal: whoever waits for fewer dirty pages goes on when the arena keeps a chunk after all, as the
 * limit is higher then. */
START_TEST(a_chunk_that_stays_lets_waiters_go)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(1) };
    ck_ok(env_run(&e, body_cancel));
}
END_TEST

static void
body_laundry(struct env *e)
{
    struct world w;

    world_budget = BUDGET;
    world_open(&w, e, ARENA, 0);
    for (unsigned i = 0; i < 6000; i++)
        page_make(&w, 0, i);
    buf_evict_all(w.pool);
    ck_assert_uint_eq(atomic_load(&w.pool->laundry_count), 6000);
    give(&w, 8 * CHUNK + MIB);
    ck_assert_uint_ge(atomic_load(&w.pool->laundry_count), 6000);
    ck_ok(buf_write_until(w.pool, UINT64_MAX));
    give(&w, 8 * CHUNK + MIB);
    ck_assert_uint_eq(w.pool->chunk_limit, 8);
    world_close(&w);
}

/* Goal: cold dirty pages of a chunk that is being emptied stay where page writers look first. */
START_TEST(pages_that_cannot_leave_stay_in_the_laundry)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(1) };
    ck_ok(env_run(&e, body_laundry));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("buffer/resize");
    TCase *c = tcase_create("resize");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, pages_survive_resizing, 1, 4);
    tcase_add_test(c, pages_survive_resizing_with_registered_buffers);
    tcase_add_test(c, some_frames_always_stay);
    tcase_add_test(c, a_chunk_that_stays_lets_waiters_go);
    tcase_add_test(c, pages_that_cannot_leave_stay_in_the_laundry);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
