/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_verify.c - data that can be checked: every 4 KiB carry their own place and checksum.
 *
 * A unit is a head and a filling derived from it.  What each field detects:
 *   magic    a unit that no verifying job wrote
 *   crc      flipped bytes
 *   offset   a write or read that went to another place
 *   seed     data of another run (checked where this run wrote)
 *   version  an older write of this run: a lost one
 *
 * Units are checked alone, so writes of any size may overlap; what must not happen is that two
 * requests to one unit are in flight together, one of them a write: the order in which they reach
 * the device would be open.  iob_run.c holds such requests back.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/crc.h"
#include "base/error.h"
#include "base/mem.h"

#include <inttypes.h>
#include <string.h>

#include "iob.h"

#define MAGIC 0x0010be9cu

/* Little-endian. */
struct head {
    uint32_t magic;   /*  0  4 */
    uint32_t crc;     /*  4  4  of bytes [8, IOB_UNIT) */
    uint64_t offset;  /*  8  8  in the file */
    uint64_t seed;    /* 16  8 */
    uint32_t version; /* 24  4  counts the writes of the job, from 1 */
    uint32_t zero;    /* 28  4 */
};
static_assert(sizeof(struct head) == 32, "head of a verified unit");

ash_rc
iob_written_init(struct iob_written *w, uint64_t base, uint64_t length, uint64_t seed)
{
    memset(w, 0, sizeof(*w));
    w->base = base;
    w->length = length;
    w->seed = seed;
    w->version = mem_zalloc(MEM_TOOL, (length / IOB_UNIT + 1) * sizeof(*w->version));
    return w->version == NULL ? ASH_NO_MEMORY : ASH_OK;
}

void
iob_written_deinit(struct iob_written *w)
{
    mem_free(MEM_TOOL, w->version);
    memset(w, 0, sizeof(*w));
}

static void
fill_unit(unsigned char *unit, uint64_t offset, uint64_t seed, uint32_t version)
{
    uint64_t v = hash_u64(offset ^ seed) + version;

    for (unsigned i = sizeof(struct head); i < IOB_UNIT; i += 8) {
        v = v * 0x5851f42d4c957f2du +
            0x14057b7ef767814fu; /* random enough to find misplaced bytes */
        put_le64(unit + i, v);
    }
    put_le32(unit, MAGIC);
    put_le64(unit + 8, offset);
    put_le64(unit + 16, seed);
    put_le32(unit + 24, version);
    put_le32(unit + 28, 0);
    put_le32(unit + 4, crc32c(0, unit + 8, IOB_UNIT - 8));
}

void
iob_verify_fill(struct iob_written *w, uint64_t offset, void *buf, uint32_t bytes)
{
    uint32_t version = ++w->last;

    ash_assert(offset >= w->base && offset + bytes <= w->base + w->length);
    for (uint32_t i = 0; i < bytes; i += IOB_UNIT) {
        fill_unit((unsigned char *)buf + i, offset + i, w->seed, version);
        w->version[(offset + i - w->base) / IOB_UNIT] = version;
    }
}

static ash_rc
raise_wrong(const char *path, uint64_t offset, const char *what, uint64_t found, uint64_t wanted)
{
    return ash_raise_obj(ASH_CORRUPT, path,
                         "verify: %s at offset %" PRIu64 ": %s is %#" PRIx64 ", not %#" PRIx64 ".",
                         path, offset, what, found, wanted);
}

static ash_rc
check_unit(const struct iob_written *w, const char *path, uint64_t offset,
           const unsigned char *unit)
{
    uint32_t version = w->version[(offset - w->base) / IOB_UNIT];
    uint32_t crc = crc32c(0, unit + 8, IOB_UNIT - 8);

    if (get_le32(unit) != MAGIC)
        return raise_wrong(path, offset, "the magic number", get_le32(unit), MAGIC);
    if (get_le32(unit + 4) != crc && !PLANTED(352))
        return raise_wrong(path, offset, "the checksum", crc, get_le32(unit + 4));
    if (get_le64(unit + 8) != offset)
        return raise_wrong(path, offset, "the offset", get_le64(unit + 8), offset);
    if (version == 0)
        return ASH_OK; /* another run's */
    if (get_le64(unit + 16) != w->seed)
        return raise_wrong(path, offset, "the seed", get_le64(unit + 16), w->seed);
    if (get_le32(unit + 24) != version && !PLANTED(353))
        return raise_wrong(path, offset, "the version", get_le32(unit + 24), version);
    return ASH_OK;
}

ash_rc
iob_verify_check(const struct iob_written *w, const char *path, uint64_t offset, const void *buf,
                 uint32_t bytes, bool all)
{
    for (uint32_t i = 0; i < bytes; i += IOB_UNIT) {
        if (!all && w->version[(offset + i - w->base) / IOB_UNIT] == 0)
            continue;
        ash_rc rc = check_unit(w, path, offset + i, (const unsigned char *)buf + i);
        if (rc != ASH_OK)
            return rc;
    }
    return ASH_OK;
}

bool
iob_written_next(const struct iob_written *w, uint64_t *at, uint32_t bytes, uint64_t *offset_out,
                 uint32_t *bytes_out)
{
    uint64_t units = w->length / IOB_UNIT, i = *at, n = 0;

    while (i < units && w->version[i] == 0)
        i++;
    while (i + n < units && w->version[i + n] != 0 && n < bytes / IOB_UNIT)
        n++;
    *at = i + n;
    *offset_out = w->base + i * IOB_UNIT;
    *bytes_out = (uint32_t)(n * IOB_UNIT);
    return n > 0;
}
