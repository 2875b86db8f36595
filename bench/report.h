/* SPDX-License-Identifier: Apache-2.0
 *
 * report.h - the table on the terminal and the JSON file.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stdio.h>

#include "ycsb.h"

/* JSON, one value after the other; `*comma` says whether one went before.  Reals that are no numbers become null. */
struct json {
    FILE *file;
    bool comma;
};
void json_open(struct json *j, const char *key, char bracket);
void json_close(struct json *j, char bracket);
void json_text(struct json *j, const char *key, const char *value);
void json_number(struct json *j, const char *key, uint64_t value);
void json_real(struct json *j, const char *key, double value);
void json_bool(struct json *j, const char *key, bool value);
void json_null(struct json *j, const char *key);

/* The members "machine" and "device" that every report begins with. */
void report_machine(struct json *j, const struct bench_machine *machine,
                    const struct bench_device_limits *limits);

void report_head(const struct ycsb_config *config, const struct bench_machine *machine,
                 const struct bench_device_limits *limits);
void report_row(const char *engine, const char *workload, const struct ycsb_result *r);

/* All results: results[(round * engines + engine) * workloads + workload]. */
size_t
report_index(const struct ycsb_config *config, unsigned round, size_t engine, size_t workload);
/* The round whose throughput is the median of the good ones; any failed one when there is no good one. */
unsigned report_median_round(const struct ycsb_config *config, const struct ycsb_result *results,
                             size_t engine, size_t workload);
void report_medians(const struct ycsb_config *config, const struct ycsb_result *results);
ASH_MUST_CHECK ash_rc report_json(const struct ycsb_config *config,
                                  const struct bench_machine *machine,
                                  const struct bench_device_limits *limits,
                                  const struct ycsb_result *results);

#endif
