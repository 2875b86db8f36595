/* SPDX-License-Identifier: Apache-2.0
 *
 * clock.h - time behind a seam: the simulator installs its own source for the thread that it
 * runs on.
 */
#ifndef ASH_BASE_CLOCK_H
#define ASH_BASE_CLOCK_H

#include <stdint.h>

/* NULL: CLOCK_MONOTONIC.  Set only by the simulator. */
extern _Thread_local uint64_t (*clock_source)(void);

uint64_t clock_ns(void);      /* monotonic, ns */
uint64_t clock_wall_us(void); /* since 1970, us; for display and ids only */

#endif
