/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_map.c - the location map: words in memory, page ids, loading it, and MAP records.
 *
 * The map in memory is one array of words by page id (pstore_int.h lists what a word can say).
 * pstore_checkpoint.c brings it to disk.
 */
#include "base/error.h"
#include "storage/pstore_int.h"

#include <inttypes.h>

/* ---- Making it ---- */

ash_rc
pstore__map_init(struct pstore *ps, uint64_t page_id_max)
{
    ps->id_max = page_id_max == 0 ? PSTORE_PAGE_ID_MAX : page_id_max;
    ps->map_pages_max = (ps->id_max + MAP_PAGE_ENTRIES - 1) / MAP_PAGE_ENTRIES;
    ps->map_bytes = ps->id_max * 8 + ps->map_pages_max * 9;
    uint8_t *base = mem_map(MEM_PSTORE, ps->map_bytes, /* huge= */ false);
    if (base == NULL)
        return ASH_NO_MEMORY;
    ps->map_base = base;
    ps->map = (_Atomic uint64_t *)(void *)base;
    ps->map_place = ps->map + ps->id_max;
    ps->map_changed = (_Atomic uint8_t *)(base + (ps->id_max + ps->map_pages_max) * 8);
    atomic_store(&ps->high, PAGE_ID_FIRST);
    return ASH_OK;
}

void
pstore__map_deinit(struct pstore *ps)
{
    if (ps->map_base != NULL)
        mem_unmap(MEM_PSTORE, ps->map_base, ps->map_bytes);
    mem_free(MEM_PSTORE, ps->root_place);
    mem_free(MEM_PSTORE, ps->ck.item);
    mem_free(MEM_PSTORE, ps->ck.root);
}

/* ---- Words ---- */

static uint64_t
word_set(struct pstore *ps, uint64_t page, uint64_t word)
{
    ash_assert(page >= PAGE_ID_FIRST && page < ps->id_max);
    uint64_t old = atomic_exchange_explicit(&ps->map[page], word, memory_order_acq_rel);
    if ((map_word_is_place(old) || map_word_is_place(word)) && !PLANTED(53))
        atomic_store_explicit(&ps->map_changed[page / MAP_PAGE_ENTRIES], 1, memory_order_release);
    if (map_word_is_place(old))
        atomic_fetch_sub_explicit(&ps->placed, 1, memory_order_relaxed);
    if (map_word_is_place(word))
        atomic_fetch_add_explicit(&ps->placed, 1, memory_order_relaxed);
    if (old == MAP_WORD_ALLOCATED)
        atomic_fetch_sub_explicit(&ps->unplaced, 1, memory_order_relaxed);
    if (word == MAP_WORD_ALLOCATED)
        atomic_fetch_add_explicit(&ps->unplaced, 1, memory_order_relaxed);
    return old;
}

static void
high_raise(struct pstore *ps, uint64_t page)
{
    uint64_t high = atomic_load_explicit(&ps->high, memory_order_relaxed);
    while (page >= high && !atomic_compare_exchange_weak(&ps->high, &high, page + 1))
        ;
}

void
pstore_map_lock(struct pstore *ps)
{
    task_mutex_lock(&ps->map_lock);
}

void
pstore_map_unlock(struct pstore *ps)
{
    task_mutex_unlock(&ps->map_lock);
}

bool
pstore_locate(const struct pstore *ps, uint64_t page, struct map_entry *entry_out,
              uint8_t *class_out)
{
    uint64_t word = pstore__word(ps, page);
    if (!map_word_is_place(word))
        return false;
    *entry_out = (struct map_entry){ word };
    *class_out = pstore__class_of(map_entry_length(*entry_out));
    return true;
}

void
pstore_install(struct pstore *ps, uint64_t page, struct map_entry entry, uint64_t lsn)
{
    ash_assert(map_word_is_place(entry.v));
    uint64_t old = word_set(ps, page, entry.v);
    high_raise(ps, page);
    if (!ps->tracking)
        return; /* analysis: use is derived afterwards */
    ash_assert(old != 0 && (old & MAP_WORD_FREE) == 0);
    if (map_word_is_place(old))
        pstore__space_defer(ps, old, lsn);
}

/* ---- Page ids ---- */

ash_rc
pstore_page_alloc(struct pstore *ps, uint64_t *page_out)
{
    ash_rc rc = ASH_OK;
    uint64_t page;

    ash_assert(!ps->read_only);
    pstore__spin_lock(&ps->id_lock);
    if (ps->id_free != 0) {
        page = ps->id_free;
        uint64_t word = atomic_load_explicit(&ps->map[page], memory_order_relaxed);
        ash_assert((word & MAP_WORD_FREE) != 0);
        ps->id_free = word & ~MAP_WORD_FREE;
        ps->id_free_count--;
    } else {
        page = atomic_load_explicit(&ps->high, memory_order_relaxed);
        if (page >= ps->id_max)
            rc = ASH_NO_SPACE;
        else
            atomic_store_explicit(&ps->high, page + 1, memory_order_relaxed);
    }
    if (rc == ASH_OK)
        (void)word_set(ps, page, MAP_WORD_ALLOCATED);
    pstore__spin_unlock(&ps->id_lock);
    if (rc != ASH_OK)
        return ash_raise_obj(rc, PSTORE_FILE,
                             "The database has used all of its %" PRIu64
                             " page ids; raise page_id_max or delete rows.",
                             ps->id_max);
    *page_out = page;
    return ASH_OK;
}

/* Puts an id on the free stack; returns its old word. */
static uint64_t
id_release(struct pstore *ps, uint64_t page)
{
    pstore__spin_lock(&ps->id_lock);
    uint64_t old = word_set(ps, page, MAP_WORD_FREE | ps->id_free);
    ps->id_free = page;
    ps->id_free_count++;
    pstore__spin_unlock(&ps->id_lock);
    return old;
}

void
pstore_page_unalloc(struct pstore *ps, uint64_t page)
{
    uint64_t old = id_release(ps, page);
    ash_assert(old == MAP_WORD_ALLOCATED);
}

void
pstore_page_free(struct pstore *ps, uint64_t page, uint64_t lsn)
{
    if (!ps->tracking) {
        (void)word_set(ps, page, 0);
        return;
    }
    uint64_t old = id_release(ps, page);
    ash_assert(old == MAP_WORD_ALLOCATED || map_word_is_place(old));
    if (map_word_is_place(old))
        pstore__space_defer(ps, old, lsn);
}

uint64_t
pstore_page_high(const struct pstore *ps)
{
    return atomic_load_explicit(&ps->high, memory_order_relaxed);
}

bool
pstore_page_allocated(const struct pstore *ps, uint64_t page)
{
    uint64_t word = pstore__word(ps, page);
    return word == MAP_WORD_ALLOCATED || map_word_is_place(word);
}

/* ---- Restart ---- */

ash_rc
pstore_replay_check(const struct pstore *ps, uint64_t page, struct map_entry entry)
{
    if (page < PAGE_ID_FIRST || page >= ps->id_max)
        return ash_raise_obj(
            ASH_CORRUPT, PSTORE_FILE,
            "The log names page %" PRIu64 ", but page ids are below %" PRIu64
            "; perhaps the database was opened with a smaller page_id_max before; raise it.",
            page, ps->id_max);
    return entry.v == 0 ? ASH_OK : pstore__entry_check(ps, entry, "page", page);
}

void
pstore_page_mark(struct pstore *ps, uint64_t page)
{
    if (!map_word_is_place(pstore__word(ps, page)))
        (void)word_set(ps, page, MAP_WORD_ALLOCATED);
    high_raise(ps, page);
}

void
pstore_page_unmark(struct pstore *ps, uint64_t page)
{
    if (pstore__word(ps, page) == MAP_WORD_ALLOCATED)
        (void)word_set(ps, page, 0);
}

ash_rc
pstore_recovered(struct pstore *ps)
{
    ash_assert(!ps->tracking);
    for (uint64_t i = 0; i < ps->map_pages; i++) {
        struct map_entry e = { atomic_load(&ps->map_place[i]) };
        ash_rc rc = e.v == 0 ? ASH_OK : pstore__space_mark(ps, e, "map page", i);
        if (rc != ASH_OK)
            return rc;
    }
    for (uint64_t i = 0; i < ps->root_count; i++) {
        ash_rc rc = pstore__space_mark(ps, (struct map_entry){ ps->root_place[i] }, "map root", i);
        if (rc != ASH_OK)
            return rc;
    }
    uint64_t high = pstore_page_high(ps);
    while (high > PAGE_ID_FIRST && pstore__word(ps, high - 1) == 0)
        high--;
    atomic_store(&ps->high, high);
    for (uint64_t page = high; page-- > PAGE_ID_FIRST;) {
        uint64_t word = pstore__word(ps, page);
        ash_rc rc = ASH_OK;
        if (word == 0)
            (void)id_release(ps, page);
        else if (map_word_is_place(word))
            rc = pstore__space_mark(ps, (struct map_entry){ word }, "page", page);
        if (rc != ASH_OK)
            return rc;
    }
    pstore__space_derived(ps);
    return ASH_OK;
}

/* ---- Checking what comes from disk ---- */

bool
pstore__entry_shape(uint64_t entry)
{
    struct map_entry e = { entry };
    uint32_t length = map_entry_length(e);
    return map_word_is_place(entry) && map_entry_offset(e) % UNIT_BYTES == 0 &&
           map_entry_offset(e) >= SUPER_AREA && length >= PAGE_SIZE_MIN && is_pow2(length);
}

ash_rc
pstore__entry_check(const struct pstore *ps, struct map_entry e, const char *what, uint64_t number)
{
    uint64_t zone_bytes = ps->super.zone_bytes;
    uint64_t offset = map_entry_offset(e), last = offset + map_entry_length(e) - 1;
    if (pstore__entry_shape(e.v) && offset / zone_bytes == last / zone_bytes &&
        last / zone_bytes < ps->zones)
        return ASH_OK;
    return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                         "%s %" PRIu64 " is said to lie at offset %" PRIu64 " with %" PRIu32
                         " bytes, which %s (%" PRIu64 " zones of %" PRIu64
                         " bytes) does not hold; was the file cut?  Restore from a backup.",
                         what, number, offset, map_entry_length(e), PSTORE_FILE, ps->zones,
                         zone_bytes);
}

static ash_rc
map_page_check(const struct map_page *m)
{
    if (m->head.type != PAGE_TYPE_MAP || m->index >= 1ull << 40 ||
        m->head.page != MAP_PAGE_ID(m->index))
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                             "Map page %" PRIu64 " has a wrong type or number.", m->index);
    for (unsigned i = 0; i < MAP_PAGE_ENTRIES; i++)
        if (m->entry[i] != 0 && !pstore__entry_shape(m->entry[i]))
            return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                                 "Map page %" PRIu64 ", entry %u (page %" PRIu64 ") is %016" PRIx64
                                 ", which is no place.",
                                 m->index, i, m->index * MAP_PAGE_ENTRIES + i, m->entry[i]);
    if (m->index == 0 && m->entry[0] != 0)
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                             "The map gives page 0 a place, which never exists.");
    return ASH_OK;
}

static ash_rc
map_root_check(const struct map_root *r)
{
    bool full = r->count == MAP_ROOT_ENTRIES;
    if (r->head.type != PAGE_TYPE_MAP_ROOT || r->index >= 1ull << 40 ||
        r->head.page != MAP_ROOT_ID(r->index) || r->count > MAP_ROOT_ENTRIES || r->reserved != 0 ||
        (r->next != 0 && (!full || !pstore__entry_shape(r->next))))
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE, "Map root page %" PRIu64 " is malformed.",
                             r->index);
    for (unsigned i = 0; i < MAP_ROOT_ENTRIES; i++)
        if (r->entry[i] != 0 && (i >= r->count || !pstore__entry_shape(r->entry[i])))
            return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                                 "Map root page %" PRIu64 ", entry %u is %016" PRIx64
                                 ", which is no place.",
                                 r->index, i, r->entry[i]);
    return ASH_OK;
}

ash_rc
pstore_map_page_check(const void *page, uint32_t size)
{
    struct page_head h;
    union {
        struct map_page m;
        struct map_root r;
    } copy; /* the caller's bytes may be unaligned */

    if (size != PAGE_SIZE_MIN)
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE, "A map page has %u bytes, not %" PRIu32 ".",
                             PAGE_SIZE_MIN, size);
    memcpy(&h, page, sizeof(h));
    ash_rc rc = page_check(page, size, h.page, h.database, PSTORE_FILE, 0);
    if (rc != ASH_OK)
        return rc;
    memcpy(&copy, page, sizeof(copy));
    if (h.type == PAGE_TYPE_MAP)
        return map_page_check(&copy.m);
    return map_root_check(&copy.r);
}

ash_rc
pstore__root_check(const struct pstore *ps, const struct map_root *root, uint64_t index,
                   uint64_t pages)
{
    uint64_t before = index * MAP_ROOT_ENTRIES;
    ash_rc rc = map_root_check(root);
    if (rc != ASH_OK)
        return rc;
    bool last = before + root->count == pages;
    if (before + root->count > pages || last != (root->next == 0) || root->index != index)
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                             "Map root page %" PRIu64 " does not continue the chain of %" PRIu64
                             " map pages.",
                             index, pages);
    return root->next == 0
               ? ASH_OK
               : pstore__entry_check(ps, (struct map_entry){ root->next }, "map root", index + 1);
}

/* ---- Loading ---- */

ash_rc
pstore__map_read(struct pstore *ps, uint64_t entry, uint64_t id, enum page_type type, void *buf)
{
    struct map_entry e = { entry };
    struct page_head *h = buf;
    ash_rc rc = io_read(ps->file, buf, PAGE_SIZE_MIN, map_entry_offset(e), IO_CLASS_READ);
    if (rc != ASH_OK)
        return rc;
    rc = pstore_read_end(ps, id, 0, buf, e);
    if (rc == ASH_OK && h->type != type)
        rc = ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                           "%s, offset %" PRIu64 ": a page of the map has type %u, expected %u.",
                           PSTORE_FILE, map_entry_offset(e), h->type, type);
    return rc;
}

/* Follows the chain of roots and fills map_place. */
static ash_rc
roots_load(struct pstore *ps, void *buf)
{
    uint64_t pages = ps->super.map_pages, next = ps->super.map_root;
    uint64_t roots = (pages + MAP_ROOT_ENTRIES - 1) / MAP_ROOT_ENTRIES;
    const struct map_root *root = buf;
    ash_rc rc = ASH_OK;

    ps->root_place = mem_alloc(MEM_PSTORE, max_u64(roots, 1) * sizeof(uint64_t));
    if (ps->root_place == NULL)
        return ASH_NO_MEMORY;
    for (uint64_t r = 0; r < roots; r++) {
        rc = pstore__entry_check(ps, (struct map_entry){ next }, "map root", r);
        if (rc == ASH_OK)
            rc = pstore__map_read(ps, next, MAP_ROOT_ID(r), PAGE_TYPE_MAP_ROOT, buf);
        if (rc == ASH_OK)
            rc = pstore__root_check(ps, root, r, pages);
        if (rc != ASH_OK)
            return rc;
        ps->root_place[ps->root_count++] = next;
        for (uint32_t i = 0; i < root->count; i++) {
            rc = root->entry[i] == 0 ? ASH_OK
                                     : pstore__entry_check(ps, (struct map_entry){ root->entry[i] },
                                                           "map page", r * MAP_ROOT_ENTRIES + i);
            if (rc != ASH_OK)
                return rc;
            atomic_store(&ps->map_place[r * MAP_ROOT_ENTRIES + i], root->entry[i]);
        }
        next = root->next;
    }
    ps->map_pages = pages;
    return ASH_OK;
}

static ash_rc
words_load(struct pstore *ps, const struct map_page *m, uint64_t index)
{
    ash_rc rc = map_page_check(m);
    if (rc != ASH_OK)
        return rc;
    for (unsigned i = 0; i < MAP_PAGE_ENTRIES; i++) {
        uint64_t page = index * MAP_PAGE_ENTRIES + i;
        if (m->entry[i] == 0)
            continue;
        rc = page < ps->id_max
                 ? pstore__entry_check(ps, (struct map_entry){ m->entry[i] }, "page", page)
                 : pstore_replay_check(ps, page, (struct map_entry){ 0 });
        if (rc != ASH_OK)
            return rc;
        atomic_store_explicit(&ps->map[page], m->entry[i], memory_order_relaxed);
        atomic_fetch_add_explicit(&ps->placed, 1, memory_order_relaxed);
        high_raise(ps, page);
    }
    return ASH_OK;
}

/* Reads the map pages `index` .. + count together. */
static ash_rc
map_pages_load(struct pstore *ps, uint64_t first, unsigned count, struct io_req *reqs,
               uint8_t *bufs)
{
    ash_rc rc = ASH_OK;
    struct io_req *list[PSTORE_BATCH];
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++) {
        struct map_entry e = { atomic_load(&ps->map_place[first + i]) };
        if (e.v == 0)
            continue;
        reqs[i] = (struct io_req){ .file = ps->file,
                                   .op = IO_OP_READ,
                                   .class = IO_CLASS_READ,
                                   .offset = map_entry_offset(e),
                                   .buf = bufs + i * PAGE_SIZE_MIN,
                                   .bytes = PAGE_SIZE_MIN };
        list[n++] = &reqs[i];
    }
    if (n > 0)
        io_submit(list, n);
    for (unsigned i = 0; i < count; i++) {
        struct map_entry e = { atomic_load(&ps->map_place[first + i]) };
        if (e.v == 0)
            continue;
        ash_rc one = io_wait(&reqs[i]); /* all of them: the buffers must come back */
        if (rc != ASH_OK)
            continue;
        const void *page = bufs + i * PAGE_SIZE_MIN;
        rc = one;
        if (rc == ASH_OK)
            rc = pstore_read_end(ps, MAP_PAGE_ID(first + i), 0, page, e);
        if (rc == ASH_OK)
            rc = words_load(ps, page, first + i);
    }
    return rc;
}

ash_rc
pstore__map_load(struct pstore *ps)
{
    if (ps->super.map_root == 0)
        return ASH_OK;
    if (ps->super.map_pages > ps->map_pages_max)
        return pstore_replay_check(ps, ps->super.map_pages * MAP_PAGE_ENTRIES,
                                   (struct map_entry){ 0 });
    ash_rc rc = ASH_NO_MEMORY;
    struct io_req *reqs = mem_alloc(MEM_PSTORE, PSTORE_BATCH * sizeof(*reqs));
    unsigned batch = (unsigned)min_u64(max_u64(ps->super.map_pages, 1), PSTORE_BATCH);
    uint8_t *bufs = mem_aligned(MEM_PSTORE, IO_ALIGN, (size_t)batch * PAGE_SIZE_MIN);
    if (reqs == NULL || bufs == NULL)
        goto out_free;
    rc = roots_load(ps, bufs);
    for (uint64_t i = 0; i < ps->map_pages && rc == ASH_OK; i += batch)
        rc = map_pages_load(ps, i, (unsigned)min_u64(batch, ps->map_pages - i), reqs, bufs);
out_free:
    mem_free(MEM_PSTORE, bufs);
    mem_free(MEM_PSTORE, reqs);
    return rc;
}

/* ---- MAP records ---- */

uint32_t
pstore_map_record_size(unsigned count)
{
    ash_assert(count > 0 && count <= PSTORE_MAP_MOVES_MAX);
    return (uint32_t)(sizeof(struct map_record) + count * sizeof(struct map_move));
}

void
pstore_map_record_fill(void *body, const struct pstore_write *writes, unsigned count)
{
    struct map_record *r = body;
    struct map_move *move = (struct map_move *)(void *)(r + 1);
    *r = (struct map_record){ .count = count };
    for (unsigned i = 0; i < count; i++)
        move[i] = (struct map_move){ .page = writes[i].page,
                                     .entry = writes[i].entry.v,
                                     .lsn = ((const struct page_head *)writes[i].image)->lsn };
}

ash_rc
pstore_map_record_check(const void *body, uint32_t size, unsigned *count_out)
{
    struct map_record r = { 0 };
    if (size >= sizeof(r))
        memcpy(&r, body, sizeof(r));
    if (r.count == 0 || r.count > PSTORE_MAP_MOVES_MAX || r.reserved != 0 ||
        size != sizeof(r) + r.count * sizeof(struct map_move))
        return ash_raise(ASH_CORRUPT, "A MAP record of %" PRIu32 " bytes names %" PRIu32 " moves.",
                         size, r.count);
    for (unsigned i = 0; i < r.count; i++) {
        const struct map_move *m = pstore_map_record_move(body, i);
        if (m->page == PAGE_ID_NONE || !pstore__entry_shape(m->entry))
            return ash_raise(ASH_CORRUPT,
                             "A MAP record moves page %" PRIu64 " to %016" PRIx64
                             ", which is no place.",
                             m->page, m->entry);
    }
    *count_out = r.count;
    return ASH_OK;
}

const struct map_move *
pstore_map_record_move(const void *body, unsigned i)
{
    const void *moves = (const uint8_t *)body + sizeof(struct map_record);
    return (const struct map_move *)moves + i;
}
