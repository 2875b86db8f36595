/* SPDX-License-Identifier: Apache-2.0
 *
 * test_txn_state.c - races and rare turns of src/txn that no workload meets by itself: the state
 * table's second round, a reader with a copy of a row that is rolled back, a transaction whose
 * rollback failed, reading what is committed but not durable.
 */
#include "api/api_int.h"
#include "txn/txn_int.h"

#include "tests/api/db_env.h"

struct world {
    struct db_env *env;
    ash_db *db;
    struct db_layers l;
    ash_session *a, *b;
    ash_table *t;
    void (*fn)(struct world *w);
};

static void
must_value(struct world *w, ash_session *s, const char *key, const char *value)
{
    struct ash_slice v;

    must_ok(ash_get(s, w->t, slice_str(key), &v));
    must(v.size == strlen(value) && memcmp(v.data, value, v.size) == 0, "%s is \"%.*s\"", key,
         (int)v.size, (const char *)v.data);
}

static void
put(struct world *w, ash_session *s, const char *key, const char *value)
{
    must_ok(ash_put(s, w->t, slice_str(key), slice_str(value)));
}

static void
open_world(struct world *w)
{
    w->db = db_env_open(w->env, DB_ENV_TINY, /* quiet= */ true);
    db_layers(w->db, &w->l);
    must_ok(ash_session_open(w->db, &w->a));
    must_ok(ash_session_open(w->db, &w->b));
}

static void
close_world(struct world *w)
{
    ash_table_close(w->t);
    ash_session_close(w->a);
    ash_session_close(w->b);
    must_ok(ash_close(w->db));
}

static void
world_body(struct db_env *e)
{
    struct world w = { .env = e };
    struct world *given = e->arg;

    open_world(&w);
    must_ok(ash_table_create(w.a, "t", NULL));
    must_ok(ash_table_open(w.a, "t", &w.t));
    put(&w, w.a, "k", "old");
    given->fn(&w);
    db_env_verify(w.db);
    close_world(&w);
}

static void
run_seeds(void (*fn)(struct world *w), const char *name, unsigned seeds)
{
    for (uint64_t seed = test_seed(1), end = seed + seeds; seed < end; seed++) {
        struct world w = { .fn = fn };
        struct db_env e = { .kind = IO_BACKEND_SIM, .seed = seed, .name = name, .arg = &w };

        must_ok(db_env_run(&e, world_body));
        must(e.leaked == 0, "%llu bytes leaked", (unsigned long long)e.leaked);
    }
}
#define RUN(fn) run_seeds(fn, #fn, 1)

/* ---- The state table is a ring ---- */

static void
turn_of_the_ring(struct world *w)
{
    struct txn_sys *sys = w->l.txn;
    uint64_t turn = (uint64_t)TXN_CHUNKS * TXN_CHUNK_IDS;

    /* As after 2^26 transactions, all of them seen by everybody. */
    txn_move_horizon(sys);
    atomic_store(&sys->next_id, turn - TXN_CHUNK_IDS / 2 - 8);
    atomic_store(&sys->visible_below, turn - TXN_CHUNK_IDS / 2 - 8);
    for (unsigned i = 0; i < 16; i++)
        put(w, w->a, "k", "turn");
    atomic_store(&sys->next_id, turn - 8);
    txn_move_horizon(sys);
    atomic_store(&sys->visible_below, turn - 8);
    for (unsigned i = 0; i < 16; i++)
        put(w, w->a, "k", "over");
    must(atomic_load(&sys->next_id) > turn, "not over it");
    must_value(w, w->b, "k", "over");
}

START_TEST(test_state_table_turns)
{
    RUN(turn_of_the_ring);
}
END_TEST

/* ---- A reader's copy outlives a rollback ---- */

static void
copy_of_a_rolled_back_row(struct world *w)
{
    must_ok(ash_begin(w->b, NULL)); /* the reader's snapshot */
    must_ok(ash_begin(w->a, NULL));
    put(w, w->a, "k", "dirty");
    uint64_t writer = atomic_load(&w->a->txn->id); /* the reader has copied the row now */
    must_ok(ash_rollback(w->a));
    for (unsigned i = 0; i < 3; i++)
        put(w, w->a, "other", "x");
    txn_move_horizon(w->l.txn);
    must(!txn_sees(w->b->txn, writer), "the rolled-back change is seen");
    must_value(w, w->b, "k", "old");
    must_ok(ash_commit(w->b));
    txn_move_horizon(w->l.txn);
    must(atomic_load(txn_visible_below_ptr(w->l.txn)) > writer, "held for ever");
}

START_TEST(test_copy_of_rolled_back_row)
{
    RUN(copy_of_a_rolled_back_row);
}
END_TEST

/* ---- Rollback fails ---- */

static void
rollback_without_memory(struct world *w)
{
    char value[200];

    memset(value, 'x', sizeof(value));
    must_ok(ash_begin(w->a, NULL));
    put(w, w->a, "k", "dirty");
    put(w, w->a, "new", "dirty");
    mem_fail_at(1, /* sticky= */ true);
    must_rc(ash_rollback(w->a), ASH_NO_MEMORY);
    ash_session_close(w->a);
    mem_fail_at(0, false);
    must_value(w, w->b, "k", "old");
    must_ok(ash_checkpoint(w->db)); /* must not forget it */
    must_ok(ash_session_open(w->db, &w->a));
    ash_table_close(w->t);
    ash_session_close(w->a);
    ash_session_close(w->b);
    must_ok(ash_close(w->db));

    struct ash_slice v;
    open_world(w);
    must_ok(ash_table_open(w->a, "t", &w->t));
    must_value(w, w->a, "k", "old");
    must_rc(ash_get(w->a, w->t, slice_str("new"), &v), ASH_NOT_FOUND);
    put(w, w->a, "k", "free");
}

START_TEST(test_rollback_fails)
{
    RUN(rollback_without_memory);
}
END_TEST

static void
savepoint_without_memory(struct world *w)
{
    uint64_t savepoint;

    must_ok(ash_begin(w->a, NULL));
    must_ok(ash_savepoint(w->a, &savepoint));
    put(w, w->a, "k", "dirty");
    mem_fail_at(1, /* sticky= */ true);
    must_rc(ash_rollback_to(w->a, savepoint), ASH_NO_MEMORY);
    mem_fail_at(0, false);
    must_rc(ash_put(w->a, w->t, slice_str("x"), slice_str("y")), ASH_MISUSE);
    must_rc(ash_commit(w->a), ASH_MISUSE); /* and it rolls back */
    must(!ash_in_transaction(w->a), "still open");
    must_value(w, w->a, "k", "old");
}

START_TEST(test_half_undone_is_not_committed)
{
    RUN(savepoint_without_memory);
}
END_TEST

/* ---- Durability of what was read ---- */

static void
read_what_is_not_durable(struct world *w)
{
    must_ok(ash_session_durability(w->a, ASH_DURABILITY_NONE));
    put(w, w->a, "k", "new");
    uint64_t end = wal_reserved(w->l.wal);
    txn_move_horizon(w->l.txn);
    must(wal_durable(w->l.wal) < end, "durable by itself");
    must_value(w, w->b, "k", "new");
    must(wal_durable(w->l.wal) >= end, "a synchronous reader was told what a power cut can undo");
}

START_TEST(test_sync_reader_waits)
{
    RUN(read_what_is_not_durable);
}
END_TEST

/* ---- A table that is emptied and dropped ---- */

/* The purger must not be inside the tree that the reaper frees. */
static void
empty_and_drop(struct world *w)
{
    char key[16], value[200];
    ash_table *u;

    memset(value, 'x', sizeof(value));
    must_ok(ash_table_create(w->a, "u", NULL));
    must_ok(ash_table_open(w->a, "u", &u));
    must_ok(ash_begin(w->a, NULL));
    for (unsigned i = 0; i < 400; i++) {
        snprintf(key, sizeof(key), "%05u", i);
        must_ok(ash_put(w->a, u, slice_str(key), ash_slice(value, sizeof(value))));
    }
    must_ok(ash_commit(w->a));
    must_ok(ash_begin(w->b, NULL)); /* a snapshot keeps both from beginning too early */
    must_ok(ash_begin(w->a, NULL));
    for (unsigned i = 0; i < 400; i++) {
        snprintf(key, sizeof(key), "%05u", i);
        must_ok(ash_delete(w->a, u, slice_str(key)));
    }
    must_ok(ash_commit(w->a));
    ash_table_close(u);
    must_ok(ash_table_drop(w->a, "u"));
    must_ok(ash_rollback(w->b));
    for (unsigned i = 0; i < 12; i++) {
        put(w, w->a, "k", "new");
        task_sleep_ns(i < 6 ? 4000000 : 40000000);
    }
    must(atomic_load(&w->l.txn->purge_failures) == 0, "the purger met what it should not");
}

static void
cursor_in_dropped_table(struct world *w)
{
    struct ash_txn_options o = { .isolation = ASH_READ_COMMITTED };
    char key[16], value[200];
    ash_table *u;
    ash_cursor *c;
    struct ash_row row;

    memset(value, 'x', sizeof(value));
    must_ok(ash_table_create(w->a, "u", NULL));
    must_ok(ash_table_open(w->a, "u", &u));
    for (unsigned i = 0; i < 200; i++) {
        snprintf(key, sizeof(key), "%05u", i);
        must_ok(ash_put(w->a, u, slice_str(key), ash_slice(value, sizeof(value))));
    }
    must_ok(ash_begin(w->b, &o));
    must_ok(ash_cursor_open(w->b, u, NULL, &c));
    must_ok(ash_cursor_next(c, &row));
    must_ok(ash_table_drop(w->a, "u"));
    ash_rc rc = ASH_OK;
    for (unsigned i = 0; i < 200 && rc == ASH_OK; i++) {
        rc = ash_cursor_next(c, &row);
        task_sleep_ns(5000000);
    }
    must(rc == ASH_CONFLICT, "%s: %s", ash_rc_name(rc), ash_error_last()->message);
    ash_cursor_close(c);
    must_ok(ash_rollback(w->b));
    ash_table_close(u);
}

START_TEST(test_cursor_in_dropped_table)
{
    RUN(cursor_in_dropped_table);
}
END_TEST

/* Its memory is lost, and nothing else. */
static void
forgotten_cursor(struct world *w)
{
    ash_cursor *c;
    struct ash_row row;

    must_ok(ash_cursor_open(w->b, w->t, NULL, &c));
    must_ok(ash_cursor_next(c, &row));
    ash_table_close(w->t);
    must_ok(ash_close(w->db));
    open_world(w);
    must_ok(ash_table_open(w->a, "t", &w->t));
}

START_TEST(test_forgotten_cursor)
{
    struct world w = { .fn = forgotten_cursor };
    struct db_env e = { .kind = IO_BACKEND_SIM, .seed = 1, .name = "forgotten_cursor", .arg = &w };

    must_ok(db_env_run(&e, world_body));
}
END_TEST

/* ---- Two bulk loads ---- */

struct load {
    struct world *w;
    ash_table *table;
    unsigned next, count;
    bool nested; /* starts a second load halfway */
    char key[16];
};

static ash_rc
load_next(void *arg, struct ash_slice *key_out, struct ash_slice *value_out)
{
    static const char value[200];
    struct load *l = arg;

    if (l->nested && l->next == l->count / 2) {
        struct load other = { .w = l->w, .table = l->table, .count = 50 };
        l->nested = false;
        must_rc(ash_bulk_load(l->w->b, l->table, load_next, &other), ASH_CONFLICT);
    }
    if (l->next == l->count)
        return ASH_NOT_FOUND;
    snprintf(l->key, sizeof(l->key), "%05u", l->next++);
    *key_out = slice_str(l->key);
    *value_out = ash_slice(value, sizeof(value));
    return ASH_OK;
}

static void
two_loads(struct world *w)
{
    struct load l = { .w = w, .count = 400, .nested = true };
    struct ash_slice v;

    must_ok(ash_table_create(w->a, "u", NULL));
    must_ok(ash_table_open(w->a, "u", &l.table));
    must_ok(ash_bulk_load(w->a, l.table, load_next, &l));
    must_ok(ash_get(w->b, l.table, slice_str("00399"), &v));
    ash_table_close(l.table);
}

START_TEST(test_two_loads)
{
    RUN(two_loads);
}
END_TEST

/* ---- Creating tables on a full disk ---- */

/* What the catalog shows has a tree, whatever the creating call returned. */
static void
tables_on_a_full_disk(struct world *w)
{
    char name[16];
    ash_table *u;
    char value[700];
    unsigned refused = 0, there = 0;

    sim_disk_limit(w->env->disk, 1); /* nothing grows any more */
    memset(value, 'x', sizeof(value));
    must_ok(ash_session_durability(w->b, ASH_DURABILITY_NONE));
    for (unsigned i = 0; i < 150; i++) /* more log than there are segments for; one dirty page */
        must_ok(ash_put(w->b, w->t, slice_str("k"), ash_slice(value, sizeof(value))));
    for (unsigned i = 0; i < 400 && refused < 4; i++) {
        snprintf(name, sizeof(name), "t%u", i);
        refused += ash_table_create(w->a, name, NULL) != ASH_OK;
    }
    must(refused > 0, "the disk was not full");
    sim_disk_limit(w->env->disk, 0);
    for (unsigned i = 0; i < 20; i++) {
        ash_ignore(ash_put(w->b, w->t, slice_str("k"), slice_str("v")));
        task_sleep_ns(100000000);
    }
    for (unsigned i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "t%u", i);
        if (ash_table_open(w->b, name, &u) != ASH_OK)
            continue;
        there++;
        must_ok(ash_put(w->b, u, slice_str("k"), slice_str("v")));
        ash_table_close(u);
    }
    must(there > 0, "no table");
}

START_TEST(test_tables_on_a_full_disk)
{
    RUN(tables_on_a_full_disk);
}
END_TEST

START_TEST(test_empty_and_drop)
{
    run_seeds(empty_and_drop, "empty_and_drop", 40);
}
END_TEST

/* ---- Who gives a snapshot up may be late ---- */

static void
move_main(void *arg)
{
    txn_move_horizon(arg);
}

/* Goal: the transaction after the one whose snapshot was given up is not punished for it.  Method:
 * the session goes on while somebody is about to give up its snapshot. */
static void
late_killer(struct world *w)
{
    struct txn_sys *sys = w->l.txn;
    struct ash_slice v;
    struct task *task;
    unsigned killed = 0;

    for (unsigned round = 0; round < 60; round++) {
        atomic_store(&sys->version_limit, UINT64_MAX / 2);
        must_ok(ash_begin(w->a, NULL));
        must_ok(ash_get(w->a, w->t, slice_str("k"), &v));
        for (unsigned i = 0; i < 3; i++)
            put(w, w->b, "k", "newer");
        txn_move_horizon(sys);
        atomic_store(&sys->version_limit, 1);
        must_ok(task_spawn(w->env->rt, "killer", move_main, sys, &task));
        killed += ash_get(w->a, w->t, slice_str("k"), &v) == ASH_SNAPSHOT_TOO_OLD;
        must_ok(ash_rollback(w->a));
        must_ok(ash_begin(w->a, NULL));
        must_value(w, w->a, "k", "newer");
        task_join(task);
        must_value(w, w->a, "k", "newer");
        must_ok(ash_rollback(w->a));
    }
    atomic_store(&sys->version_limit, UINT64_MAX / 2);
    must(killed > 0, "no snapshot was given up");
}

START_TEST(test_late_killer)
{
    run_seeds(late_killer, "late_killer", 20);
}
END_TEST

/* Goal: nobody changes a tree by a snapshot that does not keep it (table.h R2).  Method: the session
 * begins to write while somebody is about to give up its snapshot; once it has, the horizon stays
 * behind the snapshot. */
static void
late_killer_of_writer(struct world *w)
{
    struct txn_sys *sys = w->l.txn;
    struct task *task;
    unsigned refused = 0, let_in = 0;

    for (unsigned round = 0; round < 100; round++) {
        atomic_store(&sys->version_limit, UINT64_MAX / 2);
        must_ok(ash_begin(w->a, NULL));
        for (unsigned i = 0; i < 3; i++)
            put(w, w->b, "k", "newer");
        txn_move_horizon(sys);
        atomic_store(&sys->version_limit, 1);
        must_ok(task_spawn(w->env->rt, "killer", move_main, sys, &task));
        for (unsigned i = 0; i < round % 4; i++)
            task_yield();
        ash_rc rc = ash_put(w->a, w->t, slice_str("other"), slice_str("value"));
        must(rc == ASH_OK || rc == ASH_SNAPSHOT_TOO_OLD, "%s", ash_rc_name(rc));
        bool writes = atomic_load(&w->a->txn->first_lsn) != 0;
        refused += !writes;
        let_in += writes;
        task_join(task);
        put(w, w->b, "k", "newest");
        txn_move_horizon(sys);
        must(!writes || txn_horizon(sys) <= atomic_load(&w->a->txn->snapshot),
             "the horizon has passed the snapshot of one who writes");
        must_ok(ash_rollback(w->a));
    }
    atomic_store(&sys->version_limit, UINT64_MAX / 2);
    must(refused > 0 && let_in > 0, "%u refused, %u let in", refused, let_in);
}

START_TEST(test_late_killer_of_writer)
{
    run_seeds(late_killer_of_writer, "late_killer_of_writer", 20);
}
END_TEST

/* ---- A damaged page among the garbage ---- */

#define GARBAGE_VALUE 20000u

static void
put_large(struct world *w, const char *key, char fill)
{
    static char value[GARBAGE_VALUE];

    memset(value, fill, sizeof(value));
    must_ok(ash_put(w->a, w->t, slice_str(key), ash_slice(value, sizeof(value))));
}

/* Leaves replaced values behind that a snapshot still needed, and crashes. */
static void
garbage_make(struct db_env *e)
{
    struct world w = { .env = e };
    struct ash_slice v;

    open_world(&w);
    must_ok(ash_table_create(w.a, "t", NULL));
    must_ok(ash_table_open(w.a, "t", &w.t));
    put_large(&w, "k1", 'o');
    put_large(&w, "k2", 'o');
    must_ok(ash_begin(w.b, NULL));
    must_ok(ash_get(w.b, w.t, slice_str("k1"), &v));
    must_ok(ash_checkpoint(w.db));
    put_large(&w, "k1", 'n');
    put_large(&w, "k2", 'n');
    must_ok(ash_checkpoint(w.db));
    must(w.l.txn->garbage_count >= 2, "%u garbage pages", w.l.txn->garbage_count);
    task_sim_halt(e->rt);
}

/* Goal: one page that cannot be read is all that is lost; what waits behind it is freed. */
static void
garbage_purge(struct db_env *e)
{
    struct world w = { .env = e };

    open_world(&w);
    must_ok(ash_table_open(w.a, "t", &w.t));
    for (unsigned i = 0; i < 200 && w.l.txn->garbage_count != 0; i++) {
        put(&w, w.b, "other", "value");
        task_sleep_ns(10000000);
    }
    must(w.l.txn->garbage_count == 0, "%u garbage pages are held up", w.l.txn->garbage_count);
    must_rc(ash_verify(w.db, NULL, NULL), ASH_CORRUPT); /* it tells what is lost */
    close_world(&w);
}

static void
flip_one_old_page(struct sim_disk *disk)
{
    uint8_t page[4096];

    for (uint64_t at = 0; at < 8u << 20; at += sizeof(page)) {
        must_ok(sim_disk_peek(disk, "db", "data-0000.ash", at, page, sizeof(page)));
        if (page[3000] != 'o' || page[3001] != 'o')
            continue;
        page[3000] ^= 1;
        must_ok(sim_disk_poke(disk, "db", "data-0000.ash", at, page, sizeof(page)));
        return;
    }
    must(false, "no page of an old value");
}

START_TEST(test_damaged_garbage)
{
    struct db_env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(1), .name = "damaged_garbage" };
    struct sim_disk *cut;

    must_ok(sim_disk_create(e.seed, &e.disk));
    ash_ignore(db_env_run(&e, garbage_make)); /* it ends with a crash */
    must_ok(sim_disk_cut(e.disk, SIM_CUT_ALL, 1, &cut));
    sim_disk_destroy(e.disk);
    flip_one_old_page(cut);
    e.disk = cut;
    must_ok(db_env_run(&e, garbage_purge));
    sim_disk_destroy(cut);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("txn state");
    TCase *tc = tcase_create("state");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, test_late_killer);
    tcase_add_test(tc, test_late_killer_of_writer);
    tcase_add_test(tc, test_damaged_garbage);
    tcase_add_test(tc, test_state_table_turns);
    tcase_add_test(tc, test_copy_of_rolled_back_row);
    tcase_add_test(tc, test_rollback_fails);
    tcase_add_test(tc, test_half_undone_is_not_committed);
    tcase_add_test(tc, test_sync_reader_waits);
    tcase_add_test(tc, test_forgotten_cursor);
    tcase_add_test(tc, test_two_loads);
    tcase_add_test(tc, test_tables_on_a_full_disk);
    tcase_add_test(tc, test_empty_and_drop);
    tcase_add_test(tc, test_cursor_in_dropped_table);
    suite_add_tcase(s, tc);
    return s;
}

TEST_MAIN(suite)
