/* SPDX-License-Identifier: Apache-2.0 */
/* wrap.c - greedy filling, one glyph at a time.
 *
 * Invariant: line_first <= break_last <= break_next <= at. A break is known only when something that shows
 * stands before it on the line, so every round either places a glyph or emits a line that consumes bytes.
 */
#include "ui/wrap.h"

#include <stdlib.h>
#include <string.h>

#include "ui/filter.h"

struct filling {
    size_t line_first;
    size_t break_last, break_next; /* break_next == line_first: none known */
    size_t columns_used;           /* of the line so far */
    int shown;                     /* something other than spaces stands on the line */
    uint32_t before, before_that;  /* the last two code points placed */
    int before_width;
};

static int add_line(struct wrap *w, size_t first, size_t last)
{
    if (w->n == w->cap) {
        size_t cap = w->cap ? w->cap * 2 : 32;
        struct wrap_line *larger = realloc(w->lines, cap * sizeof *larger);
        if (!larger) {
            w->n = 0;
            return -1;
        }
        w->lines = larger;
        w->cap = cap;
    }
    w->lines[w->n++] = (struct wrap_line){first, last};
    return 0;
}

static void start_line(struct filling *f, size_t at)
{
    *f = (struct filling){.line_first = at, .break_last = at, .break_next = at};
}

/* Characters that must not begin a line. */
static int closes(uint32_t cp)
{
    static const uint32_t closing[] = {0x3001, 0x3002, 0x300B, 0x300D, 0x300F, 0x3011,
                                       0x3015, 0x30FB, 0x30FC, 0xFF01, 0xFF09, 0xFF0C,
                                       0xFF0E, 0xFF1A, 0xFF1B, 0xFF1F, 0xFF3D, 0xFF5D};
    for (size_t i = 0; i < sizeof closing / sizeof *closing; i++)
        if (closing[i] == cp)
            return 1;
    return 0;
}

static int is_word(uint32_t cp)
{
    return (cp >= '0' && cp <= '9') || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z') || cp >= 0xC0;
}

/* May a line end between what was placed last and this glyph? */
static int breaks_before(const struct filling *f, const struct glyph *g)
{
    if (!f->shown || f->before == ' ' || f->before == '\t')
        return 0; /* the space has noted its own break */
    if ((g->width == 2 || f->before_width == 2) && !closes(g->codepoint))
        return 1;
    int joins = f->before == '-' || f->before == '/' || f->before == 0x2013 || f->before == 0x2014;
    return joins && is_word(f->before_that) && is_word(g->codepoint);
}

/* A space that carries a mark shows something. */
static int is_blank(const struct glyph *g)
{
    return g->codepoint == '\t' || (g->codepoint == ' ' && g->n_text == 1);
}

static void place(struct filling *f, size_t at, const struct glyph *g)
{
    int space = is_blank(g);
    if (space && f->shown) {
        if (f->before != ' ' && f->before != '\t')
            f->break_last = at;
        f->break_next = at + g->bytes;
    }
    f->columns_used += (size_t)g->width;
    if (g->width == 0)
        return;
    if (!space)
        f->shown = 1;
    f->before_that = f->before;
    f->before = space || g->codepoint != ' ' ? g->codepoint : 0; /* 0: a space that carries a mark */
    f->before_width = g->width;
}

int wrap_text(struct wrap *w, const char *text, size_t n, int columns)
{
    struct filling f;
    struct glyph g;
    size_t room = columns > 0 ? (size_t)columns : 1;
    w->n = 0;
    start_line(&f, 0);
    for (size_t at = 0; at < n;) {
        filter_glyph(text + at, n - at, &g);
        int space = is_blank(&g);
        if (g.newline) {
            if (add_line(w, f.line_first, at))
                return -1;
            at += g.bytes;
            start_line(&f, at);
            continue;
        }
        if (breaks_before(&f, &g) && !space)
            f.break_last = f.break_next = at;
        if (f.columns_used + (size_t)g.width > room && at > f.line_first && !(space && f.shown)) {
            int known = f.break_next > f.line_first;
            size_t last = known ? f.break_last : at;
            at = known ? f.break_next : at;
            if (add_line(w, f.line_first, last))
                return -1;
            start_line(&f, at);
            continue;
        }
        place(&f, at, &g);
        at += g.bytes;
    }
    return f.line_first < n ? add_line(w, f.line_first, n) : 0;
}

void wrap_free(struct wrap *w)
{
    free(w->lines);
    memset(w, 0, sizeof *w);
}
