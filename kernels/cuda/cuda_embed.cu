/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_embed.cu - y f32 [T][ldy] = rows ids[t] of a raw table [V][C] in its file's type, bit for bit what the
 * CPU decodes: a block for each 512 columns of a row. Blocks of a quantised row start at any even address, so
 * bytes are read. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_device.h"

enum { THREADS = 256, COLUMNS = 512, QUANT = 32 };

__device__ static float half_at(const uint8_t *p)
{
    return __half2float(__ushort_as_half((unsigned short)(p[0] | p[1] << 8)));
}

__device__ static float value(enum tensor_type type, const uint8_t *raw, size_t c)
{
    size_t block = c / QUANT, k = c % QUANT;
    switch (type) {
    case TENSOR_F32:
        return __uint_as_float(raw[4 * c] | raw[4 * c + 1] << 8 | raw[4 * c + 2] << 16 |
                               (unsigned)raw[4 * c + 3] << 24);
    case TENSOR_F16:
        return half_at(raw + 2 * c);
    case TENSOR_BF16:
        return __uint_as_float((unsigned)raw[2 * c] << 16 | (unsigned)raw[2 * c + 1] << 24);
    case TENSOR_Q8_0: {
        const uint8_t *b = raw + block * 34;
        return __fmul_rn(half_at(b), (float)(int8_t)b[2 + k]);
    }
    default: {
        const uint8_t *b = raw + block * (type == TENSOR_Q4_1 ? 20 : 18);
        uint8_t codes = b[(type == TENSOR_Q4_1 ? 4 : 2) + k % 16];
        int code = k < 16 ? codes & 15 : codes >> 4;
        if (type == TENSOR_Q4_0) /* + 0, as the reference's: -0 becomes 0 */
            return __fadd_rn(__fmul_rn(half_at(b), (float)(code - 8)), 0.0f);
        return __fadd_rn(__fmul_rn(half_at(b), (float)code), half_at(b + 2));
    }
    }
}

__global__ void __launch_bounds__(THREADS)
    embed_rows(enum tensor_type type, const uint8_t *raw, size_t row_bytes, size_t V, size_t C,
               const uint32_t *ids, float *y, size_t ldy)
{
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion(); /* the next product fetches its weights meanwhile */
#endif
    size_t t = blockIdx.x, id = ids[t];
    const uint8_t *row = raw + id * row_bytes;
    const size_t first = (size_t)blockIdx.y * COLUMNS, end = first + COLUMNS < C ? first + COLUMNS : C;
    for (size_t c = first + threadIdx.x; c < end; c += THREADS)
        y[t * ldy + c] = id < V ? value(type, row, c) : __int_as_float(0x7fc00000);
}

void cuda_embed(struct device *d, const struct device_embed_args *a)
{
    size_t row_bytes = tensor_row_bytes(a->type, a->C);
    if (!row_bytes || a->T > DEVICE_CHUNK_T || a->ldy < a->C || a->C > COLUMNS * (size_t)65535) {
        cuda_refuse(d, "embed", "a shape that it does not take");
        return;
    }
    if (!a->T)
        return;
    dim3 grid((unsigned)a->T, (unsigned)((a->C + COLUMNS - 1) / COLUMNS));
    embed_rows<<<grid, THREADS, 0, cuda_compute(d)>>>(a->type, (const uint8_t *)a->raw, row_bytes, a->V, a->C,
                                                      a->ids, a->y, a->ldy);
    cuda_check(d, "embed");
}
