/* SPDX-License-Identifier: Apache-2.0
 *
 * option.h - the self-describing option table: one row per option; parsing, ranges, defaults and
 * help come from it.
 */
#ifndef ASH_BASE_OPTION_H
#define ASH_BASE_OPTION_H

#include <ashlar.h>

/* The one table, as an X-macro: O(name, type, unit, min, max, default, changeable, choices,
 * help).  Enum values are the index in `choices` (separated by '|').  Kept in option_table.h. */
enum option_type {
    OPTION_INT,
    OPTION_SIZE,
    OPTION_BOOL,
    OPTION_ENUM
};

#define O(name, type, unit, min, max, def, changeable, choices, help) OPT_##name,
enum option_id {
#include "base/option_table.h"
    OPTION_COUNT
};
#undef O

struct options {
    uint64_t v[OPTION_COUNT];
};

void options_default(struct options *o);
/* Parses "name=value,name=value".  ASH_INVALID names the option, what was given and the range;
 * nothing is changed then. */
ASH_MUST_CHECK ash_rc options_parse(struct options *o, const char *text);
ASH_MUST_CHECK ash_rc options_set(struct options *o, const char *name, const char *value);
ASH_MUST_CHECK ash_rc options_format(const struct options *o, const char *name, char *out,
                                     size_t size);
/* Looks an option up; ASH_INVALID (with the nearest name) when there is none. */
ASH_MUST_CHECK ash_rc option_find(const char *name, enum option_id *id_out);
bool option_changeable(enum option_id id);
bool option_next(unsigned *iter, struct ash_option_info *info_out);
/* Parses "64MiB", "1GiB", "4096"; true on success. */
bool option_parse_size(const char *text, uint64_t *value_out);
void option_format_size(uint64_t bytes, char out[32]);

#endif
