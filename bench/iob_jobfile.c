/* SPDX-License-Identifier: Apache-2.0
 *
 * iob_jobfile.c - fio's job files: [section], key=value, key alone, ';' and '#' comments,
 * ${VARIABLE} of the environment.
 *
 * [global] sets what later sections begin with; every other section is a job.  Anything else is an
 * error that says in which line.
 */
#include "base/error.h"
#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iob.h"

#define FILE_BYTES_MAX (1u << 20)
#define LINE_BYTES_MAX 4096u

static char *
trim(char *text)
{
    char *end = text + strlen(text);

    while (end > text && isspace((unsigned char)end[-1]))
        end--;
    *end = '\0';
    while (isspace((unsigned char)*text))
        text++;
    return text;
}

/* A comment begins at the begin of a line, or after a blank: "a;b" may be a file name. */
static void
cut_comment(char *line)
{
    for (char *at = line; *at != '\0'; at++) {
        if ((*at == ';' || *at == '#') && (at == line || isspace((unsigned char)at[-1]))) {
            *at = '\0';
            return;
        }
    }
}

/* Replaces ${NAME}; a variable that is not set is empty, as in fio. */
static ash_rc
expand(const char *text, const char *where, char out[LINE_BYTES_MAX])
{
    size_t n = 0;

    while (*text != '\0') {
        const char *end = strncmp(text, "${", 2) == 0 ? strchr(text, '}') : NULL;
        const char *piece = text;
        size_t length = 1;
        if (end != NULL) {
            char name[256];
            snprintf(name, sizeof(name), "%.*s", (int)(end - text - 2), text + 2);
            piece = getenv(name);
            length = piece == NULL ? 0 : strlen(piece);
            text = end;
        }
        if (n + length >= LINE_BYTES_MAX)
            return ash_raise(ASH_INVALID, "%s: the value is longer than %u bytes.", where,
                             LINE_BYTES_MAX);
        if (length > 0)
            memcpy(out + n, piece, length);
        n += length;
        text++;
    }
    out[n] = '\0';
    return ASH_OK;
}

static ash_rc
section(struct iob_setup *s, struct iob_job **job, char *line, const char *where)
{
    char *end = strchr(line, ']');

    if (end == NULL || *trim(end + 1) != '\0')
        return ash_raise(ASH_INVALID, "%s: a section is written as [name].", where);
    *end = '\0';
    char *name = trim(line + 1);
    if (*name == '\0')
        return ash_raise(ASH_INVALID, "%s: the section has no name.", where);
    if (strcmp(name, "global") == 0) {
        *job = &s->global;
        return ASH_OK;
    }
    return iob_job_begin(s, name, job);
}

static ash_rc
parse_line(struct iob_setup *s, struct iob_job **job, char *line, const char *path, unsigned number)
{
    char where[512], value[LINE_BYTES_MAX];

    snprintf(where, sizeof(where), "%.400s:%u", path, number);
    cut_comment(line);
    line = trim(line);
    if (*line == '\0')
        return ASH_OK;
    if (*line == '[')
        return section(s, job, line, where);
    if (*job == NULL)
        return ash_raise(ASH_INVALID, "%s: \"%.64s\" stands before the first [section].", where,
                         line);
    char *equals = strchr(line, '=');
    if (equals == NULL)
        return iob_option_set(s, *job, line, NULL, where);
    *equals = '\0';
    char *name = trim(line);
    snprintf(where, sizeof(where), "%.400s:%u: %.64s", path, number, name);
    if (strcmp(name, "name") == 0)
        return ash_raise(ASH_INVALID, "%s: in a job file the [section] is the name.", where);
    ash_rc rc = expand(trim(equals + 1), where, value);
    return rc == ASH_OK ? iob_option_set(s, *job, name, value, where) : rc;
}

ash_rc
iob_jobfile_parse(struct iob_setup *s, const char *path, char *text)
{
    struct iob_job *job = NULL;
    unsigned number = 0, before = s->jobs;

    for (char *line = text; line != NULL;) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        number++;
        if (strlen(line) >= LINE_BYTES_MAX)
            return ash_raise(ASH_INVALID, "%s:%u: the line is longer than %u bytes.", path, number,
                             LINE_BYTES_MAX);
        ash_rc rc = parse_line(s, &job, line, path, number);
        if (rc != ASH_OK)
            return rc;
        line = end == NULL ? NULL : end + 1;
    }
    if (s->jobs == before)
        return ash_raise_obj(ASH_INVALID, path, "%s holds no job: no [section] but global.", path);
    return ASH_OK;
}

ash_rc
iob_jobfile_read(struct iob_setup *s, const char *path)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");

    if (f == NULL)
        return ash_raise_sys(ASH_NOT_FOUND, errno, path, "The job file %s cannot be read: %s.",
                             path, strerror(errno));
    char *text = mem_alloc(MEM_TOOL, FILE_BYTES_MAX + 1);
    ash_rc rc = text == NULL ? ASH_NO_MEMORY : ASH_OK;
    if (text != NULL) {
        size_t n = fread(text, 1, FILE_BYTES_MAX + 1, f);
        if (ferror(f))
            rc = ash_raise_sys(ASH_IO, errno, path, "Reading the job file %s failed: %s.", path,
                               strerror(errno));
        else if (n > FILE_BYTES_MAX)
            rc = ash_raise_obj(ASH_INVALID, path, "The job file %s is larger than 1 MiB.", path);
        else if (memchr(text, 0, n) != NULL)
            rc = ash_raise_obj(ASH_INVALID, path, "%s is no job file: it holds zero bytes.", path);
        else
            text[n] = '\0';
    }
    if (f != stdin)
        fclose(f);
    if (rc == ASH_OK)
        rc = iob_jobfile_parse(s, path, text);
    mem_free(MEM_TOOL, text);
    return rc;
}
