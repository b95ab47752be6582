/* SPDX-License-Identifier: Apache-2.0 */
/* ref_norm.c - RMS norm in plain C; the sum of squares in double, ascending. */
#include "kernels/ref/ref.h"

#include <math.h>

#include "kernels/rows.h"

static void run(const void *args, size_t t0, size_t t1)
{
    const struct rms_norm_args *a = args;
    for (size_t t = t0; t < t1; t++) {
        const float *x = a->x + t * a->ldx;
        float *y = a->y + t * a->ldy;
        double sum = 0;
        for (size_t c = 0; c < a->C; c++)
            sum += (double)x[c] * (double)x[c];
        float scale = 1.0f / sqrtf((float)(sum / (double)a->C) + a->eps);
        for (size_t c = 0; c < a->C; c++)
            y[c] = x[c] * scale * a->w[c];
    }
}

void ref_rms_norm(const struct rms_norm_args *a)
{
    rows_run(a->pool, a->T, run, a);
}
