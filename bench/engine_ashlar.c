/* SPDX-License-Identifier: Apache-2.0
 *
 * engine_ashlar.c - Ashlar behind the benchmark's interface, through include/ashlar.h only, as any application would.
 *
 * Reads, updates and inserts are autocommitted calls; modify() locks the row with ash_get_for_update().
 */
#include "base/error.h"
#include "base/mem.h"

#include <stdio.h>

#include "engine.h"

#define TABLE_NAME             "ycsb"
#define OPTIONS_MAX            1024
#define EXECUTOR_QUEUE_DEFAULT 4096 /* of the option executor_queue */

struct ashlar_db {
    ash_db *db;
    ash_table *table;
};

struct ashlar_session {
    ash_session *session;
    ash_table *table;
};

static void
ashlar_describe(const struct bench_setup *setup, char *out, size_t size)
{
    int n = snprintf(out, size, "cache=%llu,durability=%s,direct_io=%s",
                     (unsigned long long)setup->cache_bytes,
                     engine_durability_name(setup->durability), setup->page_cache ? "off" : "on");

    /* Every client may be in the queue at once, and clients submit from executors, which must not wait for room in it. */
    if (setup->executors && setup->threads > EXECUTOR_QUEUE_DEFAULT)
        n += snprintf(out + n, size - (size_t)n, ",executor_queue=%u", setup->threads);
    if (setup->options != NULL)
        snprintf(out + n, size - (size_t)n, ",%s", setup->options);
}

static ash_rc
table_open(ash_db *db, ash_table **table_out)
{
    ash_session *session;
    ash_rc rc = ash_session_open(db, &session);

    if (rc != ASH_OK)
        return rc;
    rc = ash_table_create(session, TABLE_NAME, NULL);
    if (rc == ASH_OK || rc == ASH_EXISTS)
        rc = ash_table_open(session, TABLE_NAME, table_out);
    ash_session_close(session);
    return rc;
}

static ash_rc
ashlar_open(const struct bench_setup *setup, void **db_out)
{
    char options[OPTIONS_MAX];
    struct ashlar_db *db = mem_zalloc(MEM_TOOL, sizeof(*db));
    ash_rc rc;

    if (db == NULL)
        return ASH_NO_MEMORY;
    ashlar_describe(setup, options, sizeof(options));
    rc = ash_open(setup->dir, ASH_OPEN_CREATE, options, &db->db);
    if (rc != ASH_OK)
        goto out_free;
    rc = table_open(db->db, &db->table);
    if (rc != ASH_OK)
        goto out_close;
    *db_out = db;
    return ASH_OK;

out_close:
    ash_ignore(ash_close(db->db)); /* the first failure is the one to report */
out_free:
    mem_free(MEM_TOOL, db);
    return rc;
}

static ash_rc
ashlar_close(void *handle)
{
    struct ashlar_db *db = handle;
    ash_rc rc;

    ash_table_close(db->table);
    rc = ash_close(db->db);
    mem_free(MEM_TOOL, db);
    return rc;
}

static ash_rc
ashlar_session_open(void *handle, void **session_out)
{
    struct ashlar_db *db = handle;
    struct ashlar_session *s = mem_zalloc(MEM_TOOL, sizeof(*s));
    ash_rc rc;

    if (s == NULL)
        return ASH_NO_MEMORY;
    s->table = db->table;
    rc = ash_session_open(db->db, &s->session);
    if (rc != ASH_OK) {
        mem_free(MEM_TOOL, s);
        return rc;
    }
    *session_out = s;
    return ASH_OK;
}

static void
ashlar_session_close(void *session)
{
    struct ashlar_session *s = session;

    ash_session_close(s->session);
    mem_free(MEM_TOOL, s);
}

static ash_rc
ashlar_read(void *session, struct ash_slice key, struct bench_buffer *value)
{
    struct ashlar_session *s = session;
    struct ash_slice found;
    ash_rc rc = ash_get(s->session, s->table, key, &found);

    if (rc == ASH_OK)
        bench_take(value, found.data, found.size);
    return rc;
}

static ash_rc
ashlar_insert(void *session, const struct bench_row *rows, size_t count)
{
    struct ashlar_session *s = session;
    ash_rc rc;

    if (count == 1)
        return ash_put(s->session, s->table, rows->key, rows->value);
    rc = ash_begin(s->session, NULL);
    if (rc != ASH_OK)
        return rc;
    for (size_t i = 0; i < count; i++) {
        rc = ash_put(s->session, s->table, rows[i].key, rows[i].value);
        if (rc != ASH_OK) {
            ash_ignore(ash_rollback(s->session)); /* the failed put is the one to report */
            return rc;
        }
    }
    return ash_commit(s->session);
}

static ash_rc
ashlar_update(void *session, struct ash_slice key, struct ash_slice value)
{
    struct ashlar_session *s = session;
    ash_rc rc;

    for (unsigned i = 0; i < BENCH_RETRY_MAX; i++) {
        rc = ash_put(s->session, s->table, key, value);
        if (rc != ASH_CONFLICT && rc != ASH_DEADLOCK)
            return rc;
    }
    return rc;
}

/* One attempt; leaves no transaction open. */
static ash_rc
modify_once(struct ashlar_session *s, struct ash_slice key, struct ash_slice value,
            struct bench_buffer *old)
{
    struct ash_slice found;
    ash_rc rc = ash_begin(s->session, NULL);

    if (rc != ASH_OK)
        return rc;
    rc = ash_get_for_update(s->session, s->table, key, ASH_LOCK_WAIT, &found);
    if (rc == ASH_OK) {
        bench_take(old, found.data, found.size);
        rc = ash_put(s->session, s->table, key, value);
    }
    if (rc != ASH_OK) {
        ash_ignore(
            ash_rollback(s->session)); /* rc says why; a poisoned database shows at the next call */
        return rc;
    }
    return ash_commit(s->session);
}

static ash_rc
ashlar_modify(void *session, struct ash_slice key, struct ash_slice value, struct bench_buffer *old)
{
    ash_rc rc = ASH_OK;

    for (unsigned i = 0; i < BENCH_RETRY_MAX; i++) {
        rc = modify_once(session, key, value, old);
        if (rc != ASH_CONFLICT && rc != ASH_DEADLOCK)
            break;
    }
    return rc;
}

static ash_rc
ashlar_scan(void *session, struct ash_slice start, size_t count, struct bench_buffer *value,
            size_t *rows_out)
{
    enum {
        BATCH = 32
    };
    struct ashlar_session *s = session;
    struct ash_cursor_options options = { .from = start };
    struct ash_row rows[BATCH];
    ash_cursor *cursor;
    size_t done = 0;
    ash_rc rc = ash_cursor_open(s->session, s->table, &options, &cursor);

    if (rc != ASH_OK)
        return rc;
    while (done < count) {
        size_t want = count - done < BATCH ? count - done : BATCH, got;
        rc = ash_cursor_batch(cursor, want, rows, &got);
        if (rc != ASH_OK)
            break;
        for (size_t i = 0; i < got; i++)
            bench_take(value, rows[i].value.data, rows[i].value.size);
        done += got;
    }
    ash_cursor_close(cursor);
    *rows_out = done;
    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

static ash_rc
request_run(ash_session *session, void *arg)
{
    struct bench_request *request = arg;
    struct ashlar_db *db = request->db;
    struct ashlar_session s = { .session = session, .table = db->table };

    return request->fn(&s, request->arg);
}

static void
request_done(void *arg, ash_rc rc)
{
    struct bench_request *request = arg;

    request->done(request->arg, rc);
}

static ash_rc
ashlar_submit(void *handle, struct bench_request *request)
{
    struct ashlar_db *db = handle;

    request->db = db;
    return ash_run(db->db, request_run, request, request_done);
}

extern const struct bench_engine engine_ashlar;
const struct bench_engine engine_ashlar = {
    .name = "ashlar",
    .version = ash_version,
    .describe = ashlar_describe,
    .open = ashlar_open,
    .close = ashlar_close,
    .session_open = ashlar_session_open,
    .session_close = ashlar_session_close,
    .read = ashlar_read,
    .insert = ashlar_insert,
    .update = ashlar_update,
    .modify = ashlar_modify,
    .scan = ashlar_scan,
    .submit = ashlar_submit,
};
