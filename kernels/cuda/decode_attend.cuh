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

constexpr int STAGES_MAX = 4, RUN = HEADS_MAX + 1;

template <int KB, int VB, int D> struct room {
    static constexpr int BYTES = KB == 16 ? 64 * D * 4 : record<KB, VB, D>::BYTES;
};

/* What the block shares beside the rooms. */
template <int D, int WARPS> struct block_shared {
    alignas(8) uint64_t arrived[WARPS][STAGES_MAX];
    float cosine[DEVICE_DECODE_T][D / 2], sine[DEVICE_DECODE_T][D / 2];
    alignas(16) __half q[COLUMNS_MAX][D + 8]; /* rows apart in the banks */
    int first[HEADS_MAX + 4]; /* of each slot on the line of pages; at RUN and after it the block's run */
    int holds[WARPS];         /* room with a warp's sums; -1: it met no page */
    float weight[WARPS][COLUMNS_MAX], merged[COLUMNS_MAX][2]; /* maximum and sum */
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

/* The lane, as a number that the compiler does not carry along from outside: registers are few in the loops.
 */
__device__ __forceinline__ int lane_here()
{
    int lane = (int)threadIdx.x % 32;
    asm volatile("" : "+r"(lane));
    return lane;
}

/* ---- bringing pages ------------------------------------------------------------------------------------ */

/* One warp's way along the block's run, which ends at first[RUN + 1] (what is shared is cheaper to read than
 * to carry). */
template <int BYTES> struct feed {
    uint8_t *rooms;
    uint32_t arrived; /* shared address of its barriers */
    const uint8_t *next;
    int at, head;   /* index on the line of `next`, its slot */
    int stage;      /* room of the oldest page that was asked for */
    uint32_t phase; /* of its barrier */
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

/* The room before that of the oldest page: the one that is free. */
template <int BYTES> __device__ __forceinline__ int feed_free(const struct args &a, const feed<BYTES> &f)
{
    return f.stage ? f.stage - 1 : a.stages - 1;
}

#if __CUDA_ARCH__ >= 900
/* Cache policy: pages pass through and leave the cache to what is used again. */
__device__ __forceinline__ uint64_t read_once()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
#endif

/* Asks for the next page, if the run has one, and looks up where the one after it lies. */
template <int BYTES, int WARPS>
__device__ __forceinline__ void feed_ask(const struct args &a, const int *first, feed<BYTES> &f, int room,
                                         int lane)
{
    if (f.at < first[RUN + 1]) {
        uint32_t to = shared_address(f.rooms + room * BYTES);
#if __CUDA_ARCH__ >= 900
        if (lane == 0) {
            uint32_t bar = f.arrived + 8 * room;
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(BYTES)
                         : "memory");
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                         "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                         "l"(f.next), "r"(BYTES), "r"(bar), "l"(read_once())
                         : "memory");
        }
#else
        for (int i = lane * 16; i < BYTES; i += 512)
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(f.next + i)
                         : "memory");
#endif
        f.at += WARPS;
        if (f.at < first[RUN + 1])
            feed_find(a, first, f);
    }
#if __CUDA_ARCH__ < 900
    asm volatile("cp.async.commit_group;" ::: "memory"); /* one a call, so that the count is known */
#endif
}

/* Waits for the oldest page that was asked for. */
template <int BYTES> __device__ __forceinline__ void feed_wait(const struct args &a, const feed<BYTES> &f)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n\t.reg .pred p;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n\t"
                 "@p bra done;\n\tbra again;\n\tdone:\n\t}" ::"r"(f.arrived + 8 * f.stage),
                 "r"(f.phase)
                 : "memory");
#else
    if (a.stages == 1)
        asm volatile("cp.async.wait_group 0;" ::: "memory");
    else if (a.stages == 2)
        asm volatile("cp.async.wait_group 1;" ::: "memory");
    else if (a.stages == 3)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 3;" ::: "memory");
    __syncwarp();
#endif
}

/* The oldest page has been read. */
template <int BYTES> __device__ __forceinline__ void feed_next(const struct args &a, feed<BYTES> &f)
{
    if (++f.stage == a.stages) {
        f.stage = 0;
        f.phase ^= 1;
    }
}

/* ---- queries, keys and values of the step -------------------------------------------------------------- */

template <int D, int WARPS>
__device__ __forceinline__ void rope_table(const struct args &a, block_shared<D, WARPS> &sh,
                                           uint64_t position)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < a.T * a.rope_half; i += WARPS * 32) {
        int t = i / a.rope_half, k = i % a.rope_half;
        int64_t phase = (int64_t)((position + t) * a.rope_steps[k]);
        double s, c; /* as the CPU: what is appended has the same bits on each device */
        sincospi((double)phase * 0x1p-63, &s, &c);
        sh.cosine[t][k] = __fmul_rn((float)c, a.rope_factor);
        sh.sine[t][k] = __fmul_rn((float)s, a.rope_factor);
    }
}

/* Channels of pair i of a head's row. */
__device__ __forceinline__ void pair_of(const struct args &a, int i, int *at, int *at2)
{
    bool halves = i < a.rope_half && !a.rope_pairs;
    *at = halves ? i : 2 * i;
    *at2 = halves ? i + a.rope_half : 2 * i + 1;
}

/* Pair i of query t's row, rotated. */
template <int D, int WARPS>
__device__ __forceinline__ float2 rotated(const struct args &a, const block_shared<D, WARPS> &sh, float2 x,
                                          int t, int i)
{
    if (i >= a.rope_half)
        return x;
    float c = sh.cosine[t][i], s = sh.sine[t][i];
    return make_float2(__fsub_rn(__fmul_rn(x.x, c), __fmul_rn(x.y, s)),
                       __fadd_rn(__fmul_rn(x.x, s), __fmul_rn(x.y, c)));
}

/* Columns [from, from + count) of KV head `head` into sh.q, rows beyond zero. All threads; no barrier. Four
 * loads are under way before the first is needed. */
template <int D, int NT, int WARPS>
__device__ __noinline__ void stage_queries(const struct args &a, block_shared<D, WARPS> &sh, int head,
                                           int from, int count)
{
    constexpr int PAIRS = D / 2, ALL = NT * 8 * PAIRS, EACH = 4;
#pragma unroll 1
    for (int first = (int)threadIdx.x; first < ALL; first += EACH * WARPS * 32) {
        float2 x[EACH];
        int at, at2;
#pragma unroll
        for (int n = 0; n < EACH; n++) {
            int i = first + n * WARPS * 32, column = i / PAIRS;
            x[n] = make_float2(0, 0);
            if (column >= count)
                continue;
            int t = (from + column) / a.G, g = (from + column) % a.G;
            const float *row = a.qkv + t * a.ldqkv + (size_t)(head * a.G + g) * D;
            pair_of(a, i % PAIRS, &at, &at2);
            x[n] = make_float2(row[at], row[at2]);
        }
#pragma unroll
        for (int n = 0; n < EACH; n++) {
            int i = first + n * WARPS * 32, column = i / PAIRS;
            if (i >= ALL)
                continue;
            if (column < count)
                x[n] = rotated<D, WARPS>(a, sh, x[n], (from + column) / a.G, i % PAIRS);
            pair_of(a, i % PAIRS, &at, &at2);
            sh.q[column][at] = __float2half_rn(x[n].x * a.q_scale);
            sh.q[column][at2] = __float2half_rn(x[n].y * a.q_scale);
        }
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
        pair_of(a, i % (D / 2), &at, &at2);
        float2 key = rotated<D, WARPS>(a, sh, make_float2(x[at], x[at2]), t, i % (D / 2));
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

/* Where warp w's sums are, if it has any. */
template <int BYTES, int D, int WARPS>
__device__ __forceinline__ const float *sums_of(const struct args &a, const block_shared<D, WARPS> &sh,
                                                const uint8_t *rooms, int w)
{
    return reinterpret_cast<const float *>(rooms + (w * a.stages + sh.holds[w]) * BYTES);
}

/* What each warp's sums of a column count, its maximum and sum. */
template <int BYTES, int D, int WARPS>
__device__ __forceinline__ void weigh_warps(const struct args &a, block_shared<D, WARPS> &sh,
                                            const uint8_t *rooms, int count)
{
    for (int i = threadIdx.x; i < count * WARPS; i += WARPS * 32) {
        int column = i / WARPS, warp = i % WARPS;
        float m = NOTHING, l = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            if (sh.holds[w] >= 0)
                m = fmaxf(m, sums_of<BYTES>(a, sh, rooms, w)[column]);
        if (sh.holds[warp] >= 0)
            sh.weight[warp][column] = exp2_of(__fadd_rn(sums_of<BYTES>(a, sh, rooms, warp)[column], -m));
        if (warp)
            continue;
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            if (sh.holds[w] >= 0) {
                const float *s = sums_of<BYTES>(a, sh, rooms, w);
                l = fmaf(s[16 + column], exp2_of(__fadd_rn(s[column], -m)), l);
            }
        sh.merged[column][0] = m;
        sh.merged[column][1] = l;
    }
}

/* Merges the warps' sums of columns [from, from + count): to a slot of partials, or, with slot < 0, as rows
 * of `head`. Barriers before and after. */
template <int BYTES, int D, int WARPS>
__device__ __noinline__ void merge_warps(const struct args &a, block_shared<D, WARPS> &sh,
                                         const uint8_t *rooms, int slot, int head, int from, int count)
{
    __syncthreads();
    weigh_warps<BYTES, D, WARPS>(a, sh, rooms, count);
    __syncthreads();
    for (int i = threadIdx.x; i < count * (D / 4); i += WARPS * 32) {
        int column = i / (D / 4), d = i % (D / 4) * 4;
        float4 o = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            if (sh.holds[w] >= 0) {
                float f = sh.weight[w][column];
                float4 x = *reinterpret_cast<const float4 *>(sums_of<BYTES>(a, sh, rooms, w) + 32 +
                                                             column * SUMS<D> + d);
                o = make_float4(fmaf(x.x, f, o.x), fmaf(x.y, f, o.y), fmaf(x.z, f, o.z), fmaf(x.w, f, o.w));
            }
        if (slot < 0) {
            int t = (from + column) / a.G, g = (from + column) % a.G;
            uint16_t *out = a.out + t * a.ldout + (size_t)(head * a.G + g) * D + d;
            float l = sh.merged[column][1], y[4] = {o.x, o.y, o.z, o.w};
#pragma unroll
            for (int n = 0; n < 4; n++)
                out[n] =
                    __half_as_ushort(__float2half_rn(fminf(fmaxf(__fdiv_rn(y[n], l), -65504.0f), 65504.0f)));
            continue;
        }
        size_t row = (size_t)slot * a.columns + from + column;
        *reinterpret_cast<float4 *>(a.partial + row * D + d) = o;
        if (d < 8)
            a.partial_ml[row * 2 + d / 4] = sh.merged[column][d / 4];
    }
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::
                     : "memory"); /* the copy engine may fill the rooms again */
#endif
    __syncthreads();
}

/* ---- full pages ---------------------------------------------------------------------------------------- */

/* The block's run of the line, for columns [from, from + count). */
template <int KB, int VB, int D, int NT, int WARPS>
__device__ __forceinline__ void attend_run(const struct args &a, block_shared<D, WARPS> &sh, uint8_t *rooms,
                                           feed<room<KB, VB, D>::BYTES> &f, int from, int count)
{
    constexpr int BYTES = room<KB, VB, D>::BYTES;
    const int warp = threadIdx.x / 32, lane = lane_here();
    int at = sh.first[RUN] + warp, head = 0;
    while (sh.first[RUN] >= sh.first[head + 1])
        head++;
    for (int run = sh.first[RUN]; run < sh.first[RUN + 1]; head++) {
        int stop = min(sh.first[RUN + 1], sh.first[head + 1]);
        if (stop <= run)
            continue;
        uint32_t q[NT][D / 8];
        state<D, NT> sums;
        stage_queries<D, NT, WARPS>(a, sh, a.heads[head], from, count);
        __syncthreads();
        load_queries<KB, D, NT>(q, sh.q[0], D + 8, lane);
        state_clear(sums);
        bool any = at < stop;
#pragma unroll 1
        for (; at < stop; at += WARPS) {
            feed_wait(a, f);
            const uint8_t *page = f.rooms + f.stage * BYTES;
            float *lse = NULL;
            if (a.lse) {
                uint32_t number = (uint32_t)(at - sh.first[head]);
                if (a.list)
                    number = a.list[head * a.list_stride + number];
                if (number < a.lse_pages)
                    lse = a.lse + ((size_t)head * a.lse_pages + number) * a.columns + from;
            }
            if constexpr (KB == 16)
                page_raw<D, NT>(sums, q, page, lse, count, NT > 1 ? lane_here() : lane);
            else
                page_coded<KB, VB, D, NT>(sums, q, page, lse, count, NT > 1 ? lane_here() : lane);
            feed_next(a, f);
            __syncwarp(); /* all lanes have read the room that is filled next */
            if (at + WARPS < stop)
                feed_ask<BYTES, WARPS>(a, sh.first, f, feed_free(a, f), lane);
        }
        int empty = feed_free(a, f); /* the last page's room: it is asked for after the merge */
        float *to = reinterpret_cast<float *>(f.rooms + empty * BYTES);
        __syncwarp();
        if (any)
            state_store<KB == 16, D, NT>(sums, to, lane);
        if (lane == 0)
            sh.holds[warp] = any ? empty : -1;
        merge_warps<BYTES>(a, sh, rooms, run_slot((int)blockIdx.x, head), 0, from, count);
        if (any)
            feed_ask<BYTES, WARPS>(a, sh.first, f, empty, lane);
        run = stop;
    }
}

/* Starts the warp's feed on the block's run. */
template <int BYTES, int WARPS>
__device__ __forceinline__ void feed_start(const struct args &a, const int *first, feed<BYTES> &f, int lane)
{
    f.at = first[RUN] + (int)threadIdx.x / 32;
    f.head = 0;
    if (f.at < first[RUN + 1])
        feed_find(a, first, f);
    int room = f.stage;
#pragma unroll 1
    for (int i = 0; i < a.stages; i++) {
        feed_ask<BYTES, WARPS>(a, first, f, room, lane);
        room = room + 1 == a.stages ? 0 : room + 1;
    }
}

/* ---- raw units ----------------------------------------------------------------------------------------- */

/* Page i of those that a streaming head may see: the sink's, then the window's; those alone that the own
 * page's rows could see at all, so that the list is the same for each of them. */
struct window {
    int sinks, first, count;
};

__device__ __forceinline__ struct window window_of(const struct args &a, int own)
{
    struct window w;
    int back = (int)((a.R + 62) / 64);
    w.sinks = own + 1 < a.sink_pages ? own + 1 : a.sink_pages;
    w.first = own - back > a.sink_pages ? own - back : a.sink_pages;
    w.count = w.sinks + (own >= w.first ? own - w.first + 1 : 0);
    return w;
}

/* Where a streaming head keeps a page. */
__device__ __forceinline__ int stream_place(const struct args &a, int page)
{
    return page < a.sink_pages ? page : a.sink_pages + page % a.ring_pages;
}

/* Brings the raw pages of the block's unit near while its run lasts. */
template <int D> __device__ __forceinline__ void fetch_unit(const struct args &a, int u, int64_t position)
{
#if __CUDA_ARCH__ >= 900
    const int own = (int)(position / 64), i = (int)threadIdx.x;
    const uint8_t *page = NULL;
    if (u < 0) {
    } else if (u < a.hs) {
        struct window w = window_of(a, own);
        if (i < w.count)
            page = a.stream + ((size_t)u * (a.sink_pages + a.ring_pages) +
                               stream_place(a, i < w.sinks ? i : w.first + i - w.sinks)) *
                                  (64 * D * 4);
    } else if (i == 0) {
        page = a.tail + (size_t)((u - a.hs) * 2 + (own & 1)) * (64 * D * 4);
    }
    if (page)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(page), "r"(64 * D * 4) : "memory");
#endif
}

/* Unit u: a streaming head, then the own pages of retrieval heads. */
template <int KB, int VB, int D, int NT, int WARPS>
__device__ __forceinline__ void attend_unit(const struct args &a, block_shared<D, WARPS> &sh, uint8_t *rooms,
                                            int u, int64_t position, int from, int count)
{
    constexpr int BYTES = room<KB, VB, D>::BYTES;
    const int warp = threadIdx.x / 32, lane = lane_here();
    const bool streaming = u < a.hs;
    const int slot = streaming ? u : u - a.hs;
    const int head = a.heads[streaming ? a.hr + u : slot];
    const int own = (int)(position / 64), row = (int)(position % 64);
    uint8_t *pages = streaming ? a.stream + (size_t)slot * (a.sink_pages + a.ring_pages) * (64 * D * 4)
                               : a.tail + (size_t)(slot * 2 + (own & 1)) * (64 * D * 4);
    struct window w = {0, own, 1};
    if (streaming)
        w = window_of(a, own);
    if (from == 0)
        append<D, WARPS>(a, sh, head, pages + (streaming ? stream_place(a, own) : 0) * (64 * D * 4), row);
    stage_queries<D, NT, WARPS>(a, sh, head, from, count);
    __syncthreads();
    uint32_t q[NT][D / 8];
    state<D, NT> sums;
    load_queries<16, D, NT>(q, sh.q[0], D + 8, lane);
    state_clear(sums);
#pragma unroll 1
    for (int i = warp; i < 4 * w.count; i += WARPS) { /* sixteen tokens each */
        int n = i / 4, page = n < w.sinks ? n : w.first + n - w.sinks, behind = (own - page) * 64;
        sight v = {.rows = min(row + a.T + behind, 64),
                   .query = row + behind,
                   .G = a.G,
                   .column = from,
                   .sink = page < a.sink_pages ? (int)a.S - page * 64 : 0,
                   .recent = streaming ? (int)a.R : 1 << 30};
        raw_tile<D, NT>(sums, q, pages + (streaming ? stream_place(a, page) : 0) * (64 * D * 4), i % 4, v,
                        NT > 1 ? lane_here() : lane);
    }
    float *to = reinterpret_cast<float *>(rooms + warp * a.stages * BYTES);
    if (warp < 4 * w.count)
        state_store<true, D, NT>(sums, to, lane);
    if (lane == 0)
        sh.holds[warp] = warp < 4 * w.count ? 0 : -1;
    merge_warps<BYTES>(a, sh, rooms, streaming ? -1 : own_slot(a, slot), head, from, count);
    if (a.lse && !streaming && own < (int)a.lse_pages && (int)threadIdx.x < count)
        a.lse[((size_t)slot * a.lse_pages + own) * a.columns + from + threadIdx.x] =
            sh.merged[threadIdx.x][0] + log2f(sh.merged[threadIdx.x][1]);
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
    if (threadIdx.x == 0) {
        struct run mine = run_of(a, (int)blockIdx.x, [&](int h) { return sh.first[h]; });
        sh.first[RUN] = mine.begin;
        sh.first[RUN + 1] = mine.end;
        sh.first[RUN + 2] = mine.unit;
    }
    __syncthreads();
}

template <int KB, int VB, int D, int NT, int WARPS>
__global__ void __launch_bounds__(NT == 1 ? 384 : WARPS * 32, 1)
    attend_step(const __grid_constant__ struct args a)
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
    feed<BYTES> f = {.rooms = rooms + warp * a.stages * BYTES, .arrived = shared_address(sh.arrived[warp])};
    feed_start<BYTES, WARPS>(a, sh.first, f, lane);
    fetch_unit<D>(a, sh.first[RUN + 2], position);
    rope_table<D, WARPS>(a, sh, (uint64_t)position);
    after_the_kernel_before();
    __syncthreads();
#pragma unroll 1
    for (int from = 0; from < a.columns; from += NT * 8) {
        int count = min(a.columns - from, NT * 8);
        if (from)
            feed_start<BYTES, WARPS>(a, sh.first, f, lane);
        if (sh.first[RUN] < sh.first[RUN + 1])
            attend_run<KB, VB, D, NT, WARPS>(a, sh, rooms, f, from, count);
#pragma unroll 1
        for (int u = sh.first[RUN + 2]; u >= 0 && u < a.hs + a.hr; u += (int)gridDim.x)
            attend_unit<KB, VB, D, NT, WARPS>(a, sh, rooms, u, position, from, count);
    }
}

template <int KB, int VB, int D, int NT, int WARPS>
static cudaError_t launch(struct args *a, size_t smem_block, int hopper, cudaStream_t stream)
{
    constexpr size_t BYTES = room<KB, VB, D>::BYTES;
    static_assert(BYTES >= (32 + NT * 8 * SUMS<D>)*sizeof(float), "a room holds a warp's sums");
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
