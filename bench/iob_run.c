/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_run.c - groups of jobs, their threads, and the samples that are taken meanwhile.
 *
 * Jobs run together until one says stonewall: it begins the next group.  A job has one disk
 * manager, which all its clones share as the threads of an application share the engine's; each
 * clone is a thread with its own ring.
 */
#include "base/assert.h"
#include "base/bits.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "task/task.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "iob.h"

#define SAMPLE_NS 500000000u
#define TICK_NS   10000000u /* how exactly the end of ramp_time is met by what is not per thread */

struct section {
    const struct iob_job *job;
    struct io *io;
    struct iob_files files;
    struct iob_worker *worker;
    pthread_t *thread;
    struct group *group;
    unsigned workers, threads; /* initialised; started */
    char *buffers;
    size_t buffer_bytes;
    /* Taken when the measured part begins and ends, by the main thread. */
    bool began;
    struct io_stats io_before;
    double process_before;
    uint64_t sampled_ns, sampled_bytes[IOB_DIRS], sampled_ios[IOB_DIRS];
};

/* What the threads of a group and the main thread share. */
struct group {
    struct section section[IOB_JOBS_MAX];
    unsigned sections;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool go;
    unsigned measured; /* threads whose measured part is over */
};

struct start {
    struct section *section;
    struct iob_worker *worker;
};

/* ---- The device, as the kernel counts it ---- */

static bool
disk_read(struct iob_disk *disk)
{
    char path[128];
    unsigned n = 0;

    snprintf(path, sizeof(path), "/sys/class/block/%s/stat", disk->name);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return false;
    unsigned long long v;
    while (n < ASH_ARRAY_SIZE(disk->v) && fscanf(f, "%llu", &v) == 1) /* NOLINT(cert-err34-c) */
        disk->v[n++] = v;
    fclose(f);
    return n == ASH_ARRAY_SIZE(disk->v);
}

static void
disk_find(struct iob_disk *disk, const char *file)
{
    char path[64], link[512];
    struct stat st;

    disk->name[0] = '\0';
    if (stat(file, &st) != 0)
        return;
    dev_t dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(dev), minor(dev));
    ssize_t n = readlink(path, link, sizeof(link) - 1);
    if (n <= 0)
        return;
    link[n] = '\0';
    const char *slash = strrchr(link, '/');
    snprintf(disk->name, sizeof(disk->name), "%.60s", slash != NULL ? slash + 1 : link);
    if (!disk_read(disk))
        disk->name[0] = '\0';
}

static void
disk_since(struct iob_disk *disk, uint64_t elapsed_ns)
{
    struct iob_disk now = *disk;

    if (disk->name[0] == '\0' || !disk_read(&now))
        return;
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(now.v); i++)
        now.v[i] -= disk->v[i];
    /* Field 9 counts the ms with something in flight. */
    now.util = elapsed_ns == 0 ? 0 : (double)now.v[9] * 1e8 / (double)elapsed_ns;
    now.util = now.util > 100 ? 100 : now.util;
    *disk = now;
}

/* ---- Threads ---- */

static ash_rc
parse_cpus(const char *text, cpu_set_t *set)
{
    CPU_ZERO(set);
    for (const char *at = text;;) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = first;
        if (end != at && *end == '-') {
            at = end + 1;
            last = strtoul(at, &end, 10);
        }
        if (end == at || (*end != ',' && *end != '\0') || first > last || last >= CPU_SETSIZE)
            return ash_raise(ASH_INVALID, "cpus_allowed: \"%s\" is not a list like 0,2-5.", text);
        for (; first <= last; first++)
            CPU_SET(first, set);
        if (*end == '\0')
            return ASH_OK;
        at = end + 1;
    }
}

static void
sleep_ns(uint64_t ns)
{
    struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u),
                           .tv_nsec = (long)(ns % 1000000000u) };
    nanosleep(&ts, NULL);
}

static void *
thread_main(void *arg)
{
    struct iob_worker *w = ((struct start *)arg)->worker;
    struct group *g = ((struct start *)arg)->section->group;

    mem_free(MEM_TOOL, arg);
    pthread_mutex_lock(&g->lock);
    while (!g->go)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
    if (w->job->startdelay != 0)
        sleep_ns(w->job->startdelay);
    w->start_ns = clock_ns();
    iob_worker_run(w);
    pthread_mutex_lock(&g->lock);
    g->measured++;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    iob_worker_verify(w);
    return NULL;
}

static ash_rc
start_thread(struct section *s, struct iob_worker *w, pthread_t *out)
{
    struct start *start = mem_alloc(MEM_TOOL, sizeof(*start));
    pthread_attr_t attr;
    cpu_set_t cpus;
    ash_rc rc = start == NULL ? ASH_NO_MEMORY : ASH_OK;

    if (rc != ASH_OK)
        return rc;
    *start = (struct start){ .section = s, .worker = w };
    pthread_attr_init(&attr);
    if (s->job->cpus_allowed != NULL)
        rc = parse_cpus(s->job->cpus_allowed, &cpus);
    if (rc == ASH_OK && s->job->cpus_allowed != NULL)
        pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    int err = rc != ASH_OK ? 0 : pthread_create(out, &attr, thread_main, start);
    if (err != 0)
        rc = ash_raise_sys(ASH_INVALID, err, s->job->name, "Job %s: no thread for clone %u%s: %s.",
                           s->job->name, w->clone,
                           s->job->cpus_allowed != NULL ? " on cpus_allowed" : "", strerror(err));
    pthread_attr_destroy(&attr);
    if (rc != ASH_OK)
        mem_free(MEM_TOOL, start);
    return rc;
}

/* ---- Sections ---- */

static ash_rc
open_io(const struct iob_job *job, struct io **out)
{
    struct io_options o = { .backend = iob_on_ring(job) ? IO_BACKEND_URING : IO_BACKEND_THREADS,
                            .direct = job->direct != 0,
                            .plain = true, /* fio sends each block as an I/O of its own, too */
                            .ring = (job->registerfiles != 0 ? 0 : IO_RING_PLAIN_FILES) |
                                    (job->sqthread_poll != 0 ? IO_RING_SQPOLL : 0) |
                                    (job->hipri != 0 ? IO_RING_IOPOLL : 0) };
    return io_create(&o, out);
}

static ash_rc
make_buffers(struct section *s, size_t *stride_out)
{
    const struct iob_job *job = s->job;
    size_t align = job->iomem_align;
    size_t stride = round_up(max_u64(job->bs[0].max, job->bs[1].max), align);
    struct random random;

    s->buffer_bytes = round_up(stride * job->iodepth * job->numjobs + align, 2u << 20);
    s->buffers = mem_map(MEM_TOOL, s->buffer_bytes, /* huge: */ true);
    if (s->buffers == NULL)
        return ASH_NO_MEMORY;
    random_init(&random, job->randseed);
    for (size_t i = 0; i < s->buffer_bytes && job->zero_buffers == 0; i += 8)
        put_le64(s->buffers + i, random_u64(&random));
    if (job->fixedbufs != 0)
        io_register_buffer(s->io, s->buffers, s->buffer_bytes);
    *stride_out = stride;
    return ASH_OK;
}

static void
section_close(struct section *s)
{
    bool complete = s->workers > 0;

    for (unsigned i = 0; i < s->workers; i++) {
        complete = complete && s->worker[i].complete;
        iob_worker_deinit(&s->worker[i]);
    }
    if (s->io != NULL)
        iob_files_close(s->job, &s->files, complete && iob_writes(s->job));
    if (s->buffers != NULL) {
        if (s->job->fixedbufs != 0)
            io_unregister_buffer(s->io, s->buffers);
        io_destroy(s->io);
        s->io = NULL;
        mem_unmap(MEM_TOOL, s->buffers, s->buffer_bytes);
    }
    io_destroy(s->io);
    mem_free(MEM_TOOL, s->worker);
    mem_free(MEM_TOOL, s->thread);
}

static ash_rc
section_open(struct section *s, const struct iob_job *job, bool readonly)
{
    size_t stride = 0;

    s->job = job;
    ash_rc rc = open_io(job, &s->io);
    if (rc == ASH_OK)
        rc = iob_files_open(job, s->io, readonly, &s->files);
    if (rc == ASH_OK)
        rc = make_buffers(s, &stride);
    if (rc != ASH_OK)
        return rc;
    s->worker = mem_zalloc(MEM_TOOL, job->numjobs * sizeof(*s->worker));
    s->thread = mem_zalloc(MEM_TOOL, job->numjobs * sizeof(*s->thread));
    if (s->worker == NULL || s->thread == NULL)
        return ASH_NO_MEMORY;
    for (unsigned i = 0; i < job->numjobs && rc == ASH_OK; i++) {
        struct iob_worker *w = &s->worker[s->workers++];
        uintptr_t first = round_up((uintptr_t)s->buffers, job->iomem_align);
        w->job = job;
        w->clone = i;
        w->io = s->io;
        w->file = iob_files_of(&s->files, i);
        w->files = s->files.per_clone;
        w->length = s->files.length;
        w->stride = stride;
        w->buffers = s->buffers + (first - (uintptr_t)s->buffers) + i * stride * job->iodepth;
        rc = iob_worker_init(w);
    }
    return rc;
}

/* ---- Sampling ---- */

static double
process_s(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void
section_began(struct section *s)
{
    s->began = true;
    io_stats(s->io, &s->io_before);
    s->process_before = process_s();
    s->sampled_ns = clock_ns();
}

static bool
all_measuring(const struct section *s)
{
    for (unsigned i = 0; i < s->workers; i++)
        if (!atomic_load(&s->worker[i].measuring))
            return false;
    return true;
}

/* Bandwidth and rate since the last sample, of all clones together; `bw` and `rate` of the first
 * worker keep them until results are summed. */
static void
sample(struct section *s, struct iob_dir_stats *into)
{
    uint64_t now_ns = clock_ns();
    double seconds = (double)(now_ns - s->sampled_ns) / 1e9;

    for (unsigned d = 0; d < IOB_DIRS; d++) {
        uint64_t bytes = 0, ios = 0;
        for (unsigned i = 0; i < s->workers; i++) {
            bytes += atomic_load_explicit(&s->worker[i].bytes_now[d], memory_order_relaxed);
            ios += atomic_load_explicit(&s->worker[i].ios_now[d], memory_order_relaxed);
        }
        if (ios > s->sampled_ios[d]) {
            iob_moments_add(&into[d].bw,
                            (uint64_t)((double)(bytes - s->sampled_bytes[d]) / 1024 / seconds));
            iob_moments_add(&into[d].rate, (uint64_t)((double)(ios - s->sampled_ios[d]) / seconds));
        }
        s->sampled_bytes[d] = bytes;
        s->sampled_ios[d] = ios;
    }
    s->sampled_ns = now_ns;
}

/* Until every thread's measured part is over.  Caller holds g->lock. */
static void
watch_locked(struct group *g, unsigned threads, struct iob_dir_stats (*samples)[IOB_DIRS])
{
    while (g->measured < threads) {
        bool waiting = false;
        for (unsigned i = 0; i < g->sections; i++)
            waiting = waiting || !g->section[i].began;
        uint64_t until = clock_ns() + (waiting ? TICK_NS : SAMPLE_NS);
        struct timespec ts = { .tv_sec = (time_t)(until / 1000000000u),
                               .tv_nsec = (long)(until % 1000000000u) };
        pthread_cond_timedwait(&g->changed, &g->lock, &ts);
        for (unsigned i = 0; i < g->sections; i++) {
            struct section *s = &g->section[i];
            if (!s->began && all_measuring(s))
                section_began(s);
            else if (s->began && clock_ns() - s->sampled_ns >= SAMPLE_NS)
                sample(s, samples[i]);
        }
    }
}

/* ---- Groups ---- */

static ash_rc
group_start(struct group *g, unsigned *threads_out)
{
    ash_rc rc = ASH_OK;

    for (unsigned i = 0; i < g->sections; i++) {
        struct section *s = &g->section[i];
        s->group = g;
        for (unsigned k = 0; k < s->workers && rc == ASH_OK; k++) {
            rc = start_thread(s, &s->worker[k], &s->thread[k]);
            s->threads += rc == ASH_OK;
        }
        *threads_out += s->threads;
    }
    return rc;
}

static void
group_join(struct group *g)
{
    for (unsigned i = 0; i < g->sections; i++)
        for (unsigned k = 0; k < g->section[i].threads; k++)
            pthread_join(g->section[i].thread[k], NULL);
}

static struct iob_result *
result_add(struct iob_run *run, const struct iob_job *job, unsigned group)
{
    struct iob_result *grown =
        mem_realloc(MEM_TOOL, run->result, (run->results + 1) * sizeof(*grown));
    if (grown == NULL)
        return NULL;
    run->result = grown;
    struct iob_result *r = &grown[run->results];
    memset(r, 0, sizeof(*r));
    r->job = job;
    r->group = group;
    if (iob_stats_init(&r->stats) != ASH_OK) {
        iob_stats_deinit(&r->stats);
        return NULL;
    }
    run->results++;
    return r;
}

/* One result per clone, or with group_reporting one for all. */
static ash_rc
section_results(struct iob_run *run, struct section *s, unsigned group,
                const struct iob_dir_stats samples[IOB_DIRS], double process, uint64_t syscalls)
{
    struct iob_result *r = NULL;

    for (unsigned i = 0; i < s->workers; i++) {
        if (r == NULL || s->job->group_reporting == 0)
            r = result_add(run, s->job, group);
        if (r == NULL)
            return ASH_NO_MEMORY;
        iob_stats_merge(&r->stats, &s->worker[i].stats);
        r->clones++;
        run->failed = run->failed || s->worker[i].stats.error != 0;
        for (unsigned d = 0; d < IOB_DIRS; d++) {
            r->stats.dir[d].bw = samples[d].bw;
            r->stats.dir[d].rate = samples[d].rate;
        }
        r->stats.process_s = process;
        r->stats.syscalls = syscalls;
        if (s->job->group_reporting == 0 && s->workers > 1) { /* an equal part */
            r->stats.process_s /= s->workers;
            r->stats.syscalls /= s->workers;
        }
    }
    return ASH_OK;
}

static ash_rc
group_run(struct group *g, struct iob_run *run, unsigned number)
{
    struct iob_dir_stats(*samples)[IOB_DIRS] = mem_zalloc(MEM_TOOL, g->sections * sizeof(*samples));
    double process[IOB_JOBS_MAX] = { 0 };
    uint64_t syscalls[IOB_JOBS_MAX] = { 0 };
    unsigned threads = 0;

    if (samples == NULL)
        return ASH_NO_MEMORY;
    ash_rc rc = group_start(g, &threads);
    pthread_mutex_lock(&g->lock);
    if (rc != ASH_OK) /* those that did start have nothing to do */
        for (unsigned i = 0; i < g->sections; i++)
            for (unsigned k = 0; k < g->section[i].workers; k++)
                g->section[i].worker[k].stop = true;
    for (unsigned i = 0; i < g->sections; i++)
        if (g->section[i].job->ramp_time == 0 && g->section[i].job->startdelay == 0)
            section_began(&g->section[i]);
    g->go = true;
    pthread_cond_broadcast(&g->changed);
    watch_locked(g, threads, samples);
    for (unsigned i = 0; i < g->sections; i++) {
        struct section *s = &g->section[i];
        struct io_stats now;
        io_stats(s->io, &now);
        syscalls[i] = now.syscalls - s->io_before.syscalls;
        /* With several jobs at once nobody knows whose the kernel workers were. */
        process[i] = g->sections == 1 ? process_s() - s->process_before : 0;
    }
    pthread_mutex_unlock(&g->lock);
    group_join(g);
    for (unsigned i = 0; i < g->sections && rc == ASH_OK; i++)
        rc = section_results(run, &g->section[i], number, samples[i], process[i], syscalls[i]);
    mem_free(MEM_TOOL, samples);
    return rc;
}

static ash_rc
run_group(const struct iob_setup *setup, unsigned from, unsigned end, struct iob_run *run,
          unsigned number)
{
    pthread_condattr_t attr;
    ash_rc rc = ASH_OK;
    struct group *g = mem_zalloc(MEM_TOOL, sizeof(*g));

    if (g == NULL)
        return ASH_NO_MEMORY;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &attr);
    pthread_condattr_destroy(&attr);
    for (unsigned i = from; i < end && rc == ASH_OK; i++)
        rc = section_open(&g->section[g->sections++], setup->job[i], setup->command.readonly != 0);
    if (rc == ASH_OK && run->disk.name[0] == '\0')
        disk_find(&run->disk, g->section[0].files.file[0].path);
    if (rc == ASH_OK)
        rc = group_run(g, run, number);
    for (unsigned i = 0; i < g->sections; i++)
        section_close(&g->section[i]);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    mem_free(MEM_TOOL, g);
    return rc;
}

ash_rc
iob_run(const struct iob_setup *s, struct iob_run *run_out)
{
    struct iob_run run = { .setup = s };
    uint64_t from_ns = clock_ns();
    unsigned number = 0, next;
    ash_rc rc = ASH_OK;

    for (unsigned i = 0; i < s->jobs && rc == ASH_OK && iob_interrupted == 0; i = next) {
        for (next = i + 1; next < s->jobs && s->job[next]->stonewall == 0; next++)
            continue;
        rc = run_group(s, i, next, &run, number++);
    }
    run.elapsed_ns = clock_ns() - from_ns;
    disk_since(&run.disk, run.elapsed_ns);
    if (rc != ASH_OK) {
        iob_run_deinit(&run);
        return rc;
    }
    *run_out = run;
    return ASH_OK;
}

void
iob_run_deinit(struct iob_run *run)
{
    for (unsigned i = 0; i < run->results; i++)
        iob_stats_deinit(&run->result[i].stats);
    mem_free(MEM_TOOL, run->result);
    memset(run, 0, sizeof(*run));
}
