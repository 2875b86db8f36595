/* SPDX-License-Identifier: Apache-2.0
 *
 * crc.h - CRC32C (Castagnoli) by isa-l.
 */
#ifndef ASH_BASE_CRC_H
#define ASH_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* CRC32C with the usual inversion: crc32c(0, "123456789", 9) == 0xe3069283.  Chains:
 * crc32c(crc32c(0, a), b) == of a then b. */
uint32_t crc32c(uint32_t crc, const void *data, size_t size);

#endif
