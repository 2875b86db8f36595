/* SPDX-License-Identifier: Apache-2.0
 *
 * io_uring_pin.c - buffers are registered once, in a master ring, by a thread of their own; the
 * rings clone its table.
 *
 * Registering memory zeroes and pins every page of it: about a second of CPU per GiB that was never
 * touched.  A log writer or a client that did this on its way would stall everybody behind it, so
 * nobody waits for it: until memory is in the table, its requests go without.
 *
 * Invariants:
 *   I1  A ring uses an entry of its table only while io->chunk shows the same id there: memory that
 *       was unregistered and given back is never written to through an old pin.
 *   I2  master_version tells which io->chunk_version the master's table shows; both change under
 *       master_lock only.
 * Locks: master_lock (mutex), held while pinning; rings only try it.  io->lock is taken under it.
 */
#include "base/log.h"
#include "storage/io_uring_int.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef IORING_REGISTER_CLONE_BUFFERS
    #define IORING_REGISTER_CLONE_BUFFERS 30
#endif
#define PIN_STACK_BYTES (256u << 10)

/* Makes the table of `u` equal to now[].  A chunk's id decides: the same address may hold other
 * memory by now. */
static int
update_table(struct io_uring *u, struct io_chunk *have, const struct io_chunk *now, bool *on)
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

static uint32_t
snapshot(struct io *io, struct io_chunk *now)
{
    io__lock(&io->lock);
    memcpy(now, io->chunk, sizeof(io->chunk));
    uint32_t version = atomic_load_explicit(&io->chunk_version, memory_order_relaxed);
    io__unlock(&io->lock);
    return version;
}

/* ---- The thread ---- */

static int
master_follow_locked(struct io *io, struct uring_state *s)
{
    struct io_chunk now[IO_BUFFERS_MAX];
    uint32_t version = snapshot(io, now);
    int err = 0;

    if (!s->master_on) {
        err = io_uring_queue_init(1, &s->master, 0);
        s->master_on = err == 0;
    }
    if (err == 0)
        err = update_table(&s->master, s->master_chunk, now, &s->master_table);
    if (err == 0)
        s->master_version = version;
    return err;
}

static void *
pin_main(void *arg)
{
    struct io *io = arg;
    struct uring_state *s = io->state;

    pthread_mutex_lock(&s->master_lock);
    while (!s->pin_stop && s->pin_error == 0) {
        if (s->master_version == atomic_load_explicit(&io->chunk_version, memory_order_acquire))
            pthread_cond_wait(&s->pin_wake, &s->master_lock);
        else
            s->pin_error = -master_follow_locked(io, s);
    }
    pthread_mutex_unlock(&s->master_lock);
    return NULL;
}

/* Without the thread nothing is registered, which costs some CPU time and nothing else. */
static void
pin_start_locked(struct io *io, struct uring_state *s)
{
    sigset_t all, before;
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, PIN_STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    s->pin_error = pthread_create(&s->pin_thread, &attr, pin_main, io);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    s->pin_on = s->pin_error == 0;
}

void
io__pin_stop(struct uring_state *s)
{
    pthread_mutex_lock(&s->master_lock);
    s->pin_stop = true;
    pthread_cond_signal(&s->pin_wake);
    pthread_mutex_unlock(&s->master_lock);
    if (s->pin_on)
        pthread_join(s->pin_thread, NULL);
    if (s->master_on)
        io_uring_queue_exit(&s->master);
}

/* ---- Rings ---- */

static void
refuse(struct ring *r, struct io *io, int err)
{
    r->buffers_refused = true;
    r->buffers_on = false; /* what the table holds may be stale: never use it again */
    if (!atomic_exchange(&io->warned_memlock, true))
        log_write(
            LOG_INFO,
            "Buffers are not registered with io_uring (%s); raise RLIMIT_MEMLOCK to save some CPU time.",
            strerror(-err));
}

/* I1 */
static void
drop_stale(struct ring *r, const struct io_chunk *now)
{
    for (unsigned i = 0; i < IO_BUFFERS_MAX; i++) {
        if (PLANTED(28) ? r->chunk[i].base != now[i].base : r->chunk[i].id != now[i].id)
            r->chunk[i].bytes = 0;
    }
}

/* Caller holds master_lock.  Kernels before 6.12 cannot clone: -EINVAL. */
static int
clone_locked(struct ring *r, struct uring_state *s)
{
    struct {
        uint32_t src_fd, flags, src_off, dst_off, nr, pad[3];
    } arg = { .src_fd = (uint32_t)s->master.ring_fd };
    int err = r->buffers_on ? io_uring_unregister_buffers(&r->u) : 0;

    if (err == 0)
        err = (int)syscall(__NR_io_uring_register, r->u.ring_fd, IORING_REGISTER_CLONE_BUFFERS,
                           &arg, 1);
    if (err < 0)
        return -errno;
    memcpy(r->chunk, s->master_chunk, sizeof(r->chunk));
    r->buffers_on = true;
    r->table_version = s->master_version;
    return 0;
}

/* Takes the master's table if nobody is pinning at this moment. */
static int
try_clone(struct ring *r, struct io *io, struct uring_state *s)
{
    int err = 0;

    if (pthread_mutex_trylock(&s->master_lock) != 0)
        return 0; /* the next request tries again */
    if (!s->pin_on && s->pin_error == 0)
        pin_start_locked(io, s);
    if (s->pin_error != 0)
        err = -s->pin_error;
    else if (s->master_version != atomic_load_explicit(&io->chunk_version, memory_order_acquire))
        pthread_cond_signal(&s->pin_wake);
    if (err == 0 && s->master_table && s->master_version != r->table_version)
        err = clone_locked(r, s);
    if (err == -EINVAL) {
        s->no_clone = true;
        r->buffers_on = false;
        memset(r->chunk, 0, sizeof(r->chunk));
        err = 0;
    }
    pthread_mutex_unlock(&s->master_lock);
    return err;
}

void
io__ring_follow_buffers(struct ring *r, struct io *io)
{
    uint32_t version = atomic_load_explicit(&io->chunk_version, memory_order_acquire);
    struct io_chunk now[IO_BUFFERS_MAX];
    struct uring_state *s = io->state;

    if (ASH_LIKELY(version == r->table_version) || r->buffers_refused || r->requests < HOT_REQUESTS)
        return;
    int err = io__test_hooks.buffers_errno != 0 ? -io__test_hooks.buffers_errno : 0;
    if (err == 0 && !s->no_clone)
        err = try_clone(r, io, s);
    version = snapshot(io, now);
    if (err == 0 && s->no_clone) { /* the ring pins for itself */
        err = update_table(&r->u, r->chunk, now, &r->buffers_on);
        r->table_version = version;
    }
    if (err < 0)
        refuse(r, io, err);
    else
        drop_stale(r, now);
}

int
io__ring_buffer_index(const struct ring *r, const struct iovec *iov)
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
