/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_stats.c - sums of a job's figures: of clones into one result, of buckets into fio's classes.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

#include "iob.h"

/* ns: 2 4 10 20 50 100 250 500 750 1000; the same in us; ms up to 2000, and more. */
const uint64_t iob_class_limit_ns[IOB_CLASSES] = {
    2,        4,         10,        20,        50,        100,        250,        500,
    750,      1000,      2000,      4000,      10000,     20000,      50000,      100000,
    250000,   500000,    750000,    1000000,   2000000,   4000000,    10000000,   20000000,
    50000000, 100000000, 250000000, 500000000, 750000000, 1000000000, 2000000000, UINT64_MAX
};

ash_rc
iob_stats_init(struct iob_stats *s)
{
    memset(s, 0, sizeof(*s));
    for (unsigned d = 0; d < IOB_DIRS; d++) {
        s->dir[d].hist = mem_alloc(MEM_TOOL, sizeof(*s->dir[d].hist));
        if (s->dir[d].hist == NULL)
            return ASH_NO_MEMORY;
    }
    s->sync_hist = mem_alloc(MEM_TOOL, sizeof(*s->sync_hist));
    if (s->sync_hist == NULL)
        return ASH_NO_MEMORY;
    iob_stats_reset(s);
    return ASH_OK;
}

void
iob_stats_deinit(struct iob_stats *s)
{
    for (unsigned d = 0; d < IOB_DIRS; d++)
        mem_free(MEM_TOOL, s->dir[d].hist);
    mem_free(MEM_TOOL, s->sync_hist);
    memset(s, 0, sizeof(*s));
}

void
iob_stats_reset(struct iob_stats *s)
{
    struct hist *hist[IOB_DIRS] = { s->dir[0].hist, s->dir[1].hist }, *sync = s->sync_hist;

    memset(s, 0, sizeof(*s));
    for (unsigned d = 0; d < IOB_DIRS; d++) {
        s->dir[d].hist = hist[d];
        hist_init(hist[d]);
    }
    s->sync_hist = sync;
    hist_init(sync);
}

void
iob_moments_add(struct iob_moments *m, uint64_t value)
{
    double v = (double)value;

    if (m->n == 0 || value < m->min)
        m->min = value;
    if (value > m->max)
        m->max = value;
    m->n++;
    m->sum += v;
    m->squares += v * v;
}

static void
moments_merge(struct iob_moments *into, const struct iob_moments *from)
{
    if (from->n == 0)
        return;
    into->min = into->n == 0 ? from->min : min_u64(into->min, from->min);
    into->max = max_u64(into->max, from->max);
    into->n += from->n;
    into->sum += from->sum;
    into->squares += from->squares;
}

double
iob_mean(const struct iob_moments *m)
{
    return m->n == 0 ? 0 : m->sum / (double)m->n;
}

double
iob_deviation(const struct iob_moments *m)
{
    double n = (double)m->n;
    double v = m->n < 2 ? 0 : (m->squares - m->sum * m->sum / n) / (n - 1);

    return v > 0 ? sqrt(v) : 0;
}

void
iob_stats_merge(struct iob_stats *into, const struct iob_stats *from)
{
    for (unsigned d = 0; d < IOB_DIRS; d++) {
        struct iob_dir_stats *a = &into->dir[d];
        const struct iob_dir_stats *b = &from->dir[d];
        a->bytes += b->bytes;
        a->ios += b->ios;
        moments_merge(&a->slat, &b->slat);
        moments_merge(&a->clat, &b->clat);
        moments_merge(&a->lat, &b->lat);
        moments_merge(&a->bw, &b->bw);
        moments_merge(&a->rate, &b->rate);
        hist_merge(a->hist, b->hist);
    }
    moments_merge(&into->sync, &from->sync);
    hist_merge(into->sync_hist, from->sync_hist);
    for (unsigned i = 0; i < IOB_LEVELS; i++) {
        into->depth[i] += from->depth[i];
        into->submit[i] += from->submit[i];
        into->complete[i] += from->complete[i];
    }
    into->runtime_ns = max_u64(into->runtime_ns, from->runtime_ns);
    into->thread_ns += from->thread_ns;
    into->user_s += from->user_s;
    into->system_s += from->system_s;
    into->switches += from->switches;
    into->majf += from->majf;
    into->minf += from->minf;
    into->process_s += from->process_s;
    into->syscalls += from->syscalls;
    into->verified += from->verified;
    into->wrong += from->wrong;
    if (into->error == 0 && from->error != 0) {
        into->error = from->error;
        memcpy(into->message, from->message, sizeof(into->message));
    }
}

void
iob_latency_classes(const struct iob_stats *s, double share_out[IOB_CLASSES])
{
    uint64_t n[IOB_CLASSES] = { 0 }, total = 0;

    for (unsigned d = 0; d < IOB_DIRS; d++) {
        const struct hist *h = s->dir[d].hist;
        unsigned class = 0;
        for (unsigned i = 0; i < HIST_BUCKETS && h->count > 0; i++) {
            while (hist_upper_edge(i) > iob_class_limit_ns[class])
                class ++;
            n[class] += h->bucket[i];
        }
        total += h->count;
    }
    for (unsigned i = 0; i < IOB_CLASSES; i++)
        share_out[i] = total == 0 ? 0 : 100.0 * (double)n[i] / (double)total;
}
