/* SPDX-License-Identifier: Apache-2.0
 *
 * io_uring.c - requests through io_uring: one ring per host thread and per executor, used by that
 * thread only.
 *
 * Entry points: the table io__uring.   Read first: io_int.h, engine.md's M1 and M2 in spirit: batches are what pays.
 *
 * A ring is made at a thread's first request.  Host threads submit and wait in one system call; on
 * an executor the fibers queue and park, and the executor's loop submits for all of them and reaps
 * (struct task_poller).
 *
 * Invariants:
 *   I1  Ring memory, queues and slots are touched only by the ring's thread, except at its end
 *       (I5).
 *   I2  in_flight <= cq_entries - CQ_RESERVE: the completion queue cannot overflow.
 *   I3  user_data = slot number and the slot's generation: a completion that doesn't match its
 *       slot's generation is counted and dropped, never taken for another request's.
 *   I4  An io_uring_enter() that fails leaves its entries in the submission queue; they go with the
 *       next one.
 *   I5  Whoever clears ring->io under rings_lock tears the ring down, or leaves that to the
 *       executor's poller.  The memory goes with the last reference (thread, poller). Locks:
 *       rings_lock (mutex): lists of rings, ring->io, ring->refs.  Nothing is taken under it but
 *       io->lock.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/io_int.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SQ_HOST         64u /* entries; a host thread has few requests at a time */
#define SQ_EXECUTOR     256u
#define CQ_FACTOR       4u  /* CQ entries per SQ entry */
#define CQ_RESERVE      8u  /* for the wake-up poll and its renewals */
#define BACKGROUND_RING 32u /* background requests in flight per ring ... */
#define BACKGROUND_ALL \
    128u /* ... and over all rings; beyond it a ring may still have BACKGROUND_MIN */
#define BACKGROUND_MIN       4u
#define HOT_REQUESTS         64u /* requests after which registering a file or the buffers pays */
#define FILES_MAX            64u /* registered files per ring */
#define BATCH_KICK           32u /* queued requests at which an executor's ring submits early */
#define SQPOLL_SPINS         20000u /* looks at the completion queue before sleeping: some 100 us */
#define SQPOLL_IDLE_MS       50u    /* after which the kernel's thread sleeps */
#define USER_DATA_WAKE       UINT64_MAX
#define WARN_EVERY           1000u
/* What the kernel's queues of a ring cost, of what is mapped into the process. */
#define HOST_RING_CHARGE     (12 << 10)
#define EXECUTOR_RING_CHARGE (40 << 10)

#ifndef IORING_REGISTER_CLONE_BUFFERS
    #define IORING_REGISTER_CLONE_BUFFERS 30
#endif

#if defined(__SANITIZE_THREAD__)
    #define RING_TSAN 1
#elif defined(__has_feature)
    #if __has_feature(thread_sanitizer)
        #define RING_TSAN 1
    #endif
#endif
#ifdef RING_TSAN
void __tsan_acquire(void *p);
void __tsan_release(void *p);
    /* TSan cannot see that the kernel hands a request's memory back: say so. */
    #define RING_RELEASE(p) __tsan_release(p)
    #define RING_ACQUIRE(p) __tsan_acquire(p)
#else
    #define RING_RELEASE(p) ((void)(p))
    #define RING_ACQUIRE(p) ((void)(p))
#endif

struct slot {
    struct io_req *req; /* NULL: free */
    uint32_t generation;
    uint32_t next_free;
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
    bool executor, torn_down, sqpoll;

    struct io_meter meter;
    struct io_queue queue;
    struct slot *slot;
    uint32_t slots, free_slot, in_flight, background;
    uint64_t stale; /* completions dropped by I3 */

    bool files_ok;
    uint32_t close_version;
    struct ring_file file[FILES_MAX];
    uint64_t requests; /* decides when registering buffers pays */
    bool buffers_on, buffers_refused;
    uint32_t chunk_version;
    struct io_chunk chunk[IO_BUFFERS_MAX];

    int wake_fd;
    bool wake_armed;
    unsigned enter_failures;
};

struct uring_state {
    unsigned rung;      /* of the flag ladder */
    struct ring *rings; /* rings_lock */
    _Atomic uint32_t background;
    /* The ring that holds the buffer registrations, which the others clone: under master_lock. */
    pthread_mutex_t master_lock;
    struct io_uring master;
    bool master_on, master_table;
    _Atomic bool no_clone;
    struct io_chunk master_chunk[IO_BUFFERS_MAX];
};

static pthread_mutex_t rings_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t thread_key_once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key;
static _Thread_local struct ring *thread_rings;

/* From the best set-up down.  Each is tried as it will be used; what an older kernel doesn't know,
 * it refuses. */
static const unsigned ladder[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
        IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
        IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_SUBMIT_ALL,
    0,
};
#define FEATURES_NEEDED (IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE)

/* ---- Set-up ---- */

static int
setup_queue(struct io_uring *u, unsigned rung, unsigned ring, unsigned entries)
{
    struct io_uring_params p;

    if (io__test_hooks.setup_errno != 0)
        return -io__test_hooks.setup_errno;
    if (rung < io__test_hooks.ladder_skip)
        return -EINVAL;
    memset(&p, 0, sizeof(p));
    p.flags = ladder[rung] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    if ((ring & IO_RING_SQPOLL) != 0) {
        p.flags &=
            ~(IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
        p.flags |= IORING_SETUP_SQPOLL;
        p.sq_thread_idle = SQPOLL_IDLE_MS;
    }
    if ((ring & IO_RING_IOPOLL) != 0)
        p.flags |= IORING_SETUP_IOPOLL;
    p.cq_entries = entries * CQ_FACTOR;
    int err = io_uring_queue_init_params(entries, u, &p);
    if (err != 0)
        return err;
    if ((u->features & FEATURES_NEEDED) != FEATURES_NEEDED) {
        io_uring_queue_exit(u);
        return -ENOSYS;
    }
    return 0;
}

/* One turn through a new ring with the flags of the rung. */
static int
probe_rung(unsigned rung, unsigned ring)
{
    struct io_uring u;
    struct io_uring_cqe *cqe;
    int err = setup_queue(&u, rung, ring, SQ_HOST);

    if (err != 0)
        return err;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u);
    ash_assert(sqe != NULL);
    io_uring_prep_nop(sqe);
    do {
        err = io_uring_submit_and_wait(&u, 1);
    } while (err == -EINTR);
    if (err >= 0)
        err = io_uring_peek_cqe(&u, &cqe);
    if (err == 0) {
        err = cqe->res;
        io_uring_cqe_seen(&u, cqe);
    }
    io_uring_queue_exit(&u);
    return err;
}

static ash_rc
uring_start(struct io *io)
{
    int err = -ENOSYS;

    for (unsigned rung = 0; rung < ASH_ARRAY_SIZE(ladder); rung++) {
        err = probe_rung(rung, io->options.ring);
        if (err == -EPERM || err == -EACCES)
            break; /* forbidden is forbidden with fewer flags, too */
        if (err != 0)
            continue;
        struct uring_state *s = mem_zalloc(MEM_IO, sizeof(*s));
        if (s == NULL)
            return ASH_NO_MEMORY;
        s->rung = rung;
        pthread_mutex_init(&s->master_lock, NULL);
        io->state = s;
        return ASH_OK;
    }
    return ash_raise_sys(
        ASH_UNSUPPORTED, -err, NULL,
        "The kernel refuses io_uring: %s (errno %d); allow it (kernel.io_uring_disabled, the "
        "container's seccomp profile), or set io_backend to auto or threads.",
        strerror(-err), -err);
}

unsigned
io__uring_rung(const struct io *io)
{
    const struct uring_state *s = io->state;
    return s->rung;
}

/* ---- Life of rings (I5) ---- */

static void ring_poller_init(struct ring *r);

static void
ring_unref_locked(struct ring *r)
{
    ash_assert(r->refs > 0);
    if (--r->refs > 0)
        return;
    ash_assert(r->torn_down);
    mem_free(MEM_IO, r->slot);
    mem_free(MEM_IO, r);
}

/* Caller holds rings_lock; the ring's thread is this one or no longer uses it. */
static void
ring_tear_down_locked(struct ring *r)
{
    if (r->torn_down)
        return;
    r->torn_down = true;
    io_uring_queue_exit(&r->u);
    mem_charge(MEM_IO, r->executor ? -EXECUTOR_RING_CHARGE : -HOST_RING_CHARGE);
}

static void
ring_leave_io_locked(struct ring *r)
{
    struct io *io = atomic_load(&r->io);
    if (io == NULL)
        return;
    struct uring_state *s = io->state;
    struct ring **at = &s->rings;
    while (*at != r)
        at = &(*at)->next_of_io;
    *at = r->next_of_io;
    io__meter_detach(io, &r->meter);
    if (r->stale != 0)
        log_write(LOG_ERROR, "%llu completions matched no request.", (unsigned long long)r->stale);
    atomic_store(&r->io, NULL);
}

/* At the end of a thread: its rings end with it. */
static void
thread_exit(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&rings_lock);
    while (thread_rings != NULL) {
        struct ring *r = thread_rings;
        struct io *io = atomic_load(&r->io);
        thread_rings = r->next_of_thread;
        if (io != NULL && io__forked(io))
            continue; /* the parent's; a child leaves it alone */
        ash_assert(r->in_flight == 0);
        ring_leave_io_locked(r);
        ring_tear_down_locked(r);
        ring_unref_locked(r);
    }
    pthread_mutex_unlock(&rings_lock);
}

static void
thread_key_make(void)
{
    ash_assert(pthread_key_create(&thread_key, thread_exit) == 0);
}

static void
uring_stop(struct io *io)
{
    struct uring_state *s = io->state;

    pthread_mutex_lock(&rings_lock);
    while (s->rings != NULL) {
        struct ring *r = s->rings;
        ash_assert(r->in_flight == 0);
        ash_assert(r->queue.count == 0);
        ring_leave_io_locked(r);
        if (!r->executor) /* an executor may be asleep in its ring: its poller ends it */
            ring_tear_down_locked(r);
    }
    pthread_mutex_unlock(&rings_lock);
    if (s->master_on)
        io_uring_queue_exit(&s->master);
    pthread_mutex_destroy(&s->master_lock);
    mem_free(MEM_IO, s);
}

static struct ring *
ring_create(struct io *io)
{
    struct uring_state *s = io->state;
    struct task_executor *ex = task_executor_self();
    unsigned entries = ex == NULL ? SQ_HOST : SQ_EXECUTOR;
    struct ring *r = mem_zalloc(MEM_IO, sizeof(*r));

    if (r == NULL)
        return NULL;
    int err = setup_queue(&r->u, s->rung, io->options.ring, entries);
    if (err != 0) {
        mem_free(MEM_IO, r);
        if (!atomic_exchange(&io->warned_ring, true))
            log_write(LOG_WARN, "A thread gets no ring (%s); its I/O is synchronous.",
                      strerror(-err));
        return NULL;
    }
    r->slots = r->u.cq.ring_entries - CQ_RESERVE;
    r->slot = mem_zalloc(MEM_IO, r->slots * sizeof(*r->slot));
    if (r->slot == NULL) {
        io_uring_queue_exit(&r->u);
        mem_free(MEM_IO, r);
        return NULL;
    }
    for (uint32_t i = 0; i < r->slots; i++)
        r->slot[i].next_free = i + 1;
    ash_ignore(io_uring_ring_dontfork(&r->u) == 0
                   ? ASH_OK
                   : ASH_IO); /* a child must not use it; R8 says so anyway */
    r->files_ok = (io->options.ring & IO_RING_PLAIN_FILES) == 0 &&
                  io_uring_register_files_sparse(&r->u, FILES_MAX) == 0;
    r->sqpoll = (io->options.ring & IO_RING_SQPOLL) != 0;
    r->close_version = atomic_load_explicit(&io->close_version, memory_order_acquire);
    r->io_id = io->id;
    r->wake_fd = -1;
    r->executor = ex != NULL;
    mem_charge(MEM_IO, r->executor ? EXECUTOR_RING_CHARGE : HOST_RING_CHARGE);
    r->refs = r->executor ? 2 : 1;
    atomic_store(&r->io, io);
    io__meter_attach(io, &r->meter);
    pthread_once(&thread_key_once, thread_key_make);
    pthread_setspecific(thread_key, &thread_key); /* any non-NULL value: makes thread_exit() run */
    pthread_mutex_lock(&rings_lock);
    r->next_of_io = s->rings;
    s->rings = r;
    r->next_of_thread = thread_rings;
    thread_rings = r;
    pthread_mutex_unlock(&rings_lock);
    if (ex != NULL) {
        ring_poller_init(r);
        task_executor_add_poller(ex, &r->poller);
    }
    return r;
}

/* Drops this thread's rings whose disk manager is gone. */
static void
thread_sweep(void)
{
    pthread_mutex_lock(&rings_lock);
    for (struct ring **at = &thread_rings; *at != NULL;) {
        struct ring *r = *at;
        if (atomic_load(&r->io) != NULL || r->executor) {
            at = &r->next_of_thread;
            continue;
        }
        *at = r->next_of_thread;
        ring_unref_locked(r);
    }
    pthread_mutex_unlock(&rings_lock);
}

/* The caller's ring, made when `create`; NULL when there is none. */
static struct ring *
ring_of(struct io *io, bool create)
{
    for (struct ring *r = thread_rings; r != NULL; r = r->next_of_thread) {
        if (r->io_id == io->id)
            return r;
    }
    if (!create)
        return NULL;
    thread_sweep();
    return ring_create(io);
}

/* ---- Registered files and buffers, followed by each ring on its own thread ---- */

static void
ring_drop_closed_files(struct ring *r, struct io *io)
{
    uint32_t version = atomic_load_explicit(&io->close_version, memory_order_acquire);

    if (ASH_LIKELY(version == r->close_version))
        return;
    r->close_version = version;
    /* Which one was closed is not told: forget all, the hot ones come back. */
    for (unsigned i = 0; i < FILES_MAX; i++) {
        int none = -1;
        if (r->file[i].registered)
            io_uring_register_files_update(&r->u, i, &none, 1);
        r->file[i] = (struct ring_file){ .id = 0 };
    }
}

/* The file's index in the ring's table, or -1: a plain descriptor.  Direct mapped; a file is
 * registered once it is hot, because each registration keeps the file open until the ring notices
 * that it was closed. */
static int
ring_file_index(struct ring *r, const struct io_file *f)
{
    unsigned i = (unsigned)(f->id % FILES_MAX);
    struct ring_file *e = &r->file[i];

    if (e->id != f->id) {
        if (e->id != 0 && e->uses > 0) {
            e->uses--; /* the other one cools down first */
            return -1;
        }
        if (e->registered) {
            int none = -1;
            io_uring_register_files_update(&r->u, i, &none, 1);
        }
        *e = (struct ring_file){ .id = f->id, .fd = f->fd };
    }
    if (e->registered)
        return (int)i;
    if (++e->uses < HOT_REQUESTS || !r->files_ok)
        return -1;
    if (io_uring_register_files_update(&r->u, i, &e->fd, 1) != 1) {
        r->files_ok = false;
        return -1;
    }
    e->registered = true;
    return (int)i;
}

static void
ring_refuse_buffers(struct ring *r, struct io *io, int err)
{
    r->buffers_refused = true;
    r->buffers_on = false; /* what the table holds may be stale: never use it again */
    if (!atomic_exchange(&io->warned_memlock, true))
        log_write(
            LOG_INFO,
            "Buffers are not registered with io_uring (%s); raise RLIMIT_MEMLOCK to save some CPU time.",
            strerror(-err));
}

/* Makes the table of `u` equal to now[].  A chunk's id decides: the same address may hold other
 * memory by now. */
static int
update_buffers(struct io_uring *u, struct io_chunk *have, const struct io_chunk *now, bool *on)
{
    int err = 0;

    if (!*on)
        err = io_uring_register_buffers_sparse(u, IO_BUFFERS_MAX);
    *on = err == 0;
    for (unsigned i = 0; i < IO_BUFFERS_MAX && err >= 0; i++) {
        if (PLANTED(28) ? now[i].base == have[i].base && now[i].base != NULL
                        : now[i].id == have[i].id)
            continue;
        struct iovec iov = { now[i].base, now[i].bytes };
        __u64 tag = 0;
        err = io_uring_register_buffers_update_tag(u, i, &iov, &tag, 1);
        have[i] = err >= 0 ? now[i] : (struct io_chunk){ .base = NULL };
    }
    return err < 0 ? err : 0;
}

/* Pinning the memory once, in the master ring, and cloning that table costs microseconds per ring
 * instead of a walk over all pages and 16 bytes for each.  Kernels before 6.12 refuse; then each
 * ring pins for itself. */
static int
clone_buffers(struct ring *r, struct uring_state *s, const struct io_chunk *now)
{
    struct {
        uint32_t src_fd, flags, src_off, dst_off, nr, pad[3];
    } arg = { 0 };
    int err = 0;

    pthread_mutex_lock(&s->master_lock);
    if (!s->master_on) {
        err = io_uring_queue_init(1, &s->master, 0);
        s->master_on = err == 0;
    }
    if (err == 0)
        err = update_buffers(&s->master, s->master_chunk, now, &s->master_table);
    if (err == 0 && r->buffers_on)
        err = io_uring_unregister_buffers(&r->u);
    if (err == 0) {
        arg.src_fd = (uint32_t)s->master.ring_fd;
        err = (int)syscall(__NR_io_uring_register, r->u.ring_fd, IORING_REGISTER_CLONE_BUFFERS,
                           &arg, 1);
        err = err < 0 ? -errno : 0;
    }
    pthread_mutex_unlock(&s->master_lock);
    return err;
}

/* Brings the ring's table of buffers up to date before it is used. */
static void
ring_follow_buffers(struct ring *r, struct io *io)
{
    uint32_t version = atomic_load_explicit(&io->chunk_version, memory_order_acquire);
    struct io_chunk now[IO_BUFFERS_MAX];
    struct uring_state *s = io->state;

    if (ASH_LIKELY(version == r->chunk_version) || r->buffers_refused || r->requests < HOT_REQUESTS)
        return;
    io__lock(&io->lock);
    memcpy(now, io->chunk, sizeof(now));
    r->chunk_version = atomic_load_explicit(&io->chunk_version, memory_order_relaxed);
    io__unlock(&io->lock);
    int err = io__test_hooks.buffers_errno != 0 ? -io__test_hooks.buffers_errno : 0;
    if (err == 0 && !s->no_clone) {
        err = clone_buffers(r, s, now);
        if (err == 0) {
            memcpy(r->chunk, now, sizeof(now));
            r->buffers_on = true;
            return;
        }
        if (err == -EINVAL) {
            s->no_clone = true;
            r->buffers_on = false;
            memset(r->chunk, 0, sizeof(r->chunk));
            err = 0;
        }
    }
    if (err == 0)
        err = update_buffers(&r->u, r->chunk, now, &r->buffers_on);
    if (err < 0)
        ring_refuse_buffers(r, io, err);
}

static int
ring_buffer_index(const struct ring *r, const struct iovec *iov)
{
    if (!r->buffers_on)
        return -1;
    for (unsigned i = 0; i < IO_BUFFERS_MAX; i++) {
        uintptr_t base = (uintptr_t)r->chunk[i].base, at = (uintptr_t)iov->iov_base;
        if (base == 0)
            break; /* chunks are given out from the front; a gap only costs speed */
        if (at >= base && at + iov->iov_len <= base + r->chunk[i].bytes)
            return (int)i;
    }
    return -1;
}

/* ---- Submitting ---- */

static void
prepare(struct ring *r, struct io_uring_sqe *sqe, struct io_req *req)
{
    struct io_file *f = req->file;
    const struct iovec *iov;
    unsigned count;
    uint32_t bytes;
    int file = ring_file_index(r, f);
    int fd = file >= 0 ? file : f->fd;

    if (req->op == IO_OP_FLUSH) {
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    } else {
        uint64_t offset = io__segment(req, &iov, &count, &bytes);
        int buffer = count == 1 ? ring_buffer_index(r, iov) : -1;
        bool read = req->op == IO_OP_READ;
        if (buffer >= 0 && read)
            io_uring_prep_read_fixed(sqe, fd, iov->iov_base, bytes, offset, buffer);
        else if (buffer >= 0)
            io_uring_prep_write_fixed(sqe, fd, iov->iov_base, bytes, offset, buffer);
        else if (count == 1 && read)
            io_uring_prep_read(sqe, fd, iov->iov_base, bytes, offset);
        else if (count == 1)
            io_uring_prep_write(sqe, fd, iov->iov_base, bytes, offset);
        else if (read)
            io_uring_prep_readv(sqe, fd, iov, count, offset);
        else
            io_uring_prep_writev(sqe, fd, iov, count, offset);
        if (!read && req->dsync)
            sqe->rw_flags = RWF_DSYNC;
    }
    if (file >= 0)
        sqe->flags |= IOSQE_FIXED_FILE;
}

static bool
ring_background_allowed(const struct ring *r, const struct uring_state *s)
{
    if (r->background >= BACKGROUND_RING)
        return false;
    return r->background < BACKGROUND_MIN ||
           atomic_load_explicit(&s->background, memory_order_relaxed) < BACKGROUND_ALL;
}

/* Moves queued requests into the submission queue, by priority, as far as slots and entries go. */
static void
ring_fill(struct ring *r)
{
    struct io *io = atomic_load_explicit(&r->io, memory_order_relaxed);

    if (r->queue.count == 0 || io == NULL)
        return;
    struct uring_state *s = io->state;
    uint64_t now_ns = clock_ns();
    ring_drop_closed_files(r, io);
    ring_follow_buffers(r, io);
    while (r->in_flight < r->slots && io_uring_sq_space_left(&r->u) > 0) {
        struct io_req *req = io__queue_pop(&r->queue, ring_background_allowed(r, s), now_ns);
        if (req == NULL)
            break;
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->u);
        ash_assert(sqe != NULL);
        uint32_t i = r->free_slot;
        struct slot *slot = &r->slot[i];
        ash_assert(slot->req == NULL);
        r->free_slot = slot->next_free;
        slot->req = req;
        req->slot = i;
        prepare(r, sqe, req);
        io_uring_sqe_set_data64(sqe, (uint64_t)slot->generation << 32 | i);
        RING_RELEASE(req);
        r->in_flight++;
        r->requests++;
        if (io__background(req->class)) {
            r->background++;
            atomic_fetch_add_explicit(&s->background, 1, memory_order_relaxed);
        }
    }
    ash_assert(r->in_flight <= r->slots); /* I2 */
}

static void
sleep_briefly(void)
{
    struct timespec ts = { 0, 100000 };
    nanosleep(&ts, NULL);
}

/* Judges the result of an io_uring_enter() that submitted (I4). */
static void
ring_entered(struct ring *r, int result)
{
    io__meter_syscall(&r->meter);
    if (ASH_LIKELY(result >= 0 || result == -ETIME)) {
        r->enter_failures = 0;
        return;
    }
    switch (-result) {
    case EINTR: return;
    case EBUSY:  /* completions must be taken first; the caller does that next */
    case EAGAIN: /* the kernel is out of memory for requests */
    case ENOMEM:
        /* The entries stay where they are; nobody can be told anything better than to wait. */
        if (++r->enter_failures % WARN_EVERY == 0)
            log_write(LOG_WARN, "The kernel refuses I/O for the %uth time: %s.", r->enter_failures,
                      strerror(-result));
        if (r->enter_failures > 1)
            sleep_briefly();
        return;
    default:
        log_write(LOG_ERROR, "io_uring_enter() failed: %s (errno %d).", strerror(-result), -result);
        ash_assert(false); /* requests are lost: nothing that follows could be trusted */
    }
}

static int
test_enter_errno(void)
{
    if (ASH_LIKELY(io__test_hooks.enter_errno == 0))
        return 0;
    return atomic_fetch_sub(&io__test_hooks.enter_count, 1) > 0 ? -io__test_hooks.enter_errno : 0;
}

/* ---- Reaping ---- */

static void
ring_complete(struct ring *r, struct io *io, uint64_t user_data, int result, uint64_t now_ns)
{
    if (user_data == USER_DATA_WAKE) {
        r->wake_armed = false;
        return;
    }
    uint32_t i = (uint32_t)user_data;
    if (i >= r->slots || r->slot[i].req == NULL ||
        r->slot[i].generation != (uint32_t)(user_data >> 32)) {
        r->stale++; /* I3 */
        return;
    }
    struct slot *slot = &r->slot[i];
    struct io_req *req = slot->req;
    struct uring_state *s = io->state;
    slot->req = NULL;
    slot->generation++;
    slot->next_free = r->free_slot;
    r->free_slot = i;
    r->in_flight--;
    if (io__background(req->class)) {
        r->background--;
        atomic_fetch_sub_explicit(&s->background, 1, memory_order_relaxed);
    }
    RING_ACQUIRE(req);
    if (!io__transferred(req, result)) {
        io__queue_push_front(&r->queue, req);
        return;
    }
    struct task *owner = req->owner;
    io__finish(io, &r->meter, req, now_ns);
    if (r->executor)
        task_unpark(owner); /* this thread's fiber: it has not run yet, so it still exists */
}

/* Takes what the completion queue holds; true when there was something.  No system call. */
static bool
ring_reap(struct ring *r)
{
    struct io *io = atomic_load_explicit(&r->io, memory_order_relaxed);
    struct io_uring_cqe *cqe;
    unsigned head, seen = 0;
    uint64_t now_ns = 0;

    io_uring_for_each_cqe(&r->u, head, cqe)
    {
        if (seen++ == 0)
            now_ns = clock_ns();
        ring_complete(r, io, cqe->user_data, cqe->res, now_ns);
    }
    if (seen > 0)
        io_uring_cq_advance(&r->u, seen);
    return seen > 0;
}

/* Where the kernel's thread takes the entries, a call is needed only to wake it, or to sleep after
 * having looked for a while. True: nothing is left to do. */
static bool
sqpoll_entered(struct ring *r, bool wait)
{
    bool asleep = (__atomic_load_n(r->u.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_NEED_WAKEUP) != 0;
    int result = io_uring_submit(&r->u);
    unsigned spins = 0;

    if (asleep || result < 0)
        ring_entered(r, result);
    if (!wait)
        return true;
    for (unsigned i = 0; i < SQPOLL_SPINS && io_uring_cq_ready(&r->u) == 0; i++) {
        if (i % 16 == 0)
            spins = 0; /* never yield: this is about latency */
        task_relax(&spins);
    }
    return io_uring_cq_ready(&r->u) > 0;
}

/* Submits, and waits for a completion until the deadline (TASK_FOREVER: none; 0: don't wait). */
static void
ring_enter(struct ring *r, uint64_t deadline_ns)
{
    struct io_uring_cqe *cqe;
    int result = test_enter_errno();

    if (result != 0) {
        ring_entered(r, result);
        return;
    }
    if (r->sqpoll && sqpoll_entered(r, deadline_ns != 0))
        return;
    if (deadline_ns == 0) {
        result = io_uring_submit_and_get_events(&r->u);
    } else if (deadline_ns == TASK_FOREVER) {
        result = io_uring_submit_and_wait(&r->u, 1);
    } else {
        uint64_t now_ns = clock_ns(), left = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        struct __kernel_timespec ts = { .tv_sec = (long long)(left / 1000000000u),
                                        .tv_nsec = (long long)(left % 1000000000u) };
        result = io_uring_submit_and_wait_timeout(&r->u, &cqe, 1, &ts, NULL);
    }
    ring_entered(r, result);
}

/* ---- The backend's functions ---- */

/* What cannot go through a ring: there is none, or it polls, and flushes cannot be polled for. */
static void
run_at_once(struct io *io, struct io_req *req)
{
    struct io_meter meter;

    io__meter_attach(io, &meter);
    io__run_sync(&meter, req);
    io__finish(io, &meter, req, clock_ns());
    io__meter_detach(io, &meter);
}

static void
uring_submit(struct io *io, struct io_req **reqs, unsigned count)
{
    struct ring *r = ring_of(io, /* create: */ true);
    bool iopoll = (io->options.ring & IO_RING_IOPOLL) != 0;

    for (unsigned i = 0; i < count; i++) {
        if (ASH_UNLIKELY(r == NULL || (iopoll && reqs[i]->op == IO_OP_FLUSH)))
            run_at_once(io, reqs[i]);
        else
            io__queue_push(&r->queue, reqs[i]);
    }
    if (ASH_UNLIKELY(r == NULL))
        return;
    if (r->executor && r->queue.count >= BATCH_KICK) {
        ring_fill(r);
        ring_enter(r, 0);
    }
}

static void
uring_kick(struct io *io)
{
    struct ring *r = ring_of(io, /* create: */ false);

    if (r == NULL || (r->queue.count == 0 && io_uring_sq_ready(&r->u) == 0))
        return;
    ring_fill(r);
    if (io_uring_sq_ready(&r->u) > 0)
        ring_enter(r, 0);
}

static bool
any_done(struct io_req **reqs, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (atomic_load_explicit(&reqs[i]->done, memory_order_relaxed))
            return true;
    }
    return false;
}

static void
uring_wait(struct io *io, struct io_req **reqs, unsigned count)
{
    struct ring *r = ring_of(io, /* create: */ false);

    if (any_done(reqs, count))
        return;
    ash_assert(r != NULL); /* R1: submitted by this task, so by this thread */
    while (!any_done(reqs, count)) {
        if (r->executor) {
            task_park();
            continue;
        }
        ring_fill(r);
        if (!ring_reap(r))
            ring_enter(r, TASK_FOREVER);
    }
}

/* ---- The executor's poller ---- */

static bool
poller_poll(struct task_poller *p)
{
    struct ring *r = list_entry(p, struct ring, poller);

    if (atomic_load(&r->io) == NULL)
        return false;
    bool some = ring_reap(r); /* first: it frees slots for what is queued */
    ring_fill(r);
    unsigned flags = __atomic_load_n(r->u.sq.kflags, __ATOMIC_RELAXED);
    if (io_uring_sq_ready(&r->u) > 0 || (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0)
        ring_enter(r, 0);
    return ring_reap(r) || some;
}

/* Without a disk manager the ring only sleeps. */
static void
wait_alone(int wake_fd, uint64_t deadline_ns)
{
    struct pollfd pfd = { .fd = wake_fd, .events = POLLIN };
    struct timespec ts, *left = NULL;

    if (deadline_ns != TASK_FOREVER) {
        uint64_t now_ns = clock_ns(), ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        ts = (struct timespec){ .tv_sec = (time_t)(ns / 1000000000u),
                                .tv_nsec = (long)(ns % 1000000000u) };
        left = &ts;
    }
    ash_ignore(ppoll(&pfd, 1, left, NULL) < 0
                   ? ASH_IO
                   : ASH_OK); /* whatever ended it, the caller looks again */
}

static void
poller_wait(struct task_poller *p, int wake_fd, uint64_t deadline_ns)
{
    struct ring *r = list_entry(p, struct ring, poller);

    if (atomic_load(&r->io) == NULL) {
        wait_alone(wake_fd, deadline_ns);
        return;
    }
    if (ring_reap(r))
        return;
    ring_fill(r);
    if (!r->wake_armed) {
        if (io_uring_sq_space_left(&r->u) == 0)
            ring_enter(r, 0);
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->u);
        if (sqe == NULL)
            return; /* the kernel is short of memory: don't sleep without an alarm */
        io_uring_prep_poll_add(sqe, wake_fd, POLLIN);
        io_uring_sqe_set_data64(sqe, USER_DATA_WAKE);
        r->wake_armed = true;
        r->wake_fd = wake_fd;
    }
    ash_assert(r->wake_fd == wake_fd);
    ring_enter(r, deadline_ns == 0 ? 1 : deadline_ns);
    ash_ignore(ring_reap(r) ? ASH_OK : ASH_NOT_FOUND); /* the loop polls again anyway */
}

static void
poller_destroy(struct task_poller *p)
{
    struct ring *r = list_entry(p, struct ring, poller);

    pthread_mutex_lock(&rings_lock);
    ash_assert(r->in_flight == 0);
    ring_leave_io_locked(r);
    ring_tear_down_locked(r);
    ring_unref_locked(r);
    pthread_mutex_unlock(&rings_lock);
}

static void
ring_poller_init(struct ring *r)
{
    r->poller.poll = poller_poll;
    r->poller.wait = poller_wait;
    r->poller.destroy = poller_destroy;
}

const struct io_backend io__uring = {
    .name = "uring",
    .kind = IO_BACKEND_URING,
    .start = uring_start,
    .stop = uring_stop,
    .submit = uring_submit,
    .kick = uring_kick,
    .wait = uring_wait,
};
