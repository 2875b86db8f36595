/* SPDX-License-Identifier: Apache-2.0
 *
 * test_bad_input.c - what users and machines do to a database: wrong directories, wrong arguments,
 * full disks, forbidden system calls.
 *
 * Each case wants one clear sentence and the right code, and afterwards everything that was
 * acknowledged.  Cases that need privileges this process lacks say so and pass.
 */
#include "base/crc.h"
#include "storage/pstore_format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/api/db_env.h"

#define OPTIONS "cache=4MiB,wal_buffer=1MiB,wal_segment=256KiB,zone_size=256KiB,executors=1"

static char dir[64];

static void
setup(void)
{
    snprintf(dir, sizeof(dir), "badinput.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    db_env_name = "bad_input";
}

static void
teardown(void)
{
    test_dir_remove(dir);
}

static ash_rc
open_dir(const char *path, unsigned flags, ash_db **db)
{
    struct db_seams seams = { .page_id_max = 1u << 20, .grow_bytes = 4u << 20 };

    return db_open(&seams, path, flags, OPTIONS, db);
}

/* The last error has a whole sentence that contains `word`. */
static void
says(const char *word)
{
    const struct ash_error *e = ash_error_last();

    must(strlen(e->message) > 20 && strstr(e->message, word) != NULL,
         "the message should contain \"%s\": %s", word, e->message);
}

/* Makes a database with `rows` acknowledged rows in table t. */
static void
make(const char *path, uint32_t rows)
{
    ash_db *db;
    ash_session *s;
    ash_table *t;

    must_ok(open_dir(path, ASH_OPEN_CREATE, &db));
    must_ok(ash_session_open(db, &s));
    must_ok(ash_table_create(s, "t", NULL));
    must_ok(ash_table_open(s, "t", &t));
    for (uint32_t i = 0; i < rows; i++)
        must_ok(ash_put(s, t, ash_slice(&i, sizeof(i)), slice_str("value")));
    ash_table_close(t);
    ash_session_close(s);
    must_ok(ash_close(db));
}

static void
check_rows(const char *path, unsigned flags, uint32_t rows)
{
    ash_db *db;
    ash_session *s;
    ash_table *t;

    must_ok(open_dir(path, flags, &db));
    must_ok(ash_session_open(db, &s));
    must_ok(ash_table_open(s, "t", &t));
    for (uint32_t i = 0; i < rows; i++) {
        struct ash_slice v;
        must_ok(ash_get(s, t, ash_slice(&i, sizeof(i)), &v));
        must(v.size >= 5, "row %u", i);
    }
    ash_table_close(t);
    ash_session_close(s);
    if (!(flags & ASH_OPEN_READ_ONLY))
        db_env_verify(db);
    must_ok(ash_close(db));
}

/* Runs fn in a child, so that limits, filters and locks end with it. */
static void
in_child(void (*fn)(void))
{
    int status;

    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        fn();
        fflush(NULL);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    must(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child failed: %d", status);
}

/* ---- Directories ---- */

START_TEST(a_directory_without_a_database_is_told)
{
    char path[128];
    ash_db *db;

    must_rc(open_dir(dir, 0, &db), ASH_NOT_A_DATABASE);
    says(dir);
    snprintf(path, sizeof(path), "%s/missing", dir);
    must_rc(open_dir(path, 0, &db), ASH_NOT_A_DATABASE);
    says("missing");
    snprintf(path, sizeof(path), "%s/data-0000.ash", dir);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    must(fd >= 0 && write(fd, "this is a text file", 19) == 19, "write");
    close(fd);
    must_rc(open_dir(dir, 0, &db), ASH_NOT_A_DATABASE);
    says("data-0000.ash");
    must_rc(open_dir(dir, ASH_OPEN_CREATE, &db), ASH_NOT_A_DATABASE); /* never overwritten */
    snprintf(path, sizeof(path), "%s/file", dir);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    ash_rc rc = open_dir(path, ASH_OPEN_CREATE, &db);
    must(rc != ASH_OK && rc != ASH_INTERNAL, "%s", ash_rc_name(rc));
    says("file");
}
END_TEST

static unsigned
count_logs(void)
{
    unsigned n = 0;
    DIR *d = opendir(dir);

    must(d != NULL, "opendir");
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d))
        n += strncmp(e->d_name, "wal-", 4) == 0;
    closedir(d);
    return n;
}

/* Opening says ASH_CORRUPT, names the data file, and leaves the log alone, whatever the flags. */
static void
refused_as_damaged(void)
{
    ash_db *db;
    unsigned logs = count_logs();

    must_rc(open_dir(dir, 0, &db), ASH_CORRUPT);
    says("data-0000.ash");
    says("backup");
    must_rc(open_dir(dir, ASH_OPEN_READ_ONLY, &db), ASH_CORRUPT);
    must_rc(open_dir(dir, ASH_OPEN_CREATE, &db), ASH_CORRUPT);
    must(logs > 0 && count_logs() == logs, "the log was touched");
}

static void
write_at(const char *path, off_t at, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY);

    must(fd >= 0 && pwrite(fd, bytes, size, at) == (ssize_t)size, "pwrite");
    close(fd);
}

/* Goal: a database that lost its superblocks, or its data file, is never taken for an empty
 * directory or somebody else's file: its log may hold the only copy of acknowledged rows. */
START_TEST(a_damaged_database_is_not_taken_for_none)
{
    static uint8_t zeros[SUPER_AREA];
    char path[128];
    uint8_t keep[SUPER_AREA], magic[8];

    make(dir, 10);
    snprintf(path, sizeof(path), "%s/data-0000.ash", dir);
    int fd = open(path, O_RDONLY);
    must(fd >= 0 && pread(fd, keep, sizeof(keep), 0) == (ssize_t)sizeof(keep), "pread");
    close(fd);
    for (unsigned slot = 0; slot < SUPER_SLOTS; slot++) { /* one flipped bit in each magic */
        memcpy(magic, keep + slot * SUPER_STRIDE, sizeof(magic));
        magic[slot] ^= 4;
        write_at(path, slot * SUPER_STRIDE, magic, sizeof(magic));
    }
    refused_as_damaged();
    write_at(path, 0, zeros, sizeof(zeros)); /* nothing left of them */
    refused_as_damaged();
    must(truncate(path, 0) == 0, "truncate"); /* nor of the file */
    refused_as_damaged();
    must(unlink(path) == 0, "unlink");
    refused_as_damaged();
}
END_TEST

START_TEST(an_existing_database_is_not_made_again)
{
    ash_db *db;

    make(dir, 10);
    must_rc(open_dir(dir, ASH_OPEN_CREATE | ASH_OPEN_EXCLUSIVE, &db), ASH_EXISTS);
    says(dir);
    check_rows(dir, ASH_OPEN_CREATE, 10);
    must_rc(open_dir(dir, ASH_OPEN_CREATE | ASH_OPEN_READ_ONLY, &db), ASH_INVALID);
    check_rows(dir, ASH_OPEN_READ_ONLY, 10);
}
END_TEST

/* Changes the format of all superblocks, with right checksums. */
static void
set_format(uint32_t format)
{
    char path[128];
    uint8_t block[SUPER_SIZE];

    snprintf(path, sizeof(path), "%s/data-0000.ash", dir);
    int fd = open(path, O_RDWR);
    must(fd >= 0, "open");
    for (uint32_t slot = 0; slot < SUPER_SLOTS; slot++) {
        off_t at = (off_t)slot * SUPER_STRIDE;
        must(pread(fd, block, sizeof(block), at) == SUPER_SIZE, "pread");
        memcpy(block + offsetof(struct super_block, format), &format, sizeof(format));
        uint32_t crc = crc32c(0, block + 12, SUPER_SIZE - 12);
        memcpy(block + offsetof(struct super_block, crc32c), &crc, sizeof(crc));
        must(pwrite(fd, block, sizeof(block), at) == SUPER_SIZE, "pwrite");
    }
    close(fd);
}

START_TEST(a_newer_format_is_refused)
{
    ash_db *db;

    make(dir, 10);
    set_format(SUPER_FORMAT + 7);
    must_rc(open_dir(dir, 0, &db), ASH_VERSION_MISMATCH);
    says("newer");
    must_rc(open_dir(dir, ASH_OPEN_CREATE, &db), ASH_VERSION_MISMATCH);
    set_format(SUPER_FORMAT);
    check_rows(dir, 0, 10);
}
END_TEST

static void
open_busy(void)
{
    ash_db *db;

    must_rc(open_dir(dir, 0, &db), ASH_BUSY);
    says("process");
    must_rc(open_dir(dir, ASH_OPEN_CREATE, &db), ASH_BUSY);
}

START_TEST(one_process_at_a_time)
{
    ash_db *db, *again;

    make(dir, 10);
    must_ok(open_dir(dir, 0, &db));
    in_child(open_busy);
    must_rc(open_dir(dir, 0, &again), ASH_BUSY); /* nor twice in one process */
    must_ok(ash_close(db));
    check_rows(dir, 0, 10);
}
END_TEST

/* ---- Arguments ---- */

START_TEST(arguments_are_checked)
{
    static char big[ASH_VALUE_SIZE_MAX + 1];
    char path[128], name[300];
    ash_db *db;
    ash_session *s;
    ash_table *t;
    struct ash_slice v;
    struct db_seams seams = { .page_id_max = 1u << 20, .grow_bytes = 4u << 20 };

    snprintf(path, sizeof(path), "%s/options", dir);
    must_rc(db_open(&seams, dir, ASH_OPEN_CREATE, "cash=1GiB", &db), ASH_INVALID);
    says("cache"); /* the nearest name */
    must_rc(db_open(&seams, dir, ASH_OPEN_CREATE, "cache=1", &db), ASH_INVALID);
    says("cache");
    must_rc(db_open(&seams, dir, ASH_OPEN_CREATE, "wal_writers=99", &db), ASH_INVALID);
    says("wal_writers");
    must_rc(db_open(&seams, dir, ASH_OPEN_CREATE, "durability=maybe", &db), ASH_INVALID);
    must_rc(db_open(&seams, "", ASH_OPEN_CREATE, NULL, &db), ASH_INVALID);
    make(dir, 1);
    must_ok(open_dir(dir, 0, &db));
    must_ok(ash_session_open(db, &s));
    must_ok(ash_table_open(s, "t", &t));
    must_rc(ash_put(s, t, ash_slice(big, ASH_KEY_SIZE_MAX + 1), slice_str("x")), ASH_TOO_LARGE);
    must_rc(ash_put(s, t, slice_str("k"), ash_slice(big, ASH_VALUE_SIZE_MAX + 1)), ASH_TOO_LARGE);
    must_rc(ash_get(s, t, ash_slice(big, ASH_KEY_SIZE_MAX + 1), &v), ASH_TOO_LARGE);
    must_rc(ash_put(s, t, ash_slice(NULL, 5), slice_str("x")), ASH_INVALID);
    must_rc(ash_put(s, t, slice_str("k"), ash_slice(NULL, 5)), ASH_INVALID);
    must_ok(ash_put(s, t, ash_slice(big, ASH_KEY_SIZE_MAX), slice_str("x")));
    must_ok(ash_put(s, t, ash_slice(NULL, 0), ash_slice(NULL, 0)));
    must_rc(ash_table_create(s, "t", NULL), ASH_EXISTS);
    must_rc(ash_table_create(s, "", NULL), ASH_INVALID);
    memset(name, 'n', sizeof(name));
    name[ASH_TABLE_NAME_MAX + 1] = '\0';
    must_rc(ash_table_create(s, name, NULL), ASH_INVALID);
    struct ash_table_options odd = { 5000 }, huge = { 64u << 20 };
    must_rc(ash_table_create(s, "odd", &odd), ASH_INVALID);
    must_rc(ash_table_create(s, "huge", &huge), ASH_INVALID);
    must_rc(ash_table_drop(s, "nothing"), ASH_NOT_FOUND);
    must_rc(ash_option_set(db, "zone_size", "1MiB"), ASH_INVALID); /* not changeable */
    must_ok(ash_option_set(db, "lock_timeout_ms", "77"));
    must_ok(ash_option_get(db, "lock_timeout_ms", name, sizeof(name)));
    must(strcmp(name, "77") == 0, "%s", name);
    ash_table_close(t);
    ash_session_close(s);
    must_ok(ash_close(db));
    check_rows(dir, 0, 1);
}
END_TEST

static ash_db *forked_db;
static ash_session *forked_session;
static ash_table *forked_table;

static void
use_after_fork(void)
{
    struct ash_slice v;
    ash_session *s;

    must_rc(ash_get(forked_session, forked_table, slice_str("k"), &v), ASH_MISUSE);
    says("fork");
    must_rc(ash_session_open(forked_db, &s), ASH_MISUSE);
    must_rc(ash_begin(forked_session, NULL), ASH_MISUSE);
    must_rc(ash_close(forked_db), ASH_MISUSE);
}

START_TEST(a_handle_belongs_to_the_parent_of_a_fork)
{
    make(dir, 5);
    must_ok(open_dir(dir, 0, &forked_db));
    must_ok(ash_session_open(forked_db, &forked_session));
    must_ok(ash_table_open(forked_session, "t", &forked_table));
    in_child(use_after_fork);
    uint32_t k = 2;
    must_ok(ash_put(forked_session, forked_table, ash_slice(&k, sizeof(k)), slice_str("parent")));
    ash_table_close(forked_table);
    ash_session_close(forked_session);
    must_ok(ash_close(forked_db));
    check_rows(dir, 0, 5);
}
END_TEST

/* ---- The machine says no ---- */

/* Writes until something fails; returns how many rows were acknowledged. */
static uint32_t
fill(const char *path, uint32_t most, ash_rc *why_out)
{
    static char value[4000];
    ash_db *db;
    ash_session *s;
    ash_table *t;
    uint32_t n = 0;

    memset(value, 'v', sizeof(value));
    must_ok(open_dir(path, 0, &db));
    must_ok(ash_session_open(db, &s));
    must_ok(ash_table_open(s, "t", &t));
    *why_out = ASH_OK;
    while (n < most && *why_out == ASH_OK) {
        *why_out = ash_put(s, t, ash_slice(&n, sizeof(n)), ash_slice(value, sizeof(value)));
        n += *why_out == ASH_OK;
    }
    if (*why_out != ASH_OK)
        must(strlen(ash_error_last()->message) > 20, "%s", ash_error_last()->message);
    ash_table_close(t);
    ash_session_close(s);
    ash_ignore(ash_close(db)); /* may fail on a full disk; the next open decides */
    return n;
}

static void
file_size_limited(void)
{
    struct rlimit before, limit = { 6u << 20, 6u << 20 };
    ash_rc why;

    make(dir, 1);
    getrlimit(RLIMIT_FSIZE, &before);
    limit.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    must(setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit");
    uint32_t rows = fill(dir, 20000, &why);
    must(why == ASH_NO_SPACE || why == ASH_POISONED, "%s after %u rows", ash_rc_name(why), rows);
    must(rows > 100, "%u rows", rows);
    must(setrlimit(RLIMIT_FSIZE, &before) == 0, "setrlimit");
    check_rows(dir, 0, rows);
}

START_TEST(a_file_size_limit_loses_nothing)
{
    in_child(file_size_limited);
}
END_TEST

/* A tmpfs of 8 MiB in a mount namespace of the child. */
static bool
small_disk(const char *path, const char *size)
{
    char data[64];

    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return false;
    snprintf(data, sizeof(data), "size=%s", size);
    return mount("ashlar-test", path, "tmpfs", 0, data) == 0;
}

static void
disk_full(void)
{
    ash_rc why;
    char path[128];

    snprintf(path, sizeof(path), "%s/small", dir);
    must(mkdir(path, 0700) == 0, "mkdir");
    if (!small_disk(path, "12m")) {
        printf("a_full_disk: no mount namespace here, skipped\n");
        return;
    }
    make(path, 1);
    uint32_t rows = fill(path, 20000, &why);
    must(why == ASH_NO_SPACE || why == ASH_POISONED, "%s after %u rows", ash_rc_name(why), rows);
    must(mount("ashlar-test", path, "tmpfs", MS_REMOUNT, "size=64m") == 0, "remount");
    check_rows(path, 0, rows);
}

START_TEST(a_full_disk_loses_nothing)
{
    char path[128];

    in_child(disk_full);
    snprintf(path, sizeof(path), "%s/small", dir);
    rmdir(path);
}
END_TEST

static void
read_only_fs(void)
{
    ash_db *db;

    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount(dir, dir, NULL, MS_BIND, NULL) != 0 ||
        mount(dir, dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) != 0) {
        printf("a_read_only_file_system: no mount namespace here, skipped\n");
        return;
    }
    must_rc(open_dir(dir, 0, &db), ASH_READ_ONLY);
    says(dir);
    check_rows(dir, ASH_OPEN_READ_ONLY, 10);
}

START_TEST(a_read_only_file_system_is_told)
{
    make(dir, 10);
    in_child(read_only_fs);
    check_rows(dir, 0, 10);
}
END_TEST

static _Atomic unsigned warnings;

static void
count_warnings(void *arg, int level, const char *message)
{
    (void)arg;
    if (level <= LOG_WARN && strstr(message, "io_uring") != NULL)
        warnings++;
}

static void
no_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = { sizeof(code) / sizeof(code[0]), code };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
        printf("io_uring_forbidden: no seccomp here, skipped\n");
        return;
    }
    ash_log_hook(count_warnings, NULL);
    make(dir, 20);
    must(warnings == 1, "%u warnings", (unsigned)warnings);
    check_rows(dir, 0, 20);
    ash_db *db; /* asked for by name it is not replaced */
    must_rc(ash_open(dir, 0, OPTIONS ",io_backend=uring", &db), ASH_UNSUPPORTED);
    says("io_uring");
    must_ok(ash_open(dir, 0, OPTIONS ",io_backend=threads", &db));
    must_ok(ash_close(db));
}

START_TEST(without_io_uring_threads_do_the_work)
{
    in_child(no_uring);
    check_rows(dir, 0, 20); /* and the other way round */
}
END_TEST

static void
make_child(void)
{
    make(dir, 3);
}

START_TEST(files_are_private)
{
    char path[128];
    struct stat st;

    in_child(make_child);
    snprintf(path, sizeof(path), "%s/data-0000.ash", dir);
    must(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600, "mode %o", (unsigned)st.st_mode);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("bad_input");
    TCase *c = tcase_create("all");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_set_timeout(c, 120);
    tcase_add_test(c, a_directory_without_a_database_is_told);
    tcase_add_test(c, a_damaged_database_is_not_taken_for_none);
    tcase_add_test(c, an_existing_database_is_not_made_again);
    tcase_add_test(c, a_newer_format_is_refused);
    tcase_add_test(c, one_process_at_a_time);
    tcase_add_test(c, arguments_are_checked);
    tcase_add_test(c, a_handle_belongs_to_the_parent_of_a_fork);
    tcase_add_test(c, a_file_size_limit_loses_nothing);
    tcase_add_test(c, a_full_disk_loses_nothing);
    tcase_add_test(c, a_read_only_file_system_is_told);
    tcase_add_test(c, without_io_uring_threads_do_the_work);
    tcase_add_test(c, files_are_private);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
