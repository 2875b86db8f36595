/* SPDX-License-Identifier: Apache-2.0
 *
 * measure_io.c - figures of the disk manager on the device under the current directory.  Not a
 * test: it passes no judgement.  Run it on a quiet machine, from a build without --enable-debug.
 *
 *   measure_io cpu      random 4 KiB reads, 128 in flight: reads/s, CPU time and system calls each
 *   measure_io calls    random 4 KiB reads and writes, 64 in flight, beside pread() and pwrite()
 *   measure_io merge    I/Os per request: bursts of shuffled 4 KiB writes of four tasks; a checkpoint's
 *                       writes
 *   measure_io mixed    latency of reads at a fixed rate beside writes of the compaction class, with
 *                       and without the scheduler
 */
#include "base/assert.h"
#include "base/clock.h"
#include "base/hist.h"
#include "base/mem.h"
#include "base/random.h"
#include "storage/io.h"
#include "task/task.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define FILE_BYTES (512ull << 20)

#define must(expr)                                                      \
    do {                                                                \
        ash_rc rc_ = (expr);                                            \
        if (rc_ != ASH_OK) {                                            \
            fprintf(stderr, "%s: %s\n", #expr, err_current()->message); \
            exit(1);                                                    \
        }                                                               \
    } while (0)

static struct task_runtime *rt;
static struct io *io;
static struct io_dir *dir;
static double solo_bw;

static void
start(enum io_backend_kind kind, bool plain)
{
    struct io_options o = { .backend = kind, .direct = true, .rt = rt, .plain = plain };
    must(io_create(&o, &io));
    must(io_dir_open(io, "measure_io.dir", IO_CREATE, &dir));
}

static void
stop(void)
{
    io_dir_close(dir);
    io_destroy(io);
}

static void *
buffer(size_t bytes)
{
    void *p = mem_aligned(MEM_TEST, IO_ALIGN, bytes);
    if (p == NULL)
        exit(1);
    memset(p, 0x5a, bytes);
    return p;
}

static struct io_file *
file_of(const char *name)
{
    struct io_file *f;
    char *buf = buffer(1 << 20);
    uint64_t size;

    must(io_file_open(dir, name, IO_CREATE, &f));
    must(io_file_size(f, &size));
    for (uint64_t at = size; at < FILE_BYTES; at += 1 << 20)
        must(io_write(f, buf, 1 << 20, at, IO_CLASS_FLUSH));
    must(io_flush(f, IO_CLASS_FLUSH));
    mem_free(MEM_TEST, buf);
    return f;
}

static double
cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static uint64_t
requests_of(const struct io_stats *s)
{
    uint64_t n = 0;
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        n += s->requests[c];
    return n;
}

/* Random 4 KiB requests, `depth` in flight, from this host thread. */
static void
random_io(struct io_file *f, enum io_op op, unsigned depth, double seconds, const char *what)
{
    enum {
        MAX = 256
    };
    struct io_req req[MAX], *ptr[MAX];
    struct random r;
    size_t arena = 2u << 20;
    char *buf = mem_map(MEM_TEST, arena, true);
    struct io_stats before, after;

    random_init(&r, 1);
    memset(buf, 1, arena);
    io_register_buffer(io, buf, arena);
    io_stats(io, &before);
    double cpu = cpu_seconds();
    uint64_t begin = clock_ns(), end = begin + (uint64_t)(seconds * 1e9);
    memset(req, 0, sizeof(req));
    for (unsigned i = 0; i < depth; i++)
        ptr[i] = &req[i];
    unsigned idle = depth;
    uint64_t done = 0;
    while (clock_ns() < end) {
        /* ptr[0..idle) are free, the rest in flight. */
        for (unsigned i = 0; i < idle; i++)
            *ptr[i] = (struct io_req){ .file = f,
                                       .op = op,
                                       .class = op == IO_OP_READ ? IO_CLASS_READ : IO_CLASS_WRITE,
                                       .offset = random_below(&r, FILE_BYTES / 4096) * 4096,
                                       .buf = buf + (ptr[i] - req) * 4096,
                                       .bytes = 4096 };
        io_submit(ptr, idle);
        io_wait_any(ptr, depth);
        idle = 0;
        for (unsigned i = 0; i < depth; i++) {
            if (!atomic_load_explicit(&ptr[i]->done, memory_order_acquire))
                continue;
            must(io_wait(ptr[i]));
            struct io_req *t = ptr[idle];
            ptr[idle++] = ptr[i];
            ptr[i] = t;
            done++;
        }
    }
    for (unsigned i = idle; i < depth; i++)
        must(io_wait(ptr[i]));
    double took = (double)(clock_ns() - begin) / 1e9;
    cpu = cpu_seconds() - cpu;
    io_stats(io, &after);
    uint64_t n = requests_of(&after) - requests_of(&before);
    printf("%-28s %8.0f/s  %5.2f us CPU each  %6.3f system calls each\n", what, (double)n / took,
           cpu * 1e6 / (double)n, (double)(after.syscalls - before.syscalls) / (double)n);
    io_unregister_buffer(io, buf);
    mem_unmap(MEM_TEST, buf, arena);
}

static void
measure_cpu(void)
{
    start(IO_BACKEND_AUTO, false);
    struct io_file *f = file_of("a");
    for (unsigned i = 0; i < 5; i++)
        random_io(f, IO_OP_READ, 128, 2, "4 KiB reads, depth 128");
    io_file_close(f);
    stop();
}

/* One system call for each request, without the disk manager. */
static void
random_plain(bool write, double seconds)
{
    struct random r;
    char *buf = buffer(4096);
    uint64_t n = 0;
    int fd = open("measure_io.dir/a", (write ? O_RDWR : O_RDONLY) | O_DIRECT);

    random_init(&r, 1);
    double cpu = cpu_seconds();
    uint64_t begin = clock_ns(), end = begin + (uint64_t)(seconds * 1e9);
    for (; clock_ns() < end; n++) {
        off_t at = (off_t)(random_below(&r, FILE_BYTES / 4096) * 4096);
        ssize_t got = write ? pwrite(fd, buf, 4096, at) : pread(fd, buf, 4096, at);
        if (got != 4096)
            exit(1);
    }
    double took = (double)(clock_ns() - begin) / 1e9;
    printf("%-28s %8.0f/s  %5.2f us CPU each  %6.3f system calls each\n",
           write ? "pwrite()" : "pread()", (double)n / took,
           (cpu_seconds() - cpu) * 1e6 / (double)n, 1.0);
    close(fd);
    mem_free(MEM_TEST, buf);
}

static void
measure_calls(void)
{
    start(IO_BACKEND_AUTO, false);
    struct io_file *f = file_of("a");
    random_plain(false, 1);
    random_io(f, IO_OP_READ, 64, 2, "4 KiB reads, depth 64");
    random_plain(true, 1);
    random_io(f, IO_OP_WRITE, 64, 2, "4 KiB writes, depth 64");
    io_file_close(f);
    stop();
}

/* ---- Merging ---- */

#define TASKS      4u
#define TASK_DEPTH 256u
#define PIECE      16u /* requests of one call; the others come in between */

/* Each task has a share of the writes, and TASK_DEPTH of them in flight. */
struct writer {
    struct io_file *f;
    const uint64_t *block;
    unsigned count;
    enum io_class class;
    char *buf;
};

static _Atomic unsigned writers_done, writers_met;

static void
writer_main(void *arg)
{
    struct writer *w = arg;
    struct io_req *req = mem_zalloc(MEM_TEST, TASK_DEPTH * sizeof(*req)), *ptr[TASK_DEPTH];

    for (unsigned at = 0; at < w->count; at += TASK_DEPTH) {
        unsigned n = w->count - at < TASK_DEPTH ? w->count - at : TASK_DEPTH;
        for (unsigned i = 0; i < n; i++) {
            req[i] = (struct io_req){ .file = w->f,
                                      .op = IO_OP_WRITE,
                                      .class = w->class,
                                      .offset = w->block[at + i] * 4096,
                                      .buf = w->buf + i * 4096,
                                      .bytes = 4096 };
            ptr[i] = &req[i];
        }
        for (unsigned i = 0; i < n; i += PIECE) {
            io_submit(ptr + i, n - i < PIECE ? n - i : PIECE);
            task_yield();
        }
        for (unsigned i = 0; i < n; i++)
            must(io_wait(ptr[i]));
        /* The bursts of the tasks begin together. */
        atomic_fetch_add(&writers_met, 1);
        while (atomic_load(&writers_met) < (at / TASK_DEPTH + 1) * TASKS)
            task_sleep_ns(20000);
    }
    mem_free(MEM_TEST, req);
    atomic_fetch_add(&writers_done, 1);
}

static void
run_writers(struct io_file *f, const char *what, const uint64_t *block, unsigned count,
            enum io_class class)
{
    struct writer w[TASKS];
    struct task_executor *ex;
    struct io_stats before, after;

    must(task_executor_create(rt, "merge", TASKS, 16, 0, &ex));
    io_stats(io, &before);
    atomic_store(&writers_met, 0);
    uint64_t begin = clock_ns();
    for (unsigned t = 0; t < TASKS; t++) {
        w[t] = (struct writer){ f, block + t * (count / TASKS), count / TASKS, class,
                                buffer(TASK_DEPTH * 4096) };
        must(task_executor_submit(ex, writer_main, &w[t], true));
    }
    task_executor_destroy(ex);
    uint64_t took = clock_ns() - begin;
    io_stats(io, &after);
    uint64_t requests = requests_of(&after) - requests_of(&before), ios = 0;
    for (unsigned c = 1; c < IO_CLASS_COUNT; c++)
        ios += after.ios[c] - before.ios[c];
    printf("%-44s %6lu requests %6lu I/Os: %4.1f %% fewer  %7.0f requests/s\n", what,
           (unsigned long)requests, (unsigned long)ios,
           100.0 * (double)(requests - ios) / (double)requests,
           (double)requests * 1e9 / (double)took);
    for (unsigned t = 0; t < TASKS; t++)
        mem_free(MEM_TEST, w[t].buf);
}

static void
measure_merge_on(enum io_backend_kind kind, const char *name)
{
    enum {
        RUNS = 64, /* of 64 KiB, shuffled together */
        ROUNDS = 16,
        N = RUNS * 16 * ROUNDS
    };
    static uint64_t block[N];
    char what[64];
    struct random r;
    unsigned n = 0;

    random_init(&r, 3);
    start(kind, false);
    struct io_file *f = file_of("a");
    /* Task t's writes of round k lie at t * N / TASKS + k * TASK_DEPTH: shuffled over the tasks. */
    for (unsigned k = 0; k < ROUNDS; k++) {
        uint64_t list[RUNS * 16];
        for (unsigned i = 0; i < RUNS; i++) {
            uint64_t run = (uint64_t)k * RUNS * 2 + i * 2; /* every other: runs don't touch */
            for (unsigned j = 0; j < 16; j++)
                list[i * 16 + j] = run * 16 + j;
        }
        for (unsigned i = RUNS * 16 - 1; i > 0; i--) {
            unsigned j = (unsigned)random_below(&r, i + 1);
            uint64_t t = list[i];
            list[i] = list[j];
            list[j] = t;
        }
        for (unsigned i = 0; i < RUNS * 16; i++)
            block[i / TASK_DEPTH * (N / TASKS) + k * TASK_DEPTH + i % TASK_DEPTH] = list[i];
    }
    snprintf(what, sizeof(what), "%s: shuffled 64 KiB ranges, 4 tasks", name);
    run_writers(f, what, block, N, IO_CLASS_WRITE);
    /* A checkpoint: six pages of ten are dirty and go in their order. */
    for (uint64_t b = 0; n < N; b++)
        if (random_chance(&r, 6, 10))
            block[n++] = b;
    snprintf(what, sizeof(what), "%s: 60 %% of the pages in order, 4 tasks", name);
    run_writers(f, what, block, N, IO_CLASS_FLUSH);
    io_file_close(f);
    stop();
}

static void
measure_merge(void)
{
    measure_merge_on(IO_BACKEND_AUTO, "uring");
    measure_merge_on(IO_BACKEND_THREADS, "threads");
}

/* ---- Foreground beside background ---- */

#define BG_DEPTH  32u
#define BG_BYTES  (1u << 20)
#define FG_THREAD 32u
#define FG_RATE   25u /* reads/s of each */

static _Atomic bool bg_stop;
static uint64_t bg_bytes;

static void *
bg_main(void *arg)
{
    struct io_file *f = arg;
    struct io_req *req = mem_zalloc(MEM_TEST, BG_DEPTH * sizeof(*req));
    char *buf = buffer((size_t)BG_DEPTH * BG_BYTES);
    uint64_t sent = 0, done = 0;

    while (!atomic_load(&bg_stop) || done < sent) {
        while (sent - done < BG_DEPTH && !atomic_load(&bg_stop)) {
            unsigned i = (unsigned)(sent % BG_DEPTH);
            struct io_req *p = &req[i];
            *p = (struct io_req){ .file = f,
                                  .op = IO_OP_WRITE,
                                  .class = IO_CLASS_COMPACTION,
                                  .offset = sent * BG_BYTES % FILE_BYTES,
                                  .buf = buf + (size_t)i * BG_BYTES,
                                  .bytes = BG_BYTES };
            io_submit(&p, 1);
            sent++;
        }
        if (done == sent)
            break;
        must(io_wait(&req[done++ % BG_DEPTH]));
    }
    bg_bytes = done * BG_BYTES;
    mem_free(MEM_TEST, buf);
    mem_free(MEM_TEST, req);
    return NULL;
}

struct fg {
    struct io_file *f;
    uint64_t seed;
    struct hist *h;
    uint64_t warm_ns, end_ns;
};

static void *
fg_main(void *arg)
{
    struct fg *g = arg;
    struct random r;
    char *buf = buffer(4096);
    uint64_t at = clock_ns();

    random_init(&r, g->seed);
    for (; at < g->end_ns; at += 1000000000ull / FG_RATE) {
        uint64_t now = clock_ns();
        if (now < at)
            task_sleep_ns(at - now);
        must(io_read(g->f, buf, 4096, random_below(&r, FILE_BYTES / 4096) * 4096, IO_CLASS_READ));
        if (at > g->warm_ns)
            hist_add(g->h, clock_ns() - at); /* from when it was due: no omission */
    }
    mem_free(MEM_TEST, buf);
    return NULL;
}

static void
mixed(bool plain, bool fg, bool bg, double seconds, double solo)
{
    pthread_t bt, ft[FG_THREAD];
    struct fg g[FG_THREAD];
    struct hist *all = mem_alloc(MEM_TEST, sizeof(*all));

    start(IO_BACKEND_AUTO, plain);
    struct io_dir *d = dir;
    struct io_file *a = file_of("a"), *b = file_of("b");
    ash_ignore(io_model_load(d));
    hist_init(all);
    atomic_store(&bg_stop, false);
    uint64_t begin = clock_ns();
    if (bg)
        pthread_create(&bt, NULL, bg_main, b);
    for (unsigned i = 0; i < FG_THREAD && fg; i++) {
        g[i] = (struct fg){ a, i + 1, mem_alloc(MEM_TEST, sizeof(struct hist)), begin + 500000000,
                            begin + (uint64_t)(seconds * 1e9) };
        hist_init(g[i].h);
        pthread_create(&ft[i], NULL, fg_main, &g[i]);
    }
    for (unsigned i = 0; i < FG_THREAD && fg; i++) {
        pthread_join(ft[i], NULL);
        hist_merge(all, g[i].h);
        mem_free(MEM_TEST, g[i].h);
    }
    if (!fg)
        task_sleep_ns((uint64_t)(seconds * 1e9));
    struct io_stats st;
    io_stats(io, &st);
    atomic_store(&bg_stop, true);
    if (bg)
        pthread_join(bt, NULL);
    double took = (double)(clock_ns() - begin) / 1e9, bw = bg ? (double)bg_bytes / took / 1e6 : 0;
    printf("%-18s", plain ? "without scheduler" : "with scheduler");
    if (fg)
        printf("  reads %6.0f/s P50 %7.1f us P99 %8.1f us", (double)all->count / (seconds - 0.5),
               (double)hist_quantile(all, 0.5) / 1e3, (double)hist_quantile(all, 0.99) / 1e3);
    if (bg)
        printf("  background %5.0f MB/s", bw);
    if (solo > 0 && bg)
        printf(" (%.0f %% of solo)", 100 * bw / solo);
    if (!plain && bg)
        printf("  credit %.2f ms, overdue %lu", (double)st.credit_ns / 1e6,
               (unsigned long)st.overdue[IO_CLASS_COMPACTION]);
    printf("\n");
    mem_free(MEM_TEST, all);
    io_file_close(a);
    io_file_close(b);
    stop();
    solo_bw = bw;
}

static void
measure_mixed(void)
{
    mixed(true, true, false, 2, 0);
    for (unsigned i = 0; i < 2; i++) {
        mixed(true, false, true, 3, 0);
        double solo = solo_bw;
        mixed(false, false, true, 3, solo);
        mixed(true, true, true, 4, solo);
        mixed(false, true, true, 4, solo);
    }
}

static void
measure_model(void)
{
    struct io_model m;

    start(IO_BACKEND_AUTO, false);
    must(io_calibrate(dir, 3000, &m));
    printf("reads %lu/s writes %lu/s, %lu and %lu MB/s, alone %.1f and %.1f us\n",
           (unsigned long)m.read_iops, (unsigned long)m.write_iops,
           (unsigned long)m.read_bytes / 1000000, (unsigned long)m.write_bytes / 1000000,
           (double)m.read_ns / 1e3, (double)m.write_ns / 1e3);
    stop();
}

int
main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } what[] = { { "cpu", measure_cpu },
                 { "calls", measure_calls },
                 { "merge", measure_merge },
                 { "mixed", measure_mixed },
                 { "model", measure_model } };

    must(task_runtime_create(&rt));
    for (unsigned i = 0; i < ASH_ARRAY_SIZE(what); i++)
        if (argc > 1 && strcmp(argv[1], what[i].name) == 0)
            what[i].run();
    task_runtime_destroy(rt);
    return 0;
}
