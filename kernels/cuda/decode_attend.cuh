/* SPDX-License-Identifier: Apache-2.0 */
/* decode_attend.cuh - the first kernel of a decode step's attention (decode_attend.h), for one format.
 *
 * Every warp has pages of its own: page i of the block's run goes to warp i % WARPS, into one of the warp's
 * `stages` rooms of shared memory, by one bulk copy a page (sm_90) or 16 bytes a lane (sm_80). No barrier of
 * the block is met while a run lasts; at its end the warps' sums are merged in the order of the warps, each
 * through the room that its warp has just emptied.
 * Full pages may be asked for before the kernel before this one is done: nobody writes them in a step.
 */
#ifndef LECTERN_KERNELS_CUDA_DECODE_ATTEND_CUH
#define LECTERN_KERNELS_CUDA_DECODE_ATTEND_CUH

#include "kernels/cuda/decode_attend.h"
#include "kernels/cuda/decode_page.cuh"

namespace decode
{

constexpr int STAGES_MAX = 4;

template <int KB, int VB, int D> struct room {
    static constexpr int BYTES = KB == 16 ? 64 * D * 4 : record<KB, VB, D>::BYTES;
};

/* What the block shares beside the rooms. */
template <int D, int WARPS> struct block_shared {
    alignas(8) uint64_t arrived[WARPS][STAGES_MAX];
    float cosine[DEVICE_DECODE_T][D / 2], sine[DEVICE_DECODE_T][D / 2];
    alignas(16) __half q[COLUMNS_MAX][D + 8]; /* rows apart in the banks */
    int first[HEADS_MAX + 1];                 /* of each slot on the line of pages */
    int empty[WARPS];                         /* room of a warp that holds its sums */
};

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void after_the_kernel_before()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_the_next_kernel_start()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- bringing pages ------------------------------------------------------------------------------------ */

/* One warp's way along the block's run. */
template <int BYTES> struct feed {
    uint8_t *rooms;
    uint32_t arrived; /* shared address of its barriers */
    const uint8_t *next;
    int at, end, head; /* index on the line of `next`, end of the run, slot of `at` */
    int room;          /* that the next page goes to */
};

/* Address of page `at` of the line; at < end. */
template <int BYTES>
__device__ __forceinline__ void feed_find(const struct args &a, const int *first, feed<BYTES> &f)
{
    while (f.at >= first[f.head + 1])
        f.head++;
    uint32_t page = (uint32_t)(f.at - first[f.head]);
    if (a.list)
        page = a.list[f.head * a.list_stride + page];
    uint64_t block = a.blocks[page / DEVICE_BLOCK_PAGES];
    size_t record = a.first_record + page % DEVICE_BLOCK_PAGES * (uint32_t)a.hr + f.head;
    f.next = reinterpret_cast<const uint8_t *>(block) + record * BYTES;
}

/* Asks for the next page, if the run has one, and looks up where the one after it lies. */
template <int BYTES, int WARPS>
__device__ __forceinline__ void feed_ask(const struct args &a, const int *first, feed<BYTES> &f, int lane)
{
    if (f.at < f.end) {
        uint32_t to = shared_address(f.rooms + f.room * BYTES);
#if __CUDA_ARCH__ >= 900
        if (lane == 0) {
            uint32_t bar = f.arrived + 8 * f.room;
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(BYTES)
                         : "memory");
            asm volatile(
                "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
                    "r"(to),
                "l"(f.next), "r"(BYTES), "r"(bar)
                : "memory");
        }
#else
        for (int i = lane * 16; i < BYTES; i += 512)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(f.next + i)
                         : "memory");
#endif
        f.at += WARPS;
        f.room = f.room + 1 == a.stages ? 0 : f.room + 1;
        if (f.at < f.end)
            feed_find(a, first, f);
    }
#if __CUDA_ARCH__ < 900
    asm volatile("cp.async.commit_group;" ::: "memory"); /* one a call, so that the count is known */
#endif
}

/* Waits for the oldest page that was asked for; `phase` counts the uses of its room. */
__device__ __forceinline__ void feed_wait(uint32_t arrived, int room, uint32_t phase, int stages)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n\t"
                 "@p bra done;\n\tbra again;\n\tdone:\n\t}" ::"r"(arrived + 8 * room),
                 "r"(phase)
                 : "memory");
#else
    if (stages == 1)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    else if (stages == 2)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else if (stages == 3)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 3;" ::: "memory");
    __syncwarp();
#endif
}

/* ---- queries, keys and values of the step -------------------------------------------------------------- */

template <int D, int WARPS>
__device__ __forceinline__ void rope_table(const struct args &a, block_shared<D, WARPS> &sh,
                                           uint64_t position)
{
    for (int i = threadIdx.x; i < a.T * a.rope_half; i += WARPS * 32) {
        int t = i / a.rope_half, k = i % a.rope_half;
        int64_t phase = (int64_t)((position + t) * a.rope_steps[k]);
        float s, c;
        sincospif((float)((double)phase * 0x1p-63), &s, &c);
        sh.cosine[t][k] = c * a.rope_factor;
        sh.sine[t][k] = s * a.rope_factor;
    }
}

/* Pair i of a head's row, rotated; *at and *at2 are its two channels. */
template <int D, int WARPS>
__device__ __forceinline__ float2 rotated(const struct args &a, const block_shared<D, WARPS> &sh,
                                          const float *x, int t, int i, int *at, int *at2)
{
    bool turns = i < a.rope_half, halves = turns && !a.rope_pairs;
    *at = halves ? i : 2 * i;
    *at2 = halves ? i + a.rope_half : 2 * i + 1;
    float x0 = x[*at], x1 = x[*at2];
    if (!turns)
        return make_float2(x0, x1);
    float c = sh.cosine[t][i], s = sh.sine[t][i];
    return make_float2(fmaf(x0, c, -__fmul_rn(x1, s)), fmaf(x0, s, __fmul_rn(x1, c)));
}

/* Columns [from, from + count) of KV head `head` into sh.q, rows beyond zero. All threads; no barrier. */
template <int D, int NT, int WARPS>
__device__ __forceinline__ void stage_queries(const struct args &a, block_shared<D, WARPS> &sh, int head,
                                              int from, int count)
{
    for (int i = threadIdx.x; i < NT * 8 * (D / 2); i += WARPS * 32) {
        int column = i / (D / 2), at, at2;
        if (column >= count) {
            reinterpret_cast<uint32_t *>(sh.q[column])[i % (D / 2)] = 0;
            continue;
        }
        int t = (from + column) / a.G, g = (from + column) % a.G;
        const float *x = a.qkv + t * a.ldqkv + (size_t)(head * a.G + g) * D;
        float2 y = rotated<D, WARPS>(a, sh, x, t, i % (D / 2), &at, &at2);
        sh.q[column][at] = __float2half_rn(y.x * a.q_scale);
        sh.q[column][at2] = __float2half_rn(y.y * a.q_scale);
    }
}

__device__ __forceinline__ bool not_finite(__half h)
{
    return (__half_as_ushort(h) & 0x7c00) == 0x7c00;
}

/* The step's keys and values of a head into rows from `row` on of its raw page. All threads; no barrier. */
template <int D, int WARPS>
__device__ __forceinline__ void append(const struct args &a, const block_shared<D, WARPS> &sh, int head,
                                       uint8_t *page, int row)
{
    __half *k = reinterpret_cast<__half *>(page) + row * D, *v = k + 64 * D;
    bool bad = false;
    for (int i = threadIdx.x; i < a.T * (D / 2); i += WARPS * 32) {
        int t = i / (D / 2), at, at2;
        const float *x = a.qkv + t * a.ldqkv + (size_t)(a.H + head) * D, *y = x + (size_t)a.HK * D;
        float2 key = rotated<D, WARPS>(a, sh, x, t, i % (D / 2), &at, &at2);
        __half k0 = __float2half_rn(key.x), k1 = __float2half_rn(key.y);
        __half v0 = __float2half_rn(y[at]), v1 = __float2half_rn(y[at2]);
        k[t * D + at] = k0;
        k[t * D + at2] = k1;
        v[t * D + at] = v0;
        v[t * D + at2] = v1;
        bad |= not_finite(k0) || not_finite(k1) || not_finite(v0) || not_finite(v1);
    }
    if (bad)
        *a.failed = 1;
}

/* ---- merging the warps --------------------------------------------------------------------------------- */

/* Where warp w's sums are. */
template <int BYTES, int D, int WARPS>
__device__ __forceinline__ const float *sums_of(const struct args &a, const block_shared<D, WARPS> &sh,
                                                const uint8_t *rooms, int w)
{
    return reinterpret_cast<const float *>(rooms + (w * a.stages + sh.empty[w]) * BYTES);
}

/* Merges the warps' sums of columns [from, from + count): to a slot of partials, or, with slot < 0, as rows
 * of `head`. Barriers before and after. */
template <int BYTES, int D, int WARPS>
__device__ __forceinline__ void merge_warps(const struct args &a, const block_shared<D, WARPS> &sh,
                                            const uint8_t *rooms, int slot, int head, int from, int count)
{
    __syncthreads();
    for (int i = threadIdx.x; i < count * D; i += WARPS * 32) {
        int column = i / D, d = i % D;
        float m = NOTHING, l = 0, o = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            m = fmaxf(m, sums_of<BYTES>(a, sh, rooms, w)[column]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float *s = sums_of<BYTES>(a, sh, rooms, w);
            if (s[column] == NOTHING) /* the warp had no page; its sums are not written */
                continue;
            float f = exp2_of(__fadd_rn(s[column], -m));
            l = fmaf(s[16 + column], f, l);
            o = fmaf(s[32 + column * D + d], f, o);
        }
        if (slot < 0) {
            int t = (from + column) / a.G, g = (from + column) % a.G;
            float y = fminf(fmaxf(o / l, -65504.0f), 65504.0f);
            a.out[t * a.ldout + (size_t)(head * a.G + g) * D + d] = __half_as_ushort(__float2half_rn(y));
            continue;
        }
        size_t row = (size_t)slot * a.columns + from + column;
        a.partial[row * D + d] = o;
        if (d == 0) {
            a.partial_ml[row * 2] = m;
            a.partial_ml[row * 2 + 1] = l;
        }
    }
    __syncthreads();
}

/* A warp that met no page of this run. */
__device__ __forceinline__ void store_nothing(float *to, int lane)
{
    if (lane < 16)
        to[lane] = NOTHING;
}

/* ---- full pages ---------------------------------------------------------------------------------------- */

/* The block's run of the line, for columns [from, from + count). */
template <int KB, int VB, int D, int NT, int WARPS>
__device__ __forceinline__ void attend_run(const struct args &a, block_shared<D, WARPS> &sh, uint8_t *rooms,
                                           feed<room<KB, VB, D>::BYTES> &f, int begin, int end,
                                           uint32_t &uses, int from, int count)
{
    constexpr int BYTES = room<KB, VB, D>::BYTES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int at = begin + warp, head = 0;
    while (begin >= sh.first[head + 1])
        head++;
    for (int run = begin; run < end; head++) {
        int stop = min(end, sh.first[head + 1]);
        if (stop <= run)
            continue;
        uint32_t q[NT][D / 8];
        state<D, NT> sums;
        stage_queries<D, NT, WARPS>(a, sh, (int)a.heads[head], from, count);
        __syncthreads();
        load_queries<KB, D, NT>(q, sh.q[0], D + 8, lane);
        state_clear(sums);
        bool any = at < stop;
#pragma unroll 1
        for (; at < stop; at += WARPS) {
            int stage = (int)(uses % (uint32_t)a.stages);
            __syncwarp(); /* all lanes have read the room that is filled next */
            feed_ask<BYTES, WARPS>(a, sh.first, f, lane);
            feed_wait(f.arrived, stage, uses / (uint32_t)a.stages & 1, a.stages);
            uses++;
            const uint8_t *page = f.rooms + stage * BYTES;
            float *lse = NULL;
            if (a.lse) {
                uint32_t number = (uint32_t)(at - sh.first[head]);
                if (a.list)
                    number = a.list[head * a.list_stride + number];
                if (number < a.lse_pages)
                    lse = a.lse + ((size_t)head * a.lse_pages + number) * a.columns + from;
            }
            if constexpr (KB == 16)
                page_raw<true, D, NT>(sums, q, page, sight{}, lse, count, lane);
            else
                page_coded<KB, VB, D, NT>(sums, q, page, lse, count, lane);
        }
        int empty = (int)((uses + (uint32_t)a.stages - 1) % (uint32_t)a.stages);
        float *to = reinterpret_cast<float *>(f.rooms + empty * BYTES);
        __syncwarp();
        if (any)
            state_store<KB == 16, D, NT>(sums, to, lane);
        else
            store_nothing(to, lane);
        if (lane == 0)
            sh.empty[warp] = empty;
        merge_warps<BYTES>(a, sh, rooms, run_slot((int)blockIdx.x, head), 0, from, count);
#if __CUDA_ARCH__ >= 900
        asm volatile("fence.proxy.async.shared::cta;" ::
                         : "memory"); /* the rooms are the copy engine's again */
#endif
        __syncthreads();
        run = stop;
    }
}

/* Starts the warp's feed on the block's run. */
template <int BYTES, int WARPS>
__device__ __forceinline__ void feed_start(const struct args &a, const int *first, feed<BYTES> &f, int begin,
                                           int end, uint32_t uses, int lane)
{
    f.at = begin + (int)threadIdx.x / 32;
    f.end = end;
    f.head = 0;
    f.room = (int)(uses % (uint32_t)a.stages);
    if (f.at < f.end)
        feed_find(a, first, f);
    for (int i = 0; i < a.stages - 1; i++)
        feed_ask<BYTES, WARPS>(a, first, f, lane);
}

/* ---- raw units ----------------------------------------------------------------------------------------- */

/* Page i of those that a streaming head may see: the sink's, then the window's; those alone that the own
 * page's rows could see at all, so that the list is the same for each of them. */
struct window {
    int64_t sinks, first, count;
};

__device__ __forceinline__ struct window window_of(const struct args &a, int64_t own)
{
    struct window w;
    int64_t back = (a.R + 62) / 64;
    w.sinks = own + 1 < a.sink_pages ? own + 1 : a.sink_pages;
    w.first = own - back > a.sink_pages ? own - back : a.sink_pages;
    w.count = w.sinks + (own >= w.first ? own - w.first + 1 : 0);
    return w;
}

/* Unit u: a streaming head, then the own pages of retrieval heads. */
template <int KB, int VB, int D, int NT, int WARPS>
__device__ __noinline__ void attend_unit(const struct args &a, block_shared<D, WARPS> &sh, uint8_t *rooms,
                                         int u, int64_t position, int from, int count)
{
    constexpr int BYTES = room<KB, VB, D>::BYTES;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool streaming = u < a.hs;
    const int slot = streaming ? u : u - a.hs;
    const int head = (int)a.heads[streaming ? a.hr + u : slot];
    const int64_t own = position / 64;
    uint8_t *pages = streaming ? a.stream + (size_t)slot * (a.sink_pages + a.ring_pages) * (64 * D * 4)
                               : a.tail + (size_t)slot * 2 * (64 * D * 4);
    struct window w = window_of(a, own);
    if (!streaming)
        w.count = 1;
    int64_t own_at = !streaming ? (own & 1) : own < a.sink_pages ? own : a.sink_pages + own % a.ring_pages;
    if (from == 0)
        append<D, WARPS>(a, sh, head, pages + own_at * (64 * D * 4), (int)(position % 64));
    stage_queries<D, NT, WARPS>(a, sh, head, from, count);
    __syncthreads();
    uint32_t q[NT][D / 8];
    state<D, NT> sums;
    load_queries<16, D, NT>(q, sh.q[0], D + 8, lane);
    state_clear(sums);
#pragma unroll 1
    for (int64_t i = warp; i < w.count; i += WARPS) {
        int64_t page = !streaming    ? own
                       : i < w.sinks ? i
                                     : w.first + i - w.sinks,
                left = position + a.T - page * 64;
        int64_t at = !streaming ? own_at : page < a.sink_pages ? page : a.sink_pages + page % a.ring_pages;
        sight v = {.rows = (int)(left < 64 ? left : 64),
                   .query = (int)(position - page * 64),
                   .G = a.G,
                   .column = from,
                   .sink = page < a.sink_pages ? (int)(a.S - page * 64) : 0,
                   .recent = streaming ? (int)a.R : 1 << 30};
        float *lse = a.lse && !streaming && page < (int64_t)a.lse_pages
                         ? a.lse + ((size_t)slot * a.lse_pages + page) * a.columns + from
                         : NULL;
        page_raw<false, D, NT>(sums, q, pages + at * (64 * D * 4), v, lse, count, lane);
    }
    float *to = reinterpret_cast<float *>(rooms + warp * a.stages * BYTES);
    if (warp < w.count)
        state_store<true, D, NT>(sums, to, lane);
    else
        store_nothing(to, lane);
    if (lane == 0)
        sh.empty[warp] = 0;
    merge_warps<BYTES>(a, sh, rooms, streaming ? -1 : own_slot(a, slot), head, from, count);
}

/* ---- the kernel ---------------------------------------------------------------------------------------- */

template <int D, int WARPS>
__device__ __forceinline__ void first_pages(const struct args &a, block_shared<D, WARPS> &sh, int pages)
{
    if (!a.list) {
        for (int h = threadIdx.x; h <= a.hr; h += WARPS * 32)
            sh.first[h] = h * pages;
    } else if (threadIdx.x == 0) {
        sh.first[0] = 0;
        for (int h = 0; h < a.hr; h++)
            sh.first[h + 1] = sh.first[h] + (int)a.list_counts[h];
    }
    __syncthreads();
}

template <int KB, int VB, int D, int NT, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, 1) attend_step(const __grid_constant__ struct args a)
{
    constexpr int BYTES = room<KB, VB, D>::BYTES;
    extern __shared__ __align__(128) uint8_t rooms[];
    __shared__ block_shared<D, WARPS> sh;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    let_the_next_kernel_start();
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
        for (int s = 0; s < a.stages; s++)
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&sh.arrived[warp][s]))
                         : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
    }
    __syncwarp();
#endif
    if (a.list)
        after_the_kernel_before(); /* it may have made the list */
    const int64_t position = (int64_t)a.step->position;
    first_pages<D, WARPS>(a, sh, (int)(position / 64));
    const int pages = a.hr ? sh.first[a.hr] : 0;
    const int begin = run_begin(a, (int)blockIdx.x, pages), end = run_begin(a, (int)blockIdx.x + 1, pages);
    feed<BYTES> f = {.rooms = rooms + warp * a.stages * BYTES, .arrived = shared_address(sh.arrived[warp])};
    uint32_t uses = 0;
    feed_start<BYTES, WARPS>(a, sh.first, f, begin, end, uses, lane);
    rope_table<D, WARPS>(a, sh, (uint64_t)position);
    after_the_kernel_before();
    __syncthreads();
#pragma unroll 1
    for (int from = 0; from < a.columns; from += NT * 8) {
        int count = min(a.columns - from, NT * 8);
        if (from)
            feed_start<BYTES, WARPS>(a, sh.first, f, begin, end, uses, lane);
        if (begin < end)
            attend_run<KB, VB, D, NT, WARPS>(a, sh, rooms, f, begin, end, uses, from, count);
#pragma unroll 1
        for (int u = (int)blockIdx.x; u < a.hs + a.hr; u += (int)gridDim.x)
            attend_unit<KB, VB, D, NT, WARPS>(a, sh, rooms, u, position, from, count);
    }
}

template <int KB, int VB, int D, int NT, int WARPS>
static cudaError_t launch(struct args *a, size_t smem_block, int hopper, cudaStream_t stream)
{
    constexpr size_t BYTES = room<KB, VB, D>::BYTES;
    static_assert(BYTES >= (32 + NT * 8 * D) * sizeof(float), "a room holds a warp's sums");
    size_t fixed = sizeof(block_shared<D, WARPS>) + 1024;
    size_t stages = smem_block > fixed ? (smem_block - fixed) / (WARPS * BYTES) : 0;
    if (!stages)
        return cudaErrorInvalidConfiguration;
    a->stages = (int)(stages < STAGES_MAX ? stages : STAGES_MAX);
    void (*kernel)(const struct args) = attend_step<KB, VB, D, NT, WARPS>;
    size_t bytes = (size_t)a->stages * WARPS * BYTES;
    cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (rc != cudaSuccess)
        return rc;
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = dim3((unsigned)a->grid);
    how.blockDim = dim3(WARPS * 32);
    how.dynamicSmemBytes = bytes;
    how.stream = stream;
    how.attrs = &early;
    how.numAttrs = hopper ? 1 : 0;
    return cudaLaunchKernelEx(&how, kernel, *a);
}

/* A tile of 8 columns, or two; the number of warps does not depend on it. */
template <int KB, int VB, int WARPS>
static cudaError_t launch_format(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream)
{
    if (D == 64)
        return a->columns <= 8 ? launch<KB, VB, 64, 1, WARPS>(a, smem_block, hopper, stream)
                               : launch<KB, VB, 64, 2, WARPS>(a, smem_block, hopper, stream);
    return a->columns <= 8 ? launch<KB, VB, 128, 1, WARPS>(a, smem_block, hopper, stream)
                           : launch<KB, VB, 128, 2, WARPS>(a, smem_block, hopper, stream);
}

} // namespace decode

#endif
