/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_cursor.c - walking a tree in both directions.
 *
 * A cursor holds no latch and no pin between calls.  It copies the rows of one leaf (at most
 * FILL_BYTES of them) that its transaction sees into memory of its own and remembers which stretch
 * of the key space they stand for.  What is beyond is found from the edge of the stretch: in the
 * parent's next child when the parent is as it was, else by a new descent.  So splits and merges in
 * between do not matter.
 *
 * A place in the key space is a gap: before or after a key, or at either end.
 *
 *   I1  Rows in memory are all rows that the snapshot sees between gaps `lower` and `upper`,
 *       ascending.
 *   I2  The cursor stands between rows[bwd] and rows[fwd]; fwd == bwd + 2 when it stands on a row,
 *       bwd + 1 when between two.
 *   I3  When the transaction has written since the rows were copied, and their leaf has changed,
 *       the next step copies again from where the cursor stands: so a cursor sees its transaction's
 *       own changes up to the step.
 */
#include "btree/btree_int.h"

#define FILL_BYTES    (64u << 10) /* rows copied at once: a leaf, or part of a large one */
#define BATCH_BYTES   (4u << 20)  /* what one batch holds at most, unless a single leaf does */
#define AHEAD_MAX     32u         /* leaves asked for ahead of a scan */
#define PREFETCH_HEAD 256u        /* of a leaf: its head and the first slots */
#define PREFETCH_ROWS 4096u /* bytes of rows fetched ahead; the processor finds the rest itself */

enum gap_kind {
    GAP_START = 0,
    GAP_BEFORE,
    GAP_AFTER,
    GAP_END
};
struct gap {
    uint32_t size;
    uint8_t kind;
    uint8_t key[BTREE_KEY_LIMIT];
};

struct cursor_row {
    uint32_t key, key_size, value, value_size; /* offsets in bytes.data */
    struct btree_image image;
};

struct btree_cursor {
    struct btree *bt;
    struct txn *t;
    bool keys_only, has_from, has_to;
    struct gap from, to;     /* the cursor's ends: BEFORE from, BEFORE to; or START, END */
    struct gap lower, upper; /* I1 */
    bool loaded;
    struct btree_buf bytes;
    struct cursor_row *rows;
    uint32_t count, capacity;
    int64_t fwd, bwd; /* I2 */
    struct gap at;    /* where to load when nothing is loaded */
    /* guards of the leaf as it was copied, and of its parent before that */
    struct btree_path path;
    bool whole;       /* its rows were copied to the end in the direction of the run */
    uint64_t written; /* t->last_lsn then */
    /* leaves walked in one direction; of those asked for, how many are still to come */
    unsigned run, ahead;
    bool run_forward;
    uint8_t scratch[BTREE_KEY_LIMIT + 8];
};

#define KEEP_BYTES (256u << 10) /* a cursor that is used again keeps so much memory for rows */

/* ---- Gaps ---- */

static void
gap_set(struct gap *g, enum gap_kind kind, struct ash_slice key)
{
    g->kind = (uint8_t)kind;
    g->size = (uint32_t)key.size;
    if (key.size > 0)
        memcpy(g->key, key.data, key.size);
}

static void
gap_copy(struct gap *to, const struct gap *from)
{
    if (to == from)
        return;
    to->kind = from->kind;
    to->size = from->size;
    memcpy(to->key, from->key, from->size);
}

/* Is the key beyond the gap (above it)? */
static bool
above(struct ash_slice key, const struct gap *g)
{
    if (g->kind == GAP_START || g->kind == GAP_END)
        return g->kind == GAP_START;
    int c = btree__compare(key, ash_slice(g->key, g->size));
    return c > 0 || (c == 0 && g->kind == GAP_BEFORE);
}

/* A key that leads to the leaf on the forward (backward) side of a gap.  AFTER k, forward: k and a
 * zero byte is the next possible key. */
static struct ash_slice
gap_descend_key(const struct gap *g, bool forward, uint8_t scratch[BTREE_KEY_LIMIT + 8])
{
    if (g->kind == GAP_START)
        return ash_slice(scratch, 0);
    if (g->kind == GAP_END) {
        memset(scratch, 0xff, BTREE_KEY_LIMIT + 1); /* above every key, which are shorter */
        return ash_slice(scratch, BTREE_KEY_LIMIT + 1);
    }
    memcpy(scratch, g->key, g->size);
    if (g->kind == GAP_BEFORE || !forward)
        return ash_slice(scratch, g->size);
    scratch[g->size] = 0;
    return ash_slice(scratch, (size_t)g->size + 1);
}

/* ---- Copying a leaf ---- */

/* What a load is to do, and what the optimistic pass finds out. */
struct copy {
    bool forward;
    bool beyond;     /* from an edge of the rows before: the cursor's end behind it cuts nothing */
    bool beside;     /* the leaf was reached from its neighbour: the stretch begins at its end */
    bool again;      /* the leaf is the one before */
    uint32_t want;   /* rows that are asked for: more would be copied in vain */
    bool whole;      /* reached the leaf's end in the direction */
    bool leaf_end;   /* that end has no fence: nothing beyond */
    struct gap edge; /* the stretch's far end */
};

static ash_rc
rows_room(struct btree_cursor *c)
{
    if (c->count < c->capacity)
        return ASH_OK;
    uint32_t capacity = c->capacity == 0 ? 64 : c->capacity * 2;
    struct cursor_row *rows = mem_realloc(MEM_BTREE, c->rows, capacity * sizeof(*rows));
    if (rows == NULL)
        return ASH_NO_MEMORY;
    c->rows = rows;
    c->capacity = capacity;
    return ASH_OK;
}

/* Appends one row as it stands in the leaf.  Garbage until validated. */
ASH_NO_TSAN static ash_rc
copy_row(struct btree_cursor *c, const struct buf_page *leaf, struct ash_slice prefix,
         uint32_t slot)
{
    struct btree_entry e;
    btree__opt_entry(leaf->data, leaf->size, slot, &e);
    if (ASH_UNLIKELY(prefix.size + e.key_size > BTREE_KEY_LIMIT))
        e.key_size = (uint16_t)(BTREE_KEY_LIMIT - prefix.size);
    if (c->keys_only)
        e.value_size = 0;
    ash_rc rc = rows_room(c);
    if (rc == ASH_OK)
        rc = btree__buf_room(&c->bytes, (uint32_t)prefix.size + e.key_size + e.value_size);
    if (rc != ASH_OK)
        return rc;
    struct cursor_row *r = &c->rows[c->count++];
    uint8_t *p = c->bytes.data + c->bytes.size;
    if (prefix.size > 0)
        btree__opt_copy(p, prefix.data, (uint32_t)prefix.size);
    if (e.value == e.key + e.key_size) { /* as entries are: one copy for both */
        btree__opt_copy(p + prefix.size, e.key, e.key_size + e.value_size);
    } else {
        btree__opt_copy(p + prefix.size, e.key, e.key_size);
        btree__opt_copy(p + prefix.size + e.key_size, e.value, e.value_size);
    }
    r->key = c->bytes.size;
    r->key_size = (uint32_t)prefix.size + e.key_size;
    r->value = r->key + r->key_size;
    r->value_size = e.value_size;
    r->image = (struct btree_image){ .flags = e.flags };
    if (e.version != NULL) {
        uint8_t version[BTREE_VERSION_SIZE];
        btree__opt_copy(version, e.version, sizeof(version));
        r->image.writer = get_le64(version);
        r->image.undo = get_le64(version + 8);
    }
    c->bytes.size = r->value + r->value_size;
    return ASH_OK;
}

static struct ash_slice
row_key(const struct btree_cursor *c, const struct cursor_row *r)
{
    return ash_slice(c->bytes.data + r->key, r->key_size);
}

static void
reverse_rows(struct btree_cursor *c)
{
    for (uint32_t i = 0, j = c->count; i + 1 < j; i++) {
        struct cursor_row r = c->rows[i];
        c->rows[i] = c->rows[--j];
        c->rows[j] = r;
    }
}

/* The first slot to copy going forward, or the one after it going backward. */
ASH_NO_TSAN static uint32_t
start_slot(const struct btree_cursor *c, const struct buf_page *leaf, struct ash_slice key,
           const struct copy *how, uint32_t total)
{
    bool exact;
    if (how->beside)
        return how->forward ? 0 : total;
    uint32_t slot =
        btree__lower_bound(leaf->data, leaf->size, key.data, (uint32_t)key.size, &exact);
    return slot + (!how->forward && exact && c->at.kind == GAP_AFTER);
}

/* Copies from gap `at` in one direction.  Rows beyond the cursor's ends are left in.  Nothing is
 * believed before validation, but keys that are too long are cut, as the gap has room for valid
 * keys only. */
ASH_NO_TSAN static ash_rc
copy_leaf(struct btree_cursor *c, const struct buf_page *leaf, struct ash_slice key,
          struct copy *how)
{
    const struct btree_node *n = btree__cnode(leaf->data);
    uint32_t total = btree__opt_count(leaf->data, leaf->size),
             flags = *(const volatile uint8_t *)&n->flags;
    struct ash_slice prefix = btree__opt_lower(leaf->data, leaf->size);
    uint32_t prefix_size = *(const volatile uint16_t *)&n->prefix_size, base = c->bytes.size;
    bool forward = how->forward, full = false;
    prefix.size = prefix_size < prefix.size ? prefix_size : prefix.size;
    uint32_t slot = start_slot(c, leaf, key, how, total);
    slot = slot < total ? slot : total;
    /* not by doubling from row to row */
    ash_rc rc = btree__buf_room(&c->bytes, leaf->size < FILL_BYTES ? leaf->size : FILL_BYTES);
    while ((forward ? slot < total : slot > 0) && !full && rc == ASH_OK) {
        rc = copy_row(c, leaf, prefix, forward ? slot : slot - 1);
        slot = forward ? slot + 1 : slot - 1;
        full = c->count >= how->want || c->bytes.size - base >= FILL_BYTES;
    }
    how->whole = forward ? slot >= total : slot == 0;
    how->leaf_end = (flags & (forward ? BTREE_NODE_UPPER_INFINITE : BTREE_NODE_LOWER_INFINITE)) !=
                    0;
    struct ash_slice fence = forward ? btree__opt_upper(leaf->data, leaf->size)
                                     : btree__opt_lower(leaf->data, leaf->size);
    how->edge.kind = GAP_AFTER; /* of the fence: the lower one is exclusive, the upper inclusive */
    how->edge.size = (uint32_t)fence.size;
    btree__opt_copy(how->edge.key, fence.data, (uint32_t)fence.size);
    return rc;
}

/* ---- Versions and limits ---- */

/* Brings a copied row to the version that the transaction sees; false in *keep when there is none.
 * */
static ash_rc
settle_row(struct btree_cursor *c, struct cursor_row *r, bool *keep)
{
    uint8_t key[BTREE_KEY_LIMIT];
    uint32_t base = c->bytes.size;
    *keep = true;
    if (c->keys_only)
        /* versions before may be large, too: read in vain, which is rare */
        r->image.flags &= (uint8_t)~BTREE_ROW_LARGE;
    /* nearly always the version that stands in the leaf: the copy is the answer */
    if (ASH_LIKELY((r->image.flags & BTREE_ROW_LARGE) == 0 &&
                   (btree__sees(c->t, &r->image) || PLANTED(340)))) {
        *keep = (r->image.flags & BTREE_ROW_DELETED) == 0;
        return ASH_OK;
    }
    ash_rc rc = btree__buf_room(&c->bytes, r->value_size);
    if (rc != ASH_OK)
        return rc;
    memcpy(key, c->bytes.data + r->key, r->key_size);
    memcpy(c->bytes.data + base, c->bytes.data + r->value, r->value_size);
    c->bytes.size += r->value_size;
    rc = btree__resolve(c->bt, c->t, ash_slice(key, r->key_size), &r->image, &c->bytes, base);
    if (rc == ASH_NOT_FOUND) {
        *keep = false;
        c->bytes.size = base;
        return ASH_OK;
    }
    r->value = base;
    r->value_size = c->bytes.size - base;
    return rc;
}

/* Leaves out rows beyond the cursor's ends: ascending rows, so they are the first and the last
 * ones. */
static void
cut_at_ends(struct btree_cursor *c, const struct copy *how, uint32_t *first_out, uint32_t *end_out)
{
    uint32_t first = 0, end = c->count;
    if (c->has_from && !(how->beyond && how->forward))
        while (first < end && !above(row_key(c, &c->rows[first]), &c->from))
            first++;
    if (c->has_to && !(how->beyond && (!how->forward || PLANTED(342))))
        while (first < end && above(row_key(c, &c->rows[end - 1]), &c->to))
            end--;
    *first_out = first;
    *end_out = end;
}

/* After validation, rows ascending: cut at the cursor's ends, settle versions. */
static ash_rc
settle(struct btree_cursor *c, const struct copy *how)
{
    uint32_t to = 0, first, end;
    cut_at_ends(c, how, &first, &end);
    for (uint32_t i = first; i < end; i++) {
        bool keep;
        ash_rc rc = settle_row(c, &c->rows[i], &keep);
        if (rc != ASH_OK)
            return rc;
        if (keep && to != i)
            c->rows[to] = c->rows[i];
        to += keep;
    }
    c->count = to;
    if (txn_given_up(c->t))
        return ash_raise(
            ASH_SNAPSHOT_TOO_OLD,
            "The versions that this cursor's snapshot needs are gone; begin a new transaction.");
    return ASH_OK;
}

/* ---- Read-ahead ---- */

/* The page ids of the next leaves, from the parent; fewer at its end.  False when the parent has
 * changed. */
static unsigned
next_leaves(const struct btree_cursor *c, bool forward, unsigned want, uint64_t *pages_out)
{
    const struct btree_path *path = &c->path;
    unsigned n = 0;
    uint32_t count = btree__opt_count(path->parent.data, path->parent.size);
    for (unsigned i = 1; i <= want; i++) {
        if (forward ? path->slot + i > count : path->slot < i)
            break;
        uint32_t slot = forward ? path->slot + i : path->slot - i;
        pages_out[n++] =
            BTREE_CHILD_PAGE(btree__opt_child(path->parent.data, path->parent.size, slot));
    }
    return buf_opt_valid(c->bt->env->pool, &path->parent) ? n : 0;
}

/* After the second leaf in one direction leaves are asked for together: twice as many each time. */
static void
read_ahead(struct btree_cursor *c, bool forward)
{
    uint64_t pages[AHEAD_MAX];
    if (c->run_forward != forward)
        c->run = c->ahead = 0;
    c->run_forward = forward;
    c->run++;
    if (c->run < 2 || c->ahead > 0) {
        c->ahead -= c->ahead > 0;
        return;
    }
    unsigned want = c->run < AHEAD_MAX ? c->run : AHEAD_MAX;
    unsigned n = next_leaves(c, forward, want, pages);
    if (n == 0)
        return;
    c->ahead = n;
    buf_prefetch(c->bt->env->pool, pages, n, IO_CLASS_READ_AHEAD);
}

/* ---- Loading ---- */

static void
cover(struct btree_cursor *c, struct copy *how)
{
    struct gap *near = how->forward ? &c->lower : &c->upper,
               *far = how->forward ? &c->upper : &c->lower;
    gap_copy(near, &c->at);
    if (!how->whole)
        /* in copying order */
        gap_set(far, how->forward ? GAP_AFTER : GAP_BEFORE, row_key(c, &c->rows[c->count - 1]));
    else if (how->leaf_end)
        far->kind = how->forward ? GAP_END : GAP_START, far->size = 0;
    else
        gap_copy(far, &how->edge);
    /* Beyond the cursor's own ends there is nothing to find. */
    if (c->has_to && !(how->beyond && !how->forward) &&
        (c->upper.kind == GAP_END ||
         (c->upper.kind != GAP_START && !above(ash_slice(c->to.key, c->to.size), &c->upper))))
        gap_copy(&c->upper, &c->to);
    if (c->has_from && !(how->beyond && how->forward) &&
        (c->lower.kind == GAP_START ||
         (c->lower.kind != GAP_END && above(ash_slice(c->from.key, c->from.size), &c->lower))))
        gap_copy(&c->lower, &c->from);
}

static void
prefetch_lines(const uint8_t *data, uint32_t from, uint32_t to)
{
    for (uint32_t at = from & ~(ASH_CACHE_LINE - 1u); at < to; at += ASH_CACHE_LINE)
        __builtin_prefetch(data + at);
}

/* Page id of the leaf `distance` further in the direction; false when the parent does not know. */
static bool
leaf_beyond(const struct btree_cursor *c, bool forward, uint32_t distance, uint64_t *page_out)
{
    const struct btree_path *p = &c->path;
    uint32_t count = btree__opt_count(p->parent.data, p->parent.size);
    if (forward ? p->slot + distance > count : p->slot < distance)
        return false;
    uint32_t slot = forward ? p->slot + distance : p->slot - distance;
    *page_out = BTREE_CHILD_PAGE(btree__opt_child(p->parent.data, p->parent.size, slot));
    return true;
}

/* While one leaf is copied, what the copies of the next ones will wait for comes into the processor's
 * cache, each step a leaf earlier than the step that needs it: the parent's entry, the word of the
 * page table, the head of the leaf, and its rows, which the head tells to be at its end. */
static void
prefetch_beyond(const struct btree_cursor *c, bool forward)
{
    struct buf_pool *pool = c->bt->env->pool;
    const struct btree_path *p = &c->path;
    struct buf_page next;
    uint64_t page;
    if (forward || p->slot >= 4)
        btree__prefetch_entry(p->parent.data, p->parent.size, forward ? p->slot + 4 : p->slot - 4);
    if (leaf_beyond(c, forward, 3, &page))
        buf_opt_prefetch(pool, page);
    if (leaf_beyond(c, forward, 2, &page) && buf_opt_peek(pool, page, &next))
        prefetch_lines(next.data, 0, PREFETCH_HEAD);
    if (!leaf_beyond(c, forward, 1, &page) || !buf_opt_peek(pool, page, &next))
        return;
    uint32_t from = next.size - PREFETCH_ROWS / 2;
    if (c->run == 0)
        prefetch_lines(next.data, 0, PREFETCH_HEAD);
    else
        from = btree__opt_heap(next.data, next.size);
    prefetch_lines(next.data, from,
                   next.size - from > PREFETCH_ROWS ? from + PREFETCH_ROWS : next.size);
}

/* Goes on in the same leaf when rows of it are left, else in the neighbour that the parent names.
 * Right while the parent has not changed since the leaf was reached: then no leaf below it was
 * split or merged, and fences equal separators.  false: descend. */
static bool
step_aside(struct btree_cursor *c, struct copy *how)
{
    struct buf_pool *pool = c->bt->env->pool;
    struct btree_path *p = &c->path;
    struct buf_page child;
    if (!c->loaded || c->run_forward != how->forward || !p->has_parent)
        return false;
    uint32_t slot = p->slot, count = btree__opt_count(p->parent.data, p->parent.size);
    if (c->whole && (how->forward ? slot >= count : slot == 0))
        return false;
    if (c->whole)
        slot = how->forward ? slot + 1 : slot - 1;
    uint64_t word = btree__opt_child(p->parent.data, p->parent.size, slot);
    if ((!PLANTED(88) && !buf_opt_valid(pool, &p->parent)) ||
        buf_opt_begin(pool, BTREE_CHILD_PAGE(word), &child) != ASH_OK)
        return false;
    /* As in a descent: the child is guarded under its parent's guard. */
    if ((!PLANTED(88) && !buf_opt_valid(pool, &p->parent)) || btree__opt_level(child.data) != 0)
        return false;
    p->node = child;
    p->slot = slot;
    how->beside = c->whole;
    how->again = !c->whole;
    return true;
}

/* Copies up to `want` rows of the stretch on one side of gap `at`.  beyond: `at` is the edge of the
 * rows in memory in this direction. Bytes before `base` (rows already handed to a batch) stay. */
static ash_rc
load(struct btree_cursor *c, bool forward, bool beyond, uint32_t base, uint32_t want)
{
    struct copy how;
    unsigned tries = 0;
    task_fair_point();
    how.forward = forward;
    how.want = want;
    how.beyond = beyond;
    for (;;) {
        struct ash_slice key = ash_slice(c->scratch, 0);
        how.beside = how.again = false;
        bool aside = beyond && step_aside(c, &how);
        if (!how.beside)
            key = gap_descend_key(&c->at, forward, c->scratch);
        if (!aside) {
            ash_rc rc = btree__descend(c->bt, key, 0, &c->path);
            if (rc != ASH_OK)
                return rc;
        }
        c->loaded = beyond = false;
        if (c->path.has_parent && (c->run > 0 || want > 1))
            prefetch_beyond(c, forward);
        c->count = 0;
        c->bytes.size = base;
        c->written = c->t->last_lsn;
        ash_rc rc = copy_leaf(c, &c->path.node, key, &how);
        if (rc != ASH_OK)
            return rc;
        if (buf_opt_valid(c->bt->env->pool, &c->path.node)) {
            c->whole = how.whole;
            cover(c, &how);
            if (!forward)
                reverse_rows(c);
            if (!how.again)
                read_ahead(c, forward);
            break;
        }
        rc = btree__restart(c->bt, &tries);
        if (rc != ASH_OK)
            return rc;
    }
    ash_rc rc = settle(c, &how);
    if (rc != ASH_OK)
        return rc;
    c->fwd = forward ? 0 : c->count;
    c->bwd = c->fwd - 1;
    c->loaded = true;
    return ASH_OK;
}

static bool
same_gap(const struct gap *a, const struct gap *b)
{
    return a->kind == b->kind && ((a->kind == GAP_START || a->kind == GAP_END) ||
                                  (a->size == b->size && memcmp(a->key, b->key, a->size) == 0));
}

/* Where the cursor stands, seen in a direction: on a row, the gap beyond it. */
static void
standing(const struct btree_cursor *c, bool forward, struct gap *out)
{
    if (c->fwd - c->bwd == 2) {
        gap_set(out, forward ? GAP_AFTER : GAP_BEFORE, row_key(c, &c->rows[c->bwd + 1]));
    } else if (c->fwd < (int64_t)c->count) {
        gap_set(out, GAP_BEFORE, row_key(c, &c->rows[c->fwd]));
    } else if (c->count > 0) {
        gap_set(out, GAP_AFTER, row_key(c, &c->rows[c->count - 1]));
    } else {
        gap_copy(out, forward ? &c->lower : &c->upper);
    }
}

/* Loads until there is a row in the direction.  ASH_NOT_FOUND: the cursor's end. */
static ash_rc
advance(struct btree_cursor *c, bool forward, uint32_t base, uint32_t want)
{
    if (!c->loaded) {
        ash_rc rc = load(c, forward, /* beyond= */ false, base, want);
        if (rc != ASH_OK)
            return rc;
    } else if (c->t->last_lsn != c->written) {
        c->written = c->t->last_lsn;
        if (!buf_opt_valid(c->bt->env->pool, &c->path.node)) { /* I3 */
            standing(c, forward, &c->at);
            ash_rc rc = load(c, forward, /* beyond= */ false, base, want);
            if (rc != ASH_OK)
                return rc;
        }
    }
    while (forward ? c->fwd >= (int64_t)c->count : c->bwd < 0) {
        const struct gap *edge = forward ? &c->upper : &c->lower;
        if (same_gap(edge, forward ? &c->to : &c->from))
            return ASH_NOT_FOUND;
        gap_copy(&c->at, edge);
        ash_rc rc = load(c, forward, /* beyond= */ true, base, want);
        if (rc != ASH_OK)
            return rc;
    }
    return ASH_OK;
}

/* Steps onto the next row; needs advance(). */
static const struct cursor_row *
take(struct btree_cursor *c, bool forward)
{
    int64_t i = forward ? c->fwd : c->bwd;
    c->fwd = i + 1;
    c->bwd = i - 1;
    return &c->rows[i];
}

/* Past the last row: between it and the end, so that the other direction finds it again. */
static ash_rc
ran_off(struct btree_cursor *c, bool forward)
{
    if (forward) {
        c->fwd = c->count;
        c->bwd = (int64_t)c->count - 1;
    } else {
        c->fwd = 0;
        c->bwd = -1;
    }
    return ash_raise(ASH_NOT_FOUND, "The cursor has reached its end.");
}

/* A failed load leaves the cursor where it stood. */
static ash_rc
failed(struct btree_cursor *c, ash_rc rc)
{
    c->loaded = false;
    return rc;
}

/* ---- Entry points ---- */

ash_rc
btree_cursor_reopen(struct btree_cursor *c, struct btree *bt, struct txn *t,
                    const struct ash_cursor_options *options)
{
    static const struct ash_cursor_options all;
    if (options == NULL)
        options = &all;
    if (options->from.size > BTREE_KEY_MAX || options->to.size > BTREE_KEY_MAX)
        return ash_raise(ASH_TOO_LARGE, "A cursor's bound is longer than any key (%u bytes).",
                         (unsigned)BTREE_KEY_MAX);
    ash_rc rc = txn_statement(t, /* write= */ false);
    if (rc != ASH_OK)
        return rc;
    c->bt = bt;
    c->t = t;
    c->keys_only = options->keys_only;
    c->has_from = options->from.data != NULL;
    c->has_to = options->to.data != NULL;
    gap_set(&c->from, c->has_from ? GAP_BEFORE : GAP_START,
            c->has_from ? options->from : ash_slice(NULL, 0));
    gap_set(&c->to, c->has_to ? GAP_BEFORE : GAP_END, c->has_to ? options->to : ash_slice(NULL, 0));
    gap_copy(&c->at, options->reverse ? &c->to : &c->from);
    c->loaded = c->whole = c->run_forward = false;
    c->run = c->ahead = 0;
    c->count = 0;
    c->bytes.size = 0;
    return ASH_OK;
}

ash_rc
btree_cursor_open(struct btree *bt, struct txn *t, const struct ash_cursor_options *options,
                  struct btree_cursor **out)
{
    struct btree_cursor *c = mem_alloc(MEM_BTREE, sizeof(*c));
    if (c == NULL)
        return ASH_NO_MEMORY;
    c->bytes = (struct btree_buf){ NULL, 0, 0 };
    c->rows = NULL;
    c->capacity = 0;
    c->written = 0;
    c->fwd = c->bwd = 0;
    ash_rc rc = btree_cursor_reopen(c, bt, t, options);
    if (rc != ASH_OK)
        mem_free(MEM_BTREE, c);
    else
        *out = c;
    return rc;
}

void
btree_cursor_rest(struct btree_cursor *c)
{
    c->loaded = false;
    c->t = NULL;
    if (c->bytes.capacity > KEEP_BYTES)
        btree_buf_free(&c->bytes);
    if (c->capacity * sizeof(*c->rows) > KEEP_BYTES) {
        MEM_FREE(MEM_BTREE, c->rows);
        c->capacity = 0;
    }
}

void
btree_cursor_close(struct btree_cursor *c)
{
    if (c == NULL)
        return;
    btree_buf_free(&c->bytes);
    mem_free(MEM_BTREE, c->rows);
    mem_free(MEM_BTREE, c);
}

static struct btree_row
row_of(const struct btree_cursor *c, const struct cursor_row *r)
{
    struct btree_row out = { row_key(c, r), ash_slice(c->bytes.data + r->value,
                                                      c->keys_only ? 0 : r->value_size) };
    return out;
}

ash_rc
btree_cursor_step(struct btree_cursor *c, bool forward, struct btree_row *row_out)
{
    ash_rc rc = advance(c, forward, 0, UINT32_MAX);
    if (rc == ASH_NOT_FOUND && c->loaded)
        return ran_off(c, forward);
    if (rc != ASH_OK)
        return failed(c, rc);
    *row_out = row_of(c, take(c, forward));
    return ASH_OK;
}

ash_rc
btree_cursor_seek(struct btree_cursor *c, struct ash_slice key, bool forward)
{
    if (key.size > BTREE_KEY_MAX)
        return ash_raise(ASH_TOO_LARGE, "A key of %zu bytes is longer than any key (%u bytes).",
                         key.size, (unsigned)BTREE_KEY_MAX);
    gap_set(&c->at, forward ? GAP_BEFORE : GAP_AFTER, key);
    if (!above(key, &c->from))
        gap_copy(&c->at, &c->from);
    else if (above(key, &c->to))
        gap_copy(&c->at, &c->to);
    c->loaded = false;
    c->run = c->ahead = 0;
    return ASH_OK;
}

/* The last load of a batch looked behind its last row and found none: back onto that row, so that
 * the other direction goes on from there, as after single steps.  Its bytes are still there. */
static void
stand_on(struct btree_cursor *c, const struct cursor_row *last)
{
    c->rows[0] = *last;
    c->count = 1;
    gap_set(&c->lower, GAP_BEFORE, row_key(c, last));
    gap_set(&c->upper, GAP_AFTER, row_key(c, last));
    c->path.has_parent = false; /* it leads elsewhere */
    c->fwd = 1;
    c->bwd = -1;
}

/* Offsets travel in the data pointers until all rows are there: the buffer may move while it grows.
 * */
static void
fix_rows(const struct btree_cursor *c, struct btree_row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        rows[i].key.data = c->bytes.data + (uintptr_t)rows[i].key.data;
        rows[i].value.data = c->bytes.data + (uintptr_t)rows[i].value.data;
    }
}

ash_rc
btree_cursor_batch(struct btree_cursor *c, bool forward, size_t capacity,
                   struct btree_row *rows_out, size_t *count_out)
{
    size_t n = 0;
    ash_rc rc = ASH_OK;
    uint32_t base = 0;
    struct cursor_row last = { 0 };
    while (n < capacity && (n == 0 || base < BATCH_BYTES)) {
        rc = advance(c, forward, base,
                     (uint32_t)(capacity - n < UINT32_MAX ? capacity - n : UINT32_MAX));
        if (rc != ASH_OK)
            break;
        base = c->bytes.size; /* what is handed out stays while the next leaf is loaded behind it */
        while (n < capacity && (forward ? c->fwd < (int64_t)c->count : c->bwd >= 0)) {
            const struct cursor_row *r = take(c, forward);
            rows_out[n].key = ash_slice((void *)(uintptr_t)r->key, r->key_size);
            rows_out[n].value =
                ash_slice((void *)(uintptr_t)r->value, c->keys_only ? 0 : r->value_size);
            n++;
        }
        last = c->rows[c->fwd - 1]; /* the one that it stands on */
    }
    if (rc != ASH_OK && rc != ASH_NOT_FOUND)
        return failed(c, rc);
    if (n == 0)
        return c->loaded ? ran_off(c, forward) : rc;
    if (c->fwd - c->bwd != 2)
        stand_on(c, &last);
    fix_rows(c, rows_out, n);
    *count_out = n;
    return ASH_OK;
}
