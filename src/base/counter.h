/* SPDX-License-Identifier: Apache-2.0
 *
 * counter.h - counters that don't share cache lines: each thread adds to one of COUNTER_SHARDS
 * lines.
 */
#ifndef ASH_BASE_COUNTER_H
#define ASH_BASE_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

#define COUNTER_SHARDS 8

struct counter {
    struct {
        _Atomic uint64_t v;
        char pad[56];
    } shard[COUNTER_SHARDS];
} __attribute__((aligned(64)));

extern _Thread_local unsigned counter_shard; /* given to each thread at its first use */
unsigned counter_shard_assign(void);

static inline void
counter_add(struct counter *c, uint64_t n)
{
    unsigned s = counter_shard;
    if (__builtin_expect(s == 0, 0))
        s = counter_shard_assign(); /* 1..COUNTER_SHARDS */
    atomic_fetch_add_explicit(&c->shard[s - 1].v, n, memory_order_relaxed);
}
uint64_t counter_sum(const struct counter *c);

#endif
