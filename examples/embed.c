/* SPDX-License-Identifier: Apache-2.0
 *
 * embed.c - a program with Ashlar inside: counts the rows of a table, looks rows up and scans from
 * several threads at once, and notes its run in a second table, in one transaction.
 *
 *   cc -O2 -pthread embed.c -o embed $(pkg-config --cflags --libs ashlar)
 *   ./embed DIR TABLE
 */
#include <ashlar.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH   64   /* rows that a cursor fetches at once */
#define SAMPLES 1024 /* keys to look up */
#define SECONDS 1    /* how long the threads work */

static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Every failure has a sentence that says what happened and what to do. */
static int
fail(const char *what)
{
    const struct ash_error *e = ash_error_last();

    fprintf(stderr, "embed: %s: %s (%s)\n", what, e->message, ash_rc_name(e->code));
    return EXIT_FAILURE;
}

/* ---- Counting: one cursor over all keys ---- */

struct samples {
    size_t count;
    size_t size[SAMPLES];
    char key[SAMPLES][ASH_KEY_SIZE_MAX];
};

/* Counts rows and keeps every n-th key; rows that a cursor hands out are valid until its next call,
 * so keys are copied. */
static ash_rc
count_rows(ash_session *session, ash_table *table, uint64_t *rows_out, struct samples *samples)
{
    struct ash_cursor_options options = { .keys_only = true };
    struct ash_row rows[BATCH];
    ash_cursor *cursor;
    uint64_t n = 0;
    size_t got;
    ash_rc rc = ash_cursor_open(session, table, &options, &cursor);

    if (rc != ASH_OK)
        return rc;
    while ((rc = ash_cursor_batch(cursor, BATCH, rows, &got)) == ASH_OK) {
        if (samples->count < SAMPLES) {
            memcpy(samples->key[samples->count], rows[0].key.data, rows[0].key.size);
            samples->size[samples->count++] = rows[0].key.size;
        }
        n += got;
    }
    ash_cursor_close(cursor);
    *rows_out = n;
    return rc == ASH_NOT_FOUND ? ASH_OK : rc; /* the end of the table */
}

/* ---- Working from several threads: the database is shared, each thread has a session ---- */

struct worker {
    pthread_t thread;
    const char *name;
    ash_rc (*work)(struct worker *w, ash_session *session);
    ash_db *db;
    ash_table *table;
    const struct samples *samples;
    bool reverse;
    double until;
    uint64_t operations;
    ash_rc rc;
    char message[256]; /* errors belong to the thread that got them */
};

static ash_rc
look_up(struct worker *w, ash_session *session)
{
    struct ash_slice value;
    ash_rc rc = ASH_OK;

    for (size_t i = 0; rc == ASH_OK && now() < w->until; i++) {
        size_t k = i * 7 % w->samples->count;
        rc = ash_get(session, w->table, ash_slice(w->samples->key[k], w->samples->size[k]), &value);
        w->operations++;
    }
    return rc;
}

/* Each scan sees one snapshot, whatever other sessions change meanwhile. */
static ash_rc
scan(struct worker *w, ash_session *session)
{
    struct ash_cursor_options options = { .reverse = w->reverse };
    struct ash_row rows[BATCH];
    ash_rc rc = ASH_OK;
    size_t got;

    while (rc == ASH_OK && now() < w->until) {
        ash_cursor *cursor;
        rc = ash_cursor_open(session, w->table, &options, &cursor);
        if (rc != ASH_OK)
            break;
        while (now() < w->until && (rc = ash_cursor_batch(cursor, BATCH, rows, &got)) == ASH_OK)
            w->operations += got;
        ash_cursor_close(cursor);
        if (rc == ASH_NOT_FOUND)
            rc = ASH_OK; /* the end: once more from the beginning */
    }
    return rc;
}

static void *
worker_main(void *arg)
{
    struct worker *w = arg;
    ash_session *session;

    w->rc = ash_session_open(w->db, &session);
    if (w->rc == ASH_OK) {
        w->rc = w->work(w, session);
        if (w->rc != ASH_OK)
            snprintf(w->message, sizeof(w->message), "%s", ash_error_last()->message);
        ash_session_close(session);
    }
    return NULL;
}

static bool
run_workers(ash_db *db, ash_table *table, const struct samples *samples)
{
    struct worker workers[] = {
        { .name = "look-ups", .work = look_up },
        { .name = "look-ups", .work = look_up },
        { .name = "rows scanned forward", .work = scan },
        { .name = "rows scanned backward", .work = scan, .reverse = true },
    };
    const size_t count = sizeof(workers) / sizeof(workers[0]);
    double until = now() + SECONDS;
    bool ok = true;
    size_t started = 0;

    for (; started < count; started++) {
        struct worker *w = &workers[started];
        w->db = db;
        w->table = table;
        w->samples = samples;
        w->until = until;
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            break;
    }
    for (size_t i = 0; i < started; i++) {
        struct worker *w = &workers[i];
        pthread_join(w->thread, NULL);
        printf("  thread %zu: %" PRIu64 " %s per second\n", i + 1, w->operations / SECONDS,
               w->name);
        if (w->rc != ASH_OK) {
            fprintf(stderr, "embed: thread %zu: %s (%s)\n", i + 1, w->message, ash_rc_name(w->rc));
            ok = false;
        }
    }
    return ok && started == count;
}

/* ---- Writing: a table and a row in one transaction, both or neither ---- */

static ash_rc
note_run(ash_session *session, uint64_t rows)
{
    ash_table *runs = NULL;
    char key[32], value[32];
    ash_rc rc = ash_begin(session, NULL);

    if (rc != ASH_OK)
        return rc;
    rc = ash_table_create(session, "embed-runs", NULL);
    if (rc == ASH_OK || rc == ASH_EXISTS) /* a failed call leaves the transaction usable */
        rc = ash_table_open(session, "embed-runs", &runs);
    if (rc == ASH_OK) {
        int k = snprintf(key, sizeof(key), "%020lld", (long long)time(NULL));
        int v = snprintf(value, sizeof(value), "%" PRIu64 " rows", rows);
        rc = ash_put(session, runs, ash_slice(key, (size_t)k), ash_slice(value, (size_t)v));
    }
    if (rc == ASH_OK)
        rc = ash_commit(session); /* on stable storage when it returns */
    else
        ash_rollback(session);
    ash_table_close(runs);
    return rc;
}

static int
use_table(ash_session *session, ash_db *db, ash_table *table)
{
    struct samples *samples = calloc(1, sizeof(*samples));
    int status = EXIT_FAILURE;
    uint64_t rows;

    if (samples == NULL) {
        fprintf(stderr, "embed: there is no memory\n");
        return EXIT_FAILURE;
    }
    double start = now();
    if (count_rows(session, table, &rows, samples) != ASH_OK) {
        fail("counting");
        goto out;
    }
    printf("%" PRIu64 " rows, counted in %.0f ms\n", rows, 1e3 * (now() - start));
    if (rows != 0 && !run_workers(db, table, samples))
        goto out;
    if (note_run(session, rows) != ASH_OK) {
        fail("noting the run");
        goto out;
    }
    status = EXIT_SUCCESS;
out:
    free(samples);
    return status;
}

int
main(int argc, char **argv)
{
    ash_db *db;
    ash_session *session = NULL;
    ash_table *table = NULL;
    int status = EXIT_FAILURE;

    if (argc != 3) {
        fprintf(stderr, "usage: embed DIR TABLE\n");
        return 2;
    }
    if (ash_open(argv[1], 0, "cache=256MiB", &db) != ASH_OK)
        return fail("opening");
    if (ash_session_open(db, &session) != ASH_OK ||
        ash_table_open(session, argv[2], &table) != ASH_OK)
        fail("opening the table");
    else
        status = use_table(session, db, table);
    ash_table_close(table);
    ash_session_close(session);
    if (ash_close(db) != ASH_OK)
        status = fail("closing");
    return status;
}
