/* SPDX-License-Identifier: Apache-2.0
 *
 * test_verify.c - ash_verify() while the database is in use.
 */
#include "tests/api/db_env.h"

#define ROWS 300u

struct user {
    ash_db *db;
    ash_table *table;
    _Atomic bool stop;
    unsigned checkpoints;
    struct task *task;
};

static void
put(ash_session *s, ash_table *t, unsigned row, unsigned version)
{
    char key[16], value[100];

    snprintf(key, sizeof(key), "row%04u", row);
    memset(value, (int)('a' + version % 26), sizeof(value));
    must_ok(ash_put(s, t, slice_str(key), ash_slice(value, sizeof(value))));
}

static void
user_main(void *arg)
{
    struct user *u = arg;
    ash_session *s;

    must_ok(ash_session_open(u->db, &s));
    for (unsigned i = 0; !atomic_load(&u->stop); i++) {
        put(s, u->table, i * 7 % ROWS, i);
        if (i % 2 == 1) {
            must_ok(ash_checkpoint(u->db));
            u->checkpoints++;
        }
    }
    ash_session_close(s);
}

static void
body(struct db_env *e)
{
    struct user u = { .db = db_env_open(e, DB_ENV_TINY, /* quiet= */ false) };
    ash_session *s;

    must_ok(ash_session_open(u.db, &s));
    must_ok(ash_table_create(s, "t", NULL));
    must_ok(ash_table_open(s, "t", &u.table));
    for (unsigned i = 0; i < ROWS; i++)
        put(s, u.table, i, 0);
    must_ok(task_spawn(e->rt, "user", user_main, &u, &u.task));
    for (unsigned i = 1; i <= 12; i++) { /* the i-th read takes as long as many checkpoints */
        sim_disk_fault(e->disk,
                       &(struct sim_fault){ .kind = SIM_FAULT_DELAY,
                                            .op = IO_OP_READ,
                                            .nth = sim_disk_requests(e->disk, IO_OP_READ) + i,
                                            .delta = 100000000 });
        db_env_verify(u.db);
        sim_disk_fault(e->disk, NULL);
    }
    atomic_store(&u.stop, true);
    task_join(u.task);
    must(u.checkpoints > 5, "%u checkpoints", u.checkpoints);
    ash_table_close(u.table);
    ash_session_close(s);
    must_ok(ash_close(u.db));
}

/* Goal: checkpoints that replace superblock, map and log while they are verified are no damage.
 * Rows change, but no page changes its owner: that needs a quiet database. */
START_TEST(checkpoints_do_not_look_like_damage)
{
    for (uint64_t seed = 1; seed <= test_scale(10, 300); seed++) {
        struct db_env e = { .kind = IO_BACKEND_SIM, .seed = seed, .name = "verify" };
        ck_assert(sim_disk_create(seed, &e.disk) == ASH_OK);
        sim_disk_latency(e.disk, 1000, 300000);
        ck_assert(db_env_run(&e, body) == ASH_OK);
        ck_assert_uint_eq(e.leaked, 0);
        sim_disk_destroy(e.disk);
    }
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("api/verify");
    TCase *c = tcase_create("verify");
    tcase_add_test(c, checkpoints_do_not_look_like_damage);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
