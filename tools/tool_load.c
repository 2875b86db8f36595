/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_load.c - load: rows from TSV, CSV and deb822 files into a table, in batches of one transaction.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "tool.h"

#define LOAD_COLUMNS_MAX 256

enum load_format { LOAD_TSV, LOAD_CSV, LOAD_DEB822 };

struct load {
    FILE *in;
    const char *file;
    enum load_format format;
    const char *key_name;     /* a column's or field's name */
    unsigned key_column;      /* from 0, once known */
    bool header, by_name;
    uint64_t line, bytes, rows, batch;
    char *text;               /* the row being read: a line, a CSV record, a stanza */
    size_t size, capacity;
    char *scratch;            /* key and value taken apart */
    struct ash_slice key, value;
};

static int
load_bad(struct load *l, const char *what)
{
    fprintf(stderr, "ashlar load: %s, line %llu: %s.\n", l->file, (unsigned long long)l->line, what);
    return -1;
}

static bool
load_room(struct load *l, size_t more)
{
    if (l->size + more <= l->capacity)
        return true;
    size_t larger = (l->capacity + more) * 2;
    char *text = mem_realloc(MEM_TOOL, l->text, larger);
    if (text == NULL)
        return false;
    l->text = text;
    char *scratch = mem_realloc(MEM_TOOL, l->scratch, larger);
    if (scratch == NULL)
        return false;
    l->scratch = scratch;
    l->capacity = larger;
    return true;
}

/* Appends one line with its newline to the row.  1: there was one, 0: end of file, -1: no memory. */
static int
load_line(struct load *l)
{
    size_t began = l->size;
    int c;

    while ((c = getc_unlocked(l->in)) != EOF) {
        if (!load_room(l, 1))
            return load_bad(l, "no memory for this row");
        l->text[l->size++] = (char)c;
        l->bytes++;
        if (c == '\n')
            break;
    }
    if (l->size == began)
        return 0;
    l->line++;
    return 1;
}

static void
load_chomp(struct load *l)
{
    while (l->size > 0 && (l->text[l->size - 1] == '\n' || l->text[l->size - 1] == '\r'))
        l->size--;
}

/* ---- TSV ---- */

static int
load_tsv(struct load *l)
{
    size_t used = 0;
    int got;

    l->size = 0;
    while ((got = load_line(l)) == 1) {
        load_chomp(l);
        if (l->size != 0 && !(l->text[0] == '#' && l->key_column == 0 && memchr(l->text, '\t', l->size) == NULL))
            break; /* not empty, not a title of `ashlar dump` */
        l->size = 0;
    }
    if (got != 1)
        return got;
    if (!load_room(l, 1))
        return load_bad(l, "no memory for this row");
    l->text[l->size] = '\0';
    char *field = l->text, *end = l->text + l->size;
    for (unsigned i = 0; i < l->key_column; i++) {
        field = memchr(field, '\t', (size_t)(end - field));
        if (field++ == NULL)
            return load_bad(l, "the key's column is missing");
    }
    char *stop = memchr(field, '\t', (size_t)(end - field));
    char *rest = stop == NULL ? end : stop + 1;
    if (stop != NULL)
        *stop = '\0';
    if (!tool_unescape(field, l->scratch, l->capacity, &used))
        return load_bad(l, "the key is too long");
    l->key = ash_slice(l->scratch, used);
    size_t before = (size_t)(field - l->text), size = 0;
    memmove(l->text + before, rest, (size_t)(end - rest) + 1);
    if (!tool_unescape(l->text, l->scratch + used, l->capacity - used, &size))
        return load_bad(l, "the row is too long");
    l->value = ash_slice(l->scratch + used, size);
    return 1;
}

/* ---- CSV (RFC 4180): the value is the record as it stands ---- */

/* Reads on while a quote is open. */
static int
load_csv_record(struct load *l)
{
    bool quoted = false;
    size_t seen = 0;

    l->size = 0;
    for (;;) {
        int got = load_line(l);
        if (got != 1)
            return got == 0 && quoted ? load_bad(l, "a quoted field does not end") : got;
        for (; seen < l->size; seen++)
            quoted ^= l->text[seen] == '"';
        if (quoted)
            continue;
        load_chomp(l);
        if (l->size != 0)
            return 1;
        seen = 0;
    }
}

/* Takes field `column` apart into scratch; its size, or -1 when there is no such field. */
static long
load_csv_field(struct load *l, unsigned column)
{
    const char *p = l->text, *end = l->text + l->size;

    for (unsigned i = 0;; i++) {
        size_t n = 0;
        bool quoted = p < end && *p == '"';
        p += quoted;
        for (; p < end; p++) {
            if (quoted && *p == '"') {
                if (p + 1 < end && p[1] == '"') {
                    p++;
                } else {
                    quoted = false;
                    continue;
                }
            } else if (!quoted && *p == ',') {
                break;
            }
            l->scratch[n++] = *p;
        }
        if (i == column)
            return (long)n;
        if (p++ >= end)
            return -1;
    }
}

static int
load_csv(struct load *l)
{
    int got = load_csv_record(l);

    if (got != 1)
        return got;
    long n = load_csv_field(l, l->key_column);
    if (n < 0)
        return load_bad(l, "the key's column is missing");
    l->key = ash_slice(l->scratch, (size_t)n);
    l->value = ash_slice(l->text, l->size);
    return 1;
}

/* The first row names the columns. */
static int
load_csv_header(struct load *l)
{
    int got = load_csv_record(l);

    if (got != 1)
        return got == 0 ? load_bad(l, "there is no header line") : got;
    if (!l->by_name)
        return 1;
    for (unsigned i = 0; i < LOAD_COLUMNS_MAX; i++) {
        long n = load_csv_field(l, i);
        if (n < 0)
            break;
        if ((size_t)n == strlen(l->key_name) && memcmp(l->scratch, l->key_name, (size_t)n) == 0) {
            l->key_column = i;
            return 1;
        }
    }
    return load_bad(l, "the header has no column of that name");
}

/* ---- deb822: a stanza up to an empty line; the key is one field's value ---- */

static int
load_deb822(struct load *l)
{
    size_t name = strlen(l->key_name), line = 0;
    int got;

    l->size = 0;
    l->key = ash_slice(NULL, 0);
    while ((got = load_line(l)) == 1) {
        size_t n = l->size - line;
        if (n == 1 || (n == 2 && l->text[line] == '\r')) {
            l->size = line;
            if (line != 0)
                break;
            continue;
        }
        const char *p = l->text + line;
        if (n > name + 1 && memcmp(p, l->key_name, name) == 0 && p[name] == ':') {
            size_t from = line + name + 1, to = l->size;
            while (from < to && (l->text[from] == ' ' || l->text[from] == '\t'))
                from++;
            while (to > from && (l->text[to - 1] == '\n' || l->text[to - 1] == '\r' || l->text[to - 1] == ' '))
                to--;
            memcpy(l->scratch, l->text + from, to - from);
            l->key = ash_slice(l->scratch, to - from);
        }
        line = l->size;
    }
    if (got < 0 || l->size == 0)
        return got < 0 ? got : 0;
    if (l->key.size == 0)
        return load_bad(l, "the stanza that ends here has no field for the key");
    load_chomp(l);
    l->value = ash_slice(l->text, l->size);
    return 1;
}

/* ---- Into the table ---- */

static int
load_next(struct load *l)
{
    return l->format == LOAD_TSV ? load_tsv(l) : l->format == LOAD_CSV ? load_csv(l) : load_deb822(l);
}

static int
load_rows(struct load *l, struct tool_db *t, struct tool_progress *progress)
{
    ash_rc rc = ASH_OK;
    int got = 1;

    while (rc == ASH_OK && got == 1) {
        rc = ash_begin(t->session, NULL);
        for (uint64_t i = 0; i < l->batch && rc == ASH_OK && (got = load_next(l)) == 1; i++) {
            rc = ash_put(t->session, t->table, l->key, l->value);
            l->rows += rc == ASH_OK;
            tool_progress_at(progress, progress->total != 0 ? l->bytes : l->rows);
        }
        if (rc == ASH_OK)
            rc = ash_commit(t->session); /* what came before a bad row stays */
    }
    if (rc != ASH_OK) {
        fprintf(stderr, "ashlar load: %s, line %llu: stopped; the rows of finished batches are loaded.\n", l->file,
                (unsigned long long)l->line);
        return tool_fail(rc);
    }
    return got < 0 ? TOOL_FAILED : TOOL_OK;
}

static bool
load_arguments(struct tool_args *args, struct load *l)
{
    const char *format = tool_flag(args, "format");
    const char *key = tool_flag(args, "key");
    char *end;

    l->batch = 1000;
    l->header = tool_flag_on(args, "header");
    if (format == NULL || strcmp(format, "tsv") == 0)
        l->format = LOAD_TSV;
    else if (strcmp(format, "csv") == 0)
        l->format = LOAD_CSV;
    else if (strcmp(format, "deb822") == 0)
        l->format = LOAD_DEB822;
    else
        return tool_usage_error(args, "The format is tsv, csv or deb822, not \"%s\".", format) == TOOL_OK;
    l->key_name = key != NULL ? key : l->format == LOAD_DEB822 ? "Package" : "1";
    unsigned long column = strtoul(l->key_name, &end, 10);
    l->by_name = *end != '\0';
    if (l->format != LOAD_DEB822 && !l->by_name && (column == 0 || column > LOAD_COLUMNS_MAX))
        return tool_usage_error(args, "--key=%s is no column; the first is 1.", l->key_name) == TOOL_OK;
    if (l->by_name && l->format == LOAD_TSV)
        return tool_usage_error(args, "--key takes a column's number for tsv.") == TOOL_OK;
    if (l->by_name && l->format == LOAD_CSV && !l->header)
        return tool_usage_error(args, "--key=%s needs --header.", l->key_name) == TOOL_OK;
    l->key_column = l->by_name ? 0 : (unsigned)column - 1;
    tool_flag(args, "options");
    if (!tool_flag_number(args, "batch", &l->batch) || !tool_flags_done(args))
        return false;
    if (l->batch == 0)
        return tool_usage_error(args, "--batch must be at least 1.") == TOOL_OK;
    return true;
}

static ash_rc
load_open(struct tool_args *args, struct tool_db *t)
{
    ash_rc rc = tool_open(args, ASH_OPEN_CREATE, args->positional[1], t);

    if (rc != ASH_NOT_FOUND || t->session == NULL)
        return rc;
    rc = ash_table_create(t->session, args->positional[1], NULL);
    return rc == ASH_OK ? ash_table_open(t->session, args->positional[1], &t->table) : rc;
}

int
tool_load(struct tool_args *args)
{
    struct load l = { .in = stdin, .file = "(standard input)" };
    struct tool_progress progress;
    struct stat st = { 0 };
    struct tool_db t = { 0 };
    int result = TOOL_FAILED;

    if (!load_arguments(args, &l))
        return TOOL_USAGE;
    if (args->positional_count == 3 && strcmp(args->positional[2], "-") != 0) {
        l.file = args->positional[2];
        l.in = fopen(l.file, "r");
        if (l.in == NULL) {
            perror(l.file);
            return TOOL_FAILED;
        }
    }
    if (fstat(fileno(l.in), &st) != 0 || !S_ISREG(st.st_mode))
        st.st_size = 0;
    ash_rc rc = load_open(args, &t);
    if (rc != ASH_OK) {
        result = tool_fail(rc);
    } else if (!load_room(&l, 4096)) {
        result = tool_fail(ASH_NO_MEMORY);
    } else if (l.format == LOAD_CSV && l.header && load_csv_header(&l) != 1) {
        result = TOOL_FAILED;
    } else {
        tool_progress_begin(&progress, "loading", (uint64_t)st.st_size);
        result = load_rows(&l, &t, &progress);
        tool_progress_end(&progress);
        fprintf(stderr, "%llu rows loaded into %s.\n", (unsigned long long)l.rows, args->positional[1]);
    }
    mem_free(MEM_TOOL, l.text);
    mem_free(MEM_TOOL, l.scratch);
    if (l.in != stdin)
        fclose(l.in);
    return tool_close(&t, result);
}
