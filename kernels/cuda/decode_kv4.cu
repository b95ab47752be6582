/* SPDX-License-Identifier: Apache-2.0 */
/* decode_kv4.cu - attention of a decode step over kv4 records. */
#include "kernels/cuda/decode_attend.cuh"

cudaError_t decode::attend_kv4(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream)
{
    return launch_format<4, 4, 8>(a, D, smem_block, hopper, stream);
}
