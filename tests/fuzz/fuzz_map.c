/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_map.c - arbitrary bytes as the body of a MAP record, and as a checkpoint.
 */
#include "base/error.h"
#include "base/mem.h"
#include "storage/pstore_format.h"
#include "wal/wal_checkpoint_format.h"
#include "wal/wal_recover.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(unsigned n, uint8_t *buf, size_t room);

size_t
fuzz_seed(unsigned n, uint8_t *buf, size_t room)
{
    if (n > 7 || room < 1024)
        return 0;
    memset(buf, 0, 1024);
    if (n < 4) {
        struct map_record r = { .count = n + 1 };
        memcpy(buf, &r, sizeof(r));
        for (unsigned i = 0; i <= n; i++) {
            struct map_move m = { .page = i + 1,
                                  .entry = map_entry_make(SUPER_AREA + i * 4096, 4096, i).v,
                                  .lsn = 5 };
            memcpy(buf + sizeof(r) + i * sizeof(m), &m, sizeof(m));
        }
        return sizeof(r) + (n + 1) * sizeof(struct map_move);
    }
    struct checkpoint_head h = { .version = CHECKPOINT_VERSION,
                                 .participants = n - 4,
                                 .dirty_count = n };
    size_t at = sizeof(h) + n * sizeof(struct checkpoint_dirty);
    memcpy(buf, &h, sizeof(h));
    for (unsigned i = 0; i < h.participants; i++) {
        struct checkpoint_section s = { .id = i + 1, .bytes = 24 };
        memcpy(buf + at, &s, sizeof(s));
        at += sizeof(s) + s.bytes;
    }
    return at;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = mem_aligned(MEM_TEST, 64, size + 64); /* records lie aligned in memory */
    unsigned count;

    if (copy == NULL)
        return 0;
    uint8_t *at = copy + (64 - size % 64) % 64; /* as near to the end as alignment allows */
    at -= (uintptr_t)at % 8;
    memcpy(at, data, size);
    if (pstore_map_record_check(at, (uint32_t)size, &count) == ASH_OK)
        for (unsigned i = 0; i < count; i++)
            if (pstore_map_record_move(at, i)->page == PAGE_ID_NONE)
                __builtin_trap();
    ash_ignore(recover_checkpoint_check(at, size));
    mem_free(MEM_TEST, copy);
    return 0;
}
