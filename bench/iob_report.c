/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_report.c - the report for people, laid out as those who know fio's expect it.
 */
#include "base/assert.h"
#include "base/bits.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "iob.h"

static const char *const dir_names[IOB_DIRS] = { "read", "write" };

/* 17300 -> "17.3k". */
static const char *
short_number(double v, char out[32])
{
    if (v >= 1e7)
        snprintf(out, 32, "%.1fM", v / 1e6);
    else if (v >= 1e4)
        snprintf(out, 32, "%.1fk", v / 1e3);
    else
        snprintf(out, 32, "%.0f", v);
    return out;
}

static const char *
binary_size(double v, char out[32])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
    unsigned i = 0;

    for (; v >= 1024 && i + 1 < ASH_ARRAY_SIZE(units); i++)
        v /= 1024;
    snprintf(out, 32, v >= 100 || i == 0 ? "%.0f%s" : "%.1f%s", v, units[i]);
    return out;
}

static const char *
decimal_size(double v, char out[32])
{
    static const char *const units[] = { "B", "kB", "MB", "GB", "TB", "PB" };
    unsigned i = 0;

    for (; v >= 1000 && i + 1 < ASH_ARRAY_SIZE(units); i++)
        v /= 1000;
    snprintf(out, 32, v >= 100 || i == 0 ? "%.0f%s" : "%.1f%s", v, units[i]);
    return out;
}

/* The unit in which a mean latency reads well. */
static double
time_unit(double ns, const char **name_out)
{
    *name_out = ns < 2000 ? "nsec" : ns < 2e6 ? "usec" : "msec";
    return ns < 2000 ? 1 : ns < 2e6 ? 1e3 : 1e6;
}

static void
print_latency(FILE *f, const char *name, const struct iob_moments *m)
{
    const char *unit;
    double scale = time_unit(iob_mean(m), &unit), low = (double)m->min / scale;
    char high[32];

    fprintf(f, "    %s (%s): min=%.*f, max=%s, avg=%.2f, stdev=%.2f\n", name, unit,
            low < 10 && scale > 1 ? 2 : 0, low, short_number((double)m->max / scale, high),
            iob_mean(m) / scale, iob_deviation(m) / scale);
}

static void
print_percentiles(FILE *f, const struct iob_job *job, const struct hist *h, const char *name)
{
    const char *unit;
    double scale = time_unit((double)hist_quantile(h, 0.5), &unit);

    if (job->clat_percentiles == 0 || h->count == 0)
        return;
    fprintf(f, "    %s percentiles (%s):", name, unit);
    for (unsigned i = 0; i < job->percentiles; i++) {
        double v = (double)hist_quantile(h, job->percentile[i] / 100) / scale;
        fprintf(f, "%s%s %5.2fth=[%*.*f]", i % 4 == 0 ? "\n     |" : "", i % 4 == 0 ? "" : ",",
                job->percentile[i], 5, v < 10 && scale > 1 ? 2 : 0, v);
    }
    fputc('\n', f);
}

static void
print_dir(FILE *f, const struct iob_result *r, enum iob_dir d)
{
    const struct iob_dir_stats *s = &r->stats.dir[d];
    double seconds = (double)r->stats.runtime_ns / 1e9, bytes = (double)s->bytes;
    char a[32], b[32], c[32], e[32];

    if (s->ios == 0)
        return;
    fprintf(f, "  %s: IOPS=%s, BW=%s/s (%s/s)(%s/%.0fmsec)\n", dir_names[d],
            short_number((double)s->ios / seconds, a), binary_size(bytes / seconds, b),
            decimal_size(bytes / seconds, c), binary_size(bytes, e), seconds * 1e3);
    print_latency(f, "slat", &s->slat);
    print_latency(f, "clat", &s->clat);
    print_latency(f, " lat", &s->lat);
    print_percentiles(f, r->job, s->hist, "clat");
    if (s->bw.n == 0)
        return;
    fprintf(f,
            "   bw (  KiB/s): min=%" PRIu64 ", max=%" PRIu64
            ", per=%.2f%%, avg=%.2f, stdev=%.2f, samples=%" PRIu64 "\n",
            s->bw.min, s->bw.max, 100 * iob_mean(&s->bw) / (bytes / 1024 / seconds),
            iob_mean(&s->bw), iob_deviation(&s->bw), s->bw.n);
    fprintf(f,
            "   iops        : min=%" PRIu64 ", max=%" PRIu64
            ", avg=%.2f, stdev=%.2f, samples=%" PRIu64 "\n",
            s->rate.min, s->rate.max, iob_mean(&s->rate), iob_deviation(&s->rate), s->rate.n);
}

/* One line per unit of fio's latency classes. */
static void
print_classes(FILE *f, const struct iob_stats *s)
{
    static const struct {
        const char *unit;
        unsigned from, end;
        uint64_t ns;
    } lines[] = { { "nsec", 0, 10, 1 }, { "usec", 10, 20, 1000 }, { "msec", 20, 32, 1000000 } };
    double share[IOB_CLASSES];

    iob_latency_classes(s, share);
    for (unsigned k = 0; k < ASH_ARRAY_SIZE(lines); k++) {
        bool first = true;
        for (unsigned i = lines[k].from; i < lines[k].end; i++) {
            if (!(share[i] > 0))
                continue;
            if (first)
                fprintf(f, "  lat (%s)   :", lines[k].unit);
            if (i + 1 == IOB_CLASSES)
                fprintf(f, "%s >=2000=%.2f%%", first ? "" : ",", share[i]);
            else
                fprintf(f, "%s %" PRIu64 "=%.2f%%", first ? "" : ",",
                        iob_class_limit_ns[i] / lines[k].ns, share[i]);
            first = false;
        }
        if (!first)
            fputc('\n', f);
    }
}

static void
print_levels(FILE *f, const char *name, const uint64_t n[IOB_LEVELS],
             const char *const names[IOB_LEVELS])
{
    uint64_t total = 0;

    for (unsigned i = 0; i < IOB_LEVELS; i++)
        total += n[i];
    fprintf(f, "%s", name);
    for (unsigned i = 0; i < IOB_LEVELS; i++)
        fprintf(f, "%s %s=%.1f%%", i == 0 ? "" : ",", names[i],
                total == 0 ? 0 : 100.0 * (double)n[i] / (double)total);
    fputc('\n', f);
}

static void
print_cpu(FILE *f, const struct iob_result *r)
{
    const struct iob_stats *s = &r->stats;
    double seconds = (double)s->thread_ns / 1e9;
    uint64_t ios = s->dir[IOB_READ].ios + s->dir[IOB_WRITE].ios;

    fprintf(f,
            "  cpu          : usr=%.2f%%, sys=%.2f%%, ctx=%" PRIu64 ", majf=%" PRIu64
            ", minf=%" PRIu64 "\n",
            seconds > 0 ? 100 * s->user_s / seconds : 0,
            seconds > 0 ? 100 * s->system_s / seconds : 0, s->switches, s->majf, s->minf);
    if (ios == 0)
        return;
    fprintf(f, "  per I/O      : cpu=%.2fusec", (s->user_s + s->system_s) * 1e6 / (double)ios);
    if (s->process_s > 0)
        fprintf(f, " (with kernel workers %.2fusec)", s->process_s * 1e6 / (double)ios);
    fprintf(f, ", syscalls=%.3f\n", (double)s->syscalls / (double)ios);
}

static void
print_result(FILE *f, const struct iob_result *r)
{
    static const char *const depths[IOB_LEVELS] = { "1", "2", "4", "8", "16", "32", ">=64" };
    static const char *const batches[IOB_LEVELS] = { "0", "4", "8", "16", "32", "64", ">=64" };
    const struct iob_stats *s = &r->stats;

    fprintf(f, "\n%s: (groupid=%u, jobs=%u): err=%d\n", r->job->name, r->group, r->clones,
            s->error);
    if (s->message[0] != '\0')
        fprintf(f, "  error: %s\n", s->message);
    for (unsigned d = 0; d < IOB_DIRS; d++)
        print_dir(f, r, d);
    if (s->sync.n > 0) {
        fprintf(f, "  fdatasync:\n");
        print_latency(f, "sync", &s->sync);
        print_percentiles(f, r->job, s->sync_hist, "sync");
    }
    print_classes(f, s);
    print_cpu(f, r);
    print_levels(f, "  IO depths    :", s->depth, depths);
    print_levels(f, "     submit    :", s->submit, batches);
    print_levels(f, "     complete  :", s->complete, batches);
    fprintf(f, "     issued rwts: total=%" PRIu64 ",%" PRIu64 ",0,%" PRIu64 "\n",
            s->dir[IOB_READ].ios, s->dir[IOB_WRITE].ios, s->sync.n);
    if (iob_verifies(r->job))
        fprintf(f,
                "     verify    : %" PRIu64 " blocks of %u bytes checked, %" PRIu64
                " requests with wrong data\n",
                s->verified, IOB_UNIT, s->wrong);
}

static void
print_group(FILE *f, const struct iob_run *run, unsigned group)
{
    fprintf(f, "\nRun status group %u (all jobs):\n", group);
    for (unsigned d = 0; d < IOB_DIRS; d++) {
        double low = HUGE_VAL, high = 0, sum = 0, bytes = 0, first = HUGE_VAL, last = 0;
        char a[32], b[32], c[32], e[32], g[32];
        for (unsigned i = 0; i < run->results; i++) {
            const struct iob_result *r = &run->result[i];
            double seconds = (double)r->stats.runtime_ns / 1e9;
            if (r->group != group || r->stats.dir[d].ios == 0)
                continue;
            double bw = (double)r->stats.dir[d].bytes / seconds;
            low = fmin(low, bw);
            high = fmax(high, bw);
            sum += bw;
            bytes += (double)r->stats.dir[d].bytes;
            first = fmin(first, seconds * 1e3);
            last = fmax(last, seconds * 1e3);
        }
        if (bytes > 0)
            fprintf(f, "  %s: bw=%s/s (%s/s), %s/s-%s/s, io=%s, run=%.0f-%.0fmsec\n",
                    d == IOB_READ ? " READ" : "WRITE", binary_size(sum, a), decimal_size(sum, b),
                    binary_size(low, c), binary_size(high, e), binary_size(bytes, g), first, last);
    }
}

static void
print_job_line(FILE *f, const struct iob_job *job)
{
    static const char *const rw[] = {
        "read", "write", "randread", "randwrite", "rw", "rw", "randrw"
    };
    static const char *const engines[] = { "io_uring", "io_uring", "threads",
                                           "psync",    "psync",    "psync" };
    fprintf(f, "%s: rw=%s, bs=(R) %uB-%uB, (W) %uB-%uB, ioengine=%s, iodepth=%" PRIu64, job->name,
            rw[job->rw], job->bs[IOB_READ].min, job->bs[IOB_READ].max, job->bs[IOB_WRITE].min,
            job->bs[IOB_WRITE].max, engines[job->ioengine], job->iodepth);
    if (job->numjobs > 1)
        fprintf(f, ", numjobs=%" PRIu64, job->numjobs);
    fputc('\n', f);
}

void
iob_report(FILE *f, const struct iob_run *run)
{
    unsigned groups = run->results == 0 ? 0 : run->result[run->results - 1].group + 1;
    const struct iob_disk *disk = &run->disk;

    for (unsigned i = 0; i < run->setup->jobs; i++)
        print_job_line(f, run->setup->job[i]);
    fprintf(f, "ashlar-bench io %s\n", ash_version());
    for (unsigned i = 0; i < run->results; i++)
        print_result(f, &run->result[i]);
    for (unsigned g = 0; g < groups; g++)
        print_group(f, run, g);
    if (disk->name[0] != '\0')
        fprintf(f,
                "\nDisk stats (read/write):\n  %s: ios=%" PRIu64 "/%" PRIu64 ", merge=%" PRIu64
                "/%" PRIu64 ", ticks=%" PRIu64 "/%" PRIu64 ", in_queue=%" PRIu64 ", util=%.2f%%\n",
                disk->name, disk->v[0], disk->v[4], disk->v[1], disk->v[5], disk->v[3], disk->v[7],
                disk->v[10], disk->util);
}
