/* SPDX-License-Identifier: Apache-2.0
 *
 * api_int.h - database, session, table and cursor objects behind the public handles.
 */
#ifndef ASH_API_INT_H
#define ASH_API_INT_H

#include "api/api.h"
#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/option.h"
#include "btree/btree.h"
#include "buffer/buffer.h"
#include "storage/pstore.h"
#include "table/table.h"
#include "table/table_format.h"
#include "task/task.h"
#include "txn/txn.h"
#include "wal/wal.h"
#include "wal/wal_recover.h"

#include <stdio.h>
#include <string.h>

/* Futures that are done and wait for ash_completion_next(), oldest first. */
struct api_completions {
    struct task_mutex mutex;
    struct list list;
    uint64_t limit;         /* of `count`, when another is submitted */
    _Atomic uint64_t count; /* of the list; changed under the mutex */
    int fd;                 /* -1 until somebody asks; readable while the list is not empty */
};

struct ash_db {
    struct options options;
    struct db_seams seams;
    bool read_only, own_runtime;
    bool budget_open; /* between api__budget_begin() and _end() */
    uint32_t fork_generation;
    char *path;

    struct task_runtime *rt;
    struct io *io;
    struct io_dir *dir;
    struct pstore *pstore;
    struct buf_pool *pool;
    struct wal *wal;
    struct txn_sys *txn;
    struct btree_env env;
    struct catalog *catalog;
    struct checkpointer *checkpointer;
    struct recover_participant participant;
    uint32_t epoch; /* of the log in this life */

    struct task_mutex mutex; /* sessions, idle sessions, executors, option changes */
    struct list sessions;
    struct list idle; /* sessions of finished ash_run() calls */

    /* api_run.c */
    struct task_executor **executors;
    unsigned executor_count;
    _Atomic unsigned executor_next;
    _Atomic unsigned submitting; /* calls between their look at `closing` and the queue */
    _Atomic bool closing;
    struct api_completions completions;
};

struct ash_session {
    struct list link;
    ash_db *db;
    struct txn *txn;
    bool in_transaction;
    bool charged;   /* for the thread that uses it: not a session of executors */
    bool committed; /* by the last api__end(), whatever it returned */
    enum ash_durability durability;
    struct catalog_changes changes;
    struct list cursors;     /* of the open transaction */
    struct list own_cursors; /* with snapshots of their own */
    struct list
        ended_cursors; /* whose transaction has ended and whose handles are not closed yet */
    ash_cursor *
        /* closed, with a transaction and memory for the next cursor outside of transactions */
        spare;
    struct btree_buf value; /* what the last get handed out */
    uint32_t *multi_offsets, *multi_sizes;
    size_t multi_capacity;
};

/* A function that was given to an executor (api_run.c). */
struct api_run {
    ash_db *db;
    ash_run_fn fn;
    ash_done_fn done;
    void *arg;
};

struct ash_future { /* api_future.c has the rules */
    struct api_run run;
    _Atomic uint32_t state, refs;
    uint32_t fork_generation;
    bool notify, handle;   /* as submitted: wanted in the queue; the application has a handle */
    bool queued, closed;   /* under the mutex of the completions */
    _Atomic bool detached; /* touches the database no more */
    _Atomic bool settled;  /* by its canceller */
    struct list link;      /* in the queue */
    struct task_waitq waiters;
    ash_rc rc; /* with `detail`, readable once DONE */
    struct err_detail detail;
};

struct ash_table {
    struct list link; /* none yet; kept for symmetry with sessions */
    ash_db *db;
    struct table *table;
};

struct ash_cursor {
    struct list link; /* in session->cursors when it uses the session's transaction */
    ash_session *session;
    struct txn *txn;
    bool own_txn, reverse;
    struct table *table;
    struct btree_cursor *cursor; /* NULL once its transaction has ended */
};

/* After a fork the handle belongs to the parent. */
static inline ash_rc
api_check_db(const ash_db *db)
{
    if (ASH_UNLIKELY(db->fork_generation !=
                     atomic_load_explicit(&task_fork_generation, memory_order_relaxed)))
        return ash_raise(
            ASH_MISUSE,
            "This database handle was opened before a fork(); only the parent process may use it.");
    return ASH_OK;
}

/* api_session.c */
ASH_MUST_CHECK ash_rc api__begin(ash_session *s,
                                 bool write); /* autocommit when no transaction is open */
ASH_MUST_CHECK ash_rc api__end(ash_session *s, ash_rc rc); /* ends what api__begin began */
ASH_MUST_CHECK ash_rc api__table_alive(const ash_table *table);
ASH_MUST_CHECK ash_rc api__session_take(ash_db *db, ash_session **out); /* for ash_run */
void api__session_give(ash_session *s);
/* api_cursor.c */
void api__cursors_end(ash_session *s);
void api__cursors_forget(ash_session *s);
void api__cursor_spare_free(ash_session *s);
/* api_budget.c */
enum {
    BUDGET_POOL,        /* pages */
    BUDGET_POOL_TABLES, /* page table, frame heads, images on their way to disk */
    BUDGET_LOG,
    BUDGET_MAP,
    BUDGET_TXN,
    BUDGET_TASKS,
    BUDGET_IO,
    BUDGET_OTHER,
    BUDGET_PARTS
};
void api__budget_begin(ash_db *db); /* the options are known */
void api__budget_end(ash_db *db);
ASH_MUST_CHECK ash_rc api__budget_check(const ash_db *db); /* the page store is open */
uint64_t api__budget_others(void *ctx);                    /* of ash_db; for struct buf_options */
void api__budget_stat(ash_db *db, const struct buf_stats *pool, ash_stat_fn fn, void *arg);
/* api_run.c */
void api__run_init(ash_db *db); /* before anything can fail */
ASH_MUST_CHECK ash_rc api__executors_start(ash_db *db);
void api__executors_stop(ash_db *db); /* waits for all that was submitted */
void api__run_end(ash_db *db);
bool api__on_executor(const ash_db *db); /* the caller runs on one of this database */
void api__executors_stat(ash_db *db, ash_stat_fn fn, void *arg);
/* api_future.c */
ASH_MUST_CHECK bool api__future_claim(struct ash_future *f); /* false: it was cancelled */
void api__future_finish(struct ash_future *f, ash_rc rc);    /* of who claimed it */
void api__future_unref(struct ash_future *f);
void api__completions_init(struct api_completions *c);
void api__completions_end(struct api_completions *c); /* everything submitted has ended */

#endif
