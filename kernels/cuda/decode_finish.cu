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

/* Where slot h begins on the line of pages. */
__device__ static int line_at(const args &a, int h, int64_t position)
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
    auto first = [&](int i) { return line_at(a, i, position); };
    int begin = first(h), end = first(h + 1);
    if (threadIdx.x == 0) {
        sh[0] = GRID_MAX;
        sh[1] = 0;
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < a.grid; c += MERGE_THREADS) {
        run r = run_of(a, c, first);
        if (max(r.begin, begin) < min(r.end, end)) {
            atomicMin(&sh[0], c);
            atomicMax(&sh[1], c + 1);
        }
    }
    __syncthreads();
    return sh[0] < sh[1] ? parts{sh[0], sh[1]} : parts{0, 0};
}

__device__ static int slot_of(const args &a, const parts &p, int h, int i)
{
    return i < p.to - p.from ? run_slot(p.from + i, h) : own_slot(a, h);
}

/* Weights of the n partials of (h, column) into w, by the first warp; the sum to total. */
__device__ static void weigh(const args &a, const parts &p, int h, int column, int n, float *w, float *total)
{
    constexpr int EACH = 5; /* of a lane at once; more go through w */
    int lane = (int)threadIdx.x;
    float m = NOTHING, l = 0;
    float2 ml[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int i = lane + 32 * k;
        ml[k] = make_float2(NOTHING, 0);
        if (i < n)
            ml[k] = reinterpret_cast<const float2 *>(
                a.partial_ml)[(size_t)slot_of(a, p, h, i) * a.columns + column];
        m = fmaxf(m, ml[k].x);
    }
    for (int i = lane + 32 * EACH; i < n; i += 32) {
        w[i] = a.partial_ml[((size_t)slot_of(a, p, h, i) * a.columns + column) * 2];
        m = fmaxf(m, w[i]);
    }
    for (int x = 16; x; x /= 2)
        m = fmaxf(m, __shfl_xor_sync(~0u, m, x));
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        float f = exp2_of(__fadd_rn(ml[k].x, -m));
        l = fmaf(ml[k].y, f, l);
        if (lane + 32 * k < n)
            w[lane + 32 * k] = f;
    }
    for (int i = lane + 32 * EACH; i < n; i += 32) {
        w[i] = exp2_of(__fadd_rn(w[i], -m));
        l = fmaf(a.partial_ml[((size_t)slot_of(a, p, h, i) * a.columns + column) * 2 + 1], w[i], l);
    }
    for (int x = 16; x; x /= 2)
        l = __fadd_rn(l, __shfl_xor_sync(~0u, l, x));
    if (lane == 0) {
        *total = l;
        if (a.head_lse)
            a.head_lse[h * a.columns + column] = m + log2f(l);
    }
}

/* What a block shares beside the weights; small, so that it finds room beside a block of the first kernel. */
template <int D> union finish_shared {
    struct {
        float4 sums[MERGE_THREADS * 4 / D][D / 4];
        float total;
        int range[2];
    } merge;
    page_pack_room pack;
};

/* Groups of D / 4 threads take every GROUPS-th partial; then their sums are added in the order of groups. */
template <int D>
__device__ static void merge(const args &a, finish_shared<D> &sh, float *w, const parts &p, int h, int column)
{
    constexpr int GROUPS = MERGE_THREADS * 4 / D, EACH = 12; /* loads under way while the weights are found */
    float4(&sums)[GROUPS][D / 4] = sh.merge.sums;
    const int group = (int)threadIdx.x / (D / 4), d = (int)threadIdx.x % (D / 4), n = p.to - p.from + 1;
    auto part = [&](int i) {
        size_t row = (size_t)slot_of(a, p, h, i) * a.columns + column;
        return reinterpret_cast<const float4 *>(a.partial + row * D)[d];
    };
    float4 o = make_float4(0, 0, 0, 0), x[EACH];
    auto add = [&](float4 y, float f) {
        o = make_float4(fmaf(y.x, f, o.x), fmaf(y.y, f, o.y), fmaf(y.z, f, o.z), fmaf(y.w, f, o.w));
    };
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (group + k * GROUPS < n)
            x[k] = part(group + k * GROUPS);
    if (threadIdx.x < 32)
        weigh(a, p, h, column, n, w, &sh.merge.total);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < EACH; k++)
        if (group + k * GROUPS < n)
            add(x[k], w[group + k * GROUPS]);
#pragma unroll 4
    for (int i = group + EACH * GROUPS; i < n; i += GROUPS)
        add(part(i), w[i]);
    sums[group][d] = o;
    __syncthreads();
    if (threadIdx.x >= D)
        return;
    float y = 0;
#pragma unroll
    for (int g = 0; g < GROUPS; g++)
        y = __fadd_rn(y, reinterpret_cast<const float *>(sums[g])[threadIdx.x]);
    y = fminf(fmaxf(y / sh.merge.total, -65504.0f), 65504.0f);
    int t = column / a.G, g = column % a.G;
    a.out[t * a.ldout + ((size_t)a.heads[h] * a.G + g) * D + threadIdx.x] =
        __half_as_ushort(__float2half_rn(y));
}

template <int D>
__device__ static void close_page(const args &a, page_pack_room &room, int h, int64_t position)
{
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
    __shared__ finish_shared<D> sh;
    extern __shared__ float weights[]; /* [grid + 1] */
    const int64_t position = (int64_t)a.step->position;
    const int i = (int)blockIdx.x, h = i / a.columns;
    parts p = {0, 0};
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    if (h < a.hr && !a.list)
        p = parts_of(a, h, position, sh.merge.range);
    asm volatile("griddepcontrol.wait;" ::: "memory");
    if (h < a.hr && a.list)
        p = parts_of(a, h, position, sh.merge.range);
#else
    if (h < a.hr)
        p = parts_of(a, h, position, sh.merge.range);
#endif
    if (h < a.hr)
        merge<D>(a, sh, weights, p, h, i % a.columns);
    else
        close_page<D>(a, sh.pack, i - a.hr * a.columns, position);
}

cudaError_t finish(const args &a, int D, int hopper, cudaStream_t stream)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = dim3((unsigned)(a.hr * a.columns + a.hr));
    how.blockDim = dim3(MERGE_THREADS);
    how.dynamicSmemBytes = ((size_t)a.grid + 1) * sizeof(float);
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
