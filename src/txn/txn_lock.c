/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_lock.c - waiting for other transactions, deadlock detection, explicit row locks.
 *
 * A transaction waits for one other at a time (txn.h I5), so the waits-for graph has at most one
 * edge out of each: a cycle is found by following it from the transaction that is about to wait.
 * The one who would close the cycle gets ASH_DEADLOCK.
 */
#include "base/clock.h"
#include "base/random.h"
#include "txn/txn_int.h"

static bool
txn_has_ended(struct txn_sys *sys, uint64_t id)
{
    if (id < atomic_load(&sys->visible_below))
        return true;
    _Atomic uint64_t *word = txn__state(sys, id);
    if (word == NULL)
        return id < atomic_load(&sys->visible_below);
    uint64_t state = atomic_load(word);
    return (state != TXN_STATE_ACTIVE && state != TXN_STATE_COMMITTING) ||
           id < atomic_load(&sys->visible_below);
}

/* The id that `id` waits for, or 0.  Under wait_mutex. */
static uint64_t
txn_waits_for(struct txn_sys *sys, uint64_t id)
{
    uint64_t found = 0;

    task_mutex_lock(&sys->attach_mutex);
    LIST_FOREACH(it, &sys->attached) {
        struct txn_private *priv = list_entry(it, struct txn_private, link);
        if (priv->wait_id == id)
            found = priv->waiting_for;
    }
    task_mutex_unlock(&sys->attach_mutex);
    return found;
}

/* Notes the edge, unless it would close a cycle. */
static bool
txn_wait_edge(struct txn *t, uint64_t own, uint64_t writer)
{
    struct txn_sys *sys = t->sys;
    bool cycle = false;

    task_mutex_lock(&sys->wait_mutex);
    for (uint64_t id = writer; id != 0 && !cycle && !PLANTED(104); id = txn_waits_for(sys, id))
        cycle = id == own; /* ends: the graph has no cycle before this edge */
    if (!cycle) {
        t->priv->wait_id = own;
        t->priv->waiting_for = writer;
    }
    task_mutex_unlock(&sys->wait_mutex);
    return !cycle;
}

static void
txn_wait_edge_clear(struct txn *t)
{
    task_mutex_lock(&t->sys->wait_mutex);
    t->priv->waiting_for = 0;
    t->priv->wait_id = 0;
    task_mutex_unlock(&t->sys->wait_mutex);
}

ash_rc
txn_wait(struct txn *t, uint64_t writer, bool nowait)
{
    struct txn_sys *sys = t->sys;
    uint64_t own = atomic_load_explicit(&t->id, memory_order_relaxed);

    if (txn_has_ended(sys, writer))
        return ASH_OK;
    if (nowait)
        return ash_raise(
            ASH_WOULD_BLOCK,
            "The row is locked by another transaction, and the call was asked not to wait.");
    counter_add(&sys->waits, 1);
    if (own != 0 && !txn_wait_edge(t, own, writer)) {
        counter_add(&sys->deadlocks, 1);
        return ash_raise(
            ASH_DEADLOCK,
            "Waiting for this row would close a cycle of waiting transactions; roll back and try again.");
    }
    uint64_t ms = t->lock_timeout_ms != 0 ? t->lock_timeout_ms : atomic_load(&sys->lock_timeout_ms);
    uint64_t deadline = clock_ns() + ms * 1000000u;
    struct task_waitq *q = &sys->ended[hash_u64(writer) % TXN_WAITQS];
    struct task_waiter w;
    bool in_time = true;

    task_wait_begin(q, &w, writer);
    while (!txn_has_ended(sys, writer) && in_time && !io_poisoned(sys->io))
        in_time = task_park_until(deadline);
    task_wait_end(q, &w);
    if (own != 0)
        txn_wait_edge_clear(t);
    if (txn_has_ended(sys, writer))
        return ASH_OK;
    if (io_poisoned(sys->io))
        return io_check(sys->io);
    counter_add(&sys->timeouts, 1);
    return ash_raise(
        ASH_LOCK_TIMEOUT,
        "Waited %llu ms for a row that another transaction holds; roll back and try again.",
        (unsigned long long)ms);
}

void
txn__wake_ended(struct txn_sys *sys, uint64_t id)
{
    task_wait_wake_equal(&sys->ended[hash_u64(id) % TXN_WAITQS], id);
}

/* ---- Explicit locks.  Two rows whose hashes are equal share a lock: a wait too many, never one
 * too few. ---- */

static uint64_t
txn_lock_hash(uint32_t tree, struct ash_slice key)
{
    return hash_bytes(key.data, key.size, tree);
}

/* Locker and writer each store, then look for the other: the locker its entry, then the row's writer;
 * the writer its latch on the leaf, then the count of entries.  One of them must see the other, so
 * between store and load nothing may pass.  The stores are atomic read-modify-writes: on x86 those
 * are barriers already; elsewhere (AArch64) a later load may overtake them. */
static inline void
txn_lock_fence(void)
{
#ifdef __x86_64__
    atomic_signal_fence(memory_order_seq_cst);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* Held for a few instructions, never over a park (R3 of task.h). */
static void
txn_bucket_lock(struct txn_lock_bucket *b)
{
    unsigned spins = 0;

    while (atomic_exchange_explicit(&b->spin, 1, memory_order_acquire) != 0)
        task_relax(&spins);
}

static void
txn_bucket_unlock(struct txn_lock_bucket *b)
{
    atomic_store_explicit(&b->spin, 0, memory_order_release);
}

static struct txn_lock *
txn_bucket_find(struct txn_lock_bucket *b, uint64_t hash)
{
    struct txn_lock *l = b->head;

    while (l != NULL && l->hash != hash)
        l = l->next;
    return l;
}

ash_rc
txn_lock_row(struct txn *t, uint32_t tree, struct ash_slice key, bool nowait)
{
    uint64_t hash = txn_lock_hash(tree, key);
    struct txn_lock_bucket *b = &t->sys->lock[hash % TXN_LOCK_BUCKETS];
    ash_rc rc = txn_prepare_write(t);

    if (rc != ASH_OK)
        return rc;
    struct txn_lock *mine = mem_alloc(MEM_TXN, sizeof(*mine));
    if (mine == NULL)
        return ASH_NO_MEMORY;
    mine->hash = hash;
    mine->owner = atomic_load_explicit(&t->id, memory_order_relaxed);
    for (;;) {
        txn_bucket_lock(b);
        struct txn_lock *l = txn_bucket_find(b, hash);
        uint64_t owner = l == NULL ? 0 : l->owner;
        if (owner == 0) {
            mine->next = b->head;
            b->head = mine;
            atomic_fetch_add(&b->count, 1);
        }
        txn_bucket_unlock(b);
        txn_lock_fence();
        if (owner == 0) {
            mine->next_own = t->priv->locks;
            t->priv->locks = mine;
            return ASH_OK;
        }
        if (owner == mine->owner)
            break;
        rc = txn_wait(t, owner, nowait);
        if (rc != ASH_OK)
            break;
        task_yield(); /* the owner has ended but may still be taking its locks out */
    }
    mem_free(MEM_TXN, mine);
    return rc;
}

uint64_t
txn_locked(struct txn *t, uint32_t tree, struct ash_slice key)
{
    uint64_t hash = txn_lock_hash(tree, key);
    struct txn_lock_bucket *b = &t->sys->lock[hash % TXN_LOCK_BUCKETS];

    txn_lock_fence();
    if (ASH_LIKELY(atomic_load(&b->count) == 0) || PLANTED(105))
        return 0;
    txn_bucket_lock(b);
    struct txn_lock *l = txn_bucket_find(b, hash);
    uint64_t owner = l == NULL ? 0 : l->owner;
    txn_bucket_unlock(b);
    return owner == atomic_load_explicit(&t->id, memory_order_relaxed) ||
                   txn_has_ended(t->sys, owner)
               ? 0
               : owner;
}

const struct txn_lock *
txn_lock_mark(const struct txn *t)
{
    return t->priv->locks;
}

void
txn_unlock_since(struct txn *t, const struct txn_lock *mark)
{
    while (t->priv->locks != mark) {
        struct txn_lock *l = t->priv->locks;
        struct txn_lock_bucket *b = &t->sys->lock[l->hash % TXN_LOCK_BUCKETS];
        t->priv->locks = l->next_own;
        txn_bucket_lock(b);
        struct txn_lock **at = &b->head;
        while (*at != l)
            at = &(*at)->next;
        *at = l->next;
        atomic_fetch_sub(&b->count, 1);
        txn_bucket_unlock(b);
        mem_free(MEM_TXN, l);
    }
}

void
txn__unlock_all(struct txn *t, uint64_t id)
{
    for (const struct txn_lock *l = t->priv->locks; l != NULL; l = l->next_own)
        ash_assert(l->owner == id);
    txn_unlock_since(t, NULL);
}
