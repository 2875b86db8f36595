/* SPDX-License-Identifier: Apache-2.0
 *
 * test_sim_disk.c - the fault model of the simulated disk: what a power cut, a failed flush and
 * each fault may do, and that it does not do less: a harness that is too kind proves nothing.
 */
#include "base/bits.h"
#include "base/clock.h"

#include <errno.h>
#include <signal.h>

#include "tests/storage/io_env.h"

/* What must survive a halted run is static: the run's own memory is gone with it. */
static struct sim_disk *disk;
static struct task_runtime *runtime;
static uint64_t trace_of_run;

static void
halt(void *arg)
{
    (void)arg;
    task_sim_halt(runtime);
}

static void
body_of_run(void *arg)
{
    struct env *e = arg;
    env_open(e);
    e->fn(e);
    env_close(e);
}

/* One life on `disk`: ASH_OK, or ASH_CANCELLED when it was halted. */
static ash_rc
run(uint64_t seed, void (*fn)(struct env *e))
{
    struct task_sim_options o = { .seed = seed, .step_max = 10000000 };
    struct env e = { .kind = IO_BACKEND_SIM, .disk = disk, .fn = fn, .seed = seed };

    snprintf(e.path, sizeof(e.path), "db");
    ck_ok(task_sim_create(&o, &runtime));
    e.rt = runtime;
    ash_rc rc = task_sim_run(runtime, body_of_run, &e);
    trace_of_run = task_sim_trace(runtime);
    task_runtime_destroy(runtime);
    return rc;
}

/* ---- A model of sectors ---- */

#define PAGES   16u
#define SECTORS 8u

struct sector { /* 512 bytes, each of which tells version and place */
    uint32_t version, place;
    uint32_t fill[126];
};

static struct {
    uint32_t floor[PAGES];  /* version that a flush has made durable */
    uint32_t done[PAGES];   /* last version whose write has completed */
    uint32_t issued[PAGES]; /* last version submitted */
    bool flushing;          /* a flush may have happened that its task has not heard of */
} model;

static void
make_page(void *buf, uint32_t page, uint32_t version)
{
    struct sector *s = buf;
    for (uint32_t i = 0; i < SECTORS; i++) {
        s[i].version = version;
        s[i].place = page * SECTORS + i;
        for (uint32_t k = 0; k < 126; k++)
            s[i].fill[k] = version * 31 + s[i].place;
    }
}

/* The sector's version, checked byte for byte. */
static uint32_t
sector_version(const struct sector *s, uint32_t place)
{
    static const struct sector zero;
    if (memcmp(s, &zero, sizeof(zero)) == 0)
        return 0;
    /* A check assertion writes to a pipe even when it holds: not in the inner loop. */
    bool good = s->place == place;
    for (uint32_t k = 0; k < 126; k++)
        good = good && s->fill[k] == s->version * 31 + place;
    if (!good)
        ck_abort_msg("sector %u holds what was never written there", place);
    return s->version;
}

/* Random writes of single pages and runs of pages, several in flight, and flushes between them. */
static void
body_traffic(struct env *e)
{
    struct random r;
    struct io_file *f = env_file(e, "f", IO_CREATE);
    enum {
        DEPTH = 4
    };
    char *buf = env_buffer(DEPTH * 4 * 4096);

    random_init(&r, e->seed);
    ck_ok(io_file_allocate(f, PAGES * 4096, true));
    ck_ok(io_dir_sync(e->dir));
    for (unsigned round = 0; round < 12; round++) {
        struct io_req req[DEPTH];
        struct io_req *ptr[DEPTH];
        uint32_t first[DEPTH], count[DEPTH];
        unsigned n = 1 + (unsigned)random_below(&r, DEPTH);
        for (unsigned i = 0; i < n; i++) { /* disjoint: each in its own quarter */
            count[i] = 1 + (uint32_t)random_below(&r, 4);
            first[i] = i * 4 + (uint32_t)random_below(&r, 5 - count[i]);
            for (uint32_t p = 0; p < count[i]; p++)
                make_page(buf + i * 4 * 4096 + p * 4096, first[i] + p,
                          ++model.issued[first[i] + p]);
            req[i] = (struct io_req){ .file = f,
                                      .op = IO_OP_WRITE,
                                      .class = IO_CLASS_WRITE,
                                      .offset = first[i] * 4096,
                                      .bytes = count[i] * 4096,
                                      .buf = buf + i * 4 * 4096 };
            ptr[i] = &req[i];
        }
        io_submit(ptr, n);
        for (unsigned i = 0; i < n; i++) {
            ck_ok(io_wait(ptr[i]));
            for (uint32_t p = 0; p < count[i]; p++)
                model.done[first[i] + p] = model.issued[first[i] + p];
        }
        if (random_chance(&r, 1, 2)) {
            model.flushing = true;
            ck_ok(io_flush(f, IO_CLASS_FLUSH));
            model.flushing = false;
            memcpy(model.floor, model.done, sizeof(model.floor));
        }
    }
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Checks an image against the model; counts pages whose sectors have different versions. */
static unsigned
check_image(struct sim_disk *image, enum sim_cut_policy policy, uint64_t seed)
{
    struct sector s[SECTORS];
    unsigned torn = 0;

    for (uint32_t p = 0; p < PAGES; p++) {
        bool differs = false;
        if (sim_disk_peek(image, "db", "f", p * 4096, s, sizeof(s)) != ASH_OK) {
            ck_assert_msg(model.floor[p] == 0, "seed %llu: a flushed page is gone",
                          (unsigned long long)seed);
            continue;
        }
        for (uint32_t i = 0; i < SECTORS; i++) {
            uint32_t v = sector_version(&s[i], p * SECTORS + i);
            bool good = v >= model.floor[p] && v <= model.issued[p];
            if (policy == SIM_CUT_NONE)
                good = v == model.floor[p] || (model.flushing && v == model.done[p]);
            if (policy == SIM_CUT_ALL)
                good = good && v >= model.done[p];
            if (!good)
                ck_abort_msg(
                    "seed %llu policy %d page %u sector %u: version %u with %u flushed, %u done, %u issued",
                    (unsigned long long)seed, (int)policy, p, i, v, model.floor[p], model.done[p],
                    model.issued[p]);
            differs |= s[i].version != s[0].version;
        }
        torn += differs;
    }
    return torn;
}

/* Goal: flushed data always survives; every other sector is an old or a newer version, never
 * anything else; NONE and ALL are exact; and images are not all alike: torn pages do occur. */
START_TEST(a_cut_keeps_what_was_flushed_and_tears_the_rest)
{
    uint64_t runs = test_scale(600, 20000), torn = 0, halted = 0;

    for (uint64_t seed = test_seed(1); runs > 0; runs--, seed++) {
        struct random r;
        random_init(&r, seed * 77);
        memset(&model, 0, sizeof(model));
        ck_ok(sim_disk_create(seed, &disk));
        sim_disk_cut_at(disk, 5 + random_below(&r, 130), halt, NULL);
        halted += run(seed, body_traffic) == ASH_CANCELLED;
        uint64_t before = sim_disk_hash(disk);
        for (unsigned k = 0; k < 8; k++) {
            struct sim_disk *image, *second;
            enum sim_cut_policy policy = (enum sim_cut_policy)(k % 4);
            ck_ok(sim_disk_cut(disk, policy, seed * 100 + k, &image));
            torn += check_image(image, policy, seed);
            uint64_t hash = sim_disk_hash(image);
            ck_ok(sim_disk_cut(image, SIM_CUT_RANDOM, seed,
                               &second)); /* nothing is pending any more */
            ck_assert_uint_eq(sim_disk_hash(second), hash);
            sim_disk_destroy(image);
            ck_assert_uint_eq(sim_disk_hash(second), hash); /* shares no more than it may */
            sim_disk_destroy(second);
        }
        ck_assert_uint_eq(sim_disk_hash(disk), before); /* the original was not changed */
        sim_disk_destroy(disk);
    }
    ck_assert_uint_gt(halted, 0);
    ck_assert_msg(torn > 50, "only %llu torn pages: the disk is too kind",
                  (unsigned long long)torn);
}
END_TEST

/* Goal: equal seeds give equal runs and equal disks; other seeds give others. */
START_TEST(equal_seeds_give_equal_runs)
{
    uint64_t trace[3], hash[3];

    for (unsigned i = 0; i < 3; i++) {
        uint64_t seed = i == 2 ? 12 : 11;
        memset(&model, 0, sizeof(model));
        ck_ok(sim_disk_create(seed, &disk));
        ck_ok(run(seed, body_traffic));
        trace[i] = trace_of_run;
        hash[i] = sim_disk_hash(disk);
        sim_disk_destroy(disk);
    }
    ck_assert_uint_eq(trace[0], trace[1]);
    ck_assert_uint_eq(hash[0], hash[1]);
    ck_assert_uint_ne(trace[0], trace[2]);
    ck_assert_uint_ne(hash[0], hash[2]);
}
END_TEST

/* ---- Flushes ---- */

static bool flush_failed;

static void
body_failed_flush(struct env *e)
{
    char *buf = env_buffer(4096);
    struct io_file *f = env_file(e, "f", IO_CREATE);

    make_page(buf, 0, 1);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    ck_ok(io_flush(f, IO_CLASS_FLUSH));
    ck_ok(io_dir_sync(e->dir));
    make_page(buf, 0, 2);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    struct sim_fault fault = { .kind = SIM_FAULT_ERROR,
                               .op = IO_OP_FLUSH,
                               .nth = sim_disk_requests(disk, IO_OP_FLUSH) + 1,
                               .sys_errno = EIO };
    sim_disk_fault(disk, &fault);
    flush_failed = io_flush(f, IO_CLASS_FLUSH) == ASH_IO;
    ck_assert(io_poisoned(e->io));
    ck_rc(io_flush(f, IO_CLASS_FLUSH), ASH_POISONED);
    ck_rc(io_write(f, buf, 4096, 0, IO_CLASS_WRITE), ASH_POISONED);
    ck_ok(io_read(f, buf, 4096, 0, IO_CLASS_READ));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

static void
body_flush_again(struct env *e)
{
    struct io_file *f = env_file(e, "f", 0);
    ck_ok(io_flush(f, IO_CLASS_FLUSH)); /* succeeds, as on a real kernel ... */
    io_file_close(f);
}

/* Goal: fsync-gate.  A failed flush decides the fate of what it covered: a later successful one
 * brings nothing back. */
START_TEST(a_failed_flush_is_final)
{
    unsigned lost = 0, kept = 0, torn = 0;

    for (uint64_t seed = 1; seed <= 64; seed++) {
        struct sector before[SECTORS], after[SECTORS];
        struct sim_disk *image;
        ck_ok(sim_disk_create(seed, &disk));
        ck_ok(run(seed, body_failed_flush));
        ck_assert(flush_failed);
        ck_ok(sim_disk_peek(disk, "db", "f", 0, before, sizeof(before)));
        ck_ok(run(seed, body_flush_again));
        ck_ok(sim_disk_cut(disk, SIM_CUT_NONE, seed, &image)); /* ... but what is lost is lost */
        ck_ok(sim_disk_peek(image, "db", "f", 0, after, sizeof(after)));
        ck_assert_mem_eq(before, after, sizeof(after));
        unsigned news = 0;
        for (unsigned i = 0; i < SECTORS; i++)
            news += sector_version(&after[i], i) == 2;
        lost += news == 0;
        kept += news == SECTORS;
        torn += news > 0 && news < SECTORS;
        sim_disk_destroy(image);
        sim_disk_destroy(disk);
    }
    ck_assert_uint_gt(lost, 0);
    ck_assert_uint_gt(kept, 0);
    ck_assert_uint_gt(torn, 0);
}
END_TEST

static void
body_flush_beside_write(struct env *e)
{
    char *buf = env_buffer(4096);
    struct io_file *f = env_file(e, "f", IO_CREATE);

    ck_ok(io_file_allocate(f, 4096, true));
    ck_ok(io_dir_sync(e->dir));
    make_page(buf, 0, 1);
    struct io_req w = {
        .file = f, .op = IO_OP_WRITE, .class = IO_CLASS_WAL, .bytes = 4096, .buf = buf
    };
    struct io_req fl = { .file = f, .op = IO_OP_FLUSH, .class = IO_CLASS_WAL };
    struct io_req *both[2] = { &w, &fl };
    io_submit(both, 2);
    ck_ok(io_wait(&w));
    ck_ok(io_wait(&fl));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal (R6): a flush does not cover a write that was in flight when it was submitted. */
START_TEST(a_flush_covers_completed_writes_only)
{
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct sector s[SECTORS];
        struct sim_disk *image;
        ck_ok(sim_disk_create(seed, &disk));
        ck_ok(run(seed, body_flush_beside_write));
        ck_ok(sim_disk_cut(disk, SIM_CUT_NONE, seed, &image));
        ck_ok(sim_disk_peek(image, "db", "f", 0, s, sizeof(s)));
        ck_assert_uint_eq(sector_version(&s[0], 0), 0);
        sim_disk_destroy(image);
        sim_disk_destroy(disk);
    }
}
END_TEST

static void
body_dsync(struct env *e)
{
    char *buf = env_buffer(4096);
    struct io_file *f = env_file(e, "f", IO_CREATE), *g = env_file(e, "g", IO_CREATE | IO_DSYNC);

    ck_ok(io_dir_sync(e->dir));
    make_page(buf, 0, 1);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE)); /* pending */
    ck_ok(io_file_truncate(f, 0));
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    make_page(buf, 0, 2);
    struct io_req w = { .file = f,
                        .op = IO_OP_WRITE,
                        .class = IO_CLASS_WAL,
                        .bytes = 4096,
                        .buf = buf,
                        .dsync = true };
    struct io_req *pw = &w;
    io_submit(&pw, 1);
    ck_ok(io_wait(&w));
    ck_ok(io_write(g, buf, 4096, 0, IO_CLASS_WAL));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
    io_file_close(g);
}

/* Goal: a durable write survives every cut with its size, and no older write of the same place
 * comes back over it. */
START_TEST(a_durable_write_is_never_overtaken)
{
    ck_ok(sim_disk_create(3, &disk));
    ck_ok(run(3, body_dsync));
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct sector s[SECTORS];
        struct sim_disk *image;
        ck_ok(sim_disk_cut(disk, (enum sim_cut_policy)(seed % 4), seed, &image));
        for (unsigned k = 0; k < 2; k++) {
            ck_ok(sim_disk_peek(image, "db", k == 0 ? "f" : "g", 0, s, sizeof(s)));
            for (unsigned i = 0; i < SECTORS; i++)
                ck_assert_uint_eq(sector_version(&s[i], i), 2);
        }
        sim_disk_destroy(image);
    }
    sim_disk_destroy(disk);
}
END_TEST

/* ---- Names and sizes ---- */

static bool synced;

static void
body_names(struct env *e)
{
    char *buf = env_buffer(4096);
    struct io_file *f = env_file(e, "current", IO_CREATE);

    synced = false;
    make_page(buf, 0, 1);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    ck_ok(io_flush(f, IO_CLASS_WRITE));
    io_file_close(f);
    io_file_close(env_file(e, "doomed", IO_CREATE));
    ck_ok(io_dir_sync(e->dir));
    f = env_file(e, "next", IO_CREATE);
    make_page(buf, 0, 2);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    ck_ok(io_flush(f, IO_CLASS_WRITE));
    io_file_close(f);
    ck_ok(io_dir_rename(e->dir, "next", "current"));
    ck_ok(io_dir_unlink(e->dir, "doomed"));
    io_file_close(env_file(e, "fresh", IO_CREATE));
    mem_free(MEM_TEST, buf);
    if (e->seed % 2 == 0)
        return;
    ck_ok(io_dir_sync(e->dir));
    synced = true;
}

static bool
exists(struct sim_disk *d, const char *name)
{
    return sim_disk_peek(d, "db", name, 0, NULL, 0) == ASH_OK;
}

/* Goal: unsynced name changes are kept or lost one by one, a rename wholly or not at all; synced
 * ones are there. */
START_TEST(names_survive_once_synced)
{
    unsigned seen[2][2][2];

    memset(seen, 0, sizeof(seen));
    for (uint64_t run_seed = 1; run_seed <= 2; run_seed++) {
        ck_ok(sim_disk_create(run_seed, &disk));
        ck_ok(run(run_seed, body_names));
        for (uint64_t seed = 0; seed < 300; seed++) {
            struct sector s[SECTORS];
            struct sim_disk *image;
            enum sim_cut_policy policy = seed < 200 ? SIM_CUT_RANDOM
                                                    : (enum sim_cut_policy)(seed % 4);
            ck_ok(sim_disk_cut(disk, policy, seed, &image));
            ck_ok(sim_disk_peek(image, "db", "current", 0, s, sizeof(s)));
            uint32_t version = sector_version(&s[0], 0);
            ck_assert(version == 1 || version == 2);
            if (synced)
                ck_assert(version == 2 && !exists(image, "doomed") && exists(image, "fresh") &&
                          !exists(image, "next"));
            else
                seen[version - 1][exists(image, "doomed")][exists(image, "fresh")]++;
            sim_disk_destroy(image);
        }
        sim_disk_destroy(disk);
    }
    for (unsigned i = 0; i < 8; i++)
        ck_assert_msg((&seen[0][0][0])[i] > 0, "combination %u never occurred", i);
}
END_TEST

static void
body_append(struct env *e)
{
    char *buf = env_buffer(8192);
    struct io_file *f = env_file(e, "f", IO_CREATE);

    ck_ok(io_dir_sync(e->dir));
    make_page(buf, 0, 1);
    make_page(buf + 4096, 1, 1);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    ck_ok(io_flush(f, IO_CLASS_WRITE));
    ck_ok(io_write(f, buf + 4096, 4096, 4096, IO_CLASS_WRITE));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

static void
note_size(void *arg, const char *dir, const char *name, uint64_t size)
{
    ck_assert_str_eq(dir, "db");
    ck_assert_str_eq(name, "f");
    *(uint64_t *)arg = size;
}

/* Goal: an unflushed append may leave the old size, the new size with its data, or the new size
 * without it. */
START_TEST(an_append_may_leave_its_size_without_its_data)
{
    unsigned without_size = 0, without_data = 0, whole = 0;

    ck_ok(sim_disk_create(4, &disk));
    ck_ok(run(4, body_append));
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct sector s[SECTORS];
        struct sim_disk *image;
        uint64_t size = 0;
        unsigned news = 0;
        ck_ok(sim_disk_cut(disk, SIM_CUT_RANDOM, seed, &image));
        sim_disk_list(image, note_size, &size);
        ck_assert(size == 4096 || size == 8192);
        if (size == 8192) {
            ck_ok(sim_disk_peek(image, "db", "f", 4096, s, sizeof(s)));
            for (unsigned i = 0; i < SECTORS; i++)
                news += sector_version(&s[i], SECTORS + i) == 1;
        }
        without_size += size == 4096;
        without_data += size == 8192 && news == 0;
        whole += news == SECTORS;
        sim_disk_destroy(image);
    }
    sim_disk_destroy(disk);
    ck_assert_uint_gt(without_size, 0);
    ck_assert_uint_gt(without_data, 0);
    ck_assert_uint_gt(whole, 0);
}
END_TEST

/* ---- Faults ---- */

static const int errnos[] = { EIO,   ENODATA,   ENOSPC, EDQUOT, EFBIG,    EAGAIN,
                              EINTR, ECANCELED, ENOMEM, EROFS,  ETIMEDOUT };
static struct sim_fault fault_under_test;
static ash_rc fault_seen;
static bool fault_poisoned;

/* Each kind of request twice; stops at the first failure. */
static void
body_all_ops(struct env *e)
{
    char *buf = env_buffer(8192);
    struct io_file *f = NULL;
    ash_rc rc = ASH_OK;

    sim_disk_fault(disk, &fault_under_test);
    rc = io_file_open(e->dir, "f", IO_CREATE, &f);
    if (rc == ASH_OK)
        rc = io_file_allocate(f, 16384, true);
    for (unsigned i = 0; i < 2 && rc == ASH_OK; i++) {
        make_page(buf, i, i + 1);
        rc = io_write(f, buf, 8192, i * 8192, IO_CLASS_WRITE);
        if (rc == ASH_OK)
            rc = io_flush(f, IO_CLASS_WRITE);
        if (rc == ASH_OK)
            rc = io_read(f, buf, 8192, i * 8192, IO_CLASS_READ);
        if (rc == ASH_OK)
            rc = io_dir_sync(e->dir);
    }
    fault_seen = rc;
    fault_poisoned = io_poisoned(e->io);
    if (rc != ASH_OK)
        ck_assert_uint_gt(strlen(err_current()->message), 20);
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal (R2, R3): whichever request fails with whichever errno, its caller is told; writes, flushes
 * and directory syncs poison, reads and growing don't; only EAGAIN and EINTR of transfers are
 * retried, and never an fsync. */
START_TEST(every_failure_of_every_request_is_reported)
{
    static const int kinds[] = { IO_OP_READ, IO_OP_WRITE, IO_OP_FLUSH, SIM_OP_DIR, SIM_OP_SIZE };

    for (unsigned k = 0; k < ASH_ARRAY_SIZE(kinds); k++) {
        for (unsigned i = 0; i < ASH_ARRAY_SIZE(errnos); i++) {
            for (uint64_t nth = 1;; nth++) {
                ck_ok(sim_disk_create(nth, &disk));
                fault_under_test = (struct sim_fault){ .kind = SIM_FAULT_ERROR,
                                                       .op = kinds[k],
                                                       .sys_errno = errnos[i] };
                fault_under_test.nth =
                    nth + (kinds[k] == SIM_OP_DIR); /* the first makes the directory itself */
                ck_ok(run(nth, body_all_ops));
                bool hit = sim_disk_requests(disk, kinds[k]) >= fault_under_test.nth;
                sim_disk_destroy(disk);
                if (!hit)
                    break;
                bool retried = (errnos[i] == EAGAIN || errnos[i] == EINTR) &&
                               (kinds[k] == IO_OP_READ || kinds[k] == IO_OP_WRITE);
                bool poisons = kinds[k] == IO_OP_WRITE || kinds[k] == IO_OP_FLUSH ||
                               (kinds[k] == SIM_OP_DIR && nth > 1);
                ck_assert_msg((fault_seen != ASH_OK) == !retried, "kind %d errno %d nth %u: %s",
                              kinds[k], errnos[i], (unsigned)nth, ash_rc_name(fault_seen));
                ck_assert_msg(fault_poisoned == (poisons && !retried),
                              "kind %d errno %d nth %u: poisoned %d", kinds[k], errnos[i],
                              (unsigned)nth, fault_poisoned);
                if (!retried)
                    ck_assert_int_eq(fault_seen, err_from_errno(errnos[i]));
            }
        }
    }
}
END_TEST

/* Goal: retries are bounded. */
START_TEST(eagain_for_ever_is_a_failure)
{
    ck_ok(sim_disk_create(1, &disk));
    fault_under_test = (struct sim_fault){
        .kind = SIM_FAULT_ERROR, .op = IO_OP_WRITE, .nth = 1, .sticky = true, .sys_errno = EAGAIN
    };
    ck_ok(run(1, body_all_ops));
    ck_assert_int_eq(fault_seen, ASH_IO);
    ck_assert(fault_poisoned);
    ck_assert_uint_eq(sim_disk_requests(disk, IO_OP_WRITE), IO_RETRY_MAX + 1);
    sim_disk_destroy(disk);
}
END_TEST

static uint64_t slow_ns;

static void
body_silent(struct env *e)
{
    char *out = env_buffer(16 * 4096), *in = env_buffer(16 * 4096);
    struct io_file *f = env_file(e, "f", IO_CREATE);

    ck_ok(io_file_allocate(f, 64 * 4096, true));
    env_fill(out, 16 * 4096, 5);
    sim_disk_fault(disk, &fault_under_test);
    uint64_t start = clock_ns();
    ck_ok(io_write(f, out, 16 * 4096, 8 * 4096, IO_CLASS_WRITE));
    slow_ns = clock_ns() - start;
    ck_ok(io_read(f, in, 16 * 4096, 8 * 4096, IO_CLASS_READ));
    unsigned bits = 0;
    for (unsigned i = 0; i < 16 * 4096; i++)
        bits += (unsigned)__builtin_popcount((unsigned char)(in[i] ^ out[i]));
    switch (fault_under_test.kind) {
    case SIM_FAULT_SHORT:
    case SIM_FAULT_DELAY: ck_assert_uint_eq(bits, 0); break;
    case SIM_FAULT_BIT_FLIP: ck_assert_uint_eq(bits, 1); break;
    case SIM_FAULT_LOST_WRITE: ck_assert_uint_gt(bits, 1000); break;
    case SIM_FAULT_MISDIRECT:
        ck_assert_uint_gt(bits, 1000);
        if (fault_under_test.op == IO_OP_READ)
            break;
        ck_ok(io_read(f, in, 16 * 4096, 12 * 4096, IO_CLASS_READ));
        ck_assert_mem_eq(in, out, 16 * 4096);
        break;
    default: break;
    }
    ck_assert(!io_poisoned(e->io));
    mem_free(MEM_TEST, in);
    mem_free(MEM_TEST, out);
    io_file_close(f);
}

/* Goal: the silent faults do what their names say, and nobody is told. */
START_TEST(silent_faults_are_silent)
{
    static const struct sim_fault faults[] = {
        { .kind = SIM_FAULT_SHORT, .op = IO_OP_WRITE, .nth = 1 },
        { .kind = SIM_FAULT_SHORT, .op = IO_OP_READ, .nth = 1 },
        { .kind = SIM_FAULT_SHORT, .op = IO_OP_WRITE, .nth = 1, .delta = 4096 + 512 },
        { .kind = SIM_FAULT_SHORT, .op = IO_OP_READ, .nth = 1, .delta = 5 },
        { .kind = SIM_FAULT_DELAY, .op = IO_OP_WRITE, .nth = 1, .delta = 50000000 },
        { .kind = SIM_FAULT_BIT_FLIP, .op = IO_OP_WRITE, .nth = 1 },
        { .kind = SIM_FAULT_BIT_FLIP, .op = IO_OP_READ, .nth = 1 },
        { .kind = SIM_FAULT_LOST_WRITE, .op = IO_OP_WRITE, .nth = 1 },
        { .kind = SIM_FAULT_MISDIRECT, .op = IO_OP_WRITE, .nth = 1, .delta = 4 * 4096 },
        { .kind = SIM_FAULT_MISDIRECT, .op = IO_OP_READ, .nth = 1, .delta = -4096 },
    };

    for (unsigned i = 0; i < ASH_ARRAY_SIZE(faults); i++) {
        for (uint64_t seed = 1; seed <= 8; seed++) {
            fault_under_test = faults[i];
            ck_ok(sim_disk_create(seed, &disk));
            ck_ok(run(seed, body_silent));
            if (faults[i].kind == SIM_FAULT_DELAY)
                ck_assert_uint_ge(slow_ns, 50000000);
            sim_disk_destroy(disk);
        }
    }
}
END_TEST

static void
body_full(struct env *e)
{
    char *buf = env_buffer(65536);
    struct io_file *f = env_file(e, "f", IO_CREATE);
    uint64_t size;

    ck_ok(io_file_allocate(f, 65536, true));
    ck_rc(io_file_allocate(f, 200000 / 4096 * 4096, true), ASH_NO_SPACE);
    ck_assert(!io_poisoned(e->io));
    ck_ok(io_file_size(f, &size));
    ck_assert_uint_eq(size, 65536);
    ck_ok(io_write(f, buf, 65536, 0, IO_CLASS_WRITE)); /* within what it has */
    ck_rc(io_write(f, buf, 65536, 65536, IO_CLASS_WRITE), ASH_NO_SPACE);
    ck_assert(io_poisoned(e->io));
    ck_assert_int_eq(err_current()->sys_errno, ENOSPC);
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: a full disk refuses to grow a file without harm; a write that runs into it poisons. */
START_TEST(a_full_disk_fails_growth_gently)
{
    ck_ok(sim_disk_create(1, &disk));
    sim_disk_limit(disk, 100000);
    ck_ok(run(1, body_full));
    sim_disk_destroy(disk);
}
END_TEST

/* ---- Lives ---- */

static void
body_hold_lock(struct env *e)
{
    char *buf = env_buffer(4096);
    struct io_file *f = env_file(e, "f", IO_CREATE | IO_LOCK);

    make_page(buf, 0, 1);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    make_page(buf, 0, 2);
    struct io_req w = {
        .file = f, .op = IO_OP_WRITE, .class = IO_CLASS_WAL, .bytes = 4096, .buf = buf
    };
    struct io_req *pw = &w;
    io_submit(&pw, 1);
    halt(NULL);
}

static uint32_t found_version;

static void
body_take_lock(struct env *e)
{
    struct sector *s = env_buffer(4096);
    struct io_file *f = env_file(e, "f", IO_LOCK);
    ck_ok(io_read(f, s, 4096, 0, IO_CLASS_READ));
    found_version = sector_version(&s[0], 0);
    mem_free(MEM_TEST, s);
    io_file_close(f);
}

/* Goal: after a process crash what had completed is there, what was in flight may be, and the lock
 * is free. */
START_TEST(a_restart_is_a_process_crash)
{
    unsigned seen[3] = { 0, 0, 0 };

    for (uint64_t seed = 1; seed <= 32; seed++) {
        ck_ok(sim_disk_create(seed, &disk));
        ck_rc(run(seed, body_hold_lock), ASH_CANCELLED);
        sim_disk_restart(disk);
        ck_assert_uint_eq(sim_disk_events(disk), 0);
        ck_ok(run(seed + 100, body_take_lock));
        ck_assert(found_version == 1 || found_version == 2);
        seen[found_version]++;
        sim_disk_destroy(disk);
    }
    ck_assert(seen[1] > 0 && seen[2] > 0);
}
END_TEST

static void
body_change_in_flight(struct env *e)
{
    char *buf = env_buffer(4096);
    struct io_file *f = env_file(e, "f", IO_CREATE);
    struct io_req w = {
        .file = f, .op = IO_OP_WRITE, .class = IO_CLASS_WAL, .bytes = 4096, .buf = buf
    };
    struct io_req *pw = &w;
    io_submit(&pw, 1);
    buf[100] ^= 1;
    ash_ignore(io_wait(&w));
}

/* Goal (R1): a buffer that changes while it is written is caught. */
START_TEST(changing_a_buffer_in_flight_aborts)
{
    ck_ok(sim_disk_create(1, &disk));
    ash_ignore(run(1, body_change_in_flight));
}
END_TEST

static void
body_one_mib(struct env *e)
{
    char *buf = env_buffer(1 << 20);
    struct io_file *f = env_file(e, "f", IO_CREATE);

    env_fill(buf, 1 << 20, 3);
    ck_ok(io_write(f, buf, 1 << 20, 0, IO_CLASS_WRITE));
    ck_ok(io_flush(f, IO_CLASS_WRITE));
    for (unsigned i = 0; i < 16; i++)
        ck_ok(io_write(f, buf, 4096, i * 16384, IO_CLASS_WRITE));
    ck_ok(io_dir_sync(e->dir));
    mem_free(MEM_TEST, buf);
    io_file_close(f);
}

/* Goal: an image of a disk of 1 MiB with 16 pending pages costs microseconds.  The bound is
 * lenient: machines are busy. */
START_TEST(a_cut_is_cheap)
{
    enum {
        N = 2000
    };

    ck_ok(sim_disk_create(1, &disk));
    ck_ok(run(1, body_one_mib));
    uint64_t start = clock_ns();
    for (uint64_t i = 0; i < N; i++) {
        struct sim_disk *image;
        ck_ok(sim_disk_cut(disk, SIM_CUT_RANDOM, i, &image));
        sim_disk_destroy(image);
    }
    uint64_t each = (clock_ns() - start) / N;
    printf("a cut of 1 MiB: %llu ns\n", (unsigned long long)each);
    ck_assert_uint_lt(each, 500000);
    sim_disk_destroy(disk);
}
END_TEST

/* Goal: poke changes what is at rest, for good. */
START_TEST(poke_is_bit_rot)
{
    struct sim_disk *image;
    char c = 'x', back = 0;

    ck_ok(sim_disk_create(1, &disk));
    ck_ok(run(1, body_one_mib));
    uint64_t hash = sim_disk_hash(disk);
    ck_ok(sim_disk_poke(disk, "db", "f", 700001, &c, 1));
    ck_assert_uint_ne(sim_disk_hash(disk), hash);
    ck_ok(sim_disk_cut(disk, SIM_CUT_NONE, 1, &image));
    ck_ok(sim_disk_peek(image, "db", "f", 700001, &back, 1));
    ck_assert_int_eq(back, 'x');
    ck_rc(sim_disk_peek(image, "db", "nothing", 0, &back, 1), ASH_NOT_FOUND);
    ck_rc(sim_disk_peek(image, "db", "f", 1 << 20, &back, 1), ASH_INVALID);
    sim_disk_destroy(image);
    sim_disk_destroy(disk);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("sim_disk");
    TCase *t = tcase_create("cuts");
    tcase_set_timeout(t, 600);
    tcase_add_test(t, a_cut_keeps_what_was_flushed_and_tears_the_rest);
    tcase_add_test(t, equal_seeds_give_equal_runs);
    tcase_add_test(t, a_failed_flush_is_final);
    tcase_add_test(t, a_flush_covers_completed_writes_only);
    tcase_add_test(t, a_durable_write_is_never_overtaken);
    tcase_add_test(t, names_survive_once_synced);
    tcase_add_test(t, an_append_may_leave_its_size_without_its_data);
    suite_add_tcase(s, t);
    t = tcase_create("faults");
    tcase_set_timeout(t, 600);
    tcase_add_test(t, every_failure_of_every_request_is_reported);
    tcase_add_test(t, eagain_for_ever_is_a_failure);
    tcase_add_test(t, silent_faults_are_silent);
    tcase_add_test(t, a_full_disk_fails_growth_gently);
    suite_add_tcase(s, t);
    t = tcase_create("lives");
    tcase_add_test(t, a_restart_is_a_process_crash);
    tcase_add_test(t, a_cut_is_cheap);
    tcase_add_test(t, poke_is_bit_rot);
    if (test_forks())
        tcase_add_test_raise_signal(t, changing_a_buffer_in_flight_aborts, SIGABRT);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
