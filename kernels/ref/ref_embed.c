/* SPDX-License-Identifier: Apache-2.0 */
/* ref_embed.c - rows of a raw tensor as floats, by token id. One row a token: speed is of no matter. */
#include "kernels/ref/ref.h"

#include <assert.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/rows.h"

static uint16_t raw_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void quantised_row(enum tensor_type type, const uint8_t *raw, size_t C, float *y)
{
    size_t unit = tensor_row_bytes(type, QUANT_BLOCK);
    for (size_t b = 0; b < C / QUANT_BLOCK; b++, raw += unit, y += QUANT_BLOCK) {
        float d = half_to_float(raw_u16(raw));
        if (type == TENSOR_Q8_0) {
            for (size_t k = 0; k < QUANT_BLOCK; k++)
                y[k] = d * (float)(int8_t)raw[2 + k];
            continue;
        }
        float m = type == TENSOR_Q4_1 ? half_to_float(raw_u16(raw + 2)) : 0;
        int offset = type == TENSOR_Q4_0 ? 8 : 0;
        const uint8_t *codes = raw + (type == TENSOR_Q4_1 ? 4 : 2);
        for (size_t k = 0; k < QUANT_BLOCK / 2; k++) {
            y[k] = d * (float)((codes[k] & 15) - offset) + m;
            y[k + QUANT_BLOCK / 2] = d * (float)((codes[k] >> 4) - offset) + m;
        }
    }
}

static void run(const void *args, size_t t0, size_t t1)
{
    const struct embed_args *a = args;
    size_t row_bytes = tensor_row_bytes(a->type, a->C);
    assert(row_bytes);
    for (size_t t = t0; t < t1; t++) {
        const uint8_t *raw = (const uint8_t *)a->raw + a->ids[t] * row_bytes;
        float *y = a->y + t * a->ldy;
        if (type_is_quantised(a->type))
            quantised_row(a->type, raw, a->C, y);
        else if (a->type == TENSOR_F32)
            memcpy(y, raw, row_bytes);
        else
            for (size_t c = 0; c < a->C; c++)
                y[c] = a->type == TENSOR_F16 ? half_to_float(raw_u16(raw + 2 * c))
                                             : bfloat_to_float(raw_u16(raw + 2 * c));
    }
}

void ref_embed(const struct embed_args *a)
{
    rows_run(a->pool, a->T, run, a);
}
