/* SPDX-License-Identifier: Apache-2.0
 *
 * hist.h - latency histograms in the manner of HdrHistogram: log-linear buckets, relative error
 * below 1/64.
 */
#ifndef ASH_BASE_HIST_H
#define ASH_BASE_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 6
#define HIST_BUCKETS  ((64 - HIST_SUB_BITS + 1) << HIST_SUB_BITS)

/* One writer at a time; merge per-thread ones for a total.  About 30 KiB: allocate, don't put on
 * a fiber's stack. */
struct hist {
    uint64_t count, sum, min, max;
    uint64_t bucket[HIST_BUCKETS];
};

void hist_init(struct hist *h);
/* The same for memory that is zero, without touching all of it. */
void hist_init_zeroed(struct hist *h);
void hist_add(struct hist *h, uint64_t value);
void hist_merge(struct hist *into, const struct hist *from);
/* The value at quantile q in [0, 1]: at least q of all values are <= it (upper edge of its
 * bucket, never above max). */
uint64_t hist_quantile(const struct hist *h, double q);
/* The largest value that falls into a bucket. */
uint64_t hist_upper_edge(unsigned bucket);

#endif
