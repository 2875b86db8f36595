/* SPDX-License-Identifier: Apache-2.0
 *
 * test_io_posix.c - files of the real backends: what the operating system could do to the engine,
 * and what it leaves behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/storage/io_env.h"

static void
full_path(char *out, size_t size, const struct env *e, const char *name)
{
    snprintf(out, size, "%s/%s", e->path, name);
}

static void
body_modes(struct env *e)
{
    char path[128];
    struct stat st;
    struct io_dir *d;

    io_file_close(env_file(e, "a", IO_CREATE));
    full_path(path, sizeof(path), e, "a");
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0600);
    full_path(path, sizeof(path), e, "sub");
    ck_ok(io_dir_open(e->io, path, IO_CREATE, &d));
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0700);
    io_dir_close(d);
    rmdir(path);
}

/* Goal: nobody else can read files or directories, whatever the umask. */
START_TEST(files_are_private)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    umask(0);
    env_run(&e, body_modes);
}
END_TEST

static void
body_links(struct env *e)
{
    char path[128], other[128];
    struct io_file *f = NULL;

    full_path(path, sizeof(path), e, "link");
    full_path(other, sizeof(other), e, "target");
    int fd = open(other, O_CREAT | O_WRONLY, 0600);
    close(fd);
    ck_assert_int_eq(symlink("target", path), 0);
    ck_rc(io_file_open(e->dir, "link", 0, &f), ASH_INVALID);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "symbolic link"));
    ck_rc(io_file_open(e->dir, "link", IO_CREATE, &f), ASH_INVALID);
    full_path(path, sizeof(path), e, "fifo");
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_rc(io_file_open(e->dir, "fifo", 0, &f), ASH_INVALID);
    full_path(path, sizeof(path), e, "directory");
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert_int_ne(io_file_open(e->dir, "directory", 0, &f), ASH_OK);
    rmdir(path);
}

/* Goal: only plain files and block devices are opened, and no link leads elsewhere. */
START_TEST(links_and_oddities_are_refused)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_links);
}
END_TEST

static void
body_moved(struct env *e)
{
    char moved[128], *buf = env_buffer(4096);

    snprintf(moved, sizeof(moved), "%s.moved", e->path);
    ck_assert_int_eq(rename(e->path, moved), 0);
    struct io_file *f = env_file(e, "a", IO_CREATE);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    ck_ok(io_dir_sync(e->dir));
    io_file_close(f);
    ck_assert_int_eq(rename(moved, e->path), 0);
    io_file_close(env_file(e, "a", 0));
    mem_free(MEM_TEST, buf);
}

/* Goal: names are relative to the open directory, not to its path. */
START_TEST(a_renamed_directory_stays_the_same)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_moved);
}
END_TEST

static void
body_two_processes(struct env *e)
{
    int up[2], down[2], status;
    char c;
    struct io_file *f = NULL;

    ck_assert_int_eq(pipe(up), 0);
    ck_assert_int_eq(pipe(down), 0);
    pid_t pid = fork();
    if (pid == 0) { /* another process, with a disk manager of its own */
        struct env child = { .kind = e->kind };
        memcpy(child.path, e->path, sizeof(child.path));
        env_open(&child);
        if (io_file_open(child.dir, "a", IO_CREATE | IO_LOCK, &f) != ASH_OK ||
            write(up[1], "x", 1) != 1 || read(down[0], &c, 1) != 1)
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    ck_assert_int_eq(read(up[0], &c, 1), 1);
    ck_rc(io_file_open(e->dir, "a", IO_LOCK, &f), ASH_BUSY);
    ck_rc(io_file_open(e->dir, "a", IO_LOCK | IO_READ_ONLY, &f), ASH_BUSY);
    ck_assert_int_eq(write(down[1], "x", 1), 1);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status));
    f = env_file(e, "a", IO_LOCK); /* it died: the lock is free */
    io_file_close(f);
    for (unsigned i = 0; i < 2; i++) {
        close(up[i]);
        close(down[i]);
    }
}

/* Goal (R5): another process's lock is seen, and ends with it. */
START_TEST(lock_holds_between_processes)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_two_processes);
}
END_TEST

static void
body_limit(struct env *e)
{
    struct rlimit before, lim;
    struct io_file *f = env_file(e, "a", IO_CREATE), *g = NULL;
    char *buf = env_buffer(65536);
    uint64_t size;

    ck_ok(io_file_allocate(f, 65536, true));
    getrlimit(RLIMIT_FSIZE, &before);
    lim = before;
    lim.rlim_cur = 100000;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
    ck_rc(io_file_allocate(f, 1 << 20, true), ASH_NO_SPACE);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "RLIMIT_FSIZE"));
    ck_rc(io_file_truncate(f, 1 << 20), ASH_NO_SPACE);
    ck_assert(!io_poisoned(e->io));
    ck_ok(io_file_size(f, &size));
    ck_assert_uint_eq(size, 65536);
    ck_ok(io_write(f, buf, 65536, 0, IO_CLASS_WRITE));
    lim.rlim_cur = 4096;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
    ck_rc(io_file_open(e->dir, "a", 0, &g), ASH_NO_SPACE); /* its own bytes are beyond the limit */
    g = env_file(e, "a", IO_READ_ONLY);
    io_file_close(g);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before), 0);
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: a file-size limit is an error that names it, and never SIGXFSZ. */
START_TEST(file_size_limit_is_an_error)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_limit);
}
END_TEST

static void
body_without(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE | IO_EXCLUSIVE);
    enum {
        N = 3 << 20
    };
    char *buf = env_buffer(N), *zero = env_buffer(N);
    uint64_t size;

    ck_ok(io_file_allocate(f, N, true));
    ck_ok(io_file_size(f, &size));
    ck_assert_uint_eq(size, N);
    ck_ok(io_read(f, buf, N, 0, IO_CLASS_READ));
    ck_assert_mem_eq(buf, zero, N);
    ck_ok(io_file_allocate(f, N + 4096, false));
    ck_ok(io_file_punch(f, 0, 4096));
    ck_assert_int_eq(io_file_device_class(f), IO_DEVICE_VOLATILE);
    ck_assert_uint_eq(env_log.count, 1);
    ck_assert_ptr_nonnull(strstr(env_log.last, "O_DIRECT"));
    io_file_close(f);
    f = env_file(e, "b", IO_CREATE | IO_DSYNC);
    ck_ok(io_write(f, buf, 8192, 0, IO_CLASS_WAL));
    ck_assert_uint_eq(env_log.count, 1);
    mem_free(MEM_TEST, zero);
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: a file system with neither O_DIRECT nor fallocate() is used through the page cache, with
 * one logged line. */
START_TEST(poor_file_systems_will_do)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_log_start();
    io__test_hooks.no_direct = true;
    io__test_hooks.no_fallocate = true;
    env_run(&e, body_without);
    io__test_hooks.no_direct = false;
    io__test_hooks.no_fallocate = false;
}
END_TEST

static void
body_durable(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE | IO_DSYNC);
    char *buf = env_buffer(8192);
    struct io_req req = { .file = f,
                          .op = IO_OP_WRITE,
                          .class = IO_CLASS_WAL,
                          .bytes = 8192,
                          .buf = buf,
                          .dsync = true };
    struct io_req *ptr = &req;

    ck_assert(io_file_device_class(f) == IO_DEVICE_WRITE_THROUGH ||
              io_file_device_class(f) == IO_DEVICE_VOLATILE);
    ck_assert_uint_ge(io_file_align(f), IO_ALIGN);
    ck_assert_str_eq(io_file_name(f), "a");
    ck_assert_ptr_eq(io_file_io(f), e->io);
    ck_ok(io_file_allocate(f, 8192, true));
    io_submit(&ptr, 1);
    ck_ok(io_wait(&req));
    ck_ok(io_flush(f, IO_CLASS_WAL));
    struct io_stats s;
    io_stats(e->io, &s);
    ck_assert_uint_ge(s.flushes, 2);
    mem_free(MEM_TEST, buf);
    io_file_close(f);
    f = env_file(e, "a", IO_BUFFERED);
    ck_assert_int_eq(io_file_device_class(f), IO_DEVICE_VOLATILE);
    io_file_close(f);
}

/* Goal: durable writes and flushes go through; the page cache never counts as durable. */
START_TEST(durable_writes_work)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_durable);
}
END_TEST

static void
body_bad_device(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *buf = env_buffer(4096);

    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    int ro = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int keep = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
    ck_assert_int_eq(dup2(ro, f->fd),
                     f->fd); /* the descriptor now refuses writes, as a broken device would */
    ck_rc(io_write(f, buf, 4096, 0, IO_CLASS_WRITE), ASH_IO);
    ck_assert_int_eq(err_current()->sys_errno, EBADF);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "bytes 0..4096 of "));
    ck_assert(io_poisoned(e->io));
    ck_assert_int_eq(dup2(keep, f->fd), f->fd);
    ck_rc(io_write(f, buf, 4096, 0, IO_CLASS_WRITE), ASH_POISONED);
    ck_rc(io_flush(f, IO_CLASS_WAL), ASH_POISONED);
    ck_ok(io_read(f, buf, 4096, 0, IO_CLASS_READ));
    close(keep);
    close(ro);
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal (R3): a write that the kernel fails poisons at once; reads go on. */
START_TEST(a_failed_write_poisons)
{
    struct env e = { .kind = (enum io_backend_kind)_i };
    env_run(&e, body_bad_device);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("io_posix");
    TCase *t = tcase_create("files");

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, files_are_private, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, links_and_oddities_are_refused, IO_BACKEND_URING,
                        IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, a_renamed_directory_stays_the_same, IO_BACKEND_URING,
                        IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, lock_holds_between_processes, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, file_size_limit_is_an_error, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, poor_file_systems_will_do, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, durable_writes_work, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, a_failed_write_poisons, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
