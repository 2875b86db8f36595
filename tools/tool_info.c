/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_info.c - create, tables, stat, calibrate, options, verify.
 */
#include <string.h>

#include "tool.h"

/* All tables in one transaction: all of them or none. */
static ash_rc
create_tables(const struct tool_args *args, ash_session *session,
              const struct ash_table_options *options)
{
    ash_rc rc = ash_begin(session, NULL);

    for (int i = 1; i < args->positional_count && rc == ASH_OK; i++)
        rc = ash_table_create(session, args->positional[i], options);
    return rc == ASH_OK ? ash_commit(session) : rc;
}

int
tool_create(struct tool_args *args)
{
    struct ash_table_options options = { 0 };
    uint64_t page_size = 0;
    struct tool_db t;

    tool_flag_number(args, "page-size", &page_size);
    if (!tool_flags_done(args))
        return TOOL_USAGE;
    if (page_size > UINT32_MAX)
        return tool_usage_error(args, "The page size is at most 2MiB.");
    options.page_size = (uint32_t)page_size;
    /* Without tables there is nothing to do in a database that is there: more likely a mistake. */
    unsigned exclusive = args->positional_count == 1 ? ASH_OPEN_EXCLUSIVE : 0;
    ash_rc rc = tool_open(args, ASH_OPEN_CREATE | exclusive, NULL, &t);
    if (rc == ASH_OK && args->positional_count > 1)
        rc = create_tables(args, t.session, &options);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

struct list_state {
    bool json;
    unsigned count;
};

static bool
print_table(void *arg, const char *name, const struct ash_table_options *options)
{
    struct list_state *s = arg;

    if (s->json) {
        printf("%s{\"name\":", s->count++ == 0 ? "" : ",");
        tool_print_json(stdout, name);
        printf(",\"page_size\":%u}", options->page_size);
    } else {
        tool_print_bytes(stdout, ash_slice(name, strlen(name)));
        fputc('\n', stdout);
    }
    return true;
}

int
tool_tables(struct tool_args *args)
{
    struct list_state s = { .json = tool_flag_on(args, "json") };
    struct tool_db t;

    if (!tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open_read(args, NULL, &t);
    if (rc == ASH_OK) {
        fputs(s.json ? "[" : "", stdout);
        rc = ash_table_list(t.session, print_table, &s);
        fputs(s.json ? "]\n" : "", stdout);
    }
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

static void
print_stat(void *arg, const char *name, uint64_t value)
{
    struct list_state *s = arg;

    if (s->json)
        printf("%s\"%s\":%llu", s->count++ == 0 ? "" : ",", name, (unsigned long long)value);
    else
        printf("%-28s %llu\n", name, (unsigned long long)value);
}

static ash_rc
print_table_stat(struct tool_db *t, struct list_state *s)
{
    struct ash_table_stat st;
    ash_rc rc = ash_table_stats(t->session, t->table, &st);

    if (rc != ASH_OK)
        return rc;
    print_stat(s, "rows_estimate", st.rows_estimate);
    print_stat(s, "height", st.height);
    print_stat(s, "inner_pages", st.inner_pages);
    print_stat(s, "leaf_pages", st.leaf_pages);
    print_stat(s, "large_value_pages", st.large_value_pages);
    print_stat(s, "bytes", st.bytes);
    return ASH_OK;
}

int
tool_stat(struct tool_args *args)
{
    struct list_state s = { .json = tool_flag_on(args, "json") };
    const char *table = args->positional_count == 2 ? args->positional[1] : NULL;
    struct tool_db t;

    if (!tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open_read(args, table, &t);
    if (rc == ASH_OK) {
        fputs(s.json ? "{" : "", stdout);
        rc = table == NULL ? ash_stats(t.db, print_stat, &s) : print_table_stat(&t, &s);
        fputs(s.json ? "}\n" : "", stdout);
    }
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

int
tool_calibrate(struct tool_args *args)
{
    struct list_state s = { .json = tool_flag_on(args, "json") };

    if (!tool_flags_done(args))
        return TOOL_USAGE;
    fputs(s.json ? "{" : "", stdout);
    ash_rc rc = ash_calibrate(args->positional[0], print_stat, &s);
    fputs(s.json ? "}\n" : "", stdout);
    return rc == ASH_OK ? TOOL_OK : tool_fail(rc);
}

static void
print_option_json(const struct ash_option_info *o, bool first)
{
    const char *const member[][2] = { { "name", o->name }, { "type", o->type },
                                      { "unit", o->unit }, { "range", o->range },
                                      { "help", o->help }, { "default", o->default_value } };

    fputs(first ? "{" : ",\n {", stdout);
    for (size_t i = 0; i < sizeof(member) / sizeof(member[0]); i++) {
        printf("\"%s\":", member[i][0]);
        tool_print_json(stdout, member[i][1]);
        fputc(',', stdout);
    }
    printf("\"changeable\":%s}", o->changeable ? "true" : "false");
}

int
tool_options(struct tool_args *args)
{
    bool json = tool_flag_on(args, "json");
    struct ash_option_info o;
    unsigned iter = 0, count = 0;

    if (!tool_flags_done(args))
        return TOOL_USAGE;
    if (json)
        fputc('[', stdout);
    else
        printf("%-18s %-10s %-22s %s\n", "NAME", "DEFAULT", "RANGE", "MEANING");
    while (ash_option_next(&iter, &o)) {
        if (json)
            print_option_json(&o, count++ == 0);
        else
            printf("%-18s %-10s %-22s %s%s\n", o.name, o.default_value, o.range, o.help,
                   o.changeable ? " (changeable)" : "");
    }
    fputs(json ? "]\n" : "", stdout);
    return TOOL_OK;
}

static void
print_finding(void *arg, const char *file, uint64_t page, const char *message)
{
    struct list_state *s = arg;

    if (s->json) {
        fputs(s->count++ == 0 ? "{\"file\":" : ",\n {\"file\":", stdout);
        tool_print_json(stdout, file);
        printf(",\"page\":%llu,\"message\":", (unsigned long long)page);
        tool_print_json(stdout, message);
        fputc('}', stdout);
        return;
    }
    s->count++;
    if (file[0] == '\0' || strstr(message, file) == NULL) { /* else the sentence says where */
        if (file[0] != '\0')
            printf("%s: ", file);
        if (page != 0)
            printf("page %llu: ", (unsigned long long)page);
    }
    printf("%s\n", message);
}

/* Damage that already keeps the database from being opened is a finding like any other. */
static void
print_open_finding(struct list_state *s)
{
    const struct ash_error *e = ash_error_last();

    print_finding(s, e->object, 0, e->message);
}

static void
note_pages(void *arg, const char *name, uint64_t value)
{
    if (strcmp(name, "pages.allocated") == 0)
        *(uint64_t *)arg = value;
}

static void
print_sound(const char *path, ash_db *db)
{
    char text[TOOL_NUMBER_MAX];
    uint64_t pages = 0;

    if (ash_stats(db, note_pages, &pages) == ASH_OK)
        printf("%s: no problem found in %s pages.\n", path, tool_number(pages, text));
}

int
tool_verify(struct tool_args *args)
{
    struct list_state s = { .json = tool_flag_on(args, "json") };
    struct tool_db t;

    if (!tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open_read(args, NULL, &t);
    if (rc != ASH_OK && rc != ASH_CORRUPT)
        return tool_close(&t, tool_fail(rc));
    fputs(s.json ? "[" : "", stdout);
    if (rc == ASH_CORRUPT)
        print_open_finding(&s);
    else
        rc = ash_verify(t.db, print_finding, &s);
    fputs(s.json ? "]\n" : "", stdout);
    if (rc == ASH_OK) {
        if (!s.json)
            print_sound(args->positional[0], t.db);
        return tool_close(&t, TOOL_OK);
    }
    int result = tool_fail(rc);
    return tool_close(&t, rc == ASH_CORRUPT ? TOOL_NO : result);
}
