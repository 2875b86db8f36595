/* SPDX-License-Identifier: Apache-2.0
 *
 * assert.c - the end of a process whose invariants no longer hold.
 *
 * Going on would risk writing damaged pages, so ash_assert() stops the process; recovery brings
 * back what was acknowledged.  The line is built on the stack and written with one write(2):
 * nothing is allocated or locked.
 */
#include "base/assert.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static _Atomic unsigned long long noted_seed;

void
assert_note_seed(unsigned long long seed)
{
    atomic_store_explicit(&noted_seed, seed, memory_order_relaxed);
}

void
assert_fail(const char *file, int line, const char *condition)
{
    char text[512];
    int n = snprintf(text, sizeof(text), "ashlar: assertion failed: %s:%d: %s (seed %llu)\n", file,
                     line, condition, atomic_load_explicit(&noted_seed, memory_order_relaxed));
    if (n >= (int)sizeof(text)) {
        n = (int)sizeof(text) - 1;
        text[n - 1] = '\n';
    }
    if (n > 0 && write(STDERR_FILENO, text, (size_t)n) < 0) {
        /* Nobody reads stderr; the abort below says enough. */
    }
    abort();
}
