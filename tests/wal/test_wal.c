/* SPDX-License-Identifier: Apache-2.0
 *
 * test_wal.c - the log in regular use, on every backend: what was appended is what is read, from
 * the buffer, from disk, after reopening.
 */
#include "tests/wal/wal_env.h"

#define RECORDS 600

struct expected {
    uint64_t start[RECORDS];
    uint32_t size[RECORDS];
    unsigned count, seen;
};

static uint32_t
draw_size(struct random *r)
{
    switch (random_below(r, 20)) {
    case 0: return 32;
    case 1: return (uint32_t)(WAL_RECORD_MAX / 8 + random_below(r, 4096));
    case 2: return (uint32_t)(4000 + random_below(r, 200));
    default: return (uint32_t)(33 + random_below(r, 400));
    }
}

static void
see(void *arg, const struct wal_record *rec)
{
    struct expected *x = arg;
    uint64_t n;
    ck_assert(wenv_check((const uint8_t *)rec->head, rec->head->size, &n));
    ck_assert_uint_eq(n, x->seen);
    ck_assert_uint_eq(rec->start, x->start[n]);
    ck_assert_uint_eq(rec->head->size, x->size[n]);
    x->seen++;
}

static void
append_some(struct wal *wal, struct expected *x, unsigned count, struct random *r)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned n = x->count++;
        uint64_t end;
        x->size[n] = draw_size(r);
        ck_ok(wenv_append(wal, n, x->size[n], &x->start[n], &end));
        if (random_chance(r, 1, 7))
            ck_ok(wal_flush_to(wal, end));
    }
}

static void
read_all(struct wal *wal, const struct expected *x)
{
    uint8_t *buf = mem_alloc(MEM_TEST, WAL_RECORD_MAX);
    uint64_t oldest = wal_oldest(wal);
    for (unsigned i = 0; i < x->count; i++) {
        uint32_t size;
        uint64_t n;
        ash_rc rc = wal_read(wal, x->start[i], buf, WAL_RECORD_MAX, &size);
        if (rc == ASH_SNAPSHOT_TOO_OLD) {
            ck_assert_uint_lt(x->start[i], oldest);
            continue;
        }
        ck_assert_msg(rc == ASH_OK, "record %u at %llu: %s", i, (unsigned long long)x->start[i],
                      err_current()->message);
        ck_assert(wenv_check(buf, size, &n));
        ck_assert_uint_eq(n, i);
    }
    mem_free(MEM_TEST, buf);
}

/* Three lives; records of 32 bytes to 36 KiB in 64 KiB segments and a buffer of 1 MiB that wraps
 * several times. */
static void
appended_is_read_back_body(struct env *e)
{
    struct expected *x = mem_zalloc(MEM_TEST, sizeof(*x));
    struct random r;
    random_init(&r, e->seed);
    struct wal *wal = wenv_create(e, NULL);
    append_some(wal, x, RECORDS / 3, &r);
    read_all(wal, x);
    ck_ok(wal_close(wal));
    for (unsigned life = 0; life < 2; life++) {
        struct wal_position from = { WAL_LSN_FIRST, life };
        x->seen = 0;
        ck_rc(wenv_read(e, from, x->start[x->count - 1] + 32, see, x, NULL, &wal, NULL),
              ASH_NOT_FOUND);
        ck_assert_uint_eq(x->seen, x->count);
        read_all(wal, x);
        append_some(wal, x, RECORDS / 3, &r);
        read_all(wal, x);
        struct wal_stats st;
        wal_stats(wal, &st);
        ck_assert_uint_gt(st.reads_disk, 0);
        ck_ok(wal_close(wal));
    }
    x->seen = 0;
    struct wal_position from = { WAL_LSN_FIRST, 0 };
    ck_rc(wenv_read(e, from, 0, see, x, NULL, NULL, NULL), ASH_NOT_FOUND);
    ck_assert_uint_eq(x->seen, x->count);
    /* Reading may start at any record. */
    for (unsigned i = 0; i < x->count; i += 37) {
        x->seen = i;
        from.lsn = x->start[i];
        ck_rc(wenv_read(e, from, 0, see, x, NULL, NULL, NULL), ASH_NOT_FOUND);
        ck_assert_uint_eq(x->seen, x->count);
    }
    mem_free(MEM_TEST, x);
}

START_TEST(appended_is_read_back)
{
    ENV_RUN(appended_is_read_back_body);
}
END_TEST

/* Records of the greatest size span blocks and segments. */
static void
huge_records_body(struct env *e)
{
    struct expected *x = mem_zalloc(MEM_TEST, sizeof(*x));
    struct wal *wal = wenv_create(e, NULL);
    for (unsigned i = 0; i < 12; i++) {
        x->size[i] = WAL_RECORD_MAX - i;
        ck_ok(wenv_append(wal, i, x->size[i], &x->start[i], NULL));
        x->count++;
    }
    read_all(wal, x);
    ck_ok(wal_close(wal));
    struct wal_position from = { WAL_LSN_FIRST, 1 };
    ck_rc(wenv_read(e, from, 0, see, x, NULL, NULL, NULL), ASH_NOT_FOUND);
    ck_assert_uint_eq(x->seen, x->count);
    mem_free(MEM_TEST, x);
}

START_TEST(records_of_the_greatest_size_are_read_back)
{
    ENV_RUN(huge_records_body);
}
END_TEST

/* ---- Several tasks ---- */

#define TASKS    4
#define PER_TASK 400
struct appender {
    struct env *e;
    struct wal *wal;
    unsigned id;
    struct task *task;
    uint64_t start[PER_TASK];
    bool sync;
};
static unsigned seen_of[TASKS];

static void
appender_main(void *arg)
{
    struct appender *a = arg;
    uint8_t *buf = mem_alloc(MEM_TEST, 4096);
    for (unsigned i = 0; i < PER_TASK; i++) {
        uint64_t end, n;
        uint32_t size;
        ck_ok(wenv_append(a->wal, (uint64_t)a->id << 32 | i, 32 + (a->id * 131 + i * 37) % 2000,
                          &a->start[i], &end));
        if (a->sync || i % 16 == 0) {
            ck_ok(wal_flush_to(a->wal, end));
            ck_assert_uint_ge(wal_durable(a->wal), end);
        }
        unsigned back = i > 50 ? i - 50 : 0;
        ck_ok(wal_read(a->wal, a->start[back], buf, 4096, &size));
        ck_assert(wenv_check(buf, size, &n));
        ck_assert_uint_eq(n, (uint64_t)a->id << 32 | back);
    }
    mem_free(MEM_TEST, buf);
}

static void
see_task(void *arg, const struct wal_record *rec)
{
    struct appender *a = arg;
    uint64_t n;
    ck_assert(wenv_check((const uint8_t *)rec->head, rec->head->size, &n));
    unsigned id = (unsigned)(n >> 32);
    ck_assert_uint_lt(id, TASKS);
    ck_assert_uint_eq((uint32_t)n, seen_of[id]);
    ck_assert_uint_eq(rec->start, a[id].start[seen_of[id]]);
    seen_of[id]++;
}

static void
concurrent_body(struct env *e)
{
    struct appender *a = mem_zalloc(MEM_TEST, TASKS * sizeof(*a));
    struct wal_options o = wenv_options(e);
    o.segment_bytes = 256u << 10;
    struct wal *wal = wenv_create(e, &o);
    memset(seen_of, 0, sizeof(seen_of));
    for (unsigned i = 0; i < TASKS; i++) {
        a[i] = (struct appender){ .e = e, .wal = wal, .id = i, .sync = i < 2 };
        ck_ok(task_spawn(e->rt, "appender", appender_main, &a[i], &a[i].task));
    }
    for (unsigned i = 0; i < TASKS; i++)
        task_join(a[i].task);
    struct wal_stats st;
    wal_stats(wal, &st);
    ck_ok(wal_close(wal));
    struct wal_position from = { WAL_LSN_FIRST, 1 };
    ck_rc(wenv_read(e, from, 0, see_task, a, NULL, NULL, NULL), ASH_NOT_FOUND);
    for (unsigned i = 0; i < TASKS; i++)
        ck_assert_uint_eq(seen_of[i], PER_TASK);
    mem_free(MEM_TEST, a);
}

START_TEST(concurrent_appends_keep_each_tasks_order)
{
    ENV_RUN(concurrent_body);
}
END_TEST

/* ---- Reading what is about to be overwritten ---- */

struct chase {
    struct wal *wal;
    _Atomic uint64_t start[64];
    _Atomic unsigned count;
    _Atomic bool done;
};

static void
chase_append(void *arg)
{
    struct chase *c = arg;
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t start;
        ck_ok(wenv_append(c->wal, i, 3000 + i % 1000, &start, NULL));
        atomic_store(&c->start[i / 16 % 64],
                     i % 16 == 0 ? start : atomic_load(&c->start[i / 16 % 64]));
        if (i % 16 == 0)
            atomic_fetch_add(&c->count, 1);
    }
    atomic_store(&c->done, true);
}

/* One task appends as fast as it can, another reads the oldest records of the buffer: right bytes
 * or ASH_WOULD_BLOCK. */
static void
chase_body(struct env *e)
{
    struct chase *c = mem_zalloc(MEM_TEST, sizeof(*c));
    struct task *t;
    uint8_t *buf = mem_alloc(MEM_TEST, 4096);
    unsigned read = 0, spins = 0;
    struct wal_options o = wenv_options(e);
    o.segment_bytes = 4u << 20;
    c->wal = wenv_create(e, &o);
    ck_ok(task_spawn(e->rt, "appender", chase_append, c, &t));
    while (!atomic_load(&c->done)) {
        unsigned count = atomic_load(&c->count);
        uint64_t reserved = wal_reserved(c->wal);
        task_relax(&spins);
        for (unsigned i = 0; i < 64 && i < count; i++) {
            uint64_t start = atomic_load(&c->start[i]), n;
            if (start == 0 || start + WENV_BUFFER > reserved + 40000 ||
                start + WENV_BUFFER < reserved)
                continue; /* not at the edge */
            uint32_t size;
            ash_rc rc = wal_read_nowait(c->wal, start, buf, 4096, &size);
            if (rc == ASH_WOULD_BLOCK)
                continue;
            ck_assert_msg(rc == ASH_OK, "%s", err_current()->message);
            ck_assert(wenv_check(buf, size, &n));
            read++;
        }
    }
    task_join(t);
    ck_ok(wal_close(c->wal));
    (void)read;
    mem_free(MEM_TEST, buf);
    mem_free(MEM_TEST, c);
}

START_TEST(what_is_being_overwritten_is_not_read)
{
    for (uint64_t seed = 1; seed <= (_i == IO_BACKEND_SIM ? 6 : 1); seed++) {
        struct env e = { .kind = (enum io_backend_kind)_i, .seed = test_seed(seed) };
        ck_ok(env_run(&e, chase_body));
    }
}
END_TEST

/* ---- Callbacks ---- */

static _Atomic unsigned called;
struct my_callback {
    struct wal_callback cb;
    struct wal *wal;
};

static void
on_durable(struct wal_callback *cb, ash_rc rc)
{
    struct my_callback *m = (struct my_callback *)cb;
    ck_assert_int_eq(rc, ASH_OK);
    ck_assert_uint_ge(wal_durable(m->wal), cb->lsn);
    atomic_fetch_add(&called, 1);
}

static void
callbacks_body(struct env *e)
{
    struct my_callback cb[50];
    struct wal *wal = wenv_create(e, NULL);
    atomic_store(&called, 0);
    for (unsigned i = 0; i < 50; i++) {
        cb[i].cb.fn = on_durable;
        cb[i].wal = wal;
        ck_ok(wenv_append(wal, i, 100, NULL, &cb[i].cb.lsn));
        wal_on_durable(wal, &cb[i].cb);
        if (i == 25)
            for (unsigned turn = 0; turn < 2000 && atomic_load(&called) < 26; turn++)
                task_sleep_ns(1000000);
        if (i == 25)
            ck_assert_uint_eq(atomic_load(&called), 26);
    }
    ck_ok(wal_close(wal));
    ck_assert_uint_eq(atomic_load(&called), 50);
}

START_TEST(callbacks_come_once_and_not_before_durability)
{
    ENV_RUN(callbacks_body);
}
END_TEST

static void
async_body(struct env *e)
{
    struct wal *wal = wenv_create(e, NULL);
    uint64_t end = 0;
    for (unsigned i = 0; i < 20; i++) {
        ck_ok(wenv_append(wal, i, 100, NULL, &end));
        wal_flush_async(wal, end);
    }
    for (unsigned turn = 0; turn < 2000 && wal_durable(wal) < end; turn++)
        task_sleep_ns(1000000);
    ck_assert_uint_ge(wal_durable(wal), end);
    ck_ok(wal_close(wal));
}

START_TEST(asynchronous_flush_happens_soon)
{
    ENV_RUN(async_body);
}
END_TEST

/* ---- Truncation ---- */

static bool
count_file(void *arg, const char *name)
{
    (void)name;
    ++*(unsigned *)arg;
    return true;
}

static void
truncation_body(struct env *e)
{
    struct expected *x = mem_zalloc(MEM_TEST, sizeof(*x));
    struct random r;
    struct wal_stats st;
    random_init(&r, e->seed);
    struct wal *wal = wenv_create(e, NULL);
    for (unsigned round = 0; round < 10; round++) {
        append_some(wal, x, RECORDS / 10, &r);
        uint64_t keep = x->start[x->count - 10];
        ck_ok(wal_flush_to(wal, wal_reserved(wal)));
        ck_ok(wal_truncate(wal, keep));
        ck_assert_uint_le(wal_oldest(wal), keep);
        read_all(wal, x);
    }
    wal_stats(wal, &st);
    ck_assert_uint_gt(st.recycled, 5);
    uint64_t oldest = wal_oldest(wal);
    ck_ok(wal_close(wal));
    unsigned files = 0;
    ck_ok(io_dir_list(e->dir, count_file, &files));
    ck_assert_uint_le(files, 12);
    unsigned first = 0;
    while (x->start[first] < oldest)
        first++;
    struct wal_position from = { x->start[first], 0 };
    x->seen = first;
    ck_rc(wenv_read(e, from, 0, see, x, NULL, &wal, NULL), ASH_NOT_FOUND);
    ck_assert_uint_eq(x->seen, x->count);
    ck_ok(wal_close(wal));
    mem_free(MEM_TEST, x);
}

START_TEST(truncated_segments_are_recycled_and_never_read)
{
    ENV_RUN(truncation_body);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("wal");
    TCase *t = tcase_create("use");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, appended_is_read_back, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, records_of_the_greatest_size_are_read_back, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, concurrent_appends_keep_each_tasks_order, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, what_is_being_overwritten_is_not_read, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, callbacks_come_once_and_not_before_durability, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, asynchronous_flush_happens_soon, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(t, truncated_segments_are_recycled_and_never_read, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
