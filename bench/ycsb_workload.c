/* SPDX-License-Identifier: Apache-2.0
 *
 * ycsb_workload.c - the core workloads of the Yahoo! Cloud Serving Benchmark and their request distributions, with YCSB's
 * constants, so that numbers can be compared with published ones.
 *
 * "zipfian" is YCSB's scrambled zipfian: popularity follows a zipfian law over 10^10 items, and a hash spreads the popular
 * ones over the key space.  "latest" is a zipfian law over the distance from the newest row.  What this costs per operation
 * (a pow() and a hash, some 60 ns) is outside of the measured latency.
 */
#include "base/assert.h"
#include "base/bits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ycsb.h"

#define ZIPF_THETA      0.99           /* ZipfianGenerator.ZIPFIAN_CONSTANT */
#define SCRAMBLED_ITEMS 10000000000ull /* ScrambledZipfianGenerator.ITEM_COUNT */
#define SCRAMBLED_ZETAN 26.46902820178302
#define ZETA_DIRECT \
    10000u /* terms summed one by one; Euler-Maclaurin gives the rest to some 1e-15 */
#define FNV_OFFSET 0xcbf29ce484222325ull
#define FNV_PRIME  1099511628211ull
#define CHOOSE_TRIES \
    1000 /* draws of a row that is not there yet, before taking one that surely is */

static const struct ycsb_workload workloads[] = {
    { .name = "load", .load = true, .percent = { [YCSB_INSERT] = 100 } },
    { .name = "a", .percent = { [YCSB_READ] = 50, [YCSB_UPDATE] = 50 } },
    { .name = "b", .percent = { [YCSB_READ] = 95, [YCSB_UPDATE] = 5 } },
    { .name = "c", .percent = { [YCSB_READ] = 100 } },
    { .name = "d",
      .percent = { [YCSB_READ] = 95, [YCSB_INSERT] = 5 },
      .distribution = YCSB_LATEST,
      .fixed_distribution = true },
    { .name = "e", .percent = { [YCSB_SCAN] = 95, [YCSB_INSERT] = 5 } },
    { .name = "f", .percent = { [YCSB_READ] = 50, [YCSB_RMW] = 50 } },
};

const char *
ycsb_op_name(enum ycsb_op_kind kind)
{
    static const char *const names[YCSB_OP_KINDS] = { "read", "update", "insert", "scan",
                                                      "read_modify_write" };

    ash_assert(kind < YCSB_OP_KINDS);
    return names[kind];
}

const struct ycsb_workload *
ycsb_workload_find(const char *name, size_t length)
{
    for (size_t i = 0; i < ASH_ARRAY_SIZE(workloads); i++)
        if (strlen(workloads[i].name) == length && memcmp(workloads[i].name, name, length) == 0)
            return &workloads[i];
    return NULL;
}

/* ---- Zipfian numbers ----------------------------------------------------------------------- */

uint64_t
ycsb_fnv(uint64_t v)
{
    uint64_t hash = FNV_OFFSET;

    for (int i = 0; i < 8; i++) {
        hash ^= v & 0xff;
        hash *= FNV_PRIME;
        v >>= 8;
    }
    return (int64_t)hash < 0 ? 0 - hash : hash; /* Math.abs() */
}

double
ycsb_zeta(uint64_t n)
{
    uint64_t direct = min_u64(n, ZETA_DIRECT);
    double sum = 0, m = (double)direct, x = (double)n;

    for (uint64_t i = direct; i >= 1; i--)
        sum += pow((double)i, -ZIPF_THETA);
    if (direct == n)
        return sum;
    /* Euler-Maclaurin: the sum over (m, n] of f is its integral + (f(n) - f(m)) / 2 + (f'(n) - f'(m)) / 12. */
    sum += (pow(x, 1 - ZIPF_THETA) - pow(m, 1 - ZIPF_THETA)) / (1 - ZIPF_THETA);
    sum += (pow(x, -ZIPF_THETA) - pow(m, -ZIPF_THETA)) / 2;
    sum -= ZIPF_THETA * (pow(x, -ZIPF_THETA - 1) - pow(m, -ZIPF_THETA - 1)) / 12;
    return sum;
}

static void
zipf_set(struct ycsb_zipf *z, uint64_t items, double zetan)
{
    double zeta2 = 1 + pow(2, -ZIPF_THETA);

    z->items = items;
    z->zetan = zetan;
    z->alpha = 1 / (1 - ZIPF_THETA);
    z->second = 1 + pow(0.5, ZIPF_THETA);
    z->eta = (1 - pow(2.0 / (double)items, 1 - ZIPF_THETA)) / (1 - zeta2 / zetan);
}

void
ycsb_zipf_init(struct ycsb_zipf *z, uint64_t items)
{
    ash_assert(items > 0);
    zipf_set(z, items, items == SCRAMBLED_ITEMS ? SCRAMBLED_ZETAN : ycsb_zeta(items));
}

void
ycsb_zipf_grow(struct ycsb_zipf *z, uint64_t items)
{
    double zetan = z->zetan;

    if (items <= z->items)
        return;
    for (uint64_t i = z->items + 1; i <= items; i++)
        zetan += pow((double)i, -ZIPF_THETA);
    zipf_set(z, items, zetan);
}

uint64_t
ycsb_zipf_next(const struct ycsb_zipf *z, struct random *r)
{
    double u = random_unit(r), uz = u * z->zetan;
    uint64_t v;

    if (uz < 1 || z->items == 1)
        return 0;
    if (uz < z->second)
        return 1;
    v = (uint64_t)((double)z->items * pow(z->eta * u - z->eta + 1, z->alpha));
    return v < z->items ? v : z->items - 1; /* rounding may reach the end */
}

/* ---- Which rows exist ---------------------------------------------------------------------- */

void
ycsb_acknowledge(struct ycsb_keyspace *keys, uint64_t number)
{
    uint64_t acked = atomic_load_explicit(&keys->acked, memory_order_relaxed);

    if (number - acked >= YCSB_ACK_WINDOW)
        return; /* somebody is far behind; `acked` stays where it is and rows after it are not chosen as "latest" */
    atomic_store_explicit(&keys->window[number % YCSB_ACK_WINDOW], 1, memory_order_release);
    if (atomic_flag_test_and_set_explicit(&keys->advancing, memory_order_acquire))
        return; /* whoever advances sees this mark, or the next insert does */
    acked = atomic_load_explicit(&keys->acked, memory_order_relaxed);
    while (atomic_load_explicit(&keys->window[acked % YCSB_ACK_WINDOW], memory_order_acquire) !=
           0) {
        atomic_store_explicit(&keys->window[acked % YCSB_ACK_WINDOW], 0, memory_order_relaxed);
        acked++;
        atomic_store_explicit(&keys->acked, acked, memory_order_release);
    }
    atomic_flag_clear_explicit(&keys->advancing, memory_order_release);
}

/* ---- Choosing ------------------------------------------------------------------------------ */

void
ycsb_chooser_init(struct ycsb_chooser *c, const struct ycsb_config *config,
                  const struct ycsb_workload *workload, struct ycsb_keyspace *keys,
                  const uint8_t *pool, uint64_t seed)
{
    uint64_t rows = atomic_load(&keys->acked);

    *c =
        (struct ycsb_chooser){ .config = config, .workload = workload, .keys = keys, .pool = pool };
    random_init(&c->random, seed);
    c->distribution = workload->distribution;
    if (config->distribution != YCSB_OWN && !workload->fixed_distribution)
        c->distribution = config->distribution;
    c->domain = rows;
    if (workload->load)
        return;
    ash_assert(rows > 0);
    if (c->distribution == YCSB_LATEST) {
        ycsb_zipf_init(&c->zipf, rows);
    } else if (c->distribution == YCSB_ZIPFIAN) {
        /* As YCSB: room for twice the inserts expected, so that they do not shift which rows are popular. */
        c->domain += config->operations / 100 * workload->percent[YCSB_INSERT] * 2;
        ycsb_zipf_init(&c->zipf, SCRAMBLED_ITEMS);
    }
}

static uint64_t
choose_row(struct ycsb_chooser *c)
{
    uint64_t rows = atomic_load_explicit(&c->keys->acked, memory_order_acquire), n;

    switch (c->distribution) {
    case YCSB_UNIFORM: return random_below(&c->random, c->domain);
    case YCSB_LATEST:
        if (rows > c->zipf.items)
            ycsb_zipf_grow(&c->zipf, rows);
        n = ycsb_zipf_next(&c->zipf, &c->random);
        return n < rows ? rows - 1 - n : 0;
    default:
        for (int i = 0; i < CHOOSE_TRIES; i++) {
            n = ycsb_fnv(ycsb_zipf_next(&c->zipf, &c->random)) % c->domain;
            if (n < rows)
                return n;
        }
        return random_below(&c->random, rows);
    }
}

void
ycsb_choose(struct ycsb_chooser *c, struct ycsb_op *op_out)
{
    unsigned dice = (unsigned)random_below(&c->random, 100), kind = 0;

    while (dice >= c->workload->percent[kind]) {
        dice -= c->workload->percent[kind];
        kind++;
    }
    op_out->kind = kind;
    op_out->scan_rows = 0;
    if (kind == YCSB_INSERT) {
        op_out->number = atomic_fetch_add_explicit(&c->keys->next, 1, memory_order_relaxed);
        return;
    }
    op_out->number = choose_row(c);
    if (kind == YCSB_SCAN)
        op_out->scan_rows = 1 + random_below(&c->random, YCSB_SCAN_MAX);
}

void
ycsb_key(const struct ycsb_config *config, uint64_t number, uint8_t *out)
{
    uint64_t v = config->hashed ? ycsb_fnv(number) : number;
    size_t i = config->key_size;

    if (config->key_size == YCSB_KEY_BINARY) {
        put_be64(out, v);
        return;
    }
    memcpy(out, "user", 4);
    for (; v != 0; v /= 10)
        out[--i] = (uint8_t)('0' + v % 10);
    memset(out + 4, '0', i - 4);
}

void
ycsb_value(struct ycsb_chooser *c, uint64_t number, uint8_t *out)
{
    size_t size = c->config->value_size;

    memcpy(out, c->pool + random_below(&c->random, YCSB_VALUE_POOL), size);
    if (size >= 8)
        put_le64(out, number);
}

bool
ycsb_value_belongs(const struct ycsb_config *config, uint64_t number,
                   const struct bench_buffer *value)
{
    return value->size == config->value_size &&
           (value->size < 8 || get_le64(value->data) == number);
}
