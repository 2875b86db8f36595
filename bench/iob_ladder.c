/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_ladder.c - one job in every way that the disk manager can do it, to see what each gains here.
 *
 * Rungs differ in options only, so each can be repeated alone with `ashlar-bench io`.
 */
#include "base/assert.h"
#include "base/error.h"

#include <inttypes.h>
#include <string.h>

#include "iob.h"

#define RUNG_SECONDS 3u /* where the job names no runtime */

struct rung {
    const char *name;
    enum iob_engine engine;
    bool deep;      /* with the job's iodepth, else 1 */
    unsigned batch; /* iodepth_batch */
    bool registered, sqpoll, hipri;
};

static const struct rung rungs[] = {
    { "psync", IOB_ENGINE_PSYNC, false, 0, false, false, false },
    { "uring, depth 1", IOB_ENGINE_IO_URING, false, 0, false, false, false },
    { "threads", IOB_ENGINE_THREADS, true, 0, false, false, false },
    { "uring, one by one", IOB_ENGINE_IO_URING, true, 1, false, false, false },
    { "uring, batched", IOB_ENGINE_IO_URING, true, 0, false, false, false },
    { "  + registered", IOB_ENGINE_IO_URING, true, 0, true, false, false },
    { "  + SQPOLL", IOB_ENGINE_IO_URING, true, 0, true, true, false },
    { "  + IOPOLL", IOB_ENGINE_IO_URING, true, 0, true, false, true },
};

struct figures {
    double iops, cpu_us, syscalls, p50_us, p99_us;
};

static void
set_rung(struct iob_job *job, const struct rung *rung)
{
    job->ioengine = rung->engine;
    job->iodepth = rung->deep ? job->iodepth : 1;
    job->iodepth_batch = rung->batch;
    job->fixedbufs = job->registerfiles = rung->registered;
    job->sqthread_poll = rung->sqpoll;
    job->hipri = rung->hipri;
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

/* The gain over the rung before, in I/Os per s and in I/Os per CPU second. */
static void
print_rung(FILE *f, const char *name, const struct figures *now, const struct figures *before)
{
    fprintf(f, "%-20s %10.0f %8.2f %9.3f %9.1f %9.1f", name, now->iops, now->cpu_us, now->syscalls,
            now->p50_us, now->p99_us);
    if (before->iops > 0)
        fprintf(f, " %+8.1f%% %+8.1f%%", 100 * (now->iops / before->iops - 1),
                100 * (before->cpu_us / now->cpu_us - 1));
    fputc('\n', f);
    fflush(f);
}

/* One rung; a failure is printed and does not end the ladder. */
static void
climb(const struct iob_setup *s, const struct rung *rung, FILE *f, struct figures *before)
{
    struct iob_job job = *s->job[0];
    struct iob_setup one = { .command = s->command, .job = { &job }, .jobs = 1 };
    struct iob_run run;
    struct figures now;

    set_rung(&job, rung);
    ash_rc rc = iob_run(&one, &run);
    if (rc != ASH_OK) {
        fprintf(f, "%-20s not run: %s\n", rung->name, err_current()->message);
        return;
    }
    if (run.failed) {
        fprintf(f, "%-20s failed: %s\n", rung->name, run.result[0].stats.message);
    } else {
        figures_of(&run.result[0].stats, &now);
        print_rung(f, rung->name, &now, before);
        *before = now;
    }
    iob_run_deinit(&run);
}

ash_rc
iob_ladder(const struct iob_setup *s, FILE *f)
{
    struct figures before = { 0 };

    if (s->jobs != 1)
        return ash_raise(ASH_INVALID, "--ladder takes one job, not %u.", s->jobs);
    if (iob_verifies(s->job[0]))
        return ash_raise(ASH_INVALID, "--ladder measures; give it a job without verify.");
    fprintf(f, "%-20s %10s %8s %9s %9s %9s %9s %9s\n", "", "IOPS", "cpu us", "syscalls", "p50 us",
            "p99 us", "gain", "gain");
    fprintf(f, "%-20s %10s %8s %9s %9s %9s %9s %9s\n", "iodepth as the job", "", "per I/O",
            "per I/O", "", "", "IOPS", "IOPS/CPU");
    for (size_t i = 0; i < ASH_ARRAY_SIZE(rungs) && iob_interrupted == 0; i++)
        climb(s, &rungs[i], f, &before);
    fprintf(f, "%-20s not run: the disk manager has no NVMe passthrough.\n", "  + passthrough");
    fprintf(f, "\nGains are over the line before.  cpu us: of the whole process, kernel workers "
               "included.\n");
    return ASH_OK;
}
