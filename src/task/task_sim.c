/* SPDX-License-Identifier: Apache-2.0
 *
 * task_sim.c - the simulated scheduler: one thread, one seed, simulated time.
 *
 * Entry points: task_sim_create(), task_sim_run(), task_sim_halt(), task_sim_at().
 *
 * The loop in sim_loop() runs on the caller's own stack.  Each step it fires the events and timers
 * that are due, draws one of the ready tasks, and switches to it; the task switches back when it
 * parks, yields or passes a task_point().  Time stands still while code runs; each step adds a
 * small random amount, and when nobody is ready time jumps to the next event.
 *
 * What the seed decides, beside the order of tasks (struct manner): how often task_point()
 * switches, how often a park returns without a permit (R4 allows it), how much time a step takes,
 * and whether tasks are drawn uniformly or by random priorities with few changes, which finds other
 * bugs: those that need one task to run long while another stands still (after Burckhardt et al.,
 * "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", 2010).
 *
 * Invariants:
 *   I1  A live task is exactly one of: running, in ready[], or PARKED.
 *   I2  ready[] and the heap have room for every task (reserved by spawn), so unparking never
 *       fails.
 *   I3  Nothing here depends on addresses or real time: equal seeds give equal traces.
 */
#include "base/clock.h"
#include "task/task_int.h"

#include <stdio.h>
#include <string.h>

/* Not 0: differences to "some time ago" must not underflow. */
#define SIM_START_NS    UINT64_C(1000000000)
#define HANG_NAMES_MAX  8u                   /* tasks named in the message of a hang */
#define PRIORITY_MIDDLE UINT32_C(0x80000000) /* drawn ones are above, demoted ones below */

/* How this simulation treats its tasks; drawn from the seed once. */
struct manner {
    uint32_t point_den;    /* task_point() switches once in so many */
    uint32_t spurious_den; /* a park returns without a permit once in so many; 0: never */
    uint32_t step_ns;      /* a step takes 1 .. so many */
    uint32_t
        demote_den; /* priorities: a step demotes its task once in so many; 0: uniform choice */
};

struct event {
    struct task__timer timer;
    void (*fn)(void *arg);
    void *arg;
    struct event *next; /* free list */
};

struct sim {
    struct task_runtime rt; /* first */
    struct random random;
    struct random entropy;
    struct manner manner;
    size_t stack_bytes;
    uint64_t step_max, steps;
    uint64_t now_ns, trace;
    uint64_t next_id;

    struct task **ready;
    uint32_t ready_count, ready_capacity;
    uint32_t live;     /* spawned and not ended */
    struct list tasks; /* all that were not freed */
    struct task__heap heap;
    struct event *events_free;

    struct task__context scheduler;
    struct mem_arena *arena;
    struct task *running;  /* NULL: the scheduler itself */
    uint32_t priority_low; /* given to who is demoted, counting down */
    bool in_run;
    bool halted;
    bool dead; /* halted, hung or out of steps: no task will ever run again */
};

static _Thread_local struct sim *active; /* in task_sim_run() */

static struct sim *
sim_of(struct task_runtime *rt)
{
    ash_assert(rt->is_sim);
    return (struct sim *)(void *)rt;
}

/* ---- Making and dropping ---- */

static void
manner_draw(struct manner *m, struct random *r)
{
    static const uint32_t point[] = { 1, 2, 3, 8, 32 };
    static const uint32_t spurious[] = { 0, 0, 8, 32 };
    static const uint32_t step[] = { 20, 500, 500, 10000 };
    static const uint32_t demote[] = { 0, 0, 0, 16, 128 };
    m->point_den = point[random_below(r, ASH_ARRAY_SIZE(point))];
    m->spurious_den = spurious[random_below(r, ASH_ARRAY_SIZE(spurious))];
    m->step_ns = step[random_below(r, ASH_ARRAY_SIZE(step))];
    m->demote_den = demote[random_below(r, ASH_ARRAY_SIZE(demote))];
}

ash_rc
task_sim_create(const struct task_sim_options *options, struct task_runtime **out)
{
    struct mem_arena *arena = mem_arena_suspend();
    struct sim *s = mem_zalloc(MEM_TASK, sizeof(*s));
    mem_arena_resume(arena);
    if (s == NULL)
        return ASH_NO_MEMORY;
    s->arena = mem_arena_begin();
    if (s->arena == NULL) {
        mem_free(MEM_TASK, s);
        return ASH_NO_MEMORY;
    }
    s->rt.is_sim = true;
    random_init(&s->random, options->seed);
    random_init(&s->entropy, random_u64(&s->random));
    manner_draw(&s->manner, &s->random);
    assert_note_seed(options->seed);
    s->stack_bytes = options->stack_bytes;
    s->step_max = options->step_max;
    s->now_ns = SIM_START_NS;
    s->priority_low = PRIORITY_MIDDLE;
    list_init(&s->tasks);
    *out = &s->rt;
    return ASH_OK;
}

/* An ended or abandoned task. */
static void
sim_task_drop(struct task *t)
{
    list_remove(&t->link);
    if (t->stack != NULL) {
        task__context_drop(&t->context);
        task__stack_put(t->stack);
        t->stack = NULL;
    }
    task__put(t);
}

void
task__sim_destroy(struct task_runtime *rt)
{
    struct sim *s = sim_of(rt);
    ash_assert(!s->in_run);
    ash_assert(s->dead || list_empty(&s->tasks)); /* all joined */
    struct task__timer *t;
    while ((t = task__heap_first(&s->heap)) != NULL) { /* what was still to happen */
        task__heap_remove(&s->heap, t);
        if (t->is_event)
            mem_free(MEM_TASK, list_entry(t, struct event, timer));
    }
    while (s->events_free != NULL) {
        struct event *e = s->events_free;
        s->events_free = e->next;
        mem_free(MEM_TASK, e);
    }
    task__heap_deinit(&s->heap);
    LIST_FOREACH_SAFE(it, tmp, &s->tasks) {
        sim_task_drop(list_entry(it, struct task, link));
    }
    mem_free(MEM_TASK, s->ready);
    mem_arena_release(s->arena);
    mem_free(MEM_TASK, s);
}

/* ---- Time and randomness of the running simulation ---- */

static uint64_t
sim_clock(void)
{
    return active->now_ns;
}

struct random *
task_sim_random(struct task_runtime *rt)
{
    return &sim_of(rt)->random;
}

uint64_t
task_sim_trace(const struct task_runtime *rt)
{
    return ((const struct sim *)(const void *)rt)->trace;
}

uint64_t
task_sim_steps(const struct task_runtime *rt)
{
    return ((const struct sim *)(const void *)rt)->steps;
}

uint64_t
task_sim_memory(const struct task_runtime *rt)
{
    return mem_arena_used(((const struct sim *)(const void *)rt)->arena);
}

static void
trace_add(struct sim *s, uint64_t event)
{
    s->trace = hash_u64(s->trace + event) + s->trace * 31;
}

void
task_sim_trace_add(struct task_runtime *rt, uint64_t event)
{
    trace_add(sim_of(rt), event);
}

/* A number in [0, bound) from 32 random bits; the bias is far below what a test could see. */
static uint32_t
scale(uint32_t bits, uint32_t bound)
{
    return (uint32_t)((uint64_t)bits * bound >> 32);
}

static bool
once_in(struct sim *s, uint32_t den)
{
    return den != 0 && scale((uint32_t)(random_u64(&s->random) >> 32), den) == 0;
}

/* ---- Ready tasks and events ---- */

static void
ready_push(struct sim *s, struct task *t)
{
    ash_assert(s->ready_count < s->ready_capacity); /* I2 */
    s->ready[s->ready_count++] = t;
}

static ash_rc
ready_reserve(struct sim *s, uint32_t capacity)
{
    if (capacity <= s->ready_capacity)
        return ASH_OK;
    uint32_t grown = s->ready_capacity == 0 ? 16 : s->ready_capacity * 2;
    struct mem_arena *arena = mem_arena_suspend();
    struct task **v = mem_realloc(MEM_TASK, s->ready, grown * sizeof(struct task *));
    mem_arena_resume(arena);
    if (v == NULL)
        return ASH_NO_MEMORY;
    s->ready = v;
    s->ready_capacity = grown;
    return ASH_OK;
}

ash_rc
task_sim_at(struct task_runtime *rt, uint64_t at_ns, void (*fn)(void *arg), void *arg)
{
    struct sim *s = sim_of(rt);
    ash_rc rc = task__heap_reserve(&s->heap, s->heap.count + s->live + 1); /* I2 */
    if (rc != ASH_OK)
        return rc;
    struct event *e = s->events_free;
    if (e != NULL) {
        s->events_free = e->next;
    } else {
        struct mem_arena *arena = mem_arena_suspend();
        e = mem_alloc(MEM_TASK, sizeof(*e));
        mem_arena_resume(arena);
        if (e == NULL)
            return ASH_NO_MEMORY;
    }
    *e = (struct event){ .timer.is_event = true, .fn = fn, .arg = arg };
    task__heap_add(&s->heap, &e->timer, at_ns);
    return ASH_OK;
}

/* ---- Tasks ---- */

static void
sim_entry(void *arg)
{
    struct task *t = arg;
    task__context_entered(&active->scheduler);
    t->fn(t->arg);
    task__end(t);
    task__context_leave(&active->scheduler);
}

ash_rc
task__sim_spawn(struct task_runtime *rt, const char *name, void (*fn)(void *arg), void *arg,
                struct task **out)
{
    struct sim *s = sim_of(rt);
    struct task *t = NULL;
    ash_rc rc;

    ash_assert(!s->dead);
    rc = ready_reserve(s, s->live + 1);
    if (rc == ASH_OK)
        rc = task__heap_reserve(&s->heap, s->heap.count + s->live + 1);
    if (rc != ASH_OK)
        return rc;
    t = task__get(TASK__SIM, name);
    if (t == NULL)
        return ASH_NO_MEMORY;
    t->stack = task__stack_get(s->stack_bytes);
    if (t->stack == NULL) {
        task__put(t);
        return ASH_NO_MEMORY;
    }
    atomic_store_explicit(&t->state, TASK__EMPTY,
                          memory_order_relaxed); /* I3: no permit from an earlier life */
    task__context_make(&t->context, t->stack, sim_entry, t);
    t->rt = rt;
    t->fn = fn;
    t->arg = arg;
    t->id = ++s->next_id;
    t->arena = s->arena;
    t->priority = PRIORITY_MIDDLE | (uint32_t)random_u64(&s->random);
    list_push_back(&s->tasks, &t->link);
    s->live++;
    ready_push(s, t);
    *out = t;
    return ASH_OK;
}

void
task__sim_free(struct task *t)
{
    ash_assert(atomic_load(&t->ended) != 0 && t->stack == NULL);
    sim_task_drop(t);
}

static struct sim *
sim_running(const struct task *self)
{
    struct sim *s = active;
    ash_assert(s != NULL && s->running == self);
    return s;
}

static void
demote(struct sim *s, struct task *t)
{
    t->priority = --s->priority_low;
}

/* Lets the scheduler choose, with self among the ready. */
static void
switch_ready(struct sim *s, struct task *self)
{
    ready_push(s, self);
    task__context_switch(&self->context, &s->scheduler);
}

void
task__sim_yield(struct task *self)
{
    struct sim *s = sim_running(self);
    demote(s, self); /* or a task that spins on another's work would starve it */
    switch_ready(s, self);
}

void
task_point_slow(void)
{
    struct task *self = task__current;
    struct sim *s = sim_running(self);
    if (once_in(s, s->manner.point_den))
        switch_ready(s, self);
}

bool
task__sim_park(struct task *self, uint64_t deadline_ns)
{
    struct sim *s = sim_running(self);
    if (atomic_load_explicit(&self->state, memory_order_relaxed) == TASK__PERMIT) {
        atomic_store_explicit(&self->state, TASK__EMPTY, memory_order_relaxed);
        task_point_slow();
        return true;
    }
    if (deadline_ns <= s->now_ns) {
        switch_ready(s, self);
        return false;
    }
    if (once_in(s, s->manner.spurious_den)) {
        switch_ready(s, self);
        return true; /* R4; a permit that came meanwhile stays for the next park */
    }
    atomic_store_explicit(&self->state, TASK__PARKED, memory_order_relaxed);
    if (deadline_ns != TASK_FOREVER)
        task__heap_add(&s->heap, &self->timer, deadline_ns);
    task__context_switch(&self->context, &s->scheduler);
    if (self->timer.pos != 0)
        task__heap_remove(&s->heap, &self->timer);
    return atomic_exchange_explicit(&self->state, TASK__EMPTY, memory_order_relaxed) ==
           TASK__PERMIT;
}

void
task__sim_unpark(struct task *t)
{
    ready_push(sim_of(t->rt), t);
}

void
task_sim_halt(struct task_runtime *rt)
{
    struct sim *s = sim_of(rt);
    ash_assert(s->in_run && s == active);
    s->halted = true;
    s->dead = true;
    if (s->running != NULL)
        task__context_leave(&s->scheduler);
}

/* ---- The loop ---- */

bool
task__sim_here(void)
{
    return active != NULL;
}

static void
fire_due(struct sim *s)
{
    struct task__timer *first;
    while ((!s->halted || PLANTED(19)) && (first = task__heap_first(&s->heap)) != NULL &&
           first->at_ns <= s->now_ns) {
        task__heap_remove(&s->heap, first);
        if (first->is_event) {
            struct event *e = list_entry(first, struct event, timer);
            void (*fn)(void *arg) = e->fn;
            void *arg = e->arg;
            e->next = s->events_free;
            s->events_free = e;
            fn(arg);
            continue;
        }
        struct task *t = list_entry(first, struct task, timer);
        if (atomic_load_explicit(&t->state, memory_order_relaxed) == TASK__PARKED) {
            atomic_store_explicit(&t->state, TASK__EMPTY, memory_order_relaxed);
            ready_push(s, t);
        } /* else it was unparked and is in ready[] already */
    }
}

static uint32_t
pick_highest(const struct sim *s)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < s->ready_count; i++) {
        if (s->ready[i]->priority > s->ready[best]->priority)
            best = i;
    }
    return best;
}

/* Draws the next task and lets a little time pass. */
static struct task *
pick(struct sim *s)
{
    uint64_t bits = random_u64(&s->random);
    uint32_t i = s->manner.demote_den != 0 ? pick_highest(s)
                                           : scale((uint32_t)(bits >> 32), s->ready_count);
    struct task *t = s->ready[i];
    s->ready[i] = s->ready[--s->ready_count];
    if (s->manner.demote_den != 0 && scale((uint32_t)(bits >> 32), s->manner.demote_den) == 0)
        demote(s, t);
    s->now_ns += 1 + scale((uint32_t)bits, s->manner.step_ns);
    s->steps++;
    if (PLANTED(13)) { /* state of the process leaks into the run */
        static uint64_t leak;
        s->now_ns += ++leak % 2;
    }
    trace_add(s, t->id << 40 ^ s->now_ns);
    return t;
}

static void
run(struct sim *s, struct task *t)
{
    struct task *host = task__current;
    struct err_detail *host_slot = err_slot;

    s->running = t;
    task__current = t;
    err_slot = &t->err;
    task_sim_active = true;
    mem_arena_resume(t->arena);
    task__context_switch(&s->scheduler, &t->context);
    t->arena = mem_arena_suspend();
    mem_arena_resume(s->arena);
    task_sim_active = false;
    err_slot = host_slot;
    task__current = host;
    s->running = NULL;
    if (atomic_load_explicit(&t->ended, memory_order_relaxed) == 0)
        return;
    s->live--;
    task__context_drop(&t->context);
    task__stack_put(t->stack);
    t->stack = NULL;
}

static ash_rc
raise_hang(const struct sim *s, const char *what)
{
    char names[HANG_NAMES_MAX * (TASK__NAME_MAX + 2) + 8] = "";
    size_t used = 0;
    uint32_t count = 0;
    LIST_FOREACH(it, &s->tasks) {
        const struct task *t = list_entry(it, struct task, link);
        if (atomic_load_explicit(&t->ended, memory_order_relaxed) != 0 || count++ >= HANG_NAMES_MAX)
            continue;
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", used == 0 ? "" : ", ",
                                 t->name);
    }
    return ash_raise(ASH_INTERNAL, "The simulation hangs after %llu steps: %s (%u live: %s%s).",
                     (unsigned long long)s->steps, what, s->live, names,
                     count > HANG_NAMES_MAX ? ", ..." : "");
}

static ash_rc
sim_loop(struct sim *s)
{
    while (s->live > 0) {
        fire_due(s);
        if (s->halted && !PLANTED(19))
            return ASH_CANCELLED;
        if (s->ready_count == 0) {
            const struct task__timer *first = task__heap_first(&s->heap);
            if (first == NULL)
                return raise_hang(s, "all tasks are parked and nothing is left to wake them");
            s->now_ns = first->at_ns;
            continue;
        }
        if (s->step_max != 0 && s->steps >= s->step_max)
            return raise_hang(s, "the step budget is spent");
        run(s, pick(s));
        if (s->halted && !PLANTED(19))
            return ASH_CANCELLED;
    }
    return ASH_OK;
}

ash_rc
task_sim_run(struct task_runtime *rt, void (*fn)(void *arg), void *arg)
{
    struct sim *s = sim_of(rt);
    struct task *main_task;
    ash_rc rc;

    ash_assert(active == NULL && !s->in_run); /* one simulation at a time on a thread */
    if (s->dead)
        return ash_raise(ASH_MISUSE, "This simulation was halted or hangs; create a new one.");
    rc = task__sim_spawn(rt, "main", fn, arg, &main_task);
    if (rc != ASH_OK)
        return rc;

    uint64_t (*clock_before)(void) = clock_source;
    struct random *entropy_before = random_entropy_source;
    struct mem_arena *arena_before = mem_arena_suspend();
    active = s;
    s->in_run = true;
    clock_source = sim_clock;
    random_entropy_source = &s->entropy;
    mem_arena_resume(s->arena);
    task__context_adopt(&s->scheduler);
    rc = sim_loop(s);
    mem_arena_resume(arena_before);
    random_entropy_source = entropy_before;
    clock_source = clock_before;
    s->in_run = false;
    active = NULL;

    if (rc == ASH_OK)
        sim_task_drop(main_task);
    else
        s->dead = true;
    return rc;
}
