/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_recover_redo.c - redo: reads the log once more, sorts its changes by page, and applies them.
 *
 * Entry point: recover__redo().     Read first: wal_recover_worker.c.
 *
 * Why pages may be redone in any order among themselves: a change is applied to an image by its
 * page's LSN and its bytes alone, and what is global (the location map, allocation) was settled by
 * analysis.  So a record that touches several pages is taken apart, and only the order of one
 * page's changes counts: a page belongs to one worker, which gets its changes in log order.
 *
 * Page writes during redo: the log is not open yet, so no MAP record can say where a page went.
 * The pool's writers run with log ops that log nothing: a page goes to a new place, the map in
 * memory points there, and the old place waits for the commit of the next checkpoint
 * (PSTORE_LSN_CHECKPOINT), which writes that map.  A crash before then finds the old places as
 * they were and redoes again.  See docs/decisions.
 */
#include "storage/pstore_format.h"
#include "wal/wal_recover_int.h"

#include <inttypes.h>

/* ---- Page writes during redo ---- */

static ash_rc
redo_flush_to(void *ctx, uint64_t lsn)
{
    (void)ctx;
    (void)lsn;
    return ASH_OK; /* every record that redo applies was read from disk */
}

static uint64_t
redo_durable(void *ctx)
{
    (void)ctx;
    return UINT64_MAX;
}

static ash_rc
redo_append_map(void *ctx, const struct pstore_write *writes, unsigned count, uint64_t *end_out)
{
    (void)ctx;
    (void)writes;
    (void)count;
    *end_out = PSTORE_LSN_CHECKPOINT;
    return ASH_OK;
}

/* ---- One page ---- */

static ash_rc
redo_latch(const struct recovery *r, const struct redo_item *item, struct buf_page *p)
{
    const struct wal_change_head *h = redo_item_first(item);
    if (h->op != WAL_OP_PAGE_INIT)
        return buf_latch_x(r->o->pool, h->page, p);
    if (r->o->read_only)
        return ash_raise(
            ASH_READ_ONLY,
            "Page %" PRIu64
            " would have to be created by recovery; open the database for writing once.",
            h->page);
    if (h->size != 1)
        return ash_raise(ASH_CORRUPT,
                         "PAGE_INIT of page %" PRIu64 " has %" PRIu32
                         " bytes of payload instead of 1.",
                         h->page, h->size);
    return buf_redo_init(r->o->pool, h->page, h->page_class, h->tree, *(const uint8_t *)(h + 1), p);
}

ash_rc
recover__redo_item(const struct recovery *r, const struct redo_item *item, uint64_t *changes)
{
    const uint8_t *at = (const uint8_t *)(item + 1), *end = at + item->bytes;
    struct buf_page p;
    ash_rc rc = redo_latch(r, item, &p);
    if (rc != ASH_OK)
        return rc;
    struct page_head *head = (struct page_head *)(void *)p.data;
    if (head->lsn >= item->end && !PLANTED(63))
        goto out_unlatch;
    if (r->o->read_only) {
        rc = ash_raise(
            ASH_READ_ONLY,
            "Page %" PRIu64
            " lacks changes that recovery would have to make; open the database for writing once.",
            p.page);
        goto out_unlatch;
    }
    buf_mark_dirty(r->o->pool, &p, item->start);
    while (at < end && rc == ASH_OK) {
        struct wal_change change = { (const void *)at, at + sizeof(*change.head) };
        rc = wal_redo_apply(p.data, p.size, &change, item->start);
        at += redo_change_bytes(change.head);
        ++*changes;
    }
    head->lsn = item->end;
    if (rc != ASH_OK)
        buf_mark_broken(r->o->pool, &p); /* half changed: it must not reach the disk */
out_unlatch:
    buf_unlatch_x(r->o->pool, &p);
    return rc;
}

/* ---- Sorting ---- */

/* Was this change's page handled with an earlier change of the record? */
static bool
seen_before(const struct wal_record *rec, uint32_t end, uint64_t page)
{
    struct wal_change c;
    uint32_t pos = 0;
    while (pos < end && wal_record_change(rec, &pos, &c) && pos < end)
        if (c.head->page == page)
            return true;
    return false;
}

/* Copies all changes of a record to one page, of which `change` is the first; pos: behind it. */
static ash_rc
redo_copy(struct redo_crew *crew, const struct wal_record *rec, const struct wal_change *change,
          uint32_t pos)
{
    uint64_t page = change->head->page;
    uint32_t bytes = redo_change_bytes(change->head), after = pos;
    struct wal_change c;

    while (wal_record_change(rec, &after, &c))
        bytes += c.head->page == page ? redo_change_bytes(c.head) : 0;
    struct redo_item *item;
    ash_rc rc = recover__crew_room(crew, page, bytes, &item);
    if (rc != ASH_OK)
        return rc;
    *item = (struct redo_item){ .start = rec->start, .end = rec->end, .bytes = bytes };
    uint8_t *to = (uint8_t *)(item + 1);
    c = *change;
    do {
        if (c.head->page != page)
            continue;
        memcpy(to, c.head, redo_change_bytes(c.head));
        to += redo_change_bytes(c.head);
    } while (wal_record_change(rec, &pos, &c));
    return ASH_OK;
}

static ash_rc
redo_record(const struct recovery *r, struct redo_crew *crew, const struct wal_record *rec)
{
    struct wal_change change;
    uint32_t pos = 0;

    for (;;) {
        uint32_t before = pos;
        if (!wal_record_change(rec, &pos, &change))
            return ASH_OK;
        if (change.head->op == WAL_OP_PAGE_FREE ||
            !recover__table_needs(&r->dirty, change.head->page, rec->start))
            continue;
        if (before > 0 && seen_before(rec, pos, change.head->page))
            continue;
        ash_rc rc = redo_copy(crew, rec, &change, pos);
        if (rc != ASH_OK)
            return rc;
    }
}

/* ---- All of it ---- */

/* A worker's failure, with the place in the log of the record that it failed at. */
static ash_rc
redo_failed(const struct recovery *r, uint64_t lsn, ash_rc rc)
{
    struct wal_reader *reader;
    struct wal_record rec;
    struct err_detail why;

    err_save(&why);
    if (rc == ASH_CORRUPT && recover__reader_open(r, lsn, 0, &reader) == ASH_OK) {
        bool found = wal_reader_next(reader, &rec) == ASH_OK;
        err_restore(&why);
        if (found)
            rc = recover__at_record(reader, &rec, rc);
        err_save(&why);
        wal_reader_close(reader);
    }
    err_restore(&why);
    return rc;
}

static ash_rc
redo_from(struct recovery *r, uint64_t lsn)
{
    struct wal_reader *reader;
    struct redo_crew *crew;
    struct wal_record rec;
    uint64_t failed_at = 0;

    ash_rc rc = recover__reader_open(r, lsn, 0, &reader);
    if (rc != ASH_OK)
        return rc;
    rc = recover__crew_start(r, &crew);
    if (rc != ASH_OK) {
        wal_reader_close(reader);
        return rc;
    }
    while (rc == ASH_OK && (rc = wal_reader_next(reader, &rec)) == ASH_OK)
        rc = redo_record(r, crew, &rec);
    rc = recover__crew_end(crew, rc == ASH_NOT_FOUND ? ASH_OK : rc, &r->result->changes_redone,
                           &failed_at);
    if (failed_at != 0)
        rc = redo_failed(r, failed_at, rc);
    struct err_detail why;
    err_save(&why);
    wal_reader_close(reader);
    err_restore(&why);
    return rc;
}

ash_rc
recover__redo(struct recovery *r)
{
    struct buf_log_ops ops = {
        .ctx = r, .flush_to = redo_flush_to, .durable = redo_durable, .append_map = redo_append_map
    };
    uint64_t oldest = recover__table_oldest(&r->dirty);

    if (oldest == NOTHING_TO_REDO)
        return ASH_OK;
    ash_rc rc = r->o->read_only ? ASH_OK : buf_start(r->o->pool, &ops);
    if (rc != ASH_OK)
        return rc;
    rc = redo_from(r, max_u64(oldest, max_u64(r->info.scan_lsn, WAL_LSN_FIRST)));
    if (!r->o->read_only)
        buf_stop(r->o->pool);
    return rc;
}
