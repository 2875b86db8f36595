/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_large.c - values that do not fit a leaf: pages of type VALUE, named by the row.
 *
 * Invariants:
 *   I1  The pages of a value belong to exactly one version of one row. They are born in the record
 *       that writes the row and freed in the record that undoes it, or when the row was replaced or
 *       deleted and no snapshot can see it any more (txn garbage).
 *   I2  They are never changed after they were filled, and filled before the row's transaction can
 *       commit.
 */
#include "btree/btree_int.h"

#define ROOM(page_class) \
    (PAGE_CLASS_SIZE((uint32_t)(page_class)) - (uint32_t)sizeof(struct btree_value_page))

unsigned
btree__large_plan(uint32_t size, uint8_t classes_out[BTREE_LARGE_PAGES_MAX])
{
    unsigned count = 0;
    uint32_t left = size;
    while (left > 0) {
        uint8_t class = 0;
        while (class < BTREE_LARGE_CLASS_MAX && ROOM(class) < left)
            class ++;
        ash_assert(count < BTREE_LARGE_PAGES_MAX);
        classes_out[count++] = class;
        left -= left < ROOM(class) ? left : ROOM(class);
    }
    return count;
}

bool
btree__large_parse(const uint8_t *value, uint32_t value_size, uint32_t *size_out,
                   uint64_t *pages_out, unsigned *count_out)
{
    struct btree_large l;
    if (value_size < sizeof(l))
        return false;
    memcpy(&l, value, sizeof(l));
    if (l.count == 0 || l.count > BTREE_LARGE_PAGES_MAX || l.size > ASH_VALUE_SIZE_MAX ||
        value_size != sizeof(l) + 8 * (size_t)l.count)
        return false;
    for (unsigned i = 0; i < l.count; i++)
        pages_out[i] = get_le64(value + sizeof(l) + 8 * (size_t)i);
    *size_out = l.size;
    *count_out = l.count;
    return true;
}

/* ---- Reading ---- */

static ash_rc
bad_value(const struct btree *bt, uint64_t page)
{
    return ash_raise(
        ASH_CORRUPT,
        "Tree %u: page %llu should hold part of a large value and does not; run a verification.",
        bt->tree, (unsigned long long)page);
}

static ash_rc
read_page(const struct btree *bt, uint64_t page, unsigned index, uint32_t left,
          struct btree_buf *out)
{
    struct buf_page p;
    ash_rc rc = buf_latch_s(bt->env->pool, page, &p);
    if (rc != ASH_OK)
        return rc;
    const struct btree_value_page *v = (const void *)p.data;
    if (v->page.type != PAGE_TYPE_VALUE || v->page.tree != bt->tree || v->index != index ||
        v->size > left || v->size > p.size - sizeof(*v)) {
        rc = bad_value(bt, page);
    } else {
        memcpy(out->data + out->size, v + 1, v->size);
        out->size += v->size;
    }
    buf_unlatch_s(bt->env->pool, &p);
    return rc;
}

ash_rc
btree__large_read(const struct btree *bt, const uint8_t *description, uint32_t description_size,
                  struct btree_buf *out)
{
    uint64_t pages[BTREE_LARGE_PAGES_MAX];
    uint32_t size, before = out->size;
    unsigned count;
    if (!btree__large_parse(description, description_size, &size, pages, &count))
        return ash_raise(ASH_CORRUPT,
                         "Tree %u: a row describes its large value wrongly; run a verification.",
                         bt->tree);
    ash_rc rc = btree__buf_room(out, size);
    if (rc != ASH_OK)
        return rc;
    if (count > 1)
        buf_prefetch(bt->env->pool, pages, count, IO_CLASS_READ);
    for (unsigned i = 0; i < count && rc == ASH_OK; i++)
        rc = read_page(bt, pages[i], i, size - (out->size - before), out);
    if (rc == ASH_OK && out->size - before != size)
        rc = bad_value(bt, pages[count - 1]);
    return rc;
}

/* ---- Room for writers ---- */

/* Without it several writers could each hold part of their frames, all together the whole cache, and
 * wait for the rest. */
struct btree_large_room {
    struct task_mutex lock;
    struct task_cond freed;
    uint64_t bytes; /* of pages that writers inside may hold */
};

/* Of the cache; the rest is for everybody else, and to be cleaned and evicted meanwhile.  A value
 * that needs more goes in alone. */
#define ROOM_PART 4u

ash_rc
btree__large_init(struct btree_env *env)
{
    env->large = mem_zalloc(MEM_BTREE, sizeof(*env->large));
    if (env->large == NULL)
        return ASH_NO_MEMORY;
    task_mutex_init(&env->large->lock);
    task_cond_init(&env->large->freed);
    return ASH_OK;
}

void
btree__large_deinit(struct btree_env *env)
{
    MEM_FREE(MEM_BTREE, env->large);
}

/* What a value's pages take of the cache; 0 when it has one page, which no writer waits for while it
 * holds another. */
static uint64_t
room_needed(uint32_t size)
{
    uint8_t classes[BTREE_LARGE_PAGES_MAX];
    unsigned count = btree__large_plan(size, classes);
    uint64_t bytes = 0;
    for (unsigned i = 0; count > 1 && i < count; i++)
        bytes += PAGE_CLASS_SIZE((uint32_t)classes[i]);
    return bytes;
}

void
btree__large_enter(const struct btree *bt, uint32_t size)
{
    struct btree_large_room *room = bt->env->large;
    uint64_t bytes = room_needed(size);
    struct buf_stats stats;
    if (bytes == 0)
        return;
    buf_stats(bt->env->pool, &stats);
    task_mutex_lock(&room->lock);
    while (room->bytes > 0 && room->bytes + bytes > stats.bytes / ROOM_PART && !PLANTED(304))
        task_cond_wait(&room->freed, &room->lock);
    room->bytes += bytes;
    task_mutex_unlock(&room->lock);
}

void
btree__large_leave(const struct btree *bt, uint32_t size)
{
    struct btree_large_room *room = bt->env->large;
    uint64_t bytes = room_needed(size);
    if (bytes == 0)
        return;
    task_mutex_lock(&room->lock);
    ash_assert(room->bytes >= bytes);
    room->bytes -= bytes;
    task_cond_broadcast(&room->freed);
    task_mutex_unlock(&room->lock);
}

/* ---- Writing ---- */

ash_rc
btree__large_reserve(const struct btree *bt, uint32_t size)
{
    uint8_t classes[BTREE_LARGE_PAGES_MAX];
    unsigned count = btree__large_plan(size, classes);
    ash_rc rc = ASH_OK;
    for (unsigned i = count, run; i > 0 && rc == ASH_OK; i -= run) {
        for (run = 1; run < i && classes[i - run - 1] == classes[i - 1]; run++)
            ;
        rc = buf_reserve(bt->env->pool, classes[i - 1], run);
    }
    return rc;
}

ash_rc
btree__large_new(const struct btree *bt, uint32_t size, struct btree_large_new *n)
{
    uint8_t classes[BTREE_LARGE_PAGES_MAX];
    unsigned count = btree__large_plan(size, classes);
    struct btree_large l = { size, count };
    memcpy(n->description, &l, sizeof(l));
    n->description_size = (uint32_t)(sizeof(l) + 8 * (size_t)count);
    n->count = 0;
    /* The last, smallest page first: memory for a size class is taken from others in whole chunks,
     * and the large frames that one writer holds may lie in all of them.  So nobody waits for small
     * frames with large ones in his hands. */
    for (unsigned i = count; i-- > 0;) {
        struct buf_page *p = &n->page[i];
        ash_rc rc = buf_new(bt->env->pool, PAGE_TYPE_VALUE, classes[i], bt->tree, p);
        if (rc != ASH_OK) {
            while (++i < count)
                buf_new_cancel(bt->env->pool, &n->page[i]);
            return rc;
        }
        put_le64(n->description + sizeof(l) + 8 * (size_t)i, p->page);
    }
    n->count = count;
    return ASH_OK;
}

void
btree__large_cancel(const struct btree *bt, struct btree_large_new *n)
{
    while (n->count > 0)
        buf_new_cancel(bt->env->pool, &n->page[--n->count]);
}

/* One page: its header fields and bytes, logged as plain bytes. */
static ash_rc
fill_page(const struct btree *bt, struct buf_page *p, unsigned index, const uint8_t *data,
          uint32_t size)
{
    struct {
        uint32_t offset, zero, size, index;
    } head = { offsetof(struct btree_value_page, size), 0, size, index };
    struct wal_part parts[2] = { { &head, sizeof(head) }, { data, size } };
    struct mtr m;
    struct mtr_record record = { .type = WAL_REC_MTR };
    uint64_t start, end;
    mtr_begin(&m, bt->env->wal, bt->env->pool);
    ash_rc rc = mtr_change(&m, p, WAL_OP_PAGE_BYTES, parts, 2);
    if (rc != ASH_OK) {
        mtr_abort(&m);
        return rc;
    }
    struct btree_value_page *v = (void *)p->data;
    v->size = size;
    v->index = index;
    memcpy(v + 1, data, size);
    return mtr_commit(&m, &record, &start, &end);
}

ash_rc
btree__large_fill(const struct btree *bt, struct btree_large_new *n, struct ash_slice value)
{
    const uint8_t *data = value.data;
    uint32_t left = (uint32_t)value.size;
    ash_rc rc = ASH_OK;
    for (unsigned i = 0; i < n->count; i++) {
        struct buf_page *p = &n->page[i];
        uint32_t room = p->size - (uint32_t)sizeof(struct btree_value_page),
                 take = left < room ? left : room;
        if (rc == ASH_OK)
            rc = fill_page(bt, p, i, data, take);
        buf_unlatch_x(bt->env->pool, p);
        data += take;
        left -= take;
    }
    n->count = 0;
    return rc;
}

ash_rc
btree__large_try_latch(const struct btree *bt, const uint64_t *pages, unsigned count,
                       struct buf_page *pages_out, uint64_t *fault_out)
{
    for (unsigned i = 0; i < count; i++) {
        ash_rc rc = buf_try_latch_x(bt->env->pool, pages[i], &pages_out[i]);
        if (rc == ASH_OK) {
            const struct page_head *h = (const void *)pages_out[i].data;
            if (h->type == PAGE_TYPE_VALUE && h->tree == bt->tree)
                continue;
            buf_unlatch_x(bt->env->pool, &pages_out[i]);
            rc = bad_value(bt, pages[i]);
        }
        *fault_out = pages[i];
        while (i-- > 0)
            buf_unlatch_x(bt->env->pool, &pages_out[i]);
        return rc;
    }
    return ASH_OK;
}
