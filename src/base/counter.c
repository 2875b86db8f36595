/* SPDX-License-Identifier: Apache-2.0
 *
 * counter.c - shard assignment and sums.
 */
#include "base/counter.h"

_Thread_local unsigned counter_shard;

unsigned
counter_shard_assign(void)
{
    static _Atomic unsigned next;
    counter_shard = 1 + atomic_fetch_add_explicit(&next, 1, memory_order_relaxed) % COUNTER_SHARDS;
    return counter_shard;
}

uint64_t
counter_sum(const struct counter *c)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < COUNTER_SHARDS; i++)
        sum += atomic_load_explicit(&c->shard[i].v, memory_order_relaxed);
    return sum;
}
