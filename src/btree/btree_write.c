/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_write.c - one row change of a transaction: may it, does it fit, log it, do it.
 *
 * Order (each step may send us back to the first; no latch is held while waiting):
 *   1. descend without latches, latch the leaf exclusively
 *   2. somebody else's explicit lock or unfinished change on the row: let go, wait for that
 *      transaction
 *   3. is the change allowed: what the row is now decides EXISTS, NOT_FOUND, CONFLICT
 *   4. does it fit: else let go and split
 *   5. log undo part and page change in one record, change the page, let go
 */
#include "btree/btree_int.h"

#define SMALL 1200u /* payloads and old rows up to this size need no memory of their own */

/* What a change finds and makes of the row. */
struct change {
    struct btree *bt;
    struct txn *t;
    enum btree_write_kind kind;
    struct ash_slice key, value; /* value: the caller's */
    bool large;                  /* it goes to value pages */
    struct btree_large_new pages;
    struct btree_put put;
    bool collided;        /* somebody else held the leaf */
    uint32_t border_size; /* not 0: split the leaf below this key, it is fought for */
    uint8_t border[BTREE_KEY_LIMIT];
};

static ash_rc
check_sizes(const struct btree *bt, enum btree_write_kind kind, struct ash_slice key,
            struct ash_slice value)
{
    if (key.size > BTREE_KEY_MAX)
        return ash_raise(ASH_TOO_LARGE, "A key of %zu bytes is too long (tree %u takes %u).",
                         key.size, bt->tree, (unsigned)BTREE_KEY_MAX);
    if (kind != BTREE_DELETE && value.size > ASH_VALUE_SIZE_MAX)
        return ash_raise(ASH_TOO_LARGE, "A value of %zu bytes is too long (tree %u takes %u).",
                         value.size, bt->tree, ASH_VALUE_SIZE_MAX);
    return ASH_OK;
}

/* Step 2: the transaction that must end first, or 0. */
static uint64_t
blocker(const struct change *c, const struct buf_page *leaf, uint32_t slot, bool exact,
        bool *newer_out)
{
    *newer_out = false;
    uint64_t other = txn_locked(c->t, c->bt->tree, c->key);
    if (other != 0 || !exact)
        return other;
    struct btree_entry e;
    btree__entry(leaf->data, slot, &e);
    if (e.version == NULL)
        return 0;
    uint64_t writer = get_le64(e.version);
    switch (txn_writer(c->t, writer)) {
    case TXN_WRITER_ACTIVE: return writer;
    case TXN_WRITER_NEWER: *newer_out = !PLANTED(86); return 0;
    case TXN_WRITER_SELF:
    case TXN_WRITER_SEEN: break;
    }
    return 0;
}

/* Step 3. */
static ash_rc
allowed(const struct change *c, const struct buf_page *leaf, uint32_t slot, bool exact, bool newer)
{
    if (newer)
        return ash_raise(
            ASH_CONFLICT,
            "Another transaction changed this row of tree %u after this one's snapshot; roll back and retry.",
            c->bt->tree);
    bool live = exact && (btree__cslots(leaf->data)[slot].key >> BTREE_SLOT_KEY_BITS &
                          BTREE_ROW_DELETED) == 0;
    if (c->kind == BTREE_INSERT && live)
        return ash_raise(ASH_EXISTS, "A row with this key is in tree %u already.", c->bt->tree);
    if ((c->kind == BTREE_UPDATE || c->kind == BTREE_DELETE) && !live)
        return ash_answer(ASH_NOT_FOUND, "No row has this key.");
    return ASH_OK;
}

/* The undo part: head, key, version head and value as they are now, copied because the page changes
 * before the record is made. */
struct undo_part {
    struct txn_undo_head head;
    uint8_t *row;
    uint8_t small[SMALL];
};

static ash_rc
undo_part_init(struct undo_part *u, const struct change *c, const struct buf_page *leaf,
               uint32_t slot, bool exact)
{
    u->head = (struct txn_undo_head){
        .root = c->bt->root,
        .tree = c->bt->tree,
        .key_size = (uint16_t)c->key.size,
        .kind = !exact                    ? TXN_UNDO_INSERT
                : c->kind == BTREE_DELETE ? TXN_UNDO_DELETE
                                          : TXN_UNDO_UPDATE,
        .leaf_class = c->bt->leaf_class,
    };
    u->row = u->small;
    if (!exact)
        return ASH_OK;
    struct btree_entry e;
    btree__entry(leaf->data, slot, &e);
    uint32_t version_size = e.version != NULL ? BTREE_VERSION_SIZE : 0;
    u->head.row_size = version_size + e.value_size;
    u->head.row_flags = e.flags;
    if (u->head.row_size > SMALL) {
        u->row = mem_alloc(MEM_BTREE, u->head.row_size);
        if (u->row == NULL)
            return ASH_NO_MEMORY;
    }
    if (version_size > 0)
        memcpy(u->row, e.version, version_size);
    if (e.value_size > 0)
        memcpy(u->row + version_size, e.value, e.value_size);
    return ASH_OK;
}

static void
undo_part_deinit(struct undo_part *u)
{
    if (u->row != u->small)
        mem_free(MEM_BTREE, u->row);
}

static void
patch_undo(void *arg, uint64_t start)
{
    put_le64(arg, start);
}

/* Step 5.  The leaf stays latched. */
static ash_rc
log_and_apply(struct change *c, struct buf_page *leaf, struct btree_put_plan *plan,
              struct undo_part *undo)
{
    uint8_t small[SMALL + 64], *payload = small;
    uint32_t bytes = btree__put_bytes(&c->put, plan), size;
    if (bytes - 4 * plan->purge_count > sizeof(small)) {
        payload = mem_alloc(MEM_BTREE, bytes);
        if (payload == NULL)
            return ASH_NO_MEMORY;
    }
    struct btree_mtr bm;
    ash_rc rc = btree__mtr_begin(&bm, c->bt->env, leaf->size, 2 + c->pages.count,
                                 bytes + 16 * c->pages.count);
    if (rc != ASH_OK)
        goto out_payload;
    struct mtr_record record = { .type = WAL_REC_ROW };
    txn_row_record(c->t, &record);
    record.undo[0] = (struct wal_part){ &undo->head, sizeof(undo->head) };
    record.undo[1] = (struct wal_part){ c->key.size > 0 ? c->key.data : "", (uint32_t)c->key.size };
    record.undo[2] = (struct wal_part){ undo->row, undo->head.row_size };
    record.undo_count = 3;
    uint8_t *patch;
    uint64_t start;
    btree__put_payload(leaf, &c->put, plan, payload, &size);
    btree__put_apply(&bm, leaf, &c->put, plan, payload, size, &patch);
    for (unsigned i = 0; i < c->pages.count; i++)
        btree__mtr_init(&bm, &c->pages.page[i]);
    rc = btree__mtr_commit_as(&bm, &record, patch != NULL ? patch_undo : NULL, patch, &start);
    if (rc == ASH_OK) {
        txn_logged(c->t, start);
    } else { /* the log is poisoned: the pages are marked and must only be let go */
        while (c->pages.count > 0)
            buf_unlatch_x(c->bt->env->pool, &c->pages.page[--c->pages.count]);
    }
out_payload:
    if (payload != small)
        mem_free(MEM_BTREE, payload);
    return rc;
}

/* What later has to be cleaned up; fails never. */
static void
remember(const struct change *c, const struct undo_part *undo)
{
    uint64_t pages[BTREE_LARGE_PAGES_MAX];
    uint32_t size;
    unsigned count;
    uint32_t version_size = (undo->head.row_flags & BTREE_ROW_VERSIONED) != 0 ? BTREE_VERSION_SIZE
                                                                              : 0;
    if ((undo->head.row_flags & BTREE_ROW_LARGE) != 0 &&
        btree__large_parse(undo->row + version_size, undo->head.row_size - version_size, &size,
                           pages, &count))
        txn_add_garbage(c->t, c->bt->tree, pages, count);
    if (c->kind == BTREE_DELETE)
        txn_add_purge(c->t, c->bt->tree, c->bt->root, c->bt->leaf_class, c->key);
}

/* Ascending inserts leave a trace, so that the split that they need leaves the left page full. */
static void
note_append(struct btree *bt, const struct buf_page *leaf, const struct btree_put_plan *plan)
{
    if (plan->exact)
        return;
    uint64_t hint = plan->slot + 1 == btree__cnode(leaf->data)->count ? leaf->page : PAGE_ID_NONE;
    if (hint == PAGE_ID_NONE &&
        atomic_load_explicit(&bt->append_hint, memory_order_relaxed) != leaf->page)
        return;
    if (hint != atomic_load_explicit(&bt->append_hint, memory_order_relaxed))
        atomic_store_explicit(&bt->append_hint, hint, memory_order_relaxed);
}

/* The row is changed and the leaf still latched.  Writers of large values are not asked to split:
 * they still hold their value pages then. */
static void
note_collision(struct change *c, const struct buf_page *leaf, const struct btree_put_plan *plan)
{
    uint32_t border;
    uint8_t key[2 * BTREE_KEY_LIMIT];
    if (ASH_LIKELY(!c->collided) || !plan->exact || c->large ||
        !btree__contention(c->bt->env, leaf, plan->slot, &border))
        return;
    c->border_size = btree__key(leaf->data, border, key);
    memcpy(c->border, key, c->border_size);
}

/* The value pages, when the row needs them and they were not made in an earlier try. */
static ash_rc
make_pages(struct change *c)
{
    if (!c->large)
        return ASH_OK;
    ash_rc rc = btree__large_new(c->bt, (uint32_t)c->value.size, &c->pages);
    if (rc == ASH_OK)
        c->put.value = ash_slice(c->pages.description, c->pages.description_size);
    return rc;
}

enum next {
    NEXT_DONE,
    NEXT_WAIT,
    NEXT_SPLIT
};

/* Steps 2 to 5 with the leaf latched; it is released. */
static ash_rc
change_leaf(struct change *c, struct buf_page *leaf, enum next *next_out, uint64_t *wait_out,
            uint32_t *need_out)
{
    struct btree_put_plan plan;
    struct undo_part undo;
    struct buf_pool *pool = c->bt->env->pool;
    bool exact, newer;
    *next_out = NEXT_DONE;
    uint32_t slot = btree__lower_bound(leaf->data, leaf->size, c->key.size > 0 ? c->key.data : "",
                                       (uint32_t)c->key.size, &exact);
    *wait_out = blocker(c, leaf, slot, exact, &newer);
    if (*wait_out != 0) {
        *next_out = NEXT_WAIT;
        buf_unlatch_x(pool, leaf);
        return ASH_OK;
    }
    ash_rc rc = allowed(c, leaf, slot, exact, newer);
    if (rc != ASH_OK)
        goto out;
    if (!btree__put_plan(c->bt, leaf, &c->put, &plan)) {
        *next_out = NEXT_SPLIT;
        *need_out = plan.need;
        goto out;
    }
    rc = undo_part_init(&undo, c, leaf, slot, exact);
    if (rc != ASH_OK)
        goto out;
    rc = make_pages(c);
    if (rc == ASH_OK) {
        rc = log_and_apply(c, leaf, &plan, &undo);
        if (rc != ASH_OK)
            btree__large_cancel(c->bt, &c->pages);
    }
    if (rc == ASH_OK) {
        note_append(c->bt, leaf, &plan);
        note_collision(c, leaf, &plan);
        remember(c, &undo);
    }
    undo_part_deinit(&undo);
out:
    buf_unlatch_x(pool, leaf);
    return rc;
}

static ash_rc
change_row(struct change *c)
{
    struct btree *bt = c->bt;
    for (unsigned tries = 0; tries < BTREE_RETRY_MAX; tries++) {
        struct buf_page leaf;
        enum next next;
        uint64_t wait;
        uint32_t need = 0;
        ash_rc rc = buf_throttle(bt->env->pool);
        if (rc != ASH_OK)
            return rc;
        if (c->large) {
            btree__large_enter(bt, (uint32_t)c->value.size);
            rc = btree__large_reserve(bt, (uint32_t)c->value.size);
        }
        if (rc == ASH_OK)
            rc = btree__latch_leaf_noting(bt, c->key, &leaf, &c->collided);
        if (rc == ASH_OK)
            rc = change_leaf(c, &leaf, &next, &wait, &need);
        if (c->large && (rc != ASH_OK || next != NEXT_DONE)) /* else fill_pages() leaves */
            btree__large_leave(bt, (uint32_t)c->value.size);
        if (rc != ASH_OK)
            return rc;
        if (next == NEXT_DONE) {
            if (ASH_UNLIKELY(c->border_size > 0)) /* an economy; the row is written */
                ash_ignore(btree__split_between(bt, ash_slice(c->border, c->border_size)));
            return ASH_OK;
        }
        rc = next == NEXT_WAIT ? txn_wait(c->t, wait, /* nowait= */ false)
                               : btree__split(bt, c->key, need);
        if (rc != ASH_OK)
            return rc;
    }
    return ash_raise(ASH_INTERNAL, "A change of tree %u did not come to an end; please report it.",
                     bt->tree);
}

/* A large value's bytes go to its pages after the row and the pages exist: until commit only this
 * transaction reads them, and a crash between undoes the row, which frees the pages. */
static ash_rc
fill_pages(struct change *c, uint64_t savepoint)
{
    ash_rc rc = btree__large_fill(c->bt, &c->pages, c->value);
    btree__large_leave(c->bt, (uint32_t)c->value.size);
    if (rc == ASH_OK)
        return ASH_OK;
    struct err_detail detail;
    err_save(&detail);
    /* fails only when the database is poisoned, which the caller's error says, too */
    ash_ignore(txn_rollback_to(c->t, savepoint));
    err_restore(&detail);
    return rc;
}

/* The row's descriptions of value pages are looked for only in trees that have the flag. */
ash_rc
btree__flag_large(struct btree *bt)
{
    struct buf_page root;
    ash_rc rc = buf_latch_x(bt->env->pool, bt->root, &root);
    if (rc != ASH_OK)
        return rc;
    if ((btree__cnode(root.data)->flags & BTREE_NODE_LARGE) == 0) {
        struct btree_mtr bm;
        uint8_t flag = BTREE_NODE_LARGE;
        rc = btree__mtr_begin(&bm, bt->env, root.size, 1, 8);
        if (rc == ASH_OK) {
            btree__mtr_change(&bm, &root, BTREE_OP_NODE_FLAGS, &flag, 1);
            rc = btree__mtr_commit(&bm);
        }
    }
    buf_unlatch_x(bt->env->pool, &root);
    return rc;
}

ash_rc
btree_write(struct btree *bt, struct txn *t, enum btree_write_kind kind, struct ash_slice key,
            struct ash_slice value)
{
    ash_rc rc = check_sizes(bt, kind, key, value);
    if (rc == ASH_OK)
        rc = txn_statement(t, /* write= */ true);
    if (rc == ASH_OK)
        rc = txn_prepare_write(t);
    if (rc != ASH_OK)
        return rc;
    counter_add(&bt->env->counters->writes, 1);
    struct change c;
    c.bt = bt;
    c.t = t;
    c.kind = kind;
    c.key = key;
    c.value = kind == BTREE_DELETE ? ash_slice(NULL, 0) : value;
    c.large = c.value.size > 0 && key.size + c.value.size > btree__inline_max(bt->leaf_class);
    c.pages.count = 0;
    c.border_size = 0;
    c.put = (struct btree_put){
        .key = key,
        .value = c.value,
        .writer = atomic_load_explicit(&t->id, memory_order_relaxed),
        .flags = BTREE_ROW_VERSIONED,
    };
    if (kind == BTREE_DELETE)
        c.put.flags |= BTREE_ROW_DELETED;
    if (!c.large)
        return change_row(&c);

    /* Sizes count before the pages exist. */
    c.put.flags |= BTREE_ROW_LARGE;
    uint8_t classes[BTREE_LARGE_PAGES_MAX];
    c.put.value = ash_slice(c.pages.description,
                            sizeof(struct btree_large) +
                                8 * (size_t)btree__large_plan((uint32_t)value.size, classes));
    uint64_t savepoint = txn_savepoint(t);
    rc = btree__flag_large(bt);
    if (rc == ASH_OK)
        rc = change_row(&c);
    return rc == ASH_OK ? fill_pages(&c, savepoint) : rc;
}
