/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_main.c - `ashlar-bench COMMAND`: one program for all benchmarks.  Add a command by a row in `commands`.
 */
#include "base/assert.h"

#include <stdio.h>
#include <string.h>

#include "iob.h"
#include "ycsb.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv); /* without the program's and the command's name */
    const char *help;
} commands[] = {
    { "io", iob_main, "the disk manager under fio's job descriptions" },
    { "ycsb", ycsb_main, "the YCSB core workloads on Ashlar and its peers" },
};

static void
usage(FILE *f)
{
    fputs("usage: ashlar-bench COMMAND [options]\n\nCommands (each has --help):\n", f);
    for (size_t i = 0; i < ASH_ARRAY_SIZE(commands); i++)
        fprintf(f, "  %-10s %s\n", commands[i].name, commands[i].help);
}

int
main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    for (size_t i = 0; i < ASH_ARRAY_SIZE(commands); i++)
        if (strcmp(commands[i].name, argv[1]) == 0)
            return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "ashlar-bench: there is no command \"%s\"\n", argv[1]);
    usage(stderr);
    return 2;
}
