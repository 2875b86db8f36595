/* SPDX-License-Identifier: Apache-2.0
 *
 * test_wal_mtr.c - mini-transactions over a real pool and page store, in simulation: what redo
 * makes of the log is what is in the pool.
 */
#include "buffer/buffer.h"
#include "wal/wal_mtr.h"

#include <signal.h>

#include "tests/wal/wal_env.h"

#define PAGES 12
#define TREE  9

struct store {
    struct pstore *ps;
    struct buf_pool *pool;
    struct wal *wal;
};

/* ---- What the pool needs from the log ---- */

static ash_rc
log_flush_to(void *ctx, uint64_t lsn)
{
    return wal_flush_to(ctx, lsn);
}
static uint64_t
log_durable(void *ctx)
{
    return wal_durable(ctx);
}
static ash_rc
log_append_map(void *ctx, const struct pstore_write *writes, unsigned count, uint64_t *end_out)
{
    struct wal_record_head h = { .size = sizeof(h), .type = WAL_REC_NOTE };
    struct wal_part part = { &h, sizeof(h) };
    uint64_t start;
    (void)writes;
    (void)count;
    return wal_append(ctx, &part, 1, &start, end_out);
}

static void
store_open(const struct env *e, struct store *s)
{
    struct pstore_options po = {
        .io = e->io, .dir = e->dir, .zone_bytes = 256u << 10, .page_id_max = 4096
    };
    ck_ok(pstore_create(&po, &s->ps));
    struct buf_options bo = { .bytes = 1u << 20,
                              .io = e->io,
                              .rt = e->rt,
                              .pstore = s->ps,
                              .writers = 1,
                              .page_id_max = 4096 };
    ck_ok(buf_create(&bo, &s->pool));
    s->wal = wenv_create(e, NULL);
    struct buf_log_ops log = { s->wal, log_flush_to, log_durable, log_append_map };
    ck_ok(buf_start(s->pool, &log));
}

static void
store_close(struct store *s)
{
    buf_stop(s->pool);
    ck_ok(wal_close(s->wal));
    buf_destroy(s->pool);
    pstore_close(s->ps);
}

/* ---- Making changes ---- */

static void
init_page(struct mtr *m, struct store *s, struct buf_page *p)
{
    uint8_t type = PAGE_TYPE_VALUE;
    struct wal_part part = { &type, 1 };
    ck_ok(buf_new(s->pool, PAGE_TYPE_VALUE, 0, TREE, p));
    ck_ok(mtr_change(m, p, WAL_OP_PAGE_INIT, &part, 1));
}

static void
put_bytes(struct mtr *m, struct buf_page *p, uint32_t offset, const void *bytes, uint32_t size)
{
    uint32_t head[2] = { offset, 0 };
    struct wal_part parts[2] = { { head, 8 }, { bytes, size } };
    ck_ok(mtr_change(m, p, WAL_OP_PAGE_BYTES, parts, 2));
    memcpy(p->data + offset, bytes, size);
}

static void
put_random(struct mtr *m, struct buf_page *p, struct random *r)
{
    uint8_t bytes[600];
    uint32_t size = (uint32_t)random_below(r, sizeof(bytes));
    for (uint32_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)random_u64(r);
    put_bytes(m, p,
              (uint32_t)(sizeof(struct page_head) +
                         random_below(r, PAGE_SIZE_MIN - sizeof(struct page_head) - size)),
              bytes, size);
}

struct replay {
    uint8_t *image[64];
    uint64_t freed;
};

/* Redoes each record on images of its own. */
static void
replay(void *arg, const struct wal_record *rec)
{
    struct replay *x = arg;
    struct wal_change c;
    uint32_t pos = 0;
    unsigned changes = 0;
    for (; wal_record_change(rec, &pos, &c); changes++) {
        ck_assert_uint_lt(c.head->page, 64);
        ck_assert_uint_eq(c.head->tree, TREE);
        if (c.head->op == WAL_OP_PAGE_FREE)
            x->freed = c.head->page;
        if (x->image[c.head->page] == NULL)
            x->image[c.head->page] = mem_zalloc(MEM_TEST, PAGE_SIZE_MIN);
        ck_ok(wal_redo_apply(x->image[c.head->page], PAGE_SIZE_MIN, &c, rec->start));
        ((struct page_head *)(void *)x->image[c.head->page])->lsn = rec->end;
    }
    ck_assert_uint_eq(changes, rec->head->changes);
}

static void
redo_equals_live_body(struct env *e)
{
    struct store s;
    struct random r;
    struct buf_page p[PAGES];
    struct mtr m;
    struct mtr_record record = { .type = WAL_REC_MTR };
    uint64_t start, end, last = 0;
    store_open(e, &s);
    random_init(&r, e->seed);
    uint64_t ids[PAGES];
    mtr_begin(&m, s.wal, s.pool);
    for (unsigned i = 0; i < PAGES; i++) {
        init_page(&m, &s, &p[i]);
        ids[i] = p[i].page;
    }
    ck_ok(mtr_commit(&m, &record, &start, &end));
    ck_assert_uint_eq(start, WAL_LSN_FIRST);
    ck_assert_uint_le(buf_oldest_dirty(s.pool),
                      start); /* redo would begin at the change or before */
    for (unsigned i = 0; i < PAGES; i++) {
        ck_assert_uint_eq(((struct page_head *)(void *)p[i].data)->lsn, end);
        buf_unlatch_x(s.pool, &p[i]);
    }
    for (unsigned round = 0; round < 200; round++) {
        unsigned first = (unsigned)random_below(&r, PAGES - 3),
                 count = 1 + (unsigned)random_below(&r, 3);
        mtr_begin(&m, s.wal, s.pool);
        for (unsigned i = 0; i < count; i++)
            ck_ok(buf_latch_x(s.pool, ids[first + i], &p[i]));
        for (unsigned i = 0; i < 6; i++)
            put_random(&m, &p[random_below(&r, count)], &r);
        record.type = round % 3 == 0 ? WAL_REC_MTR : round % 3 == 1 ? WAL_REC_ROW : WAL_REC_CLR;
        record.txn = round;
        record.prev = last;
        record.undo_next = last;
        record.undo[0] = (struct wal_part){ "before", 6 };
        record.undo[1] = (struct wal_part){ &round, sizeof(round) };
        record.undo_count = 2;
        ck_ok(mtr_commit(&m, &record, &last, &end));
        for (unsigned i = 0; i < count; i++)
            buf_unlatch_x(s.pool, &p[i]);
    }
    /* One page goes. */
    mtr_begin(&m, s.wal, s.pool);
    ck_ok(buf_latch_x(s.pool, ids[PAGES - 1], &p[0]));
    ck_ok(buf_latch_x(s.pool, ids[0], &p[1]));
    put_random(&m, &p[1], &r);
    ck_ok(mtr_change(&m, &p[0], WAL_OP_PAGE_FREE, NULL, 0));
    record.type = WAL_REC_MTR;
    ck_ok(mtr_commit(&m, &record, &start, &end));
    buf_unlatch_x(s.pool, &p[1]);
    ck_assert(!pstore_page_allocated(s.ps, ids[PAGES - 1]));
    ck_ok(wal_flush_to(s.wal, end));

    struct replay x = { .freed = 0 };
    struct wal_position from = { WAL_LSN_FIRST, 1 };
    ck_rc(wenv_read(e, from, end, replay, &x, NULL, NULL, NULL), ASH_NOT_FOUND);
    ck_assert_uint_eq(x.freed, ids[PAGES - 1]);
    for (unsigned i = 0; i < PAGES - 1; i++) {
        ck_ok(buf_latch_s(s.pool, ids[i], &p[0]));
        struct page_head *a = (struct page_head *)(void *)x.image[ids[i]];
        const struct page_head *b = (const struct page_head *)(const void *)p[0].data;
        a->crc32c = b->crc32c;
        a->write_seq = b->write_seq;
        a->database = b->database;
        ck_assert_mem_eq(a, b, PAGE_SIZE_MIN);
        buf_unlatch_s(s.pool, &p[0]);
    }
    for (unsigned i = 0; i < 64; i++)
        mem_free(MEM_TEST, x.image[i]);
    store_close(&s);
}

static void
run(void (*fn)(struct env *e), uint64_t seed)
{
    struct env e = { .kind = IO_BACKEND_SIM, .seed = test_seed(seed) };
    ck_ok(env_run(&e, fn));
}

START_TEST(redo_of_the_log_makes_the_pages_of_the_pool)
{
    run(redo_equals_live_body, 1 + (uint64_t)_i);
}
END_TEST

/* ---- Undo parts, patches ---- */

static void
patch_start(void *arg, uint64_t start)
{
    struct buf_page *p = arg;
    memcpy(p->data + 512, &start, 8);
}

#define TEST_OP_STAMP \
    63 /* puts the record's start LSN at 512, after the bytes of the payload at 520 */
static ash_rc
redo_stamp(uint8_t *page, uint32_t size, uint16_t op, const uint8_t *payload, uint32_t payload_size,
           uint64_t start)
{
    (void)size;
    (void)op;
    memcpy(page + 512, &start, 8);
    memcpy(page + 520, payload, payload_size);
    return ASH_OK;
}

static void
patch_body(struct env *e)
{
    struct store s;
    struct buf_page p;
    struct mtr m;
    uint8_t image[256], undo[13] = "thirteen byte";
    uint32_t size;
    struct mtr_record record = {
        .type = WAL_REC_ROW, .txn = 5, .prev = 0, .undo = { { undo, 13 } }, .undo_count = 1
    };
    struct wal_part part = { "value", 5 };
    uint64_t start, end, stamped;
    struct wal_record rec;
    struct wal_change c;
    store_open(e, &s);
    wal_redo_register(TEST_OP_STAMP, TEST_OP_STAMP, redo_stamp);
    mtr_begin(&m, s.wal, s.pool);
    init_page(&m, &s, &p);
    ck_ok(mtr_change(&m, &p, (enum wal_op)TEST_OP_STAMP, &part, 1));
    memcpy(p.data + 520, "value", 5);
    ck_ok(mtr_commit_patch(&m, &record, patch_start, &p, &start, &end));
    memcpy(&stamped, p.data + 512, 8);
    ck_assert_uint_eq(stamped, start);
    buf_unlatch_x(s.pool, &p);
    ck_ok(wal_read(s.wal, start, image, sizeof(image), &size));
    ck_ok(wal_record_open(image, size, start, &rec));
    ck_assert_uint_eq(rec.undo_size, 13);
    ck_assert_mem_eq(rec.undo, undo, 13);
    ck_assert_uint_eq(rec.end, end);
    uint32_t pos = 0;
    ck_assert(wal_record_change(&rec, &pos, &c));
    ck_assert_uint_eq(c.head->op, WAL_OP_PAGE_INIT);
    ck_assert(wal_record_change(&rec, &pos, &c));
    ck_assert_uint_eq(c.head->op, TEST_OP_STAMP);
    ck_assert_mem_eq(c.payload, "value", 5);
    ck_assert(!wal_record_change(&rec, &pos, &c));
    store_close(&s);
}

START_TEST(row_record_carries_undo_part_and_its_own_position)
{
    run(patch_body, 3);
}
END_TEST

/* ---- Limits and failure ---- */

static void
limits_body(struct env *e)
{
    struct store s;
    struct buf_page p;
    struct mtr m;
    struct mtr_record record = { .type = WAL_REC_MTR };
    uint8_t bytes[1000] = { 1 };
    uint64_t start, end;
    store_open(e, &s);
    mtr_begin(&m, s.wal, s.pool);
    init_page(&m, &s, &p);
    ck_ok(mtr_commit(&m, &record, &start, &end));
    mtr_begin(&m, s.wal, s.pool);
    for (unsigned i = 0; i < 150; i++)
        put_bytes(&m, &p, 1000, bytes, sizeof(bytes)); /* far beyond what is inline */
    ck_assert_int_eq(mtr_reserve(&m, WAL_RECORD_MAX), ASH_TOO_LARGE);
    ck_ok(mtr_reserve(&m, 2000));
    mem_fail_at(1, true);
    put_bytes(&m, &p, 1000, bytes, sizeof(bytes)); /* secured: needs no memory */
    mem_fail_at(0, false);
    ck_ok(mtr_commit(&m, &record, &start, &end));
    mtr_begin(&m, s.wal, s.pool);
    struct wal_part part = { bytes, 8 };
    ck_ok(mtr_change(&m, &p, WAL_OP_PAGE_BYTES, &part, 1));
    mtr_abort(&m); /* nothing was changed in memory */
    ck_assert_uint_eq(wal_reserved(s.wal), end);
    buf_unlatch_x(s.pool, &p);
    store_close(&s);
}

START_TEST(reserved_room_cannot_fail_and_abort_leaves_nothing)
{
    run(limits_body, 4);
}
END_TEST

#ifdef ASH_DEBUG
static void
wrong_redo_body(struct env *e)
{
    struct store s;
    struct buf_page p;
    struct mtr m;
    struct mtr_record record = { .type = WAL_REC_MTR };
    uint64_t start, end;
    store_open(e, &s);
    mtr_begin(&m, s.wal, s.pool);
    init_page(&m, &s, &p);
    put_bytes(&m, &p, 100, "abc", 3);
    p.data[200] = 1; /* nobody logged that */
    ash_ignore(mtr_commit(&m, &record, &start, &end));
}

START_TEST(unlogged_change_is_caught)
{
    run(wrong_redo_body, 5);
}
END_TEST
#endif

/* Redo trusts no payload. */
START_TEST(redo_refuses_payloads_that_do_not_fit)
{
    uint8_t page[PAGE_SIZE_MIN] __attribute__((aligned(8))) = { 0 };
    struct {
        struct wal_change_head h;
        uint32_t offset, zero;
        uint8_t bytes[64];
    } c = { .h = { .page = 1, .op = WAL_OP_PAGE_BYTES } };
    struct wal_change change = { &c.h, (const uint8_t *)&c.offset };
    static const struct {
        uint32_t size, offset;
    } bad[] = { { 7, 100 }, { 0, 100 }, { 8, 4097 }, { 16, 4089 }, { 16, 0 }, { 9, UINT32_MAX } };
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(bad); i++) {
        c.h.size = bad[i].size;
        c.offset = bad[i].offset;
        ck_assert_int_eq(wal_redo_apply(page, sizeof(page), &change, 4096), ASH_CORRUPT);
    }
    c.h.size = 8 + 64;
    c.offset = 4032;
    ck_ok(wal_redo_apply(page, sizeof(page), &change, 4096));
    c.h.op = WAL_OP_PAGE_INIT;
    ck_assert_int_eq(wal_redo_apply(page, sizeof(page), &change, 4096), ASH_CORRUPT);
    c.h.size = 1;
    c.h.page_class = 1;
    ck_assert_int_eq(wal_redo_apply(page, sizeof(page), &change, 4096), ASH_CORRUPT);
    c.h.op = 62; /* nobody's */
    ck_assert_int_eq(wal_redo_apply(page, sizeof(page), &change, 4096), ASH_CORRUPT);
}
END_TEST

/* Every prefix and every flipped bit of a record's head and change heads is refused, or leaves a
 * record that is inside its bytes. */
START_TEST(record_check_accepts_nothing_that_reaches_outside)
{
    struct {
        struct wal_record_head h;
        uint8_t undo[16];
        struct wal_change_head c;
        uint8_t payload[16];
    } rec, bad;
    memset(&rec, 0, sizeof(rec));
    rec.h = (struct wal_record_head){
        .size = sizeof(rec), .type = WAL_REC_ROW, .changes = 1, .txn = 1, .link = 13
    };
    rec.c = (struct wal_change_head){ .page = 5, .size = 11, .op = WAL_OP_PAGE_BYTES };
    ck_ok(wal_record_check(&rec, sizeof(rec)));
    for (uint32_t size = 0; size < sizeof(rec); size++)
        ck_assert_int_eq(wal_record_check(&rec, size), ASH_CORRUPT);
    for (unsigned bit = 0; bit < sizeof(rec) * 8; bit++) {
        struct wal_record r;
        struct wal_change c;
        uint32_t pos = 0;
        bad = rec;
        ((uint8_t *)&bad)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (wal_record_open(&bad, sizeof(bad), 4096, &r) != ASH_OK)
            continue;
        ck_assert_uint_le(32 + r.undo_size, sizeof(bad));
        while (wal_record_change(&r, &pos, &c))
            ck_assert(c.payload + c.head->size <= (const uint8_t *)(&bad + 1));
    }
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("wal mtr");
    TCase *t = tcase_create("mtr");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, redo_of_the_log_makes_the_pages_of_the_pool, 0, 4);
    tcase_add_test(t, row_record_carries_undo_part_and_its_own_position);
    tcase_add_test(t, reserved_room_cannot_fail_and_abort_leaves_nothing);
    tcase_add_test(t, redo_refuses_payloads_that_do_not_fit);
    tcase_add_test(t, record_check_accepts_nothing_that_reaches_outside);
#ifdef ASH_DEBUG
    if (test_forks())
        tcase_add_test_raise_signal(t, unlogged_change_is_caught, SIGABRT);
#endif
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
