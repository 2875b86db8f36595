/* SPDX-License-Identifier: Apache-2.0
 *
 * io_coalesce.c - adjacent requests travel as one I/O.
 *
 * Entry points: io__merge(), io__batch_done().   Read first: io_sched_int.h (S3, S5, S6).
 *
 * Requests find each other by an index of first and last bytes; order of arrival does not matter.
 * Foreground reads have no index: only those that come one behind the other merge, which costs them
 * a comparison.  The log's writes are never merged: each has someone who waits.
 *
 * The window (0 to 10 ms, per class) is for requests that nobody waits for yet.  It opens when a
 * request comes just too late to travel with its neighbour, as wide as it was late, twice; it
 * closes by halves when waiting brought nobody.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/mem.h"
#include "storage/io_int.h"

#include <errno.h>

#define WINDOW_MIN_NS 20000ull /* narrower is none */

static bool
mergeable(const struct io_sched *s, const struct io_req *req)
{
    return req->class != IO_CLASS_WAL && !req->alone && !req->quiet && req->op != IO_OP_FLUSH &&
           req->bytes < IO_MERGE_BYTES && !s->io->options.plain;
}

/* ---- The index ---- */

static unsigned
bucket(const struct io_file *f, uint64_t at)
{
    uint64_t h = (f->id * 0x9e3779b97f4a7c15ull) ^ ((at >> 12) * 0xc2b2ae3d27d4eb4full);
    return (unsigned)(h >> 40) % IO_INDEX_SIZE;
}

static bool
index_make(struct io_sched *s)
{
    struct err_detail saved;

    if (ASH_LIKELY(s->start != NULL))
        return true;
    err_save(&saved);
    s->start = mem_zalloc(MEM_IO, 2 * IO_INDEX_SIZE * sizeof(struct io_req *));
    s->end = s->start == NULL ? NULL : s->start + IO_INDEX_SIZE;
    err_restore(&saved);
    return s->start != NULL;
}

/* A request that comes just behind the I/O of its neighbour opens the window. */
static void
note_arrival(struct io_sched *s, const struct io_req *req)
{
    struct io_queue *q = &s->class[req->class];

    for (unsigned i = 0; i < IO_RECENT; i++) {
        const struct io_recent *r = &q->recent[i];
        if (r->file != req->file->id || r->op != req->op ||
            (r->end != req->offset && r->offset != req->offset + req->bytes) ||
            req->submit_ns < r->at_ns || req->submit_ns - r->at_ns > IO_WINDOW_MAX_NS)
            continue;
        uint64_t wide = min_u64(2 * (req->submit_ns - r->at_ns), IO_WINDOW_MAX_NS);
        q->window_ns = max_u64(q->window_ns, max_u64(wide, WINDOW_MIN_NS));
    }
}

void
io__index_add(struct io_sched *s, struct io_req *req)
{
    if (!mergeable(s, req) || !index_make(s))
        return;
    struct io_req **at = &s->start[bucket(req->file, req->offset)];
    req->start_next = *at;
    *at = req;
    at = &s->end[bucket(req->file, req->offset + req->bytes)];
    req->end_next = *at;
    *at = req;
    req->indexed = true;
    if (s->windows)
        note_arrival(s, req);
}

void
io__index_remove(struct io_sched *s, struct io_req *req)
{
    struct io_req **at = &s->start[bucket(req->file, req->offset)];
    while (*at != req)
        at = &(*at)->start_next;
    *at = req->start_next;
    at = &s->end[bucket(req->file, req->offset + req->bytes)];
    while (*at != req)
        at = &(*at)->end_next;
    *at = req->end_next;
    req->indexed = false;
}

/* S3 */
static bool
alike(const struct io_req *a, const struct io_req *b)
{
    return a->file == b->file && a->op == b->op && a->class == b->class &&
           (a->dsync == b->dsync || PLANTED(370));
}

static struct io_req *
find_start(const struct io_sched *s, const struct io_req *like, uint64_t offset)
{
    struct io_req *at = s->start[bucket(like->file, offset)];
    while (at != NULL && !(at->offset == offset && alike(at, like)))
        at = at->start_next;
    return at;
}

static struct io_req *
find_end(const struct io_sched *s, const struct io_req *like, uint64_t end)
{
    struct io_req *at = s->end[bucket(like->file, end)];
    while (at != NULL && !(at->offset + at->bytes == end && alike(at, like)))
        at = at->end_next;
    return at;
}

/* ---- Gathering ---- */

/* What a merged I/O is while it grows: a chain in the order of offsets. */
struct run {
    struct io_req *head, *tail;
    uint64_t offset, end;
    uint32_t iov, count;
    uint64_t gaps;
};

static uint32_t
entries(const struct io_req *req)
{
    return req->iov_count == 0 ? 1 : req->iov_count;
}

static bool
run_has_room(const struct run *r, const struct io_req *req, uint64_t gap)
{
    return (r->end - r->offset + req->bytes + gap <= IO_MERGE_BYTES || PLANTED(371)) &&
           r->iov + entries(req) + (gap != 0) <= IO_MERGE_IOV;
}

static void
run_append(struct io_sched *s, struct run *r, struct io_req *req, uint64_t gap)
{
    io__sched_unlink(s, req);
    req->state = IO_REQ_FLYING;
    r->tail->chain = req;
    req->chain = NULL;
    r->tail = req;
    r->end = req->offset + req->bytes;
    r->iov += entries(req) + (gap != 0);
    r->gaps += gap;
    r->count++;
}

static void
run_prepend(struct io_sched *s, struct run *r, struct io_req *req, uint64_t gap)
{
    io__sched_unlink(s, req);
    req->state = IO_REQ_FLYING;
    req->chain = r->head;
    r->head = req;
    r->offset = req->offset;
    r->iov += entries(req) + (gap != 0);
    r->gaps += gap;
    r->count++;
}

/* Grows both ways over adjacent requests, and reads of the background over small gaps, too. */
static void
run_grow(struct io_sched *s, struct run *r)
{
    const struct io_req *like = r->head;
    bool gaps = like->op == IO_OP_READ && s->scratch != NULL && like->file->align == IO_ALIGN;
    uint64_t gap_max = gaps ? IO_GAP_BYTES : 0;

    for (uint64_t gap = 0; gap <= gap_max;) {
        struct io_req *req = find_start(s, like, r->end + gap);
        if (req != NULL && run_has_room(r, req, gap)) {
            run_append(s, r, req, gap);
            gap = 0;
        } else {
            gap += IO_ALIGN;
        }
    }
    for (uint64_t gap = 0; gap <= gap_max && gap < r->offset;) {
        struct io_req *req = find_end(s, like, r->offset - gap);
        if (req != NULL && run_has_room(r, req, gap)) {
            run_prepend(s, r, req, gap);
            gap = 0;
        } else {
            gap += IO_ALIGN;
        }
    }
}

/* Foreground reads: the ones that follow in the queue. */
static void
run_follow(struct io_sched *s, struct run *r)
{
    struct io_queue *q = &s->class[r->head->class];

    while (q->head != NULL && q->head->offset == r->end && q->head->op == IO_OP_READ &&
           !q->head->alone && alike(q->head, r->head) && run_has_room(r, q->head, 0))
        run_append(s, r, q->head, 0);
}

static struct io_batch *
batch_get(struct io_sched *s)
{
    struct io_batch *b = s->batches;
    if (b != NULL)
        s->batches = b->next_free;
    return b;
}

static void
batch_put(struct io_sched *s, struct io_batch *b)
{
    b->next_free = s->batches;
    s->batches = b;
}

static void
batch_fill(const struct io_sched *s, struct io_batch *b, const struct run *r)
{
    uint64_t at = r->offset;
    uint32_t n = 0;

    for (const struct io_req *m = r->head; m != NULL; m = m->chain) {
        ash_assert(m->offset >= at); /* S3 */
        if (m->offset > at)
            b->iov[n++] = (struct iovec){ s->scratch, m->offset - at };
        if (m->iov_count == 0)
            b->iov[n++] = (struct iovec){ m->buf, m->bytes };
        for (uint32_t i = 0; i < m->iov_count; i++)
            b->iov[n++] = m->iov[i];
        at = m->offset + m->bytes;
    }
    ash_assert(at == r->end && n == r->iov);
    b->iov_count = n;
    b->offset = r->offset;
    b->end = r->end;
    b->head = r->head;
    if (PLANTED(365)) {
        struct iovec first = b->iov[0];
        b->iov[0] = b->iov[1];
        b->iov[1] = first;
    }
}

/* Memory for one more merged I/O, for the index, and for gaps.  Without it nothing is merged. */
static bool
make_ready(struct io_sched *s, bool gaps)
{
    struct err_detail saved;

    if (s->batches != NULL && (!gaps || s->scratch != NULL))
        return true;
    err_save(&saved);
    if (s->batches == NULL) {
        struct io_batch *b = mem_alloc(MEM_IO, sizeof(*b));
        if (b != NULL)
            batch_put(s, b);
    }
    if (gaps && s->scratch == NULL)
        s->scratch = mem_aligned(MEM_IO, IO_ALIGN, IO_GAP_BYTES);
    err_restore(&saved);
    return s->batches != NULL;
}

/* Without a poller the window could only be kept by delaying somebody. */
static void
note_departure(struct io_sched *s, const struct run *r, uint64_t now_ns, bool was_held)
{
    struct io_queue *q = &s->class[r->head->class];

    if (!s->windows)
        return;
    if (was_held && r->count == 1 && now_ns - q->narrowed_ns > q->window_ns) {
        q->narrowed_ns = now_ns; /* many may end their wait together: that counts once */
        q->window_ns = q->window_ns / 2 < WINDOW_MIN_NS ? 0 : q->window_ns / 2;
    }
    q->recent[q->recent_next++ % IO_RECENT] = (struct io_recent){ .file = r->head->file->id,
                                                                  .offset = r->offset,
                                                                  .end = r->end,
                                                                  .at_ns = now_ns,
                                                                  .op = r->head->op };
}

void
io__merge(struct io_sched *s, struct io_req *leader, uint64_t now_ns, bool was_held)
{
    struct run r = { .head = leader,
                     .tail = leader,
                     .offset = leader->offset,
                     .end = leader->offset + leader->bytes,
                     .iov = entries(leader),
                     .count = 1 };
    const struct io_req *follower = s->class[IO_CLASS_READ].head;

    if (leader->class == IO_CLASS_READ && (follower == NULL || follower->offset != r.end))
        return;
    if (!mergeable(s, leader))
        return;
    if (leader->class != IO_CLASS_READ && s->start == NULL)
        return;
    if (!make_ready(s, leader->op == IO_OP_READ && io__background(leader->class)))
        return;
    leader->chain = NULL;
    if (leader->class == IO_CLASS_READ)
        run_follow(s, &r);
    else
        run_grow(s, &r);
    if (leader->class != IO_CLASS_READ)
        note_departure(s, &r, now_ns, was_held);
    if (r.count == 1)
        return;
    leader->batch = batch_get(s);
    batch_fill(s, leader->batch, &r);
    if (r.gaps != 0)
        io__meter_add(s->meter, &s->meter->stats.gap_bytes, r.gaps);
}

uint64_t
io__held_until(struct io_queue *q, uint64_t now_ns)
{
    while (q->held != NULL &&
           (q->bytes >= IO_HOLD_BYTES || q->held->submit_ns + q->window_ns <= now_ns))
        q->held = q->held->next;
    if (q->held == NULL || q->held != q->head)
        return 0;
    return q->held->submit_ns + q->window_ns;
}

/* ---- The outcome, shared out (R11) ---- */

/* True: the request is over. */
static bool
share(struct io_req *m, int64_t result, uint64_t reached)
{
    if (result >= 0) {
        uint64_t got = reached <= m->offset ? 0 : min_u64(reached - m->offset, m->bytes);
        m->progress = (uint32_t)got;
        if (got == m->bytes || (PLANTED(360) && got > 0))
            return true;
        m->retries++;
        return false;
    }
    bool again = result == -EAGAIN || result == -EINTR;
    if (again || (m->op == IO_OP_READ && !PLANTED(362))) {
        m->retries++;
        return false;
    }
    io__fail(m, err_from_errno((int)-result), (int)-result);
    return true;
}

struct io_req *
io__batch_done(struct io_sched *s, struct io_req *leader, int64_t result)
{
    struct io_batch *b = leader->batch;
    struct io_req *over = NULL, **over_end = &over, *again = NULL, *next;
    uint64_t reached = b->offset;

    ash_assert(result <= (int64_t)(b->end - b->offset));
    if (result > 0)
        reached += round_down((uint64_t)result, leader->file->align);
    leader->batch = NULL;
    for (struct io_req *m = b->head; m != NULL; m = next) {
        next = m->chain;
        m->state = IO_REQ_OVER;
        if (share(m,
                  PLANTED(361) && m != b->head && result < 0 ? (int64_t)(b->end - b->offset)
                                                             : result,
                  PLANTED(361) && result < 0 ? b->end : reached)) {
            *over_end = m;
            over_end = &m->chain;
        } else {
            m->chain = again;
            again = m;
        }
    }
    *over_end = NULL;
    batch_put(s, b);
    for (; again != NULL; again = next) { /* the last first: each goes in front */
        next = again->chain;
        io__sched_again(s, again);
    }
    return over;
}
