/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_rows.cu - a chunk's rows on their way from the product to the caches: RoPE and fp16, full pages
 * into records, and what the timeline keeps raw.
 *
 * The rotation is rounded as ref_rope.c rounds it, so the keys of equal inputs are the host's bit for bit,
 * and so are the records.
 */
#include "kernels/cuda/page_pack.cuh"
#include "kernels/cuda/prefill_op.h"

enum { ROWS = 4, BATCH = 4, ROW_THREADS = 256, CLOSE_THREADS = 256, KEEP_THREADS = 256 };

/* Column c of a head after the rotation. */
static __device__ inline float rotated(const float *x, uint32_t c, const prefill_op &p, const float *cos,
                                       const float *sin)
{
    const uint32_t half = (uint32_t)p.rope.half;
    if (c >= 2 * half)
        return x[c];
    const bool pairs = p.rope.kind == ROPE_PAIRS;
    const uint32_t i = pairs ? c / 2 : c < half ? c : c - half;
    const bool second = pairs ? c & 1 : c >= half;
    const float x0 = x[pairs ? 2 * i : i], x1 = x[pairs ? 2 * i + 1 : i + half];
    return second ? __fadd_rn(__fmul_rn(x0, sin[i]), __fmul_rn(x1, cos[i]))
                  : __fsub_rn(__fmul_rn(x0, cos[i]), __fmul_rn(x1, sin[i]));
}

static __device__ inline float clamped(float x)
{
    return x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x; /* a NaN stays */
}

/* The raw page that a slot's rows before pos0 come from. */
static __device__ inline const __half *first_page_of(const prefill_op &p, uint32_t slot)
{
    const size_t page = prefill_first_page(p);
    if (slot < p.hr)
        return (const __half *)(p.tail + (2 * (size_t)slot + (page & 1)) * p.raw_bytes);
    const size_t at = page < p.sink_pages ? page : p.sink_pages + page % p.ring_pages;
    return (const __half *)(p.stream +
                            ((slot - p.hr) * (size_t)(p.sink_pages + p.ring_pages) + at) * p.raw_bytes);
}

/* Four columns of a head after the rotation; c is a multiple of 4. */
static __device__ inline float4 rotated4(const float *x, uint32_t c, const prefill_op &p, const float *cos,
                                         const float *sin)
{
    const uint32_t half = (uint32_t)p.rope.half;
    if (half % 4 || c >= 2 * half || p.rope.kind == ROPE_PAIRS)
        return make_float4(rotated(x, c, p, cos, sin), rotated(x, c + 1, p, cos, sin),
                           rotated(x, c + 2, p, cos, sin), rotated(x, c + 3, p, cos, sin));
    const bool second = c >= half;
    const uint32_t i = second ? c - half : c;
    const float4 a = *(const float4 *)(x + i), b = *(const float4 *)(x + i + half);
    const float4 u = *(const float4 *)(cos + i), w = *(const float4 *)(sin + i);
    if (second)
        return make_float4(__fadd_rn(__fmul_rn(a.x, w.x), __fmul_rn(b.x, u.x)),
                           __fadd_rn(__fmul_rn(a.y, w.y), __fmul_rn(b.y, u.y)),
                           __fadd_rn(__fmul_rn(a.z, w.z), __fmul_rn(b.z, u.z)),
                           __fadd_rn(__fmul_rn(a.w, w.w), __fmul_rn(b.w, u.w)));
    return make_float4(__fsub_rn(__fmul_rn(a.x, u.x), __fmul_rn(b.x, w.x)),
                       __fsub_rn(__fmul_rn(a.y, u.y), __fmul_rn(b.y, w.y)),
                       __fsub_rn(__fmul_rn(a.z, u.z), __fmul_rn(b.z, w.z)),
                       __fsub_rn(__fmul_rn(a.w, u.w), __fmul_rn(b.w, w.w)));
}

static __device__ inline uint32_t halves(float a, float b)
{
    const __half2 h = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t *>(&h);
}

static __device__ inline bool unfit(uint32_t u)
{
    return (u & 0x7c00u) == 0x7c00u || (u & 0x7c000000u) == 0x7c000000u;
}

/* A row of a head: of the block's rows first, then query heads, key and value of each slot. */
struct row_task {
    uint32_t r, slot, g;
    int kind; /* 0 query, 1 key, 2 value */
};

static __device__ inline row_task row_task_of(const prefill_op &p, uint32_t i)
{
    const uint32_t per_slot = p.G + 2, which = i / ROWS, g = which % per_slot;
    return {i % ROWS, which / per_slot, g, g < p.G ? 0 : (int)(g - p.G) + 1};
}

/* Four columns of it. */
static __device__ inline uint2 row_part(const prefill_op &p, const row_task &t, size_t row, uint32_t c,
                                        const float *cos, const float *sin)
{
    const size_t offset = p.pos0 - p.base;
    if (row >= offset + p.T || (row < offset && !t.kind))
        return make_uint2(0, 0);
    if (row < offset) {
        const __half *page = first_page_of(p, t.slot) + (t.kind == 2 ? PREFILL_ROW_PAGE * p.D : 0);
        return *reinterpret_cast<const uint2 *>(page + row * p.D + c);
    }
    const uint32_t head = p.heads[t.slot];
    const uint32_t column = t.kind == 0 ? head * p.G + t.g : t.kind == 1 ? p.H + head : p.H + p.HK + head;
    const float *x = p.qkv + (row - offset) * p.ldqkv + (size_t)column * p.D;
    float4 y = t.kind == 2 ? *(const float4 *)(x + c) : rotated4(x, c, p, cos, sin);
    if (t.kind == 0)
        y = make_float4(clamped(y.x * p.q_scale), clamped(y.y * p.q_scale), clamped(y.z * p.q_scale),
                        clamped(y.w * p.q_scale));
    return make_uint2(halves(y.x, y.y), halves(y.z, y.w));
}

/* D / 4 threads a row of a head. */
static __global__ void __launch_bounds__(ROW_THREADS) rows_kernel(const __grid_constant__ prefill_op p)
{
    __shared__ __align__(16) float cos[ROWS][PAGE_PACK_D_MAX / 2], sin[ROWS][PAGE_PACK_D_MAX / 2];
    const size_t row0 = (size_t)blockIdx.x * ROWS;
    const uint32_t half = (uint32_t)p.rope.half, quads = p.D / 4;
    for (uint32_t i = threadIdx.x; i < ROWS * half; i += ROW_THREADS) {
        /* twice the phase as a signed number in 2^-64 turns: -1 .. 1, times pi */
        const uint64_t phase = (p.base + row0 + i / half) * p.rope.steps[i % half];
        double s, c;
        sincospi((double)(int64_t)phase * 0x1p-63, &s, &c);
        cos[i / half][i % half] = __fmul_rn((float)c, p.rope.attn_factor);
        sin[i / half][i % half] = __fmul_rn((float)s, p.rope.attn_factor);
    }
    __syncthreads();
    const uint32_t all = ROWS * p.HK * (p.G + 2), step = ROW_THREADS / quads, c = threadIdx.x % quads * 4;
    bool bad = false;
    for (uint32_t i = threadIdx.x / quads; i < all; i += BATCH * step) {
        uint2 y[BATCH];
#pragma unroll
        for (uint32_t n = 0; n < BATCH; n++) { /* all reads before a write: more of them under way */
            const row_task t = row_task_of(p, min(i + n * step, all - 1));
            y[n] = row_part(p, t, row0 + t.r, c, cos[t.r], sin[t.r]);
        }
#pragma unroll
        for (uint32_t n = 0; n < BATCH; n++) {
            if (i + n * step >= all)
                break;
            const row_task t = row_task_of(p, i + n * step);
            bad |= t.kind && (unfit(y[n].x) || unfit(y[n].y));
            __half *to = t.kind == 0 ? p.q + ((size_t)t.slot * p.G + t.g) * p.Tp * p.D
                                     : (t.kind == 1 ? p.k : p.v) + (size_t)t.slot * p.Tp * p.D;
            *reinterpret_cast<uint2 *>(to + (row0 + t.r) * p.D + c) = y[n];
        }
    }
    if (bad)
        atomicExch(p.failed, 1u);
}

cudaError_t prefill_rows(const prefill_op &p, cudaStream_t stream)
{
    rows_kernel<<<(unsigned)(p.Tp / ROWS), ROW_THREADS, 0, stream>>>(p);
    return cudaGetLastError();
}

/* ---- closing pages ------------------------------------------------------------------------------------ */

/* Rows in shared memory are D + 2 halves apart: neither a row nor a column meets a bank twice. */
template <int D>
static __global__ void __launch_bounds__(CLOSE_THREADS) close_kernel(const __grid_constant__ prefill_op p)
{
    __shared__ page_pack_room room;
    __shared__ __align__(4) __half k[PREFILL_ROW_PAGE * (D + 2)], v[PREFILL_ROW_PAGE * (D + 2)];
    const size_t page = prefill_first_page(p) + blockIdx.x;
    const uint32_t slot = blockIdx.y;
    uint8_t *block = (uint8_t *)p.blocks[page / DEVICE_BLOCK_PAGES];
    const size_t i = p.record_at + page % DEVICE_BLOCK_PAGES * p.hr + slot;
    const size_t at = ((size_t)slot * p.Tp + (size_t)blockIdx.x * PREFILL_ROW_PAGE) * D;
#pragma unroll 4
    for (uint32_t n = threadIdx.x; n < 2 * PREFILL_ROW_PAGE * D / 8; n += CLOSE_THREADS) {
        const uint32_t part = n % (PREFILL_ROW_PAGE * D / 8), values = n / (PREFILL_ROW_PAGE * D / 8);
        const uint4 x = ((const uint4 *)((values ? p.v : p.k) + at))[part];
        uint32_t *to = (uint32_t *)((values ? v : k) + part / (D / 8) * (D + 2) + part % (D / 8) * 8);
        to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
    }
    __syncthreads();
    page_pack(k, D + 2, v, D + 2, D, p.format, block + i * p.record_bytes,
              block + p.scan_offset + i * p.scan_bytes, &room);
}

cudaError_t prefill_close(const prefill_op &p, cudaStream_t stream)
{
    const size_t closed = (p.pos0 + p.T) / PREFILL_ROW_PAGE - prefill_first_page(p);
    if (!closed || !p.hr)
        return cudaSuccess;
    const dim3 grid((unsigned)closed, p.hr);
    if (p.D == 128)
        close_kernel<128><<<grid, CLOSE_THREADS, 0, stream>>>(p);
    else
        close_kernel<64><<<grid, CLOSE_THREADS, 0, stream>>>(p);
    return cudaGetLastError();
}

/* ---- what stays raw ----------------------------------------------------------------------------------- */

/* Place i of a slot holds a page afterwards, *page; false: it keeps what it has. */
static __device__ inline bool page_at(const prefill_op &p, bool retrieval, size_t i, size_t *page)
{
    const size_t last = prefill_last_page(p);
    if (!retrieval && i < p.sink_pages) {
        *page = i;
        return true;
    }
    const size_t n = retrieval ? 2 : p.ring_pages, at = retrieval ? i : i - p.sink_pages;
    const size_t back = (last % n + n - at) % n; /* the last page that is `at` modulo n */
    *page = last - back;
    return back <= last && (retrieval || *page >= p.sink_pages);
}

/* A block a raw record: 16 bytes a thread and turn. */
static __global__ void __launch_bounds__(KEEP_THREADS) keep_kernel(const __grid_constant__ prefill_op p)
{
    const size_t per_stream = p.sink_pages + p.ring_pages, tails = 2 * (size_t)p.hr;
    const bool retrieval = blockIdx.x < tails;
    const size_t n = retrieval ? blockIdx.x : blockIdx.x - tails, places = retrieval ? 2 : per_stream;
    const uint32_t slot = (uint32_t)(n / places) + (retrieval ? 0 : p.hr);
    size_t page = 0;
    const bool there = page_at(p, retrieval, n % places, &page);
    const uint4 *old = (const uint4 *)((retrieval ? p.tail : p.stream) + n * p.raw_bytes);
    uint4 *to = (uint4 *)((retrieval ? p.tail_next : p.stream_next) + n * p.raw_bytes);
    const uint32_t per_row = p.D / 8;
    for (uint32_t i = threadIdx.x; i < p.raw_bytes / 16; i += KEEP_THREADS) {
        const uint32_t row = i / per_row % PREFILL_ROW_PAGE, value = i / per_row / PREFILL_ROW_PAGE;
        const size_t position = page * PREFILL_ROW_PAGE + row;
        const bool ours = there && position >= p.pos0 && position < p.pos0 + p.T;
        const __half *from = (value ? p.v : p.k) + ((size_t)slot * p.Tp + (position - p.base)) * p.D;
        to[i] = ours ? ((const uint4 *)from)[i % per_row] : old[i];
    }
}

cudaError_t prefill_keep(const prefill_op &p, cudaStream_t stream)
{
    const size_t records = 2 * (size_t)p.hr + (p.HK - p.hr) * (size_t)(p.sink_pages + p.ring_pages);
    keep_kernel<<<(unsigned)records, KEEP_THREADS, 0, stream>>>(p);
    return cudaGetLastError();
}
