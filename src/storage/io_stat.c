/* SPDX-License-Identifier: Apache-2.0
 *
 * io_stat.c - meters: counters and latencies of each ring, worker or simulation, and their sums.
 *
 * Entry points: io_stats(), io_latency(); io__meter_*() for the backends.
 *
 * Locks: io->lock (spin) covers the list of meters; meter->lock (spin) one meter.  io->lock comes
 * first.
 */
#include "base/mem.h"
#include "storage/io_int.h"

#include <string.h>

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
        into->ios[c] += from->ios[c];
        into->overdue[c] += from->overdue[c];
    }
    into->gap_bytes += from->gap_bytes;
    into->cancelled += from->cancelled;
    into->stuck += from->stuck;
    into->stale += from->stale;
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
io__meter_add(struct io_meter *m, uint64_t *field, uint64_t n)
{
    io__lock(&m->lock);
    *field += n;
    io__unlock(&m->lock);
}

void
io__meter_syscall(struct io_meter *m)
{
    io__meter_add(m, &m->stats.syscalls, 1);
}

void
io__meter_request(struct io *io, struct io_meter *m, const struct io_req *req)
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
    m->stats.ios[req->class] += req->sent;
    m->stats.bytes[req->class] += req->op == IO_OP_FLUSH ? 0 : req->bytes;
    m->stats.flushes += req->op == IO_OP_FLUSH;
    m->stats.retries += req->retries;
    if (m->latency[req->class] != NULL)
        hist_add(m->latency[req->class], req->finish_ns - req->submit_ns);
    io__unlock(&m->lock);
    mem_free(MEM_IO, fresh);
}

const char *io_class_name(enum io_class class)
{
    static const char *const name[IO_CLASS_COUNT] = { "",           "wal",         "read",
                                                      "write",      "page_writer", "flush",
                                                      "compaction", "read_ahead",  "scrub" };
    return name[class];
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
    sum.credit_ns = atomic_load_explicit(&io->credit.limit_ns, memory_order_relaxed);
    sum.credit_used_ns = atomic_load_explicit(&io->credit.used_ns, memory_order_relaxed);
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
