/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_measure.c - see bench_cuda_measure.h: what the measures share, and the card's own limits. */
#include "app/bench_cuda_measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "ui/human.h"

/* ---- samples ---------------------------------------------------------------------------------------------
 */

void card_sample(struct card_samples *s, double ms)
{
    if (s->n < CARD_SAMPLES)
        s->ms[s->n++] = ms;
}

static int by_size(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

void card_row_samples(struct card_row *row, struct card_samples *s)
{
    row->n = s->n;
    if (!s->n)
        return;
    qsort(s->ms, s->n, sizeof s->ms[0], by_size);
    row->ms = s->n % 2 ? s->ms[s->n / 2] : (s->ms[s->n / 2 - 1] + s->ms[s->n / 2]) / 2;
    row->low = s->ms[s->n / 10];
    row->high = s->ms[s->n - 1 - s->n / 10];
}

/* ---- rows ------------------------------------------------------------------------------------------------
 */

double card_plan_share(const struct card_plan *p, const struct card_shape *s)
{
    return p->share < 0 ? -p->share * s->share : p->share;
}

static void copy(char *to, size_t n, const char *from)
{
    size_t some = from ? strnlen(from, n - 1) : 0;
    memcpy(to, from ? from : "", some);
    to[some] = 0;
}

void card_row_begin(struct card_row *row, const struct card_run *run, const struct card_plan *p,
                    uint64_t context)
{
    memset(row, 0, sizeof *row);
    double share = card_plan_share(p, run->shape);
    copy(row->work, sizeof row->work, card_work_name(p->work));
    copy(row->shape, sizeof row->shape, run->shape->name);
    copy(row->weights, sizeof row->weights, p->weights);
    copy(row->kv, sizeof row->kv, kv_format_name(p->kv));
    if (p->kv)
        copy(row->heads, sizeof row->heads,
             share >= 1      ? "all"
             : share >= 0.5  ? "half"
             : share >= 0.25 ? "quarter"
                             : "eighth");
    card_plan_name(p, run->shape, row->plan);
    row->context = context;
    row->T = 1;
}

void card_row_fail(struct card_run *run, struct card_row *row, const struct err *e)
{
    row->failed = 1;
    copy(row->note, sizeof row->note, e->text);
    run->emit(run, row);
}

uint64_t card_longest(struct card_run *run, const struct card_plan *p, const struct card_model *m,
                      uint64_t weights, uint64_t extra)
{
    struct device_info info;
    uint64_t longest = 0, reserve = (uint64_t)512 << 20;
    run->d->ops->info(run->d, &info);
    for (int i = 0; i < CARD_CONTEXTS && p->contexts[i]; i++) {
        uint64_t kv = card_kv_bytes(m, p->kv, p->contexts[i] + 1024);
        uint64_t need = weights + kv + extra + reserve;
        if (!info.memory_free || need <= info.memory_free) {
            longest = p->contexts[i];
            continue;
        }
        struct card_row row;
        struct err e;
        card_row_begin(&row, run, p, p->contexts[i]);
        row.memory = (double)need;
        err_set(&e, ERR_MEMORY, "does not fit: weights %.1f GB, KV %.1f GB, of %.1f GB free",
                (double)weights / 1e9, (double)kv / 1e9, (double)info.memory_free / 1e9);
        card_row_fail(run, &row, &e);
    }
    return longest;
}

/* ---- timing ----------------------------------------------------------------------------------------------
 */

int card_capture(struct card_model *m, struct card_capture what, struct device_graph **out, struct err *e)
{
    *out = NULL;
    int rc = m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
    if (!rc)
        rc = m->d->ops->capture_begin(m->d, e);
    if (rc)
        return rc;
    what.queue(m, what.arg);
    return m->d->ops->capture_end(m->d, out, e);
}

struct pair {
    struct device_event *from, *to;
};

static int time_pair(struct card_model *m, struct device_graph *g, const struct pair *pair,
                     struct card_samples *out, struct err *e)
{
    const struct device_ops *ops = m->d->ops;
    ops->event_record(m->d, DEVICE_COMPUTE, pair->from);
    ops->graph_launch(m->d, g);
    ops->event_record(m->d, DEVICE_COMPUTE, pair->to);
    int rc = ops->event_sync(m->d, pair->to, e);
    if (!rc)
        rc = ops->sync(m->d, DEVICE_COMPUTE, e);
    if (!rc)
        card_sample(out, ops->event_ms(m->d, pair->from, pair->to));
    return rc;
}

int card_time_graph(struct card_model *m, struct device_graph *g, uint32_t warm, uint32_t n,
                    struct card_samples *out, struct err *e)
{
    const struct device_ops *ops = m->d->ops;
    struct pair pair = {0};
    int rc = ops->event_create(m->d, &pair.from, e);
    if (!rc && (rc = ops->event_create(m->d, &pair.to, e)) != 0)
        ops->event_free(m->d, pair.from);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < warm; i++)
        ops->graph_launch(m->d, g);
    rc = ops->sync(m->d, DEVICE_COMPUTE, e);
    for (uint32_t i = 0; i < n && !rc; i++)
        rc = time_pair(m, g, &pair, out, e);
    ops->event_free(m->d, pair.to);
    ops->event_free(m->d, pair.from);
    return rc;
}

int card_time_steps(struct card_model *m, struct device_graph *g, uint64_t position, uint32_t T,
                    struct card_samples *out, struct err *e)
{
    const struct device_ops *ops = m->d->ops;
    uint32_t per_page = KV_PAGE_TOKENS / T, warm = 4;
    int rc = 0;
    for (uint32_t i = 0; i < warm + per_page && !rc; i++) {
        double begun = clock_seconds();
        uint32_t step = i < warm ? i : i - warm;
        m->step_host->position = position + step * T;
        for (uint32_t t = 0; t < T; t++)
            m->step_host->ids[t] = (m->best_host[t] + t) % (uint32_t)m->s->V;
        ops->graph_launch(m->d, g);
        rc = ops->sync(m->d, DEVICE_COMPUTE, e);
        if (i >= warm)
            card_sample(out, (clock_seconds() - begun) * 1e3);
    }
    return rc;
}

/* ---- the card itself -------------------------------------------------------------------------------------
 */

int card_measure_limits(struct device *d, double limits[CARD_LIMIT_KINDS], struct err *e)
{
    int rc = 0;
    struct err second;
    for (int i = 0; i < CARD_LIMIT_KINDS; i++)
        if (d->ops->measure(d, (enum device_limit)i, &limits[i], rc ? &second : e)) {
            limits[i] = 0;
            rc = rc ? rc : (int)(e ? e->code : ERR_IO);
        }
    return rc;
}

int card_measure(struct card_run *run, const struct card_plan *p, struct err *e)
{
    static int (*const measures[CARD_WORKS])(struct card_run *, const struct card_plan *, struct err *) = {
        [CARD_DECODE] = card_measure_decode,
        [CARD_ATTENTION] = card_measure_attention,
        [CARD_LINEAR] = card_measure_linear,
        [CARD_PREFILL] = card_measure_prefill,
        [CARD_PREFILL_ATTENTION] = card_measure_prefill_attention,
        [CARD_CAPACITY] = card_measure_capacity,
        [CARD_VERIFY] = card_measure_verify,
        [CARD_SELECTION] = card_measure_selection,
        [CARD_RESTORE] = card_measure_restore,
        [CARD_ENGINE] = card_measure_engine,
    };
    const struct device_ops *ops = run->d->ops;
    if (!measures[p->work])
        return err_set(e, ERR_UNSUPPORTED, "nothing measures that");
    int needs_weights = *p->weights != 0,
        reads = p->work == CARD_PREFILL || p->work == CARD_CAPACITY || p->work >= CARD_RESTORE;
    int steps = p->work != CARD_PREFILL && p->work != CARD_PREFILL_ATTENTION && p->work != CARD_LINEAR;
    if ((needs_weights && (!ops->linear || !ops->weight_random)) || (steps && !ops->attend_decode) ||
        ((reads || p->work == CARD_PREFILL_ATTENTION) && !ops->attend_prefill) ||
        (p->work == CARD_SELECTION && !ops->select))
        return err_set(e, ERR_UNSUPPORTED, "this device lacks an op for it");
    return measures[p->work](run, p, e);
}
