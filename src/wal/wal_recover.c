/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_recover.c - restart: reads the checkpoint and analyses the log behind it; wal_recover_redo.c
 * then repeats history on the pages.
 *
 * Entry point: recover_run().     Read first: wal_recover.h, wal_checkpoint.c,
 * storage/README-pstore.md.
 *
 * Analysis brings the location map up to date and builds the dirty-page table: for each page the
 * LSN from which its changes may be missing on disk.  An entry changes with
 *     checkpoint    page, rec_lsn as listed
 *     a change      at or above begin_lsn: entered with the record's start, unless it is there
 *     PAGE_INIT     raised to the record's start: nothing before matters
 *     MAP           raised to the LSN of the image that was written
 *     PAGE_FREE     above rec_lsn: nothing to redo, until an INIT
 * so redo skips the changes of a page's former lives (whose place may be overwritten) and those
 * that its image has.
 *
 * The map: MAP and FREE records at or above map_lsn move and free pages, in log order.  Below
 * map_lsn the map pages are newer than the records: those only say which ids without a place are
 * in use (INIT, FREE).
 *
 * What was read must not disappear again: the log's tail may sit in the device's volatile cache
 * after a process crash.  So the segments are flushed before any space that they declare dead is
 * reused.
 */
#include "base/bits.h"
#include "base/error.h"
#include "base/mem.h"
#include "storage/pstore_format.h"
#include "wal/wal_checkpoint_format.h"
#include "wal/wal_recover_int.h"

#include <inttypes.h>
#include <stdio.h>

#define SEGMENTS_FLUSHED_MAX 1024u

ash_rc
recover__reader_open(const struct recovery *r, uint64_t lsn, uint64_t segment,
                     struct wal_reader **out)
{
    struct wal_position from = { .lsn = lsn, .segment = segment };
    return wal_reader_open(r->o->io, r->o->dir, pstore_uuid(r->o->pstore), &from, out);
}

/* Adds the place in the log to a failure that happened while a record was looked at. */
ash_rc
recover__at_record(const struct wal_reader *reader, const struct wal_record *rec, ash_rc rc)
{
    const char *file;
    uint64_t offset;
    struct err_detail why;

    if (rc != ASH_CORRUPT)
        return rc;
    err_save(&why);
    wal_reader_where(reader, &file, &offset);
    return ash_raise_obj(rc, file, "%s, block at offset %" PRIu64 ", record at LSN %" PRIu64 ": %s",
                         file, offset, rec->start, why.message);
}

/* ---- The checkpoint ---- */

static ash_rc
checkpoint_bad(const struct recovery *r, const char *what)
{
    return ash_raise(ASH_CORRUPT,
                     "The checkpoint at LSN %" PRIu64
                     ", which the superblock names, %s; restore from a backup.",
                     r->info.checkpoint_lsn, what);
}

/* Takes one part.  *next: the part to come. */
static ash_rc
checkpoint_take(struct recovery *r, const struct wal_record *rec, struct checkpoint_part *first,
                uint32_t *next, struct wal_blob *blob)
{
    struct checkpoint_part part;
    uint32_t size = rec->head->size - (uint32_t)sizeof(*rec->head);

    if (size < sizeof(part))
        return checkpoint_bad(r, "has a record that is too short");
    memcpy(&part, rec->head + 1, sizeof(part));
    if (*next == 0)
        *first = part;
    else if (part.number != first->number)
        return ASH_OK; /* of another checkpoint, given up */
    if (part.part != *next || part.parts != first->parts || part.part >= part.parts)
        return checkpoint_bad(r, "has parts out of order");
    ++*next;
    r->checkpoint_end = rec->end;
    return wal_blob_add(blob, (const uint8_t *)(rec->head + 1) + sizeof(part), size - sizeof(part));
}

static ash_rc
checkpoint_read(struct recovery *r, struct wal_blob *blob)
{
    struct checkpoint_part first = { 0 };
    struct wal_reader *reader;
    struct wal_record rec;
    uint32_t next = 0;

    ash_rc rc =
        recover__reader_open(r, r->info.checkpoint_lsn, r->info.checkpoint_segment, &reader);
    if (rc != ASH_OK)
        return rc;
    do {
        rc = wal_reader_next(reader, &rec);
        if (rc == ASH_NOT_FOUND)
            rc = checkpoint_bad(r, "is not in the log, or not all of it");
        else if (rc == ASH_OK && next == 0 && rec.head->type != WAL_REC_CHECKPOINT)
            rc = checkpoint_bad(r, "is not there");
        else if (rc == ASH_OK && rec.head->type == WAL_REC_CHECKPOINT)
            rc = recover__at_record(reader, &rec, checkpoint_take(r, &rec, &first, &next, blob));
    } while (rc == ASH_OK && next < first.parts);
    wal_reader_close(reader);
    return rc;
}

/* Hands `bytes` of a section to the participant that wrote it. */
static ash_rc
section_restore(const struct recovery *r, uint32_t id, const uint8_t *data, size_t bytes)
{
    for (unsigned i = 0; i < r->o->participant_count; i++)
        if (r->o->participants[i].id == id)
            return r->o->participants[i].restore(r->o->participants[i].ctx, data, bytes);
    return ash_raise(ASH_VERSION_MISMATCH,
                     "The checkpoint holds state of a part %" PRIu32
                     " that this library does not have; use a newer one.",
                     id);
}

ash_rc
recover_checkpoint_check(const void *bytes, size_t size)
{
    const uint8_t *data = bytes;
    struct checkpoint_head head;
    struct checkpoint_section section;
    size_t at = sizeof(head);

    if (size < sizeof(head))
        return ash_raise(ASH_CORRUPT, "A checkpoint of %zu bytes is too short.", size);
    memcpy(&head, data, sizeof(head));
    if (head.version != CHECKPOINT_VERSION)
        return ash_raise(head.version > CHECKPOINT_VERSION ? ASH_VERSION_MISMATCH : ASH_CORRUPT,
                         "The checkpoint has version %" PRIu32
                         ", but this library knows %u; use a newer Ashlar.",
                         head.version, CHECKPOINT_VERSION);
    if (head.dirty_count > (size - at) / sizeof(struct checkpoint_dirty))
        return ash_raise(ASH_CORRUPT, "A checkpoint of %zu bytes lists %" PRIu64 " dirty pages.",
                         size, head.dirty_count);
    at += head.dirty_count * sizeof(struct checkpoint_dirty);
    for (uint32_t i = 0; i < head.participants; i++) {
        if (size - at < sizeof(section))
            return ash_raise(ASH_CORRUPT,
                             "A checkpoint of %zu bytes ends before its part %" PRIu32 ".", size,
                             i);
        memcpy(&section, data + at, sizeof(section));
        at += sizeof(section);
        if (section.bytes > size - at || round_up(section.bytes, 8) > size - at)
            return ash_raise(ASH_CORRUPT, "A checkpoint of %zu bytes ends in its part %" PRIu32 ".",
                             size, i);
        at += round_up(section.bytes, 8);
    }
    return at == size ? ASH_OK
                      : ash_raise(ASH_CORRUPT, "A checkpoint has %zu bytes too many.", size - at);
}

/* What recover_checkpoint_check() has accepted. */
static ash_rc
checkpoint_parse(struct recovery *r, const struct wal_blob *blob)
{
    struct checkpoint_head head;
    struct checkpoint_section section;
    size_t at = sizeof(head);

    ash_rc rc = recover_checkpoint_check(blob->data, blob->size);
    if (rc != ASH_OK)
        return rc;
    memcpy(&head, blob->data, sizeof(head));
    if (head.map_lsn != r->info.map_lsn)
        return checkpoint_bad(r, "belongs to another map");
    r->begin_lsn = head.begin_lsn;
    for (uint64_t i = 0; i < head.dirty_count && rc == ASH_OK;
         i++, at += sizeof(struct checkpoint_dirty)) {
        struct checkpoint_dirty d, *s;
        memcpy(&d, blob->data + at, sizeof(d));
        rc = pstore_replay_check(r->o->pstore, d.page, (struct map_entry){ 0 });
        if (rc == ASH_OK)
            rc = recover__table_get(&r->dirty, d.page, d.rec_lsn, &s);
        if (rc ==
            ASH_OK) /* a page may be listed twice: in its frame, and in a batch being written */
            s->rec_lsn = min_u64(s->rec_lsn, d.rec_lsn);
    }
    for (uint32_t i = 0; i < head.participants && rc == ASH_OK; i++) {
        memcpy(&section, blob->data + at, sizeof(section));
        at += sizeof(section);
        rc = section_restore(r, section.id, blob->data + at, section.bytes);
        at += round_up(section.bytes, 8);
    }
    return rc;
}

static ash_rc
checkpoint_load(struct recovery *r)
{
    struct wal_blob blob = { 0 };
    if (r->info.checkpoint_lsn == 0)
        return ASH_OK; /* none yet: the log from its beginning is everything */
    ash_rc rc = checkpoint_read(r, &blob);
    if (rc == ASH_OK)
        rc = checkpoint_parse(r, &blob);
    wal_blob_free(&blob);
    return rc;
}

/* ---- Analysis ---- */

static ash_rc
analyse_map(struct recovery *r, const struct wal_record *rec)
{
    struct pstore *ps = r->o->pstore;
    const void *body = rec->head + 1;
    unsigned count;

    ash_rc rc =
        pstore_map_record_check(body, rec->head->size - (uint32_t)sizeof(*rec->head), &count);
    for (unsigned i = 0; i < count && rc == ASH_OK; i++) {
        const struct map_move *m = pstore_map_record_move(body, i);
        struct checkpoint_dirty *d = recover__table_find(&r->dirty, m->page);
        rc = pstore_replay_check(ps, m->page, (struct map_entry){ m->entry });
        if (rc != ASH_OK)
            return rc;
        if (rec->start >= r->info.map_lsn || PLANTED(62))
            pstore_install(ps, m->page, (struct map_entry){ m->entry }, rec->end);
        if (d != NULL && d->rec_lsn != NOTHING_TO_REDO && !PLANTED(63))
            d->rec_lsn = max_u64(d->rec_lsn, m->lsn);
    }
    return rc;
}

static ash_rc
analyse_change(struct recovery *r, const struct wal_record *rec, const struct wal_change_head *c)
{
    struct pstore *ps = r->o->pstore;
    bool moved = rec->start >= r->info.map_lsn, since = rec->start >= r->begin_lsn;
    struct checkpoint_dirty *d = recover__table_find(&r->dirty, c->page);

    ash_rc rc = pstore_replay_check(ps, c->page, (struct map_entry){ 0 });
    if (rc != ASH_OK)
        return rc;
    if (c->op == WAL_OP_PAGE_FREE) {
        if (moved)
            pstore_page_free(ps, c->page, rec->end);
        else
            pstore_page_unmark(ps, c->page);
        if (d != NULL && d->rec_lsn <= rec->start && !PLANTED(61))
            d->rec_lsn = NOTHING_TO_REDO;
        return ASH_OK;
    }
    if (c->op == WAL_OP_PAGE_INIT)
        pstore_page_mark(ps, c->page);
    if (since && d == NULL)
        return recover__table_get(&r->dirty, c->page, rec->start, &d);
    /* Also when the checkpoint listed only a former life (a batch that was still being
     * confirmed): its entry went with the FREE, and redoing all of the new life is right. */
    if (c->op == WAL_OP_PAGE_INIT && d != NULL)
        d->rec_lsn = d->rec_lsn == NOTHING_TO_REDO ? rec->start : max_u64(d->rec_lsn, rec->start);
    return ASH_OK;
}

static ash_rc
analyse_record(struct recovery *r, const struct wal_record *rec)
{
    struct wal_change change;
    uint32_t pos = 0;
    ash_rc rc = ASH_OK;

    r->result->records_scanned++;
    r->beyond |= rec->start >= r->checkpoint_end;
    if (rec->head->type == WAL_REC_MAP)
        rc = analyse_map(r, rec);
    while (rc == ASH_OK && wal_record_change(rec, &pos, &change))
        rc = analyse_change(r, rec, change.head);
    for (unsigned i = 0; i < r->o->participant_count && rc == ASH_OK; i++)
        if (r->o->participants[i].analyse != NULL)
            rc = r->o->participants[i].analyse(r->o->participants[i].ctx, rec);
    return rc;
}

static ash_rc
analyse(struct recovery *r)
{
    struct wal_reader *reader;
    struct wal_record rec;
    uint64_t scan = max_u64(r->info.scan_lsn, WAL_LSN_FIRST);

    ash_rc rc = recover__reader_open(r, scan, r->info.scan_segment, &reader);
    if (rc != ASH_OK)
        return rc;
    wal_reader_require(reader, r->checkpoint_end);
    while ((rc = wal_reader_next(reader, &rec)) == ASH_OK) {
        rc = recover__at_record(reader, &rec, analyse_record(r, &rec));
        if (rc != ASH_OK)
            break;
    }
    if (rc == ASH_NOT_FOUND) {
        wal_reader_end(reader, &r->result->next, &r->result->epoch, &r->result->live);
        r->result->epoch = (uint32_t)max_u64(r->result->epoch, r->info.epoch);
        rc = ASH_OK;
    }
    wal_reader_close(reader);
    return rc;
}

/* ---- Making durable what was read ---- */

struct names {
    char name[SEGMENTS_FLUSHED_MAX][32];
    unsigned count;
};

static bool
names_add(void *arg, const char *name)
{
    struct names *n = arg;
    if (strncmp(name, "wal-", 4) == 0 && strlen(name) < sizeof(n->name[0])) {
        /* In name order: with more than fit, the newest stay. */
        snprintf(n->name[n->count % SEGMENTS_FLUSHED_MAX], sizeof(n->name[0]), "%s", name);
        n->count++;
    }
    return true;
}

static ash_rc
segments_flush(const struct recovery *r)
{
    struct names *n = mem_alloc(MEM_WAL, sizeof(*n));
    if (n == NULL)
        return ASH_NO_MEMORY;
    n->count = 0;
    ash_rc rc = io_dir_list(r->o->dir, names_add, n);
    for (unsigned i = 0; i < min_u64(n->count, SEGMENTS_FLUSHED_MAX) && rc == ASH_OK; i++) {
        struct io_file *f;
        rc = io_file_open(r->o->dir, n->name[i], 0, &f);
        if (rc != ASH_OK)
            break;
        if (io_file_device_class(f) != IO_DEVICE_WRITE_THROUGH)
            rc = io_flush(f, IO_CLASS_WAL);
        io_file_close(f);
    }
    mem_free(MEM_WAL, n);
    return rc;
}

/* ---- All of it ---- */

ash_rc
recover_run(const struct recover_options *options, struct recover_result *result_out)
{
    struct recovery r = { .o = options, .result = result_out };

    *result_out = (struct recover_result){ 0 };
    pstore_info(options->pstore, &r.info);
    result_out->checkpoint_lsn = r.info.checkpoint_lsn;
    ash_rc rc = checkpoint_load(&r);
    if (rc == ASH_OK)
        rc = analyse(&r);
    if (rc == ASH_OK && !options->read_only)
        rc = segments_flush(&r);
    if (rc == ASH_OK)
        rc = pstore_recovered(options->pstore);
    if (rc == ASH_OK)
        rc = recover__redo(&r);
    result_out->clean = r.info.clean && !r.beyond;
    mem_free(MEM_WAL, r.dirty.slot);
    if (rc != ASH_OK) {
        struct err_detail why;
        err_save(&why);
        wal_segments_free(result_out->live);
        result_out->live = NULL;
        err_restore(&why);
    }
    return rc;
}
