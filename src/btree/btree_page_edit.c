/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_page_edit.c - prepares structure changes: payloads of NODE_EDIT, split points, separators.
 * Changes no page.
 */
#include "base/error.h"
#include "base/mem.h"
#include "btree/btree_page.h"

#define HEAD ((uint32_t)sizeof(struct btree_node))
#define SLOT ((uint32_t)sizeof(struct btree_slot))

/* ---- Payloads ---- */

static ash_rc
edit_grow(struct btree_edit *e, uint32_t more)
{
    if (e->size + more <= e->capacity)
        return ASH_OK;
    uint32_t capacity = (e->size + more) * 2;
    uint8_t *data = mem_realloc(MEM_BTREE, e->data, capacity);
    if (data == NULL)
        return ASH_NO_MEMORY;
    e->data = data;
    e->capacity = capacity;
    return ASH_OK;
}

static void
edit_put(struct btree_edit *e, const void *data, size_t size)
{
    if (size > 0)
        memcpy(e->data + e->size, data, size);
    e->size += (uint32_t)size;
}

ash_rc
btree__edit_begin(struct btree_edit *e, const uint8_t *target, const struct btree_fence *lower,
                  const struct btree_fence *upper, uint8_t level, uint64_t right, uint32_t capacity)
{
    *e = (struct btree_edit){ .capacity = 0 };
    e->op.right = right;
    e->op.level = level;
    e->op.lower = (uint8_t)lower->mode;
    e->op.upper = (uint8_t)upper->mode;
    if (lower->mode == BTREE_FENCE_GIVEN)
        e->op.lower_size = (uint16_t)lower->key.size;
    if (upper->mode == BTREE_FENCE_GIVEN)
        e->op.upper_size = (uint16_t)upper->key.size;
    ash_rc rc =
        edit_grow(e, capacity + (uint32_t)sizeof(e->op) + e->op.lower_size + e->op.upper_size);
    if (rc != ASH_OK)
        return rc;
    edit_put(e, &e->op, sizeof(e->op));
    edit_put(e, lower->key.data, e->op.lower_size);
    edit_put(e, upper->key.data, e->op.upper_size);

    uint8_t flags = target != NULL ? btree__cnode(target)->flags : 0;
    bool no_lower = lower->mode == BTREE_FENCE_INFINITE ||
                    (lower->mode == BTREE_FENCE_KEEP && (flags & BTREE_NODE_LOWER_INFINITE) != 0);
    bool no_upper = upper->mode == BTREE_FENCE_INFINITE ||
                    (upper->mode == BTREE_FENCE_KEEP && (flags & BTREE_NODE_UPPER_INFINITE) != 0);
    if (!no_lower && !no_upper)
        e->prefix_size = (uint16_t)btree__common_prefix(
            lower->mode == BTREE_FENCE_KEEP ? btree__lower(target) : lower->key,
            upper->mode == BTREE_FENCE_KEEP ? btree__upper(target) : upper->key);
    return ASH_OK;
}

ash_rc
btree__edit_rows(struct btree_edit *e, const uint8_t *page, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) {
        uint8_t key[BTREE_SLOT_KEY_MASK + 1 + BTREE_KEY_LIMIT];
        struct btree_entry r;
        btree__entry(page, i, &r);
        uint32_t key_size = btree__key(page, i, key) - e->prefix_size;
        uint32_t version_size = r.version != NULL ? BTREE_VERSION_SIZE : 0;
        struct btree_op_row head = {
            (uint16_t)(key_size | (uint32_t)r.flags << BTREE_SLOT_KEY_BITS), r.value_size
        };
        ash_rc rc = edit_grow(e, (uint32_t)sizeof(head) + version_size + key_size + r.value_size);
        if (rc != ASH_OK)
            return rc;
        edit_put(e, &head, sizeof(head));
        edit_put(e, r.version, version_size);
        edit_put(e, key + e->prefix_size, key_size);
        edit_put(e, r.value, r.value_size);
    }
    e->op.add_count += to - from;
    return ASH_OK;
}

ash_rc
btree__edit_row(struct btree_edit *e, struct ash_slice key, uint8_t flags, const void *value,
                uint32_t value_size)
{
    uint32_t key_size = (uint32_t)key.size - e->prefix_size;
    struct btree_op_row head = { (uint16_t)(key_size | (uint32_t)flags << BTREE_SLOT_KEY_BITS),
                                 (uint16_t)value_size };
    ash_rc rc = edit_grow(e, (uint32_t)sizeof(head) + key_size + value_size);
    if (rc != ASH_OK)
        return rc;
    edit_put(e, &head, sizeof(head));
    edit_put(e, (const uint8_t *)key.data + e->prefix_size, key_size);
    edit_put(e, value, value_size);
    e->op.add_count++;
    return ASH_OK;
}

void
btree__edit_end(struct btree_edit *e)
{
    memcpy(e->data, &e->op, sizeof(e->op));
}

void
btree__edit_free(struct btree_edit *e)
{
    MEM_FREE(MEM_BTREE, e->data);
}

/* ---- Separators ---- */

uint32_t
btree__separator(struct ash_slice a, struct ash_slice b, uint8_t *out)
{
    const uint8_t *x = a.data, *y = b.data;
    uint32_t p = btree__common_prefix(a, b), n = p + 1;
    if (n < a.size && (n < b.size || PLANTED(83) || x[p] + 1 < y[p])) {
        /* b cut after the first byte that differs is above a, and below b when b goes on; else
         * there may be a byte between. */
        memcpy(out, y, n);
        if (n == b.size)
            out[p] = (uint8_t)(x[p] + 1);
        return n;
    }
    if (a.size > 0)
        memcpy(out, x, a.size);
    return (uint32_t)a.size;
}

/* The separator's size without making it. */
static uint32_t
separator_size(struct ash_slice a, struct ash_slice b)
{
    const uint8_t *x = a.data, *y = b.data;
    uint32_t p = btree__common_prefix(a, b), n = p + 1;
    return n < a.size && (n < b.size || x[p] + 1 < y[p]) ? n : (uint32_t)a.size;
}

uint32_t
btree__rows_bytes(const uint8_t *page, uint32_t from, uint32_t to, uint32_t prefix_size)
{
    uint32_t sum = 0, had = btree__cnode(page)->prefix_size;
    for (uint32_t i = from; i < to; i++)
        sum += btree__entry_size(page, i) + SLOT + had;
    return sum - (to - from) * prefix_size;
}

/* ---- Split points ---- */

/* The rows of the page with one more between them: `pos` is where. */
struct virtual_rows {
    const uint8_t *page;
    uint32_t pos, entry_size;
    struct ash_slice key;
};

static struct ash_slice
virtual_key(const struct virtual_rows *v, uint32_t i, uint8_t *buf)
{
    if (i == v->pos)
        return v->key;
    return ash_slice(buf, btree__key(v->page, i < v->pos ? i : i - 1, buf));
}

static uint32_t
virtual_size(const struct virtual_rows *v, uint32_t i)
{
    return SLOT +
           (i == v->pos ? v->entry_size : btree__entry_size(v->page, i < v->pos ? i : i - 1));
}

/* The boundary (rows below it go left) nearest to half of the bytes. */
static uint32_t
middle_boundary(const struct virtual_rows *v, uint32_t rows)
{
    uint64_t total = 0, left = 0;
    for (uint32_t i = 0; i < rows; i++)
        total += virtual_size(v, i);
    uint32_t b = 0;
    while (b + 1 < rows) {
        uint64_t next = left + virtual_size(v, b);
        if (b > 0 && (next > total - next ? next - (total - next) : 0) >
                         (total - left > left ? total - left - left : 0))
            break;
        left = next;
        b++;
    }
    return b > 0 ? b : 1;
}

static uint32_t
boundary_separator(const struct virtual_rows *v, uint32_t boundary, uint8_t *out)
{
    uint8_t a[2 * BTREE_KEY_LIMIT], b[2 * BTREE_KEY_LIMIT];
    struct ash_slice x = virtual_key(v, boundary - 1, a), y = virtual_key(v, boundary, b);
    return out == NULL ? separator_size(x, y) : btree__separator(x, y, out);
}

/* Do both halves and their fences fit a page each?  Left and right, keys lose what their new fences
 * share. */
static bool
boundary_fits(const struct virtual_rows *v, uint32_t size, uint32_t rows, uint32_t boundary)
{
    const struct btree_node *n = btree__cnode(v->page);
    uint8_t separator[BTREE_KEY_LIMIT];
    struct ash_slice s = ash_slice(separator, boundary_separator(v, boundary, separator));
    uint64_t left = HEAD + n->lower_size + s.size, right = HEAD + n->upper_size + s.size, cut;
    for (uint32_t i = 0; i < rows; i++)
        *(i < boundary ? &left : &right) += virtual_size(v, i);
    cut = (n->flags & BTREE_NODE_LOWER_INFINITE) != 0
              ? 0
              : btree__common_prefix(btree__lower(v->page), s) - n->prefix_size;
    left -= cut * boundary;
    cut = (n->flags & BTREE_NODE_UPPER_INFINITE) != 0
              ? 0
              : btree__common_prefix(s, btree__upper(v->page)) - n->prefix_size;
    right -= cut * (rows - boundary);
    return left <= size && right <= size;
}

/* Looks near the middle for a shorter separator: it is stored in the parent and as a fence twice.
 * */
static uint32_t
best_boundary(const struct virtual_rows *v, uint32_t rows, uint32_t middle)
{
    uint32_t window = rows / 8 < 32 ? rows / 8 : 32, best = middle,
             best_size = boundary_separator(v, middle, NULL);
    for (uint32_t d = 1; d <= window; d++) {
        for (int side = -1; side <= 1; side += 2) {
            int64_t at = (int64_t)middle + side * (int64_t)d;
            if (at < 1 || at >= (int64_t)rows)
                continue;
            uint32_t s = boundary_separator(v, (uint32_t)at, NULL);
            if (s < best_size) {
                best = (uint32_t)at;
                best_size = s;
            }
        }
    }
    return best;
}

/* Rows that are there, nothing new.  The first row alone always leaves both sides room: the
 * separator is not longer than its key, of which the right page is rid, and what the page had cut
 * from it is not longer than the lower fence, of which it is rid, too. */
static void
split_existing(struct virtual_rows *v, uint32_t size, struct btree_split *out)
{
    uint32_t count = btree__cnode(v->page)->count;
    ash_assert(count >= 2);
    v->pos = BTREE_SPLIT_NO_ROW;
    uint32_t middle = middle_boundary(v, count);
    out->slot = best_boundary(v, count, middle);
    if (!boundary_fits(v, size, count, out->slot))
        out->slot = boundary_fits(v, size, count, middle) ? middle : 1;
    out->key_size = boundary_separator(v, out->slot, out->key);
}

void
btree__split_leaf(const uint8_t *page, uint32_t size, uint32_t pos, struct ash_slice key,
                  uint32_t entry_size, bool append, struct btree_split *out)
{
    uint32_t count = btree__cnode(page)->count;
    struct virtual_rows v = { page, pos, entry_size, key };
    uint32_t boundary = count;
    ash_assert(count >= 1);
    if (pos == BTREE_SPLIT_NO_ROW) { /* a row of the page grows: halve what is there */
        split_existing(&v, size, out);
        return;
    }
    ash_assert(pos <= count);
    /* Ascending keys leave full pages behind: the new row alone goes right. */
    if (!append || pos != count || !boundary_fits(&v, size, count + 1, count)) {
        uint32_t middle = middle_boundary(&v, count + 1);
        boundary = best_boundary(&v, count + 1, middle);
        if (!boundary_fits(&v, size, count + 1, boundary))
            boundary = middle;
        if (count >= 2 && !boundary_fits(&v, size, count + 1, boundary)) {
            /* Long fences, large rows: the page that takes the row is then split again. */
            split_existing(&v, size, out);
            return;
        }
    }
    out->slot = boundary <= pos ? boundary : boundary - 1;
    out->key_size = boundary_separator(&v, boundary, out->key);
}

bool
btree__split_leaf_at(const uint8_t *page, uint32_t size, uint32_t slot, struct btree_split *out)
{
    uint32_t count = btree__cnode(page)->count;
    struct virtual_rows v = { page, BTREE_SPLIT_NO_ROW, 0, { NULL, 0 } };
    ash_assert(slot > 0 && slot < count);
    if (!boundary_fits(&v, size, count, slot) && !PLANTED(303))
        return false;
    out->slot = slot;
    out->key_size = boundary_separator(&v, slot, out->key);
    return true;
}

void
btree__split_inner(const uint8_t *page, bool append, struct btree_split *out)
{
    uint32_t count = btree__cnode(page)->count, slot = count / 2;
    ash_assert(count >= 1);
    if (append) { /* the last child alone goes right */
        out->slot = count - 1;
        out->key_size = btree__key(page, out->slot, out->key);
        return;
    }
    /* The key at `slot` moves up: prefer a short one near the middle. */
    uint32_t window = count / 8, best = slot;
    for (uint32_t i = slot - (window < slot ? window : slot); i <= slot + window && i < count;
         i++) {
        if ((btree__cslots(page)[i].key & BTREE_SLOT_KEY_MASK) <
            (btree__cslots(page)[best].key & BTREE_SLOT_KEY_MASK))
            best = i;
    }
    out->slot = best;
    out->key_size = btree__key(page, best, out->key);
}
