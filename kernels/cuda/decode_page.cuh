/* SPDX-License-Identifier: Apache-2.0 */
/* decode_page.cuh - what one warp does with one page of 64 tokens in a decode step: scores, softmax, values,
 * on tensor cores, with up to NT * 8 query rows as the columns.
 *
 * Keys and values are the A operand (16 tokens or 16 channels), the queries the B operand: lane = 4 r + j has
 * columns 2j and 2j + 1 of a result. Rows r and r + 8 of a score tile t are tokens 16 t + 2r and 16 t + 2r +
 * 1, so that one 8-byte load of a code line feeds both, and the scores, transposed, are the B operand of the
 * second product in the order of the value lines (kernels/page.h).
 * Scale and min of keys per channel go to the query (scale) and to the start of the sum (q . min); those of
 * values per token to the probability and to one sum a column (z).
 * Invariant: what happens in a column never depends on the other columns, bit for bit. So products that are
 * followed by a sum are written as fma or kept apart.
 */
#ifndef LECTERN_KERNELS_CUDA_DECODE_PAGE_CUH
#define LECTERN_KERNELS_CUDA_DECODE_PAGE_CUH

#include <cuda_fp16.h>
#include <stdint.h>

namespace decode
{

constexpr float NOTHING = -1e30f; /* running maximum before the first score */

/* ---- instructions ------------------------------------------------------------------------------------- */

__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                    uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* 8 x 8 halfs across the warp, transposed. */
__device__ __forceinline__ uint32_t transposed(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

__device__ __forceinline__ float exp2_of(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t halves_of(float lo, float hi)
{
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}

__device__ __forceinline__ float2 floats_of(uint32_t x)
{
    return __half22float2(*reinterpret_cast<const __half2 *>(&x));
}

__device__ __forceinline__ uint32_t times(uint32_t a, uint32_t b)
{
    uint32_t y;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
    return y;
}

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b)
{
    return __byte_perm(a, b, 0x5410);
}

__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b)
{
    return __byte_perm(a, b, 0x7632);
}

/* ---- codes to fp16 integers, exactly ------------------------------------------------------------------ */

/* (w & mask) | 0x64006400: 1024 + code in each half. */
__device__ __forceinline__ uint32_t biased(uint32_t w, uint32_t mask)
{
    uint32_t y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(w), "r"(mask), "r"(0x64006400u));
    return y;
}

/* Codes i and i + 4 of a word of eight, i = 0..3. */
__device__ __forceinline__ void codes4(uint32_t w, uint32_t (&h)[4])
{
    uint32_t v = w >> 8, a = biased(w, 0x000f000f), b = biased(w, 0x00f000f0), c = biased(v, 0x000f000f),
             d = biased(v, 0x00f000f0);
    const uint32_t bias = 0x64006400u, sixteenth = 0x2c002c00u, minus64 = 0xd400d400u;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(h[0]) : "r"(a), "r"(bias));
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(h[1]) : "r"(b), "r"(sixteenth), "r"(minus64));
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(h[2]) : "r"(c), "r"(bias));
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(h[3]) : "r"(d), "r"(sixteenth), "r"(minus64));
}

/* Codes 0, 1 and 2, 3 of a word of four. */
__device__ __forceinline__ void codes8(uint32_t w, uint32_t (&h)[2])
{
    const uint32_t bias = 0x64006400u;
    uint32_t a = __byte_perm(w, bias, 0x5150), b = __byte_perm(w, bias, 0x5352);
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(h[0]) : "r"(a), "r"(bias));
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(h[1]) : "r"(b), "r"(bias));
}

/* ---- the running state of a warp ---------------------------------------------------------------------- */

/* Columns 8 n + 2j + {0, 1}. p = 2^(score - m), where m is the largest score less SHIFT. */
template <int D, int NT> struct state {
    float o[NT][D / 16][4];
    float m[NT][2], l[NT][2], z[NT][2];
};

template <int D, int NT> __device__ __forceinline__ void state_clear(state<D, NT> &a)
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            a.o[n][i][0] = a.o[n][i][1] = a.o[n][i][2] = a.o[n][i][3] = 0;
#pragma unroll
        for (int c = 0; c < 2; c++) {
            a.m[n][c] = NOTHING;
            a.l[n][c] = a.z[n][c] = 0;
        }
    }
}

/* Raises the maxima to the page's and scales what was summed; a column that does not grow is multiplied by
 * exactly 1. */
template <int D, int NT, int TILES>
__device__ __forceinline__ void state_raise(state<D, NT> &a, const float (&s)[NT][TILES][4], float shift)
{
    float top[NT][2];
    bool grew = false;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float x = fmaxf(s[n][0][c], s[n][0][c + 2]);
#pragma unroll
            for (int t = 1; t < TILES; t++)
                x = fmaxf(x, fmaxf(s[n][t][c], s[n][t][c + 2]));
            top[n][c] = fmaxf(a.m[n][c], __fadd_rn(x, -shift));
            grew |= top[n][c] > a.m[n][c];
        }
    if (!__any_sync(~0u, grew))
        return;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
#pragma unroll
            for (int lane = 4; lane < 32; lane *= 2)
                top[n][c] = fmaxf(top[n][c], __shfl_xor_sync(~0u, top[n][c], lane));
            float f = exp2_of(__fadd_rn(a.m[n][c], -top[n][c]));
            a.m[n][c] = top[n][c];
            a.l[n][c] = __fmul_rn(a.l[n][c], f);
            a.z[n][c] = __fmul_rn(a.z[n][c], f);
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                a.o[n][i][c] = __fmul_rn(a.o[n][i][c], f);
                a.o[n][i][c + 2] = __fmul_rn(a.o[n][i][c + 2], f);
            }
        }
}

/* Sum over the eight lanes of a column. */
__device__ __forceinline__ float column_sum(float x)
{
#pragma unroll
    for (int lane = 4; lane < 32; lane *= 2)
        x = __fadd_rn(x, __shfl_xor_sync(~0u, x, lane));
    return x;
}

/* log2 of the page's sum of 2^score by column, to lse[8 n + 2j + c]. */
template <int D, int NT>
__device__ __forceinline__ void write_lse(const state<D, NT> &a, const float (&sum)[NT][2], float *lse,
                                          int columns, int lane)
{
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float all = column_sum(sum[n][c]);
            int column = 8 * n + 2 * (lane & 3) + c;
            if (lane < 4 && column < columns)
                lse[column] = a.m[n][c] + log2f(all);
        }
}

/* ---- queries ------------------------------------------------------------------------------------------ */

/* First channel of the pair that register k of lane j holds: four channels of a group of lines for 8-bit
 * keys, eight for 4-bit and raw ones. */
template <int KB> __device__ __forceinline__ int query_channel(int k, int j)
{
    return KB == 8 ? 16 * (k >> 1) + 4 * j + 2 * (k & 1) : 32 * (k >> 2) + 8 * j + 2 * (k & 3);
}

/* B operands out of q [NT * 8][ld] halfs in shared memory. */
template <int KB, int D, int NT>
__device__ __forceinline__ void load_queries(uint32_t (&q)[NT][D / 8], const __half *from, int ld, int lane)
{
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int k = 0; k < D / 8; k++)
            q[n][k] = *reinterpret_cast<const uint32_t *>(from + (8 * n + (lane >> 2)) * ld +
                                                          query_channel<KB>(k, lane & 3));
}

/* ---- coded pages -------------------------------------------------------------------------------------- */

/* How much p is larger than 1 at most, as a power of two: small probabilities times small scales stay normal
 * halfs, and large scales (65504 * 2 / 255 or / 15) do not overflow. */
template <int VB> struct shift_of {
    static constexpr float value = VB == 8 ? 6 : VB == 4 ? 2 : 14;
};

template <int KB, int VB, int D> struct record {
    static constexpr int V = 64 * D * KB / 8, KP = V + 64 * D * VB / 8, VP = KP + 4 * D, BYTES = VP + 256;
};

/* Params of the lane's channels: x[k] for query register k. */
template <int KB, int D>
__device__ __forceinline__ void key_params(uint32_t (&x)[D / 8], const uint8_t *params, int j)
{
    if constexpr (KB == 8) {
#pragma unroll
        for (int k = 0; k < D / 8; k += 4) {
            uint4 v = *reinterpret_cast<const uint4 *>(params + j * (D / 2) + k * 4);
            x[k] = v.x;
            x[k + 1] = v.y;
            x[k + 2] = v.z;
            x[k + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int k = 0; k < D / 8; k += 2) {
            int group = (2 * j + (k >> 1 & 1)) & 3;
            uint2 v =
                *reinterpret_cast<const uint2 *>(params + (group * (D / 16) + 2 * (k >> 2) + (j >> 1)) * 8);
            x[k] = v.x;
            x[k + 1] = v.y;
        }
    }
}

/* The page's queries: times the scale, in the order of the codes; s starts with q . min. */
template <int KB, int D, int NT>
__device__ __forceinline__ void page_queries(uint32_t (&qs)[NT][D / 8], float (&start)[NT][4],
                                             const uint32_t (&q)[NT][D / 8], const uint8_t *params, int j)
{
    uint32_t scale[D / 8], least[D / 8];
    key_params<KB, D>(scale, params, j);
    key_params<KB, D>(least, params + 2 * D, j);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        start[n][0] = start[n][1] = start[n][2] = start[n][3] = 0;
#pragma unroll
        for (int k = 0; k < D / 8; k += 2)
            mma(start[n], least[k], least[k], least[k + 1], least[k + 1], q[n][k], q[n][k + 1]);
#pragma unroll
        for (int k = 0; k < D / 8; k += 4) {
            uint32_t a = times(q[n][k], scale[k]), b = times(q[n][k + 1], scale[k + 1]),
                     c = times(q[n][k + 2], scale[k + 2]), d = times(q[n][k + 3], scale[k + 3]);
            qs[n][k] = KB == 8 ? a : low_halves(a, c);
            qs[n][k + 1] = KB == 8 ? b : high_halves(a, c);
            qs[n][k + 2] = KB == 8 ? c : low_halves(b, d);
            qs[n][k + 3] = KB == 8 ? d : high_halves(b, d);
        }
    }
}

template <int KB, int D, int NT>
__device__ __forceinline__ void coded_scores(float (&s)[NT][4][4], const uint32_t (&q)[NT][D / 8],
                                             const uint8_t *page, const uint8_t *params, int r, int j)
{
    uint32_t qs[NT][D / 8];
    float start[NT][4];
    page_queries<KB, D, NT>(qs, start, q, params, j);
    const uint8_t *line = page + j * 64 + ((r * 8) ^ ((j & 2) << 4));
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int t = 0; t < 4; t++)
            s[n][t][0] = s[n][t][1] = s[n][t][2] = s[n][t][3] = 0;
            /* products that follow each other belong to different sums: none waits for the one before */
#pragma unroll
    for (int i = 0; i < D * KB / 128; i++)
#pragma unroll
        for (int t = 0; t < 4; t++) {
            uint2 w = *reinterpret_cast<const uint2 *>(line + t * (D * KB * 2) + i * 256);
            if constexpr (KB == 8) {
                uint32_t x[2], y[2];
                codes8(w.x, x);
                codes8(w.y, y);
#pragma unroll
                for (int n = 0; n < NT; n++)
                    mma(s[n][t], x[0], y[0], x[1], y[1], qs[n][2 * i], qs[n][2 * i + 1]);
            } else {
                uint32_t x[4], y[4];
                codes4(w.x, x);
                codes4(w.y, y);
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    mma(s[n][t], x[0], y[0], x[1], y[1], qs[n][4 * i], qs[n][4 * i + 1]);
                    mma(s[n][t], x[2], y[2], x[3], y[3], qs[n][4 * i + 2], qs[n][4 * i + 3]);
                }
            }
        }
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int t = 0; t < 4; t++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[n][t][i] = __fadd_rn(s[n][t][i], start[n][i]);
}

/* o += values . p; p[2 t] are tokens 16 t + 4 j and + 2, p[2 t + 1] the odd ones after them. */
template <int VB, int D, int NT>
__device__ __forceinline__ void coded_values(state<D, NT> &a, uint32_t (&p)[NT][8], const uint8_t *codes,
                                             int r, int j)
{
    const uint8_t *line = codes + j * 64 + ((r * 8) ^ ((j & 2) << 4));
    if constexpr (VB == 8) { /* a word holds tokens 2h, 2h + 1 and 16 more: pairs across p */
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 8; i += 2) {
                uint32_t even = p[n][i], odd = p[n][i + 1];
                p[n][i] = low_halves(even, odd);
                p[n][i + 1] = high_halves(even, odd);
            }
    }
    if constexpr (VB == 8) {
#pragma unroll
        for (int u = 0; u < 2; u++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int i = 0; i < D / 16; i++) {
                    uint2 w = *reinterpret_cast<const uint2 *>(line + ((u * (D / 16) + i) * 2 + h) * 256);
                    uint32_t x[2], y[2];
                    codes8(w.x, x);
                    codes8(w.y, y);
#pragma unroll
                    for (int n = 0; n < NT; n++)
                        mma(a.o[n][i], x[0], y[0], x[1], y[1], p[n][4 * u + h], p[n][4 * u + 2 + h]);
                }
    } else {
#pragma unroll
        for (int u = 0; u < 2; u++)
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                uint2 w = *reinterpret_cast<const uint2 *>(line + (u * (D / 16) + i) * 256);
                uint32_t x[4], y[4];
                codes4(w.x, x);
                codes4(w.y, y);
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    mma(a.o[n][i], x[0], y[0], x[1], y[1], p[n][4 * u], p[n][4 * u + 1]);
                    mma(a.o[n][i], x[2], y[2], x[3], y[3], p[n][4 * u + 2], p[n][4 * u + 3]);
                }
            }
    }
}

/* A record in shared memory, all of whose tokens every column sees. lse NULL: not wanted. */
template <int KB, int VB, int D, int NT>
__device__ __forceinline__ void page_coded(state<D, NT> &a, const uint32_t (&q)[NT][D / 8],
                                           const uint8_t *page, float *lse, int columns, int lane)
{
    using at = record<KB, VB, D>;
    int r = lane >> 2, j = lane & 3;
    float s[NT][4][4], sum[NT][2];
    uint32_t p[NT][8];
    coded_scores<KB, D, NT>(s, q, page, page + at::KP, r, j);
    const uint4 scales = *reinterpret_cast<const uint4 *>(page + at::VP + r * 16);
    const uint4 mins = *reinterpret_cast<const uint4 *>(page + at::VP + 128 + r * 16);
    const uint32_t vs[4] = {scales.x, scales.y, scales.z, scales.w}, vm[4] = {mins.x, mins.y, mins.z, mins.w};
    state_raise(a, s, shift_of<VB>::value);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        sum[n][0] = sum[n][1] = 0;
#pragma unroll
        for (int t = 0; t < 4; t++) {
            float2 f = floats_of(vs[t]), z = floats_of(vm[t]);
            float p0 = exp2_of(__fadd_rn(s[n][t][0], -a.m[n][0])),
                  p1 = exp2_of(__fadd_rn(s[n][t][1], -a.m[n][1]));
            float p2 = exp2_of(__fadd_rn(s[n][t][2], -a.m[n][0])),
                  p3 = exp2_of(__fadd_rn(s[n][t][3], -a.m[n][1]));
            sum[n][0] = __fadd_rn(sum[n][0], __fadd_rn(p0, p2));
            sum[n][1] = __fadd_rn(sum[n][1], __fadd_rn(p1, p3));
            a.z[n][0] = fmaf(p2, z.y, fmaf(p0, z.x, a.z[n][0]));
            a.z[n][1] = fmaf(p3, z.y, fmaf(p1, z.x, a.z[n][1]));
            p[n][2 * t] = transposed(halves_of(__fmul_rn(p0, f.x), __fmul_rn(p1, f.x)));
            p[n][2 * t + 1] = transposed(halves_of(__fmul_rn(p2, f.y), __fmul_rn(p3, f.y)));
        }
        a.l[n][0] = __fadd_rn(a.l[n][0], sum[n][0]);
        a.l[n][1] = __fadd_rn(a.l[n][1], sum[n][1]);
    }
    if (lse)
        write_lse(a, sum, lse, columns, lane);
    coded_values<VB, D, NT>(a, p, page + at::V, r, j);
}

/* ---- raw pages ---------------------------------------------------------------------------------------- */

/* Which tokens of a raw page count: rows below `rows`, and for column c, of query t = (column + c) / G, those
 * of the rule of visibility (kernels.h). Positions are counted from the page's first row. */
struct sight {
    int rows;         /* of the page that are there */
    int query;        /* position of query 0 */
    int G, column;    /* rows of a query; index of column 0 among all */
    int sink, recent; /* first row beyond the sink; R, or a number that nothing is as far as */
};

__device__ __forceinline__ bool seen(const sight &v, int token, int column)
{
    int query = v.query + (v.column + column) / v.G;
    return token < v.rows && token <= query && (token < v.sink || query - token < v.recent);
}

__device__ __forceinline__ uint4 raw_piece(const uint8_t *at, bool there)
{
    return there ? *reinterpret_cast<const uint4 *>(at) : make_uint4(0, 0, 0, 0);
}

__device__ __forceinline__ void raw_score(float (&s)[4], uint4 x, uint4 y, uint32_t q0, uint32_t q1,
                                          uint32_t q2, uint32_t q3)
{
    mma(s, x.x, y.x, x.y, y.y, q0, q1);
    mma(s, x.z, y.z, x.w, y.w, q2, q3);
}

template <int D, int NT>
__device__ __forceinline__ void raw_scores(float (&s)[NT][4][4], const uint32_t (&q)[NT][D / 8],
                                           const uint8_t *keys, int r, int j)
{
#pragma unroll
    for (int t = 0; t < 4; t++) {
        if (NT > 1)
            asm volatile("" : "+r"(r)); /* addresses are made again rather than kept */
        const uint8_t *row = keys + (16 * t + 2 * r) * (D * 2) + j * 16;
#pragma unroll
        for (int n = 0; n < NT; n++)
            s[n][t][0] = s[n][t][1] = s[n][t][2] = s[n][t][3] = 0;
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            uint4 x = raw_piece(row + c * 64, true), y = raw_piece(row + D * 2 + c * 64, true);
#pragma unroll
            for (int n = 0; n < NT; n++)
                raw_score(s[n][t], x, y, q[n][4 * c], q[n][4 * c + 1], q[n][4 * c + 2], q[n][4 * c + 3]);
        }
    }
}

/* Probabilities of one tile of scores, transposed: of the even tokens and of the odd ones. */
template <int D, int NT>
__device__ __forceinline__ void raw_weights(const state<D, NT> &a, int n, const float (&s)[4], uint32_t &even,
                                            uint32_t &odd, float (&sum)[2])
{
    float p0 = exp2_of(__fadd_rn(s[0], -a.m[n][0])), p1 = exp2_of(__fadd_rn(s[1], -a.m[n][1]));
    float p2 = exp2_of(__fadd_rn(s[2], -a.m[n][0])), p3 = exp2_of(__fadd_rn(s[3], -a.m[n][1]));
    sum[0] = __fadd_rn(sum[0], __fadd_rn(p0, p2));
    sum[1] = __fadd_rn(sum[1], __fadd_rn(p1, p3));
    even = transposed(halves_of(p0, p1));
    odd = transposed(halves_of(p2, p3));
}

/* Channels 32 c to 32 c + 31 of 16 tokens: x the even ones' values, y the odd ones'; their probabilities are
 * p[n][at] and the next. */
template <int D, int NT, int P>
__device__ __forceinline__ void raw_value(state<D, NT> &a, int c, uint4 x, uint4 y,
                                          const uint32_t (&p)[NT][P], int at)
{
    uint32_t x0 = transposed(x.x), x1 = transposed(x.y), x2 = transposed(x.z), x3 = transposed(x.w);
    uint32_t y0 = transposed(y.x), y1 = transposed(y.y), y2 = transposed(y.z), y3 = transposed(y.w);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        mma(a.o[n][2 * c], x0, x1, y0, y1, p[n][at], p[n][at + 1]);
        mma(a.o[n][2 * c + 1], x2, x3, y2, y3, p[n][at], p[n][at + 1]);
    }
}

template <int D, int NT>
__device__ __forceinline__ void raw_values(state<D, NT> &a, const uint32_t (&p)[NT][8], const uint8_t *values,
                                           int r, int j)
{
#pragma unroll
    for (int t = 0; t < 4; t++)
#pragma unroll
        for (int c = 0; c < D / 32; c++) {
            const uint8_t *row = values + (16 * t + 2 * r) * (D * 2) + c * 64 + j * 16;
            raw_value<D, NT>(a, c, raw_piece(row, true), raw_piece(row + D * 2, true), p, 2 * t);
        }
}

/* A raw record in shared memory, keys then values [64][D], that every column sees all of. */
template <int D, int NT>
__device__ __forceinline__ void page_raw(state<D, NT> &a, const uint32_t (&q)[NT][D / 8], const uint8_t *page,
                                         float *lse, int columns, int lane)
{
    int r = lane >> 2, j = lane & 3;
    float s[NT][4][4], sum[NT][2];
    uint32_t p[NT][8];
    raw_scores<D, NT>(s, q, page, r, j);
    state_raise(a, s, shift_of<16>::value);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        sum[n][0] = sum[n][1] = 0;
#pragma unroll
        for (int t = 0; t < 4; t++)
            raw_weights<D, NT>(a, n, s[n][t], p[n][2 * t], p[n][2 * t + 1], sum[n]);
        a.l[n][0] = __fadd_rn(a.l[n][0], sum[n][0]);
        a.l[n][1] = __fadd_rn(a.l[n][1], sum[n][1]);
    }
    if (lse)
        write_lse(a, sum, lse, columns, lane);
    raw_values<D, NT>(a, p, page + 64 * D * 2, r, j);
}

/* Tokens 16 t to 16 t + 15 of a raw page in global memory, as far as they are seen. All loads are under way
 * at once: who does this waits for memory. */
template <int D, int NT>
__device__ __forceinline__ void raw_tile(state<D, NT> &a, const uint32_t (&q)[NT][D / 8], const uint8_t *page,
                                         int t, const sight &v, int lane)
{
    int r = lane >> 2, j = lane & 3, token = 16 * t + 2 * r;
    const uint8_t *row = page + token * (D * 2) + j * 16;
    bool there = token < v.rows, there2 = token + 1 < v.rows;
    uint4 k[D / 32][2], x[D / 32][2];
#pragma unroll
    for (int c = 0; c < D / 32; c++) {
        k[c][0] = raw_piece(row + c * 64, there);
        k[c][1] = raw_piece(row + D * 2 + c * 64, there2);
    }
#pragma unroll
    for (int c = 0; c < D / 32; c++) {
        x[c][0] = raw_piece(row + 64 * D * 2 + c * 64, there);
        x[c][1] = raw_piece(row + 64 * D * 2 + D * 2 + c * 64, there2);
    }
    float s[NT][1][4], sum[NT][2];
    uint32_t p[NT][2];
#pragma unroll
    for (int n = 0; n < NT; n++) {
        s[n][0][0] = s[n][0][1] = s[n][0][2] = s[n][0][3] = 0;
#pragma unroll
        for (int c = 0; c < D / 32; c++)
            raw_score(s[n][0], k[c][0], k[c][1], q[n][4 * c], q[n][4 * c + 1], q[n][4 * c + 2],
                      q[n][4 * c + 3]);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (!seen(v, token + (i >> 1), 8 * n + 2 * j + (i & 1)))
                s[n][0][i] = __int_as_float((int)0xff800000);
    }
    state_raise(a, s, shift_of<16>::value);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        sum[n][0] = sum[n][1] = 0;
        raw_weights<D, NT>(a, n, s[n][0], p[n][0], p[n][1], sum[n]);
        a.l[n][0] = __fadd_rn(a.l[n][0], sum[n][0]);
        a.l[n][1] = __fadd_rn(a.l[n][1], sum[n][1]);
    }
#pragma unroll
    for (int c = 0; c < D / 32; c++)
        raw_value<D, NT>(a, c, x[c][0], x[c][1], p, 0);
}

/* ---- out of the registers ------------------------------------------------------------------------------ */

/* Floats from one column of stored sums to the next: both halves of a warp's stores fall into different
 * banks. */
template <int D> constexpr int SUMS = D + 4;

/* A warp's sums as plain arrays: m[16], l[16], o[NT * 8][SUMS] in order of channels. RAW: as page_raw leaves
 * them. */
template <bool RAW, int D, int NT>
__device__ __forceinline__ void state_store(const state<D, NT> &a, float *to, int lane)
{
    int r = lane >> 2, j = lane & 3;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            int column = 8 * n + 2 * j + c;
            float l = column_sum(a.l[n][c]), z = RAW ? 0 : column_sum(a.z[n][c]);
            if (lane < 4) {
                to[column] = a.m[n][c];
                to[16 + column] = l;
            }
            float *row = to + 32 + column * SUMS<D>;
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                float x = __fadd_rn(a.o[n][i][c], z), y = __fadd_rn(a.o[n][i][c + 2], z);
                if constexpr (RAW) {
                    int channel = 32 * (i >> 1) + 8 * (r >> 1) + 4 * (i & 1) + (r & 1);
                    row[channel] = x;
                    row[channel + 2] = y;
                } else {
                    *reinterpret_cast<float2 *>(row + 16 * i + 2 * r) = make_float2(x, y);
                }
            }
        }
}

} // namespace decode

#endif
