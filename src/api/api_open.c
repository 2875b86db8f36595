/* SPDX-License-Identifier: Apache-2.0
 *
 * api_open.c - opening and closing: brings the layers up in order, recovers, and takes them down
 * again.
 *
 * Order up: runtime, disk manager, directory, page store (lock, superblock, map), buffer pool,
 * transactions, recovery (analysis, redo), log, page writers, the tasks of transactions (undo goes on
 * while the database is used), checkpointer, catalog.  Down in reverse.  Each step is undone by
 * db_teardown() whatever was reached.
 */
#include "api/api_int.h"

#define DB_ARENA_MIN           (256u << 10)
#define DB_PAGE_ID_MAX_DEFAULT (1ull << 31)
#define DB_REDO_WORKERS        8u /* more than cores: most of their time they wait for pages */

/* ---- What the buffer pool needs from the log ---- */

static ash_rc
db_log_flush_to(void *ctx, uint64_t lsn)
{
    ash_db *db = ctx;

    return wal_flush_to(db->wal, lsn);
}

static uint64_t
db_log_durable(void *ctx)
{
    ash_db *db = ctx;

    return wal_durable(db->wal);
}

static ash_rc
db_log_append_map(void *ctx, const struct pstore_write *writes, unsigned count, uint64_t *end_out)
{
    ash_db *db = ctx;

    return recover_append_map(db->wal, writes, count, end_out);
}

/* ---- Sizes ---- */

/* With a small cache less than the option says: a sixteenth of it. */
static uint64_t
db_wal_buffer(const ash_db *db)
{
    uint64_t bytes =
        min_u64(db->options.v[OPT_wal_buffer], max_u64(db->options.v[OPT_cache] / 16, 1u << 20));

    return 1ull << log2_floor(bytes);
}

/* The most that pages may take.  The cache is one budget (api_budget.c): the pool gives back what
 * the other parts come to need; what they surely need is left out here. */
static uint64_t
db_arena(const ash_db *db)
{
    uint64_t cache = db->options.v[OPT_cache];
    uint64_t taken = db_wal_buffer(db) / 4 * 5 + cache / 64; /* with the log's links */
    uint64_t bytes = cache > taken + DB_ARENA_MIN ? cache - taken : DB_ARENA_MIN;

    return bytes >= (2u << 20) ? round_down(bytes, 2u << 20) : round_down(bytes, PAGE_SIZE_MIN);
}

/* ---- Steps ---- */

/* There is no data file that looks like ours.  With a log beside it there was one: that log may hold
 * the only copy of acknowledged rows, so nothing is made in its place.  (A creation that was
 * interrupted leaves no log without a data file.) */
static ash_rc
db_check_no_log(ash_db *db, ash_rc otherwise)
{
    struct err_detail detail;
    bool log = false;

    err_save(&detail);
    ash_rc rc = PLANTED(322) ? ASH_OK : wal_look(db->dir, &log);
    if (rc != ASH_OK)
        return rc;
    if (log)
        return ash_raise_obj(
            ASH_CORRUPT, PSTORE_FILE,
            "The directory \"%s\" holds the log of a database (wal-*.log), but its "
            "data file %s is missing or damaged from its beginning; put that file "
            "back, or restore from a backup.",
            db->path, PSTORE_FILE);
    err_restore(&detail);
    return otherwise;
}

static ash_rc
db_open_data(ash_db *db, const struct pstore_options *ps, unsigned flags)
{
    bool exists;
    ash_rc rc = pstore_look(db->dir, &exists);

    if (rc != ASH_OK)
        return rc;
    if (exists && (flags & ASH_OPEN_EXCLUSIVE) != 0)
        return ash_raise_obj(ASH_EXISTS, db->path, "The directory \"%s\" holds a database already.",
                             db->path);
    if (exists) {
        rc = pstore_open(ps, &db->pstore);
        return rc == ASH_NOT_A_DATABASE ? db_check_no_log(db, rc) : rc;
    }
    rc = db_check_no_log(db, ASH_OK);
    if (rc == ASH_OK && (flags & ASH_OPEN_CREATE) == 0)
        rc = ash_raise_obj(ASH_NOT_A_DATABASE, db->path,
                           "The directory \"%s\" holds no Ashlar database; name another one, or "
                           "create one there (ASH_OPEN_CREATE, `ashlar create`).",
                           db->path);
    return rc == ASH_OK ? pstore_create(ps, &db->pstore) : rc;
}

/* A namespace's character device takes commands only, so there auto and uring mean nvme. */
static enum io_backend_kind
db_backend(const ash_db *db)
{
    static const enum io_backend_kind kind_of_option[] = { IO_BACKEND_AUTO, IO_BACKEND_URING,
                                                           IO_BACKEND_THREADS, IO_BACKEND_NVME };

    if (db->seams.backend != IO_BACKEND_AUTO)
        return db->seams.backend;
    enum io_backend_kind kind = kind_of_option[db->options.v[OPT_io_backend]];
    return kind != IO_BACKEND_THREADS && io_is_nvme(db->path) ? IO_BACKEND_NVME : kind;
}

static ash_rc
db_open_storage(ash_db *db, unsigned flags)
{
    struct io_options io = { .backend = db_backend(db),
                             .direct = db->options.v[OPT_direct_io] != 0,
                             .rt = db->rt,
                             .disk = db->seams.disk,
                             .plain = db->options.v[OPT_io_scheduler] == 0 };
    ash_rc rc = io_create(&io, &db->io);

    if (rc != ASH_OK)
        return rc;
    bool create = (flags & ASH_OPEN_CREATE) != 0;
    rc = io_dir_open(db->io, db->path, create ? IO_CREATE : 0, &db->dir);
    if (rc == ASH_NOT_FOUND)
        return ash_raise_obj(ASH_NOT_A_DATABASE, db->path,
                             "There is no directory \"%s\"; create a database there first.",
                             db->path);
    if (rc != ASH_OK)
        return rc;
    rc = io_model_load(db->dir);
    if (rc != ASH_OK && rc != ASH_NOT_FOUND)
        log_write(LOG_WARN, "%s The device model is guessed.", err_current()->message);
    struct pstore_options ps = { .io = db->io,
                                 .dir = db->dir,
                                 .zone_bytes = (uint32_t)db->options.v[OPT_zone_size],
                                 .grow_bytes = db->seams.grow_bytes,
                                 .page_id_max = db->seams.page_id_max,
                                 .read_only = db->read_only };
    return db_open_data(db, &ps, flags);
}

static ash_rc
db_open_memory(ash_db *db)
{
    struct buf_options buf = { .bytes = db_arena(db),
                               .io = db->io,
                               .rt = db->rt,
                               .pstore = db->pstore,
                               .page_id_max = db->seams.page_id_max,
                               .writers = (unsigned)db->options.v[OPT_page_writers],
                               .read_only = db->read_only,
                               .budget = db->options.v[OPT_cache],
                               .others = api__budget_others,
                               .others_ctx = db };
    ash_rc rc = api__budget_check(db);

    if (rc == ASH_OK)
        rc = buf_create(&buf, &db->pool);
    if (rc != ASH_OK)
        return rc;
    db->env.pool = db->pool;
    db->env.pstore = db->pstore;
    db->env.rt = db->rt;
    rc = btree_env_init(&db->env);
    if (rc != ASH_OK)
        return rc;
    struct txn_options txn = { .io = db->io,
                               .pool = db->pool,
                               .rt = db->rt,
                               .lock_timeout_ms = db->options.v[OPT_lock_timeout_ms],
                               .version_limit = db->options.v[OPT_wal_version_limit],
                               .read_only = db->read_only };
    btree_txn_ops(&db->env, &txn.ops);
    rc = txn_sys_create(&txn, &db->txn);
    if (rc != ASH_OK)
        return rc;
    db->env.txn = db->txn;
    txn_participant(db->txn, &db->participant);
    return ASH_OK;
}

static ash_rc
db_open_log(ash_db *db, const struct recover_result *found)
{
    struct wal_options wal = { .io = db->io,
                               .dir = db->dir,
                               .rt = db->rt,
                               .buffer_bytes = db_wal_buffer(db),
                               .segment_bytes = db->options.v[OPT_wal_segment],
                               .writers = (unsigned)db->options.v[OPT_wal_writers],
                               .read_only = db->read_only,
                               .epoch = found->epoch + 1 };
    db->epoch = wal.epoch;
    memcpy(wal.uuid, pstore_uuid(db->pstore), sizeof(wal.uuid));
    ash_rc rc = wal_open(&wal, &found->next, found->live, &db->wal);
    if (rc != ASH_OK)
        return rc;
    db->env.wal = db->wal;
    if (db->read_only)
        return ASH_OK; /* no page is ever dirty */
    struct buf_log_ops log = { .ctx = db,
                               .flush_to = db_log_flush_to,
                               .durable = db_log_durable,
                               .append_map = db_log_append_map };
    return db->read_only ? ASH_OK : buf_start(db->pool, &log); /* no page will be dirty */
}

static void
db_checkpoint_options(ash_db *db, struct checkpoint_options *out)
{
    *out = (struct checkpoint_options){ .rt = db->rt,
                                        .io = db->io,
                                        .wal = db->wal,
                                        .pool = db->pool,
                                        .pstore = db->pstore,
                                        .log_limit = db->options.v[OPT_wal_limit],
                                        .interval_ms = db->options.v[OPT_checkpoint_ms],
                                        .participants = &db->participant,
                                        .participant_count = 1,
                                        .manual = db->seams.quiet,
                                        .epoch = db->epoch };
}

/* A database whose creation was interrupted has no checkpoint: nothing in it was ever acknowledged,
 * and it is made again. */
static ash_rc
db_make_new(ash_db *db)
{
    struct recover_result nothing = { .next = { WAL_LSN_FIRST, 1 } };
    struct checkpoint_options checkpoint;
    ash_rc rc = wal_remove_all(db->io, db->dir);

    if (rc == ASH_OK)
        rc = pstore_recovered(db->pstore);
    if (rc == ASH_OK)
        rc = db_open_log(db, &nothing);
    if (rc != ASH_OK)
        return rc;
    db_checkpoint_options(db, &checkpoint);
    rc = txn_start(db->txn, db->wal);
    if (rc == ASH_OK)
        rc = catalog_create(&db->env);
    if (rc == ASH_OK)
        rc = checkpoint_start(&checkpoint, &db->checkpointer);
    if (rc == ASH_OK)
        rc = checkpoint_now(db->checkpointer);
    return rc;
}

static ash_rc
db_recover(ash_db *db)
{
    struct recover_options recover = { .io = db->io,
                                       .rt = db->rt,
                                       .workers = DB_REDO_WORKERS,
                                       .dir = db->dir,
                                       .pool = db->pool,
                                       .pstore = db->pstore,
                                       .participants = &db->participant,
                                       .participant_count = 1,
                                       .read_only = db->read_only };
    struct checkpoint_options checkpoint;
    struct recover_result found;
    ash_rc rc = recover_run(&recover, &found);

    if (rc != ASH_OK)
        return rc;
    rc = db_open_log(db, &found);
    if (rc != ASH_OK)
        return rc;
    rc = txn_start(db->txn, db->wal);
    if (rc != ASH_OK || db->read_only)
        return rc;
    db_checkpoint_options(db, &checkpoint);
    rc = checkpoint_start(&checkpoint, &db->checkpointer);
    if (rc == ASH_OK && !found.clean) {
        struct txn_stats t;
        txn_stats(db->txn, &t);
        log_write(LOG_INFO,
                  "%s: recovered; %llu log records read, %llu page changes redone, %llu "
                  "transactions being rolled back.",
                  db->path, (unsigned long long)found.records_scanned,
                  (unsigned long long)found.changes_redone, (unsigned long long)t.losers);
        checkpoint_soon(db->checkpointer);
    }
    return rc;
}

/* Takes down whatever is up.  `clean`: with a final checkpoint, as far as the disk allows. */
static ash_rc
db_teardown(ash_db *db, bool clean)
{
    ash_rc rc = ASH_OK;

    api__executors_stop(db);
    api__run_end(db);
    catalog_close(db->catalog);
    txn_stop(db->txn);
    if (clean && db->checkpointer != NULL)
        rc = checkpoint_final(db->checkpointer);
    checkpoint_stop(db->checkpointer);
    if (db->pool != NULL && !db->read_only)
        buf_stop(db->pool);
    txn_sys_destroy(db->txn);
    btree_env_deinit(&db->env);
    if (db->wal != NULL) {
        ash_rc closed = wal_close(db->wal);
        rc = rc == ASH_OK && clean ? closed : rc;
    }
    buf_destroy(db->pool);
    pstore_close(db->pstore);
    io_dir_close(db->dir);
    io_destroy(db->io);
    if (db->own_runtime)
        task_runtime_destroy(db->rt);
    api__budget_end(db);
    mem_free(MEM_API, db->path);
    mem_free(MEM_API, db);
    return rc;
}

static ash_rc
db_bring_up(ash_db *db, unsigned flags)
{
    struct pstore_checkpoint_info info;
    ash_rc rc = db_open_storage(db, flags);

    if (rc == ASH_OK)
        rc = db_open_memory(db);
    if (rc != ASH_OK)
        return rc;
    pstore_info(db->pstore, &info);
    if (info.checkpoint_lsn == 0 && db->read_only)
        return ash_raise_obj(
            ASH_NOT_A_DATABASE, db->path,
            "The creation of the database in \"%s\" was interrupted; open it for writing once.",
            db->path);
    rc = info.checkpoint_lsn == 0 ? db_make_new(db) : db_recover(db);
    if (rc == ASH_OK)
        rc = catalog_open(&db->env, db->read_only,
                          (uint32_t)min_u64(db->options.v[OPT_zone_size], 2u << 20), &db->catalog);
    if (rc == ASH_OK && !db->seams.quiet)
        rc = api__executors_start(db);
    return rc;
}

ash_rc
db_open(const struct db_seams *seams, const char *path, unsigned flags, const char *options,
        ash_db **db_out)
{
    ash_db *db;

    task_process_init(btree_register);
    if (path == NULL || db_out == NULL || path[0] == '\0')
        return ash_raise(ASH_INVALID,
                         "To open a database takes a directory and a place for the handle.");
    if ((flags & ASH_OPEN_READ_ONLY) && (flags & ASH_OPEN_CREATE))
        return ash_raise(ASH_INVALID,
                         "A database cannot be created read-only; drop one of the two flags.");
    db = mem_zalloc(MEM_API, sizeof(*db));
    if (db == NULL)
        return ASH_NO_MEMORY;
    db->seams = *seams;
    db->rt = seams->rt;
    db->read_only = (flags & ASH_OPEN_READ_ONLY) != 0;
    db->fork_generation = atomic_load(&task_fork_generation);
    task_mutex_init(&db->mutex);
    list_init(&db->sessions);
    list_init(&db->idle);
    api__run_init(db);
    options_default(&db->options);
    ash_rc rc = options == NULL ? ASH_OK : options_parse(&db->options, options);
    api__budget_begin(db);
    if (rc == ASH_OK && (db->path = mem_strdup(MEM_API, path)) == NULL)
        rc = ASH_NO_MEMORY;
    if (rc == ASH_OK && db->rt == NULL) {
        rc = task_runtime_create(&db->rt);
        db->own_runtime = rc == ASH_OK;
    }
    if (rc == ASH_OK)
        rc = db_bring_up(db, flags);
    if (rc != ASH_OK) {
        struct err_detail why;
        err_save(&why);
        ash_ignore(db_teardown(db, /* clean= */ false));
        err_restore(&why);
        return rc;
    }
    *db_out = db;
    return ASH_OK;
}

ash_rc
ash_open(const char *path, unsigned flags, const char *options, ash_db **db_out)
{
    struct db_seams seams = { .backend = IO_BACKEND_AUTO };

    return db_open(&seams, path, flags, options, db_out);
}

static void
db_end_sessions(ash_db *db)
{
    api__executors_stop(db); /* finishes what runs; their sessions are idle then */
    while (!list_empty(&db->sessions))
        ash_session_close(list_entry(db->sessions.next, ash_session, link));
    while (!list_empty(&db->idle)) {
        ash_session *s = list_entry(db->idle.next, ash_session, link);
        ash_session_close(s);
    }
}

ash_rc
ash_close(ash_db *db)
{
    if (db == NULL)
        return ASH_OK;
    ash_rc rc = api_check_db(db);
    if (rc != ASH_OK)
        return rc;
    if (api__on_executor(db))
        return ash_raise(ASH_MISUSE, "A function on an executor cannot close its database.");
    db_end_sessions(db);
    return db_teardown(db, /* clean= */ true);
}

void
db_abandon(ash_db *db)
{
    db_end_sessions(db);
    io_poison(db->io, ASH_CANCELLED);
    ash_ignore(db_teardown(db, /* clean= */ false));
}

void
db_layers(ash_db *db, struct db_layers *out)
{
    *out = (struct db_layers){ db->io,  db->dir, db->pstore,  db->pool,
                               db->wal, db->txn, db->catalog, db->checkpointer };
}

ash_rc
ash_checkpoint(ash_db *db)
{
    ash_rc rc = api_check_db(db);

    if (rc != ASH_OK)
        return rc;
    if (db->read_only)
        return ash_raise(ASH_READ_ONLY,
                         "The database was opened read-only; there is nothing to checkpoint.");
    return checkpoint_now(db->checkpointer);
}
