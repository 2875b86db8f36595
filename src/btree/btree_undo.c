/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_undo.c - what trees do for transactions: taking a change back, freeing what nobody needs,
 * removing ghosts.
 *
 * Undo is logical: the row is looked up by its key, wherever splits and merges have carried it
 * since.  One record (the CLR) restores the row and frees the pages of a large value that the
 * undone change had made.  When the row before does not fit any more, the leaf is split first,
 * which is never undone.
 */
#include "btree/btree_int.h"

/* A change about to be taken back. */
struct undoing {
    struct btree bt;
    struct txn *t;
    const struct txn_undo *undo;
    uint64_t undo_next;
    struct ash_slice key;
    uint64_t pages[BTREE_LARGE_PAGES_MAX]; /* of the large value that goes */
    unsigned page_count;
    uint32_t large_size, entered; /* its bytes; for so many room was asked for (btree_large.c) */
};

static ash_rc
lost_row(const struct undoing *u)
{
    return ash_raise(
        ASH_CORRUPT,
        "Tree %u: a row that transaction %llu changed is gone or somebody else's; run a verification.",
        u->bt.tree, (unsigned long long)atomic_load_explicit(&u->t->id, memory_order_relaxed));
}

/* The row as the change left it: ours, or something is very wrong. */
static ash_rc
inspect_row(struct undoing *u, const struct buf_page *leaf, uint32_t *slot_out)
{
    bool exact;
    struct btree_entry e;
    *slot_out = btree__lower_bound(leaf->data, leaf->size, u->key.size > 0 ? u->key.data : "",
                                   (uint32_t)u->key.size, &exact);
    if (!exact)
        return lost_row(u);
    btree__entry(leaf->data, *slot_out, &e);
    if (e.version == NULL ||
        get_le64(e.version) != atomic_load_explicit(&u->t->id, memory_order_relaxed))
        return lost_row(u);
    u->page_count = 0;
    if ((e.flags & BTREE_ROW_LARGE) != 0 &&
        !btree__large_parse(e.value, e.value_size, &u->large_size, u->pages, &u->page_count))
        return lost_row(u);
    return ASH_OK;
}

/* The put that brings the row before back. */
static ash_rc
restore_put(const struct undoing *u, struct btree_put *put)
{
    const struct txn_undo_head *h = u->undo->head;
    uint32_t version_size = (h->row_flags & BTREE_ROW_VERSIONED) != 0 ? BTREE_VERSION_SIZE : 0;
    if (h->row_size < version_size || (h->row_flags & ~BTREE_ROW_FLAGS_ALL) != 0 ||
        h->row_size - version_size + h->key_size >
            BTREE_ENTRY_MAX(PAGE_CLASS_SIZE((uint32_t)u->bt.leaf_class)))
        return ash_raise(
            ASH_CORRUPT,
            "Tree %u: a log record holds a row that cannot be one; the log is damaged.",
            u->bt.tree);
    *put = (struct btree_put){
        .key = u->key,
        .value = ash_slice(u->undo->row + version_size, h->row_size - version_size),
        .version = u->undo->row,
        .flags = h->row_flags,
    };
    return ASH_OK;
}

enum undo_next {
    UNDO_DONE,
    UNDO_FAULT,
    UNDO_SPLIT
};

struct undo_step {
    enum undo_next next;
    uint64_t fault;
    uint32_t need;
    bool underfull;
};

/* Logs the CLR.  Leaf and value pages are latched; the latter are released with the record. */
static ash_rc
log_clr(struct undoing *u, struct buf_page *leaf, uint32_t slot, const struct btree_put *put,
        const struct btree_put_plan *plan, struct buf_page *pages)
{
    uint32_t bytes = put != NULL ? btree__put_bytes(put, plan) : 16, size = 0;
    uint8_t *payload = mem_alloc(MEM_BTREE, bytes), *patch;
    struct btree_mtr bm;
    struct mtr_record record = { .type = WAL_REC_CLR };
    uint64_t start;
    ash_rc rc = payload != NULL
                    ? btree__mtr_begin(&bm, u->bt.env, leaf->size, 2 + u->page_count, bytes + 16)
                    : ASH_NO_MEMORY;
    if (rc != ASH_OK) {
        for (unsigned i = 0; i < u->page_count; i++)
            buf_unlatch_x(u->bt.env->pool, &pages[i]);
        goto out;
    }
    txn_clr_record(u->t, u->undo_next, &record);
    if (put != NULL) {
        btree__put_payload(leaf, put, plan, payload, &size);
        btree__put_apply(&bm, leaf, put, plan, payload, size, &patch);
    } else {
        struct btree_op_slot op = { slot, 0 };
        btree__mtr_change(&bm, leaf, BTREE_OP_LEAF_REMOVE, &op, sizeof(op));
    }
    for (unsigned i = 0; i < u->page_count; i++)
        btree__mtr_free(&bm, &pages[i]);
    rc = btree__mtr_commit_as(&bm, &record, NULL, NULL, &start);
    if (rc == ASH_OK)
        txn_logged(u->t, start);
out:
    mem_free(MEM_BTREE, payload);
    return rc;
}

/* One try with the leaf latched; it stays so. */
static ash_rc
undo_in_leaf(struct undoing *u, struct buf_page *leaf, struct undo_step *step)
{
    struct buf_page pages[BTREE_LARGE_PAGES_MAX];
    struct btree_put put;
    struct btree_put_plan plan;
    uint32_t slot;
    bool restore = u->undo->head->kind != TXN_UNDO_INSERT;
    ash_rc rc = inspect_row(u, leaf, &slot);
    if (rc == ASH_OK && restore)
        rc = restore_put(u, &put);
    if (rc != ASH_OK)
        return rc;
    if (restore && !btree__put_plan(&u->bt, leaf, &put, &plan)) {
        step->next = UNDO_SPLIT;
        step->need = plan.need;
        return ASH_OK;
    }
    rc = btree__large_try_latch(&u->bt, u->pages, u->page_count, pages, &step->fault);
    if (rc == ASH_WOULD_BLOCK) {
        step->next = UNDO_FAULT;
        return ASH_OK;
    }
    if (rc == ASH_OK)
        rc = log_clr(u, leaf, slot, restore ? &put : NULL, &plan, pages);
    step->underfull = btree__underfull(leaf);
    return rc;
}

/* Brings a page of the value that goes in.  They are needed all at once, and so that they stay until
 * the last has come, nobody else may fill the cache with such values meanwhile. */
static ash_rc
fault_value(struct undoing *u, uint64_t page)
{
    if (u->entered == 0) {
        u->entered = u->large_size;
        btree__large_enter(&u->bt, u->entered);
    }
    return buf_fault(u->bt.env->pool, page, IO_CLASS_READ);
}

static ash_rc
undo_row(struct undoing *u)
{
    struct buf_pool *pool = u->bt.env->pool;
    const struct txn_undo_head *h = u->undo->head;
    for (unsigned tries = 0; tries < BTREE_RETRY_MAX; tries++) {
        struct undo_step step = { UNDO_DONE, PAGE_ID_NONE, 0, false };
        struct buf_page leaf;
        ash_rc rc = btree__latch_leaf(&u->bt, u->key, &leaf);
        if (rc != ASH_OK)
            return rc;
        rc = undo_in_leaf(u, &leaf, &step);
        buf_unlatch_x(pool, &leaf);
        if (rc == ASH_OK && step.next == UNDO_FAULT)
            rc = fault_value(u, step.fault);
        else if (rc == ASH_OK && step.next == UNDO_SPLIT)
            rc = btree__split(&u->bt, u->key, step.need);
        else if (rc == ASH_OK) {
            if (step.underfull && h->kind == TXN_UNDO_INSERT)
                ash_ignore(btree__merge(&u->bt, u->key, 0)); /* an economy; the row is restored */
            return ASH_OK;
        }
        if (rc != ASH_OK)
            return rc;
    }
    return ash_raise(ASH_INTERNAL,
                     "Taking back a change of tree %u did not come to an end; please report it.",
                     h->tree);
}

ash_rc
btree__undo(void *ctx, struct txn *t, const struct txn_undo *undo, uint64_t undo_next)
{
    struct btree_env *env = ctx;
    const struct txn_undo_head *h = undo->head;
    struct undoing u = {
        .bt = btree__of(env, h->tree, h->root, h->leaf_class),
        .t = t,
        .undo = undo,
        .undo_next = undo_next,
        .key = ash_slice(undo->key, h->key_size),
    };
    if (h->key_size > BTREE_KEY_MAX || h->leaf_class >= PAGE_CLASS_COUNT)
        return ash_raise(ASH_CORRUPT,
                         "Tree %u: a log record names a key of %u bytes; the log is damaged.",
                         h->tree, h->key_size);
    ash_rc rc = undo_row(&u);
    if (u.entered > 0)
        btree__large_leave(&u.bt, u.entered);
    return rc;
}

/* ---- Garbage ---- */

unsigned
btree__garbage(void *ctx, const struct txn_undo *undo, uint64_t *pages_out, unsigned capacity)
{
    const struct txn_undo_head *h = undo->head;
    uint32_t version_size = (h->row_flags & BTREE_ROW_VERSIONED) != 0 ? BTREE_VERSION_SIZE : 0,
             size;
    uint64_t pages[BTREE_LARGE_PAGES_MAX];
    unsigned count;
    (void)ctx;
    if ((h->row_flags & BTREE_ROW_LARGE) == 0 || h->row_size < version_size ||
        !btree__large_parse(undo->row + version_size, h->row_size - version_size, &size, pages,
                            &count) ||
        count > capacity)
        return 0;
    memcpy(pages_out, pages, count * sizeof(pages[0]));
    return count;
}

#define FREE_TRIES 8u /* loads of one group of pages; a small cache may not hold them all at once */

/* As many as one record takes.  ASH_WOULD_BLOCK: they do not stay in the cache together; take
 * fewer. */
static ash_rc
free_some(const struct btree *bt, const uint64_t *pages, unsigned count)
{
    struct buf_page latched[BTREE_LARGE_PAGES_MAX];
    struct btree_mtr bm;
    uint64_t fault;
    ash_rc rc;
    for (unsigned tries = 0;;) {
        rc = btree__large_try_latch(bt, pages, count, latched, &fault);
        if (rc != ASH_WOULD_BLOCK)
            break;
        rc = buf_fault(bt->env->pool, fault, IO_CLASS_COMPACTION);
        if (rc == ASH_OK && tries >= count + FREE_TRIES && count > 1)
            return ASH_WOULD_BLOCK;
        if (rc == ASH_OK)
            rc = btree__restart(bt, &tries);
        if (rc != ASH_OK)
            return rc;
    }
    if (rc != ASH_OK)
        return rc;
    rc = btree__mtr_begin(&bm, bt->env, PAGE_SIZE_MIN, count, 0);
    if (rc != ASH_OK) {
        for (unsigned i = 0; i < count; i++)
            buf_unlatch_x(bt->env->pool, &latched[i]);
        return rc;
    }
    for (unsigned i = 0; i < count; i++)
        btree__mtr_free(&bm, &latched[i]);
    return btree__mtr_commit(&bm);
}

ash_rc
btree__free_pages(void *ctx, uint32_t tree, const uint64_t *pages, unsigned count,
                  unsigned *freed_out)
{
    struct btree bt = btree__of(ctx, tree, PAGE_ID_NONE, 0);
    ash_rc rc = ASH_OK;
    unsigned most = BTREE_LARGE_PAGES_MAX;
    *freed_out = 0;
    while (*freed_out < count && rc == ASH_OK) {
        unsigned n = count - *freed_out < most ? count - *freed_out : most;
        rc = free_some(&bt, pages + *freed_out, n);
        if (rc == ASH_OK)
            *freed_out += n;
        if (rc == ASH_CORRUPT && n > 1)
            most = 1; /* which one is it?  The caller passes over it */
        else if (rc == ASH_WOULD_BLOCK)
            most = (n + 1) / 2;
        else
            continue;
        rc = ASH_OK;
    }
    return rc;
}

/* ---- Ghosts ---- */

ash_rc
btree__purge_leaf(const struct btree *bt, struct buf_page *leaf)
{
    uint8_t list[4 * BTREE_PURGE_MAX];
    uint32_t count, below;
    struct btree_mtr bm;
    if (btree__cnode(leaf->data)->ghosts == 0)
        return ASH_OK; /* version heads alone are not worth a log record */
    uint32_t ghosts = btree__cnode(leaf->data)->ghosts;
    (void)btree__purge_list(bt, leaf->data, UINT32_MAX, list, &count, &below);
    if (count == 0)
        return ASH_OK;
    ash_rc rc = btree__mtr_begin(&bm, bt->env, leaf->size, 1, 4 * count);
    if (rc != ASH_OK)
        return rc;
    btree__mtr_change(&bm, leaf, BTREE_OP_LEAF_PURGE, list, 4 * count);
    uint32_t gone = ghosts - btree__cnode(leaf->data)->ghosts;
    counter_add(&bt->env->counters->purged_rows, gone);
    counter_add(&bt->env->counters->purged_heads, count - gone);
    return btree__mtr_commit(&bm);
}

ash_rc
btree__purge(void *ctx, uint32_t tree, uint64_t root, uint8_t leaf_class, const uint8_t *key,
             uint32_t key_size)
{
    struct btree_env *env = ctx;
    struct btree bt = btree__of(env, tree, root, leaf_class);
    struct buf_page leaf;
    struct ash_slice k = ash_slice(key, key_size);
    ash_rc rc = buf_throttle(env->pool);
    if (rc == ASH_OK)
        rc = btree__latch_leaf(&bt, k, &leaf);
    if (rc != ASH_OK)
        return rc;
    rc = btree__purge_leaf(&bt, &leaf);
    bool underfull = btree__underfull(&leaf);
    buf_unlatch_x(env->pool, &leaf);
    return rc == ASH_OK && underfull ? btree__merge(&bt, k, 0) : rc;
}
