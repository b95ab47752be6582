/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_sm90.cu - the prefill core on Hopper: bulk tensor copies, warpgroup products; prefill_core.h has
 * the contract.
 *
 * A block owns GROUPS neighbouring items (64 query rows each), one a consumer warpgroup, which holds its
 * queries in registers; they share the tiles of N keys. Warpgroup 0 is the producer: one thread of it keeps
 * STAGES tiles of K and of V in flight. Every consumer walks the same tiles: first the raw rows of the items'
 * own pages, then the expanded ones from the end backwards, so that whatever needs a mask comes first. While
 * the tensor cores work on q k^T of tile j and on p v of tile j - 1, the other consumer does its softmax: a
 * token (a named barrier) goes round, so that consumers issue their products in turn. The softmax looks for
 * no maximum (see `weigh`).
 *
 *   shared memory: K stages [D / 64][N][64] | V stages [D / 64][N][64] | barriers; 128-byte swizzle
 *
 * FLOP: 4 * D for each pair of a query row and a key. Limit: the tensor cores, 4,096 FLOP a clock and SM; a
 * tile of 128 x 128 at D = 128 is 2,048 clocks of products beside 1,024 clocks of exponentials. One H100
 * (8,192 rows, 16 query heads, D = 128): 744 TFLOP/s over 16,384 earlier tokens, 672 in the long run, when
 * the card's power is the limit; the tensor cores are busy 90 % of the time. D = 64: 547.
 */
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/prefill_tile.cuh"

enum { SMS = 132 /* shares of keys fill so many */ };

template <int D_, int N_, int GROUPS_> struct shape90 {
    static constexpr int D = D_, N = N_, GROUPS = GROUPS_, STAGES = 3, THREADS = (GROUPS + 1) * 128;
    static constexpr uint32_t TILE = N * D * 2; /* bytes */
    static constexpr uint32_t V_AT = STAGES * TILE, BARS_AT = 2 * STAGES * TILE;
    static constexpr uint32_t BYTES = BARS_AT + 8 * (4 * STAGES) + 1024; /* 1,024: to align the start */
    static constexpr int REGS_PRODUCER = 24, REGS_CONSUMER = 240; /* of 65,536 / THREADS each at the start */
    static_assert(GROUPS == 2, "registers are dealt out for two consumers");
};

struct maps90 {
    CUtensorMap k, v, k_raw, v_raw;
};

/* Shared memory addresses of a block. */
template <class S> struct smem90 {
    uint32_t base;
    __device__ uint32_t k(int stage) const { return base + (uint32_t)stage * S::TILE; }
    __device__ uint32_t v(int stage) const { return base + S::V_AT + (uint32_t)stage * S::TILE; }
    __device__ uint32_t k_full(int stage) const { return base + S::BARS_AT + 8 * (uint32_t)stage; }
    __device__ uint32_t v_full(int stage) const { return k_full(S::STAGES + stage); }
    __device__ uint32_t k_free(int stage) const { return k_full(2 * S::STAGES + stage); }
    __device__ uint32_t v_free(int stage) const { return k_full(3 * S::STAGES + stage); }
};

/* The tiles of a block: `raw` of own pages from page0 on, then `expanded` ones from number `last` down. */
struct walk90 {
    uint32_t head, first, page0;
    int raw, expanded, last;
};

template <class S>
__device__ __forceinline__ walk90 walk_of(const prefill_core &a, const prefill_split &split)
{
    walk90 w;
    w.head = blockIdx.y;
    w.first = (gridDim.x - 1 - blockIdx.x) * S::GROUPS; /* the longest first */
    const prefill_item low = prefill_item_of(a, w.head, w.first);
    const prefill_item high = prefill_item_of(a, w.head, w.first + S::GROUPS - 1);
    w.page0 = low.page;
    const bool raws = a.last && blockIdx.z + 1 == split.parts;
    w.raw = raws ? (int)((high.page - low.page + 1) * PREFILL_PAGE + S::N - 1) / S::N : 0;
    const int all = (int)((high.visible + S::N - 1) / S::N), parts = (int)split.parts;
    const int share = (all + parts - 1) / parts, from = min(all, share * (int)blockIdx.z);
    w.expanded = min(all - from, share);
    w.last = from + w.expanded - 1;
    return w;
}

/* A tile of one kind (K or V) to shared memory: D / 64 boxes of N rows. */
template <class S>
__device__ __forceinline__ void load_tile(uint32_t to, uint32_t bar, const walk90 &w, const CUtensorMap *raw,
                                          const CUtensorMap *expanded, int j)
{
    const bool own = j < w.raw;
    const CUtensorMap *map = own ? raw : expanded;
    const int row = own ? (int)w.page0 * PREFILL_PAGE + j * S::N : (w.last + w.raw - j) * S::N;
    hopper_expect(bar, S::TILE);
#pragma unroll
    for (int d = 0; d < S::D / 64; d++)
        hopper_copy(to + (uint32_t)d * S::N * 128, map, 64 * d, row, (int)w.head, bar);
}

/* One thread: K of tile j before V of tile j - 1, as the consumers want them. */
template <class S>
__device__ __forceinline__ void produce(const smem90<S> &sm, const maps90 &maps, const walk90 &w)
{
    const int tiles = w.raw + w.expanded;
    for (int j = 0; j <= tiles; j++) {
        if (j < tiles) {
            const int s = j % S::STAGES;
            hopper_wait(sm.k_free(s),
                        ((uint32_t)(j / S::STAGES) & 1) ^ 1); /* the first use waits for nothing */
            load_tile<S>(sm.k(s), sm.k_full(s), w, &maps.k_raw, &maps.k, j);
        }
        if (j > 0) {
            const int s = (j - 1) % S::STAGES;
            hopper_wait(sm.v_free(s), ((uint32_t)((j - 1) / S::STAGES) & 1) ^ 1);
            load_tile<S>(sm.v(s), sm.v_full(s), w, &maps.v_raw, &maps.v, j - 1);
        }
    }
}

/* 16 query rows as the A operand of products, straight from global memory. */
template <int D> __device__ __forceinline__ void load_q(uint32_t (&q)[D / 4], const __half *rows, int lane)
{
    const __half *at = rows + (lane >> 2) * D + 2 * (lane & 3);
#pragma unroll
    for (int i = 0; i < D / 4; i++)
        q[i] = *(const uint32_t *)(at + (i & 1) * 8 * D + i / 4 * 16 + (i >> 1 & 1) * 8);
}

/* s = q k^T of this warpgroup, one group of products. */
template <class S>
__device__ __forceinline__ void issue_scores(float (&s)[S::N / 2], const uint32_t (&q)[S::D / 4], uint64_t k)
{
    hopper_product<S::N, true>(s, q[0], q[1], q[2], q[3], k);
#pragma unroll
    for (int i = 1; i < S::D / 16; i++) /* 16-byte units: a block of 64 columns, then 32 bytes a step */
        hopper_product<S::N, false>(s, q[4 * i], q[4 * i + 1], q[4 * i + 2], q[4 * i + 3],
                                    k + (uint32_t)(i / 4) * S::N * 8 + 2 * (uint32_t)(i % 4));
    hopper_products_commit();
}

/* The same of this warp alone, by the older products: its 16 rows, once more. */
template <class S>
__device__ __forceinline__ void scores_again(float (&s)[S::N / 2], const uint32_t (&q)[S::D / 4], uint32_t k,
                                             int lane)
{
    /* row r of 128 bytes, its piece c at c ^ (r & 7): later columns flip bits 5 and 6 */
    const uint32_t r = (uint32_t)(lane >> 4) * 8 + (uint32_t)(lane & 7);
    const uint32_t row_at = r * 128 + (((uint32_t)lane >> 3 & 1) ^ (r & 7)) * 16;
#pragma unroll
    for (int n = 0; n < S::N / 16; n++) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            s[8 * n + i] = 0.0f;
#pragma unroll
        for (int i = 0; i < S::D / 16; i++) {
            uint32_t b[4];
            hopper_load_matrices(b, k + (uint32_t)(i / 4 * S::N * 128 + 16 * n * 128) +
                                        (row_at ^ (uint32_t)(i % 4 * 32)));
            hopper_warp_product(s + 8 * n, q + 4 * i, b[0], b[1]);
            hopper_warp_product(s + 8 * n + 4, q + 4 * i, b[2], b[3]);
        }
    }
}

/* o += p v, one group of products. */
template <class S>
__device__ __forceinline__ void issue_values(float (&o)[S::D / 2], const uint32_t (&p)[S::N / 4], uint64_t v)
{
#pragma unroll
    for (int i = 0; i < S::N / 16; i++)
        hopper_product_rows<S::D>(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3],
                                  v + 128u * (uint32_t)i);
    hopper_products_commit();
}

/* What a warp sees of the walk: of raw tiles its page begins at column `page`, of tile j of the expanded ones
 * it sees seen + j * N columns. row: of the warp's lane inside the page. */
struct view90 {
    int raw, page, seen, row;
};

/* Hides what the rows do not see of tile j. */
template <class S>
__device__ __forceinline__ void hide(float (&s)[S::N / 2], const view90 &v, int j, int lane)
{
    if (j < v.raw) {
        const int page = v.page - j * S::N, hi[2] = {page + v.row, page + v.row + 8};
        prefill_mask<S::N>(s, page, hi, lane);
        return;
    }
    const int seen = v.seen + j * S::N;
    if (seen < S::N) {
        const int hi[2] = {seen - 1, seen - 1};
        prefill_mask<S::N>(s, 0, hi, lane);
    }
}

/* Weights of a tile without a look at its greatest score: 2^(s - m) with m as it is. If a row's sum says that
 * one may be too great for fp16 (or m is not known yet), the warp makes its scores once more and does it by
 * the book. Returns whether o must be rescaled. */
template <class S>
__device__ __forceinline__ bool weigh(float (&s)[S::N / 2], prefill_state<S::D> &st, float (&alpha)[2],
                                      const uint32_t (&q)[S::D / 4], uint32_t k, const view90 &v, int j,
                                      int lane)
{
    float sum[2][2] = {};
    hide<S>(s, v, j, lane);
#pragma unroll
    for (int i = 0; i < S::N / 2; i++) {
        s[i] = prefill_exp2(s[i] - st.m[i >> 1 & 1]);
        sum[i >> 1 & 1][i & 1] += s[i];
    }
    const float all[2] = {sum[0][0] + sum[0][1], sum[1][0] + sum[1][1]};
    const bool fine = fmaxf(all[0], all[1]) < 32768.0f && fminf(st.m[0], st.m[1]) > -CUDART_INF_F &&
                      all[0] == all[0] && all[1] == all[1];
    if (__all_sync(0xffffffffu, fine)) {
        st.l[0] += all[0];
        st.l[1] += all[1];
        return false;
    }
    scores_again<S>(s, q, k, lane);
    hide<S>(s, v, j, lane);
    return prefill_softmax<S::N>(s, st.m, st.l, alpha);
}

/* The weights of tile 0, by the book. K of tile 1 is there when it is done. */
template <class S>
__device__ __forceinline__ void first_tile(const smem90<S> &sm, prefill_state<S::D> &st, float (&s)[S::N / 2],
                                           uint32_t (&p)[S::N / 4], const uint32_t (&q)[S::D / 4],
                                           const view90 &v, int tiles, int lane)
{
    float alpha[2];
    hopper_wait(sm.k_full(0), 0);
    hopper_products_begin();
    issue_scores<S>(s, q, hopper_operand(sm.k(0)));
    hopper_products_wait<0>();
    hopper_hold(s);
    if (lane == 0)
        hopper_arrive(sm.k_free(0));
    hide<S>(s, v, 0, lane);
    if (prefill_softmax<S::N>(s, st.m, st.l, alpha))
        prefill_rescale<S::D>(st, alpha);
    prefill_weights<S::N>(p, s);
    if (tiles > 1)
        hopper_wait(sm.k_full(1), 0);
}

template <class S>
__device__ __forceinline__ void consume(const smem90<S> &sm, const prefill_core &a,
                                        const prefill_split &split, const walk90 &w, int group)
{
    const int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 % 4 * 16, tiles = w.raw + w.expanded;
    const prefill_item it = prefill_item_of(a, w.head, w.first + (uint32_t)group);
    const view90 v = {w.raw, (int)(it.page - w.page0) * PREFILL_PAGE,
                      (int)it.visible - (w.last + w.raw) * S::N, row + (lane >> 2)};
    const int mine = 1 + group, next = 1 + (group + 1) % S::GROUPS;
    prefill_state<S::D> st;
    float s[S::N / 2], alpha[2];
    uint32_t p[S::N / 4], q[S::D / 4];
    prefill_state_begin<S::D>(st, a, split, it, row, lane);
    load_q<S::D>(q, a.q + (it.row + (size_t)row) * S::D, lane);
    if (tiles) {
        if (group == S::GROUPS - 1)
            hopper_named_arrive(1, 256);
        first_tile<S>(sm, st, s, p, q, v, tiles, lane);
        for (int j = 1, ks = 1, vs = 0, kp = 0, vp = 0; j < tiles; j++) {
            hopper_named_wait(mine, 256);
            hopper_products_begin();
            issue_scores<S>(s, q, hopper_operand(sm.k(ks)));
            hopper_wait(sm.v_full(vs), (uint32_t)vp);
            issue_values<S>(st.o, p, hopper_operand_rows(sm.v(vs), S::N * 128));
            hopper_named_arrive(next, 256);
            hopper_products_wait<1>();
            hopper_hold(s);
            const bool grown = weigh<S>(s, st, alpha, q, sm.k(ks), v, j, lane);
            if (lane == 0)
                hopper_arrive(sm.k_free(ks));
            ks = ks + 1 < S::STAGES ? ks + 1 : 0;
            kp ^= ks == 0;
            if (j + 1 < tiles) /* here, so that the softmax is not moved behind the wait for p v */
                hopper_wait(sm.k_full(ks), (uint32_t)kp);
            hopper_products_wait<0>();
            hopper_hold(st.o);
            hopper_hold(s); /* p is still being read until here */
            if (lane == 0)
                hopper_arrive(sm.v_free(vs));
            vs = vs + 1 < S::STAGES ? vs + 1 : 0;
            vp ^= vs == 0;
            if (grown)
                prefill_rescale<S::D>(st, alpha);
            prefill_weights<S::N>(p, s);
        }
        const int vs = (tiles - 1) % S::STAGES;
        hopper_wait(sm.v_full(vs), (uint32_t)((tiles - 1) / S::STAGES) & 1);
        hopper_products_begin();
        issue_values<S>(st.o, p, hopper_operand_rows(sm.v(vs), S::N * 128));
        hopper_products_wait<0>();
        hopper_hold(st.o);
    }
    uint32_t item = w.first + (uint32_t)group;
    asm volatile("" : "+r"(item)); /* looked up anew: the loop has no registers to keep it in */
    prefill_state_end<S::D>(st, a, split, prefill_item_of(a, w.head, item), row, lane);
}

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1)
    prefill_wgmma(const __grid_constant__ maps90 maps, const __grid_constant__ prefill_core a,
                  const __grid_constant__ prefill_split split)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t smem[];
    const smem90<S> sm = {(hopper_shared(smem) + 1023) & ~1023u};
    const walk90 w = walk_of<S>(a, split);
    const int role = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        for (int s = 0; s < S::STAGES; s++) {
            hopper_barrier_init(sm.k_full(s), 1);
            hopper_barrier_init(sm.v_full(s), 1);
            hopper_barrier_init(sm.k_free(s), S::GROUPS * 4); /* one of each warp */
            hopper_barrier_init(sm.v_free(s), S::GROUPS * 4);
        }
        hopper_barrier_init_done();
    }
    __syncthreads();
    if (role == 0) {
        hopper_registers_less<S::REGS_PRODUCER>();
        if (threadIdx.x == 0)
            produce<S>(sm, maps, w);
    } else {
        hopper_registers_more<S::REGS_CONSUMER>();
        consume<S>(sm, a, split, w, role - 1);
    }
#endif
}

typedef CUresult encode_fn(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                           const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                           CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* [planes][apart][D] halfs, of which `rows` of each plane exist; boxes of box_rows x 64. No rows: left alone.
 */
static cudaError_t map_of(encode_fn *encode, CUtensorMap *map, const __half *at, int D, size_t rows,
                          size_t apart, size_t planes, int box_rows)
{
    if (!rows)
        return cudaSuccess;
    const cuuint64_t dims[3] = {(cuuint64_t)D, rows, planes};
    const cuuint64_t strides[2] = {(cuuint64_t)D * 2, (cuuint64_t)D * 2 * apart};
    const cuuint32_t box[3] = {64, (cuuint32_t)box_rows, 1}, step[3] = {1, 1, 1};
    const CUresult rc = encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, (void *)at, dims, strides, box, step,
                               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return rc == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <class S> static cudaError_t launch90(encode_fn *encode, const prefill_core *a, cudaStream_t stream)
{
    const size_t heads = (size_t)a->heads, raw = a->last ? a->Tp : 0;
    maps90 maps = {};
    cudaError_t rc = map_of(encode, &maps.k, a->k, S::D, a->tokens, a->ld_tokens, heads, S::N);
    if (rc == cudaSuccess)
        rc = map_of(encode, &maps.v, a->v, S::D, a->tokens, a->ld_tokens, heads, S::N);
    if (rc == cudaSuccess)
        rc = map_of(encode, &maps.k_raw, a->k_raw, S::D, raw, a->Tp, heads, S::N);
    if (rc == cudaSuccess)
        rc = map_of(encode, &maps.v_raw, a->v_raw, S::D, raw, a->Tp, heads, S::N);
    if (rc == cudaSuccess)
        rc = cudaFuncSetAttribute(prefill_wgmma<S>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)S::BYTES);
    if (rc != cudaSuccess)
        return rc;
    const prefill_split split = prefill_split_of(*a, S::GROUPS, S::N, SMS);
    const dim3 grid((unsigned)((prefill_items(*a) + S::GROUPS - 1) / S::GROUPS), (unsigned)a->heads,
                    split.parts);
    prefill_wgmma<S><<<grid, S::THREADS, S::BYTES, stream>>>(maps, *a, split);
    rc = cudaGetLastError();
    return rc == cudaSuccess ? prefill_join_parts(*a, split, stream) : rc;
}

cudaError_t prefill_core_sm90(const struct prefill_core *a, cudaStream_t stream)
{
    cudaError_t rc = prefill_check(a);
    void *encode = NULL;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    if (rc == cudaSuccess)
        rc = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault,
                                              &found);
    if (rc != cudaSuccess)
        return rc;
    if (found != cudaDriverEntryPointSuccess || !encode)
        return cudaErrorNotSupported;
    return a->D == 64 ? launch90<shape90<64, 192, 2>>((encode_fn *)encode, a, stream)
                      : launch90<shape90<128, 128, 2>>((encode_fn *)encode, a, stream);
}
