/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_flush.c - makes appended records durable, in groups, several blocks at a time.
 *
 * Entry points: wal_flush_to(), wal_flush_async(), wal_on_durable().       Read first: README.md,
 * wal_format.h.
 *
 * There is no thread through which all commits must go.  Whoever needs durability and finds less
 * than `writers` blocks in flight becomes a log writer for one block:
 *
 *     under the lock:   ready = end of the complete prefix; take [cut, ready) (at most a block);
 *                       give it a place in a segment; cut = ready
 *     without it:       copy from the ring, checksum, write with O_DSYNC semantics
 *     under the lock:   mark done; durable = end of the done prefix of all blocks in flight
 *
 * Whoever finds all writers busy waits; what gathers meanwhile is the next group.  When a block is
 * done, the waiters it made durable wake, and one of those still waiting is chosen to lead the next
 * group.
 *
 * Invariants:
 *   I1  durable <= cut <= ready <= reserved.
 *   I2  flights are a window in stream order: a block done early stays in it until all before it
 *       are done.  So at most `writers` - 1 blocks lie between a block and the first one whose
 *       `durable` field covers it (wal_reader_file.c relies on that).
 *   I5  After the first failure durable does not move.
 * Locks: wal->lock (spin, leaf).  Nothing parks under it.
 */
#include "base/clock.h"
#include "base/crc.h"
#include "wal/wal_int.h"

#define SPIN_TURNS \
    64u /* waiting for another append's copy: turns before the task goes to sleep ... */
#define HOLE_PAUSE_NS 100000u /* ... for so long: nobody wakes us when the hole closes */

enum cut_result {
    CUT_DONE,
    CUT_BUSY,
    CUT_HOLE,
    CUT_NO_SEGMENT
};

/* ---- Failure ---- */

void
wal__fail(struct wal *wal, ash_rc rc)
{
    uint32_t none = ASH_OK;
    atomic_compare_exchange_strong(&wal->failed, &none, (uint32_t)rc);
    task_wait_wake(&wal->waiters);
    task_wait_wake(&wal->writer_q);
    task_wait_wake(&wal->keeper_q);
}

ash_rc
wal__check(struct wal *wal)
{
    ash_rc failed = (ash_rc)atomic_load_explicit(&wal->failed, memory_order_acquire);
    if (ASH_LIKELY(failed == ASH_OK))
        return ASH_OK;
    ash_rc rc = io_check(wal->options.io);
    if (rc != ASH_OK)
        return rc; /* the sentence of the first failed write */
    return ash_raise(
        ASH_POISONED,
        "The log failed earlier (%s): no change can be made durable; close and reopen the database.",
        ash_rc_name(failed));
}

/* ---- Cutting ---- */

/* Follows the links from `ready`, clearing them, until a block's worth is known complete. */
static void
advance_ready_locked(struct wal *wal, uint64_t cut)
{
    uint64_t limit = cut + wal->block_payload_max;
    while (wal->ready < limit) {
        _Atomic uint32_t *link = &wal->links[(wal->ready / WAL_RECORD_ALIGN) & wal->link_mask];
        uint32_t units = atomic_load_explicit(link, memory_order_acquire);
        if (units == 0)
            break;
        atomic_store_explicit(link, 0,
                              memory_order_relaxed); /* I4: before these bytes can become durable */
        wal->ready += (uint64_t)units * WAL_RECORD_ALIGN;
        wal->stats.records++;
    }
    ash_debug_assert(wal->ready <= atomic_load(&wal->reserved));
}

/* Makes the prepared segment the current one, beginning at LSN `cut`. */
static void
begin_segment_locked(struct wal *wal, uint64_t cut)
{
    struct wal_segment *s = wal->next;
    wal->next = NULL;
    s->lsn = cut;
    s->epoch = wal->options.epoch;
    wal->current = s;
    wal->position = 4096;
    if (list_empty(&wal->live))
        atomic_store(&wal->oldest, cut);
    list_push_back(&wal->live, &s->link);
    wal->stats.segments++;
}

static void
note_busy_locked(struct wal *wal, uint64_t lsn)
{
    if (wal->leader == 0 || lsn < wal->leader)
        wal->leader = lsn;
    wal->wanted = max_u64(wal->wanted, lsn);
}

/* Takes the next block, if there is anything complete and somewhere to write it.  `lsn` > cut is
 * what the caller needs. */
static enum cut_result
cut_locked(struct wal *wal, uint64_t lsn, struct wal_flight **out, bool *rotated)
{
    if (wal->flight_tail - wal->flight_head >= wal->options.writers) {
        note_busy_locked(wal, lsn);
        return CUT_BUSY;
    }
    uint64_t cut = atomic_load_explicit(&wal->cut, memory_order_relaxed);
    advance_ready_locked(wal, cut);
    if (wal->ready == cut)
        return CUT_HOLE;
    if (wal->current == NULL || wal->position == wal->current->size) {
        if (wal->next == NULL)
            return CUT_NO_SEGMENT;
        begin_segment_locked(wal, cut);
        *rotated = true;
    }
    struct wal_segment *s = wal->current;
    uint64_t payload = min_u64(wal->ready - cut, wal->block_payload_max);
    payload = min_u64(payload, s->size - wal->position - WAL_BLOCK_HEAD);
    payload = round_down(payload, WAL_RECORD_ALIGN);
    struct wal_flight *f = &wal->flight[wal->flight_tail++ % wal->options.writers];
    f->lsn = cut;
    f->payload = (uint32_t)payload;
    f->durable = atomic_load_explicit(&wal->durable, memory_order_relaxed);
    f->offset = wal->position;
    f->first = wal->position == 4096;
    f->done = false;
    f->segment = s;
    s->refs++;
    ash_assert(s->count < s->capacity);
    s->blocks[s->count++] =
        (struct wal_block_ref){ cut, (uint32_t)(wal->position / 4096), f->payload };
    wal->position += round_up(WAL_BLOCK_HEAD + payload, 4096);
    ash_assert(wal->position <= s->size);
    atomic_store_explicit(&wal->cut, cut + payload, memory_order_release);
    wal->stats.blocks++;
    wal->stats.block_bytes += round_up(WAL_BLOCK_HEAD + payload, 4096);
    *out = f;
    return CUT_DONE;
}

static enum cut_result
cut(struct wal *wal, uint64_t lsn, struct wal_flight **out)
{
    bool rotated = false, more = false;
    wal__lock(&wal->lock);
    enum cut_result r = cut_locked(wal, lsn, out, &rotated);
    if (r == CUT_DONE)
        more = wal->wanted > atomic_load_explicit(&wal->cut, memory_order_relaxed) &&
               wal->flight_tail - wal->flight_head < wal->options.writers;
    wal__unlock(&wal->lock);
    if (rotated)
        wal__keeper_kick(wal);
    if (more)
        task_wait_wake(
            &wal->waiters); /* a writer is still free, and somebody parked because none was */
    return r;
}

/* ---- Writing one block ---- */

/* Builds the block (and the segment's head before its first block) in the flight's buffer. */
static void
build(struct wal *wal, struct wal_flight *f, const uint8_t **bytes_out, uint32_t *size_out,
      uint64_t *offset_out)
{
    uint8_t *block = f->buffer + 4096;
    uint8_t *payload = block + WAL_BLOCK_HEAD;
    uint32_t size = (uint32_t)round_up(WAL_BLOCK_HEAD + f->payload, 4096);
    uint64_t offset = f->lsn & wal->mask;
    uint64_t until_end = wal->capacity - offset;
    if (f->payload <= until_end) {
        memcpy(payload, wal->ring + offset, f->payload);
    } else {
        memcpy(payload, wal->ring + offset, until_end);
        memcpy(payload + until_end, wal->ring, f->payload - until_end);
    }
    memset(payload + f->payload, 0, size - WAL_BLOCK_HEAD - f->payload);
    struct wal_block_head h = {
        .magic = WAL_BLOCK_MAGIC,
        .lsn = f->lsn,
        .durable = PLANTED(33) ? f->lsn + f->payload : f->durable,
        .segment = f->segment->number,
        .epoch = f->segment->epoch,
        .payload = f->payload,
        .uuid_low = get_le64(wal->options.uuid),
    };
    memcpy(block, &h, sizeof(h));
    put_le32(block + 4, crc32c(0, block + 8, WAL_BLOCK_HEAD - 8 + f->payload));
    *bytes_out = block;
    *size_out = size;
    *offset_out = f->offset;
    if (f->first) {
        wal__segment_head(wal, f->segment, f->durable, f->buffer);
        *bytes_out = f->buffer;
        *size_out = size + 4096;
        *offset_out = 0;
    }
}

/* Marks a block done, moves durable over the done prefix, and wakes whom that concerns. */
static void
flight_done(struct wal *wal, struct wal_flight *f)
{
    uint64_t leader = 0;
    bool wake_all = false;
    struct wal_segment *seen[WAL_WRITERS_MAX];
    unsigned seen_count = 0;
    wal__lock(&wal->lock);
    f->done = true;
    uint64_t durable = atomic_load_explicit(&wal->durable, memory_order_relaxed);
    bool failed = atomic_load(&wal->failed) != ASH_OK;
    if (PLANTED(34) && f->lsn + f->payload > durable) {
        durable = f->lsn +
                  f->payload; /* a later block counts although an earlier one is still in flight */
        atomic_store(&wal->durable, durable);
    }
    while (!failed && wal->flight_head < wal->flight_tail) {
        struct wal_flight *head = &wal->flight[wal->flight_head % wal->options.writers];
        if (!head->done)
            break;
        durable = max_u64(durable, head->lsn + head->payload);
        seen[seen_count++] = head->segment;
        wal->flight_head++;
    }
    atomic_store(&wal->durable, durable);
    if (seen_count > 0 && wal->wanted > atomic_load_explicit(&wal->cut, memory_order_relaxed)) {
        if (wal->leader > atomic_load_explicit(&wal->cut, memory_order_relaxed))
            leader = wal->leader;
        else
            wake_all = true;
        wal->leader = 0;
    }
    wal__unlock(&wal->lock);
    for (unsigned i = 0; i < seen_count; i++)
        wal__segment_unref(wal, seen[i]);
    if (wake_all)
        task_wait_wake(&wal->waiters);
    else if (seen_count > 0)
        task_wait_wake_key(&wal->waiters, durable);
    if (leader != 0 && !wake_all)
        task_wait_wake_equal(&wal->waiters, leader);
    if (atomic_load_explicit(&wal->callbacks_waiting, memory_order_relaxed) != 0)
        task_wait_wake(&wal->writer_q);
}

/* Writes a block that cut() gave to this task. */
static ash_rc
write_flight(struct wal *wal, struct wal_flight *f)
{
    const uint8_t *bytes;
    struct io_req req = { .file = f->segment->file, .op = IO_OP_WRITE, .class = IO_CLASS_WAL };
    build(wal, f, &bytes, &req.bytes, &req.offset);
    req.buf = f->first ? f->buffer : f->buffer + 4096;
    ash_debug_assert(req.buf == bytes);
    req.dsync = f->segment->dsync && !PLANTED(35);
    struct io_req *reqs[1] = { &req };
    io_submit(reqs, 1);
    ash_rc rc = io_wait(&req);
    if (rc != ASH_OK) {
        wal__fail(wal, rc);
        return rc;
    }
    flight_done(wal, f);
    return ASH_OK;
}

/* ---- Waiting ---- */

/* What a flush does when there is no segment to write to. */
struct room_wait {
    uint64_t ticket;
    unsigned tries;
    bool patient;
};

static void
take_ticket(struct wal *wal, struct room_wait *r)
{
    wal__lock(&wal->lock);
    r->ticket = ++wal->ticket_wanted;
    wal__unlock(&wal->lock);
    wal__keeper_kick(wal);
}

/* Asks the keeper for a segment.  ASH_OK: park and look again.  ASH_NO_SPACE when an attempt made
 * after the call began has failed. */
static ash_rc
ask_for_segment(struct wal *wal, struct room_wait *r)
{
    wal__lock(&wal->lock);
    bool failed = r->ticket != 0 && wal->ticket_failed >= r->ticket;
    bool answered = r->ticket == 0 || wal->ticket_done >= r->ticket;
    ash_rc why = wal->room_rc;
    wal__unlock(&wal->lock);
    if (!failed) {
        if (answered)
            take_ticket(
                wal, r); /* the first, or another task was faster to use what our ticket brought */
        return ASH_OK;
    }
    if (r->patient && ++r->tries < WAL_ROOM_TRIES) {
        task_sleep_ns(WAL_ROOM_RETRY_NS);
        take_ticket(wal, r);
        return ASH_OK;
    }
    ash_rc rc = ash_raise_obj(
        why, io_dir_path(wal->options.dir),
        "No log segment of %llu bytes could be made in %s, because %s; free some, then go on.",
        (unsigned long long)wal->options.segment_bytes, io_dir_path(wal->options.dir),
        why == ASH_NO_SPACE ? "the disk is full" : "there is no memory");
    if (r->patient) {
        io_poison(wal->options.io, rc);
        wal__fail(wal, rc);
    }
    return rc;
}

ash_rc
wal__flush(struct wal *wal, uint64_t lsn, bool patient)
{
    struct room_wait room = { .patient = patient };
    struct task_waiter waiter;
    bool registered = false;
    unsigned spins = 0, turns = 0;
    ash_rc rc = ASH_OK;
    ash_assert(lsn <= atomic_load(&wal->reserved));
    while (atomic_load(&wal->durable) < lsn) {
        rc = wal__check(wal);
        if (rc != ASH_OK)
            break;
        bool hole = false;
        if (lsn > atomic_load_explicit(&wal->cut, memory_order_acquire)) {
            struct wal_flight *f;
            enum cut_result r = cut(wal, lsn, &f);
            if (r == CUT_DONE) {
                if (registered)
                    task_wait_end(&wal->waiters, &waiter);
                registered = false;
                rc = write_flight(wal, f);
                if (rc != ASH_OK)
                    break;
                continue;
            }
            if (r == CUT_NO_SEGMENT) {
                rc = ask_for_segment(wal, &room);
                if (rc != ASH_OK)
                    break;
            }
            hole = r == CUT_HOLE;
            if (hole && turns++ < SPIN_TURNS) {
                task_relax(
                    /* another append is copying: a matter of nanoseconds, unless it was preempted
                     * or waits for room */
                    &spins);
                continue;
            }
        }
        if (!registered) {
            task_wait_begin(&wal->waiters, &waiter, lsn);
            registered = true;
            continue; /* look again: what we wait for may have happened before we were visible */
        }
        counter_add(&wal->flush_waits, 1);
        if (hole)
            (void)task_park_until(clock_ns() + HOLE_PAUSE_NS);
        else
            task_park();
    }
    if (registered)
        task_wait_end(&wal->waiters, &waiter);
    return rc;
}

ash_rc
wal_flush_to(struct wal *wal, uint64_t lsn)
{
    if (atomic_load_explicit(&wal->durable, memory_order_acquire) >= lsn)
        return ASH_OK;
    return wal__flush(wal, lsn, /* patient= */ false);
}

/* ---- The background writer ---- */

static void
raise_to(_Atomic uint64_t *word, uint64_t v)
{
    uint64_t old = atomic_load_explicit(word, memory_order_relaxed);
    while (old < v && !atomic_compare_exchange_weak(word, &old, v))
        ;
}

void
wal__writer_ask(struct wal *wal, uint64_t lsn)
{
    raise_to(&wal->urgent, lsn);
    task_wait_wake(&wal->writer_q);
}

void
wal_flush_async(struct wal *wal, uint64_t lsn)
{
    if (lsn <= atomic_load_explicit(&wal->durable, memory_order_relaxed))
        return;
    raise_to(&wal->async, lsn);
    if (!atomic_load_explicit(&wal->async_armed, memory_order_relaxed) &&
        !atomic_exchange(&wal->async_armed, true))
        task_wait_wake(&wal->writer_q);
}

void
wal_on_durable(struct wal *wal, struct wal_callback *cb)
{
    atomic_fetch_add(&wal->callbacks_waiting, 1);
    uint64_t lsn = cb->lsn; /* cb may be gone as soon as it is pushed */
    struct wal_callback *head = atomic_load_explicit(&wal->callbacks, memory_order_relaxed);
    do {
        cb->next = head;
    } while (!atomic_compare_exchange_weak(&wal->callbacks, &head, cb));
    wal__writer_ask(wal, lsn);
}

/* Takes newly pushed callbacks into the writer's own list, oldest first. */
static void
take_callbacks(struct wal *wal, struct wal_callback ***tail)
{
    struct wal_callback *pushed = atomic_exchange(&wal->callbacks, NULL), *ordered = NULL;
    while (pushed != NULL) {
        struct wal_callback *next = pushed->next;
        pushed->next = ordered;
        ordered = pushed;
        pushed = next;
    }
    **tail = ordered;
    while (**tail != NULL)
        *tail = &(**tail)->next;
}

/* Calls what is due; all of them when rc is a failure. */
static void
fire_callbacks(struct wal *wal, struct wal_callback **list, struct wal_callback ***tail, ash_rc rc)
{
    uint64_t durable = atomic_load(&wal->durable);
    struct wal_callback **p = list;
    while (*p != NULL) {
        struct wal_callback *cb = *p;
        if (cb->lsn > durable && rc == ASH_OK) {
            p = &cb->next;
            continue;
        }
        *p = cb->next;
        atomic_fetch_sub(&wal->callbacks_waiting, 1);
        cb->fn(cb, cb->lsn <= durable ? ASH_OK : rc);
    }
    *tail = p;
}

/* The LSN that the writer should write up to now, and until when it may sleep if there is none. */
static uint64_t
writer_target(struct wal *wal, uint64_t *deadline)
{
    uint64_t target = atomic_load(&wal->urgent);
    if (atomic_load(&wal->async_armed)) {
        uint64_t now = clock_ns();
        if (*deadline == TASK_FOREVER)
            *deadline = now + WAL_ASYNC_DELAY_NS;
        if (now >= *deadline || atomic_load(&wal->stop_writer)) {
            atomic_store(&wal->async_armed,
                         false); /* before reading: who raises `async` after this arms again */
            target = max_u64(target, atomic_load(&wal->async));
            *deadline = TASK_FOREVER;
        }
    }
    return target;
}

void
wal__writer_main(void *arg)
{
    struct wal *wal = arg;
    struct wal_callback *list = NULL, **tail = &list;
    uint64_t deadline = TASK_FOREVER;
    uint64_t full = 0; /* what a full disk refused to take */
    for (;;) {
        struct task_waiter waiter;
        task_wait_begin(&wal->writer_q, &waiter, 0);
        take_callbacks(wal, &tail);
        bool stop = atomic_load(&wal->stop_writer);
        uint64_t target = writer_target(wal, &deadline);
        uint64_t durable = atomic_load(&wal->durable);
        ash_rc rc = (ash_rc)atomic_load(&wal->failed);
        bool refused = rc == ASH_OK && target > durable && target <= full &&
                       atomic_load(&wal->no_space);
        bool work = rc == ASH_OK && target > durable && !refused;
        if (refused)
            rc = ASH_NO_SPACE;
        bool due = rc != ASH_OK && list != NULL;
        for (struct wal_callback *cb = list; cb != NULL && !due; cb = cb->next)
            due = cb->lsn <= durable;
        if (!work && !due && !stop)
            (void)task_park_until(deadline);
        task_wait_end(&wal->writer_q, &waiter);
        if (work) {
            rc = wal__flush(wal, target, /* patient= */ false);
            full = rc == ASH_NO_SPACE ? target : 0;
        }
        fire_callbacks(wal, &list, &tail, rc);
        if (stop && !work && list == NULL && atomic_load(&wal->callbacks) == NULL)
            return;
    }
}
