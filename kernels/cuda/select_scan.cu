/* SPDX-License-Identifier: Apache-2.0 */
/* select_scan.cu - scores of pages out of their summaries, with host_select.c's arithmetic: q as 16-bit
 * codes, here two planes of 8 bits, so that a score is one exact integer whatever the order.
 *
 * A warp takes the 16 summaries of a block of one head as the A operand of mma.m16n8k32 (s8), columns are G
 * query heads x T rows. A summary of D = 128 is 144 bytes and costs about 7 instructions, so memory is the
 * limit.
 */
#include "kernels/cuda/select_pages.h"

#include <cuda_fp16.h>

namespace select_pages
{

enum { SCAN_WARPS = 8, SCAN_BLOCKS = 3 /* on a multiprocessor */, CODE_MAX = 32512 };

/* In dynamic shared memory. Codes of the columns, in two planes [column][D] with 64 bytes between rows, so
 * that no two lanes of a read meet in a bank; columns past the last repeat the first. */
template <int D> struct queries {
    enum { LINE = D + 64 };
    int8_t *high, *low;     /* [columns][LINE] */
    float *unit;            /* [columns] */
    float *row;             /* [SCAN_WARPS][D] */
    float *cosines, *sines; /* [T][rope_half] */
};

__host__ __device__ static inline int columns_of(const params &a)
{
    return (a.G * a.T + 7) / 8 * 8;
}

template <int D> __host__ __device__ size_t queries_bytes(const params &a)
{
    return (size_t)columns_of(a) * (2 * queries<D>::LINE + sizeof(float)) +
           (SCAN_WARPS * D + 2 * (size_t)a.T * a.rope_half) * sizeof(float);
}

template <int D> __device__ queries<D> queries_of(const params &a, void *room)
{
    const int columns = columns_of(a);
    queries<D> q;
    q.high = (int8_t *)room;
    q.low = q.high + columns * queries<D>::LINE;
    q.unit = (float *)(q.low + columns * queries<D>::LINE);
    q.row = q.unit + columns;
    q.cosines = q.row + SCAN_WARPS * D;
    q.sines = q.cosines + a.T * a.rope_half;
    return q;
}

template <int D> __device__ void angles(const params &a, const queries<D> &q)
{
    for (int i = threadIdx.x; i < a.T * a.rope_half; i += 32 * SCAN_WARPS) {
        const uint64_t phase = (a.step->position + i / a.rope_half) * a.rope_steps[i % a.rope_half];
        double s, c;
        sincospi((double)(int64_t)phase * 0x1p-63, &s, &c);
        q.sines[i] = (float)s * a.attn_factor;
        q.cosines[i] = (float)c * a.attn_factor;
    }
}

/* One column's q of row t, rotated as ref_rope.c does, into the warp's row. */
template <int D>
__device__ void rotate(const params &a, const float *x, int t, const queries<D> &q, float *row)
{
    const int lane = threadIdx.x % 32, half = a.rope_half;
    for (int i = lane; i < half; i += 32) {
        const int at = a.rope_halves ? i : 2 * i, to = a.rope_halves ? i + half : 2 * i + 1;
        const float c = q.cosines[t * half + i], s = q.sines[t * half + i];
        row[at] = __fsub_rn(__fmul_rn(x[at], c), __fmul_rn(x[to], s));
        row[to] = __fadd_rn(__fmul_rn(x[at], s), __fmul_rn(x[to], c));
    }
    for (int i = 2 * half + lane; i < D; i += 32)
        row[i] = x[i];
    __syncwarp();
}

template <int D> __device__ void quantise(const float *row, int8_t *high, int8_t *low, float *unit)
{
    const int lane = threadIdx.x % 32;
    float top = 0;
    int number = 1;
    for (int i = lane; i < D; i += 32) {
        number &= isfinite(row[i]) != 0;
        top = fmaxf(top, fabsf(row[i]));
    }
    for (int d = 16; d; d /= 2)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    number = __all_sync(~0u, number) && top > 1e-30f;
    const float per = number ? __fdiv_rn((float)CODE_MAX, top) : 0;
    for (int i = lane; i < D; i += 32) {
        const int code = number ? __float2int_rn(__fmul_rn(row[i], per)) : 0, h = (code + 128) >> 8;
        high[i] = (int8_t)h;
        low[i] = (int8_t)(code - 256 * h);
    }
    if (lane == 0)
        *unit = number ? __fdiv_rn(top, (float)CODE_MAX) : 0;
    __syncwarp();
}

template <int D> __device__ void prepare(const params &a, int slot, const queries<D> &q)
{
    const int warp = threadIdx.x / 32, columns = columns_of(a);
    for (int i = warp; i < columns; i += SCAN_WARPS) {
        const int column = i < a.G * a.T ? i : 0, t = column / a.G, g = column % a.G;
        const float *from = a.qkv + t * a.ldqkv + (size_t)(a.heads[slot] * a.G + g) * D;
        float *row = q.row + warp * D;
        rotate<D>(a, from, t, q, row);
        quantise<D>(row, q.high + i * queries<D>::LINE, q.low + i * queries<D>::LINE, &q.unit[i]);
    }
    __syncthreads();
}

/* Rows lane/4 and lane/4 + 8 of a block's 16 summaries, 16 bytes of each 64; zeros past the last page. */
template <int D> struct summaries {
    uint4 code[2][D / 64];
    float scale; /* lanes with lane%4 < 2: of row lane/4 + 8 * (lane%4) */
};

template <int D> __device__ void load(const params &a, int slot, uint32_t block, uint32_t n, summaries<D> *to)
{
    const int row = threadIdx.x % 32 / 4, part = threadIdx.x % 4;
    const uint8_t *base = (const uint8_t *)a.blocks[block] + a.first_summary + slot * a.scan_bytes;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t r = row + 8 * half;
        const uint8_t *summary = base + r * a.hr * a.scan_bytes;
        const bool there = block * BLOCK_PAGES + r < n;
#pragma unroll
        for (int c = 0; c < D / 64; c++)
            to->code[half][c] =
                there ? *(const uint4 *)(summary + c * 64 + part * 16) : make_uint4(0, 0, 0, 0);
        if (part == half)
            to->scale = there ? __half2float(*(const __half *)(summary + D)) : 0;
    }
}

__device__ void mma_s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                       uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <int D> __device__ void multiply(const summaries<D> &s, const int8_t *plane, int (&c)[4])
{
#pragma unroll
    for (int i = 0; i < D / 64; i++) {
        const uint4 b = *(const uint4 *)(plane + i * 64), x = s.code[0][i], y = s.code[1][i];
        mma_s8(c, x.x, y.x, x.y, y.y, b.x, b.y);
        mma_s8(c, x.z, y.z, x.w, y.w, b.z, b.w);
    }
}

/* Least and greatest key of what competes for a place. */
struct range {
    uint32_t low, high, first, end;
};

/* Best of all columns for the block's 16 pages. */
template <int D>
__device__ void score(const params &a, const queries<D> &q, const summaries<D> &s, int slot, uint32_t block,
                      uint32_t n, range &r)
{
    const int lane = threadIdx.x % 32, row = lane / 4, part = lane % 4, columns = columns_of(a);
    float best[2] = {-INFINITY, -INFINITY};
    for (int first = 0; first < columns; first += 8) {
        const int at = (first + row) * queries<D>::LINE + part * 16;
        int high[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
        multiply<D>(s, q.high + at, high);
        multiply<D>(s, q.low + at, low);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float unit = q.unit[first + 2 * part + (i & 1)];
            best[i / 2] = fmaxf(best[i / 2], __fmul_rn((float)(high[i] * 256 + low[i]), unit));
        }
    }
#pragma unroll
    for (int d = 1; d < 4; d *= 2) {
        best[0] = fmaxf(best[0], __shfl_xor_sync(~0u, best[0], d));
        best[1] = fmaxf(best[1], __shfl_xor_sync(~0u, best[1], d));
    }
    const uint32_t page = block * BLOCK_PAGES + row + 8 * part;
    if (part >= 2 || page >= n)
        return;
    /* + 0: no -0, which would not tie with 0 */
    const float score = __fmul_rn(part ? best[1] : best[0], s.scale) + 0.0f;
    a.scores[slot * a.max_pages + page] = score;
    if (page >= r.first && page < r.end) {
        r.low = min(r.low, key_of(score));
        r.high = max(r.high, key_of(score));
    }
}

/* The block's range for the kernel that follows; `room` is shared memory that nobody reads any more. */
__device__ void leave_range(const params &a, int slot, const range &r, uint32_t *room)
{
    const uint32_t low = __reduce_min_sync(~0u, r.low), high = __reduce_max_sync(~0u, r.high);
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        room[threadIdx.x / 32] = low;
        room[SCAN_WARPS + threadIdx.x / 32] = high;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint2 both = {~0u, 0};
        for (int i = 0; i < SCAN_WARPS; i++) {
            both.x = min(both.x, room[i]);
            both.y = max(both.y, room[SCAN_WARPS + i]);
        }
        a.ranges[slot * RANGES + blockIdx.x] = both;
    }
}

template <int D> __global__ void __launch_bounds__(32 * SCAN_WARPS, SCAN_BLOCKS) select_scan(params a)
{
    extern __shared__ uint4 room[];
    const queries<D> q = queries_of<D>(a, room);
    chain_begin();
    /* Neither the step nor full pages come from the kernel before: their first summaries are on the way when
     * the queries are there. */
    const uint32_t n = full_pages(a), blocks = (n + BLOCK_PAGES - 1) / BLOCK_PAGES;
    const uint32_t step = gridDim.x * SCAN_WARPS;
    const int slot = blockIdx.y, idle = n <= a.budget || blockIdx.x * SCAN_WARPS >= blocks;
    uint32_t block = blockIdx.x * SCAN_WARPS + threadIdx.x / 32;
    summaries<D> now, next;
    if (!idle) {
        if (block < blocks)
            load<D>(a, slot, block, n, &now);
        angles<D>(a, q);
        __syncthreads();
    }
    chain_wait();
    if (idle)
        return;
    const uint32_t first = min(a.sink, a.budget), last = min(a.recent, a.budget - first);
    range r = {~0u, 0, first, n - last};
    prepare<D>(a, slot, q);
    for (; block < blocks; block += step) {
        if (block + step < blocks)
            load<D>(a, slot, block + step, n, &next);
        score<D>(a, q, now, slot, block, n, r);
        now = next;
    }
    leave_range(a, slot, r, (uint32_t *)room);
}

int run_scan(struct device *d, size_t D, params &a)
{
    const size_t units = (a.max_pages + BLOCK_PAGES * SCAN_WARPS - 1) / (BLOCK_PAGES * SCAN_WARPS);
    const size_t fit =
        (size_t)cuda_of(d)->sms * SCAN_BLOCKS / a.hr; /* one more would wait for a second turn */
    const size_t most = fit < 1 ? 1 : fit < (size_t)RANGES ? fit : (size_t)RANGES;
    a.scan_blocks = (uint32_t)(units < 1 ? 1 : units < most ? units : most);
    return launch(d, D == 128 ? select_scan<128> : select_scan<64>, dim3(a.scan_blocks, (unsigned)a.hr), 1,
                  32 * SCAN_WARPS, D == 128 ? queries_bytes<128>(a) : queries_bytes<64>(a), a);
}

} // namespace select_pages
