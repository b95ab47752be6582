/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_gemm_convert.cu - either side of a large product: packed weights -> rows that cublasLt takes, and sums
 * -> what the epilogue wants.
 *
 * Expansion: bytes of the codes read, of the rows written; 4-8 % of the product's time at 8,192 tokens.
 */
#include <cuda_fp16.h>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/skinny_mma.cuh"

enum { EXPAND_WARPS = 8, FINISH_THREADS = 256 };

struct expand_args {
    const uint8_t *data;
    const float *row_scale;
    uint32_t units, ld, first_row, rows; /* rows [first_row, first_row + rows) of the weight */
    uint8_t *to;
};

/* value = scale * code + min of four pairs of whole numbers, in fp16. */
static __device__ __forceinline__ uint4 scaled(const uint32_t (&h)[4], float scale, float min)
{
    uint32_t out[4];
    for (int i = 0; i < 4; i++) {
        float2 v = __half22float2(*(const __half2 *)&h[i]);
        __half2 r = __floats2half2_rn(fminf(fmaxf(fmaf(scale, v.x, min), -65504.0f), 65504.0f),
                                      fminf(fmaxf(fmaf(scale, v.y, min), -65504.0f), 65504.0f));
        out[i] = *(uint32_t *)&r;
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

/* (scale, min) of row r (upper 0) or r + 8 in group g of a unit. */
template <int FORMAT>
static __device__ __forceinline__ float2 params_of(const struct expand_args &a, const uint8_t *unit, int g,
                                                   int r, int upper, float row_scale)
{
    const uint8_t *params = unit + layout_code_bytes(FORMAT);
    if constexpr (FORMAT == DEVICE_W_W4G32 || FORMAT == DEVICE_W_W4)
        return __half22float2(
            *(const __half2 *)(params + (FORMAT == DEVICE_W_W4 ? 0 : g) * 64 + r * 8 + upper * 4));
    else if constexpr (FORMAT == DEVICE_W_W8G32)
        return make_float2(__half2float(*(const __half *)(params + g * 32 + r * 4 + upper * 2)), 0.0f);
    else
        return make_float2(row_scale, 0.0f);
}

/* Eight columns of a lane's row, 16 bits each. */
template <int FORMAT>
static __device__ __forceinline__ uint4 columns16(const struct expand_args &a, const uint8_t *unit, int g,
                                                  int lane, int upper, float row_scale)
{
    const uint4 *codes = (const uint4 *)unit + lane;
    if constexpr (layout_bits(FORMAT) == 16) {
        uint4 w = codes[2 * g * 32], w2 = codes[(2 * g + 1) * 32];
        return upper ? make_uint4(w.y, w.w, w2.y, w2.w) : make_uint4(w.x, w.z, w2.x, w2.z);
    } else {
        uint32_t h[4];
        if constexpr (layout_bits(FORMAT) == 8) {
            uint4 w = codes[g * 32];
            uint32_t low[2], high[2];
            unpack8<FORMAT>(upper ? w.y : w.x, low);
            unpack8<FORMAT>(upper ? w.w : w.z, high);
            h[0] = low[0], h[1] = low[1], h[2] = high[0], h[3] = high[1];
        } else {
            uint4 w = codes[g / 2 * 32];
            unpack4(g & 1 ? (upper ? w.w : w.z) : (upper ? w.y : w.x), h);
        }
        float2 p = params_of<FORMAT>(a, unit, g, lane >> 2, upper, row_scale);
        return scaled(h, p.x, p.y);
    }
}

/* A warp a unit. CODES: bytes go as they are (E4M3). */
template <int FORMAT, bool CODES>
static __global__ void __launch_bounds__(EXPAND_WARPS * 32) expand_kernel(const struct expand_args a)
{
    int lane = threadIdx.x % 32, r = lane >> 2, j = lane & 3;
    uint32_t u = blockIdx.x * EXPAND_WARPS + threadIdx.x / 32, tile = blockIdx.y;
    if (u >= a.units)
        return;
    size_t first = a.first_row / TILE_ROWS + tile;
    const uint8_t *unit = a.data + (first * a.units + u) * layout_unit_bytes(FORMAT);
#pragma unroll
    for (int upper = 0; upper < 2; upper++) {
        uint32_t row = tile * TILE_ROWS + r + 8 * upper;
        float row_scale = 1;
        if constexpr (layout_has_row_scale(FORMAT))
            row_scale =
                a.row_scale[first * TILE_ROWS + r + 8 * upper] * (FORMAT == DEVICE_W_FP8 ? 256.0f : 1.0f);
#pragma unroll
        for (int g = 0; g < 4; g++) {
            uint32_t column = u * UNIT_COLS + g * 32 + j * 8;
            if (row >= a.rows || column >= a.ld)
                continue;
            size_t at = (size_t)row * a.ld + column;
            if constexpr (CODES) {
                uint4 w = ((const uint4 *)unit)[g * 32 + lane];
                *(uint2 *)(a.to + at) = upper ? make_uint2(w.y, w.w) : make_uint2(w.x, w.z);
            } else {
                *(uint4 *)(a.to + 2 * at) = columns16<FORMAT>(a, unit, g, lane, upper, row_scale);
            }
        }
    }
}

typedef void expand_function(const struct expand_args);

static expand_function *expand_of(enum device_weight_format format, enum gemm_type type)
{
    switch (format) {
    case DEVICE_W_F16:
        return type == GEMM_F16 ? expand_kernel<DEVICE_W_F16, false> : NULL;
    case DEVICE_W_BF16:
        return type == GEMM_BF16 ? expand_kernel<DEVICE_W_BF16, false> : NULL;
    case DEVICE_W_FP8:
        return type == GEMM_FP8   ? expand_kernel<DEVICE_W_FP8, true>
               : type == GEMM_F16 ? expand_kernel<DEVICE_W_FP8, false>
                                  : NULL;
    case DEVICE_W_W8:
        return type == GEMM_F16 ? expand_kernel<DEVICE_W_W8, false> : NULL;
    case DEVICE_W_W8G32:
        return type == GEMM_F16 ? expand_kernel<DEVICE_W_W8G32, false> : NULL;
    case DEVICE_W_W4:
        return type == GEMM_F16 ? expand_kernel<DEVICE_W_W4, false> : NULL;
    case DEVICE_W_W4G32:
        return type == GEMM_F16 ? expand_kernel<DEVICE_W_W4G32, false> : NULL;
    case DEVICE_W_AUTO:
        break;
    }
    return NULL;
}

void gemm_expand(struct device *d, const struct device_weight *w, size_t n0, size_t n1, enum gemm_type type,
                 size_t ld, void *to)
{
    struct expand_args a = {};
    expand_function *kernel = expand_of(w->format, type);
    if (!kernel) {
        cuda_refuse(d, "linear", "these weights do not become that type");
        return;
    }
    a.data = w->data;
    a.row_scale = w->row_scale;
    a.units = (uint32_t)w->units;
    a.ld = (uint32_t)ld;
    a.first_row = (uint32_t)n0;
    a.rows = (uint32_t)(n1 - n0);
    a.to = (uint8_t *)to;
    dim3 grid((unsigned)((w->units + EXPAND_WARPS - 1) / EXPAND_WARPS),
              (unsigned)((n1 - n0 + TILE_ROWS - 1) / TILE_ROWS));
    kernel<<<grid, EXPAND_WARPS * 32, 0, cuda_compute(d)>>>(a);
    cuda_check(d, "linear: expand");
}

/* ---- epilogues -------------------------------------------------------------------------------------------
 */

struct finish_args {
    const void *acc; /* [rows][columns] */
    const float *bias;
    void *y; /* at its first row and column */
    size_t ldy;
    uint32_t columns;
    int wide; /* eight columns at a time are aligned on both sides */
};

static __device__ __forceinline__ float clamped(float v)
{
    return fminf(fmaxf(v, -65504.0f), 65504.0f);
}

static __device__ __forceinline__ uint32_t half_bits(float v)
{
    return __half_as_ushort(__float2half_rn(clamped(v)));
}

static __device__ __forceinline__ float silu_mul(float gate, float up)
{
    gate = clamped(gate); /* fp16 sums may have become infinite */
    return gate / (1.0f + __expf(-gate)) * clamped(up);
}

/* Sums of columns c..c+7, zero past the end. */
template <typename ACC>
static __device__ __forceinline__ void sums_at(const struct finish_args &a, uint32_t c, float (&v)[8])
{
    const ACC *p = (const ACC *)a.acc + (size_t)blockIdx.y * a.columns + c;
    if (a.wide) {
        ACC at[8];
        for (uint32_t i = 0; i < 8 * sizeof(ACC) / 16; i++)
            ((uint4 *)at)[i] = ((const uint4 *)p)[i];
        for (int i = 0; i < 8; i++)
            v[i] = (float)at[i];
    } else {
        for (uint32_t i = 0; i < 8; i++)
            v[i] = c + i < a.columns ? (float)p[i] : 0;
    }
    for (uint32_t i = 0; a.bias && i < 8; i++)
        v[i] += c + i < a.columns ? a.bias[c + i] : 0;
}

/* Eight columns a thread. */
template <typename ACC, bool SILU>
static __global__ void __launch_bounds__(FINISH_THREADS) finish_kernel(const struct finish_args a)
{
    uint32_t c = 8 * (blockIdx.x * FINISH_THREADS + threadIdx.x), out[8];
    constexpr uint32_t OUT = SILU ? 4 : 8;
    if (c >= a.columns)
        return;
    float v[8];
    sums_at<ACC>(a, c, v);
    for (uint32_t i = 0; i < OUT; i++)
        out[i] = half_bits(SILU ? silu_mul(v[SILU ? 2 * i : 0], v[SILU ? 2 * i + 1 : 0]) : v[i]);
    uint32_t first = SILU ? c / 2 : c, end = SILU ? a.columns / 2 : a.columns;
    uint16_t *y = (uint16_t *)a.y + blockIdx.y * a.ldy + first;
    if (a.wide && SILU) {
        *(uint2 *)y = make_uint2(out[0] | out[1] << 16, out[2] | out[3] << 16);
    } else {
        for (uint32_t i = 0; i < OUT; i++)
            if (first + i < end)
                y[i] = (uint16_t)out[i];
    }
}

static __global__ void __launch_bounds__(FINISH_THREADS) bias_kernel(const struct finish_args a)
{
    uint32_t c = blockIdx.x * FINISH_THREADS + threadIdx.x;
    if (c < a.columns)
        ((float *)a.y)[blockIdx.y * a.ldy + c] += a.bias[c];
}

void gemm_finish(struct device *d, const struct device_linear_args *in, const void *acc, int acc_is_half,
                 size_t t0, size_t rows, size_t n0, size_t n1)
{
    struct finish_args a = {};
    int silu = in->epilogue == DEVICE_SILU_MUL;
    a.acc = acc;
    a.bias = in->bias ? in->bias + n0 : NULL;
    a.ldy = in->ldy;
    a.columns = (uint32_t)(n1 - n0);
    cudaStream_t s = cuda_compute(d);
    if (!acc) {
        a.y = (float *)in->y + t0 * in->ldy + n0;
        dim3 grid((a.columns + FINISH_THREADS - 1) / FINISH_THREADS, (unsigned)rows);
        if (a.bias)
            bias_kernel<<<grid, FINISH_THREADS, 0, s>>>(a);
    } else {
        a.y = (uint16_t *)in->y + t0 * in->ldy + (silu ? n0 / 2 : n0);
        a.wide = a.columns % 8 == 0 && in->ldy % 4 == 0 && (uintptr_t)a.y % 8 == 0;
        dim3 grid((a.columns + 8 * FINISH_THREADS - 1) / (8 * FINISH_THREADS), (unsigned)rows);
        if (acc_is_half && silu)
            finish_kernel<__half, true><<<grid, FINISH_THREADS, 0, s>>>(a);
        else if (acc_is_half)
            finish_kernel<__half, false><<<grid, FINISH_THREADS, 0, s>>>(a);
        else if (silu)
            finish_kernel<float, true><<<grid, FINISH_THREADS, 0, s>>>(a);
        else
            finish_kernel<float, false><<<grid, FINISH_THREADS, 0, s>>>(a);
    }
    cuda_check(d, "linear: epilogue");
}
