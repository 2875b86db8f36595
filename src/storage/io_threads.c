/* SPDX-License-Identifier: Apache-2.0
 *
 * io_threads.c - requests by a pool of threads with preadv2/pwritev2, where io_uring is forbidden.
 *
 * Entry points: the table io__threads.
 *
 * Invariants:
 *   I1  A worker touches a request only between taking it off the queue and storing `done`; both
 *       the store and the owner's wake-up happen under the request's gate.  The owner passes that
 *       gate before it returns, so neither the request nor the owner's task can vanish while the
 *       worker still uses them.
 *   I2  At most POOL_BACKGROUND_MAX workers serve background classes: foreground always finds one
 * that isn't theirs. Locks: pool->lock (mutex) covers queue, workers and counts.  gate[] (mutexes)
 * come after nothing and before nothing. A host thread's single requests run on that thread itself:
 * handing them over would cost two context switches.
 */
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/random.h"
#include "storage/io_int.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#define POOL_WORKERS_MAX    64u /* the depth that a fast device needs; each costs a stack */
#define POOL_BACKGROUND_MAX 16u
#define POOL_STACK_BYTES    (256u << 10)
#define POOL_GATES          16u

struct worker {
    struct io_pool *pool;
    pthread_t thread;
    struct io_meter meter;
};

struct io_pool {
    struct io *io;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct io_queue queue;
    unsigned workers, starting, idle, background;
    bool stop;
    struct worker *worker[POOL_WORKERS_MAX];
    pthread_mutex_t gate[POOL_GATES];
    struct io_meter inline_meter; /* of requests run by their owners; under inline_lock */
    pthread_mutex_t inline_lock;
};

static pthread_mutex_t *
gate_of(struct io_pool *pool, const struct task *owner)
{
    return &pool->gate[hash_u64((uintptr_t)owner) % POOL_GATES];
}

static void
finish(struct io_pool *pool, struct io_meter *meter, struct io_req *req)
{
    struct task *owner = req->owner;
    pthread_mutex_t *gate = gate_of(pool, owner);

    pthread_mutex_lock(gate); /* I1 */
    io__finish(pool->io, meter, req, clock_ns());
    task_unpark(owner);
    pthread_mutex_unlock(gate);
}

static void *
worker_main(void *arg)
{
    struct worker *w = arg;
    struct io_pool *pool = w->pool;

    pthread_mutex_lock(&pool->lock);
    pool->starting--;
    for (;;) {
        struct io_req *req =
            io__queue_pop(&pool->queue, pool->background < POOL_BACKGROUND_MAX, clock_ns());
        if (req == NULL && pool->stop)
            break;
        if (req == NULL) {
            pool->idle++;
            pthread_cond_wait(&pool->work, &pool->lock);
            pool->idle--;
            continue;
        }
        bool background = io__background(req->class);
        pool->background += background;
        pthread_mutex_unlock(&pool->lock);
        io__run_sync(&w->meter, req);
        finish(pool, &w->meter, req);
        pthread_mutex_lock(&pool->lock);
        pool->background -= background;
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* Caller holds pool->lock.  The pool keeps the host's signals away from its threads. */
static bool
grow_locked(struct io_pool *pool)
{
    pthread_attr_t attr;
    sigset_t all, before;
    struct worker *w = mem_zalloc(MEM_IO, sizeof(*w));

    if (w == NULL)
        return false;
    w->pool = pool;
    io__meter_attach(pool->io, &w->meter);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, POOL_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int err = pthread_create(&w->thread, &attr, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (err != 0) {
        io__meter_detach(pool->io, &w->meter);
        mem_free(MEM_IO, w);
        return false;
    }
    pool->worker[pool->workers++] = w;
    pool->starting++;
    return true;
}

static ash_rc
threads_start(struct io *io)
{
    struct io_pool *pool = mem_zalloc(MEM_IO, sizeof(*pool));
    if (pool == NULL)
        return ASH_NO_MEMORY;
    pool->io = io;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_mutex_init(&pool->inline_lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    for (unsigned i = 0; i < POOL_GATES; i++)
        pthread_mutex_init(&pool->gate[i], NULL);
    io__meter_attach(io, &pool->inline_meter);
    io->state = pool;
    return ASH_OK;
}

static void
threads_stop(struct io *io)
{
    struct io_pool *pool = io->state;

    pthread_mutex_lock(&pool->lock);
    ash_assert(pool->queue.count == 0);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->workers; i++) {
        pthread_join(pool->worker[i]->thread, NULL);
        io__meter_detach(io, &pool->worker[i]->meter);
        mem_free(MEM_IO, pool->worker[i]);
    }
    io__meter_detach(io, &pool->inline_meter);
    for (unsigned i = 0; i < POOL_GATES; i++)
        pthread_mutex_destroy(&pool->gate[i]);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->inline_lock);
    pthread_mutex_destroy(&pool->lock);
    mem_free(MEM_IO, pool);
}

/* On the caller's thread, outside the pool. */
static void
run_inline(struct io_pool *pool, struct io_req *req)
{
    struct io_meter local;

    memset(&local, 0, sizeof(local));
    io__run_sync(&local, req);
    pthread_mutex_lock(&pool->inline_lock);
    io__lock(&pool->inline_meter.lock);
    pool->inline_meter.stats.syscalls += local.stats.syscalls;
    io__unlock(&pool->inline_meter.lock);
    io__finish(pool->io, &pool->inline_meter, req, clock_ns());
    pthread_mutex_unlock(&pool->inline_lock);
}

static bool
threads_run(struct io *io, struct io_req *req)
{
    run_inline(io->state, req);
    return true;
}

static void
threads_submit(struct io *io, struct io_req **reqs, unsigned count)
{
    struct io_pool *pool = io->state;

    pthread_mutex_lock(&pool->lock);
    for (unsigned i = 0; i < count; i++)
        io__queue_push(&pool->queue, reqs[i]);
    /* One worker for each request that waits, up to the bound. */
    while (pool->idle + pool->starting < pool->queue.count && pool->workers < POOL_WORKERS_MAX) {
        if (!grow_locked(pool))
            break; /* the others will get to it */
    }
    bool nobody = pool->workers == 0;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    if (ASH_LIKELY(!nobody))
        return;
    /* Not a single thread to be had: the owner does them itself, in order. */
    for (unsigned i = 0; i < count; i++) {
        pthread_mutex_lock(&pool->lock);
        bool mine = io__queue_remove(&pool->queue, reqs[i]);
        pthread_mutex_unlock(&pool->lock);
        if (mine)
            run_inline(pool, reqs[i]);
    }
}

static void
threads_kick(struct io *io)
{
    (void)io; /* the workers have been told */
}

static void
threads_wait(struct io *io, struct io_req **reqs, unsigned count)
{
    struct io_pool *pool = io->state;
    bool done = false;

    for (;;) {
        for (unsigned i = 0; i < count && !done; i++)
            done = atomic_load_explicit(&reqs[i]->done, memory_order_acquire);
        if (done)
            break;
        task_park();
    }
    pthread_mutex_t *gate = gate_of(pool, task_self());
    pthread_mutex_lock(gate); /* I1: the finisher has left */
    pthread_mutex_unlock(gate);
}

const struct io_backend io__threads = {
    .name = "threads",
    .kind = IO_BACKEND_THREADS,
    .start = threads_start,
    .stop = threads_stop,
    .submit = threads_submit,
    .kick = threads_kick,
    .wait = threads_wait,
    .run = threads_run,
};
