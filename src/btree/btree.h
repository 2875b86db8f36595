/* SPDX-License-Identifier: Apache-2.0
 *
 * btree.h - B+trees of slotted pages with optimistic lock coupling and multi-version rows.
 *
 * Invariants:
 *   I1  A tree's root page id never changes; its content moves to new pages when it splits.
 *   I2  Every page but the root is owned by exactly one slot of one inner page, and its fence keys
 *       equal that slot's separators: lower fence exclusive... see btree_format.h.  Keys in a page
 *       lie between its fences, in byte order.
 *   I3  A child is reached only through a parent that was valid after the child's word was read
 *       (lock coupling).
 *   I4  A row's version header names its last writer and the log record with the version before; a
 *       row without one is visible to all.
 *   I5  Structure changes are redo-only mini-transactions: they are never undone, and each leaves a
 *       correct tree.
 */
#ifndef ASH_BTREE_H
#define ASH_BTREE_H

#include <ashlar.h>

#include "buffer/buffer.h"
#include "txn/txn.h"
#include "wal/wal.h"

#define BTREE_KEY_MAX    ASH_KEY_SIZE_MAX
/* a stored row (key and value) is never larger in the leaf; and at most a quarter of a leaf */
#define BTREE_INLINE_MAX 16384u

/* What all trees of a database share. */
struct btree_env {
    struct buf_pool *pool;
    struct wal *wal; /* NULL while recovery redoes */
    struct txn_sys *txn;
    struct pstore *pstore;
    struct task_runtime *rt;
    struct btree_counters *counters; /* made by btree_env_init */
    struct btree_hot_leaf *hot;      /* btree_contention.c; made by btree_env_init */
    struct btree_large_room *large;  /* btree_large.c; made by btree_env_init */
    uint32_t hot_after; /* collisions that make a leaf hot; a test seam: set by btree_env_init */
};
ASH_MUST_CHECK ash_rc btree_env_init(struct btree_env *env);
void btree_env_deinit(struct btree_env *env);
struct btree_stats {
    uint64_t reads, writes, restarts, leaf_splits, contention_splits, inner_splits, merges,
        purged_rows;
};
void btree_stats(const struct btree_env *env, struct btree_stats *out);
void btree_register(void); /* redo functions; once per process */
void btree_txn_ops(struct btree_env *env, struct txn_ops *out);

/* One tree, shared by all sessions. Small; no I/O to make one. */
struct btree {
    struct btree_env *env;
    uint64_t root;
    uint32_t tree;
    uint8_t leaf_class;
    _Atomic uint64_t append_hint; /* last leaf that took an ascending insert */
    _Atomic bool loading;         /* a bulk load is under way */
};

/* Makes an empty tree: one logged mini-transaction of its own (redo-only). */
ASH_MUST_CHECK ash_rc btree_create(struct btree_env *env, uint32_t tree, uint8_t leaf_class,
                                   uint64_t *root_out);
/* The same with a root id from pstore_page_alloc(), which the caller has noted in the log before: a
 * crash finds no page without an owner. After a failure the id is free. */
ASH_MUST_CHECK ash_rc btree_create_noted(struct btree_env *env, uint32_t tree, uint8_t leaf_class,
                                         uint64_t root);
void btree_init(struct btree *bt, struct btree_env *env, uint32_t tree, uint64_t root,
                uint8_t leaf_class);
/* Frees every page of the tree, children listed in inner pages first, without reading leaves that
 * hold no large values. Restartable after a crash: call again with the same root.  Nobody may use
 * the tree any more.  Parks. */
ASH_MUST_CHECK ash_rc btree_destroy(struct btree_env *env, uint32_t tree, uint64_t root);

/* A growable buffer that a value or key is copied into. */
struct btree_buf {
    uint8_t *data;
    uint32_t size, capacity;
};
void btree_buf_free(struct btree_buf *b);

/* Reads the version that t sees.  ASH_NOT_FOUND.  Parks. */
ASH_MUST_CHECK ash_rc btree_get(struct btree *bt, struct txn *t, struct ash_slice key,
                                struct btree_buf *value_out);
/* Reads many; page misses of all overlap.  Values are packed into one buffer; offsets[i], sizes[i]
 * where results[i] == ASH_OK. */
ASH_MUST_CHECK ash_rc btree_multiget(struct btree *bt, struct txn *t, size_t count,
                                     const struct ash_slice *keys, struct btree_buf *values_out,
                                     uint32_t *offsets_out, uint32_t *sizes_out,
                                     ash_rc *results_out);
/* Locks the row (txn_lock_row) and reads its newest committed version (or t's own). */
ASH_MUST_CHECK ash_rc btree_get_for_update(struct btree *bt, struct txn *t, struct ash_slice key,
                                           bool nowait, struct btree_buf *value_out);

enum btree_write_kind {
    BTREE_PUT = 1,
    BTREE_INSERT,
    BTREE_UPDATE,
    BTREE_DELETE
};
/* EXISTS, NOT_FOUND, CONFLICT, DEADLOCK, LOCK_TIMEOUT, TOO_LARGE, NO_SPACE, ...: nothing was
 * changed then.  Parks. */
ASH_MUST_CHECK ash_rc btree_write(struct btree *bt, struct txn *t, enum btree_write_kind kind,
                                  struct ash_slice key, struct ash_slice value);

/* ---- Cursors ---- */
struct btree_cursor; /* btree_int.h */
struct btree_row {
    struct ash_slice key, value;
};
/* `from` inclusive, `to` exclusive; data NULL: unbounded.  The cursor reads with t's snapshot
 * (taken at statement begin). */
ASH_MUST_CHECK ash_rc btree_cursor_open(struct btree *bt, struct txn *t,
                                        const struct ash_cursor_options *options,
                                        struct btree_cursor **out);
/* One more use of a cursor's memory: rest, then reopen. */
void btree_cursor_rest(struct btree_cursor *c);
ASH_MUST_CHECK ash_rc btree_cursor_reopen(struct btree_cursor *c, struct btree *bt, struct txn *t,
                                          const struct ash_cursor_options *options);
void btree_cursor_close(struct btree_cursor *c);
/* Ascending when forward, whatever the cursor's own direction; rows stay valid until the next call.
 * */
ASH_MUST_CHECK ash_rc btree_cursor_step(struct btree_cursor *c, bool forward,
                                        struct btree_row *row_out);
/* Before the first row at or after (forward) / at or before (!forward) the key. */
ASH_MUST_CHECK ash_rc btree_cursor_seek(struct btree_cursor *c, struct ash_slice key, bool forward);
ASH_MUST_CHECK ash_rc btree_cursor_batch(struct btree_cursor *c, bool forward, size_t capacity,
                                         struct btree_row *rows_out, size_t *count_out);

/* ---- Bulk load ---- */
/* Builds pages left to right from ascending keys into an empty tree: pages logged as images (or
 * written through and forced, say which in the README), the root switched last, so a crash leaves
 * an empty tree.  ASH_EXISTS when not empty, ASH_INVALID when keys don't ascend. */
ASH_MUST_CHECK ash_rc btree_bulk_load(struct btree *bt, ash_bulk_next_fn next, void *arg);

/* ---- Looking at it ---- */
ASH_MUST_CHECK ash_rc btree_stat(struct btree *bt, struct ash_table_stat *out);
/* Verifies structure: fences, order, separators, class, every page owned once: calls own(page) for
 * each of its pages (also large values'); found() for each problem. */
struct btree_verify_ops {
    void *arg;
    void (*own)(void *arg, uint64_t page, uint32_t tree);
    void (*found)(void *arg, uint64_t page, const char *message);
};
ASH_MUST_CHECK ash_rc btree_verify(struct btree *bt, const struct btree_verify_ops *ops);
/* Checks a leaf or inner page image beyond its checksum: every offset, order, fences (fuzz target;
 * called on each page read from disk). */
ASH_MUST_CHECK ash_rc btree_page_check(const uint8_t *page, uint32_t size);
/* Prints a page for `ashlar inspect`: fn is called with lines. */
void btree_page_print(const uint8_t *page, uint32_t size, void (*line)(void *arg, const char *text),
                      void *arg);

#endif
