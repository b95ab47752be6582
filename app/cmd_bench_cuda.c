/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_bench_cuda.c - `lectern bench cuda`: a card beside its own limits, row by row as they come; with --save
 * the rows also go to a CSV file and a drawing. */
#include "app/bench_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/commands.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "engine/base/file.h"

struct listener {
    char date[16];
    const char *folder, *shape; /* where to save, or NULL */
    int rc;                     /* of writing to stdout; the first failure stays */
    struct err e;
};

static int save_one(const char *folder, const char *name, const struct buf *text, struct err *e)
{
    char *path = path_join(folder, name);
    int rc = !path || text->failed ? err_memory(e, "a file") : file_write(path, text->data, text->len, e);
    free(path);
    return rc;
}

static int save(const char *folder, const struct card_result *r, const char *shape, const char *date,
                struct err *e)
{
    char name[80];
    struct buf csv = {0}, svg = {0};
    card_csv(r, date, &csv);
    card_svg(r, date, &svg);
    int rc = dir_make(folder, e);
    snprintf(name, sizeof name, "%s-%s.csv", date, shape);
    if (!rc)
        rc = save_one(folder, name, &csv, e);
    snprintf(name, sizeof name, "%s-%s.svg", date, shape);
    if (!rc && svg.len)
        rc = save_one(folder, name, &svg, e);
    buf_free(&csv);
    buf_free(&svg);
    return rc;
}

static void put(struct listener *l, struct buf *text)
{
    if (!l->rc && text->failed)
        l->rc = err_memory(&l->e, "a line");
    if (!l->rc)
        l->rc = output_bytes(text->data, text->len, &l->e);
    if (!l->rc)
        l->rc = output_flush(&l->e);
    buf_free(text);
}

static void on_limits(void *arg, const struct card_result *r)
{
    struct listener *l = arg;
    struct buf text = {0};
    card_text_head(r, l->date, &text);
    card_text_columns(&text);
    put(l, &text);
}

static void on_row(void *arg, const struct card_result *r, const struct card_row *row)
{
    struct listener *l = arg;
    struct buf text = {0};
    card_text_row(r, row, &text);
    put(l, &text);
    if (l->folder && !l->rc) /* at once: a run may be cut short */
        l->rc = save(l->folder, r, l->shape, l->date, &l->e);
}

static int list_plans(const struct card_options *o, struct err *e)
{
    size_t n;
    struct buf out = {0};
    const struct card_plan *plans = card_plans(&n);
    for (size_t i = 0; i < n; i++) {
        char name[48];
        int wanted = card_plan_wanted(&plans[i], o);
        card_plan_name(&plans[i], o->shape, name);
        buf_printf(&out, "%-36s about %3.0f s%s\n", name, plans[i].seconds,
                   wanted ? "" : "  (only when named in full, or with --minutes)");
    }
    int rc = out.failed ? err_memory(e, "the list") : output_bytes(out.data, out.len, e);
    buf_free(&out);
    return rc;
}

static int finish(const struct config *c, const struct card_result *r, struct listener *l, struct err *e)
{
    struct buf text = {0};
    if (c->others)
        card_text_others(r, &text);
    buf_printf(&text, "\n%zu rows in %.1f s\n", r->n_rows, r->seconds);
    put(l, &text);
    if (l->rc)
        *e = l->e;
    return l->rc;
}

int cmd_bench_cuda(const struct config *c, struct err *e)
{
    struct listener l = {0};
    time_t now = time(NULL);
    struct tm day;
    if (!gmtime_r(&now, &day) || !strftime(l.date, sizeof l.date, "%Y-%m-%d", &day))
        return err_set(e, ERR_IO, "the clock gives no date");
    struct card_options o = {.device = "cuda",
                             .rows = c->rows,
                             .shape = card_shape_find(c->shape ? c->shape : "llama-3-8b"),
                             .minutes = c->minutes ? 2 : 0,
                             .cancel = interrupt_watch()};
    if (!o.shape)
        return err_set(e, ERR_USAGE, "no shape is called %s", c->shape);
    if (c->rows && !strcmp(c->rows, "list")) {
        o.rows = NULL;
        return list_plans(&o, e);
    }
    l.folder = c->save;
    l.shape = o.shape->name;
    struct card_listener listener = {on_limits, on_row, &l};
    struct card_result r;
    struct err second;
    int rc = card_bench_run(&o, &listener, &r, e);
    if (!rc || r.n_rows) { /* what was measured is kept, whatever stopped the rest */
        int late = finish(c, &r, &l, rc ? &second : e);
        rc = rc ? rc : late;
    }
    card_result_fini(&r);
    return rc;
}
