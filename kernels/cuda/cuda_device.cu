/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_device.cu - opens a card: the one symbol that the program looks up, kept failures, queues.
 *
 * Invariant: after a failed CUDA call its code is taken from the runtime (cudaGetLastError), so that the next
 * launch is not blamed for it. Errors that poison the context come back from every later call by themselves.
 */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_device.h"

enum { LT_WORKSPACE = 32 << 20 };

void cuda_keep(struct device *d, cudaError_t rc, const char *what)
{
    struct cuda_device *c = cuda_of(d);
    if (rc == cudaSuccess)
        return;
    (void)cudaGetLastError();
    if (c->failed)
        return;
    c->failed = 1;
    err_set(&c->kept, rc == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_IO, "%s on the card: %s", what,
            cudaGetErrorString(rc));
}

void cuda_refuse(struct device *d, const char *what, const char *why)
{
    struct cuda_device *c = cuda_of(d);
    if (c->failed)
        return;
    c->failed = 1;
    err_set(&c->kept, ERR_USAGE, "%s: %s", what, why);
}

int cuda_kept(struct device *d, struct err *e)
{
    struct cuda_device *c = cuda_of(d);
    if (!c->failed)
        return 0;
    c->failed = 0;
    return err_set(e, c->kept.code, "%s", c->kept.text);
}

int cuda_result(struct device *d, cudaError_t rc, const char *what, struct err *e)
{
    cuda_keep(d, rc, what);
    return cuda_kept(d, e);
}

void cuda_close(struct device *d)
{
    if (!d)
        return;
    struct cuda_device *c = cuda_of(d);
    cudaSetDevice(c->index);
    for (int q = 0; q < 3; q++)
        if (c->stream[q])
            cudaStreamSynchronize(c->stream[q]);
    cuda_gemm_plans_free(c);
    if (c->lt)
        cublasLtDestroy(c->lt);
    cudaFree(c->lt_workspace);
    for (int q = 0; q < 3; q++)
        if (c->stream[q])
            cudaStreamDestroy(c->stream[q]);
    (void)cudaGetLastError();
    free(c);
}

void cuda_info(struct device *d, struct device_info *out)
{
    struct cuda_device *c = cuda_of(d);
    *out = {};
    cudaDeviceProp p;
    size_t available = 0, total = 0;
    cuda_keep(d, cudaGetDeviceProperties(&p, c->index), "asking for the card's properties");
    cuda_keep(d, cudaSetDevice(c->index), "choosing the card");
    cuda_keep(d, cudaMemGetInfo(&available, &total), "asking for free memory");
    cuda_keep(d, cudaDriverGetVersion(&out->driver), "asking for the driver's version");
    cuda_keep(d, cudaRuntimeGetVersion(&out->runtime), "asking for the runtime's version");
    snprintf(out->name, sizeof out->name, "%.100s", p.name);
    out->major = p.major;
    out->minor = p.minor;
    out->processors = c->sms;
    out->memory = total;
    out->memory_free = available;
    out->hopper = c->hopper;
}

int cuda_sync(struct device *d, enum device_queue q, struct err *e)
{
    return cuda_result(d, cudaStreamSynchronize(cuda_of(d)->stream[q]), "waiting", e);
}

static int refuse(struct err *e, const char *what, cudaError_t rc)
{
    (void)cudaGetLastError();
    return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: %s (%s)", what, cudaGetErrorString(rc));
}

/* Is there a driver, and a card of that number that the kernels run on? */
static int look(int index, cudaDeviceProp *p, struct err *e)
{
    int driver = 0, count = 0;
    cudaError_t rc = cudaDriverGetVersion(&driver);
    if (rc != cudaSuccess || driver == 0)
        return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: there is no NVIDIA driver on this machine");
    rc = cudaGetDeviceCount(&count);
    if (rc == cudaErrorInsufficientDriver)
        return err_set(e, ERR_UNSUPPORTED,
                       "CUDA is not used: the driver is for CUDA %d.%d, this build needs %d.%d",
                       driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (rc != cudaSuccess && rc != cudaErrorNoDevice)
        return refuse(e, "the driver does not answer", rc);
    if (count == 0)
        return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: there is no card");
    (void)cudaGetLastError();
    if (index < 0 || index >= count)
        return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: there is no card number %d (%d in all)", index,
                       count);
    if ((rc = cudaGetDeviceProperties(p, index)) != cudaSuccess)
        return refuse(e, "the card does not tell its properties", rc);
    if (p->major < 8)
        return err_set(e, ERR_UNSUPPORTED,
                       "CUDA is not used: %s has compute capability %d.%d, and 8.0 is the least", p->name,
                       p->major, p->minor);
    return 0;
}

static int prepare(struct cuda_device *c, struct err *e)
{
    cudaError_t rc = cudaSetDevice(c->index);
    for (int q = 0; q < 3 && rc == cudaSuccess; q++)
        rc = cudaStreamCreateWithFlags(&c->stream[q], cudaStreamNonBlocking);
    if (rc == cudaSuccess)
        rc = cudaMalloc(&c->lt_workspace, LT_WORKSPACE);
    if (rc != cudaSuccess)
        return refuse(e, "the card could not be opened", rc);
    c->lt_workspace_bytes = LT_WORKSPACE;
    if (cublasLtCreate(&c->lt) != CUBLAS_STATUS_SUCCESS)
        return err_set(e, ERR_UNSUPPORTED, "CUDA is not used: cublasLt could not be opened");
    return 0;
}

extern "C" __attribute__((visibility("default"))) int lectern_cuda_open(struct device **out, int index,
                                                                        uint64_t abi, struct err *e)
{
    *out = NULL;
    if (abi != DEVICE_ABI)
        return err_set(e, ERR_UNSUPPORTED,
                       "CUDA is not used: liblectern_cuda.so is of another version than this program");
    cudaDeviceProp p;
    int rc = look(index, &p, e);
    if (rc)
        return rc;
    struct cuda_device *c = (struct cuda_device *)calloc(1, sizeof *c);
    if (!c)
        return err_memory(e, "the card's device");
    c->base.ops = &cuda_ops;
    c->index = index;
    c->sms = p.multiProcessorCount;
    c->hopper = p.major == 9 && p.minor == 0;
    c->smem_block = p.sharedMemPerBlockOptin;
    rc = prepare(c, e);
    if (rc) {
        cuda_close(&c->base);
        return rc;
    }
    *out = &c->base;
    return 0;
}
