/* SPDX-License-Identifier: Apache-2.0 */
/* buf.h - a growable byte buffer that is always NUL-terminated, so that it doubles as a string. */
#ifndef LECTERN_ENGINE_BASE_BUF_H
#define LECTERN_ENGINE_BASE_BUF_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Zero-initialise to begin. `data` is NULL only while nothing was ever added. `failed` is sticky: after a
 * failed allocation every further call is a no-op, so a writer may check once at the end. */
struct buf {
    char *data;
    size_t len; /* bytes, without the NUL */
    size_t cap;
    int failed;
};

void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_puts(struct buf *b, const char *text);
void buf_putc(struct buf *b, int c);
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Room for at least n more bytes (plus NUL); returns where they go, or NULL. Commit with b->len += written.
 */
char *buf_reserve(struct buf *b, size_t n);

/* Forgets the content, keeps the memory. */
void buf_clear(struct buf *b);

/* Hands the memory (never NULL unless failed) to the caller, who frees it; the buffer is empty again. */
char *buf_take(struct buf *b);

void buf_free(struct buf *b);

#ifdef __cplusplus
}
#endif
#endif
