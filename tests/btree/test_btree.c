/* SPDX-License-Identifier: Apache-2.0
 *
 * test_btree.c - trees with transactions, against a model: what each snapshot must see is an array
 * of version numbers.
 *
 * Keys and values follow from numbers, so that the model stays small and a wrong byte is found.
 * Pools are tiny: pages come and go while the tests run.  Most tests run in simulation, where every
 * interleaving is repeated by its seed; some also on threads.
 */
#include "tests/btree/btree_env.h"

#define KEYS 1500u

/* ---- Rows by numbers ---- */

struct shape {
    uint8_t leaf_class;
    uint32_t value_max;    /* typical */
    uint32_t large_max;    /* 0: no large values */
    unsigned large_chance; /* one in so many */
    bool long_keys;
};

/* Distinct, in the order of n, some empty-ish, some long, many with long common prefixes. */
static struct ash_slice
key_of(const struct shape *s, uint32_t n, uint8_t buf[BTREE_KEY_LIMIT])
{
    if (n == 0)
        return ash_slice(buf, 0); /* the empty key */
    uint32_t at = 0;
    if (s->long_keys) {
        memset(buf, 'a' + (int)(n / 300), 700);
        at = 700;
    }
    put_be32(buf + at, n / 3);
    at += 4;
    uint32_t extra = n % 3; /* n, n+1, n+2: a key that is a prefix of the next */
    for (uint32_t i = 0; i < extra * 5; i++)
        buf[at++] = (uint8_t)(i + n / 96);
    if (n % 3 == 2 && hash_u64(n) % 20 == 0)
        while (at < 180)
            buf[at++] = 'z';
    return ash_slice(buf, at);
}

static uint32_t
value_size(const struct shape *s, uint32_t n, uint32_t version)
{
    uint64_t h = hash_u64(((uint64_t)n << 32) + version);
    if (s->large_max != 0 && h % s->large_chance == 0)
        return (uint32_t)(h >> 20) % s->large_max;
    return (uint32_t)(h >> 20) % (s->value_max + 1);
}

static uint8_t *value_bytes; /* room for the largest */

static struct ash_slice
value_of(const struct shape *s, uint32_t n, uint32_t version, uint8_t *buf)
{
    uint32_t size = value_size(s, n, version);
    uint64_t h = hash_u64(((uint64_t)n << 32) + version + 99);
    for (uint32_t i = 0; i < size; i++)
        buf[i] = (uint8_t)(h >> (i % 8 * 8)) ^ (uint8_t)(i / 8);
    return ash_slice(buf, size);
}

static bool
value_is(const struct shape *s, uint32_t n, uint32_t version, struct ash_slice v)
{
    uint32_t size = value_size(s, n, version);
    uint64_t h = hash_u64(((uint64_t)n << 32) + version + 99);
    const uint8_t *p = v.data;
    if (v.size != size)
        return false;
    for (uint32_t i = 0; i < size; i++)
        if (p[i] != ((uint8_t)(h >> (i % 8 * 8)) ^ (uint8_t)(i / 8)))
            return false;
    return true;
}

/* ---- Checking a tree against an array of versions (0: absent) ---- */

static void
check_row(const struct shape *s, const uint32_t *model, uint32_t n, const struct btree_row *row,
          const char *what)
{
    uint8_t key[BTREE_KEY_LIMIT];
    ck_assert_msg(btree__compare(row->key, key_of(s, n, key)) == 0, "%s: row %u expected", what, n);
    ck_assert_msg(value_is(s, n, model[n], row->value),
                  "%s: row %u version %u: wrong value (%zu bytes)", what, n, model[n],
                  row->value.size);
}

static void
check_scan(const struct shape *s, struct btree *bt, struct txn *t, const uint32_t *model,
           bool forward, uint32_t from, uint32_t to, struct random *rnd)
{
    struct btree_cursor *c;
    struct btree_row rows[70];
    uint8_t a[BTREE_KEY_LIMIT], b[BTREE_KEY_LIMIT];
    struct ash_cursor_options o = { .reverse = !forward };
    if (from > 0)
        o.from = key_of(s, from, a);
    if (to < KEYS)
        o.to = key_of(s, to, b);
    ck_ok(btree_cursor_open(bt, t, &o, &c));
    uint32_t n = forward ? from : to - 1, left = to - from;
    for (;;) {
        size_t got = 0;
        ash_rc rc;
        if (random_chance(rnd, 1, 2)) {
            rc = btree_cursor_step(c, forward, &rows[0]);
            got = rc == ASH_OK;
        } else {
            rc = btree_cursor_batch(c, forward, 1 + random_below(rnd, 70), rows, &got);
        }
        if (rc == ASH_NOT_FOUND)
            break;
        ck_ok(rc);
        for (size_t i = 0; i < got; i++) {
            while (left > 0 && model[n] == 0) {
                left--;
                n += forward ? 1u : -1u;
            }
            ck_assert_msg(left > 0, "a row too many");
            check_row(s, model, n, &rows[i], forward ? "forward" : "backward");
            left--;
            n += forward ? 1u : -1u;
        }
    }
    for (; left > 0; left--, n += forward ? 1u : -1u)
        ck_assert_msg(model[n] == 0, "%s scan [%u, %u): row %u is missing",
                      forward ? "forward" : "backward", from, to, n);
    btree_cursor_close(c);
}

static void
check_gets(const struct shape *s, struct btree *bt, struct txn *t, const uint32_t *model,
           struct random *rnd, unsigned count)
{
    struct btree_buf v = { NULL, 0, 0 };
    uint8_t key[BTREE_KEY_LIMIT];
    for (unsigned i = 0; i < count; i++) {
        uint32_t n = (uint32_t)random_below(rnd, KEYS);
        ash_rc rc = btree_get(bt, t, key_of(s, n, key), &v);
        ck_assert_msg(rc == (model[n] != 0 ? ASH_OK : ASH_NOT_FOUND),
                      "get of %u (version %u): %s %s", n, model[n], ash_rc_name(rc),
                      err_current()->message);
        if (rc == ASH_OK)
            ck_assert_msg(value_is(s, n, model[n], ash_slice(v.data, v.size)),
                          "get of %u: wrong value", n);
    }
    btree_buf_free(&v);
}

static void
check_multiget(const struct shape *s, struct btree *bt, struct txn *t, const uint32_t *model,
               struct random *rnd)
{
    static uint8_t keys[100][BTREE_KEY_LIMIT];
    struct ash_slice k[100];
    uint32_t n[100], offset[100], size[100];
    ash_rc rc[100];
    struct btree_buf v = { NULL, 0, 0 };
    size_t count = random_below(rnd, 101);
    for (size_t i = 0; i < count; i++) {
        n[i] = (uint32_t)random_below(rnd, KEYS);
        k[i] = key_of(s, n[i], keys[i]);
    }
    ck_ok(btree_multiget(bt, t, count, k, &v, offset, size, rc));
    for (size_t i = 0; i < count; i++) {
        ck_assert_int_eq(rc[i], model[n[i]] != 0 ? ASH_OK : ASH_NOT_FOUND);
        if (rc[i] == ASH_OK)
            ck_assert(value_is(s, n[i], model[n[i]], ash_slice(v.data + offset[i], size[i])));
    }
    btree_buf_free(&v);
}

/* ---- Verification: structure, and that every page has one owner ---- */

struct owners {
    uint8_t *owned;
    uint64_t high, count;
    unsigned findings;
};

static void
note_owner(void *arg, uint64_t page, uint32_t tree)
{
    struct owners *o = arg;
    (void)tree;
    ck_assert_msg(page < o->high && o->owned[page] == 0,
                  "page %llu is owned twice or never allocated", (unsigned long long)page);
    o->owned[page] = 1;
    o->count++;
}

static void
note_finding(void *arg, uint64_t page, const char *message)
{
    struct owners *o = arg;
    o->findings++;
    fprintf(stderr, "finding: page %llu: %s\n", (unsigned long long)page, message);
}

/* Pages owned by the trees; with `all`, every allocated page must be. */
static uint64_t
verify_trees(struct rig *r, struct btree *bt, unsigned trees, bool all)
{
    struct owners o = { .high = pstore_page_high(r->ps) };
    struct btree_verify_ops ops = { &o, note_owner, note_finding };
    o.owned = mem_zalloc(MEM_TEST, o.high + 1);
    for (unsigned i = 0; i < trees; i++)
        ck_ok(btree_verify(&bt[i], &ops));
    ck_assert_uint_eq(o.findings, 0);
    for (uint64_t p = PAGE_ID_FIRST; all && p < o.high; p++)
        ck_assert_msg(pstore_page_allocated(r->ps, p) == (o.owned[p] != 0),
                      "page %llu: allocated %d, owned %d", (unsigned long long)p,
                      pstore_page_allocated(r->ps, p), o.owned[p]);
    mem_free(MEM_TEST, o.owned);
    return o.count;
}

/* ---- One writer, some snapshots, against the model ---- */

#define SNAPSHOTS 4

struct scenario {
    struct rig rig;
    struct btree bt;
    struct shape shape;
    struct random rnd;
    uint32_t now[KEYS], saved[KEYS], committed[KEYS], version;
    uint32_t old[SNAPSHOTS][KEYS];
    struct txn *t, *reader[SNAPSHOTS];
    unsigned steps;
    uint64_t cache;
    struct btree_cursor *walk; /* a cursor of the writer that stays open */
    uint32_t walk_at;
    bool walking;
};

/* A change by the writer; the model says what must come of it. */
static void
scenario_change(struct scenario *c)
{
    enum btree_write_kind kind = (enum btree_write_kind)(1 + random_below(&c->rnd, 4));
    uint8_t key[BTREE_KEY_LIMIT];
    uint32_t n = (uint32_t)random_below(&c->rnd, KEYS), version = ++c->version;
    struct ash_slice v = value_of(&c->shape, n, version, value_bytes);
    ash_rc rc = btree_write(&c->bt, c->t, kind, key_of(&c->shape, n, key), v), want = ASH_OK;
    bool live = c->now[n] != 0;
    if (kind == BTREE_INSERT && live)
        want = ASH_EXISTS;
    if ((kind == BTREE_UPDATE || kind == BTREE_DELETE) && !live)
        want = ASH_NOT_FOUND;
    ck_assert_msg(rc == want, "write kind %d of %u: %s instead of %s: %s", kind, n, ash_rc_name(rc),
                  ash_rc_name(want), err_current()->message);
    if (rc == ASH_OK)
        c->now[n] = kind == BTREE_DELETE ? 0 : version;
}

/* The cursor that stays open while its transaction changes rows: sees what was changed before each
 * step. */
static void
scenario_walk(struct scenario *c)
{
    for (unsigned i = 0; i < 5; i++) {
        struct btree_row row;
        ash_rc rc = btree_cursor_step(c->walk, true, &row);
        uint32_t n = c->walk_at;
        while (n < KEYS && c->now[n] == 0)
            n++;
        if (rc == ASH_NOT_FOUND) {
            ck_assert_msg(n == KEYS, "the walk ended before row %u", n);
            uint8_t key[BTREE_KEY_LIMIT];
            c->walk_at = (uint32_t)random_below(&c->rnd, KEYS);
            ck_ok(btree_cursor_seek(c->walk, key_of(&c->shape, c->walk_at, key), true));
            return;
        }
        ck_ok(rc);
        ck_assert_msg(n < KEYS, "the walk found a row beyond the end");
        check_row(&c->shape, c->now, n, &row, "walk");
        c->walk_at = n + 1;
    }
}

static void
scenario_transaction(struct scenario *c)
{
    rig_begin(c->t);
    memcpy(c->now, c->committed, sizeof(c->now));
    bool walks = random_chance(&c->rnd, 1, 3);
    if (walks) {
        ck_ok(btree_cursor_open(&c->bt, c->t, NULL, &c->walk));
        c->walk_at = 0;
    }
    uint64_t ops = random_below(&c->rnd, 30), savepoint = 0;
    bool has_savepoint = false;
    for (uint64_t i = 0; i < ops; i++) {
        uint64_t dice = random_below(&c->rnd, 100);
        if (dice < 75) {
            scenario_change(c);
        } else if (dice < 80) {
            savepoint = txn_savepoint(c->t);
            memcpy(c->saved, c->now, sizeof(c->now));
            has_savepoint = true;
        } else if (dice < 85 && has_savepoint) {
            ck_ok(txn_rollback_to(c->t, savepoint));
            memcpy(c->now, c->saved, sizeof(c->now));
        } else if (dice < 90) {
            check_gets(&c->shape, &c->bt, c->t, c->now, &c->rnd, 5);
        } else if (walks) {
            scenario_walk(c);
        }
    }
    if (random_chance(&c->rnd, 1, 20))
        check_scan(&c->shape, &c->bt, c->t, c->now, random_chance(&c->rnd, 1, 2), 0, KEYS, &c->rnd);
    if (walks)
        btree_cursor_close(c->walk);
    if (random_chance(&c->rnd, 3, 4)) {
        ck_ok(txn_commit(c->t, false, NULL));
        memcpy(c->committed, c->now, sizeof(c->now));
    } else {
        ck_ok(txn_rollback(c->t));
    }
}

/* Some reader looks at its own moment, or takes a new one. */
static void
scenario_read(struct scenario *c)
{
    unsigned i = (unsigned)random_below(&c->rnd, SNAPSHOTS);
    struct txn *t = c->reader[i];
    if (!t->open) {
        rig_begin(t);
        memcpy(c->old[i], c->committed, sizeof(c->committed));
    }
    uint32_t from = (uint32_t)random_below(&c->rnd, KEYS),
             to = from + (uint32_t)random_below(&c->rnd, KEYS - from + 1);
    check_gets(&c->shape, &c->bt, t, c->old[i], &c->rnd, 20);
    check_multiget(&c->shape, &c->bt, t, c->old[i], &c->rnd);
    check_scan(&c->shape, &c->bt, t, c->old[i], random_chance(&c->rnd, 1, 2), from, to, &c->rnd);
    if (random_chance(&c->rnd, 1, 4))
        ck_ok(txn_rollback(t));
}

/* In simulation the purge task is woken by the end of a transaction, not by time. */
static void
let_purge(struct txn *t)
{
    rig_begin(t);
    ck_ok(txn_commit(t, false, NULL));
    task_sleep_ns(20000000);
}

static void
print_line(void *arg, const char *text)
{
    (void)arg;
    fprintf(stderr, "%s\n", text);
}

static void
print_tree(struct btree *bt)
{
    for (uint64_t page = 1; page < 2000; page++) {
        struct buf_page p;
        if (!pstore_page_allocated(bt->env->pstore, page) ||
            buf_latch_s(bt->env->pool, page, &p) != ASH_OK)
            continue;
        fprintf(stderr, "page %llu:\n", (unsigned long long)page);
        btree_page_print(p.data, p.size, print_line, NULL);
        buf_unlatch_s(bt->env->pool, &p);
    }
}

/* Everything goes: in the end one leaf is left and no value page. */
static void
scenario_empty(struct scenario *c)
{
    uint8_t key[BTREE_KEY_LIMIT];
    struct ash_table_stat stat;
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        if (c->reader[i]->open)
            ck_ok(txn_rollback(c->reader[i]));
    check_scan(&c->shape, &c->bt, (rig_begin(c->t), c->t), c->committed, true, 0, KEYS, &c->rnd);
    for (uint32_t n = 0; n < KEYS; n++) {
        ash_rc rc =
            btree_write(&c->bt, c->t, BTREE_DELETE, key_of(&c->shape, n, key), ash_slice(NULL, 0));
        ck_assert_int_eq(rc, c->committed[n] != 0 ? ASH_OK : ASH_NOT_FOUND);
        if (n % 100 == 99) { /* one transaction gives a limited number of hints to the purge task */
            ck_ok(txn_commit(c->t, false, NULL));
            rig_begin(c->t);
        }
    }
    ck_ok(txn_commit(c->t, false, NULL));
    for (unsigned i = 0; i < 400; i++) { /* the purge task follows the horizon */
        ck_ok(btree_stat(&c->bt, &stat));
        if (stat.leaf_pages == 1 && stat.height == 2 && stat.large_value_pages == 0 &&
            stat.rows_estimate == 0 && verify_trees(&c->rig, &c->bt, 1, false) == 2)
            break;
        let_purge(c->t);
    }
    if (stat.leaf_pages != 1 || stat.height != 2)
        print_tree(&c->bt);
    ck_assert_msg(stat.leaf_pages == 1 && stat.height == 2, "%llu leaves, height %u are left",
                  (unsigned long long)stat.leaf_pages, stat.height);
}

static uint64_t
allocated(struct rig *r)
{
    uint64_t n = 0;
    for (uint64_t p = PAGE_ID_FIRST; p < pstore_page_high(r->ps); p++)
        n += pstore_page_allocated(r->ps, p);
    return n;
}

static struct scenario *scenario_now; /* the test's parameters */

static void
scenario_run(struct env *e)
{
    struct scenario *c = scenario_now;
    rig_open(&c->rig, e, c->cache);
    rig_tree(&c->rig, &c->bt, 5, c->shape.leaf_class);
    random_init(&c->rnd, e->seed);
    c->t = rig_txn(&c->rig);
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        c->reader[i] = rig_txn(&c->rig);
    for (unsigned i = 0; i < c->steps; i++) {
        scenario_transaction(c);
        if (random_chance(&c->rnd, 1, 5))
            scenario_read(c);
        if (random_chance(&c->rnd, 1, 40))
            verify_trees(&c->rig, &c->bt, 1, false);
    }
    scenario_empty(c);
    for (unsigned i = 0; i < 400 && allocated(&c->rig) != 2; i++)
        let_purge(c->t);
    verify_trees(&c->rig, &c->bt, 1, true);
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        txn_detach(c->reader[i]);
    txn_detach(c->t);
    ck_ok(btree_destroy(&c->rig.env, 5, c->bt.root));
    ck_ok(btree_destroy(&c->rig.env, 5, c->bt.root)); /* again: nothing to do */
    verify_trees(&c->rig, &c->bt, 0, true);
    rig_close(&c->rig);
}

static const struct shape shapes[] = {
    { .leaf_class = 0, .value_max = 300 },
    { .leaf_class = 0, .value_max = 60, .large_max = 20000, .large_chance = 10 },
    { .leaf_class = 0, .value_max = 100, .long_keys = true },
    { .leaf_class = 1, .value_max = 1000, .large_max = 70000, .large_chance = 20 },
    { .leaf_class = 3, .value_max = 2000 },
    { .leaf_class = 5, .value_max = 4000, .large_max = 40000, .large_chance = 30 },
    { .leaf_class = 7, .value_max = 6000 },
};

static void
run_scenario(unsigned shape, uint64_t seed, enum io_backend_kind kind)
{
    struct env e = { .kind = kind, .seed = seed };
    value_bytes = mem_alloc(MEM_TEST, ASH_VALUE_SIZE_MAX);
    scenario_now = mem_zalloc(MEM_TEST, sizeof(*scenario_now));
    scenario_now->shape = shapes[shape];
    scenario_now->cache = shapes[shape].leaf_class >= 5 ? 16u << 20
                          : shapes[shape].large_max > 0 ? 4u << 20
                                                        : 512u << 10;
    scenario_now->steps = (unsigned)test_scale(150, 1000);
    ash_rc rc = env_run(&e, scenario_run);
    ck_assert_msg(rc == ASH_OK, "seed %llu shape %u: %s", (unsigned long long)seed, shape,
                  err_current()->message);
    mem_free(MEM_TEST, scenario_now);
    mem_free(MEM_TEST, value_bytes);
}

START_TEST(every_snapshot_sees_what_the_model_says)
{
    for (uint64_t s = 0; s < test_scale(2, 10); s++)
        run_scenario((unsigned)_i, test_seed(100u * (unsigned)_i + s), IO_BACKEND_SIM);
}
END_TEST

/* ---- Bulk load ---- */

struct bulk {
    const struct shape *s;
    const uint32_t *model;
    uint32_t n, stop_at; /* returns an error (or a key that does not ascend) there */
    bool descend, begun;
    uint8_t key[BTREE_KEY_LIMIT];
};

static void
bulk_skip(struct bulk *b)
{
    while (b->n < KEYS && b->model[b->n] == 0)
        b->n++;
}

static ash_rc
bulk_next(void *arg, struct ash_slice *key_out, struct ash_slice *value_out)
{
    struct bulk *b = arg;
    bulk_skip(b);
    if (b->n >= b->stop_at && b->stop_at < KEYS) {
        if (!b->descend)
            return ash_raise(ASH_CANCELLED, "on purpose");
        if (b->begun) { /* the first row once more */
            b->n = 0;
            bulk_skip(b);
            b->stop_at = KEYS;
        }
    }
    b->begun = true;
    if (b->n == KEYS)
        return ASH_NOT_FOUND;
    *key_out = key_of(b->s, b->n, b->key);
    *value_out = value_of(b->s, b->n, b->model[b->n], value_bytes);
    b->n++;
    return ASH_OK;
}

static void
bulk_run(struct env *e)
{
    struct scenario *c = scenario_now;
    struct ash_table_stat stat;
    rig_open(&c->rig, e, c->cache);
    rig_tree(&c->rig, &c->bt, 5, c->shape.leaf_class);
    random_init(&c->rnd, e->seed);
    c->t = rig_txn(&c->rig);
    uint32_t density = 1 + (uint32_t)random_below(&c->rnd, 3), live = 0;
    for (uint32_t n = 0; n < KEYS; n++) {
        c->committed[n] = random_below(&c->rnd, density) == 0 && (e->seed % 5 != 0 || n < 3) ? 1 + n
                                                                                             : 0;
        live += c->committed[n] != 0;
    }
    for (unsigned failing = 0; failing < 2; failing++) {
        struct bulk bad = { &c->shape,    c->committed, 0,    (uint32_t)random_below(&c->rnd, KEYS),
                            failing == 1, false,        { 0 } };
        ash_rc rc = btree_bulk_load(&c->bt, bulk_next, &bad);
        ck_assert_msg(rc == (failing == 0 ? ASH_CANCELLED : ASH_INVALID) || live == 0, "%s",
                      err_current()->message);
        if (rc == ASH_OK)
            break;
        /* empty, and no page leaked */
        ck_assert_uint_eq(verify_trees(&c->rig, &c->bt, 1, true), 2);
    }
    struct bulk b = { &c->shape, c->committed, 0, KEYS, false, false, { 0 } };
    ck_ok(btree_stat(&c->bt, &stat));
    if (stat.rows_estimate == 0)
        ck_ok(btree_bulk_load(&c->bt, bulk_next, &b));
    verify_trees(&c->rig, &c->bt, 1, true);
    rig_begin(c->t);
    check_scan(&c->shape, &c->bt, c->t, c->committed, true, 0, KEYS, &c->rnd);
    check_scan(&c->shape, &c->bt, c->t, c->committed, false, 0, KEYS, &c->rnd);
    check_gets(&c->shape, &c->bt, c->t, c->committed, &c->rnd, 500);
    ck_ok(txn_rollback(c->t));
    ck_ok(btree_stat(&c->bt, &stat));
    ck_assert_uint_eq(stat.rows_estimate, live);
    b.n = 0;
    if (live > 0)
        ck_assert_int_eq(btree_bulk_load(&c->bt, bulk_next, &b), ASH_EXISTS);
    for (unsigned i = 0; i < 60; i++)
        scenario_transaction(c);
    verify_trees(&c->rig, &c->bt, 1, false);
    txn_detach(c->t);
    rig_close(&c->rig);
}

START_TEST(a_bulk_load_holds_all_rows_or_none)
{
    value_bytes = mem_alloc(MEM_TEST, ASH_VALUE_SIZE_MAX);
    for (uint64_t seed = 1; seed <= test_scale(5, 40); seed++) {
        struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(seed) };
        scenario_now = mem_zalloc(MEM_TEST, sizeof(*scenario_now));
        scenario_now->shape = shapes[_i];
        scenario_now->cache = shapes[_i].leaf_class >= 5 ? 16u << 20 : 4u << 20;
        ash_rc rc = env_run(&e, bulk_run);
        ck_assert_msg(rc == ASH_OK, "seed %llu: %s", (unsigned long long)seed,
                      err_current()->message);
        mem_free(MEM_TEST, scenario_now);
    }
    mem_free(MEM_TEST, value_bytes);
}
END_TEST

/* ---- Many tasks: money moves between accounts while other rows come and go ---- */

#define ACCOUNTS    200u
#define START_MONEY 1000u
#define MOVERS      3u
#define WATCHERS    2u

struct bank {
    struct rig rig;
    struct btree bt;
    uint64_t seed;
    unsigned steps;
    _Atomic unsigned moved, conflicts, watched;
    _Atomic bool stop;
};

struct bank_task {
    struct bank *bank;
    unsigned number;
};

static struct ash_slice
bank_value(uint64_t money, uint32_t padding, uint8_t *buf)
{
    put_le64(buf, money);
    memset(buf + 8, 'p', padding);
    return ash_slice(buf, 8 + padding);
}

/* Between two accounts there is room for other rows. */
static struct ash_slice
bank_key(uint32_t account, uint32_t other, uint8_t buf[8])
{
    put_be32(buf, account);
    put_be32(buf + 4, other);
    return ash_slice(buf, 8);
}

static bool
expected_loss(ash_rc rc)
{
    return rc == ASH_CONFLICT || rc == ASH_DEADLOCK || rc == ASH_LOCK_TIMEOUT;
}

static ash_rc
move_money(struct bank *b, struct txn *t, struct random *rnd)
{
    uint8_t k1[8], k2[8], buf[700];
    struct btree_buf v = { NULL, 0, 0 };
    uint32_t from = (uint32_t)random_below(rnd, ACCOUNTS),
             to = (uint32_t)random_below(rnd, ACCOUNTS);
    uint64_t amount = random_below(rnd, 50), money = 0;
    bool lock = random_chance(rnd, 1, 3);
    ash_rc rc = lock ? btree_get_for_update(&b->bt, t, bank_key(from, 0, k1), false, &v)
                     : btree_get(&b->bt, t, bank_key(from, 0, k1), &v);
    if (rc == ASH_OK && (money = get_le64(v.data)) >= amount && from != to) {
        rc = btree_write(&b->bt, t, BTREE_UPDATE, bank_key(from, 0, k1),
                         bank_value(money - amount, (uint32_t)random_below(rnd, 300), buf));
        if (rc == ASH_OK)
            rc = btree_get(&b->bt, t, bank_key(to, 0, k2), &v);
        if (rc == ASH_OK)
            rc = btree_write(
                &b->bt, t, BTREE_PUT, bank_key(to, 0, k2),
                bank_value(get_le64(v.data) + amount, (uint32_t)random_below(rnd, 300), buf));
    }
    btree_buf_free(&v);
    return rc;
}

static ash_rc
stir(struct bank *b, struct txn *t, struct random *rnd, unsigned number)
{
    uint8_t k[8], buf[900];
    ash_rc rc = ASH_OK;
    uint32_t account = (uint32_t)random_below(rnd, ACCOUNTS);
    bool insert = random_chance(rnd, 1, 2);
    for (uint32_t i = 1; i < 12 && rc == ASH_OK; i++) {
        rc = btree_write(&b->bt, t, insert ? BTREE_PUT : BTREE_DELETE,
                         bank_key(account, i * MOVERS + number, k),
                         bank_value(7, (uint32_t)random_below(rnd, 800), buf));
        if (rc == ASH_NOT_FOUND)
            rc = ASH_OK;
    }
    return rc;
}

static void
bank_mover(void *arg)
{
    struct bank_task *me = arg;
    struct bank *b = me->bank;
    struct txn *t = rig_txn(&b->rig);
    struct random rnd;
    random_init(&rnd, b->seed * 100 + me->number);
    for (unsigned i = 0; i < b->steps; i++) {
        rig_begin(t);
        ash_rc rc = ASH_OK;
        for (unsigned n = 1 + (unsigned)random_below(&rnd, 3); n > 0 && rc == ASH_OK; n--)
            rc = random_chance(&rnd, 2, 3) ? move_money(b, t, &rnd) : stir(b, t, &rnd, me->number);
        if (rc == ASH_OK && random_chance(&rnd, 9, 10)) {
            ck_ok(txn_commit(t, false, NULL));
            atomic_fetch_add(&b->moved, 1);
        } else {
            ck_assert_msg(rc == ASH_OK || expected_loss(rc), "mover: %s: %s", ash_rc_name(rc),
                          err_current()->message);
            atomic_fetch_add(&b->conflicts, rc != ASH_OK);
            ck_ok(txn_rollback(t));
        }
    }
    txn_detach(t);
}

static void
watch_once(struct bank *b, struct txn *t, struct random *rnd)
{
    struct btree_cursor *c;
    struct btree_row rows[40];
    uint64_t sum = 0, accounts = 0;
    bool forward = random_chance(rnd, 1, 2);
    uint8_t last[8];
    bool has_last = false;
    rig_begin(t);
    ck_ok(btree_cursor_open(&b->bt, t, &(struct ash_cursor_options){ .reverse = !forward }, &c));
    for (;;) {
        size_t n;
        ash_rc rc = btree_cursor_batch(c, forward, 1 + random_below(rnd, 40), rows, &n);
        if (rc == ASH_NOT_FOUND)
            break;
        ck_ok(rc);
        for (size_t i = 0; i < n; i++) {
            ck_assert_uint_eq(rows[i].key.size, 8);
            ck_assert(!has_last || (forward ? memcmp(last, rows[i].key.data, 8) < 0
                                            : memcmp(last, rows[i].key.data, 8) > 0));
            memcpy(last, rows[i].key.data, 8);
            has_last = true;
            if (get_be32(last + 4) == 0) {
                sum += get_le64(rows[i].value.data);
                accounts++;
            }
        }
    }
    btree_cursor_close(c);
    ck_assert_msg(accounts == ACCOUNTS && sum == (uint64_t)ACCOUNTS * START_MONEY,
                  "%s scan: %llu accounts with %llu", forward ? "forward" : "backward",
                  (unsigned long long)accounts, (unsigned long long)sum);
    ck_ok(txn_rollback(t));
    atomic_fetch_add(&b->watched, 1);
}

/* Verification beside writers must not see ghosts of its own. */
static void
ignore_owner(void *arg, uint64_t page, uint32_t tree)
{
    (void)arg;
    (void)page;
    (void)tree;
}

static void
verify_once(struct bank *b)
{
    struct owners o = { .findings = 0 };
    struct btree_verify_ops ops = { &o, ignore_owner, note_finding };
    ck_ok(btree_verify(&b->bt, &ops));
    ck_assert_uint_eq(o.findings, 0);
}

static void
bank_watcher(void *arg)
{
    struct bank_task *me = arg;
    struct txn *t = rig_txn(&me->bank->rig);
    struct random rnd;
    random_init(&rnd, me->bank->seed * 100 + 50 + me->number);
    while (!atomic_load(&me->bank->stop)) {
        watch_once(me->bank, t, &rnd);
        if (random_chance(&rnd, 1, 10))
            verify_once(me->bank);
        task_yield();
    }
    txn_detach(t);
}

static struct bank *bank_now;

static void
bank_run(struct env *e)
{
    struct bank *b = bank_now;
    struct task *task[MOVERS + WATCHERS];
    struct bank_task arg[MOVERS + WATCHERS];
    uint8_t k[8], buf[64];
    rig_open(&b->rig, e, 512u << 10);
    rig_tree(&b->rig, &b->bt, 5, (uint8_t)(b->seed % 3));
    struct txn *t = rig_txn(&b->rig);
    rig_begin(t);
    for (uint32_t i = 0; i < ACCOUNTS; i++)
        ck_ok(btree_write(&b->bt, t, BTREE_INSERT, bank_key(i, 0, k),
                          bank_value(START_MONEY, 20, buf)));
    ck_ok(txn_commit(t, false, NULL));
    for (unsigned i = 0; i < MOVERS + WATCHERS; i++) {
        arg[i] = (struct bank_task){ b, i };
        ck_ok(task_spawn(e->rt, "bank", i < MOVERS ? bank_mover : bank_watcher, &arg[i], &task[i]));
    }
    for (unsigned i = 0; i < MOVERS; i++)
        task_join(task[i]);
    atomic_store(&b->stop, true);
    for (unsigned i = MOVERS; i < MOVERS + WATCHERS; i++)
        task_join(task[i]);
    struct random rnd;
    random_init(&rnd, 1);
    watch_once(b, t, &rnd);
    verify_trees(&b->rig, &b->bt, 1, false);
    txn_detach(t);
    rig_close(&b->rig);
}

static void
run_bank(uint64_t seed, enum io_backend_kind kind, unsigned steps)
{
    struct env e = { .kind = kind, .seed = seed };
    bank_now = mem_zalloc(MEM_TEST, sizeof(*bank_now));
    bank_now->seed = seed;
    bank_now->steps = steps;
    ash_rc rc = env_run(&e, bank_run);
    ck_assert_msg(rc == ASH_OK, "seed %llu: %s", (unsigned long long)seed, err_current()->message);
    ck_assert(bank_now->moved > 0 && bank_now->watched > 0);
    mem_free(MEM_TEST, bank_now);
}

START_TEST(money_is_neither_made_nor_lost_in_any_interleaving)
{
    for (uint64_t s = 0; s < test_scale(15, 300); s++)
        run_bank(test_seed(s + 1), IO_BACKEND_SIM, 60);
}
END_TEST

START_TEST(money_is_neither_made_nor_lost_by_threads)
{
    run_bank(test_seed((uint64_t)_i), IO_BACKEND_THREADS, (unsigned)test_scale(150, 4000));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("btree");
    TCase *t = tcase_create("tree");
    tcase_set_timeout(t, 600);
    tcase_add_loop_test(t, every_snapshot_sees_what_the_model_says, 0, (int)ASH_ARRAY_SIZE(shapes));
    tcase_add_loop_test(t, a_bulk_load_holds_all_rows_or_none, 0, (int)ASH_ARRAY_SIZE(shapes));
    tcase_add_test(t, money_is_neither_made_nor_lost_in_any_interleaving);
    suite_add_tcase(s, t);
    TCase *threads = tcase_create("threads");
    tcase_set_timeout(threads, 600);
    tcase_add_loop_test(threads, money_is_neither_made_nor_lost_by_threads, 0, 3);
    suite_add_tcase(s, threads);
    return s;
}
TEST_MAIN(suite)
