/* SPDX-License-Identifier: Apache-2.0
 *
 * io.h - the disk manager: files and asynchronous requests over io_uring, a thread pool, or a
 * simulated disk.
 *
 * Rules:
 *   R1  A request is submitted and waited for by the same task.  Its buffers stay untouched until
 *       it is done.
 *   R2  Every negative or short result is a failure.  Short transfers are continued, EAGAIN and
 *       EINTR retried a bounded number of times; everything else reaches the caller.  No list of
 *       harmless errors exists.
 *   R3  A failed write, flush or directory sync poisons the disk manager: every later write fails
 *       with ASH_POISONED, reads go on.  An fsync is never retried.  Growing a file
 *       (io_file_allocate) may fail with ASH_NO_SPACE without poisoning.
 *   R4  Addresses, lengths and offsets are multiples of io_file_align() (4096 unless the file says
 *       more).
 *   R5  The exclusive lock is an flock() on a data file's own descriptor, so it outlives the
 *       process only as long as its I/O in flight.
 *   R6  A completed write is volatile until io_flush() of the file completed after it, unless the
 *       file was opened with IO_DSYNC.
 *   R7  A request that would read beyond the end of the file fails with ASH_CORRUPT (ask
 *       io_file_size first).
 *   R8  After fork() a child may only call the close functions; requests fail with ASH_MISUSE
 *       there.
 *   R9  Requests in flight at the same time have no order among each other, whatever their classes,
 *       and two that overlap must not be in flight together unless both read.
 *   R10 Each class goes to the device at the latest when its deadline has passed since its oldest
 *       request came, or since the class was last served, and there is room in the ring.
 *   R11 Adjacent requests of a class may travel as one I/O.  Each is told its own outcome: a read is
 *       never failed by its neighbours'; the requests of a failed write all fail, for nobody knows
 *       what was written.  A request that somebody waits for is never delayed for company.
 */
#ifndef ASH_STORAGE_IO_H
#define ASH_STORAGE_IO_H

#include <ashlar.h>

#include "task/task.h"

#include <sys/uio.h>

#define IO_ALIGN        4096u      /* alignment that every caller keeps */
#define IO_TRANSFER_MAX (4u << 20) /* bytes of one request */

struct io;
struct io_dir;
struct io_file;

enum io_backend_kind {
    IO_BACKEND_AUTO = 0,
    IO_BACKEND_URING = 1,
    IO_BACKEND_THREADS = 2,
    IO_BACKEND_SIM = 3,
    IO_BACKEND_NVME = 4 /* uring whose entries carry NVMe commands */
};

/* In order of priority. */
enum io_class {
    IO_CLASS_WAL = 1,
    IO_CLASS_READ,
    IO_CLASS_WRITE,
    IO_CLASS_PAGE_WRITER,
    IO_CLASS_FLUSH,
    IO_CLASS_COMPACTION,
    IO_CLASS_READ_AHEAD,
    IO_CLASS_SCRUB,
    IO_CLASS_COUNT
};

/* Is it the character device of an NVMe namespace, which IO_BACKEND_NVME drives? */
bool io_is_nvme(const char *path);

struct sim_disk; /* sim_disk.h */

/* Ways to use a ring other than the one that the disk manager chooses by itself; for measuring, by
 * host threads only (an executor's ring also waits for wake-ups, which IOPOLL cannot).  Where the
 * kernel does not give such a ring, io_create() does as where it gives none. */
enum {
    IO_RING_PLAIN_FILES = 1u << 0, /* files are not registered */
    IO_RING_SQPOLL = 1u << 1,      /* a kernel thread takes the requests; waiting spins a little */
    IO_RING_IOPOLL = 1u << 2 /* completions are polled for: direct files on devices that can */
};

struct io_options {
    enum io_backend_kind backend;
    bool direct;   /* O_DIRECT where the file system can; one logged line where it cannot */
    unsigned ring; /* IO_RING_*; 0: what is best */
    struct task_runtime *rt;
    struct sim_disk *disk; /* IO_BACKEND_SIM only */
    /* No credits, no merging: requests go by class, background ones as fast as they come.  For
     * measuring, and for devices that schedule better themselves. */
    bool plain;
};

/* AUTO takes uring when a ring with the flags that will be used can be made, else threads with one
 * logged warning.  URING says ASH_UNSUPPORTED instead. */
ASH_MUST_CHECK ash_rc io_create(const struct io_options *options, struct io **out);
void io_destroy(struct io *io); /* all files closed */
enum io_backend_kind io_backend(const struct io *io);

/* R3.  The first failure wins; its detail is raised again by io_check(). */
void io_poison(struct io *io, ash_rc rc);
bool io_poisoned(const struct io *io);
ASH_MUST_CHECK ash_rc
io_check(const struct io *io); /* ASH_OK, or ASH_POISONED with the first failure's sentence */

/* A directory, or a raw device in its place: a block device, an NVMe namespace
 * (IO_BACKEND_NVME, or threads), a file of at least 8 MiB that stands for one; then the files lie
 * in a volume (io_volume.h). */

/* ---- Directories and files: names are relative, no '/', opened with O_NOFOLLOW|O_CLOEXEC, files
 * 0600 ---- */

enum {
    IO_CREATE = 1u << 0,
    IO_EXCLUSIVE = 1u << 1,
    IO_READ_ONLY = 1u << 2,
    IO_LOCK = 1u << 3,
    IO_DSYNC = 1u << 4,
    IO_BUFFERED = 1u << 5
};

/* flags: IO_CREATE makes the directory (0700; parents must exist). */
ASH_MUST_CHECK ash_rc io_dir_open(struct io *io, const char *path, unsigned flags,
                                  struct io_dir **out);
void io_dir_close(struct io_dir *d);
const char *io_dir_path(const struct io_dir *d);
ASH_MUST_CHECK ash_rc io_dir_list(struct io_dir *d, bool (*fn)(void *arg, const char *name),
                                  void *arg); /* name order */
ASH_MUST_CHECK ash_rc io_dir_rename(struct io_dir *d, const char *from, const char *to);
ASH_MUST_CHECK ash_rc io_dir_unlink(struct io_dir *d, const char *name);
ASH_MUST_CHECK ash_rc
io_dir_sync(struct io_dir *d); /* makes creates, renames and unlinks durable */

/* IO_LOCK: ASH_BUSY when another process (or handle) holds it.  A missing file: ASH_NOT_FOUND. */
ASH_MUST_CHECK ash_rc io_file_open(struct io_dir *d, const char *name, unsigned flags,
                                   struct io_file **out);
void io_file_close(struct io_file *f);
const char *io_file_name(const struct io_file *f);
struct io *io_file_io(const struct io_file *f);
uint32_t io_file_align(const struct io_file *f);
ASH_MUST_CHECK ash_rc io_file_size(struct io_file *f, uint64_t *bytes_out);
/* Grows the file to `bytes` with blocks allocated; `zero`: also written with zeros, so that later
 * writes change no metadata.  ASH_NO_SPACE leaves it as it was. */
ASH_MUST_CHECK ash_rc io_file_allocate(struct io_file *f, uint64_t bytes, bool zero);
ASH_MUST_CHECK ash_rc io_file_truncate(struct io_file *f, uint64_t bytes);
ASH_MUST_CHECK ash_rc io_file_punch(struct io_file *f, uint64_t offset,
                                    uint64_t bytes); /* gives blocks back; best effort */

/* ---- Requests ---- */

enum io_op {
    IO_OP_READ = 1,
    IO_OP_WRITE = 2,
    IO_OP_FLUSH = 3
};

struct io_batch;

struct io_req {
    /* set by the caller */
    struct io_file *file;
    enum io_op op;
    enum io_class class;
    uint64_t offset;
    void *buf; /* one buffer ... */
    uint32_t bytes;
    uint32_t iov_count; /* ... or, when > 0, iov with `bytes` in total (<= 64 entries) */
    const struct iovec *iov;
    bool dsync; /* a write that is durable when it completes (RWF_DSYNC) */
    /* clock_ns() at which it goes before its class's turn; 0: the class's deadline (R10) holds */
    uint64_t deadline_ns;
    void *user;
    /* set by the disk manager */
    _Atomic bool done;
    ash_rc rc; /* the outcome; detail raised again by io_wait() */
    int sys_errno;
    uint64_t submit_ns, finish_ns;
    /* private */
    struct task *owner;
    uint32_t progress, slot, retries;
    uint32_t sent;    /* I/Os that this one led */
    uint8_t state;    /* enum io_req_state */
    bool waited;      /* its owner waits: nothing may delay it */
    bool alone;       /* not to be merged (again) */
    bool quiet;       /* a failure does not poison (io_file_allocate) */
    bool told;        /* the watchdog has reported it */
    bool indexed;     /* others may find it */
    uint32_t cost_ns; /* credits that it took */
    uint64_t dispatch_ns;
    struct io_req *next, *prev; /* in a queue, or in the list of flights */
    struct io_req *chain;       /* the next of one merged I/O */
    struct io_batch *batch;     /* the merged I/O that this one leads */
    struct io_req *start_next, *end_next;
    struct iovec iov_local[2];
    uint32_t crc;  /* of the data when it was submitted, where that is checked */
    void *backend; /* the backend's own */
};

/* Queues requests; does not park unless too many are in flight.  Requests to a poisoned manager
 * fail when waited for. On a host thread and an executor they reach the kernel at the next
 * io_wait/io_kick/poll. */
void io_submit(struct io_req **reqs, unsigned count);
void io_kick(struct io *io); /* hands queued requests of the caller's ring to the kernel now */
ASH_MUST_CHECK ash_rc io_wait(struct io_req *req); /* parks until done; returns req->rc, raised */
void
io_wait_any(struct io_req **reqs, unsigned count); /* parks until at least one of them is done */
/* Takes back a request that the device has not got yet: true, and it ends with ASH_CANCELLED, not
 * having touched the file.  False: it is under way or done, and its outcome is what the device says;
 * what is under way is never abandoned, since nobody could tell whether it still lands.  Either
 * way wait for it. */
bool io_cancel(struct io_req *req);

/* One request, start to end.  Parks. */
ASH_MUST_CHECK ash_rc io_read(struct io_file *f, void *buf, uint32_t bytes, uint64_t offset,
                              enum io_class class);
ASH_MUST_CHECK ash_rc io_write(struct io_file *f, const void *buf, uint32_t bytes, uint64_t offset,
                               enum io_class class);
ASH_MUST_CHECK ash_rc io_flush(struct io_file *f,
                               enum io_class class); /* fdatasync; not retried (R3) */

/* Tells the rings about long-lived buffer memory (frame arena, log buffer) so that requests inside
 * use registered buffers.  Best effort: a memlock limit is one logged line and no error.
 * Registered memory is pinned: until io_unregister_buffer() it must not be unmapped, decommitted
 * (mem_map_decommit) or remapped, or requests would go to pages that nobody sees any more. */
void io_register_buffer(struct io *io, void *base, size_t bytes);
void io_unregister_buffer(struct io *io, void *base);

/* How durable is a completed write of this file, and how costly a flush?  Probed at open.  Write
 * through: of blocks that had been written and flushed before; the first write of an allocated
 * block changes metadata, which only a flush makes durable. */
enum io_device_class {
    IO_DEVICE_WRITE_THROUGH = 1,
    IO_DEVICE_VOLATILE = 2
};
enum io_device_class io_file_device_class(const struct io_file *f);

struct io_stats {
    uint64_t requests[IO_CLASS_COUNT], bytes[IO_CLASS_COUNT], flushes, syscalls, retries;
    /* What they became: merged requests are one I/O, continued ones several. */
    uint64_t ios[IO_CLASS_COUNT];
    /* I/Os that went because their deadline had passed, before their betters or without credit. */
    uint64_t overdue[IO_CLASS_COUNT];
    uint64_t gap_bytes; /* read and dropped between merged reads */
    uint64_t cancelled; /* by io_cancel() */
    uint64_t stuck;     /* reported by the watchdog */
    uint64_t stale;     /* completions that matched no request */
    /* Now: device time that background I/Os may have and have in flight. */
    uint64_t credit_ns, credit_used_ns;
};
void io_stats(struct io *io, struct io_stats *out);
const char *io_class_name(enum io_class class); /* "wal", "read", ... */
struct hist;
/* Adds the latencies (ns from io_submit to completion) of all finished requests of a class to
 * `into`. Not kept in simulation. */
void io_latency(struct io *io, enum io_class class, struct hist *into);

/* ---- The device model: what the device can do (io_model.c) ---- */

struct io_model {
    uint64_t read_iops, write_iops;   /* random 4 KiB, many in flight */
    uint64_t read_bytes, write_bytes; /* per second, in large pieces */
    uint64_t read_ns, write_ns;       /* one 4 KiB request alone */
};
#define IO_MODEL_FILE "io.model"
/* The model in use: what io_model_load() found, else a guess, which corrects itself while
 * background I/O runs and nobody else does. */
void io_model(struct io *io, struct io_model *out);
/* Uses the model stored in the directory.  ASH_NOT_FOUND: none; ASH_CORRUPT: not a model. */
ASH_MUST_CHECK ash_rc io_model_load(struct io_dir *d);
/* Measures the device below the directory with a scratch file for about `ms`, stores the model
 * there (durably), and uses it.  Other I/O meanwhile spoils the figures. */
ASH_MUST_CHECK ash_rc io_calibrate(struct io_dir *d, unsigned ms, struct io_model *out);

#endif
