/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_page_search.c - reading a page that others may be changing.
 *
 * Why this is safe although it races: every caller holds an optimistic guard (buffer.h, R1).  The
 * frame is always mapped; whatever is read here may be a mix of old and new bytes, so (1) every
 * count, offset and size is clamped to the page before it is followed, (2) every loop is bounded by
 * the clamped count, and (3) nothing leaves the caller before buf_opt_valid() found that no writer
 * held the latch since the guard began. Accesses are plain loads through packed words: the compiler
 * may tear or repeat them, which (1) and (3) allow for because each value is read once into a local
 * and clamped there.  Thread sanitizer is told with ASH_NO_TSAN; nothing here calls memcpy or
 * memcmp, which it intercepts.
 */
#include "btree/btree_page.h"

struct __attribute__((packed, may_alias)) word8 {
    uint64_t v;
};
struct __attribute__((packed, may_alias)) word4 {
    uint32_t v;
};
struct __attribute__((packed, may_alias)) word2 {
    uint16_t v;
};

#define LOAD8(p)     (((const struct word8 *)(const void *)(p))->v)
#define LOAD4(p)     (((const struct word4 *)(const void *)(p))->v)
#define LOAD2(p)     (((const struct word2 *)(const void *)(p))->v)
#define STORE8(p, x) (((struct word8 *)(void *)(p))->v = (x))
/* One load into a local: the clamped copy must be the one that is used. */
#define ONCE(lvalue) (*(const volatile __typeof__(lvalue) *)&(lvalue))

/* The first n < 8 bytes as a number that orders like them: words that overlap instead of a loop. */
ASH_NO_TSAN static inline uint64_t
load_short(const uint8_t *p, uint32_t n)
{
    if (n >= 4)
        return (uint64_t)be32toh(LOAD4(p)) << 32 | be32toh(LOAD4(p + n - 4));
    return n == 0 ? 0 : (uint32_t)p[0] << 16 | (uint32_t)p[n / 2] << 8 | p[n - 1];
}

/* Compares like memcmp, then by length. */
ASH_NO_TSAN static inline int
compare(const uint8_t *a, uint32_t a_size, const uint8_t *b, uint32_t b_size)
{
    uint32_t n = a_size < b_size ? a_size : b_size;
    uint64_t x, y;
    for (; n >= 8; n -= 8, a += 8, b += 8) {
        x = be64toh(LOAD8(a)), y = be64toh(LOAD8(b));
        if (x != y)
            return x < y ? -1 : 1;
    }
    n -= PLANTED(341) && n > 0;
    x = load_short(a, n), y = load_short(b, n);
    if (x != y)
        return x < y ? -1 : 1;
    return a_size < b_size ? -1 : a_size > b_size;
}

/* First 4 bytes as a number; reads nothing past the key. */
ASH_NO_TSAN static inline uint32_t
key_head(const uint8_t *key, uint32_t size)
{
    if (size >= 4)
        return be32toh(LOAD4(key));
    uint32_t h = 0;
    for (uint32_t i = 0; i < size; i++)
        h |= (uint32_t)key[i] << (24 - 8 * i);
    return h;
}

ASH_NO_TSAN static inline uint32_t
clamped_count(const struct btree_node *n, uint32_t size)
{
    uint32_t count = ONCE(n->count);
    uint32_t max = (size - (uint32_t)sizeof(*n)) / (uint32_t)sizeof(struct btree_slot);
    return count <= max ? count : max;
}

/* Key of a slot, clamped: an entry that would leave the page becomes an empty key. */
ASH_NO_TSAN static inline const uint8_t *
slot_key(const uint8_t *page, uint32_t size, const struct btree_slot *s, uint32_t *key_size_out)
{
    uint32_t word = ONCE(s->key), offset = ONCE(s->offset);
    uint32_t key_size = word & BTREE_SLOT_KEY_MASK;
    offset = offset < size ? offset : 0;
    offset += (word >> BTREE_SLOT_KEY_BITS & BTREE_ROW_VERSIONED) != 0 ? BTREE_VERSION_SIZE : 0;
    if (ASH_UNLIKELY(offset + key_size > size)) {
        *key_size_out = 0;
        return page;
    }
    *key_size_out = key_size;
    return page + offset;
}

/* Narrows [*lo, *hi) by the hints so that the first slot with a head >= `head` is in [*lo, *hi]. */
ASH_NO_TSAN static inline void
use_hints(const struct btree_node *n, uint32_t head, uint32_t count, uint32_t *lo, uint32_t *hi)
{
    uint32_t step = count / (BTREE_HINTS + 1), below = 0;
    for (uint32_t i = 0; i < BTREE_HINTS; i++)
        below += n->hint[i] < head;
    if (below > 0)
        *lo = step * below + 1;
    if (below < BTREE_HINTS)
        *hi = step * (below + 1);
}

/* Among slots whose heads equal `head`, from `lo` on: the first with a key >= the tail. */
ASH_NO_TSAN static uint32_t
search_equal_heads(const uint8_t *page, uint32_t size, uint32_t lo, uint32_t count, uint32_t head,
                   const uint8_t *tail, uint32_t tail_size, bool *exact_out)
{
    const struct btree_slot *slots = btree__cslots(page);
    uint32_t hi = count;
    /* nearly always heads differ from slot to slot: look at the next one before halving */
    bool first = true;
    while (lo < hi) {
        uint32_t mid = first ? lo : lo + (hi - lo) / 2;
        uint32_t h = ONCE(slots[mid].head);
        int c;
        first = false;
        if (h != head) {
            c = h < head ? -1 : 1;
        } else {
            uint32_t key_size;
            const uint8_t *key = slot_key(page, size, &slots[mid], &key_size);
            c = compare(key, key_size, tail, tail_size);
        }
        if (c == 0) {
            *exact_out = true;
            return mid;
        }
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

ASH_NO_TSAN uint32_t
btree__lower_bound(const uint8_t *page, uint32_t size, const uint8_t *key, uint32_t key_size,
                   bool *exact_out)
{
    const struct btree_node *n = btree__cnode(page);
    const struct btree_slot *slots = btree__cslots(page);
    uint32_t count = clamped_count(n, size);
    uint32_t prefix = ONCE(n->prefix_size);
    /* a valid page that covers the key has prefix <= key_size */
    prefix = prefix < key_size ? prefix : key_size;
    const uint8_t *tail = key + prefix;
    uint32_t tail_size = key_size - prefix, head = key_head(tail, tail_size);
    uint32_t lo = 0, hi = count;

    *exact_out = false;
    if (count >= BTREE_HINT_COUNT_MIN)
        use_hints(n, head, count, &lo, &hi);
    /* First slot with head >= `head`, without branches that depend on the data. */
    const struct btree_slot *base = slots + lo;
    uint32_t len = hi > lo ? hi - lo : 0;
    while (len > 1) {
        uint32_t half = len / 2;
        base = base[half - 1].head < head ? base + half : base;
        len -= half;
    }
    lo = (uint32_t)(base - slots);
    if (len == 1 && base->head < head)
        lo++;
    if (lo >= count || ONCE(slots[lo].head) != head)
        return lo <= count ? lo : count;
    return search_equal_heads(page, size, lo, count, head, tail, tail_size, exact_out);
}

ASH_NO_TSAN unsigned
btree__opt_level(const uint8_t *page)
{
    return ONCE(btree__cnode(page)->level);
}

ASH_NO_TSAN uint32_t
btree__opt_count(const uint8_t *page, uint32_t size)
{
    return clamped_count(btree__cnode(page), size);
}

ASH_NO_TSAN uint32_t
btree__opt_heap(const uint8_t *page, uint32_t size)
{
    uint32_t offset = ONCE(btree__cnode(page)->data_offset);
    return offset < size ? offset : size;
}

ASH_NO_TSAN uint64_t
btree__opt_child(const uint8_t *page, uint32_t size, uint32_t slot)
{
    const struct btree_node *n = btree__cnode(page);
    uint32_t count = clamped_count(n, size);
    if (slot >= count)
        return ONCE(n->right);
    uint32_t key_size;
    const uint8_t *key = slot_key(page, size, &btree__cslots(page)[slot], &key_size);
    if (ASH_UNLIKELY((uint64_t)(key - page) + key_size + BTREE_CHILD_SIZE > size))
        return 0;
    return LOAD8(key + key_size);
}

ASH_NO_TSAN void
btree__prefetch_entry(const uint8_t *page, uint32_t size, uint32_t slot)
{
    if (slot < clamped_count(btree__cnode(page), size))
        __builtin_prefetch(page + ONCE(btree__cslots(page)[slot].offset));
}

ASH_NO_TSAN uint64_t
btree__find_child(const uint8_t *page, uint32_t size, const uint8_t *key, uint32_t key_size,
                  uint32_t *slot_out)
{
    bool exact;
    uint32_t slot = btree__lower_bound(page, size, key, key_size, &exact);
    *slot_out = slot;
    return btree__opt_child(page, size, slot);
}

ASH_NO_TSAN void
btree__opt_entry(const uint8_t *page, uint32_t size, uint32_t slot, struct btree_entry *out)
{
    uint32_t count = clamped_count(btree__cnode(page), size);
    *out = (struct btree_entry){ NULL, page, page, 0, 0, 0 };
    if (slot >= count)
        return;
    const struct btree_slot *s = &btree__cslots(page)[slot];
    uint32_t word = ONCE(s->key), offset = ONCE(s->offset), value_size = ONCE(s->value_size);
    uint32_t key_size = word & BTREE_SLOT_KEY_MASK, flags = word >> BTREE_SLOT_KEY_BITS;
    uint32_t version_size = (flags & BTREE_ROW_VERSIONED) != 0 ? BTREE_VERSION_SIZE : 0;
    if ((uint64_t)offset + version_size + key_size + value_size > size)
        return;
    out->version = version_size != 0 ? page + offset : NULL;
    out->key = page + offset + version_size;
    out->value = out->key + key_size;
    out->key_size = (uint16_t)key_size;
    out->value_size = (uint16_t)value_size;
    out->flags = (uint8_t)flags;
}

#if defined(__has_feature)
    #if __has_feature(thread_sanitizer)
        #define COPY_BY_BYTES
    #endif
#elif defined(__SANITIZE_THREAD__)
    #define COPY_BY_BYTES
#endif

#ifdef COPY_BY_BYTES /* memcpy is intercepted even where instrumentation is off */
    #if !defined(__clang__)
__attribute__((optimize("no-tree-loop-distribute-patterns")))
    #endif
ASH_NO_TSAN void
btree__opt_copy(uint8_t *to, const uint8_t *from, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        ((volatile uint8_t *)to)[i] = from[i];
}
#else
void
btree__opt_copy(uint8_t *to, const uint8_t *from, uint32_t size)
{
    memcpy(to, from, size);
}
#endif

ASH_NO_TSAN static struct ash_slice
clamped_slice(const uint8_t *page, uint32_t size, uint32_t offset, uint32_t length)
{
    if ((uint64_t)offset + length > size || length > BTREE_KEY_LIMIT)
        return ash_slice(page, 0);
    return ash_slice(page + offset, length);
}

ASH_NO_TSAN struct ash_slice
btree__opt_lower(const uint8_t *page, uint32_t size)
{
    const struct btree_node *n = btree__cnode(page);
    return clamped_slice(page, size, ONCE(n->lower_offset), ONCE(n->lower_size));
}

ASH_NO_TSAN struct ash_slice
btree__opt_upper(const uint8_t *page, uint32_t size)
{
    const struct btree_node *n = btree__cnode(page);
    return clamped_slice(page, size, ONCE(n->upper_offset), ONCE(n->upper_size));
}
