/* SPDX-License-Identifier: Apache-2.0
 *
 * test_flip_files.c - one bit of a database's real files flips, also of one that crashed: it is
 * noticed, or it changes nothing.  (test_flip.c: a closed database, simulated, many more bits.)
 *
 * Two databases with every kind of page and record are made: one closed cleanly, one whose process
 * ended without closing, with changes that only the log holds.  For each of many random bits: copy
 * the directory, flip the bit, and in a child open, read every row, verify.
 *
 *   F1  The child neither crashes nor hangs, and no row is ever wrong.
 *   F2  An error is a corruption code, and its message names a file or a page.
 *   F3  What a read trips over, ash_verify() finds too.
 *   F4  Only the last transaction may be missing (wholly), if the bit was in the log after a crash
 *       in its last write: there a flipped bit and a write that never finished look alike.
 *
 * Flips that change nothing hit space that holds nothing: free zones, spare segments, log that is
 * no longer needed.
 */
#include "base/random.h"

#include "tests/hostile/hostile.h"

#define ROWS      3000u
#define WIDE      300u /* rows of the table with large pages */
#define TXNS      200u
#define PER_TXN   4u
#define VALUE_MAX (400u << 10)
#define FILES_MAX 128u

enum {
    OUT_OPEN = 10,
    OUT_READ,
    OUT_VERIFY,
    OUT_HARMLESS,
    OUT_TAIL
};

/* ---- The database ---- */

/* Table "t": row i was last written by transaction `n` (0: the load).  Some rows are large, of
 * every class up to 512 KiB. */
static size_t
row_value(unsigned i, unsigned n, unsigned char *out)
{
    uint64_t h = hash_u64((uint64_t)i << 32 | n);
    size_t size = 8 + h % 200;

    if (i % 300 == 17)
        size = (5000u << (i / 300 % 7)) + h % 3000;
    for (size_t k = 0; k < size; k++)
        out[k] = (unsigned char)(h >> (k % 8 * 8)) ^ (unsigned char)(k >> 4);
    return size;
}

static struct ash_slice
row_key(unsigned i, char out[32])
{
    return ash_slice(out, (size_t)snprintf(out, 32, "key%06u", i));
}

/* Transaction n writes these rows and its number into the row "newest". */
static unsigned
txn_row(unsigned n, unsigned k)
{
    return k == 0 && n % 20 == 0 ? n / 20 * 300 % ROWS + 17 : (n * 37 + k) % ROWS;
}

static void
put_row(ash_session *s, ash_table *t, unsigned i, unsigned n, unsigned char *value)
{
    char key[32];

    must_ok(ash_put(s, t, row_key(i, key), ash_slice(value, row_value(i, n, value))));
}

static void
put_newest(ash_session *s, ash_table *t, unsigned n)
{
    must_ok(ash_put(s, t, ash_slice("newest", 6), ash_slice(&n, sizeof(n))));
}

static void
load(ash_session *s, ash_table *t, ash_table *wide, unsigned char *value)
{
    for (unsigned i = 0; i < ROWS; i += 100) {
        must_ok(ash_begin(s, NULL));
        for (unsigned k = i; k < i + 100; k++)
            put_row(s, t, k, 0, value);
        must_ok(ash_commit(s));
    }
    must_ok(ash_begin(s, NULL));
    for (unsigned i = 0; i < WIDE; i++)
        put_row(s, wide, i, TXNS + 1, value);
    must_ok(ash_commit(s));
    put_newest(s, t, 0);
}

struct make {
    const char *dir;
    bool close;
};

static void
make_main(void *arg)
{
    const struct make *m = arg;
    struct ash_table_options wide_options = { .page_size = 16384 };
    unsigned char *value = malloc(VALUE_MAX);
    ash_db *db;
    ash_session *s;
    ash_table *t, *wide;

    must(value != NULL, "no memory");
    must_ok(ash_open(m->dir, ASH_OPEN_CREATE, HOSTILE_OPTIONS, &db));
    must_ok(ash_session_open(db, &s));
    must_ok(ash_table_create(s, "t", NULL));
    must_ok(ash_table_create(s, "wide", &wide_options));
    must_ok(ash_table_open(s, "t", &t));
    must_ok(ash_table_open(s, "wide", &wide));
    load(s, t, wide, value);
    must_ok(ash_checkpoint(db));
    for (unsigned n = 1; n <= TXNS; n++) {
        must_ok(ash_begin(s, NULL));
        for (unsigned k = 0; k < PER_TXN; k++)
            put_row(s, t, txn_row(n, k), n, value);
        put_newest(s, t, n);
        must_ok(ash_commit(s));
    }
    if (!m->close)
        _exit(0);
    ash_table_close(t);
    ash_table_close(wide);
    must_ok(ash_close(db));
    free(value);
}

/* ---- One flip ---- */

struct flip {
    const char *from; /* the untouched database */
    bool clean;       /* it was closed */
    char dir[64];
    char file[64];
    uint64_t offset;
    unsigned bit;
};

static _Noreturn void
bad(const struct flip *f, const char *what)
{
    const struct ash_error *e = ash_error_last();

    fprintf(stderr, "%s: bit %u of byte %llu of %s/%s; last error: %s: %s (%s)\n", what, f->bit,
            (unsigned long long)f->offset, f->from, f->file, ash_rc_name(e->code), e->message,
            e->where);
    _exit(1);
}

static bool
names_place(const char *text)
{
    return strstr(text, "page") != NULL || strstr(text, ".ash") != NULL ||
           strstr(text, "wal-") != NULL;
}

/* F2 */
static void
check_error(const struct flip *f, ash_rc rc)
{
    if (rc != ASH_CORRUPT)
        bad(f, "not a corruption code");
    if (!names_place(ash_error_last()->message))
        bad(f, "the message names neither a file nor a page");
}

struct findings {
    const struct flip *f;
    unsigned count;
};

static void
on_finding(void *arg, const char *file, uint64_t page, const char *message)
{
    struct findings *found = arg;

    found->count++;
    if (file[0] == '\0' && page == 0)
        bad(found->f, "a finding without file and page");
    if (message[0] == '\0')
        bad(found->f, "a finding without a message");
}

/* False when the row cannot be read because of damage. */
static bool
check_row(const struct flip *f, ash_session *s, ash_table *t, unsigned i, unsigned n,
          unsigned char *expected)
{
    char key[32];
    struct ash_slice got;
    ash_rc rc = ash_get(s, t, row_key(i, key), &got);

    if (rc == ASH_CORRUPT) {
        check_error(f, rc);
        return false;
    }
    size_t size = row_value(i, n, expected);
    if (rc != ASH_OK || got.size != size || memcmp(got.data, expected, size) != 0)
        bad(f, "a wrong row");
    return true;
}

static bool
check_scan(const struct flip *f, ash_session *s, ash_table *t, unsigned expected)
{
    ash_cursor *c;
    struct ash_row row;
    unsigned rows = 0;
    ash_rc rc;

    must_ok(ash_cursor_open(s, t, NULL, &c));
    while ((rc = ash_cursor_next(c, &row)) == ASH_OK)
        rows++;
    if (rc != ASH_NOT_FOUND)
        check_error(f, rc);
    else if (rows != expected)
        bad(f, "a scan gives another number of rows");
    ash_cursor_close(c);
    return rc == ASH_NOT_FOUND;
}

/* Reads everything; false when damage was met.  *n_out: the newest transaction. */
static bool
read_all(const struct flip *f, ash_session *s, unsigned *n_out)
{
    static unsigned version[ROWS];
    unsigned char *expected = malloc(VALUE_MAX);
    ash_table *t = NULL, *wide = NULL;
    struct ash_slice got;
    bool whole = true;
    ash_rc rc = ash_table_open(s, "t", &t);

    if (rc == ASH_OK)
        rc = ash_table_open(s, "wide", &wide);
    if (rc == ASH_OK)
        rc = ash_get(s, t, ash_slice("newest", 6), &got);
    if (rc != ASH_OK) {
        check_error(f, rc);
        whole = false;
        goto out;
    }
    if (got.size != sizeof(*n_out))
        bad(f, "a wrong row");
    memcpy(n_out, got.data, sizeof(*n_out));
    if (*n_out > TXNS)
        bad(f, "a wrong row");
    for (unsigned n = 1; n <= *n_out; n++)
        for (unsigned k = 0; k < PER_TXN; k++)
            version[txn_row(n, k)] = n;
    for (unsigned i = 0; i < ROWS; i++)
        whole &= check_row(f, s, t, i, version[i], expected);
    for (unsigned i = 0; i < WIDE; i++)
        whole &= check_row(f, s, wide, i, TXNS + 1, expected);
    whole &= check_scan(f, s, t, ROWS + 1);
    whole &= check_scan(f, s, wide, WIDE);
out:
    ash_table_close(t);
    ash_table_close(wide);
    free(expected);
    return whole;
}

static void
flip_main(void *arg)
{
    struct flip *f = arg;
    struct findings found = { f, 0 };
    unsigned newest = 0;
    ash_db *db;
    ash_session *s;
    ash_rc rc = ash_open(f->dir, 0, HOSTILE_OPTIONS, &db);

    if (rc != ASH_OK) {
        check_error(f, rc);
        _exit(OUT_OPEN);
    }
    must_ok(ash_session_open(db, &s));
    bool whole = read_all(f, s, &newest);
    rc = ash_verify(db, on_finding, &found);
    if (rc != ASH_OK && found.count == 0)
        check_error(f, rc); /* the checkpoint before it failed */
    if (rc == ASH_OK && !whole)
        bad(f, "verification did not find what a read found");
    ash_close(db); /* may fail, must return */
    if (!whole || rc != ASH_OK)
        _exit(whole ? OUT_VERIFY : OUT_READ);
    if (newest == TXNS)
        _exit(OUT_HARMLESS);
    /* Each commit waited for its write: the last write holds the last transaction. */
    if (f->clean || strstr(f->file, "wal") == NULL || newest != TXNS - 1)
        bad(f, "transactions are gone");
    _exit(OUT_TAIL);
}

/* ---- All flips ---- */

struct files {
    unsigned count;
    struct {
        char name[64];
        uint64_t size;
    } file[FILES_MAX];
    uint64_t bytes;
};

static void
list_files(const char *dir, struct files *out)
{
    DIR *d = opendir(dir);
    char path[512];
    struct stat st;

    out->count = 0;
    out->bytes = 0;
    must(d != NULL, "no directory %s", dir);
    for (struct dirent *x; (x = readdir(d)) != NULL;) {
        snprintf(path, sizeof(path), "%s/%s", dir, x->d_name);
        if (x->d_name[0] == '.' || stat(path, &st) != 0 || st.st_size == 0)
            continue;
        must(out->count < FILES_MAX, "too many files");
        snprintf(out->file[out->count].name, 64, "%.63s", x->d_name);
        out->file[out->count++].size = (uint64_t)st.st_size;
        out->bytes += (uint64_t)st.st_size;
    }
    closedir(d);
}

/* Half of the flips take any byte, the others any file (so that small ones get their share), and of
 * those some its beginning. */
static void
choose(const struct files *files, struct random *r, struct flip *f)
{
    uint64_t at = random_below(r, files->bytes);
    unsigned i = 0;

    if (random_chance(r, 1, 2)) {
        i = (unsigned)random_below(r, files->count);
        at = random_below(r, random_chance(r, 1, 4) ? 4096 : files->file[i].size);
    } else {
        for (; at >= files->file[i].size; i++)
            at -= files->file[i].size;
    }
    snprintf(f->file, sizeof(f->file), "%s", files->file[i].name);
    f->offset = at;
    f->bit = (unsigned)random_below(r, 8);
}

static void
flip_bit(const struct flip *f)
{
    char path[256];
    unsigned char byte;

    snprintf(path, sizeof(path), "%s/%s", f->dir, f->file);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    must(fd >= 0 && pread(fd, &byte, 1, (off_t)f->offset) == 1, "cannot read %s", path);
    byte ^= (unsigned char)(1u << f->bit);
    must(pwrite(fd, &byte, 1, (off_t)f->offset) == 1, "cannot write %s", path);
    close(fd);
}

static void
flips(bool clean, uint64_t seed)
{
    char from[] = "flip.XXXXXX";
    struct flip f = { .clean = clean };
    static struct files files;
    struct random r;
    unsigned count = (unsigned)test_scale(test_forks() ? 30 : 8, 500), got[8] = { 0 };

    db_env_seed = seed;
    random_init(&r, seed);
    must(mkdtemp(from) != NULL, "no temporary directory");
    struct make m = { from, clean };
    must(hostile_child(make_main, &m, 300) == 0, "the database cannot be made");
    f.from = from;
    snprintf(f.dir, sizeof(f.dir), "%s.copy", from);
    list_files(from, &files);
    for (unsigned i = 0; i < count; i++) {
        choose(&files, &r, &f);
        hostile_copy_dir(from, f.dir);
        flip_bit(&f);
        int out = hostile_child(flip_main, &f, 120);
        must(out >= OUT_OPEN && out <= OUT_TAIL,
             "flip %u: bit %u of byte %llu of %s: the child ended with %d (kept in %s)", i, f.bit,
             (unsigned long long)f.offset, f.file, out, from);
        got[out - OUT_OPEN]++;
    }
    printf(
        "test_flip_files: %s, %u files, %llu KiB, %u flips: %u found at open, %u by a read, %u by "
        "verify only; %u harmless, %u in the log's last write\n",
        clean ? "closed" : "crashed", files.count, (unsigned long long)files.bytes >> 10, count,
        got[0], got[1], got[2], got[3], got[4]);
    test_dir_remove(f.dir);
    test_dir_remove(from);
}

START_TEST(a_flip_in_a_closed_database_is_noticed_or_harmless)
{
    flips(true, test_seed(1));
}
END_TEST

START_TEST(a_flip_in_a_crashed_database_is_noticed_or_harmless)
{
    flips(false, test_seed(2));
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("flip_files");
    TCase *tc = tcase_create("bits");

    tcase_set_timeout(tc, 3600);
    tcase_add_test(tc, a_flip_in_a_closed_database_is_noticed_or_harmless);
    tcase_add_test(tc, a_flip_in_a_crashed_database_is_noticed_or_harmless);
    suite_add_tcase(s, tc);
    return s;
}

TEST_MAIN(suite)
