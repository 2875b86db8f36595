/* SPDX-License-Identifier: Apache-2.0
 *
 * api_budget.c - the option cache as one budget: what counts, and how much each part takes.
 *
 * Exact, per database: the arena of the pool, the page table and the location map (as far as page
 * ids reach), the images of page writers.  Everything else comes from the heap, which is counted
 * per subsystem for the whole process; databases that are open at the same time share it in
 * proportion to their caches, so that together they stay within the sum of their limits.
 *
 * The pool is the part that gives way (buffer/buffer_resize.c); nothing here refuses memory.
 */
#include "api/api_int.h"

/* Of the stacks of fibers so much is touched (measured).  Stacks of threads are charged: one with
 * each session that the application opens, one for each of our own threads. */
#define STACK_TOUCHED_PERCENT 65u
#define ALLOCATOR_SHARE       16u /* the allocator's own need: a sixteenth of what it gave (measured) */
#define MAP_ENTRY_BYTES       8u /* per page id, of the location map */

static _Atomic uint64_t caches_open; /* sum of the caches of all open databases */

static const char *const part_names[BUDGET_PARTS] = {
    [BUDGET_POOL] = "pool",
    [BUDGET_POOL_TABLES] = "pool_tables",
    [BUDGET_LOG] = "log",
    [BUDGET_MAP] = "map",
    [BUDGET_TXN] = "transactions",
    [BUDGET_TASKS] = "tasks",
    [BUDGET_IO] = "io",
    [BUDGET_OTHER] = "other",
};

void
api__budget_begin(ash_db *db)
{
    atomic_fetch_add(&caches_open, db->options.v[OPT_cache]);
    db->budget_open = true;
}

void
api__budget_end(ash_db *db)
{
    if (db->budget_open)
        atomic_fetch_sub(&caches_open, db->options.v[OPT_cache]);
    db->budget_open = false;
}

/* This database's part of what the process has. */
static uint64_t
share(const ash_db *db, uint64_t bytes)
{
    uint64_t cache = db->options.v[OPT_cache], all = atomic_load(&caches_open);

    if (task_sim_active || all <= cache)
        return bytes; /* a simulation counts its own memory */
    return (uint64_t)((double)bytes * ((double)cache / (double)all));
}

static uint64_t
heap(const ash_db *db, enum mem_tag tag)
{
    return share(db, mem_heap(tag));
}

static uint64_t
stacks(const ash_db *db)
{
    return share(db, mem_mapped(MEM_TASK) / 100 * STACK_TOUCHED_PERCENT);
}

static uint64_t
map_bytes(const ash_db *db)
{
    return round_up(pstore_page_high(db->pstore) * MAP_ENTRY_BYTES, PAGE_SIZE_MIN);
}

/* All parts but those that the pool knows: its arena, page table and images. */
static void
parts_outside(const ash_db *db, uint64_t *part)
{
    part[BUDGET_POOL] = 0;
    part[BUDGET_POOL_TABLES] = heap(db, MEM_BUFFER);
    part[BUDGET_LOG] = heap(db, MEM_WAL);
    part[BUDGET_MAP] = map_bytes(db) + heap(db, MEM_PSTORE);
    part[BUDGET_TXN] = heap(db, MEM_TXN);
    part[BUDGET_TASKS] = heap(db, MEM_TASK) + stacks(db);
    part[BUDGET_IO] = heap(db, MEM_IO);
    part[BUDGET_OTHER] =
        heap(db, MEM_BASE) + heap(db, MEM_BTREE) + heap(db, MEM_TABLE) + heap(db, MEM_API);
    uint64_t all = 0;
    for (int tag = MEM_BASE; tag <= MEM_API; tag++)
        all += heap(db, (enum mem_tag)tag);
    part[BUDGET_OTHER] += all / ALLOCATOR_SHARE;
}

uint64_t
api__budget_others(void *ctx)
{
    const ash_db *db = ctx;
    uint64_t part[BUDGET_PARTS], sum = 0;

    parts_outside(db, part);
    for (int i = 0; i < BUDGET_PARTS; i++)
        sum += part[i];
    return sum;
}

void
api__budget_stat(ash_db *db, const struct buf_stats *pool, ash_stat_fn fn, void *arg)
{
    uint64_t part[BUDGET_PARTS], used = 0;
    char name[64];

    parts_outside(db, part);
    part[BUDGET_POOL] = pool->resident_bytes;
    part[BUDGET_POOL_TABLES] += pool->words_bytes + pool->image_bytes;
    fn(arg, "budget.limit", db->options.v[OPT_cache]);
    for (int i = 0; i < BUDGET_PARTS; i++) {
        snprintf(name, sizeof(name), "budget.%s", part_names[i]);
        fn(arg, name, part[i]);
        used += part[i];
    }
    fn(arg, "budget.used", used);
    fn(arg, "budget.peak", max_u64(used, pool->budget_peak));
    fn(arg, "budget.given_back", pool->chunks_retired);
    fn(arg, "budget.taken_again", pool->chunks_returned);
}

/* The map and the page table are in memory as a whole. */
ash_rc
api__budget_check(const ash_db *db)
{
    uint64_t cache = db->options.v[OPT_cache];
    uint64_t need = map_bytes(db) + pstore_page_high(db->pstore) * sizeof(uint64_t);

    if (need <= cache / 2)
        return ASH_OK;
    return ash_raise_obj(ASH_NO_MEMORY, db->path,
                         "A cache of %llu bytes is too small for the database in \"%s\": its map "
                         "and page table alone take %llu; give the option cache at least %llu.",
                         (unsigned long long)cache, db->path, (unsigned long long)need,
                         (unsigned long long)(2 * need));
}
