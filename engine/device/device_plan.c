/* SPDX-License-Identifier: Apache-2.0 */
/* device_plan.c - the arithmetic of a plan. Sizes come from files: sums saturate instead of wrapping. */
#include "engine/device/device_plan.h"

#include <stdio.h>
#include <string.h>

enum { BLOCK_ALIGN = 256, BLOCK_TOKENS = DEVICE_BLOCK_PAGES * KV_PAGE_TOKENS, LOGIT_SLICE = 32 };

static uint64_t plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t times(uint64_t a, uint64_t b)
{
    return b && a > UINT64_MAX / b ? UINT64_MAX : a * b;
}

static uint64_t minus(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static uint64_t up(uint64_t n, uint64_t unit)
{
    return times(n / unit + (n % unit != 0), unit);
}

/* ---- weights ----------------------------------------------------------------------------------------- */

static enum device_weight_format format_of_type(enum tensor_type type)
{
    switch (type) {
    case TENSOR_Q4_0:
    case TENSOR_Q4_1:
        return DEVICE_W_W4G32;
    case TENSOR_Q8_0:
        return DEVICE_W_W8G32;
    case TENSOR_BF16:
        return DEVICE_W_BF16;
    default:
        return DEVICE_W_F16;
    }
}

/* Tiles of 16 rows, units of 128 columns: codes and scales of a unit. */
uint64_t plan_matrix_bytes(enum device_weight_format format, enum tensor_type type, size_t N, size_t K)
{
    static const struct {
        unsigned unit, row;
    } sizes[] = {
        [DEVICE_W_F16] = {4096, 0},        [DEVICE_W_BF16] = {4096, 0},        [DEVICE_W_FP8] = {2048, 64},
        [DEVICE_W_W8] = {2048, 64},        [DEVICE_W_W8G32] = {2048 + 128, 0}, [DEVICE_W_W4] = {1024 + 64, 0},
        [DEVICE_W_W4G32] = {1024 + 256, 0}};
    if (format == DEVICE_W_AUTO)
        format = format_of_type(type);
    uint64_t tiles = up(N, 16) / 16, units = up(K, 128) / 128;
    return times(tiles, plus(times(units, sizes[format].unit), sizes[format].row));
}

/* Memory of a card is given out in pieces of 2 MiB, which small allocations share. */
static uint64_t taken(uint64_t bytes)
{
    return bytes < 1 << 20 ? up(bytes, 512) : up(bytes, 2 << 20);
}

/* Output logits keep 8 bits where the layers have 4. */
static uint64_t output_bytes(enum device_weight_format format, enum tensor_type type,
                             const struct device_shape *s)
{
    if (format == DEVICE_W_W4 || format == DEVICE_W_W4G32)
        format = DEVICE_W_W8;
    return taken(plan_matrix_bytes(format, type, s->V, s->C));
}

static enum tensor_type type_in_file(const struct gguf *g, size_t layer, const char *part)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%zu.%s.weight", layer, part);
    const struct gguf_tensor *t = gguf_tensor(g, name);
    return t ? (enum tensor_type)t->type : TENSOR_F16;
}

/* Matrices of several types become fp16 together. */
static uint64_t together(enum device_weight_format format, const enum tensor_type *types, size_t n, size_t N,
                         size_t K)
{
    for (size_t i = 1; i < n; i++)
        if (format == DEVICE_W_AUTO && format_of_type(types[i]) != format_of_type(types[0]))
            format = DEVICE_W_F16;
    return taken(plan_matrix_bytes(format, types[0], N, K));
}

static uint64_t vectors(const struct device_shape *s)
{
    size_t qkv = (s->H + 2 * s->HK) * s->D;
    return times(s->L * (2 * s->C + (s->qkv_bias ? qkv : 0)) + s->C, sizeof(float));
}

uint64_t plan_weights_of_file(const struct gguf *g, const struct device_shape *s,
                              enum device_weight_format format)
{
    uint64_t sum = vectors(s);
    for (size_t l = 0; l < s->L; l++) {
        enum tensor_type qkv[] = {type_in_file(g, l, "attn_q"), type_in_file(g, l, "attn_k"),
                                  type_in_file(g, l, "attn_v")};
        enum tensor_type pair[] = {type_in_file(g, l, "ffn_gate"), type_in_file(g, l, "ffn_up")};
        sum = plus(sum, together(format, qkv, 3, (s->H + 2 * s->HK) * s->D, s->C));
        sum =
            plus(sum, taken(plan_matrix_bytes(format, type_in_file(g, l, "attn_output"), s->C, s->H * s->D)));
        sum = plus(sum, together(format, pair, 2, 2 * s->F, s->C));
        sum = plus(sum, taken(plan_matrix_bytes(format, type_in_file(g, l, "ffn_down"), s->C, s->F)));
    }
    const struct gguf_tensor *embed = gguf_tensor(g, "token_embd.weight"),
                             *output = gguf_tensor(g, "output.weight");
    sum = plus(sum, embed ? taken(embed->bytes) : 0);
    if (!output)
        output = embed;
    return plus(sum, output_bytes(format, output ? (enum tensor_type)output->type : TENSOR_F16, s));
}

uint64_t plan_weights_of_shape(const struct device_shape *s, enum device_weight_format format)
{
    uint64_t layer = taken(plan_matrix_bytes(format, TENSOR_F16, (s->H + 2 * s->HK) * s->D, s->C));
    layer = plus(layer, taken(plan_matrix_bytes(format, TENSOR_F16, s->C, s->H * s->D)));
    layer = plus(layer, taken(plan_matrix_bytes(format, TENSOR_F16, 2 * s->F, s->C)));
    layer = plus(layer, taken(plan_matrix_bytes(format, TENSOR_F16, s->C, s->F)));
    uint64_t sum = plus(times(layer, s->L), vectors(s));
    sum = plus(sum, taken(times(s->V, s->C * sizeof(uint16_t))));
    return plus(sum, output_bytes(format, TENSOR_F16, s));
}

uint64_t plan_weights_of_lora(const struct lora *l, const struct device_shape *s, size_t *columns)
{
    uint64_t sum = 0;
    *columns = 0;
    for (size_t layer = 0; l && layer < s->L; layer++) {
        size_t qkv = 0, o = 0;
        for (int i = 0; i < LORA_TARGETS; i++) {
            struct lora_raw pair = lora_raw(l, layer, (enum lora_target)i);
            size_t rank = pair.a ? (pair.rank + 31) / 32 * 32 : 0;
            *(i == LORA_O ? &o : &qkv) += rank;
            if (!rank)
                continue;
            sum = plus(sum, taken(plan_matrix_bytes(DEVICE_W_F16, TENSOR_F16, rank, pair.K)));
            sum = plus(sum, taken(plan_matrix_bytes(DEVICE_W_F16, TENSOR_F16, pair.N, rank)));
        }
        qkv = qkv > o ? qkv : o;
        *columns = *columns > qkv ? *columns : qkv;
    }
    return sum;
}

/* ---- the whole --------------------------------------------------------------------------------------- */

/* device_work.c's activations. */
static uint64_t work_bytes(const struct device_plan_input *in, size_t chunk)
{
    const struct device_shape *s = &in->shape;
    uint64_t row =
        4 * s->C + 4 * (s->H + 2 * s->HK) * s->D + 2 * s->H * s->D + 2 * s->F + 2 * in->lora_columns + 4;
    return plus(times(chunk, row), times(LOGIT_SLICE * 4, up(s->V, 8)));
}

/* The table of addresses, and a float a page for somebody who watches. */
static uint64_t table_bytes(size_t blocks)
{
    return times(blocks, 8 + 4 * DEVICE_BLOCK_PAGES);
}

/* What blocks may take on the card at a context of so many tokens. */
static uint64_t card_room(const struct device_plan_input *in, const struct device_plan *p, size_t tokens)
{
    uint64_t taken = plus(plus(p->weights, p->work), plus(p->rows, p->reserve));
    taken = plus(taken, in->scratch ? in->scratch(in->scratch_arg, tokens) : 0);
    taken = plus(taken, table_bytes(tokens / BLOCK_TOKENS + 1));
    uint64_t room = minus(p->card_free, taken);
    return in->kv_bytes && in->kv_bytes < room ? in->kv_bytes : room;
}

/* Longest context, in whole blocks, whose blocks have room; a longer one never has if a shorter one has not.
 */
static size_t longest(const struct device_plan_input *in, const struct device_plan *p, uint64_t host)
{
    if (!p->block_bytes)
        return SIZE_MAX;
    size_t lo = 0, hi = (size_t)1 << 26; /* blocks: 6.9e10 tokens */
    while (lo < hi) {
        size_t mid = (lo + hi + 1) / 2;
        uint64_t card = card_room(in, p, mid * BLOCK_TOKENS);
        uint64_t fit = card / p->block_bytes + host / p->block_bytes;
        if (card && fit >= mid)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo * BLOCK_TOKENS;
}

void device_plan_make(const struct device_plan_input *in, struct device_plan *p)
{
    const struct cache_layout *y = in->layout;
    size_t chunk = in->chunk ? in->chunk : DEVICE_CHUNK_T;
    *p = (struct device_plan){.weights = in->weights, .card_free = in->card_free, .host_free = in->host_free};
    p->reserve = PLAN_CARD_RESERVE;
    p->work = work_bytes(in, chunk);
    p->rows = times(2, plus(times(2 * y->HR, y->raw_bytes),
                            times(y->HS * (y->sink_pages + y->ring_pages), y->raw_bytes)));
    p->block_bytes = up(y->block_bytes, BLOCK_ALIGN);
    p->context = in->context ? in->context : PLAN_CONTEXT;
    p->scratch = in->scratch ? in->scratch(in->scratch_arg, p->context) : 0;
    size_t blocks = p->context / BLOCK_TOKENS + (p->context % BLOCK_TOKENS != 0);
    p->tables = table_bytes(blocks);
    p->fit_card = longest(in, p, 0);
    p->fit_all = longest(in, p, p->host_free);
    if (!p->block_bytes)
        return;
    uint64_t on_card = card_room(in, p, p->context) / p->block_bytes;
    on_card = on_card < blocks ? on_card : blocks;
    p->kv_card = on_card * p->block_bytes;
    p->kv_host = times(blocks - on_card, p->block_bytes);
}

static double gigabytes(uint64_t bytes)
{
    return (double)bytes * 1e-9;
}

int device_plan_check(const struct device_plan_input *in, const struct device_plan *p, struct err *e)
{
    uint64_t buffers = plus(plus(p->work, p->scratch), plus(plus(p->rows, p->tables), p->reserve));
    if (plus(p->weights, buffers) > p->card_free)
        return err_set(
            e, ERR_MEMORY,
            "weights of %.1f GB and buffers of %.1f GB are more than the %.1f GB that are free on the "
            "card; choose smaller --weights (w8, w4), a smaller model, or --device cpu",
            gigabytes(p->weights), gigabytes(buffers), gigabytes(p->card_free));
    if (!in->context || in->context <= p->fit_all)
        return 0;
    return err_set(
        e, ERR_LIMIT,
        "a context of %zu tokens takes %.1f GB of keys and values; %zu tokens fit, %zu of them on the "
        "card: ask for --context %zuK, a smaller --kv, smaller --weights or more --sparsity",
        in->context, gigabytes(plus(p->kv_card, p->kv_host)), p->fit_all, p->fit_card, p->fit_all / 1024);
}
