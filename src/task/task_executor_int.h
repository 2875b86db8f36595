/* SPDX-License-Identifier: Apache-2.0
 *
 * task_executor_int.h - an executor: its ring of requests, its fibers, its loop.
 *
 * Read first: task_executor.c (the loop, who touches what), task_executor_queue.c (the ring).
 *
 * Invariants:
 *   I1  A fiber is exactly one of: running, in `ready`, in `spent`, in `idle`, PARKED, or with a
 *       permit on its way through the inbox.
 *   I2  room + requests in the ring or being written = queue_max: who holds a place may write its
 *       cell without looking.
 *   I3  `users` > 0 while another thread may touch the executor after its last request could have
 *       finished.
 */
#ifndef ASH_TASK_EXECUTOR_INT_H
#define ASH_TASK_EXECUTOR_INT_H

#include "base/bits.h"
#include "task/task_int.h"

struct task__cell {
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
    struct task__cell *ring;
    int wake_fd;
    /* of fibers_max entries, `stack_count` filled; they stay until the executor ends */
    struct task__stack **stacks;

    /* shared */
    _Atomic uint64_t tail ASH_ALIGNED_LINE; /* next position to write */
    _Atomic uint32_t room;                  /* I2 */
    _Atomic uint32_t users;                 /* I3 */
    struct task *_Atomic inbox ASH_ALIGNED_LINE;
    _Atomic uint32_t sleeping;
    _Atomic uint32_t stop;
    struct task_waitq room_waiters;

    /* written by the executor's thread only (in a simulation: by whoever runs), read by all */
    _Atomic uint32_t busy ASH_ALIGNED_LINE; /* fibers with a request */
    _Atomic uint32_t stack_count;
    _Atomic uint32_t stack_high; /* bytes: the deepest seen before stacks were given back */
    _Atomic uint64_t finished, switches, slices_spent, stacks_given_back;

    /* the executor's thread only; in a simulation whoever runs */
    uint64_t head ASH_ALIGNED_LINE; /* next position to read */
    struct list ready, spent, idle;
    uint32_t ready_count;
    unsigned fiber_count;
    struct task__heap heap;
    struct task__context scheduler;
    struct task *running;
    struct task_poller *pollers;
    uint64_t polled_at; /* `switches` then */
    bool slice_over;    /* the running fiber has used up its slice */
    /* giving back stacks: fibers busy at once since `period_ns`, and those worn since */
    uint64_t period_ns;
    unsigned busy_peak, worn;
    struct task *thread;

    /* simulation */
    struct task **workers;
    char name[TASK__NAME_MAX];
};

/* A counter that one thread writes and others read. */
#define TASK__COUNT(counter, n)                                                         \
    atomic_store_explicit(&(counter),                                                   \
                          atomic_load_explicit(&(counter), memory_order_relaxed) + (n), \
                          memory_order_relaxed)

/* task_executor_queue.c */
static inline bool
task__ring_empty(struct task_executor *ex)
{
    return atomic_load(&ex->ring[ex->head & ex->mask].seq) != ex->head + 1;
}
bool task__ring_pop(struct task_executor *ex, void (**fn_out)(void *arg), void **arg_out);
void task__executor_wake(struct task_executor *ex);

/* task_executor.c */
ASH_MUST_CHECK ash_rc task__fiber_add(struct task_executor *ex); /* one more idle fiber */
void task__fiber_drop(struct task_executor *ex); /* the only one; it has never run */
void task__executor_main(void *arg);

#endif
