/* SPDX-License-Identifier: Apache-2.0
 *
 * io_volume_table.c - the table at the head of a raw device: reading, checking, writing; and the
 * device itself.
 *
 * Entry points: volume__load(), volume__save(), io__volume_check().   Read first: io_volume.h,
 * volume_format.h.
 */
#include "base/bits.h"
#include "base/crc.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/io_volume_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stddef.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define EINTR_MAX  1000u
#define ZERO_PIECE (1u << 20)

/* ---- The device ---- */

static ash_rc
raise_device(const struct volume_device *dev, int err, const char *what)
{
    return ash_raise_sys(err_from_errno(err), err, dev->path, "%s %s failed: %s.", what, dev->path,
                         strerror(err));
}

static ash_rc
device_size(struct volume_device *dev, const struct stat *st)
{
    if (dev->kind == VOLUME_ON_BLOCK && ioctl(dev->fd, BLKGETSIZE64, &dev->bytes) != 0)
        return raise_device(dev, errno, "Asking for the size of");
    if (dev->kind == VOLUME_ON_FILE)
        dev->bytes = (uint64_t)st->st_size;
    if (dev->kind == VOLUME_ON_NVME) {
        ash_rc rc = io__nvme_open(dev->fd, dev->path, &dev->nvme);
        if (rc != ASH_OK)
            return rc;
        dev->bytes = dev->nvme.bytes;
        dev->device_class = dev->nvme.volatile_cache ? IO_DEVICE_VOLATILE : IO_DEVICE_WRITE_THROUGH;
    }
    if (dev->bytes / VOLUME_UNIT < VOLUME_UNITS_MIN || dev->bytes / VOLUME_UNIT > UINT32_MAX)
        return ash_raise_obj(ASH_INVALID, dev->path,
                             "The device %s has %" PRIu64 " bytes; a volume has %u MiB to 4 PiB.",
                             dev->path, dev->bytes, VOLUME_UNITS_MIN);
    return ASH_OK;
}

static int
open_patiently(const char *path, bool direct)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (direct ? O_DIRECT : 0));

    if (fd < 0 && (errno == EACCES || errno == EROFS))
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | (direct ? O_DIRECT : 0));
    return fd < 0 && errno == EINVAL && direct ? open_patiently(path, false) : fd;
}

/* One process owns a volume: the lock is taken before anything is read. */
static ash_rc
lock_device(const struct volume_device *dev)
{
    for (unsigned i = 0; flock(dev->fd, LOCK_EX | LOCK_NB) != 0; i++) {
        if (errno == EINTR && i < EINTR_MAX)
            continue;
        if (errno == EWOULDBLOCK)
            return ash_raise_obj(
                ASH_BUSY, dev->path,
                "The device %s is in use by another process or handle; close it there first.",
                dev->path);
        return raise_device(dev, errno, "Locking");
    }
    return ASH_OK;
}

ash_rc
volume__device_open(const char *path, bool direct, struct volume_device *out)
{
    struct volume_device dev = { .align = VOLUME_BLOCK, .device_class = IO_DEVICE_VOLATILE };
    struct stat st;
    ash_rc rc;

    dev.path = mem_strdup(MEM_IO, path);
    if (dev.path == NULL)
        return ASH_NO_MEMORY;
    if (stat(path, &st) != 0) {
        rc = raise_device(&dev, errno, "Looking at");
        goto out_path;
    }
    dev.kind = S_ISCHR(st.st_mode)   ? VOLUME_ON_NVME
               : S_ISBLK(st.st_mode) ? VOLUME_ON_BLOCK
                                     : VOLUME_ON_FILE;
    dev.direct = direct && dev.kind != VOLUME_ON_NVME;
    dev.fd = open_patiently(path, dev.direct);
    if (dev.fd < 0) {
        rc = raise_device(&dev, errno, "Opening");
        goto out_path;
    }
    dev.direct = dev.direct && (fcntl(dev.fd, F_GETFL) & O_DIRECT) != 0;
    rc = lock_device(&dev);
    if (rc == ASH_OK)
        rc = device_size(&dev, &st);
    if (rc != ASH_OK)
        goto out_close;
    *out = dev;
    return ASH_OK;
out_close:
    close(dev.fd);
out_path:
    mem_free(MEM_IO, dev.path);
    return rc;
}

void
volume__device_close(struct volume_device *dev)
{
    flock(dev->fd, LOCK_UN); /* rings may still hold the description as a registered file */
    close(dev->fd);
    mem_free(MEM_IO, dev->path);
}

/* The whole range, or an error; `buf` is aligned. */
static ash_rc
device_transfer(const struct volume_device *dev, bool write, void *buf, uint32_t bytes,
                uint64_t offset)
{
    uint32_t done = 0, interrupted = 0;

    while (done < bytes) {
        char *at = (char *)buf + done;
        int64_t n;
        if (dev->kind == VOLUME_ON_NVME) {
            uint32_t step = (uint32_t)min_u64(bytes - done, dev->nvme.transfer_max);
            n = write ? io__nvme_write(&dev->nvme, at, step, offset + done, /* fua= */ false)
                      : io__nvme_read(&dev->nvme, at, step, offset + done);
        } else {
            n = write ? pwrite(dev->fd, at, bytes - done, (off_t)(offset + done))
                      : pread(dev->fd, at, bytes - done, (off_t)(offset + done));
            n = n < 0 ? -errno : n == 0 ? -EIO : n;
        }
        if ((n == -EINTR || n == -EAGAIN) && ++interrupted < EINTR_MAX)
            continue;
        if (n < 0)
            return raise_device(dev, (int)-n, write ? "Writing to" : "Reading from");
        done += (uint32_t)n;
    }
    return ASH_OK;
}

static ash_rc
device_flush(const struct volume_device *dev)
{
    int err = dev->kind == VOLUME_ON_NVME ? -io__nvme_flush(&dev->nvme)
              : fdatasync(dev->fd) != 0   ? errno
                                          : 0;

    return err == 0 ? ASH_OK : raise_device(dev, err, "Flushing");
}

/* By a command that moves no data where there is one; false: write zeros. */
static bool
zero_by_command(const struct volume_device *dev, uint64_t offset, uint64_t bytes)
{
    uint64_t range[2] = { offset, bytes };

    switch (dev->kind) {
    case VOLUME_ON_BLOCK: return ioctl(dev->fd, BLKZEROOUT, range) == 0;
    case VOLUME_ON_FILE:
        return fallocate(dev->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                         (off_t)bytes) == 0;
    case VOLUME_ON_NVME: break;
    }
    for (uint64_t at = 0; dev->nvme.can_write_zeroes && at < bytes;) {
        uint32_t step = (uint32_t)min_u64(bytes - at, 16u << 20);
        if (io__nvme_zero(&dev->nvme, offset + at, step) < 0)
            return false;
        at += step;
    }
    return dev->nvme.can_write_zeroes;
}

ash_rc
volume__device_zero(const struct volume_device *dev, uint64_t offset, uint64_t bytes, bool written)
{
    static const _Alignas(VOLUME_BLOCK) char zeros[ZERO_PIECE]; /* untouched: costs no memory */
    const void *source = zeros;
    ash_rc rc = ASH_OK;
    void *buf;

    /* In a regular file only written zeros keep later writes free of metadata changes. */
    if (!(written && dev->kind == VOLUME_ON_FILE) && zero_by_command(dev, offset, bytes))
        return device_flush(dev);
    memcpy(&buf, &source, sizeof(buf));
    for (uint64_t at = 0; at < bytes && rc == ASH_OK; at += ZERO_PIECE)
        rc = device_transfer(dev, /* write= */ true, buf, (uint32_t)min_u64(bytes - at, ZERO_PIECE),
                             offset + at);
    return rc == ASH_OK ? device_flush(dev) : rc;
}

void
volume__device_discard(const struct volume_device *dev, uint64_t offset, uint64_t bytes)
{
    uint64_t range[2] = { offset, bytes };

    /* Advice: a device that cannot do it keeps the blocks. */
    if (dev->kind == VOLUME_ON_BLOCK)
        ash_ignore(ioctl(dev->fd, BLKDISCARD, range) == 0 ? ASH_OK : ASH_UNSUPPORTED);
    if (dev->kind == VOLUME_ON_FILE)
        ash_ignore(fallocate(dev->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                             (off_t)bytes) == 0
                       ? ASH_OK
                       : ASH_UNSUPPORTED);
}

/* ---- Maps and units ---- */

struct volume_map *
volume__map_copy(struct volume_map *old, uint32_t more)
{
    uint32_t count = old == NULL ? 0 : old->count;
    struct volume_map *map =
        mem_zalloc(MEM_IO, sizeof(*map) + (count + more) * sizeof(map->piece[0]));

    if (map == NULL)
        return NULL;
    if (old != NULL) {
        memcpy(map->piece, old->piece, count * sizeof(map->piece[0]));
        map->count = count;
        map->units = old->units;
    }
    map->replaced = old;
    return map;
}

void
volume__map_add(struct volume_map *map, struct volume_extent extent)
{
    struct volume_piece *last = map->count == 0 ? NULL : &map->piece[map->count - 1];

    map->units += extent.units;
    if (last != NULL && last->extent.unit + last->extent.units == extent.unit) {
        last->extent.units += extent.units;
        last->end = map->units;
        return;
    }
    map->piece[map->count++] = (struct volume_piece){ .end = map->units, .extent = extent };
}

void
volume__mark(struct volume *v, struct volume_extent extent, bool used)
{
    for (uint64_t u = extent.unit; u < (uint64_t)extent.unit + extent.units; u++) {
        ash_assert(u < v->units);
        ash_assert(volume__unit_used(v, u) != used); /* I1 */
        v->used[u / 8] ^= (uint8_t)(1u << (u % 8));
        v->free_units += used ? -1ull : 1ull;
    }
}

/* ---- Checking ---- */

static ash_rc
raise_table(const char *path, uint32_t slot, const char *why)
{
    return ash_raise_obj(ASH_CORRUPT, path,
                         "The table of files %u of the device %s is damaged: %s.", slot, path, why);
}

static const struct volume_entry *
entry_of(const void *table, uint32_t i)
{
    return (const struct volume_entry *)(const void *)((const char *)table +
                                                       sizeof(struct volume_head) +
                                                       i * sizeof(struct volume_entry));
}

static const struct volume_extent *
extents_of(const void *table)
{
    const struct volume_head *head = table;

    return (const struct volume_extent *)(const void *)entry_of(table, head->files);
}

static ash_rc
check_head(const struct volume_head *head, uint32_t bytes, uint32_t slot, uint64_t units,
           const char *path)
{
    if (head->magic != VOLUME_MAGIC)
        return raise_table(path, slot, "it has no magic number");
    if (head->bytes < VOLUME_BLOCK || head->bytes > bytes || head->bytes % VOLUME_BLOCK != 0)
        return raise_table(path, slot, "its length is impossible");
    if (head->crc32c != crc32c(0, (const char *)head + 12, head->bytes - 12))
        return raise_table(path, slot, "its checksum is wrong");
    if (head->format != VOLUME_FORMAT)
        return ash_raise_obj(
            ASH_VERSION_MISMATCH, path,
            "The device %s has a table of format %u; this version reads format %u; use a newer one.",
            path, head->format, VOLUME_FORMAT);
    if (head->slot != slot || head->seq == 0 || head->seq % VOLUME_TABLES != slot)
        return raise_table(path, slot, "it belongs to another place");
    if (head->units > units)
        return raise_table(path, slot, "the device has become smaller");
    uint64_t need = sizeof(*head) + head->files * (uint64_t)sizeof(struct volume_entry) +
                    head->extents * (uint64_t)sizeof(struct volume_extent);
    if (head->files > VOLUME_FILES_MAX || need > head->bytes)
        return raise_table(path, slot, "it names more than it holds");
    return ASH_OK;
}

static ash_rc
check_entry(const void *table, uint32_t i, uint32_t *at, uint32_t slot, uint64_t units,
            const char *path)
{
    const struct volume_head *head = table;
    const struct volume_entry *e = entry_of(table, i);
    const struct volume_extent *x = extents_of(table);
    uint64_t total = 0;

    if (e->name[0] == '\0' || e->name[VOLUME_NAME_MAX] != '\0' || strchr(e->name, '/') != NULL ||
        e->reserved != 0)
        return raise_table(path, slot, "a name is none");
    for (uint32_t k = 0; k < i; k++) {
        if (strcmp(entry_of(table, k)->name, e->name) == 0)
            return raise_table(path, slot, "a name is there twice");
    }
    if (e->extents > head->extents - *at)
        return raise_table(path, slot, "a file has more extents than there are");
    for (uint32_t k = 0; k < e->extents; k++, (*at)++) {
        if (x[*at].unit == 0 || x[*at].units == 0 || (uint64_t)x[*at].unit + x[*at].units > units)
            return raise_table(path, slot, "an extent lies outside of the device");
        total += x[*at].units;
    }
    if (e->size > total * VOLUME_UNIT)
        return raise_table(path, slot, "a file is longer than its extents");
    return ASH_OK;
}

ash_rc
io__volume_check(const void *table, uint32_t bytes, uint32_t slot, uint64_t units, const char *path)
{
    const struct volume_head *head = table;
    uint32_t at = 0;
    ash_rc rc = bytes < VOLUME_BLOCK ? raise_table(path, slot, "it is too short")
                                     : check_head(head, bytes, slot, units, path);

    for (uint32_t i = 0; i < (rc == ASH_OK ? head->files : 0); i++) {
        rc = check_entry(table, i, &at, slot, head->units, path);
        if (rc != ASH_OK)
            return rc;
    }
    if (rc == ASH_OK && at != head->extents)
        return raise_table(path, slot, "extents belong to no file");
    return rc;
}

/* ---- Loading ---- */

static ash_rc
load_file(struct volume *v, const struct volume_entry *e, const struct volume_extent *x,
          struct volume_file **out)
{
    struct volume_file *f = mem_zalloc(MEM_IO, sizeof(*f));
    struct volume_map *map = f == NULL ? NULL : volume__map_copy(NULL, e->extents);

    if (map == NULL) {
        mem_free(MEM_IO, f);
        return ASH_NO_MEMORY;
    }
    memcpy(f->name, e->name, sizeof(f->name));
    atomic_init(&f->size, e->size);
    atomic_init(&f->map, map);
    *out = f; /* the volume's from here on, whatever follows */
    for (uint32_t i = 0; i < e->extents; i++) {
        for (uint64_t u = x[i].unit; u < (uint64_t)x[i].unit + x[i].units; u++) {
            if (volume__unit_used(v, u))
                return raise_table(v->dev.path, (uint32_t)(v->seq % VOLUME_TABLES),
                                   "two files share a unit");
        }
        volume__mark(v, x[i], /* used= */ true);
        volume__map_add(map, x[i]);
    }
    return ASH_OK;
}

static ash_rc
load_files(struct volume *v)
{
    const struct volume_head *head = v->table;
    const struct volume_extent *x = extents_of(v->table);
    struct volume_file **tail = &v->files;

    v->seq = head->seq;
    memcpy(v->uuid, head->uuid, sizeof(v->uuid));
    for (uint32_t i = 0; i < head->files; i++) {
        const struct volume_entry *e = entry_of(v->table, i);
        ash_rc rc = load_file(v, e, x, tail);
        if (rc != ASH_OK)
            return rc;
        tail = &(*tail)->next;
        x += e->extents;
    }
    return ASH_OK;
}

static bool
all_zero(const void *p, size_t size)
{
    const char *b = p;

    return b[0] == 0 && memcmp(b, b + 1, size - 1) == 0;
}

ash_rc
volume__load(struct volume *v)
{
    uint64_t best_seq = 0;
    uint32_t best = 0, empty = 0, ours = 0;
    struct err_detail why = { .code = ASH_OK };

    for (uint32_t slot = 0; slot < VOLUME_TABLES; slot++) {
        const struct volume_head *head = v->table;
        ash_rc rc = device_transfer(&v->dev, /* write= */ false, v->table, VOLUME_TABLE_MAX,
                                    (uint64_t)slot * VOLUME_TABLE_STRIDE);
        if (rc != ASH_OK)
            return rc;
        if (all_zero(v->table, VOLUME_TABLE_MAX)) {
            empty++;
            continue;
        }
        rc = io__volume_check(v->table, VOLUME_TABLE_MAX, slot, v->units, v->dev.path);
        if (rc == ASH_NO_MEMORY)
            return rc;
        ours += head->magic == VOLUME_MAGIC;
        if (rc != ASH_OK)
            err_save(&why);
        else if (head->seq > best_seq) {
            best_seq = head->seq;
            best = slot;
        }
    }
    if (best_seq == 0 && empty == VOLUME_TABLES)
        return ASH_NOT_FOUND; /* the caller raises */
    if (best_seq == 0 && ours == 0)
        return ash_raise_obj(
            ASH_NOT_A_DATABASE, v->dev.path,
            "The device %s holds something that is not a volume of Ashlar; if that "
            "is not needed, clear its first MiB with zeros.",
            v->dev.path);
    if (best_seq == 0) {
        err_restore(&why);
        return why.code;
    }
    ash_rc rc = device_transfer(&v->dev, /* write= */ false, v->table, VOLUME_TABLE_MAX,
                                (uint64_t)best * VOLUME_TABLE_STRIDE);
    if (rc == ASH_OK)
        rc = io__volume_check(v->table, VOLUME_TABLE_MAX, best, v->units, v->dev.path);
    return rc == ASH_OK ? load_files(v) : rc;
}

/* ---- Saving ---- */

static uint32_t
encode(struct volume *v)
{
    struct volume_head *head = v->table;
    char *at = (char *)v->table + sizeof(*head);

    memset(v->table, 0, VOLUME_TABLE_MAX);
    *head = (struct volume_head){ .magic = VOLUME_MAGIC,
                                  .format = VOLUME_FORMAT,
                                  .seq = v->seq + 1,
                                  .units = v->units,
                                  .slot = (uint32_t)((v->seq + 1) % VOLUME_TABLES) };
    memcpy(head->uuid, v->uuid, sizeof(head->uuid));
    for (const struct volume_file *f = v->files; f != NULL; f = f->next) {
        struct volume_entry e = { .size = atomic_load(&f->size),
                                  .extents = atomic_load(&f->map)->count };
        if (f->gone)
            continue;
        memcpy(e.name, f->name, sizeof(e.name));
        memcpy(at, &e, sizeof(e));
        at += sizeof(e);
        head->files++;
        head->extents += e.extents;
    }
    for (const struct volume_file *f = v->files; f != NULL; f = f->next) {
        const struct volume_map *map = atomic_load(&f->map);
        for (uint32_t i = 0; !f->gone && i < map->count; i++) {
            memcpy(at, &map->piece[i].extent, sizeof(struct volume_extent));
            at += sizeof(struct volume_extent);
        }
    }
    head->bytes = (uint32_t)round_up((uint64_t)(at - (char *)v->table), VOLUME_BLOCK);
    head->crc32c = crc32c(0, (const char *)head + 12, head->bytes - 12);
    return head->bytes;
}

/* Does the table of the present state fit? */
static bool
fits(const struct volume *v)
{
    uint64_t files = 0, extents = 0;

    for (const struct volume_file *f = v->files; f != NULL; f = f->next) {
        files += !f->gone;
        extents += f->gone ? 0 : atomic_load(&f->map)->count;
    }
    return files <= VOLUME_FILES_MAX && sizeof(struct volume_head) +
                                                files * sizeof(struct volume_entry) +
                                                extents * sizeof(struct volume_extent) <=
                                            VOLUME_TABLE_MAX;
}

ash_rc
volume__save(struct volume *v)
{
    if (!fits(v))
        return ash_raise_obj(ASH_NO_SPACE, v->dev.path,
                             "The table of files of the device %s is full; it holds %u files.",
                             v->dev.path, VOLUME_FILES_MAX);
    uint32_t bytes = encode(v);
    uint64_t slot = PLANTED(380) ? 0 : (v->seq + 1) % VOLUME_TABLES;
    ash_rc rc =
        device_transfer(&v->dev, /* write= */ true, v->table, bytes, slot * VOLUME_TABLE_STRIDE);
    if (rc == ASH_OK)
        rc = device_flush(&v->dev);
    if (rc == ASH_OK) {
        v->seq++;
        return ASH_OK;
    }
    const struct err_detail *d = err_current();
    io__poison_with(v->io, rc, d->sys_errno, v->dev.path,
                    "Writing the table of files of %s failed: %s.", v->dev.path,
                    d->sys_errno != 0 ? strerror(d->sys_errno) : "unknown");
    return rc;
}
