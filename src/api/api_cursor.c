/* SPDX-License-Identifier: Apache-2.0
 *
 * api_cursor.c - cursors: the session's snapshot inside a transaction, a snapshot of their own
 * outside.
 */
#include "api/api_int.h"

static ash_rc
api_cursor_own_txn(ash_session *s, ash_cursor *c)
{
    struct txn_begin_options begin = { .isolation = ASH_SNAPSHOT,
                                       .durability = s->durability,
                                       .read_only = true };

    if (c->txn == NULL) {
        ash_rc rc = txn_attach(s->db->txn, &c->txn);
        if (rc != ASH_OK)
            return rc;
    }
    c->own_txn = true;
    return txn_begin(c->txn, &begin);
}

/* Gives everything back. */
static void
api_cursor_destroy(ash_cursor *c)
{
    btree_cursor_close(c->cursor);
    if (c->own_txn)
        txn_detach(c->txn);
    mem_free(MEM_API, c);
}

void
api__cursor_spare_free(ash_session *s)
{
    if (s->spare != NULL)
        api_cursor_destroy(s->spare);
    s->spare = NULL;
}

/* Ends the use of a cursor.  Scans outside of transactions are often short: one cursor per session
 * is kept for the next. */
static void
api_cursor_free(ash_cursor *c)
{
    ash_session *s = c->session;

    if (c->own_txn && c->txn->open)
        ash_ignore(txn_commit(c->txn, /* wait= */ false, NULL)); /* it has read only */
    if (c->table != NULL)
        catalog_table_close(s->db->catalog, c->table);
    list_remove(&c->link);
    if (!c->own_txn || c->cursor == NULL || s->spare != NULL) {
        api_cursor_destroy(c);
        return;
    }
    btree_cursor_rest(c->cursor);
    c->table = NULL;
    s->spare = c;
}

/* A cursor for the session's state, with its transaction open. */
static ash_rc
api_cursor_new(ash_session *s, ash_cursor **out)
{
    ash_cursor *c = s->in_transaction ? NULL : s->spare;

    if (c != NULL) {
        s->spare = NULL;
    } else {
        c = mem_zalloc(MEM_API, sizeof(*c));
        if (c == NULL)
            return ASH_NO_MEMORY;
        list_init(&c->link);
        c->session = s;
    }
    *out = c;
    if (!s->in_transaction) {
        list_push_back(&s->own_cursors, &c->link);
        return api_cursor_own_txn(s, c);
    }
    c->txn = s->txn;
    c->txn->fresh = false;
    list_push_back(&s->cursors, &c->link);
    return txn_statement(c->txn, /* write= */ false);
}

ash_rc
ash_cursor_open(ash_session *s, ash_table *table, const struct ash_cursor_options *options,
                ash_cursor **cursor_out)
{
    static const struct ash_cursor_options everything;
    ash_cursor *c = NULL;
    ash_rc rc = api_check_db(s->db);

    if (rc != ASH_OK)
        return rc;
    if (table->db != s->db)
        return ash_raise(ASH_MISUSE, "The table and the session belong to different databases.");
    if (options == NULL)
        options = &everything;
    rc = api_cursor_new(s, &c);
    if (rc == ASH_OK)
        rc = api__table_alive(table);
    if (rc == ASH_OK) {
        c->table = catalog_table_ref(s->db->catalog, table->table);
        c->reverse = options->reverse;
        rc = c->cursor != NULL ? btree_cursor_reopen(c->cursor, &table->table->bt, c->txn, options)
                               : btree_cursor_open(&table->table->bt, c->txn, options, &c->cursor);
    }
    if (rc != ASH_OK) {
        if (c != NULL)
            api_cursor_free(c);
        return rc;
    }
    *cursor_out = c;
    return ASH_OK;
}

void
ash_cursor_close(ash_cursor *c)
{
    if (c == NULL)
        return;
    if (c->session == NULL)
        mem_free(MEM_API, c); /* its session was closed first */
    else if (api_check_db(c->session->db) == ASH_OK)
        api_cursor_free(c);
}

/* The session ends: cursors that the caller forgot keep their handles but nothing else. */
void
api__cursors_forget(ash_session *s)
{
    LIST_FOREACH_SAFE(it, tmp, &s->own_cursors) {
        ash_cursor *c = list_entry(it, ash_cursor, link);
        btree_cursor_close(c->cursor);
        ash_ignore(txn_commit(c->txn, /* wait= */ false, NULL)); /* it has read only */
        txn_detach(c->txn);
        catalog_table_close(s->db->catalog, c->table);
        list_remove(&c->link);
        c->cursor = NULL;
        c->session = NULL;
    }
    LIST_FOREACH_SAFE(it, tmp, &s->ended_cursors) {
        ash_cursor *c = list_entry(it, ash_cursor, link);
        catalog_table_close(s->db->catalog, c->table);
        list_remove(&c->link);
        c->session = NULL;
    }
}

/* The transaction ends: its cursors keep their handles but nothing else. */
void
api__cursors_end(ash_session *s)
{
    LIST_FOREACH_SAFE(it, tmp, &s->cursors) {
        ash_cursor *c = list_entry(it, ash_cursor, link);
        btree_cursor_close(c->cursor);
        c->cursor = NULL;
        list_remove(&c->link);
        list_push_back(&s->ended_cursors, &c->link);
    }
}

static ash_rc
api_cursor_begin(ash_cursor *c)
{
    if (c->cursor == NULL)
        return ash_raise(ASH_MISUSE,
                         "The cursor's transaction or session has ended; close the cursor.");
    ash_rc rc = api_check_db(c->session->db);
    if (rc != ASH_OK)
        return rc;
    c->txn->fresh = false;
    rc = txn_statement(c->txn, /* write= */ false);
    /* A snapshot from before the drop keeps the tree; that of a new statement does not (table.h
     * R2). */
    if (rc == ASH_OK && c->txn->isolation == ASH_READ_COMMITTED &&
        atomic_load(&c->table->dropped) && !PLANTED(113))
        return ash_raise_obj(
            ASH_CONFLICT, c->table->name,
            "Table \"%s\" was dropped while a cursor was open on it; close the cursor.",
            c->table->name);
    return rc;
}

static ash_rc
api_cursor_end(ash_cursor *c, ash_rc rc)
{
    ash_rc checked = txn_check(c->txn);

    return checked != ASH_OK ? checked : rc;
}

static ash_rc
api_cursor_step(ash_cursor *c, bool forward, struct ash_row *row_out)
{
    struct btree_row row;
    ash_rc rc = api_cursor_begin(c);

    if (rc != ASH_OK)
        return rc;
    rc = api_cursor_end(c, btree_cursor_step(c->cursor, forward, &row));
    if (rc == ASH_OK) {
        row_out->key = row.key;
        row_out->value = row.value;
    }
    return rc;
}

ash_rc
ash_cursor_next(ash_cursor *c, struct ash_row *row_out)
{
    return api_cursor_step(c, !c->reverse, row_out);
}

ash_rc
ash_cursor_prev(ash_cursor *c, struct ash_row *row_out)
{
    return api_cursor_step(c, c->reverse, row_out);
}

ash_rc
ash_cursor_seek(ash_cursor *c, struct ash_slice key)
{
    ash_rc rc = api_cursor_begin(c);

    if (rc != ASH_OK)
        return rc;
    if (key.size > ASH_KEY_SIZE_MAX)
        return ash_raise(ASH_TOO_LARGE, "A key of %zu bytes is larger than the limit of %d bytes.",
                         key.size, ASH_KEY_SIZE_MAX);
    return btree_cursor_seek(c->cursor, key, !c->reverse);
}

static_assert(sizeof(struct ash_row) == sizeof(struct btree_row), "rows are handed through");

ash_rc
ash_cursor_batch(ash_cursor *c, size_t capacity, struct ash_row *rows_out, size_t *count_out)
{
    ash_rc rc = api_cursor_begin(c);

    if (rc != ASH_OK)
        return rc;
    if (capacity == 0)
        return ash_raise(ASH_INVALID, "A batch needs room for at least one row.");
    return api_cursor_end(c, btree_cursor_batch(c->cursor, !c->reverse, capacity,
                                                (struct btree_row *)(void *)rows_out, count_out));
}
