/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_latch.c - latches on the page-table word, and bringing pages in.
 *
 * Waiting: a waiter enqueues itself in a hashed wait queue, sets BUF_WAITERS in the word while it
 * cannot have the latch, and parks.  Whoever releases the latch changes the word with one atomic
 * exchange (or decrement), which also says whether the bit was set; only then it looks at the
 * queue.  Bit and latch are one word, so a waiter either sees the release or the releaser sees the
 * bit.
 *
 * Loading: absent -> exclusive by compare-and-swap decides who reads; everybody else waits as for a
 * latch.  Failure makes the page absent again, so the latch is never stuck.
 */
#include "base/bits.h"
#include "base/random.h"
#include "buffer/buffer_int.h"

#include <inttypes.h>

#define SPIN_MAX 64u /* turns before parking; a latch is mostly held for less than a microsecond */

_Thread_local uint32_t buf_heat_tick;

bool
buf_opt_failed(struct buf_pool *pool)
{
    counter_add(&pool->opt_restarts, 1);
    return false;
}

/* ---- Who holds what (debug) ---- */

#ifdef ASH_DEBUG
    #define HELD_PROBES 16u
/* Best effort: a table by task; when a neighbourhood is full the task is not tracked. */
static int
held_slot(struct buf_pool *pool, bool claim)
{
    struct task *self = task_self();
    uint64_t h = hash_u64((uint64_t)(uintptr_t)self);

    for (unsigned i = 0; i < HELD_PROBES; i++) {
        unsigned slot = (unsigned)((h + i) % ASH_ARRAY_SIZE(pool->held));
        if (atomic_load_explicit(&pool->held[slot].task, memory_order_relaxed) == self)
            return (int)slot;
    }
    for (unsigned i = 0; i < HELD_PROBES && claim; i++) {
        unsigned slot = (unsigned)((h + i) % ASH_ARRAY_SIZE(pool->held));
        struct task *none = NULL;
        if (atomic_compare_exchange_strong(&pool->held[slot].task, &none, self))
            return (int)slot;
    }
    return -1;
}

void
buf__held(struct buf_pool *pool, int delta)
{
    int slot = held_slot(pool, delta > 0);
    if (slot < 0)
        return;
    uint32_t held = atomic_load_explicit(&pool->held[slot].held, memory_order_relaxed);
    ash_assert(delta > 0 || held > 0);
    held += (uint32_t)delta;
    ash_assert(held <= 256); /* a task that never releases */
    atomic_store_explicit(&pool->held[slot].held, held, memory_order_relaxed);
    if (held == 0)
        atomic_store(&pool->held[slot].task, NULL);
}

void
buf__assert_none_held(struct buf_pool *pool)
{
    ash_assert(held_slot(pool, false) < 0); /* R2: the caller waits for pages with a latch held */
}
#else
void
buf__held(struct buf_pool *pool, int delta)
{
    (void)pool;
    (void)delta;
}

void
buf__assert_none_held(struct buf_pool *pool)
{
    (void)pool;
}
#endif

/* ---- Waking and waiting ---- */

static struct task_waitq *
waitq_of(struct buf_pool *pool, uint64_t page)
{
    return &pool->waitq[hash_u64(page) & pool->waitq_mask].q;
}

void
buf__wake(struct buf_pool *pool, uint64_t page)
{
    task_wait_wake_equal(waitq_of(pool, page), page);
}

void
buf__publish(struct buf_pool *pool, uint64_t page, uint64_t word)
{
    ash_debug_assert((word & BUF_WAITERS) == 0);
    uint64_t before = atomic_exchange_explicit(&pool->fast.words[page], word, memory_order_acq_rel);
    ash_assert(word_state(before) == BUF_STATE_X);
    if (!PLANTED(73) && ASH_UNLIKELY((before & BUF_WAITERS) != 0)) /* 73: waiters sleep on */
        buf__wake(pool, page);
}

enum latch_mode {
    MODE_RESIDENT,
    MODE_S,
    MODE_X
};

/* The word after taking the latch, or 0 when that is not possible now. */
static uint64_t
word_latched(uint64_t word, enum latch_mode mode)
{
    uint64_t state = word_state(word);
    if (state < BUF_STATE_FREE)
        return 0;
    if (mode == MODE_S)
        return state < BUF_STATE_S_MAX ? word + BUF_STATE_ONE : 0;
    if (mode == MODE_X)
        return state == BUF_STATE_FREE ? word - BUF_STATE_ONE : 0;
    return word;
}

/* Takes the latch if it can be had now; *word_out: the word that was seen last, or the one after
 * latching. */
static bool
latch_try(struct buf_pool *pool, uint64_t page, enum latch_mode mode, uint64_t *word_out)
{
    _Atomic uint64_t *at = &pool->fast.words[page];
    uint64_t word = atomic_load_explicit(at, memory_order_acquire);

    for (;;) {
        uint64_t next = word_latched(word, mode);
        *word_out = word;
        if (next == 0)
            return false;
        if (mode == MODE_RESIDENT)
            return true;
        next = (next & BUF_HEAT_MASK) != BUF_HEAT_MASK ? buf_word_hotter(next) : next;
        if (atomic_compare_exchange_weak_explicit(at, &word, next, memory_order_acquire,
                                                  memory_order_acquire)) {
            if (mode == MODE_X)
                buf__latched_fence();
            *word_out = next;
            return true;
        }
    }
}

/* Parks until the latch is ours or the page is not resident (then false). */
static bool
latch_park(struct buf_pool *pool, uint64_t page, enum latch_mode mode, uint64_t *word_out)
{
    _Atomic uint64_t *at = &pool->fast.words[page];
    struct task_waitq *q = waitq_of(pool, page);
    struct task_waiter waiter;
    bool got = false;

    counter_add(&pool->latch_waits, 1);
    task_wait_begin(q, &waiter, page);
    for (;;) {
        uint64_t word;
        got = latch_try(pool, page, mode, &word);
        *word_out = word;
        if (got || word_state(word) == BUF_STATE_ABSENT)
            break;
        if ((word & BUF_WAITERS) != 0 ||
            atomic_compare_exchange_strong(at, &word, word | BUF_WAITERS))
            task_park();
    }
    task_wait_end(q, &waiter);
    return got;
}

/* ASH_OK with the latch, or false when the page has to be loaded. */
static bool
latch_wait(struct buf_pool *pool, uint64_t page, enum latch_mode mode, uint64_t *word_out)
{
    unsigned spins = 0;

    task_point();
    for (unsigned i = 0; i < SPIN_MAX; i++) {
        if (latch_try(pool, page, mode, word_out))
            return true;
        if (word_state(*word_out) == BUF_STATE_ABSENT)
            return false;
        if (task_sim_active) /* parking is the only way that others run there */
            break;
        task_relax(&spins);
    }
    return latch_park(pool, page, mode, word_out);
}

bool
buf__wait_settled(struct buf_pool *pool, uint64_t page)
{
    uint64_t word;
    return latch_wait(pool, page, MODE_RESIDENT, &word);
}

/* ---- Loading ---- */

ash_rc
buf__check_id(struct buf_pool *pool, uint64_t page)
{
    if (ASH_LIKELY(page != PAGE_ID_NONE && page < pool->fast.page_max))
        return ASH_OK;
    return ash_raise(ASH_CORRUPT,
                     "Page id %" PRIu64 " is outside the database (ids are 1 to %" PRIu64
                     "); the page that refers to it is damaged.",
                     page, pool->fast.page_max - 1);
}

bool
buf__claim_absent(struct buf_pool *pool, uint64_t page)
{
    _Atomic uint64_t *at = &pool->fast.words[page];
    uint64_t word = atomic_load_explicit(at, memory_order_acquire);
    return word_state(word) == BUF_STATE_ABSENT &&
           atomic_compare_exchange_strong(at, &word, word_make(BUF_STATE_X, word, 0));
}

static void
load_failed(struct buf_pool *pool, uint64_t page)
{
    uint64_t word = atomic_load_explicit(&pool->fast.words[page], memory_order_relaxed);
    buf__publish(pool, page, word_next_version(word_make(BUF_STATE_ABSENT, word, 0)));
}

/* The frame holds the verified page; makes it resident in the given latch state.  Returns the word.
 * */
static uint64_t
load_done(struct buf_pool *pool, uint64_t page, uint32_t frame, uint64_t state)
{
    uint64_t word = atomic_load_explicit(&pool->fast.words[page], memory_order_relaxed);

    atomic_store_explicit(&pool->frames[frame].page, page, memory_order_release);
    buf__queue_new(pool, frame, page);
    word = word_next_version(word_make(state, word, frame));
    buf__publish(pool, page, word);
    return word;
}

static ash_rc
locate(struct buf_pool *pool, uint64_t page, uint8_t *class_out)
{
    struct map_entry entry;
    if (pstore_locate(pool->pstore, page, &entry, class_out))
        return ASH_OK;
    return ash_raise(
        ASH_CORRUPT,
        "Page %" PRIu64
        " has no place in the data file; the page that refers to it is damaged or out of date.",
        page);
}

/* The caller has claimed the absent page.  `state`: how the page is to be latched when it is there.
 * */
static ash_rc
load(struct buf_pool *pool, uint64_t page, enum io_class class, uint64_t state, uint64_t *word_out)
{
    uint8_t page_class;
    uint32_t frame;

    counter_add(&pool->misses, 1);
    ash_rc rc = locate(pool, page, &page_class);
    if (rc != ASH_OK)
        goto out_absent;
    rc = buf__frame_alloc(pool, page_class, /* wait= */ true, &frame);
    if (rc != ASH_OK)
        goto out_absent;
    rc = pstore_read(pool->pstore, page, page_class, frame_data(pool, frame), class);
    if (rc != ASH_OK) {
        buf__frame_free(pool, frame);
        goto out_absent;
    }
    *word_out = load_done(pool, page, frame, state);
    return ASH_OK;

out_absent:
    if (PLANTED(74)) /* a failed load leaves the latch behind */
        return rc;
    load_failed(pool, page);
    return rc;
}

ash_rc
buf_fault(struct buf_pool *pool, uint64_t page, enum io_class class)
{
    uint64_t word;
    ash_rc rc = buf__check_id(pool, page);

    if (rc != ASH_OK)
        return rc;
    buf__assert_none_held(pool);
    for (;;) {
        if (latch_wait(pool, page, MODE_RESIDENT, &word))
            return ASH_OK;
        if (buf__claim_absent(pool, page))
            return load(pool, page, class, BUF_STATE_FREE, &word);
    }
}

struct prefetch {
    struct io_req req;
    struct map_entry entry;
    uint64_t page;
    uint32_t frame;
    uint8_t page_class;
};

static bool
prefetch_begin(struct buf_pool *pool, uint64_t page, enum io_class class, struct prefetch *out)
{
    struct map_entry entry;

    if (page == PAGE_ID_NONE || page >= pool->fast.page_max || !buf__claim_absent(pool, page))
        return false;
    if (!pstore_locate(pool->pstore, page, &entry, &out->page_class) ||
        buf__frame_alloc(pool, out->page_class, /* wait= */ false, &out->frame) != ASH_OK)
        goto out_absent;
    if (pstore_read_begin(pool->pstore, page, out->page_class, frame_data(pool, out->frame), class,
                          &out->req, &out->entry) != ASH_OK) {
        buf__frame_free(pool, out->frame);
        goto out_absent;
    }
    out->page = page;
    counter_add(&pool->misses, 1);
    return true;

out_absent:
    load_failed(pool, page);
    return false;
}

static void
prefetch_end(struct buf_pool *pool, struct prefetch *p)
{
    ash_rc rc = io_wait(&p->req);
    if (rc == ASH_OK)
        rc = pstore_read_end(pool->pstore, p->page, p->page_class, frame_data(pool, p->frame),
                             p->entry);
    if (rc == ASH_OK) {
        load_done(pool, p->page, p->frame, BUF_STATE_FREE);
        return;
    }
    buf__frame_free(
        pool, p->frame); /* the failure shows again, with its sentence, when the page is used */
    load_failed(pool, p->page);
}

void
buf_prefetch(struct buf_pool *pool, const uint64_t *pages, unsigned count, enum io_class class)
{
    struct prefetch in_flight[PREFETCH_MAX];
    struct io_req *reqs[PREFETCH_MAX];

    buf__assert_none_held(pool);
    for (unsigned i = 0; i < count;) {
        unsigned n = 0;
        for (; i < count && n < PREFETCH_MAX; i++)
            if (prefetch_begin(pool, pages[i], class, &in_flight[n])) {
                reqs[n] = &in_flight[n].req;
                n++;
            }
        if (n == 0)
            continue;
        io_submit(reqs, n);
        for (unsigned k = 0; k < n; k++)
            prefetch_end(pool, &in_flight[k]);
    }
}

/* ---- Latched access ---- */

static ash_rc
latch(struct buf_pool *pool, uint64_t page, enum latch_mode mode, struct buf_page *out)
{
    uint64_t word;
    ash_rc rc = buf__check_id(pool, page);

    if (rc != ASH_OK)
        return rc;
    for (;;) {
        if (latch_wait(pool, page, mode, &word))
            break;
        if (!buf__claim_absent(pool, page))
            continue;
        rc = load(pool, page, IO_CLASS_READ, mode == MODE_X ? BUF_STATE_X : BUF_STATE_FREE + 1,
                  &word);
        if (rc != ASH_OK)
            return rc;
        break;
    }
    buf_page_set(&pool->fast, page, word, out);
    buf__held(pool, 1);
    return ASH_OK;
}

ash_rc
buf_latch_s(struct buf_pool *pool, uint64_t page, struct buf_page *out)
{
    return latch(pool, page, MODE_S, out);
}

ash_rc
buf_latch_x(struct buf_pool *pool, uint64_t page, struct buf_page *out)
{
    return latch(pool, page, MODE_X, out);
}

ash_rc
buf_try_latch_x(struct buf_pool *pool, uint64_t page, struct buf_page *out)
{
    uint64_t word;

    task_point();
    if (page == PAGE_ID_NONE || page >= pool->fast.page_max ||
        !latch_try(pool, page, MODE_X, &word))
        return ASH_WOULD_BLOCK;
    buf_page_set(&pool->fast, page, word, out);
    buf__held(pool, 1);
    return ASH_OK;
}

bool
buf__opt_latch(struct buf_pool *pool, struct buf_page *p, bool exclusive)
{
    _Atomic uint64_t *at = &pool->fast.words[p->page];

    task_point();
    uint64_t word = atomic_load_explicit(at, memory_order_acquire);
    for (;;) {
        uint64_t next = word_latched(word, exclusive ? MODE_X : MODE_S);
        if (next == 0 || ((word ^ p->word) & BUF_IDENTITY) != 0)
            return buf_opt_failed(pool);
        if (atomic_compare_exchange_weak_explicit(at, &word, next, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            if (exclusive)
                buf__latched_fence();
            p->word = next;
            buf__held(pool, 1);
            return true;
        }
    }
}

void
buf_unlatch_s(struct buf_pool *pool, struct buf_page *p)
{
    _Atomic uint64_t *at = &pool->fast.words[p->page];
    uint64_t word = atomic_fetch_sub_explicit(at, BUF_STATE_ONE, memory_order_release);

    ash_assert(word_state(word) > BUF_STATE_FREE);
    buf__held(pool, -1);
    if (ASH_UNLIKELY((word & BUF_WAITERS) != 0)) {
        /* Those who wait set the bit again when they still cannot have the latch. */
        atomic_fetch_and_explicit(at, ~BUF_WAITERS, memory_order_acq_rel);
        buf__wake(pool, p->page);
    }
    task_point();
}

void
buf_unlatch_x(struct buf_pool *pool, struct buf_page *p)
{
    uint64_t word = atomic_load_explicit(&pool->fast.words[p->page], memory_order_relaxed);

    ash_assert(word_state(word) == BUF_STATE_X);
    buf__held(pool, -1);
    word = (word & ~(BUF_WAITERS | 255ull << BUF_STATE_SHIFT)) | BUF_STATE_ONE * BUF_STATE_FREE;
    buf__publish(pool, p->page,
                 PLANTED(75) ? word : word_next_version(word)); /* 75: readers miss the change */
    task_point();
}
