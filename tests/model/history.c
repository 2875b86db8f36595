/* SPDX-License-Identifier: Apache-2.0
 *
 * history.c - the check of history.h: two passes over the same replay.
 *
 * Pass 1 (collect) finds each committed transaction's last write of each row: the versions.  They
 * are sorted by row and place in the log. Pass 2 (check) replays every session again and compares
 * every result with the versions and the transaction's own writes.
 */
#include "tests/model/history.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAVEPOINTS_MAX 64u

struct version {
    uint32_t key, session;
    uint64_t lo, hi; /* where the commit record ends */
    uint64_t value;
};

struct own { /* one write of the transaction, on the stack that savepoints cut */
    uint32_t key;
    bool had;
    uint64_t before;
};

struct savepoint {
    uint64_t number;
    uint32_t depth;
};

struct check {
    const uint64_t *base;
    uint32_t keys;
    struct version *version;
    uint32_t version_count, version_room;
    uint32_t *first; /* by key: index of its first version; keys + 1 entries */
    bool collecting;
    uint64_t failures;

    /* of the session being replayed */
    const struct history_log *log;
    uint32_t at;
    bool in_txn, read_committed;
    uint64_t snapshot;
    bool *mine; /* by key */
    uint64_t *mine_value;
    struct own *own;
    uint32_t own_count, own_room;
    struct savepoint savepoint[SAVEPOINTS_MAX];
    uint32_t savepoint_count;
    /* its cursor: rows in [from, to); the gap it stands in: `next` is the row after it in key order
     * */
    uint32_t from, to;
    /* Where it stands: a step up finds a row >= high and leaves out none >= high_must; a step down
     * finds one < low and leaves out none < low_must.  They differ after running off an end, when
     * the transaction may write rows behind the last one: it may stand before or after those. */
    uint32_t low, low_must, high, high_must;
    bool cursor_autocommit;
    uint64_t cursor_snapshot, cursor_opened; /* read committed: rows may be as old as the cursor */
};

static void *
grow(void *p, uint32_t *room, uint32_t need, size_t size)
{
    if (need <= *room)
        return p;
    *room = need < 64 ? 64 : need * 2;
    p = realloc(p, *room * size);
    if (p == NULL)
        abort();
    return p;
}

struct history_op *
history_add(struct history_log *log, enum history_kind kind)
{
    log->op = grow(log->op, &log->room, log->count + 1, sizeof(*log->op));
    struct history_op *op = &log->op[log->count++];
    memset(op, 0, sizeof(*op));
    op->kind = (uint8_t)kind;
    return op;
}

void
history_free(struct history_log *log)
{
    free(log->op);
    memset(log, 0, sizeof(*log));
}

/* ---- Telling what is wrong ---- */

static const char *const kind_name[] = { "?",         "begin",       "commit", "rollback",
                                         "savepoint", "rollback_to", "get",    "get_for_update",
                                         "put",       "insert",      "update", "delete",
                                         "cursor",    "seek",        "step",   "keys_step" };

static void
print_op(const struct history_op *op)
{
    fprintf(stderr, "    %-14s %s%srow %u value %016llx %s snapshot %llu log %llu..%llu\n",
            kind_name[op->kind], op->autocommit ? "auto " : "", op->flag ? "+ " : "", op->key,
            (unsigned long long)op->value, ash_rc_name((ash_rc)op->rc),
            (unsigned long long)op->snapshot, (unsigned long long)op->lo,
            (unsigned long long)op->hi);
}

static void
wrong(struct check *c, uint32_t key, const char *what)
{
    if (c->failures++ > 3)
        return;
    fprintf(stderr, "history: session %u operation %u: %s\n", c->log->session, c->at, what);
    uint32_t from = c->at > 12 ? c->at - 12 : 0;
    for (uint32_t i = from; i <= c->at; i++)
        print_op(&c->log->op[i]);
    fprintf(stderr,
            "  snapshot %llu; own write of row %u: %s %016llx; versions of the row: base %016llx",
            (unsigned long long)c->snapshot, key, c->mine[key] ? "yes" : "no",
            (unsigned long long)c->mine_value[key], (unsigned long long)c->base[key]);
    for (uint32_t i = c->first[key]; i < c->first[key + 1]; i++)
        fprintf(stderr, ", s%u@%llu..%llu %016llx", c->version[i].session,
                (unsigned long long)c->version[i].lo, (unsigned long long)c->version[i].hi,
                (unsigned long long)c->version[i].value);
    fprintf(stderr, "\n");
}

/* ---- What a snapshot sees ---- */

/* May a reader with a snapshot somewhere in [lo, hi] see `value` in the row? */
static bool
may_see(const struct check *c, uint32_t key, uint64_t lo, uint64_t hi, uint64_t value)
{
    uint32_t first = c->first[key], end = c->first[key + 1];

    if (c->base[key] == value && (first == end || c->version[first].hi > lo))
        return true;
    for (uint32_t i = first; i < end; i++) {
        const struct version *v = &c->version[i];
        bool covered = i + 1 < end && c->version[i + 1].hi <= lo;
        if (v->value == value && v->lo <= hi && !covered)
            return true;
    }
    return false;
}

/* Same question for "some row" / "no row". */
static bool
may_be_present(const struct check *c, uint32_t key, uint64_t lo, uint64_t hi, bool present)
{
    uint32_t first = c->first[key], end = c->first[key + 1];

    if ((c->base[key] != 0) == present && (first == end || c->version[first].hi > lo))
        return true;
    for (uint32_t i = first; i < end; i++) {
        const struct version *v = &c->version[i];
        bool covered = i + 1 < end && c->version[i + 1].hi <= lo;
        if ((v->value != 0) == present && v->lo <= hi && !covered)
            return true;
    }
    return false;
}

/* Did somebody else commit the row after `snapshot` and before `until`: surely, or perhaps? */
static bool
changed_by_other(const struct check *c, uint32_t key, uint64_t snapshot, uint64_t until,
                 bool surely)
{
    for (uint32_t i = c->first[key]; i < c->first[key + 1]; i++) {
        const struct version *v = &c->version[i];
        if ((surely ? v->lo : v->hi) > snapshot && v->lo <= until && v->session != c->log->session)
            return true;
    }
    return false;
}

/* ---- The transaction's own writes ---- */

static void
own_put(struct check *c, uint32_t key, uint64_t value)
{
    c->own = grow(c->own, &c->own_room, c->own_count + 1, sizeof(*c->own));
    c->own[c->own_count++] = (struct own){ key, c->mine[key], c->mine_value[key] };
    c->mine[key] = true;
    c->mine_value[key] = value;
}

static void
own_cut(struct check *c, uint32_t depth)
{
    while (c->own_count > depth) {
        struct own *o = &c->own[--c->own_count];
        c->mine[o->key] = o->had;
        c->mine_value[o->key] = o->before;
    }
}

static void
add_version(struct check *c, uint32_t key, uint64_t value, uint64_t lo, uint64_t hi)
{
    c->version = grow(c->version, &c->version_room, c->version_count + 1, sizeof(*c->version));
    c->version[c->version_count++] = (struct version){ key, c->log->session, lo, hi, value };
}

static void
txn_end(struct check *c, const struct history_op *op, bool committed)
{
    for (uint32_t i = 0; i < c->own_count && committed; i++) {
        uint32_t key = c->own[i].key;
        if (!c->mine[key])
            continue;
        if (c->collecting)
            add_version(c, key, c->mine_value[key], op->lo, op->hi);
        else if (!c->read_committed &&
                 changed_by_other(c, key, c->snapshot, op->lo - 1, /* surely= */ true))
            wrong(
                c, key,
                "a lost update: somebody else committed this row between snapshot and commit (H3)");
        c->mine[key] = false; /* once per row */
    }
    for (uint32_t i = 0; i < c->own_count; i++)
        c->mine[c->own[i].key] = false;
    c->own_count = 0;
    c->savepoint_count = 0;
    c->in_txn = false;
}

/* ---- Single rows ---- */

static void
check_get(struct check *c, const struct history_op *op)
{
    uint64_t value = op->rc == ASH_OK ? op->value : 0;

    if (op->rc != ASH_OK && op->rc != ASH_NOT_FOUND)
        return;
    if (c->in_txn && c->mine[op->key]) {
        if (c->mine_value[op->key] != value)
            wrong(c, op->key, "does not see its own write (H1)");
        return;
    }
    uint64_t lo = op->snapshot != 0 ? op->snapshot : op->autocommit ? op->lo : c->snapshot;
    uint64_t hi = op->snapshot != 0 ? op->snapshot : op->autocommit ? op->hi : c->snapshot;
    if (op->kind == HISTORY_GET_NEWEST)
        hi = op->hi;
    if (!may_see(c, op->key, lo, hi, value))
        wrong(c, op->key, "sees what its snapshot does not contain (H1)");
}

static void
check_write(struct check *c, const struct history_op *op)
{
    bool own = c->in_txn && c->mine[op->key];
    bool own_present = own && c->mine_value[op->key] != 0;
    bool current = op->autocommit ||
                   c->read_committed; /* not bound to the transaction's snapshot */
    uint64_t lo = op->autocommit ? op->lo : c->snapshot;
    uint64_t hi = op->rc == ASH_OK && !current ? c->snapshot : op->hi;
    bool want_present = op->kind == HISTORY_UPDATE || op->kind == HISTORY_DELETE;

    switch (op->rc) {
    case ASH_OK:
        if (op->kind == HISTORY_PUT)
            break;
        if (own ? own_present != want_present : !may_be_present(c, op->key, lo, hi, want_present))
            wrong(c, op->key,
                  want_present ? "changed a row that is not there (H5)"
                               : "inserted a row that is there (H5)");
        break;
    case ASH_EXISTS:
    case ASH_NOT_FOUND: {
        bool present = op->rc == ASH_EXISTS;
        if ((op->rc == ASH_EXISTS) != (op->kind == HISTORY_INSERT) || op->kind == HISTORY_PUT)
            wrong(c, op->key, "such a result makes no sense for this call (H5)");
        else if (own ? own_present != present : !may_be_present(c, op->key, lo, op->hi, present))
            wrong(c, op->key,
                  present ? "EXISTS, but there is no row (H5)"
                          : "NOT_FOUND, but there is a row (H5)");
        break;
    }
    case ASH_CONFLICT:
        if (current)
            wrong(c, op->key, "a conflict where no snapshot is to be kept (H4)");
        else if (own || !changed_by_other(c, op->key, c->snapshot, op->hi, /* surely= */ false))
            wrong(c, op->key,
                  "a conflict although nobody committed the row after the snapshot (H4)");
        break;
    default: break; /* deadlock, time-out, would block: depends on timing */
    }
}

static void
do_write(struct check *c, const struct history_op *op)
{
    if (!c->collecting)
        check_write(c, op);
    if (op->rc != ASH_OK)
        return;
    uint64_t value = op->kind == HISTORY_DELETE ? 0 : op->value;
    if (!op->autocommit)
        own_put(c, op->key, value);
    else if (c->collecting)
        add_version(c, op->key, value, op->lo, op->hi);
}

/* ---- Scans ---- */

static bool
scan_may(const struct check *c, uint32_t key, uint64_t value, bool any_value)
{
    uint64_t s = c->cursor_snapshot;
    uint64_t lo = c->read_committed && !c->cursor_autocommit ? c->cursor_opened : s;

    if (!c->cursor_autocommit && c->mine[key])
        return any_value ? c->mine_value[key] != 0 : c->mine_value[key] == value;
    return any_value ? may_be_present(c, key, lo, s, true) : may_see(c, key, lo, s, value);
}

static void
stand(struct check *c, uint32_t low, uint32_t high)
{
    c->low = c->low_must = low;
    c->high = c->high_must = high;
}

static void
check_step(struct check *c, const struct history_op *op)
{
    bool found = op->rc == ASH_OK;

    if (op->rc != ASH_OK && op->rc != ASH_NOT_FOUND)
        return;
    c->cursor_snapshot = op->snapshot;
    if (found && (op->key < c->from || op->key >= c->to)) {
        wrong(c, op->key, "a scan left its bounds (H2)");
        return;
    }
    if (found && (op->flag ? op->key < c->high : op->key >= c->low)) {
        wrong(c, op->key, "a scan went the wrong way (H2)");
        return;
    }
    uint32_t skip_from = op->flag ? c->high_must : found ? op->key + 1 : c->from;
    uint32_t skip_to = op->flag ? (found ? op->key : c->to) : c->low_must;
    if (!c->collecting) {
        for (uint32_t k = skip_from; k < skip_to; k++)
            if (!scan_may(c, k, 0, false)) {
                wrong(c, k, "a scan left out this row (H2)");
                return;
            }
        if (found && !scan_may(c, op->key, op->value, op->kind == HISTORY_KEYS_STEP))
            wrong(c, op->key, "a scan shows what its snapshot does not contain (H2)");
    }
    if (found) {
        stand(c, op->key, op->key + 1);
    } else if (op->flag) {
        c->low_must = c->high;
        c->high_must = c->low = c->to;
    } else {
        c->high_must = c->low;
        c->low_must = c->high = c->from;
    }
}

static void
replay_op(struct check *c, const struct history_op *op)
{
    switch ((enum history_kind)op->kind) {
    case HISTORY_BEGIN:
        c->in_txn = true;
        c->read_committed = op->flag;
        c->snapshot = op->snapshot;
        break;
    case HISTORY_COMMIT: txn_end(c, op, op->rc == ASH_OK); break;
    case HISTORY_ROLLBACK: txn_end(c, op, false); break;
    case HISTORY_SAVEPOINT:
        if (c->savepoint_count == SAVEPOINTS_MAX)
            abort();
        c->savepoint[c->savepoint_count++] = (struct savepoint){ op->value, c->own_count };
        break;
    case HISTORY_ROLLBACK_TO:
        while (c->savepoint_count > 0 && c->savepoint[c->savepoint_count - 1].number != op->value)
            c->savepoint_count--;
        if (c->savepoint_count == 0)
            abort();
        own_cut(c, c->savepoint[c->savepoint_count - 1].depth);
        break;
    case HISTORY_GET:
    case HISTORY_GET_NEWEST:
        if (c->read_committed && !op->autocommit && op->snapshot != 0)
            c->snapshot = op->snapshot;
        if (!c->collecting)
            check_get(c, op);
        break;
    case HISTORY_PUT:
    case HISTORY_INSERT:
    case HISTORY_UPDATE:
    case HISTORY_DELETE: do_write(c, op); break;
    case HISTORY_CURSOR:
        c->from = op->key;
        c->to = (uint32_t)op->value;
        stand(c, op->flag ? c->to : c->from, op->flag ? c->to : c->from);
        c->cursor_autocommit = op->autocommit;
        c->cursor_snapshot = c->cursor_opened = op->snapshot;
        break;
    case HISTORY_SEEK: {
        uint32_t at = op->flag ? op->key : op->key + 1;
        at = at < c->from ? c->from : at > c->to ? c->to : at;
        stand(c, at, at);
        break;
    }
    case HISTORY_STEP:
    case HISTORY_KEYS_STEP: check_step(c, op); break;
    }
}

static void
replay(struct check *c, const struct history_log *log)
{
    c->log = log;
    c->in_txn = false;
    c->own_count = c->savepoint_count = 0;
    memset(c->mine, 0, c->keys * sizeof(*c->mine));
    for (c->at = 0; c->at < log->count; c->at++)
        replay_op(c, &log->op[c->at]);
}

static int
version_order(const void *a, const void *b)
{
    const struct version *x = a, *y = b;

    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->lo < y->lo ? -1 : x->lo > y->lo;
}

bool
history_check(const struct history_log *logs, uint32_t count, uint64_t *base, uint32_t keys)
{
    struct check c = { .base = base, .keys = keys, .collecting = true };

    c.first = calloc(keys + 2, sizeof(*c.first));
    c.mine = calloc(keys + 1, sizeof(*c.mine));
    c.mine_value = calloc(keys + 1, sizeof(*c.mine_value));
    if (c.first == NULL || c.mine == NULL || c.mine_value == NULL)
        abort();
    for (uint32_t i = 0; i < count; i++)
        replay(&c, &logs[i]);
    if (c.version_count > 0)
        qsort(c.version, c.version_count, sizeof(*c.version), version_order);
    for (uint32_t i = 0; i < c.version_count; i++)
        c.first[c.version[i].key + 1]++;
    for (uint32_t k = 0; k < keys; k++)
        c.first[k + 1] += c.first[k];
    c.collecting = false;
    for (uint32_t i = 0; i < count; i++)
        replay(&c, &logs[i]);
    for (uint32_t k = 0; k < keys; k++)
        if (c.first[k] < c.first[k + 1])
            base[k] = c.version[c.first[k + 1] - 1].value;
    free(c.version);
    free(c.first);
    free(c.mine);
    free(c.mine_value);
    free(c.own);
    return c.failures == 0;
}
