/* SPDX-License-Identifier: Apache-2.0
 *
 * test_full.c - no space left, no right to write, and every wrong argument: what the handle at hand
 * still does, and what it says.  (test_bad_input.c: the same causes, seen from the next open.)
 *
 * Each test runs in a child of its own.  Those that need a mount are skipped, with a word on
 * stdout, where the process may not have a mount namespace.
 */

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "tests/hostile/hostile.h"

#define ROWS 200u

static char dir[64]; /* of the running test */

/* ---- A database with ROWS rows ---- */

static struct ash_slice
key_of(unsigned i, char out[16])
{
    return ash_slice(out, (size_t)snprintf(out, 16, "k%06u", i));
}

static ash_db *
open_rows(const char *path, unsigned flags, ash_session **s, ash_table **t)
{
    ash_db *db;

    must_ok(ash_open(path, flags, HOSTILE_OPTIONS, &db));
    must_ok(ash_session_open(db, s));
    if (flags & ASH_OPEN_CREATE)
        must_ok(ash_table_create(*s, "t", NULL));
    must_ok(ash_table_open(*s, "t", t));
    return db;
}

static ash_rc
put_row(ash_session *s, ash_table *t, unsigned i, size_t size)
{
    static unsigned char value[4096];
    char key[16];

    memset(value, (int)(i % 251), size);
    return ash_put(s, t, key_of(i, key), ash_slice(value, size));
}

static void
check_rows(ash_session *s, ash_table *t, unsigned count, size_t size)
{
    char key[16];
    struct ash_slice got;

    for (unsigned i = 0; i < count; i++) {
        must_ok(ash_get(s, t, key_of(i, key), &got));
        must(got.size == size && ((const unsigned char *)got.data)[size - 1] == i % 251,
             "row %u is wrong", i);
    }
}

static void
make_rows(const char *path, bool close_it)
{
    ash_session *s;
    ash_table *t;
    ash_db *db = open_rows(path, ASH_OPEN_CREATE, &s, &t);

    for (unsigned i = 0; i < ROWS; i++)
        must_ok(put_row(s, t, i, 100));
    if (!close_it)
        _exit(0);
    ash_table_close(t);
    must_ok(ash_close(db));
}

static void
make_crashed(void *arg)
{
    make_rows(arg, false);
}

static void
open_and_check(const char *path, unsigned flags)
{
    ash_session *s;
    ash_table *t;
    ash_db *db = open_rows(path, flags, &s, &t);

    check_rows(s, t, ROWS, 100);
    must_ok(ash_verify(db, db_env_finding, NULL));
    ash_table_close(t);
    must_ok(ash_close(db));
}

/* ---- Arguments ---- */

static void
bad_options(void)
{
    static const struct {
        const char *text, *names;
    } wrong[] = {
        { "cash=1MiB", "cash" },
        { "cache=1MB", "cache" },
        { "cache=", "cache" },
        { "cache", "cache" },
        { "cache=1KiB", "cache" },
        { "cache=99999999999999999999", "cache" },
        { "cache=-1", "cache" },
        { "page_size=5000", "page_size" },
        { "durability=maybe", "durability" },
        { "wal_writers=0", "wal_writers" },
        { "wal_writers=two", "wal_writers" },
        { "direct_io=2", "direct_io" },
        { "executors=1025", "executors" },
    };
    ash_db *db;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        must_fail(ash_open(dir, ASH_OPEN_CREATE, wrong[i].text, &db), ASH_INVALID, wrong[i].names);
}

static void
bad_names(ash_session *s)
{
    char name[ASH_TABLE_NAME_MAX + 2];
    ash_table *t;

    memset(name, 'x', sizeof(name));
    name[ASH_TABLE_NAME_MAX + 1] = '\0';
    must_fail(ash_table_create(s, "", NULL), ASH_INVALID, "name");
    must_fail(ash_table_create(s, name, NULL), ASH_INVALID, "name");
    must_fail(ash_table_create(s, NULL, NULL), ASH_INVALID, "name");
    must_fail(ash_table_create(s, "t", NULL), ASH_EXISTS, "\"t\"");
    must_fail(ash_table_open(s, "none", &t), ASH_NOT_FOUND, "none");
    must_fail(ash_table_drop(s, "none"), ASH_NOT_FOUND, "none");
    name[ASH_TABLE_NAME_MAX] = '\0';
    must_ok(ash_table_create(s, name, NULL));
    for (uint32_t size = 1; size != 0; size <<= 1) {
        struct ash_table_options o = { .page_size = size };
        if (size >= 4096 && size <= 2u << 20)
            continue;
        must_fail(ash_table_create(s, "pages", &o), ASH_INVALID, "page");
    }
    struct ash_table_options odd = { .page_size = 5000 };
    must_fail(ash_table_create(s, "pages", &odd), ASH_INVALID, "page");
}

static void
arguments(void *arg)
{
    static unsigned char big[ASH_VALUE_SIZE_MAX + 1];
    struct ash_slice got, key = ash_slice(big, ASH_KEY_SIZE_MAX + 1), ok = ash_slice("k", 1);
    struct ash_txn_options wrong = { .isolation = (enum ash_isolation)7 };
    ash_session *s;
    ash_table *t;
    uint64_t number;
    char text[64];

    (void)arg;
    bad_options();
    ash_db *db = open_rows(dir, ASH_OPEN_CREATE, &s, &t);
    bad_names(s);
    must_fail(ash_put(s, t, key, ok), ASH_TOO_LARGE, "993");
    must_fail(ash_insert(s, t, key, ok), ASH_TOO_LARGE, "993");
    must_fail(ash_update(s, t, key, ok), ASH_TOO_LARGE, "993");
    must_fail(ash_delete(s, t, key), ASH_TOO_LARGE, "993");
    must_fail(ash_get(s, t, key, &got), ASH_TOO_LARGE, "993");
    must_fail(ash_put(s, t, ok, ash_slice(big, sizeof(big))), ASH_TOO_LARGE, "1048577");
    must_fail(ash_put(s, t, ash_slice(NULL, 3), ok), ASH_INVALID, "key");
    must_fail(ash_put(s, t, ok, ash_slice(NULL, 3)), ASH_INVALID, "value");
    key.size = ASH_KEY_SIZE_MAX;
    must_ok(ash_put(s, t, key, ash_slice(big, ASH_VALUE_SIZE_MAX)));
    must_ok(ash_put(s, t, ash_slice(NULL, 0), ash_slice(NULL, 0)));
    must_ok(ash_get(s, t, key, &got));
    must(got.size == ASH_VALUE_SIZE_MAX, "the largest value came back with %zu bytes", got.size);
    must_fail(ash_commit(s), ASH_MISUSE, NULL);
    must_fail(ash_rollback(s), ASH_MISUSE, NULL);
    must_fail(ash_savepoint(s, &number), ASH_MISUSE, NULL);
    must_fail(ash_get_for_update(s, t, ok, ASH_LOCK_WAIT, &got), ASH_MISUSE, NULL);
    must_fail(ash_begin(s, &wrong), ASH_INVALID, NULL);
    must_ok(ash_begin(s, NULL));
    must_fail(ash_begin(s, NULL), ASH_MISUSE, NULL);
    must_ok(ash_rollback(s));
    must_fail(ash_option_set(db, "cache", "2MiB"), ASH_INVALID, "cache");
    must_fail(ash_option_set(db, "cash", "2MiB"), ASH_INVALID, "cash");
    must_fail(ash_option_set(db, "wal_limit", "two"), ASH_INVALID, "wal_limit");
    must_fail(ash_option_get(db, "cash", text, sizeof(text)), ASH_INVALID, "cash");
    ash_table_close(t);
    must_ok(ash_close(db));
}

/* ---- Mounts ---- */

static void
own_mounts(void)
{
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        _exit(HOSTILE_SKIP);
}

static void
read_only_mount(const char *path)
{
    if (mount(path, path, NULL, MS_BIND, NULL) != 0 ||
        mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) != 0)
        _exit(HOSTILE_SKIP);
}

static void
read_only_crashed(void *arg)
{
    ash_db *db;

    (void)arg;
    own_mounts();
    must(hostile_child(make_crashed, dir, 60) == 0, "no database");
    read_only_mount(dir);
    must_fail(ash_open(dir, ASH_OPEN_READ_ONLY, HOSTILE_OPTIONS, &db), ASH_READ_ONLY, NULL);
    must(umount2(dir, MNT_DETACH) == 0, "umount: %s", strerror(errno));
    open_and_check(dir, 0);
}

/* ---- No space ---- */

#define FULL_VALUE 2000u

/* Puts rows from *count on until one fails; returns its code.  At most `max`. */
static ash_rc
fill(ash_session *s, ash_table *t, unsigned *count, unsigned max)
{
    for (unsigned end = *count + max; *count < end; (*count)++) {
        ash_rc rc = put_row(s, t, *count, FULL_VALUE);
        if (rc != ASH_OK)
            return rc;
    }
    return ASH_OK;
}

/* Fills the file system or limit; the rows acknowledged stay readable; after make_room() writes go
 * on with the same handle. */
static void
fill_and_recover(void (*make_room)(void), const char *what)
{
    ash_session *s;
    ash_table *t;
    unsigned count = 0;
    ash_db *db = open_rows(dir, ASH_OPEN_CREATE, &s, &t);

    must_fail(fill(s, t, &count, 100000), ASH_NO_SPACE, NULL);
    unsigned full_at = count;
    must(count > 0, "not a single row");
    check_rows(s, t, count, FULL_VALUE);
    for (unsigned i = 0; i < 3; i++) { /* asking again changes nothing */
        ash_rc rc = put_row(s, t, count, FULL_VALUE);
        must(rc == ASH_NO_SPACE || rc == ASH_OK, "%s", ash_rc_name(rc));
        count += rc == ASH_OK;
    }
    make_room();
    usleep(150000); /* the log tries again ten times a second */
    must_ok(fill(s, t, &count, 100));
    check_rows(s, t, count, FULL_VALUE);
    ash_table_close(t);
    must_ok(ash_close(db));
    db = open_rows(dir, 0, &s, &t);
    check_rows(s, t, count, FULL_VALUE);
    must_ok(fill(s, t, &count, 100));
    must_ok(ash_verify(db, db_env_finding, NULL));
    ash_table_close(t);
    must_ok(ash_close(db));
    printf("test_full: %s full after %u rows\n", what, full_at);
}

static char ballast[128];

static void
drop_ballast(void)
{
    must(unlink(ballast) == 0, "unlink %s", ballast);
}

static void
full_disk(void *arg)
{
    char mounted[64];

    (void)arg;
    own_mounts();
    if (mount("tmpfs", dir, "tmpfs", 0, "size=32m") != 0)
        _exit(HOSTILE_SKIP);
    snprintf(ballast, sizeof(ballast), "%s/ballast", dir);
    int fd = open(ballast, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0 && posix_fallocate(fd, 0, 12 << 20) == 0, "no ballast");
    close(fd);
    snprintf(mounted, sizeof(mounted), "%.58s/db", dir);
    snprintf(dir, sizeof(dir), "%s", mounted);
    fill_and_recover(drop_ballast, "the file system was");
}

static void
lift_limit(void)
{
    struct rlimit r;

    must(getrlimit(RLIMIT_FSIZE, &r) == 0, "getrlimit");
    r.rlim_cur = r.rlim_max;
    must(setrlimit(RLIMIT_FSIZE, &r) == 0, "setrlimit");
}

static void
file_size_limit(void *arg)
{
    struct rlimit r;

    (void)arg;
    signal(SIGXFSZ, SIG_DFL);
    must(getrlimit(RLIMIT_FSIZE, &r) == 0, "getrlimit");
    r.rlim_cur = 6 << 20;
    must(setrlimit(RLIMIT_FSIZE, &r) == 0, "setrlimit");
    fill_and_recover(lift_limit, "the file size limit was");
}

/* ---- The suite ---- */

static const struct {
    const char *name;
    void (*fn)(void *arg);
} tests[] = {
    { "arguments", arguments },
    { "read_only_crashed", read_only_crashed },
    { "full_disk", full_disk },
    { "file_size_limit", file_size_limit },
};

START_TEST(the_handle_stays_useful_and_says_why)
{
    db_env_name = tests[_i].name;
    snprintf(dir, sizeof(dir), "full.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    int out = hostile_child(tests[_i].fn, NULL, 120);
    if (out == HOSTILE_SKIP)
        printf("test_full: %s skipped: not permitted here\n", tests[_i].name);
    else
        ck_assert_msg(out == 0, "%s ended with %d", tests[_i].name, out);
    test_dir_remove(dir);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("full");
    TCase *tc = tcase_create("children");

    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, the_handle_stays_useful_and_says_why, 0,
                        (int)(sizeof(tests) / sizeof(tests[0])));
    suite_add_tcase(s, tc);
    return s;
}

TEST_MAIN(suite)
