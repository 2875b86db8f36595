/* SPDX-License-Identifier: Apache-2.0
 *
 * iob.h - `ashlar-bench io`: the disk manager (src/storage/io.h) under fio's job descriptions.
 *
 * How a run comes about:
 *
 *      arguments, job files -> struct iob_job, one per section   iob_options.c, iob_jobfile.c
 *      contradictions                                            iob_check.c
 *      files found, made, protected                              iob_file.c
 *      one thread per job and clone                              iob_run.c
 *          its loop of submitting and reaping                    iob_work.c
 *          which I/O comes next                                  iob_plan.c
 *          what its bytes must be                                iob_verify.c
 *      figures as text and as fio's JSON                         iob_stats.c, iob_report.c,
 *                                                                iob_json.c
 *
 * Rules:
 *   R1  Every option is one row of the table in iob_options.c: its name, type, range, default and
 *       help, for the command line, job files and --help alike.
 *   R2  Contradictions between options are found in iob_check.c and nowhere else, before any file
 *       is touched.
 *   R3  Nothing is written to a block device, or to a file that this program did not make, unless
 *       allow_overwrite=1.
 */
#ifndef BENCH_IOB_H
#define BENCH_IOB_H

#include <ashlar.h>

#include "base/error.h"
#include "base/hist.h"
#include "base/random.h"
#include "storage/io.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>

#define IOB_UNIT        IO_ALIGN /* the disk manager moves multiples of this; so does verify */
#define IOB_DEPTH_MAX   4096u
#define IOB_JOBS_MAX    64u  /* sections of all job files together */
#define IOB_CLONES_MAX  256u /* numjobs */
#define IOB_FILES_MAX   64u  /* per job: as many as a ring registers */
#define IOB_SPLIT_MAX   16u  /* entries of bssplit */
#define IOB_PERCENT_MAX 20u  /* entries of percentile_list, as in fio */
#define IOB_OPTION_MAX  96u  /* rows of the table */

enum iob_dir {
    IOB_READ = 0,
    IOB_WRITE = 1,
    IOB_DIRS = 2
};

/* The values of the option rw, in the order of its row. */
enum iob_rw {
    IOB_RW_READ,
    IOB_RW_WRITE,
    IOB_RW_RANDREAD,
    IOB_RW_RANDWRITE,
    IOB_RW_RW,
    IOB_RW_READWRITE,
    IOB_RW_RANDRW
};

/* The values of ioengine. */
enum iob_engine {
    IOB_ENGINE_IO_URING,
    IOB_ENGINE_URING,
    IOB_ENGINE_THREADS, /* the disk manager's pool */
    IOB_ENGINE_PSYNC,   /* the job's own thread: one request at a time */
    IOB_ENGINE_SYNC,
    IOB_ENGINE_PVSYNC2
};

enum iob_fallocate {
    IOB_FALLOCATE_NATIVE,
    IOB_FALLOCATE_POSIX, /* the same */
    IOB_FALLOCATE_NONE
};

enum iob_verify_kind {
    IOB_VERIFY_0,
    IOB_VERIFY_NONE,
    IOB_VERIFY_CRC32C
};

/* Sizes that one direction draws from: a split, or multiples of `min` up to `max`. */
struct iob_sizes {
    uint32_t min, max;
    unsigned splits;
    struct {
        uint32_t bytes;
        unsigned percent;
    } split[IOB_SPLIT_MAX];
};

/* The options of one job.  Numbers, truth values and choices are uint64_t so that one table can
 * fill them; times are in ns. */
struct iob_job {
    const char *name, *description, *filename, *directory, *cpus_allowed;
    uint64_t nrfiles, file_service_type;
    uint64_t rw, rwmixread, rwmixwrite;
    struct iob_sizes bs[IOB_DIRS];
    uint64_t size, size_percent; /* one of them, or neither */
    uint64_t io_size, filesize, offset, offset_increment;
    uint64_t iodepth, iodepth_batch, numjobs, thread, group_reporting, stonewall, startdelay;
    uint64_t ioengine, direct, buffered, fixedbufs, registerfiles, sqthread_poll, hipri;
    uint64_t sync, fsync, fdatasync, end_fsync;
    uint64_t runtime, time_based, ramp_time, loops;
    uint64_t rate[IOB_DIRS], rate_iops[IOB_DIRS], thinktime, thinktime_blocks;
    uint64_t verify, do_verify, verify_fatal;
    uint64_t randseed, randrepeat, norandommap;
    uint64_t iomem_align, zero_buffers;
    uint64_t clat_percentiles, percentiles;
    double percentile[IOB_PERCENT_MAX];
    uint64_t fallocate, invalidate, unlink, allow_overwrite, allow_mounted_write;
    const char *given[IOB_OPTION_MAX]; /* by row: the text of what the user gave, else NULL */
};

/* What concerns the whole run. */
struct iob_command {
    const char *output;
    uint64_t format; /* 0 normal, 1 json, 2 json+ */
    uint64_t readonly, parse_only, ladder, help;
};

struct iob_setup {
    struct iob_command command;
    struct iob_job global;
    struct iob_job *job[IOB_JOBS_MAX];
    unsigned jobs;
    char **text; /* every string that the jobs point to */
    unsigned texts, text_room;
};

/* ---- iob_options.c ---- */

void iob_setup_init(struct iob_setup *s);
void iob_setup_deinit(struct iob_setup *s);
/* fio's arguments: options before the first --name are global, --name=x begins a job, an argument
 * that is no option is a job file. */
ASH_MUST_CHECK ash_rc iob_arguments(struct iob_setup *s, int argc, char **argv);
/* Begins a job with the global options of the moment. */
ASH_MUST_CHECK ash_rc iob_job_begin(struct iob_setup *s, const char *name,
                                    struct iob_job **job_out);
/* Sets one option by name; `value` NULL: the key stood alone, which truth values allow.  `where`
 * opens the message of a failure ("--rw", "FILE:12: rw"). */
ASH_MUST_CHECK ash_rc iob_option_set(struct iob_setup *s, struct iob_job *job, const char *name,
                                     const char *value, const char *where);
bool iob_given(const struct iob_job *job, const char *name);
/* The name of row `i`, NULL behind the last. */
const char *iob_option_name(unsigned i);
void iob_help(FILE *f);
/* "4k", "1MiB", "65536": k, m, g and t are powers of 1024. */
bool iob_parse_size(const char *text, uint64_t *value_out);

static inline bool
iob_reads(const struct iob_job *job)
{
    return job->rw != IOB_RW_WRITE && job->rw != IOB_RW_RANDWRITE;
}
static inline bool
iob_writes(const struct iob_job *job)
{
    return job->rw != IOB_RW_READ && job->rw != IOB_RW_RANDREAD;
}
static inline bool
iob_random(const struct iob_job *job)
{
    return job->rw == IOB_RW_RANDREAD || job->rw == IOB_RW_RANDWRITE || job->rw == IOB_RW_RANDRW;
}
static inline bool
iob_verifies(const struct iob_job *job)
{
    return job->verify == IOB_VERIFY_CRC32C;
}
static inline bool
iob_on_ring(const struct iob_job *job)
{
    return job->ioengine == IOB_ENGINE_IO_URING || job->ioengine == IOB_ENGINE_URING;
}
static inline bool
iob_inline(const struct iob_job *job)
{
    return job->ioengine >= IOB_ENGINE_PSYNC;
}

/* ---- iob_jobfile.c ---- */

ASH_MUST_CHECK ash_rc iob_jobfile_read(struct iob_setup *s, const char *path);
/* The same from memory; changes `text`. */
ASH_MUST_CHECK ash_rc iob_jobfile_parse(struct iob_setup *s, const char *path, char *text);

/* ---- iob_check.c ---- */

/* R2.  Also settles what options leave open (rwmixread from rwmixwrite, randseed ...). */
ASH_MUST_CHECK ash_rc iob_check(struct iob_setup *s);

/* ---- iob_file.c ---- */

struct iob_file {
    char *path;
    uint64_t size;
    bool block_device, made_now, filled;
    struct io_dir *dir;
    struct io_file *f;
};

/* The files of all clones of a job: shared when the job names files, else one set per clone. */
struct iob_files {
    struct iob_file *file;
    unsigned count, per_clone;
    uint64_t length; /* bytes of each file that one clone works on */
};

/* Makes, grows, fills and opens what the job needs (R3).  Long fills are announced on stderr. */
ASH_MUST_CHECK ash_rc iob_files_open(const struct iob_job *job, struct io *io, bool readonly,
                                     struct iob_files *files_out);
/* `complete`: the job has written all that it was to write. */
void iob_files_close(const struct iob_job *job, struct iob_files *files, bool complete);
/* The first file of a clone. */
static inline struct iob_file *
iob_files_of(const struct iob_files *files, unsigned clone)
{
    return files->per_clone == files->count ? files->file
                                            : files->file + (size_t)clone * files->per_clone;
}

/* ---- iob_plan.c ---- */

struct iob_op {
    enum iob_dir dir;
    unsigned file;
    uint64_t offset;
    uint32_t bytes;
};

struct iob_plan_file {
    uint64_t next[IOB_DIRS]; /* sequential: from the start of the region */
    uint64_t drawn, key;     /* random: blocks of this pass, and what permutes them */
};

struct iob_plan {
    const struct iob_job *job;
    uint64_t base, length; /* the region, in every file */
    unsigned files, file;
    uint64_t left;          /* bytes to issue; UINT64_MAX: time alone ends it */
    uint32_t unit;          /* random offsets are multiples of it */
    bool blocked[IOB_DIRS]; /* set by the caller: a mixed job takes the other direction */
    struct random random;
    struct iob_plan_file at[IOB_FILES_MAX];
};

void iob_plan_init(struct iob_plan *p, const struct iob_job *job, unsigned clone, unsigned files,
                   uint64_t length);
/* False: all has been issued. */
bool iob_plan_next(struct iob_plan *p, struct iob_op *op_out);
/* A permutation of [0, count) chosen by `key`. */
uint64_t iob_permute(uint64_t i, uint64_t count, uint64_t key);

/* ---- iob_verify.c ---- */

/* What one clone has written to one file, by unit; 0: nothing. */
struct iob_written {
    uint64_t base, length, seed;
    uint32_t *version;
    uint32_t last;
};

ASH_MUST_CHECK ash_rc iob_written_init(struct iob_written *w, uint64_t base, uint64_t length,
                                       uint64_t seed);
void iob_written_deinit(struct iob_written *w);
/* Makes the bytes of a write and notes them. */
void iob_verify_fill(struct iob_written *w, uint64_t offset, void *buf, uint32_t bytes);
/* Judges the bytes of a read.  `all`: units that this run did not write must hold a good header,
 * too.  ASH_CORRUPT names the file, the offset and what is wrong. */
ASH_MUST_CHECK ash_rc iob_verify_check(const struct iob_written *w, const char *path,
                                       uint64_t offset, const void *buf, uint32_t bytes, bool all);
/* The next written piece from *at on, at most `bytes` long; false when there is none. */
bool iob_written_next(const struct iob_written *w, uint64_t *at, uint32_t bytes,
                      uint64_t *offset_out, uint32_t *bytes_out);

/* ---- iob_run.c ---- */

#define IOB_LEVELS 7u /* 1, 2, 4 .. 64 and more: fio's classes of depths and batches */

/* Sum, extremes and square sum of latencies in ns. */
struct iob_moments {
    uint64_t n, min, max;
    double sum, squares;
};

struct iob_dir_stats {
    uint64_t bytes, ios;
    struct iob_moments slat, clat, lat, bw, rate; /* bw in KiB/s, rate in I/Os per s: samples */
    struct hist *hist;                            /* of clat */
};

struct iob_stats {
    struct iob_dir_stats dir[IOB_DIRS];
    struct iob_moments sync;
    struct hist *sync_hist;
    uint64_t depth[IOB_LEVELS], submit[IOB_LEVELS], complete[IOB_LEVELS];
    uint64_t runtime_ns, thread_ns; /* of the measured part: the longest of the clones; the sum */
    double user_s, system_s;        /* CPU of the job's threads */
    uint64_t switches, majf, minf;  /* of the job's threads */
    double process_s;               /* CPU of the process meanwhile, kernel workers included */
    uint64_t syscalls;              /* of the job's disk manager meanwhile */
    uint64_t verified, wrong;       /* units of IOB_UNIT: read back and judged; found wrong */
    int error;                      /* an errno, 0: none */
    char message[ERR_MESSAGE_MAX];
};

struct iob_result {
    const struct iob_job *job;
    unsigned group, clones; /* clones: how many are summed up here */
    struct iob_stats stats;
};

struct iob_disk {
    char name[64];
    uint64_t v[11]; /* of /sys/block/NAME/stat */
    double util;
};

struct iob_run {
    const struct iob_setup *setup;
    struct iob_result *result;
    unsigned results;
    uint64_t elapsed_ns;
    struct iob_disk disk; /* name "": not known */
    bool failed;
};

/* Runs the jobs, group after group.  ASH_OK also when a job failed: its result says so. */
ASH_MUST_CHECK ash_rc iob_run(const struct iob_setup *s, struct iob_run *run_out);
void iob_run_deinit(struct iob_run *run);

/* ---- iob_work.c: one thread of a job ---- */

struct iob_slot; /* one request and its buffer */

struct iob_worker {
    /* set by iob_run.c */
    const struct iob_job *job;
    unsigned clone;
    struct io *io;
    struct iob_file *file;
    unsigned files;
    uint64_t length;
    char *buffers;
    size_t stride; /* from one buffer to the next */
    uint64_t start_ns;
    struct iob_stats stats;
    _Atomic uint64_t bytes_now[IOB_DIRS], ios_now[IOB_DIRS]; /* for samples */
    _Atomic bool measuring;
    bool complete; /* all that was planned has been done */
    /* private */
    struct iob_plan plan;
    struct iob_written written[IOB_FILES_MAX];
    struct iob_slot *slot;
    struct iob_slot **free;
    struct io_req **in_flight;
    unsigned frees, in_flights;
    struct iob_op pending;
    bool have_pending, planned_all, stop;
    uint64_t issued[IOB_DIRS], measured_from_ns, think_until_ns, thought_ios;
    uint64_t unflushed; /* writes since the last flush */
    unsigned last_file;
};

ASH_MUST_CHECK ash_rc iob_worker_init(struct iob_worker *w);
void iob_worker_deinit(struct iob_worker *w);
/* The measured part, then iob_worker_verify() on the same thread. */
void iob_worker_run(struct iob_worker *w);
void iob_worker_verify(struct iob_worker *w);

/* ---- iob_stats.c ---- */

ASH_MUST_CHECK ash_rc iob_stats_init(struct iob_stats *s);
void iob_stats_deinit(struct iob_stats *s);
void iob_stats_reset(struct iob_stats *s);
void iob_stats_merge(struct iob_stats *into, const struct iob_stats *from);
void iob_moments_add(struct iob_moments *m, uint64_t value);
double iob_mean(const struct iob_moments *m);
double iob_deviation(const struct iob_moments *m);
/* Shares of the latencies in fio's classes: share[i] in percent of those up to
 * iob_class_limit_ns[i] and above the limit before; the last class is open. */
#define IOB_CLASSES 32u
extern const uint64_t iob_class_limit_ns[IOB_CLASSES];
void iob_latency_classes(const struct iob_stats *s, double share_out[IOB_CLASSES]);

/* ---- iob_report.c, iob_json.c, iob_ladder.c ---- */

void iob_report(FILE *f, const struct iob_run *run);
void iob_report_json(FILE *f, const struct iob_run *run);
ASH_MUST_CHECK ash_rc iob_ladder(const struct iob_setup *s, FILE *f);

/* ---- iob.c ---- */

/* Set by SIGINT and SIGTERM: jobs end, what they measured is reported. */
extern _Atomic int iob_interrupted;
int iob_main(int argc, char **argv);

#endif
