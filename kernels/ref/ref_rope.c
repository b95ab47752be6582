/* SPDX-License-Identifier: Apache-2.0 */
/* ref_rope.c - rotary positions in plain C.
 *
 * A phase is a fraction of a turn in 64-bit fixed point, so pos * step wraps exactly where whole turns drop
 * out: at position 10,000,000 it is still right to 1e-11 rad, where a float product is off by 0.25.
 */
#include "kernels/ref/ref.h"

#include <math.h>

#include "kernels/rows.h"

void ref_rope_table(const struct rope_table_args *a)
{
    for (size_t t = 0; t < a->T; t++)
        for (size_t i = 0; i < a->half; i++) {
            uint64_t phase = (a->pos0 + t) * a->steps[i];
            /* 2 pi / 2^64 times the phase as a signed number: -pi..pi */
            double angle = (double)(int64_t)phase * (6.283185307179586476925 * 0x1p-64);
            a->cos[t * a->half + i] = (float)cos(angle) * a->attn_factor;
            a->sin[t * a->half + i] = (float)sin(angle) * a->attn_factor;
        }
}

static void run(const void *args, size_t t0, size_t t1)
{
    const struct rope_apply_args *a = args;
    size_t half = a->half, next = a->kind == ROPE_PAIRS ? 1 : half, step = a->kind == ROPE_PAIRS ? 2 : 1;
    for (size_t t = t0; t < t1; t++)
        for (size_t h = 0; h < a->heads; h++) {
            float *x = a->x + t * a->ldx + h * a->D;
            const float *c = a->cos + t * half, *s = a->sin + t * half;
            for (size_t i = 0; i < half; i++) {
                float x0 = x[i * step], x1 = x[i * step + next];
                x[i * step] = x0 * c[i] - x1 * s[i];
                x[i * step + next] = x0 * s[i] + x1 * c[i];
            }
        }
}

void ref_rope_apply(const struct rope_apply_args *a)
{
    rows_run(a->pool, a->T, run, a);
}
