/* SPDX-License-Identifier: Apache-2.0
 *
 * test_crash.c - the power is cut at every I/O of a workload, many times, and the database must be
 * whole each time.
 *
 * A script runs once on a simulated disk; at every I/O event a hook draws several images of what a
 * power cut at that moment could leave (sim_disk_cut: unsynced writes whole, torn at sectors, lost,
 * in any order; names too).  The run goes on meanwhile: the images share its pages, so the prefix
 * is never run again but once per window of events.  Then each image is opened in a simulation of
 * its own:
 *
 *   every image       recovery succeeds within a step budget; the state is allowed (crash_world.h
 *                     O1-O3), while transactions are still being rolled back and after;
 *                     ash_verify() finds nothing
 *   a sample, deeper  the database works (20 operations), closes, opens again with the same state;
 *   opening it read-only after a clean
 *                     close changes no byte; so does it when the close came before all was rolled
 *                     back; recovering the same image under another schedule gives
 *                     the same state
 *   a sample, nested  the power is cut again during recovery, and during that recovery, to depth 3;
 *   once a recovery has finished, what
 *                     it showed is what the next one shows
 *
 * A violation prints a line ASH_CRASH=script:event:policy:seed that replays this image alone.
 */
#include "txn/txn.h"

#include <time.h>

#include "tests/crash/crash_world.h"

#define IMAGES_KEPT    4000u /* of one window: bounds memory */
#define RECOVERY_STEPS 2000000u
#define DEPTH_MAX      3u

struct image {
    struct sim_disk *disk;
    uint64_t event, seed;
    uint64_t acked_lsn;
    uint32_t issued;
    enum sim_cut_policy policy;
};

/* One pass over a script. */
struct pass {
    struct crash_world w;
    struct image *image;
    uint32_t count;
    uint64_t from; /* first event of the window */
    uint64_t next; /* first event of the next window; 0: the run ended in this one */
    uint64_t stride, random_images;
    const struct image *only; /* replay */
};

static struct {
    uint64_t images, deep, nested, recoveries, online; /* online: read while undo was going on */
    double seconds;
} total;

static double
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* what a core can do, also when others use it */
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- Taking images ---- */

static void
take(struct pass *p, enum sim_cut_policy policy, uint64_t seed)
{
    uint64_t event = sim_disk_events(p->w.disk);
    struct image *i = &p->image[p->count];

    if (p->only != NULL && (policy != p->only->policy || seed != p->only->seed))
        return;
    *i = (struct image){ .event = event,
                         .seed = seed,
                         .acked_lsn = p->w.acked_lsn,
                         .issued = p->w.commit_count,
                         .policy = policy };
    must_ok(sim_disk_cut(p->w.disk, policy, seed, &i->disk));
    p->count++;
}

static void
hook(void *arg)
{
    struct pass *p = arg;
    uint64_t event = sim_disk_events(p->w.disk);

    if (p->only == NULL && p->count + 3 + p->random_images > IMAGES_KEPT) {
        p->next = event;
        return; /* the window is full: the run goes on without images */
    }
    if (p->only == NULL || p->only->event == event) {
        take(p, SIM_CUT_NONE, event);
        take(p, SIM_CUT_ALL, event);
        take(p, SIM_CUT_REVERSE, event);
        for (uint64_t i = 0; i < p->random_images; i++)
            take(p, SIM_CUT_RANDOM, event * 1000 + i);
    }
    sim_disk_cut_at(p->w.disk, event + p->stride, hook, p);
}

static void
pass_run(struct pass *p, const struct crash_script *script, uint64_t seed)
{
    memset(&p->w, 0, sizeof(p->w));
    p->w.script = script;
    p->w.seed = seed;
    p->count = 0;
    p->next = 0;
    must_ok(sim_disk_create(seed, &p->w.disk));
    sim_disk_cut_at(p->w.disk, p->from, hook, p);
    must_ok(crash_run(&p->w));
    crash_states(&p->w);
}

static void
pass_free(struct pass *p)
{
    for (uint32_t i = 0; i < p->count; i++)
        sim_disk_destroy(p->image[i].disk);
    sim_disk_destroy(p->w.disk);
    crash_world_free(&p->w);
}

/* ---- Recovering one image ---- */

struct recovery {
    const struct pass *p;
    const struct image *image;
    struct sim_disk *disk;
    struct task_runtime *rt;
    bool deep;
    uint64_t state;
    bool expect;        /* `state` is known from an earlier recovery */
    uint64_t cut_event; /* nested: cut at this event of the recovery; 0: not */
    bool opened;
    struct sim_disk *nested; /* what the nested cut left */
    enum sim_cut_policy nested_policy;
    uint64_t events; /* of the whole recovery */
};

_Noreturn static void
violation(const struct recovery *r, const char *what)
{
    const struct image *i = r->image;

    fprintf(stderr, "VIOLATION: %s\n  %s (%s)\n", what, ash_error_last()->message,
            ash_error_last()->where);
    fprintf(stderr, "  replay: ASH_TEST_SEED=%llu ASH_CRASH=%s:%llu:%d:%llu\n",
            (unsigned long long)r->p->w.seed, r->p->w.script->name, (unsigned long long)i->event,
            (int)i->policy, (unsigned long long)i->seed);
    fflush(stderr);
    _exit(1);
}

static void
recovery_state(struct recovery *r, ash_db *db, const char *when)
{
    uint64_t state = 0;

    if (crash_read_state(db, &state) != ASH_OK)
        violation(r, "reading all rows failed");
    bool good = r->expect
                    ? state == r->state
                    : crash_state_allowed(&r->p->w, state, r->image->acked_lsn, r->image->issued);
    if (!good) {
        fprintf(stderr, "%s:\n", when);
        crash_explain((struct crash_world *)&r->p->w, db, r->image->acked_lsn, r->image->issued);
        violation(r, r->expect ? "the state differs from what an earlier recovery showed"
                               : "a state that may not be");
    }
    r->state = state;
    r->expect = true;
}

static void
recovery_deep(struct recovery *r, ash_db *db)
{
    if (crash_use(db, 20) != ASH_OK)
        violation(r, "the database does not work after recovery");
    recovery_state(r, db, "after 20 operations");
    if (ash_close(db) != ASH_OK)
        violation(r, "close failed");
    if (crash_open(r->rt, r->disk, 0, true, &db) != ASH_OK)
        violation(r, "the second open failed");
    recovery_state(r, db, "after the second open");
    if (ash_verify(db, db_env_finding, NULL) != ASH_OK)
        violation(r, "verification failed after the second open");
    if (ash_close(db) != ASH_OK)
        violation(r, "the second close failed");
    uint64_t before = sim_disk_hash(r->disk);
    if (crash_open(r->rt, r->disk, ASH_OPEN_READ_ONLY, true, &db) != ASH_OK)
        violation(r, "opening read-only failed");
    recovery_state(r, db, "read-only");
    if (ash_close(db) != ASH_OK)
        violation(r, "the read-only close failed");
    if (sim_disk_hash(r->disk) != before)
        violation(r, "opening a closed database read-only changed it");
}

static uint64_t
losers(ash_db *db)
{
    struct db_layers l;
    struct txn_stats t;

    db_layers(db, &l);
    txn_stats(l.txn, &t);
    return t.losers;
}

/* Closes before everything is rolled back, perhaps. */
static ash_db *
recovery_hasty(struct recovery *r, ash_db *db)
{
    if (ash_close(db) != ASH_OK)
        violation(r, "close failed while transactions were being rolled back");
    uint64_t before = sim_disk_hash(r->disk);
    if (crash_open(r->rt, r->disk, ASH_OPEN_READ_ONLY, true, &db) != ASH_OK)
        violation(r, "opening read-only failed after a hasty close");
    recovery_state(r, db, "read-only after a hasty close");
    if (ash_close(db) != ASH_OK)
        violation(r, "the read-only close failed");
    if (sim_disk_hash(r->disk) != before)
        violation(r, "opening read-only changed a database with open transactions");
    if (crash_open(r->rt, r->disk, 0, true, &db) != ASH_OK)
        violation(r, "the open after a hasty close failed");
    recovery_state(r, db, "after a hasty close");
    return db;
}

static void
recovery_body(void *arg)
{
    struct recovery *r = arg;
    ash_db *db;

    if (crash_open(r->rt, r->disk, ASH_OPEN_CREATE, /* quiet= */ true, &db) != ASH_OK)
        violation(r, "the database does not open");
    bool online = losers(db) > 0;
    recovery_state(r, db, "after recovery");
    r->opened = true;
    if (online && r->image->seed % 3 == 0 && ash_checkpoint(db) != ASH_OK)
        violation(r, "a checkpoint failed while transactions were being rolled back");
    if (r->deep && r->image->seed % 2 != 0)
        db = recovery_hasty(r, db);
    if (ash_verify(db, db_env_finding, NULL) != ASH_OK)
        violation(r, "verification failed");
    if (losers(db) > 0)
        violation(r, "not everything was rolled back");
    if (online)
        recovery_state(r, db, "after everything was rolled back");
    total.online += online;
    if (r->deep)
        recovery_deep(r, db);
    else
        task_sim_halt(r->rt); /* closing is for the deep ones */
}

static void
nested_hook(void *arg)
{
    struct recovery *r = arg;

    must_ok(sim_disk_cut(r->disk, r->nested_policy, r->cut_event * 7 + 1, &r->nested));
    task_sim_halt(r->rt);
}

static void
recover(struct recovery *r, uint64_t seed)
{
    struct task_sim_options o = { .seed = seed, .step_max = RECOVERY_STEPS };

    sim_disk_restart(r->disk);
    sim_disk_cut_at(r->disk, r->cut_event, nested_hook, r);
    must_ok(task_sim_create(&o, &r->rt));
    ash_rc rc = task_sim_run(r->rt, recovery_body, r);
    if (rc != ASH_OK && rc != ASH_CANCELLED)
        violation(r, "recovery took too many steps or hung");
    if (rc == ASH_OK && task_sim_memory(r->rt) != 0)
        violation(r, "recovery leaked memory");
    r->events = sim_disk_events(r->disk);
    task_runtime_destroy(r->rt);
    sim_disk_cut_at(r->disk, 0, NULL, NULL);
    total.recoveries++;
}

static void
check_nested(const struct pass *p, const struct image *i, struct random *rnd)
{
    struct sim_disk *disk;

    must_ok(sim_disk_cut(i->disk, SIM_CUT_ALL, 1, &disk));
    struct recovery last = { .p = p, .image = i };
    for (uint32_t depth = 1; depth <= DEPTH_MAX; depth++) {
        struct recovery r = {
            .p = p, .image = i, .disk = disk, .state = last.state, .expect = last.opened
        };
        r.cut_event = 1 + random_below(rnd, 60);
        r.nested_policy = (enum sim_cut_policy)random_below(rnd, 4);
        recover(&r, i->seed * 17 + depth);
        last = r;
        if (r.nested == NULL)
            break; /* it had fewer events */
        total.nested++;
        sim_disk_destroy(disk);
        disk = r.nested;
    }
    struct recovery r = {
        .p = p, .image = i, .disk = disk, .state = last.state, .expect = last.opened, .deep = true
    };
    recover(&r, i->seed * 17);
    sim_disk_destroy(disk);
}

static void
check_image(const struct pass *p, const struct image *i, struct random *rnd, bool thorough)
{
    bool deep = thorough || random_chance(rnd, 1, 16);
    struct sim_disk *copy = NULL;

    if (deep)
        must_ok(sim_disk_cut(i->disk, SIM_CUT_ALL, 1, &copy));
    if (thorough || random_chance(rnd, 1, 16))
        check_nested(p, i, rnd);
    struct recovery r = { .p = p, .image = i, .disk = i->disk };
    recover(&r, 1);
    if (deep) {
        struct recovery again = {
            .p = p, .image = i, .disk = copy, .state = r.state, .expect = true, .deep = true
        };
        recover(&again, i->seed + 2);
        sim_disk_destroy(copy);
        total.deep++;
    }
    total.images++;
}

/* ---- The suite ---- */

static void
script_cut_everywhere(const struct crash_script *script, uint64_t seed, uint64_t random_images,
                      uint64_t limit)
{
    struct pass *p = calloc(1, sizeof(*p));
    struct random rnd;
    uint64_t trace = 0, images = 0, events = 0;
    double start = now();

    must(p != NULL, "calloc");
    p->image = calloc(IMAGES_KEPT, sizeof(*p->image));
    must(p->image != NULL, "calloc");
    p->random_images = random_images;
    random_init(&rnd, seed);
    pass_run(p, script, seed); /* no images: how long is it? */
    trace = p->w.trace;
    events = sim_disk_events(p->w.disk);
    pass_free(p);
    p->stride = 1 + events * (3 + random_images) / limit;
    p->from = 1;
    do {
        pass_run(p, script, seed);
        must(trace == p->w.trace, "two runs of script %s with one seed differ", script->name);
        for (uint32_t i = 0; i < p->count; i++) {
            check_image(p, &p->image[i], &rnd, false);
            sim_disk_destroy(p->image[i].disk);
            p->image[i].disk = NULL;
        }
        images += p->count;
        p->from = p->next;
        p->count = 0;
        pass_free(p);
    } while (p->next != 0);
    total.seconds += now() - start;
    if (getenv("ASH_TEST_VERBOSE") != NULL)
        printf("  %-16s seed %llu: %llu events, %llu images, %.0f images/s\n", script->name,
               (unsigned long long)seed, (unsigned long long)events, (unsigned long long)images,
               (double)images / (now() - start));
    free(p->image);
    free(p);
}

static bool
replay(void)
{
    const char *text = getenv("ASH_CRASH");
    char name[64];
    unsigned long long event, seed;
    int policy;

    if (text == NULL)
        return false;
    must(sscanf(text, "%63[^:]:%llu:%d:%llu", name, &event, &policy, &seed) == 4,
         "ASH_CRASH=script:event:policy:seed");
    for (uint32_t i = 0; i < crash_script_count; i++) {
        if (strcmp(crash_scripts[i].name, name) != 0)
            continue;
        struct image only = { .event = event, .policy = (enum sim_cut_policy)policy, .seed = seed };
        struct image image[8];
        struct pass p = { .image = image,
                          .from = event,
                          .stride = 1,
                          .random_images = policy == SIM_CUT_RANDOM ? seed % 1000 + 1 : 0,
                          .only = &only };
        struct random rnd;
        random_init(&rnd, seed);
        pass_run(&p, &crash_scripts[i], test_seed(1));
        must(p.count == 1, "the run has no such event");
        check_image(&p, &image[0], &rnd, /* thorough= */ true);
        pass_free(&p);
    }
    return true;
}

START_TEST(a_power_cut_loses_nothing_that_was_acknowledged)
{
    /* Quick: an even part of the events of the long scripts; full: every event, several seeds. */
    const struct crash_script *script = &crash_scripts[_i];
    uint64_t seed = test_seed(1), limit = test_scale(1500, UINT64_MAX / 2);

    if (replay())
        return;
    double start = now();
    for (uint64_t s = seed; s < seed + test_scale(1, script->small ? 3 : 4); s++)
        script_cut_everywhere(script, s, test_scale(1, 11), limit);
    printf(
        "%-16s %7llu images (%llu deep, %llu nested cuts), %llu recoveries (%llu read during undo), "
        "%.0f images/s and core, 0 violations\n",
        script->name, (unsigned long long)total.images, (unsigned long long)total.deep,
        (unsigned long long)total.nested, (unsigned long long)total.recoveries,
        (unsigned long long)total.online, (double)total.images / (now() - start));
    fflush(stdout);
    memset(&total, 0, sizeof(total)); /* without fork the next script goes on here */
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("crash");
    TCase *t = tcase_create("power_cut");

    tcase_set_timeout(t, (double)test_scale(300, 36000));
    tcase_add_loop_test(t, a_power_cut_loses_nothing_that_was_acknowledged, 0,
                        (int)crash_script_count);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
