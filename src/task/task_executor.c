/* SPDX-License-Identifier: Apache-2.0
 *
 * task_executor.c - one thread that runs hundreds of fibers, and its stand-in for simulations.
 *
 * Entry points: task_executor_create(), task_executor_submit(), executor_main() (the loop).
 * Read first: README.md, the permit word in task.c.
 *
 * What other threads touch: the ring of requests (many producers, the loop consumes), the inbox of
 * unparked fibers (a stack that the loop takes as a whole), `sleeping`.  All else belongs to the
 * executor's thread.
 *
 * Going to sleep (Dekker):
 *     the loop:  sleeping = 1 ; read inbox, ring, stop
 *     others:    push to the inbox or ring ; read sleeping, and if 1 swap in 0 and write wake_fd
 * All four are sequentially consistent, so either the loop sees the push or the pusher sees that it
 * must wake.
 *
 * In a simulation the ring is the same, and requests are run by up to `fibers_max` simulated tasks.
 *
 * Invariants:
 *   I1  A fiber is exactly one of: running, in `ready`, in `idle`, PARKED, or with a permit on its
 *       way through the inbox.
 *   I2  room + requests in the ring or being written = queue_max: who holds a place may write its
 *       cell without looking.
 *   I3  `users` > 0 while another thread may touch the executor after its last request could have
 *       finished.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "task/task_int.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define POLL_EVERY  32u        /* switches between two looks at the pollers, timers and the inbox */
#define START_BURST 8u         /* requests started before fibers that became ready get their turn */
#define QUEUE_LIMIT (1u << 24) /* of queue_max: 400 MB of cells */
#define SEVERAL_POLLERS_NS \
    1000000u /* with more than one poller only the first can sleep: look at the others this often */

struct cell {
    _Atomic uint64_t seq; /* position + 1 when it holds the request of that position */
    void (*fn)(void *arg);
    void *arg;
};

struct task_executor {
    struct task_runtime *rt;
    unsigned fibers_max;
    size_t stack_bytes;
    uint32_t queue_max;
    uint32_t mask;
    struct cell *ring;
    int wake_fd;

    /* shared */
    _Atomic uint64_t tail ASH_ALIGNED_LINE; /* next position to write */
    _Atomic uint32_t room;                  /* I2 */
    _Atomic uint32_t users;                 /* I3 */
    struct task *_Atomic inbox ASH_ALIGNED_LINE;
    _Atomic uint32_t sleeping;
    _Atomic uint32_t stop;
    struct task_waitq room_waiters;

    /* the executor's thread only; in a simulation whoever runs */
    uint64_t head ASH_ALIGNED_LINE; /* next position to read */
    struct list ready;
    struct list idle;
    uint32_t ready_count;
    unsigned fiber_count, busy;
    struct task__heap heap;
    struct task__context scheduler;
    struct task *running;
    struct task_poller *pollers;
    uint64_t switches, polled_at;
    struct task *thread;

    /* simulation */
    struct task **workers;
    char name[TASK__NAME_MAX];
};

static _Thread_local struct task_executor *here; /* whose loop this thread is */

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
    struct cell *c = &ex->ring[pos & ex->mask];
    c->fn = fn;
    c->arg = arg;
    atomic_store(&c->seq, pos + 1); /* sequentially consistent: see "Going to sleep" */
}

static bool
ring_empty(struct task_executor *ex)
{
    return atomic_load(&ex->ring[ex->head & ex->mask].seq) != ex->head + 1;
}

static bool
ring_pop(struct task_executor *ex, void (**fn_out)(void *arg), void **arg_out)
{
    if (ring_empty(ex))
        return false;
    struct cell *c = &ex->ring[ex->head & ex->mask];
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

static void
executor_wake(struct task_executor *ex)
{
    if (atomic_load(&ex->sleeping) == 0 || atomic_exchange(&ex->sleeping, 0) == 0)
        return;
    uint64_t one = 1;
    while (write(ex->wake_fd, &one, sizeof(one)) < 0)
        ash_assert(errno == EINTR);
}

static void
ready_push(struct task_executor *ex, struct task *t)
{
    list_push_back(&ex->ready, &t->link);
    ex->ready_count++;
}

void
task__fiber_unpark(struct task *t)
{
    struct task_executor *ex = t->executor;
    if (ex == here) {
        ready_push(ex, t);
        return;
    }
    /* Until it is in the inbox the fiber cannot run, so the executor is there; afterwards I3 keeps
     * it. */
    atomic_fetch_add(&ex->users, 1);
    struct task *top = atomic_load_explicit(&ex->inbox, memory_order_relaxed);
    do {
        t->inbox_next = top;
    } while (!atomic_compare_exchange_weak(&ex->inbox, &top, t));
    executor_wake(ex);
    atomic_fetch_sub_explicit(&ex->users, 1, memory_order_release);
}

/* ---- Fibers ---- */

static void
fiber_entry(void *arg)
{
    struct task *t = arg;
    struct task_executor *ex = t->executor;
    task__context_entered(&ex->scheduler);
    while (t->fn != NULL) {
        t->fn(t->arg);
        t->idle = true;
        task__context_switch(&t->context, &ex->scheduler);
    }
    task__context_leave(&ex->scheduler);
}

/* One more idle fiber. */
static ash_rc
fiber_add(struct task_executor *ex)
{
    ash_rc rc = task__heap_reserve(&ex->heap, ex->fiber_count + 1);
    if (rc != ASH_OK)
        return rc;
    struct task *t = task__get(TASK__FIBER, ex->name);
    if (t == NULL)
        return ASH_NO_MEMORY;
    t->stack = task__stack_get(ex->stack_bytes);
    if (t->stack == NULL) {
        task__put(t);
        return ASH_NO_MEMORY;
    }
    t->executor = ex;
    t->idle = true;
    task__context_make(&t->context, t->stack, fiber_entry, t);
    list_push_front(&ex->idle, &t->link);
    ex->fiber_count++;
    return ASH_OK;
}

static void
fiber_run(struct task_executor *ex, struct task *t)
{
    struct task *host = task__current;
    struct err_detail *host_slot = err_slot;

    ex->running = t;
    task__current = t;
    err_slot = &t->err;
    ex->switches++;
    task__context_switch(&ex->scheduler, &t->context);
    err_slot = host_slot;
    task__current = host;
    ex->running = NULL;
    if (t->idle) {
        ex->busy--;
        list_push_front(&ex->idle, &t->link); /* the warmest stack first */
    }
}

/* Ends an idle fiber; also one that has never run. */
static void
fiber_end(struct task_executor *ex, struct task *t)
{
    list_remove(&t->link);
    t->fn = NULL;
    task__context_switch(&ex->scheduler, &t->context);
    task__context_drop(&t->context);
    task__stack_put(t->stack);
    t->stack = NULL;
    task__put(t);
}

bool
task__fiber_park(struct task *self, uint64_t deadline_ns)
{
    struct task_executor *ex = self->executor;
    uint32_t seen = TASK__EMPTY;

    ash_assert(ex->running == self);
    if (!atomic_compare_exchange_strong(&self->state, &seen, TASK__PARKED)) {
        atomic_exchange(&self->state, TASK__EMPTY);
        return true;
    }
    /* An unpark from now on puts us in the inbox, which only our own thread empties, after this
     * switch. */
    if (deadline_ns != TASK_FOREVER)
        task__heap_add(&ex->heap, &self->timer, deadline_ns);
    task__context_switch(&self->context, &ex->scheduler);
    if (self->timer.pos != 0)
        task__heap_remove(&ex->heap, &self->timer);
    return atomic_exchange(&self->state, TASK__EMPTY) == TASK__PERMIT;
}

void
task__fiber_yield(struct task *self)
{
    struct task_executor *ex = self->executor;
    ash_assert(ex->running == self);
    ready_push(ex, self);
    task__context_switch(&self->context, &ex->scheduler);
}

/* ---- The loop ---- */

static void
inbox_drain(struct task_executor *ex)
{
    if (atomic_load_explicit(&ex->inbox, memory_order_relaxed) == NULL)
        return;
    struct task *t = atomic_exchange(&ex->inbox, NULL);
    struct task *in_order = NULL;
    while (t != NULL) {
        struct task *next = t->inbox_next;
        t->inbox_next = in_order;
        in_order = t;
        t = next;
    }
    while (in_order != NULL) {
        struct task *next = in_order->inbox_next;
        ready_push(ex, in_order);
        in_order = next;
    }
}

static void
timers_fire(struct task_executor *ex)
{
    struct task__timer *first = task__heap_first(&ex->heap);
    if (first == NULL)
        return;
    uint64_t now = clock_ns();
    for (; first != NULL && first->at_ns <= now; first = task__heap_first(&ex->heap)) {
        task__heap_remove(&ex->heap, first);
        struct task *t = list_entry(first, struct task, timer);
        uint32_t parked = TASK__PARKED;
        if (atomic_compare_exchange_strong(&t->state, &parked, TASK__EMPTY))
            ready_push(ex, t); /* else its unparker has pushed it or will */
    }
}

static bool
pollers_poll(struct task_executor *ex)
{
    bool reaped = false;
    for (struct task_poller *p = ex->pollers; p != NULL; p = p->next)
        reaped |= p->poll(p);
    ex->polled_at = ex->switches;
    return reaped;
}

static bool
may_start(const struct task_executor *ex)
{
    return !list_empty(&ex->idle) || ex->fiber_count < ex->fibers_max;
}

/* Gives the oldest request to a fiber and runs it; false when there is no request or no fiber. */
static bool
start_one(struct task_executor *ex)
{
    if (ring_empty(ex) || !may_start(ex))
        return false;
    if (list_empty(&ex->idle)) {
        ash_rc rc = fiber_add(ex);
        if (rc != ASH_OK) {
            ash_ignore(rc); /* the first fiber always exists: requests wait until one is free */
            ex->fibers_max = ex->fiber_count;
            return false;
        }
    }
    struct task *t = list_entry(ex->idle.next, struct task, link);
    if (!ring_pop(ex, &t->fn, &t->arg))
        return false;
    list_remove(&t->link);
    t->idle = false;
    t->err.code = ASH_OK;
    ex->busy++;
    fiber_run(ex, t);
    return true;
}

/* One round: those ready now (not those that they make ready: fairness), then a few new
 * requests. */
static bool
run_round(struct task_executor *ex)
{
    uint32_t ready = ex->ready_count < POLL_EVERY ? ex->ready_count : POLL_EVERY;
    for (uint32_t i = 0; i < ready; i++) {
        struct task *t = list_entry(ex->ready.next, struct task, link);
        list_remove(&t->link);
        ex->ready_count--;
        fiber_run(ex, t);
    }
    uint32_t started = 0;
    while (started < START_BURST && start_one(ex))
        started++;
    return ready + started > 0;
}

static bool
finished(struct task_executor *ex)
{
    return atomic_load(&ex->stop) != 0 && ex->busy == 0 && ring_empty(ex);
}

static uint64_t
sleep_deadline(struct task_executor *ex)
{
    const struct task__timer *first = task__heap_first(&ex->heap);
    uint64_t deadline = first != NULL ? first->at_ns : TASK_FOREVER;
    if (ex->pollers != NULL && ex->pollers->next != NULL)
        deadline = min_u64(deadline, clock_ns() + SEVERAL_POLLERS_NS);
    return deadline;
}

static void
wait_on_fd(int fd, uint64_t deadline_ns)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    struct timespec left = { 0, 0 };
    if (deadline_ns != TASK_FOREVER) {
        uint64_t now = clock_ns();
        uint64_t ns = deadline_ns > now ? deadline_ns - now : 0;
        left = (struct timespec){ .tv_sec = (time_t)(ns / 1000000000u),
                                  .tv_nsec = (long)(ns % 1000000000u) };
    }
    int n = ppoll(&p, 1, deadline_ns != TASK_FOREVER ? &left : NULL, NULL);
    ash_assert(n >= 0 || errno == EINTR);
}

static void
executor_sleep(struct task_executor *ex)
{
    atomic_store(&ex->sleeping, 1);
    bool work = PLANTED(12) ? false
                            : atomic_load(&ex->inbox) != NULL ||
                                  (may_start(ex) && !ring_empty(ex)) || finished(ex);
    if (!work) {
        uint64_t deadline = sleep_deadline(ex);
        if (ex->pollers != NULL)
            ex->pollers->wait(ex->pollers, ex->wake_fd, deadline);
        else
            wait_on_fd(ex->wake_fd, deadline);
    }
    if (atomic_exchange(&ex->sleeping, 0) != 0)
        return;
    /* Somebody woke us.  Its write may still be on the way: then the next sleep is short, no
     * more. */
    uint64_t count;
    ssize_t n = read(ex->wake_fd, &count, sizeof(count));
    ash_assert(n == (ssize_t)sizeof(count) || (n < 0 && (errno == EAGAIN || errno == EINTR)));
}

static void
executor_main(void *arg)
{
    struct task_executor *ex = arg;
    here = ex;
    task__context_adopt(&ex->scheduler);
    for (;;) {
        inbox_drain(ex);
        if (!PLANTED(17) || ex->ready_count == 0)
            timers_fire(ex);
        if (ex->pollers != NULL && ex->switches - ex->polled_at >= POLL_EVERY)
            (void)pollers_poll(ex); /* what it reaped is in `ready` */
        if (run_round(ex))
            continue;
        if (pollers_poll(ex))
            continue;
        if (finished(ex))
            break;
        executor_sleep(ex);
    }
    ash_assert(ex->ready_count == 0 && ex->heap.count == 0);
    while (ex->pollers != NULL) {
        struct task_poller *p = ex->pollers;
        ex->pollers = p->next;
        p->destroy(p);
    }
    LIST_FOREACH_SAFE(it, tmp, &ex->idle) {
        fiber_end(ex, list_entry(it, struct task, link));
        ex->fiber_count--;
    }
    ash_assert(ex->fiber_count == 0);
    here = NULL;
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
        if (ring_pop(ex, &fn, &fn_arg)) {
            self->err.code = ASH_OK;
            fn(fn_arg);
            task_point();
            continue;
        }
        if (atomic_load(&ex->stop) != 0)
            break;
        self->idle = true;
        while (self->idle && ring_empty(ex) && atomic_load(&ex->stop) == 0)
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
    if (ex->wake_fd >= 0)
        (void)close(ex->wake_fd);
    task__heap_deinit(&ex->heap);
    mem_free(MEM_TASK, ex->workers);
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
    ex->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ex->wake_fd < 0)
        return ash_raise_sys(
            err_from_errno(errno), errno, NULL,
            "Cannot make an eventfd for the executor \"%s\"; raise the limit of open files.",
            ex->name);
    ash_rc rc = fiber_add(ex);
    if (rc != ASH_OK)
        return rc;
    rc = task_spawn(ex->rt, ex->name, executor_main, ex, &ex->thread);
    if (rc != ASH_OK) {
        struct task *t = list_entry(ex->idle.next, struct task, link); /* it has never run */
        task__context_drop(&t->context);
        task__stack_put(t->stack);
        task__put(t);
    }
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
    list_init(&ex->idle);
    ash_rc rc = ASH_NO_MEMORY;
    ex->ring = mem_zalloc(MEM_TASK, cells * sizeof(struct cell));
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
        executor_wake(ex);
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
        executor_wake(ex);
        task_join(ex->thread);
    }
    unsigned spins = 0;
    while (atomic_load(&ex->users) != 0) /* I3: a few instructions */
        task_relax(&spins);
    ash_assert(ring_empty(ex));
    executor_free(ex);
}

struct task_executor *
task_executor_self(void)
{
    return task__current == NULL ? NULL : task__current->executor;
}

void
task_executor_add_poller(struct task_executor *ex, struct task_poller *p)
{
    ash_assert(ex == here && !ex->rt->is_sim);
    p->next = ex->pollers;
    ex->pollers = p;
}
