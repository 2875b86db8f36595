/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_info.c - create, tables, stat, options, verify.
 */
#include <string.h>

#include "tool.h"

int
tool_create(struct tool_args *args)
{
    struct ash_table_options options = { 0 };
    uint64_t page_size = 0;
    struct tool_db t;

    tool_flag(args, "options");
    if (!tool_flag_number(args, "page-size", &page_size) || !tool_flags_done(args))
        return TOOL_USAGE;
    options.page_size = (uint32_t)page_size;
    ash_rc rc = tool_open(args, ASH_OPEN_CREATE, NULL, &t);
    for (int i = 1; i < args->positional_count && rc == ASH_OK; i++)
        rc = ash_table_create(t.session, args->positional[i], &options);
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

struct list_state { bool json; unsigned count; };

static bool
print_table(void *arg, const char *name, const struct ash_table_options *options)
{
    struct list_state *s = arg;

    if (s->json) {
        printf("%s{\"name\":", s->count++ == 0 ? "" : ",");
        tool_print_json(stdout, ash_slice(name, strlen(name)));
        printf(",\"page_size\":%u}", options->page_size);
    } else {
        printf("%s\n", name);
    }
    return true;
}

int
tool_tables(struct tool_args *args)
{
    struct list_state s = { .json = tool_flag_on(args, "json") };
    struct tool_db t;

    tool_flag(args, "options");
    if (!tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open(args, 0, NULL, &t);
    if (rc == ASH_OK) {
        printf(s.json ? "[" : "");
        rc = ash_table_list(t.session, print_table, &s);
        printf(s.json ? "]\n" : "");
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

    tool_flag(args, "options");
    if (!tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open(args, 0, table, &t);
    if (rc == ASH_OK) {
        printf(s.json ? "{" : "");
        rc = table == NULL ? ash_stats(t.db, print_stat, &s) : print_table_stat(&t, &s);
        printf(s.json ? "}\n" : "");
    }
    return tool_close(&t, rc == ASH_OK ? TOOL_OK : tool_fail(rc));
}

int
tool_options(struct tool_args *args)
{
    bool json = tool_flag_on(args, "json");
    struct ash_option_info o;
    unsigned iter = 0, count = 0;

    if (!tool_flags_done(args))
        return TOOL_USAGE;
    printf(json ? "[" : "");
    while (ash_option_next(&iter, &o)) {
        if (json)
            printf("%s{\"name\":\"%s\",\"type\":\"%s\",\"unit\":\"%s\",\"range\":\"%s\",\"default\":\"%s\",\"changeable\":%s,\"help\":\"%s\"}",
                   count++ == 0 ? "" : ",\n ", o.name, o.type, o.unit, o.range, o.default_value, o.changeable ? "true" : "false",
                   o.help);
        else
            printf("%-18s %-8s %-10s %-22s %s%s\n", o.name, o.type, o.default_value, o.range, o.help,
                   o.changeable ? " (changeable)" : "");
    }
    printf(json ? "]\n" : "");
    return TOOL_OK;
}

static void
print_finding(void *arg, const char *file, uint64_t page, const char *message)
{
    struct list_state *s = arg;

    if (s->json) {
        printf("%s{\"file\":\"%s\",\"page\":%llu,\"message\":", s->count++ == 0 ? "" : ",\n ", file, (unsigned long long)page);
        tool_print_json(stdout, ash_slice(message, strlen(message)));
        printf("}");
        return;
    }
    s->count++;
    if (page != 0)
        printf("page %llu%s%s: %s\n", (unsigned long long)page, file[0] != '\0' ? " in " : "", file, message);
    else
        printf("%s%s%s\n", file, file[0] != '\0' ? ": " : "", message);
}

int
tool_verify(struct tool_args *args)
{
    struct list_state s = { .json = tool_flag_on(args, "json") };
    struct tool_db t;

    tool_flag(args, "options");
    if (!tool_flags_done(args))
        return TOOL_USAGE;
    ash_rc rc = tool_open(args, 0, NULL, &t);
    if (rc != ASH_OK) {
        tool_fail(rc);
        return tool_close(&t, rc == ASH_CORRUPT ? TOOL_NOT_FOUND : TOOL_FAILED);
    }
    printf(s.json ? "[" : "");
    rc = ash_verify(t.db, print_finding, &s);
    printf(s.json ? "]\n" : "");
    if (rc == ASH_OK && !s.json)
        printf("%s: no problem found.\n", args->positional[0]);
    if (rc == ASH_OK)
        return tool_close(&t, TOOL_OK);
    tool_fail(rc);
    return tool_close(&t, rc == ASH_CORRUPT ? TOOL_NOT_FOUND : TOOL_FAILED);
}
