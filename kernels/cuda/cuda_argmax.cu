/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_argmax.cu - index of the largest of each row, the lower one among equals, NaN as -infinity. A pair
 * (ordered value, index) is one 64-bit key, so the greatest key is the answer in any order. One block a row;
 * on Hopper a cluster of eight, whose first block gathers the keys through shared memory: one block alone
 * reads 512 KB of logits in the time of a matrix product.
 */
#include <cooperative_groups.h>

#include "kernels/cuda/cuda_device.h"

enum { THREADS = 1024, CLUSTER = 8 };

/* Greater floats have greater words, -0 and 0 the same; lower indices have greater keys. */
__device__ static uint64_t key_of(float x, uint32_t i)
{
    if (x != x)
        x = __int_as_float((int)0xff800000);
    uint32_t u = __float_as_uint(x == 0 ? 0.0f : x);
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return (uint64_t)u << 32 | (uint32_t)~i;
}

__device__ static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

__device__ static uint64_t warp_greatest(uint64_t key)
{
    for (int lane = 16; lane; lane /= 2)
        key = greater(key, __shfl_xor_sync(0xffffffffu, key, lane));
    return key;
}

/* Of row[i], row[i + step], ... below N, eight loads under way at a time; 0 is below every key. */
__device__ static uint64_t thread_greatest(const float *row, uint32_t i, uint32_t step, uint32_t N)
{
    uint64_t key = 0;
    for (; i < N && N - i > 7 * step; i += 8 * step) {
        float v[8];
#pragma unroll
        for (int u = 0; u < 8; u++)
            v[u] = row[i + (uint32_t)u * step];
#pragma unroll
        for (int u = 0; u < 8; u++)
            key = greater(key, key_of(v[u], i + (uint32_t)u * step));
    }
    for (; i < N; i += step)
        key = greater(key, key_of(row[i], i));
    return key;
}

/* The block's greatest key, in its first warp. */
__device__ static uint64_t block_greatest(uint64_t key, uint64_t *of_warp)
{
    key = warp_greatest(key);
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = key;
    __syncthreads();
    return threadIdx.x < 32 ? warp_greatest(of_warp[threadIdx.x]) : 0;
}

static __global__ void __launch_bounds__(THREADS)
    argmax_rows(const float *x, size_t ldx, uint32_t N, uint32_t *best)
{
    __shared__ uint64_t of_warp[THREADS / 32];
    uint64_t key = block_greatest(thread_greatest(x + blockIdx.x * ldx, threadIdx.x, THREADS, N), of_warp);
    if (threadIdx.x == 0)
        best[blockIdx.x] = ~(uint32_t)key;
}

static __global__ void __launch_bounds__(THREADS)
    argmax_clusters(const float *x, size_t ldx, uint32_t N, uint32_t *best)
{
#if __CUDA_ARCH__ >= 900
    __shared__ uint64_t of_warp[THREADS / 32];
    __shared__ uint64_t of_block[CLUSTER];
    cooperative_groups::cluster_group cluster = cooperative_groups::this_cluster();
    const uint32_t row = blockIdx.x / CLUSTER, rank = cluster.block_rank();
    /* Nobody writes into a block that has not begun. */
    auto begun = cluster.barrier_arrive();
    cudaGridDependencySynchronize(); /* x is the kernel's before us */
    uint64_t key = thread_greatest(x + row * ldx, rank * THREADS + threadIdx.x, CLUSTER * THREADS, N);
    key = block_greatest(key, of_warp);
    cluster.barrier_wait(std::move(begun));
    if (threadIdx.x == 0)
        cluster.map_shared_rank(of_block, 0)[rank] = key;
    cluster.sync();
    if (rank == 0 && threadIdx.x == 0) {
        for (int i = 1; i < CLUSTER; i++)
            key = greater(key, of_block[i]);
        best[row] = ~(uint32_t)key;
    }
#endif
}

static void launch_clusters(struct device *d, const struct device_argmax_args *a)
{
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = CLUSTER;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t launch = {};
    launch.gridDim = dim3((unsigned)a->T * CLUSTER);
    launch.blockDim = dim3(THREADS);
    launch.stream = cuda_compute(d);
    launch.attrs = attributes;
    launch.numAttrs = 2;
    cuda_keep(d, cudaLaunchKernelEx(&launch, argmax_clusters, a->x, a->ldx, (uint32_t)a->N, a->best),
              "argmax");
}

void cuda_argmax(struct device *d, const struct device_argmax_args *a)
{
    if (!a->N || a->N > (size_t)1 << 31 || a->ldx < a->N || a->T > DEVICE_CHUNK_T) {
        cuda_refuse(d, "argmax", "a shape that it does not take");
        return;
    }
    if (!a->T)
        return;
    if (cuda_of(d)->hopper) {
        launch_clusters(d, a);
        return;
    }
    argmax_rows<<<(unsigned)a->T, THREADS, 0, cuda_compute(d)>>>(a->x, a->ldx, (uint32_t)a->N, a->best);
    cuda_check(d, "argmax");
}
