/* SPDX-License-Identifier: Apache-2.0
 *
 * test_txn_loser.c - transactions that were open when the database died, seen from the next life
 * while they are being rolled back: who reads, writes, creates tables, closes, or dies again.
 *
 * A first simulation leaves a disk on which the power was cut with a transaction open; each test
 * runs a life on it.  The loser has changed LOST rows of "t" twice, so its undo is not done when the
 * database is open, under most schedules.
 */
#include "api/api_int.h"
#include "txn/txn_int.h"

#include "tests/api/db_env.h"

#define LOST  300u
#define SEEDS 20u

struct life {
    struct db_env *env;
    ash_db *db;
    struct db_layers l;
    ash_session *a, *b;
    ash_table *t;
    void (*fn)(struct life *w);
};

static struct ash_slice
row_key(char buf[16], unsigned i)
{
    snprintf(buf, 16, "%05u", i);
    return slice_str(buf);
}

static void
must_row(struct life *w, unsigned i, const char *value)
{
    struct ash_slice v;
    char key[16];

    must_ok(ash_get(w->a, w->t, row_key(key, i), &v));
    must(v.size == strlen(value) && memcmp(v.data, value, v.size) == 0, "row %u is \"%.*s\"", i,
         (int)v.size, (const char *)v.data);
}

static uint64_t
losers(struct life *w)
{
    struct txn_stats s;

    txn_stats(w->l.txn, &s);
    return s.losers;
}

static void
life_open(struct life *w, unsigned flags)
{
    must_ok(db_env_try_open(w->env, flags, DB_ENV_TINY, /* quiet= */ true, &w->db));
    db_layers(w->db, &w->l);
    must_ok(ash_session_open(w->db, &w->a));
    must_ok(ash_session_open(w->db, &w->b));
    must_ok(ash_table_open(w->a, "t", &w->t));
}

static unsigned seen; /* lives of this test that met the loser */

static void
life_close(struct life *w)
{
    ash_table_close(w->t);
    ash_session_close(w->a);
    ash_session_close(w->b);
    must_ok(ash_close(w->db));
}

/* ---- The life before ---- */

static void
first_life(struct db_env *e)
{
    struct life w = { .env = e };
    struct sim_disk **image_out = e->arg;
    char key[16];
    ash_table *n;

    w.db = db_env_open(e, DB_ENV_TINY, /* quiet= */ true);
    must_ok(ash_session_open(w.db, &w.a));
    must_ok(ash_session_open(w.db, &w.b));
    must_ok(ash_table_create(w.b, "dropped", NULL));
    must_ok(ash_table_create(w.b, "t", NULL));
    must_ok(ash_table_open(w.b, "t", &w.t));
    must_ok(ash_begin(w.b, NULL));
    for (unsigned i = 0; i < LOST; i++)
        must_ok(ash_put(w.b, w.t, row_key(key, i), slice_str("old")));
    must_ok(ash_commit(w.b));

    must_ok(ash_begin(w.a, NULL));
    must_ok(ash_table_create(w.a, "created", NULL));
    must_ok(ash_table_open(w.a, "created", &n));
    must_ok(ash_put(w.a, n, slice_str("k"), slice_str("lost")));
    must_ok(ash_table_drop(w.a, "dropped"));
    for (unsigned i = 0; i < LOST; i++)
        must_ok(ash_put(w.a, w.t, row_key(key, i), slice_str("lost")));
    for (unsigned i = 0; i < LOST; i++)
        if (i % 3 == 0)
            must_ok(ash_delete(w.a, w.t, row_key(key, i)));
        else
            must_ok(ash_put(w.a, w.t, row_key(key, i), slice_str("lost again")));
    must_ok(ash_put(w.b, w.t, slice_str("other"), slice_str("x"))); /* makes it all durable */
    must_ok(sim_disk_cut(e->disk, SIM_CUT_ALL, e->seed, image_out));
    ash_table_close(n);
    life_close(&w);
}

static struct sim_disk *
power_cut(uint64_t seed)
{
    struct sim_disk *image = NULL;
    struct db_env e = { .kind = IO_BACKEND_SIM, .seed = seed, .name = "first life", .arg = &image };

    must_ok(db_env_run(&e, first_life));
    return image;
}

static void
life_body(struct db_env *e)
{
    struct life w = { .env = e };
    struct life *given = e->arg;

    life_open(&w, 0);
    bool met = losers(&w) == 1;
    given->fn(&w);
    seen += met;
    db_env_verify(w.db);
    must(losers(&w) == 0, "not everything is rolled back");
    for (unsigned i = 1; i < LOST; i += 2) /* the tests change even rows */
        must_row(&w, i, "old");
    life_close(&w);
}

static void
run(void (*fn)(struct life *w), const char *name)
{
    uint64_t first = test_seed(1);

    seen = 0;
    for (uint64_t seed = first; seed < first + SEEDS; seed++) {
        struct life w = { .fn = fn };
        struct db_env e = { .kind = IO_BACKEND_SIM, .seed = seed, .name = name, .arg = &w };
        e.disk = power_cut(seed);
        sim_disk_restart(e.disk);
        must_ok(db_env_run(&e, life_body));
        must(e.leaked == 0, "%llu bytes leaked", (unsigned long long)e.leaked);
        sim_disk_destroy(e.disk);
    }
    must(seen >= SEEDS / 2, "the undo was over in all but %u runs", seen);
}
#define RUN(fn) run(fn, #fn)

/* ---- Reading and writing ---- */

static void
read_and_write(struct life *w)
{
    struct ash_slice v;
    char key[16];

    must_ok(ash_begin(w->b, NULL));
    ash_rc rc = ash_get_for_update(w->b, w->t, row_key(key, 0), ASH_LOCK_NOWAIT, &v);
    must(losers(w) == 0 ? rc == ASH_OK : rc == ASH_WOULD_BLOCK, "%s", ash_rc_name(rc));
    must_ok(ash_rollback(w->b));
    must_ok(ash_begin(w->a, NULL)); /* a snapshot from before to after the undo */
    for (unsigned i = 0; i < LOST; i += 7)
        must_row(w, i, "old");
    for (unsigned i = 0; i < LOST; i += 2)
        must_ok(ash_put(w->b, w->t, row_key(key, i), slice_str("new")));
    for (unsigned i = 0; i < LOST; i++)
        must_row(w, i, "old");
    must_ok(ash_commit(w->a));
    for (unsigned i = 0; i < LOST; i += 2)
        must_row(w, i, "new");
}

START_TEST(losers_are_undone_while_others_read_and_write)
{
    RUN(read_and_write);
}
END_TEST

static ash_rc
undo_fails(void *ctx, struct txn *t, const struct txn_undo *undo, uint64_t undo_next)
{
    (void)ctx, (void)t, (void)undo, (void)undo_next;
    return ash_raise(ASH_CORRUPT, "a page is damaged");
}

/* Its rows stay locked, its log is kept however much is written, and the next life goes on. */
static void
stuck(struct life *w)
{
    struct ash_txn_options o = { .lock_timeout_ms = 20 };
    char key[16], value[900];

    if (losers(w) == 0)
        return;
    w->l.txn->ops.undo = undo_fails;
    memset(value, 'x', sizeof(value));
    txn_undo_wait(w->l.txn);
    must(losers(w) == 1, "undone all the same");
    uint64_t first = txn__oldest_first_lsn(w->l.txn);
    must_ok(ash_begin(w->b, &o));
    must_rc(ash_put(w->b, w->t, row_key(key, 0), slice_str("new")), ASH_LOCK_TIMEOUT);
    must_ok(ash_rollback(w->b));
    must_ok(ash_session_durability(w->b, ASH_DURABILITY_NONE));
    for (unsigned i = 0; i < 3000; i++) {
        must_ok(ash_put(w->b, w->t, slice_str("other"), ash_slice(value, sizeof(value))));
        if (i % 500 == 0)
            must_ok(ash_checkpoint(w->db));
    }
    must_ok(ash_checkpoint(w->db));
    must(wal_oldest(w->l.wal) <= first, "the log that the undo needs is gone");
    for (unsigned i = 0; i < LOST; i++)
        must_row(w, i, "old");
    life_close(w);
    life_open(w, 0);
}

START_TEST(an_undo_that_fails_is_continued_by_the_next_open)
{
    RUN(stuck);
}
END_TEST

/* ---- Tables ---- */

static bool
count_table(void *arg, const char *name, const struct ash_table_options *options)
{
    unsigned *found = arg;

    (void)options;
    *found |= strcmp(name, "created") == 0 ? 1u : strcmp(name, "dropped") == 0 ? 2u : 4u;
    return true;
}

static void
tables(struct life *w)
{
    unsigned found = 0;
    ash_table *u;

    must_ok(ash_table_list(w->a, count_table, &found));
    must(found == (2u | 4u), "tables %u are there", found);
    must_ok(ash_table_create(w->b, "created", NULL)); /* waits for the other creator's end */
    must_ok(ash_table_open(w->b, "created", &u));
    must_rc(ash_delete(w->b, u, slice_str("k")), ASH_NOT_FOUND);
    ash_table_close(u);
    must_ok(ash_table_open(w->b, "dropped", &u));
    must_ok(ash_put(w->b, u, slice_str("k"), slice_str("v")));
    ash_table_close(u);
    must_ok(ash_table_drop(w->b, "dropped"));
    task_sleep_ns(100000000); /* the reaper frees both trees */
}

START_TEST(the_catalog_is_right_while_creators_are_undone)
{
    RUN(tables);
}
END_TEST

/* ---- Closing ---- */

static void
hasty(struct life *w)
{
    uint64_t before;

    for (unsigned i = 0; i < 5 && losers(w) != 0; i++) {
        life_close(w);
        before = sim_disk_hash(w->env->disk);
        life_open(w, ASH_OPEN_READ_ONLY);
        for (unsigned k = 0; k < LOST; k++)
            must_row(w, k, "old");
        life_close(w);
        must(before == sim_disk_hash(w->env->disk), "reading changed something");
        life_open(w, 0);
    }
}

START_TEST(a_close_leaves_the_rest_to_the_next_open)
{
    RUN(hasty);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("txn loser");
    TCase *tc = tcase_create("loser");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, losers_are_undone_while_others_read_and_write);
    tcase_add_test(tc, an_undo_that_fails_is_continued_by_the_next_open);
    tcase_add_test(tc, the_catalog_is_right_while_creators_are_undone);
    tcase_add_test(tc, a_close_leaves_the_rest_to_the_next_open);
    suite_add_tcase(s, tc);
    return s;
}

TEST_MAIN(suite)
