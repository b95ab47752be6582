/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_svg.c - two panels against the context, both axes logarithmic: ms of a decode step, and memory
 * taken. One line a setting; full attention with raw KV is dashed. */
#include "app/bench_cuda.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 560, HEIGHT = 400, LEFT = 62, RIGHT = 16, TOP = 40, BOTTOM = 46, SERIES = 8, LEGEND = 24 };

struct series {
    char name[48];
    int full;
};

struct axis {
    double lo, hi; /* of the data, whole decades or powers of two */
    double from, to;
};

static double place(const struct axis *a, double v)
{
    return a->from + (log(v) - log(a->lo)) / (log(a->hi) - log(a->lo)) * (a->to - a->from);
}

static double memory_of(const struct card_row *row)
{
    return row->memory / 1e9;
}

static double ms_of(const struct card_row *row)
{
    return row->ms;
}

struct panel {
    const char *title;
    double (*value)(const struct card_row *row);
};
static const struct panel panels[2] = {{"ms a token, decode", ms_of}, {"GB on the card", memory_of}};

static int belongs(const struct card_row *row)
{
    return !row->failed && !strcmp(row->work, "decode") && row->context && row->ms > 0 && row->memory > 0;
}

/* Settings with at least two contexts, in the order of the rows. */
static size_t find_series(const struct card_result *r, struct series s[SERIES])
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_rows && n < SERIES; i++) {
        const struct card_row *row = &r->rows[i];
        size_t points = 0, known = 0;
        for (size_t k = 0; k < n; k++)
            known += !strcmp(s[k].name, row->plan);
        for (size_t k = 0; k < r->n_rows; k++)
            points += belongs(&r->rows[k]) && !strcmp(r->rows[k].plan, row->plan);
        if (!belongs(row) || known || points < 2)
            continue;
        snprintf(s[n].name, sizeof s[n].name, "%s", row->plan);
        s[n++].full = !strcmp(row->kv, "raw") && !strcmp(row->heads, "all");
    }
    return n;
}

static void widen(struct axis *a, double v)
{
    if (v < a->lo)
        a->lo = v;
    if (v > a->hi)
        a->hi = v;
}

static void axis_to_powers(struct axis *a, double base)
{
    a->lo = pow(base, floor(log(a->lo) / log(base) + 1e-9));
    a->hi = pow(base, ceil(log(a->hi) / log(base) - 1e-9));
    if (!(a->hi > a->lo))
        a->hi = a->lo * base;
}

static void put_grid(const struct axis *x, const struct axis *y, struct buf *out)
{
    for (double v = x->lo; v <= x->hi * 1.001; v *= 4)
        buf_printf(out,
                   "<path class='g' d='M%.1f %.1fV%.1f'/><text x='%.1f' y='%.1f' text-anchor='middle'>%.0f%s"
                   "</text>\n",
                   place(x, v), y->from, y->to, place(x, v), y->from + 16,
                   v >= 1048576 ? v / 1048576 : v / 1024, v >= 1048576 ? "M" : "K");
    for (double v = y->lo; v <= y->hi * 1.001; v *= 2)
        buf_printf(out,
                   "<path class='g' d='M%.1f %.1fH%.1f'/><text x='%.1f' y='%.1f' text-anchor='end'>%g"
                   "</text>\n",
                   x->from, place(y, v), x->to, x->from - 6, place(y, v) + 4, v);
}

static const char *const colours[SERIES] = {"#666666", "#1b6ca8", "#999933", "#117733",
                                            "#aa4499", "#cc6677", "#882255", "#44aa99"};

static void put_line(const struct card_result *r, const struct series *s, size_t colour,
                     const struct panel *panel, const struct axis axes[2], struct buf *out)
{
    buf_printf(out, "<polyline fill='none' stroke='%s' stroke-width='2'%s points='", colours[colour],
               s->full ? " stroke-dasharray='6 4'" : "");
    for (size_t i = 0; i < r->n_rows; i++)
        if (belongs(&r->rows[i]) && !strcmp(r->rows[i].plan, s->name))
            buf_printf(out, "%.1f,%.1f ", place(&axes[0], (double)r->rows[i].context),
                       place(&axes[1], panel->value(&r->rows[i])));
    buf_puts(out, "'/>\n");
    for (size_t i = 0; i < r->n_rows; i++)
        if (belongs(&r->rows[i]) && !strcmp(r->rows[i].plan, s->name))
            buf_printf(out, "<circle r='3' fill='%s' cx='%.1f' cy='%.1f'/>\n", colours[colour],
                       place(&axes[0], (double)r->rows[i].context),
                       place(&axes[1], panel->value(&r->rows[i])));
}

static void put_panel(const struct card_result *r, const struct series *s, size_t n, int which,
                      struct buf *out)
{
    const struct panel *panel = &panels[which];
    double left = which * WIDTH;
    struct axis axes[2] = {{1e300, 0, left + LEFT, left + WIDTH - RIGHT}, {1e300, 0, HEIGHT - BOTTOM, TOP}};
    for (size_t i = 0; i < r->n_rows; i++)
        for (size_t k = 0; k < n; k++)
            if (belongs(&r->rows[i]) && !strcmp(r->rows[i].plan, s[k].name)) {
                widen(&axes[0], (double)r->rows[i].context);
                widen(&axes[1], panel->value(&r->rows[i]));
            }
    axis_to_powers(&axes[0], 4);
    axis_to_powers(&axes[1], 2);
    put_grid(&axes[0], &axes[1], out);
    buf_printf(out, "<text class='t' x='%.1f' y='%d'>%s</text>\n", axes[0].from, TOP - 14, panel->title);
    buf_printf(out, "<text x='%.1f' y='%d' text-anchor='middle'>tokens of context</text>\n",
               (axes[0].from + axes[0].to) / 2, HEIGHT - 8);
    for (size_t k = 0; k < n; k++)
        put_line(r, &s[k], k, panel, axes, out);
}

void card_svg(const struct card_result *r, const char *date, struct buf *out)
{
    struct series s[SERIES];
    size_t n = find_series(r, s);
    int height = HEIGHT + LEGEND * (int)((n + 1) / 2) + 30;
    if (!n)
        return; /* nothing to draw */
    buf_printf(out,
               "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' "
               "font-family='sans-serif' font-size='12'>\n<style>.g{stroke:#dddddd;fill:none}"
               ".t{font-size:15px;font-weight:bold}</style>\n<rect width='%d' height='%d' fill='white'/>\n",
               2 * WIDTH, height, 2 * WIDTH, height, 2 * WIDTH, height);
    for (int which = 0; which < 2; which++)
        put_panel(r, s, n, which, out);
    for (size_t k = 0; k < n; k++) {
        int x = LEFT + (int)(k % 2) * WIDTH, y = HEIGHT + 16 + LEGEND * (int)(k / 2);
        buf_printf(out,
                   "<path d='M%d %dh28' stroke='%s' stroke-width='2'%s/><text x='%d' y='%d'>%s%s</text>\n", x,
                   y - 4, colours[k], s[k].full ? " stroke-dasharray='6 4'" : "", x + 36, y, s[k].name,
                   s[k].full ? " (full attention)" : "");
    }
    buf_printf(out, "<text x='%d' y='%d'>%s, %s, %s, Lectern %s</text>\n</svg>\n", LEFT, height - 8,
               r->rows[0].shape, r->info.name, date, card_commit());
}
