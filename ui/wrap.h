/* SPDX-License-Identifier: Apache-2.0 */
/* wrap.h - breaks text into lines of a given width; lines are byte ranges of the text, nothing is copied.
 *
 * Breaks come after spaces, after hyphens and slashes inside words, and on either side of wide characters
 * (but not before closing punctuation); a longer word is broken where it must be. Every byte that shows
 * something is in exactly one line; only spaces at a break and line ends are in none.
 */
#ifndef LECTERN_UI_WRAP_H
#define LECTERN_UI_WRAP_H

#include <stddef.h>

struct wrap_line {
    size_t first, last; /* bytes, half open */
};

/* Zero-initialise to begin. */
struct wrap {
    struct wrap_line *lines;
    size_t n, cap;
};

/* Replaces the lines by those of text[0..n) at `columns` >= 1. An empty text has no line; a line end at the
 * very end adds none. Returns 0, or -1 when memory ran out (then there are no lines). */
int wrap_text(struct wrap *w, const char *text, size_t n, int columns);

void wrap_free(struct wrap *w);

#endif
