/* SPDX-License-Identifier: Apache-2.0
 *
 * pstore_write.c - writes page images to new places: few, large, sequential requests.
 *
 * Order of a write: header fields and checksum, then places for all images, then requests over
 * adjacent places (up to PSTORE_BATCH images or PSTORE_TRANSFER bytes each, PSTORE_REQUESTS in
 * flight), then one flush.  A single small write asks for durability itself instead (RWF_DSYNC),
 * which saves the second trip. Either all images have durable places at the end, or none keeps one.
 *
 * The flush is not left out on devices without a volatile cache: the file grows by fallocate(), and
 * that an allocated block has been written is metadata, which the file system keeps in memory until
 * it is flushed.  Without, a power cut turns the page into zeros.  Where nothing of that is pending
 * such a flush costs next to nothing.
 */
#include "base/crc.h"
#include "base/error.h"
#include "storage/pstore_int.h"

#define DSYNC_BYTES_MAX (64u << 10)

/* A request with its vector; taken from a list so that writers with small stacks can use it. */
struct write_context {
    struct write_context *next;
    struct {
        struct io_req req;
        struct iovec iov[PSTORE_BATCH];
    } slot[PSTORE_REQUESTS];
};

static struct write_context *
context_get(struct pstore *ps)
{
    pstore__spin_lock(&ps->context_lock);
    struct write_context *c = ps->contexts;
    if (c != NULL)
        ps->contexts = c->next;
    pstore__spin_unlock(&ps->context_lock);
    return c != NULL ? c : mem_alloc(MEM_PSTORE, sizeof(*c));
}

static void
context_put(struct pstore *ps, struct write_context *c)
{
    pstore__spin_lock(&ps->context_lock);
    c->next = ps->contexts;
    ps->contexts = c;
    pstore__spin_unlock(&ps->context_lock);
}

void
pstore__contexts_free(struct pstore *ps)
{
    while (ps->contexts != NULL) {
        struct write_context *c = ps->contexts;
        ps->contexts = c->next;
        mem_free(MEM_PSTORE, c);
    }
}

/* Fills the header fields that only the store knows. */
static uint32_t
image_seal(struct pstore *ps, const struct pstore_write *w)
{
    struct page_head *h = w->image;
    uint32_t size = PAGE_CLASS_SIZE(w->page_class);
    ash_assert(h->page == w->page && h->page_class == w->page_class && h->format == PAGE_FORMAT &&
               h->type != 0);
    h->database = ps->database;
    h->write_seq = atomic_fetch_add_explicit(&ps->write_seq, 1, memory_order_relaxed);
    h->crc32c = crc32c(0, (const uint8_t *)w->image + 4, size - 4);
    return h->crc32c;
}

/* Gives every image a place; all or none. */
static ash_rc
places_take(struct pstore *ps, struct pstore_write *w, unsigned count)
{
    uint64_t left = 0, unit = 0;
    uint32_t got = 0;
    for (unsigned i = 0; i < count; i++)
        left += PAGE_CLASS_SIZE(w[i].page_class) / UNIT_BYTES;
    for (unsigned i = 0; i < count; i++) {
        uint32_t units = PAGE_CLASS_SIZE(w[i].page_class) / UNIT_BYTES;
        if (got < units) {
            if (got > 0)
                pstore__space_free(ps, unit, got);
            uint32_t most = (uint32_t)min_u64(left, max_u64(units, PSTORE_TRANSFER / UNIT_BYTES));
            ash_rc rc = pstore__space_take(ps, units, most, &unit, &got);
            if (rc != ASH_OK) {
                pstore_write_cancel(ps, w, i);
                return rc;
            }
        }
        uint32_t crc = ((const struct page_head *)w[i].image)->crc32c;
        w[i].entry = map_entry_make(unit * UNIT_BYTES, units * UNIT_BYTES, crc);
        unit += units;
        got -= units;
        left -= units;
    }
    if (got > 0)
        pstore__space_free(ps, unit, got);
    return ASH_OK;
}

/* Makes a request of the images from *next on that lie side by side. */
static void
request_fill(struct pstore *ps, const struct pstore_write *w, unsigned count, unsigned *next,
             struct io_req *req, struct iovec *iov, enum io_class class)
{
    uint64_t offset = map_entry_offset(w[*next].entry), end = offset;
    unsigned n = 0;
    while (*next < count && n < PSTORE_BATCH && map_entry_offset(w[*next].entry) == end) {
        uint32_t length = map_entry_length(w[*next].entry);
        if (n > 0 && end + length - offset > PSTORE_TRANSFER)
            break;
        iov[n++] = (struct iovec){ .iov_base = w[*next].image, .iov_len = length };
        end += length;
        ++*next;
    }
    *req = (struct io_req){ .file = ps->file,
                            .op = IO_OP_WRITE,
                            .class = class,
                            .offset = offset,
                            .bytes = (uint32_t)(end - offset) };
    if (n == 1) {
        req->buf = iov[0].iov_base;
    } else {
        req->iov = iov;
        req->iov_count = n;
    }
    atomic_fetch_add_explicit(&ps->write_ios, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&ps->write_bytes, end - offset, memory_order_relaxed);
}

/* Writes to the places given; several requests in flight. */
static ash_rc
places_write(struct pstore *ps, struct write_context *c, const struct pstore_write *w,
             unsigned count, enum io_class class, bool flush)
{
    ash_rc rc = ASH_OK;
    unsigned next = 0;
    bool durable = false;

    while (next < count && rc == ASH_OK) {
        struct io_req *list[PSTORE_REQUESTS];
        unsigned n = 0;
        bool first = next == 0;
        while (next < count && n < PSTORE_REQUESTS) {
            request_fill(ps, w, count, &next, &c->slot[n].req, c->slot[n].iov, class);
            list[n] = &c->slot[n].req;
            n++;
        }
        if (first && n == 1 && next == count && flush && list[0]->bytes <= DSYNC_BYTES_MAX)
            list[0]->dsync = durable = true;
        io_submit(list, n);
        for (unsigned i = 0; i < n; i++) {
            ash_rc one = io_wait(list[i]); /* every one: the images must come back */
            if (rc == ASH_OK)
                rc = one;
        }
    }
    if (PLANTED(345) && io_file_device_class(ps->file) == IO_DEVICE_WRITE_THROUGH)
        return rc;
    if (rc == ASH_OK && flush && !durable && !PLANTED(55))
        rc = io_flush(ps->file, class);
    return rc;
}

ash_rc
pstore__write_places(struct pstore *ps, struct pstore_write *w, unsigned count, enum io_class class,
                     bool flush)
{
    struct write_context *c = context_get(ps);
    if (c == NULL)
        return ASH_NO_MEMORY;
    for (unsigned i = 0; i < count; i++)
        (void)image_seal(ps, &w[i]);
    ash_rc rc = places_take(ps, w, count);
    if (rc == ASH_OK) {
        rc = places_write(ps, c, w, count, class, flush);
        if (rc != ASH_OK)
            pstore_write_cancel(ps, w, count);
    }
    context_put(ps, c);
    return rc;
}

ash_rc
pstore_write(struct pstore *ps, struct pstore_write *writes, unsigned count, uint64_t durable_lsn,
             enum io_class class)
{
    ash_assert(count > 0 && !ps->read_only);
    for (unsigned i = 0; i < count; i++) {
        const struct page_head *h = writes[i].image;
        ash_assert(h->lsn <= durable_lsn); /* the log first: rule R5 of buffer.h */
        ash_assert(writes[i].page_class < PAGE_CLASS_COUNT &&
                   PAGE_CLASS_SIZE(writes[i].page_class) / UNIT_BYTES <= ps->zone_units);
    }
    ash_rc rc = pstore__write_places(ps, writes, count, class, /* flush= */ true);
    if (rc == ASH_OK)
        atomic_fetch_add_explicit(&ps->page_writes, count, memory_order_relaxed);
    return rc;
}

void
pstore_write_cancel(struct pstore *ps, const struct pstore_write *writes, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        pstore__space_free_entry(ps, writes[i].entry.v);
}
