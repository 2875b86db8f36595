/* SPDX-License-Identifier: Apache-2.0
 *
 * iob.c - the command `ashlar-bench io`.
 *
 * Exit status: 0 all ran; 1 a job failed or found wrong data; 2 wrong usage, or a file that cannot
 * be used; 128 + n after signal n, with a report of what was done until then.
 */
#include "iob.h"

#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>

_Atomic int iob_interrupted; /* read by all threads; lock-free, so a handler may write it */

static void
on_signal(int signal)
{
    atomic_store_explicit(&iob_interrupted, signal, memory_order_relaxed);
}

/* Once: a second signal ends the program as usual. */
static void
catch_signals(void)
{
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };

    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

static int
complain(void)
{
    fprintf(stderr, "ashlar-bench io: %s\n", err_current()->message);
    return 2;
}

/* What the disk manager has to say: only what changes the figures. */
static void
on_log(void *arg, int level, const char *message)
{
    (void)arg;
    if (level <= LOG_WARN)
        fprintf(stderr, "ashlar-bench io: %s\n", message);
}

static int
run_and_report(const struct iob_setup *s, FILE *f)
{
    struct iob_run run;

    if (s->command.ladder != 0)
        return iob_ladder(s, f) == ASH_OK ? 0 : complain();
    if (iob_run(s, &run) != ASH_OK)
        return complain();
    if (s->command.format == 0)
        iob_report(f, &run);
    else
        iob_report_json(f, &run);
    for (unsigned i = 0; i < run.results; i++)
        if (run.result[i].stats.error != 0)
            fprintf(stderr, "ashlar-bench io: job %s: %s\n", run.result[i].job->name,
                    run.result[i].stats.message);
    int status = run.failed ? 1 : iob_interrupted != 0 ? 128 + iob_interrupted : 0;
    iob_run_deinit(&run);
    return status;
}

static int
with_output(const struct iob_setup *s)
{
    const char *path = s->command.output;
    FILE *f = path == NULL ? stdout : fopen(path, "we");
    int status;

    if (f == NULL) {
        ash_ignore(ash_raise_sys(ASH_IO, errno, path, "--output: %s cannot be written: %s.", path,
                                 strerror(errno)));
        return complain();
    }
    status = run_and_report(s, f);
    if (path != NULL && fclose(f) != 0) {
        ash_ignore(ash_raise_sys(ASH_IO, errno, path, "--output: writing %s failed: %s.", path,
                                 strerror(errno)));
        return complain();
    }
    return status;
}

int
iob_main(int argc, char **argv)
{
    struct iob_setup setup;
    int status = 0;

    log_hook(on_log, NULL);
    catch_signals();
    iob_setup_init(&setup);
    ash_rc rc = iob_arguments(&setup, argc, argv);
    if (rc == ASH_OK && setup.command.help != 0)
        iob_help(stdout);
    else if (rc != ASH_OK || iob_check(&setup) != ASH_OK)
        status = complain();
    else if (setup.command.parse_only == 0)
        status = with_output(&setup);
    iob_setup_deinit(&setup);
    return status;
}
