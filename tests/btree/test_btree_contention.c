/* SPDX-License-Identifier: Apache-2.0
 *
 * test_btree_contention.c - leaves that writers of different rows fight for are split between
 * those rows, others are not, and the halves find together again.
 *
 * In simulation: tasks update rows of one leaf without pause, and another one holds its latch now and
 * then, so that they collide whatever the scheduler does.
 */
#include "tests/btree/btree_env.h"

#define ROWS    30u
#define WRITERS 3u

struct arena {
    struct rig rig;
    struct btree bt;
    uint64_t seed;
    uint32_t hot[WRITERS]; /* the row of each writer; equal ones exclude each other by row locks */
    unsigned steps;
    uint64_t until;    /* so many splits were made */
    uint64_t pause_ns; /* between two changes of one writer */
    bool by_turns;     /* writers insert ascending rows instead */
    uint32_t next;
    unsigned writers;
    _Atomic bool stop;
    void (*then)(struct arena *a, struct txn *t);
};

struct writer {
    struct arena *arena;
    unsigned number;
};

static struct ash_slice
row_key(uint32_t n, uint8_t buf[8])
{
    memcpy(buf, "row", 4);
    put_be32(buf + 4, n);
    return ash_slice(buf, 8);
}

static uint64_t
leaf_of(struct arena *a, uint32_t row)
{
    struct btree_path path;
    uint8_t key[8];
    ck_ok(btree__descend(&a->bt, row_key(row, key), 0, &path));
    return path.node.page;
}

static void
own_nothing(void *arg, uint64_t page, uint32_t tree)
{
    (void)arg;
    (void)page;
    (void)tree;
}

static void
found(void *arg, uint64_t page, const char *message)
{
    (void)arg;
    ck_abort_msg("page %llu: %s", (unsigned long long)page, message);
}

/* Every row is there once, and the structure is right.  Returns the leaves. */
static uint64_t
check_tree(struct arena *a, struct txn *t, uint64_t rows)
{
    struct btree_verify_ops ops = { NULL, own_nothing, found };
    struct ash_table_stat stat;
    struct btree_cursor *c;
    struct btree_row row;
    uint64_t n = 0;
    ash_rc rc;
    ck_ok(btree_verify(&a->bt, &ops));
    rig_begin(t);
    ck_ok(btree_cursor_open(&a->bt, t, NULL, &c));
    while ((rc = btree_cursor_step(c, true, &row)) == ASH_OK)
        n++;
    ck_rc(rc, ASH_NOT_FOUND);
    btree_cursor_close(c);
    ck_ok(txn_rollback(t));
    ck_assert_uint_eq(n, rows);
    ck_ok(btree_stat(&a->bt, &stat));
    return stat.leaf_pages;
}

static uint64_t
splits(struct arena *a)
{
    struct btree_stats s;
    btree_stats(&a->rig.env, &s);
    return s.contention_splits;
}

static void
write_once(struct arena *a, struct txn *t, uint32_t row, enum btree_write_kind kind, uint32_t fill)
{
    uint8_t key[8], value[60];
    memset(value, (int)fill, sizeof(value));
    rig_begin(t);
    ash_rc rc = btree_write(&a->bt, t, kind, row_key(row, key), ash_slice(value, sizeof(value)));
    ck_assert(rc == ASH_OK || rc == ASH_CONFLICT || rc == ASH_DEADLOCK);
    if (rc == ASH_OK)
        ck_ok(txn_commit(t, false, NULL));
    else
        ck_ok(txn_rollback(t));
}

static void
write_steps(void *arg)
{
    struct writer *w = arg;
    struct arena *a = w->arena;
    struct txn *t = rig_txn(&a->rig);
    for (unsigned i = 0; i < a->steps && (a->until == 0 || splits(a) < a->until); i++) {
        uint32_t row = a->by_turns ? a->next++ : a->hot[w->number];
        write_once(a, t, row, a->by_turns ? BTREE_INSERT : BTREE_UPDATE, i);
        if (a->pause_ns > 0)
            task_sleep_ns(a->pause_ns);
    }
    txn_detach(t);
}

static void
fight(struct arena *a, unsigned writers)
{
    struct writer w[WRITERS];
    struct task *task[WRITERS];
    for (unsigned i = 0; i < writers; i++) {
        w[i] = (struct writer){ a, i };
        ck_ok(task_spawn(a->rig.e->rt, "writer", write_steps, &w[i], &task[i]));
    }
    for (unsigned i = 0; i < writers; i++)
        task_join(task[i]);
}

/* Latches the leaves of the hot rows, or the last one, in turn. */
static void
press(void *arg)
{
    struct arena *a = arg;
    uint8_t key[8];
    for (unsigned i = 0; !a->stop; i++) {
        struct buf_page leaf;
        uint32_t row = a->by_turns ? UINT32_MAX : a->hot[i % a->writers];
        ck_ok(btree__latch_leaf(&a->bt, row_key(row, key), &leaf));
        task_sleep_ns(20000);
        buf_unlatch_x(a->rig.env.pool, &leaf);
        task_sleep_ns(1000);
    }
}

static void
fight_pressed(struct arena *a, unsigned writers)
{
    struct task *task;
    a->stop = false;
    a->writers = writers;
    ck_ok(task_spawn(a->rig.e->rt, "press", press, a, &task));
    fight(a, writers);
    a->stop = true;
    task_join(task);
}

static struct arena *arena_now;

static void
arena_run(struct env *e)
{
    struct arena *a = arena_now;
    rig_open(&a->rig, e, 512u << 10);
    rig_tree(&a->rig, &a->bt, 5, 0);
    struct txn *t = rig_txn(&a->rig);
    for (uint32_t i = 0; i < ROWS; i++)
        write_once(a, t, i, BTREE_INSERT, 0);
    ck_assert_uint_eq(check_tree(a, t, ROWS), 1);
    a->then(a, t);
    txn_detach(t);
    rig_close(&a->rig);
}

static void
run_on(enum io_backend_kind kind, struct arena setting, uint64_t seeds)
{
    for (uint64_t s = 1; s <= seeds; s++) {
        struct env e = { .kind = kind, .seed = test_seed(s) };
        struct arena a = setting;
        a.seed = e.seed;
        arena_now = &a;
        ash_rc rc = env_run(&e, arena_run);
        ck_assert_msg(rc == ASH_OK, "seed %llu: %s", (unsigned long long)e.seed,
                      err_current()->message);
    }
}

static void
run(struct arena setting, uint64_t seeds)
{
    run_on(IO_BACKEND_SIM, setting, seeds);
}

/* ---- What is split, and where ---- */

static void
between_the_rows(struct arena *a, struct txn *t)
{
    fight_pressed(a, 2);
    ck_assert_msg(splits(a) > 0, "seed %llu: no split", (unsigned long long)a->seed);
    ck_assert_uint_ne(leaf_of(a, a->hot[0]), leaf_of(a, a->hot[1]));
    uint64_t leaves = check_tree(a, t, ROWS);
    ck_assert_uint_eq(leaves, 1 + splits(a));
    a->until = 0;
    a->steps = 500;
    /* They don't collide any more; a leaf with one hot row stays whole even if it is fought for. */
    fight(a, 2);
    fight_pressed(a, 2);
    ck_assert_uint_eq(check_tree(a, t, ROWS), leaves);
}

START_TEST(a_leaf_is_split_between_rows_that_are_fought_for)
{
    static const uint32_t rows[][2] = { { 14, 15 }, { 0, 29 }, { 0, 1 }, { 28, 29 }, { 20, 22 } };
    run((struct arena){ .hot = { rows[_i][0], rows[_i][1] },
                        .steps = 20000,
                        .until = 1,
                        .then = between_the_rows },
        test_scale(3, 30));
}
END_TEST

/* Every few collisions count: how many there are in a span of time is the machine's business. */
static void
on_threads(struct arena *a, struct txn *t)
{
    a->rig.env.hot_after = 4;
    fight_pressed(a, 3);
    ck_assert_uint_gt(splits(a), 0);
    ck_assert_uint_eq(check_tree(a, t, ROWS), 1 + splits(a));
}

START_TEST(threads_split_a_leaf_that_they_fight_for)
{
    run_on(IO_BACKEND_THREADS,
           (struct arena){ .hot = { 3, 4, 20 }, .steps = 100000, .until = 1, .then = on_threads },
           1);
}
END_TEST

static void
each_on_its_own(struct arena *a, struct txn *t)
{
    fight_pressed(a, 3);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_uint_ne(leaf_of(a, a->hot[i]), leaf_of(a, a->hot[(i + 1) % 3]));
    ck_assert_uint_eq(splits(a), 2);
    check_tree(a, t, ROWS);
}

START_TEST(three_hot_rows_get_a_leaf_each)
{
    run((struct arena){ .hot = { 7, 8, 9 }, .steps = 20000, .until = 2, .then = each_on_its_own },
        test_scale(3, 30));
}
END_TEST

static void
never(struct arena *a, struct txn *t)
{
    fight_pressed(a, 3);
    ck_assert_msg(splits(a) == 0, "seed %llu: %llu splits", (unsigned long long)a->seed,
                  (unsigned long long)splits(a));
    check_tree(a, t, ROWS + (a->by_turns ? 3 * a->steps : 0));
}

START_TEST(one_hot_row_is_never_split_off)
{
    run((struct arena){ .hot = { 12, 12, 12 }, .steps = 500, .then = never }, test_scale(3, 30));
}
END_TEST

START_TEST(rare_collisions_split_nothing)
{
    run((struct arena){ .hot = { 7, 15, 20 }, .steps = 300, .pause_ns = 10000000, .then = never },
        test_scale(2, 10));
}
END_TEST

START_TEST(ascending_inserts_leave_full_leaves)
{
    run((struct arena){ .by_turns = true, .next = ROWS, .steps = 1000, .then = never },
        test_scale(2, 10));
}
END_TEST

/* ---- Splits and merges ---- */

/* The purge task is woken by the end of a transaction. */
static void
let_purge(struct arena *a, struct txn *t)
{
    write_once(a, t, a->hot[0], BTREE_UPDATE, 1);
    task_sleep_ns(20000000);
}

static void
merged_later(struct arena *a, struct txn *t)
{
    fight_pressed(a, 2);
    ck_assert_uint_eq(splits(a), 1);
    uint64_t left = leaf_of(a, a->hot[0]);
    ck_assert_uint_ne(left, leaf_of(a, a->hot[1]));
    /* Both halves are nearly empty now, but they were split a moment ago. */
    for (uint32_t i = 0; i < ROWS; i++)
        if (i != a->hot[0] && i != a->hot[1] && i != 1 && i != ROWS - 2)
            write_once(a, t, i, BTREE_DELETE, 0);
    for (unsigned i = 0; i < 20; i++)
        let_purge(a, t);
    ck_assert_uint_eq(check_tree(a, t, 4), 2);
    /* When that is over, the next purge merges them. */
    task_sleep_ns(3000000000);
    write_once(a, t, 1, BTREE_DELETE, 0);
    write_once(a, t, ROWS - 2, BTREE_DELETE, 0);
    for (unsigned i = 0; i < 20; i++)
        let_purge(a, t);
    ck_assert_uint_eq(check_tree(a, t, 2), 1);
    ck_assert_uint_eq(leaf_of(a, a->hot[0]), leaf_of(a, a->hot[1]));
    /* And when it comes back, so does the split. */
    a->until = 2;
    fight_pressed(a, 2);
    ck_assert_uint_eq(splits(a), 2);
    check_tree(a, t, 2);
}

START_TEST(halves_are_merged_when_the_fight_is_over_and_not_before)
{
    run((struct arena){ .hot = { 14, 15 }, .steps = 20000, .until = 1, .then = merged_later },
        test_scale(3, 30));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("btree contention");
    TCase *t = tcase_create("contention");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, a_leaf_is_split_between_rows_that_are_fought_for, 0, 5);
    tcase_add_test(t, threads_split_a_leaf_that_they_fight_for);
    tcase_add_test(t, three_hot_rows_get_a_leaf_each);
    tcase_add_test(t, one_hot_row_is_never_split_off);
    tcase_add_test(t, rare_collisions_split_nothing);
    tcase_add_test(t, ascending_inserts_leave_full_leaves);
    tcase_add_test(t, halves_are_merged_when_the_fight_is_over_and_not_before);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
