/* SPDX-License-Identifier: Apache-2.0
 *
 * task_sync.c - mutex, condition and wait queue, all built on task_park() and task_unpark().
 *
 * Rules of this file:
 *   W1  A waiter's node lives on the waiter's stack.  Who takes it off a list reads its task first,
 *       then sets `woken`, and does not touch it after that: the waiter may have returned.  The
 *       task itself stays readable for ever (T in task_int.h).
 *   W2  A waiter that finds its node unlinked waits until `woken` is set, even when its time is up.
 *   W3  An unlock or wake does not touch the mutex or condition after the moment at which others
 *       may own (and free) it.
 */
#include "base/clock.h"
#include "task/task_int.h"

struct node {
    struct list link;
    struct task *task;
    _Atomic uint32_t woken;
    bool queued;   /* under the list's lock */
    bool hand_off; /* wants to be given the mutex, not a chance at it; under QUEUE */
    bool owner;    /* was given it; written before `woken` */
};

static void
node_wake(struct node *n)
{
    struct task *t = n->task;
    atomic_store_explicit(&n->woken, 1, memory_order_release); /* W1: n is gone from here on */
    task_unpark(t);
}

/* ---- Mutex ----
 *
 * One word: LOCKED, QUEUE (somebody holds the waiters' list for a few instructions), WAITERS (the
 * list is not empty). QUEUE is taken only while LOCKED is set, and while QUEUE is set nobody else
 * changes the word: both are cleared by one store, which is the last touch of an unlock (W3).  A
 * woken waiter competes with newcomers, which keeps a busy mutex busy; after it has lost once it
 * asks for hand-off, so nobody is passed over more than once in a queue round. */

enum {
    MUTEX_LOCKED = 1,
    MUTEX_QUEUE = 2,
    MUTEX_WAITERS = 4
};

/* About as long as one short critical section; parking costs a hundred times that. */
#define MUTEX_SPINS 64u

void
task_mutex_init(struct task_mutex *m)
{
    atomic_init(&m->state, 0);
    list_init(&m->waiters);
}

static bool
mutex_try(struct task_mutex *m, uint32_t seen)
{
    while ((seen & MUTEX_LOCKED) == 0) {
        if (atomic_compare_exchange_weak_explicit(&m->state, &seen, seen | MUTEX_LOCKED,
                                                  memory_order_acquire, memory_order_relaxed))
            return true;
    }
    return false;
}

bool
task_mutex_trylock(struct task_mutex *m)
{
    return mutex_try(m, atomic_load_explicit(&m->state, memory_order_relaxed));
}

/* Puts n on the list; false when the mutex was unlocked meanwhile or another holds the list. */
static bool
mutex_enqueue(struct task_mutex *m, struct node *n, bool front)
{
    uint32_t seen = atomic_load_explicit(&m->state, memory_order_relaxed);
    if ((seen & MUTEX_LOCKED) == 0 || (seen & MUTEX_QUEUE) != 0)
        return false;
    if (!atomic_compare_exchange_strong_explicit(&m->state, &seen, seen | MUTEX_QUEUE,
                                                 memory_order_acquire, memory_order_relaxed))
        return false;
    if (front)
        list_push_front(&m->waiters, &n->link);
    else
        list_push_back(&m->waiters, &n->link);
    atomic_store_explicit(&m->state, MUTEX_LOCKED | MUTEX_WAITERS, memory_order_release);
    return true;
}

static void
mutex_lock_slow(struct task_mutex *m)
{
    struct node n = { .task = task_self() };
    bool may_spin = n.task->kind == TASK__HOST;
    bool front = false;
    unsigned spins = 0;

    for (;;) {
        if (task_mutex_trylock(m))
            return;
        if (may_spin && spins < MUTEX_SPINS) {
            task_relax(&spins);
            continue;
        }
        atomic_store_explicit(&n.woken, 0, memory_order_relaxed);
        n.hand_off = front;
        if (!mutex_enqueue(m, &n, front)) {
            task_relax(&spins);
            continue;
        }
        while (atomic_load_explicit(&n.woken, memory_order_acquire) == 0)
            task_park();
        if (n.owner)
            return;
        front = true;
    }
}

void
task_mutex_lock(struct task_mutex *m)
{
    task_point();
    uint32_t unlocked = 0;
    if (ASH_LIKELY(atomic_compare_exchange_strong_explicit(
            &m->state, &unlocked, MUTEX_LOCKED, memory_order_acquire, memory_order_relaxed)))
        return;
    mutex_lock_slow(m);
}

static void
mutex_unlock_slow(struct task_mutex *m)
{
    unsigned spins = 0;
    for (;;) {
        uint32_t seen = atomic_load_explicit(&m->state, memory_order_relaxed);
        ash_assert((seen & MUTEX_LOCKED) != 0);
        if (seen == MUTEX_LOCKED) {
            if (atomic_compare_exchange_weak_explicit(&m->state, &seen, 0, memory_order_release,
                                                      memory_order_relaxed))
                return;
        } else if ((seen & MUTEX_QUEUE) == 0) {
            if (atomic_compare_exchange_weak_explicit(&m->state, &seen, seen | MUTEX_QUEUE,
                                                      memory_order_acquire, memory_order_relaxed))
                break;
        }
        task_relax(&spins); /* a waiter is just enqueueing itself */
    }
    ash_assert(!list_empty(&m->waiters));
    struct node *n = list_entry(m->waiters.next, struct node, link);
    list_remove(&n->link);
    uint32_t left = list_empty(&m->waiters) ? 0 : MUTEX_WAITERS;
    n->owner = n->hand_off;
    if (n->owner && !PLANTED(18))
        left |= MUTEX_LOCKED;
    atomic_store_explicit(&m->state, left, memory_order_release); /* W3 */
    if (PLANTED(10))
        return;
    node_wake(n);
}

void
task_mutex_unlock(struct task_mutex *m)
{
    uint32_t locked = MUTEX_LOCKED;
    if (ASH_LIKELY(atomic_compare_exchange_strong_explicit(
            &m->state, &locked, 0, memory_order_release, memory_order_relaxed)))
        return;
    mutex_unlock_slow(m);
}

/* ---- Condition ----
 *
 * The waiter joins the list while it still holds the mutex.  A setter that changes the condition
 * under the mutex is either before the waiter's test, or after its unlock and then sees `count`: no
 * wake is lost. */

void
task_cond_init(struct task_cond *c)
{
    atomic_init(&c->lock, 0);
    atomic_init(&c->count, 0);
    list_init(&c->waiters);
}

static void
cond_enqueue(struct task_cond *c, struct node *n)
{
    task__spin_lock(&c->lock);
    list_push_back(&c->waiters, &n->link);
    n->queued = true;
    atomic_fetch_add_explicit(&c->count, 1, memory_order_relaxed);
    task__spin_unlock(&c->lock);
}

/* Takes n off the list; false when a waker has it. */
static bool
cond_withdraw(struct task_cond *c, struct node *n)
{
    task__spin_lock(&c->lock);
    bool queued = n->queued;
    if (queued) {
        list_remove(&n->link);
        n->queued = false;
        atomic_fetch_sub_explicit(&c->count, 1, memory_order_relaxed);
    }
    task__spin_unlock(&c->lock);
    return queued;
}

bool
task_cond_wait_until(struct task_cond *c, struct task_mutex *m, uint64_t deadline_ns)
{
    struct node n = { .task = task_self() };
    bool in_time = true;

    cond_enqueue(c, &n);
    task_mutex_unlock(m);
    while (atomic_load_explicit(&n.woken, memory_order_acquire) == 0) {
        if (task_park_until(deadline_ns))
            continue;
        if (deadline_ns == TASK_FOREVER || clock_ns() < deadline_ns)
            continue; /* spurious */
        if (cond_withdraw(c, &n)) {
            in_time = false;
            break;
        }
        deadline_ns = TASK_FOREVER; /* W2: the wake is under way and counts */
    }
    task_mutex_lock(m);
    return in_time;
}

void
task_cond_wait(struct task_cond *c, struct task_mutex *m)
{
    (void)task_cond_wait_until(c, m, TASK_FOREVER);
}

static struct node *
cond_pop_locked(struct task_cond *c)
{
    if (list_empty(&c->waiters))
        return NULL;
    struct node *n = list_entry(c->waiters.next, struct node, link);
    list_remove(&n->link);
    n->queued = false;
    atomic_fetch_sub_explicit(&c->count, 1, memory_order_relaxed);
    return n;
}

void
task_cond_signal(struct task_cond *c)
{
    if (atomic_load_explicit(&c->count, memory_order_relaxed) == 0)
        return;
    task__spin_lock(&c->lock);
    struct node *n = cond_pop_locked(c);
    task__spin_unlock(&c->lock);
    if (n != NULL)
        node_wake(n);
}

void
task_cond_broadcast(struct task_cond *c)
{
    struct list woken;
    struct node *n;

    if (atomic_load_explicit(&c->count, memory_order_relaxed) == 0)
        return;
    list_init(&woken);
    task__spin_lock(&c->lock);
    while ((n = cond_pop_locked(c)) != NULL)
        list_push_back(&woken, &n->link);
    task__spin_unlock(
        &c->lock); /* W3: the nodes are ours (queued is false), c is not touched again */
    while (!list_empty(&woken)) {
        n = list_entry(woken.next, struct node, link);
        list_remove(&n->link);
        node_wake(n);
    }
}

/* ---- Wait queue ----
 *
 * Dekker's argument, which spares the setter a lock when nobody waits:
 *     waiter: count++ ; fence ; read the words          setter: write the words ; fence ; read
 *     count
 * With a sequentially consistent fence on both sides, at least one of the two reads sees the
 * other's write: either the waiter finds its condition true, or the setter finds count > 0, takes
 * the lock and unparks it.  The unpark leaves a permit, so it does not matter whether the waiter
 * has parked yet. Waiters stay on the list until they leave by themselves (task_wait_end), so a
 * wake only hands out permits. */

#define WAKE_BATCH 32u /* unparked after the lock is dropped: an unpark may be a system call */

void
task_waitq_init(struct task_waitq *q)
{
    atomic_init(&q->lock, 0);
    atomic_init(&q->count, 0);
    list_init(&q->waiters);
}

void
task_wait_begin(struct task_waitq *q, struct task_waiter *w, uint64_t key)
{
    w->task = task_self();
    w->key = key;
    task__spin_lock(&q->lock);
    list_push_back(&q->waiters, &w->link);
    atomic_fetch_add_explicit(&q->count, 1, memory_order_relaxed);
    task__spin_unlock(&q->lock);
    atomic_thread_fence(memory_order_seq_cst);
}

void
task_wait_end(struct task_waitq *q, struct task_waiter *w)
{
    ash_assert(w->task == task_self());
    task__spin_lock(&q->lock);
    list_remove(&w->link);
    atomic_fetch_sub_explicit(&q->count, 1, memory_order_relaxed);
    task__spin_unlock(&q->lock);
}

enum match {
    MATCH_ALL,
    MATCH_UP_TO,
    MATCH_EQUAL
};

static void
waitq_wake(struct task_waitq *q, enum match match, uint64_t key)
{
    struct task *batch[WAKE_BATCH];
    unsigned n = 0;

    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&q->count, memory_order_relaxed) == (PLANTED(11) ? 1 : 0))
        return;
    task__spin_lock(&q->lock);
    LIST_FOREACH(it, &q->waiters) {
        struct task_waiter *w = list_entry(it, struct task_waiter, link);
        if ((match == MATCH_UP_TO && w->key > key) || (match == MATCH_EQUAL && w->key != key))
            continue;
        if (n == WAKE_BATCH) {
            for (unsigned i = 0; i < n; i++)
                task_unpark(batch[i]);
            n = 0;
        }
        batch[n++] = w->task;
    }
    task__spin_unlock(&q->lock);
    for (unsigned i = 0; i < n; i++)
        task_unpark(batch[i]);
}

void
task_wait_wake(struct task_waitq *q)
{
    waitq_wake(q, MATCH_ALL, 0);
}

void
task_wait_wake_key(struct task_waitq *q, uint64_t key)
{
    waitq_wake(q, MATCH_UP_TO, key);
}

void
task_wait_wake_equal(struct task_waitq *q, uint64_t key)
{
    waitq_wake(q, MATCH_EQUAL, key);
}
