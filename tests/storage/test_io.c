/* SPDX-License-Identifier: Apache-2.0
 *
 * test_io.c - what every backend of the disk manager promises: the same on all three.
 */
#include "base/hist.h"

#include <signal.h>

#include "tests/storage/io_env.h"

/* ---- Data ---- */

static void
body_round_trip(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *out = env_buffer(1 << 20), *in = env_buffer(1 << 20);

    for (uint32_t bytes = 4096, at = 0; bytes <= 1u << 20; at += bytes, bytes *= 4) {
        env_fill(out, bytes, bytes);
        ck_ok(io_write(f, out, bytes, at, IO_CLASS_WRITE));
        ck_ok(io_read(f, in, bytes, at, IO_CLASS_READ));
        ck_assert_mem_eq(in, out, bytes);
    }
    ck_ok(io_flush(f, IO_CLASS_WAL));
    uint64_t size;
    ck_ok(io_file_size(f, &size));
    ck_assert_uint_eq(size, 4096 * (1 + 4 + 16 + 64 + 256));
    io_file_close(f);
    f = env_file(e, "a", 0);
    ck_ok(io_read(f, in, 1u << 20, 4096 * (1 + 4 + 16 + 64), IO_CLASS_READ));
    ck_assert_mem_eq(in, out, 1 << 20);
    io_file_close(f);
    mem_free(MEM_TEST, in);
    mem_free(MEM_TEST, out);
}

/* Goal: what was written is read back, at every size, also by a later handle. */
START_TEST(data_written_is_data_read)
{
    ENV_RUN(body_round_trip);
}
END_TEST

static void
body_vectors(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    enum {
        N = 7
    };
    struct iovec iov[N];
    char *part[N], *all = env_buffer(64 * 4096);
    uint32_t total = 0;

    for (unsigned i = 0; i < N; i++) {
        part[i] = env_buffer((i + 1) * 4096);
        env_fill(part[i], (i + 1) * 4096, i);
        iov[i] = (struct iovec){ part[i], (i + 1) * 4096 };
        total += (i + 1) * 4096;
    }
    struct io_req w = { .file = f,
                        .op = IO_OP_WRITE,
                        .class = IO_CLASS_FLUSH,
                        .offset = 8192,
                        .bytes = total,
                        .iov = iov,
                        .iov_count = N };
    struct io_req *pw = &w;
    ck_ok(io_file_allocate(f, 8192, false));
    io_submit(&pw, 1);
    ck_ok(io_wait(&w));
    ck_ok(io_read(f, all, total, 8192, IO_CLASS_READ));
    for (unsigned i = 0, at = 0; i < N; at += (i + 1) * 4096, i++) {
        ck_assert_mem_eq(all + at, part[i], (i + 1) * 4096);
        memset(part[i], 0, (i + 1) * 4096);
    }
    struct io_req r = { .file = f,
                        .op = IO_OP_READ,
                        .class = IO_CLASS_READ,
                        .offset = 8192,
                        .bytes = total,
                        .iov = iov,
                        .iov_count = N };
    struct io_req *pr = &r;
    io_submit(&pr, 1);
    ck_ok(io_wait(&r));
    for (unsigned i = 0, at = 0; i < N; at += (i + 1) * 4096, i++) {
        ck_assert_mem_eq(all + at, part[i], (i + 1) * 4096);
        mem_free(MEM_TEST, part[i]);
    }
    mem_free(MEM_TEST, all);
    io_file_close(f);
}

/* Goal: a vector's parts land one after the other. */
START_TEST(vectors_land_in_order)
{
    ENV_RUN(body_vectors);
}
END_TEST

static void
body_short(struct env *e)
{
    io__test_hooks.short_bytes = 12288;
    body_round_trip(e);
    body_vectors(e);
    struct io_stats s;
    io_stats(e->io, &s);
    ck_assert_uint_gt(s.retries, 0);
    io__test_hooks.short_bytes = 0;
}

/* Goal: transfers that stop early are continued, also inside a vector's entry.  Method: a hook
 * bounds each transfer. */
START_TEST(short_transfers_are_continued)
{
    ENV_RUN(body_short);
}
END_TEST

static void
body_end(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *buf = env_buffer(16384);

    ck_rc(io_read(f, buf, 4096, 0, IO_CLASS_READ), ASH_CORRUPT);
    ck_ok(io_write(f, buf, 8192, 0, IO_CLASS_WRITE));
    ck_rc(io_read(f, buf, 4096, 8192, IO_CLASS_READ), ASH_CORRUPT);
    ck_rc(io_read(f, buf, 16384, 0, IO_CLASS_READ), ASH_CORRUPT);
    ck_assert_ptr_nonnull(
        strstr(err_current()->message, "/a ends inside the 16384 bytes at offset 0"));
    ck_assert(!io_poisoned(e->io));
    ck_ok(io_read(f, buf, 8192, 0, IO_CLASS_READ));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal (R7): a read beyond the end is a failure that says so, never a short success. */
START_TEST(reading_past_the_end_fails)
{
    ENV_RUN(body_end);
}
END_TEST

#define MANY 700u

static void
body_many(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    struct io_req *req = mem_zalloc(MEM_TEST, MANY * sizeof(*req)),
                  **ptr = mem_zalloc(MEM_TEST, MANY * sizeof(*ptr));
    char *buf = env_buffer(MANY * 4096);

    ck_ok(io_file_allocate(f, MANY * 4096, true));
    for (unsigned round = 0; round < 2; round++) {
        if (round == 1)
            memset(buf, 0, MANY * 4096);
        for (unsigned i = 0; i < MANY; i++) {
            if (round == 0)
                env_fill(buf + i * 4096, 4096, i);
            req[i].file = f;
            req[i].op = round == 0 ? IO_OP_WRITE : IO_OP_READ;
            req[i].class = (enum io_class)(1 + i % (IO_CLASS_COUNT - 1));
            req[i].offset = i * 4096;
            req[i].bytes = 4096;
            req[i].buf = buf + i * 4096;
            ptr[i] = &req[i];
        }
        io_submit(ptr, MANY);
        io_kick(e->io);
        unsigned left = MANY;
        while (left > 0) {
            io_wait_any(ptr, left);
            unsigned before = left;
            for (unsigned i = 0; i < left;) {
                if (!atomic_load(&ptr[i]->done)) {
                    i++;
                    continue;
                }
                ck_ok(io_wait(ptr[i]));
                ptr[i] = ptr[--left];
            }
            ck_assert_uint_lt(left, before);
        }
    }
    char *want = env_buffer(4096);
    for (unsigned i = 0; i < MANY; i++) {
        env_fill(want, 4096, i);
        ck_assert_mem_eq(buf + i * 4096, want, 4096);
        ck_assert_uint_ge(req[i].finish_ns, req[i].submit_ns);
    }
    struct io_stats s;
    io_stats(e->io, &s);
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        ck_assert_uint_ge(s.bytes[c], MANY / (IO_CLASS_COUNT - 1) * 2 * 4096);
    if (e->kind != IO_BACKEND_SIM) {
        struct hist *h = mem_alloc(MEM_TEST, sizeof(*h));
        hist_init(h);
        io_latency(e->io, IO_CLASS_SCRUB, h);
        ck_assert_uint_eq(h->count, s.requests[IO_CLASS_SCRUB]);
        ck_assert_uint_gt(hist_quantile(h, 0.5), 0);
        mem_free(MEM_TEST, h);
    }
    mem_free(MEM_TEST, want);
    mem_free(MEM_TEST, buf);
    mem_free(MEM_TEST, req);
    mem_free(MEM_TEST, ptr);
    io_file_close(f);
}

/* Goal: more requests than any queue has entries, of all classes at once, all complete and are
 * counted. */
START_TEST(many_requests_in_flight_all_complete)
{
    ENV_RUN(body_many);
}
END_TEST

/* ---- Names ---- */

#define NAMES_MAX 256

static bool
collect(void *arg, const char *name)
{
    char *list = arg;
    size_t used = strlen(list);
    snprintf(list + used, NAMES_MAX - used, "%s ", name);
    return true;
}

static bool
first_only(void *arg, const char *name)
{
    collect(arg, name);
    return false;
}

static void
body_names(struct env *e)
{
    struct io_file *f = NULL;
    char list[256] = "";
    static const char *const bad[] = { "", ".", "..", "a/b", "/etc/passwd" };

    ck_rc(io_file_open(e->dir, "x", 0, &f), ASH_NOT_FOUND);
    static const char *const made[] = { "zeta", "alpha", "m1", "m0" };
    for (unsigned i = 0; i < 4; i++)
        io_file_close(env_file(e, made[i], IO_CREATE));
    ck_rc(io_file_open(e->dir, "m0", IO_CREATE | IO_EXCLUSIVE, &f), ASH_EXISTS);
    io_file_close(env_file(e, "m0", IO_CREATE));
    ck_ok(io_dir_rename(e->dir, "m1", "beta"));
    ck_ok(io_dir_rename(e->dir, "m0", "zeta")); /* over another */
    ck_rc(io_dir_rename(e->dir, "m0", "y"), ASH_NOT_FOUND);
    ck_rc(io_dir_unlink(e->dir, "m0"), ASH_NOT_FOUND);
    ck_ok(io_dir_sync(e->dir));
    ck_ok(io_dir_list(e->dir, collect, list));
    ck_assert_str_eq(list, "alpha beta zeta ");
    list[0] = '\0';
    ck_ok(io_dir_list(e->dir, first_only, list));
    ck_assert_str_eq(list, "alpha ");
    ck_ok(io_dir_unlink(e->dir, "alpha"));
    ck_rc(io_file_open(e->dir, "alpha", 0, &f), ASH_NOT_FOUND);
    for (unsigned i = 0; i < 5; i++) {
        ck_rc(io_file_open(e->dir, bad[i], IO_CREATE, &f), ASH_INVALID);
        ck_rc(io_dir_unlink(e->dir, bad[i]), ASH_INVALID);
        ck_rc(io_dir_rename(e->dir, "beta", bad[i]), ASH_INVALID);
    }
    struct io_dir *d = NULL;
    ck_rc(io_dir_open(e->io, "no-such-directory", 0, &d), ASH_NOT_FOUND);
    ck_rc(io_dir_open(e->io, e->path, IO_CREATE | IO_EXCLUSIVE, &d), ASH_EXISTS);
    ck_assert_str_eq(io_dir_path(e->dir), e->path);
}

/* Goal: names are made, replaced, removed and listed in order; names that are none are refused. */
START_TEST(names_behave)
{
    ENV_RUN(body_names);
}
END_TEST

static void
body_lock(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE | IO_LOCK), *g = NULL, *h = NULL;

    ck_rc(io_file_open(e->dir, "a", IO_LOCK, &g), ASH_BUSY);
    ck_rc(io_file_open(e->dir, "a", IO_LOCK | IO_READ_ONLY, &g), ASH_BUSY);
    io_file_close(env_file(
        e, "a", 0)); /* without the lock nobody is held up, and closing it releases nothing */
    ck_rc(io_file_open(e->dir, "a", IO_LOCK, &g), ASH_BUSY);
    io_file_close(f);
    g = env_file(e, "a", IO_LOCK | IO_READ_ONLY);
    h = env_file(e, "a", IO_LOCK | IO_READ_ONLY);
    ck_rc(io_file_open(e->dir, "a", IO_LOCK, &f), ASH_BUSY);
    io_file_close(g);
    io_file_close(h);
    io_file_close(env_file(e, "a", IO_LOCK));
}

/* Goal (R5): one writer or many readers hold the lock; it goes with its handle. */
START_TEST(lock_is_exclusive)
{
    ENV_RUN(body_lock);
}
END_TEST

static void
body_read_only(struct env *e)
{
    char *buf = env_buffer(4096);
    struct io_file *f = env_file(e, "a", IO_CREATE);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    io_file_close(f);
    f = env_file(e, "a", IO_READ_ONLY);
    ck_ok(io_read(f, buf, 4096, 0, IO_CLASS_READ));
    ck_rc(io_write(f, buf, 4096, 0, IO_CLASS_WRITE), ASH_READ_ONLY);
    ck_rc(io_file_allocate(f, 8192, false), ASH_READ_ONLY);
    ck_rc(io_file_truncate(f, 0), ASH_READ_ONLY);
    ck_assert(!io_poisoned(e->io));
    io_file_close(f);
    ck_rc(io_file_open(e->dir, "b", IO_READ_ONLY | IO_CREATE, &f), ASH_INVALID);
    mem_free(MEM_TEST, buf);
}

/* Goal: a read-only handle changes nothing, and trying to does not poison. */
START_TEST(read_only_changes_nothing)
{
    ENV_RUN(body_read_only);
}
END_TEST

static void
body_sizes(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    enum {
        N = 3 << 20
    };
    char *buf = env_buffer(N), *zero = env_buffer(N);
    uint64_t size;

    ck_ok(io_file_allocate(f, N, true));
    ck_ok(io_file_size(f, &size));
    ck_assert_uint_eq(size, N);
    env_fill(buf, N, 1);
    ck_ok(io_read(f, buf, N, 0, IO_CLASS_READ));
    ck_assert_mem_eq(buf, zero, N);
    env_fill(buf, N, 2);
    ck_ok(io_write(f, buf, N, 0, IO_CLASS_WRITE));
    ck_ok(io_file_allocate(f, 4096, true)); /* never shrinks, never overwrites */
    ck_ok(io_file_allocate(f, N + 65536, false));
    ck_ok(io_file_size(f, &size));
    ck_assert_uint_eq(size, N + 65536);
    ck_ok(io_read(f, buf, 65536, N, IO_CLASS_READ));
    ck_assert_mem_eq(buf, zero, 65536);
    ck_ok(io_file_punch(f, 8192, 65536));
    ck_ok(io_read(f, buf, N, 0, IO_CLASS_READ));
    ck_assert_mem_eq(buf + 8192, zero, 65536);
    char *want = env_buffer(N);
    env_fill(want, N, 2);
    ck_assert_mem_eq(buf, want, 8192);
    ck_assert_mem_eq(buf + 8192 + 65536, want + 8192 + 65536, N - 8192 - 65536);
    ck_ok(io_file_truncate(f, 4096));
    ck_ok(io_file_truncate(f, 12288));
    ck_ok(io_read(f, buf, 12288, 0, IO_CLASS_READ));
    ck_assert_mem_eq(buf, want, 4096);
    ck_assert_mem_eq(buf + 4096, zero, 8192);
    mem_free(MEM_TEST, want);
    mem_free(MEM_TEST, zero);
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: growing gives zeros and keeps data; punching and cutting give zeros. */
START_TEST(sizes_change_as_asked)
{
    ENV_RUN(body_sizes);
}
END_TEST

/* ---- Poison (R3) ---- */

static void
body_poison(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE), *g = NULL;
    char *buf = env_buffer(4096);

    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    ck_ok(io_check(e->io));
    io_poison(e->io, ash_raise_obj(ASH_IO, "elsewhere", "The first failure happened."));
    io_poison(e->io, ash_raise(ASH_NO_SPACE, "The second failure happened."));
    ck_assert(io_poisoned(e->io));
    ck_rc(io_check(e->io), ASH_POISONED);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "The first failure happened."));
    ck_assert_str_eq(err_current()->object, "elsewhere");
    ck_rc(io_write(f, buf, 4096, 0, IO_CLASS_WRITE), ASH_POISONED);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "The first failure happened."));
    ck_rc(io_flush(f, IO_CLASS_WAL), ASH_POISONED);
    ck_rc(io_file_allocate(f, 8192, true), ASH_POISONED);
    ck_rc(io_file_truncate(f, 0), ASH_POISONED);
    ck_rc(io_file_punch(f, 0, 4096), ASH_POISONED);
    ck_rc(io_dir_rename(e->dir, "a", "b"), ASH_POISONED);
    ck_rc(io_dir_unlink(e->dir, "a"), ASH_POISONED);
    ck_rc(io_dir_sync(e->dir), ASH_POISONED);
    ck_rc(io_file_open(e->dir, "n", IO_CREATE, &g), ASH_POISONED);
    ck_ok(io_read(f, buf, 4096, 0, IO_CLASS_READ));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: after the first failure nothing changes files any more, reads go on, and its sentence is
 * kept. */
START_TEST(poison_stops_every_change_but_no_read)
{
    ENV_RUN(body_poison);
}
END_TEST

/* ---- R4 ---- */

static void
body_misaligned(struct env *e)
{
    struct io_file *f = env_file(e, "a", IO_CREATE);
    char *buf = env_buffer(8192);
    ash_ignore(io_write(f, buf + 512, 4096, 0, IO_CLASS_WRITE));
}

/* Goal: a misaligned buffer is stopped before any backend could be lenient about it. */
START_TEST(misaligned_buffer_aborts)
{
    ENV_RUN(body_misaligned);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("io");
    TCase *t = tcase_create("every backend");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, data_written_is_data_read, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, vectors_land_in_order, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, short_transfers_are_continued, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, reading_past_the_end_fails, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, many_requests_in_flight_all_complete, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, names_behave, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, lock_is_exclusive, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, read_only_changes_nothing, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, sizes_change_as_asked, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, poison_stops_every_change_but_no_read, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    if (test_forks())
        tcase_add_loop_test_raise_signal(t, misaligned_buffer_aborts, SIGABRT, IO_BACKEND_URING,
                                         IO_BACKEND_SIM + 1);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
