/* SPDX-License-Identifier: Apache-2.0
 *
 * io_file.c - directories and files: names are checked and handles kept here, the rest is the
 * backend's io_fs.
 *
 * Entry points: io_dir_*(), io_file_*().
 */
#include "base/mem.h"
#include "storage/io_volume.h"

#include <stdlib.h>
#include <string.h>

static ash_rc
check_name(const char *name)
{
    if (name[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0 ||
        strcmp(name, "..") == 0 || strlen(name) > 255)
        return ash_raise(ASH_INVALID, "The name \"%s\" is not a plain file name.", name);
    return ASH_OK;
}

ash_rc
io_dir_open(struct io *io, const char *path, unsigned flags, struct io_dir **out)
{
    ash_rc rc = ASH_OK;

    if (io__forked(io))
        return io__may_write(io);
    if ((flags & IO_CREATE) != 0)
        rc = io_check(io);
    if (rc != ASH_OK)
        return rc;
    if (io->options.backend == IO_BACKEND_NVME && !io_is_nvme(path))
        return ash_raise_obj(ASH_INVALID, path,
                             "The I/O backend nvme needs the character device of a namespace, like "
                             "/dev/ng0n1; %s is none.",
                             path);
    struct io_dir *d = mem_zalloc(MEM_IO, sizeof(*d));
    if (d == NULL)
        return ASH_NO_MEMORY;
    d->io = io;
    d->fs = io->fs == &io__posix && io__volume_path(path) ? &io__volume_fs : io->fs;
    d->fd = -1;
    d->path = mem_strdup(MEM_IO, path);
    rc = d->path == NULL ? ASH_NO_MEMORY : d->fs->dir_open(io, path, flags, d);
    if (rc != ASH_OK) {
        mem_free(MEM_IO, d->path);
        mem_free(MEM_IO, d);
        return rc;
    }
    io__lock(&io->lock);
    io->open_dirs++;
    io__unlock(&io->lock);
    *out = d;
    return ASH_OK;
}

void
io_dir_close(struct io_dir *d)
{
    if (d == NULL)
        return;
    struct io *io = d->io;
    d->fs->dir_close(d);
    mem_free(MEM_IO, d->path);
    mem_free(MEM_IO, d);
    io__lock(&io->lock);
    io->open_dirs--;
    io__unlock(&io->lock);
}

const char *
io_dir_path(const struct io_dir *d)
{
    return d->path;
}

static int
name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

ash_rc
io_dir_list(struct io_dir *d, bool (*fn)(void *arg, const char *name), void *arg)
{
    char **names = NULL;
    size_t count = 0;
    bool more = true;

    ash_rc rc = d->fs->dir_names(d, &names, &count);
    if (rc != ASH_OK)
        return rc;
    if (count > 0)
        qsort(names, count, sizeof(*names), name_order);
    for (size_t i = 0; i < count; i++) {
        if (more)
            more = fn(arg, names[i]);
        mem_free(MEM_IO, names[i]);
    }
    mem_free(MEM_IO, names);
    return ASH_OK;
}

ash_rc
io_dir_rename(struct io_dir *d, const char *from, const char *to)
{
    ash_rc rc = io__may_write(d->io);
    if (rc == ASH_OK)
        rc = check_name(from);
    if (rc == ASH_OK)
        rc = check_name(to);
    return rc == ASH_OK ? d->fs->dir_rename(d, from, to) : rc;
}

ash_rc
io_dir_unlink(struct io_dir *d, const char *name)
{
    ash_rc rc = io__may_write(d->io);
    if (rc == ASH_OK)
        rc = check_name(name);
    return rc == ASH_OK ? d->fs->dir_unlink(d, name) : rc;
}

ash_rc
io_dir_sync(struct io_dir *d)
{
    ash_rc rc = io__may_write(d->io);
    return rc == ASH_OK ? d->fs->dir_sync(d) : rc;
}

static struct io_file *
file_alloc(struct io_dir *d, const char *name, unsigned flags)
{
    struct io_file *f = mem_zalloc(MEM_IO, sizeof(*f));
    if (f == NULL)
        return NULL;
    f->io = d->io;
    f->fs = d->fs;
    f->flags = flags;
    f->fd = -1;
    f->align = IO_ALIGN;
    f->device_class = IO_DEVICE_VOLATILE;
    f->id = atomic_fetch_add(&d->io->file_ids, 1) + 1;
    size_t dir_size = strlen(d->path), name_size = strlen(name);
    f->path = mem_alloc(MEM_IO, dir_size + name_size + 2);
    if (f->path == NULL) {
        mem_free(MEM_IO, f);
        return NULL;
    }
    memcpy(f->path, d->path, dir_size);
    f->path[dir_size] = '/';
    memcpy(f->path + dir_size + 1, name, name_size + 1);
    f->name = f->path + dir_size + 1;
    return f;
}

ash_rc
io_file_open(struct io_dir *d, const char *name, unsigned flags, struct io_file **out)
{
    struct io *io = d->io;
    ash_rc rc = check_name(name);

    if (rc == ASH_OK && io__forked(io))
        rc = io__may_write(io);
    if (rc == ASH_OK && (flags & IO_CREATE) != 0)
        rc = io_check(io);
    if (rc == ASH_OK && (flags & IO_CREATE) != 0 && (flags & IO_READ_ONLY) != 0)
        rc = ash_raise_obj(ASH_INVALID, name, "The file %s cannot be created read-only.", name);
    if (rc != ASH_OK)
        return rc;
    struct io_file *f = file_alloc(d, name, flags);
    if (f == NULL)
        return ASH_NO_MEMORY;
    rc = f->fs->file_open(d, flags, f);
    if (rc != ASH_OK) {
        mem_free(MEM_IO, f->path);
        mem_free(MEM_IO, f);
        return rc;
    }
    ash_assert(f->align % IO_ALIGN == 0);
    io__lock(&io->lock);
    io->open_files++;
    io__unlock(&io->lock);
    *out = f;
    return ASH_OK;
}

void
io_file_close(struct io_file *f)
{
    if (f == NULL)
        return;
    struct io *io = f->io;
    f->fs->file_close(f);
    atomic_fetch_add_explicit(&io->close_version, 1, memory_order_release);
    mem_free(MEM_IO, f->path);
    mem_free(MEM_IO, f);
    io__lock(&io->lock);
    io->open_files--;
    io__unlock(&io->lock);
}

const char *
io_file_name(const struct io_file *f)
{
    return f->name;
}
struct io *
io_file_io(const struct io_file *f)
{
    return f->io;
}
uint32_t
io_file_align(const struct io_file *f)
{
    return f->align;
}
enum io_device_class
io_file_device_class(const struct io_file *f)
{
    return io__test_hooks.write_through ? IO_DEVICE_WRITE_THROUGH : f->device_class;
}

ash_rc
io_file_size(struct io_file *f, uint64_t *bytes_out)
{
    return f->fs->file_size(f, bytes_out);
}

static ash_rc
may_change(struct io_file *f)
{
    ash_rc rc = io__may_write(f->io);
    if (rc == ASH_OK && (f->flags & IO_READ_ONLY) != 0)
        rc = ash_raise_obj(ASH_READ_ONLY, f->path, "The file %s was opened read-only.", f->path);
    return rc;
}

ash_rc
io_file_allocate(struct io_file *f, uint64_t bytes, bool zero)
{
    ash_rc rc = may_change(f);
    ash_assert(bytes % f->align == 0);
    return rc == ASH_OK ? f->fs->file_allocate(f, bytes, zero) : rc;
}

ash_rc
io_file_truncate(struct io_file *f, uint64_t bytes)
{
    ash_rc rc = may_change(f);
    ash_assert(bytes % f->align == 0);
    return rc == ASH_OK ? f->fs->file_truncate(f, bytes) : rc;
}

ash_rc
io_file_punch(struct io_file *f, uint64_t offset, uint64_t bytes)
{
    ash_rc rc = may_change(f);
    ash_assert(offset % f->align == 0);
    ash_assert(bytes % f->align == 0);
    return rc == ASH_OK ? f->fs->file_punch(f, offset, bytes) : rc;
}
