/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_sm80.cu - the portable prefill core: mma.sync m16n8k16, cp.async, ldmatrix; prefill_core.h has the
 * contract. Runs on sm_80 and everything after it.
 *
 * A block of 4 warps owns two neighbouring items (64 query rows each, 32 a warp) and walks the keys in tiles
 * of a page or half of one: the expanded rows in ascending order, then each item's own raw page. A page is
 * seen whole or not at all, but for the causal own page. One tile of K and one of V are in shared memory: V
 * of a tile comes while its scores are made, K of the next while V is used; two blocks share a
 * multiprocessor. Rows of D halves have their 16-byte pieces XORed with the row, so that ldmatrix is free of
 * bank conflicts.
 */
#include "kernels/cuda/prefill_tile.cuh"

enum {
    WARPS = 4,
    ITEMS = 2,
    SLABS = 2,      /* of 16 rows a warp */
    SLOTS = 2 * 108 /* blocks that fill a card: shares of keys are cut for so many */
};

/* Keys of a tile: what registers have room for beside 32 rows of output. */
template <int D> constexpr int keys_of = D == 128 ? 32 : 64;

struct tile80 {
    const __half *k, *v; /* keys_of<D> rows of D */
};

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void mma_16816(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <bool TRANS> __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t at)
{
    if constexpr (TRANS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
}

/* Byte offset of 16-byte piece c of row r. */
template <int D> __device__ __forceinline__ uint32_t piece_at(int r, int c)
{
    return (uint32_t)((r * (D / 8) + (c ^ (r & 7))) * 16);
}

/* ROWS rows of D to shared memory. */
template <int D, int ROWS> __device__ __forceinline__ void fetch(uint32_t to, const __half *from)
{
#pragma unroll
    for (int i = 0; i < ROWS * (D / 8) / (WARPS * 32); i++) {
        const int n = i * WARPS * 32 + (int)threadIdx.x, r = n / (D / 8), c = n % (D / 8);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + piece_at<D>(r, c)),
                     "l"(from + r * D + c * 8)
                     : "memory");
    }
}

/* Tile t of the block's walk: `expanded` tiles from number `from` on, then the raw pages from page0 on. */
template <int D>
__device__ __forceinline__ tile80 tile_of(const prefill_core &a, uint32_t page0, int from, int expanded,
                                          int t)
{
    constexpr int KEYS = keys_of<D>;
    if (t < expanded) {
        const size_t row = (size_t)blockIdx.y * a.ld_tokens + (size_t)(from + t) * KEYS;
        return {a.k + row * D, a.v + row * D};
    }
    const size_t row =
        (size_t)blockIdx.y * a.Tp + (size_t)page0 * PREFILL_PAGE + (size_t)(t - expanded) * KEYS;
    return {a.k_raw + row * D, a.v_raw + row * D};
}

/* s = q k^T for 32 rows, row `row` of the q tile on. */
template <int D>
__device__ __forceinline__ void scores(float (&s)[SLABS][keys_of<D> / 2], uint32_t q, uint32_t k, int row,
                                       int lane)
{
    constexpr int KEYS = keys_of<D>;
#pragma unroll
    for (int i = 0; i < SLABS * KEYS / 2; i++)
        s[i / (KEYS / 2)][i % (KEYS / 2)] = 0.0f;
#pragma unroll 4 /* whole, it would keep too many addresses in registers */
    for (int d = 0; d < D / 16; d++) {
        uint32_t a[SLABS][4];
#pragma unroll
        for (int m = 0; m < SLABS; m++)
            load_matrices<false>(a[m], q + piece_at<D>(row + 16 * m + (lane & 15), 2 * d + (lane >> 4)));
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t b[4];
            load_matrices<false>(
                b, k + piece_at<D>(16 * n + (lane >> 4) * 8 + (lane & 7), 2 * d + ((lane >> 3) & 1)));
#pragma unroll
            for (int m = 0; m < SLABS; m++) {
                mma_16816(s[m] + 8 * n, a[m], b[0], b[1]);
                mma_16816(s[m] + 8 * n + 4, a[m], b[2], b[3]);
            }
        }
    }
}

/* o += p v. */
template <int D>
__device__ __forceinline__ void values(prefill_state<D> (&st)[SLABS],
                                       const uint32_t (&p)[SLABS][keys_of<D> / 4], uint32_t v, int lane)
{
#pragma unroll
    for (int k = 0; k < keys_of<D> / 16; k++)
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            uint32_t b[4];
            load_matrices<true>(
                b, v + piece_at<D>(16 * k + ((lane >> 3) & 1) * 8 + (lane & 7), 2 * d + (lane >> 4)));
#pragma unroll
            for (int m = 0; m < SLABS; m++) {
                mma_16816(st[m].o + 8 * d, p[m] + 4 * k, b[0], b[1]);
                mma_16816(st[m].o + 8 * d + 4, p[m] + 4 * k, b[2], b[3]);
            }
        }
}

/* Scores to weights for a warp's rows. own: the tile's first row in their own page, -1: an earlier page. */
template <int D>
__device__ __forceinline__ void weights(prefill_state<D> (&st)[SLABS], float (&s)[SLABS][keys_of<D> / 2],
                                        uint32_t (&p)[SLABS][keys_of<D> / 4], int own, int row, int lane)
{
    constexpr int KEYS = keys_of<D>;
#pragma unroll
    for (int m = 0; m < SLABS; m++) {
        float alpha[2];
        if (own >= 0) {
            const int top = row + 16 * m + (lane >> 2) - own, hi[2] = {top, top + 8};
            prefill_mask<KEYS>(s[m], 0, hi, lane);
        }
        if (prefill_softmax<KEYS>(s[m], st[m].m, st[m].l, alpha))
            prefill_rescale<D>(st[m], alpha);
        prefill_weights<KEYS>(p[m], s[m]);
    }
}

/* All copies of this thread are done, and everybody's. */
__device__ __forceinline__ void arrived()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
}

template <int D>
__global__ void __launch_bounds__(WARPS * 32, 2)
    prefill_mma(const __grid_constant__ prefill_core a, const __grid_constant__ prefill_split split)
{
    constexpr int KEYS = keys_of<D>;
    constexpr uint32_t TILE = KEYS * D * 2, PAGE = PREFILL_PAGE * D * 2; /* bytes */
    extern __shared__ __align__(128) uint8_t smem[];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, row = warp % 2 * 32;
    const uint32_t first = (gridDim.x - 1 - blockIdx.x) * ITEMS; /* the longest first */
    const prefill_item it = prefill_item_of(a, blockIdx.y, first + (uint32_t)warp / 2);
    const prefill_item low = prefill_item_of(a, blockIdx.y, first),
                       high = prefill_item_of(a, blockIdx.y, first + 1);
    const int all = (int)(high.visible / KEYS), share = (all + (int)split.parts - 1) / (int)split.parts;
    const int from = min(all, share * (int)blockIdx.z), expanded = min(all - from, share);
    const int mine = (int)(it.visible / KEYS) - from, page = (int)(it.page - low.page);
    const bool raws = a.last && blockIdx.z + 1 == split.parts;
    const int tiles = expanded + (raws ? (int)(high.page - low.page + 1) * (PREFILL_PAGE / KEYS) : 0);
    const uint32_t k = shared_address(smem), v = k + TILE, q = v + TILE;
    prefill_state<D> st[SLABS];
    fetch<D, PREFILL_PAGE>(q, a.q + low.row * D);
    fetch<D, PREFILL_PAGE>(q + PAGE, a.q + high.row * D);
#pragma unroll
    for (int m = 0; m < SLABS; m++)
        prefill_state_begin<D>(st[m], a, split, it, row + 16 * m, lane);
    if (tiles)
        fetch<D, KEYS>(k, tile_of<D>(a, low.page, from, expanded, 0).k);
    for (int t = 0; t < tiles; t++) {
        const int raw = t - expanded, own = raw < 0 ? -1 : raw * KEYS % PREFILL_PAGE;
        const bool seen = raw < 0 ? t < mine : raw * KEYS / PREFILL_PAGE == page;
        float s[SLABS][KEYS / 2];
        uint32_t p[SLABS][KEYS / 4];
        arrived();
        fetch<D, KEYS>(v, tile_of<D>(a, low.page, from, expanded, t).v);
        if (seen) {
            scores<D>(s, q + (uint32_t)(warp / 2) * PAGE, k, row, lane);
            weights<D>(st, s, p, own, row, lane);
        }
        arrived();
        if (t + 1 < tiles)
            fetch<D, KEYS>(k, tile_of<D>(a, low.page, from, expanded, t + 1).k);
        if (seen)
            values<D>(st, p, v, lane);
    }
    uint32_t item = first + (uint32_t)warp / 2;
    asm volatile("" : "+r"(item)); /* looked up anew: the loop has no registers to keep it in */
    const prefill_item end = prefill_item_of(a, blockIdx.y, item);
#pragma unroll
    for (int m = 0; m < SLABS; m++)
        prefill_state_end<D>(st[m], a, split, end, row + 16 * m, lane);
}

template <int D> static cudaError_t launch80(const prefill_core *a, cudaStream_t stream)
{
    const int bytes = (2 * keys_of<D> + ITEMS * PREFILL_PAGE) * D * 2;
    const cudaError_t rc =
        cudaFuncSetAttribute(prefill_mma<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (rc != cudaSuccess)
        return rc;
    const prefill_split split = prefill_split_of(*a, ITEMS, keys_of<D>, SLOTS);
    const dim3 grid((unsigned)((prefill_items(*a) + ITEMS - 1) / ITEMS), (unsigned)a->heads, split.parts);
    prefill_mma<D><<<grid, WARPS * 32, (size_t)bytes, stream>>>(*a, split);
    const cudaError_t launched = cudaGetLastError();
    return launched == cudaSuccess ? prefill_join_parts(*a, split, stream) : launched;
}

cudaError_t prefill_core_sm80(const struct prefill_core *a, cudaStream_t stream)
{
    const cudaError_t rc = prefill_check(a);
    if (rc != cudaSuccess)
        return rc;
    return a->D == 64 ? launch80<64>(a, stream) : launch80<128>(a, stream);
}
