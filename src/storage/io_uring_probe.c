/* SPDX-License-Identifier: Apache-2.0
 *
 * io_uring_probe.c - which io_uring is there: a ladder of flags, each rung tried as it will be used.
 */
#include "storage/io_uring_int.h"

#include <errno.h>
#include <string.h>

#define CQ_FACTOR      4u  /* CQ entries per SQ entry */
#define SQPOLL_IDLE_MS 50u /* after which the kernel's thread sleeps */

/* From the best set-up down.  Each is tried as it will be used; what an older kernel doesn't know,
 * it refuses. */
static const unsigned ladder[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
        IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
        IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
    IORING_SETUP_SUBMIT_ALL,
    0,
};
#define FEATURES_NEEDED (IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE)

int
io__ring_setup(struct io_uring *u, unsigned rung, unsigned ring, bool wide, unsigned entries)
{
    struct io_uring_params p;

    if (io__test_hooks.setup_errno != 0)
        return -io__test_hooks.setup_errno;
    if (rung < io__test_hooks.ladder_skip)
        return -EINVAL;
    memset(&p, 0, sizeof(p));
    p.flags = ladder[rung] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    if ((ring & IO_RING_SQPOLL) != 0) {
        p.flags &=
            ~(IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
        p.flags |= IORING_SETUP_SQPOLL;
        p.sq_thread_idle = SQPOLL_IDLE_MS;
    }
    if ((ring & IO_RING_IOPOLL) != 0)
        p.flags |= IORING_SETUP_IOPOLL;
    if (wide)
        p.flags |= IORING_SETUP_SQE128 | IORING_SETUP_CQE32;
    p.cq_entries = entries * CQ_FACTOR;
    int err = io_uring_queue_init_params(entries, u, &p);
    if (err != 0)
        return err;
    if ((u->features & FEATURES_NEEDED) != FEATURES_NEEDED) {
        io_uring_queue_exit(u);
        return -ENOSYS;
    }
    return 0;
}

/* One turn through a new ring with the flags of the rung. */
static int
probe_rung(unsigned rung, unsigned ring, bool wide)
{
    struct io_uring u;
    struct io_uring_cqe *cqe;
    int err = io__ring_setup(&u, rung, ring, wide, SQ_HOST);

    if (err != 0)
        return err;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u);
    ash_assert(sqe != NULL);
    io_uring_prep_nop(sqe);
    do {
        err = io_uring_submit_and_wait(&u, 1);
    } while (err == -EINTR);
    if (err >= 0)
        err = io_uring_peek_cqe(&u, &cqe);
    if (err == 0) {
        err = cqe->res;
        io_uring_cqe_seen(&u, cqe);
    }
    io_uring_queue_exit(&u);
    return err;
}

int
io__ring_probe(unsigned ring, bool wide)
{
    int err = -ENOSYS;

    for (unsigned rung = 0; rung < ASH_ARRAY_SIZE(ladder); rung++) {
        err = probe_rung(rung, ring, wide);
        if (err == 0)
            return (int)rung;
        if (err == -EPERM || err == -EACCES)
            break; /* forbidden is forbidden with fewer flags, too */
    }
    return err;
}
