/* SPDX-License-Identifier: Apache-2.0
 *
 * crash_world.c - what crash_world.h says: noting commits, states as numbers, reading a database's
 * state.
 *
 * Memory of the tests is plain malloc(): it must outlive the simulation and must not fail when the
 * engine's does.
 */
#include "tests/crash/crash_world.h"

#include "api/api_int.h"

#include "tests/crash/crash_int.h"

#define VALUE_MAX (1u << 20)

static void *
grow(void *p, uint32_t *room, uint32_t need, size_t size)
{
    if (need <= *room)
        return p;
    *room = need < 64 ? 64 : need * 2;
    p = realloc(p, *room * size);
    must(p != NULL, "realloc");
    return p;
}

/* ---- Rows ---- */

/* Keys of table t: short, or with a long common beginning, or of the greatest size. */
static struct ash_slice
key_make(uint32_t table, uint32_t key, char buf[ASH_KEY_SIZE_MAX])
{
    uint32_t fill = table == 1 ? 200 : table == 2 && key % 7 == 0 ? ASH_KEY_SIZE_MAX - 5 : 0;

    if (table == 0 && key == 0)
        return ash_slice(NULL, 0);
    memset(buf, 'k', fill);
    buf[fill + 0] = (char)('0' + key / 1000 % 10);
    buf[fill + 1] = (char)('0' + key / 100 % 10);
    buf[fill + 2] = (char)('0' + key / 10 % 10);
    buf[fill + 3] = (char)('0' + key % 10);
    return ash_slice(buf, fill + 4);
}

static bool
key_parse(struct ash_slice k, uint32_t *key_out)
{
    const char *text = k.data;

    *key_out = 0;
    if (k.size == 0)
        return true;
    if (k.size < 4)
        return false;
    for (size_t i = k.size - 4; i < k.size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *key_out = *key_out * 10 + (uint32_t)(text[i] - '0');
    }
    return *key_out < CRASH_KEYS;
}

static uint64_t
value_hash(struct ash_slice v)
{
    return hash_bytes(v.data, v.size, v.size) | 1;
}

static uint64_t
row_number(uint32_t table, uint32_t key, uint64_t value)
{
    return value == 0 ? 0 : hash_u64(hash_u64(value) + table * 100003u + key * 7u + 1);
}

static uint64_t
table_number(uint32_t table)
{
    return hash_u64(table + 0x7ab1e);
}

static void
table_name(uint32_t table, char buf[16])
{
    snprintf(buf, 16, "t%u", table);
}

/* ---- Calls of the scripts ---- */

static void
first_failure(struct crash_world *w, ash_rc rc)
{
    const struct ash_error *e = ash_error_last();

    if (w->failed != ASH_OK)
        return;
    w->failed = rc;
    snprintf(w->failed_text, sizeof(w->failed_text), "%s: %s (%s)", ash_rc_name(rc), e->message,
             e->where);
}

bool
crash__failed(struct crash_actor *a, ash_rc rc)
{
    if (rc == ASH_OK)
        return a->w->failed != ASH_OK;
    if (!a->w->faults)
        must(false, "script %s: %s: %s (%s)", a->w->script->name, ash_rc_name(rc),
             ash_error_last()->message, ash_error_last()->where);
    first_failure(a->w, rc);
    return true;
}

static void
note(struct crash_actor *a, uint8_t kind, uint32_t table, uint32_t key, uint64_t value)
{
    a->own = grow(a->own, &a->own_room, a->own_count + 1, sizeof(*a->own));
    a->own[a->own_count++] = (struct crash_change){ (uint8_t)table, kind, (uint16_t)key, value };
}

/* The commit call begins now: its changes may be found after a crash from here on. */
static uint32_t
commit_begins(struct crash_actor *a)
{
    struct crash_world *w = a->w;

    w->commit = grow(w->commit, &w->commit_room, w->commit_count + 1, sizeof(*w->commit));
    w->change =
        grow(w->change, &w->change_room, w->change_count + a->own_count, sizeof(*w->change));
    struct crash_commit *c = &w->commit[w->commit_count];
    *c = (struct crash_commit){ .first = w->change_count, .count = a->own_count };
    if (a->own_count > 0)
        memcpy(&w->change[w->change_count], a->own, a->own_count * sizeof(*a->own));
    w->change_count += a->own_count;
    a->own_count = 0;
    return w->commit_count++;
}

static void
commit_done(struct crash_world *w, uint32_t commit, uint64_t lsn, bool acked)
{
    w->commit[commit].lsn = lsn;
    if (acked && lsn > w->acked_lsn)
        w->acked_lsn = lsn;
}

/* A failure of the call leaves the outcome open when the log may have it: the last call of a failed
 * run. */
static bool
commit_failed(struct crash_actor *a, uint32_t commit, ash_rc rc)
{
    if (rc != ASH_OK)
        a->w->commit[commit].failed = true;
    return crash__failed(a, rc);
}

/* Autocommitted calls: one change, one commit; the session is the only one. */
static bool
auto_done(struct crash_actor *a, uint32_t commit, ash_rc rc)
{
    if (commit_failed(a, commit, rc))
        return false;
    commit_done(a->w, commit, wal_reserved(a->w->db->wal), a->s->durability == ASH_DURABILITY_SYNC);
    return true;
}

bool
crash_begin(struct crash_actor *a, enum ash_durability durability)
{
    struct ash_txn_options o = { .durability = durability };

    if (crash__failed(a, ash_begin(a->s, &o)))
        return false;
    a->in_txn = true;
    a->own_count = 0;
    return true;
}

static struct ash_slice
value_make(struct crash_actor *a, uint32_t size)
{
    uint64_t word = random_u64(&a->random);

    for (uint32_t i = 0; i < size; i += 8) {
        word = word * 0x9e3779b97f4a7c15u + 1;
        memcpy(a->value + i, &word, size - i < 8 ? size - i : 8);
    }
    return ash_slice(a->value, size);
}

bool
crash_put(struct crash_actor *a, uint32_t table, uint32_t key, uint32_t size)
{
    char buf[ASH_KEY_SIZE_MAX];
    struct ash_slice v = value_make(a, size);
    uint32_t commit = 0;

    if (!a->in_txn) {
        note(a, CRASH_ROW, table, key, value_hash(v));
        commit = commit_begins(a);
    }
    ash_rc rc = ash_put(a->s, a->table[table], key_make(table, key, buf), v);
    if (!a->in_txn)
        return auto_done(a, commit, rc);
    if (rc == ASH_CONFLICT || rc == ASH_DEADLOCK) { /* of scripts with several sessions */
        ash_rc undone = ash_rollback(a->s);
        a->in_txn = false;
        a->own_count = 0;
        return !crash__failed(a, undone);
    }
    if (crash__failed(a, rc))
        return false;
    note(a, CRASH_ROW, table, key, value_hash(v));
    return true;
}

bool
crash_delete(struct crash_actor *a, uint32_t table, uint32_t key)
{
    char buf[ASH_KEY_SIZE_MAX];
    uint32_t commit = 0;

    if (!a->in_txn) {
        note(a, CRASH_ROW, table, key, 0);
        commit = commit_begins(a);
    }
    ash_rc rc = ash_delete(a->s, a->table[table], key_make(table, key, buf));
    if (rc == ASH_NOT_FOUND) {
        if (!a->in_txn) {
            a->w->commit_count--;
            a->w->change_count--;
        }
        return true;
    }
    if (!a->in_txn)
        return auto_done(a, commit, rc);
    if (rc == ASH_CONFLICT || rc == ASH_DEADLOCK) {
        ash_rc undone = ash_rollback(a->s);
        a->in_txn = false;
        a->own_count = 0;
        return !crash__failed(a, undone);
    }
    if (crash__failed(a, rc))
        return false;
    note(a, CRASH_ROW, table, key, 0);
    return true;
}

/* With several sessions the order of commits must be known, so the log position is asked for where
 * ash_commit() does not tell it. */
bool
crash_commit(struct crash_actor *a)
{
    struct crash_world *w = a->w;
    bool sync = a->s->txn->durability == ASH_DURABILITY_SYNC, changed = a->own_count > 0;
    uint32_t commit = commit_begins(a);
    uint64_t end = 0;
    ash_rc rc;

    a->in_txn = false;
    if (w->script->sessions > 1) {
        rc = txn_commit(a->s->txn, /* wait= */ true, &end);
        a->s->in_transaction = a->s->txn->open;
    } else {
        rc = ash_commit(a->s);
        end = wal_reserved(w->db->wal);
    }
    if (commit_failed(a, commit, rc))
        return false;
    if (changed)
        commit_done(w, commit, end, sync);
    return true;
}

/* Commits with a ticket; acknowledged when `wait` says so. */
bool
crash_commit_ticket(struct crash_actor *a, bool wait)
{
    struct crash_world *w = a->w;
    uint32_t commit = commit_begins(a);
    uint64_t ticket = 0;

    a->in_txn = false;
    if (commit_failed(a, commit, ash_commit_ticket(a->s, &ticket)))
        return false;
    commit_done(w, commit, ticket, false);
    if (wait) {
        if (crash__failed(a, ash_ticket_wait(w->db, ticket)))
            return false;
        commit_done(w, commit, ticket, true);
    }
    return true;
}

bool
crash_rollback(struct crash_actor *a)
{
    a->in_txn = false;
    a->own_count = 0;
    return !crash__failed(a, ash_rollback(a->s));
}

bool
crash_savepoint(struct crash_actor *a, struct crash_savepoint *out)
{
    out->own_count = a->own_count;
    return !crash__failed(a, ash_savepoint(a->s, &out->number));
}

bool
crash_rollback_to(struct crash_actor *a, const struct crash_savepoint *sp)
{
    a->own_count = sp->own_count;
    return !crash__failed(a, ash_rollback_to(a->s, sp->number));
}

bool
crash_checkpoint(struct crash_actor *a)
{
    return !crash__failed(a, ash_checkpoint(a->w->db));
}

bool
crash_create(struct crash_actor *a, uint32_t table, uint32_t page_size)
{
    char name[16];
    struct ash_table_options o = { page_size };
    uint32_t commit = 0;

    table_name(table, name);
    note(a, CRASH_CREATE, table, 0, 0);
    if (!a->in_txn)
        commit = commit_begins(a);
    ash_rc rc = ash_table_create(a->s, name, &o);
    if (a->in_txn ? crash__failed(a, rc) : !auto_done(a, commit, rc))
        return false;
    return !crash__failed(a, ash_table_open(a->s, name, &a->table[table]));
}

bool
crash_drop(struct crash_actor *a, uint32_t table)
{
    char name[16];
    uint32_t commit = 0;

    table_name(table, name);
    ash_table_close(a->table[table]);
    a->table[table] = NULL;
    note(a, CRASH_DROP, table, 0, 0);
    if (!a->in_txn)
        commit = commit_begins(a);
    ash_rc rc = ash_table_drop(a->s, name);
    return a->in_txn ? !crash__failed(a, rc) : auto_done(a, commit, rc);
}

/* After a rollback that undid a create or drop. */
bool
crash_reopen_table(struct crash_actor *a, uint32_t table, bool exists)
{
    char name[16];

    table_name(table, name);
    ash_table_close(a->table[table]);
    a->table[table] = NULL;
    ash_rc rc = ash_table_open(a->s, name, &a->table[table]);
    if (!exists && rc == ASH_NOT_FOUND)
        return true;
    must(exists || rc != ASH_OK, "table %s should be gone", name);
    return !crash__failed(a, rc);
}

struct bulk {
    struct crash_actor *a;
    uint32_t table, next, count, size;
    char key[ASH_KEY_SIZE_MAX];
};

static ash_rc
bulk_next(void *arg, struct ash_slice *key_out, struct ash_slice *value_out)
{
    struct bulk *b = arg;

    if (b->next == b->count)
        return ASH_NOT_FOUND;
    *key_out = key_make(b->table, b->next, b->key);
    *value_out = value_make(b->a, b->size);
    b->next++;
    return ASH_OK;
}

bool
crash_bulk(struct crash_actor *a, uint32_t table, uint32_t count, uint32_t size)
{
    struct bulk b = { .a = a, .table = table, .count = count, .size = size };
    struct random before = a->random;

    for (uint32_t i = 0; i < count; i++)
        note(a, CRASH_ROW, table, i, value_hash(value_make(a, size)));
    a->random = before; /* the load makes the same values again */
    uint32_t commit = commit_begins(a);
    return auto_done(a, commit, ash_bulk_load(a->s, a->table[table], bulk_next, &b));
}

/* ---- A run ---- */

ash_rc
crash_open(struct task_runtime *rt, struct sim_disk *disk, unsigned flags, bool quiet,
           ash_db **db_out)
{
    struct db_seams seams = { .rt = rt,
                              .backend = IO_BACKEND_SIM,
                              .disk = disk,
                              .quiet = quiet,
                              .page_id_max = 1u << 12,
                              .grow_bytes = 256u << 10 };

    return db_open(&seams, "db", flags, CRASH_OPTIONS, db_out);
}

static void
actor_init(struct crash_actor *a, struct crash_world *w, uint32_t number)
{
    memset(a, 0, sizeof(*a));
    a->w = w;
    random_init(&a->random, w->seed * 31 + number);
    a->value = malloc(VALUE_MAX + 8);
    must(a->value != NULL, "malloc");
}

static void
actor_deinit(struct crash_actor *a)
{
    for (uint32_t i = 0; i < CRASH_TABLES; i++)
        ash_table_close(a->table[i]);
    ash_session_close(a->s);
    free(a->value);
    free(a->own);
}

static void
actor_task(void *arg)
{
    struct crash_actor *a = arg;

    if (crash__failed(a, ash_session_open(a->w->db, &a->s)) || !crash_reopen_table(a, 0, true) ||
        !crash_reopen_table(a, 1, true))
        return;
    a->w->script->fn(a);
}

static void
run_many(struct crash_world *w)
{
    struct crash_actor *actor = calloc(w->script->sessions, sizeof(*actor));
    struct task *task[8];
    uint32_t n;

    must(actor != NULL && w->script->sessions <= 8, "sessions");
    actor_init(&actor[0], w, 0);
    if (crash__failed(&actor[0], ash_session_open(w->db, &actor[0].s)) ||
        !crash_create(&actor[0], 0, 0) || !crash_create(&actor[0], 1, 0)) {
        actor_deinit(&actor[0]);
        free(actor);
        return;
    }
    actor_deinit(&actor[0]);
    for (n = 0; n < w->script->sessions; n++) {
        actor_init(&actor[n], w, n + 1);
        if (crash__failed(&actor[n], task_spawn(w->rt, "actor", actor_task, &actor[n], &task[n]))) {
            actor_deinit(&actor[n]);
            break;
        }
    }
    for (uint32_t i = 0; i < n; i++)
        task_join(task[i]);
    for (uint32_t i = 0; i < n; i++)
        actor_deinit(&actor[i]);
    free(actor);
}

static void
run_script(struct crash_world *w)
{
    struct crash_actor a;

    ash_rc rc = crash_open(w->rt, w->disk, ASH_OPEN_CREATE, !w->script->background, &w->db);
    if (rc != ASH_OK) {
        must(w->faults, "open: %s", ash_error_last()->message);
        first_failure(w, rc);
        return;
    }
    w->opened = true;
    w->db->env.hot_after = 2; /* with contention splits, as few as the collisions are here */
    if (w->script->sessions > 1) {
        run_many(w);
    } else {
        actor_init(&a, w, 0);
        if (!crash__failed(&a, ash_session_open(w->db, &a.s)))
            w->script->fn(&a);
        actor_deinit(&a);
    }
    rc = ash_close(w->db);
    if (rc != ASH_OK)
        first_failure(w, rc);
    must(rc == ASH_OK || w->faults, "close: %s", ash_error_last()->message);
}

static void
run_body(void *arg)
{
    struct crash_world *w = arg;

    if (w->memory_at != 0)
        mem_fail_at(w->memory_at, w->memory_sticky);
    run_script(w);
    if (w->memory_at != 0)
        w->allocations = mem_fail_count();
    mem_fail_at(0, false);
}

ash_rc
crash_run(struct crash_world *w)
{
    struct task_sim_options o = { .seed = w->seed, .step_max = 100000000 };

    db_env_seed = w->seed;
    db_env_name = w->script->name;
    assert_note_seed(w->seed);
    must_ok(task_sim_create(&o, &w->rt));
    ash_rc rc = task_sim_run(w->rt, run_body, w);
    w->trace = task_sim_trace(w->rt);
    if (rc == ASH_OK)
        must(task_sim_memory(w->rt) == 0, "script %s leaked %llu bytes", w->script->name,
             (unsigned long long)task_sim_memory(w->rt));
    task_runtime_destroy(w->rt);
    w->rt = NULL;
    return rc;
}

/* ---- States ---- */

struct mirror {
    bool exists[CRASH_TABLES];
    uint64_t value[CRASH_TABLES][CRASH_KEYS];
    uint64_t state;
};

static void
mirror_row(struct mirror *m, uint32_t table, uint32_t key, uint64_t value)
{
    m->state += row_number(table, key, value) - row_number(table, key, m->value[table][key]);
    m->value[table][key] = value;
}

static void
mirror_apply(struct mirror *m, const struct crash_change *c)
{
    switch (c->kind) {
    case CRASH_ROW: mirror_row(m, c->table, c->key, c->value); break;
    case CRASH_CREATE:
        m->state += m->exists[c->table] ? 0 : table_number(c->table);
        m->exists[c->table] = true;
        break;
    default:
        for (uint32_t k = 0; k < CRASH_KEYS; k++)
            mirror_row(m, c->table, k, 0);
        m->state -= m->exists[c->table] ? table_number(c->table) : 0;
        m->exists[c->table] = false;
        break;
    }
}

static int
commit_order(const void *a, const void *b)
{
    const struct crash_commit *x = *(struct crash_commit *const *)a,
                              *y = *(struct crash_commit *const *)b;

    return x->lsn < y->lsn ? -1 : x->lsn > y->lsn;
}

/* In a run with faults nothing follows a failed call. */
static void
commits_sort(struct crash_world *w)
{
    struct crash_commit **list = malloc((w->commit_count + 1) * sizeof(struct crash_commit *));
    uint32_t n = 0;

    must(list != NULL, "malloc");
    for (uint32_t i = 0; i < w->commit_count; i++)
        if (w->commit[i].lsn != 0)
            list[n++] = &w->commit[i];
    qsort(list, n, sizeof(struct crash_commit *), commit_order);
    for (uint32_t i = 0; i < w->commit_count; i++)
        if (w->commit[i].lsn == 0 && w->commit[i].failed)
            list[n++] = &w->commit[i];
    w->order = list;
    w->order_count = n;
}

void
crash_states(struct crash_world *w)
{
    struct mirror *m = calloc(1, sizeof(*m));

    must(m != NULL, "calloc");
    commits_sort(w);
    for (uint32_t i = 0; i < w->order_count; i++) {
        struct crash_commit *c = w->order[i];
        for (uint32_t n = 0; n < c->count; n++)
            mirror_apply(m, &w->change[c->first + n]);
        c->state = m->state;
    }
    free(m);
}

bool
crash_state_allowed(const struct crash_world *w, uint64_t state, uint64_t acked_lsn,
                    uint32_t issued)
{
    struct crash_commit **list = w->order;

    if (state == 0 && acked_lsn == 0) /* S_0 */
        return true;
    for (uint32_t i = 0; i < w->order_count; i++) {
        if ((uint32_t)(list[i] - w->commit) >= issued) /* O3: it and all after it */
            return false;
        bool all_acked = i + 1 == w->order_count || list[i + 1]->lsn == 0 ||
                         list[i + 1]->lsn > acked_lsn; /* O2 */
        if (all_acked && list[i]->state == state)
            return true;
    }
    return false;
}

static ash_rc
read_table(ash_session *s, ash_table *t, uint32_t table, uint64_t *value /* or NULL */,
           uint64_t *state)
{
    struct ash_row row[32];
    ash_cursor *c;
    size_t n;
    ash_rc rc = ash_cursor_open(s, t, NULL, &c);

    if (rc != ASH_OK)
        return rc;
    while ((rc = ash_cursor_batch(c, ASH_ARRAY_SIZE(row), row, &n)) == ASH_OK)
        for (size_t i = 0; i < n; i++) {
            uint32_t key;
            if (!key_parse(row[i].key, &key)) {
                ash_cursor_close(c);
                return ash_raise(ASH_CORRUPT, "a row has a key that was never written");
            }
            uint64_t v = value_hash(row[i].value);
            *state += row_number(table, key, v);
            if (value != NULL)
                value[key] = v;
        }
    ash_cursor_close(c);
    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

static ash_rc
read_all(ash_db *db, struct mirror *m, uint64_t *state_out)
{
    ash_session *s;
    uint64_t state = 0;
    ash_rc rc = ash_session_open(db, &s);

    if (rc != ASH_OK)
        return rc;
    for (uint32_t i = 0; i < CRASH_TABLES && rc == ASH_OK; i++) {
        char name[16];
        ash_table *t;
        table_name(i, name);
        rc = ash_table_open(s, name, &t);
        if (rc == ASH_NOT_FOUND) {
            rc = ASH_OK;
            continue;
        }
        if (rc != ASH_OK)
            break;
        state += table_number(i);
        if (m != NULL)
            m->exists[i] = true;
        rc = read_table(s, t, i, m != NULL ? m->value[i] : NULL, &state);
        ash_table_close(t);
    }
    ash_session_close(s);
    if (rc == ASH_OK)
        *state_out = state;
    return rc;
}

ash_rc
crash_read_state(ash_db *db, uint64_t *state_out)
{
    return read_all(db, NULL, state_out);
}

void
crash_explain(struct crash_world *w, ash_db *db, uint64_t acked_lsn, uint32_t issued)
{
    struct mirror *found = calloc(1, sizeof(*found)), *m = calloc(1, sizeof(*m));
    uint64_t state = 0;
    uint32_t n = w->order_count, shown = 0;
    struct crash_commit **list = w->order;

    must(found != NULL && m != NULL, "calloc");
    ash_rc rc = read_all(db, found, &state);
    fprintf(stderr,
            "found state %016llx (%s); %u commits, acknowledged up to lsn %llu, %u issued\n",
            (unsigned long long)state, ash_rc_name(rc), n, (unsigned long long)acked_lsn, issued);
    for (uint32_t i = 0; i < n; i++) {
        if (list[i]->lsn > acked_lsn || list[i]->lsn == 0) {
            fprintf(stderr, "  not acknowledged: commit %u lsn %llu state %016llx%s\n",
                    (uint32_t)(list[i] - w->commit), (unsigned long long)list[i]->lsn,
                    (unsigned long long)list[i]->state, list[i]->failed ? " failed" : "");
            if (++shown > 5)
                break;
            continue;
        }
        if (list[i]->state == state)
            fprintf(stderr, "  it is the state after commit %u lsn %llu\n",
                    (uint32_t)(list[i] - w->commit), (unsigned long long)list[i]->lsn);
        for (uint32_t c = 0; c < list[i]->count; c++)
            mirror_apply(m, &w->change[list[i]->first + c]);
    }
    shown = 0;
    for (uint32_t t = 0; t < CRASH_TABLES; t++) {
        if (found->exists[t] != m->exists[t])
            fprintf(stderr, "  table t%u: %s\n", t,
                    found->exists[t] ? "there, but should not" : "missing");
        for (uint32_t k = 0; k < CRASH_KEYS && shown < 12; k++)
            if (found->value[t][k] != m->value[t][k]) {
                fprintf(stderr,
                        "  t%u row %u: found %016llx, last acknowledged state has %016llx\n", t, k,
                        (unsigned long long)found->value[t][k], (unsigned long long)m->value[t][k]);
                shown++;
            }
    }
    free(found);
    free(m);
}

ash_rc
crash_use(ash_db *db, uint32_t count)
{
    ash_session *s;
    ash_table *t;
    struct ash_slice v;
    ash_rc rc = ash_session_open(db, &s);

    if (rc != ASH_OK)
        return rc;
    rc = ash_table_create(s, "use", NULL);
    if (rc == ASH_OK)
        rc = ash_table_open(s, "use", &t);
    if (rc != ASH_OK) {
        ash_session_close(s);
        return rc;
    }
    for (uint32_t i = 0; i < count && rc == ASH_OK; i++) {
        uint32_t k = i % 7;
        rc = i % 5 == 4 ? ash_delete(s, t, ash_slice(&k, sizeof(k)))
                        : ash_put(s, t, ash_slice(&k, sizeof(k)), ash_slice("some bytes", 10));
        if (i % 5 == 4 && rc == ASH_NOT_FOUND)
            rc = ASH_OK;
        if (rc == ASH_OK)
            rc = ash_get(s, t, ash_slice(&k, sizeof(k)), &v);
        if (rc == (i % 5 == 4 ? ASH_NOT_FOUND : ASH_OK))
            rc = ASH_OK;
    }
    ash_table_close(t);
    if (rc == ASH_OK)
        rc = ash_table_drop(s, "use");
    ash_session_close(s);
    return rc;
}

void
crash_world_free(struct crash_world *w)
{
    free(w->change);
    free(w->commit);
    free(w->order);
    memset(w, 0, sizeof(*w));
}
