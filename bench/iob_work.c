/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_work.c - one thread of a job: keeps `iodepth` requests in flight through the disk manager.
 *
 * A turn of the loop gathers what may be issued now into free slots, submits it as one batch, waits
 * for at least one completion and takes all that are there.  The last piece of a batch is submitted
 * by the system call that waits (see io_uring.c); with iodepth_batch every batch gets its own.
 *
 * Latencies: lat runs from the moment the batch is begun, clat from when the disk manager has
 * queued it, slat is the difference.  The kernel's part of submitting is in clat, because it
 * happens in the call that waits.
 *
 * What holds an I/O back, in this order: thinktime; rates; with verify, a request in flight that
 * overlaps it.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "iob.h"

#define PIECE_FIRST 2u
#define PIECE_MAX   16u
#define NAP_NS      100000000u /* a sleeper looks that often whether it is still wanted */

struct iob_slot {
    struct io_req req;
    uint64_t issue_ns;
    struct iob_op op;
};

/* ---- Life ---- */

static uint64_t
seed_of(const struct iob_worker *w)
{
    return hash_u64(w->job->randseed + w->clone);
}

ash_rc
iob_worker_init(struct iob_worker *w)
{
    const unsigned depth = (unsigned)w->job->iodepth;
    ash_rc rc = iob_stats_init(&w->stats);

    if (rc != ASH_OK)
        return rc;
    w->slot = mem_aligned(MEM_TOOL, ASH_CACHE_LINE, depth * sizeof(*w->slot));
    w->free = mem_alloc(MEM_TOOL, depth * sizeof(*w->free));
    w->in_flight = mem_alloc(MEM_TOOL, depth * sizeof(struct io_req *));
    if (w->slot == NULL || w->free == NULL || w->in_flight == NULL)
        return ASH_NO_MEMORY;
    memset(w->slot, 0, depth * sizeof(*w->slot));
    for (unsigned i = 0; i < depth; i++) {
        w->slot[i].req.buf = w->buffers + i * w->stride;
        w->slot[i].req.user = &w->slot[i];
        w->free[w->frees++] = &w->slot[depth - 1 - i];
    }
    iob_plan_init(&w->plan, w->job, w->clone, w->files, w->length);
    for (unsigned f = 0; f < w->files && rc == ASH_OK && iob_verifies(w->job); f++)
        rc = iob_written_init(&w->written[f], w->plan.base, w->length, seed_of(w));
    return rc;
}

void
iob_worker_deinit(struct iob_worker *w)
{
    for (unsigned f = 0; f < w->files; f++)
        iob_written_deinit(&w->written[f]);
    mem_free(MEM_TOOL, w->slot);
    mem_free(MEM_TOOL, w->free);
    mem_free(MEM_TOOL, w->in_flight);
    iob_stats_deinit(&w->stats);
}

/* The first failure of a worker is its outcome; its sentence is the current one. */
static void
fail(struct iob_worker *w, ash_rc rc, int sys_errno)
{
    w->stop = true;
    if (w->stats.error != 0)
        return;
    w->stats.error = sys_errno != 0 ? sys_errno : rc == ASH_NO_SPACE ? ENOSPC : EIO;
    snprintf(w->stats.message, sizeof(w->stats.message), "%s", err_current()->message);
}

static void
wrong_data(struct iob_worker *w)
{
    w->stats.wrong++;
    if (w->stats.error == 0)
        snprintf(w->stats.message, sizeof(w->stats.message), "%s", err_current()->message);
    w->stats.error = EILSEQ;
    if (w->job->verify_fatal != 0)
        w->stop = true;
}

/* ---- What may be issued now ---- */

/* When the next I/O of a direction is due by rate or rate_iops. */
static uint64_t
due_ns(const struct iob_worker *w, enum iob_dir dir)
{
    uint64_t per_s = w->job->rate[dir] != 0 ? w->job->rate[dir] : w->job->rate_iops[dir];

    if (per_s == 0)
        return 0;
    return w->start_ns + (uint64_t)((unsigned __int128)w->issued[dir] * 1000000000u / per_s);
}

static bool
overlaps(const struct iob_worker *w, const struct iob_op *op)
{
    for (unsigned i = 0; i < w->in_flights; i++) {
        const struct iob_slot *s = w->in_flight[i]->user;
        if (s->op.file == op->file && s->op.offset < op->offset + op->bytes &&
            op->offset < s->op.offset + s->op.bytes &&
            (s->op.dir == IOB_WRITE || op->dir == IOB_WRITE))
            return true;
    }
    return false;
}

/* Sees to a pending I/O; false: there is none, or it has to wait (until *wake_ns, or for a
 * completion). */
static bool
ready(struct iob_worker *w, uint64_t now_ns, uint64_t *wake_ns)
{
    if (now_ns < w->think_until_ns) {
        *wake_ns = w->think_until_ns;
        return false;
    }
    if (!w->have_pending) {
        uint64_t read_ns = iob_reads(w->job) ? due_ns(w, IOB_READ) : UINT64_MAX;
        uint64_t write_ns = iob_writes(w->job) ? due_ns(w, IOB_WRITE) : UINT64_MAX;
        *wake_ns = min_u64(read_ns, write_ns);
        if (*wake_ns > now_ns)
            return false;
        /* The slower of two rates must not hold the other one up. */
        w->plan.blocked[IOB_READ] = read_ns > now_ns;
        w->plan.blocked[IOB_WRITE] = write_ns > now_ns;
        w->have_pending = iob_plan_next(&w->plan, &w->pending);
        w->planned_all = !w->have_pending;
    }
    return w->have_pending && (!iob_verifies(w->job) || !overlaps(w, &w->pending));
}

static uint64_t
flush_every(const struct iob_worker *w)
{
    return w->job->fsync != 0 ? w->job->fsync : w->job->fdatasync;
}

static void
prepare(struct iob_worker *w, struct iob_slot *s, uint64_t now_ns)
{
    bool flush = flush_every(w) != 0 && w->unflushed >= flush_every(w);

    s->issue_ns = now_ns;
    if (flush) {
        w->unflushed = 0;
        s->op = (struct iob_op){ .file = w->last_file };
        s->req.op = IO_OP_FLUSH;
        s->req.class = IO_CLASS_WRITE;
        s->req.file = w->file[w->last_file].f;
        return;
    }
    s->op = w->pending;
    w->have_pending = false;
    s->req.op = s->op.dir == IOB_READ ? IO_OP_READ : IO_OP_WRITE;
    s->req.class = s->op.dir == IOB_READ ? IO_CLASS_READ : IO_CLASS_WRITE;
    s->req.file = w->file[s->op.file].f;
    s->req.offset = s->op.offset;
    s->req.bytes = s->op.bytes;
    w->issued[s->op.dir] += w->job->rate[s->op.dir] != 0 ? s->op.bytes : 1;
    if (s->op.dir == IOB_WRITE) {
        w->unflushed++;
        w->last_file = s->op.file;
        if (iob_verifies(w->job))
            iob_verify_fill(&w->written[s->op.file], s->op.offset, s->req.buf, s->op.bytes);
    }
}

/* Fills slots up to the size of a batch; they are the last ones of in_flight. */
static unsigned
gather(struct iob_worker *w, uint64_t now_ns, uint64_t *wake_ns)
{
    unsigned n = 0;
    unsigned most = w->job->iodepth_batch == 0 ? w->frees : (unsigned)w->job->iodepth_batch;

    while (n < most && w->frees > 0) {
        bool flush = flush_every(w) != 0 && w->unflushed >= flush_every(w);
        if (!flush && !ready(w, now_ns, wake_ns))
            break;
        struct iob_slot *s = w->free[--w->frees];
        prepare(w, s, now_ns);
        w->in_flight[w->in_flights++] = &s->req;
        n++;
        w->stats.depth[min_u64(log2_floor(w->in_flights), IOB_LEVELS - 1)]++;
    }
    return n;
}

/* ---- Completions ---- */

static unsigned
batch_level(unsigned n)
{
    return n == 0 ? 0 : n <= 4 ? 1 : (unsigned)min_u64(log2_floor(n - 1), IOB_LEVELS - 1);
}

static void
check_data(struct iob_worker *w, const struct iob_slot *s, bool all)
{
    const char *path = w->file[s->op.file].path;

    w->stats.verified += s->op.bytes / IOB_UNIT;
    if (iob_verify_check(&w->written[s->op.file], path, s->op.offset, s->req.buf, s->op.bytes,
                         all) != ASH_OK)
        wrong_data(w);
}

static void
account(struct iob_worker *w, const struct iob_slot *s, uint64_t queued_ns, uint64_t done_ns)
{
    if (s->req.op == IO_OP_FLUSH) {
        iob_moments_add(&w->stats.sync, done_ns - s->issue_ns);
        hist_add(w->stats.sync_hist, done_ns - s->issue_ns);
        return;
    }
    struct iob_dir_stats *d = &w->stats.dir[s->op.dir];
    d->bytes += s->op.bytes;
    d->ios++;
    iob_moments_add(&d->slat, queued_ns - s->issue_ns);
    iob_moments_add(&d->clat, done_ns - queued_ns);
    iob_moments_add(&d->lat, done_ns - s->issue_ns);
    hist_add(d->hist, done_ns - queued_ns);
    if (w->job->thinktime != 0 && ++w->thought_ios % w->job->thinktime_blocks == 0)
        w->think_until_ns = done_ns + w->job->thinktime;
}

static void
finish(struct iob_worker *w, struct iob_slot *s)
{
    ash_rc rc = io_wait(&s->req);

    if (rc != ASH_OK) {
        fail(w, rc, s->req.sys_errno);
        return;
    }
    account(w, s, s->req.submit_ns, s->req.finish_ns);
    if (s->req.op == IO_OP_READ && iob_verifies(w->job))
        check_data(w, s, /* all: */ !iob_writes(w->job));
}

static void
publish(struct iob_worker *w)
{
    for (unsigned d = 0; d < IOB_DIRS; d++) {
        atomic_store_explicit(&w->bytes_now[d], w->stats.dir[d].bytes, memory_order_relaxed);
        atomic_store_explicit(&w->ios_now[d], w->stats.dir[d].ios, memory_order_relaxed);
    }
}

/* Waits for one completion and takes all. */
static void
reap(struct iob_worker *w, void (*done)(struct iob_worker *w, struct iob_slot *s))
{
    unsigned n = 0;

    io_wait_any(w->in_flight, w->in_flights);
    for (unsigned i = 0; i < w->in_flights;) {
        struct io_req *req = w->in_flight[i];
        if (!atomic_load_explicit(&req->done, memory_order_acquire)) {
            i++;
            continue;
        }
        w->in_flight[i] = w->in_flight[--w->in_flights];
        done(w, req->user);
        w->free[w->frees++] = req->user;
        n++;
    }
    w->stats.complete[batch_level(n)]++;
}

/* ---- The loop ---- */

static void
start_measuring(struct iob_worker *w, uint64_t now_ns)
{
    struct rusage u;

    iob_stats_reset(&w->stats);
    publish(w);
    getrusage(RUSAGE_THREAD, &u);
    w->stats.user_s = -((double)u.ru_utime.tv_sec + (double)u.ru_utime.tv_usec / 1e6);
    w->stats.system_s = -((double)u.ru_stime.tv_sec + (double)u.ru_stime.tv_usec / 1e6);
    w->stats.switches = 0 - (uint64_t)(u.ru_nvcsw + u.ru_nivcsw);
    w->stats.majf = 0 - (uint64_t)u.ru_majflt;
    w->stats.minf = 0 - (uint64_t)u.ru_minflt;
    w->measured_from_ns = now_ns;
    atomic_store(&w->measuring, true);
}

static void
end_measuring(struct iob_worker *w)
{
    struct rusage u;

    if (!atomic_load(&w->measuring))
        start_measuring(w, clock_ns()); /* the job ended within ramp_time: nothing was measured */
    getrusage(RUSAGE_THREAD, &u);
    w->stats.user_s += (double)u.ru_utime.tv_sec + (double)u.ru_utime.tv_usec / 1e6;
    w->stats.system_s += (double)u.ru_stime.tv_sec + (double)u.ru_stime.tv_usec / 1e6;
    w->stats.switches += (uint64_t)(u.ru_nvcsw + u.ru_nivcsw);
    w->stats.majf += (uint64_t)u.ru_majflt;
    w->stats.minf += (uint64_t)u.ru_minflt;
    w->stats.runtime_ns = w->stats.thread_ns = clock_ns() - w->measured_from_ns;
    publish(w);
}

static void
nap_until(uint64_t wake_ns, uint64_t now_ns)
{
    uint64_t ns = wake_ns > now_ns ? min_u64(wake_ns - now_ns, NAP_NS) : 0;
    struct timespec ts = { .tv_sec = 0, .tv_nsec = (long)ns };

    nanosleep(&ts, NULL);
}

/* ioengine=psync: one request after the other on this thread. */
static void
run_inline(struct iob_worker *w, uint64_t now_ns)
{
    struct iob_slot *s = (struct iob_slot *)(void *)w->in_flight[0];
    ash_rc rc;

    if (s->req.op == IO_OP_READ)
        rc = io_read(s->req.file, s->req.buf, s->req.bytes, s->req.offset, s->req.class);
    else if (s->req.op == IO_OP_WRITE)
        rc = io_write(s->req.file, s->req.buf, s->req.bytes, s->req.offset, s->req.class);
    else
        rc = io_flush(s->req.file, s->req.class);
    w->in_flights = 0;
    w->free[w->frees++] = s;
    w->stats.complete[1]++;
    if (rc != ASH_OK) {
        fail(w, rc, err_current()->sys_errno);
        return;
    }
    account(w, s, now_ns, clock_ns());
    if (s->req.op == IO_OP_READ && iob_verifies(w->job))
        check_data(w, s, /* all: */ !iob_writes(w->job));
}

/* Without iodepth_batch: the first requests reach the device while the others are still being
 * handed over; the last piece goes with the call that waits.  On a virtual disk that serves its
 * queue until it is empty, one large batch would leave it idle: 4 KiB random reads at depth 32
 * seemed to gain 16 % by pieces, on a busy machine (0.84 against 0.98 of fio). */
static void
submit_in_pieces(struct iob_worker *w, struct io_req **reqs, unsigned n)
{
    for (unsigned piece = PIECE_FIRST; n > piece;) {
        io_submit(reqs, piece);
        io_kick(w->io);
        reqs += piece;
        n -= piece;
        piece = piece < PIECE_MAX ? piece * 2 : piece;
    }
    io_submit(reqs, n);
}

static void
issue(struct iob_worker *w, unsigned n, uint64_t now_ns)
{
    w->stats.submit[batch_level(n)]++;
    if (iob_inline(w->job)) {
        run_inline(w, now_ns);
        return;
    }
    struct io_req **reqs = w->in_flight + w->in_flights - n;
    if (w->job->iodepth_batch == 0) {
        submit_in_pieces(w, reqs, n);
    } else {
        io_submit(reqs, n);
        io_kick(w->io);
    }
}

static void
measured_part(struct iob_worker *w)
{
    const struct iob_job *job = w->job;
    uint64_t ramp_end_ns = w->start_ns + job->ramp_time;
    uint64_t end_ns = job->runtime == 0 ? UINT64_MAX : ramp_end_ns + job->runtime;

    for (;;) {
        uint64_t now_ns = clock_ns(), wake_ns = now_ns;
        unsigned n = 0;
        if (!atomic_load_explicit(&w->measuring, memory_order_relaxed) && now_ns >= ramp_end_ns)
            start_measuring(w, now_ns);
        bool over = w->stop || now_ns >= end_ns || iob_interrupted != 0;
        if (!over && w->frees > 0)
            n = gather(w, now_ns, &wake_ns);
        if (n > 0)
            issue(w, n, now_ns);
        if (n > 0 && w->frees > 0 && job->iodepth_batch != 0)
            continue; /* the next batch first */
        if (w->in_flights > 0)
            reap(w, finish);
        else if (over || w->planned_all)
            break;
        else if (n == 0)
            nap_until(min_u64(wake_ns, end_ns), now_ns);
        publish(w);
    }
    w->complete = w->planned_all && !w->stop;
}

void
iob_worker_run(struct iob_worker *w)
{
    measured_part(w);
    for (unsigned f = 0; f < w->files && w->job->end_fsync != 0 && iob_writes(w->job); f++) {
        uint64_t from_ns = clock_ns();
        ash_rc rc = w->stats.error != 0 ? ASH_OK : io_flush(w->file[f].f, IO_CLASS_WRITE);
        if (rc != ASH_OK)
            fail(w, rc, err_current()->sys_errno);
        iob_moments_add(&w->stats.sync, clock_ns() - from_ns);
        hist_add(w->stats.sync_hist, clock_ns() - from_ns);
    }
    end_measuring(w);
}

/* ---- Reading back ---- */

static void
finish_check(struct iob_worker *w, struct iob_slot *s)
{
    ash_rc rc = io_wait(&s->req);

    if (rc != ASH_OK)
        fail(w, rc, s->req.sys_errno);
    else
        check_data(w, s, /* all: */ false);
}

static void
check_file(struct iob_worker *w, unsigned f)
{
    uint64_t at = 0;
    bool more = true;

    while (more || w->in_flights > 0) {
        unsigned n = 0;
        more = more && iob_interrupted == 0;
        while (more && !w->stop && w->frees > 0) {
            struct iob_slot *s = w->free[w->frees - 1];
            s->op = (struct iob_op){ .dir = IOB_READ, .file = f };
            more = iob_written_next(&w->written[f], &at, w->job->bs[IOB_WRITE].max, &s->op.offset,
                                    &s->op.bytes);
            if (!more)
                break;
            w->frees--;
            s->req.op = IO_OP_READ;
            s->req.class = IO_CLASS_READ;
            s->req.file = w->file[f].f;
            s->req.offset = s->op.offset;
            s->req.bytes = s->op.bytes;
            w->in_flight[w->in_flights++] = &s->req;
            n++;
        }
        more = more && !w->stop;
        io_submit(w->in_flight + w->in_flights - n, n);
        if (w->in_flights > 0)
            reap(w, finish_check);
    }
}

void
iob_worker_verify(struct iob_worker *w)
{
    if (!iob_verifies(w->job) || !iob_writes(w->job) || w->job->do_verify == 0 ||
        w->stats.error != 0)
        return;
    uint64_t submit[IOB_LEVELS], complete[IOB_LEVELS]; /* belong to the measured part */
    memcpy(submit, w->stats.submit, sizeof(submit));
    memcpy(complete, w->stats.complete, sizeof(complete));
    for (unsigned f = 0; f < w->files; f++)
        check_file(w, f);
    memcpy(w->stats.submit, submit, sizeof(submit));
    memcpy(w->stats.complete, complete, sizeof(complete));
}
