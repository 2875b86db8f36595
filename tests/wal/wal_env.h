/* SPDX-License-Identifier: Apache-2.0
 *
 * wal_env.h - opens a log on one of the backends (tests/storage/io_env.h), and records that tell
 * who they are.
 */
#ifndef ASH_TESTS_WAL_ENV_H
#define ASH_TESTS_WAL_ENV_H

#include "wal/wal_int.h"

#include "tests/storage/io_env.h"

#define WENV_SEGMENT (64u << 10)
#define WENV_BUFFER  (1u << 20)

static const uint8_t wenv_uuid[16] = { 7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

static inline struct wal_options
wenv_options(const struct env *e)
{
    struct wal_options o = { .io = e->io,
                             .dir = e->dir,
                             .rt = e->rt,
                             .buffer_bytes = WENV_BUFFER,
                             .segment_bytes = WENV_SEGMENT,
                             .writers = 3,
                             .epoch = 1 };
    memcpy(o.uuid, wenv_uuid, sizeof(o.uuid));
    return o;
}

/* A record with number `n` of `size` bytes (>= 32): its contents follow from n. */
__attribute__((unused)) static void
wenv_record(uint8_t *buf, uint64_t n, uint32_t size)
{
    struct wal_record_head h = {
        .size = size, .type = WAL_REC_NOTE, .txn = n, .prev = hash_u64(n), .link = size
    };
    for (uint32_t i = sizeof(h); i < size; i++)
        buf[i] = (uint8_t)(hash_u64(n + i / 8) >> (i % 8 * 8));
    memcpy(buf, &h, sizeof(h));
}

/* Says whether these bytes are what wenv_record() made; its number through n_out. */
__attribute__((unused)) static bool
wenv_check(const uint8_t *buf, uint32_t size, uint64_t *n_out)
{
    struct wal_record_head h;
    memcpy(&h, buf, sizeof(h));
    if (h.size != size || h.type != WAL_REC_NOTE || h.prev != hash_u64(h.txn) || h.link != size)
        return false;
    for (uint32_t i = sizeof(h); i < size; i++)
        if (buf[i] != (uint8_t)(hash_u64(h.txn + i / 8) >> (i % 8 * 8)))
            return false;
    *n_out = h.txn;
    return true;
}

/* Appends record n in two or three parts. */
__attribute__((unused)) static ash_rc
wenv_append(struct wal *wal, uint64_t n, uint32_t size, uint64_t *start_out, uint64_t *end_out)
{
    uint8_t *buf = mem_alloc(MEM_TEST, size);
    ck_assert_ptr_nonnull(buf);
    wenv_record(buf, n, size);
    struct wal_part parts[3] = { { buf, 32 },
                                 { buf + 32, (size - 32) / 2 },
                                 { buf + 32 + (size - 32) / 2, size - 32 - (size - 32) / 2 } };
    uint64_t start, end;
    ash_rc rc = wal_append(wal, parts, 3, &start, &end);
    mem_free(MEM_TEST, buf);
    if (rc == ASH_OK) {
        if (start_out != NULL)
            *start_out = start;
        if (end_out != NULL)
            *end_out = end;
    }
    return rc;
}

/* A new log. */
__attribute__((unused)) static struct wal *
wenv_create(const struct env *e, const struct wal_options *o)
{
    struct wal *wal = NULL;
    struct wal_options def = wenv_options(e);
    struct wal_position at = { WAL_LSN_FIRST, 1 };
    ck_ok(wal_open(o != NULL ? o : &def, &at, NULL, &wal));
    return wal;
}

/* Reads the log from `from` to its end, calling fn for each record, and opens it for writing when
 * `out` is given.  Returns what ended the reading: ASH_NOT_FOUND is the regular end. */
__attribute__((unused)) static ash_rc
wenv_read(const struct env *e, struct wal_position from, uint64_t require,
          void (*fn)(void *arg, const struct wal_record *rec), void *arg,
          const struct wal_options *o, struct wal **out, struct wal_position *end_out)
{
    struct wal_reader *r;
    struct wal_record rec;
    ash_rc rc = wal_reader_open(e->io, e->dir, wenv_uuid, &from, &r);
    if (rc != ASH_OK)
        return rc;
    wal_reader_require(r, require);
    while ((rc = wal_reader_next(r, &rec)) == ASH_OK)
        if (fn != NULL)
            fn(arg, &rec);
    if (rc == ASH_NOT_FOUND) {
        struct wal_position next;
        struct wal_segments *live;
        uint32_t epoch;
        wal_reader_end(r, &next, &epoch, &live);
        if (end_out != NULL)
            *end_out = next;
        if (out != NULL) {
            struct wal_options options = o != NULL ? *o : wenv_options(e);
            options.epoch = epoch + 1;
            ash_rc open_rc = wal_open(&options, &next, live, out);
            if (open_rc != ASH_OK)
                rc = open_rc;
        } else {
            wal_segments_free(live);
        }
    }
    wal_reader_close(r);
    return rc;
}

#endif
