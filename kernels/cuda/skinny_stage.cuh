/* SPDX-License-Identifier: Apache-2.0 */
/* skinny_stage.cuh - what a block of the skinny kernel does before its products: the ring of weight slots
 * that each warp fills, and the rows of x', normed where asked, in shared memory.
 *
 * Shared memory: barriers | partial sums | sums of x' by group | rows of x' | rings.
 */
#ifndef LECTERN_KERNELS_CUDA_SKINNY_STAGE_CUH
#define LECTERN_KERNELS_CUDA_SKINNY_STAGE_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/cuda/weight_layout.h"
#include "kernels/device.h"

enum {
    WARPS_MAX = 16,
    SLOTS_MAX = 16,
    X_BARRIER = WARPS_MAX * SLOTS_MAX * 8, /* of the copies of x */
    BARRIER_BYTES = X_BARRIER + 128,
    PARTIAL = TILE_ROWS * DEVICE_DECODE_T /* floats of a warp and tile */
};

/* Warps of a block; as many as a tile's latency needs beside the work of its codes. */
static __host__ __device__ constexpr uint32_t warps_of(int format)
{
    return layout_bits(format) == 16 ? 8 : 8;
}

/* Partial sums of two tiles. */
static __host__ __device__ constexpr uint32_t partial_bytes(int format)
{
    return 2 * warps_of(format) * PARTIAL * 4;
}

struct skinny {
    const uint8_t *w;
    const float *row_scale, *norm_w, *bias;
    const void *x;
    void *y;
    size_t ldx, ldy;
    uint32_t T, N, K, units, tiles, slots;
    uint32_t x_stride, x_at, slots_at; /* bytes in shared memory; the sums of x lie before x_at */
    float eps;
    int epilogue;
    int wide;  /* x and norm_w are aligned for vector loads */
    int whole; /* and K is whole units */
    int kept;  /* and rows to be normed fit the threads' registers */
};

/* Of the working warps: a block may have idle ones beside them. */
template <int FORMAT> static __device__ __forceinline__ void block_barrier()
{
    asm volatile("bar.sync 1, %0;" ::"n"(warps_of(FORMAT) * 32) : "memory");
}

static __host__ __device__ constexpr uint32_t slot_units(int format)
{
    return layout_bits(format) == 16 ? 1 : 2;
}

static __host__ __device__ constexpr int sums_group(int format)
{
    return format == DEVICE_W_W4 ? 128 : 32;
}

static __host__ __device__ constexpr bool needs_sums(int format)
{
    return format == DEVICE_W_W4 || format == DEVICE_W_W4G32;
}

/* ---- the ring ------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ void ring_init(uint32_t bars, uint32_t slots, int lane)
{
#if __CUDA_ARCH__ >= 900
    uint32_t arrivals = 1;
#else
    uint32_t arrivals = 32;
#endif
    for (uint32_t s = lane; s < slots; s += 32)
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bars + 8 * s), "r"(arrivals) : "memory");
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
    __syncwarp();
}

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ void bulk_copy(uint32_t to, const uint8_t *from, uint32_t bytes,
                                                 uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :
                 : "r"(to), "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}
#endif

/* All lanes call. bytes is a multiple of 64. */
static __device__ __forceinline__ void ring_copy(uint32_t to, const uint8_t *from, uint32_t bytes,
                                                 uint32_t bar, int lane)
{
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
        bulk_copy(to, from, bytes, bar);
    }
#else
    for (uint32_t i = lane * 16; i < bytes; i += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from + i) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(bar) : "memory");
#endif
}

static __device__ __forceinline__ void ring_wait(uint32_t bar, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n\t.reg .pred p;\n\tagain:\n\t"
                 "mbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n\t"
                 "@!p bra again;\n\t}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
#else
    asm volatile("{\n\t.reg .pred p;\n\tagain:\n\t"
                 "mbarrier.test_wait.parity.shared.b64 p, [%0], %1;\n\t"
                 "@!p bra again;\n\t}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
#endif
}

/* ---- activations --------------------------------------------------------------------------------------- */

/* Eight values from column k on, zero past K. `wide`: aligned. */
static __device__ __forceinline__ void load_f32(const float *p, uint32_t k, uint32_t K, bool wide,
                                                float (&v)[8])
{
    if (wide && k + 8 <= K) {
        *(float4 *)v = *(const float4 *)(p + k);
        *(float4 *)(v + 4) = *(const float4 *)(p + k + 4);
    } else {
        for (uint32_t i = 0; i < 8; i++)
            v[i] = k + i < K ? p[k + i] : 0;
    }
}

static __device__ __forceinline__ uint4 load_f16(const uint16_t *p, uint32_t k, uint32_t K, bool wide)
{
    if (wide && k + 8 <= K)
        return *(const uint4 *)(p + k);
    uint32_t v[4];
    for (uint32_t i = 0; i < 4; i++)
        v[i] =
            (k + 2 * i < K ? p[k + 2 * i] : 0) | (k + 2 * i + 1 < K ? (uint32_t)p[k + 2 * i + 1] << 16 : 0);
    return make_uint4(v[0], v[1], v[2], v[3]);
}

static __device__ __forceinline__ uint32_t clamped_half2(float a, float b)
{
    __half2 h = __floats2half2_rn(fminf(fmaxf(a, -65504.0f), 65504.0f), fminf(fmaxf(b, -65504.0f), 65504.0f));
    return *(uint32_t *)&h;
}

static __device__ __forceinline__ uint4 normed(const float (&v)[8], const float (&n)[8], float factor)
{
    uint32_t h[4];
    for (int i = 0; i < 4; i++)
        h[i] = clamped_half2(v[2 * i] * factor * n[2 * i], v[2 * i + 1] * factor * n[2 * i + 1]);
    return make_uint4(h[0], h[1], h[2], h[3]);
}

static __device__ __forceinline__ float sum_of_squares(const float (&v)[8])
{
    return ((v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3])) +
           ((v[4] * v[4] + v[5] * v[5]) + (v[6] * v[6] + v[7] * v[7]));
}

/* The sums of a row's groups, of which a lane holds eight columns from k on. All lanes of a warp call, for
 * neighbouring columns. */
template <int FORMAT>
static __device__ __forceinline__ void put_sums(const struct skinny &a, float *sums, uint32_t t, uint32_t k,
                                                uint4 h)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        float2 p = __half22float2(((const __half2 *)&h)[i]);
        sum += p.x + p.y;
    }
    for (int i = 1; i < sums_group(FORMAT) / 8; i *= 2)
        sum += __shfl_xor_sync(~0u, sum, i);
    if (k < a.units * UNIT_COLS && k % sums_group(FORMAT) == 0)
        sums[k / sums_group(FORMAT) * 4 + t] = sum;
}

/* A lane's eight columns of row t to shared memory, and the sums; as put_sums. */
template <int FORMAT>
static __device__ __forceinline__ void put_eight(const struct skinny &a, uint8_t *smem, float *sums,
                                                 uint32_t t, uint32_t k, uint4 h)
{
    if (k < a.units * UNIT_COLS)
        *(uint4 *)(smem + a.x_at + t * a.x_stride + 2 * k) = h;
    if constexpr (needs_sums(FORMAT))
        put_sums<FORMAT>(a, sums, t, k, h);
}

/* fp16 rows: a warp takes 256 columns at a time. WIDE: aligned, and K is whole units. */
template <int FORMAT, bool WIDE>
static __device__ __forceinline__ void stage_halves(const struct skinny &a, uint8_t *smem, float *sums)
{
    uint32_t padded = a.units * UNIT_COLS, pieces = (padded + 255) / 256, lane = threadIdx.x % 32;
#pragma unroll WIDE ? 4 : 1
    for (uint32_t c = threadIdx.x / 32; c < a.T * pieces; c += warps_of(FORMAT)) {
        uint32_t t = c / pieces, k = c % pieces * 256 + lane * 8;
        const uint16_t *row = (const uint16_t *)a.x + t * a.ldx;
        uint4 h = make_uint4(0, 0, 0, 0);
        if (!WIDE)
            h = load_f16(row, k, a.K, a.wide);
        else if (k < padded)
            h = *(const uint4 *)(row + k);
        put_eight<FORMAT>(a, smem, sums, t, k, h);
    }
}

#if __CUDA_ARCH__ >= 900
/* fp16 rows of whole units by the copy engine; then the sums of groups. */
template <int FORMAT>
static __device__ __forceinline__ void copy_halves(const struct skinny &a, uint8_t *smem, float *sums)
{
    uint32_t shared = (uint32_t)__cvta_generic_to_shared(smem), bar = shared + X_BARRIER;
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(a.T * a.K * 2)
                     : "memory");
        for (uint32_t t = 0; t < a.T; t++)
            bulk_copy(shared + a.x_at + t * a.x_stride, (const uint8_t *)a.x + t * a.ldx * 2, a.K * 2, bar);
    }
    ring_wait(bar, 0);
    if constexpr (needs_sums(FORMAT)) {
        uint32_t pieces = (a.K + 255) / 256, lane = threadIdx.x % 32;
        for (uint32_t c = threadIdx.x / 32; c < a.T * pieces; c += warps_of(FORMAT)) {
            uint32_t t = c / pieces, k = c % pieces * 256 + lane * 8;
            uint4 h = make_uint4(0, 0, 0, 0);
            if (k < a.K)
                h = *(const uint4 *)(smem + a.x_at + t * a.x_stride + 2 * k);
            put_sums<FORMAT>(a, sums, t, k, h);
        }
    }
}
#endif

/* The block's sum for row t, after a barrier. */
template <int FORMAT>
static __device__ __forceinline__ float norm_factor(const struct skinny &a, const float *warp_sums,
                                                    uint32_t t)
{
    float sum = 0;
    for (uint32_t i = 0; i < warps_of(FORMAT); i++)
        sum += warp_sums[t * WARPS_MAX + i];
    return rsqrtf(sum / (float)a.K + a.eps);
}

static __device__ __forceinline__ void put_warp_sum(float *warp_sums, uint32_t t, float sum)
{
    for (int i = 16; i; i >>= 1)
        sum += __shfl_xor_sync(~0u, sum, i);
    if (threadIdx.x % 32 == 0)
        warp_sums[t * WARPS_MAX + threadIdx.x / 32] = sum;
}

/* Columns of rows that a block keeps in registers, and the pieces of eight that are a thread's. */
enum { KEPT_COLUMNS = 4096 };
static __host__ __device__ constexpr uint32_t kept_of(int format)
{
    return KEPT_COLUMNS / (warps_of(format) * 256);
}

/* norm_w's columns of this thread, which do not hang on earlier kernels. */
template <int FORMAT>
static __device__ __forceinline__ void load_norm(const struct skinny &a, float (&n)[kept_of(FORMAT)][8])
{
    constexpr uint32_t KEPT = kept_of(FORMAT), THREADS = warps_of(FORMAT) * 32;
#pragma unroll
    for (uint32_t i = 0; i < KEPT; i++) {
        uint32_t k = (i * THREADS + threadIdx.x) * 8;
        for (int c = 0; c < 8; c++)
            n[i][c] = 0;
        if (a.kept && k < a.K) {
            *(float4 *)n[i] = *(const float4 *)(a.norm_w + k);
            *(float4 *)(n[i] + 4) = *(const float4 *)(a.norm_w + k + 4);
        }
    }
}

/* RMSNorm with the rows in registers: all loads are under way before the first is needed. */
template <int FORMAT>
static __device__ __forceinline__ void stage_kept(const struct skinny &a, uint8_t *smem, float *sums,
                                                  const float (&n)[kept_of(FORMAT)][8])
{
    constexpr uint32_t KEPT = kept_of(FORMAT), THREADS = warps_of(FORMAT) * 32;
    float v[DEVICE_DECODE_T][KEPT][8], *warp_sums = (float *)(smem + BARRIER_BYTES);
#pragma unroll
    for (uint32_t t = 0; t < DEVICE_DECODE_T; t++)
#pragma unroll
        for (uint32_t i = 0; i < KEPT; i++) {
            uint32_t k = (i * THREADS + threadIdx.x) * 8;
            for (int c = 0; c < 8; c++)
                v[t][i][c] = 0;
            if (t < a.T && k < a.K) {
                const float *p = (const float *)a.x + t * a.ldx + k;
                *(float4 *)v[t][i] = *(const float4 *)p;
                *(float4 *)(v[t][i] + 4) = *(const float4 *)(p + 4);
            }
        }
#pragma unroll
    for (uint32_t t = 0; t < DEVICE_DECODE_T; t++)
        if (t < a.T)
            put_warp_sum(warp_sums, t,
                         sum_of_squares(v[t][0]) + (KEPT > 1 ? sum_of_squares(v[t][KEPT - 1]) : 0));
    block_barrier<FORMAT>();
#pragma unroll
    for (uint32_t t = 0; t < DEVICE_DECODE_T; t++)
        if (t < a.T) {
            float factor = norm_factor<FORMAT>(a, warp_sums, t);
#pragma unroll
            for (uint32_t i = 0; i < KEPT; i++)
                put_eight<FORMAT>(a, smem, sums, t, (i * THREADS + threadIdx.x) * 8,
                                  normed(v[t][i], n[i], factor));
        }
}

/* RMSNorm of any rows, which are read twice. */
template <int FORMAT>
static __device__ __forceinline__ void stage_normed(const struct skinny &a, uint8_t *smem, float *sums)
{
    constexpr uint32_t THREADS = warps_of(FORMAT) * 32;
    float v[8], n[8], *warp_sums = (float *)(smem + BARRIER_BYTES);
    uint32_t padded = (a.units * UNIT_COLS + THREADS * 8 - 1) / (THREADS * 8) * (THREADS * 8);
#pragma unroll 1
    for (uint32_t t = 0; t < a.T; t++) {
        float sum = 0;
#pragma unroll 1
        for (uint32_t k = threadIdx.x * 8; k < padded; k += THREADS * 8) {
            load_f32((const float *)a.x + t * a.ldx, k, a.K, a.wide, v);
            sum += sum_of_squares(v);
        }
        put_warp_sum(warp_sums, t, sum);
    }
    block_barrier<FORMAT>();
#pragma unroll 1
    for (uint32_t t = 0; t < a.T; t++) {
        float factor = norm_factor<FORMAT>(a, warp_sums, t);
#pragma unroll 1
        for (uint32_t k = threadIdx.x * 8; k < padded; k += THREADS * 8) {
            load_f32((const float *)a.x + t * a.ldx, k, a.K, a.wide, v);
            load_f32(a.norm_w, k, a.K, a.wide, n);
            put_eight<FORMAT>(a, smem, sums, t, k, normed(v, n, factor));
        }
    }
}

static __device__ __forceinline__ void launch_dependents()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <int FORMAT> static __device__ __forceinline__ void x_barrier_init(uint32_t bar)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
        asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(bar) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    block_barrier<FORMAT>();
#endif
}

/* Waits for the kernel before this one, then brings x' in. */
template <int FORMAT>
static __device__ __forceinline__ void stage(const struct skinny &a, uint8_t *smem, float *sums)
{
    float norm[kept_of(FORMAT)][8];
    load_norm<FORMAT>(a, norm);
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    if (a.kept)
        stage_kept<FORMAT>(a, smem, sums, norm);
    else if (a.norm_w)
        stage_normed<FORMAT>(a, smem, sums);
    else if (a.whole)
#if __CUDA_ARCH__ >= 900
        copy_halves<FORMAT>(a, smem, sums);
#else
        stage_halves<FORMAT, true>(a, smem, sums);
#endif
    else
        stage_halves<FORMAT, false>(a, smem, sums);
}

#endif
