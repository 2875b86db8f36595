/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_page.h - one page of a tree: what the tree code does with it.
 *
 * Two families: functions that take a page latched by the caller (or private to it), and the
 * optimistic ones (marked so), which may read garbage while another task changes the page: they
 * clamp whatever they follow to the page, and their results mean nothing until buf_opt_valid() says
 * so.
 */
#ifndef ASH_BTREE_PAGE_H
#define ASH_BTREE_PAGE_H

#include <ashlar.h>

#include "base/bits.h"
#include "btree/btree_format.h"
#include "wal/wal.h"

#define BTREE_KEY_LIMIT 992u
/* The worst page still takes one such entry beside two fences of BTREE_KEY_LIMIT: so a split always
 * helps. */
#define BTREE_ENTRY_MAX(size)                                             \
    ((size) - (uint32_t)sizeof(struct btree_node) - 2 * BTREE_KEY_LIMIT - \
     (uint32_t)sizeof(struct btree_slot))
#define BTREE_MOVE_MAX 65536u /* bytes of rows that one logged change carries */

static inline struct btree_node *
btree__node(uint8_t *page)
{
    return (struct btree_node *)(void *)page;
}
static inline const struct btree_node *
btree__cnode(const uint8_t *page)
{
    return (const struct btree_node *)(const void *)page;
}
static inline struct btree_slot *
btree__slots(uint8_t *page)
{
    return (struct btree_slot *)(void *)(page + sizeof(struct btree_node));
}
static inline const struct btree_slot *
btree__cslots(const uint8_t *page)
{
    return (const struct btree_slot *)(const void *)(page + sizeof(struct btree_node));
}

/* ---- Latched ---- */

/* An entry: pointers into the page. */
struct btree_entry {
    const uint8_t *version; /* NULL, or struct btree_version unaligned */
    const uint8_t *key;     /* without the prefix */
    const uint8_t *value;
    uint16_t key_size, value_size;
    uint8_t flags;
};
void btree__entry(const uint8_t *page, uint32_t slot, struct btree_entry *out);
uint64_t btree__child(const uint8_t *page, uint32_t slot); /* child word; slot == count: right */
uint32_t btree__entry_size(const uint8_t *page, uint32_t slot); /* heap bytes */
/* bytes free for entries and slots, after compaction */
uint32_t btree__free_total(const uint8_t *page, uint32_t size);
/* Copies the whole key of a slot (prefix too) to out[BTREE_KEY_LIMIT]; returns its size. */
uint32_t btree__key(const uint8_t *page, uint32_t slot, uint8_t *out);
static inline struct ash_slice
btree__lower(const uint8_t *page)
{
    return ash_slice(page + btree__cnode(page)->lower_offset, btree__cnode(page)->lower_size);
}
static inline struct ash_slice
btree__upper(const uint8_t *page)
{
    return ash_slice(page + btree__cnode(page)->upper_offset, btree__cnode(page)->upper_size);
}
/* lower < key <= upper */
bool btree__covers(const uint8_t *page, struct ash_slice key);
int btree__compare(struct ash_slice a, struct ash_slice b);

/* ---- Changing: all changes of nodes, here and in redo, go through this one function ---- */

/* Applies a change.  start: LSN of the record (forward: 0, patched later).  scratch: as many bytes
 * as the page, used when heap space has to be put together.  ASH_CORRUPT when the payload does not
 * fit the page; then the page may be half changed. */
ASH_MUST_CHECK ash_rc btree__apply(uint8_t *page, uint32_t size, uint16_t op,
                                   const uint8_t *payload, uint32_t payload_size, uint64_t start,
                                   uint8_t *scratch);
ash_rc btree__redo(uint8_t *page, uint32_t size, uint16_t op, const uint8_t *payload,
                   uint32_t payload_size, uint64_t start);

/* Builds EDIT payloads. */
struct btree_edit {
    struct btree_op_edit op;
    uint8_t *data; /* payload, mem_alloc */
    uint32_t size, capacity;
    uint16_t prefix_size; /* of the target */
};
/* Fence modes: KEEP needs `target`.  data NULL with GIVEN is an empty fence, a valid one. */
struct btree_fence {
    enum btree_fence_mode mode;
    struct ash_slice key;
};
ASH_MUST_CHECK ash_rc btree__edit_begin(struct btree_edit *e, const uint8_t *target,
                                        const struct btree_fence *lower,
                                        const struct btree_fence *upper, uint8_t level,
                                        uint64_t right, uint32_t capacity);
/* Adds slots [from, to) of another page (latched). */
ASH_MUST_CHECK ash_rc btree__edit_rows(struct btree_edit *e, const uint8_t *page, uint32_t from,
                                       uint32_t to);
/* Adds one row by its whole key; no version head. */
ASH_MUST_CHECK ash_rc btree__edit_row(struct btree_edit *e, struct ash_slice key, uint8_t flags,
                                      const void *value, uint32_t value_size);
void btree__edit_end(struct btree_edit *e); /* puts `op` into the payload */
void btree__edit_free(struct btree_edit *e);

/* Where to split a leaf or inner node. slot: left keeps [0, slot) (inner: the separator at `slot`
 * moves up); separator to out[]. */
struct btree_split {
    uint32_t slot;
    uint32_t key_size;
    uint8_t key[BTREE_KEY_LIMIT];
};
#define BTREE_SPLIT_NO_ROW UINT32_MAX
/* Leaf: `key` of `entry_size` bytes is about to go to `pos` (NO_ROW: nothing new, count >= 2).
 * append: keep the left page full.  Needs count >= 1. */
void btree__split_leaf(const uint8_t *page, uint32_t size, uint32_t pos, struct ash_slice key,
                       uint32_t entry_size, bool append, struct btree_split *out);
/* Leaf: the border below the row at `slot`.  false: a half would not fit its page. */
bool
btree__split_leaf_at(const uint8_t *page, uint32_t size, uint32_t slot, struct btree_split *out);
void btree__split_inner(const uint8_t *page, bool append, struct btree_split *out); /* count >= 1 */
/* The shortest key s with a <= s < b, to out[BTREE_KEY_LIMIT]. */
uint32_t btree__separator(struct ash_slice a, struct ash_slice b, uint8_t *out);
/* Heap and slot bytes of slots [from, to) if they stood in a page with this prefix. */
uint32_t btree__rows_bytes(const uint8_t *page, uint32_t from, uint32_t to, uint32_t prefix_size);
uint32_t btree__common_prefix(struct ash_slice a, struct ash_slice b);

/* Row estimates: 6 bits of exponent, 10 of mantissa; below 1024 exact. */
uint64_t btree__rows_encode(uint64_t rows); /* in bits 63..48 */
uint64_t btree__rows_decode(uint64_t word);
static inline uint64_t
btree__child_word(uint64_t page, uint64_t rows)
{
    return BTREE_CHILD_PAGE(page) | btree__rows_encode(rows);
}
/* leaf: live rows; inner: sum of estimates */
uint64_t btree__node_rows(const uint8_t *page, uint32_t size);

/* ---- Optimistic ---- */

/* First slot whose key is >= key (count when none); *exact_out: it is equal.  The key must lie
 * between the fences. */
uint32_t btree__lower_bound(const uint8_t *page, uint32_t size, const uint8_t *key,
                            uint32_t key_size, bool *exact_out);
/* Child word for a key. */
uint64_t btree__find_child(const uint8_t *page, uint32_t size, const uint8_t *key,
                           uint32_t key_size, uint32_t *slot_out);
/* slot clamped to count */
uint64_t btree__opt_child(const uint8_t *page, uint32_t size, uint32_t slot);
/* Has the first line of an entry come into the processor's cache; any slot. */
void btree__prefetch_entry(const uint8_t *page, uint32_t size, uint32_t slot);
/* An entry with every piece inside the page; pieces may be garbage. */
void btree__opt_entry(const uint8_t *page, uint32_t size, uint32_t slot, struct btree_entry *out);
unsigned btree__opt_level(const uint8_t *page);
uint32_t btree__opt_count(const uint8_t *page, uint32_t size); /* clamped */
uint32_t btree__opt_heap(const uint8_t *page, uint32_t size);  /* where it begins, clamped */
/* Copies bytes that may change meanwhile. */
void btree__opt_copy(uint8_t *to, const uint8_t *from, uint32_t size);
struct ash_slice btree__opt_lower(const uint8_t *page, uint32_t size);
struct ash_slice btree__opt_upper(const uint8_t *page, uint32_t size);

#endif
