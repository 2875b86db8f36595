/* SPDX-License-Identifier: Apache-2.0
 *
 * ashlar.h - the public interface of Ashlar, an embeddable transactional storage engine core.
 *
 * One database is one directory.  A process opens it (ash_open), makes sessions, and runs
 * transactions on tables whose keys and values are byte strings; keys are ordered as bytes.
 *
 * Conventions that hold for every function unless its comment says otherwise:
 *   - It returns ash_rc; ASH_OK is 0.  After any other code, ash_error_last() describes the
 *     failure.
 *   - Outputs come last, are named *_out and are written only on success.
 *   - Byte strings are struct ash_slice: not terminated, may hold zero bytes.  What a function
 *     takes is copied before it returns.  What a function hands out stays valid until the next call
 *     on the same session or cursor, unless said otherwise.
 *   - "May block" means: may wait for I/O, a lock or the log.  On a plain thread the thread waits;
 *     inside a function run by ash_run() only the fiber waits.
 *   - Each function names the codes of its own.  Besides, every call may return ASH_MISUSE (a handle
 *     after fork, of another database, or in the wrong state) and ASH_NO_MEMORY; what reads may
 *     return ASH_IO and ASH_CORRUPT; what reads rows, ASH_SNAPSHOT_TOO_OLD; what changes something,
 *     ASH_READ_ONLY, ASH_NO_SPACE, ASH_IO and ASH_POISONED.
 *   - Destructors (close, end, free) accept NULL.
 *   - A session, its transaction and its cursors may move between threads, but only one thread
 *     may use them at a time.  The database handle may be used by all threads at once.
 *   - After fork() a handle belongs to the parent: a child's calls return ASH_MISUSE.
 */
#ifndef ASHLAR_H
#define ASHLAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ASH_VERSION_MAJOR 0
#define ASH_VERSION_MINOR 1
#define ASH_VERSION_PATCH 0

#if defined(__GNUC__)
    #define ASH_MUST_CHECK __attribute__((warn_unused_result))
    #define ASH_API        __attribute__((visibility("default")))
#else
    #define ASH_MUST_CHECK
    #define ASH_API
#endif

/* ---- Results ------------------------------------------------------------------------------- */

/* Result codes.  Numbers are part of the ABI: never reused, never renumbered. */
typedef enum ash_rc {
    ASH_OK = 0,
    ASH_NOT_FOUND = 1,        /* no such key, table or object; also: a cursor ran off its end */
    ASH_EXISTS = 2,           /* insert of a key, or creation of a table, that is there already */
    ASH_CONFLICT = 3,         /* another transaction changed the row after this one's snapshot */
    ASH_DEADLOCK = 4,         /* waiting would close a cycle; roll back and retry */
    ASH_LOCK_TIMEOUT = 5,     /* waited for a row longer than lock_timeout_ms */
    ASH_WOULD_BLOCK = 6,      /* the call was asked not to wait */
    ASH_CANCELLED = 7,        /* the caller cancelled the operation */
    ASH_SNAPSHOT_TOO_OLD = 8, /* the versions that this snapshot needs are gone */
    ASH_INVALID = 10,         /* an argument or option is out of its range */
    ASH_MISUSE = 11,          /* a call in the wrong state, e.g. after fork or after close */
    ASH_TOO_LARGE = 12,       /* a key, value or transaction beyond its limit */
    ASH_UNSUPPORTED = 13,     /* this build or machine cannot do it */
    ASH_NO_MEMORY = 20,       /* the memory budget or the system's memory is exhausted */
    /* the file system or a file-size limit is full: nothing acknowledged is lost, and writes go on
     * with the same handle when there is space again */
    ASH_NO_SPACE = 21,
    ASH_IO = 22, /* the device or file system failed a request */
    /* an earlier write failed: the handle is read-only, reopen the database */
    ASH_POISONED = 23,
    ASH_READ_ONLY = 24,        /* opened read-only, or the file system is */
    ASH_BUSY = 25,             /* another process has the database open */
    ASH_CORRUPT = 30,          /* bytes on disk are not what was written */
    ASH_NOT_A_DATABASE = 31,   /* the directory holds no Ashlar database */
    ASH_VERSION_MISMATCH = 32, /* written by a newer format than this library knows */
    ASH_INTERNAL = 40          /* a bug in Ashlar; please report it with the error's text */
} ash_rc;

/* What is known about the last failed call of this thread (or fiber). */
struct ash_error {
    ash_rc code;         /* ASH_OK when nothing has failed yet */
    int sys_errno;       /* the errno behind it, or 0 */
    const char *message; /* one sentence: what failed, which file, page or key, what to do */
    const char *object;  /* the file, table or option concerned, or "" */
    const char *where;   /* "file.c:123", for bug reports */
};

/* Name of a code, e.g. "ASH_CORRUPT".  Never NULL.  Does not block. */
ASH_API const char *ash_rc_name(ash_rc rc);

/* One short English phrase for a code.  Never NULL. */
ASH_API const char *ash_strerror(ash_rc rc);

/* Detail of this thread's (inside ash_run: this fiber's) last failed call; valid until its next
 * call.  Never NULL. */
ASH_API const struct ash_error *ash_error_last(void);

/* Version of the library at run time, e.g. "0.1.0". */
ASH_API const char *ash_version(void);

/* ---- Byte strings -------------------------------------------------------------------------- */

struct ash_slice {
    const void *data; /* may be NULL when size is 0 */
    size_t size;      /* bytes */
};

static inline struct ash_slice
ash_slice(const void *data, size_t size)
{
    struct ash_slice s;
    s.data = data;
    s.size = size;
    return s;
}

#define ASH_KEY_SIZE_MAX   992        /* bytes, with the default page size; keys may be empty */
#define ASH_VALUE_SIZE_MAX (1u << 20) /* bytes */
#define ASH_TABLE_NAME_MAX 255        /* bytes, UTF-8, no zero byte, not empty */

/* ---- Database ------------------------------------------------------------------------------ */

typedef struct ash_db ash_db;
typedef struct ash_session ash_session;
typedef struct ash_table ash_table;
typedef struct ash_cursor ash_cursor;

enum {
    ASH_OPEN_CREATE = 1u << 0,    /* create the database when the directory holds none */
    ASH_OPEN_EXCLUSIVE = 1u << 1, /* with CREATE: fail with ASH_EXISTS when there is one */
    /* change nothing; refused with a clear error when recovery would have to write */
    ASH_OPEN_READ_ONLY = 1u << 2
};

/* Opens the database in directory `path`, or on the raw device `path` (ash_open(3)); recovers it
 * first when it was not closed cleanly.
 * `options` is NULL or a string "name=value,name=value" (sizes take KiB, MiB, GiB; see
 * ash_option_next). May block.  One process at a time: otherwise ASH_BUSY.  The caller closes
 * *db_out with ash_close().  Also: ASH_INVALID (an option, the flags), ASH_NOT_A_DATABASE, ASH_EXISTS
 * (EXCLUSIVE), ASH_VERSION_MISMATCH, ASH_CORRUPT (also a log without its data file: nothing is
 * created over it), ASH_READ_ONLY (recovery would have to write), ASH_UNSUPPORTED
 * (io_backend=uring where it is forbidden). */
ASH_API ASH_MUST_CHECK ash_rc ash_open(const char *path, unsigned flags, const char *options,
                                       ash_db **db_out);

/* Ends every session, writes a final checkpoint and closes.  Open transactions are rolled back.
 * The handle is gone even when an error is returned (then the next open recovers).  May block. */
ASH_API ash_rc ash_close(ash_db *db);

/* Writes a checkpoint now, so that the next open has little to redo.  May block. */
ASH_API ASH_MUST_CHECK ash_rc ash_checkpoint(ash_db *db);

/* One option of the engine, as `ashlar options` prints it. */
struct ash_option_info {
    const char *name;
    const char *type;  /* "size", "integer", "bool", "enum" */
    const char *unit;  /* "bytes", "ms", ... or "" */
    const char *range; /* readable, e.g. "16MiB..16TiB" */
    const char *default_value;
    const char *help; /* one line */
    bool changeable;  /* by ash_option_set() while the database is open */
};

/* Walks the option table: `*iter` starts at 0; returns false after the last.  The strings are
 * static. */
ASH_API bool ash_option_next(unsigned *iter, struct ash_option_info *info_out);

/* Reads or changes one option of an open database.  `value` needs room for `size` bytes.
 * ASH_INVALID: there is none of that name, it is fixed while the database is open, the value is out
 * of its range, or the room is too small. */
ASH_API ASH_MUST_CHECK ash_rc ash_option_get(ash_db *db, const char *name, char *value_out,
                                             size_t size);
ASH_API ASH_MUST_CHECK ash_rc ash_option_set(ash_db *db, const char *name, const char *value);

/* Called for every message that the library wants to tell (it never prints).  level: 0 error .. 3
 * debug. NULL restores silence.  The hook may be called from any thread and must not call the
 * library. */
typedef void (*ash_log_fn)(void *arg, int level, const char *message);
ASH_API void ash_log_hook(ash_log_fn fn, void *arg);

/* ---- Sessions and transactions ------------------------------------------------------------- */

enum ash_isolation {
    ASH_SNAPSHOT = 0,      /* default: one snapshot for the transaction, first updater wins */
    ASH_READ_COMMITTED = 1 /* each statement sees what was committed when it began */
};

enum ash_durability {
    ASH_DURABILITY_SYNC = 0, /* default: commit returns when the log is on stable storage */
    /* commit returns at once, the log is written soon; see ash_commit_ticket */
    ASH_DURABILITY_ASYNC = 1,
    /* as ASYNC, and nobody waits: a crash may lose the last moments, never part of a transaction */
    ASH_DURABILITY_NONE = 2
};

struct ash_txn_options {
    enum ash_isolation isolation;
    enum ash_durability durability;
    bool read_only;           /* refuse changes with ASH_READ_ONLY */
    uint32_t lock_timeout_ms; /* 0: the database's lock_timeout_ms */
};

/* Makes a session.  Cheap; make one per thread or per connection.  Close it with
 * ash_session_close(), which rolls an open transaction back.  A session has at most one
 * transaction. */
ASH_API ASH_MUST_CHECK ash_rc ash_session_open(ash_db *db, ash_session **session_out);
ASH_API void ash_session_close(ash_session *session);

/* Durability of the session's autocommitted calls (default: the option `durability`).  ASH_INVALID. */
ASH_API ASH_MUST_CHECK ash_rc ash_session_durability(ash_session *session,
                                                     enum ash_durability durability);

/* Begins a transaction; `options` NULL means snapshot isolation and the session's durability.
 * ASH_MISUSE when one is open, ASH_INVALID for an unknown isolation or durability.  Without a transaction every data call below is a transaction of its
 * own (autocommit). */
ASH_API ASH_MUST_CHECK ash_rc ash_begin(ash_session *session,
                                        const struct ash_txn_options *options);

/* Commits.  With SYNC: returns ASH_OK only when the commit is durable (may block).  On failure the
 * transaction is rolled back, except when the wait for durability fails: after ASH_POISONED and
 * ASH_IO the outcome is known only after reopening; after ASH_NO_SPACE ash_in_transaction() is false
 * and either the commit was refused and rolled back, or (commits raced for the log's last room) it
 * is visible and becomes durable when there is space again. */
ASH_API ASH_MUST_CHECK ash_rc ash_commit(ash_session *session);

/* Commits and returns at once with a ticket; the transaction is visible to others now and durable
 * later. */
ASH_API ASH_MUST_CHECK ash_rc ash_commit_ticket(ash_session *session, uint64_t *ticket_out);
/* Waits until the ticket's commit is durable.  May block.  Tickets are ordered: waiting for one
 * covers all smaller ones.  ASH_NO_SPACE: not durable yet, ask again; ASH_IO, ASH_POISONED: only
 * reopening tells. */
ASH_API ASH_MUST_CHECK ash_rc ash_ticket_wait(ash_db *db, uint64_t ticket);
/* True when the ticket's commit is durable.  Does not block. */
ASH_API bool ash_ticket_done(ash_db *db, uint64_t ticket);
/* Commits and calls fn(arg, rc) from an engine thread once durable (ASH_OK) or failed; fn must not
 * block. */
typedef void (*ash_commit_fn)(void *arg, ash_rc rc);
ASH_API ASH_MUST_CHECK ash_rc ash_commit_callback(ash_session *session, ash_commit_fn fn,
                                                  void *arg);

/* Undoes everything since ash_begin().  May block.  Fails only when the database is poisoned or a
 * page cannot be read (then the next open undoes it); ASH_MISUSE without a transaction. */
ASH_API ash_rc ash_rollback(ash_session *session);

/* Sets a savepoint (any number, O(1)) / undoes everything after it; it stays set.  `*savepoint_out`
 * is an ordinary number.  ASH_INVALID: not a savepoint of this transaction.  After a rollback_to that
 * failed half way only ash_rollback() is left (ASH_MISUSE). */
ASH_API ASH_MUST_CHECK ash_rc ash_savepoint(ash_session *session, uint64_t *savepoint_out);
ASH_API ASH_MUST_CHECK ash_rc ash_rollback_to(ash_session *session, uint64_t savepoint);

/* True while the session has a transaction open. */
ASH_API bool ash_in_transaction(const ash_session *session);

/* ---- Tables -------------------------------------------------------------------------------- */

struct ash_table_options {
    uint32_t page_size; /* bytes, a power of two, 4096..2097152; 0: the default (4096) */
};

/* Creates or drops a table.  Transactional: visible to others at commit, undone by rollback.  Drop
 * returns the space in the background.  `options` may be NULL.  May block.  ASH_EXISTS, ASH_NOT_FOUND,
 * ASH_INVALID (name, page size); ASH_CONFLICT, ASH_DEADLOCK, ASH_LOCK_TIMEOUT: another transaction
 * creates or drops the same table. */
ASH_API ASH_MUST_CHECK ash_rc ash_table_create(ash_session *session, const char *name,
                                               const struct ash_table_options *options);
ASH_API ASH_MUST_CHECK ash_rc ash_table_drop(ash_session *session, const char *name);

/* Opens a table for use by every session of the database.  Close it before the database; a handle
 * of a dropped table returns ASH_NOT_FOUND, and so does opening one in a transaction that began
 * before the drop.  ASH_INVALID: no table can have such a name. */
ASH_API ASH_MUST_CHECK ash_rc ash_table_open(ash_session *session, const char *name,
                                             ash_table **table_out);
ASH_API void ash_table_close(ash_table *table);

/* Lists tables in name order: `fn` returns false to stop. */
typedef bool (*ash_table_list_fn)(void *arg, const char *name,
                                  const struct ash_table_options *options);
ASH_API ASH_MUST_CHECK ash_rc ash_table_list(ash_session *session, ash_table_list_fn fn, void *arg);

/* ---- Rows ---------------------------------------------------------------------------------- */

/* Reads one row.  `*value_out` stays valid until the session's next call.  ASH_NOT_FOUND when
 * absent, or when the table was dropped.  ASH_TOO_LARGE, ASH_INVALID: no key can be like this one.
 * May block. */
ASH_API ASH_MUST_CHECK ash_rc ash_get(ash_session *session, ash_table *table, struct ash_slice key,
                                      struct ash_slice *value_out);

/* Reads `count` rows with overlapping page reads; results[i] is ASH_OK, ASH_NOT_FOUND or an error,
 * values[i] stays valid until the session's next call.  Returns the first result that is neither OK
 * nor NOT_FOUND, else ASH_OK. */
ASH_API ASH_MUST_CHECK ash_rc ash_multiget(ash_session *session, ash_table *table, size_t count,
                                           const struct ash_slice *keys,
                                           struct ash_slice *values_out, ash_rc *results_out);

enum ash_lock_wait {
    ASH_LOCK_WAIT = 0,  /* wait up to the lock time-out */
    ASH_LOCK_NOWAIT = 1 /* ASH_WOULD_BLOCK instead of waiting */
};

/* Reads the newest committed version and locks the row until the transaction ends (needs a
 * transaction).  ASH_NOT_FOUND locks nothing.  ASH_CONFLICT (snapshot isolation: the row has changed
 * since), ASH_DEADLOCK, ASH_LOCK_TIMEOUT, ASH_WOULD_BLOCK. */
ASH_API ASH_MUST_CHECK ash_rc ash_get_for_update(ash_session *session, ash_table *table,
                                                 struct ash_slice key, enum ash_lock_wait wait,
                                                 struct ash_slice *value_out);

/* Writes one row: put inserts or replaces; insert fails with ASH_EXISTS; update and delete fail
 * with ASH_NOT_FOUND. Locks the row until the transaction ends.  A failed call leaves the
 * transaction usable.  May block.  ASH_CONFLICT (the row has changed since the snapshot),
 * ASH_DEADLOCK, ASH_LOCK_TIMEOUT, ASH_TOO_LARGE, ASH_INVALID (a size without bytes). */
ASH_API ASH_MUST_CHECK ash_rc ash_put(ash_session *session, ash_table *table, struct ash_slice key,
                                      struct ash_slice value);
ASH_API ASH_MUST_CHECK ash_rc ash_insert(ash_session *session, ash_table *table,
                                         struct ash_slice key, struct ash_slice value);
ASH_API ASH_MUST_CHECK ash_rc ash_update(ash_session *session, ash_table *table,
                                         struct ash_slice key, struct ash_slice value);
ASH_API ASH_MUST_CHECK ash_rc ash_delete(ash_session *session, ash_table *table,
                                         struct ash_slice key);

/* Loads rows in ascending key order into an empty table, filling pages and writing them in large
 * writes.  `next` fills key and value and returns ASH_OK, or ASH_NOT_FOUND at the end, or an error
 * that stops the load.  All or nothing: after a failure or crash the table is empty.  Not inside a
 * transaction (ASH_MISUSE).  ASH_EXISTS: the table is not empty; ASH_CONFLICT: somebody else is
 * loading it; ASH_INVALID: the keys do not ascend; ASH_TOO_LARGE; ASH_NOT_FOUND: it was dropped. */
typedef ash_rc (*ash_bulk_next_fn)(void *arg, struct ash_slice *key_out,
                                   struct ash_slice *value_out);
ASH_API ASH_MUST_CHECK ash_rc ash_bulk_load(ash_session *session, ash_table *table,
                                            ash_bulk_next_fn next, void *arg);

/* ---- Cursors ------------------------------------------------------------------------------- */

struct ash_cursor_options {
    struct ash_slice from; /* lowest key, inclusive; data NULL: from the first */
    struct ash_slice to;   /* upper bound, exclusive; data NULL: to the last */
    bool reverse;          /* walk from `to` down to `from` */
    bool keys_only;        /* do not read values */
};

struct ash_row {
    struct ash_slice key;
    struct ash_slice value;
};

/* Opens a cursor; `options` NULL means all rows, ascending; the bounds are copied.  It sees the
 * transaction's snapshot and its own later changes; outside a transaction it takes a snapshot that
 * lives until it is closed.  It stays valid while others split or change pages, and ends with its
 * transaction: ASH_MISUSE from then on.  ASH_NOT_FOUND: the table was dropped; ASH_TOO_LARGE,
 * ASH_INVALID: a bound.  With read committed a drop may come while the cursor is open: its moves then
 * return ASH_CONFLICT. */
ASH_API ASH_MUST_CHECK ash_rc ash_cursor_open(ash_session *session, ash_table *table,
                                              const struct ash_cursor_options *options,
                                              ash_cursor **cursor_out);
ASH_API void ash_cursor_close(ash_cursor *cursor);

/* Moves to the next row in the cursor's direction; ASH_NOT_FOUND after the last.  The row is valid
 * until the next call on the cursor. */
ASH_API ASH_MUST_CHECK ash_rc ash_cursor_next(ash_cursor *cursor, struct ash_row *row_out);
/* Moves against the cursor's direction. */
ASH_API ASH_MUST_CHECK ash_rc ash_cursor_prev(ash_cursor *cursor, struct ash_row *row_out);
/* Positions the cursor so that ash_cursor_next() gives the first row at or after `key` (reverse: at
 * or before). */
ASH_API ASH_MUST_CHECK ash_rc ash_cursor_seek(ash_cursor *cursor, struct ash_slice key);
/* Fills up to `capacity` rows; all stay valid until the next call on the cursor.  ASH_NOT_FOUND
 * when there was none, ASH_INVALID when `capacity` is 0. */
ASH_API ASH_MUST_CHECK ash_rc ash_cursor_batch(ash_cursor *cursor, size_t capacity,
                                               struct ash_row *rows_out, size_t *count_out);

/* ---- Running on executors ------------------------------------------------------------------ */

/* A function that runs on an executor: a thread of the engine with hundreds of fibers, one per core.
 * Where fn would wait for a page, a lock or the log, only its fiber waits and the thread runs
 * another.  It gets a session of its own; a transaction that it leaves open is rolled back.  Three
 * ways to learn its result: a callback (ash_run), a future to wait for (ash_submit), or a queue that
 * an event loop drains when a descriptor is readable (ash_submit with ASH_SUBMIT_NOTIFY).
 *
 * Functions start in about the order in which they were given.  At most `executor_queue` of them
 * wait for each executor.  When all these queues are full the call waits for room, except with
 * ASH_SUBMIT_NOWAIT and on executors themselves: there it returns ASH_WOULD_BLOCK.  ash_close()
 * waits for all that was given before it; calls after it began return ASH_MISUSE. */
typedef ash_rc (*ash_run_fn)(ash_session *session, void *arg);

/* Runs fn(session, arg), then done(arg, rc) on the same fiber; `done` may be NULL. */
typedef void (*ash_done_fn)(void *arg, ash_rc rc);
ASH_API ASH_MUST_CHECK ash_rc ash_run(ash_db *db, ash_run_fn fn, void *arg, ash_done_fn done);

/* The result of one function, now or later.  Its handle belongs to who submitted the function. */
typedef struct ash_future ash_future;

enum {
    ASH_SUBMIT_NOWAIT = 1u << 0, /* ASH_WOULD_BLOCK instead of waiting for room */
    /* hand the future out by ash_completion_next() when it is done */
    ASH_SUBMIT_NOTIFY = 1u << 1
};

/* Runs fn(session, arg); the caller closes *future_out.  With ASH_SUBMIT_NOTIFY `future_out` may be
 * NULL: then the future belongs to who takes it from ash_completion_next(), and what nobody has
 * taken ends with the database. */
ASH_API ASH_MUST_CHECK ash_rc ash_submit(ash_db *db, ash_run_fn fn, void *arg, unsigned flags,
                                         ash_future **future_out);

/* Waits until the function has ended and returns what it returned; ash_error_last() then tells what
 * it would have told there.  May block, and may be called again, by several threads, and after
 * ash_close(). */
ASH_API ASH_MUST_CHECK ash_rc ash_future_wait(ash_future *future);
/* True when the function has ended; waits up to `timeout_ms` for that (0: does not block). */
ASH_API bool ash_future_poll(ash_future *future, uint32_t timeout_ms);
/* Takes a function back that has not begun: true when it will not be called; its result is
 * ASH_CANCELLED.  False: it has begun or ended, and nothing changes.  Does not block. */
ASH_API bool ash_future_cancel(ash_future *future);
/* The `arg` that was submitted. */
ASH_API void *ash_future_arg(const ash_future *future);
/* Gives the handle back.  Does not wait: a function that has not ended goes on, unheard. */
ASH_API void ash_future_close(ash_future *future);

/* A descriptor (eventfd) for poll(), select() or epoll, level-triggered: readable exactly while
 * ash_completion_next() has something.  Do not read or close it; it ends with the database. */
ASH_API ASH_MUST_CHECK ash_rc ash_completion_fd(ash_db *db, int *fd_out);
/* Hands out the next future with ASH_SUBMIT_NOTIFY that is done, each once; NULL when there is none
 * now.  It is the same handle that ash_submit() returned, if it did: close it once.  Does not block.
 * While as many are left lying as all executors could queue, ash_submit() with ASH_SUBMIT_NOTIFY
 * returns ASH_WOULD_BLOCK. */
ASH_API ash_future *ash_completion_next(ash_db *db);

/* ---- Statistics and checking --------------------------------------------------------------- */

/* Calls fn for each metric of every layer, e.g. ("buffer.hits", 123). */
typedef void (*ash_stat_fn)(void *arg, const char *name, uint64_t value);
ASH_API ASH_MUST_CHECK ash_rc ash_stats(ash_db *db, ash_stat_fn fn, void *arg);

/* Measures the device below the directory `path` (for about three seconds, with a scratch file of 128
 * MiB) and stores what it can do there, in the file "io.model", for the I/O scheduler of the
 * database that is or will be there; it is used from the next ash_open() on.  Calls fn, unless
 * NULL, for each figure: read_iops, write_iops (4 KiB, many at once), read_bytes, write_bytes
 * (per second), read_ns, write_ns (4 KiB, one at a time).  Other I/O meanwhile spoils the figures. */
ASH_API ASH_MUST_CHECK ash_rc ash_calibrate(const char *path, ash_stat_fn fn, void *arg);

struct ash_table_stat {
    uint64_t rows_estimate;
    uint64_t leaf_pages, inner_pages, large_value_pages;
    uint32_t height; /* 1: the root is a leaf */
    uint64_t bytes;  /* of all its pages */
};
/* Walks the table's inner pages (leaves too when they hold large values).  May block for long on
 * large tables. */
ASH_API ASH_MUST_CHECK ash_rc ash_table_stats(ash_session *session, ash_table *table,
                                              struct ash_table_stat *stat_out);

/* Verifies everything: every page's checksum and identity, structure, key order, reachability, map,
 * log continuity. Calls fn for each finding; returns ASH_OK when there was none, ASH_CORRUPT
 * otherwise.  Best on a quiet database: it takes the checkpoint lock.  May block for long. */
typedef void (*ash_finding_fn)(void *arg, const char *file, uint64_t page, const char *message);
ASH_API ASH_MUST_CHECK ash_rc ash_verify(ash_db *db, ash_finding_fn fn, void *arg);

#ifdef __cplusplus
}
#endif

#endif
