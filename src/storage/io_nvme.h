/* SPDX-License-Identifier: Apache-2.0
 *
 * io_nvme.h - NVMe commands through the generic character device (/dev/ngXnY), past the block
 * layer.  Only for src/storage/io*.c.
 *
 * A namespace needs one of the kernel's generic character devices, the rights to open it, a block
 * size of at most 4 KiB and no metadata.  There is no file system, no page cache and no I/O
 * scheduler below: alignment, maximum transfer size and flushes are this file's business.
 */
#ifndef ASH_STORAGE_IO_NVME_H
#define ASH_STORAGE_IO_NVME_H

#include "storage/io.h"

struct io_uring_sqe;

struct io_nvme {
    int fd;
    uint32_t nsid;
    unsigned block_shift;  /* log2 of the logical block's bytes, 9 .. 12 */
    uint64_t bytes;        /* of the namespace */
    uint32_t transfer_max; /* bytes of one command, a multiple of 4 KiB */
    bool volatile_cache;   /* the controller has a write cache that a power cut empties */
    bool can_write_zeroes;
};

/* `fd`: an open character device, owned by the caller. */
ash_rc io__nvme_open(int fd, const char *path, struct io_nvme *out);

/* One command, start to end, on the calling thread (ioctl).  Bytes, or -errno. */
int64_t io__nvme_read(const struct io_nvme *n, void *buf, uint32_t bytes, uint64_t offset);
int64_t
io__nvme_write(const struct io_nvme *n, const void *buf, uint32_t bytes, uint64_t offset, bool fua);
int64_t io__nvme_zero(const struct io_nvme *n, uint64_t offset, uint32_t bytes);
int io__nvme_flush(const struct io_nvme *n); /* 0, or -errno */

/* Fills a 128-byte entry.  `count` > 1: `iov` is read by the kernel when it is submitted; buffer:
 * index of the registered buffer that holds it, or -1. */
void io__nvme_prepare(struct io_uring_sqe *sqe, const struct io_nvme *n, enum io_op op, bool fua,
                      const struct iovec *iov, unsigned count, uint32_t bytes, uint64_t offset,
                      int buffer);
/* The result of a completed command (0, -errno, or the controller's status) as bytes or -errno. */
int64_t io__nvme_result(int result, uint32_t bytes);

#endif
