/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_page_check.c - whether the bytes of a node are a node; and showing them to people.
 *
 * Here nothing of the page is believed: this is what makes it safe to believe it elsewhere.
 */
#include "base/error.h"
#include "btree/btree.h"
#include "btree/btree_page.h"

#include <stdio.h>

#define HEAD ((uint32_t)sizeof(struct btree_node))
#define SLOT ((uint32_t)sizeof(struct btree_slot))

static ash_rc
bad(const uint8_t *page, const char *what, uint32_t where)
{
    const struct page_head *h = (const struct page_head *)(const void *)page;
    return ash_raise(ASH_CORRUPT,
                     "Page %llu of tree %u is damaged: %s (at %u); restore it from a backup.",
                     (unsigned long long)h->page, h->tree, what, where);
}

static ash_rc
check_head(const uint8_t *page, uint32_t size)
{
    const struct btree_node *n = btree__cnode(page);
    if (n->page.type != (n->level == 0 ? PAGE_TYPE_BTREE_LEAF : PAGE_TYPE_BTREE_INNER))
        return bad(page, "its type and its level disagree", n->level);
    if (n->level > BTREE_LEVEL_MAX || (n->flags & ~BTREE_NODE_FLAGS_ALL) != 0)
        return bad(page, "unknown level or flags", n->flags);
    if (n->reserved != 0 || (n->loading != 0 && n->level == 0))
        return bad(page, "reserved bytes are not zero", 148);
    if (HEAD + (uint64_t)n->count * SLOT > n->data_offset || n->data_offset > size ||
        n->used > size - n->data_offset)
        return bad(page, "slots and heap overlap", n->data_offset);
    if (n->level == 0 ? n->right != 0 : BTREE_CHILD_PAGE(n->right) == PAGE_ID_NONE)
        return bad(page, "its right-most child is wrong", 48);
    return ASH_OK;
}

static ash_rc
check_fences(const uint8_t *page, uint32_t size)
{
    const struct btree_node *n = btree__cnode(page);
    bool no_lower = (n->flags & BTREE_NODE_LOWER_INFINITE) != 0,
         no_upper = (n->flags & BTREE_NODE_UPPER_INFINITE) != 0;
    if (n->lower_size > BTREE_KEY_LIMIT || n->upper_size > BTREE_KEY_LIMIT ||
        n->lower_offset < n->data_offset || n->upper_offset < n->data_offset ||
        (uint64_t)n->lower_offset + n->lower_size > size ||
        (uint64_t)n->upper_offset + n->upper_size > size)
        return bad(page, "a fence is outside of the heap", n->lower_offset);
    if ((no_lower && n->lower_size != 0) || (no_upper && n->upper_size != 0))
        return bad(page, "an infinite fence has a key", n->flags);
    uint32_t prefix = 0;
    if (!no_lower && !no_upper) {
        if (btree__compare(btree__lower(page), btree__upper(page)) >= 0)
            return bad(page, "its fences are out of order", n->lower_offset);
        prefix = btree__common_prefix(btree__lower(page), btree__upper(page));
    }
    return prefix == n->prefix_size
               ? ASH_OK
               : bad(page, "its prefix is not what its fences share", n->prefix_size);
}

static ash_rc
check_slot(const uint8_t *page, uint32_t size, uint32_t i, uint64_t *bytes)
{
    const struct btree_node *n = btree__cnode(page);
    const struct btree_slot *s = &btree__cslots(page)[i];
    uint32_t flags = s->key >> BTREE_SLOT_KEY_BITS, key_size = s->key & BTREE_SLOT_KEY_MASK;
    uint32_t entry = btree__entry_size(page, i);
    if (s->offset < n->data_offset || (uint64_t)s->offset + entry > size)
        return bad(page, "an entry is outside of the heap", i);
    if (key_size + n->prefix_size > BTREE_KEY_LIMIT)
        return bad(page, "a key is too long", i);
    if (n->level > 0 && (flags != 0 || s->value_size != BTREE_CHILD_SIZE ||
                         BTREE_CHILD_PAGE(btree__child(page, i)) == PAGE_ID_NONE))
        return bad(page, "a slot of an inner page holds no child", i);
    if ((flags & ~(uint32_t)BTREE_ROW_FLAGS_ALL) != 0)
        return bad(page, "unknown row flags", i);
    struct btree_entry e;
    btree__entry(page, i, &e);
    if ((flags & BTREE_ROW_DELETED) != 0 && e.value_size != 0)
        return bad(page, "a deleted row has a value", i);
    if ((flags & BTREE_ROW_LARGE) != 0) {
        struct btree_large l;
        if (e.value_size < sizeof(l))
            return bad(page, "a large value's description is cut off", i);
        memcpy(&l, e.value, sizeof(l));
        if (l.count > BTREE_LARGE_PAGES_MAX || e.value_size != sizeof(l) + 8 * (size_t)l.count ||
            l.size > ASH_VALUE_SIZE_MAX)
            return bad(page, "a large value's description contradicts itself", i);
    }
    uint8_t head[4] = { 0, 0, 0, 0 };
    memcpy(head, e.key, key_size < 4 ? key_size : 4);
    if (get_be32(head) != s->head)
        return bad(page, "a slot's key head is not its key's", i);
    *bytes += entry;
    return ASH_OK;
}

/* Order of keys without their common prefix, and that the first and last lie between the fences. */
static ash_rc
check_order(const uint8_t *page)
{
    const struct btree_node *n = btree__cnode(page);
    struct ash_slice before = ash_slice(NULL, 0);
    for (uint32_t i = 0; i < n->count; i++) {
        struct btree_entry e;
        btree__entry(page, i, &e);
        struct ash_slice key = ash_slice(e.key, e.key_size);
        if (i > 0 && btree__compare(before, key) >= 0)
            return bad(page, "its keys are out of order", i);
        before = key;
    }
    if (n->count == 0)
        return ASH_OK;
    uint8_t key[2 * BTREE_KEY_LIMIT];
    uint32_t first = btree__key(page, 0, key);
    if (!btree__covers(page, ash_slice(key, first)))
        return bad(page, "its first key is not above its lower fence", 0);
    uint32_t last = btree__key(page, n->count - 1, key);
    if (!btree__covers(page, ash_slice(key, last)))
        return bad(page, "its last key is above its upper fence", n->count - 1);
    /* A separator equal to the upper fence would leave nothing for the right-most child. */
    if (n->level > 0 && (n->flags & BTREE_NODE_UPPER_INFINITE) == 0 &&
        btree__compare(ash_slice(key, last), btree__upper(page)) == 0)
        return bad(page, "its last separator is its upper fence", n->count - 1);
    return ASH_OK;
}

static ash_rc
check_hints(const uint8_t *page)
{
    const struct btree_node *n = btree__cnode(page);
    if (n->count < BTREE_HINT_COUNT_MIN)
        return ASH_OK;
    uint32_t step = n->count / (BTREE_HINTS + 1);
    for (uint32_t i = 0; i < BTREE_HINTS; i++) {
        if (n->hint[i] != btree__cslots(page)[step * (i + 1)].head)
            return bad(page, "a search hint is wrong", i);
    }
    return ASH_OK;
}

ash_rc
btree_page_check(const uint8_t *page, uint32_t size)
{
    const struct btree_node *n = btree__cnode(page);
    if (size < PAGE_SIZE_MIN || size > PAGE_CLASS_SIZE(PAGE_CLASS_COUNT - 1) || !is_pow2(size))
        return ash_raise(ASH_CORRUPT, "A page of %u bytes is no B+tree page.", size);
    if (n->page.type == PAGE_TYPE_VALUE) {
        const struct btree_value_page *v = (const void *)page;
        return v->size <= size - sizeof(*v) && v->index < BTREE_LARGE_PAGES_MAX
                   ? ASH_OK
                   : bad(page, "its value is too long", v->size);
    }
    ash_rc rc = check_head(page, size);
    if (rc == ASH_OK)
        rc = check_fences(page, size);
    if (rc != ASH_OK)
        return rc;
    uint64_t bytes = (uint64_t)n->lower_size + n->upper_size;
    uint32_t ghosts = 0, versions = 0;
    for (uint32_t i = 0; i < n->count; i++) {
        rc = check_slot(page, size, i, &bytes);
        if (rc != ASH_OK)
            return rc;
        uint32_t flags = btree__cslots(page)[i].key >> BTREE_SLOT_KEY_BITS;
        ghosts += (flags & BTREE_ROW_DELETED) != 0;
        versions += (flags & BTREE_ROW_VERSIONED) != 0;
    }
    if (bytes != n->used)
        return bad(page, "its entries don't add up to what it says it uses", n->used);
    if (ghosts != n->ghosts || versions != n->versions)
        return bad(page, "it counts deleted or versioned rows wrongly", n->ghosts);
    rc = check_order(page);
    return rc == ASH_OK ? check_hints(page) : rc;
}

/* ---- Printing ---- */

/* Keys as text where they are text. */
static void
show_bytes(char *out, size_t room, const uint8_t *data, size_t size)
{
    size_t n = 0, shown = size < 32 ? size : 32;
    for (size_t i = 0; i < shown && n + 8 < room; i++) {
        if (data[i] > ' ' && data[i] < 127 && data[i] != '\\')
            out[n++] = (char)data[i];
        else
            n += (size_t)snprintf(out + n, room - n, "\\%02x", data[i]);
    }
    if (size > shown)
        n += (size_t)snprintf(out + n, room - n, "..");
    out[n] = '\0';
}

static void
print_slot(const uint8_t *page, uint32_t size, uint32_t i,
           void (*line)(void *arg, const char *text), void *arg)
{
    char key[160], text[320];
    struct btree_entry e;
    btree__opt_entry(page, size, i, &e);
    show_bytes(key, sizeof(key), e.key, e.key_size);
    if (btree__cnode(page)->level > 0) {
        uint64_t word = btree__opt_child(page, size, i);
        snprintf(text, sizeof(text), "  %4u  <= %s  -> page %llu, about %llu rows", i, key,
                 (unsigned long long)BTREE_CHILD_PAGE(word),
                 (unsigned long long)btree__rows_decode(word));
    } else if (e.version != NULL) {
        snprintf(text, sizeof(text), "  %4u  %s  %u bytes%s%s  writer %llu undo %llu", i, key,
                 e.value_size, (e.flags & BTREE_ROW_DELETED) != 0 ? " deleted" : "",
                 (e.flags & BTREE_ROW_LARGE) != 0 ? " large" : "",
                 (unsigned long long)get_le64(e.version),
                 (unsigned long long)get_le64(e.version + 8));
    } else {
        snprintf(text, sizeof(text), "  %4u  %s  %u bytes%s%s", i, key, e.value_size,
                 (e.flags & BTREE_ROW_DELETED) != 0 ? " deleted" : "",
                 (e.flags & BTREE_ROW_LARGE) != 0 ? " large" : "");
    }
    line(arg, text);
}

void
btree_page_print(const uint8_t *page, uint32_t size, void (*line)(void *arg, const char *text),
                 void *arg)
{
    const struct btree_node *n = btree__cnode(page);
    char text[400], lower[160], upper[160];
    struct ash_slice l = btree__opt_lower(page, size), u = btree__opt_upper(page, size);
    show_bytes(lower, sizeof(lower), l.data, l.size);
    show_bytes(upper, sizeof(upper), u.data, u.size);
    snprintf(
        text, sizeof(text),
        "level %u, %u slots, %u deleted, %u versioned, prefix %u, heap from %u, %u used, flags %u",
        n->level, n->count, n->ghosts, n->versions, n->prefix_size, n->data_offset, n->used,
        n->flags);
    line(arg, text);
    snprintf(text, sizeof(text), "fences: %s < key <= %s",
             (n->flags & BTREE_NODE_LOWER_INFINITE) != 0 ? "(none)" : lower,
             (n->flags & BTREE_NODE_UPPER_INFINITE) != 0 ? "(none)" : upper);
    line(arg, text);
    uint32_t max = (size - HEAD) / SLOT, count = n->count < max ? n->count : max;
    for (uint32_t i = 0; i < count; i++)
        print_slot(page, size, i, line, arg);
    if (n->level > 0) {
        snprintf(text, sizeof(text), "  rest  -> page %llu, about %llu rows",
                 (unsigned long long)BTREE_CHILD_PAGE(n->right),
                 (unsigned long long)btree__rows_decode(n->right));
        line(arg, text);
    }
}
