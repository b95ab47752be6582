/* SPDX-License-Identifier: Apache-2.0 */
/* select_pages.h - what the two kernels of page selection share: arguments, and how they follow one another.
 */
#ifndef LECTERN_KERNELS_CUDA_SELECT_PAGES_H
#define LECTERN_KERNELS_CUDA_SELECT_PAGES_H

#include "kernels/cuda/cuda_device.h"

namespace select_pages
{

enum {
    BLOCK_PAGES = DEVICE_BLOCK_PAGES,
    COLUMNS_MAX = 64,
    RANGES = 512 /* blocks of the scan for a head, at most */
};

struct params {
    const uint64_t *blocks;
    const float *qkv;
    const struct device_step *step;
    const uint64_t *rope_steps;
    const uint32_t *heads; /* of this layer's slots */
    uint2 *ranges;         /* [hr][RANGES]: least and greatest key of each block of the scan */
    float *scores;         /* [hr][max_pages] */
    uint32_t *pages, *counts;
    size_t ldqkv, first_summary, scan_bytes, stride, max_pages;
    int hr, G, T, rope_half, rope_halves;
    float attn_factor;
    uint32_t budget, recent, sink;
    uint32_t scan_blocks; /* of the scan for each head */
    uint32_t cached;      /* scores that fit in shared memory */
};

__device__ __forceinline__ uint32_t full_pages(const params &a)
{
    const uint64_t n = a.step->position / KV_PAGE_TOKENS;
    return (uint32_t)(n < a.max_pages ? n : a.max_pages);
}

/* Unsigned numbers in the order of floats, and back. */
__device__ __forceinline__ uint32_t key_of(float x)
{
    const uint32_t u = __float_as_uint(x);
    return u >> 31 ? ~u : u | 0x80000000u;
}

__device__ __forceinline__ float float_of(uint32_t key)
{
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/* Lets the next kernel start. */
__device__ __forceinline__ void chain_begin()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* Waits for the kernel before. Every block does, so that who waits for this one has waited for all. */
__device__ __forceinline__ void chain_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* On DEVICE_COMPUTE, in clusters of `team` blocks where there are clusters. Returns non-zero on failure,
 * which is kept. */
static inline int launch(struct device *d, void (*kernel)(params), dim3 grid, unsigned team, unsigned threads,
                         size_t room, const params &a)
{
    cudaLaunchAttribute early[2] = {};
    early[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early[0].val.programmaticStreamSerializationAllowed = 1;
    early[1].id = cudaLaunchAttributeClusterDimension;
    early[1].val.clusterDim = {team, 1, 1};
    cudaLaunchConfig_t how = {};
    how.gridDim = grid;
    how.blockDim = threads;
    how.dynamicSmemBytes = room;
    how.stream = cuda_compute(d);
    how.attrs = early;
    how.numAttrs = cuda_of(d)->hopper ? 2 : 0;
    cudaError_t rc = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room);
    if (rc == cudaSuccess)
        rc = cudaLaunchKernelEx(&how, kernel, a);
    cuda_keep(d, rc, "select");
    return rc != cudaSuccess;
}

/* Scores of all full pages into a.scores, unless the budget has room for them all; sets a.scan_blocks.
 * Returns as launch. */
int run_scan(struct device *d, size_t D, params &a);

/* The lists out of the scores. */
int run_top(struct device *d, params a);

} // namespace select_pages

#endif
