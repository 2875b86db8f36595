/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_rows.c - get, put, delete, scan, dump.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "tool.h"

static bool
key_argument(struct tool_args *args, const char *text, char out[ASH_KEY_SIZE_MAX], struct ash_slice *key_out)
{
    size_t size;

    if (!tool_unescape(text, out, ASH_KEY_SIZE_MAX, &size)) {
        tool_usage_error(args, "A key is at most %d bytes long.", ASH_KEY_SIZE_MAX);
        return false;
    }
    *key_out = ash_slice(out, size);
    return true;
}

int
tool_get(struct tool_args *args)
{
    bool json = tool_flag_on(args, "json");
    char bytes[ASH_KEY_SIZE_MAX];
    struct ash_slice key, value;
    struct tool_db t;

    tool_flag(args, "options");
    if (!key_argument(args, args->positional[2], bytes, &key) || !tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open(args, 0, args->positional[1], &t);
    if (rc == ASH_OK)
        rc = ash_get(t.session, t.table, key, &value);
    if (rc == ASH_NOT_FOUND && t.table != NULL)
        return tool_close(&t, TOOL_NOT_FOUND); /* silent: the exit code says it */
    if (rc != ASH_OK)
        return tool_close(&t, tool_fail(rc));
    if (json) {
        printf("{\"key\":");
        tool_print_json(stdout, key);
        printf(",\"value\":");
        tool_print_json(stdout, value);
        printf("}\n");
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
    else
        (void)tool_unescape(text, bytes, capacity, &size); /* never longer than its text */
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

    tool_flag(args, "options");
    if (!key_argument(args, args->positional[2], bytes, &key) || !tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = value_argument(args->positional[3], &value_bytes, &value);
    if (rc != ASH_OK)
        return tool_fail(rc);
    rc = tool_open(args, 0, args->positional[1], &t);
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

    tool_flag(args, "options");
    if (!key_argument(args, args->positional[2], bytes, &key) || !tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open(args, 0, args->positional[1], &t);
    if (rc == ASH_OK)
        rc = ash_delete(t.session, t.table, key);
    if (rc == ASH_NOT_FOUND && t.table != NULL)
        return tool_close(&t, TOOL_NOT_FOUND);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

/* ---- Many rows ---- */

enum row_form { FORM_TEXT, FORM_JSON, FORM_KEYS };

static void
print_row(enum row_form form, const char *table, const struct ash_row *row)
{
    if (form == FORM_JSON) {
        printf("{");
        if (table != NULL) {
            printf("\"table\":");
            tool_print_json(stdout, ash_slice(table, strlen(table)));
            printf(",");
        }
        printf("\"key\":");
        tool_print_json(stdout, row->key);
        printf(",\"value\":");
        tool_print_json(stdout, row->value);
        printf("}\n");
        return;
    }
    tool_print_bytes(stdout, row->key);
    if (form == FORM_TEXT) {
        fputc('\t', stdout);
        tool_print_bytes(stdout, row->value);
    }
    fputc('\n', stdout);
}

static ash_rc
print_rows(struct tool_db *t, ash_table *table, const char *name, const struct ash_cursor_options *range, enum row_form form, uint64_t limit)
{
    struct ash_row rows[64];
    ash_cursor *cursor;
    ash_rc rc = ash_cursor_open(t->session, table, range, &cursor);

    if (rc != ASH_OK)
        return rc;
    while (limit > 0) {
        size_t count, want = limit < 64 ? (size_t)limit : 64;
        rc = ash_cursor_batch(cursor, want, rows, &count);
        if (rc != ASH_OK)
            break;
        for (size_t i = 0; i < count; i++)
            print_row(form, name, &rows[i]);
        limit -= count;
        if (ferror(stdout))
            break;
    }
    ash_cursor_close(cursor);
    return rc == ASH_NOT_FOUND ? ASH_OK : rc;
}

int
tool_scan(struct tool_args *args)
{
    const char *from = tool_flag(args, "from"), *to = tool_flag(args, "to");
    struct ash_cursor_options range = { .reverse = tool_flag_on(args, "reverse"), .keys_only = tool_flag_on(args, "keys") };
    enum row_form form = tool_flag_on(args, "json") ? FORM_JSON : range.keys_only ? FORM_KEYS : FORM_TEXT;
    char from_bytes[ASH_KEY_SIZE_MAX], to_bytes[ASH_KEY_SIZE_MAX];
    uint64_t limit = UINT64_MAX;
    struct tool_db t;

    tool_flag(args, "options");
    if ((from != NULL && !key_argument(args, from, from_bytes, &range.from)) ||
        (to != NULL && !key_argument(args, to, to_bytes, &range.to)) || !tool_flag_number(args, "limit", &limit) ||
        !tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open(args, 0, args->positional[1], &t);
    if (rc == ASH_OK)
        rc = print_rows(&t, t.table, NULL, &range, form, limit);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

struct dump {
    struct tool_db *t;
    char names[64][ASH_TABLE_NAME_MAX + 1]; /* of one round; more tables: next round starts after the last */
    unsigned count;
    const char *after;
};

static bool
dump_collect(void *arg, const char *name, const struct ash_table_options *options)
{
    struct dump *d = arg;

    (void)options;
    if (d->after != NULL && strcmp(name, d->after) <= 0)
        return true;
    snprintf(d->names[d->count++], sizeof(d->names[0]), "%s", name);
    return d->count < 64;
}

static ash_rc
dump_table(struct tool_db *t, const char *name, bool json, bool titled)
{
    static const struct ash_cursor_options everything;
    ash_table *table;
    ash_rc rc = ash_table_open(t->session, name, &table);

    if (rc != ASH_OK)
        return rc;
    if (titled && !json)
        printf("# %s\n", name);
    rc = print_rows(t, table, titled ? name : NULL, &everything, json ? FORM_JSON : FORM_TEXT, UINT64_MAX);
    ash_table_close(table);
    return rc;
}

static ash_rc
dump_all(struct tool_db *t, bool json)
{
    struct dump *d = mem_zalloc(MEM_TOOL, sizeof(*d));
    char last[ASH_TABLE_NAME_MAX + 1];
    ash_rc rc = d == NULL ? ASH_NO_MEMORY : ASH_OK;

    while (rc == ASH_OK) {
        d->count = 0;
        rc = ash_table_list(t->session, dump_collect, d);
        for (unsigned i = 0; i < d->count && rc == ASH_OK; i++)
            rc = dump_table(t, d->names[i], json, /* titled= */ true);
        if (rc != ASH_OK || d->count < 64)
            break;
        memcpy(last, d->names[63], sizeof(last));
        d->after = last;
    }
    mem_free(MEM_TOOL, d);
    return rc;
}

int
tool_dump(struct tool_args *args)
{
    bool json = tool_flag_on(args, "json");
    struct tool_db t;

    tool_flag(args, "options");
    if (!tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open(args, 0, NULL, &t);
    if (rc == ASH_OK)
        rc = args->positional_count == 2 ? dump_table(&t, args->positional[1], json, /* titled= */ false) : dump_all(&t, json);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}
