/* SPDX-License-Identifier: Apache-2.0
 *
 * io_uring_table.c - registered files and buffers, followed by each ring on its own thread.
 */
#include "base/log.h"
#include "storage/io_uring_int.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef IORING_REGISTER_CLONE_BUFFERS
    #define IORING_REGISTER_CLONE_BUFFERS 30
#endif

void
io__ring_drop_closed_files(struct ring *r, struct io *io)
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
int
io__ring_file_index(struct ring *r, const struct io_file *f)
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
void
io__ring_follow_buffers(struct ring *r, struct io *io)
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
