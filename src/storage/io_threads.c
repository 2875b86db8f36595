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
 *       that isn't theirs.
 *
 * Locks: pool->lock (mutex) covers the scheduler, workers and counts.  gate[] (mutexes) come after
 * nothing and before nothing.  A host thread's single foreground requests run on that thread itself:
 * handing them over would cost two context switches.
 */
#include "base/bits.h"
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
    struct io_sched sched;
    struct io_meter sched_meter;
    unsigned workers, starting, idle;
    bool stop, alarm;
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

/* Until there is work, or something that was passed over may go.  Caller holds pool->lock. */
static void
worker_wait(struct io_pool *pool)
{
    pool->idle++;
    if (pool->sched.wake_ns == TASK_FOREVER || pool->alarm) {
        pthread_cond_wait(&pool->work, &pool->lock);
    } else {
        pool->alarm = true; /* one of them watches the clock */
        struct timespec ts = { .tv_sec = (time_t)(pool->sched.wake_ns / 1000000000u),
                               .tv_nsec = (long)(pool->sched.wake_ns % 1000000000u) };
        pthread_cond_timedwait(&pool->work, &pool->lock, &ts);
        pool->alarm = false;
    }
    pool->idle--;
}

static void *
worker_main(void *arg)
{
    struct worker *w = arg;
    struct io_pool *pool = w->pool;

    pthread_mutex_lock(&pool->lock);
    pool->starting--;
    for (;;) {
        struct io_req *req = io__sched_next(&pool->sched, clock_ns());
        if (req == NULL && pool->stop)
            break;
        if (req == NULL) {
            worker_wait(pool);
            continue;
        }
        pthread_mutex_unlock(&pool->lock);
        int64_t result = io__transfer_sync(&w->meter, req);
        pthread_mutex_lock(&pool->lock);
        struct io_req *over = io__sched_done(&pool->sched, req, result, clock_ns()), *next;
        io__sched_publish(&pool->sched, clock_ns());
        if (pool->sched.count > 0 && pool->idle > 0)
            pthread_cond_signal(&pool->work); /* room, or credit, for what was passed over */
        pthread_mutex_unlock(&pool->lock);
        for (; over != NULL; over = next) {
            next = over->chain;
            finish(pool, &w->meter, over);
        }
        pthread_mutex_lock(&pool->lock);
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
    pthread_condattr_t attr;
    struct io_pool *pool = mem_zalloc(MEM_IO, sizeof(*pool));
    if (pool == NULL)
        return ASH_NO_MEMORY;
    pool->io = io;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_mutex_init(&pool->inline_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* that of clock_ns() */
    pthread_cond_init(&pool->work, &attr);
    pthread_condattr_destroy(&attr);
    for (unsigned i = 0; i < POOL_GATES; i++)
        pthread_mutex_init(&pool->gate[i], NULL);
    io__meter_attach(io, &pool->inline_meter);
    io__meter_attach(io, &pool->sched_meter);
    io__sched_init(&pool->sched, io, &pool->sched_meter, POOL_BACKGROUND_MAX, /* windows: */ true);
    io->state = pool;
    return ASH_OK;
}

static void
threads_stop(struct io *io)
{
    struct io_pool *pool = io->state;

    pthread_mutex_lock(&pool->lock);
    ash_assert(pool->sched.count == 0);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->workers; i++) {
        pthread_join(pool->worker[i]->thread, NULL);
        io__meter_detach(io, &pool->worker[i]->meter);
        mem_free(MEM_IO, pool->worker[i]);
    }
    io__sched_destroy(&pool->sched);
    io__meter_detach(io, &pool->sched_meter);
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
    if (!io__background(req->class) && !req->dsync && req->op != IO_OP_FLUSH)
        io__credit_foreground(pool->io, req->finish_ns - req->submit_ns, req->finish_ns);
}

static bool
threads_run(struct io *io, struct io_req *req)
{
    if (io__background(req->class) && !io->options.plain)
        return false; /* it needs credit */
    run_inline(io->state, req);
    return true;
}

static void
threads_submit(struct io *io, struct io_req **reqs, unsigned count)
{
    struct io_pool *pool = io->state;

    pthread_mutex_lock(&pool->lock);
    for (unsigned i = 0; i < count; i++)
        io__sched_add(&pool->sched, reqs[i]);
    /* One worker for each request that waits, up to the bound. */
    while (pool->idle + pool->starting < pool->sched.count && pool->workers < POOL_WORKERS_MAX) {
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
        bool mine = io__sched_cancel(&pool->sched, reqs[i]);
        pthread_mutex_unlock(&pool->lock);
        if (mine)
            run_inline(pool, reqs[i]);
    }
}

static void
threads_kick(struct io *io)
{
    struct io_pool *pool = io->state;

    pthread_mutex_lock(&pool->lock);
    io__sched_kick(&pool->sched);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
}

static bool
threads_cancel(struct io *io, struct io_req *req)
{
    struct io_pool *pool = io->state;

    pthread_mutex_lock(&pool->lock);
    bool mine = io__sched_cancel(&pool->sched, req);
    if (mine)
        io__finish_cancelled(io, &pool->sched_meter, req, clock_ns());
    pthread_mutex_unlock(&pool->lock);
    return mine;
}

/* Lets nothing delay what the caller waits for. */
static void
mark_waited(struct io_pool *pool, struct io_req **reqs, unsigned count)
{
    bool news = false;

    pthread_mutex_lock(&pool->lock);
    for (unsigned i = 0; i < count; i++) {
        if (reqs[i]->waited || atomic_load_explicit(&reqs[i]->done, memory_order_acquire))
            continue;
        news |= reqs[i]->state == IO_REQ_QUEUED && pool->sched.class[reqs[i]->class].window_ns != 0;
        io__sched_waited(&pool->sched, reqs[i]);
    }
    if (news)
        pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
}

static void
watch(struct io_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    io__sched_watch(&pool->sched, clock_ns());
    pthread_mutex_unlock(&pool->lock);
}

static void
threads_wait(struct io *io, struct io_req **reqs, unsigned count)
{
    struct io_pool *pool = io->state;
    bool done = false;

    for (unsigned turn = 0;; turn++) {
        for (unsigned i = 0; i < count && !done; i++)
            done = atomic_load_explicit(&reqs[i]->done, memory_order_acquire);
        if (done)
            break;
        if (turn == 0)
            mark_waited(pool, reqs, count);
        else if (!task_park_until(clock_ns() + io__watch_tick_ns()))
            watch(pool);
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
    .cancel = threads_cancel,
};
