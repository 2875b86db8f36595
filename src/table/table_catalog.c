/* SPDX-License-Identifier: Apache-2.0
 *
 * table_catalog.c - reading and changing the catalog's rows.
 *
 * Entry points: catalog_table_create(), _drop(), _open(), _list().   Read first: table.h (R1, R2).
 */
#include "table/table_int.h"

ash_rc
catalog_row_check(const void *row, size_t size)
{
    struct table_row r;

    if (size != sizeof(r))
        return ash_raise(ASH_CORRUPT, "A catalog row is %zu bytes long instead of %zu.", size,
                         sizeof(r));
    memcpy(&r, row, sizeof(r));
    if (r.version > TABLE_ROW_VERSION)
        return ash_raise(ASH_VERSION_MISMATCH,
                         "A catalog row has version %u; this library knows %u.", r.version,
                         TABLE_ROW_VERSION);
    if (r.version == 0 || r.tree == 0 || r.root == 0 || !is_pow2(r.page_size) ||
        r.page_size < PAGE_SIZE_MIN || r.page_size > PAGE_CLASS_SIZE(PAGE_CLASS_COUNT - 1) ||
        r.engine != TABLE_ENGINE_BTREE)
        return ash_raise(ASH_CORRUPT,
                         "A catalog row (tree %u, root page %llu, page size %u) makes no sense.",
                         r.tree, (unsigned long long)r.root, r.page_size);
    return ASH_OK;
}

static ash_rc
catalog_name_check(const char *name)
{
    size_t length = name == NULL ? 0 : strlen(name);

    if (length == 0 || length > ASH_TABLE_NAME_MAX)
        return ash_raise(ASH_INVALID, "A table name must have 1 to %d bytes, not %zu.",
                         ASH_TABLE_NAME_MAX, length);
    return ASH_OK;
}

struct ash_slice
catalog__drop_key(uint32_t tree, uint8_t key[CATALOG_DROP_KEY])
{
    memcpy(key, "\0drop", 5);
    put_be32(key + 5, tree);
    return ash_slice(key, CATALOG_DROP_KEY);
}

/* A transaction of the catalog's own, for `fn`. */
ash_rc
catalog__run(struct catalog *c, ash_rc (*fn)(struct catalog *c, struct txn *t, void *arg),
             void *arg)
{
    struct txn_begin_options options = { .isolation = ASH_SNAPSHOT,
                                         .durability = ASH_DURABILITY_NONE };
    struct txn *t;
    ash_rc rc = txn_attach(c->env->txn, &t);

    if (rc != ASH_OK)
        return rc;
    rc = txn_begin(t, &options);
    if (rc == ASH_OK) {
        rc = fn(c, t, arg);
        if (rc == ASH_OK)
            rc = txn_commit(t, /* wait= */ false, NULL);
        if (rc != ASH_OK && t->open) {
            struct err_detail why;
            err_save(&why);
            ash_ignore(txn_rollback(t)); /* the first failure is what counts */
            err_restore(&why);
        }
    }
    txn_detach(t);
    return rc;
}

/* ---- Creating ---- */

static ash_rc
catalog_next_tree(struct catalog *c, struct txn *t, uint32_t *tree_out)
{
    struct btree_buf buf = { 0 };
    struct ash_slice key = ash_slice("\0next", 5);
    uint8_t value[4];
    ash_rc rc = btree_get(&c->bt, t, key, &buf);

    uint32_t tree = TABLE_TREE_FIRST;
    if (rc == ASH_OK && buf.size != sizeof(value))
        rc = ash_raise(ASH_CORRUPT, "The catalog's next tree id is %u bytes long instead of 4.",
                       buf.size);
    if (rc == ASH_OK)
        tree = get_le32(buf.data);
    else if (rc == ASH_NOT_FOUND)
        rc = ASH_OK;
    btree_buf_free(&buf);
    if (rc != ASH_OK)
        return rc;
    put_le32(value, tree + !PLANTED(146));
    *tree_out = tree;
    return btree_write(&c->bt, t, BTREE_PUT, key, ash_slice(value, sizeof(value)));
}

/* R1: the "\0drop" row of a tree that is about to be made. */
static ash_rc
catalog_note_tree(struct catalog *c, struct txn *t, void *arg)
{
    struct table_row *row = arg;
    uint8_t key[CATALOG_DROP_KEY];
    ash_rc rc = catalog_next_tree(c, t, &row->tree);

    if (rc != ASH_OK)
        return rc;
    if (PLANTED(140)) /* the tree before its owner is committed */
        ash_ignore(btree_create_noted(c->env, row->tree, 0, row->root));
    return btree_write(&c->bt, t, BTREE_INSERT, catalog__drop_key(row->tree, key),
                       ash_slice(row, sizeof(*row)));
}

/* Fills tree and root.  The row that owns the tree is committed before the tree's first record:
 * whatever part of the log a crash leaves, no page is without an owner.  A row without a tree is
 * reaped like any other. */
static ash_rc
catalog_make_tree(struct catalog *c, struct table_row *row)
{
    uint8_t leaf_class = (uint8_t)log2_floor(row->page_size / PAGE_SIZE_MIN);
    ash_rc rc = pstore_page_alloc(c->env->pstore, &row->root);

    if (rc != ASH_OK)
        return rc;
    rc = catalog__run(c, catalog_note_tree, row);
    if (rc != ASH_OK) {
        pstore_page_unalloc(c->env->pstore, row->root);
        return rc;
    }
    if (!PLANTED(140))
        rc = btree_create_noted(c->env, row->tree, leaf_class, row->root);
    if (rc != ASH_OK)
        catalog__reap_later(c, row);
    return rc;
}

static ash_rc
catalog_note_change(struct catalog_changes *changes, struct txn *t, const struct table_row *row,
                    bool create)
{
    struct catalog_change *change = mem_zalloc(MEM_TABLE, sizeof(*change));

    if (change == NULL)
        return ASH_NO_MEMORY;
    change->reap = mem_zalloc(MEM_TABLE, sizeof(*change->reap));
    if (change->reap == NULL) {
        mem_free(MEM_TABLE, change);
        return ASH_NO_MEMORY;
    }
    change->reap->row = *row;
    change->create = create;
    change->savepoint = txn_savepoint(t);
    change->next = changes->head;
    changes->head = change;
    return ASH_OK;
}

static void
catalog_forget_change(struct catalog_changes *changes)
{
    struct catalog_change *change = changes->head;

    changes->head = change->next;
    mem_free(MEM_TABLE, change->reap);
    mem_free(MEM_TABLE, change);
}

/* Takes back what a half-done create or drop has written; the transaction goes on. */
static ash_rc
catalog_undo_statement(struct txn *t, uint64_t savepoint, ash_rc rc)
{
    struct err_detail why;

    err_save(&why);
    ash_rc undone = txn_rollback_to(t, savepoint);
    if (undone != ASH_OK)
        return undone;
    err_restore(&why);
    return rc;
}

ash_rc
catalog_table_create(struct catalog *c, struct txn *t, struct catalog_changes *changes,
                     const char *name, const struct ash_table_options *options)
{
    struct table_row row = { .version = TABLE_ROW_VERSION,
                             .page_size = options->page_size,
                             .engine = TABLE_ENGINE_BTREE };
    struct btree_buf there = { 0 };
    uint8_t key[CATALOG_DROP_KEY];
    ash_rc rc = catalog_name_check(name);

    if (rc != ASH_OK)
        return rc;
    if (!is_pow2(row.page_size) || row.page_size < PAGE_SIZE_MIN ||
        row.page_size > c->page_size_max)
        return ash_raise(
            ASH_INVALID,
            "The page size of table \"%s\" must be a power of two from %u to %u bytes, not %u.",
            name, PAGE_SIZE_MIN, c->page_size_max, row.page_size);
    rc = btree_get(&c->bt, t, ash_slice(name, strlen(name)), &there);
    btree_buf_free(&there);
    if (rc == ASH_OK)
        return ash_raise_obj(ASH_EXISTS, name, "Table \"%s\" exists already.", name);
    if (rc != ASH_NOT_FOUND)
        return rc;
    task_mutex_lock(&c->create_mutex); /* no reaper between the two transactions of R1 */
    rc = catalog_make_tree(c, &row);
    if (rc != ASH_OK)
        goto out;
    uint64_t savepoint = txn_savepoint(t);
    rc = catalog_note_change(changes, t, &row, /* create= */ true);
    if (rc != ASH_OK) {
        catalog__reap_later(c, &row);
        goto out;
    }
    /* The row was committed after t's snapshot, by t's own doing: no conflict. */
    bool autocommit = t->autocommit;
    t->autocommit = true;
    rc = PLANTED(147) ? ASH_OK
                      : btree_write(&c->bt, t, BTREE_DELETE, catalog__drop_key(row.tree, key),
                                    ash_slice(NULL, 0));
    t->autocommit = autocommit;
    if (rc == ASH_OK)
        rc = btree_write(&c->bt, t, BTREE_INSERT, ash_slice(name, strlen(name)),
                         ash_slice(&row, sizeof(row)));
    if (rc != ASH_OK) {
        rc = catalog_undo_statement(t, savepoint, rc);
        catalog_forget_change(changes);
        catalog__reap_later(c, &row);
    }
out:
    task_mutex_unlock(&c->create_mutex);
    return rc;
}

/* ---- Finding, dropping, listing ---- */

static ash_rc
catalog_find(struct catalog *c, struct txn *t, const char *name, struct table_row *row_out)
{
    struct btree_buf buf = { 0 };
    ash_rc rc = catalog_name_check(name);

    if (rc != ASH_OK)
        return rc;
    rc = btree_get(&c->bt, t, ash_slice(name, strlen(name)), &buf);
    if (rc == ASH_NOT_FOUND)
        rc = ash_raise_obj(ASH_NOT_FOUND, name, "There is no table \"%s\".", name);
    if (rc == ASH_OK)
        rc = catalog_row_check(buf.data, buf.size);
    if (rc == ASH_OK)
        memcpy(row_out, buf.data, sizeof(*row_out));
    btree_buf_free(&buf);
    return rc;
}

ash_rc
catalog_table_drop(struct catalog *c, struct txn *t, struct catalog_changes *changes,
                   const char *name)
{
    struct table_row row;
    uint8_t key[CATALOG_DROP_KEY];
    ash_rc rc = catalog_find(c, t, name, &row);

    if (rc != ASH_OK)
        return rc;
    uint64_t savepoint = txn_savepoint(t);
    rc = catalog_note_change(changes, t, &row, /* create= */ false);
    if (rc != ASH_OK)
        return rc;
    rc = btree_write(&c->bt, t, BTREE_DELETE, ash_slice(name, strlen(name)), ash_slice(NULL, 0));
    if (rc == ASH_OK)
        rc = btree_write(&c->bt, t, BTREE_INSERT, catalog__drop_key(row.tree, key),
                         ash_slice(&row, sizeof(row)));
    if (rc != ASH_OK) {
        rc = catalog_undo_statement(t, savepoint, rc);
        catalog_forget_change(changes);
    }
    return rc;
}

ash_rc
catalog_table_open(struct catalog *c, struct txn *t, const char *name, struct table **out)
{
    struct table_row row;
    struct table *table = NULL;
    ash_rc rc = catalog_find(c, t, name, &row);

    if (rc != ASH_OK)
        return rc;
    task_mutex_lock(&c->mutex);
    /* The row is that of t's snapshot; a drop that was committed since has marked only the tables
     * that were open by then, and the reaper waits for t, but not for the new handle (R2). */
    if (catalog__reap_waits(c, row.tree) && !PLANTED(395)) {
        rc = ash_raise_obj(ASH_NOT_FOUND, name, "Table \"%s\" has just been dropped.", name);
        goto out;
    }
    LIST_FOREACH(it, &c->tables) {
        struct table *open = list_entry(it, struct table, link);
        if (open->bt.tree == row.tree)
            table = open;
    }
    if (table == NULL) {
        table = mem_zalloc(MEM_TABLE, sizeof(*table));
        if (table == NULL) {
            rc = ASH_NO_MEMORY;
            goto out;
        }
        btree_init(&table->bt, c->env, row.tree, row.root,
                   (uint8_t)log2_floor(row.page_size / PAGE_SIZE_MIN));
        table->options.page_size = row.page_size;
        memcpy(table->name, name, strlen(name) + 1);
        list_push_back(&c->tables, &table->link);
    }
    table->refs++;
    *out = table;
out:
    task_mutex_unlock(&c->mutex);
    return rc;
}

struct table *
catalog_table_ref(struct catalog *c, struct table *table)
{
    task_mutex_lock(&c->mutex);
    table->refs++;
    task_mutex_unlock(&c->mutex);
    return table;
}

void
catalog_table_close(struct catalog *c, struct table *table)
{
    task_mutex_lock(&c->mutex);
    ash_assert(table->refs > 0);
    if (--table->refs == 0) {
        list_remove(&table->link);
        mem_free(MEM_TABLE, table);
    }
    task_mutex_unlock(&c->mutex);
}

ash_rc
catalog_table_list(struct catalog *c, struct txn *t, ash_table_list_fn fn, void *arg)
{
    struct ash_cursor_options range = { .from = { "\1", 1 } };
    struct btree_cursor *cursor;
    struct btree_row r;
    ash_rc rc = btree_cursor_open(&c->bt, t, &range, &cursor);

    if (rc != ASH_OK)
        return rc;
    while ((rc = btree_cursor_step(cursor, /* forward= */ true, &r)) == ASH_OK) {
        struct table_row row;
        char name[ASH_TABLE_NAME_MAX + 1];
        rc = catalog_row_check(r.value.data, r.value.size);
        if (rc != ASH_OK || r.key.size > ASH_TABLE_NAME_MAX)
            break;
        memcpy(&row, r.value.data, sizeof(row));
        memcpy(name, r.key.data, r.key.size);
        name[r.key.size] = '\0';
        struct ash_table_options options = { .page_size = row.page_size };
        if (!fn(arg, name, &options))
            break;
    }
    btree_cursor_close(cursor);
    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

ash_rc
catalog_trees(struct catalog *c, catalog_tree_fn fn, void *arg)
{
    struct txn_begin_options options = { .isolation = ASH_SNAPSHOT,
                                         .durability = ASH_DURABILITY_NONE,
                                         .read_only = true };
    struct btree_cursor *cursor;
    struct btree_row r;
    struct txn *t;
    ash_rc rc = txn_attach(c->env->txn, &t);

    if (rc != ASH_OK)
        return rc;
    rc = txn_begin(t, &options);
    if (rc != ASH_OK)
        goto out_detach;
    rc = fn(arg, "(catalog)", CATALOG_TREE, CATALOG_ROOT, 0);
    if (rc == ASH_OK)
        rc = btree_cursor_open(&c->bt, t, NULL, &cursor);
    if (rc != ASH_OK)
        goto out_commit;
    while ((rc = btree_cursor_step(cursor, /* forward= */ true, &r)) == ASH_OK) {
        struct table_row row;
        char name[ASH_TABLE_NAME_MAX + 1] = "(dropped)";
        const uint8_t *key = r.key.data;
        bool system = r.key.size > 0 && key[0] == 0;
        if (system && !(r.key.size == CATALOG_DROP_KEY && memcmp(key, "\0drop", 5) == 0))
            continue;
        rc = catalog_row_check(r.value.data, r.value.size);
        if (rc != ASH_OK)
            break;
        memcpy(&row, r.value.data, sizeof(row));
        if (!system) {
            memcpy(name, key, r.key.size);
            name[r.key.size] = '\0';
        }
        rc = fn(arg, name, row.tree, row.root, (uint8_t)log2_floor(row.page_size / PAGE_SIZE_MIN));
        if (rc != ASH_OK)
            break;
    }
    btree_cursor_close(cursor);
    if (rc == ASH_NOT_FOUND)
        rc = ASH_OK;
out_commit:
    ash_ignore(txn_commit(t, /* wait= */ false, NULL)); /* read-only: cannot fail */
out_detach:
    txn_detach(t);
    return rc;
}

/* ---- Ends of transactions ---- */

static void
catalog_drop_changed(struct catalog *c, struct catalog_change *change)
{
    struct catalog_reap *reap = change->reap;

    change->reap = NULL;
    catalog__drop_tree(c, reap);
}

void
catalog_committed(struct catalog *c, struct catalog_changes *changes)
{
    while (changes->head != NULL) {
        struct catalog_change *change = changes->head;
        if (!change->create)
            catalog_drop_changed(c, change);
        catalog_forget_change(changes);
    }
}

void
catalog_rolled_back(struct catalog *c, struct catalog_changes *changes, uint64_t savepoint)
{
    while (changes->head != NULL && (changes->head->savepoint >= savepoint || PLANTED(145))) {
        struct catalog_change *change = changes->head;
        if (change->create && !PLANTED(142))
            catalog_drop_changed(c, change);
        catalog_forget_change(changes);
    }
}
