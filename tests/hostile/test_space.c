/* SPDX-License-Identifier: Apache-2.0
 *
 * test_space.c - a disk that is full for a while, in simulation: what is refused, what still works,
 * and that work goes on by itself when there is space again.  (test_full.c: the same on a real
 * file system.)
 *
 *   S1  ASH_NO_SPACE poisons nothing: reads go on, and so do writes when there is space again,
 *       without opening the database anew.
 *   S2  A statement that is refused changes nothing; its transaction can commit or roll back.
 *   S3  A commit that is refused is rolled back: nobody sees its rows, no crash brings them back.
 *   S4  Whatever was acknowledged before, during and after is there after a power cut.
 *   S5  Where a checkpoint makes old log segments free, a log on a full disk needs nobody's help.
 */
#include "base/clock.h"
#include "txn/txn.h"

#include "tests/hostile/hostile.h"

#define SPACE_VALUE 700u
#define SPACE_ROWS  4000u

struct space {
    struct db_env *env;
    const char *options;
    bool background; /* with a checkpointer */
    ash_db *db;
    ash_session *s, *other;
    ash_table *t;
    unsigned acked; /* rows [0, acked) are acknowledged */
};

static void
key_of(uint32_t i, uint8_t key[4])
{
    key[0] = (uint8_t)(i >> 24);
    key[1] = (uint8_t)(i >> 16);
    key[2] = (uint8_t)(i >> 8);
    key[3] = (uint8_t)i;
}

static ash_rc
put_row(struct space *w, uint32_t i)
{
    uint8_t key[4], value[SPACE_VALUE];

    key_of(i, key);
    memset(value, (int)(i % 251), sizeof(value));
    return ash_put(w->s, w->t, ash_slice(key, 4), ash_slice(value, sizeof(value)));
}

static bool
row_is_there(struct space *w, ash_session *s, uint32_t i)
{
    struct ash_slice v;
    uint8_t key[4];

    key_of(i, key);
    ash_rc rc = ash_get(s, w->t, ash_slice(key, 4), &v);
    must(rc == ASH_OK || rc == ASH_NOT_FOUND, "row %u: %s", i, ash_error_last()->message);
    must(rc != ASH_OK || (v.size == SPACE_VALUE && *(const uint8_t *)v.data == i % 251),
         "row %u is wrong", i);
    return rc == ASH_OK;
}

static void
space_open(struct space *w)
{
    w->db = db_env_open(w->env, w->options, !w->background);
    must_ok(ash_session_open(w->db, &w->s));
    must_ok(ash_session_open(w->db, &w->other));
    ash_rc rc = ash_table_create(w->s, "t", NULL);
    must(rc == ASH_OK || rc == ASH_EXISTS, "%s", ash_rc_name(rc));
    must_ok(ash_table_open(w->s, "t", &w->t));
}

static ash_rc
space_close(struct space *w)
{
    ash_table_close(w->t);
    ash_session_close(w->other);
    ash_session_close(w->s);
    return ash_close(w->db);
}

/* S4: rows [0, acked) and no others. */
static void
check_all(struct space *w)
{
    for (uint32_t i = 0; i < w->acked; i++)
        must(row_is_there(w, w->other, i), "acknowledged row %u is lost", i);
    for (uint32_t i = w->acked; i < w->acked + 50; i++)
        must(!row_is_there(w, w->other, i), "row %u was refused and is there", i);
}

static void
no_space(ash_rc rc)
{
    must(rc == ASH_NO_SPACE, "%s: %s", ash_rc_name(rc), ash_error_last()->message);
    hostile_sentence("free some");
}

/* Single rows until one is refused. */
static void
fill(struct space *w)
{
    ash_rc rc = ASH_OK;

    while (rc == ASH_OK) {
        must(w->acked < SPACE_ROWS, "the disk does not get full");
        rc = put_row(w, w->acked);
        w->acked += rc == ASH_OK;
    }
    no_space(rc);
}

/* S1: within two tenths of a second, and from then on without a refusal. */
static void
goes_on(struct space *w)
{
    uint64_t until = clock_ns() + 200000000;
    ash_rc rc = put_row(w, w->acked);

    for (; rc == ASH_NO_SPACE && clock_ns() < until; rc = put_row(w, w->acked))
        task_sleep_ns(10000000);
    must(rc == ASH_OK, "there is space again, but: %s", ash_error_last()->message);
    w->acked++;
    for (unsigned i = 0; i < 300; i++, w->acked++)
        must_ok(put_row(w, w->acked));
    must_ok(ash_checkpoint(w->db));
    check_all(w);
}

/* ---- Single statements ---- */

static void
body_full_for_a_while(struct db_env *e)
{
    struct space *w = e->arg;
    uint64_t limit = w->acked;

    w->env = e;
    w->acked = 0;
    space_open(w);
    for (unsigned round = 0; round < 2; round++) {
        sim_disk_limit(e->disk, limit * (round + 1));
        fill(w);
        for (unsigned i = 0; i < 3; i++) { /* asking again changes nothing */
            ash_rc rc = put_row(w, w->acked);
            w->acked += rc == ASH_OK; /* a checkpoint may have made some room */
            task_sleep_ns(30000000);
        }
        check_all(w);
        sim_disk_limit(e->disk, 0);
        goes_on(w);
    }
    db_env_verify(w->db);
    if (e->seed % 2 == 0)
        must_ok(space_close(w));
    else
        task_sim_halt(e->rt); /* a crash */
}

static void
body_reopen(struct db_env *e)
{
    struct space *w = e->arg;

    w->env = e;
    space_open(w);
    check_all(w);
    db_env_verify(w->db);
    must_ok(space_close(w));
}

static const uint64_t limits[] = { 500000, 700000, 1000000, 1500000, 2000000 };

static void
run_limits(void (*body)(struct db_env *e), bool background, const char *options)
{
    for (unsigned i = 0; i < sizeof(limits) / sizeof(limits[0]); i++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
            struct space *w = calloc(1, sizeof(*w));
            struct db_env e = {
                .kind = IO_BACKEND_SIM, .seed = test_seed(seed), .name = "space", .arg = w
            };
            struct sim_disk *cut;
            w->options = options;
            w->background = background;
            w->acked = (unsigned)limits[i];
            must_ok(sim_disk_create(e.seed, &e.disk));
            ash_ignore(db_env_run(&e, body)); /* it may end with a crash */
            must(w->acked != limits[i], "the body has not run");
            must_ok(sim_disk_cut(e.disk, SIM_CUT_NONE, e.seed, &cut));
            sim_disk_destroy(e.disk);
            e.disk = cut;
            must_ok(db_env_run(&e, body_reopen));
            sim_disk_destroy(cut);
            free(w);
        }
}

/* S1, S2, S4, with an outside checkpoint only. */
START_TEST(writes_go_on_when_there_is_space_again)
{
    run_limits(body_full_for_a_while, /* background= */ false, DB_ENV_TINY);
}
END_TEST

START_TEST(writes_go_on_beside_the_checkpointer)
{
    run_limits(body_full_for_a_while, /* background= */ true, DB_ENV_TINY ",executors=1");
}
END_TEST

/* ---- Transactions ---- */

/* Rows of one transaction until a statement is refused, or `most`; returns their number. */
static unsigned
fill_transaction(struct space *w, unsigned most)
{
    ash_rc rc = ASH_OK;
    unsigned n = 0;

    must_ok(ash_begin(w->s, NULL));
    while (n < most && (rc = put_row(w, w->acked + n)) == ASH_OK)
        n++;
    if (rc != ASH_OK)
        no_space(rc);
    must(ash_in_transaction(w->s), "a refused statement has ended its transaction");
    return n;
}

static void
body_transactions(struct db_env *e)
{
    struct space *w = e->arg;
    uint64_t limit = w->acked;

    w->env = e;
    w->acked = 0;
    space_open(w);
    sim_disk_limit(e->disk, limit);
    for (unsigned round = 0; round < 12; round++) {
        unsigned n = fill_transaction(w, 60 + round * 100);
        if (round % 3 == 2) { /* S2 */
            must_ok(ash_rollback(w->s));
        } else {
            ash_rc rc = ash_commit(w->s);
            if (rc != ASH_OK)
                no_space(rc); /* S3: check_all() */
            w->acked += rc == ASH_OK ? n : 0;
        }
        check_all(w);
    }
    sim_disk_limit(e->disk, 0);
    goes_on(w);
    db_env_verify(w->db);
    task_sim_halt(e->rt); /* a crash */
}

START_TEST(a_refused_commit_is_rolled_back)
{
    run_limits(body_transactions, /* background= */ false, DB_ENV_TINY);
}
END_TEST

/* ---- S5 ---- */

/* The same few rows again and again: the log is full of what nobody needs. */
static void
body_heals(struct db_env *e)
{
    struct space *w = e->arg;
    uint64_t until;
    unsigned refused = 0, written = 0;

    w->env = e;
    w->acked = 0;
    space_open(w);
    for (; w->acked < 20; w->acked++)
        must_ok(put_row(w, w->acked));
    must_ok(ash_checkpoint(w->db));
    sim_disk_limit(e->disk, 1); /* nothing grows any more */
    until = clock_ns() + 20000000000u;
    while (written < 3000 && clock_ns() < until) {
        ash_rc rc = put_row(w, written % 20);
        if (rc != ASH_OK) {
            no_space(rc);
            refused++;
            task_sleep_ns(20000000);
        }
        written += rc == ASH_OK;
    }
    must(written == 3000, "only %u writes: the log did not make room for itself: %s", written,
         ash_error_last()->message);
    must(refused > 0 || !w->background, "the log was never full");
    check_all(w);
    must_ok(space_close(w));
}

START_TEST(a_log_on_a_full_disk_makes_room_for_itself)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct space *w = calloc(1, sizeof(*w));
        struct db_env e = {
            .kind = IO_BACKEND_SIM, .seed = test_seed(seed), .name = "heals", .arg = w
        };
        w->options = "cache=1MiB,wal_buffer=1MiB,wal_segment=64KiB,zone_size=64KiB,"
                     "wal_limit=64MiB,wal_writers=1,executors=1";
        w->background = true;
        must_ok(db_env_run(&e, body_heals));
        must(w->acked == 20, "the body has not run");
        free(w);
    }
}
END_TEST

/* A reader holds the log's old segments, so a full disk stays full until it ends. */
static void
body_reader_ends(struct db_env *e)
{
    struct space *w = e->arg;
    uint64_t refused_since = 0, until;
    ash_rc rc = ASH_OK;

    w->env = e;
    w->acked = 0;
    space_open(w);
    for (; w->acked < 20; w->acked++)
        must_ok(put_row(w, w->acked));
    must_ok(ash_checkpoint(w->db));
    must_ok(ash_begin(w->other, NULL));
    must(row_is_there(w, w->other, 0), "row 0");
    sim_disk_limit(e->disk, 1); /* nothing grows any more */
    until = clock_ns() + 300000000000u;
    for (unsigned i = 0; clock_ns() < until; i++) {
        rc = put_row(w, i % 20);
        if (rc == ASH_OK) {
            refused_since = 0;
            continue;
        }
        no_space(rc);
        refused_since = refused_since == 0 ? clock_ns() : refused_since;
        if (clock_ns() - refused_since > 20000000000u)
            break;
        task_sleep_ns(20000000);
    }
    must(rc != ASH_OK, "the reader held nothing back");
    must_ok(ash_commit(w->other));
    until = clock_ns() + 20000000000u;
    while ((rc = put_row(w, 0)) != ASH_OK && clock_ns() < until)
        task_sleep_ns(20000000);
    must(rc == ASH_OK, "no room although the reader ended: %s", ash_error_last()->message);
    check_all(w);
    must_ok(space_close(w));
}

START_TEST(a_full_log_has_room_when_its_reader_ends)
{
    struct space *w = calloc(1, sizeof(*w));
    struct db_env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(1), .name = "reader", .arg = w };

    w->options = "cache=1MiB,wal_buffer=1MiB,wal_segment=64KiB,zone_size=64KiB,"
                 "wal_limit=64MiB,wal_writers=1,executors=1";
    w->background = true;
    must_ok(db_env_run(&e, body_reader_ends));
    must(w->acked == 20, "the body has not run");
    free(w);
}
END_TEST

/* ---- What was open when the database died ---- */

/* The CLRs of so many rows fill the log buffer (1 MiB) and the segments that are there. */
#define LOST_ROWS    2500u
#define LOSER_OPTION "cache=16MiB,wal_buffer=1MiB,wal_segment=64KiB,zone_size=64KiB,wal_limit=64MiB"

static void
body_dies_in_transaction(struct db_env *e)
{
    struct space *w = e->arg;
    uint8_t key[4], value[SPACE_VALUE] = { 0 };

    w->env = e;
    space_open(w);
    must_ok(ash_begin(w->s, NULL));
    for (; w->acked < LOST_ROWS; w->acked++)
        must_ok(put_row(w, w->acked));
    must_ok(ash_commit(w->s));
    must_ok(ash_begin(w->s, NULL));
    for (uint32_t i = 0; i < LOST_ROWS; i++) {
        key_of(i, key);
        must_ok(ash_put(w->s, w->t, ash_slice(key, 4), ash_slice(value, sizeof(value))));
    }
    must_ok(ash_put(w->other, w->t, slice_str("other"), slice_str("x"))); /* all of it is durable */
    task_sim_halt(e->rt);
}

static uint64_t
losers(struct space *w)
{
    struct db_layers l;
    struct txn_stats s;

    db_layers(w->db, &l);
    txn_stats(l.txn, &s);
    return s.losers;
}

static void
body_undo_waits(struct db_env *e)
{
    struct space *w = e->arg;
    uint64_t until;

    w->env = e;
    sim_disk_limit(e->disk, 1); /* nothing grows any more */
    w->db = db_env_open(w->env, w->options, !w->background);
    must_ok(ash_session_open(w->db, &w->s));
    must_ok(ash_session_open(w->db, &w->other));
    must_ok(ash_table_open(w->s, "t", &w->t));
    task_sleep_ns(15000000000u);
    must(losers(w) == 1, "it was rolled back without room for that");
    check_all(w);
    no_space(put_row(w, w->acked));
    sim_disk_limit(e->disk, 0);
    until = clock_ns() + 1000000000u;
    while (losers(w) != 0 && clock_ns() < until)
        task_sleep_ns(10000000);
    must(losers(w) == 0, "there is space again, but it was not rolled back");
    goes_on(w);
    db_env_verify(w->db);
    must_ok(space_close(w));
}

/* Goal: undo of what a crash left open does not use up the log of a full disk, which would end in
 * its failure: it waits for space, and meanwhile all can be read. */
START_TEST(undo_waits_for_space)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct space *w = calloc(1, sizeof(*w));
        struct db_env e = {
            .kind = IO_BACKEND_SIM, .seed = test_seed(seed), .name = "undo", .arg = w
        };
        struct sim_disk *cut;
        w->options = LOSER_OPTION;
        w->background = seed % 2 == 0;
        must_ok(sim_disk_create(e.seed, &e.disk));
        ash_ignore(db_env_run(&e, body_dies_in_transaction));
        must(w->acked == LOST_ROWS, "the body has not run");
        must_ok(sim_disk_cut(e.disk, SIM_CUT_NONE, e.seed, &cut));
        sim_disk_destroy(e.disk);
        e.disk = cut;
        must_ok(db_env_run(&e, body_undo_waits));
        sim_disk_destroy(cut);
        free(w);
    }
}
END_TEST

/* ---- What the background would log ---- */

#define GHOST_ROWS 20000u /* their purge logs more than the buffer and the segments hold */
#define GHOST_TXN  1000u

/* Deletes all rows of a table while somebody still sees them, and drops a copy of it. */
static void
make_ghosts(struct space *w)
{
    uint8_t key[4];

    must_ok(ash_session_durability(w->s, ASH_DURABILITY_NONE));
    for (uint32_t i = 0; i < GHOST_ROWS; i++) {
        if (i % GHOST_TXN == 0)
            must_ok(ash_begin(w->s, NULL));
        must_ok(put_row(w, i));
        if (i % GHOST_TXN == GHOST_TXN - 1)
            must_ok(ash_commit(w->s));
    }
    must_ok(ash_begin(w->other, NULL));
    must(row_is_there(w, w->other, 0), "row 0");
    for (uint32_t i = 0; i < GHOST_ROWS; i++) {
        if (i % GHOST_TXN == 0)
            must_ok(ash_begin(w->s, NULL));
        key_of(i, key);
        must_ok(ash_delete(w->s, w->t, ash_slice(key, 4)));
        if (i % GHOST_TXN == GHOST_TXN - 1)
            must_ok(ash_commit(w->s));
    }
    must_ok(ash_checkpoint(w->db));
}

static void
body_ghosts(struct db_env *e)
{
    struct space *w = e->arg;

    w->env = e;
    w->acked = 0;
    space_open(w);
    make_ghosts(w);
    sim_disk_limit(e->disk, 1);
    if (e->seed % 2 == 0) {
        ash_table_close(w->t);
        ash_rc rc = ash_table_drop(w->s, "t");
        must(rc == ASH_OK, "%s", ash_error_last()->message);
        must_ok(ash_table_create(w->s, "u", NULL));
        must_ok(ash_table_open(w->s, "u", &w->t));
    }
    must_ok(ash_commit(w->other)); /* now it can all go */
    task_sleep_ns(15000000000u);
    check_all(w);
    sim_disk_limit(e->disk, 0);
    goes_on(w);
    db_env_verify(w->db);
    must_ok(space_close(w));
}

/* Goal: purge and the freeing of dropped tables wait for space as well, as nobody can refuse them. */
START_TEST(cleaning_up_waits_for_space)
{
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct space *w = calloc(1, sizeof(*w));
        struct db_env e = {
            .kind = IO_BACKEND_SIM, .seed = test_seed(seed), .name = "ghosts", .arg = w
        };
        w->options = "cache=64MiB,wal_buffer=1MiB,wal_segment=64KiB,wal_limit=64MiB";
        w->acked = 1;
        must_ok(db_env_run(&e, body_ghosts));
        must(w->acked != 1, "the body has not run");
        free(w);
    }
}
END_TEST

/* ---- A large checkpoint ---- */

#define GARBAGE_VALUES 3000u /* pages that wait to be freed: 24 bytes each in a checkpoint */

static void
body_large_checkpoint(struct db_env *e)
{
    static uint8_t value[2000]; /* too long for a leaf */
    struct space *w = e->arg;

    w->env = e;
    w->acked = 0;
    space_open(w);
    must_ok(ash_begin(w->other, NULL)); /* whose snapshot keeps the values replaced below */
    must(!row_is_there(w, w->other, 0), "row 0");
    must_ok(ash_session_durability(w->s, ASH_DURABILITY_NONE));
    for (unsigned i = 0; i < GARBAGE_VALUES; i++)
        must_ok(ash_put(w->s, w->t, slice_str("other"), ash_slice(value, sizeof(value))));
    must_ok(ash_session_durability(w->s, ASH_DURABILITY_SYNC));
    if (e->seed % 2 == 0) /* else the buffer is full of what nobody waits for */
        must_ok(put_row(w, w->acked++));
    sim_disk_limit(e->disk, 1);
    fill(w);
    task_sleep_ns(60000000000u);
    sim_disk_limit(e->disk, 0);
    must_ok(ash_commit(w->other));
    goes_on(w);
    db_env_verify(w->db);
    must_ok(space_close(w));
}

/* Goal: checkpoints and page writers do not append again and again what does not fit. */
START_TEST(checkpoints_wait_for_space)
{
    for (uint64_t seed = 1; seed <= 2; seed++) {
        struct space *w = calloc(1, sizeof(*w));
        struct db_env e = {
            .kind = IO_BACKEND_SIM, .seed = test_seed(seed), .name = "large checkpoint", .arg = w
        };
        w->options = "cache=32MiB,wal_buffer=1MiB,wal_segment=64KiB,wal_limit=64MiB,executors=1";
        w->background = true;
        w->acked = 1;
        must_ok(db_env_run(&e, body_large_checkpoint));
        must(w->acked != 1, "the body has not run");
        free(w);
    }
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("space");
    TCase *c = tcase_create("all");

    tcase_set_timeout(c, 300);
    tcase_add_test(c, writes_go_on_when_there_is_space_again);
    tcase_add_test(c, writes_go_on_beside_the_checkpointer);
    tcase_add_test(c, a_refused_commit_is_rolled_back);
    tcase_add_test(c, a_log_on_a_full_disk_makes_room_for_itself);
    tcase_add_test(c, a_full_log_has_room_when_its_reader_ends);
    tcase_add_test(c, undo_waits_for_space);
    tcase_add_test(c, cleaning_up_waits_for_space);
    tcase_add_test(c, checkpoints_wait_for_space);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
