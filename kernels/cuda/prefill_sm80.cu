/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_sm80.cu - the portable prefill core: mma.sync m16n8k16, cp.async, ldmatrix; prefill_core.h has the
 * contract. Runs on sm_80 and everything after it.
 *
 * A block of 8 warps owns two neighbouring items (64 query rows each) and walks the keys in tiles of one
 * page: the expanded rows in ascending order, then each item's own raw page. A page is seen whole or not at
 * all, but for the causal own page. Two tiles of K and V are in shared memory, rows of D halves whose 16-byte
 * pieces are XORed with the row (so that ldmatrix is free of bank conflicts), behind them the queries; one
 * barrier a tile.
 */
#include "kernels/cuda/prefill_tile.cuh"

enum { WARPS = 8, ITEMS = 2, KEYS = 64, SMS = 108 /* shares of keys fill so many */ };

struct tile80 {
    const __half *k, *v; /* KEYS rows of D */
};

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
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

template <int D> __device__ __forceinline__ void fetch(uint32_t to, const __half *from)
{
#pragma unroll
    for (int i = 0; i < KEYS * (D / 8) / (WARPS * 32); i++) {
        const int n = i * WARPS * 32 + (int)threadIdx.x, r = n / (D / 8), c = n % (D / 8);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + piece_at<D>(r, c)),
                     "l"(from + r * D + c * 8)
                     : "memory");
    }
}

/* Tile t of the block's walk: expanded pages first, then the raw pages from page0 on. */
template <int D>
__device__ __forceinline__ tile80 tile_of(const prefill_core &a, const prefill_item &it, uint32_t page0,
                                          int from, int expanded, int t)
{
    if (t < expanded) {
        const size_t row = (size_t)it.head * a.ld_tokens + (size_t)(from + t) * KEYS;
        return {a.k + row * D, a.v + row * D};
    }
    const uint32_t page = page0 + (uint32_t)(t - expanded);
    const size_t row = (size_t)it.head * a.Tp + (size_t)page * KEYS;
    return {a.k_raw + row * D, a.v_raw + row * D};
}

/* s = q k^T, 16 x 64: row `row` of the q tile on. */
template <int D>
__device__ __forceinline__ void scores(float (&s)[KEYS / 2], uint32_t q, uint32_t k, int row, int lane)
{
    float c[KEYS / 8][4] = {};
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t a[4];
        load_matrices<false>(a, q + piece_at<D>(row + (lane & 15), 2 * d + (lane >> 4)));
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t b[4];
            load_matrices<false>(
                b, k + piece_at<D>(16 * n + (lane >> 4) * 8 + (lane & 7), 2 * d + ((lane >> 3) & 1)));
            mma_16816(c[2 * n], a, b[0], b[1]);
            mma_16816(c[2 * n + 1], a, b[2], b[3]);
        }
    }
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++)
        s[i] = c[i / 4][i % 4];
}

/* o += p v. */
template <int D>
__device__ __forceinline__ void values(prefill_state<D> &st, const uint32_t (&p)[KEYS / 4], uint32_t v,
                                       int lane)
{
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        float c[2][4];
#pragma unroll
        for (int i = 0; i < 8; i++)
            c[i / 4][i % 4] = st.o[8 * d + i];
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            const uint32_t pa[4] = {p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3]};
            uint32_t b[4];
            load_matrices<true>(
                b, v + piece_at<D>(16 * k + ((lane >> 3) & 1) * 8 + (lane & 7), 2 * d + (lane >> 4)));
            mma_16816(c[0], pa, b[0], b[1]);
            mma_16816(c[1], pa, b[2], b[3]);
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            st.o[8 * d + i] = c[i / 4][i % 4];
    }
}

template <int D>
__device__ __forceinline__ void step80(prefill_state<D> &st, uint32_t q, uint32_t k, uint32_t v, bool causal,
                                       int row, int lane)
{
    float s[KEYS / 2], alpha[2];
    uint32_t p[KEYS / 4];
    scores<D>(s, q, k, row, lane);
    if (causal) {
        const int hi[2] = {row + (lane >> 2), row + (lane >> 2) + 8};
        prefill_mask<KEYS>(s, 0, hi, lane);
    }
    if (prefill_softmax<KEYS>(s, st.m, st.l, alpha))
        prefill_rescale<D>(st, alpha);
    prefill_weights<KEYS>(p, s);
    values<D>(st, p, v, lane);
}

template <int D>
__global__ void __launch_bounds__(WARPS * 32, 1)
    prefill_mma(const __grid_constant__ prefill_core a, const __grid_constant__ prefill_split split)
{
    extern __shared__ __align__(128) uint8_t smem[];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, row = warp % 4 * 16;
    const uint32_t first = (gridDim.x - 1 - blockIdx.x) * ITEMS; /* the longest first */
    const prefill_item it = prefill_item_of(a, blockIdx.y, first + (uint32_t)warp / 4);
    const prefill_item low = prefill_item_of(a, blockIdx.y, first),
                       high = prefill_item_of(a, blockIdx.y, first + 1);
    const int all = (int)(high.visible / KEYS), share = (all + (int)split.parts - 1) / (int)split.parts;
    const int from = min(all, share * (int)blockIdx.z), expanded = min(all - from, share);
    const int mine = (int)(it.visible / KEYS) - from;
    const bool raws = a.last && blockIdx.z + 1 == split.parts;
    const int tiles = expanded + (raws ? (int)(high.page - low.page) + 1 : 0);
    const uint32_t stage = KEYS * D * 2, base = shared_address(smem), queries = base + 4 * stage;
    const uint32_t q = queries + (uint32_t)warp / 4 * stage;
    prefill_state<D> st;
    fetch<D>(queries, a.q + low.row * D);
    fetch<D>(queries + stage, a.q + high.row * D);
    prefill_state_begin<D>(st, a, split, it, row, lane);
    for (int t = 0; t <= tiles; t++) {
        if (t > 0) {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
            __syncthreads();
        }
        if (t < tiles) { /* into the half that everyone left before the barrier */
            const tile80 next = tile_of<D>(a, it, low.page, from, expanded, t);
            fetch<D>(base + (uint32_t)(t & 1) * 2 * stage, next.k);
            fetch<D>(base + (uint32_t)(t & 1) * 2 * stage + stage, next.v);
            asm volatile("cp.async.commit_group;" ::: "memory");
        }
        if (t == 0)
            continue;
        const uint32_t k = base + (uint32_t)((t - 1) & 1) * 2 * stage;
        const bool raw = t - 1 >= expanded;
        if (raw ? low.page + (uint32_t)(t - 1 - expanded) == it.page : t - 1 < mine)
            step80<D>(st, q, k, k + stage, raw, row, lane);
    }
    prefill_state_end<D>(st, a, split, it, row, lane);
}

template <int D> static cudaError_t launch80(const prefill_core *a, cudaStream_t stream)
{
    const int bytes = 6 * KEYS * D * 2;
    const cudaError_t rc =
        cudaFuncSetAttribute(prefill_mma<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (rc != cudaSuccess)
        return rc;
    const prefill_split split = prefill_split_of(*a, ITEMS, KEYS, SMS);
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
