/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_options.c - the option table of `ashlar-bench io`, and how values are read.
 *
 * Names and meanings are fio's as its manual describes them; where the meaning differs, the help
 * says so.  To add an option: a field in struct iob_job, a row here, and what it contradicts in
 * iob_check.c.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"
#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "iob.h"

#define HELP_COLUMN 30

enum kind {
    KIND_TEXT,
    KIND_NUMBER,
    KIND_NUMBERS, /* read[,write] */
    KIND_SIZE,
    KIND_SIZE_OR_SHARE, /* a size, or percent of the file in the number behind it */
    KIND_RATES,         /* read[,write], sizes per second */
    KIND_SECONDS,       /* a time; without a unit in seconds */
    KIND_MICROS,        /* a time; without a unit in microseconds */
    KIND_BOOL,
    KIND_CHOICE,
    KIND_BLOCK, /* the ways to say block sizes */
    KIND_RANGE,
    KIND_SPLIT,
    KIND_PERCENTILES
};

struct row {
    const char *name, *alias;
    enum kind kind;
    bool command; /* a member of struct iob_command; not allowed in job files */
    size_t at;
    uint64_t min, max;
    const char *choices; /* "a|b|c" of KIND_CHOICE; else what the help calls the value */
    const char *initial; /* default, as text; NULL: 0 or none */
    const char *help;
};

#define JOB(field) false, offsetof(struct iob_job, field)
#define CMD(field) true, offsetof(struct iob_command, field)
#define BIG        (1ull << 60)
#define LONG_NS    (1000ull * 86400 * 1000000000)

/* clang-format off */
static const struct row rows[] = {
    { "name", NULL, KIND_TEXT, JOB(name), 0, 0, "NAME", NULL, "begins a job; \"global\": what follows is for all later jobs" },
    { "description", NULL, KIND_TEXT, JOB(description), 0, 0, "TEXT", NULL, "a note, not interpreted" },
    /* what is read and written */
    { "filename", NULL, KIND_TEXT, JOB(filename), 0, 0, "PATH[:PATH]", NULL, "files or block devices, shared by the job's clones; default: NAME.CLONE.FILE" },
    { "directory", NULL, KIND_TEXT, JOB(directory), 0, 0, "DIR", NULL, "where relative file names are" },
    { "nrfiles", NULL, KIND_NUMBER, JOB(nrfiles), 1, IOB_FILES_MAX, "N", "1", "files per clone when filename is not given" },
    { "file_service_type", NULL, KIND_CHOICE, JOB(file_service_type), 0, 0, "roundrobin|random", "roundrobin", "how the next of several files is chosen" },
    { "size", NULL, KIND_SIZE_OR_SHARE, JOB(size), IOB_UNIT, BIG, "BYTES|PERCENT%", NULL, "what one clone reads and writes, divided among its files, or so much of each existing one; default: 100%" },
    { "io_size", "io_limit", KIND_SIZE, JOB(io_size), IOB_UNIT, BIG, "BYTES", NULL, "bytes to move before the job ends; default: size" },
    { "filesize", NULL, KIND_SIZE, JOB(filesize), IOB_UNIT, BIG, "BYTES", NULL, "of a file that is made; default: what the job needs" },
    { "offset", NULL, KIND_SIZE, JOB(offset), 0, BIG, "BYTES", NULL, "where in each file the region begins; it is size bytes long" },
    { "offset_increment", NULL, KIND_SIZE, JOB(offset_increment), 0, BIG, "BYTES", NULL, "added to offset once per clone" },
    { "allow_overwrite", NULL, KIND_BOOL, JOB(allow_overwrite), 0, 1, NULL, "0", "lets a job write to a block device or to a file that ashlar-bench did not make (not in fio)" },
    { "allow_mounted_write", NULL, KIND_BOOL, JOB(allow_mounted_write), 0, 1, NULL, "0", "lets a job write to a block device that is in use" },
    { "fallocate", NULL, KIND_CHOICE, JOB(fallocate), 0, 0, "native|posix|none", "native", "whether files that are made get their blocks at once" },
    { "invalidate", NULL, KIND_BOOL, JOB(invalidate), 0, 1, NULL, "1", "drops what the page cache holds of existing files before the job" },
    { "unlink", NULL, KIND_BOOL, JOB(unlink), 0, 1, NULL, "0", "removes files that this run made" },
    /* which I/O */
    { "rw", "readwrite", KIND_CHOICE, JOB(rw), 0, 0, "read|write|randread|randwrite|rw|readwrite|randrw", "read", "the pattern" },
    { "rwmixread", NULL, KIND_NUMBER, JOB(rwmixread), 0, 100, "PERCENT", "50", "reads in rw and randrw" },
    { "rwmixwrite", NULL, KIND_NUMBER, JOB(rwmixwrite), 0, 100, "PERCENT", "50", "the same from the other side" },
    { "bs", "blocksize", KIND_BLOCK, JOB(bs), IOB_UNIT, IO_TRANSFER_MAX, "BYTES[,BYTES]", "4k", "block size of reads and writes; one value is for both" },
    { "bsrange", "blocksize_range", KIND_RANGE, JOB(bs), IOB_UNIT, IO_TRANSFER_MAX, "MIN-MAX[,MIN-MAX]", NULL, "multiples of MIN up to MAX, equally likely" },
    { "bssplit", NULL, KIND_SPLIT, JOB(bs), IOB_UNIT, IO_TRANSFER_MAX, "SIZE/PERCENT:...", NULL, "block sizes and their shares; an empty share takes what is left" },
    { "norandommap", NULL, KIND_BOOL, JOB(norandommap), 0, 1, NULL, "0", "random offsets may repeat; without it a pass touches each block once" },
    { "randseed", NULL, KIND_NUMBER, JOB(randseed), 0, UINT64_MAX, "N", "0", "of all random choices" },
    { "randrepeat", NULL, KIND_BOOL, JOB(randrepeat), 0, 1, NULL, "1", "0: another seed at each run" },
    { "zero_buffers", NULL, KIND_BOOL, JOB(zero_buffers), 0, 1, NULL, "0", "writes zeros instead of random bytes" },
    { "iomem_align", "mem_align", KIND_SIZE, JOB(iomem_align), 1, 2u << 20, "BYTES", "4096", "alignment of buffers, a power of two from 4096 on" },
    /* how */
    { "ioengine", NULL, KIND_CHOICE, JOB(ioengine), 0, 0, "io_uring|uring|threads|psync|sync|pvsync2", "io_uring", "backend of the disk manager: rings, its pool of threads, or the job's own thread" },
    { "iodepth", NULL, KIND_NUMBER, JOB(iodepth), 1, IOB_DEPTH_MAX, "N", "1", "requests in flight per clone" },
    { "iodepth_batch", "iodepth_batch_submit", KIND_NUMBER, JOB(iodepth_batch), 0, IOB_DEPTH_MAX, "N", "0", "requests per submission; 0: all that are free, in growing pieces, the last in the call that waits (fio: 1)" },
    { "numjobs", NULL, KIND_NUMBER, JOB(numjobs), 1, IOB_CLONES_MAX, "N", "1", "clones of the job, a thread each" },
    { "thread", NULL, KIND_BOOL, JOB(thread), 0, 1, NULL, "1", "accepted for fio's sake: clones are always threads" },
    { "cpus_allowed", NULL, KIND_TEXT, JOB(cpus_allowed), 0, 0, "0,2-5", NULL, "CPUs that the job's threads run on" },
    { "direct", NULL, KIND_BOOL, JOB(direct), 0, 1, NULL, "0", "O_DIRECT: past the page cache" },
    { "buffered", NULL, KIND_BOOL, JOB(buffered), 0, 1, NULL, "1", "the opposite of direct" },
    { "fixedbufs", NULL, KIND_BOOL, JOB(fixedbufs), 0, 1, NULL, "0", "buffers are registered with the ring" },
    { "registerfiles", NULL, KIND_BOOL, JOB(registerfiles), 0, 1, NULL, "0", "files are registered with the ring" },
    { "sqthread_poll", NULL, KIND_BOOL, JOB(sqthread_poll), 0, 1, NULL, "0", "a kernel thread takes the requests (SQPOLL)" },
    { "hipri", NULL, KIND_BOOL, JOB(hipri), 0, 1, NULL, "0", "completions are polled for (IOPOLL); needs direct=1 and a device with poll queues" },
    { "sync", NULL, KIND_CHOICE, JOB(sync), 0, 0, "0|none|1|sync|dsync", "0", "writes are durable when they complete; sync is done as dsync (O_DSYNC)" },
    { "fsync", NULL, KIND_NUMBER, JOB(fsync), 0, BIG, "N", "0", "a flush after every N writes, done as fdatasync" },
    { "fdatasync", NULL, KIND_NUMBER, JOB(fdatasync), 0, BIG, "N", "0", "the same" },
    { "end_fsync", NULL, KIND_BOOL, JOB(end_fsync), 0, 1, NULL, "0", "a flush of each file at the end of the job" },
    /* how long, how fast */
    { "runtime", "timeout", KIND_SECONDS, JOB(runtime), 0, LONG_NS, "TIME", NULL, "the longest time of the job: 30, 500ms, 5m" },
    { "time_based", NULL, KIND_BOOL, JOB(time_based), 0, 1, NULL, "0", "goes on for all of runtime, starting over at the end of size" },
    { "ramp_time", NULL, KIND_SECONDS, JOB(ramp_time), 0, LONG_NS, "TIME", NULL, "runs so long before measuring begins" },
    { "startdelay", NULL, KIND_SECONDS, JOB(startdelay), 0, LONG_NS, "TIME", NULL, "the job begins so much later" },
    { "loops", NULL, KIND_NUMBER, JOB(loops), 1, 1u << 30, "N", "1", "times the job goes over its size" },
    { "rate", NULL, KIND_RATES, JOB(rate), 0, BIG, "BYTES[,BYTES]", NULL, "bytes per second of reads and of writes, at most; one value: each of them" },
    { "rate_iops", NULL, KIND_NUMBERS, JOB(rate_iops), 0, BIG, "N[,N]", NULL, "the same in I/Os per second" },
    { "thinktime", NULL, KIND_MICROS, JOB(thinktime), 0, LONG_NS, "TIME", NULL, "sleep after every thinktime_blocks I/Os; without a unit in microseconds" },
    { "thinktime_blocks", NULL, KIND_NUMBER, JOB(thinktime_blocks), 1, BIG, "N", "1", "see thinktime" },
    { "stonewall", "wait_for_previous", KIND_BOOL, JOB(stonewall), 0, 1, NULL, "0", "the job begins when those before it have ended" },
    /* verify */
    { "verify", NULL, KIND_CHOICE, JOB(verify), 0, 0, "0|none|crc32c", "0", "crc32c: each 4 KiB written carry place, seed, version and checksum; reads check them" },
    { "do_verify", NULL, KIND_BOOL, JOB(do_verify), 0, 1, NULL, "1", "after a writing job all that it wrote is read and checked" },
    { "verify_fatal", NULL, KIND_BOOL, JOB(verify_fatal), 0, 1, NULL, "0", "ends the job at the first wrong byte" },
    /* reports */
    { "group_reporting", NULL, KIND_BOOL, JOB(group_reporting), 0, 1, NULL, "0", "one result for all clones" },
    { "clat_percentiles", NULL, KIND_BOOL, JOB(clat_percentiles), 0, 1, NULL, "1", "reports latency percentiles" },
    { "percentile_list", NULL, KIND_PERCENTILES, JOB(percentile), 0, 0, "P:P:...", "1:5:10:20:30:40:50:60:70:80:90:95:99:99.5:99.9:99.95:99.99", "which ones" },
    /* the whole run */
    { "output", NULL, KIND_TEXT, CMD(output), 0, 0, "FILE", NULL, "where the report goes; default: stdout" },
    { "output-format", NULL, KIND_CHOICE, CMD(format), 0, 0, "normal|json|json+", "normal", "json: fio's; json+: with all buckets of the latencies" },
    { "readonly", NULL, KIND_BOOL, CMD(readonly), 0, 1, NULL, "0", "refuses jobs that write, and makes no files" },
    { "parse-only", NULL, KIND_BOOL, CMD(parse_only), 0, 1, NULL, "0", "checks the jobs and ends" },
    { "ladder", NULL, KIND_BOOL, CMD(ladder), 0, 1, NULL, "0", "runs the one job in every way that the disk manager has, and prints what each gains" },
    { "help", NULL, KIND_BOOL, CMD(help), 0, 1, NULL, "0", "this text" },
};
/* clang-format on */
static_assert(ASH_ARRAY_SIZE(rows) < IOB_OPTION_MAX, "raise IOB_OPTION_MAX");

const char *
iob_option_name(unsigned i)
{
    return i < ASH_ARRAY_SIZE(rows) ? rows[i].name : NULL;
}

static const struct row *
find(const char *name, size_t length)
{
    for (size_t i = 0; i < ASH_ARRAY_SIZE(rows); i++) {
        const char *names[] = { rows[i].name, rows[i].alias };
        for (unsigned k = 0; k < 2; k++)
            if (names[k] != NULL && strlen(names[k]) == length &&
                memcmp(names[k], name, length) == 0)
                return &rows[i];
    }
    return NULL;
}

bool
iob_given(const struct iob_job *job, const char *name)
{
    const struct row *row = find(name, strlen(name));

    ash_assert(row != NULL);
    return job->given[row - rows] != NULL;
}

/* ---- Values ---- */

/* A number and what follows it; false when there are no digits or too many. */
static bool
digits(const char *text, uint64_t *value_out, const char **rest_out)
{
    char *end;

    if (!isdigit((unsigned char)*text))
        return false;
    errno = 0;
    *value_out = strtoull(text, &end, 10);
    *rest_out = end;
    return errno == 0;
}

static bool
parse_size_until(const char *text, const char *stops, uint64_t *value_out, const char **rest_out)
{
    static const char units[] = "kmgtp";
    const char *rest;
    unsigned shift = 0;
    uint64_t v;

    if (!digits(text, &v, &rest))
        return false;
    const char *unit = *rest == '\0' ? NULL : strchr(units, tolower((unsigned char)*rest));
    if (unit != NULL) {
        shift = 10 * (unsigned)(unit - units + 1);
        rest++;
        if (tolower((unsigned char)*rest) == 'i')
            rest++;
    }
    if (tolower((unsigned char)*rest) == 'b')
        rest++;
    if (*rest != '\0' && strchr(stops, *rest) == NULL)
        return false;
    *rest_out = rest;
    return !__builtin_mul_overflow(v, (uint64_t)1 << shift, value_out);
}

bool
iob_parse_size(const char *text, uint64_t *value_out)
{
    const char *rest;
    return parse_size_until(text, "", value_out, &rest);
}

static ash_rc
bad_value(const struct row *row, const char *where, const char *text, const char *wanted)
{
    return ash_raise_obj(ASH_INVALID, row->name, "%s: \"%s\" is not %s.", where, text, wanted);
}

static ash_rc
in_range(const struct row *row, const char *where, const char *text, uint64_t v)
{
    if (v >= row->min && v <= row->max)
        return ASH_OK;
    return ash_raise_obj(ASH_INVALID, row->name, "%s: %s is outside of %" PRIu64 "..%" PRIu64 ".",
                         where, text, row->min, row->max);
}

static ash_rc
set_time(const struct row *row, const char *where, const char *text, uint64_t *ns_out)
{
    static const struct {
        const char *unit;
        uint64_t ns;
    } units[] = { { "ns", 1 },
                  { "us", 1000 },
                  { "usec", 1000 },
                  { "ms", 1000000 },
                  { "msec", 1000000 },
                  { "s", 1000000000 },
                  { "sec", 1000000000 },
                  { "m", 60000000000 },
                  { "min", 60000000000 },
                  { "h", 3600000000000 },
                  { "d", 86400000000000 } };
    uint64_t v, scale = row->kind == KIND_SECONDS ? 1000000000 : 1000;
    const char *rest;

    if (!digits(text, &v, &rest))
        return bad_value(row, where, text, "a time like 30, 500ms or 5m");
    if (*rest != '\0') {
        scale = 0;
        for (size_t i = 0; i < ASH_ARRAY_SIZE(units); i++)
            if (strcasecmp(rest, units[i].unit) == 0)
                scale = units[i].ns;
        if (scale == 0)
            return bad_value(row, where, text, "a time like 30, 500ms or 5m");
    }
    if (__builtin_mul_overflow(v, scale, &v) || v > row->max)
        return ash_raise_obj(ASH_INVALID, row->name, "%s: %s is longer than 1000 days.", where,
                             text);
    *ns_out = v;
    return ASH_OK;
}

static ash_rc
set_choice(const struct row *row, const char *where, const char *text, uint64_t *out)
{
    size_t length = strlen(text);
    uint64_t index = 0;

    for (const char *at = row->choices; length > 0; at += strcspn(at, "|") + 1, index++) {
        if (strcspn(at, "|") == length && memcmp(at, text, length) == 0) {
            *out = index;
            return ASH_OK;
        }
        if (at[strcspn(at, "|")] == '\0')
            break;
    }
    return ash_raise_obj(ASH_INVALID, row->name, "%s: \"%s\" is none of %s.", where, text,
                         row->choices);
}

/* read[,write]: one value is for both. */
static ash_rc
set_pair(const struct row *row, const char *where, const char *text, uint64_t out[IOB_DIRS])
{
    bool size = row->kind == KIND_RATES;
    uint64_t v[IOB_DIRS];
    const char *rest = text;

    for (unsigned i = 0; i < IOB_DIRS; i++) {
        bool good = size ? parse_size_until(rest, ",", &v[i], &rest) : digits(rest, &v[i], &rest);
        if (!good || (*rest != '\0' && *rest != ','))
            return bad_value(row, where, text,
                             size ? "one or two sizes like 10m or 10m,5m"
                                  : "one or two numbers like 1000 or 1000,500");
        ash_rc rc = in_range(row, where, text, v[i]);
        if (rc != ASH_OK)
            return rc;
        if (*rest == '\0' && i == 0) {
            v[1] = v[0];
            break;
        }
        rest += *rest == ',';
    }
    if (*rest != '\0')
        return bad_value(row, where, text, "one or two values: reads,writes");
    out[0] = v[0];
    out[1] = v[1];
    return ASH_OK;
}

static ash_rc
block_size(const struct row *row, const char *where, const char *text, uint64_t v)
{
    if (v % IOB_UNIT != 0)
        return ash_raise_obj(ASH_INVALID, row->name,
                             "%s: %" PRIu64 " is no multiple of %u, which the disk manager's "
                             "requests are; choose one.",
                             where, v, IOB_UNIT);
    return in_range(row, where, text, v);
}

/* One direction's sizes, up to ',' or the end. */
static ash_rc
parse_blocks(const struct row *row, const char *where, const char *text, struct iob_sizes *out,
             const char **rest_out)
{
    uint64_t low, high;
    const char *rest;

    if (!parse_size_until(text, row->kind == KIND_RANGE ? "-" : ",", &low, &rest) ||
        (row->kind == KIND_RANGE) != (*rest == '-'))
        return bad_value(row, where, text,
                         row->kind == KIND_RANGE ? "a range like 4k-64k" : "a size like 4k");
    high = low;
    if (*rest == '-' && !parse_size_until(rest + 1, ",", &high, &rest))
        return bad_value(row, where, text, "a range like 4k-64k");
    ash_rc rc = block_size(row, where, text, low);
    if (rc == ASH_OK)
        rc = block_size(row, where, text, high);
    if (rc == ASH_OK && (low > high || high % low != 0))
        rc = bad_value(row, where, text, "a range whose end is a multiple of its begin");
    if (rc != ASH_OK)
        return rc;
    *out = (struct iob_sizes){ .min = (uint32_t)low, .max = (uint32_t)high };
    *rest_out = rest;
    return ASH_OK;
}

/* Shares add up to 100; empty ones divide what the others leave. */
static ash_rc
settle_split(const struct row *row, const char *where, const char *text, struct iob_sizes *s,
             const bool *empty)
{
    unsigned sum = 0, empties = 0;

    for (unsigned i = 0; i < s->splits; i++) {
        sum += s->split[i].percent;
        empties += empty[i];
    }
    if (sum > 100 || (sum < 100 && empties == 0))
        return ash_raise_obj(ASH_INVALID, row->name,
                             "%s: the shares of \"%s\" add up to %u, not 100.", where, text, sum);
    for (unsigned i = 0; i < s->splits; i++) {
        if (!empty[i])
            continue;
        s->split[i].percent = (100 - sum) / empties;
        sum += s->split[i].percent;
        empties--;
    }
    return ASH_OK;
}

static ash_rc
parse_split(const struct row *row, const char *where, const char *text, struct iob_sizes *out,
            const char **rest_out)
{
    struct iob_sizes s = { .min = UINT32_MAX };
    bool empty[IOB_SPLIT_MAX] = { false };
    const char *at = text;

    for (;;) {
        uint64_t bytes, percent = 0;
        if (s.splits == IOB_SPLIT_MAX)
            return ash_raise_obj(ASH_INVALID, row->name, "%s: more than %u sizes.", where,
                                 IOB_SPLIT_MAX);
        if (!parse_size_until(at, "/:,", &bytes, &at))
            return bad_value(row, where, text, "a list like 4k/60:64k/40");
        empty[s.splits] = *at != '/' || at[1] == ':' || at[1] == ',' || at[1] == '\0';
        at += *at == '/';
        if (!empty[s.splits] && (!digits(at, &percent, &at) || percent > 100))
            return bad_value(row, where, text, "a list like 4k/60:64k/40");
        ash_rc rc = block_size(row, where, text, bytes);
        if (rc != ASH_OK)
            return rc;
        s.split[s.splits].bytes = (uint32_t)bytes;
        s.split[s.splits++].percent = (unsigned)percent;
        s.min = (uint32_t)min_u64(s.min, bytes);
        s.max = (uint32_t)max_u64(s.max, bytes);
        if (*at != ':')
            break;
        at++;
    }
    *out = s;
    *rest_out = at;
    return settle_split(row, where, text, out, empty);
}

static ash_rc
set_blocks(const struct row *row, const char *where, const char *text,
           struct iob_sizes out[IOB_DIRS])
{
    struct iob_sizes s[IOB_DIRS];
    const char *at = text;

    for (unsigned i = 0; i < IOB_DIRS; i++) {
        ash_rc rc = row->kind == KIND_SPLIT ? parse_split(row, where, at, &s[i], &at)
                                            : parse_blocks(row, where, at, &s[i], &at);
        if (rc != ASH_OK)
            return rc;
        if (*at == '\0' && i == 0) {
            s[1] = s[0];
            break;
        }
        at += *at == ',';
    }
    if (*at != '\0')
        return bad_value(row, where, text, "one or two values: reads,writes");
    memcpy(out, s, sizeof(s));
    return ASH_OK;
}

static ash_rc
set_percentiles(const struct row *row, const char *where, const char *text, struct iob_job *job)
{
    double list[IOB_PERCENT_MAX];
    unsigned n = 0;

    for (const char *at = text;; at++) {
        char *end = NULL;
        double v = isdigit((unsigned char)*at) ? strtod(at, &end) : -1;
        if (!(v > 0) || v > 100 || (*end != '\0' && *end != ':'))
            return bad_value(row, where, text, "a list like 50:99:99.9, each above 0 up to 100");
        if (n == IOB_PERCENT_MAX || (n > 0 && v <= list[n - 1]))
            return bad_value(row, where, text, "a growing list of at most 20 percentiles");
        list[n++] = v;
        at = end;
        if (*at == '\0')
            break;
    }
    memcpy(job->percentile, list, n * sizeof(*list));
    job->percentiles = n;
    return ASH_OK;
}

/* out[0]: the size, or 0; out[1]: the percentage, or 0. */
static ash_rc
set_size_or_share(const struct row *row, const char *where, const char *text, uint64_t out[2])
{
    uint64_t v;
    const char *rest;

    if (digits(text, &v, &rest) && strcmp(rest, "%") == 0) {
        if (v < 1 || v > 100)
            return bad_value(row, where, text, "a share from 1% to 100%");
        out[0] = 0;
        out[1] = v;
        return ASH_OK;
    }
    if (!iob_parse_size(text, &v))
        return bad_value(row, where, text, "a size like 4096, 64k or 1g, or a share like 50%");
    ash_rc rc = in_range(row, where, text, v);
    if (rc == ASH_OK) {
        out[0] = v;
        out[1] = 0;
    }
    return rc;
}

static ash_rc
set(const struct row *row, const char *where, const char *text, void *base)
{
    void *field = (char *)base + row->at;
    uint64_t v = 0;
    const char *rest;
    ash_rc rc = ASH_OK;

    switch (row->kind) {
    case KIND_SIZE_OR_SHARE: return set_size_or_share(row, where, text, field);
    case KIND_TEXT:
        if (*text == '\0')
            return ash_raise_obj(ASH_INVALID, row->name, "%s: needs a value.", where);
        *(const char **)field = text;
        return ASH_OK;
    case KIND_SECONDS:
    case KIND_MICROS: return set_time(row, where, text, field);
    case KIND_CHOICE: return set_choice(row, where, text, field);
    case KIND_NUMBERS:
    case KIND_RATES: return set_pair(row, where, text, field);
    case KIND_BLOCK:
    case KIND_RANGE:
    case KIND_SPLIT: return set_blocks(row, where, text, field);
    case KIND_PERCENTILES: return set_percentiles(row, where, text, base);
    case KIND_SIZE:
        if (!iob_parse_size(text, &v))
            return bad_value(row, where, text, "a size like 4096, 64k or 1g");
        break;
    case KIND_NUMBER:
    case KIND_BOOL:
        if (!digits(text, &v, &rest) || *rest != '\0')
            return bad_value(row, where, text, row->kind == KIND_BOOL ? "0 or 1" : "a number");
        break;
    }
    rc = in_range(row, where, text, v);
    if (rc == ASH_OK)
        *(uint64_t *)field = v;
    return rc;
}

/* ---- Set-up ---- */

void
iob_setup_init(struct iob_setup *s)
{
    memset(s, 0, sizeof(*s));
    for (size_t i = 0; i < ASH_ARRAY_SIZE(rows); i++) {
        const struct row *row = &rows[i];
        if (row->initial == NULL)
            continue;
        ash_rc rc = set(row, row->name, row->initial,
                        row->command ? (void *)&s->command : (void *)&s->global);
        ash_assert(rc == ASH_OK);
    }
}

void
iob_setup_deinit(struct iob_setup *s)
{
    for (unsigned i = 0; i < s->jobs; i++)
        mem_free(MEM_TOOL, s->job[i]);
    for (unsigned i = 0; i < s->texts; i++)
        mem_free(MEM_TOOL, s->text[i]);
    mem_free(MEM_TOOL, s->text);
    memset(s, 0, sizeof(*s));
}

/* A copy that lives as long as the set-up. */
static const char *
keep(struct iob_setup *s, const char *text)
{
    if (s->texts == s->text_room) {
        unsigned room = s->text_room == 0 ? 64 : s->text_room * 2;
        char **grown = mem_realloc(MEM_TOOL, s->text, room * sizeof(*grown));
        if (grown == NULL)
            return NULL;
        s->text = grown;
        s->text_room = room;
    }
    char *copy = mem_strdup(MEM_TOOL, text);
    if (copy != NULL)
        s->text[s->texts++] = copy;
    return copy;
}

ash_rc
iob_job_begin(struct iob_setup *s, const char *name, struct iob_job **job_out)
{
    if (s->jobs == IOB_JOBS_MAX)
        return ash_raise(ASH_INVALID, "There are more than %u jobs; give fewer.", IOB_JOBS_MAX);
    struct iob_job *job = mem_alloc(MEM_TOOL, sizeof(*job));
    if (job == NULL)
        return ASH_NO_MEMORY;
    *job = s->global;
    job->name = keep(s, name);
    if (job->name == NULL) {
        mem_free(MEM_TOOL, job);
        return ASH_NO_MEMORY;
    }
    job->given[0] = job->name;
    s->job[s->jobs++] = job;
    *job_out = job;
    return ASH_OK;
}

static bool
prefix_of(const char *a, const char *b, size_t length)
{
    return strncmp(a, b, length) == 0;
}

static ash_rc
raise_unknown(const char *name, const char *where)
{
    size_t length = strlen(name) / 2 + 1;

    for (size_t i = 0; i < ASH_ARRAY_SIZE(rows); i++)
        if (prefix_of(rows[i].name, name, length))
            return ash_raise_obj(
                ASH_INVALID, name,
                "%s: there is no option \"%.64s\"; did you mean %s? --help lists all.", where, name,
                rows[i].name);
    return ash_raise_obj(ASH_INVALID, name,
                         "%s: there is no option \"%.64s\"; --help lists what this program takes "
                         "of fio's.",
                         where, name);
}

/* Ways to say the same thing: what a job says itself replaces what [global] said.  Two of them in
 * one place are a contradiction, which iob_check.c finds. */
static const char *const alternatives[][3] = {
    { "bs", "bsrange", "bssplit" },      { "direct", "buffered", NULL },
    { "rwmixread", "rwmixwrite", NULL }, { "rate", "rate_iops", NULL },
    { "fsync", "fdatasync", NULL },
};

static void
forget_inherited(const struct iob_setup *s, struct iob_job *job, const struct row *row)
{
    for (size_t i = 0; i < ASH_ARRAY_SIZE(alternatives); i++) {
        bool mine = false;
        for (unsigned k = 0; k < 3 && alternatives[i][k] != NULL; k++)
            mine = mine || strcmp(alternatives[i][k], row->name) == 0;
        for (unsigned k = 0; mine && k < 3 && alternatives[i][k] != NULL; k++) {
            const struct row *other = find(alternatives[i][k], strlen(alternatives[i][k]));
            const char **given = &job->given[other - rows];
            if (other == row || *given == NULL || *given != s->global.given[other - rows])
                continue;
            *given = NULL;
            ash_rc rc = set(other, other->name, other->initial == NULL ? "0" : other->initial, job);
            ash_assert(rc == ASH_OK || other->initial == NULL); /* bsrange: `row` sets it anew */
        }
    }
}

ash_rc
iob_option_set(struct iob_setup *s, struct iob_job *job, const char *name, const char *value,
               const char *where)
{
    const struct row *row = find(name, strlen(name));

    if (row == NULL)
        return raise_unknown(name, where);
    if (row->command && job != NULL)
        return ash_raise_obj(ASH_INVALID, name,
                             "%s: %s concerns the whole run; give it on the command line.", where,
                             row->name);
    if (value == NULL && row->kind != KIND_BOOL)
        return ash_raise_obj(ASH_INVALID, name, "%s: needs a value: %s=%s.", where, row->name,
                             row->choices == NULL ? "N" : row->choices);
    const char *text = keep(s, value == NULL ? "1" : value);
    if (text == NULL)
        return ASH_NO_MEMORY;
    if (!row->command && job != &s->global)
        forget_inherited(s, job, row);
    ash_rc rc = set(row, where, text, row->command ? (void *)&s->command : (void *)job);
    if (rc == ASH_OK && !row->command)
        job->given[row - rows] = text;
    return rc;
}

/* ---- Command line ---- */

static ash_rc
argument(struct iob_setup *s, struct iob_job **job, const char *arg, const char *next, bool *used)
{
    char name[64], where[80];
    const char *value = strchr(arg, '=');
    size_t length = value != NULL ? (size_t)(value - arg) : strlen(arg);

    snprintf(name, sizeof(name), "%.*s", (int)min_u64(length, sizeof(name) - 1), arg);
    snprintf(where, sizeof(where), "--%s", name);
    const struct row *row = find(arg, length);
    if (row == NULL)
        return raise_unknown(name, where);
    value = value != NULL ? value + 1 : NULL;
    if (value == NULL && row->kind != KIND_BOOL) {
        value = next;
        *used = true;
    }
    if (strcmp(row->name, "name") != 0)
        return iob_option_set(s, row->command ? NULL : *job, name, value, where);
    if (value == NULL || *value == '\0')
        return ash_raise(ASH_INVALID, "--name: needs a value: --name=NAME.");
    if (strcmp(value, "global") == 0) {
        *job = &s->global;
        return ASH_OK;
    }
    return iob_job_begin(s, value, job);
}

ash_rc
iob_arguments(struct iob_setup *s, int argc, char **argv)
{
    struct iob_job *job = &s->global;

    for (int i = 0; i < argc; i++) {
        bool used = false;
        ash_rc rc;

        if (strcmp(argv[i], "-h") == 0)
            rc = iob_option_set(s, NULL, "help", NULL, "-h");
        else if (strncmp(argv[i], "--", 2) == 0)
            rc = argument(s, &job, argv[i] + 2, i + 1 < argc ? argv[i + 1] : NULL, &used);
        else
            rc = iob_jobfile_read(s, argv[i]);
        if (rc != ASH_OK)
            return rc;
        i += used;
    }
    return ASH_OK;
}

void
iob_help(FILE *f)
{
    fputs("usage: ashlar-bench io [options] [--name=JOB options ...] [JOBFILE ...]\n"
          "\n"
          "Moves data through Ashlar's disk manager as fio would by the same job description, and\n"
          "reports like fio.  Options before the first --name are for all jobs.\n"
          "\n",
          f);
    for (size_t i = 0; i < ASH_ARRAY_SIZE(rows); i++) {
        const struct row *row = &rows[i];
        int used = fprintf(f, "  --%s%s%s", row->name, row->choices != NULL ? "=" : "",
                           row->choices != NULL ? row->choices : "");
        if (used >= HELP_COLUMN)
            used = fprintf(f, "\n") * 0;
        fprintf(f, "%*s%s", HELP_COLUMN - used, "", row->help);
        if (row->initial != NULL && row->kind != KIND_BOOL)
            fprintf(f, " [%s]", row->initial);
        fputc('\n', f);
    }
}
