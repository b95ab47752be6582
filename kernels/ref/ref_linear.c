/* SPDX-License-Identifier: Apache-2.0 */
/* ref_linear.c - linear in plain C: the specification of the formula in kernels/linear.h. */
#include "kernels/ref/ref.h"

#include <math.h>

#include "kernels/half.h"

static void quantise(const float *x, size_t K, int8_t *codes, struct act_block *block)
{
    for (size_t b = 0; b < K / QUANT_BLOCK; b++) {
        uint32_t top = 0; /* magnitudes as integers: NaN is above infinity is above every number */
        for (size_t k = 0; k < QUANT_BLOCK; k++) {
            uint32_t bits = float_bits(x[b * QUANT_BLOCK + k]) & 0x7fffffffu;
            top = bits > top ? bits : top;
        }
        struct act_scale scale = act_scale_of(float_from_bits(top));
        int32_t sum = 0;
        for (size_t k = 0; k < QUANT_BLOCK; k++) {
            float v = scale.inverse > 0 ? x[b * QUANT_BLOCK + k] * scale.inverse : 0;
            int32_t q = (int32_t)rintf(v), low = ((q + 64) & 127) - 64;
            codes[b * QUANT_BLOCK + k] = (int8_t)((q - low) / 128);
            codes[K + b * QUANT_BLOCK + k] = (int8_t)low;
            sum += q;
        }
        block[b] = (struct act_block){.d = scale.d, .s = scale.d * (float)sum, .sum = sum};
    }
}

static unsigned code_at(const struct weight *w, const uint8_t *lines, size_t r, size_t k)
{
    if (w->type == TENSOR_Q8_0)
        return lines[k / 4 * LINE_BYTES + 4 * r + k % 4];
    unsigned both = lines[k / 8 * LINE_BYTES + 4 * r + k % 4];
    return k % 8 < 4 ? both & 15 : both >> 4;
}

static float quantised_dot(const struct weight *w, size_t panel, size_t r, const int8_t *codes,
                           const struct act_block *block)
{
    const uint8_t *lines = weight_panel(w, panel);
    const uint16_t *params = weight_params(w, panel);
    size_t line_bytes = type_block_lines(w->type) * LINE_BYTES;
    float acc = 0;
    for (size_t b = 0; b < w->cols / QUANT_BLOCK; b++) {
        int32_t dot = -type_code_offset(w->type) * block[b].sum;
        for (size_t k = 0; k < QUANT_BLOCK; k++) {
            size_t at = b * QUANT_BLOCK + k;
            dot += (int32_t)code_at(w, lines, r, k) * (128 * codes[at] + codes[w->cols + at]);
        }
        acc = fmaf((float)dot, half_to_float(params[r]) * block[b].d, acc);
        if (w->type == TENSOR_Q4_1)
            acc = fmaf(half_to_float(params[PANEL_ROWS + r]), block[b].s, acc);
        lines += line_bytes;
        params += type_block_params(w->type);
    }
    return acc;
}

static float float_dot(const struct weight *w, size_t panel, size_t r, const float *x)
{
    const uint8_t *data = weight_panel(w, panel);
    float acc = 0;
    for (size_t k = 0; k < w->cols; k++) {
        size_t at = k * PANEL_ROWS + r;
        float v;
        if (w->type == TENSOR_F32)
            v = ((const float *)(const void *)data)[at];
        else if (w->type == TENSOR_F16)
            v = half_to_float(((const uint16_t *)(const void *)data)[at]);
        else
            v = bfloat_to_float(((const uint16_t *)(const void *)data)[at]);
        acc = fmaf(x[k], v, acc);
    }
    return acc;
}

static void finish(const struct linear_out *out, size_t t, size_t n, float v)
{
    float *y = out->y + t * out->ldy + n;
    if (out->bias)
        v += out->bias[n];
    *y = out->accumulate ? *y + v : v;
}

static void tile(const struct linear_tile *a)
{
    const struct weight *w = a->out->w;
    for (size_t n = a->panel0 * PANEL_ROWS; n < a->panel1 * PANEL_ROWS && n < w->rows; n++)
        for (size_t t = a->t0; t < a->t1; t++) {
            float v;
            if (type_is_quantised(w->type))
                v = quantised_dot(w, n / PANEL_ROWS, n % PANEL_ROWS, a->acts->codes + t * 2 * a->acts->K,
                                  a->acts->block + t * (a->acts->K / QUANT_BLOCK));
            else
                v = float_dot(w, n / PANEL_ROWS, n % PANEL_ROWS, a->x + t * a->ldx);
            finish(a->out, t, n, v);
        }
}

void ref_linear(const struct linear_args *a)
{
    static const struct linear_isa isa = {.quantise = quantise, .tile_quantised = tile, .tile_float = tile};
    linear_run(&isa, a);
}

void ref_lora(const struct lora_args *a)
{
    lora_run(ref_linear, a);
}
