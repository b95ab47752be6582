/* SPDX-License-Identifier: Apache-2.0 */
/* output.h - what the program writes: results on stdout, progress and errors on stderr.
 *
 * Invariant: text that we did not write ourselves (documents, answers, names, models' metadata) reaches a
 * terminal only through the filter of ui/filter.h. A pipe or file gets the bytes as they are. Every write is
 * checked; a reader that has gone (EPIPE) is told apart from a full disk by output_closed.
 */
#ifndef LECTERN_APP_OUTPUT_H
#define LECTERN_APP_OUTPUT_H

#include <jansson.h>
#include <stdint.h>

#include "app/config.h"
#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "engine/base/progress.h"

/* Writes to stdout (buffered by stdio). `text` is ours and may hold colour codes. */
int output_puts(const char *text, struct err *e);
int output_bytes(const void *bytes, size_t n, struct err *e);
int output_printf(struct err *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Text of others, whole characters: filtered when stdout is a terminal. */
int output_text(const char *text, size_t n, struct err *e);

/* Text of others that comes in pieces, which may end inside a character; zero-initialise to begin. Shown at
 * once (flushed). `final` for the last piece (n may be 0), which also frees it. */
struct output_stream {
    struct buf pending;
};
int output_stream(struct output_stream *s, const char *text, size_t n, int final, struct err *e);

/* Flushes stdout and reports what was lost. */
int output_flush(struct err *e);

/* Has the reader of stdout gone away? Then a failed write is no error worth a line. */
int output_closed(void);

/* One JSON value on stdout, indented, and a newline. Takes `value` over (NULL: out of memory). */
int output_json(json_t *value, struct err *e);

/* A JSON string of bytes that may not be UTF-8 (they become U+FFFD). NULL: out of memory. */
json_t *output_json_text(const char *text, size_t n);

/* "f3a9..." of n <= 32 bytes. */
void output_hex(const uint8_t *bytes, size_t n, char out[65]);

/* May stdout have colours (a terminal, no --no-color, no NO_COLOR, TERM not dumb)? */
int output_color(const struct config *c);

/* A line on stderr for the person, filtered on a terminal: "lectern: TEXT". Notices are dropped by --quiet.
 */
void output_error(const char *text);
void output_notice(const struct config *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The progress line on stderr: "reading  12,288 of 96,000 tokens  412 tokens/s  3:23 left". Redrawn in place,
 * at most ten times a second, on a terminal; a line every ten seconds otherwise; nothing with --quiet. */
struct progress_line {
    int on, terminal, shown;
    const char *unit; /* "tokens", borrowed */
    char what[40];
    double begun, drawn; /* clock_seconds */
    uint64_t first;      /* done when `what` began: not counted in the rate */
};
void progress_line_begin(struct progress_line *p, const struct config *c, const char *unit);
struct progress progress_line_port(struct progress_line *p); /* borrows p */
void progress_line_end(struct progress_line *p);             /* wipes the line; legal more than once */

#endif
