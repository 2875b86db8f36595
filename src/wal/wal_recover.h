/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_recover.h - fuzzy checkpoints and ARIES restart: analysis, redo; undo belongs to src/txn.
 *
 * Checkpoint (one at a time, by the checkpointer task; nothing stops meanwhile):
 *   1. Page writers bring the oldest changes to disk.
 *   2. under the map lock: map_lsn = wal_reserved(); then changed map pages are written.
 *   3. begin = wal_reserved(); collect: dirty-page table, transaction table and pending work
 *      (participants).
 *   4. append CHECKPOINT records, flush, write the superblock naming the first of them.
 *   5. wal_truncate(min(redo, map_lsn, what participants ask for)). Restart: superblock -> map from
 * its root -> CHECKPOINT records -> analysis from min(redo, map_lsn, oldest undo) to the end of the
 * log (MAP, FREE, INIT into the map; participants see every record) -> redo -> wal_open with a new
 * epoch -> the database is open; participants undo losers (txn/txn_loser.c), and the checkpointer
 * takes the first checkpoint of the new life, both in the background.
 */
#ifndef ASH_WAL_RECOVER_H
#define ASH_WAL_RECOVER_H

#include "buffer/buffer.h"
#include "storage/pstore.h"
#include "wal/wal.h"
#include "wal/wal_mtr.h"

/* A growing byte string for checkpoint contents. */
struct wal_blob {
    uint8_t *data;
    size_t size, capacity;
};
ASH_MUST_CHECK ash_rc wal_blob_add(struct wal_blob *b, const void *data, size_t size);
void wal_blob_free(struct wal_blob *b);

/* Someone whose state is rebuilt from checkpoint and log (src/txn; later src/lsm, src/ledger). */
struct recover_participant {
    uint32_t id; /* stored; 1 = txn */
    void *ctx;
    /* Appends its state; consistent with every record below wal_reserved() at the call or later
     * ones (fuzzy).  *oldest_out: restart must scan from there at the latest, e.g. the first record
     * of the oldest open transaction (UINT64_MAX: no wish). */
    ash_rc (*collect)(void *ctx, struct wal_blob *blob, uint64_t *oldest_out);
    ash_rc (*restore)(void *ctx, const uint8_t *data, size_t size); /* untrusted bytes */
    /* Every record from where the scan begins (below the restored state's position too) to the end
     * of the log, in order, after restore(). */
    ash_rc (*analyse)(void *ctx, const struct wal_record *rec);
    /* Lowest LSN that readers of old versions may still ask for: bounds truncation, not recovery.
     * May be NULL. */
    uint64_t (*retain)(void *ctx);
};
#define RECOVER_PARTICIPANTS_MAX 8

struct checkpointer;
struct checkpoint_options {
    struct task_runtime *rt;
    struct io *io;
    struct wal *wal;
    struct buf_pool *pool;
    struct pstore *pstore;
    /* bytes of log after which a checkpoint starts; pacing keeps redo below */
    uint64_t log_limit;
    uint64_t interval_ms;
    uint32_t epoch; /* of the log */
    bool manual;    /* no task: only checkpoint_now() and checkpoint_final() (tests) */
    const struct recover_participant *participants;
    unsigned participant_count;
};
/* Starts the checkpointer task. */
ASH_MUST_CHECK ash_rc checkpoint_start(const struct checkpoint_options *options,
                                       struct checkpointer **out);
ASH_MUST_CHECK ash_rc checkpoint_now(struct checkpointer *c); /* one whole checkpoint; parks */
/* After a recovery: the task takes one as soon as it can, so that the next restart has less to do.
 * Until then a crash leads to the same restart again (R6). */
void checkpoint_soon(struct checkpointer *c);
/* The last one of this life, marked clean: nothing follows it in the log, the next open has nothing
 * to redo. */
ASH_MUST_CHECK ash_rc checkpoint_final(struct checkpointer *c);
void checkpoint_tune(struct checkpointer *c, uint64_t log_limit, uint64_t interval_ms);
/* Keeps checkpoints away: superblock, map pages and log segments stay where they are until
 * checkpoint_resume().  NULL allowed.  Parks.  Not for long: the log grows meanwhile. */
void checkpoint_pause(struct checkpointer *c);
void checkpoint_resume(struct checkpointer *c);
/* Stops the task and frees it; no final checkpoint by itself; NULL allowed. */
void checkpoint_stop(struct checkpointer *c);

/* Appends the MAP record that says where `count` pages have gone (buf_log_ops.append_map). */
ASH_MUST_CHECK ash_rc recover_append_map(struct wal *wal, const struct pstore_write *writes,
                                         unsigned count, uint64_t *end_out);

struct recover_options {
    struct io *io;
    struct task_runtime *rt;
    unsigned workers;   /* tasks that redo; a simulation has its own number */
    struct io_dir *dir; /* of the log */
    struct buf_pool *pool;
    struct pstore *pstore; /* opened, map loaded from the checkpoint's root */
    const struct recover_participant *participants;
    unsigned participant_count;
    bool read_only; /* ASH_READ_ONLY when anything would have to be redone */
};
struct recover_result {
    struct wal_position next; /* for wal_open */
    uint32_t epoch;           /* highest seen; use + 1 */
    struct wal_segments *live;
    uint64_t records_scanned, changes_redone, checkpoint_lsn;
    bool clean; /* nothing to redo or undo */
};
/* Analysis and redo.  Pages it changed are dirty in the pool.  ASH_CORRUPT names segment and offset
 * or page. */
ASH_MUST_CHECK ash_rc recover_run(const struct recover_options *options,
                                  struct recover_result *result_out);
/* Is this the content of a checkpoint, its parts put together (fuzz target)? */
ASH_MUST_CHECK ash_rc recover_checkpoint_check(const void *bytes, size_t size);

#endif
