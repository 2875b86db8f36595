/* SPDX-License-Identifier: Apache-2.0
 *
 * ycsb.h - the YCSB core workloads: what they are (ycsb_workload.c), how one is run and measured (ycsb_run.c), and the
 * command that runs several on several engines (ycsb.c).
 */
#ifndef BENCH_YCSB_H
#define BENCH_YCSB_H

#include "base/hist.h"
#include "base/random.h"

#include <stdatomic.h>

#include "engine.h"
#include "machine.h"

#define YCSB_ENGINES_MAX   16
#define YCSB_WORKLOADS_MAX 16
#define YCSB_ROUNDS_MAX    99
#define YCSB_THREADS_MAX   65536
#define YCSB_SCAN_MAX      100 /* rows; the core workloads' maxscanlength */
#define YCSB_KEY_MAX       ASH_KEY_SIZE_MAX
#define YCSB_KEY_DIGITS    19 /* of a 63-bit number */
#define YCSB_KEY_TEXT_MIN  (4 + YCSB_KEY_DIGITS)
#define YCSB_KEY_BINARY    8 /* bytes: --key-size=8 means a big-endian integer */
#define YCSB_VALUE_POOL    (1u << 20)

enum ycsb_op_kind {
    YCSB_READ,
    YCSB_UPDATE,
    YCSB_INSERT,
    YCSB_SCAN,
    YCSB_RMW,
    YCSB_OP_KINDS
};
enum ycsb_distribution {
    YCSB_ZIPFIAN,
    YCSB_UNIFORM,
    YCSB_LATEST,
    YCSB_OWN /* the workload's own */
};

const char *ycsb_op_name(enum ycsb_op_kind kind);

/* ---- Workloads ----------------------------------------------------------------------------- */

struct ycsb_workload {
    const char *name;
    bool load;
    uint8_t percent[YCSB_OP_KINDS]; /* sums to 100; of load: ignored */
    enum ycsb_distribution distribution;
    bool fixed_distribution; /* --distribution does not change it */
};

/* NULL when there is none of that name (of `length` bytes). */
const struct ycsb_workload *ycsb_workload_find(const char *name, size_t length);

struct ycsb_config {
    const struct bench_engine *engine[YCSB_ENGINES_MAX];
    const struct ycsb_workload *workload[YCSB_WORKLOADS_MAX];
    size_t engines, workloads;
    uint64_t records, operations, value_size, key_size, threads, cache, rounds, seed, load_batch;
    double seconds, warmup;
    enum ash_durability durability;
    enum ycsb_distribution distribution;
    bool hashed; /* keys are spread by a hash; false: ascending */
    bool executors, keep, page_cache, fio;
    const char *dir, *json, *options;
};

/* Which rows exist.  Numbers are given out by `next`; all numbers below `acked` are present. */
#define YCSB_ACK_WINDOW (1u << 20) /* inserts in flight at once that `acked` can follow */
struct ycsb_keyspace {
    _Atomic uint64_t next;
    _Atomic uint64_t acked;
    atomic_flag advancing;
    _Atomic uint8_t *window; /* YCSB_ACK_WINDOW bytes: number is inserted, not yet below `acked` */
};
void ycsb_acknowledge(struct ycsb_keyspace *keys, uint64_t number);

/* YCSB's ZipfianGenerator: item i of `items` with probability proportional to 1 / (i + 1)^0.99. */
struct ycsb_zipf {
    uint64_t items;
    double zetan, eta, alpha, second;
};
void ycsb_zipf_init(struct ycsb_zipf *z, uint64_t items);
void ycsb_zipf_grow(struct ycsb_zipf *z, uint64_t items); /* items only grow */
uint64_t ycsb_zipf_next(const struct ycsb_zipf *z, struct random *r);
double ycsb_zeta(uint64_t n);  /* sum of 1 / i^0.99 for i = 1..n */
uint64_t ycsb_fnv(uint64_t v); /* YCSB's Utils.hash() */

/* Chooses operations, keys and values for one client.  One thread at a time. */
struct ycsb_chooser {
    const struct ycsb_config *config;
    const struct ycsb_workload *workload;
    struct ycsb_keyspace *keys;
    struct random random;
    enum ycsb_distribution distribution;
    struct ycsb_zipf zipf;
    uint64_t domain;     /* zipfian and uniform: numbers to choose from */
    const uint8_t *pool; /* YCSB_VALUE_POOL + value_size random bytes */
};

struct ycsb_op {
    enum ycsb_op_kind kind;
    uint64_t number; /* of the row */
    size_t scan_rows;
};

void ycsb_chooser_init(struct ycsb_chooser *c, const struct ycsb_config *config,
                       const struct ycsb_workload *workload, struct ycsb_keyspace *keys,
                       const uint8_t *pool, uint64_t seed);
void ycsb_choose(struct ycsb_chooser *c, struct ycsb_op *op_out);
/* Writes the key of a row: config->key_size bytes. */
void ycsb_key(const struct ycsb_config *config, uint64_t number, uint8_t *out);
/* Writes a fresh value of config->value_size bytes that names its row, so that reads can check it. */
void ycsb_value(struct ycsb_chooser *c, uint64_t number, uint8_t *out);
bool ycsb_value_belongs(const struct ycsb_config *config, uint64_t number,
                        const struct bench_buffer *value);

/* ---- Runs ---------------------------------------------------------------------------------- */

struct ycsb_latency {
    uint64_t count;
    double mean_us, p50_us, p95_us, p99_us, p999_us, max_us;
};

/* One workload on one engine.  Holds no pointers: it comes from a child process. */
struct ycsb_result {
    bool done;
    char engine_version[64];
    char settings[512];
    char error[512]; /* "" or why the run failed */
    double seconds, ops_per_s, cpu_s;
    uint64_t records; /* rows when it began (load: when it ended) */
    uint64_t operations, not_found, rows_scanned;
    bool device_known;
    uint64_t device_bytes_read, device_bytes_written, space_bytes, rss_bytes;
    struct ycsb_latency latency[YCSB_OP_KINDS];
};

/* Called when a workload is done. */
typedef void (*ycsb_report_fn)(const char *engine, const char *workload,
                               const struct ycsb_result *result);

/* Runs every workload of the list on one engine, in the calling process; fills results[0..workloads).  Failures are
 * noted in the results; returns false when there was one. */
bool ycsb_run_engine(const struct ycsb_config *config, const struct bench_machine *machine,
                     const struct bench_engine *engine, unsigned round, struct ycsb_result *results,
                     ycsb_report_fn report);

/* The command. */
int ycsb_main(int argc, char **argv);

#endif
