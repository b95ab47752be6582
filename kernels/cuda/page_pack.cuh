/* SPDX-License-Identifier: Apache-2.0 */
/* page_pack.cuh - a KV page's record and scan summary made on the card by one block of threads, bit for bit
 * what ref_page.c and page.c make; and where each code of a record lies (kernels/page.h is the rule).
 *
 * Every rounding is stated by an intrinsic, so that no compiler option changes a byte. Minima, maxima and
 * integers may be found in any order; sums keep the order of the specification.
 */
#ifndef LECTERN_KERNELS_CUDA_PAGE_PACK_CUH
#define LECTERN_KERNELS_CUDA_PAGE_PACK_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "kernels/kv_page.h"

enum { PAGE_PACK_D_MAX = 256 };

/* As page_layout of page.h. */
struct page_form {
    int k_bits, v_bits; /* 0: raw */
    uint32_t v_codes, k_params, v_params, bytes;
};

__host__ __device__ inline page_form page_form_of(int format, uint32_t D)
{
    page_form y = {0, 0, 0, 0, 0, 2 * KV_PAGE_TOKENS * D * 2};
    if (format == KV_RAW)
        return y;
    y.k_bits = format == KV_8 || format == KV_K8V4 ? 8 : format == KV_3 ? 3 : 4;
    y.v_bits = format == KV_8 ? 8 : format == KV_3 ? 3 : format == KV_K4V2 ? 2 : 4;
    y.v_codes = KV_PAGE_TOKENS * D / 8 * (uint32_t)y.k_bits;
    y.k_params = y.v_codes + KV_PAGE_TOKENS * D / 8 * (uint32_t)y.v_bits;
    y.v_params = y.k_params + 4 * D;
    y.bytes = y.v_params + 4 * KV_PAGE_TOKENS;
    return y;
}

__host__ __device__ inline uint32_t page_k_param(uint32_t D, uint32_t channel)
{
    const uint32_t cg = channel / 4;
    return ((cg & 3) * (D / 16) + (cg >> 2)) * 4 + channel % 4;
}

__host__ __device__ inline uint32_t page_v_param(uint32_t token)
{
    return token % 16 / 2 * 8 + token / 16 * 2 + token % 2;
}

/* Number i = 0..15 of column j = 0..3 of V's words. */
__host__ __device__ inline uint32_t page_v_word_token(uint32_t j, uint32_t i)
{
    return i / 8 * 32 + 4 * j + (i >> 2 & 1) * 2 + (i >> 1 & 1) * 16 + (i & 1);
}

/* Number of the word (its bytes are at 4 * that) and shift of a code in a plane of 8, 4, 2 or 1 bits. */
struct page_spot {
    uint32_t word, shift;
};

__host__ __device__ inline page_spot page_k_spot(uint32_t D, uint32_t bits, uint32_t token, uint32_t channel)
{
    const uint32_t per = bits == 1 ? 16 : 32 / bits, group = channel / per;
    const uint32_t line = bits == 1 ? token / 32 * (D / 16) + group : token / 16 * (D * bits / 32) + group;
    return {line * 16 + (token % 16 ^ (group >> 1 & 1) * 8),
            channel % per * bits + (bits == 1 ? token / 16 % 2 * 16 : 0)};
}

__host__ __device__ inline page_spot page_v_spot(uint32_t D, uint32_t bits, uint32_t token, uint32_t channel)
{
    const uint32_t r = token % 32, j = r % 16 / 4, mt = channel / 16;
    const uint32_t i = token / 32 * 8 + r % 4 / 2 * 4 + r / 16 * 2 + r % 2;
    const uint32_t line = bits == 8   ? ((i / 8 * (D / 16) + mt) * 2 + i / 4 % 2) * 4 + j
                          : bits == 4 ? (i / 8 * (D / 16) + mt) * 4 + j
                          : bits == 2 ? mt * 4 + j
                                      : mt * 2 + j / 2;
    return {line * 16 + (channel % 16 ^ (line >> 1 & 1) * 8),
            bits == 1 ? j % 2 * 16 + i : i % (32 / bits) * bits};
}

#ifdef __CUDACC__

/* Shared memory of page_pack. */
struct page_pack_room {
    float k_scale[PAGE_PACK_D_MAX], k_min[PAGE_PACK_D_MAX]; /* by channel */
    float v_scale[KV_PAGE_TOKENS], v_min[KV_PAGE_TOKENS];   /* by token */
    float mean[PAGE_PACK_D_MAX];                            /* then the point that the codes mean */
    uint32_t top, furthest;                                 /* bits of floats >= 0 */
};

/* Nearest fp16 that is not below x >= 0. */
__device__ inline uint16_t page_half_up(float x)
{
    uint16_t h = __half_as_ushort(__float2half_rn(x));
    while (__half2float(__ushort_as_half(h)) < x)
        h++;
    return h;
}

/* page_grid: scale and min as fp16, and as the floats that codes are made with. */
__device__ inline void page_grid(float lo, float hi, int bits, uint16_t *scale, uint16_t *min)
{
    lo = __fadd_rn(lo, 0.0f); /* -0 becomes +0 */
    hi = __fadd_rn(hi, 0.0f);
    *min = __half_as_ushort(__float2half_rn(lo));
    *scale = 0;
    const float steps = (float)((1 << bits) - 1), range = __fsub_rn(hi, lo);
    if (!(range > 0))
        return;
    uint16_t s = __half_as_ushort(__float2half_rn(__fdiv_rn(range, steps)));
    while (__fmul_rn(__half2float(__ushort_as_half(s)), steps) < range)
        s++;
    *scale = s;
}

__device__ inline uint32_t page_code(float x, float scale, float min, int bits)
{
    const float top = (float)((1 << bits) - 1);
    const float c = scale > 0 ? rintf(__fdiv_rn(__fsub_rn(x, min), scale)) : 0.0f;
    return c > top ? (uint32_t)top : c > 0 ? (uint32_t)c : 0u;
}

/* One word of a plane of B bits: bits [below, below + B) of codes of `bits` bits. w: which word, before lines
 * swap their halves; returns where it goes. */
template <int B>
__device__ inline uint32_t page_k_word(const __half *k, size_t ldk, uint32_t D, int bits, int below,
                                       const page_pack_room *room, uint32_t w, uint32_t *word)
{
    const uint32_t groups = B == 1 ? D / 16 : D * B / 32, line = w / 16, x = w % 16, cg = line % groups;
    const uint32_t per = B == 1 ? 16 : 32 / B, token = line / groups * (B == 1 ? 32 : 16) + x;
    uint32_t all = 0;
    for (uint32_t n = 0; n < 32 / B; n++) {
        const uint32_t c = cg * per + n % per, t = token + n / per * 16;
        const uint32_t code = page_code(__half2float(k[t * ldk + c]), room->k_scale[c], room->k_min[c], bits);
        all |= (code >> below & ((1u << B) - 1)) << n * B;
    }
    *word = all;
    return line * 16 + (x ^ (cg >> 1 & 1) * 8);
}

template <int B>
__device__ inline uint32_t page_v_word(const __half *v, size_t ldv, uint32_t D, int bits, int below,
                                       const page_pack_room *room, uint32_t w, uint32_t *word)
{
    const uint32_t line = w / 16, x = w % 16, tiles = D / 16;
    const uint32_t j = line & 3, rest = B == 8 ? line >> 3 : line >> 2;
    const uint32_t mt = B == 1 ? line >> 1 : rest % tiles;
    const uint32_t first = B == 8 ? rest / tiles * 8 + (line >> 2 & 1) * 4 : B == 4 ? rest / tiles * 8 : 0;
    uint32_t all = 0;
    for (uint32_t n = 0; n < 32 / B; n++) {
        const uint32_t t =
            B == 1 ? page_v_word_token((line & 1) * 2 + n / 16, n % 16) : page_v_word_token(j, first + n);
        const float value = __half2float(v[t * ldv + mt * 16 + x]);
        const uint32_t code = page_code(value, room->v_scale[t], room->v_min[t], bits);
        all |= (code >> below & ((1u << B) - 1)) << n * B;
    }
    *word = all;
    return line * 16 + (x ^ (line >> 1 & 1) * 8);
}

template <int B>
__device__ inline void page_k_plane(const __half *k, size_t ldk, uint32_t D, int bits, int below,
                                    const page_pack_room *room, uint32_t *to, uint32_t thread,
                                    uint32_t threads)
{
    for (uint32_t w = thread; w < KV_PAGE_TOKENS * D * B / 32; w += threads) {
        uint32_t word, at = page_k_word<B>(k, ldk, D, bits, below, room, w, &word);
        to[at] = word;
    }
}

template <int B>
__device__ inline void page_v_plane(const __half *v, size_t ldv, uint32_t D, int bits, int below,
                                    const page_pack_room *room, uint32_t *to, uint32_t thread,
                                    uint32_t threads)
{
    for (uint32_t w = thread; w < KV_PAGE_TOKENS * D * B / 32; w += threads) {
        uint32_t word, at = page_v_word<B>(v, ldv, D, bits, below, room, w, &word);
        to[at] = word;
    }
}

/* Grids: a thread a channel of K, a warp a token of V. */
__device__ inline void page_pack_grids(const __half *k, size_t ldk, const __half *v, size_t ldv, uint32_t D,
                                       page_form form, uint8_t *record, page_pack_room *room, uint32_t thread,
                                       uint32_t threads)
{
    uint16_t *kp = (uint16_t *)(record + form.k_params), *vp = (uint16_t *)(record + form.v_params);
    uint16_t scale, min;
    for (uint32_t c = thread; c < D; c += threads) {
        float lo = INFINITY, hi = -INFINITY;
        for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++) {
            const float x = __half2float(k[t * ldk + c]);
            lo = fminf(lo, x);
            hi = fmaxf(hi, x);
        }
        page_grid(lo, hi, form.k_bits, &scale, &min);
        kp[page_k_param(D, c)] = scale;
        kp[D + page_k_param(D, c)] = min;
        room->k_scale[c] = __half2float(__ushort_as_half(scale));
        room->k_min[c] = __half2float(__ushort_as_half(min));
    }
    for (uint32_t t = thread / 32; t < KV_PAGE_TOKENS; t += threads / 32) {
        float lo = INFINITY, hi = -INFINITY;
        for (uint32_t c = thread % 32; c < D; c += 32) {
            const float x = __half2float(v[t * ldv + c]);
            lo = fminf(lo, x);
            hi = fmaxf(hi, x);
        }
        for (int i = 16; i; i /= 2) {
            lo = fminf(lo, __shfl_xor_sync(0xffffffffu, lo, i));
            hi = fmaxf(hi, __shfl_xor_sync(0xffffffffu, hi, i));
        }
        if (thread % 32)
            continue;
        page_grid(lo, hi, form.v_bits, &scale, &min);
        vp[page_v_param(t)] = scale;
        vp[KV_PAGE_TOKENS + page_v_param(t)] = min;
        room->v_scale[t] = __half2float(__ushort_as_half(scale));
        room->v_min[t] = __half2float(__ushort_as_half(min));
    }
}

/* scan: 2-byte aligned. Between its steps all threads meet. */
__device__ inline void page_pack_scan(const __half *k, size_t ldk, uint32_t D, uint8_t *scan,
                                      page_pack_room *room, uint32_t thread, uint32_t threads)
{
    if (!thread)
        room->top = room->furthest = 0;
    __syncthreads();
    for (uint32_t c = thread; c < D; c += threads) {
        float sum = 0;
        for (uint32_t t = 0; t < KV_PAGE_TOKENS; t++)
            sum = __fadd_rn(sum, __half2float(k[t * ldk + c]));
        room->mean[c] = __fmul_rn(sum, 1.0f / KV_PAGE_TOKENS);
        atomicMax(&room->top, __float_as_uint(fabsf(room->mean[c])));
    }
    __syncthreads();
    const uint16_t scale = page_half_up(__fdiv_rn(__uint_as_float(room->top), 127.0f));
    const float step = __half2float(__ushort_as_half(scale));
    for (uint32_t c = thread; c < D; c += threads) {
        float code = step > 0 ? rintf(__fdiv_rn(room->mean[c], step)) : 0.0f;
        code = code > 127 ? 127.0f : code < -127 ? -127.0f : code;
        scan[c] = (uint8_t)(int8_t)(int)code;
        room->mean[c] = __fmul_rn(step, code);
    }
    for (uint32_t c = thread; c < 12; c += threads)
        scan[D + 4 + c] = 0;
    __syncthreads();
    for (uint32_t t = thread; t < KV_PAGE_TOKENS; t += threads) {
        float sum = 0;
        for (uint32_t c = 0; c < D; c++) {
            const float d = __fsub_rn(__half2float(k[t * ldk + c]), room->mean[c]);
            sum = __fmaf_rn(d, d, sum);
        }
        atomicMax(&room->furthest, __float_as_uint(sum));
    }
    __syncthreads();
    if (!thread) {
        const float r = __fmul_rn(__fsqrt_rn(__uint_as_float(room->furthest)), 1.0f + 0x1p-16f);
        *(uint16_t *)(scan + D) = scale;
        *(uint16_t *)(scan + D + 2) = page_half_up(r);
    }
}

/* One page by all threads of a block (a multiple of 32): 64 rows of finite fp16 keys and values, ldk and ldv
 * halves apart, in global or shared memory. D is a multiple of 16, at most PAGE_PACK_D_MAX; record is 4-byte
 * aligned (raw: as k and v). `room` is shared memory; the block meets inside, and before it uses `room`
 * again or reads what was written it must meet once more. */
__device__ inline void page_pack(const __half *k, size_t ldk, const __half *v, size_t ldv, uint32_t D,
                                 int format, uint8_t *record, uint8_t *scan, page_pack_room *room)
{
    const uint32_t thread = threadIdx.x, threads = blockDim.x;
    const page_form form = page_form_of(format, D);
    page_pack_scan(k, ldk, D, scan, room, thread, threads);
    if (!form.k_bits) {
        __half *to = (__half *)record;
        for (uint32_t i = thread; i < KV_PAGE_TOKENS * D; i += threads) {
            to[i] = k[i / D * ldk + i % D];
            to[KV_PAGE_TOKENS * D + i] = v[i / D * ldv + i % D];
        }
        return;
    }
    page_pack_grids(k, ldk, v, ldv, D, form, record, room, thread, threads);
    __syncthreads();
    uint32_t *kc = (uint32_t *)record, *vc = (uint32_t *)(record + form.v_codes);
    if (form.k_bits == 8)
        page_k_plane<8>(k, ldk, D, 8, 0, room, kc, thread, threads);
    else if (form.k_bits == 4)
        page_k_plane<4>(k, ldk, D, 4, 0, room, kc, thread, threads);
    else {
        page_k_plane<2>(k, ldk, D, 3, 0, room, kc, thread, threads);
        page_k_plane<1>(k, ldk, D, 3, 2, room, kc + KV_PAGE_TOKENS * D / 16, thread, threads);
    }
    if (form.v_bits == 8)
        page_v_plane<8>(v, ldv, D, 8, 0, room, vc, thread, threads);
    else if (form.v_bits == 4)
        page_v_plane<4>(v, ldv, D, 4, 0, room, vc, thread, threads);
    else {
        page_v_plane<2>(v, ldv, D, form.v_bits, 0, room, vc, thread, threads);
        if (form.v_bits == 3)
            page_v_plane<1>(v, ldv, D, 3, 2, room, vc + KV_PAGE_TOKENS * D / 16, thread, threads);
    }
}

#endif /* __CUDACC__ */
#endif
