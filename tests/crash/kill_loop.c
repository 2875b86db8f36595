/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_loop.c - kill -9 on real files, again and again: a child writes, dies at a random moment,
 * and the database is opened again.
 *
 * The child runs eight writers.  Each transaction of a writer puts the same number n into three
 * rows of its own, spread over the key space, and commits: synchronously, or with a ticket that it
 * waits for every few transactions.  It also inserts a row of its own number and deletes the one of
 * HISTORY transactions ago.  A shared page holds, per writer, the last number whose commit
 * call began and the last that was acknowledged.  After the kill:
 *
 *   K1  the three rows of a writer hold the same number (whole transactions only);
 *   K2  acknowledged <= that number <= begun;
 *   K3  ash_verify() finds nothing;
 *   K4  the rows of the writer's last HISTORY transactions are there, older ones are not: none was
 *       lost in between, no delete came back.
 *
 * Some cycles also kill the process that recovers.
 *
 *   kill_loop [--cycles=N] [--dir=PATH] [--threads] [--seed=N] [--max-ms=N]
 */
#include "base/clock.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/api/db_env.h"

#define WRITERS 8u
#define ROWS    3u
#define HISTORY 100u
#define BUSY_NS 20000000000ull
#define OPTIONS \
    "cache=4MiB,wal_buffer=1MiB,wal_segment=256KiB,zone_size=256KiB,wal_limit=4MiB,checkpoint_ms=50,executors=1"

struct shared {
    _Atomic uint64_t begun[WRITERS], acked[WRITERS];
};

static struct {
    const char *dir;
    uint64_t cycles, seed, max_ms;
    enum io_backend_kind backend;
} arg = {
    .dir = "kill_loop.db", .cycles = 20, .seed = 1, .max_ms = 250, .backend = IO_BACKEND_AUTO
};

static struct shared *shared;

/* I/O that the killed process had in flight may hold its lock for a moment. */
static ash_db *
open_db(unsigned flags)
{
    struct db_seams seams = { .backend = arg.backend,
                              .page_id_max = 1u << 20,
                              .grow_bytes = 8u << 20 };
    ash_db *db = NULL;

    uint64_t until = clock_ns() + BUSY_NS;
    ash_rc rc;

    while ((rc = db_open(&seams, arg.dir, flags, OPTIONS, &db)) == ASH_BUSY && clock_ns() < until)
        usleep(1000);
    must_ok(rc);
    return db;
}

static struct ash_slice
row_key(char buf[16], uint32_t writer, uint32_t row)
{
    snprintf(buf, 16, "%02u-%02u", (row * 37 + writer * 13) % 100, writer);
    return slice_str(buf);
}

static struct ash_slice
history_key(char buf[32], uint32_t writer, uint64_t n)
{
    snprintf(buf, 32, "h%05llu-%02u", (unsigned long long)(n % 100000), writer);
    return slice_str(buf);
}

/* ---- The child ---- */

struct writer {
    ash_db *db;
    ash_table *t;
    uint32_t number;
    struct random random;
};

static void
write_once(struct writer *w, ash_session *s, uint64_t n, uint64_t *ticket)
{
    uint8_t value[8000];
    char key[16], history[32];
    size_t size = 8 + (size_t)random_below(
                          &w->random, random_chance(&w->random, 1, 10) ? sizeof(value) - 8 : 200);

    memset(value, (int)n, sizeof(value));
    memcpy(value, &n, sizeof(n));
    must_ok(ash_begin(s, NULL));
    for (uint32_t r = 0; r < ROWS; r++)
        must_ok(ash_put(s, w->t, row_key(key, w->number, r), ash_slice(value, size)));
    must_ok(ash_insert(s, w->t, history_key(history, w->number, n), ash_slice(value, 8)));
    if (n > HISTORY)
        must_ok(ash_delete(s, w->t, history_key(history, w->number, n - HISTORY)));
    atomic_store(&shared->begun[w->number], n);
    if (random_chance(&w->random, 1, 2)) {
        must_ok(ash_commit(s));
        atomic_store(&shared->acked[w->number], n);
        return;
    }
    must_ok(ash_commit_ticket(s, ticket));
    if (random_chance(&w->random, 1, 4)) {
        must_ok(ash_ticket_wait(w->db, *ticket));
        atomic_store(&shared->acked[w->number], n);
    }
}

static void
writer_main(void *p)
{
    struct writer *w = p;
    ash_session *s;
    uint64_t ticket;

    must_ok(ash_session_open(w->db, &s));
    for (uint64_t n = atomic_load(&shared->begun[w->number]) + 1;; n++) {
        if (random_chance(&w->random, 1, 12)) { /* something that is never committed */
            char key[16];
            must_ok(ash_begin(s, NULL));
            must_ok(ash_put(s, w->t, row_key(key, w->number, 0), slice_str("not me")));
            must_ok(ash_rollback(s));
        }
        write_once(w, s, n, &ticket);
    }
}

_Noreturn static void
child(uint64_t cycle)
{
    static struct writer w[WRITERS];
    struct task_runtime *rt;
    struct task *task[WRITERS];
    ash_session *s;
    ash_table *t;

    must_ok(task_runtime_create(&rt));
    ash_db *db = open_db(ASH_OPEN_CREATE);
    must_ok(ash_session_open(db, &s));
    ash_rc rc = ash_table_create(s, "t", NULL);
    must(rc == ASH_OK || rc == ASH_EXISTS, "create: %s", ash_rc_name(rc));
    must_ok(ash_table_open(s, "t", &t));
    for (uint32_t i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){ .db = db, .t = t, .number = i };
        random_init(&w[i].random, arg.seed * 1000 + cycle * 10 + i);
        must_ok(task_spawn(rt, "writer", writer_main, &w[i], &task[i]));
    }
    for (;;) { /* until killed */
        task_sleep_ns(20000000);
        must_ok(ash_checkpoint(db));
    }
}

/* ---- The parent ---- */

static void
check_history(ash_session *s, ash_table *t, uint32_t writer, uint64_t newest)
{
    char key[32];
    uint64_t n = newest > 2 * HISTORY ? newest - 2 * HISTORY : 0;

    for (n++; n <= newest + 2; n++) {
        struct ash_slice v;
        bool there = n <= newest && n + HISTORY > newest;
        ash_rc rc = ash_get(s, t, history_key(key, writer, n), &v);
        must(rc == (there ? ASH_OK : ASH_NOT_FOUND), "writer %u, newest %llu: row of %llu: %s (K4)",
             writer, (unsigned long long)newest, (unsigned long long)n, ash_rc_name(rc));
        must(!there || (v.size == 8 && memcmp(v.data, &n, 8) == 0), "writer %u: row of %llu (K4)",
             writer, (unsigned long long)n);
    }
}

static void
check_writer(ash_session *s, ash_table *t, uint32_t writer)
{
    uint64_t n[ROWS] = { 0 };
    char key[16];

    for (uint32_t r = 0; r < ROWS; r++) {
        struct ash_slice v;
        ash_rc rc = ash_get(s, t, row_key(key, writer, r), &v);
        must(rc == ASH_NOT_FOUND || (rc == ASH_OK && v.size >= 8), "writer %u row %u: %s", writer,
             r, ash_rc_name(rc));
        if (rc == ASH_OK)
            memcpy(&n[r], v.data, 8);
        must(n[r] == n[0], "writer %u: part of a transaction: %llu and %llu (K1)", writer,
             (unsigned long long)n[0], (unsigned long long)n[r]);
        for (size_t i = 8; rc == ASH_OK && i < v.size; i++)
            must(((const uint8_t *)v.data)[i] == (uint8_t)n[0], "writer %u: a value of mixed bytes",
                 writer);
    }
    uint64_t acked = atomic_load(&shared->acked[writer]),
             begun = atomic_load(&shared->begun[writer]);
    must(n[0] >= acked && n[0] <= begun,
         "writer %u: found %llu, acknowledged %llu, begun %llu (K2)", writer,
         (unsigned long long)n[0], (unsigned long long)acked, (unsigned long long)begun);
    check_history(s, t, writer, n[0]);
    atomic_store(&shared->begun[writer], n[0]); /* the next life goes on from what is there */
    atomic_store(&shared->acked[writer], n[0]);
}

/* Recovers, until it is killed. */
_Noreturn static void
recoverer(void)
{
    open_db(ASH_OPEN_CREATE);
    for (;;)
        pause();
}

/* In a process of its own: the parent must never have had threads when it forks. */
_Noreturn static void
checker(void)
{
    ash_session *s;
    ash_table *t;
    ash_db *db = open_db(ASH_OPEN_CREATE);

    must_ok(ash_session_open(db, &s));
    ash_rc rc = ash_table_open(s, "t", &t);
    must(rc == ASH_OK || rc == ASH_NOT_FOUND, "table: %s", ash_rc_name(rc));
    for (uint32_t i = 0; i < WRITERS; i++)
        if (rc == ASH_OK)
            check_writer(s, t, i);
        else
            must(atomic_load(&shared->acked[i]) == 0,
                 "the table is gone, and with it acknowledged rows");
    if (rc == ASH_OK)
        ash_table_close(t);
    ash_session_close(s);
    db_env_verify(db);
    must_ok(ash_close(db));
    exit(0);
}

static pid_t
fork_or_fail(void)
{
    fflush(NULL);
    pid_t pid = fork();

    must(pid >= 0, "fork");
    return pid;
}

static void
cycle_run(uint64_t cycle, struct random *r)
{
    uint64_t ms = 10 + random_below(r, arg.max_ms), us = random_below(r, 1000);
    struct timespec t = { .tv_sec = (time_t)(ms / 1000),
                          .tv_nsec = (long)(ms % 1000 * 1000000 + us * 1000) };
    int status;
    pid_t pid = fork_or_fail();

    if (pid == 0)
        child(cycle);
    nanosleep(&t, NULL);
    must(waitpid(pid, &status, WNOHANG) == 0, "cycle %llu: the child ended by itself",
         (unsigned long long)cycle);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    if (random_chance(r, 1, 3)) {
        pid = fork_or_fail();
        if (pid == 0)
            recoverer();
        usleep((useconds_t)random_below(r, 20000));
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        must(WIFSIGNALED(status), "cycle %llu: recovery ended by itself",
             (unsigned long long)cycle);
    }
    pid = fork_or_fail();
    if (pid == 0)
        checker();
    waitpid(pid, &status, 0);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0,
         "cycle %llu: the check failed; the database is in %s", (unsigned long long)cycle, arg.dir);
}

static bool
arg_number(const char *text, const char *name, uint64_t *out)
{
    size_t n = strlen(name);

    if (strncmp(text, name, n) != 0)
        return false;
    *out = strtoull(text + n, NULL, 10);
    return true;
}

int
main(int argc, char **argv)
{
    struct random r;
    uint64_t commits = 0;

    arg.cycles = test_scale(20, 500);
    arg.seed = test_seed(1);
    for (int i = 1; i < argc; i++) {
        if (arg_number(argv[i], "--cycles=", &arg.cycles) ||
            arg_number(argv[i], "--seed=", &arg.seed) ||
            arg_number(argv[i], "--max-ms=", &arg.max_ms))
            continue;
        if (strncmp(argv[i], "--dir=", 6) == 0)
            arg.dir = argv[i] + 6;
        else if (strcmp(argv[i], "--threads") == 0)
            arg.backend = IO_BACKEND_THREADS;
        else {
            fprintf(stderr,
                    "usage: %s [--cycles=N] [--dir=PATH] [--threads] [--seed=N] [--max-ms=N]\n",
                    argv[0]);
            return 2;
        }
    }
    db_env_seed = arg.seed;
    db_env_name = "kill_loop";
    random_init(&r, arg.seed);
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(shared != MAP_FAILED, "mmap");
    test_dir_remove(arg.dir);
    for (uint64_t c = 0; c < arg.cycles; c++)
        cycle_run(c, &r);
    for (uint32_t i = 0; i < WRITERS; i++)
        commits += atomic_load(&shared->acked[i]);
    printf("%llu cycles, %llu transactions kept, nothing lost\n", (unsigned long long)arg.cycles,
           (unsigned long long)commits);
    test_dir_remove(arg.dir);
    return 0;
}
