/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_write.c - dirty pages: keeping count of them, and page writers that bring them to new
 * places.
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
 *
 * Why the checkpoint misses no change: buf_mark_dirty() comes before the append, and the collector
 * reads the end of the log before it scans.  If the scan did not see the mark, the append came
 * after the scan began, so the record starts at or above that end.  A rec_lsn moves from frame to
 * batch in that order of visibility (batch first), and the scan reads frames first; moves that go
 * the other way (restore) or to another frame hold move_lock (L2), as the scan does.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "buffer/buffer_int.h"

#include <inttypes.h>
#include <string.h>

#define RETRY_NS      1000000ull  /* while pages that must be written are latched */
#define NO_SPACE_NS   50000000ull /* between attempts while the disk is full */
#define BATCHES_SPARE 4u

/* ---- Dirty pages ---- */

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
                        " was changed but the change could not be logged; reopen the database",
                        p->page));
}

/* ---- Batches ---- */

/* The batch is not durable yet and holds this LSN back. */
static uint64_t
batch_oldest(const struct batch *b, uint64_t oldest)
{
    for (uint32_t i = 0; i < b->count; i++)
        oldest = min_u64(oldest, b->entry[i].rec_lsn);
    return oldest;
}

/* Forgets batches whose MAP record is durable. */
static void
confirm(struct buf_pool *pool)
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
static ash_rc
confirm_now(struct buf_pool *pool)
{
    uint64_t lsn = atomic_load(&pool->map_lsn_last);
    ash_rc rc = lsn != 0 ? pool->log.flush_to(pool->log.ctx, lsn) : ASH_OK;
    if (rc == ASH_OK) {
        confirm(pool);
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
        confirm(pool);
        *out = batch_take(pool);
        if (*out != NULL)
            return ASH_OK;
        ash_rc rc = confirm_now(pool);
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

/* Pages that eviction wants clean. */
static void
collect_laundry(struct writer *w)
{
    struct buf_pool *pool = w->pool;

    for (uint8_t k = 0; k <= pool->class_max; k++) {
        buf__lock(&pool->alloc_lock);
        uint32_t tries = pool->lists[k].laundry.count;
        buf__unlock(&pool->alloc_lock);
        for (; tries > 0 && !batch_full(w); tries--) {
            buf__lock(&pool->alloc_lock);
            uint32_t frame = pool->lists[k].laundry.tail;
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
    confirm(pool);
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
    atomic_store(&pool->no_space, false);
    return ASH_OK;

out_restore:
    batch_restore(w);
    return rc;
}

/* Collects and writes one batch; *count_out: its pages. */
static ash_rc
round_once(struct writer *w, uint64_t target, bool laundry, uint32_t *count_out)
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

/* ---- Writer tasks ---- */

void
buf__poke(struct buf_pool *pool)
{
    atomic_fetch_add(&pool->pokes, 1);
    task_wait_wake(&pool->writer_wait);
}

static uint64_t
sweep_target(struct buf_pool *pool)
{
    if (atomic_load(&pool->dirty_units) >= pool->dirty_soft ||
        atomic_load(&pool->frame_waiters) > 0)
        return UINT64_MAX;
    uint64_t target = max_u64(atomic_load(&pool->pace), atomic_load(&pool->until));
    return target > atomic_load(&pool->swept) ? target : 0;
}

static void
writer_wait(struct buf_pool *pool, uint32_t seen, uint64_t ns)
{
    struct task_waiter waiter;
    uint64_t deadline = ns == TASK_FOREVER ? TASK_FOREVER : clock_ns() + ns;

    task_wait_begin(&pool->writer_wait, &waiter, 0);
    while (atomic_load(&pool->pokes) == seen && !atomic_load(&pool->stopping))
        if (!task_park_until(deadline))
            break;
    task_wait_end(&pool->writer_wait, &waiter);
}

static void
writer_no_space(struct buf_pool *pool)
{
    /* Old places of confirmed pages are room; a failure to get them shows at the next attempt. */
    ash_ignore(confirm_now(pool));
    atomic_store(&pool->no_space, true);
    task_wait_wake(&pool->clean_wait);
    task_sleep_ns(NO_SPACE_NS);
}

static void
writer_main(void *arg)
{
    struct writer *w = arg;
    struct buf_pool *pool = w->pool;

    while (!atomic_load(&pool->stopping)) {
        uint32_t seen = atomic_load(&pool->pokes), count = 0;
        uint64_t target = sweep_target(pool);
        bool laundry = atomic_load(&pool->laundry_count) > 0;
        ash_rc rc = target != 0 || laundry ? round_once(w, target, laundry, &count) : ASH_OK;
        if (rc == ASH_NO_SPACE) {
            writer_no_space(pool);
        } else if (rc != ASH_OK) {
            buf__fail(pool, rc);
            break;
        } else if (count == 0) {
            atomic_store(&pool->no_space, false);
            /* Pressure and nothing that could be latched: look again soon. */
            bool pressed = target != 0 && atomic_load(&pool->dirty_units) > 0;
            writer_wait(pool, seen, pressed ? RETRY_NS : TASK_FOREVER);
        }
    }
}

static void
writer_deinit(struct writer *w)
{
    if (w->images != NULL) {
        io_unregister_buffer(w->pool->io, w->images);
        mem_unmap(MEM_BUFFER, w->images, w->pool->batch_bytes);
    }
    mem_free(MEM_BUFFER, w->writes);
    w->images = NULL;
    w->writes = NULL;
}

static ash_rc
writer_init(struct buf_pool *pool, struct writer *w)
{
    w->pool = pool;
    w->writes = mem_alloc(MEM_BUFFER, pool->batch_pages * sizeof(*w->writes));
    w->images =
        mem_map(MEM_BUFFER, pool->batch_bytes, /* huge= */ pool->batch_bytes >= BATCH_BYTES_MAX);
    if (w->writes == NULL || w->images == NULL)
        return ASH_NO_MEMORY;
    io_register_buffer(pool->io, w->images, pool->batch_bytes);
    return ASH_OK;
}

ash_rc
buf__writers_init(struct buf_pool *pool)
{
    unsigned n = pool->options.writers;
    ash_rc rc = ASH_NO_MEMORY;

    pool->batch_count = n + 1 + BATCHES_SPARE;
    pool->batches = mem_zalloc(MEM_BUFFER, pool->batch_count * sizeof(*pool->batches));
    pool->writers = mem_zalloc(MEM_BUFFER, (n + 1) * sizeof(*pool->writers));
    struct batch_entry *entries =
        mem_alloc(MEM_BUFFER, (size_t)pool->batch_count * pool->batch_pages * sizeof(*entries));
    if (pool->batches == NULL || pool->writers == NULL || entries == NULL) {
        mem_free(MEM_BUFFER, entries);
        return rc;
    }
    for (uint32_t i = 0; i < pool->batch_count; i++)
        pool->batches[i].entry = entries + (size_t)i * pool->batch_pages;
    rc = writer_init(pool, &pool->guest);
    for (unsigned i = 0; i < n && rc == ASH_OK; i++) {
        rc = writer_init(pool, &pool->writers[i]);
        pool->writers[i].cursor = (uint32_t)((uint64_t)pool->frame_count * i / n);
    }
    return rc;
}

void
buf__writers_deinit(struct buf_pool *pool)
{
    writer_deinit(&pool->guest);
    for (unsigned i = 0; i < pool->options.writers && pool->writers != NULL; i++)
        writer_deinit(&pool->writers[i]);
    if (pool->batches != NULL)
        mem_free(MEM_BUFFER, pool->batches[0].entry);
    mem_free(MEM_BUFFER, pool->batches);
    mem_free(MEM_BUFFER, pool->writers);
}

ash_rc
buf__writers_start(struct buf_pool *pool)
{
    for (unsigned i = 0; i < pool->options.writers; i++) {
        ash_rc rc = task_spawn(pool->options.rt, "page-writer", writer_main, &pool->writers[i],
                               &pool->writers[i].task);
        if (rc != ASH_OK)
            return rc;
    }
    if (atomic_load(&pool->dirty_units) >= pool->dirty_soft)
        buf__poke(pool);
    return ASH_OK;
}

void
buf_stop(struct buf_pool *pool)
{
    if (pool->writers == NULL)
        return; /* read-only */
    atomic_store(&pool->stopping, true);
    buf__poke(pool);
    for (unsigned i = 0; i < pool->options.writers && pool->writers != NULL; i++)
        if (pool->writers[i].task != NULL) {
            task_join(pool->writers[i].task);
            pool->writers[i].task = NULL;
        }
    /* Recovery starts and stops the pool with log ops of its own before the real ones come: nothing
     * of them may stay. */
    confirm(pool);
    pool->started = false;
    atomic_store(&pool->map_lsn_last, 0);
    atomic_store(&pool->pace, 0);
    atomic_store(&pool->until, 0);
    atomic_store(&pool->swept, 0);
    atomic_store(&pool->stopping, false);
}

/* ---- What the checkpoint asks ---- */

void
buf_dirty_pages(struct buf_pool *pool, void (*fn)(void *arg, uint64_t page, uint64_t rec_lsn),
                void *arg)
{
    confirm(pool);
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

uint64_t
buf_oldest_dirty(struct buf_pool *pool)
{
    uint64_t oldest = UINT64_MAX;

    confirm(pool);
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

static void
target_raise(_Atomic uint64_t *target, uint64_t lsn)
{
    uint64_t now = atomic_load(target);
    while (now < lsn && !atomic_compare_exchange_weak(target, &now, lsn))
        ;
}

void
buf_pace(struct buf_pool *pool, uint64_t target_lsn)
{
    target_raise(&pool->pace, target_lsn);
    buf__poke(pool);
}

ash_rc
buf_write_until(struct buf_pool *pool, uint64_t lsn)
{
    ash_rc rc = ASH_OK;

    if (!pool->started)
        return buf_oldest_dirty(pool) >= lsn
                   ? ASH_OK
                   : ash_raise(ASH_MISUSE, "Pages cannot be written before recovery has ended");
    buf__assert_none_held(pool);
    target_raise(&pool->until, lsn);
    buf__poke(pool); /* the writers help */
    task_mutex_lock(&pool->guest_lock);
    for (;;) {
        uint32_t count = 0;
        rc = round_once(&pool->guest, lsn, /* laundry= */ false, &count);
        if (rc == ASH_NO_SPACE && confirm_now(pool) == ASH_OK)
            rc = round_once(&pool->guest, lsn, /* laundry= */ false, &count);
        if (rc != ASH_OK)
            break;
        if (count > 0)
            continue;
        rc = confirm_now(pool);
        if (rc != ASH_OK || buf_oldest_dirty(pool) >= lsn)
            break;
        task_sleep_ns(RETRY_NS / 4); /* the rest is latched, or with a writer */
    }
    task_mutex_unlock(&pool->guest_lock);
    uint64_t target =
        lsn; /* or the writers would go on for ever after buf_write_until(UINT64_MAX) */
    atomic_compare_exchange_strong(&pool->until, &target, 0);
    if (rc != ASH_OK && rc != ASH_NO_SPACE)
        buf__fail(pool, rc);
    return rc;
}

ash_rc
buf_throttle(struct buf_pool *pool)
{
    struct task_waiter waiter;
    ash_rc rc = buf__error(pool);

    if (rc != ASH_OK || ASH_LIKELY(atomic_load_explicit(&pool->dirty_units, memory_order_relaxed) <
                                   pool->dirty_soft))
        return rc;
    if (atomic_load(&pool->dirty_units) < pool->dirty_hard && !atomic_load(&pool->no_space))
        return ASH_OK;
    buf__assert_none_held(pool);
    buf__poke(pool);
    task_wait_begin(&pool->clean_wait, &waiter, 0);
    while (atomic_load(&pool->dirty_units) >= pool->dirty_hard && !atomic_load(&pool->no_space) &&
           !atomic_load(&pool->stuck))
        task_park();
    task_wait_end(&pool->clean_wait, &waiter);
    rc = buf__error(pool);
    /* Half, not three quarters: a writer that tries has its batch out of the count. */
    if (rc == ASH_OK && atomic_load(&pool->no_space) &&
        atomic_load(&pool->dirty_units) >= pool->dirty_soft)
        rc = ash_raise(
            ASH_NO_SPACE,
            "Changed pages cannot be written for want of room on the disk; free some and try again");
    return rc;
}
