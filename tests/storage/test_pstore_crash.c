/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pstore_crash.c - power cuts at every I/O event of the page store's life, with a toy log.
 *
 * Two tasks write, free and allocate pages, a third draws checkpoints.  At each event an image of
 * what a power cut would leave is kept, with how much of the toy log would survive (all that was
 * durable, and perhaps more).  Oracle: after reopening and replaying that much, each page reads
 * back as exactly the version that its last surviving record says.
 */
#include <inttypes.h>

#include "tests/storage/pstore_env.h"

#define PAGES      48u
#define WRITERS    2u
#define IMAGES_MAX 4096u

static struct sim_disk *disk;
static struct random cut_random;
static struct {
    struct sim_disk *disk;
    uint64_t durable, appended;
} images[IMAGES_MAX];
static unsigned image_count, image_chance;
static struct sim_disk *image_now;
static uint64_t replay_count, seed_now;
static unsigned rounds;

static void
take(void *arg)
{
    (void)arg;
    if (image_count < IMAGES_MAX && random_below(&cut_random, image_chance) == 0) {
        enum sim_cut_policy policy = (enum sim_cut_policy)random_below(&cut_random, 4);
        images[image_count].durable = toy.durable;
        images[image_count].appended = toy.count;
        ck_ok(sim_disk_cut(disk, policy, random_u64(&cut_random), &images[image_count].disk));
        image_count++;
    }
    sim_disk_cut_at(disk, sim_disk_events(disk) + 1, take, NULL);
}

/* ---- The script ---- */

struct writer {
    struct pstore *ps;
    struct random r;
    uint64_t page[PAGES];
    uint64_t version;
    struct task *task;
};

static void
writer_round(struct writer *w)
{
    uint64_t page[8], version[8];
    uint8_t class[8];
    unsigned n = 1 + (unsigned)random_below(&w->r, 8), start = (unsigned)random_below(&w->r, PAGES);

    for (unsigned i = 0; i < n; i++) {
        unsigned at = (start + i * 5) % PAGES;
        if (w->page[at] == 0)
            w->page[at] = page_new(w->ps);
        page[i] = w->page[at];
        version[i] = ++w->version;
        class[i] = (uint8_t)(random_below(&w->r, 8) == 0 ? random_below(&w->r, 4) : 0);
    }
    ck_ok(pages_write(w->ps, page, class, version, n));
    if (random_chance(&w->r, 1, 3)) {
        unsigned at = (unsigned)random_below(&w->r, PAGES);
        if (w->page[at] != 0)
            page_drop(w->ps, w->page[at]);
        w->page[at] = 0;
    }
    if (random_chance(
            &w->r, 1,
            /* the log is written: it takes a while, then everything appended before is durable */
            3)) {
        uint64_t end = toy.count;
        task_sleep_ns(random_below(&w->r, 300000));
        toy.durable = max_u64(toy.durable, end);
        pstore_release(w->ps, toy.durable);
    }
}

static void
writer_main(void *arg)
{
    struct writer *w = arg;
    for (unsigned i = 0; i < rounds; i++)
        writer_round(w);
}

/* A write that is given up, and a checkpoint that is. */
static void
give_up(struct pstore *ps)
{
    struct pstore_write w = { .page = page_new(ps), .page_class = 0, .image = env_buffer(4096) };
    image_make(w.image, w.page, 0, 999999, 0);
    ck_ok(pstore_write(ps, &w, 1, toy.durable, IO_CLASS_PAGE_WRITER));
    pstore_write_cancel(ps, &w, 1);
    mem_free(MEM_TEST, w.image);
    page_drop(ps, w.page);
    pstore_map_lock(ps);
    ck_ok(pstore_checkpoint_begin(ps));
    pstore_map_unlock(ps);
    ck_ok(pstore_checkpoint_write(ps));
    pstore_checkpoint_abort(ps);
}

static void
body_script(struct env *e)
{
    static struct writer w[WRITERS];
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;
    struct random r;

    random_init(&r, e->seed);
    ck_ok(pstore_create(&o, &ps));
    ck_ok(pstore_recovered(ps));
    memset(w, 0, sizeof(w));
    for (unsigned i = 0; i < WRITERS; i++) {
        w[i].ps = ps;
        w[i].version = i * 1000000;
        random_init(&w[i].r, random_u64(&r));
        ck_ok(task_spawn(e->rt, "writer", writer_main, &w[i], &w[i].task));
    }
    for (unsigned i = 0; i < rounds / 4; i++) {
        task_sleep_ns(random_below(&r, 4000000));
        if (random_chance(&r, 1, 5))
            give_up(ps);
        ck_ok(ps_checkpoint(ps, random_below(&r, 60)));
    }
    for (unsigned i = 0; i < WRITERS; i++)
        task_join(w[i].task);
    pstore_close(ps);
}

/* ---- The oracle ---- */

static void
body_check(struct env *e)
{
    static struct toy_record last[4096];
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;

    if (!pstore_exists(e->dir)) { /* the cut came before the creation was complete */
        ck_assert_uint_eq(replay_count, 0);
        ck_ok(pstore_create(&o, &ps));
        pstore_close(ps);
        return;
    }
    ck_ok(pstore_open(&o, &ps));
    ck_ok(toy_replay(ps, replay_count));
    memset(last, 0, sizeof(last));
    for (uint64_t i = 0; i < replay_count; i++)
        last[toy.rec[i].page] = toy.rec[i];
    for (uint64_t page = 1; page < 4096; page++) {
        struct map_entry at;
        uint8_t class;
        uint64_t version;
        bool alive = last[page].type == TOY_INIT || last[page].type == TOY_MAP;
        must(pstore_page_allocated(ps, page) == alive,
             "seed %" PRIu64 ": page %" PRIu64 " is%s allocated", seed_now, page,
             alive ? " not" : "");
        must(pstore_locate(ps, page, &at, &class) == (last[page].type == TOY_MAP),
             "seed %" PRIu64 ": place of page %" PRIu64, seed_now, page);
        if (last[page].type != TOY_MAP)
            continue;
        ck_ok(page_read(ps, page, &version));
        must(version == last[page].version,
             "seed %" PRIu64 ": page %" PRIu64 " has version %" PRIu64 " instead of %" PRIu64,
             seed_now, page, version, last[page].version);
    }
    unsigned problems = 0;
    ps_verify(ps, env_problem, &problems);
    must(problems == 0, "seed %" PRIu64 ": %u problems", seed_now, problems);
    pstore_close(ps);
}

static void
script_run(uint64_t seed, unsigned chance)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = seed };

    seed_now = seed;
    memset(&toy, 0, sizeof(toy));
    random_init(&cut_random, seed * 31 + 1);
    image_count = 0;
    image_chance = chance;
    ck_ok(sim_disk_create(seed, &disk));
    sim_disk_latency(disk, 1000, 300000);
    sim_disk_cut_at(disk, 1, take, NULL);
    e.disk = disk;
    ck_ok(env_run(&e, body_script));
    ck_assert_uint_gt(image_count, 20);
    for (unsigned i = 0; i < image_count; i++) {
        image_now = images[i].disk;
        uint64_t undurable = images[i].appended - images[i].durable;
        replay_count =
            images[i].durable + (undurable == 0 ? 0 : random_below(&cut_random, undurable + 1));
        struct env c = { .kind = IO_BACKEND_SIM, .seed = seed, .disk = image_now };
        ck_ok(env_run(&c, body_check));
        sim_disk_destroy(image_now);
    }
    sim_disk_destroy(disk);
}

START_TEST(every_cut_leaves_the_last_installed_versions)
{
    uint64_t first = test_seed(100), n = test_scale(60, 2000);
    rounds = 40;
    for (uint64_t seed = first; seed < first + n; seed++)
        script_run(seed, 4);
}
END_TEST

/* Goal: the same on a device that says it has no volatile cache.  It does not forget, but the file
 * system does: which allocated blocks were ever written is metadata.  The simulated disk drops what
 * was not flushed, which is that. */
START_TEST(a_device_without_cache_needs_flushes_too)
{
    io__test_hooks.write_through = true;
    rounds = 40;
    for (uint64_t seed = 300; seed < 300 + test_scale(10, 300); seed++)
        script_run(seed, 4);
    io__test_hooks.write_through = false;
}
END_TEST

START_TEST(creation_is_atomic_at_every_event)
{
    rounds = 4;
    for (uint64_t seed = 1; seed < 1 + test_scale(30, 500); seed++)
        script_run(seed, 1);
}
END_TEST

/* ---- The process dies in a checkpoint, the device keeps its cache; later the power fails ---- */

static struct task_runtime *runtime;

static void
halt(void *arg)
{
    (void)arg;
    task_sim_halt(runtime);
}

static void
body_checkpoints(struct env *e)
{
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;
    ck_ok(pstore_create(&o, &ps));
    ck_ok(pstore_recovered(ps));
    for (unsigned i = 0; i < 4; i++) {
        uint64_t page = page_new(ps);
        ck_ok(page_write(ps, page, 0, i));
        ck_ok(ps_checkpoint(ps, 0));
    }
    pstore_close(ps);
}

/* Single writes that ask for durability themselves: nothing of this flushes the file. */
static void
body_reuse(struct env *e)
{
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;
    uint64_t page;
    if (!pstore_exists(e->dir))
        return;
    ck_ok(pstore_open(&o, &ps));
    ck_ok(toy_replay(ps, toy.durable));
    toy.count = toy.durable;
    page = page_new(ps);
    for (unsigned i = 0; i < 60; i++) {
        ck_ok(page_write(ps, page, 0, 100 + i));
        toy_flush(ps);
    }
    pstore_close(ps);
}

static ash_rc
life(uint64_t seed, uint64_t halt_at, void (*fn)(struct env *e))
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = seed, .disk = disk, .fn = fn };
    struct task_sim_options o = { .seed = seed, .step_max = 1000000 };
    snprintf(e.path, sizeof(e.path), "db");
    ck_ok(task_sim_create(&o, &e.rt));
    runtime = e.rt;
    sim_disk_cut_at(disk, halt_at, halt, NULL);
    ash_rc rc = task_sim_run(e.rt, env_body, &e);
    sim_disk_cut_at(disk, 0, NULL, NULL);
    task_runtime_destroy(e.rt);
    return rc;
}

START_TEST(what_open_built_on_survives_a_later_cut)
{
    ash_rc rc = ASH_CANCELLED;
    for (uint64_t at = 1; rc == ASH_CANCELLED; at++) {
        seed_now = at;
        memset(&toy, 0, sizeof(toy));
        ck_ok(sim_disk_create(9, &disk));
        rc = life(9, at, body_checkpoints);
        sim_disk_restart(disk);
        ck_ok(life(10, 0, body_reuse));
        replay_count = toy.durable;
        ck_ok(sim_disk_cut(disk, SIM_CUT_NONE, at, &image_now));
        struct env c = { .kind = IO_BACKEND_SIM, .seed = at, .disk = image_now };
        ck_ok(env_run(&c, body_check));
        sim_disk_destroy(image_now);
        sim_disk_destroy(disk);
    }
    ck_ok(rc);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("storage/pstore-crash");
    TCase *c = tcase_create("crash");
    tcase_set_timeout(c, 600);
    tcase_add_test(c, every_cut_leaves_the_last_installed_versions);
    tcase_add_test(c, what_open_built_on_survives_a_later_cut);
    tcase_add_test(c, a_device_without_cache_needs_flushes_too);
    tcase_add_test(c, creation_is_atomic_at_every_event);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
