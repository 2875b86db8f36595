/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_reader.c - reads a log from disk, record by record, to its end: for recovery, verification,
 * inspection.
 *
 * Entry points: wal_reader_open(), wal_reader_next(), wal_reader_end().     Read first:
 * wal_format.h, wal_reader_file.c.
 *
 * The end of the log is where no next block is found; the last record may be incomplete there (its
 * blocks were being written when the power failed), then the log ends before it.  Nobody was told
 * that an incomplete record is durable.  An end below what is known to have been durable is
 * ASH_CORRUPT.
 */
#include "base/error.h"
#include "wal/wal_reader_int.h"

#include <inttypes.h>

static ash_rc
corrupt(struct wal_reader *r, uint64_t durable)
{
    return ash_raise_obj(ASH_CORRUPT, r->where,
                         "Log segment %s, offset %" PRIu64
                         ": the log stops being readable at log position %" PRIu64
                         " although it had been durable up to %" PRIu64
                         "; restore from a backup, or salvage what lies before.",
                         r->where, r->position, r->lsn, durable);
}

/* Enters the chain's rest, begun after what was torn, as segments of which nothing counts: kept
 * until they are truncated. */
static ash_rc
keep_rest(struct wal_reader *r)
{
    for (unsigned i = r->at + 1; i < r->chain_end; i++) {
        struct wal_segment *s;
        ash_rc rc = wal__segment_new(r->found[i].number, r->found[i].bytes, 0, &s);
        if (rc != ASH_OK)
            return rc;
        s->lsn = r->lsn;
        s->epoch = r->found[i].head.epoch;
        list_push_back(&r->live->list, &s->link);
    }
    return ASH_OK;
}

/* The stream has no next block: decides between the end and damage. */
static ash_rc
end_of_log(struct wal_reader *r)
{
    uint64_t durable;
    ash_rc rc = wal__reader_evidence(r, &durable);
    if (rc != ASH_OK)
        return rc;
    if (durable > r->stream && !PLANTED(40))
        return corrupt(r, durable);
    if (r->require > min_u64(r->lsn, r->stream))
        return corrupt(r, r->require);
    if (r->segment != NULL && (rc = keep_rest(r)) != ASH_OK)
        return rc;
    return ASH_NOT_FOUND; /* the end: not an error, so nothing is raised */
}

/* Reads the block at r->position.  ASH_NOT_FOUND: there is none that belongs here. */
static ash_rc
read_block(struct wal_reader *r)
{
    const struct wal_found *f = &r->found[r->at];
    const uint8_t *p;
    uint32_t available;
    struct wal_block_head h;
    ash_rc rc = wal__reader_need(r, r->position, 4096, &p, &available);
    if (rc != ASH_OK)
        return rc;
    if (available < 4096)
        return ASH_NOT_FOUND;
    memcpy(&h, p, sizeof(h));
    if (h.magic != WAL_BLOCK_MAGIC || h.payload == 0 || h.payload > WAL_BLOCK_MAX - WAL_BLOCK_HEAD)
        return ASH_NOT_FOUND;
    uint32_t bytes = (uint32_t)round_up(WAL_BLOCK_HEAD + h.payload, 4096);
    rc = wal__reader_need(r, r->position, bytes, &p, &available);
    if (rc != ASH_OK)
        return rc;
    if (!wal__block_valid(p, available, r->uuid, &h) || h.lsn != r->stream)
        return ASH_NOT_FOUND;
    if (h.segment != f->number || (h.epoch != f->head.epoch && !PLANTED(41)))
        return ASH_NOT_FOUND;
    rc = wal__segment_index(r->segment, h.lsn, r->position, h.payload);
    if (rc != ASH_OK)
        return rc;
    r->data = p + WAL_BLOCK_HEAD;
    r->data_offset = r->position;
    r->data_size = (uint32_t)min_u64(h.payload, f->limit - r->stream);
    r->position += bytes;
    r->stream += r->data_size;
    return ASH_OK;
}

/* Makes the next piece of the stream current, from this segment or a later one. */
static ash_rc
next_block(struct wal_reader *r)
{
    if (r->segment == NULL)
        return end_of_log(r); /* there is no segment at all */
    for (;;) {
        const struct wal_found *f = &r->found[r->at];
        ash_rc rc = r->stream >= f->limit ? ASH_NOT_FOUND : read_block(r);
        if (rc != ASH_NOT_FOUND)
            return rc;
        /* Later segments whose limit says that nothing of them counts are passed through. */
        if (f->limit == UINT64_MAX || r->stream < f->limit)
            return end_of_log(r);
        uint64_t stream = f->limit;
        uint32_t epoch = f->head.epoch;
        rc = wal__reader_enter(r, r->at + 1);
        if (rc != ASH_OK)
            return rc;
        f = &r->found[r->at];
        if (f->limit <= f->head.lsn && f->head.lsn != stream) {
            r->stream = stream;
            continue;
        }
        if (f->head.lsn != stream || (f->head.epoch != epoch && r->lsn < stream))
            return ash_raise_obj(ASH_CORRUPT, r->where,
                                 "Log segment %s begins at log position %" PRIu64
                                 ", the one before ends at %" PRIu64 ".",
                                 r->where, f->head.lsn, r->lsn);
        r->stream = stream;
    }
}

/* Puts a record together that does not lie in one block.  `size`: padded. */
static ash_rc
gather(struct wal_reader *r, uint64_t size)
{
    if (r->record == NULL && (r->record = mem_aligned(MEM_WAL, 64, WAL_RECORD_MAX)) == NULL)
        return ASH_NO_MEMORY;
    uint64_t have = 0;
    while (have < size) {
        if (r->data_size == 0) {
            ash_rc rc = next_block(r);
            if (rc != ASH_OK)
                return rc;
        }
        uint32_t n = (uint32_t)min_u64(size - have, r->data_size);
        memcpy(r->record + have, r->data, n);
        have += n;
        r->data += n;
        r->data_size -= n;
    }
    return ASH_OK;
}

static ash_rc
read_record(struct wal_reader *r, struct wal_record *out)
{
    while (r->data_size == 0) {
        ash_rc rc = next_block(r);
        if (rc != ASH_OK)
            return rc;
    }
    struct wal_record_head h;
    memcpy(&h, r->data, sizeof(h)); /* blocks are cut at multiples of its size */
    if (h.size < sizeof(h) || h.size > WAL_RECORD_MAX)
        return ash_raise_obj(ASH_CORRUPT, r->where,
                             "Log segment %s, block at offset %" PRIu64 ": log position %" PRIu64
                             " holds a record of %u bytes.",
                             r->where, r->data_offset, r->lsn, h.size);
    uint64_t padded = wal__padded(h.size);
    const uint8_t *image = r->data;
    if (padded <= r->data_size) {
        r->data += padded;
        r->data_size -= (uint32_t)padded;
    } else {
        ash_rc rc = gather(r, padded);
        if (rc != ASH_OK)
            return rc;
        image = r->record;
    }
    ash_rc rc = wal_record_open(image, h.size, r->lsn, out);
    if (rc == ASH_OK)
        r->lsn = out->end;
    return rc;
}

ash_rc
wal_reader_next(struct wal_reader *r, struct wal_record *out)
{
    if (r->ended != ASH_OK)
        return r->ended;
    ash_rc rc = read_record(r, out);
    if (rc != ASH_OK)
        r->ended = rc;
    return rc;
}

/* From the beginning of the block in which it lies to the record at `lsn`. */
static ash_rc
seek(struct wal_reader *r, uint64_t lsn)
{
    r->lsn = lsn;
    while (r->stream < lsn) {
        ash_rc rc = next_block(r);
        if (rc != ASH_OK)
            return rc;
    }
    uint64_t data_lsn = r->stream - r->data_size;
    ash_assert(data_lsn <= lsn);
    if (lsn > data_lsn) { /* else there may be no data yet */
        r->data += lsn - data_lsn;
        r->data_size -= (uint32_t)(lsn - data_lsn);
    }
    return ASH_OK;
}

ash_rc
wal_reader_open(struct io *io, struct io_dir *dir, const uint8_t uuid[16],
                const struct wal_position *from, struct wal_reader **out)
{
    struct wal_reader *r = mem_zalloc(MEM_WAL, sizeof(*r));
    if (r == NULL)
        return ASH_NO_MEMORY;
    r->io = io;
    r->dir = dir;
    memcpy(r->uuid, uuid, sizeof(r->uuid));
    r->lsn = r->require = from->lsn;
    r->stream = from->lsn;
    ash_rc rc = ASH_NO_MEMORY;
    r->live = mem_zalloc(MEM_WAL, sizeof(*r->live));
    if (r->live != NULL) {
        list_init(&r->live->list);
        rc = wal__reader_find(r, from);
        if (rc == ASH_OK)
            rc = seek(r, from->lsn);
    }
    if (rc ==
        /* no segments: the first wal_reader_next() says so, after wal_reader_require() */
        ASH_NOT_FOUND)
        rc = ASH_OK;
    if (rc != ASH_OK) {
        struct err_detail why;
        err_save(&why);
        wal_reader_close(r);
        err_restore(&why);
        return rc;
    }
    *out = r;
    return ASH_OK;
}

void
wal_reader_require(struct wal_reader *r, uint64_t lsn)
{
    r->require = max_u64(r->require, lsn);
}

void
wal_reader_end(struct wal_reader *r, struct wal_position *next_out, uint32_t *epoch_out,
               struct wal_segments **live_out)
{
    ash_assert(r->ended == ASH_NOT_FOUND);
    wal__reader_file_close(r); /* no read is in flight in a file that is the caller's now */
    next_out->lsn = r->lsn;
    next_out->segment = r->chain_end > r->chain_first ? r->found[r->chain_end - 1].number + 1 : 1;
    *epoch_out = r->epoch;
    *live_out = r->live;
    r->live = NULL;
    r->segment = NULL;
}

void
wal_reader_where(const struct wal_reader *r, const char **file_out, uint64_t *offset_out)
{
    *file_out = r->where;
    *offset_out = r->data_offset;
}

void
wal_reader_close(struct wal_reader *r)
{
    if (r == NULL)
        return;
    wal__reader_file_close(r);
    wal_segments_free(r->live);
    mem_free(MEM_WAL, r->chunk[0].base);
    mem_free(MEM_WAL, r->chunk[1].base);
    mem_free(MEM_WAL, r->found);
    mem_free(MEM_WAL, r->record);
    mem_free(MEM_WAL, r);
}
