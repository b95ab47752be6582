/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_stream.cu - attention of streaming heads over a chunk, by the exact rule of each row: key k is seen
 * by query q when k <= q and (k < S or q - k < R).
 *
 * A block has the 64 rows of one page of one query head, a warp 16 of them, and goes over the sink's pages,
 * the window's and its own, in ascending order; so the cost is linear and a row's result depends on its
 * position alone. Pages before the chunk's first come from kv->stream, the others from the chunk's buffers.
 * Products are mma.sync of fp16 with f32 sums; a tile that all rows see whole is not masked.
 */
#include "kernels/cuda/prefill_op.h"

enum { PAGE = PREFILL_ROW_PAGE, WARPS = 4, STAGES = 2 };

static __device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},"
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

static __device__ __forceinline__ void load_matrices(uint32_t (&x)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ void load_transposed(uint32_t (&x)[4], uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(at)
                 : "memory");
}

static __device__ __forceinline__ uint32_t pack(float lo, float hi)
{
    const __half2 h = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<const uint32_t *>(&h);
}

/* Bytes of 16-byte piece c of row r in a tile: rows of D halves, pieces exchanged so that 8 rows of a column
 * lie in different banks. */
template <int D> static __device__ __forceinline__ uint32_t piece_at(uint32_t r, uint32_t c)
{
    return r * D * 2 + ((c ^ (r & 7)) << 4);
}

/* The pages that a block goes over: sinks, then the window from `start` on. */
struct pages_seen {
    uint32_t sinks, n;
    size_t start;
    __device__ size_t page(uint32_t i) const { return i < sinks ? i : start + (i - sinks); }
};

static __device__ inline pages_seen seen_from(const prefill_op &p, size_t own)
{
    const size_t first = own * PAGE > p.pos0 ? own * PAGE : p.pos0; /* the row that sees furthest back */
    const size_t oldest = first + 1 > p.R ? (first + 1 - p.R) / PAGE : 0;
    pages_seen s;
    s.sinks = (uint32_t)(p.sink_pages < own + 1 ? p.sink_pages : own + 1);
    s.start = oldest > s.sinks ? oldest : s.sinks;
    s.n = s.sinks + (s.start <= own ? (uint32_t)(own + 1 - s.start) : 0);
    return s;
}

/* Keys, then values of a page into a stage of shared memory; one group of copies. */
template <int D>
static __device__ __forceinline__ void fetch(const prefill_op &p, uint32_t slot, size_t page, uint32_t to)
{
    const __half *k, *v;
    const size_t first = prefill_first_page(p);
    if (page < first) {
        const size_t at = page < p.sink_pages ? page : p.sink_pages + page % p.ring_pages;
        k = (const __half *)(p.stream +
                             ((slot - p.hr) * (size_t)(p.sink_pages + p.ring_pages) + at) * p.raw_bytes);
        v = k + PAGE * D;
    } else {
        const size_t at = ((size_t)slot * p.Tp + (page - first) * PAGE) * D;
        k = p.k + at;
        v = p.v + at;
    }
    for (uint32_t i = threadIdx.x; i < PAGE * D / 8; i += WARPS * 32) {
        const uint32_t at = to + piece_at<D>(i / (D / 8), i % (D / 8));
        asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(at), "l"(k + i * 8) : "memory");
        asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(at + PAGE * D * 2), "l"(v + i * 8)
                     : "memory");
    }
}

static __device__ __forceinline__ void fetch_end(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* What a warp keeps of its 16 rows: rows lane / 4 and that + 8. */
template <int D> struct warp_rows {
    uint32_t q[D / 16][4];
    float o[D / 8][4];
    float m[2], l[2];
};

template <int D>
static __device__ __forceinline__ void scores_of(const warp_rows<D> &w, uint32_t keys, uint32_t lane,
                                                 float (&s)[8][4])
{
#pragma unroll
    for (int n = 0; n < 8; n++)
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int n = 0; n < 4; n++) { /* 16 keys: matrices (keys 0-7, d 0-7), (0-7, 8-15), (8-15, 0-7), .. */
            uint32_t b[4];
            const uint32_t row = (uint32_t)n * 16 + (lane >> 4) * 8 + (lane & 7);
            load_matrices(b, keys + piece_at<D>(row, (uint32_t)i * 2 + (lane >> 3 & 1)));
            mma(s[2 * n], w.q[i], b[0], b[1]);
            mma(s[2 * n + 1], w.q[i], b[2], b[3]);
        }
}

static __device__ __forceinline__ void mask(const prefill_op &p, size_t page, size_t row, uint32_t lane,
                                            float (&s)[8][4])
{
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const size_t key = page * PAGE + (size_t)n * 8 + (lane & 3) * 2 + (e & 1);
            const size_t query = row + (e >> 1) * 8;
            if (!(key <= query && (key < p.S || query - key < p.R)))
                s[n][e] = -INFINITY;
        }
}

/* Running softmax: s becomes weights, o and l are brought to the new maximum. */
template <int D> static __device__ __forceinline__ void soften(warp_rows<D> &w, float (&s)[8][4])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = w.m[r];
#pragma unroll
        for (int n = 0; n < 8; n++)
            top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float use = top == -INFINITY ? 0.0f : top, factor = exp2f(w.m[r] - use);
        w.m[r] = top;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < 8; n++) {
            s[n][2 * r] = exp2f(s[n][2 * r] - use);
            s[n][2 * r + 1] = exp2f(s[n][2 * r + 1] - use);
            sum += s[n][2 * r] + s[n][2 * r + 1];
        }
        w.l[r] = w.l[r] * factor + sum; /* this lane's part */
#pragma unroll
        for (int d = 0; d < D / 8; d++) {
            w.o[d][2 * r] *= factor;
            w.o[d][2 * r + 1] *= factor;
        }
    }
}

template <int D>
static __device__ __forceinline__ void add_values(warp_rows<D> &w, uint32_t values, uint32_t lane,
                                                  const float (&s)[8][4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) { /* 16 keys */
        const uint32_t a[4] = {pack(s[2 * i][0], s[2 * i][1]), pack(s[2 * i][2], s[2 * i][3]),
                               pack(s[2 * i + 1][0], s[2 * i + 1][1]),
                               pack(s[2 * i + 1][2], s[2 * i + 1][3])};
#pragma unroll
        for (int d = 0; d < D / 16; d++) { /* matrices (keys 0-7, d 0-7), (8-15, 0-7), (0-7, 8-15), .. */
            uint32_t b[4];
            const uint32_t row = (uint32_t)i * 16 + (lane >> 3 & 1) * 8 + (lane & 7);
            load_transposed(b, values + piece_at<D>(row, (uint32_t)d * 2 + (lane >> 4)));
            mma(w.o[2 * d], a, b[0], b[1]);
            mma(w.o[2 * d + 1], a, b[2], b[3]);
        }
    }
}

template <int D>
static __device__ __forceinline__ void write_out(const prefill_op &p, const warp_rows<D> &w, size_t row,
                                                 uint32_t head, uint32_t lane)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float l = w.l[r];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        const float inverse = l > 0 ? 1 / l : 0;
        const size_t at = row + (size_t)r * 8;
        if (at < p.pos0 || at >= p.pos0 + p.T)
            continue;
        __half *to = p.out + (at - p.pos0) * p.ldout + (size_t)head * D + (lane & 3) * 2;
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            *reinterpret_cast<__half2 *>(to + d * 8) =
                __floats2half2_rn(w.o[d][2 * r] * inverse, w.o[d][2 * r + 1] * inverse);
    }
}

template <int D>
static __global__ void __launch_bounds__(WARPS * 32) stream_kernel(const __grid_constant__ prefill_op p)
{
    extern __shared__ __align__(128) uint8_t tiles[];
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const uint32_t slot = p.hr + blockIdx.y / p.G, g = blockIdx.y % p.G, shared = 2 * PAGE * D * 2;
    const size_t own = prefill_first_page(p) + blockIdx.x;
    const size_t row = own * PAGE + warp * 16 + (lane >> 2); /* position */
    const uint32_t base = (uint32_t)__cvta_generic_to_shared(tiles);
    const pages_seen seen = seen_from(p, own);
    warp_rows<D> w;
    const __half *q = p.q + (((size_t)slot * p.G + g) * p.Tp + (row - p.base)) * D + (lane & 3) * 2;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) /* rows +0, +8, +0, +8; columns +0, +0, +8, +8 */
            w.q[i][e] = *reinterpret_cast<const uint32_t *>(q + (e & 1) * 8 * D + i * 16 + (e >> 1) * 8);
#pragma unroll
    for (int d = 0; d < D / 8; d++)
        w.o[d][0] = w.o[d][1] = w.o[d][2] = w.o[d][3] = 0;
    w.m[0] = w.m[1] = -INFINITY;
    w.l[0] = w.l[1] = 0;
    if (seen.n)
        fetch<D>(p, slot, seen.page(0), base);
    fetch_end();
    for (uint32_t i = 0; i < seen.n; i++) {
        const uint32_t at = base + i % STAGES * shared;
        if (i + 1 < seen.n)
            fetch<D>(p, slot, seen.page(i + 1), base + (i + 1) % STAGES * shared);
        fetch_end();
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();
        const size_t page = seen.page(i);
        float s[8][4];
        scores_of<D>(w, at, lane, s);
        const bool whole = page < own && ((page + 1) * PAGE <= p.S || (own + 1 - page) * PAGE <= p.R);
        if (!whole)
            mask(p, page, row, lane, s);
        soften<D>(w, s);
        add_values<D>(w, at + PAGE * D * 2, lane, s);
        __syncthreads();
    }
    const uint32_t head = p.heads[slot] * p.G + g;
    write_out<D>(p, w, row, head, lane);
}

template <int D> static cudaError_t launch(const prefill_op &p, cudaStream_t stream)
{
    const int bytes = STAGES * 2 * PAGE * D * 2;
    const cudaError_t rc =
        cudaFuncSetAttribute(stream_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (rc != cudaSuccess)
        return rc;
    const dim3 grid((unsigned)(prefill_last_page(p) - prefill_first_page(p) + 1), (p.HK - p.hr) * p.G);
    stream_kernel<D><<<grid, WARPS * 32, bytes, stream>>>(p);
    return cudaGetLastError();
}

cudaError_t prefill_stream(const prefill_op &p, cudaStream_t stream)
{
    if (p.HK == p.hr)
        return cudaSuccess;
    return p.D == 128 ? launch<128>(p, stream) : launch<64>(p, stream);
}
