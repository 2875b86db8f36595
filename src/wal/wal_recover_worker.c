/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_recover_worker.c - the crew of redo: tasks that apply changes, each to the pages that hash to
 * it.
 *
 * Entry points: recover__crew_start(), _room(), _end().     Read first: wal_recover_redo.c.
 *
 * The reader of the log copies each page's part of a record as an item into the batch that its worker
 * gets next.  A worker has BATCHES of them: the reader fills one while the others wait or are being
 * applied, and waits when all are taken, so memory is bounded.  A worker looks at a stretch of items
 * first and loads their pages together; with some workers doing that at once the device always has
 * reads to do while other workers apply.
 *
 *      reader:  filled++ when a batch is full           worker: done++ when it is applied
 *      batches [done, filled) are the worker's, filled % BATCHES is the reader's
 *
 * A worker's task is made with its first full batch; what is left in the end in batches of workers
 * without a task the reader applies itself.  So a short redo costs no thread.
 *
 * After a failure of any worker nobody applies anything more; the failure at the lowest LSN is what
 * recovery reports.
 */
#include "base/mem.h"
#include "base/random.h"
#include "task/task.h"
#include "wal/wal_recover_int.h"

#define BATCHES     4u
#define BATCH_BYTES (64u << 10)
#define STRETCH     32u /* pages that a worker loads together */

/* In simulation small enough that crews are used by the logs of tests. */
#define BATCH_BYTES_SIM 2048u
#define WORKERS_SIM     3u

struct redo_batch {
    uint8_t *bytes; /* items, one after the other */
    uint32_t used, capacity;
};

struct redo_worker {
    struct redo_crew *crew;
    struct task *task; /* NULL until there is a batch for it */
    struct task_mutex mutex;
    struct task_cond changed;
    struct redo_batch batch[BATCHES];
    uint64_t filled, done; /* mutex */
    bool no_more;          /* mutex */
    uint64_t changes;      /* the rest is the worker's until it has ended */
    ash_rc rc;
    uint64_t failed_at;
    struct err_detail why;
};

struct redo_crew {
    const struct recovery *r;
    struct task_runtime *rt;
    uint32_t batch_bytes;
    unsigned count;
    _Atomic bool failed;
    struct redo_worker worker[];
};

/* ---- Applying ---- */

static const struct redo_item *
item_next(const struct redo_item *item)
{
    return (const void *)((const uint8_t *)(item + 1) + item->bytes);
}

/* Loads the pages of the coming items, and returns the first item beyond them. */
static const struct redo_item *
stretch_load(const struct recovery *r, const struct redo_item *item, const struct redo_item *end)
{
    uint64_t page[STRETCH];
    unsigned n = 0;

    for (; item < end && n < STRETCH; item = item_next(item)) {
        const struct wal_change_head *h = redo_item_first(item);
        struct map_entry e;
        uint8_t class;
        if ((n == 0 || page[n - 1] != h->page) && h->op != WAL_OP_PAGE_INIT &&
            pstore_locate(r->o->pstore, h->page, &e, &class))
            page[n++] = h->page;
    }
    if (n > 1)
        buf_prefetch(r->o->pool, page, n, IO_CLASS_READ);
    return item;
}

static void
batch_apply(struct redo_worker *w, const struct redo_batch *b)
{
    const struct recovery *r = w->crew->r;
    const struct redo_item *item = (const void *)b->bytes, *loaded = item;
    const struct redo_item *end = (const void *)(b->bytes + b->used);

    for (; item < end && !atomic_load(&w->crew->failed); item = item_next(item)) {
        if (item == loaded)
            loaded = stretch_load(r, item, end);
        w->rc = recover__redo_item(r, item, &w->changes);
        if (w->rc != ASH_OK && !PLANTED(335)) {
            w->failed_at = item->start;
            err_save(&w->why);
            atomic_store(&w->crew->failed, true);
        }
    }
}

static void
worker_main(void *arg)
{
    struct redo_worker *w = arg;

    task_mutex_lock(&w->mutex);
    for (;;) {
        while (w->done == w->filled && !w->no_more)
            task_cond_wait(&w->changed, &w->mutex);
        if (w->done == w->filled)
            break;
        struct redo_batch *b = &w->batch[w->done % BATCHES];
        task_mutex_unlock(&w->mutex);
        batch_apply(w, b);
        b->used = 0;
        task_mutex_lock(&w->mutex);
        w->done++;
        task_cond_signal(&w->changed);
    }
    task_mutex_unlock(&w->mutex);
}

/* ---- Handing over ---- */

static void
worker_feed(struct redo_worker *w)
{
    if (w->task == NULL && task_spawn(w->crew->rt, "redo", worker_main, w, &w->task) != ASH_OK) {
        struct redo_batch *b = &w->batch[w->filled % BATCHES]; /* no threads: slower, not wrong */
        batch_apply(w, b);
        b->used = 0;
        return;
    }
    task_mutex_lock(&w->mutex);
    w->filled++;
    task_cond_signal(&w->changed);
    while (w->filled - w->done == BATCHES)
        task_cond_wait(&w->changed, &w->mutex);
    task_mutex_unlock(&w->mutex);
}

static ash_rc
batch_grow(struct redo_batch *b, uint32_t bytes)
{
    if (b->capacity >= bytes)
        return ASH_OK;
    uint8_t *p = mem_realloc(MEM_WAL, b->bytes, bytes);
    if (p == NULL)
        return ASH_NO_MEMORY;
    b->bytes = p;
    b->capacity = bytes;
    return ASH_OK;
}

ash_rc
recover__crew_room(struct redo_crew *crew, uint64_t page, uint32_t bytes,
                   struct redo_item **item_out)
{
    struct redo_worker *w = &crew->worker[hash_u64(PLANTED(333) ? bytes : page) % crew->count];
    uint32_t need = (uint32_t)sizeof(struct redo_item) + bytes;

    if (atomic_load(&crew->failed))
        return ASH_CANCELLED; /* recover__crew_end() says why */
    struct redo_batch *b = &w->batch[w->filled % BATCHES];
    if (b->used > 0 && b->used + need > crew->batch_bytes) {
        worker_feed(w);
        b = &w->batch[w->filled % BATCHES];
    }
    ash_rc rc = batch_grow(b, (uint32_t)max_u64(crew->batch_bytes, need));
    if (rc != ASH_OK)
        return rc;
    *item_out = (void *)(b->bytes + b->used);
    b->used += need;
    return ASH_OK;
}

/* ---- Beginning and end ---- */

ash_rc
recover__crew_start(const struct recovery *r, struct redo_crew **out)
{
    bool sim = r->o->rt == NULL || task_runtime_is_sim(r->o->rt);
    unsigned count = sim ? WORKERS_SIM : r->o->workers;
    struct redo_crew *crew = mem_zalloc(MEM_WAL, sizeof(*crew) + count * sizeof(crew->worker[0]));

    if (crew == NULL)
        return ASH_NO_MEMORY;
    crew->r = r;
    crew->rt = r->o->rt;
    crew->count = count;
    crew->batch_bytes = sim ? BATCH_BYTES_SIM : BATCH_BYTES;
    for (unsigned i = 0; i < count; i++) {
        crew->worker[i].crew = crew;
        task_mutex_init(&crew->worker[i].mutex);
        task_cond_init(&crew->worker[i].changed);
    }
    *out = crew;
    return ASH_OK;
}

static void
worker_end(struct redo_worker *w)
{
    struct redo_batch *b = &w->batch[w->filled % BATCHES];

    if (w->task == NULL) {
        batch_apply(w, b);
        return;
    }
    task_mutex_lock(&w->mutex);
    w->filled += b->used > 0 && !PLANTED(334);
    w->no_more = true;
    task_cond_signal(&w->changed);
    task_mutex_unlock(&w->mutex);
}

ash_rc
recover__crew_end(struct redo_crew *crew, ash_rc rc, uint64_t *changes, uint64_t *failed_at)
{
    const struct redo_worker *first = NULL;
    struct err_detail why;

    err_save(&why);
    if (rc != ASH_OK)
        atomic_store(&crew->failed, true);
    for (unsigned i = 0; i < crew->count; i++)
        if (crew->worker[i].task != NULL)
            worker_end(&crew->worker[i]);
    for (unsigned i = 0; i < crew->count; i++)
        if (crew->worker[i].task == NULL)
            worker_end(&crew->worker[i]);
    for (unsigned i = 0; i < crew->count; i++) {
        struct redo_worker *w = &crew->worker[i];
        if (w->task != NULL)
            task_join(w->task);
        *changes += w->changes;
        if (w->failed_at != 0 && (first == NULL || w->failed_at < first->failed_at))
            first = w;
        for (unsigned k = 0; k < BATCHES; k++)
            mem_free(MEM_WAL, w->batch[k].bytes);
    }
    if (first != NULL) {
        rc = first->rc;
        why = first->why;
        *failed_at = first->failed_at;
    }
    err_restore(&why);
    mem_free(MEM_WAL, crew);
    return rc;
}
