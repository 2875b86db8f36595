/* SPDX-License-Identifier: Apache-2.0
 *
 * test_catalog.c - tables: names, creating and dropping inside transactions, handles, and that no
 * page is lost.
 *
 * Goal: what a transaction does to tables is undone or stays with it; a dropped table's pages come
 * back, not before nobody can be inside any more, and also after a crash at any moment.  Method: a
 * whole engine in simulation; the count of allocated pages is compared with that of the empty
 * database.
 */
#include "storage/pstore.h"
#include "table/table.h"

#include "tests/api/db_env.h"

#define OPTIONS     DB_ENV_TINY ",lock_timeout_ms=50"
#define ROWS        300u
#define EMPTY_PAGES 2u /* the catalog's root and its leaf */

struct fix {
    struct db_env *e;
    ash_db *db;
    ash_session *a, *b; /* two users */
    uint64_t pages;     /* of the empty database */
};

/* ---- Looking at it ---- */

static uint64_t
pages_in_use(ash_db *db)
{
    struct db_layers layers;
    struct pstore_stats stats;

    db_layers(db, &layers);
    pstore_stats(layers.pstore, &stats);
    return stats.pages;
}

static ash_rc
count_dropped(void *arg, const char *name, uint32_t tree, uint64_t root, uint8_t leaf_class)
{
    (void)tree;
    (void)root;
    (void)leaf_class;
    *(unsigned *)arg += strcmp(name, "(dropped)") == 0;
    return ASH_OK;
}

static unsigned
trees_to_reap(ash_db *db)
{
    struct db_layers layers;
    unsigned n = 0;

    db_layers(db, &layers);
    must_ok(catalog_trees(layers.catalog, count_dropped, &n));
    return n;
}

/* The reaper's rows go last, so without them it has done all it has to do. */
static void
wait_for_reaper(ash_db *db)
{
    for (int i = 0; i < 500 && trees_to_reap(db) != 0; i++)
        task_sleep_ns(20000000);
    must(trees_to_reap(db) == 0, "%u trees are still there after ten seconds", trees_to_reap(db));
}

struct names {
    char text[4096];
    unsigned count, stop_after;
};

static bool
add_name(void *arg, const char *name, const struct ash_table_options *options)
{
    struct names *n = arg;
    size_t used = strlen(n->text);

    must(options->page_size >= 4096, "page size %u", options->page_size);
    snprintf(n->text + used, sizeof(n->text) - used, "%s%s", used == 0 ? "" : " ", name);
    return ++n->count != n->stop_after;
}

static void
must_list(ash_session *s, const char *expected)
{
    struct names n = { 0 };

    must_ok(ash_table_list(s, add_name, &n));
    must(strcmp(n.text, expected) == 0, "the tables are \"%s\" instead of \"%s\"", n.text,
         expected);
}

/* ---- Filling ---- */

static struct ash_slice
row_key(unsigned i, char buf[16])
{
    return ash_slice(buf, (size_t)snprintf(buf, 16, "key%06u", i));
}

/* Rows of some 100 bytes, a few of them in pages of their own. */
static void
fill(ash_session *s, const char *name)
{
    static char value[20000];
    ash_table *t;
    char key[16];

    must_ok(ash_table_open(s, name, &t));
    for (unsigned i = 0; i < ROWS; i++)
        must_ok(
            ash_put(s, t, row_key(i, key), ash_slice(value, i % 50 == 0 ? sizeof(value) : 100)));
    ash_table_close(t);
}

static unsigned
count_rows(ash_session *s, ash_table *t)
{
    ash_cursor *c;
    struct ash_row row;
    unsigned n = 0;
    ash_rc rc;

    must_ok(ash_cursor_open(s, t, NULL, &c));
    while ((rc = ash_cursor_next(c, &row)) == ASH_OK)
        n++;
    must(rc == ASH_NOT_FOUND, "%s", ash_rc_name(rc));
    ash_cursor_close(c);
    return n;
}

static void
must_rows(ash_session *s, const char *name, unsigned expected)
{
    ash_table *t;

    must_ok(ash_table_open(s, name, &t));
    unsigned n = count_rows(s, t);
    must(n == expected, "%u rows in %s instead of %u", n, name, expected);
    ash_table_close(t);
}

/* Once the reaper is through, as many pages are in use as before the body. */
static void
must_lose_no_page(struct fix *f)
{
    wait_for_reaper(f->db);
    must(pages_in_use(f->db) == f->pages, "%llu pages are lost",
         (unsigned long long)(pages_in_use(f->db) - f->pages));
}

/* ---- A database and two sessions around each body ---- */

static void
fix_open(struct fix *f, struct db_env *e)
{
    f->e = e;
    f->db = db_env_open(e, OPTIONS, /* quiet= */ true);
    must_ok(ash_session_open(f->db, &f->a));
    must_ok(ash_session_open(f->db, &f->b));
    must_ok(ash_session_durability(f->a, ASH_DURABILITY_NONE));
}

static void
fix_close(struct fix *f)
{
    ash_session_close(f->a);
    ash_session_close(f->b);
    must_ok(ash_close(f->db));
}

static void
fix_body(struct db_env *e)
{
    struct fix f = { 0 };
    void (*const *body)(struct fix * f) = e->arg;

    fix_open(&f, e);
    f.pages = pages_in_use(f.db);
    (*body)(&f);
    db_env_verify(f.db);
    fix_close(&f);
}

static void
run(const char *name, uint64_t seed, void (*body)(struct fix *f))
{
    struct db_env e = {
        .kind = IO_BACKEND_SIM, .seed = test_seed(seed), .name = name, .arg = &body
    };

    must_ok(db_env_run(&e, fix_body));
    must(e.leaked == 0, "%llu bytes were not freed", (unsigned long long)e.leaked);
}

/* ---- Names ---- */

static void
names(struct fix *f)
{
    char longest[ASH_TABLE_NAME_MAX + 2];
    struct names first = { .stop_after = 1 };
    ash_table *t;

    must_list(f->a, "");
    must_rc(ash_table_create(f->a, "", NULL), ASH_INVALID);
    must_rc(ash_table_create(f->a, NULL, NULL), ASH_INVALID);
    must_rc(ash_table_open(f->a, "", &t), ASH_INVALID);
    must_rc(ash_table_drop(f->a, ""), ASH_INVALID);
    memset(longest, 'n', sizeof(longest));
    longest[ASH_TABLE_NAME_MAX + 1] = '\0';
    must_rc(ash_table_create(f->a, longest, NULL), ASH_INVALID);
    must_list(f->a, "");
    longest[ASH_TABLE_NAME_MAX] = '\0';
    must_ok(ash_table_create(f->a, longest, NULL));
    must_list(f->b, longest);
    must_ok(ash_table_drop(f->b, longest));

    must_ok(ash_table_create(f->a, "b", NULL));
    must_ok(ash_table_create(f->a, "\xc3\xa9t\xc3\xa9", NULL));
    must_ok(ash_table_create(f->a, "a", NULL));
    must_ok(ash_table_create(f->a, "\1", NULL));
    must_ok(ash_table_create(f->a, "ab", NULL));
    must_list(f->a, "\1 a ab b \xc3\xa9t\xc3\xa9");
    must_ok(ash_table_list(f->a, add_name, &first));
    must(strcmp(first.text, "\1") == 0, "\"%s\"", first.text);
    must_rc(ash_table_create(f->b, "ab", NULL), ASH_EXISTS);
    must_rc(ash_table_open(f->b, "abc", &t), ASH_NOT_FOUND);
    must(strstr(ash_error_last()->message, "abc") != NULL, "%s", ash_error_last()->message);
    must_rc(ash_table_drop(f->b, "abc"), ASH_NOT_FOUND);
}

START_TEST(names_are_checked_and_listed_in_order)
{
    run("names", 1, names);
}
END_TEST

/* ---- Options ---- */

static bool
note_page_size(void *arg, const char *name, const struct ash_table_options *options)
{
    (void)name;
    *(uint32_t *)arg = options->page_size;
    return true;
}

static void
page_sizes(struct fix *f)
{
    static const uint32_t wrong[] = { 1, 2048, 5000, 12288, 128u << 10, 1u << 31 };
    uint32_t found = 0;

    for (size_t i = 0; i < ASH_ARRAY_SIZE(wrong); i++) {
        struct ash_table_options o = { .page_size = wrong[i] };
        must_rc(ash_table_create(f->a, "t", &o), ASH_INVALID);
    }
    for (uint32_t size = 4096; size <= 64u << 10; size *= 2) {
        struct ash_table_options o = { .page_size = size };
        must_ok(ash_table_create(f->a, "t", &o));
        must_ok(ash_table_list(f->b, note_page_size, &found));
        must(found == size, "page size %u instead of %u", found, size);
        fill(f->a, "t");
        must_rows(f->b, "t", ROWS);
        must_ok(ash_table_drop(f->a, "t"));
    }
    must_lose_no_page(f);
}

START_TEST(page_sizes_are_checked_and_kept)
{
    run("page sizes", 2, page_sizes);
}
END_TEST

/* ---- Transactions ---- */

static void
create_in_transaction(struct fix *f)
{
    ash_table *t, *u;
    char key[16];

    must_ok(ash_begin(f->a, NULL));
    must_ok(ash_table_create(f->a, "t", NULL));
    must_rc(ash_table_create(f->a, "t", NULL), ASH_EXISTS);
    must_list(f->a, "t");
    must_list(f->b, "");
    must_rc(ash_table_open(f->b, "t", &u), ASH_NOT_FOUND);
    must_ok(ash_table_open(f->a, "t", &t));
    must_ok(ash_put(f->a, t, row_key(1, key), slice_str("one")));
    must_ok(ash_commit(f->a));
    must_list(f->b, "t");
    must_rows(f->b, "t", 1);
    ash_table_close(t);

    must_ok(ash_begin(f->a, NULL));
    must_ok(ash_table_create(f->a, "u", NULL));
    fill(f->a, "u");
    must_ok(ash_table_open(f->a, "u", &u));
    must_ok(ash_rollback(f->a));
    must_list(f->a, "t");
    must_rc(ash_put(f->a, u, row_key(1, key), slice_str("one")), ASH_NOT_FOUND);
    ash_table_close(u);
    must_ok(ash_table_drop(f->a, "t"));
    must_lose_no_page(f);
}

START_TEST(creating_belongs_to_the_transaction)
{
    run("create", 3, create_in_transaction);
}
END_TEST

static void
drop_in_transaction(struct fix *f)
{
    ash_table *t, *u;

    must_ok(ash_table_create(f->a, "t", NULL));
    fill(f->a, "t");
    must_ok(ash_table_open(f->b, "t", &t));
    must_ok(ash_begin(f->a, NULL));
    must_ok(ash_table_drop(f->a, "t"));
    must_rc(ash_table_drop(f->a, "t"), ASH_NOT_FOUND);
    must_rc(ash_table_open(f->a, "t", &u), ASH_NOT_FOUND);
    must_list(f->a, "");
    must_list(f->b, "t");
    must(count_rows(f->b, t) == ROWS, "others lose rows of a table whose drop is not committed");
    must_ok(ash_rollback(f->a));
    must_list(f->a, "t");
    must(count_rows(f->b, t) == ROWS, "a rolled back drop lost rows");
    task_sleep_ns(200000000);
    must(count_rows(f->b, t) == ROWS, "a rolled back drop was reaped");

    /* Dropped and made again, in one transaction. */
    must_ok(ash_begin(f->a, NULL));
    must_ok(ash_table_drop(f->a, "t"));
    must_ok(ash_table_create(f->a, "t", NULL));
    must_rows(f->a, "t", 0);
    must_ok(ash_rollback(f->a));
    must_rows(f->a, "t", ROWS);
    must_ok(ash_begin(f->a, NULL));
    must_ok(ash_table_drop(f->a, "t"));
    must_ok(ash_table_create(f->a, "t", NULL));
    must_ok(ash_commit(f->a));
    must_rows(f->a, "t", 0);
    must_rc(ash_table_open(f->a, "u", &u), ASH_NOT_FOUND);
    ash_table_close(t);
    must_ok(ash_table_drop(f->a, "t"));
    must_lose_no_page(f);
}

START_TEST(dropping_belongs_to_the_transaction)
{
    run("drop", 4, drop_in_transaction);
}
END_TEST

static void
savepoints(struct fix *f)
{
    uint64_t before, after;

    must_ok(ash_table_create(f->a, "old", NULL));
    fill(f->a, "old");
    must_ok(ash_begin(f->a, NULL));
    must_ok(ash_table_create(f->a, "kept", NULL));
    must_ok(ash_savepoint(f->a, &before));
    must_ok(ash_table_create(f->a, "undone", NULL));
    must_ok(ash_table_drop(f->a, "old"));
    must_ok(ash_savepoint(f->a, &after));
    must_ok(ash_table_create(f->a, "undone2", NULL));
    must_list(f->a, "kept undone undone2");
    must_ok(ash_rollback_to(f->a, after));
    must_list(f->a, "kept undone");
    must_ok(ash_rollback_to(f->a, before));
    must_list(f->a, "kept old");
    fill(f->a, "kept");
    must_ok(ash_table_create(f->a, "undone", NULL));
    must_ok(ash_commit(f->a));
    wait_for_reaper(f->db);
    must_list(f->b, "kept old undone");
    must_rows(f->b, "kept", ROWS);
    must_rows(f->b, "old", ROWS);
    must_rows(f->b, "undone", 0);
    db_env_verify(f->db);
    must_ok(ash_table_drop(f->a, "kept"));
    must_ok(ash_table_drop(f->a, "old"));
    must_ok(ash_table_drop(f->a, "undone"));
    must_lose_no_page(f);
}

START_TEST(savepoints_undo_tables_too)
{
    run("savepoints", 5, savepoints);
}
END_TEST

static void
two_at_once(struct fix *f)
{
    must_ok(ash_begin(f->a, NULL));
    must_ok(ash_table_create(f->a, "t", NULL));
    must_rc(ash_table_create(f->b, "t", NULL), ASH_LOCK_TIMEOUT);
    must_ok(ash_table_create(f->b, "u", NULL));
    must_ok(ash_rollback(f->a));
    must_ok(ash_table_create(f->b, "t", NULL));

    must_ok(ash_begin(f->a, NULL));
    must_list(f->a, "t u"); /* its snapshot */
    must_ok(ash_table_drop(f->b, "t"));
    must_rc(ash_table_drop(f->a, "t"), ASH_CONFLICT);
    must_list(f->a, "t u");
    must_ok(ash_rollback(f->a));
    must_rc(ash_table_drop(f->a, "t"), ASH_NOT_FOUND);
    must_list(f->a, "u");
}

START_TEST(two_transactions_on_one_name_exclude_each_other)
{
    run("two at once", 6, two_at_once);
}
END_TEST

/* ---- Handles ---- */

static ash_rc
no_rows(void *arg, struct ash_slice *key_out, struct ash_slice *value_out)
{
    (void)arg;
    (void)key_out;
    (void)value_out;
    return ASH_NOT_FOUND;
}

static void
handles(struct fix *f)
{
    struct ash_table_stat stat;
    struct ash_slice value, k;
    ash_table *t, *same;
    ash_cursor *c;
    ash_rc result;
    char key[16];

    must_ok(ash_table_create(f->a, "t", NULL));
    fill(f->a, "t");
    must_ok(ash_table_open(f->b, "t", &t));
    must_ok(ash_table_open(f->a, "t", &same));
    ash_table_close(same);
    must(count_rows(f->b, t) == ROWS, "a closed handle took another with it");
    must_ok(ash_table_drop(f->a, "t"));
    k = row_key(1, key);
    for (int round = 0; round < 2; round++) { /* at once, and when its pages are gone */
        must_rc(ash_get(f->b, t, k, &value), ASH_NOT_FOUND);
        must(strstr(ash_error_last()->message, "dropped") != NULL, "%s", ash_error_last()->message);
        must_rc(ash_put(f->b, t, k, slice_str("x")), ASH_NOT_FOUND);
        must_rc(ash_insert(f->b, t, k, slice_str("x")), ASH_NOT_FOUND);
        must_rc(ash_update(f->b, t, k, slice_str("x")), ASH_NOT_FOUND);
        must_rc(ash_delete(f->b, t, k), ASH_NOT_FOUND);
        must_rc(ash_multiget(f->b, t, 1, &k, &value, &result), ASH_NOT_FOUND);
        must_rc(ash_cursor_open(f->b, t, NULL, &c), ASH_NOT_FOUND);
        must_rc(ash_table_stats(f->b, t, &stat), ASH_NOT_FOUND);
        must_rc(ash_bulk_load(f->b, t, no_rows, NULL), ASH_NOT_FOUND);
        must_ok(ash_table_create(f->a, "t", NULL)); /* another one: not the handle's */
        must_rows(f->a, "t", 0);
        must_ok(ash_table_drop(f->a, "t"));
        wait_for_reaper(f->db);
    }
    ash_table_close(t);
    must_lose_no_page(f);
}

START_TEST(handles_of_dropped_tables_say_so)
{
    run("handles", 7, handles);
}
END_TEST

/* Whoever is inside keeps the pages: a cursor that began before the drop sees every row. */
static void
readers_inside(struct fix *f)
{
    struct ash_row row;
    ash_table *t;
    ash_cursor *c;
    unsigned n = 1;
    ash_rc rc;

    must_ok(ash_table_create(f->a, "t", NULL));
    fill(f->a, "t");
    uint64_t full = pages_in_use(f->db);
    must_ok(ash_table_open(f->b, "t", &t));
    must_ok(ash_cursor_open(f->b, t, NULL, &c));
    must_ok(ash_cursor_next(c, &row));
    must_ok(ash_table_drop(f->a, "t"));
    task_sleep_ns(1000000000);
    must(pages_in_use(f->db) == full, "pages were freed under a reader");
    must_ok(ash_table_create(f->a, "v", NULL)); /* would take them */
    fill(f->a, "v");
    while ((rc = ash_cursor_next(c, &row)) == ASH_OK)
        n++;
    must(rc == ASH_NOT_FOUND && n == ROWS, "%u rows, then %s", n, ash_rc_name(rc));
    ash_cursor_close(c);
    ash_table_close(t);
    must_ok(ash_table_drop(f->a, "v"));
    must_lose_no_page(f);
}

START_TEST(pages_wait_for_those_who_are_inside)
{
    run("readers inside", 8, readers_inside);
}
END_TEST

/* A snapshot from before the drop still finds the name, but a handle made now would outlive that
 * snapshot, and with it what keeps the pages. */
static void
late_open(struct fix *f)
{
    ash_table *t;

    must_ok(ash_table_create(f->a, "t", NULL));
    fill(f->a, "t");
    must_ok(ash_begin(f->b, NULL));
    must_ok(ash_table_drop(f->a, "t"));
    must_list(f->b, "t");
    must_rc(ash_table_open(f->b, "t", &t), ASH_NOT_FOUND);
    must(strstr(ash_error_last()->message, "dropped") != NULL, "%s", ash_error_last()->message);
    must_ok(ash_commit(f->b));
    must_lose_no_page(f);
}

START_TEST(a_dropped_table_is_not_opened_by_an_old_snapshot)
{
    run("late open", 10, late_open);
}
END_TEST

/* ---- One task drops a table that another one uses all the while ---- */

#define RACE_CURSORS 100u

struct dropper {
    struct fix *f;
    struct task *task;
    enum ash_durability durability; /* SYNC: it waits between the commit and telling the handles */
    bool done;
};

static void
dropper_main(void *arg)
{
    struct dropper *d = arg;

    must_ok(ash_session_durability(d->f->a, d->durability));
    must_ok(ash_table_drop(d->f->a, "t"));
    must_ok(ash_session_durability(d->f->a, ASH_DURABILITY_NONE));
    d->done = true;
}

static void
dropper_start(struct dropper *d, struct fix *f, enum ash_durability durability)
{
    *d = (struct dropper){ .f = f, .durability = durability };
    must_ok(task_spawn(f->e->rt, "dropper", dropper_main, d, &d->task));
}

/* A handle that was got while the table was dropped, the only one, is told of it. */
static void
opens_race_drop(struct fix *f)
{
    struct dropper d;
    ash_table *t = NULL;
    char key[16];
    ash_rc rc = ASH_OK;

    must_ok(ash_table_create(f->a, "t", NULL));
    dropper_start(&d, f, ASH_DURABILITY_NONE);
    while (!d.done && rc == ASH_OK) {
        ash_table_close(t);
        t = NULL;
        rc = ash_table_open(f->b, "t", &t);
        must(rc == ASH_OK || rc == ASH_NOT_FOUND, "%s", ash_rc_name(rc));
        task_yield();
    }
    task_join(d.task);
    must_ok(ash_table_create(f->a, "other", NULL)); /* moves the horizon, and takes the pages */
    wait_for_reaper(f->db);
    fill(f->a, "other");
    if (t != NULL)
        must_rc(ash_put(f->b, t, row_key(1, key), slice_str("x")), ASH_NOT_FOUND);
    ash_table_close(t);
    must_rows(f->a, "other", ROWS);
    must_ok(ash_table_drop(f->a, "other"));
    must_lose_no_page(f);
}

START_TEST(a_handle_got_during_a_drop_is_told)
{
    for (uint64_t i = 0; i < test_scale(30, 2000); i++)
        run("opens race drop", 200 + i, opens_race_drop);
}
END_TEST

/* Whoever is let in keeps the pages: also with a snapshot behind the drop's commit, the last that
 * was logged. */
static void
reads_race_drop(struct fix *f)
{
    struct dropper d;
    ash_table *t;
    ash_cursor *c[RACE_CURSORS];
    struct ash_row row;
    unsigned open = 0;

    must_ok(ash_table_create(f->a, "t", NULL));
    fill(f->a, "t");
    must_ok(ash_table_open(f->b, "t", &t));
    dropper_start(&d, f, ASH_DURABILITY_SYNC);
    for (ash_rc rc = ASH_OK; rc == ASH_OK && open < RACE_CURSORS; open += rc == ASH_OK) {
        rc = ash_cursor_open(f->b, t, NULL, &c[open]);
        must(rc == ASH_OK || rc == ASH_NOT_FOUND, "%s", ash_rc_name(rc));
        task_yield();
    }
    /* The oldest first: each lets the horizon go on to the next one's snapshot. */
    for (unsigned i = 0; i < open; i++) {
        unsigned n = 0;
        ash_rc rc;
        task_sleep_ns(i + 1 == open ? 200000000 : 0);
        while ((rc = ash_cursor_next(c[i], &row)) == ASH_OK)
            n++;
        must(rc == ASH_NOT_FOUND && n == ROWS, "%u rows, then %s", n, ash_rc_name(rc));
        ash_cursor_close(c[i]);
    }
    task_join(d.task);
    ash_table_close(t);
    must_lose_no_page(f);
}

START_TEST(a_reader_let_in_during_a_drop_reads_to_the_end)
{
    for (uint64_t i = 0; i < test_scale(10, 500); i++)
        run("reads race drop", 300 + i, reads_race_drop);
}
END_TEST

/* ---- Opening again ---- */

static void
many_tables(struct fix *f)
{
    struct names n = { 0 };
    char name[16];

    for (unsigned i = 0; i < 150; i++) {
        struct ash_table_options o = { .page_size = i % 3 == 0 ? 8192 : 4096 };
        snprintf(name, sizeof(name), "t%03u", i * 7 % 150);
        must_ok(ash_table_create(f->a, name, &o));
    }
    for (unsigned i = 0; i < 150; i += 2) {
        snprintf(name, sizeof(name), "t%03u", i);
        must_ok(ash_table_drop(f->a, name));
    }
    fill(f->a, "t001");
    fix_close(f);
    fix_open(f, f->e);
    must_ok(ash_table_list(f->a, add_name, &n));
    must(n.count == 75, "%u tables", n.count);
    must(strncmp(n.text, "t001 t003 t005 t007", 19) == 0, "%.40s", n.text);
    must_rows(f->a, "t001", ROWS);
    wait_for_reaper(f->db);
    db_env_verify(f->db);
    for (unsigned i = 1; i < 150; i += 2) {
        snprintf(name, sizeof(name), "t%03u", i);
        must_ok(ash_table_drop(f->a, name));
    }
    wait_for_reaper(f->db);
    must_list(f->a, "");
    must(trees_to_reap(f->db) == 0, "trees are left");
}

START_TEST(many_tables_are_there_again)
{
    run("many tables", 9, many_tables);
}
END_TEST

/* ---- Several tasks, all on the same few names ---- */

#define WORKERS 4
#define NAMES   5

struct worker {
    struct fix *f;
    struct task *task;
    struct random random;
};

static bool
ordinary(ash_rc rc)
{
    return rc == ASH_OK || rc == ASH_EXISTS || rc == ASH_NOT_FOUND || rc == ASH_CONFLICT ||
           rc == ASH_DEADLOCK || rc == ASH_LOCK_TIMEOUT;
}

static ash_rc
one_change(struct worker *w, ash_session *s)
{
    char name[8], key[16];
    ash_table *t = NULL;

    snprintf(name, sizeof(name), "n%u", (unsigned)random_below(&w->random, NAMES));
    switch (random_below(&w->random, 4)) {
    case 0: return ash_table_drop(s, name);
    case 1: return ash_table_create(s, name, NULL);
    default: break;
    }
    ash_rc rc = ash_table_open(s, name, &t);
    for (unsigned i = 0; i < 20 && rc == ASH_OK; i++)
        rc = ash_put(s, t, row_key((unsigned)random_below(&w->random, 1000), key),
                     slice_str("some value"));
    ash_table_close(t);
    return rc;
}

static void
worker_main(void *arg)
{
    struct worker *w = arg;
    ash_session *s;

    must_ok(ash_session_open(w->f->db, &s));
    must_ok(ash_session_durability(s, ASH_DURABILITY_NONE));
    for (int i = 0; i < 60; i++) {
        bool txn = random_below(&w->random, 2) == 0;
        ash_rc rc = ASH_OK;
        if (txn)
            must_ok(ash_begin(s, NULL));
        for (unsigned n = txn ? 4 : 1;
             n > 0 && (rc == ASH_OK || rc == ASH_EXISTS || rc == ASH_NOT_FOUND); n--) {
            rc = one_change(w, s);
            must(ordinary(rc), "%s: %s", ash_rc_name(rc), ash_error_last()->message);
        }
        if (txn && (rc == ASH_OK || rc == ASH_EXISTS || rc == ASH_NOT_FOUND) &&
            random_below(&w->random, 3) != 0)
            must_ok(ash_commit(s));
        else if (txn)
            must_ok(ash_rollback(s));
    }
    ash_session_close(s);
}

static void
all_at_once(struct fix *f)
{
    struct worker w[WORKERS];
    char name[8];

    for (unsigned i = 0; i < WORKERS; i++) {
        w[i].f = f;
        random_init(&w[i].random, f->e->seed * WORKERS + i);
        must_ok(task_spawn(f->e->rt, "worker", worker_main, &w[i], &w[i].task));
    }
    for (unsigned i = 0; i < WORKERS; i++)
        task_join(w[i].task);
    wait_for_reaper(f->db);
    db_env_verify(f->db);
    for (unsigned i = 0; i < NAMES; i++) {
        snprintf(name, sizeof(name), "n%u", i);
        ash_rc rc = ash_table_drop(f->a, name);
        must(rc == ASH_OK || rc == ASH_NOT_FOUND, "%s", ash_rc_name(rc));
    }
    must_lose_no_page(f);
}

START_TEST(tables_come_and_go_under_several_tasks)
{
    /* which have once found a handle that was not told of a drop */
    static const uint64_t known[] = { 1251 };

    for (size_t i = 0; i < ASH_ARRAY_SIZE(known); i++)
        run("all at once", known[i], all_at_once);
    for (uint64_t i = 0; i < test_scale(15, 500); i++)
        run("all at once", 100 + i, all_at_once);
}
END_TEST

/* ---- Crashes: at any moment, then every page is found again ---- */

struct crash {
    struct fix f;
    unsigned acked; /* steps whose commit was acknowledged */
};

/* The tables after each step; a crash leaves the state of the last acknowledged step, or of the
 * next. */
static const char *const state_after[] = { "", "a", "a b", "b", "b c", "c", "" };

static void
crash_step(ash_session *s, unsigned step)
{
    must_ok(ash_begin(s, NULL));
    switch (step) {
    case 1: must_ok(ash_table_create(s, "a", NULL)); break;
    case 2:
        must_ok(ash_table_create(s, "b", NULL));
        fill(s, "b");
        break;
    case 3: must_ok(ash_table_drop(s, "a")); break;
    case 4: must_ok(ash_table_create(s, "c", NULL)); break;
    case 5: must_ok(ash_table_drop(s, "b")); break;
    default: must_ok(ash_table_drop(s, "c")); break;
    }
    must_ok(ash_commit(s));
}

static void
crash_script(struct db_env *e)
{
    struct crash *c = e->arg;

    c->f.db = db_env_open(e, OPTIONS, /* quiet= */ true);
    must(pages_in_use(c->f.db) == EMPTY_PAGES, "%llu pages",
         (unsigned long long)pages_in_use(c->f.db));
    must_ok(ash_session_open(c->f.db, &c->f.a));
    for (unsigned step = 1; step < ASH_ARRAY_SIZE(state_after); step++) {
        /* One that is rolled back, between. */
        must_ok(ash_begin(c->f.a, NULL));
        must_ok(ash_table_create(c->f.a, "never", NULL));
        must_ok(ash_rollback(c->f.a));
        crash_step(c->f.a, step);
        c->acked = step;
        if (step == 3)
            must_ok(ash_checkpoint(c->f.db));
    }
    ash_session_close(c->f.a);
    must_ok(ash_close(c->f.db));
}

static void
crash_halt(void *arg)
{
    task_sim_halt(((struct db_env *)arg)->rt);
}

static void
crash_check(struct db_env *e)
{
    const struct crash *c = e->arg;
    struct names n = { 0 };
    ash_session *s;
    ash_db *db = db_env_open(e, OPTIONS, /* quiet= */ true);

    must_ok(ash_session_open(db, &s));
    must_ok(ash_table_list(s, add_name, &n));
    unsigned next = c->acked + 1 < ASH_ARRAY_SIZE(state_after) ? c->acked + 1 : c->acked;
    must(strcmp(n.text, state_after[c->acked]) == 0 || strcmp(n.text, state_after[next]) == 0,
         "after %u steps the tables are \"%s\"", c->acked, n.text);
    if (strchr(n.text, 'b') != NULL)
        must_rows(s, "b", ROWS);
    db_env_verify(db);
    for (const char *p = n.text; *p != '\0'; p++)
        if (*p != ' ')
            must_ok(ash_table_drop(s, (char[]){ *p, '\0' }));
    wait_for_reaper(db);
    db_env_verify(db);
    must(pages_in_use(db) == EMPTY_PAGES, "after %u steps %llu pages are lost", c->acked,
         (unsigned long long)(pages_in_use(db) - EMPTY_PAGES));
    ash_session_close(s);
    must_ok(ash_close(db));
}

/* Returns the events of a run that is not cut (at 0). */
static uint64_t
crash_once(uint64_t seed, uint64_t at)
{
    static const enum sim_cut_policy policy[] = { SIM_CUT_RANDOM, SIM_CUT_NONE, SIM_CUT_ALL,
                                                  SIM_CUT_REVERSE };
    struct crash c = { 0 };
    struct db_env life = { .kind = IO_BACKEND_SIM, .seed = seed, .name = "crash", .arg = &c };

    must_ok(sim_disk_create(seed, &life.disk));
    if (at != 0)
        sim_disk_cut_at(life.disk, at, crash_halt, &life);
    ash_rc rc = db_env_run(&life, crash_script);
    must(rc == (at == 0 ? ASH_OK : ASH_CANCELLED), "%s", ash_rc_name(rc));
    uint64_t events = sim_disk_events(life.disk);
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(policy); i++) {
        struct db_env after = {
            .kind = IO_BACKEND_SIM, .seed = seed + i, .name = "after the crash", .arg = &c
        };
        must_ok(sim_disk_cut(life.disk, policy[i], seed + i, &after.disk));
        must_ok(db_env_run(&after, crash_check));
        sim_disk_destroy(after.disk);
    }
    sim_disk_destroy(life.disk);
    return events;
}

START_TEST(a_crash_at_any_moment_loses_no_page)
{
    uint64_t seed = test_seed(77);
    uint64_t events = crash_once(seed, 0);
    uint64_t step = events / test_scale(60, 2000) + 1;

    ck_assert_uint_gt(events, 100);
    for (uint64_t at = 1; at < events; at += step)
        crash_once(seed, at);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("catalog");
    TCase *t = tcase_create("catalog");

    tcase_add_test(t, names_are_checked_and_listed_in_order);
    tcase_add_test(t, page_sizes_are_checked_and_kept);
    tcase_add_test(t, creating_belongs_to_the_transaction);
    tcase_add_test(t, dropping_belongs_to_the_transaction);
    tcase_add_test(t, savepoints_undo_tables_too);
    tcase_add_test(t, two_transactions_on_one_name_exclude_each_other);
    tcase_add_test(t, handles_of_dropped_tables_say_so);
    tcase_add_test(t, pages_wait_for_those_who_are_inside);
    tcase_add_test(t, a_dropped_table_is_not_opened_by_an_old_snapshot);
    tcase_add_test(t, a_handle_got_during_a_drop_is_told);
    tcase_add_test(t, a_reader_let_in_during_a_drop_reads_to_the_end);
    tcase_add_test(t, many_tables_are_there_again);
    tcase_add_test(t, tables_come_and_go_under_several_tasks);
    tcase_add_test(t, a_crash_at_any_moment_loses_no_page);
    tcase_set_timeout(t, 300);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
