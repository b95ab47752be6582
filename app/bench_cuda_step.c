/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_step.c - a decode step and a chunk of a prefill over the ops, in the engine's order (see
 * bench_cuda_model.h). */
#include "app/bench_cuda_model.h"

#include <math.h>
#include <string.h>

/* ---- room ------------------------------------------------------------------------------------------------
 */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Scratch of the calls up to T tokens; sizes need not grow with T, so both kinds are asked. */
static void scratch_sizes(struct card_model *m, size_t T, size_t budget)
{
    const struct device_ops *ops = m->d->ops;
    const struct card_shape *s = m->s;
    size_t N = larger(larger(m->ldqkv, 2 * s->F), s->V), K = larger(larger(s->C, s->F), s->H * s->D);
    size_t step = T < DEVICE_DECODE_T ? T : DEVICE_DECODE_T;
    if (m->output) {
        m->scratch_bytes = ops->linear_scratch_bytes(m->d, step, K, N);
        if (T > DEVICE_DECODE_T)
            m->scratch_bytes =
                larger(m->scratch_bytes, ops->linear_scratch_bytes(m->d, T, K, larger(m->ldqkv, 2 * s->F)));
    }
    m->attend_bytes = 0; /* an op may be missing: card_measure has asked for those that are used */
    if (ops->attend_decode_scratch_bytes)
        m->attend_bytes = ops->attend_decode_scratch_bytes(m->d, &m->kv, m->tokens, budget > 0);
    if (T > DEVICE_DECODE_T && ops->attend_prefill_scratch_bytes)
        m->attend_bytes = larger(m->attend_bytes, ops->attend_prefill_scratch_bytes(m->d, &m->kv, T));
    if (budget)
        m->attend_bytes = larger(m->attend_bytes, ops->select_scratch_bytes(m->d, &m->kv, m->tokens));
}

uint64_t card_room_bytes(struct card_model *m, int kv_format, uint64_t tokens, size_t T)
{
    const struct card_shape *s = m->s;
    card_shape_kv(m, kv_format);
    m->tokens = tokens;
    m->kv.cap_blocks =
        (tokens + DEVICE_BLOCK_PAGES * KV_PAGE_TOKENS - 1) / (DEVICE_BLOCK_PAGES * KV_PAGE_TOKENS);
    scratch_sizes(m, T, 0);
    uint64_t row = m->ldqkv * sizeof(float) + s->H * s->D * 2 + s->C * sizeof(float) + s->F * 2;
    uint64_t raw = 2 * m->kv.HR + (m->kv.sink_pages + m->kv.ring_pages) * m->kv.HS;
    return T * row + DEVICE_DECODE_T * s->V * sizeof(float) + m->scratch_bytes + m->attend_bytes +
           raw * m->kv.raw_bytes + ((uint64_t)32 << 20);
}

static int selection_room(struct card_model *m, size_t budget, struct err *e)
{
    uint32_t *pages = NULL, *counts = NULL;
    int rc = card_take(m, m->s->HK * budget * sizeof *pages, &pages, e);
    if (!rc)
        rc = card_take(m, m->s->HK * sizeof *counts, &counts, e);
    if (!rc)
        rc = card_take(m, 2 * sizeof(float), &m->visited, e);
    m->list = (struct device_page_list){.pages = pages, .counts = counts, .stride = budget};
    return rc;
}

/* Activations: the residual, what feeds a product, the last products. */
static int activations(struct card_model *m, size_t T, struct err *e)
{
    const struct card_shape *s = m->s;
    size_t rows = T < DEVICE_DECODE_T ? T : DEVICE_DECODE_T; /* of logits */
    int rc = card_take(m, T * m->ldqkv * sizeof(float), &m->qkv, e);
    if (!rc)
        rc = card_take(m, T * s->H * s->D * 2, &m->attended, e);
    if (!rc && m->output) {
        rc = card_take(m, T * s->C * sizeof(float), &m->x, e);
        if (!rc)
            rc = card_take(m, T * s->F * 2, &m->hidden, e);
        if (!rc)
            rc = card_take(m, rows * s->V * sizeof(float), &m->logits, e);
    }
    return rc;
}

/* Query, key and value columns for measures that run attention alone. */
static int random_rows(struct card_model *m, size_t T, struct err *e)
{
    size_t n = m->ldqkv, rows = T < 64 ? T : 64;
    float *host;
    int rc = card_take_host(m, rows * n * sizeof(float), &host, e);
    if (rc)
        return rc;
    uint32_t state = 12345;
    for (size_t i = 0; i < rows * n; i++) {
        state = state * 1664525u + 1013904223u;
        host[i] = ((float)(state >> 8) / 16777216.0f - 0.5f) * 3.4641f;
    }
    for (size_t t = 0; t < T; t += rows)
        m->d->ops->upload(m->d, DEVICE_COMPUTE, m->qkv + t * n, host,
                          (T - t < rows ? T - t : rows) * n * sizeof(float));
    return m->d->ops->sync(m->d, DEVICE_COMPUTE, e);
}

int card_model_room(struct card_model *m, size_t T, size_t budget, struct err *e)
{
    m->T = T;
    scratch_sizes(m, T, budget);
    int rc = activations(m, T, e);
    if (!rc)
        rc = card_take(m, m->scratch_bytes, &m->scratch, e);
    if (!rc)
        rc = card_take(m, m->attend_bytes, &m->attend_scratch, e);
    if (!rc)
        rc = card_take(m, T * sizeof(uint32_t), &m->ids, e);
    if (!rc)
        rc = card_take(m, DEVICE_DECODE_T * sizeof(uint32_t), &m->best, e);
    if (!rc)
        rc = card_take(m, sizeof(uint32_t), &m->failed, e);
    if (!rc)
        rc = card_take(m, sizeof *m->step, &m->step, e);
    if (!rc)
        rc = card_take_host(m, sizeof *m->step_host, &m->step_host, e);
    if (!rc)
        rc = card_take_host(m, DEVICE_DECODE_T * sizeof(uint32_t), &m->best_host, e);
    if (!rc && budget)
        rc = selection_room(m, budget, e);
    if (!rc && T > DEVICE_DECODE_T) {
        rc = card_take(m, 2 * m->kv.HR * m->kv.raw_bytes, &m->tail_next, e);
        if (!rc)
            rc = card_take(m, (m->kv.sink_pages + m->kv.ring_pages) * m->kv.HS * m->kv.raw_bytes,
                           &m->stream_next, e);
    }
    if (rc)
        return rc;
    m->d->ops->fill(m->d, DEVICE_COMPUTE, m->failed, 0, sizeof(uint32_t));
    m->d->ops->fill(m->d, DEVICE_COMPUTE, m->ids, 0, T * sizeof(uint32_t));
    return random_rows(m, T, e);
}

/* ---- products --------------------------------------------------------------------------------------------
 */

static void product(struct card_model *m, struct device_linear_args a)
{
    a.scratch = m->scratch;
    a.scratch_bytes = m->scratch_bytes;
    a.eps = 1e-5f;
    m->d->ops->linear(m->d, &a);
}

void card_queue_product(struct card_model *m, size_t l, enum card_matrix which, size_t T)
{
    const struct card_shape *s = m->s;
    struct device_linear_args a = {.w = m->w[l][which], .T = T};
    switch (which) {
    case CARD_QKV:
        a.x = m->x, a.ldx = s->C, a.norm_w = m->norm, a.bias = m->bias;
        a.epilogue = DEVICE_STORE_F32, a.y = m->qkv, a.ldy = m->ldqkv;
        break;
    case CARD_O:
        a.x = m->attended, a.ldx = s->H * s->D;
        a.epilogue = DEVICE_ADD_F32, a.y = m->x, a.ldy = s->C;
        break;
    case CARD_GATE_UP:
        a.x = m->x, a.ldx = s->C, a.norm_w = m->norm;
        a.epilogue = DEVICE_SILU_MUL, a.y = m->hidden, a.ldy = s->F;
        break;
    default:
        a.x = m->hidden, a.ldx = s->F;
        a.epilogue = DEVICE_ADD_F32, a.y = m->x, a.ldy = s->C;
        break;
    }
    product(m, a);
}

static void output_of(struct card_model *m, const float *x, size_t T)
{
    struct device_linear_args a = {.w = m->output,
                                   .x = x,
                                   .ldx = m->s->C,
                                   .T = T,
                                   .norm_w = m->norm,
                                   .epilogue = DEVICE_STORE_F32,
                                   .y = m->logits,
                                   .ldy = m->s->V};
    product(m, a);
    struct device_argmax_args best = {.x = m->logits, .ldx = m->s->V, .T = T, .N = m->s->V, .best = m->best};
    m->d->ops->argmax(m->d, &best);
}

void card_queue_output(struct card_model *m, size_t T)
{
    output_of(m, m->x, T);
}

static void embed(struct card_model *m, const uint32_t *ids, size_t T)
{
    struct device_embed_args a = {.type = m->embed_type,
                                  .raw = m->embed,
                                  .V = m->s->V,
                                  .C = m->s->C,
                                  .ids = ids,
                                  .T = T,
                                  .y = m->x,
                                  .ldy = m->s->C};
    m->d->ops->embed(m->d, &a);
}

/* ---- attention -------------------------------------------------------------------------------------------
 */

static struct device_rope rope_of(const struct card_model *m)
{
    return (struct device_rope){.steps = m->steps,
                                .half = m->s->D / 2,
                                .kind = m->s->halves ? ROPE_HALVES : ROPE_PAIRS,
                                .attn_factor = 1};
}

void card_queue_attention(struct card_model *m, size_t l, const struct card_step *step)
{
    struct device_rope rope = rope_of(m);
    struct device_attend_decode_args a = {.kv = &m->kv,
                                          .layer = l,
                                          .qkv = m->qkv,
                                          .ldqkv = m->ldqkv,
                                          .step = m->step,
                                          .T = step->T,
                                          .rope = rope,
                                          .scale = 1 / sqrtf((float)m->s->D),
                                          .out = m->attended,
                                          .ldout = m->s->H * m->s->D,
                                          .failed = m->failed,
                                          .scratch = m->attend_scratch,
                                          .scratch_bytes = m->attend_bytes};
    if (step->budget && m->hr[l]) {
        struct device_select_args select = {.kv = &m->kv,
                                            .layer = l,
                                            .qkv = m->qkv,
                                            .ldqkv = m->ldqkv,
                                            .step = m->step,
                                            .T = step->T,
                                            .rope = rope,
                                            .budget = step->budget,
                                            .recent = step->recent,
                                            .pages = (uint32_t *)(uintptr_t)m->list.pages,
                                            .counts = (uint32_t *)(uintptr_t)m->list.counts,
                                            .stride = m->list.stride,
                                            .scratch = m->attend_scratch,
                                            .scratch_bytes = m->attend_bytes};
        m->d->ops->select(m->d, &select);
        if (step->audit)
            a.audit = &m->list, a.visited = m->visited;
        else
            a.list = &m->list;
    }
    m->d->ops->attend_decode(m->d, &a);
}

void card_queue_step(struct card_model *m, const struct card_step *step)
{
    const struct device_ops *ops = m->d->ops;
    ops->upload(m->d, DEVICE_COMPUTE, m->step, m->step_host, sizeof *m->step);
    embed(m, m->step->ids, step->T);
    for (size_t l = 0; l < m->L; l++) {
        card_queue_product(m, l, CARD_QKV, step->T);
        card_queue_attention(m, l, step);
        card_queue_product(m, l, CARD_O, step->T);
        card_queue_product(m, l, CARD_GATE_UP, step->T);
        card_queue_product(m, l, CARD_DOWN, step->T);
    }
    output_of(m, m->x, step->T);
    ops->download(m->d, DEVICE_COMPUTE, m->best_host, m->best, step->T * sizeof(uint32_t));
}

void card_queue_chunk_attention(struct card_model *m, size_t l, uint64_t pos0, size_t T)
{
    struct device_attend_prefill_args a = {.kv = &m->kv,
                                           .layer = l,
                                           .qkv = m->qkv,
                                           .ldqkv = m->ldqkv,
                                           .pos0 = pos0,
                                           .T = T,
                                           .rope = rope_of(m),
                                           .scale = 1 / sqrtf((float)m->s->D),
                                           .out = m->attended,
                                           .ldout = m->s->H * m->s->D,
                                           .tail_next = m->tail_next,
                                           .stream_next = m->stream_next,
                                           .failed = m->failed,
                                           .scratch = m->attend_scratch,
                                           .scratch_bytes = m->attend_bytes};
    m->d->ops->attend_prefill(m->d, &a);
}

static void swap(uint8_t **a, uint8_t **b)
{
    uint8_t *t = *a;
    *a = *b;
    *b = t;
}

void card_queue_chunk(struct card_model *m, uint64_t pos0, size_t T, int last)
{
    embed(m, m->ids, T);
    for (size_t l = 0; l < m->L; l++) {
        card_queue_product(m, l, CARD_QKV, T);
        card_queue_chunk_attention(m, l, pos0, T);
        card_queue_product(m, l, CARD_O, T);
        card_queue_product(m, l, CARD_GATE_UP, T);
        card_queue_product(m, l, CARD_DOWN, T);
    }
    swap(&m->kv.tail, &m->tail_next);
    swap(&m->kv.stream, &m->stream_next);
    if (last) {
        output_of(m, m->x + (T - 1) * m->s->C, 1);
        m->d->ops->download(m->d, DEVICE_COMPUTE, m->best_host, m->best, sizeof(uint32_t));
    }
}
