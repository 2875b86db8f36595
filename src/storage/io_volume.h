/* SPDX-License-Identifier: Apache-2.0
 *
 * io_volume.h - named files on a raw device: a block device, an NVMe namespace by passthrough, or a
 * file that stands for one.  Only for src/storage/io*.c.
 *
 * The device takes the place of a directory: io_dir_open() on its path.  Everything above sees
 * ordinary files; their bytes lie in units of 1 MiB, their names and extents in a table at the head
 * of the device (volume_format.h).
 *
 * Invariants:
 *   I1  A unit belongs to unit 0, to one file, or is free; `used` says so.
 *   I2  Every change of names, sizes or extents is on the device, flushed, before the call
 *       returns; so io_dir_sync() has nothing to do.
 *   I3  Units that a change frees become free after the table without them is durable and the last
 *       handle of their file is closed: what an old table names is never overwritten.
 *   I4  A file's map is replaced, never changed, while it is open; replaced maps live until the
 *       volume is closed, so requests need no lock.
 *   I5  New units of a file are zero before the table that names them is written: nobody reads
 *       what another database left there.
 * Locks: volume.lock (mutex) covers everything but sizes and maps that requests read; device I/O
 * happens under it.  Nothing else is taken under it.
 */
#ifndef ASH_STORAGE_IO_VOLUME_H
#define ASH_STORAGE_IO_VOLUME_H

#include "storage/io_int.h"
#include "storage/io_nvme.h"

struct volume;
struct volume_file;

/* Is `path` something that io__volume_fs opens, rather than a directory? */
bool io__volume_path(const char *path);
extern const struct io_fs io__volume_fs;

/* Where byte `offset` of the file lies on the device, and how many bytes follow it there without a
 * gap, at most `bytes`.  The range must lie in the file. */
uint64_t io__volume_at(const struct io_file *f, uint64_t offset, uint32_t *bytes);
uint64_t io__volume_size(const struct io_file *f);

/* For fuzzing and tests: is this a table that a volume of `units` could have? */
ash_rc io__volume_check(const void *table, uint32_t bytes, uint32_t slot, uint64_t units,
                        const char *path);

#endif
