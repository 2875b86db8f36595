/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_checkpoint_format.h - what WAL_REC_CHECKPOINT records hold.  Little-endian.  Described in
 * docs/format.md.
 *
 * A checkpoint is one string of bytes, cut into parts of at most CHECKPOINT_PART_MAX, one record
 * each:
 *     checkpoint_head | dirty_count x checkpoint_dirty | participants x (checkpoint_section, its
 *     bytes, zeros up to 8)
 * Other records may lie between its parts.
 */
#ifndef ASH_WAL_CHECKPOINT_FORMAT_H
#define ASH_WAL_CHECKPOINT_FORMAT_H

#include "base/assert.h"

#include <stdint.h>

#define CHECKPOINT_VERSION   1u
#define CHECKPOINT_PART_MAX  (60u << 10)
#define CHECKPOINT_BYTES_MAX (1ull << 31)

/* After the record's head. */
struct checkpoint_part {
    uint64_t
        /*  0  8  of the checkpoint: its scan position; tells parts of given up checkpoints apart */
        number;
    uint32_t part;  /*  8  4  0 .. parts - 1 */
    uint32_t parts; /* 12  4 */
};
ASH_ONDISK_SIZE(struct checkpoint_part, 16);

struct checkpoint_head {
    uint32_t version;      /*  0  4  CHECKPOINT_VERSION */
    uint32_t participants; /*  4  4 */
    uint64_t
        /*  8  8  the dirty pages were collected after this: analysis adds what changed since */
        begin_lsn;
    uint64_t redo_lsn;    /* 16  8  no page lacks a change from below */
    uint64_t map_lsn;     /* 24  8  the map pages hold every move from below */
    uint64_t dirty_count; /* 32  8 */
};
ASH_ONDISK_SIZE(struct checkpoint_head, 40);

struct checkpoint_dirty {
    uint64_t page;    /*  0  8 */
    uint64_t rec_lsn; /*  8  8  its unwritten changes begin at or above */
};
ASH_ONDISK_SIZE(struct checkpoint_dirty, 16);

struct checkpoint_section {
    uint32_t id;       /* 0 4  of the participant */
    uint32_t reserved; /* 4 4  zero */
    uint64_t bytes;    /* 8 8 */
};
ASH_ONDISK_SIZE(struct checkpoint_section, 16);

#endif
