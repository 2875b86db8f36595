/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_undo.c - arbitrary bytes as the undo part of a log record: every byte that it says it holds
 * must be inside.
 */
#include "base/error.h"
#include "txn/txn.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(unsigned n, uint8_t *buf, size_t room);

size_t
fuzz_seed(unsigned n, uint8_t *buf, size_t room)
{
    struct txn_undo_head h = { .root = 5,
                               .tree = 16,
                               .row_size = n * 40,
                               .key_size = (uint16_t)(n * 10),
                               .kind = (uint8_t)(1 + n % 3) };
    size_t size = sizeof(h) + h.row_size + h.key_size;

    if (n > 5 || room < size)
        return 0;
    memset(buf, 'x', size);
    memcpy(buf, &h, sizeof(h));
    return size;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct txn_undo undo;
    uint32_t sum = 0;

    if (txn_undo_parse(data, (uint32_t)size, &undo) != ASH_OK)
        return 0;
    for (uint32_t i = 0; i < undo.head->key_size; i++)
        sum += undo.key[i];
    for (uint32_t i = 0; i < undo.head->row_size; i++)
        sum += undo.row[i];
    return sum == UINT32_MAX; /* used, so that the reads above stay */
}
