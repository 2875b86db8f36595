/* SPDX-License-Identifier: Apache-2.0
 *
 * api_verify.c - ash_verify(): every byte that matters is looked at, every page is owned exactly
 * once.
 *
 *   1. map        superblocks and map pages          checkpoints wait: they would replace what is
 *   2. log        readable from where a restart      being read
 *                 would begin to what was durable
 *   3. storage    each mapped page's checksum, identity and class
 *   4. trees      structure, order, fences; owners
 *   5. ownership  a page without an owner, or with two, or an owned page that is not allocated
 */
#include "api/api_int.h"

#define LOG_ATTEMPTS 4u

struct api_verify {
    ash_db *db;
    ash_finding_fn fn;
    void *arg;
    uint64_t findings;
    uint32_t *owner; /* tree by page id; 0: none yet */
    uint64_t pages;
    const char *table;
    char text[ERR_MESSAGE_MAX];
};

static void
api_finding(struct api_verify *v, const char *file, uint64_t page, const char *message)
{
    v->findings++;
    if (v->fn != NULL)
        v->fn(v->arg, file, page, message);
}

static void
api_found_storage(void *arg, const char *file, uint64_t offset, uint64_t page, const char *message)
{
    (void)offset; /* in the message */
    api_finding(arg, file, page, message);
}

static void
api_found_tree(void *arg, uint64_t page, const char *message)
{
    struct api_verify *v = arg;

    snprintf(v->text, sizeof(v->text), "table %s: %s", v->table, message);
    api_finding(v, "", page, v->text);
}

static void
api_own(void *arg, uint64_t page, uint32_t tree)
{
    struct api_verify *v = arg;

    if (page == 0 || page >= v->pages || !pstore_page_allocated(v->db->pstore, page)) {
        snprintf(v->text, sizeof(v->text), "table %s refers to page %llu, which is not allocated.",
                 v->table, (unsigned long long)page);
        api_finding(v, "", page, v->text);
        return;
    }
    if (v->owner[page] != 0) {
        snprintf(v->text, sizeof(v->text), "page %llu is owned twice: by tree %u and by tree %u.",
                 (unsigned long long)page, v->owner[page], tree);
        api_finding(v, "", page, v->text);
        return;
    }
    v->owner[page] = tree;
}

static ash_rc
api_verify_tree(void *arg, const char *name, uint32_t tree, uint64_t root, uint8_t leaf_class)
{
    struct api_verify *v = arg;
    struct btree_verify_ops ops = { v, api_own, api_found_tree };
    struct btree bt;

    v->table = name;
    if (strcmp(name, "(dropped)") == 0)
        /* half freed, perhaps: its pages are left out of the ownership check by their tree id */
        return ASH_OK;
    btree_init(&bt, &v->db->env, tree, root, leaf_class);
    ash_rc rc = btree_verify(&bt, &ops);
    if (rc == ASH_CORRUPT) {
        api_found_tree(v, root, ash_error_last()->message);
        return ASH_OK;
    }
    return rc;
}

/* Pages that no table owns any more and that will be freed: of a dropped tree, or replaced by a
 * newer large value. */
static bool
api_page_is_waste(struct api_verify *v, uint64_t page)
{
    struct buf_page p;

    if (txn_is_garbage(v->db->txn, page))
        return true;
    if (buf_latch_s(v->db->pool, page, &p) != ASH_OK)
        return !pstore_page_allocated(v->db->pstore, page); /* freed meanwhile */
    uint32_t tree = ((const struct page_head *)(const void *)p.data)->tree;
    buf_unlatch_s(v->db->pool, &p);
    return catalog_tree_dropped(v->db->catalog, tree) ||
           !pstore_page_allocated(v->db->pstore, page);
}

static ash_rc
api_verify_owners(struct api_verify *v)
{
    for (uint64_t page = PAGE_ID_FIRST; page < v->pages; page++) {
        task_fair_point();
        if (v->owner[page] != 0 || !pstore_page_allocated(v->db->pstore, page))
            continue;
        if (api_page_is_waste(v, page))
            continue;
        snprintf(v->text, sizeof(v->text), "page %llu is allocated, but no table owns it.",
                 (unsigned long long)page);
        api_finding(v, "", page, v->text);
    }
    return ASH_OK;
}

/* Reads the log as far as it was durable when this began.  ASH_CORRUPT: v->text names the file. */
static ash_rc
api_read_log(struct api_verify *v)
{
    struct pstore_checkpoint_info info;
    struct wal_reader *reader;
    struct wal_record rec = { 0 };
    const char *file;
    uint64_t offset, until = v->db->wal != NULL ? wal_durable(v->db->wal) : UINT64_MAX;

    pstore_info(v->db->pstore, &info);
    struct wal_position from = { info.scan_lsn, info.scan_segment };
    ash_rc rc = wal_reader_open(v->db->io, v->db->dir, pstore_uuid(v->db->pstore), &from, &reader);
    if (rc != ASH_OK)
        return rc;
    while (rec.end < until && (rc = wal_reader_next(reader, &rec)) == ASH_OK) {
        task_fair_point();
        task_point();
    }
    if (rc == ASH_CORRUPT) {
        wal_reader_where(reader, &file, &offset);
        snprintf(v->text, sizeof(v->text), "%s", file);
    }
    wal_reader_close(reader);
    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

/* The log's last block is written again while there is room in it: what looks damaged may have been
 * read in the middle of that, and is whole the next time. */
static ash_rc
api_verify_log(struct api_verify *v)
{
    ash_rc rc = ASH_CORRUPT;

    for (unsigned attempt = 0; attempt < LOG_ATTEMPTS && rc == ASH_CORRUPT; attempt++)
        rc = api_read_log(v);
    if (rc == ASH_CORRUPT)
        api_finding(v, v->text, 0, ash_error_last()->message);
    return rc == ASH_CORRUPT ? ASH_OK : rc;
}

ash_rc
ash_verify(ash_db *db, ash_finding_fn fn, void *arg)
{
    struct api_verify v = { .db = db, .fn = fn, .arg = arg };
    ash_rc rc = api_check_db(db);

    if (rc == ASH_OK)
        txn_undo_wait(db->txn); /* what restart found open is still changing trees */
    if (rc == ASH_OK && db->checkpointer != NULL)
        rc = checkpoint_now(db->checkpointer); /* so that what is on disk is what is meant */
    if (rc != ASH_OK)
        return rc;
    v.pages = pstore_page_high(db->pstore);
    v.owner = mem_zalloc(MEM_API, (v.pages + 1) * sizeof(*v.owner));
    if (v.owner == NULL)
        return ASH_NO_MEMORY;
    checkpoint_pause(db->checkpointer); /* it would replace what is being read */
    rc = pstore_verify_map(db->pstore, api_found_storage, &v);
    if (rc == ASH_OK)
        rc = api_verify_log(&v);
    checkpoint_resume(db->checkpointer);
    if (rc == ASH_OK)
        rc = pstore_verify_pages(db->pstore, api_found_storage, &v);
    if (rc == ASH_OK || rc == ASH_CORRUPT)
        rc = catalog_trees(db->catalog, api_verify_tree, &v);
    if (rc == ASH_CORRUPT) {
        api_finding(&v, "", CATALOG_ROOT, ash_error_last()->message);
        rc = ASH_OK;
    }
    if (rc == ASH_OK)
        rc = api_verify_owners(&v);
    mem_free(MEM_API, v.owner);
    if (rc == ASH_OK && v.findings != 0)
        rc = ash_raise_obj(ASH_CORRUPT, db->path, "Verification of \"%s\" found %llu problems.",
                           db->path, (unsigned long long)v.findings);
    return rc;
}
