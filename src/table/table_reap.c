/* SPDX-License-Identifier: Apache-2.0
 *
 * table_reap.c - opening the catalog, and the task that frees the pages of dropped tables.
 *
 * A tree is freed first and its "\0drop" row deleted after: a crash between repeats the freeing,
 * which btree_destroy() allows.
 */
#include "table/table_int.h"

#define CATALOG_REAP_WAIT_NS 20000000u /* 20 ms between looks at the horizon */

ash_rc
catalog_create(struct btree_env *env)
{
    uint64_t root;
    ash_rc rc = btree_create(env, CATALOG_TREE, 0, &root);

    ash_assert(rc != ASH_OK || root == CATALOG_ROOT); /* the first page of a new database */
    return rc;
}

/* Marks the table for those who have it open and queues its tree, in one go: who opens it from now
 * on, by a snapshot from before the drop, finds it in the queue (R2). */
void
catalog__drop_tree(struct catalog *c, struct catalog_reap *reap)
{
    task_mutex_lock(&c->mutex);
    LIST_FOREACH(it, &c->tables) {
        struct table *table = list_entry(it, struct table, link);
        if (table->bt.tree == reap->row.tree && !PLANTED(143))
            atomic_store(&table->dropped, true);
    }
    reap->after = wal_reserved(c->env->wal); /* R2: after the mark */
    reap->next = c->reap;
    c->reap = reap;
    atomic_fetch_add(&c->reap_count, 1);
    task_mutex_unlock(&c->mutex);
    if (c->reaper != NULL)
        task_unpark(c->reaper);
}

/* A tree that no transaction could have opened.  Without memory it waits for the next open of the
 * database, which finds its row again. */
void
catalog__reap_later(struct catalog *c, const struct table_row *row)
{
    struct catalog_reap *r = mem_zalloc(MEM_TABLE, sizeof(*r));

    if (r == NULL)
        return;
    r->row = *row;
    catalog__drop_tree(c, r);
}

static struct catalog_reap *
catalog_reap_due(struct catalog *c)
{
    /* 396: a snapshot may be equal to `after`, when nothing was logged between it and the mark */
    uint64_t horizon = txn_horizon(c->env->txn) + PLANTED(396);

    task_mutex_lock(&c->mutex);
    struct catalog_reap **at = &c->reap;
    while (*at != NULL && (*at)->after >= horizon && !PLANTED(141))
        at = &(*at)->next;
    struct catalog_reap *r = *at;
    if (r != NULL) {
        *at = r->next;
        c->reaping = r->row.tree;
        atomic_fetch_sub(&c->reap_count, 1);
    }
    task_mutex_unlock(&c->mutex);
    return r;
}

bool
catalog__reap_waits(const struct catalog *c, uint32_t tree)
{
    bool found = c->reaping == tree;

    for (const struct catalog_reap *r = c->reap; r != NULL && !found; r = r->next)
        found = r->row.tree == tree;
    return found;
}

bool
catalog_tree_dropped(struct catalog *c, uint32_t tree)
{
    task_mutex_lock(&c->mutex);
    bool found = catalog__reap_waits(c, tree);
    task_mutex_unlock(&c->mutex);
    return found;
}

static ash_rc
catalog_delete_drop_row(struct catalog *c, struct txn *t, void *arg)
{
    const struct table_row *row = arg;
    uint8_t key[CATALOG_DROP_KEY];
    ash_rc rc =
        btree_write(&c->bt, t, BTREE_DELETE, catalog__drop_key(row->tree, key), ash_slice(NULL, 0));

    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

/* Its row stays when this fails: it is tried again, by the next open at the latest. */
static ash_rc
catalog_reap_one(struct catalog *c, struct catalog_reap *r)
{
    task_mutex_lock(&c->create_mutex);
    txn_forget_tree(c->env->txn, r->row.tree);
    ash_rc rc = btree_destroy(c->env, r->row.tree, r->row.root);
    if (rc == ASH_OK && !PLANTED(148))
        rc = catalog__run(c, catalog_delete_drop_row, &r->row);
    task_mutex_unlock(&c->create_mutex);
    task_mutex_lock(&c->mutex);
    c->reaping = 0;
    if (rc != ASH_OK) {
        r->next = c->reap;
        c->reap = r;
        atomic_fetch_add(&c->reap_count, 1);
    }
    task_mutex_unlock(&c->mutex);
    if (rc == ASH_OK)
        mem_free(MEM_TABLE, r);
    return rc;
}

/* The horizon follows the log's clock: when nobody has logged anything since a tree was queued, a
 * record that says nothing moves it past that tree's LSN. */
static void
catalog_move_clock(struct catalog *c)
{
    struct wal *wal = c->env->wal;
    struct wal_record_head head = { .size = sizeof(head), .type = WAL_REC_NOTE };
    struct wal_part part = { &head, sizeof(head) };
    uint64_t start, end, newest = 0;

    task_mutex_lock(&c->mutex);
    for (const struct catalog_reap *r = c->reap; r != NULL; r = r->next)
        newest = max_u64(newest, r->after);
    task_mutex_unlock(&c->mutex);
    /* When it cannot be logged, nothing is freed either. */
    if (wal_reserved(wal) <= newest && wal_room(wal) == ASH_OK)
        ash_ignore(wal_append(wal, &part, 1, &start, &end));
}

static void
catalog_reaper_main(void *arg)
{
    struct catalog *c = arg;

    while (!atomic_load(&c->stopping)) {
        struct catalog_reap *r = catalog_reap_due(c);
        if (r != NULL) {
            if (catalog_reap_one(c, r) != ASH_OK)
                task_sleep_ns(CATALOG_REAP_WAIT_NS);
        } else if (atomic_load(&c->reap_count) == 0)
            task_park();
        else {
            catalog_move_clock(c);
            txn_move_horizon(c->env->txn);
            task_sleep_ns(CATALOG_REAP_WAIT_NS);
        }
    }
}

static ash_rc
catalog_find_dropped(void *arg, const char *name, uint32_t tree, uint64_t root, uint8_t leaf_class)
{
    struct catalog *c = arg;
    struct table_row row = { .tree = tree, .root = root, .page_size = PAGE_CLASS_SIZE(leaf_class) };

    if (strcmp(name, "(dropped)") == 0 && !PLANTED(144))
        catalog__reap_later(c, &row);
    return ASH_OK;
}

ash_rc
catalog_open(struct btree_env *env, bool read_only, uint32_t page_size_max, struct catalog **out)
{
    struct catalog *c = mem_zalloc(MEM_TABLE, sizeof(*c));

    if (c == NULL)
        return ASH_NO_MEMORY;
    c->env = env;
    c->page_size_max = page_size_max;
    btree_init(&c->bt, env, CATALOG_TREE, CATALOG_ROOT, 0);
    task_mutex_init(&c->create_mutex);
    task_mutex_init(&c->mutex);
    list_init(&c->tables);
    ash_rc rc = catalog_trees(c, catalog_find_dropped, c);
    if (rc == ASH_OK && !read_only)
        rc = task_spawn(env->rt, "reaper", catalog_reaper_main, c, &c->reaper);
    if (rc != ASH_OK) {
        catalog_close(c);
        return rc;
    }
    *out = c;
    return ASH_OK;
}

void
catalog_close(struct catalog *c)
{
    if (c == NULL)
        return;
    if (c->reaper != NULL) {
        atomic_store(&c->stopping, true);
        task_unpark(c->reaper);
        task_join(c->reaper);
    }
    /* the caller forgot to close it; its handle is as dead as the database's */
    while (!list_empty(&c->tables)) {
        struct table *table = list_entry(c->tables.next, struct table, link);
        list_remove(&table->link);
        mem_free(MEM_TABLE, table);
    }
    while (c->reap != NULL) {
        struct catalog_reap *next = c->reap->next;
        mem_free(MEM_TABLE, c->reap);
        c->reap = next;
    }
    mem_free(MEM_TABLE, c);
}
