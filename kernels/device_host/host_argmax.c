/* SPDX-License-Identifier: Apache-2.0 */
/* host_argmax.c - index of the largest of each row; the lower one among equals, NaN counts as -infinity. */
#include "kernels/device_host/device_host.h"

#include <math.h>

static void run(struct device *d, const void *args)
{
    (void)d;
    const struct device_argmax_args *a = args;
    for (size_t t = 0; t < a->T; t++) {
        const float *x = a->x + t * a->ldx;
        size_t best = 0;
        float most = isnan(x[0]) ? -INFINITY : x[0];
        for (size_t i = 1; i < a->N; i++)
            if (x[i] > most) { /* never true of a NaN */
                most = x[i];
                best = i;
            }
        a->best[t] = (uint32_t)best;
    }
}

void host_argmax(struct device *d, const struct device_argmax_args *a)
{
    if (!a->N || a->N > UINT32_MAX || a->ldx < a->N) {
        host_keep(d, ERR_USAGE, "argmax: a shape that it does not take");
        return;
    }
    host_run(d, run, a, sizeof *a);
}
