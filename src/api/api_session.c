/* SPDX-License-Identifier: Apache-2.0
 *
 * api_session.c - sessions and the ends of transactions.
 */
#include "api/api_int.h"

static ash_rc
session_open(ash_db *db, bool charged, ash_session **session_out)
{
    ash_rc rc = api_check_db(db);

    if (rc != ASH_OK)
        return rc;
    ash_session *s = mem_zalloc(MEM_API, sizeof(*s));
    if (s == NULL)
        return ASH_NO_MEMORY;
    s->db = db;
    s->charged = charged;
    s->durability = (enum ash_durability)db->options.v[OPT_durability];
    list_init(&s->cursors);
    list_init(&s->own_cursors);
    list_init(&s->ended_cursors);
    rc = txn_attach(db->txn, &s->txn);
    if (rc != ASH_OK) {
        mem_free(MEM_API, s);
        return rc;
    }
    task_mutex_lock(&db->mutex);
    list_push_back(&db->sessions, &s->link);
    task_mutex_unlock(&db->mutex);
    mem_charge(MEM_API, charged ? MEM_THREAD_STACK : 0);
    *session_out = s;
    return ASH_OK;
}

ash_rc
ash_session_open(ash_db *db, ash_session **session_out)
{
    return session_open(db, /* charged= */ true, session_out);
}

void
ash_session_close(ash_session *s)
{
    if (s == NULL || api_check_db(s->db) != ASH_OK)
        return;
    if (s->in_transaction)
        ash_ignore(ash_rollback(s)); /* poisoned: the next open undoes it */
    api__cursors_end(s);
    api__cursors_forget(s);
    api__cursor_spare_free(s);
    catalog_rolled_back(s->db->catalog, &s->changes, 0); /* none, unless the rollback failed */
    task_mutex_lock(&s->db->mutex);
    list_remove(&s->link);
    task_mutex_unlock(&s->db->mutex);
    mem_charge(MEM_API, s->charged ? -MEM_THREAD_STACK : 0);
    txn_detach(s->txn);
    btree_buf_free(&s->value);
    mem_free(MEM_API, s->multi_offsets);
    mem_free(MEM_API, s->multi_sizes);
    mem_free(MEM_API, s);
}

ash_rc
ash_session_durability(ash_session *s, enum ash_durability durability)
{
    if (durability > ASH_DURABILITY_NONE)
        return ash_raise(ASH_INVALID, "Durability %d is none of sync, async and none.",
                         (int)durability);
    s->durability = durability;
    return ASH_OK;
}

bool
ash_in_transaction(const ash_session *s)
{
    return s->in_transaction;
}

/* Sessions of ash_run() are kept for the next call. */
ash_rc
api__session_take(ash_db *db, ash_session **out)
{
    ash_session *s = NULL;

    task_mutex_lock(&db->mutex);
    if (!list_empty(&db->idle)) {
        s = list_entry(db->idle.next, ash_session, link);
        list_remove(&s->link);
        list_push_back(&db->sessions, &s->link);
    }
    task_mutex_unlock(&db->mutex);
    if (s == NULL)
        return session_open(db, /* charged= */ false, out);
    s->durability = (enum ash_durability)db->options.v[OPT_durability];
    *out = s;
    return ASH_OK;
}

void
api__session_give(ash_session *s)
{
    ash_db *db = s->db;

    if (s->in_transaction) {
        ash_session_close(s); /* its rollback failed: not fit for another user */
        return;
    }
    task_mutex_lock(&db->mutex);
    list_remove(&s->link);
    list_push_front(&db->idle, &s->link);
    task_mutex_unlock(&db->mutex);
}

/* ---- Transactions ---- */

ash_rc
ash_begin(ash_session *s, const struct ash_txn_options *options)
{
    struct txn_begin_options begin = { .isolation = ASH_SNAPSHOT, .durability = s->durability };
    ash_rc rc = api_check_db(s->db);

    if (rc != ASH_OK)
        return rc;
    if (options != NULL) {
        if (options->isolation > ASH_READ_COMMITTED || options->durability > ASH_DURABILITY_NONE)
            return ash_raise(ASH_INVALID, "Isolation %d or durability %d does not exist.",
                             (int)options->isolation, (int)options->durability);
        begin.isolation = options->isolation;
        begin.durability = options->durability;
        begin.read_only = options->read_only;
        begin.lock_timeout_ms = options->lock_timeout_ms;
    }
    begin.read_only |= s->db->read_only;
    rc = txn_begin(s->txn, &begin);
    if (rc == ASH_OK)
        s->in_transaction = true;
    return rc;
}

static ash_rc
api_need_transaction(const ash_session *s)
{
    if (!s->in_transaction)
        return ash_raise(ASH_MISUSE,
                         "No transaction is open in this session; call ash_begin first.");
    return api_check_db(s->db);
}

/* Rolls back after a commit that failed before its record was logged. */
static ash_rc
api_commit_failed(ash_session *s, ash_rc rc)
{
    struct err_detail why;

    if (!s->txn->open) {
        s->in_transaction = false; /* committed, not known to be durable */
        catalog_committed(s->db->catalog, &s->changes);
        return rc;
    }
    err_save(&why);
    ash_ignore(ash_rollback(s));
    err_restore(&why);
    return rc;
}

static ash_rc
api_commit(ash_session *s, bool wait, uint64_t *end_out)
{
    ash_rc rc = api_need_transaction(s);

    if (rc != ASH_OK)
        return rc;
    api__cursors_end(s);
    rc = txn_commit(s->txn, wait, end_out);
    if (rc != ASH_OK)
        return api_commit_failed(s, rc);
    s->in_transaction = false;
    catalog_committed(s->db->catalog, &s->changes);
    return ASH_OK;
}

ash_rc
ash_commit(ash_session *s)
{
    return api_commit(s, /* wait= */ true, NULL);
}

ash_rc
ash_commit_ticket(ash_session *s, uint64_t *ticket_out)
{
    uint64_t end = 0;
    ash_rc rc = api_commit(s, /* wait= */ false, &end);

    if (rc != ASH_OK)
        return rc;
    if (end != 0)
        wal_flush_async(s->db->wal, end);
    *ticket_out = end;
    return ASH_OK;
}

ash_rc
ash_ticket_wait(ash_db *db, uint64_t ticket)
{
    ash_rc rc = api_check_db(db);

    return rc != ASH_OK ? rc : wal_flush_to(db->wal, ticket);
}

bool
ash_ticket_done(ash_db *db, uint64_t ticket)
{
    return wal_durable(db->wal) >= ticket;
}

struct api_callback {
    struct wal_callback wal;
    ash_commit_fn fn;
    void *arg;
};

static void
api_callback_fire(struct wal_callback *cb, ash_rc rc)
{
    struct api_callback *c = (struct api_callback *)(void *)cb; /* first member */

    c->fn(c->arg, rc);
    mem_free(MEM_API, c);
}

ash_rc
ash_commit_callback(ash_session *s, ash_commit_fn fn, void *arg)
{
    struct api_callback *c = mem_zalloc(MEM_API, sizeof(*c));

    if (c == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc = api_commit(s, /* wait= */ false, &c->wal.lsn);
    if (rc != ASH_OK) {
        mem_free(MEM_API, c);
        return rc;
    }
    if (s->db->read_only) { /* there is no log writer that would call, and nothing to wait for */
        mem_free(MEM_API, c);
        fn(arg, ASH_OK);
        return ASH_OK;
    }
    c->fn = fn;
    c->arg = arg;
    c->wal.fn = api_callback_fire;
    wal_on_durable(s->db->wal, &c->wal);
    return ASH_OK;
}

ash_rc
ash_rollback(ash_session *s)
{
    ash_rc rc = api_need_transaction(s);

    if (rc != ASH_OK)
        return rc;
    api__cursors_end(s);
    rc = txn_rollback(s->txn);
    if (rc != ASH_OK)
        return rc;
    s->in_transaction = false;
    catalog_rolled_back(s->db->catalog, &s->changes, 0);
    return ASH_OK;
}

ash_rc
ash_savepoint(ash_session *s, uint64_t *savepoint_out)
{
    ash_rc rc = api_need_transaction(s);

    if (rc == ASH_OK)
        *savepoint_out = txn_savepoint(s->txn);
    return rc;
}

ash_rc
ash_rollback_to(ash_session *s, uint64_t savepoint)
{
    ash_rc rc = api_need_transaction(s);

    if (rc == ASH_OK)
        rc = txn_rollback_to(s->txn, savepoint);
    if (rc == ASH_OK)
        catalog_rolled_back(s->db->catalog, &s->changes, savepoint);
    return rc;
}

/* ---- Around each data call ---- */

ash_rc
api__begin(ash_session *s, bool write)
{
    ash_rc rc = api_check_db(s->db);

    if (rc != ASH_OK)
        return rc;
    task_fair_point();
    if (!s->in_transaction) {
        struct txn_begin_options begin = { .isolation = ASH_SNAPSHOT,
                                           .durability = s->durability,
                                           .read_only = s->db->read_only,
                                           .autocommit = true };
        rc = txn_begin(s->txn, &begin);
        if (rc != ASH_OK)
            return rc;
    }
    /* One snapshot per statement, taken before the look at the table's mark: a second one would let
     * the reaper in between (table.h R2). */
    s->txn->fresh = false;
    rc = txn_statement(s->txn, write);
    s->txn->fresh = true;
    if (rc != ASH_OK && !s->in_transaction)
        return api__end(s, rc);
    return rc;
}

ash_rc
api__end(ash_session *s, ash_rc rc)
{
    s->committed = false;
    /* Damage seen by a snapshot that was given up is none: its pages may be somebody else's. */
    if (rc == ASH_OK || rc == ASH_NOT_FOUND || rc == ASH_CORRUPT) {
        ash_rc checked = txn_check(s->txn);
        if (checked != ASH_OK)
            rc = checked;
    }
    if (s->in_transaction)
        return rc;
    if (rc == ASH_OK || (rc == ASH_NOT_FOUND && s->txn->last_lsn == 0)) {
        ash_rc committed = txn_commit(s->txn, /* wait= */ true, NULL);
        s->committed = !s->txn->open; /* also when it is not known to be durable */
        if (committed == ASH_OK)
            return rc;
        rc = committed;
    }
    if (s->txn->open) {
        struct err_detail why;
        err_save(&why);
        ash_ignore(txn_rollback(s->txn)); /* the first failure is the caller's answer */
        err_restore(&why);
    }
    if (s->txn->open)
        s->in_transaction =
            true; /* poisoned and not undone: nothing more goes through this session */
    return rc;
}

/* After api__begin(): the snapshot is older than the mark, if it is not there yet (table.h R2). */
ash_rc
api__table_alive(const ash_table *table)
{
    if (ASH_UNLIKELY(atomic_load(&table->table->dropped)))
        return ash_raise_obj(ASH_NOT_FOUND, table->table->name,
                             "Table \"%s\" was dropped; close this handle.", table->table->name);
    return ASH_OK;
}
