/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_file.c - the files of a job: found or made, filled, and protected from being overwritten.
 *
 * A file that this program makes carries the extended attribute user.ashlar-bench, whose value says
 * whether all of it holds data ("filled") or only blocks ("allocated": reading those that were
 * never written does not reach the device).  Only such files, and those made in this very run, may
 * be written to without allow_overwrite=1 (R3); where the file system has no attributes, that means
 * only the latter.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/mem.h"
#include "base/random.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "iob.h"

#define MARK         "user.ashlar-bench"
#define FILL_BYTES   (1u << 20)
#define FILL_DEPTH   8u
#define ANNOUNCE_MIN (64ull << 20) /* smaller fills are over before anybody wonders */

/* ---- Names ---- */

/* Copies the next of the names separated by ':' ("\:" is a plain colon); NULL at the end. */
static const char *
next_name(const char *at, char *out, size_t size)
{
    size_t n = 0;

    if (at == NULL || *at == '\0')
        return NULL;
    for (; *at != '\0' && *at != ':'; at++) {
        if (*at == '\\' && at[1] == ':')
            at++;
        if (n + 1 < size)
            out[n++] = *at;
    }
    out[n] = '\0';
    return *at == ':' ? at + 1 : at;
}

static ash_rc
full_path(const struct iob_job *job, const char *name, char out[PATH_MAX])
{
    bool plain = job->directory == NULL || name[0] == '/';
    int n = snprintf(out, PATH_MAX, "%s%s%s", plain ? "" : job->directory, plain ? "" : "/", name);

    if (n < 0 || n >= PATH_MAX || *name == '\0')
        return ash_raise_obj(ASH_INVALID, job->name, "Job %s: \"%s\" is no usable file name.",
                             job->name, name);
    return ASH_OK;
}

/* The path without symbolic links, which the disk manager does not follow. */
static ash_rc
resolve(const char *path, char **out)
{
    char real[PATH_MAX], parent[PATH_MAX];

    if (realpath(path, real) == NULL) {
        const char *slash = strrchr(path, '/');
        int n = slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path);
        snprintf(parent, sizeof(parent), "%.*s", n, slash == NULL ? "." : path);
        if (errno != ENOENT || realpath(parent, real) == NULL)
            return ash_raise_sys(ASH_NOT_FOUND, errno, path, "%s cannot be used: %s.", path,
                                 strerror(errno));
        size_t used = strlen(real), room = sizeof(real) - used;
        const char *name = slash == NULL ? path : slash + 1;
        int size = snprintf(real + used, room, "%s%s", used > 1 ? "/" : "", name);
        if (size < 0 || (size_t)size >= room)
            return ash_raise_obj(ASH_INVALID, path, "The path of %s is too long.", path);
    }
    *out = mem_strdup(MEM_TOOL, real);
    return *out == NULL ? ASH_NO_MEMORY : ASH_OK;
}

static ash_rc
add_name(const struct iob_job *job, struct iob_files *files, const char *name)
{
    char path[PATH_MAX];
    ash_rc rc = full_path(job, name, path);

    if (rc != ASH_OK)
        return rc;
    struct iob_file *f = &files->file[files->count];
    memset(f, 0, sizeof(*f));
    rc = resolve(path, &f->path);
    for (unsigned i = 0; rc == ASH_OK && i < files->count; i++)
        if (strcmp(files->file[i].path, f->path) == 0)
            rc = ash_raise_obj(ASH_INVALID, f->path, "Job %s names %s twice.", job->name, f->path);
    files->count += f->path != NULL;
    return rc;
}

static ash_rc
list_names(const struct iob_job *job, struct iob_files *files)
{
    char name[PATH_MAX];
    ash_rc rc = ASH_OK;
    bool named = iob_given(job, "filename");
    unsigned most = named ? IOB_FILES_MAX : (unsigned)(job->numjobs * job->nrfiles);

    files->file = mem_zalloc(MEM_TOOL, (most + 1) * sizeof(*files->file));
    if (files->file == NULL)
        return ASH_NO_MEMORY;
    if (!named) {
        files->per_clone = (unsigned)job->nrfiles;
        for (unsigned i = 0; i < most && rc == ASH_OK; i++) {
            snprintf(name, sizeof(name), "%s.%u.%u", job->name, i / files->per_clone,
                     i % files->per_clone);
            rc = add_name(job, files, name);
        }
        return rc;
    }
    for (const char *at = job->filename; (at = next_name(at, name, sizeof(name))) != NULL;) {
        if (files->count == most)
            return ash_raise_obj(ASH_INVALID, job->name, "Job %s names more than %u files.",
                                 job->name, most);
        rc = add_name(job, files, name);
        if (rc != ASH_OK)
            return rc;
    }
    files->per_clone = files->count;
    return ASH_OK;
}

/* ---- Protection (R3) ---- */

static ash_rc
may_write(const struct iob_job *job, const struct iob_file *f, bool ours)
{
    if (!f->block_device && (ours || job->allow_overwrite != 0))
        return ASH_OK;
    if (!f->block_device && !PLANTED(354))
        return ash_raise_obj(ASH_EXISTS, f->path,
                             "The file %s exists and was not made by ashlar-bench; "
                             "allow_overwrite=1 lets job %s destroy what is in it.",
                             f->path, job->name);
    if (f->block_device && job->allow_overwrite == 0)
        return ash_raise_obj(ASH_EXISTS, f->path,
                             "%s is a block device; allow_overwrite=1 lets job %s destroy what is "
                             "on it.",
                             f->path, job->name);
    int fd = f->block_device ? open(f->path, O_RDONLY | O_EXCL | O_CLOEXEC) : -1;
    int err = errno;
    if (fd >= 0)
        close(fd);
    if (f->block_device && fd < 0 && err == EBUSY && job->allow_mounted_write == 0)
        return ash_raise_sys(ASH_BUSY, err, f->path,
                             "The device %s is mounted or otherwise in use; allow_mounted_write=1 "
                             "lets job %s write to it all the same.",
                             f->path, job->name);
    return ASH_OK;
}

static void
mark(const struct iob_file *f)
{
    const char *value = f->filled ? "filled" : "allocated";

    if (!f->block_device)
        ash_ignore(setxattr(f->path, MARK, value, strlen(value), 0) == 0
                       ? ASH_OK
                       : ASH_UNSUPPORTED); /* then the next run will ask for allow_overwrite */
}

/* Whether the file carries our mark, and whether it is filled. */
static bool
marked(const char *path, bool *filled_out)
{
    char value[16] = "";
    ssize_t n = getxattr(path, MARK, value, sizeof(value) - 1);

    *filled_out = n > 0 && strcmp(value, "filled") == 0;
    return n > 0;
}

/* ---- Making and filling ---- */

static ash_rc
fill_batch(struct iob_file *f, struct io_req *req, char *buf, uint64_t *at, uint64_t end)
{
    struct io_req *batch[FILL_DEPTH];
    ash_rc rc = ASH_OK;
    unsigned n = 0;

    for (; n < FILL_DEPTH && *at < end; n++) {
        char *mine = buf + (size_t)n * FILL_BYTES;
        req[n] = (struct io_req){ .file = f->f,
                                  .op = IO_OP_WRITE,
                                  .class = IO_CLASS_WRITE,
                                  .offset = *at,
                                  .buf = mine,
                                  .bytes = (uint32_t)min_u64(FILL_BYTES, end - *at) };
        for (uint32_t k = 0; k < req[n].bytes; k += IOB_UNIT)
            put_le64(mine + k, *at + k); /* no two blocks are equal */
        *at += req[n].bytes;
        batch[n] = &req[n];
    }
    io_submit(batch, n);
    for (unsigned i = 0; i < n; i++) {
        ash_rc one = io_wait(&req[i]);
        rc = rc == ASH_OK ? one : rc;
    }
    return rc;
}

static ash_rc
fill(struct iob_file *f, uint64_t from, uint64_t end)
{
    struct io_req req[FILL_DEPTH];
    struct random random;
    ash_rc rc = ASH_OK;

    if (end - from >= ANNOUNCE_MIN)
        fprintf(stderr, "%s: writing %" PRIu64 " MiB of data to be read\n", f->path,
                (end - from) >> 20);
    char *buf = mem_aligned(MEM_TOOL, IOB_UNIT, (size_t)FILL_DEPTH * FILL_BYTES);
    if (buf == NULL)
        return ASH_NO_MEMORY;
    random_init(&random, from);
    for (size_t i = 0; i < (size_t)FILL_DEPTH * FILL_BYTES; i += 8)
        put_le64(buf + i, random_u64(&random));
    while (from < end && rc == ASH_OK)
        rc = fill_batch(f, req, buf, &from, end);
    if (rc == ASH_OK)
        rc = io_flush(f->f, IO_CLASS_FLUSH);
    mem_free(MEM_TOOL, buf);
    return rc;
}

static ash_rc
grow(const struct iob_job *job, struct iob_file *f, uint64_t bytes)
{
    uint64_t from = f->size;
    ash_rc rc = job->fallocate == IOB_FALLOCATE_NONE
                    ? io_file_truncate(f->f, bytes)
                    : io_file_allocate(f->f, bytes, /* zero: */ false);

    /* What a mixed job reads may be written before or not: filled, too. */
    if (rc == ASH_OK && iob_reads(job)) {
        rc = fill(f, from, bytes);
        f->filled = rc == ASH_OK && (from == 0 || f->filled);
    } else if (rc == ASH_OK) {
        f->filled = false;
    }
    if (rc == ASH_OK)
        mark(f);
    f->size = bytes;
    return rc;
}

/* ---- Opening ---- */

static ash_rc
open_in_dir(struct iob_file *f, struct io *io, unsigned flags)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(f->path, '/');

    snprintf(parent, sizeof(parent), "%.*s", slash == f->path ? 1 : (int)(slash - f->path),
             f->path);
    ash_rc rc = io_dir_open(io, parent, 0, &f->dir);
    if (rc == ASH_OK)
        rc = io_file_open(f->dir, slash + 1, flags, &f->f);
    return rc;
}

static ash_rc
check_direct(const struct iob_job *job, const struct iob_file *f)
{
    if (job->direct == 0)
        return ASH_OK;
    int fd = open(f->path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
    int err = errno;
    if (fd >= 0)
        close(fd);
    if (fd < 0 && err == EINVAL)
        return ash_raise_sys(ASH_UNSUPPORTED, err, f->path,
                             "Job %s: direct=1, but the file system of %s has no O_DIRECT; give "
                             "direct=0 or another file.",
                             job->name, f->path);
    return ASH_OK;
}

/* Without poll queues the kernel refuses every request of an IOPOLL ring. */
static ash_rc
check_polled(const struct iob_job *job, const struct iob_file *f)
{
    static const char *const formats[] = { "/sys/dev/block/%u:%u/queue/io_poll",
                                           "/sys/dev/block/%u:%u/../queue/io_poll" };
    struct stat st;

    if (job->hipri == 0 || stat(f->path, &st) != 0)
        return ASH_OK;
    dev_t dev = f->block_device ? st.st_rdev : st.st_dev;
    for (unsigned i = 0; i < 2; i++) {
        char path[128], value[8] = "";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(path, sizeof(path), formats[i], major(dev), minor(dev));
#pragma GCC diagnostic pop
        FILE *file = fopen(path, "re");
        if (file == NULL)
            continue;
        bool on = fgets(value, sizeof(value), file) != NULL && value[0] == '1';
        fclose(file);
        if (on)
            return ASH_OK;
        return ash_raise_obj(ASH_UNSUPPORTED, f->path,
                             "Job %s: hipri=1, but the device of %s has no poll queues (%s is 0).",
                             job->name, f->path, path);
    }
    return ash_raise_obj(ASH_UNSUPPORTED, f->path,
                         "Job %s: hipri=1, but %s is on no device with poll queues.", job->name,
                         f->path);
}

/* A buffered job would measure memory instead of the device.  Best effort: dirty pages stay. */
static void
invalidate(const struct iob_job *job, const struct iob_file *f)
{
    int fd = job->direct != 0 || job->invalidate == 0 ? -1 : open(f->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static ash_rc
open_existing(const struct iob_job *job, struct io *io, struct iob_file *f, uint64_t need,
              bool readonly)
{
    bool ours = marked(f->path, &f->filled);
    bool change = iob_writes(job) || (need > f->size && ours && !readonly);
    ash_rc rc = iob_writes(job) ? may_write(job, f, ours) : ASH_OK;

    if (rc == ASH_OK)
        rc = check_direct(job, f);
    if (rc == ASH_OK)
        rc = check_polled(job, f);
    if (rc == ASH_OK)
        rc = open_in_dir(
            f, io, (change ? 0 : IO_READ_ONLY) | (job->sync != 0 && job->sync != 1 ? IO_DSYNC : 0));
    if (rc == ASH_OK)
        rc = io_file_size(f->f, &f->size);
    if (rc == ASH_OK)
        invalidate(job, f);
    if (rc != ASH_OK || f->size >= need)
        return rc;
    if (f->block_device || !ours || readonly || (iob_verifies(job) && !iob_writes(job)))
        return ash_raise_obj(ASH_INVALID, f->path,
                             "%s has %" PRIu64 " bytes, but job %s needs %" PRIu64
                             "; give a smaller size or another file.",
                             f->path, f->size, job->name, need);
    return grow(job, f, need);
}

static ash_rc
create(const struct iob_job *job, struct io *io, struct iob_file *f, uint64_t need, bool readonly)
{
    if (readonly || (iob_verifies(job) && !iob_writes(job)))
        return ash_raise_obj(ASH_NOT_FOUND, f->path,
                             "There is no file %s, and job %s may not make it.", f->path,
                             job->name);
    if (need == 0)
        return ash_raise_obj(ASH_NOT_FOUND, f->path,
                             "There is no file %s; give size, so that job %s can make it.", f->path,
                             job->name);
    ash_rc rc = open_in_dir(
        f, io, IO_CREATE | IO_EXCLUSIVE | (job->sync != 0 && job->sync != 1 ? IO_DSYNC : 0));
    if (rc != ASH_OK)
        return rc;
    f->made_now = true;
    mark(f);
    rc = check_direct(job, f);
    if (rc == ASH_OK)
        rc = check_polled(job, f);
    if (rc == ASH_OK)
        rc = grow(job, f, round_up(max_u64(need, job->filesize), IOB_UNIT));
    if (rc != ASH_OK)
        unlink(f->path); /* half made, by this call */
    return rc;
}

static ash_rc
open_file(const struct iob_job *job, struct io *io, struct iob_file *f, uint64_t need,
          bool readonly)
{
    struct stat st;

    if (stat(f->path, &st) != 0)
        return create(job, io, f, need, readonly);
    f->block_device = S_ISBLK(st.st_mode);
    f->size = (uint64_t)st.st_size; /* until it is open: a device's is not known yet */
    if (!f->block_device && !S_ISREG(st.st_mode))
        return ash_raise_obj(ASH_INVALID, f->path, "%s is neither a file nor a block device.",
                             f->path);
    return open_existing(job, io, f, need, readonly);
}

/* Without size: what the smallest file has behind the offset of the last clone. */
static ash_rc
settle_length(const struct iob_job *job, struct iob_files *files, uint64_t before)
{
    uint64_t least = UINT64_MAX, largest = max_u64(job->bs[IOB_READ].max, job->bs[IOB_WRITE].max);

    for (unsigned i = 0; i < files->count; i++)
        least = min_u64(least, files->file[i].size);
    if (job->size_percent != 0)
        least = (uint64_t)((unsigned __int128)least * job->size_percent / 100);
    if (files->length == 0)
        files->length = least > before ? round_down(least - before, IOB_UNIT) : 0;
    if (files->length >= largest)
        return ASH_OK;
    return ash_raise_obj(ASH_INVALID, files->file[0].path,
                         "Job %s: %s has no room for a block of %" PRIu64
                         " bytes behind offset %" PRIu64 ".",
                         job->name, files->file[0].path, largest, before);
}

ash_rc
iob_files_open(const struct iob_job *job, struct io *io, bool readonly, struct iob_files *files_out)
{
    struct iob_files files = { .file = NULL };
    uint64_t before = job->offset + (job->numjobs - 1) * job->offset_increment, need = 0;
    ash_rc rc = list_names(job, &files);

    if (rc == ASH_OK && files.count == 0)
        rc = ash_raise_obj(ASH_INVALID, job->name, "Job %s names no file.", job->name);
    if (rc == ASH_OK && job->size != 0) {
        files.length = round_down(job->size / files.per_clone, IOB_UNIT);
        need = before + files.length;
    }
    for (unsigned i = 0; i < files.count && rc == ASH_OK; i++)
        rc = open_file(job, io, &files.file[i], need, readonly);
    if (rc == ASH_OK)
        rc = settle_length(job, &files, before);
    if (rc != ASH_OK) {
        iob_files_close(job, &files, /* complete: */ false);
        return rc;
    }
    for (unsigned i = 0; i < files.count; i++)
        if (!iob_writes(job) && !files.file[i].filled &&
            marked(files.file[i].path, &(bool){ false }))
            fprintf(stderr,
                    "%s was made by a job that did not write all of it: the rest is read without "
                    "reaching the device\n",
                    files.file[i].path);
    *files_out = files;
    return ASH_OK;
}

void
iob_files_close(const struct iob_job *job, struct iob_files *files, bool complete)
{
    for (unsigned i = 0; i < files->count; i++) {
        struct iob_file *f = &files->file[i];
        if (complete && !f->filled && f->made_now && f->f != NULL) {
            f->filled = true;
            mark(f);
        }
        io_file_close(f->f);
        io_dir_close(f->dir);
        if (f->made_now && job->unlink != 0)
            unlink(f->path);
        mem_free(MEM_TOOL, f->path);
    }
    mem_free(MEM_TOOL, files->file);
    memset(files, 0, sizeof(*files));
}
