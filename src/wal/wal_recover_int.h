/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_recover_int.h - what the parts of a restart share: wal_recover.c (checkpoint, analysis),
 * wal_recover_redo.c, wal_recover_table.c.
 */
#ifndef ASH_WAL_RECOVER_INT_H
#define ASH_WAL_RECOVER_INT_H

#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"
#include "wal/wal_checkpoint_format.h"
#include "wal/wal_recover.h"

#define NOTHING_TO_REDO UINT64_MAX

/* For each page the LSN from which its changes may be missing on disk.  Analysis fills it, redo
 * reads it. */
struct page_table {
    struct checkpoint_dirty *slot;
    uint64_t capacity, count;
};
struct checkpoint_dirty *recover__table_find(const struct page_table *t, uint64_t page);
/* The entry of a page, made with `rec_lsn` when it is not there. */
ASH_MUST_CHECK ash_rc recover__table_get(struct page_table *t, uint64_t page, uint64_t rec_lsn,
                                         struct checkpoint_dirty **out);
uint64_t recover__table_oldest(const struct page_table *t);
/* Does this page lack the changes of a record that starts there? */
bool recover__table_needs(const struct page_table *t, uint64_t page, uint64_t start);

struct recovery {
    const struct recover_options *o;
    struct recover_result *result;
    struct pstore_checkpoint_info info;
    struct page_table dirty;
    uint64_t begin_lsn;      /* changes from here on are entered into the table */
    uint64_t checkpoint_end; /* of its last record */
    bool beyond;             /* something follows the checkpoint in the log */
};

ASH_MUST_CHECK ash_rc recover__reader_open(const struct recovery *r, uint64_t lsn, uint64_t segment,
                                           struct wal_reader **out);
/* Adds the place in the log to a failure that happened while a record was looked at. */
ash_rc recover__at_record(const struct wal_reader *reader, const struct wal_record *rec, ash_rc rc);
/* Applies what the table says is missing. */
ASH_MUST_CHECK ash_rc recover__redo(struct recovery *r);

/* ---- Redo ---- */

/* One page's part of a record: `bytes` of changes follow, all of that page, as in the record. */
struct redo_item {
    uint64_t start, end; /* of the record */
    uint64_t bytes;
};
static inline const struct wal_change_head *
redo_item_first(const struct redo_item *item)
{
    return (const void *)(item + 1);
}
static inline uint32_t
redo_change_bytes(const struct wal_change_head *h)
{
    return (uint32_t)(sizeof(*h) + round_up(h->size, 8));
}
/* Applies an item to its page, unless the page has it. */
ASH_MUST_CHECK ash_rc recover__redo_item(const struct recovery *r, const struct redo_item *item,
                                         uint64_t *changes);

struct redo_crew;
ASH_MUST_CHECK ash_rc recover__crew_start(const struct recovery *r, struct redo_crew **out);
/* Room for an item of `page`, to be filled before the next call.  Parks while its worker is behind.
 * ASH_CANCELLED when a worker has failed. */
ASH_MUST_CHECK ash_rc recover__crew_room(struct redo_crew *crew, uint64_t page, uint32_t bytes,
                                         struct redo_item **item_out);
/* Waits until all is applied (rc: ASH_OK) or stops, and frees the crew.  Returns rc or a worker's
 * failure; *failed_at: LSN of the record that a worker failed at. */
ASH_MUST_CHECK ash_rc recover__crew_end(struct redo_crew *crew, ash_rc rc, uint64_t *changes,
                                        uint64_t *failed_at);

#endif
