/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_mtr.c - mini-transactions of the trees: all room is taken at the beginning, then every
 * change is logged and applied by the function that redo uses (btree_page.c I1), which cannot fail
 * any more.
 */
#include "btree/btree_int.h"

/* Up to this size scratch comes from btree__redo()'s thread-local page. */
#define SCRATCH_FREE 16384u

ash_rc
btree__mtr_begin(struct btree_mtr *bm, const struct btree_env *env, uint32_t page_size_max,
                 uint32_t changes, uint32_t payload_bytes)
{
    bm->scratch = NULL;
    bm->scratch_size = 0;
    if (page_size_max > SCRATCH_FREE) {
        bm->scratch = mem_aligned(MEM_BTREE, 64, page_size_max);
        if (bm->scratch == NULL)
            return ASH_NO_MEMORY;
        bm->scratch_size = page_size_max;
    }
    mtr_begin(&bm->m, env->wal, env->pool);
    ash_rc rc = mtr_reserve(&bm->m, payload_bytes +
                                        changes * ((uint32_t)sizeof(struct wal_change_head) + 8));
    if (rc != ASH_OK)
        btree__mtr_abort(bm);
    return rc;
}

void
btree__mtr_change(struct btree_mtr *bm, struct buf_page *page, enum btree_op op,
                  const void *payload, uint32_t size)
{
    struct wal_part part = { payload, size };
    ash_rc rc = mtr_change(&bm->m, page, (enum wal_op)op, &part, 1);
    ash_assert(rc == ASH_OK); /* room was secured */
    if (page->size > SCRATCH_FREE)
        rc = btree__apply(page->data, page->size, (uint16_t)op, payload, size, 0, bm->scratch);
    else
        rc = btree__redo(page->data, page->size, (uint16_t)op, payload, size, 0);
    ash_assert(rc == ASH_OK); /* the change was checked against the page before */
}

void
btree__mtr_edit(struct btree_mtr *bm, struct buf_page *page, struct btree_edit *e)
{
    btree__mtr_change(bm, page, BTREE_OP_NODE_EDIT, e->data, e->size);
}

void
btree__mtr_init(struct btree_mtr *bm, const struct buf_page *page)
{
    uint8_t type = ((const struct page_head *)(const void *)page->data)->type;
    struct wal_part part = { &type, 1 };
    ash_rc rc = mtr_change(&bm->m, page, WAL_OP_PAGE_INIT, &part, 1);
    ash_assert(rc == ASH_OK);
}

void
btree__mtr_free(struct btree_mtr *bm, const struct buf_page *page)
{
    ash_rc rc = mtr_change(&bm->m, page, WAL_OP_PAGE_FREE, NULL, 0);
    ash_assert(rc == ASH_OK);
}

static void
release(struct btree_mtr *bm)
{
    MEM_FREE(MEM_BTREE, bm->scratch);
}

void
btree__mtr_abort(struct btree_mtr *bm)
{
    mtr_abort(&bm->m);
    release(bm);
}

ash_rc
btree__mtr_commit(struct btree_mtr *bm)
{
    struct mtr_record record = { .type = WAL_REC_MTR };
    return btree__mtr_commit_as(bm, &record, NULL, NULL, NULL);
}

ash_rc
btree__mtr_commit_as(struct btree_mtr *bm, const struct mtr_record *record,
                     void (*patch)(void *arg, uint64_t start), void *arg, uint64_t *start_out)
{
    uint64_t end;
    ash_rc rc = mtr_commit_patch(&bm->m, record, patch, arg, start_out, &end);
    release(bm);
    return rc;
}
