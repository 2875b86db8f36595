/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_destroy.c - frees every page of a tree that nobody uses any more.
 *
 * From the right: the last leaves of the last inner page go, and the inner page forgets them in the
 * same record. So after every record what is left is still reached from the root, and a crash only
 * means calling again.  The last leaf of an inner page goes together with that page, and with those
 * above it that have no other child; the last record frees the root.
 *
 * Leaves are read only because freeing a page takes its latch; their rows are looked at only in
 * trees that may hold large values.
 */
#include "btree/btree_int.h"

#define TOGETHER      16u /* leaves freed by one record: its pages are counted (MTR_PAGES_MAX) */
/* They are latched all at once: of large ones no more than this part of the cache. */
#define TOGETHER_PART 8u

struct killer {
    struct btree bt; /* not more than env, tree and root */
    /* a root whose `loading` names this tree and is cleared by the last record; or PAGE_ID_NONE */
    uint64_t noted_in;
    bool large;
};

/* The way to the last page of level 1, latched: page[0] is the lowest page on it that has other
 * children, or the root; below it stand pages with one child each. */
struct chain {
    struct buf_page page[BTREE_LEVEL_MAX + 1];
    unsigned count;
};

static void
chain_release(const struct killer *k, struct chain *c)
{
    while (c->count > 0)
        buf_unlatch_x(k->bt.env->pool, &c->page[--c->count]);
}

static ash_rc
chain_latch(const struct killer *k, struct chain *c)
{
    uint64_t page = k->bt.root;
    unsigned level = 0;
    c->count = 0;
    do {
        struct buf_page p;
        ash_rc rc = buf_latch_x(k->bt.env->pool, page, &p);
        if (rc != ASH_OK) {
            chain_release(k, c);
            return rc;
        }
        const struct btree_node *n = btree__cnode(p.data);
        if (n->level == 0 || n->level > BTREE_LEVEL_MAX || (level != 0 && n->level + 1u != level)) {
            buf_unlatch_x(k->bt.env->pool, &p);
            chain_release(k, c);
            return ash_raise(ASH_CORRUPT,
                             "Tree %u: page %llu has the wrong level; run a verification.",
                             k->bt.tree, (unsigned long long)page);
        }
        level = n->level;
        if (n->count > 0)
            chain_release(k, c);
        c->page[c->count++] = p;
        page = BTREE_CHILD_PAGE(n->right);
    } while (level > 1);
    return ASH_OK;
}

/* ---- Leaves ---- */

/* Removes one row with a large value together with the pages of that value.  *more_out: there may
 * be others. */
static ash_rc
free_large_row(const struct killer *k, struct buf_page *leaf, bool *more_out)
{
    const struct btree_node *n = btree__cnode(leaf->data);
    uint64_t pages[BTREE_LARGE_PAGES_MAX];
    struct buf_page latched[BTREE_LARGE_PAGES_MAX];
    unsigned count = 0;
    *more_out = false;
    for (uint32_t i = 0; i < n->count; i++) {
        struct btree_op_slot op = { i, 0 };
        struct btree_entry e;
        struct btree_mtr bm;
        uint32_t size;
        btree__entry(leaf->data, i, &e);
        if ((e.flags & BTREE_ROW_LARGE) == 0 ||
            !btree__large_parse(e.value, e.value_size, &size, pages, &count))
            continue;
        ash_rc rc = ASH_OK;
        unsigned have = 0;
        for (; have < count && rc == ASH_OK; have++)
            rc = buf_latch_x(k->bt.env->pool, pages[have], &latched[have]);
        if (rc == ASH_OK)
            rc = btree__mtr_begin(&bm, k->bt.env, leaf->size, 1 + count, 16);
        else
            have--;
        if (rc != ASH_OK) {
            while (have-- > 0)
                buf_unlatch_x(k->bt.env->pool, &latched[have]);
            return rc;
        }
        btree__mtr_change(&bm, leaf, BTREE_OP_LEAF_REMOVE, &op, sizeof(op));
        for (unsigned p = 0; p < count; p++)
            btree__mtr_free(&bm, &latched[p]);
        *more_out = true;
        return btree__mtr_commit(&bm);
    }
    return ASH_OK;
}

static ash_rc
free_large_rows(const struct killer *k, uint64_t page)
{
    struct buf_page leaf;
    bool more = true;
    btree__large_enter(&k->bt, ASH_VALUE_SIZE_MAX); /* the pages of a row are latched together */
    ash_rc rc = buf_latch_x(k->bt.env->pool, page, &leaf);
    if (rc == ASH_OK) {
        while (rc == ASH_OK && more)
            rc = free_large_row(k, &leaf, &more);
        buf_unlatch_x(k->bt.env->pool, &leaf);
    }
    btree__large_leave(&k->bt, ASH_VALUE_SIZE_MAX);
    return rc;
}

/* Frees the last `n` children of a page of level 1 that has more. */
static ash_rc
free_leaves(const struct killer *k, struct buf_page *node, unsigned n)
{
    struct buf_pool *pool = k->bt.env->pool;
    struct btree_fence keep = { BTREE_FENCE_KEEP, { NULL, 0 } };
    struct buf_page leaf[TOGETHER];
    struct btree_edit edit = { .data = NULL };
    struct btree_mtr bm;
    uint32_t count = btree__cnode(node->data)->count;
    ash_rc rc = ASH_OK;
    unsigned have = 0;
    for (; have < n; have++) {
        rc = buf_latch_x(pool, BTREE_CHILD_PAGE(btree__child(node->data, count + 1 - n + have)),
                         &leaf[have]);
        if (rc != ASH_OK)
            goto out;
    }
    rc = btree__edit_begin(&edit, node->data, &keep, &keep, 1, btree__child(node->data, count - n),
                           0);
    if (rc != ASH_OK)
        goto out;
    edit.op.keep_to = count - n;
    btree__edit_end(&edit);
    rc = btree__mtr_begin(&bm, k->bt.env, node->size, 1 + n, edit.size + 8);
    if (rc != ASH_OK)
        goto out;
    btree__mtr_edit(&bm, node, &edit);
    for (unsigned i = 0; i < n; i++)
        btree__mtr_free(&bm, &leaf[i]);
    have = 0;
    rc = btree__mtr_commit(&bm);
out:
    while (have-- > 0)
        buf_unlatch_x(pool, &leaf[have]);
    btree__edit_free(&edit);
    return rc;
}

/* ---- Inner pages ---- */

/* The last leaf, the pages that have no other child, and, when that is all there is, the root.  The
 * chain is released. */
static ash_rc
free_chain(const struct killer *k, struct chain *c, bool *done_out)
{
    struct buf_pool *pool = k->bt.env->pool;
    struct btree_fence keep = { BTREE_FENCE_KEEP, { NULL, 0 } };
    struct buf_page leaf, noted = { .page = PAGE_ID_NONE }, *top = &c->page[0],
                          *bottom = &c->page[c->count - 1];
    const struct btree_node *t = btree__cnode(top->data);
    struct btree_edit edit = { .data = NULL };
    struct btree_mtr bm;
    uint8_t none[8] = { 0 };
    bool all = t->count == 0, note = all && k->noted_in != PAGE_ID_NONE;
    ash_rc rc = buf_latch_x(pool, BTREE_CHILD_PAGE(btree__cnode(bottom->data)->right), &leaf);
    if (rc != ASH_OK)
        goto out;
    if (note)
        rc = buf_latch_x(pool, k->noted_in, &noted);
    if (rc != ASH_OK)
        goto out_leaf;
    if (!all)
        rc = btree__edit_begin(&edit, top->data, &keep, &keep, t->level,
                               btree__child(top->data, t->count - 1), 0);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, k->bt.env, top->size, 3 + c->count, edit.size + 16);
    if (rc != ASH_OK)
        goto out_noted;
    if (!all) {
        edit.op.keep_to = t->count - 1;
        btree__edit_end(&edit);
        btree__mtr_edit(&bm, top, &edit);
    }
    if (note)
        btree__mtr_change(&bm, &noted, BTREE_OP_ROOT_LOADING, none, sizeof(none));
    btree__mtr_free(&bm, &leaf);
    while (c->count > (all ? 0u : 1u))
        btree__mtr_free(&bm, &c->page[--c->count]);
    rc = btree__mtr_commit(&bm); /* releases what it frees */
    *done_out = all;
    if (note)
        buf_unlatch_x(pool, &noted);
    goto out;
out_noted:
    if (note)
        buf_unlatch_x(pool, &noted);
out_leaf:
    buf_unlatch_x(pool, &leaf);
out:
    chain_release(k, c);
    btree__edit_free(&edit);
    return rc;
}

/* How many leaves like this one may be latched together: all of a tree have one size. */
static unsigned
together(const struct killer *k, uint64_t leaf)
{
    struct buf_page p = { .size = PAGE_SIZE_MIN };
    struct map_entry entry;
    struct buf_stats stats;
    uint8_t page_class;
    if (!buf_opt_peek(k->bt.env->pool, leaf, &p) &&
        pstore_locate(k->bt.env->pstore, leaf, &entry, &page_class))
        p.size = PAGE_CLASS_SIZE((uint32_t)page_class);
    buf_stats(k->bt.env->pool, &stats);
    uint64_t fit = stats.bytes / TOGETHER_PART / p.size;
    return fit < 1 ? 1 : fit < TOGETHER && !PLANTED(305) ? (unsigned)fit : TOGETHER;
}

/* One step; *done_out: the root is gone. */
static ash_rc
step(const struct killer *k, bool *done_out)
{
    struct buf_pool *pool = k->bt.env->pool;
    struct chain c;
    uint64_t pages[TOGETHER];
    *done_out = false;
    ash_rc rc = chain_latch(k, &c);
    if (rc != ASH_OK)
        return rc;
    const uint8_t *bottom = c.page[c.count - 1].data;
    uint32_t count = btree__cnode(bottom)->count;
    unsigned most = together(k, BTREE_CHILD_PAGE(btree__cnode(bottom)->right)),
             n = count < most ? count : most, all = count == 0 ? 1 : n;
    for (unsigned i = 0; i < all; i++)
        pages[i] = BTREE_CHILD_PAGE(btree__child(bottom, count + 1 - all + i));
    /* Nobody else is here: the tree stays as it is while the leaves come in without a latch held.
     * */
    chain_release(k, &c);
    buf_prefetch(pool, pages, all, IO_CLASS_COMPACTION);
    for (unsigned i = 0; k->large && i < all && rc == ASH_OK; i++)
        rc = free_large_rows(k, pages[i]);
    if (rc == ASH_OK)
        rc = chain_latch(k, &c);
    if (rc != ASH_OK)
        return rc;
    if (count == 0)
        return free_chain(k, &c, done_out);
    rc = free_leaves(k, &c.page[c.count - 1], n);
    chain_release(k, &c);
    return rc;
}

/* Is the page still the root of this tree?  After a crash behind the last record it is not, and may
 * be somebody else's. */
static ash_rc
still_there(const struct killer *k, bool *yes_out, uint64_t *loading_out, bool *large_out)
{
    struct buf_page root;
    *yes_out = false;
    if (!pstore_page_allocated(k->bt.env->pstore, k->bt.root))
        return ASH_OK;
    ash_rc rc = buf_latch_s(k->bt.env->pool, k->bt.root, &root);
    if (rc != ASH_OK)
        return rc;
    const struct btree_node *n = btree__cnode(root.data);
    *yes_out = n->page.tree == k->bt.tree && n->page.type == PAGE_TYPE_BTREE_INNER &&
               (n->flags & (BTREE_NODE_LOWER_INFINITE | BTREE_NODE_UPPER_INFINITE)) ==
                   (BTREE_NODE_LOWER_INFINITE | BTREE_NODE_UPPER_INFINITE);
    *loading_out = n->loading;
    *large_out = (n->flags & BTREE_NODE_LARGE) != 0;
    buf_unlatch_s(k->bt.env->pool, &root);
    return ASH_OK;
}

ash_rc
btree__destroy_pages(struct btree_env *env, uint32_t tree, uint64_t root, uint64_t noted_in)
{
    struct killer k = { .bt = btree__of(env, tree, root, 0), .noted_in = noted_in };
    bool yes, done = false;
    uint64_t loading;
    ash_rc rc = still_there(&k, &yes, &loading, &k.large);
    if (rc != ASH_OK || !yes)
        return rc;
    while (rc == ASH_OK && !done) {
        task_fair_point();
        rc = buf_throttle(env->pool);
        if (rc == ASH_OK && !PLANTED(403)) /* nobody waits: a full log is for those who do */
            rc = wal_room_for(env->wal, 0);
        if (rc == ASH_OK)
            rc = step(&k, &done);
    }
    return rc;
}

ash_rc
btree_destroy(struct btree_env *env, uint32_t tree, uint64_t root)
{
    struct killer k = { .bt = btree__of(env, tree, root, 0) };
    bool yes;
    uint64_t loading = PAGE_ID_NONE;
    ash_rc rc = still_there(&k, &yes, &loading, &k.large);
    if (rc == ASH_OK && yes && loading != PAGE_ID_NONE)
        rc = btree__destroy_pages(env, tree, loading, root);
    return rc == ASH_OK && yes ? btree__destroy_pages(env, tree, root, PAGE_ID_NONE) : rc;
}
