/* SPDX-License-Identifier: Apache-2.0 */
/* device_weights.c - a model's matrices, norms, biases, embedding and adapter into device memory; or random
 * ones of the same shape.
 *
 * q, k, v lie in one matrix, and gate and up row by row in another, so that a layer is four products. An
 * adapter is two thin products more for each of qkv and o; its rank is padded with zeros to RANK_PAD.
 */
#include "engine/device/device_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- from a model ------------------------------------------------------------------------------------ */

static struct device_weight_part part_of(struct model_matrix x)
{
    return (struct device_weight_part){.type = x.type, .rows = x.rows, .raw = x.raw};
}

/* Parts of several types in one matrix become fp16, unless the caller chose a format. */
static int create(struct device_shared *g, enum device_weight_format format, size_t K,
                  const struct device_weight_part *parts, size_t n, enum device_weight_order order,
                  struct device_weight **out, struct err *e)
{
    for (size_t i = 1; i < n && format == DEVICE_W_AUTO; i++)
        if (parts[i].type != parts[0].type)
            format = DEVICE_W_F16;
    int rc = g->ops->weight_create(g->device, format, K, parts, n, order, out, e);
    if (!rc) {
        g->weight_bytes += g->ops->weight_bytes(*out);
        g->step_bytes += g->ops->weight_bytes(*out);
    }
    return rc;
}

static int upload_vector(struct device_shared *g, const float *from, size_t n, const float **out,
                         struct err *e)
{
    void *p;
    int rc = shared_take_copy(g, from, n * sizeof *from, &p, e);
    *out = p;
    return rc;
}

static int upload_bias(struct device_shared *g, const struct model_layer *from, struct device_layer *to,
                       struct err *e)
{
    const struct device_shape *p = &g->shape;
    size_t q = p->H * p->D, kv = p->HK * p->D;
    float *all = malloc((q + 2 * kv) * sizeof *all);
    if (!all)
        return err_memory(e, "a layer's biases");
    memcpy(all, from->bq, q * sizeof *all);
    memcpy(all + q, from->bk, kv * sizeof *all);
    memcpy(all + q + kv, from->bv, kv * sizeof *all);
    int rc = upload_vector(g, all, q + 2 * kv, &to->bias, e);
    free(all);
    return rc;
}

static int upload_layer(struct device_shared *g, enum device_weight_format format, const struct model *m,
                        size_t l, struct err *e)
{
    const struct device_shape *p = &g->shape;
    const struct model_layer *from = &model_weights(m)->layers[l];
    struct device_layer *to = &g->layers[l];
    struct device_weight_part qkv[3], gate_up[2], o = part_of(model_matrix(m, l, MODEL_O)),
                                                  down = part_of(model_matrix(m, l, MODEL_DOWN));
    for (int i = 0; i < 3; i++)
        qkv[i] = part_of(model_matrix(m, l, (enum model_part)(MODEL_Q + i)));
    for (int i = 0; i < 2; i++)
        gate_up[i] = part_of(model_matrix(m, l, (enum model_part)(MODEL_GATE + i)));
    int rc = create(g, format, p->C, qkv, 3, DEVICE_ROWS_APPENDED, &to->qkv, e);
    if (!rc)
        rc = create(g, format, p->H * p->D, &o, 1, DEVICE_ROWS_APPENDED, &to->o, e);
    if (!rc)
        rc = create(g, format, p->C, gate_up, 2, DEVICE_ROWS_INTERLEAVED, &to->gate_up, e);
    if (!rc)
        rc = create(g, format, p->F, &down, 1, DEVICE_ROWS_APPENDED, &to->down, e);
    if (!rc)
        rc = upload_vector(g, from->attn_norm, p->C, &to->attn_norm, e);
    if (!rc)
        rc = upload_vector(g, from->ffn_norm, p->C, &to->ffn_norm, e);
    if (!rc && p->qkv_bias)
        rc = upload_bias(g, from, to, e);
    return rc;
}

/* ---- the adapter ------------------------------------------------------------------------------------- */

static size_t pad_rank(size_t rank)
{
    return (rank + RANK_PAD - 1) / RANK_PAD * RANK_PAD;
}

static size_t element_bytes(enum tensor_type t)
{
    return t == TENSOR_F32 ? 4 : 2;
}

/* `rows` x `cols` elements copied into zeros of `to_cols` columns. */
static void copy_padded(uint8_t *to, size_t to_cols, const void *from, size_t rows, size_t cols, size_t bytes)
{
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * to_cols * bytes, (const uint8_t *)from + r * cols * bytes, cols * bytes);
}

/* A of each pair one after the other, ranks padded; every pair reads the same K columns. */
static int upload_a(struct device_shared *g, const struct lora_raw *pairs, size_t n, size_t K,
                    struct device_weight **out, size_t *rank, struct err *e)
{
    struct device_weight_part parts[3];
    uint8_t *room[3] = {NULL};
    size_t used = 0;
    int rc = 0;
    *rank = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        if (!pairs[i].a)
            continue;
        size_t rows = pad_rank(pairs[i].rank), bytes = element_bytes(pairs[i].a_type);
        if (!(room[used] = calloc(rows * K, bytes))) {
            rc = err_memory(e, "the adapter");
            break;
        }
        copy_padded(room[used], K, pairs[i].a, pairs[i].rank, K, bytes);
        parts[used] = (struct device_weight_part){.type = pairs[i].a_type, .rows = rows, .raw = room[used]};
        used++;
        *rank += rows;
    }
    if (!rc && used)
        rc = create(g, DEVICE_W_F16, K, parts, used, DEVICE_ROWS_APPENDED, out, e);
    for (size_t i = 0; i < 3; i++)
        free(room[i]);
    return rc;
}

static int upload_b(struct device_shared *g, const struct lora_raw *pair, struct device_weight **out,
                    struct err *e)
{
    size_t K = pad_rank(pair->rank), bytes = element_bytes(pair->b_type);
    uint8_t *room = calloc(pair->N * K, bytes);
    if (!room)
        return err_memory(e, "the adapter");
    copy_padded(room, K, pair->b, pair->N, pair->rank, bytes);
    struct device_weight_part part = {.type = pair->b_type, .rows = pair->N, .raw = room};
    int rc = create(g, DEVICE_W_F16, K, &part, 1, DEVICE_ROWS_APPENDED, out, e);
    free(room);
    return rc;
}

static int upload_lora(struct device_shared *g, const struct lora *lora, size_t l, struct err *e)
{
    const struct device_shape *p = &g->shape;
    struct device_layer *to = &g->layers[l];
    const size_t columns[LORA_TARGETS] = {0, p->H * p->D, (p->H + p->HK) * p->D, 0};
    struct lora_raw pairs[LORA_TARGETS];
    for (int i = 0; i < LORA_TARGETS; i++)
        pairs[i] = lora_raw(lora, l, (enum lora_target)i);
    int rc = upload_a(g, pairs, 3, p->C, &to->lora_a, &to->lora_rank, e);
    if (!rc)
        rc = upload_a(g, pairs + LORA_O, 1, p->H * p->D, &to->lora_o, &to->lora_o_rank, e);
    size_t from = 0;
    for (int i = 0; !rc && i < LORA_TARGETS; i++) {
        if (!pairs[i].a)
            continue;
        to->lora[i] = (struct device_lora){.from = i == LORA_O ? 0 : from, .to = columns[i]};
        from += pad_rank(pairs[i].rank);
        rc = upload_b(g, &pairs[i], &to->lora[i].b, e);
    }
    return rc;
}

/* ---- the whole --------------------------------------------------------------------------------------- */

/* Output logits decide the word: they keep 8 bits where the layers have 4. */
static enum device_weight_format output_format(enum device_weight_format format)
{
    return format == DEVICE_W_W4 || format == DEVICE_W_W4G32 ? DEVICE_W_W8 : format;
}

int weights_upload(struct device_shared *g, enum device_weight_format format, const struct model *m,
                   const struct lora *lora, struct err *e)
{
    const struct device_shape *p = &g->shape;
    const struct model_weights *w = model_weights(m);
    g->layers = calloc(p->L, sizeof *g->layers);
    if (!g->layers)
        return err_memory(e, "the device's layers");
    int rc = 0;
    for (size_t l = 0; !rc && l < p->L; l++) {
        rc = upload_layer(g, format, m, l, e);
        if (!rc && lora)
            rc = upload_lora(g, lora, l, e);
    }
    struct device_weight_part output = part_of(model_output(m));
    if (!rc)
        rc = create(g, output_format(format), p->C, &output, 1, DEVICE_ROWS_APPENDED, &g->output, e);
    if (!rc)
        rc = upload_vector(g, w->output_norm, p->C, &g->output_norm, e);
    if (!rc) {
        size_t bytes = p->V * tensor_row_bytes(w->embed_type, p->C);
        void *raw;
        rc = shared_take_copy(g, w->embed, bytes, &raw, e);
        g->embed = raw;
        g->embed_type = w->embed_type;
        g->weight_bytes += bytes;
    }
    return rc;
}

static int random_weight(struct device_shared *g, enum device_weight_format format, size_t N, size_t K,
                         uint64_t *seed, struct device_weight **out, struct err *e)
{
    int rc = g->ops->weight_random(g->device, format, N, K, (*seed)++, out, e);
    if (!rc) {
        g->weight_bytes += g->ops->weight_bytes(*out);
        g->step_bytes += g->ops->weight_bytes(*out);
    }
    return rc;
}

static int constant_vector(struct device_shared *g, size_t n, float value, const float **out, struct err *e)
{
    float *all = malloc(n * sizeof *all);
    if (!all)
        return err_memory(e, "a vector");
    for (size_t i = 0; i < n; i++)
        all[i] = value;
    int rc = upload_vector(g, all, n, out, e);
    free(all);
    return rc;
}

static int random_layer(struct device_shared *g, enum device_weight_format format, size_t l, uint64_t *seed,
                        struct err *e)
{
    const struct device_shape *p = &g->shape;
    struct device_layer *to = &g->layers[l];
    size_t qkv = (p->H + 2 * p->HK) * p->D;
    int rc = random_weight(g, format, qkv, p->C, seed, &to->qkv, e);
    if (!rc)
        rc = random_weight(g, format, p->C, p->H * p->D, seed, &to->o, e);
    if (!rc)
        rc = random_weight(g, format, 2 * p->F, p->C, seed, &to->gate_up, e);
    if (!rc)
        rc = random_weight(g, format, p->C, p->F, seed, &to->down, e);
    if (!rc)
        rc = constant_vector(g, p->C, 1, &to->attn_norm, e);
    if (!rc)
        rc = constant_vector(g, p->C, 1, &to->ffn_norm, e);
    if (!rc && p->qkv_bias)
        rc = constant_vector(g, qkv, 0.01f, &to->bias, e);
    return rc;
}

/* Rows of an fp16 table: some thousand different ones, then the same again, by copies on the device. */
static int random_embedding(struct device_shared *g, uint64_t seed, struct err *e)
{
    const struct device_shape *p = &g->shape;
    size_t rows = p->V < 1024 ? p->V : 1024, row = p->C * sizeof(uint16_t);
    uint16_t *some = malloc(rows * row);
    if (!some)
        return err_memory(e, "an embedding");
    for (size_t i = 0; i < rows * p->C; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        some[i] = (uint16_t)((seed >> 40 & 0x8000) | (0x3000 + (seed >> 33 & 0x0bff))); /* +-0.125 .. 0.875 */
    }
    void *raw;
    int rc = shared_take(g, p->V * row, &raw, e);
    for (size_t at = 0; !rc && at < p->V; at += rows)
        g->ops->upload(g->device, DEVICE_COMPUTE, (uint8_t *)raw + at * row, some,
                       (p->V - at < rows ? p->V - at : rows) * row);
    if (!rc)
        rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
    free(some);
    g->embed = raw;
    g->embed_type = TENSOR_F16;
    g->weight_bytes += p->V * row;
    return rc;
}

int weights_random(struct device_shared *g, enum device_weight_format format, uint64_t seed, struct err *e)
{
    const struct device_shape *p = &g->shape;
    if (format == DEVICE_W_AUTO)
        format = DEVICE_W_F16;
    g->layers = calloc(p->L, sizeof *g->layers);
    if (!g->layers)
        return err_memory(e, "the device's layers");
    int rc = 0;
    for (size_t l = 0; !rc && l < p->L; l++)
        rc = random_layer(g, format, l, &seed, e);
    if (!rc)
        rc = random_weight(g, output_format(format), p->V, p->C, &seed, &g->output, e);
    if (!rc)
        rc = constant_vector(g, p->C, 1, &g->output_norm, e);
    return rc ? rc : random_embedding(g, seed, e);
}

void weights_free(struct device_shared *g)
{
    for (size_t l = 0; g->layers && l < g->shape.L; l++) {
        struct device_layer *y = &g->layers[l];
        struct device_weight *all[] = {y->qkv, y->o, y->gate_up, y->down, y->lora_a, y->lora_o};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            g->ops->weight_free(g->device, all[i]);
        for (size_t i = 0; i < LORA_TARGETS; i++)
            g->ops->weight_free(g->device, y->lora[i].b);
    }
    g->ops->weight_free(g->device, g->output);
}
