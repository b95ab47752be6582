/* SPDX-License-Identifier: Apache-2.0 */
/* lora.h - a low-rank adapter, applied beside the quantised weights: y += (x . A^T) . B^T.
 *
 * A folder with adapter.safetensors (blk.N.attn_{q,k,v,output}.weight.lora_a [r][K] and lora_b [N][r]; the
 * scale is folded into B, rows in the model's order) and config.json (rope_theta, context_length).
 */
#ifndef LECTERN_ENGINE_MODEL_LORA_H
#define LECTERN_ENGINE_MODEL_LORA_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/model/model.h"
#include "kernels/kernels.h"

enum lora_target { LORA_Q, LORA_K, LORA_V, LORA_O, LORA_TARGETS };

/* Both NULL where the adapter leaves this matrix alone. */
struct lora_pair {
    const struct weight *a; /* [r][K] */
    const struct weight *b; /* [N][r] */
    size_t rank;            /* 0 when absent */
};

struct lora;

/* `folder` holds the two files; config.json may be missing. Shapes are checked against the model, a tensor
 * that fits no matrix of it is an error: half an adapter is never applied. *out is NULL after an error. */
int lora_open(const char *folder, const struct model *model, const struct kernels *kernels, struct lora **out,
              struct err *e);
void lora_close(struct lora *l); /* NULL is legal */

/* The same pair as it lies in the mapped file, for a device that packs it its own way. */
struct lora_raw {
    enum tensor_type a_type, b_type;
    const void *a, *b; /* [r][K] and [N][r] rows of tensor_row_bytes; NULL where the adapter does nothing */
    size_t N, K, rank;
};
struct lora_raw lora_raw(const struct lora *l, size_t layer, enum lora_target target);

const struct lora_pair *lora_pair(const struct lora *l, size_t layer, enum lora_target target);
size_t lora_max_rank(const struct lora *l);
double lora_rope_base(const struct lora *l); /* 0 = keep the model's */
size_t lora_context(const struct lora *l);   /* tokens it was made for; 0 = not said */
/* XXH3-128 over the tensors' file and the RoPE base. */
void lora_hash(const struct lora *l, uint8_t out[16]);

#endif
