/* SPDX-License-Identifier: Apache-2.0
 *
 * io_int.h - what the backends of the disk manager share.  Only for src/storage/io*.c and sim_*.c.
 *
 * A backend is two tables: io_backend moves requests, io_fs names and opens files.  uring and
 * threads share the POSIX io_fs (io_posix.c); the simulated disk has its own (io_sim.c).
 *
 * Life of a request:
 *
 *      io_submit -> io__begin --(refused)-------------------------------> io__finish
 *                       |                                                   ^
 *                    backend -> io__transferred(result) --(complete/failed)-+
 *                       ^                |
 *                       +---(the rest)---+
 */
#ifndef ASH_STORAGE_IO_INT_H
#define ASH_STORAGE_IO_INT_H

#include "base/assert.h"
#include "base/error.h"
#include "base/hist.h"
#include "storage/io.h"
#include "storage/io_sched_int.h"

#define IO_RETRY_MAX    32u /* EAGAIN, EINTR and transfers without progress, per request */
#define IO_IOV_MAX      64u /* entries of a caller's vector */
#define IO_BUFFERS_MAX  64u /* registered chunks per disk manager */
#define IO_BUFFER_CHUNK (1ull << 30)

struct io_backend {
    const char *name;
    enum io_backend_kind kind;
    ash_rc (*start)(struct io *io);
    void (*stop)(struct io *io);
    void (*submit)(struct io *io, struct io_req **reqs, unsigned count); /* begun requests */
    void (*kick)(struct io *io);
    void (*wait)(struct io *io, struct io_req **reqs,
                 unsigned count); /* until one of them is done */
    bool (*run)(struct io *io,
                struct io_req *req); /* does it at once on the caller's thread; false: submit it */
    /* Takes back what is still queued and finishes it. */
    bool (*cancel)(struct io *io, struct io_req *req);
};

struct io_fs {
    ash_rc (*dir_open)(struct io *io, const char *path, unsigned flags, struct io_dir *d);
    void (*dir_close)(struct io_dir *d);
    ash_rc (*dir_names)(struct io_dir *d, char ***names_out,
                        size_t *count_out); /* any order; MEM_IO */
    ash_rc (*dir_rename)(struct io_dir *d, const char *from, const char *to);
    ash_rc (*dir_unlink)(struct io_dir *d, const char *name);
    ash_rc (*dir_sync)(struct io_dir *d); /* poisons by itself */
    ash_rc (*file_open)(struct io_dir *d, unsigned flags, struct io_file *f);
    void (*file_close)(struct io_file *f);
    ash_rc (*file_size)(struct io_file *f, uint64_t *bytes_out);
    ash_rc (*file_allocate)(struct io_file *f, uint64_t bytes, bool zero);
    ash_rc (*file_truncate)(struct io_file *f, uint64_t bytes);
    ash_rc (*file_punch)(struct io_file *f, uint64_t offset, uint64_t bytes);
};

extern const struct io_backend io__uring, io__threads, io__sim;
extern const struct io_fs io__posix, io__sim_fs;

/* Counters of one ring, worker or simulation: one writer at a time under `lock`, summed by
 * io_stats(). */
struct io_meter {
    _Atomic uint32_t lock;
    struct io_meter *next; /* io->meters */
    struct io_stats stats;
    struct hist *latency[IO_CLASS_COUNT]; /* made at first use */
};

struct io_chunk {
    void *base;
    size_t bytes;
    uint64_t id;
    uint64_t range; /* id of the first chunk of the same io_register_buffer() */
};                  /* base NULL: a free place; id: never used again */

struct io {
    const struct io_backend *backend;
    const struct io_fs *fs;
    struct io_options options;
    uint64_t id; /* never used again in this process, unlike the address */
    uint32_t fork_epoch;
    void *state; /* the backend's */

    _Atomic uint32_t poison_state; /* 0 no, 1 being written, 2 readable */
    struct err_detail poison;      /* written once by who moves poison_state 0 -> 1 */

    struct io_credit credit;

    _Atomic uint32_t lock; /* spin: covers what follows */
    struct io_meter *meters;
    struct io_stats retired; /* of meters that are gone */
    struct hist *retired_latency[IO_CLASS_COUNT];
    struct io_chunk chunk[IO_BUFFERS_MAX];
    uint64_t chunk_ids;
    _Atomic uint32_t chunk_version; /* counts changes of `chunk` */
    _Atomic uint32_t close_version; /* counts closed files */
    uint32_t open_files, open_dirs;
    _Atomic bool warned_direct, warned_memlock, warned_ring;
    _Atomic uint64_t file_ids;
};

struct io_dir {
    struct io *io;
    const struct io_fs *fs;
    char *path;
    int fd; /* POSIX */
    struct sim_dir *sim;
    struct volume *volume; /* a raw device instead of a directory (io_volume.h) */
};

struct io_file {
    struct io *io;
    const struct io_fs *fs;
    char *name, *path; /* path: for messages */
    unsigned flags;
    uint64_t id; /* never used again in this struct io */
    uint32_t align;
    bool direct;
    bool block_device;
    enum io_device_class device_class;
    int fd; /* POSIX */
    struct sim_file *sim;
    struct volume *volume; /* NULL: a file of its own */
    struct volume_file *in_volume;
    const struct io_nvme *nvme; /* requests are NVMe commands */
};

enum io_begin {
    IO_BEGIN_PLAIN = 0,
    IO_BEGIN_WAITED, /* the owner waits for it at once */
    IO_BEGIN_QUIET   /* lack of space does not poison */
};
/* Fills the private part and refuses what must not reach the backend; true: hand it to the backend.
 * */
bool io__begin(struct io *io, struct io_req *req, struct task *owner, uint64_t now_ns,
               enum io_begin how);
void io__submit(struct io_req **reqs, unsigned count, enum io_begin how);

/* Judges the result of one transfer (bytes, or -errno) of the segment that io__segment() gave.
 * True: the request is over, call io__finish(); false: submit the rest. */
bool io__transferred(struct io_req *req, int64_t result);
/* What is left to transfer: one vector whose entries are whole, or the rest of a single entry.
 * Valid until the next call. */
uint64_t io__segment(struct io_req *req, const struct iovec **iov_out, unsigned *count_out,
                     uint32_t *bytes_out);
/* Ends a request that the device never got. */
void
io__finish_cancelled(struct io *io, struct io_meter *meter, struct io_req *req, uint64_t now_ns);
/* Poisons when it must, meters, and sets done: the request may vanish at once. */
void io__finish(struct io *io, struct io_meter *meter, struct io_req *req, uint64_t now_ns);
/* Records a failure that did not come from a system call. */
void io__fail(struct io_req *req, ash_rc rc, int sys_errno);
ash_rc io__raise(const struct io_req *req);
void io__poison_with(struct io *io, ash_rc rc, int sys_errno, const char *object,
                     const char *format, ...) __attribute__((format(printf, 5, 6)));
uint32_t io__data_crc(const struct io_req *req);
/* ASH_POISONED, or ASH_MISUSE after fork. */
ash_rc io__may_write(const struct io *io);
bool io__forked(const struct io *io);

void io__meter_attach(struct io *io, struct io_meter *m);
void io__meter_detach(struct io *io, struct io_meter *m); /* its figures stay in the sums */
void io__meter_syscall(struct io_meter *m);
void io__model_encode(const struct io_model *m, char *page); /* IO_ALIGN bytes */
bool io__model_decode(const char *page, struct io_model *out);
void io__model_use(struct io *io, const struct io_model *m);
void io__meter_add(struct io_meter *m, uint64_t *field, uint64_t n); /* of m->stats */
void io__meter_request(struct io *io, struct io_meter *m, const struct io_req *req);

void io__lock(_Atomic uint32_t *lock);
void io__unlock(_Atomic uint32_t *lock);

/* Sends what is left of the request once, by preadv2/pwritev2/fdatasync; bytes or -errno. */
int64_t io__transfer_sync(struct io_meter *meter, struct io_req *req);
/* The same until it is over (then io__finish). */
void io__run_sync(struct io_meter *meter, struct io_req *req);

/* Test seam, zero in normal use: makes the set-up and system calls of the uring backend fail. */
struct io_test_hooks {
    int setup_errno;         /* io_uring_setup fails with this */
    unsigned ladder_skip;    /* so many rungs of the flag ladder fail with EINVAL */
    int buffers_errno;       /* registering buffers fails with this */
    int enter_errno;         /* io_uring_enter fails with this ... */
    _Atomic int enter_count; /* ... so many times */
    bool no_direct;          /* opens with O_DIRECT fail with EINVAL */
    bool no_fallocate;       /* fallocate() fails with EOPNOTSUPP */
    bool write_through;      /* every device says that it has no volatile cache */
    unsigned short_bytes;    /* > 0: no transfer is longer */
    uint64_t stuck_ns;       /* > 0: the watchdog's patience ... */
    uint64_t tick_ns;        /* ... and how often it looks */
    bool stale_completions;  /* completions come twice */
};
extern struct io_test_hooks io__test_hooks;
unsigned io__uring_rung(const struct io *io); /* of the flag ladder, in use */

#endif
