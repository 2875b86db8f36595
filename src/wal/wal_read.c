/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_read.c - reads single records back while the log is in use: the versions of rows live there.
 *
 * Entry points: wal_read().  The fast path, out of the log buffer, is wal_read_nowait() in
 * wal_append.c.
 *
 * A record that has left the buffer is durable, or is about to be (its overwriter waits for that):
 * so the slow path first waits for durability, then finds segment and block in the index in memory,
 * reads and verifies whole blocks, and keeps a few of them.
 * Locks: wal->lock to search the index; cache_lock for the cache.  Neither is held over I/O.
 */
#include "base/crc.h"
#include "wal/wal_int.h"

#include <inttypes.h>

/* Finds the block that holds `lsn`, and takes a reference on its segment.  NULL when it was
 * truncated away. */
static struct wal_segment *
find_block(struct wal *wal, uint64_t lsn, struct wal_block_ref *out)
{
    struct wal_segment *found = NULL;
    wal__lock(&wal->lock);
    for (struct list *it = wal->live.prev; it != &wal->live; it = it->prev) {
        struct wal_segment *s = list_entry(it, struct wal_segment, link);
        if (s->lsn > lsn)
            continue;
        uint32_t low = 0, high = s->count; /* blocks[low].lsn <= lsn < blocks[high].lsn */
        while (high - low > 1) {
            uint32_t middle = low + (high - low) / 2;
            if (s->blocks[middle].lsn <= lsn)
                low = middle;
            else
                high = middle;
        }
        if (s->count > 0 && lsn >= s->blocks[low].lsn &&
            lsn < s->blocks[low].lsn + s->blocks[low].payload) {
            *out = s->blocks[low];
            s->refs++;
            found = s;
        }
        break;
    }
    wal__unlock(&wal->lock);
    return found;
}

static struct wal_cached *
cache_find(struct wal *wal, uint64_t lsn)
{
    struct wal_cached *found = NULL;
    wal__lock(&wal->cache_lock);
    for (unsigned i = 0; i < WAL_CACHE_BLOCKS && found == NULL; i++) {
        struct wal_cached *c = &wal->cache[i];
        if (c->block != NULL && lsn >= c->lsn && lsn < c->lsn + c->payload) {
            c->refs++;
            c->used = ++wal->cache_clock;
            found = c;
        }
    }
    wal__unlock(&wal->cache_lock);
    return found;
}

static void
cache_put(struct wal *wal, struct wal_cached *c)
{
    wal__lock(&wal->cache_lock);
    ash_assert(c->refs > 0);
    c->refs--;
    wal__unlock(&wal->cache_lock);
}

/* Gives a block to the cache in place of the least recently used one, and takes a reference.  NULL:
 * all are in use; the caller keeps it. */
static struct wal_cached *
cache_add(struct wal *wal, uint64_t lsn, uint32_t payload, uint8_t *block)
{
    struct wal_cached *victim = NULL;
    uint8_t *old = NULL;
    wal__lock(&wal->cache_lock);
    for (unsigned i = 0; i < WAL_CACHE_BLOCKS; i++) {
        struct wal_cached *c = &wal->cache[i];
        if (c->refs == 0 && (victim == NULL || c->used < victim->used))
            victim = c;
    }
    if (victim != NULL) {
        old = victim->block;
        *victim = (struct wal_cached){
            .lsn = lsn, .payload = payload, .refs = 1, .used = ++wal->cache_clock, .block = block
        };
    }
    wal__unlock(&wal->cache_lock);
    mem_free(MEM_WAL, old);
    return victim;
}

/* Reads and verifies a block. */
static ash_rc
load_block(struct wal *wal, struct wal_segment *s, const struct wal_block_ref *ref, uint8_t **out)
{
    uint64_t offset = (uint64_t)ref->unit * 4096;
    uint32_t bytes = (uint32_t)round_up(WAL_BLOCK_HEAD + ref->payload, 4096);
    uint8_t *block = mem_aligned(MEM_WAL, 4096, bytes);
    if (block == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc = io_read(s->file, block, bytes, offset, IO_CLASS_READ);
    struct wal_block_head h;
    if (rc == ASH_OK &&
        (!wal__block_valid(block, bytes, wal->options.uuid, &h) || h.lsn != ref->lsn ||
         h.payload != ref->payload || h.segment != s->number || h.epoch != s->epoch))
        rc = ash_raise_obj(ASH_CORRUPT, io_file_name(s->file),
                           "Log segment %s, offset %" PRIu64 ": the block of log position %" PRIu64
                           " is damaged; restore from a backup.",
                           io_file_name(s->file), offset, ref->lsn);
    if (rc != ASH_OK) {
        struct err_detail why;
        err_save(&why);
        mem_free(MEM_WAL, block);
        err_restore(&why);
        return rc;
    }
    counter_add(&wal->reads_disk, 1);
    *out = block;
    return ASH_OK;
}

/* Copies what one block holds of [lsn, lsn + size): at least one byte. */
static ash_rc
copy_piece(struct wal *wal, uint64_t lsn, uint8_t *to, uint32_t size, uint32_t *copied_out)
{
    ash_rc rc = wal_flush_to(wal, lsn + 1);
    if (rc != ASH_OK)
        return rc;
    uint8_t *own = NULL;
    struct wal_cached *c = cache_find(wal, lsn);
    struct wal_block_ref ref;
    if (c != NULL) {
        ref.lsn = c->lsn;
        ref.payload = c->payload;
    } else {
        struct wal_segment *s = find_block(wal, lsn, &ref);
        if (s == NULL)
            return ash_raise(ASH_SNAPSHOT_TOO_OLD,
                             "The log position %" PRIu64
                             " has been truncated away (the log begins at %" PRIu64 ").",
                             lsn, wal_oldest(wal));
        rc = load_block(wal, s, &ref, &own);
        wal__segment_unref(wal, s);
        if (rc != ASH_OK)
            return rc;
        c = cache_add(wal, ref.lsn, ref.payload, own);
    }
    uint64_t skip = lsn - ref.lsn;
    uint32_t n = (uint32_t)min_u64(size, ref.payload - skip);
    memcpy(to, (c != NULL ? c->block : own) + WAL_BLOCK_HEAD + skip, n);
    if (c != NULL)
        cache_put(wal, c);
    else
        mem_free(MEM_WAL, own);
    *copied_out = n;
    return ASH_OK;
}

static ash_rc
copy_from_disk(struct wal *wal, uint64_t lsn, uint8_t *to, uint32_t size)
{
    while (size > 0) {
        uint32_t n;
        ash_rc rc = copy_piece(wal, lsn, to, size, &n);
        if (rc != ASH_OK)
            return rc;
        lsn += n;
        to += n;
        size -= n;
    }
    return ASH_OK;
}

ash_rc
wal_read(struct wal *wal, uint64_t lsn, void *buf, uint32_t capacity, uint32_t *size_out)
{
    ash_rc rc = wal_read_nowait(wal, lsn, buf, capacity, size_out);
    if (rc != ASH_WOULD_BLOCK)
        return rc;
    if (lsn < wal_oldest(wal))
        return ash_raise(ASH_SNAPSHOT_TOO_OLD,
                         "The log position %" PRIu64
                         " has been truncated away (the log begins at %" PRIu64 ").",
                         lsn, wal_oldest(wal));
    struct wal_record_head head;
    rc = copy_from_disk(wal, lsn, (uint8_t *)&head, sizeof(head));
    if (rc != ASH_OK)
        return rc;
    if (head.size < sizeof(head) || head.size > WAL_RECORD_MAX ||
        lsn + wal__padded(head.size) > atomic_load(&wal->reserved))
        return ash_raise(
            ASH_CORRUPT,
            "A reference to log position %" PRIu64 " points into the middle of a record.", lsn);
    *size_out = head.size;
    if (head.size > capacity)
        return ASH_TOO_LARGE;
    return copy_from_disk(wal, lsn, buf, head.size);
}
