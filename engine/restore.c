/* SPDX-License-Identifier: Apache-2.0 */
/* restore.c - a stored timeline comes back, and proves that it is the one that was stored.
 *
 * The proof: the last tokens (up to 8, all of the last page) are computed again over what came back. Under
 * the writer's kernels every bit of their keys and values in every layer, of what attention gave them, of the
 * page that they fill, and of the last one's logits has to agree; under others keys, values and the largest
 * logits agree within rounding. What no float of all that shows (the wrong byte of a token without weight) is
 * the store's to find, which has verified every byte against its checksums.
 * Invariant: a session is empty again after a restore that failed.
 */
#include "engine/session_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"

/* What the proof compares: rows of `r` tokens from `first` on, as stored and as computed again. */
struct proof {
    struct session *s;
    const struct checkpoint *checkpoint;
    size_t first, r, row; /* row: halves of one token, L*HK*2*D */
    uint16_t *stored, *again;
    uint8_t *state;
    size_t state_bytes;
};

/* The key and value rows of token `t` in every head, streaming heads from the ring, retrieval heads from tail
 * `which`; [L][2][HK][D] halves. */
static void gather_rows(const struct session *s, size_t t, int which, uint16_t *out)
{
    const struct cache_layout *y = &s->engine->layout;
    size_t D = y->D;
    for (size_t l = 0; l < y->L; l++, out += 2 * y->HK * D)
        for (size_t h = 0; h < y->HK; h++) {
            size_t slot = y->slot[l * y->HK + h];
            const uint8_t *record = y->retrieval[l * y->HK + h]
                                        ? cache_tail(&s->cache, which, l, slot)
                                        : cache_stream(&s->cache, l, slot, t / KV_PAGE);
            const uint16_t *k = (const uint16_t *)(const void *)record + t % KV_PAGE * D;
            memcpy(out + h * D, k, D * sizeof *k);
            memcpy(out + (y->HK + h) * D, k + KV_PAGE * D, D * sizeof *k);
        }
}

static void gather_all(const struct proof *p, int which, uint16_t *out)
{
    for (size_t i = 0; i < p->r; i++)
        gather_rows(p->s, p->first + i, which, out + i * p->row);
}

/* Two backends' rounding stays well below this share of the norm. */
static int is_close(double difference, double size)
{
    return difference <= 1e-4 * size; /* 1 %; ten times what was seen on the default model */
}

/* Keys, and values, of each layer of each token for themselves. */
static int rows_are_close(const struct proof *p)
{
    const struct cache_layout *y = &p->s->engine->layout;
    size_t n = y->HK * y->D;
    for (size_t at = 0; at < p->r * p->row; at += n) {
        double difference = 0, size = 0;
        for (size_t i = at; i < at + n; i++) {
            double x = (double)half_to_float(p->stored[i]), d = x - (double)half_to_float(p->again[i]);
            difference += d * d;
            size += x * x;
        }
        if (!is_close(difference, size))
            return 0;
    }
    return 1;
}

/* The largest logits, measured by the spread of all of them. */
static int logits_are_close(const struct session *s, const struct checkpoint *c)
{
    size_t V = model_params(s->engine->model)->V;
    double mean = 0, spread = 0, difference = 0;
    for (size_t i = 0; i < V; i++)
        mean += (double)s->last_logits[i] / (double)V;
    for (size_t i = 0; i < V; i++) {
        double d = (double)s->last_logits[i] - mean;
        spread += d * d / (double)V;
    }
    for (uint32_t i = 0; i < c->n_top; i++) {
        double d = (double)s->last_logits[c->top[i].id] - (double)c->top[i].logit;
        difference += d * d / c->n_top;
    }
    return is_close(difference, spread);
}

static int judge(const struct proof *p, struct restore_report *report, struct err *e)
{
    const struct checkpoint *c = p->checkpoint;
    struct session *s = p->s;
    struct checkpoint now = {.has_logits = 0};
    int same = !memcmp(p->stored, p->again, p->r * p->row * sizeof *p->stored) && !s->proof_differs;
    forward_keep_witness(s, p->first, p->r);
    checkpoint_take_witness(&now, s);
    same = same && !memcmp(now.witness, c->witness, sizeof now.witness);
    if (c->has_logits) {
        checkpoint_take_logits(&now, s->last_logits, model_params(s->engine->model)->V);
        same = same && !memcmp(now.digest, c->digest, sizeof now.digest);
    }
    int close = same;
    /* A device's rounding hangs on how many tokens a pass had. */
    if (!same && (s->device || strcmp(c->kernels, engine_kernels(s->engine)) != 0))
        close = rows_are_close(p) && (!c->has_logits || logits_are_close(s, c));
    if (!close)
        return err_set(
            e, ERR_FORMAT,
            "the stored context does not reproduce its last %zu tokens; the document is read again", p->r);
    report->proof = same ? RESTORE_VERIFIED_BITS : RESTORE_VERIFIED_CLOSE;
    return 0;
}

/* The last tokens once more; their rows are then in tail `again` and in the ring. */
static int compute_again(const struct proof *p, int *again, struct err *e)
{
    struct session *s = p->s;
    size_t n = s->position;
    s->proof_differs = 0;
    if (s->device) {
        *again = s->cache.cur;
        int rc = session_device_repeat(s, p->first, p->r, e);
        return rc ? rc : device_session_pull(s->device, 0, &s->cache, e);
    }
    *again = !s->cache.cur;
    s->position = p->first;
    s->proving = 1;
    int rc = forward_chunk(s, s->tokens + p->first, p->r, NULL, e);
    s->proving = 0;
    s->position = n;
    return rc;
}

static int replay(struct proof *p, struct restore_report *report, struct err *e)
{
    struct session *s = p->s;
    size_t n = s->position;
    int again = 0;
    gather_all(p, s->cache.cur, p->stored);
    cache_state_write(&s->cache, n, 0, p->state);
    int rc = compute_again(p, &again, e);
    report->replayed = p->r;
    if (rc == ERR_UNSUPPORTED) /* numbers that no sound cache leads to */
        rc = err_set(e, ERR_FORMAT,
                     "the stored context leads to no finite numbers; the document is read again");
    if (!rc) {
        s->have_logits = 1;
        gather_all(p, again, p->again);
        rc = judge(p, report, e);
    }
    if (rc == ERR_FORMAT)
        report->miss = RESTORE_NO_PROOF;
    if (!rc) /* what is stored stays the truth, also under other kernels */
        rc = cache_state_read(&s->cache, n, 0, p->state, p->state_bytes, e);
    if (!rc && s->device)
        rc = device_session_push(s->device, n, 0, &s->cache, e);
    return rc;
}

int session_prove(struct session *s, const struct checkpoint *c, struct restore_report *report, struct err *e)
{
    const struct cache_layout *y = &s->engine->layout;
    struct proof p = {.s = s, .checkpoint = c, .r = cache_replay(s->position)};
    p.first = s->position - p.r;
    p.row = y->L * y->HK * 2 * y->D;
    p.state_bytes = cache_state_bytes(y, s->position, 0);
    p.stored = malloc(p.r * p.row * sizeof *p.stored);
    p.again = malloc(p.r * p.row * sizeof *p.again);
    p.state = malloc(p.state_bytes + 1);
    int rc = p.stored && p.again && p.state ? replay(&p, report, e) : err_memory(e, "the proof of a restore");
    free(p.stored);
    free(p.again);
    free(p.state);
    return rc;
}

static void blame_block(struct restore_report *report, size_t b, int rc)
{
    if (rc != ERR_NOT_FOUND && rc != ERR_FORMAT)
        return;
    report->miss = rc == ERR_NOT_FOUND ? RESTORE_NO_BLOCK : RESTORE_BAD_BLOCK;
    report->damaged_first = b * KV_BLOCK;
    report->damaged_end = (b + 1) * KV_BLOCK;
}

static int map_block(struct session *s, size_t b, const uint8_t *key, struct restore_report *report,
                     struct err *e)
{
    size_t want = s->engine->layout.block_bytes, size = 0;
    const uint8_t *data = NULL;
    void *handle = NULL;
    int rc = s->source.map(s->source.arg, KV_KIND_BLOCK, key, &data, &size, &handle, e);
    if (rc) {
        blame_block(report, b, rc);
        return rc;
    }
    if (size != want || (uintptr_t)data % 64) {
        s->source.unmap(s->source.arg, handle);
        blame_block(report, b, ERR_FORMAT);
        return err_set(e, ERR_FORMAT,
                       "a stored block has %zu bytes instead of %zu; the document is read again", size, want);
    }
    if (!s->device)
        return cache_adopt(&s->cache, (uint8_t *)(uintptr_t)data, handle, s->source.unmap, s->source.arg, e);
    rc = device_session_put_block(s->device, data, s->engine->pool, e);
    s->source.unmap(s->source.arg, handle);
    return rc;
}

static int map_blocks(struct session *s, const uint32_t *ids, size_t n, struct restore_report *report,
                      struct err *e)
{
    uint8_t key[KV_KEY_BYTES];
    memcpy(key, s->engine->identity, sizeof key);
    int rc = s->device ? device_session_reserve(s->device, n, e) : 0; /* at once: memory in large pieces */
    for (size_t b = 0; !rc && b < n / KV_BLOCK; b++) {
        chain_extend(key, ids + b * KV_BLOCK, KV_BLOCK, "");
        if (s->engine->layout.block_bytes)
            rc = map_block(s, b, key, report, e);
        else if (!s->device)
            rc = cache_grow(&s->cache, b * CACHE_BLOCK_PAGES, e);
    }
    if (s->device) { /* also after a failure: nothing may arrive in blocks that are then written anew */
        struct err second;
        int late = device_session_put_finish(s->device, rc ? &second : e);
        rc = rc ? rc : late;
    }
    return !rc && s->device ? cache_hollow(&s->cache, n / KV_BLOCK, e) : rc;
}

static int restore_checkpoint(struct session *s, const uint32_t *ids, size_t n, struct checkpoint *c,
                              struct restore_report *report, struct err *e)
{
    uint8_t key[KV_KEY_BYTES];
    engine_chain_key(s->engine, ids, n, key);
    const uint8_t *data = NULL;
    size_t size = 0;
    void *handle = NULL;
    int rc = s->source.map(s->source.arg, KV_KIND_CHECKPOINT, key, &data, &size, &handle, e);
    if (rc) {
        report->miss = rc == ERR_FORMAT      ? RESTORE_BAD_CHECKPOINT
                       : rc == ERR_NOT_FOUND ? RESTORE_NO_CHECKPOINT
                                             : RESTORE_NO_MISS;
        return rc;
    }
    rc = checkpoint_read(s->engine, data, size, n, c, e);
    if (rc)
        report->miss = RESTORE_BAD_CHECKPOINT;
    if (!rc)
        rc = map_blocks(s, ids, n, report, e);
    if (!rc) {
        rc = cache_state_read(&s->cache, n, 1, data + CHECKPOINT_HEADER_BYTES, size - CHECKPOINT_HEADER_BYTES,
                              e);
        if (rc == ERR_FORMAT)
            report->miss = RESTORE_BAD_CHECKPOINT;
        if (!rc && s->device)
            rc = device_session_push(s->device, n, 1, &s->cache, e);
    }
    s->source.unmap(s->source.arg, handle);
    return rc;
}

int session_restore(struct session *s, const struct kv_source *source, const uint32_t *ids, size_t n,
                    struct restore_report *report, struct err *e)
{
    struct restore_report unused;
    struct checkpoint checkpoint;
    size_t V = model_params(s->engine->model)->V;
    report = report ? report : &unused;
    *report = (struct restore_report){.miss = RESTORE_NO_MISS};
    if (s->position || !n)
        return err_set(e, ERR_USAGE, "only an empty session can be restored, and only to one token or more");
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= V)
            return err_set(e, ERR_FORMAT, "stored token id %u is not of this model", ids[i]);
    int rc = session_reset(s, e);
    if (!rc)
        rc = session_reserve(s, n, e);
    if (rc)
        return rc;
    s->source = *source;
    memcpy(s->tokens, ids, n * sizeof *ids);
    rc = restore_checkpoint(s, ids, n, &checkpoint, report, e);
    if (!rc) {
        s->position = n;
        rc = session_prove(s, &checkpoint, report, e);
    }
    if (rc) {
        struct err second; /* the first failure is the one to tell; an allocation failure shows at next use */
        session_reset(s, &second);
    }
    return rc;
}
