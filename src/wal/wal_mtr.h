/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_mtr.h - mini-transactions: the page changes of one structural or row operation, logged as one
 * record.
 *
 * How to change pages (the only way):
 *   1. Latch every page exclusively (buffer.h).
 *   2. mtr_begin().
 *   3. For each page and change: mtr_change() with the redo payload, and change the page in memory.
 *      In a build with --enable-debug the redo function is run on a copy and must give the same
 *      image at commit; the copy is taken at the page's first mtr_change(), so that comes before
 *      the first change in memory (or call mtr_page() before it).
 *   4. mtr_commit(): appends the record, stamps its end LSN into every page and marks them dirty.
 *   5. Release the latches, but not those of pages with a PAGE_FREE change: mtr_commit() has
 * released them, also when it failed. mtr_abort() before any page was changed in memory drops
 * everything.  Between the first change in memory and mtr_commit() nothing may fail: allocate
 * before (prepare, apply, publish).
 */
#ifndef ASH_WAL_MTR_H
#define ASH_WAL_MTR_H

#include "buffer/buffer.h"
#include "wal/wal.h"

#define MTR_PAGES_MAX 24
#define MTR_INLINE    1536

struct mtr {
    struct wal *wal;
    struct buf_pool *pool;
    uint32_t used, capacity; /* bytes of the changes built so far */
    uint16_t changes, pages;
    uint8_t *bytes; /* inline_bytes or heap */
    struct {
        struct buf_page page;
        bool freed;
    } page[MTR_PAGES_MAX];
    void *debug; /* images before the first change, debug builds */
    uint8_t inline_bytes[MTR_INLINE] __attribute__((aligned(8)));
};

void mtr_begin(struct mtr *m, struct wal *wal, struct buf_pool *pool);

/* Records a change of an exclusively latched page; copies the payload parts.  Room for `capacity`
 * more bytes can be secured first so that later calls cannot fail. */
ASH_MUST_CHECK ash_rc mtr_reserve(struct mtr *m, uint32_t capacity);
ASH_MUST_CHECK ash_rc mtr_change(struct mtr *m, const struct buf_page *page, enum wal_op op,
                                 const struct wal_part *payload, unsigned count);

/* Enters a page that is going to be changed (debug builds: keeps its image).  mtr_change() does it
 * too. */
ASH_MUST_CHECK ash_rc mtr_page(struct mtr *m, const struct buf_page *page);

/* What kind of record it becomes. */
struct mtr_record {
    enum wal_record_type type; /* MTR, ROW or CLR */
    uint64_t txn, prev;        /* ROW, CLR */
    uint64_t undo_next;        /* CLR */
    struct wal_part undo[4];   /* ROW: the undo part */
    unsigned undo_count;
};

/* Appends and stamps.  Fails only when the log is poisoned; then the pages are marked so that they
 * are never written. */
ASH_MUST_CHECK ash_rc mtr_commit(struct mtr *m, const struct mtr_record *record,
                                 uint64_t *start_out, uint64_t *end_out);
/* The LSN is needed inside the page (a row's undo pointer): `patch` is called between append and
 * stamping. It may change only bytes that the redo function derives from the record's start LSN in
 * the same way. */
ASH_MUST_CHECK ash_rc mtr_commit_patch(struct mtr *m, const struct mtr_record *record,
                                       void (*patch)(void *arg, uint64_t start), void *arg,
                                       uint64_t *start_out, uint64_t *end_out);
void mtr_abort(struct mtr *m);

/* ---- Redo ---- */

/* Applies one change to a page image of `size` bytes whose header is valid (except for PAGE_INIT).
 * start: the record's start LSN. Must not trust the payload: ASH_CORRUPT when it does not fit the
 * page.  Must not park. */
typedef ash_rc (*wal_redo_fn)(uint8_t *page, uint32_t size, uint16_t op, const uint8_t *payload,
                              uint32_t payload_size, uint64_t start);
/* Registers the redo function of ops [first, last].  Process-wide, idempotent, at library start. */
void wal_redo_register(uint16_t first, uint16_t last, wal_redo_fn fn);
ASH_MUST_CHECK ash_rc wal_redo_apply(uint8_t *page, uint32_t size, const struct wal_change *change,
                                     uint64_t start);

#endif
