/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_evict.c - which page leaves: S3-FIFO per size class (Yang et al., SOSP 2023), in batches.
 *
 * A page enters SMALL (a tenth of the class), or MAIN when its fingerprint is among the ghosts,
 * that is when it was evicted from SMALL not long ago.  At the cold end of SMALL a page moves to
 * MAIN when it was used more than a little (heat >= 2; the first use after loading makes heat 1,
 * and above that only every 16th use counts, so one pass of a scan stays below), else it is evicted
 * and leaves a ghost.  At the cold end of MAIN a page with heat goes round again with one less.  A
 * victim that is dirty or being written goes to LAUNDRY; the page writer cleans it and puts it back
 * at the cold end of MAIN.
 *
 * A batch of candidates is taken off the queues under alloc_lock, examined without it (each costs a
 * cache miss or two), and put back where it belongs under it.  Between, they are HELD: their pages
 * stay usable; whoever frees such a page leaves the frame to us.
 *
 * Differences to the paper: ghosts are a direct-mapped table that overwrites instead of a queue;
 * heat is in the page-table word.
 */
#include "base/bits.h"
#include "base/random.h"
#include "buffer/buffer_int.h"

#define SMALL_SHARE  10u /* one page in ten is on probation */
#define SMALL_HEAT   2u  /* what it takes to leave probation */
#define EVICT_ROUNDS 64u /* batches without a victim before heat is ignored */

/* ---- Ghosts (alloc_lock) ---- */

static uint32_t *
ghost_slot(struct buf_pool *pool, uint64_t page, uint32_t *print_out)
{
    uint64_t h = hash_u64(page);
    *print_out = (uint32_t)(h >> 32) | 1u; /* 0: empty */
    return &pool->ghost[h & pool->ghost_mask];
}

static void
ghost_add(struct buf_pool *pool, uint64_t page)
{
    uint32_t print;
    uint32_t *slot = ghost_slot(pool, page, &print);
    *slot = print;
}

static bool
ghost_take(struct buf_pool *pool, uint64_t page)
{
    uint32_t print;
    uint32_t *slot = ghost_slot(pool, page, &print);
    if (*slot != print)
        return false;
    *slot = 0;
    return true;
}

/* ---- Queues ---- */

void
buf__queue_new(struct buf_pool *pool, uint32_t frame, uint64_t page)
{
    struct buf_frame *f = &pool->frames[frame];
    struct class_lists *l = &pool->lists[f->page_class];

    buf__lock(&pool->alloc_lock);
    ash_assert(f->where == FRAME_HELD);
    if (ghost_take(pool, page))
        buf__list_push_head(pool, &l->main, frame, FRAME_MAIN);
    else
        buf__list_push_head(pool, &l->small, frame, FRAME_SMALL);
    buf__unlock(&pool->alloc_lock);
}

/* Has changes that are not in a place on disk that the map knows. */
static bool
frame_unclean(struct buf_pool *pool, uint32_t frame)
{
    return atomic_load(&pool->rec_lsn[frame]) != 0 || atomic_load(&pool->frames[frame].flags) != 0;
}

void
buf__queue_back_locked(struct buf_pool *pool, uint32_t frame, bool cold)
{
    struct buf_frame *f = &pool->frames[frame];
    struct class_lists *l = &pool->lists[f->page_class];

    ash_assert(f->where == FRAME_HELD);
    if (atomic_load_explicit(&f->page, memory_order_relaxed) == 0)
        buf__frame_free_locked(pool, frame);
    else if (!cold)
        buf__list_push_head(pool, &l->main, frame, FRAME_MAIN);
    else if (frame_unclean(pool, frame))
        buf__list_push_head(pool, &l->laundry, frame, FRAME_LAUNDRY);
    else
        buf__list_push_tail(pool, &l->main, frame, FRAME_MAIN);
}

uint32_t
buf__class_age(const struct buf_pool *pool, uint8_t page_class)
{
    const struct class_lists *l = &pool->lists[page_class];
    uint32_t tail = l->main.tail != FRAME_NONE ? l->main.tail : l->small.tail;
    if (tail == FRAME_NONE)
        return l->free.count > 0 ? UINT32_MAX : 0; /* nothing in use: give it away first */
    return pool->clock - pool->frames[tail].stamp;
}

bool
buf__evict_frame(struct buf_pool *pool, uint32_t frame, uint64_t page)
{
    struct buf_frame *f = &pool->frames[frame];
    uint64_t word = atomic_load_explicit(&pool->fast.words[page], memory_order_acquire);

    if (word_state(word) != BUF_STATE_FREE || (word & BUF_FRAME_MASK) != frame)
        return false;
    if (!PLANTED(72) && frame_unclean(pool, frame)) /* 72: a dirty page is dropped */
        return false;
    uint64_t taken = (word & ~(255ull << BUF_STATE_SHIFT)) | BUF_STATE_ONE * BUF_STATE_X;
    if (!atomic_compare_exchange_strong(&pool->fast.words[page], &word, taken))
        return false;
    if (!PLANTED(72) && frame_unclean(pool, frame)) { /* changed between the look and the latch */
        buf__publish(pool, page, word_next_version(word) & ~BUF_WAITERS);
        return false;
    }
    if (PLANTED(72) && atomic_exchange(&pool->rec_lsn[frame], 0) != 0)
        buf__dirty_sub(pool, class_units(f->page_class));
    atomic_store_explicit(&f->page, 0, memory_order_relaxed);
    buf__publish(pool, page, word_next_version(word_make(BUF_STATE_ABSENT, word, 0)));
    counter_add(&pool->evictions, 1);
    return true;
}

/* ---- One batch ---- */

struct candidate {
    uint32_t frame;
    bool from_small;
    enum {
        BACK_HOT,
        BACK_COLD,
        BACK_SMALL,
        EVICTED
    } verdict;
    uint64_t page;
};

static unsigned
candidates_take(struct buf_pool *pool, uint8_t page_class, struct candidate *c, unsigned max)
{
    struct class_lists *l = &pool->lists[page_class];
    unsigned n = 0;

    buf__lock(&pool->alloc_lock);
    uint32_t resident = l->small.count + l->main.count;
    uint32_t small_target = resident / SMALL_SHARE;
    max = (unsigned)min_u64(max, resident / 4 + 1); /* in a tiny class leave some to the others */
    while (n < max) {
        bool small = l->small.count > 0 && (l->small.count > small_target || l->main.count == 0);
        uint32_t frame = small ? l->small.tail : l->main.tail;
        if (frame == FRAME_NONE)
            break;
        buf__list_remove(pool, frame);
        c[n].frame = frame;
        c[n].from_small = small;
        n++;
    }
    buf__unlock(&pool->alloc_lock);
    return n;
}

/* Takes one from the heat, or all of it. */
static void
cool(struct buf_pool *pool, uint64_t page, uint64_t word, bool all)
{
    uint64_t cooler = all ? word & ~BUF_HEAT_MASK : word - BUF_HEAT_ONE;
    /* may fail when the latch changes: then the page is in use anyway */
    if ((word & BUF_HEAT_MASK) != 0)
        atomic_compare_exchange_strong_explicit(&pool->fast.words[page], &word, cooler,
                                                memory_order_relaxed, memory_order_relaxed);
}

static void
examine(struct buf_pool *pool, struct candidate *c, bool force)
{
    struct buf_frame *f = &pool->frames[c->frame];
    uint64_t page = atomic_load_explicit(&f->page, memory_order_acquire);
    uint64_t word, heat;

    c->page = page;
    c->verdict = BACK_COLD;
    if (page == 0) /* freed while we hold the frame */
        return;
    word = atomic_load_explicit(&pool->fast.words[page], memory_order_relaxed);
    heat = (word & BUF_HEAT_MASK) >> BUF_HEAT_SHIFT;
    if (word_state(word) != BUF_STATE_FREE) { /* latched */
        c->verdict = c->from_small ? BACK_SMALL : BACK_HOT;
        return;
    }
    if (!force && heat >= (c->from_small ? SMALL_HEAT : 1)) {
        cool(pool, page, word, /* all= */ c->from_small);
        c->verdict = BACK_HOT;
        return;
    }
    if (buf__evict_frame(pool, c->frame, page))
        c->verdict = EVICTED;
    else if (!frame_unclean(pool, c->frame))
        c->verdict = BACK_HOT; /* somebody uses it right now */
}

static unsigned
candidates_place(struct buf_pool *pool, uint8_t page_class, const struct candidate *c, unsigned n)
{
    struct class_lists *l = &pool->lists[page_class];
    unsigned evicted = 0;

    buf__lock(&pool->alloc_lock);
    for (unsigned i = 0; i < n; i++) {
        bool gone = atomic_load_explicit(&pool->frames[c[i].frame].page, memory_order_relaxed) == 0;
        if (c[i].verdict == EVICTED && c[i].from_small)
            ghost_add(pool, c[i].page);
        if (gone)
            evicted++;
        if (c[i].verdict == BACK_SMALL && !gone)
            buf__list_push_head(pool, &l->small, c[i].frame, FRAME_SMALL);
        else
            buf__queue_back_locked(pool, c[i].frame, /* cold= */ c[i].verdict != BACK_HOT);
    }
    buf__unlock(&pool->alloc_lock);
    return evicted;
}

/* Evicts up to a batch of a class; stops after the first batch that freed something.  force: heat
 * does not protect. Returns how many frames became free. */
unsigned
buf__evict(struct buf_pool *pool, uint8_t page_class, bool force)
{
    struct candidate c[EVICT_BATCH];
    unsigned evicted = 0;
    bool dirty = false;

    for (unsigned round = 0; round < EVICT_ROUNDS && evicted == 0; round++) {
        unsigned n = candidates_take(pool, page_class, c, EVICT_BATCH);
        if (n == 0)
            break;
        for (unsigned i = 0; i < n; i++)
            examine(pool, &c[i], force);
        evicted = candidates_place(pool, page_class, c, n);
    }
    dirty = atomic_load_explicit(&pool->laundry_count, memory_order_relaxed) > 0;
    if (dirty && pool->started)
        buf__poke(pool);
    if (evicted > 0)
        buf__frames_wake(pool);
    return evicted;
}

void
buf_evict_all(struct buf_pool *pool)
{
    for (uint32_t frame = 0; frame < pool->frame_count; frame++) {
        struct buf_frame *f = &pool->frames[frame];
        buf__lock(&pool->alloc_lock);
        bool queued = f->where == FRAME_SMALL || f->where == FRAME_MAIN ||
                      f->where == FRAME_LAUNDRY;
        uint64_t page = 0;
        if (queued) {
            page = atomic_load_explicit(&f->page, memory_order_acquire);
            buf__list_remove(pool, frame);
        }
        buf__unlock(&pool->alloc_lock);
        if (!queued)
            continue;
        if (page != 0)
            buf__evict_frame(pool, frame, page);
        buf__lock(&pool->alloc_lock);
        buf__queue_back_locked(pool, frame, /* cold= */ true);
        buf__unlock(&pool->alloc_lock);
    }
    buf__frames_wake(pool);
}
