/* SPDX-License-Identifier: Apache-2.0
 *
 * test_model.c - random transactions of several sessions on every backend; history.c decides
 * whether what they saw is right.
 *
 * One run: open a database with drawn options (a tiny cache, tiny log segments), then a few rounds.
 * In a round the sessions work at the same time on the same few hundred rows of two tables; then a
 * fresh transaction reads everything, ash_verify() looks at every page, the histories are checked,
 * and the database is closed and opened again.  In simulation equal seeds give equal runs.
 */
#include "api/api_int.h"
#include "txn/txn_int.h"

#include "tests/api/db_env.h"
#include "tests/model/history.h"

#define ROWS         160u /* of one table */
#define TABLES       2u
#define SESSIONS_MAX 8u
#define VALUE_MAX    (1u << 20)
#define BATCH_MAX    24u

struct row_key {
    uint8_t data[ASH_KEY_SIZE_MAX];
    uint32_t size;
};

struct world {
    struct db_env *env;
    ash_db *db;
    ash_table *table[TABLES];
    struct row_key key[TABLES][ROWS];
    uint64_t base[TABLES * ROWS];
    struct history_log log[SESSIONS_MAX + 1];
    uint32_t sessions, ops, round;
    uint32_t large; /* one value in so many is large */
    bool tiny;      /* a cache of 1 MiB */
    _Atomic bool huge_busy;
    bool executors; /* work runs by ash_run() */
    struct random random;
    _Atomic uint32_t running;
    _Atomic uint64_t commits, conflicts, deadlocks;
    _Atomic uint32_t refused; /* for want of memory */
};

struct actor {
    struct world *w;
    ash_session *s;
    struct history_log *log;
    struct random random;
    uint32_t number;
    bool in_txn, read_committed;
    uint64_t savepoint[8];
    uint32_t savepoints;
    uint8_t *value;
    bool huge; /* its value is of the kind of which there is one at a time */
};

/* ---- Keys and values ---- */

static int
key_order(const void *a, const void *b)
{
    const struct row_key *x = a, *y = b;
    uint32_t n = x->size < y->size ? x->size : y->size;
    int d = n == 0 ? 0 : memcmp(x->data, y->data, n);

    return d != 0 ? d : x->size < y->size ? -1 : x->size > y->size;
}

/* Sorted, all different; an empty one, some of the greatest size, some with long common beginnings.
 * */
static void
keys_make(struct row_key *key, struct random *r)
{
    for (uint32_t i = 0; i < ROWS; i++) {
        struct row_key *k = &key[i];
        memset(k, 0, sizeof(*k));
        uint32_t kind = (uint32_t)random_below(r, 8);
        uint32_t fill = kind == 0  ? (uint32_t)random_below(r, ASH_KEY_SIZE_MAX - 8)
                        : kind < 4 ? 20
                                   : 0;
        memset(k->data, kind < 4 ? 'p' : 0, fill);
        int n = snprintf((char *)k->data + fill, 8, "%05u", i);
        k->size = fill + (uint32_t)n;
    }
    key[0].size = 0;
    qsort(key, ROWS, sizeof(*key), key_order);
}

static uint32_t
key_index(const struct row_key *key, struct ash_slice found)
{
    struct row_key k = { .size = (uint32_t)found.size };

    must(found.size <= ASH_KEY_SIZE_MAX, "size");
    if (found.size > 0)
        memcpy(k.data, found.data, found.size);
    const struct row_key *at = bsearch(&k, key, ROWS, sizeof(*key), key_order);
    must(at != NULL, "a scan found a key that nobody ever wrote");
    return (uint32_t)(at - key);
}

static struct ash_slice
key_slice(const struct world *w, uint32_t row)
{
    const struct row_key *k = &w->key[row / ROWS][row % ROWS];

    return ash_slice(k->data, k->size);
}

static uint64_t
value_hash(struct ash_slice v)
{
    return hash_bytes(v.data, v.size, v.size) | 1;
}

static struct ash_slice
value_make(struct actor *a)
{
    struct random *r = &a->random;
    uint32_t size = (uint32_t)random_below(r, 60);

    if (random_chance(r, 1, 12))
        size = 0;
    else if (random_chance(r, 1, 6))
        size = (uint32_t)random_below(r, 1200);
    else if (random_chance(r, 1, a->w->large))
        size = (uint32_t)random_below(r, 20000);
    else if (!a->w->tiny && random_chance(r, 1, 100) && !atomic_exchange(&a->w->huge_busy, true)) {
        /* All its pages are in the cache at once, so only one session at a time does this. */
        size = random_chance(r, 1, 2) ? VALUE_MAX : (uint32_t)random_below(r, VALUE_MAX);
        a->huge = true;
    }
    uint64_t word = random_u64(r);
    for (uint32_t i = 0; i < size; i += 8) {
        word = word * 0x9e3779b97f4a7c15u + 1;
        memcpy(a->value + i, &word, size - i < 8 ? size - i : 8);
    }
    return ash_slice(a->value, size);
}

/* ---- Recording ---- */

static struct history_op *
record(struct actor *a, enum history_kind kind, uint32_t row)
{
    struct history_op *op = history_add(a->log, kind);

    op->key = row;
    op->autocommit = !a->in_txn;
    op->lo = wal_reserved(a->w->db->wal);
    return op;
}

static void
record_end(struct actor *a, struct history_op *op, ash_rc rc)
{
    op->rc = (uint8_t)rc;
    op->hi = wal_reserved(a->w->db->wal);
    if (a->in_txn)
        op->snapshot = atomic_load(&a->s->txn->snapshot);
    a->w->deadlocks += rc == ASH_DEADLOCK;
    a->w->conflicts += rc == ASH_CONFLICT;
    switch (rc) {
    case ASH_OK:
    case ASH_NOT_FOUND:
    case ASH_EXISTS:
    case ASH_CONFLICT:
    case ASH_DEADLOCK:
    case ASH_LOCK_TIMEOUT:
    case ASH_WOULD_BLOCK: break;
    /* large values of several sessions do not fit a tiny cache together: rare, and without effect
     * */
    case ASH_NO_MEMORY: /* a value of 1 MiB fills the tiny cache: rare, and without effect */
        must(atomic_fetch_add(&a->w->refused, 1) < 5, "%s (%s)", ash_error_last()->message,
             ash_error_last()->where);
        break;
    default:
        must(false, "session %u, kind %d: %s: %s (%s)", a->number, op->kind, ash_rc_name(rc),
             ash_error_last()->message, ash_error_last()->where);
    }
}

static void
txn_finish(struct actor *a, bool commit)
{
    if (!commit) {
        history_add(a->log, HISTORY_ROLLBACK);
        must_ok(ash_rollback(a->s));
        a->in_txn = false;
        return;
    }
    struct history_op *op = record(a, HISTORY_COMMIT, 0);
    uint64_t ticket;
    if (random_chance(&a->random, 1, 2)) {
        op->lo = a->s->txn->last_lsn + 1; /* behind the start of its last change */
        must_ok(ash_commit(a->s));
        op->hi = wal_reserved(a->w->db->wal);
    } else {
        must_ok(ash_commit_ticket(a->s, &ticket));
        op->lo = op->hi = ticket;
        if (ticket != 0 && random_chance(&a->random, 1, 2)) {
            must_ok(ash_ticket_wait(a->w->db, ticket));
            must(ash_ticket_done(a->w->db, ticket), "ticket");
        }
    }
    a->in_txn = false;
    a->w->commits++;
}

static void
value_done(struct actor *a)
{
    if (a->huge)
        atomic_store(&a->w->huge_busy, false);
    a->huge = false;
}

/* A deadlock must be answered with a rollback; after other failures the transaction goes on. */
static void
after_write(struct actor *a, ash_rc rc)
{
    if (a->in_txn &&
        (rc == ASH_DEADLOCK || (rc == ASH_CONFLICT && random_chance(&a->random, 1, 2))))
        txn_finish(a, false);
}

/* ---- Operations ---- */

static void
do_begin(struct actor *a)
{
    struct ash_txn_options o = { .isolation = random_chance(&a->random, 1, 6) ? ASH_READ_COMMITTED
                                                                              : ASH_SNAPSHOT,
                                 .durability = (enum ash_durability)random_below(&a->random, 3),
                                 .lock_timeout_ms = random_chance(&a->random, 1, 3)
                                                        ? 1 + (uint32_t)random_below(&a->random, 50)
                                                        : 0 };

    must_ok(ash_begin(a->s, &o));
    a->in_txn = true;
    a->savepoints = 0;
    struct history_op *op = record(a, HISTORY_BEGIN, 0);
    op->flag = a->read_committed = o.isolation == ASH_READ_COMMITTED;
    op->snapshot = atomic_load(&a->s->txn->snapshot);
}

static uint32_t
draw_row(struct actor *a)
{
    /* Half of the work goes to few rows, so that sessions meet. */
    uint32_t row = (uint32_t)random_below(&a->random, random_chance(&a->random, 1, 2) ? 12 : ROWS);

    return (uint32_t)random_below(&a->random, TABLES) * ROWS + row;
}

static void
do_write(struct actor *a)
{
    static const enum history_kind kinds[] = { HISTORY_PUT, HISTORY_PUT, HISTORY_INSERT,
                                               HISTORY_UPDATE, HISTORY_DELETE };
    enum history_kind kind = kinds[random_below(&a->random, ASH_ARRAY_SIZE(kinds))];
    uint32_t row = draw_row(a);
    ash_table *t = a->w->table[row / ROWS];
    struct ash_slice key = key_slice(a->w, row), value = value_make(a);
    struct history_op *op = record(a, kind, row);
    ash_rc rc;

    op->value = value_hash(value);
    switch (kind) {
    case HISTORY_PUT: rc = ash_put(a->s, t, key, value); break;
    case HISTORY_INSERT: rc = ash_insert(a->s, t, key, value); break;
    case HISTORY_UPDATE: rc = ash_update(a->s, t, key, value); break;
    default: rc = ash_delete(a->s, t, key); break;
    }
    value_done(a);
    record_end(a, op, rc);
    if (op->autocommit && rc == ASH_OK)
        op->lo =
            a->s->txn->priv->logged + 1; /* its change: tells its place among the row's versions */
    after_write(a, rc);
}

static void
do_get(struct actor *a)
{
    uint32_t row = draw_row(a);
    struct ash_slice value;
    struct history_op *op = record(a, HISTORY_GET, row);
    ash_rc rc = ash_get(a->s, a->w->table[row / ROWS], key_slice(a->w, row), &value);

    record_end(a, op, rc);
    if (rc == ASH_OK)
        op->value = value_hash(value);
}

static void
do_multiget(struct actor *a)
{
    struct ash_slice key[8], value[8];
    ash_rc result[8];
    uint32_t row[8], n = 1 + (uint32_t)random_below(&a->random, 8),
                     t = (uint32_t)random_below(&a->random, TABLES);
    uint64_t lo = wal_reserved(a->w->db->wal);

    for (uint32_t i = 0; i < n; i++) {
        row[i] = t * ROWS + draw_row(a) % ROWS;
        key[i] = key_slice(a->w, row[i]);
    }
    ash_rc rc = ash_multiget(a->s, a->w->table[t], n, key, value, result);
    if (rc == ASH_NO_MEMORY && atomic_fetch_add(&a->w->refused, 1) < 5)
        return; /* see record_end() */
    must(rc == ASH_OK, "%s: %s", ash_rc_name(rc), ash_error_last()->message);
    for (uint32_t i = 0; i < n; i++) {
        struct history_op *op = record(a, HISTORY_GET, row[i]);
        record_end(a, op, result[i]);
        op->lo = lo;
        if (result[i] == ASH_OK)
            op->value = value_hash(value[i]);
    }
}

static void
do_get_for_update(struct actor *a)
{
    uint32_t row = draw_row(a);
    struct ash_slice value;

    if (!a->in_txn)
        return;
    struct history_op *op = record(a, HISTORY_GET_NEWEST, row);
    ash_rc rc = ash_get_for_update(
        a->s, a->w->table[row / ROWS], key_slice(a->w, row),
        random_chance(&a->random, 1, 3) ? ASH_LOCK_NOWAIT : ASH_LOCK_WAIT, &value);
    record_end(a, op, rc);
    if (rc == ASH_OK)
        op->value = value_hash(value);
    after_write(a, rc);
}

static void
step_record(struct actor *a, ash_cursor *c, uint32_t table, bool up, bool keys_only, ash_rc rc,
            const struct ash_row *row)
{
    struct history_op *op = record(a, keys_only ? HISTORY_KEYS_STEP : HISTORY_STEP, 0);

    record_end(a, op, rc);
    op->snapshot = atomic_load(&c->txn->snapshot);
    op->flag = up;
    if (rc != ASH_OK)
        return;
    op->key = table * ROWS + key_index(a->w->key[table], row->key);
    if (!keys_only)
        op->value = value_hash(row->value);
}

static void
do_scan(struct actor *a, bool everything)
{
    struct random *r = &a->random;
    uint32_t table = (uint32_t)random_below(r, TABLES), from = 0, to = ROWS;
    struct ash_cursor_options o = { .reverse = random_chance(r, 1, 2),
                                    .keys_only = !everything && random_chance(r, 1, 4) };
    struct ash_row rows[BATCH_MAX];
    ash_cursor *c;

    if (!everything && random_chance(r, 2, 3)) {
        from = (uint32_t)random_below(r, ROWS);
        o.from = key_slice(a->w, table * ROWS + from);
    }
    if (!everything && random_chance(r, 2, 3)) {
        to = (uint32_t)random_below(r, ROWS);
        o.to = key_slice(a->w, table * ROWS + to);
    }
    struct history_op *op = record(a, HISTORY_CURSOR, table * ROWS + from);
    op->value = table * ROWS + (to < from ? from : to);
    op->flag = o.reverse;
    must_ok(ash_cursor_open(a->s, a->w->table[table], &o, &c));
    op->snapshot = atomic_load(&c->txn->snapshot);
    uint32_t steps = everything ? ROWS + 1 : 1 + (uint32_t)random_below(r, 40);
    bool on_row = false;
    for (uint32_t i = 0; i < steps; i++) {
        ash_rc rc;
        uint32_t what = everything ? 9 : (uint32_t)random_below(r, 10);
        if (what == 0) {
            uint32_t k = (uint32_t)random_below(r, ROWS);
            op = record(a, HISTORY_SEEK, table * ROWS + k);
            op->flag = !o.reverse;
            must_ok(ash_cursor_seek(c, key_slice(a->w, table * ROWS + k)));
            on_row = false;
        } else if (what < 3) {
            size_t count = 0;
            rc = ash_cursor_batch(c, 1 + random_below(r, BATCH_MAX), rows, &count);
            must((rc == ASH_OK) == (count > 0), "batch");
            for (size_t b = 0; b < count; b++)
                step_record(a, c, table, !o.reverse, o.keys_only, ASH_OK, &rows[b]);
            if (rc != ASH_OK)
                step_record(a, c, table, !o.reverse, o.keys_only, rc, NULL);
            on_row = rc == ASH_OK;
        } else if (what == 3 && on_row) {
            rc = ash_cursor_prev(c, rows);
            step_record(a, c, table, o.reverse, o.keys_only, rc, rows);
            on_row = rc == ASH_OK;
        } else if (what == 4 && a->in_txn) {
            do_write(a); /* changes of its own under the cursor */
            if (!a->in_txn) {
                must_rc(ash_cursor_next(c, rows),
                        ASH_MISUSE); /* the write met a conflict and rolled back */
                break;
            }
        } else {
            rc = ash_cursor_next(c, rows);
            step_record(a, c, table, !o.reverse, o.keys_only, rc, rows);
            on_row = rc == ASH_OK;
            if (rc == ASH_NOT_FOUND)
                break;
        }
    }
    ash_cursor_close(c);
}

/* A table of its own: created, filled, dropped, in transactions that commit or roll back. */
static void
do_ddl(struct actor *a)
{
    char name[32];
    ash_table *t;
    struct ash_slice value;

    snprintf(name, sizeof(name), "own-%u", a->number);
    must_ok(ash_begin(a->s, NULL));
    ash_rc rc = ash_table_create(a->s, name, NULL);
    if (rc == ASH_OK) {
        must_ok(ash_table_open(a->s, name, &t));
        for (uint32_t i = 0; i < 30; i++) {
            struct ash_slice v = value_make(a);
            rc = ash_put(a->s, t, ash_slice(&i, sizeof(i)), v);
            if (rc == ASH_NO_MEMORY) /* see record_end() */
                rc = ash_put(a->s, t, ash_slice(&i, sizeof(i)), ash_slice("small", 5));
            must(rc == ASH_OK, "%s: %s", ash_rc_name(rc), ash_error_last()->message);
            value_done(a);
        }
        must_ok(ash_get(a->s, t, ash_slice("\1\0\0", 4), &value));
        ash_table_close(t);
    } else {
        must(rc == ASH_CONFLICT || rc == ASH_DEADLOCK || rc == ASH_LOCK_TIMEOUT, "create: %s: %s",
             ash_rc_name(rc), ash_error_last()->message);
    }
    if (rc != ASH_OK || random_chance(&a->random, 1, 2)) {
        must_ok(ash_rollback(a->s));
        must_rc(ash_table_open(a->s, name, &t), ASH_NOT_FOUND);
        return;
    }
    must_ok(ash_commit(a->s));
    must_ok(ash_table_open(a->s, name, &t));
    must_ok(ash_get(a->s, t, ash_slice("\2\0\0", 4), &value));
    must_ok(ash_begin(a->s, NULL));
    rc = ash_table_drop(a->s, name);
    must(rc == ASH_OK || rc == ASH_CONFLICT || rc == ASH_DEADLOCK || rc == ASH_LOCK_TIMEOUT,
         "drop: %s", ash_rc_name(rc));
    must_ok(ash_rollback(a->s));
    must_ok(ash_get(a->s, t, ash_slice("\3\0\0", 4), &value));
    do {
        rc = ash_table_drop(a->s, name);
    } while (rc == ASH_CONFLICT || rc == ASH_DEADLOCK || rc == ASH_LOCK_TIMEOUT);
    must(rc == ASH_OK, "drop: %s: %s", ash_rc_name(rc), ash_error_last()->message);
    must_rc(ash_get(a->s, t, ash_slice("\1\0\0", 4), &value), ASH_NOT_FOUND);
    ash_table_close(t);
}

static void
do_savepoint(struct actor *a)
{
    if (!a->in_txn)
        return;
    if (a->savepoints > 0 && random_chance(&a->random, 1, 2)) {
        uint32_t i = (uint32_t)random_below(&a->random, a->savepoints);
        struct history_op *op = record(a, HISTORY_ROLLBACK_TO, 0);
        op->value = a->savepoint[i];
        must_ok(ash_rollback_to(a->s, a->savepoint[i]));
        a->savepoints = i + 1;
    } else if (a->savepoints < 8) {
        uint64_t number;
        must_ok(ash_savepoint(a->s, &number));
        if (a->savepoints > 0 && a->savepoint[a->savepoints - 1] == number)
            return; /* nothing happened since the last one */
        a->savepoint[a->savepoints++] = number;
        record(a, HISTORY_SAVEPOINT, 0)->value = number;
    }
}

static void
actor_step(struct actor *a)
{
    uint64_t what = random_below(&a->random, 100);

    if (what < 38)
        do_write(a);
    else if (what < 60)
        do_get(a);
    else if (what < 66)
        do_multiget(a);
    else if (what < 72)
        do_get_for_update(a);
    else if (what < 78)
        do_scan(a, false);
    else if (what < 84)
        do_savepoint(a);
    else if (what < 90 && !a->in_txn)
        do_begin(a);
    else if (what < 98 && a->in_txn)
        txn_finish(a, random_chance(&a->random, 3, 4));
    else if (what == 98 && random_chance(&a->random, 1, 4))
        must_ok(ash_checkpoint(a->w->db));
    else if (what == 99 && !a->in_txn && random_chance(&a->random, 1, 4))
        do_ddl(a);
    else if (!a->in_txn)
        do_begin(a);
}

static void
actor_init(struct actor *a, struct world *w, uint32_t number)
{
    memset(a, 0, sizeof(*a));
    a->w = w;
    a->number = number;
    a->log = &w->log[number];
    a->log->session = number;
    random_init(&a->random, w->env->seed * 1000 + w->round * 20 + number);
    a->value = malloc(VALUE_MAX + 8);
    must(a->value != NULL, "malloc");
}

static void
actor_work(struct actor *a)
{
    for (uint32_t i = 0; i < a->w->ops; i++)
        actor_step(a);
    if (a->in_txn)
        txn_finish(a, random_chance(&a->random, 1, 2));
    free(a->value);
}

static void
actor_task(void *arg)
{
    struct actor *a = arg;

    must_ok(ash_session_open(a->w->db, &a->s));
    actor_work(a);
    ash_session_close(a->s);
}

static ash_rc
actor_run(ash_session *s, void *arg)
{
    struct actor *a = arg;

    a->s = s;
    actor_work(a);
    return ASH_OK;
}

static void
actor_done(void *arg, ash_rc rc)
{
    struct actor *a = arg;

    must(rc == ASH_OK, "ash_run: %s", ash_rc_name(rc));
    atomic_fetch_sub(&a->w->running, 1);
}

/* ---- A run ---- */

static void
round_work(struct world *w)
{
    struct actor actor[SESSIONS_MAX];
    struct task *task[SESSIONS_MAX];

    atomic_store(&w->running, w->sessions);
    for (uint32_t i = 0; i < w->sessions; i++) {
        actor_init(&actor[i], w, i);
        if (w->executors)
            must_ok(ash_run(w->db, actor_run, &actor[i], actor_done));
        else
            must_ok(task_spawn(w->env->rt, "actor", actor_task, &actor[i], &task[i]));
    }
    for (uint32_t i = 0; i < w->sessions && !w->executors; i++)
        task_join(task[i]);
    while (w->executors && atomic_load(&w->running) > 0)
        task_sleep_ns(1000000);
}

/* All rows of both tables as a fresh transaction sees them, recorded like any other work (H6). */
static void
round_read_all(struct world *w)
{
    struct actor a;

    actor_init(&a, w, SESSIONS_MAX);
    must_ok(ash_session_open(w->db, &a.s));
    must_ok(ash_begin(a.s, NULL));
    a.in_txn = true;
    record(&a, HISTORY_BEGIN, 0)->snapshot = atomic_load(&a.s->txn->snapshot);
    for (uint32_t i = 0; i < 6; i++)
        do_scan(&a, true);
    for (uint32_t row = 0; row < TABLES * ROWS; row++) {
        struct ash_slice value;
        struct history_op *op = record(&a, HISTORY_GET, row);
        ash_rc rc = ash_get(a.s, w->table[row / ROWS], key_slice(w, row), &value);
        record_end(&a, op, rc);
        if (rc == ASH_OK)
            op->value = value_hash(value);
    }
    txn_finish(&a, false);
    ash_session_close(a.s);
    free(a.value);
}

static void
world_open(struct world *w, const char *options)
{
    static const char *const name[TABLES] = { "first", "second" };
    static const struct ash_table_options table_options[TABLES] = { { 4096 }, { 16384 } };
    ash_session *s;

    w->db = db_env_open(w->env, options, /* quiet= */ false);
    must_ok(ash_session_open(w->db, &s));
    for (uint32_t i = 0; i < TABLES; i++) {
        if (w->round == 0)
            must_ok(ash_table_create(s, name[i], &table_options[i]));
        must_ok(ash_table_open(s, name[i], &w->table[i]));
    }
    ash_session_close(s);
}

static void
world_close(struct world *w)
{
    for (uint32_t i = 0; i < TABLES; i++)
        ash_table_close(w->table[i]);
    must_ok(ash_close(w->db));
}

static void
world_round(struct world *w)
{
    round_work(w);
    round_read_all(w);
    if (!history_check(w->log, SESSIONS_MAX + 1, w->base, TABLES * ROWS))
        must(false, "round %u: the history is not one of snapshot isolation", w->round);
    for (uint32_t i = 0; i <= SESSIONS_MAX; i++)
        history_free(&w->log[i]);
    db_env_verify(w->db);
}

struct run {
    uint32_t rounds, ops, sessions;
    uint64_t commits, conflicts, deadlocks;
};

static void
model_body(struct db_env *e)
{
    struct run *run = e->arg;
    struct world *w = calloc(1, sizeof(*w));
    char options[256];

    must(w != NULL, "calloc");
    w->env = e;
    random_init(&w->random, e->seed);
    struct random *r = &w->random;
    bool tiny = w->tiny = random_chance(r, 2, 3);
    snprintf(options, sizeof(options),
             "cache=%s,wal_buffer=1MiB,wal_segment=%s,zone_size=%s,wal_limit=%s,"
             "wal_writers=%u,checkpoint_ms=%u,executors=2,executor_fibers=8",
             tiny ? "1MiB" : "4MiB", tiny ? "64KiB" : "1MiB", tiny ? "64KiB" : "1MiB",
             random_chance(r, 1, 2) ? "1MiB" : "4MiB", 1 + (unsigned)random_below(r, 4),
             10 + (unsigned)random_below(r, 200));
    w->sessions = run->sessions;
    w->ops = run->ops;
    w->large = random_chance(r, 1, 2) ? 30 : 400;
    w->executors = random_chance(r, 1, 4);
    for (uint32_t t = 0; t < TABLES; t++)
        keys_make(w->key[t], r);
    for (w->round = 0; w->round < run->rounds; w->round++) {
        world_open(w, options);
        world_round(w);
        world_close(w);
    }
    run->commits += w->commits;
    run->conflicts += w->conflicts;
    run->deadlocks += w->deadlocks;
    free(w);
}

static void
model_run(enum io_backend_kind kind, uint64_t seed, struct run *run)
{
    struct db_env e = { .kind = kind, .seed = seed, .name = db_env_kind_name(kind), .arg = run };

    must_ok(db_env_run(&e, model_body));
    must(e.leaked == 0, "%llu bytes leaked", (unsigned long long)e.leaked);
}

START_TEST(simulated_sessions_are_isolated)
{
    struct run run = { .rounds = 2, .ops = 150, .sessions = 4 };
    uint64_t first = test_seed(1), count = getenv("ASH_TEST_SEED") != NULL && test_scale(0, 1) == 0
                                               ? 1
                                               : test_scale(60, 3000);

    for (uint64_t seed = first; seed < first + count; seed++)
        model_run(IO_BACKEND_SIM, seed, &run);
    printf("sim: %llu seeds, %llu commits, %llu conflicts, %llu deadlocks\n",
           (unsigned long long)count, (unsigned long long)run.commits,
           (unsigned long long)run.conflicts, (unsigned long long)run.deadlocks);
}
END_TEST

START_TEST(threads_are_isolated)
{
    enum io_backend_kind kind = _i == 0 ? IO_BACKEND_URING : IO_BACKEND_THREADS;
    struct run run = { .rounds = 3, .ops = (uint32_t)test_scale(600, 20000), .sessions = 6 };

    for (uint64_t seed = test_seed(100), end = seed + test_scale(2, 12); seed < end; seed++)
        model_run(kind, seed, &run);
    printf("%s: %llu commits, %llu conflicts, %llu deadlocks\n", db_env_kind_name(kind),
           (unsigned long long)run.commits, (unsigned long long)run.conflicts,
           (unsigned long long)run.deadlocks);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("model");
    TCase *sim = tcase_create("sim"), *real = tcase_create("threads");

    tcase_set_timeout(sim, (double)test_scale(300, 36000));
    tcase_set_timeout(real, (double)test_scale(300, 36000));
    tcase_add_test(sim, simulated_sessions_are_isolated);
    tcase_add_loop_test(real, threads_are_isolated, 0, 2);
    suite_add_tcase(s, sim);
    suite_add_tcase(s, real);
    return s;
}

TEST_MAIN(suite)
