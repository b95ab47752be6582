/* SPDX-License-Identifier: Apache-2.0 */
/* ref.h - the plain C ops, known to kernels/ alone: the specification that faster ones are tested against,
 * and the ops themselves where speed is of no matter. */
#ifndef LECTERN_KERNELS_REF_REF_H
#define LECTERN_KERNELS_REF_REF_H

#include "kernels/linear.h"

void ref_linear(const struct linear_args *a);
void ref_lora(const struct lora_args *a);
void ref_rms_norm(const struct rms_norm_args *a);
void ref_silu_mul(const struct silu_mul_args *a);
void ref_add(const struct add_args *a);
void ref_embed(const struct embed_args *a);
void ref_rope_table(const struct rope_table_args *a);
void ref_rope_apply(const struct rope_apply_args *a);
void ref_half_encode(const struct half_encode_args *a);
void ref_half_decode(const struct half_decode_args *a);
void ref_kv_page_pack_raw(const struct kv_page_pack_args *a); /* the record alone */
void ref_kv_page_pack(const struct kv_page_pack_args *a);
void ref_kv_page_unpack(const struct kv_page_unpack_args *a);
void ref_attend(const struct attend_args *a);

#endif
