/* SPDX-License-Identifier: Apache-2.0
 *
 * io_nvme.c - NVMe commands through the generic character device.
 *
 * Read first: io_nvme.h.  Sources: NVM Express Base Specification 2.0 and NVM Command Set 1.0 for
 * commands and the identify structures (byte offsets are cited below); the kernel's
 * linux/nvme_ioctl.h for the interface.
 */
#include "storage/io_nvme.h"

#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <liburing.h>
#include <linux/nvme_ioctl.h>
#include <string.h>
#include <sys/ioctl.h>

enum nvme_opcode {
    NVME_FLUSH = 0x00,
    NVME_WRITE = 0x01,
    NVME_READ = 0x02,
    NVME_WRITE_ZEROES = 0x08,
    NVME_ADMIN_IDENTIFY = 0x06
};

#define NVME_FUA       (1u << 30) /* in dword 12 */
#define IDENTIFY_BYTES 4096u
#define CNS_NAMESPACE  0u
#define CNS_CONTROLLER 1u
/* Also when the controller would take more: Linux gives a command 127 segments, and each page of
 * the buffer may be one. */
#define TRANSFER_MAX   (256u << 10)
#define BLOCKS_MAX     65536u /* 16 bits, zero-based */

static int
identify(int fd, uint32_t nsid, uint32_t cns, void *page)
{
    struct nvme_passthru_cmd cmd = { .opcode = NVME_ADMIN_IDENTIFY,
                                     .nsid = cns == CNS_NAMESPACE ? nsid : 0,
                                     .addr = (uintptr_t)page,
                                     .data_len = IDENTIFY_BYTES,
                                     .cdw10 = cns };
    int err = ioctl(fd, NVME_IOCTL_ADMIN_CMD, &cmd);

    return err < 0 ? -errno : err > 0 ? -EIO : 0;
}

/* Identify Controller: 77 MDTS (power of two of the 4 KiB page, 0: no limit), 520 ONCS (bit 3:
 * write zeroes), 525 VWC (bit 0: a volatile write cache is there). */
static void
read_controller(const uint8_t *page, struct io_nvme *n)
{
    unsigned mdts = page[77];

    n->transfer_max = TRANSFER_MAX;
    if (mdts != 0 && mdts < 16)
        n->transfer_max = (uint32_t)min_u64(TRANSFER_MAX, 4096ull << mdts);
    n->can_write_zeroes = (get_le16(page + 520) & 1u << 3) != 0;
    n->volatile_cache = (page[525] & 1) != 0;
}

/* Identify Namespace: 0 size in blocks, 26 FLBAS (bits 3:0 and 6:5: the format in use), 128 + 4 x:
 * format x (15:0 metadata bytes, 23:16 log2 of the block). */
static ash_rc
read_namespace(const uint8_t *page, const char *path, struct io_nvme *n)
{
    unsigned format = (page[26] & 0xf) | (unsigned)(page[26] >> 5 & 3) << 4;
    uint32_t lbaf = get_le32(page + 128 + 4 * (size_t)format);

    n->block_shift = lbaf >> 16 & 0xff;
    if (n->block_shift < 9 || n->block_shift > 12 || (lbaf & 0xffff) != 0)
        return ash_raise_obj(ASH_UNSUPPORTED, path,
                             "The namespace %s has blocks of 2^%u bytes with %u bytes of metadata; "
                             "format it with blocks of 512 to 4096 bytes and no metadata.",
                             path, n->block_shift, lbaf & 0xffff);
    uint64_t blocks = get_le64(page);
    n->bytes = blocks << n->block_shift;
    if (blocks == 0 || n->bytes >> n->block_shift != blocks)
        return ash_raise_obj(ASH_UNSUPPORTED, path,
                             "The namespace %s says that it has %" PRIu64 " blocks.", path, blocks);
    return ASH_OK;
}

ash_rc
io__nvme_open(int fd, const char *path, struct io_nvme *out)
{
    struct io_nvme n = { .fd = fd };
    int nsid = ioctl(fd, NVME_IOCTL_ID);

    if (nsid <= 0)
        return ash_raise_sys(ASH_UNSUPPORTED, nsid < 0 ? errno : 0, path,
                             "The device %s is not an NVMe namespace; name one like /dev/ng0n1.",
                             path);
    n.nsid = (uint32_t)nsid;
    uint8_t *page = mem_aligned(MEM_IO, IDENTIFY_BYTES, IDENTIFY_BYTES);
    if (page == NULL)
        return ASH_NO_MEMORY;
    int err = identify(fd, n.nsid, CNS_CONTROLLER, page);
    if (err == 0) {
        read_controller(page, &n);
        err = identify(fd, n.nsid, CNS_NAMESPACE, page);
    }
    ash_rc rc = err != 0 ? ash_raise_sys(err_from_errno(-err), -err, path,
                                         "Identifying the namespace %s failed: %s.", path,
                                         strerror(-err))
                         : read_namespace(page, path, &n);
    mem_free(MEM_IO, page);
    if (rc == ASH_OK)
        *out = n;
    return rc;
}

/* ---- Commands ---- */

/* The controller's status (type in bits 10:8, code in 7:0) as the errno that a block device would
 * have given. */
static int
errno_of_status(int status)
{
    switch (status & 0x7ff) {
    case 0x002: return EINVAL;  /* invalid field */
    case 0x020: return EROFS;   /* namespace is write protected */
    case 0x080: return ENXIO;   /* block out of range */
    case 0x081: return ENOSPC;  /* capacity exceeded */
    case 0x082: return EAGAIN;  /* namespace not ready */
    case 0x281: return ENODATA; /* unrecovered read error */
    default: return EIO;
    }
}

int64_t
io__nvme_result(int result, uint32_t bytes)
{
    if (result <= 0)
        return result < 0 ? result : (int64_t)bytes;
    log_write(LOG_WARN, "An NVMe command ended with status 0x%x.", (unsigned)result);
    return -errno_of_status(result);
}

static void
address(const struct io_nvme *n, uint64_t offset, uint32_t bytes, uint32_t dword[3])
{
    uint64_t block = offset >> n->block_shift;
    uint32_t blocks = bytes >> n->block_shift;

    ash_assert(blocks > 0 && blocks <= BLOCKS_MAX);
    ash_assert(offset + bytes <= n->bytes);
    dword[0] = (uint32_t)block;
    dword[1] = (uint32_t)(block >> 32);
    dword[2] = blocks - 1;
}

static int64_t
command(const struct io_nvme *n, enum nvme_opcode opcode, const void *buf, uint32_t data_bytes,
        uint64_t offset, uint32_t bytes, uint32_t flags)
{
    uint32_t dword[3] = { 0, 0, 0 };

    if (opcode != NVME_FLUSH)
        address(n, offset, bytes, dword);
    struct nvme_passthru_cmd cmd = { .opcode = (uint8_t)opcode,
                                     .nsid = n->nsid,
                                     .addr = (uintptr_t)buf,
                                     .data_len = data_bytes,
                                     .cdw10 = dword[0],
                                     .cdw11 = dword[1],
                                     .cdw12 = dword[2] | flags };
    int result = ioctl(n->fd, NVME_IOCTL_IO_CMD, &cmd);
    return io__nvme_result(result < 0 ? -errno : result, bytes);
}

int64_t
io__nvme_read(const struct io_nvme *n, void *buf, uint32_t bytes, uint64_t offset)
{
    return command(n, NVME_READ, buf, bytes, offset, bytes, 0);
}

int64_t
io__nvme_write(const struct io_nvme *n, const void *buf, uint32_t bytes, uint64_t offset, bool fua)
{
    return command(n, NVME_WRITE, buf, bytes, offset, bytes, fua ? NVME_FUA : 0);
}

int64_t
io__nvme_zero(const struct io_nvme *n, uint64_t offset, uint32_t bytes)
{
    return command(n, NVME_WRITE_ZEROES, NULL, 0, offset, bytes, 0);
}

int
io__nvme_flush(const struct io_nvme *n)
{
    return (int)command(n, NVME_FLUSH, NULL, 0, 0, 0, 0);
}

void
io__nvme_prepare(struct io_uring_sqe *sqe, const struct io_nvme *n, enum io_op op, bool fua,
                 const struct iovec *iov, unsigned count, uint32_t bytes, uint64_t offset,
                 int buffer)
{
    struct nvme_uring_cmd *cmd = (struct nvme_uring_cmd *)(void *)sqe->cmd;
    uint32_t dword[3] = { 0, 0, 0 };

    memset(sqe, 0, 2 * sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = n->fd;
    sqe->cmd_op = count > 1 ? NVME_URING_CMD_IO_VEC : NVME_URING_CMD_IO;
    cmd->nsid = n->nsid;
    if (op == IO_OP_FLUSH) {
        cmd->opcode = NVME_FLUSH;
        return;
    }
    address(n, offset, bytes, dword);
    cmd->opcode = op == IO_OP_READ ? NVME_READ : NVME_WRITE;
    cmd->cdw10 = dword[0];
    cmd->cdw11 = dword[1];
    cmd->cdw12 = dword[2] | (op == IO_OP_WRITE && fua ? NVME_FUA : 0);
    cmd->addr = (uintptr_t)(count > 1 ? (const void *)iov : iov->iov_base);
    cmd->data_len = count > 1 ? count : bytes;
#ifdef IORING_URING_CMD_FIXED
    if (buffer >= 0 && count == 1) {
        sqe->uring_cmd_flags = IORING_URING_CMD_FIXED;
        sqe->buf_index = (uint16_t)buffer;
    }
#else
    (void)buffer;
#endif
}
