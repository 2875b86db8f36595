/* SPDX-License-Identifier: Apache-2.0
 *
 * io.c - the disk manager's common part: life of a request, poison, priorities, counters.
 *
 * Entry points: io_create(), io_submit(), io_wait(), io_read(), io_write(), io_flush(), io_check().
 * Read first: io.h (rules R1..R8), io_int.h.
 *
 * Invariants:
 *   I1  A request is finished exactly once, by io__finish(); nobody but its owner touches it
 *       afterwards.
 *   I2  A failed write or flush has poisoned the disk manager before its `done` is visible: whoever
 *       learns of a later success cannot have overtaken the failure.
 *   I3  poison_state goes 0 -> 1 -> 2 and never back; `poison` is written by the one who moved it
 *       from 0 to 1.
 *
 * Locks: io->lock (spin) covers the list of buffer chunks and the counts of open files.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/io_volume.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct io_test_hooks io__test_hooks;

static _Atomic uint64_t io_ids;
static _Atomic uint32_t fork_epoch; /* counts forks seen by this process as the child */
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void
fork_in_child(void)
{
    atomic_fetch_add_explicit(&fork_epoch, 1, memory_order_relaxed);
}

static void
fork_watch(void)
{
    ash_assert(pthread_atfork(NULL, NULL, fork_in_child) == 0);
}

bool
io__forked(const struct io *io)
{
    return io->fork_epoch != atomic_load_explicit(&fork_epoch, memory_order_relaxed);
}

/* ---- Creation ---- */

static ash_rc
io_start_backend(struct io *io)
{
    enum io_backend_kind kind = io->options.backend;

    if (kind == IO_BACKEND_SIM) {
        io->backend = &io__sim;
        io->fs = &io__sim_fs;
        return io->backend->start(io);
    }
    io->fs = &io__posix;
    if (kind != IO_BACKEND_THREADS) {
        io->backend = &io__uring;
        ash_rc rc = io->backend->start(io);
        if (rc == ASH_OK || rc == ASH_NO_MEMORY || (kind != IO_BACKEND_AUTO && !PLANTED(320)))
            return rc; /* who names a backend gets that one or is told why not */
        log_write(LOG_WARN, "I/O goes through a thread pool instead of io_uring: %s",
                  err_current()->message);
    }
    io->backend = &io__threads;
    return io->backend->start(io);
}

ash_rc
io_create(const struct io_options *options, struct io **out)
{
    pthread_once(&fork_once, fork_watch);
    if (options->backend == IO_BACKEND_SIM && (options->disk == NULL || options->rt == NULL))
        return ash_raise(ASH_INVALID,
                         "The simulated backend needs a simulated disk and a runtime.");
    struct io *io = mem_aligned(MEM_IO, ASH_CACHE_LINE, sizeof(*io));
    if (io == NULL)
        return ASH_NO_MEMORY;
    memset(io, 0, sizeof(*io));
    io->options = *options;
    io->id = atomic_fetch_add(&io_ids, 1) + 1;
    io->fork_epoch = atomic_load(&fork_epoch);
    io__credit_init(io);
    ash_rc rc = io_start_backend(io);
    if (rc != ASH_OK) {
        mem_free(MEM_IO, io);
        return rc;
    }
    *out = io;
    return ASH_OK;
}

void
io_destroy(struct io *io)
{
    if (io == NULL)
        return;
    ash_assert(io->open_files == 0);
    ash_assert(io->open_dirs == 0);
    if (!io__forked(io)) {
        io->backend->stop(io);
        ash_assert(io->meters == NULL);
    }
    for (unsigned c = 0; c < IO_CLASS_COUNT; c++)
        mem_free(MEM_IO, io->retired_latency[c]);
    mem_free(MEM_IO, io);
}

enum io_backend_kind
io_backend(const struct io *io)
{
    return io->backend->kind;
}

/* ---- Poison (R3) ---- */

void
io__poison_with(struct io *io, ash_rc rc, int sys_errno, const char *object, const char *format,
                ...)
{
    uint32_t clean = 0;
    if (!atomic_compare_exchange_strong(&io->poison_state, &clean, 1))
        return;
    io->poison.code = rc;
    io->poison.sys_errno = sys_errno;
    snprintf(io->poison.object, sizeof(io->poison.object), "%s", object == NULL ? "" : object);
    va_list args;
    va_start(args, format);
    vsnprintf(io->poison.message, sizeof(io->poison.message), format, args);
    va_end(args);
    atomic_store(&io->poison_state, 2);
    log_write(LOG_ERROR, "%s Nothing more will be written through this handle.",
              io->poison.message);
}

void
io_poison(struct io *io, ash_rc rc)
{
    struct err_detail detail;

    ash_assert(rc != ASH_OK);
    err_save(&detail);
    if (detail.code == rc)
        io__poison_with(io, rc, detail.sys_errno, detail.object, "%s", detail.message);
    else
        io__poison_with(io, rc, 0, NULL, "A change could not be made durable (%s).",
                        ash_rc_name(rc));
}

bool
io_poisoned(const struct io *io)
{
    return atomic_load_explicit(&io->poison_state, memory_order_acquire) != 0;
}

ash_rc
io_check(const struct io *io)
{
    uint32_t state = atomic_load_explicit(&io->poison_state, memory_order_acquire);

    if (ASH_LIKELY(state == 0))
        return ASH_OK;
    if (state == 1)
        return ash_raise(ASH_POISONED, "A write has just failed; reopen the database.");
    return ash_raise_sys(
        ASH_POISONED, io->poison.sys_errno, io->poison.object,
        "An earlier write failed, so this handle is read-only until the database is reopened: %s",
        io->poison.message);
}

ash_rc
io__may_write(const struct io *io)
{
    if (io__forked(io))
        return ash_raise(ASH_MISUSE,
                         "The database was opened before fork(); only the parent may use it.");
    return io_check(io);
}

/* ---- Life of a request ---- */

uint32_t
io__data_crc(const struct io_req *req)
{
    if (req->iov_count == 0)
        return crc32c(0, req->buf, req->bytes);
    uint32_t crc = 0;
    for (uint32_t i = 0; i < req->iov_count; i++)
        crc = crc32c(crc, req->iov[i].iov_base, req->iov[i].iov_len);
    return crc;
}

/* R4: misaligned requests are bugs of the caller, and devices and file systems differ in which of
 * them they refuse. */
static void
assert_request(const struct io_req *req)
{
    const uint32_t align = req->file->align;
    uint64_t total = 0;

    ash_assert(req->op >= IO_OP_READ && req->op <= IO_OP_FLUSH);
    ash_assert(req->class >= IO_CLASS_WAL && req->class < IO_CLASS_COUNT);
    if (req->op == IO_OP_FLUSH)
        return;
    ash_assert(req->bytes > 0 && req->bytes <= IO_TRANSFER_MAX);
    ash_assert(req->bytes % align == 0);
    ash_assert(req->offset % align == 0);
    ash_assert(req->offset <= (uint64_t)INT64_MAX - IO_TRANSFER_MAX);
    if (req->iov_count == 0) {
        ash_assert((uintptr_t)req->buf % align == 0);
        return;
    }
    ash_assert(req->iov_count <= IO_IOV_MAX);
    for (uint32_t i = 0; i < req->iov_count; i++) {
        ash_assert((uintptr_t)req->iov[i].iov_base % align == 0);
        ash_assert(req->iov[i].iov_len > 0 && req->iov[i].iov_len % align == 0);
        total += req->iov[i].iov_len;
    }
    ash_assert(total == req->bytes);
}

/* A file on a raw device ends where its table says: the device itself goes on. */
static ash_rc
fit_volume(struct io_req *req)
{
    uint64_t end = req->offset + req->bytes;

    if ((req->file->flags & IO_DSYNC) != 0 && req->op == IO_OP_WRITE)
        req->dsync = true; /* the device is open without O_DSYNC: other files are in it */
    if (end <= io__volume_size(req->file))
        return ASH_OK;
    if (req->op == IO_OP_READ)
        return ASH_CORRUPT;
    ash_rc rc = io_file_allocate(req->file, end, /* zero= */ false);
    req->sys_errno = err_current()->sys_errno;
    if (rc == ASH_NO_SPACE)
        req->sys_errno = ENOSPC;
    return rc;
}

bool
io__begin(struct io *io, struct io_req *req, struct task *owner, uint64_t now_ns, enum io_begin how)
{
    assert_request(req);
    ash_assert(req->file->io == io);
    atomic_store_explicit(&req->done, false, memory_order_relaxed);
    req->rc = ASH_OK;
    req->sys_errno = 0;
    req->submit_ns = now_ns;
    req->finish_ns = 0;
    req->owner = owner;
    req->progress = 0;
    req->slot = 0;
    req->retries = 0;
    req->state = IO_REQ_OVER;
    req->sent = 0;
    req->waited = how == IO_BEGIN_WAITED;
    req->alone = false;
    req->quiet = how == IO_BEGIN_QUIET;
    req->told = false;
    req->indexed = false;
    req->batch = NULL;
    req->backend = NULL;
    req->crc = 0;
    if (ASH_UNLIKELY(io__forked(io)))
        req->rc = ASH_MISUSE;
    else if (req->op == IO_OP_READ && req->file->volume == NULL)
        return true;
    else if (req->op == IO_OP_READ)
        req->rc = fit_volume(req);
    else if (ASH_UNLIKELY(io_poisoned(io)) && !PLANTED(21))
        req->rc = ASH_POISONED;
    else if (ASH_UNLIKELY((req->file->flags & IO_READ_ONLY) != 0))
        req->rc = ASH_READ_ONLY;
    if (req->rc == ASH_OK && req->file->volume != NULL && req->op == IO_OP_WRITE)
        req->rc = fit_volume(req);
    if (req->rc != ASH_OK) {
        req->finish_ns = now_ns;
        atomic_store_explicit(&req->done, true, memory_order_release);
        return false;
    }
#ifdef ASH_DEBUG
    if (req->op == IO_OP_WRITE)
        req->crc = io__data_crc(req);
#endif
    return true;
}

/* Where the segment at `offset` of the file lies on the raw device, cut where its extent ends and
 * to what one command may transfer: the rest is another segment. */
static uint64_t
segment_in_volume(struct io_req *req, uint64_t offset, const struct iovec **iov, unsigned *count,
                  uint32_t *bytes)
{
    const struct io_nvme *nvme = req->file->nvme;
    uint32_t most = *bytes, sum = 0;
    unsigned n = 0;

    if (nvme != NULL && most > nvme->transfer_max)
        most = nvme->transfer_max;
    uint64_t at = io__volume_at(req->file, offset, &most);
    if (most == *bytes)
        return at;
    while (n < *count && sum + (*iov)[n].iov_len <= most)
        sum += (uint32_t)(*iov)[n++].iov_len;
    if (n == 0) { /* part of one entry */
        req->iov_local[0] = (struct iovec){ (*iov)[0].iov_base, most };
        *iov = &req->iov_local[0];
        sum = most;
        n = 1;
    }
    *count = n;
    *bytes = sum;
    return at;
}

/* Without what a volume adds. */
static uint64_t
segment_in_file(struct io_req *req, const struct iovec **iov_out, unsigned *count_out,
                uint32_t *bytes_out)
{
    struct iovec *local = &req->iov_local[0];
    uint32_t skip = PLANTED(27) ? 0 : req->progress, i = 0;

    if (req->batch != NULL) {
        const struct io_batch *b = req->batch;
        *iov_out = b->iov;
        *count_out = b->iov_count;
        *bytes_out = (uint32_t)(b->end - b->offset);
        if (io__test_hooks.short_bytes != 0 && io__test_hooks.short_bytes < *bytes_out) {
            *local = b->iov[0];
            local->iov_len = min_u64(local->iov_len, io__test_hooks.short_bytes);
            *iov_out = local;
            *count_out = 1;
            *bytes_out = (uint32_t)local->iov_len;
        }
        return b->offset;
    }
    if (req->iov_count == 0) {
        local->iov_base = (char *)req->buf + skip;
        local->iov_len = req->bytes - skip;
    } else {
        while (skip >= req->iov[i].iov_len)
            skip -= (uint32_t)req->iov[i++].iov_len;
        if (skip == 0 && io__test_hooks.short_bytes == 0) {
            *iov_out = &req->iov[i];
            *count_out = req->iov_count - i;
            *bytes_out = req->bytes - req->progress;
            return req->offset + req->progress;
        }
        local->iov_base = (char *)req->iov[i].iov_base + skip;
        local->iov_len = req->iov[i].iov_len - skip;
    }
    if (io__test_hooks.short_bytes != 0 && local->iov_len > io__test_hooks.short_bytes)
        local->iov_len = io__test_hooks.short_bytes;
    *iov_out = local;
    *count_out = 1;
    *bytes_out = (uint32_t)local->iov_len;
    return req->offset + req->progress;
}

void
io__fail(struct io_req *req, ash_rc rc, int sys_errno)
{
    ash_assert(rc != ASH_OK);
    req->rc = rc;
    req->sys_errno = sys_errno;
}

uint64_t
io__segment(struct io_req *req, const struct iovec **iov_out, unsigned *count_out,
            uint32_t *bytes_out)
{
    uint64_t offset = segment_in_file(req, iov_out, count_out, bytes_out);

    if (req->file->volume == NULL)
        return offset;
    return segment_in_volume(req, offset, iov_out, count_out, bytes_out);
}

bool
io__transferred(struct io_req *req, int64_t result)
{
    if (result < 0) {
        int err = (int)-result;
        if ((err == EAGAIN || err == EINTR) && req->op != IO_OP_FLUSH &&
            req->retries < IO_RETRY_MAX) {
            req->retries++;
            return false;
        }
        io__fail(req, err_from_errno(err), err);
        return true;
    }
    if (req->op == IO_OP_FLUSH)
        return true;
    ash_assert(result <= (int64_t)(req->bytes - req->progress));
    if (req->progress + (uint32_t)result == req->bytes) {
        req->progress = req->bytes;
        return true;
    }
    if (PLANTED(22))
        return true; /* a short transfer taken for a whole one */
    uint32_t whole = (uint32_t)round_down((uint64_t)result, req->file->align);
    req->progress += whole;
    req->retries++;
    if (whole > 0)
        return false; /* bounded: progress */
    /* Nothing at all at the end of a file: asking again would not help a read.  A short tail is
     * asked for again. */
    if (req->retries <= IO_RETRY_MAX && !(req->op == IO_OP_READ && result == 0))
        return false;
    io__fail(req, req->op == IO_OP_READ ? ASH_CORRUPT : ASH_IO, 0);
    return true;
}

static const char *const op_names[] = { "?", "read", "write", "flush" };

static ash_rc
raise_transfer(const struct io_req *req)
{
    const char *path = req->file->path;
    uint64_t end = req->offset + req->bytes;

    if (req->rc == ASH_CORRUPT)
        return ash_raise_obj(ASH_CORRUPT, path,
                             "The file %s ends inside the %" PRIu32 " bytes at offset %" PRIu64
                             " that were to be read; it was cut.",
                             path, req->bytes, req->offset);
    if (req->rc == ASH_NO_SPACE)
        return ash_raise_sys(ASH_NO_SPACE, req->sys_errno, path,
                             "Writing bytes %" PRIu64 "..%" PRIu64
                             " of %s failed for lack of space: %s; free some and reopen.",
                             req->offset, end, path, strerror(req->sys_errno));
    return ash_raise_sys(req->rc, req->sys_errno, path,
                         "The %s of bytes %" PRIu64 "..%" PRIu64
                         " of %s failed: %s (errno %d); check the device and file system.",
                         op_names[req->op], req->offset, end, path,
                         req->sys_errno == 0 ? "the transfer made no progress"
                                             : strerror(req->sys_errno),
                         req->sys_errno);
}

ash_rc
io__raise(const struct io_req *req)
{
    switch (req->rc) {
    case ASH_OK: return ASH_OK;
    case ASH_POISONED: return io_check(req->file->io);
    case ASH_MISUSE:
        return ash_raise(ASH_MISUSE,
                         "The database was opened before fork(); only the parent may use it.");
    case ASH_CANCELLED:
        if (req->sys_errno == 0)
            return ash_raise_obj(ASH_CANCELLED, req->file->path,
                                 "A request to %s was taken back before it began.",
                                 req->file->path);
        break;
    case ASH_READ_ONLY:
        if (req->sys_errno == 0)
            return ash_raise_obj(ASH_READ_ONLY, req->file->path,
                                 "The file %s was opened read-only.", req->file->path);
        break;
    default: break;
    }
    if (req->op == IO_OP_FLUSH)
        return ash_raise_sys(
            req->rc, req->sys_errno, req->file->path,
            "The flush of %s failed: %s (errno %d); what was written since the last flush may be lost.",
            req->file->path, strerror(req->sys_errno), req->sys_errno);
    return raise_transfer(req);
}

/* R3.  The sentence is made in the finisher's slot, which may belong to another task: put its own
 * back. */
static void
poison_by(struct io *io, struct io_req *req)
{
    struct err_detail saved, detail;

    if (req->quiet && req->rc == ASH_NO_SPACE)
        return;
    err_save(&saved);
    ash_ignore(io__raise(req)); /* made only for its sentence */
    err_save(&detail);
    err_restore(&saved);
    io__poison_with(io, detail.code, detail.sys_errno, detail.object, "%s", detail.message);
}

void
io__finish(struct io *io, struct io_meter *meter, struct io_req *req, uint64_t now_ns)
{
    ash_assert(!atomic_load_explicit(&req->done, memory_order_relaxed));
    req->finish_ns = now_ns;
#ifdef ASH_DEBUG
    if (req->op == IO_OP_WRITE)
        ash_assert(req->crc == io__data_crc(req)); /* R1: the buffer was left alone */
#endif
    if (ASH_UNLIKELY(req->rc != ASH_OK) && req->op != IO_OP_READ && !PLANTED(23))
        poison_by(io, req);
    io__meter_request(io, meter, req);
    atomic_store_explicit(&req->done, true, memory_order_release);
}

void
io__finish_cancelled(struct io *io, struct io_meter *meter, struct io_req *req, uint64_t now_ns)
{
    ash_assert(req->state == IO_REQ_OVER && req->progress == 0);
    (void)io;
    io__fail(req, ASH_CANCELLED, 0);
    req->finish_ns = now_ns;
    io__meter_add(meter, &meter->stats.cancelled, 1);
    atomic_store_explicit(&req->done, true, memory_order_release);
}

/* ---- Submitting and waiting ---- */

#define SUBMIT_BATCH 256u /* the scheduler sees so many of one call together */

void
io__submit(struct io_req **reqs, unsigned count, enum io_begin how)
{
    struct io_req *batch[SUBMIT_BATCH];
    struct io *io;
    unsigned n = 0;

    if (count == 0)
        return;
    io = reqs[0]->file->io;
    struct task *owner = task_self();
    uint64_t now_ns = clock_ns();
    for (unsigned i = 0; i < count; i++) {
        if (io__begin(io, reqs[i], owner, now_ns, how))
            batch[n++] = reqs[i];
        if (n == SUBMIT_BATCH) {
            io->backend->submit(io, batch, n);
            n = 0;
        }
    }
    if (n > 0)
        io->backend->submit(io, batch, n);
}

void
io_submit(struct io_req **reqs, unsigned count)
{
    io__submit(reqs, count, IO_BEGIN_PLAIN);
}

bool
io_cancel(struct io_req *req)
{
    struct io *io = req->file->io;

    if (io__forked(io) || atomic_load_explicit(&req->done, memory_order_acquire))
        return false;
    return io->backend->cancel(io, req);
}

void
io_kick(struct io *io)
{
    if (!io__forked(io))
        io->backend->kick(io);
}

void
io_wait_any(struct io_req **reqs, unsigned count)
{
    ash_assert(count > 0);
    for (unsigned i = 0; i < count; i++) {
        if (atomic_load_explicit(&reqs[i]->done, memory_order_acquire))
            return;
    }
    struct io *io = reqs[0]->file->io;
    ash_assert(!io__forked(io));
    io->backend->wait(io, reqs, count);
}

ash_rc
io_wait(struct io_req *req)
{
    struct io *io = req->file->io;

    /* Always through the backend, even when done: the finisher may still be inside (see
     * io_threads.c). */
    if (!atomic_load_explicit(&req->done, memory_order_acquire) ||
        io->backend->kind == IO_BACKEND_THREADS) {
        if (!io__forked(io))
            io->backend->wait(io, &req, 1);
    }
    ash_assert(atomic_load_explicit(&req->done, memory_order_acquire));
    return req->rc == ASH_OK ? ASH_OK : io__raise(req);
}

static ash_rc
run_one(struct io_req *req)
{
    struct io *io = req->file->io;

    if (io->backend->run != NULL && !task_is_fiber()) {
        if (io__begin(io, req, task_self(), clock_ns(), IO_BEGIN_WAITED) &&
            !io->backend->run(io, req))
            io->backend->submit(io, &req, 1);
    } else {
        io__submit(&req, 1, IO_BEGIN_WAITED);
    }
    return io_wait(req);
}

ash_rc
io_read(struct io_file *f, void *buf, uint32_t bytes, uint64_t offset, enum io_class class)
{
    struct io_req req = {
        .file = f, .op = IO_OP_READ, .class = class, .offset = offset, .buf = buf, .bytes = bytes
    };
    return run_one(&req);
}

ash_rc
io_write(struct io_file *f, const void *buf, uint32_t bytes, uint64_t offset, enum io_class class)
{
    struct io_req req = {
        .file = f, .op = IO_OP_WRITE, .class = class, .offset = offset, .bytes = bytes
    };
    memcpy(&req.buf, &buf, sizeof(buf)); /* a write only reads it: drops const without a cast */
    return run_one(&req);
}

ash_rc
io_flush(struct io_file *f, enum io_class class)
{
    struct io_req req = { .file = f, .op = IO_OP_FLUSH, .class = class };
    return run_one(&req);
}

/* ---- Registered buffers: the list; each ring follows it on its own thread ---- */

void
io_register_buffer(struct io *io, void *base, size_t bytes)
{
    bool full = false;

    io__lock(&io->lock);
    uint64_t range = io->chunk_ids + 1;
    for (size_t at = 0; at < bytes; at += IO_BUFFER_CHUNK) {
        unsigned i = 0;
        while (i < IO_BUFFERS_MAX && io->chunk[i].base != NULL)
            i++;
        if (i == IO_BUFFERS_MAX) {
            full = true;
            break;
        }
        io->chunk[i].base = (char *)base + at;
        io->chunk[i].bytes = min_u64(bytes - at, IO_BUFFER_CHUNK);
        io->chunk[i].id = ++io->chunk_ids;
        io->chunk[i].range = range;
    }
    atomic_fetch_add_explicit(&io->chunk_version, 1, memory_order_release);
    io__unlock(&io->lock);
    if (full)
        log_write(LOG_INFO,
                  "More than %u GiB of buffers: the rest is not registered with io_uring.",
                  IO_BUFFERS_MAX);
}

void
io_unregister_buffer(struct io *io, void *base)
{
    uint64_t range = 0;

    io__lock(&io->lock);
    for (unsigned i = 0; i < IO_BUFFERS_MAX; i++)
        if (io->chunk[i].base == base && base != NULL)
            range = io->chunk[i].range;
    /* The next range may begin where this one ends: the address alone does not tell them apart. */
    for (unsigned i = 0; i < IO_BUFFERS_MAX; i++)
        if (io->chunk[i].base != NULL && io->chunk[i].range == range)
            io->chunk[i] = (struct io_chunk){ .base = NULL };
    atomic_fetch_add_explicit(&io->chunk_version, 1, memory_order_release);
    io__unlock(&io->lock);
}
