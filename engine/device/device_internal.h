/* SPDX-License-Identifier: Apache-2.0 */
/* device_internal.h - what the files of this folder share; nobody else includes it.
 *
 * Work buffers belong to the engine and serve one pass at a time; a change of their addresses raises
 * `generation`, at which every session drops its recorded steps.
 */
#ifndef LECTERN_ENGINE_DEVICE_DEVICE_INTERNAL_H
#define LECTERN_ENGINE_DEVICE_DEVICE_INTERNAL_H

#include "engine/device/device_engine.h"
#include "engine/device/device_plan.h"

enum {
    BLOCK_TOKENS = DEVICE_BLOCK_PAGES * KV_PAGE_TOKENS,
    LOGIT_SLICE = 32, /* rows of logits at a time when a prefill pass has to give them all */
    RANK_PAD = 32     /* ranks of adapters are padded with zeros to a multiple */
};

/* y += B (A x) for one of q, k, v, o; columns of the first product and of y. */
struct device_lora {
    struct device_weight *b; /* [N][rank] or NULL */
    size_t from, to;
};

struct device_layer {
    struct device_weight *qkv, *o, *gate_up, *down;
    const float *attn_norm, *ffn_norm, *bias; /* device; bias of q, k, v or NULL */
    struct device_weight *lora_a;             /* of q, k, v, appended; or NULL */
    size_t lora_rank;                         /* its rows */
    struct device_weight *lora_o;             /* A of o; or NULL */
    size_t lora_o_rank;
    struct device_lora lora[LORA_TARGETS];
};

/* Buffers of one pass; see device_work.c. `host` names pinned memory. */
struct device_work {
    float *x;           /* [chunk][C] */
    float *qkv;         /* [chunk][(H + 2 HK) D] */
    uint16_t *attended; /* [chunk][H D] */
    uint16_t *act;      /* [chunk][F] */
    uint16_t *low;      /* [chunk][low_columns]: adapters' first product */
    size_t low_columns;
    uint32_t *ids; /* [chunk] */
    float *logits; /* [LOGIT_SLICE][ld_logits] */
    size_t ld_logits;
    uint32_t *best;   /* [DEVICE_DECODE_T] */
    uint32_t *failed; /* [1] */
    float *visited;   /* [2] */
    struct device_step *step;
    void *scratch;
    size_t scratch_bytes, scratch_wanted; /* equal, but after a failure to make it larger */
    uint32_t *ids_host;
    float *logits_host;
    uint32_t *best_host, *failed_host;
    float *visited_host;
    struct device_step *step_host;
    uint64_t bytes;
};

/* What an engine and its variants share. */
struct device_shared {
    struct device *device;
    const struct device_ops *ops;
    struct device_shape shape; /* numbers of the model */
    size_t chunk, context;
    uint64_t kv_bytes; /* of blocks on the card; 0: what is free */
    struct device_layer *layers;
    struct device_weight *output;
    const float *output_norm;
    const void *embed;
    enum tensor_type embed_type;
    struct device_rope rope;
    uint64_t weight_bytes, step_bytes;
    struct device_plan plan;
    int planned;
    struct device_work work;
    uint64_t generation;
    void **taken; /* device memory that lives as long as this */
    size_t n_taken, cap_taken;
};

struct device_engine {
    const struct device_engine *base; /* a variant's; else NULL */
    struct device_shared *shared;
    const struct cache_layout *layout;
    uint32_t *heads; /* host: hr, hr_before, hs_before [L] each, then heads [L][HK] */
    uint32_t *heads_device;
};

enum { PASS_MASS = 1, PASS_SELECT = 2, PASS_AUDIT = 4, PASS_QUIET = 8, PASS_MODES = 16 };

struct device_block {
    uint8_t *address; /* in device code; NULL when no head retrieves */
    uint8_t *host;    /* the same memory when it is host memory, else NULL */
    uint8_t *mirror;  /* pinned copy of a finished block on its way to a sink, or NULL */
    int stored;
};

struct device_slab {
    void *memory; /* device, or pinned host memory */
    int is_host;
};

struct device_session {
    const struct device_engine *g;
    size_t position;
    struct device_kv kv;
    uint8_t *tail[2], *stream[2];
    size_t tail_bytes, stream_bytes;
    int cur;                     /* of the two, kv points there */
    struct device_block *blocks; /* [n_blocks], room for kv.cap_blocks */
    size_t n_blocks;
    uint64_t *addresses;        /* host copy of kv.blocks */
    uint64_t *addresses_device; /* kv.blocks */
    struct device_slab *slabs;
    size_t n_slabs, cap_slabs;
    uint64_t card_bytes, host_bytes;
    float *mass, *mass_host; /* [DEVICE_DECODE_T][mass_pages], of each row, when somebody has watched */
    size_t mass_pages;       /* 16 * cap_blocks */
    struct device_selection selection;
    uint32_t *pages, *counts; /* of the list: [HK][list_stride], [HK] */
    size_t list_stride;
    struct device_graph *graphs[PASS_MODES][DEVICE_DECODE_T];
    uint64_t generation; /* of the work buffers in the graphs */
    uint8_t *held;       /* records and summaries of one page of every head, device */
    int holding;
    int mirroring;
    size_t mirror_next; /* blocks below it have been looked at by mirror_one */
    uint8_t **mirrors;  /* free pinned copies */
    size_t n_mirrors, cap_mirrors;
    struct staging *staging;
};

/* Memory that lives as long as the engine. */
int shared_take(struct device_shared *g, size_t bytes, void **out, struct err *e);
/* The same with the bytes of `from`, which is host memory. */
int shared_take_copy(struct device_shared *g, const void *from, size_t bytes, void **out, struct err *e);

/* device_weights.c */
int weights_upload(struct device_shared *g, enum device_weight_format format, const struct model *m,
                   const struct lora *lora, struct err *e);
int weights_random(struct device_shared *g, enum device_weight_format format, uint64_t seed, struct err *e);
void weights_free(struct device_shared *g);

/* device_work.c */
int work_init(struct device_shared *g, struct err *e);
void work_fini(struct device_shared *g);
int work_scratch(struct device_shared *g, size_t bytes, struct err *e); /* at least so many */

/* device_session.c */
/* Sizes of a layout for H query heads. counts [3][L], kept by the caller: hr, hr_before, hs_before. The
 * addresses are left empty. */
void device_kv_shape(struct device_kv *kv, const struct cache_layout *y, size_t H, const uint32_t *counts);
uint8_t *block_record(const struct device_session *s, size_t b, size_t l, size_t page); /* slot 0 */
uint8_t *block_scan(const struct device_session *s, size_t b, size_t l, size_t page);
/* Room in the table of addresses, and scratch for so many blocks. */
int table_reserve(struct device_session *s, size_t blocks, struct err *e);
void session_drop_graphs(struct device_session *s);
void blocks_free(struct device_session *s);

/* device_mirror.c: queues copies of finished blocks when somebody saves. */
int mirror_finished(struct device_session *s, size_t from, struct err *e);
void mirror_one(struct device_session *s); /* the next one alone */
void mirror_drop(struct device_session *s, size_t from);
void mirror_fini(struct device_session *s);

/* device_copy.c: pinned staging; segments are added, flush waits until all are done. */
struct staging;
int staging_create(struct staging **out, struct device *d, struct err *e);
void staging_free(struct staging *t);
/* Host to device, or back, in any sizes; memory may go after the next flush. */
int staging_up(struct staging *t, void *to_device, const void *from_host, size_t bytes, struct pool *pool,
               struct err *e);
int staging_down(struct staging *t, void *to_host, const void *from_device, size_t bytes, struct err *e);
int staging_flush(struct staging *t, struct err *e);

#endif
