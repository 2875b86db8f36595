/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_super.c - the superblock: creating, opening and closing a page store, and committing its
 * checkpoints.
 *
 * Creation is atomic: the file is made under a temporary name, gets its first superblock, is
 * flushed, renamed, and the directory synced.  A crash before the rename leaves only the temporary
 * file, which the next creation reuses.
 *
 * What open reads must be durable before anything is built on it: after a process crash the device
 * may still hold the newest superblock in its volatile cache, and the directory its entries (also
 * those of the log).  So open flushes both before it lets anybody reuse space.
 */
#include "base/crc.h"
#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "storage/pstore_int.h"

#include <inttypes.h>

/* ---- One block ---- */

static uint32_t
super_crc(const void *block)
{
    return crc32c(0, (const uint8_t *)block + 12, SUPER_SIZE - 12);
}

/* Is a checkpoint's data in itself possible? */
static bool
super_sane(const struct super_block *sb)
{
    return sb->seq > 0 && sb->slot < SUPER_SLOTS && sb->slot / 2 == sb->seq % 2 &&
           sb->zone_bytes >= SUPER_AREA && sb->zone_bytes % SUPER_AREA == 0 &&
           sb->zone_bytes <= SUPER_ZONE_MAX &&
           (sb->map_root == 0 || pstore__entry_shape(sb->map_root)) && sb->map_pages < 1ull << 40 &&
           (sb->map_root != 0 || sb->map_pages == 0) && sb->map_pages >= (sb->map_root != 0) &&
           (sb->flags & ~SUPER_FLAG_CLEAN) == 0;
}

ash_rc
pstore_superblock_check(const void *block, uint32_t size)
{
    struct super_block sb;

    if (size != SUPER_SIZE)
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                             "A superblock has %u bytes, not %" PRIu32 ".", SUPER_SIZE, size);
    memcpy(&sb, block, sizeof(sb));
    if (sb.magic != SUPER_MAGIC)
        return ash_raise_obj(ASH_NOT_A_DATABASE, PSTORE_FILE,
                             "%s does not begin as an Ashlar data file does.", PSTORE_FILE);
    if (sb.crc32c != super_crc(block) && !PLANTED(57))
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                             "%s: a superblock (version %" PRIu64 ") fails its checksum.",
                             PSTORE_FILE, sb.seq);
    if (sb.format > SUPER_FORMAT)
        return ash_raise_obj(ASH_VERSION_MISMATCH, PSTORE_FILE,
                             "%s has format %" PRIu32
                             ", but this library knows up to %u; use a newer Ashlar.",
                             PSTORE_FILE, sb.format, SUPER_FORMAT);
    if (sb.format == 0 || !super_sane(&sb))
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                             "%s: a superblock (version %" PRIu64 ") contradicts itself.",
                             PSTORE_FILE, sb.seq);
    return ASH_OK;
}

/* Writes `sb` to the slots [first, end) of the two of its version and reads them back: a superblock
 * that a device lost would be found out only at the next restart, when what the older one names is
 * overwritten. */
static ash_rc
super_write(struct io_file *file, const struct super_block *sb, unsigned first, unsigned end)
{
    uint8_t *buf = mem_aligned(MEM_PSTORE, IO_ALIGN, 3 * SUPER_SIZE);
    struct io_req req[2], *list[2] = { &req[0], &req[1] };
    ash_rc rc = ASH_OK;

    if (buf == NULL)
        return ASH_NO_MEMORY;
    memset(buf, 0, 2 * SUPER_SIZE);
    for (unsigned twin = first; twin < end; twin++) {
        struct super_block *slot = (struct super_block *)(void *)(buf + twin * SUPER_SIZE);
        *slot = *sb;
        slot->slot = (uint32_t)(2 * (PLANTED(58) ? 0 : sb->seq % 2) + twin);
        slot->crc32c = super_crc(slot);
        req[twin] = (struct io_req){ .file = file,
                                     .op = IO_OP_WRITE,
                                     .class = IO_CLASS_FLUSH,
                                     .buf = slot,
                                     .bytes = SUPER_SIZE,
                                     .offset = (uint64_t)slot->slot * SUPER_STRIDE };
    }
    io_submit(list + first, end - first);
    for (unsigned twin = first; twin < end; twin++) {
        ash_rc one = io_wait(&req[twin]);
        if (rc == ASH_OK)
            rc = one;
    }
    if (rc == ASH_OK)
        rc = io_flush(file, IO_CLASS_FLUSH);
    for (unsigned twin = first; twin < end && rc == ASH_OK; twin++) {
        rc = io_read(file, buf + 2 * SUPER_SIZE, SUPER_SIZE, req[twin].offset, IO_CLASS_FLUSH);
        if (rc == ASH_OK && memcmp(buf + 2 * SUPER_SIZE, buf + twin * SUPER_SIZE, SUPER_SIZE) != 0)
            rc = ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                               "%s, offset %" PRIu64
                               ": the superblock just written does not read back; the device loses "
                               "writes, do not trust it.",
                               PSTORE_FILE, req[twin].offset);
    }
    mem_free(MEM_PSTORE, buf);
    return rc;
}

ash_rc
pstore__super_commit(struct pstore *ps, struct super_block *sb)
{
    sb->seq = ps->super.seq + 1;
    sb->write_seq = atomic_load(&ps->write_seq);
    ash_rc rc = super_write(ps->file, sb, 0, 2);
    if (rc == ASH_OK)
        ps->super = *sb;
    return rc;
}

/* ---- Finding the newest ---- */

/* Damaged or not: was this once a slot of ours?  A magic of its own is not the only evidence. */
static bool
super_likely(const struct super_block *sb)
{
    return sb->magic == SUPER_MAGIC ||
           (sb->format > 0 && sb->format <= SUPER_FORMAT && super_sane(sb) && !PLANTED(321));
}

struct super_scan {
    unsigned valid, unreadable; /* slots, as bits */
    unsigned twins;             /* which of the newest version's two slots are good, as bits */
    unsigned likely, damaged;
    bool newer;
    struct err_detail why; /* the first slot could not be read */
};

/* Reads one slot.  A sector that cannot be read is damage like any other; see super_scan_check(). */
static ash_rc
super_scan_slot(struct pstore *ps, unsigned slot, void *buf, struct super_scan *scan)
{
    const struct super_block *sb = buf;
    ash_rc rc = io_read(ps->file, buf, SUPER_SIZE, slot * SUPER_STRIDE, IO_CLASS_READ);

    if (rc == ASH_IO && !PLANTED(346)) {
        if (scan->unreadable == 0)
            err_save(&scan->why);
        scan->unreadable |= 1u << slot;
        scan->damaged++;
        return ASH_OK;
    }
    if (rc != ASH_OK)
        return rc;
    ash_rc check = pstore_superblock_check(buf, SUPER_SIZE);
    scan->likely += super_likely(sb);
    scan->damaged += check == ASH_CORRUPT;
    scan->newer |= check == ASH_VERSION_MISMATCH;
    if (check != ASH_OK || sb->slot != slot)
        return ASH_OK;
    scan->valid |= 1u << slot;
    if (sb->seq > ps->super.seq) {
        ps->super = *sb;
        scan->twins = 0;
    }
    if (sb->seq == ps->super.seq)
        scan->twins |= 1u << slot % 2;
    return ASH_OK;
}

static ash_rc
super_scan_check(const struct pstore *ps, const struct super_scan *scan)
{
    const char *dir = io_dir_path(ps->dir);

    if (scan->newer)
        return ash_raise_obj(ASH_VERSION_MISMATCH, PSTORE_FILE,
                             "%s/%s was written by a newer Ashlar than this library; use that one.",
                             dir, PSTORE_FILE);
    /* What an unreadable slot held is what its twin holds.  Without that it may have been the
     * newest version, and what an older one names may be overwritten. */
    unsigned twin_valid = (scan->valid & 5) << 1 | (scan->valid & 10) >> 1;
    if ((scan->unreadable & ~twin_valid) != 0) {
        err_restore(&scan->why);
        return ASH_IO;
    }
    if (ps->super.seq == 0 && scan->likely == 0)
        return ash_raise_obj(ASH_NOT_A_DATABASE, PSTORE_FILE,
                             "%s/%s is not an Ashlar data file; name the directory of a database.",
                             dir, PSTORE_FILE);
    if (ps->super.seq == 0)
        return ash_raise_obj(ASH_CORRUPT, PSTORE_FILE,
                             "%s/%s: all %u superblocks are damaged; restore from a backup.", dir,
                             PSTORE_FILE, SUPER_SLOTS);
    if (scan->damaged > 0)
        log_write(
            LOG_WARN,
            "%s/%s: %u of %u superblock slots are damaged (normal after a crash in a checkpoint); version %" PRIu64
            " is used",
            dir, PSTORE_FILE, scan->damaged, SUPER_SLOTS, ps->super.seq);
    return ASH_OK;
}

/* *twins_out: which of the newest version's two slots are good, as bits. */
static ash_rc
super_read(struct pstore *ps, unsigned *twins_out)
{
    uint8_t *buf = mem_aligned(MEM_PSTORE, IO_ALIGN, SUPER_SIZE);
    struct super_scan scan = { 0 };
    uint64_t size;

    if (buf == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc = io_file_size(ps->file, &size);
    for (unsigned slot = 0; slot < SUPER_SLOTS && rc == ASH_OK; slot++) {
        if (size < slot * SUPER_STRIDE + SUPER_SIZE)
            break;
        rc = super_scan_slot(ps, slot, buf, &scan);
    }
    mem_free(MEM_PSTORE, buf);
    *twins_out = scan.twins;
    return rc == ASH_OK ? super_scan_check(ps, &scan) : rc;
}

/* ---- Create, open, close ---- */

ash_rc
pstore_look(struct io_dir *dir, bool *exists_out)
{
    struct io_file *f;
    struct err_detail saved;
    err_save(&saved);
    ash_rc rc = io_file_open(dir, PSTORE_FILE, IO_READ_ONLY, &f);
    if (rc == ASH_OK)
        io_file_close(f);
    if (rc == ASH_NOT_FOUND)
        err_restore(&saved);
    if (rc == ASH_OK || rc == ASH_NOT_FOUND)
        *exists_out = rc == ASH_OK;
    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

bool
pstore_exists(struct io_dir *dir)
{
    bool exists = true;
    struct err_detail saved;
    err_save(&saved);
    if (pstore_look(dir, &exists) != ASH_OK)
        err_restore(&saved);
    return exists;
}

/* Sizes the new file and gives it its first superblock, durably. */
static ash_rc
create_fill(struct io_file *file, uint32_t zone_bytes)
{
    struct super_block sb = { .magic = SUPER_MAGIC,
                              .format = SUPER_FORMAT,
                              .seq = 1,
                              .zone_bytes = zone_bytes,
                              .page_high = PAGE_ID_FIRST,
                              .write_seq = 1 };
    uint64_t bytes = zone_bytes > SUPER_AREA ? zone_bytes : 2ull * zone_bytes;

    do
        random_entropy(sb.uuid, sizeof(sb.uuid));
    while (get_le32(sb.uuid) == 0);        /* 0 is the tag of no database */
    ash_rc rc = io_file_truncate(file, 0); /* left over from a creation that did not finish */
    if (rc == ASH_OK)
        rc = io_file_allocate(file, bytes, /* zero= */ false);
    if (rc == ASH_OK)
        rc = super_write(file, &sb, 0, 2);
    return rc;
}

ash_rc
pstore_create(const struct pstore_options *options, struct pstore **out)
{
    uint32_t zone_bytes = options->zone_bytes == 0 ? PSTORE_ZONE_BYTES : options->zone_bytes;
    struct io_file *file;

    if (options->read_only)
        return ash_raise_obj(ASH_READ_ONLY, PSTORE_FILE, "A database cannot be created read-only.");
    if (zone_bytes % SUPER_AREA != 0 || zone_bytes > SUPER_ZONE_MAX)
        return ash_raise_obj(ASH_INVALID, PSTORE_FILE,
                             "The option zone_size is %" PRIu32
                             ", it must be a multiple of 65,536 bytes and at most 1 GiB.",
                             zone_bytes);
    ash_rc rc = io_file_open(options->dir, PSTORE_FILE_TEMPORARY, IO_CREATE | IO_LOCK, &file);
    if (rc != ASH_OK)
        return rc;
    bool exists = false;
    rc = pstore_look(options->dir, &exists); /* locked: two creators cannot both see nothing */
    if (rc == ASH_OK && exists)
        rc = ash_raise_obj(ASH_EXISTS, PSTORE_FILE, "%s/%s exists already.",
                           io_dir_path(options->dir), PSTORE_FILE);
    if (rc == ASH_OK)
        rc = create_fill(file, zone_bytes);
    if (rc == ASH_OK)
        rc = io_dir_rename(options->dir, PSTORE_FILE_TEMPORARY, PSTORE_FILE);
    if (rc == ASH_OK)
        rc = io_dir_sync(options->dir);
    io_file_close(file);
    return rc == ASH_OK ? pstore_open(options, out) : rc;
}

static ash_rc
open_contents(struct pstore *ps, uint64_t page_id_max)
{
    unsigned twins = 0;
    ash_rc rc = super_read(ps, &twins);
    if (rc != ASH_OK)
        return rc;
    ps->database = get_le32(ps->super.uuid);
    atomic_store(&ps->write_seq, ps->super.write_seq + PSTORE_WRITE_SEQ_SKIP);
    if (!ps->read_only && !PLANTED(59)) { /* see the head of this file */
        rc = io_flush(ps->file, IO_CLASS_FLUSH);
        if (rc == ASH_OK)
            rc = io_dir_sync(ps->dir);
        if (rc != ASH_OK)
            return rc;
    }
    /* A crash or rot left one twin: make the other good again, without touching the only one. */
    if (!ps->read_only && twins != 3)
        rc = super_write(ps->file, &ps->super, twins == 1, twins == 1 ? 2 : 1);
    if (rc != ASH_OK)
        return rc;
    rc = pstore__space_init(ps);
    if (rc == ASH_OK)
        rc = pstore__map_init(ps, page_id_max);
    if (rc == ASH_OK)
        rc = pstore__map_load(ps);
    return rc;
}

ash_rc
pstore_open(const struct pstore_options *options, struct pstore **out)
{
    struct pstore *ps = mem_zalloc(MEM_PSTORE, sizeof(*ps));
    if (ps == NULL)
        return ASH_NO_MEMORY;
    ps->io = options->io;
    ps->dir = options->dir;
    ps->read_only = options->read_only;
    ps->grow_bytes = options->grow_bytes == 0 ? PSTORE_GROW_BYTES : options->grow_bytes;
    task_mutex_init(&ps->map_lock);
    task_mutex_init(&ps->space_lock);
    unsigned flags = options->read_only ? IO_READ_ONLY : 0;
    ash_rc rc = io_file_open(options->dir, PSTORE_FILE, flags | IO_LOCK, &ps->file);
    if (rc == ASH_NOT_FOUND)
        rc = ash_raise_obj(ASH_NOT_A_DATABASE, PSTORE_FILE,
                           "%s holds no Ashlar database (%s is missing).",
                           io_dir_path(options->dir), PSTORE_FILE);
    if (rc == ASH_OK)
        rc = open_contents(ps, options->page_id_max);
    if (rc != ASH_OK) {
        pstore_close(ps);
        return rc;
    }
    *out = ps;
    return ASH_OK;
}

void
pstore_close(struct pstore *ps)
{
    if (ps == NULL)
        return;
    if (ps->file != NULL)
        io_file_close(ps->file);
    pstore__contexts_free(ps);
    pstore__map_deinit(ps);
    pstore__space_deinit(ps);
    mem_free(MEM_PSTORE, ps);
}

const uint8_t *
pstore_uuid(const struct pstore *ps)
{
    return ps->super.uuid;
}

void
pstore_info(const struct pstore *ps, struct pstore_checkpoint_info *out)
{
    const struct super_block *sb = &ps->super;
    *out = (struct pstore_checkpoint_info){
        .checkpoint_lsn = sb->checkpoint_lsn,
        .checkpoint_segment = sb->checkpoint_segment,
        .scan_lsn = sb->scan_lsn,
        .scan_segment = sb->scan_segment,
        .map_lsn = sb->map_lsn,
        .epoch = sb->epoch,
        .clean = (sb->flags & SUPER_FLAG_CLEAN) != 0,
    };
}
