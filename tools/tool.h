/* SPDX-License-Identifier: Apache-2.0
 *
 * tool.h - what the subcommands of `ashlar` share.
 *
 * Exit codes, for scripts: 0 done; 1 not found (key, table), or verify found problems; 2 wrong usage; 3 the database or the
 * system failed.  Results go to stdout, everything else to stderr.
 */
#ifndef ASH_TOOL_H
#define ASH_TOOL_H

#include <ashlar.h>

#include <stdbool.h>
#include <stdio.h>

enum tool_exit { TOOL_OK = 0, TOOL_NOT_FOUND = 1, TOOL_USAGE = 2, TOOL_FAILED = 3 };

#define TOOL_POSITIONAL_MAX 8
#define TOOL_FLAGS_MAX 24

/* The arguments after the subcommand: --name=value, --name (value NULL), and the rest in order. */
struct tool_args {
    const char *command;
    const char *positional[TOOL_POSITIONAL_MAX];
    int positional_count;
    struct { const char *name, *value; bool used; } flag[TOOL_FLAGS_MAX];
    int flag_count;
};

struct tool_command {
    const char *name, *usage, *help;
    int positional_min, positional_max;
    int (*run)(struct tool_args *args);
};
extern const struct tool_command tool_commands[]; /* ends with a NULL name */

/* The value of --name, "" when it was given without one, NULL when absent. */
const char *tool_flag(struct tool_args *args, const char *name);
bool tool_flag_on(struct tool_args *args, const char *name);
/* A number with an optional KiB/MiB/GiB; false after an error message. */
bool tool_flag_number(struct tool_args *args, const char *name, uint64_t *value_out);
/* Complains about a flag that nobody asked for; call before work begins. */
bool tool_flags_done(struct tool_args *args);

/* Prints the last error of the library as one sentence; returns the exit code that fits. */
int tool_fail(ash_rc rc);
int tool_usage_error(const struct tool_args *args, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A database opened for a command, with a session and perhaps a table. */
struct tool_db {
    ash_db *db;
    ash_session *session;
    ash_table *table;
};
/* Opens DIR (first positional) with --options; table NULL: none. */
ash_rc tool_open(struct tool_args *args, unsigned flags, const char *table, struct tool_db *out);
int tool_close(struct tool_db *t, int result); /* a failure to close becomes TOOL_FAILED */

/* Keys and values on the command line and in output: bytes outside printable ASCII, and backslash, as \xHH. */
bool tool_unescape(const char *text, char *out, size_t capacity, size_t *size_out);
void tool_print_bytes(FILE *f, struct ash_slice s);
void tool_print_json(FILE *f, struct ash_slice s); /* a JSON string; bytes that are not UTF-8 as \u00HH */

/* A progress line on a terminal; silent otherwise. */
struct tool_progress { const char *what; uint64_t done, total; uint64_t start_ns, shown_ns; bool terminal; };
void tool_progress_begin(struct tool_progress *p, const char *what, uint64_t total);
void tool_progress_at(struct tool_progress *p, uint64_t done);
void tool_progress_end(struct tool_progress *p);

int tool_create(struct tool_args *args);
int tool_load(struct tool_args *args);
int tool_get(struct tool_args *args);
int tool_put(struct tool_args *args);
int tool_delete(struct tool_args *args);
int tool_scan(struct tool_args *args);
int tool_dump(struct tool_args *args);
int tool_tables(struct tool_args *args);
int tool_stat(struct tool_args *args);
int tool_options(struct tool_args *args);
int tool_verify(struct tool_args *args);
int tool_inspect(struct tool_args *args);

#endif
