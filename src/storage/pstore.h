/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore.h - the page store: pages by id, written out of place into zones, found through the
 * location map.
 *
 * Invariants:
 *   I1  A place that the last durable checkpoint, or a MAP record after it, names is not
 *       overwritten until a newer MAP (or FREE) record for that page is durable: pstore_release().
 *   I2  The map in memory changes only under the map lock, after the record that says so was
 *       appended.
 *   I3  A page read is verified (checksum, identity, class, map's checksum fragment) before anybody
 *       sees it.
 *   I4  Zone 0 holds the superblock slots; everything else is found from the newest valid one.
 *   I5  Space that was dead when the crash came is found dead again: zone use is derived from the
 *       map, not stored.
 */
#ifndef ASH_STORAGE_PSTORE_H
#define ASH_STORAGE_PSTORE_H

#include <ashlar.h>

#include "storage/io.h"
#include "storage/page_format.h"

#define PSTORE_FILE "data-0000.ash"

struct pstore;

/* A map entry: where the current version of a page is.  0: nowhere.  bits 63..24: offset in units
 * of 512 bytes; 23..12: stored length in units of 512 minus 1; 11..0: low bits of the page's
 * crc32c. */
struct map_entry {
    uint64_t v;
};
#define MAP_UNIT 512u
static inline struct map_entry
map_entry_make(uint64_t offset, uint32_t length, uint32_t crc)
{
    struct map_entry e = { (offset / MAP_UNIT) << 24 | (uint64_t)(length / MAP_UNIT - 1) << 12 |
                           (crc & 0xfffu) };
    return e;
}
static inline uint64_t
map_entry_offset(struct map_entry e)
{
    return (e.v >> 24) * MAP_UNIT;
}
static inline uint32_t
map_entry_length(struct map_entry e)
{
    return (uint32_t)((e.v >> 12 & 0xfffu) + 1) * MAP_UNIT;
}
static inline uint32_t
map_entry_crc(struct map_entry e)
{
    return (uint32_t)(e.v & 0xfffu);
}

/* What the layers above keep in the superblock. */
struct pstore_checkpoint_info {
    uint64_t checkpoint_lsn;     /* first CHECKPOINT record */
    uint64_t checkpoint_segment; /* hint for the log reader */
    uint64_t scan_lsn;           /* where restart starts to read: min(redo, map_lsn, oldest undo) */
    uint64_t scan_segment;
    uint64_t map_lsn;
    uint32_t epoch; /* of the log at that time */
    bool clean;     /* closed cleanly right after: nothing follows in the log */
};

struct pstore_options {
    struct io *io;
    struct io_dir *dir;
    /* create only; a multiple of 64 KiB, >= the largest page class in use */
    uint32_t zone_bytes;
    /* data file grows by this much; 0: 1 GiB or what the file system gives, at least a zone */
    uint64_t grow_bytes;
    uint64_t page_id_max; /* address space for this many ids; 0: default */
    bool read_only;
};

/* Creates data file and superblock (checkpoint info zero) / opens: locks the data file (ASH_BUSY),
 * reads the newest valid superblock, loads the map.  ASH_NOT_A_DATABASE, ASH_VERSION_MISMATCH,
 * ASH_CORRUPT. */
ASH_MUST_CHECK ash_rc pstore_create(const struct pstore_options *options, struct pstore **out);
ASH_MUST_CHECK ash_rc pstore_open(const struct pstore_options *options, struct pstore **out);
void pstore_close(struct pstore *ps);
ASH_MUST_CHECK ash_rc pstore_look(struct io_dir *dir, bool *exists_out);
/* true also when that cannot be said: pstore_open() will tell why */
bool pstore_exists(struct io_dir *dir);
const uint8_t *pstore_uuid(const struct pstore *ps);
void pstore_info(const struct pstore *ps, struct pstore_checkpoint_info *out);

/* ---- Page ids ---- */
/* in memory; made durable by the PAGE_INIT record */
ASH_MUST_CHECK ash_rc pstore_page_alloc(struct pstore *ps, uint64_t *page_out);
/* takes an alloc back that was never logged */
void pstore_page_unalloc(struct pstore *ps, uint64_t page);
/* The page is free as of the record that ends at `lsn`: its id may be given out again at once, its
 * place after pstore_release(lsn).  Under the map lock. */
void pstore_page_free(struct pstore *ps, uint64_t page, uint64_t lsn);
uint64_t pstore_page_high(const struct pstore *ps); /* ids in use are below this */
bool pstore_page_allocated(const struct pstore *ps, uint64_t page);
/* The map's word for a page; class_out = its size class.  false: it has no place on disk. */
bool pstore_locate(const struct pstore *ps, uint64_t page, struct map_entry *entry_out,
                   uint8_t *class_out);

/* ---- Reading ---- */
/* Reads and verifies a page into an aligned buffer of PAGE_CLASS_SIZE(class) bytes.  ASH_CORRUPT
 * names file, offset and page. Parks. */
ASH_MUST_CHECK ash_rc pstore_read(struct pstore *ps, uint64_t page, uint8_t page_class, void *buf,
                                  enum io_class class);
/* The same in two halves, for many at once: fill the request, io_submit() it, io_wait() it, then
 * verify. */
ASH_MUST_CHECK ash_rc pstore_read_begin(struct pstore *ps, uint64_t page, uint8_t page_class,
                                        void *buf, enum io_class class, struct io_req *req_out,
                                        struct map_entry *entry_out);
ASH_MUST_CHECK ash_rc pstore_read_end(struct pstore *ps, uint64_t page, uint8_t page_class,
                                      const void *buf, struct map_entry entry);

/* ---- Writing ---- */
struct pstore_write {
    uint64_t page;
    uint8_t page_class;
    /* aligned copy; pstore fills crc32c, write_seq, database in its header */
    void *image;
    struct map_entry entry; /* out: its new place, not yet in the map */
};
/* Writes the images to new places in as few, large, sequential requests as possible and makes them
 * durable.  The map is unchanged.  Callers guarantee that the log is durable up to each image's LSN
 * (asserted through `durable_lsn`).  ASH_NO_SPACE: nothing is lost, try again when there is room.
 * Parks.  Callable by several tasks. */
ASH_MUST_CHECK ash_rc pstore_write(struct pstore *ps, struct pstore_write *writes, unsigned count,
                                   uint64_t durable_lsn, enum io_class class);
/* Gives places back that were written but will not be installed. */
void pstore_write_cancel(struct pstore *ps, const struct pstore_write *writes, unsigned count);

/* The map lock: covers "append a MAP or FREE record, then change the map".  The checkpoint takes it
 * to draw a line. */
void pstore_map_lock(struct pstore *ps);
void pstore_map_unlock(struct pstore *ps);
/* As `lsn` of pstore_install(): no record says so, the next checkpoint will; the old place waits
 * for its commit.  For pages that redo writes before the log is open again. */
#define PSTORE_LSN_CHECKPOINT (UINT64_MAX - 1)
/* Points the map to new places as said by the record that ends at `lsn`; the old places wait for
 * pstore_release().  Under the map lock; also used by recovery's analysis. */
void pstore_install(struct pstore *ps, uint64_t page, struct map_entry entry, uint64_t lsn);
/* Everything in the log below durable_lsn survives: places freed by records that end there or below
 * can be reused. */
void pstore_release(struct pstore *ps, uint64_t durable_lsn);
/* Asks that at least one zone's worth of room exists, growing the file if need be: called before
 * changes are accepted, so that ENOSPC is a clean error there and page writers and rollback always
 * have room. */
ASH_MUST_CHECK ash_rc pstore_ensure_room(struct pstore *ps, uint64_t bytes);

/* ---- Checkpoint and restart ---- */
/* Writes the changed map pages out of place and the map's root.  _begin under the map lock, when
 * map_lsn is drawn; _write without it: the map that it writes holds everything below map_lsn and
 * perhaps some of what came later, which replay repeats harmlessly.  _commit writes and flushes a
 * superblock that names the new root and `info`, then frees the old map pages.  The log must be
 * durable up to what was reserved when _write returned (the checkpoint's own records are).  After a
 * failed or given up _write: _abort.  One checkpoint at a time. */
ASH_MUST_CHECK ash_rc pstore_checkpoint_begin(struct pstore *ps);
ASH_MUST_CHECK ash_rc pstore_checkpoint_write(struct pstore *ps);
ASH_MUST_CHECK ash_rc pstore_checkpoint_commit(struct pstore *ps,
                                               const struct pstore_checkpoint_info *info);
void pstore_checkpoint_abort(struct pstore *ps);
/* Restart: analysis may call install, page_free, page_mark and page_unmark; then this derives zone
 * use and the free ids.  Pages and places that come from the log must have passed
 * pstore_replay_check(): ASH_CORRUPT for an id or a place that cannot be. */
ASH_MUST_CHECK ash_rc pstore_replay_check(const struct pstore *ps, uint64_t page,
                                          struct map_entry entry);
void pstore_page_mark(struct pstore *ps, uint64_t page); /* PAGE_INIT seen: allocated */
/* PAGE_FREE below map_lsn seen: free unless the map gives it a place */
void pstore_page_unmark(struct pstore *ps, uint64_t page);
ASH_MUST_CHECK ash_rc pstore_recovered(struct pstore *ps);

/* Body of the MAP record for these writes: size, contents, and the check of one read back (fuzz
 * target).  PSTORE_MAP_MOVES_MAX at most. */
#define PSTORE_MAP_MOVES_MAX 4096u
uint32_t pstore_map_record_size(unsigned count);
void pstore_map_record_fill(void *body, const struct pstore_write *writes, unsigned count);
ASH_MUST_CHECK ash_rc pstore_map_record_check(const void *body, uint32_t size, unsigned *count_out);
struct map_move;
const struct map_move *pstore_map_record_move(const void *body, unsigned i); /* pstore_format.h */

/* ---- Looking at it ---- */
struct pstore_stats {
    uint64_t file_bytes, live_bytes; /* live: in use, with what waits for pstore_release() */
    uint64_t waiting_bytes;          /* waits for the log, or for a checkpoint */
    /* could not be queued for want of memory: free again after the next open */
    uint64_t leaked_bytes;
    uint64_t zones, zones_free, pages, page_writes, write_ios, write_bytes, reads, read_bytes,
        map_writes;
};
void pstore_stats(struct pstore *ps, struct pstore_stats *out);
/* Calls fn for each zone: where it lies, bytes in use (or waiting for reuse), its size, and whether
 * writing goes on there. */
typedef void (*pstore_zone_fn)(void *arg, uint64_t zone, uint64_t offset, uint32_t live_bytes,
                               uint32_t size, bool open);
void pstore_zones(struct pstore *ps, pstore_zone_fn fn, void *arg);
/* Verify superblocks and map pages (no checkpoint may run meanwhile), and every mapped page's bytes;
 * call found() for each problem and go on. */
typedef void (*pstore_found_fn)(void *arg, const char *file, uint64_t offset, uint64_t page,
                                const char *message);
ASH_MUST_CHECK ash_rc pstore_verify_map(struct pstore *ps, pstore_found_fn found, void *arg);
ASH_MUST_CHECK ash_rc pstore_verify_pages(struct pstore *ps, pstore_found_fn found, void *arg);
/* Checks one superblock / map page / map root image (fuzz targets). */
ASH_MUST_CHECK ash_rc pstore_superblock_check(const void *block, uint32_t size);
ASH_MUST_CHECK ash_rc pstore_map_page_check(const void *page, uint32_t size);
/* Verifies a page image against what it should be: crc, format, class, id, database.  `where` names
 * file and offset in the sentence. */
ASH_MUST_CHECK ash_rc page_check(const void *image, uint32_t size, uint64_t page, uint32_t database,
                                 const char *file, uint64_t offset);

#endif
