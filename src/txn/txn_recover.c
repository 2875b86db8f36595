/* SPDX-License-Identifier: Apache-2.0
 *
 * txn_recover.c - transactions across restarts: what a checkpoint keeps, and what analysis finds.
 * Those that were open then, the losers, are undone by txn_loser.c.
 *
 * A checkpoint names the first record of the oldest open transaction, and restart scans from there:
 * so the table of open transactions is rebuilt from the records alone.  The checkpoint itself keeps
 * only the next transaction id and the pages that were garbage. Garbage is tagged with the commit
 * LSN that made it so; a PAGE_FREE above that takes it off.
 */
#include "txn/txn_int.h"

struct txn_blob_head {
    uint32_t version; /*  0  4  1 */
    uint32_t count;   /*  4  4  entries that follow */
    uint64_t next_id; /*  8  8  ids below may have been used */
};
ASH_ONDISK_SIZE(struct txn_blob_head, 16);

struct txn_blob_entry {
    uint64_t page;     /*  0  8 */
    uint64_t lsn;      /*  8  8  commit that made it garbage */
    uint32_t tree;     /* 16  4 */
    uint32_t reserved; /* 20  4  zero */
};
ASH_ONDISK_SIZE(struct txn_blob_entry, 24);

#define TXN_BLOB_VERSION    1u
#define TXN_GARBAGE_PER_ROW 64u

static ash_rc
txn_collect(void *ctx, struct wal_blob *blob, uint64_t *oldest_out)
{
    struct txn_sys *sys = ctx;

    /* The oldest first: a transaction that ends after this has moved its garbage to the list before
     * it stopped being listed as open, and the list is read below. */
    uint64_t oldest = txn__oldest_first_lsn(sys);
    task_mutex_lock(&sys->pending_mutex);
    /* Garbage that is being freed is listed, and restart sees the records that free it. */
    if (sys->freeing_since != 0 && sys->freeing_since < oldest)
        oldest = sys->freeing_since;
    struct txn_blob_head head = { TXN_BLOB_VERSION, sys->garbage_count,
                                  atomic_load(&sys->next_id) };
    ash_rc rc = wal_blob_add(blob, &head, sizeof(head));
    for (uint32_t i = 0; i < sys->garbage_count && rc == ASH_OK; i++) {
        struct txn_blob_entry e = { sys->garbage[i].page, sys->garbage[i].lsn, sys->garbage[i].tree,
                                    0 };
        rc = wal_blob_add(blob, &e, sizeof(e));
    }
    task_mutex_unlock(&sys->pending_mutex);
    *oldest_out = oldest;
    return rc;
}

static uint64_t
txn_retain(void *ctx)
{
    struct txn_sys *sys = ctx;
    uint64_t low = wal_reserved(sys->wal);

    task_mutex_lock(&sys->attach_mutex);
    LIST_FOREACH(it, &sys->attached) {
        struct txn *t = ((struct txn *)(void *)list_entry(it, struct txn_private, link)) - 1;
        uint64_t snapshot = atomic_load(&t->snapshot);
        uint64_t retain = atomic_load(&t->retain); /* after the snapshot: txn_refresh() */
        if (snapshot != 0 && snapshot != atomic_load(&t->killed) && retain < low)
            low = retain;
    }
    task_mutex_unlock(&sys->attach_mutex);
    return low;
}

static ash_rc
txn_restore(void *ctx, const uint8_t *data, size_t size)
{
    struct txn_sys *sys = ctx;
    struct txn_blob_head head;

    if (size < sizeof(head))
        return ash_raise(ASH_CORRUPT, "The checkpoint's transaction part is only %zu bytes long.",
                         size);
    memcpy(&head, data, sizeof(head));
    if (head.version != TXN_BLOB_VERSION ||
        (size - sizeof(head)) / sizeof(struct txn_blob_entry) != head.count)
        return ash_raise(
            ASH_CORRUPT,
            "The checkpoint's transaction part (version %u, %u entries) does not fit its %zu bytes.",
            head.version, head.count, size);
    for (uint32_t i = 0; i < head.count; i++) {
        struct txn_blob_entry e;
        memcpy(&e, data + sizeof(head) + i * sizeof(e), sizeof(e));
        struct txn_garbage g = { .page = e.page, .lsn = e.lsn, .tree = e.tree };
        ash_rc rc =
            txn__garbage_push(&sys->garbage, &sys->garbage_count, &sys->garbage_capacity, &g);
        if (rc != ASH_OK)
            return rc;
    }
    if (head.next_id > atomic_load(&sys->next_id))
        atomic_store(&sys->next_id, head.next_id);
    return ASH_OK;
}

/* lsn: of its first record, when it is to be made; 0: it is not. */
static struct txn_loser *
txn_loser_find(struct txn_sys *sys, uint64_t id, uint64_t lsn)
{
    for (uint32_t i = sys->loser_count; i > 0; i--)
        if (sys->losers[i - 1].id == id)
            return &sys->losers[i - 1];
    if (lsn == 0)
        return NULL;
    if (sys->loser_count == sys->loser_capacity) {
        uint32_t larger = sys->loser_capacity == 0 ? 16 : sys->loser_capacity * 2;
        struct txn_loser *p = mem_realloc(MEM_TXN, sys->losers, larger * sizeof(*p));
        if (p == NULL)
            return NULL;
        sys->losers = p;
        sys->loser_capacity = larger;
    }
    struct txn_loser *l = &sys->losers[sys->loser_count++];
    memset(l, 0, sizeof(*l));
    l->id = id;
    l->first_lsn = lsn;
    return l;
}

static ash_rc
txn_analyse_row(struct txn_sys *sys, struct txn_loser *l, const struct wal_record *rec)
{
    uint64_t pages[TXN_GARBAGE_PER_ROW];
    struct txn_undo undo;
    ash_rc rc = txn_undo_parse(rec->undo, rec->undo_size, &undo);

    if (rc != ASH_OK)
        return rc;
    unsigned count = sys->ops.garbage(sys->ops.ctx, &undo, pages, TXN_GARBAGE_PER_ROW);
    for (unsigned i = 0; i < count && rc == ASH_OK; i++) {
        struct txn_garbage g = { .page = pages[i], .lsn = rec->start, .tree = undo.head->tree };
        rc = txn__garbage_push(&l->garbage, &l->garbage_count, &l->garbage_capacity, &g);
    }
    return rc;
}

static ash_rc
txn_analyse_commit(struct txn_sys *sys, struct txn_loser *l, uint64_t commit_lsn)
{
    ash_rc rc = ASH_OK;

    for (uint32_t i = 0; i < l->garbage_count && rc == ASH_OK; i++) {
        struct txn_garbage g = l->garbage[i];
        bool known = false; /* the checkpoint may have listed it already */
        for (uint32_t k = 0; k < sys->garbage_count && !known; k++)
            known = sys->garbage[k].page == g.page;
        g.lsn = commit_lsn;
        if (!known)
            rc = txn__garbage_push(&sys->garbage, &sys->garbage_count, &sys->garbage_capacity, &g);
    }
    if (rc == ASH_OK)
        txn__loser_remove(sys, l);
    return rc;
}

static void
txn_analyse_frees(struct txn_sys *sys, const struct wal_record *rec)
{
    struct wal_change change;
    uint32_t pos = 0;

    if (sys->garbage_count == 0)
        return;
    while (wal_record_change(rec, &pos, &change)) {
        if (change.head->op != WAL_OP_PAGE_FREE)
            continue;
        for (uint32_t i = 0; i < sys->garbage_count; i++)
            if (sys->garbage[i].page == change.head->page && sys->garbage[i].lsn < rec->start)
                sys->garbage[i--] = sys->garbage[--sys->garbage_count];
    }
}

static ash_rc
txn_analyse(void *ctx, const struct wal_record *rec)
{
    struct txn_sys *sys = ctx;
    uint64_t id = rec->head->txn;

    if (rec->head->type == WAL_REC_MTR || rec->head->type == WAL_REC_CLR)
        txn_analyse_frees(sys, rec);
    if (id == 0)
        return ASH_OK;
    if (id >= atomic_load(&sys->next_id))
        atomic_store(&sys->next_id, id + 1);
    bool change = rec->head->type == WAL_REC_ROW || rec->head->type == WAL_REC_CLR;
    struct txn_loser *l = txn_loser_find(sys, id, change ? rec->start : 0);
    if (change && l == NULL)
        return ASH_NO_MEMORY;
    switch (rec->head->type) {
    case WAL_REC_ROW: l->last_lsn = rec->start; return txn_analyse_row(sys, l, rec);
    case WAL_REC_CLR:
        l->last_lsn = rec->start;
        txn__garbage_drop_above(l->garbage, &l->garbage_count, rec->head->link);
        return ASH_OK;
    case WAL_REC_COMMIT: return l == NULL ? ASH_OK : txn_analyse_commit(sys, l, rec->start);
    case WAL_REC_ROLLED_BACK:
        if (l != NULL)
            txn__loser_remove(sys, l);
        return ASH_OK;
    default: return ASH_OK;
    }
}

void
txn_participant(struct txn_sys *sys, struct recover_participant *out)
{
    *out = (struct recover_participant){ .id = 1,
                                         .ctx = sys,
                                         .collect = txn_collect,
                                         .restore = txn_restore,
                                         .analyse = txn_analyse,
                                         .retain = txn_retain };
}
