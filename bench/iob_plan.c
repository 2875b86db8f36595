/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_plan.c - which I/O comes next: direction, file, offset, size.
 *
 * Random offsets without norandommap: fio keeps a bitmap of the blocks touched and looks for a free
 * one; here the pass is a permutation of the blocks, computed block by block (a Feistel network
 * over the next power of two, walked until it lands inside), so it costs no memory, no cache misses
 * and the same time for the last block as for the first.  Each pass has another key.
 */
#include "base/assert.h"
#include "base/bits.h"

#include <string.h>

#include "iob.h"

#define ROUNDS 4u

/* One turn of the network over 2^bits values: both halves keep their width, so that any number of
 * bits will do. */
static uint64_t
feistel(uint64_t v, unsigned bits, uint64_t key)
{
    unsigned low_bits = bits / 2, high_bits = bits - low_bits;
    uint64_t low = v & (((uint64_t)1 << low_bits) - 1), high = v >> low_bits;

    for (unsigned i = 0; i < ROUNDS; i += 2) {
        high ^= hash_u64(low ^ key ^ ((uint64_t)i << 56)) & (((uint64_t)1 << high_bits) - 1);
        low ^= hash_u64(high ^ key ^ ((uint64_t)(i + 1) << 56)) & (((uint64_t)1 << low_bits) - 1);
    }
    return high << low_bits | low;
}

uint64_t
iob_permute(uint64_t i, uint64_t count, uint64_t key)
{
    unsigned bits = count < 3 ? 1 : log2_floor(count - 1) + 1;

    ash_debug_assert(i < count);
    do {
        i = feistel(i, bits, key);
    } while (i >=
             count); /* a permutation of the larger set: comes back inside, on average at once */
    return i;
}

void
iob_plan_init(struct iob_plan *p, const struct iob_job *job, unsigned clone, unsigned files,
              uint64_t length)
{
    memset(p, 0, sizeof(*p));
    p->job = job;
    p->base = job->offset + clone * job->offset_increment;
    p->length = length;
    p->files = files;
    random_init(&p->random, hash_u64(job->randseed + clone));
    uint64_t total = job->io_size != 0 ? job->io_size : length * files;
    if (job->time_based != 0 || __builtin_mul_overflow(total, job->loops, &p->left))
        p->left = UINT64_MAX;
    p->unit = iob_reads(job) ? job->bs[IOB_READ].min : job->bs[IOB_WRITE].min;
    if (iob_reads(job) && iob_writes(job))
        p->unit = (uint32_t)min_u64(p->unit, job->bs[IOB_WRITE].min);
    for (unsigned f = 0; f < files; f++)
        p->at[f].key = random_u64(&p->random);
}

static enum iob_dir
direction(struct iob_plan *p)
{
    if (!iob_writes(p->job))
        return IOB_READ;
    if (!iob_reads(p->job))
        return IOB_WRITE;
    enum iob_dir dir = random_below(&p->random, 100) < p->job->rwmixread ? IOB_READ : IOB_WRITE;
    return p->blocked[dir] && !p->blocked[1 - dir] ? 1 - dir : dir;
}

static uint32_t
block_bytes(struct iob_plan *p, const struct iob_sizes *s)
{
    if (s->min == s->max)
        return s->min;
    if (s->splits == 0)
        return s->min * (1 + (uint32_t)random_below(&p->random, s->max / s->min));
    uint64_t r = random_below(&p->random, 100);
    for (unsigned i = 0; i < s->splits; i++) {
        if (r < s->split[i].percent)
            return s->split[i].bytes;
        r -= s->split[i].percent;
    }
    return s->split[s->splits - 1].bytes;
}

static uint64_t
random_offset(struct iob_plan *p, struct iob_plan_file *at)
{
    uint64_t blocks = p->length / p->unit;

    if (p->job->norandommap != 0)
        return random_below(&p->random, blocks) * p->unit;
    if (at->drawn == blocks) {
        at->drawn = 0;
        at->key = random_u64(&p->random);
    }
    uint64_t i = at->drawn++;
    return iob_permute(PLANTED(351) ? i / 2 : i, blocks, at->key) * p->unit;
}

bool
iob_plan_next(struct iob_plan *p, struct iob_op *op_out)
{
    struct iob_op op;

    if (p->left < p->unit)
        return false;
    op.dir = direction(p);
    op.file = p->file;
    if (p->files > 1)
        p->file = p->job->file_service_type == 1 ? (unsigned)random_below(&p->random, p->files)
                                                 : (p->file + 1) % p->files;
    op.bytes = block_bytes(p, &p->job->bs[op.dir]);
    struct iob_plan_file *at = &p->at[op.file];
    if (iob_random(p->job)) {
        op.offset = random_offset(p, at);
    } else {
        if (at->next[op.dir] + p->unit > p->length)
            at->next[op.dir] = 0;
        op.offset = at->next[op.dir];
    }
    /* The last block of the region, and of the job, may be shorter. */
    op.bytes = (uint32_t)min_u64(op.bytes, round_down(p->length - op.offset, IOB_UNIT));
    if (p->left != UINT64_MAX) {
        op.bytes = (uint32_t)min_u64(op.bytes, round_down(p->left, IOB_UNIT));
        p->left -= op.bytes;
    }
    at->next[op.dir] = op.offset + op.bytes;
    op.offset += p->base;
    *op_out = op;
    return true;
}
