/* SPDX-License-Identifier: Apache-2.0
 *
 * test_mem.c - accounts that balance, failures on demand, and maps.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"
#include "tests/test_main.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCKS 64

/* Goal: whatever is allocated, resized and freed, the account covers what is held and returns to
 * where it was. Method: random operations on a table of blocks whose contents are checked. */
START_TEST(account_balances)
{
    unsigned char *block[BLOCKS] = { NULL };
    size_t size[BLOCKS] = { 0 };
    uint64_t before = mem_used(MEM_TEST), held = 0;
    uint64_t seed = test_seed(1);
    struct random r;

    random_init(&r, seed);
    for (uint64_t i = 0; i < test_scale(20000, 500000); i++) {
        unsigned k = (unsigned)random_below(&r, BLOCKS);
        size_t n = (size_t)random_below(&r, random_chance(&r, 1, 50) ? 200000 : 500);
        if (block[k] == NULL) {
            unsigned kind = (unsigned)random_below(&r, 3);
            block[k] = kind == 0   ? mem_alloc(MEM_TEST, n)
                       : kind == 1 ? mem_zalloc(MEM_TEST, n)
                                   : mem_aligned(MEM_TEST, 4096, n);
            ck_assert_ptr_nonnull(block[k]);
            for (size_t j = 0; kind == 1 && j < n; j++)
                ck_assert_uint_eq(block[k][j], 0);
            if (kind == 2)
                ck_assert_uint_eq((uintptr_t)block[k] % 4096, 0);
        } else if (random_chance(&r, 1, 2)) {
            unsigned char *p = mem_realloc(MEM_TEST, block[k], n);
            ck_assert_ptr_nonnull(p);
            for (size_t j = 0; j < min_u64(size[k], n); j++)
                ck_assert_uint_eq(p[j], k);
            block[k] = p;
            held -= size[k];
        } else {
            held -= size[k];
            size[k] = 0;
            MEM_FREE(MEM_TEST, block[k]);
            continue;
        }
        memset(block[k], (int)k, n);
        size[k] = n;
        held += n;
        ck_assert_msg(mem_used(MEM_TEST) - before >= held, "seed %llu", (unsigned long long)seed);
    }
    for (unsigned k = 0; k < BLOCKS; k++)
        MEM_FREE(MEM_TEST, block[k]);
    ck_assert_uint_eq(mem_used(MEM_TEST), before);
}
END_TEST

static void *
free_here(void *arg)
{
    mem_free(MEM_TEST, arg);
    return NULL;
}

/* Goal: freeing on another thread balances too, although it happens on another shard. */
START_TEST(account_balances_across_threads)
{
    uint64_t before = mem_used(MEM_TEST);
    for (int i = 0; i < 20; i++) {
        pthread_t t;
        void *p = mem_alloc(MEM_TEST, 1000);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_ge(mem_used(MEM_TEST), before + 1000);
        ck_assert_int_eq(pthread_create(&t, NULL, free_here, p), 0);
        ck_assert_int_eq(pthread_join(t, NULL), 0);
        ck_assert_uint_eq(mem_used(MEM_TEST), before);
    }
}
END_TEST

START_TEST(tags_have_own_accounts)
{
    uint64_t wal = mem_used(MEM_WAL), txn = mem_used(MEM_TXN);
    void *p = mem_alloc(MEM_WAL, 100);
    ck_assert_ptr_nonnull(p);
    ck_assert_uint_gt(mem_used(MEM_WAL), wal);
    ck_assert_uint_eq(mem_used(MEM_TXN), txn);
    mem_free(MEM_WAL, p);
    for (unsigned t = MEM_BASE; t < MEM_TAG_COUNT; t++)
        ck_assert_str_ne(mem_tag_name((enum mem_tag)t), "?");
}
END_TEST

START_TEST(edge_sizes_work)
{
    void *p = mem_alloc(MEM_TEST, 0);
    ck_assert_ptr_nonnull(p);
    p = mem_realloc(MEM_TEST, p, 0);
    ck_assert_ptr_nonnull(p);
    mem_free(MEM_TEST, p);
    mem_free(MEM_TEST, NULL);
    p = mem_realloc(MEM_TEST, NULL, 10);
    ck_assert_ptr_nonnull(p);
    mem_free(MEM_TEST, p);
    char *s = mem_strdup(MEM_TEST, "ashlar");
    ck_assert_str_eq(s, "ashlar");
    mem_free(MEM_TEST, s);
}
END_TEST

/* An operation with several allocations, cleaned up when one fails. */
static ash_rc
build_three(void)
{
    ash_rc rc = ASH_NO_MEMORY;
    void *map = NULL;
    char *copy = NULL;
    void *p = mem_alloc(MEM_TEST, 64);
    if (p == NULL)
        goto out;
    copy = mem_strdup(MEM_TEST, "text");
    if (copy == NULL)
        goto out;
    char *longer = mem_realloc(MEM_TEST, copy, 5000);
    if (longer == NULL)
        goto out;
    copy = longer;
    map = mem_map(MEM_TEST, 1 << 16, false);
    if (map == NULL)
        goto out;
    rc = ASH_OK;
out:
    mem_unmap(MEM_TEST, map, 1 << 16);
    mem_free(MEM_TEST, copy);
    mem_free(MEM_TEST, p);
    return rc;
}

/* Goal: the pattern that other tests use: fail allocation 1, 2, 3 ... until the operation
 * succeeds; nothing leaks. */
START_TEST(every_allocation_can_fail)
{
    bool sticky = _i != 0;
    uint64_t before = mem_used(MEM_TEST), n;
    for (n = 1; n < 100; n++) {
        mem_fail_at(n, sticky);
        ash_rc rc = build_three();
        uint64_t seen = mem_fail_count();
        mem_fail_at(0, false);
        ck_assert_uint_eq(mem_used(MEM_TEST), before);
        if (rc == ASH_OK)
            break;
        ck_assert_int_eq(rc, ASH_NO_MEMORY);
        ck_assert_int_eq(ash_error_last()->code, ASH_NO_MEMORY);
        ck_assert_uint_eq(seen, n);
    }
    ck_assert_uint_eq(n, 5); /* four allocations: the fifth attempt passes */
}
END_TEST

START_TEST(impossible_sizes_are_refused_with_a_sentence)
{
    uint64_t before = mem_used(MEM_TEST);
    ck_assert_ptr_null(mem_map(MEM_TEST, (size_t)1 << 62, false));
    ck_assert_int_eq(ash_error_last()->code, ASH_NO_MEMORY);
    ck_assert_ptr_nonnull(strstr(ash_error_last()->message, "test"));
    ck_assert_uint_eq(mem_used(MEM_TEST), before);
}
END_TEST

/* Goal: maps are zero, writable at both ends, cheap when untouched, zero again after decommit. */
START_TEST(maps_are_zero_and_lazy)
{
    bool huge = _i != 0;
    size_t size = (size_t)64 << 20;
    uint64_t before = mem_used(MEM_TEST);
    unsigned char *p = mem_map(MEM_TEST, size, huge);

    ck_assert_ptr_nonnull(p);
    ck_assert_uint_eq(mem_used(MEM_TEST), before + size);
    if (huge)
        ck_assert_uint_eq((uintptr_t)p % (2u << 20), 0);
    ck_assert_uint_eq(p[0], 0);
    ck_assert_uint_eq(p[size - 1], 0);
    memset(p, 7, 4096);
    p[size - 1] = 9;
    mem_map_decommit(p, 4096);
    ck_assert_uint_eq(p[0], 0);
    ck_assert_uint_eq(p[4095], 0);
    ck_assert_uint_eq(p[size - 1], 9);
    mem_map_decommit(p, size);
    ck_assert_uint_eq(p[size - 1], 0);
    mem_unmap(MEM_TEST, p, size);
    ck_assert_uint_eq(mem_used(MEM_TEST), before);
}
END_TEST

/* Goal: a sum that was taken while memory changed hands between threads (here: more was given back
 * than was taken) is not read as nearly 2^64 bytes. */
START_TEST(an_account_is_never_below_nothing)
{
    uint64_t heap = mem_heap(MEM_TEST), maps = mem_mapped(MEM_TEST);
    char *p = mem_map(MEM_TEST, 8192, false);

    mem_charge(MEM_TEST, -(int64_t)(heap + 4096));
    ck_assert_uint_eq(mem_heap(MEM_TEST), 0);
    ck_assert_uint_eq(mem_mapped(MEM_TEST), maps + 8192);
    ck_assert_uint_eq(mem_used(MEM_TEST), maps + 8192);
    mem_charge(MEM_TEST, (int64_t)(heap + 4096));
    mem_unmap(MEM_TEST, p, 8192);
    ck_assert_uint_eq(mem_used(MEM_TEST), heap + maps);
}
END_TEST

START_TEST(odd_map_sizes_are_rounded_alike)
{
    uint64_t before = mem_used(MEM_TEST);
    for (size_t size = 1; size < 9000; size += 777)
        for (int huge = 0; huge < 2; huge++) {
            char *p = mem_map(MEM_TEST, size + (huge ? (3u << 20) : 0), huge != 0);
            ck_assert_ptr_nonnull(p);
            p[size - 1] = 1;
            mem_unmap(MEM_TEST, p, size + (huge ? (3u << 20) : 0));
        }
    mem_unmap(MEM_TEST, NULL, 1);
    ck_assert_uint_eq(mem_used(MEM_TEST), before);
}
END_TEST

/* Goal: a child does not inherit maps, so it cannot keep the parent's memory alive or copy it
 * page by page. */
START_TEST(maps_are_not_inherited)
{
    char *p = mem_map(MEM_TEST, 4096, false);
    int status;

    ck_assert_ptr_nonnull(p);
    p[0] = 1;
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* check and sanitizers may catch it */
        volatile char *v = p;
        _exit(v[0] == 1 ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    mem_unmap(MEM_TEST, p, 4096);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("base/mem");
    TCase *c = tcase_create("mem");
    tcase_add_test(c, account_balances);
    tcase_add_test(c, account_balances_across_threads);
    tcase_add_test(c, tags_have_own_accounts);
    tcase_add_test(c, edge_sizes_work);
    tcase_add_loop_test(c, every_allocation_can_fail, 0, 2);
    tcase_add_test(c, impossible_sizes_are_refused_with_a_sentence);
    tcase_add_loop_test(c, maps_are_zero_and_lazy, 0, 2);
    tcase_add_test(c, an_account_is_never_below_nothing);
    tcase_add_test(c, odd_map_sizes_are_rounded_alike);
    if (test_forks())
        tcase_add_test(c, maps_are_not_inherited);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
