/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_select.cu - page selection: a scan of the summaries, then the best pages of each head in order.
 *
 * The arithmetic is host_select.c's: q as 16-bit codes, here two planes of 8 bits, so that a score is one
 * exact integer whatever the order. Scan: a warp takes the 16 summaries of a block of one head as the A
 * operand of mma.m16n8k32 (s8), columns are G query heads x T rows. A summary of D = 128 is 144 bytes and
 * costs about 7 instructions, so memory is the limit. Top: one block of threads a head; scores are binned
 * linearly, which leaves a few in the bin where the list ends, and those are ranked by (score, lower page).
 *
 * Invariant: the list is a function of scores and pages alone; atomics only count.
 */
#include "kernels/cuda/cuda_device.h"

#include <cuda_fp16.h>

namespace
{

enum {
    SCAN_WARPS = 8,
    CODE_MAX = 32512,
    COLUMNS_MAX = 64,
    TOP_THREADS = 1024,
    TOP_WARPS = TOP_THREADS / 32,
    BINS = 2 * TOP_THREADS,
    RANKED_MAX = TOP_THREADS, /* candidates that are ranked at once */
    BLOCK_PAGES = DEVICE_BLOCK_PAGES
};

struct params {
    const uint64_t *blocks;
    const float *qkv;
    const struct device_step *step;
    const uint64_t *rope_steps;
    const uint32_t *heads; /* of this layer's slots */
    float *scores;         /* [hr][max_pages] */
    uint32_t *pages, *counts;
    size_t ldqkv, first_summary, scan_bytes, stride, max_pages;
    int hr, G, T, rope_half, rope_halves;
    float attn_factor;
    uint32_t budget, recent, sink;
    uint32_t cached; /* scores that fit in shared memory */
};

__device__ uint32_t full_pages(const params &a)
{
    const uint64_t n = a.step->position / KV_PAGE_TOKENS;
    return (uint32_t)(n < a.max_pages ? n : a.max_pages);
}

__device__ void chain()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* ---- scan ------------------------------------------------------------------------------------------------
 */

/* Codes of the columns, in two planes [column][D] with 64 bytes between rows, so that no two lanes of a read
 * meet in a bank; columns past the last repeat the first. */
template <int D> struct queries {
    enum { LINE = D + 64 };
    int8_t high[COLUMNS_MAX * LINE], low[COLUMNS_MAX * LINE];
    float unit[COLUMNS_MAX];
    float row[SCAN_WARPS][D];
};

/* One column's q, rotated as ref_rope.c does, into the warp's row. */
template <int D> __device__ void rotate(const params &a, const float *q, uint64_t position, float *row)
{
    const int lane = threadIdx.x % 32, half = a.rope_half;
    for (int i = lane; i < half; i += 32) {
        const int at = a.rope_halves ? i : 2 * i, to = a.rope_halves ? i + half : 2 * i + 1;
        const uint64_t phase = position * a.rope_steps[i];
        double s, c;
        sincospi((double)(int64_t)phase * 0x1p-63, &s, &c);
        const float sine = (float)s * a.attn_factor, cosine = (float)c * a.attn_factor;
        const float x = q[at], y = q[to];
        row[at] = __fsub_rn(__fmul_rn(x, cosine), __fmul_rn(y, sine));
        row[to] = __fadd_rn(__fmul_rn(x, sine), __fmul_rn(y, cosine));
    }
    for (int i = 2 * half + lane; i < D; i += 32)
        row[i] = q[i];
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

template <int D> __device__ void prepare(const params &a, int slot, int columns, queries<D> &q)
{
    const int warp = threadIdx.x / 32;
    for (int i = warp; i < columns; i += SCAN_WARPS) {
        const int column = i < a.G * a.T ? i : 0, t = column / a.G, g = column % a.G;
        const float *from = a.qkv + t * a.ldqkv + (size_t)(a.heads[slot] * a.G + g) * D;
        rotate<D>(a, from, a.step->position + t, q.row[warp]);
        quantise<D>(q.row[warp], q.high + i * queries<D>::LINE, q.low + i * queries<D>::LINE, &q.unit[i]);
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

/* Best of all columns for the block's 16 pages. */
template <int D>
__device__ void score(const params &a, const queries<D> &q, int columns, const summaries<D> &s, int slot,
                      uint32_t block, uint32_t n)
{
    const int lane = threadIdx.x % 32, row = lane / 4, part = lane % 4;
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
    if (part < 2 && page < n) /* + 0: no -0, which would not tie with 0 */
        a.scores[slot * a.max_pages + page] = __fmul_rn(part ? best[1] : best[0], s.scale) + 0.0f;
}

template <int D> __global__ void __launch_bounds__(32 * SCAN_WARPS, 2) select_scan(params a)
{
    extern __shared__ uint4 room[];
    queries<D> &q = *(queries<D> *)room;
    chain();
    const uint32_t n = full_pages(a), blocks = (n + BLOCK_PAGES - 1) / BLOCK_PAGES;
    const uint32_t step = gridDim.x * SCAN_WARPS;
    if (n <= a.budget || blockIdx.x * SCAN_WARPS >= blocks)
        return;
    const int slot = blockIdx.y, columns = (a.G * a.T + 7) / 8 * 8;
    uint32_t block = blockIdx.x * SCAN_WARPS + threadIdx.x / 32;
    summaries<D> now, next;
    if (block < blocks)
        load<D>(a, slot, block, n, &now);
    prepare<D>(a, slot, columns, q);
    for (; block < blocks; block += step) {
        if (block + step < blocks)
            load<D>(a, slot, block + step, n, &next);
        score<D>(a, q, columns, now, slot, block, n);
        now = next;
    }
}

/* ---- top -------------------------------------------------------------------------------------------------
 */

/* Unsigned numbers in the order of floats. */
__device__ uint32_t key_of(float x)
{
    const uint32_t u = __float_as_uint(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}

__device__ float float_of(uint32_t key)
{
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/* What the threads of a head share. */
struct shared {
    uint32_t bins[BINS];
    unsigned long long ranked[RANKED_MAX];
    uint32_t sums[TOP_WARPS];
    uint32_t low, high, bin, above, inside, count;
    uint32_t edge_key, edge_page;
};

struct head {
    const float *scores;            /* of all pages, in device memory */
    const float *cache;             /* of the first ones, in shared memory */
    uint32_t cached, n, first, end; /* pages [first, end) compete */
};

__device__ float score_at(const head &h, uint32_t page)
{
    return page < h.cached ? h.cache[page] : h.scores[page];
}

/* Of a value of each thread, in the order of threads: *before and the sum of all. */
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
    *before = sum - x + (warp ? __shfl_sync(~0u, of_warps, warp ? warp - 1 : 0) : 0);
    return __shfl_sync(~0u, of_warps, 31);
}

/* Least and greatest key into s.low, s.high. */
__device__ void range_of(shared &s, uint32_t low, uint32_t high)
{
    low = __reduce_min_sync(~0u, low);
    high = __reduce_max_sync(~0u, high);
    if (threadIdx.x == 0) {
        s.low = ~0u;
        s.high = 0;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        atomicMin(&s.low, low);
        atomicMax(&s.high, high);
    }
    __syncthreads();
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

__device__ uint32_t bin_of(const binning &b, float x)
{
    if (b.per > 0)
        return min((uint32_t)((x - b.from) * b.per), (uint32_t)BINS - 1);
    return (key_of(x) - b.low) >> b.shift;
}

__device__ bool within(const binning &b, uint32_t key)
{
    return key >= b.low && key <= b.high;
}

/* The bin in which the `need` greatest end, how many lie above it and in it. */
__device__ void find_bin(shared &s, const head &h, const binning &b, uint32_t need)
{
    for (uint32_t i = threadIdx.x; i < BINS; i += TOP_THREADS)
        s.bins[i] = 0;
    __syncthreads();
    for (uint32_t p = h.first + threadIdx.x; p < h.end; p += TOP_THREADS) {
        const float x = score_at(h, p);
        if (within(b, key_of(x)))
            atomicAdd(&s.bins[bin_of(b, x)], 1u);
    }
    __syncthreads();
    const uint32_t top = BINS - 1 - 2 * threadIdx.x, x = s.bins[top], y = s.bins[top - 1];
    uint32_t before;
    scan_sum(s, x + y, &before);
    if (before < need && need <= before + x + y) {
        const bool upper = need <= before + x;
        s.bin = upper ? top : top - 1;
        s.above = upper ? before : before + x;
        s.inside = upper ? x : y;
    }
    __syncthreads();
}

/* The candidates of the bin, ranked: number `need` of them is where the list ends. */
__device__ void rank_bin(shared &s, const head &h, const binning &b, uint32_t need)
{
    const uint32_t bin = s.bin, inside = s.inside;
    if (threadIdx.x == 0)
        s.count = 0;
    __syncthreads();
    for (uint32_t p = h.first + threadIdx.x; p < h.end; p += TOP_THREADS) {
        const float x = score_at(h, p);
        const uint32_t key = key_of(x);
        if (within(b, key) && bin_of(b, x) == bin)
            s.ranked[atomicAdd(&s.count, 1u)] = (unsigned long long)key << 32 | (uint32_t)~p;
    }
    __syncthreads();
    if (threadIdx.x < inside) {
        const unsigned long long mine = s.ranked[threadIdx.x];
        uint32_t better = 0;
        for (uint32_t i = 0; i < inside; i++)
            better += s.ranked[i] > mine;
        if (better == need - 1) {
            s.edge_key = (uint32_t)(mine >> 32);
            s.edge_page = ~(uint32_t)mine;
        }
    }
    __syncthreads();
}

/* All that is left is equal: the need-th page of this key, by halving. */
__device__ void rank_equals(shared &s, const head &h, uint32_t key, uint32_t need)
{
    uint32_t low = h.first, high = h.end - 1; /* the page lies in [low, high] */
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        uint32_t mine = 0, before;
        for (uint32_t p = h.first + threadIdx.x; p <= middle; p += TOP_THREADS)
            mine += key_of(score_at(h, p)) == key;
        const uint32_t all = scan_sum(s, mine, &before);
        if (all >= need)
            high = middle;
        else
            low = middle + 1;
    }
    if (threadIdx.x == 0) {
        s.edge_key = key;
        s.edge_page = low;
    }
    __syncthreads();
}

/* Sets the edge: a page is kept when its key is greater, or equal and its number at most edge_page. */
__device__ void find_edge(shared &s, const head &h, uint32_t need)
{
    uint32_t low = ~0u, high = 0;
    for (uint32_t p = h.first + threadIdx.x; p < h.end; p += TOP_THREADS) {
        const uint32_t key = key_of(score_at(h, p));
        low = min(low, key);
        high = max(high, key);
    }
    range_of(s, low, high);
    for (int round = 0;; round++) {
        const binning b = binning_of(s.low, s.high, round);
        if (b.low == b.high) {
            rank_equals(s, h, b.low, need);
            return;
        }
        find_bin(s, h, b, need);
        need -= s.above;
        if (s.inside <= RANKED_MAX) {
            rank_bin(s, h, b, need);
            return;
        }
        const uint32_t bin = s.bin;
        low = ~0u;
        high = 0;
        for (uint32_t p = h.first + threadIdx.x; p < h.end; p += TOP_THREADS) {
            const float x = score_at(h, p);
            const uint32_t key = key_of(x);
            if (within(b, key) && bin_of(b, x) == bin) {
                low = min(low, key);
                high = max(high, key);
            }
        }
        __syncthreads(); /* all have read the range */
        range_of(s, low, high);
    }
}

/* The kept pages in order; each warp has a run of pages. */
__device__ void write_list(shared &s, const head &h, uint32_t *pages)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t run = (h.n + TOP_THREADS - 1) / TOP_THREADS * 32;
    const uint32_t from = warp * run, to = min(from + run, h.n);
    uint32_t kept = 0, at = 0;
    for (int writing = 0; writing < 2; writing++) {
        for (uint32_t p = from; p < to; p += 32) {
            const uint32_t page = p + lane;
            bool keep = page < h.n;
            if (keep && page >= h.first && page < h.end) {
                const uint32_t key = key_of(score_at(h, page));
                keep = key > s.edge_key || (key == s.edge_key && page <= s.edge_page);
            }
            const uint32_t mask = __ballot_sync(~0u, keep);
            if (writing && keep)
                pages[at + __popc(mask & ((1u << lane) - 1))] = page;
            kept += __popc(mask);
            at += writing ? __popc(mask) : 0;
        }
        if (!writing) {
            scan_sum(s, lane ? 0 : kept, &at);
            at = __shfl_sync(~0u, at, 0);
        }
    }
}

__global__ void __launch_bounds__(TOP_THREADS) select_top(params a)
{
    extern __shared__ float cache[];
    __shared__ shared s;
    chain();
    const uint32_t n = full_pages(a), keep = min(a.budget, n), slot = blockIdx.x;
    uint32_t *pages = a.pages + slot * a.stride;
    if (threadIdx.x == 0)
        a.counts[slot] = keep;
    if (keep == n) {
        for (uint32_t p = threadIdx.x; p < n; p += TOP_THREADS)
            pages[p] = p;
        return;
    }
    const uint32_t first = min(a.sink, keep), last = min(a.recent, keep - first), best = keep - first - last;
    const head h = {a.scores + slot * a.max_pages, cache, min(a.cached, n), n, first, n - last};
    for (uint32_t p = threadIdx.x; p < h.cached; p += TOP_THREADS)
        cache[p] = h.scores[p];
    if (threadIdx.x == 0) { /* without a best one: nothing between first and last */
        s.edge_key = ~0u;
        s.edge_page = 0;
    }
    __syncthreads();
    if (best)
        find_edge(s, h, best);
    write_list(s, h, pages);
}

/* ---- launches --------------------------------------------------------------------------------------------
 */

int launch(struct device *d, void (*kernel)(params), dim3 grid, unsigned threads, size_t room,
           const params &a)
{
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = grid;
    how.blockDim = threads;
    how.dynamicSmemBytes = room;
    how.stream = cuda_compute(d);
    how.attrs = &early;
    how.numAttrs = cuda_of(d)->hopper ? 1 : 0;
    cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room);
    if (rc == cudaSuccess)
        rc = cudaLaunchKernelEx(&how, kernel, a);
    cuda_keep(d, rc, "select");
    return rc != cudaSuccess;
}

params params_of(const struct device_select_args *x)
{
    const struct device_kv *kv = x->kv;
    const size_t hr = kv->hr[x->layer], most = kv->cap_blocks * BLOCK_PAGES;
    size_t room = x->scratch_bytes / (sizeof(float) * hr);
    params a = {};
    a.blocks = kv->blocks;
    a.qkv = x->qkv;
    a.step = x->step;
    a.rope_steps = x->rope.steps;
    a.heads = kv->heads + x->layer * kv->HK;
    a.scores = (float *)x->scratch;
    a.pages = x->pages;
    a.counts = x->counts;
    a.ldqkv = x->ldqkv;
    a.scan_bytes = kv->scan_bytes;
    a.first_summary = BLOCK_PAGES * (kv->HR * kv->record_bytes + kv->hr_before[x->layer] * kv->scan_bytes);
    a.stride = x->stride;
    a.max_pages = room < most ? room : most;
    a.hr = (int)hr;
    a.G = (int)(kv->H / kv->HK);
    a.T = (int)x->T;
    a.rope_half = (int)x->rope.half;
    a.rope_halves = x->rope.kind == ROPE_HALVES;
    a.attn_factor = x->rope.attn_factor;
    a.budget = (uint32_t)x->budget;
    a.recent = (uint32_t)(x->recent < x->budget ? x->recent : x->budget);
    a.sink = (uint32_t)(kv->sink_pages ? kv->sink_pages : 1);
    return a;
}

const char *refusal(const struct device_select_args *a)
{
    const struct device_kv *kv = a->kv;
    if (kv->D != 64 && kv->D != 128)
        return "heads of 64 or 128 channels alone";
    if (a->T < 1 || a->T > DEVICE_DECODE_T || kv->H / kv->HK * a->T > COLUMNS_MAX)
        return "too many query heads";
    if (!a->budget || a->budget > UINT32_MAX / 2 || a->stride < a->budget || 2 * a->rope.half > kv->D)
        return "shapes";
    return NULL;
}

} // namespace

size_t cuda_select_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens)
{
    (void)d;
    const size_t most = kv->cap_blocks * BLOCK_PAGES, pages = tokens / KV_PAGE_TOKENS;
    return kv->HK * (pages < most ? pages : most) * sizeof(float);
}

void cuda_select(struct device *d, const struct device_select_args *x)
{
    const char *why = refusal(x);
    if (why) {
        cuda_refuse(d, "select", why);
        return;
    }
    if (!x->kv->hr[x->layer])
        return;
    params a = params_of(x);
    const size_t spare = sizeof(shared) + 2048, room = cuda_of(d)->smem_block - spare;
    const size_t cache = a.max_pages * sizeof(float) < room ? a.max_pages * sizeof(float) : room / 16 * 16;
    a.cached = (uint32_t)(cache / sizeof(float));
    const size_t units = (a.max_pages + BLOCK_PAGES * SCAN_WARPS - 1) / (BLOCK_PAGES * SCAN_WARPS);
    const size_t wide = (size_t)cuda_of(d)->sms * 4 / a.hr + 1;
    const dim3 grid((unsigned)(units < 1 ? 1 : units < wide ? units : wide), (unsigned)a.hr);
    const int wide_head = x->kv->D == 128;
    if (launch(d, wide_head ? select_scan<128> : select_scan<64>, grid, 32 * SCAN_WARPS,
               wide_head ? sizeof(queries<128>) : sizeof(queries<64>), a))
        return;
    launch(d, select_top, dim3((unsigned)a.hr), TOP_THREADS, cache, a);
}
