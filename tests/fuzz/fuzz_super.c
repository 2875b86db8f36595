/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_super.c - arbitrary bytes as a superblock.
 */
#include "base/crc.h"
#include "base/error.h"
#include "storage/pstore.h"
#include "storage/pstore_format.h"

#include <stddef.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(unsigned n, uint8_t *buf, size_t room);
void fuzz_fix(uint8_t *data, size_t size);

size_t
fuzz_seed(unsigned n, uint8_t *buf, size_t room)
{
    struct super_block sb = { .magic = SUPER_MAGIC,
                              .format = SUPER_FORMAT,
                              .seq = n + 1,
                              .zone_bytes = 64u << 10,
                              .page_high = 10,
                              .write_seq = 7,
                              .checkpoint_lsn = n * 4096,
                              .scan_lsn = n * 4096,
                              .map_lsn = n * 4096 };

    if (n > 3 || room < SUPER_SIZE)
        return 0;
    memset(buf, 0, SUPER_SIZE);
    memcpy(buf, &sb, sizeof(sb));
    fuzz_fix(buf, SUPER_SIZE);
    return SUPER_SIZE;
}

void
fuzz_fix(uint8_t *data, size_t size)
{
    if (size < SUPER_SIZE)
        return;
    uint32_t crc = crc32c(0, data + 12, SUPER_SIZE - 12);
    memcpy(data + offsetof(struct super_block, crc32c), &crc, sizeof(crc));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ash_ignore(pstore_superblock_check(data, (uint32_t)size));
    return 0;
}
