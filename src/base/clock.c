/* SPDX-License-Identifier: Apache-2.0
 *
 * clock.c - the only place that reads a clock.
 */
#include "base/clock.h"

#include <stddef.h>
#include <time.h>

_Thread_local uint64_t (*clock_source)(void);

/* A simulation must not see the real date; it starts at this one, 2020-01-01, plus its own time. */
#define SIM_EPOCH_US 1577836800000000u

static uint64_t
system_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t); /* cannot fail for the two clocks used here */
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t
clock_ns(void)
{
    return clock_source != NULL ? clock_source() : system_ns(CLOCK_MONOTONIC);
}

uint64_t
clock_wall_us(void)
{
    if (clock_source != NULL)
        return SIM_EPOCH_US + clock_source() / 1000u;
    return system_ns(CLOCK_REALTIME) / 1000u;
}
