/* SPDX-License-Identifier: Apache-2.0
 *
 * test_flip.c - single bits of a closed database's files are flipped: each flip is reported, with
 * file and page, or harmless.
 *
 * The database holds every kind of page: inner and leaf pages of several sizes, large values, map
 * pages, superblocks, log segments.  Its image on a simulated disk is shared by all runs.  A flip
 * is harmless when opening and verification find nothing and every row reads back as it was: it hit
 * a byte that nothing uses.  What is never allowed: a crash, a hang, a wrong row.
 */
#include "storage/pstore_format.h"

#include "tests/api/db_env.h"

#define ROWS      400u
#define FILES_MAX 64u
#define STEPS_MAX 20000000u

struct file {
    char dir[64], name[64];
    uint64_t size;
};

static struct {
    struct sim_disk *disk; /* as the closed database left it */
    struct file file[FILES_MAX];
    uint32_t files;
    uint64_t bytes;
    uint64_t state; /* hash of all rows */
    uint64_t reported, harmless, open_refused;
} all;

/* ---- The database ---- */

static struct ash_slice
row_value(uint32_t i, uint8_t buf[40000])
{
    uint32_t size = i % 50 == 7 ? 40000 : i % 10 == 3 ? 6000 : 50 + i % 400;

    memset(buf, (int)(i * 7 + 1), size);
    return ash_slice(buf, size);
}

static void
build(struct db_env *e)
{
    static const struct ash_table_options small = { 4096 }, large = { 32768 };
    static uint8_t buf[40000];
    ash_db *db = db_env_open(e, DB_ENV_TINY, /* quiet= */ true);
    ash_session *s;
    ash_table *t[2];
    char key[16];

    must_ok(ash_session_open(db, &s));
    must_ok(ash_table_create(s, "small", &small));
    must_ok(ash_table_create(s, "large", &large));
    must_ok(ash_table_open(s, "small", &t[0]));
    must_ok(ash_table_open(s, "large", &t[1]));
    for (uint32_t i = 0; i < ROWS; i++) {
        snprintf(key, sizeof(key), "row%05u", i * 17 % ROWS);
        must_ok(ash_put(s, t[i % 2], slice_str(key), row_value(i, buf)));
        if (i % 100 == 99)
            must_ok(ash_checkpoint(db));
    }
    for (uint32_t i = 0; i < 2; i++)
        ash_table_close(t[i]);
    ash_session_close(s);
    must_ok(ash_close(db));
}

static void
note_file(void *arg, const char *dir, const char *name, uint64_t size)
{
    struct file *f = &all.file[all.files++];

    (void)arg;
    must(all.files < FILES_MAX, "too many files");
    snprintf(f->dir, sizeof(f->dir), "%s", dir);
    snprintf(f->name, sizeof(f->name), "%s", name);
    f->size = size;
    all.bytes += size;
}

/* ---- One flip ---- */

struct look {
    struct sim_disk *disk;
    struct task_runtime *rt;
    ash_rc open, verify, read;
    uint64_t state;
    char named[ERR_MESSAGE_MAX];
    bool names_file;
};

static void
finding(void *arg, const char *file, uint64_t page, const char *message)
{
    struct look *l = arg;

    l->names_file |= file[0] != '\0' || page != 0 || strstr(message, "page") != NULL;
    snprintf(l->named, sizeof(l->named), "%s", message);
}

static ash_rc
read_rows(ash_db *db, uint64_t *state_out)
{
    static const char *const name[] = { "small", "large" };
    ash_session *s;
    uint64_t state = 0;
    ash_rc rc = ash_session_open(db, &s);

    for (uint32_t i = 0; i < 2 && rc == ASH_OK; i++) {
        ash_table *t;
        ash_cursor *c;
        struct ash_row row;
        rc = ash_table_open(s, name[i], &t);
        if (rc != ASH_OK)
            break;
        rc = ash_cursor_open(s, t, NULL, &c);
        if (rc == ASH_OK) {
            while ((rc = ash_cursor_next(c, &row)) == ASH_OK)
                state = hash_bytes(row.value.data, row.value.size,
                                   hash_bytes(row.key.data, row.key.size, state));
            ash_cursor_close(c);
        }
        ash_table_close(t);
        rc = rc == ASH_NOT_FOUND ? ASH_OK : rc;
    }
    ash_session_close(s);
    *state_out = state;
    return rc;
}

static void
look_body(void *arg)
{
    struct look *l = arg;
    struct db_env e = { .kind = IO_BACKEND_SIM, .rt = l->rt, .disk = l->disk, .path = "db" };
    ash_db *db;

    l->open = db_env_try_open(&e, 0, DB_ENV_TINY, /* quiet= */ true, &db);
    if (l->open != ASH_OK) {
        const struct ash_error *err = ash_error_last();
        snprintf(l->named, sizeof(l->named), "%s", err->message);
        l->names_file = err->object[0] != '\0' || strstr(err->message, "page") != NULL ||
                        strstr(err->message, "log") != NULL;
        return;
    }
    l->read = read_rows(db, &l->state);
    l->verify = ash_verify(db, finding, l);
    ash_ignore(ash_close(db)); /* a damaged database may fail to */
}

static void
look(struct look *l, uint64_t seed)
{
    struct task_sim_options o = { .seed = seed, .step_max = STEPS_MAX };

    must_ok(task_sim_create(&o, &l->rt));
    ash_rc rc = task_sim_run(l->rt, look_body, l);
    must(rc == ASH_OK, "%s", ash_error_last()->message);
    task_runtime_destroy(l->rt);
}

static void
flip(uint64_t at, unsigned bit, uint64_t seed)
{
    struct look l = { 0 };
    struct file *f = all.file;
    uint8_t byte;

    while (at >= f->size)
        at -= f++->size;
    must_ok(sim_disk_cut(all.disk, SIM_CUT_ALL, 1, &l.disk));
    must_ok(sim_disk_peek(l.disk, f->dir, f->name, at, &byte, 1));
    byte ^= (uint8_t)(1u << bit);
    must_ok(sim_disk_poke(l.disk, f->dir, f->name, at, &byte, 1));
    look(&l, seed);
    sim_disk_destroy(l.disk);
    if (l.open != ASH_OK) {
        must(l.open == ASH_CORRUPT || l.open == ASH_VERSION_MISMATCH,
             "%s byte %llu bit %u: open: %s: %s", f->name, (unsigned long long)at, bit,
             ash_rc_name(l.open), l.named);
        must(l.names_file, "%s byte %llu bit %u: the message names nothing: %s", f->name,
             (unsigned long long)at, bit, l.named);
        all.open_refused++;
        return;
    }
    must(l.read == ASH_CORRUPT || l.state == all.state, "%s byte %llu bit %u: wrong rows, %s",
         f->name, (unsigned long long)at, bit, ash_rc_name(l.read));
    must(l.read == ASH_OK || l.verify == ASH_CORRUPT,
         "%s byte %llu bit %u: reading fails, verification does not: %s", f->name,
         (unsigned long long)at, bit, ash_rc_name(l.verify));
    must(l.verify == ASH_OK || (l.verify == ASH_CORRUPT && l.names_file),
         "%s byte %llu bit %u: verify: %s: %s", f->name, (unsigned long long)at, bit,
         ash_rc_name(l.verify), l.named);
    if (l.verify == ASH_OK)
        all.harmless++;
    else
        all.reported++;
}

static void
setup(void)
{
    struct db_env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(1), .name = "flip" };

    memset(&all, 0, sizeof(all));
    must_ok(sim_disk_create(1, &all.disk));
    e.disk = all.disk;
    must_ok(db_env_run(&e, build));
    sim_disk_list(all.disk, note_file, NULL);
    struct look l = { 0 };
    must_ok(sim_disk_cut(all.disk, SIM_CUT_ALL, 1, &l.disk));
    look(&l, 1);
    sim_disk_destroy(l.disk);
    must(l.open == ASH_OK && l.read == ASH_OK && l.verify == ASH_OK, "without a flip: %s", l.named);
    all.state = l.state;
}

START_TEST(a_flipped_bit_is_reported_or_harmless)
{
    uint64_t seed = test_seed(1), flips = test_scale(300, 20000);
    struct random r;

    setup();
    random_init(&r, seed);
    for (uint64_t i = 0; i < flips; i++)
        flip(random_below(&r, all.bytes), (unsigned)random_below(&r, 8), i);
    printf(
        "%llu flips in %llu bytes: %llu reported by verification, %llu when opening, %llu harmless\n",
        (unsigned long long)flips, (unsigned long long)all.bytes, (unsigned long long)all.reported,
        (unsigned long long)all.open_refused, (unsigned long long)all.harmless);
    sim_disk_destroy(all.disk);
}
END_TEST

/* The first bytes of everything: heads, superblocks, the map. */
START_TEST(every_bit_of_the_superblocks_is_reported_or_harmless)
{
    uint64_t stride = test_scale(13, 1);

    setup();
    for (uint32_t slot = 0; slot < SUPER_SLOTS; slot++)
        for (uint64_t bit = slot; bit < sizeof(struct super_block) * 8; bit += stride) {
            uint64_t at = slot * (uint64_t)SUPER_STRIDE + bit / 8;
            for (uint32_t i = 0; strcmp(all.file[i].name, "data-0000.ash") != 0; i++)
                at += all.file[i].size;
            flip(at, bit % 8, bit);
        }
    sim_disk_destroy(all.disk);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("flip");
    TCase *t = tcase_create("bits");

    tcase_set_timeout(t, (double)test_scale(120, 36000));
    tcase_add_test(t, a_flipped_bit_is_reported_or_harmless);
    tcase_add_test(t, every_bit_of_the_superblocks_is_reported_or_harmless);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
