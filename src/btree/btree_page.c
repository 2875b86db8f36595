/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_page.c - a latched page: looking at its parts, and all changes of it.
 *
 * Entry points: btree__apply(), which is also the redo function.   Read first: btree_format.h.
 *
 * Invariants:
 *   I1  Every change of a node is one btree__apply() of an op and payload that is logged as it is:
 *       redo makes the same bytes, because layout depends on nothing but the page before and the
 *       payload.
 *   I2  used + free_total + slots + head == size;  data_offset <= every entry's and fence's offset.
 *   I3  ghosts and versions count the rows with those flags; hints follow the slots when count >=
 *       BTREE_HINT_COUNT_MIN.
 *   I4  Payloads come from the log: nothing in them is believed before it was compared with the
 *       page.
 */
#include "btree/btree_page.h"

#include "base/error.h"
#include "base/mem.h"

#define HEAD ((uint32_t)sizeof(struct btree_node))
#define SLOT ((uint32_t)sizeof(struct btree_slot))

/* Scratch pages up to this size live in the thread: apply never parks. */
#define SCRATCH_STATIC 16384u

static inline uint32_t
key_head(const uint8_t *key, uint32_t size)
{
    uint8_t b[4] = { 0, 0, 0, 0 };
    memcpy(b, key, size < 4 ? size : 4);
    return get_be32(b);
}

int
btree__compare(struct ash_slice a, struct ash_slice b)
{
    size_t n = a.size < b.size ? a.size : b.size;
    int c = n == 0 ? 0 : memcmp(a.data, b.data, n);
    return c != 0 ? c : a.size < b.size ? -1 : a.size > b.size;
}

uint32_t
btree__common_prefix(struct ash_slice a, struct ash_slice b)
{
    const uint8_t *x = a.data, *y = b.data;
    uint32_t n = (uint32_t)(a.size < b.size ? a.size : b.size), i = 0;
    while (i < n && x[i] == y[i])
        i++;
    return i;
}

/* ---- Looking ---- */

static inline uint32_t
slot_entry_size(const struct btree_slot *s)
{
    return (uint32_t)(s->key & BTREE_SLOT_KEY_MASK) + s->value_size +
           ((s->key >> BTREE_SLOT_KEY_BITS & BTREE_ROW_VERSIONED) != 0 ? BTREE_VERSION_SIZE : 0);
}

void
btree__entry(const uint8_t *page, uint32_t slot, struct btree_entry *out)
{
    const struct btree_slot *s = &btree__cslots(page)[slot];
    const uint8_t *p = page + s->offset;
    out->flags = (uint8_t)(s->key >> BTREE_SLOT_KEY_BITS);
    out->version = NULL;
    if ((out->flags & BTREE_ROW_VERSIONED) != 0) {
        out->version = p;
        p += BTREE_VERSION_SIZE;
    }
    out->key = p;
    out->key_size = s->key & BTREE_SLOT_KEY_MASK;
    out->value = p + out->key_size;
    out->value_size = s->value_size;
}

uint64_t
btree__child(const uint8_t *page, uint32_t slot)
{
    if (slot >= btree__cnode(page)->count)
        return btree__cnode(page)->right;
    struct btree_entry e;
    btree__entry(page, slot, &e);
    return get_le64(e.value);
}

uint32_t
btree__entry_size(const uint8_t *page, uint32_t slot)
{
    return slot_entry_size(&btree__cslots(page)[slot]);
}

uint32_t
btree__free_total(const uint8_t *page, uint32_t size)
{
    const struct btree_node *n = btree__cnode(page);
    return size - HEAD - n->count * SLOT - n->used;
}

uint32_t
btree__key(const uint8_t *page, uint32_t slot, uint8_t *out)
{
    const struct btree_node *n = btree__cnode(page);
    struct btree_entry e;
    btree__entry(page, slot, &e);
    memcpy(out, page + n->lower_offset, n->prefix_size);
    memcpy(out + n->prefix_size, e.key, e.key_size);
    return (uint32_t)n->prefix_size + e.key_size;
}

bool
btree__covers(const uint8_t *page, struct ash_slice key)
{
    const struct btree_node *n = btree__cnode(page);
    if ((n->flags & BTREE_NODE_LOWER_INFINITE) == 0 && btree__compare(key, btree__lower(page)) <= 0)
        return false;
    return (n->flags & BTREE_NODE_UPPER_INFINITE) != 0 ||
           btree__compare(key, btree__upper(page)) <= 0;
}

uint64_t
btree__rows_encode(uint64_t rows)
{
    unsigned shift = 0;
    while (rows >> shift >= 1024 && shift < 63)
        shift++;
    return ((uint64_t)shift << 10 | rows >> shift) << 48;
}

uint64_t
btree__rows_decode(uint64_t word)
{
    unsigned shift = (unsigned)(word >> 58);
    return (word >> 48 & 0x3ff) << (shift <= 53 ? shift : 53);
}

uint64_t
btree__node_rows(const uint8_t *page, uint32_t size)
{
    const struct btree_node *n = btree__cnode(page);
    (void)size;
    if (n->level == 0)
        return n->count - n->ghosts;
    uint64_t sum = 0;
    for (uint32_t i = 0; i <= n->count; i++)
        sum += btree__rows_decode(btree__child(page, i));
    return sum;
}

/* ---- Hints ---- */

/* After a change at `slot` or above it; all when the step between hints changed. */
static void
make_hints(uint8_t *page, uint32_t count_before, uint32_t slot)
{
    struct btree_node *n = btree__node(page);
    if (n->count < BTREE_HINT_COUNT_MIN || PLANTED(81))
        return;
    uint32_t step = n->count / (BTREE_HINTS + 1), i = 0;
    if (count_before >= BTREE_HINT_COUNT_MIN && count_before / (BTREE_HINTS + 1) == step &&
        slot > 0)
        i = (slot - 1) / step;
    if (i > 0)
        i--;
    for (; i < BTREE_HINTS; i++)
        n->hint[i] = btree__slots(page)[step * (i + 1)].head;
}

/* ---- Rebuilding ---- */

/* Takes entries while a page is put together from its upper end. */
struct builder {
    uint8_t *page;
    uint32_t size;
    uint32_t data_offset;
    bool overflow;
};

static uint8_t *
builder_take(struct builder *b, uint32_t bytes, uint32_t slots)
{
    if (b->overflow || (uint64_t)bytes + HEAD + (uint64_t)slots * SLOT > b->data_offset) {
        b->overflow = true;
        return NULL;
    }
    b->data_offset -= bytes;
    return b->page + b->data_offset;
}

static void
builder_fences(struct builder *b, struct ash_slice lower, struct ash_slice upper, uint8_t flags)
{
    struct btree_node *n = btree__node(b->page);
    uint8_t *p = builder_take(b, (uint32_t)lower.size, 0);
    if (p != NULL && lower.size > 0)
        memcpy(p, lower.data, lower.size);
    n->lower_offset = b->data_offset;
    n->lower_size = (uint16_t)lower.size;
    p = builder_take(b, (uint32_t)upper.size, 0);
    if (p != NULL && upper.size > 0)
        memcpy(p, upper.data, upper.size);
    n->upper_offset = b->data_offset;
    n->upper_size = (uint16_t)upper.size;
    n->flags = flags;
    n->prefix_size = 0;
    if ((flags & (BTREE_NODE_LOWER_INFINITE | BTREE_NODE_UPPER_INFINITE)) == 0)
        n->prefix_size = (uint16_t)btree__common_prefix(lower, upper);
}

/* Adds a row whose key without the new prefix is given in two pieces. */
static void
builder_row(struct builder *b, const uint8_t *version, const uint8_t *key_a, uint32_t a_size,
            const uint8_t *key_b, uint32_t b_size, const uint8_t *value, uint32_t value_size,
            uint8_t flags)
{
    struct btree_node *n = btree__node(b->page);
    uint32_t version_size = version != NULL ? BTREE_VERSION_SIZE : 0;
    uint8_t *p = builder_take(b, version_size + a_size + b_size + value_size, n->count + 1);
    if (p == NULL)
        return;
    uint32_t offset = b->data_offset;
    if (version != NULL)
        memcpy(p, version, BTREE_VERSION_SIZE);
    p += version_size;
    if (a_size > 0)
        memcpy(p, key_a, a_size);
    if (b_size > 0)
        memcpy(p + a_size, key_b, b_size);
    if (value_size > 0)
        memcpy(p + a_size + b_size, value, value_size);
    btree__slots(b->page)[n->count++] =
        (struct btree_slot){ offset, key_head(p, a_size + b_size),
                             (uint16_t)((a_size + b_size) | (uint32_t)flags << BTREE_SLOT_KEY_BITS),
                             (uint16_t)value_size };
    n->ghosts += (flags & BTREE_ROW_DELETED) != 0;
    n->versions += (flags & BTREE_ROW_VERSIONED) != 0;
}

/* Copies slots of the old page; its prefix may be longer or shorter than the new one. */
static void
builder_keep(struct builder *b, const uint8_t *old, uint32_t from, uint32_t to)
{
    const uint8_t *old_prefix = old + btree__cnode(old)->lower_offset;
    uint32_t had = btree__cnode(old)->prefix_size, has = btree__node(b->page)->prefix_size;
    for (uint32_t i = from; i < to && !b->overflow; i++) {
        struct btree_entry e;
        btree__entry(old, i, &e);
        if (has <= had) {
            builder_row(b, e.version, old_prefix + has, had - has, e.key, e.key_size, e.value,
                        e.value_size, e.flags);
        } else if (e.key_size < has - had) {
            b->overflow =
                true; /* a key outside of the new fences: the payload does not fit this page */
        } else {
            uint32_t cut = has - had;
            builder_row(b, e.version, NULL, 0, e.key + cut, e.key_size - cut, e.value, e.value_size,
                        e.flags);
        }
    }
}

static void
builder_finish(struct builder *b, uint8_t *page)
{
    struct btree_node *n = btree__node(b->page);
    n->data_offset = b->data_offset;
    n->used = b->size - b->data_offset;
    make_hints(b->page, 0, 0);
    memcpy(page, b->page, b->size);
}

static void
builder_begin(struct builder *b, const uint8_t *page, uint32_t size, uint8_t *scratch)
{
    memset(scratch, 0, size);
    memcpy(scratch, page, sizeof(struct page_head));
    *b = (struct builder){ scratch, size, size, false };
    btree__node(scratch)->level = btree__cnode(page)->level;
    btree__node(scratch)->right = btree__cnode(page)->right;
    btree__node(scratch)->loading = btree__cnode(page)->loading;
}

/* Puts all free space into one piece and zeroes it. */
static void
compact(uint8_t *page, uint32_t size, uint8_t *scratch)
{
    struct builder b;
    builder_begin(&b, page, size, scratch);
    builder_fences(&b, btree__lower(page), btree__upper(page), btree__cnode(page)->flags);
    builder_keep(&b, page, 0, btree__cnode(page)->count);
    ash_assert(!b.overflow);
    builder_finish(&b, page);
}

/* ---- Ops ---- */

static ash_rc
bad_payload(const uint8_t *page, const char *what)
{
    const struct page_head *h = (const struct page_head *)(const void *)page;
    return ash_raise(
        ASH_CORRUPT,
        "Page %llu of tree %u: a log record does not fit it (%s); the log or the page is damaged.",
        (unsigned long long)h->page, h->tree, what);
}

/* Makes room for an entry; needs btree__free_total() >= bytes + slot_bytes. */
static uint8_t *
heap_take(uint8_t *page, uint32_t size, uint32_t bytes, uint32_t slot_bytes, uint8_t *scratch)
{
    struct btree_node *n = btree__node(page);
    if (n->data_offset - HEAD - n->count * SLOT < bytes + slot_bytes)
        compact(page, size, scratch);
    n->data_offset -= bytes;
    n->used += bytes;
    return page + n->data_offset;
}

static void
open_slot(uint8_t *page, uint32_t slot)
{
    struct btree_node *n = btree__node(page);
    struct btree_slot *s = btree__slots(page);
    memmove(s + slot + 1, s + slot, (size_t)(n->count - slot) * SLOT);
    n->count++;
}

static void
close_slot(uint8_t *page, uint32_t slot)
{
    struct btree_node *n = btree__node(page);
    struct btree_slot *s = btree__slots(page);
    uint8_t flags = (uint8_t)(s[slot].key >> BTREE_SLOT_KEY_BITS);
    n->used -= slot_entry_size(&s[slot]);
    n->ghosts -= (flags & BTREE_ROW_DELETED) != 0;
    n->versions -= (flags & BTREE_ROW_VERSIONED) != 0;
    memmove(s + slot, s + slot + 1, (size_t)(n->count - slot - 1) * SLOT);
    n->count--;
}

/* What a put stores. */
struct put {
    uint32_t slot;
    const uint8_t *version, *key, *value;
    uint32_t key_size, value_size;
    uint8_t flags;
};

static void
write_entry(uint8_t *p, const struct put *w)
{
    if (w->version != NULL) {
        memcpy(p, w->version, BTREE_VERSION_SIZE);
        p += BTREE_VERSION_SIZE;
    }
    if (w->key_size > 0)
        memmove(p, w->key, w->key_size);
    if (w->value_size > 0)
        memcpy(p + w->key_size, w->value, w->value_size);
}

static ash_rc
insert_entry(uint8_t *page, uint32_t size, const struct put *w, uint8_t *scratch)
{
    struct btree_node *n = btree__node(page);
    uint32_t bytes = (w->version != NULL ? BTREE_VERSION_SIZE : 0) + w->key_size + w->value_size;
    if (w->slot > n->count || bytes + SLOT > btree__free_total(page, size))
        return bad_payload(page, "an insert without room");
    uint8_t *p = heap_take(page, size, bytes, SLOT, scratch);
    write_entry(p, w);
    open_slot(page, w->slot);
    btree__slots(page)[w->slot] =
        (struct btree_slot){ (uint32_t)(p - page), key_head(w->key, w->key_size),
                             (uint16_t)(w->key_size | (uint32_t)w->flags << BTREE_SLOT_KEY_BITS),
                             (uint16_t)w->value_size };
    n->ghosts += (w->flags & BTREE_ROW_DELETED) != 0;
    n->versions += (w->flags & BTREE_ROW_VERSIONED) != 0;
    make_hints(page, n->count - 1, w->slot);
    return ASH_OK;
}

/* Keeps the key; in the old place when the new entry is not larger. */
static ash_rc
replace_entry(uint8_t *page, uint32_t size, const struct put *w, uint8_t *scratch)
{
    struct btree_node *n = btree__node(page);
    if (w->slot >= n->count)
        return bad_payload(page, "a replace of a slot that is not there");
    struct btree_slot *s = &btree__slots(page)[w->slot];
    struct btree_entry e;
    btree__entry(page, w->slot, &e);
    uint8_t key[BTREE_SLOT_KEY_MASK + 1];
    struct put full = *w;
    memcpy(key, e.key, e.key_size);
    full.key = key;
    full.key_size = e.key_size;

    uint32_t old_bytes = slot_entry_size(s);
    uint32_t bytes = (w->version != NULL ? BTREE_VERSION_SIZE : 0) + full.key_size + w->value_size;
    if (bytes > btree__free_total(page, size) + old_bytes)
        return bad_payload(page, "a replace without room");
    n->ghosts -= (e.flags & BTREE_ROW_DELETED) != 0;
    n->versions -= (e.flags & BTREE_ROW_VERSIONED) != 0;
    n->used -= old_bytes;
    uint8_t *p = page + s->offset;
    if (bytes <= old_bytes) {
        n->used += bytes;
    } else {
        uint32_t head = s->head;
        s->key = 0; /* takes no space when the heap is put together */
        s->value_size = 0;
        p = heap_take(page, size, bytes, 0, scratch);
        s->head = head;
        s->offset = (uint32_t)(p - page);
    }
    write_entry(p, &full);
    s->key = (uint16_t)(full.key_size | (uint32_t)w->flags << BTREE_SLOT_KEY_BITS);
    s->value_size = (uint16_t)w->value_size;
    n->ghosts += (w->flags & BTREE_ROW_DELETED) != 0;
    n->versions += (w->flags & BTREE_ROW_VERSIONED) != 0;
    if (n->count >= BTREE_HINT_COUNT_MIN)
        make_hints(page, 0, 0); /* putting the heap together took the slot's head for a moment */
    return ASH_OK;
}

static ash_rc
apply_put(uint8_t *page, uint32_t size, const uint8_t *payload, uint32_t payload_size,
          uint64_t start, uint8_t *scratch)
{
    struct btree_op_put op;
    uint8_t version[BTREE_VERSION_SIZE];
    if (payload_size < sizeof(op) || btree__cnode(page)->level != 0)
        return bad_payload(page, "a row put of the wrong size or kind of page");
    memcpy(&op, payload, sizeof(op));
    bool versioned = (op.flags & BTREE_ROW_VERSIONED) != 0, given = versioned && op.writer == 0;
    uint32_t want =
        (uint32_t)sizeof(op) + (given ? BTREE_VERSION_SIZE : 0) + op.key_size + op.value_size;
    if (payload_size != want || op.key_size > BTREE_KEY_LIMIT ||
        (op.flags & ~BTREE_ROW_FLAGS_ALL) != 0)
        return bad_payload(page, "a row put of the wrong size");
    struct put w = { op.slot, NULL, NULL, NULL, op.key_size, op.value_size, op.flags };
    const uint8_t *p = payload + sizeof(op);
    if (given) {
        w.version = p;
        p += BTREE_VERSION_SIZE;
    } else if (versioned) {
        put_le64(version, op.writer);
        put_le64(version + 8, PLANTED(80) ? 0 : start);
        w.version = version;
    }
    w.key = p;
    w.value = p + op.key_size;
    if (op.mode == BTREE_PUT_INSERT)
        return insert_entry(page, size, &w, scratch);
    if (op.mode != BTREE_PUT_REPLACE || op.key_size != 0)
        return bad_payload(page, "a row put of unknown mode");
    return replace_entry(page, size, &w, scratch);
}

static ash_rc
apply_remove(uint8_t *page, const uint8_t *payload, uint32_t payload_size)
{
    struct btree_op_slot op;
    if (payload_size != sizeof(op))
        return bad_payload(page, "a row removal of the wrong size");
    memcpy(&op, payload, sizeof(op));
    uint32_t count = btree__cnode(page)->count;
    if (op.slot >= count || btree__cnode(page)->level != 0)
        return bad_payload(page, "a removal of a slot that is not there");
    close_slot(page, op.slot);
    make_hints(page, count, op.slot);
    return ASH_OK;
}

/* Slots are numbered as before the op: work from the last to the first. */
static ash_rc
apply_purge(uint8_t *page, const uint8_t *payload, uint32_t payload_size)
{
    struct btree_node *n = btree__node(page);
    uint32_t limit = n->count;
    if (payload_size % 4 != 0 || n->level != 0)
        return bad_payload(page, "a purge of the wrong size");
    for (uint32_t i = payload_size / 4; i-- > 0;) {
        uint32_t word = get_le32(payload + 4 * (size_t)i), slot = word >> 1;
        if (slot >= limit)
            return bad_payload(page, "a purge of slots that are not there");
        limit = slot;
        struct btree_slot *s = &btree__slots(page)[slot];
        if ((s->key >> BTREE_SLOT_KEY_BITS & BTREE_ROW_VERSIONED) == 0)
            return bad_payload(page, "a purge of a row without a version");
        if ((word & 1) != 0) {
            close_slot(page, slot);
        } else {
            s->offset += BTREE_VERSION_SIZE; /* the head comes first in the entry */
            s->key &= (uint16_t) ~(BTREE_ROW_VERSIONED << BTREE_SLOT_KEY_BITS);
            n->used -= PLANTED(82) ? 0 : BTREE_VERSION_SIZE;
            n->versions--;
        }
    }
    make_hints(page, 0, 0);
    return ASH_OK;
}

/* Adds the rows of an edit's payload. */
static ash_rc
edit_add(struct builder *b, const uint8_t *page, const uint8_t *p, uint32_t left, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct btree_op_row r;
        if (left < sizeof(r))
            return bad_payload(page, "an edit with too few rows");
        memcpy(&r, p, sizeof(r));
        uint8_t flags = (uint8_t)(r.key >> BTREE_SLOT_KEY_BITS);
        uint32_t version_size = (flags & BTREE_ROW_VERSIONED) != 0 ? BTREE_VERSION_SIZE : 0;
        uint32_t key_size = r.key & BTREE_SLOT_KEY_MASK;
        uint32_t bytes = (uint32_t)sizeof(r) + version_size + key_size + r.value_size;
        if (left < bytes || (flags & ~BTREE_ROW_FLAGS_ALL) != 0)
            return bad_payload(page, "an edit with a row that is cut off");
        const uint8_t *entry = p + sizeof(r);
        builder_row(b, version_size != 0 ? entry : NULL, NULL, 0, entry + version_size, key_size,
                    entry + version_size + key_size, r.value_size, flags);
        p += bytes;
        left -= bytes;
    }
    return left == 0 ? ASH_OK : bad_payload(page, "an edit with bytes after its rows");
}

static uint8_t
edit_flags(const uint8_t *page, const struct btree_op_edit *op)
{
    uint8_t flags = btree__cnode(page)->flags;
    if (op->lower != BTREE_FENCE_KEEP)
        flags &= (uint8_t)~BTREE_NODE_LOWER_INFINITE;
    if (op->lower == BTREE_FENCE_INFINITE)
        flags |= BTREE_NODE_LOWER_INFINITE;
    if (op->upper != BTREE_FENCE_KEEP)
        flags &= (uint8_t)~BTREE_NODE_UPPER_INFINITE;
    if (op->upper == BTREE_FENCE_INFINITE)
        flags |= BTREE_NODE_UPPER_INFINITE;
    return flags;
}

static ash_rc
apply_edit(uint8_t *page, uint32_t size, const uint8_t *payload, uint32_t payload_size,
           uint8_t *scratch)
{
    struct btree_op_edit op;
    if (payload_size < sizeof(op))
        return bad_payload(page, "an edit of the wrong size");
    memcpy(&op, payload, sizeof(op));
    uint32_t fences = (uint32_t)op.lower_size + op.upper_size;
    if (op.keep_from > op.keep_to || op.keep_to > btree__cnode(page)->count ||
        op.lower > BTREE_FENCE_INFINITE || op.upper > BTREE_FENCE_INFINITE ||
        op.lower_size > BTREE_KEY_LIMIT || op.upper_size > BTREE_KEY_LIMIT ||
        payload_size - sizeof(op) < fences || op.level > BTREE_LEVEL_MAX)
        return bad_payload(page, "an edit outside of the page");
    const uint8_t *lower_given = payload + sizeof(op), *upper_given = lower_given + op.lower_size;
    const uint8_t *rows = upper_given + op.upper_size;
    uint32_t rows_size = payload_size - (uint32_t)sizeof(op) - fences;
    struct ash_slice lower = op.lower == BTREE_FENCE_KEEP ? btree__lower(page)
                                                          : ash_slice(lower_given, op.lower_size);
    struct ash_slice upper = op.upper == BTREE_FENCE_KEEP ? btree__upper(page)
                                                          : ash_slice(upper_given, op.upper_size);

    struct builder b;
    builder_begin(&b, page, size, scratch);
    btree__node(scratch)->level = op.level;
    btree__node(scratch)->right = op.right;
    builder_fences(&b, lower, upper, edit_flags(page, &op));
    ash_rc rc = ASH_OK;
    if (op.add_front != 0)
        rc = edit_add(&b, page, rows, rows_size, op.add_count);
    if (rc == ASH_OK)
        builder_keep(&b, page, op.keep_from, op.keep_to);
    if (rc == ASH_OK && op.add_front == 0)
        rc = edit_add(&b, page, rows, rows_size, op.add_count);
    if (rc == ASH_OK && b.overflow)
        rc = bad_payload(page, "an edit without room");
    if (rc == ASH_OK)
        builder_finish(&b, page);
    return rc;
}

static void
set_child(uint8_t *page, uint32_t slot, uint64_t word)
{
    if (slot >= btree__node(page)->count) {
        btree__node(page)->right = word;
        return;
    }
    struct btree_entry e;
    btree__entry(page, slot, &e);
    put_le64(page + (e.value - page), word);
}

static ash_rc
apply_inner(uint8_t *page, uint32_t size, uint16_t kind, const uint8_t *payload,
            uint32_t payload_size, uint8_t *scratch)
{
    struct btree_op_child op;
    if (payload_size < sizeof(op))
        return bad_payload(page, "a child change of the wrong size");
    memcpy(&op, payload, sizeof(op));
    uint32_t count = btree__cnode(page)->count;
    bool has_key = kind == BTREE_OP_INNER_SPLIT || kind == BTREE_OP_INNER_MOVE;
    if (payload_size - sizeof(op) != op.key_size || (op.key_size != 0 && !has_key) ||
        btree__cnode(page)->level == 0 || op.slot > count || op.key_size > BTREE_KEY_LIMIT ||
        (op.slot == count && (kind == BTREE_OP_INNER_MERGE || kind == BTREE_OP_INNER_MOVE)))
        return bad_payload(page, "a child change that does not fit");
    uint8_t word[8];
    put_le64(word, op.left);
    struct put w = { op.slot, NULL, payload + sizeof(op), word, op.key_size, BTREE_CHILD_SIZE, 0 };
    if (kind == BTREE_OP_INNER_WORD) {
        set_child(page, op.slot, op.left);
        return ASH_OK;
    }
    if (kind == BTREE_OP_INNER_MERGE || kind == BTREE_OP_INNER_MOVE)
        close_slot(page, op.slot);
    if (kind == BTREE_OP_INNER_MERGE) {
        set_child(page, op.slot, op.left);
        make_hints(page, count, op.slot);
        return ASH_OK;
    }
    ash_rc rc = insert_entry(page, size, &w, scratch);
    if (rc == ASH_OK) {
        set_child(page, op.slot + 1, op.right);
        make_hints(page, 0, 0);
    }
    return rc;
}

/* What every op relies on, besides btree_page_check() when the page came from disk. */
static bool
node_sane(const uint8_t *page, uint32_t size)
{
    const struct btree_node *n = btree__cnode(page);
    uint64_t slots_end = HEAD + (uint64_t)n->count * SLOT;
    return slots_end <= n->data_offset && n->data_offset <= size &&
           n->used <= size - n->data_offset && (uint64_t)n->lower_offset + n->lower_size <= size &&
           (uint64_t)n->upper_offset + n->upper_size <= size;
}

ash_rc
btree__apply(uint8_t *page, uint32_t size, uint16_t op, const uint8_t *payload,
             uint32_t payload_size, uint64_t start, uint8_t *scratch)
{
    if (op == BTREE_OP_NODE_EDIT && btree__cnode(page)->data_offset == 0 &&
        btree__cnode(page)->count == 0)
        return apply_edit(page, size, payload, payload_size, scratch); /* fresh from PAGE_INIT */
    if (!node_sane(page, size))
        return bad_payload(page, "its head contradicts itself");
    switch (op) {
    case BTREE_OP_LEAF_PUT: return apply_put(page, size, payload, payload_size, start, scratch);
    case BTREE_OP_LEAF_REMOVE: return apply_remove(page, payload, payload_size);
    case BTREE_OP_LEAF_PURGE: return apply_purge(page, payload, payload_size);
    case BTREE_OP_NODE_EDIT: return apply_edit(page, size, payload, payload_size, scratch);
    case BTREE_OP_INNER_SPLIT:
    case BTREE_OP_INNER_MERGE:
    case BTREE_OP_INNER_MOVE:
    case BTREE_OP_INNER_WORD: return apply_inner(page, size, op, payload, payload_size, scratch);
    case BTREE_OP_NODE_FLAGS:
        if (payload_size != 1 || (payload[0] & ~BTREE_NODE_FLAGS_ALL) != 0)
            return bad_payload(page, "unknown node flags");
        btree__node(page)->flags |= payload[0];
        return ASH_OK;
    case BTREE_OP_ROOT_LOADING:
        if (payload_size != 8 || btree__cnode(page)->level == 0)
            return bad_payload(page, "a load noted in a page that is no root");
        btree__node(page)->loading = get_le64(payload);
        return ASH_OK;
    default: return bad_payload(page, "an unknown operation");
    }
}

ash_rc
btree__redo(uint8_t *page, uint32_t size, uint16_t op, const uint8_t *payload,
            uint32_t payload_size, uint64_t start)
{
    static _Thread_local uint8_t small[SCRATCH_STATIC] __attribute__((aligned(8)));
    uint8_t *scratch = small;
    if (size > SCRATCH_STATIC) {
        scratch = mem_aligned(MEM_BTREE, 64, size);
        if (scratch == NULL)
            return ASH_NO_MEMORY;
    }
    ash_rc rc = btree__apply(page, size, op, payload, payload_size, start, scratch);
    if (scratch != small)
        mem_free(MEM_BTREE, scratch);
    return rc;
}
