/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_inline.h - the hot paths of buffer.h: translation, optimistic reads, their upgrade.
 * Included by buffer.h.
 *
 * Why optimistic reading is right (R1): the word is loaded with acquire, so what the last exclusive
 * holder wrote before its release is seen; after the reading, an acquire fence and a second load of
 * the word: had any of the bytes read been written by a later exclusive holder, that holder's
 * change of the word (state 1, then a higher version) would be seen by the second load.  For that
 * the holder fences too, between taking the latch and its first write (buf__latched_fence): an
 * acquiring compare-and-swap alone lets AArch64 show the bytes before the word.  A frame that
 * becomes another page's needs none: it went through alloc_lock after the word had changed.
 * The bytes themselves are read while they may change: callers mark those functions ASH_NO_TSAN
 * and clamp every offset until the validation.
 */
#ifndef ASH_BUFFER_INLINE_H
#define ASH_BUFFER_INLINE_H

#include "base/assert.h"
#include "buffer/buffer.h"
#include "task/task.h"

#include <stdatomic.h>

#define BUF_STATE_SHIFT   56
#define BUF_STATE_ONE     (1ull << BUF_STATE_SHIFT)
#define BUF_STATE_ABSENT  0u /* not resident */
#define BUF_STATE_X       1u /* exclusive, or being loaded */
#define BUF_STATE_FREE    2u /* resident, unlatched; FREE + n: n shared holders */
#define BUF_STATE_S_MAX   254u
#define BUF_READABLE      (2ull << BUF_STATE_SHIFT) /* a word >= this: resident and not exclusive */
#define BUF_HEAT_SHIFT    54
#define BUF_HEAT_ONE      (1ull << BUF_HEAT_SHIFT)
#define BUF_HEAT_MASK     (3ull << BUF_HEAT_SHIFT)
#define BUF_WAITERS       (1ull << 53)
#define BUF_VERSION_SHIFT 27
#define BUF_VERSION_ONE   (1ull << BUF_VERSION_SHIFT)
#define BUF_VERSION_MASK  (((1ull << 26) - 1) << BUF_VERSION_SHIFT)
#define BUF_FRAME_MASK    ((1ull << 27) - 1)
#define BUF_IDENTITY      (BUF_VERSION_MASK | BUF_FRAME_MASK) /* what an optimistic reader compares */
/* Above heat 1 only one hit in this many counts, so that hot pages are not written to by their
 * readers. */
#define BUF_HEAT_SAMPLE   16u

/* The first part of struct buf_pool: constant after buf_create(). */
struct buf_fast {
    _Atomic uint64_t *words; /* by page id */
    uint64_t page_max;       /* ids are below */
    uint8_t *arena;
    const _Atomic uint8_t
        *chunk_class; /* by chunk; always a valid class, maybe a stale one while the chunk moves */
    uint32_t chunk_shift; /* frame number >> this = chunk */
};

static inline const struct buf_fast *
buf_fast(const struct buf_pool *pool)
{
    return (const struct buf_fast *)(const void *)pool;
}

extern _Thread_local uint32_t buf_heat_tick;
bool buf_opt_failed(struct buf_pool *pool); /* counts; returns false */

/* The fence before the second load; TSan knows no fences (and the readers are annotated). */
static inline void
buf_opt_fence(void)
{
#ifndef __SANITIZE_THREAD__
    atomic_thread_fence(memory_order_acquire);
#endif
}

/* Behind taking a latch exclusively, before anything is written: the other half of
 * buf_opt_fence().  Costs nothing on x86. */
static inline void
buf__latched_fence(void)
{
#ifndef __SANITIZE_THREAD__
    atomic_thread_fence(memory_order_release);
#endif
}

static inline uint64_t
buf_word_hotter(uint64_t word)
{
    uint64_t heat = word & BUF_HEAT_MASK;
    if (heat == 0 || (heat != BUF_HEAT_MASK && ++buf_heat_tick % BUF_HEAT_SAMPLE == 0))
        word += BUF_HEAT_ONE;
    return word;
}

static inline void
buf_page_set(const struct buf_fast *f, uint64_t page, uint64_t word, struct buf_page *out)
{
    uint32_t frame = (uint32_t)(word & BUF_FRAME_MASK);
    uint8_t class =
        atomic_load_explicit(&f->chunk_class[frame >> f->chunk_shift], memory_order_relaxed);
    out->page = page;
    out->word = word;
    out->frame = frame;
    out->data = f->arena + ((uint64_t)frame << 12);
    out->size = PAGE_CLASS_SIZE(class);
}

ASH_MUST_CHECK static inline ash_rc
buf_opt_begin(struct buf_pool *pool, uint64_t page, struct buf_page *out)
{
    const struct buf_fast *f = buf_fast(pool);
    if (ASH_UNLIKELY(page >= f->page_max))
        return ASH_WOULD_BLOCK; /* buf_fault() says what is wrong */
    uint64_t word = atomic_load_explicit(&f->words[page], memory_order_acquire);
    if (ASH_UNLIKELY(word < BUF_READABLE))
        return ASH_WOULD_BLOCK;
    if (ASH_UNLIKELY((word & BUF_HEAT_MASK) != BUF_HEAT_MASK)) {
        uint64_t hotter = buf_word_hotter(word);
        uint64_t expected = word;
        if (hotter != word) /* may fail: only a hint is lost */
            atomic_compare_exchange_weak_explicit(&f->words[page], &expected, hotter,
                                                  memory_order_relaxed, memory_order_relaxed);
    }
    buf_page_set(f, page, word, out);
    return ASH_OK;
}

/* Where a page is, if it is resident: for hints to the processor only, as nothing keeps it there.
 * Does not make it hotter. */
static inline bool
buf_opt_peek(struct buf_pool *pool, uint64_t page, struct buf_page *out)
{
    const struct buf_fast *f = buf_fast(pool);
    if (page >= f->page_max)
        return false;
    uint64_t word = atomic_load_explicit(&f->words[page], memory_order_relaxed);
    if (word < BUF_READABLE)
        return false;
    buf_page_set(f, page, word, out);
    return true;
}

/* Has the page's word come into the processor's cache. */
static inline void
buf_opt_prefetch(struct buf_pool *pool, uint64_t page)
{
    const struct buf_fast *f = buf_fast(pool);
    if (page < f->page_max)
        __builtin_prefetch((const void *)&f->words[page]);
}

/* Was buf_opt_begin() refused because of a latch, as opposed to a page that is absent or on its way
 * (which is latched, too, but has no frame; so the page in frame 0 is never said to be)?  A hint. */
static inline bool
buf_opt_latched(struct buf_pool *pool, uint64_t page)
{
    const struct buf_fast *f = buf_fast(pool);
    if (page >= f->page_max)
        return false;
    uint64_t word = atomic_load_explicit(&f->words[page], memory_order_relaxed);
    return word >> BUF_STATE_SHIFT == BUF_STATE_X && (word & BUF_FRAME_MASK) != 0;
}

static inline bool
buf_opt_valid(struct buf_pool *pool, const struct buf_page *p)
{
    task_point();
    buf_opt_fence();
    uint64_t word = atomic_load_explicit(&buf_fast(pool)->words[p->page],
#ifdef __SANITIZE_THREAD__
                                         memory_order_acquire
#else
                                         memory_order_relaxed
#endif
    );
    if (PLANTED(70)) /* an exclusive holder is not noticed */
        word = word < BUF_READABLE ? word | BUF_READABLE : word;
    if (ASH_LIKELY(word >= BUF_READABLE && ((word ^ p->word) & BUF_IDENTITY) == 0))
        return true;
    return buf_opt_failed(pool);
}

bool buf__opt_latch(struct buf_pool *pool, struct buf_page *p, bool exclusive);

static inline bool
buf_opt_to_x(struct buf_pool *pool, struct buf_page *p)
{
    return buf__opt_latch(pool, p, /* exclusive= */ true);
}

static inline bool
buf_opt_to_s(struct buf_pool *pool, struct buf_page *p)
{
    return buf__opt_latch(pool, p, /* exclusive= */ false);
}

#endif
