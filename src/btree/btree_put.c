/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_put.c - putting a row into an exclusively latched leaf: does it fit, what must go first,
 * the change itself.
 *
 * Used by writers and by undo, so that both make room in the same way: rows that no snapshot needs
 * lose their version heads, ghosts that nobody can see go (one purge change before the put, in the
 * same mini-transaction), and only then is the leaf split.
 */
#include "btree/btree_int.h"

uint32_t
btree__purge_list(const struct btree *bt, const uint8_t *page, uint32_t except, uint8_t *list,
                  uint32_t *count_out, uint32_t *removed_below_out)
{
    const struct btree_node *n = btree__cnode(page);
    const struct btree_slot *slots = btree__cslots(page);
    uint32_t count = 0, gain = 0, left = n->versions;
    *removed_below_out = 0;
    for (uint32_t i = 0; i < n->count && left > 0 && count < BTREE_PURGE_MAX; i++) {
        uint32_t flags = slots[i].key >> BTREE_SLOT_KEY_BITS;
        if ((flags & BTREE_ROW_VERSIONED) == 0)
            continue;
        left--;
        uint64_t writer = get_le64(page + slots[i].offset);
        if (i == except || !(PLANTED(85) || txn_visible_to_all(bt->env->txn, writer)))
            continue;
        bool gone = (flags & BTREE_ROW_DELETED) != 0;
        put_le32(list + 4 * (size_t)count++, i << 1 | gone);
        gain += gone ? btree__entry_size(page, i) + (uint32_t)sizeof(struct btree_slot)
                     : BTREE_VERSION_SIZE;
        if (gone && i < except)
            ++*removed_below_out;
    }
    *count_out = count;
    return gain;
}

bool
btree__put_plan(const struct btree *bt, const struct buf_page *leaf, const struct btree_put *put,
                struct btree_put_plan *plan)
{
    const struct btree_node *n = btree__cnode(leaf->data);
    plan->slot = btree__lower_bound(leaf->data, leaf->size, put->key.size > 0 ? put->key.data : "",
                                    (uint32_t)put->key.size, &plan->exact);
    plan->purge_count = plan->purge_gain = 0;
    plan->need = (uint32_t)put->key.size - n->prefix_size + (uint32_t)put->value.size +
                 ((put->flags & BTREE_ROW_VERSIONED) != 0 ? BTREE_VERSION_SIZE : 0);
    uint32_t room = btree__free_total(leaf->data, leaf->size), want = plan->need;
    if (plan->exact)
        room += btree__entry_size(leaf->data, plan->slot);
    else
        want += (uint32_t)sizeof(struct btree_slot);
    if (want <= room)
        return true;
    if (n->versions == 0)
        return false;
    uint32_t removed_below;
    /* A new row's slot is where a ghost may stand that goes: rows below it shift it. */
    uint32_t except = plan->exact ? plan->slot : UINT32_MAX;
    plan->purge_gain =
        btree__purge_list(bt, leaf->data, except, plan->purge, &plan->purge_count, &removed_below);
    if (want > room + plan->purge_gain)
        return false;
    if (plan->exact) {
        plan->slot -= removed_below;
    } else {
        uint32_t below = 0;
        for (uint32_t i = 0; i < plan->purge_count; i++) {
            uint32_t word = get_le32(plan->purge + 4 * (size_t)i);
            below += (word & 1) != 0 && word >> 1 < plan->slot;
        }
        plan->slot -= below;
    }
    return true;
}

uint32_t
btree__put_bytes(const struct btree_put *put, const struct btree_put_plan *plan)
{
    return 4 * plan->purge_count + 8 + (uint32_t)sizeof(struct btree_op_put) + BTREE_VERSION_SIZE +
           (uint32_t)put->key.size + (uint32_t)put->value.size + 8;
}

void
btree__put_payload(const struct buf_page *leaf, const struct btree_put *put,
                   const struct btree_put_plan *plan, uint8_t *payload, uint32_t *size_out)
{
    uint32_t prefix = btree__cnode(leaf->data)->prefix_size;
    struct btree_op_put op = {
        .writer = put->writer,
        .slot = plan->slot,
        .key_size = plan->exact ? 0 : (uint16_t)(put->key.size - prefix),
        .value_size = (uint16_t)put->value.size,
        .flags = put->flags,
        .mode = plan->exact ? BTREE_PUT_REPLACE : BTREE_PUT_INSERT,
    };
    uint8_t *p = payload;
    memcpy(p, &op, sizeof(op));
    p += sizeof(op);
    if ((put->flags & BTREE_ROW_VERSIONED) != 0 && put->writer == 0) {
        memcpy(p, put->version, BTREE_VERSION_SIZE);
        p += BTREE_VERSION_SIZE;
    }
    if (op.key_size > 0)
        memcpy(p, (const uint8_t *)put->key.data + prefix, op.key_size);
    p += op.key_size;
    if (put->value.size > 0)
        memcpy(p, put->value.data, put->value.size);
    *size_out = (uint32_t)(p - payload) + (uint32_t)put->value.size;
}

void
btree__put_apply(struct btree_mtr *bm, struct buf_page *leaf, const struct btree_put *put,
                 const struct btree_put_plan *plan, const uint8_t *payload, uint32_t size,
                 uint8_t **patch_out)
{
    if (plan->purge_count > 0)
        btree__mtr_change(bm, leaf, BTREE_OP_LEAF_PURGE, plan->purge, 4 * plan->purge_count);
    btree__mtr_change(bm, leaf, BTREE_OP_LEAF_PUT, payload, size);
    *patch_out = NULL;
    if ((put->flags & BTREE_ROW_VERSIONED) != 0 && put->writer != 0)
        *patch_out = leaf->data + btree__cslots(leaf->data)[plan->slot].offset + 8;
}
