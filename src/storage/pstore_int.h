/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_int.h - the page store's own state, shared by pstore_*.c.
 *
 * Locks, in order: map_lock (L1, callers take it) > space_lock (L2).  id_lock (L3) is a spinlock,
 * held for a few instructions, with nothing taken inside.  L2 may be held while the file grows,
 * which parks.
 */
#ifndef ASH_STORAGE_PSTORE_INT_H
#define ASH_STORAGE_PSTORE_INT_H

#include "base/bits.h"
#include "base/mem.h"
#include "storage/pstore.h"
#include "storage/pstore_format.h"
#include "task/task.h"

#define UNIT_BYTES            4096u /* space is handed out in these */
#define UNITS_SUPER           (SUPER_AREA / UNIT_BYTES)
#define PSTORE_FILE_TEMPORARY "data-0000.tmp"
#define PSTORE_ZONE_BYTES     (8u << 20)
#define PSTORE_GROW_BYTES     (1ull << 30)
#define PSTORE_PAGE_ID_MAX    (1ull << 31)
#define PSTORE_BATCH          64u /* iovec entries of one request; map pages written or read at once */
#define PSTORE_BYTES_MAX      (1ull << 48) /* of the file: map words have no room for more */
#define PSTORE_TRANSFER       (1u << 20)
#define PSTORE_REQUESTS       4u /* in flight per pstore_write() */
#define PSTORE_FILL_PERCENT \
    67u /* below this use of the file holes are filled instead of growing it */
#define PSTORE_WRITE_SEQ_SKIP \
    (1ull << 32) /* at open: no write_seq is used twice, even after a crash */

/* Words of the map in memory.  A place has an offset of at least SUPER_AREA, so small words are
 * free for other uses.
 *     0                   never used, or beyond the high water mark
 *     MAP_WORD_ALLOCATED  allocated, no place yet (or an allocation that was never logged)
 *     MAP_WORD_FREE | id  free; the rest is the next free id, 0: none
 *     else                a place: struct map_entry
 * On disk everything but a place is 0. */
#define MAP_WORD_ALLOCATED 1ull
#define MAP_WORD_FREE      (1ull << 63)
static inline bool
map_word_is_place(uint64_t word)
{
    return word >= (1ull << 24) && (word & MAP_WORD_FREE) == 0;
}

/* Where writing goes on: dead runs of at least run_min units at or after `cursor` in one zone. */
struct space_cursor {
    bool open;
    uint64_t cursor, end; /* units in the file */
    uint64_t run_min;
};
enum {
    CURSOR_SMALL = 0,
    CURSOR_LARGE = 1,
    CURSOR_COUNT = 2
};
#define CURSOR_LARGE_UNITS 16u

/* Dead space that must not be overwritten yet. */
struct space_wait {
    uint64_t lsn;   /* reusable when durable >= lsn */
    uint64_t entry; /* struct map_entry */
};
struct space_queue {
    struct space_wait *item;
    uint64_t head, count, capacity; /* capacity: power of two */
    uint64_t units;
};

/* What a running checkpoint has written but not committed. */
struct map_write_item {
    uint64_t index; /* of the map page */
    uint64_t entry; /* its new place */
};
struct map_checkpoint {
    bool active, written;
    uint64_t page_high, pages; /* when it began */
    uint64_t queue_end; /* of until_checkpoint: entries before it were freed before map_lsn */
    struct map_write_item *item;
    uint64_t count, capacity;
    uint64_t *root; /* places of the new root pages, first to last */
    uint64_t root_count;
};

struct write_context;

struct pstore {
    struct io *io;
    struct io_dir *dir;
    struct io_file *file;
    uint64_t grow_bytes;
    bool read_only;
    uint32_t database;        /* tag in page heads */
    struct super_block super; /* the newest durable one; changed by create, open and commit only */

    /* Map.  Words change under map_lock (L1), except for ids (id_lock); read without. */
    struct task_mutex map_lock;
    _Atomic uint64_t *map;        /* [id_max] */
    _Atomic uint64_t *map_place;  /* [map_pages_max] places of map pages, as committed */
    _Atomic uint8_t *map_changed; /* [map_pages_max] since they were last written */
    void *map_base;
    size_t map_bytes; /* of the one mapping that holds the three */
    uint64_t id_max, map_pages_max;
    uint64_t *root_place; /* of the committed root pages */
    uint64_t root_count;
    uint64_t map_pages;       /* committed: named by the roots */
    struct map_checkpoint ck; /* owned by the checkpointing task */

    /* Page ids: id_lock (L3). */
    _Atomic uint32_t id_lock;
    uint64_t id_free, id_free_count;
    _Atomic uint64_t high;
    _Atomic uint64_t unplaced; /* allocated ids without a place: each will need room */
    _Atomic uint64_t placed;

    /* Space: space_lock (L2). */
    struct task_mutex space_lock;
    bool tracking; /* set by pstore_recovered(): the fields below are valid */
    uint32_t zone_units;
    uint64_t zones, zones_capacity, zones_free;
    uint32_t *zone_used; /* [zones] units in use or waiting */
    uint64_t *used;      /* bitmap of units, zone after zone */
    struct space_cursor cursor[CURSOR_COUNT];
    struct space_queue until_durable;    /* in LSN order but for races, which only delay */
    struct space_queue until_checkpoint; /* lsn: PSTORE_LSN_CHECKPOINT */
    _Atomic uint64_t until_lsn;          /* lsn at the head of until_durable, UINT64_MAX: empty */
    _Atomic uint64_t units_used, units_total, leaked_units;

    _Atomic uint64_t write_seq;
    _Atomic uint32_t context_lock;
    struct write_context *contexts; /* free ones */

    _Atomic uint64_t page_writes, write_ios, write_bytes, reads, read_bytes, map_writes;
};

static inline void
pstore__spin_lock(_Atomic uint32_t *lock)
{
    unsigned spins = 0;
    while (atomic_exchange_explicit(lock, 1, memory_order_acquire) != 0)
        task_relax(&spins);
}

static inline void
pstore__spin_unlock(_Atomic uint32_t *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

static inline uint64_t
pstore__word(const struct pstore *ps, uint64_t page)
{
    return page < ps->id_max ? atomic_load_explicit(&ps->map[page], memory_order_acquire) : 0;
}

/* pstore_super.c */
ash_rc pstore__super_commit(struct pstore *ps, struct super_block *sb);

/* pstore_map.c */
ash_rc pstore__map_init(struct pstore *ps, uint64_t page_id_max);
void pstore__map_deinit(struct pstore *ps);
ash_rc pstore__map_load(struct pstore *ps);
ash_rc
pstore__entry_check(const struct pstore *ps, struct map_entry e, const char *what, uint64_t number);
ash_rc
pstore__map_read(struct pstore *ps, uint64_t entry, uint64_t id, enum page_type type, void *buf);
ash_rc pstore__root_check(const struct pstore *ps, const struct map_root *root, uint64_t index,
                          uint64_t pages);

/* pstore_space.c: space_lock is taken inside. */
ash_rc pstore__space_init(struct pstore *ps); /* all dead but the superblock area */
void pstore__space_deinit(struct pstore *ps);
/* Marks a place used; ASH_CORRUPT when it is used already. */
ash_rc pstore__space_mark(struct pstore *ps, struct map_entry e, const char *what, uint64_t number);
void pstore__space_derived(struct pstore *ps);
/* Takes min..max contiguous units. */
ash_rc pstore__space_take(struct pstore *ps, uint32_t min, uint32_t max, uint64_t *unit_out,
                          uint32_t *count_out);
void pstore__space_free(struct pstore *ps, uint64_t unit, uint64_t count);
void pstore__space_free_entry(struct pstore *ps, uint64_t entry);
void pstore__space_defer(struct pstore *ps, uint64_t entry, uint64_t lsn);
void pstore__space_checkpointed(struct pstore *ps, uint64_t queue_end);

/* pstore_write.c */
ash_rc pstore__write_places(struct pstore *ps, struct pstore_write *w, unsigned count,
                            enum io_class class, bool flush);
void pstore__contexts_free(struct pstore *ps);

/* page_check.c */
/* Is a place on disk well formed: unit aligned, of a page class's length? */
bool pstore__entry_shape(uint64_t entry);
static inline uint8_t
pstore__class_of(uint32_t length)
{
    return (uint8_t)(log2_floor(length) - 12);
}

#endif
