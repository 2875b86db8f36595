/* SPDX-License-Identifier: Apache-2.0
 *
 * api.h - opening a database on something else than this machine: for the simulator and the tools.
 */
#ifndef ASH_API_H
#define ASH_API_H

#include <ashlar.h>

#include "storage/io.h"

/* What ash_open() makes by itself, given from outside. */
struct db_seams {
    struct task_runtime *rt;      /* NULL: threads of its own */
    enum io_backend_kind backend; /* AUTO: by the option io_backend */
    struct sim_disk *disk;        /* with IO_BACKEND_SIM */
    uint64_t page_id_max;         /* 0: default; smaller makes a simulated database cheaper */
    uint64_t grow_bytes;          /* 0: default */
    bool quiet; /* no executors, no checkpointer task: tests call ash_checkpoint() themselves */
};
ASH_MUST_CHECK ash_rc db_open(const struct db_seams *seams, const char *path, unsigned flags,
                              const char *options, ash_db **db_out);

/* Closes as a crash would leave it: no checkpoint, nothing flushed (host threads only). */
void db_abandon(ash_db *db);

/* The layers of an open database, for tests and `ashlar inspect`. */
struct db_layers {
    struct io *io;
    struct io_dir *dir;
    struct pstore *pstore;
    struct buf_pool *pool;
    struct wal *wal;
    struct txn_sys *txn;
    struct catalog *catalog;
    struct checkpointer *checkpointer;
};
void db_layers(ash_db *db, struct db_layers *out);

#endif
