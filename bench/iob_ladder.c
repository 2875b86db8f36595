/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_ladder.c - one job in every way that the disk manager can do it, to see what each gains here.
 *
 * Rungs differ in options only, so each can be repeated alone with `ashlar-bench io`.  All rungs
 * are run in turn, ROUNDS times, and the median round of each counts: a device that is throttled
 * or shared would otherwise favour whoever comes at the right moment.
 */
#include "base/assert.h"
#include "base/error.h"

#include <inttypes.h>
#include <string.h>

#include "iob.h"

#define ROUNDS       3u
#define RUNG_SECONDS 1u /* where the job names no runtime */

enum {
    NONE,
    REGISTERED,
    SQPOLL,
    IOPOLL
}; /* each with what stands before it but SQPOLL */

struct rung {
    const char *name;
    enum iob_engine engine;
    bool deep;      /* with the job's iodepth, else 1 */
    unsigned batch; /* iodepth_batch */
    unsigned flags;
    unsigned over; /* the rung that it is compared to */
};

static const struct rung rungs[] = {
    /* 0 */ { "psync", IOB_ENGINE_PSYNC, false, 0, NONE, 0 },
    /* 1 */ { "threads", IOB_ENGINE_THREADS, true, 0, NONE, 0 },
    /* 2 */ { "uring, depth 1", IOB_ENGINE_IO_URING, false, 0, NONE, 0 },
    /* 3 */ { "uring, one by one", IOB_ENGINE_IO_URING, true, 1, NONE, 2 },
    /* 4 */ { "uring, batched", IOB_ENGINE_IO_URING, true, 0, NONE, 3 },
    /* 5 */ { "  + registered", IOB_ENGINE_IO_URING, true, 0, REGISTERED, 4 },
    /* 6 */ { "  + SQPOLL", IOB_ENGINE_IO_URING, true, 0, SQPOLL, 5 },
    /* 7 */ { "  + IOPOLL", IOB_ENGINE_IO_URING, true, 0, IOPOLL, 5 },
};
#define RUNGS ASH_ARRAY_SIZE(rungs)

struct figures {
    double iops, cpu_us, syscalls, p50_us, p99_us;
};

struct climb {
    struct figures round[ROUNDS];
    unsigned rounds;
    char failure[ERR_MESSAGE_MAX];
};

static void
set_rung(struct iob_job *job, const struct rung *rung)
{
    job->ioengine = rung->engine;
    job->iodepth = rung->deep ? job->iodepth : 1;
    job->iodepth_batch = rung->batch;
    job->fixedbufs = job->registerfiles = rung->flags >= REGISTERED;
    job->sqthread_poll = rung->flags == SQPOLL;
    job->hipri = rung->flags == IOPOLL;
    job->group_reporting = 1;
    job->time_based = 1;
    job->loops = 1;
    if (job->runtime == 0)
        job->runtime = RUNG_SECONDS * 1000000000ull;
}

static void
figures_of(const struct iob_stats *s, struct figures *out)
{
    const struct iob_dir_stats *most =
        &s->dir[s->dir[IOB_WRITE].ios > s->dir[IOB_READ].ios ? IOB_WRITE : IOB_READ];
    double ios = (double)(s->dir[IOB_READ].ios + s->dir[IOB_WRITE].ios);

    out->iops = ios / ((double)s->runtime_ns / 1e9);
    out->cpu_us = ios > 0 ? s->process_s * 1e6 / ios : 0;
    out->syscalls = ios > 0 ? (double)s->syscalls / ios : 0;
    out->p50_us = (double)hist_quantile(most->hist, 0.5) / 1e3;
    out->p99_us = (double)hist_quantile(most->hist, 0.99) / 1e3;
}

/* One run of a rung.  The first failure is its result. */
static void
run_rung(const struct iob_setup *s, const struct rung *rung, struct climb *c)
{
    struct iob_job job = *s->job[0];
    struct iob_setup one = { .command = s->command, .job = { &job }, .jobs = 1 };
    struct iob_run run;

    set_rung(&job, rung);
    if (iob_run(&one, &run) != ASH_OK) {
        snprintf(c->failure, sizeof(c->failure), "not run: %.400s", err_current()->message);
        return;
    }
    if (run.failed)
        snprintf(c->failure, sizeof(c->failure), "failed: %.400s", run.result[0].stats.message);
    else
        figures_of(&run.result[0].stats, &c->round[c->rounds++]);
    iob_run_deinit(&run);
}

/* The round with the median of I/Os per s; NULL: there is none. */
static const struct figures *
median(struct climb *c)
{
    for (unsigned i = 1; i < c->rounds; i++) {
        for (unsigned k = i; k > 0 && c->round[k].iops < c->round[k - 1].iops; k--) {
            struct figures swap = c->round[k];
            c->round[k] = c->round[k - 1];
            c->round[k - 1] = swap;
        }
    }
    return c->rounds == 0 ? NULL : &c->round[c->rounds / 2];
}

static void
print_rung(FILE *f, const struct rung *rung, struct climb *c, struct climb *all)
{
    const struct figures *now = median(c), *before = median(&all[rung->over]);

    if (now == NULL) {
        fprintf(f, "%-18s %s\n", rung->name, c->failure);
        return;
    }
    fprintf(f, "%-18s %10.0f %8.2f %9.3f %9.1f %9.1f", rung->name, now->iops, now->cpu_us,
            now->syscalls, now->p50_us, now->p99_us);
    if (before != NULL && before != now)
        fprintf(f, " %+8.1f%% %+8.1f%%  %s", 100 * (now->iops / before->iops - 1),
                100 * (before->cpu_us / now->cpu_us - 1),
                rungs[rung->over].name + strspn(rungs[rung->over].name, " +"));
    fputc('\n', f);
}

ash_rc
iob_ladder(const struct iob_setup *s, FILE *f)
{
    struct climb climb[RUNGS] = { 0 };

    if (s->jobs != 1)
        return ash_raise(ASH_INVALID, "--ladder takes one job, not %u.", s->jobs);
    if (iob_verifies(s->job[0]))
        return ash_raise(ASH_INVALID, "--ladder measures; give it a job without verify.");
    for (unsigned round = 0; round < ROUNDS; round++)
        for (unsigned i = 0; i < RUNGS && iob_interrupted == 0; i++)
            if (climb[i].failure[0] == '\0')
                run_rung(s, &rungs[i], &climb[i]);
    fprintf(f, "%-18s %10s %8s %9s %9s %9s %9s %9s\n", "iodepth as the job", "IOPS", "cpu us",
            "syscalls", "p50 us", "p99 us", "gain", "gain  over");
    fprintf(f, "%-18s %10s %8s %9s %9s %9s %9s %9s\n", "", "", "per I/O", "per I/O", "", "", "IOPS",
            "IOPS/CPU");
    for (unsigned i = 0; i < RUNGS; i++)
        print_rung(f, &rungs[i], &climb[i], climb);
    fprintf(f, "%-18s not run: the disk manager has no NVMe passthrough.\n", "  + passthrough");
    fprintf(f, "\nMedian of %u rounds.  cpu us: of the whole process, kernel workers included.\n",
            ROUNDS);
    return ASH_OK;
}
