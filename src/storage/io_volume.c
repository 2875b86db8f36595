/* SPDX-License-Identifier: Apache-2.0
 *
 * io_volume.c - names and files on a raw device.
 *
 * Entry points: the table io__volume_fs; io__volume_at(), for requests.   Read first: io_volume.h
 * (invariants), volume_format.h.
 *
 * A change is made in memory, then the table is written; when that fails, it is taken back in
 * memory.  A failed write of the table has poisoned the disk manager by then, because nobody knows
 * which of the two tables the next start will find.
 */
#include "base/bits.h"
#include "base/mem.h"
#include "base/random.h"
#include "storage/io_volume_int.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

bool
io__volume_path(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 &&
           (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode) || S_ISREG(st.st_mode));
}

/* ---- Opening and closing the device ---- */

static void
volume_free(struct volume *v)
{
    while (v->files != NULL) {
        struct volume_file *f = v->files;
        struct volume_map *map = atomic_load(&f->map);
        v->files = f->next;
        while (map != NULL) {
            struct volume_map *replaced = map->replaced;
            mem_free(MEM_IO, map);
            map = replaced;
        }
        mem_free(MEM_IO, f);
    }
    mem_free(MEM_IO, v->used);
    mem_free(MEM_IO, v->table);
    pthread_mutex_destroy(&v->lock);
    volume__device_close(&v->dev);
    mem_free(MEM_IO, v);
}

static ash_rc
volume_new(struct io *io, const char *path, struct volume **out)
{
    struct volume *v = mem_zalloc(MEM_IO, sizeof(*v));

    if (v == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc = volume__device_open(path, io->options.direct, &v->dev);
    if (rc != ASH_OK) {
        mem_free(MEM_IO, v);
        return rc;
    }
    v->io = io;
    v->units = v->dev.bytes / VOLUME_UNIT;
    v->free_units = v->units;
    pthread_mutex_init(&v->lock, NULL);
    v->used = mem_zalloc(MEM_IO, v->units / 8 + 1);
    v->table = mem_aligned(MEM_IO, VOLUME_BLOCK, VOLUME_TABLE_MAX);
    if (v->used == NULL || v->table == NULL) {
        volume_free(v);
        return ASH_NO_MEMORY;
    }
    volume__mark(v, (struct volume_extent){ .unit = 0, .units = 1 }, /* used= */ true);
    *out = v;
    return ASH_OK;
}

static ash_rc
volume_dir_open(struct io *io, const char *path, unsigned flags, struct io_dir *d)
{
    enum io_backend_kind backend = io->options.backend;
    struct volume *v;

    if (io_is_nvme(path) && backend != IO_BACKEND_NVME && backend != IO_BACKEND_THREADS)
        return ash_raise_obj(ASH_INVALID, path,
                             "The device %s takes NVMe commands; use the I/O backend nvme.", path);
    ash_rc rc = volume_new(io, path, &v);
    if (rc != ASH_OK)
        return rc;
    rc = volume__load(v);
    if (rc == ASH_NOT_FOUND && (flags & IO_CREATE) != 0) {
        random_entropy(v->uuid, sizeof(v->uuid));
        rc = volume__save(v);
    } else if (rc == ASH_NOT_FOUND) {
        rc = ash_raise_obj(ASH_NOT_FOUND, path, "There is no volume on the device %s.", path);
    } else if (rc == ASH_OK && (flags & IO_CREATE) != 0 && (flags & IO_EXCLUSIVE) != 0) {
        rc = ash_raise_obj(ASH_EXISTS, path, "The device %s holds a volume already.", path);
    }
    if (rc != ASH_OK) {
        volume_free(v);
        return rc;
    }
    d->volume = v;
    return ASH_OK;
}

static void
volume_dir_close(struct io_dir *d)
{
    for (const struct volume_file *f = d->volume->files; f != NULL; f = f->next)
        ash_assert(f->handles == 0);
    volume_free(d->volume);
}

static struct volume_file *
find(struct volume *v, const char *name)
{
    for (struct volume_file *f = v->files; f != NULL; f = f->next) {
        if (!f->gone && strcmp(f->name, name) == 0)
            return f;
    }
    return NULL;
}

static ash_rc
volume_dir_names(struct io_dir *d, char ***names_out, size_t *count_out)
{
    struct volume *v = d->volume;
    size_t count = 0;
    ash_rc rc = ASH_OK;

    pthread_mutex_lock(&v->lock);
    char **names = mem_zalloc(MEM_IO, VOLUME_FILES_MAX * sizeof(*names));
    if (names == NULL)
        rc = ASH_NO_MEMORY;
    for (struct volume_file *f = v->files; f != NULL && rc == ASH_OK; f = f->next) {
        if (f->gone)
            continue;
        names[count] = mem_strdup(MEM_IO, f->name);
        if (names[count] == NULL)
            rc = ASH_NO_MEMORY;
        else
            count++;
    }
    pthread_mutex_unlock(&v->lock);
    if (rc == ASH_OK) {
        *names_out = names;
        *count_out = count;
        return ASH_OK;
    }
    while (count > 0)
        mem_free(MEM_IO, names[--count]);
    mem_free(MEM_IO, names);
    return rc;
}

/* ---- Units ---- */

/* I3: after the table without them is durable. */
static void
free_units_of(struct volume *v, const struct volume_map *map, uint64_t from)
{
    uint64_t start = 0;

    for (uint32_t i = 0; i < map->count; i++) {
        const struct volume_piece *p = &map->piece[i];
        uint64_t keep = from > start ? min_u64(from - start, p->extent.units) : 0;
        if (keep < p->extent.units) {
            struct volume_extent rest = { .unit = p->extent.unit + (uint32_t)keep,
                                          .units = p->extent.units - (uint32_t)keep };
            volume__mark(v, rest, /* used= */ false);
            volume__device_discard(&v->dev, (uint64_t)rest.unit * VOLUME_UNIT,
                                   (uint64_t)rest.units * VOLUME_UNIT);
        }
        start = p->end;
    }
}

/* The first free run from `from` on, at most `want` units; units 0: there is none. */
static struct volume_extent
free_run(const struct volume *v, uint64_t from, uint64_t want)
{
    struct volume_extent run = { 0, 0 };

    for (uint64_t u = from; u < v->units && run.units < want; u++) {
        if (!volume__unit_used(v, u)) {
            if (run.units == 0)
                run.unit = (uint32_t)u;
            run.units++;
        } else if (run.units > 0) {
            break;
        }
    }
    return run;
}

/* Adds `want` units to a copy of `old`, behind its last one where that is free. */
static ash_rc
grow_map(struct volume *v, struct volume_map *old, uint64_t want, struct volume_map **out)
{
    uint32_t before = old == NULL ? 0 : old->count, room = before + 16;
    struct volume_map *map;
    uint64_t at = 1;

    if (want > v->free_units)
        return ash_raise_obj(ASH_NO_SPACE, v->dev.path,
                             "The device %s has %" PRIu64 " MiB free; %" PRIu64 " MiB are needed.",
                             v->dev.path, v->free_units, want);
    map = volume__map_copy(old, room - before);
    if (map == NULL)
        return ASH_NO_MEMORY;
    if (map->count > 0) {
        const struct volume_extent *last = &map->piece[map->count - 1].extent;
        at = (uint64_t)last->unit + last->units;
    }
    for (uint64_t left = want; left > 0;) {
        struct volume_extent run = free_run(v, at, left);
        if (run.units == 0) {
            ash_assert(at > 1); /* free_units says that there is one: look from the start */
            at = 1;
            continue;
        }
        if (map->count == room) {
            struct volume_map *wider = volume__map_copy(map, room);
            if (wider == NULL) {
                free_units_of(v, map, old == NULL ? 0 : old->units);
                mem_free(MEM_IO, map);
                return ASH_NO_MEMORY;
            }
            wider->replaced = old;
            mem_free(MEM_IO, map);
            map = wider;
            room *= 2;
        }
        volume__mark(v, run, /* used= */ true);
        volume__map_add(map, run);
        at = (uint64_t)run.unit + run.units;
        left -= run.units;
    }
    *out = map;
    return ASH_OK;
}

static ash_rc
zero_new_units(struct volume *v, const struct volume_map *map, uint64_t from, bool written)
{
    uint64_t start = 0;

    for (uint32_t i = 0; i < map->count; i++) {
        const struct volume_piece *p = &map->piece[i];
        uint64_t skip = from > start ? min_u64(from - start, p->extent.units) : 0;
        if (skip < p->extent.units) {
            ash_rc rc = volume__device_zero(&v->dev, (p->extent.unit + skip) * VOLUME_UNIT,
                                            (p->extent.units - skip) * VOLUME_UNIT, written);
            if (rc != ASH_OK)
                return rc;
        }
        start = p->end;
    }
    return ASH_OK;
}

/* ---- Names ---- */

/* Takes a file out of the list when nobody needs it any more. */
static void
drop_if_unused(struct volume *v, struct volume_file *f)
{
    struct volume_file **at = &v->files;

    if (!f->gone || f->handles > 0)
        return;
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    struct volume_map *map = atomic_load(&f->map);
    free_units_of(v, map, 0);
    while (map != NULL) {
        struct volume_map *replaced = map->replaced;
        mem_free(MEM_IO, map);
        map = replaced;
    }
    mem_free(MEM_IO, f);
}

static ash_rc
raise_no_file(const struct io_dir *d, const char *name)
{
    return ash_raise_obj(ASH_NOT_FOUND, name, "There is no file %s/%s.", d->path, name);
}

static ash_rc
check_volume_name(const struct io_dir *d, const char *name)
{
    if (strlen(name) <= VOLUME_NAME_MAX)
        return ASH_OK;
    return ash_raise_obj(ASH_INVALID, name,
                         "A file on the device %s has a name of at most %u bytes.", d->path,
                         VOLUME_NAME_MAX);
}

static ash_rc
volume_dir_rename(struct io_dir *d, const char *from, const char *to)
{
    struct volume *v = d->volume;
    ash_rc rc = check_volume_name(d, to);

    if (rc != ASH_OK)
        return rc;
    pthread_mutex_lock(&v->lock);
    struct volume_file *f = find(v, from), *over = find(v, to);
    if (f == NULL) {
        rc = raise_no_file(d, from);
        goto out_unlock;
    }
    if (f == over)
        goto out_unlock;
    if (over != NULL)
        over->gone = true;
    memset(f->name, 0, sizeof(f->name));
    memcpy(f->name, to, strlen(to));
    rc = volume__save(v);
    if (rc != ASH_OK) {
        memset(f->name, 0, sizeof(f->name));
        memcpy(f->name, from, strlen(from));
        if (over != NULL)
            over->gone = false;
    } else if (over != NULL) {
        drop_if_unused(v, over);
    }
out_unlock:
    pthread_mutex_unlock(&v->lock);
    return rc;
}

static ash_rc
volume_dir_unlink(struct io_dir *d, const char *name)
{
    struct volume *v = d->volume;
    ash_rc rc;

    pthread_mutex_lock(&v->lock);
    struct volume_file *f = find(v, name);
    if (f == NULL) {
        rc = raise_no_file(d, name);
    } else {
        f->gone = true;
        rc = volume__save(v);
        if (rc == ASH_OK)
            drop_if_unused(v, f);
        else
            f->gone = false;
    }
    pthread_mutex_unlock(&v->lock);
    return rc;
}

static ash_rc
volume_dir_sync(struct io_dir *d)
{
    (void)d; /* I2 */
    return ASH_OK;
}

/* ---- Files ---- */

static ash_rc
make_file(struct volume *v, const char *name, struct volume_file **out)
{
    struct volume_file *f = mem_zalloc(MEM_IO, sizeof(*f)), **tail = &v->files;
    struct volume_map *map = f == NULL ? NULL : volume__map_copy(NULL, 0);

    if (map == NULL) {
        mem_free(MEM_IO, f);
        return ASH_NO_MEMORY;
    }
    memcpy(f->name, name, strlen(name));
    atomic_init(&f->map, map);
    while (*tail != NULL)
        tail = &(*tail)->next;
    *tail = f;
    ash_rc rc = volume__save(v);
    if (rc != ASH_OK) {
        *tail = NULL;
        mem_free(MEM_IO, map);
        mem_free(MEM_IO, f);
        return rc;
    }
    *out = f;
    return ASH_OK;
}

static ash_rc
volume_file_open(struct io_dir *d, unsigned flags, struct io_file *f)
{
    struct volume *v = d->volume;
    ash_rc rc = check_volume_name(d, f->name);

    if (rc != ASH_OK)
        return rc;
    pthread_mutex_lock(&v->lock);
    struct volume_file *vf = find(v, f->name);
    if (vf == NULL && (flags & IO_CREATE) == 0)
        rc = raise_no_file(d, f->name);
    else if (vf != NULL && (flags & IO_CREATE) != 0 && (flags & IO_EXCLUSIVE) != 0)
        rc = ash_raise_obj(ASH_EXISTS, f->path, "The file %s exists already.", f->path);
    else if (vf == NULL)
        rc = make_file(v, f->name, &vf);
    if (rc == ASH_OK) {
        vf->handles++;
        f->volume = v;
        f->in_volume = vf;
        f->fd = v->dev.fd;
        f->nvme = v->dev.kind == VOLUME_ON_NVME ? &v->dev.nvme : NULL;
        f->align = v->dev.align;
        f->direct = v->dev.direct;
        f->device_class = v->dev.device_class;
    }
    pthread_mutex_unlock(&v->lock);
    return rc;
}

static void
volume_file_close(struct io_file *f)
{
    struct volume *v = f->volume;

    pthread_mutex_lock(&v->lock);
    f->in_volume->handles--;
    drop_if_unused(v, f->in_volume);
    pthread_mutex_unlock(&v->lock);
}

uint64_t
io__volume_size(const struct io_file *f)
{
    return atomic_load_explicit(&f->in_volume->size, memory_order_acquire);
}

static ash_rc
volume_file_size(struct io_file *f, uint64_t *bytes_out)
{
    *bytes_out = io__volume_size(f);
    return ASH_OK;
}

/* Makes the file `bytes` long, in memory and in the table. */
static ash_rc
set_size(struct volume *v, struct volume_file *vf, uint64_t bytes, bool written)
{
    struct volume_map *old = atomic_load(&vf->map), *map = old;
    uint64_t need = (bytes + VOLUME_UNIT - 1) / VOLUME_UNIT, before = atomic_load(&vf->size);
    ash_rc rc = ASH_OK;

    if (need > old->units) {
        rc = grow_map(v, old, need - old->units, &map);
        if (rc == ASH_OK && !PLANTED(381))
            rc = zero_new_units(v, map, old->units, written); /* I5 */
    } else if (need < old->units) {
        map = volume__map_copy(NULL, old->count);
        if (map == NULL)
            return ASH_NO_MEMORY;
        for (uint32_t i = 0; i < old->count && map->units < need; i++) {
            struct volume_extent x = old->piece[i].extent;
            x.units = (uint32_t)min_u64(x.units, need - map->units);
            volume__map_add(map, x);
        }
        map->replaced = old;
    }
    if (rc == ASH_OK) {
        atomic_store_explicit(&vf->map, map, memory_order_release);
        atomic_store_explicit(&vf->size, bytes, memory_order_release);
        if (!vf->gone)
            rc = volume__save(v);
    }
    if (rc == ASH_OK) {
        if (need < old->units)
            free_units_of(v, old, need);
        return ASH_OK;
    }
    atomic_store_explicit(&vf->size, before, memory_order_release);
    atomic_store_explicit(&vf->map, old, memory_order_release);
    if (map != old) {
        if (map->units > old->units)
            free_units_of(v, map, old->units);
        mem_free(MEM_IO, map);
    }
    return rc;
}

static ash_rc
volume_file_allocate(struct io_file *f, uint64_t bytes, bool zero)
{
    struct volume *v = f->volume;
    ash_rc rc = ASH_OK;

    pthread_mutex_lock(&v->lock);
    if (bytes > io__volume_size(f))
        rc = set_size(v, f->in_volume, bytes, zero);
    pthread_mutex_unlock(&v->lock);
    return rc;
}

static ash_rc
volume_file_truncate(struct io_file *f, uint64_t bytes)
{
    struct volume *v = f->volume;

    pthread_mutex_lock(&v->lock);
    ash_rc rc = set_size(v, f->in_volume, bytes, /* written= */ false);
    pthread_mutex_unlock(&v->lock);
    return rc;
}

static ash_rc
volume_file_punch(struct io_file *f, uint64_t offset, uint64_t bytes)
{
    uint64_t end = min_u64(offset + bytes, io__volume_size(f));

    while (offset < end) {
        uint32_t piece = (uint32_t)min_u64(end - offset, 1u << 30);
        uint64_t at = io__volume_at(f, offset, &piece);
        volume__device_discard(&f->volume->dev, at, piece);
        offset += piece;
    }
    return ASH_OK;
}

uint64_t
io__volume_at(const struct io_file *f, uint64_t offset, uint32_t *bytes)
{
    const struct volume_map *map = atomic_load_explicit(&f->in_volume->map, memory_order_acquire);
    uint64_t unit = offset / VOLUME_UNIT;
    uint32_t low = 0, high = map->count;

    ash_assert(unit < map->units);
    while (low < high) { /* the first piece that ends behind the unit */
        uint32_t middle = (low + high) / 2;
        if (map->piece[middle].end > unit)
            high = middle;
        else
            low = middle + 1;
    }
    const struct volume_piece *p = &map->piece[low];
    uint64_t start = (p->end - p->extent.units) * VOLUME_UNIT;
    uint64_t left = p->end * VOLUME_UNIT - offset;
    if (!PLANTED(382))
        *bytes = (uint32_t)min_u64(*bytes, left);
    return (uint64_t)p->extent.unit * VOLUME_UNIT + (offset - start);
}

const struct io_fs io__volume_fs = {
    .dir_open = volume_dir_open,
    .dir_close = volume_dir_close,
    .dir_names = volume_dir_names,
    .dir_rename = volume_dir_rename,
    .dir_unlink = volume_dir_unlink,
    .dir_sync = volume_dir_sync,
    .file_open = volume_file_open,
    .file_close = volume_file_close,
    .file_size = volume_file_size,
    .file_allocate = volume_file_allocate,
    .file_truncate = volume_file_truncate,
    .file_punch = volume_file_punch,
};
