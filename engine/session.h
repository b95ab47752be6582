/* SPDX-License-Identifier: Apache-2.0 */
/* session.h - the engine's face: a loaded model, and timelines over it.
 *
 * struct engine is a model with its adapter and head pattern, immutable once open. struct session is one
 * mutable timeline: token ids, DuoAttention caches (engine/duo/cache.h), the logits of the last token.
 * Nothing of tensors shows here. Appending is exact: the same ids give the same bits whatever the chunking,
 * the number of threads, or a save and restore in between, on one set of kernels (DESIGN.md section 1, "the
 * own-page rule").
 *
 * What lasts goes through struct kv_sink / kv_source, which the program bridges to its store: blocks of
 * KV_BLOCK tokens of quantised retrieval pages and their scan summaries under the hash chain of their token
 * ids, and checkpoints (streaming heads' rings, the unfilled block, the raw own page, the last logits'
 * digest) that make a timeline resumable at one position.
 */
#ifndef LECTERN_ENGINE_SESSION_H
#define LECTERN_ENGINE_SESSION_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "engine/base/progress.h"

struct engine;
struct session;
struct tokenizer;
struct model_params;
struct gguf;

enum {
    KV_PAGE = 64,     /* tokens of a page */
    KV_BLOCK = 1024,  /* tokens of a stored block: 16 pages */
    KV_CHUNK = 512,   /* tokens of one pass through the layers, at most */
    KV_KEY_BYTES = 16 /* of a chain key (XXH3-128) */
};

struct engine_options {
    const char *model_path;   /* GGUF */
    const char *adapter_path; /* folder of a LoRA adapter, or NULL */
    const char *heads_path;   /* folder with full_attention_heads.tsv, or NULL: every head retrieves */
    double sparsity;          /* share of streaming heads 0..1; negative: 0.5 with a pattern, 0 without */
    int sink, recent;         /* tokens; negative: the pattern's, else 64 and 256 */
    int kv_format;            /* enum kv_format of kernels.h (16 raw, 8 kv8, 4 kv4, ...); 0: the default */
    int threads;              /* 0: all processors */
    const char *kernels;      /* kernels_get name, NULL: the fastest here */
    /* Where the layers run: NULL or "cpu", "cuda", "host" (the device engine in plain C, for tests), or
     * "auto": a card when there is one, else the processor. The rest counts for devices alone. */
    const char *device;
    const char *device_library; /* path of liblectern_cuda.so, or NULL: searched beside the program */
    int device_index;           /* number of the card */
    int weights;                /* enum device_weight_format of kernels/device.h; 0: as the file has them */
    size_t context;             /* tokens to make room for at once; 0: grows */
    size_t chunk;               /* tokens of a pass, a multiple of 64; 0: 8,192 */
    uint64_t kv_bytes; /* of KV blocks on the card, at most, the rest in host memory; 0: what is free */
};

/* Loads everything; takes some 100 ms for the default model. On failure *out is NULL. */
int engine_open(struct engine **out, const struct engine_options *options, struct err *e);
void engine_close(struct engine *g); /* NULL is legal; sessions and variants must go first */

/* A second engine over base's model, tokenizer, adapter, threads and head split whose caches have another
 * page format. base must outlive it, and a step of one never runs beside a step of the other. */
int engine_variant(struct engine **out, const struct engine *base, int format, struct err *e);

const struct tokenizer *engine_tokenizer(const struct engine *g);
const struct model_params *engine_params(const struct engine *g);
const struct gguf *engine_gguf(const struct engine *g);
const char *engine_model_path(const struct engine *g);
void engine_model_hash(const struct engine *g, uint8_t hash[16]); /* XXH3-128 of the model file */
const char *engine_kernels(const struct engine *g);
const char *engine_device(const struct engine *g); /* "cpu", "cuda" or "host" */
int engine_threads(const struct engine *g);

/* Tokens of one timeline that have room on a card, and with the host's memory beside it, as planned when the
 * weights were not yet loaded. SIZE_MAX each: the processor computes, or every head streams. */
void engine_room(const struct engine *g, size_t *on_card, size_t *in_all);

/* Longest context in tokens that the model with its adapter was trained for. */
size_t engine_context(const struct engine *g);

/* The root of every chain: a hash over model, tokenizer, adapter, head split, S, R, page format and RoPE. */
void engine_identity(const struct engine *g, uint8_t key[KV_KEY_BYTES]);

/* What the caches cost: bytes for each further token of context, and bytes whatever the length. */
size_t engine_kv_bytes_per_token(const struct engine *g);
size_t engine_kv_bytes_fixed(const struct engine *g);

/* How far apart kept checkpoints should lie, in tokens: a multiple of KV_BLOCK and at least 4,096, so that
 * they take at most a tenth of what the blocks between them take (65,536 when no head retrieves). */
size_t engine_checkpoint_interval(const struct engine *g);

/* The split in use: retrieval[layer * HK + kv_head] is 1 or 0; L*HK bytes, borrowed. And its S and R. */
const uint8_t *engine_heads(const struct engine *g);
int engine_sink(const struct engine *g);
int engine_recent(const struct engine *g);
int engine_kv_format(const struct engine *g);

int session_create(struct session **out, const struct engine *g, struct err *e);
void session_free(struct session *s); /* NULL is legal */

size_t session_position(const struct session *s);        /* tokens in the timeline */
const uint32_t *session_tokens(const struct session *s); /* [position], borrowed until the next change */
size_t session_kv_bytes(const struct session *s);        /* bytes of KV held or mapped */

struct append_options {
    const struct progress *progress; /* in tokens; may be NULL */
    struct cancel *cancel;           /* may be NULL; looked at several times per layer */
    /* Called for every appended token in order with logits [V] f32 (borrowed for the call); NULL: only the
     * last token's logits are computed. Non-zero ends the append with ERR_CANCELLED after its chunk. */
    int (*logits)(void *arg, size_t position, const float *row);
    void *arg;
};

/* Appends n token ids (each < V). On ERR_CANCELLED or failure the timeline holds the whole chunks that were
 * finished, exactly as if only they had been appended; session_position tells how many. */
int session_append(struct session *s, const uint32_t *ids, size_t n, const struct append_options *options,
                   struct err *e);

enum { SESSION_GUESSES = 4 }; /* tokens of session_append_guesses, at most */

/* Appends ids[0] and tries ids[1..n), guesses of what follows it, in the same pass (n <= SESSION_GUESSES).
 * right(arg, i, logits of ids[i]) says whether ids[i+1] follows indeed; it is asked in order, for i < n - 1,
 * until it says 0. *kept (>= 1) tokens stay: the timeline, its logits and its attention sums are then what
 * appending them one by one gives, bit for bit. Guesses past the end of a page are not tried. Of the options
 * progress and cancel count. On failure *kept is 0 and the timeline is as it was; `right` may have been
 * asked.
 */
int session_append_guesses(struct session *s, const uint32_t *ids, size_t n,
                           const struct append_options *options,
                           int (*right)(void *arg, size_t i, const float *logits), void *arg, size_t *kept,
                           struct err *e);

/* Logits [V] of the last token, or NULL before any (borrowed until the next change). */
const float *session_logits(const struct session *s);

/* Page selection of appends of up to SESSION_GUESSES tokens on a device: retrieval heads visit `pages` best
 * pages instead of all (0: off, the default); the first append after this call and every `audit_every`-th
 * visit all and measure what the list would have seen. ERR_UNSUPPORTED on the processor. */
int session_select(struct session *s, size_t pages, size_t recent, size_t audit_every, struct err *e);
/* Share of the softmax that the lists saw in the audited appends since session_select; audits may be NULL. */
double session_visited(const struct session *s, size_t *audits);

/* Attention watch: while on, every appended token adds each 64-token page's share of the retrieval heads'
 * softmax to session_mass ([ceil(position/64)] doubles, mean over heads, summed over tokens). session_watch
 * clears it. */
int session_watch(struct session *s, int on, struct err *e);
const double *session_mass(const struct session *s, size_t *pages);

/* In-memory copy of the timeline's end, to come back to after a branch. The blocks before it are shared, so
 * it is small. A session can go back only to marks of itself, taken at or before the present position. */
struct session_mark;
int session_mark(struct session *s, struct session_mark **out, struct err *e);
int session_return(struct session *s, const struct session_mark *m, struct err *e);
void session_mark_free(struct session_mark *m);

enum kv_kind { KV_KIND_BLOCK = 1, KV_KIND_CHECKPOINT = 2 };

/* One span for the sink. Everything is borrowed for the call. */
struct kv_put {
    enum kv_kind kind;
    const uint8_t *key;    /* [KV_KEY_BYTES] */
    const uint8_t *parent; /* [KV_KEY_BYTES], or NULL: a chain's first block, and every checkpoint */
    size_t position;       /* tokens of the timeline before its end */
    const struct iovec *parts;
    int n;
};

/* Declared here, implemented by the program over its store. All or none; the bytes are on disk when it
 * returns 0. */
struct kv_sink {
    int (*put)(void *arg, const struct kv_put *puts, size_t n, struct err *e);
    void *arg;
};

/* map gives verified bytes that stay until unmap(handle), at an address that 64 divides; ERR_NOT_FOUND and
 * ERR_FORMAT mean "compute it again". */
struct kv_source {
    int (*map)(void *arg, enum kv_kind kind, const uint8_t key[KV_KEY_BYTES], const uint8_t **data,
               size_t *size, void **handle, struct err *e);
    void (*unmap)(void *arg, void *handle);
    void *arg;
};

/* Puts every block that is full and not yet put, then a checkpoint at the present position, whose key is
 * returned; one batch. */
int session_save(struct session *s, const struct kv_sink *sink, uint8_t key[KV_KEY_BYTES], struct err *e);

/* The same in three steps, so that another thread can write while this one computes. One save of a session
 * at a time. */
struct session_save;

/* Borrows the finished blocks and copies the rest (some MB). *out is NULL on failure. */
int session_save_begin(struct session *s, struct session_save **out, struct err *e);

/* Any one thread. s may append meanwhile, but not be reset, rewound or returned below the save's position,
 * or freed. */
int session_save_put(struct session_save *v, const struct kv_sink *sink, struct err *e);

size_t session_save_position(const struct session_save *v);    /* tokens */
const uint8_t *session_save_key(const struct session_save *v); /* of the checkpoint, [KV_KEY_BYTES] */
size_t session_save_bytes(const struct session_save *v);       /* that put hands to the sink */

/* On s's thread, after put came back with `rc`: 0 marks the blocks as stored. Frees v (NULL is legal). */
void session_save_end(struct session *s, struct session_save *v, int rc);

/* The key that session_save would give these tokens on this engine. */
void engine_chain_key(const struct engine *g, const uint32_t *ids, size_t n, uint8_t key[KV_KEY_BYTES]);

enum restore_proof {
    RESTORE_VERIFIED_BITS = 1, /* the last tokens were computed again: every bit of their KV, and of the last
                                * one's logits, agrees */
    RESTORE_VERIFIED_CLOSE = 2 /* other kernels than the writer's: agrees within rounding */
};

/* What came of a restore, in success and in failure. */
enum restore_miss {
    RESTORE_NO_MISS = 0,
    RESTORE_NO_CHECKPOINT,  /* never stored, or dropped */
    RESTORE_BAD_CHECKPOINT, /* damaged */
    RESTORE_NO_BLOCK,       /* a block is gone */
    RESTORE_BAD_BLOCK,      /* a block is damaged */
    RESTORE_NO_PROOF        /* all were there, but the last tokens came out differently */
};
struct restore_report {
    enum restore_proof proof;
    enum restore_miss miss;
    size_t replayed;                   /* tokens computed again for the proof */
    size_t damaged_first, damaged_end; /* tokens of the first block that is damaged or gone; 0, 0: none is */
};

/* Makes the empty session s the timeline of ids[0..n) from stored blocks and checkpoint, computes the last
 * tokens again (up to 8, of the last page) and compares. On any failure s is empty again and the caller
 * appends instead: ERR_NOT_FOUND (never stored), ERR_FORMAT (damaged, or the proof failed; the text says
 * which), others as they come. *report may be NULL. `source` must outlive s. */
int session_restore(struct session *s, const struct kv_source *source, const uint32_t *ids, size_t n,
                    struct restore_report *report, struct err *e);

/* Goes back to `position` <= session_position, exactly as if no more had ever been appended, logits
 * included. From memory where the streaming heads' ring still reaches (at most KV_PAGE tokens are computed
 * again, without progress or cancel); else from the nearest checkpoint of the source (NULL: none) at a
 * multiple of engine_checkpoint_interval or at one of stops[n_stops], or from the start, where that costs at
 * most one interval of tokens; of the options progress and cancel count. ERR_CANCELLED and failures while
 * appending: as session_append. ERR_REBUILD: no checkpoint is near enough; s is empty, and whoever
 * holds the text restores or appends. Other failures leave s whole: as it was, or empty. Attention sums are
 * left as they are. */
int session_rewind(struct session *s, const struct kv_source *source, size_t position, const size_t *stops,
                   size_t n_stops, const struct append_options *options, struct err *e);

#endif
