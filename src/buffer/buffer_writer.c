/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_writer.c - the page writer tasks, and buf_write_until(), which does their work itself: what
 * to write next, and when.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "buffer/buffer_int.h"

#define RETRY_NS      1000000ull  /* while pages that must be written are latched */
#define HINDERED_NS   50000000ull /* between attempts while disk or memory is full */
#define BATCHES_SPARE 4u

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

/* A failure that may be over at the next attempt: nothing was lost, nothing needs to stop. */
static bool
passes(ash_rc rc)
{
    return rc == ASH_NO_SPACE || (rc == ASH_NO_MEMORY && !PLANTED(347));
}

static void
writer_hindered(struct buf_pool *pool, ash_rc why)
{
    /* Old places of confirmed pages are room; a failure to get them shows at the next attempt. */
    ash_ignore(buf__confirm_now(pool));
    atomic_store(&pool->hindered, (int)why);
    atomic_fetch_add(&pool->hindered_tries, 1);
    task_wait_wake(&pool->clean_wait);
    task_sleep_ns(HINDERED_NS);
}

static void
writer_main(void *arg)
{
    struct writer *w = arg;
    struct buf_pool *pool = w->pool;

    while (!atomic_load(&pool->stopping)) {
        uint32_t seen = atomic_load(&pool->pokes), count = 0;
        buf__budget(pool);
        uint64_t target = sweep_target(pool);
        bool laundry = atomic_load(&pool->laundry_count) > 0;
        ash_rc rc = target != 0 || laundry ? buf__write_round(w, target, laundry, &count) : ASH_OK;
        if (passes(rc)) {
            writer_hindered(pool, rc);
        } else if (rc != ASH_OK) {
            buf__fail(pool, rc);
            break;
        } else if (count == 0) {
            buf__unhindered(pool);
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
    buf__confirm(pool);
    pool->started = false;
    atomic_store(&pool->map_lsn_last, 0);
    atomic_store(&pool->pace, 0);
    atomic_store(&pool->until, 0);
    atomic_store(&pool->swept, 0);
    atomic_store(&pool->stopping, false);
}

/* ---- On behalf of others ---- */

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
                   : ash_raise(ASH_MISUSE, "Pages cannot be written before recovery has ended.");
    buf__assert_none_held(pool);
    target_raise(&pool->until, lsn);
    buf__poke(pool); /* the writers help */
    task_mutex_lock(&pool->guest_lock);
    for (;;) {
        uint32_t count = 0;
        rc = buf__write_round(&pool->guest, lsn, /* laundry= */ false, &count);
        if (rc == ASH_NO_SPACE && buf__confirm_now(pool) == ASH_OK)
            rc = buf__write_round(&pool->guest, lsn, /* laundry= */ false, &count);
        if (rc != ASH_OK)
            break;
        if (count > 0)
            continue;
        rc = buf__confirm_now(pool);
        if (rc != ASH_OK || buf_oldest_dirty(pool) >= lsn)
            break;
        task_sleep_ns(RETRY_NS / 4); /* the rest is latched, or with a writer */
    }
    task_mutex_unlock(&pool->guest_lock);
    uint64_t target =
        lsn; /* or the writers would go on for ever after buf_write_until(UINT64_MAX) */
    atomic_compare_exchange_strong(&pool->until, &target, 0);
    if (rc != ASH_OK && !passes(rc))
        buf__fail(pool, rc);
    return rc;
}
