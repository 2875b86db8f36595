/* SPDX-License-Identifier: Apache-2.0
 *
 * test_io_sched.c - the scheduler alone, in time that the test makes: priority, deadlines, credits,
 * windows, merging and sharing out of outcomes.  No device is involved.
 */
#include "base/bits.h"
#include "base/clock.h"

#include <errno.h>

#include "tests/storage/io_env.h"

#define MS     1000000ull
#define BLOCKS 96u
#define FILES  2u

static struct io *io;
static struct io_file file[FILES];
static struct io_meter meter;
static struct io_sched s;
static uint64_t now;
static char path[] = "test";

static uint64_t
test_clock(void)
{
    return now;
}

static void
begin(bool windows)
{
    io = mem_aligned(MEM_TEST, ASH_CACHE_LINE, sizeof(*io));
    ck_assert_ptr_nonnull(io);
    memset(io, 0, sizeof(*io));
    io->options.backend = IO_BACKEND_SIM;
    io__credit_init(io);
    for (unsigned i = 0; i < FILES; i++)
        file[i] = (struct io_file){ .io = io, .id = i + 1, .align = IO_ALIGN, .path = path };
    memset(&meter, 0, sizeof(meter));
    now = 1000 * MS;
    io__sched_init(&s, io, &meter, 1000, windows);
    clock_source = test_clock;
}

static void
end(void)
{
    clock_source = NULL;
    ck_assert_uint_eq(s.count, 0);
    ck_assert_uint_eq(s.in_flight, 0);
    ck_assert_uint_eq(s.background, 0);
    ck_assert_uint_eq(atomic_load(&io->credit.used_ns), 0);
    io__sched_destroy(&s);
    mem_free(MEM_TEST, io);
}

static _Alignas(IO_ALIGN) char some[IO_MERGE_BYTES];

static void
add(struct io_req *req, enum io_class class, enum io_op op, uint64_t block, uint32_t blocks)
{
    *req = (struct io_req){ .file = &file[0],
                            .op = op,
                            .class = class,
                            .offset = block * 4096,
                            .bytes = op == IO_OP_FLUSH ? 0 : blocks * 4096,
                            .buf = some };
    ck_assert(io__begin(io, req, NULL, now, IO_BEGIN_PLAIN));
    io__sched_add(&s, req);
}

/* The whole I/O succeeds. */
static struct io_req *
finish(struct io_req *leader)
{
    int64_t bytes = leader->op == IO_OP_FLUSH ? 0
                    : leader->batch == NULL   ? leader->bytes
                                            : (int64_t)(leader->batch->end - leader->batch->offset);
    return io__sched_done(&s, leader, bytes, now);
}

/* ---- Priority and deadlines ---- */

/* Goal: the better class goes first, whatever the order of arrival. */
START_TEST(the_better_class_goes_first)
{
    struct io_req r[IO_CLASS_COUNT];

    begin(false);
    for (unsigned c = IO_CLASS_COUNT - 1; c > 0; c--)
        add(&r[c], (enum io_class)c, IO_OP_READ, c * 50, 1);
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        ck_assert_ptr_eq(io__sched_next(&s, now), &r[c]);
    ck_assert_ptr_null(io__sched_next(&s, now));
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        ck_assert_ptr_eq(finish(&r[c]), &r[c]);
    end();
}
END_TEST

/* Goal (R10, S4): while every class always has requests, foreground is endless and background has no
 * credit, each class goes at the latest when its deadline has passed, plus the I/Os that were before
 * it in the one slot there is.  Method: simulated time, an I/O takes 10 us to 2 ms. */
START_TEST(no_class_starves_longer_than_its_deadline)
{
    enum {
        PER = 3
    };
    struct io_req r[IO_CLASS_COUNT][PER];
    uint64_t served[IO_CLASS_COUNT], worst[IO_CLASS_COUNT] = { 0 };
    struct random rnd;
    const uint64_t io_max = 2 * MS;

    random_init(&rnd, test_seed((uint64_t)_i + 1));
    begin(_i % 2 == 1);
    io__credit_take(io, 1u << 30, now); /* somebody else has it all */
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++) {
        served[c] = now;
        for (unsigned i = 0; i < PER; i++)
            add(&r[c][i], (enum io_class)c, IO_OP_READ, random_below(&rnd, 1u << 30), 1);
    }
    for (unsigned step = 0; step < 20000; step++) {
        struct io_req *req = io__sched_next(&s, now);
        ck_assert_ptr_nonnull(req); /* the foreground is endless */
        unsigned c = req->class;
        worst[c] = max_u64(worst[c], now - served[c]);
        served[c] = now;
        now += 10000 + random_below(&rnd, io_max - 10000);
        for (struct io_req *over = finish(req), *next; over != NULL; over = next) {
            next = over->chain;
            add(over, (enum io_class)c, IO_OP_READ, random_below(&rnd, 1u << 30), 1);
        }
    }
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++) {
        /* All classes may fall due together, and one I/O is always in the slot. */
        uint64_t bound = io__class_deadline_ns((enum io_class)c) + IO_CLASS_COUNT * io_max;
        ck_assert_msg(worst[c] > 0 && worst[c] <= bound, "class %u waited %lu us of %lu us", c,
                      (unsigned long)worst[c] / 1000, (unsigned long)bound / 1000);
    }
    ck_assert_uint_gt(meter.stats.overdue[IO_CLASS_SCRUB], 0);
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        for (unsigned i = 0; i < PER; i++)
            ck_assert(io__sched_cancel(&s, &r[c][i]));
    io__credit_give(io, 1u << 30);
    end();
}
END_TEST

/* Goal: a request with a deadline of its own goes then, before what came earlier and is better. */
START_TEST(a_deadline_of_its_own_is_kept)
{
    struct io_req a, b, c, fg;

    begin(false);
    add(&a, IO_CLASS_SCRUB, IO_OP_READ, 0, 1);
    for (unsigned i = 0; i < 2; i++) {
        struct io_req *req = i == 0 ? &b : &c;
        *req = (struct io_req){ .file = &file[0],
                                .op = IO_OP_READ,
                                .class = IO_CLASS_SCRUB,
                                .offset = 1 << 20,
                                .bytes = 4096,
                                .buf = some,
                                .deadline_ns = now + (i == 0 ? 3 : 2) * MS };
        ck_assert(io__begin(io, req, NULL, now, IO_BEGIN_PLAIN));
        io__sched_add(&s, req);
    }
    add(&fg, IO_CLASS_READ, IO_OP_READ, 9, 1);
    now += 2 * MS + 1;
    ck_assert_ptr_eq(io__sched_next(&s, now), &c);
    now += MS;
    ck_assert_ptr_eq(io__sched_next(&s, now), &b);
    ck_assert_ptr_eq(io__sched_next(&s, now), &fg);
    ck_assert_ptr_eq(io__sched_next(&s, now), &a);
    finish(&a), finish(&b), finish(&c), finish(&fg);
    end();
}
END_TEST

/* ---- Credits ---- */

/* Goal: without credit the background waits, and says until when; with it it goes at once. */
START_TEST(background_needs_credit)
{
    struct io_req r, first;

    begin(false);
    add(&first, IO_CLASS_SCRUB, IO_OP_WRITE, 500, 1);
    ck_assert_ptr_eq(io__sched_next(&s, now), &first); /* one may always fly */
    io__credit_take(io, 1u << 30, now);
    add(&r, IO_CLASS_COMPACTION, IO_OP_WRITE, 0, 256);
    ck_assert_ptr_null(io__sched_next(&s, now));
    ck_assert_uint_gt(s.wake_ns, now);
    ck_assert_uint_le(s.wake_ns, now + io__class_deadline_ns(IO_CLASS_COMPACTION));
    now += io__class_deadline_ns(IO_CLASS_COMPACTION) - 1;
    ck_assert_ptr_null(io__sched_next(&s, now));
    io__credit_give(io, 1u << 30);
    ck_assert_ptr_eq(io__sched_next(&s, now), &r);
    finish(&r), finish(&first);
    end();
}
END_TEST

/* Goal: the better background classes find room that the others must leave. */
START_TEST(credits_are_kept_for_the_better_classes)
{
    begin(false);
    io__credit_control(io, now); /* the next step is not due now */
    uint64_t limit = atomic_load(&io->credit.limit_ns);
    io__credit_take(io, (uint32_t)(limit / 8 * 7), now);
    ck_assert(!io__credit_ask(io, IO_CLASS_SCRUB));
    ck_assert(!io__credit_ask(io, IO_CLASS_READ_AHEAD));
    ck_assert(!io__credit_ask(io, IO_CLASS_COMPACTION));
    ck_assert(io__credit_ask(io, IO_CLASS_FLUSH));
    ck_assert(io__credit_ask(io, IO_CLASS_PAGE_WRITER));
    io__credit_give(io, (uint32_t)(limit / 8 * 7));
    end();
}
END_TEST

/* `ms` of foreground requests of one latency beside a background that wants more. */
static void
foreground(uint64_t ms, uint64_t latency_ns)
{
    for (uint64_t until = now + ms * MS; now < until; now += 200000) {
        struct io_req r;
        add(&r, IO_CLASS_READ, IO_OP_READ, 5, 1);
        ck_assert_ptr_eq(io__sched_next(&s, now), &r);
        now += latency_ns;
        finish(&r);
        io__sched_publish(&s, now);
        (void)io__credit_ask(io, IO_CLASS_SCRUB);
        io__credit_take(io, 1000, now);
        io__credit_give(io, 1000);
    }
}

/* Goal: the background's depth shrinks while foreground requests are slow, down to a little that is
 * never taken away, and grows back when they are fast or absent. */
START_TEST(background_depth_follows_foreground_latency)
{
    begin(false);
    io__credit_take(io, 1u << 30, now); /* credits are always short */
    uint64_t goal = atomic_load(&io->credit.goal_ns), first = atomic_load(&io->credit.limit_ns);
    foreground(100, goal / 2);
    uint64_t grown = atomic_load(&io->credit.limit_ns);
    ck_assert_uint_ge(grown, first);
    foreground(300, goal * 2);
    uint64_t shrunk = atomic_load(&io->credit.limit_ns);
    ck_assert_uint_le(shrunk, grown / 2);
    ck_assert_uint_gt(shrunk, 0);
    foreground(5000, goal / 2);
    ck_assert_uint_ge(atomic_load(&io->credit.limit_ns), shrunk * 2);
    foreground(300, goal * 2);
    for (unsigned i = 0; i < 100; i++) { /* nobody in the foreground */
        now += 5 * MS;
        io__credit_take(io, 1000, now);
        io__credit_give(io, 1000);
    }
    ck_assert_uint_gt(atomic_load(&io->credit.limit_ns), shrunk * 2);
    io__credit_give(io, 1u << 30);
    end();
}
END_TEST

/* Goal: a model that is wrong corrects itself while nobody else is there. */
START_TEST(the_model_learns_the_device_s_speed)
{
    begin(false);
    io__credit_take(io, 1u << 30, now);
    uint32_t before = atomic_load(&io->credit.speed);
    for (unsigned i = 0; i < 200; i++) { /* ten times the device time that the model gave */
        now += 5 * MS;
        (void)io__credit_ask(io, IO_CLASS_SCRUB);
        io__credit_take(io, 50 * MS, now);
        io__credit_give(io, 50 * MS);
    }
    uint32_t after = atomic_load(&io->credit.speed);
    ck_assert_uint_ge(after, before * 8);
    ck_assert_uint_le(after, before * 12);
    io__credit_give(io, 1u << 30);
    end();
}
END_TEST

/* ---- Windows ---- */

/* Goal (S5): a request that came just behind its neighbour's I/O opens the window; in it companions
 * gather; waiting for one of them ends it at once; windows that bring nobody close. */
START_TEST(windows_open_and_close_by_what_they_bring)
{
    struct io_req r[8];

    begin(true);
    s.class[IO_CLASS_FLUSH].window_ns = 0;
    add(&r[0], IO_CLASS_FLUSH, IO_OP_WRITE, 0, 1);
    ck_assert_ptr_eq(io__sched_next(&s, now), &r[0]); /* no window yet: at once */
    finish(&r[0]);
    now += MS;
    add(&r[1], IO_CLASS_FLUSH, IO_OP_WRITE, 1, 1); /* a little late */
    uint64_t window = s.class[IO_CLASS_FLUSH].window_ns;
    ck_assert_uint_ge(window, MS);
    ck_assert_uint_le(window, IO_WINDOW_MAX_NS);
    ck_assert_ptr_null(io__sched_next(&s, now));
    ck_assert_uint_eq(s.wake_ns, now + window);
    now += window / 2;
    add(&r[2], IO_CLASS_FLUSH, IO_OP_WRITE, 2, 1);
    now += window / 2;
    struct io_req *led = io__sched_next(&s, now);
    ck_assert_ptr_eq(led, &r[1]);
    ck_assert_ptr_nonnull(led->batch);
    struct io_req *over = finish(led);
    ck_assert_ptr_eq(over, &r[1]);
    ck_assert_ptr_eq(over->chain, &r[2]);
    /* Somebody waits: nothing is held. */
    add(&r[3], IO_CLASS_FLUSH, IO_OP_WRITE, 100, 1);
    ck_assert_ptr_null(io__sched_next(&s, now));
    io__sched_waited(&s, &r[3]);
    ck_assert_ptr_eq(io__sched_next(&s, now), &r[3]);
    finish(&r[3]);
    /* A kick is as good. */
    add(&r[4], IO_CLASS_FLUSH, IO_OP_WRITE, 200, 1);
    io__sched_kick(&s);
    ck_assert_ptr_eq(io__sched_next(&s, now), &r[4]);
    finish(&r[4]);
    for (unsigned i = 0; i < 20; i++) { /* nobody comes */
        add(&r[5], IO_CLASS_FLUSH, IO_OP_WRITE, 1000 + i * 10, 1);
        now += 100 * MS;
        ck_assert_ptr_eq(io__sched_next(&s, now), &r[5]);
        finish(&r[5]);
    }
    ck_assert_uint_eq(s.class[IO_CLASS_FLUSH].window_ns, 0);
    end();
}
END_TEST

/* Goal: the log and foreground reads are never held, whatever came just behind. */
START_TEST(the_log_is_never_held)
{
    struct io_req a, b;

    begin(true);
    for (unsigned c = IO_CLASS_WAL; c <= IO_CLASS_READ; c++) {
        for (unsigned i = 0; i < 5; i++) {
            enum io_op op = c == IO_CLASS_WAL ? IO_OP_WRITE : IO_OP_READ;
            add(&a, (enum io_class)c, op, i * 2, 1);
            ck_assert_ptr_eq(io__sched_next(&s, now), &a);
            add(&b, (enum io_class)c, op, i * 2 + 1, 1);
            ck_assert_ptr_eq(io__sched_next(&s, now), &b);
            ck_assert_ptr_null(a.batch);
            finish(&a), finish(&b);
            now += 1000;
        }
    }
    end();
}
END_TEST

/* ---- Merging ---- */

/* Goal: 4 KiB writes that fill a range, in any order, become one I/O of at most 1 MiB. */
START_TEST(a_range_in_any_order_is_few_ios)
{
    enum {
        N = 512
    };
    const uint32_t blocks = _i % 2 == 0 ? 1 : 16;
    static struct io_req r[N];
    unsigned order[N], ios = 0;
    struct random rnd;

    random_init(&rnd, test_seed((uint64_t)_i + 1));
    begin(false);
    for (unsigned i = 0; i < N; i++)
        order[i] = i;
    for (unsigned i = N - 1; i > 0; i--) {
        unsigned k = (unsigned)random_below(&rnd, i + 1), t = order[i];
        order[i] = order[k];
        order[k] = t;
    }
    for (unsigned i = 0; i < N; i++)
        add(&r[order[i]], IO_CLASS_WRITE, IO_OP_WRITE, order[i] * blocks, blocks);
    for (struct io_req *led; (led = io__sched_next(&s, now)) != NULL; ios++) {
        ck_assert_uint_le(led->batch == NULL ? 0 : led->batch->end - led->batch->offset,
                          IO_MERGE_BYTES);
        for (struct io_req *over = finish(led); over != NULL; over = over->chain)
            over->done = true;
    }
    for (unsigned i = 0; i < N; i++)
        ck_assert(r[i].done);
    /* Full ones at best; one grows from its middle and leaves parts that are not. */
    ck_assert_uint_le(ios, N * blocks * 4096 / IO_MERGE_BYTES * 2);
    end();
}
END_TEST

/* Goal: background reads merge over small gaps, which go nowhere; foreground reads only with the
 * next in the queue. */
START_TEST(reads_merge_when_they_are_near)
{
    struct io_req r[4];

    begin(false);
    add(&r[0], IO_CLASS_SCRUB, IO_OP_READ, 10, 1);
    add(&r[1], IO_CLASS_SCRUB, IO_OP_READ, 13, 1);
    add(&r[2], IO_CLASS_SCRUB, IO_OP_READ, 19, 1); /* 20 KiB behind: too far */
    add(&r[3], IO_CLASS_SCRUB, IO_OP_READ, 8, 2);
    struct io_req *led = io__sched_next(&s, now);
    ck_assert_ptr_eq(led, &r[0]);
    ck_assert_ptr_nonnull(led->batch);
    ck_assert_uint_eq(led->batch->offset, 8 * 4096);
    ck_assert_uint_eq(led->batch->end, 14 * 4096);
    ck_assert_uint_eq(led->batch->iov_count, 4);
    ck_assert_uint_eq(meter.stats.gap_bytes, 8192);
    ck_assert_ptr_eq(io__sched_next(&s, now), &r[2]);
    ck_assert_ptr_eq(finish(led), &r[3]);
    ck_assert_ptr_eq(r[3].chain, &r[0]);
    finish(&r[2]);
    add(&r[0], IO_CLASS_READ, IO_OP_READ, 10, 1);
    add(&r[1], IO_CLASS_READ, IO_OP_READ, 11, 1);
    add(&r[2], IO_CLASS_READ, IO_OP_READ, 13, 1);
    led = io__sched_next(&s, now);
    ck_assert_uint_eq(led->batch->end - led->batch->offset, 8192);
    ck_assert_ptr_eq(io__sched_next(&s, now), &r[2]);
    finish(led), finish(&r[2]);
    end();
}
END_TEST

/* ---- A model of the device ---- */

struct model_req {
    struct io_req req;
    struct iovec iov[3];
    char *buf;
    bool busy, over;
    unsigned version;
};

#define MODEL_REQS 64u

static char device[FILES][BLOCKS][4096];
static int writers[FILES][BLOCKS]; /* -1: being written; > 0: being read */
static unsigned version[FILES][BLOCKS];

static void
stamp(char *block, unsigned f, uint64_t b, unsigned v)
{
    memset(block, 0, 64);
    snprintf(block, 64, "%u.%u.%u", f, (unsigned)b, v);
}

/* Moves `bytes` of the I/O between memory and device. */
static void
transfer(struct io_req *led, uint32_t bytes)
{
    const struct iovec *iov;
    unsigned count, f = (unsigned)(led->file - file);
    uint32_t all;
    uint64_t at = io__segment(led, &iov, &count, &all);
    char *dev = &device[f][0][0] + at;

    for (unsigned i = 0; i < count && bytes > 0; i++) {
        size_t n = min_u64(iov[i].iov_len, bytes);
        if (led->op == IO_OP_READ)
            memcpy(iov[i].iov_base, dev, n);
        else
            memcpy(dev, iov[i].iov_base, n);
        dev += n;
        bytes -= (uint32_t)n;
    }
}

static bool
model_add(struct model_req *m, struct random *rnd)
{
    unsigned f = (unsigned)random_below(rnd, FILES), blocks = 1 + (unsigned)random_below(rnd, 3);
    uint64_t at = random_below(rnd, BLOCKS - blocks);
    bool read = random_chance(rnd, 1, 2), vector = random_chance(rnd, 1, 3);
    enum io_class class = random_chance(rnd, 2, 3)
                              ? IO_CLASS_COMPACTION
                              : (enum io_class)(1 + random_below(rnd, IO_CLASS_COUNT - 1));

    for (unsigned i = 0; i < blocks; i++)
        if (read ? writers[f][at + i] < 0 : writers[f][at + i] != 0)
            return false; /* R9 */
    for (unsigned i = 0; i < blocks; i++) {
        writers[f][at + i] += read ? 1 : -1;
        if (!read)
            stamp(m->buf + i * 4096, f, at + i, ++version[f][at + i]);
        else
            memset(m->buf + i * 4096, 0xff, 4096);
        m->iov[i] = (struct iovec){ m->buf + i * 4096, 4096 };
    }
    m->req = (struct io_req){ .file = &file[f],
                              .op = read ? IO_OP_READ : IO_OP_WRITE,
                              .class = class,
                              .offset = at * 4096,
                              .bytes = blocks * 4096,
                              .buf = m->buf,
                              .iov = vector ? m->iov : NULL,
                              .iov_count = vector ? blocks : 0,
                              .dsync = !read && random_chance(rnd, 1, 8) };
    m->busy = true;
    m->over = false;
    ck_assert(io__begin(io, &m->req, NULL, now, IO_BEGIN_PLAIN));
    io__sched_add(&s, &m->req);
    return true;
}

/* What the request says must be what the device holds. */
static void
model_over(struct io_req *req, bool may_fail)
{
    struct model_req *m = list_entry(req, struct model_req, req);
    unsigned f = (unsigned)(req->file - file);
    uint64_t at = req->offset / 4096;

    ck_assert(m->busy && !m->over);
    m->over = true;
    m->busy = false;
    ck_assert(req->rc == ASH_OK || may_fail);
    for (unsigned i = 0; i < req->bytes / 4096; i++) {
        char want[64];
        writers[f][at + i] += req->op == IO_OP_READ ? -1 : 1;
        if (req->rc != ASH_OK) {
            memcpy(device[f][at + i], m->buf + i * 4096, 64); /* nobody knows: settle it */
            stamp(device[f][at + i], f, at + i, version[f][at + i]);
            continue;
        }
        stamp(want, f, at + i, version[f][at + i]);
        ck_assert_msg(memcmp(m->buf + i * 4096, want, 64) == 0, "file %u block %u: %s, not %s", f,
                      (unsigned)at + i, m->buf + i * 4096, want);
        ck_assert_msg(memcmp(device[f][at + i], want, 64) == 0, "device %u block %u: %s, not %s", f,
                      (unsigned)at + i, device[f][at + i], want);
    }
}

/* One I/O ends in one of many ways. */
static void
model_complete(struct io_req *led, struct random *rnd)
{
    const struct iovec *iov;
    unsigned count;
    uint32_t all;
    uint64_t offset = io__segment(led, &iov, &count, &all);
    bool merged = led->batch != NULL, write = led->op == IO_OP_WRITE;
    int64_t result = all;
    struct io_req *over, *next;

    if (merged && write) /* companions agree (S3) */
        for (struct io_req *c = led->batch->head; c != NULL; c = c->chain)
            ck_assert(c->dsync == led->dsync && c->class == led->class && c->file == led->file);
    switch (random_below(rnd, 8)) {
    case 0: result = -EAGAIN; break;
    case 1: result = (int64_t)random_below(rnd, all); break;
    case 2: result = random_chance(rnd, 1, 4) ? -EIO : -EINTR; break;
    default: break;
    }
    if (led->retries > 8)
        result = all;
    transfer(led, result > 0 ? (uint32_t)result : 0);
    unsigned ended = 0, failed = 0;
    for (over = io__sched_done(&s, led, result, now); over != NULL; over = next, ended++) {
        next = over->chain;
        failed += over->rc != ASH_OK;
        /* A read fails only by an error of its own I/O. */
        ck_assert(over->rc == ASH_OK || !merged || write);
        model_over(over, result == -EIO);
    }
    if (result == -EIO && write)
        ck_assert_uint_eq(failed, ended); /* all of a failed write */
    ck_assert(result != (int64_t)all || ended > 0);
    (void)offset;
}

/* Goal (S1..S6, R11): whatever mix of requests goes through, merged or not, short, failing, asked to
 * come again or taken back: each ends exactly once, with the truth, and its bytes are where they
 * belong.  Method: a device in memory and random outcomes. */
START_TEST(outcomes_are_shared_out_truthfully)
{
    static struct model_req m[MODEL_REQS];
    struct io_req *flying[MODEL_REQS];
    unsigned flights = 0, merges = 0;
    struct random rnd;

    random_init(&rnd, test_seed((uint64_t)_i + 1));
    begin(_i % 2 == 0);
    memset(writers, 0, sizeof(writers));
    memset(version, 0, sizeof(version));
    for (unsigned f = 0; f < FILES; f++)
        for (unsigned b = 0; b < BLOCKS; b++)
            stamp(device[f][b], f, b, 0);
    for (unsigned i = 0; i < MODEL_REQS; i++) {
        m[i].buf = env_buffer(3 * 4096);
        m[i].busy = false;
    }
    for (unsigned step = 0; step < 4000; step++) {
        struct model_req *x = &m[random_below(&rnd, MODEL_REQS)];
        now += random_below(&rnd, 200000);
        unsigned what = (unsigned)random_below(&rnd, 10);
        bool draining = step > 3000;
        if (what < 5 && !draining && !x->busy) {
            model_add(x, &rnd);
        } else if (what == 5 && x->busy) {
            io__sched_waited(&s, &x->req);
        } else if (what == 6 && x->busy && io__sched_cancel(&s, &x->req)) {
            x->req.rc = ASH_CANCELLED;
            model_over(&x->req, true);
        } else if (what < 8 && flights < 8) {
            struct io_req *led = io__sched_next(&s, now);
            if (led != NULL) {
                merges += led->batch != NULL;
                flying[flights++] = led;
            }
        } else if (flights > 0) {
            unsigned k = (unsigned)random_below(&rnd, flights);
            struct io_req *led = flying[k];
            flying[k] = flying[--flights];
            model_complete(led, &rnd);
        }
    }
    for (unsigned turn = 0; s.count + flights > 0; turn++) {
        ck_assert_uint_lt(turn, 100000);
        now += MS;
        struct io_req *led = io__sched_next(&s, now);
        if (led != NULL) {
            flying[flights++] = led;
            ck_assert_uint_lt(flights, MODEL_REQS);
        }
        if (flights > 0)
            model_complete(flying[--flights], &rnd);
    }
    ck_assert_uint_gt(merges, 20);
    for (unsigned i = 0; i < MODEL_REQS; i++) {
        ck_assert(!m[i].busy);
        mem_free(MEM_TEST, m[i].buf);
    }
    end();
}
END_TEST

/* ---- The watchdog ---- */

/* Goal: what is in flight too long is reported once, and still ends well. */
START_TEST(a_stuck_request_is_reported_once)
{
    struct io_req a, b;

    env_log_start();
    begin(false);
    add(&a, IO_CLASS_READ, IO_OP_READ, 7, 1);
    ck_assert_ptr_eq(io__sched_next(&s, now), &a);
    now += 9000 * MS;
    add(&b, IO_CLASS_READ, IO_OP_READ, 9, 1);
    ck_assert_ptr_eq(io__sched_next(&s, now), &b);
    io__sched_watch(&s, now);
    ck_assert_uint_eq(env_log.count, 0);
    now += 2000 * MS;
    io__sched_watch(&s, now);
    ck_assert_uint_eq(env_log.count, 1);
    ck_assert_ptr_nonnull(strstr(env_log.last, "offset 28672 of test"));
    io__sched_watch(&s, now);
    ck_assert_uint_eq(env_log.count, 1);
    ck_assert_uint_eq(meter.stats.stuck, 1);
    finish(&a), finish(&b);
    end();
}
END_TEST

/* ---- The model's file ---- */

/* Goal: a stored model is read back, and any damage to its text is noticed. */
START_TEST(a_damaged_model_is_refused)
{
    struct io_model a = { 1, 1000000000, 10000, 2600000000, 60000, 123456 }, b;
    char *page = env_buffer(IO_ALIGN);

    io__model_encode(&a, page);
    ck_assert(io__model_decode(page, &b));
    ck_assert_mem_eq(&a, &b, sizeof(a));
    size_t size = strlen("ashlar io model 1\n");
    size = (size_t)(strstr(page, "crc32c ") - page) + strlen("crc32c 00000000\n");
    for (size_t i = 0; i < size * 8; i++) {
        page[i / 8] = (char)(page[i / 8] ^ (1 << i % 8));
        ck_assert_msg(!io__model_decode(page, &b), "bit %zu", i);
        page[i / 8] = (char)(page[i / 8] ^ (1 << i % 8));
    }
    struct random rnd;
    random_init(&rnd, test_seed(5));
    for (unsigned k = 0; k < 20000; k++) { /* never a crash */
        for (unsigned n = (unsigned)random_below(&rnd, 20); n > 0; n--)
            page[random_below(&rnd, 300)] = (char)random_below(&rnd, 256);
        if (k % 50 == 0)
            io__model_encode(&a, page);
        (void)io__model_decode(page, &b);
    }
    mem_free(MEM_TEST, page);
}
END_TEST

static Suite *
suite(void)
{
    Suite *su = suite_create("io_sched");
    TCase *t = tcase_create("scheduler");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, the_better_class_goes_first);
    tcase_add_loop_test(t, no_class_starves_longer_than_its_deadline, 0, 20);
    tcase_add_test(t, a_deadline_of_its_own_is_kept);
    tcase_add_test(t, background_needs_credit);
    tcase_add_test(t, credits_are_kept_for_the_better_classes);
    tcase_add_test(t, background_depth_follows_foreground_latency);
    tcase_add_test(t, the_model_learns_the_device_s_speed);
    tcase_add_test(t, windows_open_and_close_by_what_they_bring);
    tcase_add_test(t, the_log_is_never_held);
    tcase_add_test(t, a_stuck_request_is_reported_once);
    tcase_add_test(t, a_damaged_model_is_refused);
    suite_add_tcase(su, t);
    t = tcase_create("merging");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, a_range_in_any_order_is_few_ios, 0, 10);
    tcase_add_test(t, reads_merge_when_they_are_near);
    tcase_add_loop_test(t, outcomes_are_shared_out_truthfully, 0, (int)test_scale(40, 1000));
    suite_add_tcase(su, t);
    return su;
}

TEST_MAIN(suite)
