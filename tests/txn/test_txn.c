/* SPDX-License-Identifier: Apache-2.0
 *
 * test_txn.c - what one transaction sees and waits for while another one runs: snapshots, first
 * updater wins, row locks, deadlocks, time-outs, savepoints, versions that are gone.  Everything in
 * simulation, most of it under many schedules.
 */
#include "base/clock.h"

#include "tests/api/db_env.h"

#define SEEDS 40u

struct world {
    struct db_env *env;
    ash_db *db;
    ash_session *a, *b, *c;
    ash_table *t;
    struct random random;
    void (*fn)(struct world *w);
    const char *options;
};

static struct ash_slice
get(ash_session *s, ash_table *t, const char *key)
{
    struct ash_slice v;

    must_ok(ash_get(s, t, slice_str(key), &v));
    return v;
}

static bool
is(struct ash_slice v, const char *text)
{
    return v.size == strlen(text) && memcmp(v.data, text, v.size) == 0;
}

static ash_rc
put(ash_session *s, ash_table *t, const char *key, const char *value)
{
    return ash_put(s, t, slice_str(key), slice_str(value));
}

static void
begin(ash_session *s, enum ash_isolation isolation, uint32_t lock_timeout_ms)
{
    struct ash_txn_options o = { .isolation = isolation, .lock_timeout_ms = lock_timeout_ms };

    must_ok(ash_begin(s, &o));
}

static void
world_body(struct db_env *e)
{
    struct world w = { .env = e };
    struct world *given = e->arg;

    random_init(&w.random, e->seed);
    w.db = db_env_open(e, given->options != NULL ? given->options : DB_ENV_TINY, /* quiet= */ true);
    must_ok(ash_session_open(w.db, &w.a));
    must_ok(ash_session_open(w.db, &w.b));
    must_ok(ash_session_open(w.db, &w.c));
    must_ok(ash_table_create(w.a, "t", NULL));
    must_ok(ash_table_open(w.a, "t", &w.t));
    for (char key[2] = "a"; key[0] <= 'h'; key[0]++)
        must_ok(put(w.a, w.t, key, "0"));
    given->fn(&w);
    ash_session_close(w.a);
    ash_session_close(w.b);
    ash_session_close(w.c);
    db_env_verify(w.db);
    ash_table_close(w.t);
    must_ok(ash_close(w.db));
}

static void
run(void (*fn)(struct world *w), const char *name, uint64_t seeds, const char *options)
{
    uint64_t first = test_seed(1);

    for (uint64_t seed = first; seed < first + seeds; seed++) {
        struct world w = { .fn = fn, .options = options };
        struct db_env e = { .kind = IO_BACKEND_SIM, .seed = seed, .name = name, .arg = &w };
        must_ok(db_env_run(&e, world_body));
        must(e.leaked == 0, "%llu bytes leaked", (unsigned long long)e.leaked);
    }
}
#define RUN(fn, seeds) run(fn, #fn, seeds, NULL)

/* Two or three tasks, each a transaction that writes its rows in order. */
struct walker {
    struct world *w;
    ash_session *s;
    const char *rows; /* one letter each */
    bool lock;        /* get_for_update instead of put */
    uint32_t timeout_ms;
    ash_rc rc; /* of the first call that failed */
    uint64_t waited_ns;
};

static void
walk(void *arg)
{
    struct walker *k = arg;
    struct ash_slice v;

    begin(k->s, ASH_READ_COMMITTED, k->timeout_ms);
    for (const char *r = k->rows; *r != '\0' && k->rc == ASH_OK; r++) {
        char key[2] = { *r, '\0' };
        uint64_t start = clock_ns();
        k->rc = k->lock ? ash_get_for_update(k->s, k->w->t, slice_str(key), ASH_LOCK_WAIT, &v)
                        : put(k->s, k->w->t, key, k->rows);
        k->waited_ns = clock_ns() - start;
        task_sleep_ns(1000000); /* so that the others get their first row */
    }
    if (k->rc == ASH_OK)
        must_ok(ash_commit(k->s));
    else
        must_ok(ash_rollback(k->s));
}

static void
walk_all(struct world *w, struct walker *k, unsigned count)
{
    struct task *task[3];

    for (unsigned i = 0; i < count; i++) {
        k[i].w = w;
        must_ok(task_spawn(w->env->rt, "walker", walk, &k[i], &task[i]));
    }
    for (unsigned i = 0; i < count; i++)
        task_join(task[i]);
}

/* ---- Deadlocks ---- */

static void
check_deadlock(struct walker *k, unsigned count)
{
    unsigned deadlocks = 0, good = 0;

    for (unsigned i = 0; i < count; i++) {
        deadlocks += k[i].rc == ASH_DEADLOCK;
        good += k[i].rc == ASH_OK;
        must(k[i].rc == ASH_OK || k[i].rc == ASH_DEADLOCK, "walker %u: %s", i,
             ash_rc_name(k[i].rc));
        must(k[i].waited_ns < 5000000000ull, "it waited for the time-out");
    }
    must(deadlocks == 1 && good == count - 1, "%u deadlocks, %u good", deadlocks, good);
}

static void
deadlock_two(struct world *w)
{
    struct walker k[2] = { { .s = w->a, .rows = "ab" }, { .s = w->b, .rows = "ba" } };

    walk_all(w, k, 2);
    check_deadlock(k, 2);
    const char *winner = k[0].rc == ASH_OK ? "ab" : "ba";
    must(is(get(w->c, w->t, "a"), winner) && is(get(w->c, w->t, "b"), winner), "the winner's rows");
}

static void
deadlock_three(struct world *w)
{
    struct walker k[3] = { { .s = w->a, .rows = "ab" },
                           { .s = w->b, .rows = "bc" },
                           { .s = w->c, .rows = "ca" } };

    walk_all(w, k, 3);
    check_deadlock(k, 3);
}

static void
deadlock_explicit(struct world *w)
{
    struct walker k[2] = { { .s = w->a, .rows = "ab", .lock = true },
                           { .s = w->b, .rows = "ba", .lock = random_chance(&w->random, 1, 2) } };

    walk_all(w, k, 2);
    check_deadlock(k, 2);
}

static void
no_deadlock_in_order(struct world *w)
{
    struct walker k[3] = { { .s = w->a, .rows = "abcd" },
                           { .s = w->b, .rows = "abd" },
                           { .s = w->c, .rows = "bcd", .lock = true } };

    walk_all(w, k, 3);
    for (unsigned i = 0; i < 3; i++)
        must(k[i].rc == ASH_OK, "walker %u: %s", i, ash_rc_name(k[i].rc));
}

START_TEST(a_cycle_of_two_costs_one_of_them_its_transaction)
{
    RUN(deadlock_two, SEEDS);
}
END_TEST
START_TEST(a_cycle_of_three_costs_one_of_them_its_transaction)
{
    RUN(deadlock_three, SEEDS);
}
END_TEST
START_TEST(explicit_locks_take_part_in_cycles)
{
    RUN(deadlock_explicit, SEEDS);
}
END_TEST
START_TEST(locking_in_one_order_never_deadlocks)
{
    RUN(no_deadlock_in_order, SEEDS);
}
END_TEST

/* ---- Locks ---- */

static void
lock_timeout(struct world *w)
{
    begin(w->a, ASH_SNAPSHOT, 0);
    must_ok(put(w->a, w->t, "a", "1"));
    begin(w->b, ASH_SNAPSHOT, 50);
    uint64_t start = clock_ns();
    must_rc(put(w->b, w->t, "a", "2"), ASH_LOCK_TIMEOUT);
    uint64_t took = clock_ns() - start;
    must(took >= 50000000 && took < 1000000000, "waited %llu ns", (unsigned long long)took);
    must(strstr(ash_error_last()->message, "Waited 50 ms") != NULL,
         "the message says what happened: %s", ash_error_last()->message);
    must_ok(put(w->b, w->t, "b", "2")); /* still usable */
    must_ok(ash_commit(w->a));
    must_ok(ash_commit(w->b));
    must(is(get(w->c, w->t, "a"), "1") && is(get(w->c, w->t, "b"), "2"), "both committed");
}

static void
explicit_locks(struct world *w)
{
    struct ash_slice v;

    begin(w->a, ASH_SNAPSHOT, 0);
    must_ok(ash_get_for_update(w->a, w->t, slice_str("a"), ASH_LOCK_WAIT, &v));
    must(is(v, "0"), "value");
    begin(w->b, ASH_SNAPSHOT, 20);
    must_rc(put(w->b, w->t, "a", "2"), ASH_LOCK_TIMEOUT);
    must_rc(ash_delete(w->b, w->t, slice_str("a")), ASH_LOCK_TIMEOUT);
    must_rc(ash_update(w->b, w->t, slice_str("a"), slice_str("2")), ASH_LOCK_TIMEOUT);
    must_rc(ash_get_for_update(w->b, w->t, slice_str("a"), ASH_LOCK_WAIT, &v), ASH_LOCK_TIMEOUT);
    must_rc(ash_get_for_update(w->b, w->t, slice_str("a"), ASH_LOCK_NOWAIT, &v), ASH_WOULD_BLOCK);
    must(is(get(w->b, w->t, "a"), "0"), "plain reads do not wait");
    must_ok(put(w->b, w->t, "b", "2"));
    must_rc(ash_get_for_update(w->a, w->t, slice_str("b"), ASH_LOCK_NOWAIT, &v), ASH_WOULD_BLOCK);
    must_ok(put(w->a, w->t, "a", "1")); /* its own lock is no obstacle */
    must_ok(ash_commit(w->a));
    must_rc(put(w->b, w->t, "a", "2"), ASH_CONFLICT); /* a committed after b's snapshot */
    must_ok(ash_rollback(w->b));
    begin(w->b, ASH_SNAPSHOT, 20);
    must_ok(ash_get_for_update(w->b, w->t, slice_str("a"), ASH_LOCK_WAIT, &v));
    must(is(v, "1"), "value after commit");
    must_ok(ash_commit(w->b));
    must_rc(ash_get_for_update(w->b, w->t, slice_str("a"), ASH_LOCK_WAIT, &v),
            ASH_MISUSE); /* needs a transaction */
}

static void
lock_released(struct world *w)
{
    struct ash_slice v;

    begin(w->a, ASH_SNAPSHOT, 0);
    must_ok(ash_get_for_update(w->a, w->t, slice_str("a"), ASH_LOCK_WAIT, &v));
    must_ok(ash_rollback(w->a));
    must_ok(put(w->b, w->t, "a", "2"));
    begin(w->a, ASH_SNAPSHOT, 20);
    must_rc(ash_get_for_update(w->a, w->t, slice_str("nothing"), ASH_LOCK_WAIT, &v),
            ASH_NOT_FOUND); /* locks nothing */
    must_ok(put(w->b, w->t, "nothing", "2"));
    must_ok(ash_rollback(w->a));
}

START_TEST(waiting_for_a_row_ends_at_the_time_out)
{
    RUN(lock_timeout, SEEDS);
}
END_TEST
START_TEST(an_explicit_lock_keeps_writers_out)
{
    RUN(explicit_locks, SEEDS);
}
END_TEST
START_TEST(locks_end_with_their_transaction)
{
    RUN(lock_released, SEEDS);
}
END_TEST

/* ---- Snapshots and conflicts ---- */

static void
snapshot_is_kept(struct world *w)
{
    begin(w->a, ASH_SNAPSHOT, 0);
    must(is(get(w->a, w->t, "a"), "0"), "before");
    must_ok(put(w->b, w->t, "a", "1"));
    must_ok(put(w->b, w->t, "new", "1"));
    must_ok(ash_delete(w->b, w->t, slice_str("c")));
    struct ash_slice v;
    must(is(get(w->a, w->t, "a"), "0"), "the snapshot's value");
    must(is(get(w->a, w->t, "c"), "0"), "deleted after the snapshot");
    must_rc(ash_get(w->a, w->t, slice_str("new"), &v), ASH_NOT_FOUND);
    must(is(get(w->b, w->t, "a"), "1"), "the newest value");
    must_ok(ash_commit(w->a));
    must(is(get(w->a, w->t, "a"), "1"), "a new snapshot");
}

static void
first_updater_wins(struct world *w)
{
    begin(w->a, ASH_SNAPSHOT, 0);
    begin(w->b, ASH_SNAPSHOT, 0);
    must_ok(put(w->a, w->t, "a", "1"));
    must_ok(ash_commit(w->a));
    must_rc(put(w->b, w->t, "a", "2"), ASH_CONFLICT);
    must_rc(ash_delete(w->b, w->t, slice_str("a")), ASH_CONFLICT);
    must(is(get(w->b, w->t, "a"), "0"), "still its snapshot");
    must_ok(put(w->b, w->t, "b", "2")); /* the transaction goes on */
    must_ok(ash_commit(w->b));
    must(is(get(w->c, w->t, "a"), "1") && is(get(w->c, w->t, "b"), "2"), "result");
}

struct waiter {
    struct world *w;
    ash_rc rc;
    bool done;
};

static void
waiter_main(void *arg)
{
    struct waiter *x = arg;

    x->rc = put(x->w->b, x->w->t, "a", "2");
    x->done = true;
}

/* b waits for a's row; a ends one way or the other. */
static void
wait_for_writer(struct world *w)
{
    struct waiter x = { .w = w };
    struct task *task;
    bool commit = random_chance(&w->random, 1, 2), snapshot = random_chance(&w->random, 1, 2);

    begin(w->a, ASH_SNAPSHOT, 0);
    begin(w->b, snapshot ? ASH_SNAPSHOT : ASH_READ_COMMITTED, 0);
    must_ok(put(w->a, w->t, "a", "1"));
    must_ok(task_spawn(w->env->rt, "waiter", waiter_main, &x, &task));
    task_sleep_ns(1000000);
    must(!x.done, "it must wait");
    if (commit)
        must_ok(ash_commit(w->a));
    else
        must_ok(ash_rollback(w->a));
    task_join(task);
    must(x.rc == (commit && snapshot ? ASH_CONFLICT : ASH_OK), "%s", ash_rc_name(x.rc));
    must_ok(ash_commit(w->b));
    must(is(get(w->c, w->t, "a"), commit && snapshot ? "1" : "2"), "result");
}

static void
read_committed(struct world *w)
{
    begin(w->a, ASH_READ_COMMITTED, 0);
    must(is(get(w->a, w->t, "a"), "0"), "before");
    must_ok(put(w->b, w->t, "a", "1"));
    must(is(get(w->a, w->t, "a"), "1"), "each statement sees what is committed");
    begin(w->b, ASH_SNAPSHOT, 0);
    must_ok(put(w->b, w->t, "b", "9"));
    must(is(get(w->a, w->t, "b"), "0"), "but nothing that is not");
    must_ok(ash_rollback(w->b));
    must_ok(put(w->a, w->t, "a", "2")); /* no conflict */
    must_ok(ash_commit(w->a));
    must(is(get(w->c, w->t, "a"), "2"), "result");
}

static void
own_writes(struct world *w)
{
    struct ash_slice v;
    uint64_t s1, s2;

    begin(w->a, ASH_SNAPSHOT, 0);
    must_ok(put(w->a, w->t, "a", "1"));
    must_ok(ash_savepoint(w->a, &s1));
    must_ok(put(w->a, w->t, "a", "2"));
    must_ok(ash_delete(w->a, w->t, slice_str("b")));
    must_ok(ash_savepoint(w->a, &s2));
    must_ok(ash_insert(w->a, w->t, slice_str("b"), slice_str("3")));
    must_rc(ash_insert(w->a, w->t, slice_str("b"), slice_str("3")), ASH_EXISTS);
    must(is(get(w->a, w->t, "a"), "2") && is(get(w->a, w->t, "b"), "3"), "own writes");
    must_ok(ash_rollback_to(w->a, s2));
    must_rc(ash_get(w->a, w->t, slice_str("b"), &v), ASH_NOT_FOUND);
    must_rc(ash_update(w->a, w->t, slice_str("b"), slice_str("3")), ASH_NOT_FOUND);
    must_ok(ash_rollback_to(w->a, s1));
    must(is(get(w->a, w->t, "a"), "1") && is(get(w->a, w->t, "b"), "0"), "back");
    must_ok(put(w->a, w->t, "c", "4"));
    must_ok(ash_rollback_to(w->a, s1)); /* it stays set */
    must(is(get(w->a, w->t, "c"), "0"), "again");
    must(is(get(w->b, w->t, "a"), "0"), "not committed");
    must_ok(ash_commit(w->a));
    must(is(get(w->b, w->t, "a"), "1") && is(get(w->b, w->t, "b"), "0") &&
             is(get(w->b, w->t, "c"), "0"),
         "result");
}

static void
states(struct world *w)
{
    struct ash_txn_options ro = { .read_only = true };
    uint64_t sp;

    must_rc(ash_commit(w->a), ASH_MISUSE);
    must_rc(ash_rollback(w->a), ASH_MISUSE);
    must_rc(ash_savepoint(w->a, &sp), ASH_MISUSE);
    must_ok(ash_begin(w->a, &ro));
    must_rc(ash_begin(w->a, NULL), ASH_MISUSE);
    must_rc(put(w->a, w->t, "a", "1"), ASH_READ_ONLY);
    must(is(get(w->a, w->t, "a"), "0"), "reads");
    must(ash_in_transaction(w->a), "open");
    must_ok(ash_commit(w->a));
    must(!ash_in_transaction(w->a), "ended");
    ash_session *s;
    must_ok(ash_session_open(w->db, &s));
    must_ok(ash_begin(s, NULL));
    must_ok(put(s, w->t, "a", "1"));
    ash_session_close(s); /* rolls back */
    must(is(get(w->a, w->t, "a"), "0"), "rolled back");
    must_ok(put(w->a, w->t, "a", "2"));
}

START_TEST(a_transaction_keeps_its_snapshot)
{
    RUN(snapshot_is_kept, SEEDS);
}
END_TEST
START_TEST(the_first_updater_wins)
{
    RUN(first_updater_wins, SEEDS);
}
END_TEST
START_TEST(a_writer_waits_for_the_other_and_then_knows)
{
    RUN(wait_for_writer, SEEDS);
}
END_TEST
START_TEST(read_committed_sees_each_commit)
{
    RUN(read_committed, SEEDS);
}
END_TEST
START_TEST(savepoints_undo_what_came_after_them)
{
    RUN(own_writes, SEEDS);
}
END_TEST
START_TEST(calls_in_the_wrong_state_are_refused)
{
    RUN(states, 3);
}
END_TEST

/* ---- Visibility under races: money moves between rows, and every snapshot sees all of it ---- */

#define ACCOUNTS 6
#define MONEY    600

struct mover {
    struct world *w;
    struct random random;
    uint32_t moves;
};

static int
account_read(ash_session *s, ash_table *t, int i, bool *found)
{
    char key[8], text[16];
    struct ash_slice v;

    snprintf(key, sizeof(key), "acc%d", i);
    ash_rc rc = ash_get(s, t, slice_str(key), &v);
    *found = rc == ASH_OK;
    if (rc == ASH_NOT_FOUND)
        return 0;
    must(rc == ASH_OK && v.size < sizeof(text), "%s", ash_rc_name(rc));
    memcpy(text, v.data, v.size);
    text[v.size] = '\0';
    return (int)strtol(text, NULL, 10);
}

static ash_rc
account_write(ash_session *s, ash_table *t, int i, int amount)
{
    char key[8], text[16];

    snprintf(key, sizeof(key), "acc%d", i);
    snprintf(text, sizeof(text), "%d", amount);
    return amount == 0 ? ash_delete(s, t, slice_str(key))
                       : ash_put(s, t, slice_str(key), slice_str(text));
}

static void
mover_main(void *arg)
{
    struct mover *m = arg;
    struct random *r = &m->random;
    ash_session *s;

    must_ok(ash_session_open(m->w->db, &s));
    for (uint32_t n = 0; n < m->moves; n++) {
        int from = (int)random_below(r, ACCOUNTS),
            to = (from + 1 + (int)random_below(r, ACCOUNTS - 1)) % ACCOUNTS;
        bool there;
        begin(s, ASH_SNAPSHOT, 0);
        int have = account_read(s, m->w->t, from, &there),
            other = account_read(s, m->w->t, to, &there);
        int amount = random_chance(r, 1, 4) ? have : (int)random_below(r, (uint64_t)have + 1);
        ash_rc rc = have == 0 || amount == 0 ? ASH_OK
                                             : account_write(s, m->w->t, from, have - amount);
        if (rc == ASH_OK && have != 0 && amount != 0)
            rc = account_write(s, m->w->t, to, other + amount);
        if (rc == ASH_OK && random_chance(r, 4, 5))
            must_ok(ash_commit(s));
        else
            must_ok(ash_rollback(s));
        must(rc == ASH_OK || rc == ASH_CONFLICT || rc == ASH_DEADLOCK, "move: %s: %s",
             ash_rc_name(rc), ash_error_last()->message);
    }
    ash_session_close(s);
}

static void
auditor_main(void *arg)
{
    struct mover *m = arg;
    ash_session *s;

    must_ok(ash_session_open(m->w->db, &s));
    for (uint32_t n = 0; n < m->moves; n++) {
        int sum = 0;
        bool there;
        begin(s, ASH_SNAPSHOT, 0);
        for (int i = 0; i < ACCOUNTS; i++)
            sum += account_read(s, m->w->t, i, &there);
        must(sum == MONEY, "a snapshot sees %d instead of %d", sum, MONEY);
        struct ash_cursor_options o = { .from = slice_str("acc"),
                                        .to = slice_str("acd"),
                                        .reverse = random_chance(&m->random, 1, 2) };
        struct ash_row row;
        ash_cursor *c;
        sum = 0;
        must_ok(ash_cursor_open(s, m->w->t, &o, &c));
        while (ash_cursor_next(c, &row) == ASH_OK) {
            char text[16] = { 0 };
            memcpy(text, row.value.data, row.value.size < 15 ? row.value.size : 15);
            sum += (int)strtol(text, NULL, 10);
        }
        ash_cursor_close(c);
        must(sum == MONEY, "a scan sees %d instead of %d", sum, MONEY);
        must_ok(ash_commit(s));
    }
    ash_session_close(s);
}

static void
money(struct world *w)
{
    struct mover m[4];
    struct task *task[4];

    for (int i = 0; i < ACCOUNTS; i++)
        must_ok(account_write(w->a, w->t, i, MONEY / ACCOUNTS));
    for (uint32_t i = 0; i < 4; i++) {
        m[i] = (struct mover){ .w = w, .moves = 15 };
        random_init(&m[i].random, w->env->seed * 10 + i);
        must_ok(
            task_spawn(w->env->rt, "money", i < 2 ? mover_main : auditor_main, &m[i], &task[i]));
    }
    for (uint32_t i = 0; i < 4; i++)
        task_join(task[i]);
}

START_TEST(every_snapshot_sees_all_the_money)
{
    RUN(money, test_scale(300, 5000));
}
END_TEST

/* ---- Versions that are gone ---- */

static void
too_old(struct world *w)
{
    char value[900];
    struct ash_slice v;

    memset(value, 'x', sizeof(value));
    begin(w->a, ASH_SNAPSHOT, 0);
    must(is(get(w->a, w->t, "a"), "0"), "before");
    must_ok(ash_session_durability(w->b, ASH_DURABILITY_NONE));
    ash_rc rc = ASH_OK;
    for (uint32_t i = 0; i < 8000 && rc == ASH_OK; i++) {
        must_ok(ash_put(w->b, w->t, slice_str("a"), ash_slice(value, sizeof(value))));
        if (i % 100 == 0) {
            must_ok(ash_checkpoint(w->db));
            rc = ash_get(w->a, w->t, slice_str("a"), &v);
            must(rc != ASH_OK || is(v, "0"), "an answer is right or refused");
        }
    }
    must(rc == ASH_SNAPSHOT_TOO_OLD, "%s", ash_rc_name(rc));
    must(strstr(ash_error_last()->message, "wal_version_limit") != NULL,
         "the message names the option");
    must_ok(ash_rollback(w->a));
    must(get(w->a, w->t, "a").size == sizeof(value), "a new snapshot reads");
}

START_TEST(an_old_snapshot_gives_way_when_the_log_would_grow_too_long)
{
    run(too_old, "too_old", 2, DB_ENV_TINY ",wal_version_limit=1MiB");
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("txn");
    TCase *deadlock = tcase_create("deadlocks"), *lock = tcase_create("locks"),
          *snapshot = tcase_create("snapshots");

    tcase_add_test(deadlock, a_cycle_of_two_costs_one_of_them_its_transaction);
    tcase_add_test(deadlock, a_cycle_of_three_costs_one_of_them_its_transaction);
    tcase_add_test(deadlock, explicit_locks_take_part_in_cycles);
    tcase_add_test(deadlock, locking_in_one_order_never_deadlocks);
    tcase_add_test(lock, waiting_for_a_row_ends_at_the_time_out);
    tcase_add_test(lock, an_explicit_lock_keeps_writers_out);
    tcase_add_test(lock, locks_end_with_their_transaction);
    tcase_add_test(snapshot, a_transaction_keeps_its_snapshot);
    tcase_add_test(snapshot, the_first_updater_wins);
    tcase_add_test(snapshot, a_writer_waits_for_the_other_and_then_knows);
    tcase_add_test(snapshot, read_committed_sees_each_commit);
    tcase_add_test(snapshot, savepoints_undo_what_came_after_them);
    tcase_add_test(snapshot, calls_in_the_wrong_state_are_refused);
    tcase_add_test(snapshot, every_snapshot_sees_all_the_money);
    tcase_add_test(snapshot, an_old_snapshot_gives_way_when_the_log_would_grow_too_long);
    tcase_set_timeout(snapshot, (double)test_scale(120, 36000));
    suite_add_tcase(s, deadlock);
    suite_add_tcase(s, lock);
    suite_add_tcase(s, snapshot);
    return s;
}

TEST_MAIN(suite)
