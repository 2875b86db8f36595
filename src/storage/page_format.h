/* SPDX-License-Identifier: Apache-2.0
 *
 * page_format.h - what every page begins with, whatever it holds.  Little-endian.  Described in
 * docs/format.md.
 */
#ifndef ASH_STORAGE_PAGE_FORMAT_H
#define ASH_STORAGE_PAGE_FORMAT_H

#include "base/assert.h"

#include <stdint.h>

#define PAGE_SIZE_MIN      4096u
#define PAGE_CLASS_COUNT   10u /* 4 KiB << 0..9: 4 KiB .. 2 MiB */
#define PAGE_CLASS_SIZE(c) (PAGE_SIZE_MIN << (c))
#define PAGE_FORMAT        1u
#define PAGE_ID_NONE       0u /* never a page */
#define PAGE_ID_FIRST      1u

enum page_type { /* never renumbered; 0 is never valid on disk */
    PAGE_TYPE_BTREE_LEAF = 1,
    PAGE_TYPE_BTREE_INNER = 2,
    PAGE_TYPE_VALUE = 3, /* part of a large value */
    PAGE_TYPE_MAP = 4,   /* of the location map */
    PAGE_TYPE_MAP_ROOT = 5
};

struct page_head {
    uint32_t
        /*  0  4  of bytes [4, page size); rot and torn writes. Set when written to disk, stale in
         * memory */
        crc32c;
    uint8_t format;     /*  4  1  PAGE_FORMAT */
    uint8_t type;       /*  5  1  enum page_type */
    uint8_t page_class; /*  6  1  size is 4096 << class */
    uint8_t flags;      /*  7  1  zero */
    uint64_t page;      /*  8  8  own page id; misdirected writes and reads */
    uint32_t tree;      /* 16  4  tree that owns it, 0: none */
    uint32_t database;  /* 20  4  first 4 bytes of the database's uuid; pages of another database */
    uint64_t lsn; /* 24  8  end LSN of the last change; redo applies records that end above it */
    uint64_t write_seq; /* 32  8  counts writes of pages in this database; lost writes, nonces */
};
ASH_ONDISK_SIZE(struct page_head, 40);

#endif
