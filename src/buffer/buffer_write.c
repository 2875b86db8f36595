/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_write.c - one batch of dirty pages on its way to new places.
 *
 * One batch:
 *   1. collect   laundry first (frames are short), then a sweep over rec_lsn[] for pages with
 *                changes below the target.  Each page is latched shared (tried, never waited for),
 *                its image copied, its rec_lsn moved into the batch, its frame marked WRITING.
 *   2. log       flush_to(highest page LSN, and the previous batch's MAP record, which thereby costs
 *                no log write of its own).
 *   3. write     pstore_write(): images to new places, durable.
 *   4. install   under the map lock: append_map(), pstore_install() for each, WRITING cleared.  Pages
 *                freed meanwhile are left out.  From here a page may be evicted: the map leads to its
 *                new place.
 *   5. confirm   when the MAP record is durable: the batch is forgotten, old places are released.
 *                Until then a crash would lead to the old place, so the batch still answers
 *                buf_oldest_dirty() with the rec_lsn of its images.
 * When 2 to 4 fail, rec_lsn goes back into the frames; nothing is lost.
 */
#include "base/bits.h"
#include "buffer/buffer_int.h"

#include <string.h>

/* ---- Batches ---- */

/* Forgets batches whose MAP record is durable. */
void
buf__confirm(struct buf_pool *pool)
{
    bool any = false;

    if (!pool->started)
        return;
    uint64_t durable = pool->log.durable(pool->log.ctx);
    buf__lock(&pool->flight_lock);
    for (uint32_t i = 0; i < pool->batch_count; i++) {
        struct batch *b = &pool->batches[i];
        if (b->state == BATCH_INSTALLED &&
            (b->map_lsn <= durable || PLANTED(76))) { /* 76: confirmed too early */
            b->state = BATCH_IDLE;
            b->count = 0;
            any = true;
        }
    }
    buf__unlock(&pool->flight_lock);
    if (any)
        pstore_release(pool->pstore, PLANTED(76) ? UINT64_MAX : durable);
}

static struct batch *
batch_take(struct buf_pool *pool)
{
    struct batch *b = NULL;
    buf__lock(&pool->flight_lock);
    for (uint32_t i = 0; i < pool->batch_count && b == NULL; i++)
        if (pool->batches[i].state == BATCH_IDLE) {
            b = &pool->batches[i];
            b->state = BATCH_FILLING;
            b->count = 0;
        }
    buf__unlock(&pool->flight_lock);
    return b;
}

static void
batch_drop(struct buf_pool *pool, struct batch *b)
{
    buf__lock(&pool->flight_lock);
    b->state = BATCH_IDLE;
    b->count = 0;
    buf__unlock(&pool->flight_lock);
}

/* Makes the MAP records so far durable, at the price of a log write. */
ash_rc
buf__confirm_now(struct buf_pool *pool)
{
    uint64_t lsn = atomic_load(&pool->map_lsn_last);
    ash_rc rc = lsn != 0 ? pool->log.flush_to(pool->log.ctx, lsn) : ASH_OK;
    if (rc == ASH_OK) {
        buf__confirm(pool);
        pstore_release(pool->pstore,
                       pool->log.durable(pool->log.ctx)); /* also places of freed pages */
    }
    return rc;
}

/* An idle batch; confirms others when there is none. */
static ash_rc
batch_get(struct buf_pool *pool, struct batch **out)
{
    for (;;) {
        buf__confirm(pool);
        *out = batch_take(pool);
        if (*out != NULL)
            return ASH_OK;
        ash_rc rc = buf__confirm_now(pool);
        if (rc != ASH_OK)
            return rc;
        task_yield();
    }
}

void
buf__flight_freed(struct buf_pool *pool, uint64_t page)
{
    buf__lock(&pool->flight_lock);
    for (uint32_t i = 0; i < pool->batch_count; i++) {
        struct batch *b = &pool->batches[i];
        for (uint32_t k = 0; k < b->count && b->state == BATCH_FILLING; k++)
            if (b->entry[k].page == page)
                b->entry[k].freed = true;
    }
    buf__unlock(&pool->flight_lock);
}

/* ---- Collecting ---- */

/* Copies a frame's page into the batch if it can be latched and has changes below `target`. */
static bool
collect_frame(struct writer *w, uint32_t frame, uint64_t target, bool held)
{
    struct buf_pool *pool = w->pool;
    struct buf_frame *f = &pool->frames[frame];
    uint64_t page = atomic_load_explicit(&f->page, memory_order_acquire);
    struct buf_page p;
    bool ok = false;

    if (page == 0)
        return false;
    uint64_t word = atomic_load_explicit(&pool->fast.words[page], memory_order_acquire);
    if (word < BUF_READABLE || (word & BUF_FRAME_MASK) != frame)
        return false;
    buf_page_set(&pool->fast, page, word,
                 &p); /* not buf_opt_begin(): writing a page does not make it hot */
    if (!buf__opt_latch(pool, &p, /* exclusive= */ false))
        return false;
    uint32_t size = PAGE_CLASS_SIZE(f->page_class);
    uint64_t rec = atomic_load(&pool->rec_lsn[frame]);
    if (rec == 0 || rec >= target || w->used + size > pool->batch_bytes)
        goto out_unlatch;
    if (atomic_fetch_or(&f->flags, FRAME_WRITING) !=
        0) /* another writer has it, or it is broken and stays */
        goto out_unlatch;
    rec = atomic_load(&pool->rec_lsn[frame]);
    if (rec == 0) { /* another writer had it, and has finished */
        atomic_fetch_and(&f->flags, (uint8_t)~FRAME_WRITING);
        goto out_unlatch;
    }

    struct batch *b = w->batch;
    uint8_t *image = w->images + w->used;
    memcpy(image, p.data, size);
    buf__lock(&pool->flight_lock);
    b->entry[b->count] =
        (struct batch_entry){ .page = page, .rec_lsn = rec, .frame = frame, .held = held };
    w->writes[b->count] =
        (struct pstore_write){ .page = page, .page_class = f->page_class, .image = image };
    b->count++;
    buf__unlock(&pool->flight_lock);
    atomic_store(&pool->rec_lsn[frame], 0);
    buf__dirty_sub(pool, class_units(f->page_class));
    w->used += size;
    w->lsn_max = max_u64(w->lsn_max, ((const struct page_head *)(const void *)image)->lsn);
    ok = true;
out_unlatch:
    buf_unlatch_s(pool, &p);
    return ok;
}

static bool
batch_full(const struct writer *w)
{
    return w->batch->count >= w->pool->batch_pages || w->used + FRAME_UNIT > w->pool->batch_bytes;
}

/* Pages of one class that eviction wants clean. */
static void
collect_laundry_class(struct writer *w, uint8_t page_class)
{
    struct buf_pool *pool = w->pool;
    struct frame_list *l = &pool->lists[page_class].laundry;

    buf__lock(&pool->alloc_lock);
    uint32_t tries = l->count;
    buf__unlock(&pool->alloc_lock);
    for (; tries > 0 && !batch_full(w); tries--) {
        buf__lock(&pool->alloc_lock);
        uint32_t frame = l->tail;
        if (frame != FRAME_NONE)
            buf__list_remove(pool, frame);
        buf__unlock(&pool->alloc_lock);
        if (frame == FRAME_NONE)
            break;
        if (collect_frame(w, frame, UINT64_MAX, /* held= */ true))
            continue;
        buf__lock(&pool->alloc_lock);
        buf__queue_back_locked(pool, frame, /* cold= */ true);
        buf__unlock(&pool->alloc_lock);
    }
}

/* Each batch begins with another class, so that small pages, of which there are always more, leave
 * the large ones room: the largest needs a batch of its own. */
static void
collect_laundry(struct writer *w)
{
    unsigned classes = w->pool->class_max + 1u;

    for (unsigned i = 0; i < classes; i++)
        collect_laundry_class(w, (uint8_t)((w->laundry_first + i) % classes));
    if (!PLANTED(349))
        w->laundry_first = (uint8_t)((w->laundry_first + 1u) % classes);
}

/* Goes once around all frames at most, from where it stopped last.  When it comes round without
 * leaving anything behind, nobody needs to look for that target again: a page marked later has a
 * later LSN, or (a mark that was just being made) is found with the next target. */
static void
collect_sweep(struct writer *w, uint64_t target)
{
    struct buf_pool *pool = w->pool;
    bool left = false;

    for (uint32_t i = 0; i < pool->frame_count && !batch_full(w); i++) {
        uint32_t frame = w->cursor;
        w->cursor = frame + 1 < pool->frame_count ? frame + 1 : 0;
        uint64_t rec = atomic_load_explicit(&pool->rec_lsn[frame], memory_order_relaxed);
        if (rec != 0 && rec < target && !collect_frame(w, frame, target, /* held= */ false))
            left = true;
    }
    if (!left && !batch_full(w) && target != UINT64_MAX)
        atomic_store(&pool->swept, target);
}

/* ---- Writing a batch ---- */

/* Laundry frames go back to a queue; frames that eviction put there meanwhile and that are clean
 * now leave it. */
static void
frames_back(struct buf_pool *pool, const struct batch *b)
{
    buf__lock(&pool->alloc_lock);
    for (uint32_t i = 0; i < b->count; i++) {
        const struct batch_entry *e = &b->entry[i];
        struct buf_frame *f = &pool->frames[e->frame];
        if (e->held) {
            buf__queue_back_locked(pool, e->frame, /* cold= */ true);
        } else if (!e->freed && f->where == FRAME_LAUNDRY && atomic_load(&f->page) == e->page) {
            buf__list_remove(pool, e->frame);
            buf__queue_back_locked(pool, e->frame, /* cold= */ true);
        }
    }
    buf__unlock(&pool->alloc_lock);
    buf__frames_wake(pool);
}

/* Takes the batch back: its pages are dirty as before. */
static void
batch_restore(struct writer *w)
{
    struct buf_pool *pool = w->pool;
    struct batch *b = w->batch;

    if (PLANTED(78)) { /* what could not be written is forgotten */
        frames_back(pool, b);
        batch_drop(pool, b);
        w->batch = NULL;
        return;
    }
    pstore_map_lock(pool->pstore);
    task_mutex_lock(&pool->move_lock);
    atomic_store(&pool->swept, 0);
    for (uint32_t i = 0; i < b->count; i++) {
        const struct batch_entry *e = &b->entry[i];
        struct buf_frame *f = &pool->frames[e->frame];
        uint64_t rec = atomic_load(&pool->rec_lsn[e->frame]);
        if (e->freed)
            continue;
        while (rec == 0 || rec > e->rec_lsn)
            if (atomic_compare_exchange_weak(&pool->rec_lsn[e->frame], &rec, e->rec_lsn)) {
                if (rec == 0)
                    buf__dirty_add(pool, class_units(f->page_class));
                break;
            }
        atomic_fetch_and(&f->flags, (uint8_t)~FRAME_WRITING);
    }
    task_mutex_unlock(&pool->move_lock);
    pstore_map_unlock(pool->pstore);
    frames_back(pool, b);
    batch_drop(pool, b);
    w->batch = NULL;
}

/* Step 4.  Under the map lock. */
static ash_rc
install_locked(struct writer *w, uint64_t *end_out)
{
    struct buf_pool *pool = w->pool;
    struct batch *b = w->batch;
    struct pstore_write *live = w->writes;
    unsigned n = 0;

    for (uint32_t i = 0; i < b->count; i++) {
        struct pstore_write one = w->writes[i];
        if (b->entry[i].freed && !PLANTED(77)) /* 77: a MAP record for a freed page */
            pstore_write_cancel(pool->pstore, &one, 1);
        else
            live[n++] = one;
    }
    *end_out = 0;
    if (n == 0)
        return ASH_OK;
    ash_rc rc = pool->log.append_map(pool->log.ctx, live, n, end_out);
    if (rc != ASH_OK) {
        pstore_write_cancel(pool->pstore, live, n);
        return rc;
    }
    for (unsigned i = 0; i < n; i++)
        pstore_install(pool->pstore, live[i].page, live[i].entry, *end_out);
    counter_add(&pool->page_writes, n);
    for (uint32_t i = 0; i < b->count; i++)
        if (!b->entry[i].freed)
            atomic_fetch_and(&pool->frames[b->entry[i].frame].flags, (uint8_t)~FRAME_WRITING);
    return ASH_OK;
}

static void
map_lsn_note(struct buf_pool *pool, uint64_t lsn)
{
    uint64_t last = atomic_load(&pool->map_lsn_last);
    while (last < lsn && !atomic_compare_exchange_weak(&pool->map_lsn_last, &last, lsn))
        ;
}

/* Steps 2 to 4 for a collected batch.  On failure the batch has been restored. */
static ash_rc
batch_write(struct writer *w)
{
    struct buf_pool *pool = w->pool;
    struct batch *b = w->batch;
    uint64_t end = 0;

    ash_rc rc =
        pool->log.flush_to(pool->log.ctx, max_u64(w->lsn_max, atomic_load(&pool->map_lsn_last)));
    if (rc != ASH_OK)
        goto out_restore;
    buf__confirm(pool);
    uint64_t durable = pool->log.durable(pool->log.ctx);
    ash_assert(w->lsn_max <= durable); /* R5 */
    rc = pstore_write(pool->pstore, w->writes, b->count, durable, IO_CLASS_PAGE_WRITER);
    if (rc != ASH_OK)
        goto out_restore;
    pstore_map_lock(pool->pstore);
    rc = install_locked(w, &end);
    pstore_map_unlock(pool->pstore);
    if (rc != ASH_OK)
        goto out_restore;
    map_lsn_note(pool, end);
    frames_back(pool, b);
    buf__lock(&pool->flight_lock);
    b->map_lsn = end;
    b->state = BATCH_INSTALLED;
    buf__unlock(&pool->flight_lock);
    w->batch = NULL;
    buf__unhindered(pool);
    return ASH_OK;

out_restore:
    batch_restore(w);
    return rc;
}

/* Collects and writes one batch; *count_out: its pages. */
ash_rc
buf__write_round(struct writer *w, uint64_t target, bool laundry, uint32_t *count_out)
{
    struct buf_pool *pool = w->pool;

    *count_out = 0;
    ash_rc rc = buf__error(pool);
    if (rc == ASH_OK)
        rc = batch_get(pool, &w->batch);
    if (rc != ASH_OK)
        return rc;
    w->used = 0;
    w->lsn_max = 0;
    if (laundry)
        collect_laundry(w);
    if (target != 0)
        collect_sweep(w, target);
    *count_out = w->batch->count;
    if (*count_out == 0) {
        batch_drop(pool, w->batch);
        w->batch = NULL;
        return ASH_OK;
    }
    return batch_write(w);
}
