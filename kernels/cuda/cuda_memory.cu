/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_memory.cu - device and pinned memory, copies on the three queues.
 *
 * The runtime's current device belongs to a thread; a thread that takes over a device passes through one of
 * these calls first, and each sets it.
 */
#include "kernels/cuda/cuda_device.h"

static int no_room(struct device *d, const char *where, size_t bytes, struct err *e)
{
    size_t available = 0, total = 0;
    (void)cudaGetLastError();
    cuda_keep(d, cudaMemGetInfo(&available, &total), "asking for free memory");
    return err_set(e, ERR_MEMORY, "no room for %zu MB %s (%zu of the card's %zu MB are free)", bytes >> 20,
                   where, available >> 20, total >> 20);
}

int cuda_alloc(struct device *d, size_t bytes, void **out, struct err *e)
{
    *out = NULL;
    int kept = cuda_result(d, cudaSetDevice(cuda_of(d)->index), "choosing the card", e);
    if (kept)
        return kept;
    cudaError_t rc = cudaMalloc(out, bytes ? bytes : 256);
    if (rc == cudaErrorMemoryAllocation) {
        *out = NULL;
        return no_room(d, "on the card", bytes, e);
    }
    return cuda_result(d, rc, "taking memory", e);
}

void cuda_release(struct device *d, void *p)
{
    if (!p)
        return;
    cuda_keep(d, cudaSetDevice(cuda_of(d)->index), "choosing the card");
    cuda_keep(d, cudaFree(p), "giving memory back"); /* waits for all work of the card */
}

int cuda_alloc_host(struct device *d, size_t bytes, void **host, void **device_view, struct err *e)
{
    *host = *device_view = NULL;
    int kept = cuda_result(d, cudaSetDevice(cuda_of(d)->index), "choosing the card", e);
    if (kept)
        return kept;
    cudaError_t rc = cudaHostAlloc(host, bytes ? bytes : 256, cudaHostAllocMapped | cudaHostAllocPortable);
    if (rc == cudaErrorMemoryAllocation) {
        *host = NULL;
        return no_room(d, "of pinned host memory", bytes, e);
    }
    if (rc == cudaSuccess && (rc = cudaHostGetDevicePointer(device_view, *host, 0)) != cudaSuccess) {
        cudaFreeHost(*host);
        *host = NULL;
    }
    return cuda_result(d, rc, "pinning host memory", e);
}

void cuda_release_host(struct device *d, void *host)
{
    if (host)
        cuda_keep(d, cudaFreeHost(host), "giving host memory back");
}

static void move(struct device *d, enum device_queue q, void *to, const void *from, size_t bytes,
                 enum cudaMemcpyKind kind, const char *what)
{
    struct cuda_device *c = cuda_of(d);
    cuda_keep(d, cudaSetDevice(c->index), "choosing the card");
    if (bytes)
        cuda_keep(d, cudaMemcpyAsync(to, from, bytes, kind, c->stream[q]), what);
}

void cuda_upload(struct device *d, enum device_queue q, void *to, const void *from_host, size_t bytes)
{
    move(d, q, to, from_host, bytes, cudaMemcpyHostToDevice, "upload");
}

void cuda_download(struct device *d, enum device_queue q, void *to_host, const void *from, size_t bytes)
{
    move(d, q, to_host, from, bytes, cudaMemcpyDeviceToHost, "download");
}

/* Either side may be pinned host memory by its device view (blocks beyond the card). */
void cuda_copy(struct device *d, enum device_queue q, void *to, const void *from, size_t bytes)
{
    move(d, q, to, from, bytes, cudaMemcpyDefault, "copy");
}

void cuda_fill(struct device *d, enum device_queue q, void *to, int byte, size_t bytes)
{
    struct cuda_device *c = cuda_of(d);
    cuda_keep(d, cudaSetDevice(c->index), "choosing the card");
    if (bytes)
        cuda_keep(d, cudaMemsetAsync(to, byte, bytes, c->stream[q]), "fill");
}
