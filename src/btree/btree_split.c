/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_split.c - structure changes that make pages: split of leaves and inner pages, growth of the
 * root.  All redo-only (btree.h I5).
 *
 * Shape of each: make sure of frames without latches; descend optimistically; turn the guards of
 * parent and page into exclusive latches (which fails when either changed, and never waits: so
 * there is no deadlock); plan; one mini-transaction; let go.  A full parent is split first, from a
 * new descent: nobody holds a latch while going up.
 *
 * Pages above 64 KiB: a change carries at most BTREE_MOVE_MAX bytes of rows, so a split moves the
 * last rows only, and then shifts the border between the two pages in steps. After each step the
 * tree is a correct tree: nothing is lost, leaked or undone when the lights go out between.
 */
#include "btree/btree_int.h"

#define HEAD ((uint32_t)sizeof(struct btree_node))
#define SLOT ((uint32_t)sizeof(struct btree_slot))

/* Latches parent and page of a path; false: start over. */
bool
btree__latch_path(const struct btree *bt, struct btree_path *path)
{
    if (!buf_opt_to_x(bt->env->pool, &path->parent))
        return false;
    if (buf_opt_to_x(bt->env->pool, &path->node))
        return true;
    buf_unlatch_x(bt->env->pool, &path->parent);
    return false;
}

void
btree__unlatch_path(const struct btree *bt, struct btree_path *path)
{
    buf_unlatch_x(bt->env->pool, &path->node);
    buf_unlatch_x(bt->env->pool, &path->parent);
}

uint32_t
btree__child_payload(const struct buf_page *parent, uint32_t slot, uint64_t left, uint64_t right,
                     struct ash_slice key, uint8_t *out)
{
    uint32_t prefix = key.size > 0 ? btree__cnode(parent->data)->prefix_size : 0;
    struct btree_op_child op = {
        .left = left, .right = right, .slot = slot, .key_size = (uint16_t)(key.size - prefix)
    };
    memcpy(out, &op, sizeof(op));
    if (op.key_size > 0)
        memcpy(out + sizeof(op), (const uint8_t *)key.data + prefix, op.key_size);
    return (uint32_t)sizeof(op) + op.key_size;
}

bool
btree__parent_has_room(const struct buf_page *parent, uint32_t separator_size)
{
    uint32_t tail = separator_size - btree__cnode(parent->data)->prefix_size;
    return tail + BTREE_CHILD_SIZE + SLOT <= btree__free_total(parent->data, parent->size);
}

/* ---- Splitting a page in two ---- */

/* left keeps [0, split->slot); what is above goes to the new page `right`.  Inner: the key at the
 * slot moves up, its child becomes the left page's right-most. */
static ash_rc
split_edits(const struct buf_page *left, const struct btree_split *split,
            struct btree_edit *left_edit, struct btree_edit *right_edit)
{
    const struct btree_node *n = btree__cnode(left->data);
    struct btree_fence middle = { BTREE_FENCE_GIVEN, ash_slice(split->key, split->key_size) },
                       upper = btree__fence_upper(left->data);
    bool inner = n->level > 0;
    uint32_t moved_from = inner ? split->slot + 1 : split->slot;
    uint64_t left_right = inner ? btree__child(left->data, split->slot) : 0;
    uint32_t bytes = btree__rows_bytes(left->data, moved_from, n->count, 0);
    ash_rc rc = btree__edit_begin(right_edit, NULL, &middle, &upper, n->level, n->right, bytes);
    if (rc == ASH_OK)
        rc = btree__edit_rows(right_edit, left->data, moved_from, n->count);
    if (rc == ASH_OK)
        rc = btree__edit_begin(left_edit, left->data, &btree__fence_keep, &middle, n->level,
                               left_right, 0);
    if (rc != ASH_OK)
        return rc;
    left_edit->op.keep_to = split->slot;
    btree__edit_end(right_edit);
    btree__edit_end(left_edit);
    return ASH_OK;
}

/* Parent and page are latched, the parent has room.  The new page comes back latched. */
static ash_rc
split_page(const struct btree *bt, struct btree_path *path, const struct btree_split *split,
           struct buf_page *right_out)
{
    struct buf_pool *pool = bt->env->pool;
    struct btree_edit left_edit = { .data = NULL }, right_edit = { .data = NULL };
    const struct page_head *head = (const void *)path->node.data;
    struct btree_mtr bm;
    uint8_t payload[BTREE_CHILD_PAYLOAD_MAX];
    ash_rc rc = split_edits(&path->node, split, &left_edit, &right_edit);
    if (rc != ASH_OK)
        goto out;
    rc = buf_new(pool, (enum page_type)head->type, head->page_class, bt->tree, right_out);
    if (rc != ASH_OK)
        goto out;
    rc = btree__mtr_begin(&bm, bt->env, path->node.size, 4,
                          left_edit.size + right_edit.size + (uint32_t)sizeof(payload) + 32);
    if (rc != ASH_OK) {
        buf_new_cancel(pool, right_out);
        goto out;
    }
    btree__mtr_init(&bm, right_out);
    btree__mtr_edit(&bm, right_out, &right_edit);
    if (!PLANTED(87))
        btree__mtr_edit(&bm, &path->node, &left_edit);
    uint64_t left_word =
        btree__child_word(path->node.page, btree__node_rows(path->node.data, path->node.size));
    uint64_t right_word =
        btree__child_word(right_out->page, btree__node_rows(right_out->data, right_out->size));
    uint32_t size = btree__child_payload(&path->parent, path->slot, left_word, right_word,
                                         ash_slice(split->key, split->key_size), payload);
    btree__mtr_change(&bm, &path->parent, BTREE_OP_INNER_SPLIT, payload, size);
    rc = btree__mtr_commit(&bm);
    if (rc != ASH_OK)
        buf_unlatch_x(pool, right_out);
out:
    btree__edit_free(&left_edit);
    btree__edit_free(&right_edit);
    return rc;
}

/* ---- Inner pages ---- */

/* The root's content moves to a new page below it. */
static ash_rc
grow_root(const struct btree *bt, struct buf_page *root)
{
    struct buf_pool *pool = bt->env->pool;
    const struct btree_node *n = btree__cnode(root->data);
    struct btree_edit root_edit = { .data = NULL }, child_edit = { .data = NULL };
    struct btree_fence none = { BTREE_FENCE_INFINITE, { NULL, 0 } };
    struct buf_page child;
    struct btree_mtr bm;
    if (n->level >= BTREE_LEVEL_MAX)
        return ash_raise(
            ASH_CORRUPT,
            "Tree %u has grown to %u levels, which no tree can need; run a verification.", bt->tree,
            n->level);
    ash_rc rc = buf_new(pool, PAGE_TYPE_BTREE_INNER, BTREE_INNER_CLASS, bt->tree, &child);
    if (rc != ASH_OK)
        return rc;
    rc = btree__edit_begin(&child_edit, NULL, &none, &none, n->level, n->right, root->size);
    if (rc == ASH_OK)
        rc = btree__edit_rows(&child_edit, root->data, 0, n->count);
    if (rc == ASH_OK)
        rc = btree__edit_begin(
            &root_edit, root->data, &btree__fence_keep, &btree__fence_keep, (uint8_t)(n->level + 1),
            btree__child_word(child.page, btree__node_rows(root->data, root->size)), 0);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, bt->env, root->size, 3, child_edit.size + root_edit.size + 16);
    if (rc != ASH_OK) {
        buf_new_cancel(pool, &child);
        goto out;
    }
    btree__edit_end(&child_edit);
    btree__edit_end(&root_edit);
    btree__mtr_init(&bm, &child);
    btree__mtr_edit(&bm, &child, &child_edit);
    btree__mtr_edit(&bm, root, &root_edit);
    rc = btree__mtr_commit(&bm);
    buf_unlatch_x(pool, &child);
    counter_add(&bt->env->counters->root_grows, 1);
out:
    btree__edit_free(&child_edit);
    btree__edit_free(&root_edit);
    return rc;
}

enum split_result {
    SPLIT_DONE,
    SPLIT_AGAIN,
    SPLIT_PARENT
};

/* One try at the inner page of `level` on the way to `key`. */
static ash_rc
split_inner_once(const struct btree *bt, struct ash_slice key, unsigned level, bool append,
                 enum split_result *result)
{
    struct buf_pool *pool = bt->env->pool;
    struct btree_path path;
    *result = SPLIT_DONE;
    ash_rc rc = buf_reserve(pool, BTREE_INNER_CLASS, 1);
    if (rc == ASH_OK)
        rc = btree__descend(bt, key, level, &path);
    if (rc == ASH_NOT_FOUND)
        return ASH_OK; /* the tree has become lower meanwhile */
    if (rc != ASH_OK)
        return rc;
    if (!path.has_parent) {
        *result = SPLIT_AGAIN;
        if (!buf_opt_to_x(pool, &path.node))
            return ASH_OK;
        rc = grow_root(bt, &path.node);
        buf_unlatch_x(pool, &path.node);
        return rc;
    }
    if (!btree__latch_path(bt, &path)) {
        *result = SPLIT_AGAIN;
        return ASH_OK;
    }
    if (btree__cnode(path.node.data)->count > 0) {
        struct btree_split split;
        btree__split_inner(path.node.data, append, &split);
        if (btree__parent_has_room(&path.parent, split.key_size)) {
            struct buf_page right;
            rc = split_page(bt, &path, &split, &right);
            if (rc == ASH_OK)
                buf_unlatch_x(pool, &right);
            counter_add(&bt->env->counters->inner_splits, 1);
        } else {
            *result = SPLIT_PARENT;
        }
    }
    btree__unlatch_path(bt, &path);
    return rc;
}

ash_rc
btree__split_inner_level(const struct btree *bt, struct ash_slice key, unsigned level, bool append)
{
    unsigned at = level, tries = 0;
    for (;;) {
        enum split_result result;
        ash_rc rc = split_inner_once(bt, key, at, append, &result);
        if (rc != ASH_OK)
            return rc;
        if (result == SPLIT_DONE && at == level)
            return ASH_OK;
        if (result == SPLIT_AGAIN) {
            rc = btree__restart(bt, &tries);
            if (rc != ASH_OK)
                return rc;
        } else {
            at = result == SPLIT_PARENT ? at + 1 : level;
        }
    }
}

/* ---- Leaves ---- */

/* Would the right page hold rows [from, ..) of the left one too?  With a lower lower fence its keys
 * may share less, and grow. */
static bool
right_takes(const struct buf_page *left, uint32_t from, const struct buf_page *right,
            struct ash_slice separator)
{
    const struct btree_node *r = btree__cnode(right->data);
    uint32_t prefix = 0;
    if ((r->flags & BTREE_NODE_UPPER_INFINITE) == 0)
        prefix = btree__common_prefix(separator, btree__upper(right->data));
    uint64_t total = (uint64_t)HEAD + separator.size + r->upper_size +
                     btree__rows_bytes(right->data, 0, r->count, prefix) +
                     btree__rows_bytes(left->data, from, btree__cnode(left->data)->count, prefix);
    return total <= right->size;
}

/* Moves the last rows of `left` to the front of its right neighbour until both are about equal:
 * large pages only. */
static ash_rc
shift_border(const struct btree *bt, struct buf_page *parent, uint32_t slot, struct buf_page *left,
             struct buf_page *right, bool *more_out)
{
    uint32_t count = btree__cnode(left->data)->count, from = count, bytes = 0;
    uint32_t left_bytes = btree__rows_bytes(left->data, 0, count, 0);
    uint32_t right_bytes = btree__rows_bytes(right->data, 0, btree__cnode(right->data)->count, 0);
    *more_out = false;
    while (from > 1 &&
           bytes + btree__entry_size(left->data, from - 1) + SLOT + BTREE_KEY_LIMIT <=
               BTREE_MOVE_MAX &&
           left_bytes - bytes > right_bytes + bytes) {
        from--;
        bytes += btree__entry_size(left->data, from) + SLOT + btree__cnode(left->data)->prefix_size;
    }
    if (from == count)
        return ASH_OK;
    uint8_t a[2 * BTREE_KEY_LIMIT], b[2 * BTREE_KEY_LIMIT], separator[BTREE_KEY_LIMIT],
        payload[BTREE_CHILD_PAYLOAD_MAX];
    struct ash_slice x = ash_slice(a, btree__key(left->data, from - 1, a)),
                     y = ash_slice(b, btree__key(left->data, from, b));
    struct btree_fence middle = { BTREE_FENCE_GIVEN,
                                  ash_slice(separator, btree__separator(x, y, separator)) };
    /* the old one's bytes come on top */
    if (!btree__parent_has_room(parent, (uint32_t)middle.key.size) ||
        !right_takes(left, from, right, middle.key))
        return ASH_OK;
    struct btree_edit left_edit = { .data = NULL }, right_edit = { .data = NULL };
    struct btree_mtr bm;
    ash_rc rc = btree__edit_begin(&right_edit, right->data, &middle, &btree__fence_keep, 0, 0,
                                  bytes + 4096);
    if (rc == ASH_OK)
        rc = btree__edit_rows(&right_edit, left->data, from, count);
    if (rc == ASH_OK)
        rc = btree__edit_begin(&left_edit, left->data, &btree__fence_keep, &middle, 0, 0, 0);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, bt->env, left->size, 3,
                              left_edit.size + right_edit.size + (uint32_t)sizeof(payload) + 32);
    if (rc == ASH_OK) {
        right_edit.op.add_front = 1;
        right_edit.op.keep_to = btree__cnode(right->data)->count;
        left_edit.op.keep_to = from;
        btree__edit_end(&right_edit);
        btree__edit_end(&left_edit);
        btree__mtr_edit(&bm, right, &right_edit);
        btree__mtr_edit(&bm, left, &left_edit);
        uint32_t size = btree__child_payload(
            parent, slot, btree__child_word(left->page, btree__node_rows(left->data, left->size)),
            btree__child_word(right->page, btree__node_rows(right->data, right->size)), middle.key,
            payload);
        btree__mtr_change(&bm, parent, BTREE_OP_INNER_MOVE, payload, size);
        rc = btree__mtr_commit(&bm);
        *more_out = rc == ASH_OK;
        counter_add(&bt->env->counters->moves, 1);
    }
    btree__edit_free(&left_edit);
    btree__edit_free(&right_edit);
    return rc;
}

/* Moves the split point up until what moves fits one change. */
static void
limit_move(const uint8_t *page, struct btree_split *split)
{
    uint32_t count = btree__cnode(page)->count, from = count, bytes = 0;
    while (from > split->slot) {
        uint32_t row = btree__entry_size(page, from - 1) + SLOT + btree__cnode(page)->prefix_size;
        if (bytes + row > BTREE_MOVE_MAX)
            break;
        bytes += row;
        from--;
    }
    if (from == split->slot)
        return;
    uint8_t a[2 * BTREE_KEY_LIMIT], b[2 * BTREE_KEY_LIMIT];
    split->slot = from;
    split->key_size = btree__separator(ash_slice(a, btree__key(page, from - 1, a)),
                                       ash_slice(b, btree__key(page, from, b)), split->key);
}

/* What a leaf is split for. */
struct split_for {
    struct ash_slice key;
    uint32_t need; /* heap bytes of the row that wants in */
    bool between;  /* or nothing but a border at the key */
};

/* Where; false: there is no need any more. */
static bool
split_border(const struct buf_page *leaf, const struct split_for *why, bool append,
             struct btree_split *out)
{
    uint32_t count = btree__cnode(leaf->data)->count;
    bool exact;
    uint32_t pos = btree__lower_bound(leaf->data, leaf->size,
                                      why->key.size > 0 ? why->key.data : "",
                                      (uint32_t)why->key.size, &exact);
    if (why->between) {
        /* Of large pages only what fits one change: a border moved elsewhere would not help. */
        return pos > 0 && pos < count &&
               btree__rows_bytes(leaf->data, pos, count, 0) <= BTREE_MOVE_MAX &&
               btree__split_leaf_at(leaf->data, leaf->size, pos, out);
    }
    uint32_t room = btree__free_total(leaf->data, leaf->size) +
                    (exact ? btree__entry_size(leaf->data, pos) : 0);
    if (why->need + (exact ? 0 : SLOT) <= room || count == 0 || (exact && count == 1))
        return false; /* somebody else has made room */
    btree__split_leaf(leaf->data, leaf->size, exact ? BTREE_SPLIT_NO_ROW : pos, why->key, why->need,
                      append, out);
    if (leaf->size > BTREE_MOVE_MAX)
        limit_move(leaf->data, out);
    return true;
}

/* The path is latched. */
static ash_rc
split_leaf(struct btree *bt, struct btree_path *path, const struct split_for *why,
           bool *parent_full)
{
    struct btree_counters *counters = bt->env->counters;
    struct buf_page *leaf = &path->node, right;
    struct btree_split split;
    bool append = !why->between &&
                  atomic_load_explicit(&bt->append_hint, memory_order_relaxed) == leaf->page;
    *parent_full = false;
    if (!split_border(leaf, why, append, &split))
        return ASH_OK;
    if (!btree__parent_has_room(&path->parent, split.key_size)) {
        *parent_full = true;
        return ASH_OK;
    }
    ash_rc rc = split_page(bt, path, &split, &right);
    if (rc != ASH_OK)
        return rc;
    counter_add(&counters->leaf_splits, 1);
    bool more = leaf->size > BTREE_MOVE_MAX && !append && !why->between;
    while (more && rc == ASH_OK)
        rc = shift_border(bt, &path->parent, path->slot, leaf, &right, &more);
    if (append)
        atomic_store_explicit(&bt->append_hint, right.page, memory_order_relaxed);
    buf_unlatch_x(bt->env->pool, &right);
    if (why->between) {
        counter_add(&counters->contention_splits, 1);
        btree__contention_split(bt->env, leaf->page);
    }
    return rc;
}

static ash_rc
split_until_done(struct btree *bt, const struct split_for *why)
{
    unsigned tries = 0;
    for (;;) {
        struct btree_path path;
        bool parent_full = false;
        ash_rc rc = buf_reserve(bt->env->pool, bt->leaf_class, 1);
        if (rc == ASH_OK)
            rc = btree__descend(bt, why->key, 0, &path);
        if (rc != ASH_OK)
            return rc;
        if (!btree__latch_path(bt, &path)) {
            rc = btree__restart(bt, &tries);
            if (rc != ASH_OK)
                return rc;
            continue;
        }
        bool parent_append = path.slot == btree__cnode(path.parent.data)->count &&
                             atomic_load_explicit(&bt->append_hint, memory_order_relaxed) ==
                                 path.node.page;
        rc = split_leaf(bt, &path, why, &parent_full);
        btree__unlatch_path(bt, &path);
        if (rc != ASH_OK || !parent_full)
            return rc;
        rc = btree__split_inner_level(bt, why->key, 1, parent_append);
        if (rc != ASH_OK)
            return rc;
    }
}

ash_rc
btree__split(struct btree *bt, struct ash_slice key, uint32_t need)
{
    struct split_for why = { .key = key, .need = need };
    return split_until_done(bt, &why);
}

ash_rc
btree__split_between(struct btree *bt, struct ash_slice key)
{
    struct split_for why = { .key = key, .between = true };
    return split_until_done(bt, &why);
}
