/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_reader_file.c - which segment files make up the log, and their bytes in big sequential reads.
 *
 * Read first: wal_format.h ("How a reader goes on").
 *
 * The chain: from the segment that holds the wanted LSN, numbers without a gap, sound heads, epochs
 * that never fall.  A segment with a higher epoch than the one before was begun by a recovery at
 * the LSN where that recovery saw the log end.  So it limits all before it:
 *
 *     number   7 (epoch 1)       8 (epoch 1)         9 (epoch 2)
 *     LSN      |-----------x- - -|- - - - - |        x----------->        the record that began at x was never complete; recovery
 *     limit                x      x (nothing of it)                       went on at x in number 9
 *
 * Evidence that a bad block is damage and not a torn tail is looked for in a bounded stretch: at
 * most WAL_WRITERS_MAX - 1 blocks lie between a block and the first later one whose `durable` field
 * covers it (wal_flush.c I2).  Only claims of the same or a later epoch count: an earlier life may
 * have known durable the beginning of a record that recovery cut off.
 */
#include "base/error.h"
#include "wal/wal_reader_int.h"

#include <inttypes.h>
#include <stdlib.h>

#define EVIDENCE_BYTES (2 * (uint64_t)WAL_WRITERS_MAX * WAL_BLOCK_MAX)

/* ---- The chain ---- */

static bool
note_file(void *arg, const char *name)
{
    struct wal_reader *r = arg;
    uint64_t number;
    if (!wal__segment_parse(name, &number))
        return true;
    if (r->found_count == r->found_capacity) {
        unsigned capacity = r->found_capacity == 0 ? 16 : r->found_capacity * 2;
        struct wal_found *f = mem_realloc(MEM_WAL, r->found, capacity * sizeof(*f));
        if (f == NULL) {
            r->ended = ASH_NO_MEMORY;
            return false;
        }
        r->found = f;
        r->found_capacity = capacity;
    }
    r->found[r->found_count++] = (struct wal_found){ .number = number, .limit = UINT64_MAX };
    return true;
}

static ash_rc
read_head(struct wal_reader *r, struct wal_found *f, uint8_t *page)
{
    char name[WAL_NAME_MAX];
    struct io_file *file;
    wal__segment_name(name, f->number);
    ash_rc rc = io_file_open(r->dir, name, IO_READ_ONLY, &file);
    if (rc != ASH_OK)
        return rc;
    rc = io_file_size(file, &f->bytes);
    f->bytes = round_down(f->bytes, 4096);
    if (rc == ASH_OK && f->bytes >= 4096)
        rc = io_read(file, page, 4096, 0, IO_CLASS_READ);
    io_file_close(file);
    if (rc != ASH_OK || f->bytes < 4096)
        return rc;
    f->valid = wal__head_valid(page, r->uuid, &f->head) && f->head.segment == f->number;
    if (f->valid && f->head.format > WAL_FORMAT)
        return ash_raise_obj(
            ASH_VERSION_MISMATCH, name,
            "Log segment %s has format %u, but this library knows %u; use a newer Ashlar.", name,
            f->head.format, WAL_FORMAT);
    if (f->valid && f->head.epoch > r->epoch)
        r->epoch = f->head.epoch;
    return ASH_OK;
}

static ash_rc
read_heads(struct wal_reader *r)
{
    uint8_t *page = mem_aligned(MEM_WAL, 4096, 4096);
    if (page == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc = ASH_OK;
    for (unsigned i = 0; i < r->found_count && rc == ASH_OK; i++)
        rc = read_head(r, &r->found[i], page);
    mem_free(MEM_WAL, page);
    return rc;
}

/* Extends the chain from found[chain_first] as far as it goes, and sets the limits. */
static void
make_chain(struct wal_reader *r)
{
    unsigned i = r->chain_first;
    r->found[i].limit = UINT64_MAX;
    for (i++; i < r->found_count; i++) {
        const struct wal_found *before = &r->found[i - 1];
        struct wal_found *f = &r->found[i];
        if (!f->valid || f->number != before->number + 1 || f->head.epoch < before->head.epoch)
            break;
        f->limit = UINT64_MAX;
        for (unsigned j = i; j-- > r->chain_first;) {
            if (r->found[j].limit > f->head.lsn)
                r->found[j].limit = f->head.lsn;
            if (f->head.epoch == before->head.epoch)
                break; /* the same life: only the segment before ends where this one begins */
        }
    }
    r->chain_end = i;
}

/* The segment of the highest number that begins at or below `from`, or the hint; found_count when
 * there is none.  (By number, not by LSN: one that a recovery cut off may begin above the one that
 * took its place.) */
static unsigned
find_start(const struct wal_reader *r, const struct wal_position *from)
{
    for (unsigned i = 0; i < r->found_count; i++)
        if (r->found[i].number == from->segment && r->found[i].valid &&
            r->found[i].head.lsn <= from->lsn)
            return i;
    for (unsigned i = r->found_count; i-- > 0;)
        if (r->found[i].valid && r->found[i].head.lsn <= from->lsn)
            return i;
    return r->found_count;
}

static int
by_number(const void *a, const void *b)
{
    const struct wal_found *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

static ash_rc
raise_no_start(const struct wal_reader *r, const struct wal_position *from)
{
    char name[WAL_NAME_MAX];
    bool there = false;

    for (unsigned i = 0; i < r->found_count; i++)
        there |= r->found[i].number == from->segment;
    wal__segment_name(name, from->segment);
    return ash_raise_obj(ASH_CORRUPT, name,
                         "%s/%s, in which recovery must start at log position %" PRIu64
                         ", %s; restore it from a backup.",
                         io_dir_path(r->dir), name, from->lsn,
                         there ? "is damaged in its head" : "is missing");
}

ash_rc
wal__reader_find(struct wal_reader *r, const struct wal_position *from)
{
    ash_rc rc = io_dir_list(r->dir, note_file, r);
    if (rc == ASH_OK)
        rc = r->ended;
    if (rc != ASH_OK)
        return rc;
    if (r->found_count > 0)
        qsort(r->found, r->found_count, sizeof(*r->found), by_number);
    rc = read_heads(r);
    if (rc != ASH_OK)
        return rc;
    r->chain_first = find_start(r, from);
    r->chain_end = r->chain_first;
    if (r->chain_first == r->found_count) {
        if (from->lsn == WAL_LSN_FIRST)
            return ASH_NOT_FOUND; /* nothing was ever written */
        return raise_no_start(r, from);
    }
    make_chain(r);
    return wal__reader_enter(r, r->chain_first);
}

/* ---- Bytes ---- */

static void
start_read(struct wal_reader *r, unsigned half, uint64_t offset)
{
    struct wal_chunk *c = &r->chunk[half];
    uint64_t size = r->found[r->at].bytes;
    c->offset = offset;
    c->bytes = (uint32_t)min_u64(r->chunk_bytes, size - min_u64(size, offset));
    c->pending = c->bytes > 0;
    if (!c->pending)
        return;
    c->req = (struct io_req){ .file = r->segment->file,
                              .op = IO_OP_READ,
                              .class = IO_CLASS_READ,
                              .offset = offset,
                              .buf = c->base + r->carry,
                              .bytes = c->bytes };
    struct io_req *reqs[1] = { &c->req };
    io_submit(reqs, 1);
    io_kick(r->io);
}

static ash_rc
finish_read(struct wal_chunk *c)
{
    if (!c->pending)
        return ASH_OK;
    c->pending = false;
    return io_wait(&c->req);
}

/* Ends what is in flight and forgets the current file's bytes (the file stays open, in live). */
void
wal__reader_file_close(struct wal_reader *r)
{
    for (unsigned i = 0; i < 2; i++)
        ash_ignore(finish_read(&r->chunk[i])); /* bytes nobody is going to look at */
}

static ash_rc
get_buffers(struct wal_reader *r, uint64_t file_bytes)
{
    bool whole = file_bytes <= WAL_CHUNK;
    uint32_t chunk = whole ? (uint32_t)file_bytes : WAL_CHUNK;
    uint32_t carry = whole ? 0 : WAL_BLOCK_MAX;
    if (r->chunk[0].base != NULL && r->chunk_bytes >= chunk && r->carry >= carry)
        return ASH_OK;
    for (unsigned i = 0; i < 2; i++) {
        mem_free(MEM_WAL, r->chunk[i].base);
        r->chunk[i].base = NULL;
        if (i == 1 && whole)
            continue;
        r->chunk[i].base = mem_aligned(MEM_WAL, 4096, (size_t)carry + chunk);
        if (r->chunk[i].base == NULL)
            return ASH_NO_MEMORY;
    }
    r->carry = carry;
    r->chunk_bytes = chunk;
    return ASH_OK;
}

ash_rc
wal__reader_enter(struct wal_reader *r, unsigned at)
{
    wal__reader_file_close(r);
    const struct wal_found *f = &r->found[at];
    struct wal_segment *s;
    r->at = at;
    ash_rc rc = wal__segment_new(f->number, f->bytes, 0, &s);
    if (rc != ASH_OK)
        return rc;
    s->lsn = f->head.lsn;
    s->epoch = f->head.epoch;
    wal__segment_name(r->where, f->number);
    list_push_back(&r->live->list, &s->link);
    r->segment = s;
    r->position = 4096;
    r->stream = f->head.lsn;
    r->data_size = 0;
    if (f->limit <= f->head.lsn) {
        s->lsn = f->limit; /* nothing of it belongs to the stream */
        r->window = r->window_end = 0;
        return ASH_OK;
    }
    rc = io_file_open(r->dir, r->where, IO_READ_ONLY, &s->file);
    if (rc == ASH_OK)
        rc = get_buffers(r, f->bytes);
    if (rc != ASH_OK)
        return rc;
    r->half = 0;
    start_read(r, 0, 0);
    rc = finish_read(&r->chunk[0]);
    r->window = 0;
    r->window_end = r->chunk[0].bytes;
    r->window_data = r->chunk[0].base + r->carry;
    if (rc == ASH_OK && r->window_end < f->bytes)
        start_read(r, 1, r->window_end);
    return rc;
}

/* Moves the window so that it begins at `offset` and ends with the next chunk. */
static ash_rc
slide(struct wal_reader *r, uint64_t offset)
{
    struct wal_chunk *next = &r->chunk[1 - r->half];
    ash_rc rc = finish_read(next);
    if (rc != ASH_OK)
        return rc;
    uint32_t rest = (uint32_t)(r->window_end - offset);
    ash_assert(rest <= r->carry);
    uint8_t *to = next->base + r->carry - rest;
    memcpy(to, r->window_data + (offset - r->window), rest);
    r->window = offset;
    r->window_end = next->offset + next->bytes;
    r->window_data = to;
    r->half = 1 - r->half;
    if (r->window_end < r->found[r->at].bytes)
        start_read(r, 1 - r->half, r->window_end);
    return ASH_OK;
}

ash_rc
wal__reader_need(struct wal_reader *r, uint64_t offset, uint32_t bytes, const uint8_t **out,
                 uint32_t *available_out)
{
    ash_assert(offset >= r->window);
    ash_assert(bytes <= WAL_BLOCK_MAX);
    uint64_t size = r->found[r->at].bytes;
    if (offset + bytes > r->window_end && r->window_end < size && offset <= r->window_end) {
        ash_rc rc = slide(r, offset);
        if (rc != ASH_OK)
            return rc;
    }
    *out = r->window_data + (offset - r->window);
    *available_out = (uint32_t)min_u64(bytes, r->window_end - min_u64(r->window_end, offset));
    return ASH_OK;
}

/* ---- Evidence ---- */

/* Scans [offset, ...) of one file for valid blocks of at least this epoch, and notes their epochs. */
static ash_rc
scan_file(struct wal_reader *r, const struct wal_found *f, uint64_t offset, uint32_t epoch,
          uint64_t *budget, uint8_t *buffer, uint64_t *lsn_out)
{
    char name[WAL_NAME_MAX];
    struct io_file *file;
    wal__segment_name(name, f->number);
    ash_rc rc = io_file_open(r->dir, name, IO_READ_ONLY, &file);
    if (rc != ASH_OK)
        return rc;
    while (rc == ASH_OK && offset<f->bytes && * budget> 0) {
        /* Two block lengths at a time: every block that begins in the first half is whole in
         * memory. */
        uint32_t bytes = (uint32_t)min_u64(2 * WAL_BLOCK_MAX, f->bytes - offset);
        rc = io_read(file, buffer, bytes, offset, IO_CLASS_READ);
        uint32_t half = bytes < 2 * WAL_BLOCK_MAX ? bytes : WAL_BLOCK_MAX;
        for (uint32_t at = 0; rc == ASH_OK && at < half; at += 4096) {
            struct wal_block_head h;
            if (!wal__block_valid(buffer + at, bytes - at, r->uuid, &h) ||
                (h.epoch < epoch && !PLANTED(39)))
                continue;
            *lsn_out = max_u64(*lsn_out, h.durable);
            if (!PLANTED(336))
                r->epoch = (uint32_t)max_u64(r->epoch, h.epoch);
        }
        offset += half;
        *budget -= min_u64(*budget, half);
    }
    io_file_close(file);
    return rc;
}

ash_rc
wal__reader_evidence(struct wal_reader *r, uint64_t *lsn_out)
{
    *lsn_out = 0;
    uint64_t largest = 4096, budget = EVIDENCE_BYTES, budget_after = EVIDENCE_BYTES;
    unsigned first = r->segment != NULL ? r->at : 0;
    uint32_t epoch = r->segment != NULL ? r->segment->epoch : 0;
    for (unsigned i = first; i < r->found_count; i++)
        largest = max_u64(largest, r->found[i].bytes);
    uint8_t *buffer = mem_aligned(MEM_WAL, 4096, min_u64(2 * WAL_BLOCK_MAX, largest));
    if (buffer == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc = ASH_OK;
    for (unsigned i = first; rc == ASH_OK && i < r->found_count; i++) {
        const struct wal_found *f = &r->found[i];
        bool current = r->segment != NULL && i == r->at;
        if (!current && f->valid && f->head.epoch >= epoch)
            *lsn_out = max_u64(*lsn_out, f->head.durable);
        uint64_t *left = current || PLANTED(337) ? &budget : &budget_after;
        if (*left > 0 && f->bytes > 4096)
            rc = scan_file(r, f, current ? r->position : 4096, epoch, left, buffer, lsn_out);
    }
    mem_free(MEM_WAL, buffer);
    return rc;
}
