/* SPDX-License-Identifier: Apache-2.0
 *
 * random.h - xoshiro256** generators with explicit state, and the system's entropy behind a seam.
 */
#ifndef ASH_BASE_RANDOM_H
#define ASH_BASE_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct random {
    uint64_t s[4];
};

void random_init(struct random *r, uint64_t seed);
uint64_t random_u64(struct random *r);
uint64_t random_below(struct random *r, uint64_t bound); /* uniform in [0, bound), bound > 0 */
bool random_chance(struct random *r, uint32_t numerator, uint32_t denominator);
double random_unit(struct random *r); /* [0, 1) */

/* Bytes for identifiers (database uuid).  Under simulation they come from the seed. */
extern _Thread_local struct random *random_entropy_source; /* NULL: getrandom() */
void random_entropy(void *out, size_t size);

static inline uint64_t
hash_u64(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    return x;
}

/* For use in memory only: never stored, may change. */
uint64_t hash_bytes(const void *data, size_t size, uint64_t seed);

#endif
