/* SPDX-License-Identifier: Apache-2.0
 *
 * option.c - parses, checks and prints options by their table.
 *
 * Nothing here knows a single option: a new one is one row in option_table.h.  What rows cannot
 * say (page_size is a power of two) is in value_fits().
 *
 * Entry points: options_default(), options_parse(), options_set(), option_next().   Read first: option.h.
 */
#include "base/option.h"

#include "base/assert.h"
#include "base/bits.h"
#include "base/error.h"

#include <ctype.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define TEXT_MAX          128 /* of a name or value; longer input cannot be right */
#define NAME_MAX_DISTANCE 32

struct row {
    const char *name;
    enum option_type type;
    const char *unit;
    uint64_t min, max, def;
    bool changeable;
    const char *choices;
    const char *help;
};

static const struct row rows[OPTION_COUNT] = {
#define O(name, type, unit, min, max, def, changeable, choices, help) \
    { #name, type, unit, min, max, def, changeable, choices, help },
#include "base/option_table.h"
#undef O
};

/* ---- Numbers and sizes --------------------------------------------------------------------- */

/* Reads decimal digits; leaves *text behind them.  False when there are none or they overflow. */
static bool
parse_digits(const char **text, uint64_t *value_out)
{
    const char *p = *text;
    uint64_t v = 0;

    if (!isdigit((unsigned char)*p))
        return false;
    for (; isdigit((unsigned char)*p); p++)
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return false;
    *text = p;
    *value_out = v;
    return true;
}

static const struct {
    const char *suffix;
    unsigned shift;
} units[] = {
    { "", 0 },     { "B", 0 },  { "K", 10 },   { "KiB", 10 }, { "M", 20 },
    { "MiB", 20 }, { "G", 30 }, { "GiB", 30 }, { "T", 40 },   { "TiB", 40 },
};

bool
option_parse_size(const char *text, uint64_t *value_out)
{
    uint64_t v;

    if (!parse_digits(&text, &v))
        return false;
    for (size_t i = 0; i < ASH_ARRAY_SIZE(units); i++) {
        if (strcasecmp(text, units[i].suffix) != 0)
            continue;
        if (v > UINT64_MAX >> units[i].shift)
            return false;
        *value_out = v << units[i].shift;
        return true;
    }
    return false; /* also KB, MB ...: half the world reads them as 1000 */
}

void
option_format_size(uint64_t bytes, char out[32])
{
    static const char *const names[] = { "", "KiB", "MiB", "GiB", "TiB" };
    unsigned i = 0;

    while (i + 1 < ASH_ARRAY_SIZE(names) && bytes != 0 && bytes % 1024 == 0) {
        bytes /= 1024;
        i++;
    }
    snprintf(out, 32, "%" PRIu64 "%s", bytes, names[i]);
}

/* ---- Choices of an enum -------------------------------------------------------------------- */

/* Finds the index-th of "a|b|c"; false behind the last. */
static bool
choice_at(const char *choices, uint64_t index, const char **name_out, size_t *size_out)
{
    for (;; index--) {
        size_t n = strcspn(choices, "|");
        if (index == 0) {
            *name_out = choices;
            *size_out = n;
            return true;
        }
        if (choices[n] == '\0')
            return false;
        choices += n + 1;
    }
}

static bool
parse_choice(const char *choices, const char *text, uint64_t *value_out)
{
    const char *name;
    size_t size;

    for (uint64_t i = 0; choice_at(choices, i, &name, &size); i++)
        if (strlen(text) == size && strncasecmp(text, name, size) == 0) {
            *value_out = i;
            return true;
        }
    return false;
}

/* ---- Values -------------------------------------------------------------------------------- */

static bool
parse_bool(const char *text, uint64_t *value_out)
{
    static const char *const yes[] = { "true", "on", "yes", "1" };
    static const char *const no[] = { "false", "off", "no", "0" };

    for (size_t i = 0; i < ASH_ARRAY_SIZE(yes); i++) {
        if (strcasecmp(text, yes[i]) == 0) {
            *value_out = 1;
            return true;
        }
        if (strcasecmp(text, no[i]) == 0) {
            *value_out = 0;
            return true;
        }
    }
    return false;
}

static bool
parse_value(const struct row *row, const char *text, uint64_t *value_out)
{
    switch (row->type) {
    case OPTION_INT: return parse_digits(&text, value_out) && *text == '\0';
    case OPTION_SIZE: return option_parse_size(text, value_out);
    case OPTION_BOOL: return parse_bool(text, value_out);
    case OPTION_ENUM: return parse_choice(row->choices, text, value_out);
    }
    return false;
}

static bool
value_fits(enum option_id id, uint64_t value)
{
    if (value < rows[id].min || value > rows[id].max)
        return false;
    return id != OPT_page_size || is_pow2(value);
}

static void
format_value(const struct row *row, uint64_t value, char *out, size_t size)
{
    char text[32];
    const char *name;
    size_t n;

    switch (row->type) {
    case OPTION_INT: snprintf(out, size, "%" PRIu64, value); return;
    case OPTION_SIZE:
        option_format_size(value, text);
        snprintf(out, size, "%s", text);
        return;
    case OPTION_BOOL: snprintf(out, size, "%s", value != 0 ? "true" : "false"); return;
    case OPTION_ENUM:
        if (choice_at(row->choices, value, &name, &n))
            snprintf(out, size, "%.*s", (int)n, name);
        return;
    }
}

static void
format_range(enum option_id id, char *out, size_t size)
{
    const struct row *row = &rows[id];
    char low[32], high[32];

    if (row->type == OPTION_BOOL) {
        snprintf(out, size, "true|false");
    } else if (row->type == OPTION_ENUM) {
        snprintf(out, size, "%s", row->choices);
    } else {
        format_value(row, row->min, low, sizeof(low));
        format_value(row, row->max, high, sizeof(high));
        snprintf(out, size, "%s..%s%s", low, high, id == OPT_page_size ? ", a power of two" : "");
    }
}

void
options_default(struct options *o)
{
    for (unsigned i = 0; i < OPTION_COUNT; i++)
        o->v[i] = rows[i].def;
}

/* ---- Names --------------------------------------------------------------------------------- */

/* Levenshtein distance of two names, both cut to NAME_MAX_DISTANCE characters. */
static unsigned
name_distance(const char *a, const char *b)
{
    unsigned cost[NAME_MAX_DISTANCE + 1];
    size_t na = strnlen(a, NAME_MAX_DISTANCE), nb = strnlen(b, NAME_MAX_DISTANCE);

    for (unsigned j = 0; j <= nb; j++)
        cost[j] = j;
    for (size_t i = 1; i <= na; i++) {
        unsigned diagonal = cost[0];
        cost[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned replace = diagonal + (a[i - 1] != b[j - 1]);
            unsigned step = (cost[j] < cost[j - 1] ? cost[j] : cost[j - 1]) + 1;
            diagonal = cost[j];
            cost[j] = replace < step ? replace : step;
        }
    }
    return cost[nb];
}

ash_rc
option_find(const char *name, enum option_id *id_out)
{
    unsigned best = 0, best_distance = UINT32_MAX;

    for (unsigned i = 0; i < OPTION_COUNT; i++) {
        unsigned d = name_distance(name, rows[i].name);
        if (d < best_distance) {
            best = i;
            best_distance = d;
        }
        if (strcmp(name, rows[i].name) == 0) {
            *id_out = (enum option_id)i;
            return ASH_OK;
        }
    }
    return ash_raise_obj(
        ASH_INVALID, name,
        "There is no option '%.64s'; did you mean '%s'? `ashlar options` lists all.", name,
        rows[best].name);
}

bool
option_changeable(enum option_id id)
{
    return rows[id].changeable;
}

ash_rc
options_set(struct options *o, const char *name, const char *value)
{
    enum option_id id;
    uint64_t v = 0;

    ash_rc rc = option_find(name, &id);
    if (rc != ASH_OK)
        return rc;
    if (!parse_value(&rows[id], value, &v) || !value_fits(id, v)) {
        char range[TEXT_MAX];
        format_range(id, range, sizeof(range));
        return ash_raise_obj(ASH_INVALID, name, "Option %s cannot be '%.64s': its range is %s%s%s.",
                             name, value, range,
                             rows[id].type == OPTION_INT && rows[id].unit[0] != '\0' ? " " : "",
                             rows[id].type == OPTION_INT ? rows[id].unit : "");
    }
    o->v[id] = v;
    return ASH_OK;
}

ash_rc
options_format(const struct options *o, const char *name, char *out, size_t size)
{
    char text[TEXT_MAX];
    enum option_id id;

    ash_rc rc = option_find(name, &id);
    if (rc != ASH_OK)
        return rc;
    format_value(&rows[id], o->v[id], text, sizeof(text));
    if (strlen(text) >= size)
        return ash_raise_obj(ASH_INVALID, name,
                             "The value of option %s needs %zu bytes, the caller gave %zu.", name,
                             strlen(text) + 1, size);
    memcpy(out, text, strlen(text) + 1);
    return ASH_OK;
}

/* ---- "name=value,name=value" --------------------------------------------------------------- */

/* Copies [from, end) without blanks at both ends; false when it is empty or too long. */
static bool
copy_trimmed(char out[TEXT_MAX], const char *from, const char *end)
{
    while (from < end && isspace((unsigned char)*from))
        from++;
    while (from < end && isspace((unsigned char)end[-1]))
        end--;
    size_t n = (size_t)(end - from);
    if (n == 0 || n >= TEXT_MAX)
        return false;
    memcpy(out, from, n);
    out[n] = '\0';
    return true;
}

ash_rc
options_parse(struct options *o, const char *text)
{
    struct options changed = *o;
    char name[TEXT_MAX], value[TEXT_MAX];

    if (text == NULL || text[strspn(text, " \t\r\n")] == '\0')
        return ASH_OK;
    for (const char *p = text;;) {
        const char *end = p + strcspn(p, ",");
        const char *equals = memchr(p, '=', (size_t)(end - p));
        if (equals == NULL || !copy_trimmed(name, p, equals) ||
            !copy_trimmed(value, equals + 1, end))
            return ash_raise(ASH_INVALID,
                             "Options are written name=value,name=value; '%.*s' is not.",
                             (int)min_u64(64, end - p), p);
        ash_rc rc = options_set(PLANTED(906) ? o : &changed, name, value);
        if (rc != ASH_OK)
            return rc;
        if (*end == '\0')
            break;
        p = end + 1;
    }
    *o = changed;
    return ASH_OK;
}

/* ---- Walking the table --------------------------------------------------------------------- */

static pthread_once_t texts_once = PTHREAD_ONCE_INIT;
static struct {
    char range[TEXT_MAX];
    char def[TEXT_MAX];
} texts[OPTION_COUNT]; /* written once, then read only */

static void
fill_texts(void)
{
    for (unsigned i = 0; i < OPTION_COUNT; i++) {
        format_range((enum option_id)i, texts[i].range, sizeof(texts[i].range));
        format_value(&rows[i], rows[i].def, texts[i].def, sizeof(texts[i].def));
    }
}

bool
option_next(unsigned *iter, struct ash_option_info *info_out)
{
    static const char *const types[] = { [OPTION_INT] = "integer",
                                         [OPTION_SIZE] = "size",
                                         [OPTION_BOOL] = "bool",
                                         [OPTION_ENUM] = "enum" };

    if (*iter >= OPTION_COUNT)
        return false;
    pthread_once(&texts_once, fill_texts);
    const struct row *row = &rows[*iter];
    info_out->name = row->name;
    info_out->type = types[row->type];
    info_out->unit = row->unit;
    info_out->range = texts[*iter].range;
    info_out->default_value = texts[*iter].def;
    info_out->help = row->help;
    info_out->changeable = row->changeable;
    (*iter)++;
    return true;
}

bool
ash_option_next(unsigned *iter, struct ash_option_info *info_out)
{
    return option_next(iter, info_out);
}
