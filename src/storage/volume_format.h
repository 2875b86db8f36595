/* SPDX-License-Identifier: Apache-2.0
 *
 * volume_format.h - the table of files at the head of a raw device.  Little-endian.  Described in
 * docs/format.md.
 */
#ifndef ASH_STORAGE_VOLUME_FORMAT_H
#define ASH_STORAGE_VOLUME_FORMAT_H

#include "base/assert.h"

#include <stdint.h>

/* Unit 0 of the device holds two tables, at 0 and at VOLUME_TABLE_STRIDE.  Version `seq` is written
 * to slot seq % 2, so its predecessor survives until it is complete.  All other units belong to
 * files or to nobody. */
#define VOLUME_MAGIC        0x314c4f5648534123ull /* "#ASHVOL1" */
#define VOLUME_FORMAT       1u
#define VOLUME_UNIT         (1u << 20)
#define VOLUME_TABLES       2u
#define VOLUME_TABLE_STRIDE (512u << 10)
#define VOLUME_TABLE_MAX    (256u << 10)
#define VOLUME_BLOCK        4096u
#define VOLUME_FILES_MAX    512u
#define VOLUME_NAME_MAX     63u
#define VOLUME_UNITS_MIN    8u

struct volume_head {
    uint64_t magic;   /*  0  8  VOLUME_MAGIC; anything else: not ours */
    uint32_t crc32c;  /*  8  4  of bytes [12, bytes); rot, torn writes */
    uint32_t format;  /* 12  4  VOLUME_FORMAT; a larger one is refused */
    uint64_t seq;     /* 16  8  > 0, grows by one; the newest valid table counts */
    uint8_t uuid[16]; /* 24 16  of the volume; drawn when it is made */
    uint64_t units;   /* 40  8  of the device, with unit 0; a device that shrank is refused */
    uint32_t files;   /* 48  4  volume_entry structs after this head */
    uint32_t extents; /* 52  4  volume_extent structs after those, in the order of the files */
    uint32_t bytes;   /* 56  4  of the table, a multiple of VOLUME_BLOCK */
    uint32_t slot;    /* 60  4  own slot; misdirected writes */
};
ASH_ONDISK_SIZE(struct volume_head, 64);
ASH_ONDISK_FIELD(struct volume_head, crc32c, 8, 4);
ASH_ONDISK_FIELD(struct volume_head, format, 12, 4);
ASH_ONDISK_FIELD(struct volume_head, seq, 16, 8);
ASH_ONDISK_FIELD(struct volume_head, uuid, 24, 16);
ASH_ONDISK_FIELD(struct volume_head, units, 40, 8);
ASH_ONDISK_FIELD(struct volume_head, files, 48, 4);
ASH_ONDISK_FIELD(struct volume_head, extents, 52, 4);
ASH_ONDISK_FIELD(struct volume_head, bytes, 56, 4);
ASH_ONDISK_FIELD(struct volume_head, slot, 60, 4);

struct volume_entry {
    char name[64];     /*  0 64  ends with a zero byte; unique in the table */
    uint64_t size;     /* 64  8  bytes, <= extents' units * VOLUME_UNIT */
    uint32_t extents;  /* 72  4  its share of the extents */
    uint32_t reserved; /* 76  4  zero */
};
ASH_ONDISK_SIZE(struct volume_entry, 80);
ASH_ONDISK_FIELD(struct volume_entry, name, 0, 64);
ASH_ONDISK_FIELD(struct volume_entry, size, 64, 8);
ASH_ONDISK_FIELD(struct volume_entry, extents, 72, 4);
ASH_ONDISK_FIELD(struct volume_entry, reserved, 76, 4);

struct volume_extent {
    uint32_t unit;  /* 0  4  the first; > 0 */
    uint32_t units; /* 4  4  > 0; no two extents share one */
};
ASH_ONDISK_SIZE(struct volume_extent, 8);
ASH_ONDISK_FIELD(struct volume_extent, unit, 0, 4);
ASH_ONDISK_FIELD(struct volume_extent, units, 4, 4);

#endif
