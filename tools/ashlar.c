/* SPDX-License-Identifier: Apache-2.0
 *
 * ashlar.c - the `ashlar` command: what there is, help, dispatch.
 */
#include <string.h>

#include "tool.h"

/* clang-format off */
static const struct tool_command commands[] = {
    { "create", "DIR [TABLE...] [--page-size=BYTES]", "make a database, and tables in it", 1, TOOL_POSITIONAL_MAX, tool_create,
      "Without TABLE the database must not be there yet. With tables it may be: they are added, all or none.\n"
      "--page-size is that of the tables: a power of two from 4KiB on (default 4KiB); larger suits long scans.\n\n"
      "  ashlar create /tmp/db towns rivers\n" },
    { "load", "DIR TABLE [FILE] [--format=tsv|csv|deb822] [--key=COLUMN] [--header] [--batch=ROWS]",
      "read rows from FILE or standard input", 2, 3, tool_load,
      "Database and table are made when they are not there. A row whose key is there already replaces it.\n\n"
      "  --format=tsv     one row a line, columns separated by tabs, any byte as \\xHH; the key is column 1 or --key=N,\n"
      "                   the value is the rest. Empty lines, and lines with # and no tab, are passed over.\n"
      "  --format=csv     RFC 4180; the key is column 1 or --key=N, the value is the whole record as it stands\n"
      "  --format=deb822  stanzas as `apt-cache dumpavail` prints them; the key is the field Package or --key=FIELD,\n"
      "                   the value is the whole stanza\n"
      "  --header         the first row names the columns: --key=NAME works\n"
      "  --batch=ROWS     rows of one transaction (default 1000). A stopped load keeps its finished batches.\n\n"
      "  apt-cache dumpavail | ashlar load /tmp/db packages --format=deb822\n"
      "  ashlar load /tmp/db towns towns.csv --format=csv --header --key=name\n"
      "  ashlar dump /tmp/db towns | ashlar load /tmp/copy towns\n" },
    { "get", "DIR TABLE KEY [--json]", "print one row's value", 3, 3, tool_get,
      "The value is printed as it is, with a newline after it. Exit code 1 when there is no such key.\n\n"
      "  ashlar get /tmp/db towns oslo\n" },
    { "put", "DIR TABLE KEY VALUE", "write one row", 4, 4, tool_put,
      "VALUE - reads the value from standard input. It is on stable storage when the command ends.\n\n"
      "  ashlar put /tmp/db towns oslo 709000\n"
      "  ashlar put /tmp/db files logo.png - <logo.png\n" },
    { "delete", "DIR TABLE KEY", "delete one row", 3, 3, tool_delete,
      "Exit code 1 when there is no such key.\n\n"
      "  ashlar delete /tmp/db towns oslo\n" },
    { "scan", "DIR TABLE [--from=KEY] [--to=KEY] [--reverse] [--limit=N] [--keys] [--json]", "print rows in key order", 2, 2, tool_scan,
      "  --from=KEY  the lowest key, included       --to=KEY   the upper bound, not included\n"
      "  --reverse   from the highest key down      --limit=N  at most N rows\n"
      "  --keys      no values                      --json     one object a line\n\n"
      "  ashlar scan /tmp/db packages --from=lib --to=lic --keys --limit=5\n"
      "  ashlar scan /tmp/db towns --reverse --json\n" },
    { "dump", "DIR [TABLE] [--json]", "print every row of a table, or of all tables", 1, 2, tool_dump,
      "The form of one table is what `ashlar load` reads. Of all tables, each is headed by a line \"# NAME\".\n\n"
      "  ashlar dump /tmp/db towns >towns.tsv\n" },
    { "tables", "DIR [--json]", "list the tables", 1, 1, tool_tables, "" },
    { "stat", "DIR [TABLE] [--json]", "print counters of every layer, or the shape of one table", 1, 2, tool_stat,
      "Counters begin at zero when a database is opened, so here they tell what opening it took, and the sizes.\n" },
    { "calibrate", "DIR [--json]", "measure the device below DIR for the I/O scheduler", 1, 1, tool_calibrate,
      "Takes about three seconds and a scratch file of 128 MiB. What the device can do is stored in DIR/io.model and used\n"
      "from the next time on that the database there is opened. Without it the scheduler guesses and learns.\n"
      "Best on a quiet machine; again when the device changes.\n\n"
      "  ashlar calibrate /tmp/db\n" },
    { "options", "[--json]", "list the options that --options=NAME=VALUE,... takes", 0, 0, tool_options,
      "\"changeable\" ones can be changed by a program while the database is open.\n\n"
      "  ashlar load /tmp/db towns towns.tsv --options=cache=1GiB,durability=async\n" },
    { "verify", "DIR [--json]", "check every page, tree, the map and the log", 1, 1, tool_verify,
      "Each problem is one line that names the file, the page and what is wrong. Exit code 0: none was found, 1: there are some.\n"
      "What is checked: each page's checksum and identity, order and structure of each tree, that every page in use\n"
      "belongs to one table, the location map, and that the log is readable to its end.\n" },
    { "inspect", "DIR page N | DIR log [LSN [COUNT]] | DIR zone N | DIR zones", "print a page, log records or a zone", 2, 4, tool_inspect,
      "  page N            where page N is stored, its header, fences and rows\n"
      "  log [LSN [COUNT]] COUNT records (default 20) from LSN on (default: where a restart begins)\n"
      "  zone N            the pages whose current version lies in zone N of the data file\n"
      "  zones             how full each zone is\n" },
    { NULL, NULL, NULL, 0, 0, NULL, NULL },
};
/* clang-format on */

static void
help_all(FILE *f)
{
    fprintf(f,
            "ashlar %s - a transactional storage engine; one database is one directory.\n\n"
            "Usage: ashlar COMMAND ...\n\n",
            ash_version());
    for (const struct tool_command *c = commands; c->name != NULL; c++)
        fprintf(f, "  %-9s %s\n", c->name, c->help);
    fputs(
        "\n`ashlar COMMAND --help` says more. Keys and values may hold any byte, written as \\xHH.\n"
        "Every command takes --options=NAME=VALUE,... (`ashlar options` lists them); after -- nothing is an option.\n"
        "Exit codes: 0 done, 1 no such key or table, or damage found, 2 wrong usage, 3 failed.\n\n"
        "Try:\n"
        "  ashlar create /tmp/db towns\n"
        "  ashlar put /tmp/db towns oslo 709000\n"
        "  ashlar scan /tmp/db towns\n",
        f);
}

static void
help_one(const struct tool_command *c)
{
    printf("Usage: ashlar %s %s\n\n%c%s.\n", c->name, c->usage, c->help[0] - 'a' + 'A',
           c->help + 1);
    if (c->more[0] != '\0')
        printf("\n%s", c->more);
}

static const struct tool_command *
find_command(const char *name)
{
    const struct tool_command *c = commands;

    while (c->name != NULL && strcmp(c->name, name) != 0)
        c++;
    if (c->name != NULL)
        return c;
    fprintf(stderr, "ashlar: There is no command \"%s\"; `ashlar --help` lists them.\n", name);
    return NULL;
}

/* False after a message. */
static bool
take_argument(struct tool_args *args, char *arg, bool may_be_flag)
{
    if (may_be_flag && strncmp(arg, "--", 2) == 0) {
        if (args->flag_count == TOOL_FLAGS_MAX)
            return tool_usage_error(args, "There are too many options.") == TOOL_OK;
        char *eq = strchr(arg, '=');
        if (eq != NULL)
            *eq = '\0';
        args->flag[args->flag_count++] =
            (struct tool_flag){ arg + 2, eq == NULL ? NULL : eq + 1, false };
        return true;
    }
    if (args->positional_count == TOOL_POSITIONAL_MAX)
        return tool_usage_error(args, "There are too many arguments.") == TOOL_OK;
    args->positional[args->positional_count++] = arg;
    return true;
}

static int
run(const struct tool_command *c, int argc, char **argv)
{
    struct tool_args args = { .command = c->name };
    bool only_positional = false;

    for (int i = 0; i < argc; i++) {
        if (!only_positional && strcmp(argv[i], "--") == 0)
            only_positional = true;
        else if (!take_argument(&args, argv[i], !only_positional))
            return TOOL_USAGE;
    }
    if (tool_flag_on(&args, "help")) {
        help_one(c);
        return TOOL_OK;
    }
    if (args.positional_count < c->positional_min || args.positional_count > c->positional_max) {
        fprintf(stderr, "Usage: ashlar %s %s\n", c->name, c->usage);
        return tool_usage_error(&args, "%s.",
                                args.positional_count < c->positional_min ? "Something is missing"
                                                                          : "That is too much");
    }
    return c->run(&args);
}

int
main(int argc, char **argv)
{
    const struct tool_command *c;

    tool_signals();
    if (argc < 2) {
        help_all(stderr);
        return TOOL_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        (strcmp(argv[1], "help") == 0 && argc == 2)) {
        help_all(stdout);
        return tool_finish(TOOL_OK);
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("ashlar %s\n", ash_version());
        return tool_finish(TOOL_OK);
    }
    bool help = strcmp(argv[1], "help") == 0;
    c = find_command(argv[help ? 2 : 1]);
    if (c == NULL)
        return TOOL_USAGE;
    if (help) {
        help_one(c);
        return tool_finish(TOOL_OK);
    }
    return tool_finish(run(c, argc - 2, argv + 2));
}
