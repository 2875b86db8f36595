/* SPDX-License-Identifier: Apache-2.0
 *
 * btree_env.h - everything below the trees, real, for the trees' tests: page store, pool, log,
 * transactions, on any backend. There are no checkpoints: nothing here is opened twice (tests/crash
 * and tests/model do that through the whole library).
 */
#ifndef ASH_TESTS_BTREE_ENV_H
#define ASH_TESTS_BTREE_ENV_H

#include "btree/btree_int.h"
#include "wal/wal_recover.h"

#include "tests/storage/io_env.h"

struct rig {
    struct env *e;
    struct pstore *ps;
    struct wal *wal;
    struct btree_env env;
    uint64_t cache;
    bool no_purge; /* the purge task is not started */
};

static ash_rc
rig_flush_to(void *ctx, uint64_t lsn)
{
    return wal_flush_to(((struct rig *)ctx)->wal, lsn);
}

static uint64_t
rig_durable(void *ctx)
{
    return wal_durable(((struct rig *)ctx)->wal);
}

static ash_rc
rig_append_map(void *ctx, const struct pstore_write *writes, unsigned count, uint64_t *end_out)
{
    return recover_append_map(((struct rig *)ctx)->wal, writes, count, end_out);
}

__attribute__((unused)) static void
rig_open(struct rig *r, struct env *e, uint64_t cache)
{
    memset(r, 0, sizeof(*r));
    r->e = e;
    r->cache = cache;
    btree_register();
    struct pstore_options ps = { .io = e->io,
                                 .dir = e->dir,
                                 .zone_bytes = cache >= (64u << 20) ? 8u << 20 : 256u << 10,
                                 .grow_bytes = cache >= (64u << 20) ? 64u << 20 : 1u << 20,
                                 .page_id_max = cache >= (64u << 20) ? 1u << 22 : 1u << 16 };
    ck_ok(pstore_create(&ps, &r->ps));
    ck_ok(pstore_recovered(r->ps));
    struct buf_options buf = { .bytes = cache,
                               .io = e->io,
                               .rt = e->rt,
                               .pstore = r->ps,
                               .writers = 1,
                               .page_id_max = ps.page_id_max };
    ck_ok(buf_create(&buf, &r->env.pool));
    struct wal_options wal = { .io = e->io,
                               .dir = e->dir,
                               .rt = e->rt,
                               .buffer_bytes = cache >= (64u << 20) ? 32u << 20 : 1u << 20,
                               .segment_bytes = cache >= (64u << 20) ? 64u << 20 : 1u << 20,
                               .writers = 2,
                               .epoch = 1 };
    memcpy(wal.uuid, pstore_uuid(r->ps), 16);
    struct wal_position at = { WAL_LSN_FIRST, 1 };
    ck_ok(wal_open(&wal, &at, NULL, &r->wal));
    r->env.wal = r->wal;
    r->env.pstore = r->ps;
    r->env.rt = e->rt;
    ck_ok(btree_env_init(&r->env));
    struct buf_log_ops log = {
        .ctx = r, .flush_to = rig_flush_to, .durable = rig_durable, .append_map = rig_append_map
    };
    ck_ok(buf_start(r->env.pool, &log));
    struct txn_options txn = { .io = e->io,
                               .pool = r->env.pool,
                               .rt = e->rt,
                               .lock_timeout_ms = 10000,
                               .version_limit = 1ull << 30,
                               .wal = r->wal };
    btree_txn_ops(&r->env, &txn.ops);
    ck_ok(txn_sys_create(&txn, &r->env.txn));
    ck_ok(txn_start(r->env.txn, r->wal));
}

__attribute__((unused)) static void
rig_close(struct rig *r)
{
    txn_stop(r->env.txn);
    buf_stop(r->env.pool);
    txn_sys_destroy(r->env.txn);
    btree_env_deinit(&r->env);
    ck_ok(wal_close(r->wal));
    buf_destroy(r->env.pool);
    pstore_close(r->ps);
}

__attribute__((unused)) static struct txn *
rig_txn(struct rig *r)
{
    struct txn *t;
    ck_ok(txn_attach(r->env.txn, &t));
    return t;
}

__attribute__((unused)) static void
rig_begin(struct txn *t)
{
    struct txn_begin_options o = { .isolation = ASH_SNAPSHOT, .durability = ASH_DURABILITY_NONE };
    ck_ok(txn_begin(t, &o));
}

/* A tree of its own. */
__attribute__((unused)) static void
rig_tree(struct rig *r, struct btree *bt, uint32_t tree, uint8_t leaf_class)
{
    uint64_t root;
    ck_ok(btree_create(&r->env, tree, leaf_class, &root));
    btree_init(bt, &r->env, tree, root, leaf_class);
}

#endif
