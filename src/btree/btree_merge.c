/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_merge.c - structure changes that free pages: merging neighbours, taking a level from the
 * root.  Of the same shape as those of btree_split.c, but best effort: a neighbour that is latched
 * or absent is tried a few times, and the next purge tries again.
 */
#include "btree/btree_int.h"

#define HEAD ((uint32_t)sizeof(struct btree_node))
#define SLOT ((uint32_t)sizeof(struct btree_slot))

/* Counts rows only: fences stay whatever is merged. */
bool
btree__underfull(const struct buf_page *p)
{
    const struct btree_node *n = btree__cnode(p->data);
    return n->used - n->lower_size - n->upper_size + n->count * SLOT <
           (p->size - HEAD) / 100 * BTREE_MERGE_BELOW;
}

/* Would the rows of both fit one page, and the move one log record? */
static bool
merge_fits(const struct buf_page *left, const struct buf_page *right)
{
    const struct btree_node *l = btree__cnode(left->data), *r = btree__cnode(right->data);
    uint32_t prefix = 0;
    if ((l->flags & BTREE_NODE_LOWER_INFINITE) == 0 && (r->flags & BTREE_NODE_UPPER_INFINITE) == 0)
        prefix = btree__common_prefix(btree__lower(left->data), btree__upper(right->data));
    uint32_t moved = btree__rows_bytes(right->data, 0, r->count, prefix);
    uint64_t total = (uint64_t)l->lower_size + r->upper_size + moved +
                     btree__rows_bytes(left->data, 0, l->count, prefix);
    if (l->level > 0)
        total += (uint64_t)l->upper_size - prefix + BTREE_CHILD_SIZE + SLOT;
    /* An empty page may go even when the other becomes nearly full. */
    uint32_t percent = l->count == 0 || r->count == 0 ? 95 : BTREE_MERGE_FULL;
    return moved <= BTREE_MOVE_MAX && total <= (left->size - HEAD) / 100 * percent;
}

/* All latched; `right` is freed and released. slot: of left in the parent. */
static ash_rc
merge_pages(const struct btree *bt, struct buf_page *parent, uint32_t slot, struct buf_page *left,
            struct buf_page *right)
{
    const struct btree_node *l = btree__cnode(left->data), *r = btree__cnode(right->data);
    struct btree_fence upper = btree__fence_upper(right->data);
    struct btree_edit edit = { .data = NULL };
    struct btree_mtr bm;
    uint8_t payload[sizeof(struct btree_op_child)], word[8];
    ash_rc rc = btree__edit_begin(&edit, left->data, &btree__fence_keep, &upper, l->level, r->right,
                                  BTREE_INNER_SIZE);
    if (rc == ASH_OK && l->level > 0) { /* the separator comes down */
        put_le64(word, l->right);
        rc = btree__edit_row(&edit, btree__upper(left->data), 0, word, sizeof(word));
    }
    if (rc == ASH_OK)
        rc = btree__edit_rows(&edit, right->data, 0, r->count);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, bt->env, left->size, 3,
                              edit.size + (uint32_t)sizeof(payload) + 16);
    if (rc != ASH_OK) {
        btree__edit_free(&edit);
        buf_unlatch_x(bt->env->pool, right);
        return rc;
    }
    edit.op.keep_to = l->count;
    btree__edit_end(&edit);
    btree__mtr_edit(&bm, left, &edit);
    uint64_t left_word = btree__child_word(left->page, btree__node_rows(left->data, left->size));
    uint32_t size = btree__child_payload(parent, slot, left_word, 0, ash_slice(NULL, 0), payload);
    btree__mtr_change(&bm, parent, BTREE_OP_INNER_MERGE, payload, size);
    btree__mtr_free(&bm, right);
    rc = btree__mtr_commit(&bm);
    btree__edit_free(&edit);
    counter_add(&bt->env->counters->merges, 1);
    return rc;
}

/* The only child of the root takes its place: its content moves up.  Both latched; the child is
 * released. */
static ash_rc
shrink_root(const struct btree *bt, struct buf_page *root, struct buf_page *child)
{
    const struct btree_node *c = btree__cnode(child->data);
    struct btree_edit edit = { .data = NULL };
    struct btree_mtr bm;
    ash_rc rc = btree__edit_begin(&edit, root->data, &btree__fence_keep, &btree__fence_keep,
                                  c->level, c->right, root->size);
    if (rc == ASH_OK)
        rc = btree__edit_rows(&edit, child->data, 0, c->count);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, bt->env, root->size, 2, edit.size + 8);
    if (rc != ASH_OK) {
        btree__edit_free(&edit);
        buf_unlatch_x(bt->env->pool, child);
        return rc;
    }
    btree__edit_end(&edit);
    btree__mtr_edit(&bm, root, &edit);
    btree__mtr_free(&bm, child);
    rc = btree__mtr_commit(&bm);
    btree__edit_free(&edit);
    counter_add(&bt->env->counters->root_shrinks, 1);
    return rc;
}

/* What a try at one level leads to. */
struct merge_step {
    uint64_t fault; /* load this page, then try again */
    bool again;     /* start over */
    bool up;        /* look at the level above */
};

/* The root at `level`: shrinks when it has one inner child. */
static ash_rc
merge_root(const struct btree *bt, struct buf_page *root, struct merge_step *step)
{
    struct buf_pool *pool = bt->env->pool;
    ash_rc rc = ASH_OK;
    if (!buf_opt_to_x(pool, root)) {
        step->again = true;
        return ASH_OK;
    }
    const struct btree_node *n = btree__cnode(root->data);
    if (n->count == 0 && n->level > 1) {
        struct buf_page child;
        step->fault = BTREE_CHILD_PAGE(n->right);
        rc = buf_try_latch_x(pool, step->fault, &child);
        if (rc == ASH_OK) {
            step->fault = PAGE_ID_NONE;
            step->again = true; /* the new root may have one child, too */
            rc = shrink_root(bt, root, &child);
        } else if (rc == ASH_WOULD_BLOCK) {
            rc = ASH_OK;
        }
    }
    buf_unlatch_x(pool, root);
    return rc;
}

/* The path is latched and stays so (the node may have become its neighbour).  *merged_out: one of
 * the two is gone. */
static ash_rc
merge_side(const struct btree *bt, struct btree_path *path, bool to_right, struct merge_step *step,
           bool *merged_out)
{
    struct buf_page other;
    uint32_t left_slot = to_right ? path->slot : path->slot - 1;
    uint64_t page =
        BTREE_CHILD_PAGE(btree__child(path->parent.data, to_right ? path->slot + 1 : left_slot));
    ash_rc rc = buf_try_latch_x(bt->env->pool, page, &other);
    *merged_out = false;
    if (rc == ASH_WOULD_BLOCK) {
        step->fault = page;
        return ASH_OK;
    }
    if (rc != ASH_OK)
        return rc;
    /* Ghosts whose hint was lost go when a neighbour is purged. */
    rc = btree__purge_leaf(bt, &other);
    if (rc != ASH_OK) {
        buf_unlatch_x(bt->env->pool, &other);
        return rc;
    }
    struct buf_page *left = to_right ? &path->node : &other,
                    *right = to_right ? &other : &path->node;
    if ((btree__cnode(left->data)->level == 0 && btree__contention_lately(bt->env, left->page)) ||
        !merge_fits(left, right)) {
        buf_unlatch_x(bt->env->pool, &other);
        return ASH_OK;
    }
    rc = merge_pages(bt, &path->parent, left_slot, left, right);
    if (!to_right)
        path->node = other; /* the page itself is gone, or at least released */
    *merged_out = rc == ASH_OK;
    return rc;
}

static ash_rc
merge_with_neighbour(const struct btree *bt, struct btree_path *path, struct merge_step *step)
{
    uint32_t count = btree__cnode(path->parent.data)->count;
    bool merged = false;
    ash_rc rc = ASH_OK;
    if (!btree__underfull(&path->node))
        return ASH_OK;
    if (path->slot < count)
        rc = merge_side(bt, path, /* to_right= */ true, step, &merged);
    if (rc == ASH_OK && !merged && step->fault == PAGE_ID_NONE && path->slot > 0)
        rc = merge_side(bt, path, /* to_right= */ false, step, &merged);
    /* An only child cannot be merged: perhaps its parent can. */
    step->up = rc == ASH_OK && (count == 0 || (merged && btree__underfull(&path->parent)));
    return rc;
}

static ash_rc
merge_once(const struct btree *bt, struct ash_slice key, unsigned level, struct merge_step *step)
{
    struct btree_path path;
    *step = (struct merge_step){ PAGE_ID_NONE, false, false };
    ash_rc rc = btree__descend(bt, key, level, &path);
    if (rc == ASH_NOT_FOUND)
        return ASH_OK;
    if (rc != ASH_OK)
        return rc;
    if (!path.has_parent)
        return merge_root(bt, &path.node, step);
    if (!btree__latch_path(bt, &path)) {
        step->again = true;
        return ASH_OK;
    }
    rc = merge_with_neighbour(bt, &path, step);
    btree__unlatch_path(bt, &path);
    return rc;
}

ash_rc
btree__merge(struct btree *bt, struct ash_slice key, unsigned level)
{
    /* Merging is worth a few tries and no waiting: the next purge tries again. */
    for (unsigned tries = 0; tries < 8 && level <= BTREE_LEVEL_MAX;) {
        struct merge_step step;
        ash_rc rc = merge_once(bt, key, level, &step);
        if (rc != ASH_OK)
            return rc;
        if (step.fault != PAGE_ID_NONE) {
            tries++;
            /* The page may be freed by now; the next try finds out. */
            ash_ignore(buf_fault(bt->env->pool, step.fault, IO_CLASS_READ));
        } else if (step.again) {
            rc = btree__restart(bt, &tries);
            if (rc != ASH_OK)
                return rc;
        } else if (step.up) {
            level++;
        } else {
            return ASH_OK;
        }
    }
    return ASH_OK;
}
