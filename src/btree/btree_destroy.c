/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_destroy.c - frees every page of a tree that nobody uses any more.
 *
 * From the right: the last leaves of the last inner page go, and the inner page forgets them in the same record. So after every record what
 * is left is still reached from the root, and a crash only means calling again.  An inner page that has lost all children but one gives its
 * place to it.  The last record frees the root with the last leaf.
 *
 * Leaves are read only because freeing a page takes its latch; their rows are looked at only in trees that may hold large values.
 */
#include "btree/btree_int.h"

#define TOGETHER 16u /* leaves freed by one record: its pages are counted (MTR_PAGES_MAX) */

struct killer {
    struct btree bt;   /* not more than env, tree and root */
    uint64_t noted_in; /* a root whose `loading` names this tree and is cleared by the last record; or PAGE_ID_NONE */
    bool large;
};

/* The last inner page of level 1 and its parent (page PAGE_ID_NONE when it is the root), latched. */
static ash_rc
last_inner(const struct killer *k, struct buf_page *parent, struct buf_page *node)
{
    struct buf_pool *pool = k->bt.env->pool;
    parent->page = PAGE_ID_NONE;
    ash_rc rc = buf_latch_x(pool, k->bt.root, node);
    while (rc == ASH_OK && btree__cnode(node->data)->level > 1) {
        struct buf_page child;
        rc = buf_latch_x(pool, BTREE_CHILD_PAGE(btree__cnode(node->data)->right), &child);
        if (rc == ASH_OK && btree__cnode(child.data)->level + 1 != btree__cnode(node->data)->level) {
            rc = ash_raise(ASH_CORRUPT, "tree %u: page %llu has the wrong level; run a verification", k->bt.tree,
                           (unsigned long long)child.page);
            buf_unlatch_x(pool, &child);
        }
        if (parent->page != PAGE_ID_NONE)
            buf_unlatch_x(pool, parent);
        *parent = *node;
        if (rc == ASH_OK)
            *node = child;
        else
            node->page = PAGE_ID_NONE;
    }
    if (rc != ASH_OK && parent->page != PAGE_ID_NONE)
        buf_unlatch_x(pool, parent);
    return rc;
}

/* ---- Leaves ---- */

/* Removes one row with a large value together with the pages of that value.  *more_out: there may be others. */
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
        if ((e.flags & BTREE_ROW_LARGE) == 0 || !btree__large_parse(e.value, e.value_size, &size, pages, &count))
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
    ash_rc rc = buf_latch_x(k->bt.env->pool, page, &leaf);
    if (rc != ASH_OK)
        return rc;
    while (rc == ASH_OK && more)
        rc = free_large_row(k, &leaf, &more);
    buf_unlatch_x(k->bt.env->pool, &leaf);
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
        rc = buf_latch_x(pool, BTREE_CHILD_PAGE(btree__child(node->data, count + 1 - n + have)), &leaf[have]);
        if (rc != ASH_OK)
            goto out;
    }
    rc = btree__edit_begin(&edit, node->data, &keep, &keep, 1, btree__child(node->data, count - n), 0);
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

/* The root with its last leaf: the end.  Both are released. */
static ash_rc
free_last(const struct killer *k, struct buf_page *root)
{
    struct buf_pool *pool = k->bt.env->pool;
    struct buf_page leaf, noted = { .page = PAGE_ID_NONE };
    struct btree_mtr bm;
    uint8_t none[8] = { 0 };
    ash_rc rc = buf_latch_x(pool, BTREE_CHILD_PAGE(btree__cnode(root->data)->right), &leaf);
    if (rc != ASH_OK)
        goto out_root;
    if (k->noted_in != PAGE_ID_NONE)
        rc = buf_latch_x(pool, k->noted_in, &noted);
    if (rc != ASH_OK)
        goto out_leaf;
    rc = btree__mtr_begin(&bm, k->bt.env, root->size, 3, 8);
    if (rc != ASH_OK)
        goto out_noted;
    if (k->noted_in != PAGE_ID_NONE)
        btree__mtr_change(&bm, &noted, BTREE_OP_ROOT_LOADING, none, sizeof(none));
    btree__mtr_free(&bm, &leaf);
    btree__mtr_free(&bm, root);
    rc = btree__mtr_commit(&bm);
    if (k->noted_in != PAGE_ID_NONE)
        buf_unlatch_x(pool, &noted);
    return rc;
out_noted:
    if (k->noted_in != PAGE_ID_NONE)
        buf_unlatch_x(pool, &noted);
out_leaf:
    buf_unlatch_x(pool, &leaf);
out_root:
    buf_unlatch_x(pool, root);
    return rc;
}

/* A page of level 1 with one leaf left: the leaf goes with it when the parent has other children; else the page gives its place in the parent
 * to its leaf.  `node` is released. */
static ash_rc
fold(const struct killer *k, struct buf_page *parent, struct buf_page *node)
{
    struct buf_pool *pool = k->bt.env->pool;
    struct btree_fence keep = { BTREE_FENCE_KEEP, { NULL, 0 } };
    const struct btree_node *p = btree__cnode(parent->data), *n = btree__cnode(node->data);
    struct btree_edit edit = { .data = NULL };
    struct btree_mtr bm;
    struct buf_page leaf = { .page = PAGE_ID_NONE };
    bool alone = p->count == 0;
    ash_rc rc = ASH_OK;
    if (!alone)
        rc = buf_latch_x(pool, BTREE_CHILD_PAGE(n->right), &leaf);
    if (rc != ASH_OK)
        goto out_node;
    rc = btree__edit_begin(&edit, parent->data, &keep, &keep, alone ? 1 : p->level, alone ? n->right : btree__child(parent->data, p->count - 1), 0);
    if (rc == ASH_OK) {
        edit.op.keep_to = alone ? 0 : p->count - 1;
        btree__edit_end(&edit);
        rc = btree__mtr_begin(&bm, k->bt.env, parent->size, 3, edit.size + 8);
    }
    if (rc != ASH_OK) {
        if (!alone)
            buf_unlatch_x(pool, &leaf);
        goto out_node;
    }
    btree__mtr_edit(&bm, parent, &edit);
    if (!alone)
        btree__mtr_free(&bm, &leaf);
    btree__mtr_free(&bm, node);
    rc = btree__mtr_commit(&bm);
    btree__edit_free(&edit);
    return rc;
out_node:
    buf_unlatch_x(pool, node);
    btree__edit_free(&edit);
    return rc;
}

/* One step; *done_out: the root is gone. */
static ash_rc
step(const struct killer *k, bool *done_out)
{
    struct buf_pool *pool = k->bt.env->pool;
    struct buf_page parent, node;
    uint64_t pages[TOGETHER];
    *done_out = false;
    ash_rc rc = last_inner(k, &parent, &node);
    if (rc != ASH_OK)
        return rc;
    uint32_t count = btree__cnode(node.data)->count;
    unsigned n = count < TOGETHER ? count : TOGETHER, all = count == 0 ? 1 : n;
    for (unsigned i = 0; i < all; i++)
        pages[i] = BTREE_CHILD_PAGE(btree__child(node.data, count + 1 - all + i));
    /* Nobody else is here: the tree stays as it is while the leaves come in without a latch held. */
    buf_unlatch_x(pool, &node);
    if (parent.page != PAGE_ID_NONE)
        buf_unlatch_x(pool, &parent);
    buf_prefetch(pool, pages, all, IO_CLASS_COMPACTION);
    for (unsigned i = 0; k->large && i < all && rc == ASH_OK; i++)
        rc = free_large_rows(k, pages[i]);
    if (rc == ASH_OK)
        rc = last_inner(k, &parent, &node);
    if (rc != ASH_OK)
        return rc;
    if (count > 0) {
        rc = free_leaves(k, &node, n);
        buf_unlatch_x(pool, &node);
    } else if (parent.page == PAGE_ID_NONE) {
        *done_out = true;
        return free_last(k, &node);
    } else {
        rc = fold(k, &parent, &node);
    }
    if (parent.page != PAGE_ID_NONE)
        buf_unlatch_x(pool, &parent);
    return rc;
}

/* Is the page still the root of this tree?  After a crash behind the last record it is not, and may be somebody else's. */
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
               (n->flags & (BTREE_NODE_LOWER_INFINITE | BTREE_NODE_UPPER_INFINITE)) == (BTREE_NODE_LOWER_INFINITE | BTREE_NODE_UPPER_INFINITE);
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
        rc = buf_throttle(env->pool);
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
