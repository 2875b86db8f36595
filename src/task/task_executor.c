/* SPDX-License-Identifier: Apache-2.0
 *
 * task_executor.c - one thread that runs hundreds of fibers: the loop.
 *
 * Entry points: task__executor_main() (the loop), task__fiber_park(), task__fiber_unpark().
 * Read first: README.md, the permit word in task.c, task_executor_int.h.
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
 * Who runs next.  Fibers that became ready run in the order in which they did, then new requests
 * are started.  A fiber that ran SLICE_NS without parking yields at its next task_fair_point() into
 * `spent`; one of those runs in each turn of the loop, after the others, and the pollers are asked
 * in between.  So whoever waits for a page waits for one slice at most once the page is there,
 * however many long tasks there are; and long tasks get a slice in each turn.
 */
#include "base/clock.h"
#include "task/task_executor_int.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#define POLL_EVERY  32u        /* switches between two looks at the pollers, timers and the inbox */
#define START_BURST 8u         /* requests started before fibers that became ready get their turn */
#define SLICE_NS    100000u    /* a hundred switches and polls: they cost a long task about 1 % */
#define PERIOD_NS   250000000u /* stacks of fibers that were not needed for so long are given back */
#define STACKS_KEPT 4u         /* beyond those that were busy at once in the period */
#define SEVERAL_POLLERS_NS \
    1000000u /* with more than one poller only the first can sleep: look at the others this often */

static _Thread_local struct task_executor *here; /* whose loop this thread is */

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
    task__executor_wake(ex);
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

ash_rc
task__fiber_add(struct task_executor *ex)
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
    ex->stacks[ex->fiber_count++] = t->stack;
    atomic_store_explicit(&ex->stack_count, ex->fiber_count, memory_order_release);
    return ASH_OK;
}

void
task__fiber_drop(struct task_executor *ex)
{
    struct task *t = list_entry(ex->idle.next, struct task, link);
    task__context_drop(&t->context);
    task__stack_put(t->stack);
    task__put(t);
}

static void
fiber_run(struct task_executor *ex, struct task *t)
{
    struct task *host = task__current;
    struct err_detail *host_slot = err_slot;

    ex->running = t;
    task__current = t;
    err_slot = &t->err;
    TASK__COUNT(ex->switches, 1);
    task__context_switch(&ex->scheduler, &t->context);
    err_slot = host_slot;
    task__current = host;
    ex->running = NULL;
    if (t->idle) {
        TASK__COUNT(ex->busy, -1u);
        TASK__COUNT(ex->finished, 1);
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

/* The clock is read only here, not at each switch: a slice begins at the first point after one. */
void
task__fiber_fair_point(struct task *self)
{
    struct task_executor *ex = self->executor;
    uint64_t switches = atomic_load_explicit(&ex->switches, memory_order_relaxed);
    uint64_t now = clock_ns();
    if (self->slice_switch != switches) {
        self->slice_switch = switches;
        self->slice_ns = now;
        return;
    }
    if (now - self->slice_ns < SLICE_NS || PLANTED(385))
        return;
    ash_assert(ex->running == self);
    ex->slice_over = true;
    TASK__COUNT(ex->slices_spent, 1);
    list_push_back(&ex->spent, &self->link);
    task__context_switch(&self->context, &ex->scheduler);
}

/* ---- Idle stacks ---- */

/* The fibers at the end of `idle` are those that were not needed since long.  Their stacks keep the
 * pages that hold their frames; the rest goes back to the system. */
static void
stacks_give_back(struct task_executor *ex)
{
    unsigned keep = ex->busy_peak + STACKS_KEPT, at = atomic_load(&ex->busy);
    LIST_FOREACH(it, &ex->idle) {
        struct task *t = list_entry(it, struct task, link);
        if (at++ < keep || !t->worn)
            continue;
        uint32_t high = (uint32_t)task__stack_touched(t->stack);
        if (high > atomic_load_explicit(&ex->stack_high, memory_order_relaxed))
            atomic_store_explicit(&ex->stack_high, high, memory_order_relaxed);
        if (!PLANTED(386))
            task__stack_give_back(t->stack, t->context.sp);
        t->worn = false;
        ex->worn--;
        TASK__COUNT(ex->stacks_given_back, 1);
    }
}

static bool
stacks_worn(const struct task_executor *ex)
{
    return ex->worn > atomic_load_explicit(&ex->busy, memory_order_relaxed) + STACKS_KEPT;
}

static void
period_check(struct task_executor *ex)
{
    if (!stacks_worn(ex))
        return;
    uint64_t now = clock_ns();
    if (now - ex->period_ns < PERIOD_NS)
        return;
    stacks_give_back(ex);
    ex->period_ns = now;
    ex->busy_peak = atomic_load_explicit(&ex->busy, memory_order_relaxed);
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
    if (task__ring_empty(ex) || !may_start(ex))
        return false;
    if (list_empty(&ex->idle)) {
        ash_rc rc = task__fiber_add(ex);
        if (rc != ASH_OK) {
            ash_ignore(rc); /* the first fiber always exists: requests wait until one is free */
            ex->fibers_max = ex->fiber_count;
            return false;
        }
    }
    struct task *t = list_entry(ex->idle.next, struct task, link);
    if (!task__ring_pop(ex, &t->fn, &t->arg))
        return false;
    list_remove(&t->link);
    t->idle = false;
    t->err.code = ASH_OK;
    TASK__COUNT(ex->busy, 1);
    if (ex->busy > ex->busy_peak)
        ex->busy_peak = ex->busy;
    ex->worn += !t->worn;
    t->worn = true;
    fiber_run(ex, t);
    return true;
}

static void
run_first(struct task_executor *ex, struct list *from)
{
    struct task *t = list_entry(from->next, struct task, link);
    list_remove(&t->link);
    fiber_run(ex, t);
}

/* One turn: those ready now (not those that they make ready: fairness), then a few new requests,
 * then one of those that have used up a slice.  A slice that ends ends the turn's part, so that the
 * pollers are asked between any two of them. */
static bool
run_turn(struct task_executor *ex)
{
    uint32_t ready = ex->ready_count < POLL_EVERY ? ex->ready_count : POLL_EVERY, ran = 0;
    bool spent = !list_empty(&ex->spent); /* from earlier turns: this one must run one of them */
    ex->slice_over = false;
    for (; ran < ready && !ex->slice_over; ran++) {
        ex->ready_count--;
        run_first(ex, &ex->ready);
    }
    for (uint32_t i = 0; i < START_BURST && !ex->slice_over && start_one(ex); i++)
        ran++;
    if (spent) {
        run_first(ex, &ex->spent);
        ran++;
    }
    return ran > 0;
}

static bool
finished(struct task_executor *ex)
{
    return atomic_load(&ex->stop) != 0 && ex->busy == 0 && task__ring_empty(ex);
}

static uint64_t
sleep_deadline(struct task_executor *ex)
{
    const struct task__timer *first = task__heap_first(&ex->heap);
    uint64_t deadline = first != NULL ? first->at_ns : TASK_FOREVER;
    if (ex->pollers != NULL && ex->pollers->next != NULL)
        deadline = min_u64(deadline, clock_ns() + SEVERAL_POLLERS_NS);
    if (stacks_worn(ex))
        deadline = min_u64(deadline, ex->period_ns + PERIOD_NS);
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
                                  (may_start(ex) && !task__ring_empty(ex)) || finished(ex);
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
    task_event_clear(ex->wake_fd);
}

void
task__executor_main(void *arg)
{
    struct task_executor *ex = arg;
    here = ex;
    task__context_adopt(&ex->scheduler);
    for (;;) {
        inbox_drain(ex);
        if (!PLANTED(17) || ex->ready_count == 0)
            timers_fire(ex);
        if (ex->pollers != NULL && (ex->slice_over || ex->switches - ex->polled_at >= POLL_EVERY))
            (void)pollers_poll(ex); /* what it reaped is in `ready` */
        period_check(ex);
        if (run_turn(ex))
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

void
task_executor_add_poller(struct task_executor *ex, struct task_poller *p)
{
    ash_assert(ex == here && !ex->rt->is_sim);
    p->next = ex->pollers;
    ex->pollers = p;
}
