/* SPDX-License-Identifier: Apache-2.0
 *
 * test_mem_arena.c - memory of simulated lives.
 *
 * Goal: blocks never overlap, keep their bytes, are aligned, and zeroed when asked for, also when
 * the arena is used again after a dirty life; a release takes everything; the heap is not touched
 * by it.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "tests/test_main.h"

#define BLOCKS 300

static struct {
    unsigned char *p;
    size_t size;
    unsigned char fill;
    bool map;
} block[BLOCKS];

static size_t
draw_size(struct random *r)
{
    switch (random_below(r, 8)) {
    case 0: return (size_t)random_below(r, 200000);
    case 1: return (size_t)4096 << random_below(r, 4);
    case 2: return (size_t)random_below(r, 40000);
    default: return (size_t)random_below(r, 600);
    }
}

static void
check_zero(const unsigned char *p, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (p[i] != 0)
            ck_abort_msg("byte %zu of %zu is not zero", i, size);
}

static void
check_fill(unsigned k, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (block[k].p[i] != block[k].fill)
            ck_abort_msg("block %u of %zu bytes changed at %zu", k, block[k].size, i);
}

static void
make(struct random *r, unsigned k)
{
    size_t size = draw_size(r), align = (size_t)16 << random_below(r, 9);
    block[k].map = false;
    switch (random_below(r, 4)) {
    case 0: block[k].p = mem_alloc(MEM_TEST, size); break;
    case 1:
        block[k].p = mem_zalloc(MEM_TEST, size);
        check_zero(block[k].p, size);
        break;
    case 2:
        block[k].p = mem_aligned(MEM_TEST, align, size);
        ck_assert_uint_eq((uintptr_t)block[k].p % align, 0);
        break;
    default:
        block[k].map = true;
        size = round_up(size * 3 + 1, 4096);
        block[k].p = mem_map(MEM_TEST, size, random_chance(r, 1, 2));
        ck_assert_uint_eq((uintptr_t)block[k].p % 4096, 0);
        check_zero(block[k].p, size);
        break;
    }
    ck_assert_ptr_nonnull(block[k].p);
    block[k].size = size;
}

static void
drop(unsigned k)
{
    check_fill(k, block[k].size);
    if (block[k].map)
        mem_unmap(MEM_TEST, block[k].p, block[k].size);
    else
        mem_free(MEM_TEST, block[k].p);
    block[k].p = NULL;
}

static void
life(uint64_t seed, unsigned steps)
{
    struct random r;
    struct mem_arena *a = mem_arena_begin();
    ck_assert_ptr_nonnull(a);
    mem_arena_resume(a);
    ck_assert_uint_eq(mem_used(MEM_TEST), 0);
    memset(block, 0, sizeof(block));
    random_init(&r, seed);
    for (unsigned i = 0; i < steps; i++) {
        unsigned k = (unsigned)random_below(&r, BLOCKS);
        if (block[k].p == NULL) {
            make(&r, k);
        } else if (block[k].map || random_chance(&r, 1, 2)) {
            drop(k);
            continue;
        } else {
            size_t size = draw_size(&r);
            block[k].p = mem_realloc(MEM_TEST, block[k].p, size);
            ck_assert_ptr_nonnull(block[k].p);
            check_fill(k, size < block[k].size ? size : block[k].size);
            block[k].size = size;
        }
        block[k].fill = (unsigned char)(i | 1);
        memset(block[k].p, block[k].fill, block[k].size);
    }
    if (seed % 2 == 0) { /* a clean end; else the power cut */
        for (unsigned k = 0; k < BLOCKS; k++)
            if (block[k].p != NULL)
                drop(k);
        ck_assert_uint_eq(mem_used(MEM_TEST), 0);
    }
    ck_assert_ptr_eq(mem_arena_suspend(), a);
    mem_arena_release(a);
}

START_TEST(blocks_keep_their_bytes_life_after_life)
{
    uint64_t used = mem_used(MEM_TEST);
    uint64_t seed = test_seed(1);
    for (uint64_t i = 0; i < test_scale(40, 2000); i++)
        life(seed + i, 1000);
    ck_assert_uint_eq(mem_used(MEM_TEST), used);
}
END_TEST

START_TEST(every_size_fits_its_block)
{
    struct mem_arena *a = mem_arena_begin();
    mem_arena_resume(a);
    for (size_t size = 0; size < 70000; size += size < 1100 ? 1 : 61) {
        unsigned char *p = mem_alloc(MEM_TEST, size), *q = mem_alloc(MEM_TEST, size);
        ck_assert(p + size <= q || q + size <= p);
        ck_assert_uint_eq((uintptr_t)p % 16, 0);
        ck_assert_uint_ge(mem_used(MEM_TEST), 2 * size);
        ck_assert_uint_le(mem_used(MEM_TEST),
                          2 * size + size + 128 * 1024); /* classes waste a quarter, runs a half */
        mem_free(MEM_TEST, p);
        mem_free(MEM_TEST, q);
        ck_assert_uint_eq(mem_used(MEM_TEST), 0);
    }
    mem_arena_resume(NULL);
    mem_arena_release(a);
}
END_TEST

START_TEST(heap_and_arena_do_not_mix)
{
    void *heap = mem_alloc(MEM_TEST, 100);
    uint64_t used = mem_used(MEM_TEST);
    struct mem_arena *a = mem_arena_begin(), *b = mem_arena_begin();
    ck_assert_ptr_ne(a, b);
    mem_arena_resume(a);
    void *in_a = mem_alloc(MEM_TEST, 100);
    struct mem_arena *before = mem_arena_suspend();
    void *outside = mem_alloc(MEM_TEST, 100);
    mem_arena_resume(before);
    heap = mem_realloc(MEM_TEST, heap, 1000); /* stays on the heap */
    mem_arena_resume(b);
    void *in_b = mem_alloc(MEM_TEST, 100);
    mem_free(MEM_TEST, in_a); /* goes back to a */
    ck_assert_uint_ge(mem_used(MEM_TEST), 100);
    mem_free(MEM_TEST, in_b);
    ck_assert_uint_eq(mem_used(MEM_TEST), 0);
    mem_arena_resume(a);
    ck_assert_uint_eq(mem_used(MEM_TEST), 0);
    mem_arena_resume(NULL);
    mem_arena_release(a);
    mem_arena_release(b);
    ck_assert_uint_gt(mem_used(MEM_TEST), used);
    memset(heap, 1, 1000);
    memset(outside, 1, 100);
    mem_free(MEM_TEST, heap);
    mem_free(MEM_TEST, outside);
    ck_assert_uint_lt(mem_used(MEM_TEST), used);
}
END_TEST

START_TEST(a_full_arena_fails_with_a_reason)
{
    struct mem_arena *a = mem_arena_begin();
    mem_arena_resume(a);
    ck_assert_ptr_null(mem_alloc(MEM_TEST, (size_t)64 << 30));
    ck_assert_ptr_null(mem_map(MEM_TEST, (size_t)64 << 30, false));
    ck_assert_int_eq(err_current()->code, ASH_NO_MEMORY);
    unsigned n = 0;
    while (mem_map(MEM_TEST, (size_t)100 << 20, false) != NULL) /* addresses only */
        ck_assert_uint_lt(++n, 1000);
    mem_arena_resume(NULL);
    mem_arena_release(a);
}
END_TEST

START_TEST(planned_failures_reach_arenas_too)
{
    struct mem_arena *a = mem_arena_begin();
    mem_arena_resume(a);
    mem_fail_at(2, false);
    void *p = mem_alloc(MEM_TEST, 10);
    ck_assert_ptr_nonnull(p);
    ck_assert_ptr_null(mem_realloc(MEM_TEST, p, 20));
    mem_fail_at(1, false);
    ck_assert_ptr_null(mem_map(MEM_TEST, 4096, false));
    mem_fail_at(0, false);
    mem_arena_resume(NULL);
    mem_arena_release(a);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/mem_arena");
    TCase *t = tcase_create("arena");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, blocks_keep_their_bytes_life_after_life);
    tcase_add_test(t, every_size_fits_its_block);
    tcase_add_test(t, heap_and_arena_do_not_mix);
    tcase_add_test(t, a_full_arena_fails_with_a_reason);
    tcase_add_test(t, planned_failures_reach_arenas_too);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
