/* SPDX-License-Identifier: Apache-2.0
 *
 * buffer_env.h - a pool over a page store and a log made for tests, on a real directory or in a
 * simulation.
 *
 * The store defines the pstore_ functions that the pool calls: pages are written to fresh places of
 * one file, through the disk manager, and read back from where its map says; freed places are never
 * reused.  It checks what the pool must keep: MAP records only for allocated pages, old places
 * given up only by records that are durable.  The log is two numbers; flushing takes a while.
 */
#ifndef ASH_TESTS_BUFFER_ENV_H
#define ASH_TESTS_BUFFER_ENV_H

#include "base/bits.h"
#include "base/clock.h"
#include "buffer/buffer_int.h"

#include "tests/storage/io_env.h"

#ifndef TOY_PAGES_MAX
    #define TOY_PAGES_MAX 4096u
#endif

/* ---- The store ---- */

struct toy_page {
    _Atomic uint64_t offset; /* of its current place; 0: none */
    _Atomic uint8_t page_class;
    _Atomic bool allocated;
    /* for the check of the dirty-page table: page LSN in the place that a crash now leads to, and
     * in the one being made durable */
    uint64_t lsn_durable, lsn_next, map_next;
};

struct pstore {
    struct io_file *file;
    struct task_mutex map_lock, space_lock;
    struct toy_page *page; /* TOY_PAGES_MAX */
    uint64_t next, limit;  /* bytes of the file */
    _Atomic uint64_t high;
    _Atomic uint64_t cancelled, reads;
    uint64_t fail_write_at; /* this call fails with fail_rc */
    uint64_t writes;
    ash_rc fail_rc;
    bool fail_sticky, redo;
    const struct toy_log *log;
    uint64_t *lsn_at; /* by offset / 4096: page LSN of the image there */
};

struct toy_log {
    struct task_mutex lock;
    _Atomic uint64_t reserved, durable;
    uint64_t flushes, map_records;
    bool fail_flush, fail_append;
    struct pstore *ps;
};

ash_rc
pstore_page_alloc(struct pstore *ps, uint64_t *page_out)
{
    task_mutex_lock(&ps->space_lock);
    uint64_t page = PAGE_ID_FIRST;
    while (page < TOY_PAGES_MAX && ps->page[page].allocated)
        page++;
    ash_assert(page < TOY_PAGES_MAX);
    ps->page[page].allocated = true;
    ps->high = max_u64(ps->high, page + 1);
    task_mutex_unlock(&ps->space_lock);
    *page_out = page;
    return ASH_OK;
}

void
pstore_page_unalloc(struct pstore *ps, uint64_t page)
{
    task_mutex_lock(&ps->space_lock);
    ash_assert(ps->page[page].allocated && ps->page[page].offset == 0);
    ps->page[page].allocated = false;
    task_mutex_unlock(&ps->space_lock);
}

void
pstore_page_free(struct pstore *ps, uint64_t page, uint64_t lsn)
{
    (void)lsn;
    ash_assert(!task_mutex_trylock(&ps->map_lock)); /* the caller has it */
    task_mutex_lock(&ps->space_lock);
    ash_assert(ps->page[page].allocated);
    ps->page[page].offset = 0;
    ps->page[page].lsn_durable = ps->page[page].lsn_next = ps->page[page].map_next = 0;
    ps->page[page].allocated = false;
    task_mutex_unlock(&ps->space_lock);
}

void
pstore_page_mark(struct pstore *ps, uint64_t page)
{
    ps->page[page].allocated = true;
}

uint64_t
pstore_page_high(const struct pstore *ps)
{
    return ps->high;
}

bool
pstore_page_allocated(const struct pstore *ps, uint64_t page)
{
    return ps->page[page].allocated;
}

bool
pstore_locate(const struct pstore *ps, uint64_t page, struct map_entry *entry_out,
              uint8_t *class_out)
{
    uint64_t offset = page < TOY_PAGES_MAX ? ps->page[page].offset : 0;
    if (offset == 0)
        return false;
    *entry_out = map_entry_make(offset, PAGE_CLASS_SIZE(ps->page[page].page_class), 0);
    *class_out = ps->page[page].page_class;
    return true;
}

ash_rc
pstore_read_begin(struct pstore *ps, uint64_t page, uint8_t page_class, void *buf,
                  enum io_class class, struct io_req *req_out, struct map_entry *entry_out)
{
    uint8_t found;
    if (!pstore_locate(ps, page, entry_out, &found) || found != page_class)
        return ash_raise(ASH_CORRUPT, "page %llu has no place", (unsigned long long)page);
    memset(req_out, 0, sizeof(*req_out));
    req_out->file = ps->file;
    req_out->op = IO_OP_READ;
    req_out->class = class;
    req_out->offset = map_entry_offset(*entry_out);
    req_out->buf = buf;
    req_out->bytes = PAGE_CLASS_SIZE(page_class);
    return ASH_OK;
}

ash_rc
pstore_read_end(struct pstore *ps, uint64_t page, uint8_t page_class, const void *buf,
                struct map_entry entry)
{
    const struct page_head *h = buf;
    (void)ps;
    (void)entry;
    if (h->page != page || h->page_class != page_class)
        return ash_raise(ASH_CORRUPT, "page %llu holds another page", (unsigned long long)page);
    return ASH_OK;
}

ash_rc
pstore_read(struct pstore *ps, uint64_t page, uint8_t page_class, void *buf, enum io_class class)
{
    struct io_req req, *reqs[1] = { &req };
    struct map_entry entry;

    ps->reads++;
    ash_rc rc = pstore_read_begin(ps, page, page_class, buf, class, &req, &entry);
    if (rc != ASH_OK)
        return rc;
    io_submit(reqs, 1);
    rc = io_wait(&req);
    return rc != ASH_OK ? rc : pstore_read_end(ps, page, page_class, buf, entry);
}

ash_rc
pstore_write(struct pstore *ps, struct pstore_write *writes, unsigned count, uint64_t durable_lsn,
             enum io_class class)
{
    task_mutex_lock(&ps->space_lock);
    uint64_t call = ++ps->writes;
    bool fail = ps->fail_write_at != 0 &&
                (call == ps->fail_write_at || (ps->fail_sticky && call > ps->fail_write_at));
    task_mutex_unlock(&ps->space_lock);
    if (fail)
        return ash_raise(ps->fail_rc, "a write that fails on purpose");
    for (unsigned i = 0; i < count; i++) {
        uint32_t size = PAGE_CLASS_SIZE(writes[i].page_class);
        const struct page_head *h = writes[i].image;
        ash_assert(h->page == writes[i].page && h->page_class == writes[i].page_class);
        ash_assert(h->lsn <= durable_lsn && h->lsn <= atomic_load(&ps->log->durable));
        task_mutex_lock(&ps->space_lock);
        uint64_t offset = ps->next;
        ps->next += size;
        ash_assert(ps->next <= ps->limit);
        ps->lsn_at[offset / 4096] = h->lsn;
        task_mutex_unlock(&ps->space_lock);
        ash_rc rc = io_write(ps->file, writes[i].image, size, offset, class);
        if (rc != ASH_OK)
            return rc;
        writes[i].entry = map_entry_make(offset, size, 0);
    }
    return io_flush(ps->file, class);
}

void
pstore_write_cancel(struct pstore *ps, const struct pstore_write *writes, unsigned count)
{
    (void)writes;
    ps->cancelled += count;
}

void
pstore_map_lock(struct pstore *ps)
{
    task_mutex_lock(&ps->map_lock);
}

void
pstore_map_unlock(struct pstore *ps)
{
    task_mutex_unlock(&ps->map_lock);
}

/* Page LSN of what a crash at this moment would leave of the page. */
static uint64_t
toy_durable_lsn(struct pstore *ps, uint64_t page)
{
    struct toy_page *p = &ps->page[page];
    if (p->map_next != 0 && p->map_next <= atomic_load(&ps->log->durable)) {
        p->lsn_durable = p->lsn_next;
        p->map_next = 0;
    }
    return p->lsn_durable;
}

void
pstore_install(struct pstore *ps, uint64_t page, struct map_entry entry, uint64_t lsn)
{
    toy_durable_lsn(ps, page);
    ps->page[page].lsn_next = ps->lsn_at[map_entry_offset(entry) / 4096];
    ps->page[page].map_next = lsn;
    ash_assert(ps->page[page].allocated); /* no MAP record follows a FREE record */
    ps->page[page].page_class = (uint8_t)log2_floor(map_entry_length(entry) / PAGE_SIZE_MIN);
    ps->page[page].offset = map_entry_offset(entry);
}

void
pstore_release(struct pstore *ps, uint64_t durable_lsn)
{
    ash_assert(ps->redo || durable_lsn <= atomic_load(&ps->log->durable)); /* I1 */
}

/* ---- The log ---- */

__attribute__((unused)) static uint64_t
toy_append(struct toy_log *log, uint64_t bytes)
{
    return atomic_fetch_add(&log->reserved, bytes) + bytes;
}

static ash_rc
toy_flush_to(void *ctx, uint64_t lsn)
{
    struct toy_log *log = ctx;
    ash_rc rc = ASH_OK;

    task_mutex_lock(&log->lock);
    if (atomic_load(&log->durable) < lsn) {
        uint64_t end = atomic_load(&log->reserved);
        ash_assert(lsn <= end);
        log->flushes++;
        if (log->fail_flush)
            rc = ash_raise(ASH_IO, "a log write that fails on purpose");
        else if (task_sim_active)
            task_sleep_ns(20000);
        if (rc == ASH_OK)
            atomic_store(&log->durable, end);
    }
    task_mutex_unlock(&log->lock);
    return rc;
}

static uint64_t
toy_durable(void *ctx)
{
    struct toy_log *log = ctx;
    return atomic_load(&log->durable);
}

static ash_rc
toy_append_map(void *ctx, const struct pstore_write *writes, unsigned count, uint64_t *end_out)
{
    struct toy_log *log = ctx;
    if (log->fail_append)
        return ash_raise(ASH_POISONED, "a log append that fails on purpose");
    for (unsigned i = 0; i < count; i++)
        ash_assert(log->ps->page[writes[i].page].allocated);
    *end_out = toy_append(log, 32 + 24 * count);
    log->map_records++;
    task_point();
    return ASH_OK;
}

/* ---- A pool ---- */

struct world {
    struct env *env;
    struct pstore ps;
    struct toy_log log;
    struct buf_pool *pool;
    uint64_t bytes;
    unsigned writers;
    uint64_t file_bytes;
    _Atomic uint64_t others; /* what the rest of the engine would use of the budget */
};

/* Of the next pool; 0: it keeps its size. */
static uint64_t world_budget;

static uint64_t
toy_others(void *ctx)
{
    struct world *w = ctx;
    return atomic_load(&w->others);
}

/* Log ops as recovery's redo has them: everything is durable, places wait for the next checkpoint.
 * */
static ash_rc
toy_redo_flush_to(void *ctx, uint64_t lsn)
{
    (void)ctx;
    (void)lsn;
    return ASH_OK;
}

static uint64_t
toy_redo_durable(void *ctx)
{
    (void)ctx;
    return UINT64_MAX;
}

static ash_rc
toy_redo_append_map(void *ctx, const struct pstore_write *writes, unsigned count, uint64_t *end_out)
{
    (void)ctx;
    (void)writes;
    (void)count;
    *end_out = PSTORE_LSN_CHECKPOINT;
    return ASH_OK;
}

__attribute__((unused)) static void
world_start_redo(struct world *w)
{
    struct buf_log_ops ops = { &w->log, toy_redo_flush_to, toy_redo_durable, toy_redo_append_map };
    w->ps.redo = true;
    ck_ok(buf_start(w->pool, &ops));
}

/* The pool is not started. */
__attribute__((unused)) static void
world_create(struct world *w, struct env *e, uint64_t bytes, unsigned writers)
{
    memset(w, 0, sizeof(*w));
    w->env = e;
    w->file_bytes = e->kind == IO_BACKEND_SIM ? 256ull << 20 : 1ull << 30;
    w->ps.page = mem_zalloc(MEM_TEST, TOY_PAGES_MAX * sizeof(*w->ps.page));
    w->ps.lsn_at = mem_map(MEM_TEST, w->file_bytes / 4096 * 8, /* huge= */ false);
    ck_assert(w->ps.page != NULL && w->ps.lsn_at != NULL);
    task_mutex_init(&w->ps.map_lock);
    task_mutex_init(&w->ps.space_lock);
    w->ps.file = env_file(e, "pages", IO_CREATE);
    ck_ok(io_file_allocate(w->ps.file, w->file_bytes, /* zero= */ false));
    w->ps.next = 4096;
    w->ps.limit = w->file_bytes;
    w->ps.log = &w->log;
    task_mutex_init(&w->log.lock);
    w->log.reserved = w->log.durable = 4096;
    w->log.ps = &w->ps;
    struct buf_options o = { .bytes = bytes,
                             .io = e->io,
                             .rt = e->rt,
                             .pstore = &w->ps,
                             .writers = writers,
                             .page_id_max = TOY_PAGES_MAX,
                             .budget = world_budget,
                             .others = world_budget != 0 ? toy_others : NULL,
                             .others_ctx = w };
    ck_ok(buf_create(&o, &w->pool));
}

__attribute__((unused)) static void
world_start(struct world *w)
{
    w->ps.redo = false;
    struct buf_log_ops ops = { &w->log, toy_flush_to, toy_durable, toy_append_map };
    ck_ok(buf_start(w->pool, &ops));
}

__attribute__((unused)) static void
world_open(struct world *w, struct env *e, uint64_t bytes, unsigned writers)
{
    world_create(w, e, bytes, writers);
    world_start(w);
}

__attribute__((unused)) static void
world_close(struct world *w)
{
    buf_stop(w->pool);
    buf_check(w->pool);
    buf_destroy(w->pool);
    io_file_close(w->ps.file);
    mem_free(MEM_TEST, w->ps.page);
    mem_unmap(MEM_TEST, w->ps.lsn_at, w->file_bytes / 4096 * 8);
}

/* ---- Pages that show torn or foreign content: every word after the head is derived from id and
 * value ---- */

/* Changes the page as a mini-transaction would; exclusively latched. */
__attribute__((unused)) static uint64_t
page_change(struct world *w, struct buf_page *p, uint64_t value)
{
    uint64_t *words = (uint64_t *)(void *)(p->data + sizeof(struct page_head));
    buf_mark_dirty(w->pool, p, atomic_load(&w->log.reserved));
    for (size_t i = 0; i<(p->size - sizeof(struct page_head)) / 8; i += p->size> 8192 ? 61 : 1)
        words[i] = value * 1000003 + p->page;
    uint64_t end = toy_append(&w->log, 32);
    ((struct page_head *)(void *)p->data)->lsn = end;
    return end;
}

/* The value in a page that cannot change now. */
__attribute__((unused)) static uint64_t
page_value(const struct buf_page *p)
{
    const uint64_t *words = (const uint64_t *)(const void *)(p->data + sizeof(struct page_head));
    for (size_t i = 0; i<(p->size - sizeof(struct page_head)) / 8; i += p->size> 8192 ? 61 : 1)
        ash_assert(words[i] == words[0]);
    ash_assert((words[0] - p->page) % 1000003 == 0); /* ck_assert writes a file each time */
    return (words[0] - p->page) / 1000003;
}

/* The same of a page that may change while it is read: false when what was read cannot be one
 * state.  Only meaningful when the read validates. */
ASH_NO_TSAN __attribute__((unused, noinline)) static bool
page_value_opt(const struct buf_page *p, uint64_t *value_out)
{
    const volatile uint64_t *words =
        (const volatile uint64_t *)(const volatile void *)(p->data + sizeof(struct page_head));
    size_t n = (p->size - sizeof(struct page_head)) / 8;
    uint64_t first = words[0];
    bool same = (first - p->page) % 1000003 == 0;
    size_t step = p->size > 8192 ? 61 : 1;
    for (size_t i = 0; i < n; i += step) {
        same = same && words[i] == first;
        if (i == n / 2 / step * step)
            task_point();
    }
    *value_out = (first - p->page) / 1000003;
    return same;
}

__attribute__((unused)) static uint64_t
page_make(struct world *w, uint8_t page_class, uint64_t value)
{
    struct buf_page p;
    ck_ok(buf_throttle(w->pool));
    ck_ok(buf_new(w->pool, PAGE_TYPE_VALUE, page_class, 1, &p));
    ck_assert_uint_eq(p.size, PAGE_CLASS_SIZE(page_class));
    page_change(w, &p, value);
    uint64_t page = p.page;
    buf_unlatch_x(w->pool, &p);
    return page;
}

#endif
