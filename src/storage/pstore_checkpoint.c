/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_checkpoint.c - writes the changed part of the map, and commits it with a superblock.
 *
 * A checkpoint writes the map pages whose words changed to new places, then a chain of root pages
 * that names all map pages; the superblock names the first root.  Map pages are copied while the
 * map goes on changing: the copy holds everything that was installed before map_lsn was drawn, and
 * some of what came later.  Replay from map_lsn, in order, ends in the same state whatever was
 * already there, because for each page only its last record counts.
 *
 * Memory order: a word is stored before its page's changed flag; the checkpoint clears the flag
 * before it copies the words.  So a word that the copy missed leaves the flag set for the next
 * checkpoint.
 */
#include "base/error.h"
#include "storage/pstore_int.h"

ash_rc
pstore_checkpoint_begin(struct pstore *ps)
{
    struct map_checkpoint *ck = &ps->ck;

    ash_assert(!ck->active && !ps->read_only);
    ck->active = true;
    ck->written = false;
    ck->count = ck->root_count = 0;
    ck->page_high = pstore_page_high(ps);
    ck->pages = (ck->page_high + MAP_PAGE_ENTRIES - 1) / MAP_PAGE_ENTRIES;
    if (ck->pages < ps->map_pages)
        ck->pages = ps->map_pages; /* ids above high may be free, their map pages must say so */
    task_mutex_lock(&ps->space_lock);
    ck->queue_end = ps->until_checkpoint.count;
    task_mutex_unlock(&ps->space_lock);
    return ASH_OK;
}

static bool
words_copy(struct pstore *ps, uint64_t index, struct map_page *m)
{
    *m = (struct map_page){
        .head = { .format = PAGE_FORMAT, .type = PAGE_TYPE_MAP, .page = MAP_PAGE_ID(index) },
        .index = index
    };
    uint64_t first = index * MAP_PAGE_ENTRIES, any = 0;
    for (unsigned i = 0; i < MAP_PAGE_ENTRIES; i++) {
        uint64_t word = pstore__word(ps, first + i);
        m->entry[i] = map_word_is_place(word) ? word : 0;
        any |= m->entry[i];
    }
    return any != 0;
}

static ash_rc
items_reserve(struct map_checkpoint *ck, uint64_t count)
{
    if (count <= ck->capacity)
        return ASH_OK;
    uint64_t capacity = max_u64(count, max_u64(64, ck->capacity * 2));
    struct map_write_item *item = mem_realloc(MEM_PSTORE, ck->item, capacity * sizeof(*item));
    if (item == NULL)
        return ASH_NO_MEMORY;
    ck->item = item;
    ck->capacity = capacity;
    return ASH_OK;
}

/* Writes changed map pages from *index on, at most a batch of them. */
static ash_rc
map_batch_write(struct pstore *ps, uint64_t *index, struct map_page *bufs, struct pstore_write *w)
{
    struct map_checkpoint *ck = &ps->ck;
    uint64_t begin = ck->count;
    unsigned n = 0;
    ash_rc rc = items_reserve(ck, ck->count + PSTORE_BATCH);
    if (rc != ASH_OK)
        return rc;
    for (; *index < ck->pages && n < PSTORE_BATCH; ++*index) {
        if (atomic_load_explicit(&ps->map_changed[*index], memory_order_relaxed) == 0)
            continue;
        (void)atomic_exchange(&ps->map_changed[*index],
                              0); /* before the words are read: see the head of this file */
        bool any = words_copy(ps, *index, &bufs[n]);
        ck->item[ck->count++] = (struct map_write_item){ .index = *index, .entry = 0 };
        if (any) { /* an empty one needs no page */
            w[n] = (struct pstore_write){ .page = MAP_PAGE_ID(*index),
                                          .page_class = 0,
                                          .image = &bufs[n] };
            n++;
        }
    }
    if (n == 0)
        return ASH_OK;
    rc = pstore__write_places(ps, w, n, IO_CLASS_FLUSH, /* flush= */ false);
    if (rc != ASH_OK)
        return rc; /* nothing was taken; abort sets the flags again */
    atomic_fetch_add_explicit(&ps->map_writes, n, memory_order_relaxed);
    unsigned next = 0;
    for (uint64_t i = begin; i < ck->count && next < n; i++)
        if (w[next].page == MAP_PAGE_ID(ck->item[i].index))
            ck->item[i].entry = w[next++].entry.v;
    return ASH_OK;
}

/* Place of a map page once this checkpoint is committed.  Items are in index order. */
static uint64_t
place_after(const struct pstore *ps, uint64_t index)
{
    const struct map_checkpoint *ck = &ps->ck;
    uint64_t low = 0, high = ck->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (ck->item[middle].index < index)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < ck->count && ck->item[low].index == index)
        return ck->item[low].entry;
    return atomic_load(&ps->map_place[index]);
}

/* The chain is written from its end, because each page names the next with its place and checksum.
 * Few pages: one for each 255 thousand page ids. */
static ash_rc
roots_write(struct pstore *ps, struct map_root *buf)
{
    struct map_checkpoint *ck = &ps->ck;
    uint64_t roots = (ck->pages + MAP_ROOT_ENTRIES - 1) / MAP_ROOT_ENTRIES;
    uint64_t *places = mem_realloc(MEM_PSTORE, ck->root, roots * sizeof(*places));
    if (places == NULL)
        return ASH_NO_MEMORY;
    ck->root = places;
    uint64_t next = 0;
    for (uint64_t r = roots; r-- > 0;) {
        uint64_t first = r * MAP_ROOT_ENTRIES;
        *buf = (struct map_root){
            .head = { .format = PAGE_FORMAT, .type = PAGE_TYPE_MAP_ROOT, .page = MAP_ROOT_ID(r) },
            .index = r,
            .next = next,
            .count = (uint32_t)min_u64(MAP_ROOT_ENTRIES, ck->pages - first)
        };
        for (uint32_t i = 0; i < buf->count; i++)
            buf->entry[i] = place_after(ps, first + i);
        struct pstore_write w = { .page = MAP_ROOT_ID(r), .page_class = 0, .image = buf };
        ash_rc rc = pstore__write_places(ps, &w, 1, IO_CLASS_FLUSH, /* flush= */ false);
        if (rc != ASH_OK)
            return rc;
        atomic_fetch_add_explicit(&ps->map_writes, 1, memory_order_relaxed);
        ck->root[roots - 1 - ck->root_count++] = next = w.entry.v;
    }
    return ASH_OK;
}

ash_rc
pstore_checkpoint_write(struct pstore *ps)
{
    struct map_checkpoint *ck = &ps->ck;
    ash_assert(ck->active && !ck->written);
    struct pstore_write *w = mem_alloc(MEM_PSTORE, PSTORE_BATCH * sizeof(*w));
    unsigned batch = (unsigned)min_u64(max_u64(ck->pages, 1), PSTORE_BATCH);
    struct map_page *bufs = mem_aligned(MEM_PSTORE, IO_ALIGN, batch * sizeof(*bufs));
    ash_rc rc = w == NULL || bufs == NULL ? ASH_NO_MEMORY : ASH_OK;
    uint64_t index = 0;

    while (rc == ASH_OK && index < ck->pages)
        rc = map_batch_write(ps, &index, bufs, w);
    /* An unchanged map keeps its root. */
    if (rc == ASH_OK && (ck->count > 0 || ck->pages != ps->map_pages))
        rc = roots_write(ps, (struct map_root *)(void *)bufs);
    if (rc == ASH_OK && ck->root_count > 0)
        rc = io_flush(ps->file, IO_CLASS_FLUSH);
    ck->written = rc == ASH_OK;
    mem_free(MEM_PSTORE, bufs);
    mem_free(MEM_PSTORE, w);
    return rc;
}

void
pstore_checkpoint_abort(struct pstore *ps)
{
    struct map_checkpoint *ck = &ps->ck;
    uint64_t roots = (ck->pages + MAP_ROOT_ENTRIES - 1) / MAP_ROOT_ENTRIES;
    ash_assert(ck->active);
    for (uint64_t i = 0; i < ck->count; i++) {
        atomic_store_explicit(&ps->map_changed[ck->item[i].index], 1, memory_order_release);
        if (ck->item[i].entry != 0)
            pstore__space_free_entry(ps, ck->item[i].entry);
    }
    for (uint64_t i = roots - ck->root_count; ck->root_count > 0 && i < roots; i++)
        pstore__space_free_entry(ps, ck->root[i]);
    ck->active = false;
}

/* After the superblock is durable: what the old one named is dead. */
static void
checkpoint_apply(struct pstore *ps)
{
    struct map_checkpoint *ck = &ps->ck;
    for (uint64_t i = 0; i < ck->count; i++) {
        uint64_t old = atomic_exchange(&ps->map_place[ck->item[i].index], ck->item[i].entry);
        if (old != 0)
            pstore__space_free_entry(ps, old);
    }
    if (ck->root_count > 0) {
        for (uint64_t i = 0; i < ps->root_count; i++)
            pstore__space_free_entry(ps, ps->root_place[i]);
        mem_free(MEM_PSTORE, ps->root_place);
        ps->root_place = ck->root;
        ps->root_count = ck->root_count;
        ck->root = NULL;
    }
    ps->map_pages = ck->pages;
    pstore__space_checkpointed(ps, ck->queue_end);
    ck->active = false;
}

ash_rc
pstore_checkpoint_commit(struct pstore *ps, const struct pstore_checkpoint_info *info)
{
    struct map_checkpoint *ck = &ps->ck;
    struct super_block sb = ps->super;

    ash_assert(ck->active && ck->written);
    if (ck->root_count > 0)
        sb.map_root = ck->root[0];
    sb.map_pages = ck->pages;
    sb.page_high = ck->page_high;
    sb.checkpoint_lsn = info->checkpoint_lsn;
    sb.checkpoint_segment = info->checkpoint_segment;
    sb.scan_lsn = info->scan_lsn;
    sb.scan_segment = info->scan_segment;
    sb.map_lsn = info->map_lsn;
    sb.epoch = info->epoch;
    sb.flags = info->clean ? SUPER_FLAG_CLEAN : 0;
    if (PLANTED(54))
        checkpoint_apply(ps);
    ash_rc rc = pstore__super_commit(ps, &sb);
    if (rc !=
        /* which superblock the disk has is unknown: nothing that either names may be reused */
        ASH_OK) {
        io_poison(ps->io, rc);
        ck->active = false;
        return rc;
    }
    if (!PLANTED(54))
        checkpoint_apply(ps);
    return ASH_OK;
}
