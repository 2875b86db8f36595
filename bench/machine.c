/* SPDX-License-Identifier: Apache-2.0
 *
 * machine.c - reads /proc and /sys.  Everything here is best effort: a missing file leaves a field empty.
 */
#include "machine.h"

#include "base/clock.h"
#include "base/error.h"

#include <errno.h>
#include <ftw.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#define SECTOR    512u /* of /sys/.../stat, whatever the device's own */
#define WALK_FDS  16   /* directories that nftw() keeps open */
#define LINE_SIZE 1024

/* First line of a file without its end; "" when unreadable. */
static void
read_line(const char *path, char *out, size_t size)
{
    FILE *f = fopen(path, "re");

    out[0] = '\0';
    if (f == NULL)
        return;
    if (fgets(out, (int)size, f) == NULL)
        out[0] = '\0';
    fclose(f);
    out[strcspn(out, "\n")] = '\0';
    for (size_t n = strlen(out); n > 0 && out[n - 1] == ' '; n--)
        out[n - 1] = '\0';
}

static void
find_cpu(char *out, size_t size)
{
    char line[LINE_SIZE];
    FILE *f = fopen("/proc/cpuinfo", "re");

    out[0] = '\0';
    if (f == NULL)
        return;
    while (fgets(line, sizeof(line), f) != NULL) {
        char *colon = strchr(line, ':');
        if (colon == NULL || strncmp(line, "model name", 10) != 0)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, size, "%s", colon + 2);
        break;
    }
    fclose(f);
}

/* The file system is the one mounted last whose device number is ours. */
static void
find_filesystem(struct bench_machine *m)
{
    char line[LINE_SIZE], type[32];
    unsigned major_number, minor_number;
    FILE *f = fopen("/proc/self/mountinfo", "re");

    if (f == NULL)
        return;
    while (fgets(line, sizeof(line), f) != NULL) {
        const char *rest = strstr(line, " - ");
        if (rest == NULL || sscanf(line, "%*d %*d %u:%u", &major_number, &minor_number) != 2)
            continue;
        if (major_number == m->device_major && minor_number == m->device_minor &&
            sscanf(rest, " - %31s", type) == 1)
            snprintf(m->filesystem, sizeof(m->filesystem), "%s", type);
    }
    fclose(f);
}

static void
find_device(struct bench_machine *m)
{
    char path[256], link[256], text[64];
    ssize_t n;
    char *name;

    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", m->device_major, m->device_minor);
    n = readlink(path, link, sizeof(link) - 1);
    if (n <= 0)
        return;
    link[n] = '\0';
    name = strrchr(link, '/');
    snprintf(m->device, sizeof(m->device), "%.63s", name != NULL ? name + 1 : link);
    /* A partition has its disk's directory above it. */
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/queue/rotational", m->device_major,
             m->device_minor);
    read_line(path, text, sizeof(text));
    if (text[0] == '\0') {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../queue/rotational", m->device_major,
                 m->device_minor);
        read_line(path, text, sizeof(text));
    }
    m->rotational = text[0] == '1';
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/device/model", m->device_major,
             m->device_minor);
    read_line(path, m->device_model, sizeof(m->device_model));
    if (m->device_model[0] == '\0') {
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../device/model", m->device_major,
                 m->device_minor);
        read_line(path, m->device_model, sizeof(m->device_model));
    }
}

ash_rc
machine_describe(const char *dir, struct bench_machine *machine_out)
{
    struct bench_machine m = { 0 };
    struct utsname names;
    struct stat st;
    cpu_set_t cpus;
    time_t now;
    struct tm tm;

    if (stat(dir, &st) != 0)
        return ash_raise_sys(err_from_errno(errno), errno, dir, "--dir: cannot look at %s: %s", dir,
                             strerror(errno));
    m.device_major = major(st.st_dev);
    m.device_minor = minor(st.st_dev);
    find_cpu(m.cpu, sizeof(m.cpu));
    m.cores = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 0;
    m.memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (uname(&names) == 0)
        snprintf(m.kernel, sizeof(m.kernel), "%s %s %s", names.sysname, names.release,
                 names.machine);
    find_filesystem(&m);
    find_device(&m);
#ifdef __clang__
    snprintf(m.compiler, sizeof(m.compiler), "clang %s", __clang_version__);
#else
    snprintf(m.compiler, sizeof(m.compiler), "gcc %s", __VERSION__);
#endif
    now = (time_t)(clock_wall_us() / 1000000);
    if (gmtime_r(&now, &tm) != NULL)
        strftime(m.date, sizeof(m.date), "%Y-%m-%dT%H:%M:%SZ", &tm);
    *machine_out = m;
    return ASH_OK;
}

bool
machine_device_bytes(const struct bench_machine *machine, uint64_t *read_out, uint64_t *written_out)
{
    char path[128], line[LINE_SIZE];
    unsigned long long read_sectors, write_sectors;

    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/stat", machine->device_major,
             machine->device_minor);
    read_line(path, line, sizeof(line));
    if (sscanf(line, "%*u %*u %llu %*u %*u %*u %llu", &read_sectors, &write_sectors) != 2)
        return false;
    *read_out = read_sectors * SECTOR;
    *written_out = write_sectors * SECTOR;
    return true;
}

static uint64_t
    walk_bytes; /* nftw() has no argument for its function; used by the main thread only */

static int
walk_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)path;
    (void)where;
    if (type == FTW_F)
        walk_bytes += (uint64_t)st->st_blocks * SECTOR;
    return 0;
}

uint64_t
machine_space_bytes(const char *dir)
{
    walk_bytes = 0;
    (void)nftw(dir, walk_entry, WALK_FDS,
               FTW_PHYS); /* files that vanish meanwhile are not counted */
    return walk_bytes;
}

uint64_t
machine_rss_bytes(void)
{
    char line[LINE_SIZE];
    unsigned long long pages;

    read_line("/proc/self/statm", line, sizeof(line));
    if (sscanf(line, "%*u %llu", &pages) != 1)
        return 0;
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

double
machine_cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
