/* SPDX-License-Identifier: Apache-2.0 */
/* err.c - fills struct err. The text always ends in one line, cut at the buffer with "..." if need be. */
#include "engine/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A file name may hold anything; the line must stay one line and must not drive a terminal. */
static void make_one_line(char *text)
{
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
}

static void fill(struct err *e, enum err_code code, const char *format, va_list args)
{
    if (!e)
        return;
    e->code = code;
    int n = vsnprintf(e->text, sizeof e->text, format, args);
    if (n < 0)
        snprintf(e->text, sizeof e->text, "%s error", err_name(code));
    else if ((size_t)n >= sizeof e->text)
        memcpy(e->text + sizeof e->text - 4, "...", 4);
    make_one_line(e->text);
}

int err_set(struct err *e, enum err_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fill(e, code, format, args);
    va_end(args);
    return code;
}

int err_errno(struct err *e, int saved_errno, const char *format, ...)
{
    enum err_code code = saved_errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    va_list args;
    va_start(args, format);
    fill(e, code, format, args);
    va_end(args);
    if (e) {
        size_t used = strlen(e->text);
        snprintf(e->text + used, sizeof e->text - used, ": %s", strerror(saved_errno));
    }
    return code;
}

int err_memory(struct err *e, const char *what)
{
    return err_set(e, ERR_MEMORY, "out of memory for %s; close other programs or use a shorter context",
                   what);
}

int err_prefix(struct err *e, const char *format, ...)
{
    if (!e)
        return ERR_IO;
    char old[sizeof e->text];
    memcpy(old, e->text, sizeof old);
    enum err_code code = e->code;
    va_list args;
    va_start(args, format);
    fill(e, code, format, args);
    va_end(args);
    size_t used = strlen(e->text);
    snprintf(e->text + used, sizeof e->text - used, ": %s", old);
    return code;
}

const char *err_name(enum err_code code)
{
    static const char *const names[] = {
        [ERR_NONE] = "ok",
        [ERR_IO] = "io",
        [ERR_FORMAT] = "format",
        [ERR_UNSUPPORTED] = "unsupported",
        [ERR_LIMIT] = "limit",
        [ERR_MEMORY] = "memory",
        [ERR_NOT_FOUND] = "not_found",
        [ERR_BUSY] = "busy",
        [ERR_CANCELLED] = "cancelled",
        [ERR_USAGE] = "usage",
        [ERR_REBUILD] = "rebuild",
        [ERR_CHILD] = "child",
    };
    return (size_t)code < sizeof names / sizeof names[0] ? names[code] : "unknown";
}
