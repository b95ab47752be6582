/* SPDX-License-Identifier: Apache-2.0 */
/* decode_finish.cu - the end of a decode step's attention: partial sums of retrieval heads become rows, full
 * pages become records, and pages' shares of the softmax are summed for who asked.
 *
 * Invariant: every sum has one order that the page of the position and the card give.
 */
#include "kernels/cuda/decode_attend.h"
#include "kernels/cuda/decode_page.cuh"
#include "kernels/cuda/page_pack.cuh"

namespace decode
{

/* Partials of one head: runs of blocks [from, to) and the own page. */
struct parts {
    int from, to;
};

__device__ static int line_end(const args &a, int h, int64_t position)
{
    if (!a.list)
        return h * (int)(position / 64);
    int n = 0;
    for (int i = 0; i < h; i++)
        n += (int)a.list_counts[i];
    return n;
}

/* All threads; sh is two ints. */
__device__ static parts parts_of(const args &a, int h, int64_t position, int *sh)
{
    int first = line_end(a, h, position), last = line_end(a, h + 1, position),
        all = line_end(a, a.hr, position);
    if (threadIdx.x == 0) {
        sh[0] = GRID_MAX;
        sh[1] = 0;
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < a.grid; c += MERGE_THREADS) {
        int begin = run_begin(a, c, all), end = run_begin(a, c + 1, all);
        if (max(begin, first) < min(end, last)) {
            atomicMin(&sh[0], c);
            atomicMax(&sh[1], c + 1);
        }
    }
    __syncthreads();
    return {sh[0], sh[1]};
}

__device__ static int slot_of(const args &a, const parts &p, int h, int i)
{
    return i < p.to - p.from ? run_slot(p.from + i, h) : own_slot(a, h);
}

/* Weights of the n partials of (h, column) into w, by the first warp; the sum and log2 of it to total. */
__device__ static void weigh(const args &a, const parts &p, int h, int column, int n, float *w, float *total)
{
    int lane = (int)threadIdx.x;
    float m = NOTHING, l = 0;
    for (int i = lane; i < n; i += 32)
        m = fmaxf(m, a.partial_ml[((size_t)slot_of(a, p, h, i) * a.columns + column) * 2]);
    for (int x = 16; x; x /= 2)
        m = fmaxf(m, __shfl_xor_sync(~0u, m, x));
    for (int i = lane; i < n; i += 32) {
        const float *ml = a.partial_ml + ((size_t)slot_of(a, p, h, i) * a.columns + column) * 2;
        float f = exp2_of(__fadd_rn(ml[0], -m));
        w[i] = f;
        l = fmaf(ml[1], f, l);
    }
    for (int x = 16; x; x /= 2)
        l = __fadd_rn(l, __shfl_xor_sync(~0u, l, x));
    if (lane == 0) {
        *total = l;
        if (a.head_lse)
            a.head_lse[h * a.columns + column] = m + log2f(l);
    }
}

/* Groups of D / 4 threads take every GROUPS-th partial; then their sums are added in the order of groups. */
template <int D> __device__ static void merge(const args &a, int h, int column, int64_t position)
{
    constexpr int GROUPS = MERGE_THREADS * 4 / D;
    __shared__ float w[GRID_MAX + 1], total;
    __shared__ int range[2];
    __shared__ float4 sums[GROUPS][D / 4];
    const int group = (int)threadIdx.x / (D / 4), d = (int)threadIdx.x % (D / 4);
    parts p = parts_of(a, h, position, range);
    if (p.from > p.to)
        p.from = p.to = 0;
    int n = p.to - p.from + 1;
    if (threadIdx.x < 32)
        weigh(a, p, h, column, n, w, &total);
    __syncthreads();
    float4 o = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = group; i < n; i += GROUPS) {
        size_t row = (size_t)slot_of(a, p, h, i) * a.columns + column;
        float4 x = reinterpret_cast<const float4 *>(a.partial + row * D)[d];
        float f = w[i];
        o = make_float4(fmaf(x.x, f, o.x), fmaf(x.y, f, o.y), fmaf(x.z, f, o.z), fmaf(x.w, f, o.w));
    }
    sums[group][d] = o;
    __syncthreads();
    if (threadIdx.x >= D)
        return;
    float y = 0;
    for (int g = 0; g < GROUPS; g++)
        y = __fadd_rn(y, reinterpret_cast<const float *>(sums[g])[threadIdx.x]);
    y = fminf(fmaxf(y / total, -65504.0f), 65504.0f);
    int t = column / a.G, g = column % a.G;
    a.out[t * a.ldout + ((size_t)a.heads[h] * a.G + g) * D + threadIdx.x] =
        __half_as_ushort(__float2half_rn(y));
}

template <int D> __device__ static void close_page(const args &a, int h, int64_t position)
{
    __shared__ page_pack_room room;
    if ((position + a.T) % 64 || *a.failed)
        return;
    int64_t page = position / 64;
    const __half *k = reinterpret_cast<const __half *>(a.tail + ((size_t)h * 2 + (page & 1)) * a.raw_bytes);
    uint8_t *block = reinterpret_cast<uint8_t *>(a.blocks[page / DEVICE_BLOCK_PAGES]);
    size_t i = (size_t)(page % DEVICE_BLOCK_PAGES) * a.hr + h;
    page_pack(k, D, k + 64 * D, D, D, a.format, block + (a.first_record + i) * a.record_bytes,
              block + a.first_summary + i * a.scan_bytes, &room);
}

/* Blocks of (head, column) merge; then one a head closes. */
template <int D> __global__ void __launch_bounds__(MERGE_THREADS) finish_step(const __grid_constant__ args a)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    int64_t position = (int64_t)a.step->position;
    int i = (int)blockIdx.x;
    if (i < a.hr * a.columns)
        merge<D>(a, i / a.columns, i % a.columns, position);
    else
        close_page<D>(a, i - a.hr * a.columns, position);
}

cudaError_t finish(const args &a, int D, int hopper, cudaStream_t stream)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = dim3((unsigned)(a.hr * a.columns + a.hr));
    how.blockDim = dim3(MERGE_THREADS);
    how.stream = stream;
    how.attrs = &early;
    how.numAttrs = hopper ? 1 : 0;
    return cudaLaunchKernelEx(&how, D == 64 ? finish_step<64> : finish_step<128>, a);
}

/* ---- shares -------------------------------------------------------------------------------------------- */

/* Share of a page in one column; 0 where the page was not visited (a NaN is left there). */
__device__ static float share(const args &a, int h, size_t page, int column)
{
    float x =
        a.lse[((size_t)h * a.lse_pages + page) * a.columns + column] - a.head_lse[h * a.columns + column];
    return x == x ? exp2_of(x) : 0.0f;
}

/* A thread a page. */
__global__ void __launch_bounds__(256) add_mass(const __grid_constant__ args a, float *mass, size_t stride)
{
    size_t page = (size_t)blockIdx.x * 256 + threadIdx.x, own = a.step->position / 64;
    for (; page <= own && page < a.lse_pages; page += (size_t)gridDim.x * 256)
        for (int t = 0; t < (stride ? a.T : 1); t++) {
            float sum = 0;
            for (int h = 0; h < a.hr; h++)
                for (int c = stride ? t * a.G : 0; c < (stride ? (t + 1) * a.G : a.columns); c++)
                    sum += share(a, h, page, c);
            mass[t * stride + page] += sum;
        }
}

/* One block: the pages of the audited list and the own one. All shares of a column make 1. */
__global__ void __launch_bounds__(1024) add_audit(const __grid_constant__ args a, const uint32_t *pages,
                                                  const uint32_t *counts, size_t stride, float *visited)
{
    __shared__ float of_warp[32];
    uint32_t own = (uint32_t)(a.step->position / 64);
    float sum = 0;
    for (int h = 0; h < a.hr; h++)
        for (uint32_t i = threadIdx.x; i < (counts[h] + 1) * (uint32_t)a.columns; i += 1024) {
            uint32_t n = i / a.columns, page = n < counts[h] ? pages[h * stride + n] : own;
            if ((n == counts[h] || page < own) && page < a.lse_pages)
                sum += share(a, h, page, (int)(i % a.columns));
        }
    for (int x = 16; x; x /= 2)
        sum += __shfl_xor_sync(~0u, sum, x);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    sum = of_warp[threadIdx.x];
    for (int x = 16; x; x /= 2)
        sum += __shfl_xor_sync(~0u, sum, x);
    if (threadIdx.x == 0) {
        visited[0] += sum;
        visited[1] += (float)(a.hr * a.columns);
    }
}

cudaError_t shares(const args &a, float *mass, size_t mass_stride, const struct device_page_list *audit,
                   float *visited, cudaStream_t stream)
{
    if (mass) {
        size_t blocks = (a.lse_pages + 255) / 256;
        add_mass<<<(unsigned)(blocks < 1024 ? blocks : 1024), 256, 0, stream>>>(a, mass, mass_stride);
    }
    if (audit)
        add_audit<<<1, 1024, 0, stream>>>(a, audit->pages, audit->counts, audit->stride, visited);
    return cudaGetLastError();
}

} // namespace decode
