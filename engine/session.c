/* SPDX-License-Identifier: Apache-2.0 */
/* session.c - one timeline: append in chunks, watch attention, mark and return.
 *
 * Invariant: tokens[0..position) are exactly the tokens whose keys and values the caches hold; a chunk that
 * fails or is cancelled leaves position, tails and packed pages as they were.
 */
#include "engine/session_internal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int session_create(struct session **out, const struct engine *g, struct err *e)
{
    *out = NULL;
    struct session *s = calloc(1, sizeof *s);
    if (!s)
        return err_memory(e, "a session");
    s->engine = g;
    s->last_logits = calloc(model_params(g->model)->V, sizeof *s->last_logits);
    int rc = s->last_logits ? cache_init(&s->cache, &g->layout, e) : err_memory(e, "logits");
    if (!rc)
        rc = g->device ? session_device_open(s, e) : workspace_init(&s->work, g, e);
    if (rc) {
        session_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

void session_free(struct session *s)
{
    if (!s)
        return;
    cache_fini(&s->cache, s->source.unmap, s->source.arg);
    device_session_free(s->device);
    workspace_fini(&s->work);
    free(s->last_logits);
    free(s->mass_total);
    free(s->tokens);
    free(s);
}

int session_reset(struct session *s, struct err *e)
{
    cache_fini(&s->cache, s->source.unmap, s->source.arg);
    if (s->device)
        device_session_reset(s->device);
    s->source = (struct kv_source){0};
    s->position = 0;
    s->have_logits = 0;
    return cache_init(&s->cache, &s->engine->layout, e);
}

int session_cut(struct session *s, size_t position, struct err *e)
{
    if (s->device) {
        device_session_truncate(s->device, position);
        return 0;
    }
    return cache_truncate(&s->cache, position, s->source.unmap, s->source.arg, e);
}

size_t session_position(const struct session *s)
{
    return s->position;
}
const uint32_t *session_tokens(const struct session *s)
{
    return s->tokens;
}
const float *session_logits(const struct session *s)
{
    return s->have_logits ? s->last_logits : NULL;
}

size_t session_kv_bytes(const struct session *s)
{
    size_t blocks = s->device ? (s->position + KV_BLOCK - 1) / KV_BLOCK : s->cache.n_blocks;
    return blocks * s->engine->layout.block_bytes + engine_kv_bytes_fixed(s->engine);
}

static int check_ids(const struct session *s, const uint32_t *ids, size_t n, struct err *e)
{
    size_t V = model_params(s->engine->model)->V;
    for (size_t i = 0; i < n; i++)
        if (ids[i] >= V)
            return err_set(e, ERR_USAGE, "token id %u at place %zu is not below the model's %zu", ids[i], i,
                           V);
    return 0;
}

int session_reserve(struct session *s, size_t n, struct err *e)
{
    if (n > SIZE_MAX / 16)
        return err_set(e, ERR_LIMIT, "%zu tokens are more than memory can name", n);
    if (n > s->cap) {
        size_t cap = n + s->cap / 2 + KV_BLOCK;
        uint32_t *tokens = realloc(s->tokens, cap * sizeof *tokens);
        if (!tokens)
            return err_memory(e, "token ids");
        s->tokens = tokens;
        s->cap = cap;
    }
    if (s->watching && s->mass_pages < s->cap / KV_PAGE + 1) {
        size_t pages = s->cap / KV_PAGE + 1;
        double *mass = realloc(s->mass_total, pages * sizeof *mass);
        if (!mass)
            return err_memory(e, "attention sums");
        memset(mass + s->mass_pages, 0, (pages - s->mass_pages) * sizeof *mass);
        s->mass_total = mass;
        s->mass_pages = pages;
    }
    return 0;
}

/* A chunk ends on a page, so that its last tile is a whole one when more follows; a watched one stays in one
 * page. */
static size_t chunk_length(const struct session *s, size_t left)
{
    if (s->device)
        return device_session_next(s->device, left, s->watching);
    size_t room = (s->watching ? KV_PAGE : KV_CHUNK) - s->position % KV_PAGE;
    return left < room ? left : room;
}

int session_append(struct session *s, const uint32_t *ids, size_t n, const struct append_options *options,
                   struct err *e)
{
    if (!s->cache.layout) /* memory ran out while the session was emptied after a failed restore */
        return err_memory(e, "the KV cache");
    int rc = check_ids(s, ids, n, e);
    if (!rc)
        rc = n > SIZE_MAX / 16 ? err_set(e, ERR_LIMIT, "%zu tokens are more than memory can name", n)
                               : session_reserve(s, s->position + n, e);
    const struct progress *progress = options ? options->progress : NULL;
    for (size_t done = 0; !rc && done < n;) {
        if (cancel_requested(options ? options->cancel : NULL))
            return err_set(e, ERR_CANCELLED, "stopped; what was read is kept");
        size_t T = chunk_length(s, n - done);
        rc = s->device ? session_device_pass(s, ids + done, T, options, e)
                       : forward_chunk(s, ids + done, T, options, e);
        if (rc)
            break;
        if (!s->device)
            forward_commit(s, T);
        memcpy(s->tokens + s->position, ids + done, T * sizeof *ids);
        s->position += T;
        done += T;
        progress_report(progress, "reading", done, n);
    }
    return rc;
}

/* What the rows of a pass of guesses were found to be. */
struct trial {
    const struct session *s;
    size_t n, kept;
    int ended;
    int (*right)(void *arg, size_t i, const float *logits);
    void *arg;
};

static int try_row(void *arg, size_t position, const float *row)
{
    struct trial *t = arg;
    size_t i = position - t->s->position;
    if (t->ended)
        return 0;
    t->kept = i + 1;
    t->ended = i + 1 == t->n || !t->right(t->arg, i, row);
    return 0;
}

int session_append_guesses(struct session *s, const uint32_t *ids, size_t n,
                           const struct append_options *options,
                           int (*right)(void *arg, size_t i, const float *logits), void *arg, size_t *kept,
                           struct err *e)
{
    size_t room = KV_PAGE - s->position % KV_PAGE, V = model_params(s->engine->model)->V;
    *kept = 0;
    if (n < 1 || n > SESSION_GUESSES)
        return err_set(e, ERR_USAGE, "%zu tokens in a pass of guesses", n);
    n = n < room ? n : room;
    if (n == 1) {
        int rc = session_append(s, ids, 1, options, e);
        *kept = !rc;
        return rc;
    }
    if (!s->cache.layout) /* see session_append */
        return err_memory(e, "the KV cache");
    if (cancel_requested(options ? options->cancel : NULL)) /* a device's short pass does not look */
        return err_set(e, ERR_CANCELLED, "stopped; what was read is kept");
    int rc = check_ids(s, ids, n, e);
    if (!rc)
        rc = session_reserve(s, s->position + n, e);
    if (rc)
        return rc;
    struct trial trial = {.s = s, .n = n, .right = right, .arg = arg};
    struct append_options o = {.cancel = options ? options->cancel : NULL, .logits = try_row, .arg = &trial};
    s->guessing = 1;
    rc = s->device ? session_device_guesses(s, ids, n, &o, &trial.kept, e) : forward_chunk(s, ids, n, &o, e);
    if (!rc && !s->device) {
        memcpy(s->last_logits, s->work.logits + (trial.kept - 1) * V, V * sizeof(float));
        forward_commit(s, trial.kept);
    }
    if (!rc) {
        memcpy(s->tokens + s->position, ids, trial.kept * sizeof *ids);
        s->position += trial.kept;
        *kept = trial.kept;
    }
    s->guessing = 0;
    return rc;
}

int session_watch(struct session *s, int on, struct err *e)
{
    s->watching = on;
    if (s->mass_total)
        memset(s->mass_total, 0, s->mass_pages * sizeof *s->mass_total);
    return on ? session_reserve(s, s->position, e) : 0;
}

const double *session_mass(const struct session *s, size_t *pages)
{
    *pages = s->mass_total ? (s->position + KV_PAGE - 1) / KV_PAGE : 0;
    if (*pages > s->mass_pages)
        *pages = s->mass_pages;
    return s->mass_total;
}

struct session_mark {
    size_t position;
    uint64_t tokens_hash;
    int have_logits;
    uint64_t witness[CACHE_REPLAY];
    float *logits;
    uint8_t *state;
    size_t state_bytes;
};

int session_mark(struct session *s, struct session_mark **out, struct err *e)
{
    *out = NULL;
    if (!s->cache.layout) /* see session_append */
        return err_memory(e, "the KV cache");
    size_t V = model_params(s->engine->model)->V;
    struct session_mark *m = calloc(1, sizeof *m);
    if (!m)
        return err_memory(e, "a mark");
    m->position = s->position;
    m->tokens_hash = XXH3_64bits(s->tokens, s->position * sizeof *s->tokens);
    m->have_logits = s->have_logits;
    memcpy(m->witness, s->witness, sizeof m->witness);
    m->state_bytes = cache_state_bytes(&s->engine->layout, s->position, 0);
    m->state = malloc(m->state_bytes ? m->state_bytes : 1);
    m->logits = malloc(V * sizeof *m->logits);
    if (!m->state || !m->logits) {
        session_mark_free(m);
        return err_memory(e, "a mark");
    }
    int rc = s->device ? device_session_pull(s->device, 0, &s->cache, e) : 0;
    if (rc) {
        session_mark_free(m);
        return rc;
    }
    memcpy(m->logits, s->last_logits, V * sizeof *m->logits);
    cache_state_write(&s->cache, s->position, 0, m->state);
    *out = m;
    return 0;
}

int session_return(struct session *s, const struct session_mark *m, struct err *e)
{
    if (!s->cache.layout)
        return err_memory(e, "the KV cache");
    if (m->position > s->position ||
        XXH3_64bits(s->tokens, m->position * sizeof *s->tokens) != m->tokens_hash)
        return err_set(e, ERR_REBUILD, "the mark at %zu tokens is not on this timeline any more",
                       m->position);
    int rc = session_cut(s, m->position, e);
    if (!rc)
        rc = cache_state_read(&s->cache, m->position, 0, m->state, m->state_bytes, e);
    if (!rc && s->device)
        rc = device_session_push(s->device, m->position, 0, &s->cache, e);
    if (rc)
        return rc;
    s->position = m->position;
    s->have_logits = m->have_logits;
    memcpy(s->witness, m->witness, sizeof s->witness);
    memcpy(s->last_logits, m->logits, model_params(s->engine->model)->V * sizeof *m->logits);
    return 0;
}

void session_mark_free(struct session_mark *m)
{
    if (!m)
        return;
    free(m->state);
    free(m->logits);
    free(m);
}
