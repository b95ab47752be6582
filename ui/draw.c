/* SPDX-License-Identifier: Apache-2.0 */
/* draw.c - from the grid of cells to curses; the only place where something is written to the terminal.
 *
 * Rows that did not change since the last call are not touched. A character whose width the C library does
 * not agree on is drawn as U+FFFD, so that columns stay where the frame put them.
 */
#include <curses.h>
#include <string.h>
#include <wchar.h>

#include "ui/screen.h"

enum { PAIR_LINK = 1, PAIR_MARK, PAIR_ALARM, PAIR_STRONG };

void draw_start(int colours)
{
    if (!colours)
        return;
    init_pair(PAIR_LINK, COLOR_CYAN, -1);
    init_pair(PAIR_MARK, COLOR_BLACK, COLOR_YELLOW);
    init_pair(PAIR_ALARM, COLOR_RED, -1);
    init_pair(PAIR_STRONG, COLOR_GREEN, -1);
}

static attr_t attributes(int style, int colours, short *pair)
{
    *pair = 0;
    switch ((enum frame_style)style) {
    case FRAME_BAR:
    case FRAME_SELECTED:
        return A_REVERSE;
    case FRAME_STRONG:
        *pair = colours ? PAIR_STRONG : 0;
        return A_BOLD;
    case FRAME_FAINT:
        return A_DIM;
    case FRAME_LINK:
        *pair = colours ? PAIR_LINK : 0;
        return colours ? A_NORMAL : A_UNDERLINE;
    case FRAME_MARK:
        *pair = colours ? PAIR_MARK : 0;
        return colours ? A_NORMAL : A_REVERSE;
    case FRAME_ALARM:
        *pair = colours ? PAIR_ALARM : 0;
        return A_BOLD;
    case FRAME_PLAIN:
    case FRAME_STYLES:
        break;
    }
    return A_NORMAL;
}

/* The cell's text as wide characters, or U+FFFD. */
static void widen(const struct frame_cell *cell, wchar_t out[CCHARW_MAX + 1])
{
    mbstate_t state = {0};
    const char *at = cell->text;
    size_t n = mbsrtowcs(out, &at, CCHARW_MAX, &state);
    if (n == (size_t)-1 || n == 0 || wcwidth(out[0]) != cell->width) {
        out[0] = cell->text[1] ? 0xFFFD : ' ';
        n = 1;
    }
    out[n] = 0;
}

static void draw_row(const struct frame *f, int row, int colours)
{
    const struct frame_cell *cells = f->cells + (size_t)row * (size_t)f->columns;
    move(row, 0);
    clrtoeol();
    for (int column = 0; column < f->columns; column++) {
        const struct frame_cell *cell = &cells[column];
        wchar_t wide[CCHARW_MAX + 1];
        cchar_t c;
        short pair;
        if (cell->width == 0)
            continue;
        attr_t attr = attributes(cell->style, colours, &pair);
        widen(cell, wide);
        if (setcchar(&c, wide, attr, pair, NULL) != OK)
            continue;
        mvadd_wch(row, column,
                  &c); /* fails only past the last corner, where the cell is drawn all the same */
    }
}

int draw_frame(struct screen *s, const struct frame *f)
{
    struct frame *shown = screen_shown(s);
    int rows, columns;
    size_t row_bytes = (size_t)f->columns * sizeof *f->cells;
    screen_size(s, &rows, &columns);
    int all = shown->rows != f->rows || shown->columns != f->columns;
    if (all && frame_size(shown, f->rows, f->columns))
        return -1;
    if (all)
        erase();
    for (int row = 0; row < f->rows && row < rows; row++) {
        const struct frame_cell *now = f->cells + (size_t)row * (size_t)f->columns;
        struct frame_cell *before = shown->cells + (size_t)row * (size_t)f->columns;
        if (!all && memcmp(now, before, row_bytes) == 0)
            continue;
        memcpy(before, now, row_bytes);
        draw_row(f, row, screen_colours(s));
    }
    if (f->cursor_row >= 0 && f->cursor_row < rows && f->cursor_column < columns) {
        curs_set(1);
        move(f->cursor_row, f->cursor_column);
    } else {
        curs_set(0);
    }
    refresh();
    return 0;
}
