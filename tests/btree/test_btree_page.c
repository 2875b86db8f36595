/* SPDX-License-Identifier: Apache-2.0
 *
 * test_btree_page.c - the page layer against a sorted array: random changes of pages of every class
 * keep the same rows, pass btree_page_check(), and redo of the same payloads on a copy makes the
 * same bytes.  Searching random bytes stays inside the page.
 */
#include "base/mem.h"
#include "base/random.h"
#include "btree/btree.h"
#include "btree/btree_page.h"
#include "tests/test_main.h"

#define MODEL_MAX 4096
#define KEY_MAX   64

struct model_row {
    uint8_t key[KEY_MAX];
    uint32_t key_size, value_size;
    uint8_t flags, seed;
    uint64_t writer, undo;
};

struct world {
    uint8_t *page, *copy, *scratch;
    uint32_t size, key_limit, value_limit;
    unsigned alphabet;
    uint8_t lower[8], upper[8];
    uint32_t prefix_size;
    struct model_row *rows;
    uint32_t count;
    struct random rnd;
    uint64_t seed;
};

static struct ash_slice
row_key(const struct model_row *r)
{
    return ash_slice(r->key, r->key_size);
}

static void
fill_value(uint8_t *out, const struct model_row *r)
{
    for (uint32_t i = 0; i < r->value_size; i++)
        out[i] = (uint8_t)(r->seed + i * 7);
}

/* Applies to both pages; they must agree. */
static ash_rc
both(struct world *w, uint16_t op, const void *payload, uint32_t size, uint64_t start)
{
    ash_rc rc = btree__apply(w->page, w->size, op, payload, size, start, w->scratch);
    ash_rc again = btree__redo(w->copy, w->size, op, payload, size, start);
    ck_assert_int_eq(rc, again);
    ck_assert_msg(memcmp(w->page, w->copy, w->size) == 0, "redo differs: op %u seed %llu", op,
                  (unsigned long long)w->seed);
    return rc;
}

static void
world_init(struct world *w, unsigned class, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    w->seed = seed;
    random_init(&w->rnd, seed);
    w->size = PAGE_CLASS_SIZE(class);
    w->page = mem_aligned(MEM_TEST, 4096, w->size);
    w->copy = mem_aligned(MEM_TEST, 4096, w->size);
    w->scratch = mem_aligned(MEM_TEST, 4096, w->size);
    w->rows = mem_alloc(MEM_TEST, sizeof(*w->rows) * MODEL_MAX);
    w->alphabet = 2 + (unsigned)random_below(&w->rnd, 254);
    w->key_limit = 1 + (uint32_t)random_below(&w->rnd, KEY_MAX - 8);
    w->value_limit = (uint32_t)random_below(&w->rnd, w->size / 8 < 16000 ? w->size / 8 : 16000);
    memset(w->page, 0, w->size);
    struct page_head *h = (void *)w->page;
    *h = (struct page_head){ .format = PAGE_FORMAT,
                             .type = PAGE_TYPE_BTREE_LEAF,
                             .page_class = (uint8_t) class,
                             .page = 77,
                             .tree = 5 };
    memcpy(w->copy, w->page, w->size);

    struct btree_fence lower = { BTREE_FENCE_INFINITE, { NULL, 0 } }, upper = lower;
    if (random_chance(&w->rnd, 2, 3)) {
        w->prefix_size = (uint32_t)random_below(&w->rnd, 5);
        memset(w->lower, 'p', w->prefix_size);
        memset(w->upper, 'p', w->prefix_size);
        w->lower[w->prefix_size] = 0;
        w->upper[w->prefix_size] = 255;
        lower = (struct btree_fence){ BTREE_FENCE_GIVEN, ash_slice(w->lower, w->prefix_size + 1) };
        upper = (struct btree_fence){ BTREE_FENCE_GIVEN, ash_slice(w->upper, w->prefix_size + 1) };
    }
    struct btree_edit e;
    ck_assert_int_eq(btree__edit_begin(&e, NULL, &lower, &upper, 0, 0, 0), ASH_OK);
    btree__edit_end(&e);
    ck_assert_int_eq(both(w, BTREE_OP_NODE_EDIT, e.data, e.size, 0), ASH_OK);
    btree__edit_free(&e);
    ck_assert_uint_eq(btree__cnode(w->page)->prefix_size, w->prefix_size);
}

static void
world_deinit(struct world *w)
{
    mem_free(MEM_TEST, w->page);
    mem_free(MEM_TEST, w->copy);
    mem_free(MEM_TEST, w->scratch);
    mem_free(MEM_TEST, w->rows);
}

static void
random_key(struct world *w, struct model_row *r)
{
    memset(r->key, 'p', w->prefix_size);
    uint32_t n = 1 + (uint32_t)random_below(&w->rnd, w->key_limit);
    for (uint32_t i = 0; i < n; i++)
        r->key[w->prefix_size + i] = (uint8_t)(1 + random_below(&w->rnd, w->alphabet) % 254);
    r->key_size = w->prefix_size + n;
}

static uint32_t
model_find(const struct world *w, struct ash_slice key, bool *exact)
{
    uint32_t i = 0;
    *exact = false;
    while (i < w->count && btree__compare(row_key(&w->rows[i]), key) < 0)
        i++;
    *exact = i < w->count && btree__compare(row_key(&w->rows[i]), key) == 0;
    return i;
}

static void
compare_all(struct world *w)
{
    static uint8_t value[65536];
    ck_assert_msg(btree_page_check(w->page, w->size) == ASH_OK, "seed %llu: %s",
                  (unsigned long long)w->seed, err_current()->message);
    ck_assert_uint_eq(btree__cnode(w->page)->count, w->count);
    for (uint32_t i = 0; i < w->count; i++) {
        struct model_row *r = &w->rows[i];
        struct btree_entry e, o;
        uint8_t key[2 * BTREE_KEY_LIMIT];
        btree__entry(w->page, i, &e);
        btree__opt_entry(w->page, w->size, i, &o);
        ck_assert(e.value == o.value && e.key == o.key && e.version == o.version &&
                  e.flags == o.flags);
        uint32_t n = btree__key(w->page, i, key);
        ck_assert(btree__compare(ash_slice(key, n), row_key(r)) == 0);
        ck_assert_uint_eq(e.flags, r->flags);
        ck_assert_uint_eq(e.value_size, r->value_size);
        fill_value(value, r);
        ck_assert(r->value_size == 0 || memcmp(value, e.value, r->value_size) == 0);
        if (e.version != NULL) {
            ck_assert_uint_eq(get_le64(e.version), r->writer);
            ck_assert_uint_eq(get_le64(e.version + 8), r->undo);
        }
        bool exact;
        ck_assert_uint_eq(btree__lower_bound(w->page, w->size, key, n, &exact), i);
        ck_assert(exact);
    }
}

/* Builds a put for row r; the version head is stamped or given. */
static uint32_t
build_put(struct world *w, struct model_row *r, uint32_t slot, enum btree_put_mode mode,
          uint64_t start, uint8_t *payload)
{
    struct btree_op_put op = { .slot = slot,
                               .value_size = (uint16_t)r->value_size,
                               .flags = r->flags,
                               .mode = (uint8_t)mode };
    uint8_t *p = payload + sizeof(op);
    if ((r->flags & BTREE_ROW_VERSIONED) != 0) {
        r->writer = 1 + random_below(&w->rnd, 1000);
        if (random_chance(&w->rnd, 1, 2)) {
            op.writer = r->writer;
            r->undo = start;
        } else {
            r->undo = random_u64(&w->rnd);
            put_le64(p, r->writer);
            put_le64(p + 8, r->undo);
            p += 16;
        }
    }
    if (mode == BTREE_PUT_INSERT) {
        op.key_size = (uint16_t)(r->key_size - w->prefix_size);
        memcpy(p, r->key + w->prefix_size, op.key_size);
        p += op.key_size;
    }
    fill_value(p, r);
    p += r->value_size;
    memcpy(payload, &op, sizeof(op));
    return (uint32_t)(p - payload);
}

static uint32_t
stored_size(const struct world *w, const struct model_row *r)
{
    return r->key_size - w->prefix_size + r->value_size +
           ((r->flags & BTREE_ROW_VERSIONED) != 0 ? 16 : 0);
}

static void
step_put(struct world *w)
{
    static uint8_t payload[70000];
    struct model_row r = { .seed = (uint8_t)random_u64(&w->rnd) };
    bool exact, found;
    random_key(w, &r);
    r.flags = random_chance(&w->rnd, 1, 2) ? BTREE_ROW_VERSIONED : 0;
    if (r.flags != 0 && random_chance(&w->rnd, 1, 5))
        r.flags |= BTREE_ROW_DELETED;
    r.value_size = (r.flags & BTREE_ROW_DELETED) != 0
                       ? 0
                       : (uint32_t)random_below(&w->rnd, w->value_limit + 1);
    uint32_t at = model_find(w, row_key(&r), &exact);
    ck_assert_uint_eq(btree__lower_bound(w->page, w->size, r.key, r.key_size, &found), at);
    ck_assert(found == exact);
    uint32_t room = btree__free_total(w->page, w->size);
    uint64_t start = random_u64(&w->rnd);
    uint32_t size =
        build_put(w, &r, at, exact ? BTREE_PUT_REPLACE : BTREE_PUT_INSERT, start, payload);
    uint32_t need = exact ? stored_size(w, &r)
                          : stored_size(w, &r) + (uint32_t)sizeof(struct btree_slot);
    if (exact)
        room += stored_size(w, &w->rows[at]);
    if (need > room || (!exact && w->count == MODEL_MAX))
        return;
    ck_assert_int_eq(both(w, BTREE_OP_LEAF_PUT, payload, size, start), ASH_OK);
    if (!exact) {
        memmove(w->rows + at + 1, w->rows + at, sizeof(r) * (w->count - at));
        w->count++;
    }
    w->rows[at] = r;
}

static void
step_remove(struct world *w)
{
    if (w->count == 0)
        return;
    struct btree_op_slot op = { .slot = (uint32_t)random_below(&w->rnd, w->count) };
    ck_assert_int_eq(both(w, BTREE_OP_LEAF_REMOVE, &op, sizeof(op), 0), ASH_OK);
    memmove(w->rows + op.slot, w->rows + op.slot + 1, sizeof(*w->rows) * (w->count - op.slot - 1));
    w->count--;
}

static void
step_purge(struct world *w)
{
    static uint8_t payload[4 * MODEL_MAX];
    uint32_t n = 0, to = 0;
    for (uint32_t i = 0; i < w->count; i++) {
        struct model_row r = w->rows[i];
        bool gone = false;
        if ((r.flags & BTREE_ROW_VERSIONED) != 0 && random_chance(&w->rnd, 1, 2)) {
            gone = (r.flags & BTREE_ROW_DELETED) != 0;
            put_le32(payload + 4 * (size_t)n++, i << 1 | gone);
            r.flags &= (uint8_t)~BTREE_ROW_VERSIONED;
        }
        if (!gone)
            w->rows[to++] = r;
    }
    w->count = to;
    ck_assert_int_eq(both(w, BTREE_OP_LEAF_PURGE, payload, 4 * n, 0), ASH_OK);
}

/* Splits by two edits on copies, checks both halves, and puts them together again. */
static void
step_split(struct world *w)
{
    if (w->count < 2)
        return;
    struct btree_split split;
    struct model_row r = { 0 };
    bool exact;
    random_key(w, &r);
    uint32_t pos = model_find(w, row_key(&r), &exact);
    if (exact)
        return;
    btree__split_leaf(w->page, w->size, pos, row_key(&r), 40, random_chance(&w->rnd, 1, 3), &split);
    struct ash_slice sep = ash_slice(split.key, split.key_size);
    ck_assert(split.slot <= w->count);
    for (uint32_t i = 0; i < w->count; i++)
        ck_assert((btree__compare(row_key(&w->rows[i]), sep) <= 0) == (i < split.slot));

    uint8_t *right = mem_aligned(MEM_TEST, 4096, w->size),
            *whole = mem_aligned(MEM_TEST, 4096, w->size);
    memcpy(whole, w->page, w->size);
    memset(right, 0, w->size);
    memcpy(right, w->page, sizeof(struct page_head));
    struct btree_fence keep = { BTREE_FENCE_KEEP, { NULL, 0 } }, given = { BTREE_FENCE_GIVEN, sep };
    struct btree_fence upper = { (btree__cnode(whole)->flags & BTREE_NODE_UPPER_INFINITE) != 0
                                     ? BTREE_FENCE_INFINITE
                                     : BTREE_FENCE_GIVEN,
                                 btree__upper(whole) };
    struct btree_edit l, e, back;
    ck_assert_int_eq(btree__edit_begin(&e, NULL, &given, &upper, 0, 0, 0), ASH_OK);
    ck_assert_int_eq(btree__edit_rows(&e, whole, split.slot, w->count), ASH_OK);
    btree__edit_end(&e);
    ck_assert_int_eq(btree__redo(right, w->size, BTREE_OP_NODE_EDIT, e.data, e.size, 0), ASH_OK);
    ck_assert_int_eq(btree__edit_begin(&l, whole, &keep, &given, 0, 0, 0), ASH_OK);
    l.op.keep_to = split.slot;
    btree__edit_end(&l);
    ck_assert_int_eq(both(w, BTREE_OP_NODE_EDIT, l.data, l.size, 0), ASH_OK);
    ck_assert_int_eq(btree_page_check(w->page, w->size), ASH_OK);
    ck_assert_int_eq(btree_page_check(right, w->size), ASH_OK);
    ck_assert_uint_eq(btree__cnode(w->page)->count, split.slot);
    ck_assert_uint_eq(btree__cnode(right)->count, w->count - split.slot);
    /* and back */
    ck_assert_int_eq(btree__edit_begin(&back, w->page, &keep, &upper, 0, 0, 0), ASH_OK);
    ck_assert_int_eq(btree__edit_rows(&back, right, 0, btree__cnode(right)->count), ASH_OK);
    back.op.keep_to = split.slot;
    btree__edit_end(&back);
    ck_assert_int_eq(both(w, BTREE_OP_NODE_EDIT, back.data, back.size, 0), ASH_OK);
    btree__edit_free(&l);
    btree__edit_free(&e);
    btree__edit_free(&back);
    mem_free(MEM_TEST, right);
    mem_free(MEM_TEST, whole);
}

static void
run_leaf(unsigned class, uint64_t seed, unsigned steps)
{
    struct world w;
    world_init(&w, class, seed);
    unsigned every = class < 3 ? 1 : 200;
    for (unsigned i = 0; i < steps; i++) {
        uint64_t dice = random_below(&w.rnd, 100);
        if (dice < 75)
            step_put(&w);
        else if (dice < 90)
            step_remove(&w);
        else if (dice < 95)
            step_split(&w);
        else
            step_purge(&w);
        if (i % every == 0)
            compare_all(&w);
    }
    compare_all(&w);
    world_deinit(&w);
}

START_TEST(random_changes_match_a_sorted_array_in_every_class)
{
    uint64_t rounds = test_scale(6, 200);
    for (uint64_t s = 0; s < rounds; s++)
        run_leaf((unsigned)_i, test_seed(1000u * (unsigned)_i + s),
                 _i < 3   ? 400
                 : _i < 6 ? 200
                          : 60);
}
END_TEST

/* ---- Inner pages ---- */

static void
inner_apply(uint8_t *page, uint8_t *copy, uint16_t op, struct btree_op_child c,
            struct ash_slice tail)
{
    uint8_t payload[sizeof(c) + BTREE_KEY_LIMIT];
    c.key_size = (uint16_t)tail.size;
    memcpy(payload, &c, sizeof(c));
    if (tail.size > 0)
        memcpy(payload + sizeof(c), tail.data, tail.size);
    uint32_t n = (uint32_t)(sizeof(c) + tail.size);
    ck_assert_int_eq(btree__redo(page, 4096, op, payload, n, 9), ASH_OK);
    ck_assert_int_eq(btree__redo(copy, 4096, op, payload, n, 9), ASH_OK);
    ck_assert(memcmp(page, copy, 4096) == 0);
    ck_assert_msg(btree_page_check(page, 4096) == ASH_OK, "%s", err_current()->message);
}

START_TEST(children_match_a_sorted_array)
{
    struct random rnd;
    random_init(&rnd, test_seed(5 + (uint64_t)_i));
    uint8_t *page = mem_aligned(MEM_TEST, 4096, 4096), *copy = mem_aligned(MEM_TEST, 4096, 4096);
    memset(page, 0, 4096);
    *(struct page_head *)(void *)page =
        (struct page_head){ .format = 1, .type = PAGE_TYPE_BTREE_INNER, .page = 7, .tree = 5 };
    struct btree_fence inf = { BTREE_FENCE_INFINITE, { NULL, 0 } };
    struct btree_edit e;
    ck_assert_int_eq(btree__edit_begin(&e, NULL, &inf, &inf, 1, btree__child_word(1, 0), 0),
                     ASH_OK);
    btree__edit_end(&e);
    ck_assert_int_eq(btree__redo(page, 4096, BTREE_OP_NODE_EDIT, e.data, e.size, 0), ASH_OK);
    btree__edit_free(&e);
    memcpy(copy, page, 4096);
    static uint32_t keys[400];
    static uint64_t child[401];
    uint32_t count = 0;
    child[0] = 1;
    for (unsigned i = 0; i < 3000; i++) {
        uint32_t k = (uint32_t)random_u64(&rnd) >> (_i * 4), at = 0;
        uint8_t kb[4];
        put_be32(kb, k);
        while (at < count && keys[at] < k)
            at++;
        uint32_t slot;
        ck_assert_uint_eq(BTREE_CHILD_PAGE(btree__find_child(page, 4096, kb, 4, &slot)), child[at]);
        ck_assert_uint_eq(slot, at);
        bool same = at < count && keys[at] == k;
        uint64_t dice = random_below(&rnd, 10);
        struct btree_op_child c = { .slot = at };
        if (dice < 6 && !same && btree__free_total(page, 4096) >= 12 + 12) {
            c.left = btree__child_word(i + 10, i);
            c.right = btree__child_word(child[at], 3);
            memmove(keys + at + 1, keys + at, 4 * (count - at));
            memmove(child + at + 1, child + at, 8 * (count + 1 - at));
            keys[at] = k;
            child[at] = i + 10;
            count++;
            inner_apply(page, copy, BTREE_OP_INNER_SPLIT, c, ash_slice(kb, 4));
        } else if (dice < 8 && at < count) {
            c.left = btree__child_word(child[at], 10);
            memmove(keys + at, keys + at + 1, 4 * (count - at - 1));
            memmove(child + at + 1, child + at + 2, 8 * (count - at - 1));
            count--;
            inner_apply(page, copy, BTREE_OP_INNER_MERGE, c, ash_slice(NULL, 0));
        } else if (dice < 9 && at < count) {
            keys[at] = k;
            c.left = btree__child_word(child[at], 1);
            c.right = btree__child_word(child[at + 1], 2);
            inner_apply(page, copy, BTREE_OP_INNER_MOVE, c, ash_slice(kb, 4));
        } else {
            child[at] = i + 10;
            c.left = btree__child_word(child[at], 100000);
            inner_apply(page, copy, BTREE_OP_INNER_WORD, c, ash_slice(NULL, 0));
        }
        ck_assert_uint_eq(btree__cnode(page)->count, count);
    }
    if (count >= 1) {
        struct btree_split s;
        btree__split_inner(page, false, &s);
        ck_assert(s.slot < count && s.key_size == 4);
    }
    mem_free(MEM_TEST, page);
    mem_free(MEM_TEST, copy);
}
END_TEST

/* ---- Small things ---- */

START_TEST(a_separator_lies_between_its_keys_and_is_never_longer_than_the_left_one)
{
    struct random rnd;
    random_init(&rnd, test_seed(3));
    for (unsigned i = 0; i < 20000; i++) {
        uint8_t a[12], b[12], s[BTREE_KEY_LIMIT];
        uint32_t n = (uint32_t)random_below(&rnd, 12), m = (uint32_t)random_below(&rnd, 12);
        for (unsigned j = 0; j < 12; j++) {
            a[j] = (uint8_t)random_below(&rnd, 3);
            b[j] = (uint8_t)random_below(&rnd, 3);
        }
        struct ash_slice x = ash_slice(a, n), y = ash_slice(b, m);
        if (btree__compare(x, y) >= 0)
            continue;
        struct ash_slice sep = ash_slice(s, btree__separator(x, y, s));
        ck_assert(btree__compare(x, sep) <= 0 && btree__compare(sep, y) < 0);
        ck_assert(sep.size <= x.size);
    }
}
END_TEST

START_TEST(row_estimates_keep_three_digits)
{
    for (uint64_t rows = 0; rows < 1ull << 50; rows = rows * 5 / 4 + 1) {
        uint64_t word = btree__child_word(12345, rows), back = btree__rows_decode(word);
        ck_assert_uint_eq(BTREE_CHILD_PAGE(word), 12345);
        ck_assert(back <= rows && rows - back <= rows / 512);
    }
}
END_TEST

START_TEST(splits_make_room_even_with_long_fences_and_rows)
{
    /* Worst keys: two alternatives in the first byte, then 990 bytes that hardly differ. */
    struct random rnd;
    random_init(&rnd, test_seed(8));
    for (unsigned round = 0; round < 300; round++) {
        uint8_t *page = mem_aligned(MEM_TEST, 4096, 4096), lo[992], hi[992], k[992];
        memset(lo, 'A', 992);
        memset(hi, 'z', 992);
        memset(page, 0, 4096);
        *(struct page_head *)(void *)page =
            (struct page_head){ .format = 1, .type = PAGE_TYPE_BTREE_LEAF, .page = 7 };
        struct btree_fence lower = { BTREE_FENCE_GIVEN, ash_slice(lo, 992) },
                           upper = { BTREE_FENCE_GIVEN, ash_slice(hi, 992) };
        struct btree_edit e;
        ck_assert_int_eq(btree__edit_begin(&e, NULL, &lower, &upper, 0, 0, 0), ASH_OK);
        uint32_t n = 1 + (uint32_t)random_below(&rnd, 2), room = 4096 - 160 - 1984;
        for (uint32_t i = 0; i < n; i++) {
            memset(k, 'b' + (int)i * 2, 992);
            uint32_t value = (uint32_t)random_below(&rnd, 150);
            if (room < 12 + 992 + value)
                break;
            room -= 12 + 992 + value;
            ck_assert_int_eq(btree__edit_row(&e, ash_slice(k, 992), 0, lo, value), ASH_OK);
        }
        btree__edit_end(&e);
        ck_assert_int_eq(btree__redo(page, 4096, BTREE_OP_NODE_EDIT, e.data, e.size, 0), ASH_OK);
        btree__edit_free(&e);
        struct btree_split s;
        bool exact;
        memset(k, 'a' + (int)random_below(&rnd, 3) * 2, 992);
        uint32_t pos = btree__lower_bound(page, 4096, k, 992, &exact);
        ck_assert(!exact);
        btree__split_leaf(page, 4096, pos, ash_slice(k, 992), 992 + 16 + 144, false, &s);
        uint32_t left = btree__rows_bytes(page, 0, s.slot, 0),
                 right = btree__rows_bytes(page, s.slot, btree__cnode(page)->count, 0);
        bool goes_left = btree__compare(ash_slice(k, 992), ash_slice(s.key, s.key_size)) <= 0;
        *(goes_left ? &left : &right) += 12 + 992 + 16 + 144;
        if (btree__cnode(page)->count == 1)
            ck_assert(left + 160 + 992 + s.key_size <= 4096 &&
                      right + 160 + 992 + s.key_size <= 4096);
        mem_free(MEM_TEST, page);
    }
}
END_TEST

/* The separator below "b" is as long as the key before it, for which the left half has no room. */
START_TEST(a_border_is_refused_when_a_half_would_overflow)
{
    uint8_t *page = mem_aligned(MEM_TEST, 4096, 4096), k[900], value[2000] = { 0 };
    struct btree_fence none = { BTREE_FENCE_INFINITE, { NULL, 0 } };
    struct btree_edit e;
    struct btree_split s;
    memset(page, 0, 4096);
    memset(k, 'a', sizeof(k));
    *(struct page_head *)(void *)page =
        (struct page_head){ .format = 1, .type = PAGE_TYPE_BTREE_LEAF, .page = 7 };
    ck_assert_int_eq(btree__edit_begin(&e, NULL, &none, &none, 0, 0, 0), ASH_OK);
    ck_assert_int_eq(btree__edit_row(&e, ash_slice("A", 1), 0, value, 2000), ASH_OK);
    ck_assert_int_eq(btree__edit_row(&e, ash_slice(k, 900), 0, value, 900), ASH_OK);
    ck_assert_int_eq(btree__edit_row(&e, ash_slice("b", 1), 0, value, 40), ASH_OK);
    btree__edit_end(&e);
    ck_assert_int_eq(btree__redo(page, 4096, BTREE_OP_NODE_EDIT, e.data, e.size, 0), ASH_OK);
    btree__edit_free(&e);
    ck_assert(!btree__split_leaf_at(page, 4096, 2, &s));
    ck_assert(btree__split_leaf_at(page, 4096, 1, &s));
    ck_assert(s.slot == 1 && s.key_size == 1 && s.key[0] == 'A');
    mem_free(MEM_TEST, page);
}
END_TEST

/* Two keys in a page, equal but for one byte, and wanted keys around them: every length and place, so
 * that every way of comparing the end of a key is walked. */
START_TEST(search_sees_every_byte_of_a_key)
{
    uint8_t *page = mem_aligned(MEM_TEST, 4096, 4096), k[4][40];
    struct btree_fence infinite = { BTREE_FENCE_INFINITE, { NULL, 0 } };
    for (uint32_t size = 1; size <= sizeof(k[0]); size++) {
        for (uint32_t at = 0; at < size; at++) {
            struct btree_edit e;
            for (unsigned i = 0; i < 4; i++) {
                memset(k[i], 0x80, size);
                k[i][at] = (uint8_t)(0x7e + i); /* around the sign bit */
            }
            memset(page, 0, 4096);
            *(struct page_head *)(void *)page = (struct page_head){
                .format = PAGE_FORMAT, .type = PAGE_TYPE_BTREE_LEAF, .page = 77, .tree = 5
            };
            ck_assert_int_eq(btree__edit_begin(&e, NULL, &infinite, &infinite, 0, 0, 0), ASH_OK);
            ck_assert_int_eq(btree__edit_row(&e, ash_slice(k[1], size), 0, "v", 1), ASH_OK);
            ck_assert_int_eq(btree__edit_row(&e, ash_slice(k[2], size), 0, "v", 1), ASH_OK);
            btree__edit_end(&e);
            ck_assert_int_eq(btree__redo(page, 4096, BTREE_OP_NODE_EDIT, e.data, e.size, 0),
                             ASH_OK);
            btree__edit_free(&e);
            for (unsigned i = 0; i < 4; i++) {
                bool exact;
                uint32_t slot = btree__lower_bound(page, 4096, k[i], size, &exact);
                ck_assert_msg(slot == (i < 2 ? 0 : i - 1) && exact == (i == 1 || i == 2),
                              "%u bytes that differ at %u: key %u is at slot %u", size, at, i,
                              slot);
            }
        }
    }
    mem_free(MEM_TEST, page);
}
END_TEST

static void
drop_line(void *arg, const char *text)
{
    *(size_t *)arg += strlen(text);
}

/* What an optimistic reader may see while a writer works: anything.  Address sanitizer watches the
 * page's edges. */
START_TEST(searching_garbage_stays_inside_the_page)
{
    struct random rnd;
    random_init(&rnd, test_seed(11));
    uint8_t *page = mem_aligned(MEM_TEST, 4096, 4096);
    size_t chars = 0;
    for (unsigned i = 0; i < test_scale(3000, 300000); i++) {
        for (unsigned j = 0; j < 4096; j += 8) {
            uint64_t v = random_u64(&rnd);
            memcpy(page + j, &v, 8);
        }
        struct btree_node *n = btree__node(page);
        if (random_chance(&rnd, 1, 2))
            n->count = (uint32_t)random_below(&rnd, 400);
        if (random_chance(&rnd, 1, 2))
            n->prefix_size = (uint16_t)random_below(&rnd, 20);
        for (unsigned s = 0; s < 328 && i % 3 == 0; s++) {
            btree__slots(page)[s].offset &= 4095;
            btree__slots(page)[s].head = s / 40;
        }
        uint8_t key[16];
        put_be64(key, random_below(&rnd, 8) << 32);
        put_be64(key + 8, random_u64(&rnd));
        for (uint32_t size = 0; size <= 16; size += 4) {
            bool exact;
            uint32_t slot = btree__lower_bound(page, 4096, key, size, &exact);
            struct btree_entry e;
            uint8_t copy[4096];
            btree__opt_entry(page, 4096, slot, &e);
            btree__opt_copy(copy, e.value, e.value_size);
            btree__opt_copy(copy, e.key, e.key_size);
            chars += btree__find_child(page, 4096, key, size, &slot) & 1;
            struct ash_slice f = btree__opt_lower(page, 4096);
            btree__opt_copy(copy, f.data, (uint32_t)f.size);
            f = btree__opt_upper(page, 4096);
            btree__opt_copy(copy, f.data, (uint32_t)f.size);
        }
        if (i % 16 == 0) {
            /* nearly always corrupt; it must only not crash */
            ash_ignore(btree_page_check(page, 4096));
            btree_page_print(page, 4096, drop_line, &chars);
        }
    }
    ck_assert(chars > 0);
    mem_free(MEM_TEST, page);
}
END_TEST

/* Flipping bytes of good payloads: an error or a page that still passes its check, never a crash.
 * */
START_TEST(redo_of_damaged_payloads_is_an_error_or_harmless)
{
    struct world w;
    world_init(&w, 0, test_seed(21));
    for (unsigned i = 0; i < 100; i++)
        step_put(&w);
    uint8_t *page = mem_aligned(MEM_TEST, 4096, 4096), payload[512];
    for (unsigned i = 0; i < test_scale(20000, 500000); i++) {
        memcpy(page, w.page, 4096);
        uint32_t n = (uint32_t)random_below(&w.rnd, sizeof(payload));
        for (uint32_t j = 0; j < n; j++)
            payload[j] = random_chance(&w.rnd, 1, 2) ? 0 : (uint8_t)random_below(&w.rnd, 20);
        /* must not crash */
        ash_ignore(
            btree__redo(page, 4096, (uint16_t)(16 + random_below(&w.rnd, 10)), payload, n, 1));
    }
    mem_free(MEM_TEST, page);
    world_deinit(&w);
}
END_TEST

/* A payload whose sizes add up, with slots, flags and bytes that may fit the page or not. */
static uint32_t
plausible_payload(struct random *rnd, uint16_t op, uint8_t *payload)
{
    uint32_t body = (uint32_t)random_below(rnd, 300);
    for (uint32_t i = 0; i < 1200; i++)
        payload[i] = (uint8_t)random_u64(rnd);
    if (op == BTREE_OP_LEAF_PUT) {
        struct btree_op_put p = { .writer = random_below(rnd, 2),
                                  .slot = (uint32_t)random_below(rnd, 40),
                                  .flags = (uint8_t)random_below(rnd, 9),
                                  .mode = (uint8_t)random_below(rnd, 4),
                                  .value_size = (uint16_t)body };
        p.key_size = p.mode == BTREE_PUT_REPLACE ? 0 : (uint16_t)random_below(rnd, 100);
        memcpy(payload, &p, sizeof(p));
        return (uint32_t)sizeof(p) + p.key_size + body +
               ((p.flags & BTREE_ROW_VERSIONED) != 0 && p.writer == 0 ? 16 : 0);
    }
    if (op == BTREE_OP_NODE_EDIT) {
        struct btree_op_edit e = { .keep_from = (uint32_t)random_below(rnd, 3),
                                   .keep_to = (uint32_t)random_below(rnd, 40),
                                   .add_count = 1,
                                   .lower = (uint8_t)random_below(rnd, 3),
                                   .upper = (uint8_t)random_below(rnd, 3),
                                   .add_front = (uint8_t)random_below(rnd, 2),
                                   .lower_size = (uint16_t)random_below(rnd, 12),
                                   .upper_size = (uint16_t)random_below(rnd, 12),
                                   .right = 9 };
        struct btree_op_row r = { (uint16_t)random_below(rnd, 100), (uint16_t)body };
        memcpy(payload, &e, sizeof(e));
        memcpy(payload + sizeof(e) + e.lower_size + e.upper_size, &r, sizeof(r));
        return (uint32_t)sizeof(e) + e.lower_size + e.upper_size + (uint32_t)sizeof(r) + r.key +
               r.value_size;
    }
    if (op == BTREE_OP_LEAF_PURGE) {
        uint32_t slot = 0, n = (uint32_t)random_below(rnd, 10);
        for (uint32_t i = 0; i < n; i++) {
            put_le32(payload + 4 * (size_t)i, slot << 1 | (uint32_t)random_below(rnd, 2));
            slot += 1 + (uint32_t)random_below(rnd, 3);
        }
        return 4 * n;
    }
    if (op == BTREE_OP_LEAF_REMOVE) {
        put_le64(payload, random_below(rnd, 40));
        return 8;
    }
    struct btree_op_child c = { .left = 3,
                                .right = 4,
                                .slot = (uint32_t)random_below(rnd, 40),
                                .key_size = (uint16_t)random_below(rnd, 40) };
    memcpy(payload, &c, sizeof(c));
    return (uint32_t)sizeof(c) + c.key_size;
}

/* What passes its check can be believed: a damaged page that still does is searched and changed
 * without leaving its bytes. */
START_TEST(a_page_that_passes_its_check_can_be_worked_on)
{
    struct world w;
    world_init(&w, 0, test_seed(31 + (uint64_t)_i));
    for (unsigned i = 0; i < 200; i++)
        step_put(&w);
    uint8_t *page = mem_aligned(MEM_TEST, 4096, 4096), payload[1600];
    unsigned passed = 0, changed = 0;
    size_t chars = 0;
    for (unsigned i = 0; i < test_scale(30000, 1000000); i++) {
        memcpy(page, w.page, 4096);
        for (uint64_t n = random_below(&w.rnd, 4); n > 0; n--) {
            uint64_t at = random_below(&w.rnd, 4096), where = random_below(&w.rnd, 4);
            if (where < 2)
                at = 40 + at % 120; /* the head */
            else if (where < 3)
                at = 160 + at % 600; /* slots */
            unsigned byte = random_chance(&w.rnd, 1, 2)
                                ? (unsigned)random_below(&w.rnd, 256)
                                : page[at] ^ (1u << random_below(&w.rnd, 8));
            page[at] = (uint8_t)(byte & 0xff);
        }
        if (btree_page_check(page, 4096) != ASH_OK)
            continue;
        passed++;
        bool exact;
        struct btree_split split;
        uint32_t slot = btree__lower_bound(page, 4096, w.upper, w.prefix_size + 1, &exact);
        ck_assert(slot <= btree__cnode(page)->count);
        if (btree__cnode(page)->count >= 2)
            btree__split_leaf(page, 4096, BTREE_SPLIT_NO_ROW, ash_slice(NULL, 0), 100, false,
                              &split);
        btree_page_print(page, 4096, drop_line, &chars);
        for (unsigned k = 0; k < 4; k++) {
            uint16_t op = (uint16_t)(BTREE_OP_LEAF_PUT + random_below(&w.rnd, 8));
            uint32_t n = plausible_payload(&w.rnd, op, payload);
            changed += btree__redo(page, 4096, op, payload, n, 7) == ASH_OK;
        }
    }
    ck_assert(passed > 100 && changed > 100);
    mem_free(MEM_TEST, page);
    world_deinit(&w);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("btree_page");
    TCase *t = tcase_create("page");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, random_changes_match_a_sorted_array_in_every_class, 0, 10);
    tcase_add_loop_test(t, children_match_a_sorted_array, 0, 6);
    tcase_add_test(t, a_separator_lies_between_its_keys_and_is_never_longer_than_the_left_one);
    tcase_add_test(t, row_estimates_keep_three_digits);
    tcase_add_test(t, splits_make_room_even_with_long_fences_and_rows);
    tcase_add_test(t, a_border_is_refused_when_a_half_would_overflow);
    tcase_add_test(t, search_sees_every_byte_of_a_key);
    tcase_add_test(t, searching_garbage_stays_inside_the_page);
    tcase_add_test(t, redo_of_damaged_payloads_is_an_error_or_harmless);
    tcase_add_loop_test(t, a_page_that_passes_its_check_can_be_worked_on, 0, 3);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
