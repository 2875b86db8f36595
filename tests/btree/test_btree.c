/* SPDX-License-Identifier: Apache-2.0
 *
 * test_btree.c - trees with transactions on top of the real pool, log and page store.
 */
#include "tests/btree/btree_env.h"

static struct ash_slice
num_key(uint64_t n, uint8_t buf[8])
{
    put_be64(buf, n);
    return ash_slice(buf, 8);
}

static void
smoke(struct env *e)
{
    struct rig r;
    struct btree bt;
    rig_open(&r, e, 1u << 20);
    rig_tree(&r, &bt, 5, 0);
    struct txn *t = rig_txn(&r);
    uint8_t k[8];
    struct btree_buf v = { NULL, 0, 0 };
    for (uint64_t i = 0; i < 5000; i++) {
        uint64_t n = hash_u64(i + 1) % 100000;
        rig_begin(t);
        ck_ok(btree_write(&bt, t, BTREE_PUT, num_key(n, k), ash_slice(&n, 8)));
        ck_ok(txn_commit(t, false, NULL));
    }
    rig_begin(t);
    for (uint64_t i = 0; i < 5000; i++) {
        uint64_t n = hash_u64(i + 1) % 100000;
        ck_ok(btree_get(&bt, t, num_key(n, k), &v));
        ck_assert_uint_eq(v.size, 8);
        ck_assert(memcmp(v.data, &n, 8) == 0);
    }
    ck_ok(txn_rollback(t));
    btree_buf_free(&v);
    txn_detach(t);
    rig_close(&r);
}

START_TEST(smoke_sim)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(7) };
    ck_ok(env_run(&e, smoke));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("btree");
    TCase *t = tcase_create("tree");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, smoke_sim);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
