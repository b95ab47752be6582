/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_skinny.cu - the linear op of a few rows: every weight byte is read once, at the memory's speed.
 *
 * A block of 8 warps takes 16-row tiles of the weight in turn; each warp owns a fixed run of the tile's units
 * (128 columns) and streams them through its own ring of slots (bulk copies on sm_90, cp.async on sm_80), so
 * nothing in the loop waits for another warp. Per tile the warps' sums meet in shared memory and are added in
 * warp order. Which warp adds what never depends on T: a row's bits are its own.
 *
 * Weights do not hang on earlier kernels: a kernel starts (griddepcontrol) when the one before it has asked
 * for its last bytes, and fills its rings while that one drains. Both need room on every SM: see enum kind.
 *
 * Bytes: those of the weight. Limit: memory; between two kernels, about 3 us from the last sums to the next
 * ones. Multiplying 4-bit codes as bytes (15-bit activations, a quarter fewer instructions) was tried: the
 * same time with one row, a fifth slower with four, so codes stay fp16.
 */
#include "kernels/cuda/linear.h"
#include "kernels/cuda/skinny_mma.cuh"
#include "kernels/cuda/skinny_stage.cuh"

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
template <int FORMAT>
static __device__ __forceinline__ void finish(const struct skinny &a, const float *partial, uint32_t index,
                                              const struct place &p)
{
    float sum = 0;
    if (p.t < a.T)
#pragma unroll
        for (uint32_t w = 0; w < warps_of(FORMAT); w++)
            sum += partial[w * PARTIAL + index];
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
static __global__ void __launch_bounds__(2 * warps_of(FORMAT) * 32, 1) skinny_kernel(const struct skinny a)
{
    constexpr uint32_t UNIT = layout_unit_bytes(FORMAT), MANY = slot_units(FORMAT), SLOT = UNIT * MANY;
    constexpr uint32_t WARPS = warps_of(FORMAT), GROUPS = UNIT_COLS / sums_group(FORMAT);
    extern __shared__ __align__(128) uint8_t smem[];
    float *partials = (float *)(smem + BARRIER_BYTES),
          *sums = (float *)(smem + BARRIER_BYTES + partial_bytes(FORMAT));
    uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp >= WARPS)
        return;
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
        if (next_tile >= a.tiles) /* the memory is idle soon: the next kernel may fill its ring */
            launch_dependents();
    };
    ring_init(bars, a.slots, lane);
    x_barrier_init<FORMAT>(shared + X_BARRIER);
    for (uint32_t s = 0; s < a.slots; s++)
        ask(s);
    stage<FORMAT>(a, smem, sums);
    block_barrier<FORMAT>();
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
            const uint8_t *unit = smem + ring + slot * SLOT, *at = x + u * UNIT_COLS * 2;
            const float *sum = lane_sums + u * GROUPS * 4;
            ring_wait(bars + 8 * slot, parity);
            if (u + MANY <= u1) {
#pragma unroll
                for (uint32_t i = 0; i < MANY; i++)
                    unit_products<FORMAT>(acc, unit + i * UNIT, lane, at + i * UNIT_COLS * 2,
                                          sum + i * GROUPS * 4);
            } else {
#pragma unroll 1
                for (uint32_t i = 0; i < u1 - u; i++)
                    unit_products<FORMAT>(acc, unit + i * UNIT, lane, at + i * UNIT_COLS * 2,
                                          sum + i * GROUPS * 4);
            }
            __syncwarp();
            ask(slot);
            if (++slot == a.slots) {
                slot = 0;
                parity ^= 1;
            }
        }
        float *partial = partials + (turn & 1) * WARPS * PARTIAL;
        put_partial<FORMAT>(a, partial + warp * PARTIAL, acc, lane);
        block_barrier<FORMAT>();
        if (finishes)
            finish<FORMAT>(a, partial, index, p);
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

/* Two kernels that follow one another share an SM, so that the second fills its rings while the first drains;
 * but two blocks of one kernel must not, or some SMs have two and some none. Launches alternate between two
 * kinds: EVEN takes more than half of the shared memory, ODD more than half of the registers (by idle warps),
 * and one of each fits. ALONE takes what there is. */
enum kind { EVEN, ODD, ALONE };
enum { EVEN_BYTES = 120 << 10, ODD_BYTES = 105 << 10, SM_REGISTERS = 65536 };

/* Threads of an ODD block, 0 when there is no such number. */
static unsigned odd_threads(skinny_function *kernel, unsigned working)
{
    struct cudaFuncAttributes f = {};
    if (cudaFuncGetAttributes(&f, kernel) != cudaSuccess)
        return 0;
    unsigned registers = ((unsigned)f.numRegs + 7) / 8 * 8;
    unsigned threads = (SM_REGISTERS / 2 / registers / 32 + 1) * 32;
    int fits =
        threads >= working && threads <= 2 * working && (threads + working) * registers <= SM_REGISTERS;
    return fits ? threads : 0;
}

/* Lays shared memory out in `room` bytes; returns what is used, 0 when a warp would have fewer than `least`
 * slots that it has a use for. */
static size_t lay_out(const struct cuda_device *c, const struct device_weight *w, struct skinny *a,
                      size_t room, size_t least)
{
    size_t padded = w->units * UNIT_COLS,
           sums = needs_sums(w->format) ? padded / sums_group(w->format) * 16 : 0;
    a->x_stride = (uint32_t)(padded * 2 + 64); /* neighbouring rows in different banks */
    a->x_at = (uint32_t)(BARRIER_BYTES + partial_bytes(w->format) + sums);
    size_t fixed = (a->x_at + a->T * a->x_stride + 127) / 128 * 128, warps = warps_of(w->format);
    size_t ring_slot = w->unit_bytes * slot_units(w->format) * warps;
    size_t turns = (w->tiles + c->sms - 1) / c->sms, units = (w->units + warps - 1) / warps;
    size_t most = turns * ((units + slot_units(w->format) - 1) / slot_units(w->format));
    most = most > (size_t)SLOTS_MAX ? (size_t)SLOTS_MAX : most;
    size_t slots = fixed < room ? (room - fixed) / ring_slot : 0;
    if (slots < most && slots < least)
        return 0;
    a->slots = (uint32_t)(slots < most ? slots : most);
    a->slots_at = (uint32_t)fixed;
    return fixed + a->slots * ring_slot;
}

/* Shared memory and threads of a launch; 0 when a row is too wide. */
static size_t choose(struct cuda_device *c, const struct device_weight *w, skinny_function *kernel,
                     struct skinny *a, unsigned *threads)
{
    enum kind kind = c->hopper && layout_bits(w->format) < 16 ? (c->skinny_turn++ % 2 ? ODD : EVEN) : ALONE;
    size_t used = 0;
    *threads = warps_of(w->format) * 32;
    if (kind == ODD) {
        unsigned odd = odd_threads(kernel, *threads);
        used = odd ? lay_out(c, w, a, ODD_BYTES, 3) : 0;
        if (used) {
            *threads = odd;
            return used;
        }
    } else if (kind == EVEN) {
        used = lay_out(c, w, a, EVEN_BYTES, 3);
        if (used)
            return EVEN_BYTES;
    }
    return lay_out(c, w, a, c->smem_block, 2) ? c->smem_block : 0;
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
    a.kept = a.whole && in->norm_w && w->K <= (size_t)KEPT_COLUMNS;
    skinny_function *kernel = kernel_of(w->format);
    unsigned threads = 0;
    size_t shared = choose(c, w, kernel, &a, &threads);
    if (!shared) {
        cuda_refuse(d, "linear", "a row of this many columns does not fit the card's shared memory");
        return;
    }
    cuda_keep(d, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared),
              "linear");
    cudaLaunchConfig_t launch = {};
    cudaLaunchAttribute attribute = {};
    launch.gridDim = dim3((unsigned)(w->tiles < (size_t)c->sms ? w->tiles : (size_t)c->sms));
    launch.blockDim = dim3(threads);
    launch.dynamicSmemBytes = shared;
    launch.stream = cuda_compute(d);
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    launch.attrs = &attribute;
    launch.numAttrs = c->hopper ? 1 : 0;
    cuda_keep(d, cudaLaunchKernelEx(&launch, kernel, a), "linear");
}
