/* SPDX-License-Identifier: Apache-2.0 */
/* session_internal.h - what engine.c, forward.c, session.c and persist.c share; nobody else includes it. */
#ifndef LECTERN_ENGINE_SESSION_INTERNAL_H
#define LECTERN_ENGINE_SESSION_INTERNAL_H

#include "engine/duo/cache.h"
#include "engine/model/lora.h"
#include "engine/model/model.h"
#include "engine/model/rope_table.h"
#include "engine/session.h"
#include "engine/token/tokenizer.h"

_Static_assert((int)KV_PAGE == (int)KV_PAGE_TOKENS, "page size");
_Static_assert((int)KV_BLOCK == (int)CACHE_BLOCK_PAGES * (int)KV_PAGE_TOKENS, "block size");
_Static_assert((int)KV_CHUNK == (int)CACHE_CHUNK, "chunk size");

struct engine {
    const struct kernels *kernels;
    struct pool *pool; /* used by one session's step at a time */
    struct model *model;
    struct tokenizer *tokenizer;
    struct lora *lora; /* or NULL */
    struct rope_table rope;
    struct cache_layout layout;
    uint8_t identity[KV_KEY_BYTES];
};

/* Buffers of one chunk; every row index is the token's number in the chunk. */
struct workspace {
    float *x, *norm;       /* [KV_CHUNK][C] */
    float *q, *attended;   /* [KV_CHUNK][H*D] */
    float *k, *v;          /* [KV_CHUNK][HK*D] */
    float *gate, *up;      /* [KV_CHUNK][F] */
    float *cos, *sin;      /* [KV_CHUNK][pairs] */
    float *logits;         /* [LOGIT_ROWS][V] */
    uint8_t *raw;          /* [hr_max][CACHE_CHUNK_PAGES] raw records: the chunk's own pages */
    uint8_t *proof_record; /* [hr_max] records, where a proof packs instead of the block */
    void *scratch;         /* of linear and lora */
    size_t scratch_bytes;
    uint8_t *attend_scratch;    /* [threads] */
    size_t attend_bytes;        /* of each */
    struct attend_block *lists; /* [threads][list_cap] */
    size_t list_cap;
    float *mass; /* [HK][list_cap], while watched */
};

enum { LOGIT_ROWS = 16 };

struct session {
    const struct engine *engine;
    uint32_t *tokens; /* [position], room for cap */
    size_t position, cap;
    struct cache cache;
    struct workspace work;
    float *last_logits; /* [V], valid when have_logits */
    int have_logits;
    int watching;
    double *mass_total; /* [mass_pages] */
    size_t mass_pages;
    struct kv_source source; /* of mapped blocks */
    int proving;             /* the pass repeats a stored token: blocks are compared, not written */
    int proof_differs;       /* a packed page came out with other bytes */
};

int workspace_init(struct workspace *w, const struct engine *g, struct err *e);
void workspace_fini(struct workspace *w);

/* Runs ids[0..T) (1 <= T <= KV_CHUNK) at s->position through the layers; caches hold them when it returns 0,
 * and the caller then advances the position. `all` asks for every token's logits through options->logits,
 * otherwise the last token's go to last_logits. Nothing that the timeline needs is lost on failure or cancel.
 */
int forward_chunk(struct session *s, const uint32_t *ids, size_t T, const struct append_options *options,
                  struct err *e);

/* What follows after the layers: `cur` tail flips, mass is added up. */
void forward_commit(struct session *s, size_t T);

/* Empties the timeline, giving mapped blocks back. */
int session_reset(struct session *s, struct err *e);

#endif
