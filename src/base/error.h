/* SPDX-License-Identifier: Apache-2.0
 *
 * error.h - raising errors once, with detail.
 *
 * The detail of the last failure lives in a slot that belongs to the running task: threads have one
 * each; the task layer switches err_slot when it switches fibers.
 */
#ifndef ASH_BASE_ERROR_H
#define ASH_BASE_ERROR_H

#include <ashlar.h>

#define ERR_MESSAGE_MAX 512 /* bytes, with the ending zero; longer sentences are cut */
#define ERR_OBJECT_MAX  128

struct err_detail {
    ash_rc code;
    int sys_errno;
    const char *file; /* static, of the raising source line */
    int line;
    char object[ERR_OBJECT_MAX];
    char message[ERR_MESSAGE_MAX];
};

/* The slot in use now, or NULL for the thread's own.  Only the task layer writes it. */
extern _Thread_local struct err_detail *err_slot;
struct err_detail *err_current(void); /* never NULL */

/* Records a failure and returns `code`.  Call it once, where the failure is found; pass the code
 * up unchanged.  The message is a whole sentence: what failed, which file, page or key, what to
 * do.  `object` is NULL or the file or table concerned; `sys_errno` is 0 or the errno behind it.
 * A breakpoint on err_raise() stops at every error. */
ash_rc err_raise(const char *file, int line, ash_rc code, int sys_errno, const char *object,
                 const char *format, ...) __attribute__((format(printf, 6, 7), cold));
#define ash_raise(code, ...) err_raise(__FILE__, __LINE__, (code), 0, NULL, __VA_ARGS__)
#define ash_raise_obj(code, object, ...) \
    err_raise(__FILE__, __LINE__, (code), 0, (object), __VA_ARGS__)
#define ash_raise_sys(code, err, object, ...) \
    err_raise(__FILE__, __LINE__, (code), (err), (object), __VA_ARGS__)

/* The same for an answer rather than a failure (no such row): a fixed sentence, nothing formatted,
 * some nanoseconds.  `text` is a literal shorter than ERR_MESSAGE_MAX. */
ash_rc err_answer(const char *file, int line, ash_rc code, const char *text);
#define ash_answer(code, text) err_answer(__FILE__, __LINE__, (code), (text))

/* The code that fits an errno: ENOMEM -> NO_MEMORY, ENOSPC/EDQUOT/EFBIG -> NO_SPACE, EROFS ->
 * READ_ONLY, else IO. */
ash_rc err_from_errno(int sys_errno);

/* Drops a result on purpose; say why in a comment. */
static inline void
ash_ignore(ash_rc rc)
{
    (void)rc;
}

/* Saves and restores the detail around clean-up code that may itself fail. */
void err_save(struct err_detail *copy_out);
void err_restore(const struct err_detail *copy);

#endif
