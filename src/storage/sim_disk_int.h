/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_disk_int.h - the simulated disk's state, for sim_disk.c, sim_image.c and io_sim.c.
 *
 *   sim_disk -- dirs[] -- visible names, durable names, log of name changes since the directory's
 *   last sync
 *            \- files   -- visible image, durable image, pending changes (completed, not flushed)
 *            \- flights -- requests submitted and not completed; their writes may or may not be on
 *            the medium
 *
 * An image is a table of chunks of pages; chunks and pages are shared by reference and copied on
 * write, so a copy of a 1 MiB image is a handful of pointers.
 *
 * The disk is the hardware under the engine: its memory does not belong to the engine, must survive
 * a halted simulation, and must not fail when a test makes the engine's allocations fail.  Hence
 * plain malloc() here.
 */
#ifndef ASH_STORAGE_SIM_DISK_INT_H
#define ASH_STORAGE_SIM_DISK_INT_H

#include "base/assert.h"
#include "base/list.h"
#include "storage/io.h"
#include "storage/sim_disk.h"

#define SIM_SECTOR       512u
#define SIM_PAGE         4096u
#define SIM_PAGE_SECTORS (SIM_PAGE / SIM_SECTOR)
#define SIM_CHUNK_PAGES  64u
#define SIM_FAULTS_MAX   32u

void *sim__alloc(size_t size); /* zeroed; never NULL */
void *sim__grow(void *p, size_t size);
void sim__free(void *p);

/* ---- sim_image.c ---- */

struct sim_page {
    uint32_t refs;
    uint32_t pad[3];
    uint8_t data[SIM_PAGE];
};

struct sim_chunk {
    uint32_t refs;
    struct sim_page *page[SIM_CHUNK_PAGES]; /* NULL: zeros */
};

struct sim_image {
    uint64_t size; /* bytes */
    uint32_t chunks;
    struct sim_chunk **chunk; /* NULL: zeros */
};

struct sim_page *sim__page_new(const void *data); /* NULL: zeros */
void sim__page_ref(struct sim_page *p);
void sim__page_unref(struct sim_page *p); /* NULL allowed */

void sim__image_free(struct sim_image *img);
void sim__image_copy(struct sim_image *to, const struct sim_image *from); /* `to` is empty */
struct sim_page *sim__image_page(const struct sim_image *img, uint64_t page);
/* Shares `p` (NULL: zeros) as the page's new content; does not change the size. */
void sim__image_set(struct sim_image *img, uint64_t page, struct sim_page *p);
/* Takes only the sectors in `mask` from p. */
void sim__image_mix(struct sim_image *img, uint64_t page, struct sim_page *p, unsigned mask);
void
sim__image_resize(struct sim_image *img, uint64_t size); /* what is cut off reads as zeros later */
void sim__image_read(const struct sim_image *img, uint64_t offset, void *buf,
                     size_t bytes); /* zeros beyond */
void sim__image_write(struct sim_image *img, uint64_t offset, const void *buf,
                      size_t bytes); /* grows it */
uint64_t sim__image_hash(const struct sim_image *img, uint64_t seed);

/* ---- sim_disk.c ---- */

enum sim_change_kind {
    SIM_CHANGE_WRITE = 1,
    SIM_CHANGE_SIZE
};

/* One completed, unflushed change of a file, or the write of a request in flight. */
struct sim_change {
    struct list link; /* file->pending, in order of completion */
    enum sim_change_kind kind;
    uint64_t seq;          /* order over the whole disk */
    uint64_t offset, size; /* WRITE: place (whole pages); SIZE: the new size */
    uint32_t pages;
    struct sim_page **page; /* NULL: overtaken by newer durable data */
};

struct sim_file {
    struct list link; /* disk->files */
    struct sim_disk *disk;
    uint64_t id;
    uint32_t links, opens, shared_locks; /* links: visible names */
    bool locked;
    struct sim_image visible, durable;
    struct list pending;
    struct sim_file *twin; /* scratch of sim_disk_cut() */
};

struct sim_name {
    char *name;
    struct sim_file *file;
};
struct sim_names {
    struct sim_name *v;
    uint32_t count, room;
}; /* by name */

enum sim_dirlog_kind {
    SIM_DIR_CREATE = 1,
    SIM_DIR_RENAME,
    SIM_DIR_UNLINK
};
struct sim_dirlog {
    enum sim_dirlog_kind kind;
    uint64_t seq;
    char *name, *to;
    struct sim_file *file;
};

struct sim_dir {
    struct sim_disk *disk;
    char *name;
    struct sim_names visible, durable;
    struct sim_dirlog *log;
    uint32_t log_count, log_room;
};

/* A request between submission and completion. */
struct sim_flight {
    struct list link; /* disk->flights */
    struct sim_file *file;
    struct sim_change *write; /* IO_OP_WRITE */
    uint32_t bytes;
    uint64_t offset;
    uint64_t seq; /* at submission: what a flush covers */
    uint32_t crc; /* of the write's data */
    bool durable; /* a write that is durable when it completes */
    struct sim_fault fault;
};

struct sim_disk {
    struct random random;
    uint64_t limit, seq, file_ids;
    uint64_t latency_min_ns, latency_max_ns;
    uint64_t events, cut_at;
    void (*cut_fn)(void *arg);
    void *cut_arg;
    uint64_t requests[SIM_OP_COUNT]; /* [0]: all */
    struct sim_fault fault[SIM_FAULTS_MAX];
    unsigned faults;
    struct sim_dir **dir; /* by name */
    uint32_t dirs, dirs_room;
    struct list files, flights;
    uint32_t file_count, sweep_at;
};

/* Counts an event and calls the hook; may not return (task_sim_halt). */
void sim__event(struct sim_disk *d);
/* Counts a request of the kind and gives the fault that hits it (kind SIM_FAULT_NONE: none). */
struct sim_fault sim__fault(struct sim_disk *d, int op);
uint64_t sim__latency(struct sim_disk *d);
uint64_t sim__used(const struct sim_disk *d); /* bytes of all files */

struct sim_dir *sim__dir(struct sim_disk *d, const char *name, bool create);
struct sim_file *sim__lookup(const struct sim_dir *dir, const char *name);
struct sim_file *sim__create(struct sim_dir *dir, const char *name);
void sim__rename(struct sim_dir *dir, const char *from, const char *to); /* `from` exists */
void sim__unlink(struct sim_dir *dir, const char *name);                 /* exists */
void sim__dir_sync(struct sim_dir *dir);
void sim__dir_sync_failed(
    struct sim_dir *dir); /* each change since the last sync is kept or lost, for ever */

struct sim_flight *sim__flight_new(struct sim_disk *d, struct sim_file *f);
void sim__flight_free(struct sim_flight *fl);
/* Lands the first `bytes` of a write: visible at once, durable too when it says so, else pending.
 * */
void sim__land(struct sim_flight *fl, uint32_t bytes);
/* Lands a random part of a failed write. */
void sim__land_part(struct sim_flight *fl);
/* Everything completed at or before `seq` becomes durable, or, when failed, is judged once and for
 * all. */
void sim__flush(struct sim_file *f, uint64_t seq);
void sim__flush_failed(struct sim_file *f, uint64_t seq);
void sim__resize(struct sim_file *f, uint64_t size);
void sim__punch(struct sim_file *f, uint64_t offset, uint64_t bytes);

#endif
