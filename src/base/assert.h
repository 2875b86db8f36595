/* SPDX-License-Identifier: Apache-2.0
 *
 * assert.h - three levels: static_assert; ash_assert, always compiled, for invariants that
 * protect data (WAL rule, page identity, LSN order); ash_debug_assert, with --enable-debug, for
 * costly ones.  Never on bytes from disk.
 */
#ifndef ASH_BASE_ASSERT_H
#define ASH_BASE_ASSERT_H

#include <assert.h>
#include <stdbool.h>

/* Prints one line to stderr with file, line, condition and the seed set by assert_note_seed(),
 * then aborts. */
_Noreturn void assert_fail(const char *file, int line, const char *condition);
void assert_note_seed(unsigned long long seed);

#define ash_assert(cond) ((cond) ? (void)0 : assert_fail(__FILE__, __LINE__, #cond))
#ifdef ASH_DEBUG
    #define ash_debug_assert(cond) ash_assert(cond)
#else
    #define ash_debug_assert(cond) ((void)0)
#endif

#ifndef __cplusplus
    #ifndef static_assert
        #define static_assert _Static_assert
    #endif
#endif

/* On-disk structs: size and every field's place, checked by the compiler. */
#define ASH_ONDISK_SIZE(type, bytes) \
    static_assert(sizeof(type) == (bytes), #type " has a hole or grew")
#define ASH_ONDISK_FIELD(type, field, offset, bytes)             \
    static_assert(__builtin_offsetof(type, field) == (offset) && \
                      sizeof(((type *)0)->field) == (bytes),     \
                  #type "." #field)

/* Planted bugs for testing the tests: PLANTED(n) is true only in a build with -DPLANT=n.
 * tests/plants.tsv lists them. */
#ifdef PLANT
    #define PLANTED(n) (PLANT == (n))
#else
    #define PLANTED(n) false
#endif

#define ASH_LIKELY(x)     __builtin_expect(!!(x), 1)
#define ASH_UNLIKELY(x)   __builtin_expect(!!(x), 0)
#define ASH_CACHE_LINE    64
#define ASH_ALIGNED_LINE  __attribute__((aligned(ASH_CACHE_LINE)))
#define ASH_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
/* Lets code read what others may be writing (optimistic reads that are validated after): see
 * docs/locking.md. */
#define ASH_NO_TSAN       __attribute__((no_sanitize("thread")))

#endif
