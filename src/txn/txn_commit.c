/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_commit.c - commit: the COMMIT record is the commit; visible at once, durable when its group
 * is.
 *
 * Locks are released as soon as the commit is visible (early lock release).  That is safe because
 * commits become durable in LSN order: who builds on this commit has a later one.  A reader of a
 * commit that is not durable yet notes it in `depends` and, with SYNC, returns its result only when
 * that is durable.
 */
#include "txn/txn_int.h"

/* Releases everything that an ended transaction holds; its state word is final by now. */
void
txn__end(struct txn *t)
{
    uint64_t id = atomic_load_explicit(&t->id, memory_order_relaxed);

    atomic_store_explicit(&t->snapshot, 0, memory_order_release);
    if (id != 0) {
        atomic_store_explicit(&t->first_lsn, 0, memory_order_release);
        atomic_store_explicit(&t->id, 0, memory_order_relaxed);
        if (t->priv->locks != NULL)
            txn__unlock_all(t, id);
        txn__wake_ended(t->sys, id);
    }
    t->last_lsn = 0;
    t->open = false;
    if (ASH_UNLIKELY(atomic_load_explicit(&t->sys->pending, memory_order_relaxed) != 0))
        txn__purge_poke(t->sys);
}

/* Nothing was changed: no record.  What was read must still be durable before a SYNC reader's
 * result counts. */
static ash_rc
txn_commit_clean(struct txn *t, bool wait)
{
    /* Rows that everybody sees are shown without a look at their writer's commit, which need not be
     * durable.  (Not the horizon, though it lies above: other records that are not durable are no
     * reason to wait, least of all on a full disk, where that would refuse to read.) */
    uint64_t shown = PLANTED(111) ? 0 : atomic_load(&t->sys->shown_below);
    uint64_t depends = t->depends > shown ? t->depends : shown;
    uint64_t id = atomic_load_explicit(&t->id, memory_order_relaxed);
    struct txn_sys *sys = t->sys;

    if (id != 0)
        atomic_store(txn__state(sys, id), TXN_STATE_ENDED);
    bool must_wait = wait && t->durability == ASH_DURABILITY_SYNC &&
                     depends > wal_durable(sys->wal);
    txn__end(t);
    return must_wait ? wal_flush_to(sys->wal, depends) : ASH_OK;
}

static void
txn_commit_counts(struct txn *t)
{
    counter_add(&t->sys->committed, 1);
    /* Now and then the committer moves the horizon, so that hot rows shed their old versions
     * without waiting for a timer. */
    if (++t->priv->commits % 64 == 0)
        txn__horizon_update(t->sys);
}

ash_rc
txn_commit(struct txn *t, bool wait, uint64_t *end_out)
{
    struct txn_sys *sys = t->sys;

    if (!t->open)
        return ash_raise(ASH_MISUSE,
                         "No transaction is open in this session; there is nothing to commit.");
    if (end_out != NULL)
        *end_out = 0;
    if (ASH_UNLIKELY(t->half_undone))
        return txn__half_undone();
    if (t->last_lsn == 0)
        return txn_commit_clean(t, wait);

    /* A full disk refuses the commit while it can still be refused: after the record there is no
     * way back. */
    ash_rc rc = wal_room_for(sys->wal, 0);
    if (rc != ASH_OK)
        return rc;
    uint64_t id = atomic_load_explicit(&t->id, memory_order_relaxed);
    _Atomic uint64_t *state = txn__state(sys, id);
    struct wal_record_head head = {
        .size = sizeof(head), .type = WAL_REC_COMMIT, .txn = id, .prev = t->last_lsn
    };
    struct wal_part part = { &head, sizeof(head) };
    uint64_t start, end;

    atomic_store(state, TXN_STATE_COMMITTING); /* I1: before the LSN is reserved */
    task_point();
    rc = wal_append(sys->wal, &part, 1, &start, &end);
    if (rc != ASH_OK) {
        atomic_store(
            state,
            /* the log is gone: it can neither commit nor roll back; others must not see it */
            TXN_STATE_ACTIVE);
        return rc;
    }
    atomic_store(state, start);
    enum ash_durability durability = t->durability;
    txn__pending_take(t, start);
    txn__end(t);
    txn_commit_counts(t);
    if (end_out != NULL)
        *end_out = end;
    if (wait && durability == ASH_DURABILITY_SYNC && !PLANTED(102))
        return wal_flush_to(sys->wal, end);
    if (durability == ASH_DURABILITY_ASYNC || durability == ASH_DURABILITY_SYNC)
        wal_flush_async(sys->wal, end);
    return ASH_OK;
}
