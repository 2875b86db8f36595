/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer.h - the buffer pool: an array of page-table words by page id, and an arena of frames on
 * huge pages.
 *
 * The word of a page is its translation and its latch in one (after vmcache, Leis et al., SIGMOD
 * 2023; here over a fixed arena, so no madvise and no page faults):
 *
 *     63      56 55  54  53   52              27 26                  0
 *    +----------+------+----+--------------------+---------------------+
 *    |  state   | heat | wt |      version       | frame (4 KiB units) |
 *    +----------+------+----+--------------------+---------------------+
 *     state: 0 not resident; 1 exclusive (or being loaded); 2 resident, unlatched; 3..254 one to
 *     252 shared holders.
 *            The word 0 is a page that was never here, so the table is zero memory that nobody has
 *            to fill.
 *     heat: 0..3, grows with use, shrinks when the eviction hand passes;   wt: somebody waits for the latch
 *     version: grows at every exclusive release, eviction and move, so an optimistic reader notices
 *
 * Rules:
 *   R1  Optimistic: begin, read, validate before acting on what was read; what was read may be
 *       garbage until validated: clamp every offset by page->size.  The memory is always mapped.
 *   R2  A task holds latches from root to leaf, left to right; it may wait for a latch while
 *       holding others only in that order.
 *   R3  A task may park with a latch held only where docs/locking.md says so: loading that page;
 *       waiting for a frame; waiting for log room (wal_append).  Eviction and page writers only
 *       ever try latches, so nobody waits for them in a circle.
 *   R4  A page is changed only under an exclusive latch and between mtr_begin and mtr_commit
 *       (wal/wal_mtr.h).
 *   R5  No page reaches the disk before the log up to its LSN is durable (asserted).
 */
#ifndef ASH_BUFFER_H
#define ASH_BUFFER_H

#include <ashlar.h>

#include "storage/pstore.h"

#include <stdatomic.h>

struct buf_pool;
struct buf_frame; /* buffer_int.h */

/* What the pool needs from the log, handed in because the log is a layer above. */
struct buf_log_ops {
    void *ctx;
    ash_rc (*flush_to)(void *ctx, uint64_t lsn); /* parks */
    uint64_t (*durable)(void *ctx);
    /* Appends a MAP record for `count` pages and returns its end LSN. */
    ash_rc (*append_map)(void *ctx, const struct pstore_write *writes, unsigned count,
                         uint64_t *end_out);
};

struct buf_options {
    uint64_t
        bytes; /* of the arena; >= 64 pages of 4 KiB; multiple of 2 MiB unless smaller than that */
    struct io *io;
    struct task_runtime *rt;
    struct pstore *pstore;
    unsigned writers; /* page writer tasks */
    bool read_only;
    uint64_t page_id_max; /* ids are below; address space for this many words; 0: 2^32 */
    /* The arena gives memory back while it and what others() tells exceed `budget` (and takes it
     * again afterwards).  others(): bytes that the rest of the engine uses now, without the arena
     * and what buf_stats.words_bytes and image_bytes tell; cheap, any thread, any latch.
     * NULL: the arena keeps its size. */
    uint64_t budget;
    uint64_t (*others)(void *ctx);
    void *others_ctx;
};
ASH_MUST_CHECK ash_rc buf_create(const struct buf_options *options, struct buf_pool **out);
/* Gives the log and starts the page writers: for the time of redo with ops that log nothing
 * (wal/wal_recover.c), then, after buf_stop(), with the real ones. */
ASH_MUST_CHECK ash_rc buf_start(struct buf_pool *pool, const struct buf_log_ops *log);
void buf_stop(struct buf_pool *pool); /* stops page writers; dirty pages stay */
void buf_destroy(struct buf_pool *pool);
struct pstore *buf_pstore(struct buf_pool *pool);

/* A latched (or optimistically read) page. */
struct buf_page {
    uint64_t page;
    uint64_t word; /* optimistic: the word as read at begin */
    uint8_t *data; /* the frame; starts with struct page_head */
    uint32_t size; /* bytes, 4096 << class */
    uint32_t frame;
};

/* Inline, in buffer_inline.h:
 *   ash_rc buf_opt_begin(pool, page, struct buf_page *out)   optimistic read.  ASH_WOULD_BLOCK: latched exclusively or not
 *                                                            resident; call buf_fault(), then start
 *                                                            over
 *   bool buf_opt_valid(pool, p)                              nothing changed since buf_opt_begin()
 *   bool buf_opt_to_x(pool, p), buf_opt_to_s(pool, p)        turns it into a latch; false when it is not valid any more */

/* Waits until the page is resident and not latched exclusively (loads it).  Hold no latch.  Parks.
 * ASH_CORRUPT for an id that was never allocated or bytes that fail verification. */
ASH_MUST_CHECK ash_rc buf_fault(struct buf_pool *pool, uint64_t page, enum io_class class);
/* Starts loading up to `count` pages that are not resident, together; returns when they are loaded
 * (best effort: failures show at use). Hold no latch.  Parks. */
void
buf_prefetch(struct buf_pool *pool, const uint64_t *pages, unsigned count, enum io_class class);

/* Latched access; loads the page when needed.  Parks. */
ASH_MUST_CHECK ash_rc buf_latch_s(struct buf_pool *pool, uint64_t page, struct buf_page *out);
ASH_MUST_CHECK ash_rc buf_latch_x(struct buf_pool *pool, uint64_t page, struct buf_page *out);
/* Without waiting or loading: ASH_WOULD_BLOCK. */
ASH_MUST_CHECK ash_rc buf_try_latch_x(struct buf_pool *pool, uint64_t page, struct buf_page *out);
void buf_unlatch_s(struct buf_pool *pool, struct buf_page *p);
void buf_unlatch_x(struct buf_pool *pool, struct buf_page *p);

/* A new page, exclusively latched, zeroed but for its header (type, class, id, tree).  The caller
 * logs PAGE_INIT in the same mini-transaction. ASH_NO_MEMORY when every frame is latched or dirty
 * for too long. Parks (may evict). Hold no latch, or only those of R3's list. */
ASH_MUST_CHECK ash_rc buf_new(struct buf_pool *pool, enum page_type type, uint8_t page_class,
                              uint32_t tree, struct buf_page *out);
/* The same for an id from pstore_page_alloc(); after a failure the id is still the caller's. */
ASH_MUST_CHECK ash_rc buf_new_at(struct buf_pool *pool, uint64_t page, enum page_type type,
                                 uint8_t page_class, uint32_t tree, struct buf_page *out);
/* Drops a page from buf_new() or buf_new_at() that was not logged; its id is free. */
void buf_new_cancel(struct buf_pool *pool, struct buf_page *p);
/* Makes sure `count` frames of a class are free before latches are taken, so that buf_new() under
 * latches does not wait.  Parks. */
ASH_MUST_CHECK ash_rc buf_reserve(struct buf_pool *pool, uint8_t page_class, unsigned count);

/* ---- For wal/ (mini-transactions, checkpoints, redo) ---- */
/* Called by mtr_commit before the append: the page may carry a change that begins at or after
 * `lsn`. */
void buf_mark_dirty(struct buf_pool *pool, struct buf_page *p, uint64_t lsn);
/* Called by mtr_commit after a PAGE_FREE record that ends at `lsn`: the page leaves the pool, its
 * latch is released, id and place are freed. Under the map lock (pstore_map_lock), which the caller
 * took before it appended that record: so no MAP record for the page can follow it. */
void buf_free(struct buf_pool *pool, struct buf_page *p, uint64_t lsn);
/* The page can never be written again (its change could not be logged). */
void buf_mark_broken(struct buf_pool *pool, struct buf_page *p);
/* Redo: the page exclusively latched, loaded or (init) fresh.  Marks it allocated. */
ASH_MUST_CHECK ash_rc buf_redo_init(struct buf_pool *pool, uint64_t page, uint8_t page_class,
                                    uint32_t tree, uint8_t type, struct buf_page *out);
/* Calls fn for each dirty page with the LSN where its unwritten changes may begin (the dirty-page
 * table). */
void buf_dirty_pages(struct buf_pool *pool, void (*fn)(void *arg, uint64_t page, uint64_t rec_lsn),
                     void *arg);
uint64_t buf_oldest_dirty(struct buf_pool *pool); /* UINT64_MAX: none */
/* Writes pages until none is dirty with changes below `lsn`.  Parks.  ASH_NO_SPACE, ASH_NO_MEMORY:
 * try again later.  ASH_POISONED, ASH_IO. */
ASH_MUST_CHECK ash_rc buf_write_until(struct buf_pool *pool, uint64_t lsn);
/* Tells page writers how far behind the log they may be. */
void buf_pace(struct buf_pool *pool, uint64_t target_lsn);
/* Waits while so many frames are dirty that writers must slow down; called with no latch held,
 * before an operation that changes pages. Returns ASH_NO_SPACE (ASH_NO_MEMORY) when page writers are
 * stuck for want of room (memory), and an attempt that began after the call failed too.  Cheap when
 * there is nothing to wait for. */
ASH_MUST_CHECK ash_rc buf_throttle(struct buf_pool *pool);

struct buf_stats {
    uint64_t frames, free_frames, dirty_frames, hits_sampled, misses, evictions, page_writes,
        latch_waits, opt_restarts, bytes, by_class[PAGE_CLASS_COUNT];
    /* frames and bytes: what the arena may use now.  resident: what it has touched; words: the page
     * table; image: of pages on their way to disk.  Chunks given back and taken again. */
    uint64_t resident_bytes, words_bytes, image_bytes, chunks_retired, chunks_returned;
    uint64_t
        budget_peak; /* of resident_bytes and all that counts against the budget, when looked at */
};
void buf_stats(struct buf_pool *pool, struct buf_stats *out);
/* Test seam: drops every clean unlatched page. */
void buf_evict_all(struct buf_pool *pool);
/* Test and verification seam: walks the whole pool; aborts when frames, queues, chunks and words
 * disagree.  Only while nobody else uses it. */
void buf_check(struct buf_pool *pool);
/* The largest page class that this pool can hold (its bytes / 2, at most the largest there is). */
uint8_t buf_class_max(const struct buf_pool *pool);

#include "buffer/buffer_inline.h"

#endif
