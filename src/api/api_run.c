/* SPDX-License-Identifier: Apache-2.0
 *
 * api_run.c - transaction functions on executors.
 */
#include "api/api_int.h"

#include <unistd.h>

#define API_FIBER_STACK (64u << 10)

struct api_run {
    ash_db *db;
    ash_run_fn fn;
    ash_done_fn done;
    void *arg;
};

ash_rc
api__executors_start(ash_db *db)
{
    unsigned count = (unsigned)db->options.v[OPT_executors];
    ash_rc rc = ASH_OK;

    if (count == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        count = cores > 0 ? (unsigned)cores : 1;
    }
    db->executors = mem_zalloc(MEM_API, count * sizeof(*db->executors));
    if (db->executors == NULL)
        return ASH_NO_MEMORY;
    while (db->executor_count < count && rc == ASH_OK) {
        rc = task_executor_create(db->rt, "executor", (unsigned)db->options.v[OPT_executor_fibers],
                                  (unsigned)db->options.v[OPT_executor_queue], API_FIBER_STACK,
                                  &db->executors[db->executor_count]);
        if (rc == ASH_OK)
            db->executor_count++;
    }
    return rc;
}

void
api__executors_stop(ash_db *db)
{
    for (unsigned i = 0; i < db->executor_count; i++)
        task_executor_destroy(db->executors[i]);
    db->executor_count = 0;
    MEM_FREE(MEM_API, db->executors);
}

static void
api_run_main(void *arg)
{
    struct api_run *run = arg;
    ash_session *s;
    ash_rc rc = api__session_take(run->db, &s);

    if (rc == ASH_OK) {
        rc = run->fn(s, run->arg);
        if (s->in_transaction) {
            struct err_detail why;
            err_save(&why);
            ash_rc undone = ash_rollback(s);
            err_restore(&why);
            rc = rc == ASH_OK ? undone : rc;
        }
        api__session_give(s);
    }
    if (run->done != NULL)
        run->done(run->arg, rc);
    mem_free(MEM_API, run);
}

ash_rc
ash_run(ash_db *db, ash_run_fn fn, void *arg, ash_done_fn done)
{
    ash_rc rc = api_check_db(db);

    if (rc != ASH_OK)
        return rc;
    if (db->executor_count == 0)
        return ash_raise(ASH_MISUSE, "The database has no executors; it is being closed.");
    struct api_run *run = mem_alloc(MEM_API, sizeof(*run));
    if (run == NULL)
        return ASH_NO_MEMORY;
    *run = (struct api_run){ db, fn, done, arg };
    unsigned next = atomic_fetch_add_explicit(&db->executor_next, 1, memory_order_relaxed);
    rc = task_executor_submit(db->executors[next % db->executor_count], api_run_main, run,
                              /* wait= */ true);
    if (rc != ASH_OK)
        mem_free(MEM_API, run);
    return rc;
}
