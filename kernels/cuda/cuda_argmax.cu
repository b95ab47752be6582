/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_argmax.cu - index of the largest of each row, the lower one among equals, NaN as -infinity: one block
 * a row; a pair (ordered value, index) is one 64-bit key, so the greatest key is the answer in any order. */
#include "kernels/cuda/cuda_device.h"

enum { THREADS = 1024 };

/* Greater floats have greater words, -0 and 0 the same; lower indices have greater keys. */
__device__ static uint64_t key_of(float x, uint32_t i)
{
    if (x != x)
        x = __int_as_float((int)0xff800000);
    uint32_t u = __float_as_uint(x == 0 ? 0.0f : x);
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)u << 32 | (uint32_t)~i;
}

__device__ static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

__device__ static uint64_t warp_greatest(uint64_t key)
{
    for (int lane = 16; lane; lane /= 2)
        key = greater(key, __shfl_xor_sync(0xffffffffu, key, lane));
    return key;
}

__global__ void __launch_bounds__(THREADS) argmax_rows(const float *x, size_t ldx, uint32_t N, uint32_t *best)
{
    __shared__ uint64_t of_warp[THREADS / 32];
    const float *row = x + blockIdx.x * ldx;
    uint64_t key = 0; /* below every key */
    uint32_t i = threadIdx.x;
    for (; i + 7 * THREADS < N && i + 7 * THREADS > i; i += 8 * THREADS) { /* eight loads under way */
        float v[8];
#pragma unroll
        for (int u = 0; u < 8; u++)
            v[u] = row[i + (uint32_t)u * THREADS];
#pragma unroll
        for (int u = 0; u < 8; u++)
            key = greater(key, key_of(v[u], i + (uint32_t)u * THREADS));
    }
    for (; i < N; i += THREADS)
        key = greater(key, key_of(row[i], i));
    key = warp_greatest(key);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = key;
    __syncthreads();
    if (threadIdx.x < 32) {
        key = warp_greatest(of_warp[threadIdx.x]);
        if (threadIdx.x == 0)
            best[blockIdx.x] = ~(uint32_t)key;
    }
}

void cuda_argmax(struct device *d, const struct device_argmax_args *a)
{
    if (!a->N || a->N > (size_t)1 << 31 || a->ldx < a->N || a->T > DEVICE_CHUNK_T) {
        cuda_refuse(d, "argmax", "a shape that it does not take");
        return;
    }
    if (!a->T)
        return;
    argmax_rows<<<(unsigned)a->T, THREADS, 0, cuda_compute(d)>>>(a->x, a->ldx, (uint32_t)a->N, a->best);
    cuda_check(d, "argmax");
}
