/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_load.c - bulk load: leaves filled from the left, the whole shown at once.
 *
 * The rows go to a second tree, whose root the first one's root names in `loading`.  So at every
 * moment every page belongs to the table: after a crash the table is empty and what had been loaded
 * is found through `loading`, and freed by the next load or by dropping the table.
 *
 *   1. one record: the second tree's root and first leaf, `loading` set
 *   2. per leaf one record: its rows and upper fence, the next, empty leaf, the separator in the
 *      parent (logged as NODE_EDIT)
 *   3. one record: the root takes the content of the second root, which goes with the first root's
 * empty leaf One load of a table at a time: btree.loading. Pages above 64 KiB take their rows in
 * several records.  Rows carry no version head: they are visible to every snapshot once step 3 is
 * done.
 */
#include "btree/btree_int.h"

#define SLOT         ((uint32_t)sizeof(struct btree_slot))
#define FILL_PERCENT 95u

struct staged {
    uint32_t key, key_size, value_size; /* offset of key in bytes; the value follows */
    uint8_t flags;
};

struct loader {
    struct btree *bt;       /* the table's */
    struct btree into;      /* the second tree */
    struct btree_buf bytes; /* staged rows */
    struct staged *rows;
    uint32_t count, capacity;
    uint32_t staged_bytes; /* heap and slots of staged rows, whole keys */
    uint32_t leaf_bytes;   /* the same of rows that the leaf holds already */
    uint32_t leaf_rows;    /* those rows */
    uint32_t lower_size;   /* lower fence of the leaf that is being filled, a separator */
    uint8_t lower[BTREE_KEY_LIMIT];
    bool has_lower, has_last, flagged;
    uint32_t last_size;
    uint8_t last[BTREE_KEY_LIMIT]; /* newest key */
};

/* ---- The second tree ---- */

/* Frees what an earlier load that did not come to its end has left. */
static ash_rc
drop_loading(struct btree *bt)
{
    struct buf_page root;
    ash_rc rc = buf_latch_s(bt->env->pool, bt->root, &root);
    if (rc != ASH_OK)
        return rc;
    uint64_t page = btree__cnode(root.data)->loading;
    buf_unlatch_s(bt->env->pool, &root);
    if (page == PAGE_ID_NONE)
        return ASH_OK;
    return btree__destroy_pages(bt->env, bt->tree, page, bt->root);
}

/* Is this root's tree empty?  Its single leaf is latched then. */
static ash_rc
empty_leaf(const struct btree *bt, const struct buf_page *root, struct buf_page *leaf_out)
{
    const struct btree_node *n = btree__cnode(root->data);
    ash_rc rc = ASH_EXISTS;
    if (n->level == 1 && n->count == 0) {
        rc = buf_latch_x(bt->env->pool, BTREE_CHILD_PAGE(n->right), leaf_out);
        if (rc != ASH_OK)
            return rc;
        if (btree__cnode(leaf_out->data)->count == 0)
            return ASH_OK;
        buf_unlatch_x(bt->env->pool, leaf_out);
    }
    return ash_raise(ASH_EXISTS, "Tree %u holds rows already; a bulk load needs an empty table.",
                     bt->tree);
}

/* Step 1. */
static ash_rc
begin(struct loader *l)
{
    struct btree *bt = l->bt;
    struct buf_page root, leaf;
    /* A deleted row that nobody sees any more must not be in the way. */
    ash_rc rc = btree__purge(bt->env, bt->tree, bt->root, bt->leaf_class, (const uint8_t *)"", 0);
    if (rc == ASH_OK)
        rc = drop_loading(bt);
    if (rc == ASH_OK)
        rc = buf_reserve(bt->env->pool, BTREE_INNER_CLASS, 1);
    if (rc == ASH_OK)
        rc = buf_reserve(bt->env->pool, bt->leaf_class, 1);
    if (rc == ASH_OK)
        rc = buf_latch_x(bt->env->pool, bt->root, &root);
    if (rc != ASH_OK)
        return rc;
    rc = empty_leaf(bt, &root, &leaf);
    if (rc == ASH_OK) {
        uint64_t page;
        buf_unlatch_x(bt->env->pool, &leaf);
        rc = btree__create_at(bt->env, bt->tree, bt->leaf_class, &root, PAGE_ID_NONE, &page);
        if (rc == ASH_OK)
            btree_init(&l->into, bt->env, bt->tree, page, bt->leaf_class);
    }
    buf_unlatch_x(bt->env->pool, &root);
    return rc;
}

/* Step 3. */
static ash_rc
show(struct loader *l)
{
    struct btree *bt = l->bt;
    struct buf_page root, leaf, from;
    struct btree_fence keep = { BTREE_FENCE_KEEP, { NULL, 0 } };
    struct btree_edit edit = { .data = NULL };
    struct btree_mtr bm;
    uint8_t none[8] = { 0 };
    ash_rc rc = buf_latch_x(bt->env->pool, bt->root, &root);
    if (rc != ASH_OK)
        return rc;
    rc = empty_leaf(bt, &root, &leaf); /* somebody may have written meanwhile */
    if (rc != ASH_OK)
        goto out_root;
    rc = buf_latch_x(bt->env->pool, l->into.root, &from);
    if (rc != ASH_OK)
        goto out_leaf;
    const struct btree_node *f = btree__cnode(from.data);
    uint8_t flags = f->flags & BTREE_NODE_LARGE;
    rc = btree__edit_begin(&edit, root.data, &keep, &keep, f->level, f->right, from.size);
    if (rc == ASH_OK)
        rc = btree__edit_rows(&edit, from.data, 0, f->count);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, bt->env, root.size, 5, edit.size + 32);
    if (rc != ASH_OK) {
        buf_unlatch_x(bt->env->pool, &from);
        goto out_leaf;
    }
    btree__edit_end(&edit);
    btree__mtr_edit(&bm, &root, &edit);
    btree__mtr_change(&bm, &root, BTREE_OP_NODE_FLAGS, &flags, 1);
    btree__mtr_change(&bm, &root, BTREE_OP_ROOT_LOADING, none, sizeof(none));
    btree__mtr_free(&bm, &leaf);
    btree__mtr_free(&bm, &from);
    rc = btree__mtr_commit(&bm);
    goto out_root; /* leaf and second root were released with the record */
out_leaf:
    buf_unlatch_x(bt->env->pool, &leaf);
out_root:
    buf_unlatch_x(bt->env->pool, &root);
    btree__edit_free(&edit);
    return rc;
}

/* ---- Leaves ---- */

static struct ash_slice
staged_key(const struct loader *l, uint32_t i)
{
    return ash_slice(l->bytes.data + l->rows[i].key, l->rows[i].key_size);
}

/* Adds the first `n` staged rows to the edit. */
static ash_rc
add_staged(struct loader *l, struct btree_edit *e, uint32_t n)
{
    ash_rc rc = ASH_OK;
    for (uint32_t i = 0; i < n && rc == ASH_OK; i++) {
        const struct staged *s = &l->rows[i];
        rc = btree__edit_row(e, staged_key(l, i), s->flags, l->bytes.data + s->key + s->key_size,
                             s->value_size);
    }
    return rc;
}

static void
forget_staged(struct loader *l)
{
    l->leaf_bytes += l->staged_bytes;
    l->leaf_rows += l->count;
    l->count = 0;
    l->staged_bytes = 0;
    l->bytes.size = 0;
}

/* The last leaf and its parent, latched. */
static ash_rc
last_path(struct loader *l, struct ash_slice key, struct btree_path *path)
{
    unsigned tries = 0;
    for (;;) {
        ash_rc rc = btree__descend(&l->into, key, 0, path);
        if (rc != ASH_OK || btree__latch_path(&l->into, path))
            return rc;
        rc = btree__restart(&l->into, &tries);
        if (rc != ASH_OK)
            return rc;
    }
}

static ash_rc
stage(struct loader *l, struct ash_slice key, uint8_t flags, const void *value, uint32_t value_size)
{
    if (l->count == l->capacity) {
        uint32_t capacity = l->capacity == 0 ? 128 : 2 * l->capacity;
        struct staged *rows = mem_realloc(MEM_BTREE, l->rows, capacity * sizeof(*rows));
        if (rows == NULL)
            return ASH_NO_MEMORY;
        l->rows = rows;
        l->capacity = capacity;
    }
    ash_rc rc = btree__buf_room(&l->bytes, (uint32_t)key.size + value_size);
    if (rc != ASH_OK)
        return rc;
    l->rows[l->count++] = (struct staged){ l->bytes.size, (uint32_t)key.size, value_size, flags };
    if (key.size > 0)
        memcpy(l->bytes.data + l->bytes.size, key.data, key.size);
    if (value_size > 0)
        memcpy(l->bytes.data + l->bytes.size + key.size, value, value_size);
    l->bytes.size += (uint32_t)key.size + value_size;
    l->staged_bytes += (uint32_t)key.size + value_size + SLOT;
    return ASH_OK;
}

/* A row that comes with pages of its own. */
struct large_row {
    struct ash_slice key;
    uint32_t size; /* of the value */
    struct btree_large_new pages;
};

static ash_rc
stage_large(struct loader *l, struct large_row *row)
{
    ash_rc rc = btree__large_new(&l->into, row->size, &row->pages);
    if (rc != ASH_OK)
        return rc;
    rc = stage(l, row->key, BTREE_ROW_LARGE, row->pages.description, row->pages.description_size);
    if (rc != ASH_OK)
        btree__large_cancel(&l->into, &row->pages);
    return rc;
}

/* Puts staged rows into the leaf without ending it, and `large`, if given, behind them.  Its pages
 * are made when the leaf is latched: they must not be when it has to be loaded.  After a failure
 * there are none. */
static ash_rc
flush_rows(struct loader *l, struct large_row *large)
{
    struct btree_large_new none = { .count = 0 }, *pages = large != NULL ? &large->pages : &none;
    struct btree_fence keep = { BTREE_FENCE_KEEP, { NULL, 0 } };
    struct btree_edit e = { .data = NULL };
    struct btree_path path;
    struct btree_mtr bm;
    uint8_t payload[BTREE_CHILD_PAYLOAD_MAX];
    ash_rc rc = last_path(l, ash_slice(l->last, l->last_size), &path);
    if (rc != ASH_OK)
        return rc;
    if (large != NULL)
        rc = stage_large(l, large);
    if (rc == ASH_OK)
        rc =
            btree__edit_begin(&e, path.node.data, &keep, &keep, 0, 0, l->bytes.size + l->count * 4);
    if (rc == ASH_OK)
        rc = add_staged(l, &e, l->count);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, l->into.env, path.node.size, 2 + pages->count,
                              e.size + (uint32_t)sizeof(payload) + 16 * pages->count);
    if (rc == ASH_OK) {
        e.op.keep_to = btree__cnode(path.node.data)->count;
        btree__edit_end(&e);
        btree__mtr_edit(&bm, &path.node, &e);
        uint64_t word =
            btree__child_word(path.node.page, btree__node_rows(path.node.data, path.node.size));
        uint32_t size =
            btree__child_payload(&path.parent, path.slot, word, 0, ash_slice(NULL, 0), payload);
        btree__mtr_change(&bm, &path.parent, BTREE_OP_INNER_WORD, payload, size);
        for (unsigned i = 0; i < pages->count; i++)
            btree__mtr_init(&bm, &pages->page[i]);
        rc = btree__mtr_commit(&bm);
        forget_staged(l);
        while (rc != ASH_OK && pages->count > 0) /* poisoned: only let go */
            buf_unlatch_x(l->into.env->pool, &pages->page[--pages->count]);
    } else {
        btree__large_cancel(&l->into, pages);
    }
    btree__unlatch_path(&l->into, &path);
    btree__edit_free(&e);
    return rc;
}

/* Latched path, frame for the next leaf: ends the leaf at `separator`. */
static ash_rc
end_leaf_at(struct loader *l, struct btree_path *path, struct ash_slice separator)
{
    struct buf_pool *pool = l->into.env->pool;
    struct btree_fence keep = { BTREE_FENCE_KEEP, { NULL, 0 } },
                       none = { BTREE_FENCE_INFINITE, { NULL, 0 } };
    struct btree_fence end = { BTREE_FENCE_GIVEN, separator };
    struct btree_edit e = { .data = NULL }, next_edit = { .data = NULL };
    struct buf_page next;
    struct btree_mtr bm;
    uint8_t payload[BTREE_CHILD_PAYLOAD_MAX];
    ash_rc rc = buf_new(pool, PAGE_TYPE_BTREE_LEAF, l->into.leaf_class, l->into.tree, &next);
    if (rc != ASH_OK)
        return rc;
    rc = btree__edit_begin(&e, path->node.data, &keep, &end, 0, 0, l->bytes.size + l->count * 4);
    if (rc == ASH_OK)
        rc = add_staged(l, &e, l->count);
    if (rc == ASH_OK)
        rc = btree__edit_begin(&next_edit, NULL, &end, &none, 0, 0, 0);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, l->into.env, next.size, 4,
                              e.size + next_edit.size + (uint32_t)sizeof(payload) + 32);
    if (rc != ASH_OK) {
        buf_new_cancel(pool, &next);
        goto out;
    }
    e.op.keep_to = btree__cnode(path->node.data)->count;
    btree__edit_end(&e);
    btree__edit_end(&next_edit);
    btree__mtr_edit(&bm, &path->node, &e);
    btree__mtr_init(&bm, &next);
    btree__mtr_edit(&bm, &next, &next_edit);
    uint64_t word =
        btree__child_word(path->node.page, btree__node_rows(path->node.data, path->node.size));
    uint32_t size = btree__child_payload(&path->parent, path->slot, word,
                                         btree__child_word(next.page, 0), separator, payload);
    btree__mtr_change(&bm, &path->parent, BTREE_OP_INNER_SPLIT, payload, size);
    rc = btree__mtr_commit(&bm);
    buf_unlatch_x(pool, &next);
out:
    btree__edit_free(&e);
    btree__edit_free(&next_edit);
    return rc;
}

/* The upper fence: a short one, unless it shares so little with the lower fence that the rows, with
 * more of their keys, would not fit. row_fits() has counted on what the last key shares with it. */
static struct ash_slice
choose_fence(const struct loader *l, struct ash_slice next, uint8_t separator[BTREE_KEY_LIMIT])
{
    struct ash_slice last = ash_slice(l->last, l->last_size),
                     lower = ash_slice(l->lower, l->lower_size);
    struct ash_slice s = ash_slice(separator, btree__separator(last, next, separator));
    uint32_t prefix = l->has_lower ? btree__common_prefix(lower, s) : 0;
    uint64_t total =
        (uint64_t)l->leaf_bytes + l->staged_bytes - (uint64_t)(l->leaf_rows + l->count) * prefix;
    if (total + l->lower_size + s.size + sizeof(struct btree_node) <=
        PAGE_CLASS_SIZE((uint32_t)l->into.leaf_class))
        return s;
    memcpy(separator, last.data, last.size);
    return ash_slice(separator, last.size);
}

/* Step 2: `next` is the first key of the leaf after. */
static ash_rc
end_leaf(struct loader *l, struct ash_slice next)
{
    uint8_t separator[BTREE_KEY_LIMIT];
    struct ash_slice last = ash_slice(l->last, l->last_size);
    struct ash_slice s = choose_fence(l, next, separator);
    for (;;) {
        struct btree_path path;
        bool full = false;
        ash_rc rc = buf_throttle(l->into.env->pool);
        if (rc == ASH_OK)
            rc = buf_reserve(l->into.env->pool, l->into.leaf_class, 1);
        if (rc == ASH_OK)
            rc = last_path(l, last, &path);
        if (rc != ASH_OK)
            return rc;
        if (btree__parent_has_room(&path.parent, (uint32_t)s.size))
            rc = end_leaf_at(l, &path, s);
        else
            full = true;
        btree__unlatch_path(&l->into, &path);
        if (rc == ASH_OK && full)
            rc = btree__split_inner_level(&l->into, last, 1, /* append= */ true);
        if (rc != ASH_OK)
            return rc;
        if (!full)
            break;
    }
    forget_staged(l);
    l->leaf_bytes = l->leaf_rows = 0;
    memcpy(l->lower, separator, s.size);
    l->lower_size = (uint32_t)s.size;
    l->has_lower = true;
    return ASH_OK;
}

/* ---- Rows ---- */

/* Would one more row of `bytes` (slot, whole key, value) still fit?  `whole_keys`: as long as the
 * leaf has no upper fence, keys are not cut. */
static bool
row_fits(const struct loader *l, struct ash_slice key, uint32_t bytes, bool whole_keys)
{
    uint32_t size = PAGE_CLASS_SIZE((uint32_t)l->into.leaf_class), prefix = 0;
    uint64_t total = (uint64_t)l->leaf_bytes + l->staged_bytes + bytes,
             rows = l->leaf_rows + l->count + 1;
    /* The upper fence will lie between this key and the next: it shares with the lower fence what
     * this key shares with it... */
    if (!whole_keys && l->has_lower)
        prefix = btree__common_prefix(ash_slice(l->lower, l->lower_size), key);
    /* the upper fence is not longer than the last key */
    uint64_t room = size - sizeof(struct btree_node) - l->lower_size - key.size;
    return total - rows * prefix <= room * FILL_PERCENT / 100;
}

static ash_rc
check_row(const struct loader *l, struct ash_slice key, struct ash_slice value)
{
    if (key.size > BTREE_KEY_MAX || value.size > ASH_VALUE_SIZE_MAX)
        return ash_raise(
            ASH_TOO_LARGE,
            "A row with a key of %zu and a value of %zu bytes is too large (at most %u and %u).",
            key.size, value.size, (unsigned)BTREE_KEY_MAX, ASH_VALUE_SIZE_MAX);
    if (l->has_last && btree__compare(ash_slice(l->last, l->last_size), key) >= 0)
        return ash_raise(ASH_INVALID,
                         "The keys of a bulk load must ascend; sort them and remove duplicates.");
    return ASH_OK;
}

static void
note_last(struct loader *l, struct ash_slice key)
{
    if (key.size > 0)
        memcpy(l->last, key.data, key.size);
    l->last_size = (uint32_t)key.size;
    l->has_last = true;
}

static ash_rc
add_large(struct loader *l, struct ash_slice key, struct ash_slice value)
{
    struct large_row row = { .key = key, .size = (uint32_t)value.size, .pages.count = 0 };
    ash_rc rc = ASH_OK;
    if (!l->flagged)
        rc = btree__flag_large(&l->into);
    l->flagged = true;
    if (rc == ASH_OK)
        rc = buf_throttle(l->into.env->pool);
    if (rc != ASH_OK)
        return rc;
    btree__large_enter(&l->into, row.size);
    rc = btree__large_reserve(&l->into, row.size);
    if (rc == ASH_OK) {
        note_last(l, key);
        rc = flush_rows(l, &row);
    }
    if (rc == ASH_OK)
        rc = btree__large_fill(&l->into, &row.pages, value);
    btree__large_leave(&l->into, row.size);
    return rc;
}

static ash_rc
add(struct loader *l, struct ash_slice key, struct ash_slice value)
{
    bool large = value.size > 0 && key.size + value.size > btree__inline_max(l->into.leaf_class);
    uint8_t classes[BTREE_LARGE_PAGES_MAX];
    uint32_t stored = (uint32_t)value.size;
    if (large)
        stored = (uint32_t)sizeof(struct btree_large) +
                 8 * btree__large_plan((uint32_t)value.size, classes);
    /* Leaves that take their rows in several records hold whole keys until they end. */
    bool whole = large || l->leaf_rows > 0 || l->into.leaf_class > 4;
    ash_rc rc = check_row(l, key, value);
    if (rc == ASH_OK && l->leaf_rows + l->count > 0 &&
        !row_fits(l, key, (uint32_t)key.size + stored + SLOT, whole))
        rc = end_leaf(l, key);
    else if (rc == ASH_OK && l->count > 0 &&
             l->bytes.size + key.size + stored > BTREE_MOVE_MAX - 8192)
        rc = flush_rows(l, NULL);
    if (rc != ASH_OK)
        return rc;
    if (large)
        return add_large(l, key, value);
    rc = stage(l, key, 0, value.data, stored);
    if (rc == ASH_OK)
        note_last(l, key);
    return rc;
}

/* The last leaf has no upper fence: keys are whole. What does not fit so goes to one more leaf. */
static ash_rc
end(struct loader *l)
{
    uint32_t room = PAGE_CLASS_SIZE((uint32_t)l->into.leaf_class) -
                    (uint32_t)sizeof(struct btree_node) - l->lower_size;
    if (l->count == 0)
        return ASH_OK;
    if (l->leaf_bytes + l->staged_bytes <= room)
        return flush_rows(l, NULL);
    /* Give the last row a leaf of its own. */
    struct staged last = l->rows[l->count - 1];
    uint8_t *copy = mem_alloc(MEM_BTREE, (size_t)last.key_size + last.value_size + 1);
    if (copy == NULL)
        return ASH_NO_MEMORY;
    memcpy(copy, l->bytes.data + last.key, (size_t)last.key_size + last.value_size);
    l->count--;
    l->staged_bytes -= last.key_size + last.value_size + SLOT;
    note_last(l, staged_key(l, l->count - 1));
    ash_rc rc = end_leaf(l, ash_slice(copy, last.key_size));
    if (rc == ASH_OK)
        rc = stage(l, ash_slice(copy, last.key_size), last.flags, copy + last.key_size,
                   last.value_size);
    if (rc == ASH_OK) {
        note_last(l, ash_slice(copy, last.key_size));
        rc = flush_rows(l, NULL);
    }
    mem_free(MEM_BTREE, copy);
    return rc;
}

ash_rc
btree_bulk_load(struct btree *bt, ash_bulk_next_fn next, void *arg)
{
    /* What another load has made so far would look like the rest of an interrupted one. */
    if (atomic_exchange(&bt->loading, true) && !PLANTED(114))
        return ash_raise(ASH_CONFLICT, "Tree %u is being loaded by somebody else.", bt->tree);
    struct loader *l = mem_zalloc(MEM_BTREE, sizeof(*l));
    if (l == NULL) {
        atomic_store(&bt->loading, false);
        return ASH_NO_MEMORY;
    }
    l->bt = bt;
    ash_rc rc = begin(l);
    if (rc != ASH_OK)
        goto out;
    while (rc == ASH_OK) {
        struct ash_slice key, value;
        task_fair_point();
        rc = next(arg, &key, &value);
        if (rc == ASH_OK)
            rc = add(l, key, value);
        else if (rc == ASH_NOT_FOUND)
            break;
    }
    if (rc == ASH_NOT_FOUND)
        rc = end(l);
    if (rc == ASH_OK)
        rc = show(l);
    if (rc == ASH_OK) {
        rc = wal_flush_to(bt->env->wal, wal_reserved(bt->env->wal));
    } else {
        struct err_detail detail;
        err_save(&detail);
        /* what stays is freed by the next load or drop of the table */
        ash_ignore(drop_loading(bt));
        err_restore(&detail);
    }
out:
    atomic_store(&bt->loading, false);
    btree_buf_free(&l->bytes);
    mem_free(MEM_BTREE, l->rows);
    mem_free(MEM_BTREE, l);
    return rc;
}
