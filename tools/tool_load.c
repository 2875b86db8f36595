/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_load.c - load: rows from TSV, CSV and deb822 files into a table, in batches of one
 * transaction.
 *
 * A row that cannot be loaded stops the load with its line number; what came before it stays.  So
 * do the finished batches when the process is killed: each is one commit.
 */
#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "tool.h"

#define LOAD_COLUMNS_MAX 4096
#define LOAD_ROW_MAX     (8u << 20) /* bytes of text: more than any value, each byte escaped */

enum load_format {
    LOAD_TSV,
    LOAD_CSV,
    LOAD_DEB822
};

struct load {
    FILE *in;
    const char *file;
    enum load_format format;
    const char *key_name; /* a column's or field's name */
    unsigned key_column;  /* from 0, once known */
    bool header, by_name;
    uint64_t line, bytes, rows, batch;
    char *text; /* the row being read: a line, a CSV record, a stanza */
    size_t size, capacity;
    char *scratch; /* key and value taken apart; as large as text */
    struct ash_slice key, value;
    struct tool_progress progress;
};

static int
load_bad(struct load *l, const char *what)
{
    tool_progress_clear(&l->progress);
    fprintf(stderr, "ashlar load: %s, line %llu: %s\n", l->file, (unsigned long long)l->line, what);
    return -1;
}

static bool
load_room(struct load *l)
{
    if (l->size < l->capacity)
        return true;
    size_t larger = l->capacity == 0 ? 4096 : l->capacity * 2;
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

/* Appends one line with its newline to the row.  1: there was one, 0: end of input, -1: after a
 * message. */
static int
load_line(struct load *l)
{
    size_t began = l->size;
    int c;

    while ((c = getc_unlocked(l->in)) != EOF) {
        if (l->size == LOAD_ROW_MAX)
            return load_bad(
                l, "this row is longer than 8 MiB (is a quote or an empty line missing?).");
        if (!load_room(l))
            return load_bad(l, "there is no memory for this row.");
        l->text[l->size++] = (char)c;
        if (c == '\n')
            break;
    }
    if (c == EOF && ferror(l->in))
        return tool_signal != 0 ? -1 : load_bad(l, strerror(errno));
    if (l->size == began)
        return 0;
    l->bytes += l->size - began;
    if (l->line++ == 0 && l->size >= 3 && memcmp(l->text, "\xef\xbb\xbf", 3) == 0) {
        l->size -= 3; /* a byte order mark is not part of the first name */
        memmove(l->text, l->text + 3, l->size);
    }
    return 1;
}

static void
load_chomp(struct load *l)
{
    if (l->size > 0 && l->text[l->size - 1] == '\n')
        l->size--;
    if (l->size > 0 && l->text[l->size - 1] == '\r')
        l->size--;
}

/* ---- TSV ---- */

/* Finds field `column`: where it begins and ends.  False when there is no such field. */
static bool
load_tsv_field(const struct load *l, unsigned column, size_t *from_out, size_t *to_out)
{
    size_t from = 0;

    for (;; column--) {
        const char *tab = from < l->size ? memchr(l->text + from, '\t', l->size - from) : NULL;
        size_t to = tab == NULL ? l->size : (size_t)(tab - l->text);
        if (column == 0) {
            *from_out = from;
            *to_out = to;
            return true;
        }
        if (tab == NULL)
            return false;
        from = to + 1;
    }
}

/* Reads on to a line that is not empty and not a comment: "#" and no tab, as `ashlar dump` writes
 * titles. */
static int
load_tsv_line(struct load *l)
{
    int got;

    do {
        l->size = 0;
        got = load_line(l);
        load_chomp(l);
    } while (got == 1 &&
             (l->size == 0 || (l->text[0] == '#' && memchr(l->text, '\t', l->size) == NULL)));
    return got;
}

/* The value is the line without the key's column. */
static int
load_tsv(struct load *l)
{
    size_t from, to, used = 0, size = 0;
    int got = load_tsv_line(l);

    if (got != 1)
        return got;
    if (!load_tsv_field(l, l->key_column, &from, &to))
        return load_bad(l, "the row has no column for the key.");
    /* Unescaping never makes text longer, so scratch has room. */
    (void)tool_unescape(ash_slice(l->text + from, to - from), l->scratch, l->capacity, &used);
    l->key = ash_slice(l->scratch, used);
    size_t cut =
        from; /* the key goes, with the tab after it, or the one before when it is the last */
    if (to < l->size)
        to++;
    else if (cut > 0)
        cut--;
    memmove(l->text + cut, l->text + to, l->size - to);
    l->size = cut + l->size - to;
    (void)tool_unescape(ash_slice(l->text, l->size), l->scratch + used, l->capacity - used, &size);
    l->value = ash_slice(l->scratch + used, size);
    return 1;
}

/* ---- CSV (RFC 4180): the value is the record as it stands ---- */

enum csv_state {
    CSV_START,  /* of a field */
    CSV_PLAIN,  /* in a field without quotes: a quote there is an ordinary byte */
    CSV_QUOTED, /* between quotes */
    CSV_CLOSING /* after a quote in a quoted field: its end, or the first half of "" */
};

static enum csv_state
csv_step(enum csv_state state, char c)
{
    if (state == CSV_QUOTED)
        return c == '"' ? CSV_CLOSING : CSV_QUOTED;
    if (c == '"' && state != CSV_PLAIN)
        return CSV_QUOTED;
    return c == ',' ? CSV_START : CSV_PLAIN;
}

/* Reads on while a quote is open; empty lines between records are passed over. */
static int
load_csv_record(struct load *l)
{
    enum csv_state state = CSV_START;
    size_t seen = 0;
    uint64_t first = l->line + 1;

    l->size = 0;
    for (;;) {
        int got = load_line(l);
        if (got == 0 && state == CSV_QUOTED) {
            l->line = first;
            return load_bad(l, "the record that begins here has a quote that is never closed.");
        }
        if (got != 1)
            return got;
        for (; seen < l->size; seen++)
            state = csv_step(state, l->text[seen]);
        if (state == CSV_QUOTED)
            continue;
        load_chomp(l);
        if (l->size != 0)
            return 1;
        seen = 0;
        state = CSV_START;
        first = l->line + 1;
    }
}

/* Copies field `column`, without its quotes, to scratch; its size, or -1 when there is no such
 * field. */
static long
load_csv_field(struct load *l, unsigned column)
{
    enum csv_state state = CSV_START;
    unsigned field = 0;
    size_t n = 0;

    for (size_t i = 0;; i++) {
        if (i == l->size || (l->text[i] == ',' && state != CSV_QUOTED)) {
            if (field++ == column)
                return (long)n;
            if (i == l->size)
                return -1;
            state = CSV_START;
            continue;
        }
        enum csv_state next = csv_step(state, l->text[i]);
        bool quote = next == CSV_CLOSING || (next == CSV_QUOTED && state == CSV_START);
        if (field == column && !quote)
            l->scratch[n++] = l->text[i];
        state = next;
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
        return load_bad(l, "the record has no column for the key.");
    l->key = ash_slice(l->scratch, (size_t)n);
    l->value = ash_slice(l->text, l->size);
    return 1;
}

/* ---- The first row names the columns ---- */

/* Where name `i` of the header is; its size, or -1 when there are fewer. */
static long
load_header_name(struct load *l, unsigned i, const char **name_out)
{
    size_t from, to;

    *name_out = l->scratch;
    if (l->format == LOAD_CSV)
        return load_csv_field(l, i);
    if (!load_tsv_field(l, i, &from, &to))
        return -1;
    *name_out = l->text + from;
    return (long)(to - from);
}

static int
load_header(struct load *l)
{
    int got = l->format == LOAD_CSV ? load_csv_record(l) : load_tsv_line(l);
    const char *name;

    if (got != 1)
        return got == 0 ? load_bad(l, "there is no header line.") : got;
    for (unsigned i = 0; l->by_name && i < LOAD_COLUMNS_MAX; i++) {
        long n = load_header_name(l, i, &name);
        if (n < 0)
            break;
        if ((size_t)n == strlen(l->key_name) && memcmp(name, l->key_name, (size_t)n) == 0) {
            l->key_column = i;
            return 1;
        }
    }
    return l->by_name ? load_bad(l, "the header has no column of the name given as --key.") : 1;
}

/* ---- deb822: a stanza up to an empty line; the key is one field's value ---- */

/* Length of the line's end, or of all of it when it is empty. */
static bool
deb822_empty(const char *line, size_t n)
{
    return (n == 1 && line[0] == '\n') || (n == 2 && line[0] == '\r' && line[1] == '\n');
}

/* Copies the field's value to scratch when the line is the key's; its size, or -1. */
static long
deb822_key(struct load *l, size_t line)
{
    size_t name = strlen(l->key_name), from = line + name + 1, to = l->size;

    if (to < from || strncasecmp(l->text + line, l->key_name, name) != 0 ||
        l->text[from - 1] != ':')
        return -1;
    while (from < to && (l->text[from] == ' ' || l->text[from] == '\t'))
        from++;
    while (to > from && strchr(" \t\r\n", l->text[to - 1]) != NULL)
        to--;
    memcpy(l->scratch, l->text + from, to - from);
    return (long)(to - from);
}

static int
load_deb822(struct load *l)
{
    size_t line = 0;
    long key = -1;
    int got;

    l->size = 0;
    while ((got = load_line(l)) == 1) {
        if (deb822_empty(l->text + line, l->size - line)) {
            l->size = line;
            if (line != 0)
                break;
            continue;
        }
        long n = deb822_key(l, line);
        if (n >= 0)
            key = n;
        line = l->size;
    }
    if (got < 0 || l->size == 0)
        return got;
    if (key <= 0)
        return load_bad(l, "the stanza that ends here has no field for the key.");
    load_chomp(l);
    l->key = ash_slice(l->scratch, (size_t)key);
    l->value = ash_slice(l->text, l->size);
    return 1;
}

/* ---- Into the table ---- */

static int
load_next(struct load *l)
{
    switch (l->format) {
    case LOAD_TSV: return load_tsv(l);
    case LOAD_CSV: return load_csv(l);
    case LOAD_DEB822: return load_deb822(l);
    }
    return 0;
}

/* One transaction.  1: go on, 0: no more rows, -1: stop; that was said. */
static int
load_batch(struct load *l, struct tool_db *t)
{
    uint64_t rows = 0;
    int got = 1;
    ash_rc rc = ash_begin(t->session, NULL);

    while (rc == ASH_OK && rows < l->batch && tool_signal == 0 && (got = load_next(l)) == 1) {
        rc = ash_put(t->session, t->table, l->key, l->value);
        if (rc == ASH_TOO_LARGE) { /* this row's fault: the others of the batch stay */
            got = load_bad(l, ash_error_last()->message);
            rc = ASH_OK;
            break;
        }
        rows += rc == ASH_OK;
        tool_progress_at(&l->progress, l->bytes, l->rows + rows);
    }
    if (rc == ASH_OK)
        rc = ash_commit(t->session);
    if (rc != ASH_OK) {
        tool_progress_clear(&l->progress);
        tool_fail(rc);
        return load_bad(l, "the batch that ends here was not loaded.");
    }
    l->rows += rows;
    return tool_signal != 0 ? -1 : got;
}

static int
load_rows(struct load *l, struct tool_db *t, uint64_t file_bytes)
{
    char rows[TOOL_NUMBER_MAX], rate[TOOL_NUMBER_MAX];
    int got = 1;

    tool_progress_begin(&l->progress, "loading", file_bytes);
    if (l->header)
        got = load_header(l);
    while (got == 1)
        got = load_batch(l, t);
    tool_progress_clear(&l->progress);
    double seconds = (double)(clock_ns() - l->progress.start_ns + 1) / 1e9;
    fprintf(stderr, "%s%s rows loaded in %.1f s (%s/s).\n", got < 0 ? "Stopped: " : "",
            tool_number(l->rows, rows), seconds,
            tool_number((uint64_t)((double)l->rows / seconds), rate));
    return got < 0 ? TOOL_FAILED : TOOL_OK;
}

/* ---- The command ---- */

static bool
load_format_argument(struct tool_args *args, struct load *l)
{
    const char *format = tool_flag(args, "format");

    if (format == NULL || strcmp(format, "tsv") == 0)
        l->format = LOAD_TSV;
    else if (strcmp(format, "csv") == 0)
        l->format = LOAD_CSV;
    else if (strcmp(format, "deb822") == 0)
        l->format = LOAD_DEB822;
    else
        return tool_usage_error(args, "The format is tsv, csv or deb822, not \"%s\".", format) ==
               TOOL_OK;
    return true;
}

static bool
load_arguments(struct tool_args *args, struct load *l)
{
    char *end;

    if (!load_format_argument(args, l))
        return false;
    l->key_name = tool_flag(args, "key");
    l->header = tool_flag_on(args, "header");
    l->batch = 1000;
    tool_flag_number(args, "batch", &l->batch);
    if (!tool_flags_done(args))
        return false;
    if (l->batch == 0)
        return tool_usage_error(args, "--batch must be at least 1.") == TOOL_OK;
    if (l->key_name != NULL && l->key_name[0] == '\0')
        return tool_usage_error(args, "--key is empty.") == TOOL_OK;
    if (l->format == LOAD_DEB822) {
        if (l->header)
            return tool_usage_error(args, "deb822 has no header line.") == TOOL_OK;
        l->key_name = l->key_name == NULL ? "Package" : l->key_name;
        return true;
    }
    unsigned long column = l->key_name == NULL ? 1 : strtoul(l->key_name, &end, 10);
    l->by_name = l->key_name != NULL && *end != '\0';
    if (l->by_name && !l->header)
        return tool_usage_error(
                   args,
                   "--key=%s is a name: --header must say that the first row names the columns.",
                   l->key_name) == TOOL_OK;
    if (!l->by_name && (column == 0 || column > LOAD_COLUMNS_MAX))
        return tool_usage_error(args, "--key=%s is no column; the first is 1.", l->key_name) ==
               TOOL_OK;
    l->key_column = l->by_name ? 0 : (unsigned)column - 1;
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

/* The file's size for the bar; 0 when it has none that is known. */
static bool
load_input(struct tool_args *args, struct load *l, uint64_t *bytes_out)
{
    struct stat st;

    l->in = stdin;
    l->file = "(standard input)";
    if (args->positional_count == 3 && strcmp(args->positional[2], "-") != 0) {
        l->file = args->positional[2];
        l->in = fopen(l->file, "re");
    }
    if (l->in == NULL || fstat(fileno(l->in), &st) != 0) {
        fprintf(stderr, "ashlar load: %s cannot be read: %s.\n", l->file, strerror(errno));
        return false;
    }
    if (S_ISDIR(st.st_mode)) { /* told before a database is made for it */
        fprintf(stderr, "ashlar load: %s is a directory, not a file with rows.\n", l->file);
        return false;
    }
    *bytes_out = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    return true;
}

int
tool_load(struct tool_args *args)
{
    struct load l = { 0 };
    struct tool_db t = { 0 };
    uint64_t file_bytes;
    int result;

    if (!load_arguments(args, &l))
        return TOOL_USAGE;
    if (!load_input(args, &l, &file_bytes))
        return TOOL_FAILED;
    ash_rc rc = load_open(args, &t);
    if (rc != ASH_OK)
        result = tool_fail(rc);
    else if (!load_room(&l))
        result = tool_fail(ASH_NO_MEMORY);
    else
        result = load_rows(&l, &t, file_bytes);
    mem_free(MEM_TOOL, l.text);
    mem_free(MEM_TOOL, l.scratch);
    if (l.in != stdin)
        fclose(l.in);
    return tool_close(&t, result);
}
