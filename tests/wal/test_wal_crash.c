/* SPDX-License-Identifier: Apache-2.0
 *
 * test_wal_crash.c - the log under power cuts, damage, failing writes and a full disk, on the
 * simulated disk.
 *
 * Power cuts: a run of several tasks appends, flushes and truncates.  Before every I/O event the
 * disk's possible contents after a cut at that moment are drawn (several policies) and set aside
 * with what had been acknowledged.  Each is then opened:
 *   - what is read is exactly what was appended, from the beginning to some record's end;
 *   - that end is not below what was acknowledged;
 *   - opening again gives the same; a new life appends, and everything of both lives is read;
 *   - for some, the power fails again at every event of that new life.
 */
#include "base/crc.h"

#include <errno.h>

#include "tests/wal/wal_env.h"

#define KNOWN_MAX  700
#define IMAGES_MAX 4000

/* What was appended in one life, by position; positions below `begin` belong to the parent. */
struct known {
    const struct known *parent;
    uint64_t begin;
    unsigned count;
    struct {
        uint64_t start, n;
        uint32_t size;
    } record[KNOWN_MAX];
};

/* What a cut at one moment left, and what had been promised until then. */
struct image {
    struct sim_disk *disk;
    uint64_t acked;
    struct wal_position from;
    uint64_t event;
    enum sim_cut_policy policy;
};

/* One life, under observation. */
struct life {
    struct env env;
    struct known *known;
    struct wal *wal;
    uint64_t acked;           /* highest LSN that a flush has promised */
    struct wal_position from; /* what a superblock would name */
    uint64_t expect_acked;    /* of the life before */
    struct image *images;
    unsigned image_count, image_every;
    uint64_t n; /* next record number */
    uint64_t end_read;
    unsigned running;
    bool errors_allowed;
    uint64_t seed;
};

static void
add_known(struct known *k, uint64_t start, uint64_t n, uint32_t size)
{
    ck_assert_uint_lt(k->count, KNOWN_MAX);
    unsigned i = k->count++;
    for (; i > 0 && k->record[i - 1].start > start; i--)
        k->record[i] = k->record[i - 1];
    k->record[i].start = start;
    k->record[i].n = n;
    k->record[i].size = size;
}

static bool
find_known(const struct known *k, uint64_t start, uint64_t *n_out, uint32_t *size_out)
{
    while (k != NULL && start < k->begin)
        k = k->parent;
    for (unsigned low = 0, high = k == NULL ? 0 : k->count; low < high;) {
        unsigned middle = (low + high) / 2;
        if (k->record[middle].start == start) {
            *n_out = k->record[middle].n;
            *size_out = k->record[middle].size;
            return true;
        }
        if (k->record[middle].start < start)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

static void
cut_hook(void *arg)
{
    struct life *l = arg;
    struct sim_disk *d = l->env.disk;
    uint64_t event = sim_disk_events(d);
    struct mem_arena *arena = mem_arena_suspend();
    for (unsigned p = SIM_CUT_RANDOM; p <= SIM_CUT_REVERSE && l->image_count < IMAGES_MAX; p++) {
        if (l->image_every > 1 && (event + p) % l->image_every != 0)
            continue;
        struct image *i = &l->images[l->image_count++];
        *i = (struct image){
            .acked = l->acked, .from = l->from, .event = event, .policy = (enum sim_cut_policy)p
        };
        ck_ok(sim_disk_cut(d, i->policy, l->seed + event * 4 + p, &i->disk));
    }
    mem_arena_resume(arena);
    sim_disk_cut_at(d, event + 1, cut_hook, l);
}

/* Appends a record and notes it.  false: the log has failed, which must be allowed. */
static bool
append_noted(struct life *l, uint32_t size, uint64_t *end_out)
{
    uint64_t start, n = l->n++;
    ash_rc rc = wenv_append(l->wal, n, size, &start, end_out);
    if (rc != ASH_OK) {
        ck_assert_msg(l->errors_allowed, "append: %s", err_current()->message);
        return false;
    }
    add_known(l->known, start, n, size);
    return true;
}

static bool
flush_noted(struct life *l, uint64_t end)
{
    ash_rc rc = wal_flush_to(l->wal, end);
    if (rc != ASH_OK) {
        ck_assert_msg(l->errors_allowed, "flush: %s", err_current()->message);
        return false;
    }
    l->acked = max_u64(l->acked, end);
    return true;
}

/* Moves the beginning to a record that is durable, then gives up what is below. */
static bool
truncate_noted(struct life *l, struct random *r)
{
    const struct known *k = l->known;
    if (k->count == 0)
        return true;
    unsigned i = (unsigned)random_below(r, k->count);
    uint64_t lsn = k->record[i].start;
    if (lsn + wal__padded(k->record[i].size) > l->acked || lsn < l->from.lsn)
        return true;
    struct wal_position from = { lsn, random_chance(r, 1, 2) ? wal_segment_of(l->wal, lsn) : 0 };
    l->from = from;
    ash_rc rc = wal_truncate(l->wal, lsn);
    ck_assert(rc == ASH_OK || l->errors_allowed);
    return rc == ASH_OK;
}

static void
worker(void *arg)
{
    struct life *l = arg;
    struct random r;
    random_init(&r, l->seed * 31 + l->running);
    uint32_t big = random_chance(&r, 1, 2) ? 40000 : 3000;
    for (unsigned i = 0; i < 30; i++) {
        uint64_t end;
        uint32_t size = 32 + (uint32_t)random_below(&r, random_chance(&r, 1, 5) ? big : 600);
        if (!append_noted(l, size, &end))
            break;
        if (random_chance(&r, 1, 3) && !flush_noted(l, end))
            break;
        if (random_chance(&r, 1, 6))
            wal_flush_async(l->wal, end);
        if (random_chance(&r, 1, 10) && !truncate_noted(l, &r))
            break;
        if (random_chance(&r, 1, 4))
            task_sleep_ns(random_below(&r, 300000));
    }
    l->running--;
}

static void
life_options(struct life *l, struct wal_options *o)
{
    *o = wenv_options(&l->env);
    o->writers = 1 + (unsigned)(l->seed % 4);
}

/* The first life. */
static void
work_body(struct env *e)
{
    struct life *l = (struct life *)e;
    struct task *t[3];
    struct wal_options o;
    life_options(l, &o);
    l->wal = wenv_create(e, &o);
    if (l->images != NULL)
        sim_disk_cut_at(e->disk, sim_disk_events(e->disk) + 1, cut_hook, l);
    for (unsigned i = 0; i < 3; i++) {
        l->running++;
        ck_ok(task_spawn(e->rt, "worker", worker, l, &t[i]));
    }
    for (unsigned i = 0; i < 3; i++)
        task_join(t[i]);
    uint64_t end = wal_reserved(l->wal);
    ash_rc rc = wal_close(l->wal);
    if (rc == ASH_OK)
        l->acked = end;
    else
        ck_assert_msg(l->errors_allowed, "close: %s", err_current()->message);
}

/* ---- Reading what is left ---- */

static void
see_known(void *arg, const struct wal_record *rec)
{
    struct life *l = arg;
    uint64_t n = 0, known_n = 0;
    uint32_t known_size = 0;
    ck_assert_uint_eq(rec->start, l->end_read);
    l->end_read = rec->end;
    ck_assert_msg(find_known(l->known, rec->start, &known_n, &known_size),
                  "a record at %llu that was never appended", (unsigned long long)rec->start);
    ck_assert(wenv_check((const uint8_t *)rec->head, rec->head->size, &n));
    ck_assert_uint_eq(n, known_n);
    ck_assert_uint_eq(rec->head->size, known_size);
}

/* For the failure's message: which segments there are. */
static void
dump_one(void *arg, const char *dir, const char *name, uint64_t size)
{
    struct sim_disk *d = arg;
    struct wal_segment_head h;
    ash_ignore(sim_disk_peek(d, dir, name, 0, &h, sizeof(h)));
    fprintf(stderr, "  %s %llu: number %llu, epoch %u, lsn %llu, durable %llu\n", name,
            (unsigned long long)size, (unsigned long long)h.segment, h.epoch,
            (unsigned long long)h.lsn, (unsigned long long)h.durable);
}

static void
dump(struct env *e, const struct life *l)
{
    fprintf(stderr, "read from %llu (hint %llu), acknowledged %llu\n",
            (unsigned long long)l->from.lsn, (unsigned long long)l->from.segment,
            (unsigned long long)l->expect_acked);
    sim_disk_list(e->disk, dump_one, e->disk);
}

/* Opens what is left twice, goes on in a new life, reads both lives. */
static void
check_body(struct env *e)
{
    struct life *l = (struct life *)e;
    struct wal_position end;
    struct wal_options o;
    life_options(l, &o);
    l->end_read = l->from.lsn;
    ash_rc rc = wenv_read(e, l->from, 0, see_known, l, NULL, NULL, &end);
    if (rc != ASH_NOT_FOUND)
        dump(e, l);
    ck_assert_msg(rc == ASH_NOT_FOUND, "%s: %s", ash_rc_name(rc), err_current()->message);
    ck_assert_msg(end.lsn >= l->expect_acked, "the log ends at %llu, acknowledged were %llu",
                  (unsigned long long)end.lsn, (unsigned long long)l->expect_acked);
    ck_assert_uint_eq(end.lsn, l->end_read);

    l->end_read = l->from.lsn;
    uint64_t first_end = end.lsn;
    rc = wenv_read(e, l->from, 0, see_known, l, &o, &l->wal, &end);
    ck_assert_msg(rc == ASH_NOT_FOUND, "%s: %s", ash_rc_name(rc), err_current()->message);
    ck_assert_uint_eq(end.lsn, first_end);
    l->acked = first_end;
    l->known->begin = first_end;
    if (l->images != NULL)
        sim_disk_cut_at(e->disk, sim_disk_events(e->disk) + 1, cut_hook, l);
    struct random r;
    random_init(&r, l->seed ^ 77);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t lsn;
        ck_assert(append_noted(l, 32 + (uint32_t)random_below(&r, i == 3 ? 60000 : 3000), &lsn));
        if (random_chance(&r, 1, 2))
            ck_assert(flush_noted(l, lsn));
        if (i == 5)
            ck_assert(truncate_noted(l, &r));
    }
    uint64_t reserved = wal_reserved(l->wal);
    ck_ok(wal_close(l->wal));
    l->acked = reserved;
    if (l->images != NULL)
        sim_disk_cut_at(e->disk, 0, NULL, NULL);

    l->end_read = l->from.lsn;
    rc = wenv_read(e, l->from, reserved, see_known, l, NULL, NULL, &end);
    if (rc != ASH_NOT_FOUND)
        dump(e, l);
    ck_assert_msg(rc == ASH_NOT_FOUND, "%s: %s", ash_rc_name(rc), err_current()->message);
    ck_assert_uint_eq(end.lsn, reserved);
}

static void
run_body(void *arg)
{
    env_body(arg);
}

/* Runs a life; its runtime (and with it all memory of the run) stays until life_end(). */
static ash_rc
life_run(struct life *l, void (*fn)(struct env *e))
{
    struct task_sim_options o = { .seed = l->seed, .step_max = 3000000 };
    l->env.kind = IO_BACKEND_SIM;
    l->env.fn = fn;
    snprintf(l->env.path, sizeof(l->env.path), "db");
    ck_ok(task_sim_create(&o, &l->env.rt));
    return task_sim_run(l->env.rt, run_body, &l->env);
}

static void
life_end(struct life *l)
{
    sim_disk_destroy(l->env.disk);
    task_runtime_destroy(l->env.rt);
}

static uint64_t images_checked;

static void check_images(struct life *from, unsigned deep_every);

static void
check_image(const struct life *from, struct image *i, unsigned deep_every)
{
    struct life *l = calloc(1, sizeof(*l));
    l->known = calloc(1, sizeof(*l->known));
    l->known->parent = from->known;
    l->known->begin = UINT64_MAX;
    l->env.disk = i->disk;
    l->seed = from->seed * 7919 + i->event;
    l->from = i->from;
    l->expect_acked = i->acked;
    l->n = from->n + 1000000;
    bool deep = deep_every > 0 && images_checked % deep_every == 0;
    images_checked++;
    if (deep) {
        l->images = calloc(IMAGES_MAX, sizeof(*l->images));
        l->image_every = 3;
    }
    sim_disk_latency(l->env.disk, 1000, 100000);
    ash_rc rc = life_run(l, check_body);
    ck_assert_msg(rc == ASH_OK, "seed %llu, cut at event %llu, policy %d: %s",
                  (unsigned long long)from->seed, (unsigned long long)i->event, i->policy,
                  err_current()->message);
    if (deep)
        check_images(l, 0);
    life_end(l);
    free(l->images);
    free(l->known);
    free(l);
}

static void
check_images(struct life *from, unsigned deep_every)
{
    for (unsigned i = 0; i < from->image_count; i++)
        check_image(from, &from->images[i], deep_every);
}

static struct life *
first_life(uint64_t seed, bool images)
{
    struct life *l = calloc(1, sizeof(*l));
    l->known = calloc(1, sizeof(*l->known));
    l->known->begin = 0;
    l->seed = seed;
    l->from = (struct wal_position){ WAL_LSN_FIRST, 1 };
    if (images) {
        l->images = calloc(IMAGES_MAX, sizeof(*l->images));
        l->image_every = 2;
    }
    ck_ok(sim_disk_create(seed, &l->env.disk));
    sim_disk_latency(l->env.disk, 10000, 400000);
    return l;
}

static void
free_life(struct life *l)
{
    life_end(l);
    free(l->images);
    free(l->known);
    free(l);
}

START_TEST(power_cut_loses_nothing_acknowledged_and_invents_nothing)
{
    uint64_t seed = test_seed(100 + (uint64_t)_i);
    struct life *l = first_life(seed, true);
    ash_rc rc = life_run(l, work_body);
    ck_assert_msg(rc == ASH_OK, "seed %llu: %s", (unsigned long long)seed, err_current()->message);
    ck_assert_uint_gt(l->image_count, 50);
    check_images(l, 20);
    free_life(l);
}
END_TEST

/* ---- Failing writes ---- */

START_TEST(failed_write_acknowledges_nothing_more)
{
    unsigned failed_runs = 0;
    for (uint64_t nth = _i == SIM_OP_DIR ? 2 : 1; nth < 400; nth += test_scale(3, 1)) {
        struct life *l = first_life(test_seed(500 + nth), false);
        struct sim_fault f = { .kind = SIM_FAULT_ERROR, .op = _i, .nth = nth, .sys_errno = EIO };
        sim_disk_fault(l->env.disk, &f);
        l->errors_allowed = true;
        ck_assert_int_eq(life_run(l, work_body), ASH_OK);
        bool reached = sim_disk_requests(l->env.disk, _i) >= nth;
        failed_runs += reached;
        sim_disk_fault(l->env.disk, NULL);
        struct image i = {
            .acked = l->acked, .from = l->from, .event = nth, .policy = SIM_CUT_NONE
        };
        ck_ok(sim_disk_cut(l->env.disk, i.policy, nth, &i.disk));
        check_image(l, &i, 0);
        free_life(l);
        if (!reached)
            break;
    }
    ck_assert_uint_gt(failed_runs, 0);
}
END_TEST

/* ---- Damage ---- */

struct layout {
    struct sim_disk *disk;
    char name[64][40];
    uint64_t size[64];
    unsigned count;
};

static void
note_layout(void *arg, const char *dir, const char *name, uint64_t size)
{
    struct layout *y = arg;
    uint64_t number;
    (void)dir;
    if (!wal__segment_parse(name, &number) || y->count == 64)
        return;
    snprintf(y->name[y->count], 40, "%s", name);
    y->size[y->count++] = size;
}

struct damage_read {
    struct env env;
    struct life *life;
    struct wal_position from;
    uint64_t require;
    ash_rc rc;
    uint64_t end;
};

static void
damage_body(struct env *e)
{
    struct damage_read *d = (struct damage_read *)e;
    struct wal_position end = { 0, 0 };
    d->life->end_read = d->from.lsn;
    d->rc = wenv_read(e, d->from, d->require, see_known, d->life, NULL, NULL, &end);
    d->end = end.lsn;
}

static ash_rc
read_damaged(struct life *l, struct sim_disk *disk, uint64_t require, uint64_t *end_out)
{
    struct damage_read d = { .env = { .kind = IO_BACKEND_SIM, .disk = disk, .seed = l->seed },
                             .life = l,
                             .from = l->from,
                             .require = require };
    ck_ok(env_run(&d.env, damage_body));
    *end_out = d.end;
    return d.rc;
}

/* Each 4 KiB piece of a cleanly closed log is damaged in turn.  When the superblock says how far
 * the log was durable every damage that loses a record is found.  Without that: found, or only the
 * unprovable end is lost. */
START_TEST(damage_below_durable_is_found)
{
    struct life *l = first_life(test_seed(900 + (uint64_t)_i), false);
    ck_ok(life_run(l, work_body));
    struct layout *y = calloc(1, sizeof(*y));
    sim_disk_list(l->env.disk, note_layout, y);
    ck_assert_uint_gt(y->count, 2);
    uint64_t end, silent = 0, found = 0;
    ck_rc(read_damaged(l, l->env.disk, l->acked, &end), ASH_NOT_FOUND);
    ck_assert_uint_eq(end, l->acked);
    for (unsigned s = 0; s < y->count; s++)
        for (uint64_t offset = 0; offset < y->size[s]; offset += 4096) {
            struct sim_disk *copy;
            uint8_t byte;
            uint64_t at = offset + (hash_u64(offset + s) % 60);
            ck_ok(sim_disk_cut(l->env.disk, SIM_CUT_ALL, 1, &copy));
            ck_ok(sim_disk_peek(copy, "db", y->name[s], at, &byte, 1));
            byte ^= (uint8_t)(1u << (offset / 4096 % 8));
            ck_ok(sim_disk_poke(copy, "db", y->name[s], at, &byte, 1));
            ash_rc rc = read_damaged(l, copy, l->acked, &end);
            ck_assert_msg(rc == ASH_CORRUPT || rc == ASH_VERSION_MISMATCH ||
                              (rc == ASH_NOT_FOUND && end == l->acked),
                          "%s+%llu: %s, end %llu of %llu", y->name[s], (unsigned long long)at,
                          ash_rc_name(rc), (unsigned long long)end, (unsigned long long)l->acked);
            rc = read_damaged(l, copy, 0, &end);
            ck_assert(rc == ASH_CORRUPT || rc == ASH_NOT_FOUND);
            if (rc == ASH_NOT_FOUND && end < l->acked)
                silent++;
            found += rc == ASH_CORRUPT;
            sim_disk_destroy(copy);
        }
    /* Only the last blocks in flight at the end lack evidence, each of at most 8 pieces here. */
    ck_assert_uint_gt(found, 0);
    ck_assert_uint_le(silent, 4u * 8u);
    free(y);
    free_life(l);
}
END_TEST

/* ---- Former lives of a file ---- */

static void
three_blocks_body(struct env *e)
{
    struct life *l = (struct life *)e;
    uint64_t end;
    l->wal = wenv_create(e, NULL);
    for (unsigned i = 0; i < 3; i++) {
        ck_assert(append_noted(l, 100, &end));
        ck_assert(flush_noted(l, end));
    }
    ck_ok(wal_close(l->wal));
}

/* A segment is begun anew (epoch 2) over a former life (epoch 1) of the same number, whose second
 * and third block fit to the last byte: only the epoch tells that they are stale. */
START_TEST(blocks_of_a_former_epoch_are_not_read)
{
    static const char name[] = "wal-0000000000000001.log";
    struct life *l = first_life(test_seed(5), false);
    uint8_t page[4096];
    uint64_t end;
    ck_ok(life_run(l, three_blocks_body));
    ck_rc(read_damaged(l, l->env.disk, l->acked, &end), ASH_NOT_FOUND);
    ck_ok(sim_disk_peek(l->env.disk, "db", name, 0, page, 4096));
    put_le32(page + offsetof(struct wal_segment_head, epoch), 2);
    put_le32(page + 4, crc32c(0, page + 8, 4096 - 8));
    ck_ok(sim_disk_poke(l->env.disk, "db", name, 0, page, 4096));
    ck_ok(sim_disk_peek(l->env.disk, "db", name, 4096, page, 4096));
    put_le32(page + offsetof(struct wal_block_head, epoch), 2);
    put_le32(page + 4, crc32c(0, page + 8,
                              WAL_BLOCK_HEAD - 8 +
                                  get_le32(page + offsetof(struct wal_block_head, payload))));
    ck_ok(sim_disk_poke(l->env.disk, "db", name, 4096, page, 4096));
    ck_rc(read_damaged(l, l->env.disk, 0, &end), ASH_NOT_FOUND);
    ck_assert_uint_eq(end, WAL_LSN_FIRST + wal__padded(100));
    ck_rc(read_damaged(l, l->env.disk, l->acked, &end), ASH_CORRUPT);
    free_life(l);
}
END_TEST

static void
large_segment_body(struct env *e)
{
    struct life *l = (struct life *)e;
    struct wal_options o = wenv_options(e);
    uint64_t end;
    o.segment_bytes = 16u << 20; /* more than is searched for evidence */
    l->wal = wenv_create(e, &o);
    ck_assert(append_noted(l, 100, &end));
    ck_assert(flush_noted(l, end));
    ck_ok(wal_close(l->wal));
}

static uint32_t epoch_read;

static void
read_epoch_body(struct env *e)
{
    struct wal_position from = { WAL_LSN_FIRST, 1 }, next;
    struct wal_segments *live;
    struct wal_reader *r;
    struct wal_record rec;
    ash_rc rc;
    ck_ok(wal_reader_open(e->io, e->dir, wenv_uuid, &from, &r));
    while ((rc = wal_reader_next(r, &rec)) == ASH_OK)
        continue;
    ck_rc(rc, ASH_NOT_FOUND);
    wal_reader_end(r, &next, &epoch_read, &live);
    ck_assert_uint_eq(next.segment, 2);
    wal_segments_free(live);
    wal_reader_close(r);
}

/* The second life's first write (head and block 1 of segment 2) is lost in a power cut, its second,
 * which was in flight with it, is not.  The third life begins segment 2 again, perhaps in that very
 * file: it must not take the second's epoch. */
START_TEST(a_life_that_left_one_block_keeps_its_epoch)
{
    struct life *l = first_life(test_seed(6), false);
    struct env e = { .kind = IO_BACKEND_SIM, .seed = 1 };
    uint8_t page[4096];
    ck_ok(life_run(l, large_segment_body));
    e.disk = l->env.disk;
    ck_ok(sim_disk_peek(l->env.disk, "db", "wal-0000000000000001.log", 4096, page, 4096));
    put_le32(page + offsetof(struct wal_block_head, epoch), 2);
    put_le32(page + offsetof(struct wal_block_head, segment), 2);
    put_le32(page + 4, crc32c(0, page + 8,
                              WAL_BLOCK_HEAD - 8 +
                                  get_le32(page + offsetof(struct wal_block_head, payload))));
    ck_ok(sim_disk_poke(l->env.disk, "db", "wal-0000000000000002.log", 8192, page, 4096));
    ck_ok(env_run(&e, read_epoch_body));
    ck_assert_uint_eq(epoch_read, 2);
    free_life(l);
}
END_TEST

/* ---- Full disk ---- */

struct full {
    struct env env;
    bool give_up;
};

static void
full_disk_body(struct env *e)
{
    struct full *f = (struct full *)e;
    struct life *l = calloc(1, sizeof(*l));
    uint64_t end = 0;
    ash_rc rc = ASH_OK;
    l->known = calloc(1, sizeof(*l->known));
    l->env = *e;
    struct wal_options o;
    life_options(l, &o);
    l->wal = wenv_create(e, &o);
    sim_disk_limit(e->disk, 5 * WENV_SEGMENT);
    while (rc == ASH_OK) {
        ck_assert(append_noted(l, 2000, &end));
        rc = wal_flush_to(l->wal, end);
    }
    ck_assert_int_eq(rc, ASH_NO_SPACE);
    ck_assert_int_eq(wal_room(l->wal), ASH_NO_SPACE);
    ck_assert(!io_poisoned(e->io));
    ck_assert_int_eq(wal_flush_to(l->wal, end), ASH_NO_SPACE);
    if (f->give_up) {
        l->errors_allowed = true;
        while (append_noted(l, 60000, &end))
            ;
        ck_assert(io_poisoned(e->io));
        ck_assert_int_ne(wal_close(l->wal), ASH_OK);
    } else {
        ck_assert(append_noted(l, 2000, &end));
        sim_disk_limit(e->disk, 0);
        task_sleep_ns(2 * WAL_ROOM_RETRY_NS);
        ash_ignore(wal_room(l->wal)); /* asks for another attempt */
        task_sleep_ns(2 * WAL_ROOM_RETRY_NS);
        ck_ok(wal_room(l->wal));
        ck_ok(wal_flush_to(l->wal, end));
        ck_ok(wal_close(l->wal));
        l->from = (struct wal_position){ WAL_LSN_FIRST, 1 };
        l->end_read = l->from.lsn;
        ck_rc(wenv_read(e, l->from, end, see_known, l, NULL, NULL, NULL), ASH_NOT_FOUND);
        ck_assert_uint_eq(l->end_read, end);
    }
    free(l->known);
    free(l);
}

START_TEST(full_disk_is_an_error_that_passes)
{
    struct full f = { .env = { .kind = IO_BACKEND_SIM, .seed = test_seed(7) }, .give_up = _i == 1 };
    ck_ok(env_run(&f.env, full_disk_body));
}
END_TEST

/* ---- No memory ---- */

static void
no_memory_body(struct env *e)
{
    struct wal_options o = wenv_options(e);
    struct wal_position at = { WAL_LSN_FIRST, 1 };
    struct wal *wal = wenv_create(e, &o);
    uint64_t start, end, n;
    uint32_t size;
    uint8_t buf[256];
    ck_ok(wenv_append(wal, 1, 200, &start, &end));
    ck_ok(wal_flush_to(wal, end));
    ck_ok(wal_close(wal));
    for (uint64_t nth = 1;; nth++) {
        struct wal_reader *r = NULL;
        struct wal_segments *live = NULL;
        struct wal_record rec;
        uint32_t epoch;
        ck_assert_uint_lt(nth, 200);
        mem_fail_at(nth, false);
        ash_rc rc = wal_reader_open(e->io, e->dir, wenv_uuid, &at, &r);
        while (rc == ASH_OK)
            rc = wal_reader_next(r, &rec);
        if (rc == ASH_NOT_FOUND) {
            struct wal_position next;
            wal_reader_end(r, &next, &epoch, &live);
            o.epoch = epoch + 1;
            rc = wal_open(&o, &next, live, &wal);
        }
        bool reached = mem_fail_count() >= nth;
        mem_fail_at(0, false);
        wal_reader_close(r);
        if (rc != ASH_OK) {
            ck_assert_int_eq(rc, ASH_NO_MEMORY);
            continue;
        }
        ck_ok(wal_read(wal, start, buf, sizeof(buf), &size));
        ck_assert(wenv_check(buf, size, &n));
        ck_ok(wal_close(wal));
        if (!reached)
            return;
    }
}

/* Every allocation of opening fails once: an error that says so, and the next attempt works. */
START_TEST(opening_survives_each_failed_allocation)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(7) };
    ck_ok(env_run(&e, no_memory_body));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("wal crash");
    TCase *t = tcase_create("crash");
    tcase_set_timeout(t, 600);
    tcase_add_loop_test(t, power_cut_loses_nothing_acknowledged_and_invents_nothing, 0,
                        (int)test_scale(8, 200));
    tcase_add_loop_test(t, failed_write_acknowledges_nothing_more, IO_OP_WRITE, SIM_OP_COUNT);
    tcase_add_loop_test(t, damage_below_durable_is_found, 0, 4);
    tcase_add_test(t, opening_survives_each_failed_allocation);
    tcase_add_test(t, blocks_of_a_former_epoch_are_not_read);
    tcase_add_test(t, a_life_that_left_one_block_keeps_its_epoch);
    tcase_add_loop_test(t, full_disk_is_an_error_that_passes, 0, 2);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
