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
    unsigned skinny_turn; /* launches of the skinny kernel alternate between two kinds of blocks */
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

/* The kept failure, if any, into e; it is forgotten. */
int cuda_kept(struct device *d, struct err *e);

/* For a call that returns an int: what rc says, else the kept failure. */
int cuda_result(struct device *d, cudaError_t rc, const char *what, struct err *e);

extern const struct device_ops cuda_ops;

/* The entries of the table, one file each. */
void cuda_close(struct device *d);
void cuda_info(struct device *d, struct device_info *out);
int cuda_measure(struct device *d, enum device_limit what, double *per_second, struct err *e);
int cuda_sync(struct device *d, enum device_queue q, struct err *e);

int cuda_alloc(struct device *d, size_t bytes, void **out, struct err *e);
void cuda_release(struct device *d, void *p);
int cuda_alloc_host(struct device *d, size_t bytes, void **host, void **device_view, struct err *e);
void cuda_release_host(struct device *d, void *host);
void cuda_upload(struct device *d, enum device_queue q, void *to, const void *from_host, size_t bytes);
void cuda_download(struct device *d, enum device_queue q, void *to_host, const void *from, size_t bytes);
void cuda_copy(struct device *d, enum device_queue q, void *to, const void *from, size_t bytes);
void cuda_fill(struct device *d, enum device_queue q, void *to, int byte, size_t bytes);

int cuda_event_create(struct device *d, struct device_event **out, struct err *e);
void cuda_event_free(struct device *d, struct device_event *v);
void cuda_event_record(struct device *d, enum device_queue q, struct device_event *v);
void cuda_event_wait(struct device *d, enum device_queue q, struct device_event *v);
int cuda_event_done(struct device *d, struct device_event *v);
int cuda_event_sync(struct device *d, struct device_event *v, struct err *e);
double cuda_event_ms(struct device *d, struct device_event *from, struct device_event *to);

int cuda_capture_begin(struct device *d, struct err *e);
int cuda_capture_end(struct device *d, struct device_graph **out, struct err *e);
void cuda_graph_launch(struct device *d, struct device_graph *g);
void cuda_graph_free(struct device *d, struct device_graph *g);

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
