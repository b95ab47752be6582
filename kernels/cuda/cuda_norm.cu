/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_norm.cu - activations of a large product: RMSNorm of f32 rows or fp16 rows as they are -> fp16, bf16,
 * or E4M3 with a scale a row.
 *
 * One block a row, which is read again rather than kept: it lies in L1. Bytes: x once, x' once.
 */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/linear.h"

enum { NORM_THREADS = 256 };

struct rows_args {
    const void *x;
    const float *norm_w; /* NULL: x is fp16 */
    size_t ldx;
    uint32_t K, ld;
    float eps;
    int wide; /* 16-byte loads are aligned */
    void *to;
    float *scales;
};

/* Of all threads of the block, the same bits in each. */
template <bool MAXIMUM> static __device__ float block_reduce(float v, float *room)
{
    for (int i = 16; i; i >>= 1) {
        float other = __shfl_xor_sync(~0u, v, i);
        v = MAXIMUM ? fmaxf(v, other) : v + other;
    }
    __syncthreads(); /* earlier readers of room are done */
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = v;
    __syncthreads();
    v = room[0];
    for (int i = 1; i < NORM_THREADS / 32; i++)
        v = MAXIMUM ? fmaxf(v, room[i]) : v + room[i];
    return v;
}

/* Eight f32 values from column k on, zero past K. */
static __device__ __forceinline__ void load8(const float *p, uint32_t k, uint32_t K, int wide, float (&v)[8])
{
    if (wide && k + 8 <= K) {
        *(float4 *)v = *(const float4 *)(p + k);
        *(float4 *)(v + 4) = *(const float4 *)(p + k + 4);
        return;
    }
    for (uint32_t i = 0; i < 8; i++)
        v[i] = k + i < K ? p[k + i] : 0;
}

/* Eight values of x' (rounded to fp16). */
static __device__ __forceinline__ void load_rounded(const struct rows_args &a, size_t row, uint32_t k,
                                                    float factor, float (&v)[8])
{
    if (a.norm_w) {
        float w[8];
        load8((const float *)a.x + row * a.ldx, k, a.K, a.wide, v);
        load8(a.norm_w, k, a.K, a.wide, w);
        for (int i = 0; i < 8; i++)
            v[i] = __half2float(__float2half_rn(fminf(fmaxf(v[i] * factor * w[i], -65504.0f), 65504.0f)));
        return;
    }
    const __half *p = (const __half *)a.x + row * a.ldx;
    if (a.wide && k + 8 <= a.K) {
        uint4 h = *(const uint4 *)(p + k);
        for (int i = 0; i < 8; i++)
            v[i] = __half2float(((const __half *)&h)[i]);
        return;
    }
    for (uint32_t i = 0; i < 8; i++)
        v[i] = k + i < a.K ? __half2float(p[k + i]) : 0;
}

template <int TYPE>
static __device__ __forceinline__ void store8(const struct rows_args &a, size_t row, uint32_t k,
                                              float inverse, const float (&v)[8])
{
    size_t at = row * a.ld + k;
    if constexpr (TYPE == GEMM_FP8) {
        uint2 out;
        for (int i = 0; i < 8; i++)
            ((uint8_t *)&out)[i] = __nv_cvt_float_to_fp8(v[i] * inverse, __NV_SATFINITE, __NV_E4M3);
        *(uint2 *)((uint8_t *)a.to + at) = out;
    } else {
        uint4 out;
        for (int i = 0; i < 8; i++)
            ((uint16_t *)&out)[i] = TYPE == GEMM_F16 ? __half_as_ushort(__float2half_rn(v[i]))
                                                     : __bfloat16_as_ushort(__float2bfloat16_rn(v[i]));
        *(uint4 *)((uint16_t *)a.to + at) = out;
    }
}

template <int TYPE>
static __global__ void __launch_bounds__(NORM_THREADS) rows_kernel(const struct rows_args a)
{
    __shared__ float room[NORM_THREADS / 32];
    size_t row = blockIdx.x;
    float factor = 1, inverse = 1, v[8];
    if (a.norm_w) {
        float sum = 0;
        for (uint32_t k = threadIdx.x * 8; k < a.K; k += NORM_THREADS * 8) {
            load8((const float *)a.x + row * a.ldx, k, a.K, a.wide, v);
            for (int i = 0; i < 8; i++)
                sum += v[i] * v[i];
        }
        factor = rsqrtf(block_reduce<false>(sum, room) / (float)a.K + a.eps);
    }
    if constexpr (TYPE == GEMM_FP8) {
        float top = 0;
        for (uint32_t k = threadIdx.x * 8; k < a.K; k += NORM_THREADS * 8) {
            load_rounded(a, row, k, factor, v);
            for (int i = 0; i < 8; i++)
                top = fmaxf(top, fabsf(v[i]));
        }
        top = block_reduce<true>(top, room);
        float scale = top > 1e-30f ? top / 448.0f : 1.0f;
        inverse = 1.0f / scale;
        if (threadIdx.x == 0)
            a.scales[row] = scale;
    }
    for (uint32_t k = threadIdx.x * 8; k < a.ld; k += NORM_THREADS * 8) {
        load_rounded(a, row, k, factor, v);
        store8<TYPE>(a, row, k, inverse, v);
    }
}

void gemm_rows(struct device *d, const struct device_linear_args *in, enum gemm_type type, size_t ld,
               void *to, float *scales)
{
    struct rows_args a = {};
    a.x = in->x;
    a.norm_w = in->norm_w;
    a.ldx = in->ldx;
    a.K = (uint32_t)in->w->K;
    a.ld = (uint32_t)ld;
    a.eps = in->eps;
    a.wide = in->ldx % 8 == 0 && (uintptr_t)in->x % 16 == 0 && (uintptr_t)in->norm_w % 16 == 0;
    a.to = to;
    a.scales = scales;
    unsigned rows = (unsigned)in->T;
    cudaStream_t s = cuda_compute(d);
    if (type == GEMM_FP8)
        rows_kernel<GEMM_FP8><<<rows, NORM_THREADS, 0, s>>>(a);
    else if (type == GEMM_BF16)
        rows_kernel<GEMM_BF16><<<rows, NORM_THREADS, 0, s>>>(a);
    else
        rows_kernel<GEMM_F16><<<rows, NORM_THREADS, 0, s>>>(a);
    cuda_check(d, "linear: rows");
}
