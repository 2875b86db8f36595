/* SPDX-License-Identifier: Apache-2.0
 *
 * test_faults.c - every I/O request and every memory allocation of a workload fails once.
 *
 * Method (SQLite's loops): run a small script with request 1 failing, then 2, and so on until a run
 * meets no fault.  What must hold each time:
 *
 *   F1  No crash, no hang; the calls report an error, never a wrong answer; nothing is leaked.
 *   F2  The error has a sentence, and its code fits the cause.
 *   F3  After opening again without faults, everything acknowledged is there and the rest whole or
 *       absent (crash_world.h O1-O3); ash_verify() finds nothing.
 */
#include "storage/io.h"

#include <errno.h>

#include "tests/crash/crash_world.h"

#define STEPS_MAX 20000000u

struct fault_run {
    const struct crash_script *script;
    struct sim_fault fault;
    uint64_t memory_at; /* which allocation fails; 0: none */
    bool memory_sticky;
    uint64_t seed;
    bool hit;      /* the fault happened */
    ash_rc failed; /* what the script met */
};

static struct {
    uint64_t runs, failures, clean;
} total;

_Noreturn static void
bad(const struct fault_run *f, const char *what)
{
    fprintf(
        stderr,
        "%s\n  script %s, op %d, request %llu, errno %d, %s; memory %llu %s; seed %llu\n  %s (%s)\n",
        what, f->script->name, f->fault.op, (unsigned long long)f->fault.nth, f->fault.sys_errno,
        f->fault.sticky ? "sticky" : "once", (unsigned long long)f->memory_at,
        f->memory_sticky ? "sticky" : "once", (unsigned long long)f->seed,
        ash_error_last()->message, ash_error_last()->where);
    _exit(1);
}

/* ---- Opening again ---- */

struct check {
    const struct fault_run *f;
    struct crash_world *w;
    struct task_runtime *rt;
};

/* Without memory the pages of a replaced value may be forgotten (txn_add_garbage): space, never
 * data. */
struct findings {
    bool memory;
    uint32_t count;
};

static void
finding(void *arg, const char *file, uint64_t page, const char *message)
{
    struct findings *f = arg;

    if (f->memory && strstr(message, "allocated, but no table owns it") != NULL)
        return;
    f->count++;
    db_env_finding(NULL, file, page, message);
}

static void
check_body(void *arg)
{
    struct check *c = arg;
    ash_db *db;
    uint64_t state;

    if (crash_open(c->rt, c->w->disk, ASH_OPEN_CREATE, true, &db) != ASH_OK)
        bad(c->f, "the database does not open after the fault");
    if (crash_read_state(db, &state) != ASH_OK)
        bad(c->f, "reading failed after the fault");
    if (!crash_state_allowed(c->w, state, c->w->acked_lsn, c->w->commit_count)) {
        crash_explain(c->w, db, c->w->acked_lsn, c->w->commit_count);
        bad(c->f, "a state that may not be");
    }
    struct findings found = { .memory = c->f->memory_at != 0 };
    if (ash_verify(db, finding, &found) != ASH_OK && found.count > 0)
        bad(c->f, "verification failed");
    if (crash_use(db, 10) != ASH_OK)
        bad(c->f, "the database does not work after the fault");
    if (ash_close(db) != ASH_OK)
        bad(c->f, "close failed");
}

static void
check_after(const struct fault_run *f, struct crash_world *w)
{
    struct task_sim_options o = { .seed = f->seed + 1, .step_max = STEPS_MAX };
    struct check c = { f, w, NULL };

    sim_disk_fault(w->disk, NULL);
    sim_disk_limit(w->disk, 0);
    sim_disk_restart(w->disk);
    crash_states(w);
    must_ok(task_sim_create(&o, &c.rt));
    if (task_sim_run(c.rt, check_body, &c) != ASH_OK)
        bad(f, "opening again hangs");
    task_runtime_destroy(c.rt);
}

/* ---- One run ---- */

static bool
code_fits(const struct fault_run *f, ash_rc rc)
{
    if (rc == ASH_POISONED)
        return true; /* a later call: the first failure was in the background */
    if (f->memory_at != 0)
        return rc == ASH_NO_MEMORY;
    switch (f->fault.sys_errno) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return rc == ASH_NO_SPACE || rc == ASH_IO;
    default: return rc == ASH_IO;
    }
}

static void
run(struct fault_run *f)
{
    struct crash_world w = { .script = f->script,
                             .seed = f->seed,
                             .faults = true,
                             .memory_at = f->memory_at,
                             .memory_sticky = f->memory_sticky };

    must_ok(sim_disk_create(f->seed, &w.disk));
    if (f->fault.kind != SIM_FAULT_NONE)
        sim_disk_fault(w.disk, &f->fault);
    ash_rc rc = crash_run(&w);
    if (f->memory_at != 0)
        f->hit = w.allocations >= f->memory_at;
    else
        f->hit = sim_disk_requests(w.disk, f->fault.op) >= f->fault.nth;
    if (rc != ASH_OK)
        bad(f, "the run hangs (F1)");
    f->failed = w.failed;
    if (w.failed != ASH_OK && !code_fits(f, w.failed)) {
        fprintf(stderr, "%s\n", w.failed_text);
        bad(f, "the code does not fit the cause (F2)");
    }
    check_after(f, &w);
    sim_disk_destroy(w.disk);
    crash_world_free(&w);
    total.runs++;
    total.failures += f->failed != ASH_OK;
    total.clean += f->failed == ASH_OK;
}

/* ---- I/O ---- */

static void
fail_each(const struct crash_script *script, int op, int sys_errno, bool sticky, uint64_t stride)
{
    for (uint64_t nth = 1;; nth += stride) {
        struct fault_run f = { .script = script, .seed = test_seed(1) };
        f.fault = (struct sim_fault){
            .kind = SIM_FAULT_ERROR, .op = op, .nth = nth, .sticky = sticky, .sys_errno = sys_errno
        };
        run(&f);
        if (!f.hit)
            break;
    }
}

START_TEST(every_request_may_fail)
{
    static const int errors[] = { EIO, ENOSPC, ENODATA, EFBIG, EDQUOT };
    static const int ops[] = { IO_OP_READ, IO_OP_WRITE, IO_OP_FLUSH, SIM_OP_DIR, SIM_OP_SIZE };
    bool full = test_scale(0, 1) != 0;

    for (uint32_t s = 0; s < crash_script_count; s++) {
        if (!crash_scripts[s].small)
            continue;
        for (uint32_t e = 0; e < ASH_ARRAY_SIZE(errors); e++)
            for (int sticky = 0; sticky < 2; sticky++)
                if (full || (e + s) % 5 == (uint32_t)sticky)
                    fail_each(&crash_scripts[s], ops[_i], errors[e], sticky != 0, full ? 1 : 3);
    }
    printf("op %d: %llu runs, %llu failed, %llu went on\n", ops[_i], (unsigned long long)total.runs,
           (unsigned long long)total.failures, (unsigned long long)total.clean);
    memset(&total, 0, sizeof(total));
}
END_TEST

/* Interrupted, delayed and short requests are nobody's business but the disk manager's. */
START_TEST(harmless_faults_are_not_seen)
{
    static const struct sim_fault faults[] = { { .kind = SIM_FAULT_ERROR, .sys_errno = EINTR },
                                               { .kind = SIM_FAULT_ERROR, .sys_errno = EAGAIN },
                                               { .kind = SIM_FAULT_SHORT },
                                               { .kind = SIM_FAULT_DELAY, .delta = 50000000 } };
    uint64_t stride = test_scale(4, 1);

    for (uint32_t s = 0; s < crash_script_count; s++)
        for (uint32_t k = 0; k < ASH_ARRAY_SIZE(faults) && crash_scripts[s].small; k++)
            for (int op = IO_OP_READ; op <= IO_OP_WRITE; op++)
                for (uint64_t nth = 1;; nth += stride) {
                    struct fault_run f = { .script = &crash_scripts[s],
                                           .seed = test_seed(1),
                                           .fault = faults[k] };
                    f.fault.nth = nth;
                    f.fault.op = op;
                    run(&f);
                    if (f.failed != ASH_OK)
                        bad(&f, "a harmless fault reached the caller");
                    if (!f.hit)
                        break;
                }
}
END_TEST

/* A disk that is full at some moment: what is refused is refused cleanly. */
START_TEST(a_full_disk_loses_nothing)
{
    uint64_t step = test_scale(192u << 10, 16u << 10);

    for (uint32_t s = 0; s < crash_script_count; s++)
        for (uint64_t limit = 64u << 10; limit <= (4u << 20) && crash_scripts[s].small;
             limit += step) {
            struct crash_world w = { .script = &crash_scripts[s],
                                     .seed = test_seed(1),
                                     .faults = true };
            struct fault_run f = { .script = w.script, .seed = w.seed, .fault = { .nth = limit } };
            must_ok(sim_disk_create(w.seed, &w.disk));
            sim_disk_limit(w.disk, limit);
            if (crash_run(&w) != ASH_OK)
                bad(&f, "the run hangs on a full disk");
            if (w.failed != ASH_OK && w.failed != ASH_NO_SPACE && w.failed != ASH_POISONED) {
                fprintf(stderr, "%s\n", w.failed_text);
                bad(&f, "the code does not fit a full disk");
            }
            check_after(&f, &w);
            sim_disk_destroy(w.disk);
            crash_world_free(&w);
        }
}
END_TEST

/* ---- Memory ---- */

START_TEST(every_allocation_may_fail)
{
    uint64_t stride = test_scale(2, 1);

    for (uint32_t s = 0; s < crash_script_count; s++) {
        if (!crash_scripts[s].small)
            continue;
        for (int sticky = 0; sticky < 2; sticky++)
            for (uint64_t n = 1 + (uint64_t)s % stride;; n += stride) {
                struct fault_run f = { .script = &crash_scripts[s],
                                       .seed = test_seed(1),
                                       .memory_at = n,
                                       .memory_sticky = sticky != 0 };
                run(&f);
                if (!f.hit)
                    break;
            }
    }
    printf("memory: %llu runs, %llu failed, %llu went on\n", (unsigned long long)total.runs,
           (unsigned long long)total.failures, (unsigned long long)total.clean);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("faults");
    TCase *io = tcase_create("io"), *memory = tcase_create("memory");

    tcase_set_timeout(io, (double)test_scale(300, 36000));
    tcase_set_timeout(memory, (double)test_scale(300, 36000));
    tcase_add_loop_test(io, every_request_may_fail, 0, 5);
    tcase_add_test(io, harmless_faults_are_not_seen);
    tcase_add_test(io, a_full_disk_loses_nothing);
    tcase_add_test(memory, every_allocation_may_fail);
    suite_add_tcase(s, io);
    suite_add_tcase(s, memory);
    return s;
}

TEST_MAIN(suite)
