/* SPDX-License-Identifier: Apache-2.0
 *
 * error.c - the slot that holds the last failure, and the words for the codes.
 *
 * A failure is recorded once, by err_raise(), into the slot of the running task.  Nothing clears
 * a slot on success: the detail is meaningful only after a call that returned something else
 * than ASH_OK.
 *
 * Entry points: err_raise(), err_current(), ash_error_last().   Read first: error.h, docs/errors.md.
 */
#include "base/error.h"

#include "base/assert.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

_Thread_local struct err_detail *err_slot;
static _Thread_local struct err_detail thread_slot;

struct err_detail *
err_current(void)
{
    return err_slot != NULL ? err_slot : &thread_slot;
}

static const char *
base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/* Copies `from` into `to`, cut to fit.  A cut text ends in "..." and not inside a UTF-8
 * sequence. */
static void
copy_cut(char *to, size_t size, const char *from)
{
    size_t n = strlen(from);
    if (n < size) {
        memcpy(to, from, n + 1);
        return;
    }
    n = size - sizeof("...");
    while (!PLANTED(905) && n > 0 && ((unsigned char)from[n] & 0xc0) == 0x80)
        n--;
    memcpy(to, from, n);
    memcpy(to + n, "...", sizeof("..."));
}

ash_rc
err_raise(const char *file, int line, ash_rc code, int sys_errno, const char *object,
          const char *format, ...)
{
    int saved_errno = errno;
    struct err_detail *slot = err_current();
    /* One byte more than a slot holds, so that copy_cut() sees that something was lost.  The
     * message is formatted aside because its arguments may point into the slot (a sentence that
     * quotes an earlier one). */
    char text[ERR_MESSAGE_MAX + 1];
    char object_copy[ERR_OBJECT_MAX];
    va_list args;

    va_start(args, format);
    if (vsnprintf(text, sizeof(text), format, args) < 0)
        text[0] = '\0';
    va_end(args);
    copy_cut(object_copy, sizeof(object_copy), object != NULL ? object : "");

    slot->code = code;
    slot->sys_errno = sys_errno;
    slot->file = file;
    slot->line = line;
    memcpy(slot->object, object_copy, sizeof(slot->object));
    copy_cut(slot->message, sizeof(slot->message), text);
    errno = saved_errno;
    return code;
}

ash_rc
err_answer(const char *file, int line, ash_rc code, const char *text)
{
    struct err_detail *slot = err_current();

    slot->code = code;
    slot->sys_errno = 0;
    slot->file = file;
    slot->line = line;
    slot->object[0] = '\0';
    copy_cut(slot->message, sizeof(slot->message), text);
    return code;
}

ash_rc
err_from_errno(int sys_errno)
{
    switch (sys_errno) {
    case ENOMEM: return ASH_NO_MEMORY;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return ASH_NO_SPACE;
    case EROFS: return ASH_READ_ONLY;
    default: return ASH_IO;
    }
}

void
err_save(struct err_detail *copy_out)
{
    *copy_out = *err_current();
}

void
err_restore(const struct err_detail *copy)
{
    *err_current() = *copy;
}

/* The view that the caller of the library gets.  It may be per thread although slots are per
 * fiber: a fiber can lose it only by parking, and it parks only inside its next call. */
const struct ash_error *
ash_error_last(void)
{
    static _Thread_local struct ash_error view;
    static _Thread_local char where[64];
    const struct err_detail *slot = err_current();

    where[0] = '\0';
    if (slot->file != NULL)
        snprintf(where, sizeof(where), "%s:%d", base_name(slot->file), slot->line);
    view.code = slot->code;
    view.sys_errno = slot->sys_errno;
    view.message = slot->message;
    view.object = slot->object;
    view.where = where;
    return &view;
}

static const struct {
    ash_rc code;
    const char *name;
    const char *phrase;
} code_words[] = {
    { ASH_OK, "ASH_OK", "success" },
    { ASH_NOT_FOUND, "ASH_NOT_FOUND", "not found" },
    { ASH_EXISTS, "ASH_EXISTS", "already exists" },
    { ASH_CONFLICT, "ASH_CONFLICT", "another transaction changed the row" },
    { ASH_DEADLOCK, "ASH_DEADLOCK", "deadlock: roll back and retry" },
    { ASH_LOCK_TIMEOUT, "ASH_LOCK_TIMEOUT", "waited too long for a row lock" },
    { ASH_WOULD_BLOCK, "ASH_WOULD_BLOCK", "would have to wait" },
    { ASH_CANCELLED, "ASH_CANCELLED", "cancelled" },
    { ASH_SNAPSHOT_TOO_OLD, "ASH_SNAPSHOT_TOO_OLD", "the snapshot's versions are gone" },
    { ASH_INVALID, "ASH_INVALID", "invalid argument or option" },
    { ASH_MISUSE, "ASH_MISUSE", "call in the wrong state" },
    { ASH_TOO_LARGE, "ASH_TOO_LARGE", "too large" },
    { ASH_UNSUPPORTED, "ASH_UNSUPPORTED", "not supported here" },
    { ASH_NO_MEMORY, "ASH_NO_MEMORY", "out of memory" },
    { ASH_NO_SPACE, "ASH_NO_SPACE", "out of disk space" },
    { ASH_IO, "ASH_IO", "input/output error" },
    { ASH_POISONED, "ASH_POISONED", "an earlier write failed: reopen the database" },
    { ASH_READ_ONLY, "ASH_READ_ONLY", "read-only" },
    { ASH_BUSY, "ASH_BUSY", "another process has the database open" },
    { ASH_CORRUPT, "ASH_CORRUPT", "corrupt data" },
    { ASH_NOT_A_DATABASE, "ASH_NOT_A_DATABASE", "not an Ashlar database" },
    { ASH_VERSION_MISMATCH, "ASH_VERSION_MISMATCH", "written by a newer format" },
    { ASH_INTERNAL, "ASH_INTERNAL", "internal error: please report it" },
};

const char *
ash_rc_name(ash_rc rc)
{
    for (size_t i = 0; i < sizeof(code_words) / sizeof(code_words[0]); i++)
        if (code_words[i].code == rc)
            return code_words[i].name;
    return "ASH_?";
}

const char *
ash_strerror(ash_rc rc)
{
    for (size_t i = 0; i < sizeof(code_words) / sizeof(code_words[0]); i++)
        if (code_words[i].code == rc)
            return code_words[i].phrase;
    return "unknown result code";
}

const char *
ash_version(void)
{
    return PACKAGE_VERSION;
}
