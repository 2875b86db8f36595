/* SPDX-License-Identifier: Apache-2.0
 *
 * args.c - see args.h.
 */
#include "args.h"

#include "base/error.h"
#include "base/option.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELP_COLUMN 28

/* Digits with an optional k, M or G; true on success. */
static bool
parse_count(const char *text, uint64_t *value_out)
{
    char *end;
    uint64_t scale = 1;
    unsigned long long v;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    v = strtoull(text, &end, 10);
    if (*end == 'k')
        scale = 1000;
    else if (*end == 'M')
        scale = 1000000;
    else if (*end == 'G')
        scale = 1000000000;
    if (scale != 1)
        end++;
    return errno == 0 && *end == '\0' && !__builtin_mul_overflow((uint64_t)v, scale, value_out);
}

static ash_rc
parse_seconds(const struct arg_spec *spec, const char *text)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end != '\0' || !isfinite(v) || v < (double)spec->min ||
        v > (double)spec->max)
        return ash_raise(ASH_INVALID, "--%s: \"%s\" is not a number of seconds from %llu to %llu",
                         spec->name, text, (unsigned long long)spec->min,
                         (unsigned long long)spec->max);
    *(double *)spec->target = v;
    return ASH_OK;
}

static ash_rc
parse_number(const struct arg_spec *spec, const char *text)
{
    uint64_t v;
    bool size = spec->kind == ARG_SIZE;

    if (!(size ? option_parse_size(text, &v) : parse_count(text, &v)))
        return ash_raise(ASH_INVALID, "--%s: \"%s\" is not %s", spec->name, text,
                         size ? "a size like 4096, 64MiB or 1GiB"
                              : "a number like 1000, 50k or 2M");
    if (v < spec->min || v > spec->max)
        return ash_raise(ASH_INVALID, "--%s: %s is outside of %llu..%llu", spec->name, text,
                         (unsigned long long)spec->min, (unsigned long long)spec->max);
    *(uint64_t *)spec->target = v;
    return ASH_OK;
}

static ash_rc
set(const struct arg_spec *spec, const char *text)
{
    switch (spec->kind) {
    case ARG_TEXT: *(const char **)spec->target = text; return ASH_OK;
    case ARG_SECONDS: return parse_seconds(spec, text);
    case ARG_SIZE:
    case ARG_COUNT: return parse_number(spec, text);
    case ARG_FLAG: *(bool *)spec->target = true; return ASH_OK;
    }
    return ASH_OK;
}

static const struct arg_spec *
find(const struct arg_spec *specs, size_t count, const char *name, size_t length)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(specs[i].name) == length && memcmp(specs[i].name, name, length) == 0)
            return &specs[i];
    return NULL;
}

ash_rc
args_parse(const struct arg_spec *specs, size_t count, int argc, char **argv, bool *help_out)
{
    for (int i = 0; i < argc; i++) {
        const char *name = argv[i], *value;
        const struct arg_spec *spec;
        ash_rc rc;

        if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
            *help_out = true;
            return ASH_OK;
        }
        if (strncmp(name, "--", 2) != 0)
            return ash_raise(ASH_INVALID,
                             "\"%s\" is not an option; options look like --name=value (see --help)",
                             name);
        name += 2;
        value = strchr(name, '=');
        spec = find(specs, count, name, value != NULL ? (size_t)(value - name) : strlen(name));
        if (spec == NULL)
            return ash_raise(ASH_INVALID, "--%s: there is no such option; --help lists them", name);
        if (spec->kind == ARG_FLAG && value != NULL)
            return ash_raise(ASH_INVALID, "--%s takes no value", spec->name);
        if (spec->kind != ARG_FLAG && value == NULL && ++i == argc)
            return ash_raise(ASH_INVALID, "--%s needs a value: --%s=%s", spec->name, spec->name,
                             spec->value);
        rc = set(spec, value != NULL ? value + 1 : argv[i]);
        if (rc != ASH_OK)
            return rc;
    }
    return ASH_OK;
}

void
args_help(const struct arg_spec *specs, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int used = printf("  --%s%s%s", specs[i].name, specs[i].value != NULL ? "=" : "",
                          specs[i].value != NULL ? specs[i].value : "");
        const char *line = specs[i].help;

        for (;;) {
            size_t length = strcspn(line, "\n");
            if (used >= HELP_COLUMN)
                used = printf("\n") * 0;
            printf("%*s%.*s\n", HELP_COLUMN - used, "", (int)length, line);
            used = 0;
            if (line[length] == '\0')
                break;
            line += length + 1;
        }
    }
}
