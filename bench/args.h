/* SPDX-License-Identifier: Apache-2.0
 *
 * args.h - long options from a table: --name=value or --name value, and flags.
 */
#ifndef BENCH_ARGS_H
#define BENCH_ARGS_H

#include <ashlar.h>

enum arg_kind {
    ARG_TEXT,    /* const char **, points into argv */
    ARG_SIZE,    /* uint64_t *, bytes; takes KiB, MiB, GiB */
    ARG_COUNT,   /* uint64_t *; takes k, M, G (thousands) */
    ARG_SECONDS, /* double * */
    ARG_FLAG     /* bool *, set true */
};

struct arg_spec {
    const char *name; /* without "--" */
    enum arg_kind kind;
    void *target;
    uint64_t min, max; /* of ARG_SIZE, ARG_COUNT and ARG_SECONDS, inclusive */
    const char *value; /* what the help calls it, e.g. "BYTES"; NULL for flags */
    const char *help;  /* may hold '\n' */
};

/* Fills the targets.  ASH_INVALID names the option and what it takes.  `*help_out` is set when --help was given. */
ASH_MUST_CHECK ash_rc args_parse(const struct arg_spec *specs, size_t count, int argc, char **argv,
                                 bool *help_out);
/* Prints one paragraph per option to stdout. */
void args_help(const struct arg_spec *specs, size_t count);

#endif
