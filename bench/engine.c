/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.c - the table of adapters.  An engine that configure did not find stays in the table without an adapter, so that
 * naming it gives a useful answer.
 */
#include "engine.h"

#include "base/assert.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>

#ifndef BENCH_NO_ASHLAR
extern const struct bench_engine engine_ashlar;
    #define ASHLAR_ADAPTER &engine_ashlar
#else
    #define ASHLAR_ADAPTER NULL
#endif
#ifdef HAVE_ROCKSDB
extern const struct bench_engine engine_rocksdb;
    #define ROCKSDB_ADAPTER &engine_rocksdb
#else
    #define ROCKSDB_ADAPTER NULL
#endif
#ifdef HAVE_WIREDTIGER
extern const struct bench_engine engine_wiredtiger;
    #define WIREDTIGER_ADAPTER &engine_wiredtiger
#else
    #define WIREDTIGER_ADAPTER NULL
#endif
#ifdef HAVE_LMDB
extern const struct bench_engine engine_lmdb;
    #define LMDB_ADAPTER &engine_lmdb
#else
    #define LMDB_ADAPTER NULL
#endif
#ifdef HAVE_SQLITE3
extern const struct bench_engine engine_sqlite;
    #define SQLITE_ADAPTER &engine_sqlite
#else
    #define SQLITE_ADAPTER NULL
#endif
#ifdef HAVE_LEVELDB
extern const struct bench_engine engine_leveldb;
    #define LEVELDB_ADAPTER &engine_leveldb
#else
    #define LEVELDB_ADAPTER NULL
#endif

static const struct engine_entry {
    const char *name;
    const struct bench_engine *engine;
} entries[] = {
    { "ashlar", ASHLAR_ADAPTER },         { "rocksdb", ROCKSDB_ADAPTER },
    { "wiredtiger", WIREDTIGER_ADAPTER }, { "lmdb", LMDB_ADAPTER },
    { "sqlite", SQLITE_ADAPTER },         { "leveldb", LEVELDB_ADAPTER },
};

ash_rc
engine_find(const char *name, const struct bench_engine **engine_out)
{
    for (size_t i = 0; i < ASH_ARRAY_SIZE(entries); i++) {
        if (strcmp(entries[i].name, name) != 0)
            continue;
        if (entries[i].engine == NULL)
            return ash_raise(
                ASH_UNSUPPORTED,
                "--engines: %s is not in this build; install its development files and run "
                "configure again (this build has %s)",
                name, engine_names());
        *engine_out = entries[i].engine;
        return ASH_OK;
    }
    return ash_raise(ASH_INVALID, "--engines: there is no engine \"%s\"; this build has %s", name,
                     engine_names());
}

const char *
engine_names(void)
{
    static char names[128];
    size_t used = 0;

    names[0] = '\0';
    for (size_t i = 0; i < ASH_ARRAY_SIZE(entries); i++) {
        if (entries[i].engine == NULL)
            continue;
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", used != 0 ? "," : "",
                                 entries[i].name);
        ash_assert(used < sizeof(names));
    }
    return names;
}

const char *
engine_durability_name(enum ash_durability durability)
{
    static const char *const names[] = { "sync", "async", "none" };

    ash_assert((unsigned)durability < ASH_ARRAY_SIZE(names));
    return names[durability];
}
