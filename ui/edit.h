/* SPDX-License-Identifier: Apache-2.0 */
/* edit.h - one line of input: UTF-8 text of any length, a cursor between characters, a history.
 *
 * The text is always valid UTF-8 without NUL (what is not becomes U+FFFD on the way in) and may hold line
 * ends: it is one scrolling line on the screen, with an arrow for each. Nothing is ever cut. The cursor
 * stands on a boundary of grapheme clusters. Knows nothing of keys or of the screen.
 */
#ifndef LECTERN_UI_EDIT_H
#define LECTERN_UI_EDIT_H

#include <stddef.h>

#include "engine/base/buf.h"

/* Zero-initialise to begin. */
struct edit {
    struct buf text;
    size_t cursor; /* byte */
    size_t first;  /* byte where the visible part begins */
    struct buf killed;
    char **history; /* oldest first */
    size_t n_history;
    size_t at_history; /* == n_history: the draft */
    char *draft;       /* what was being written while an older line is shown */
};

enum edit_command {
    EDIT_LEFT,
    EDIT_RIGHT,
    EDIT_WORD_LEFT,
    EDIT_WORD_RIGHT,
    EDIT_HOME,
    EDIT_END,
    EDIT_BACKSPACE,
    EDIT_DELETE,
    EDIT_KILL_TO_END,
    EDIT_KILL_TO_START,
    EDIT_KILL_WORD, /* before the cursor */
    EDIT_YANK,      /* puts back what was killed last */
    EDIT_OLDER,
    EDIT_NEWER,
};

void edit_free(struct edit *e);

/* All return 0, or -1 when memory ran out (the text is then unchanged). */
int edit_insert(struct edit *e, const char *bytes, size_t n); /* CR LF and CR become LF */
int edit_set(struct edit *e, const char *text);               /* the cursor goes to the end */
int edit_do(struct edit *e, enum edit_command command);

/* Adds a line to the history unless it is empty or equal to the newest; the oldest go beyond 500. */
int edit_remember(struct edit *e, const char *text);

/* Text, NUL-terminated, never NULL; valid until the next change. */
const char *edit_text(const struct edit *e);

/* 1 when there is nothing but white space. */
int edit_is_blank(const struct edit *e);

void edit_clear(struct edit *e);

/* Chooses the part that is visible in `columns` (>= 1) so that the cursor is inside, moving as little as
 * possible: *first is its first byte, *cursor_column where the cursor stands in it. */
void edit_view(struct edit *e, int columns, size_t *first, int *cursor_column);

#endif
