/* SPDX-License-Identifier: Apache-2.0
 *
 * btree.c - trees as wholes: the shared environment, making a tree, descending.
 *
 * Descent (lock coupling without latches): a child's id is believed when the parent is valid after
 * it was read; the child's guard is believed when the parent is still valid after the child's word
 * was read (btree.h I3).  So a page that was freed and given to somebody else meanwhile is never
 * looked at as if it were the child.
 */
#include "btree/btree_int.h"

ash_rc
btree_env_init(struct btree_env *env)
{
    env->counters = mem_aligned(MEM_BTREE, ASH_CACHE_LINE, sizeof(*env->counters));
    if (env->counters == NULL)
        return ASH_NO_MEMORY;
    memset(env->counters, 0, sizeof(*env->counters));
    ash_rc rc = btree__contention_init(env);
    if (rc != ASH_OK)
        goto out_counters;
    rc = btree__large_init(env);
    if (rc == ASH_OK)
        return ASH_OK;
    btree__contention_deinit(env);
out_counters:
    MEM_FREE(MEM_BTREE, env->counters);
    return rc;
}

void
btree_env_deinit(struct btree_env *env)
{
    btree__large_deinit(env);
    btree__contention_deinit(env);
    MEM_FREE(MEM_BTREE, env->counters);
}

void
btree_stats(const struct btree_env *env, struct btree_stats *out)
{
    const struct btree_counters *c = env->counters;
    *out = (struct btree_stats){
        .reads = counter_sum(&c->gets),
        .writes = counter_sum(&c->writes),
        .restarts = counter_sum(&c->restarts),
        .leaf_splits = counter_sum(&c->leaf_splits),
        .contention_splits = counter_sum(&c->contention_splits),
        .inner_splits = counter_sum(&c->inner_splits),
        .merges = counter_sum(&c->merges),
        .purged_rows = counter_sum(&c->purged_rows),
    };
}

void
btree_register(void)
{
    wal_redo_register(BTREE_OP_LEAF_PUT, BTREE_OP_LAST, btree__redo);
}

void
btree_txn_ops(struct btree_env *env, struct txn_ops *out)
{
    *out = (struct txn_ops){ env, btree__undo, btree__garbage, btree__free_pages, btree__purge };
}

void
btree_init(struct btree *bt, struct btree_env *env, uint32_t tree, uint64_t root,
           uint8_t leaf_class)
{
    bt->env = env;
    bt->root = root;
    bt->tree = tree;
    bt->leaf_class = leaf_class;
    atomic_store_explicit(&bt->append_hint, PAGE_ID_NONE, memory_order_relaxed);
    atomic_store_explicit(&bt->loading, false, memory_order_relaxed);
}

struct btree
btree__of(struct btree_env *env, uint32_t tree, uint64_t root, uint8_t leaf_class)
{
    struct btree bt;
    btree_init(&bt, env, tree, root, leaf_class);
    return bt;
}

uint32_t
btree__inline_max(uint8_t leaf_class)
{
    uint32_t quarter = PAGE_CLASS_SIZE((uint32_t)leaf_class) / 4;
    return quarter < BTREE_INLINE_MAX ? quarter : BTREE_INLINE_MAX;
}

void
btree_buf_free(struct btree_buf *b)
{
    MEM_FREE(MEM_BTREE, b->data);
    b->size = b->capacity = 0;
}

ash_rc
btree__buf_room(struct btree_buf *b, uint32_t more)
{
    if (ASH_LIKELY(more <= b->capacity - b->size && b->data != NULL))
        return ASH_OK;
    uint64_t want = max_u64((uint64_t)b->size + more, max_u64((uint64_t)b->capacity * 2, 256));
    if (want > UINT32_MAX)
        return ash_raise(
            ASH_TOO_LARGE,
            "Values of more than 4 GiB do not fit one answer; ask for fewer rows at once.");
    uint8_t *data = mem_realloc(MEM_BTREE, b->data, want);
    if (data == NULL)
        return ASH_NO_MEMORY;
    b->data = data;
    b->capacity = (uint32_t)want;
    return ASH_OK;
}

/* ---- Making a tree ---- */

/* An empty node over everything. */
static ash_rc
empty_edit(struct btree_edit *e, uint8_t level, uint64_t right)
{
    struct btree_fence none = { BTREE_FENCE_INFINITE, { NULL, 0 } };
    ash_rc rc = btree__edit_begin(e, NULL, &none, &none, level, right, 0);
    if (rc == ASH_OK)
        btree__edit_end(e);
    return rc;
}

static ash_rc
reserve_frames(struct btree_env *env, uint8_t leaf_class)
{
    ash_rc rc = buf_reserve(env->pool, BTREE_INNER_CLASS, 1);

    return rc == ASH_OK ? buf_reserve(env->pool, leaf_class, 1) : rc;
}

ash_rc
btree_create(struct btree_env *env, uint32_t tree, uint8_t leaf_class, uint64_t *root_out)
{
    ash_rc rc = reserve_frames(env, leaf_class);

    return rc == ASH_OK ? btree__create_at(env, tree, leaf_class, NULL, PAGE_ID_NONE, root_out)
                        : rc;
}

ash_rc
btree_create_noted(struct btree_env *env, uint32_t tree, uint8_t leaf_class, uint64_t root)
{
    ash_rc rc = reserve_frames(env, leaf_class);

    if (rc == ASH_OK)
        return btree__create_at(env, tree, leaf_class, NULL, root, &root);
    pstore_page_unalloc(env->pstore, root);
    return rc;
}

/* `reserved`: the root's id, or PAGE_ID_NONE for any.  It is free again after a failure. */

ash_rc
btree__create_at(struct btree_env *env, uint32_t tree, uint8_t leaf_class,
                 struct buf_page *noted_in, uint64_t reserved, uint64_t *root_out)
{
    struct buf_page root, leaf;
    struct btree_edit root_edit = { .data = NULL }, leaf_edit = { .data = NULL };
    struct btree_mtr bm;
    uint8_t word[8];
    ash_rc rc =
        reserved != PAGE_ID_NONE
            ? buf_new_at(env->pool, reserved, PAGE_TYPE_BTREE_INNER, BTREE_INNER_CLASS, tree, &root)
            /* the lowest id first */
            : buf_new(env->pool, PAGE_TYPE_BTREE_INNER, BTREE_INNER_CLASS, tree, &root);
    if (rc != ASH_OK) {
        if (reserved != PAGE_ID_NONE)
            pstore_page_unalloc(env->pstore, reserved);
        return rc;
    }
    rc = buf_new(env->pool, PAGE_TYPE_BTREE_LEAF, leaf_class, tree, &leaf);
    if (rc != ASH_OK)
        goto out_root;
    rc = empty_edit(&root_edit, 1, btree__child_word(leaf.page, 0));
    if (rc == ASH_OK)
        rc = empty_edit(&leaf_edit, 0, 0);
    if (rc == ASH_OK)
        rc = btree__mtr_begin(&bm, env, leaf.size, 5, root_edit.size + leaf_edit.size + 24);
    if (rc != ASH_OK)
        goto out_leaf;
    btree__mtr_init(&bm, &root);
    btree__mtr_edit(&bm, &root, &root_edit);
    btree__mtr_init(&bm, &leaf);
    btree__mtr_edit(&bm, &leaf, &leaf_edit);
    if (noted_in != NULL) {
        put_le64(word, root.page);
        btree__mtr_change(&bm, noted_in, BTREE_OP_ROOT_LOADING, word, sizeof(word));
    }
    rc = btree__mtr_commit(&bm);
    uint64_t page = root.page;
    buf_unlatch_x(env->pool, &leaf);
    buf_unlatch_x(env->pool, &root);
    btree__edit_free(&root_edit);
    btree__edit_free(&leaf_edit);
    if (rc == ASH_OK)
        *root_out = page;
    return rc;

out_leaf:
    btree__edit_free(&root_edit);
    btree__edit_free(&leaf_edit);
    buf_new_cancel(env->pool, &leaf);
out_root:
    buf_new_cancel(env->pool, &root);
    return rc;
}

/* ---- Descending ---- */

ash_rc
btree__restart(const struct btree *bt, unsigned *tries)
{
    counter_add(&bt->env->counters->restarts, 1);
    if (++*tries > BTREE_RETRY_MAX)
        return ash_raise(ASH_INTERNAL,
                         "An operation on tree %u met a changed page %u times; please report it.",
                         bt->tree, *tries);
    unsigned spins = *tries;
    task_relax(&spins);
    return ASH_OK;
}

/* A leaf is searched at once: have its lines come in together. Slots of a full 4 KiB leaf of small
 * rows take six lines. */
static inline void
prefetch_node(const uint8_t *data)
{
    for (unsigned line = 0; line < 8; line++)
        __builtin_prefetch(data + line * ASH_CACHE_LINE);
}

static ash_rc
bad_child(const struct btree *bt, const struct buf_page *p, unsigned level)
{
    return ash_raise(
        ASH_CORRUPT,
        "Tree %u: page %llu should be a node of level %u and is not; run a verification.", bt->tree,
        (unsigned long long)p->page, level);
}

/* One try.  ASH_WOULD_BLOCK with *missing: that page; with *missing PAGE_ID_NONE: something
 * changed, start over. */
static ash_rc
descend_once(const struct btree *bt, struct ash_slice key, unsigned stop, struct btree_path *path,
             uint64_t *missing)
{
    struct buf_pool *pool = bt->env->pool;
    const uint8_t *key_data = key.size > 0 ? key.data : "";
    *missing = bt->root;
    path->has_parent = false;
    ash_rc rc = buf_opt_begin(pool, bt->root, &path->node);
    if (rc != ASH_OK)
        return rc;
    unsigned level = btree__opt_level(path->node.data);
    if (level <= stop || level > BTREE_LEVEL_MAX) {
        *missing = PAGE_ID_NONE;
        if (!buf_opt_valid(pool, &path->node))
            return ASH_WOULD_BLOCK;
        if (level > BTREE_LEVEL_MAX || level == 0)
            return bad_child(bt, &path->node, 1);
        return level == stop ? ASH_OK : ASH_NOT_FOUND;
    }
    while (level > stop) {
        uint64_t word = btree__find_child(path->node.data, path->node.size, key_data,
                                          (uint32_t)key.size, &path->slot);
        *missing = PAGE_ID_NONE;
        if (ASH_UNLIKELY(!buf_opt_valid(pool, &path->node) && !PLANTED(84)))
            return ASH_WOULD_BLOCK;
        struct buf_page child;
        rc = buf_opt_begin(pool, BTREE_CHILD_PAGE(word), &child);
        if (ASH_UNLIKELY(rc != ASH_OK)) {
            path->parent = path->node; /* tells whether the child's absence means anything */
            *missing = BTREE_CHILD_PAGE(word);
            return rc;
        }
        prefetch_node(child.data);
        if (ASH_UNLIKELY(!buf_opt_valid(pool, &path->node) && !PLANTED(84)))
            return ASH_WOULD_BLOCK;
        level--;
        path->parent = path->node;
        path->node = child;
        path->has_parent = true;
        if (ASH_UNLIKELY(btree__opt_level(child.data) != level)) {
            if (!buf_opt_valid(pool, &child))
                return ASH_WOULD_BLOCK;
            return bad_child(bt, &child, level);
        }
    }
    return ASH_OK;
}

ash_rc
btree__descend_nowait(const struct btree *bt, struct ash_slice key, unsigned level,
                      struct btree_path *path_out, uint64_t *missing_out)
{
    return descend_once(bt, key, level, path_out, missing_out);
}

ash_rc
btree__descend(const struct btree *bt, struct ash_slice key, unsigned level,
               struct btree_path *path_out)
{
    struct buf_pool *pool = bt->env->pool;
    unsigned tries = 0;
    path_out->waited = false;
    for (;;) {
        uint64_t missing;
        ash_rc rc = descend_once(bt, key, level, path_out, &missing);
        if (ASH_LIKELY(rc == ASH_OK) || rc != ASH_WOULD_BLOCK)
            return rc;
        if (missing != PAGE_ID_NONE) {
            path_out->waited |= buf_opt_latched(pool, missing);
            rc = buf_fault(pool, missing, IO_CLASS_READ);
            /* A page that was freed between reading its id and loading it: not damage when its
             * parent has changed. */
            if (rc != ASH_OK && (rc != ASH_CORRUPT || missing == bt->root ||
                                 buf_opt_valid(pool, &path_out->parent)))
                return rc;
            if (rc == ASH_OK)
                continue;
        }
        rc = btree__restart(bt, &tries);
        if (rc != ASH_OK)
            return rc;
    }
}

ash_rc
btree__latch_leaf(const struct btree *bt, struct ash_slice key, struct buf_page *leaf_out)
{
    bool collided;
    return btree__latch_leaf_noting(bt, key, leaf_out, &collided);
}

ash_rc
btree__latch_leaf_noting(const struct btree *bt, struct ash_slice key, struct buf_page *leaf_out,
                         bool *collided_out)
{
    unsigned tries = 0;
    *collided_out = false;
    for (;;) {
        struct btree_path path;
        ash_rc rc = btree__descend(bt, key, 0, &path);
        if (rc != ASH_OK)
            return rc;
        *collided_out |= path.waited;
        if (buf_opt_to_x(bt->env->pool, &path.node)) {
            *leaf_out = path.node;
            ash_debug_assert(btree__covers(leaf_out->data, key));
            return ASH_OK;
        }
        *collided_out = true;
        rc = btree__restart(bt, &tries);
        if (rc != ASH_OK)
            return rc;
    }
}
