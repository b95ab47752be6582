/* SPDX-License-Identifier: Apache-2.0 */
/* ref_pointwise.c - silu_mul, add and the fp16 conversions in plain C. */
#include "kernels/ref/ref.h"

#include <math.h>

#include "kernels/half.h"
#include "kernels/rows.h"

static void silu_rows(const void *args, size_t t0, size_t t1)
{
    const struct silu_mul_args *a = args;
    for (size_t t = t0; t < t1; t++)
        for (size_t f = 0; f < a->F; f++) {
            float g = a->gate[t * a->ld + f];
            a->y[t * a->ld + f] = g / (1.0f + expf(-g)) * a->up[t * a->ld + f];
        }
}

void ref_silu_mul(const struct silu_mul_args *a)
{
    rows_run(a->pool, a->T, silu_rows, a);
}

void ref_add(const struct add_args *a)
{
    for (size_t i = 0; i < a->n; i++)
        a->y[i] = a->a[i] + a->b[i];
}

void ref_half_encode(const struct half_encode_args *a)
{
    for (size_t i = 0; i < a->n; i++)
        a->y[i] = half_from_float(a->x[i]);
}

void ref_half_decode(const struct half_decode_args *a)
{
    for (size_t i = 0; i < a->n; i++)
        a->y[i] = half_to_float(a->x[i]);
}
