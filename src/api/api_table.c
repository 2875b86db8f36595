/* SPDX-License-Identifier: Apache-2.0
 *
 * api_table.c - creating, dropping, opening and listing tables.
 */
#include "api/api_int.h"

ash_rc
ash_table_create(ash_session *s, const char *name, const struct ash_table_options *options)
{
    struct ash_table_options with = { .page_size = (uint32_t)s->db->options.v[OPT_page_size] };
    ash_rc rc = api__begin(s, /* write= */ true);

    if (rc != ASH_OK)
        return rc;
    if (options != NULL && options->page_size != 0)
        with.page_size = options->page_size;
    bool autocommit = !s->in_transaction;
    rc = api__end(s, catalog_table_create(s->db->catalog, s->txn, &s->changes, name, &with));
    if (autocommit && s->committed)
        catalog_committed(s->db->catalog, &s->changes);
    else if (autocommit)
        catalog_rolled_back(s->db->catalog, &s->changes, 0);
    return rc;
}

ash_rc
ash_table_drop(ash_session *s, const char *name)
{
    ash_rc rc = api__begin(s, /* write= */ true);

    if (rc != ASH_OK)
        return rc;
    bool autocommit = !s->in_transaction;
    rc = api__end(s, catalog_table_drop(s->db->catalog, s->txn, &s->changes, name));
    if (autocommit && s->committed)
        catalog_committed(s->db->catalog, &s->changes);
    else if (autocommit)
        catalog_rolled_back(s->db->catalog, &s->changes, 0);
    return rc;
}

ash_rc
ash_table_open(ash_session *s, const char *name, ash_table **table_out)
{
    ash_table *handle = mem_zalloc(MEM_API, sizeof(*handle));

    if (handle == NULL)
        return ASH_NO_MEMORY;
    handle->db = s->db;
    ash_rc rc = api__begin(s, /* write= */ false);
    if (rc == ASH_OK)
        rc = api__end(s, catalog_table_open(s->db->catalog, s->txn, name, &handle->table));
    if (rc != ASH_OK) {
        if (handle->table != NULL) /* found, but by a snapshot that was given up meanwhile */
            catalog_table_close(s->db->catalog, handle->table);
        mem_free(MEM_API, handle);
        return rc;
    }
    *table_out = handle;
    return ASH_OK;
}

void
ash_table_close(ash_table *table)
{
    if (table == NULL || api_check_db(table->db) != ASH_OK)
        return;
    catalog_table_close(table->db->catalog, table->table);
    mem_free(MEM_API, table);
}

ash_rc
ash_table_list(ash_session *s, ash_table_list_fn fn, void *arg)
{
    ash_rc rc = api__begin(s, /* write= */ false);

    return rc != ASH_OK ? rc : api__end(s, catalog_table_list(s->db->catalog, s->txn, fn, arg));
}

ash_rc
ash_table_stats(ash_session *s, ash_table *table, struct ash_table_stat *stat_out)
{
    ash_rc rc = api__begin(s, /* write= */ false);

    if (rc != ASH_OK)
        return rc;
    rc = api__table_alive(table);
    if (rc == ASH_OK)
        rc = btree_stat(&table->table->bt, stat_out);
    return api__end(s, rc);
}
