/* SPDX-License-Identifier: Apache-2.0
 *
 * test_btree_large.c - the largest values and leaves in a small cache: nobody keeps frames
 * while waiting for those that others keep.
 */
#include "tests/btree/btree_env.h"

#define WRITERS 8u

struct crowd {
    struct rig rig;
    struct btree bt;
    uint64_t cache;
    unsigned steps;
    uint8_t leaf_class;
};

struct writer {
    struct crowd *crowd;
    unsigned number;
    ash_rc rc;
    char message[512];
};

static struct ash_slice
large_key(unsigned number, unsigned step, uint8_t buf[8])
{
    put_be32(buf, number);
    put_be32(buf + 4, step);
    return ash_slice(buf, 8);
}

/* Up to the largest there is; the first of each writer is just that. */
static uint32_t
large_size(unsigned number, unsigned step)
{
    uint32_t less = (uint32_t)(hash_u64(number * 1000 + step) % 200000);
    return step == 0 ? ASH_VALUE_SIZE_MAX : ASH_VALUE_SIZE_MAX - less;
}

static void
write_large(void *arg)
{
    struct writer *w = arg;
    struct crowd *c = w->crowd;
    struct txn *t = rig_txn(&c->rig);
    uint8_t key[8], *value = mem_alloc(MEM_TEST, ASH_VALUE_SIZE_MAX);
    struct random rnd;
    random_init(&rnd, w->number);
    memset(value, (int)w->number, ASH_VALUE_SIZE_MAX);
    for (unsigned i = 0; i < c->steps && w->rc == ASH_OK; i++) {
        rig_begin(t);
        w->rc = btree_write(&c->bt, t, BTREE_PUT, large_key(w->number, i, key),
                            ash_slice(value, large_size(w->number, i)));
        if (w->rc != ASH_OK)
            snprintf(w->message, sizeof(w->message), "%s", err_current()->message);
        if (w->rc != ASH_OK || random_chance(&rnd, 1, 4)) {
            ck_ok(txn_rollback(t));
            i -= w->rc == ASH_OK; /* again */
        } else {
            ck_ok(txn_commit(t, false, NULL));
        }
    }
    mem_free(MEM_TEST, value);
    txn_detach(t);
}

static void
check_values(struct crowd *c, struct txn *t)
{
    struct btree_buf v = { NULL, 0, 0 };
    uint8_t key[8];
    rig_begin(t);
    for (unsigned w = 0; w < WRITERS; w++)
        for (unsigned i = 0; i < c->steps; i++) {
            v.size = 0;
            ck_ok(btree_get(&c->bt, t, large_key(w, i, key), &v));
            ck_assert_uint_eq(v.size, large_size(w, i));
            ck_assert(v.data[0] == w && v.data[v.size - 1] == w);
        }
    ck_ok(txn_rollback(t));
    btree_buf_free(&v);
}

static struct crowd *crowd_now;

static void
crowd_run(struct env *e)
{
    struct crowd *c = crowd_now;
    struct writer w[WRITERS];
    struct task *task[WRITERS];
    rig_open(&c->rig, e, c->cache);
    rig_tree(&c->rig, &c->bt, 5, c->leaf_class);
    struct txn *t = rig_txn(&c->rig);
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){ .crowd = c, .number = i };
        ck_ok(task_spawn(e->rt, "writer", write_large, &w[i], &task[i]));
    }
    for (unsigned i = 0; i < WRITERS; i++)
        task_join(task[i]);
    for (unsigned i = 0; i < WRITERS; i++)
        ck_assert_msg(w[i].rc == ASH_OK, "writer %u: %s: %s", i, ash_rc_name(w[i].rc),
                      w[i].message);
    check_values(c, t);
    txn_detach(t);
    rig_close(&c->rig);
}

static void
run_crowd(uint64_t cache, uint8_t leaf_class, unsigned steps, enum io_backend_kind kind,
          uint64_t seed)
{
    struct crowd c = { .cache = cache, .leaf_class = leaf_class, .steps = steps };
    struct env e = { .kind = kind, .seed = seed };
    crowd_now = &c;
    ash_rc rc = env_run(&e, crowd_run);
    ck_assert_msg(rc == ASH_OK, "seed %llu: %s", (unsigned long long)seed, err_current()->message);
}

static const uint64_t caches[] = { 4u << 20, 6u << 20, 8u << 20 };

START_TEST(many_large_values_at_once_fit_a_small_cache)
{
    for (uint64_t s = 1; s <= test_scale(3, 20); s++)
        run_crowd(caches[_i], s % 2 == 0 ? 2 : 0, 2, IO_BACKEND_SIM, test_seed(s));
}
END_TEST

START_TEST(many_large_values_at_once_fit_a_small_cache_on_threads)
{
    run_crowd(caches[_i], 0, 4, IO_BACKEND_THREADS, test_seed(1));
}
END_TEST

/* ---- Dropping a tree of large leaves ---- */

static void
drop_run(struct env *e)
{
    struct crowd *c = crowd_now;
    struct ash_table_stat stat;
    uint8_t key[8], *value = mem_zalloc(MEM_TEST, 16000);
    rig_open(&c->rig, e, c->cache);
    rig_tree(&c->rig, &c->bt, 5, c->leaf_class);
    struct txn *t = rig_txn(&c->rig);
    for (unsigned i = 0; i < 800; i++) {
        rig_begin(t);
        ck_ok(btree_write(&c->bt, t, BTREE_PUT, large_key(1, i, key), ash_slice(value, 16000)));
        ck_ok(txn_commit(t, false, NULL));
    }
    ck_ok(btree_stat(&c->bt, &stat));
    ck_assert_uint_gt(stat.leaf_pages * PAGE_CLASS_SIZE((uint32_t)c->leaf_class), c->cache);
    txn_detach(t);
    ck_ok(btree_destroy(&c->rig.env, 5, c->bt.root));
    for (uint64_t p = PAGE_ID_FIRST; p < pstore_page_high(c->rig.ps); p++)
        ck_assert(!pstore_page_allocated(c->rig.ps, p));
    mem_free(MEM_TEST, value);
    rig_close(&c->rig);
}

START_TEST(a_tree_of_large_leaves_is_dropped_in_a_small_cache)
{
    struct crowd c = { .cache = 4u << 20, .leaf_class = (uint8_t)(5 + _i) };
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(1) };
    crowd_now = &c;
    ash_rc rc = env_run(&e, drop_run);
    ck_assert_msg(rc == ASH_OK, "%s", err_current()->message);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("btree large");
    TCase *t = tcase_create("large");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, many_large_values_at_once_fit_a_small_cache, 0, 3);
    tcase_add_loop_test(t, many_large_values_at_once_fit_a_small_cache_on_threads, 0, 3);
    tcase_add_loop_test(t, a_tree_of_large_leaves_is_dropped_in_a_small_cache, 0, 2);
    suite_add_tcase(s, t);
    return s;
}
TEST_MAIN(suite)
