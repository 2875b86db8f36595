/* SPDX-License-Identifier: Apache-2.0
 *
 * io_volume_int.h - what io_volume.c (names and files) and io_volume_table.c (the table, the
 * device) share.
 */
#ifndef ASH_STORAGE_IO_VOLUME_INT_H
#define ASH_STORAGE_IO_VOLUME_INT_H

#include "base/list.h"
#include "storage/io_volume.h"
#include "storage/volume_format.h"

#include <pthread.h>

enum volume_device_kind {
    VOLUME_ON_FILE = 1, /* an ordinary file that stands for a device */
    VOLUME_ON_BLOCK,
    VOLUME_ON_NVME
};

struct volume_device {
    enum volume_device_kind kind;
    int fd;
    char *path;
    uint64_t bytes;
    uint32_t align;
    enum io_device_class device_class;
    bool direct;
    struct io_nvme nvme; /* VOLUME_ON_NVME */
};

/* Extents in the order of the file (I4). */
struct volume_map {
    struct volume_map *replaced; /* the one before, until the volume is closed */
    uint32_t count;
    uint64_t units;
    struct volume_piece {
        uint64_t end; /* units of the file up to and with this extent */
        struct volume_extent extent;
    } piece[];
};

struct volume_file {
    struct volume_file *next;
    char name[VOLUME_NAME_MAX + 1];
    _Atomic uint64_t size;
    struct volume_map *_Atomic map;
    unsigned handles;
    bool gone; /* unlinked or renamed over: not in the table, its units wait for the last handle */
};

struct volume {
    struct volume_device dev;
    struct io *io;
    pthread_mutex_t lock;
    struct volume_file *files; /* in the table's order; gone ones too */
    uint8_t *used;             /* a bit per unit (I1) */
    uint64_t units, free_units;
    uint64_t seq;
    uint8_t uuid[16];
    void *table; /* VOLUME_TABLE_MAX bytes, aligned: the table being read or written */
};

/* ---- io_volume_table.c ---- */

ash_rc volume__device_open(const char *path, bool direct, struct volume_device *out);
void volume__device_close(struct volume_device *dev);
ash_rc
volume__device_zero(const struct volume_device *dev, uint64_t offset, uint64_t bytes, bool written);
void volume__device_discard(const struct volume_device *dev, uint64_t offset, uint64_t bytes);

/* Fills files, used, seq and uuid.  ASH_NOT_FOUND: the head is empty (all zero). */
ash_rc volume__load(struct volume *v);
/* Writes and flushes a table of the present state (I2).  A failure poisons. */
ash_rc volume__save(struct volume *v);
/* A copy of `old` (NULL: empty) with room for `more` pieces. */
struct volume_map *volume__map_copy(struct volume_map *old, uint32_t more);
void volume__map_add(struct volume_map *map, struct volume_extent extent);
void volume__mark(struct volume *v, struct volume_extent extent, bool used);
static inline bool
volume__unit_used(const struct volume *v, uint64_t unit)
{
    return (v->used[unit / 8] >> (unit % 8) & 1) != 0;
}

#endif
