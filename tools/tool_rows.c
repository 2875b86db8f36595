/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_rows.c - get, put, delete, scan, dump.
 */
#include "base/mem.h"

#include <errno.h>
#include <string.h>

#include "tool.h"

static bool
key_argument(struct tool_args *args, const char *text, char out[ASH_KEY_SIZE_MAX],
             struct ash_slice *key_out)
{
    size_t size;

    if (!tool_unescape(ash_slice(text, strlen(text)), out, ASH_KEY_SIZE_MAX, &size)) {
        tool_usage_error(args, "A key is at most %d bytes long.", ASH_KEY_SIZE_MAX);
        return false;
    }
    *key_out = ash_slice(out, size);
    return true;
}

/* The answer "no", on stderr; the exit code tells scripts. */
static int
no_such_key(const struct tool_args *args)
{
    fprintf(stderr, "ashlar: Table \"%s\" has no key \"%s\".\n", args->positional[1],
            args->positional[2]);
    return TOOL_NO;
}

int
tool_get(struct tool_args *args)
{
    bool json = tool_flag_on(args, "json");
    char bytes[ASH_KEY_SIZE_MAX];
    struct ash_slice key, value;
    struct tool_db t;

    if (!tool_flags_done(args) || !key_argument(args, args->positional[2], bytes, &key))
        return TOOL_USAGE;
    ash_rc rc = tool_open_read(args, args->positional[1], &t);
    if (rc == ASH_OK)
        rc = ash_get(t.session, t.table, key, &value);
    if (rc == ASH_NOT_FOUND && t.table != NULL)
        return tool_close(&t, no_such_key(args));
    if (rc != ASH_OK)
        return tool_close(&t, tool_fail(rc));
    if (json) {
        fputc('{', stdout);
        tool_print_json_member(stdout, "key", key);
        fputc(',', stdout);
        tool_print_json_member(stdout, "value", value);
        fputs("}\n", stdout);
    } else {
        fwrite(value.data, 1, value.size, stdout);
        fputc('\n', stdout);
    }
    return tool_close(&t, TOOL_OK);
}

/* VALUE, or all of standard input when it is "-".  The caller frees *bytes_out. */
static ash_rc
value_argument(const char *text, char **bytes_out, struct ash_slice *value_out)
{
    bool input = strcmp(text, "-") == 0;
    size_t capacity = input ? ASH_VALUE_SIZE_MAX + 1 : strlen(text) + 1;
    char *bytes = mem_alloc(MEM_TOOL, capacity);
    size_t size = 0;

    if (bytes == NULL)
        return ASH_NO_MEMORY;
    if (input)
        size = fread(bytes, 1, capacity, stdin);
    if (input && ferror(stdin)) {
        mem_free(MEM_TOOL, bytes);
        fprintf(stderr, "ashlar put: Standard input could not be read: %s.\n", strerror(errno));
        return ASH_IO;
    }
    if (!input)
        (void)tool_unescape(ash_slice(text, strlen(text)), bytes, capacity,
                            &size); /* never longer than its text */
    *bytes_out = bytes;
    *value_out = ash_slice(bytes, size);
    return ASH_OK;
}

int
tool_put(struct tool_args *args)
{
    char bytes[ASH_KEY_SIZE_MAX], *value_bytes = NULL;
    struct ash_slice key, value;
    struct tool_db t;

    if (!tool_flags_done(args) || !key_argument(args, args->positional[2], bytes, &key))
        return TOOL_USAGE;
    ash_rc rc = value_argument(args->positional[3], &value_bytes, &value);
    if (rc != ASH_OK)
        return tool_fail(rc);
    rc = tool_open(args, 0, args->positional[1], &t);
    if (rc == ASH_NOT_FOUND)
        fprintf(stderr, "ashlar: `ashlar create %s %s` makes the table.\n", args->positional[0],
                args->positional[1]);
    if (rc == ASH_OK)
        rc = ash_put(t.session, t.table, key, value);
    mem_free(MEM_TOOL, value_bytes);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

int
tool_delete(struct tool_args *args)
{
    char bytes[ASH_KEY_SIZE_MAX];
    struct ash_slice key;
    struct tool_db t;

    if (!tool_flags_done(args) || !key_argument(args, args->positional[2], bytes, &key))
        return TOOL_USAGE;
    ash_rc rc = tool_open(args, 0, args->positional[1], &t);
    if (rc == ASH_OK)
        rc = ash_delete(t.session, t.table, key);
    if (rc == ASH_NOT_FOUND && t.table != NULL)
        return tool_close(&t, no_such_key(args));
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

/* ---- Many rows ---- */

#define SCAN_ROWS 64u /* of one batch */

struct scan {
    const char *table; /* named in each JSON row, or NULL */
    struct ash_cursor_options range;
    bool json;
    uint64_t limit;
};

static void
print_row(const struct scan *scan, const struct ash_row *row)
{
    if (!scan->json) {
        tool_print_bytes(stdout, row->key);
        if (!scan->range.keys_only) {
            fputc('\t', stdout);
            tool_print_bytes(stdout, row->value);
        }
        fputc('\n', stdout);
        return;
    }
    fputc('{', stdout);
    if (scan->table != NULL) {
        tool_print_json_member(stdout, "table", ash_slice(scan->table, strlen(scan->table)));
        fputc(',', stdout);
    }
    tool_print_json_member(stdout, "key", row->key);
    if (!scan->range.keys_only) {
        fputc(',', stdout);
        tool_print_json_member(stdout, "value", row->value);
    }
    fputs("}\n", stdout);
}

static ash_rc
print_rows(struct tool_db *t, ash_table *table, const struct scan *scan)
{
    struct ash_row rows[SCAN_ROWS];
    uint64_t left = scan->limit;
    ash_cursor *cursor;
    ash_rc rc = ash_cursor_open(t->session, table, &scan->range, &cursor);

    if (rc != ASH_OK)
        return rc;
    while (left > 0 && tool_signal == 0 && !ferror(stdout)) {
        size_t count;
        rc = ash_cursor_batch(cursor, left < SCAN_ROWS ? (size_t)left : SCAN_ROWS, rows, &count);
        if (rc != ASH_OK)
            break;
        for (size_t i = 0; i < count; i++)
            print_row(scan, &rows[i]);
        left -= count;
    }
    ash_cursor_close(cursor);
    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

int
tool_scan(struct tool_args *args)
{
    const char *from = tool_flag(args, "from"), *to = tool_flag(args, "to");
    struct scan scan = { .json = tool_flag_on(args, "json"), .limit = UINT64_MAX };
    char from_bytes[ASH_KEY_SIZE_MAX], to_bytes[ASH_KEY_SIZE_MAX];
    struct tool_db t;

    scan.range.reverse = tool_flag_on(args, "reverse");
    scan.range.keys_only = tool_flag_on(args, "keys");
    tool_flag_number(args, "limit", &scan.limit);
    if (!tool_flags_done(args) ||
        (from != NULL && !key_argument(args, from, from_bytes, &scan.range.from)) ||
        (to != NULL && !key_argument(args, to, to_bytes, &scan.range.to)))
        return TOOL_USAGE;
    ash_rc rc = tool_open_read(args, args->positional[1], &t);
    if (rc == ASH_OK)
        rc = print_rows(&t, t.table, &scan);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

/* ---- Everything ---- */

#define DUMP_NAMES 64u /* tables of one round; with more, the next round begins after the last */

struct dump {
    char names[DUMP_NAMES][ASH_TABLE_NAME_MAX + 1];
    unsigned count;
    char after[ASH_TABLE_NAME_MAX + 1];
};

static bool
dump_collect(void *arg, const char *name, const struct ash_table_options *options)
{
    struct dump *d = arg;

    (void)options;
    if (strcmp(name, d->after) <= 0)
        return true;
    memcpy(d->names[d->count++], name, strlen(name) + 1);
    return d->count < DUMP_NAMES;
}

static ash_rc
dump_table(struct tool_db *t, const char *name, bool json, bool titled)
{
    struct scan scan = { .table = titled ? name : NULL, .json = json, .limit = UINT64_MAX };
    ash_table *table;
    ash_rc rc = ash_table_open(t->session, name, &table);

    if (rc != ASH_OK)
        return rc;
    if (titled && !json) {
        fputs("# ", stdout);
        tool_print_bytes(stdout, ash_slice(name, strlen(name)));
        fputc('\n', stdout);
    }
    rc = print_rows(t, table, &scan);
    ash_table_close(table);
    return rc;
}

static ash_rc
dump_all(struct tool_db *t, bool json)
{
    struct dump *d = mem_zalloc(MEM_TOOL, sizeof(*d));
    ash_rc rc = d == NULL ? ASH_NO_MEMORY : ASH_OK;

    while (rc == ASH_OK) {
        d->count = 0;
        rc = ash_table_list(t->session, dump_collect, d);
        for (unsigned i = 0; i < d->count && rc == ASH_OK && tool_signal == 0; i++)
            rc = dump_table(t, d->names[i], json, /* titled= */ true);
        if (rc != ASH_OK || d->count < DUMP_NAMES || tool_signal != 0)
            break;
        memcpy(d->after, d->names[DUMP_NAMES - 1], sizeof(d->after));
    }
    mem_free(MEM_TOOL, d);
    return rc;
}

int
tool_dump(struct tool_args *args)
{
    bool json = tool_flag_on(args, "json");
    struct tool_db t;

    if (!tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open_read(args, NULL, &t);
    if (rc == ASH_OK)
        rc = args->positional_count == 2
                 ? dump_table(&t, args->positional[1], json, /* titled= */ false)
                 : dump_all(&t, json);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}
