/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_resize.c - how much of the arena may be used: the pool's share of the memory budget.
 *
 * The arena is address space for the most the pool can get.  Chunks below chunk_limit may be used;
 * those above are RETIRED.  Whoever takes a new chunk, now and then whoever evicts, and each round
 * of a page writer compare the budget with what the rest of the engine uses (buf__budget()):
 *
 *     too much:  the highest chunk is emptied (its pages move or leave, as in buffer_frame.c) and
 *                retired, and so on, a few per call.  When a page in it is in use, or being read,
 *                the chunk stays half empty, out of use, and the next call goes on with it.
 *     too little: the next region is there again
 *
 * A region is one or more chunks that are registered with io_uring together, at the first use of
 * one of them: registering pins memory and touches all of it, so what was never used costs nothing.
 * When the last chunk of a region retires, the region is unregistered first and then given back to
 * the system: a request in a registered buffer goes to the pinned pages, whatever the addresses
 * show by then.  None is under way: the frames of a retired chunk are nobody's.
 *
 * Locks: chunk_limit and region_on change under move_lock (L2) and alloc_lock (L3), and are read
 * under either.  region_on alone may become true under L3 only, for a region below the limit.
 */
#include "base/bits.h"
#include "buffer/buffer_int.h"

#define RETIRE_STEP   4u  /* chunks per call: a call is on somebody's way to a page */
#define RESERVE_SHARE 64u /* of the budget: what others may take between two looks */
#define FLOOR_SHARE   8u  /* an eighth of the arena always stays */
#define FLOOR_PAGES   4u  /* and room for so many of the largest pages */
#define REGISTER_MAX  ((uint64_t)32 << 30) /* of the arena: places for registrations are few */

static uint64_t
chunk_bytes(const struct buf_pool *pool)
{
    return (uint64_t)pool->chunk_units * FRAME_UNIT;
}

static void
dirty_limits(struct buf_pool *pool)
{
    uint32_t units = pool->chunk_limit * pool->chunk_units;

    atomic_store(&pool->dirty_soft, units / 2);
    atomic_store(&pool->dirty_hard, units / 4 * 3);
}

void
buf__resize_init(struct buf_pool *pool)
{
    uint64_t floor = max_u64(pool->arena_bytes / FLOOR_SHARE,
                             (uint64_t)FLOOR_PAGES * PAGE_CLASS_SIZE(pool->class_max));

    pool->region_chunks = (pool->chunk_count + BUF_REGIONS_MAX - 1) / BUF_REGIONS_MAX;
    floor = round_up(floor, chunk_bytes(pool)) / chunk_bytes(pool);
    pool->chunk_floor = (uint32_t)min_u64(floor, pool->chunk_count);
    pool->chunk_limit = pool->chunk_count;
    dirty_limits(pool);
}

/* ---- Regions ---- */

static uint8_t *
region_at(const struct buf_pool *pool, uint32_t region, size_t *bytes_out)
{
    uint64_t from = (uint64_t)region * pool->region_chunks * chunk_bytes(pool);

    *bytes_out = min_u64(pool->region_chunks * chunk_bytes(pool), pool->arena_bytes - from);
    return pool->fast.arena + from;
}

static bool
region_registers(const struct buf_pool *pool, uint32_t region)
{
    return (region + 1) * (uint64_t)pool->region_chunks * chunk_bytes(pool) <= REGISTER_MAX;
}

void
buf__regions_use(struct buf_pool *pool, uint32_t chunk, uint32_t count)
{
    for (uint32_t i = chunk; i < chunk + count; i++) {
        uint32_t region = i / pool->region_chunks;
        size_t bytes;
        if (pool->region_on[region])
            continue;
        pool->region_on[region] = true;
        uint8_t *base = region_at(pool, region, &bytes);
        if (region_registers(pool, region))
            io_register_buffer(pool->io, base, bytes);
    }
}

/* No chunk of it may be used; L2 held. */
static void
region_off(struct buf_pool *pool, uint32_t region)
{
    size_t bytes;
    uint8_t *base = region_at(pool, region, &bytes);

    buf__lock(&pool->alloc_lock);
    bool on = pool->region_on[region];
    pool->region_on[region] = false;
    buf__unlock(&pool->alloc_lock);
    if (!on)
        return;
    if (region_registers(pool, region) && !PLANTED(310)) /* 310: stays pinned in the rings */
        io_unregister_buffer(pool->io, base);
    if (!PLANTED(311)) /* 311: retired memory is kept */
        mem_map_decommit(base, bytes);
}

void
buf__resize_deinit(struct buf_pool *pool)
{
    for (uint32_t region = 0; region < BUF_REGIONS_MAX; region++) {
        size_t bytes;
        if (pool->region_on[region] && region_registers(pool, region))
            io_unregister_buffer(pool->io, region_at(pool, region, &bytes));
    }
}

/* ---- Giving back and taking again (L2 held) ---- */

/* Begins to empty the highest chunk, or the run that it is part of.  From here nobody takes memory
 * in it.  False: too little would stay. */
static bool
drain_begin(struct buf_pool *pool)
{
    buf__lock(&pool->alloc_lock);
    uint32_t end = pool->chunk_limit, first = end - 1;
    const struct buf_chunk *top = &pool->chunks[first];
    uint8_t page_class = top->page_class;
    bool frames = top->state == CHUNK_FRAMES;
    if (top->state == CHUNK_RUN || top->state == CHUNK_INSIDE)
        first &= ~((1u << (page_class - pool->chunk_class_max)) - 1); /* runs are aligned */
    bool ok = first >= pool->chunk_floor;
    if (ok)
        pool->chunk_limit = first;
    buf__unlock(&pool->alloc_lock);
    if (!ok)
        return false;
    pool->drain_end = end;
    dirty_limits(pool);
    buf__claim_begin(pool, first, end - first);
    if (frames) /* where its pages can go */
        buf__make_room(pool, page_class, pool->chunk_units >> page_class);
    return true;
}

/* Goes on with it.  True when the chunks are empty, and now retired. */
static bool
drain_step(struct buf_pool *pool)
{
    uint32_t first = pool->chunk_limit, end = pool->drain_end, per = pool->region_chunks;

    if (!buf__claim_vacate(pool, first, end - first, /* all= */ true))
        return false; /* some pages are in use or being read; what is empty stays set aside */
    bool empty = buf__claim_end(pool, first, end - first);
    ash_assert(empty);
    pool->drain_end = 0;
    buf__lock(&pool->alloc_lock);
    for (uint32_t i = first; i < end; i++) {
        ash_assert(pool->chunks[i].state == CHUNK_FREE);
        pool->chunks[i].state = CHUNK_RETIRED;
        pool->chunks_free--;
    }
    buf__unlock(&pool->alloc_lock);
    counter_add(&pool->chunks_retired, end - first);
    for (uint32_t region = (first + per - 1) / per; region * per < end; region++)
        region_off(pool, region);
    return true;
}

static void
drain_cancel(struct buf_pool *pool)
{
    uint32_t first = pool->chunk_limit, end = pool->drain_end;

    pool->drain_end = 0;
    buf__lock(&pool->alloc_lock);
    pool->chunk_limit = end;
    buf__unlock(&pool->alloc_lock);
    ash_ignore(buf__claim_end(pool, first, end - first) ? ASH_OK : ASH_BUSY);
    dirty_limits(pool);
    if (!PLANTED(401)) /* 401: who waits for the higher limit sleeps on */
        task_wait_wake(&pool->clean_wait);
    buf__frames_wake(pool);
}

static void
region_return(struct buf_pool *pool)
{
    buf__lock(&pool->alloc_lock);
    uint32_t first = pool->chunk_limit;
    uint32_t end = (uint32_t)min_u64(
        (uint64_t)(first / pool->region_chunks + 1) * pool->region_chunks, pool->chunk_count);
    for (uint32_t i = first; i < end; i++) {
        ash_assert(pool->chunks[i].state == CHUNK_RETIRED);
        pool->chunks[i].state = CHUNK_FREE;
        pool->chunks_free++;
    }
    pool->chunk_limit = end;
    buf__unlock(&pool->alloc_lock);
    counter_add(&pool->chunks_returned, end - first);
    dirty_limits(pool);
    task_wait_wake(&pool->clean_wait);
    buf__frames_wake(pool);
}

/* ---- The budget ---- */

uint64_t
buf__words_bytes(const struct buf_pool *pool)
{
    return round_up(pstore_page_high(pool->pstore) * sizeof(uint64_t), FRAME_UNIT);
}

uint64_t
buf__image_bytes(const struct buf_pool *pool)
{
    return pool->writers == NULL ? 0 : (pool->options.writers + 1) * pool->batch_bytes;
}

uint64_t
buf__resident_bytes(struct buf_pool *pool)
{
    uint64_t sum = 0;

    buf__lock(&pool->alloc_lock);
    for (uint32_t region = 0; region < BUF_REGIONS_MAX; region++) {
        size_t bytes;
        region_at(pool, pool->region_on[region] ? region : 0, &bytes);
        sum += pool->region_on[region] ? bytes : 0;
    }
    buf__unlock(&pool->alloc_lock);
    return sum;
}

/* Bytes that the arena may take: as many as the others leave. */
static uint64_t
arena_share(struct buf_pool *pool)
{
    uint64_t others = pool->options.others(pool->options.others_ctx) + buf__words_bytes(pool) +
                      buf__image_bytes(pool);

    uint64_t used = others + buf__resident_bytes(pool);
    if (used > atomic_load_explicit(&pool->budget_peak, memory_order_relaxed))
        atomic_store_explicit(&pool->budget_peak, used, memory_order_relaxed); /* under L2 */
    if (PLANTED(312)) /* what the others use is not looked at */
        others = 0;
    others += pool->options.budget / RESERVE_SHARE;
    return others < pool->options.budget ? pool->options.budget - others : 0;
}

void
buf__budget(struct buf_pool *pool)
{
    if (pool->options.others == NULL || !task_mutex_trylock(&pool->move_lock))
        return;
    uint64_t region = pool->region_chunks * chunk_bytes(pool);
    uint64_t share = arena_share(pool);
    uint64_t whole = share / region * pool->region_chunks; /* only whole regions are given back */
    uint32_t target = (uint32_t)min_u64(max_u64(whole, pool->chunk_floor), pool->chunk_count);

    if (pool->drain_end != 0 && target >= pool->drain_end)
        drain_cancel(pool);
    for (unsigned i = 0; i < RETIRE_STEP; i++) {
        if (pool->drain_end == 0 && (target >= pool->chunk_limit || !drain_begin(pool)))
            break;
        if (!drain_step(pool))
            break;
    }
    if (pool->drain_end == 0 && target >= pool->chunk_limit &&
        pool->chunk_limit < pool->chunk_count &&
        share >= pool->chunk_limit * chunk_bytes(pool) + region + region / 2)
        region_return(pool); /* with half a region to spare, or it would come and go */
    atomic_store_explicit(&pool->over_budget, pool->drain_end != 0 || target < pool->chunk_limit,
                          memory_order_relaxed);
    task_mutex_unlock(&pool->move_lock);
}
