/* SPDX-License-Identifier: Apache-2.0
 *
 * io_sched_int.h - which request goes to the device next, and with whom.  Only for src/storage/io*.c.
 *
 * Each ring, the pool of threads and the simulation have one io_sched; whoever owns that owns this,
 * so nothing in here is locked.  What all of them share is struct io_credit, which foreground
 * requests do not touch.
 *
 * States of a request:
 *
 *      add          next               done
 *   ------> QUEUED ------> FLYING --------------> OVER      (io__finish makes it visible)
 *             ^  |           |  \
 *             |  +- cancel ->|   +-- led a merged I/O: its companions fly with it, on its chain
 *             |      OVER    |
 *             +--------------+  short, EAGAIN, EINTR; a merged read that failed: each goes alone
 *
 * Invariants:
 *   S1  A request is in exactly one place: its class's queue, the list of flights (itself, or on the
 *       chain of the one that leads), or with its owner.
 *   S2  Credits taken by an I/O are given back when it ends, however it ends; credit.used_ns is the
 *       sum of cost_ns of the background I/Os in flight of all schedulers.
 *   S3  The companions of a merged I/O lie in the order of their offsets, none overlaps another, none
 *       had made progress, and they agree in file, operation, class and dsync.
 *   S4  A class is passed over for want of credit or for a window at most until its deadline (R10).
 *   S5  A request that somebody waits for is not held by a window, nor are its owner's others.
 *   S6  The index holds exactly the queued requests that may be merged.
 */
#ifndef ASH_STORAGE_IO_SCHED_INT_H
#define ASH_STORAGE_IO_SCHED_INT_H

#include "storage/io.h"

#define IO_MERGE_BYTES     (1u << 20)  /* of one merged I/O ... */
#define IO_MERGE_IOV       256u        /* ... and its entries */
#define IO_GAP_BYTES       16384u      /* between two reads that merge */
#define IO_HOLD_BYTES      (16u << 20) /* of a class that a window holds back, at most */
#define IO_WINDOW_MAX_NS   10000000ull
#define IO_WINDOW_START_NS 500000ull
#define IO_INDEX_SIZE      256u
#define IO_RECENT          16u

enum io_req_state {
    IO_REQ_OVER = 0, /* also: not yet submitted */
    IO_REQ_QUEUED,
    IO_REQ_FLYING
};

/* A merged I/O. */
struct io_batch {
    struct io_batch *next_free;
    struct io_req *head; /* by offset, on `chain`; the leader is one of them */
    uint64_t offset, end;
    uint32_t iov_count;
    struct iovec iov[IO_MERGE_IOV];
};

/* Where the last I/Os of a class lay: a request beside one of them came too late to be merged. */
struct io_recent {
    uint64_t file, offset, end, at_ns;
    enum io_op op;
};

struct io_queue {
    struct io_req *head, *tail;
    struct io_req *held; /* from here on: waiting for company in the window; NULL: none */
    uint32_t count;
    uint64_t bytes, served_ns;
    uint64_t window_ns, narrowed_ns;
    struct io_recent recent[IO_RECENT];
    unsigned recent_next;
};

struct io_meter;

struct io_sched {
    struct io *io;
    struct io_meter *meter;
    uint32_t mask, count; /* classes with queued requests; requests */
    uint32_t in_flight, background;
    uint32_t background_max;
    bool windows;               /* somebody calls io__sched_next() again at wake_ns */
    uint64_t wake_ns;           /* when something passed over may go */
    uint32_t fg_count, fg_slow; /* since the last publication */
    uint64_t published_ns;
    struct io_req *flight_head, *flight_tail; /* oldest first */
    struct io_queue class[IO_CLASS_COUNT];
    struct io_req **start, **end; /* the index, by first and last byte + 1; made at first use */
    struct io_batch *batches;
    void *scratch; /* what lies in gaps is read into it */
};

/* Shared by all schedulers of a disk manager (io_model.c).  Credits are nanoseconds of device time.
 * The lines are apart: `limit_ns` and its neighbours are read often and written rarely. */
struct io_credit {
    _Alignas(64) _Atomic uint64_t used_ns; /* of background I/Os in flight */
    _Atomic uint64_t done_ns;              /* of those that ended since the last control step */
    _Atomic bool was_short;
    _Alignas(64) _Atomic uint64_t limit_ns;
    _Atomic uint64_t goal_ns;       /* foreground requests slower than this are `slow` */
    _Atomic uint64_t background_ns; /* when a background I/O last began, to a millisecond */
    _Atomic uint32_t read_op_ns, write_op_ns, read_mib_ns, write_mib_ns;
    _Atomic uint32_t speed; /* device time done per time, * 256: corrects the model */
    _Alignas(64) _Atomic uint64_t fg_count;
    _Atomic uint64_t fg_slow, control_ns, fg_seen_ns;
    struct io_model model; /* under io->lock */
};

static inline bool io__background(enum io_class class)
{
    return class >= IO_CLASS_PAGE_WRITER;
}
uint64_t io__class_deadline_ns(enum io_class class);

/* background_max: I/Os of the background classes in flight at once. */
void io__sched_init(struct io_sched *s, struct io *io, struct io_meter *meter,
                    uint32_t background_max, bool windows);
void io__sched_destroy(struct io_sched *s);
void io__sched_add(struct io_sched *s, struct io_req *req);
/* Its owner waits for it. */
void io__sched_waited(struct io_sched *s, struct io_req *req);
/* Nothing that is queued now is held for company. */
void io__sched_kick(struct io_sched *s);
/* What goes next: a request, or the leader of several.  NULL: nothing may go before wake_ns. */
struct io_req *io__sched_next(struct io_sched *s, uint64_t now_ns);
/* The result of an I/O (bytes or -errno).  Returns the requests that are over, on `chain`; the others
 * are queued again, in front. */
struct io_req *
io__sched_done(struct io_sched *s, struct io_req *leader, int64_t result, uint64_t now_ns);
/* False: it is not queued. */
bool io__sched_cancel(struct io_sched *s, struct io_req *req);
/* Tells the others how foreground requests fare; cheap, after each round of completions. */
void io__sched_publish(struct io_sched *s, uint64_t now_ns);
/* Reports I/Os that have been in flight too long. */
void io__sched_watch(struct io_sched *s, uint64_t now_ns);
uint64_t io__watch_tick_ns(void);

/* Queued again, before the others of its class. */
void io__sched_again(struct io_sched *s, struct io_req *req);
void io__sched_unlink(struct io_sched *s, struct io_req *req); /* out of its queue and the index */

/* ---- Coalescing (io_coalesce.c) ---- */

/* Makes a queued request findable for others, where that can help. */
void io__index_add(struct io_sched *s, struct io_req *req);
void io__index_remove(struct io_sched *s, struct io_req *req);
/* Gathers companions for a request that is about to go. */
void io__merge(struct io_sched *s, struct io_req *leader, uint64_t now_ns, bool was_held);
/* io__sched_done() of a merged I/O. */
struct io_req *io__batch_done(struct io_sched *s, struct io_req *leader, int64_t result);
/* Ends the wait of those whose time is up.  When the class may go if all of it waits for company;
 * 0: now. */
uint64_t io__held_until(struct io_queue *q, uint64_t now_ns);

/* ---- Credits (io_model.c) ---- */

void io__credit_init(struct io *io);
uint32_t io__credit_cost(const struct io *io, enum io_op op, uint64_t bytes);
/* May a background I/O of this class go now? */
bool io__credit_ask(struct io *io, enum io_class class);
void io__credit_take(struct io *io, uint32_t cost_ns, uint64_t now_ns);
void io__credit_give(struct io *io, uint32_t cost_ns);
/* A foreground request that went past the schedulers. */
void io__credit_foreground(struct io *io, uint64_t latency_ns, uint64_t now_ns);
/* One step of the control loop when it is time. */
void io__credit_control(struct io *io, uint64_t now_ns);

#endif
