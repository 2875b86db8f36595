/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_opt_read.c - ns per optimistic read of random resident pages.  Not a test: make tests/buffer/bench_opt_read; run it
 * with the size of the pool in MiB (default 4096) and the number of threads (default 1).
 */
#define TOY_PAGES_MAX (2u << 20)
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
        uint64_t page = PAGE_ID_FIRST + ((unsigned __int128)random_u64(&rnd) * pages >> 64);
        if (buf_opt_begin(w.pool, page, &p) != ASH_OK) {
            bad++;
            continue;
        }
        sum += ((const struct page_head *)(const void *)p.data)->tree;
        bad += !buf_opt_valid(w.pool, &p);
    }
    printf("%.1f ns per optimistic read of %llu MiB (%llu restarts, %llu)\n", (double)(clock_ns() - start) / (double)n,
           (unsigned long long)(pages >> 8), (unsigned long long)bad, (unsigned long long)sum);
}

int
main(int argc, char **argv)
{
    struct env e = { .kind = IO_BACKEND_AUTO };
    uint64_t bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 4096) << 20;
    unsigned threads = argc > 2 ? (unsigned)atoi(argv[2]) : 1;
    struct task *task[16];
    struct buf_page p;

    if (task_runtime_create(&e.rt) != ASH_OK)
        return 1;
    snprintf(e.path, sizeof(e.path), "bench.XXXXXX");
    if (mkdtemp(e.path) == NULL)
        return 1;
    env_open(&e);
    world_open(&w, &e, bytes, 0);
    pages = bytes / 4096 * 9 / 10;
    for (uint64_t i = 0; i < pages; i++) {
        if (buf_redo_init(w.pool, PAGE_ID_FIRST + i, 0, 1, PAGE_TYPE_VALUE, &p) != ASH_OK)
            return 1;
        buf_unlatch_x(w.pool, &p);
    }
    for (unsigned i = 0; i < threads && i < 16; i++)
        if (task_spawn(e.rt, "reader", reader, (void *)(uintptr_t)(i + 1), &task[i]) != ASH_OK)
            return 1;
    for (unsigned i = 0; i < threads && i < 16; i++)
        task_join(task[i]);
    world_close(&w);
    env_close(&e);
    task_runtime_destroy(e.rt);
    env_remove_dir(e.path);
    return 0;
}
