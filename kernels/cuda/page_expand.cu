/* SPDX-License-Identifier: Apache-2.0 */
/* page_expand.cu - records into fp16 rows: what the hot kernel of prefill reads.
 *
 * value = min + scale * code with one rounding to fp16 (a code is exact in fp16), held at 65,504. A task is
 * 8 tokens by 8 channels: 32 or 64 bytes of codes in whole sectors, 8 stores of 16 bytes that neighbours
 * make whole rows of. D tasks make a page's keys, D its values; a thread has one of each.
 * Bytes: a record read, 256 * D written a page; the limit is memory.
 */
#include "kernels/cuda/page_pack.cuh"
#include "kernels/cuda/prefill_op.h"

enum { GENERIC_THREADS = 256 };

struct expand_place {
    const uint8_t *record;
    __half *k, *v; /* row 0 of the page */
};

static __device__ inline expand_place place_of(const prefill_op &p, size_t first_page)
{
    const size_t page = first_page + blockIdx.x;
    const uint32_t slot = blockIdx.y;
    const uint8_t *block = (const uint8_t *)p.blocks[page / DEVICE_BLOCK_PAGES];
    const size_t i = p.record_at + page % DEVICE_BLOCK_PAGES * p.hr + slot;
    const size_t row = ((size_t)slot * p.ld + (size_t)blockIdx.x * PREFILL_ROW_PAGE) * p.D;
    return {block + i * p.record_bytes, p.ke + row, p.ve + row};
}

static __device__ __forceinline__ __half2 as_half2(uint32_t u)
{
    return *reinterpret_cast<__half2 *>(&u);
}

static __device__ __forceinline__ uint32_t as_u32(__half2 h)
{
    return *reinterpret_cast<uint32_t *>(&h);
}

/* Two codes as 0x6400 + code become values. */
static __device__ __forceinline__ uint32_t value_of(uint32_t magic, __half2 scale, __half2 min)
{
    const __half2 code = __hsub2(as_half2(magic), as_half2(0x64006400u));
    return as_u32(__hmin2(__hfma2(code, scale, min), as_half2(0x7bff7bffu)));
}

/* Low halves, high halves of two words. */
static __device__ __forceinline__ uint32_t lows(uint32_t a, uint32_t b)
{
    return __byte_perm(a, b, 0x5410);
}
static __device__ __forceinline__ uint32_t highs(uint32_t a, uint32_t b)
{
    return __byte_perm(a, b, 0x7632);
}

static __device__ __forceinline__ void load8(const uint8_t *from, uint32_t (&w)[8])
{
    const uint4 a = ((const uint4 *)from)[0], b = ((const uint4 *)from)[1];
    w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
    w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
}

/* 8 fp16 parameters: two runs of four. */
static __device__ __forceinline__ void load_params(const uint8_t *params, uint32_t at0, uint32_t at1,
                                                   __half2 (&y)[4])
{
    const uint2 a = *(const uint2 *)(params + at0 * 2), b = *(const uint2 *)(params + at1 * 2);
    y[0] = as_half2(a.x), y[1] = as_half2(a.y), y[2] = as_half2(b.x), y[3] = as_half2(b.y);
}

/* Channels 8g .. 8g + 7 of 8 tokens. */
template <int D, int BITS>
static __device__ __forceinline__ void expand_k(const uint8_t *record, const page_form &form, uint32_t task,
                                                __half *k)
{
    const uint32_t g = task % (D / 8), part = task / (D / 8) % 2, t16 = task / (D / 8) / 2;
    __half2 scale[4], min[4];
    const uint8_t *params = record + form.k_params;
    const uint32_t at0 = page_k_param(D, 8 * g), at1 = page_k_param(D, 8 * g + 4);
    load_params(params, at0, at1, scale);
    load_params(params + 2 * D, at0, at1, min);
    uint32_t swap, w[8], w1[8];
    if (BITS == 4) {
        swap = g >> 1 & 1;
        load8(record + (t16 * (D / 8) + g) * 64 + part * 32, w);
    } else { /* lines 2g and 2g + 1 */
        swap = g & 1;
        load8(record + (t16 * (D / 4) + 2 * g) * 64 + part * 32, w);
        load8(record + (t16 * (D / 4) + 2 * g + 1) * 64 + part * 32, w1);
    }
    uint4 *to = (uint4 *)(k + (size_t)(t16 * 16 + (part ^ swap) * 8) * D + 8 * g);
#pragma unroll
    for (int t = 0; t < 8; t++) {
        uint32_t c[4]; /* 0x6400 + code of channels 0 1, 2 3, 4 5, 6 7 */
        if (BITS == 4) {
            const uint32_t m = 0x000f000fu, magic = 0x64006400u;
            const uint32_t a = (w[t] & m) | magic, b = (w[t] >> 4 & m) | magic, e = (w[t] >> 8 & m) | magic,
                           f = (w[t] >> 12 & m) | magic;
            c[0] = lows(a, b), c[1] = lows(e, f), c[2] = highs(a, b), c[3] = highs(e, f);
        } else {
            c[0] = __byte_perm(w[t], 0x64646464u, 0x4140), c[1] = __byte_perm(w[t], 0x64646464u, 0x4342);
            c[2] = __byte_perm(w1[t], 0x64646464u, 0x4140), c[3] = __byte_perm(w1[t], 0x64646464u, 0x4342);
        }
        to[t * (D / 8)] = make_uint4(value_of(c[0], scale[0], min[0]), value_of(c[1], scale[1], min[1]),
                                     value_of(c[2], scale[2], min[2]), value_of(c[3], scale[3], min[3]));
    }
}

/* The 8 tokens of column j and half u, 8 channels. */
template <int D, int BITS>
static __device__ __forceinline__ void expand_v(const uint8_t *record, const page_form &form, uint32_t task,
                                                __half *v)
{
    const uint32_t part = task % 2, j = task / 2 % 4, mt = task / 8 % (D / 16), u = task / 8 / (D / 16);
    const uint32_t channel = mt * 16 + (part ^ (j >> 1)) * 8; /* a line's number has j as its low bits */
    const uint8_t *params = record + form.v_params;
    __half2 scale[4], min[4]; /* of tokens 0 1, 2 3, .. of the word */
    load_params(params, 16 * j + 4 * u, 16 * j + 8 + 4 * u, scale);
    load_params(params + 2 * KV_PAGE_TOKENS, 16 * j + 4 * u, 16 * j + 8 + 4 * u, min);
    const uint8_t *codes = record + form.v_codes;
    uint32_t w[8], w1[8];
    if (BITS == 4)
        load8(codes + ((u * (D / 16) + mt) * 4 + j) * 64 + part * 32, w);
    else { /* tokens 0..3, 4..7 */
        load8(codes + ((u * (D / 16) + mt) * 8 + j) * 64 + part * 32, w);
        load8(codes + ((u * (D / 16) + mt) * 8 + 4 + j) * 64 + part * 32, w1);
    }
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const __half2 s = n & 1 ? __high2half2(scale[n / 2]) : __low2half2(scale[n / 2]);
        const __half2 m = n & 1 ? __high2half2(min[n / 2]) : __low2half2(min[n / 2]);
        uint32_t y[4];
#pragma unroll
        for (int c = 0; c < 4; c++) { /* channels 2c, 2c + 1 */
            uint32_t magic;
            if (BITS == 4) {
                const uint32_t both = n < 4 ? lows(w[2 * c], w[2 * c + 1]) : highs(w[2 * c], w[2 * c + 1]);
                magic = (both >> (n % 4 * 4) & 0x000f000fu) | 0x64006400u;
            } else {
                const uint32_t a = n < 4 ? w[2 * c] : w1[2 * c], b = n < 4 ? w[2 * c + 1] : w1[2 * c + 1];
                const uint32_t pair = __byte_perm(a, b, (uint32_t)(n % 4) | (uint32_t)(4 + n % 4) << 4);
                magic = __byte_perm(pair, 0x64646464u, 0x4140);
            }
            y[c] = value_of(magic, s, m);
        }
        *(uint4 *)(v + (size_t)page_v_word_token(j, u * 8 + (uint32_t)n) * D + channel) =
            make_uint4(y[0], y[1], y[2], y[3]);
    }
}

template <int D, int KB, int VB>
static __global__ void __launch_bounds__(D)
    expand_kernel(const __grid_constant__ prefill_op p, size_t first_page)
{
    const expand_place at = place_of(p, first_page);
    const page_form form = page_form_of(p.format, D);
    expand_k<D, KB>(at.record, form, threadIdx.x, at.k);
    expand_v<D, VB>(at.record, form, threadIdx.x, at.v);
}

static __global__ void __launch_bounds__(GENERIC_THREADS)
    expand_raw(const __grid_constant__ prefill_op p, size_t first_page)
{
    const expand_place at = place_of(p, first_page);
    const uint32_t n = PREFILL_ROW_PAGE * p.D / 8;
    for (uint32_t i = threadIdx.x; i < 2 * n; i += GENERIC_THREADS)
        ((uint4 *)(i < n ? at.k : at.v))[i % n] = ((const uint4 *)at.record)[i];
}

/* Of 8, 4, 3 or 2 bits: 3 are a plane of 2 and one of 1. */
static __device__ inline uint32_t code_at(const uint32_t *plane, uint32_t D, uint32_t bits, bool keys,
                                          uint32_t token, uint32_t channel)
{
    const uint32_t low = bits == 3 ? 2 : bits;
    const page_spot a = keys ? page_k_spot(D, low, token, channel) : page_v_spot(D, low, token, channel);
    uint32_t code = plane[a.word] >> a.shift & ((1u << low) - 1);
    if (bits == 3) {
        const page_spot b = keys ? page_k_spot(D, 1, token, channel) : page_v_spot(D, 1, token, channel);
        code |= (plane[PREFILL_ROW_PAGE * D / 16 + b.word] >> b.shift & 1) << 2;
    }
    return code;
}

/* Any coded format, a value a thread and turn. */
static __global__ void __launch_bounds__(GENERIC_THREADS)
    expand_any(const __grid_constant__ prefill_op p, size_t first_page)
{
    const expand_place at = place_of(p, first_page);
    const uint32_t D = p.D, n = PREFILL_ROW_PAGE * D;
    const page_form form = page_form_of(p.format, D);
    const __half top = __ushort_as_half(0x7bff);
    for (uint32_t i = threadIdx.x; i < 2 * n; i += GENERIC_THREADS) {
        const bool keys = i < n;
        const uint32_t t = i % n / D, c = i % D;
        const uint32_t code = code_at((const uint32_t *)(at.record + (keys ? 0 : form.v_codes)), D,
                                      (uint32_t)(keys ? form.k_bits : form.v_bits), keys, t, c);
        const __half *params = (const __half *)(at.record + (keys ? form.k_params : form.v_params));
        const uint32_t param = keys ? page_k_param(D, c) : page_v_param(t);
        const __half min = params[(keys ? D : PREFILL_ROW_PAGE) + param];
        (keys ? at.k : at.v)[i % n] = __hmin(__hfma(__uint2half_rn(code), params[param], min), top);
    }
}

template <int D> static void launch(const prefill_op &p, dim3 grid, size_t first_page, cudaStream_t stream)
{
    switch (p.format) {
    case KV_4:
        expand_kernel<D, 4, 4><<<grid, D, 0, stream>>>(p, first_page);
        break;
    case KV_8:
        expand_kernel<D, 8, 8><<<grid, D, 0, stream>>>(p, first_page);
        break;
    case KV_K8V4:
        expand_kernel<D, 8, 4><<<grid, D, 0, stream>>>(p, first_page);
        break;
    case KV_RAW:
        expand_raw<<<grid, GENERIC_THREADS, 0, stream>>>(p, first_page);
        break;
    default:
        expand_any<<<grid, GENERIC_THREADS, 0, stream>>>(p, first_page);
    }
}

cudaError_t prefill_expand(const prefill_op &p, size_t first, size_t tokens, cudaStream_t stream)
{
    if (!tokens || !p.hr)
        return cudaSuccess;
    const dim3 grid((unsigned)(tokens / PREFILL_ROW_PAGE), p.hr);
    if (p.D == 128)
        launch<128>(p, grid, first / PREFILL_ROW_PAGE, stream);
    else
        launch<64>(p, grid, first / PREFILL_ROW_PAGE, stream);
    return cudaGetLastError();
}
