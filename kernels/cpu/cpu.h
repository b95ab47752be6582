/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.h - the vector ops of x86-64, known to kernels/ alone. The suffix names what the processor must have.
 */
#ifndef LECTERN_KERNELS_CPU_CPU_H
#define LECTERN_KERNELS_CPU_CPU_H

#include "kernels/linear.h"

void linear_avx2(const struct linear_args *a);
void linear_avx512vnni(const struct linear_args *a);
void lora_avx2(const struct lora_args *a);
void lora_avx512vnni(const struct lora_args *a);

void rms_norm_avx2(const struct rms_norm_args *a);
void rms_norm_avx512(const struct rms_norm_args *a);
void silu_mul_avx2(const struct silu_mul_args *a);
void silu_mul_avx512(const struct silu_mul_args *a);
void rope_apply_avx2(const struct rope_apply_args *a);
void rope_apply_avx512(const struct rope_apply_args *a);
void half_encode_avx2(const struct half_encode_args *a);
void half_encode_avx512(const struct half_encode_args *a);
void half_decode_avx2(const struct half_decode_args *a);
void half_decode_avx512(const struct half_decode_args *a);
void kv_page_pack_avx2(const struct kv_page_pack_args *a);
void kv_page_pack_avx512(const struct kv_page_pack_args *a);
void attend_avx2(const struct attend_args *a);
void attend_avx512(const struct attend_args *a);

#endif
