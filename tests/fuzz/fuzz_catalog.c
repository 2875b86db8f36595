/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_catalog.c - arbitrary bytes as a row of the catalog: what passes can be used.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"
#include "storage/page_format.h"
#include "table/table.h"
#include "table/table_format.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(unsigned n, uint8_t *buf, size_t room);

size_t
fuzz_seed(unsigned n, uint8_t *buf, size_t room)
{
    struct table_row row = { .version = TABLE_ROW_VERSION,
                             .tree = TABLE_TREE_FIRST + n,
                             .root = 5 + n,
                             .page_size = PAGE_SIZE_MIN << n,
                             .engine = TABLE_ENGINE_BTREE };

    if (n > 9 || room < sizeof(row))
        return 0;
    memcpy(buf, &row, sizeof(row));
    return sizeof(row);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct table_row row;

    if (catalog_row_check(data, size) != ASH_OK)
        return 0;
    memcpy(&row, data, sizeof(row));
    ash_assert(is_pow2(row.page_size) && row.page_size >= PAGE_SIZE_MIN);
    ash_assert(row.page_size <= PAGE_CLASS_SIZE(PAGE_CLASS_COUNT - 1) && row.root != 0 &&
               row.tree != 0);
    return 0;
}
