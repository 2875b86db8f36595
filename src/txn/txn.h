/* SPDX-License-Identifier: Apache-2.0
 *
 * txn.h - transactions: snapshots, who wrote what when, row locks, commit, rollback, purge.
 *
 * The clock is the log: a transaction's commit timestamp is the start LSN of its COMMIT record, and
 * a snapshot is the value of wal_reserved() when it was taken: it sees every commit below it.  A
 * row carries its last writer's id and the LSN of the log record that holds its version before
 * ("undo"); both are dropped when every snapshot sees the row as it is.
 *
 * Invariants:
 *   I1  state[id] goes ACTIVE -> COMMITTING -> commit LSN, or ACTIVE -> ENDED (rolled back,
 *       everything restored).  COMMITTING is set before the COMMIT record's LSN is reserved; a
 *       reader who meets it waits the few instructions until the LSN is there. So a commit that a
 *       snapshot could need is never mistaken for an active one.
 *   I2  id < visible_below: the writer ended and its effect is visible to every snapshot in use.
 *   I3  horizon <= every snapshot in use and every active writer's first LSN.  A row version that
 *       some snapshot >= horizon needs is kept.
 *   I4  A transaction's records are chained by `prev`; a CLR's link skips what has been undone.
 *       Undo runs once per record.
 *   I5  Row locks are the writer id in the row (implicit), plus explicit entries for rows locked
 *       without a change. A transaction waits for at most one other: cycles are found by following
 *       one pointer per transaction.
 */
#ifndef ASH_TXN_H
#define ASH_TXN_H

#include <ashlar.h>

#include "buffer/buffer.h"
#include "wal/wal.h"
#include "wal/wal_mtr.h"
#include "wal/wal_recover.h"

#include <stdatomic.h>

struct txn_sys;
struct txn;

/* What a version before a change looks like in the log: the undo part of a ROW record.  Key, then
 * row bytes follow. */
struct txn_undo_head {
    uint64_t root; /*  0  8  root page of the tree */
    uint32_t tree; /*  8  4  tree id */
    uint32_t
        /* 12  4  bytes of the row before (stored form, with its version header if it had one); 0
         * when absent */
        row_size;
    uint16_t key_size;   /* 16  2  bytes */
    uint8_t kind;        /* 18  1  enum txn_undo_kind */
    uint8_t leaf_class;  /* 19  1  size class of the tree's leaves */
    uint8_t row_flags;   /* 20  1  flags of the row before (btree_format.h) */
    uint8_t reserved[3]; /* 21  3  zero */
};
ASH_ONDISK_SIZE(struct txn_undo_head, 24);

enum txn_undo_kind {
    TXN_UNDO_INSERT = 1, /* there was no row: undo removes it */
    TXN_UNDO_UPDATE = 2, /* there was a row (maybe a deleted one): undo puts it back */
    TXN_UNDO_DELETE = 3  /* the row was marked deleted: undo puts it back */
};

/* Checks an undo part (from the log: untrusted) and gives its pieces. */
struct txn_undo {
    const struct txn_undo_head *head;
    const uint8_t *key, *row;
};
ASH_MUST_CHECK ash_rc txn_undo_parse(const uint8_t *undo, uint32_t size, struct txn_undo *out);

/* What the trees do for transactions, handed in because they are a layer above. */
struct txn_ops {
    void *ctx;
    /* Restores the version before the change whose undo part this is, logging a CLR with
     * `undo_next` (txn_clr_record). Parks. Must not fail but for POISONED, IO, CORRUPT. */
    ash_rc (*undo)(void *ctx, struct txn *t, const struct txn_undo *undo, uint64_t undo_next);
    /* Pages of a large value that the change replaced: garbage once the change is committed and
     * below the horizon. */
    unsigned (*garbage)(void *ctx, const struct txn_undo *undo, uint64_t *pages_out,
                        unsigned capacity);
    /* Frees such pages (one logged mini-transaction or several). */
    /* *freed_out: how many of them, from the first, are free now; also set when it fails. */
    ash_rc (*free_pages)(void *ctx, uint32_t tree, const uint64_t *pages, unsigned count,
                         unsigned *freed_out);
    /* Removes deleted rows that nobody can see from the leaf of `key`, and merges the leaf when it
     * has become empty enough. */
    ash_rc (*purge)(void *ctx, uint32_t tree, uint64_t root, uint8_t leaf_class, const uint8_t *key,
                    uint32_t key_size);
};

struct txn_options {
    struct io *io;
    struct wal *wal; /* NULL until txn_start() when recovering */
    struct buf_pool *pool;
    struct task_runtime *rt;
    uint64_t lock_timeout_ms;
    uint64_t version_limit; /* bytes of log kept for snapshots */
    bool read_only;         /* nothing is purged or rolled back */
    struct txn_ops ops;
};
ASH_MUST_CHECK ash_rc txn_sys_create(const struct txn_options *options, struct txn_sys **out);
/* For recover_run() and checkpoints. */
void txn_participant(struct txn_sys *sys, struct recover_participant *out);
/* After recovery: takes the log, and starts the tasks that purge and that roll back what was open
 * when the log ended; those transactions hold their rows until that is done.  Read-only: they stay. */
ASH_MUST_CHECK ash_rc txn_start(struct txn_sys *sys, struct wal *wal);
/* Stops both; who is not rolled back yet stays open, and the next restart finds it. */
void txn_stop(struct txn_sys *sys);
/* Parks until everything that was open has been rolled back, as far as that succeeds now. */
void txn_undo_wait(struct txn_sys *sys);
void txn_sys_destroy(struct txn_sys *sys);
void txn_set_lock_timeout(struct txn_sys *sys, uint64_t ms);
void txn_set_version_limit(struct txn_sys *sys, uint64_t bytes);
bool txn_is_garbage(struct txn_sys *sys, uint64_t page); /* it waits to be freed */

/* ---- A transaction: one per session, used again and again ---- */

#define TXN_INVALID_SNAPSHOT 0u

struct txn {
    struct txn_sys *sys;
    _Atomic uint64_t snapshot;  /* 0: none in use.  Read by others for the horizon */
    _Atomic uint64_t retain;    /* log from here may be needed by this snapshot */
    _Atomic uint64_t first_lsn; /* lower bound of its first record; 0: wrote nothing */
    _Atomic uint64_t id;        /* 0 until its first change */
    uint64_t last_lsn;          /* its newest record, or 0 */
    uint64_t
        depends; /* highest commit end that it has read and that was not durable: see txn_commit */
    enum ash_isolation isolation;
    enum ash_durability durability;
    bool open, read_only, autocommit, rolling_back;
    bool fresh; /* the statement's snapshot is taken already: its first txn_statement() keeps it */
    bool half_undone; /* a rollback to a savepoint failed: only a whole rollback is left */
    /* a snapshot whose versions are gone: ASH_SNAPSHOT_TOO_OLD while it is this one's (who gives it
     * up may come when a newer one is in its place) */
    _Atomic uint64_t killed;
    uint64_t lock_timeout_ms;
    struct txn_private *priv; /* locks, garbage, purge hints, list links: txn_int.h */
};

/* The versions for its present snapshot may be gone; to be asked after they have been read. */
static inline bool
txn_given_up(const struct txn *t)
{
    uint64_t killed = atomic_load_explicit(&t->killed, memory_order_acquire);

    return ASH_UNLIKELY(killed != 0) &&
           killed == atomic_load_explicit(&t->snapshot, memory_order_relaxed);
}

ASH_MUST_CHECK ash_rc txn_attach(struct txn_sys *sys, struct txn **out); /* for a session */
void txn_detach(struct txn *t); /* NULL allowed; open only when its rollback failed */

struct txn_begin_options {
    enum ash_isolation isolation;
    enum ash_durability durability;
    bool read_only, autocommit;
    uint64_t lock_timeout_ms;
};
ASH_MUST_CHECK ash_rc txn_begin(struct txn *t, const struct txn_begin_options *options);
/* A new snapshot for the next statement (read committed, autocommit, get_for_update). */
void txn_refresh(struct txn *t);
/* At the start of each operation: killed, poisoned (for writes), fresh snapshot when read
 * committed. */
ASH_MUST_CHECK ash_rc txn_statement(struct txn *t, bool write);

/* Logs COMMIT, makes it visible, releases locks; *end_out (may be NULL): LSN to wait for, 0 when it
 * wrote nothing.  With wait: returns when that is durable, according to its durability; a read-only
 * transaction waits for what it has read (`depends`) with SYNC. */
ASH_MUST_CHECK ash_rc txn_commit(struct txn *t, bool wait, uint64_t *end_out);
ASH_MUST_CHECK ash_rc txn_rollback(struct txn *t);
uint64_t txn_savepoint(struct txn *t);
ASH_MUST_CHECK ash_rc txn_rollback_to(struct txn *t, uint64_t savepoint);

/* After each read: ASH_SNAPSHOT_TOO_OLD when the snapshot was given up meanwhile, so that what was
 * read may be wrong. */
ASH_MUST_CHECK ash_rc txn_check(struct txn *t);

/* ---- For the trees ---- */

/* Visibility of a version written by `writer` (not t's own id): true when t's snapshot sees it.
 * Lock-free; may wait a few instructions (I1).  Notes the dependency on commits that are not
 * durable yet. */
bool txn_sees(struct txn *t, uint64_t writer);
extern _Atomic uint64_t *
txn_visible_below_ptr(struct txn_sys *sys); /* I2; trees may cache the pointer */
void txn_move_horizon(struct txn_sys *sys); /* computes it anew, now */
uint64_t
txn_horizon(struct txn_sys *sys); /* I3; cached, grows in the background and when asked by purge */
/* True when the version by `writer` is seen by every snapshot in use and later: its header (or the
 * whole deleted row) can go. */
bool txn_visible_to_all(struct txn_sys *sys, uint64_t writer);

enum txn_writer_state {
    TXN_WRITER_SELF,
    TXN_WRITER_ACTIVE,
    TXN_WRITER_SEEN,
    TXN_WRITER_NEWER
};
/* May t change a row last written by `writer`?  ACTIVE: wait with txn_wait(); NEWER: committed
 * after t's snapshot: ASH_CONFLICT under snapshot isolation (never returned for autocommit and read
 * committed: those get SEEN). */
enum txn_writer_state txn_writer(struct txn *t, uint64_t writer);
/* Parks until `writer` has ended.  No latch may be held.  ASH_DEADLOCK, ASH_LOCK_TIMEOUT,
 * ASH_WOULD_BLOCK (nowait), ASH_POISONED. */
ASH_MUST_CHECK ash_rc txn_wait(struct txn *t, uint64_t writer, bool nowait);

/* Explicit row locks.  txn_lock_row: call without latches, then look at the row's writer.
 * txn_locked: call with the leaf latched exclusively before changing a row: the id of another
 * transaction that locked it, or 0.  One load when there are no explicit locks. */
ASH_MUST_CHECK ash_rc txn_lock_row(struct txn *t, uint32_t tree, struct ash_slice key, bool nowait);
uint64_t txn_locked(struct txn *t, uint32_t tree, struct ash_slice key);
/* Takes back the explicit locks of t that are newer than the mark: the row turned out not to exist.
 * */
struct txn_lock;
const struct txn_lock *txn_lock_mark(const struct txn *t);
void txn_unlock_since(struct txn *t, const struct txn_lock *mark);

/* Before a row change is logged: gives t an id and notes where its log begins.  Without latches. */
ASH_MUST_CHECK ash_rc txn_prepare_write(struct txn *t);
/* Fills type ROW, txn, prev / type CLR, txn, prev, undo_next; then txn_logged() with the record's
 * start LSN, before the latch is released. */
void txn_row_record(struct txn *t, struct mtr_record *record);
void txn_clr_record(struct txn *t, uint64_t undo_next, struct mtr_record *record);
void txn_logged(struct txn *t, uint64_t start);
/* t replaced a large value: its pages go when t is committed and nobody can see it.  t deleted a
 * row: tell the purge task later. Both without failing (a lost hint costs nothing but time; garbage
 * is remembered in the log too). */
void txn_add_garbage(struct txn *t, uint32_t tree, const uint64_t *pages, unsigned count);
void txn_add_purge(struct txn *t, uint32_t tree, uint64_t root, uint8_t leaf_class,
                   struct ash_slice key);

/* Copies the undo part that begins the version chain at `undo_lsn` into *buf (grown as needed with
 * mem_realloc) and parses it. Parks. ASH_SNAPSHOT_TOO_OLD when it is gone. */
struct txn_buffer {
    uint8_t *data;
    uint32_t capacity;
};
ASH_MUST_CHECK ash_rc txn_read_undo(struct txn_sys *sys, uint64_t undo_lsn, struct txn_buffer *buf,
                                    struct txn_undo *out);

/* Nobody uses the tree any more, and the horizon has passed its last use: drops what the purge task
 * would still do in it, and waits until it is not inside.  Parks. */
void txn_forget_tree(struct txn_sys *sys, uint32_t tree);

struct txn_stats {
    uint64_t begun, committed, rolled_back, waits, deadlocks, timeouts, conflicts, versions_read,
        purged, active, losers, oldest_snapshot, horizon, next_id;
};
void txn_stats(struct txn_sys *sys, struct txn_stats *out);

#endif
