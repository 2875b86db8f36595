/* SPDX-License-Identifier: Apache-2.0
 *
 * api_stat.c - metrics and options of an open database.
 */
#include "api/api_int.h"
#include "base/hist.h"

#include <stdio.h>

#define CALIBRATE_MS 3000

/* A class of I/O: what came, what it became, and how long it took. */
static void
api_stat_io_class(ash_db *db, const struct io_stats *io, enum io_class c, struct hist *h,
                  ash_stat_fn fn, void *arg)
{
    const struct {
        const char *name;
        uint64_t value;
    } figure[] = { { "requests", io->requests[c] },
                   { "ios", io->ios[c] },
                   { "bytes", io->bytes[c] },
                   { "overdue", io->overdue[c] } };
    char name[64];

    for (unsigned i = 0; i < ASH_ARRAY_SIZE(figure); i++) {
        snprintf(name, sizeof(name), "io.%s.%s", io_class_name(c), figure[i].name);
        fn(arg, name, figure[i].value);
    }
    if (h == NULL)
        return;
    hist_init(h);
    io_latency(db->io, c, h);
    snprintf(name, sizeof(name), "io.%s.p50_ns", io_class_name(c));
    fn(arg, name, hist_quantile(h, 0.5));
    snprintf(name, sizeof(name), "io.%s.p99_ns", io_class_name(c));
    fn(arg, name, hist_quantile(h, 0.99));
}

static void
api_stat_io(ash_db *db, ash_stat_fn fn, void *arg)
{
    struct hist *h = mem_alloc(MEM_API, sizeof(*h)); /* NULL: no quantiles */
    struct io_stats io;

    io_stats(db->io, &io);
    for (int c = 1; c < IO_CLASS_COUNT; c++)
        api_stat_io_class(db, &io, (enum io_class)c, h, fn, arg);
    mem_free(MEM_API, h);
    fn(arg, "io.flushes", io.flushes);
    fn(arg, "io.syscalls", io.syscalls);
    fn(arg, "io.retries", io.retries);
    fn(arg, "io.gap_bytes", io.gap_bytes);
    fn(arg, "io.cancelled", io.cancelled);
    fn(arg, "io.stuck", io.stuck);
    fn(arg, "io.stale_completions", io.stale);
    fn(arg, "io.credit_ns", io.credit_ns);
    fn(arg, "io.credit_used_ns", io.credit_used_ns);
}

static void
api_stat_model(const struct io_model *m, const char *prefix, ash_stat_fn fn, void *arg)
{
    const struct {
        const char *name;
        uint64_t value;
    } figure[] = { { "read_iops", m->read_iops },   { "write_iops", m->write_iops },
                   { "read_bytes", m->read_bytes }, { "write_bytes", m->write_bytes },
                   { "read_ns", m->read_ns },       { "write_ns", m->write_ns } };
    char name[64];

    for (unsigned i = 0; i < ASH_ARRAY_SIZE(figure); i++) {
        snprintf(name, sizeof(name), "%s%s", prefix, figure[i].name);
        fn(arg, name, figure[i].value);
    }
}

static void
api_stat_storage(ash_db *db, ash_stat_fn fn, void *arg)
{
    struct pstore_stats ps;
    struct io_model model;

    api_stat_io(db, fn, arg);
    io_model(db->io, &model);
    api_stat_model(&model, "io.device.", fn, arg);
    pstore_stats(db->pstore, &ps);
    fn(arg, "pages.file_bytes", ps.file_bytes);
    fn(arg, "pages.live_bytes", ps.live_bytes);
    fn(arg, "pages.zones", ps.zones);
    fn(arg, "pages.zones_free", ps.zones_free);
    fn(arg, "pages.allocated", ps.pages);
    fn(arg, "pages.written", ps.page_writes);
    fn(arg, "pages.write_ios", ps.write_ios);
    fn(arg, "pages.write_bytes", ps.write_bytes);
    fn(arg, "pages.read", ps.reads);
    fn(arg, "pages.read_bytes", ps.read_bytes);
    fn(arg, "pages.map_writes", ps.map_writes);
}

static void
api_stat_buffer(ash_db *db, ash_stat_fn fn, void *arg)
{
    struct buf_stats b;
    char name[64];

    buf_stats(db->pool, &b);
    fn(arg, "buffer.frames", b.frames);
    fn(arg, "buffer.frames_free", b.free_frames);
    fn(arg, "buffer.frames_dirty", b.dirty_frames);
    fn(arg, "buffer.misses", b.misses);
    fn(arg, "buffer.evictions", b.evictions);
    fn(arg, "buffer.page_writes", b.page_writes);
    fn(arg, "buffer.latch_waits", b.latch_waits);
    fn(arg, "buffer.optimistic_restarts", b.opt_restarts);
    for (unsigned c = 0; c < PAGE_CLASS_COUNT; c++) {
        snprintf(name, sizeof(name), "buffer.pages.%uk", PAGE_CLASS_SIZE(c) / 1024);
        fn(arg, name, b.by_class[c]);
    }
    api__budget_stat(db, &b, fn, arg);
}

static void
api_stat_log(ash_db *db, ash_stat_fn fn, void *arg)
{
    struct wal_stats w;

    wal_stats(db->wal, &w);
    fn(arg, "wal.records", w.records);
    fn(arg, "wal.bytes", w.bytes);
    fn(arg, "wal.blocks", w.blocks);
    fn(arg, "wal.block_bytes", w.block_bytes);
    fn(arg, "wal.flush_waits", w.flush_waits);
    fn(arg, "wal.reads_buffer", w.reads_buffer);
    fn(arg, "wal.reads_disk", w.reads_disk);
    fn(arg, "wal.segments", w.segments);
    fn(arg, "wal.segments_recycled", w.recycled);
    fn(arg, "wal.lsn_reserved", wal_reserved(db->wal));
    fn(arg, "wal.lsn_durable", wal_durable(db->wal));
    fn(arg, "wal.lsn_oldest", wal_oldest(db->wal));
}

static void
api_stat_txn(ash_db *db, ash_stat_fn fn, void *arg)
{
    struct txn_stats t;

    txn_stats(db->txn, &t);
    fn(arg, "txn.begun", t.begun);
    fn(arg, "txn.committed", t.committed);
    fn(arg, "txn.rolled_back", t.rolled_back);
    fn(arg, "txn.waits", t.waits);
    fn(arg, "txn.deadlocks", t.deadlocks);
    fn(arg, "txn.lock_timeouts", t.timeouts);
    fn(arg, "txn.conflicts", t.conflicts);
    fn(arg, "txn.versions_read", t.versions_read);
    fn(arg, "txn.purged", t.purged);
    fn(arg, "txn.active", t.active);
    fn(arg, "txn.losers", t.losers);
    fn(arg, "txn.oldest_snapshot", t.oldest_snapshot);
    fn(arg, "txn.horizon", t.horizon);
    fn(arg, "txn.next_id", t.next_id);
}

static void
api_stat_btree(ash_db *db, ash_stat_fn fn, void *arg)
{
    struct btree_stats b;

    btree_stats(&db->env, &b);
    fn(arg, "btree.reads", b.reads);
    fn(arg, "btree.writes", b.writes);
    fn(arg, "btree.restarts", b.restarts);
    fn(arg, "btree.leaf_splits", b.leaf_splits);
    fn(arg, "btree.contention_splits", b.contention_splits);
    fn(arg, "btree.inner_splits", b.inner_splits);
    fn(arg, "btree.merges", b.merges);
    fn(arg, "btree.purged_rows", b.purged_rows);
}

ash_rc
ash_calibrate(const char *path, ash_stat_fn fn, void *arg)
{
    struct io_options o = { .direct = true };
    struct io_model model;
    struct io_dir *dir = NULL;
    struct io *io = NULL;

    if (path == NULL)
        return ash_raise(ASH_INVALID, "The path is NULL.");
    ash_rc rc = task_runtime_create(&o.rt);
    if (rc != ASH_OK)
        return rc;
    rc = io_create(&o, &io);
    if (rc == ASH_OK)
        rc = io_dir_open(io, path, 0, &dir);
    if (rc == ASH_OK)
        rc = io_calibrate(dir, CALIBRATE_MS, &model);
    if (rc == ASH_OK && fn != NULL)
        api_stat_model(&model, "", fn, arg);
    io_dir_close(dir);
    io_destroy(io);
    task_runtime_destroy(o.rt);
    return rc;
}

ash_rc
ash_stats(ash_db *db, ash_stat_fn fn, void *arg)
{
    char name[64];
    ash_rc rc = api_check_db(db);

    if (rc != ASH_OK)
        return rc;
    api_stat_storage(db, fn, arg);
    api_stat_buffer(db, fn, arg);
    api_stat_log(db, fn, arg);
    api_stat_txn(db, fn, arg);
    api_stat_btree(db, fn, arg);
    api__executors_stat(db, fn, arg);
    for (int tag = 1; tag < MEM_TAG_COUNT; tag++) {
        snprintf(name, sizeof(name), "memory.%s", mem_tag_name((enum mem_tag)tag));
        fn(arg, name, mem_used((enum mem_tag)tag));
    }
    return ASH_OK;
}

ash_rc
ash_option_get(ash_db *db, const char *name, char *value_out, size_t size)
{
    ash_rc rc = api_check_db(db);

    if (rc != ASH_OK)
        return rc;
    task_mutex_lock(&db->mutex);
    rc = options_format(&db->options, name, value_out, size);
    task_mutex_unlock(&db->mutex);
    return rc;
}

ash_rc
ash_option_set(ash_db *db, const char *name, const char *value)
{
    enum option_id id;
    ash_rc rc = api_check_db(db);

    if (rc == ASH_OK)
        rc = option_find(name, &id);
    if (rc != ASH_OK)
        return rc;
    if (!option_changeable(id))
        return ash_raise_obj(ASH_INVALID, name,
                             "Option \"%s\" cannot be changed while the database is open.", name);
    task_mutex_lock(&db->mutex);
    rc = options_set(&db->options, name, value);
    if (rc == ASH_OK && id == OPT_lock_timeout_ms)
        txn_set_lock_timeout(db->txn, db->options.v[id]);
    if (rc == ASH_OK && db->checkpointer != NULL)
        checkpoint_tune(db->checkpointer, db->options.v[OPT_wal_limit],
                        db->options.v[OPT_checkpoint_ms]);
    if (rc == ASH_OK)
        txn_set_version_limit(db->txn, db->options.v[OPT_wal_version_limit]);
    task_mutex_unlock(&db->mutex);
    return rc;
}
