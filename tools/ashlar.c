/* SPDX-License-Identifier: Apache-2.0
 *
 * ashlar.c - the `ashlar` command: what there is, help, dispatch.
 */
#include <string.h>

#include "tool.h"

const struct tool_command tool_commands[] = {
    { "create", "DIR [TABLE...] [--page-size=BYTES]", "make a database, and tables in it", 1, 8, tool_create },
    { "load", "DIR TABLE [FILE] [--format=tsv|csv|deb822] [--key=COLUMN] [--header] [--batch=ROWS]",
      "read rows from FILE or standard input; the table is made when it is not there", 2, 3, tool_load },
    { "get", "DIR TABLE KEY [--json]", "print one row's value; exit code 1 when there is none", 3, 3, tool_get },
    { "put", "DIR TABLE KEY VALUE", "write one row; VALUE - reads standard input", 4, 4, tool_put },
    { "delete", "DIR TABLE KEY", "delete one row; exit code 1 when there is none", 3, 3, tool_delete },
    { "scan", "DIR TABLE [--from=KEY] [--to=KEY] [--reverse] [--limit=N] [--keys] [--json]",
      "print rows in key order; --to is not included", 2, 2, tool_scan },
    { "dump", "DIR [TABLE] [--json]", "print every row of a table, or of all tables, in a form that load --format=tsv reads", 1, 2,
      tool_dump },
    { "tables", "DIR [--json]", "list the tables", 1, 1, tool_tables },
    { "stat", "DIR [TABLE] [--json]", "print counters of every layer, or the shape of one table", 1, 2, tool_stat },
    { "options", "[--json]", "list the options that --options=NAME=VALUE,... takes", 0, 0, tool_options },
    { "verify", "DIR [--json]", "check every page, tree, the map and the log; exit code 1 when something is wrong", 1, 1,
      tool_verify },
    { "inspect", "DIR page N | DIR log [LSN [COUNT]] | DIR zones", "print a page, log records or the use of zones", 2, 4,
      tool_inspect },
    { NULL, NULL, NULL, 0, 0, NULL },
};

static void
help_all(FILE *f)
{
    fprintf(f, "ashlar %s - a transactional storage engine; one database is one directory.\n\nUsage: ashlar COMMAND ...\n\n",
            ash_version());
    for (const struct tool_command *c = tool_commands; c->name != NULL; c++)
        fprintf(f, "  %-8s %s\n", c->name, c->help);
    fprintf(f, "\nashlar COMMAND --help says more. Keys and values may hold any byte as \\xHH.\n"
               "Every command takes --options=NAME=VALUE,... (see `ashlar options`).\n"
               "Exit codes: 0 done, 1 not found or damaged, 2 wrong usage, 3 failed.\n\n"
               "Try:\n  ashlar create /tmp/db towns\n  ashlar put /tmp/db towns oslo 709000\n  ashlar scan /tmp/db towns\n");
}

static void
help_one(FILE *f, const struct tool_command *c)
{
    fprintf(f, "ashlar %s %s\n  %s.\n", c->name, c->usage, c->help);
    if (c->run == tool_load)
        fprintf(f, "\n  tsv     KEY<tab>VALUE; --key=N takes the N-th column (from 1) as the key, the others stay in the value\n"
                   "  csv     RFC 4180; --key=N or, with --header, a column's name; the value is the row as it stands\n"
                   "  deb822  stanzas as `apt-cache dumpavail` prints them; --key=FIELD (default Package)\n"
                   "  --batch rows make one transaction (default 1000). A row whose key is there already replaces it.\n");
    if (c->run == tool_inspect)
        fprintf(f, "\n  page N          the page with id N: header, fences, slots\n"
                   "  log [LSN [N]]   N records (default 20) from LSN on (default: where a restart begins)\n"
                   "  zones           how full each zone of the data file is\n");
}

int
main(int argc, char **argv)
{
    struct tool_args args = { 0 };
    bool help = false;

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0) {
        help_all(argc < 2 ? stderr : stdout);
        return argc < 2 ? TOOL_USAGE : TOOL_OK;
    }
    if (strcmp(argv[1], "--version") == 0)
        return printf("ashlar %s\n", ash_version()) > 0 ? TOOL_OK : TOOL_FAILED;
    const struct tool_command *c = tool_commands;
    while (c->name != NULL && strcmp(c->name, argv[1]) != 0)
        c++;
    if (c->name == NULL) {
        fprintf(stderr, "ashlar: there is no command \"%s\"; `ashlar --help` lists them.\n", argv[1]);
        return TOOL_USAGE;
    }
    args.command = c->name;
    bool only_positional = false;
    for (int i = 2; i < argc; i++) {
        char *arg = argv[i];
        if (!only_positional && strcmp(arg, "--") == 0) {
            only_positional = true;
        } else if (!only_positional && strncmp(arg, "--", 2) == 0) {
            char *eq = strchr(arg, '=');
            if (args.flag_count == TOOL_FLAGS_MAX)
                return tool_usage_error(&args, "Too many options.");
            if (eq != NULL)
                *eq = '\0';
            args.flag[args.flag_count].name = arg + 2;
            args.flag[args.flag_count++].value = eq == NULL ? "" : eq + 1;
            help |= strcmp(arg, "--help") == 0;
        } else if (args.positional_count == TOOL_POSITIONAL_MAX) {
            return tool_usage_error(&args, "Too many arguments.");
        } else {
            args.positional[args.positional_count++] = arg;
        }
    }
    if (help) {
        help_one(stdout, c);
        return TOOL_OK;
    }
    if (args.positional_count < c->positional_min || args.positional_count > c->positional_max)
        return tool_usage_error(&args, "It takes %d to %d arguments, not %d.", c->positional_min, c->positional_max,
                                args.positional_count);
    return c->run(&args);
}
