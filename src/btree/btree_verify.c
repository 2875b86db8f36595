/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_verify.c - walks whole trees: statistics, and verification of structure.
 *
 * Both go level by level from left to right; the next page of a level is found by a descent for the
 * key behind the last one's upper fence. Verification holds the parent's latch while it looks at a
 * child, so that what they say about each other is from one moment.
 */
#include "btree/btree_int.h"

#include <stdio.h>

/* ---- One level, left to right ---- */

struct level_walk {
    const struct btree *bt;
    unsigned level;
    bool done;
    uint32_t key_size;
    uint8_t key[BTREE_KEY_LIMIT + 1]; /* leads to the next page */
};

static void
walk_begin(struct level_walk *w, const struct btree *bt, unsigned level)
{
    *w = (struct level_walk){ .bt = bt, .level = level };
}

/* The next page of the level, latched shared. */
static ash_rc
walk_next(struct level_walk *w, struct buf_page *out)
{
    unsigned tries = 0;
    for (;;) {
        struct btree_path path;
        ash_rc rc = btree__descend(w->bt, ash_slice(w->key, w->key_size), w->level, &path);
        if (rc != ASH_OK)
            return rc;
        if (buf_opt_to_s(w->bt->env->pool, &path.node)) {
            *out = path.node;
            return ASH_OK;
        }
        rc = btree__restart(w->bt, &tries);
        if (rc != ASH_OK)
            return rc;
    }
}

/* Notes what comes behind a page that is still latched. */
static void
walk_past(struct level_walk *w, const struct buf_page *p)
{
    struct ash_slice upper = btree__opt_upper(p->data, p->size);
    w->done = (btree__cnode(p->data)->flags & BTREE_NODE_UPPER_INFINITE) != 0;
    /* Fences that do not ascend would lead in a circle. */
    if (!w->done && w->key_size > 0 && btree__compare(upper, ash_slice(w->key, w->key_size)) < 0)
        w->done = true;
    memcpy(w->key, upper.data, upper.size);
    w->key[upper.size] = 0;
    w->key_size = (uint32_t)upper.size + 1;
}

static ash_rc
root_head(const struct btree *bt, unsigned *level_out, uint64_t *loading_out, bool *large_out)
{
    struct buf_page root;
    ash_rc rc = buf_latch_s(bt->env->pool, bt->root, &root);
    if (rc != ASH_OK)
        return rc;
    const struct btree_node *n = btree__cnode(root.data);
    *level_out = n->level;
    *loading_out = n->loading;
    *large_out = (n->flags & BTREE_NODE_LARGE) != 0;
    buf_unlatch_s(bt->env->pool, &root);
    return ASH_OK;
}

/* ---- Statistics ---- */

static void
count_large(const struct buf_page *leaf, struct ash_table_stat *stat)
{
    uint64_t pages[BTREE_LARGE_PAGES_MAX];
    uint8_t classes[BTREE_LARGE_PAGES_MAX];
    for (uint32_t i = 0; i < btree__cnode(leaf->data)->count; i++) {
        struct btree_entry e;
        uint32_t size;
        unsigned count;
        btree__entry(leaf->data, i, &e);
        if ((e.flags & BTREE_ROW_LARGE) == 0 ||
            !btree__large_parse(e.value, e.value_size, &size, pages, &count))
            continue;
        stat->large_value_pages += count;
        count = btree__large_plan(size, classes);
        while (count-- > 0)
            stat->bytes += PAGE_CLASS_SIZE((uint32_t)classes[count]);
    }
}

static ash_rc
stat_level(struct btree *bt, unsigned level, struct ash_table_stat *stat)
{
    struct level_walk w;
    walk_begin(&w, bt, level);
    while (!w.done) {
        struct buf_page p;
        task_fair_point();
        ash_rc rc = walk_next(&w, &p);
        if (rc != ASH_OK)
            return rc;
        if (level == 0) {
            count_large(&p, stat);
        } else {
            stat->inner_pages++;
            stat->bytes += p.size;
        }
        if (level == 1) {
            stat->leaf_pages += btree__cnode(p.data)->count + 1;
            stat->rows_estimate += btree__node_rows(p.data, p.size);
        }
        walk_past(&w, &p);
        buf_unlatch_s(bt->env->pool, &p);
    }
    return ASH_OK;
}

/* A tree of one leaf has no split behind it that could have left an estimate. */
static ash_rc
stat_single_leaf(struct btree *bt, struct ash_table_stat *stat)
{
    struct level_walk w;
    struct buf_page leaf;
    walk_begin(&w, bt, 0);
    ash_rc rc = walk_next(&w, &leaf);
    if (rc != ASH_OK)
        return rc;
    stat->rows_estimate = btree__node_rows(leaf.data, leaf.size);
    buf_unlatch_s(bt->env->pool, &leaf);
    return ASH_OK;
}

ash_rc
btree_stat(struct btree *bt, struct ash_table_stat *out)
{
    struct ash_table_stat stat = { 0 };
    unsigned height;
    uint64_t loading;
    bool large;
    ash_rc rc = root_head(bt, &height, &loading, &large);
    for (unsigned level = height; rc == ASH_OK && level >= 1; level--)
        rc = stat_level(bt, level, &stat);
    if (rc == ASH_OK && large)
        rc = stat_level(bt, 0, &stat);
    if (rc == ASH_OK && stat.leaf_pages == 1)
        rc = stat_single_leaf(bt, &stat);
    if (rc != ASH_OK)
        return rc;
    stat.height = height + 1;
    stat.bytes += stat.leaf_pages * PAGE_CLASS_SIZE((uint64_t)bt->leaf_class);
    *out = stat;
    return ASH_OK;
}

/* ---- Verification ---- */

struct verifier {
    struct btree *bt;
    const struct btree_verify_ops *ops;
};

static void
found(const struct verifier *v, uint64_t page, const char *message)
{
    v->ops->found(v->ops->arg, page, message);
}

/* The page's own bytes, and that it is what the parent takes it for. */
static void
check_page(const struct verifier *v, const struct buf_page *p, unsigned level)
{
    const struct btree_node *n = btree__cnode(p->data);
    unsigned class = level == 0 ? v->bt->leaf_class : BTREE_INNER_CLASS;
    if (n->page.page != p->page || n->page.tree != v->bt->tree)
        found(v, p->page, "the page belongs to another tree or place");
    else if (n->page.page_class != class || p->size != PAGE_CLASS_SIZE(class))
        found(v, p->page, "the page has another size than its level should");
    else if (btree_page_check(p->data, p->size) != ASH_OK)
        found(v, p->page, err_current()->message);
    else if (n->level != level)
        found(v, p->page, "the page stands on another level than its parent says");
}

static bool
same_fence(bool a_none, struct ash_slice a, bool b_none, struct ash_slice b)
{
    return a_none == b_none && (a_none || btree__compare(a, b) == 0);
}

/* Fences equal the parent's separators around slot i (or the parent's own fences at its edges). */
static void
check_fences(const struct verifier *v, const struct buf_page *parent, uint32_t i,
             const struct buf_page *child)
{
    const struct btree_node *p = btree__cnode(parent->data), *c = btree__cnode(child->data);
    uint8_t a[2 * BTREE_KEY_LIMIT], b[2 * BTREE_KEY_LIMIT];
    bool no_lower = i == 0 && (p->flags & BTREE_NODE_LOWER_INFINITE) != 0;
    bool no_upper = i == p->count && (p->flags & BTREE_NODE_UPPER_INFINITE) != 0;
    struct ash_slice lower = i == 0 ? btree__lower(parent->data)
                                    : ash_slice(a, btree__key(parent->data, i - 1, a));
    struct ash_slice upper = i == p->count ? btree__upper(parent->data)
                                           : ash_slice(b, btree__key(parent->data, i, b));
    if (!same_fence(no_lower, lower, (c->flags & BTREE_NODE_LOWER_INFINITE) != 0,
                    btree__lower(child->data)) ||
        !same_fence(no_upper, upper, (c->flags & BTREE_NODE_UPPER_INFINITE) != 0,
                    btree__upper(child->data)))
        found(v, child->page, "the page's fences are not its parent's separators");
}

/* The pages of one large value. */
static ash_rc
check_large(const struct verifier *v, uint64_t leaf, const struct btree_entry *e)
{
    uint64_t pages[BTREE_LARGE_PAGES_MAX];
    uint32_t size, sum = 0;
    unsigned count;
    if (!btree__large_parse(e->value, e->value_size, &size, pages, &count)) {
        found(v, leaf, "a row describes its large value wrongly");
        return ASH_OK;
    }
    for (unsigned i = 0; i < count; i++) {
        struct buf_page p;
        v->ops->own(v->ops->arg, pages[i], v->bt->tree);
        ash_rc rc = buf_latch_s(v->bt->env->pool, pages[i], &p);
        if (rc == ASH_CORRUPT) {
            found(v, pages[i], err_current()->message);
            continue;
        }
        if (rc != ASH_OK)
            return rc;
        const struct btree_value_page *h = (const void *)p.data;
        if (h->page.type != PAGE_TYPE_VALUE || h->page.tree != v->bt->tree || h->index != i ||
            h->size > p.size - sizeof(*h))
            found(v, pages[i], "the page should hold part of a large value and does not");
        else
            sum += h->size;
        buf_unlatch_s(v->bt->env->pool, &p);
    }
    if (sum != size)
        found(v, leaf, "the parts of a large value don't add up to its size");
    return ASH_OK;
}

static ash_rc
check_leaf_rows(const struct verifier *v, const struct buf_page *leaf)
{
    ash_rc rc = ASH_OK;
    if (btree_page_check(leaf->data, leaf->size) != ASH_OK)
        return ASH_OK; /* said before; its rows cannot be followed */
    for (uint32_t i = 0; i < btree__cnode(leaf->data)->count && rc == ASH_OK; i++) {
        struct btree_entry e;
        btree__entry(leaf->data, i, &e);
        if ((e.flags & BTREE_ROW_LARGE) != 0)
            rc = check_large(v, leaf->page, &e);
    }
    return rc;
}

/* An inner page that passed its check, latched: looks at its children. */
static ash_rc
check_children(const struct verifier *v, const struct buf_page *parent)
{
    const struct btree_node *p = btree__cnode(parent->data);
    ash_rc rc = ASH_OK;
    for (uint32_t i = 0; i <= p->count && rc == ASH_OK; i++) {
        struct buf_page child;
        uint64_t page = BTREE_CHILD_PAGE(btree__child(parent->data, i));
        v->ops->own(v->ops->arg, page, v->bt->tree);
        rc = buf_latch_s(v->bt->env->pool, page, &child);
        if (rc == ASH_CORRUPT) {
            found(v, page, err_current()->message);
            rc = ASH_OK;
            continue;
        }
        if (rc != ASH_OK)
            return rc;
        check_page(v, &child, p->level - 1u);
        if ((uint64_t)btree__cnode(child.data)->lower_offset +
                    btree__cnode(child.data)->lower_size <=
                child.size &&
            (uint64_t)btree__cnode(child.data)->upper_offset +
                    btree__cnode(child.data)->upper_size <=
                child.size)
            check_fences(v, parent, i, &child);
        if (p->level == 1)
            rc = check_leaf_rows(v, &child);
        buf_unlatch_s(v->bt->env->pool, &child);
    }
    return rc;
}

static ash_rc
verify_level(const struct verifier *v, unsigned level)
{
    struct level_walk w;
    walk_begin(&w, v->bt, level);
    while (!w.done) {
        struct buf_page p;
        task_fair_point();
        ash_rc rc = walk_next(&w, &p);
        if (rc ==
            /* cannot get at the rest of this level; the level above has named the page */
            ASH_CORRUPT) {
            found(v, v->bt->root, err_current()->message);
            return ASH_OK;
        }
        if (rc == ASH_NOT_FOUND)
            return ASH_OK; /* the tree has become lower meanwhile */
        if (rc != ASH_OK)
            return rc;
        walk_past(&w, &p);
        if (btree_page_check(p.data, p.size) == ASH_OK)
            rc = check_children(v, &p);
        buf_unlatch_s(v->bt->env->pool, &p);
        if (rc != ASH_OK)
            return rc;
    }
    return ASH_OK;
}

static ash_rc
verify_tree(const struct verifier *v, unsigned *height_out, uint64_t *loading_out)
{
    bool large;
    struct buf_page root;
    v->ops->own(v->ops->arg, v->bt->root, v->bt->tree);
    ash_rc rc = root_head(v->bt, height_out, loading_out, &large);
    if (rc == ASH_OK)
        rc = buf_latch_s(v->bt->env->pool, v->bt->root, &root);
    if (rc == ASH_CORRUPT) {
        found(v, v->bt->root, err_current()->message);
        *height_out = 0;
        *loading_out = PAGE_ID_NONE;
        return ASH_OK;
    }
    if (rc != ASH_OK)
        return rc;
    check_page(v, &root, *height_out);
    uint8_t both = BTREE_NODE_LOWER_INFINITE | BTREE_NODE_UPPER_INFINITE;
    if ((btree__cnode(root.data)->flags & both) != both || *height_out == 0 ||
        *height_out > BTREE_LEVEL_MAX) {
        found(v, v->bt->root, "the root does not cover all keys, or has no children");
        *height_out = 0;
    }
    buf_unlatch_s(v->bt->env->pool, &root);
    for (unsigned level = *height_out; rc == ASH_OK && level >= 1; level--)
        rc = verify_level(v, level);
    return rc;
}

ash_rc
btree_verify(struct btree *bt, const struct btree_verify_ops *ops)
{
    unsigned height;
    uint64_t loading, none;
    struct verifier v = { bt, ops };
    ash_rc rc = verify_tree(&v, &height, &loading);
    if (rc != ASH_OK || loading == PAGE_ID_NONE)
        return rc;
    struct btree second = btree__of(bt->env, bt->tree, loading, bt->leaf_class);
    v.bt = &second;
    return verify_tree(&v, &height, &none);
}
