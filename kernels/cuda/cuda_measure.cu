/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_measure.cu - what the card can do, by the plainest programs: a copy, a sum, transfers.
 *
 * Each number is the best median of its kind: ten runs over a buffer far larger than the caches.
 */
#include "kernels/cuda/cuda_device.h"

enum { RUNS = 10, THREADS = 512, UNROLL = 8 };

/* Every word is read once; the sum is written only when it is a value that it cannot be often. */
__global__ void __launch_bounds__(THREADS) read_all(const uint4 *x, size_t n, uint32_t *never)
{
    uint32_t sum = 0;
    size_t stride = (size_t)gridDim.x * THREADS * UNROLL;
    for (size_t i = (size_t)blockIdx.x * THREADS * UNROLL + threadIdx.x; i < n; i += stride) {
        uint4 v[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            v[u] = i + (size_t)u * THREADS < n ? __ldcs(x + i + (size_t)u * THREADS) : uint4{0, 0, 0, 0};
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            sum += v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
    }
    if (sum == 0x5bd1e995u)
        *never = sum;
}

struct buffers {
    void *a, *b; /* on the card */
    void *host, *view;
    size_t bytes;
};

static void once(struct device *d, enum device_limit what, const struct buffers *m)
{
    switch (what) {
    case DEVICE_LIMIT_COPY:
        cuda_copy(d, DEVICE_COMPUTE, m->b, m->a, m->bytes);
        break;
    case DEVICE_LIMIT_READ:
        read_all<<<cuda_of(d)->sms * 4, THREADS, 0, cuda_compute(d)>>>((const uint4 *)m->a, m->bytes / 16,
                                                                       (uint32_t *)m->b);
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
    cuda_release(d, m.a);
    cuda_release(d, m.b);
    cuda_release_host(d, m.host);
    return rc;
}
