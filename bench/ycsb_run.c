/* SPDX-License-Identifier: Apache-2.0
 *
 * ycsb_run.c - runs workloads on one engine and measures them.
 *
 * Clients are closed loops: each has one operation outstanding.  A client is a thread with a session of the engine, or, with
 * --executors, a request that submits its successor when it is done.  Latency is the time of the engine's call alone (with
 * --executors: from submission to completion); choosing the operation, its key and its value is outside.
 * The database stays open from the load to the last workload, and so do the sessions, so every engine begins a workload with
 * what its caches kept from the one before.
 *
 * Entry point: ycsb_run_engine().   Read first: ycsb.h, engine.h.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ycsb.h"
#include "ycsb_dir.h"

#define SAMPLE_NS          10000000     /* between looks at the clients */
#define PROGRESS_NS        500000000ull /* between lines on a terminal */
#define RSS_NS             100000000ull
#define SILENT_BATCH_ROWS  1000u /* per transaction of an untimed load */
#define SILENT_BATCH_BYTES (4u << 20)
#define ERROR_SIZE         sizeof(((struct ycsb_result *)0)->error)

struct client {
    struct phase *phase;
    void *session; /* NULL with --executors */
    struct ycsb_chooser chooser;
    struct ycsb_op op;
    struct bench_buffer found;
    uint8_t *key, *value; /* of one operation; loads have `batch` of each, one after the other */
    struct bench_row *rows;
    size_t row_count;  /* of the load transaction at hand */
    struct hist *hist; /* YCSB_OP_KINDS of them, of which only what is used becomes memory */
    uint64_t quota;    /* operations */
    uint64_t started_ns, finished_ns;
    uint64_t not_found, rows_scanned;
    struct bench_request request;
    pthread_t thread;
    ash_rc rc;
    char error[ERROR_SIZE];
    /* Read by the sampling thread; alone on its line with what only this client writes. */
    _Atomic uint64_t done ASH_ALIGNED_LINE;
};

/* One engine opened, and all that lives as long. */
struct runner {
    const struct ycsb_config *config;
    const struct bench_machine *machine;
    const struct bench_engine *engine;
    void *db;
    struct ycsb_dir dir;
    struct ycsb_keyspace keys;
    uint8_t *pool;
    void **session;  /* config->threads of them; unused with --executors */
    uint64_t phases; /* begun so far; part of the seeds */
};

struct phase {
    struct runner *runner;
    const struct ycsb_config *config;
    const struct bench_engine *engine;
    const struct ycsb_workload *workload;
    const char *title;   /* for the progress line */
    uint64_t operations; /* UINT64_MAX: until `seconds` are over */
    double seconds;      /* 0: until the operations are done */
    size_t batch;        /* rows per transaction of a load */
    struct client *client;
    pthread_barrier_t gate;
    _Atomic bool stop;
    _Atomic uint64_t active; /* clients that have not finished */
    uint64_t start_ns, rss_peak;
};

/* ---- One operation ------------------------------------------------------------------------- */

static void
client_fail(struct client *c, ash_rc rc)
{
    c->rc = rc;
    snprintf(c->error, sizeof(c->error), "%s: %s", ash_rc_name(rc), ash_error_last()->message);
    atomic_store_explicit(&c->phase->stop, true, memory_order_relaxed);
}

/* Claims the next rows to load; false when none are left. */
static bool
next_rows(struct client *c)
{
    struct phase *p = c->phase;
    struct ycsb_keyspace *keys = c->chooser.keys;
    uint64_t first = atomic_fetch_add_explicit(&keys->next, p->batch, memory_order_relaxed);

    if (first >= p->operations)
        return false;
    c->op.kind = YCSB_INSERT;
    c->row_count = min_u64(p->batch, p->operations - first);
    for (size_t i = 0; i < c->row_count; i++) {
        uint8_t *key = c->key + i * p->config->key_size,
                *value = c->value + i * p->config->value_size;
        ycsb_key(p->config, first + i, key);
        ycsb_value(&c->chooser, first + i, value);
        c->rows[i].key = ash_slice(key, p->config->key_size);
        c->rows[i].value = ash_slice(value, p->config->value_size);
    }
    return true;
}

/* Prepares the next operation; false when the client has done its part. */
static bool
client_next(struct client *c)
{
    struct phase *p = c->phase;

    if (atomic_load_explicit(&p->stop, memory_order_relaxed))
        return false;
    if (p->workload->load)
        return next_rows(c);
    if (atomic_load_explicit(&c->done, memory_order_relaxed) >= c->quota)
        return false;
    ycsb_choose(&c->chooser, &c->op);
    ycsb_key(p->config, c->op.number, c->key);
    if (c->op.kind != YCSB_READ && c->op.kind != YCSB_SCAN)
        ycsb_value(&c->chooser, c->op.number, c->value);
    c->rows[0].key = ash_slice(c->key, p->config->key_size);
    c->rows[0].value = ash_slice(c->value, p->config->value_size);
    c->row_count = 1;
    return true;
}

/* Runs the prepared operation. */
static ash_rc
client_execute(struct client *c, void *session)
{
    const struct bench_engine *e = c->phase->engine;
    size_t rows = 0;
    ash_rc rc = ASH_OK;

    switch (c->op.kind) {
    case YCSB_READ: rc = e->read(session, c->rows[0].key, &c->found); break;
    case YCSB_UPDATE: rc = e->update(session, c->rows[0].key, c->rows[0].value); break;
    case YCSB_INSERT: rc = e->insert(session, c->rows, c->row_count); break;
    case YCSB_RMW: rc = e->modify(session, c->rows[0].key, c->rows[0].value, &c->found); break;
    case YCSB_SCAN:
        rc = e->scan(session, c->rows[0].key, c->op.scan_rows, &c->found, &rows);
        c->rows_scanned += rows;
        break;
    default: ash_assert(false);
    }
    return rc;
}

/* Looks at what the operation brought. */
static ash_rc
client_check(struct client *c, ash_rc rc)
{
    bool read = c->op.kind == YCSB_READ || c->op.kind == YCSB_RMW;

    if (rc == ASH_NOT_FOUND) {
        c->not_found++;
        return ASH_OK;
    }
    if (rc != ASH_OK)
        return rc;
    if (read && !ycsb_value_belongs(c->phase->config, c->op.number, &c->found))
        return ash_raise(ASH_CORRUPT, "%s returned %zu bytes that are not the value of row %llu",
                         c->phase->engine->name, c->found.size, (unsigned long long)c->op.number);
    if (c->op.kind == YCSB_INSERT && !c->phase->workload->load)
        ycsb_acknowledge(c->chooser.keys, c->op.number);
    return ASH_OK;
}

/* Counts the operation; false when the client must stop. */
static bool
client_finish(struct client *c, ash_rc rc, uint64_t ended_ns)
{
    rc = client_check(c, rc);
    if (rc != ASH_OK) {
        client_fail(c, rc);
        return false;
    }
    struct hist *h = &c->hist[c->op.kind];
    if (h->count == 0)
        hist_init_zeroed(h);
    hist_add(h, ended_ns - c->started_ns);
    /* Only this client writes it, so no read-modify-write is needed. */
    atomic_store_explicit(&c->done,
                          atomic_load_explicit(&c->done, memory_order_relaxed) + c->row_count,
                          memory_order_relaxed);
    return true;
}

static void
client_retire(struct client *c)
{
    c->finished_ns = clock_ns();
    atomic_fetch_sub_explicit(&c->phase->active, 1, memory_order_release);
}

/* ---- Clients as threads -------------------------------------------------------------------- */

static void *
client_thread(void *arg)
{
    struct client *c = arg;

    pthread_barrier_wait(&c->phase->gate);
    while (client_next(c)) {
        ash_rc rc;

        c->started_ns = clock_ns();
        rc = client_execute(c, c->session);
        if (!client_finish(c, rc, clock_ns()))
            break;
    }
    client_retire(c);
    return NULL;
}

/* ---- Clients as requests ------------------------------------------------------------------- */

static ash_rc
request_fn(void *session, void *arg)
{
    struct client *c = arg;
    ash_rc rc = client_execute(c, session);

    if (rc != ASH_OK && rc != ASH_NOT_FOUND)
        client_fail(c, rc); /* here, because the detail belongs to this fiber */
    return rc;
}

static void
submit_next(struct client *c)
{
    ash_rc rc;

    if (!client_next(c)) {
        client_retire(c);
        return;
    }
    c->started_ns = clock_ns();
    rc = c->phase->engine->submit(c->phase->runner->db, &c->request);
    if (rc != ASH_OK) {
        client_fail(c, rc);
        client_retire(c);
    }
}

static void
request_done(void *arg, ash_rc rc)
{
    struct client *c = arg;

    if (c->rc != ASH_OK || !client_finish(c, rc, clock_ns()))
        client_retire(c);
    else
        submit_next(c);
}

/* ---- One phase ----------------------------------------------------------------------------- */

static void
client_deinit(struct client *c)
{
    mem_unmap(MEM_TOOL, c->hist, sizeof(*c->hist) * YCSB_OP_KINDS);
    mem_free(MEM_TOOL, c->rows);
    mem_free(MEM_TOOL, c->found.data);
    mem_free(MEM_TOOL, c->value);
    mem_free(MEM_TOOL, c->key);
}

static ash_rc
client_init(struct client *c, struct phase *p, size_t index)
{
    const struct ycsb_config *config = p->config;
    uint64_t share = p->operations / config->threads, rest = p->operations % config->threads;

    memset(c, 0, sizeof(*c));
    c->phase = p;
    c->session = config->executors ? NULL : p->runner->session[index];
    c->quota = p->operations == UINT64_MAX ? UINT64_MAX : share + (index < rest);
    c->request = (struct bench_request){ .fn = request_fn, .done = request_done, .arg = c };
    c->key = mem_alloc(MEM_TOOL, config->key_size * p->batch);
    c->value = mem_alloc(MEM_TOOL, config->value_size * p->batch);
    c->found.capacity = config->value_size;
    c->found.data = mem_zalloc(MEM_TOOL, config->value_size);
    c->rows = mem_alloc(MEM_TOOL, sizeof(*c->rows) * p->batch);
    c->hist = mem_map(MEM_TOOL, sizeof(*c->hist) * YCSB_OP_KINDS, /* huge= */ false);
    if (c->key == NULL || c->value == NULL || c->found.data == NULL || c->rows == NULL ||
        c->hist == NULL) {
        client_deinit(c);
        return ASH_NO_MEMORY;
    }
    ycsb_chooser_init(&c->chooser, config, p->workload, &p->runner->keys, p->runner->pool,
                      hash_u64(config->seed) +
                          hash_u64(p->runner->phases * YCSB_THREADS_MAX + index));
    return ASH_OK;
}

static uint64_t
phase_done(const struct phase *p)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < p->config->threads; i++)
        sum += atomic_load_explicit(&p->client[i].done, memory_order_relaxed);
    return sum;
}

static void
print_progress(const struct phase *p, double seconds)
{
    double done = (double)phase_done(p), rate = done / seconds, left = -1;

    if (p->operations != UINT64_MAX && rate > 0)
        left = ((double)p->operations - done) / rate;
    if (p->seconds > 0 && (left < 0 || p->seconds - seconds < left))
        left = p->seconds - seconds;
    fprintf(stderr, "\r\033[K%s %s: %.0f operations, %.0f/s", p->engine->name, p->title, done,
            rate);
    if (left >= 0)
        fprintf(stderr, ", %.0f s left", left);
    fflush(stderr);
}

/* Looks after the clients until they are done. */
static void
phase_watch(struct phase *p)
{
    bool terminal = isatty(STDERR_FILENO) == 1;
    uint64_t progress_ns = p->start_ns + PROGRESS_NS, rss_ns = p->start_ns;
    bool printed = false;

    while (atomic_load_explicit(&p->active, memory_order_acquire) != 0) {
        struct timespec pause = { .tv_nsec = SAMPLE_NS };
        uint64_t now = clock_ns();
        double seconds = (double)(now - p->start_ns) / 1e9;

        if (p->seconds > 0 && seconds >= p->seconds)
            atomic_store_explicit(&p->stop, true, memory_order_relaxed);
        if (now >= rss_ns) {
            p->rss_peak = max_u64(p->rss_peak, machine_rss_bytes());
            rss_ns = now + RSS_NS;
        }
        if (terminal && now >= progress_ns) {
            print_progress(p, seconds);
            printed = true;
            progress_ns = now + PROGRESS_NS;
        }
        nanosleep(&pause, NULL);
    }
    p->rss_peak = max_u64(p->rss_peak, machine_rss_bytes());
    if (printed)
        fprintf(stderr, "\r\033[K");
}

/* Starts a thread per client.  A thread that cannot be made ends the program: the others wait at the gate. */
static void
run_threads(struct phase *p)
{
    size_t threads = p->config->threads;

    pthread_barrier_init(&p->gate, NULL, (unsigned)threads + 1);
    for (size_t i = 0; i < threads; i++) {
        int error = pthread_create(&p->client[i].thread, NULL, client_thread, &p->client[i]);
        if (error != 0) {
            fprintf(stderr, "ashlar-bench: cannot make thread %zu: %s; lower --threads\n", i + 1,
                    strerror(error));
            _exit(1);
        }
    }
    p->start_ns = clock_ns();
    pthread_barrier_wait(&p->gate);
    phase_watch(p);
    for (size_t i = 0; i < threads; i++)
        pthread_join(p->client[i].thread, NULL);
    pthread_barrier_destroy(&p->gate);
}

static void
run_requests(struct phase *p)
{
    p->start_ns = clock_ns();
    for (size_t i = 0; i < p->config->threads; i++)
        submit_next(&p->client[i]);
    phase_watch(p);
}

static void
collect_latency(const struct phase *p, struct ycsb_result *r)
{
    struct hist *total = mem_alloc(MEM_TOOL, sizeof(*total));

    if (total == NULL)
        return; /* the rates are still good */
    for (int kind = 0; kind < YCSB_OP_KINDS; kind++) {
        struct ycsb_latency *l = &r->latency[kind];

        hist_init(total);
        for (size_t i = 0; i < p->config->threads; i++)
            if (p->client[i].hist[kind].count > 0)
                hist_merge(total, &p->client[i].hist[kind]);
        if (total->count == 0)
            continue;
        l->count = total->count;
        l->mean_us = (double)total->sum / (double)total->count / 1e3;
        l->p50_us = (double)hist_quantile(total, 0.5) / 1e3;
        l->p95_us = (double)hist_quantile(total, 0.95) / 1e3;
        l->p99_us = (double)hist_quantile(total, 0.99) / 1e3;
        l->p999_us = (double)hist_quantile(total, 0.999) / 1e3;
        l->max_us = (double)total->max / 1e3;
    }
    mem_free(MEM_TOOL, total);
}

static void
collect(const struct phase *p, struct ycsb_result *r)
{
    uint64_t end_ns = p->start_ns;

    for (size_t i = 0; i < p->config->threads; i++) {
        const struct client *c = &p->client[i];

        end_ns = max_u64(end_ns, c->finished_ns);
        r->not_found += c->not_found;
        r->rows_scanned += c->rows_scanned;
        if (c->rc != ASH_OK && r->error[0] == '\0')
            snprintf(r->error, sizeof(r->error), "%s", c->error);
    }
    r->operations = phase_done(p);
    r->seconds = (double)(end_ns - p->start_ns) / 1e9;
    r->ops_per_s = r->seconds > 0 ? (double)r->operations / r->seconds : 0;
    r->rss_bytes = p->rss_peak;
    collect_latency(p, r);
}

/* Afterwards every number given out is a row, unless the phase failed. */
static void
settle_keys(struct runner *runner, const struct phase *p)
{
    struct ycsb_keyspace *keys = &runner->keys;

    if (p->workload->load)
        atomic_store(&keys->next, p->operations);
    atomic_store(&keys->acked, atomic_load(&keys->next));
    for (size_t i = 0; i < YCSB_ACK_WINDOW; i++)
        atomic_store_explicit(&keys->window[i], 0, memory_order_relaxed);
}

static void
phase_run(struct phase *p, struct ycsb_result *r)
{
    struct runner *runner = p->runner;
    uint64_t threads = runner->config->threads, ready = 0;
    uint64_t read_before = 0, written_before = 0, read_after = 0, written_after = 0;
    double cpu_before;

    p->config = runner->config;
    p->engine = runner->engine;
    runner->phases++;
    r->records = p->workload->load ? p->operations : atomic_load(&runner->keys.acked);
    p->client = mem_aligned(MEM_TOOL, ASH_CACHE_LINE, sizeof(*p->client) * threads);
    while (p->client != NULL && ready < threads &&
           client_init(&p->client[ready], p, ready) == ASH_OK)
        ready++;
    if (ready < threads) {
        snprintf(r->error, sizeof(r->error), "out of memory for %llu clients",
                 (unsigned long long)threads);
        goto out;
    }
    atomic_store(&p->active, threads);
    r->device_known = machine_device_bytes(runner->machine, &read_before, &written_before);
    cpu_before = machine_cpu_seconds();
    if (p->config->executors)
        run_requests(p);
    else
        run_threads(p);
    r->cpu_s = machine_cpu_seconds() - cpu_before;
    r->device_known = r->device_known &&
                      machine_device_bytes(runner->machine, &read_after, &written_after);
    r->device_bytes_read = read_after - read_before;
    r->device_bytes_written = written_after - written_before;
    r->space_bytes = machine_space_bytes(runner->dir.db);
    collect(p, r);
    settle_keys(runner, p);

out:
    for (uint64_t i = 0; i < ready; i++)
        client_deinit(&p->client[i]);
    mem_free(MEM_TOOL, p->client);
}

/* ---- One engine ---------------------------------------------------------------------------- */

static void
load(struct runner *runner, bool silent, struct ycsb_result *r)
{
    const struct ycsb_config *config = runner->config;
    struct phase p = { .runner = runner,
                       .workload = ycsb_workload_find("load", 4),
                       .operations = config->records };

    p.title = silent ? "loads (not measured)" : "load";
    p.batch = config->load_batch;
    if (silent) {
        uint64_t fit = SILENT_BATCH_BYTES / config->value_size;
        p.batch = max_u64(1, min_u64(fit, SILENT_BATCH_ROWS));
    }
    phase_run(&p, r);
}

static void
measure(struct runner *runner, const struct ycsb_workload *workload, struct ycsb_result *r)
{
    const struct ycsb_config *config = runner->config;
    struct phase p = {
        .runner = runner, .workload = workload, .title = workload->name, .batch = 1
    };
    struct ycsb_result warm = { 0 };

    if (config->warmup > 0) {
        struct phase w = p;

        w.title = "warms up (not measured)";
        w.operations = UINT64_MAX;
        w.seconds = config->warmup;
        phase_run(&w, &warm);
    }
    memcpy(r->error, warm.error, sizeof(r->error));
    if (r->error[0] != '\0')
        return;
    p.operations = config->operations != 0 ? config->operations : UINT64_MAX;
    p.seconds = config->seconds;
    phase_run(&p, r);
}

static void
close_sessions(struct runner *runner)
{
    if (runner->session == NULL)
        return;
    for (uint64_t i = 0; i < runner->config->threads; i++)
        if (runner->session[i] != NULL)
            runner->engine->session_close(runner->session[i]);
    mem_free(MEM_TOOL, runner->session);
    runner->session = NULL;
}

static ash_rc
open_sessions(struct runner *runner)
{
    uint64_t threads = runner->config->threads;
    ash_rc rc = ASH_OK;

    if (runner->config->executors)
        return ASH_OK;
    runner->session = mem_zalloc(MEM_TOOL, sizeof(*runner->session) * threads);
    if (runner->session == NULL)
        return ASH_NO_MEMORY;
    for (uint64_t i = 0; i < threads && rc == ASH_OK; i++)
        rc = runner->engine->session_open(runner->db, &runner->session[i]);
    if (rc != ASH_OK)
        close_sessions(runner);
    return rc;
}

static ash_rc
make_memory(struct runner *runner)
{
    const struct ycsb_config *config = runner->config;
    size_t size = YCSB_VALUE_POOL + config->value_size;
    struct random random;

    runner->pool = mem_alloc(MEM_TOOL, round_up(size, 8));
    runner->keys.window = mem_zalloc(MEM_TOOL, YCSB_ACK_WINDOW);
    if (runner->pool == NULL || runner->keys.window == NULL)
        return ASH_NO_MEMORY;
    random_init(&random, config->seed);
    for (size_t i = 0; i < size; i += 8)
        put_le64(runner->pool + i, random_u64(&random));
    return ASH_OK;
}

static ash_rc
runner_open(struct runner *runner, const struct bench_setup *setup)
{
    ash_rc rc = make_memory(runner);

    if (rc != ASH_OK)
        return rc;
    rc = runner->engine->open(setup, &runner->db);
    if (rc != ASH_OK)
        return rc;
    rc = open_sessions(runner);
    if (rc != ASH_OK) {
        ash_ignore(
            runner->engine->close(runner->db)); /* the session's failure is the one to report */
        return rc;
    }
    atomic_store(&runner->keys.next, runner->dir.rows);
    atomic_store(&runner->keys.acked, runner->dir.rows);
    return ASH_OK;
}

/* Runs the list; false at the first failure, which is in that workload's result. */
static bool
run_workloads(struct runner *runner, struct ycsb_result *results, ycsb_report_fn report)
{
    const struct ycsb_config *config = runner->config;

    for (size_t i = 0; i < config->workloads; i++) {
        const struct ycsb_workload *w = config->workload[i];
        struct ycsb_result *r = &results[i], silent = { 0 };

        if (i == 0 && !w->load && runner->dir.rows == 0) {
            load(runner, /* silent= */ true, &silent);
            memcpy(r->error, silent.error, sizeof(r->error));
        }
        if (r->error[0] == '\0') {
            if (w->load)
                load(runner, /* silent= */ false, r);
            else
                measure(runner, w, r);
        }
        r->done = r->error[0] == '\0';
        report(runner->engine->name, w->name, r);
        if (!r->done)
            return false;
    }
    return true;
}

static void
note_failure(struct ycsb_result *r, ash_rc rc)
{
    r->done = false;
    snprintf(r->error, sizeof(r->error), "%s: %s", ash_rc_name(rc), ash_error_last()->message);
}

bool
ycsb_run_engine(const struct ycsb_config *config, const struct bench_machine *machine,
                const struct bench_engine *engine, unsigned round, struct ycsb_result *results,
                ycsb_report_fn report)
{
    struct runner runner = { .config = config, .machine = machine, .engine = engine };
    bool fresh = config->workload[0]->load, good = false, existed;
    struct bench_setup setup = {
        .dir = runner.dir.db,
        .cache_bytes = config->cache,
        .data_bytes = config->records * (config->key_size + config->value_size),
        .value_bytes = config->value_size,
        .durability = config->durability,
        .threads = (unsigned)config->threads,
        .executors = config->executors,
        .page_cache = config->page_cache,
        .options = config->options,
    };
    ash_rc rc = ycsb_dir_open(config, engine->name, round, /* reuse= */ !fresh, &runner.dir);

    if (rc != ASH_OK)
        goto out_report;
    existed = runner.dir.rows != 0;
    for (size_t i = 0; i < config->workloads; i++) {
        snprintf(results[i].engine_version, sizeof(results[i].engine_version), "%s",
                 engine->version());
        engine->describe(&setup, results[i].settings, sizeof(results[i].settings));
    }
    rc = ycsb_dir_note(config, &runner.dir, 0); /* until it is closed well */
    if (rc == ASH_OK)
        rc = runner_open(&runner, &setup);
    if (rc != ASH_OK)
        goto out_memory;
    good = run_workloads(&runner, results, report);
    close_sessions(&runner);
    rc = engine->close(runner.db);
    if (rc == ASH_OK && good)
        rc = ycsb_dir_note(config, &runner.dir, atomic_load(&runner.keys.acked));
    if (rc == ASH_OK && good && !config->keep && !existed)
        rc = ycsb_dir_remove(&runner.dir);

out_memory:
    mem_free(MEM_TOOL, runner.pool);
    mem_free(MEM_TOOL, (void *)(uintptr_t)runner.keys.window); /* no _Atomic for the allocator */
out_report:
    if (rc != ASH_OK) {
        size_t last = good ? config->workloads - 1 : 0;

        if (results[last].error[0] == '\0') {
            note_failure(&results[last], rc);
            report(engine->name, config->workload[last]->name, &results[last]);
        }
        good = false;
    }
    return good;
}
