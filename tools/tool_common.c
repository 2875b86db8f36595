/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_common.c - arguments, errors, opening, output forms, progress.
 */
#include <ctype.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/option.h"
#include "tool.h"

const char *
tool_flag(struct tool_args *args, const char *name)
{
    const char *value = NULL;

    for (int i = 0; i < args->flag_count; i++)
        if (strcmp(args->flag[i].name, name) == 0) {
            args->flag[i].used = true;
            value = args->flag[i].value; /* the last one counts */
        }
    return value;
}

bool
tool_flag_on(struct tool_args *args, const char *name)
{
    return tool_flag(args, name) != NULL;
}

bool
tool_flag_number(struct tool_args *args, const char *name, uint64_t *value_out)
{
    const char *text = tool_flag(args, name);

    if (text == NULL)
        return true;
    if (option_parse_size(text, value_out))
        return true;
    tool_usage_error(args, "--%s takes a number, not \"%s\".", name, text);
    return false;
}

bool
tool_flags_done(struct tool_args *args)
{
    for (int i = 0; i < args->flag_count; i++)
        if (!args->flag[i].used) {
            tool_usage_error(args, "There is no option --%s here.", args->flag[i].name);
            return false;
        }
    return true;
}

int
tool_fail(ash_rc rc)
{
    const struct ash_error *e = ash_error_last();

    fprintf(stderr, "ashlar: %s (%s)\n", e->code == rc && e->message[0] != '\0' ? e->message : ash_strerror(rc),
            ash_rc_name(rc));
    return rc == ASH_NOT_FOUND ? TOOL_NOT_FOUND : rc == ASH_INVALID ? TOOL_USAGE : TOOL_FAILED;
}

int
tool_usage_error(const struct tool_args *args, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "ashlar %s: ", args->command);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, " See `ashlar %s --help`.\n", args->command);
    return TOOL_USAGE;
}

static void
tool_log(void *arg, int level, const char *message)
{
    (void)arg;
    if (level <= 1)
        fprintf(stderr, "ashlar: %s\n", message);
}

ash_rc
tool_open(struct tool_args *args, unsigned flags, const char *table, struct tool_db *out)
{
    memset(out, 0, sizeof(*out));
    ash_log_hook(tool_log, NULL);
    ash_rc rc = ash_open(args->positional[0], flags, tool_flag(args, "options"), &out->db);
    if (rc == ASH_OK)
        rc = ash_session_open(out->db, &out->session);
    if (rc == ASH_OK && table != NULL)
        rc = ash_table_open(out->session, table, &out->table);
    return rc;
}

int
tool_close(struct tool_db *t, int result)
{
    ash_table_close(t->table);
    ash_session_close(t->session);
    ash_rc rc = ash_close(t->db);
    return rc != ASH_OK && result == TOOL_OK ? tool_fail(rc) : result;
}

/* ---- Bytes as text ---- */

static int
hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool
tool_unescape(const char *text, char *out, size_t capacity, size_t *size_out)
{
    size_t n = 0;

    for (const char *p = text; *p != '\0'; n++) {
        if (n == capacity)
            return false;
        if (p[0] == '\\' && p[1] == 'x' && hex_digit(p[2]) >= 0 && hex_digit(p[3]) >= 0) {
            out[n] = (char)(hex_digit(p[2]) << 4 | hex_digit(p[3]));
            p += 4;
        } else {
            out[n] = *p++;
        }
    }
    *size_out = n;
    return true;
}

void
tool_print_bytes(FILE *f, struct ash_slice s)
{
    const unsigned char *p = s.data;

    for (size_t i = 0; i < s.size; i++) {
        if (p[i] >= ' ' && p[i] != '\\' && p[i] != 0x7f)
            fputc(p[i], f);
        else
            fprintf(f, "\\x%02x", p[i]);
    }
}

/* Length of a valid UTF-8 sequence at p, or 0. */
static size_t
utf8_length(const unsigned char *p, size_t left)
{
    size_t n = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;

    if (n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

void
tool_print_json(FILE *f, struct ash_slice s)
{
    const unsigned char *p = s.data;

    fputc('"', f);
    for (size_t i = 0; i < s.size;) {
        size_t n = utf8_length(p + i, s.size - i);
        if (p[i] == '"' || p[i] == '\\')
            fprintf(f, "\\%c", p[i]);
        else if (n == 0 || p[i] < ' ')
            fprintf(f, "\\u%04x", p[i]);
        else
            fwrite(p + i, 1, n, f);
        i += n == 0 ? 1 : n;
    }
    fputc('"', f);
}

/* ---- Progress ---- */

void
tool_progress_begin(struct tool_progress *p, const char *what, uint64_t total)
{
    *p = (struct tool_progress){ .what = what, .total = total, .start_ns = clock_ns(), .terminal = isatty(STDERR_FILENO) != 0 };
}

void
tool_progress_at(struct tool_progress *p, uint64_t done)
{
    uint64_t now;

    p->done = done;
    if (!p->terminal || (done & 255) != 0 || (now = clock_ns()) - p->shown_ns < 200000000u)
        return;
    p->shown_ns = now;
    double seconds = (double)(now - p->start_ns) / 1e9;
    if (p->total != 0)
        fprintf(stderr, "\r%s %5.1f %%  %.0f/s ", p->what, 100.0 * (double)done / (double)p->total, (double)done / seconds);
    else
        fprintf(stderr, "\r%s %llu  %.0f/s ", p->what, (unsigned long long)done, (double)done / seconds);
}

void
tool_progress_end(struct tool_progress *p)
{
    if (p->terminal)
        fprintf(stderr, "\r%*s\r", 60, "");
}
