/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_tile.cuh - what both prefill cores share: which rows a group of four warps owns, the running
 * softmax state of these rows, and where it lies in memory between the pieces of a layer.
 *
 * An item is the 64 query rows of one page and one query head. The items of a KV head are numbered page-major
 * (page * G + g), so neighbours see the same keys, to one page, and share what is loaded of them. A warp
 * holds 16 rows of its item in the accumulator layout of mma and wgmma: lane L has rows L / 4 and L / 4 + 8,
 * and of every 8 columns the two from 2 * (L % 4) on: c[4 j + 0, 1] and c[4 j + 2, 3] of column block j.
 */
#ifndef LECTERN_KERNELS_CUDA_PREFILL_TILE_CUH
#define LECTERN_KERNELS_CUDA_PREFILL_TILE_CUH

#include <cuda_fp16.h>
#include <math_constants.h>

#include "kernels/cuda/prefill_core.h"

enum { PREFILL_PAGE = 64 };

/* The maximum in use may lag the true one by this many powers of two before the sums are rescaled: weights
 * stay below 2^8, far inside fp16, and most tiles rescale nothing. */
#ifndef PREFILL_LAG
#define PREFILL_LAG 8.0f
#endif

#define PREFILL_BELOW 12.0f

struct prefill_item {
    uint32_t head;  /* index among the retrieval heads */
    uint32_t g;     /* query head inside it */
    uint32_t page;  /* counted from base */
    bool real;      /* false: there is no such item; its twin is computed and not written */
    size_t row;     /* of q, o, lse: (head * G + g) * Tp + page * 64 */
    size_t visible; /* expanded rows of this piece that it sees, 0 .. tokens */
};

__host__ __device__ inline size_t prefill_base(const prefill_core &a)
{
    return a.pos0 / PREFILL_PAGE * PREFILL_PAGE;
}

/* Items of one KV head. */
__host__ __device__ inline size_t prefill_items(const prefill_core &a)
{
    return (a.pos0 - prefill_base(a) + a.T + PREFILL_PAGE - 1) / PREFILL_PAGE * (size_t)a.G;
}

__device__ inline prefill_item prefill_item_of(const prefill_core &a, uint32_t head, uint32_t item)
{
    const uint32_t n = (uint32_t)prefill_items(a);
    prefill_item it;
    it.real = item < n;
    item = it.real ? item : n - 1;
    it.head = head;
    it.page = item / (uint32_t)a.G;
    it.g = item - it.page * (uint32_t)a.G;
    it.row = ((size_t)head * (size_t)a.G + it.g) * a.Tp + (size_t)it.page * PREFILL_PAGE;
    const size_t limit = prefill_base(a) + (size_t)it.page * PREFILL_PAGE;
    const size_t seen = limit > a.first ? limit - a.first : 0;
    it.visible = seen < a.tokens ? seen : a.tokens;
    return it;
}

/* 16 rows of D columns: sums o and l relative to 2^m. Of l each lane holds its own columns' part. */
template <int D> struct prefill_state {
    float o[D / 2];
    float m[2], l[2];
};

/* Few rows, many keys: `parts` blocks each take a share of the same items' keys and leave a state of their
 * own, which prefill_join merges with what the pieces before left. One part: no such thing. */
struct prefill_split {
    uint32_t parts;
    float *o, *lse; /* [parts][heads][items][64][D], without [D] */
};

template <int D> __device__ __forceinline__ void prefill_state_clear(prefill_state<D> &st)
{
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        st.o[i] = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        st.m[r] = -CUDART_INF_F;
        st.l[r] = 0.0f;
    }
}

/* What the pieces before left for the warp's 16 rows from `row` on. lse is far above the greatest score when
 * many keys share the weight; m begins PREFILL_BELOW under it, so that weights stay among fp16's normal
 * numbers. */
template <int D>
__device__ __forceinline__ void prefill_state_load(prefill_state<D> &st, const float *o, const float *lse,
                                                   size_t row, int lane)
{
    const int quad = lane & 3;
    const float scale = exp2f(PREFILL_BELOW);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const size_t at = row + (size_t)(lane >> 2) + 8 * (size_t)r;
        st.m[r] = lse[at] - PREFILL_BELOW;
        st.l[r] = quad == 0 && st.m[r] != -CUDART_INF_F ? scale : 0.0f;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            const float2 v = *(const float2 *)(o + at * D + 8 * j + 2 * quad);
            st.o[4 * j + 2 * r] = v.x * scale;
            st.o[4 * j + 2 * r + 1] = v.y * scale;
        }
    }
}

/* l whole in every lane, o divided by it. */
template <int D> __device__ __forceinline__ void prefill_state_close(prefill_state<D> &st)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        st.l[r] += __shfl_xor_sync(0xffffffffu, st.l[r], 1);
        st.l[r] += __shfl_xor_sync(0xffffffffu, st.l[r], 2);
        const float inv = st.l[r] > 0.0f ? 1.0f / st.l[r] : 0.0f;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            st.o[4 * j + 2 * r] *= inv;
            st.o[4 * j + 2 * r + 1] *= inv;
        }
    }
}

/* A closed state for the next piece or for prefill_join. */
template <int D>
__device__ __forceinline__ void prefill_state_keep(const prefill_state<D> &st, float *o, float *lse,
                                                   size_t row, int lane)
{
    const int quad = lane & 3;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const size_t at = row + (size_t)(lane >> 2) + 8 * (size_t)r;
        if (quad == 0)
            lse[at] = st.l[r] > 0.0f ? st.m[r] + log2f(st.l[r]) : -CUDART_INF_F;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            *(float2 *)(o + at * D + 8 * j + 2 * quad) =
                make_float2(st.o[4 * j + 2 * r], st.o[4 * j + 2 * r + 1]);
    }
}

/* Where row `in_page` of an item goes in the chunk's output; NULL: it is not of this chunk. */
__device__ __forceinline__ __half *prefill_out_of(const prefill_core &a, const prefill_item &it, int in_page)
{
    const size_t row = (size_t)it.page * PREFILL_PAGE + (size_t)in_page, before = a.pos0 - prefill_base(a);
    if (row < before || row >= before + a.T)
        return NULL;
    const size_t qhead = (size_t)a.heads_of[it.head] * (size_t)a.G + it.g;
    return a.out + (row - before) * a.ldout + qhead * (size_t)a.D;
}

/* Where a block's rows come from and go to. first_row: the warp's first row inside the item. */
template <int D>
__device__ __forceinline__ void prefill_state_begin(prefill_state<D> &st, const prefill_core &a,
                                                    const prefill_split &split, const prefill_item &it,
                                                    int first_row, int lane)
{
    prefill_state_clear<D>(st);
    if (!a.begin && split.parts == 1)
        prefill_state_load<D>(st, a.o, a.lse, it.row + (size_t)first_row, lane);
}

template <int D>
__device__ __forceinline__ void prefill_state_end(prefill_state<D> &st, const prefill_core &a,
                                                  const prefill_split &split, const prefill_item &it,
                                                  int first_row, int lane)
{
    prefill_state_close<D>(st);
    if (!it.real)
        return;
    if (split.parts > 1) {
        const size_t item = (size_t)it.page * (size_t)a.G + it.g;
        const size_t at = ((size_t)blockIdx.z * (size_t)a.heads + it.head) * prefill_items(a) + item;
        prefill_state_keep<D>(st, split.o, split.lse, at * PREFILL_PAGE + (size_t)first_row, lane);
    } else if (!a.last) {
        prefill_state_keep<D>(st, a.o, a.lse, it.row + (size_t)first_row, lane);
    } else {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            __half *out = prefill_out_of(a, it, first_row + (lane >> 2) + 8 * r);
#pragma unroll
            for (int j = 0; j < D / 8; j++)
                if (out)
                    *(__half2 *)(out + 8 * j + 2 * (lane & 3)) =
                        __floats2half2_rn(st.o[4 * j + 2 * r], st.o[4 * j + 2 * r + 1]);
        }
    }
}

/* One warp a row: the state of the pieces before and the parts, in this order, into one. */
template <int D>
static __global__ void prefill_join(const __grid_constant__ prefill_core a,
                                    const __grid_constant__ prefill_split split)
{
    const size_t items = prefill_items(a), row = (size_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    const int lane = (int)threadIdx.x % 32, in_page = (int)(row % PREFILL_PAGE);
    const prefill_item it = prefill_item_of(a, blockIdx.y, (uint32_t)(row / PREFILL_PAGE));
    const size_t part = (size_t)a.heads * items * PREFILL_PAGE,
                 at = (size_t)it.head * items * PREFILL_PAGE + row;
    const size_t kept = it.row + (size_t)in_page;
    float top = a.begin ? -CUDART_INF_F : a.lse[kept];
    for (uint32_t z = 0; z < split.parts; z++)
        top = fmaxf(top, split.lse[z * part + at]);
    const float shift = top == -CUDART_INF_F ? 0.0f : top;
    float sum = a.begin ? 0.0f : exp2f(a.lse[kept] - shift), o[D / 32];
    for (int i = 0; i < D / 32; i++)
        o[i] = a.begin ? 0.0f : sum * a.o[kept * D + (size_t)(32 * i + lane)];
    for (uint32_t z = 0; z < split.parts; z++) {
        const float w = exp2f(split.lse[z * part + at] - shift);
        sum += w;
        for (int i = 0; i < D / 32; i++)
            o[i] += w * split.o[(z * part + at) * D + (size_t)(32 * i + lane)];
    }
    const float inv = sum > 0.0f ? 1.0f / sum : 0.0f;
    if (!a.last && lane == 0)
        a.lse[kept] = sum > 0.0f ? top + log2f(sum) : -CUDART_INF_F;
    __half *out = a.last ? prefill_out_of(a, it, in_page) : NULL;
    for (int i = 0; i < D / 32; i++)
        if (!a.last)
            a.o[kept * D + (size_t)(32 * i + lane)] = o[i] * inv;
        else if (out)
            out[32 * i + lane] = __float2half(o[i] * inv);
}

/* How many parts fill a card that runs `slots` blocks at a time; a block has steps of `keys` keys. */
static inline prefill_split prefill_split_of(const prefill_core &a, size_t items_a_block, size_t keys,
                                             size_t slots)
{
    const size_t items = prefill_items(a),
                 blocks = (items + items_a_block - 1) / items_a_block * (size_t)a.heads;
    const size_t worth = a.tokens / (keys * 4); /* a part has four steps at least */
    const size_t states = (size_t)a.heads * items * PREFILL_PAGE;
    const size_t room = a.split ? a.split_bytes / (states * (size_t)(a.D + 1) * sizeof(float)) : 0;
    size_t parts = slots / blocks < worth ? slots / blocks : worth;
    parts = parts < room ? parts : room;
    parts = parts > 1 ? parts : 1;
    prefill_split s = {(uint32_t)parts, (float *)a.split, (float *)a.split};
    s.lse = parts > 1 ? s.o + parts * states * (size_t)a.D : NULL;
    return s;
}

static inline cudaError_t prefill_join_parts(const prefill_core &a, const prefill_split &split,
                                             cudaStream_t stream)
{
    if (split.parts == 1)
        return cudaSuccess;
    const dim3 grid((unsigned)(prefill_items(a) * PREFILL_PAGE / 8), (unsigned)a.heads);
    if (a.D == 64)
        prefill_join<64><<<grid, 256, 0, stream>>>(a, split);
    else
        prefill_join<128><<<grid, 256, 0, stream>>>(a, split);
    return cudaGetLastError();
}

/* Columns outside lo .. hi[r] of a tile of N scores are not seen by row r of the lane. */
template <int N>
__device__ __forceinline__ void prefill_mask(float (&s)[N / 2], int lo, const int (&hi)[2], int lane)
{
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const int col = 8 * (i / 4) + 2 * (lane & 3) + (i & 1), r = (i >> 1) & 1;
        s[i] = col >= lo && col <= hi[r] ? s[i] : -CUDART_INF_F;
    }
}

__device__ __forceinline__ float prefill_exp2(float x)
{
    float y;
    asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Scores to weights 2^(s - m), m and l brought up to date; o is to be multiplied by alpha[r]. Returns whether
 * alpha differs from 1 in some row of the warp. */
template <int N>
__device__ __forceinline__ bool prefill_softmax(float (&s)[N / 2], float (&m)[2], float (&l)[2],
                                                float (&alpha)[2])
{
    bool grown = false;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top[2] = {s[2 * r], s[2 * r + 1]};
#pragma unroll
        for (int j = 1; j < N / 8; j++) {
            top[0] = fmaxf(top[0], s[4 * j + 2 * r]);
            top[1] = fmaxf(top[1], s[4 * j + 2 * r + 1]);
        }
        float best = fmaxf(top[0], top[1]);
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 1));
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, 2));
        const bool grow = best > m[r] + PREFILL_LAG; /* from -inf: as soon as anything is seen */
        alpha[r] = grow ? prefill_exp2(m[r] - best) : 1.0f;
        m[r] = grow ? best : m[r];
        grown = grown || grow;
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float shift = m[r] == -CUDART_INF_F ? 0.0f : m[r]; /* nothing seen yet: every weight is 0 */
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int j = 0; j < N / 8; j++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                const int i = 4 * j + 2 * r + c;
                s[i] = prefill_exp2(s[i] - shift);
                sum[c] += s[i];
            }
        l[r] = l[r] * alpha[r] + (sum[0] + sum[1]);
    }
    return __any_sync(0xffffffffu, grown);
}

template <int D>
__device__ __forceinline__ void prefill_rescale(prefill_state<D> &st, const float (&alpha)[2])
{
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        st.o[i] *= alpha[(i >> 1) & 1];
}

/* Weights as the A operand of 16-wide products: p[4 k ..] for columns 16 k .. 16 k + 15. */
template <int N>
__device__ __forceinline__ void prefill_weights(uint32_t (&p)[N / 4], const float (&s)[N / 2])
{
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        const __half2 h = __floats2half2_rn(s[2 * i], s[2 * i + 1]);
        p[i] = *(const uint32_t *)&h;
    }
}

/* What both kernels ask of a call. */
static inline cudaError_t prefill_check(const prefill_core *a)
{
    const size_t rows = a->pos0 - prefill_base(*a) + a->T;
    if (a->heads < 1 || a->G < 1 || (a->D != 64 && a->D != 128) || a->T < 1 || a->Tp % 64 || rows > a->Tp ||
        a->tokens % 64 || a->first % 64 || a->tokens > a->ld_tokens)
        return cudaErrorInvalidValue;
    if ((!a->begin || !a->last) && (!a->o || !a->lse))
        return cudaErrorInvalidValue;
    if (a->last && (!a->out || !a->heads_of || a->ldout % 2 || !a->k_raw || !a->v_raw))
        return cudaErrorInvalidValue;
    if (a->tokens && (!a->k || !a->v))
        return cudaErrorInvalidValue;
    if (a->heads > 65535 || prefill_items(*a) > 0x3fffffff || a->tokens > 0x3fffffff)
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

#endif
