/* SPDX-License-Identifier: Apache-2.0 */
/* device_plan.h - what goes where on a card, and how many tokens fit, before anything is loaded.
 *
 * Arithmetic alone, from the model's shape, the head split, the page format, the weights' format and the
 * card's memory; what scratch takes at a length is asked of the ops through a callback. The numbers are those
 * that device_work.c, device_weights.c and device_session.c then take: they change together.
 *
 *   card   [ weights | work buffers | scratch | tails and rings, twice | tables | KV blocks ...    | reserve
 * ] host   [ KV blocks beyond the card, pinned ]
 */
#ifndef LECTERN_ENGINE_DEVICE_DEVICE_PLAN_H
#define LECTERN_ENGINE_DEVICE_DEVICE_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/device/device_engine.h"
#include "engine/duo/cache.h"
#include "engine/model/gguf.h"
#include "engine/model/lora.h"
#include "kernels/device.h"

/* Left to drivers and libraries (device_session.c leaves as much), and to the roundings of some buffers. */
#define PLAN_CARD_RESERVE ((uint64_t)(768 + 32) << 20)

enum { PLAN_CONTEXT = 65536 }; /* tokens that are made room for when nobody says how many */

struct device_plan_input {
    struct device_shape shape;
    const struct cache_layout *layout;
    uint64_t weights;    /* bytes of matrices, norms and embedding; plan_weights_of_... */
    size_t chunk;        /* tokens of a prefill pass; 0: DEVICE_CHUNK_T */
    size_t lora_columns; /* of the adapter's first product; 0 without */
    size_t context;      /* tokens asked for; 0: PLAN_CONTEXT, and no more is promised */
    uint64_t card_free;  /* bytes */
    uint64_t host_free;  /* bytes that may be pinned */
    uint64_t kv_bytes;   /* of blocks on the card, at most; 0: what is free */
    uint64_t (*scratch)(void *arg, size_t tokens); /* bytes of scratch for a context; does not fall */
    void *scratch_arg;
};

struct device_plan {
    uint64_t weights, work, scratch, rows, tables, reserve; /* on the card; rows: tails and rings */
    uint64_t block_bytes;                                   /* of 1,024 tokens; 0: no head retrieves */
    size_t context;                                         /* planned for */
    uint64_t kv_card, kv_host;                              /* of blocks at that context */
    uint64_t card_free, host_free;                          /* as given */
    size_t fit_card, fit_all; /* tokens: all on the card; with host memory. SIZE_MAX: any number */
};

/* Bytes of one matrix [N][K] on a card; AUTO with the file's type. */
uint64_t plan_matrix_bytes(enum device_weight_format format, enum tensor_type type, size_t N, size_t K);

/* Sums of what allocations really take, 2 MiB at a time: over a model file's tensors, over a shape with
 * random weights, over an adapter. */
uint64_t plan_weights_of_file(const struct gguf *g, const struct device_shape *s,
                              enum device_weight_format format);
uint64_t plan_weights_of_shape(const struct device_shape *s, enum device_weight_format format);
uint64_t plan_weights_of_lora(const struct lora *l, const struct device_shape *s, size_t *columns);

void device_plan_make(const struct device_plan_input *in, struct device_plan *out);

/* ERR_MEMORY with a one-line remedy when weights and buffers do not fit; ERR_LIMIT when the context that was
 * asked for does not. */
int device_plan_check(const struct device_plan_input *in, const struct device_plan *p, struct err *e);

/* The plan that an engine on a card was opened with; NULL on the host device. */
const struct device_plan *device_engine_plan(const struct device_engine *g);

/* ---- asking a device (device_plan_ask.c) --------------------------------------------------------------- */

/* Fills card_free, host_free and scratch of `in`, whose other members are set, makes the plan, and forgets
 * the callback. */
int device_plan_ask(struct device *d, struct device_plan_input *in, struct device_plan *out, struct err *e);

#endif
