/* SPDX-License-Identifier: Apache-2.0
 *
 * io_uring_file.c - registered files, followed by each ring on its own thread.
 */
#include "storage/io_uring_int.h"

void
io__ring_drop_closed_files(struct ring *r, struct io *io)
{
    uint32_t version = atomic_load_explicit(&io->close_version, memory_order_acquire);

    if (ASH_LIKELY(version == r->close_version))
        return;
    r->close_version = version;
    /* Which one was closed is not told: forget all, the hot ones come back. */
    for (unsigned i = 0; i < FILES_MAX; i++) {
        int none = -1;
        if (r->file[i].registered)
            io_uring_register_files_update(&r->u, i, &none, 1);
        r->file[i] = (struct ring_file){ .id = 0 };
    }
}

/* The file's index in the ring's table, or -1: a plain descriptor.  Direct mapped; a file is
 * registered once it is hot, because each registration keeps the file open until the ring notices
 * that it was closed. */
int
io__ring_file_index(struct ring *r, const struct io_file *f)
{
    unsigned i = (unsigned)(f->id % FILES_MAX);
    struct ring_file *e = &r->file[i];

    if (e->id != f->id) {
        if (e->id != 0 && e->uses > 0) {
            e->uses--; /* the other one cools down first */
            return -1;
        }
        if (e->registered) {
            int none = -1;
            io_uring_register_files_update(&r->u, i, &none, 1);
        }
        *e = (struct ring_file){ .id = f->id, .fd = f->fd };
    }
    if (e->registered)
        return (int)i;
    if (++e->uses < HOT_REQUESTS || !r->files_ok)
        return -1;
    if (io_uring_register_files_update(&r->u, i, &e->fd, 1) != 1) {
        r->files_ok = false;
        return -1;
    }
    e->registered = true;
    return (int)i;
}
