/* SPDX-License-Identifier: Apache-2.0 */
/* err.h - errors are values: a code and one line of text for the person.
 *
 * Every fallible function returns 0 or the (non-zero) code that it also left in the caller's struct err. The
 * text is one line that names the file or thing concerned and the remedy. Nobody below app/ prints it.
 */
#ifndef LECTERN_ENGINE_BASE_ERR_H
#define LECTERN_ENGINE_BASE_ERR_H

#ifdef __cplusplus
extern "C" {
#endif

enum err_code {
    ERR_NONE = 0,
    ERR_IO,          /* the system refused to read or write */
    ERR_FORMAT,      /* bytes that do not mean what they should (damaged, truncated, hostile) */
    ERR_UNSUPPORTED, /* well-formed, but not handled here */
    ERR_LIMIT,       /* too long, too large, beyond what the model was trained for */
    ERR_MEMORY,      /* allocation failed */
    ERR_NOT_FOUND,
    ERR_BUSY,      /* somebody else holds the lock */
    ERR_CANCELLED, /* the person asked to stop; finished work is kept */
    ERR_USAGE,     /* a wrong argument */
    ERR_REBUILD,   /* the state cannot go there; it must be computed again from tokens */
    ERR_CHILD,     /* the ingest process died or broke its protocol */
};

struct err {
    enum err_code code;
    char text[500];
};

/* Fills `e` (may be NULL) with `code` and the formatted line; returns `code`. Control bytes are replaced by
 * '?'. */
int err_set(struct err *e, enum err_code code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* As err_set with ERR_IO, or ERR_NOT_FOUND for ENOENT; appends ": " and strerror(saved_errno). */
int err_errno(struct err *e, int saved_errno, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ERR_MEMORY, naming what was being made. */
int err_memory(struct err *e, const char *what);

/* Puts "prefix: " before the text already in `e`; returns e->code. */
int err_prefix(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A word for the code, for --json and logs ("io", "format", ...); static storage. */
const char *err_name(enum err_code code);

#ifdef __cplusplus
}
#endif
#endif
