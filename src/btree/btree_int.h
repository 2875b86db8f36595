/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_int.h - what the files of this folder share about whole trees.  Read first: README.md,
 * btree_page.h.
 */
#ifndef ASH_BTREE_INT_H
#define ASH_BTREE_INT_H

#include "base/assert.h"
#include "base/bits.h"
#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "btree/btree.h"
#include "btree/btree_page.h"
#include "task/task.h"
#include "wal/wal_mtr.h"

/* Inner pages are always 4 KiB, whatever the leaves are; the root is always an inner page (a tree
 * begins as a root over one leaf). */
#define BTREE_INNER_CLASS 0u
#define BTREE_INNER_SIZE  PAGE_CLASS_SIZE(BTREE_INNER_CLASS)

/* A page that uses less than this share is a candidate for merging; what two pages become may use
 * at most MERGE_FULL. In percent. */
#define BTREE_MERGE_BELOW 30u
#define BTREE_MERGE_FULL  75u
/* restarts of one operation before it is called a bug: far beyond any real contention */
#define BTREE_RETRY_MAX   1000000u
#define BTREE_PURGE_MAX   512u /* rows that one purge change lists */

struct btree_counters {
    struct counter gets, writes, restarts, leaf_splits, contention_splits, inner_splits, root_grows,
        merges, root_shrinks, moves, purged_rows, purged_heads;
};

/* ---- Descending (btree.c) ---- */

struct btree_path {
    struct buf_page parent, node; /* optimistic guards */
    uint32_t slot;                /* of node in parent */
    bool has_parent;
    bool waited; /* for a latch on the way */
};
/* Descends to the page of `level` whose fences hold the key.  ASH_NOT_FOUND when the tree is lower.
 * No latch may be held.  Parks. */
ASH_MUST_CHECK ash_rc btree__descend(const struct btree *bt, struct ash_slice key, unsigned level,
                                     struct btree_path *path_out);
/* The same without waiting: ASH_WOULD_BLOCK and the page that is missing in *missing_out. */
ASH_MUST_CHECK ash_rc btree__descend_nowait(const struct btree *bt, struct ash_slice key,
                                            unsigned level, struct btree_path *path_out,
                                            uint64_t *missing_out);
/* The leaf of a key, exclusively latched. */
ASH_MUST_CHECK ash_rc btree__latch_leaf(const struct btree *bt, struct ash_slice key,
                                        struct buf_page *leaf_out);
/* The same; *collided_out: somebody else held the latch or changed the leaf meanwhile. */
ASH_MUST_CHECK ash_rc btree__latch_leaf_noting(const struct btree *bt, struct ash_slice key,
                                               struct buf_page *leaf_out, bool *collided_out);
/* Counts a restart and lets others go on; ASH_INTERNAL when there were too many. */
ASH_MUST_CHECK ash_rc btree__restart(const struct btree *bt, unsigned *tries);
struct btree btree__of(struct btree_env *env, uint32_t tree, uint64_t root, uint8_t leaf_class);

/* Largest stored row (version head, key, value) of a leaf class. */
uint32_t btree__inline_max(uint8_t leaf_class);

/* Makes an empty tree.  noted_in: a latched root whose `loading` names it from the same record on,
 * or NULL. */
ASH_MUST_CHECK ash_rc btree__create_at(struct btree_env *env, uint32_t tree, uint8_t leaf_class,
                                       struct buf_page *noted_in, uint64_t reserved,
                                       uint64_t *root_out);
/* btree_destroy() without what `loading` names.  noted_in: the root whose `loading` is cleared by
 * the last record, or PAGE_ID_NONE. */
ASH_MUST_CHECK ash_rc btree__destroy_pages(struct btree_env *env, uint32_t tree, uint64_t root,
                                           uint64_t noted_in);
/* From now on leaves may hold large values. */
ASH_MUST_CHECK ash_rc btree__flag_large(struct btree *bt);

/* ---- Logging changes (btree_mtr.c) ---- */

/* A mini-transaction whose room is secured at the beginning, so that changes cannot fail half way.
 * */
struct btree_mtr {
    struct mtr m;
    uint8_t *scratch;
    uint32_t scratch_size;
};
ASH_MUST_CHECK ash_rc btree__mtr_begin(struct btree_mtr *bm, const struct btree_env *env,
                                       uint32_t page_size_max, uint32_t changes,
                                       uint32_t payload_bytes);
void btree__mtr_change(struct btree_mtr *bm, struct buf_page *page, enum btree_op op,
                       const void *payload, uint32_t size);
void btree__mtr_edit(struct btree_mtr *bm, struct buf_page *page, struct btree_edit *e);
void btree__mtr_init(struct btree_mtr *bm, const struct buf_page *page); /* page from buf_new() */
/* its latch is released by the commit */
void btree__mtr_free(struct btree_mtr *bm, const struct buf_page *page);
void btree__mtr_abort(struct btree_mtr *bm);
ASH_MUST_CHECK ash_rc btree__mtr_commit(struct btree_mtr *bm); /* redo-only */
ASH_MUST_CHECK ash_rc btree__mtr_commit_as(struct btree_mtr *bm, const struct mtr_record *record,
                                           void (*patch)(void *arg, uint64_t start), void *arg,
                                           uint64_t *start_out);

/* ---- Putting a row into a latched leaf (btree_put.c) ---- */

struct btree_put {
    struct ash_slice key, value;
    uint64_t writer;        /* not 0: {writer, start LSN} becomes the version head */
    const uint8_t *version; /* else the version head when VERSIONED */
    uint8_t flags;
};
struct btree_put_plan {
    uint32_t slot; /* after the purge */
    bool exact;
    uint32_t need; /* heap bytes of the entry */
    uint32_t purge_count, purge_gain;
    uint8_t purge[4 * BTREE_PURGE_MAX];
};
/* Finds where the row goes and whether it fits, if need be after a purge.  false: split first. */
bool btree__put_plan(const struct btree *bt, const struct buf_page *leaf,
                     const struct btree_put *put, struct btree_put_plan *plan_out);
/* Bytes that btree__put_apply() needs in the mini-transaction. */
uint32_t btree__put_bytes(const struct btree_put *put, const struct btree_put_plan *plan);
/* *patch_out: where the start LSN belongs in the page, or NULL. */
void btree__put_payload(const struct buf_page *leaf, const struct btree_put *put,
                        const struct btree_put_plan *plan, uint8_t *payload, uint32_t *size_out);
void btree__put_apply(struct btree_mtr *bm, struct buf_page *leaf, const struct btree_put *put,
                      const struct btree_put_plan *plan, const uint8_t *payload, uint32_t size,
                      uint8_t **patch_out);
/* Lists rows whose version heads, or which as a whole, nobody needs; `except` is left alone
 * (UINT32_MAX: none). Returns bytes gained. */
uint32_t btree__purge_list(const struct btree *bt, const uint8_t *page, uint32_t except,
                           uint8_t *list, uint32_t *count_out, uint32_t *removed_below_out);

/* ---- Structure changes (btree_split.c, btree_merge.c) ---- */

static const struct btree_fence btree__fence_keep = { BTREE_FENCE_KEEP, { NULL, 0 } };

static inline struct btree_fence
btree__fence_upper(const uint8_t *page)
{
    if ((btree__cnode(page)->flags & BTREE_NODE_UPPER_INFINITE) != 0)
        return (struct btree_fence){ BTREE_FENCE_INFINITE, { NULL, 0 } };
    return (struct btree_fence){ BTREE_FENCE_GIVEN, btree__upper(page) };
}

/* Splits the leaf of `key` unless an entry of `need` heap bytes fits now. */
ASH_MUST_CHECK ash_rc btree__split(struct btree *bt, struct ash_slice key, uint32_t need);
/* Splits the leaf that `key` belongs to below the first row that is not less, full or not: rows on
 * both sides are fought for.  Nothing happens when there is no such border. */
ASH_MUST_CHECK ash_rc btree__split_between(struct btree *bt, struct ash_slice key);
/* Merges the page of `level` on the way to `key` with a neighbour when both are empty enough; goes
 * on upwards.  Best effort. */
ASH_MUST_CHECK ash_rc btree__merge(struct btree *bt, struct ash_slice key, unsigned level);
/* Splits the inner page of `level` on the way to `key`.  append: leaves the left page full. */
ASH_MUST_CHECK ash_rc btree__split_inner_level(const struct btree *bt, struct ash_slice key,
                                               unsigned level, bool append);
/* Turns both guards of a path into exclusive latches; false: start over. */
bool btree__latch_path(const struct btree *bt, struct btree_path *path);
void btree__unlatch_path(const struct btree *bt, struct btree_path *path);
bool btree__parent_has_room(const struct buf_page *parent, uint32_t separator_size);
#define BTREE_CHILD_PAYLOAD_MAX (sizeof(struct btree_op_child) + BTREE_KEY_LIMIT)
uint32_t btree__child_payload(const struct buf_page *parent, uint32_t slot, uint64_t left,
                              uint64_t right, struct ash_slice key, uint8_t *out);
bool btree__underfull(const struct buf_page *p);

/* ---- Contention (btree_contention.c) ---- */

ASH_MUST_CHECK ash_rc btree__contention_init(struct btree_env *env);
void btree__contention_deinit(struct btree_env *env);
/* Notes that a writer of the row at `slot` had to wait for the leaf, which it has latched now.
 * true: the leaf should be split, with *border_out as the first slot of the right half. */
bool btree__contention(const struct btree_env *env, const struct buf_page *leaf, uint32_t slot,
                       uint32_t *border_out);
/* The leaf was split for that reason; was it lately? */
void btree__contention_split(const struct btree_env *env, uint64_t left);
bool btree__contention_lately(const struct btree_env *env, uint64_t left);

/* ---- Large values (btree_large.c) ---- */

/* Pages for a value of `size` bytes: their classes. */
unsigned btree__large_plan(uint32_t size, uint8_t classes_out[BTREE_LARGE_PAGES_MAX]);
/* Takes the page ids out of a row's value.  false: it makes no sense. */
bool btree__large_parse(const uint8_t *value, uint32_t value_size, uint32_t *size_out,
                        uint64_t *pages_out, unsigned *count_out);
/* Reads a large value given its description (copied); appends to *out.  Parks. */
ASH_MUST_CHECK ash_rc btree__large_read(const struct btree *bt, const uint8_t *description,
                                        uint32_t description_size, struct btree_buf *out);
/* New pages for a value, latched, not logged; *description_out filled. */
struct btree_large_new {
    struct buf_page page[BTREE_LARGE_PAGES_MAX];
    unsigned count;
    uint32_t description_size;
    uint8_t description[sizeof(struct btree_large) + 8 * BTREE_LARGE_PAGES_MAX];
};
ASH_MUST_CHECK ash_rc btree__large_init(struct btree_env *env);
void btree__large_deinit(struct btree_env *env);
/* A writer of a value of several pages holds them all at once: before its first latch it waits until
 * those who do leave each other room in the cache, and it leaves when it holds none.  Parks. */
void btree__large_enter(const struct btree *bt, uint32_t size);
void btree__large_leave(const struct btree *bt, uint32_t size);
ASH_MUST_CHECK ash_rc btree__large_reserve(const struct btree *bt, uint32_t size);
ASH_MUST_CHECK ash_rc btree__large_new(const struct btree *bt, uint32_t size,
                                       struct btree_large_new *out);
void btree__large_cancel(const struct btree *bt, struct btree_large_new *n);
/* Writes the bytes into the pages (logged, one mini-transaction per page) and releases them all,
 * also on failure. */
ASH_MUST_CHECK ash_rc btree__large_fill(const struct btree *bt, struct btree_large_new *n,
                                        struct ash_slice value);
/* Latches the value pages of a row exclusively; ASH_WOULD_BLOCK when one is not there (then load it
 * without latches: fault_out). */
ASH_MUST_CHECK ash_rc btree__large_try_latch(const struct btree *bt, const uint64_t *pages,
                                             unsigned count, struct buf_page *pages_out,
                                             uint64_t *fault_out);

/* ---- Rows and versions (btree_read.c) ---- */

/* A row copied out of its leaf. */
struct btree_image {
    uint8_t flags;
    uint64_t writer, undo; /* when VERSIONED */
};
/* Copies a row out of an optimistically read page: its value is appended to *value (which may be
 * garbage until validated). */
ASH_MUST_CHECK ash_rc btree__copy_row(const struct buf_page *leaf, uint32_t slot,
                                      struct btree_image *image_out, struct btree_buf *value);
/* Follows versions until one that t sees; the value from `base` on in *value is replaced, large
 * values are read.  ASH_NOT_FOUND: t sees no such row.  Parks. */
ASH_MUST_CHECK ash_rc btree__resolve(const struct btree *bt, struct txn *t, struct ash_slice key,
                                     struct btree_image *image, struct btree_buf *value,
                                     uint32_t base);
/* Is the row as it stands the version that the transaction sees?  Asks src/txn, so no latch. */
static inline bool
btree__sees(struct txn *t, const struct btree_image *image)
{
    return (image->flags & BTREE_ROW_VERSIONED) == 0 ||
           image->writer == atomic_load_explicit(&t->id, memory_order_relaxed) ||
           txn_sees(t, image->writer);
}
/* True when the row needs btree__resolve(). */
static inline bool
btree__plain(const struct btree_image *image)
{
    return image->flags == 0;
}
ASH_MUST_CHECK ash_rc btree__buf_room(struct btree_buf *b, uint32_t more);

/* ---- Transactions (btree_undo.c) ---- */
/* Drops the ghosts, and on that occasion the version heads, that nobody needs from an exclusively
 * latched page; one with no ghosts is left alone. */
ASH_MUST_CHECK ash_rc btree__purge_leaf(const struct btree *bt, struct buf_page *leaf);
ash_rc btree__undo(void *ctx, struct txn *t, const struct txn_undo *undo, uint64_t undo_next);
unsigned
btree__garbage(void *ctx, const struct txn_undo *undo, uint64_t *pages_out, unsigned capacity);
ash_rc btree__free_pages(void *ctx, uint32_t tree, const uint64_t *pages, unsigned count,
                         unsigned *freed_out);
ash_rc btree__purge(void *ctx, uint32_t tree, uint64_t root, uint8_t leaf_class, const uint8_t *key,
                    uint32_t key_size);

#endif
