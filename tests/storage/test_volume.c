/* SPDX-License-Identifier: Apache-2.0
 *
 * test_volume.c - named files on a raw device, driven by both real backends.
 *
 * Normally a file stands for the device.  With ASH_TEST_DEVICE=/dev/X the tests run on that device
 * and destroy what is on it (tests/nvme does this in a virtual machine); ASH_TEST_BLOCK names the
 * block device with the same content when X takes NVMe commands only.  ASH_TEST_FAULTY=1 adds a test
 * for a drive that fails writes at 4 MiB.
 */
#include "base/crc.h"
#include "storage/io_volume_int.h"

#include <errno.h>
#include <fcntl.h>

#include "tests/storage/io_env.h"

#define DEVICE_BYTES (48u << 20)
#define FILE_MAX     (12u << 20)
#define FILES        6

/* A device of zeros, deleted when the test ends. */
struct device {
    char path[64];
    enum io_backend_kind kind;
    struct task_runtime *rt;
    struct io *io;
    struct io_dir *dir;
};

static const char *
real_device(void)
{
    return getenv("ASH_TEST_DEVICE");
}

/* Behind the back of the disk manager. */
static void
device_bytes(struct device *d, bool write, void *buf, size_t bytes, off_t offset)
{
    const char *block = getenv("ASH_TEST_BLOCK");
    int fd = open(block != NULL ? block : d->path, O_RDWR | O_DSYNC);

    ck_assert_int_ge(fd, 0);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ssize_t n = write ? pwrite(fd, buf, bytes, offset) : pread(fd, buf, bytes, offset);
    ck_assert_int_eq(n, (ssize_t)bytes);
    close(fd);
}

static void
device_make(struct device *d, int kind)
{
    memset(d, 0, sizeof(*d));
    d->kind = kind == IO_BACKEND_URING ? IO_BACKEND_AUTO : (enum io_backend_kind)kind;
    ck_ok(task_runtime_create(&d->rt));
    if (real_device() != NULL) {
        char *zeros = env_buffer(VOLUME_UNIT);
        snprintf(d->path, sizeof(d->path), "%s", real_device());
        if (kind == IO_BACKEND_URING && io_is_nvme(d->path))
            d->kind = IO_BACKEND_NVME;
        device_bytes(d, /* write= */ true, zeros, VOLUME_UNIT, 0);
        mem_free(MEM_TEST, zeros);
        return;
    }
    snprintf(d->path, sizeof(d->path), "voltest.XXXXXX");
    int fd = mkstemp(d->path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, DEVICE_BYTES), 0);
    close(fd);
}

static ash_rc
device_open(struct device *d, unsigned flags)
{
    struct io_options o = { .backend = d->kind, .direct = true, .rt = d->rt };

    ck_ok(io_create(&o, &d->io));
    ash_rc rc = io_dir_open(d->io, d->path, flags, &d->dir);
    if (rc != ASH_OK) {
        d->dir = NULL;
        io_destroy(d->io);
        d->io = NULL;
    }
    return rc;
}

static void
device_close(struct device *d)
{
    io_dir_close(d->dir);
    io_destroy(d->io);
    d->dir = NULL;
    d->io = NULL;
}

static void
device_end(struct device *d)
{
    if (d->dir != NULL)
        device_close(d);
    task_runtime_destroy(d->rt);
    if (real_device() == NULL)
        unlink(d->path);
}

/* ---- Model: random operations beside arrays of bytes ---- */

struct model {
    struct random r;
    char name[FILES][16];
    bool there[FILES];
    uint64_t size[FILES];
    uint8_t *data[FILES];
    uint8_t *buf;
    unsigned full;
};

static struct io_file *
model_open(struct device *d, struct model *m, unsigned i)
{
    struct io_file *f = NULL;

    ck_ok(io_file_open(d->dir, m->name[i], m->there[i] ? 0 : IO_CREATE | IO_EXCLUSIVE, &f));
    m->there[i] = true;
    return f;
}

static void
model_write(struct device *d, struct model *m, unsigned i)
{
    struct io_file *f = model_open(d, m, i);
    uint64_t offset = random_below(&m->r, FILE_MAX / IO_ALIGN - 600) * IO_ALIGN;
    uint32_t bytes = (uint32_t)(1 + random_below(&m->r, 600)) * IO_ALIGN;

    env_fill(m->buf, bytes, random_u64(&m->r));
    ash_rc rc = io_write(f, m->buf, bytes, offset, IO_CLASS_WRITE);
    if (rc == ASH_NO_SPACE) {
        m->full++;
    } else {
        ck_ok(rc);
        memcpy(m->data[i] + offset, m->buf, bytes);
        if (m->size[i] < offset + bytes)
            m->size[i] = offset + bytes;
    }
    io_file_close(f);
}

static void
model_resize(struct device *d, struct model *m, unsigned i)
{
    struct io_file *f = model_open(d, m, i);
    uint64_t bytes = random_below(&m->r, FILE_MAX / IO_ALIGN) * IO_ALIGN;
    bool shrink = bytes < m->size[i];
    ash_rc rc = shrink ? io_file_truncate(f, bytes)
                       : io_file_allocate(f, bytes, random_chance(&m->r, 1, 2));

    if (rc == ASH_NO_SPACE) {
        m->full++;
    } else {
        ck_ok(rc);
        /* The last unit keeps its bytes when it is cut: what was there may come back. */
        if (shrink) {
            uint64_t whole = (bytes + VOLUME_UNIT - 1) / VOLUME_UNIT * VOLUME_UNIT;
            memset(m->data[i] + whole, 0, FILE_MAX - whole);
        }
        m->size[i] = bytes;
    }
    io_file_close(f);
}

static void
model_check(struct device *d, struct model *m, unsigned i)
{
    struct io_file *f = NULL;
    uint64_t size;

    if (!m->there[i]) {
        ck_rc(io_file_open(d->dir, m->name[i], 0, &f), ASH_NOT_FOUND);
        return;
    }
    ck_ok(io_file_open(d->dir, m->name[i], 0, &f));
    ck_ok(io_file_size(f, &size));
    ck_assert_uint_eq(size, m->size[i]);
    for (uint64_t at = 0; at < size;) {
        uint32_t step = (uint32_t)(size - at < IO_TRANSFER_MAX ? size - at : IO_TRANSFER_MAX);
        ck_ok(io_read(f, m->buf, step, at, IO_CLASS_READ));
        if (memcmp(m->buf, m->data[i] + at, step) != 0)
            ck_abort_msg("%s differs between %llu and %llu", m->name[i], (unsigned long long)at,
                         (unsigned long long)(at + step));
        at += step;
    }
    io_file_close(f);
}

static void
model_move(struct device *d, struct model *m, unsigned i)
{
    unsigned k = (unsigned)random_below(&m->r, FILES);

    if (!m->there[i]) {
        ck_rc(io_dir_rename(d->dir, m->name[i], m->name[k]), ASH_NOT_FOUND);
        return;
    }
    ck_ok(io_dir_rename(d->dir, m->name[i], m->name[k]));
    if (i == k)
        return;
    uint8_t *data = m->data[k];
    m->there[k] = true;
    m->size[k] = m->size[i];
    m->data[k] = m->data[i];
    m->there[i] = false;
    m->size[i] = 0;
    m->data[i] = data;
    memset(data, 0, FILE_MAX);
}

static void
model_step(struct device *d, struct model *m)
{
    unsigned i = (unsigned)random_below(&m->r, FILES);

    switch (random_below(&m->r, 12)) {
    case 0:
    case 1:
    case 2:
    case 3: model_write(d, m, i); break;
    case 4:
    case 5: model_resize(d, m, i); break;
    case 6:
        ck_rc(io_dir_unlink(d->dir, m->name[i]), m->there[i] ? ASH_OK : ASH_NOT_FOUND);
        m->there[i] = false;
        m->size[i] = 0;
        memset(m->data[i], 0, FILE_MAX);
        break;
    case 7: model_move(d, m, i); break;
    case 8:
        device_close(d);
        ck_ok(device_open(d, 0));
        break;
    default: model_check(d, m, i);
    }
}

/* Goal (I1, I3, I4): whatever is done to names and sizes, files hold what was written, in a device
 * that is often full and fragmented, across reopening. */
START_TEST(files_keep_what_was_written)
{
    struct model m = { .full = 0 };
    struct device d;

    random_init(&m.r, test_seed((uint64_t)_i + 11));
    m.buf = mem_aligned(MEM_TEST, IO_ALIGN, IO_TRANSFER_MAX);
    for (unsigned i = 0; i < FILES; i++) {
        snprintf(m.name[i], sizeof(m.name[i]), "file-%u", i);
        m.data[i] = mem_zalloc(MEM_TEST, FILE_MAX);
    }
    device_make(&d, _i);
    ck_ok(device_open(&d, IO_CREATE));
    for (uint64_t n = test_scale(250, 5000); n > 0; n--)
        model_step(&d, &m);
    for (unsigned i = 0; i < FILES; i++)
        model_check(&d, &m, i);
    ck_assert_uint_gt(m.full, 0);
    device_end(&d);
    for (unsigned i = 0; i < FILES; i++)
        mem_free(MEM_TEST, m.data[i]);
    mem_free(MEM_TEST, m.buf);
}
END_TEST

/* Goal (I5): what the device held before, or a file left behind, is not read through another. */
START_TEST(new_units_are_zero)
{
    struct device d;
    struct io_file *f = NULL;
    char *buf = env_buffer(1u << 20);

    device_make(&d, _i);
    memset(buf, 'y', 1u << 20);
    for (unsigned i = 1; i < 16; i++)
        device_bytes(&d, /* write= */ true, buf, 1u << 20, (off_t)i << 20);
    ck_ok(device_open(&d, IO_CREATE));
    for (unsigned round = 0; round < 2; round++) {
        ck_ok(io_file_open(d.dir, "a", IO_CREATE, &f));
        ck_ok(io_file_allocate(f, 8u << 20, /* zero= */ round == 0));
        for (unsigned i = 0; i < 8; i++) {
            ck_ok(io_read(f, buf, 1u << 20, (uint64_t)i << 20, IO_CLASS_READ));
            ck_assert_int_eq(buf[0], 0);
            ck_assert_int_eq(memcmp(buf, buf + 1, (1u << 20) - 1), 0);
            memset(buf, 'x', 1u << 20);
            ck_ok(io_write(f, buf, 1u << 20, (uint64_t)i << 20, IO_CLASS_WRITE));
        }
        io_file_close(f);
        ck_ok(io_dir_unlink(d.dir, "a"));
    }
    device_end(&d);
    mem_free(MEM_TEST, buf);
}
END_TEST

/* Goal: a file that was unlinked serves the handles it has, and its units return with the last. */
START_TEST(an_unlinked_file_lives_until_it_is_closed)
{
    struct device d;
    struct io_file *f = NULL, *g = NULL;
    char *buf = env_buffer(IO_ALIGN);

    device_make(&d, _i);
    ck_ok(device_open(&d, IO_CREATE));
    ck_ok(io_file_open(d.dir, "a", IO_CREATE, &f));
    ck_ok(io_file_allocate(f, 30u << 20, /* zero= */ false));
    memset(buf, 'x', IO_ALIGN);
    ck_ok(io_write(f, buf, IO_ALIGN, 29u << 20, IO_CLASS_WRITE));
    ck_ok(io_dir_unlink(d.dir, "a"));
    ck_ok(io_file_open(d.dir, "a", IO_CREATE | IO_EXCLUSIVE, &g));
    ck_rc(io_file_allocate(g, 30u << 20, /* zero= */ false), ASH_NO_SPACE);
    ck_ok(io_read(f, buf, IO_ALIGN, 29u << 20, IO_CLASS_READ));
    ck_assert_int_eq(buf[IO_ALIGN - 1], 'x');
    io_file_close(f);
    ck_ok(io_file_allocate(g, 30u << 20, /* zero= */ false));
    io_file_close(g);
    device_end(&d);
    mem_free(MEM_TEST, buf);
}
END_TEST

/* Goal: the device goes on where a file ends; a read must not. */
START_TEST(files_end_where_they_end)
{
    struct device d;
    struct io_file *f = NULL;
    char *buf = env_buffer(8192);

    device_make(&d, _i);
    ck_ok(device_open(&d, IO_CREATE));
    ck_ok(io_file_open(d.dir, "a", IO_CREATE, &f));
    ck_rc(io_read(f, buf, 4096, 0, IO_CLASS_READ), ASH_CORRUPT);
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    ck_ok(io_read(f, buf, 4096, 0, IO_CLASS_READ));
    ck_rc(io_read(f, buf, 8192, 0, IO_CLASS_READ), ASH_CORRUPT);
    ck_rc(io_write(f, buf, 4096, 1ull << 40, IO_CLASS_WRITE), ASH_NO_SPACE);
    ck_ok(io_check(d.io)); /* lack of space, found in time, harms nobody */
    ck_ok(io_write(f, buf, 4096, 4096, IO_CLASS_WRITE));
    io_file_close(f);
    device_end(&d);
    mem_free(MEM_TEST, buf);
}
END_TEST

/* Goal: one owner at a time; nothing that is not ours is touched. */
START_TEST(foreign_devices_are_left_alone)
{
    struct device d, e;
    char text[4096] = "precious", head[4096];

    device_make(&d, _i);
    ck_rc(device_open(&d, 0), ASH_NOT_FOUND);
    device_bytes(&d, /* write= */ true, text, sizeof(text), 128u << 10);
    ck_rc(device_open(&d, IO_CREATE), ASH_NOT_A_DATABASE);
    device_bytes(&d, /* write= */ false, head, sizeof(head), 0);
    ck_assert_int_eq(head[0], 0);
    memset(text, 0, sizeof(text));
    device_bytes(&d, /* write= */ true, text, sizeof(text), 128u << 10);
    ck_ok(device_open(&d, IO_CREATE));
    e = d;
    ck_rc(device_open(&e, 0), ASH_BUSY);
    device_close(&d);
    ck_rc(device_open(&d, IO_CREATE | IO_EXCLUSIVE), ASH_EXISTS);
    device_end(&d);

    if (real_device() != NULL)
        return;
    device_make(&d, _i);
    ck_assert_int_eq(truncate(d.path, 4u << 20), 0);
    ck_rc(device_open(&d, IO_CREATE), ASH_INVALID);
    device_end(&d);
}
END_TEST

/* ---- Damage ---- */

static void
two_files(struct device *d)
{
    struct io_file *f = NULL;

    ck_ok(device_open(d, IO_CREATE));
    for (unsigned i = 0; i < 2; i++) {
        ck_ok(io_file_open(d->dir, i == 0 ? "one" : "two", IO_CREATE, &f));
        ck_ok(io_file_allocate(f, (i + 1) << 20, /* zero= */ false));
        io_file_close(f);
    }
    device_close(d);
}

static bool
count_names(void *arg, const char *name)
{
    (void)name;
    ++*(unsigned *)arg;
    return true;
}

/* Goal: a torn write of a table leaves the state before or after it, nothing else. */
START_TEST(a_torn_table_gives_the_state_before)
{
    struct device d;
    char *before = env_buffer(2 * VOLUME_TABLE_STRIDE),
         *after = env_buffer(2 * VOLUME_TABLE_STRIDE);
    char *mixed = env_buffer(2 * VOLUME_TABLE_STRIDE);
    unsigned seen[3] = { 0, 0, 0 };

    device_make(&d, _i);
    two_files(&d);
    device_bytes(&d, /* write= */ false, before, 2 * VOLUME_TABLE_STRIDE, 0);
    ck_ok(device_open(&d, 0));
    ck_ok(io_dir_unlink(d.dir, "one"));
    device_close(&d);
    device_bytes(&d, /* write= */ false, after, 2 * VOLUME_TABLE_STRIDE, 0);
    for (unsigned cut = 0; cut < 256; cut++) { /* which of the 8 sectors of 512 bytes arrived */
        memcpy(mixed, before, 2 * VOLUME_TABLE_STRIDE);
        for (unsigned i = 0; i < 16; i++) {
            size_t at = (i / 8) * VOLUME_TABLE_STRIDE + (i % 8) * 512u;
            if ((cut >> (i % 8) & 1) != 0)
                memcpy(mixed + at, after + at, 512);
        }
        unsigned names = 0;
        device_bytes(&d, /* write= */ true, mixed, 2 * VOLUME_TABLE_STRIDE, 0);
        ck_ok(device_open(&d, 0));
        ck_ok(io_dir_list(d.dir, count_names, &names));
        ck_assert_uint_ge(names, 1);
        ck_assert_uint_le(names, 2);
        seen[names]++;
        device_close(&d);
    }
    ck_assert_uint_gt(seen[1], 0);
    ck_assert_uint_gt(seen[2], 0);
    device_end(&d);
    mem_free(MEM_TEST, before);
    mem_free(MEM_TEST, after);
    mem_free(MEM_TEST, mixed);
}
END_TEST

/* Goal: damage is named, and never taken for an empty device or for good names. */
START_TEST(damaged_tables_are_named)
{
    struct device d;
    char *head = env_buffer(4096);

    device_make(&d, _i);
    two_files(&d);
    for (unsigned i = 0; i < 2; i++) {
        device_bytes(&d, /* write= */ false, head, 4096, i * (off_t)VOLUME_TABLE_STRIDE);
        head[70] ^= 1;
        device_bytes(&d, /* write= */ true, head, 4096, i * (off_t)VOLUME_TABLE_STRIDE);
    }
    ck_rc(device_open(&d, IO_CREATE), ASH_CORRUPT);
    ck_assert_ptr_nonnull(strstr(err_current()->message, d.path));
    device_end(&d);

    device_make(&d, _i);
    two_files(&d);
    for (unsigned i = 0; i < 2; i++) {
        struct volume_head *h = (struct volume_head *)(void *)head;
        device_bytes(&d, /* write= */ false, head, 4096, i * (off_t)VOLUME_TABLE_STRIDE);
        h->format = VOLUME_FORMAT + 1;
        h->crc32c = crc32c(0, head + 12, 4096 - 12);
        device_bytes(&d, /* write= */ true, head, 4096, i * (off_t)VOLUME_TABLE_STRIDE);
    }
    ck_rc(device_open(&d, 0), ASH_VERSION_MISMATCH);
    device_end(&d);
    mem_free(MEM_TEST, head);
}
END_TEST

/* ---- A database ---- */

static void
put_rows(ash_db *db, unsigned from, unsigned to)
{
    ash_session *s = NULL;
    ash_table *t = NULL;
    char key[32], value[500];

    ck_ok(ash_session_open(db, &s));
    ck_ok(ash_begin(s, NULL));
    if (from == 0)
        ck_ok(ash_table_create(s, "t", NULL));
    ck_ok(ash_table_open(s, "t", &t));
    memset(value, 'v', sizeof(value));
    for (unsigned i = from; i < to; i++) {
        int n = snprintf(key, sizeof(key), "key-%06u", i);
        ck_ok(ash_put(s, t, ash_slice(key, (size_t)n), ash_slice(value, sizeof(value))));
    }
    ck_ok(ash_commit(s));
    ash_table_close(t);
    ash_session_close(s);
}

/* Goal: a database lives on a raw device as it does in a directory. */
START_TEST(a_database_lives_on_a_device)
{
    const char *options = _i == IO_BACKEND_URING ? "cache=8MiB,wal_segment=4MiB,wal_limit=16MiB"
                                                 : "cache=8MiB,wal_segment=4MiB,wal_limit=16MiB,"
                                                   "io_backend=threads";
    struct device d;
    ash_db *db = NULL;

    device_make(&d, _i);
    if (real_device() == NULL)
        ck_assert_int_eq(truncate(d.path, 1536ll << 20), 0);
    for (unsigned round = 0; round < 3; round++) {
        ck_ok(ash_open(d.path, round == 0 ? ASH_OPEN_CREATE : 0, options, &db));
        put_rows(db, round * 10000, (round + 1) * 10000);
        ck_ok(ash_close(db));
    }
    device_end(&d);
}
END_TEST

/* Goal: an error of the drive reaches the caller with name and place, and poisons.  The virtual
 * machine's drive fails all writes of the sector at 4 MiB. */
START_TEST(an_error_of_the_drive_is_told)
{
    struct device d;
    struct io_file *f = NULL;
    char *buf = env_buffer(VOLUME_UNIT);
    ash_rc rc = ASH_OK;

    device_make(&d, _i);
    ck_ok(device_open(&d, IO_CREATE));
    ck_ok(io_file_open(d.dir, "a", IO_CREATE, &f));
    ck_ok(io_write(f, buf, 4096, 0, IO_CLASS_WRITE));
    for (uint64_t at = 0; at < (8u << 20) && rc == ASH_OK; at += VOLUME_UNIT)
        rc = io_write(f, buf, VOLUME_UNIT, at, IO_CLASS_WRITE);
    ck_assert_int_eq(rc, ASH_IO);
    ck_rc(io_check(d.io), ASH_POISONED);
    ck_assert_ptr_nonnull(strstr(err_current()->message, d.path));
    ck_ok(io_read(f, buf, 4096, 0, IO_CLASS_READ));
    io_file_close(f);
    device_end(&d);
    mem_free(MEM_TEST, buf);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("volume");
    TCase *t = tcase_create("volume");

    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, files_keep_what_was_written, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, new_units_are_zero, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, an_unlinked_file_lives_until_it_is_closed, IO_BACKEND_URING,
                        IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, files_end_where_they_end, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    tcase_add_loop_test(t, foreign_devices_are_left_alone, IO_BACKEND_URING, IO_BACKEND_URING + 1);
    tcase_add_loop_test(t, a_torn_table_gives_the_state_before, IO_BACKEND_URING,
                        IO_BACKEND_URING + 1);
    tcase_add_loop_test(t, damaged_tables_are_named, IO_BACKEND_URING, IO_BACKEND_URING + 1);
    suite_add_tcase(s, t);
    t = tcase_create("database"); /* CK_RUN_CASE chooses: this one needs a larger device */
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, a_database_lives_on_a_device, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    suite_add_tcase(s, t);
    if (getenv("ASH_TEST_FAULTY") == NULL)
        return s;
    t = tcase_create("faulty");
    tcase_add_loop_test(t, an_error_of_the_drive_is_told, IO_BACKEND_URING, IO_BACKEND_THREADS + 1);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
