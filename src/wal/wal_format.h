/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_format.h - the log on disk: segments, blocks, record heads.  Little-endian.  Described in
 * docs/format.md.
 *
 * An LSN is a position in the stream of records (bytes since the beginning of the database's life,
 * first record at WAL_LSN_FIRST).  The stream is cut at multiples of WAL_RECORD_ALIGN into blocks;
 * each block is one aligned write and is never rewritten.  Records are multiples of
 * WAL_RECORD_ALIGN and may span blocks and segments; blocks don't span segments.
 *
 * File "wal-%016x.log" is the segment of that number:
 *
 *     0          4096                                                            size
 *     +----------+------------------+-----------+-- - - --+---------------------------+
 *     | head     | block            | block     |         | zeros, or a former life   |
 *     +----------+------------------+-----------+-- - - --+---------------------------+
 *     The head is written together with the first block.  Blocks follow each other without gaps at
 *     multiples of 4096.
 *
 * How a reader goes on from a block that ends at LSN x:
 *   - the next 4096 boundary holds a valid block of this segment, epoch and database with lsn == x:
 *     read it;
 *   - else segment number + 1 has a valid head with lsn == x (same or higher epoch): go on there;
 *   - else the log ends at x, unless something says that x had become durable: a `durable` > x in
 *     any valid block or segment head further on, or the superblock.  Then it is ASH_CORRUPT:
 *     damage, not a torn tail. A new life begins a new segment at the end of the last whole record,
 *     which may lie below the end of the last valid block: the head of a following segment with a
 *     higher epoch limits what is read of the one before it.
 */
#ifndef ASH_WAL_FORMAT_H
#define ASH_WAL_FORMAT_H

#include "base/assert.h"

#include <stdint.h>

#define WAL_LSN_FIRST     4096u
#define WAL_RECORD_ALIGN  32u
#define WAL_RECORD_MAX    (256u << 10) /* bytes of one record with its head */
#define WAL_BLOCK_MAX     (256u << 10) /* bytes of one block in the file, head and zeros included */
#define WAL_SEGMENT_MAGIC 0x47455357u  /* "WSEG" */
#define WAL_BLOCK_MAGIC   0x4b4c4257u  /* "WBLK" */
#define WAL_FORMAT        1u

/* First 4096 bytes of a segment file (rest zero).  Says which life of the file this is. */
struct wal_segment_head {
    uint32_t magic;  /*  0  4  WAL_SEGMENT_MAGIC */
    uint32_t crc32c; /*  4  4  of bytes [8, 4096) */
    uint32_t format; /*  8  4  WAL_FORMAT; a larger one is refused */
    uint32_t
        epoch; /* 12  4  grows at every open of the database; detects blocks of a former life */
    uint64_t segment; /* 16  8  segment number = name of the file; detects recycled files */
    uint64_t lsn;     /* 24  8  LSN of the first byte of its first block */
    uint8_t uuid[16]; /* 32 16  database; detects foreign files */
    uint64_t size;    /* 48  8  bytes of the file */
    uint64_t durable; /* 56  8  LSN known durable when this was written, as in a block */
};
ASH_ONDISK_SIZE(struct wal_segment_head, 64);
ASH_ONDISK_FIELD(struct wal_segment_head, segment, 16, 8);
ASH_ONDISK_FIELD(struct wal_segment_head, uuid, 32, 16);

/* Head of a block; `payload` bytes of the stream follow, then zeros up to the next 4096 boundary.
 * */
struct wal_block_head {
    uint32_t magic;  /*  0  4  WAL_BLOCK_MAGIC; 0: never written since the segment was zeroed */
    uint32_t crc32c; /*  4  4  of bytes [8, 48 + payload); detects torn writes and rot */
    uint64_t lsn;    /*  8  8  of the first payload byte; detects stale and misplaced blocks */
    uint64_t
        /* 16  8  LSN known durable when this was written: a bad block below it is corruption, not a
         * torn tail */
        durable;
    uint64_t segment;  /* 24  8  detects blocks of the file's former life */
    uint32_t epoch;    /* 32  4  likewise */
    uint32_t payload;  /* 36  4  bytes, > 0 */
    uint64_t uuid_low; /* 40  8  first 8 bytes of the database's uuid */
};
ASH_ONDISK_SIZE(struct wal_block_head, 48);
ASH_ONDISK_FIELD(struct wal_block_head, durable, 16, 8);
ASH_ONDISK_FIELD(struct wal_block_head, epoch, 32, 4);

/* Numbers are never reused. */
enum wal_record_type {
    WAL_REC_MTR = 1,         /* redo-only: page changes */
    WAL_REC_ROW = 2,         /* a transaction's row change: undo part, then page changes */
    WAL_REC_CLR = 3,         /* compensation: page changes; undo_next in `link` */
    WAL_REC_COMMIT = 4,      /* its start LSN is the commit timestamp */
    WAL_REC_ROLLED_BACK = 5, /* end of a rollback */
    WAL_REC_MAP = 6,         /* new places of pages (storage/pstore_format.h) */
    WAL_REC_CHECKPOINT = 7,  /* one part of a checkpoint; see wal_checkpoint.h */
    WAL_REC_NOTE = 8,        /* nothing to redo */
    WAL_REC_TYPE_MAX = 8
};

/* Head of every record, at a multiple of WAL_RECORD_ALIGN. */
struct wal_record_head {
    uint32_t size;    /*  0  4  bytes with this head, before padding to WAL_RECORD_ALIGN; >= 32 */
    uint8_t type;     /*  4  1  enum wal_record_type */
    uint8_t flags;    /*  5  1  zero */
    uint16_t changes; /*  6  2  number of page changes */
    uint64_t txn;     /*  8  8  transaction, or 0 */
    uint64_t prev;    /* 16  8  start LSN of the transaction's record before, or 0 */
    uint64_t
        /* 24  8  CLR: start LSN of the next record to undo, or 0; ROW: bytes of the undo part */
        link;
};
ASH_ONDISK_SIZE(struct wal_record_head, 32);

/* One page change; `size` bytes of payload follow, padded to 8.  After the undo part (padded to 8)
 * of a ROW record. */
struct wal_change_head {
    uint64_t page;      /*  0  8  page id */
    uint32_t tree;      /*  8  4  tree that the page belongs to */
    uint32_t size;      /* 12  4  payload bytes */
    uint16_t op;        /* 16  2  enum wal_op */
    uint8_t page_class; /* 18  1  size class of the page */
    uint8_t flags;      /* 19  1  zero */
    uint32_t reserved;  /* 20  4  zero */
};
ASH_ONDISK_SIZE(struct wal_change_head, 24);

/* What a change does; the owner of a range registers its redo function.  Never renumbered. */
enum wal_op {
    WAL_OP_PAGE_FREE = 1, /* the page id is free from here on (no payload) */
    WAL_OP_PAGE_INIT =
        2, /* the page exists from here on, zeroed, with its header (payload: type u8) */
    WAL_OP_PAGE_BYTES = 3,   /* payload: u32 offset, u32 zero, bytes: put them there */
    WAL_OP_BTREE_FIRST = 16, /* 16..63 src/btree */
    WAL_OP_MAX = 64
};

#endif
