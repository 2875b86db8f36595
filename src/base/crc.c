/* SPDX-License-Identifier: Apache-2.0
 *
 * crc.c - CRC32C by isa-l, which picks the machine's best instructions at run time.
 */
#include "base/crc.h"

#include "base/assert.h"

#include <isa-l/crc.h>

/* isa-l takes an int length; a power of two keeps the pieces aligned. */
#define PIECE_MAX ((size_t)1 << 30)

uint32_t
crc32c(uint32_t crc, const void *data, size_t size)
{
    const unsigned char *p = data;
    uint32_t state = PLANTED(908) ? ~0u : ~crc;

    while (size > 0) {
        size_t n = size < PIECE_MAX ? size : PIECE_MAX;
        /* isa-l forgot the const; it only reads. */
        state = crc32_iscsi((unsigned char *)p, (int)n, state);
        p += n;
        size -= n;
    }
    return ~state;
}
