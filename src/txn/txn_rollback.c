/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_rollback.c - undo: rollback, rollback to a savepoint and the undo of losers (txn_loser.c) are
 * this one loop.
 *
 * Walks the transaction's records from the newest; each ROW is undone by the tree (which logs a
 * CLR), each CLR jumps over what it has undone already.  So an interrupted undo goes on where it
 * stopped.
 */
#include "txn/txn_int.h"

#define TXN_RECORD_START 4096u /* first guess for a record's size; grown when a record is larger */

static ash_rc
txn_read_record(struct txn_sys *sys, uint64_t lsn, struct txn_buffer *buf, uint32_t *size_out)
{
    for (;;) {
        uint32_t size = 0;
        ash_rc rc = buf->capacity == 0 ? ASH_TOO_LARGE
                                       : wal_read(sys->wal, lsn, buf->data, buf->capacity, &size);
        if (rc == ASH_OK)
            rc = wal_record_check(buf->data, size);
        if (rc != ASH_TOO_LARGE) {
            *size_out = size;
            return rc;
        }
        uint32_t need = size > TXN_RECORD_START ? size : TXN_RECORD_START;
        uint8_t *data = mem_realloc(MEM_TXN, buf->data, need);
        if (data == NULL)
            return ASH_NO_MEMORY;
        buf->data = data;
        buf->capacity = need;
    }
}

static ash_rc
txn_record_undo(const uint8_t *record, uint32_t size, uint64_t lsn, struct txn_undo *out)
{
    const struct wal_record_head *head = (const void *)record;

    if (head->type != WAL_REC_ROW || head->link > size - sizeof(*head))
        return ash_raise(
            ASH_CORRUPT,
            "The log record at LSN %llu should be a row change but is of type %u; run `ashlar verify`.",
            (unsigned long long)lsn, head->type);
    return txn_undo_parse(record + sizeof(*head), (uint32_t)head->link, out);
}

ash_rc
txn_undo_parse(const uint8_t *undo, uint32_t size, struct txn_undo *out)
{
    const struct txn_undo_head *head = (const void *)undo;

    if (size < sizeof(*head) || head->kind < TXN_UNDO_INSERT || head->kind > TXN_UNDO_DELETE ||
        head->key_size > ASH_KEY_SIZE_MAX || head->row_size > WAL_RECORD_MAX ||
        size - sizeof(*head) < (uint64_t)head->key_size + head->row_size)
        return ash_raise(
            ASH_CORRUPT,
            "A log record's undo part does not fit its size (%u bytes); run `ashlar verify`.",
            size);
    out->head = head;
    out->key = undo + sizeof(*head);
    out->row = out->key + head->key_size;
    return ASH_OK;
}

ash_rc
txn_read_undo(struct txn_sys *sys, uint64_t undo_lsn, struct txn_buffer *buf, struct txn_undo *out)
{
    uint32_t size;

    counter_add(&sys->versions_read, 1);
    ash_rc rc = txn_read_record(sys, undo_lsn, buf, &size);
    return rc == ASH_OK ? txn_record_undo(buf->data, size, undo_lsn, out) : rc;
}

/* A loser has time.  It stops when the database closes, and on a full disk while there is room for
 * others: its CLRs would fill the log to its end, and an append that finds none kills the log. */
static ash_rc
txn_loser_may_go_on(const struct txn *t)
{
    if (!t->priv->loser)
        return ASH_OK;
    if (atomic_load(&t->sys->stopping))
        return ash_raise(ASH_CANCELLED, "The database is being closed; the next open goes on.");
    return PLANTED(403) ? ASH_OK : wal_room_for(t->sys->wal, 0);
}

ash_rc
txn__undo_to(struct txn *t, uint64_t savepoint)
{
    struct txn_buffer buf = { NULL, 0 };
    uint64_t lsn = t->last_lsn;
    ash_rc rc = ASH_OK;

    t->rolling_back = true;
    while (lsn > savepoint) {
        uint32_t size;
        struct txn_undo undo;
        rc = txn_loser_may_go_on(t);
        if (rc == ASH_OK)
            rc = txn_read_record(t->sys, lsn, &buf, &size);
        if (rc != ASH_OK)
            break;
        const struct wal_record_head *head = (const void *)buf.data;
        uint64_t next = head->prev;
        if (head->type == WAL_REC_CLR) {
            next = PLANTED(103) ? head->prev : head->link;
        } else {
            rc = txn_record_undo(buf.data, size, lsn, &undo);
            if (rc == ASH_OK)
                rc = t->sys->ops.undo(t->sys->ops.ctx, t, &undo, next);
            if (rc != ASH_OK)
                break;
            txn__garbage_drop_above(t->priv->garbage, &t->priv->garbage_count, next);
        }
        if (next >= lsn) {
            rc =
                ash_raise(ASH_CORRUPT,
                          "The log record at LSN %llu points forward to %llu; run `ashlar verify`.",
                          (unsigned long long)lsn, (unsigned long long)next);
            break;
        }
        lsn = next;
        task_point();
    }
    t->rolling_back = false;
    mem_free(MEM_TXN, buf.data);
    return rc;
}

/* On failure the transaction stays as it is, half undone, its rows locked: the database is poisoned
 * or damaged and the next open finishes the work. */
ash_rc
txn_rollback(struct txn *t)
{
    struct txn_sys *sys = t->sys;
    uint64_t id = atomic_load_explicit(&t->id, memory_order_relaxed);

    if (!t->open)
        return ash_raise(ASH_MISUSE,
                         "No transaction is open in this session; there is nothing to roll back.");
    uint64_t ended = TXN_STATE_ENDED;
    if (t->last_lsn != 0) {
        ash_rc rc = txn__undo_to(t, 0);
        if (rc != ASH_OK)
            return rc;
        struct wal_record_head head = {
            .size = sizeof(head), .type = WAL_REC_ROLLED_BACK, .txn = id, .prev = t->last_lsn
        };
        struct wal_part part = { &head, sizeof(head) };
        uint64_t start, end;
        rc = wal_append(sys->wal, &part, 1, &start, &end);
        if (rc != ASH_OK)
            return rc;
        if (!PLANTED(110))
            ended = start | TXN_STATE_UNDONE;
    }
    if (id != 0)
        atomic_store(txn__state(sys, id), ended);
    t->priv->garbage_count = 0;
    txn__purge_clear(t);
    txn__end(t);
    counter_add(&sys->rolled_back, 1);
    return ASH_OK;
}

uint64_t
txn_savepoint(struct txn *t)
{
    return t->last_lsn;
}

ash_rc
txn_rollback_to(struct txn *t, uint64_t savepoint)
{
    if (!t->open)
        return ash_raise(
            ASH_MISUSE,
            "No transaction is open in this session; there is no savepoint to roll back to.");
    if (savepoint > t->last_lsn)
        return ash_raise(ASH_INVALID, "Savepoint %llu is not one of this transaction's.",
                         (unsigned long long)savepoint);
    ash_rc rc = txn__undo_to(t, savepoint);
    t->half_undone |= rc != ASH_OK;
    return rc;
}

ash_rc
txn__half_undone(void)
{
    return ash_raise(ASH_MISUSE, "Rolling back to a savepoint failed halfway in this transaction; "
                                 "roll it back as a whole.");
}
