/* SPDX-License-Identifier: Apache-2.0
 *
 * tool_text.c - keys and values, which are bytes, as text that people and scripts can read.
 */
#include <string.h>

#include "tool.h"

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool
tool_unescape(struct ash_slice text, char *out, size_t capacity, size_t *size_out)
{
    const char *p = text.data, *end = p + text.size;
    size_t n = 0;

    for (; p < end; n++) {
        if (n == capacity)
            return false;
        if (end - p >= 4 && p[0] == '\\' && p[1] == 'x' && hex_digit(p[2]) >= 0 &&
            hex_digit(p[3]) >= 0) {
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

/* Length of the UTF-8 sequence at p, or 0 when there is none: no overlong forms, no surrogates,
 * nothing above U+10FFFF. */
static size_t
utf8_length(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : 4;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n > left)
        return 0;
    unsigned lowest = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    unsigned highest = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < lowest || p[1] > highest)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

static bool
is_utf8(struct ash_slice s)
{
    const unsigned char *p = s.data;

    for (size_t i = 0; i < s.size;) {
        size_t n = utf8_length(p + i, s.size - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}

static void
print_json_bytes(FILE *f, struct ash_slice s)
{
    const unsigned char *p = s.data;

    fputc('"', f);
    for (size_t i = 0; i < s.size;) {
        size_t n = utf8_length(p + i, s.size - i);
        if (n == 0)
            fputs("\\ufffd", f);
        else if (p[i] == '"' || p[i] == '\\')
            fprintf(f, "\\%c", p[i]);
        else if (p[i] == '\n')
            fputs("\\n", f);
        else if (p[i] == '\t')
            fputs("\\t", f);
        else if (p[i] < ' ' || p[i] == 0x7f)
            fprintf(f, "\\u%04x", p[i]);
        else
            fwrite(p + i, 1, n, f);
        i += n == 0 ? 1 : n;
    }
    fputc('"', f);
}

void
tool_print_json(FILE *f, const char *text)
{
    print_json_bytes(f, ash_slice(text, strlen(text)));
}

void
tool_print_json_member(FILE *f, const char *name, struct ash_slice s)
{
    const unsigned char *p = s.data;

    if (is_utf8(s)) {
        fprintf(f, "\"%s\":", name);
        print_json_bytes(f, s);
        return;
    }
    fprintf(f, "\"%s_hex\":\"", name);
    for (size_t i = 0; i < s.size; i++)
        fprintf(f, "%02x", p[i]);
    fputc('"', f);
}

const char *
tool_number(uint64_t n, char text[TOOL_NUMBER_MAX])
{
    char *p = text + TOOL_NUMBER_MAX - 1;
    int digits = 0;

    *p = '\0';
    do {
        if (digits != 0 && digits % 3 == 0)
            *--p = ',';
        *--p = (char)('0' + n % 10);
        digits++;
    } while ((n /= 10) != 0);
    return p;
}
