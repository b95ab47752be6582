/* SPDX-License-Identifier: Apache-2.0 */
/* misc_body.h - the small ops in vectors: norm, SiLU, rope, fp16; included once by misc_avx2.c and
 * misc_avx512.c. rope and fp16 give the very bits of the plain C ops. */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "kernels/half.h"
#include "kernels/page.h"
#include "kernels/rows.h"

/* Four vectors of partial sums, joined by one fixed tree: the order depends on C alone. */
static float sum_of_squares(const float *x, size_t C)
{
    vf acc[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    size_t c = 0;
    for (; c + 4 * VW <= C; c += 4 * VW)
        for (size_t i = 0; i < 4; i++) {
            vf v = vf_load(x + c + i * VW);
            acc[i] = vf_fma(v, v, acc[i]);
        }
    for (; c + VW <= C; c += VW) {
        vf v = vf_load(x + c);
        acc[0] = vf_fma(v, v, acc[0]);
    }
    float sum = vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
    for (; c < C; c++)
        sum += x[c] * x[c];
    return sum;
}

static void rms_norm_rows(const void *args, size_t t0, size_t t1)
{
    const struct rms_norm_args *a = args;
    for (size_t t = t0; t < t1; t++) {
        const float *x = a->x + t * a->ldx;
        float *y = a->y + t * a->ldy;
        float scale = 1.0f / sqrtf(sum_of_squares(x, a->C) / (float)a->C + a->eps);
        size_t c = 0;
        for (; c + VW <= a->C; c += VW)
            vf_store(y + c, vf_mul(vf_mul(vf_load(x + c), vf_set1(scale)), vf_load(a->w + c)));
        for (; c < a->C; c++)
            y[c] = x[c] * scale * a->w[c];
    }
}

void OP(rms_norm)(const struct rms_norm_args *a)
{
    rows_run(a->pool, a->T, rms_norm_rows, a);
}

INLINE vf silu_mul_vector(vf gate, vf up)
{
    vf e = vf_exp(vf_sub(vf_zero(), gate));
    return vf_mul(vf_div(gate, vf_add(vf_set1(1), e)), up);
}

static void silu_rows(const void *args, size_t t0, size_t t1)
{
    const struct silu_mul_args *a = args;
    for (size_t t = t0; t < t1; t++) {
        const float *gate = a->gate + t * a->ld, *up = a->up + t * a->ld;
        float *y = a->y + t * a->ld;
        size_t f = 0;
        for (; f + VW <= a->F; f += VW)
            vf_store(y + f, silu_mul_vector(vf_load(gate + f), vf_load(up + f)));
        for (; f < a->F; f++)
            y[f] = vf_first(silu_mul_vector(vf_set1(gate[f]), vf_set1(up[f])));
    }
}

void OP(silu_mul)(const struct silu_mul_args *a)
{
    rows_run(a->pool, a->T, silu_rows, a);
}

static void rotate_halves(float *x, const float *c, const float *s, size_t half)
{
    size_t i = 0;
    for (; i + VW <= half; i += VW) {
        vf x0 = vf_load(x + i), x1 = vf_load(x + half + i), cc = vf_load(c + i), ss = vf_load(s + i);
        vf_store(x + i, vf_sub(vf_mul(x0, cc), vf_mul(x1, ss)));
        vf_store(x + half + i, vf_add(vf_mul(x0, ss), vf_mul(x1, cc)));
    }
    for (; i < half; i++) {
        float x0 = x[i], x1 = x[half + i];
        x[i] = x0 * c[i] - x1 * s[i];
        x[half + i] = x0 * s[i] + x1 * c[i];
    }
}

static void rotate_pairs(float *x, const float *c, const float *s, size_t half)
{
    size_t i = 0;
    for (; i + VW / 2 <= half; i += VW / 2)
        vf_rotate_pairs(x + 2 * i, c + i, s + i);
    for (; i < half; i++) {
        float x0 = x[2 * i], x1 = x[2 * i + 1];
        x[2 * i] = x0 * c[i] - x1 * s[i];
        x[2 * i + 1] = x0 * s[i] + x1 * c[i];
    }
}

static void rope_rows(const void *args, size_t t0, size_t t1)
{
    const struct rope_apply_args *a = args;
    for (size_t t = t0; t < t1; t++)
        for (size_t h = 0; h < a->heads; h++) {
            float *x = a->x + t * a->ldx + h * a->D;
            if (a->kind == ROPE_PAIRS)
                rotate_pairs(x, a->cos + t * a->half, a->sin + t * a->half, a->half);
            else
                rotate_halves(x, a->cos + t * a->half, a->sin + t * a->half, a->half);
        }
}

void OP(rope_apply)(const struct rope_apply_args *a)
{
    rows_run(a->pool, a->T, rope_rows, a);
}

void OP(half_encode)(const struct half_encode_args *a)
{
    size_t i = 0;
    for (; i + VW <= a->n; i += VW)
        vf_store_half(a->y + i, vf_load(a->x + i));
    for (; i < a->n; i++)
        a->y[i] = half_from_float(a->x[i]);
}

void OP(half_decode)(const struct half_decode_args *a)
{
    size_t i = 0;
    for (; i + VW <= a->n; i += VW)
        vf_store(a->y + i, vf_load_half(a->x + i));
    for (; i < a->n; i++)
        a->y[i] = half_to_float(a->x[i]);
}
