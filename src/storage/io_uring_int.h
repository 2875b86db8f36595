/* SPDX-License-Identifier: Apache-2.0
 *
 * io_uring_int.h - rings, for src/storage/io_uring*.c only.
 *
 * Invariants I1..I5: see io_uring.c.
 */
#ifndef ASH_STORAGE_IO_URING_INT_H
#define ASH_STORAGE_IO_URING_INT_H

#include "storage/io_int.h"
#include "task/task.h"

#include <liburing.h>
#include <pthread.h>

#define SQ_HOST        64u /* entries; a host thread has few requests at a time */
#define SQ_EXECUTOR    256u
#define CQ_RESERVE     8u  /* for the wake-up poll and its renewals */
#define HOT_REQUESTS   64u /* requests after which registering a file or the buffers pays */
#define FILES_MAX      64u /* registered files per ring */
#define USER_DATA_WAKE UINT64_MAX
#define USER_DATA_TICK (UINT64_MAX - 1)

struct slot {
    struct io_req *req; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
    bool nvme_fixed; /* a command on a registered buffer */
};

struct ring_file {
    uint64_t id; /* io_file.id; 0: unused */
    int fd;
    uint32_t uses;
    bool registered;
};

struct ring {
    struct task_poller poller; /* executors only */
    struct io_uring u;
    struct io *_Atomic io; /* NULL: its disk manager is gone (I5) */
    uint64_t io_id;
    struct ring *next_of_io, *next_of_thread;
    unsigned refs; /* thread, poller */
    bool executor, torn_down, sqpoll, iopoll;

    struct io_meter meter;
    struct io_sched sched;
    struct slot *slot;
    uint32_t slots, free_slot;

    bool files_ok;
    uint32_t close_version;
    struct ring_file file[FILES_MAX];
    uint64_t requests; /* decides when registering buffers pays */
    bool buffers_on, buffers_refused;
    uint32_t table_version; /* io->chunk_version of the table; entries may be stale (bytes 0) */
    struct io_chunk chunk[IO_BUFFERS_MAX];

    int wake_fd;
    bool wake_armed, tick_armed;
    struct __kernel_timespec tick;
    unsigned enter_failures;
};

struct uring_state {
    unsigned rung;      /* of the flag ladder */
    struct ring *rings; /* rings_lock */
    /* The ring that holds the buffer registrations, which the others clone (io_uring_pin.c): under
     * master_lock. */
    pthread_mutex_t master_lock;
    struct io_uring master;
    bool master_on, master_table;
    uint32_t master_version;
    pthread_t pin_thread;
    pthread_cond_t pin_wake;
    bool pin_on, pin_stop;
    int pin_error; /* an errno: nothing more is registered */
    _Atomic bool no_clone;
    _Atomic bool no_nvme_fixed; /* the kernel refuses commands on registered buffers */
    struct io_chunk master_chunk[IO_BUFFERS_MAX];
};

/* Probing (io_uring_probe.c).  A queue with the flags of a rung of the ladder; `ring`: IO_RING_*.
 * `wide`: with entries that carry NVMe commands.  0 or -errno. */
int io__ring_setup(struct io_uring *u, unsigned rung, unsigned ring, bool wide, unsigned entries);
/* The best rung that works here, or a negative errno. */
int io__ring_probe(unsigned ring, bool wide);

/* Registered files (io_uring_file.c) and buffers (io_uring_pin.c).  Both follow what changed before they
 * are used. */
void io__ring_drop_closed_files(struct ring *r, struct io *io);
/* The file's index in the ring's table, or -1: a plain descriptor. */
int io__ring_file_index(struct ring *r, const struct io_file *f);
void io__ring_follow_buffers(struct ring *r, struct io *io);
int io__ring_buffer_index(const struct ring *r, const struct iovec *iov);
void io__pin_stop(struct uring_state *s);

#endif
