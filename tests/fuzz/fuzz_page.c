/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_page.c - arbitrary bytes as a page of any type: its head, then as a page of the location
 * map.
 */
#include "base/crc.h"
#include "base/error.h"
#include "storage/pstore.h"
#include "storage/pstore_format.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t fuzz_seed(unsigned n, uint8_t *buf, size_t room);
void fuzz_fix(uint8_t *data, size_t size);

size_t
fuzz_seed(unsigned n, uint8_t *buf, size_t room)
{
    struct page_head h = { .format = PAGE_FORMAT,
                           .type = (uint8_t)(1 + n % 5),
                           .page = 7,
                           .database = 1,
                           .lsn = 100,
                           .write_seq = 3 };

    if (n > 9 || room < PAGE_SIZE_MIN)
        return 0;
    memset(buf, 0, PAGE_SIZE_MIN);
    if (h.type == PAGE_TYPE_MAP)
        h.page = MAP_PAGE_ID(0);
    if (h.type == PAGE_TYPE_MAP_ROOT)
        h.page = MAP_ROOT_ID(0);
    memcpy(buf, &h, sizeof(h));
    for (uint32_t i = 64; n > 4 && i < PAGE_SIZE_MIN; i += 8) { /* entries */
        struct map_entry e = map_entry_make((uint64_t)i * 4096, 4096, i);
        memcpy(buf + i, &e.v, sizeof(e.v));
    }
    fuzz_fix(buf, PAGE_SIZE_MIN);
    return PAGE_SIZE_MIN;
}

void
fuzz_fix(uint8_t *data, size_t size)
{
    if (size < sizeof(struct page_head))
        return;
    uint32_t crc = crc32c(0, data + 4, size - 4);
    memcpy(data, &crc, sizeof(crc));
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ash_ignore(page_check(data, (uint32_t)size, 7, 1, "data", 4096));
    ash_ignore(pstore_map_page_check(data, (uint32_t)size));
    return 0;
}
