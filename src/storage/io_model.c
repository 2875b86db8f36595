/* SPDX-License-Identifier: Apache-2.0
 *
 * io_model.c - credits: how much device time background I/O may have in flight.
 *
 * Entry points: io__credit_*().   Read first: io_sched_int.h (S2).
 *
 * The model prices an I/O in nanoseconds of device time: one operation plus its bytes.  What the
 * background has in flight is the queue that a foreground request finds before it, so that sum is
 * bounded; completions give it back.  The bound moves once in CONTROL_NS:
 *   - foreground I/O is there: it shrinks when more than one request in a hundred is slower than
 *     the goal, and grows when fewer are and the background asked for more;
 *   - none for IDLE_NS: it grows to its maximum.
 * Meanwhile `speed` learns how far the model is off: device time done per time while credits were
 * short.  It learns only while the foreground is idle, when the bound itself is not what limits.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "storage/io_int.h"

#define CONTROL_NS   4000000ull
#define IDLE_NS      30000000ull
#define LIMIT_MIN_NS 2000000ull /* less would leave the device idle between two large I/Os */
#define LIMIT_MAX_NS 8000000ull
#define SPEED_ONE    256u
#define SPEED_MIN    8u
#define SPEED_MAX    (SPEED_ONE * 32)
#define GOAL_PERCENT 1 /* of the foreground requests may be slower than the goal */
#define GAIN         400
#define PUBLISH_NS   1000000ull
#define ACTIVE_NS    100000000ull /* background I/O this long ago still counts */

/* A middling SSD. */
static const struct io_model guess = {
    .read_iops = 100000,
    .write_iops = 60000,
    .read_bytes = 1000000000,
    .write_bytes = 1000000000,
    .read_ns = 100000,
    .write_ns = 100000,
};

static uint32_t
mib_ns(uint64_t bytes_per_second)
{
    return (uint32_t)min_u64((1ull << 20) * 1000000000ull / bytes_per_second, UINT32_MAX);
}

/* What a 4 KiB request costs beyond its bytes. */
static uint32_t
op_ns(uint64_t iops, uint32_t per_mib)
{
    uint64_t whole = 1000000000ull / iops, bytes = per_mib / 256;
    return whole > bytes ? (uint32_t)(whole - bytes) : 0;
}

void
io__model_use(struct io *io, const struct io_model *m)
{
    struct io_credit *c = &io->credit;
    uint32_t read_mib = mib_ns(m->read_bytes), write_mib = mib_ns(m->write_bytes);

    io__lock(&io->lock);
    c->model = *m;
    io__unlock(&io->lock);
    atomic_store_explicit(&c->read_mib_ns, read_mib, memory_order_relaxed);
    atomic_store_explicit(&c->write_mib_ns, write_mib, memory_order_relaxed);
    atomic_store_explicit(&c->read_op_ns, op_ns(m->read_iops, read_mib), memory_order_relaxed);
    atomic_store_explicit(&c->write_op_ns, op_ns(m->write_iops, write_mib), memory_order_relaxed);
    /* Slow is what waited for more than one large background write besides its own time. */
    atomic_store_explicit(&c->goal_ns, 8 * m->read_ns + write_mib, memory_order_relaxed);
    atomic_store_explicit(&c->speed, SPEED_ONE, memory_order_relaxed);
}

void
io__credit_init(struct io *io)
{
    atomic_store_explicit(&io->credit.limit_ns, LIMIT_MAX_NS / 2, memory_order_relaxed);
    io__model_use(io, &guess);
}

void
io_model(struct io *io, struct io_model *out)
{
    io__lock(&io->lock);
    *out = io->credit.model;
    io__unlock(&io->lock);
}

uint32_t
io__credit_cost(const struct io *io, enum io_op op, uint64_t bytes)
{
    const struct io_credit *c = &io->credit;
    bool read = op == IO_OP_READ;
    uint64_t per_op =
        atomic_load_explicit(read ? &c->read_op_ns : &c->write_op_ns, memory_order_relaxed);
    uint64_t per_mib =
        atomic_load_explicit(read ? &c->read_mib_ns : &c->write_mib_ns, memory_order_relaxed);

    return (uint32_t)min_u64(per_op + (op == IO_OP_FLUSH ? 0 : bytes * per_mib >> 20), UINT32_MAX);
}

bool
io__credit_ask(struct io *io, enum io_class class)
{
    /* In eighths of the limit: the better background classes find room that the others leave. */
    static const uint8_t part[IO_CLASS_COUNT] = { [IO_CLASS_PAGE_WRITER] = 8,
                                                  [IO_CLASS_FLUSH] = 8,
                                                  [IO_CLASS_COMPACTION] = 7,
                                                  [IO_CLASS_READ_AHEAD] = 6,
                                                  [IO_CLASS_SCRUB] = 4 };
    struct io_credit *c = &io->credit;
    uint64_t used = atomic_load_explicit(&c->used_ns, memory_order_relaxed);
    uint64_t limit = atomic_load_explicit(&c->limit_ns, memory_order_relaxed) *
                     atomic_load_explicit(&c->speed, memory_order_relaxed) / SPEED_ONE;

    if (used < limit / 8 * part[class])
        return true; /* the last one may overdraw, so that one may always fly */
    if (!atomic_load_explicit(&c->was_short, memory_order_relaxed))
        atomic_store_explicit(&c->was_short, true, memory_order_relaxed);
    return false;
}

/* Two rings that ask at the same time may overdraw by an I/O; what they took is counted exactly. */
void
io__credit_take(struct io *io, uint32_t cost_ns, uint64_t now_ns)
{
    struct io_credit *c = &io->credit;

    atomic_fetch_add_explicit(&c->used_ns, cost_ns, memory_order_relaxed);
    if (now_ns - atomic_load_explicit(&c->background_ns, memory_order_relaxed) >= PUBLISH_NS)
        atomic_store_explicit(&c->background_ns, now_ns, memory_order_relaxed);
    io__credit_control(io, now_ns);
}

void
io__credit_give(struct io *io, uint32_t cost_ns)
{
    uint64_t before = atomic_fetch_sub_explicit(&io->credit.used_ns, cost_ns, memory_order_relaxed);
    ash_assert(before >= cost_ns); /* S2 */
    atomic_fetch_add_explicit(&io->credit.done_ns, cost_ns, memory_order_relaxed);
}

/* ---- The control loop ---- */

void
io__sched_publish(struct io_sched *s, uint64_t now_ns)
{
    struct io_credit *c = &s->io->credit;

    if (s->fg_count == 0 || now_ns - s->published_ns < PUBLISH_NS)
        return;
    s->published_ns = now_ns;
    if (now_ns - atomic_load_explicit(&c->background_ns, memory_order_relaxed) < ACTIVE_NS) {
        atomic_fetch_add_explicit(&c->fg_count, s->fg_count, memory_order_relaxed);
        if (s->fg_slow != 0)
            atomic_fetch_add_explicit(&c->fg_slow, s->fg_slow, memory_order_relaxed);
    }
    s->fg_count = s->fg_slow = 0;
}

void
io__credit_foreground(struct io *io, uint64_t latency_ns, uint64_t now_ns)
{
    struct io_credit *c = &io->credit;

    if (now_ns - atomic_load_explicit(&c->background_ns, memory_order_relaxed) >= ACTIVE_NS)
        return;
    atomic_fetch_add_explicit(&c->fg_count, 1, memory_order_relaxed);
    if (latency_ns > atomic_load_explicit(&c->goal_ns, memory_order_relaxed))
        atomic_fetch_add_explicit(&c->fg_slow, 1, memory_order_relaxed);
}

static void
learn_speed(struct io_credit *c, uint64_t done_ns, uint64_t took_ns)
{
    uint64_t speed = atomic_load_explicit(&c->speed, memory_order_relaxed);
    uint64_t seen = done_ns * SPEED_ONE / took_ns;

    speed = (7 * speed + seen + 4) / 8;
    speed = max_u64(SPEED_MIN, min_u64(speed, SPEED_MAX));
    atomic_store_explicit(&c->speed, (uint32_t)speed, memory_order_relaxed);
}

/* Each fast request raises the limit a little, each slow one lowers it by as much as (100 -
 * GOAL_PERCENT) fast ones raised it: it rests where GOAL_PERCENT are slow. */
static uint64_t
limit_next(uint64_t limit, uint64_t count, uint64_t slow, bool was_short)
{
    int64_t push = (int64_t)(count - slow) * GOAL_PERCENT - (int64_t)slow * (100 - GOAL_PERCENT);
    int64_t step = (int64_t)limit * push / GAIN;

    if (step > 0 && !was_short)
        return limit; /* nobody asked for more */
    if (step > (int64_t)limit)
        return limit * 2;
    if (step < -(int64_t)(limit / 2) || PLANTED(369))
        return limit / 2;
    return (uint64_t)((int64_t)limit + step);
}

void
io__credit_control(struct io *io, uint64_t now_ns)
{
    struct io_credit *c = &io->credit;
    uint64_t last = atomic_load_explicit(&c->control_ns, memory_order_relaxed);

    if (now_ns - last < CONTROL_NS ||
        !atomic_compare_exchange_strong_explicit(&c->control_ns, &last, now_ns,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    uint64_t count = atomic_exchange_explicit(&c->fg_count, 0, memory_order_relaxed);
    uint64_t slow = atomic_exchange_explicit(&c->fg_slow, 0, memory_order_relaxed);
    uint64_t done = atomic_exchange_explicit(&c->done_ns, 0, memory_order_relaxed);
    bool was_short = atomic_exchange_explicit(&c->was_short, false, memory_order_relaxed);
    uint64_t limit = atomic_load_explicit(&c->limit_ns, memory_order_relaxed);
    if (count != 0) {
        atomic_store_explicit(&c->fg_seen_ns, now_ns, memory_order_relaxed);
        limit = limit_next(limit, count, min_u64(slow, count), was_short);
    } else if (now_ns - atomic_load_explicit(&c->fg_seen_ns, memory_order_relaxed) >= IDLE_NS) {
        limit += limit / 4;
        if (was_short && now_ns - last < 4 * CONTROL_NS)
            learn_speed(c, done, now_ns - last);
    }
    limit = max_u64(LIMIT_MIN_NS, min_u64(limit, LIMIT_MAX_NS));
    atomic_store_explicit(&c->limit_ns, limit, memory_order_relaxed);
}
