/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_loser.c - transactions that were open when the log ended: made again, and rolled back while
 * the database is in use.
 *
 * Entry points: txn__losers_begin(), txn__undo_start().     Read first: txn_recover.c (who they are).
 *
 * A loser is a transaction like any other from the moment the database opens: its state is ACTIVE,
 * it is attached with the LSN of its first record, and its id stands in the rows that it changed.
 * So without a rule of its own
 *     readers                  see the version before, which its log records hold;
 *     writers                  wait until it has ended, or time out, and deadlocks are found;
 *     horizon, checkpoints     stay behind its first record, so the log that its undo and its
 *                              readers need is kept, and a restart finds it again;
 *     the catalog              shows tables as they were before it, and nothing that it created or
 *                              dropped is reaped before its undo has left the tree (table.h R2).
 * Its explicit locks on rows that it did not change were in memory only and are gone.
 *
 * One task rolls the losers back, by txn_rollback().  Each CLR says what is undone, so whoever stops
 * in the middle (a crash, the end of the database's life) is continued by the next open.
 */
#include "base/clock.h"
#include "base/log.h"
#include "txn/txn_int.h"

#define TXN_UNDO_RETRY_NS 50000000u /* 50 ms: until memory or space may be there again */

void
txn__loser_remove(struct txn_sys *sys, struct txn_loser *l)
{
    mem_free(MEM_TXN, l->garbage);
    *l = sys->losers[--sys->loser_count];
}

/* Attached transactions belong to the system's list, not to this one. */
void
txn__losers_free(struct txn_sys *sys)
{
    while (sys->loser_count > 0)
        txn__loser_remove(sys, &sys->losers[sys->loser_count - 1]);
    mem_free(MEM_TXN, sys->losers);
}

static ash_rc
txn_loser_begin(struct txn_sys *sys, struct txn_loser *l)
{
    ash_rc rc = txn_attach(sys, &l->txn);

    if (rc != ASH_OK)
        return rc;
    struct txn *t = l->txn;
    t->open = true;
    t->priv->loser = true;
    t->last_lsn = l->last_lsn;
    atomic_store(&t->id, l->id);
    atomic_store(&t->first_lsn, PLANTED(330) ? wal_reserved(sys->wal) : l->first_lsn);
    if (!PLANTED(331))
        atomic_store(txn__state(sys, l->id), TXN_STATE_ACTIVE);
    return ASH_OK;
}

/* Every id below next_id has ended before the crash, but the losers. */
ash_rc
txn__losers_begin(struct txn_sys *sys)
{
    uint64_t next = atomic_load(&sys->next_id), low = next;
    uint64_t oldest = wal_reserved(sys->wal);

    for (uint32_t i = 0; i < sys->loser_count; i++) {
        const struct txn_loser *l = &sys->losers[i];
        low = l->id < low ? l->id : low;
        oldest = l->first_lsn < oldest ? l->first_lsn : oldest;
    }
    atomic_store(&sys->visible_below, low);
    ash_rc rc = txn__state_range(sys, low, next, TXN_STATE_SEEN_BY_ALL);
    for (uint32_t i = 0; i < sys->loser_count && rc == ASH_OK; i++)
        rc = txn_loser_begin(sys, &sys->losers[i]);
    atomic_store(&sys->losers_left, sys->loser_count);
    atomic_store(&sys->active_low, oldest);
    atomic_store(&sys->horizon, PLANTED(332) ? wal_reserved(sys->wal) : oldest);
    return rc;
}

/* *again_out: some were left for want of memory or space. */
static void
txn_undo_pass(struct txn_sys *sys, bool *again_out)
{
    *again_out = false;
    for (uint32_t i = 0; i < sys->loser_count && !atomic_load(&sys->stopping);) {
        struct txn_loser *l = &sys->losers[i];
        ash_rc rc = l->given_up ? ASH_CANCELLED : txn_rollback(l->txn);
        if (rc == ASH_OK) {
            txn_detach(l->txn);
            txn__loser_remove(sys, l);
            atomic_fetch_sub(&sys->losers_left, 1);
            continue;
        }
        if (rc == ASH_NO_MEMORY || rc == ASH_NO_SPACE) {
            *again_out = true;
        } else if (rc != ASH_CANCELLED) {
            log_write(LOG_WARN,
                      "Transaction %llu, open when the database last ended, cannot be rolled back; "
                      "its rows stay locked until an open succeeds in that: %s",
                      (unsigned long long)l->id, err_current()->message);
            l->given_up = true;
        }
        i++;
    }
}

static void
txn_undo_main(void *arg)
{
    struct txn_sys *sys = arg;
    bool again;

    for (;;) {
        txn_undo_pass(sys, &again);
        if (!again || atomic_load(&sys->stopping))
            break;
        atomic_store(&sys->undo_stuck, true);
        task_wait_wake(&sys->undone);
        task_park_until(clock_ns() + TXN_UNDO_RETRY_NS);
        atomic_store(&sys->undo_stuck, false);
    }
    atomic_store(&sys->undoing, false);
    task_wait_wake(&sys->undone);
}

ash_rc
txn__undo_start(struct txn_sys *sys)
{
    if (sys->loser_count == 0)
        return ASH_OK;
    atomic_store(&sys->undoing, true);
    ash_rc rc = task_spawn(sys->rt, "undo", txn_undo_main, sys, &sys->undoer);
    if (rc != ASH_OK)
        atomic_store(&sys->undoing, false);
    return rc;
}

void
txn_undo_wait(struct txn_sys *sys)
{
    struct task_waiter w;

    task_wait_begin(&sys->undone, &w, 0);
    while (atomic_load(&sys->undoing) && !atomic_load(&sys->undo_stuck))
        task_park();
    task_wait_end(&sys->undone, &w);
}
