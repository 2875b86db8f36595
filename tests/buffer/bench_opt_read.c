/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_opt_read.c - ns per optimistic read of random resident pages.  Not a test: make
 * tests/buffer/bench_opt_read; run it with the size of the pool in MiB (default 4096) and the
 * number of threads (default 1).
 */
#define TOY_PAGES_MAX (2ull << 20)
#include "tests/buffer/buffer_env.h"

static struct world w;
static uint64_t pages;

static void
reader(void *arg)
{
    struct random rnd;
    struct buf_page p;
    uint64_t sum = 0, n = 20000000, bad = 0;

    random_init(&rnd, (uint64_t)(uintptr_t)arg);
    uint64_t start = clock_ns();
    for (uint64_t i = 0; i < n; i++) {
        uint64_t page =
            PAGE_ID_FIRST + (uint64_t)((unsigned __int128)random_u64(&rnd) * pages >> 64);
        if (buf_opt_begin(w.pool, page, &p) != ASH_OK) {
            bad++;
            continue;
        }
        sum += ((const struct page_head *)(const void *)p.data)->tree;
        bad += !buf_opt_valid(w.pool, &p);
    }
    printf("%.1f ns per optimistic read of %llu MiB (%llu restarts, %llu)\n",
           (double)(clock_ns() - start) / (double)n, (unsigned long long)(pages >> 8),
           (unsigned long long)bad, (unsigned long long)sum);
}

static uint64_t pool_bytes = 4ull << 30;
static unsigned threads = 1;

START_TEST(optimistic_reads)
{
    struct env e = { .kind = IO_BACKEND_AUTO };
    struct task *task[16];
    struct buf_page p;

    ck_ok(task_runtime_create(&e.rt));
    snprintf(e.path, sizeof(e.path), "bench.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(e.path));
    env_open(&e);
    world_open(&w, &e, pool_bytes, 0);
    pages = pool_bytes / 4096 * 9 / 10;
    for (uint64_t i = 0; i < pages; i++) {
        ash_assert(buf_redo_init(w.pool, PAGE_ID_FIRST + i, 0, 1, PAGE_TYPE_VALUE, &p) == ASH_OK);
        buf_unlatch_x(w.pool, &p);
    }
    for (unsigned i = 0; i < threads && i < 16; i++)
        ck_ok(task_spawn(e.rt, "reader", reader, (void *)(uintptr_t)(i + 1), &task[i]));
    for (unsigned i = 0; i < threads && i < 16; i++)
        task_join(task[i]);
    world_close(&w);
    env_close(&e);
    task_runtime_destroy(e.rt);
    test_dir_remove(e.path);
}
END_TEST

int
main(int argc, char **argv)
{
    if (argc > 1)
        pool_bytes = strtoull(argv[1], NULL, 10) << 20;
    if (argc > 2)
        threads = (unsigned)strtoul(argv[2], NULL, 10);
    setenv("CK_FORK", "no", 1);
    /* a test, so that the checks of the environment work */
    Suite *s = suite_create("buffer/opt_read");
    TCase *c = tcase_create("bench");
    tcase_add_test(c, optimistic_reads);
    suite_add_tcase(s, c);
    return test_run(s);
}
