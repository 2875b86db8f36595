/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_wal.c - arbitrary bytes as a log segment and as a record.
 *
 * The first byte chooses: a segment image (its checksums are made right, so that what lies behind
 * them is reached) or a record, whose changes are then redone on a page.
 */
#include "base/crc.h"
#include "storage/page_format.h"
#include "wal/wal_int.h"
#include "wal/wal_mtr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
one_segment(uint8_t *bytes, size_t size)
{
    static const uint8_t uuid[16] = { 1 };
    uint64_t end;
    if (size >= 4096) {
        put_le32(bytes, WAL_SEGMENT_MAGIC);
        memcpy(bytes + offsetof(struct wal_segment_head, uuid), uuid, 16);
        put_le32(bytes + 4, crc32c(0, bytes + 8, 4096 - 8));
    }
    for (size_t at = 4096; at + sizeof(struct wal_block_head) < size; at += 4096) {
        uint64_t payload = get_le32(bytes + at + 36);
        put_le32(bytes + at, WAL_BLOCK_MAGIC);
        put_le64(bytes + at + 40, get_le64(uuid));
        if (WAL_BLOCK_HEAD + payload <= size - at)
            put_le32(bytes + at + 4, crc32c(0, bytes + at + 8, WAL_BLOCK_HEAD - 8 + payload));
    }
    ash_ignore(wal_segment_check(bytes, size, uuid, &end));
}

static void
one_record(const uint8_t *bytes, size_t size)
{
    struct wal_record rec;
    struct wal_change c;
    uint32_t pos = 0;
    if (wal_record_open(bytes, (uint32_t)size, 4096, &rec) != ASH_OK)
        return;
    uint8_t *page = mem_aligned(MEM_TEST, 4096, PAGE_SIZE_MIN);
    if (page == NULL)
        return;
    memset(page, 0, PAGE_SIZE_MIN);
    while (wal_record_change(&rec, &pos, &c))
        if (c.head->op <
            /* the B+tree's have a target of their own: they rely on a checked page */
            WAL_OP_BTREE_FIRST)
            ash_ignore(wal_redo_apply(page, PAGE_SIZE_MIN, &c, 4096));
    mem_free(MEM_TEST, page);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > (1u << 20))
        return 0;
    uint8_t *bytes = mem_aligned(MEM_TEST, 64, size); /* exactly as large: reading beyond is seen */
    if (bytes == NULL)
        return 0;
    memcpy(bytes, data + 1, size - 1);
    if (data[0] % 2 == 0)
        one_segment(bytes, size - 1);
    else
        one_record(bytes, size - 1);
    mem_free(MEM_TEST, bytes);
    return 0;
}
