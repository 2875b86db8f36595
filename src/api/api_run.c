/* SPDX-License-Identifier: Apache-2.0
 *
 * api_run.c - functions on executors: which executor takes one, and what happens around it.
 *
 * Entry points: ash_run(), ash_submit(), api__executors_stop().
 *
 * Placement: each function goes to the less loaded of two executors, of which the first comes by
 * turns.  A function that has been queued stays where it is (src/task/README.md, "No work
 * stealing").
 *
 * Closing: `closing` is set, then `submitting` is waited for (both sequentially consistent): who
 * came before is in a queue by then, and who comes later is refused.  Only then do executors end,
 * so that a function on one cannot submit to another that is gone.
 */
#include "api/api_int.h"

#include <unistd.h>

#define API_FIBER_STACK (64u << 10)

void
api__run_init(ash_db *db)
{
    api__completions_init(&db->completions);
}

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
    db->completions.limit = count * db->options.v[OPT_executor_queue];
    return rc;
}

void
api__executors_stop(ash_db *db)
{
    unsigned spins = 0;

    atomic_store(&db->closing, true);
    while (atomic_load(&db->submitting) > 0)
        task_relax(&spins);
    for (unsigned i = 0; i < db->executor_count; i++)
        task_executor_destroy(db->executors[i]);
    db->executor_count = 0;
    MEM_FREE(MEM_API, db->executors);
}

void
api__run_end(ash_db *db)
{
    api__completions_end(&db->completions);
}

bool
api__on_executor(const ash_db *db)
{
    const struct task_executor *self = task_executor_self();

    for (unsigned i = 0; i < db->executor_count && self != NULL; i++)
        if (db->executors[i] == self)
            return true;
    return false;
}

/* Calls the function with a session of its own. */
static ash_rc
run_call(const struct api_run *run)
{
    ash_session *s;
    ash_rc rc = api__session_take(run->db, &s);

    if (rc != ASH_OK)
        return rc;
    rc = run->fn(s, run->arg);
    if (s->in_transaction) {
        struct err_detail why;
        err_save(&why);
        ash_rc undone = ash_rollback(s);
        if (rc != ASH_OK)
            err_restore(&why);
        rc = rc == ASH_OK ? undone : rc;
    }
    api__session_give(s);
    return rc;
}

static void
run_main(void *arg)
{
    struct api_run *run = arg;
    ash_rc rc = run_call(run);

    if (run->done != NULL)
        run->done(run->arg, rc);
    mem_free(MEM_API, run);
}

static void
run_future(void *arg)
{
    struct ash_future *f = arg;

    if (api__future_claim(f))
        api__future_finish(f, run_call(&f->run));
    api__future_unref(f);
}

/* The less loaded of two, or the next that has room. */
static struct task_executor *
executor_pick(ash_db *db)
{
    unsigned n = db->executor_count;
    unsigned turn = atomic_fetch_add_explicit(&db->executor_next, 1, memory_order_relaxed);
    unsigned a = turn % n, b = n == 1 ? a : (a + 1 + turn / n % (n - 1)) % n;

    if (!PLANTED(387) &&
        task_executor_load(db->executors[b]) < task_executor_load(db->executors[a]))
        a = b;
    for (unsigned i = 0; i < n; i++) {
        struct task_executor *ex = db->executors[(a + i) % n];
        if (!task_executor_full(ex))
            return ex;
    }
    return db->executors[a];
}

static ash_rc
submit(ash_db *db, void (*fn)(void *arg), void *arg, bool wait)
{
    ash_rc rc;

    atomic_fetch_add(&db->submitting, 1);
    if ((atomic_load(&db->closing) && !PLANTED(388)) || db->executor_count == 0)
        rc = ash_raise(ASH_MISUSE, "The database takes no more functions; it is being closed.");
    else /* a fiber that waited for room would hold what makes room */
        rc = task_executor_submit(executor_pick(db), fn, arg,
                                  wait && (!api__on_executor(db) || PLANTED(389)));
    atomic_fetch_sub(&db->submitting, 1);
    return rc;
}

ash_rc
ash_run(ash_db *db, ash_run_fn fn, void *arg, ash_done_fn done)
{
    ash_rc rc = api_check_db(db);

    if (rc != ASH_OK)
        return rc;
    struct api_run *run = mem_alloc(MEM_API, sizeof(*run));
    if (run == NULL)
        return ASH_NO_MEMORY;
    *run = (struct api_run){ db, fn, done, arg };
    rc = submit(db, run_main, run, /* wait= */ true);
    if (rc != ASH_OK)
        mem_free(MEM_API, run);
    return rc;
}

static ash_rc
submit_check(ash_db *db, unsigned flags, ash_future *const *future_out)
{
    ash_rc rc = api_check_db(db);

    if (rc != ASH_OK)
        return rc;
    if ((flags & ~(unsigned)(ASH_SUBMIT_NOWAIT | ASH_SUBMIT_NOTIFY)) != 0)
        return ash_raise(ASH_INVALID, "There are no such flags of ash_submit(): %#x.", flags);
    if ((flags & ASH_SUBMIT_NOTIFY) == 0)
        return future_out != NULL
                   ? ASH_OK
                   : ash_raise(
                         ASH_INVALID,
                         "Without ASH_SUBMIT_NOTIFY, ash_submit() needs a place for the future.");
    if (atomic_load_explicit(&db->completions.count, memory_order_relaxed) < db->completions.limit)
        return ASH_OK;
    return ash_raise(ASH_WOULD_BLOCK,
                     "%llu futures are done and nobody takes them; call ash_completion_next().",
                     (unsigned long long)db->completions.limit);
}

ash_rc
ash_submit(ash_db *db, ash_run_fn fn, void *arg, unsigned flags, ash_future **future_out)
{
    ash_rc rc = submit_check(db, flags, future_out);

    if (rc != ASH_OK)
        return rc;
    struct ash_future *f = mem_alloc(MEM_API, sizeof(*f));
    if (f == NULL)
        return ASH_NO_MEMORY;
    *f = (struct ash_future){ .run = { db, fn, NULL, arg },
                              .fork_generation = db->fork_generation,
                              .notify = (flags & ASH_SUBMIT_NOTIFY) != 0,
                              .handle = future_out != NULL,
                              .refs = 2 };
    task_waitq_init(&f->waiters);
    list_init(&f->link);
    rc = submit(db, run_future, f, (flags & ASH_SUBMIT_NOWAIT) == 0);
    if (rc != ASH_OK)
        mem_free(MEM_API, f);
    else if (future_out != NULL)
        *future_out = f;
    return rc;
}

void
api__executors_stat(ash_db *db, ash_stat_fn fn, void *arg)
{
    struct task_executor_stats sum = { 0 };

    for (unsigned i = 0; i < db->executor_count; i++)
        task_executor_stats(db->executors[i], &sum);
    fn(arg, "executors.count", db->executor_count);
    fn(arg, "executors.queued", sum.queued);
    fn(arg, "executors.running", sum.busy);
    fn(arg, "executors.finished", sum.finished);
    fn(arg, "executors.completions_waiting", atomic_load(&db->completions.count));
    fn(arg, "executors.switches", sum.switches);
    fn(arg, "executors.slices_spent", sum.slices_spent);
    fn(arg, "executors.fibers", sum.fibers);
    fn(arg, "executors.stack_bytes", sum.stack_bytes);
    fn(arg, "executors.stack_resident", sum.stack_resident);
    fn(arg, "executors.stack_high_water", sum.stack_high);
    fn(arg, "executors.stacks_given_back", sum.stacks_given_back);
}
