/* SPDX-License-Identifier: Apache-2.0
 *
 * crash_script.c - what the crash and fault tests let the engine do.  Every verb of the API that
 * changes something is in one of them.
 */
#include "tests/crash/crash_int.h"

#define TRY(call)    \
    do {             \
        if (!(call)) \
            return;  \
    } while (0)

static void
script_rows(struct crash_actor *a)
{
    TRY(crash_create(a, 0, 0));
    for (uint32_t i = 0; i < 12; i++)
        TRY(crash_put(a, 0, i, 20 + i));
    TRY(crash_begin(a, ASH_DURABILITY_SYNC));
    for (uint32_t i = 0; i < 12; i += 2)
        TRY(crash_put(a, 0, i, 50));
    TRY(crash_delete(a, 0, 3));
    TRY(crash_commit(a));
    for (uint32_t i = 0; i < 6; i++)
        TRY(crash_delete(a, 0, i));
    TRY(crash_put(a, 0, 3, 0));
}

static void
script_splits(struct crash_actor *a)
{
    TRY(crash_create(a, 0, 0));
    for (uint32_t i = 0; i < 160; i += 8) {
        TRY(crash_begin(a, ASH_DURABILITY_SYNC));
        for (uint32_t k = i; k < i + 8; k++)
            TRY(crash_put(a, 0, k * 7 % 160, 300));
        TRY(crash_commit(a));
    }
    for (uint32_t i = 0; i < 160; i += 20) {
        TRY(crash_begin(a, ASH_DURABILITY_SYNC));
        for (uint32_t k = i; k < i + 18; k++)
            TRY(crash_delete(a, 0, k));
        TRY(crash_commit(a));
    }
    TRY(crash_checkpoint(a));
    for (uint32_t i = 0; i < 40; i++)
        TRY(crash_put(a, 0, i * 4, 500));
}

static void
script_long_keys(struct crash_actor *a)
{
    TRY(crash_create(a, 1, 0));
    TRY(crash_create(a, 2, 8192));
    for (uint32_t i = 0; i < 60; i++) {
        TRY(crash_begin(a, ASH_DURABILITY_SYNC));
        TRY(crash_put(a, 1, i * 3 % 60, 100));
        TRY(crash_put(a, 2, i * 11 % 60, 700));
        TRY(crash_commit(a));
    }
    for (uint32_t i = 0; i < 60; i += 2)
        TRY(crash_delete(a, 2, i));
}

static void
script_large(struct crash_actor *a)
{
    static const uint32_t size[] = { 5000, 20000, 100000, 9000, 120000, 4096 };

    TRY(crash_create(a, 0, 0));
    for (uint32_t i = 0; i < 6; i++)
        TRY(crash_put(a, 0, i, size[i]));
    TRY(crash_begin(a, ASH_DURABILITY_SYNC));
    TRY(crash_put(a, 0, 1, 30000));
    TRY(crash_delete(a, 0, 2));
    TRY(crash_put(a, 0, 3, 10));
    TRY(crash_rollback(a));
    TRY(crash_checkpoint(a));
    TRY(crash_begin(a, ASH_DURABILITY_SYNC));
    TRY(crash_put(a, 0, 1, 40000));
    TRY(crash_delete(a, 0, 4));
    TRY(crash_put(a, 0, 7, 12345));
    TRY(crash_commit(a));
    TRY(crash_checkpoint(a));
    TRY(crash_delete(a, 0, 7));
    TRY(crash_put(a, 0, 1, 10));
}

static void
script_rollback(struct crash_actor *a)
{
    struct crash_savepoint sp, deep;

    TRY(crash_create(a, 0, 0));
    for (uint32_t i = 0; i < 30; i++)
        TRY(crash_put(a, 0, i, 120));
    for (uint32_t round = 0; round < 4; round++) {
        TRY(crash_begin(a, ASH_DURABILITY_SYNC));
        for (uint32_t i = 0; i < 10; i++)
            TRY(crash_put(a, 0, i * 3, 200 + round));
        TRY(crash_savepoint(a, &sp));
        for (uint32_t i = 0; i < 10; i++)
            TRY(crash_delete(a, 0, i * 2));
        TRY(crash_savepoint(a, &deep));
        for (uint32_t i = 40; i < 60; i++)
            TRY(crash_put(a, 0, i, 150));
        TRY(crash_rollback_to(a, &deep));
        TRY(crash_put(a, 0, 41, 33));
        if (round == 1)
            TRY(crash_checkpoint(a));
        TRY(crash_rollback_to(a, &sp));
        TRY(crash_put(a, 0, 70 + round, 33));
        if (round % 2 == 0)
            TRY(crash_commit(a));
        else
            TRY(crash_rollback(a));
    }
}

static void
script_checkpoint(struct crash_actor *a)
{
    TRY(crash_create(a, 0, 0));
    TRY(crash_checkpoint(a));
    for (uint32_t round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < 8; i++)
            TRY(crash_put(a, 0, round * 3 + i, 400));
        TRY(crash_begin(a, ASH_DURABILITY_SYNC));
        TRY(crash_put(a, 0, 50, 100));
        TRY(crash_checkpoint(a)); /* with an open transaction */
        TRY(crash_put(a, 0, 51, 100));
        TRY(crash_commit(a));
        TRY(crash_checkpoint(a));
    }
}

/* More log than its segments hold, so that they are recycled; some commits are not waited for. */
static void
script_wrap(struct crash_actor *a)
{
    TRY(crash_create(a, 0, 0));
    for (uint32_t i = 0; i < 300; i++) {
        TRY(crash_begin(a, (enum ash_durability)(i % 3)));
        TRY(crash_put(a, 0, i % 20, 900));
        TRY(crash_put(a, 0, 20 + i % 7, 300));
        if (i % 4 == 3)
            TRY(crash_commit_ticket(a, i % 8 == 7));
        else
            TRY(crash_commit(a));
        if (i % 60 == 59)
            TRY(crash_checkpoint(a));
    }
}

static void
script_tables(struct crash_actor *a)
{
    TRY(crash_create(a, 0, 0));
    TRY(crash_put(a, 0, 1, 100));
    TRY(crash_begin(a, ASH_DURABILITY_SYNC));
    TRY(crash_create(a, 3, 16384));
    for (uint32_t i = 0; i < 40; i++)
        TRY(crash_put(a, 3, i, 300));
    TRY(crash_put(a, 0, 2, 100));
    TRY(crash_commit(a));
    TRY(crash_begin(a, ASH_DURABILITY_SYNC));
    TRY(crash_create(a, 4, 0));
    TRY(crash_put(a, 4, 1, 100));
    TRY(crash_put(a, 4, 2, 30000));
    TRY(crash_rollback(a));
    TRY(crash_reopen_table(a, 4, false));
    TRY(crash_begin(a, ASH_DURABILITY_SYNC));
    TRY(crash_put(a, 0, 3, 100));
    TRY(crash_drop(a, 3));
    TRY(crash_rollback(a));
    TRY(crash_reopen_table(a, 3, true));
    TRY(crash_put(a, 3, 50, 100));
    TRY(crash_drop(a, 3));
    TRY(crash_checkpoint(a));
    TRY(crash_create(a, 3, 0));
    for (uint32_t i = 0; i < 10; i++)
        TRY(crash_put(a, 3, i, 300));
    TRY(crash_begin(a, ASH_DURABILITY_SYNC));
    TRY(crash_drop(a, 3));
    TRY(crash_create(a, 5, 0));
    TRY(crash_put(a, 5, 5, 50));
    TRY(crash_commit(a));
    TRY(crash_put(a, 0, 4, 100));
}

static void
script_bulk(struct crash_actor *a)
{
    TRY(crash_create(a, 0, 0));
    TRY(crash_create(a, 1, 0));
    TRY(crash_put(a, 1, 5, 100));
    TRY(crash_bulk(a, 0, 300, 250));
    TRY(crash_put(a, 0, 10, 100));
    TRY(crash_delete(a, 0, 11));
    TRY(crash_checkpoint(a));
    TRY(crash_put(a, 0, 350, 100));
}

static void
random_txn(struct crash_actor *a, uint32_t tables)
{
    struct random *r = &a->random;
    uint32_t n = 1 + (uint32_t)random_below(r, 8);
    struct crash_savepoint sp;

    TRY(crash_begin(a, random_chance(r, 2, 3) ? ASH_DURABILITY_SYNC : ASH_DURABILITY_ASYNC));
    TRY(crash_savepoint(a, &sp));
    for (uint32_t i = 0; i < n && a->in_txn; i++) {
        uint32_t t = (uint32_t)random_below(r, tables), k = (uint32_t)random_below(r, 60);
        if (random_chance(r, 1, 4))
            TRY(crash_delete(a, t, k));
        else
            TRY(crash_put(a, t, k,
                          (uint32_t)random_below(r, random_chance(r, 1, 20)  ? 20000
                                                    : random_chance(r, 1, 3) ? 900
                                                                             : 100)));
        if (a->in_txn && random_chance(r, 1, 12))
            TRY(crash_rollback_to(a, &sp));
    }
    if (!a->in_txn)
        return;
    if (random_chance(r, 1, 5))
        TRY(crash_rollback(a));
    else if (a->w->script->sessions <= 1 && random_chance(r, 1, 4))
        TRY(crash_commit_ticket(a, random_chance(r, 1, 2)));
    else
        TRY(crash_commit(a));
}

static void
script_random(struct crash_actor *a)
{
    TRY(crash_create(a, 0, 0));
    TRY(crash_create(a, 1, 0));
    for (uint32_t i = 0; i < 60 && a->w->failed == ASH_OK; i++) {
        if (random_chance(&a->random, 1, 15))
            TRY(crash_checkpoint(a));
        if (random_chance(&a->random, 1, 3))
            TRY(crash_put(a, 0, (uint32_t)random_below(&a->random, 60), 300));
        else
            random_txn(a, 2);
    }
}

static void
script_many(struct crash_actor *a)
{
    for (uint32_t i = 0; i < 25 && a->w->failed == ASH_OK; i++)
        random_txn(a, 2);
}

/* A few rows of one leaf, which is split between them. */
static void
script_hot(struct crash_actor *a)
{
    for (uint32_t i = 0; i < 40 && a->w->failed == ASH_OK; i++) {
        TRY(crash_begin(a, i % 8 == 7 ? ASH_DURABILITY_SYNC : ASH_DURABILITY_NONE));
        TRY(crash_put(a, 0, (uint32_t)random_below(&a->random, 12), 100));
        if (a->in_txn)
            TRY(crash_commit(a));
    }
}

const struct crash_script crash_scripts[] = {
    { "rows", script_rows, 1, false, true },
    { "splits", script_splits, 1, false, false },
    { "long_keys", script_long_keys, 1, false, false },
    { "large", script_large, 1, false, true },
    { "rollback", script_rollback, 1, false, true },
    { "checkpoint", script_checkpoint, 1, false, true },
    { "wrap", script_wrap, 1, false, false },
    { "tables", script_tables, 1, false, true },
    { "bulk", script_bulk, 1, false, true },
    { "random", script_random, 1, false, false },
    { "random_background", script_random, 1, true, false },
    { "many", script_many, 4, false, false },
    { "many_background", script_many, 4, true, false },
    { "hot", script_hot, 4, false, false },
};
const uint32_t crash_script_count = ASH_ARRAY_SIZE(crash_scripts);
