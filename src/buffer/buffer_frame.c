/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_frame.c - which part of the arena serves which page size: chunks, frames, free lists.
 *
 * The arena is cut into chunks (2 MiB; less in small pools).  A chunk is free, or cut into frames
 * of one class, or part of a run: one frame of a class larger than a chunk, aligned to its size.  A
 * class that runs short gets frames in this order: its free list, a free chunk, eviction in its own
 * queues, a chunk (or window of chunks) taken from the class whose coldest pages are coldest.
 *
 * Taking a window: its free frames are set aside (PARKED), every page in it moves to a free frame
 * outside or is evicted; when one cannot (latched, being written, dirty with nowhere to go) the
 * window is given back and another is tried.  Nothing waits for a latch.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "buffer/buffer_int.h"

#include <inttypes.h>
#include <string.h>

#define MOVE_TRIES 4u /* windows tried before the caller waits */
#define MOVE_EVICTIONS \
    64u /* batches evicted from the donor so that its hot pages find frames outside the window */
#define REBALANCE_EVERY 16u
#define BUDGET_EVERY    64u /* batches evicted between looks at the budget */

void
buf__lock(_Atomic uint32_t *lock)
{
    unsigned spins = 0;
    while (atomic_exchange_explicit(lock, 1, memory_order_acquire) != 0)
        while (atomic_load_explicit(lock, memory_order_relaxed) != 0)
            task_relax(&spins);
}

void
buf__unlock(_Atomic uint32_t *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

/* ---- Lists (alloc_lock) ---- */

static struct frame_list *
list_of(struct buf_pool *pool, const struct buf_frame *f)
{
    struct class_lists *c = &pool->lists[f->page_class];
    switch ((enum frame_where)f->where) {
    case FRAME_FREE: return &c->free;
    case FRAME_SMALL: return &c->small;
    case FRAME_MAIN: return &c->main;
    case FRAME_LAUNDRY: return &c->laundry;
    case FRAME_UNUSED:
    case FRAME_HELD:
    case FRAME_PARKED: break;
    }
    return NULL;
}

static void
list_count(struct buf_pool *pool, struct frame_list *l, enum frame_where where, int delta)
{
    l->count += (uint32_t)delta;
    if (where == FRAME_LAUNDRY)
        atomic_fetch_add_explicit(&pool->laundry_count, (uint32_t)delta, memory_order_relaxed);
}

void
buf__list_push_head(struct buf_pool *pool, struct frame_list *l, uint32_t frame,
                    enum frame_where where)
{
    struct buf_frame *f = &pool->frames[frame];
    f->where = (uint8_t)where;
    f->stamp = pool->clock;
    f->prev = FRAME_NONE;
    f->next = l->head;
    if (l->head != FRAME_NONE)
        pool->frames[l->head].prev = frame;
    else
        l->tail = frame;
    l->head = frame;
    list_count(pool, l, where, 1);
}

void
buf__list_push_tail(struct buf_pool *pool, struct frame_list *l, uint32_t frame,
                    enum frame_where where)
{
    struct buf_frame *f = &pool->frames[frame];
    f->where = (uint8_t)where;
    f->stamp = l->tail != FRAME_NONE ? pool->frames[l->tail].stamp : pool->clock;
    f->next = FRAME_NONE;
    f->prev = l->tail;
    if (l->tail != FRAME_NONE)
        pool->frames[l->tail].next = frame;
    else
        l->head = frame;
    l->tail = frame;
    list_count(pool, l, where, 1);
}

void
buf__list_remove(struct buf_pool *pool, uint32_t frame)
{
    struct buf_frame *f = &pool->frames[frame];
    struct frame_list *l = list_of(pool, f);
    ash_assert(l != NULL);
    if (f->prev != FRAME_NONE)
        pool->frames[f->prev].next = f->next;
    else
        l->head = f->next;
    if (f->next != FRAME_NONE)
        pool->frames[f->next].prev = f->prev;
    else
        l->tail = f->prev;
    list_count(pool, l, (enum frame_where)f->where, -1);
    f->where = FRAME_HELD;
}

static struct buf_chunk *
chunk_of(struct buf_pool *pool, uint32_t frame)
{
    return &pool->chunks[frame >> pool->fast.chunk_shift];
}

void
buf__frame_free_locked(struct buf_pool *pool, uint32_t frame)
{
    struct buf_frame *f = &pool->frames[frame];
    struct buf_chunk *c = chunk_of(pool, frame);

    ash_assert(f->where == FRAME_HELD);
    ash_assert(atomic_load_explicit(&f->page, memory_order_relaxed) == 0);
    ash_assert(atomic_load_explicit(&pool->rec_lsn[frame], memory_order_relaxed) == 0);
    atomic_store_explicit(&f->flags, 0, memory_order_relaxed);
    c->used -= class_units(f->page_class);
    if (c->claimed)
        f->where = FRAME_PARKED;
    else
        buf__list_push_head(pool, &pool->lists[f->page_class].free, frame, FRAME_FREE);
}

void
buf__frame_free(struct buf_pool *pool, uint32_t frame)
{
    buf__lock(&pool->alloc_lock);
    buf__frame_free_locked(pool, frame);
    buf__unlock(&pool->alloc_lock);
    buf__frames_wake(pool);
}

void
buf__frames_wake(struct buf_pool *pool)
{
    if (atomic_load(&pool->frame_waiters) > 0)
        task_wait_wake(&pool->frame_wait);
}

/* ---- Chunks (alloc_lock) ---- */

/* Chunks that one frame of the class needs: 1 unless it is larger than a chunk. */
static uint32_t
window_of(const struct buf_pool *pool, uint8_t page_class)
{
    return page_class <= pool->chunk_class_max ? 1 : 1u << (page_class - pool->chunk_class_max);
}

/* Cuts a free window into frames of a class. */
static void
carve_at(struct buf_pool *pool, uint32_t first, uint8_t page_class)
{
    uint32_t window = window_of(pool, page_class);
    uint32_t units = class_units(page_class);

    for (uint32_t i = 0; i < window; i++) {
        struct buf_chunk *c = &pool->chunks[first + i];
        ash_assert(c->state == CHUNK_FREE && !c->claimed && c->used == 0);
        c->state = window == 1 ? CHUNK_FRAMES : i == 0 ? CHUNK_RUN : CHUNK_INSIDE;
        c->page_class = page_class;
        atomic_store_explicit(&pool->chunk_class[first + i], page_class, memory_order_relaxed);
    }
    pool->chunks_free -= window;
    pool->lists[page_class].chunks += window;
    buf__regions_use(pool, first, window);
    uint32_t end = (first + window) * pool->chunk_units;
    for (uint32_t frame = end;
         frame > first * pool->chunk_units;) { /* backwards: the first is used first */
        frame -= units;
        pool->frames[frame].page_class = page_class;
        buf__list_push_head(pool, &pool->lists[page_class].free, frame, FRAME_FREE);
    }
}

static bool
carve(struct buf_pool *pool, uint8_t page_class)
{
    uint32_t window = window_of(pool, page_class);
    bool found = false;

    buf__lock(&pool->alloc_lock);
    bool maybe = pool->chunks_free >= window;
    buf__unlock(&pool->alloc_lock);
    if (!maybe)
        return false;
    buf__budget(pool);
    buf__lock(&pool->alloc_lock);
    if (pool->chunks_free >= window)
        for (uint32_t first = 0; first + window <= pool->chunk_limit && !found; first += window) {
            found = true;
            for (uint32_t i = 0; i < window && found; i++)
                found = pool->chunks[first + i].state == CHUNK_FREE &&
                        !pool->chunks[first + i].claimed;
            if (found)
                carve_at(pool, first, page_class);
        }
    buf__unlock(&pool->alloc_lock);
    return found;
}

/* ---- Moving chunks between classes (move_lock) ---- */

/* Sets the window aside.  Each chunk in it is free, of frames, or of runs that lie wholly inside.
 * */
void
buf__claim_begin(struct buf_pool *pool, uint32_t first, uint32_t count)
{
    buf__lock(&pool->alloc_lock);
    for (uint32_t i = first; i < first + count; i++)
        pool->chunks[i].claimed = true;
    for (uint32_t frame = first * pool->chunk_units; frame < (first + count) * pool->chunk_units;
         frame++)
        if (pool->frames[frame].where == FRAME_FREE) {
            buf__list_remove(pool, frame);
            pool->frames[frame].where = FRAME_PARKED;
        }
    buf__unlock(&pool->alloc_lock);
}

/* Ends a claim: true when the whole window became free. */
bool
buf__claim_end(struct buf_pool *pool, uint32_t first, uint32_t count)
{
    bool empty = true;

    buf__lock(&pool->alloc_lock);
    for (uint32_t i = first; i < first + count; i++)
        empty = empty && pool->chunks[i].used == 0;
    for (uint32_t frame = first * pool->chunk_units; frame < (first + count) * pool->chunk_units;
         frame++) {
        struct buf_frame *f = &pool->frames[frame];
        if (f->where != FRAME_PARKED)
            continue;
        if (empty)
            f->where = FRAME_UNUSED;
        else
            buf__list_push_head(pool, &pool->lists[f->page_class].free, frame, FRAME_FREE);
    }
    for (uint32_t i = first; i < first + count; i++) {
        struct buf_chunk *c = &pool->chunks[i];
        c->claimed = false;
        if (empty && c->state != CHUNK_FREE) {
            pool->lists[c->page_class].chunks--;
            pool->chunks_free++;
            c->state = CHUNK_FREE;
        }
    }
    buf__unlock(&pool->alloc_lock);
    return empty;
}

/* Copies a page, latched exclusively, to another frame of its class and releases the latch.  Both
 * frames are HELD; `to` takes over the page.  No scan for dirty pages runs meanwhile (L2). */
static void
relocate(struct buf_pool *pool, uint32_t from, uint32_t to, uint64_t page, uint64_t word,
         enum frame_where where)
{
    struct buf_frame *f = &pool->frames[from];
    struct buf_frame *t = &pool->frames[to];
    struct frame_list *list;

    memcpy(frame_data(pool, to), frame_data(pool, from), PAGE_CLASS_SIZE(f->page_class));
    uint64_t rec = atomic_load_explicit(&pool->rec_lsn[from], memory_order_relaxed);
    if (PLANTED(71)) /* a dirty page is clean after it moved */
        buf__dirty_sub(pool, rec != 0 ? class_units(f->page_class) : 0), rec = 0;
    atomic_store_explicit(&pool->rec_lsn[to], rec, memory_order_relaxed);
    atomic_store_explicit(&pool->rec_lsn[from], 0, memory_order_relaxed);
    atomic_store_explicit(&t->page, page, memory_order_relaxed);
    atomic_store_explicit(&f->page, 0, memory_order_relaxed);
    buf__lock(&pool->alloc_lock);
    list = where == FRAME_SMALL     ? &pool->lists[t->page_class].small
           : where == FRAME_LAUNDRY ? &pool->lists[t->page_class].laundry
                                    : &pool->lists[t->page_class].main;
    buf__list_push_head(pool, list, to, where);
    buf__frame_free_locked(pool, from);
    buf__unlock(&pool->alloc_lock);
    word = word_next_version(word_make(BUF_STATE_FREE, word, to) | (word & BUF_HEAT_MASK));
    buf__publish(pool, page, word);
}

/* Takes one page out of a claimed window. */
static bool
vacate(struct buf_pool *pool, uint32_t frame)
{
    struct buf_frame *f = &pool->frames[frame];
    enum frame_where where;
    uint32_t to = FRAME_NONE;

    buf__lock(&pool->alloc_lock);
    where = (enum frame_where)f->where;
    if (where != FRAME_SMALL && where != FRAME_MAIN && where != FRAME_LAUNDRY) {
        buf__unlock(&pool->alloc_lock);
        return where == FRAME_PARKED || where == FRAME_UNUSED;
    }
    buf__list_remove(pool, frame);
    to = pool->lists[f->page_class].free.head;
    if (to != FRAME_NONE) {
        buf__list_remove(pool, to);
        chunk_of(pool, to)->used += class_units(f->page_class);
    }
    buf__unlock(&pool->alloc_lock);

    uint64_t page = atomic_load_explicit(&f->page, memory_order_acquire);
    uint64_t word = page != 0 ? atomic_load_explicit(&pool->fast.words[page], memory_order_acquire)
                              : 0;
    uint64_t taken = word_make(BUF_STATE_X, word, frame) | (word & (BUF_HEAT_MASK | BUF_WAITERS));
    bool busy = word_state(word) != BUF_STATE_FREE || (word & BUF_FRAME_MASK) != frame ||
                atomic_load(&f->flags) != 0 ||
                (to == FRAME_NONE && atomic_load(&pool->rec_lsn[frame]) != 0) ||
                !atomic_compare_exchange_strong(&pool->fast.words[page], &word, taken);
    if (!busy && (atomic_load(&f->flags) != 0 ||
                  (to == FRAME_NONE && atomic_load(&pool->rec_lsn[frame]) != 0))) {
        buf__publish(pool, page,
                     word_next_version(word) & ~BUF_WAITERS); /* a writer or changer was faster */
        busy = true;
    }
    if (busy) {
        buf__lock(&pool->alloc_lock);
        if (to != FRAME_NONE)
            buf__frame_free_locked(pool, to);
        buf__queue_back_locked(pool, frame, /* cold= */ where == FRAME_LAUNDRY && !PLANTED(402));
        buf__unlock(&pool->alloc_lock);
        return false;
    }
    if (to != FRAME_NONE) {
        relocate(pool, frame, to, page, word, where);
        return true;
    }
    atomic_store_explicit(&f->page, 0, memory_order_relaxed);
    buf__publish(pool, page, word_next_version(word_make(BUF_STATE_ABSENT, word, 0)));
    counter_add(&pool->evictions, 1);
    buf__frame_free(pool, frame);
    return true;
}

bool
buf__claim_vacate(struct buf_pool *pool, uint32_t first, uint32_t count, bool all)
{
    bool ok = true;

    for (uint32_t frame = first * pool->chunk_units;
         frame < (first + count) * pool->chunk_units && (ok || all);) {
        struct buf_chunk *c = chunk_of(pool, frame);
        if (c->state == CHUNK_FREE) { /* constant while claimed */
            frame += pool->chunk_units;
            continue;
        }
        ok = vacate(pool, frame) && ok;
        frame += class_units(c->page_class);
    }
    return ok;
}

static bool
claim_window(struct buf_pool *pool, uint32_t first, uint32_t count)
{
    buf__claim_begin(pool, first, count);
    bool ok = buf__claim_vacate(pool, first, count, /* all= */ false);
    return buf__claim_end(pool, first, count) && ok;
}

/* The window with the fewest units in use that has not been tried yet.  donor: only chunks of that
 * class, or PAGE_CLASS_COUNT for any. */
static bool
window_choose(struct buf_pool *pool, uint8_t page_class, uint8_t donor, const uint32_t *tried,
              unsigned tries, uint32_t *first_out, uint32_t *count_out)
{
    uint32_t window = window_of(pool, page_class);
    uint32_t best = UINT32_MAX;

    buf__lock(&pool->alloc_lock);
    for (uint32_t first = 0; first + window <= pool->chunk_limit; first += window) {
        uint32_t start = first, count = window, used = 0;
        struct buf_chunk *c = &pool->chunks[first];
        bool usable = true;
        if (c->state == CHUNK_INSIDE || c->state == CHUNK_RUN) { /* a larger run is taken whole */
            uint32_t run = window_of(pool, c->page_class);
            if (run > window) {
                start = first / run * run;
                count = run;
            }
        }
        for (uint32_t i = start; i < start + count; i++) {
            c = &pool->chunks[i];
            used += c->used;
            usable = usable && !c->claimed &&
                     (donor == PAGE_CLASS_COUNT || c->page_class == donor) &&
                     (c->state == CHUNK_FREE || c->page_class != page_class);
        }
        for (unsigned t = 0; t < tries; t++)
            usable = usable && tried[t] != start;
        if (usable && used < best) {
            best = used;
            *first_out = start;
            *count_out = count;
        }
    }
    buf__unlock(&pool->alloc_lock);
    return best != UINT32_MAX;
}

/* The class, other than the given one, whose next victim has been in its queue longest. */
static uint8_t
donor_choose(struct buf_pool *pool, uint8_t page_class, uint32_t *age_out)
{
    uint8_t donor = PAGE_CLASS_COUNT;
    uint32_t oldest = 0;

    buf__lock(&pool->alloc_lock);
    for (uint8_t k = 0; k <= pool->class_max; k++) {
        if (k == page_class || pool->lists[k].chunks == 0)
            continue;
        uint32_t age = buf__class_age(pool, k);
        if (donor == PAGE_CLASS_COUNT || age > oldest) {
            donor = k;
            oldest = age;
        }
    }
    buf__unlock(&pool->alloc_lock);
    *age_out = oldest;
    return donor;
}

static uint32_t
free_count(struct buf_pool *pool, uint8_t page_class)
{
    buf__lock(&pool->alloc_lock);
    uint32_t n = pool->lists[page_class].free.count;
    buf__unlock(&pool->alloc_lock);
    return n;
}

void
buf__make_room(struct buf_pool *pool, uint8_t page_class, uint32_t frames)
{
    for (unsigned i = 0; i < MOVE_EVICTIONS && free_count(pool, page_class) < frames; i++)
        if (buf__evict(pool, page_class, /* force= */ false) == 0)
            break;
}

bool
buf__chunk_move(struct buf_pool *pool, uint8_t page_class)
{
    uint32_t tried[MOVE_TRIES], first = 0, count = 0, age;
    uint8_t donor;
    bool ok = false;

    if (!task_mutex_trylock(&pool->move_lock))
        return false;
    donor = donor_choose(pool, page_class, &age);
    if (donor < PAGE_CLASS_COUNT && page_class <= pool->chunk_class_max) {
        /* 0 for runs: nothing to relocate to */
        buf__make_room(pool, donor, pool->chunk_units >> donor);
    } else {
        donor = PAGE_CLASS_COUNT;
    }
    for (unsigned t = 0; t < MOVE_TRIES && !ok; t++) {
        if (!window_choose(pool, page_class, donor, tried, t, &first, &count)) {
            if (donor == PAGE_CLASS_COUNT)
                break;
            donor = PAGE_CLASS_COUNT; /* any other class will do */
            if (!window_choose(pool, page_class, donor, tried, t, &first, &count))
                break;
        }
        tried[t] = first;
        ok = claim_window(pool, first, count);
    }
    task_mutex_unlock(&pool->move_lock);
    return ok;
}

/* ---- Allocation ---- */

static bool
pop_free(struct buf_pool *pool, uint8_t page_class, uint32_t *frame_out, bool *low_out)
{
    struct class_lists *l = &pool->lists[page_class];
    bool ok = false;

    buf__lock(&pool->alloc_lock);
    uint32_t frame = l->free.head;
    if (frame != FRAME_NONE) {
        buf__list_remove(pool, frame);
        chunk_of(pool, frame)->used += class_units(page_class);
        pool->clock += class_units(page_class);
        *frame_out = frame;
        uint32_t resident = l->small.count + l->main.count;
        *low_out = pool->chunks_free == 0 &&
                   l->free.count < (uint32_t)min_u64(EVICT_BATCH, resident / 32);
        ok = true;
    }
    buf__unlock(&pool->alloc_lock);
    return ok;
}

/* Looks at the budget now and then.  Every few batches: does another class hold much older pages
 * than this one evicts?  Then its memory is worth more here. */
static bool
rebalance_due(struct buf_pool *pool, uint8_t page_class)
{
    uint32_t age, own;

    buf__lock(&pool->alloc_lock);
    uint32_t turn = ++pool->rebalance;
    own = buf__class_age(pool, page_class);
    buf__unlock(&pool->alloc_lock);
    if (turn % BUDGET_EVERY == BUDGET_EVERY / 2 ||
        atomic_load_explicit(&pool->over_budget, memory_order_relaxed))
        buf__budget(pool);
    return turn % REBALANCE_EVERY == 0 && donor_choose(pool, page_class, &age) < PAGE_CLASS_COUNT &&
           age / 2 > own && age > pool->chunk_units;
}

/* Waits a little for page writers or for others' latches. */
static ash_rc
wait_for_frame(struct buf_pool *pool, uint8_t page_class, uint64_t *deadline)
{
    struct task_waiter waiter;
    uint64_t now = clock_ns();
    ash_rc rc = buf__error(pool);

    if (rc != ASH_OK)
        return rc;
    if (*deadline == 0)
        *deadline = now + FRAME_WAIT_NS;
    ash_rc hindered = (ash_rc)atomic_load(&pool->hindered);
    if (hindered != ASH_OK && now + FRAME_WAIT_NS >= *deadline + HINDERED_WAIT_NS)
        return ash_raise(hindered,
                         "No frame for a page of %u bytes: changed pages cannot be written for "
                         "want of %s; free some and try again.",
                         PAGE_CLASS_SIZE(page_class),
                         hindered == ASH_NO_SPACE ? "room on the disk" : "memory");
    if (now >= *deadline)
        return ash_raise(ASH_NO_MEMORY,
                         "No frame for a page of %u bytes: every page in the cache of %" PRIu64
                         " bytes is latched or waits to be written; raise the option cache.",
                         PAGE_CLASS_SIZE(page_class), pool->arena_bytes);
    atomic_fetch_add(&pool->frame_waiters, 1);
    buf__poke(pool);
    task_wait_begin(&pool->frame_wait, &waiter, 0);
    if (free_count(pool, page_class) == 0)
        task_park_until(now + 2000000);
    task_wait_end(&pool->frame_wait, &waiter);
    atomic_fetch_sub(&pool->frame_waiters, 1);
    return ASH_OK;
}

ash_rc
buf__frame_alloc(struct buf_pool *pool, uint8_t page_class, bool wait, uint32_t *frame_out)
{
    uint64_t deadline = 0;
    bool low = false;

    if (page_class > pool->class_max)
        return ash_raise(ASH_NO_MEMORY,
                         "A page of %" PRIu64 " bytes does not fit into a cache of %" PRIu64
                         " bytes; raise the option cache.",
                         (uint64_t)PAGE_SIZE_MIN << page_class, pool->arena_bytes);
    for (;;) {
        if (pop_free(pool, page_class, frame_out, &low)) {
            /* have some ready for the next: evict a batch now and then rather than one page each
             * time */
            if (low) {
                if (rebalance_due(pool, page_class))
                    buf__chunk_move(pool, page_class);
                else
                    buf__evict(pool, page_class, /* force= */ false);
            }
            return ASH_OK;
        }
        if (carve(pool, page_class))
            continue;
        if (buf__evict(pool, page_class, /* force= */ false) > 0 ||
            buf__evict(pool, page_class, /* force= */ true) > 0)
            continue;
        if (buf__chunk_move(pool, page_class))
            continue;
        if (!wait)
            return ASH_WOULD_BLOCK;
        ash_rc rc = wait_for_frame(pool, page_class, &deadline);
        if (rc != ASH_OK)
            return rc;
    }
}
