/* SPDX-License-Identifier: Apache-2.0 */
/* bench_cuda_model.h - a model of a shape in a device's memory, with made-up weights and a made-up past: what
 * the measures of `lectern bench cuda` run.
 *
 * A step and a chunk queue the very ops, in the order, that the engine queues. Weights are pseudo-random
 * N(0, 1/K); the past is one made-up block, whose bytes are repeated at different addresses, so no cache
 * holds what a real past would have to fetch. Everything taken is counted and given back by card_model_close.
 */
#ifndef LECTERN_APP_BENCH_CUDA_MODEL_H
#define LECTERN_APP_BENCH_CUDA_MODEL_H

#include "app/bench_cuda.h"

enum { CARD_LAYERS_MAX = 128, CARD_OWNED = 512 };

enum card_matrix { CARD_QKV, CARD_O, CARD_GATE_UP, CARD_DOWN, CARD_MATRICES };

struct card_model {
    struct device *d;
    const struct card_shape *s;
    double share;
    size_t L;                         /* layers in use: the shape's, or fewer */
    enum device_weight_format format; /* of the layers */
    struct device_weight *w[CARD_LAYERS_MAX][CARD_MATRICES];
    struct device_weight *output; /* [V][C] */
    enum tensor_type embed_type;
    void *embed;
    float *norm, *bias; /* ones [C]; zeros [all columns of qkv], or NULL */
    uint64_t *steps;    /* RoPE [D/2] */

    struct device_kv kv;
    uint32_t hr[CARD_LAYERS_MAX], hr_before[CARD_LAYERS_MAX], hs_before[CARD_LAYERS_MAX];
    uint32_t *heads_host;
    uint64_t tokens; /* that the caches hold */
    uint64_t kv_bytes;

    /* Room for rows of activations and scratch, of the larger of the calls asked for. */
    size_t T, ldqkv;
    float *x, *qkv, *logits;
    uint16_t *attended, *hidden;
    uint32_t *ids, *best, *failed;
    uint8_t *tail_next, *stream_next;
    void *scratch, *attend_scratch;
    size_t scratch_bytes, attend_bytes;
    struct device_page_list list; /* of selection: pages and counts, or NULL */
    float *visited;

    struct device_step *step;      /* on the device */
    struct device_step *step_host; /* memory that copies run from */
    uint32_t *best_host;

    void *owned[CARD_OWNED], *owned_host[8];
    size_t n_owned, n_host;
    uint64_t bytes; /* taken on the device, weights and all */
};

/* The format of a name ("w8", ...) for this shape; DEVICE_W_AUTO when unknown. */
enum device_weight_format card_weight_format(const struct card_shape *s, const char *name);

/* An empty model: nothing taken. Fewer layers than the shape's when `L` is not 0. */
void card_model_init(struct card_model *m, struct device *d, const struct card_shape *s, double share,
                     size_t L);
void card_model_close(struct card_model *m);

/* Memory of the device, or of the host for copies, that the model owns; *out, a pointer of any type, is set.
 */
int card_take(struct card_model *m, size_t bytes, void *out, struct err *e);
int card_take_host(struct card_model *m, size_t bytes, void *out, struct err *e);

/* Bytes that these will take, near enough to tell whether they fit. */
uint64_t card_weights_bytes(const struct card_shape *s, enum device_weight_format format);
uint64_t card_kv_bytes(const struct card_model *m, int kv_format, uint64_t tokens);

uint64_t card_room_bytes(struct card_model *m, int kv_format, uint64_t tokens,
                         size_t T); /* before card_model_kv */

/* The matrices, norms and the embedding. */
int card_model_weights(struct card_model *m, enum device_weight_format format, struct err *e);
/* Caches for `tokens`, empty (a prefill fills them itself), with a made-up past, or with one whose summaries
 * also differ from block to block. */
enum card_past { CARD_PAST_NONE, CARD_PAST, CARD_PAST_VARIED };
int card_model_kv(struct card_model *m, int kv_format, uint64_t tokens, enum card_past past, struct err *e);
/* Room for steps and chunks of up to T tokens, after the caches. `budget` pages of selection, 0: none. */
int card_model_room(struct card_model *m, size_t T, size_t budget, struct err *e);

/* All queued on DEVICE_COMPUTE, to be captured or run. */
struct card_step {
    size_t T;
    size_t budget, recent; /* selection, 0: all pages */
    int audit;             /* with a budget: dense, and tells what the list would have seen */
};
void card_queue_step(struct card_model *m, const struct card_step *step); /* from step_host to best_host */
void card_queue_attention(struct card_model *m, size_t l, const struct card_step *step);
void card_queue_product(struct card_model *m, size_t l, enum card_matrix which, size_t T);
void card_queue_output(struct card_model *m, size_t T);
/* One chunk of a prefill; the last one of a text also asks for its last token's logits. */
void card_queue_chunk(struct card_model *m, uint64_t pos0, size_t T, int last);
void card_queue_chunk_attention(struct card_model *m, size_t l, uint64_t pos0, size_t T);

/* Bytes that a step of one token reads: matrices of the layers and output; the caches at a position. */
uint64_t card_matrix_bytes(const struct card_model *m);
uint64_t card_past_bytes(const struct card_model *m, uint64_t position);

/* What is taken, with the caches cut down to so many tokens. */
double card_memory_at(const struct card_model *m, uint64_t tokens);

/* A block of made-up records and summaries; the caller frees, NULL when out of memory. */
uint8_t *card_made_up_block(const struct device_kv *kv);

/* The numbers of m->kv for a format, nothing taken. */
void card_shape_kv(struct card_model *m, int kv_format);

#endif
