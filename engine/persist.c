/* SPDX-License-Identifier: Apache-2.0 */
/* persist.c - a timeline's chain keys, and what it puts into a sink.
 *
 *   key(0)     = the engine's identity
 *   key(b + 1) = XXH3-128(key(b), ids of block b)             names block b, and every token before its end
 *   checkpoint = XXH3-128(key(P / 1024), the ids after it, "checkpoint")
 *
 * Checkpoint bytes (little-endian), then cache.h's state:
 *   0 magic, version          8 identity[16]        24 position u64      32 kernels' name[16]
 *   48 state bytes u64        56 flags (1: logits)  60 number of largest logits
 *   64 digest of logits[16]   80 digest of the last tokens' attention[16]
 *   96 32 x (id, f32)         352 zeros to 384
 * Invariant: equal timelines under equal kernels give equal bytes, whoever stopped in between.
 */
#include "engine/session_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/bytes.h"

enum {
    HEADER_MAGIC = 0x43564b4c, /* "LKVC" */
    HEADER_VERSION = 2,
    HEADER_RESERVED = 32,
    MARK_BYTES = 16, /* at most, of the word after the ids */
    HAS_LOGITS = 1   /* in flags */
};
_Static_assert(96 + 8 * CHECKPOINT_TOP + HEADER_RESERVED == CHECKPOINT_HEADER_BYTES, "header");
_Static_assert(CHECKPOINT_HEADER_BYTES % 64 == 0, "the state that follows is aligned");

void chain_extend(uint8_t key[KV_KEY_BYTES], const uint32_t *ids, size_t n, const char *mark)
{
    uint8_t bytes[KV_KEY_BYTES + KV_BLOCK * sizeof *ids + MARK_BYTES];
    size_t mark_bytes = strlen(mark), at = KV_KEY_BYTES + n * sizeof *ids;
    assert(n <= KV_BLOCK && mark_bytes <= MARK_BYTES);
    memcpy(bytes, key, KV_KEY_BYTES);
    if (n)
        memcpy(bytes + KV_KEY_BYTES, ids, n * sizeof *ids);
    memcpy(bytes + at, mark, mark_bytes);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, at + mark_bytes));
    memcpy(key, canonical.digest, KV_KEY_BYTES);
}

void engine_chain_key(const struct engine *g, const uint32_t *ids, size_t n, uint8_t key[KV_KEY_BYTES])
{
    memcpy(key, g->identity, KV_KEY_BYTES);
    for (size_t b = 0; b < n / KV_BLOCK; b++)
        chain_extend(key, ids + b * KV_BLOCK, KV_BLOCK, "");
    chain_extend(key, ids + n / KV_BLOCK * KV_BLOCK, n % KV_BLOCK, "checkpoint");
}

void checkpoint_take_witness(struct checkpoint *c, const struct session *s)
{
    uint64_t ordered[CACHE_REPLAY];
    size_t r = cache_replay(s->position);
    for (size_t i = 0; i < r; i++)
        ordered[i] = s->witness[(s->position - r + i) % CACHE_REPLAY];
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(ordered, r * sizeof *ordered));
    memcpy(c->witness, canonical.digest, sizeof c->witness);
}

/* 1 when a comes before b among the largest. */
static int is_larger(float a, uint32_t a_id, float b, uint32_t b_id)
{
    return a > b || (a == b && a_id < b_id);
}

void checkpoint_take_logits(struct checkpoint *c, const float *logits, size_t V)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(logits, V * sizeof *logits));
    memcpy(c->digest, canonical.digest, sizeof c->digest);
    c->has_logits = 1;
    c->n_top = 0;
    for (uint32_t id = 0; id < V; id++) {
        uint32_t n = c->n_top;
        if (n == CHECKPOINT_TOP && !is_larger(logits[id], id, c->top[n - 1].logit, c->top[n - 1].id))
            continue;
        uint32_t at = n < CHECKPOINT_TOP ? n : n - 1;
        for (; at && is_larger(logits[id], id, c->top[at - 1].logit, c->top[at - 1].id); at--)
            c->top[at] = c->top[at - 1];
        c->top[at].id = id;
        c->top[at].logit = logits[id];
        c->n_top = n < CHECKPOINT_TOP ? n + 1 : n;
    }
}

void checkpoint_write(const struct engine *g, const struct checkpoint *c, size_t position, size_t state_bytes,
                      struct buf *out)
{
    char name[CHECKPOINT_NAME_BYTES] = {0};
    uint8_t zeros[CHECKPOINT_HEADER_BYTES] = {0};
    strncpy(name, engine_kernels(g), sizeof name - 1);
    put_u32(out, HEADER_MAGIC);
    put_u32(out, HEADER_VERSION);
    buf_add(out, g->identity, KV_KEY_BYTES);
    put_u64(out, position);
    buf_add(out, name, sizeof name);
    put_u64(out, state_bytes);
    put_u32(out, c->has_logits ? HAS_LOGITS : 0);
    put_u32(out, c->n_top);
    buf_add(out, c->digest, sizeof c->digest);
    buf_add(out, c->witness, sizeof c->witness);
    for (uint32_t i = 0; i < c->n_top; i++) {
        put_u32(out, c->top[i].id);
        put_f32(out, c->top[i].logit);
    }
    buf_add(out, zeros, HEADER_RESERVED + 8 * (size_t)(CHECKPOINT_TOP - c->n_top));
}

static int bad_header(struct err *e)
{
    return err_set(e, ERR_FORMAT, "a stored checkpoint has no valid header; the document is read again");
}

int checkpoint_read(const struct engine *g, const uint8_t *data, size_t size, size_t position,
                    struct checkpoint *out, struct err *e)
{
    *out = (struct checkpoint){.has_logits = 0};
    struct reader r = reader_over(data, size);
    uint32_t magic = read_u32(&r), version = read_u32(&r);
    const uint8_t *identity = read_bytes(&r, KV_KEY_BYTES);
    uint64_t at = read_u64(&r);
    const uint8_t *kernels = read_bytes(&r, CHECKPOINT_NAME_BYTES);
    uint64_t bytes = read_u64(&r);
    uint32_t flags = read_u32(&r);
    out->n_top = read_u32(&r);
    const uint8_t *digest = read_bytes(&r, sizeof out->digest), *seen = read_bytes(&r, sizeof out->witness);
    if (r.bad || size < CHECKPOINT_HEADER_BYTES || magic != HEADER_MAGIC || version != HEADER_VERSION ||
        flags & ~(uint32_t)HAS_LOGITS || out->n_top > CHECKPOINT_TOP)
        return bad_header(e);
    if (memcmp(identity, g->identity, KV_KEY_BYTES) != 0 || at != position ||
        bytes != size - CHECKPOINT_HEADER_BYTES)
        return err_set(e, ERR_FORMAT,
                       "a stored checkpoint belongs to another text or model; the document is read again");
    out->has_logits = flags == HAS_LOGITS;
    memcpy(out->digest, digest, sizeof out->digest);
    memcpy(out->witness, seen, sizeof out->witness);
    memcpy(out->kernels, kernels, CHECKPOINT_NAME_BYTES - 1);
    for (uint32_t i = 0; i < out->n_top; i++) {
        out->top[i].id = read_u32(&r);
        out->top[i].logit = read_f32(&r);
        if (out->top[i].id >= model_params(g->model)->V)
            return bad_header(e);
    }
    return 0;
}

struct session_save {
    struct kv_put *puts; /* [n]: blocks in order, then the checkpoint */
    size_t n;
    struct iovec *parts;           /* [n + 1] */
    uint8_t (*keys)[KV_KEY_BYTES]; /* [blocks + 1]: the chain, identity first */
    size_t *blocks;                /* [n - 1]: number of each put's block */
    uint8_t key[KV_KEY_BYTES];     /* of the checkpoint */
    struct buf header;
    uint8_t *state;
    size_t position, bytes;
};

static void save_free(struct session_save *v)
{
    if (!v)
        return;
    free(v->puts);
    free(v->parts);
    free(v->keys);
    free(v->blocks);
    free(v->state);
    buf_free(&v->header);
    free(v);
}

/* The keys of the chain, and a put for every finished block that the sink does not have. */
static int take_blocks(struct session_save *v, const struct session *s, struct err *e)
{
    size_t bytes = s->engine->layout.block_bytes, whole = s->position / KV_BLOCK;
    memcpy(v->keys[0], s->engine->identity, KV_KEY_BYTES);
    for (size_t b = 0; b < whole; b++) {
        memcpy(v->keys[b + 1], v->keys[b], KV_KEY_BYTES);
        chain_extend(v->keys[b + 1], s->tokens + b * KV_BLOCK, KV_BLOCK, "");
        if (!bytes || (s->device ? device_session_stored(s->device, b) : s->cache.blocks[b].stored))
            continue;
        const uint8_t *data = NULL;
        int rc = s->device ? device_session_borrow_block(s->device, b, &data, e) : 0;
        if (rc)
            return rc;
        if (!s->device)
            data = s->cache.blocks[b].data;
        v->parts[v->n] = (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
        v->puts[v->n] = (struct kv_put){.kind = KV_KIND_BLOCK,
                                        .key = v->keys[b + 1],
                                        .parent = b ? v->keys[b] : NULL,
                                        .position = (b + 1) * KV_BLOCK,
                                        .parts = &v->parts[v->n],
                                        .n = 1};
        v->blocks[v->n++] = b;
        v->bytes += bytes;
    }
    return 0;
}

static void take_checkpoint(struct session_save *v, const struct session *s, size_t state_bytes)
{
    size_t tail = s->position / KV_BLOCK * KV_BLOCK;
    memcpy(v->key, v->keys[s->position / KV_BLOCK], KV_KEY_BYTES);
    chain_extend(v->key, s->tokens + tail, s->position - tail, "checkpoint");
    cache_state_write(&s->cache, s->position, 1, v->state);
    v->parts[v->n] = (struct iovec){.iov_base = v->header.data, .iov_len = v->header.len};
    v->parts[v->n + 1] = (struct iovec){.iov_base = v->state, .iov_len = state_bytes};
    v->puts[v->n] = (struct kv_put){
        .kind = KV_KIND_CHECKPOINT, .key = v->key, .position = s->position, .parts = &v->parts[v->n], .n = 2};
    v->n++;
    v->bytes += v->header.len + state_bytes;
}

int session_save_begin(struct session *s, struct session_save **out, struct err *e)
{
    *out = NULL;
    if (!s->position)
        return err_set(e, ERR_USAGE, "an empty session has nothing to save");
    size_t whole = s->position / KV_BLOCK,
           state_bytes = cache_state_bytes(&s->engine->layout, s->position, 1);
    struct session_save *v = calloc(1, sizeof *v);
    if (!v)
        return err_memory(e, "a save");
    v->position = s->position;
    v->puts = calloc(whole + 1, sizeof *v->puts);
    v->parts = calloc(whole + 2, sizeof *v->parts);
    v->keys = calloc(whole + 1, sizeof *v->keys);
    v->blocks = calloc(whole + 1, sizeof *v->blocks);
    v->state = malloc(state_bytes ? state_bytes : 1);
    struct checkpoint checkpoint = {.has_logits = 0};
    checkpoint_take_witness(&checkpoint, s);
    if (s->have_logits)
        checkpoint_take_logits(&checkpoint, s->last_logits, model_params(s->engine->model)->V);
    checkpoint_write(s->engine, &checkpoint, s->position, state_bytes, &v->header);
    if (!v->puts || !v->parts || !v->keys || !v->blocks || !v->state || v->header.failed) {
        save_free(v);
        return err_memory(e, "a save");
    }
    int rc = take_blocks(v, s, e);
    if (!rc && s->device)
        rc = device_session_pull(s->device, 1, &s->cache, e);
    if (rc) {
        save_free(v);
        return rc;
    }
    take_checkpoint(v, s, state_bytes);
    *out = v;
    return 0;
}

int session_save_put(struct session_save *v, const struct kv_sink *sink, struct err *e)
{
    return sink->put(sink->arg, v->puts, v->n, e);
}

size_t session_save_position(const struct session_save *v)
{
    return v->position;
}
const uint8_t *session_save_key(const struct session_save *v)
{
    return v->key;
}
size_t session_save_bytes(const struct session_save *v)
{
    return v->bytes;
}

void session_save_end(struct session *s, struct session_save *v, int rc)
{
    for (size_t i = 0; v && !rc && i + 1 < v->n; i++) {
        if (s->device)
            break;
        struct cache_block *block = v->blocks[i] < s->cache.n_blocks ? &s->cache.blocks[v->blocks[i]] : NULL;
        if (block && block->data == v->parts[i].iov_base)
            block->stored = 1;
    }
    for (size_t i = 0; v && s->device && i + 1 < v->n; i++)
        device_session_give_back(s->device, v->blocks[i], v->parts[i].iov_base, !rc);
    save_free(v);
}

int session_save(struct session *s, const struct kv_sink *sink, uint8_t key[KV_KEY_BYTES], struct err *e)
{
    struct session_save *v = NULL;
    int rc = session_save_begin(s, &v, e);
    if (rc)
        return rc;
    rc = session_save_put(v, sink, e);
    memcpy(key, v->key, KV_KEY_BYTES);
    session_save_end(s, v, rc);
    return rc;
}
