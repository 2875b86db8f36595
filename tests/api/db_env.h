/* SPDX-License-Identifier: Apache-2.0
 *
 * db_env.h - a whole engine for a test: on a real directory (uring or threads) or in a simulation.
 *
 * A test fills struct db_env and calls db_env_run(): its body runs as a task of the right kind and
 * opens the database itself, as often as it likes, with db_env_open().  In simulation everything
 * follows from `seed`.
 */
#ifndef ASH_TESTS_DB_ENV_H
#define ASH_TESTS_DB_ENV_H

#include "api/api.h"
#include "base/assert.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/random.h"
#include "storage/sim_disk.h"
#include "task/task.h"
#include "tests/test_dir.h"
#include "tests/test_main.h"

#include <stdarg.h>
#include <unistd.h>

/* What random tests print when they fail; set by db_env_run(). */
__attribute__((unused)) static uint64_t db_env_seed;
__attribute__((unused)) static const char *db_env_name = "";

/* Ends the test program (not only the test: this must work on any thread and fiber). */
__attribute__((unused, noreturn, format(printf, 4, 5))) static void
db_env_fail(const char *file, int line, const char *what, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "%s:%d: %s: ", file, line, what);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n  run \"%s\"; replay with ASH_TEST_SEED=%llu\n", db_env_name,
            (unsigned long long)db_env_seed);
    fflush(stderr);
    _exit(1);
}

#define must(cond, ...)                                          \
    do {                                                         \
        if (!(cond))                                             \
            db_env_fail(__FILE__, __LINE__, #cond, __VA_ARGS__); \
    } while (0)
#define must_rc(expr, expected)                                                                   \
    do {                                                                                          \
        ash_rc must_got_ = (expr);                                                                \
        if (must_got_ != (expected))                                                              \
            db_env_fail(__FILE__, __LINE__, #expr, "%s instead of %s: %s (%s)",                   \
                        ash_rc_name(must_got_), ash_rc_name(expected), ash_error_last()->message, \
                        ash_error_last()->where);                                                 \
    } while (0)
#define must_ok(expr) must_rc(expr, ASH_OK)

struct db_env {
    enum io_backend_kind kind;
    uint64_t seed;
    uint64_t step_max; /* simulation; 0: generous */
    const char *name;
    bool keep; /* the directory, after the run */

    struct task_runtime *rt;
    struct sim_disk *disk; /* made by db_env_run() when NULL, and then destroyed by it */
    char path[128];
    void (*fn)(struct db_env *e);
    void *arg;
    uint64_t leaked; /* simulation: bytes not freed by a body that returned */
};

/* The smallest database there can be: cheap to open, and every limit is near. */
#define DB_ENV_TINY \
    "cache=1MiB,wal_buffer=1MiB,wal_segment=64KiB,zone_size=64KiB,wal_limit=1MiB,wal_writers=1"

__attribute__((unused)) static ash_rc
db_env_try_open(struct db_env *e, unsigned flags, const char *options, bool quiet, ash_db **db_out)
{
    struct db_seams seams = { .rt = e->rt,
                              .backend = e->kind == IO_BACKEND_URING ? IO_BACKEND_AUTO : e->kind,
                              .disk = e->disk,
                              .quiet = quiet };

    if (e->kind == IO_BACKEND_SIM) {
        seams.page_id_max = 1u << 14;
        seams.grow_bytes = 256u << 10;
    } else {
        seams.page_id_max = 1u << 20;
        seams.grow_bytes = 16u << 20;
    }
    return db_open(&seams, e->path, flags, options, db_out);
}

__attribute__((unused)) static ash_db *
db_env_open(struct db_env *e, const char *options, bool quiet)
{
    ash_db *db = NULL;

    must_ok(db_env_try_open(e, ASH_OPEN_CREATE, options, quiet, &db));
    return db;
}

__attribute__((unused)) static void
db_env_body(void *arg)
{
    struct db_env *e = arg;

    e->fn(e);
}

/* Runs fn(e); returns what task_sim_run() said (ASH_OK on a real directory). */
__attribute__((unused)) static ash_rc
db_env_run(struct db_env *e, void (*fn)(struct db_env *e))
{
    e->fn = fn;
    db_env_seed = e->seed;
    db_env_name = e->name != NULL ? e->name : "";
    assert_note_seed(e->seed);
    if (e->kind == IO_BACKEND_SIM) {
        struct task_sim_options o = { .seed = e->seed,
                                      .step_max = e->step_max != 0 ? e->step_max : 200000000 };
        bool own = e->disk == NULL;
        if (own)
            must_ok(sim_disk_create(e->seed, &e->disk));
        snprintf(e->path, sizeof(e->path), "db");
        must_ok(task_sim_create(&o, &e->rt));
        ash_rc rc = task_sim_run(e->rt, db_env_body, e);
        e->leaked = rc == ASH_OK ? task_sim_memory(e->rt) : 0;
        task_runtime_destroy(e->rt);
        if (own) {
            sim_disk_destroy(e->disk);
            e->disk = NULL;
        }
        return rc;
    }
    bool made = e->path[0] == '\0';
    if (made) {
        snprintf(e->path, sizeof(e->path), "dbtest.XXXXXX");
        must(mkdtemp(e->path) != NULL, "mkdtemp");
    }
    must_ok(task_runtime_create(&e->rt));
    fn(e);
    task_runtime_destroy(e->rt);
    if (made && !e->keep)
        test_dir_remove(e->path);
    return ASH_OK;
}

__attribute__((unused)) static const char *
db_env_kind_name(enum io_backend_kind kind)
{
    static const char *const name[] = { "auto", "uring", "threads", "sim" };

    return name[kind];
}

/* ash_verify() with its findings printed. */
__attribute__((unused)) static void
db_env_finding(void *arg, const char *file, uint64_t page, const char *message)
{
    (void)arg;
    fprintf(stderr, "verify: %s page %llu: %s\n", file, (unsigned long long)page, message);
}

__attribute__((unused)) static void
db_env_verify(ash_db *db)
{
    must_ok(ash_verify(db, db_env_finding, NULL));
}

__attribute__((unused)) static struct ash_slice
slice_str(const char *text)
{
    return ash_slice(text, strlen(text));
}

#endif
