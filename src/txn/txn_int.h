/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_int.h - the inside of src/txn: the state table, pending work, locks.  Only for files of this
 * folder and its tests.
 */
#ifndef ASH_TXN_INT_H
#define ASH_TXN_INT_H

#include "base/assert.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/list.h"
#include "base/mem.h"
#include "txn/txn.h"

#include <string.h>

/* Values of a state word below WAL_LSN_FIRST; everything else is a commit LSN or, with
 * TXN_STATE_UNDONE added (LSNs are multiples of 32), that of a ROLLED_BACK record. */
#define TXN_STATE_ACTIVE      0u
#define TXN_STATE_COMMITTING  1u
#define TXN_STATE_ENDED       2u /* ended without a change, or rolled back before it was opened */
#define TXN_STATE_SEEN_BY_ALL 3u /* committed before the database was opened */

/* Who copied a row before its writer's rollback restored it may look at the copy later.  So a
 * rolled back id counts as seen by all (visible_below) only when no snapshot in use is older than
 * the rollback's end: until then the copy's version is refused. */
#define TXN_STATE_UNDONE 1u
static inline bool
txn__undone(uint64_t state)
{
    return state == TXN_STATE_ENDED || (state >= WAL_LSN_FIRST && (state & TXN_STATE_UNDONE) != 0);
}

/* The state table is a ring of chunks, so ids in use must lie within one turn of it: 2^26
 * transactions between the oldest snapshot and now; then the oldest snapshot is given up. */
#define TXN_CHUNK_IDS 8192u
#define TXN_CHUNKS    8192u

#define TXN_SNAPSHOT_PENDING  1u /* being taken: counts as old as the horizon was */
#define TXN_FIRST_LSN_PENDING 1u
#define TXN_LOCK_BUCKETS      1024u
#define TXN_WAITQS            64u
#define TXN_PURGE_MAX \
    65536u /* purge hints kept; more are dropped, leaves purge themselves when written */
#define TXN_PURGE_PER_TXN 1024u

struct txn_garbage {
    uint64_t page;
    uint64_t
        lsn; /* in a transaction: start of the record that replaced it; pending: the commit LSN */
    uint32_t tree;
    bool busy; /* pending: being freed just now */
};

struct txn_purge_hint {
    struct txn_purge_hint *next;
    uint64_t lsn; /* commit LSN */
    uint64_t root;
    uint32_t tree;
    uint16_t key_size;
    uint8_t leaf_class;
    uint8_t key[];
};

struct txn_lock {
    struct txn_lock *next;     /* in its bucket */
    struct txn_lock *next_own; /* in its owner's list */
    uint64_t hash;
    uint64_t owner; /* transaction id */
};

struct txn_lock_bucket {
    _Atomic uint32_t spin;
    _Atomic uint32_t count;
    struct txn_lock *head;
};

struct txn_private {
    struct list link;     /* in sys->attached */
    uint64_t waiting_for; /* id, or 0; under sys->wait_mutex */
    uint64_t wait_id;     /* own id while waiting; under sys->wait_mutex */
    struct txn_lock *locks;
    struct txn_garbage *garbage;
    uint32_t garbage_count, garbage_capacity;
    struct txn_purge_hint *purge;
    uint32_t purge_count;
    uint32_t commits; /* of this session: every 64th moves the horizon */
    uint64_t logged;  /* start of the record logged last: what txn_add_garbage belongs to */
    bool loser;       /* nobody's session: its rollback stops when the system does */
};

/* A transaction that was open when the log ended: txn_loser.c. */
struct txn_loser {
    uint64_t id, first_lsn, last_lsn;
    struct txn *txn; /* from txn_start() on, attached */
    bool given_up;   /* its rollback failed for good in this life */
    struct txn_garbage *garbage;
    uint32_t garbage_count, garbage_capacity;
};

struct txn_sys {
    struct io *io;
    struct wal *wal;
    struct buf_pool *pool;
    struct task_runtime *rt;
    struct txn_ops ops;
    bool read_only;
    _Atomic uint64_t lock_timeout_ms;
    _Atomic uint64_t version_limit;

    _Atomic uint64_t next_id ASH_ALIGNED_LINE;
    _Atomic uint64_t visible_below ASH_ALIGNED_LINE;
    _Atomic uint64_t horizon;
    _Atomic uint64_t
        active_low; /* no open writer's first record lies below; never above the truth */
    /* no commit at or above it is shown to anybody without a look at its writer */
    _Atomic uint64_t shown_below;
    _Atomic(_Atomic uint64_t *) *chunk;
    struct task_mutex chunk_mutex; /* making and clearing chunks */
    uint64_t chunk_oldest;         /* chunk_mutex: no chunk serves ids before this one's */

    struct task_mutex attach_mutex; /* attached, horizon computation */
    struct list attached;

    struct task_mutex wait_mutex; /* waits-for edges */
    struct task_waitq ended[TXN_WAITQS];
    struct txn_lock_bucket lock[TXN_LOCK_BUCKETS];

    struct task_mutex pending_mutex; /* pending garbage and purge hints */
    struct txn_garbage *garbage;
    uint32_t garbage_count, garbage_capacity;
    struct txn_purge_hint *purge_head, **purge_tail;
    uint32_t purge_count;
    uint32_t purging;         /* the tree whose hint is being followed, or 0 */
    uint64_t freeing_since;   /* 0, or: records that free busy garbage lie here or above */
    _Atomic uint32_t pending; /* garbage_count + purge_count, read without the mutex */

    struct task *purger;
    _Atomic bool stopping;
    _Atomic bool purger_parked;
    _Atomic uint32_t purge_failures;

    struct txn_loser *losers; /* of analysis, txn_start(), then the undo task's */
    uint32_t loser_count, loser_capacity;
    _Atomic uint32_t losers_left;
    struct task *undoer;
    _Atomic bool undoing, undo_stuck; /* the undo task runs; it waits for memory or space */
    struct task_waitq undone;         /* either changes */

    struct counter begun, committed, rolled_back, waits, deadlocks, timeouts, conflicts,
        versions_read, purged;
};

/* txn_state.c */
ASH_MUST_CHECK ash_rc txn__id_new(struct txn_sys *sys, uint64_t *id_out);
ASH_MUST_CHECK ash_rc txn__state_range(struct txn_sys *sys, uint64_t first, uint64_t end,
                                       uint64_t state);
_Atomic uint64_t *txn__state(struct txn_sys *sys, uint64_t id); /* NULL: no chunk */
void txn__horizon_update(struct txn_sys *sys);
uint64_t txn__oldest_first_lsn(struct txn_sys *sys);
/* txn_commit.c */
void txn__end(struct txn *t);
/* txn_rollback.c */
ash_rc txn__half_undone(void);
ASH_MUST_CHECK ash_rc txn__undo_to(struct txn *t, uint64_t savepoint);
/* txn_lock.c */
void txn__unlock_all(struct txn *t, uint64_t id);
void txn__wake_ended(struct txn_sys *sys, uint64_t id);
/* txn_purge.c */
ASH_MUST_CHECK ash_rc txn__garbage_push(struct txn_garbage **list, uint32_t *count,
                                        uint32_t *capacity, const struct txn_garbage *g);
void txn__garbage_drop_above(struct txn_garbage *list, uint32_t *count, uint64_t lsn);
void txn__pending_take(struct txn *t, uint64_t commit_lsn);
void txn__purge_clear(struct txn *t);
void txn__purge_poke(struct txn_sys *sys);
ASH_MUST_CHECK ash_rc txn__purge_start(struct txn_sys *sys);
ASH_MUST_CHECK ash_rc txn__purge_round(struct txn_sys *sys);
/* txn_loser.c */
ASH_MUST_CHECK ash_rc txn__losers_begin(struct txn_sys *sys);
ASH_MUST_CHECK ash_rc txn__undo_start(struct txn_sys *sys);
void txn__loser_remove(struct txn_sys *sys, struct txn_loser *l);
void txn__losers_free(struct txn_sys *sys);

#endif
