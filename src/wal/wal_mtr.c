/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_mtr.c - builds the record of a mini-transaction, appends it, stamps the pages.
 *
 * Entry points: mtr_begin(), mtr_change(), mtr_commit(), mtr_abort().      Read first: wal_mtr.h
 * (how to change pages).
 *
 * Order in mtr_commit(), and why:
 *   1. low = wal_reserved(): whatever LSN the record gets, it is >= low.
 *   2. buf_mark_dirty(page, low), before the record exists: a checkpoint that collects dirty pages
 *      between append and marking would otherwise start redo too late and miss the change.
 *   3. wal_append(), which may wait for room with latches held (buffer.h R3).
 *   4. patch; stamp page_head.lsn = end: from here the page must not be written before the log is
 *      durable up to `end`.
 *   5. PAGE_FREE: buf_free(), under the map lock since before 3 (pstore.h I2).
 *
 * Debug builds keep an image of each page from before its first change, apply the redo functions to
 * it at commit and compare: a redo function that does not repeat exactly what the live code did
 * cannot pass any test.
 */
#include "wal/wal_mtr.h"

#include "base/bits.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/page_format.h"

/* Bytes of the undo part: a before-image is at most a row that fits a page, a large value goes by
 * reference. */
#define UNDO_MAX    (32u << 10)
#define CHANGES_MAX (WAL_RECORD_MAX - (uint32_t)sizeof(struct wal_record_head) - UNDO_MAX)

/* ---- Redo check (debug builds) ---- */

struct mtr_debug {
    uint8_t *image[MTR_PAGES_MAX];
    bool skip;
};

#ifdef ASH_DEBUG
static void
debug_keep(struct mtr *m, unsigned slot)
{
    struct mtr_debug *d = m->debug;
    if (d == NULL)
        d = m->debug = mem_zalloc(MEM_WAL, sizeof(*d));
    if (d == NULL)
        return;
    const struct buf_page *p = &m->page[slot].page;
    d->image[slot] = mem_alloc(MEM_WAL, p->size);
    if (d->image[slot] == NULL)
        d->skip = true; /* the check is an aid, not worth failing for */
    else
        memcpy(d->image[slot], p->data, p->size);
}

/* Applies the record's changes to the image of one page and compares with what the live code
      * made of it. */
static void
debug_check_page(const struct mtr *m, unsigned slot, uint64_t start, uint64_t end)
{
    const struct mtr_debug *d = m->debug;
    const struct buf_page *p = &m->page[slot].page;
    uint8_t *copy = d->image[slot];
    unsigned last_op = 0;
    for (uint32_t at = 0; at < m->used;) {
        struct wal_change c = { (const struct wal_change_head *)(const void *)(m->bytes + at),
                                m->bytes + at + sizeof(struct wal_change_head) };
        if (c.head->page == p->page) {
            last_op = c.head->op;
            ash_rc rc = wal_redo_apply(copy, p->size, &c, start);
            if (rc != ASH_OK)
                log_write(LOG_ERROR, "redo of operation %u on page %llu failed: %s", last_op,
                          (unsigned long long)p->page, err_current()->message);
            ash_assert(rc == ASH_OK);
        }
        at += (uint32_t)(sizeof(*c.head) + round_up(c.head->size, 8));
    }
    struct page_head *redone = (struct page_head *)(void *)copy;
    const struct page_head *live = (const struct page_head *)(const void *)p->data;
    redone->lsn = end;
    redone->crc32c = live->crc32c;
    redone->write_seq = live->write_seq;
    if (memcmp(copy, p->data, p->size) == 0)
        return;
    uint32_t at = 0;
    while (copy[at] == p->data[at])
        at++;
    log_write(
        LOG_ERROR,
        "redo of page %llu (last operation %u) differs from the page at byte %u: %02x instead of %02x",
        (unsigned long long)p->page, last_op, at, copy[at], p->data[at]);
    bool redo_reproduces_the_page = false;
    ash_assert(redo_reproduces_the_page);
}

static void
debug_check(const struct mtr *m, uint64_t start, uint64_t end)
{
    const struct mtr_debug *d = m->debug;
    if (d == NULL || d->skip)
        return;
    for (unsigned i = 0; i < m->pages; i++)
        if (!m->page[i].freed && d->image[i] != NULL)
            debug_check_page(m, i, start, end);
}
#else
static void
debug_keep(struct mtr *m, unsigned slot)
{
    (void)m;
    (void)slot;
}
static void
debug_check(const struct mtr *m, uint64_t start, uint64_t end)
{
    (void)m;
    (void)start;
    (void)end;
}
#endif

static void
debug_drop(struct mtr *m)
{
    struct mtr_debug *d = m->debug;
    if (ASH_LIKELY(d == NULL))
        return;
    for (unsigned i = 0; i < MTR_PAGES_MAX; i++)
        mem_free(MEM_WAL, d->image[i]);
    MEM_FREE(MEM_WAL, m->debug);
}

/* ---- Building ---- */

void
mtr_begin(struct mtr *m, struct wal *wal, struct buf_pool *pool)
{
    m->wal = wal;
    m->pool = pool;
    m->used = 0;
    m->capacity = MTR_INLINE;
    m->changes = 0;
    m->pages = 0;
    m->bytes = m->inline_bytes;
    m->debug = NULL;
}

static void
reset(struct mtr *m)
{
    debug_drop(m);
    if (m->bytes != m->inline_bytes)
        mem_free(MEM_WAL, m->bytes);
    mtr_begin(m, m->wal, m->pool);
}

void
mtr_abort(struct mtr *m)
{
    reset(m);
}

ash_rc
mtr_reserve(struct mtr *m, uint32_t capacity)
{
    if (ASH_LIKELY(capacity <= m->capacity - m->used))
        return ASH_OK;
    if (capacity > CHANGES_MAX - m->used)
        return ash_raise(ASH_TOO_LARGE,
                         "A mini-transaction of %u bytes of changes is too large (at most %u).",
                         m->used + capacity, CHANGES_MAX);
    uint32_t grown = (uint32_t)min_u64(
        CHANGES_MAX, max_u64((uint64_t)m->capacity * 2, (uint64_t)m->used + capacity));
    bool first = m->bytes == m->inline_bytes;
    uint8_t *bytes = mem_realloc(MEM_WAL, first ? NULL : m->bytes, grown);
    if (bytes == NULL)
        return ASH_NO_MEMORY;
    if (first)
        memcpy(bytes, m->inline_bytes, m->used);
    m->bytes = bytes;
    m->capacity = grown;
    return ASH_OK;
}

ash_rc
mtr_page(struct mtr *m, const struct buf_page *page)
{
    for (unsigned i = m->pages; i-- > 0;)
        if (m->page[i].page.page == page->page)
            return ASH_OK;
    if (m->pages == MTR_PAGES_MAX)
        return ash_raise(ASH_TOO_LARGE, "A mini-transaction changes more than %u pages.",
                         MTR_PAGES_MAX);
    m->page[m->pages].page = *page;
    m->page[m->pages].freed = false;
    debug_keep(m, m->pages);
    m->pages++;
    return ASH_OK;
}

ash_rc
mtr_change(struct mtr *m, const struct buf_page *page, enum wal_op op,
           const struct wal_part *payload, unsigned count)
{
    uint32_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += payload[i].size;
    uint32_t padded = (uint32_t)round_up(size, 8);
    ash_rc rc = mtr_reserve(m, (uint32_t)sizeof(struct wal_change_head) + padded);
    if (rc == ASH_OK)
        rc = mtr_page(m, page);
    if (rc != ASH_OK)
        return rc;
    ash_assert(m->changes < UINT16_MAX);
    const struct page_head *head = (const struct page_head *)(const void *)page->data;
    struct wal_change_head *c = (struct wal_change_head *)(void *)(m->bytes + m->used);
    *c = (struct wal_change_head){ .page = page->page,
                                   .tree = head->tree,
                                   .size = size,
                                   .op = (uint16_t)op,
                                   .page_class = head->page_class };
    uint8_t *to = (uint8_t *)(c + 1);
    memset(to + padded - 8 * (padded > size), 0,
           padded > size ? 8 : 0); /* the last word holds the padding */
    for (unsigned i = 0; i < count; i++) {
        memcpy(to, payload[i].data, payload[i].size);
        to += payload[i].size;
    }
    m->used += (uint32_t)sizeof(*c) + padded;
    m->changes++;
    if (op == WAL_OP_PAGE_FREE)
        for (unsigned i = 0; i < m->pages; i++)
            m->page[i].freed |= m->page[i].page.page == page->page;
    return ASH_OK;
}

/* ---- Committing ---- */

/* Fills the record's head and lists its parts. */
static unsigned
assemble(const struct mtr *m, const struct mtr_record *r, struct wal_record_head *head,
         struct wal_part parts[8])
{
    static const uint8_t zeros[8];
    unsigned n = 0;
    uint32_t undo = 0;
    parts[n++] = (struct wal_part){ head, (uint32_t)sizeof(*head) };
    if (r->type == WAL_REC_ROW) {
        for (unsigned i = 0; i < r->undo_count; i++) {
            parts[n++] = r->undo[i];
            undo += r->undo[i].size;
        }
        ash_assert(undo <= UNDO_MAX);
        if (undo % 8 != 0)
            parts[n++] = (struct wal_part){ zeros, 8 - undo % 8 };
    }
    parts[n++] = (struct wal_part){ m->bytes, m->used };
    *head = (struct wal_record_head){
        .size = (uint32_t)(sizeof(*head) + round_up(undo, 8) + m->used),
        .type = (uint8_t)r->type,
        .changes = m->changes,
        .txn = r->txn,
        .prev = r->prev,
        .link = r->type == WAL_REC_ROW   ? undo
                : r->type == WAL_REC_CLR ? r->undo_next
                                         : 0,
    };
    return n;
}

/* Nothing of this can be logged any more: its pages must never reach the disk. */
static void
give_up(struct mtr *m)
{
    for (unsigned i = 0; i < m->pages; i++) {
        buf_mark_broken(m->pool, &m->page[i].page);
        if (m->page[i].freed)
            buf_unlatch_x(m->pool,
                          &m->page[i]
                               /* as after a success: the caller holds no latch on a freed page */
                               .page);
    }
}

ash_rc
mtr_commit_patch(struct mtr *m, const struct mtr_record *record,
                 void (*patch)(void *arg, uint64_t start), void *arg, uint64_t *start_out,
                 uint64_t *end_out)
{
    struct wal_record_head head;
    struct wal_part parts[8];
    uint64_t start, end;
    bool frees = false;
    ash_assert(record->type == WAL_REC_MTR || record->type == WAL_REC_ROW ||
               record->type == WAL_REC_CLR);
    unsigned count = assemble(m, record, &head, parts);
    uint64_t low = PLANTED(38) ? wal_reserved(m->wal) + 4096 : wal_reserved(m->wal);
    for (unsigned i = 0; i < m->pages; i++) {
        if (m->page[i].freed)
            frees = true;
        else
            buf_mark_dirty(m->pool, &m->page[i].page, low);
    }
    if (frees)
        pstore_map_lock(buf_pstore(m->pool));
    ash_rc rc = wal_append(m->wal, parts, count, &start, &end);
    for (unsigned i = 0; rc == ASH_OK && frees && i < m->pages; i++)
        if (m->page[i].freed)
            buf_free(m->pool, &m->page[i].page, end);
    if (frees)
        pstore_map_unlock(buf_pstore(m->pool));
    if (rc != ASH_OK) {
        give_up(m);
        reset(m);
        return rc;
    }
    if (patch != NULL)
        patch(arg, start);
    for (unsigned i = 0; i < m->pages; i++) {
        struct page_head *h = (struct page_head *)(void *)m->page[i].page.data;
        if (m->page[i].freed)
            continue;
        ash_debug_assert(h->lsn < end);
        h->lsn = end;
    }
    debug_check(m, start, end);
    reset(m);
    if (start_out != NULL)
        *start_out = start;
    if (end_out != NULL)
        *end_out = end;
    return ASH_OK;
}

ash_rc
mtr_commit(struct mtr *m, const struct mtr_record *record, uint64_t *start_out, uint64_t *end_out)
{
    return mtr_commit_patch(m, record, NULL, NULL, start_out, end_out);
}
