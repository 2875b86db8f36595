/* SPDX-License-Identifier: Apache-2.0
 *
 * tool.h - what the subcommands of `ashlar` share.
 *
 * Exit codes, for scripts: 0 done; 1 the answer is no (no such key or table, or verify found
 * damage); 2 wrong usage; 3 the database or the system failed.  Results go to stdout, everything
 * else to stderr.
 *
 * Commands that only read open the database read-only, so that they change no byte of one that was
 * closed cleanly.
 */
#ifndef ASH_TOOL_H
#define ASH_TOOL_H

#include <ashlar.h>

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>

enum tool_exit {
    TOOL_OK = 0,
    TOOL_NO = 1,
    TOOL_USAGE = 2,
    TOOL_FAILED = 3
};

#define TOOL_POSITIONAL_MAX 16
#define TOOL_FLAGS_MAX      24

struct tool_flag {
    const char *name, *value; /* value NULL: given without "=" */
    bool used;
};

/* The arguments after the subcommand: flags (--name, --name=value), and the rest in order. */
struct tool_args {
    const char *command;
    const char *positional[TOOL_POSITIONAL_MAX];
    int positional_count;
    struct tool_flag flag[TOOL_FLAGS_MAX];
    int flag_count;
    bool bad; /* a flag was used wrongly, and that was said */
};

struct tool_command {
    const char *name, *usage, *help;
    int positional_min, positional_max;
    int (*run)(struct tool_args *args);
    const char *more; /* what --help says besides: details and examples */
};

/* ---- Arguments.  Ask for each flag, then call tool_flags_done() before work begins. ---- */

/* The value of --name=value; NULL when absent. */
const char *tool_flag(struct tool_args *args, const char *name);
/* Whether --name is there. */
bool tool_flag_on(struct tool_args *args, const char *name);
/* A number with an optional KiB, MiB or GiB; *value_out stays as it is when the flag is absent. */
void tool_flag_number(struct tool_args *args, const char *name, uint64_t *value_out);
/* False, after a message, when a flag is unknown or was used wrongly. */
bool tool_flags_done(struct tool_args *args);
int tool_usage_error(const struct tool_args *args, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Prints the library's last error as one sentence; returns the exit code that fits. */
int tool_fail(ash_rc rc);

/* ---- The database ---- */

/* A database opened for a command, with a session and perhaps a table. */
struct tool_db {
    ash_db *db;
    ash_session *session;
    ash_table *table;
};
/* Opens DIR (first positional) with --options, and a table unless it is NULL.  `out` is fit for
 * tool_close() in any case. tool_open_read(): read-only when the database was closed cleanly; else
 * it is recovered first, and that is said. */
ash_rc tool_open(struct tool_args *args, unsigned flags, const char *table, struct tool_db *out);
ash_rc tool_open_read(struct tool_args *args, const char *table, struct tool_db *out);
int tool_close(struct tool_db *t, int result); /* a failure to close becomes TOOL_FAILED */

/* ---- Signals and the end of output ---- */

/* SIGINT, SIGTERM or SIGPIPE once one came: loops stop, the database is closed, then the process
 * ends by that signal. */
extern volatile sig_atomic_t tool_signal;
void tool_signals(void);
/* Flushes stdout; a result that could not be written is a failure. */
int tool_finish(int result);

/* ---- Bytes as text (tool_text.c) ---- */

/* On the command line, in TSV and in output, bytes outside printable text and the backslash are
 * \xHH.  False when `capacity` is too small. */
bool tool_unescape(struct ash_slice text, char *out, size_t capacity, size_t *size_out);
void tool_print_bytes(FILE *f, struct ash_slice s);
/* "text", for strings that are text; what is not UTF-8 becomes U+FFFD. */
void tool_print_json(FILE *f, const char *text);
/* "name":"text", or, when the bytes are not UTF-8, "name_hex":"00ff": no byte is lost. */
void tool_print_json_member(FILE *f, const char *name, struct ash_slice s);
/* 1 234 567 as "1,234,567". */
#define TOOL_NUMBER_MAX 32
const char *tool_number(uint64_t n, char text[TOOL_NUMBER_MAX]);

/* ---- Progress (tool_progress.c) ---- */

/* A bar with rate and remaining time while stderr is a terminal; silent otherwise. */
struct tool_progress {
    const char *what;
    uint64_t total; /* of `done`; 0: unknown */
    uint64_t start_ns, shown_ns;
    unsigned calls;
    bool terminal;
};
void tool_progress_begin(struct tool_progress *p, const char *what, uint64_t total);
void tool_progress_at(struct tool_progress *p, uint64_t done, uint64_t rows);
void tool_progress_clear(struct tool_progress *p); /* makes room for a message; also at the end */

int tool_create(struct tool_args *args);
int tool_load(struct tool_args *args);
int tool_get(struct tool_args *args);
int tool_put(struct tool_args *args);
int tool_delete(struct tool_args *args);
int tool_scan(struct tool_args *args);
int tool_dump(struct tool_args *args);
int tool_tables(struct tool_args *args);
int tool_stat(struct tool_args *args);
int tool_calibrate(struct tool_args *args);
int tool_options(struct tool_args *args);
int tool_verify(struct tool_args *args);
int tool_inspect(struct tool_args *args);

#endif
