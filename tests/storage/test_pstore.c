/* SPDX-License-Identifier: Apache-2.0
 *
 * test_pstore.c - the page store without crashes: places, ids, superblocks, damage, full disks.
 */
#include <errno.h>
#include <inttypes.h>

#include "tests/storage/pstore_env.h"

static struct pstore *
store_create(struct env *e)
{
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;
    memset(&toy, 0, sizeof(toy));
    ck_ok(pstore_create(&o, &ps));
    ck_ok(pstore_recovered(ps));
    return ps;
}

static unsigned found_count;
static uint64_t found_page;
static char found_message[512];

static void
found(void *arg, const char *file, uint64_t offset, uint64_t page, const char *message)
{
    (void)arg;
    (void)file;
    (void)offset;
    found_count++;
    found_page = page;
    snprintf(found_message, sizeof(found_message), "%s", message);
}

static unsigned
verify(struct pstore *ps)
{
    found_count = 0;
    ps_verify(ps, found, NULL);
    return found_count;
}

/* ---- Round trips ---- */

static void
body_round_trip(struct env *e)
{
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;
    uint64_t page[PAGE_CLASS_COUNT], version;

    o.zone_bytes = 4u << 20;
    memset(&toy, 0, sizeof(toy));
    ck_assert(!pstore_exists(e->dir));
    ck_rc(pstore_open(&o, &ps), ASH_NOT_A_DATABASE);
    ck_ok(pstore_create(&o, &ps));
    ck_ok(pstore_recovered(ps));
    ck_assert(pstore_exists(e->dir));
    for (uint8_t c = 0; c < PAGE_CLASS_COUNT; c++) {
        page[c] = page_new(ps);
        ck_ok(page_write(ps, page[c], c, c + 100u));
    }
    for (int round = 0; round < 2; round++) {
        for (uint8_t c = 0; c < PAGE_CLASS_COUNT; c++) {
            struct map_entry at;
            uint8_t class;
            ck_assert(pstore_locate(ps, page[c], &at, &class));
            ck_assert_uint_eq(class, c);
            ck_ok(page_read(ps, page[c], &version));
            ck_assert_uint_eq(version, c + 100u);
        }
        ck_assert_uint_eq(verify(ps), 0);
        ck_ok(ps_checkpoint(ps, 0));
        toy.count = toy.durable; /* nothing after the checkpoint: the map pages alone must do */
        pstore_close(ps);
        ck_ok(pstore_open(&o, &ps));
        ck_ok(pstore_recovered(ps));
    }
    struct pstore_options second = o;
    struct pstore *other = NULL;
    ck_rc(pstore_open(&second, &other), ASH_BUSY);
    pstore_close(ps);
    ck_rc(pstore_create(&o, &ps), ASH_EXISTS);
}

START_TEST(pages_of_every_class_survive_reopening)
{
    ENV_RUN(body_round_trip);
}
END_TEST

static void
body_batches(struct env *e)
{
    struct pstore *ps = store_create(e);
    struct pstore_stats before, after;
    uint64_t page[16], version[16];
    uint8_t class[16] = { 0 };

    for (unsigned i = 0; i < 16; i++) {
        page[i] = page_new(ps);
        version[i] = 1;
    }
    ck_ok(pstore_ensure_room(ps, 1u << 20));
    pstore_stats(ps, &before);
    ck_ok(pages_write(ps, page, class, version, 16));
    pstore_stats(ps, &after);
    ck_assert_uint_eq(after.write_ios - before.write_ios,
                      1); /* one zone takes all 16 side by side */
    ck_assert_uint_eq(after.write_bytes - before.write_bytes, 16u * 4096);
    ck_assert_uint_eq(after.pages, 16);
    pstore_close(ps);
}

START_TEST(a_batch_is_one_large_write)
{
    ENV_RUN(body_batches);
}
END_TEST

/* More map pages than one root page names. */
static void
body_chain(struct env *e)
{
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;
    uint64_t first, last = 0, version;
    uint64_t ids = (uint64_t)MAP_PAGE_ENTRIES * MAP_ROOT_ENTRIES + MAP_PAGE_ENTRIES + 5;

    memset(&toy, 0, sizeof(toy));
    o.page_id_max = ids + 10;
    ck_ok(pstore_create(&o, &ps));
    ck_ok(pstore_recovered(ps));
    ck_ok(pstore_page_alloc(ps, &first));
    for (uint64_t i = 1; i < ids; i++)
        ck_ok(pstore_page_alloc(ps, &last));
    ck_ok(page_write(ps, first, 0, 11));
    ck_ok(page_write(ps, last, 1, 12));
    for (unsigned round = 0; round < 3; round++) {
        ck_ok(page_write(ps, first, 0, 13 + round));
        ck_ok(ps_checkpoint(ps, 0));
        pstore_close(ps);
        ck_ok(pstore_open(&o, &ps));
        ck_ok(pstore_recovered(ps));
        ck_ok(page_read(ps, first, &version));
        ck_assert_uint_eq(version, 13 + round);
        ck_ok(page_read(ps, last, &version));
        ck_assert_uint_eq(version, 12);
        ck_assert_uint_eq(pstore_page_high(ps), last + 1);
        ck_assert_uint_eq(verify(ps), 0);
    }
    pstore_close(ps);
}

START_TEST(a_map_of_several_root_pages_is_read_back)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(3) };
    ck_ok(env_run(&e, body_chain));
}
END_TEST

/* ---- Page ids ---- */

static void
body_ids(struct env *e)
{
    struct pstore *ps = store_create(e);
    uint64_t a = page_new(ps), b = page_new(ps), c;

    ck_assert_uint_eq(a, PAGE_ID_FIRST);
    ck_assert_uint_ne(a, b);
    ck_assert(pstore_page_allocated(ps, a));
    pstore_page_unalloc(ps, b);
    ck_assert(!pstore_page_allocated(ps, b));
    ck_ok(pstore_page_alloc(ps, &c));
    ck_assert_uint_eq(c, b);
    ck_ok(page_write(ps, a, 0, 1));
    page_drop(ps, a);
    ck_assert(!pstore_page_allocated(ps, a));
    struct map_entry at;
    uint8_t class;
    ck_assert(!pstore_locate(ps, a, &at, &class));
    ck_ok(pstore_page_alloc(ps, &c));
    ck_assert_uint_eq(c, a);
    ck_assert(!pstore_page_allocated(ps, 1000));
    ck_assert(!pstore_page_allocated(ps, UINT64_MAX));
    for (uint64_t i = 0; i < 4096 - 3; i++)
        ck_ok(pstore_page_alloc(ps, &c));
    ck_rc(pstore_page_alloc(ps, &c), ASH_NO_SPACE);
    pstore_close(ps);
}

START_TEST(page_ids_are_reused_and_bounded)
{
    ENV_RUN(body_ids);
}
END_TEST

/* ---- Several threads ---- */

enum {
    THREADS = 3,
    THREAD_PAGES = 40,
    THREAD_ROUNDS = 150
};

struct thread {
    struct pstore *ps;
    _Atomic uint64_t *lsn; /* of the last record; every record is durable at once */
    struct task *task;
    unsigned number;
    uint64_t page[THREAD_PAGES], version[THREAD_PAGES];
};

static void
thread_write(struct thread *t, struct random *r, uint8_t *images)
{
    struct pstore_write w[4];
    unsigned first = (unsigned)random_below(r, THREAD_PAGES - 4);

    for (unsigned i = 0; i < 4; i++) {
        unsigned at = first + i;
        if (t->page[at] == 0)
            ck_ok(pstore_page_alloc(t->ps, &t->page[at]));
        w[i] = (struct pstore_write){ .page = t->page[at], .image = images + i * 4096 };
        image_make(w[i].image, w[i].page, 0, ++t->version[at], 0);
    }
    ck_ok(pstore_ensure_room(t->ps, 4 * 4096));
    ck_ok(pstore_write(t->ps, w, 4, 0, IO_CLASS_PAGE_WRITER));
    pstore_map_lock(t->ps);
    uint64_t lsn = atomic_fetch_add(t->lsn, 1) + 1;
    for (unsigned i = 0; i < 4; i++)
        pstore_install(t->ps, w[i].page, w[i].entry, lsn);
    pstore_map_unlock(t->ps);
    pstore_release(t->ps, lsn);
}

static void
thread_main(void *arg)
{
    struct thread *t = arg;
    struct random r;
    uint8_t *images = env_buffer(4 * 4096);

    random_init(&r, t->number);
    for (unsigned round = 0; round < THREAD_ROUNDS; round++) {
        thread_write(t, &r, images);
        unsigned at = (unsigned)random_below(&r, THREAD_PAGES);
        if (t->page[at] == 0)
            continue;
        if (random_chance(&r, 1, 4)) {
            pstore_map_lock(t->ps);
            pstore_page_free(t->ps, t->page[at], atomic_fetch_add(t->lsn, 1) + 1);
            pstore_map_unlock(t->ps);
            t->page[at] = 0;
        } else if (t->version[at] > 0) {
            ck_ok(pstore_read(t->ps, t->page[at], 0, images, IO_CLASS_READ));
            must(image_version(images, t->page[at], 0) == t->version[at],
                 "an old version was read");
        }
    }
    mem_free(MEM_TEST, images);
}

static void
body_threads(struct env *e)
{
    static struct thread t[THREADS];
    static _Atomic uint64_t lsn;
    struct pstore_checkpoint_info info = { .checkpoint_lsn = 1 };
    struct pstore *ps = store_create(e);

    memset(t, 0, sizeof(t));
    atomic_store(&lsn, 0);
    for (unsigned i = 0; i < THREADS; i++) {
        t[i].ps = ps;
        t[i].lsn = &lsn;
        t[i].number = i;
        ck_ok(task_spawn(e->rt, "writer", thread_main, &t[i], &t[i].task));
    }
    for (unsigned i = 0; i < 10; i++) {
        pstore_map_lock(ps);
        ck_ok(pstore_checkpoint_begin(ps));
        pstore_map_unlock(ps);
        ck_ok(pstore_checkpoint_write(ps));
        ck_ok(pstore_checkpoint_commit(ps, &info));
    }
    for (unsigned i = 0; i < THREADS; i++)
        task_join(t[i].task);
    for (unsigned i = 0; i < THREADS; i++)
        for (unsigned k = 0; k < THREAD_PAGES; k++) {
            uint64_t version = 0;
            if (t[i].page[k] == 0)
                continue;
            ck_ok(page_read(ps, t[i].page[k], &version));
            ck_assert_uint_eq(version, t[i].version[k]);
        }
    ck_assert_uint_eq(verify(ps), 0);
    pstore_close(ps);
}

START_TEST(threads_write_and_free_side_by_side)
{
    ENV_RUN(body_threads);
}
END_TEST

/* ---- Space ---- */

/* Random overwrites of a fixed set: the file stays within what live pages and the fill target need.
 * */
static void
body_reuse(struct env *e)
{
    enum {
        PAGES = 256,
        ROUNDS = 3000
    };
    struct pstore *ps = store_create(e);
    static uint64_t page[PAGES], version[PAGES];
    struct pstore_stats s;
    struct random r;

    random_init(&r, e->seed);
    for (unsigned i = 0; i < PAGES; i++)
        page[i] = page_new(ps);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t p[8], v[8];
        uint8_t class[8];
        unsigned start = (unsigned)random_below(&r, PAGES);
        for (unsigned i = 0; i < 8; i++) {
            unsigned at = (start + i * 31) % PAGES;
            p[i] = page[at];
            v[i] = ++version[at];
            class[i] = (uint8_t)(at % 16 == 0 ? 2 : 0);
        }
        ck_ok(pages_write(ps, p, class, v, 8));
        if (round % 4 == 3)
            toy_flush(ps);
        if (toy.count + 100 > TOY_MAX) {
            ck_ok(ps_checkpoint(ps, 0));
            toy.count = toy.durable = 0; /* only counts LSNs here */
            break;
        }
    }
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t v;
        if (version[i] == 0)
            continue;
        ck_ok(page_read(ps, page[i], &v));
        ck_assert_uint_eq(v, version[i]);
    }
    pstore_stats(ps, &s);
    uint64_t live = (PAGES + PAGES / 16 * 3) * 4096u;
    ck_assert_msg(s.file_bytes <= live * 2 + 8 * TEST_ZONE,
                  "file %" PRIu64 " for %" PRIu64 " live bytes", s.file_bytes, live);
    ck_assert_uint_eq(s.leaked_bytes, 0);
    ck_assert_uint_le(s.live_bytes - s.waiting_bytes, live + SUPER_AREA + 3 * 4096);
    ck_assert_uint_eq(verify(ps), 0);
    pstore_close(ps);
}

START_TEST(dead_space_is_written_again)
{
    ENV_RUN(body_reuse);
}
END_TEST

static void
body_release(struct env *e)
{
    struct pstore *ps = store_create(e);
    struct map_entry first, now;
    struct pstore_stats s;
    uint8_t class;
    uint64_t page = page_new(ps);

    ck_ok(page_write(ps, page, 0, 1));
    ck_assert(pstore_locate(ps, page, &first, &class));
    toy_flush(ps);
    /* Not flushed: however often it is written, its old place stays as it was. */
    for (unsigned i = 2; i < 300; i++) {
        ck_ok(page_write(ps, page, 0, i));
        ck_assert(pstore_locate(ps, page, &now, &class));
        ck_assert_uint_ne(map_entry_offset(now), map_entry_offset(first));
    }
    pstore_stats(ps, &s);
    ck_assert_uint_eq(s.waiting_bytes, 298u * 4096);
    toy_flush(ps);
    pstore_stats(ps, &s);
    ck_assert_uint_eq(s.waiting_bytes, 0);
    bool again = false;
    for (unsigned i = 0; i < 1000 && !again; i++) {
        ck_ok(page_write(ps, page, 0, i));
        toy_flush(ps);
        ck_assert(pstore_locate(ps, page, &now, &class));
        again = map_entry_offset(now) == map_entry_offset(first);
    }
    ck_assert(again);
    /* What redo wrote without a record waits for a checkpoint, whatever the log says. */
    struct pstore_write w = { .page = page, .page_class = 0, .image = env_buffer(4096) };
    image_make(w.image, page, 0, 7, 0);
    ck_ok(pstore_write(ps, &w, 1, UINT64_MAX, IO_CLASS_PAGE_WRITER));
    pstore_install(ps, page, w.entry, PSTORE_LSN_CHECKPOINT);
    pstore_release(ps, UINT64_MAX);
    pstore_stats(ps, &s);
    ck_assert_uint_eq(s.waiting_bytes, 4096);
    ck_ok(ps_checkpoint(ps, 0));
    pstore_stats(ps, &s);
    ck_assert_uint_eq(s.waiting_bytes, 0);
    mem_free(MEM_TEST, w.image);
    pstore_close(ps);
}

START_TEST(a_place_is_not_reused_before_its_release)
{
    ENV_RUN(body_release);
}
END_TEST

static struct sim_disk *limited;

static void
body_full(struct env *e)
{
    struct pstore *ps = store_create(e);
    uint64_t page[200], count = 0, version;
    struct pstore_stats s;
    ash_rc rc = ASH_OK;

    sim_disk_limit(limited, 640u << 10);
    for (; count < 200; count++) {
        rc = pstore_ensure_room(ps, 4096);
        if (rc != ASH_OK)
            break;
        page[count] = page_new(ps);
        ck_ok(page_write(ps, page[count], 0, count)); /* the gate said that there is room */
    }
    ck_rc(rc, ASH_NO_SPACE);
    ck_assert_uint_gt(count, 50);
    ck_ok(ps_checkpoint(ps, 0));          /* and it left some for this */
    while (rc == ASH_OK || count < 200) { /* past the gate, to the end */
        uint64_t p = page_new(ps);
        rc = page_write(ps, p, 0, 5000 + count);
        if (rc != ASH_OK) {
            pstore_page_unalloc(ps, p);
            toy.count--;
            break;
        }
        page[count++] = p;
    }
    ck_rc(rc, ASH_NO_SPACE);
    ck_ok(io_check(e->io)); /* a full disk poisons nothing */
    pstore_stats(ps, &s);
    ck_assert_uint_eq(s.live_bytes, s.file_bytes);
    for (uint64_t i = 0; i < count; i += 7)
        ck_ok(page_read(ps, page[i], &version));
    /* Deleting makes room again. */
    for (uint64_t i = 0; i < 40; i++)
        page_drop(ps, page[i]);
    toy_flush(ps);
    ck_ok(pstore_ensure_room(ps, 4096));
    uint64_t p = page_new(ps);
    ck_ok(page_write(ps, p, 0, 1));
    ck_assert_uint_eq(verify(ps), 0);
    pstore_close(ps);
}

START_TEST(a_full_disk_is_an_error_before_anything_changed)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(5) };
    ck_ok(sim_disk_create(5, &limited));
    e.disk = limited;
    ck_ok(env_run(&e, body_full));
    sim_disk_destroy(limited);
}
END_TEST

/* ---- Superblocks ---- */

static struct sim_disk *disk;
static ash_rc open_rc;
static struct pstore_checkpoint_info open_info;
static char open_message[512];

static void
body_make(struct env *e)
{
    struct pstore *ps = store_create(e);
    for (unsigned i = 0; i < 5; i++) {
        uint64_t page = page_new(ps);
        ck_ok(page_write(ps, page, i == 3, 10 + i));
        ck_ok(ps_checkpoint(ps, 0));
    }
    pstore_close(ps);
}

static void
body_try_open(struct env *e)
{
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;
    open_rc = pstore_open(&o, &ps);
    if (open_rc == ASH_OK)
        open_rc = toy_replay(ps, toy.count);
    snprintf(open_message, sizeof(open_message), "%s", err_current()->message);
    if (ps != NULL) {
        pstore_info(ps, &open_info);
        found_count = 0;
        if (open_rc == ASH_OK)
            ps_verify(ps, found, NULL);
        pstore_close(ps);
    }
}

static ash_rc
try_open(void)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 1, .disk = disk };
    ck_ok(env_run(&e, body_try_open));
    return open_rc;
}

static void
make_disk(void)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 1 };
    ck_ok(sim_disk_create(1, &disk));
    e.disk = disk;
    ck_ok(env_run(&e, body_make));
    ck_ok(try_open());
    ck_assert_uint_eq(found_count, 0);
}

static void
flip(uint64_t offset, unsigned bit)
{
    uint8_t b;
    ck_ok(sim_disk_peek(disk, "db", "data-0000.ash", offset, &b, 1));
    b ^= (uint8_t)(1u << bit);
    ck_ok(sim_disk_poke(disk, "db", "data-0000.ash", offset, &b, 1));
}

START_TEST(a_flipped_bit_in_any_superblock_loses_nothing)
{
    struct random r;
    make_disk();
    uint64_t newest = open_info.checkpoint_lsn;
    random_init(&r, test_seed(11));
    for (unsigned i = 0; i < 400; i++) {
        uint64_t offset =
            (i % 4) * SUPER_STRIDE + (i < 200 ? random_below(&r, 128) : random_below(&r, 4096));
        unsigned bit = (unsigned)random_below(&r, 8);
        flip(offset, bit);
        ck_ok(try_open());
        ck_assert_uint_eq(open_info.checkpoint_lsn, newest);
        ck_assert_uint_eq(found_count, 0);
        bool current = i % 4 / 2 == 6 % 2; /* version 6: creation and five checkpoints */
        if (!current)                      /* open has written the other one anew from its twin */
            flip(offset, bit);
    }
    sim_disk_destroy(disk);
}
END_TEST

START_TEST(superblocks_that_are_all_bad_are_told_apart)
{
    uint8_t block[SUPER_SIZE];
    struct super_block *sb = (struct super_block *)(void *)block;

    make_disk();
    for (unsigned i = 0; i < 4; i++)
        flip(i * SUPER_STRIDE + 100, 1);
    ck_rc(try_open(), ASH_CORRUPT);
    for (unsigned i = 0; i < 4; i++)
        flip(i * SUPER_STRIDE, 1);
    ck_rc(try_open(), ASH_CORRUPT); /* the rest still looks like ours */
    memset(block, 'x', sizeof(block));
    struct sim_disk *good = disk;
    ck_ok(sim_disk_cut(good, SIM_CUT_ALL, 1, &disk));
    for (unsigned i = 0; i < 4; i++)
        ck_ok(sim_disk_poke(disk, "db", "data-0000.ash", i * SUPER_STRIDE, block, sizeof(block)));
    ck_rc(try_open(), ASH_NOT_A_DATABASE);
    sim_disk_destroy(disk);
    disk = good;
    for (unsigned i = 0; i < 4; i++) {
        flip(i * SUPER_STRIDE, 1);
        flip(i * SUPER_STRIDE + 100, 1);
    }
    ck_ok(try_open());
    ck_ok(sim_disk_peek(disk, "db", "data-0000.ash", 0, block, sizeof(block)));
    sb->format = SUPER_FORMAT + 1;
    sb->crc32c = crc32c(0, block + 12, SUPER_SIZE - 12);
    ck_ok(sim_disk_poke(disk, "db", "data-0000.ash", 0, block, sizeof(block)));
    ck_rc(try_open(), ASH_VERSION_MISMATCH);
    sim_disk_destroy(disk);
}
END_TEST

/* Opening reads the four slots first: makes those in `slots` fail. */
static ash_rc
try_open_unreadable(unsigned slots)
{
    for (unsigned i = 0; i < SUPER_SLOTS; i++)
        if ((slots >> i & 1) != 0)
            sim_disk_fault(disk,
                           &(struct sim_fault){ .kind = SIM_FAULT_ERROR,
                                                .op = IO_OP_READ,
                                                .nth = sim_disk_requests(disk, IO_OP_READ) + 1 + i,
                                                .sys_errno = EIO });
    ash_rc rc = try_open();
    sim_disk_fault(disk, NULL);
    return rc;
}

/* Goal: a superblock sector that cannot be read costs nothing while its twin is good, and what
 * might have been the newest version is not passed over in silence. */
START_TEST(an_unreadable_superblock_is_replaced_by_its_twin)
{
    make_disk();
    uint64_t newest = open_info.checkpoint_lsn;
    for (unsigned slots = 0; slots < 1u << SUPER_SLOTS; slots++) {
        bool pair = (slots & 3) == 3 || (slots & 12) == 12;
        ck_rc(try_open_unreadable(slots), pair ? ASH_IO : ASH_OK);
        if (pair)
            ck_assert_ptr_nonnull(strstr(open_message, "data-0000.ash"));
        else
            ck_assert_uint_eq(open_info.checkpoint_lsn, newest);
    }
    flip(SUPER_STRIDE + 100, 1); /* slot 1: then nobody knows what slot 0 held */
    ck_rc(try_open_unreadable(1), ASH_IO);
    ck_ok(try_open_unreadable(0));
    sim_disk_destroy(disk);
}
END_TEST

/* Goal: no byte of the map, nor of a page, can rot unseen.  Method: flip bits all over the file
 * behind the superblocks; either the byte is dead space and everything verifies, or the damage is
 * reported, with the page's number. */
START_TEST(a_flipped_bit_in_map_or_page_is_found)
{
    struct random r;
    unsigned hits = 0, refused = 0;
    make_disk();
    random_init(&r, test_seed(12));
    for (unsigned i = 0; i < 600; i++) {
        uint64_t offset = SUPER_AREA + random_below(&r, 16u * 4096);
        unsigned bit = (unsigned)random_below(&r, 8);
        flip(offset, bit);
        ash_rc rc = try_open();
        if (rc == ASH_OK && found_count > 0) {
            ck_assert_uint_eq(found_count, 1);
            char name[32];
            snprintf(name, sizeof(name), "page %" PRIu64, found_page);
            ck_assert_msg(strstr(found_message, name) != NULL, "%s", found_message);
            hits++;
        } else if (rc != ASH_OK) {
            ck_rc(rc, ASH_CORRUPT);
            ck_assert_msg(strstr(open_message, "page") != NULL, "%s", open_message);
            refused++;
        }
        flip(offset, bit);
    }
    ck_ok(try_open());
    ck_assert_uint_gt(hits, 100);   /* six units of live pages in sixteen */
    ck_assert_uint_gt(refused, 20); /* two of the map */
    sim_disk_destroy(disk);
}
END_TEST

/* ---- Lost and misdirected writes ---- */

static enum sim_fault_kind fault_kind;

static void
body_lost(struct env *e)
{
    struct pstore *ps = store_create(e);
    struct map_entry old, now;
    uint8_t class;
    uint64_t page = page_new(ps), version = 1, v;

    /* Write until a place comes round that holds an older version of the same page: the hardest
     * case. */
    ck_ok(page_write(ps, page, 0, version));
    ck_assert(pstore_locate(ps, page, &old, &class));
    unsigned rounds = 0, missed = 0;
    for (unsigned i = 0; i < 64; i++) {
        struct sim_fault fault = { .kind = fault_kind,
                                   .op = IO_OP_WRITE,
                                   .nth = sim_disk_requests(disk, IO_OP_WRITE) + 1,
                                   .delta = 8192 };
        toy_flush(ps);
        if (rounds > 4)
            sim_disk_fault(disk, &fault);
        ck_ok(page_write(ps, page, 0, ++version));
        sim_disk_fault(disk, NULL);
        ck_assert(pstore_locate(ps, page, &now, &class));
        ash_rc rc = page_read(ps, page, &v);
        if (rounds++ <= 4) {
            ck_ok(rc);
            continue;
        }
        if (rc == ASH_OK && v == version)
            continue;
        missed += rc == ASH_OK;
        if (rc != ASH_OK) {
            ck_rc(rc, ASH_CORRUPT);
            ck_assert_ptr_nonnull(strstr(err_current()->message, "page 1"));
        }
    }
    ck_assert_uint_eq(missed, 0);
    pstore_close(ps);
}

START_TEST(a_lost_or_misdirected_write_is_found_at_the_next_read)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 4 };
    fault_kind = _i == 0 ? SIM_FAULT_LOST_WRITE : SIM_FAULT_MISDIRECT;
    ck_ok(sim_disk_create(4, &disk));
    e.disk = disk;
    ck_ok(env_run(&e, body_lost));
    sim_disk_destroy(disk);
}
END_TEST

/* An older version of the page in the very place: only the map's fragment of the checksum can tell.
 * */
static void
body_stale(struct env *e)
{
    struct pstore *ps = store_create(e);
    struct map_entry now;
    uint8_t class, old[4096];
    uint64_t page = page_new(ps), v;

    ck_ok(page_write(ps, page, 0, 1));
    ck_assert(pstore_locate(ps, page, &now, &class));
    ck_ok(sim_disk_peek(disk, "db", "data-0000.ash", map_entry_offset(now), old, sizeof(old)));
    ck_ok(page_write(ps, page, 0, 2));
    ck_assert(pstore_locate(ps, page, &now, &class));
    ck_ok(sim_disk_poke(disk, "db", "data-0000.ash", map_entry_offset(now), old, sizeof(old)));
    ck_rc(page_read(ps, page, &v), ASH_CORRUPT);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "lost or misdirected"));
    ck_assert_uint_eq(verify(ps), 1);
    ck_assert_uint_eq(found_page, page);
    pstore_close(ps);
}

START_TEST(an_old_version_in_the_right_place_is_found)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 4 };
    ck_ok(sim_disk_create(4, &disk));
    e.disk = disk;
    ck_ok(env_run(&e, body_stale));
    sim_disk_destroy(disk);
}
END_TEST

/* A device that loses the superblock itself is caught by reading it back. */
static void
body_lost_super(struct env *e)
{
    struct pstore *ps = store_create(e);
    struct sim_fault fault = { .kind = SIM_FAULT_LOST_WRITE, .op = IO_OP_WRITE, .sticky = true };
    struct pstore_checkpoint_info info = { .checkpoint_lsn = 77 };

    pstore_map_lock(ps);
    ck_ok(pstore_checkpoint_begin(ps));
    pstore_map_unlock(ps);
    ck_ok(pstore_checkpoint_write(ps));
    fault.nth = sim_disk_requests(disk, IO_OP_WRITE) + 1;
    sim_disk_fault(disk, &fault);
    ck_rc(pstore_checkpoint_commit(ps, &info), ASH_CORRUPT);
    ck_assert(io_poisoned(e->io));
    sim_disk_fault(disk, NULL);
    pstore_close(ps);
}

START_TEST(a_lost_superblock_write_poisons)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 4 };
    ck_ok(sim_disk_create(4, &disk));
    e.disk = disk;
    ck_ok(env_run(&e, body_lost_super));
    sim_disk_destroy(disk);
}
END_TEST

/* ---- What verification and inspection report ---- */

static void
body_damage(struct env *e)
{
    struct pstore *ps = store_create(e);
    uint64_t page = page_new(ps);

    ck_ok(page_write(ps, page, 0, 1));
    ck_ok(ps_checkpoint(ps, 0));
    ck_assert_uint_eq(verify(ps), 0);
    flip(100, 1); /* version 2 is in the slots 0 and 1 */
    ck_assert_uint_eq(verify(ps), 1);
    ck_assert_ptr_nonnull(strstr(found_message, "superblock"));
    flip(100, 1);
    uint8_t old[SUPER_SIZE], now[SUPER_SIZE];
    ck_ok(sim_disk_peek(disk, "db", "data-0000.ash", 0, now, sizeof(now)));
    ck_ok(sim_disk_peek(disk, "db", "data-0000.ash", 2 * SUPER_STRIDE, old, sizeof(old)));
    ck_ok(sim_disk_poke(disk, "db", "data-0000.ash", 0, old, sizeof(old)));
    ck_assert_uint_eq(verify(ps), 1); /* a write that was lost after it had been read back */
    ck_assert_ptr_nonnull(strstr(found_message, "not the newest"));
    ck_ok(sim_disk_poke(disk, "db", "data-0000.ash", 0, now, sizeof(now)));
    for (uint64_t unit = 0; unit < 4; unit++) { /* the page, a map page, a map root */
        flip(SUPER_AREA + unit * 4096 + 50, 1);
        ck_assert_uint_eq(verify(ps), unit < 3);
        flip(SUPER_AREA + unit * 4096 + 50, 1);
    }
    ck_assert_uint_eq(verify(ps), 0);
    pstore_close(ps);
}

START_TEST(damage_under_an_open_store_is_reported)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 4 };
    ck_ok(sim_disk_create(4, &disk));
    e.disk = disk;
    ck_ok(env_run(&e, body_damage));
    sim_disk_destroy(disk);
}
END_TEST

struct zone_sum {
    uint64_t zones, live, bytes, open;
};

static void
add_zone(void *arg, uint64_t zone, uint64_t offset, uint32_t live, uint32_t size, bool open)
{
    struct zone_sum *z = arg;
    ck_assert_uint_eq(zone, z->zones);
    ck_assert_uint_eq(offset, z->bytes);
    ck_assert_uint_le(live, size);
    z->zones++;
    z->live += live;
    z->bytes += size;
    z->open += open;
}

static void
body_zones(struct env *e)
{
    struct pstore *ps = store_create(e);
    struct pstore_stats s;
    struct zone_sum z = { 0 };

    for (unsigned i = 0; i < 40; i++)
        ck_ok(page_write(ps, page_new(ps), i % 8 == 0 ? 4 : 0, i)); /* both cursors */
    pstore_stats(ps, &s);
    pstore_zones(ps, add_zone, &z);
    ck_assert_uint_eq(z.zones, s.zones);
    ck_assert_uint_eq(z.live, s.live_bytes);
    ck_assert_uint_eq(z.bytes, s.file_bytes);
    ck_assert_uint_ge(z.open, 1);
    ck_assert_uint_le(z.open, 2);
    pstore_close(ps);
}

START_TEST(zones_add_up)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 4 };
    ck_ok(env_run(&e, body_zones));
}
END_TEST

static void
body_options(struct env *e)
{
    struct pstore_options o = ps_options(e);
    struct pstore *ps = NULL;

    o.zone_bytes = TEST_ZONE + 4096;
    ck_rc(pstore_create(&o, &ps), ASH_INVALID);
    o.zone_bytes = SUPER_ZONE_MAX + TEST_ZONE;
    ck_rc(pstore_create(&o, &ps), ASH_INVALID);
    o.zone_bytes = TEST_ZONE;
    o.read_only = true;
    ck_rc(pstore_create(&o, &ps), ASH_READ_ONLY);
    ck_assert(!pstore_exists(e->dir));
}

START_TEST(impossible_options_create_nothing)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 4 };
    ck_ok(env_run(&e, body_options));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("storage/pstore");
    TCase *c = tcase_create("pstore");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, pages_of_every_class_survive_reopening, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, a_batch_is_one_large_write, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, page_ids_are_reused_and_bounded, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, dead_space_is_written_again, IO_BACKEND_URING, IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, a_place_is_not_reused_before_its_release, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_loop_test(c, threads_write_and_free_side_by_side, IO_BACKEND_URING,
                        IO_BACKEND_SIM + 1);
    tcase_add_test(c, a_map_of_several_root_pages_is_read_back);
    tcase_add_test(c, a_full_disk_is_an_error_before_anything_changed);
    tcase_add_test(c, a_flipped_bit_in_any_superblock_loses_nothing);
    tcase_add_test(c, superblocks_that_are_all_bad_are_told_apart);
    tcase_add_test(c, an_unreadable_superblock_is_replaced_by_its_twin);
    tcase_add_test(c, a_flipped_bit_in_map_or_page_is_found);
    tcase_add_loop_test(c, a_lost_or_misdirected_write_is_found_at_the_next_read, 0, 2);
    tcase_add_test(c, an_old_version_in_the_right_place_is_found);
    tcase_add_test(c, a_lost_superblock_write_poisons);
    tcase_add_test(c, damage_under_an_open_store_is_reported);
    tcase_add_test(c, zones_add_up);
    tcase_add_test(c, impossible_options_create_nothing);
    suite_add_tcase(s, c);
    return s;
}

TEST_MAIN(suite)
