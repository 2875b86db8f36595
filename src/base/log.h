/* SPDX-License-Identifier: Apache-2.0
 *
 * log.h - messages for the embedder's hook.  The library prints nothing by itself.
 */
#ifndef ASH_BASE_LOG_H
#define ASH_BASE_LOG_H

#include <ashlar.h>

enum log_level {
    LOG_ERROR = 0,
    LOG_WARN = 1,
    LOG_INFO = 2,
    LOG_DEBUG = 3
};
void log_hook(ash_log_fn fn, void *arg);
void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
