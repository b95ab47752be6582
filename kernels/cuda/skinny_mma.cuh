/* SPDX-License-Identifier: Apache-2.0 */
/* skinny_mma.cuh - from packed codes to products: one unit of 16 rows and 128 columns against up to eight
 * columns of activations, by mma.m16n8k16 with f32 accumulators.
 *
 * Codes become fp16 whole numbers (E4M3: the value times 2^-8), so a product with an fp16 activation is
 * exact; scales and mins are applied in f32 to the sums of their group. bf16 weights meet each activation as
 * two bf16 halves (its rounding and the rest) in neighbouring columns, which is exact, too.
 */
#ifndef LECTERN_KERNELS_CUDA_SKINNY_MMA_CUH
#define LECTERN_KERNELS_CUDA_SKINNY_MMA_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/cuda/weight_layout.h"

static __device__ __forceinline__ void mma_f16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                               uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,"
                 "%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void mma_bf16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%"
                 "0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* (w & mask) | bits */
static __device__ __forceinline__ uint32_t masked_or(uint32_t w, uint32_t mask, uint32_t bits)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(w), "r"(mask), "r"(bits));
    return d;
}

static __device__ __forceinline__ uint32_t sub_half2(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}

/* Eight nibbles as four pairs of whole numbers 0..15, in the order of the columns. */
static __device__ __forceinline__ void unpack4(uint32_t w, uint32_t (&h)[4])
{
    uint32_t t = w >> 8;
    h[0] = sub_half2(masked_or(w, 0x000f000f, 0x64006400), 0x64006400);
    h[2] = sub_half2(masked_or(t, 0x000f000f, 0x64006400), 0x64006400);
    /* 1024 + 16 code, times 1/16, minus 64 */
    asm("fma.rn.f16x2 %0, %1, %2, %3;"
        : "=r"(h[1])
        : "r"(masked_or(w, 0x00f000f0, 0x64006400)), "r"(0x2c002c00), "r"(0xd400d400));
    asm("fma.rn.f16x2 %0, %1, %2, %3;"
        : "=r"(h[3])
        : "r"(masked_or(t, 0x00f000f0, 0x64006400)), "r"(0x2c002c00), "r"(0xd400d400));
}

/* Four bytes as two pairs: code - 128, or E4M3 times 2^-8. */
template <int FORMAT> static __device__ __forceinline__ void unpack8(uint32_t w, uint32_t (&h)[2])
{
    if constexpr (FORMAT == DEVICE_W_FP8) {
        uint32_t a = __byte_perm(w, 0, 0x1404), b = __byte_perm(w, 0, 0x3424);
        h[0] = masked_or(a, 0x80008000, a >> 1 & 0x3f803f80);
        h[1] = masked_or(b, 0x80008000, b >> 1 & 0x3f803f80);
    } else {
        h[0] = sub_half2(__byte_perm(w, 0x64646464, 0x4140), 0x64806480);
        h[1] = sub_half2(__byte_perm(w, 0x64646464, 0x4342), 0x64806480);
    }
}

/* An fp16 pair as bf16: rounded, or what rounding left. */
static __device__ __forceinline__ uint32_t bf16_part(uint32_t pair, bool rest)
{
    float2 x = __half22float2(*(__half2 *)&pair);
    uint32_t high, low;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(high) : "f"(x.y), "f"(x.x));
    float rest_x = x.x - __uint_as_float(high << 16), rest_y = x.y - __uint_as_float(high & 0xffff0000);
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(low) : "f"(rest_y), "f"(rest_x));
    return rest ? low : high;
}

/* Products of 32 columns into c. w: the lane's four words of 8-bit or 4-bit codes (which are those of two
 * groups: `half` picks), or w and w2 of 16-bit ones. b: eight activations of the lane's column. */
template <int FORMAT>
static __device__ __forceinline__ void group_products(float (&c)[4], const uint4 &w, const uint4 &w2,
                                                      int half, const uint4 &b)
{
    if constexpr (FORMAT == DEVICE_W_F16) {
        mma_f16(c, w.x, w.y, w.z, w.w, b.x, b.y);
        mma_f16(c, w2.x, w2.y, w2.z, w2.w, b.z, b.w);
    } else if constexpr (FORMAT == DEVICE_W_BF16) {
        mma_bf16(c, w.x, w.y, w.z, w.w, b.x, b.y);
        mma_bf16(c, w2.x, w2.y, w2.z, w2.w, b.z, b.w);
    } else if constexpr (layout_bits(FORMAT) == 8) {
        uint32_t x[2], y[2];
        unpack8<FORMAT>(w.x, x);
        unpack8<FORMAT>(w.y, y);
        mma_f16(c, x[0], y[0], x[1], y[1], b.x, b.y);
        unpack8<FORMAT>(w.z, x);
        unpack8<FORMAT>(w.w, y);
        mma_f16(c, x[0], y[0], x[1], y[1], b.z, b.w);
    } else {
        uint32_t x[4], y[4];
        unpack4(half ? w.z : w.x, x);
        unpack4(half ? w.w : w.y, y);
        mma_f16(c, x[0], y[0], x[1], y[1], b.x, b.y);
        mma_f16(c, x[2], y[2], x[3], y[3], b.z, b.w);
    }
}

/* acc += scale * part + min * sum of the group's activations. params: two rows' (scale, min). */
static __device__ __forceinline__ void add_scaled(float (&acc)[4], const float (&part)[4], uint2 params,
                                                  float2 sums)
{
    float2 low = __half22float2(*(__half2 *)&params.x), high = __half22float2(*(__half2 *)&params.y);
    acc[0] = fmaf(low.x, part[0], fmaf(low.y, sums.x, acc[0]));
    acc[1] = fmaf(low.x, part[1], fmaf(low.y, sums.y, acc[1]));
    acc[2] = fmaf(high.x, part[2], fmaf(high.y, sums.x, acc[2]));
    acc[3] = fmaf(high.x, part[3], fmaf(high.y, sums.y, acc[3]));
}

/* One unit. unit: its bytes; x: the lane's activations at the unit's first column + 8 j; sums: the lane's two
 * columns' sums at the unit's first group, four floats a group. */
template <int FORMAT>
static __device__ __forceinline__ void unit_products(float (&acc)[2][4], const uint8_t *unit, int lane,
                                                     const uint8_t *x, const float *sums)
{
    const uint4 *codes = (const uint4 *)unit + lane;
    const uint8_t *params = unit + layout_code_bytes(FORMAT);
    constexpr bool grouped = FORMAT == DEVICE_W_W8G32 || FORMAT == DEVICE_W_W4G32 || FORMAT == DEVICE_W_W4;
    float wide[2][4] = {}; /* W4: the unit is one group */
#pragma unroll
    for (int g = 0; g < 4; g++) {
        uint4 b = *(const uint4 *)(x + g * 64), w, w2 = {};
        if constexpr (layout_bits(FORMAT) == 16) {
            w = codes[2 * g * 32];
            w2 = codes[(2 * g + 1) * 32];
        } else {
            w = codes[(layout_bits(FORMAT) == 8 ? g : g / 2) * 32];
        }
        if constexpr (FORMAT == DEVICE_W_BF16) {
            bool rest = lane >> 2 & 1;
            b = make_uint4(bf16_part(b.x, rest), bf16_part(b.y, rest), bf16_part(b.z, rest),
                           bf16_part(b.w, rest));
        }
        if constexpr (FORMAT == DEVICE_W_W4G32 || FORMAT == DEVICE_W_W8G32) {
            float part[4] = {};
            group_products<FORMAT>(part, w, w2, g & 1, b);
            if constexpr (FORMAT == DEVICE_W_W4G32) {
                add_scaled(acc[g & 1], part, *(const uint2 *)(params + g * 64 + (lane >> 2) * 8),
                           *(const float2 *)(sums + g * 4));
            } else {
                float2 s = __half22float2(*(const __half2 *)(params + g * 32 + (lane >> 2) * 4));
                for (int i = 0; i < 4; i++)
                    acc[g & 1][i] = fmaf(i < 2 ? s.x : s.y, part[i], acc[g & 1][i]);
            }
        } else {
            group_products<FORMAT>(grouped ? wide[g & 1] : acc[g & 1], w, w2, g & 1, b);
        }
    }
    if constexpr (FORMAT == DEVICE_W_W4) {
        for (int i = 0; i < 4; i++)
            wide[0][i] += wide[1][i];
        add_scaled(acc[0], wide[0], *(const uint2 *)(params + (lane >> 2) * 8), *(const float2 *)sums);
    }
}

#endif
