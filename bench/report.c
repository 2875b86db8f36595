/* SPDX-License-Identifier: Apache-2.0
 *
 * report.c - see report.h.  The JSON's members are described in bench/README.md; add members freely, never rename one.
 */
#include "report.h"

#include "base/error.h"
#include "base/option.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

/* ---- JSON ---------------------------------------------------------------------------------- */

static void
write_string(FILE *f, const char *text)
{
    fputc('"', f);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20)
            fprintf(f, "\\u%04x", c);
        else
            fputc(c, f);
    }
    fputc('"', f);
}

static void
begin_member(struct json *j, const char *key)
{
    if (j->comma)
        fputs(",\n", j->file);
    j->comma = true;
    if (key != NULL) {
        write_string(j->file, key);
        fputc(':', j->file);
    }
}

void
json_open(struct json *j, const char *key, char bracket)
{
    begin_member(j, key);
    fputc(bracket, j->file);
    j->comma = false;
}

void
json_close(struct json *j, char bracket)
{
    fputc(bracket, j->file);
    j->comma = true;
}

void
json_text(struct json *j, const char *key, const char *value)
{
    begin_member(j, key);
    write_string(j->file, value);
}

void
json_number(struct json *j, const char *key, uint64_t value)
{
    begin_member(j, key);
    fprintf(j->file, "%" PRIu64, value);
}

void
json_real(struct json *j, const char *key, double value)
{
    if (!isfinite(value)) {
        json_null(j, key);
        return;
    }
    begin_member(j, key);
    fprintf(j->file, "%.3f", value);
}

void
json_bool(struct json *j, const char *key, bool value)
{
    begin_member(j, key);
    fputs(value ? "true" : "false", j->file);
}

void
json_null(struct json *j, const char *key)
{
    begin_member(j, key);
    fputs("null", j->file);
}

void
report_machine(struct json *j, const struct bench_machine *machine,
               const struct bench_device_limits *limits)
{
    json_open(j, "machine", '{');
    json_text(j, "cpu", machine->cpu);
    json_number(j, "cores", machine->cores);
    json_number(j, "memory_bytes", machine->memory_bytes);
    json_text(j, "kernel", machine->kernel);
    json_text(j, "filesystem", machine->filesystem);
    json_text(j, "device", machine->device);
    json_text(j, "device_model", machine->device_model);
    json_bool(j, "rotational", machine->rotational);
    json_text(j, "compiler", machine->compiler);
    json_text(j, "date", machine->date);
    json_close(j, '}');
    if (!limits->measured) {
        json_null(j, "device");
        return;
    }
    json_open(j, "device", '{');
    json_text(j, "measured_by", "fio");
    json_real(j, "random_read_iops", limits->random_read_iops);
    json_real(j, "random_read_qd1_iops", limits->random_read_qd1_iops);
    json_real(j, "random_read_qd1_us", limits->random_read_qd1_us);
    json_real(j, "random_write_iops", limits->random_write_iops);
    json_real(j, "read_bytes_per_s", limits->read_bytes_per_s);
    json_real(j, "write_bytes_per_s", limits->write_bytes_per_s);
    json_real(j, "sync_write_per_s", limits->sync_write_per_s);
    json_real(j, "sync_write_us", limits->sync_write_us);
    json_close(j, '}');
}

static void
write_latencies(struct json *j, const struct ycsb_result *r)
{
    json_open(j, "latency_us", '{');
    for (int kind = 0; kind < YCSB_OP_KINDS; kind++) {
        const struct ycsb_latency *l = &r->latency[kind];

        if (l->count == 0)
            continue;
        json_open(j, ycsb_op_name(kind), '{');
        json_number(j, "count", l->count);
        json_real(j, "mean", l->mean_us);
        json_real(j, "p50", l->p50_us);
        json_real(j, "p95", l->p95_us);
        json_real(j, "p99", l->p99_us);
        json_real(j, "p999", l->p999_us);
        json_real(j, "max", l->max_us);
        json_close(j, '}');
    }
    json_close(j, '}');
}

static const char *
distribution_name(const struct ycsb_config *config, const struct ycsb_workload *w)
{
    static const char *const names[] = { "zipfian", "uniform", "latest" };
    enum ycsb_distribution d = w->distribution;

    if (w->load)
        return "";
    if (config->distribution != YCSB_OWN && !w->fixed_distribution)
        d = config->distribution;
    return names[d];
}

static void
write_measures(struct json *j, const struct ycsb_result *r)
{
    json_number(j, "records", r->records);
    json_number(j, "operations", r->operations);
    json_number(j, "not_found", r->not_found);
    json_number(j, "rows_scanned", r->rows_scanned);
    json_real(j, "seconds", r->seconds);
    json_real(j, "ops_per_s", r->ops_per_s);
    write_latencies(j, r);
    if (r->device_known) {
        json_number(j, "device_bytes_read", r->device_bytes_read);
        json_number(j, "device_bytes_written", r->device_bytes_written);
    } else {
        json_null(j, "device_bytes_read");
        json_null(j, "device_bytes_written");
    }
    json_number(j, "space_bytes", r->space_bytes);
    json_real(j, "cpu_s", r->cpu_s);
    json_number(j, "rss_bytes", r->rss_bytes);
}

static void
write_run(struct json *j, const struct ycsb_config *config, const struct ycsb_result *results,
          size_t engine, size_t workload)
{
    const struct ycsb_workload *w = config->workload[workload];
    unsigned round = report_median_round(config, results, engine, workload);
    const struct ycsb_result *r = &results[report_index(config, round, engine, workload)];

    json_open(j, NULL, '{');
    json_text(j, "bench", "ycsb");
    json_text(j, "engine", config->engine[engine]->name);
    json_text(j, "version", r->engine_version);
    json_text(j, "settings", r->settings);
    json_bool(j, "page_cache", config->page_cache || config->engine[engine]->always_page_cache);
    json_text(j, "workload", w->name);
    json_text(j, "distribution", distribution_name(config, w));
    json_text(j, "durability", engine_durability_name(config->durability));
    json_number(j, "threads", config->threads);
    json_bool(j, "executors", config->executors);
    json_number(j, "key_size", config->key_size);
    json_number(j, "value_size", config->value_size);
    json_number(j, "cache_bytes", config->cache);
    write_measures(j, r);
    json_number(j, "rounds", config->rounds);
    json_open(j, "ops_per_s_of_rounds", '[');
    for (unsigned i = 0; i < config->rounds; i++)
        json_real(j, NULL, results[report_index(config, i, engine, workload)].ops_per_s);
    json_close(j, ']');
    if (r->done)
        json_null(j, "error");
    else
        json_text(j, "error",
                  r->error[0] != '\0' ? r->error : "not run, because an earlier workload failed");
    json_close(j, '}');
}

ash_rc
report_json(const struct ycsb_config *config, const struct bench_machine *machine,
            const struct bench_device_limits *limits, const struct ycsb_result *results)
{
    struct json j = { .file = fopen(config->json, "we") };
    bool failed;

    if (j.file == NULL)
        return ash_raise_sys(err_from_errno(errno), errno, config->json,
                             "--json: cannot write %s: %s", config->json, strerror(errno));
    json_open(&j, NULL, '{');
    report_machine(&j, machine, limits);
    json_open(&j, "runs", '[');
    for (size_t e = 0; e < config->engines; e++)
        for (size_t w = 0; w < config->workloads; w++)
            write_run(&j, config, results, e, w);
    json_close(&j, ']');
    json_close(&j, '}');
    fputc('\n', j.file);
    failed = ferror(j.file) != 0;
    if (fclose(j.file) != 0 || failed)
        return ash_raise_sys(ASH_IO, errno, config->json, "--json: writing %s failed: %s",
                             config->json, strerror(errno));
    return ASH_OK;
}

/* ---- Table --------------------------------------------------------------------------------- */

size_t
report_index(const struct ycsb_config *config, unsigned round, size_t engine, size_t workload)
{
    return (round * config->engines + engine) * config->workloads + workload;
}

unsigned
report_median_round(const struct ycsb_config *config, const struct ycsb_result *results,
                    size_t engine, size_t workload)
{
    unsigned good[YCSB_ROUNDS_MAX], count = 0;

    for (unsigned round = 0; round < config->rounds; round++) {
        const struct ycsb_result *r = &results[report_index(config, round, engine, workload)];
        unsigned at = count;

        if (!r->done)
            continue;
        while (at > 0 && results[report_index(config, good[at - 1], engine, workload)].ops_per_s >
                             r->ops_per_s) {
            good[at] = good[at - 1];
            at--;
        }
        good[at] = round;
        count++;
    }
    return count > 0 ? good[(count - 1) / 2] : 0; /* of an even number: the lower one */
}

static void
print_limits(const struct bench_device_limits *l)
{
    printf(
        "device  4 KiB random read %.0f/s at depth 128, %.0f/s at depth 1 (%.0f us); random write %.0f/s\n"
        "        sequential read %.0f MiB/s, write %.0f MiB/s; 4 KiB synced write %.0f/s (%.0f us)      [fio]\n",
        l->random_read_iops, l->random_read_qd1_iops, l->random_read_qd1_us, l->random_write_iops,
        l->read_bytes_per_s / 1048576, l->write_bytes_per_s / 1048576, l->sync_write_per_s,
        l->sync_write_us);
}

static void
print_columns(void)
{
    printf("\n%-10s %-5s %12s %8s %9s %9s %9s  %-17s %9s %9s %9s %9s %10s\n", "engine", "load",
           "ops/s", "cpu us", "B read", "B writ.", "space", "operation", "p50 us", "p95", "p99",
           "p99.9", "max");
    printf("%-10s %-5s %12s %8s %9s %9s %9s\n", "", "", "", "per op", "per op", "per op", "MiB");
    fflush(stdout);
}

void
report_head(const struct ycsb_config *config, const struct bench_machine *machine,
            const struct bench_device_limits *limits)
{
    char memory[32], cache[32];

    option_format_size(machine->memory_bytes, memory);
    option_format_size(config->cache, cache);
    printf("machine %s, %u cores, %s; %s; %s on %s\n", machine->cpu, machine->cores, memory,
           machine->kernel, machine->filesystem,
           machine->device[0] != '\0' ? machine->device : "an unknown device");
    if (limits->measured)
        print_limits(limits);
    printf("ycsb    %" PRIu64 " records, keys of %" PRIu64 " and values of %" PRIu64
           " bytes, cache %s, durability %s, %" PRIu64 " %s\n",
           config->records, config->key_size, config->value_size, cache,
           engine_durability_name(config->durability), config->threads,
           config->executors ? "requests in flight" : "threads");
    for (size_t i = 0; i < config->engines && !config->page_cache; i++)
        if (config->engine[i]->always_page_cache)
            printf(
                "note    %s cannot bypass the page cache: besides --cache it has all of this machine's free memory\n",
                config->engine[i]->name);
    print_columns();
}

void
report_row(const char *engine, const char *workload, const struct ycsb_result *r)
{
    double n = r->operations != 0 ? (double)r->operations : 1;
    bool first = true;

    if (!r->done) {
        printf("%-10s %-5s FAILED %s\n", engine, workload, r->error);
        fflush(stdout);
        return;
    }
    for (int kind = 0; kind < YCSB_OP_KINDS; kind++) {
        const struct ycsb_latency *l = &r->latency[kind];

        if (l->count == 0)
            continue;
        if (first)
            printf("%-10s %-5s %12.0f %8.2f %9.0f %9.0f %9.1f", engine, workload, r->ops_per_s,
                   r->cpu_s * 1e6 / n, (double)r->device_bytes_read / n,
                   (double)r->device_bytes_written / n, (double)r->space_bytes / 1048576);
        else
            printf("%68s", "");
        printf("  %-17s %9.1f %9.1f %9.1f %9.1f %10.1f\n", ycsb_op_name(kind), l->p50_us, l->p95_us,
               l->p99_us, l->p999_us, l->max_us);
        first = false;
    }
    if (r->not_found != 0)
        printf("%68s  %" PRIu64 " rows were not found\n", "", r->not_found);
    fflush(stdout);
}

void
report_medians(const struct ycsb_config *config, const struct ycsb_result *results)
{
    printf("\nMedian of %" PRIu64 " rounds", config->rounds);
    print_columns();
    for (size_t w = 0; w < config->workloads; w++)
        for (size_t e = 0; e < config->engines; e++) {
            unsigned round = report_median_round(config, results, e, w);
            report_row(config->engine[e]->name, config->workload[w]->name,
                       &results[report_index(config, round, e, w)]);
        }
}
