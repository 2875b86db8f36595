/* SPDX-License-Identifier: Apache-2.0
 *
 * task.h - who runs, and who waits for what.
 *
 * Every activity is a task.  A task that must wait parks; whoever has what it waits for unparks it.
 * Three kinds of task share one code base:
 *   host      an application's thread (made on first use); parking blocks the thread (futex);
 *   fiber     a stackful fiber on an executor thread; parking switches to the next ready fiber;
 *   simulated a fiber on the one seeded scheduler of a simulation; time is simulated.
 *
 * Rules (cite by number):
 *   R1  A task parks only at the functions marked "parks" below and at those built on them.
 *   R2  No fiber moves to another thread, so thread-local pointers survive parking on executors.
 *   R3  Under simulation one task runs at a time and is switched only where it parks, yields or
 *       calls task_point(). Code between such points is atomic; a spin loop there would never end:
 *       use task_relax() in every spin loop.
 *   R4  The permit: task_unpark() before task_park() makes that park return at once; permits don't
 *       add up. A park may also return without one (spurious): always re-test the condition.
 */
#ifndef ASH_TASK_H
#define ASH_TASK_H

#include <ashlar.h>

#include "base/error.h"
#include "base/list.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct task;
struct task_runtime; /* where background tasks run: threads, or a simulation */

#define TASK_FOREVER UINT64_MAX

/* ---- Runtime ---- */

/* Background tasks become threads. */
ASH_MUST_CHECK ash_rc task_runtime_create(struct task_runtime **out);

struct task_sim_options {
    uint64_t seed;
    size_t stack_bytes; /* per fiber; 0: default */
    uint64_t
        /* scheduler steps before task_sim_run() gives up (a hang is a finding); 0: no limit */
        step_max;
};
/* A simulation: everything runs on the calling thread, in an order drawn from the seed.  A failed
 * assertion will print that seed; a harness that replays by another calls assert_note_seed() after
 * this. */
ASH_MUST_CHECK ash_rc task_sim_create(const struct task_sim_options *options,
                                      struct task_runtime **out);
/* Runs fn as a simulated task and schedules until it has returned and its spawned tasks have ended
 * or the runtime was halted.  ASH_OK, ASH_CANCELLED when halted, ASH_INTERNAL when the step budget
 * is spent or all tasks are parked for ever. */
ASH_MUST_CHECK ash_rc task_sim_run(struct task_runtime *rt, void (*fn)(void *arg), void *arg);
/* Power cut: task_sim_run() returns ASH_CANCELLED without letting any task run again.  Called by a
 * simulated task it does not return; called by a task_sim_at() function it does, and the simulation
 * ends when that function has returned. Nothing is unwound.  What the abandoned tasks had stays
 * readable until task_runtime_destroy(), which takes their stacks back and releases all memory that
 * was allocated during the run (see mem_arena_suspend() for memory that must outlive it). */
void task_sim_halt(struct task_runtime *rt);
/* Hash of every scheduling decision and traced event: equal seeds give equal hashes. */
uint64_t task_sim_trace(const struct task_runtime *rt);
void task_sim_trace_add(struct task_runtime *rt, uint64_t event);
/* Calls fn(arg) from the scheduler (not a task: must not park) at simulated time `at_ns`. */
ASH_MUST_CHECK ash_rc task_sim_at(struct task_runtime *rt, uint64_t at_ns, void (*fn)(void *arg),
                                  void *arg);
struct random *
task_sim_random(struct task_runtime *rt); /* the scheduler's generator; fork your own from it */
bool task_runtime_is_sim(const struct task_runtime *rt);
uint64_t task_sim_steps(const struct task_runtime *rt); /* so far */
/* Bytes allocated during the run and not freed.  After a run that ended with ASH_OK: what leaked.
 * What is there at task_runtime_destroy() is released with it, whatever the outcome: results must
 * be copied out before. */
uint64_t task_sim_memory(const struct task_runtime *rt);

void task_runtime_destroy(
    struct task_runtime *rt); /* all spawned tasks must be joined (or the simulation halted) */

/* Runs init() when the first caller of the process comes here; others wait for it.  Also begins to
 * count forks. */
void task_process_init(void (*init)(void));
/* Grows in a child process at each fork(): handles of the parent are told by it. */
extern _Atomic uint32_t task_fork_generation;

/* ---- Tasks ---- */

struct task *task_self(void); /* never NULL; makes the host task of a thread on first use */
const char *task_name(const struct task *t);
bool task_is_fiber(void); /* the caller runs on an executor or in a simulation */

/* Starts a background task: a thread, or a simulated fiber.  Join it exactly once. */
ASH_MUST_CHECK ash_rc task_spawn(struct task_runtime *rt, const char *name, void (*fn)(void *arg),
                                 void *arg, struct task **out);
void task_join(struct task *t); /* parks until it has ended, then frees it */

/* Parks until unparked, or until clock_ns() reaches the deadline (then false).  Parks (R4). */
void task_park(void);
bool task_park_until(uint64_t deadline_ns);
void task_unpark(struct task *t); /* from any thread; the task must not have been freed */
void task_yield(void);            /* lets others run.  Parks. */
void task_sleep_ns(uint64_t ns);  /* parks */
/* Gives back the stacks that the calling thread keeps for reuse (it does so by itself when it
 * ends). */
void task_cache_release(void);

extern _Thread_local bool task_sim_active; /* the running task is simulated */
void task_point_slow(void);
/* A possible switch in simulation, nothing otherwise.  Put it where a race could hide; never while
 * holding a spinlock. */
static inline void
task_point(void)
{
    if (__builtin_expect(task_sim_active, 0))
        task_point_slow();
}
extern _Thread_local uint32_t task_fair_points;
void task_fair_point_slow(void);
#define TASK_FAIR_EVERY 8u
/* Where long work may be interrupted: a fiber that has run for its slice lets others of its executor
 * run (parks).  Put it into every loop whose length the caller decides, where no latch is held. */
static inline void
task_fair_point(void)
{
    if (__builtin_expect(++task_fair_points >= TASK_FAIR_EVERY, 0))
        task_fair_point_slow();
}
/* One turn of a spin loop: a pause instruction; yields in simulation and, after many turns, on
 * executors and threads. */
void task_relax(unsigned *spins);

/* ---- Waiting, built on parking ---- */

/* Non-recursive, fair enough; parks. */
struct task_mutex {
    _Atomic uint32_t state;
    struct list waiters;
};
void task_mutex_init(struct task_mutex *m);
void task_mutex_lock(struct task_mutex *m);
bool task_mutex_trylock(struct task_mutex *m);
void task_mutex_unlock(struct task_mutex *m);

/* Condition: wait with a mutex held, as pthread_cond_t.  Wakes may be spurious. */
struct task_cond {
    _Atomic uint32_t lock, count;
    struct list waiters;
};
void task_cond_init(struct task_cond *c);
void task_cond_wait(struct task_cond *c, struct task_mutex *m);
bool task_cond_wait_until(struct task_cond *c, struct task_mutex *m,
                          uint64_t deadline_ns); /* false: time is up */
void task_cond_signal(struct task_cond *c);
void task_cond_broadcast(struct task_cond *c);

/* Waiting for a condition on shared words without a mutex:
 *     task_wait_begin(&q, &w); while (!condition) { task_park..(); } task_wait_end(&q, &w);
 * The setter changes the words, then calls task_wait_wake(&q).  A fence makes one of the two see
 * the other. task_wait_begin costs a spinlock; wake with no waiter costs one load. */
struct task_waitq {
    _Atomic uint32_t lock;
    _Atomic uint32_t count;
    struct list waiters;
};
struct task_waiter {
    struct list link;
    struct task *task;
    uint64_t key;
};
void task_waitq_init(struct task_waitq *q);
void task_wait_begin(struct task_waitq *q, struct task_waiter *w,
                     uint64_t key); /* key: for task_wait_wake_key */
void task_wait_end(struct task_waitq *q, struct task_waiter *w);
void task_wait_wake(struct task_waitq *q);                   /* all */
void task_wait_wake_key(struct task_waitq *q, uint64_t key); /* those with key <= `key` */
void task_wait_wake_equal(struct task_waitq *q, uint64_t key);

/* ---- Events: what a thread that waits in poll() can be told by ---- */

/* A descriptor that is readable from task_event_set() until task_event_clear().  `who` is for the
 * error's text.  close() takes -1. */
ASH_MUST_CHECK ash_rc task_event_open(const char *who, int *fd_out);
void task_event_set(int fd);
void task_event_clear(int fd);
void task_event_close(int fd);

/* ---- Executors ---- */

struct task_executor;

/* What the I/O layer hangs into an executor's loop (and what a simulation does not need).  All
 * calls come from the executor's thread. */
struct task_poller {
    struct task_poller *next;
    bool (*poll)(struct task_poller
                     *p); /* submit what is queued, reap, unpark; true when something was reaped */
    /* Submit and sleep until a completion, `wake_fd` is readable, or the deadline (TASK_FOREVER:
     * none). */
    void (*wait)(struct task_poller *p, int wake_fd, uint64_t deadline_ns);
    void (*destroy)(struct task_poller *p);
};

/* Starts a thread that runs up to `fibers` fibers; queue_max requests may wait. */
ASH_MUST_CHECK ash_rc task_executor_create(struct task_runtime *rt, const char *name,
                                           unsigned fibers, unsigned queue_max, size_t stack_bytes,
                                           struct task_executor **out);
/* Queues fn(arg) to run on a fiber.  Blocks (parks) while the queue is full; with `wait` false
 * returns ASH_WOULD_BLOCK. */
ASH_MUST_CHECK ash_rc task_executor_submit(struct task_executor *ex, void (*fn)(void *arg),
                                           void *arg, bool wait);
void task_executor_destroy(struct task_executor *ex); /* finishes what was queued, then stops */
/* How much it has to do: requests that wait and those that run.  A moment's view. */
unsigned task_executor_load(struct task_executor *ex);
bool
task_executor_full(struct task_executor *ex); /* no request may wait any more; a moment's view */

struct task_executor_stats {
    uint64_t queued, busy, fibers; /* now */
    uint64_t finished;             /* requests */
    uint64_t switches;             /* to a fiber */
    uint64_t slices_spent;         /* fibers that were interrupted at a task_fair_point() */
    uint64_t stack_bytes;          /* addresses of all stacks */
    uint64_t stack_resident;       /* of them in memory now */
    uint64_t stack_high;           /* most that one fiber ever needed, in whole pages */
    uint64_t stacks_given_back;
};
/* Adds one executor's figures to *sum.  Costs a system call per fiber. */
void task_executor_stats(struct task_executor *ex, struct task_executor_stats *sum);

/* The executor that the caller's fiber runs on, or NULL. */
struct task_executor *task_executor_self(void);
/* Adds a poller to the caller's executor; polled every 32 switches and when nothing is ready. */
void task_executor_add_poller(struct task_executor *ex, struct task_poller *p);
/* In simulation executors are a bounded set of simulated tasks behind the same calls. */

#endif
