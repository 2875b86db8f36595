/* SPDX-License-Identifier: Apache-2.0
 *
 * table_int.h - the inside of src/table.
 */
#ifndef ASH_TABLE_INT_H
#define ASH_TABLE_INT_H

#include "base/bits.h"
#include "base/error.h"
#include "base/list.h"
#include "base/mem.h"
#include "table/table.h"
#include "table/table_format.h"

#include <string.h>

#define CATALOG_DROP_KEY 9u

struct catalog_reap {
    struct catalog_reap *next;
    struct table_row row;
    uint64_t after; /* the horizon must pass this LSN (R2) */
};

struct catalog_change {
    struct catalog_change *next; /* newest first */
    bool create;                 /* else a drop */
    uint64_t savepoint;          /* of the transaction before the change */
    struct catalog_reap *reap;   /* made beforehand: the end of a transaction has no way to fail */
};

struct catalog {
    struct btree_env *env;
    struct btree bt;
    uint32_t page_size_max;

    /* the two transactions of a create; the reaper takes it for each tree.  Before `mutex`. */
    struct task_mutex create_mutex;
    struct task_mutex mutex; /* tables, reap list */
    struct list tables;
    struct catalog_reap *reap;
    uint32_t reaping; /* the tree that the reaper frees now, 0: none */
    struct task *reaper;
    _Atomic bool stopping;
    _Atomic uint32_t reap_count;
};

/* table_catalog.c */
struct ash_slice catalog__drop_key(uint32_t tree, uint8_t key[CATALOG_DROP_KEY]);
ASH_MUST_CHECK ash_rc catalog__run(struct catalog *c,
                                   ash_rc (*fn)(struct catalog *c, struct txn *t, void *arg),
                                   void *arg);
/* table_reap.c */
void catalog__reap_later(struct catalog *c, const struct table_row *row);
void catalog__drop_tree(struct catalog *c, struct catalog_reap *reap);
bool catalog__reap_waits(const struct catalog *c, uint32_t tree); /* under the mutex */

#endif
