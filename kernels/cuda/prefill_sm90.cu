/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_sm90.cu - the prefill core on Hopper: bulk tensor copies, warpgroup products; prefill_core.h has
 * the contract.
 *
 * A block owns GROUPS neighbouring items (64 query rows each), one a consumer warpgroup; they share the tiles
 * of N keys. Warpgroup 0 is the producer: one thread of it keeps STAGES tiles of K and of V in flight. Every
 * consumer walks the same tiles: first the raw rows of the items' own pages, then the expanded ones from the
 * end backwards, so that whatever needs a mask comes first. While the tensor cores work on q k^T of tile j
 * and on p v of tile j - 1, the other consumer does its softmax: a token (a named barrier) goes round, so
 * that consumers issue their products in turn.
 *
 *   shared memory: q [GROUPS][D / 64][64] | K stages [D / 64][N] | V stages [D / 64][N] | barriers, rows of
 * 64 halfs, 128-byte swizzle
 *
 * FLOP: 4 * D for each pair of a query row and a key. Limit: the tensor cores, 4,096 FLOP a clock and SM; a
 * tile of 128 x 128 at D = 128 is 2,048 clocks of products beside 1,024 clocks of exponentials.
 */
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/prefill_tile.cuh"

enum { SMS = 132 /* shares of keys fill so many */ };

template <int D_, int N_, int GROUPS_> struct shape90 {
    static constexpr int D = D_, N = N_, GROUPS = GROUPS_, STAGES = 2, THREADS = (GROUPS + 1) * 128;
    static constexpr uint32_t Q = 64 * D * 2, TILE = N * D * 2; /* bytes */
    static constexpr uint32_t K_AT = GROUPS * Q, V_AT = K_AT + STAGES * TILE, BARS_AT = V_AT + STAGES * TILE;
    static constexpr uint32_t BYTES = BARS_AT + 8 * (1 + 4 * STAGES) + 1024; /* 1,024: to align the start */
    /* 65,536 registers: the producer's 128 threads at 24 or 32, the rest the consumers' */
    static constexpr int REGS_PRODUCER = GROUPS == 2 ? 24 : 32, REGS_CONSUMER = GROUPS == 2 ? 240 : 160;
};

struct maps90 {
    CUtensorMap q, k, v, k_raw, v_raw;
};

/* Shared memory addresses of a block. */
template <class S> struct smem90 {
    uint32_t base;
    __device__ uint32_t q(int group) const { return base + (uint32_t)group * S::Q; }
    __device__ uint32_t k(int stage) const { return base + S::K_AT + (uint32_t)stage * S::TILE; }
    __device__ uint32_t v(int stage) const { return base + S::V_AT + (uint32_t)stage * S::TILE; }
    __device__ uint32_t q_full() const { return base + S::BARS_AT; }
    __device__ uint32_t k_full(int stage) const { return base + S::BARS_AT + 8 + 8 * (uint32_t)stage; }
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

/* One thread: q once, then K of tile j before V of tile j - 1, as the consumers want them. */
template <class S>
__device__ __forceinline__ void produce(const smem90<S> &sm, const maps90 &maps, const prefill_core &a,
                                        const walk90 &w)
{
    const int tiles = w.raw + w.expanded;
    if (!tiles)
        return;
    hopper_expect(sm.q_full(), S::GROUPS * S::Q);
    for (int g = 0; g < S::GROUPS; g++) {
        const prefill_item it = prefill_item_of(a, w.head, w.first + (uint32_t)g);
        for (int d = 0; d < S::D / 64; d++)
            hopper_copy(sm.q(g) + (uint32_t)d * 64 * 128, &maps.q, 64 * d, (int)(it.page * PREFILL_PAGE),
                        (int)(w.head * (uint32_t)a.G + it.g), sm.q_full());
    }
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

/* s = q k^T of this warpgroup, one group of products. */
template <class S> __device__ __forceinline__ void issue_scores(float (&s)[S::N / 2], uint64_t q, uint64_t k)
{
    hopper_product<S::N, true>(s, q, k);
#pragma unroll
    for (int i = 1; i < S::D / 16; i++) { /* 16-byte units: a block of 64 columns, then 32 bytes a step */
        const uint32_t in = 2 * (uint32_t)(i % 4);
        hopper_product<S::N, false>(s, q + (uint32_t)(i / 4) * 64 * 8 + in,
                                    k + (uint32_t)(i / 4) * S::N * 8 + in);
    }
    hopper_products_commit();
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

/* Hides what this item's rows do not see of tile j. row: of the warp inside the page. */
template <class S>
__device__ __forceinline__ void hide(float (&s)[S::N / 2], const walk90 &w, const prefill_item &it, int j,
                                     int row, int lane)
{
    if (j < w.raw) {
        const int own = (int)(it.page - w.page0) * PREFILL_PAGE - j * S::N, top = own + row + (lane >> 2);
        const int hi[2] = {top, top + 8};
        prefill_mask<S::N>(s, own, hi, lane);
        return;
    }
    const int seen = (int)it.visible - (w.last + w.raw - j) * S::N;
    if (seen < S::N) {
        const int hi[2] = {seen - 1, seen - 1};
        prefill_mask<S::N>(s, 0, hi, lane);
    }
}

template <class S>
__device__ __forceinline__ void consume(const smem90<S> &sm, const prefill_core &a,
                                        const prefill_split &split, const walk90 &w, int group)
{
    const int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 % 4 * 16, tiles = w.raw + w.expanded;
    const prefill_item it = prefill_item_of(a, w.head, w.first + (uint32_t)group);
    const int mine = 1 + group, next = 1 + (group + 1) % S::GROUPS;
    prefill_state<S::D> st;
    float s[S::N / 2], alpha[2];
    uint32_t p[S::N / 4];
    prefill_state_begin<S::D>(st, a, split, it, row, lane);
    if (tiles) {
        const uint64_t q = hopper_operand(sm.q(group));
        if (group == S::GROUPS - 1)
            hopper_named_arrive(1, 256);
        hopper_wait(sm.q_full(), 0);
        hopper_wait(sm.k_full(0), 0);
        hopper_products_begin();
        issue_scores<S>(s, q, hopper_operand(sm.k(0)));
        hopper_products_wait<0>();
        hopper_hold(s);
        if (lane == 0)
            hopper_arrive(sm.k_free(0));
        hide<S>(s, w, it, 0, row, lane);
        if (prefill_softmax<S::N>(s, st.m, st.l, alpha))
            prefill_rescale<S::D>(st, alpha);
        prefill_weights<S::N>(p, s);
        if (tiles > 1)
            hopper_wait(sm.k_full(1), 0);
        for (int j = 1; j < tiles; j++) {
            const int ks = j % S::STAGES, vs = (j - 1) % S::STAGES;
            hopper_named_wait(mine, 256);
            hopper_products_begin();
            issue_scores<S>(s, q, hopper_operand(sm.k(ks)));
            hopper_wait(sm.v_full(vs), (uint32_t)((j - 1) / S::STAGES) & 1);
            issue_values<S>(st.o, p, hopper_operand_rows(sm.v(vs), S::N * 128));
            hopper_named_arrive(next, 256);
            hopper_products_wait<1>();
            hopper_hold(s);
            if (lane == 0)
                hopper_arrive(sm.k_free(ks));
            hide<S>(s, w, it, j, row, lane);
            const bool grown = prefill_softmax<S::N>(s, st.m, st.l, alpha);
            if (j + 1 < tiles) /* here, so that the softmax is not moved behind the wait for p v */
                hopper_wait(sm.k_full((j + 1) % S::STAGES), (uint32_t)((j + 1) / S::STAGES) & 1);
            hopper_products_wait<0>();
            hopper_hold(st.o);
            hopper_hold(s); /* p is still being read until here */
            if (lane == 0)
                hopper_arrive(sm.v_free(vs));
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
    prefill_state_end<S::D>(st, a, split, it, row, lane);
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
        hopper_barrier_init(sm.q_full(), 1);
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
            produce<S>(sm, maps, a, w);
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
    cudaError_t rc = map_of(encode, &maps.q, a->q, S::D, a->Tp, a->Tp, heads * (size_t)a->G, 64);
    if (rc == cudaSuccess)
        rc = map_of(encode, &maps.k, a->k, S::D, a->tokens, a->ld_tokens, heads, S::N);
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
    return a->D == 64 ? launch90<shape90<64, 128, 3>>((encode_fn *)encode, a, stream)
                      : launch90<shape90<128, 128, 2>>((encode_fn *)encode, a, stream);
}
