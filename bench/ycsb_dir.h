/* SPDX-License-Identifier: Apache-2.0
 *
 * ycsb_dir.h - the directories of the benchmark's databases: DIR/<engine>-<round>/, with the database in db/ and a note in
 * ashlar-bench.txt that says what was loaded.  A directory without the note is somebody else's and is never touched.
 */
#ifndef BENCH_YCSB_DIR_H
#define BENCH_YCSB_DIR_H

#include "ycsb.h"

#define YCSB_PATH_MAX 4096

struct ycsb_dir {
    char root[YCSB_PATH_MAX];
    char db[YCSB_PATH_MAX];
    uint64_t rows; /* loaded; 0: the database is new and empty */
};

/* Finds or makes the directory.  An existing database is kept when `reuse` is set and it was completely loaded with the same
 * key and value sizes and at least config->records rows; otherwise it is deleted. */
ASH_MUST_CHECK ash_rc ycsb_dir_open(const struct ycsb_config *config, const char *engine,
                                    unsigned round, bool reuse, struct ycsb_dir *dir_out);
/* Notes that `rows` rows are there; 0 while that is not sure. */
ASH_MUST_CHECK ash_rc ycsb_dir_note(const struct ycsb_config *config, const struct ycsb_dir *dir,
                                    uint64_t rows);
/* Deletes the directory. */
ASH_MUST_CHECK ash_rc ycsb_dir_remove(const struct ycsb_dir *dir);

#endif
