/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_decode.c - measures of a decode step: whole, attention alone, matrices alone, several tokens in
 * a pass, selected pages. One captured graph serves every context, as in an answer. */
#include "app/bench_cuda_measure.h"

#include <stdio.h>
#include <string.h>

/* ---- whole steps -----------------------------------------------------------------------------------------
 */

static void queue_step(struct card_model *m, const void *arg)
{
    card_queue_step(m, arg);
}

/* Bytes of a step: matrices, and the caches once whatever T. */
static double step_bytes(const struct card_model *m, uint64_t context)
{
    return (double)(card_matrix_bytes(m) + card_past_bytes(m, context));
}

/* A model with the plan's weights and a past as long as the longest of its contexts that fits. */
static int open_model(struct card_run *run, const struct card_plan *p, struct card_model *m, size_t T,
                      size_t budget, uint64_t *longest, struct err *e)
{
    int has_weights = *p->weights != 0;
    card_model_init(m, run->d, run->shape, card_plan_share(p, run->shape), 0);
    enum device_weight_format format = card_weight_format(run->shape, p->weights);
    uint64_t weights = has_weights ? card_weights_bytes(run->shape, format) : 0;
    *longest = card_longest(run, p, m, weights, (uint64_t)256 << 20);
    if (!*longest)
        return 0;
    int rc = has_weights ? card_model_weights(m, format, e) : 0;
    if (!rc)
        rc = card_model_kv(m, p->kv, *longest + 1024, budget ? CARD_PAST_VARIED : CARD_PAST, e);
    if (!rc)
        rc = card_model_room(m, T, budget, e);
    return rc;
}

static int one_context(struct card_run *run, const struct card_plan *p, struct card_model *m,
                       struct device_graph *g, const struct card_step *step, uint64_t context,
                       struct card_row *row, struct err *e)
{
    struct card_samples wall = {0}, device = {0};
    card_row_begin(row, run, p, context);
    row->T = (uint32_t)step->T;
    row->memory = card_memory_at(m, context);
    int rc = card_time_steps(m, g, context, row->T, &wall, e);
    m->step_host->position = context;
    if (!rc)
        rc = card_time_graph(m, g, 0, 8, &device, e);
    if (rc)
        return rc;
    struct card_row d = {0};
    card_row_samples(&d, &device);
    card_row_samples(row, &wall);
    row->device_ms = d.ms;
    row->bytes = step_bytes(m, context);
    row->limit = run->limits[DEVICE_LIMIT_READ];
    row->tokens_a_second = 1e3 / row->ms;
    return 0;
}

static int run_steps(struct card_run *run, const struct card_plan *p, struct card_model *m,
                     const struct card_step *step, uint64_t longest, struct err *e)
{
    struct device_graph *g;
    struct card_row row;
    int rc = card_capture(m, (struct card_capture){queue_step, step}, &g, e);
    for (int i = 0; i < CARD_CONTEXTS && !rc && p->contexts[i] && p->contexts[i] <= longest; i++) {
        rc = one_context(run, p, m, g, step, p->contexts[i], &row, e);
        if (!rc && p->work == CARD_VERIFY) {
            row.tokens_a_second = 0; /* it hangs on how many are right */
            snprintf(row.note, sizeof row.note, "a pass that checks %zu drafted tokens", step->T - 1);
        }
        if (!rc)
            run->emit(run, &row);
    }
    m->d->ops->graph_free(m->d, g);
    return rc;
}

int card_measure_decode(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct card_model m;
    uint64_t longest;
    struct card_step step = {.T = 1};
    int rc = open_model(run, p, &m, 1, 0, &longest, e);
    if (!rc && longest)
        rc = run_steps(run, p, &m, &step, longest, e);
    card_model_close(&m);
    return rc;
}

int card_measure_verify(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct card_model m;
    uint64_t longest;
    int rc = open_model(run, p, &m, DEVICE_DECODE_T, 0, &longest, e);
    for (size_t T = 1; T <= DEVICE_DECODE_T && !rc && longest; T++) {
        struct card_step step = {.T = T};
        rc = run_steps(run, p, &m, &step, longest, e);
    }
    card_model_close(&m);
    return rc;
}

/* ---- selected pages --------------------------------------------------------------------------------------
 */

static size_t budget_of(uint64_t context)
{
    uint64_t pages = context / KV_PAGE_TOKENS / 100; /* a hundredth, at least 4,096 tokens */
    return pages < 64 ? 64 : (size_t)pages;
}

/* The share of the softmax that the list visits: a dense step that is told of it. */
static int audit(struct card_model *m, struct card_step step, double *share, struct err *e)
{
    float *host, visited[2];
    struct device_graph *g = NULL;
    step.audit = 1;
    int rc = card_take_host(m, sizeof visited, &host, e);
    if (!rc) {
        m->d->ops->fill(m->d, DEVICE_COMPUTE, m->visited, 0, sizeof visited);
        rc = card_capture(m, (struct card_capture){queue_step, &step}, &g, e);
    }
    if (rc)
        return rc;
    m->d->ops->graph_launch(m->d, g);
    m->d->ops->download(m->d, DEVICE_COMPUTE, host, m->visited, sizeof visited);
    rc = m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
    m->d->ops->graph_free(m->d, g);
    memcpy(visited, host, sizeof visited);
    *share = visited[1] > 0 ? (double)visited[0] / (double)visited[1] : 0;
    return rc;
}

static uint64_t selected_bytes(const struct card_model *m, uint64_t context, size_t budget)
{
    uint64_t pages = context / KV_PAGE_TOKENS, left = pages > budget ? pages - budget : 0;
    return card_past_bytes(m, context) - m->kv.HR * left * m->kv.record_bytes +
           m->kv.HR * pages * m->kv.scan_bytes;
}

static int one_selection(struct card_run *run, const struct card_plan *p, struct card_model *m,
                         uint64_t context, struct err *e)
{
    struct card_row row;
    struct card_step step = {.T = 1, .budget = budget_of(context), .recent = 4};
    struct device_graph *g;
    double share = 0;
    int rc = card_capture(m, (struct card_capture){queue_step, &step}, &g, e);
    if (rc)
        return rc;
    rc = one_context(run, p, m, g, &step, context, &row, e);
    m->d->ops->graph_free(m->d, g);
    if (!rc)
        rc = audit(m, step, &share, e);
    if (rc)
        return rc;
    row.bytes = (double)(card_matrix_bytes(m) + selected_bytes(m, context, step.budget));
    row.value = share;
    snprintf(row.note, sizeof row.note, "%zu pages; %.2f %% of the softmax visited (made-up keys, all alike)",
             step.budget, 100 * share);
    run->emit(run, &row);
    return 0;
}

int card_measure_selection(struct card_run *run, const struct card_plan *p, struct err *e)
{
    struct card_model m;
    uint64_t longest, most = 0;
    for (int i = 0; i < CARD_CONTEXTS && p->contexts[i]; i++)
        most = p->contexts[i];
    int rc = open_model(run, p, &m, 1, budget_of(most), &longest, e);
    for (int i = 0; i < CARD_CONTEXTS && !rc && p->contexts[i] && p->contexts[i] <= longest; i++)
        rc = one_selection(run, p, &m, p->contexts[i], e);
    card_model_close(&m);
    return rc;
}

/* ---- attention alone -------------------------------------------------------------------------------------
 */

static void queue_layers(struct card_model *m, const void *arg)
{
    m->d->ops->upload(m->d, DEVICE_COMPUTE, m->step, m->step_host, sizeof *m->step);
    for (size_t l = 0; l < m->L; l++)
        card_queue_attention(m, l, arg);
}

static int attention_row(struct card_run *run, const struct card_plan *p, struct card_model *m,
                         struct device_graph *g, const struct card_step *step, uint64_t context,
                         struct err *e)
{
    struct card_row row;
    struct card_samples s = {0};
    card_row_begin(&row, run, p, context);
    m->step_host->position = context;
    int rc = card_time_graph(m, g, 3, 20, &s, e);
    if (rc)
        return rc;
    card_row_samples(&row, &s);
    row.T = (uint32_t)step->T;
    row.bytes = (double)card_past_bytes(m, context);
    row.limit = run->limits[DEVICE_LIMIT_READ];
    row.memory = card_memory_at(m, context);
    snprintf(row.note, sizeof row.note, "%zu layers, merge and append included", m->L);
    run->emit(run, &row);
    return 0;
}

int card_measure_attention(struct card_run *run, const struct card_plan *p, struct err *e)
{
    static const size_t rows[] = {1, DEVICE_DECODE_T};
    struct card_model m;
    uint64_t longest;
    int rc = open_model(run, p, &m, DEVICE_DECODE_T, 0, &longest, e);
    for (size_t k = 0; k < 2 && !rc && longest; k++) {
        struct card_step step = {.T = rows[k]};
        struct device_graph *g;
        rc = card_capture(&m, (struct card_capture){queue_layers, &step}, &g, e);
        for (int i = 0; i < CARD_CONTEXTS && !rc && p->contexts[i] && p->contexts[i] <= longest; i++)
            rc = attention_row(run, p, &m, g, &step, p->contexts[i], e);
        m.d->ops->graph_free(m.d, g);
    }
    card_model_close(&m);
    return rc;
}

/* ---- matrices alone --------------------------------------------------------------------------------------
 */

struct products {
    int which; /* enum card_matrix, or CARD_MATRICES: the output matrix */
    size_t T, layers;
};

static void queue_products(struct card_model *m, const void *arg)
{
    const struct products *p = arg;
    if (p->which == CARD_MATRICES)
        card_queue_output(m, p->T);
    for (size_t l = 0; p->which < CARD_MATRICES && l < p->layers; l++)
        card_queue_product(m, l, (enum card_matrix)p->which, p->T);
}

static double products_bytes(const struct card_model *m, const struct products *p)
{
    double bytes = 0;
    if (p->which == CARD_MATRICES)
        return (double)m->d->ops->weight_bytes(m->output);
    for (size_t l = 0; l < p->layers; l++)
        bytes += (double)m->d->ops->weight_bytes(m->w[l][p->which]);
    return bytes;
}

static double products_flops(const struct card_model *m, const struct products *p)
{
    const struct card_shape *s = m->s;
    double q = (double)(s->H * s->D), C = (double)s->C, F = (double)s->F;
    const double one[] = {C * (double)m->ldqkv, q * C, 2 * C * F, C * F, C * (double)s->V};
    return 2 * one[p->which] * (double)p->T * (double)(p->which == CARD_MATRICES ? 1 : p->layers);
}

static int products_row(struct card_run *run, const struct card_plan *p, struct card_model *m,
                        const struct products *what, struct err *e)
{
    static const char *const names[] = {"qkv", "o", "gate+up", "down", "output"};
    struct card_row row;
    struct card_samples s = {0};
    struct device_graph *g;
    int rc = card_capture(m, (struct card_capture){queue_products, what}, &g, e);
    if (rc)
        return rc;
    rc = card_time_graph(m, g, 2, what->T > DEVICE_DECODE_T ? 5 : 20, &s, e);
    m->d->ops->graph_free(m->d, g);
    if (rc)
        return rc;
    card_row_begin(&row, run, p, 0);
    card_row_samples(&row, &s);
    row.T = (uint32_t)what->T;
    row.bytes = products_bytes(m, what);
    if (what->T > DEVICE_DECODE_T) {
        row.flops = products_flops(m, what);
        row.limit = run->limits[!strcmp(p->weights, "fp8")    ? DEVICE_LIMIT_FP8
                                : !strcmp(p->weights, "bf16") ? DEVICE_LIMIT_BF16
                                                              : DEVICE_LIMIT_F16];
    } else
        row.limit = run->limits[DEVICE_LIMIT_COPY];
    snprintf(row.note, sizeof row.note, "%s of %zu layers", names[what->which],
             what->which == CARD_MATRICES ? 1 : what->layers);
    run->emit(run, &row);
    return 0;
}

int card_measure_linear(struct card_run *run, const struct card_plan *p, struct err *e)
{
    const size_t rows[] = {1, DEVICE_DECODE_T, run->chunk};
    struct card_model m;
    card_model_init(&m, run->d, run->shape, 0, 0);
    int rc = card_model_weights(&m, card_weight_format(run->shape, p->weights), e);
    if (!rc)
        rc = card_model_kv(&m, KV_RAW, 1024, CARD_PAST, e);
    if (!rc)
        rc = card_model_room(&m, run->chunk, 0, e);
    for (size_t k = 0; k < 3 && !rc; k++)
        for (int which = 0; which <= CARD_MATRICES && !rc; which++) {
            size_t layers = rows[k] > DEVICE_DECODE_T && m.L > 4 ? 4 : m.L;
            struct products what = {which, rows[k], layers};
            if (which < CARD_MATRICES || rows[k] <= DEVICE_DECODE_T)
                rc = products_row(run, p, &m, &what, e);
        }
    card_model_close(&m);
    return rc;
}
