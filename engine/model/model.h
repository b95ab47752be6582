/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - a loaded language model: hyper-parameters and typed weights, immutable after opening.
 *
 * Everything a file says is checked before it is used: each hyper-parameter has a range, each tensor exactly
 * the shape that the hyper-parameters demand. Rows of q, k, v and o stay in the file's order; the engine maps
 * heads by index.
 *
 * Letters: L layers, H query heads, HK KV heads, D head_dim, C hidden width, F ffn width, V vocabulary.
 */
#ifndef LECTERN_ENGINE_MODEL_MODEL_H
#define LECTERN_ENGINE_MODEL_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/base/pool.h"
#include "engine/base/progress.h"
#include "engine/model/gguf.h"
#include "kernels/kernels.h"

enum model_rope_scaling {
    MODEL_SCALING_NONE,
    MODEL_SCALING_LINEAR,
    MODEL_SCALING_NTK, /* base raised by factor^(n/(n-2)), n = rotated dimensions */
    MODEL_SCALING_YARN,
    MODEL_SCALING_LLAMA3,
};

/* How positions turn into angles. rope_table.h makes the steps of it. */
struct model_rope {
    enum rope_kind kind; /* kernels.h; GGUF's llama rows are permuted to pairs, qwen2's are halves */
    enum model_rope_scaling scaling;
    size_t dims;                 /* rotated dimensions of a head, even, <= D */
    double base;                 /* theta */
    double scale;                /* context factor >= 1 of linear, NTK, YaRN and llama3 */
    double original_context;     /* tokens; YaRN and llama3 */
    double attn_factor;          /* YaRN: further factor on the magnitude; 0 = the method's own alone */
    double beta_fast, beta_slow; /* YaRN's ramp */
    double low_freq_factor, high_freq_factor; /* llama3 */
    const float *factors; /* [dims/2] divisors out of rope_freqs.weight, owned by the model; or NULL */
};

struct model_params {
    const char *arch; /* "llama" or "qwen2"; owned by the model */
    const char *name; /* general.name or the file's name */
    size_t L, C, H, HK, D, F, V;
    size_t context_train; /* tokens */
    float norm_eps;
    struct model_rope rope;
    int has_qkv_bias;
    int tied_output; /* the output matrix is token_embd */
};

struct model_layer {
    const float *attn_norm;    /* [C] */
    const struct weight *q;    /* [H*D][C] */
    const struct weight *k;    /* [HK*D][C] */
    const struct weight *v;    /* [HK*D][C] */
    const struct weight *o;    /* [C][H*D] */
    const float *bq, *bk, *bv; /* [H*D], [HK*D], [HK*D]; NULL without biases */
    const float *ffn_norm;     /* [C] */
    const struct weight *gate; /* [F][C] */
    const struct weight *up;   /* [F][C] */
    const struct weight *down; /* [C][F] */
};

struct model_weights {
    const void
        *embed; /* raw rows of token_embd, [V] of tensor_row_bytes(embed_type, C) bytes, in the mapping */
    enum tensor_type embed_type;
    const float *output_norm;         /* [C] */
    const struct weight *output;      /* [V][C] */
    const struct model_layer *layers; /* [L] */
};

struct model;

/* Maps the GGUF file, checks it and packs its weights through `kernels` (borrowed for the model's life),
 * using `pool` for the duration of the call. Errors: ERR_NOT_FOUND, ERR_IO, ERR_FORMAT (damaged),
 * ERR_UNSUPPORTED (other architecture or tensor type), ERR_MEMORY. *out is NULL after an error. */
int model_open(const char *path, const struct kernels *kernels, struct pool *pool,
               const struct progress *progress, struct model **out, struct err *e);
void model_close(struct model *m); /* NULL is legal */

/* The same without packing: the matrices of model_weights are NULL, those of model_matrix are there. For a
 * device, which packs them its own way. */
int model_map(const char *path, const struct kernels *kernels, struct model **out, struct err *e);

/* A matrix as it lies in the mapped file. */
enum model_part { MODEL_Q, MODEL_K, MODEL_V, MODEL_O, MODEL_GATE, MODEL_UP, MODEL_DOWN, MODEL_PARTS };
struct model_matrix {
    enum tensor_type type;
    size_t rows, cols;
    const void *raw; /* rows * tensor_row_bytes(type, cols) bytes */
};
struct model_matrix model_matrix(const struct model *m, size_t layer, enum model_part part);
struct model_matrix model_output(const struct model *m); /* the embedding's when it is tied */

/* Each borrowed from the model. */
const struct model_params *model_params(const struct model *m);
const struct model_weights *model_weights(const struct model *m);
const struct gguf *model_gguf(const struct model *m);
const char *model_path(const struct model *m);
uint64_t model_bytes(const struct model *m); /* size of the file */

/* XXH3-128 of the whole file, canonical (big-endian) bytes; computed once at opening, or taken from the note
 * that an earlier opening left for the same path, size and time of change. */
void model_hash(const struct model *m, uint8_t out[16]);

#endif
