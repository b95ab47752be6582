/* SPDX-License-Identifier: Apache-2.0 */
/* persist.c - a timeline's chain keys, what it puts into a sink, and the proof when it comes back.
 *
 *   key(0)     = the engine's identity
 *   key(b + 1) = XXH3-128(key(b), ids of block b)             names block b, and every token before its end
 *   checkpoint = XXH3-128(key(P / 1024), the ids after it, "checkpoint")
 *
 * Checkpoint bytes: a 64-byte header (magic, version, identity, position, kernels' name, size), then
 * cache.h's state. The store has verified the bytes against its checksums; here everything is checked again
 * for meaning.
 */
#include "engine/session_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/bytes.h"
#include "kernels/half.h"

enum { HEADER_BYTES = 64, HEADER_MAGIC = 0x43564b4c /* "LKVC" */, HEADER_VERSION = 1, NAME_BYTES = 16 };

/* key <- XXH3-128(key, n <= KV_BLOCK ids, mark). */
static void extend_key(uint8_t key[KV_KEY_BYTES], const uint32_t *ids, size_t n, const char *mark)
{
    uint8_t bytes[KV_KEY_BYTES + KV_BLOCK * sizeof *ids + NAME_BYTES];
    size_t mark_bytes = strlen(mark), at = KV_KEY_BYTES + n * sizeof *ids;
    assert(n <= KV_BLOCK && mark_bytes <= NAME_BYTES);
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
        extend_key(key, ids + b * KV_BLOCK, KV_BLOCK, "");
    extend_key(key, ids + n / KV_BLOCK * KV_BLOCK, n % KV_BLOCK, "checkpoint");
}

static void make_header(const struct engine *g, size_t position, size_t state_bytes, struct buf *out)
{
    char name[NAME_BYTES] = {0};
    strncpy(name, g->kernels->name, sizeof name - 1);
    put_u32(out, HEADER_MAGIC);
    put_u32(out, HEADER_VERSION);
    buf_add(out, g->identity, KV_KEY_BYTES);
    put_u64(out, position);
    buf_add(out, name, sizeof name);
    put_u64(out, state_bytes);
    put_u64(out, 0); /* reserved */
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
static void take_blocks(struct session_save *v, const struct session *s)
{
    size_t bytes = s->engine->layout.block_bytes, whole = s->position / KV_BLOCK;
    memcpy(v->keys[0], s->engine->identity, KV_KEY_BYTES);
    for (size_t b = 0; b < whole; b++) {
        memcpy(v->keys[b + 1], v->keys[b], KV_KEY_BYTES);
        extend_key(v->keys[b + 1], s->tokens + b * KV_BLOCK, KV_BLOCK, "");
        const struct cache_block *block = &s->cache.blocks[b];
        if (!bytes || block->stored)
            continue;
        v->parts[v->n] = (struct iovec){.iov_base = block->data, .iov_len = bytes};
        v->puts[v->n] = (struct kv_put){.kind = KV_KIND_BLOCK,
                                        .key = v->keys[b + 1],
                                        .parent = b ? v->keys[b] : NULL,
                                        .position = (b + 1) * KV_BLOCK,
                                        .parts = &v->parts[v->n],
                                        .n = 1};
        v->blocks[v->n++] = b;
        v->bytes += bytes;
    }
}

static void take_checkpoint(struct session_save *v, const struct session *s, size_t state_bytes)
{
    size_t tail = s->position / KV_BLOCK * KV_BLOCK;
    memcpy(v->key, v->keys[s->position / KV_BLOCK], KV_KEY_BYTES);
    extend_key(v->key, s->tokens + tail, s->position - tail, "checkpoint");
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
    make_header(s->engine, s->position, state_bytes, &v->header);
    if (!v->puts || !v->parts || !v->keys || !v->blocks || !v->state || v->header.failed) {
        save_free(v);
        return err_memory(e, "a save");
    }
    take_blocks(v, s);
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
        struct cache_block *block = v->blocks[i] < s->cache.n_blocks ? &s->cache.blocks[v->blocks[i]] : NULL;
        if (block && block->data == v->parts[i].iov_base)
            block->stored = 1;
    }
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

static int read_header(const struct engine *g, const uint8_t *data, size_t size, size_t n,
                       char name[NAME_BYTES], struct err *e)
{
    struct reader r = reader_over(data, size);
    uint32_t magic = read_u32(&r), version = read_u32(&r);
    const uint8_t *identity = read_bytes(&r, KV_KEY_BYTES);
    uint64_t position = read_u64(&r);
    const uint8_t *kernels = read_bytes(&r, NAME_BYTES);
    uint64_t bytes = read_u64(&r);
    read_u64(&r);
    if (r.bad || magic != HEADER_MAGIC || version != HEADER_VERSION)
        return err_set(e, ERR_FORMAT, "a stored checkpoint has no valid header; the document is read again");
    if (memcmp(identity, g->identity, KV_KEY_BYTES) || position != n || bytes != size - HEADER_BYTES)
        return err_set(e, ERR_FORMAT,
                       "a stored checkpoint belongs to another text or model; the document is read again");
    memcpy(name, kernels, NAME_BYTES);
    name[NAME_BYTES - 1] = '\0';
    return 0;
}

static void blame_block(struct restore_report *report, size_t b, int rc)
{
    if (rc != ERR_NOT_FOUND && rc != ERR_FORMAT)
        return;
    report->miss = rc == ERR_NOT_FOUND ? RESTORE_NO_BLOCK : RESTORE_BAD_BLOCK;
    report->damaged_first = b * KV_BLOCK;
    report->damaged_end = (b + 1) * KV_BLOCK;
}

static int map_blocks(struct session *s, const uint32_t *ids, size_t n, struct restore_report *report,
                      struct err *e)
{
    const struct engine *g = s->engine;
    size_t want = g->layout.block_bytes;
    uint8_t key[KV_KEY_BYTES];
    memcpy(key, g->identity, sizeof key);
    for (size_t b = 0; b < n / KV_BLOCK; b++) {
        int rc = cache_grow(&s->cache, b * CACHE_BLOCK_PAGES, e);
        if (rc)
            return rc;
        extend_key(key, ids + b * KV_BLOCK, KV_BLOCK, "");
        if (!want)
            continue;
        const uint8_t *data = NULL;
        size_t size = 0;
        void *handle = NULL;
        rc = s->source.map(s->source.arg, KV_KIND_BLOCK, key, &data, &size, &handle, e);
        if (rc) {
            blame_block(report, b, rc);
            return rc;
        }
        if (size != want || (uintptr_t)data % 64) {
            s->source.unmap(s->source.arg, handle);
            blame_block(report, b, ERR_FORMAT);
            return err_set(e, ERR_FORMAT,
                           "a stored block has %zu bytes instead of %zu; the document is read again", size,
                           want);
        }
        free(s->cache.blocks[b].data);
        s->cache.blocks[b] =
            (struct cache_block){.data = (uint8_t *)(uintptr_t)data, .handle = handle, .stored = 1};
    }
    return 0;
}

/* The key and value rows of token `t` in every head, streaming heads from the ring, retrieval heads from tail
 * `which`; [L][HK][2][D] halves. */
static void gather_rows(const struct session *s, size_t t, int which, uint16_t *out)
{
    const struct cache_layout *y = &s->engine->layout;
    for (size_t l = 0; l < y->L; l++)
        for (size_t h = 0; h < y->HK; h++, out += 2 * y->D) {
            size_t slot = y->slot[l * y->HK + h];
            const uint8_t *record = y->retrieval[l * y->HK + h]
                                        ? cache_tail(&s->cache, which, l, slot)
                                        : cache_stream(&s->cache, l, slot, t / KV_PAGE);
            const uint16_t *k = (const uint16_t *)(const void *)record + t % KV_PAGE * y->D;
            memcpy(out, k, y->D * sizeof *k);
            memcpy(out + y->D, k + KV_PAGE * y->D, y->D * sizeof *k);
        }
}

static int rows_are_close(const uint16_t *a, const uint16_t *b, size_t n)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double x = (double)half_to_float(a[i]), d = x - (double)half_to_float(b[i]);
        difference += d * d;
        size += x * x;
    }
    return difference <= 1e-4 * size; /* 1 % in the norm: two backends' rounding stays an order below it */
}

/* Computes the last token again over what was restored and holds the result against the stored rows. */
static int prove(struct session *s, const uint32_t *ids, size_t n, const char *kernels,
                 struct restore_report *report, struct err *e)
{
    const struct cache_layout *y = &s->engine->layout;
    size_t count = y->L * y->HK * 2 * y->D;
    uint16_t *stored = malloc(count * sizeof *stored), *again = malloc(count * sizeof *again);
    uint8_t *state = malloc(cache_state_bytes(y, n, 0) + 1);
    if (!stored || !again || !state) {
        free(stored);
        free(again);
        free(state);
        return err_memory(e, "the proof of a restore");
    }
    gather_rows(s, n - 1, s->cache.cur, stored);
    cache_state_write(&s->cache, n, 0, state);
    s->position = n - 1;
    s->proving = 1;
    s->proof_differs = 0;
    int rc = forward_chunk(s, ids + n - 1, 1, NULL, e);
    s->proving = 0;
    s->position = n;
    if (!rc) {
        gather_rows(s, n - 1, !s->cache.cur, again);
        int same = !memcmp(stored, again, count * sizeof *stored) && !s->proof_differs;
        int other_kernels = strcmp(kernels, s->engine->kernels->name) != 0;
        report->replayed = 1;
        report->miss = !same && !(other_kernels && rows_are_close(stored, again, count)) ? RESTORE_NO_PROOF
                                                                                         : RESTORE_NO_MISS;
        if (report->miss)
            rc = err_set(e, ERR_FORMAT,
                         "the stored context does not reproduce its last token; the document is read again");
        else
            report->proof = same ? RESTORE_VERIFIED_BITS : RESTORE_VERIFIED_CLOSE;
        if (!rc) /* what is stored stays the truth, also under other kernels */
            rc = cache_state_read(&s->cache, n, 0, state, cache_state_bytes(y, n, 0), e);
    }
    free(stored);
    free(again);
    free(state);
    return rc;
}

static int restore_checkpoint(struct session *s, const uint32_t *ids, size_t n, char name[NAME_BYTES],
                              struct restore_report *report, struct err *e)
{
    uint8_t key[KV_KEY_BYTES];
    engine_chain_key(s->engine, ids, n, key);
    const uint8_t *data = NULL;
    size_t size = 0;
    void *handle = NULL;
    int rc = s->source.map(s->source.arg, KV_KIND_CHECKPOINT, key, &data, &size, &handle, e);
    if (rc) {
        report->miss = rc == ERR_FORMAT ? RESTORE_BAD_CHECKPOINT : RESTORE_NO_CHECKPOINT;
        return rc;
    }
    report->miss = RESTORE_BAD_CHECKPOINT;
    rc = read_header(s->engine, data, size, n, name, e);
    if (!rc)
        report->miss = RESTORE_NO_MISS;
    if (!rc)
        rc = map_blocks(s, ids, n, report, e);
    if (!rc && (rc = cache_state_read(&s->cache, n, 1, data + HEADER_BYTES, size - HEADER_BYTES, e)))
        report->miss = RESTORE_BAD_CHECKPOINT;
    s->source.unmap(s->source.arg, handle);
    return rc;
}

int session_restore(struct session *s, const struct kv_source *source, const uint32_t *ids, size_t n,
                    struct restore_report *report, struct err *e)
{
    struct restore_report unused;
    report = report ? report : &unused;
    *report = (struct restore_report){.miss = RESTORE_NO_MISS};
    char kernels[NAME_BYTES];
    size_t V = model_params(s->engine->model)->V;
    if (s->position || !n)
        return err_set(e, ERR_USAGE, "only an empty session can be restored, and only to one token or more");
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= V)
            return err_set(e, ERR_FORMAT, "stored token id %u is not of this model", ids[i]);
    int rc = session_reset(s, e);
    if (rc)
        return rc;
    s->source = *source;
    if (n > s->cap) {
        uint32_t *tokens = realloc(s->tokens, (n + KV_BLOCK) * sizeof *tokens);
        if (!tokens)
            return err_memory(e, "token ids");
        s->tokens = tokens;
        s->cap = n + KV_BLOCK;
    }
    memcpy(s->tokens, ids, n * sizeof *ids);
    rc = restore_checkpoint(s, ids, n, kernels, report, e);
    if (!rc)
        rc = prove(s, ids, n, kernels, report, e);
    if (rc) {
        struct err second;
        session_reset(
            s, &second); /* the first failure is the one to tell; an allocation failure shows at next use */
    }
    return rc;
}
