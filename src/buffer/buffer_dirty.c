/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_dirty.c - which pages are dirty: their count, what the checkpoint asks about them, when
 * those who change pages must wait for the writers, and why the writers stopped.
 *
 * Why the checkpoint misses no change: buf_mark_dirty() comes before the append, and the collector
 * reads the end of the log before it scans.  If the scan did not see the mark, the append came
 * after the scan began, so the record starts at or above that end.  A rec_lsn moves from frame to
 * batch in that order of visibility (batch first), and the scan reads frames first; moves that go
 * the other way (restore) or to another frame hold move_lock (L2), as the scan does.
 */
#include "base/bits.h"
#include "buffer/buffer_int.h"

#include <inttypes.h>

/* ---- The count ---- */

void
buf__dirty_add(struct buf_pool *pool, uint32_t units)
{
    uint32_t before = atomic_fetch_add_explicit(&pool->dirty_units, units, memory_order_relaxed);
    if (before + units >= pool->dirty_soft &&
        (before < pool->dirty_soft || (before & 63u) < units) && pool->started)
        buf__poke(pool);
}

void
buf__dirty_sub(struct buf_pool *pool, uint32_t units)
{
    uint32_t before = atomic_fetch_sub_explicit(&pool->dirty_units, units, memory_order_acq_rel);
    ash_assert(before >= units);
    if (before >= pool->dirty_hard && before - units < pool->dirty_hard)
        task_wait_wake(&pool->clean_wait);
}

void
buf_mark_dirty(struct buf_pool *pool, struct buf_page *p, uint64_t lsn)
{
    ash_debug_assert(word_state(atomic_load(&pool->fast.words[p->page])) == BUF_STATE_X); /* R4 */
    ash_assert(lsn != 0);
    uint64_t none = 0;
    if (atomic_load_explicit(&pool->rec_lsn[p->frame], memory_order_relaxed) == 0 &&
        atomic_compare_exchange_strong(&pool->rec_lsn[p->frame], &none, lsn))
        buf__dirty_add(pool, class_units(pool->frames[p->frame].page_class));
}

/* ---- Errors ---- */

void
buf__fail(struct buf_pool *pool, ash_rc rc)
{
    struct err_detail detail;
    err_save(&detail);
    buf__lock(&pool->flight_lock);
    if (pool->error == ASH_OK) {
        pool->error = rc;
        pool->error_detail = detail;
    }
    buf__unlock(&pool->flight_lock);
    atomic_store(&pool->stuck, true);
    task_wait_wake(&pool->clean_wait);
    task_wait_wake(&pool->frame_wait);
}

ash_rc
buf__error(struct buf_pool *pool)
{
    struct err_detail detail;

    if (ASH_LIKELY(!atomic_load_explicit(&pool->stuck, memory_order_acquire)))
        return ASH_OK;
    buf__lock(&pool->flight_lock);
    ash_rc rc = pool->error;
    detail = pool->error_detail;
    buf__unlock(&pool->flight_lock);
    if (rc != ASH_OK)
        err_restore(&detail);
    return rc;
}

void
buf_mark_broken(struct buf_pool *pool, struct buf_page *p)
{
    atomic_fetch_or(&pool->frames[p->frame].flags, FRAME_BROKEN);
    buf__fail(pool,
              ash_raise(ASH_POISONED,
                        "Page %" PRIu64
                        " was changed but the change could not be logged; reopen the database.",
                        p->page));
}

/* ---- What the checkpoint asks ---- */

void
buf_dirty_pages(struct buf_pool *pool, void (*fn)(void *arg, uint64_t page, uint64_t rec_lsn),
                void *arg)
{
    buf__confirm(pool);
    task_mutex_lock(&pool->move_lock);
    for (uint32_t frame = 0; frame < pool->frame_count; frame++) {
        uint64_t rec = atomic_load(&pool->rec_lsn[frame]);
        uint64_t page = rec != 0 ? atomic_load(&pool->frames[frame].page) : 0;
        if (page != 0)
            fn(arg, page, rec);
    }
    for (uint32_t i = 0; i < pool->batch_count; i++) {
        struct batch *b = &pool->batches[i];
        buf__lock(&pool->flight_lock);
        for (uint32_t k = 0; k < b->count && b->state != BATCH_IDLE; k++)
            fn(arg, b->entry[k].page, b->entry[k].rec_lsn);
        buf__unlock(&pool->flight_lock);
    }
    task_mutex_unlock(&pool->move_lock);
}

/* The batch is not durable yet and holds this LSN back. */
static uint64_t
batch_oldest(const struct batch *b, uint64_t oldest)
{
    for (uint32_t i = 0; i < b->count; i++)
        oldest = min_u64(oldest, b->entry[i].rec_lsn);
    return oldest;
}

uint64_t
buf_oldest_dirty(struct buf_pool *pool)
{
    uint64_t oldest = UINT64_MAX;

    buf__confirm(pool);
    task_mutex_lock(&pool->move_lock);
    for (uint32_t frame = 0; frame < pool->frame_count; frame++) {
        uint64_t rec = atomic_load(&pool->rec_lsn[frame]);
        if (rec != 0)
            oldest = min_u64(oldest, rec);
    }
    buf__lock(&pool->flight_lock);
    for (uint32_t i = 0; i < pool->batch_count; i++)
        if (pool->batches[i].state != BATCH_IDLE)
            oldest = batch_oldest(&pool->batches[i], oldest);
    buf__unlock(&pool->flight_lock);
    task_mutex_unlock(&pool->move_lock);
    return oldest;
}

/* ---- Who must wait ---- */

void
buf__unhindered(struct buf_pool *pool)
{
    if (ASH_UNLIKELY(atomic_load_explicit(&pool->hindered, memory_order_relaxed) != ASH_OK) &&
        atomic_exchange(&pool->hindered, ASH_OK) != ASH_OK)
        task_wait_wake(&pool->clean_wait);
}

/* Must an operation still wait?  On a full disk for one attempt that began after it: space may have
 * come back since the last. */
static bool
must_wait(struct buf_pool *pool, uint32_t tries)
{
    uint32_t dirty = atomic_load(&pool->dirty_units);

    if (atomic_load(&pool->stuck))
        return false;
    if (atomic_load(&pool->hindered) != ASH_OK)
        return dirty >= pool->dirty_soft && atomic_load(&pool->hindered_tries) - tries < 2 &&
               !PLANTED(325);
    return dirty >= pool->dirty_hard;
}

ash_rc
buf_throttle(struct buf_pool *pool)
{
    struct task_waiter waiter;
    ash_rc rc = buf__error(pool);

    if (rc != ASH_OK || ASH_LIKELY(atomic_load_explicit(&pool->dirty_units, memory_order_relaxed) <
                                   pool->dirty_soft))
        return rc;
    if (atomic_load(&pool->dirty_units) < pool->dirty_hard &&
        atomic_load(&pool->hindered) == ASH_OK)
        return ASH_OK;
    buf__assert_none_held(pool);
    uint32_t tries = atomic_load(&pool->hindered_tries);
    buf__poke(pool);
    task_wait_begin(&pool->clean_wait, &waiter, 0);
    while (must_wait(pool, tries))
        task_park();
    task_wait_end(&pool->clean_wait, &waiter);
    rc = buf__error(pool);
    ash_rc hindered = (ash_rc)atomic_load(&pool->hindered);
    /* Half, not three quarters: a writer that tries has its batch out of the count. */
    if (rc == ASH_OK && hindered != ASH_OK && atomic_load(&pool->dirty_units) >= pool->dirty_soft)
        rc = ash_raise(hindered,
                       "Changed pages cannot be written for want of %s; free some and try again.",
                       hindered == ASH_NO_SPACE ? "room on the disk" : "memory");
    return rc;
}
