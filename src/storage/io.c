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
 * from 0 to 1. Locks: io->lock (spin) covers the lists of meters and buffer chunks; meter->lock
 * (spin) one meter.  io->lock comes first.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/io_int.h"

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
        if (rc == ASH_OK || rc == ASH_NO_MEMORY || (kind == IO_BACKEND_URING && !PLANTED(320)))
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
    struct io *io = mem_zalloc(MEM_IO, sizeof(*io));
    if (io == NULL)
        return ASH_NO_MEMORY;
    io->options = *options;
    io->id = atomic_fetch_add(&io_ids, 1) + 1;
    io->fork_epoch = atomic_load(&fork_epoch);
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

/* ---- Locks, meters ---- */

void
io__lock(_Atomic uint32_t *lock)
{
    unsigned spins = 0;
    while (atomic_exchange_explicit(lock, 1, memory_order_acquire) != 0)
        task_relax(&spins);
}

void
io__unlock(_Atomic uint32_t *lock)
{
    atomic_store_explicit(lock, 0, memory_order_release);
}

void
io__meter_attach(struct io *io, struct io_meter *m)
{
    memset(m, 0, sizeof(*m));
    io__lock(&io->lock);
    m->next = io->meters;
    io->meters = m;
    io__unlock(&io->lock);
}

static void
stats_add(struct io_stats *into, const struct io_stats *from)
{
    for (unsigned c = 0; c < IO_CLASS_COUNT; c++) {
        into->requests[c] += from->requests[c];
        into->bytes[c] += from->bytes[c];
    }
    into->flushes += from->flushes;
    into->syscalls += from->syscalls;
    into->retries += from->retries;
}

void
io__meter_detach(struct io *io, struct io_meter *m)
{
    io__lock(&io->lock);
    struct io_meter **at = &io->meters;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    io__lock(&m->lock); /* an executor's ring goes on counting its sleeps */
    stats_add(&io->retired, &m->stats);
    for (unsigned c = 0; c < IO_CLASS_COUNT; c++) {
        if (m->latency[c] == NULL)
            continue;
        if (io->retired_latency[c] == NULL) {
            io->retired_latency[c] = m->latency[c];
        } else {
            hist_merge(io->retired_latency[c], m->latency[c]);
            mem_free(MEM_IO, m->latency[c]);
        }
        m->latency[c] = NULL;
    }
    io__unlock(&m->lock);
    io__unlock(&io->lock);
}

void
io__meter_syscall(struct io_meter *m)
{
    io__lock(&m->lock);
    m->stats.syscalls++;
    io__unlock(&m->lock);
}

static void
meter_request(struct io *io, struct io_meter *m, const struct io_req *req)
{
    struct hist *fresh = NULL;

    /* Outside the spinlock: memory may be slow to come.  Only this meter's one writer gets here, so
     * no one else makes it. */
    if (m->latency[req->class] == NULL && io->options.backend != IO_BACKEND_SIM) {
        fresh = mem_alloc(MEM_IO, sizeof(*fresh));
        if (fresh != NULL)
            hist_init(fresh);
    }
    io__lock(&m->lock);
    if (m->latency[req->class] == NULL) {
        m->latency[req->class] = fresh;
        fresh = NULL;
    }
    m->stats.requests[req->class]++;
    m->stats.bytes[req->class] += req->op == IO_OP_FLUSH ? 0 : req->bytes;
    m->stats.flushes += req->op == IO_OP_FLUSH;
    m->stats.retries += req->retries;
    if (m->latency[req->class] != NULL)
        hist_add(m->latency[req->class], req->finish_ns - req->submit_ns);
    io__unlock(&m->lock);
    mem_free(MEM_IO, fresh);
}

void
io_stats(struct io *io, struct io_stats *out)
{
    struct io_stats sum;

    io__lock(&io->lock);
    sum = io->retired;
    for (struct io_meter *m = io->meters; m != NULL; m = m->next) {
        io__lock(&m->lock);
        stats_add(&sum, &m->stats);
        io__unlock(&m->lock);
    }
    io__unlock(&io->lock);
    *out = sum;
}

void
io_latency(struct io *io, enum io_class class, struct hist *into)
{
    io__lock(&io->lock);
    if (io->retired_latency[class] != NULL)
        hist_merge(into, io->retired_latency[class]);
    for (struct io_meter *m = io->meters; m != NULL; m = m->next) {
        io__lock(&m->lock);
        if (m->latency[class] != NULL)
            hist_merge(into, m->latency[class]);
        io__unlock(&m->lock);
    }
    io__unlock(&io->lock);
}

/* ---- Queues by class ---- */

void
io__queue_push(struct io_queue *q, struct io_req *req)
{
    req->next = NULL;
    if (q->class[req->class].tail == NULL)
        q->class[req->class].head = req;
    else
        q->class[req->class].tail->next = req;
    q->class[req->class].tail = req;
    q->count++;
}

void
io__queue_push_front(struct io_queue *q, struct io_req *req)
{
    req->next = q->class[req->class].head;
    q->class[req->class].head = req;
    if (q->class[req->class].tail == NULL)
        q->class[req->class].tail = req;
    q->count++;
}

static struct io_req *
queue_take(struct io_queue *q, unsigned class)
{
    struct io_req *req = q->class[class].head;
    q->class[class].head = req->next;
    if (req->next == NULL)
        q->class[class].tail = NULL;
    req->next = NULL;
    q->count--;
    return req;
}

struct io_req *
io__queue_pop(struct io_queue *q, bool background, uint64_t now_ns)
{
    unsigned oldest = 0;
    uint64_t oldest_ns = now_ns < IO_AGE_NS ? 0 : now_ns - IO_AGE_NS;

    if (q->count == 0)
        return NULL;
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++) {
        if (q->class[c].head != NULL && q->class[c].head->submit_ns < oldest_ns) {
            oldest = c;
            oldest_ns = q->class[c].head->submit_ns;
        }
    }
    if (oldest != 0 && !PLANTED(20))
        return queue_take(q, oldest);
    unsigned end = background ? IO_CLASS_COUNT : IO_CLASS_PAGE_WRITER;
    for (unsigned c = 1; c < end; c++) {
        if (q->class[c].head != NULL)
            return queue_take(q, c);
    }
    return NULL;
}

bool
io__queue_remove(struct io_queue *q, struct io_req *req)
{
    struct io_req *before = NULL;

    for (struct io_req *at = q->class[req->class].head; at != NULL; before = at, at = at->next) {
        if (at != req)
            continue;
        if (before == NULL)
            q->class[req->class].head = at->next;
        else
            before->next = at->next;
        if (q->class[req->class].tail == at)
            q->class[req->class].tail = before;
        q->count--;
        return true;
    }
    return false;
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

bool
io__begin(struct io *io, struct io_req *req, struct task *owner, uint64_t now_ns, bool quiet)
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
    req->next = NULL;
    req->backend = NULL;
    req->quiet = quiet;
    req->crc = 0;
    if (ASH_UNLIKELY(io__forked(io)))
        req->rc = ASH_MISUSE;
    else if (req->op == IO_OP_READ)
        return true;
    else if (ASH_UNLIKELY(io_poisoned(io)) && !PLANTED(21))
        req->rc = ASH_POISONED;
    else if (ASH_UNLIKELY((req->file->flags & IO_READ_ONLY) != 0))
        req->rc = ASH_READ_ONLY;
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

uint64_t
io__segment(struct io_req *req, const struct iovec **iov_out, unsigned *count_out,
            uint32_t *bytes_out)
{
    struct iovec *local = &req->iov_local[0];
    uint32_t skip = PLANTED(27) ? 0 : req->progress, i = 0;

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
    meter_request(io, meter, req);
    atomic_store_explicit(&req->done, true, memory_order_release);
}

/* ---- Submitting and waiting ---- */

#define SUBMIT_BATCH 64u

void
io__submit(struct io_req **reqs, unsigned count, bool quiet)
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
        if (io__begin(io, reqs[i], owner, now_ns, quiet))
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
    io__submit(reqs, count, /* quiet: */ false);
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
        if (io__begin(io, req, task_self(), clock_ns(), /* quiet: */ false) &&
            !io->backend->run(io, req))
            io->backend->submit(io, &req, 1);
    } else {
        io_submit(&req, 1);
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

/* ---- Directories and files ---- */

static ash_rc
check_name(const char *name)
{
    if (name[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0 || strlen(name) > 255)
        return ash_raise(ASH_INVALID, "The name \"%s\" is not a plain file name.", name);
    return ASH_OK;
}

ash_rc
io_dir_open(struct io *io, const char *path, unsigned flags, struct io_dir **out)
{
    ash_rc rc = ASH_OK;

    if (io__forked(io))
        return io__may_write(io);
    if ((flags & IO_CREATE) != 0)
        rc = io_check(io);
    if (rc != ASH_OK)
        return rc;
    struct io_dir *d = mem_zalloc(MEM_IO, sizeof(*d));
    if (d == NULL)
        return ASH_NO_MEMORY;
    d->io = io;
    d->fd = -1;
    d->path = mem_strdup(MEM_IO, path);
    rc = d->path == NULL ? ASH_NO_MEMORY : io->fs->dir_open(io, path, flags, d);
    if (rc != ASH_OK) {
        mem_free(MEM_IO, d->path);
        mem_free(MEM_IO, d);
        return rc;
    }
    io__lock(&io->lock);
    io->open_dirs++;
    io__unlock(&io->lock);
    *out = d;
    return ASH_OK;
}

void
io_dir_close(struct io_dir *d)
{
    if (d == NULL)
        return;
    struct io *io = d->io;
    io->fs->dir_close(d);
    mem_free(MEM_IO, d->path);
    mem_free(MEM_IO, d);
    io__lock(&io->lock);
    io->open_dirs--;
    io__unlock(&io->lock);
}

const char *
io_dir_path(const struct io_dir *d)
{
    return d->path;
}

static int
name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

ash_rc
io_dir_list(struct io_dir *d, bool (*fn)(void *arg, const char *name), void *arg)
{
    char **names = NULL;
    size_t count = 0;
    bool more = true;

    ash_rc rc = d->io->fs->dir_names(d, &names, &count);
    if (rc != ASH_OK)
        return rc;
    if (count > 0)
        qsort(names, count, sizeof(*names), name_order);
    for (size_t i = 0; i < count; i++) {
        if (more)
            more = fn(arg, names[i]);
        mem_free(MEM_IO, names[i]);
    }
    mem_free(MEM_IO, names);
    return ASH_OK;
}

ash_rc
io_dir_rename(struct io_dir *d, const char *from, const char *to)
{
    ash_rc rc = io__may_write(d->io);
    if (rc == ASH_OK)
        rc = check_name(from);
    if (rc == ASH_OK)
        rc = check_name(to);
    return rc == ASH_OK ? d->io->fs->dir_rename(d, from, to) : rc;
}

ash_rc
io_dir_unlink(struct io_dir *d, const char *name)
{
    ash_rc rc = io__may_write(d->io);
    if (rc == ASH_OK)
        rc = check_name(name);
    return rc == ASH_OK ? d->io->fs->dir_unlink(d, name) : rc;
}

ash_rc
io_dir_sync(struct io_dir *d)
{
    ash_rc rc = io__may_write(d->io);
    return rc == ASH_OK ? d->io->fs->dir_sync(d) : rc;
}

static struct io_file *
file_alloc(struct io_dir *d, const char *name, unsigned flags)
{
    struct io_file *f = mem_zalloc(MEM_IO, sizeof(*f));
    if (f == NULL)
        return NULL;
    f->io = d->io;
    f->flags = flags;
    f->fd = -1;
    f->align = IO_ALIGN;
    f->device_class = IO_DEVICE_VOLATILE;
    f->id = atomic_fetch_add(&d->io->file_ids, 1) + 1;
    size_t dir_size = strlen(d->path), name_size = strlen(name);
    f->path = mem_alloc(MEM_IO, dir_size + name_size + 2);
    if (f->path == NULL) {
        mem_free(MEM_IO, f);
        return NULL;
    }
    memcpy(f->path, d->path, dir_size);
    f->path[dir_size] = '/';
    memcpy(f->path + dir_size + 1, name, name_size + 1);
    f->name = f->path + dir_size + 1;
    return f;
}

ash_rc
io_file_open(struct io_dir *d, const char *name, unsigned flags, struct io_file **out)
{
    struct io *io = d->io;
    ash_rc rc = check_name(name);

    if (rc == ASH_OK && io__forked(io))
        rc = io__may_write(io);
    if (rc == ASH_OK && (flags & IO_CREATE) != 0)
        rc = io_check(io);
    if (rc == ASH_OK && (flags & IO_CREATE) != 0 && (flags & IO_READ_ONLY) != 0)
        rc = ash_raise_obj(ASH_INVALID, name, "The file %s cannot be created read-only.", name);
    if (rc != ASH_OK)
        return rc;
    struct io_file *f = file_alloc(d, name, flags);
    if (f == NULL)
        return ASH_NO_MEMORY;
    rc = io->fs->file_open(d, flags, f);
    if (rc != ASH_OK) {
        mem_free(MEM_IO, f->path);
        mem_free(MEM_IO, f);
        return rc;
    }
    ash_assert(f->align % IO_ALIGN == 0);
    io__lock(&io->lock);
    io->open_files++;
    io__unlock(&io->lock);
    *out = f;
    return ASH_OK;
}

void
io_file_close(struct io_file *f)
{
    if (f == NULL)
        return;
    struct io *io = f->io;
    io->fs->file_close(f);
    atomic_fetch_add_explicit(&io->close_version, 1, memory_order_release);
    mem_free(MEM_IO, f->path);
    mem_free(MEM_IO, f);
    io__lock(&io->lock);
    io->open_files--;
    io__unlock(&io->lock);
}

const char *
io_file_name(const struct io_file *f)
{
    return f->name;
}
struct io *
io_file_io(const struct io_file *f)
{
    return f->io;
}
uint32_t
io_file_align(const struct io_file *f)
{
    return f->align;
}
enum io_device_class
io_file_device_class(const struct io_file *f)
{
    return io__test_hooks.write_through ? IO_DEVICE_WRITE_THROUGH : f->device_class;
}

ash_rc
io_file_size(struct io_file *f, uint64_t *bytes_out)
{
    return f->io->fs->file_size(f, bytes_out);
}

static ash_rc
may_change(struct io_file *f)
{
    ash_rc rc = io__may_write(f->io);
    if (rc == ASH_OK && (f->flags & IO_READ_ONLY) != 0)
        rc = ash_raise_obj(ASH_READ_ONLY, f->path, "The file %s was opened read-only.", f->path);
    return rc;
}

ash_rc
io_file_allocate(struct io_file *f, uint64_t bytes, bool zero)
{
    ash_rc rc = may_change(f);
    ash_assert(bytes % f->align == 0);
    return rc == ASH_OK ? f->io->fs->file_allocate(f, bytes, zero) : rc;
}

ash_rc
io_file_truncate(struct io_file *f, uint64_t bytes)
{
    ash_rc rc = may_change(f);
    ash_assert(bytes % f->align == 0);
    return rc == ASH_OK ? f->io->fs->file_truncate(f, bytes) : rc;
}

ash_rc
io_file_punch(struct io_file *f, uint64_t offset, uint64_t bytes)
{
    ash_rc rc = may_change(f);
    ash_assert(offset % f->align == 0);
    ash_assert(bytes % f->align == 0);
    return rc == ASH_OK ? f->io->fs->file_punch(f, offset, bytes) : rc;
}
