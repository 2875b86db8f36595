/* SPDX-License-Identifier: Apache-2.0
 *
 * hostile.h - helpers of the tests that give the engine bad bytes, bad input and a bad environment.
 *
 * Everything that may kill a process, or changes its namespaces or limits, runs in a child
 * (hostile_child); the test program itself never opens a database, so it has no threads at fork().
 */
#ifndef ASH_TESTS_HOSTILE_H
#define ASH_TESTS_HOSTILE_H

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/api/db_env.h"

#define HOSTILE_SKIP 77 /* exit code of a child that lacks the rights for its test */

/* Small and without background checkpoints: what lies on disk follows from the calls. */
#define HOSTILE_OPTIONS                                                              \
    "cache=4MiB,wal_buffer=1MiB,wal_segment=64KiB,wal_limit=64MiB,zone_size=256KiB," \
    "executors=1,checkpoint_ms=86400000"

/* Runs fn(arg) in a child that ends after `seconds`; returns its exit code, or 128 + signal. */
__attribute__((unused)) static int
hostile_child(void (*fn)(void *arg), void *arg, unsigned seconds)
{
    int status;

    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0, "fork failed");
    if (pid == 0) {
        alarm(seconds);
        fn(arg);
        fflush(NULL);
        _exit(0);
    }
    must(waitpid(pid, &status, 0) == pid, "waitpid failed");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The last error's message is more than a word, is not cut, and contains `names`. */
__attribute__((unused)) static void
hostile_sentence(const char *names)
{
    const char *m = ash_error_last()->message;
    size_t n = strlen(m);

    must(n > 20 && strchr(m, ' ') != NULL && strchr(" :,\n", m[n - 1]) == NULL,
         "not a sentence: \"%s\" (%s)", m, ash_error_last()->where);
    must(names == NULL || strstr(m, names) != NULL, "\"%s\" does not name %s", m, names);
}

#define must_fail(expr, code, names) \
    do {                             \
        must_rc(expr, code);         \
        hostile_sentence(names);     \
    } while (0)

__attribute__((unused)) static void
hostile_copy_file(const char *from, const char *to)
{
    static char buf[1 << 16];
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t n;

    must(in >= 0 && out >= 0, "copying %s to %s: %s", from, to, strerror(errno));
    while ((n = read(in, buf, sizeof(buf))) > 0)
        must(write(out, buf, (size_t)n) == n, "writing %s: %s", to, strerror(errno));
    must(n == 0, "reading %s: %s", from, strerror(errno));
    close(in);
    close(out);
}

/* `to` becomes a copy of the directory `from`. */
__attribute__((unused)) static void
hostile_copy_dir(const char *from, const char *to)
{
    char a[512], b[512];
    DIR *d = opendir(from);

    must(d != NULL, "no directory %s", from);
    test_dir_remove(to);
    must(mkdir(to, 0700) == 0, "mkdir %s: %s", to, strerror(errno));
    for (struct dirent *x; (x = readdir(d)) != NULL;) {
        snprintf(a, sizeof(a), "%s/%s", from, x->d_name);
        snprintf(b, sizeof(b), "%s/%s", to, x->d_name);
        if (x->d_name[0] != '.')
            hostile_copy_file(a, b);
    }
    closedir(d);
}

#endif
