/* SPDX-License-Identifier: Apache-2.0
 *
 * test_budget.c - the option cache is a limit: what the process grows by while 64 clients work on
 * data larger than it, what the figures say about it, and a cache that cannot do.
 *
 * Resident memory is what /proc says; sanitizers have memory of their own, so under them only the
 * figures are looked at.
 */
#include <fcntl.h>
#include <pthread.h>

#include "tests/api/db_env.h"

#define CLIENTS    64u
#define MIB        (1ull << 20)
#define CACHE      (64 * MIB)
#define LAG        (2 * MIB) /* the pool looks now and then, and gives back whole chunks */
#define ROW_BYTES  2000u
#define ROWS       64000u /* 150 MiB on pages that are not full */
#define READS      400u   /* per client */
#define TXN_LOCKS  200000u
#define DIR_FORMAT "/tmp/ashlar-budget-%d"

static bool
sanitizing(void)
{
    const char *s = getenv("sanitizing");
    return s != NULL && strcmp(s, "yes") == 0;
}

/* One line of /proc/self/status, in bytes. */
static uint64_t
status_bytes(const char *name)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");

    must(f != NULL, "no /proc");
    while (fgets(line, sizeof(line), f) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            kib = strtoull(line + strlen(name) + 1, NULL, 10);
    fclose(f);
    must(kib != 0, "%s", name);
    return kib << 10;
}

/* From here VmHWM is the peak of what follows. */
static void
peak_reset(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY);

    must(fd >= 0 && write(fd, "5", 1) == 1, "the peak cannot be reset");
    close(fd);
}

struct figures {
    uint64_t limit, used, peak, txn;
};

static void
figures_fn(void *arg, const char *name, uint64_t value)
{
    struct figures *f = arg;

    if (strcmp(name, "budget.limit") == 0)
        f->limit = value;
    else if (strcmp(name, "budget.used") == 0)
        f->used = value;
    else if (strcmp(name, "budget.peak") == 0)
        f->peak = value;
    else if (strcmp(name, "budget.transactions") == 0)
        f->txn = value;
}

struct client {
    struct world *w;
    unsigned index;
    ash_session *session;
    pthread_t thread;
};

struct world {
    ash_db *db;
    ash_table *table;
    struct client client[CLIENTS];
    _Atomic unsigned left;
    unsigned first, end; /* rows to write, or reads when first == end */
};

static struct ash_slice
row_key(uint32_t *key, uint32_t number)
{
    *key = number * 2654435761u; /* a bijection: random order, no key twice */
    return (struct ash_slice){ key, sizeof(*key) };
}

static void
client_work(struct client *c, ash_session *s)
{
    struct world *w = c->w;
    uint8_t value[ROW_BYTES];
    struct ash_slice found;
    uint32_t key;
    struct random rnd;

    for (uint32_t i = w->first + c->index; i < w->end; i += CLIENTS) {
        memset(value, (int)(i & 255), sizeof(value));
        must_ok(ash_put(s, w->table, row_key(&key, i), (struct ash_slice){ value, ROW_BYTES }));
    }
    random_init(&rnd, c->index);
    for (unsigned i = 0; i < READS; i++) {
        uint32_t number = (uint32_t)random_below(&rnd, w->first != w->end ? w->first + 1 : ROWS);
        ash_rc rc = ash_get(s, w->table, row_key(&key, number), &found);
        if (rc == ASH_NOT_FOUND && w->first == 0)
            continue; /* another client is about to write it */
        must_ok(rc);
        must(found.size == ROW_BYTES && *(const uint8_t *)found.data == (number & 255), "row %u",
             number);
    }
}

static void *
client_main(void *arg)
{
    struct client *c = arg;

    client_work(c, c->session);
    return NULL;
}

static void
run_threads(struct world *w)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        must_ok(ash_session_open(w->db, &w->client[i].session));
        must(pthread_create(&w->client[i].thread, NULL, client_main, &w->client[i]) == 0, "%u", i);
    }
    for (unsigned i = 0; i < CLIENTS; i++)
        pthread_join(w->client[i].thread, NULL);
    for (unsigned i = 0; i < CLIENTS; i++)
        ash_session_close(w->client[i].session);
}

static ash_rc
request_fn(ash_session *s, void *arg)
{
    client_work(arg, s);
    return ASH_OK;
}

static void
request_done(void *arg, ash_rc rc)
{
    struct client *c = arg;

    must_ok(rc);
    atomic_fetch_sub(&c->w->left, 1);
}

static void
run_executors(struct world *w)
{
    atomic_store(&w->left, CLIENTS);
    for (unsigned i = 0; i < CLIENTS; i++)
        must_ok(ash_run(w->db, request_fn, &w->client[i], request_done));
    while (atomic_load(&w->left) > 0)
        usleep(1000);
}

/* What the database may have grown the process by. */
static void
check_growth(struct world *w, uint64_t before, const char *what)
{
    uint64_t grown = status_bytes("VmHWM:") - before;
    struct figures f = { 0 };

    must_ok(ash_stats(w->db, figures_fn, &f));
    must(f.limit == CACHE, "limit %llu", (unsigned long long)f.limit);
    must(f.used <= CACHE + LAG, "%s: %llu counted", what, (unsigned long long)f.used);
    must(f.used >= CACHE / 2, "%s: %llu counted", what, (unsigned long long)f.used);
    must(f.peak >= f.used && f.peak <= CACHE / 10 * 11, "%s: peak %llu", what,
         (unsigned long long)f.peak);
    must(sanitizing() || grown <= CACHE / 10 * 11, "%s: grown by %llu KiB, counted %llu KiB", what,
         (unsigned long long)grown >> 10, (unsigned long long)f.peak >> 10);
}

static void
open_table(struct world *w, const char *dir, const char *options)
{
    ash_session *s;

    must_ok(ash_open(dir, ASH_OPEN_CREATE, options, &w->db));
    must_ok(ash_session_open(w->db, &s));
    ash_rc rc = ash_table_create(s, "t", NULL);
    must(rc == ASH_OK || rc == ASH_EXISTS, "%d", (int)rc);
    must_ok(ash_table_open(s, "t", &w->table));
    ash_session_close(s);
    for (unsigned i = 0; i < CLIENTS; i++)
        w->client[i] = (struct client){ .w = w, .index = i };
}

static void
close_table(struct world *w)
{
    ash_table_close(w->table);
    must_ok(ash_close(w->db));
}

/* One transaction that locks more rows than its memory could hold beside the pool. */
static void
large_transaction(struct world *w)
{
    struct figures before = { 0 }, during = { 0 };
    ash_session *s;
    uint32_t key;

    must_ok(ash_stats(w->db, figures_fn, &before));
    must_ok(ash_session_open(w->db, &s));
    must_ok(ash_begin(s, NULL));
    for (uint32_t i = 0; i < TXN_LOCKS; i++) {
        uint64_t row = ROWS + i;
        must_ok(ash_put(s, w->table, row_key(&key, (uint32_t)row), (struct ash_slice){ "x", 1 }));
    }
    must_ok(ash_stats(w->db, figures_fn, &during));
    must(during.used <= CACHE + LAG, "%llu counted, %llu of them for transactions",
         (unsigned long long)during.used, (unsigned long long)during.txn);
    must_ok(ash_rollback(s));
    ash_session_close(s);
}

/* Goal: the process grows by no more than cache + 10 %, with threads, with executors and with a
 * large transaction, and the figures agree. */
START_TEST(resident_memory_stays_within_the_limit)
{
    struct world w = { 0 };
    char dir[64];

    snprintf(dir, sizeof(dir), DIR_FORMAT, (int)getpid());
    test_dir_remove(dir);
    uint64_t before = status_bytes("VmRSS:");
    peak_reset();
    open_table(&w, dir, "cache=64MiB,durability=none");
    w.end = ROWS;
    run_threads(&w);
    check_growth(&w, before, "threads, writing");
    w.first = w.end;
    run_threads(&w);
    check_growth(&w, before, "threads, reading");
    large_transaction(&w);
    check_growth(&w, before, "a large transaction");
    close_table(&w);

    open_table(&w, dir, "cache=64MiB,durability=none");
    run_executors(&w);
    check_growth(&w, before, "executors, reading");
    w.first = 0;
    run_executors(&w);
    check_growth(&w, before, "executors, writing");
    close_table(&w);
    test_dir_remove(dir);
}
END_TEST

/* Goal: a cache that the map alone would fill is refused with a sentence that says what would do. */
START_TEST(too_small_a_cache_is_refused)
{
    struct world w = { 0 };
    char dir[64];
    ash_db *db;

    snprintf(dir, sizeof(dir), DIR_FORMAT, (int)getpid());
    test_dir_remove(dir);
    open_table(&w, dir, "cache=64MiB,durability=none");
    w.end = ROWS * 3 / 2; /* 600 KiB of map and page table */
    run_threads(&w);
    close_table(&w);
    must_rc(ash_open(dir, 0, "cache=1MiB", &db), ASH_NO_MEMORY);
    must(strstr(ash_error_last()->message, "at least") != NULL, "%s", ash_error_last()->message);
    must_ok(ash_open(dir, 0, "cache=4MiB", &db));
    must_ok(ash_close(db));
    test_dir_remove(dir);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("api/budget");
    TCase *c = tcase_create("budget");

    tcase_set_timeout(c, 300);
    tcase_add_test(c, resident_memory_stays_within_the_limit);
    tcase_add_test(c, too_small_a_cache_is_refused);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
