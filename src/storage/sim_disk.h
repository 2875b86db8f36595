/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_disk.h - a simulated disk with a directory tree of one level: what survives a power cut, and
 * what goes wrong.
 *
 * Per file: a durable image and the writes since the last successful flush (pending).  A power cut
 * keeps, for each pending write, none, all, or any subset of its 512-byte sectors, in any order;
 * unsynced creates, renames, unlinks and size changes are kept or dropped one by one.  A sim_disk
 * outlives the `struct io` and runtime of one simulated life.
 *
 * A flush covers the writes that had completed when it was submitted; those still in flight stay
 * pending.  A failed flush loses each of the writes it covers wholly, in part or not at all, at
 * once and for ever; a later flush knows nothing of them. A disk, and all disks cut from it, belong
 * to one thread at a time: they share pages.
 */
#ifndef ASH_STORAGE_SIM_DISK_H
#define ASH_STORAGE_SIM_DISK_H

#include <ashlar.h>

#include "base/random.h"

struct sim_disk;

enum sim_fault_kind {
    SIM_FAULT_NONE = 0,
    /* the request fails with `sys_errno`; a failed write may have landed in part */
    SIM_FAULT_ERROR,
    SIM_FAULT_SHORT,      /* it transfers fewer bytes than asked */
    SIM_FAULT_LOST_WRITE, /* success, nothing written */
    SIM_FAULT_MISDIRECT,  /* success, written `delta` bytes away */
    SIM_FAULT_BIT_FLIP,   /* one bit of the data changes on the way */
    SIM_FAULT_DELAY       /* takes `delta` ns longer */
};

/* A fault on the n-th request (1-based, counted over all requests of kind `op`; op 0: any, incl.
 * directory operations). */
struct sim_fault {
    enum sim_fault_kind kind;
    int op; /* enum io_op, enum sim_op, or 0 */
    uint64_t nth;
    bool sticky; /* all after it too */
    int sys_errno;
    /* MISDIRECT: bytes (0: 4096); SHORT: bytes transferred (0: drawn); DELAY: ns */
    int64_t delta;
};

/* Kinds beside enum io_op that a fault can name. */
enum sim_op {
    SIM_OP_DIR = 4,  /* create, rename, unlink, sync of a directory */
    SIM_OP_SIZE = 5, /* allocate, truncate */
    SIM_OP_COUNT
};

enum sim_cut_policy { /* what a power cut keeps of the pending writes */
    /* per write: none, all, or a random subset of sectors (prefix, suffix, alternate, one missing)
     * */
    SIM_CUT_RANDOM = 0,
    SIM_CUT_NONE,   /* nothing unsynced survives */
    SIM_CUT_ALL,    /* everything survives (a process crash) */
    SIM_CUT_REVERSE /* later writes survive, earlier ones don't */
};

ASH_MUST_CHECK ash_rc sim_disk_create(uint64_t seed, struct sim_disk **out);
void sim_disk_destroy(struct sim_disk *d);
void sim_disk_limit(struct sim_disk *d, uint64_t bytes); /* ENOSPC beyond this total; 0: none */
/* NULL clears all; several may be set */
void sim_disk_fault(struct sim_disk *d, const struct sim_fault *fault);
/* of a request, uniform; reordering follows from it */
void sim_disk_latency(struct sim_disk *d, uint64_t min_ns, uint64_t max_ns);

/* Calls fn before the n-th I/O event (submissions, completions, flushes, directory operations) of
 * the life; fn usually calls task_sim_halt().  0: never. */
void sim_disk_cut_at(struct sim_disk *d, uint64_t nth, void (*fn)(void *arg), void *arg);
uint64_t sim_disk_events(const struct sim_disk *d); /* events so far in this life */
/* counted as sim_fault.nth counts them */
uint64_t sim_disk_requests(const struct sim_disk *d, int op);

/* A new life on the same disk after a simulation was halted, with all that had completed in place
 * (a process crash): releases the dead life's locks, lets its requests in flight land or not,
 * counts events and requests from 0.  Cut images need no restart. */
void sim_disk_restart(struct sim_disk *d);

/* A new disk that holds what a power cut now would leave, drawn from `seed`.  Cheap: images are
 * shared copy-on-write. The original is not changed, so many images can be drawn from one moment.
 * */
ASH_MUST_CHECK ash_rc sim_disk_cut(const struct sim_disk *d, enum sim_cut_policy policy,
                                   uint64_t seed, struct sim_disk **out);
/* Called from the cut_at hook this gives images of any moment without ending the run. */

/* Direct access for tests: durable and pending content as a reader would see it now. */
ASH_MUST_CHECK ash_rc sim_disk_peek(struct sim_disk *d, const char *dir, const char *name,
                                    uint64_t offset, void *buf, size_t bytes);
ASH_MUST_CHECK ash_rc sim_disk_poke(struct sim_disk *d, const char *dir, const char *name,
                                    uint64_t offset, const void *buf, size_t bytes);
/* of all names and visible contents: equal disks give equal hashes */
uint64_t sim_disk_hash(const struct sim_disk *d);
/* Walks all files: fn(arg, dir, name, size). */
void
sim_disk_list(struct sim_disk *d,
              void (*fn)(void *arg, const char *dir, const char *name, uint64_t size), void *arg);

#endif
