/* SPDX-License-Identifier: Apache-2.0
 *
 * ycsb.c - the command `ashlar-bench ycsb`: options, rounds, and a child process per engine and round.
 *
 * A child per engine keeps the engines apart: memory that one leaves behind is not counted for the next, and a crash of one
 * costs only its own results, which come back through memory shared with the parent.
 */
#include "ycsb.h"

#include "base/assert.h"
#include "base/error.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "args.h"
#include "report.h"

#define THREADS_MAX    1024u /* without --executors */
#define SECONDS_MAX    864000u
#define NAME_MAX_BYTES 32

static const char help_text[] =
    "usage: ashlar-bench ycsb [options]\n"
    "\n"
    "Runs the core workloads of the Yahoo! Cloud Serving Benchmark on Ashlar and its peers, one engine after the other, with\n"
    "the same rows, cache and durability.  One table row per operation kind appears as each workload ends.\n"
    "\n"
    "Workloads, run in the order given on one database per engine and round:\n"
    "  load  inserts --records rows          a  50% read, 50% update    b  95% read, 5% update    c  100% read\n"
    "  d     95% read latest, 5% insert      e  95% scan of 1..100 rows, 5% insert    f  50% read, 50% read-modify-write\n"
    "When the list does not begin with load, the rows are loaded first without being measured, unless --dir holds them\n"
    "from a run with --keep.\n"
    "\n"
    "Options:\n";

static const char help_examples[] =
    "\n"
    "Examples:\n"
    "  ashlar-bench ycsb --dir=/mnt/nvme/bench --workloads=load,a,b,c,d,e,f --records=10M --operations=2M --cache=2GiB\n"
    "      everything, with data five times the cache\n"
    "  ashlar-bench ycsb --dir=/mnt/nvme/bench --engines=ashlar,rocksdb --workloads=a --seconds=60 --threads=8 --rounds=3\n"
    "      two engines, interleaved, the median of three\n"
    "  ashlar-bench ycsb --dir=/mnt/nvme/bench --workloads=c --key-size=8 --value-size=120 --distribution=uniform\n"
    "      random gets of small rows, as in the vmcache and LeanStore papers\n"
    "bench/README.md tells how each engine is set up, and why, and what the members of the JSON file are.\n";

/* What the options point at before they are checked. */
struct raw {
    struct ycsb_config config;
    const char *engines, *workloads, *durability, *distribution, *order, *page_cache;
};

/* ---- Options ------------------------------------------------------------------------------- */

static ash_rc
parse_engines(struct ycsb_config *config, const char *text)
{
    char name[NAME_MAX_BYTES];

    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        ash_rc rc;

        if (config->engines == YCSB_ENGINES_MAX)
            return ash_raise(ASH_INVALID, "--engines: more than %d engines", YCSB_ENGINES_MAX);
        snprintf(name, sizeof(name), "%.*s", (int)length, at);
        rc = engine_find(name, &config->engine[config->engines]);
        if (rc != ASH_OK)
            return rc;
        for (size_t i = 0; i < config->engines; i++)
            if (config->engine[i] == config->engine[config->engines])
                return ash_raise(ASH_INVALID,
                                 "--engines: %s is named twice; use --rounds to repeat", name);
        config->engines++;
        at += length;
        if (*at == '\0')
            return ASH_OK;
    }
}

static ash_rc
parse_workloads(struct ycsb_config *config, const char *text)
{
    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        const struct ycsb_workload *w = ycsb_workload_find(at, length);

        if (config->workloads == YCSB_WORKLOADS_MAX)
            return ash_raise(ASH_INVALID, "--workloads: more than %d workloads",
                             YCSB_WORKLOADS_MAX);
        if (w == NULL)
            return ash_raise(
                ASH_INVALID,
                "--workloads: there is no workload \"%.*s\"; there are load, a, b, c, d, e, f",
                (int)length, at);
        if (w->load && config->workloads != 0)
            return ash_raise(ASH_INVALID, "--workloads: load can only come first");
        config->workload[config->workloads++] = w;
        at += length;
        if (*at == '\0')
            return ASH_OK;
    }
}

/* Finds `text` in a list of words "a|b|c" and gives its index. */
static ash_rc
parse_word(const char *option, const char *words, const char *text, unsigned *index_out)
{
    unsigned index = 0;

    for (const char *at = words;; at++, index++) {
        size_t length = strcspn(at, "|");

        if (strlen(text) == length && memcmp(at, text, length) == 0) {
            *index_out = index;
            return ASH_OK;
        }
        at += length;
        if (*at == '\0')
            return ash_raise(ASH_INVALID, "--%s: \"%s\" is not one of %s", option, text, words);
    }
}

static ash_rc
parse_words(struct raw *raw)
{
    struct ycsb_config *config = &raw->config;
    unsigned word = 0;
    ash_rc rc = parse_word("durability", "sync|async|none", raw->durability, &word);

    if (rc != ASH_OK)
        return rc;
    config->durability = word;
    config->distribution = YCSB_OWN;
    if (raw->distribution != NULL) {
        rc = parse_word("distribution", "zipfian|uniform|latest", raw->distribution, &word);
        if (rc != ASH_OK)
            return rc;
        config->distribution = word;
    }
    rc = parse_word("page-cache", "bypass|allow", raw->page_cache, &word);
    if (rc != ASH_OK)
        return rc;
    config->page_cache = word == 1;
    word = config->key_size == YCSB_KEY_BINARY;
    if (raw->order != NULL)
        rc = parse_word("insert-order", "hashed|ordered", raw->order, &word);
    config->hashed = word == 0;
    return rc;
}

static ash_rc
check(const struct ycsb_config *config)
{
    if (config->dir == NULL)
        return ash_raise(ASH_INVALID,
                         "--dir is missing: name a directory on the device to measure");
    if (config->key_size != YCSB_KEY_BINARY && config->key_size < YCSB_KEY_TEXT_MIN)
        return ash_raise(
            ASH_INVALID,
            "--key-size: %llu is neither 8 (a binary integer) nor %d or more (\"user\" and digits)",
            (unsigned long long)config->key_size, YCSB_KEY_TEXT_MIN);
    if (config->operations == 0 && config->seconds == 0)
        return ash_raise(ASH_INVALID, "--operations=0 needs --seconds");
    if (!config->executors && config->threads > THREADS_MAX)
        return ash_raise(ASH_INVALID, "--threads: more than %u needs --executors", THREADS_MAX);
    for (size_t i = 0; i < config->engines && config->executors; i++)
        if (config->engine[i]->submit == NULL)
            return ash_raise(ASH_INVALID,
                             "--executors: %s has none; name ashlar alone in --engines",
                             config->engine[i]->name);
    if (mkdir(config->dir, 0700) != 0 && errno != EEXIST)
        return ash_raise_sys(err_from_errno(errno), errno, config->dir, "--dir: cannot make %s: %s",
                             config->dir, strerror(errno));
    return ASH_OK;
}

/* The option table lives here so that its targets can be addresses in `raw`.  Returns a result for the shell, or -1. */
static int
parse(struct raw *raw, int argc, char **argv)
{
    struct ycsb_config *c = &raw->config;
    char engines_help[256];
    const struct arg_spec specs[] = {
        { "engines", ARG_TEXT, &raw->engines, 0, 0, "LIST", engines_help },
        { "workloads", ARG_TEXT, &raw->workloads, 0, 0, "LIST",
          "of load,a,b,c,d,e,f; default load,a,b,c,d,e,f" },
        { "records", ARG_COUNT, &c->records, 1, 1ull << 40, "N",
          "rows to load; default 1M (k, M, G are thousands)" },
        { "operations", ARG_COUNT, &c->operations, 0, 1ull << 50, "N",
          "per workload, all threads together; default 1M, or no limit with --seconds" },
        { "seconds", ARG_SECONDS, &c->seconds, 0, SECONDS_MAX, "S",
          "longest time of a workload (the load is always complete)" },
        { "warmup", ARG_SECONDS, &c->warmup, 0, SECONDS_MAX, "S",
          "runs each workload so long before measuring; default 0" },
        { "rounds", ARG_COUNT, &c->rounds, 1, YCSB_ROUNDS_MAX, "R",
          "repeats everything, engines interleaved (A B A B); the median is reported" },
        { "threads", ARG_COUNT, &c->threads, 1, YCSB_THREADS_MAX, "T", "clients; default 1" },
        { "executors", ARG_FLAG, &c->executors, 0, 0, NULL,
          "ashlar only: T requests in flight on ash_run() instead of T threads" },
        { "key-size", ARG_SIZE, &c->key_size, YCSB_KEY_BINARY, YCSB_KEY_MAX, "BYTES",
          "default 23: \"user\" and 19 digits, as YCSB; 8: a big-endian integer" },
        { "value-size", ARG_SIZE, &c->value_size, 1, ASH_VALUE_SIZE_MAX, "BYTES",
          "default 1000, YCSB's ten fields of 100" },
        { "insert-order", ARG_TEXT, &raw->order, 0, 0, "ORDER",
          "hashed (YCSB's, the default) or ordered (the default with --key-size=8)" },
        { "distribution", ARG_TEXT, &raw->distribution, 0, 0, "NAME",
          "zipfian, uniform or latest; default: the workload's own\n(zipfian; d always reads the latest)" },
        { "cache", ARG_SIZE, &c->cache, 1 << 20, 1ull << 44, "BYTES",
          "memory for each engine; default 256MiB" },
        { "durability", ARG_TEXT, &raw->durability, 0, 0, "MODE",
          "sync: on stable storage when the call returns (default);\n"
          "async: logged, on its way; none: the least an engine offers" },
        { "page-cache", ARG_TEXT, &raw->page_cache, 0, 0, "MODE",
          "bypass: direct I/O for engines that have it (default), so that\n"
          "--cache is their cache; allow: the kernel caches for all" },
        { "load-batch", ARG_COUNT, &c->load_batch, 1, 10000, "N",
          "rows per transaction of the measured load; default 1" },
        { "dir", ARG_TEXT, &c->dir, 0, 0, "DIR", "where the databases go (needed)" },
        { "keep", ARG_FLAG, &c->keep, 0, 0, NULL, "leaves the databases there for the next run" },
        { "json", ARG_TEXT, &c->json, 0, 0, "FILE", "writes machine, device and runs as JSON" },
        { "fio", ARG_FLAG, &c->fio, 0, 0, NULL, "measures the device with fio first (some 20 s)" },
        { "seed", ARG_COUNT, &c->seed, 0, UINT64_MAX, "N", "of all randomness; default 1" },
        { "options", ARG_TEXT, &c->options, 0, 0, "STRING",
          "more options for ash_open(), e.g. wal_buffer=64MiB,page_writers=2" },
    };
    bool help = false;
    ash_rc rc;

    snprintf(engines_help, sizeof(engines_help),
             "of ashlar,rocksdb,wiredtiger,lmdb,sqlite,leveldb;\nthis build has %s (default: all)",
             engine_names());
    rc = args_parse(specs, ASH_ARRAY_SIZE(specs), argc, argv, &help);
    if (rc == ASH_OK && help) {
        fputs(help_text, stdout);
        args_help(specs, ASH_ARRAY_SIZE(specs));
        fputs(help_examples, stdout);
        return 0;
    }
    if (rc == ASH_OK)
        rc = parse_engines(c, raw->engines);
    if (rc == ASH_OK)
        rc = parse_workloads(c, raw->workloads);
    if (rc == ASH_OK)
        rc = parse_words(raw);
    if (rc == ASH_OK && c->operations == UINT64_MAX)
        c->operations = c->seconds > 0 ? 0 : 1000000;
    if (rc == ASH_OK)
        rc = check(c);
    if (rc == ASH_OK)
        return -1;
    fprintf(stderr, "ashlar-bench ycsb: %s\n", ash_error_last()->message);
    return 2;
}

/* ---- Rounds -------------------------------------------------------------------------------- */

static void
note_death(struct ycsb_result *results, const struct ycsb_config *config, const char *engine,
           int status)
{
    for (size_t w = 0; w < config->workloads; w++) {
        if (results[w].done || results[w].error[0] != '\0')
            continue;
        if (WIFSIGNALED(status))
            snprintf(results[w].error, sizeof(results[w].error), "%s was killed by signal %d",
                     engine, WTERMSIG(status));
        else
            snprintf(results[w].error, sizeof(results[w].error), "%s ended with status %d", engine,
                     WEXITSTATUS(status));
        report_row(engine, config->workload[w]->name, &results[w]);
        return; /* those after it were not run */
    }
}

/* Runs one engine in a child; true when all went well. */
static bool
run_child(const struct ycsb_config *config, const struct bench_machine *machine, size_t engine,
          unsigned round, struct ycsb_result *results)
{
    struct ycsb_result *own = &results[report_index(config, round, engine, 0)];
    const char *name = config->engine[engine]->name;
    int status = 0;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child < 0) {
        snprintf(own->error, sizeof(own->error), "cannot make a process: %s", strerror(errno));
        report_row(name, config->workload[0]->name, own);
        return false;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a killed benchmark leaves nobody working */
        bool good =
            ycsb_run_engine(config, machine, config->engine[engine], round, own, report_row);
        fflush(NULL);
        _exit(good ? 0 : 1);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (status == 0)
        return true;
    note_death(own, config, name, status);
    return false;
}

static bool
run_rounds(const struct ycsb_config *config, const struct bench_machine *machine,
           struct ycsb_result *results)
{
    bool good = true;

    for (unsigned round = 0; round < config->rounds; round++)
        for (size_t e = 0; e < config->engines; e++)
            good &= run_child(config, machine, e, round, results);
    return good;
}

static int
fail(void)
{
    fprintf(stderr, "ashlar-bench ycsb: %s\n", ash_error_last()->message);
    return 1;
}

int
ycsb_main(int argc, char **argv)
{
    struct raw raw = {
        .config = { .records = 1000000,
                    .operations = UINT64_MAX,
                    .value_size = 1000,
                    .key_size = YCSB_KEY_TEXT_MIN,
                    .threads = 1,
                    .cache = 256u << 20,
                    .rounds = 1,
                    .seed = 1,
                    .load_batch = 1 },
        .engines = engine_names(),
        .workloads = "load,a,b,c,d,e,f",
        .durability = "sync",
        .page_cache = "bypass",
    };
    const struct ycsb_config *config = &raw.config;
    struct bench_device_limits limits = { 0 };
    struct bench_machine machine;
    struct ycsb_result *results;
    size_t size;
    bool good;
    int parsed = parse(&raw, argc, argv);

    if (parsed >= 0)
        return parsed;
    if (machine_describe(config->dir, &machine) != ASH_OK)
        return fail();
    if (config->fio && fio_measure(config->dir, &limits) != ASH_OK)
        return fail();
    size = sizeof(*results) * config->rounds * config->engines * config->workloads;
    results = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                   0); /* the children write it */
    if (results == MAP_FAILED) {
        perror("ashlar-bench ycsb: no memory for the results");
        return 1;
    }
    report_head(config, &machine, &limits);
    good = run_rounds(config, &machine, results);
    if (config->rounds > 1)
        report_medians(config, results);
    if (config->json != NULL && report_json(config, &machine, &limits, results) != ASH_OK)
        return fail();
    munmap(results, size);
    return good ? 0 : 1;
}
