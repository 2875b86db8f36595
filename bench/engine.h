/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.h - one interface over Ashlar and the engines that it is measured against.
 *
 * An adapter (engine_<name>.c) maps a map of byte strings onto one engine: one ordered table, transactional writes at the
 * durability asked for, memory limited to the cache asked for.  Rules that keep the comparison fair:
 *   R1  read() and scan() hand every row's bytes to the caller by copying them; nobody gets away with a pointer.
 *   R2  insert(), update() and modify() return when the write has the durability of bench_setup.
 *   R3  modify() reads and writes one row as one isolated transaction; it retries conflicts by itself.
 *   R4  Settings follow the peer's own documentation; bench/README.md gives each with its reason, and describe() puts what was
 *       set into the report.
 * Failures are raised with ash_raise(), whatever the engine, so ash_error_last() has the sentence.
 */
#ifndef BENCH_ENGINE_H
#define BENCH_ENGINE_H

#include <ashlar.h>

#define BENCH_RETRY_MAX 100000 /* of one modify(); beyond it something is broken, not contended */

struct bench_setup {
    const char *dir; /* exists, is empty or holds this engine's database */
    uint64_t cache_bytes;
    uint64_t data_bytes;  /* about how much will be stored: keys and values */
    uint64_t value_bytes; /* of one row */
    enum ash_durability durability;
    unsigned threads; /* clients: sessions, or requests in flight */
    bool executors;   /* clients use submit() */
    bool page_cache; /* let the kernel cache files too; false: direct I/O where the engine has it */
    const char *options; /* more options for ash_open(), or NULL; only engine_ashlar reads it */
};

struct bench_row {
    struct ash_slice key;
    struct ash_slice value;
};

/* Where reads put what they found. */
struct bench_buffer {
    void *data;
    size_t capacity;
    size_t size; /* of the value read last, even when it was longer than capacity */
};

/* One request of submit(); the caller owns it until done() was called. */
struct bench_request {
    void *db; /* set by submit() */
    ash_rc (*fn)(void *session, void *arg);
    void (*done)(void *arg, ash_rc rc); /* may submit the request again */
    void *arg;
};

struct bench_engine {
    const char *name;
    bool always_page_cache; /* has no direct I/O: the kernel's page cache extends its cache */
    const char *(*version)(void);
    /* Writes what open() will set, as text for the report. */
    void (*describe)(const struct bench_setup *setup, char *out, size_t size);

    ash_rc (*open)(const struct bench_setup *setup, void **db_out);
    ash_rc (*close)(void *db);
    /* One per client thread; used by one thread at a time. */
    ash_rc (*session_open)(void *db, void **session_out);
    void (*session_close)(void *session);

    ash_rc (*read)(void *session, struct ash_slice key,
                   struct bench_buffer *value); /* ASH_NOT_FOUND when absent */
    ash_rc (*insert)(void *session, const struct bench_row *rows,
                     size_t count); /* one transaction */
    ash_rc (*update)(void *session, struct ash_slice key,
                     struct ash_slice value); /* replaces the whole value */
    ash_rc (*modify)(void *session, struct ash_slice key, struct ash_slice value,
                     struct bench_buffer *old);
    /* Reads up to `count` rows at or after `start`; the last value stays in `value`. */
    ash_rc (*scan)(void *session, struct ash_slice start, size_t count, struct bench_buffer *value,
                   size_t *rows_out);

    /* Optional (--executors): runs request->fn on the engine's own threads and then request->done.  Does not wait. */
    ash_rc (*submit)(void *db, struct bench_request *request);
};

/* Copies a value out (R1). */
static inline void
bench_take(struct bench_buffer *b, const void *data, size_t size)
{
    b->size = size;
    if (size != 0)
        __builtin_memcpy(b->data, data, size < b->capacity ? size : b->capacity);
}

/* The engine of that name.  ASH_INVALID when there is none, ASH_UNSUPPORTED when this build has it not. */
ASH_MUST_CHECK ash_rc engine_find(const char *name, const struct bench_engine **engine_out);
/* Names of the engines in this build, comma-separated. */
const char *engine_names(void);
const char *engine_durability_name(enum ash_durability durability);

#endif
