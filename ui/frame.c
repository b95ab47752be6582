/* SPDX-License-Identifier: Apache-2.0 */
/* frame.c - see frame.h. */
#include "ui/frame.h"

#include <stdlib.h>
#include <string.h>

#include "ui/filter.h"

static struct frame_cell *cell_at(struct frame *f, int row, int column)
{
    return &f->cells[(size_t)row * (size_t)f->columns + (size_t)column];
}

static void blank(struct frame_cell *cell, enum frame_style style)
{
    memset(cell, 0, sizeof *cell); /* whole, so that rows compare with memcmp */
    cell->text[0] = ' ';
    cell->width = 1;
    cell->style = (unsigned char)style;
}

void frame_clear(struct frame *f)
{
    for (int row = 0; row < f->rows; row++)
        frame_fill(f, row, FRAME_PLAIN);
    f->cursor_row = f->cursor_column = -1;
}

int frame_size(struct frame *f, int rows, int columns)
{
    if (rows < 1 || columns < 1)
        return -1;
    if (rows != f->rows || columns != f->columns) {
        struct frame_cell *cells = calloc((size_t)rows * (size_t)columns, sizeof *cells);
        if (!cells)
            return -1;
        free(f->cells);
        *f = (struct frame){.cells = cells, .rows = rows, .columns = columns};
    }
    frame_clear(f);
    return 0;
}

void frame_free(struct frame *f)
{
    free(f->cells);
    memset(f, 0, sizeof *f);
}

/* Blanks what is left of a wide character when one of its halves is about to be overwritten. */
static void split(struct frame *f, int row, int column)
{
    struct frame_cell *cell = cell_at(f, row, column);
    if (cell->width == 0 && column > 0)
        blank(cell_at(f, row, column - 1), cell->style);
    if (cell->width == 2 && column + 1 < f->columns)
        blank(cell_at(f, row, column + 1), cell->style);
}

static void put_cell(struct frame *f, int row, int column, enum frame_style style, const char *text, size_t n,
                     int width)
{
    for (int i = 0; i < width; i++)
        split(f, row, column + i);
    struct frame_cell *cell = cell_at(f, row, column);
    blank(cell, style);
    memcpy(cell->text, text, n);
    cell->text[n] = 0;
    cell->width = (unsigned char)width;
    if (width == 2) {
        struct frame_cell *right = cell_at(f, row, column + 1);
        memset(right, 0, sizeof *right);
        right->style = (unsigned char)style;
    }
}

int frame_put(struct frame *f, int row, int column, int limit, enum frame_style style, const char *text,
              size_t n)
{
    struct glyph g;
    if (row < 0 || row >= f->rows || column < 0)
        return column;
    if (limit > f->columns)
        limit = f->columns;
    for (size_t at = 0; at < n; at += g.bytes) {
        filter_glyph(text + at, n - at, &g);
        if (column + g.width > limit)
            break;
        /* ^X and tabs are several plain characters, everything else is one cell */
        if (g.n_text == (size_t)g.width && g.width > 1)
            for (int i = 0; i < g.width; i++)
                put_cell(f, row, column + i, style, g.text + i, 1, 1);
        else if (g.width > 0)
            put_cell(f, row, column, style, g.text, g.n_text, g.width);
        column += g.width;
    }
    return column;
}

int frame_puts(struct frame *f, int row, int column, enum frame_style style, const char *text)
{
    return frame_put(f, row, column, f->columns, style, text ? text : "", text ? strlen(text) : 0);
}

void frame_fill(struct frame *f, int row, enum frame_style style)
{
    if (row < 0 || row >= f->rows)
        return;
    for (int column = 0; column < f->columns; column++)
        blank(cell_at(f, row, column), style);
}
