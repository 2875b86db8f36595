/* SPDX-License-Identifier: Apache-2.0
 *
 * table.h - the catalog: which tables there are, creating and dropping them inside transactions.
 *
 * The catalog is a B+tree (tree 1, root page 1) like any other.  Its keys:
 *   name                     a table (names hold no zero byte)
 *   "\0next"                 the next tree id
 *   "\0drop" tree (be32)     a tree that belongs to no table: its pages are to be freed
 *
 * Rules:
 *   R1  Create: a transaction of its own inserts a "\0drop" row with the tree's id and root, the
 *       tree is made, and the user's transaction deletes that row and inserts the name.  Drop: the
 *       user's transaction deletes the name and inserts the "\0drop" row.  So at every moment,
 *       after every rollback and crash, a tree is owned by exactly one row, and what "\0drop" owns
 *       is reaped.
 *   R2  A dropped tree is reaped only when the horizon has passed (is above) an LSN read after its
 *       table was marked dropped in memory; an operation takes its snapshot before it looks at that
 *       mark.  Marking and queueing for the reaper are one step under the catalog's mutex, and a
 *       queued tree cannot be opened: a handle made late, by a snapshot from before the drop, would
 *       have no mark.  So nobody is inside a tree that is being freed.
 */
#ifndef ASH_TABLE_H
#define ASH_TABLE_H

#include <ashlar.h>

#include "btree/btree.h"

struct catalog;

/* One table in memory, shared by all who have it open. */
struct table {
    struct list link; /* in the catalog's list; under its mutex */
    struct btree bt;
    struct ash_table_options options;
    uint32_t refs;        /* under the catalog's mutex */
    _Atomic bool dropped; /* R2 */
    char name[ASH_TABLE_NAME_MAX + 1];
};

/* A new database's catalog / an existing one's: reads the rows, queues what has to be reaped. */
ASH_MUST_CHECK ash_rc catalog_create(struct btree_env *env);
ASH_MUST_CHECK ash_rc catalog_open(struct btree_env *env, bool read_only, uint32_t page_size_max,
                                   struct catalog **out);
void catalog_close(struct catalog *c); /* stops the reaper; tables must be closed */

/* What a transaction did to tables, undone or confirmed at its end. */
struct catalog_change;
struct catalog_changes {
    struct catalog_change *head;
};

ASH_MUST_CHECK ash_rc catalog_table_create(struct catalog *c, struct txn *t,
                                           struct catalog_changes *changes, const char *name,
                                           const struct ash_table_options *options);
ASH_MUST_CHECK ash_rc catalog_table_drop(struct catalog *c, struct txn *t,
                                         struct catalog_changes *changes, const char *name);
ASH_MUST_CHECK ash_rc catalog_table_open(struct catalog *c, struct txn *t, const char *name,
                                         struct table **out);
struct table *catalog_table_ref(struct catalog *c, struct table *table); /* one more user */
void catalog_table_close(struct catalog *c, struct table *table);
/* it waits to be reaped, or is being */
bool catalog_tree_dropped(struct catalog *c, uint32_t tree);
ASH_MUST_CHECK ash_rc catalog_table_list(struct catalog *c, struct txn *t, ash_table_list_fn fn,
                                         void *arg);

/* After the transaction committed / rolled back (to `savepoint`, 0: everything). */
void catalog_committed(struct catalog *c, struct catalog_changes *changes);
void catalog_rolled_back(struct catalog *c, struct catalog_changes *changes, uint64_t savepoint);

/* Calls fn for each tree, the catalog itself and trees waiting to be reaped included. */
typedef ash_rc (*catalog_tree_fn)(void *arg, const char *name, uint32_t tree, uint64_t root,
                                  uint8_t leaf_class);
ASH_MUST_CHECK ash_rc catalog_trees(struct catalog *c, catalog_tree_fn fn, void *arg);
/* Checks a catalog row's bytes (fuzz target). */
ASH_MUST_CHECK ash_rc catalog_row_check(const void *row, size_t size);

#endif
