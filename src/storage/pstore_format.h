/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_format.h - superblock, map pages, map root pages, and the body of MAP log records.
 * Little-endian. Described in docs/format.md.
 */
#ifndef ASH_STORAGE_PSTORE_FORMAT_H
#define ASH_STORAGE_PSTORE_FORMAT_H

#include "storage/page_format.h"

/* The superblock lies in SUPER_SLOTS slots of 4 KiB, spread over the first SUPER_AREA bytes of
 * data-0000.ash.  Version `seq` is written to the slots 2*(seq%2) and 2*(seq%2)+1: its predecessor
 * is untouched while it is written, and after that one rotten slot does not matter, because its
 * twin says the same. */
#define SUPER_SLOTS      4u
#define SUPER_SIZE       4096u
#define SUPER_STRIDE     16384u
#define SUPER_AREA       (SUPER_SLOTS * SUPER_STRIDE)
#define SUPER_MAGIC      0x3152414c48534123ull /* "#ASHLAR1" */
#define SUPER_FORMAT     1u
#define SUPER_FLAG_CLEAN 1u
#define SUPER_ZONE_MAX   (1u << 30)

struct super_block {
    uint64_t magic;      /*   0  8  SUPER_MAGIC; anything else: not a database */
    uint32_t crc32c;     /*   8  4  of bytes [12, 4096); rot, torn writes */
    uint32_t format;     /*  12  4  SUPER_FORMAT; a larger one is refused */
    uint64_t seq;        /*  16  8  > 0, grows by one; the newest valid slot counts */
    uint8_t uuid[16];    /*  24 16  of the database */
    uint32_t zone_bytes; /*  40  4  multiple of 64 KiB */
    uint32_t slot;       /*  44  4  own slot; misdirected writes */
    uint64_t map_root;   /*  48  8  map entry of the first map root page; 0: no map yet */
    uint64_t map_pages;  /*  56  8  number of map pages that the roots name */
    /*  64  8  page ids in use when the map was written are below this */
    uint64_t page_high;
    /*  72  8  page_head.write_seq of pages written before are below this */
    uint64_t write_seq;
    uint64_t checkpoint_lsn;     /*  80  8  as in struct pstore_checkpoint_info, to the end */
    uint64_t checkpoint_segment; /*  88  8 */
    uint64_t scan_lsn;           /*  96  8 */
    uint64_t scan_segment;       /* 104  8 */
    uint64_t map_lsn;            /* 112  8 */
    uint32_t epoch;              /* 120  4 */
    uint32_t flags;              /* 124  4  SUPER_FLAG_CLEAN */
};                               /* zeros up to SUPER_SIZE */
ASH_ONDISK_SIZE(struct super_block, 128);
ASH_ONDISK_FIELD(struct super_block, crc32c, 8, 4);
ASH_ONDISK_FIELD(struct super_block, seq, 16, 8);
ASH_ONDISK_FIELD(struct super_block, uuid, 24, 16);
ASH_ONDISK_FIELD(struct super_block, map_root, 48, 8);
ASH_ONDISK_FIELD(struct super_block, checkpoint_lsn, 80, 8);
ASH_ONDISK_FIELD(struct super_block, flags, 124, 4);

/* Map pages and map roots are pages of class 0; their ids cannot be those of anything else. */
#define MAP_PAGE_ENTRIES   506u
#define MAP_ROOT_ENTRIES   504u
#define MAP_PAGE_ID(index) (1ull << 63 | (index))
#define MAP_ROOT_ID(index) (1ull << 62 | (index))

/* The map entries of the page ids [index * MAP_PAGE_ENTRIES, + MAP_PAGE_ENTRIES). */
struct map_page {
    struct page_head head;            /*  0   40  type PAGE_TYPE_MAP, page MAP_PAGE_ID(index) */
    uint64_t index;                   /* 40    8  which part of the map */
    uint64_t entry[MAP_PAGE_ENTRIES]; /* 48 4048  struct map_entry; 0: the id has no place */
};
ASH_ONDISK_SIZE(struct map_page, 4096);

/* The places of map pages [index * MAP_ROOT_ENTRIES, + count). */
struct map_root {
    /*  0   40  type PAGE_TYPE_MAP_ROOT, page MAP_ROOT_ID(index) */
    struct page_head head;
    uint64_t index;    /* 40    8  position in the chain */
    uint64_t next;     /* 48    8  map entry of the next root page; 0: the last */
    uint32_t count;    /* 56    4  entries used; all of them except in the last */
    uint32_t reserved; /* 60    4  zero */
    /* 64 4032  map entry of a map page; 0: all its entries are 0 */
    uint64_t entry[MAP_ROOT_ENTRIES];
};
ASH_ONDISK_SIZE(struct map_root, 4096);

/* Body of a WAL_REC_MAP record, after the record's head: `count` moves follow. */
struct map_record {
    uint32_t count;    /* 0 4 */
    uint32_t reserved; /* 4 4  zero */
};
ASH_ONDISK_SIZE(struct map_record, 8);

struct map_move {
    uint64_t page;  /*  0  8 */
    uint64_t entry; /*  8  8  its new place, struct map_entry */
    uint64_t lsn;   /* 16  8  page_head.lsn of the image there: older records need no redo */
};
ASH_ONDISK_SIZE(struct map_move, 24);

#endif
