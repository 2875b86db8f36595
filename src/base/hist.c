/* SPDX-License-Identifier: Apache-2.0
 *
 * hist.c - log-linear histograms.
 *
 * Values below 64 have a bucket each.  Above, every power of two is cut into 64 buckets:
 *
 *   value   0 .. 63      64 .. 127     128 .. 255    256 .. 511  ...
 *   width     1             1             2             4
 *   bucket  0 .. 63      64 .. 127     128 .. 191    192 .. 255  ...
 *
 * so a bucket is never wider than 1/64 of its values.
 */
#include "base/hist.h"

#include "base/assert.h"
#include "base/bits.h"

#include <math.h>
#include <string.h>

#define SUB (1u << HIST_SUB_BITS)

static unsigned
bucket_of(uint64_t value)
{
    if (value < SUB)
        return (unsigned)value;
    unsigned shift = log2_floor(value) - HIST_SUB_BITS;
    return ((shift + 1) << HIST_SUB_BITS) + (unsigned)((value >> shift) - SUB);
}

uint64_t
hist_upper_edge(unsigned bucket)
{
    if (bucket < SUB)
        return bucket;
    unsigned shift = (bucket >> HIST_SUB_BITS) - 1;
    uint64_t low = (uint64_t)(SUB + (bucket & (SUB - 1))) << shift;
    return low + (((uint64_t)1 << shift) - 1);
}

void
hist_init(struct hist *h)
{
    memset(h, 0, sizeof(*h));
    hist_init_zeroed(h);
}

void
hist_init_zeroed(struct hist *h)
{
    h->min = UINT64_MAX;
}

static void
add_to_sum(struct hist *h, uint64_t value)
{
    if (PLANTED(901)) {
        h->sum += value;
        return;
    }
    if (__builtin_add_overflow(h->sum, value, &h->sum))
        h->sum = UINT64_MAX; /* stays there: a wrapped sum would look plausible */
}

void
hist_add(struct hist *h, uint64_t value)
{
    h->count++;
    add_to_sum(h, value);
    h->min = min_u64(h->min, value);
    h->max = max_u64(h->max, value);
    h->bucket[bucket_of(value)]++;
}

void
hist_merge(struct hist *into, const struct hist *from)
{
    into->count += from->count;
    add_to_sum(into, from->sum);
    into->min = min_u64(into->min, from->min);
    into->max = max_u64(into->max, from->max);
    for (unsigned i = 0; i < HIST_BUCKETS; i++)
        into->bucket[i] += from->bucket[i];
}

uint64_t
hist_quantile(const struct hist *h, double q)
{
    if (h->count == 0)
        return 0;
    if (!(q > 0.0))
        return h->min;
    if (q >= 1.0)
        return h->max;
    uint64_t rank = (uint64_t)ceil(q * (double)h->count);
    uint64_t seen = 0;
    rank = max_u64(rank, 1);
    if (PLANTED(902))
        rank = (uint64_t)(q * (double)h->count) + 1;
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen >= rank)
            return min_u64(hist_upper_edge(i), h->max);
    }
    return h->max;
}
