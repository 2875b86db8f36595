/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_contention.c - which leaves are fought for, and where they should be cut in two.
 *
 * A latch covers all rows of a leaf, so writers of different rows that happen to be neighbours
 * exclude each other. A leaf on which that goes on is split between those rows although it is not
 * full (after Alhomssi and Leis, "Contention and Space Management in B-Trees", CIDR 2021).
 *
 * Differences from there: a collision is counted by the writer that suffered it, once it has the
 * leaf, so a writer that got its latch at once does nothing and touches nothing.  What counts is
 * therefore not the share of accesses that collide but how many collisions there are in a span of
 * time: that is what they cost, and what the split will save.  And the border is the median of the
 * rows that collided, so a single hot row, which no split can help, is told from several.
 *
 * Only changes of rows that exist count.  Inserts soon split their leaf anyway; and ascending ones,
 * which all go to the end of the last leaf, would leave a trail of small leaves without ever
 * getting out of each other's way.
 *
 * All of it is a guess and volatile: wrong or lost, it costs a needless split or a late one.
 */
#include "base/clock.h"
#include "base/random.h"
#include "btree/btree_int.h"

#include <stdlib.h>

/* A collision costs its writer about 1 us when it ends while spinning and 20 us when it parks.
 * COLLISIONS in WINDOW_NS are then between 0.1 and 1 % of a core for ever, against some 20 us for
 * the split, once, and the room of a page. */
#define COLLISIONS 64u
#define WINDOW_NS  100000000ull
/* Rows of so many last collisions decide; a border leaves at least SIDE_MIN of them on each side:
 * where fewer do, most collisions would go on. */
#define SAMPLES    16u
#define SIDE_MIN   (SAMPLES / 4)
/* The two halves are not merged for so long.  When contention returns after that, a split and a
 * merge in two seconds are not noticed. */
#define KEEP_NS    2000000000ull
/* Of the table: more hot leaves at the same time wait for each other's places. */
#define PLACES     128u

/* One leaf.  `busy` guards the rest and is only ever tried: who finds it taken forgets his
 * collision. */
struct btree_hot_leaf {
    _Atomic bool busy;
    uint32_t collisions;
    uint64_t page;
    uint64_t since;      /* the window began */
    uint64_t keep_until; /* not to be merged with its right neighbour before */
    uint16_t slot[SAMPLES];
};
static_assert(sizeof(struct btree_hot_leaf) == ASH_CACHE_LINE, "leaves don't share lines");

ash_rc
btree__contention_init(struct btree_env *env)
{
    size_t bytes = PLACES * sizeof(*env->hot);
    env->hot = mem_aligned(MEM_BTREE, ASH_CACHE_LINE, bytes);
    if (env->hot == NULL)
        return ASH_NO_MEMORY;
    memset(env->hot, 0, bytes);
    env->hot_after = COLLISIONS;
    return ASH_OK;
}

void
btree__contention_deinit(struct btree_env *env)
{
    MEM_FREE(MEM_BTREE, env->hot);
}

static struct btree_hot_leaf *
take(const struct btree_env *env, uint64_t page)
{
    struct btree_hot_leaf *h = &env->hot[hash_u64(page) % PLACES];
    return atomic_exchange_explicit(&h->busy, true, memory_order_acquire) ? NULL : h;
}

static void
give(struct btree_hot_leaf *h)
{
    atomic_store_explicit(&h->busy, false, memory_order_release);
}

static int
by_slot(const void *a, const void *b)
{
    return (int)*(const uint16_t *)a - (int)*(const uint16_t *)b;
}

static unsigned
distance(unsigned a, unsigned b)
{
    return a > b ? a - b : b - a;
}

/* The first slot of the right half, or 0 when no border keeps the rows apart that collided. */
static uint32_t
border_of(const struct btree_hot_leaf *h, uint32_t count)
{
    uint16_t s[SAMPLES];
    unsigned n = h->collisions < SAMPLES ? h->collisions : SAMPLES, least = n / SIDE_MIN, at = 0;
    memcpy(s, h->slot, sizeof(s));
    qsort(s, n, sizeof(s[0]), by_slot);
    least = least > 0 ? least : 1;
    for (unsigned i = least; i + least <= n; i++)
        if (s[i] != s[i - 1] && (at == 0 || distance(i, n / 2) < distance(at, n / 2)))
            at = i;
    if (PLANTED(300)) /* splits where nothing is to be gained */
        return s[0] > 0 ? s[0] : 1;
    if (at == 0)
        return 0;
    /* Any border between the two rows does; the one nearest to the middle leaves the halves most
     * room. */
    uint32_t low = s[at - 1] + 1u, high = s[at], middle = count / 2;
    return middle < low ? low : middle > high ? high : middle;
}

bool
btree__contention(const struct btree_env *env, const struct buf_page *leaf, uint32_t slot,
                  uint32_t *border_out)
{
    uint32_t count = btree__cnode(leaf->data)->count;
    if (count < 2 || slot > UINT16_MAX)
        return false;
    struct btree_hot_leaf *h = take(env, leaf->page);
    if (h == NULL)
        return false;
    uint64_t now = clock_ns();
    bool expired = now - h->since > WINDOW_NS && !PLANTED(302); /* 302: sums up for ever */
    *border_out = 0;
    if (h->page != leaf->page && (!expired || now < h->keep_until))
        goto out; /* the place is somebody else's */
    if (h->page != leaf->page || expired) {
        h->keep_until = h->page == leaf->page ? h->keep_until : 0;
        h->page = leaf->page;
        h->since = now;
        h->collisions = 0;
    }
    h->slot[h->collisions++ % SAMPLES] = (uint16_t)slot;
    if (h->collisions >= env->hot_after) {
        *border_out = border_of(h, count);
        h->since = now;
        h->collisions = 0;
    }
out:
    give(h);
    return *border_out > 0 && *border_out < count;
}

void
btree__contention_split(const struct btree_env *env, uint64_t left)
{
    struct btree_hot_leaf *h = take(env, left);
    if (h == NULL)
        return;
    uint64_t now = clock_ns();
    if (h->page == left || now >= h->keep_until) {
        h->page = left;
        h->since = now;
        h->collisions = 0;
        h->keep_until = now + KEEP_NS;
    }
    give(h);
}

bool
btree__contention_lately(const struct btree_env *env, uint64_t left)
{
    struct btree_hot_leaf *h = take(env, left);
    if (h == NULL)
        return true; /* somebody is just noting a collision */
    bool lately = h->page == left && clock_ns() < h->keep_until && !PLANTED(301);
    give(h);
    return lately;
}
