/* SPDX-License-Identifier: Apache-2.0
 *
 * fio.c - measures the device with fio, so that a report holds the device's limits beside the engines' numbers.
 *
 * It reads fio's "minimal" output: fields separated by ';', numbered from 1 in fio's documentation of terse version 3.
 */
#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine.h"

#define FIO_SECONDS   3
#define FIO_FILE_SIZE "1g"
#define FIO_LINE      16384
#define FIO_READ_FIELDS \
    6 /* first field of the read group: kibibytes moved; then KiB/s, IOPS, runtime, latencies */
#define FIO_WRITE_FIELDS 47 /* the same for writes */
#define FIO_MEAN_LATENCY 10 /* from the start of a group: mean completion latency, us */

struct fio_result {
    double bytes_per_s, iops, mean_us;
};

/* The n-th field of a terse line, counted from 1; 0 when there are fewer. */
static double
field(const char *line, unsigned n)
{
    for (unsigned i = 1; i < n; i++) {
        line = strchr(line, ';');
        if (line == NULL)
            return 0;
        line++;
    }
    return strtod(line, NULL);
}

/* Runs one job.  `dir` is quoted for the shell by the caller. */
static ash_rc
fio_run(const char *dir, const char *job, const char *arguments, bool write,
        struct fio_result *result_out)
{
    char command[8192], line[FIO_LINE];
    unsigned first = write ? FIO_WRITE_FIELDS : FIO_READ_FIELDS;
    FILE *pipe;
    int n, status;

    n = snprintf(
        command, sizeof(command),
        "fio --minimal --name=%s --directory=%s --filename=ashlar-bench.fio --size=" FIO_FILE_SIZE
        " --time_based --runtime=%d --ioengine=io_uring --direct=1 %s 2>/dev/null",
        job, dir, FIO_SECONDS, arguments);
    if (n < 0 || (size_t)n >= sizeof(command))
        return ash_raise(ASH_INVALID, "--dir: the path is too long for fio");
    pipe = popen(command,
                 "re"); /* NOLINT(cert-env33-c): a developer's tool running a developer's tool */
    if (pipe == NULL)
        return ash_raise_sys(ASH_IO, errno, "fio", "--fio: cannot run fio: %s", strerror(errno));
    line[0] = '\0';
    while (fgets(line, sizeof(line), pipe) != NULL && strncmp(line, "3;fio", 5) != 0)
        line[0] = '\0';
    status = pclose(pipe);
    if (line[0] == '\0' || status != 0)
        return ash_raise_obj(ASH_IO, "fio", "--fio: the job %s failed; run it by hand: %s", job,
                             command);
    result_out->bytes_per_s = field(line, first + 1) * 1024;
    result_out->iops = field(line, first + 2);
    result_out->mean_us = field(line, first + FIO_MEAN_LATENCY);
    return ASH_OK;
}

/* Puts a path into single quotes for the shell. */
static ash_rc
shell_quote(const char *text, char *out, size_t size)
{
    size_t n = 0;

    out[n++] = '\'';
    for (; *text != '\0'; text++) {
        if (n + 8 > size)
            return ash_raise(ASH_INVALID, "--dir: the path is too long for fio");
        if (*text == '\'') {
            memcpy(out + n, "'\\''", 4);
            n += 4;
        } else {
            out[n++] = *text;
        }
    }
    out[n++] = '\'';
    out[n] = '\0';
    return ASH_OK;
}

static ash_rc
measure_all(const char *quoted, struct bench_device_limits *l)
{
    struct fio_result r = { 0 };
    ash_rc rc = fio_run(quoted, "write", "--rw=write --bs=1m --iodepth=8", true, &r);

    if (rc != ASH_OK)
        return rc;
    l->write_bytes_per_s = r.bytes_per_s;
    rc = fio_run(quoted, "read", "--rw=read --bs=1m --iodepth=8", false, &r);
    if (rc != ASH_OK)
        return rc;
    l->read_bytes_per_s = r.bytes_per_s;
    rc = fio_run(quoted, "random_read", "--rw=randread --bs=4k --iodepth=128", false, &r);
    if (rc != ASH_OK)
        return rc;
    l->random_read_iops = r.iops;
    rc = fio_run(quoted, "random_read_qd1", "--rw=randread --bs=4k --iodepth=1", false, &r);
    if (rc != ASH_OK)
        return rc;
    l->random_read_qd1_iops = r.iops;
    l->random_read_qd1_us = r.mean_us;
    rc = fio_run(quoted, "random_write", "--rw=randwrite --bs=4k --iodepth=128", true, &r);
    if (rc != ASH_OK)
        return rc;
    l->random_write_iops = r.iops;
    rc = fio_run(quoted, "sync_write", "--rw=write --bs=4k --iodepth=1 --fdatasync=1", true, &r);
    if (rc != ASH_OK)
        return rc;
    l->sync_write_per_s = r.iops;
    l->sync_write_us = r.iops > 0 ? 1e6 / r.iops
                                  : 0; /* the flush is not in fio's completion latency */
    return ASH_OK;
}

ash_rc
fio_measure(const char *dir, struct bench_device_limits *limits_out)
{
    char quoted[4096 + 16], path[4096];
    struct bench_device_limits limits = { 0 };
    ash_rc rc;

    if (system("fio --version >/dev/null 2>&1") != 0) /* NOLINT(cert-env33-c) */
        return ash_raise_obj(ASH_UNSUPPORTED, "fio",
                             "--fio: fio is not installed; install it or leave --fio out");
    rc = shell_quote(dir, quoted, sizeof(quoted));
    if (rc == ASH_OK)
        rc = measure_all(quoted, &limits);
    snprintf(path, sizeof(path), "%s/ashlar-bench.fio", dir);
    unlink(path);
    if (rc != ASH_OK)
        return rc;
    limits.measured = true;
    *limits_out = limits;
    return ASH_OK;
}
