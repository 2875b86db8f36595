/* SPDX-License-Identifier: Apache-2.0
 *
 * random.c - xoshiro256** (Blackman, Vigna 2018), seeded by splitmix64 as its authors advise.
 *
 * Equal seeds give equal sequences on every machine and in every release: printed seeds must
 * replay.
 */
#include "base/random.h"

#include "base/assert.h"
#include "base/bits.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

_Thread_local struct random *random_entropy_source;

static uint64_t
splitmix64(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline uint64_t
rotl(uint64_t x, unsigned k)
{
    return (x << k) | (x >> (64 - k));
}

void
random_init(struct random *r, uint64_t seed)
{
    for (unsigned i = 0; i < 4; i++)
        r->s[i] = splitmix64(&seed);
}

uint64_t
random_u64(struct random *r)
{
    uint64_t result = rotl(r->s[1] * 5, 7) * 9;
    uint64_t t = r->s[1] << 17;

    r->s[2] ^= r->s[0];
    r->s[3] ^= r->s[1];
    r->s[1] ^= r->s[2];
    r->s[0] ^= r->s[3];
    r->s[2] ^= t;
    r->s[3] = rotl(r->s[3], 45);
    return result;
}

/* Lemire's multiply-and-reject: uniform, and a division only when a value might have to be
 * rejected. */
uint64_t
random_below(struct random *r, uint64_t bound)
{
    ash_assert(bound > 0);
    unsigned __int128 m = (unsigned __int128)random_u64(r) * bound;
    if ((uint64_t)m < bound) {
        uint64_t threshold = -bound % bound;
        while (!PLANTED(907) &&
               (uint64_t)m < threshold) /* ends: each turn passes with a chance above one half */
            m = (unsigned __int128)random_u64(r) * bound;
    }
    return (uint64_t)(m >> 64);
}

bool
random_chance(struct random *r, uint32_t numerator, uint32_t denominator)
{
    return random_below(r, denominator) < numerator;
}

double
random_unit(struct random *r)
{
    return (double)(random_u64(r) >> 11) * 0x1p-53;
}

void
random_entropy(void *out, size_t size)
{
    unsigned char *p = out;
    while (size > 0) {
        size_t n;
        if (random_entropy_source != NULL) {
            uint64_t v = random_u64(random_entropy_source);
            n = min_u64(size, sizeof(v));
            memcpy(p, &v, n);
        } else {
            ssize_t got = getrandom(p, size, 0);
            if (got < 0 && errno == EINTR)
                continue;
            /* Linux 3.17 and later always has it; without entropy two databases could get one
             * identity. */
            ash_assert(got > 0);
            n = (size_t)got;
        }
        p += n;
        size -= n;
    }
}

static inline uint64_t
mix128(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

/* Eight bytes a step, folded by a 64x64->128 multiplication (the idea of wyhash). */
uint64_t
hash_bytes(const void *data, size_t size, uint64_t seed)
{
    const unsigned char *p = data;
    uint64_t h = seed ^ mix128(size ^ 0xa0761d6478bd642fu, 0xe7037ed1a0b428dbu);
    uint64_t tail = 0;

    while (size >= 8) {
        h = mix128(h ^ get_le64(p), 0x8ebc6af09c88c6e3u);
        p += 8;
        size -= 8;
    }
    if (size > 0)
        memcpy(&tail, p, size);
    return mix128(h ^ tail ^ 0x589965cc75374cc3u, 0x1d8e4e27c47d124fu) ^ hash_u64(h);
}
