/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_btree_page.c - arbitrary bytes as a B+tree page: check, print, search, and one redo whose
 * payload is the end of the input.
 */
#include "base/error.h"
#include "base/mem.h"
#include "btree/btree.h"
#include "btree/btree_page.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
drop_line(void *arg, const char *text)
{
    *(size_t *)arg += strlen(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *page = mem_aligned(MEM_TEST, 4096, PAGE_SIZE_MIN);
    size_t chars = 0, n = size < PAGE_SIZE_MIN ? size : PAGE_SIZE_MIN;
    if (page == NULL)
        return 0;
    memset(page, 0, PAGE_SIZE_MIN);
    if (n > 0)
        memcpy(page, data, n);
    bool exact;
    struct btree_entry e;
    uint32_t key_size = size < 16 ? (uint32_t)size : 16;
    uint32_t slot =
        btree__lower_bound(page, PAGE_SIZE_MIN, data + size - key_size, key_size, &exact);
    btree__opt_entry(page, PAGE_SIZE_MIN, slot, &e);
    btree_page_print(page, PAGE_SIZE_MIN, drop_line, &chars);
    bool good = btree_page_check(page, PAGE_SIZE_MIN) == ASH_OK;
    if (good && size > PAGE_SIZE_MIN + 2) { /* redo relies on pages that pass their check */
        const uint8_t *payload = data + PAGE_SIZE_MIN + 2;
        uint16_t op = (uint16_t)(BTREE_OP_LEAF_PUT + data[PAGE_SIZE_MIN] % 9);
        ash_ignore(
            btree__redo(page, PAGE_SIZE_MIN, op, payload, (uint32_t)(size - PAGE_SIZE_MIN - 2), 1));
    }
    mem_free(MEM_TEST, page);
    return 0;
}
