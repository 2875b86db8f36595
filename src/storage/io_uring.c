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
 *   I2  sched.in_flight <= cq_entries - CQ_RESERVE: the completion queue cannot overflow.
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
#include "storage/io_nvme.h"
#include "storage/io_uring_int.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#define BATCH_KICK           32u    /* queued requests at which an executor's ring submits early */
#define SQPOLL_SPINS         20000u /* looks at the completion queue before sleeping: some 100 us */
#define WARN_EVERY           1000u
/* What the kernel's queues of a ring cost, of what is mapped into the process. */
#define HOST_RING_CHARGE     (12 << 10)
#define EXECUTOR_RING_CHARGE (40 << 10)

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

static pthread_mutex_t rings_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t thread_key_once = PTHREAD_ONCE_INIT;
static pthread_key_t thread_key;
static _Thread_local struct ring *thread_rings;

static ash_rc
uring_start(struct io *io)
{
    int rung = io__ring_probe(io->options.ring, io->options.backend == IO_BACKEND_NVME);

    if (rung < 0)
        return ash_raise_sys(
            ASH_UNSUPPORTED, -rung, NULL,
            "The kernel refuses io_uring: %s (errno %d); allow it (kernel.io_uring_disabled, the "
            "container's seccomp profile), or set io_backend to auto or threads.",
            strerror(-rung), -rung);
    struct uring_state *s = mem_zalloc(MEM_IO, sizeof(*s));
    if (s == NULL)
        return ASH_NO_MEMORY;
    s->rung = (unsigned)rung;
    pthread_mutex_init(&s->master_lock, NULL);
    pthread_cond_init(&s->pin_wake, NULL);
    io->state = s;
    return ASH_OK;
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
    io__sched_destroy(&r->sched);
    if (r->meter.stats.stale != 0)
        log_write(LOG_ERROR, "%llu completions matched no request.",
                  (unsigned long long)r->meter.stats.stale);
    io__meter_detach(io, &r->meter);
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
        ash_assert(r->sched.in_flight == 0);
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
        ash_assert(r->sched.in_flight == 0);
        ash_assert(r->sched.count == 0);
        ring_leave_io_locked(r);
        if (!r->executor) /* an executor may be asleep in its ring: its poller ends it */
            ring_tear_down_locked(r);
    }
    pthread_mutex_unlock(&rings_lock);
    io__pin_stop(s);
    pthread_cond_destroy(&s->pin_wake);
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
    int err = io__ring_setup(&r->u, s->rung, io->options.ring,
                             io->options.backend == IO_BACKEND_NVME, entries);
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
    r->iopoll = (io->options.ring & IO_RING_IOPOLL) != 0;
    r->close_version = atomic_load_explicit(&io->close_version, memory_order_acquire);
    r->io_id = io->id;
    r->wake_fd = -1;
    r->executor = ex != NULL;
    mem_charge(MEM_IO, r->executor ? EXECUTOR_RING_CHARGE : HOST_RING_CHARGE);
    r->refs = r->executor ? 2 : 1;
    atomic_store(&r->io, io);
    io__meter_attach(io, &r->meter);
    /* Room is left for the foreground.  A host thread looks at its ring only when it wants
     * something, so only an executor's can keep a window. */
    io__sched_init(&r->sched, io, &r->meter, r->slots / 4 * 3, /* windows: */ r->executor);
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

/* ---- Submitting ---- */

static void
prepare_nvme(struct ring *r, struct io_uring_sqe *sqe, struct io_req *req)
{
    const struct uring_state *s = req->file->io->state;
    const struct iovec *iov = NULL;
    unsigned count = 0;
    uint32_t bytes = 0;
    uint64_t offset = req->op == IO_OP_FLUSH ? 0 : io__segment(req, &iov, &count, &bytes);
    int buffer = count == 1 && !atomic_load_explicit(&s->no_nvme_fixed, memory_order_relaxed)
                     ? io__ring_buffer_index(r, iov)
                     : -1;

    r->slot[req->slot].nvme_fixed = buffer >= 0;
    io__nvme_prepare(sqe, req->file->nvme, req->op, req->dsync, iov, count, bytes, offset, buffer);
}

/* Kernels before 6.15 refuse a command on the middle of a registered buffer.  What was refused so
 * was not done: it goes again without. */
static int64_t
result_nvme(struct uring_state *s, const struct slot *slot, struct io_req *req, int result)
{
    const struct iovec *iov;
    unsigned count;
    uint32_t bytes = 0;

    if (result == -EINVAL && slot->nvme_fixed) {
        if (!atomic_exchange(&s->no_nvme_fixed, true))
            log_write(LOG_INFO, "NVMe commands go without registered buffers: the kernel refuses.");
        return -EAGAIN;
    }
    if (req->op != IO_OP_FLUSH) /* the same segment again, for its length */
        (void)io__segment(req, &iov, &count, &bytes);
    return io__nvme_result(result, bytes);
}

static void
prepare(struct ring *r, struct io_uring_sqe *sqe, struct io_req *req)
{
    struct io_file *f = req->file;
    const struct iovec *iov;
    unsigned count;
    uint32_t bytes;

    if (f->nvme != NULL) {
        prepare_nvme(r, sqe, req);
        return;
    }
    int file = io__ring_file_index(r, f);
    int fd = file >= 0 ? file : f->fd;

    if (req->op == IO_OP_FLUSH) {
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    } else {
        uint64_t offset = io__segment(req, &iov, &count, &bytes);
        int buffer = count == 1 ? io__ring_buffer_index(r, iov) : -1;
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

/* Moves queued requests into the submission queue, by priority, as far as slots and entries go. */
static void
ring_fill(struct ring *r)
{
    struct io *io = atomic_load_explicit(&r->io, memory_order_relaxed);

    if (r->sched.count == 0 || io == NULL)
        return;
    uint64_t now_ns = clock_ns();
    io__ring_drop_closed_files(r, io);
    io__ring_follow_buffers(r, io);
    while (r->sched.in_flight < r->slots && io_uring_sq_space_left(&r->u) > 0) {
        struct io_req *req = io__sched_next(&r->sched, now_ns);
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
        r->requests++;
    }
    ash_assert(r->sched.in_flight <= r->slots); /* I2 */
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
test_complete_again(struct ring *r, uint64_t user_data)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->u);

    if (sqe == NULL)
        return;
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data64(sqe, user_data);
}

static void
ring_complete(struct ring *r, struct io *io, uint64_t user_data, int result, uint64_t now_ns)
{
    if (user_data == USER_DATA_WAKE) {
        r->wake_armed = false;
        return;
    }
    if (user_data == USER_DATA_TICK) {
        r->tick_armed = false;
        io__sched_watch(&r->sched, now_ns);
        return;
    }
    uint32_t i = (uint32_t)user_data;
    if (i >= r->slots || r->slot[i].req == NULL ||
        (r->slot[i].generation != (uint32_t)(user_data >> 32) && !PLANTED(367))) {
        io__meter_add(&r->meter, &r->meter.stats.stale, 1); /* I3 */
        return;
    }
    if (ASH_UNLIKELY(io__test_hooks.stale_completions))
        test_complete_again(r, user_data);
    struct slot *slot = &r->slot[i];
    struct io_req *req = slot->req, *over, *next;
    slot->req = NULL;
    slot->generation++;
    slot->next_free = r->free_slot;
    r->free_slot = i;
    RING_ACQUIRE(req);
    int64_t transferred = req->file->nvme != NULL ? result_nvme(io->state, slot, req, result)
                                                  : result;
    for (over = io__sched_done(&r->sched, req, transferred, now_ns); over != NULL; over = next) {
        struct task *owner = over->owner;
        next = over->chain;
        io__finish(io, &r->meter, over, now_ns);
        if (r->executor)
            task_unpark(owner); /* this thread's fiber: it has not run yet, so it still exists */
    }
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
        if (PLANTED(368) && seen > 32)
            continue;
        ring_complete(r, io, cqe->user_data, cqe->res, now_ns);
    }
    if (seen == 0)
        return false;
    io_uring_cq_advance(&r->u, seen);
    if (io != NULL)
        io__sched_publish(&r->sched, now_ns);
    return true;
}

/* When something that the scheduler passed over may go, if no completion comes before. */
static uint64_t
ring_wake_ns(const struct ring *r)
{
    return r->sched.count > 0 && r->sched.in_flight < r->slots ? r->sched.wake_ns : TASK_FOREVER;
}

/* Has the watchdog look after a while.  The timer stays armed across waits: it costs an entry in a
 * second. */
static void
arm_tick(struct ring *r)
{
    if (r->tick_armed || r->sched.in_flight == 0 || r->iopoll)
        return;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->u);
    if (sqe == NULL)
        return; /* the next wait tries again */
    uint64_t ns = io__watch_tick_ns();
    r->tick = (struct __kernel_timespec){ .tv_sec = (long long)(ns / 1000000000u),
                                          .tv_nsec = (long long)(ns % 1000000000u) };
    io_uring_prep_timeout(sqe, &r->tick, 0, 0);
    io_uring_sqe_set_data64(sqe, USER_DATA_TICK);
    r->tick_armed = true;
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

    for (unsigned i = 0; i < count; i++) {
        if (ASH_UNLIKELY(r == NULL || (r->iopoll && reqs[i]->op == IO_OP_FLUSH)))
            run_at_once(io, reqs[i]);
        else
            io__sched_add(&r->sched, reqs[i]);
    }
    if (ASH_UNLIKELY(r == NULL))
        return;
    /* Writes of the background may still find company, and lose nothing by waiting for the loop. */
    if (r->executor &&
        r->sched.class[IO_CLASS_WAL].count + r->sched.class[IO_CLASS_READ].count >= BATCH_KICK) {
        ring_fill(r);
        ring_enter(r, 0);
    }
}

static void
uring_kick(struct io *io)
{
    struct ring *r = ring_of(io, /* create: */ false);

    if (r == NULL || (r->sched.count == 0 && io_uring_sq_ready(&r->u) == 0))
        return;
    io__sched_kick(&r->sched);
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
    if (r->executor) {
        for (unsigned i = 0; i < count; i++)
            io__sched_waited(&r->sched, reqs[i]);
        while (!any_done(reqs, count))
            task_park();
        return;
    }
    while (!any_done(reqs, count)) {
        ring_fill(r);
        if (ring_reap(r))
            continue;
        arm_tick(r);
        ring_enter(r, ring_wake_ns(r));
    }
}

static bool
uring_cancel(struct io *io, struct io_req *req)
{
    struct ring *r = ring_of(io, /* create: */ false);

    if (r == NULL || !io__sched_cancel(&r->sched, req))
        return false;
    io__finish_cancelled(io, &r->meter, req, clock_ns());
    return true;
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
    arm_tick(r);
    deadline_ns = min_u64(deadline_ns, ring_wake_ns(r));
    ring_enter(r, deadline_ns == 0 ? 1 : deadline_ns);
    ash_ignore(ring_reap(r) ? ASH_OK : ASH_NOT_FOUND); /* the loop polls again anyway */
}

static void
poller_destroy(struct task_poller *p)
{
    struct ring *r = list_entry(p, struct ring, poller);

    pthread_mutex_lock(&rings_lock);
    ash_assert(r->sched.in_flight == 0);
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
    .cancel = uring_cancel,
};
