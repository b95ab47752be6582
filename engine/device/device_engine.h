/* SPDX-License-Identifier: Apache-2.0 */
/* device_engine.h - the forward pass over a device's op table (kernels/device.h): weights, caches, passes.
 *
 * struct device_engine is a model's weights in device memory and the work buffers of one pass, which its
 * sessions share: one pass at a time. struct device_session is the KV of one timeline there. It knows its
 * position alone; token ids, logits and chain keys are the caller's (engine/session.c, or a bench).
 *
 * Invariants: after a pass that failed or was cancelled the caches hold what they held before. Blocks lie in
 * device memory up to a budget, further ones in host memory that the device reads: same bytes, same answers.
 * A whole block below the position is final.
 */
#ifndef LECTERN_ENGINE_DEVICE_DEVICE_ENGINE_H
#define LECTERN_ENGINE_DEVICE_DEVICE_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "engine/base/pool.h"
#include "engine/duo/cache.h"
#include "engine/model/lora.h"
#include "engine/model/model.h"
#include "engine/model/rope_table.h"
#include "kernels/device.h"

struct device_engine;
struct device_session;

struct device_options {
    const char *device;  /* "cuda" or "host" */
    const char *library; /* path of liblectern_cuda.so, or NULL: searched */
    int index;           /* of the card */
    enum device_weight_format weights;
    size_t context;    /* tokens to be ready for; 0: 65,536. More is possible, at the price of new buffers */
    size_t chunk;      /* tokens of a prefill pass, 64..DEVICE_CHUNK_T, a multiple of 64; 0: DEVICE_CHUNK_T */
    uint64_t kv_bytes; /* of blocks in device memory, at most; 0: what is free but for a reserve */
    struct device *opened; /* taken over, also on failure; NULL: opened by the name above */
};

/* Numbers of a model without its file; letters as in model.h. */
struct device_shape {
    const char *name; /* "llama-3-8b" */
    size_t L, C, H, HK, D, F, V;
    float norm_eps;
    double rope_base;
    enum rope_kind rope;
    int qkv_bias;
};

/* "llama-3-8b", "llama-2-7b", "mistral-7b", "qwen2.5-7b", "smollm2-135m"; NULL when unknown. Static. */
const struct device_shape *device_shape_find(const char *name);
const struct device_shape *device_shapes(size_t *n);

/* Uploads the weights of a mapped model (model_map) and, when lora is not NULL, its adapter. The layout must
 * outlive the engine. The call takes as long as the packing. *out is NULL on failure. */
int device_engine_open(struct device_engine **out, const struct device_options *o, const struct model *m,
                       const struct lora *lora, const struct rope_table *rope,
                       const struct cache_layout *layout, struct err *e);

/* An engine of pseudo-random weights, for benches: no file, no tokenizer. layout->L, HK, D are the shape's.
 */
int device_engine_open_shape(struct device_engine **out, const struct device_options *o,
                             const struct device_shape *shape, const struct cache_layout *layout,
                             uint64_t seed, struct err *e);

/* The same weights and work buffers for caches of another page format; base must outlive it. */
int device_engine_variant(struct device_engine **out, const struct device_engine *base,
                          const struct cache_layout *layout, struct err *e);
void device_engine_close(struct device_engine *g); /* NULL is legal; sessions and variants first */

struct device *device_engine_device(const struct device_engine *g);
const char *device_engine_name(const struct device_engine *g); /* "cuda" or "host" */
const struct cache_layout *device_engine_layout(const struct device_engine *g);
size_t device_engine_chunk(const struct device_engine *g); /* tokens of a prefill pass, at most */
uint64_t
device_engine_weight_bytes(const struct device_engine *g);        /* of matrices and embedding, on the card */
uint64_t device_engine_step_bytes(const struct device_engine *g); /* of weights that one decode step reads */
uint64_t device_engine_work_bytes(const struct device_engine *g); /* of work buffers and scratch */

int device_session_create(struct device_session **out, const struct device_engine *g, struct err *e);
void device_session_free(struct device_session *s);  /* NULL is legal; waits for the device */
void device_session_reset(struct device_session *s); /* position 0; blocks stay for reuse */

size_t device_session_position(const struct device_session *s);
const struct device_kv *device_session_kv(const struct device_session *s);
uint64_t device_session_card_bytes(const struct device_session *s); /* of KV in device memory */
uint64_t device_session_host_bytes(const struct device_session *s); /* of blocks in host memory */

/* Page selection of decode steps (kernels/device.h, select): budget 0 is off. An audited step visits all
 * pages and tells what the list would have seen. */
struct device_selection {
    size_t budget, recent; /* pages */
    int audit;             /* of the next passes */
};

struct device_pass {
    struct cancel *cancel; /* may be NULL; looked at before each layer, of which two are queued at most */
    /* Every token's logits [V] in order (borrowed for the call), or NULL: the last one's alone. Non-zero ends
     * the pass with ERR_CANCELLED. */
    int (*logits)(void *arg, size_t position, const float *row);
    void *arg;
    float *last;    /* [V] or NULL: receives the last token's logits */
    uint32_t *best; /* [T] or NULL: receives argmax of each row; only for T <= DEVICE_DECODE_T */
    double *mass;   /* [pages of position + T] or NULL: += shares of the softmax, mean over retrieval heads,
                     * summed over tokens; only for T <= DEVICE_DECODE_T in one page */
    const size_t *rows; /* or NULL: how many rows count in `mass`, looked at after `logits` */
    double *visited;    /* [2] or NULL: += visited and whole softmax mass of an audited step */
};

/* Makes room for tokens below `tokens`: block memory, address table, scratch. A pass does it by itself. */
int device_session_reserve(struct device_session *s, size_t tokens, struct err *e);

/* Runs 1 <= T <= chunk token ids (each < V) at the position and advances it. T <= DEVICE_DECODE_T tokens that
 * lie in one page take the decode path, a captured graph; others prefill. */
int device_session_pass(struct device_session *s, const uint32_t *ids, size_t T, const struct device_pass *p,
                        struct err *e);
/* Logits of row t of the last decode step (borrowed until the next pass). */
const float *device_session_row(const struct device_session *s, size_t t);

/* How many of `left` tokens the next pass should take: up to the chunk grid, or in decode steps of one page
 * while `watching`. */
size_t device_session_next(const struct device_session *s, size_t left, int watching);
void device_session_select(struct device_session *s, const struct device_selection *selection);

/* For benches: the timeline becomes `tokens` long (a multiple of KV_BLOCK, at least the present position,
 * which is one, too) by its whole blocks again and again; tail and streaming rows stay what they are. */
int device_session_repeat(struct device_session *s, size_t tokens, struct err *e);

/* ---- between device and host: the shadow --------------------------------------------------------------
 * A struct cache in host memory serves as the form in which state is written, read and compared (cache.h).
 * Its whole blocks are hollow: without memory. With `blocks_too` 0 the unfilled block stays out, as in
 * cache_state_write.
 */

/* The shadow becomes the state at the position: tails, sinks, ring, and the unfilled block's pages. */
int device_session_pull(struct device_session *s, int blocks_too, struct cache *shadow, struct err *e);
/* The device's state becomes the shadow's at `position`, whose whole blocks are on the device already. */
int device_session_push(struct device_session *s, size_t position, int blocks_too, const struct cache *shadow,
                        struct err *e);

/* Forgets what lies past `position`. Tails and rings are not touched: a push, or a pass over the end's page,
 * follows; when the cut lies in the last page nothing has to. */
void device_session_truncate(struct device_session *s, size_t position);

/* For a pass over tokens that are there already, all of one page: goes to `first` of that page and keeps what
 * is in the page's records and summaries; the second call brings them back after the pass. */
int device_session_replay(struct device_session *s, size_t first, struct err *e);
int device_session_replayed(struct device_session *s, size_t position, struct err *e);

/* Whole blocks for a sink. borrow gives host memory that stays until give_back; the first call brings over
 * every block that is not stored, and from then on finished blocks come over by themselves beside compute.
 * give_back with `stored` set says that the sink has it. */
int device_session_stored(const struct device_session *s, size_t b);
int device_session_borrow_block(struct device_session *s, size_t b, const uint8_t **data, struct err *e);
void device_session_give_back(struct device_session *s, size_t b, const uint8_t *data, int stored);

/* Appends a stored block (the position is a multiple of KV_BLOCK) out of host memory of any kind, through
 * pinned staging that `pool` (or NULL) fills; data may go when the call returns. put_finish waits for all. */
int device_session_put_block(struct device_session *s, const uint8_t *data, struct pool *pool, struct err *e);
int device_session_put_finish(struct device_session *s, struct err *e);

#endif
