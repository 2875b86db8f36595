/* SPDX-License-Identifier: Apache-2.0
 *
 * io_env.h - runs a test body on one of the three backends: on a real directory, or in a
 * simulation.
 */
#ifndef ASH_TESTS_IO_ENV_H
#define ASH_TESTS_IO_ENV_H

#include "base/log.h"
#include "base/mem.h"
#include "base/random.h"
#include "storage/io_int.h"
#include "storage/sim_disk.h"
#include "task/task.h"
#include "tests/test_dir.h"
#include "tests/test_main.h"

#include <stdarg.h>
#include <unistd.h>

/* Quiet while they hold: a check assertion costs a system call each time. */
#define ck_ok(expr)                                                                        \
    do {                                                                                   \
        ash_rc ck_rc = (expr);                                                             \
        if (ck_rc != ASH_OK)                                                               \
            ck_abort_msg("%s: %s: %s", #expr, ash_rc_name(ck_rc), err_current()->message); \
    } while (0)
#define ck_rc(expr, expected)                                                                 \
    do {                                                                                      \
        ash_rc ck_rc = (expr);                                                                \
        ck_assert_msg(ck_rc == (expected), "%s: %s instead of %s", #expr, ash_rc_name(ck_rc), \
                      ash_rc_name(expected));                                                 \
    } while (0)

struct env {
    enum io_backend_kind kind;
    unsigned ring; /* IO_RING_* */
    struct task_runtime *rt;
    struct sim_disk *disk; /* sim only; made here when NULL */
    uint64_t seed;
    struct io *io;
    struct io_dir *dir;
    char path[64];
    void (*fn)(struct env *e);
    bool no_io; /* the body makes its own io */
};

/* Messages that the library logged since env_log_start(). */
__attribute__((unused)) static struct {
    unsigned count;
    char last[512];
} env_log;

__attribute__((unused)) static void
env_log_fn(void *arg, int level, const char *message)
{
    (void)arg;
    (void)level;
    env_log.count++;
    snprintf(env_log.last, sizeof(env_log.last), "%s", message);
}

__attribute__((unused)) static void
env_log_start(void)
{
    memset(&env_log, 0, sizeof(env_log));
    log_hook(env_log_fn, NULL);
}

__attribute__((unused)) static void
env_open(struct env *e)
{
    /* AUTO: where io_uring is forbidden, these tests are worth running on threads. */
    struct io_options o = { .backend = e->kind == IO_BACKEND_URING ? IO_BACKEND_AUTO : e->kind,
                            .direct = true,
                            .ring = e->ring,
                            .rt = e->rt,
                            .disk = e->disk };
    ck_ok(io_create(&o, &e->io));
    ck_ok(io_dir_open(e->io, e->path, IO_CREATE, &e->dir));
}

__attribute__((unused)) static void
env_close(struct env *e)
{
    io_dir_close(e->dir);
    io_destroy(e->io);
    e->dir = NULL;
    e->io = NULL;
}

__attribute__((unused)) static void
env_body(void *arg)
{
    struct env *e = arg;
    if (!e->no_io)
        env_open(e);
    e->fn(e);
    if (!e->no_io)
        env_close(e);
}

/* Runs fn on the backend.  In simulation everything of e->disk stays for the caller; else the
 * directory goes. */
__attribute__((unused)) static ash_rc
env_run(struct env *e, void (*fn)(struct env *e))
{
    ash_rc rc = ASH_OK;

    e->fn = fn;
    if (e->kind == IO_BACKEND_SIM) {
        struct task_sim_options o = { .seed = e->seed, .step_max = 10000000 };
        bool own = e->disk == NULL;
        if (own)
            ck_ok(sim_disk_create(e->seed, &e->disk));
        snprintf(e->path, sizeof(e->path), "db");
        ck_ok(task_sim_create(&o, &e->rt));
        rc = task_sim_run(e->rt, env_body, e);
        task_runtime_destroy(e->rt);
        if (own) {
            sim_disk_destroy(e->disk);
            e->disk = NULL;
        }
        return rc;
    }
    snprintf(e->path, sizeof(e->path), "iotest.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(e->path));
    ck_ok(task_runtime_create(&e->rt));
    env_body(e);
    task_runtime_destroy(e->rt);
    test_dir_remove(e->path);
    return rc;
}

/* Runs it on the backend of a loop test: _i is an enum io_backend_kind. */
#define ENV_RUN(fn_)                                                                  \
    do {                                                                              \
        struct env env_ = { .kind = (enum io_backend_kind)_i, .seed = test_seed(7) }; \
        ck_ok(env_run(&env_, fn_));                                                   \
    } while (0)

/* pstore_found_fn: counts in *arg (an unsigned) and prints. */
__attribute__((unused)) static void
env_problem(void *arg, const char *file, uint64_t offset, uint64_t page, const char *message)
{
    (void)offset;
    ++*(unsigned *)arg;
    fprintf(stderr, "%s page %llu: %s\n", file, (unsigned long long)page, message);
}

__attribute__((unused)) static void *
env_buffer(size_t bytes)
{
    void *p = mem_aligned(MEM_TEST, IO_ALIGN, bytes);
    ck_assert_ptr_nonnull(p);
    memset(p, 0, bytes);
    return p;
}

/* Bytes that tell place and version. */
__attribute__((unused)) static void
env_fill(void *buf, size_t bytes, uint64_t seed)
{
    uint64_t *w = buf;
    for (size_t i = 0; i < bytes / 8; i++)
        w[i] = hash_u64(seed * 1000003 + i + 1);
}

__attribute__((unused)) static struct io_file *
env_file(struct env *e, const char *name, unsigned flags)
{
    struct io_file *f = NULL;
    ck_ok(io_file_open(e->dir, name, flags, &f));
    return f;
}

#endif
