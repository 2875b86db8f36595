/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_record.c - decides whether bytes are a segment head, a block, a record.  All decoding of log
 * bytes starts here.
 *
 * Nothing here trusts a length before it is checked against what is in memory; all of it is fuzzed
 * (tests/fuzz/fuzz_wal.c).
 */
#include "base/crc.h"
#include "storage/page_format.h"
#include "wal/wal_int.h"

bool
wal__head_valid(const uint8_t page[4096], const uint8_t uuid[16], struct wal_segment_head *out)
{
    struct wal_segment_head h;
    memcpy(&h, page, sizeof(h));
    if (h.magic != WAL_SEGMENT_MAGIC || h.crc32c != crc32c(0, page + 8, 4096 - 8))
        return false;
    if (memcmp(h.uuid, uuid, sizeof(h.uuid)) != 0)
        return false;
    *out = h;
    return true;
}

bool
wal__block_valid(const uint8_t *block, uint64_t available, const uint8_t uuid[16],
                 struct wal_block_head *out)
{
    struct wal_block_head h;
    if (available < sizeof(h))
        return false;
    memcpy(&h, block, sizeof(h));
    if (h.magic != WAL_BLOCK_MAGIC || h.payload == 0 || h.payload > WAL_BLOCK_MAX - WAL_BLOCK_HEAD)
        return false;
    if (WAL_BLOCK_HEAD + h.payload > available)
        return false;
    if (h.uuid_low != get_le64(uuid) || h.lsn % WAL_RECORD_ALIGN != 0)
        return false;
    if (!PLANTED(30) && h.crc32c != crc32c(0, block + 8, WAL_BLOCK_HEAD - 8 + h.payload))
        return false;
    *out = h;
    return true;
}

/* Checks the page changes in [at, size) of a record; they must fill it exactly. */
static ash_rc
check_changes(const uint8_t *record, uint32_t size, uint32_t at, unsigned changes)
{
    for (unsigned i = 0; i < changes; i++) {
        struct wal_change_head c;
        if (size - at < sizeof(c))
            return ash_raise(
                ASH_CORRUPT,
                "Change %u of a log record begins at byte %u of %u and has no room for its head; the log is damaged.",
                i, at, size);
        memcpy(&c, record + at, sizeof(c));
        at += (uint32_t)sizeof(c);
        if (c.size > size - at || round_up(c.size, 8) > size - at)
            return ash_raise(
                ASH_CORRUPT,
                "Change %u of a log record claims %u bytes where %u are left; the log is damaged.",
                i, c.size, size - at);
        if (c.op == 0 || c.op >= WAL_OP_MAX || c.flags != 0 || c.reserved != 0 || c.page == 0 ||
            c.page_class >= PAGE_CLASS_COUNT)
            return ash_raise(
                ASH_CORRUPT,
                "Change %u of a log record (operation %u, page %llu) is not one that this version knows.",
                i, c.op, (unsigned long long)c.page);
        at += (uint32_t)round_up(c.size, 8);
    }
    if (at != size)
        return ash_raise(ASH_CORRUPT,
                         "%u bytes follow the last change of a log record; the log is damaged.",
                         size - at);
    return ASH_OK;
}

ash_rc
wal_record_check(const void *record, uint32_t size)
{
    struct wal_record_head h;
    if (size < sizeof(h))
        return ash_raise(ASH_CORRUPT,
                         "A log record of %u bytes is too short for its head; the log is damaged.",
                         size);
    memcpy(&h, record, sizeof(h));
    if (h.size != size || h.size > WAL_RECORD_MAX)
        return ash_raise(
            ASH_CORRUPT,
            "A log record says that it has %u bytes, but it has %u; the log is damaged.", h.size,
            size);
    if (h.type == 0 || h.type > WAL_REC_TYPE_MAX || h.flags != 0)
        return ash_raise(
            ASH_CORRUPT,
            "A log record of type %u with flags %u is not one that this version knows.", h.type,
            h.flags);
    if (h.type != WAL_REC_MTR && h.type != WAL_REC_ROW && h.type != WAL_REC_CLR) {
        if (h.changes != 0)
            return ash_raise(
                ASH_CORRUPT,
                "A log record of type %u claims %u page changes, which it cannot have.", h.type,
                h.changes);
        return ASH_OK;
    }
    uint32_t at = (uint32_t)sizeof(h);
    if (h.type == WAL_REC_ROW) {
        if (h.link > size - at || round_up(h.link, 8) > size - at)
            return ash_raise(
                ASH_CORRUPT,
                "A log record claims an undo part of %llu bytes in %u bytes; the log is damaged.",
                (unsigned long long)h.link, size);
        at += (uint32_t)round_up(h.link, 8);
    }
    return check_changes(record, size, at, h.changes);
}

ash_rc
wal_record_open(const void *image, uint32_t size, uint64_t start, struct wal_record *out)
{
    ash_rc rc = wal_record_check(image, size);
    if (rc != ASH_OK)
        return rc;
    const struct wal_record_head *h = image;
    out->start = start;
    out->end = start + wal__padded(size);
    out->head = h;
    out->undo = h->type == WAL_REC_ROW ? (const uint8_t *)(h + 1) : NULL;
    out->undo_size = h->type == WAL_REC_ROW ? (uint32_t)h->link : 0;
    return ASH_OK;
}

bool
wal_record_change(const struct wal_record *rec, uint32_t *pos, struct wal_change *out)
{
    const struct wal_record_head *h = rec->head;
    if (h->changes == 0)
        return false;
    uint32_t at = (uint32_t)(sizeof(*h) + round_up(rec->undo_size, 8)) + *pos;
    if (at >= h->size)
        return false;
    out->head = (const struct wal_change_head *)(const void *)((const uint8_t *)h + at);
    out->payload = (const uint8_t *)(out->head + 1);
    *pos += (uint32_t)(sizeof(*out->head) + round_up(out->head->size, 8));
    return true;
}

ash_rc
wal_segment_check(const void *bytes, size_t size, const uint8_t uuid[16], uint64_t *end_out)
{
    const uint8_t *p = bytes;
    struct wal_segment_head head;
    if (size < 4096 || !wal__head_valid(p, uuid, &head))
        return ash_raise(ASH_CORRUPT,
                         "The head of a log segment is damaged or belongs to another database.");
    if (head.format > WAL_FORMAT)
        return ash_raise(
            ASH_VERSION_MISMATCH,
            "A log segment of format %u is newer than this library, which knows %u; use a newer Ashlar.",
            head.format, WAL_FORMAT);
    uint64_t lsn = head.lsn;
    for (size_t at = 4096; at < size;) {
        struct wal_block_head b;
        if (!wal__block_valid(p + at, size - at, uuid, &b) || b.lsn != lsn ||
            b.segment != head.segment || b.epoch != head.epoch)
            break;
        lsn += b.payload;
        at += round_up(WAL_BLOCK_HEAD + b.payload, 4096);
    }
    *end_out = lsn;
    return ASH_OK;
}
