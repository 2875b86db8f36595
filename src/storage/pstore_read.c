/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_read.c - reads pages through the map, verified (I3), and verifies a whole store.
 */
#include "base/error.h"
#include "storage/pstore_int.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- Reading ---- */

ash_rc
pstore_read_begin(struct pstore *ps, uint64_t page, uint8_t page_class, void *buf,
                  enum io_class class, struct io_req *req_out, struct map_entry *entry_out)
{
    struct map_entry e;
    uint8_t stored_class;

    if (!pstore_locate(ps, page, &e, &stored_class))
        return ash_raise_obj(
            ASH_CORRUPT, PSTORE_FILE,
            "Page %" PRIu64
            " has no place in %s/%s, yet something refers to it; run `ashlar verify`.",
            page, io_dir_path(ps->dir), PSTORE_FILE);
    if (stored_class != page_class)
        return ash_raise_obj(
            ASH_CORRUPT, PSTORE_FILE,
            "Page %" PRIu64
            " was asked for with size class %u, but the map stores class %u of it at offset %" PRIu64
            " of %s; run `ashlar verify`.",
            page, page_class, stored_class, map_entry_offset(e), PSTORE_FILE);
    *req_out = (struct io_req){ .file = ps->file,
                                .op = IO_OP_READ,
                                .class = class,
                                .offset = map_entry_offset(e),
                                .buf = buf,
                                .bytes = map_entry_length(e) };
    *entry_out = e;
    atomic_fetch_add_explicit(&ps->reads, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&ps->read_bytes, map_entry_length(e), memory_order_relaxed);
    return ASH_OK;
}

ash_rc
pstore_read_end(struct pstore *ps, uint64_t page, uint8_t page_class, const void *buf,
                struct map_entry entry)
{
    const struct page_head *h = buf;
    ash_rc rc = page_check(buf, PAGE_CLASS_SIZE(page_class), page, ps->database, PSTORE_FILE,
                           map_entry_offset(entry));
    if (rc != ASH_OK)
        return rc;
    if ((h->crc32c & 0xfffu) != map_entry_crc(entry) && !PLANTED(56))
        return ash_raise_obj(
            ASH_CORRUPT, PSTORE_FILE,
            "%s, offset %" PRIu64 ": page %" PRIu64
            " is whole, but not the version that was written last "
            "(checksum ends in %03x, the map says %03x): the device lost or misdirected a write; restore "
            "from a backup and distrust the device.",
            PSTORE_FILE, map_entry_offset(entry), page, h->crc32c & 0xfffu, map_entry_crc(entry));
    return ASH_OK;
}

ash_rc
pstore_read(struct pstore *ps, uint64_t page, uint8_t page_class, void *buf, enum io_class class)
{
    struct io_req req, *list[1] = { &req };
    struct map_entry e;
    ash_rc rc = pstore_read_begin(ps, page, page_class, buf, class, &req, &e);
    if (rc != ASH_OK)
        return rc;
    io_submit(list, 1);
    rc = io_wait(&req);
    return rc == ASH_OK ? pstore_read_end(ps, page, page_class, buf, e) : rc;
}

/* ---- Verifying ---- */

struct verify {
    struct pstore *ps;
    pstore_found_fn found;
    void *arg;
    uint8_t *buf; /* of the largest page class */
};

/* Passes on what was just raised. */
static void
report(struct verify *v, uint64_t offset, uint64_t page)
{
    v->found(v->arg, PSTORE_FILE, offset, page, err_current()->message);
}

/* Damage is reported and the walk goes on; anything else (no memory, I/O) ends it. */
static bool
is_damage(ash_rc rc)
{
    return rc == ASH_CORRUPT || rc == ASH_IO || rc == ASH_VERSION_MISMATCH ||
           rc == ASH_NOT_A_DATABASE;
}

static ash_rc
verify_super(struct verify *v)
{
    uint64_t seq = v->ps->super.seq;
    for (unsigned twin = 0; twin < 2; twin++) {
        uint64_t offset = (2 * (seq % 2) + twin) * SUPER_STRIDE;
        const struct super_block *sb = (const struct super_block *)(void *)v->buf;
        ash_rc rc = io_read(v->ps->file, v->buf, SUPER_SIZE, offset, IO_CLASS_SCRUB);
        if (rc == ASH_OK)
            rc = pstore_superblock_check(v->buf, SUPER_SIZE);
        if (rc == ASH_OK && sb->seq < seq)
            rc = ash_raise_obj(
                ASH_CORRUPT, PSTORE_FILE,
                "%s, offset %" PRIu64 ": a superblock slot holds version %" PRIu64
                ", not the newest, %" PRIu64
                "; its twin is used, and the next checkpoint but one writes it again.",
                PSTORE_FILE, offset, sb->seq, seq);
        if (rc != ASH_OK && !is_damage(rc))
            return rc;
        if (rc != ASH_OK)
            report(v, offset, PAGE_ID_NONE);
    }
    return ASH_OK;
}

static ash_rc
verify_map(struct verify *v)
{
    struct pstore *ps = v->ps;
    for (uint64_t i = 0; i < ps->root_count + ps->map_pages; i++) {
        bool root = i < ps->root_count;
        uint64_t index = root ? i : i - ps->root_count;
        uint64_t word = root ? ps->root_place[index] : atomic_load(&ps->map_place[index]);
        uint64_t id = root ? MAP_ROOT_ID(index) : MAP_PAGE_ID(index);
        if (word == 0)
            continue;
        ash_rc rc =
            pstore__map_read(ps, word, id, root ? PAGE_TYPE_MAP_ROOT : PAGE_TYPE_MAP, v->buf);
        if (rc == ASH_OK)
            rc = pstore_map_page_check(v->buf, PAGE_SIZE_MIN);
        if (rc != ASH_OK && !is_damage(rc))
            return rc;
        if (rc != ASH_OK)
            report(v, map_entry_offset((struct map_entry){ word }), id);
    }
    return ASH_OK;
}

/* Reads one page.  It may move while it is read: then what was read means nothing, and it is read
 * again. */
static ash_rc
verify_page(struct verify *v, uint64_t page)
{
    struct map_entry e, now;
    uint8_t class, class_now;

    for (unsigned attempt = 0; attempt < 8; attempt++) {
        if (!pstore_locate(v->ps, page, &e, &class))
            return ASH_OK;
        ash_rc rc =
            io_read(v->ps->file, v->buf, map_entry_length(e), map_entry_offset(e), IO_CLASS_SCRUB);
        if (rc == ASH_OK)
            rc = pstore_read_end(v->ps, page, class, v->buf, e);
        if (rc == ASH_OK)
            return ASH_OK;
        if (!is_damage(rc))
            return rc;
        if (pstore_locate(v->ps, page, &now, &class_now) && now.v == e.v) {
            report(v, map_entry_offset(e), page);
            return ASH_OK;
        }
    }
    return ASH_OK; /* it moves faster than we read: it is being written all the time */
}

static ash_rc
verify_begin(struct verify *v)
{
    uint32_t zone_bytes = v->ps->super.zone_bytes;
    v->buf = mem_aligned(MEM_PSTORE, IO_ALIGN,
                         min_u64(PAGE_CLASS_SIZE(PAGE_CLASS_COUNT - 1), zone_bytes));
    return v->buf != NULL ? ASH_OK : ASH_NO_MEMORY;
}

ash_rc
pstore_verify_map(struct pstore *ps, pstore_found_fn found, void *arg)
{
    struct verify v = { .ps = ps, .found = found, .arg = arg };
    ash_rc rc = verify_begin(&v);
    if (rc == ASH_OK)
        rc = verify_super(&v);
    if (rc == ASH_OK)
        rc = verify_map(&v);
    mem_free(MEM_PSTORE, v.buf);
    return rc;
}

ash_rc
pstore_verify_pages(struct pstore *ps, pstore_found_fn found, void *arg)
{
    struct verify v = { .ps = ps, .found = found, .arg = arg };
    ash_rc rc = verify_begin(&v);
    for (uint64_t page = PAGE_ID_FIRST; page < pstore_page_high(ps) && rc == ASH_OK; page++)
        rc = verify_page(&v, page);
    mem_free(MEM_PSTORE, v.buf);
    return rc;
}
