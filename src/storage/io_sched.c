/* SPDX-License-Identifier: Apache-2.0
 *
 * io_sched.c - queues by class: priority, deadlines, the list of flights, the watchdog.
 *
 * Entry points: io__sched_add(), io__sched_next(), io__sched_done().   Read first: io_sched_int.h.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/io_int.h"

#include <inttypes.h>
#include <string.h>

#define STUCK_NS        10000000000ull /* an I/O in flight longer than this is reported */
#define TICK_NS         1000000000ull  /* how often somebody looks */
#define READ_AHEAD_FREE 4u             /* read-ahead I/Os of a ring that need no credit */
#define POLL_NS         500000ull      /* how soon one that has no credit asks again */

#define MS 1000000ull
/* How long a class may be passed over (R10).  The better classes only ever wait for room. */
static const uint64_t deadline_ns[IO_CLASS_COUNT] = {
    [IO_CLASS_WAL] = 1 * MS,          [IO_CLASS_READ] = 5 * MS,    [IO_CLASS_WRITE] = 10 * MS,
    [IO_CLASS_PAGE_WRITER] = 20 * MS, [IO_CLASS_FLUSH] = 20 * MS,  [IO_CLASS_COMPACTION] = 50 * MS,
    [IO_CLASS_READ_AHEAD] = 50 * MS,  [IO_CLASS_SCRUB] = 200 * MS,
};

uint64_t io__class_deadline_ns(enum io_class class)
{
    return deadline_ns[class];
}

void
io__sched_init(struct io_sched *s, struct io *io, struct io_meter *meter, uint32_t background_max,
               bool windows)
{
    memset(s, 0, sizeof(*s));
    s->io = io;
    s->meter = meter;
    s->background_max = background_max;
    s->windows = windows;
    s->wake_ns = TASK_FOREVER;
    for (unsigned c = IO_CLASS_WRITE; c < IO_CLASS_COUNT; c++)
        s->class[c].window_ns = IO_WINDOW_START_NS;
}

void
io__sched_destroy(struct io_sched *s)
{
    ash_assert(s->count == 0);
    while (s->batches != NULL) {
        struct io_batch *b = s->batches;
        s->batches = b->next_free;
        mem_free(MEM_IO, b);
    }
    mem_free(MEM_IO, s->start);
    mem_free(MEM_IO, s->scratch);
    s->start = s->end = NULL;
    s->scratch = NULL;
}

/* ---- Queues ---- */

/* Before `at`; NULL: at the end. */
static void
queue_insert(struct io_sched *s, struct io_req *req, struct io_req *at)
{
    struct io_queue *q = &s->class[req->class];

    req->next = at;
    req->prev = at == NULL ? q->tail : at->prev;
    if (req->prev == NULL)
        q->head = req;
    else
        req->prev->next = req;
    if (at == NULL)
        q->tail = req;
    else
        at->prev = req;
    q->count++;
    q->bytes += req->bytes;
    s->mask |= 1u << req->class;
    s->count++;
    req->state = IO_REQ_QUEUED;
}

static void
queue_remove(struct io_sched *s, struct io_req *req)
{
    struct io_queue *q = &s->class[req->class];

    ash_assert(req->state == IO_REQ_QUEUED);
    if (q->held == req)
        q->held = req->next;
    if (req->prev == NULL)
        q->head = req->next;
    else
        req->prev->next = req->next;
    if (req->next == NULL)
        q->tail = req->prev;
    else
        req->next->prev = req->prev;
    q->count--;
    q->bytes -= req->bytes;
    if (q->head == NULL)
        s->mask &= ~(1u << req->class);
    s->count--;
}

void
io__sched_unlink(struct io_sched *s, struct io_req *req)
{
    queue_remove(s, req);
    if (req->indexed && !PLANTED(372))
        io__index_remove(s, req);
}

void
io__sched_add(struct io_sched *s, struct io_req *req)
{
    struct io_queue *q = &s->class[req->class];
    struct io_req *at = q->held;

    if (req->class >= IO_CLASS_WRITE)
        io__index_add(s, req); /* may open the window */
    if (ASH_UNLIKELY(req->deadline_ns != 0)) {
        at = q->head;
        while (at != q->held && at->deadline_ns != 0 && at->deadline_ns <= req->deadline_ns)
            at = at->next;
        queue_insert(s, req, at);
    } else if (s->windows && q->window_ns != 0 && !req->waited) {
        queue_insert(s, req, NULL);
        if (at == NULL)
            q->held = req;
    } else {
        queue_insert(s, req, at);
    }
}

void
io__sched_again(struct io_sched *s, struct io_req *req)
{
    req->alone = true;
    queue_insert(s, req, s->class[req->class].head);
}

bool
io__sched_cancel(struct io_sched *s, struct io_req *req)
{
    if (req->state != IO_REQ_QUEUED || req->progress != 0)
        return false; /* part of it is on the device already */
    io__sched_unlink(s, req);
    req->state = IO_REQ_OVER;
    return true;
}

void
io__sched_waited(struct io_sched *s, struct io_req *req)
{
    struct io_queue *q = &s->class[req->class];
    struct io_req *next;

    if (req->waited)
        return;
    req->waited = true;
    if (PLANTED(366))
        return;
    /* Who waits for one of several will wait for the others next. */
    for (struct io_req *at = q->held; at != NULL; at = next) {
        next = at->next;
        if (at->owner != req->owner)
            continue;
        at->waited = true;
        queue_remove(s, at);
        queue_insert(s, at, q->held);
    }
}

void
io__sched_kick(struct io_sched *s)
{
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        s->class[c].held = NULL;
}

/* ---- Which goes next ---- */

/* When a queued class must go, whoever else is there. */
static uint64_t
due_ns(const struct io_queue *q, unsigned class)
{
    uint64_t since = max_u64(q->head->submit_ns, q->served_ns);
    uint64_t due = since + deadline_ns[class];

    return q->head->deadline_ns != 0 ? min_u64(due, q->head->deadline_ns) : due;
}

/* The class whose deadline passed longest ago; 0: none. */
static unsigned
overdue(const struct io_sched *s, uint64_t now_ns)
{
    unsigned worst = 0;
    uint64_t worst_ns = now_ns;

    for (uint32_t left = s->mask; left != 0; left &= left - 1) {
        unsigned c = (unsigned)__builtin_ctz(left);
        uint64_t due = due_ns(&s->class[c], c);
        if (due < worst_ns) {
            worst = c;
            worst_ns = due;
        }
    }
    return PLANTED(20) ? 0 : worst;
}

/* A ring that reads ahead belongs to a scan, and somebody waits for what it reads next. */
static bool
read_ahead_floor(const struct io_sched *s, unsigned class)
{
    return class == IO_CLASS_READ_AHEAD && s->background < READ_AHEAD_FREE;
}

/* The best class that may go now; 0: none before s->wake_ns. */
static unsigned
best(struct io_sched *s, uint64_t now_ns)
{
    for (uint32_t left = s->mask; left != 0; left &= left - 1) {
        unsigned c = (unsigned)__builtin_ctz(left);
        struct io_queue *q = &s->class[c];
        uint64_t wake = io__held_until(q, now_ns);
        if (wake == 0 && io__background(c)) {
            if (s->background >= s->background_max)
                wake = TASK_FOREVER; /* a completion will tell */
            else if (!s->io->options.plain && !read_ahead_floor(s, c) && !io__credit_ask(s->io, c))
                wake = PLANTED(363) ? TASK_FOREVER : min_u64(now_ns + POLL_NS, due_ns(q, c));
        }
        if (wake == 0)
            return c;
        s->wake_ns = min_u64(s->wake_ns, wake);
    }
    return 0;
}

static void
flight_add(struct io_sched *s, struct io_req *req)
{
    req->next = NULL;
    req->prev = s->flight_tail;
    if (s->flight_tail == NULL)
        s->flight_head = req;
    else
        s->flight_tail->next = req;
    s->flight_tail = req;
    req->state = IO_REQ_FLYING;
}

static void
flight_remove(struct io_sched *s, struct io_req *req)
{
    ash_assert(req->state == IO_REQ_FLYING);
    if (req->prev == NULL)
        s->flight_head = req->next;
    else
        req->prev->next = req->next;
    if (req->next == NULL)
        s->flight_tail = req->prev;
    else
        req->next->prev = req->prev;
    req->state = IO_REQ_OVER;
}

static void
charge(struct io_sched *s, struct io_req *req, uint64_t now_ns)
{
    uint64_t bytes = req->batch == NULL ? req->bytes - req->progress
                                        : req->batch->end - req->batch->offset;

    s->background++;
    req->cost_ns = io__credit_cost(s->io, req->op, bytes);
    if (!s->io->options.plain)
        io__credit_take(s->io, req->cost_ns, now_ns);
}

struct io_req *
io__sched_next(struct io_sched *s, uint64_t now_ns)
{
    s->wake_ns = TASK_FOREVER;
    if (s->mask == 0)
        return NULL;
    unsigned late = overdue(s, now_ns);
    unsigned c = late != 0 ? late : best(s, now_ns);
    if (c == 0)
        return NULL;
    struct io_queue *q = &s->class[c];
    struct io_req *req = q->head;
    bool was_held = q->window_ns != 0 && !req->waited;
    io__sched_unlink(s, req);
    q->served_ns = now_ns;
    req->dispatch_ns = now_ns;
    req->sent++;
    if (s->count > 0 || (s->windows && c >= IO_CLASS_WRITE))
        io__merge(s, req, now_ns, was_held);
    flight_add(s, req);
    s->in_flight++;
    if (io__background(c))
        charge(s, req, now_ns);
    if (late > IO_CLASS_WRITE && s->meter != NULL)
        io__meter_add(s->meter, &s->meter->stats.overdue[c], 1);
    return req;
}

/* ---- What came of it ---- */

struct io_req *
io__sched_done(struct io_sched *s, struct io_req *leader, int64_t result, uint64_t now_ns)
{
    flight_remove(s, leader);
    s->in_flight--;
    if (io__background(leader->class)) {
        s->background--;
        if (!s->io->options.plain && !(PLANTED(364) && result < 0))
            io__credit_give(s->io, leader->cost_ns);
    } else if (!leader->dsync && leader->op != IO_OP_FLUSH) { /* those take their own time */
        s->fg_count++;
        s->fg_slow += now_ns - leader->dispatch_ns >
                      atomic_load_explicit(&s->io->credit.goal_ns, memory_order_relaxed);
    }
    if (leader->batch != NULL)
        return io__batch_done(s, leader, result);
    if (io__transferred(leader, result)) {
        leader->chain = NULL;
        return leader;
    }
    io__sched_again(s, leader);
    return NULL;
}

/* ---- The watchdog ---- */

uint64_t
io__watch_tick_ns(void)
{
    return io__test_hooks.tick_ns != 0 ? io__test_hooks.tick_ns : TICK_NS;
}

void
io__sched_watch(struct io_sched *s, uint64_t now_ns)
{
    static const char *const op_name[] = { "?", "read", "write", "flush" };
    const uint64_t patience = io__test_hooks.stuck_ns != 0 ? io__test_hooks.stuck_ns : STUCK_NS;
    unsigned found = 0;
    struct io_req *first = NULL;

    for (struct io_req *at = s->flight_head; at != NULL; at = at->next) {
        if (now_ns - at->dispatch_ns < patience)
            break; /* the list is in the order of time */
        if (at->told)
            continue;
        at->told = true;
        found++;
        first = first == NULL ? at : first;
    }
    if (found == 0 || PLANTED(373))
        return;
    io__meter_add(s->meter, &s->meter->stats.stuck, found);
    log_write(LOG_WARN,
              "A %s of %" PRIu32 " bytes at offset %" PRIu64
              " of %s has been in flight for %" PRIu64
              " ms (%u such requests are new); the device may hang. Nothing is given up.",
              op_name[first->op], first->bytes, first->offset, first->file->path,
              (now_ns - first->dispatch_ns) / 1000000, found);
}
