/* SPDX-License-Identifier: Apache-2.0
 *
 * sim_image.c - file contents as shared pages, copied on write.
 *
 * Invariants:
 *   I1  A page or chunk with more than one reference is never changed.
 *   I2  Bytes beyond `size` within the last page are zero; no chunk holds a page beyond `size`.
 */
#include "base/bits.h"
#include "storage/sim_disk_int.h"

#include <stdlib.h>
#include <string.h>

void *
sim__alloc(size_t size)
{
    void *p = calloc(1, size);
    ash_assert(p != NULL);
    return p;
}

void *
sim__grow(void *p, size_t size)
{
    p = realloc(p, size);
    ash_assert(p != NULL);
    return p;
}

void
sim__free(void *p)
{
    free(p);
}

struct sim_page *
sim__page_new(const void *data)
{
    struct sim_page *p = malloc(sizeof(*p));
    ash_assert(p != NULL);
    p->refs = 1;
    if (data == NULL)
        memset(p->data, 0, SIM_PAGE);
    else
        memcpy(p->data, data, SIM_PAGE);
    return p;
}

void
sim__page_ref(struct sim_page *p)
{
    p->refs++;
}

void
sim__page_unref(struct sim_page *p)
{
    if (p == NULL)
        return;
    ash_assert(p->refs > 0);
    if (--p->refs == 0)
        free(p);
}

static void
chunk_unref(struct sim_chunk *c)
{
    if (c == NULL || --c->refs > 0)
        return;
    for (unsigned i = 0; i < SIM_CHUNK_PAGES; i++)
        sim__page_unref(c->page[i]);
    free(c);
}

void
sim__image_free(struct sim_image *img)
{
    for (uint32_t i = 0; i < img->chunks; i++)
        chunk_unref(img->chunk[i]);
    free(img->chunk);
    *img = (struct sim_image){ .size = 0 };
}

void
sim__image_copy(struct sim_image *to, const struct sim_image *from)
{
    *to = *from;
    if (from->chunks == 0) {
        to->chunk = NULL;
        return;
    }
    to->chunk = sim__alloc(from->chunks * sizeof(struct sim_chunk *));
    memcpy(to->chunk, from->chunk, from->chunks * sizeof(struct sim_chunk *));
    for (uint32_t i = 0; i < to->chunks; i++) {
        if (to->chunk[i] != NULL)
            to->chunk[i]->refs++;
    }
}

struct sim_page *
sim__image_page(const struct sim_image *img, uint64_t page)
{
    uint64_t c = page / SIM_CHUNK_PAGES;
    if (c >= img->chunks || img->chunk[c] == NULL)
        return NULL;
    return img->chunk[c]->page[page % SIM_CHUNK_PAGES];
}

/* The page's place in a chunk of the image's own. */
static struct sim_page **
image_slot(struct sim_image *img, uint64_t page)
{
    uint32_t c = (uint32_t)(page / SIM_CHUNK_PAGES);

    if (c >= img->chunks) {
        uint32_t more = c + 1;
        img->chunk = sim__grow(img->chunk, more * sizeof(struct sim_chunk *));
        memset(img->chunk + img->chunks, 0, (more - img->chunks) * sizeof(struct sim_chunk *));
        img->chunks = more;
    }
    struct sim_chunk *have = img->chunk[c];
    if (have == NULL || have->refs > 1) {
        struct sim_chunk *own = sim__alloc(sizeof(*own));
        if (have != NULL) {
            memcpy(own->page, have->page, sizeof(own->page));
            for (unsigned i = 0; i < SIM_CHUNK_PAGES; i++) {
                if (own->page[i] != NULL)
                    own->page[i]->refs++;
            }
            have->refs--;
        }
        own->refs = 1;
        img->chunk[c] = own;
    }
    return &img->chunk[c]->page[page % SIM_CHUNK_PAGES];
}

void
sim__image_set(struct sim_image *img, uint64_t page, struct sim_page *p)
{
    if (p == NULL && sim__image_page(img, page) == NULL)
        return;
    struct sim_page **slot = image_slot(img, page);
    if (p != NULL)
        p->refs++;
    sim__page_unref(*slot);
    *slot = p;
}

/* The page's bytes, for changing. */
static uint8_t *
image_own(struct sim_image *img, uint64_t page)
{
    struct sim_page **slot = image_slot(img, page);

    if (*slot == NULL || (*slot)->refs > 1) {
        struct sim_page *own = sim__page_new(*slot == NULL ? NULL : (*slot)->data);
        sim__page_unref(*slot);
        *slot = own;
    }
    return (*slot)->data;
}

void
sim__image_mix(struct sim_image *img, uint64_t page, struct sim_page *p, unsigned mask)
{
    if (mask == 0)
        return;
    if (mask == (1u << SIM_PAGE_SECTORS) - 1) {
        sim__image_set(img, page, p);
        return;
    }
    uint8_t *own = image_own(img, page);
    for (unsigned s = 0; s < SIM_PAGE_SECTORS; s++) {
        if ((mask & 1u << s) == 0)
            continue;
        if (p == NULL)
            memset(own + s * SIM_SECTOR, 0, SIM_SECTOR);
        else
            memcpy(own + s * SIM_SECTOR, p->data + s * SIM_SECTOR, SIM_SECTOR);
    }
}

void
sim__image_resize(struct sim_image *img, uint64_t size)
{
    if (size < img->size) {
        uint64_t keep = round_up(size, SIM_PAGE) / SIM_PAGE,
                 end = (uint64_t)img->chunks * SIM_CHUNK_PAGES;
        for (uint64_t i = keep; i < end; i++) {
            if (i % SIM_CHUNK_PAGES == 0 && img->chunk[i / SIM_CHUNK_PAGES] != NULL) {
                chunk_unref(img->chunk[i / SIM_CHUNK_PAGES]);
                img->chunk[i / SIM_CHUNK_PAGES] = NULL;
            }
            sim__image_set(img, i, NULL);
        }
        if (size % SIM_PAGE != 0 && sim__image_page(img, size / SIM_PAGE) != NULL)
            memset(image_own(img, size / SIM_PAGE) + size % SIM_PAGE, 0,
                   SIM_PAGE - size % SIM_PAGE);
    }
    img->size = size;
}

void
sim__image_read(const struct sim_image *img, uint64_t offset, void *buf, size_t bytes)
{
    uint8_t *out = buf;

    while (bytes > 0) {
        size_t at = offset % SIM_PAGE, n = min_u64(SIM_PAGE - at, bytes);
        const struct sim_page *p = sim__image_page(img, offset / SIM_PAGE);
        if (p == NULL)
            memset(out, 0, n);
        else
            memcpy(out, p->data + at, n);
        out += n;
        offset += n;
        bytes -= n;
    }
}

void
sim__image_write(struct sim_image *img, uint64_t offset, const void *buf, size_t bytes)
{
    const uint8_t *in = buf;

    img->size = max_u64(img->size, offset + bytes);
    while (bytes > 0) {
        size_t at = offset % SIM_PAGE, n = min_u64(SIM_PAGE - at, bytes);
        memcpy(image_own(img, offset / SIM_PAGE) + at, in, n);
        in += n;
        offset += n;
        bytes -= n;
    }
}

uint64_t
sim__image_hash(const struct sim_image *img, uint64_t seed)
{
    static const uint8_t zeros[SIM_PAGE];
    uint64_t h = hash_bytes(&img->size, sizeof(img->size), seed);

    for (uint32_t c = 0; c < img->chunks; c++) {
        for (uint64_t i = 0; img->chunk[c] != NULL && i < SIM_CHUNK_PAGES; i++) {
            const struct sim_page *p = img->chunk[c]->page[i];
            uint64_t page = (uint64_t)c * SIM_CHUNK_PAGES + i;
            if (p == NULL || memcmp(p->data, zeros, SIM_PAGE) == 0)
                continue; /* a page of zeros equals a page that was never written */
            h = hash_bytes(&page, sizeof(page), h);
            h = hash_bytes(p->data, SIM_PAGE, h);
        }
    }
    return h;
}
