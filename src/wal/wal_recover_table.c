/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_recover_table.c - the dirty-page table of a restart: open addressing; page 0 means empty.
 */
#include "base/mem.h"
#include "base/random.h"
#include "wal/wal_recover_int.h"

struct checkpoint_dirty *
recover__table_find(const struct page_table *t, uint64_t page)
{
    if (t->capacity == 0)
        return NULL;
    for (uint64_t i = hash_u64(page);; i++) {
        struct checkpoint_dirty *s = &t->slot[i & (t->capacity - 1)];
        if (s->page == page)
            return s;
        if (s->page == 0)
            return NULL;
    }
}

static void
table_insert(struct page_table *t, const struct checkpoint_dirty *d)
{
    uint64_t i = hash_u64(d->page);
    while (t->slot[i & (t->capacity - 1)].page != 0)
        i++;
    t->slot[i & (t->capacity - 1)] = *d;
    t->count++;
}

static ash_rc
table_grow(struct page_table *t)
{
    struct page_table grown = { .capacity = max_u64(64, t->capacity * 2) };
    grown.slot = mem_zalloc(MEM_WAL, grown.capacity * sizeof(*grown.slot));
    if (grown.slot == NULL)
        return ASH_NO_MEMORY;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (t->slot[i].page != 0)
            table_insert(&grown, &t->slot[i]);
    mem_free(MEM_WAL, t->slot);
    *t = grown;
    return ASH_OK;
}

ash_rc
recover__table_get(struct page_table *t, uint64_t page, uint64_t rec_lsn,
                   struct checkpoint_dirty **out)
{
    struct checkpoint_dirty *s = recover__table_find(t, page);
    if (s == NULL) {
        if (t->count * 4 >= t->capacity * 3) {
            ash_rc rc = table_grow(t);
            if (rc != ASH_OK)
                return rc;
        }
        struct checkpoint_dirty d = { page, rec_lsn };
        table_insert(t, &d);
        s = recover__table_find(t, page);
    }
    *out = s;
    return ASH_OK;
}

uint64_t
recover__table_oldest(const struct page_table *t)
{
    uint64_t oldest = NOTHING_TO_REDO;
    for (uint64_t i = 0; i < t->capacity; i++)
        if (t->slot[i].page != 0)
            oldest = min_u64(oldest, t->slot[i].rec_lsn);
    return oldest;
}

bool
recover__table_needs(const struct page_table *t, uint64_t page, uint64_t start)
{
    const struct checkpoint_dirty *s = recover__table_find(t, page);
    return s != NULL && s->rec_lsn != NOTHING_TO_REDO && start >= s->rec_lsn;
}
