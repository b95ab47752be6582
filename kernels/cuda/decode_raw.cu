/* SPDX-License-Identifier: Apache-2.0 */
/* decode_raw.cu - attention of a decode step over raw records. */
#include "kernels/cuda/decode_attend.cuh"

cudaError_t decode::attend_raw(struct args *a, int D, size_t smem_block, int hopper, cudaStream_t stream)
{
    return launch_format<16, 16, 3>(a, D, smem_block, hopper, stream);
}
