/* SPDX-License-Identifier: Apache-2.0
 *
 * test_iob.c - `ashlar-bench io`: options, job files, contradictions, the order of I/O, verified
 * data, protection of files.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "bench/iob.h"
#include "tests/test_main.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static struct iob_setup setup;

static void
fresh(void)
{
    iob_setup_init(&setup);
}

static void
gone(void)
{
    iob_setup_deinit(&setup);
}

static ash_rc
arguments(const char *line)
{
    static char copy[2048];
    char *argv[64], *save = NULL;
    int argc = 0;

    snprintf(copy, sizeof(copy), "%s", line);
    for (char *at = strtok_r(copy, " ", &save); at != NULL; at = strtok_r(NULL, " ", &save))
        argv[argc++] = at;
    return iob_arguments(&setup, argc, argv);
}

static ash_rc
checked(const char *line)
{
    ash_rc rc = arguments(line);
    return rc == ASH_OK ? iob_check(&setup) : rc;
}

/* ---- Options ---- */

START_TEST(values_are_read_as_fio_reads_them)
{
    ck_assert_int_eq(arguments("--bs=8k --name=a --size 1g --iodepth=32 --rw=randrw "
                               "--rwmixread=70 --runtime=500ms --direct --thinktime=20 "
                               "--rate=1m,512k --percentile_list=50:99.9 --name=b --bs=4k,16KiB"),
                     ASH_OK);
    const struct iob_job *a = setup.job[0], *b = setup.job[1];
    ck_assert_uint_eq(setup.jobs, 2);
    ck_assert_str_eq(a->name, "a");
    ck_assert_uint_eq(a->bs[IOB_READ].min, 8192);
    ck_assert_uint_eq(a->bs[IOB_WRITE].max, 8192);
    ck_assert_uint_eq(a->size, 1u << 30);
    ck_assert_uint_eq(a->iodepth, 32);
    ck_assert_uint_eq(a->rw, IOB_RW_RANDRW);
    ck_assert_uint_eq(a->runtime, 500000000);
    ck_assert_uint_eq(a->direct, 1);
    ck_assert_uint_eq(a->thinktime, 20000);
    ck_assert_uint_eq(a->rate[IOB_READ], 1u << 20);
    ck_assert_uint_eq(a->rate[IOB_WRITE], 512u << 10);
    ck_assert_uint_eq(a->percentiles, 2);
    ck_assert_double_eq_tol(a->percentile[1], 99.9, 1e-9);
    ck_assert_uint_eq(b->bs[IOB_READ].min, 4096);
    ck_assert_uint_eq(b->bs[IOB_WRITE].min, 16384);
    ck_assert_uint_eq(b->iodepth, 1);
}
END_TEST

static const struct {
    const char *argument, *says;
} wrong[] = {
    { "--frobnicate=1", "frobnicate" },
    { "--rw=sideways", "randrw" },
    { "--bs=512", "no multiple of 4096" },
    { "--bs=8m", "outside" },
    { "--bs=4k,4k,4k", "reads,writes" },
    { "--bs=4k:", "4k" },
    { "--bsrange=64k-4k", "range" },
    { "--bsrange=4k", "range" },
    { "--bsrange=8k-20k", "multiple" },
    { "--bssplit=4k/60:8k/50", "110" },
    { "--bssplit=4k/60", "60" },
    { "--bssplit=4k/", "" },
    { "--iodepth=0", "outside" },
    { "--iodepth=4x", "number" },
    { "--iodepth=99999999999999999999", "number" },
    { "--size=big", "size" },
    { "--size=0%", "share" },
    { "--size=101%", "share" },
    { "--size=50%x", "size" },
    { "--size=99999999t", "size" },
    { "--runtime=5parsecs", "time" },
    { "--runtime=99999999999", "1000 days" },
    { "--direct=2", "outside" },
    { "--direct=yes", "0 or 1" },
    { "--percentile_list=99:50", "growing" },
    { "--percentile_list=101", "list" },
    { "--percentile_list=50:", "list" },
    { "--ioengine=libaio", "io_uring" },
    { "--verify=md5", "crc32c" },
    { "--filename", "needs a value" },
    { "--name", "needs a value" },
    { "--output=", "needs a value" },
    { "no-such-job-file.fio", "no-such-job-file.fio" },
};

START_TEST(a_wrong_value_is_refused_by_name)
{
    ash_rc rc = arguments(wrong[_i].argument);

    if (*wrong[_i].says == '\0') {
        ck_assert_int_eq(rc, ASH_OK); /* an empty share takes what is left */
        return;
    }
    ck_assert_msg(rc != ASH_OK, "accepted: %s", wrong[_i].argument);
    ck_assert_msg(strstr(err_current()->message, wrong[_i].says) != NULL, "%s: %s",
                  wrong[_i].argument, err_current()->message);
}
END_TEST

static const struct {
    const char *line, *says;
} contradictory[] = {
    { "", "No job" },
    { "--name=a", "size is needed" },
    { "--name=a --size=1m --bs=4k --bsrange=4k-8k", "bsrange" },
    { "--name=a --size=1m --direct=1 --buffered=1", "buffered" },
    { "--name=a --size=1m --rw=rw --rwmixread=60 --rwmixwrite=60", "100" },
    { "--name=a --size=1m --time_based", "runtime" },
    { "--name=a --size=1m --time_based --runtime=1 --loops=2", "loops" },
    { "--name=a --size=1m --rate=1m --rate_iops=10", "rate_iops" },
    { "--name=a --size=1m --rw=write --fsync=1 --fdatasync=1", "fdatasync" },
    { "--name=a --size=1m --ioengine=psync --fixedbufs", "ring" },
    { "--name=a --size=1m --ioengine=threads --sqthread_poll", "ring" },
    { "--name=a --size=1m --hipri", "direct=1" },
    { "--name=a --size=1m --iodepth=4 --iodepth_batch=8", "iodepth_batch" },
    { "--name=a --size=1m --iodepth=4 --ioengine=psync", "one request" },
    { "--name=a --size=1m --thinktime_blocks=2", "thinktime" },
    { "--name=a --size=1m --iomem_align=512", "iomem_align" },
    { "--name=a --size=1m --iomem_align=12k", "iomem_align" },
    { "--name=a --size=1m --offset=512", "offset" },
    { "--name=a --size=1m --filename=f --nrfiles=2", "nrfiles" },
    { "--name=a --size=1m --rw=write --verify=crc32c --zero_buffers", "zero_buffers" },
    { "--name=a --size=1m --do_verify=1", "verify" },
    { "--name=a --size=1m --filename=f --rw=write --verify=crc32c --numjobs=2", "clones" },
    { "--readonly --name=a --size=1m --rw=randrw", "readonly" },
    { "--name=a --size=8k --nrfiles=4", "less than a block" },
    { "--name=a --size=8m --filesize=4m", "filesize" },
    { "--filename=f --size=1m --name=a --rw=write --verify=crc32c --name=b --rw=write",
      "stonewall" },
};

START_TEST(contradictions_are_told_in_a_sentence)
{
    ash_rc rc = checked(contradictory[_i].line);

    ck_assert_msg(rc == ASH_INVALID, "accepted: %s", contradictory[_i].line);
    ck_assert_msg(strstr(err_current()->message, contradictory[_i].says) != NULL, "%s: %s",
                  contradictory[_i].line, err_current()->message);
}
END_TEST

/* Goal: a row of the table never shares its name with another, so no option hides one. */
START_TEST(names_are_unique)
{
    for (unsigned i = 0; iob_option_name(i) != NULL; i++)
        for (unsigned k = 0; k < i; k++)
            ck_assert_str_ne(iob_option_name(i), iob_option_name(k));
}
END_TEST

/* ---- Job files ---- */

static ash_rc
jobfile(const char *text)
{
    static char copy[8192];

    snprintf(copy, sizeof(copy), "%s", text);
    return iob_jobfile_parse(&setup, "j.fio", copy);
}

START_TEST(a_job_file_means_what_it_means_to_fio)
{
    setenv("IOB_TEST_DEPTH", "16", 1);
    ck_assert_int_eq(jobfile("; a comment\n# another\n[global]\nbs = 8k ; of all\ndirect\n"
                             "filename=a;b\n\n[one]\nrw=randread\niodepth=${IOB_TEST_DEPTH}\n"
                             "[global]\nbs=16k\n[two]\r\nrw = write\r\nsize=1${IOB_NOT_SET}m\n"),
                     ASH_OK);
    ck_assert_uint_eq(setup.jobs, 2);
    const struct iob_job *one = setup.job[0], *two = setup.job[1];
    ck_assert_str_eq(one->name, "one");
    ck_assert_uint_eq(one->bs[0].min, 8192);
    ck_assert_uint_eq(one->direct, 1);
    ck_assert_uint_eq(one->iodepth, 16);
    ck_assert_str_eq(one->filename, "a;b");
    ck_assert_uint_eq(two->bs[0].min, 16384);
    ck_assert_uint_eq(two->rw, IOB_RW_WRITE);
    ck_assert_uint_eq(two->size, 1u << 20);
    ck_assert_uint_eq(two->iodepth, 1);
}
END_TEST

/* Goal: what a job says itself replaces other ways to say it in [global]. */
START_TEST(a_job_overrides_alternatives_of_global)
{
    ck_assert_int_eq(jobfile("[global]\nsize=1m\nbssplit=4k/50:8k/50\nrate=1m\nbuffered=1\n"
                             "[a]\nbs=16k\nrate_iops=10\ndirect=1\n[b]\nbsrange=4k-8k\n"),
                     ASH_OK);
    ck_assert_int_eq(iob_check(&setup), ASH_OK);
    const struct iob_job *a = setup.job[0], *b = setup.job[1];
    ck_assert(a->bs[0].min == 16384 && a->bs[0].splits == 0);
    ck_assert(a->rate[0] == 0 && a->rate_iops[1] == 10 && a->direct == 1);
    ck_assert(b->bs[0].max == 8192 && b->bs[0].splits == 0);
    ck_assert(b->rate[0] == 1u << 20 && b->direct == 0);
}
END_TEST

static const struct {
    const char *text, *says;
} bad_files[] = {
    { "[a]\nrw=read\nfrob=1\n", "j.fio:3: frob: there is no option \"frob\"" },
    { "rw=read\n[a]\n", "j.fio:1" },
    { "[a\n", "j.fio:1" },
    { "[]\n", "no name" },
    { "[a]\nname=b\n", "section" },
    { "[a]\niodepth\n", "needs a value" },
    { "[a]\niodepth=many\n", "j.fio:2: iodepth: \"many\"" },
    { "[a]\noutput=x\n", "command line" },
    { "[global]\nbs=4k\n", "no job" },
    { "", "no job" },
};

START_TEST(a_bad_job_file_is_refused_with_its_line)
{
    ck_assert_int_ne(jobfile(bad_files[_i].text), ASH_OK);
    ck_assert_msg(strstr(err_current()->message, bad_files[_i].says) != NULL, "%s",
                  err_current()->message);
}
END_TEST

/* Goal: whatever a job file holds, it is accepted or refused with a sentence.  Method: random
 * changes of a good one; sanitizers watch. */
START_TEST(mutated_job_files_are_judged)
{
    static const char good[] = "[global]\nioengine=io_uring\nsize=9m\nbssplit=4k/60:8k/:16k/\n"
                               "percentile_list=50:99:99.9\n[a]\nrw=randrw\nsize=1g\nruntime=5m\n"
                               "rate=10m,5m\nfilename=x:y\n[b]\nbsrange=4k-64k,8k-8k\noffset=4k\n";
    static const char bytes[] = "[]=;#:/,-\n 0k9${}\\\"a";
    struct random random;
    char text[2 * sizeof(good)];
    unsigned refused = 0, rounds = (unsigned)test_scale(2000, 200000);

    random_init(&random, test_seed(7));
    for (unsigned i = 0; i < rounds; i++) {
        size_t n = sizeof(good) - 1;
        memcpy(text, good, n);
        for (uint64_t k = random_below(&random, 6); k-- > 0;) {
            size_t at = random_below(&random, n);
            if (random_chance(&random, 1, 3) && n > 20) {
                memmove(text + at, text + at + 1, n - at - 1);
                n--;
            } else {
                text[at] = bytes[random_below(&random, sizeof(bytes) - 1)];
            }
        }
        text[n] = '\0';
        err_current()->message[0] = '\0';
        ash_rc rc = iob_jobfile_parse(&setup, "j.fio", text);
        if (rc == ASH_OK)
            rc = iob_check(&setup);
        refused += rc != ASH_OK;
        ck_assert(rc == ASH_OK || err_current()->message[0] != '\0');
        iob_setup_deinit(&setup);
        iob_setup_init(&setup);
    }
    ck_assert_uint_gt(refused, 0);
    ck_assert_uint_lt(refused, rounds);
}
END_TEST

/* ---- The order of I/O ---- */

START_TEST(permutation_hits_everything_once)
{
    static uint8_t seen[5000];
    static const uint64_t counts[] = { 1, 2, 3, 4, 5, 7, 8, 9, 100, 1023, 1024, 1025, 4999, 5000 };
    uint64_t count = counts[_i];

    for (uint64_t key = 0; key < 5; key++) {
        memset(seen, 0, sizeof(seen));
        for (uint64_t i = 0; i < count; i++) {
            uint64_t at = iob_permute(i, count, hash_u64(key + 1));
            ck_assert_uint_lt(at, count);
            ck_assert_uint_eq(seen[at]++, 0);
        }
    }
}
END_TEST

static struct iob_plan plan;

static void
plan_of(const char *line, unsigned files, uint64_t length)
{
    ck_assert_int_eq(checked(line), ASH_OK);
    iob_plan_init(&plan, setup.job[0], 0, files, length);
}

/* Goal: a random pass touches every block of every file exactly once, and as often as loops says. */
START_TEST(random_map_covers_each_file)
{
    static unsigned seen[4][1000];
    struct iob_op op;
    unsigned n = 0;

    memset(seen, 0, sizeof(seen));
    plan_of("--name=a --size=16m --rw=randwrite --loops=2 --nrfiles=4", 4, 1000 * 4096);
    while (iob_plan_next(&plan, &op)) {
        ck_assert_uint_eq(op.bytes, 4096);
        seen[op.file][op.offset / 4096]++;
        n++;
    }
    ck_assert_uint_eq(n, 8000);
    for (unsigned f = 0; f < 4; f++)
        for (unsigned i = 0; i < 1000; i++)
            ck_assert_uint_eq(seen[f][i], 2);
}
END_TEST

START_TEST(sequential_goes_on_and_starts_over)
{
    struct iob_op op;

    plan_of("--name=a --size=40k --rw=read --bs=16k --offset=8k --time_based --runtime=1", 1,
            40960);
    for (unsigned i = 0; i < 9; i++) {
        ck_assert(iob_plan_next(&plan, &op));
        ck_assert_uint_eq(op.offset, 8192 + (i % 2) * 16384);
        ck_assert_uint_eq(op.bytes, 16384);
    }
}
END_TEST

START_TEST(sizes_and_directions_have_their_shares)
{
    unsigned small = 0, reads = 0, n = 20000;
    struct iob_op op;

    plan_of("--name=a --size=1g --rw=randrw --rwmixread=70 --norandommap --time_based --runtime=1 "
            "--bssplit=4k/90:64k/10",
            1, 1u << 30);
    for (unsigned i = 0; i < n; i++) {
        ck_assert(iob_plan_next(&plan, &op));
        small += op.bytes == 4096;
        reads += op.dir == IOB_READ;
        ck_assert(op.offset + op.bytes <= 1u << 30);
    }
    ck_assert_double_eq_tol(small / (double)n, 0.9, 0.02);
    ck_assert_double_eq_tol(reads / (double)n, 0.7, 0.02);
}
END_TEST

START_TEST(equal_seeds_give_equal_orders)
{
    struct iob_plan other;
    struct iob_op a, b;
    bool differs = false;

    plan_of("--name=a --size=1m --rw=randrw --bsrange=4k-16k --randseed=5", 1, 1u << 20);
    iob_plan_init(&other, setup.job[0], 0, 1, 1u << 20);
    while (iob_plan_next(&plan, &a)) {
        ck_assert(iob_plan_next(&other, &b));
        ck_assert(a.offset == b.offset && a.bytes == b.bytes && a.dir == b.dir);
    }
    iob_plan_init(&plan, setup.job[0], 0, 1, 1u << 20);
    iob_plan_init(&other, setup.job[0], 1, 1, 1u << 20);
    for (unsigned i = 0; i < 10 && iob_plan_next(&plan, &a) && iob_plan_next(&other, &b); i++)
        differs = differs || a.offset != b.offset;
    ck_assert(differs); /* clones go their own ways */
}
END_TEST

/* ---- Verified data ---- */

#define VERIFIED (64u << 10)
static struct iob_written written;
static unsigned char data[VERIFIED];

static void
write_all(void)
{
    ck_assert_int_eq(iob_written_init(&written, 8192, VERIFIED, 42), ASH_OK);
    iob_verify_fill(&written, 8192, data, VERIFIED / 2);
    iob_verify_fill(&written, 8192 + VERIFIED / 2, data + VERIFIED / 2, VERIFIED / 2);
}

static ash_rc
check_all(void)
{
    return iob_verify_check(&written, "f", 8192, data, VERIFIED, /* all: */ true);
}

/* Goal: no byte can be flipped unseen.  Method: each bit of one unit, and random bits of all. */
START_TEST(a_flipped_bit_is_found)
{
    struct random random;

    write_all();
    ck_assert_int_eq(check_all(), ASH_OK);
    random_init(&random, test_seed(3));
    for (unsigned i = 0; i < 8 * IOB_UNIT / 16 + 500; i++) {
        uint64_t bit = i < 8 * IOB_UNIT / 16 ? i * 16 + i % 16
                                             : random_below(&random, 8 * VERIFIED);
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
        ck_assert_int_eq(check_all(), ASH_CORRUPT);
        ck_assert_ptr_nonnull(strstr(err_current()->message, "offset"));
        data[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    ck_assert_int_eq(check_all(), ASH_OK);
    iob_written_deinit(&written);
}
END_TEST

START_TEST(lost_and_misplaced_writes_are_found)
{
    static unsigned char before[IOB_UNIT];

    write_all();
    memcpy(before, data, IOB_UNIT);
    iob_verify_fill(&written, 8192, data, IOB_UNIT);
    ck_assert_int_eq(check_all(), ASH_OK);
    memcpy(data, before, IOB_UNIT); /* the second write never arrived */
    ck_assert_int_eq(check_all(), ASH_CORRUPT);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "version"));
    memcpy(data, data + IOB_UNIT, IOB_UNIT); /* another unit's data */
    ck_assert_int_eq(check_all(), ASH_CORRUPT);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "the offset"));
    iob_written_deinit(&written);
}
END_TEST

START_TEST(only_what_was_written_is_read_back)
{
    uint64_t at = 0, offset;
    uint32_t bytes;

    ck_assert_int_eq(iob_written_init(&written, 0, 10 * IOB_UNIT, 1), ASH_OK);
    iob_verify_fill(&written, 1 * IOB_UNIT, data, 3 * IOB_UNIT);
    iob_verify_fill(&written, 9 * IOB_UNIT, data, IOB_UNIT);
    ck_assert(iob_written_next(&written, &at, 2 * IOB_UNIT, &offset, &bytes));
    ck_assert(offset == IOB_UNIT && bytes == 2 * IOB_UNIT);
    ck_assert(iob_written_next(&written, &at, 2 * IOB_UNIT, &offset, &bytes));
    ck_assert(offset == 3 * IOB_UNIT && bytes == IOB_UNIT);
    ck_assert(iob_written_next(&written, &at, 2 * IOB_UNIT, &offset, &bytes));
    ck_assert(offset == 9 * IOB_UNIT && bytes == IOB_UNIT);
    ck_assert(!iob_written_next(&written, &at, 2 * IOB_UNIT, &offset, &bytes));
    iob_written_deinit(&written);
}
END_TEST

/* ---- Files ---- */

static char dir[256];
static struct io *io;

static void
files_begin(void)
{
    struct io_options o = { .backend = IO_BACKEND_THREADS };
    const char *tmp = getenv("TMPDIR");

    fresh();
    snprintf(dir, sizeof(dir), "%s/iob.XXXXXX", tmp == NULL ? "/tmp" : tmp);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(io_create(&o, &io), ASH_OK);
}

static void
files_end(void)
{
    char command[512];

    io_destroy(io);
    gone();
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    ck_assert_int_eq(system(command), 0);
}

static ash_rc
open_files(const char *options, struct iob_files *files)
{
    char line[600];

    iob_setup_deinit(&setup);
    iob_setup_init(&setup);
    snprintf(line, sizeof(line), "--directory=%s --name=a %s", dir, options);
    ck_assert_int_eq(checked(line), ASH_OK);
    return iob_files_open(setup.job[0], io, setup.command.readonly != 0, files);
}

static void
put_file(const char *name, unsigned bytes)
{
    char path[400], block[4096];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    memset(block, 'x', sizeof(block));
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert_int_ge(fd, 0);
    for (; bytes > 0; bytes -= 4096)
        ck_assert_int_eq(write(fd, block, 4096), 4096);
    close(fd);
}

START_TEST(a_foreign_file_is_not_written_to)
{
    struct iob_files files;

    put_file("f", 65536);
    ck_assert_int_eq(open_files("--filename=f --rw=randwrite --size=64k", &files), ASH_EXISTS);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "allow_overwrite=1"));
    ck_assert_int_eq(open_files("--filename=f --rw=randread --size=64k", &files), ASH_OK);
    ck_assert_uint_eq(files.length, 65536);
    iob_files_close(setup.job[0], &files, false);
    ck_assert_int_eq(open_files("--filename=f --rw=randwrite --allow_overwrite=1", &files), ASH_OK);
    iob_files_close(setup.job[0], &files, true);
}
END_TEST

START_TEST(a_short_file_is_not_grown_unless_ours)
{
    struct iob_files files;

    put_file("f", 8192);
    ck_assert_int_eq(open_files("--filename=f --rw=randread --size=64k", &files), ASH_INVALID);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "has 8192 bytes"));
    ck_assert_int_eq(open_files("--filename=f --rw=read --offset=8k", &files), ASH_INVALID);
    ck_assert_ptr_nonnull(strstr(err_current()->message, "no room"));
    ck_assert_int_eq(open_files("--filename=g --rw=randread --size=64k", &files), ASH_OK);
    ck_assert(files.file[0].made_now && files.file[0].size == 65536);
    iob_files_close(setup.job[0], &files, false);
}
END_TEST

START_TEST(a_share_is_of_the_existing_file)
{
    struct iob_files files;

    put_file("f", 65536);
    ck_assert_int_eq(open_files("--filename=f --rw=read --size=50%", &files), ASH_OK);
    ck_assert_uint_eq(files.length, 32768);
    iob_files_close(setup.job[0], &files, false);
    ck_assert_int_eq(open_files("--filename=f --rw=read --size=100% --offset=60k", &files), ASH_OK);
    ck_assert_uint_eq(files.length, 4096);
    iob_files_close(setup.job[0], &files, false);
}
END_TEST

START_TEST(missing_files_are_made_only_where_allowed)
{
    struct iob_files files;

    ck_assert_int_eq(open_files("--filename=f --rw=read", &files), ASH_NOT_FOUND);
    ck_assert_int_eq(open_files("--readonly --filename=f --rw=read --size=64k", &files),
                     ASH_NOT_FOUND);
    ck_assert_int_eq(open_files("--filename=f --rw=read --verify=crc32c --size=64k", &files),
                     ASH_NOT_FOUND);
    ck_assert_int_eq(open_files("--filename=no/f --rw=write --size=64k", &files), ASH_NOT_FOUND);
    ck_assert_int_eq(open_files("--filename=f:f --rw=write --size=64k", &files), ASH_INVALID);
    ck_assert_int_eq(open_files("--filename=. --rw=read --size=64k", &files), ASH_INVALID);
}
END_TEST

START_TEST(clones_have_their_own_files)
{
    struct iob_files files;

    ck_assert_int_eq(open_files("--numjobs=3 --nrfiles=2 --rw=write --size=64k --unlink", &files),
                     ASH_OK);
    ck_assert_uint_eq(files.count, 6);
    ck_assert_uint_eq(files.length, 32768);
    ck_assert_ptr_nonnull(strstr(iob_files_of(&files, 2)->path, "/a.2.0"));
    iob_files_close(setup.job[0], &files, true);
    ck_assert_int_eq(
        open_files("--filename=x\\:y:z --numjobs=3 --rw=write --size=64k --unlink", &files),
        ASH_OK);
    ck_assert_uint_eq(files.count, 2);
    ck_assert_ptr_nonnull(strstr(files.file[0].path, "/x:y"));
    ck_assert_ptr_eq(iob_files_of(&files, 2), files.file);
    iob_files_close(setup.job[0], &files, true);
}
END_TEST

static Suite *
suite(void)
{
    Suite *s = suite_create("iob");
    TCase *t = tcase_create("options");
    tcase_add_checked_fixture(t, fresh, gone);
    tcase_add_test(t, values_are_read_as_fio_reads_them);
    tcase_add_loop_test(t, a_wrong_value_is_refused_by_name, 0, ASH_ARRAY_SIZE(wrong));
    tcase_add_loop_test(t, contradictions_are_told_in_a_sentence, 0, ASH_ARRAY_SIZE(contradictory));
    tcase_add_test(t, names_are_unique);
    tcase_add_test(t, a_job_file_means_what_it_means_to_fio);
    tcase_add_test(t, a_job_overrides_alternatives_of_global);
    tcase_add_loop_test(t, a_bad_job_file_is_refused_with_its_line, 0, ASH_ARRAY_SIZE(bad_files));
    tcase_add_test(t, mutated_job_files_are_judged);
    suite_add_tcase(s, t);
    t = tcase_create("plan");
    tcase_add_checked_fixture(t, fresh, gone);
    tcase_add_loop_test(t, permutation_hits_everything_once, 0, 14);
    tcase_add_test(t, random_map_covers_each_file);
    tcase_add_test(t, sequential_goes_on_and_starts_over);
    tcase_add_test(t, sizes_and_directions_have_their_shares);
    tcase_add_test(t, equal_seeds_give_equal_orders);
    suite_add_tcase(s, t);
    t = tcase_create("verify");
    tcase_add_test(t, a_flipped_bit_is_found);
    tcase_add_test(t, lost_and_misplaced_writes_are_found);
    tcase_add_test(t, only_what_was_written_is_read_back);
    suite_add_tcase(s, t);
    t = tcase_create("files");
    tcase_add_checked_fixture(t, files_begin, files_end);
    tcase_add_test(t, a_foreign_file_is_not_written_to);
    tcase_add_test(t, a_short_file_is_not_grown_unless_ours);
    tcase_add_test(t, a_share_is_of_the_existing_file);
    tcase_add_test(t, missing_files_are_made_only_where_allowed);
    tcase_add_test(t, clones_have_their_own_files);
    suite_add_tcase(s, t);
    return s;
}

TEST_MAIN(suite)
