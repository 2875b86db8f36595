/* SPDX-License-Identifier: Apache-2.0
 *
 * task_int.h - what the files of src/task share: the task itself, contexts, stacks, timers.
 *
 * Read first: README.md (the three kinds, the permit word).
 *
 * Memory of tasks (T): a struct task is never given back to the allocator, only to a pool of tasks.
 * A waker may therefore still touch the task of someone who has already seen its condition,
 * returned and ended; the worst outcome is a permit for whoever uses the struct next, which R4
 * allows.
 */
#ifndef ASH_TASK_INT_H
#define ASH_TASK_INT_H

#include "base/assert.h"
#include "base/mem.h"
#include "base/random.h"
#include "task/task.h"

#include <pthread.h>

#if defined(__SANITIZE_ADDRESS__)
    #define TASK__ASAN 1
#elif defined(__has_feature)
    #if __has_feature(address_sanitizer)
        #define TASK__ASAN 1
    #endif
#endif
#if defined(__SANITIZE_THREAD__)
    #define TASK__TSAN 1
#elif defined(__has_feature)
    #if __has_feature(thread_sanitizer)
        #define TASK__TSAN 1
    #endif
#endif

#ifdef TASK__ASAN
    #define TASK__STACK_DEFAULT \
        ((size_t)512 << 10) /* red zones make frames two to three times as big */
#else
    #define TASK__STACK_DEFAULT \
        ((size_t)256 << 10) /* address space; only touched pages cost memory */
#endif
#define TASK__STACK_MIN ((size_t)16 << 10)
#define TASK__NAME_MAX  32 /* bytes with the ending zero; longer names are cut */

/* ---- Stacks (task_stack.c) ---- */

/* One mapping: guard pages that fault, then the stack, with this head at its upper end. */
struct task__stack {
    struct task__stack *next; /* in a cache */
    void *map;
    size_t map_bytes;
    void *base;   /* lowest usable byte */
    size_t bytes; /* usable, without this head */
    unsigned valgrind_id;
};

/* From the calling thread's cache when one of that size is there.  NULL and raised when memory is
 * short. */
struct task__stack *task__stack_get(size_t bytes);
void task__stack_put(struct task__stack *s);
/* Bytes from its upper end down to the lowest page in memory.  From any thread while it exists. */
size_t task__stack_touched(const struct task__stack *s);
/* Gives the pages below the stack pointer of a fiber that does not run back to the system. */
void task__stack_give_back(struct task__stack *s, const void *sp);

/* ---- Contexts (task_switch.c) ---- */

struct task__context {
    void *sp;
    const void *stack_base; /* what sanitizers want to know */
    size_t stack_bytes;
    void *fake_stack;
    void *tsan_fiber;
};

/* Makes a context that calls entry(arg) on `stack` when first switched to; entry never returns. */
void task__context_make(struct task__context *c, struct task__stack *stack,
                        void (*entry)(void *arg), void *arg);
void task__context_drop(struct task__context *c); /* one that will not run again */
void task__context_adopt(
    struct task__context *c); /* the caller's own stack, before it first switches away */
/* Runs `to` until it switches back to `from`. */
void task__context_switch(struct task__context *from, struct task__context *to);
/* To be called first by an entry function; `from` is who switched to it. */
void task__context_entered(struct task__context *from);
_Noreturn void
task__context_leave(struct task__context *to); /* the last switch of an ended fiber */

/* ---- Timers (task_timer.c): a binary heap of embedded nodes ---- */

struct task__timer {
    uint64_t at_ns;
    uint64_t seq;  /* first come, first served among equals */
    uint32_t pos;  /* place in the heap + 1; 0: not in it */
    bool is_event; /* simulation: not a task's */
};

struct task__heap {
    struct task__timer **v;
    uint32_t count, capacity;
    uint64_t seq;
};

void task__heap_deinit(struct task__heap *h);
ASH_MUST_CHECK ash_rc task__heap_reserve(struct task__heap *h, uint32_t capacity);
void
task__heap_add(struct task__heap *h, struct task__timer *t, uint64_t at_ns); /* room was reserved */
void task__heap_remove(struct task__heap *h, struct task__timer *t);
static inline struct task__timer *
task__heap_first(const struct task__heap *h)
{
    return h->count == 0 ? NULL : h->v[0];
}

/* ---- Tasks ---- */

enum task__kind {
    TASK__HOST = 1,
    TASK__FIBER,
    TASK__SIM
};

/* The permit word, on every kind of task.  Only the task itself goes EMPTY -> PARKED and takes a
 * PERMIT; anybody makes PERMIT of the other two; who made it of PARKED must see to it that the task
 * runs. */
enum {
    TASK__EMPTY = 0,
    TASK__PERMIT = 1,
    TASK__PARKED = 2
};

struct task {
    _Atomic uint32_t state; /* host: also the futex word */
    enum task__kind kind;

    /* ending: see task_join() */
    _Atomic uint32_t ended;
    struct task *_Atomic joiner;
    void (*fn)(void *arg);
    void *arg;
    struct task_runtime *rt; /* of spawned tasks, else NULL */
    pthread_t thread;        /* spawned on a thread runtime */

    /* fibers and simulated tasks; touched only by the thread that runs them */
    struct task__context context;
    struct task__stack *stack;
    struct list link; /* executor: ready or idle list; simulation: all tasks */
    struct task__timer timer;
    struct mem_arena *arena; /* mem_arena_current while switched away */
    bool idle;               /* executor: has no request */
    bool worn;               /* executor: has run since its stack was given back */
    uint64_t slice_switch; /* executor: its count of switches when this slice was first looked at */
    uint64_t slice_ns;     /* ... and the time */
    uint32_t priority;     /* simulation */
    uint64_t id;           /* simulation: number of the spawn */
    struct task_executor *executor;
    struct task *inbox_next; /* in the executor's inbox; owned by who made the permit of PARKED */

    char name[TASK__NAME_MAX];
    struct err_detail err;
    struct task *pool_next;
};

extern _Thread_local struct task
    *task__current; /* NULL: the thread's host task was not needed yet */

struct task *
task__get(enum task__kind kind, const char *name); /* NULL and raised when memory is short */
void task__put(struct task *t);

/* Ends the running task: sets `ended`, wakes the joiner.  The caller then leaves without touching
 * it. */
void task__end(struct task *t);

/* Spins on a word that is held for a few instructions only and never across a park. */
void task__spin_lock(_Atomic uint32_t *lock);
static inline void
task__spin_unlock(_Atomic uint32_t *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

/* ---- Simulation (task_sim.c) ---- */

void task__sim_destroy(struct task_runtime *rt);
ASH_MUST_CHECK ash_rc task__sim_spawn(struct task_runtime *rt, const char *name,
                                      void (*fn)(void *arg), void *arg, struct task **out);
bool task__sim_park(struct task *self, uint64_t deadline_ns);
void task__sim_unpark(struct task *t); /* its word was PARKED */
void task__sim_yield(struct task *self);
void task__sim_free(struct task *t); /* an ended task */
bool task__sim_here(void);           /* the calling thread is inside task_sim_run() */

/* ---- Executors (task_executor.c) ---- */

bool task__fiber_park(struct task *self, uint64_t deadline_ns);
void task__fiber_unpark(struct task *t); /* its word was PARKED */
void task__fiber_yield(struct task *self);
void task__fiber_fair_point(struct task *self);

struct task_runtime {
    bool is_sim;
    _Atomic uint32_t threads; /* spawned and not joined, on a thread runtime */
};

#endif
