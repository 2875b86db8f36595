/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_read.c - reading rows: copied out of the leaf without a latch, then brought to the version
 * that the transaction sees.
 *
 * The usual row carries no version head: its copy is the answer and src/txn is not asked.
 * Otherwise the chain of before-images in the log is followed, with no latch and no guard held; the
 * transaction's snapshot keeps that log from going away.  Readers change no page.
 */
#include "btree/btree_int.h"

ash_rc
btree__copy_row(const struct buf_page *leaf, uint32_t slot, struct btree_image *image_out,
                struct btree_buf *value)
{
    struct btree_entry e;
    btree__opt_entry(leaf->data, leaf->size, slot, &e);
    ash_rc rc = btree__buf_room(value, e.value_size);
    if (ASH_UNLIKELY(rc != ASH_OK))
        return rc;
    btree__opt_copy(value->data + value->size, e.value, e.value_size);
    value->size += e.value_size;
    image_out->flags = e.flags;
    if (e.version != NULL) {
        uint8_t version[BTREE_VERSION_SIZE];
        btree__opt_copy(version, e.version, sizeof(version));
        image_out->writer = get_le64(version);
        image_out->undo = get_le64(version + 8);
    }
    return ASH_OK;
}

static ash_rc
absent(void)
{
    return ash_answer(ASH_NOT_FOUND, "No row has this key.");
}

/* Takes the version before out of the log.  The undo part says which row it belongs to: a wrong
 * pointer must not yield another row. */
static ash_rc
step_back(const struct btree *bt, struct ash_slice key, struct txn_buffer *buf,
          struct btree_image *image, struct btree_buf *value, uint32_t base)
{
    struct txn_undo u;
    ash_rc rc = txn_read_undo(bt->env->txn, image->undo, buf, &u);
    if (rc != ASH_OK)
        return rc;
    uint32_t size = u.head->row_size;
    bool versioned = (u.head->row_flags & BTREE_ROW_VERSIONED) != 0;
    if (u.head->tree != bt->tree || u.head->key_size != key.size ||
        (key.size > 0 && memcmp(u.key, key.data, key.size) != 0) ||
        (versioned && size < BTREE_VERSION_SIZE) || (u.head->row_flags & ~BTREE_ROW_FLAGS_ALL) != 0)
        return ash_raise(
            ASH_CORRUPT,
            "Tree %u: a row's version at log position %llu belongs to another row; run a verification.",
            bt->tree, (unsigned long long)image->undo);
    value->size = base;
    if (u.head->kind == TXN_UNDO_INSERT) {
        image->flags = BTREE_ROW_DELETED;
        return ASH_OK;
    }
    const uint8_t *row = u.row;
    image->flags = u.head->row_flags;
    if (versioned) {
        image->writer = get_le64(row);
        image->undo = get_le64(row + 8);
        row += BTREE_VERSION_SIZE;
        size -= BTREE_VERSION_SIZE;
    }
    rc = btree__buf_room(value, size);
    if (rc == ASH_OK && size > 0) {
        memcpy(value->data + base, row, size);
        value->size += size;
    }
    return rc;
}

/* The description in the buffer gives way to the value. */
static ash_rc
replace_by_large(const struct btree *bt, struct btree_buf *value, uint32_t base)
{
    uint8_t description[sizeof(struct btree_large) + 8 * BTREE_LARGE_PAGES_MAX];
    uint32_t size = value->size - base;
    if (size > sizeof(description))
        return ash_raise(ASH_CORRUPT,
                         "Tree %u: a row describes its large value wrongly; run a verification.",
                         bt->tree);
    memcpy(description, value->data + base, size);
    value->size = base;
    return btree__large_read(bt, description, size, value);
}

ash_rc
btree__resolve(const struct btree *bt, struct txn *t, struct ash_slice key,
               struct btree_image *image, struct btree_buf *value, uint32_t base)
{
    struct txn_buffer buf = { NULL, 0 };
    ash_rc rc = ASH_OK;
    while (rc == ASH_OK && !btree__sees(t, image))
        rc = step_back(bt, key, &buf, image, value, base);
    mem_free(MEM_TXN, buf.data);
    if (rc == ASH_OK && (image->flags & BTREE_ROW_DELETED) != 0)
        rc = absent();
    if (rc == ASH_OK && (image->flags & BTREE_ROW_LARGE) != 0)
        rc = replace_by_large(bt, value, base);
    return rc;
}

/* Appends the row's value to *value; nothing is appended unless ASH_OK. */
static ash_rc
get_append(const struct btree *bt, struct txn *t, struct ash_slice key, struct btree_buf *value)
{
    uint32_t base = value->size;
    unsigned tries = 0;
    for (;;) {
        struct btree_path path;
        struct btree_image image;
        bool exact;
        ash_rc rc = btree__descend(bt, key, 0, &path);
        if (ASH_UNLIKELY(rc != ASH_OK))
            return rc;
        uint32_t slot = btree__lower_bound(path.node.data, path.node.size,
                                           key.size > 0 ? key.data : "", (uint32_t)key.size,
                                           &exact);
        if (exact)
            rc = btree__copy_row(&path.node, slot, &image, value);
        if (ASH_LIKELY(rc == ASH_OK && buf_opt_valid(bt->env->pool, &path.node))) {
            if (!exact)
                return absent();
            if (ASH_LIKELY(btree__plain(&image)))
                return ASH_OK;
            rc = btree__resolve(bt, t, key, &image, value, base);
            if (rc != ASH_OK)
                value->size = base;
            return rc;
        }
        value->size = base;
        if (rc != ASH_OK)
            return rc;
        rc = btree__restart(bt, &tries);
        if (rc != ASH_OK)
            return rc;
    }
}

static ash_rc
check_key(const struct btree *bt, struct ash_slice key)
{
    if (ASH_LIKELY(key.size <= BTREE_KEY_MAX))
        return ASH_OK;
    return ash_raise(ASH_TOO_LARGE, "A key of %zu bytes is too long (tree %u takes %u).", key.size,
                     bt->tree, (unsigned)BTREE_KEY_MAX);
}

/* When a snapshot is given up, what it needs may go: whatever was found since then may be from
 * another time.  The mark comes before the first such change, and a page's change before the word
 * that we validated: so a look now is late enough. */
static ash_rc
given_up(const struct btree *bt)
{
    return ash_raise(
        ASH_SNAPSHOT_TOO_OLD,
        "Tree %u: the versions that this snapshot needs are gone; begin a new transaction.",
        bt->tree);
}

ash_rc
btree_get(struct btree *bt, struct txn *t, struct ash_slice key, struct btree_buf *value_out)
{
    ash_rc rc = check_key(bt, key);
    if (ASH_LIKELY(rc == ASH_OK))
        rc = txn_statement(t, /* write= */ false);
    if (ASH_UNLIKELY(rc != ASH_OK))
        return rc;
    value_out->size = 0;
    rc = get_append(bt, t, key, value_out);
    return ASH_UNLIKELY(txn_given_up(t)) ? given_up(bt) : rc;
}

/* ---- Reading to change ---- */

/* The newest version, or the id of the transaction that must end first.  The row is locked by t, so
 * nobody else starts to change it. */
static ash_rc
newest(const struct btree *bt, struct txn *t, struct ash_slice key, struct btree_buf *value,
       uint64_t *wait_out)
{
    struct buf_page leaf;
    struct btree_image image = { .flags = BTREE_ROW_DELETED };
    bool exact;
    *wait_out = 0;
    ash_rc rc = btree__latch_leaf(bt, key, &leaf);
    if (rc != ASH_OK)
        return rc;
    uint32_t slot = btree__lower_bound(leaf.data, leaf.size, key.size > 0 ? key.data : "",
                                       (uint32_t)key.size, &exact);
    value->size = 0;
    if (exact)
        rc = btree__copy_row(&leaf, slot, &image, value);
    if (rc == ASH_OK && (image.flags & BTREE_ROW_VERSIONED) != 0) {
        switch (txn_writer(t, image.writer)) {
        case TXN_WRITER_ACTIVE: *wait_out = image.writer; break;
        case TXN_WRITER_NEWER:
            rc = ash_raise(
                ASH_CONFLICT,
                "Another transaction changed this row of tree %u after this one's snapshot; roll back and retry.",
                bt->tree);
            break;
        case TXN_WRITER_SELF:
        case TXN_WRITER_SEEN: break;
        }
    }
    buf_unlatch_x(bt->env->pool, &leaf);
    if (rc != ASH_OK || *wait_out != 0)
        return rc;
    if ((image.flags & BTREE_ROW_DELETED) != 0)
        return absent();
    return (image.flags & BTREE_ROW_LARGE) != 0 ? replace_by_large(bt, value, 0) : ASH_OK;
}

ash_rc
btree_get_for_update(struct btree *bt, struct txn *t, struct ash_slice key, bool nowait,
                     struct btree_buf *value_out)
{
    ash_rc rc = check_key(bt, key);
    if (rc == ASH_OK)
        rc = txn_statement(t, /* write= */ true);
    if (rc == ASH_OK)
        rc = txn_prepare_write(t);
    const struct txn_lock *mark = txn_lock_mark(t);
    if (rc == ASH_OK)
        rc = txn_lock_row(t, bt->tree, key, nowait);
    for (unsigned tries = 0; rc == ASH_OK; tries++) {
        uint64_t writer;
        ash_assert(tries < BTREE_RETRY_MAX);
        rc = newest(bt, t, key, value_out, &writer);
        if (rc == ASH_NOT_FOUND)
            txn_unlock_since(t, mark); /* what is not there is not locked */
        if (rc != ASH_OK || writer == 0)
            return rc;
        rc = txn_wait(t, writer, nowait);
    }
    return rc;
}

/* ---- Reading many ---- */

#define BATCH 64u /* keys looked up together: page misses of one batch overlap */
#define BATCH_ROUNDS \
    12u /* a round per level and some for pages that are busy; what is left is read one by one */

struct batch {
    const struct btree *bt;
    const struct ash_slice *keys;
    uint64_t pending; /* bit i: key i is not read yet */
    uint64_t missing[BATCH];
    unsigned missing_count;
};

/* Has the pages of all keys of a batch in memory, as far as that goes: each round takes every key
 * one miss further. */
static void
batch_load(struct batch *b, unsigned count)
{
    for (unsigned round = 0; round < BATCH_ROUNDS && b->pending != 0; round++) {
        b->missing_count = 0;
        for (unsigned i = 0; i < count; i++) {
            struct btree_path path;
            uint64_t page = PAGE_ID_NONE;
            if ((b->pending >> i & 1) == 0)
                continue;
            ash_rc rc = btree__descend_nowait(b->bt, b->keys[i], 0, &path, &page);
            if (rc == ASH_WOULD_BLOCK && page != PAGE_ID_NONE)
                b->missing[b->missing_count++] = page;
            else if (rc != ASH_WOULD_BLOCK)
                b->pending &= ~(1ull << i);
        }
        if (b->missing_count == 0)
            return;
        buf_prefetch(b->bt->env->pool, b->missing, b->missing_count, IO_CLASS_READ);
    }
}

ash_rc
btree_multiget(struct btree *bt, struct txn *t, size_t count, const struct ash_slice *keys,
               struct btree_buf *values_out, uint32_t *offsets_out, uint32_t *sizes_out,
               ash_rc *results_out)
{
    ash_rc first = ASH_OK, rc = txn_statement(t, /* write= */ false);
    if (rc != ASH_OK)
        return rc;
    struct err_detail detail;
    values_out->size = 0;
    for (size_t at = 0; at < count; at += BATCH) {
        unsigned n = count - at < BATCH ? (unsigned)(count - at) : BATCH;
        struct batch b = { .bt = bt,
                           .keys = keys + at,
                           .pending = n == 64 ? UINT64_MAX : (1ull << n) - 1 };
        for (unsigned i = 0; i < n; i++)
            if (keys[at + i].size > BTREE_KEY_MAX)
                b.pending &= ~(1ull << i);
        batch_load(&b, n);
        for (size_t i = at; i < at + n; i++) {
            uint32_t before = values_out->size;
            task_fair_point();
            rc = check_key(bt, keys[i]);
            if (rc == ASH_OK)
                rc = get_append(bt, t, keys[i], values_out);
            results_out[i] = rc;
            offsets_out[i] = before;
            sizes_out[i] = values_out->size - before;
            if (rc != ASH_OK && rc != ASH_NOT_FOUND && first == ASH_OK) {
                first = rc;
                err_save(&detail);
            }
        }
    }
    if (txn_given_up(t))
        return given_up(bt);
    if (first != ASH_OK)
        err_restore(&detail);
    return first;
}
