/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_redo.c - applies a logged change to a page image: the table of redo functions, and those that
 * belong to no page type.
 *
 * Entry points: wal_redo_register(), wal_redo_apply().     Read first: wal_mtr.h.
 *
 * Redo is deterministic and looks at nothing but the image, the payload and the record's start LSN:
 * recovery, the check of mini-transactions in debug builds and `ashlar inspect` call the same
 * function.  Payloads are bytes from disk: never trusted.
 */
#include "base/bits.h"
#include "storage/page_format.h"
#include "wal/wal_mtr.h"

static wal_redo_fn redo_of[WAL_OP_MAX];

void
wal_redo_register(uint16_t first, uint16_t last, wal_redo_fn fn)
{
    ash_assert(first >= WAL_OP_BTREE_FIRST);
    ash_assert(last < WAL_OP_MAX);
    for (unsigned op = first; op <= last; op++) {
        ash_assert(redo_of[op] == NULL || redo_of[op] == fn);
        redo_of[op] = fn;
    }
}

/* Zeroes the page and gives it its header.  What identifies the database and counts writes belongs
 * to the page store and stays. */
static ash_rc
redo_init(uint8_t *page, uint32_t size, const struct wal_change *change)
{
    const struct wal_change_head *c = change->head;
    if (c->size != 1)
        return ash_raise(
            ASH_CORRUPT,
            "The log record PAGE_INIT of page %llu has %u bytes of payload instead of 1.",
            (unsigned long long)c->page, c->size);
    if (PAGE_CLASS_SIZE((uint32_t)c->page_class) != size)
        return ash_raise(
            ASH_CORRUPT,
            "The log record PAGE_INIT of page %llu is for class %u, but its image has %u bytes.",
            (unsigned long long)c->page, c->page_class, size);
    struct page_head *h = (struct page_head *)(void *)page;
    uint32_t database = h->database;
    uint64_t write_seq = h->write_seq;
    memset(page, 0, size);
    h->format = PAGE_FORMAT;
    h->type = change->payload[0];
    h->page_class = c->page_class;
    h->page = c->page;
    h->tree = c->tree;
    h->database = database;
    h->write_seq = write_seq;
    return ASH_OK;
}

static ash_rc
redo_bytes(uint8_t *page, uint32_t size, const struct wal_change *change)
{
    const struct wal_change_head *c = change->head;
    if (c->size < 8)
        return ash_raise(ASH_CORRUPT,
                         "The log record PAGE_BYTES of page %llu has only %u bytes of payload.",
                         (unsigned long long)c->page, c->size);
    uint32_t offset = get_le32(change->payload), bytes = c->size - 8;
    if (offset < sizeof(struct page_head) || offset > size || bytes > size - offset)
        return ash_raise(
            ASH_CORRUPT,
            "The log record PAGE_BYTES of page %llu has bytes [%u, +%u), which do not fit a page of %u.",
            (unsigned long long)c->page, offset, bytes, size);
    memcpy(page + offset, change->payload + 8, bytes);
    return ASH_OK;
}

ash_rc
wal_redo_apply(uint8_t *page, uint32_t size, const struct wal_change *change, uint64_t start)
{
    const struct wal_change_head *c = change->head;
    switch (c->op) {
    case WAL_OP_PAGE_FREE: return ASH_OK; /* nothing in the page; the map forgets it */
    case WAL_OP_PAGE_INIT: return redo_init(page, size, change);
    case WAL_OP_PAGE_BYTES: return redo_bytes(page, size, change);
    default: break;
    }
    if (c->op >= WAL_OP_MAX || redo_of[c->op] == NULL)
        return ash_raise(
            ASH_CORRUPT,
            "The log holds a change of page %llu by operation %u, which this library does not know.",
            (unsigned long long)c->page, c->op);
    return redo_of[c->op](page, size, c->op, change->payload, c->size, start);
}
