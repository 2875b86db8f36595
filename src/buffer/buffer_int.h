/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_int.h - frames, chunks, queues and batches of the buffer pool.  Read first: README.md.
 *
 * Locks, in the order in which they may be taken:
 *   L1  the map lock of the page store   (parks)  covers batch_entry.freed and the end of a write
 *   L2  move_lock                        (parks)  one chunk moves at a time; whoever scans rec_lsn[] for all dirty pages holds it, so that
 *                                        no dirty page walks past the scan
 *   L3  alloc_lock                       (spins)  lists of frames, chunk table
 *   L4  flight_lock                      (spins)  batches in flight, recorded error
 * A page latch may be held when any of them is taken; inside them latches are only tried.
 */
#ifndef ASH_BUFFER_INT_H
#define ASH_BUFFER_INT_H

#include "base/counter.h"
#include "base/error.h"
#include "base/mem.h"
#include "buffer/buffer.h"

#define FRAME_UNIT          4096u
#define FRAME_NONE          UINT32_MAX
#define CHUNK_BYTES_MAX     (2u << 20) /* a huge page */
#define EVICT_BATCH         32u
#define BATCH_PAGES_MAX     256u
#define BATCH_BYTES_MAX     (4u << 20)
#define BUF_REGIONS_MAX     32u /* io_register_buffer() has 64 places per disk manager */
#define PREFETCH_MAX        32u /* reads in flight per call: their requests live on the stack */
#define WAITQ_MAX           256u
#define HINDERED_WAIT_NS    200000000ull /* the same while page writers are hindered: why they are */
#define FRAME_WAIT_NS       20000000000ull /* after this long without a frame: ASH_NO_MEMORY */
#define PAGE_ID_MAX_DEFAULT (1ull << 32)

/* What a frame is, under alloc_lock.  README.md has the transitions. */
enum frame_where {
    FRAME_UNUSED = 0, /* its chunk is free, or it is inside a larger frame */
    FRAME_FREE,       /* in the free list of its class */
    FRAME_HELD,       /* in no list: with the task that fills, examines or writes it */
    FRAME_SMALL,      /* holds a page; on probation */
    FRAME_MAIN,       /* holds a page; proved itself */
    FRAME_LAUNDRY,    /* holds a page that would be evicted if it were clean */
    FRAME_PARKED      /* free, in a chunk that is being claimed */
};

enum {
    FRAME_WRITING = 1u << 0,
    FRAME_BROKEN = 1u << 1
};

struct buf_frame {
    /* id of the page in it; 0: none.  Changed by the holder of its exclusive latch */
    _Atomic uint64_t page;
    uint32_t next, prev; /* alloc_lock */
    uint32_t stamp;      /* alloc_lock: allocation clock when it was put into its queue */
    uint8_t where;       /* alloc_lock: enum frame_where */
    uint8_t page_class;  /* alloc_lock; constant while the frame is not UNUSED */
    _Atomic uint8_t flags;
    uint8_t unused;
};
static_assert(sizeof(struct buf_frame) == 24, "one per 4 KiB of cache");

struct frame_list {
    uint32_t head, tail, count;
};

enum chunk_state {
    CHUNK_FREE = 0,
    CHUNK_FRAMES,
    CHUNK_RUN,
    CHUNK_INSIDE, /* of a run */
    CHUNK_RETIRED /* at or above chunk_limit: not to be used, its memory is given back */
};

struct buf_chunk { /* alloc_lock */
    uint8_t state;
    uint8_t page_class;
    bool claimed;
    uint32_t used; /* units in frames that are not FREE or PARKED */
};

struct class_lists { /* alloc_lock */
    struct frame_list free, small, main, laundry;
    uint32_t chunks; /* that serve this class */
};

struct batch_entry {
    uint64_t page;
    uint64_t rec_lsn; /* of the image on its way */
    uint32_t frame;
    bool held;  /* taken out of the laundry; goes back to a queue at the end */
    bool freed; /* L1: the page was freed meanwhile */
};

enum batch_state {
    BATCH_IDLE = 0,
    BATCH_FILLING,
    BATCH_INSTALLED
};

/* Pages on their way to disk, and until the MAP record that names their places is durable. */
struct batch {
    uint8_t state;             /* flight_lock */
    uint32_t count;            /* flight_lock (grows in FILLING) */
    uint64_t map_lsn;          /* INSTALLED: end of the MAP record */
    struct batch_entry *entry; /* batch_pages of them */
};

struct writer {
    struct buf_pool *pool;
    struct task *task;
    uint8_t *images; /* batch_bytes, aligned */
    struct pstore_write *writes;
    struct batch *batch; /* being filled */
    uint64_t used;       /* bytes of images */
    uint64_t lsn_max;
    uint32_t cursor;       /* of the sweep */
    uint8_t laundry_first; /* class whose laundry is collected first: each has its turn */
};

struct waitq_slot {
    struct task_waitq q;
} ASH_ALIGNED_LINE;

struct buf_pool {
    struct buf_fast fast; /* first: see buf_fast() */
    /* constant after buf_create() */
    struct buf_frame *frames;
    _Atomic uint64_t *rec_lsn; /* by frame; 0: no unwritten change */
    struct buf_chunk *chunks;
    _Atomic uint8_t *chunk_class;
    uint32_t *ghost; /* fingerprints of pages evicted from SMALL */
    struct waitq_slot *waitq;
    uint32_t frame_count, chunk_count, chunk_units, ghost_mask, waitq_mask;
    uint32_t region_chunks, chunk_floor; /* buffer_resize.c */
    _Atomic uint64_t budget_peak;
    _Atomic bool over_budget; /* hint: look again soon */
    uint32_t drain_end; /* move_lock: chunks from chunk_limit to here are being emptied; 0: none */
    /* frames of classes above chunk_class_max span several chunks */
    uint8_t class_max, chunk_class_max;
    uint32_t batch_pages;
    uint64_t batch_bytes;
    uint64_t arena_bytes, map_bytes;         /* map_bytes: with the slack behind it */
    _Atomic uint32_t dirty_soft, dirty_hard; /* units; follow the arena's size */
    struct buf_options options;
    struct io *io;
    struct pstore *pstore;
    struct buf_log_ops log;
    bool started;

    struct task_mutex move_lock;

    _Atomic uint32_t alloc_lock ASH_ALIGNED_LINE;
    uint32_t clock; /* units allocated so far */
    uint32_t chunks_free;
    uint32_t chunk_limit;            /* chunks below it may be used; changed under L2 too */
    bool region_on[BUF_REGIONS_MAX]; /* has been used, and is registered */
    uint32_t rebalance;              /* counts eviction batches */
    struct class_lists lists[PAGE_CLASS_COUNT];

    _Atomic uint32_t flight_lock ASH_ALIGNED_LINE;
    struct batch *batches;
    uint32_t batch_count;
    ash_rc error; /* why page writers stopped */
    struct err_detail error_detail;

    _Atomic uint32_t dirty_units ASH_ALIGNED_LINE;
    _Atomic uint32_t laundry_count; /* hint */
    _Atomic uint32_t frame_waiters;
    _Atomic uint64_t map_lsn_last; /* highest end of a MAP record of ours */
    _Atomic uint64_t pace, until;  /* targets of the sweep */
    _Atomic uint64_t swept;        /* no page has changes below it, as far as the writers saw */
    _Atomic uint32_t pokes;
    _Atomic bool stopping, stuck; /* stuck: error is set */
    /* ASH_OK, or why pages cannot be written at the moment: ASH_NO_SPACE, ASH_NO_MEMORY */
    _Atomic int hindered;
    _Atomic uint32_t hindered_tries; /* attempts of writers that failed for such a reason */
    struct task_waitq writer_wait;   /* for pokes */
    struct task_waitq clean_wait;    /* for fewer dirty pages */
    struct task_waitq frame_wait;    /* for frames */
    struct writer *writers;
    struct writer guest; /* of buf_write_until() */
    struct task_mutex guest_lock;
    struct task_mutex reserve_lock; /* one buf_reserve() at a time gathers several */

    struct counter misses, evictions, page_writes, latch_waits, opt_restarts;
    struct counter chunks_retired, chunks_returned;
#ifdef ASH_DEBUG
    struct {
        _Atomic(struct task *) task;
        _Atomic uint32_t held;
    } held[1024];
#endif
};

static inline uint64_t
word_state(uint64_t word)
{
    return word >> BUF_STATE_SHIFT;
}
static inline uint64_t
word_make(uint64_t state, uint64_t version_of, uint32_t frame)
{
    return state << BUF_STATE_SHIFT | (version_of & BUF_VERSION_MASK) | frame;
}
static inline uint64_t
word_next_version(uint64_t word)
{
    return (word & ~BUF_VERSION_MASK) | ((word + BUF_VERSION_ONE) & BUF_VERSION_MASK);
}
static inline uint8_t *
frame_data(const struct buf_pool *pool, uint32_t frame)
{
    return pool->fast.arena + ((uint64_t)frame << 12);
}
static inline uint32_t
class_units(uint8_t page_class)
{
    return 1u << page_class;
}

void buf__lock(_Atomic uint32_t *lock);
void buf__unlock(_Atomic uint32_t *lock);

/* buffer_latch.c */
void buf__wake(struct buf_pool *pool, uint64_t page);
/* Changes the word of a page that the caller holds exclusively, and wakes waiters. */
void buf__publish(struct buf_pool *pool, uint64_t page, uint64_t word);
void buf__held(struct buf_pool *pool, int delta); /* debug bookkeeping of latches per task */
void buf__assert_none_held(struct buf_pool *pool);
ash_rc buf__check_id(struct buf_pool *pool, uint64_t page);
/* Claims the word of a page that is not resident (it becomes exclusive, frame 0); false when it is
 * resident or taken. */
bool buf__claim_absent(struct buf_pool *pool, uint64_t page);
/* Waits while the page is latched exclusively; says whether it is resident. */
bool buf__wait_settled(struct buf_pool *pool, uint64_t page);

/* buffer_frame.c */
void buf__list_push_head(struct buf_pool *pool, struct frame_list *l, uint32_t frame,
                         enum frame_where where);
void buf__list_push_tail(struct buf_pool *pool, struct frame_list *l, uint32_t frame,
                         enum frame_where where);
/* from the list it is in; becomes HELD */
void buf__list_remove(struct buf_pool *pool, uint32_t frame);
/* A frame for a page; HELD.  wait: parks until there is one, else ASH_WOULD_BLOCK (not raised). */
ash_rc buf__frame_alloc(struct buf_pool *pool, uint8_t page_class, bool wait, uint32_t *frame_out);
void buf__frame_free_locked(struct buf_pool *pool, uint32_t frame); /* HELD */
void buf__frame_free(struct buf_pool *pool, uint32_t frame);
void buf__frames_wake(struct buf_pool *pool);
/* frees a chunk or run for a class */
bool buf__chunk_move(struct buf_pool *pool, uint8_t page_class);
/* A window of chunks is emptied between _begin() and _end(), L2 held at both: its free frames are set
 * aside, and so are those that become free.  Each chunk in it is free, of frames, or of runs that
 * lie wholly inside.  _vacate() moves and evicts its pages, up to the first that is in use or, with
 * `all`, those that it can; true when none is left.  _end() says whether the whole window is free. */
void buf__claim_begin(struct buf_pool *pool, uint32_t first, uint32_t count);
bool buf__claim_vacate(struct buf_pool *pool, uint32_t first, uint32_t count, bool all);
bool buf__claim_end(struct buf_pool *pool, uint32_t first, uint32_t count);
/* Evicts until a class has so many free frames, or a bounded effort has failed; L2 held. */
void buf__make_room(struct buf_pool *pool, uint8_t page_class, uint32_t frames);

/* buffer_resize.c */
void buf__resize_init(struct buf_pool *pool);
void buf__resize_deinit(struct buf_pool *pool);
/* Compares the budget with what is used and gives memory back, or takes it again.  Bounded work;
 * latches may be held. */
void buf__budget(struct buf_pool *pool);
void buf__regions_use(struct buf_pool *pool, uint32_t chunk, uint32_t count); /* alloc_lock */
uint64_t buf__words_bytes(const struct buf_pool *pool);
uint64_t buf__image_bytes(const struct buf_pool *pool);
uint64_t buf__resident_bytes(struct buf_pool *pool);

/* buffer_evict.c */
/* HELD -> SMALL or MAIN */
void buf__queue_new(struct buf_pool *pool, uint32_t frame, uint64_t page);
/* Puts a HELD frame back: freed when its page is gone, laundry when dirty, else the cold end of
 * MAIN. */
void buf__queue_back_locked(struct buf_pool *pool, uint32_t frame, bool cold);
unsigned buf__evict(struct buf_pool *pool, uint8_t page_class, bool force);
/* takes the page out; the frame stays HELD */
bool buf__evict_frame(struct buf_pool *pool, uint32_t frame, uint64_t page);
uint32_t buf__class_age(const struct buf_pool *pool, uint8_t page_class); /* alloc_lock */

/* buffer_pool.c */
/* X-latched: out of the pool, latch released */
void buf__page_drop(struct buf_pool *pool, struct buf_page *p);

/* buffer_writer.c */
ash_rc buf__writers_init(struct buf_pool *pool);
void buf__writers_deinit(struct buf_pool *pool);
ash_rc buf__writers_start(struct buf_pool *pool);
void buf__poke(struct buf_pool *pool);
void buf__unhindered(struct buf_pool *pool); /* a write succeeded, or there is nothing to write */

/* buffer_write.c */
/* Collects and writes one batch; *count_out: its pages.  target: changes below it, 0: none; laundry:
 * also what eviction waits for. */
ash_rc buf__write_round(struct writer *w, uint64_t target, bool laundry, uint32_t *count_out);
/* Forgets batches whose MAP record is durable. */
void buf__confirm(struct buf_pool *pool);
/* Makes the MAP records so far durable, at the price of a log write, and confirms. */
ash_rc buf__confirm_now(struct buf_pool *pool);
void buf__flight_freed(struct buf_pool *pool, uint64_t page); /* under L1 */

/* buffer_dirty.c */
void buf__dirty_add(struct buf_pool *pool, uint32_t units);
void buf__dirty_sub(struct buf_pool *pool, uint32_t units);
/* records the first error with its detail */
void buf__fail(struct buf_pool *pool, ash_rc rc);
ash_rc buf__error(struct buf_pool *pool); /* raises it again */

#endif
