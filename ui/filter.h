/* SPDX-License-Identifier: Apache-2.0 */
/* filter.h - the one filter between untrusted text and the terminal.
 *
 * Nothing that a terminal obeys passes: C0 becomes ^X, and DEL, C1, bidirectional controls, other format and
 * private characters, unassigned code points and bytes that are no UTF-8 become U+FFFD. Joiners, variation
 * selectors and soft hyphens, which have no width and change nothing, are left out. Widths are utf8proc's.
 */
#ifndef LECTERN_UI_FILTER_H
#define LECTERN_UI_FILTER_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

/* What is shown in one place: a character with its marks, or the stand-in for a control. */
struct glyph {
    char text[24]; /* printable UTF-8, NUL-terminated; "" for what is left out */
    size_t n_text;
    size_t bytes;       /* consumed from the input, >= 1 */
    int width;          /* columns: 0 (nothing shown), 1, 2, or 4 for a tab */
    int newline;        /* LF, CR LF, U+2028, U+2029; text is then an arrow, width 1 */
    uint32_t codepoint; /* the first one; 0xFFFD when replaced */
};

/* The first glyph of text[0..n), n >= 1. */
void filter_glyph(const char *text, size_t n, struct glyph *out);

/* Columns of text[0..n) when shown on one line. */
size_t filter_width(const char *text, size_t n);

/* Appends the harmless form of text to `out`; LF and tab stay, CR LF becomes LF. For a stream: returns the
 * bytes consumed, less than n only when `final` is 0 and the text ends inside a character. */
size_t filter_text(struct buf *out, const char *text, size_t n, int final);

#endif
