/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_space.c - which 4 KiB units of the data file are in use, and where to write next.
 *
 * The file is a row of zones.  A bitmap says which units hold a live page (or one that must not be
 * overwritten yet); it is derived from the map at open and never stored (I5).  Writers take runs
 * of dead units, in order of preference:
 *   1. from a zone that is dead altogether: large sequential writes;
 *   2. when there is none and the file is filled above PSTORE_FILL_PERCENT: from a new zone, the
 *      file grows;
 *   3. else from the holes of the emptiest zone, its longer runs only.
 * See docs/decisions for why holes are filled rather than zones cleaned.
 *
 * Space that a newer copy replaced waits in a queue until the log record that says so is durable
 * (I1). Locks: space_lock (L2) covers everything here.  It is held while the file grows.
 */
#include "base/error.h"
#include "base/log.h"
#include "storage/pstore_int.h"

#include <inttypes.h>

/* ---- Bitmap ---- */

static inline bool
unit_used(const struct pstore *ps, uint64_t unit)
{
    return (ps->used[unit / 64] >> (unit % 64) & 1) != 0;
}

/* First unit in [from, end) that is (not) in use; `end` when there is none. */
static uint64_t
unit_find(const struct pstore *ps, uint64_t from, uint64_t end, bool in_use)
{
    while (from < end) {
        uint64_t word = ps->used[from / 64];
        if (!in_use)
            word = ~word;
        word &= ~0ull << (from % 64);
        if (word != 0) {
            uint64_t found = from / 64 * 64 + (uint64_t)__builtin_ctzll(word);
            return found < end ? found : end;
        }
        from = (from / 64 + 1) * 64;
    }
    return end;
}

static void
units_set(struct pstore *ps, uint64_t unit, uint64_t count, bool in_use)
{
    uint64_t zone = unit / ps->zone_units;
    ash_assert(count > 0 && (unit + count - 1) / ps->zone_units == zone && zone < ps->zones);
    for (uint64_t u = unit; u < unit + count; u++) {
        ash_assert(unit_used(ps, u) != in_use);
        ps->used[u / 64] ^= 1ull << (u % 64);
    }
    uint32_t before = ps->zone_used[zone];
    uint32_t after = in_use ? before + (uint32_t)count : before - (uint32_t)count;
    ash_assert(after <= ps->zone_units);
    ps->zone_used[zone] = after;
    if (before == 0 && after != 0)
        ps->zones_free--;
    else if (before != 0 && after == 0)
        ps->zones_free++;
    if (in_use)
        atomic_fetch_add_explicit(&ps->units_used, count, memory_order_relaxed);
    else
        atomic_fetch_sub_explicit(&ps->units_used, count, memory_order_relaxed);
}

/* The first dead run of at least `min` units in [from, end). */
static bool
run_find(const struct pstore *ps, uint64_t from, uint64_t end, uint64_t min, uint64_t *unit_out,
         uint64_t *count_out)
{
    while (from < end) {
        uint64_t start = unit_find(ps, from, end, /* in_use= */ false);
        uint64_t stop = unit_find(ps, start, end, /* in_use= */ true);
        if (stop - start >= min && start < end) {
            *unit_out = start;
            *count_out = stop - start;
            return true;
        }
        from = stop;
    }
    return false;
}

static uint64_t
run_longest(const struct pstore *ps, uint64_t zone)
{
    uint64_t from = zone * ps->zone_units, end = from + ps->zone_units, best = 0, unit, count;
    while (run_find(ps, from, end, best + 1, &unit, &count)) {
        best = count;
        from = unit + count;
    }
    return best;
}

/* ---- Growing ---- */

static ash_rc
zones_reserve(struct pstore *ps, uint64_t zones)
{
    if (zones <= ps->zones_capacity)
        return ASH_OK;
    uint64_t capacity = max_u64(zones, ps->zones_capacity * 2);
    uint64_t words = (ps->zones_capacity * ps->zone_units + 63) / 64;
    uint64_t words_new = (capacity * ps->zone_units + 63) / 64;
    uint32_t *zone_used = mem_realloc(MEM_PSTORE, ps->zone_used, capacity * sizeof(*zone_used));
    if (zone_used == NULL)
        return ASH_NO_MEMORY;
    ps->zone_used = zone_used;
    uint64_t *used = mem_realloc(MEM_PSTORE, ps->used, words_new * sizeof(*used));
    if (used == NULL)
        return ASH_NO_MEMORY;
    ps->used = used;
    memset(zone_used + ps->zones_capacity, 0, (capacity - ps->zones_capacity) * sizeof(*zone_used));
    memset(used + words, 0, (words_new - words) * sizeof(*used));
    ps->zones_capacity = capacity;
    return ASH_OK;
}

/* Makes the file `count` zones longer. */
static ash_rc
zones_add(struct pstore *ps, uint64_t count)
{
    uint64_t bytes = (ps->zones + count) * ps->zone_units * UNIT_BYTES;
    if (bytes > PSTORE_BYTES_MAX)
        return ash_raise_obj(ASH_NO_SPACE, PSTORE_FILE,
                             "%s/%s has reached the largest size there is, 256 TiB.",
                             io_dir_path(ps->dir), PSTORE_FILE);
    ash_rc rc = zones_reserve(ps, ps->zones + count);
    if (rc != ASH_OK)
        return rc;
    rc = io_file_allocate(ps->file, bytes, /* zero= */ false);
    if (rc != ASH_OK)
        return rc;
    ps->zones += count;
    ps->zones_free += count;
    atomic_store_explicit(&ps->units_total, ps->zones * ps->zone_units, memory_order_relaxed);
    return ASH_OK;
}

/* Grows by an eighth of the file, two zones at least, grow_bytes at most; on a nearly full disk by
 * what fits. */
static ash_rc
grow(struct pstore *ps, uint64_t zones_min)
{
    uint64_t zone_bytes = (uint64_t)ps->zone_units * UNIT_BYTES;
    uint64_t step = min_u64(ps->zones / 8, ps->grow_bytes / zone_bytes);
    step = max_u64(max_u64(step, 2), zones_min);
    ash_rc rc = zones_add(ps, step);
    if (rc == ASH_NO_SPACE && step > zones_min)
        rc = zones_add(ps, zones_min);
    return rc;
}

/* ---- Taking and giving back ---- */

static bool
zone_dead_find(const struct pstore *ps, uint64_t *zone_out)
{
    if (ps->zones_free == 0)
        return false;
    for (uint64_t z = 0; z < ps->zones; z++)
        if (ps->zone_used[z] == 0) {
            *zone_out = z;
            return true;
        }
    return false;
}

/* The emptiest zone that has a dead run of `min` units. */
static bool
zone_emptiest_find(const struct pstore *ps, uint32_t min, uint64_t *zone_out, uint64_t *longest_out)
{
    uint32_t best = ps->zone_units - min + 1;
    bool found = false;
    for (uint64_t z = 0; z < ps->zones; z++) {
        if (ps->zone_used[z] >= best)
            continue;
        uint64_t longest = run_longest(ps, z);
        if (longest < min)
            continue;
        best = ps->zone_used[z];
        *zone_out = z;
        *longest_out = longest;
        found = true;
    }
    return found;
}

static void
cursor_open(const struct pstore *ps, struct space_cursor *c, uint64_t zone, uint64_t run_min)
{
    c->open = true;
    c->cursor = zone * ps->zone_units;
    c->end = c->cursor + ps->zone_units;
    c->run_min = run_min;
}

/* Opens the next zone to write to; afterwards it has a run of `min` units. */
static ash_rc
cursor_advance(struct pstore *ps, struct space_cursor *c, uint32_t min)
{
    uint64_t zone, longest;

    if (zone_dead_find(ps, &zone)) {
        cursor_open(ps, c, zone, 1);
        return ASH_OK;
    }
    uint64_t total = ps->zones * ps->zone_units;
    if (atomic_load_explicit(&ps->units_used, memory_order_relaxed) * 100 >=
        total * PSTORE_FILL_PERCENT) {
        ash_rc rc = grow(ps, 1);
        if (rc == ASH_OK && zone_dead_find(ps, &zone)) {
            cursor_open(ps, c, zone, 1);
            return ASH_OK;
        }
        if (rc != ASH_NO_SPACE)
            return rc; /* else holes may do */
    }
    if (zone_emptiest_find(ps, min, &zone, &longest)) {
        /* The short holes stay for later: their neighbours die, and a write per 4 KiB is what we
         * want to avoid. */
        cursor_open(ps, c, zone, max_u64(longest / 4, 1));
        return ASH_OK;
    }
    ash_rc rc = grow(ps, 1);
    if (rc != ASH_OK)
        return rc;
    ash_assert(zone_dead_find(ps, &zone));
    cursor_open(ps, c, zone, 1);
    return ASH_OK;
}

ash_rc
pstore__space_take(struct pstore *ps, uint32_t min, uint32_t max, uint64_t *unit_out,
                   uint32_t *count_out)
{
    struct space_cursor *c = &ps->cursor[min >= CURSOR_LARGE_UNITS ? CURSOR_LARGE : CURSOR_SMALL];
    uint64_t unit, count;
    ash_rc rc = ASH_OK;

    ash_assert(min > 0 && min <= max && min <= ps->zone_units);
    task_mutex_lock(&ps->space_lock);
    ash_assert(ps->tracking);
    while (!c->open || !run_find(ps, c->cursor, c->end, max_u64(min, c->run_min), &unit, &count)) {
        c->open = false;
        rc = cursor_advance(ps, c, min);
        if (rc != ASH_OK)
            goto out_unlock;
    }
    count = min_u64(count, max);
    units_set(ps, unit, count, /* in_use= */ true);
    c->cursor = unit + count;
    *unit_out = unit;
    *count_out = (uint32_t)count;
out_unlock:
    task_mutex_unlock(&ps->space_lock);
    return rc;
}

void
pstore__space_free(struct pstore *ps, uint64_t unit, uint64_t count)
{
    task_mutex_lock(&ps->space_lock);
    units_set(ps, unit, count, /* in_use= */ false);
    /* An unused tail: go on right here.  But never back into the zone before. */
    for (unsigned i = 0; i < CURSOR_COUNT; i++)
        if (ps->cursor[i].open && ps->cursor[i].cursor == unit + count &&
            unit + ps->zone_units >= ps->cursor[i].end)
            ps->cursor[i].cursor = unit;
    task_mutex_unlock(&ps->space_lock);
}

void
pstore__space_free_entry(struct pstore *ps, uint64_t entry)
{
    struct map_entry e = { entry };
    pstore__space_free(ps, map_entry_offset(e) / UNIT_BYTES, map_entry_length(e) / UNIT_BYTES);
}

/* ---- Waiting for the log ---- */

static bool
queue_push(struct space_queue *q, uint64_t lsn, uint64_t entry)
{
    if (q->count == q->capacity) {
        uint64_t capacity = max_u64(q->capacity * 2, 64);
        struct space_wait *item = mem_alloc(MEM_PSTORE, capacity * sizeof(*item));
        if (item == NULL)
            return false;
        for (uint64_t i = 0; i < q->count; i++)
            item[i] = q->item[(q->head + i) & (q->capacity - 1)];
        mem_free(MEM_PSTORE, q->item);
        q->item = item;
        q->head = 0;
        q->capacity = capacity;
    }
    q->item[(q->head + q->count++) & (q->capacity - 1)] = (struct space_wait){ lsn, entry };
    q->units += map_entry_length((struct map_entry){ entry }) / UNIT_BYTES;
    return true;
}

static void
queue_pop(struct pstore *ps, struct space_queue *q)
{
    struct map_entry e = { q->item[q->head].entry };
    q->head = (q->head + 1) & (q->capacity - 1);
    q->count--;
    q->units -= map_entry_length(e) / UNIT_BYTES;
    units_set(ps, map_entry_offset(e) / UNIT_BYTES, map_entry_length(e) / UNIT_BYTES, false);
}

void
pstore__space_defer(struct pstore *ps, uint64_t entry, uint64_t lsn)
{
    if (PLANTED(51) && lsn == PSTORE_LSN_CHECKPOINT)
        lsn = 0;
    bool checkpoint = lsn == PSTORE_LSN_CHECKPOINT;
    struct space_queue *q = checkpoint ? &ps->until_checkpoint : &ps->until_durable;

    task_mutex_lock(&ps->space_lock);
    if (PLANTED(52)) {
        struct map_entry e = { entry };
        units_set(ps, map_entry_offset(e) / UNIT_BYTES, map_entry_length(e) / UNIT_BYTES, false);
        task_mutex_unlock(&ps->space_lock);
        return;
    }
    if (!queue_push(q, lsn, entry)) {
        /* No memory to remember it: the space stays in use until the next open derives it anew. */
        uint64_t units = map_entry_length((struct map_entry){ entry }) / UNIT_BYTES;
        if (atomic_fetch_add(&ps->leaked_units, units) == 0)
            log_write(
                LOG_WARN,
                "No memory to queue freed space of %s; it is found again when the database is next opened",
                PSTORE_FILE);
    } else if (!checkpoint && q->count == 1) {
        atomic_store_explicit(&ps->until_lsn, lsn, memory_order_relaxed);
    }
    task_mutex_unlock(&ps->space_lock);
}

void
pstore_release(struct pstore *ps, uint64_t durable_lsn)
{
    if (atomic_load_explicit(&ps->until_lsn, memory_order_relaxed) > durable_lsn)
        return;
    task_mutex_lock(&ps->space_lock);
    struct space_queue *q = &ps->until_durable;
    while (q->count > 0 && q->item[q->head].lsn <= durable_lsn)
        queue_pop(ps, q);
    atomic_store_explicit(&ps->until_lsn, q->count > 0 ? q->item[q->head].lsn : UINT64_MAX,
                          memory_order_relaxed);
    task_mutex_unlock(&ps->space_lock);
}

/* A checkpoint committed: what was freed before its map_lsn without a record is reusable. */
void
pstore__space_checkpointed(struct pstore *ps, uint64_t queue_end)
{
    task_mutex_lock(&ps->space_lock);
    ash_assert(queue_end <= ps->until_checkpoint.count);
    for (uint64_t i = 0; i < queue_end; i++)
        queue_pop(ps, &ps->until_checkpoint);
    task_mutex_unlock(&ps->space_lock);
}

/* ---- Room ---- */

/* Kept back from user changes, so that page writers, rollback and checkpoints have room: two zones,
 * a 64th of the file, and a place for each page that has none yet (of average size). */
static uint64_t
units_kept(const struct pstore *ps)
{
    uint64_t total = atomic_load_explicit(&ps->units_total, memory_order_relaxed);
    uint64_t used = atomic_load_explicit(&ps->units_used, memory_order_relaxed);
    uint64_t placed = atomic_load_explicit(&ps->placed, memory_order_relaxed);
    uint64_t unplaced = atomic_load_explicit(&ps->unplaced, memory_order_relaxed);
    uint64_t average = placed == 0 ? 1 : min_u64(used / placed + 1, ps->zone_units);
    return max_u64(2ull * ps->zone_units, total / 64) + unplaced * average;
}

ash_rc
pstore_ensure_room(struct pstore *ps, uint64_t bytes)
{
    for (;;) {
        uint64_t need = units_kept(ps) + (bytes + UNIT_BYTES - 1) / UNIT_BYTES;
        uint64_t total = atomic_load_explicit(&ps->units_total, memory_order_relaxed);
        uint64_t used = atomic_load_explicit(&ps->units_used, memory_order_relaxed);
        if (total >= used + need)
            return ASH_OK;
        task_mutex_lock(&ps->space_lock);
        ash_rc rc = ASH_OK;
        uint64_t before = ps->zones;
        if (total == before * ps->zone_units) /* else somebody grew it meanwhile */
            rc = grow(ps, (used + need - total + ps->zone_units - 1) / ps->zone_units);
        task_mutex_unlock(&ps->space_lock);
        if (rc == ASH_NO_SPACE)
            return ash_raise_obj(
                ASH_NO_SPACE, PSTORE_FILE,
                "%s/%s cannot grow and has no room for %" PRIu64
                " more bytes; nothing was changed: free disk space or delete rows, then retry.",
                io_dir_path(ps->dir), PSTORE_FILE, bytes);
        if (rc != ASH_OK)
            return rc;
    }
}

/* ---- Deriving use from the map ---- */

ash_rc
pstore__space_init(struct pstore *ps)
{
    uint64_t bytes;
    ash_rc rc = io_file_size(ps->file, &bytes);
    if (rc != ASH_OK)
        return rc;
    ps->zone_units = ps->super.zone_bytes / UNIT_BYTES;
    uint64_t zones = min_u64(bytes, PSTORE_BYTES_MAX) / ps->super.zone_bytes;
    if (zones == 0)
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                             "%s/%s has only %" PRIu64
                             " bytes, less than one zone: it was cut; restore from a backup.",
                             io_dir_path(ps->dir), PSTORE_FILE, bytes);
    rc = zones_reserve(ps, zones);
    if (rc != ASH_OK)
        return rc;
    ps->zones = ps->zones_free = zones;
    atomic_store(&ps->units_total, zones * ps->zone_units);
    atomic_store(&ps->until_lsn, UINT64_MAX);
    units_set(ps, 0, UNITS_SUPER, /* in_use= */ true);
    return ASH_OK;
}

void
pstore__space_deinit(struct pstore *ps)
{
    mem_free(MEM_PSTORE, ps->zone_used);
    mem_free(MEM_PSTORE, ps->used);
    mem_free(MEM_PSTORE, ps->until_durable.item);
    mem_free(MEM_PSTORE, ps->until_checkpoint.item);
}

ash_rc
pstore__space_mark(struct pstore *ps, struct map_entry e, const char *what, uint64_t number)
{
    ash_rc rc = pstore__entry_check(ps, e, what, number);
    if (rc != ASH_OK)
        return rc;
    uint64_t unit = map_entry_offset(e) / UNIT_BYTES, count = map_entry_length(e) / UNIT_BYTES;
    if (unit_find(ps, unit, unit + count, /* in_use= */ true) != unit + count)
        return ash_raise_obj(
            ASH_CORRUPT, PSTORE_FILE,
            "%s, offset %" PRIu64 ": the map says that %s %" PRIu64
            " lies where another page is; run `ashlar verify`, restore from a backup.",
            PSTORE_FILE, map_entry_offset(e), what, number);
    units_set(ps, unit, count, /* in_use= */ true);
    return ASH_OK;
}

void
pstore__space_derived(struct pstore *ps)
{
    task_mutex_lock(&ps->space_lock);
    ps->tracking = true;
    task_mutex_unlock(&ps->space_lock);
}

void
pstore_stats(struct pstore *ps, struct pstore_stats *out)
{
    task_mutex_lock(&ps->space_lock);
    *out = (struct pstore_stats){
        .file_bytes = ps->zones * ps->zone_units * UNIT_BYTES,
        .live_bytes = atomic_load(&ps->units_used) * UNIT_BYTES,
        .waiting_bytes = (ps->until_durable.units + ps->until_checkpoint.units) * UNIT_BYTES,
        .leaked_bytes = atomic_load(&ps->leaked_units) * UNIT_BYTES,
        .zones = ps->zones,
        .zones_free = ps->zones_free,
        .pages = atomic_load(&ps->placed) + atomic_load(&ps->unplaced),
        .page_writes = atomic_load(&ps->page_writes),
        .write_ios = atomic_load(&ps->write_ios),
        .write_bytes = atomic_load(&ps->write_bytes),
        .reads = atomic_load(&ps->reads),
        .read_bytes = atomic_load(&ps->read_bytes),
        .map_writes = atomic_load(&ps->map_writes),
    };
    task_mutex_unlock(&ps->space_lock);
}

void
pstore_zones(struct pstore *ps, pstore_zone_fn fn, void *arg)
{
    task_mutex_lock(&ps->space_lock);
    for (uint64_t zone = 0; ps->tracking && zone < ps->zones; zone++) {
        uint64_t first = zone * ps->zone_units;
        bool open = false;
        for (int i = 0; i < CURSOR_COUNT; i++)
            open |= ps->cursor[i].open && ps->cursor[i].end > first &&
                    ps->cursor[i].end <= first + ps->zone_units;
        fn(arg, zone, first * UNIT_BYTES, ps->zone_used[zone] * UNIT_BYTES,
           ps->zone_units * UNIT_BYTES, open);
    }
    task_mutex_unlock(&ps->space_lock);
}
