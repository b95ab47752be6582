/* SPDX-License-Identifier: Apache-2.0 */
/* linear_body.h - what the vector linears share: storing outputs, and weights of F32, F16, BF16 (one fma
 * chain over ascending k per output; lanes are outputs). Included by linear_avx2.c and linear_avx512vnni.c.
 */
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/half.h"

enum {
    PANEL_VECTORS = PANEL_ROWS / VW,
    FLOAT_TILE = 8 / PANEL_VECTORS /* tokens: eight chains hide the latency of fma */
};

/* y of token t, panel p; the last panel may be narrower than its vectors. */
INLINE void store_outputs(const struct linear_out *out, size_t t, size_t panel, const vf v[PANEL_VECTORS])
{
    size_t n = panel * PANEL_ROWS, rows = out->w->rows - n;
    float *y = out->y + t * out->ldy + n;
    if (rows >= PANEL_ROWS) {
#pragma GCC unroll 2
        for (int i = 0; i < PANEL_VECTORS; i++) {
            vf r = v[i];
            if (out->bias)
                r = vf_add(r, vf_load(out->bias + n + (size_t)i * VW));
            vf_store(y + i * VW, out->accumulate ? vf_add(vf_load(y + i * VW), r) : r);
        }
        return;
    }
    float values[PANEL_ROWS];
    for (int i = 0; i < PANEL_VECTORS; i++)
        vf_store(values + i * VW, v[i]);
    for (size_t i = 0; i < rows; i++) {
        float r = out->bias ? values[i] + out->bias[n + i] : values[i];
        y[i] = out->accumulate ? y[i] + r : r;
    }
}

INLINE vf load_float_weight(const enum tensor_type type, const uint8_t *at)
{
    if (type == TENSOR_F32)
        return vf_load((const float *)(const void *)at);
    if (type == TENSOR_F16)
        return vf_load_half((const uint16_t *)(const void *)at);
    return vf_load_bfloat((const uint16_t *)(const void *)at);
}

INLINE void float_rows(const struct linear_tile *a, const enum tensor_type type, const int n, size_t panel,
                       size_t t)
{
    const size_t unit = type == TENSOR_F32 ? 4 : 2;
    const struct weight *w = a->out->w;
    const uint8_t *at = weight_panel(w, panel);
    vf acc[FLOAT_TILE][PANEL_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < n; r++)
#pragma GCC unroll 2
        for (int i = 0; i < PANEL_VECTORS; i++)
            acc[r][i] = vf_zero();
    const float *x = a->x + t * a->ldx;
    for (size_t k = 0; k < w->cols; k++, at += PANEL_ROWS * unit) {
        vf row[PANEL_VECTORS];
#pragma GCC unroll 2
        for (int i = 0; i < PANEL_VECTORS; i++)
            row[i] = load_float_weight(type, at + (size_t)i * VW * unit);
#pragma GCC unroll 8
        for (int r = 0; r < n; r++) {
            vf v = vf_set1(x[(size_t)r * a->ldx + k]);
#pragma GCC unroll 2
            for (int i = 0; i < PANEL_VECTORS; i++)
                acc[r][i] = vf_fma(v, row[i], acc[r][i]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n; r++)
        store_outputs(a->out, t + (size_t)r, panel, acc[r]);
}

INLINE void float_panel(const struct linear_tile *a, const enum tensor_type type, size_t panel)
{
    size_t t = a->t0;
    for (; t + FLOAT_TILE <= a->t1; t += FLOAT_TILE)
        float_rows(a, type, FLOAT_TILE, panel, t);
    for (; t < a->t1; t++)
        float_rows(a, type, 1, panel, t);
}

static void tile_float(const struct linear_tile *a)
{
    for (size_t panel = a->panel0; panel < a->panel1; panel++)
        switch (a->out->w->type) {
        case TENSOR_F32:
            float_panel(a, TENSOR_F32, panel);
            break;
        case TENSOR_F16:
            float_panel(a, TENSOR_F16, panel);
            break;
        default:
            float_panel(a, TENSOR_BF16, panel);
        }
}
