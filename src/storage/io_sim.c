/* SPDX-License-Identifier: Apache-2.0
 *
 * io_sim.c - the disk manager on a simulated disk: requests complete after a drawn time, in the
 * scheduler.
 *
 * Entry points: the tables io__sim and io__sim_fs.   Read first: sim_disk.h, sim_disk_int.h.
 *
 * Invariants:
 *   I1  The data of a write is taken at submission; at completion the buffer must still hold it
 *       (io.h R1).
 *   I2  sim__event() comes before the change it announces and may not return (a power cut); nothing
 *       is half done then.
 *   I3  The disk keeps no pointer into the simulated program: what a halted run leaves behind is
 *       the disk's own.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/mem.h"
#include "storage/io_int.h"
#include "storage/sim_disk_int.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static struct sim_disk *
disk_of(const struct io *io)
{
    return io->options.disk;
}

static void
trace(struct io *io, uint64_t what, uint64_t a, uint64_t b)
{
    task_sim_trace_add(io->options.rt, hash_u64(what ^ hash_u64(a ^ hash_u64(b))));
}

/* ---- Requests ---- */

static struct sim_change *
take_data(struct io_req *req, uint32_t *crc_out)
{
    const struct iovec *iov;
    unsigned count;
    uint32_t bytes, crc = 0;
    uint64_t offset = io__segment(req, &iov, &count, &bytes);
    struct sim_change *c = sim__alloc(sizeof(*c));

    list_init(&c->link);
    c->kind = SIM_CHANGE_WRITE;
    c->offset = offset;
    c->pages = bytes / SIM_PAGE;
    c->page = sim__alloc(c->pages * sizeof(struct sim_page *));
    for (uint32_t i = 0, n = 0; i < count; i++) {
        crc = crc32c(crc, iov[i].iov_base, iov[i].iov_len);
        for (size_t at = 0; at < iov[i].iov_len; at += SIM_PAGE)
            c->page[n++] = sim__page_new((const char *)iov[i].iov_base + at);
    }
    *crc_out = crc;
    return c;
}

static uint32_t
segment_crc(struct io_req *req)
{
    const struct iovec *iov;
    unsigned count;
    uint32_t bytes, crc = 0;

    (void)io__segment(req, &iov, &count, &bytes);
    for (uint32_t i = 0; i < count; i++)
        crc = crc32c(crc, iov[i].iov_base, iov[i].iov_len);
    return crc;
}

static uint64_t
misdirect(const struct sim_flight *fl, uint64_t offset)
{
    int64_t delta = fl->fault.delta == 0 ? SIM_PAGE : fl->fault.delta;
    delta -= delta % (int64_t)SIM_PAGE;
    return (int64_t)offset + delta < 0 ? offset + (uint64_t)-delta : offset + (uint64_t)delta;
}

/* How much of the request goes through. */
static uint32_t
shorten(struct sim_disk *d, const struct sim_flight *fl, uint32_t bytes)
{
    if (fl->fault.kind != SIM_FAULT_SHORT || bytes < 2)
        return bytes;
    if (fl->fault.delta > 0 && fl->fault.delta < (int64_t)bytes)
        return (uint32_t)fl->fault.delta;
    return 1 + (uint32_t)random_below(&d->random, bytes - 1);
}

static int64_t
failure(const struct sim_fault *fault)
{
    return fault->sys_errno == 0 ? -EIO : -fault->sys_errno;
}

static int64_t
complete_write(struct sim_disk *d, struct sim_flight *fl)
{
    struct sim_file *f = fl->file;
    uint64_t end = fl->write->offset + fl->bytes;

    if (end > f->visible.size && d->limit != 0 && sim__used(d) + (end - f->visible.size) > d->limit)
        return -ENOSPC;
    switch (fl->fault.kind) {
    case SIM_FAULT_ERROR:
        /* A cancelled request may have reached the medium whole. */
        if (fl->fault.sys_errno == ECANCELED && random_chance(&d->random, 1, 2))
            sim__land(fl, fl->bytes);
        else
            sim__land_part(fl);
        return failure(&fl->fault);
    case SIM_FAULT_LOST_WRITE: return fl->bytes;
    case SIM_FAULT_MISDIRECT: fl->write->offset = misdirect(fl, fl->write->offset); break;
    case SIM_FAULT_BIT_FLIP: {
        uint64_t bit = random_below(&d->random, (uint64_t)fl->bytes * 8);
        fl->write->page[bit / 8 / SIM_PAGE]->data[bit / 8 % SIM_PAGE] ^=
            (uint8_t)(1u << bit % 8); /* not shared yet */
        break;
    }
    default: break;
    }
    uint32_t bytes = shorten(d, fl, fl->bytes);
    sim__land(fl, bytes);
    return bytes;
}

static int64_t
complete_read(struct sim_disk *d, struct sim_flight *fl, struct io_req *req)
{
    const struct iovec *iov;
    unsigned count;
    uint32_t bytes;
    uint64_t size = fl->file->visible.size, offset = io__segment(req, &iov, &count, &bytes);

    if (fl->fault.kind == SIM_FAULT_ERROR)
        return failure(&fl->fault);
    uint32_t total = offset >= size ? 0 : (uint32_t)min_u64(bytes, size - offset);
    total = shorten(d, fl, total);
    if (fl->fault.kind == SIM_FAULT_MISDIRECT)
        offset = misdirect(fl, offset);
    uint64_t bit = fl->fault.kind == SIM_FAULT_BIT_FLIP && total > 0
                       ? random_below(&d->random, (uint64_t)total * 8)
                       : UINT64_MAX;
    uint32_t done = 0;
    for (unsigned i = 0; i < count && done < total; i++) {
        size_t n = min_u64(iov[i].iov_len, total - done);
        uint8_t *to = iov[i].iov_base;
        sim__image_read(&fl->file->visible, offset + done, to, n);
        if (bit / 8 >= done && bit / 8 < done + n)
            to[bit / 8 - done] ^= (uint8_t)(1u << bit % 8);
        done += (uint32_t)n;
    }
    return total;
}

static int64_t
complete_flush(struct sim_flight *fl)
{
    if (fl->fault.kind == SIM_FAULT_ERROR) {
        sim__flush_failed(fl->file, fl->seq);
        return failure(&fl->fault);
    }
    sim__flush(fl->file, fl->seq);
    return 0;
}

#define SIM_DEPTH      128u
#define SIM_BACKGROUND 96u
#define SIM_TICKS_MAX  3600u /* looks at the watchdog while waiting for one request */

struct sim_state {
    struct io_meter meter;
    struct io_sched sched;
    bool pumping;
    uint64_t wake_ns; /* of the earliest sim_wake() to come */
    unsigned wakes;   /* of them */
};

static void sim_start_request(struct io *io, struct io_req *req);
static void sim_pump(struct io *io);

/* Runs in the scheduler, or at once when the disk has no latency to give. */
static void
sim_complete(void *arg)
{
    struct io_req *req = arg;
    struct io *io = req->file->io;
    struct sim_disk *d = disk_of(io);
    struct sim_flight *fl = req->backend;
    struct io_req *over, *next;
    int64_t result = 0;

    sim__event(d);
    switch (req->op) {
    case IO_OP_READ: result = complete_read(d, fl, req); break;
    case IO_OP_WRITE:
        ash_assert(segment_crc(req) == fl->crc); /* I1 */
        result = complete_write(d, fl);
        break;
    case IO_OP_FLUSH: result = complete_flush(fl); break;
    }
    trace(io, 0x100 + (uint64_t)req->op, fl->file->id, (uint64_t)result ^ req->offset);
    sim__flight_free(fl);
    req->backend = NULL;
    struct sim_state *s = io->state;
    for (over = io__sched_done(&s->sched, req, result, clock_ns()); over != NULL; over = next) {
        struct task *owner = over->owner;
        next = over->chain;
        io__finish(io, &s->meter, over, clock_ns());
        task_unpark(owner);
    }
    io__sched_publish(&s->sched, clock_ns());
    sim_pump(io);
}

/* ---- The queue ---- */

static void
sim_wake(void *arg)
{
    struct io *io = arg;
    struct sim_state *s = io->state;

    s->wakes--;
    s->wake_ns = TASK_FOREVER;
    sim_pump(io);
}

/* Starts what the scheduler lets go, and has itself called when it lets go more. */
static void
sim_pump(struct io *io)
{
    struct sim_state *s = io->state;
    struct io_req *req;

    if (s->pumping)
        return; /* a request without latency completes inside the loop below */
    s->pumping = true;
    while (s->sched.in_flight < SIM_DEPTH && (req = io__sched_next(&s->sched, clock_ns())) != NULL)
        sim_start_request(io, req);
    s->pumping = false;
    if (s->sched.wake_ns >= s->wake_ns || s->sched.in_flight >= SIM_DEPTH)
        return;
    if (task_sim_at(io->options.rt, s->sched.wake_ns, sim_wake, io) == ASH_OK) {
        s->wake_ns = s->sched.wake_ns;
        s->wakes++;
    }
}

static void
sim_start_request(struct io *io, struct io_req *req)
{
    struct sim_disk *d = disk_of(io);

    sim__event(d);
    struct sim_flight *fl = sim__flight_new(d, req->file->sim);
    fl->fault = sim__fault(d, (int)req->op);
    if (req->op == IO_OP_WRITE) {
        fl->write = take_data(req, &fl->crc);
        fl->offset = fl->write->offset;
        fl->bytes = fl->write->pages * SIM_PAGE;
        fl->durable = req->dsync || (req->file->flags & IO_DSYNC) != 0;
    }
    req->backend = fl;
    trace(io, (uint64_t)req->op, fl->file->id, req->offset + req->progress);
    uint64_t latency = sim__latency(d);
    if (fl->fault.kind == SIM_FAULT_DELAY && fl->fault.delta > 0)
        latency += (uint64_t)fl->fault.delta;
    if (task_sim_at(io->options.rt, clock_ns() + latency, sim_complete, req) != ASH_OK)
        sim_complete(req); /* no memory for the event: it was a fast disk */
}

static void
sim_submit(struct io *io, struct io_req **reqs, unsigned count)
{
    struct sim_state *s = io->state;

    for (unsigned i = 0; i < count; i++)
        io__sched_add(&s->sched, reqs[i]);
    sim_pump(io);
}

static void
sim_wait(struct io *io, struct io_req **reqs, unsigned count)
{
    struct sim_state *s = io->state;

    for (unsigned i = 0; i < count; i++)
        io__sched_waited(&s->sched, reqs[i]);
    sim_pump(io);
    for (unsigned ticks = 0;;) {
        for (unsigned i = 0; i < count; i++) {
            if (atomic_load_explicit(&reqs[i]->done, memory_order_acquire))
                return;
        }
        if (ticks > SIM_TICKS_MAX) {
            task_park(); /* lost: without timers the simulation can tell that it hangs */
        } else if (!task_park_until(clock_ns() + io__watch_tick_ns())) {
            io__sched_watch(&s->sched, clock_ns());
            ticks++;
        }
    }
}

static void
sim_kick(struct io *io)
{
    struct sim_state *s = io->state;

    io__sched_kick(&s->sched);
    sim_pump(io);
}

static bool
sim_cancel(struct io *io, struct io_req *req)
{
    struct sim_state *s = io->state;

    if (!io__sched_cancel(&s->sched, req))
        return false;
    io__finish_cancelled(io, &s->meter, req, clock_ns());
    return true;
}

static ash_rc
sim_start(struct io *io)
{
    struct sim_state *s = mem_zalloc(MEM_IO, sizeof(*s));
    if (s == NULL)
        return ASH_NO_MEMORY;
    io__meter_attach(io, &s->meter);
    io__sched_init(&s->sched, io, &s->meter, SIM_BACKGROUND, /* windows: */ true);
    s->wake_ns = TASK_FOREVER;
    io->state = s;
    return ASH_OK;
}

static void
sim_stop(struct io *io)
{
    struct sim_state *s = io->state;

    while (s->wakes > 0) /* they hold a pointer to us */
        task_sleep_ns(IO_WINDOW_MAX_NS);
    io__sched_destroy(&s->sched);
    io__meter_detach(io, &s->meter);
    mem_free(MEM_IO, s);
}

/* ---- Directories and files ---- */

/* One call to the file system: it takes a request's time, then happens at once.  0, or the errno of
 * a fault. */
static int
call(struct io *io, int op, uint64_t what)
{
    struct sim_disk *d = disk_of(io);

    sim__event(d);
    struct sim_fault fault = sim__fault(d, op);
    trace(io, 0x200 + (uint64_t)op, what, 0);
    uint64_t latency = sim__latency(d);
    if (fault.kind == SIM_FAULT_DELAY && fault.delta > 0)
        latency += (uint64_t)fault.delta;
    task_sleep_ns(latency);
    sim__event(d);
    if (fault.kind != SIM_FAULT_ERROR)
        return 0;
    return fault.sys_errno == 0 ? EIO : fault.sys_errno;
}

static ash_rc
fail(int err, const char *object, const char *what)
{
    return ash_raise_sys(err_from_errno(err), err, object, "%s %s failed: %s (simulated).", what,
                         object, strerror(err));
}

static ash_rc
sim_dir_open(struct io *io, const char *path, unsigned flags, struct io_dir *dir)
{
    struct sim_disk *d = disk_of(io);

    dir->sim = sim__dir(d, path, /* create: */ false);
    if (dir->sim != NULL && (flags & IO_CREATE) != 0 && (flags & IO_EXCLUSIVE) != 0)
        return ash_raise_obj(ASH_EXISTS, path, "The directory %s exists already.", path);
    if (dir->sim != NULL)
        return ASH_OK;
    if ((flags & IO_CREATE) == 0)
        return ash_raise_obj(ASH_NOT_FOUND, path, "There is no directory %s.", path);
    int err = call(io, SIM_OP_DIR, 1);
    if (err != 0)
        return fail(err, path, "Making the directory");
    dir->sim = sim__dir(d, path, /* create: */ true); /* durable: the parent is synced with it */
    return ASH_OK;
}

static void
sim_dir_close(struct io_dir *dir)
{
    (void)dir;
}

static ash_rc
sim_dir_names(struct io_dir *dir, char ***names_out, size_t *count_out)
{
    uint32_t count = dir->sim->visible.count;
    char **names = mem_zalloc(MEM_IO, (count + 1) * sizeof(*names));

    if (names == NULL)
        return ASH_NO_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        names[i] = mem_strdup(MEM_IO, dir->sim->visible.v[i].name);
        if (names[i] == NULL) {
            for (uint32_t k = 0; k < i; k++)
                mem_free(MEM_IO, names[k]);
            mem_free(MEM_IO, names);
            return ASH_NO_MEMORY;
        }
    }
    *names_out = names;
    *count_out = count;
    return ASH_OK;
}

static ash_rc
not_there(const struct io_dir *dir, const char *name)
{
    return ash_raise_sys(ASH_NOT_FOUND, ENOENT, name, "There is no file %s/%s.", dir->path, name);
}

static ash_rc
sim_dir_rename(struct io_dir *dir, const char *from, const char *to)
{
    int err = call(dir->io, SIM_OP_DIR, 2);
    if (err != 0)
        return fail(err, from, "Renaming");
    if (sim__lookup(dir->sim, from) == NULL)
        return not_there(dir, from);
    sim__rename(dir->sim, from, to);
    return ASH_OK;
}

static ash_rc
sim_dir_unlink(struct io_dir *dir, const char *name)
{
    int err = call(dir->io, SIM_OP_DIR, 3);
    if (err != 0)
        return fail(err, name, "Removing");
    if (sim__lookup(dir->sim, name) == NULL)
        return not_there(dir, name);
    sim__unlink(dir->sim, name);
    return ASH_OK;
}

static ash_rc
sim_dir_sync(struct io_dir *dir)
{
    int err = call(dir->io, SIM_OP_DIR, 4);
    if (err == 0) {
        sim__dir_sync(dir->sim);
        return ASH_OK;
    }
    sim__dir_sync_failed(dir->sim);
    io__poison_with(dir->io, err_from_errno(err), err, dir->path,
                    "Syncing the directory %s failed: %s.", dir->path, strerror(err));
    return fail(err, dir->path, "Syncing the directory");
}

static ash_rc
sim_lock(struct io_file *f)
{
    struct sim_file *s = f->sim;
    bool shared = (f->flags & IO_READ_ONLY) != 0;

    if (s->locked || (!shared && s->shared_locks > 0))
        return ash_raise_obj(
            ASH_BUSY, f->path,
            "The file %s is in use by another process or handle; close it there first.", f->path);
    if (shared)
        s->shared_locks++;
    else
        s->locked = true;
    return ASH_OK;
}

static ash_rc
sim_file_open(struct io_dir *dir, unsigned flags, struct io_file *f)
{
    f->sim = sim__lookup(dir->sim, f->name);
    if (f->sim == NULL && (flags & IO_CREATE) == 0)
        return not_there(dir, f->name);
    if (f->sim == NULL) {
        int err = call(dir->io, SIM_OP_DIR, 5);
        if (err != 0)
            return fail(err, f->path, "Creating");
        f->sim = sim__lookup(dir->sim, f->name); /* another task may have made it meanwhile */
        if (f->sim == NULL)
            f->sim = sim__create(dir->sim, f->name);
        else if ((flags & IO_EXCLUSIVE) != 0)
            return ash_raise_sys(ASH_EXISTS, EEXIST, f->path, "The file %s exists already.",
                                 f->path);
    } else if ((flags & IO_CREATE) != 0 && (flags & IO_EXCLUSIVE) != 0) {
        return ash_raise_sys(ASH_EXISTS, EEXIST, f->path, "The file %s exists already.", f->path);
    }
    f->direct = true;
    if ((flags & IO_LOCK) != 0) {
        ash_rc rc = sim_lock(f);
        if (rc != ASH_OK)
            return rc;
    }
    f->sim->opens++;
    return ASH_OK;
}

static void
sim_file_close(struct io_file *f)
{
    ash_assert(f->sim->opens > 0);
    f->sim->opens--;
    if ((f->flags & IO_LOCK) == 0)
        return;
    if ((f->flags & IO_READ_ONLY) != 0)
        f->sim->shared_locks--;
    else
        f->sim->locked = false;
}

static ash_rc
sim_file_size(struct io_file *f, uint64_t *bytes_out)
{
    *bytes_out = f->sim->visible.size;
    return ASH_OK;
}

static ash_rc
sim_file_allocate(struct io_file *f, uint64_t bytes, bool zero)
{
    struct sim_disk *d = disk_of(f->io);

    if (bytes <= f->sim->visible.size)
        return ASH_OK;
    int err = call(f->io, SIM_OP_SIZE, bytes);
    uint64_t size = f->sim->visible.size;
    if (err == 0 && bytes > size && d->limit != 0 && sim__used(d) + (bytes - size) > d->limit)
        err = ENOSPC;
    if (err != 0)
        return ash_raise_sys(err_from_errno(err), err, f->path,
                             "Growing %s from %" PRIu64 " to %" PRIu64
                             " bytes failed: %s; free some space.",
                             f->path, size, bytes, strerror(err));
    if (bytes <= size)
        return ASH_OK;
    sim__resize(f->sim, bytes);
    if (!zero)
        return ASH_OK;
    return io_flush(f, IO_CLASS_FLUSH); /* the zeros themselves need no writing here */
}

static ash_rc
sim_file_truncate(struct io_file *f, uint64_t bytes)
{
    int err = call(f->io, SIM_OP_SIZE, bytes);
    if (err != 0)
        return fail(err, f->path, "Setting the size of");
    sim__resize(f->sim, bytes);
    return ASH_OK;
}

static ash_rc
sim_file_punch(struct io_file *f, uint64_t offset, uint64_t bytes)
{
    int err = call(f->io, SIM_OP_SIZE, offset);
    if (err != 0)
        return fail(err, f->path, "Giving back space of");
    sim__punch(f->sim, offset, bytes);
    return ASH_OK;
}

const struct io_backend io__sim = {
    .name = "sim",
    .kind = IO_BACKEND_SIM,
    .start = sim_start,
    .stop = sim_stop,
    .submit = sim_submit,
    .kick = sim_kick,
    .wait = sim_wait,
    .cancel = sim_cancel,
};

const struct io_fs io__sim_fs = {
    .dir_open = sim_dir_open,
    .dir_close = sim_dir_close,
    .dir_names = sim_dir_names,
    .dir_rename = sim_dir_rename,
    .dir_unlink = sim_dir_unlink,
    .dir_sync = sim_dir_sync,
    .file_open = sim_file_open,
    .file_close = sim_file_close,
    .file_size = sim_file_size,
    .file_allocate = sim_file_allocate,
    .file_truncate = sim_file_truncate,
    .file_punch = sim_file_punch,
};
