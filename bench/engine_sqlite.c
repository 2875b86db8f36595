/* SPDX-License-Identifier: Apache-2.0
 *
 * engine_sqlite.c - SQLite behind the benchmark's interface: WAL mode, a WITHOUT ROWID table, one connection per thread and
 * prepared statements.
 *
 * SQLite has one writer at a time, and a second one polls with growing sleeps.  An application that knows it has several
 * writing threads queues them instead; write_lock does that here, which is several times faster than the busy handler.
 */
#include "engine.h"

#ifdef HAVE_SQLITE3

    #include "base/bits.h"
    #include "base/error.h"
    #include "base/mem.h"

    #include <pthread.h>
    #include <sqlite3.h>
    #include <stdio.h>

    #define PATH_MAX_BYTES 4096
    #define PAGE_CACHE_MIN (2ull << 20) /* SQLite's default */
    #define BUSY_MS        60000  /* for the checkpoint at close; writers queue on write_lock */
    #define PAGE_SIZE_MIN  4096u  /* SQLite's default */
    #define PAGE_SIZE_MAX  65536u /* SQLite's limit */
    #define ROW_OVERHEAD   48u    /* bytes; key and record header, generously */
    #define CHECKPOINT_PAGES \
        4000 /* "Write-Ahead Logging", 2.3: fewer, larger checkpoints make writes cheaper */

struct lite_db {
    char path[PATH_MAX_BYTES];
    uint64_t cache_per_connection;
    unsigned page_size;
    enum ash_durability durability;
    pthread_mutex_t write_lock;
};

enum statement {
    ST_READ,
    ST_PUT,
    ST_SCAN,
    ST_BEGIN,
    ST_COMMIT,
    ST_ROLLBACK,
    ST_COUNT
};

static const char *const statement_sql[ST_COUNT] = {
    [ST_READ] = "SELECT v FROM ycsb WHERE k=?1",
    [ST_PUT] = "INSERT OR REPLACE INTO ycsb(k,v) VALUES(?1,?2)",
    [ST_SCAN] = "SELECT k,v FROM ycsb WHERE k>=?1 ORDER BY k LIMIT ?2",
    [ST_BEGIN] = "BEGIN IMMEDIATE",
    [ST_COMMIT] = "COMMIT",
    [ST_ROLLBACK] = "ROLLBACK",
};

struct lite_session {
    struct lite_db *db;
    sqlite3 *connection;
    sqlite3_stmt *statement[ST_COUNT];
};

static uint64_t
cache_per_connection(const struct bench_setup *setup)
{
    return max_u64(setup->cache_bytes / (setup->threads != 0 ? setup->threads : 1), PAGE_CACHE_MIN);
}

static const char *
synchronous(enum ash_durability durability)
{
    if (durability == ASH_DURABILITY_SYNC)
        return "FULL";
    return durability == ASH_DURABILITY_ASYNC ? "NORMAL" : "OFF";
}

/* The smallest page of which a row takes less than a quarter: a larger row of a WITHOUT ROWID table goes to an overflow page
 * of its own (file format, 1.6), which was measured to cost four times the space and half the speed. */
static unsigned
page_size(const struct bench_setup *setup)
{
    unsigned size = PAGE_SIZE_MIN;

    while (size < PAGE_SIZE_MAX && (size - 12) * 64 / 255 - 23 < setup->value_bytes + ROW_OVERHEAD)
        size *= 2;
    return size;
}

static void
lite_describe(const struct bench_setup *setup, char *out, size_t size)
{
    snprintf(out, size,
             "WAL mode, wal_autocheckpoint=%d, synchronous=%s, WITHOUT ROWID, page_size=%u, "
             "cache_size=%llu KiB in each of %u connections, "
             "writers queue on a mutex; the page cache is not limited by --cache",
             CHECKPOINT_PAGES, synchronous(setup->durability), page_size(setup),
             (unsigned long long)(cache_per_connection(setup) >> 10), setup->threads);
}

static ash_rc
lite_raise(const char *what, sqlite3 *connection)
{
    return ash_raise(ASH_IO, "sqlite: %s failed: %s", what,
                     connection != NULL ? sqlite3_errmsg(connection) : "out of memory");
}

static ash_rc
connect_db(struct lite_db *db, sqlite3 **connection_out)
{
    sqlite3 *c = NULL;
    char pragmas[512];
    ash_rc rc;

    snprintf(
        pragmas, sizeof(pragmas),
        "PRAGMA page_size=%u; PRAGMA journal_mode=WAL; PRAGMA synchronous=%s; PRAGMA cache_size=-%llu; "
        "PRAGMA wal_autocheckpoint=%d; PRAGMA temp_store=MEMORY;",
        db->page_size, synchronous(db->durability),
        (unsigned long long)(db->cache_per_connection >> 10), CHECKPOINT_PAGES);
    if (sqlite3_open_v2(db->path, &c,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK ||
        sqlite3_busy_timeout(c, BUSY_MS) != SQLITE_OK ||
        sqlite3_exec(c, pragmas, NULL, NULL, NULL) != SQLITE_OK) {
        rc = lite_raise("open", c);
        sqlite3_close(c);
        return rc;
    }
    *connection_out = c;
    return ASH_OK;
}

static ash_rc
lite_open(const struct bench_setup *setup, void **db_out)
{
    struct lite_db *db = mem_zalloc(MEM_TOOL, sizeof(*db));
    sqlite3 *connection = NULL;
    ash_rc rc;

    if (db == NULL)
        return ASH_NO_MEMORY;
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS,
                   0); /* "recommended compile-time options": no global statistics lock */
    snprintf(db->path, sizeof(db->path), "%s/ycsb.sqlite", setup->dir);
    db->cache_per_connection = cache_per_connection(setup);
    db->page_size = page_size(setup);
    db->durability = setup->durability;
    rc = connect_db(db, &connection);
    if (rc != ASH_OK)
        goto out_free;
    if (sqlite3_exec(
            connection,
            "CREATE TABLE IF NOT EXISTS ycsb(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID",
            NULL, NULL, NULL) != SQLITE_OK)
        rc = lite_raise("create table", connection);
    sqlite3_close(connection);
    if (rc != ASH_OK)
        goto out_free;
    pthread_mutex_init(&db->write_lock, NULL);
    *db_out = db;
    return ASH_OK;

out_free:
    mem_free(MEM_TOOL, db);
    return rc;
}

static ash_rc
lite_close(void *handle)
{
    struct lite_db *db = handle;

    pthread_mutex_destroy(&db->write_lock);
    mem_free(MEM_TOOL, db);
    return ASH_OK;
}

static void
lite_session_close(void *session)
{
    struct lite_session *s = session;

    for (int i = 0; i < ST_COUNT; i++)
        sqlite3_finalize(s->statement[i]);
    sqlite3_close(s->connection);
    mem_free(MEM_TOOL, s);
}

static ash_rc
lite_session_open(void *handle, void **session_out)
{
    struct lite_session *s = mem_zalloc(MEM_TOOL, sizeof(*s));
    ash_rc rc;

    if (s == NULL)
        return ASH_NO_MEMORY;
    s->db = handle;
    rc = connect_db(s->db, &s->connection);
    if (rc != ASH_OK) {
        mem_free(MEM_TOOL, s);
        return rc;
    }
    for (int i = 0; i < ST_COUNT; i++) {
        if (sqlite3_prepare_v3(s->connection, statement_sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &s->statement[i], NULL) == SQLITE_OK)
            continue;
        rc = lite_raise("prepare", s->connection);
        lite_session_close(s);
        return rc;
    }
    *session_out = s;
    return ASH_OK;
}

/* Runs a statement that returns no rows; true on success. */
static bool
run(struct lite_session *s, enum statement which)
{
    int stepped = sqlite3_step(s->statement[which]);
    int reset = sqlite3_reset(s->statement[which]);

    return stepped == SQLITE_DONE && reset == SQLITE_OK;
}

static bool
bind(sqlite3_stmt *statement, int index, struct ash_slice s)
{
    return sqlite3_bind_blob64(statement, index, s.data, s.size, SQLITE_STATIC) == SQLITE_OK;
}

static bool
put(struct lite_session *s, struct ash_slice key, struct ash_slice value)
{
    return bind(s->statement[ST_PUT], 1, key) && bind(s->statement[ST_PUT], 2, value) &&
           run(s, ST_PUT);
}

static ash_rc
lite_read(void *session, struct ash_slice key, struct bench_buffer *value)
{
    struct lite_session *s = session;
    sqlite3_stmt *st = s->statement[ST_READ];
    int stepped;

    if (!bind(st, 1, key))
        return lite_raise("bind", s->connection);
    stepped = sqlite3_step(st);
    if (stepped == SQLITE_ROW) {
        const void *data = sqlite3_column_blob(st, 0);

        bench_take(value, data, (size_t)sqlite3_column_bytes(st, 0));
    }
    sqlite3_reset(st); /* ends the read transaction; a failure was reported by the step */
    if (stepped == SQLITE_ROW)
        return ASH_OK;
    return stepped == SQLITE_DONE ? ASH_NOT_FOUND : lite_raise("select", s->connection);
}

/* Autocommit: one statement, one transaction. */
static ash_rc
lite_update(void *session, struct ash_slice key, struct ash_slice value)
{
    struct lite_session *s = session;
    ash_rc rc = ASH_OK;

    pthread_mutex_lock(&s->db->write_lock);
    if (!put(s, key, value))
        rc = lite_raise("insert or replace", s->connection);
    pthread_mutex_unlock(&s->db->write_lock);
    return rc;
}

/* Ends a failed transaction after its error was raised. */
static ash_rc
fail(struct lite_session *s, const char *what)
{
    ash_rc rc = lite_raise(what, s->connection);

    run(s, ST_ROLLBACK);
    return rc;
}

static ash_rc
insert_locked(struct lite_session *s, const struct bench_row *rows, size_t count)
{
    if (!run(s, ST_BEGIN))
        return lite_raise("begin", s->connection);
    for (size_t i = 0; i < count; i++)
        if (!put(s, rows[i].key, rows[i].value))
            return fail(s, "insert");
    return run(s, ST_COMMIT) ? ASH_OK : fail(s, "commit");
}

static ash_rc
lite_insert(void *session, const struct bench_row *rows, size_t count)
{
    struct lite_session *s = session;
    ash_rc rc;

    if (count == 1)
        return lite_update(session, rows->key, rows->value);
    pthread_mutex_lock(&s->db->write_lock);
    rc = insert_locked(s, rows, count);
    pthread_mutex_unlock(&s->db->write_lock);
    return rc;
}

static ash_rc
modify_locked(struct lite_session *s, struct ash_slice key, struct ash_slice value,
              struct bench_buffer *old)
{
    ash_rc rc;

    if (!run(s, ST_BEGIN))
        return lite_raise("begin", s->connection);
    rc = lite_read(s, key, old);
    if (rc != ASH_OK) {
        run(s, ST_ROLLBACK);
        return rc;
    }
    if (!put(s, key, value))
        return fail(s, "update");
    return run(s, ST_COMMIT) ? ASH_OK : fail(s, "commit");
}

static ash_rc
lite_modify(void *session, struct ash_slice key, struct ash_slice value, struct bench_buffer *old)
{
    struct lite_session *s = session;
    ash_rc rc;

    pthread_mutex_lock(&s->db->write_lock);
    rc = modify_locked(s, key, value, old);
    pthread_mutex_unlock(&s->db->write_lock);
    return rc;
}

static ash_rc
lite_scan(void *session, struct ash_slice start, size_t count, struct bench_buffer *value,
          size_t *rows_out)
{
    struct lite_session *s = session;
    sqlite3_stmt *st = s->statement[ST_SCAN];
    size_t done = 0;
    int stepped;

    if (!bind(st, 1, start) || sqlite3_bind_int64(st, 2, (sqlite3_int64)count) != SQLITE_OK)
        return lite_raise("bind", s->connection);
    while ((stepped = sqlite3_step(st)) == SQLITE_ROW) {
        const void *data = sqlite3_column_blob(st, 1);

        bench_take(value, data, (size_t)sqlite3_column_bytes(st, 1));
        done++;
    }
    sqlite3_reset(st); /* a failure was reported by the step */
    *rows_out = done;
    return stepped == SQLITE_DONE ? ASH_OK : lite_raise("scan", s->connection);
}

extern const struct bench_engine engine_sqlite;
const struct bench_engine engine_sqlite = {
    .name = "sqlite",
    .always_page_cache = true,
    .version = sqlite3_libversion,
    .describe = lite_describe,
    .open = lite_open,
    .close = lite_close,
    .session_open = lite_session_open,
    .session_close = lite_session_close,
    .read = lite_read,
    .insert = lite_insert,
    .update = lite_update,
    .modify = lite_modify,
    .scan = lite_scan,
};

#else
typedef int engine_sqlite_is_not_in_this_build; /* ISO C wants something in every file */
#endif
