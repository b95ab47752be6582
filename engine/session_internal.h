/* SPDX-License-Identifier: Apache-2.0 */
/* session_internal.h - what the files of this folder share; nobody else includes it. */
#ifndef LECTERN_ENGINE_SESSION_INTERNAL_H
#define LECTERN_ENGINE_SESSION_INTERNAL_H

#include "engine/base/buf.h"
#include "engine/device/device_engine.h"
#include "engine/duo/cache.h"
#include "engine/model/lora.h"
#include "engine/model/model.h"
#include "engine/model/rope_table.h"
#include "engine/session.h"
#include "engine/token/tokenizer.h"
#include "kernels/device.h"

_Static_assert((int)KV_PAGE == (int)KV_PAGE_TOKENS, "page size");
_Static_assert((int)KV_BLOCK == (int)CACHE_BLOCK_PAGES * (int)KV_PAGE_TOKENS, "block size");
_Static_assert((int)SESSION_GUESSES <= (int)DEVICE_DECODE_T, "a decode step takes a token and its guesses");
_Static_assert((int)KV_CHUNK == (int)CACHE_CHUNK, "chunk size");

struct engine {
    const struct engine *base; /* a variant's, which owns all but the layout; else NULL */
    const struct kernels *kernels;
    struct pool *pool; /* used by one session's step at a time */
    struct model *model;
    struct tokenizer *tokenizer;
    struct lora *lora; /* or NULL */
    struct rope_table rope;
    struct cache_layout layout;
    struct device_engine *device; /* or NULL: the layers run here */
    int weights;                  /* enum device_weight_format, 0 without a device */
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
    uint8_t *proof_scan;   /* [hr_max] scan summaries, likewise */
    void *scratch;         /* of linear and lora */
    size_t scratch_bytes;
    uint8_t *attend_scratch;    /* [threads] */
    size_t attend_bytes;        /* of each */
    struct attend_block *lists; /* [threads][list_cap] */
    size_t list_cap;
    float *mass; /* [SESSION_GUESSES][HK][list_cap], while watched; row 0 alone but for guesses */
};

enum { LOGIT_ROWS = 16 };

/* Page selection of a device's steps, and what its audits saw. */
struct session_selection {
    size_t pages, recent, audit_every;
    size_t steps, audits;
    double visited[2];
};

struct session {
    const struct engine *engine;
    struct device_session *device; /* holds the caches; `cache` is their form in host memory. Or NULL */
    struct session_selection selection;
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
    /* A hash over all layers of what attention gave each of the last tokens, at position % 8: the finest
     * sign of a changed key or value, before later roundings can swallow it. _now: of the present chunk. */
    uint64_t witness[CACHE_REPLAY], witness_now[CACHE_REPLAY];
    int guessing;      /* the pass is of a token and guesses: attention is summed row by row */
    int proving;       /* the pass repeats a stored token: blocks are compared, not written */
    int proof_differs; /* a packed page came out with other bytes */
};

int workspace_init(struct workspace *w, const struct engine *g, struct err *e);
void workspace_fini(struct workspace *w);

/* Runs ids[0..T) (1 <= T <= KV_CHUNK) at s->position through the layers; caches hold them when it returns 0,
 * and the caller then advances the position. `all` asks for every token's logits through options->logits,
 * otherwise the last token's go to last_logits. Nothing that the timeline needs is lost on failure or cancel.
 */
int forward_chunk(struct session *s, const uint32_t *ids, size_t T, const struct append_options *options,
                  struct err *e);

/* session_device.c: the same on a device; nothing follows. */
int session_device_open(struct session *s, struct err *e);
int session_device_pass(struct session *s, const uint32_t *ids, size_t T,
                        const struct append_options *options, struct err *e);

/* A token and its guesses, of which *kept stay: known when options->logits has seen all rows. */
int session_device_guesses(struct session *s, const uint32_t *ids, size_t n,
                           const struct append_options *options, const size_t *kept, struct err *e);

/* Tokens [first, first + n) of the last page, which are there already, once more; their page's records and
 * summaries stay as they are. */
int session_device_repeat(struct session *s, size_t first, size_t n, struct err *e);

/* What follows after the layers: `cur` tail flips, mass is added up. */
void forward_commit(struct session *s, size_t T);

/* The part of it that concerns the last tokens' witnesses, for a chunk that began at `first`. */
void forward_keep_witness(struct session *s, size_t first, size_t T);

/* Empties the timeline, giving mapped blocks back. */
int session_reset(struct session *s, struct err *e);

/* The caches forget what lies past `position`; the rest of the session is the caller's. */
int session_cut(struct session *s, size_t position, struct err *e);

/* Room for n token ids in all. */
int session_reserve(struct session *s, size_t n, struct err *e);

/* key <- the key of what follows `key` by n <= KV_BLOCK ids; `mark` tells checkpoints ("checkpoint") from
 * blocks (""). */
void chain_extend(uint8_t key[KV_KEY_BYTES], const uint32_t *ids, size_t n, const char *mark);

enum { CHECKPOINT_HEADER_BYTES = 384, CHECKPOINT_TOP = 32, CHECKPOINT_NAME_BYTES = 16 };

/* What a checkpoint says besides cache.h's state. */
struct checkpoint {
    char kernels[CHECKPOINT_NAME_BYTES]; /* the writer's, ends with NUL */
    int has_logits;
    uint8_t witness[16]; /* XXH3-128 of the last cache_replay tokens' witnesses */
    uint8_t digest[16];  /* XXH3-128 of the last token's logits, f32 [V] */
    uint32_t n_top;      /* min(CHECKPOINT_TOP, V) */
    struct {
        uint32_t id;
        float logit;
    } top[CHECKPOINT_TOP]; /* the largest, descending, lower ids first among equals */
};

/* The digest of the session's witnesses at its position. */
void checkpoint_take_witness(struct checkpoint *c, const struct session *s);

/* Digest and largest ones of logits [V]. */
void checkpoint_take_logits(struct checkpoint *c, const float *logits, size_t V);

/* Header bytes for it, and back; reading checks magic, version, identity, position and the state's size. */
void checkpoint_write(const struct engine *g, const struct checkpoint *c, size_t position, size_t state_bytes,
                      struct buf *out);
int checkpoint_read(const struct engine *g, const uint8_t *data, size_t size, size_t position,
                    struct checkpoint *out, struct err *e);

/* Computes the last tokens of the session's caches again and holds the result against what they and the
 * checkpoint say; leaves caches as they were and the last token's logits in place. ERR_FORMAT: it differs. */
int session_prove(struct session *s, const struct checkpoint *c, struct restore_report *report,
                  struct err *e);

#endif
