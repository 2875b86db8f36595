/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_json.c - the report for programs: the members of fio 3.33's JSON, so that what reads fio's
 * reads this, and a member "ashlar" in each job for what fio does not have.
 *
 * bench/iob_json_keys.txt lists the members, and bench/test_iob.sh compares.
 */
#include "base/assert.h"
#include "base/clock.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "iob.h"
#include "report.h"

static void
put_moments(struct json *j, const struct iob_moments *m)
{
    json_number(j, "min", m->min);
    json_number(j, "max", m->max);
    json_real(j, "mean", iob_mean(m));
    json_real(j, "stddev", iob_deviation(m));
    json_number(j, "N", m->n);
}

static void
put_latency(struct json *j, const char *name, const struct iob_moments *m)
{
    json_open(j, name, '{');
    put_moments(j, m);
    json_close(j, '}');
}

/* With percentiles, and in json+ with all buckets. */
static void
put_hist(struct json *j, const char *name, const struct iob_moments *m, const struct hist *h,
         const struct iob_job *job, bool bins)
{
    char key[40];

    json_open(j, name, '{');
    put_moments(j, m);
    if (h->count > 0 && job->clat_percentiles != 0) {
        json_open(j, "percentile", '{');
        for (unsigned i = 0; i < job->percentiles; i++) {
            snprintf(key, sizeof(key), "%.6f", job->percentile[i]);
            json_number(j, key, hist_quantile(h, job->percentile[i] / 100));
        }
        json_close(j, '}');
    }
    if (h->count > 0 && bins) {
        json_open(j, "bins", '{');
        for (unsigned i = 0; i < HIST_BUCKETS; i++) {
            if (h->bucket[i] == 0)
                continue;
            snprintf(key, sizeof(key), "%" PRIu64, hist_upper_edge(i));
            json_number(j, key, h->bucket[i]);
        }
        json_close(j, '}');
    }
    json_close(j, '}');
}

static void
put_samples(struct json *j, const char *name, const struct iob_moments *m, double agg)
{
    const char *deviation = strcmp(name, "bw") == 0 ? "dev" : "stddev";
    char key[40];
    const struct {
        const char *suffix;
        bool real;
        double value;
    } members[] = { { "min", false, (double)m->min },
                    { "max", false, (double)m->max },
                    { "agg", true, agg },
                    { "mean", true, iob_mean(m) },
                    { deviation, true, iob_deviation(m) },
                    { "samples", false, (double)m->n } };

    for (unsigned i = 0; i < ASH_ARRAY_SIZE(members); i++) {
        if (i == 2 && strcmp(name, "bw") != 0)
            continue;
        snprintf(key, sizeof(key), "%s_%s", name, members[i].suffix);
        if (members[i].real)
            json_real(j, key, members[i].value);
        else
            json_number(j, key, (uint64_t)members[i].value);
    }
}

static void
put_dir(struct json *j, const char *name, const struct iob_result *r, const struct iob_dir_stats *d,
        bool bins)
{
    double seconds = (double)r->stats.runtime_ns / 1e9;
    double bw = d->ios == 0 || !(seconds > 0) ? 0 : (double)d->bytes / seconds;

    json_open(j, name, '{');
    json_number(j, "io_bytes", d->bytes);
    json_number(j, "io_kbytes", d->bytes / 1024);
    json_number(j, "bw_bytes", (uint64_t)bw);
    json_number(j, "bw", (uint64_t)(bw / 1024));
    json_real(j, "iops", d->ios == 0 || !(seconds > 0) ? 0 : (double)d->ios / seconds);
    json_number(j, "runtime", d->ios == 0 ? 0 : r->stats.runtime_ns / 1000000);
    json_number(j, "total_ios", d->ios);
    json_number(j, "short_ios", 0);
    json_number(j, "drop_ios", 0);
    put_latency(j, "slat_ns", &d->slat);
    put_hist(j, "clat_ns", &d->clat, d->hist, r->job, bins);
    put_latency(j, "lat_ns", &d->lat);
    put_samples(j, "bw", &d->bw, bw > 0 && d->bw.n > 0 ? 100 * iob_mean(&d->bw) * 1024 / bw : 0);
    put_samples(j, "iops", &d->rate, 0);
    json_close(j, '}');
}

static void
put_shares(struct json *j, const char *name, const char *const keys[], unsigned count,
           const double *share)
{
    json_open(j, name, '{');
    for (unsigned i = 0; i < count; i++)
        json_real(j, keys[i], share[i]);
    json_close(j, '}');
}

static void
put_levels(struct json *j, const char *name, const char *const keys[], const uint64_t *n)
{
    double share[IOB_LEVELS], total = 0;

    for (unsigned i = 0; i < IOB_LEVELS; i++)
        total += (double)n[i];
    for (unsigned i = 0; i < IOB_LEVELS; i++)
        share[i] = total > 0 ? 100 * (double)n[i] / total : 0;
    put_shares(j, name, keys, IOB_LEVELS, share);
}

static void
put_distributions(struct json *j, const struct iob_stats *s)
{
    static const char *const depths[] = { "1", "2", "4", "8", "16", "32", ">=64" };
    static const char *const batches[] = { "0", "4", "8", "16", "32", "64", ">=64" };
    static const char *const classes[] = { "2",   "4",   "10",  "20",   "50",   "100",
                                           "250", "500", "750", "1000", "2000", ">=2000" };
    double share[IOB_CLASSES];

    put_levels(j, "iodepth_level", depths, s->depth);
    put_levels(j, "iodepth_submit", batches, s->submit);
    put_levels(j, "iodepth_complete", batches, s->complete);
    iob_latency_classes(s, share);
    put_shares(j, "latency_ns", classes, 10, share);
    put_shares(j, "latency_us", classes, 10, share + 10);
    put_shares(j, "latency_ms", classes, 12, share + 20);
}

static void
put_given(struct json *j, const char *name, const struct iob_job *job)
{
    json_open(j, name, '{');
    for (unsigned i = 0; iob_option_name(i) != NULL; i++)
        if (job->given[i] != NULL)
            json_text(j, iob_option_name(i), job->given[i]);
    json_close(j, '}');
}

static void
put_own(struct json *j, const struct iob_stats *s)
{
    double ios = (double)(s->dir[IOB_READ].ios + s->dir[IOB_WRITE].ios);

    json_open(j, "ashlar", '{');
    json_text(j, "message", s->message);
    json_number(j, "syscalls", s->syscalls);
    json_real(j, "syscalls_per_io", ios > 0 ? (double)s->syscalls / ios : 0);
    json_real(j, "cpu_us_per_io", ios > 0 ? (s->user_s + s->system_s) * 1e6 / ios : 0);
    json_real(j, "process_cpu_us_per_io", ios > 0 ? s->process_s * 1e6 / ios : 0);
    json_number(j, "verified_blocks", s->verified);
    json_number(j, "wrong_reads", s->wrong);
    json_close(j, '}');
}

static void
put_result(struct json *j, const struct iob_run *run, const struct iob_result *r)
{
    static const struct hist none;
    const struct iob_stats *s = &r->stats;
    const struct iob_dir_stats trim = { .bytes = 0, .hist = (struct hist *)(uintptr_t)&none };
    bool bins = run->setup->command.format == 2;
    double seconds = (double)s->thread_ns / 1e9;

    json_open(j, NULL, '{');
    json_text(j, "jobname", r->job->name);
    json_number(j, "groupid", r->group);
    json_number(j, "error", (uint64_t)s->error);
    json_number(j, "eta", 0);
    json_number(j, "elapsed", run->elapsed_ns / 1000000000u + 1);
    put_given(j, "job options", r->job);
    put_dir(j, "read", r, &s->dir[IOB_READ], bins);
    put_dir(j, "write", r, &s->dir[IOB_WRITE], bins);
    put_dir(j, "trim", r, &trim, bins);
    json_open(j, "sync", '{');
    json_number(j, "total_ios", s->sync.n);
    put_hist(j, "lat_ns", &s->sync, s->sync_hist, r->job, bins);
    json_close(j, '}');
    json_number(j, "job_runtime", s->thread_ns / 1000000);
    json_real(j, "usr_cpu", seconds > 0 ? 100 * s->user_s / seconds : 0);
    json_real(j, "sys_cpu", seconds > 0 ? 100 * s->system_s / seconds : 0);
    json_number(j, "ctx", s->switches);
    json_number(j, "majf", s->majf);
    json_number(j, "minf", s->minf);
    put_distributions(j, s);
    json_number(j, "latency_depth", r->job->iodepth);
    json_number(j, "latency_target", 0);
    json_real(j, "latency_percentile", 100);
    json_number(j, "latency_window", 0);
    put_own(j, s);
    json_close(j, '}');
}

static void
put_disk(struct json *j, const struct iob_disk *d)
{
    json_open(j, "disk_util", '[');
    if (d->name[0] != '\0') {
        json_open(j, NULL, '{');
        json_text(j, "name", d->name);
        json_number(j, "read_ios", d->v[0]);
        json_number(j, "write_ios", d->v[4]);
        json_number(j, "read_merges", d->v[1]);
        json_number(j, "write_merges", d->v[5]);
        json_number(j, "read_ticks", d->v[3]);
        json_number(j, "write_ticks", d->v[7]);
        json_number(j, "in_queue", d->v[10]);
        json_real(j, "util", d->util);
        json_close(j, '}');
    }
    json_close(j, ']');
}

void
iob_report_json(FILE *f, const struct iob_run *run)
{
    struct json j = { .file = f };
    uint64_t wall_us = clock_wall_us();
    time_t now = (time_t)(wall_us / 1000000);
    char text[64] = "", version[64];
    struct tm tm;

    if (localtime_r(&now, &tm) != NULL)
        strftime(text, sizeof(text), "%a %b %e %H:%M:%S %Y", &tm);
    snprintf(version, sizeof(version), "ashlar-bench-%s", ash_version());
    json_open(&j, NULL, '{');
    json_text(&j, "fio version", version);
    json_number(&j, "timestamp", (uint64_t)now);
    json_number(&j, "timestamp_ms", wall_us / 1000);
    json_text(&j, "time", text);
    put_given(&j, "global options", &run->setup->global);
    json_open(&j, "jobs", '[');
    for (unsigned i = 0; i < run->results; i++)
        put_result(&j, run, &run->result[i]);
    json_close(&j, ']');
    put_disk(&j, &run->disk);
    json_close(&j, '}');
    fputc('\n', f);
}
