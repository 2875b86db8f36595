/* SPDX-License-Identifier: Apache-2.0
 *
 * io_posix.c - directories and files of the real backends.
 *
 * Entry points: the table io__posix; io__run_sync(), one request by preadv2/pwritev2/fdatasync.
 *
 * Every name is opened relative to its directory's descriptor and never through a symbolic link, so
 * a directory that is renamed, or a link planted in it, cannot send a write elsewhere.  A file is
 * always used through O_DIRECT or always through the page cache, never through both.
 */
#include "base/bits.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/io_int.h"
#include "storage/io_nvme.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define ZERO_BYTES (1u << 20) /* one write of zeros */
#define ZERO_DEPTH 4u         /* of them in flight: enough for full bandwidth */
#define EINTR_MAX  1000u      /* interrupted system calls in a row */

/* The character devices of NVMe namespaces, and nothing else, are called so. */
bool
io_is_nvme(const char *path)
{
    const char *name = strrchr(path, '/');
    struct stat st;

    return stat(path, &st) == 0 && S_ISCHR(st.st_mode) &&
           strncmp(name == NULL ? path : name + 1, "ng", 2) == 0;
}

/* ---- Directories ---- */

/* The parent's entry of a new directory must survive a crash, too. */
static ash_rc
sync_parent(const char *path)
{
    char parent[4096];
    size_t size = strlen(path);

    while (size > 1 && path[size - 1] == '/')
        size--;
    while (size > 0 && path[size - 1] != '/')
        size--;
    if (size >= sizeof(parent))
        return ash_raise_obj(ASH_INVALID, path,
                             "The path of the directory is longer than %zu bytes.", sizeof(parent));
    memcpy(parent, size == 0 ? "." : path, size == 0 ? 1 : size);
    parent[size == 0 ? 1 : size] = '\0';
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return ash_raise_sys(err_from_errno(errno), errno, parent,
                             "Opening the directory %s failed: %s.", parent, strerror(errno));
    ash_rc rc = ASH_OK;
    if (fsync(fd) != 0)
        rc = ash_raise_sys(err_from_errno(errno), errno, parent,
                           "Syncing the directory %s failed: %s.", parent, strerror(errno));
    close(fd);
    return rc;
}

static ash_rc
posix_dir_open(struct io *io, const char *path, unsigned flags, struct io_dir *d)
{
    (void)io;
    if ((flags & IO_CREATE) != 0) {
        if (mkdir(path, 0700) == 0) {
            ash_rc rc = sync_parent(path);
            if (rc != ASH_OK)
                return rc;
        } else if (errno != EEXIST) {
            return ash_raise_sys(err_from_errno(errno), errno, path,
                                 "Making the directory %s failed: %s.", path, strerror(errno));
        } else if ((flags & IO_EXCLUSIVE) != 0) {
            return ash_raise_obj(ASH_EXISTS, path, "The directory %s exists already.", path);
        }
    }
    d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return ash_raise_sys(ASH_NOT_FOUND, errno, path, "There is no directory %s.", path);
    if (d->fd < 0)
        return ash_raise_sys(err_from_errno(errno), errno, path,
                             "Opening the directory %s failed: %s.", path, strerror(errno));
    return ASH_OK;
}

static void
posix_dir_close(struct io_dir *d)
{
    close(d->fd);
}

static ash_rc
names_add(char ***names, size_t *count, size_t *room, const char *name)
{
    if (*count == *room) {
        size_t more = *room == 0 ? 32 : *room * 2;
        char **grown = mem_realloc(MEM_IO, *names, more * sizeof(**names));
        if (grown == NULL)
            return ASH_NO_MEMORY;
        *names = grown;
        *room = more;
    }
    (*names)[*count] = mem_strdup(MEM_IO, name);
    if ((*names)[*count] == NULL)
        return ASH_NO_MEMORY;
    (*count)++;
    return ASH_OK;
}

static ash_rc
posix_dir_names(struct io_dir *d, char ***names_out, size_t *count_out)
{
    char **names = NULL;
    size_t count = 0, room = 0;
    ash_rc rc = ASH_OK;

    /* A second descriptor: readdir moves the offset, which d->fd would share between callers. */
    int fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        int err = errno;
        if (fd >= 0)
            close(fd);
        return ash_raise_sys(err_from_errno(err), err, d->path,
                             "Listing the directory %s failed: %s.", d->path, strerror(err));
    }
    for (;;) {
        errno = 0;
        struct dirent *e = readdir(dir);
        if (e == NULL && errno != 0)
            rc = ash_raise_sys(err_from_errno(errno), errno, d->path,
                               "Listing the directory %s failed: %s.", d->path, strerror(errno));
        if (e == NULL || rc != ASH_OK)
            break;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        rc = names_add(&names, &count, &room, e->d_name);
        if (rc != ASH_OK)
            break;
    }
    closedir(dir);
    if (rc != ASH_OK) {
        for (size_t i = 0; i < count; i++)
            mem_free(MEM_IO, names[i]);
        mem_free(MEM_IO, names);
        return rc;
    }
    *names_out = names;
    *count_out = count;
    return ASH_OK;
}

static ash_rc
posix_dir_rename(struct io_dir *d, const char *from, const char *to)
{
    if (renameat(d->fd, from, d->fd, to) == 0)
        return ASH_OK;
    int err = errno;
    return ash_raise_sys(err == ENOENT ? ASH_NOT_FOUND : err_from_errno(err), err, from,
                         "Renaming %s/%s to %s failed: %s.", d->path, from, to, strerror(err));
}

static ash_rc
posix_dir_unlink(struct io_dir *d, const char *name)
{
    if (unlinkat(d->fd, name, 0) == 0)
        return ASH_OK;
    int err = errno;
    return ash_raise_sys(err == ENOENT ? ASH_NOT_FOUND : err_from_errno(err), err, name,
                         "Removing %s/%s failed: %s.", d->path, name, strerror(err));
}

static ash_rc
posix_dir_sync(struct io_dir *d)
{
    if (fsync(d->fd) == 0)
        return ASH_OK;
    int err = errno;
    io__poison_with(d->io, err_from_errno(err), err, d->path,
                    "Syncing the directory %s failed: %s.", d->path, strerror(err));
    return ash_raise_sys(err_from_errno(err), err, d->path, "Syncing the directory %s failed: %s.",
                         d->path, strerror(err));
}

/* ---- Probing ---- */

/* "write through" in sysfs: the device has no volatile cache, so a completed O_DIRECT write
 * survives a power cut. Anything unknown (network file systems, tmpfs, btrfs' anonymous devices)
 * counts as volatile. */
static enum io_device_class
probe_device(const struct stat *st, bool direct)
{
    static const char *const formats[] = { "/sys/dev/block/%u:%u/queue/write_cache",
                                           "/sys/dev/block/%u:%u/../queue/write_cache" };
    dev_t dev = S_ISBLK(st->st_mode) ? st->st_rdev : st->st_dev;

    if (!direct)
        return IO_DEVICE_VOLATILE; /* the page cache itself is volatile */
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(formats); i++) {
        char path[96], text[32] = "";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(path, sizeof(path), formats[i], major(dev), minor(dev));
#pragma GCC diagnostic pop
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue; /* a partition: its parent has the queue */
        ssize_t n = read(fd, text, sizeof(text) - 1);
        close(fd);
        return n > 0 && strncmp(text, "write through", 13) == 0 ? IO_DEVICE_WRITE_THROUGH
                                                                : IO_DEVICE_VOLATILE;
    }
    return IO_DEVICE_VOLATILE;
}

static uint32_t
probe_align(int fd)
{
    uint32_t align = IO_ALIGN;
#ifdef STATX_DIOALIGN
    struct statx stx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) != 0) {
        if (stx.stx_dio_mem_align > align && is_pow2(stx.stx_dio_mem_align))
            align = stx.stx_dio_mem_align;
        if (stx.stx_dio_offset_align > align && is_pow2(stx.stx_dio_offset_align))
            align = stx.stx_dio_offset_align;
    }
#else
    (void)fd;
#endif
    return align;
}

/* A write beyond RLIMIT_FSIZE would kill the whole process with SIGXFSZ: refuse while it can still
 * be refused. */
static ash_rc
check_limit(const struct io_file *f, uint64_t bytes)
{
    struct rlimit lim;

    if (f->block_device || getrlimit(RLIMIT_FSIZE, &lim) != 0 || lim.rlim_cur == RLIM_INFINITY ||
        bytes <= lim.rlim_cur)
        return ASH_OK;
    return ash_raise_sys(ASH_NO_SPACE, EFBIG, f->path,
                         "The file %s needs %" PRIu64
                         " bytes, but RLIMIT_FSIZE (ulimit -f) allows files of %" PRIu64
                         " bytes only; raise that limit.",
                         f->path, bytes, (uint64_t)lim.rlim_cur);
}

/* ---- Files ---- */

static int
open_flags(unsigned flags, bool direct)
{
    int oflags = O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    oflags |= (flags & IO_READ_ONLY) != 0 ? O_RDONLY : O_RDWR;
    if ((flags & IO_CREATE) != 0)
        oflags |= O_CREAT | ((flags & IO_EXCLUSIVE) != 0 ? O_EXCL : 0);
    if ((flags & IO_DSYNC) != 0)
        oflags |= O_DSYNC;
    return oflags | (direct ? O_DIRECT : 0);
}

static int
open_direct_or_not(struct io_dir *d, unsigned flags, struct io_file *f)
{
    f->direct = f->io->options.direct && (flags & IO_BUFFERED) == 0;
    int fd = f->direct && io__test_hooks.no_direct
                 ? -1
                 : openat(d->fd, f->name, open_flags(flags, f->direct), 0600);
    if (f->direct && io__test_hooks.no_direct)
        errno = EINVAL;
    if (fd >= 0 || errno != EINVAL || !f->direct)
        return fd;
    f->direct = false;
    /* The refused open may have made the file: EXCL would trip over our own. */
    fd = openat(d->fd, f->name,
                open_flags(flags, false) &
                    ~((flags & IO_EXCLUSIVE) != 0 && !io__test_hooks.no_direct ? O_EXCL : 0),
                0600);
    if (fd >= 0 && !atomic_exchange(&f->io->warned_direct, true))
        log_write(LOG_WARN, "The file system of %s refuses O_DIRECT; the page cache is used.",
                  f->path);
    return fd;
}

static ash_rc
raise_open(const struct io_file *f, int err)
{
    switch (err) {
    case ENOENT: return ash_raise_sys(ASH_NOT_FOUND, err, f->path, "There is no file %s.", f->path);
    case EEXIST:
        return ash_raise_sys(ASH_EXISTS, err, f->path, "The file %s exists already.", f->path);
    case ELOOP:
        return ash_raise_sys(
            ASH_INVALID, err, f->path,
            "The file %s is a symbolic link, which is refused; use the file itself.", f->path);
    default:
        return ash_raise_sys(err_from_errno(err), err, f->path, "Opening %s failed: %s.", f->path,
                             strerror(err));
    }
}

static ash_rc
lock_file(const struct io_file *f)
{
    int how = (f->flags & IO_READ_ONLY) != 0 ? LOCK_SH : LOCK_EX;

    for (unsigned i = 0; flock(f->fd, how | LOCK_NB) != 0; i++) {
        if (errno == EINTR && i < EINTR_MAX)
            continue;
        if (errno == EWOULDBLOCK)
            return ash_raise_obj(
                ASH_BUSY, f->path,
                "The file %s is in use by another process or handle; close it there first.",
                f->path);
        return ash_raise_sys(ASH_IO, errno, f->path, "Locking %s failed: %s.", f->path,
                             strerror(errno));
    }
    return ASH_OK;
}

static ash_rc
posix_file_size(struct io_file *f, uint64_t *bytes_out)
{
    struct stat st;
    uint64_t bytes = 0;

    int bad = f->block_device ? ioctl(f->fd, BLKGETSIZE64, &bytes) : fstat(f->fd, &st);
    if (bad != 0)
        return ash_raise_sys(ASH_IO, errno, f->path, "Asking for the size of %s failed: %s.",
                             f->path, strerror(errno));
    *bytes_out = f->block_device ? bytes : (uint64_t)st.st_size;
    return ASH_OK;
}

static ash_rc
posix_file_open(struct io_dir *d, unsigned flags, struct io_file *f)
{
    struct stat st;
    ash_rc rc;

    f->fd = open_direct_or_not(d, flags, f);
    if (f->fd < 0)
        return raise_open(f, errno);
    if (fstat(f->fd, &st) != 0) {
        rc = ash_raise_sys(ASH_IO, errno, f->path, "Looking at %s failed: %s.", f->path,
                           strerror(errno));
        goto out_close;
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        rc = ash_raise_obj(ASH_INVALID, f->path, "%s is neither a file nor a block device.",
                           f->path);
        goto out_close;
    }
    f->block_device = S_ISBLK(st.st_mode);
    f->align = probe_align(f->fd);
    f->device_class = probe_device(&st, f->direct);
    rc = (flags & IO_READ_ONLY) != 0 ? ASH_OK : check_limit(f, (uint64_t)st.st_size);
    if (rc == ASH_OK && (flags & IO_LOCK) != 0)
        rc = lock_file(f);
    if (rc != ASH_OK)
        goto out_close;
    return ASH_OK;
out_close:
    close(f->fd);
    return rc;
}

static void
posix_file_close(struct io_file *f)
{
    /* Explicitly, because rings may still hold the description as a registered file.  Nothing is in
     * flight here. Not in a forked child: it shares the description with the parent, whose lock it
     * is. */
    if ((f->flags & IO_LOCK) != 0 && !io__forked(f->io))
        flock(f->fd, LOCK_UN);
    close(f->fd);
}

/* fallocate() until it is not interrupted; 0 or an errno. */
static int
fallocate_patiently(int fd, int mode, uint64_t offset, uint64_t bytes)
{
    if (io__test_hooks.no_fallocate)
        return EOPNOTSUPP;
    for (unsigned i = 0; fallocate(fd, mode, (off_t)offset, (off_t)bytes) != 0; i++) {
        if (errno != EINTR || i == EINTR_MAX)
            return errno;
    }
    return 0;
}

/* Writes zeros through the queue, so that a fiber parks and the class keeps its priority.  ENOSPC
 * does not poison. */
static ash_rc
write_zeros(struct io_file *f, uint64_t from, uint64_t to)
{
    static const _Alignas(IO_ALIGN) char zeros[ZERO_BYTES]; /* untouched: costs no memory */
    struct io_req req[ZERO_DEPTH];
    ash_rc rc = ASH_OK;

    while (from < to && rc == ASH_OK) {
        struct io_req *batch[ZERO_DEPTH];
        unsigned n = 0;
        for (; n < ZERO_DEPTH && from < to; n++) {
            const void *data = zeros;
            memset(&req[n], 0, sizeof(req[n]));
            req[n].file = f;
            req[n].op = IO_OP_WRITE;
            req[n].class = IO_CLASS_FLUSH;
            req[n].offset = from;
            req[n].bytes = (uint32_t)min_u64(to - from, ZERO_BYTES);
            memcpy(&req[n].buf, &data, sizeof(data));
            batch[n] = &req[n];
            from += req[n].bytes;
        }
        io__submit(batch, n, IO_BEGIN_QUIET);
        for (unsigned i = 0; i < n; i++) {
            ash_rc one = io_wait(&req[i]);
            if (rc == ASH_OK)
                rc = one;
        }
    }
    return rc;
}

static ash_rc
shrink_back(struct io_file *f, uint64_t size, ash_rc rc)
{
    struct err_detail detail;

    err_save(&detail);
    if (ftruncate(f->fd, (off_t)size) != 0)
        log_write(LOG_WARN, "Cutting %s back to %" PRIu64 " bytes failed: %s.", f->path, size,
                  strerror(errno));
    err_restore(&detail);
    return rc;
}

static ash_rc
posix_file_allocate(struct io_file *f, uint64_t bytes, bool zero)
{
    uint64_t size;
    ash_rc rc = posix_file_size(f, &size);
    if (rc != ASH_OK || bytes <= size)
        return rc;
    if (f->block_device)
        return ash_raise_obj(ASH_NO_SPACE, f->path,
                             "The device %s has %" PRIu64 " bytes and cannot grow to %" PRIu64 ".",
                             f->path, size, bytes);
    rc = check_limit(f, bytes);
    if (rc != ASH_OK)
        return rc;
    int err = fallocate_patiently(f->fd, 0, size, bytes - size);
    if (err != 0 && err != EOPNOTSUPP && err != ENOSYS && err != EINVAL) {
        rc = ash_raise_sys(err_from_errno(err), err, f->path,
                           "Growing %s from %" PRIu64 " to %" PRIu64
                           " bytes failed: %s; free some space.",
                           f->path, size, bytes, strerror(err));
        return shrink_back(f, size, rc);
    }
    if (err == 0 && !zero)
        return ASH_OK;
    rc = write_zeros(f, size, bytes);
    if (rc != ASH_OK)
        return shrink_back(f, size, rc);
    return zero ? io_flush(f, IO_CLASS_FLUSH) : ASH_OK;
}

static ash_rc
posix_file_truncate(struct io_file *f, uint64_t bytes)
{
    ash_rc rc = f->block_device ? ASH_OK : check_limit(f, bytes);
    if (rc != ASH_OK || f->block_device)
        return rc;
    for (unsigned i = 0; ftruncate(f->fd, (off_t)bytes) != 0; i++) {
        if (errno != EINTR || i == EINTR_MAX)
            return ash_raise_sys(err_from_errno(errno), errno, f->path,
                                 "Setting the size of %s to %" PRIu64 " failed: %s.", f->path,
                                 bytes, strerror(errno));
    }
    return ASH_OK;
}

static ash_rc
posix_file_punch(struct io_file *f, uint64_t offset, uint64_t bytes)
{
    int err = fallocate_patiently(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);

    if (err == EIO)
        return ash_raise_sys(ASH_IO, err, f->path, "Giving back space of %s failed: %s.", f->path,
                             strerror(err));
    return ASH_OK; /* best effort: a file system that cannot do it keeps the blocks */
}

/* ---- Requests without a ring ---- */

/* One NVMe command: takes the first buffer alone, the others follow. */
static int64_t
transfer_nvme(const struct io_req *req, const struct iovec *iov, uint64_t offset)
{
    const struct io_nvme *n = req->file->nvme;

    if (req->op == IO_OP_READ)
        return io__nvme_read(n, iov->iov_base, (uint32_t)iov->iov_len, offset);
    return io__nvme_write(n, iov->iov_base, (uint32_t)iov->iov_len, offset, req->dsync);
}

int64_t
io__transfer_sync(struct io_meter *meter, struct io_req *req)
{
    const struct iovec *iov;
    unsigned count;
    uint32_t bytes;
    ssize_t n;

    io__meter_syscall(meter);
    if (req->op == IO_OP_FLUSH && req->file->nvme != NULL)
        return io__nvme_flush(req->file->nvme);
    if (req->op == IO_OP_FLUSH)
        return fdatasync(req->file->fd) == 0 ? 0 : -errno;
    uint64_t offset = io__segment(req, &iov, &count, &bytes);
    if (req->file->nvme != NULL)
        return transfer_nvme(req, iov, offset);
    if (req->op == IO_OP_READ)
        n = preadv2(req->file->fd, iov, (int)count, (off_t)offset, 0);
    else
        n = pwritev2(req->file->fd, iov, (int)count, (off_t)offset, req->dsync ? RWF_DSYNC : 0);
    return n < 0 ? -errno : n;
}

void
io__run_sync(struct io_meter *meter, struct io_req *req)
{
    do {
        req->sent++;
    } while (!io__transferred(req, io__transfer_sync(meter, req)));
}

const struct io_fs io__posix = {
    .dir_open = posix_dir_open,
    .dir_close = posix_dir_close,
    .dir_names = posix_dir_names,
    .dir_rename = posix_dir_rename,
    .dir_unlink = posix_dir_unlink,
    .dir_sync = posix_dir_sync,
    .file_open = posix_file_open,
    .file_close = posix_file_close,
    .file_size = posix_file_size,
    .file_allocate = posix_file_allocate,
    .file_truncate = posix_file_truncate,
    .file_punch = posix_file_punch,
};
