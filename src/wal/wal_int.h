/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_int.h - the log's state, for src/wal only.
 *
 * Who changes what:
 *   appenders    `reserved` (atomic add), the ring, the link slots.  No lock.
 *   log writers  `ready`, `cut`, `durable`, segments, flights: under `lock`, a spin lock held for
 *   some hundred instructions and never
 *                across a wait.  Any task may be a log writer for a moment: see wal_flush.c.
 *   keeper       makes the next segment and recycles old ones: see wal_segment.c.
 */
#ifndef ASH_WAL_INT_H
#define ASH_WAL_INT_H

#include "base/bits.h"
#include "base/counter.h"
#include "base/list.h"
#include "base/mem.h"
#include "wal/wal.h"

#include <stdatomic.h>

#define WAL_WRITERS_MAX    8u
#define WAL_BLOCK_HEAD     ((uint32_t)sizeof(struct wal_block_head))
#define WAL_SPARES_MAX     3u         /* recycled files kept for reuse; more are unlinked */
#define WAL_CACHE_BLOCKS   8u         /* blocks read back from disk and kept for wal_read() */
#define WAL_ASYNC_DELAY_NS 10000000u  /* wal_flush_async(): written at the latest after this time */
#define WAL_ROOM_RETRY_NS  100000000u /* full disk: pause between attempts to make a segment */
#define WAL_WARN_NS        60000000000u /* full disk: pause between messages to the log hook */
#define WAL_ROOM_TRIES     100u /* full disk and full buffer: attempts before the log gives up (10 s) */
#define WAL_NAME_MAX       40u

/* Where a block lies; sorted by lsn within its segment. */
struct wal_block_ref {
    uint64_t lsn;
    uint32_t unit; /* offset in the file / 4096 */
    uint32_t payload;
};

/* A segment file.  Fields fixed once it is in a list, but for the block index and refs (wal->lock).
 * */
struct wal_segment {
    struct list link; /* wal.live (oldest first), wal.doomed, or a struct wal_segments */
    uint64_t number, lsn, size;
    uint32_t epoch;
    uint32_t refs;        /* readers and blocks in flight: not recycled meanwhile */
    bool dsync;           /* writes need RWF_DSYNC to be durable */
    struct io_file *file; /* never NULL in wal.live */
    struct wal_block_ref *blocks;
    uint32_t count, capacity;
};

struct wal_segments {
    struct list list; /* struct wal_segment, oldest first, numbers without a gap */
};

/* A block being written.  Owned by the task that cut it until wal__flight_done(). */
struct wal_flight {
    uint64_t lsn, durable, offset;
    uint32_t payload;
    bool first; /* of its segment: the segment's head is written with it */
    bool done;
    struct wal_segment *segment;
    uint8_t *buffer; /* 4096 for a segment head, then the block */
};

/* A block read back from disk. */
struct wal_cached {
    uint64_t lsn;
    uint32_t payload;
    uint32_t refs;
    uint64_t used;  /* value of cache_clock at the last use */
    uint8_t *block; /* NULL: free entry */
};

struct wal {
    /* Touched by every append. */
    ASH_ALIGNED_LINE _Atomic uint64_t reserved;
    ASH_ALIGNED_LINE _Atomic uint64_t durable; /* written under lock */
    _Atomic uint64_t cut;                      /* written under lock */
    _Atomic uint64_t urgent, async; /* what the background writer has been asked to write */
    _Atomic uint32_t failed;        /* an ash_rc: the log is dead */
    _Atomic bool async_armed;

    /* Set at open. */
    ASH_ALIGNED_LINE uint8_t *ring;
    uint64_t capacity, mask;
    _Atomic uint32_t *
        /* one per 32 bytes of ring: size / 32 of the published record that starts there, else 0 */
        links;
    uint64_t link_mask;
    uint64_t first; /* LSN at open: what lies below was never in the ring */
    struct wal_options options;
    uint32_t block_payload_max;
    uint8_t *buffers; /* of all flights */
    size_t buffer_bytes;

    /* Under lock. */
    ASH_ALIGNED_LINE _Atomic uint32_t lock;
    uint64_t ready;
    uint64_t flight_head, flight_tail; /* blocks [head, tail) are in flight or done out of order */
    struct wal_flight flight[WAL_WRITERS_MAX];
    struct wal_segment *current, *next; /* being filled; prepared for after it */
    uint64_t position;                  /* in current: where the next block goes */
    struct list live, doomed;
    uint64_t next_number; /* of the next segment to be made */
    uint64_t leader;      /* lowest LSN whose waiter found all writers busy, 0: unknown */
    uint64_t wanted;      /* highest such LSN */
    uint64_t ticket_wanted, ticket_done,
        ticket_failed; /* attempts to make a segment: asked for, made, failed for want of space */
    _Atomic bool stop_keeper, stop_writer;
    _Atomic bool no_space;
    ash_rc room_rc;          /* why the attempt `ticket_failed` failed; under lock */
    _Atomic uint64_t oldest; /* first LSN of the oldest live segment */
    struct wal_stats stats;

    struct task_waitq waiters; /* key: the LSN that must become durable */
    struct task_waitq keeper_q, writer_q;
    struct task *keeper, *writer;

    /* Keeper only. */
    uint32_t spares[WAL_SPARES_MAX];
    unsigned spare_count;
    bool spares_dirty; /* renamed since the last sync of the directory */
    uint32_t spare_next;
    uint64_t warned_ns;     /* keeper: when it last told the hook that the disk is full */
    uint64_t room_asked_ns; /* when wal_room() last asked; under lock */

    _Atomic(struct wal_callback *) callbacks; /* pushed by anybody, taken by the writer */
    _Atomic uint32_t callbacks_waiting;

    /* wal_read() from disk; under cache_lock (a leaf spin lock). */
    _Atomic uint32_t cache_lock;
    uint64_t cache_clock;
    struct wal_cached cache[WAL_CACHE_BLOCKS];
    struct counter reads_buffer, reads_disk, flush_waits;
};

static inline void
wal__lock(_Atomic uint32_t *lock)
{
    unsigned spins = 0;
    while (atomic_exchange_explicit(lock, 1, memory_order_acquire) != 0)
        while (atomic_load_explicit(lock, memory_order_relaxed) != 0)
            task_relax(&spins);
}

static inline void
wal__unlock(_Atomic uint32_t *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

static inline uint64_t
wal__padded(uint32_t size)
{
    return ((uint64_t)size + WAL_RECORD_ALIGN - 1) & ~(uint64_t)(WAL_RECORD_ALIGN - 1);
}

/* ---- wal_flush.c ---- */
/* Waits until durable >= lsn; patient: a full disk is waited for up to WAL_ROOM_TRIES, then the log
 * fails. */
ASH_MUST_CHECK ash_rc wal__flush(struct wal *wal, uint64_t lsn, bool patient);
void wal__fail(struct wal *wal, ash_rc rc);        /* the first failure wins; wakes everybody */
ASH_MUST_CHECK ash_rc wal__check(struct wal *wal); /* ASH_OK, or the failure raised again */
void wal__writer_main(void *arg);
void
wal__writer_ask(struct wal *wal, uint64_t lsn); /* the background writer writes up to lsn now */

/* ---- wal_segment.c ---- */
void wal__keeper_main(void *arg);
void wal__keeper_kick(struct wal *wal);
ASH_MUST_CHECK ash_rc wal__segments_adopt(
    struct wal *wal, uint64_t next_number); /* at open: sorts the files of former lives */
void wal__segment_name(char name[WAL_NAME_MAX], uint64_t number);
bool wal__segment_parse(const char *name, uint64_t *number_out);
ASH_MUST_CHECK ash_rc wal__segment_new(uint64_t number, uint64_t size, uint32_t capacity,
                                       struct wal_segment **out);
ASH_MUST_CHECK ash_rc wal__segment_index(struct wal_segment *s, uint64_t lsn, uint64_t offset,
                                         uint32_t payload);
void wal__segment_free(struct wal_segment *s);
void wal__segment_unref(struct wal *wal, struct wal_segment *s);
void wal__segment_head(const struct wal *wal, const struct wal_segment *s, uint64_t durable,
                       uint8_t page[4096]);

/* ---- wal_record.c ---- */
/* Checks a segment head page of 4096 bytes: its own consistency, not whether it is the right one.
 * */
bool
wal__head_valid(const uint8_t page[4096], const uint8_t uuid[16], struct wal_segment_head *out);
/* Checks a whole block of which `available` bytes are in memory. */
bool wal__block_valid(const uint8_t *block, uint64_t available, const uint8_t uuid[16],
                      struct wal_block_head *out);

#endif
