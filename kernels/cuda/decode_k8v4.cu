/* SPDX-License-Identifier: Apache-2.0 */
/* decode_k8v4.cu - attention of a decode step over k8v4 records. */
#include "kernels/cuda/decode_attend.cuh"

cudaError_t decode::attend_k8v4(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream)
{
    return launch_format<8, 4, 8>(a, D, smem_block, hopper, stream);
}
