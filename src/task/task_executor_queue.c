/* SPDX-License-Identifier: Apache-2.0
 *
 * task_executor_queue.c - executors from outside: making and ending them, their queue of requests,
 * what they say of themselves, and their stand-in for simulations.
 *
 * Entry points: task_executor_create(), task_executor_submit(), task_executor_destroy().
 * Read first: task_executor_int.h, task_executor.c ("Going to sleep").
 *
 * The ring has many producers and one consumer.  A producer takes room (I2), then a position, then
 * fills the cell of that position; the consumer takes cells in order and waits for one that is still
 * being filled.
 *
 * In a simulation the ring is the same, and requests are run by up to `fibers_max` simulated tasks.
 */
#include "task/task_executor_int.h"

#include <stdio.h>
#include <string.h>

#define QUEUE_LIMIT (1u << 24) /* of queue_max: 400 MB of cells */

/* ---- The ring ---- */

static bool
ring_take_room(struct task_executor *ex)
{
    uint32_t room = atomic_load_explicit(&ex->room, memory_order_relaxed);
    while (room > 0) {
        if (atomic_compare_exchange_weak(&ex->room, &room, room - 1))
            return true;
    }
    return false;
}

/* The caller has taken room. */
static void
ring_push(struct task_executor *ex, void (*fn)(void *arg), void *arg)
{
    uint64_t pos = atomic_fetch_add(&ex->tail, 1);
    struct task__cell *c = &ex->ring[pos & ex->mask];
    c->fn = fn;
    c->arg = arg;
    atomic_store(&c->seq, pos + 1); /* sequentially consistent: see "Going to sleep" */
}

bool
task__ring_pop(struct task_executor *ex, void (**fn_out)(void *arg), void **arg_out)
{
    if (task__ring_empty(ex))
        return false;
    struct task__cell *c = &ex->ring[ex->head & ex->mask];
    *fn_out = c->fn;
    *arg_out = c->arg;
    ex->head++;
    uint32_t room = atomic_fetch_add(&ex->room, 1) + 1;
    /* Waking at half empty saves wakes; the queue drains, so that point comes.  With little room it
     * is every time. */
    if (room >= (ex->queue_max + 1) / 2)
        task_wait_wake(&ex->room_waiters);
    return true;
}

/* ---- Waking the loop ---- */

void
task__executor_wake(struct task_executor *ex)
{
    if (atomic_load(&ex->sleeping) != 0 && atomic_exchange(&ex->sleeping, 0) != 0)
        task_event_set(ex->wake_fd);
}

/* ---- In a simulation ---- */

static void
worker_main(void *arg)
{
    struct task_executor *ex = arg;
    struct task *self = task_self();
    void (*fn)(void *arg);
    void *fn_arg;

    self->executor = ex;
    for (;;) {
        if (task__ring_pop(ex, &fn, &fn_arg)) {
            self->err.code = ASH_OK;
            TASK__COUNT(ex->busy, 1);
            fn(fn_arg);
            TASK__COUNT(ex->busy, -1u);
            TASK__COUNT(ex->finished, 1);
            task_point();
            continue;
        }
        if (atomic_load(&ex->stop) != 0)
            break;
        self->idle = true;
        while (self->idle && task__ring_empty(ex) && atomic_load(&ex->stop) == 0)
            task_park();
        self->idle = false;
    }
    self->executor = NULL;
}

/* Sees to it that somebody takes the request just pushed. */
static void
worker_wake(struct task_executor *ex)
{
    for (unsigned i = 0; i < ex->fiber_count; i++) {
        if (ex->workers[i]->idle) {
            ex->workers[i]->idle = false;
            task_unpark(ex->workers[i]);
            return;
        }
    }
    if (ex->fiber_count == ex->fibers_max)
        return; /* all are busy and will look into the ring before they park */
    ash_rc rc = task_spawn(ex->rt, ex->name, worker_main, ex, &ex->workers[ex->fiber_count]);
    if (rc == ASH_OK)
        ex->fiber_count++;
    else
        ash_assert(ex->fiber_count > 0); /* create() has made the first */
}

static void
workers_join(struct task_executor *ex)
{
    atomic_store(&ex->stop, 1);
    for (unsigned i = 0; i < ex->fiber_count; i++)
        task_unpark(ex->workers[i]);
    for (unsigned i = 0; i < ex->fiber_count; i++)
        task_join(ex->workers[i]);
}

/* ---- Entry points ---- */

static void
executor_free(struct task_executor *ex)
{
    task_event_close(ex->wake_fd);
    task__heap_deinit(&ex->heap);
    mem_free(MEM_TASK, ex->workers);
    mem_free(MEM_TASK, ex->stacks);
    mem_free(MEM_TASK, ex->ring);
    mem_free(MEM_TASK, ex);
}

static ash_rc
executor_start(struct task_executor *ex)
{
    if (ex->rt->is_sim) {
        ex->workers = mem_zalloc(MEM_TASK, ex->fibers_max * sizeof(struct task *));
        if (ex->workers == NULL)
            return ASH_NO_MEMORY;
        ash_rc rc = task_spawn(ex->rt, ex->name, worker_main, ex, &ex->workers[0]);
        if (rc == ASH_OK)
            ex->fiber_count = 1;
        return rc;
    }
    ex->stacks = mem_zalloc(MEM_TASK, ex->fibers_max * sizeof(*ex->stacks));
    if (ex->stacks == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc = task_event_open(ex->name, &ex->wake_fd);
    if (rc == ASH_OK)
        rc = task__fiber_add(ex);
    if (rc != ASH_OK)
        return rc;
    rc = task_spawn(ex->rt, ex->name, task__executor_main, ex, &ex->thread);
    if (rc != ASH_OK)
        task__fiber_drop(ex);
    return rc;
}

ash_rc
task_executor_create(struct task_runtime *rt, const char *name, unsigned fibers, unsigned queue_max,
                     size_t stack_bytes, struct task_executor **out)
{
    if (fibers == 0 || queue_max == 0 || queue_max > QUEUE_LIMIT)
        return ash_raise(ASH_INVALID,
                         "The executor \"%s\" needs at least one fiber and a queue of 1 to %u.",
                         name, QUEUE_LIMIT);
    struct task_executor *ex = mem_aligned(MEM_TASK, ASH_CACHE_LINE, sizeof(*ex));
    if (ex == NULL)
        return ASH_NO_MEMORY;
    memset(ex, 0, sizeof(*ex));
    ex->rt = rt;
    ex->fibers_max = fibers;
    ex->stack_bytes = stack_bytes;
    ex->queue_max = queue_max;
    uint32_t cells = is_pow2(queue_max) ? queue_max : 2u << log2_floor(queue_max);
    ex->mask = cells - 1;
    ex->wake_fd = -1;
    (void)snprintf(ex->name, sizeof(ex->name), "%s", name);
    atomic_init(&ex->room, queue_max);
    task_waitq_init(&ex->room_waiters);
    list_init(&ex->ready);
    list_init(&ex->spent);
    list_init(&ex->idle);
    ash_rc rc = ASH_NO_MEMORY;
    ex->ring = mem_zalloc(MEM_TASK, cells * sizeof(struct task__cell));
    if (ex->ring != NULL)
        rc = executor_start(ex);
    if (rc != ASH_OK) {
        executor_free(ex);
        return rc;
    }
    *out = ex;
    return ASH_OK;
}

ash_rc
task_executor_submit(struct task_executor *ex, void (*fn)(void *arg), void *arg, bool wait)
{
    atomic_fetch_add(&ex->users, 1); /* I3 */
    while (!ring_take_room(ex)) {
        if (!wait) {
            atomic_fetch_sub_explicit(&ex->users, 1, memory_order_release);
            return ash_raise(ASH_WOULD_BLOCK,
                             "The queue of the executor \"%s\" is full (%u requests).", ex->name,
                             ex->queue_max);
        }
        struct task_waiter w;
        task_wait_begin(&ex->room_waiters, &w, 0);
        while (atomic_load(&ex->room) == 0)
            task_park();
        task_wait_end(&ex->room_waiters, &w);
    }
    ring_push(ex, fn, arg);
    if (ex->rt->is_sim)
        worker_wake(ex);
    else
        task__executor_wake(ex);
    atomic_fetch_sub_explicit(&ex->users, 1, memory_order_release);
    return ASH_OK;
}

void
task_executor_destroy(struct task_executor *ex)
{
    if (ex == NULL)
        return;
    ash_assert(task_executor_self() != ex);
    if (ex->rt->is_sim) {
        workers_join(ex);
    } else {
        atomic_store(&ex->stop, 1);
        task__executor_wake(ex);
        task_join(ex->thread);
    }
    unsigned spins = 0;
    while (atomic_load(&ex->users) != 0) /* I3: a few instructions */
        task_relax(&spins);
    ash_assert(task__ring_empty(ex));
    executor_free(ex);
}

struct task_executor *
task_executor_self(void)
{
    return task__current == NULL ? NULL : task__current->executor;
}

unsigned
task_executor_load(struct task_executor *ex)
{
    uint32_t queued = ex->queue_max - atomic_load_explicit(&ex->room, memory_order_relaxed);
    return queued + atomic_load_explicit(&ex->busy, memory_order_relaxed);
}

bool
task_executor_full(struct task_executor *ex)
{
    return atomic_load_explicit(&ex->room, memory_order_relaxed) == 0;
}

void
task_executor_stats(struct task_executor *ex, struct task_executor_stats *sum)
{
    uint32_t fibers = atomic_load_explicit(&ex->stack_count, memory_order_acquire);
    uint64_t high = atomic_load_explicit(&ex->stack_high, memory_order_relaxed);

    sum->queued += ex->queue_max - atomic_load_explicit(&ex->room, memory_order_relaxed);
    sum->busy += atomic_load_explicit(&ex->busy, memory_order_relaxed);
    sum->fibers += ex->rt->is_sim ? ex->fiber_count : fibers;
    sum->finished += atomic_load_explicit(&ex->finished, memory_order_relaxed);
    sum->switches += atomic_load_explicit(&ex->switches, memory_order_relaxed);
    sum->slices_spent += atomic_load_explicit(&ex->slices_spent, memory_order_relaxed);
    sum->stacks_given_back += atomic_load_explicit(&ex->stacks_given_back, memory_order_relaxed);
    for (uint32_t i = 0; i < fibers; i++) {
        uint64_t touched = task__stack_touched(ex->stacks[i]);
        sum->stack_bytes += ex->stacks[i]->bytes;
        sum->stack_resident += touched;
        high = max_u64(high, touched);
    }
    sum->stack_high = max_u64(sum->stack_high, high);
}
