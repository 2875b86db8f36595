/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_volume.c - arbitrary bytes as the table of files of a raw device.
 */
#include "base/crc.h"
#include "base/error.h"
#include "storage/io_volume.h"
#include "storage/volume_format.h"

#include <stddef.h>
#include <string.h>

#define UNITS 1000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(unsigned n, uint8_t *buf, size_t room);
void fuzz_fix(uint8_t *data, size_t size);

size_t
fuzz_seed(unsigned n, uint8_t *buf, size_t room)
{
    struct volume_head head = { .magic = VOLUME_MAGIC,
                                .format = VOLUME_FORMAT,
                                .seq = 2ull * n + 2,
                                .units = UNITS,
                                .files = n,
                                .extents = n,
                                .bytes = VOLUME_BLOCK };

    if (n > 4 || room < VOLUME_BLOCK)
        return 0;
    memset(buf, 0, VOLUME_BLOCK);
    memcpy(buf, &head, sizeof(head));
    for (unsigned i = 0; i < n; i++) {
        struct volume_entry e = { .size = 5000, .extents = 1 };
        struct volume_extent x = { .unit = 1 + 10 * i, .units = 3 };
        e.name[0] = (char)('a' + i);
        memcpy(buf + sizeof(head) + i * sizeof(e), &e, sizeof(e));
        memcpy(buf + sizeof(head) + n * sizeof(e) + i * sizeof(x), &x, sizeof(x));
    }
    fuzz_fix(buf, VOLUME_BLOCK);
    return VOLUME_BLOCK;
}

void
fuzz_fix(uint8_t *data, size_t size)
{
    struct volume_head head;

    if (size < sizeof(head))
        return;
    memcpy(&head, data, sizeof(head));
    if (head.bytes < sizeof(head) || head.bytes > size)
        return;
    head.crc32c = crc32c(0, data + 12, head.bytes - 12);
    memcpy(data + offsetof(struct volume_head, crc32c), &head.crc32c, sizeof(head.crc32c));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ash_ignore(io__volume_check(data, (uint32_t)size, 0, UNITS, "device"));
    return 0;
}
