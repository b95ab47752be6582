/* SPDX-License-Identifier: Apache-2.0 */
/* decode_kv8.cu - attention of a decode step over kv8 records. */
#include "kernels/cuda/decode_attend.cuh"

cudaError_t decode::attend_kv8(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream)
{
    return launch_format<8, 8, 4>(a, D, smem_block, hopper, stream);
}
