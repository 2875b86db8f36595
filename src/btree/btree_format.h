/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_format.h - B+tree pages on disk and in the log.  Little-endian.  Described in
 * docs/format.md.
 *
 *      0        40            160                                                              size
 *      +--------+-------------+--------+--------+- - -+ - - - - - - - -+---------+- - -+-------+-------+
 *      | page   | node head,  | slot 0 | slot 1 |     |  free, zeroed  | entry   |     | upper | lower |
 *      | head   | hints       |        |        |     |  by compaction | (heap)  |     | fence | fence |
 *      +--------+-------------+--------+--------+- - -+ - - - - - - - -+---------+- - -+-------+-------+
 *                                              slots grow up ->     <- heap grows down from `data_offset`
 *
 *      An entry in the heap:   [ version head, 16 bytes, when VERSIONED ] [ key without the prefix ] [ value ]
 *
 * Fences: lower exclusive, upper inclusive; every key k of the page has lower < k <= upper.  What
 * both fences begin with in common is the prefix: no key of the page stores it.  A separator in an
 * inner page is the upper fence of the child in its slot; the child above the last separator is
 * `right`.  So in both kinds of page the first slot whose key is >= the wanted key is the place to
 * look.
 */
#ifndef ASH_BTREE_FORMAT_H
#define ASH_BTREE_FORMAT_H

#include "base/assert.h"
#include "storage/page_format.h"
#include "wal/wal_format.h"

#include <stdint.h>

#define BTREE_HINTS 16u
#define BTREE_HINT_COUNT_MIN \
    33u /* hints are kept from so many slots on: below, binary search touches no more lines */

enum btree_node_flags {
    BTREE_NODE_LOWER_INFINITE = 1, /* no lower fence: the first page of its level */
    BTREE_NODE_UPPER_INFINITE = 2, /* no upper fence: the last one */
    BTREE_NODE_LARGE = 4,          /* in the root: leaves may hold large values */
    BTREE_NODE_FLAGS_ALL = 7
};

struct btree_node {
    struct page_head page; /*   0 40  type BTREE_LEAF or BTREE_INNER */
    uint32_t count;        /*  40  4  slots */
    uint16_t prefix_size;  /*  44  2  bytes that both fences begin with */
    uint8_t level;         /*  46  1  0: leaf; a child is one below its parent */
    uint8_t flags;         /*  47  1  enum btree_node_flags */
    uint64_t right; /*  48  8  inner: child word of the keys above the last separator; leaf: 0 */
    uint32_t data_offset; /*  56  4  lowest byte of the heap */
    uint32_t used;        /*  60  4  bytes of the heap in use: entries and fences */
    uint32_t hint
        /* 64 64  hint[i] = head of slot (count / 17) * (i + 1); meaningless below
         * BTREE_HINT_COUNT_MIN */
        [BTREE_HINTS];
    uint32_t lower_offset; /* 128  4  lower fence in the heap */
    uint32_t upper_offset; /* 132  4  upper fence */
    uint16_t lower_size;   /* 136  2  bytes */
    uint16_t upper_size;   /* 138  2  bytes */
    uint32_t ghosts;       /* 140  4  rows with BTREE_ROW_DELETED */
    uint32_t versions;     /* 144  4  rows with BTREE_ROW_VERSIONED */
    uint32_t reserved;     /* 148  4  zero */
    uint64_t
        /* 152  8  root: root of a tree that a bulk load is filling, or 0; its pages belong to this
         * tree */
        loading;
};
ASH_ONDISK_SIZE(struct btree_node, 160);
ASH_ONDISK_FIELD(struct btree_node, count, 40, 4);
ASH_ONDISK_FIELD(struct btree_node, right, 48, 8);
ASH_ONDISK_FIELD(struct btree_node, hint, 64, 64);
ASH_ONDISK_FIELD(struct btree_node, lower_offset, 128, 4);
ASH_ONDISK_FIELD(struct btree_node, versions, 144, 4);
ASH_ONDISK_FIELD(struct btree_node, loading, 152, 8);

enum btree_row_flags {
    BTREE_ROW_VERSIONED = 1, /* the entry begins with a version head */
    BTREE_ROW_DELETED = 2,   /* a ghost: no value */
    BTREE_ROW_LARGE = 4,     /* the value is a struct btree_large */
    BTREE_ROW_FLAGS_ALL = 7
};

#define BTREE_SLOT_KEY_BITS 10
#define BTREE_SLOT_KEY_MASK 0x3ffu

struct btree_slot {
    uint32_t offset; /*  0  4  of the entry */
    uint32_t
        /*  4  4  first 4 bytes of the key after the prefix, as a big-endian number, zero padded */
        head;
    uint16_t
        key; /*  8  2  bits 0..9: bytes of the key after the prefix; 10..15: enum btree_row_flags */
    uint16_t value_size; /* 10  2  bytes without the version head; 8 in an inner page */
};
ASH_ONDISK_SIZE(struct btree_slot, 12);

/* Unaligned. */
struct btree_version {
    uint64_t writer; /* 0 8  transaction that wrote the row */
    uint64_t undo;   /* 8 8  start LSN of the log record with the version before */
};
ASH_ONDISK_SIZE(struct btree_version, 16);
#define BTREE_VERSION_SIZE 16u

/* A child in an inner page: bits 63..48: estimate of the rows below it (btree__rows_encode), 47..0:
 * page id. */
#define BTREE_CHILD_PAGE(word) ((word)&0xffffffffffffull)
#define BTREE_CHILD_SIZE       8u
/* more levels than 2^48 pages can have with two children each are a sign of damage before that */
#define BTREE_LEVEL_MAX        24u

/* A large value: what the row holds instead. Unaligned. `count` page ids of 8 bytes follow. */
struct btree_large {
    uint32_t size;  /* 0 4  bytes of the value */
    uint32_t count; /* 4 4  value pages, filled one after the other */
};
ASH_ONDISK_SIZE(struct btree_large, 8);
#define BTREE_LARGE_CLASS_MAX \
    4u /* 64 KiB: large enough for the device, small enough for small pools and zones */
#define BTREE_LARGE_PAGES_MAX 17u

/* A page of type VALUE; the bytes follow. */
struct btree_value_page {
    struct page_head page; /*  0 40 */
    uint32_t size;         /* 40  4  bytes in this page */
    uint32_t index;        /* 44  4  position in the value's list of pages */
};
ASH_ONDISK_SIZE(struct btree_value_page, 48);

/* ---- Redo: numbers and payloads never change ---------------------------------------------------
 * */

enum btree_op {
    BTREE_OP_LEAF_PUT = WAL_OP_BTREE_FIRST, /* struct btree_op_put, key without prefix, value */
    BTREE_OP_LEAF_REMOVE = 17,              /* struct btree_op_slot */
    BTREE_OP_LEAF_PURGE =
        18, /* u32 each, ascending: slot << 1 | remove the row (else: drop the version head) */
    BTREE_OP_NODE_EDIT = 19, /* struct btree_op_edit, fences, rows */
    BTREE_OP_INNER_SPLIT =
        20, /* struct btree_op_child, key: new separator; its right neighbour gets `right` */
    BTREE_OP_INNER_MERGE = 21, /* struct btree_op_child: separator goes; the next one gets `left` */
    BTREE_OP_INNER_MOVE =
        22, /* struct btree_op_child, key: separator becomes another, both words are set */
    BTREE_OP_INNER_WORD =
        23, /* struct btree_op_child: the slot (or `right` when slot == count) gets `left` */
    BTREE_OP_NODE_FLAGS = 24,   /* u8 flags to set */
    BTREE_OP_ROOT_LOADING = 25, /* u64 page or 0 */
    BTREE_OP_LAST = 25
};

enum btree_put_mode {
    BTREE_PUT_INSERT = 1,
    BTREE_PUT_REPLACE = 2
};

struct btree_op_put {
    uint64_t
        /*  0  8  not 0: the version head is {writer, start LSN of this record}; 0: as given in the
         * value bytes */
        writer;
    uint32_t slot;       /*  8  4 */
    uint16_t key_size;   /* 12  2  without prefix; 0 for REPLACE, which keeps the key */
    uint16_t value_size; /* 14  2  bytes of value, without version head */
    uint8_t flags;       /* 16  1  enum btree_row_flags */
    uint8_t mode;        /* 17  1  enum btree_put_mode */
    uint8_t reserved[6]; /* 18  6  zero */
};                       /* then: version head when VERSIONED and writer == 0, key, value */
ASH_ONDISK_SIZE(struct btree_op_put, 24);

struct btree_op_slot {
    uint32_t slot;     /* 0 4 */
    uint32_t reserved; /* 4 4  zero */
};
ASH_ONDISK_SIZE(struct btree_op_slot, 8);

struct btree_op_child {
    uint64_t left;     /*  0  8  child word */
    uint64_t right;    /*  8  8  child word */
    uint32_t slot;     /* 16  4 */
    uint16_t key_size; /* 20  2  without prefix */
    uint16_t reserved; /* 22  2  zero */
};
ASH_ONDISK_SIZE(struct btree_op_child, 24);

enum btree_fence_mode {
    BTREE_FENCE_KEEP = 0,
    BTREE_FENCE_GIVEN = 1,
    BTREE_FENCE_INFINITE = 2
};

/* Rebuilds a node: some of its slots stay, rows are added before or after them, fences change. */
struct btree_op_edit {
    uint64_t right;      /*  0  8  inner: right-most child from now on */
    uint32_t keep_from;  /*  8  4  slots [keep_from, keep_to) stay */
    uint32_t keep_to;    /* 12  4 */
    uint32_t add_count;  /* 16  4  rows that follow */
    uint16_t lower_size; /* 20  2  bytes of the new lower fence, when GIVEN */
    uint16_t upper_size; /* 22  2 */
    uint8_t lower;       /* 24  1  enum btree_fence_mode */
    uint8_t upper;       /* 25  1 */
    uint8_t add_front;   /* 26  1  1: added rows come before the kept ones */
    uint8_t level;       /* 27  1  0 for a leaf */
    uint32_t reserved;   /* 28  4  zero */
    /* then: lower, upper, rows: struct btree_op_row and the entry as in the heap of a page with the new
 * fences */
};
ASH_ONDISK_SIZE(struct btree_op_edit, 32);

struct btree_op_row {
    uint16_t key;        /* 0 2  as in struct btree_slot */
    uint16_t value_size; /* 2 2 */
};
ASH_ONDISK_SIZE(struct btree_op_row, 4);

#endif
