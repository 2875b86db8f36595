/* SPDX-License-Identifier: Apache-2.0
 *
 * io_calibrate.c - measures the device and keeps what came out in the file "io.model".
 *
 * Entry points: io_calibrate(), io_model_load().   Read first: io_model.c, which uses the figures.
 *
 * The file is a page of text, so that people can read it: a line for each figure, and a checksum of
 * the lines before it.  Losing it costs nothing but the figures.
 */
#include "base/bits.h"
#include "base/clock.h"
#include "base/crc.h"
#include "base/mem.h"
#include "base/random.h"
#include "storage/io_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCRATCH_FILE  "io.calibrate"
#define SCRATCH_BYTES (128ull << 20)
#define LARGE_BYTES   (1u << 20)
#define LARGE_DEPTH   8u
#define SMALL_BYTES   4096u
#define SMALL_DEPTH   64u
#define PHASES        6u
#define HEADER        "ashlar io model 1"

static const struct field {
    const char *name;
    size_t at;
    uint64_t min, max;
} fields[] = {
    { "read_iops", offsetof(struct io_model, read_iops), 1, 1000000000 },
    { "write_iops", offsetof(struct io_model, write_iops), 1, 1000000000 },
    { "read_bytes", offsetof(struct io_model, read_bytes), 10000, 100000000000000 },
    { "write_bytes", offsetof(struct io_model, write_bytes), 10000, 100000000000000 },
    { "read_ns", offsetof(struct io_model, read_ns), 100, 60000000000 },
    { "write_ns", offsetof(struct io_model, write_ns), 100, 60000000000 },
};

/* ---- The file ---- */

static uint64_t *
value_of(struct io_model *m, const struct field *f)
{
    return (uint64_t *)(void *)((char *)m + f->at);
}

void
io__model_encode(const struct io_model *m, char *page)
{
    struct io_model copy = *m;
    size_t at = (size_t)snprintf(page, IO_ALIGN, HEADER "\n");

    for (unsigned i = 0; i < ASH_ARRAY_SIZE(fields); i++)
        at += (size_t)snprintf(page + at, IO_ALIGN - at, "%s %" PRIu64 "\n", fields[i].name,
                               *value_of(&copy, &fields[i]));
    at += (size_t)snprintf(page + at, IO_ALIGN - at, "crc32c %08" PRIx32 "\n", crc32c(0, page, at));
    memset(page + at, '\n', IO_ALIGN - at);
}

/* Takes `word` and a blank from *text. */
static bool
take_word(const char **text, const char *word)
{
    size_t size = strlen(word);
    if (strncmp(*text, word, size) != 0 || (*text)[size] != ' ')
        return false;
    *text += size + 1;
    return true;
}

static bool
take_number(const char **text, int base, uint64_t *out)
{
    uint64_t v = 0;
    unsigned digits = 0;

    for (; digits < 16; digits++, ++*text) {
        char c = **text;
        unsigned d = c >= '0' && c <= '9'                 ? (unsigned)(c - '0')
                     : base == 16 && c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10
                                                          : 99;
        if (d == 99)
            break;
        v = v * (unsigned)base + d;
    }
    if (digits == 0 || **text != '\n')
        return false;
    ++*text;
    *out = v;
    return true;
}

bool
io__model_decode(const char *page, struct io_model *out)
{
    char text[512];
    const char *at = text;
    struct io_model m;
    uint64_t crc;

    memcpy(text, page, sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    if (strncmp(at, HEADER "\n", sizeof(HEADER)) != 0)
        return false;
    at += sizeof(HEADER);
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(fields); i++) {
        uint64_t *v = value_of(&m, &fields[i]);
        if (!take_word(&at, fields[i].name) || !take_number(&at, 10, v) || *v < fields[i].min ||
            *v > fields[i].max)
            return false;
    }
    size_t covered = (size_t)(at - text);
    if (!take_word(&at, "crc32c") || !take_number(&at, 16, &crc) || crc != crc32c(0, text, covered))
        return false;
    *out = m;
    return true;
}

ash_rc
io_model_load(struct io_dir *d)
{
    struct io_file *f;
    struct io_model m;
    uint64_t size = 0;
    char *page = NULL;

    ash_rc rc = io_file_open(d, IO_MODEL_FILE, IO_READ_ONLY | IO_BUFFERED, &f);
    if (rc != ASH_OK)
        return rc;
    rc = io_file_size(f, &size);
    if (rc != ASH_OK)
        goto out;
    page = mem_aligned(MEM_IO, IO_ALIGN, IO_ALIGN);
    if (page == NULL) {
        rc = ASH_NO_MEMORY;
        goto out;
    }
    if (size == IO_ALIGN)
        rc = io_read(f, page, IO_ALIGN, 0, IO_CLASS_READ);
    if (rc == ASH_OK && (size != IO_ALIGN || !io__model_decode(page, &m)))
        rc = ash_raise_obj(ASH_CORRUPT, f->path,
                           "%s is not a device model; run `ashlar calibrate` again or remove it.",
                           f->path);
    if (rc == ASH_OK)
        io__model_use(d->io, &m);
out:
    mem_free(MEM_IO, page);
    io_file_close(f);
    return rc;
}

static ash_rc
model_store(struct io_dir *d, const struct io_model *m)
{
    struct io_file *f;
    char *page = mem_aligned(MEM_IO, IO_ALIGN, IO_ALIGN);

    if (page == NULL)
        return ASH_NO_MEMORY;
    io__model_encode(m, page);
    ash_rc rc = io_file_open(d, IO_MODEL_FILE ".new", IO_CREATE | IO_BUFFERED, &f);
    if (rc != ASH_OK)
        goto out;
    rc = io_file_truncate(f, 0);
    if (rc == ASH_OK)
        rc = io_write(f, page, IO_ALIGN, 0, IO_CLASS_WRITE);
    if (rc == ASH_OK)
        rc = io_flush(f, IO_CLASS_WRITE);
    io_file_close(f);
    if (rc == ASH_OK)
        rc = io_dir_rename(d, IO_MODEL_FILE ".new", IO_MODEL_FILE);
    if (rc == ASH_OK)
        rc = io_dir_sync(d);
out:
    mem_free(MEM_IO, page);
    return rc;
}

/* ---- Measuring ---- */

struct bench {
    struct io_file *file;
    char *buf; /* SMALL_DEPTH requests of SMALL_BYTES, or LARGE_DEPTH of LARGE_BYTES */
    struct io_req req[SMALL_DEPTH];
    struct random random;
};

static void
send(struct bench *b, unsigned slot, enum io_op op, uint32_t bytes, uint64_t n)
{
    struct io_req *req = &b->req[slot], *list[1] = { req };
    uint64_t places = SCRATCH_BYTES / bytes;
    uint64_t place = bytes == LARGE_BYTES ? n % places : random_below(&b->random, places);

    *req = (struct io_req){ .file = b->file,
                            .op = op,
                            .class = op == IO_OP_READ ? IO_CLASS_READ : IO_CLASS_WRITE,
                            .offset = place * bytes,
                            .buf = b->buf + (size_t)slot * bytes,
                            .bytes = bytes };
    io_submit(list, 1);
}

/* Keeps `depth` requests in flight for `ns`, but for `least` requests at least. */
static ash_rc
phase(struct bench *b, enum io_op op, uint32_t bytes, unsigned depth, uint64_t ns, uint64_t least,
      uint64_t *per_second_out)
{
    uint64_t begin = clock_ns(), now = begin, sent = 0, done = 0;
    ash_rc rc = ASH_OK;

    for (; sent < depth; sent++)
        send(b, (unsigned)sent, op, bytes, sent);
    io_kick(b->file->io);
    while (done < sent) {
        unsigned slot = (unsigned)(done++ % depth);
        ash_rc one = io_wait(&b->req[slot]); /* all of them: the buffers must come back */
        if (rc == ASH_OK)
            rc = one;
        now = clock_ns();
        if (rc == ASH_OK && (now - begin < ns || sent < least))
            send(b, slot, op, bytes, sent++);
    }
    *per_second_out = done * 1000000000ull / max_u64(now - begin, 1);
    return rc;
}

static ash_rc
measure(struct bench *b, uint64_t ns, struct io_model *m)
{
    uint64_t read_large, write_large, read_alone, write_alone;
    const uint64_t all = SCRATCH_BYTES / LARGE_BYTES;

    /* Once over it all, so that no later write allocates and no read meets a hole. */
    ash_rc rc = phase(b, IO_OP_WRITE, LARGE_BYTES, LARGE_DEPTH, 0, all, &write_large);
    if (rc == ASH_OK)
        rc = phase(b, IO_OP_WRITE, LARGE_BYTES, LARGE_DEPTH, ns, 1, &write_large);
    if (rc == ASH_OK)
        rc = phase(b, IO_OP_READ, LARGE_BYTES, LARGE_DEPTH, ns, 1, &read_large);
    if (rc == ASH_OK)
        rc = phase(b, IO_OP_WRITE, SMALL_BYTES, SMALL_DEPTH, ns, 1, &m->write_iops);
    if (rc == ASH_OK)
        rc = phase(b, IO_OP_READ, SMALL_BYTES, SMALL_DEPTH, ns, 1, &m->read_iops);
    if (rc == ASH_OK)
        rc = phase(b, IO_OP_WRITE, SMALL_BYTES, 1, ns, 1, &write_alone);
    if (rc == ASH_OK)
        rc = phase(b, IO_OP_READ, SMALL_BYTES, 1, ns, 1, &read_alone);
    if (rc != ASH_OK)
        return rc;
    m->read_bytes = read_large * LARGE_BYTES;
    m->write_bytes = write_large * LARGE_BYTES;
    m->read_ns = 1000000000ull / max_u64(read_alone, 1);
    m->write_ns = 1000000000ull / max_u64(write_alone, 1);
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(fields); i++) {
        uint64_t *v = value_of(m, &fields[i]);
        *v = max_u64(fields[i].min, min_u64(*v, fields[i].max));
    }
    return ASH_OK;
}

ash_rc
io_calibrate(struct io_dir *d, unsigned ms, struct io_model *out)
{
    struct err_detail failure;
    struct bench *b = mem_zalloc(MEM_IO, sizeof(*b));
    ash_rc rc = ASH_NO_MEMORY;

    if (b == NULL)
        return ASH_NO_MEMORY;
    random_init(&b->random, 1);
    b->buf = mem_aligned(MEM_IO, IO_ALIGN, LARGE_DEPTH * LARGE_BYTES);
    if (b->buf == NULL)
        goto out;
    memset(b->buf, 0x5a, LARGE_DEPTH * LARGE_BYTES);
    rc = io_file_open(d, SCRATCH_FILE, IO_CREATE, &b->file);
    if (rc != ASH_OK)
        goto out;
    rc = io_file_allocate(b->file, SCRATCH_BYTES, false);
    if (rc == ASH_OK)
        rc = measure(b, (uint64_t)ms * 1000000 / PHASES, out);
    io_file_close(b->file);
    err_save(&failure);
    ash_rc removed = io_dir_unlink(d, SCRATCH_FILE);
    if (rc == ASH_OK)
        rc = removed;
    else
        err_restore(&failure);
    if (rc == ASH_OK)
        rc = model_store(d, out);
    if (rc == ASH_OK)
        io__model_use(d->io, out);
out:
    mem_free(MEM_IO, b->buf);
    mem_free(MEM_IO, b);
    return rc;
}
