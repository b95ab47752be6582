/* SPDX-License-Identifier: Apache-2.0 */
/* host_weight.c - weights of the host device: the values that the format's codes stand for, in f32.
 *
 * The codes are made by weight_code.h, as a card's are, so both compute with the same numbers.
 */
#include "kernels/device_host/host_weight.h"

#include <stdlib.h>

#include "engine/base/bytes.h"
#include "kernels/weight_code.h"

static int row_init(struct weight_row *row, size_t K, struct err *e)
{
    size_t groups = K / 32 + 1;
    *row = (struct weight_row){0};
    row->codes = calloc(K, sizeof *row->codes);
    row->scale = calloc(groups, sizeof *row->scale);
    row->min = calloc(groups, sizeof *row->min);
    row->values = calloc(K, sizeof *row->values);
    return row->codes && row->scale && row->min && row->values ? 0 : err_memory(e, "a weight's row");
}

static void row_fini(struct weight_row *row)
{
    free(row->codes);
    free(row->scale);
    free(row->min);
    free(row->values);
}

static int weight_new(enum device_weight_format format, size_t N, size_t K, struct device_weight **out,
                      struct err *e)
{
    size_t count, bytes;
    *out = NULL;
    if (!N || !K || size_mul(N, K, &count) || size_mul(count, sizeof(float), &bytes))
        return err_set(e, ERR_LIMIT, "a weight of %zu x %zu does not fit memory", N, K);
    struct device_weight *w = calloc(1, sizeof *w);
    if (!w)
        return err_memory(e, "a weight");
    *w = (struct device_weight){.format = format, .N = N, .K = K, .values = malloc(bytes)};
    if (!w->values) {
        free(w);
        return err_memory(e, "a weight's values");
    }
    *out = w;
    return 0;
}

int host_weight_create(struct device *d, enum device_weight_format format, size_t K,
                       const struct device_weight_part *parts, size_t n_parts, enum device_weight_order order,
                       struct device_weight **out, struct err *e)
{
    size_t N = 0;
    struct device_weight *w;
    struct weight_row row;
    (void)d;
    *out = NULL;
    int rc = weight_parts_rows(format, K, parts, n_parts, order, &N, e);
    format = weight_format_of(format, parts, n_parts);
    rc = rc ? rc : weight_new(format, N, K, &w, e);
    if (rc)
        return rc;
    rc = row_init(&row, K, e);
    for (size_t n = 0; !rc && n < N; n++) {
        enum tensor_type type;
        const uint8_t *raw = weight_parts_row(parts, order, K, n, &type);
        rc = weight_code_row(format, type, raw, K, &row, e);
        if (!rc)
            weight_decode_row(format, &row, K, w->values + n * K);
    }
    row_fini(&row);
    if (rc)
        host_weight_free(d, w);
    else
        *out = w;
    return rc;
}

int host_weight_random(struct device *d, enum device_weight_format format, size_t N, size_t K, uint64_t seed,
                       struct device_weight **out, struct err *e)
{
    (void)d;
    int rc = weight_new(format == DEVICE_W_AUTO ? DEVICE_W_F16 : format, N, K, out, e);
    if (rc)
        return rc;
    float spread = sqrtf(3.0f / (float)K) * 0x1p-31f; /* uniform of variance 1 / K */
    for (size_t i = 0; i < N * K; i++) {
        uint64_t x = seed + (i + 1) * 0x9e3779b97f4a7c15u;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
        x = (x ^ x >> 27) * 0x94d049bb133111ebu;
        (*out)->values[i] = half_to_float(half_from_float(spread * (float)(int32_t)(x >> 32)));
    }
    return 0;
}

void host_weight_free(struct device *d, struct device_weight *w)
{
    (void)d;
    if (!w)
        return;
    free(w->values);
    free(w);
}

size_t host_weight_bytes(const struct device_weight *w)
{
    return w->N * w->K * sizeof *w->values;
}
