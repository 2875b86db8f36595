/* SPDX-License-Identifier: Apache-2.0
 *
 * test_run.c - functions on executors: every one is called once or was cancelled, its result and
 * its error's text arrive wherever they were asked for, queues are bounded, closing waits.
 */
#include "base/clock.h"

#include <poll.h>

#include "tests/api/db_env.h"

#define OPTIONS_ONE  DB_ENV_TINY ",executors=1,executor_fibers=1,executor_queue=4"
#define OPTIONS_SOME DB_ENV_TINY ",executors=2,executor_fibers=8,executor_queue=16"

/* ---- A place where functions wait until they may go on ---- */

struct gate {
    struct task_waitq waiters;
    _Atomic bool open;
    _Atomic unsigned waiting;
};

static void
gate_init(struct gate *g)
{
    task_waitq_init(&g->waiters);
    atomic_init(&g->open, false);
    atomic_init(&g->waiting, 0);
}

static void
gate_open(struct gate *g)
{
    atomic_store(&g->open, true);
    task_wait_wake(&g->waiters);
}

static ash_rc
gate_pass(ash_session *s, void *arg)
{
    struct gate *g = arg;
    struct task_waiter w;

    (void)s;
    atomic_fetch_add(&g->waiting, 1);
    task_wait_begin(&g->waiters, &w, 0);
    while (!atomic_load(&g->open))
        task_park();
    task_wait_end(&g->waiters, &w);
    return ASH_OK;
}

static void
gate_await(struct gate *g, unsigned waiting)
{
    while (atomic_load(&g->waiting) < waiting)
        task_sleep_ns(10000);
}

/* ---- Functions ---- */

static ash_rc
count_call(ash_session *s, void *arg)
{
    must(s != NULL && !ash_in_transaction(s), "the session is fresh");
    atomic_fetch_add((_Atomic unsigned *)arg, 1);
    return ASH_OK;
}

static ash_rc
fail_with_text(ash_session *s, void *arg)
{
    ash_table *t;

    (void)arg;
    return ash_table_open(s, "no such table", &t);
}

static ash_rc
fail_without_text(ash_session *s, void *arg)
{
    (void)s;
    (void)arg;
    return ASH_BUSY; /* a number of the application's own */
}

/* Runs a body in many simulations, then on a directory with both backends. */
static void
run_everywhere(void (*body)(struct db_env *e), const char *name)
{
    uint64_t first = test_seed(1), count = test_seed(0) != 0 ? 1 : test_scale(60, 3000);

    for (uint64_t i = 0; i < count; i++) {
        struct db_env e = { .kind = IO_BACKEND_SIM, .seed = first + i, .name = name };
        ash_rc rc = db_env_run(&e, body);
        must(rc == ASH_OK, "simulation: %s", ash_error_last()->message);
        must(e.leaked == 0, "%llu bytes leaked", (unsigned long long)e.leaked);
    }
    for (int kind = IO_BACKEND_URING; kind <= IO_BACKEND_THREADS; kind++) {
        struct db_env e = { .kind = (enum io_backend_kind)kind, .name = name };
        must_ok(db_env_run(&e, body));
    }
}

/* ---- Results ---- */

static void
body_results(struct db_env *e)
{
    ash_db *db = db_env_open(e, OPTIONS_SOME, /* quiet= */ false);
    _Atomic unsigned calls = 0;
    ash_future *ok, *text, *plain;

    must_ok(ash_submit(db, count_call, &calls, 0, &ok));
    must_ok(ash_submit(db, fail_with_text, NULL, 0, &text));
    must_ok(ash_submit(db, fail_without_text, NULL, ASH_SUBMIT_NOWAIT, &plain));
    for (int again = 0; again < 2; again++) {
        must_ok(ash_future_wait(ok));
        must_rc(ash_future_wait(text), ASH_NOT_FOUND);
        must(ash_error_last()->code == ASH_NOT_FOUND &&
                 strstr(ash_error_last()->message, "no such table") != NULL,
             "\"%s\"", ash_error_last()->message);
        must_rc(ash_future_wait(plain), ASH_BUSY);
        must(ash_error_last()->code == ASH_BUSY && ash_error_last()->message[0] != '\0', "\"%s\"",
             ash_error_last()->message);
        must(ash_future_poll(ok, 0), "it is done");
    }
    must(atomic_load(&calls) == 1 && ash_future_arg(ok) == &calls, "%u calls", calls);
    ash_future_close(ok);
    ash_future_close(NULL);
    must_ok(ash_close(db));
    must_rc(ash_future_wait(text), ASH_NOT_FOUND); /* futures outlive their database */
    ash_future_close(text);
    ash_future_close(plain);
}

/* Goal: a future brings the code and the sentence, as often as asked, also after ash_close(). */
START_TEST(futures_bring_results_and_their_text)
{
    run_everywhere(body_results, "results");
}
END_TEST

static void
body_bad_arguments(struct db_env *e)
{
    ash_db *db = db_env_open(e, OPTIONS_ONE, /* quiet= */ false);
    _Atomic unsigned calls = 0;
    ash_future *f = NULL;

    must_rc(ash_submit(db, count_call, &calls, 0, NULL), ASH_INVALID);
    must_rc(ash_submit(db, count_call, &calls, 1u << 9, &f), ASH_INVALID);
    must(f == NULL && atomic_load(&calls) == 0, "nothing happened");
    must_ok(ash_close(db));
    db = db_env_open(e, OPTIONS_ONE, /* quiet= */ true); /* no executors at all */
    must_rc(ash_submit(db, count_call, &calls, 0, &f), ASH_MISUSE);
    must(ash_completion_next(db) == NULL, "nothing to take");
    must_ok(ash_close(db));
}

START_TEST(bad_arguments_are_refused)
{
    run_everywhere(body_bad_arguments, "bad arguments");
}
END_TEST

/* ---- Cancelling ---- */

static void
body_cancel(struct db_env *e)
{
    ash_db *db = db_env_open(e, OPTIONS_ONE, /* quiet= */ false);
    _Atomic unsigned calls = 0;
    ash_future *held, *queued[3], *last;
    struct gate gate;

    gate_init(&gate);
    must_ok(ash_submit(db, gate_pass, &gate, 0, &held));
    gate_await(&gate, 1);
    for (int i = 0; i < 3; i++)
        must_ok(ash_submit(db, count_call, &calls, 0, &queued[i]));
    must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, &last));
    must(!ash_future_cancel(held), "it has begun");
    must(!ash_future_poll(held, 1) && !ash_future_poll(queued[0], 1), "nothing is done");
    must(ash_future_cancel(queued[1]), "it waits");
    must(!ash_future_cancel(queued[1]), "once");
    must(ash_future_poll(queued[1], 0), "its result is known at once");
    must_rc(ash_future_wait(queued[1]), ASH_CANCELLED);
    must(ash_error_last()->code == ASH_CANCELLED, "%s", ash_error_last()->message);
    ash_future_close(queued[1]); /* while the executor still has it */
    must(ash_future_cancel(last), "it waits");
    must(ash_completion_next(db) == last && ash_completion_next(db) == NULL, "told once");
    must_rc(ash_future_wait(last), ASH_CANCELLED);
    ash_future_close(last);
    gate_open(&gate);
    must_ok(ash_future_wait(held));
    ash_future_close(held);
    for (int i = 0; i < 3; i += 2) {
        must_ok(ash_future_wait(queued[i]));
        must(!ash_future_cancel(queued[i]), "it has ended");
        ash_future_close(queued[i]);
    }
    must_ok(ash_close(db));
    must(atomic_load(&calls) == 2, "%u calls", calls);
}

/* Goal: what is cancelled before it began is not called, and its result is ASH_CANCELLED. */
START_TEST(cancelled_functions_are_not_called)
{
    run_everywhere(body_cancel, "cancel");
}
END_TEST

/* ---- Bounds ---- */

struct nested {
    ash_db *db;
    _Atomic unsigned calls;
    unsigned refused;
    ash_rc rc;
};

/* On the only fiber of the only executor: waiting for room would be for ever. */
static ash_rc
submit_too_many(ash_session *s, void *arg)
{
    struct nested *n = arg;

    (void)s;
    for (int i = 0; i < 10; i++) {
        ash_rc rc = ash_run(n->db, count_call, &n->calls, NULL);
        if (rc != ASH_OK) {
            must_rc(rc, ASH_WOULD_BLOCK);
            n->refused++;
        }
    }
    n->rc = ash_close(n->db);
    return ASH_OK;
}

static void
body_bounds(struct db_env *e)
{
    ash_db *db = db_env_open(e, OPTIONS_ONE, /* quiet= */ false);
    struct nested n = { .db = db };
    _Atomic unsigned calls = 0;
    struct gate gate;
    ash_future *f, *held;

    gate_init(&gate);
    must_ok(ash_submit(db, gate_pass, &gate, 0, &held));
    gate_await(&gate, 1);
    for (int i = 0; i < 4; i++)
        must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOWAIT | ASH_SUBMIT_NOTIFY, NULL));
    must_rc(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOWAIT, &f), ASH_WOULD_BLOCK);
    gate_open(&gate);
    must_ok(ash_submit(db, count_call, &calls, 0, &f)); /* waits for room */
    must_ok(ash_future_wait(f));
    ash_future_close(f);
    ash_future_close(held);
    /* four results lie about, and no more than that may */
    must_rc(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, NULL), ASH_WOULD_BLOCK);
    ash_future_close(ash_completion_next(db));
    must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, NULL));
    must_ok(ash_submit(db, submit_too_many, &n, 0, &f));
    must_ok(ash_future_wait(f));
    ash_future_close(f);
    must(n.refused == 6, "%u refused", n.refused);
    must(n.rc == ASH_MISUSE, "close on an executor: %s", ash_rc_name(n.rc));
    must_ok(ash_close(db));
    must(atomic_load(&n.calls) == 4, "%u calls", n.calls);
    must(atomic_load(&calls) == 6, "%u calls", calls);
}

/* Goal: a full queue says so, blocks only whom it may block, and results left lying are bounded. */
START_TEST(queues_are_bounded)
{
    run_everywhere(body_bounds, "bounds");
}
END_TEST

/* ---- The queue of completions ---- */

static bool
readable(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };

    return poll(&p, 1, 0) == 1;
}

static void
body_completions(struct db_env *e)
{
    ash_db *db = db_env_open(e, OPTIONS_ONE, /* quiet= */ false);
    _Atomic unsigned calls = 0;
    ash_future *a, *b, *c;
    int fd, same;

    must(ash_completion_next(db) == NULL, "nothing yet");
    must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, &a));
    must_ok(ash_future_wait(a)); /* before anybody asked for the descriptor */
    must_ok(ash_completion_fd(db, &fd));
    must_ok(ash_completion_fd(db, &same));
    must(fd == same && readable(fd), "one descriptor, and it tells of the one before");
    must_ok(ash_submit(db, fail_with_text, NULL, ASH_SUBMIT_NOTIFY, &b));
    must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, &c));
    must_ok(ash_future_wait(c));
    must(ash_completion_next(db) == a && readable(fd), "in order");
    ash_future_close(a);
    must(ash_completion_next(db) == b && readable(fd), "in order");
    must_rc(ash_future_wait(b), ASH_NOT_FOUND);
    ash_future_close(b);
    ash_future_close(c); /* not taken: it leaves the queue */
    must(!readable(fd) && ash_completion_next(db) == NULL, "nothing is left");
    must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, &a));
    must_ok(ash_future_wait(a));
    must(readable(fd) && ash_completion_next(db) == a && !readable(fd), "again");
    /* left lying: one with and one without a handle, one closed before it is done */
    must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, &b));
    must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, NULL));
    must_ok(ash_submit(db, count_call, &calls, ASH_SUBMIT_NOTIFY, &c));
    ash_future_close(c);
    must_ok(ash_close(db));
    must(atomic_load(&calls) == 6, "%u calls", calls);
    ash_future_close(a);
    must_ok(ash_future_wait(b));
    ash_future_close(b);
}

/* Goal: the descriptor is readable exactly while there is something to take; each is handed out
 * once, in the order in which they ended. */
START_TEST(the_descriptor_tells_of_completions)
{
    run_everywhere(body_completions, "completions");
}
END_TEST

/* ---- Everything at once ---- */

#define SUBMITTERS 3u
#define JOBS       20u /* of each */

enum job_kind {
    JOB_CALLBACK,
    JOB_WAIT,
    JOB_UNHEARD,
    JOB_CANCEL,
    JOB_NOTIFY,
    JOB_KINDS
};

struct job {
    struct storm *storm;
    enum job_kind kind;
    unsigned number;
    _Atomic unsigned calls, told, cancelled;
};

struct storm {
    struct db_env *e;
    ash_db *db;
    ash_table *table;
    struct job job[SUBMITTERS][JOBS];
    _Atomic unsigned notify, taken, submitting, ended;
};

struct submitter {
    struct storm *storm;
    unsigned index;
    struct task *task;
};

static ash_rc
job_expected(const struct job *j)
{
    return j->number % 3 == 0 ? ASH_NOT_FOUND : ASH_OK;
}

static ash_rc
job_work(ash_session *s, struct job *j)
{
    struct ash_slice key = ash_slice(&j->number, sizeof(j->number)), value;

    must(atomic_fetch_add(&j->calls, 1) == 0, "called twice");
    if (j->number % 3 == 0)
        return ash_get(s, j->storm->table, key, &value);
    if (j->number % 3 == 1)
        must_ok(ash_begin(s, NULL)); /* left open: rolled back */
    must_ok(ash_put(s, j->storm->table, key, key));
    return ASH_OK;
}

static ash_rc
job_run(ash_session *s, void *arg)
{
    struct job *j = arg;
    ash_rc rc = job_work(s, j);

    atomic_fetch_add(&j->storm->ended, 1);
    return rc;
}

static void
job_done(void *arg, ash_rc rc)
{
    struct job *j = arg;

    must(rc == job_expected(j), "%s", ash_rc_name(rc));
    must(atomic_fetch_add(&j->told, 1) == 0, "told twice");
}

static void
job_submit(struct storm *w, struct job *j, struct random *rnd)
{
    ash_future *f;

    switch (j->kind) {
    case JOB_CALLBACK: must_ok(ash_run(w->db, job_run, j, job_done)); return;
    case JOB_NOTIFY: must_ok(ash_submit(w->db, job_run, j, ASH_SUBMIT_NOTIFY, NULL)); return;
    default: must_ok(ash_submit(w->db, job_run, j, 0, &f)); break;
    }
    if (random_chance(rnd, 1, 3))
        task_yield();
    if (j->kind == JOB_CANCEL && ash_future_cancel(f)) {
        atomic_store(&j->cancelled, 1);
        atomic_fetch_add(&w->ended, 1);
    }
    if (j->kind != JOB_UNHEARD) {
        bool cancelled = atomic_load(&j->cancelled) != 0;
        must_rc(ash_future_wait(f), cancelled ? ASH_CANCELLED : job_expected(j));
        must(atomic_load(&j->calls) == (cancelled ? 0u : 1u), "%u calls", j->calls);
        atomic_fetch_add(&j->told, 1);
    }
    ash_future_close(f);
}

static void
submitter_main(void *arg)
{
    struct submitter *sub = arg;
    struct storm *w = sub->storm;
    struct random rnd;

    random_init(&rnd, w->e->seed * 31 + sub->index);
    for (unsigned i = 0; i < JOBS; i++) {
        struct job *j = &w->job[sub->index][i];
        *j = (struct job){ .storm = w, .number = sub->index * JOBS + i };
        j->kind = (enum job_kind)random_below(&rnd, JOB_KINDS);
        if (j->kind == JOB_NOTIFY)
            atomic_fetch_add(&w->notify, 1);
        job_submit(w, j, &rnd);
    }
    atomic_fetch_sub(&w->submitting, 1);
}

static void
drain(struct storm *w, int fd)
{
    while (atomic_load(&w->submitting) > 0 || atomic_load(&w->taken) < atomic_load(&w->notify)) {
        ash_future *f = ash_completion_next(w->db);
        if (f == NULL) {
            struct pollfd p = { .fd = fd, .events = POLLIN };
            if (w->e->kind == IO_BACKEND_SIM)
                task_sleep_ns(5000);
            else
                must(poll(&p, 1, 1) >= 0, "poll");
            continue;
        }
        struct job *j = ash_future_arg(f);
        must(j->kind == JOB_NOTIFY && ash_future_poll(f, 0), "one of those, and done");
        must_rc(ash_future_wait(f), job_expected(j));
        must(atomic_fetch_add(&j->told, 1) == 0, "handed out twice");
        ash_future_close(f);
        atomic_fetch_add(&w->taken, 1);
    }
}

static void
body_storm(struct db_env *e)
{
    struct storm *w = mem_zalloc(MEM_TOOL, sizeof(*w));
    struct submitter sub[SUBMITTERS];
    ash_session *s;
    int fd;

    must(w != NULL, "memory");
    w->e = e;
    w->db = db_env_open(e, OPTIONS_SOME, /* quiet= */ false);
    must_ok(ash_session_open(w->db, &s));
    must_ok(ash_table_create(s, "t", NULL));
    must_ok(ash_table_open(s, "t", &w->table));
    ash_session_close(s);
    must_ok(ash_completion_fd(w->db, &fd));
    atomic_store(&w->submitting, SUBMITTERS);
    for (unsigned i = 0; i < SUBMITTERS; i++) {
        sub[i] = (struct submitter){ .storm = w, .index = i };
        must_ok(task_spawn(e->rt, "submitter", submitter_main, &sub[i], &sub[i].task));
    }
    drain(w, fd);
    for (unsigned i = 0; i < SUBMITTERS; i++)
        task_join(sub[i].task);
    while (atomic_load(&w->ended) < SUBMITTERS * JOBS) /* the handle is theirs, too */
        task_sleep_ns(10000);
    ash_table_close(w->table);
    must_ok(ash_close(w->db));
    for (unsigned i = 0; i < SUBMITTERS * JOBS; i++) {
        struct job *j = &w->job[i / JOBS][i % JOBS];
        must(j->calls + j->cancelled == 1, "job %u of kind %d: %u calls", i, (int)j->kind,
             j->calls);
        must(j->told == (j->kind != JOB_UNHEARD), "job %u of kind %d: told %u times", i,
             (int)j->kind, j->told);
    }
    mem_free(MEM_TOOL, w);
}

/* Goal: whatever the mixture, each function is called once unless cancelled, each result told
 * once. */
START_TEST(each_function_is_called_once_and_told_once)
{
    run_everywhere(body_storm, "storm");
}
END_TEST

/* ---- Closing ---- */

struct chain {
    ash_db *db;
    _Atomic unsigned links;
    _Atomic unsigned refused;
};

/* Submits itself again until the database takes no more. */
static ash_rc
chain_link(ash_session *s, void *arg)
{
    struct chain *c = arg;

    (void)s;
    if (atomic_fetch_add(&c->links, 1) > 1000000)
        return ASH_OK; /* it would never end */
    task_yield();
    ash_rc rc = ash_run(c->db, chain_link, c, NULL);
    must(rc == ASH_OK || rc == ASH_MISUSE, "%s", ash_rc_name(rc));
    if (rc == ASH_MISUSE)
        atomic_fetch_add(&c->refused, 1);
    return ASH_OK;
}

static void
body_close(struct db_env *e)
{
    struct chain c = { .db = db_env_open(e, OPTIONS_SOME, /* quiet= */ false) };
    _Atomic unsigned calls = 0;
    ash_future *f[8];

    for (int i = 0; i < 3; i++)
        must_ok(ash_run(c.db, chain_link, &c, NULL));
    for (int i = 0; i < 8; i++)
        must_ok(ash_submit(c.db, count_call, &calls, 0, &f[i]));
    task_sleep_ns(50000);
    must_ok(ash_close(c.db));
    must(atomic_load(&calls) == 8, "%u calls", calls);
    must(atomic_load(&c.refused) == 3, "%u chains were stopped", c.refused);
    for (int i = 0; i < 8; i++) {
        must_ok(ash_future_wait(f[i]));
        ash_future_close(f[i]);
    }
}

/* Goal: ash_close() waits for what was submitted, and stops those who go on submitting. */
START_TEST(closing_waits_for_what_was_submitted)
{
    run_everywhere(body_close, "close");
}
END_TEST

/* ---- Placement ---- */

static void
find_running(void *arg, const char *name, uint64_t value)
{
    if (strcmp(name, "executors.running") == 0)
        *(uint64_t *)arg = value;
}

static void
body_placement(struct db_env *e)
{
    uint64_t running;
    ash_db *db = db_env_open(e, DB_ENV_TINY ",executors=2,executor_fibers=1", /* quiet= */ false);
    _Atomic unsigned calls = 0;
    struct gate gate;
    ash_future *held, *f;

    gate_init(&gate);
    must_ok(ash_submit(db, gate_pass, &gate, 0, &held));
    gate_await(&gate, 1);
    for (int i = 0; i < 20; i++) {
        do { /* the fiber of the one before ends a moment after its future */
            task_yield();
            must_ok(ash_stats(db, find_running, &running));
        } while (running > 1);
        must_ok(ash_submit(db, count_call, &calls, 0, &f));
        must(ash_future_poll(f, 10000), "function %d waits behind one that stands still", i);
        ash_future_close(f);
    }
    gate_open(&gate);
    must_ok(ash_future_wait(held));
    ash_future_close(held);
    must_ok(ash_close(db));
}

/* Goal: functions go where there is less to do. */
START_TEST(functions_avoid_a_busy_executor)
{
    run_everywhere(body_placement, "placement");
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("run");
    TCase *t = tcase_create("run");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, futures_bring_results_and_their_text);
    tcase_add_test(t, bad_arguments_are_refused);
    tcase_add_test(t, cancelled_functions_are_not_called);
    tcase_add_test(t, queues_are_bounded);
    tcase_add_test(t, the_descriptor_tells_of_completions);
    tcase_add_test(t, each_function_is_called_once_and_told_once);
    tcase_add_test(t, closing_waits_for_what_was_submitted);
    tcase_add_test(t, functions_avoid_a_busy_executor);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
