/* SPDX-License-Identifier: Apache-2.0 */
/* linear.h - the parts of the linear op on a card; known to its files alone.
 *
 * T <= DEVICE_DECODE_T: cuda_skinny.cu reads the packed weight once. Beyond: the weight is expanded to rows
 * (cuda_expand.cu), x becomes rows of the product's type (cuda_norm.cu), cublasLt multiplies (cuda_gemm.cu).
 */
#ifndef LECTERN_KERNELS_CUDA_LINEAR_H
#define LECTERN_KERNELS_CUDA_LINEAR_H

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/weight_layout.h"

/* At most DEVICE_DECODE_T rows of x; needs no scratch. */
void linear_skinny(struct device *d, const struct device_linear_args *a);

/* ---- large products --------------------------------------------------------------------------------------
 */

/* Type of both operands. */
enum gemm_type { GEMM_F16, GEMM_BF16, GEMM_FP8 };

/* K of the operands: padded to whole 32 bytes of every type. */
static inline size_t gemm_columns(size_t K)
{
    return (K + 15) / 16 * 16;
}

/* Rows [n0, n1) of W as rows [..][ld] of the product's type, n0 and ld multiples of 16; columns past K are
 * finite. FP8 leaves the row scales where they are, the others apply them. */
void gemm_expand(struct device *d, const struct device_weight *w, size_t n0, size_t n1, enum gemm_type type,
                 size_t ld, void *to);

/* x' of all rows as rows [T][ld] of the product's type, columns past K zero; FP8 with a scale a row. */
void gemm_rows(struct device *d, const struct device_linear_args *a, enum gemm_type type, size_t ld, void *to,
               float *scales);

/* From a product to y: rows [t0, t0 + rows) and the columns of weight rows [n0, n1). acc is f32 or fp16
 * [rows][n1 - n0]; NULL: y holds the product (f32) and only the bias is added. */
void gemm_finish(struct device *d, const struct device_linear_args *a, const void *acc, int acc_is_half,
                 size_t t0, size_t rows, size_t n0, size_t n1);

#endif
