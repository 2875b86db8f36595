/* SPDX-License-Identifier: Apache-2.0
 *
 * engine_wiredtiger.c - WiredTiger behind the benchmark's interface: one row-store table, write-ahead logging, snapshot
 * transactions, set up as its "Performance Tuning" chapter advises.  bench/README.md gives each setting with its reason.
 */
#include "engine.h"

#ifdef HAVE_WIREDTIGER

    #include "base/error.h"
    #include "base/mem.h"

    #include <stdio.h>
    #include <unistd.h>
    #include <wiredtiger.h>

    #define TABLE_URI            "table:ycsb"
    #define SESSIONS_SPARE       64 /* WiredTiger's own threads count too */
    #define EVICTION_THREADS_MAX 8
    #define LEAF_PAGE_CACHED     "32KB" /* WiredTiger's default */
    #define LEAF_PAGE_LARGE \
        "16KB" /* data beyond the cache: less read and write amplification; 8KB halves the speed of scans */
    #define LARGE_VALUE 2048u /* bytes; from here on 16 KiB leaves would hold too few rows */

struct tiger_db {
    WT_CONNECTION *connection;
};

struct tiger_session {
    WT_SESSION *session;
    WT_CURSOR
    *cursor; /* kept open: the manual's advice; reset after each use, so it pins nothing */
};

static const char *
tiger_version(void)
{
    int major, minor, patch;
    static char text[32];

    wiredtiger_version(&major, &minor, &patch);
    snprintf(text, sizeof(text), "%d.%d.%d", major, minor, patch);
    return text;
}

static const char *
leaf_page(const struct bench_setup *setup)
{
    return setup->data_bytes > setup->cache_bytes && setup->value_bytes < LARGE_VALUE
               ? LEAF_PAGE_LARGE
               : LEAF_PAGE_CACHED;
}

static int
eviction_threads_min(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (cores > EVICTION_THREADS_MAX)
        return EVICTION_THREADS_MAX;
    return cores > 1 ? (int)cores : 1;
}

static void
connection_config(const struct bench_setup *setup, char *out, size_t size)
{
    bool sync = setup->durability == ASH_DURABILITY_SYNC;
    bool log = setup->durability != ASH_DURABILITY_NONE;

    snprintf(
        out, size,
        "create,cache_size=%llu,session_max=%u,eviction=(threads_min=%d,threads_max=%d),checkpoint=(wait=60%s),"
        "log=(enabled=%s),transaction_sync=(enabled=%s,method=fsync)%s",
        (unsigned long long)setup->cache_bytes, setup->threads + SESSIONS_SPARE,
        eviction_threads_min(), EVICTION_THREADS_MAX, log ? ",log_size=2GB" : "",
        log ? "true" : "false", sync ? "true" : "false",
        setup->page_cache ? "" : ",direct_io=[data]");
}

static void
table_config(const struct bench_setup *setup, char *out, size_t size)
{
    snprintf(out, size, "key_format=u,value_format=u,leaf_page_max=%s", leaf_page(setup));
}

static void
tiger_describe(const struct bench_setup *setup, char *out, size_t size)
{
    char connection[512], table[128];

    connection_config(setup, connection, sizeof(connection));
    table_config(setup, table, sizeof(table));
    snprintf(out, size, "%s; table %s; snapshot isolation, no compression", connection, table);
}

static ash_rc
tiger_raise(const char *what, int error)
{
    if (error == WT_NOTFOUND)
        return ASH_NOT_FOUND;
    if (error == WT_ROLLBACK)
        return ash_raise(ASH_CONFLICT, "wiredtiger: %s met another transaction", what);
    return ash_raise(ASH_IO, "wiredtiger: %s failed: %s", what, wiredtiger_strerror(error));
}

static ash_rc
table_create(WT_CONNECTION *connection, const struct bench_setup *setup)
{
    WT_SESSION *session;
    char config[128];
    int error = connection->open_session(connection, NULL, NULL, &session);

    if (error != 0)
        return tiger_raise("open_session", error);
    table_config(setup, config, sizeof(config));
    error = session->create(session, TABLE_URI, config); /* nothing happens when it is there */
    if (error != 0) {
        session->close(session, NULL);
        return tiger_raise("create", error);
    }
    error = session->close(session, NULL);
    return error == 0 ? ASH_OK : tiger_raise("session close", error);
}

static ash_rc
tiger_open(const struct bench_setup *setup, void **db_out)
{
    char config[512];
    struct tiger_db *db = mem_zalloc(MEM_TOOL, sizeof(*db));
    int error;
    ash_rc rc;

    if (db == NULL)
        return ASH_NO_MEMORY;
    connection_config(setup, config, sizeof(config));
    error = wiredtiger_open(setup->dir, NULL, config, &db->connection);
    if (error != 0) {
        rc = tiger_raise("open", error);
        goto out_free;
    }
    rc = table_create(db->connection, setup);
    if (rc != ASH_OK)
        goto out_close;
    *db_out = db;
    return ASH_OK;

out_close:
    db->connection->close(db->connection, NULL);
out_free:
    mem_free(MEM_TOOL, db);
    return rc;
}

static ash_rc
tiger_close(void *handle)
{
    struct tiger_db *db = handle;
    int error = db->connection->close(db->connection, NULL);

    mem_free(MEM_TOOL, db);
    return error == 0 ? ASH_OK : tiger_raise("close", error);
}

static ash_rc
tiger_session_open(void *handle, void **session_out)
{
    struct tiger_db *db = handle;
    struct tiger_session *s = mem_zalloc(MEM_TOOL, sizeof(*s));
    const char *what = "open_session";
    int error;

    if (s == NULL)
        return ASH_NO_MEMORY;
    error = db->connection->open_session(db->connection, NULL, "isolation=snapshot", &s->session);
    if (error != 0)
        goto out_free;
    what = "open_cursor";
    error = s->session->open_cursor(s->session, TABLE_URI, NULL, NULL, &s->cursor);
    if (error != 0)
        goto out_close;
    *session_out = s;
    return ASH_OK;

out_close:
    s->session->close(s->session, NULL);
out_free:
    mem_free(MEM_TOOL, s);
    return tiger_raise(what, error);
}

static void
tiger_session_close(void *session)
{
    struct tiger_session *s = session;

    s->session->close(s->session, NULL); /* closes the cursor too */
    mem_free(MEM_TOOL, s);
}

static void
set_key(WT_CURSOR *cursor, struct ash_slice key)
{
    WT_ITEM item = { .data = key.data, .size = key.size };

    cursor->set_key(cursor, &item);
}

static void
set_value(WT_CURSOR *cursor, struct ash_slice value)
{
    WT_ITEM item = { .data = value.data, .size = value.size };

    cursor->set_value(cursor, &item);
}

/* Finds the row and copies it; the cursor stays on it. */
static int
find(WT_CURSOR *cursor, struct ash_slice key, struct bench_buffer *value)
{
    WT_ITEM item;
    int error;

    set_key(cursor, key);
    error = cursor->search(cursor);
    if (error == 0)
        error = cursor->get_value(cursor, &item);
    if (error == 0)
        bench_take(value, item.data, item.size);
    return error;
}

static ash_rc
tiger_read(void *session, struct ash_slice key, struct bench_buffer *value)
{
    struct tiger_session *s = session;
    int error = find(s->cursor, key, value);
    int reset = s->cursor->reset(s->cursor);

    if (error == 0)
        error = reset;
    return error == 0 ? ASH_OK : tiger_raise("search", error);
}

static int
put(WT_CURSOR *cursor, struct ash_slice key, struct ash_slice value)
{
    set_key(cursor, key);
    set_value(cursor, value);
    return cursor->insert(cursor); /* inserts or replaces: cursors overwrite by default */
}

/* Autocommitted. */
static ash_rc
tiger_update(void *session, struct ash_slice key, struct ash_slice value)
{
    struct tiger_session *s = session;
    int error = WT_ROLLBACK;

    for (unsigned i = 0; i < BENCH_RETRY_MAX && error == WT_ROLLBACK; i++)
        error = put(s->cursor, key, value);
    return error == 0 ? ASH_OK : tiger_raise("insert", error);
}

/* One attempt; leaves no transaction open. */
static int
insert_once(struct tiger_session *s, const struct bench_row *rows, size_t count)
{
    int error = s->session->begin_transaction(s->session, NULL);

    if (error != 0)
        return error;
    for (size_t i = 0; i < count; i++) {
        error = put(s->cursor, rows[i].key, rows[i].value);
        if (error != 0) {
            s->session->rollback_transaction(s->session, NULL);
            return error;
        }
    }
    return s->session->commit_transaction(s->session, NULL);
}

/* WiredTiger also rolls back whoever holds too much of a full cache. */
static ash_rc
tiger_insert(void *session, const struct bench_row *rows, size_t count)
{
    int error = 0;

    if (count == 1)
        return tiger_update(session, rows->key, rows->value);
    for (unsigned i = 0; i < BENCH_RETRY_MAX; i++) {
        error = insert_once(session, rows, count);
        if (error != WT_ROLLBACK)
            break;
    }
    return error == 0 ? ASH_OK : tiger_raise("insert", error);
}

/* One attempt; leaves no transaction open.  First updater wins: the update reports WT_ROLLBACK when the row changed. */
static int
modify_once(struct tiger_session *s, struct ash_slice key, struct ash_slice value,
            struct bench_buffer *old)
{
    int error = s->session->begin_transaction(s->session, NULL);

    if (error != 0)
        return error;
    error = find(s->cursor, key, old);
    if (error == 0) {
        set_value(s->cursor, value);
        error = s->cursor->update(s->cursor);
    }
    if (error != 0) {
        s->session->rollback_transaction(s->session, NULL);
        return error;
    }
    return s->session->commit_transaction(s->session, NULL);
}

static ash_rc
tiger_modify(void *session, struct ash_slice key, struct ash_slice value, struct bench_buffer *old)
{
    struct tiger_session *s = session;
    int error = WT_ROLLBACK;

    for (unsigned i = 0; i < BENCH_RETRY_MAX && error == WT_ROLLBACK; i++)
        error = modify_once(s, key, value, old);
    return error == 0 ? ASH_OK : tiger_raise("modify", error);
}

static ash_rc
tiger_scan(void *session, struct ash_slice start, size_t count, struct bench_buffer *value,
           size_t *rows_out)
{
    struct tiger_session *s = session;
    WT_CURSOR *cursor = s->cursor;
    size_t done = 0;
    int exact, error, reset;

    set_key(cursor, start);
    error = cursor->search_near(cursor, &exact);
    if (error == 0 && exact < 0)
        error = cursor->next(cursor);
    while (error == 0) {
        WT_ITEM item;

        error = cursor->get_value(cursor, &item);
        if (error != 0)
            break;
        bench_take(value, item.data, item.size);
        if (++done == count)
            break;
        error = cursor->next(cursor);
    }
    reset = cursor->reset(cursor);
    if (error == WT_NOTFOUND) /* the table's end */
        error = 0;
    if (error == 0)
        error = reset;
    *rows_out = done;
    return error == 0 ? ASH_OK : tiger_raise("scan", error);
}

extern const struct bench_engine engine_wiredtiger;
const struct bench_engine engine_wiredtiger = {
    .name = "wiredtiger",
    .version = tiger_version,
    .describe = tiger_describe,
    .open = tiger_open,
    .close = tiger_close,
    .session_open = tiger_session_open,
    .session_close = tiger_session_close,
    .read = tiger_read,
    .insert = tiger_insert,
    .update = tiger_update,
    .modify = tiger_modify,
    .scan = tiger_scan,
};

#else
typedef int engine_wiredtiger_is_not_in_this_build; /* ISO C wants something in every file */
#endif
