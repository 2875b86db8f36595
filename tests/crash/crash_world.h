/* SPDX-License-Identifier: Apache-2.0
 *
 * crash_world.h - workloads on a simulated disk whose every commit is known, and the question
 * whether a database that was found after a crash is one that may be found.
 *
 * A workload is a script: a function that works through the calls below.  They do what they say on
 * the engine and note, for each transaction, what it changes, when its commit was called and when
 * it was acknowledged.  A state is one number, a sum over all rows and tables, so the states after
 * each commit (S_0, S_1, ...) are a list of numbers, and a recovered database is right when its
 * number is
 *
 *   O1  that of some S_k (whole transactions only, in the order of their commits: no holes, nothing
 *       rolled back), where
 *   O2  every commit that had been acknowledged lies in the first k, and
 *   O3  no commit whose call had not begun does.
 */
#ifndef ASH_TESTS_CRASH_WORLD_H
#define ASH_TESTS_CRASH_WORLD_H

#include "tests/api/db_env.h"

#define CRASH_TABLES 6u
#define CRASH_KEYS   400u

struct crash_change {
    uint8_t table;
    uint8_t kind; /* enum crash_change_kind */
    uint16_t key;
    uint64_t value; /* hash, 0: deleted */
};
enum crash_change_kind {
    CRASH_ROW = 1,
    CRASH_CREATE,
    CRASH_DROP
};

struct crash_commit {
    uint64_t lsn;          /* order of commits; 0: not known to have happened */
    uint32_t first, count; /* its changes in world->change */
    bool failed;           /* the call returned an error that leaves the outcome open */
    uint64_t state;        /* S_k after it, set by crash_states() */
};

struct crash_world {
    /* given by the test */
    struct sim_disk *disk;
    const struct crash_script *script;
    uint64_t seed;
    bool faults;        /* errors are expected: the script stops at the first */
    uint64_t memory_at; /* the allocation that fails (mem_fail_at), 0: none */
    bool memory_sticky;
    uint64_t allocations; /* out: how many there were, when memory_at is set */

    /* the run */
    struct task_runtime *rt;
    ash_db *db;
    ash_rc failed; /* first error that the script met */
    char failed_text[600];
    bool opened; /* the script's database was open */
    uint64_t trace;

    struct crash_change *change;
    uint32_t change_count, change_room;
    struct crash_commit *commit; /* in the order of calls */
    uint32_t commit_count, commit_room;
    uint64_t acked_lsn; /* newest acknowledged commit; grows */
    struct crash_commit *
        *order; /* of the log, by crash_states(); failed calls without a known place come last */
    uint32_t order_count;
};

/* One session of a script. */
struct crash_actor {
    struct crash_world *w;
    ash_session *s;
    ash_table *table[CRASH_TABLES];
    struct random random;
    struct crash_change *own;
    uint32_t own_count, own_room;
    bool in_txn;
    uint8_t *value;
};

struct crash_script {
    const char *name;
    void (*fn)(struct crash_actor *a); /* the one session */
    uint32_t sessions; /* > 1: fn runs in each, only put, delete, commit and rollback may be used */
    bool background;   /* with the engine's own checkpoints */
    bool small;        /* for loops over every request */
};
extern const struct crash_script crash_scripts[];
extern const uint32_t crash_script_count;

/* Runs the script in a simulation of its own on w->disk (made by the caller).  Returns what
 * task_sim_run() said. */
ash_rc crash_run(struct crash_world *w);
/* After a run: orders the commits and computes the states. */
void crash_states(struct crash_world *w);
void crash_world_free(struct crash_world *w);

/* Whether a database with this state may be found when commits up to acked_lsn were acknowledged
 * and `issued` commit calls had begun. */
bool crash_state_allowed(const struct crash_world *w, uint64_t state, uint64_t acked_lsn,
                         uint32_t issued);

/* Reads all rows of all tables of an open database. */
ASH_MUST_CHECK ash_rc crash_read_state(ash_db *db, uint64_t *state_out);
/* About `count` operations that any healthy database can do, on a table of their own; leaves the
 * state as it was. */
ASH_MUST_CHECK ash_rc crash_use(ash_db *db, uint32_t count);
/* Prints rows that differ from S_k, for a failure. */
void crash_explain(struct crash_world *w, ash_db *db, uint64_t acked_lsn, uint32_t issued);

#define CRASH_OPTIONS \
    "cache=1MiB,wal_buffer=1MiB,wal_segment=64KiB,zone_size=64KiB,wal_limit=1MiB,wal_writers=2,checkpoint_ms=10,executors=1,executor_fibers=1"

ASH_MUST_CHECK ash_rc crash_open(struct task_runtime *rt, struct sim_disk *disk, unsigned flags,
                                 bool quiet, ash_db **db_out);

#endif
