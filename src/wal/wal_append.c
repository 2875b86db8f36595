/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_append.c - puts records into the log buffer, in parallel; reads them back from there.
 *
 * Entry points: wal_append(), wal_read_nowait(), wal_reserved(), wal_durable().      Read first:
 * README.md.
 *
 * An append is: one atomic add on `reserved` (its place in the stream), a wait for room if the
 * buffer is full, a copy, and one store into the link slot of its first byte ("a record of so many
 * bytes is complete here").  Appenders share no lock.  A log writer later follows the links to find
 * how far the stream is complete (wal_flush.c).
 *
 *   I4  Room: bytes [s, e) overwrite [s - capacity, e - capacity) of the stream, so they are
 *       written only when durable >= e - capacity. The link slot of s is zero by then: whoever cut
 *       the old bytes cleared it under the lock before they became durable.
 */
#include "wal/wal_int.h"

uint64_t
wal_reserved(const struct wal *wal)
{
    return atomic_load(&wal->reserved);
}

uint64_t
wal_durable(const struct wal *wal)
{
    return atomic_load_explicit(&wal->durable, memory_order_acquire);
}

/* Copies into the ring at stream position `at`; returns the position after. */
static uint64_t
ring_put(struct wal *wal, uint64_t at, const void *data, uint32_t size)
{
    uint64_t offset = at & wal->mask;
    uint64_t until_end = wal->capacity - offset;
    if (ASH_LIKELY(size <= until_end)) {
        memcpy(wal->ring + offset, data, size);
    } else {
        memcpy(wal->ring + offset, data, until_end);
        memcpy(wal->ring, (const uint8_t *)data + until_end, size - until_end);
    }
    return at + size;
}

/* Waits until the bytes below `end` may be overwritten, one buffer further (I4).  Every byte below
 * end - capacity was reserved by an earlier append, which needs still less room than this one; so
 * there is always one that can go on. */
static ash_rc
wait_for_room(struct wal *wal, uint64_t end)
{
    if (PLANTED(31))
        return ASH_OK;
    return wal__flush(wal, end - wal->capacity, /* patient= */ true);
}

ash_rc
wal_append(struct wal *wal, const struct wal_part *parts, unsigned count, uint64_t *start_out,
           uint64_t *end_out)
{
    uint32_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += parts[i].size;
    ash_assert(size >= sizeof(struct wal_record_head));
    ash_assert(size <= WAL_RECORD_MAX);
    if (ASH_UNLIKELY(atomic_load_explicit(&wal->failed, memory_order_relaxed) != ASH_OK))
        return wal__check(wal);

    uint64_t padded = wal__padded(size);
    uint64_t start = atomic_fetch_add(&wal->reserved, padded);
    uint64_t end = start + padded;
    uint64_t durable = atomic_load_explicit(&wal->durable, memory_order_acquire);
    bool waited = false;
    if (ASH_UNLIKELY(end > durable + wal->capacity)) {
        waited = true;
        ash_rc rc = wait_for_room(wal, end);
        if (rc != ASH_OK)
            /* the hole at `start` stays: nothing above it becomes durable, and the log is dead
             * anyway */
            return rc;
    }
    task_point();
    /* Orders the add before the copy for readers of the ring: see ring_get(). */
    atomic_thread_fence(memory_order_release);
    uint64_t at = start;
    for (unsigned i = 0; i < count; i++)
        at = ring_put(wal, at, parts[i].data, parts[i].size);
    if (at < end)
        memset(wal->ring + (at & wal->mask), 0,
               end - at); /* padding never wraps: the ring is a multiple of it */
    task_point();
    atomic_store_explicit(&wal->links[(start / WAL_RECORD_ALIGN) & wal->link_mask],
                          (uint32_t)(padded / WAL_RECORD_ALIGN), memory_order_release);
    if (ASH_UNLIKELY(waited))
        task_wait_wake(
            &wal->waiters); /* somebody may be parked behind the hole that this append was */
    if (ASH_UNLIKELY(end - durable > wal->capacity / 4) &&
        end > atomic_load_explicit(&wal->urgent, memory_order_relaxed) + wal->capacity / 8)
        wal__writer_ask(wal, end);
    *start_out = start;
    *end_out = end;
    return ASH_OK;
}

/* Reads ring words while appenders may be overwriting them; the caller validates afterwards.
 * Volatile, not atomic: one load each on every machine we run on, and clang keeps the thread
 * sanitizer out of plain accesses only. */
ASH_NO_TSAN static void
ring_copy(uint8_t *to, const struct wal *wal, uint64_t at, uint32_t size)
{
    while (size >= 8) {
        uint64_t word = *(const volatile uint64_t *)(const void *)(wal->ring + (at & wal->mask));
        __builtin_memcpy(to, &word, 8);
        to += 8;
        at += 8;
        size -= 8;
    }
    if (size > 0) {
        uint64_t word = *(const volatile uint64_t *)(const void *)(wal->ring + (at & wal->mask));
        for (uint32_t i = 0; i < size; i++)
            to[i] = (uint8_t)(word >> (8 * i));
    }
}

/* Copies [lsn, lsn + size) out of the ring; false when it was (or may have been) overwritten.
 *
 * As a sequence lock: an appender adds to `reserved`, fences (release), then writes the ring.  We
 * read the ring, fence (acquire), then read `reserved`.  If any word we read came from an appender
 * that overwrites our range, the two fences synchronise and we see its add: reserved > lsn +
 * capacity.  So a copy that validates is of the old bytes only. */
static bool
ring_get(const struct wal *wal, uint64_t lsn, uint8_t *to, uint32_t size)
{
    task_point(); /* in simulation the race with an overwriting append is here */
    ring_copy(to, wal, lsn, size);
    atomic_thread_fence(memory_order_acquire);
    return PLANTED(32) ||
           atomic_load_explicit(&wal->reserved, memory_order_relaxed) <= lsn + wal->capacity;
}

ash_rc
wal_read_nowait(struct wal *wal, uint64_t lsn, void *buf, uint32_t capacity, uint32_t *size_out)
{
    uint64_t reserved = atomic_load_explicit(&wal->reserved, memory_order_acquire);
    if (ASH_UNLIKELY(lsn + sizeof(struct wal_record_head) > reserved ||
                     lsn % WAL_RECORD_ALIGN != 0))
        return ash_raise(
            ASH_CORRUPT,
            "A reference to log position %llu points to no record (the log ends at %llu).",
            (unsigned long long)lsn, (unsigned long long)reserved);
    if (lsn < wal->first || reserved > lsn + wal->capacity)
        return ASH_WOULD_BLOCK; /* not an error: the caller reads from disk, so nothing is raised */
    struct wal_record_head head;
    if (!ring_get(wal, lsn, (uint8_t *)&head, sizeof(head)))
        return ASH_WOULD_BLOCK;
    if (ASH_UNLIKELY(head.size < sizeof(head) || head.size > WAL_RECORD_MAX ||
                     lsn + wal__padded(head.size) > reserved))
        return ash_raise(ASH_CORRUPT,
                         "A reference to log position %llu points into the middle of a record.",
                         (unsigned long long)lsn);
    if (head.size > capacity) {
        *size_out = head.size;
        return ASH_TOO_LARGE; /* the caller comes back with more room */
    }
    if (!ring_get(wal, lsn, buf, head.size))
        return ASH_WOULD_BLOCK;
    counter_add(&wal->reads_buffer, 1);
    *size_out = head.size;
    return ASH_OK;
}
