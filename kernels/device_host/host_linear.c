/* SPDX-License-Identifier: Apache-2.0 */
/* host_linear.c - the linear op in plain C: y = epilogue(x' . W^T + bias).
 *
 * x' is rounded as device.h says: fp16; for T > DEVICE_DECODE_T also to bf16 (BF16 weights) or E4M3 (FP8
 * weights). Products are summed in 16 f32 lanes over K, the lanes in f64: a row's bits hang on that row
 * alone.
 */
#include <math.h>
#include <string.h>

#include "kernels/device_host/host_weight.h"
#include "kernels/weight_code.h"

enum { LANES = 16, ROWS = 8 }; /* rows of x that go through the weight together */

size_t host_linear_scratch_bytes(struct device *d, size_t T, size_t K_max, size_t N_max)
{
    (void)d, (void)T, (void)N_max;
    return (ROWS * (K_max + LANES) * sizeof(float) + 255) / 256 * 256;
}

/* One row of x as the product sees it. */
static void prepare(const struct device_linear_args *a, size_t t, float *to)
{
    size_t K = a->w->K;
    if (a->norm_w) {
        const float *x = (const float *)a->x + t * a->ldx;
        double sum = 0;
        for (size_t k = 0; k < K; k++)
            sum += (double)x[k] * x[k];
        float factor = 1.0f / sqrtf((float)(sum / (double)K) + a->eps);
        for (size_t k = 0; k < K; k++)
            to[k] = half_to_float(half_from_float(half_clamped(x[k] * factor * a->norm_w[k])));
    } else {
        const uint16_t *x = (const uint16_t *)a->x + t * a->ldx;
        for (size_t k = 0; k < K; k++)
            to[k] = half_to_float(x[k]);
    }
    if (a->T <= DEVICE_DECODE_T)
        return;
    if (a->w->format == DEVICE_W_BF16) {
        for (size_t k = 0; k < K; k++)
            to[k] = bfloat_to_float(bfloat_from_float(to[k]));
    } else if (a->w->format == DEVICE_W_FP8) {
        float amax = weight_amax(to, K), scale = amax > 1e-30f ? amax / E4M3_MAX : 1.0f;
        for (size_t k = 0; k < K; k++)
            to[k] = e4m3_to_float(e4m3_from_float(to[k] / scale)) * scale;
    }
}

static float dot(const float *x, const float *w, size_t K)
{
    float lane[LANES] = {0};
    double sum = 0;
    size_t k = 0;
    for (; k + LANES <= K; k += LANES)
        for (size_t i = 0; i < LANES; i++)
            lane[i] += x[k + i] * w[k + i];
    for (; k < K; k++)
        lane[k % LANES] += x[k] * w[k];
    for (size_t i = 0; i < LANES; i++)
        sum += lane[i];
    return (float)sum;
}

static uint16_t to_half(float f)
{
    return half_from_float(half_clamped(f));
}

/* `acc` of weight row n and row t; `gate` is that of row n - 1, for the SiLU epilogue. */
static void finish(const struct device_linear_args *a, size_t t, size_t n, float gate, float acc)
{
    switch (a->epilogue) {
    case DEVICE_STORE_F32:
        ((float *)a->y)[t * a->ldy + n] = acc;
        break;
    case DEVICE_ADD_F32:
        ((float *)a->y)[t * a->ldy + n] += acc;
        break;
    case DEVICE_STORE_F16:
        ((uint16_t *)a->y)[t * a->ldy + n] = to_half(acc);
        break;
    case DEVICE_SILU_MUL:
        if (n % 2)
            ((uint16_t *)a->y)[t * a->ldy + n / 2] = to_half(gate / (1.0f + expf(-gate)) * acc);
        break;
    }
}

static void run(struct device *d, const void *args)
{
    const struct device_linear_args *a = args;
    const struct device_weight *w = a->w;
    float *x = a->scratch;
    if (!a->T || a->T > DEVICE_CHUNK_T || a->scratch_bytes < host_linear_scratch_bytes(d, a->T, w->K, w->N) ||
        (a->epilogue == DEVICE_SILU_MUL && w->N % 2)) {
        host_keep(d, ERR_USAGE, "linear: shapes or scratch that do not fit");
        return;
    }
    for (size_t t0 = 0; t0 < a->T; t0 += ROWS) {
        size_t rows = a->T - t0 < ROWS ? a->T - t0 : ROWS;
        float gate[ROWS] = {0};
        for (size_t i = 0; i < rows; i++)
            prepare(a, t0 + i, x + i * w->K);
        for (size_t n = 0; n < w->N; n++) {
            for (size_t i = 0; i < rows; i++) {
                float acc = dot(x + i * w->K, w->values + n * w->K, w->K);
                acc += a->bias ? a->bias[n] : 0;
                finish(a, t0 + i, n, gate[i], acc);
                gate[i] = acc;
            }
        }
    }
}

void host_linear(struct device *d, const struct device_linear_args *a)
{
    host_run(d, run, a, sizeof *a);
}
