/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_begin.c - the system, sessions' transactions, snapshots, first writes.
 *
 * Entry points: txn_sys_create(), txn_attach(), txn_begin(), txn_refresh(), txn_prepare_write().
 */
#include "base/clock.h"
#include "txn/txn_int.h"

ash_rc
txn_sys_create(const struct txn_options *options, struct txn_sys **out)
{
    struct txn_sys *sys = mem_aligned(MEM_TXN, ASH_CACHE_LINE, sizeof(*sys));

    if (sys == NULL)
        return ASH_NO_MEMORY;
    memset(sys, 0, sizeof(*sys));
    sys->chunk = mem_zalloc(MEM_TXN, TXN_CHUNKS * sizeof(*sys->chunk));
    if (sys->chunk == NULL) {
        mem_free(MEM_TXN, sys);
        return ASH_NO_MEMORY;
    }
    sys->io = options->io;
    sys->wal = options->wal;
    sys->pool = options->pool;
    sys->rt = options->rt;
    sys->ops = options->ops;
    sys->read_only = options->read_only;
    atomic_store(&sys->version_limit, options->version_limit);
    atomic_store(&sys->lock_timeout_ms, options->lock_timeout_ms);
    atomic_store(&sys->next_id, 1);
    atomic_store(&sys->visible_below, 1);
    task_mutex_init(&sys->chunk_mutex);
    task_mutex_init(&sys->attach_mutex);
    task_mutex_init(&sys->wait_mutex);
    task_mutex_init(&sys->pending_mutex);
    list_init(&sys->attached);
    for (unsigned i = 0; i < TXN_WAITQS; i++)
        task_waitq_init(&sys->ended[i]);
    task_waitq_init(&sys->undone);
    sys->purge_tail = &sys->purge_head;
    *out = sys;
    return ASH_OK;
}

ash_rc
txn_start(struct txn_sys *sys, struct wal *wal)
{
    sys->wal = wal;
    ash_rc rc = txn__losers_begin(sys);
    if (rc != ASH_OK || sys->read_only)
        return rc;
    atomic_store(&sys->pending, sys->garbage_count);
    rc = txn__purge_start(sys); /* what was garbage before the crash goes in its first round */
    return rc == ASH_OK ? txn__undo_start(sys) : rc;
}

static void
txn_stop_task(struct task **task)
{
    if (*task == NULL)
        return;
    task_unpark(*task);
    task_join(*task);
    *task = NULL;
}

void
txn_stop(struct txn_sys *sys)
{
    if (sys == NULL)
        return;
    atomic_store(&sys->stopping, true);
    txn_stop_task(&sys->undoer);
    txn_stop_task(&sys->purger);
}

static void
txn_free(struct txn *t)
{
    list_remove(&t->priv->link);
    txn__purge_clear(t);
    mem_free(MEM_TXN, t->priv->garbage);
    mem_free(MEM_TXN, t);
}

void
txn_sys_destroy(struct txn_sys *sys)
{
    if (sys == NULL)
        return;
    ash_assert(sys->purger == NULL && sys->undoer == NULL);
    LIST_FOREACH_SAFE(it, tmp, &sys->attached) {
        struct txn_private *priv = list_entry(it, struct txn_private, link);
        /* Abandoned, or of a cursor that the application forgot to close. */
        txn_free(((struct txn *)(void *)priv) - 1);
    }
    for (unsigned i = 0; i < TXN_CHUNKS; i++)
        mem_free(MEM_TXN, (void *)atomic_load(&sys->chunk[i]));
    mem_free(MEM_TXN, (void *)sys->chunk);
    while (sys->purge_head != NULL) {
        struct txn_purge_hint *next = sys->purge_head->next;
        mem_free(MEM_TXN, sys->purge_head);
        sys->purge_head = next;
    }
    mem_free(MEM_TXN, sys->garbage);
    txn__losers_free(sys);
    mem_free(MEM_TXN, sys);
}

void
txn_set_lock_timeout(struct txn_sys *sys, uint64_t ms)
{
    atomic_store(&sys->lock_timeout_ms, ms);
}

void
txn_set_version_limit(struct txn_sys *sys, uint64_t bytes)
{
    atomic_store(&sys->version_limit, bytes);
}

ash_rc
txn_attach(struct txn_sys *sys, struct txn **out)
{
    struct txn *t = mem_zalloc(MEM_TXN, sizeof(struct txn) + sizeof(struct txn_private));

    if (t == NULL)
        return ASH_NO_MEMORY;
    t->sys = sys;
    t->priv = (struct txn_private *)(void *)(t + 1);
    task_mutex_lock(&sys->attach_mutex);
    list_push_back(&sys->attached, &t->priv->link);
    task_mutex_unlock(&sys->attach_mutex);
    *out = t;
    return ASH_OK;
}

/* An open one (its rollback failed) stays listed until the database is closed: its state stays
 * ACTIVE, so nobody sees its changes, and its first LSN keeps its records where restart finds them
 * and undoes it.  Without that a checkpoint would forget it, and the next life would take what it
 * wrote for committed. */
void
txn_detach(struct txn *t)
{
    if (t == NULL)
        return;
    struct txn_sys *sys = t->sys;
    if (t->priv->locks != NULL)
        txn__unlock_all(t, atomic_load(&t->id));
    task_mutex_lock(&sys->attach_mutex);
    if (t->open && t->last_lsn != 0 && !PLANTED(109)) {
        atomic_store(&t->snapshot, 0);
    } else {
        txn_free(t);
    }
    task_mutex_unlock(&sys->attach_mutex);
}

void
txn_refresh(struct txn *t)
{
    /* The log from `retain` on may be asked for by this snapshot: versions replaced by transactions
     * that are open when it is taken, or begin later.  Stored before the mark, so that who sees the
     * mark or the snapshot sees a `retain` of this one: active_low may have moved on meanwhile,
     * over a writer that was open when we read the clock.
     * Mark, then read the clock: see txn_scan(). */
    atomic_store_explicit(&t->retain, atomic_load(&t->sys->active_low), memory_order_relaxed);
    atomic_store(&t->snapshot, TXN_SNAPSHOT_PENDING);
    task_point();
    uint64_t now = wal_reserved(t->sys->wal);
    task_point();
    atomic_store_explicit(&t->snapshot, now, memory_order_release);
}

ash_rc
txn_begin(struct txn *t, const struct txn_begin_options *options)
{
    if (t->open)
        return ash_raise(
            ASH_MISUSE,
            "A transaction is open in this session already; commit it or roll it back first.");
    t->isolation = options->isolation;
    t->durability = options->durability;
    t->read_only = options->read_only;
    t->autocommit = options->autocommit;
    t->lock_timeout_ms = options->lock_timeout_ms;
    t->depends = 0;
    t->half_undone = false;
    t->fresh = false;
    t->open = true;
    txn_refresh(t);
    counter_add(&t->sys->begun, 1);
    return ASH_OK;
}

ash_rc
txn_check(struct txn *t)
{
    if (ASH_UNLIKELY(txn_given_up(t)))
        return ash_raise(
            ASH_SNAPSHOT_TOO_OLD,
            "The versions that this transaction's snapshot needs were given up to keep the log within "
            "wal_version_limit; roll back and begin again.");
    return ASH_OK;
}

ash_rc
txn_statement(struct txn *t, bool write)
{
    if (!t->open)
        return ash_raise(ASH_MISUSE,
                         "No transaction is open in this session; call ash_begin first.");
    if (write) {
        if (t->read_only)
            return ash_raise(
                ASH_READ_ONLY,
                "This transaction was begun read-only; begin another one to change rows.");
        if (io_poisoned(t->sys->io))
            return io_check(t->sys->io);
        ash_rc rc = wal_room(t->sys->wal);
        if (rc != ASH_OK)
            return rc;
    }
    if (t->isolation == ASH_READ_COMMITTED && !t->fresh)
        txn_refresh(t);
    t->fresh = false;
    return ASH_UNLIKELY(t->half_undone) ? txn__half_undone() : txn_check(t);
}

ash_rc
txn_prepare_write(struct txn *t)
{
    struct txn_sys *sys = t->sys;

    if (ASH_LIKELY(atomic_load_explicit(&t->id, memory_order_relaxed) != 0))
        return ASH_OK;
    /* Mark, then read the clock (txn_scan): the first record's LSN is at or above what is stored.
     * */
    task_point();
    atomic_store(&t->first_lsn, TXN_FIRST_LSN_PENDING);
    atomic_store(&t->first_lsn, wal_reserved(sys->wal));
    uint64_t id;
    /* Given up before the mark: the horizon may be beyond the snapshot, and trees that it saw may be
     * gone.  From the mark on the snapshot counts, given up or not (txn_scan). */
    ash_rc rc = PLANTED(397) ? ASH_OK : txn_check(t);
    if (rc == ASH_OK)
        rc = txn__id_new(sys, &id);
    if (rc != ASH_OK) {
        atomic_store(&t->first_lsn, 0);
        return rc;
    }
    atomic_store(&t->id, id);
    t->last_lsn = 0;
    return ASH_OK;
}

void
txn_row_record(struct txn *t, struct mtr_record *record)
{
    record->type = WAL_REC_ROW;
    record->txn = atomic_load_explicit(&t->id, memory_order_relaxed);
    record->prev = t->last_lsn;
    record->undo_next = 0;
}

void
txn_clr_record(struct txn *t, uint64_t undo_next, struct mtr_record *record)
{
    record->type = WAL_REC_CLR;
    record->txn = atomic_load_explicit(&t->id, memory_order_relaxed);
    record->prev = t->last_lsn;
    record->undo_next = undo_next;
}

void
txn_logged(struct txn *t, uint64_t start)
{
    ash_assert(start > t->last_lsn);
    t->last_lsn = start;
    t->priv->logged = start;
}

void
txn_stats(struct txn_sys *sys, struct txn_stats *out)
{
    memset(out, 0, sizeof(*out));
    out->begun = counter_sum(&sys->begun);
    out->committed = counter_sum(&sys->committed);
    out->rolled_back = counter_sum(&sys->rolled_back);
    out->waits = counter_sum(&sys->waits);
    out->deadlocks = counter_sum(&sys->deadlocks);
    out->timeouts = counter_sum(&sys->timeouts);
    out->conflicts = counter_sum(&sys->conflicts);
    out->versions_read = counter_sum(&sys->versions_read);
    out->purged = counter_sum(&sys->purged);
    out->horizon = txn_horizon(sys);
    out->next_id = atomic_load(&sys->next_id);
    out->losers = atomic_load(&sys->losers_left);
    task_mutex_lock(&sys->attach_mutex);
    LIST_FOREACH(it, &sys->attached) {
        struct txn *t = ((struct txn *)(void *)list_entry(it, struct txn_private, link)) - 1;
        uint64_t snapshot = atomic_load(&t->snapshot);
        out->active += atomic_load(&t->id) != 0;
        if (snapshot > TXN_SNAPSHOT_PENDING &&
            (out->oldest_snapshot == 0 || snapshot < out->oldest_snapshot))
            out->oldest_snapshot = snapshot;
    }
    task_mutex_unlock(&sys->attach_mutex);
}
