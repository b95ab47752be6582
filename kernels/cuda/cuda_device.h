/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_device.h - what the files of kernels/cuda share: the device, its queues, its kept failure.
 *
 * C++17 (nvcc), no exceptions, no C++ library. One op, one .cu file; each defines its entry of device_ops as
 * `void cuda_<op>(struct device *d, const struct device_<op>_args *a)` and the table is in cuda_table.cu.
 * Kernels run on stream[DEVICE_COMPUTE]; a launch is followed by cuda_check(d, "op").
 */
#ifndef LECTERN_KERNELS_CUDA_CUDA_DEVICE_H
#define LECTERN_KERNELS_CUDA_CUDA_DEVICE_H

#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

struct cuda_device {
    struct device base; /* first */
    int index;
    int sms;                /* streaming multiprocessors */
    int hopper;             /* sm_90: the sm_90a kernels run */
    size_t smem_block;      /* dynamic shared memory that one block may have */
    cudaStream_t stream[3]; /* by enum device_queue */
    cublasLtHandle_t lt;
    void *lt_workspace; /* 32 MiB, for DEVICE_COMPUTE */
    size_t lt_workspace_bytes;
    void *gemm_plans; /* cuda_gemm.cu's cache of cublasLt plans; freed through cuda_gemm_plans_free */
    int failed;       /* a failure is kept */
    struct err kept;  /* what failed, for the next call that returns an int */
};

static inline struct cuda_device *cuda_of(struct device *d)
{
    return (struct cuda_device *)d;
}

static inline cudaStream_t cuda_compute(struct device *d)
{
    return cuda_of(d)->stream[DEVICE_COMPUTE];
}

/* Keeps a failure of `what` (an op's name) unless one is kept already. cudaSuccess is no failure. */
void cuda_keep(struct device *d, cudaError_t rc, const char *what);

/* After a launch: keeps what cudaGetLastError says. */
static inline void cuda_check(struct device *d, const char *what)
{
    cuda_keep(d, cudaGetLastError(), what);
}

/* A failure that no CUDA call reported: shapes or scratch that the caller got wrong. */
void cuda_refuse(struct device *d, const char *what, const char *why);

/* The entries of the table, one file each. */
int cuda_weight_create(struct device *d, enum device_weight_format format, size_t K,
                       const struct device_weight_part *parts, size_t n_parts, enum device_weight_order order,
                       struct device_weight **out, struct err *e);
int cuda_weight_random(struct device *d, enum device_weight_format format, size_t N, size_t K, uint64_t seed,
                       struct device_weight **out, struct err *e);
void cuda_weight_free(struct device *d, struct device_weight *w);
size_t cuda_weight_bytes(const struct device_weight *w);
size_t cuda_linear_scratch_bytes(struct device *d, size_t T, size_t K_max, size_t N_max);
void cuda_linear(struct device *d, const struct device_linear_args *a);
void cuda_gemm_plans_free(struct cuda_device *d);
/* FLOP/s of an 8192^3 product of random values; limit is one of DEVICE_LIMIT_F16, BF16, FP8. */
int cuda_gemm_measure(struct cuda_device *d, enum device_limit limit, double *per_second, struct err *e);

void cuda_embed(struct device *d, const struct device_embed_args *a);
void cuda_argmax(struct device *d, const struct device_argmax_args *a);

size_t cuda_attend_decode_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens,
                                        int mass);
void cuda_attend_decode(struct device *d, const struct device_attend_decode_args *a);
size_t cuda_attend_prefill_scratch_bytes(struct device *d, const struct device_kv *kv, size_t T);
void cuda_attend_prefill(struct device *d, const struct device_attend_prefill_args *a);
size_t cuda_select_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens);
void cuda_select(struct device *d, const struct device_select_args *a);

#endif
