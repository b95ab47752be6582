/* SPDX-License-Identifier: Apache-2.0 */
/* vt.c - see vt.h. Invariant: 0 <= row < rows, 0 <= column <= columns (== columns: a wrap is pending). */
#include "tests/support/vt.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum { PARAMETERS = 16, MODES = 32 };

struct cell {
    char text[24];
    int marked;
};

struct vt {
    struct cell *cells;
    int rows, columns, row, column, top, bottom;
    int saved_row, saved_column;
    int reverse, colour, underline, ever_coloured, unknown;
    int modes[MODES], n_modes;
    enum { GROUND, ESCAPE, CSI, OSC, OSC_ESCAPE, CHARSET } state;
    int parameters[PARAMETERS], n_parameters, private, odd;
    unsigned char partial[4];
    size_t n_partial, want;
    char last[8]; /* the character that REP repeats */
    char *line;
};

static struct cell *at(struct vt *vt, int row, int column)
{
    return &vt->cells[row * vt->columns + column];
}

static void blank(struct vt *vt, int row, int from, int to)
{
    for (int c = from; c < to && c < vt->columns; c++) {
        memset(at(vt, row, c), 0, sizeof(struct cell));
        at(vt, row, c)->text[0] = ' ';
        at(vt, row, c)->marked = vt->reverse;
    }
}

struct vt *vt_create(int rows, int columns)
{
    struct vt *vt = calloc(1, sizeof *vt);
    if (vt)
        vt_resize(vt, rows, columns);
    if (vt && !vt->cells) {
        free(vt);
        vt = NULL;
    }
    return vt;
}

void vt_free(struct vt *vt)
{
    if (!vt)
        return;
    free(vt->cells);
    free(vt->line);
    free(vt);
}

void vt_resize(struct vt *vt, int rows, int columns)
{
    struct vt old = *vt;
    vt->cells = calloc((size_t)rows * (size_t)columns, sizeof *vt->cells);
    vt->rows = rows;
    vt->columns = columns;
    vt->top = 0;
    vt->bottom = rows - 1;
    vt->reverse = 0;
    for (int r = 0; vt->cells && r < rows; r++)
        blank(vt, r, 0, columns);
    for (int r = 0; old.cells && vt->cells && r < rows && r < old.rows; r++)
        for (int c = 0; c < columns && c < old.columns; c++)
            *at(vt, r, c) = *at(&old, r, c);
    if (vt->row >= rows)
        vt->row = rows - 1;
    if (vt->column > columns)
        vt->column = columns;
    vt->reverse = old.reverse;
    free(old.cells);
    free(vt->line);
    vt->line = malloc((size_t)columns * 24 + 1);
}

static void scroll(struct vt *vt, int top, int bottom, int by) /* by > 0: up */
{
    size_t row = (size_t)vt->columns * sizeof(struct cell);
    for (; by > 0; by--) {
        memmove(at(vt, top, 0), at(vt, top, 0) + vt->columns, row * (size_t)(bottom - top));
        blank(vt, bottom, 0, vt->columns);
    }
    for (; by < 0; by++) {
        memmove(at(vt, top, 0) + vt->columns, at(vt, top, 0), row * (size_t)(bottom - top));
        blank(vt, top, 0, vt->columns);
    }
}

static void line_feed(struct vt *vt)
{
    if (vt->row == vt->bottom)
        scroll(vt, vt->top, vt->bottom, 1);
    else if (vt->row < vt->rows - 1)
        vt->row++;
}

static void put(struct vt *vt, const char *bytes, size_t n)
{
    utf8proc_int32_t cp;
    utf8proc_iterate((const utf8proc_uint8_t *)bytes, (utf8proc_ssize_t)n, &cp);
    int width = cp < 0x80 ? 1 : utf8proc_charwidth(cp);
    if (width == 0) {
        int c = vt->column - 1;
        while (c > 0 && !at(vt, vt->row, c)->text[0])
            c--;
        struct cell *cell = c >= 0 ? at(vt, vt->row, c) : NULL;
        if (cell && strlen(cell->text) + n < sizeof cell->text)
            strncat(cell->text, bytes, n);
        return;
    }
    if (vt->column + width > vt->columns) {
        vt->column = 0;
        line_feed(vt);
    }
    for (int i = 0; i < width; i++) {
        struct cell *cell = at(vt, vt->row, vt->column + i);
        memset(cell, 0, sizeof *cell);
        cell->marked = vt->reverse || vt->colour || vt->underline;
        if (i == 0)
            memcpy(cell->text, bytes, n);
    }
    vt->column += width;
    memset(vt->last, 0, sizeof vt->last);
    memcpy(vt->last, bytes, n);
}

static int parameter(const struct vt *vt, int index, int otherwise)
{
    return index < vt->n_parameters && vt->parameters[index] > 0 ? vt->parameters[index] : otherwise;
}

static void attributes(struct vt *vt)
{
    for (int i = 0; i < (vt->n_parameters ? vt->n_parameters : 1); i++) {
        int p = i < vt->n_parameters ? vt->parameters[i] : 0;
        if (p == 0)
            vt->reverse = vt->colour = vt->underline = 0;
        else if (p == 7 || p == 27)
            vt->reverse = p == 7;
        else if (p == 4 || p == 24)
            vt->underline = p == 4;
        else if ((p >= 30 && p <= 38) || (p >= 40 && p <= 48) || (p >= 90 && p <= 107))
            vt->colour = vt->ever_coloured = 1;
        else if (p == 39 || p == 49)
            vt->colour = 0;
    }
}

static void set_mode(struct vt *vt, int on)
{
    for (int i = 0; vt->private && i < vt->n_parameters; i++) {
        int k = 0;
        while (k < vt->n_modes && vt->modes[k] != vt->parameters[i])
            k++;
        if (on && k == vt->n_modes && k < MODES)
            vt->modes[vt->n_modes++] = vt->parameters[i];
        else if (!on && k < vt->n_modes)
            vt->modes[k] = vt->modes[--vt->n_modes];
    }
}

static void clamp(struct vt *vt)
{
    vt->row = vt->row < 0 ? 0 : vt->row >= vt->rows ? vt->rows - 1 : vt->row;
    vt->column = vt->column < 0 ? 0 : vt->column >= vt->columns ? vt->columns - 1 : vt->column;
}

/* Moves cells right (n > 0) or left from the cursor. */
static void shift(struct vt *vt, int n)
{
    for (int c = vt->columns - 1; n > 0 && c >= vt->column + n; c--)
        *at(vt, vt->row, c) = *at(vt, vt->row, c - n);
    for (int c = vt->column; n < 0 && c < vt->columns + n; c++)
        *at(vt, vt->row, c) = *at(vt, vt->row, c - n);
    if (n > 0)
        blank(vt, vt->row, vt->column, vt->column + n);
    else
        blank(vt, vt->row, vt->columns + n > vt->column ? vt->columns + n : vt->column, vt->columns);
}

static void erase(struct vt *vt, int screen, int how)
{
    int column = vt->column < vt->columns ? vt->column : vt->columns - 1;
    blank(vt, vt->row, how == 0 ? column : 0, how == 1 ? column + 1 : vt->columns);
    for (int r = 0; screen && r < vt->rows; r++)
        if ((how != 1 && r > vt->row) || (how != 0 && r < vt->row))
            blank(vt, r, 0, vt->columns);
}

static void csi(struct vt *vt, char final)
{
    int n = parameter(vt, 0, 1);
    if (final != 'm' && final != 'b' && vt->column == vt->columns && final != 'h' && final != 'l')
        vt->column = vt->columns - 1;
    switch (final) {
    case 'A':
        vt->row -= n;
        break;
    case 'B':
        vt->row += n;
        break;
    case 'C':
        vt->column += n;
        break;
    case 'D':
        vt->column -= n;
        break;
    case 'G':
        vt->column = n - 1;
        break;
    case 'd':
        vt->row = n - 1;
        break;
    case 'H':
    case 'f':
        vt->row = n - 1;
        vt->column = parameter(vt, 1, 1) - 1;
        break;
    case 'J':
        erase(vt, 1, parameter(vt, 0, 0));
        break;
    case 'K':
        erase(vt, 0, parameter(vt, 0, 0));
        break;
    case 'X':
        blank(vt, vt->row, vt->column, vt->column + n);
        break;
    case '@':
        shift(vt, n);
        break;
    case 'P':
        shift(vt, -n);
        break;
    case 'L':
        scroll(vt, vt->row, vt->bottom, -n);
        break;
    case 'M':
        scroll(vt, vt->row, vt->bottom, n);
        break;
    case 'S':
        scroll(vt, vt->top, vt->bottom, n);
        break;
    case 'T':
        scroll(vt, vt->top, vt->bottom, -n);
        break;
    case 'b':
        for (int i = 0; i < n; i++)
            put(vt, vt->last, strlen(vt->last));
        return;
    case 'r':
        vt->top = n - 1;
        vt->bottom = parameter(vt, 1, vt->rows) - 1;
        vt->row = vt->column = 0;
        break;
    case 'm':
        attributes(vt);
        return;
    case 'h':
        set_mode(vt, 1);
        return;
    case 'l':
        set_mode(vt, 0);
        return;
    case 't':
        return; /* window titles and sizes */
    default:
        vt->unknown++;
        return;
    }
    clamp(vt);
}

static void csi_byte(struct vt *vt, char c)
{
    if (c >= '0' && c <= '9') {
        if (!vt->n_parameters)
            vt->n_parameters = 1;
        int *p = &vt->parameters[vt->n_parameters - 1];
        *p = *p < 100000 ? *p * 10 + (c - '0') : *p;
    } else if (c == ';') {
        if (!vt->n_parameters)
            vt->n_parameters = 1;
        if (vt->n_parameters < PARAMETERS)
            vt->parameters[vt->n_parameters++] = 0;
    } else if (c == '?') {
        vt->private = 1;
    } else if (c >= 0x40 && c <= 0x7E) {
        vt->state = GROUND;
        if (!vt->odd)
            csi(vt, c);
    } else {
        vt->odd = 1; /* '>' and other forms that change nothing on the screen */
    }
}

static void escape_byte(struct vt *vt, char c)
{
    vt->state = GROUND;
    switch (c) {
    case '[':
        vt->state = CSI;
        memset(vt->parameters, 0, sizeof vt->parameters);
        vt->n_parameters = vt->private = vt->odd = 0;
        break;
    case ']':
        vt->state = OSC;
        break;
    case '(':
    case ')':
        vt->state = CHARSET;
        break;
    case '7':
        vt->saved_row = vt->row;
        vt->saved_column = vt->column;
        break;
    case '8':
        vt->row = vt->saved_row;
        vt->column = vt->saved_column;
        clamp(vt);
        break;
    case 'M':
        if (vt->row == vt->top)
            scroll(vt, vt->top, vt->bottom, -1);
        else if (vt->row > 0)
            vt->row--;
        break;
    case '=':
    case '>':
    case 'c':
        break;
    default:
        vt->unknown++;
    }
}

static void ground_byte(struct vt *vt, unsigned char c)
{
    if (vt->want) {
        vt->partial[vt->n_partial++] = c;
        if (--vt->want == 0)
            put(vt, (const char *)vt->partial, vt->n_partial);
    } else if (c >= 0xC2) {
        vt->partial[0] = c;
        vt->n_partial = 1;
        vt->want = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
    } else if (c >= 0x20 && c < 0x7F) {
        char byte = (char)c;
        put(vt, &byte, 1);
    } else if (c == 27) {
        vt->state = ESCAPE;
    } else if (c == '\r') {
        vt->column = 0;
    } else if (c == '\n') {
        line_feed(vt);
    } else if (c == '\b') {
        vt->column -= vt->column > 0;
    } else if (c == '\t') {
        vt->column = (vt->column / 8 + 1) * 8;
        clamp(vt);
    } else if (c != 7 && c != 14 && c != 15) {
        vt->unknown++;
    }
}

void vt_feed(struct vt *vt, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        switch (vt->state) {
        case GROUND:
            ground_byte(vt, (unsigned char)bytes[i]);
            break;
        case ESCAPE:
            escape_byte(vt, bytes[i]);
            break;
        case CSI:
            csi_byte(vt, bytes[i]);
            break;
        case OSC:
            vt->state = bytes[i] == 7 ? GROUND : bytes[i] == 27 ? OSC_ESCAPE : OSC;
            break;
        case OSC_ESCAPE:
        case CHARSET:
            vt->state = GROUND;
            break;
        }
    }
}

int vt_rows(const struct vt *vt)
{
    return vt->rows;
}

const char *vt_row(struct vt *vt, int row)
{
    size_t n = 0;
    for (int c = 0; c < vt->columns; c++) {
        size_t k = strlen(at(vt, row, c)->text);
        memcpy(vt->line + n, at(vt, row, c)->text, k);
        n += k;
    }
    while (n && vt->line[n - 1] == ' ')
        n--;
    vt->line[n] = 0;
    return vt->line;
}

int vt_find(struct vt *vt, int from, const char *text)
{
    for (int r = from; r < vt->rows; r++)
        if (strstr(vt_row(vt, r), text))
            return r;
    return -1;
}

int vt_marked(const struct vt *vt, int row, int column)
{
    return vt->cells[row * vt->columns + column].marked;
}

int vt_cursor_row(const struct vt *vt)
{
    return vt->row;
}

int vt_cursor_column(const struct vt *vt)
{
    return vt->column;
}

int vt_cursor_shown(const struct vt *vt)
{
    return vt_mode(vt, 25);
}

int vt_coloured(const struct vt *vt)
{
    return vt->ever_coloured;
}

int vt_mode(const struct vt *vt, int number)
{
    for (int i = 0; i < vt->n_modes; i++)
        if (vt->modes[i] == number)
            return 1;
    return 0;
}

int vt_unknown(const struct vt *vt)
{
    return vt->unknown;
}
