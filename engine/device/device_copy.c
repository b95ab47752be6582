/* SPDX-License-Identifier: Apache-2.0 */
/* device_copy.c - bytes between ordinary host memory and the device through a ring of pinned pieces.
 *
 * Up: a piece is filled (by a pool's threads when there is one) while the ones before it travel on
 * DEVICE_COPY_IN. Down: pieces travel on DEVICE_COPY_OUT and are emptied in order; segments smaller than a
 * piece share it. Then there is state that is pulled or pushed: the shadow of cache.h.
 */
#include "engine/device/device_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    PIECES = 4,
    PIECE_BYTES = 20 << 20, /* a block of a model of 8 billion weights, half of whose heads retrieve */
    FILL_BYTES = 512 << 10, /* of one thread's task */
    DOWN_SEGMENTS = 256
};

/* Where bytes of a piece go when they have arrived. */
struct segment {
    void *to;
    size_t at, bytes;
};

struct staging {
    struct device *device;
    const struct device_ops *ops;
    uint8_t *pieces[PIECES]; /* pinned; taken at first use */
    struct device_event *sent[PIECES];
    int busy[PIECES]; /* an upload from it may be under way */
    int next;
    /* the piece that is being filled for an upload, or from downloads */
    size_t used;
    struct segment down[DOWN_SEGMENTS]; /* in piece 0 */
    size_t n_down;
};

int staging_create(struct staging **out, struct device *d, struct err *e)
{
    *out = NULL;
    struct staging *t = calloc(1, sizeof *t);
    if (!t)
        return err_memory(e, "staging");
    t->device = d;
    t->ops = d->ops;
    *out = t;
    return 0;
}

static int staging_take(struct staging *t, int i, struct err *e)
{
    void *p, *view;
    if (t->pieces[i])
        return 0;
    int rc = t->sent[i] ? 0 : t->ops->event_create(t->device, &t->sent[i], e);
    if (!rc)
        rc = t->ops->alloc_host(t->device, PIECE_BYTES, &p, &view, e);
    if (!rc)
        t->pieces[i] = p;
    return rc;
}

void staging_free(struct staging *t)
{
    if (!t)
        return;
    struct err ignored; /* what still travels is wanted by nobody */
    (void)t->ops->sync(t->device, DEVICE_COPY_IN, &ignored);
    (void)t->ops->sync(t->device, DEVICE_COPY_OUT, &ignored);
    for (int i = 0; i < PIECES; i++) {
        if (t->sent[i])
            t->ops->event_free(t->device, t->sent[i]);
        if (t->pieces[i])
            t->ops->release_host(t->device, t->pieces[i]);
    }
    free(t);
}

struct fill_job {
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
};

static void fill_part(void *arg, int index, int thread)
{
    (void)thread;
    const struct fill_job *j = arg;
    size_t at = (size_t)index * FILL_BYTES, n = j->bytes - at < FILL_BYTES ? j->bytes - at : FILL_BYTES;
    memcpy(j->to + at, j->from + at, n);
}

int staging_up(struct staging *t, void *to_device, const void *from_host, size_t bytes, struct pool *pool,
               struct err *e)
{
    for (size_t at = 0; at < bytes;) {
        int i = t->next;
        int rc = staging_take(t, i, e);
        if (!rc && t->busy[i])
            rc = t->ops->event_sync(t->device, t->sent[i], e);
        if (rc)
            return rc;
        size_t n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        struct fill_job job = {.to = t->pieces[i], .from = (const uint8_t *)from_host + at, .bytes = n};
        int tasks = (int)((n + FILL_BYTES - 1) / FILL_BYTES);
        pool_run(tasks > 1 ? pool : NULL, tasks, fill_part, &job);
        t->ops->upload(t->device, DEVICE_COPY_IN, (uint8_t *)to_device + at, t->pieces[i], n);
        t->ops->event_record(t->device, DEVICE_COPY_IN, t->sent[i]);
        t->busy[i] = 1;
        t->next = (i + 1) % PIECES;
        at += n;
    }
    return 0;
}

static int empty_down(struct staging *t, struct err *e)
{
    if (!t->n_down)
        return 0;
    int rc = t->ops->sync(t->device, DEVICE_COPY_OUT, e);
    for (size_t i = 0; !rc && i < t->n_down; i++)
        memcpy(t->down[i].to, t->pieces[0] + t->down[i].at, t->down[i].bytes);
    t->n_down = t->used = 0;
    return rc;
}

int staging_down(struct staging *t, void *to_host, const void *from_device, size_t bytes, struct err *e)
{
    int rc = staging_take(t, 0, e);
    if (!rc && t->busy[0]) {
        rc = t->ops->event_sync(t->device, t->sent[0], e);
        t->busy[0] = 0;
    }
    for (size_t at = 0; !rc && at < bytes;) {
        if (t->n_down == DOWN_SEGMENTS || t->used == PIECE_BYTES)
            rc = empty_down(t, e);
        if (rc)
            break;
        size_t room = PIECE_BYTES - t->used, n = bytes - at < room ? bytes - at : room;
        t->ops->download(t->device, DEVICE_COPY_OUT, t->pieces[0] + t->used,
                         (const uint8_t *)from_device + at, n);
        t->down[t->n_down++] = (struct segment){.to = (uint8_t *)to_host + at, .at = t->used, .bytes = n};
        t->used += n;
        at += n;
    }
    return rc;
}

int staging_flush(struct staging *t, struct err *e)
{
    int rc = empty_down(t, e);
    return rc ? rc : t->ops->sync(t->device, DEVICE_COPY_IN, e);
}

/* ---- state ------------------------------------------------------------------------------------------- */

struct walk {
    struct device_session *s;
    int up;
    struct err *e;
    int rc;
};

static void piece(struct walk *w, uint8_t *device, uint8_t *host, size_t bytes)
{
    if (!w->rc && bytes)
        w->rc = w->up ? staging_up(w->s->staging, device, host, bytes, NULL, w->e)
                      : staging_down(w->s->staging, host, device, bytes, w->e);
}

/* Full pages of the unfilled block; those of one layer lie in one piece. */
static void walk_block(struct walk *w, const struct cache *shadow, size_t position)
{
    const struct device_session *s = w->s;
    const struct cache_layout *y = s->g->layout;
    size_t b = position / BLOCK_TOKENS, pages = position / KV_PAGE_TOKENS % DEVICE_BLOCK_PAGES;
    for (size_t l = 0; pages && l < y->L; l++) {
        uint8_t *record = cache_record(shadow, l, b * DEVICE_BLOCK_PAGES, 0),
                *scan = cache_scan(shadow, l, b * DEVICE_BLOCK_PAGES, 0);
        size_t records = pages * y->hr[l] * y->record_bytes, scans = pages * y->hr[l] * y->scan_bytes;
        if (s->blocks[b].host) { /* the device's own bytes, and nothing is queued now */
            uint8_t *own = s->blocks[b].host, *base = s->blocks[b].address;
            uint8_t *r = own + (block_record(s, b, l, 0) - base), *c = own + (block_scan(s, b, l, 0) - base);
            memcpy(w->up ? r : record, w->up ? record : r, records);
            memcpy(w->up ? c : scan, w->up ? scan : c, scans);
            continue;
        }
        piece(w, block_record(s, b, l, 0), record, records);
        piece(w, block_scan(s, b, l, 0), scan, scans);
    }
}

/* Pages [first, end) of one streaming head's ring, which lie in one piece or, past its end, in two. */
static void walk_ring(struct walk *w, uint8_t *own, uint8_t *shadow, size_t first, size_t end)
{
    const struct cache_layout *y = w->s->g->layout;
    while (first < end) {
        size_t slot = first % y->ring_pages, n = y->ring_pages - slot;
        n = n < end - first ? n : end - first;
        piece(w, own + slot * y->raw_bytes, shadow + slot * y->raw_bytes, n * y->raw_bytes);
        first += n;
    }
}

/* What cache_state_write keeps of tails, sinks and rings. */
static void walk_rows(struct walk *w, const struct cache *shadow, size_t position)
{
    const struct device_session *s = w->s;
    const struct cache_layout *y = s->g->layout;
    size_t parity = (position - 1) / KV_PAGE_TOKENS & 1, pages = (position - 1) / KV_PAGE_TOKENS + 1;
    size_t sinks = pages < y->sink_pages ? pages : y->sink_pages, each = y->sink_pages + y->ring_pages;
    for (size_t h = 0; h < y->HR; h++)
        piece(w, s->kv.tail + (2 * h + parity) * y->raw_bytes, shadow->tail[shadow->cur] + h * y->raw_bytes,
              y->raw_bytes);
    for (size_t h = 0; h < y->HS; h++) {
        uint8_t *own = s->kv.stream + h * each * y->raw_bytes;
        piece(w, own, shadow->sinks + h * y->sink_pages * y->raw_bytes, sinks * y->raw_bytes);
        walk_ring(w, own + y->sink_pages * y->raw_bytes, shadow->ring + h * y->ring_pages * y->raw_bytes,
                  cache_ring_first(y, position), pages);
    }
}

int device_session_pull(struct device_session *s, int blocks_too, struct cache *shadow, struct err *e)
{
    const struct device_shared *g = s->g->shared;
    struct walk w = {.s = s, .e = e};
    w.rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
    if (!w.rc && blocks_too) {
        w.rc = cache_hollow(shadow, s->position / BLOCK_TOKENS, e);
        if (!w.rc && s->position / KV_PAGE_TOKENS % DEVICE_BLOCK_PAGES)
            w.rc = cache_grow(shadow, s->position / KV_PAGE_TOKENS, e);
        if (!w.rc)
            walk_block(&w, shadow, s->position);
    }
    if (!w.rc && s->position)
        walk_rows(&w, shadow, s->position);
    int rc = staging_flush(s->staging, w.rc ? &(struct err){.code = ERR_NONE} : e);
    return w.rc ? w.rc : rc;
}

int device_session_push(struct device_session *s, size_t position, int blocks_too, const struct cache *shadow,
                        struct err *e)
{
    const struct device_shared *g = s->g->shared;
    struct walk w = {.s = s, .up = 1, .e = e};
    w.rc = device_session_reserve(s, position, e);
    if (!w.rc)
        w.rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
    if (!w.rc && blocks_too)
        walk_block(&w, shadow, position);
    if (!w.rc && position)
        walk_rows(&w, shadow, position);
    int rc = staging_flush(s->staging, w.rc ? &(struct err){.code = ERR_NONE} : e);
    if (!w.rc && !rc)
        s->position = position;
    return w.rc ? w.rc : rc;
}

/* ---- stored blocks ----------------------------------------------------------------------------------- */

int device_session_put_block(struct device_session *s, const uint8_t *data, struct pool *pool, struct err *e)
{
    size_t b = s->position / BLOCK_TOKENS;
    if (s->position % BLOCK_TOKENS)
        return err_set(e, ERR_USAGE, "a stored block begins at a multiple of %d tokens", BLOCK_TOKENS);
    /* A pass that was given up may still write its records. */
    int rc = s->g->shared->ops->sync(s->g->shared->device, DEVICE_COMPUTE, e);
    if (!rc)
        rc = device_session_reserve(s, s->position + BLOCK_TOKENS, e);
    if (!rc && s->blocks[b].host)
        memcpy(s->blocks[b].host, data, s->kv.block_bytes);
    else if (!rc && s->kv.block_bytes)
        rc = staging_up(s->staging, s->blocks[b].address, data, s->kv.block_bytes, pool, e);
    if (!rc) {
        s->blocks[b].stored = 1;
        s->position += BLOCK_TOKENS;
    }
    return rc;
}

int device_session_put_finish(struct device_session *s, struct err *e)
{
    return staging_flush(s->staging, e);
}
