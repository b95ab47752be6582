/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_skinny.cu - the linear op of a few rows: every weight byte is read once, at the memory's speed.
 *
 * A block of 8 warps takes 16-row tiles of the weight in turn; each warp owns a fixed run of the tile's units
 * (128 columns) and streams them through its own ring of slots (bulk copies on sm_90, cp.async on sm_80), so
 * nothing in the loop waits for another warp. Per tile the warps' sums meet in shared memory and are added in
 * warp order. Which warp adds what never depends on T: a row's bits are its own.
 *
 * Weights do not hang on earlier kernels: the ring is filled before griddepcontrol.wait, while the kernel
 * before this one still runs; a block takes at most half of an SM's shared memory where it can, so that both
 * find room.
 *
 * Bytes: those of the weight. Limit: memory.
 */
#include "kernels/cuda/linear.h"
#include "kernels/cuda/skinny_mma.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * 32,
    SLOTS_MAX = 16,
    BARRIER_BYTES = WARPS * SLOTS_MAX * 8,
    PARTIAL_BYTES = 2 * WARPS * TILE_ROWS * DEVICE_DECODE_T * 4
};

struct skinny {
    const uint8_t *w;
    const float *row_scale, *norm_w, *bias;
    const void *x;
    void *y;
    size_t ldx, ldy;
    uint32_t T, N, K, units, tiles, slots;
    uint32_t x_stride, x_at, slots_at; /* bytes in shared memory; the sums of x lie before x_at */
    float eps;
    int epilogue;
    int wide;  /* x and norm_w are aligned for vector loads */
    int whole; /* and K is whole units */
    int kept;  /* and rows to be normed fit the threads' registers */
};

static __host__ __device__ constexpr int slot_units(int format)
{
    return layout_bits(format) == 4 ? 2 : 1;
}

static __host__ __device__ constexpr int sums_group(int format)
{
    return format == DEVICE_W_W4 ? 128 : 32;
}

static __host__ __device__ constexpr bool needs_sums(int format)
{
    return format == DEVICE_W_W4 || format == DEVICE_W_W4G32;
}

/* ---- the ring ------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ void ring_init(uint32_t bars, uint32_t slots, int lane)
{
#if __CUDA_ARCH__ >= 900
    uint32_t arrivals = 1;
#else
    uint32_t arrivals = 32;
#endif
    for (uint32_t s = lane; s < slots; s += 32)
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(bars + 8 * s), "r"(arrivals) : "memory");
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
    __syncwarp();
}

/* All lanes call. bytes is a multiple of 64. */
static __device__ __forceinline__ void ring_copy(uint32_t to, const uint8_t *from, uint32_t bytes,
                                                 uint32_t bar, int lane)
{
#if __CUDA_ARCH__ >= 900
    if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                to),
            "l"(from), "r"(bytes), "r"(bar)
            : "memory");
    }
#else
    for (uint32_t i = lane * 16; i < bytes; i += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i), "l"(from + i) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(bar) : "memory");
#endif
}

static __device__ __forceinline__ void ring_wait(uint32_t bar, uint32_t parity)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n\t.reg .pred p;\n\tagain:\n\t"
                 "mbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n\t"
                 "@!p bra again;\n\t}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
#else
    asm volatile("{\n\t.reg .pred p;\n\tagain:\n\t"
                 "mbarrier.test_wait.parity.shared.b64 p, [%0], %1;\n\t"
                 "@!p bra again;\n\t}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
#endif
}

/* ---- activations --------------------------------------------------------------------------------------- */

/* Eight values from column k on, zero past K. `wide`: aligned. */
static __device__ __forceinline__ void load_f32(const float *p, uint32_t k, uint32_t K, bool wide,
                                                float (&v)[8])
{
    if (wide && k + 8 <= K) {
        *(float4 *)v = *(const float4 *)(p + k);
        *(float4 *)(v + 4) = *(const float4 *)(p + k + 4);
    } else {
        for (uint32_t i = 0; i < 8; i++)
            v[i] = k + i < K ? p[k + i] : 0;
    }
}

static __device__ __forceinline__ uint4 load_f16(const uint16_t *p, uint32_t k, uint32_t K, bool wide)
{
    if (wide && k + 8 <= K)
        return *(const uint4 *)(p + k);
    uint32_t v[4];
    for (uint32_t i = 0; i < 4; i++)
        v[i] =
            (k + 2 * i < K ? p[k + 2 * i] : 0) | (k + 2 * i + 1 < K ? (uint32_t)p[k + 2 * i + 1] << 16 : 0);
    return make_uint4(v[0], v[1], v[2], v[3]);
}

static __device__ __forceinline__ uint32_t clamped_half2(float a, float b)
{
    __half2 h = __floats2half2_rn(fminf(fmaxf(a, -65504.0f), 65504.0f), fminf(fmaxf(b, -65504.0f), 65504.0f));
    return *(uint32_t *)&h;
}

static __device__ __forceinline__ uint4 normed(const float (&v)[8], const float (&n)[8], float factor)
{
    uint32_t h[4];
    for (int i = 0; i < 4; i++)
        h[i] = clamped_half2(v[2 * i] * factor * n[2 * i], v[2 * i + 1] * factor * n[2 * i + 1]);
    return make_uint4(h[0], h[1], h[2], h[3]);
}

static __device__ __forceinline__ float sum_of_squares(const float (&v)[8])
{
    return ((v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3])) +
           ((v[4] * v[4] + v[5] * v[5]) + (v[6] * v[6] + v[7] * v[7]));
}

/* A lane's eight columns of row t to shared memory, and the sums of its groups. All lanes of a warp call, for
 * neighbouring columns. */
template <int FORMAT>
static __device__ __forceinline__ void put_eight(const struct skinny &a, uint8_t *smem, float *sums,
                                                 uint32_t t, uint32_t k, uint4 h)
{
    uint32_t padded = a.units * UNIT_COLS;
    if (k < padded)
        *(uint4 *)(smem + a.x_at + t * a.x_stride + 2 * k) = h;
    if constexpr (needs_sums(FORMAT)) {
        float sum = 0;
        for (int i = 0; i < 4; i++) {
            float2 p = __half22float2(((const __half2 *)&h)[i]);
            sum += p.x + p.y;
        }
        for (int i = 1; i < sums_group(FORMAT) / 8; i *= 2)
            sum += __shfl_xor_sync(~0u, sum, i);
        if (k < padded && k % sums_group(FORMAT) == 0)
            sums[k / sums_group(FORMAT) * 4 + t] = sum;
    }
}

/* fp16 rows: a warp takes 256 columns at a time. WIDE: aligned, and K is whole units. */
template <int FORMAT, bool WIDE>
static __device__ __forceinline__ void stage_halves(const struct skinny &a, uint8_t *smem, float *sums)
{
    uint32_t padded = a.units * UNIT_COLS, pieces = (padded + 255) / 256, lane = threadIdx.x % 32;
#pragma unroll WIDE ? 4 : 1
    for (uint32_t c = threadIdx.x / 32; c < a.T * pieces; c += WARPS) {
        uint32_t t = c / pieces, k = c % pieces * 256 + lane * 8;
        const uint16_t *row = (const uint16_t *)a.x + t * a.ldx;
        uint4 h = make_uint4(0, 0, 0, 0);
        if (!WIDE)
            h = load_f16(row, k, a.K, a.wide);
        else if (k < padded)
            h = *(const uint4 *)(row + k);
        put_eight<FORMAT>(a, smem, sums, t, k, h);
    }
}

/* The block's sum for row t, after a barrier. */
static __device__ __forceinline__ float norm_factor(const struct skinny &a, const float *warp_sums,
                                                    uint32_t t)
{
    float sum = 0;
    for (int i = 0; i < WARPS; i++)
        sum += warp_sums[t * WARPS + i];
    return rsqrtf(sum / (float)a.K + a.eps);
}

static __device__ __forceinline__ void put_warp_sum(float *warp_sums, uint32_t t, float sum)
{
    for (int i = 16; i; i >>= 1)
        sum += __shfl_xor_sync(~0u, sum, i);
    if (threadIdx.x % 32 == 0)
        warp_sums[t * WARPS + threadIdx.x / 32] = sum;
}

/* Pieces of eight columns that a thread keeps of a row: K up to 4,096. */
enum { KEPT = 4096 / (THREADS * 8) };

/* norm_w's columns of this thread, which do not hang on earlier kernels. */
static __device__ __forceinline__ void load_norm(const struct skinny &a, float (&n)[KEPT][8])
{
#pragma unroll
    for (uint32_t i = 0; i < KEPT; i++) {
        uint32_t k = (i * THREADS + threadIdx.x) * 8;
        for (int c = 0; c < 8; c++)
            n[i][c] = 0;
        if (a.kept && k < a.K) {
            *(float4 *)n[i] = *(const float4 *)(a.norm_w + k);
            *(float4 *)(n[i] + 4) = *(const float4 *)(a.norm_w + k + 4);
        }
    }
}

/* RMSNorm with the rows in registers: all loads are under way before the first is needed. */
template <int FORMAT>
static __device__ __forceinline__ void stage_kept(const struct skinny &a, uint8_t *smem, float *sums,
                                                  const float (&n)[KEPT][8])
{
    float v[DEVICE_DECODE_T][KEPT][8], *warp_sums = (float *)(smem + BARRIER_BYTES);
#pragma unroll
    for (uint32_t t = 0; t < DEVICE_DECODE_T; t++)
#pragma unroll
        for (uint32_t i = 0; i < KEPT; i++) {
            uint32_t k = (i * THREADS + threadIdx.x) * 8;
            for (int c = 0; c < 8; c++)
                v[t][i][c] = 0;
            if (t < a.T && k < a.K) {
                const float *p = (const float *)a.x + t * a.ldx + k;
                *(float4 *)v[t][i] = *(const float4 *)p;
                *(float4 *)(v[t][i] + 4) = *(const float4 *)(p + 4);
            }
        }
#pragma unroll
    for (uint32_t t = 0; t < DEVICE_DECODE_T; t++)
        if (t < a.T)
            put_warp_sum(warp_sums, t,
                         sum_of_squares(v[t][0]) + (KEPT > 1 ? sum_of_squares(v[t][KEPT - 1]) : 0));
    __syncthreads();
#pragma unroll
    for (uint32_t t = 0; t < DEVICE_DECODE_T; t++)
        if (t < a.T) {
            float factor = norm_factor(a, warp_sums, t);
#pragma unroll
            for (uint32_t i = 0; i < KEPT; i++)
                put_eight<FORMAT>(a, smem, sums, t, (i * THREADS + threadIdx.x) * 8,
                                  normed(v[t][i], n[i], factor));
        }
}

/* RMSNorm of any rows, which are read twice. */
template <int FORMAT>
static __device__ __forceinline__ void stage_normed(const struct skinny &a, uint8_t *smem, float *sums)
{
    float v[8], n[8], *warp_sums = (float *)(smem + BARRIER_BYTES);
    uint32_t padded = (a.units * UNIT_COLS + THREADS * 8 - 1) / (THREADS * 8) * (THREADS * 8);
#pragma unroll 1
    for (uint32_t t = 0; t < a.T; t++) {
        float sum = 0;
#pragma unroll 1
        for (uint32_t k = threadIdx.x * 8; k < padded; k += THREADS * 8) {
            load_f32((const float *)a.x + t * a.ldx, k, a.K, a.wide, v);
            sum += sum_of_squares(v);
        }
        put_warp_sum(warp_sums, t, sum);
    }
    __syncthreads();
#pragma unroll 1
    for (uint32_t t = 0; t < a.T; t++) {
        float factor = norm_factor(a, warp_sums, t);
#pragma unroll 1
        for (uint32_t k = threadIdx.x * 8; k < padded; k += THREADS * 8) {
            load_f32((const float *)a.x + t * a.ldx, k, a.K, a.wide, v);
            load_f32(a.norm_w, k, a.K, a.wide, n);
            put_eight<FORMAT>(a, smem, sums, t, k, normed(v, n, factor));
        }
    }
}

/* ---- results ------------------------------------------------------------------------------------------- */

/* Where the lanes' sums of one warp and tile lie: [t][row]. */
template <int FORMAT>
static __device__ __forceinline__ void put_partial(const struct skinny &a, float *to,
                                                   const float (&acc)[2][4], int lane)
{
    uint32_t r = lane >> 2, j = lane & 3;
    float c[4];
    for (int i = 0; i < 4; i++)
        c[i] = acc[0][i] + acc[1][i];
    if constexpr (FORMAT == DEVICE_W_BF16) {
        if (j < a.T) {
            to[j * TILE_ROWS + r] = c[0] + c[1];
            to[j * TILE_ROWS + r + 8] = c[2] + c[3];
        }
    } else {
        for (uint32_t i = 0; i < 2; i++)
            if (2 * j + i < a.T) {
                to[(2 * j + i) * TILE_ROWS + r] = c[i];
                to[(2 * j + i) * TILE_ROWS + r + 8] = c[2 + i];
            }
    }
}

/* One thread's output: row n of the weight, row t of x. */
struct place {
    uint32_t t, n;
    bool mine;
    float bias, before, row_scale;
};

template <int FORMAT>
static __device__ __forceinline__ struct place place_of(const struct skinny &a, uint32_t tile, uint32_t index)
{
    struct place p;
    p.t = index / TILE_ROWS;
    p.n = tile * TILE_ROWS + index % TILE_ROWS;
    p.mine = p.t < a.T && p.n < a.N;
    p.bias = p.mine && a.bias ? a.bias[p.n] : 0;
    p.before = p.mine && a.epilogue == DEVICE_ADD_F32 ? ((const float *)a.y)[p.t * a.ldy + p.n] : 0;
    p.row_scale = 1;
    if constexpr (layout_has_row_scale(FORMAT))
        p.row_scale = a.row_scale[p.n] * (FORMAT == DEVICE_W_FP8 ? 256.0f : 1.0f);
    return p;
}

static __device__ __forceinline__ uint16_t clamped_half(float v)
{
    return __half_as_ushort(__float2half_rn(fminf(fmaxf(v, -65504.0f), 65504.0f)));
}

/* All lanes of a warp call. */
static __device__ __forceinline__ void finish(const struct skinny &a, const float *partial, uint32_t index,
                                              const struct place &p)
{
    float sum = 0;
    if (p.t < a.T)
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            sum += partial[w * TILE_ROWS * DEVICE_DECODE_T + index];
    sum = sum * p.row_scale + p.bias;
    float up = __shfl_down_sync(~0u, sum, 1);
    if (!p.mine)
        return;
    size_t at = p.t * a.ldy + p.n;
    if (a.epilogue == DEVICE_STORE_F32 || a.epilogue == DEVICE_ADD_F32)
        ((float *)a.y)[at] = a.epilogue == DEVICE_ADD_F32 ? p.before + sum : sum;
    else if (a.epilogue == DEVICE_STORE_F16)
        ((uint16_t *)a.y)[at] = clamped_half(sum);
    else if (p.n % 2 == 0)
        ((uint16_t *)a.y)[p.t * a.ldy + p.n / 2] = clamped_half(sum / (1.0f + __expf(-sum)) * up);
}

/* ---- the kernel ---------------------------------------------------------------------------------------- */

template <int FORMAT>
static __global__ void __launch_bounds__(THREADS, 2) skinny_kernel(const struct skinny a)
{
    constexpr uint32_t UNIT = layout_unit_bytes(FORMAT), MANY = slot_units(FORMAT), SLOT = UNIT * MANY;
    extern __shared__ __align__(128) uint8_t smem[];
    float *partials = (float *)(smem + BARRIER_BYTES),
          *sums = (float *)(smem + BARRIER_BYTES + PARTIAL_BYTES);
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t shared = (uint32_t)__cvta_generic_to_shared(smem);
    uint32_t bars = shared + warp * SLOTS_MAX * 8, ring = a.slots_at + warp * a.slots * SLOT;
    uint32_t u0 = a.units * warp / WARPS, u1 = a.units * (warp + 1) / WARPS;
    uint32_t next_tile = u0 < u1 ? blockIdx.x : a.tiles, next_u = u0; /* what the ring asks for next */
    auto ask = [&](uint32_t slot) {
        if (next_tile >= a.tiles)
            return;
        uint32_t n = min(MANY, u1 - next_u);
        ring_copy(shared + ring + slot * SLOT, a.w + ((size_t)next_tile * a.units + next_u) * UNIT, n * UNIT,
                  bars + 8 * slot, lane);
        next_u += n;
        if (next_u == u1) {
            next_u = u0;
            next_tile += gridDim.x;
        }
    };
    ring_init(bars, a.slots, lane);
    for (uint32_t s = 0; s < a.slots; s++)
        ask(s);
    float norm[KEPT][8];
    load_norm(a, norm);
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    if (a.kept)
        stage_kept<FORMAT>(a, smem, sums, norm);
    else if (a.norm_w)
        stage_normed<FORMAT>(a, smem, sums);
    else if (a.whole)
        stage_halves<FORMAT, true>(a, smem, sums);
    else
        stage_halves<FORMAT, false>(a, smem, sums);
    __syncthreads();
    uint32_t column = FORMAT == DEVICE_W_BF16 ? lane >> 3 : lane >> 2; /* the row of x that this lane feeds */
    const uint8_t *x = smem + a.x_at + (column < a.T ? column : 0) * a.x_stride + (lane & 3) * 16;
    const float *lane_sums = sums + (lane & 1) * 2;
    uint32_t slot = 0, parity = 0, turn = 0;
    for (uint32_t tile = blockIdx.x; tile < a.tiles; tile += gridDim.x, turn++) {
        uint32_t index = ((warp - turn) & (WARPS - 1)) * 32 + lane; /* of the output this thread finishes */
        struct place p = {};
        bool finishes = index / 32 * 32 < a.T * TILE_ROWS;
        if (finishes)
            p = place_of<FORMAT>(a, tile, index);
        float acc[2][4] = {};
        for (uint32_t u = u0; u < u1; u += MANY) {
            ring_wait(bars + 8 * slot, parity);
            const uint8_t *unit = smem + ring + slot * SLOT;
#pragma unroll
            for (uint32_t i = 0; i < MANY; i++)
                if (u + i < u1)
                    unit_products<FORMAT>(acc, unit + i * UNIT, lane, x + (u + i) * UNIT_COLS * 2,
                                          lane_sums + (u + i) * (UNIT_COLS / sums_group(FORMAT)) * 4);
            __syncwarp();
            ask(slot);
            if (++slot == a.slots) {
                slot = 0;
                parity ^= 1;
            }
        }
        float *partial = partials + (turn & 1) * WARPS * TILE_ROWS * DEVICE_DECODE_T;
        put_partial<FORMAT>(a, partial + warp * TILE_ROWS * DEVICE_DECODE_T, acc, lane);
        __syncthreads();
        if (finishes)
            finish(a, partial, index, p);
    }
}

typedef void skinny_function(const struct skinny);

static skinny_function *kernel_of(enum device_weight_format format)
{
    switch (format) {
    case DEVICE_W_F16:
        return skinny_kernel<DEVICE_W_F16>;
    case DEVICE_W_BF16:
        return skinny_kernel<DEVICE_W_BF16>;
    case DEVICE_W_FP8:
        return skinny_kernel<DEVICE_W_FP8>;
    case DEVICE_W_W8:
        return skinny_kernel<DEVICE_W_W8>;
    case DEVICE_W_W8G32:
        return skinny_kernel<DEVICE_W_W8G32>;
    case DEVICE_W_W4:
        return skinny_kernel<DEVICE_W_W4>;
    case DEVICE_W_W4G32:
        return skinny_kernel<DEVICE_W_W4G32>;
    case DEVICE_W_AUTO:
        break;
    }
    return NULL;
}

/* Shared memory: barriers, partial sums, sums of x, x, ring. Half of an SM's where three slots fit, else all.
 */
static size_t plan_shared(const struct cuda_device *c, const struct device_weight *w, struct skinny *a)
{
    size_t padded = w->units * UNIT_COLS,
           sums = needs_sums(w->format) ? padded / sums_group(w->format) * 16 : 0;
    a->x_stride = (uint32_t)(padded * 2 + 64); /* neighbouring rows in different banks */
    a->x_at = (uint32_t)(BARRIER_BYTES + PARTIAL_BYTES + sums);
    size_t fixed = (a->x_at + a->T * a->x_stride + 127) / 128 * 128,
           slot = w->unit_bytes * slot_units(w->format);
    size_t ring_slot = slot * WARPS, half = c->smem_block / 2 - 1024;
    size_t room = fixed + 3 * ring_slot <= half ? half : c->smem_block;
    if (fixed + 2 * ring_slot > room)
        return 0;
    a->slots_at = (uint32_t)fixed;
    a->slots = (uint32_t)((room - fixed) / ring_slot);
    a->slots = a->slots > (uint32_t)SLOTS_MAX ? (uint32_t)SLOTS_MAX : a->slots;
    /* no more than a warp will ever ask for */
    size_t turns = (w->tiles + c->sms - 1) / c->sms, units = (w->units + WARPS - 1) / WARPS;
    size_t most = turns * ((units + slot_units(w->format) - 1) / slot_units(w->format));
    a->slots = a->slots > most ? (uint32_t)most : a->slots;
    return fixed + a->slots * ring_slot;
}

void linear_skinny(struct device *d, const struct device_linear_args *in)
{
    struct cuda_device *c = cuda_of(d);
    const struct device_weight *w = in->w;
    struct skinny a = {};
    a.w = w->data;
    a.row_scale = w->row_scale;
    a.norm_w = in->norm_w;
    a.bias = in->bias;
    a.x = in->x;
    a.y = in->y;
    a.ldx = in->ldx;
    a.ldy = in->ldy;
    a.T = (uint32_t)in->T;
    a.N = (uint32_t)w->N;
    a.K = (uint32_t)w->K;
    a.units = (uint32_t)w->units;
    a.tiles = (uint32_t)w->tiles;
    a.eps = in->eps;
    a.epilogue = in->epilogue;
    a.wide = in->ldx % 8 == 0 && (uintptr_t)in->x % 16 == 0 && (uintptr_t)in->norm_w % 16 == 0;
    a.whole = a.wide && w->K % UNIT_COLS == 0;
    a.kept = a.whole && in->norm_w && w->K <= (size_t)KEPT * THREADS * 8;
    size_t shared = plan_shared(c, w, &a);
    if (!shared) {
        cuda_refuse(d, "linear", "a row of this many columns does not fit the card's shared memory");
        return;
    }
    skinny_function *kernel = kernel_of(w->format);
    cuda_keep(d, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
              "linear");
    cudaLaunchConfig_t launch = {};
    cudaLaunchAttribute attribute = {};
    launch.gridDim = dim3((unsigned)(w->tiles < (size_t)c->sms ? w->tiles : (size_t)c->sms));
    launch.blockDim = dim3(THREADS);
    launch.dynamicSmemBytes = shared;
    launch.stream = cuda_compute(d);
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    launch.attrs = &attribute;
    launch.numAttrs = c->hopper ? 1 : 0;
    cuda_keep(d, cudaLaunchKernelEx(&launch, kernel, a), "linear");
}
