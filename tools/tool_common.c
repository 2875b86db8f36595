/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_common.c - arguments, errors, opening and closing, signals.
 */
#include "base/option.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "tool.h"

/* ---- Arguments ---- */

static const struct tool_flag *
find_flag(struct tool_args *args, const char *name)
{
    const struct tool_flag *found = NULL;

    for (int i = 0; i < args->flag_count; i++)
        if (strcmp(args->flag[i].name, name) == 0) {
            args->flag[i].used = true;
            found = &args->flag[i]; /* the last one counts */
        }
    return found;
}

const char *
tool_flag(struct tool_args *args, const char *name)
{
    const struct tool_flag *flag = find_flag(args, name);

    if (flag != NULL && flag->value == NULL) {
        tool_usage_error(args, "--%s needs a value, written as --%s=VALUE.", name, name);
        args->bad = true;
    }
    return flag == NULL ? NULL : flag->value;
}

bool
tool_flag_on(struct tool_args *args, const char *name)
{
    const struct tool_flag *flag = find_flag(args, name);

    if (flag != NULL && flag->value != NULL) {
        tool_usage_error(args, "--%s takes no value.", name);
        args->bad = true;
    }
    return flag != NULL;
}

void
tool_flag_number(struct tool_args *args, const char *name, uint64_t *value_out)
{
    const char *text = tool_flag(args, name);

    if (text == NULL || option_parse_size(text, value_out))
        return;
    tool_usage_error(args, "--%s takes a number, not \"%s\".", name, text);
    args->bad = true;
}

bool
tool_flags_done(struct tool_args *args)
{
    (void)tool_flag(args, "options"); /* every command takes it */
    for (int i = 0; i < args->flag_count && !args->bad; i++)
        if (!args->flag[i].used) {
            tool_usage_error(args, "There is no option --%s here.", args->flag[i].name);
            args->bad = true;
        }
    return !args->bad;
}

int
tool_usage_error(const struct tool_args *args, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "ashlar %s: ", args->command);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, " See `ashlar %s --help`.\n", args->command);
    return TOOL_USAGE;
}

int
tool_fail(ash_rc rc)
{
    const struct ash_error *e = ash_error_last();

    fprintf(stderr, "ashlar: %s (%s)\n",
            e->code == rc && e->message[0] != '\0' ? e->message : ash_strerror(rc),
            ash_rc_name(rc));
    return rc == ASH_NOT_FOUND ? TOOL_NO : rc == ASH_INVALID ? TOOL_USAGE : TOOL_FAILED;
}

/* ---- The database ---- */

static void
tool_log(void *arg, int level, const char *message)
{
    (void)arg;
    if (level <= 1)
        fprintf(stderr, "ashlar: %s\n", message);
}

ash_rc
tool_open(struct tool_args *args, unsigned flags, const char *table, struct tool_db *out)
{
    memset(out, 0, sizeof(*out));
    ash_log_hook(tool_log, NULL);
    ash_rc rc = ash_open(args->positional[0], flags, tool_flag(args, "options"), &out->db);
    if (rc == ASH_OK)
        rc = ash_session_open(out->db, &out->session);
    if (rc == ASH_OK && table != NULL)
        rc = ash_table_open(out->session, table, &out->table);
    return rc;
}

ash_rc
tool_open_read(struct tool_args *args, const char *table, struct tool_db *out)
{
    ash_rc rc = tool_open(args, ASH_OPEN_READ_ONLY, table, out);

    if (rc != ASH_READ_ONLY || out->db != NULL)
        return rc;
    fprintf(stderr, "ashlar: %s was not closed cleanly; it is recovered first.\n",
            args->positional[0]);
    return tool_open(args, 0, table, out);
}

int
tool_close(struct tool_db *t, int result)
{
    ash_table_close(t->table);
    ash_session_close(t->session);
    ash_rc rc = ash_close(t->db);
    return rc != ASH_OK && result == TOOL_OK ? tool_fail(rc) : result;
}

/* ---- Signals and the end of output ---- */

volatile sig_atomic_t tool_signal;

static void
on_signal(int signal)
{
    tool_signal = signal;
}

void
tool_signals(void)
{
    /* A second one ends the process at once.  No SA_RESTART: a read of the terminal must end. */
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND };
    struct sigaction broken_pipe = { .sa_handler = on_signal };

    sigemptyset(&action.sa_mask);
    sigemptyset(&broken_pipe.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGPIPE, &broken_pipe, NULL);
}

int
tool_finish(int result)
{
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && tool_signal == 0) {
        fprintf(stderr, "ashlar: The output could not be written%s%s.\n", errno != 0 ? ": " : "",
                errno != 0 ? strerror(errno) : "");
        result = TOOL_FAILED;
    }
    if (tool_signal != 0) { /* so that a shell sees why */
        signal(tool_signal, SIG_DFL);
        raise(tool_signal);
    }
    return result;
}
