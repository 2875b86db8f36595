/* SPDX-License-Identifier: Apache-2.0
 *
 * api_row.c - reading and writing rows.  Each call is a statement of the open transaction, or a
 * transaction of its own.
 */
#include "api/api_int.h"

static ash_rc
api_row_begin(ash_session *s, const ash_table *table, struct ash_slice key, bool write)
{
    if (ASH_UNLIKELY(key.size > ASH_KEY_SIZE_MAX))
        return ash_raise(ASH_TOO_LARGE, "A key of %zu bytes is larger than the limit of %d bytes.",
                         key.size, ASH_KEY_SIZE_MAX);
    if (ASH_UNLIKELY(key.size != 0 && key.data == NULL))
        return ash_raise(ASH_INVALID, "A key of %zu bytes was given without its bytes.", key.size);
    if (ASH_UNLIKELY(table->db != s->db))
        return ash_raise(ASH_MISUSE, "The table and the session belong to different databases.");
    ash_rc rc = api__begin(s, write);
    if (rc != ASH_OK)
        return rc;
    rc = api__table_alive(table);
    return rc == ASH_OK || s->in_transaction ? rc : api__end(s, rc);
}

ash_rc
ash_get(ash_session *s, ash_table *table, struct ash_slice key, struct ash_slice *value_out)
{
    ash_rc rc = api_row_begin(s, table, key, /* write= */ false);

    if (rc != ASH_OK)
        return rc;
    rc = api__end(s, btree_get(&table->table->bt, s->txn, key, &s->value));
    if (rc == ASH_OK)
        *value_out = ash_slice(s->value.data, s->value.size);
    return rc;
}

static ash_rc
api_multi_room(ash_session *s, size_t count)
{
    if (count <= s->multi_capacity)
        return ASH_OK;
    uint32_t *offsets = mem_realloc(MEM_API, s->multi_offsets, count * sizeof(*offsets));
    if (offsets == NULL)
        return ASH_NO_MEMORY;
    s->multi_offsets = offsets;
    uint32_t *sizes = mem_realloc(MEM_API, s->multi_sizes, count * sizeof(*sizes));
    if (sizes == NULL)
        return ASH_NO_MEMORY;
    s->multi_sizes = sizes;
    s->multi_capacity = count;
    return ASH_OK;
}

ash_rc
ash_multiget(ash_session *s, ash_table *table, size_t count, const struct ash_slice *keys,
             struct ash_slice *values_out, ash_rc *results_out)
{
    struct ash_slice longest = { 0 };

    if (count == 0)
        return ASH_OK;
    for (size_t i = 0; i < count; i++)
        if (keys[i].size >= longest.size)
            longest = keys[i];
    ash_rc rc = api_multi_room(s, count);
    if (rc == ASH_OK)
        rc = api_row_begin(s, table, longest, /* write= */ false);
    if (rc != ASH_OK)
        return rc;
    rc = api__end(s, btree_multiget(&table->table->bt, s->txn, count, keys, &s->value,
                                    s->multi_offsets, s->multi_sizes, results_out));
    for (size_t i = 0; i < count && rc == ASH_OK; i++)
        if (results_out[i] == ASH_OK)
            values_out[i] = ash_slice(s->value.data + s->multi_offsets[i], s->multi_sizes[i]);
    return rc;
}

ash_rc
ash_get_for_update(ash_session *s, ash_table *table, struct ash_slice key, enum ash_lock_wait wait,
                   struct ash_slice *value_out)
{
    if (!s->in_transaction)
        return ash_raise(
            ASH_MISUSE,
            "A row is locked until the transaction ends; call ash_begin before ash_get_for_update.");
    ash_rc rc = api_row_begin(s, table, key, /* write= */ true);
    if (rc != ASH_OK)
        return rc;
    rc = api__end(s, btree_get_for_update(&table->table->bt, s->txn, key, wait == ASH_LOCK_NOWAIT,
                                          &s->value));
    if (rc == ASH_OK)
        *value_out = ash_slice(s->value.data, s->value.size);
    return rc;
}

static ash_rc
api_write(ash_session *s, ash_table *table, enum btree_write_kind kind, struct ash_slice key,
          struct ash_slice value)
{
    if (ASH_UNLIKELY(value.size > ASH_VALUE_SIZE_MAX))
        return ash_raise(ASH_TOO_LARGE,
                         "A value of %zu bytes is larger than the limit of %u bytes.", value.size,
                         ASH_VALUE_SIZE_MAX);
    if (ASH_UNLIKELY(value.size != 0 && value.data == NULL))
        return ash_raise(ASH_INVALID, "A value of %zu bytes was given without its bytes.",
                         value.size);
    ash_rc rc = api_row_begin(s, table, key, /* write= */ true);
    if (rc != ASH_OK)
        return rc;
    return api__end(s, btree_write(&table->table->bt, s->txn, kind, key, value));
}

ash_rc
ash_put(ash_session *s, ash_table *table, struct ash_slice key, struct ash_slice value)
{
    return api_write(s, table, BTREE_PUT, key, value);
}

ash_rc
ash_insert(ash_session *s, ash_table *table, struct ash_slice key, struct ash_slice value)
{
    return api_write(s, table, BTREE_INSERT, key, value);
}

ash_rc
ash_update(ash_session *s, ash_table *table, struct ash_slice key, struct ash_slice value)
{
    return api_write(s, table, BTREE_UPDATE, key, value);
}

ash_rc
ash_delete(ash_session *s, ash_table *table, struct ash_slice key)
{
    return api_write(s, table, BTREE_DELETE, key, ash_slice(NULL, 0));
}

ash_rc
ash_bulk_load(ash_session *s, ash_table *table, ash_bulk_next_fn next, void *arg)
{
    if (s->in_transaction)
        return ash_raise(ASH_MISUSE,
                         "A bulk load is a transaction of its own; end the open one first.");
    ash_rc rc = api_row_begin(s, table, ash_slice(NULL, 0), /* write= */ true);
    if (rc != ASH_OK)
        return rc;
    return api__end(s, btree_bulk_load(&table->table->bt, next, arg));
}
