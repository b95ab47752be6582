/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_measure.cu - what the card can do, by the plainest programs: a copy, a sum, transfers.
 *
 * Each number is the best median of its kind: ten runs over a buffer far larger than the caches.
 */
#include "kernels/cuda/cuda_device.h"

enum {
    RUNS = 10,
    THREADS = 256,
    UNROLL = 8,
    PIECE = 16 << 10, /* of the ring */
    STAGES = 12
};

__device__ static void keep(uint32_t sum, uint32_t *never)
{
    if (sum == 0x5bd1e995u) /* it cannot be often; without the write nothing would be read */
        *never = sum;
}

/* A block for each THREADS * UNROLL words of 16 bytes; n is a multiple of that. */
static __global__ void __launch_bounds__(THREADS) read_blocks(const uint4 *x, uint32_t *never)
{
    const uint4 *at = x + (size_t)blockIdx.x * THREADS * UNROLL + threadIdx.x;
    uint32_t sum = 0;
    uint4 v[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        v[u] = __ldg(at + u * THREADS);
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        sum += v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
    keep(sum, never);
}

/* One thread of each block keeps STAGES bulk copies into shared memory under way; sm_90. */
static __global__ void __launch_bounds__(32) read_ring(const uint8_t *x, size_t pieces, uint32_t *never)
{
#if __CUDA_ARCH__ >= 900
    extern __shared__ __align__(128) uint8_t ring[];
    __shared__ __align__(8) uint64_t full[STAGES];
    if (threadIdx.x)
        return;
    const uint32_t to = (uint32_t)__cvta_generic_to_shared(ring),
                   bar = (uint32_t)__cvta_generic_to_shared(full);
    for (int s = 0; s < STAGES; s++)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar + s * 8) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    const size_t mine = blockIdx.x < pieces ? (pieces - blockIdx.x + gridDim.x - 1) / gridDim.x : 0;
    for (size_t i = 0; i < mine + STAGES; i++) {
        const uint32_t stage = (uint32_t)(i % STAGES), b = bar + stage * 8;
        if (i >= STAGES) /* what was asked for a round ago */
            asm volatile(
                "{\n\t.reg .pred p;\n\tagain:\n\t"
                "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n\t@!p bra again;\n\t}" ::"r"(b),
                "r"((uint32_t)((i / STAGES - 1) & 1))
                : "memory");
        if (i >= mine)
            continue;
        const uint8_t *from = x + (blockIdx.x + i * gridDim.x) * (size_t)PIECE;
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(b), "r"((uint32_t)PIECE)
                     : "memory");
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                to + stage * PIECE),
            "l"(from), "r"((uint32_t)PIECE), "r"(b)
            : "memory");
    }
    keep(*(const volatile uint32_t *)ring, never);
#endif
}

struct buffers {
    void *a, *b; /* on the card */
    void *host, *view;
    size_t bytes;
    int ring; /* read by the ring, else by blocks */
};

static void once(struct device *d, enum device_limit what, const struct buffers *m)
{
    switch (what) {
    case DEVICE_LIMIT_COPY:
        cuda_copy(d, DEVICE_COMPUTE, m->b, m->a, m->bytes);
        break;
    case DEVICE_LIMIT_READ:
        if (m->ring)
            read_ring<<<cuda_of(d)->sms, 32, STAGES * PIECE, cuda_compute(d)>>>(
                (const uint8_t *)m->a, m->bytes / PIECE, (uint32_t *)m->b);
        else
            read_blocks<<<(unsigned)(m->bytes / (THREADS * UNROLL * 16)), THREADS, 0, cuda_compute(d)>>>(
                (const uint4 *)m->a, (uint32_t *)m->b);
        cuda_check(d, "measuring reads");
        break;
    case DEVICE_LIMIT_TO_CARD:
        cuda_upload(d, DEVICE_COMPUTE, m->a, m->host, m->bytes);
        break;
    default:
        cuda_download(d, DEVICE_COMPUTE, m->host, m->a, m->bytes);
        break;
    }
}

static int measure_moves(struct device *d, enum device_limit what, const struct buffers *m,
                         double *per_second, struct err *e)
{
    double ms[RUNS];
    struct device_event *from = NULL, *to = NULL;
    int rc = cuda_event_create(d, &from, e);
    if (!rc)
        rc = cuda_event_create(d, &to, e);
    cuda_fill(d, DEVICE_COMPUTE, m->a, 0x11, m->bytes);
    if (!rc)
        once(d, what, m);
    for (int i = 0; i < RUNS && !rc; i++) {
        cuda_event_record(d, DEVICE_COMPUTE, from);
        once(d, what, m);
        cuda_event_record(d, DEVICE_COMPUTE, to);
        rc = cuda_event_sync(d, to, e);
        double t = rc ? 0 : cuda_event_ms(d, from, to);
        int j = i;
        for (; j > 0 && ms[j - 1] > t; j--)
            ms[j] = ms[j - 1];
        ms[j] = t;
    }
    cuda_event_free(d, from);
    cuda_event_free(d, to);
    if (!rc)
        *per_second = (double)m->bytes * (what == DEVICE_LIMIT_COPY ? 2 : 1) / (1e-3 * ms[RUNS / 2]);
    return rc;
}

/* Reads by the ring count when they are faster. */
static int better_ring(struct device *d, struct buffers *m, double *per_second, struct err *e)
{
    double rate = 0;
    m->ring = 1;
    int rc = cuda_result(
        d, cudaFuncSetAttribute(read_ring, cudaFuncAttributeMaxDynamicSharedMemorySize, STAGES * PIECE),
        "measuring reads", e);
    if (!rc)
        rc = measure_moves(d, DEVICE_LIMIT_READ, m, &rate, e);
    if (rate > *per_second)
        *per_second = rate;
    return rc;
}

int cuda_measure(struct device *d, enum device_limit what, double *per_second, struct err *e)
{
    *per_second = 0;
    if (what > DEVICE_LIMIT_FROM_CARD)
        return cuda_gemm_measure(cuda_of(d), what, per_second, e);
    int on_card = what == DEVICE_LIMIT_COPY || what == DEVICE_LIMIT_READ;
    size_t available = 0, total = 0;
    int rc = cuda_result(d, cudaMemGetInfo(&available, &total), "asking for free memory", e);
    if (rc)
        return rc;
    struct buffers m = {};
    m.bytes = on_card ? (size_t)2 << 30 : (size_t)256 << 20;
    if (m.bytes > available / 4)
        m.bytes = available / 4 & ~(size_t)0xfffff;
    if (!m.bytes)
        return err_set(e, ERR_MEMORY, "the card has no room to be measured");
    rc = cuda_alloc(d, m.bytes, &m.a, e);
    if (!rc && on_card)
        rc = cuda_alloc(d, what == DEVICE_LIMIT_COPY ? m.bytes : 256, &m.b, e);
    if (!rc && !on_card)
        rc = cuda_alloc_host(d, m.bytes, &m.host, &m.view, e);
    if (!rc)
        rc = measure_moves(d, what, &m, per_second, e);
    if (!rc && what == DEVICE_LIMIT_READ && cuda_of(d)->hopper)
        rc = better_ring(d, &m, per_second, e);
    cuda_release(d, m.a);
    cuda_release(d, m.b);
    cuda_release_host(d, m.host);
    return rc;
}
