/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_reader_int.h - state of a log reader, shared by wal_reader.c (records) and wal_reader_file.c
 * (segments and their bytes).
 */
#ifndef ASH_WAL_READER_INT_H
#define ASH_WAL_READER_INT_H

#include "wal/wal_int.h"

#define WAL_CHUNK (1u << 20) /* bytes of one read; the next one is in flight meanwhile */

/* A segment file as found at open. */
struct wal_found {
    uint64_t number, bytes;
    bool valid;                   /* its head is sound and of this database */
    struct wal_segment_head head; /* when valid */
    /* chain only: the stream goes on in a later segment at this LSN; UINT64_MAX: nowhere else */
    uint64_t limit;
};

/* Half of the double buffer: room for the unread rest of the chunk before, then a chunk. */
struct wal_chunk {
    uint8_t *base;
    struct io_req req;
    bool pending;
    uint64_t offset; /* in the file, of the chunk */
    uint32_t bytes;
};

struct wal_reader {
    struct io *io;
    struct io_dir *dir;
    uint8_t uuid[16];
    struct wal_found *found; /* all segments by number */
    unsigned found_count, found_capacity;
    /* found[first, end): the segments that belong to the log, oldest first */
    unsigned chain_first, chain_end;
    struct wal_segments *live; /* one per segment of the chain that was opened so far */

    /* The file being read. */
    unsigned at;                 /* index in found */
    struct wal_segment *segment; /* last of live */
    uint32_t carry, chunk_bytes; /* sizes of the halves of a chunk buffer */
    struct wal_chunk chunk[2];
    unsigned half;               /* the one that the window is in */
    uint64_t window, window_end; /* file range in memory ... */
    uint8_t *window_data;        /* ... here */
    uint64_t position;           /* of the next block */
    uint64_t stream;             /* LSN after the last good block */

    /* The block being read. */
    const uint8_t *data;  /* its unread payload */
    uint64_t data_offset; /* of the block in the file */
    uint32_t data_size;

    uint64_t lsn;     /* start of the next record */
    uint64_t require; /* everything below was durable */
    uint32_t epoch;   /* highest seen */
    uint8_t *record;  /* a record that spans blocks, put together */
    ash_rc ended;     /* ASH_OK while reading; then what every further call returns */
    char where[WAL_NAME_MAX];
};

/* fills found, chain, opens the first segment */
ash_rc wal__reader_find(struct wal_reader *r, const struct wal_position *from);
ash_rc wal__reader_enter(struct wal_reader *r, unsigned at); /* goes on in found[at] */
/* Bytes [offset, offset + bytes) of the current file; *available_out may be less at its end. */
ash_rc wal__reader_need(struct wal_reader *r, uint64_t offset, uint32_t bytes, const uint8_t **out,
                        uint32_t *available_out);
void wal__reader_file_close(struct wal_reader *r);
/* Looks for a sign that the stream beyond r->stream had become durable: *lsn_out = the highest
 * found, or 0. */
ash_rc wal__reader_evidence(struct wal_reader *r, uint64_t *lsn_out);

#endif
