/* SPDX-License-Identifier: Apache-2.0
 *
 * engine_leveldb.c - LevelDB behind the benchmark's interface.
 *
 * LevelDB has atomic batches but no transactions, so modify() and every other write take one of KEY_LOCKS mutexes, chosen by
 * the key: what an application has to do to get an isolated read-modify-write.  Uncontended it costs some 20 ns.
 */
#include "engine.h"

#ifdef HAVE_LEVELDB

    #include "base/bits.h"
    #include "base/error.h"
    #include "base/mem.h"
    #include "base/random.h"

    #include <leveldb/c.h>
    #include <pthread.h>
    #include <stdio.h>

    #define KEY_LOCKS        1024u
    #define WRITE_BUFFER_MAX (64ull << 20)
    #define WRITE_BUFFER_MIN (4ull << 20) /* LevelDB's default */
    #define BLOCK_CACHE_MIN  (8ull << 20) /* LevelDB's default */
    #define BLOOM_BITS       10
    #define OPEN_FILES_MAX   20000

struct level_db {
    leveldb_t *db;
    leveldb_options_t *options;
    leveldb_cache_t *cache;
    leveldb_filterpolicy_t *filter;
    leveldb_readoptions_t *read;
    leveldb_writeoptions_t *write;
    pthread_mutex_t key_lock[KEY_LOCKS];
};

struct level_session {
    struct level_db *db;
    leveldb_writebatch_t *batch;
};

/* Two memtables may be in memory at once; the rest is the block cache. */
static void
split_memory(const struct bench_setup *setup, uint64_t *write_buffer_out, uint64_t *block_cache_out)
{
    uint64_t buffer = max_u64(min_u64(setup->cache_bytes / 8, WRITE_BUFFER_MAX), WRITE_BUFFER_MIN);

    *write_buffer_out = buffer;
    *block_cache_out = BLOCK_CACHE_MIN;
    if (setup->cache_bytes > 2 * buffer + BLOCK_CACHE_MIN)
        *block_cache_out = setup->cache_bytes - 2 * buffer;
}

static const char *
level_version(void)
{
    static char text[32];

    snprintf(text, sizeof(text), "%d.%d", leveldb_major_version(), leveldb_minor_version());
    return text;
}

static void
level_describe(const struct bench_setup *setup, char *out, size_t size)
{
    uint64_t buffer, cache;

    split_memory(setup, &buffer, &cache);
    snprintf(
        out, size,
        "block cache %llu, write buffer %llu, bloom %d bits, sync=%s, no compression; the page cache is not "
        "limited by --cache",
        (unsigned long long)cache, (unsigned long long)buffer, BLOOM_BITS,
        setup->durability == ASH_DURABILITY_SYNC ? "true" : "false");
}

static ash_rc
level_raise(const char *what, char *message)
{
    ash_rc rc = ash_raise(ASH_IO, "leveldb: %s failed: %s", what, message);

    leveldb_free(message);
    return rc;
}

static void
set_options(struct level_db *db, const struct bench_setup *setup)
{
    uint64_t buffer, cache;

    split_memory(setup, &buffer, &cache);
    db->options = leveldb_options_create();
    db->cache = leveldb_cache_create_lru(cache);
    db->filter = leveldb_filterpolicy_create_bloom(BLOOM_BITS);
    leveldb_options_set_create_if_missing(db->options, 1);
    leveldb_options_set_write_buffer_size(db->options, buffer);
    leveldb_options_set_cache(db->options, db->cache);
    leveldb_options_set_filter_policy(db->options, db->filter);
    leveldb_options_set_max_open_files(db->options, OPEN_FILES_MAX);
    leveldb_options_set_compression(db->options, leveldb_no_compression);
    db->read = leveldb_readoptions_create();
    db->write = leveldb_writeoptions_create();
    leveldb_writeoptions_set_sync(db->write, setup->durability == ASH_DURABILITY_SYNC);
}

static void
level_free(struct level_db *db)
{
    leveldb_writeoptions_destroy(db->write);
    leveldb_readoptions_destroy(db->read);
    leveldb_options_destroy(db->options);
    leveldb_filterpolicy_destroy(db->filter);
    leveldb_cache_destroy(db->cache);
    for (unsigned i = 0; i < KEY_LOCKS; i++)
        pthread_mutex_destroy(&db->key_lock[i]);
    mem_free(MEM_TOOL, db);
}

static ash_rc
level_open(const struct bench_setup *setup, void **db_out)
{
    char *error = NULL;
    struct level_db *db = mem_zalloc(MEM_TOOL, sizeof(*db));

    if (db == NULL)
        return ASH_NO_MEMORY;
    for (unsigned i = 0; i < KEY_LOCKS; i++)
        pthread_mutex_init(&db->key_lock[i], NULL);
    set_options(db, setup);
    db->db = leveldb_open(db->options, setup->dir, &error);
    if (error != NULL) {
        level_free(db);
        return level_raise("open", error);
    }
    *db_out = db;
    return ASH_OK;
}

static ash_rc
level_close(void *handle)
{
    struct level_db *db = handle;

    leveldb_close(db->db);
    level_free(db);
    return ASH_OK;
}

static ash_rc
level_session_open(void *handle, void **session_out)
{
    struct level_session *s = mem_zalloc(MEM_TOOL, sizeof(*s));

    if (s == NULL)
        return ASH_NO_MEMORY;
    s->db = handle;
    s->batch = leveldb_writebatch_create();
    *session_out = s;
    return ASH_OK;
}

static void
level_session_close(void *session)
{
    struct level_session *s = session;

    leveldb_writebatch_destroy(s->batch);
    mem_free(MEM_TOOL, s);
}

static pthread_mutex_t *
lock_of(struct level_db *db, struct ash_slice key)
{
    return &db->key_lock[hash_bytes(key.data, key.size, 0) % KEY_LOCKS];
}

static ash_rc
level_read(void *session, struct ash_slice key, struct bench_buffer *value)
{
    struct level_session *s = session;
    char *error = NULL;
    size_t size;
    char *data = leveldb_get(s->db->db, s->db->read, key.data, key.size, &size, &error);

    if (error != NULL)
        return level_raise("get", error);
    if (data == NULL)
        return ASH_NOT_FOUND;
    bench_take(value, data, size);
    leveldb_free(data);
    return ASH_OK;
}

static ash_rc
put(struct level_session *s, struct ash_slice key, struct ash_slice value)
{
    char *error = NULL;

    leveldb_put(s->db->db, s->db->write, key.data, key.size, value.data, value.size, &error);
    return error == NULL ? ASH_OK : level_raise("put", error);
}

static ash_rc
level_update(void *session, struct ash_slice key, struct ash_slice value)
{
    struct level_session *s = session;
    pthread_mutex_t *lock = lock_of(s->db, key);
    ash_rc rc;

    pthread_mutex_lock(lock);
    rc = put(s, key, value);
    pthread_mutex_unlock(lock);
    return rc;
}

static ash_rc
level_modify(void *session, struct ash_slice key, struct ash_slice value, struct bench_buffer *old)
{
    struct level_session *s = session;
    pthread_mutex_t *lock = lock_of(s->db, key);
    ash_rc rc;

    pthread_mutex_lock(lock);
    rc = level_read(s, key, old);
    if (rc == ASH_OK)
        rc = put(s, key, value);
    pthread_mutex_unlock(lock);
    return rc;
}

/* A batch inserts rows that nobody else writes, so it needs no key locks. */
static ash_rc
level_insert(void *session, const struct bench_row *rows, size_t count)
{
    struct level_session *s = session;
    char *error = NULL;

    if (count == 1)
        return put(s, rows->key, rows->value);
    leveldb_writebatch_clear(s->batch);
    for (size_t i = 0; i < count; i++)
        leveldb_writebatch_put(s->batch, rows[i].key.data, rows[i].key.size, rows[i].value.data,
                               rows[i].value.size);
    leveldb_write(s->db->db, s->db->write, s->batch, &error);
    return error == NULL ? ASH_OK : level_raise("write", error);
}

static ash_rc
level_scan(void *session, struct ash_slice start, size_t count, struct bench_buffer *value,
           size_t *rows_out)
{
    struct level_session *s = session;
    leveldb_iterator_t *it = leveldb_create_iterator(s->db->db, s->db->read);
    char *error = NULL;
    size_t done = 0;

    leveldb_iter_seek(it, start.data, start.size);
    while (done < count && leveldb_iter_valid(it)) {
        size_t size;
        const char *data = leveldb_iter_value(it, &size);

        bench_take(value, data, size);
        if (++done < count)
            leveldb_iter_next(it);
    }
    leveldb_iter_get_error(it, &error);
    leveldb_iter_destroy(it);
    if (error != NULL)
        return level_raise("iterator", error);
    *rows_out = done;
    return ASH_OK;
}

extern const struct bench_engine engine_leveldb;
const struct bench_engine engine_leveldb = {
    .name = "leveldb",
    .always_page_cache = true,
    .version = level_version,
    .describe = level_describe,
    .open = level_open,
    .close = level_close,
    .session_open = level_session_open,
    .session_close = level_session_close,
    .read = level_read,
    .insert = level_insert,
    .update = level_update,
    .modify = level_modify,
    .scan = level_scan,
};

#else
typedef int engine_leveldb_is_not_in_this_build; /* ISO C wants something in every file */
#endif
