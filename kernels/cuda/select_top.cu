/* SPDX-License-Identifier: Apache-2.0 */
/* select_top.cu - the best pages of each head in order, out of their scores: a cluster of blocks a head.
 *
 * Scores are binned linearly between the least and the greatest, which leaves a few in the bin where the list
 * ends; those are ranked by (score, lower page). When that bin is crowded it is divided by the bits of the
 * score, and equal scores by page, which takes longer. Blocks write their own shared memory alone and read
 * the others': three barriers in all.
 *
 * Invariant: the list is a function of scores and pages alone; atomics only count.
 */
#include "kernels/cuda/select_pages.h"

#include <cooperative_groups.h>

namespace select_pages
{

enum {
    TOP_THREADS = 1024,
    TOP_WARPS = TOP_THREADS / 32,
    BINS = 2 * TOP_THREADS,
    RANKED_MAX = TOP_THREADS, /* candidates that are ranked at once */
    TEAM = 8                  /* blocks of a head, at most */
};

/* ---- teams: a cluster where there are clusters, else one block -------------------------------------------
 */

__device__ __forceinline__ uint32_t team_rank()
{
#if __CUDA_ARCH__ >= 900
    return cooperative_groups::this_cluster().block_rank();
#else
    return 0;
#endif
}

__device__ __forceinline__ uint32_t team_size()
{
#if __CUDA_ARCH__ >= 900
    return cooperative_groups::this_cluster().num_blocks();
#else
    return 1;
#endif
}

__device__ __forceinline__ void team_sync()
{
#if __CUDA_ARCH__ >= 900
    cooperative_groups::this_cluster().sync();
#else
    __syncthreads();
#endif
}

/* Another block's copy of a shared variable. */
template <typename X> __device__ __forceinline__ const X *of_block(X *mine, uint32_t rank)
{
#if __CUDA_ARCH__ >= 900
    return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
#else
    (void)rank;
    return mine;
#endif
}

/* ---- scores ----------------------------------------------------------------------------------------------
 */

/* What the threads of a block share; `out_` is read by the other blocks. */
struct shared {
    uint32_t out_bins[BINS];
    unsigned long long out_candidates[RANKED_MAX], ranked[RANKED_MAX];
    uint32_t out_count, out_sum, out_low, out_high;
    uint32_t sums[TOP_WARPS], kept[TOP_WARPS], starts[TEAM + 1];
    uint32_t low, high, bin, above, inside, before;
    uint32_t edge_key, edge_page; /* kept: a greater key, or this one and at most this page */
};

/* Pages [from, to) are this block's, [first, end) of them compete; `run` of them for each warp. */
struct head {
    const float *scores; /* of all pages, in device memory */
    const float *cache;  /* of [from, from + cached), in shared memory */
    uint32_t cached, from, to, first, end, run;
};

__device__ __forceinline__ float score_at(const head &h, uint32_t page)
{
    return page - h.from < h.cached ? h.cache[page - h.from] : h.scores[page];
}

/* Bins of keys in [low, high]: equal steps of the score in the first round, of the key after it, so that each
 * round divides what is left. Both never put a lower key into a higher bin. */
struct binning {
    uint32_t low, high, shift;
    float from, per; /* per 0: by the key */
};

__device__ binning binning_of(uint32_t low, uint32_t high, int round)
{
    binning b = {low, high, 0, float_of(low), 0};
    while ((high - low) >> b.shift >= BINS)
        b.shift++;
    const float per = (BINS - 1) / (float_of(high) - b.from);
    if (!round && per > 0 && isfinite(per))
        b.per = per;
    return b;
}

__device__ __forceinline__ uint32_t bin_of(const binning &b, float x)
{
    if (b.per > 0)
        return min((uint32_t)((x - b.from) * b.per), (uint32_t)BINS - 1);
    return (key_of(x) - b.low) >> b.shift;
}

__device__ __forceinline__ bool within(const binning &b, uint32_t key)
{
    return key >= b.low && key <= b.high;
}

/* Of a value of each thread, in the order of threads: *before and the sum of the block. */
__device__ uint32_t scan_sum(shared &s, uint32_t x, uint32_t *before)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t sum = x;
    for (int d = 1; d < 32; d *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, sum, d);
        sum += lane >= d ? other : 0;
    }
    __syncthreads(); /* the sums of an earlier call have been read */
    if (lane == 31)
        s.sums[warp] = sum;
    __syncthreads();
    uint32_t of_warps = s.sums[lane];
    for (int d = 1; d < 32; d *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, of_warps, d);
        of_warps += lane >= d ? other : 0;
    }
    const uint32_t earlier = __shfl_sync(~0u, of_warps, warp ? warp - 1 : 0);
    *before = sum - x + (warp ? earlier : 0);
    return __shfl_sync(~0u, of_warps, 31);
}

/* The bin in which the `need` greatest end, how many lie above it and in it. */
__device__ void find_bin(shared &s, const head &h, const binning &b, uint32_t need)
{
    for (uint32_t i = threadIdx.x; i < BINS; i += TOP_THREADS)
        s.out_bins[i] = 0;
    __syncthreads();
#pragma unroll 4
    for (uint32_t p = h.first + threadIdx.x; p < h.end; p += TOP_THREADS) {
        const float x = score_at(h, p);
        if (within(b, key_of(x)))
            atomicAdd(&s.out_bins[bin_of(b, x)], 1u);
    }
    team_sync();
    const uint32_t top = BINS - 1 - 2 * threadIdx.x;
    uint32_t x = 0, y = 0, before;
#pragma unroll
    for (uint32_t i = 0; i < TEAM; i++)
        if (i < team_size()) {
            const uint2 two = *(const uint2 *)&of_block(s.out_bins, i)[top - 1];
            x += two.y;
            y += two.x;
        }
    scan_sum(s, x + y, &before);
    if (before < need && need <= before + x + y) {
        const bool upper = need <= before + x;
        s.bin = upper ? top : top - 1;
        s.above = upper ? before : before + x;
        s.inside = upper ? x : y;
    }
    __syncthreads();
}

/* ---- the quick way: the bin's candidates fit -------------------------------------------------------------
 */

/* Each warp counts what its run surely keeps and hands out what lies in the bin. */
__device__ void gather(shared &s, const head &h, const binning &b)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, bin = s.bin;
    const uint32_t from = h.from + warp * h.run, to = min(from + h.run, h.to);
    uint32_t kept = 0;
    for (uint32_t p = from; p < to; p += 32) {
        const uint32_t page = p + lane;
        bool sure = page < h.to;
        if (sure && page >= h.first && page < h.end) {
            const float x = score_at(h, page);
            const uint32_t own = bin_of(b, x);
            sure = own > bin;
            if (own == bin)
                s.out_candidates[atomicAdd(&s.out_count, 1u)] =
                    (unsigned long long)key_of(x) << 32 | (uint32_t)~page;
        }
        kept += __popc(__ballot_sync(~0u, sure));
    }
    if (lane == 0) {
        s.kept[warp] = kept;
        atomicAdd(&s.out_sum, kept);
    }
    team_sync();
}

/* The candidates of all blocks into s.ranked; what surely comes before this block's pages into s.before. */
__device__ void collect(shared &s)
{
    if (threadIdx.x < 32) {
        const uint32_t lane = threadIdx.x, there = lane < team_size();
        const uint32_t rank = there ? lane : 0;
        const uint32_t count = there ? *of_block(&s.out_count, rank) : 0;
        const uint32_t sum = lane < team_rank() ? *of_block(&s.out_sum, rank) : 0;
        uint32_t end = count;
        for (int d = 1; d < 32; d *= 2) {
            const uint32_t other = __shfl_up_sync(~0u, end, d);
            end += (int)lane >= d ? other : 0;
        }
        if (lane <= TEAM)
            s.starts[lane] = end - count;
        const uint32_t before = __reduce_add_sync(~0u, sum);
        if (lane == 0)
            s.before = before;
    }
    __syncthreads();
    for (uint32_t i = 0; i < team_size(); i++)
        if (threadIdx.x < s.starts[i + 1] - s.starts[i])
            s.ranked[s.starts[i] + threadIdx.x] = of_block(s.out_candidates, i)[threadIdx.x];
    __syncthreads();
}

/* Number `need` of the candidates is the edge; those up to it are counted where they lie. */
__device__ void rank_candidates(shared &s, const head &h, uint32_t need)
{
    const uint32_t n = s.inside;
    if (threadIdx.x < n) {
        const unsigned long long mine = s.ranked[threadIdx.x];
        const uint32_t page = ~(uint32_t)mine;
        uint32_t better = 0;
        for (uint32_t i = 0; i < n; i++)
            better += s.ranked[i] > mine;
        if (better == need - 1) {
            s.edge_key = (uint32_t)(mine >> 32);
            s.edge_page = page;
        }
        if (better < need && page < h.from)
            atomicAdd(&s.before, 1u);
        else if (better < need && page < h.to)
            atomicAdd(&s.kept[(page - h.from) / h.run], 1u);
    }
    __syncthreads();
}

/* ---- the long way: a crowded bin -------------------------------------------------------------------------
 */

/* Of each block's x: the sum of the blocks before this one into *before; returns that of all. */
__device__ uint32_t team_sum(shared &s, uint32_t x, uint32_t *before)
{
    uint32_t all = 0;
    team_sync(); /* the sums of an earlier call have been read */
    if (threadIdx.x == 0)
        s.out_sum = x;
    team_sync();
    *before = 0;
    for (uint32_t i = 0; i < team_size(); i++) {
        const uint32_t sum = *of_block(&s.out_sum, i);
        *before += i < team_rank() ? sum : 0;
        all += sum;
    }
    return all;
}

/* Least and greatest key of a bin into s.low and s.high. */
__device__ void range_of_bin(shared &s, const head &h, const binning &b)
{
    const uint32_t bin = s.bin;
    uint32_t low = ~0u, high = 0;
    for (uint32_t p = h.first + threadIdx.x; p < h.end; p += TOP_THREADS) {
        const float x = score_at(h, p);
        const uint32_t key = key_of(x);
        if (within(b, key) && bin_of(b, x) == bin) {
            low = min(low, key);
            high = max(high, key);
        }
    }
    team_sync(); /* the ranges of an earlier call have been read */
    if (threadIdx.x == 0) {
        s.out_low = ~0u;
        s.out_high = 0;
    }
    __syncthreads();
    low = __reduce_min_sync(~0u, low);
    high = __reduce_max_sync(~0u, high);
    if (threadIdx.x % 32 == 0) {
        atomicMin(&s.out_low, low);
        atomicMax(&s.out_high, high);
    }
    team_sync();
    low = ~0u;
    high = 0;
    for (uint32_t i = 0; i < team_size(); i++) {
        low = min(low, *of_block(&s.out_low, i));
        high = max(high, *of_block(&s.out_high, i));
    }
    if (threadIdx.x == 0) {
        s.low = low;
        s.high = high;
    }
    __syncthreads();
}

__device__ __forceinline__ bool has_key(const head &h, uint32_t page, uint32_t key)
{
    return page >= h.first && page < h.end && key_of(score_at(h, page)) == key;
}

/* All that is left is equal: the edge is the need-th page of this key. */
__device__ void rank_equals(shared &s, const head &h, uint32_t key, uint32_t need)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t from = h.from + warp * h.run, to = min(from + h.run, h.to);
    uint32_t equal = 0, before, others;
    for (uint32_t p = from; p < to; p += 32)
        equal += __popc(__ballot_sync(~0u, has_key(h, p + lane, key)));
    const uint32_t all = scan_sum(s, lane ? 0 : equal, &before);
    team_sum(s, all, &others);
    before = __shfl_sync(~0u, before, 0) + others;
    if (threadIdx.x == 0)
        s.out_low = ~0u;
    __syncthreads();
    if (before < need && need <= before + equal)
        for (uint32_t p = from; p < to; p += 32) {
            const uint32_t mask = __ballot_sync(~0u, has_key(h, p + lane, key));
            if (mask >> lane & 1 && before + __popc(mask & ((2u << lane) - 1)) == need)
                s.out_low = p + lane;
            before += __popc(mask);
        }
    team_sync();
    uint32_t page = ~0u;
    for (uint32_t i = 0; i < team_size(); i++)
        page = min(page, *of_block(&s.out_low, i));
    if (threadIdx.x == 0) {
        s.edge_key = key;
        s.edge_page = page;
    }
    __syncthreads();
}

/* Divides the bin until one key is left. */
__device__ void divide(shared &s, const head &h, binning b, uint32_t need)
{
    for (int round = 1;; round++) {
        range_of_bin(s, h, b);
        b = binning_of(s.low, s.high, round);
        if (b.low == b.high)
            break;
        find_bin(s, h, b, need);
        need -= s.above;
    }
    rank_equals(s, h, b.low, need);
}

/* ---- the list --------------------------------------------------------------------------------------------
 */

__device__ __forceinline__ bool keeps(const shared &s, const head &h, uint32_t page)
{
    if (page >= h.to || page < h.first || page >= h.end)
        return page < h.to;
    const uint32_t key = key_of(score_at(h, page));
    return key > s.edge_key || (key == s.edge_key && page <= s.edge_page);
}

/* s.kept and s.before once the edge is known. */
__device__ void count(shared &s, const head &h)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t from = h.from + warp * h.run, to = min(from + h.run, h.to);
    uint32_t kept = 0, unused, before;
    for (uint32_t p = from; p < to; p += 32)
        kept += __popc(__ballot_sync(~0u, keeps(s, h, p + lane)));
    const uint32_t all = scan_sum(s, lane ? 0 : kept, &unused);
    team_sum(s, all, &before);
    if (lane == 0)
        s.kept[warp] = kept;
    if (threadIdx.x == 0)
        s.before = before;
    __syncthreads();
}

__device__ void write(const shared &s, const head &h, uint32_t *pages)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t from = h.from + warp * h.run, to = min(from + h.run, h.to);
    uint32_t at = s.before + __reduce_add_sync(~0u, lane < warp ? s.kept[lane] : 0);
    for (uint32_t p = from; p < to; p += 32) {
        const uint32_t page = p + lane;
        const bool keep = keeps(s, h, page);
        const uint32_t mask = __ballot_sync(~0u, keep);
        if (keep)
            pages[at + __popc(mask & ((1u << lane) - 1))] = page;
        at += __popc(mask);
    }
}

/* Least and greatest key of those that compete, from what the scan's blocks left. */
__device__ void range_of_scan(shared &s, const uint2 *ranges, uint32_t n)
{
    uint32_t low = ~0u, high = 0;
    for (uint32_t i = threadIdx.x; i < n; i += TOP_THREADS) {
        low = min(low, ranges[i].x);
        high = max(high, ranges[i].y);
    }
    low = __reduce_min_sync(~0u, low);
    high = __reduce_max_sync(~0u, high);
    if (threadIdx.x % 32 == 0) {
        atomicMin(&s.low, low);
        atomicMax(&s.high, high);
    }
    __syncthreads();
}

/* Sets edge, s.kept and s.before for `need` of those that compete. */
__device__ void find_edge(shared &s, const head &h, uint32_t need)
{
    const binning b = binning_of(s.low, s.high, 0);
    if (b.low == b.high) {
        rank_equals(s, h, b.low, need);
        count(s, h);
        return;
    }
    find_bin(s, h, b, need);
    need -= s.above;
    if (s.inside > RANKED_MAX) {
        divide(s, h, b, need);
        count(s, h);
        return;
    }
    gather(s, h, b);
    collect(s);
    rank_candidates(s, h, need);
}

__global__ void __launch_bounds__(TOP_THREADS) select_top(params a)
{
    extern __shared__ float cache[];
    __shared__ shared s;
    if (threadIdx.x == 0) {
        s.low = ~0u;
        s.high = s.out_count = s.out_sum = 0;
        s.edge_key = ~0u; /* without a best one: nothing between first and last */
        s.edge_page = 0;
    }
    chain_begin();
    chain_wait();
    const uint32_t n = full_pages(a), keep = min(a.budget, n), slot = blockIdx.x / team_size();
    uint32_t *pages = a.pages + slot * a.stride;
    if (threadIdx.x == 0 && team_rank() == 0)
        a.counts[slot] = keep;
    if (keep == n) {
        for (uint32_t p = team_rank() * TOP_THREADS + threadIdx.x; p < n; p += team_size() * TOP_THREADS)
            pages[p] = p;
        return;
    }
    const uint32_t first = min(a.sink, keep), last = min(a.recent, keep - first), best = keep - first - last;
    const uint32_t part = (n + team_size() - 1) / team_size();
    const uint32_t from = min(team_rank() * part, n), to = min(from + part, n);
    const head h = {a.scores + slot * a.max_pages,
                    cache,
                    min(a.cached, to - from),
                    from,
                    to,
                    max(first, from),
                    min(n - last, to),
                    (part + TOP_THREADS - 1) / TOP_THREADS * 32};
#pragma unroll 8
    for (uint32_t i = threadIdx.x; i < h.cached; i += TOP_THREADS)
        cache[i] = h.scores[from + i];
    __syncthreads();
    range_of_scan(s, a.ranges + slot * RANGES, min(a.scan_blocks, (n + 127) / 128));
    if (best)
        find_edge(s, h, best);
    else
        count(s, h);
    write(s, h, pages);
    team_sync(); /* a block's memory stays until all have read it */
}

int run_top(struct device *d, params a)
{
    const unsigned team = cuda_of(d)->hopper && a.max_pages > TOP_THREADS ? TEAM : 1;
    const size_t spare = sizeof(shared) + 2048, room = (cuda_of(d)->smem_block - spare) / 16 * 16;
    const size_t part = (a.max_pages + team - 1) / team * sizeof(float), cache = part < room ? part : room;
    a.cached = (uint32_t)(cache / sizeof(float));
    return launch(d, select_top, dim3(team * (unsigned)a.hr), team, TOP_THREADS, cache, a);
}

} // namespace select_pages
