/* SPDX-License-Identifier: Apache-2.0
 *
 * table_format.h - a row of the catalog.  Little-endian.  Described in docs/format.md.
 */
#ifndef ASH_TABLE_FORMAT_H
#define ASH_TABLE_FORMAT_H

#include "base/assert.h"

#include <stdint.h>

#define TABLE_ROW_VERSION  1u
#define TABLE_ENGINE_BTREE 1u
#define CATALOG_TREE       1u
#define CATALOG_ROOT       1u
#define TABLE_TREE_FIRST   16u /* ids below are the engine's own */

struct table_row {
    uint32_t version;    /*  0  4  TABLE_ROW_VERSION; a larger one is refused */
    uint32_t tree;       /*  4  4  tree id, never used again */
    uint64_t root;       /*  8  8  root page */
    uint32_t page_size;  /* 16  4  bytes */
    uint8_t engine;      /* 20  1  TABLE_ENGINE_* */
    uint8_t reserved[3]; /* 21  3  zero */
};
ASH_ONDISK_SIZE(struct table_row, 24);

#endif
