/* SPDX-License-Identifier: Apache-2.0
 *
 * page_check.c - is this the page it should be?  Looks only at bytes: nothing here reads or waits.
 *
 * Each check of the header catches its own fault: the checksum rot and torn writes, id and database
 * misdirected writes and foreign files, class and format a reader that would misread the rest.  A
 * page that passes may still be an old version of itself (a lost write): the map's checksum
 * fragment finds that, in pstore_read_end().
 */
#include "base/bits.h"
#include "base/crc.h"
#include "base/error.h"
#include "storage/pstore.h"

#include <inttypes.h>

ash_rc
page_check(const void *image, uint32_t size, uint64_t page, uint32_t database, const char *file,
           uint64_t offset)
{
    struct page_head h;

    if (size < PAGE_SIZE_MIN || !is_pow2(size) || size > PAGE_CLASS_SIZE(PAGE_CLASS_COUNT - 1))
        return ash_raise_obj(ASH_CORRUPT, file,
                             "%s, offset %" PRIu64 ", page %" PRIu64 ": no page has %" PRIu32
                             " bytes; restore from a backup.",
                             file, offset, page, size);
    memcpy(&h, image, sizeof(h));
    uint32_t crc = crc32c(0, (const uint8_t *)image + 4, size - 4);
    if (h.crc32c != crc && !PLANTED(50)) {
        bool empty = h.crc32c == 0 && h.format == 0 && h.page == 0;
        return ash_raise_obj(
            ASH_CORRUPT, file,
            "%s, offset %" PRIu64 ": page %" PRIu64 " fails its checksum (stored %08" PRIx32
            ", computed %08" PRIx32 "%s); run `ashlar verify`, restore from a backup.",
            file, offset, page, h.crc32c, crc, empty ? ", nothing was ever written there" : "");
    }
    if (h.format != PAGE_FORMAT)
        return ash_raise_obj(
            h.format > PAGE_FORMAT ? ASH_VERSION_MISMATCH : ASH_CORRUPT, file,
            "%s, offset %" PRIu64 ": page %" PRIu64
            " has page format %u, but this library knows %u; use a newer Ashlar, or restore from a backup.",
            file, offset, page, h.format, PAGE_FORMAT);
    if (h.page != page)
        return ash_raise_obj(ASH_CORRUPT, file,
                             "%s, offset %" PRIu64 ": found page %" PRIu64 " where page %" PRIu64
                             " should be: a misdirected write or read; restore from a backup.",
                             file, offset, h.page, page);
    if (h.database != database)
        return ash_raise_obj(
            ASH_CORRUPT, file,
            "%s, offset %" PRIu64 ": page %" PRIu64 " belongs to another database (tag %08" PRIx32
            ", expected %08" PRIx32
            "); perhaps a file was copied between directories; restore from a backup.",
            file, offset, page, h.database, database);
    if (h.page_class >= PAGE_CLASS_COUNT || PAGE_CLASS_SIZE(h.page_class) != size)
        return ash_raise_obj(ASH_CORRUPT, file,
                             "%s, offset %" PRIu64 ": page %" PRIu64
                             " says size class %u, but has %" PRIu32
                             " bytes; restore from a backup.",
                             file, offset, page, h.page_class, size);
    if (h.type == 0 || h.flags != 0)
        return ash_raise_obj(ASH_CORRUPT, file,
                             "%s, offset %" PRIu64 ": page %" PRIu64
                             " has type %u and flags %u, which do not exist.",
                             file, offset, page, h.type, h.flags);
    return ASH_OK;
}
