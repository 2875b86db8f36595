/* SPDX-License-Identifier: Apache-2.0
 *
 * engine_lmdb.c - LMDB behind the benchmark's interface.
 *
 * LMDB has no cache of its own: its memory is the kernel's page cache, which --cache does not limit (see bench/README.md
 * for a memory limit from outside).  Reads reuse one transaction handle per session by reset and renew, as lmdb.h advises.
 */
#include "engine.h"

#ifdef HAVE_LMDB

    #include "base/bits.h"
    #include "base/error.h"
    #include "base/mem.h"

    #include <lmdb.h>
    #include <stdio.h>
    #include <unistd.h>

    #define MAP_SIZE_MIN (64ull << 30) /* address space only; the file grows as needed */
    #define MAP_SIZE_FACTOR \
        8 /* times the data: room for half-full pages and copies kept for readers */
    #define READERS_SPARE 16

struct lmdb_db {
    MDB_env *env;
    MDB_dbi dbi;
};

struct lmdb_session {
    struct lmdb_db *db;
    MDB_txn *reader; /* reset between calls */
};

static const char *
lmdb_version(void)
{
    static char text[32];
    int major, minor, patch;

    mdb_version(&major, &minor, &patch);
    snprintf(text, sizeof(text), "%d.%d.%d", major, minor, patch);
    return text;
}

static unsigned
env_flags(const struct bench_setup *setup)
{
    unsigned flags = MDB_NOTLS;
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);

    if (setup->durability == ASH_DURABILITY_ASYNC)
        flags |= MDB_NOMETASYNC;
    else if (setup->durability == ASH_DURABILITY_NONE)
        flags |= MDB_NOSYNC;
    if (setup->data_bytes > memory)
        flags |= MDB_NORDAHEAD;
    return flags;
}

static void
lmdb_describe(const struct bench_setup *setup, char *out, size_t size)
{
    unsigned flags = env_flags(setup);

    snprintf(out, size, "MDB_NOTLS%s%s%s; memory is the page cache, not limited by --cache",
             flags & MDB_NOMETASYNC ? "|MDB_NOMETASYNC" : "",
             flags & MDB_NOSYNC ? "|MDB_NOSYNC" : "",
             flags & MDB_NORDAHEAD ? "|MDB_NORDAHEAD" : "");
}

static ash_rc
lmdb_raise(const char *what, int error)
{
    if (error == MDB_NOTFOUND)
        return ASH_NOT_FOUND;
    return ash_raise(ASH_IO, "lmdb: %s failed: %s", what, mdb_strerror(error));
}

static int
open_env(struct lmdb_db *db, const struct bench_setup *setup)
{
    MDB_txn *txn;
    uint64_t map = max_u64(MAP_SIZE_MIN, setup->data_bytes * MAP_SIZE_FACTOR);
    int error = mdb_env_set_mapsize(db->env, map);

    if (error == 0)
        error = mdb_env_set_maxreaders(db->env, setup->threads + READERS_SPARE);
    if (error == 0)
        error = mdb_env_open(db->env, setup->dir, env_flags(setup), 0600);
    if (error == 0)
        error = mdb_txn_begin(db->env, NULL, 0, &txn);
    if (error != 0)
        return error;
    error = mdb_dbi_open(txn, NULL, MDB_CREATE, &db->dbi);
    if (error != 0) {
        mdb_txn_abort(txn);
        return error;
    }
    return mdb_txn_commit(txn);
}

static ash_rc
lmdb_open(const struct bench_setup *setup, void **db_out)
{
    struct lmdb_db *db = mem_zalloc(MEM_TOOL, sizeof(*db));
    int error;

    if (db == NULL)
        return ASH_NO_MEMORY;
    error = mdb_env_create(&db->env);
    if (error == 0) {
        error = open_env(db, setup);
        if (error != 0)
            mdb_env_close(db->env);
    }
    if (error != 0) {
        mem_free(MEM_TOOL, db);
        return lmdb_raise("open", error);
    }
    *db_out = db;
    return ASH_OK;
}

static ash_rc
lmdb_close(void *handle)
{
    struct lmdb_db *db = handle;

    mdb_env_close(db->env);
    mem_free(MEM_TOOL, db);
    return ASH_OK;
}

static ash_rc
lmdb_session_open(void *handle, void **session_out)
{
    struct lmdb_session *s = mem_zalloc(MEM_TOOL, sizeof(*s));
    int error;

    if (s == NULL)
        return ASH_NO_MEMORY;
    s->db = handle;
    error = mdb_txn_begin(s->db->env, NULL, MDB_RDONLY, &s->reader);
    if (error != 0) {
        mem_free(MEM_TOOL, s);
        return lmdb_raise("begin of a read transaction", error);
    }
    mdb_txn_reset(s->reader);
    *session_out = s;
    return ASH_OK;
}

static void
lmdb_session_close(void *session)
{
    struct lmdb_session *s = session;

    mdb_txn_abort(s->reader);
    mem_free(MEM_TOOL, s);
}

static MDB_val
val(struct ash_slice s)
{
    MDB_val v = { .mv_size = s.size, .mv_data = (void *)(uintptr_t)s.data };

    return v;
}

static ash_rc
lmdb_read(void *session, struct ash_slice key, struct bench_buffer *value)
{
    struct lmdb_session *s = session;
    MDB_val k = val(key), v;
    int error = mdb_txn_renew(s->reader);

    if (error != 0)
        return lmdb_raise("renew", error);
    error = mdb_get(s->reader, s->db->dbi, &k, &v);
    if (error == 0)
        bench_take(value, v.mv_data, v.mv_size);
    mdb_txn_reset(s->reader);
    return error == 0 ? ASH_OK : lmdb_raise("get", error);
}

static ash_rc
lmdb_insert(void *session, const struct bench_row *rows, size_t count)
{
    struct lmdb_session *s = session;
    MDB_txn *txn;
    int error = mdb_txn_begin(s->db->env, NULL, 0, &txn);

    if (error != 0)
        return lmdb_raise("begin", error);
    for (size_t i = 0; i < count; i++) {
        MDB_val k = val(rows[i].key), v = val(rows[i].value);

        error = mdb_put(txn, s->db->dbi, &k, &v, 0);
        if (error != 0) {
            mdb_txn_abort(txn);
            return lmdb_raise("put", error);
        }
    }
    error = mdb_txn_commit(txn);
    return error == 0 ? ASH_OK : lmdb_raise("commit", error);
}

static ash_rc
lmdb_update(void *session, struct ash_slice key, struct ash_slice value)
{
    struct bench_row row = { key, value };

    return lmdb_insert(session, &row, 1);
}

static ash_rc
lmdb_modify(void *session, struct ash_slice key, struct ash_slice value, struct bench_buffer *old)
{
    struct lmdb_session *s = session;
    MDB_val k = val(key), v;
    MDB_txn *txn;
    int error = mdb_txn_begin(s->db->env, NULL, 0, &txn);

    if (error != 0)
        return lmdb_raise("begin", error);
    error = mdb_get(txn, s->db->dbi, &k, &v);
    if (error == 0) {
        bench_take(old, v.mv_data, v.mv_size);
        v = val(value);
        error = mdb_put(txn, s->db->dbi, &k, &v, 0);
    }
    if (error != 0) {
        mdb_txn_abort(txn);
        return lmdb_raise("modify", error);
    }
    error = mdb_txn_commit(txn);
    return error == 0 ? ASH_OK : lmdb_raise("commit", error);
}

static ash_rc
lmdb_scan(void *session, struct ash_slice start, size_t count, struct bench_buffer *value,
          size_t *rows_out)
{
    struct lmdb_session *s = session;
    MDB_cursor *cursor;
    MDB_val k = val(start), v;
    size_t done = 0;
    int error = mdb_txn_renew(s->reader);

    if (error != 0)
        return lmdb_raise("renew", error);
    error = mdb_cursor_open(s->reader, s->db->dbi, &cursor);
    if (error != 0) {
        mdb_txn_reset(s->reader);
        return lmdb_raise("cursor open", error);
    }
    error = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    while (error == 0) {
        bench_take(value, v.mv_data, v.mv_size);
        if (++done == count)
            break;
        error = mdb_cursor_get(cursor, &k, &v, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    mdb_txn_reset(s->reader);
    *rows_out = done;
    return error == 0 || error == MDB_NOTFOUND ? ASH_OK : lmdb_raise("cursor get", error);
}

extern const struct bench_engine engine_lmdb;
const struct bench_engine engine_lmdb = {
    .name = "lmdb",
    .always_page_cache = true,
    .version = lmdb_version,
    .describe = lmdb_describe,
    .open = lmdb_open,
    .close = lmdb_close,
    .session_open = lmdb_session_open,
    .session_close = lmdb_session_close,
    .read = lmdb_read,
    .insert = lmdb_insert,
    .update = lmdb_update,
    .modify = lmdb_modify,
    .scan = lmdb_scan,
};

#else
typedef int engine_lmdb_is_not_in_this_build; /* ISO C wants something in every file */
#endif
