/* SPDX-License-Identifier: Apache-2.0
 *
 * machine.h - what the benchmark runs on, and what the kernel counts while it runs.
 */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include <ashlar.h>

struct bench_machine {
    char cpu[128];
    unsigned cores; /* usable by this process */
    uint64_t memory_bytes;
    char kernel[200];
    char filesystem[32];
    char device[64];       /* "" when the file system has no single block device */
    char device_model[64]; /* "" when unknown */
    bool rotational;
    unsigned device_major, device_minor;
    char compiler[64];
    char date[32]; /* UTC, ISO 8601 */
};

/* What one device can do, measured by fio; 0 where a run failed. */
struct bench_device_limits {
    bool measured;
    double random_read_iops;     /* 4 KiB, queue depth 128 */
    double random_read_qd1_iops; /* 4 KiB, queue depth 1 */
    double random_read_qd1_us;   /* mean latency of it */
    double read_bytes_per_s;     /* 1 MiB blocks, queue depth 8 */
    double write_bytes_per_s;    /* the same */
    double random_write_iops;    /* 4 KiB, queue depth 128 */
    double sync_write_per_s;     /* 4 KiB written and made durable, one at a time */
    double sync_write_us;
};

/* Fills what can be found out; unknown texts are "".  `dir` must exist. */
ASH_MUST_CHECK ash_rc machine_describe(const char *dir, struct bench_machine *machine_out);
/* Bytes that the device has read and written since boot, by everybody; false when there is no such device. */
bool machine_device_bytes(const struct bench_machine *machine, uint64_t *read_out,
                          uint64_t *written_out);
/* Space that the files below `dir` take, in bytes. */
uint64_t machine_space_bytes(const char *dir);
uint64_t machine_rss_bytes(void);
/* CPU time of this process, user and system, in seconds. */
double machine_cpu_seconds(void);

/* Runs fio in `dir` for some 15 s.  ASH_UNSUPPORTED when it is not installed. */
ASH_MUST_CHECK ash_rc fio_measure(const char *dir, struct bench_device_limits *limits_out);

#endif
