/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_pool.c - making and ending a pool, new and freed pages, figures, and a check of the whole.
 */
#include "base/bits.h"
#include "buffer/buffer_int.h"

#include <inttypes.h>
#include <string.h>

static void
list_reset(struct frame_list *l)
{
    l->head = l->tail = FRAME_NONE;
    l->count = 0;
}

/* Chunks are an eighth of a small pool, so that every class up to half of the pool finds room
 * beside others. */
static void
geometry(struct buf_pool *pool, uint64_t bytes)
{
    uint64_t chunk = min_u64(CHUNK_BYTES_MAX, 1ull << log2_floor(bytes / 8));

    chunk = max_u64(chunk, FRAME_UNIT);
    pool->arena_bytes = round_down(bytes, chunk);
    pool->frame_count = (uint32_t)(pool->arena_bytes / FRAME_UNIT);
    pool->chunk_units = (uint32_t)(chunk / FRAME_UNIT);
    pool->chunk_count = pool->frame_count / pool->chunk_units;
    pool->chunks_free = pool->chunk_count;
    pool->fast.chunk_shift = log2_floor(pool->chunk_units);
    pool->chunk_class_max = (uint8_t)pool->fast.chunk_shift;
    pool->class_max =
        (uint8_t)min_u64(PAGE_CLASS_COUNT - 1, log2_floor(pool->arena_bytes / 2 / FRAME_UNIT));
    pool->batch_pages = (uint32_t)max_u64(1, min_u64(BATCH_PAGES_MAX, pool->frame_count / 8));
    pool->batch_bytes = max_u64(PAGE_CLASS_SIZE(pool->class_max),
                                min_u64(BATCH_BYTES_MAX, (uint64_t)pool->batch_pages * FRAME_UNIT));
    pool->ghost_mask = (uint32_t)(1ull << log2_floor(pool->frame_count)) - 1;
    pool->waitq_mask = pool->frame_count >= 4096 ? WAITQ_MAX - 1 : 15;
    buf__resize_init(pool);
}

static ash_rc
pool_memory(struct buf_pool *pool)
{
    /* Behind the arena there is address space for a page of any class: an optimistic reader of a
     * frame that changed its class reads what is not its page, but always mapped memory (R1). */
    pool->map_bytes = pool->arena_bytes + PAGE_CLASS_SIZE(pool->class_max);
    pool->fast.arena =
        mem_map(MEM_BUFFER, pool->map_bytes, /* huge= */ pool->arena_bytes >= CHUNK_BYTES_MAX);
    pool->fast.words =
        mem_map(MEM_BUFFER, pool->fast.page_max * sizeof(uint64_t), /* huge= */ false);
    pool->frames = mem_zalloc(MEM_BUFFER, pool->frame_count * sizeof(*pool->frames));
    pool->rec_lsn = mem_zalloc(MEM_BUFFER, pool->frame_count * sizeof(*pool->rec_lsn));
    pool->chunks = mem_zalloc(MEM_BUFFER, pool->chunk_count * sizeof(*pool->chunks));
    pool->chunk_class = mem_zalloc(MEM_BUFFER, pool->chunk_count);
    pool->ghost = mem_zalloc(MEM_BUFFER, (pool->ghost_mask + 1) * sizeof(*pool->ghost));
    pool->waitq =
        mem_aligned(MEM_BUFFER, ASH_CACHE_LINE, (pool->waitq_mask + 1) * sizeof(*pool->waitq));
    pool->fast.chunk_class = pool->chunk_class;
    if (pool->fast.arena == NULL || pool->fast.words == NULL || pool->frames == NULL ||
        pool->rec_lsn == NULL || pool->chunks == NULL || pool->chunk_class == NULL ||
        pool->ghost == NULL || pool->waitq == NULL)
        return ASH_NO_MEMORY;
    for (uint32_t i = 0; i <= pool->waitq_mask; i++)
        task_waitq_init(&pool->waitq[i].q);
    return ASH_OK;
}

ash_rc
buf_create(const struct buf_options *options, struct buf_pool **out)
{
    if (options->bytes < 64 * FRAME_UNIT || options->bytes / FRAME_UNIT > BUF_FRAME_MASK)
        return ash_raise(
            ASH_INVALID,
            "A cache of %" PRIu64
            " bytes is not possible; the option cache must be between 256 KiB and 511 GiB.",
            options->bytes);
    struct buf_pool *pool = mem_aligned(MEM_BUFFER, ASH_CACHE_LINE, sizeof(*pool));
    if (pool == NULL)
        return ASH_NO_MEMORY;
    memset(pool, 0, sizeof(*pool));
    pool->options = *options;
    pool->io = options->io;
    pool->pstore = options->pstore;
    pool->fast.page_max = options->page_id_max != 0 ? options->page_id_max : PAGE_ID_MAX_DEFAULT;
    geometry(pool, options->bytes);
    task_mutex_init(&pool->move_lock);
    task_mutex_init(&pool->guest_lock);
    task_mutex_init(&pool->reserve_lock);
    task_waitq_init(&pool->writer_wait);
    task_waitq_init(&pool->clean_wait);
    task_waitq_init(&pool->frame_wait);
    for (unsigned k = 0; k < PAGE_CLASS_COUNT; k++) {
        list_reset(&pool->lists[k].free);
        list_reset(&pool->lists[k].small);
        list_reset(&pool->lists[k].main);
        list_reset(&pool->lists[k].laundry);
    }
    if (task_sim_active)
        buf_heat_tick = 0; /* a run must not depend on the runs before it */
    ash_rc rc = pool_memory(pool);
    if (rc == ASH_OK && !options->read_only)
        rc = buf__writers_init(pool);
    if (rc != ASH_OK) {
        buf_destroy(pool);
        return rc;
    }
    *out = pool;
    return ASH_OK;
}

/* Redo may have brought back pages that a later record freed. */
static void
drop_unallocated(struct buf_pool *pool)
{
    for (uint32_t frame = 0; frame < pool->frame_count; frame++) {
        uint64_t page = atomic_load(&pool->frames[frame].page);
        struct buf_page p;
        if (page == 0 || pstore_page_allocated(pool->pstore, page))
            continue;
        ash_rc rc = buf_try_latch_x(pool, page, &p);
        ash_assert(rc == ASH_OK); /* nobody works with the pool yet */
        buf__page_drop(pool, &p);
    }
}

ash_rc
buf_start(struct buf_pool *pool, const struct buf_log_ops *log)
{
    ash_assert(!pool->started && !pool->options.read_only);
    drop_unallocated(pool);
    pool->log = *log;
    pool->started = true;
    ash_rc rc = buf__writers_start(pool);
    if (rc != ASH_OK && !PLANTED(348)) { /* writers that run would use `log` after it is gone */
        struct err_detail why;
        err_save(&why);
        buf_stop(pool);
        err_restore(&why);
    }
    return rc;
}

void
buf_destroy(struct buf_pool *pool)
{
    if (pool == NULL)
        return;
    if (!pool->options.read_only)
        buf__writers_deinit(pool);
    buf__resize_deinit(pool);
    if (pool->fast.arena != NULL)
        mem_unmap(MEM_BUFFER, pool->fast.arena, pool->map_bytes);
    if (pool->fast.words != NULL)
        mem_unmap(MEM_BUFFER, (void *)pool->fast.words, pool->fast.page_max * sizeof(uint64_t));
    mem_free(MEM_BUFFER, pool->frames);
    mem_free(MEM_BUFFER, (void *)pool->rec_lsn);
    mem_free(MEM_BUFFER, pool->chunks);
    mem_free(MEM_BUFFER, (void *)pool->chunk_class);
    mem_free(MEM_BUFFER, pool->ghost);
    mem_free(MEM_BUFFER, pool->waitq);
    mem_free(MEM_BUFFER, pool);
}

struct pstore *
buf_pstore(struct buf_pool *pool)
{
    return pool->pstore;
}

uint8_t
buf_class_max(const struct buf_pool *pool)
{
    return pool->class_max;
}

/* ---- New and freed pages ---- */

/* Puts an empty page into a HELD frame; the caller holds the page's word exclusively. */
static void
page_begin(struct buf_pool *pool, uint64_t page, uint32_t frame, uint8_t type, uint32_t tree,
           struct buf_page *out)
{
    uint8_t page_class = pool->frames[frame].page_class;
    uint32_t size = PAGE_CLASS_SIZE(page_class);
    uint8_t *data = frame_data(pool, frame);
    struct page_head head = {
        .format = PAGE_FORMAT, .type = type, .page_class = page_class, .page = page, .tree = tree
    };

    memset(data, 0, size);
    memcpy(data, &head, sizeof(head));
    atomic_store_explicit(&pool->frames[frame].page, page, memory_order_release);
    uint64_t word = atomic_load_explicit(&pool->fast.words[page], memory_order_relaxed);
    word = word_next_version(word_make(BUF_STATE_X, word, frame));
    buf__publish(pool, page, word);
    *out =
        (struct buf_page){ .page = page, .word = word, .data = data, .size = size, .frame = frame };
    buf__held(pool, 1);
}

/* Makes `page` a new page in `frame`. */
static ash_rc
new_in_frame(struct buf_pool *pool, uint64_t page, uint32_t frame, enum page_type type,
             uint32_t tree, struct buf_page *out)
{
    if (page >= pool->fast.page_max)
        return ash_raise(ASH_NO_SPACE,
                         "All %" PRIu64
                         " page ids are in use; larger pages or another database make room.",
                         pool->fast.page_max);
    /* The id may have been in use before: its last holder is about to leave (buf_free), or somebody
     * with an old reference is about to find that the page does not exist. */
    while (!buf__claim_absent(pool, page)) {
        bool resident = buf__wait_settled(pool, page);
        ash_assert(!resident); /* an id in use was given out */
    }
    page_begin(pool, page, frame, (uint8_t)type, tree, out);
    buf__queue_new(pool, frame, page);
    return ASH_OK;
}

ash_rc
buf_new(struct buf_pool *pool, enum page_type type, uint8_t page_class, uint32_t tree,
        struct buf_page *out)
{
    uint64_t page;
    uint32_t frame;

    ash_assert(page_class < PAGE_CLASS_COUNT);
    ash_rc rc = buf__frame_alloc(pool, page_class, /* wait= */ true, &frame);
    if (rc != ASH_OK)
        return rc;
    rc = pstore_page_alloc(pool->pstore, &page);
    if (rc == ASH_OK) {
        rc = new_in_frame(pool, page, frame, type, tree, out);
        if (rc != ASH_OK)
            pstore_page_unalloc(pool->pstore, page);
    }
    if (rc != ASH_OK)
        buf__frame_free(pool, frame);
    return rc;
}

ash_rc
buf_new_at(struct buf_pool *pool, uint64_t page, enum page_type type, uint8_t page_class,
           uint32_t tree, struct buf_page *out)
{
    uint32_t frame;
    ash_rc rc = buf__frame_alloc(pool, page_class, /* wait= */ true, &frame);

    if (rc != ASH_OK)
        return rc;
    rc = new_in_frame(pool, page, frame, type, tree, out);
    if (rc != ASH_OK)
        buf__frame_free(pool, frame);
    return rc;
}

/* Takes an exclusively latched page out of the pool and releases the latch. */
void
buf__page_drop(struct buf_pool *pool, struct buf_page *p)
{
    struct buf_frame *f = &pool->frames[p->frame];

    if (atomic_exchange(&pool->rec_lsn[p->frame], 0) != 0)
        buf__dirty_sub(pool, class_units(f->page_class));
    atomic_store(&f->flags, 0);
    buf__lock(&pool->alloc_lock);
    atomic_store_explicit(&f->page, 0, memory_order_relaxed);
    bool ours = f->where != FRAME_HELD; /* else whoever examines it frees it */
    if (ours) {
        buf__list_remove(pool, p->frame);
        buf__frame_free_locked(pool, p->frame);
    }
    buf__unlock(&pool->alloc_lock);
    uint64_t word = atomic_load_explicit(&pool->fast.words[p->page], memory_order_relaxed);
    buf__held(pool, -1);
    buf__publish(pool, p->page, word_next_version(word_make(BUF_STATE_ABSENT, word, 0)));
    buf__frames_wake(pool);
}

void
buf_new_cancel(struct buf_pool *pool, struct buf_page *p)
{
    uint64_t page = p->page;

    ash_assert(atomic_load(&pool->rec_lsn[p->frame]) == 0);
    buf__page_drop(pool, p);
    pstore_page_unalloc(pool->pstore, page);
}

void
buf_free(struct buf_pool *pool, struct buf_page *p, uint64_t lsn)
{
    if ((atomic_load(&pool->frames[p->frame].flags) & FRAME_WRITING) != 0)
        buf__flight_freed(pool, p->page);
    pstore_page_free(pool->pstore, p->page,
                     lsn); /* before the word: who finds it absent must not find a place */
    buf__page_drop(pool, p);
}

ash_rc
buf_reserve(struct buf_pool *pool, uint8_t page_class, unsigned count)
{
    uint32_t frame[16];
    unsigned n = 0;
    ash_rc rc = ASH_OK;

    ash_assert(count <= ASH_ARRAY_SIZE(frame));
    buf__lock(&pool->alloc_lock);
    bool enough = pool->lists[page_class].free.count >= count;
    buf__unlock(&pool->alloc_lock);
    if (enough)
        return ASH_OK;
    /* Two that wait for more while they keep what they have could wait for each other.  Most want
     * one, and do not wait behind somebody who gathers many. */
    if (count > 1)
        task_mutex_lock(&pool->reserve_lock);
    while (n < count && rc == ASH_OK) {
        rc = buf__frame_alloc(pool, page_class, /* wait= */ true, &frame[n]);
        n += rc == ASH_OK;
    }
    while (n > 0)
        buf__frame_free(pool, frame[--n]);
    if (count > 1)
        task_mutex_unlock(&pool->reserve_lock);
    return rc;
}

/* Drops an older incarnation of a page, which may be on its way to disk: as in buf_free(), its image
 * must not be installed any more. */
static void
redo_drop(struct buf_pool *pool, struct buf_page *old)
{
    pstore_map_lock(pool->pstore);
    if ((atomic_load(&pool->frames[old->frame].flags) & FRAME_WRITING) != 0)
        buf__flight_freed(pool, old->page);
    buf__page_drop(pool, old);
    pstore_map_unlock(pool->pstore);
}

ash_rc
buf_redo_init(struct buf_pool *pool, uint64_t page, uint8_t page_class, uint32_t tree, uint8_t type,
              struct buf_page *out)
{
    uint32_t frame;
    struct buf_page old;
    ash_rc rc = buf__check_id(pool, page);

    if (rc != ASH_OK)
        return rc;
    if (page_class >= PAGE_CLASS_COUNT)
        return ash_raise(ASH_CORRUPT,
                         "The log gives page %" PRIu64 " the size class %u, which does not exist.",
                         page, page_class);
    rc = buf__frame_alloc(pool, page_class, /* wait= */ true, &frame);
    if (rc != ASH_OK)
        return rc;
    pstore_page_mark(pool->pstore, page);
    while (!buf__claim_absent(pool, page)) /* an older incarnation of the page */
        if (buf_try_latch_x(pool, page, &old) == ASH_OK)
            redo_drop(pool, &old);
        else
            buf__wait_settled(pool, page);
    page_begin(pool, page, frame, type, tree, out);
    buf__queue_new(pool, frame, page);
    return ASH_OK;
}

/* ---- Figures ---- */

void
buf_stats(struct buf_pool *pool, struct buf_stats *out)
{
    struct buf_stats s = { .resident_bytes = buf__resident_bytes(pool),
                           .words_bytes = buf__words_bytes(pool),
                           .image_bytes = buf__image_bytes(pool) };

    buf__lock(&pool->alloc_lock);
    s.frames = (uint64_t)pool->chunk_limit * pool->chunk_units;
    s.bytes = s.frames * FRAME_UNIT;
    s.free_frames = (uint64_t)pool->chunks_free * pool->chunk_units;
    for (unsigned k = 0; k < PAGE_CLASS_COUNT; k++) {
        s.free_frames += (uint64_t)pool->lists[k].free.count << k;
        s.by_class[k] = (uint64_t)pool->lists[k].chunks * pool->chunk_units * FRAME_UNIT;
    }
    buf__unlock(&pool->alloc_lock);
    s.dirty_frames = atomic_load(&pool->dirty_units);
    s.misses = counter_sum(&pool->misses);
    s.evictions = counter_sum(&pool->evictions);
    s.page_writes = counter_sum(&pool->page_writes);
    s.latch_waits = counter_sum(&pool->latch_waits);
    s.opt_restarts = counter_sum(&pool->opt_restarts);
    s.budget_peak = atomic_load(&pool->budget_peak);
    s.chunks_retired = counter_sum(&pool->chunks_retired);
    s.chunks_returned = counter_sum(&pool->chunks_returned);
    *out = s;
}

/* ---- Check ---- */

static uint32_t
check_list(struct buf_pool *pool, const struct frame_list *l, enum frame_where where,
           uint8_t page_class)
{
    uint32_t n = 0, prev = FRAME_NONE;

    for (uint32_t i = l->head; i != FRAME_NONE; i = pool->frames[i].next) {
        const struct buf_frame *f = &pool->frames[i];
        ash_assert(n < pool->frame_count);
        ash_assert(f->where == where && f->page_class == page_class && f->prev == prev);
        uint64_t page = atomic_load(&f->page);
        ash_assert((page == 0) == (where == FRAME_FREE));
        if (page != 0)
            ash_assert((atomic_load(&pool->fast.words[page]) & BUF_FRAME_MASK) == i);
        prev = i;
        n++;
    }
    ash_assert(l->tail == prev && l->count == n);
    return n;
}

void
buf_check(struct buf_pool *pool)
{
    uint32_t chunks = 0, free_chunks = 0, retired = 0, dirty = 0, laundry = 0;

    buf__lock(&pool->alloc_lock);
    for (uint8_t k = 0; k < PAGE_CLASS_COUNT; k++) {
        struct class_lists *l = &pool->lists[k];
        uint32_t n = check_list(pool, &l->free, FRAME_FREE, k) +
                     check_list(pool, &l->small, FRAME_SMALL, k) +
                     check_list(pool, &l->main, FRAME_MAIN, k) +
                     check_list(pool, &l->laundry, FRAME_LAUNDRY, k);
        laundry += l->laundry.count;
        chunks += l->chunks;
        ash_assert(n <= l->chunks * pool->chunk_units >> k); /* some may be held */
    }
    for (uint32_t i = 0; i < pool->chunk_count; i++) {
        free_chunks += pool->chunks[i].state == CHUNK_FREE;
        retired += pool->chunks[i].state == CHUNK_RETIRED;
        bool draining = i >= pool->chunk_limit && i < pool->drain_end;
        ash_assert(draining ||
                   (pool->chunks[i].state == CHUNK_RETIRED) == (i >= pool->chunk_limit));
    }
    ash_assert(free_chunks == pool->chunks_free);
    ash_assert(chunks + free_chunks + retired == pool->chunk_count);
    ash_assert(laundry == atomic_load(&pool->laundry_count));
    for (uint32_t i = 0; i < pool->frame_count; i++)
        if (atomic_load(&pool->rec_lsn[i]) != 0)
            dirty += class_units(pool->frames[i].page_class);
    ash_assert(dirty == atomic_load(&pool->dirty_units));
    buf__unlock(&pool->alloc_lock);
}
