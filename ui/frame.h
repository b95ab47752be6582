/* SPDX-License-Identifier: Apache-2.0 */
/* frame.h - one screenful in memory: a grid of cells that views write and draw.c carries to the terminal.
 *
 * frame_put is the only way in and runs every text through the filter, so nothing else can reach the screen.
 * A wide character fills its cell and leaves the next one with width 0; halves never stand alone.
 */
#ifndef LECTERN_UI_FRAME_H
#define LECTERN_UI_FRAME_H

#include <stddef.h>

enum frame_style {
    FRAME_PLAIN,
    FRAME_BAR,      /* title and status */
    FRAME_STRONG,   /* questions, headings */
    FRAME_FAINT,    /* notes, hints */
    FRAME_LINK,     /* citations */
    FRAME_SELECTED, /* the chosen row */
    FRAME_MARK,     /* quoted words in a source */
    FRAME_ALARM,    /* errors */
    FRAME_STYLES
};

struct frame_cell {
    char text[24]; /* "" in the right half of a wide character */
    unsigned char width;
    unsigned char style;
};

/* Zero-initialise to begin. */
struct frame {
    struct frame_cell *cells; /* [rows][columns] */
    int rows, columns;
    int cursor_row, cursor_column; /* -1: not shown */
};

/* Takes the size (>= 1 each) and clears; -1 when memory ran out. */
int frame_size(struct frame *f, int rows, int columns);
void frame_clear(struct frame *f);
void frame_free(struct frame *f);

/* Writes text[0..n) from `column`, never at or beyond column `limit`; returns the column after it. Line ends
 * show as arrows. A row outside the frame is ignored. */
int frame_put(struct frame *f, int row, int column, int limit, enum frame_style style, const char *text,
              size_t n);

/* The same for a NUL-terminated text up to the right edge. */
int frame_puts(struct frame *f, int row, int column, enum frame_style style, const char *text);

/* Gives a whole row of blanks the style. */
void frame_fill(struct frame *f, int row, enum frame_style style);

#endif
