/* SPDX-License-Identifier: Apache-2.0
 *
 * log.c - hands messages to the embedder's hook.
 *
 * The lock is held while the hook runs, so when log_hook() returns the previous hook runs
 * nowhere and its argument may be freed.  Hooks must not call the library (ashlar.h), so this
 * cannot deadlock.
 */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#define LOG_MESSAGE_MAX 1024 /* bytes, with the ending zero; on the caller's stack */

static pthread_rwlock_t hook_lock = PTHREAD_RWLOCK_INITIALIZER;
static ash_log_fn hook_fn; /* hook_lock */
static void *hook_arg;     /* hook_lock */
static _Atomic bool hook_set;

void
log_hook(ash_log_fn fn, void *arg)
{
    pthread_rwlock_wrlock(&hook_lock);
    hook_fn = fn;
    hook_arg = arg;
    atomic_store_explicit(&hook_set, fn != NULL, memory_order_relaxed);
    pthread_rwlock_unlock(&hook_lock);
}

void
log_write(enum log_level level, const char *format, ...)
{
    char text[LOG_MESSAGE_MAX];
    va_list args;

    if (!atomic_load_explicit(&hook_set, memory_order_relaxed))
        return;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (n < 0)
        return;
    pthread_rwlock_rdlock(&hook_lock);
    if (hook_fn != NULL)
        hook_fn(hook_arg, (int)level, text);
    pthread_rwlock_unlock(&hook_lock);
}

void
ash_log_hook(ash_log_fn fn, void *arg)
{
    log_hook(fn, arg);
}
