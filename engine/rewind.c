/* SPDX-License-Identifier: Apache-2.0 */
/* rewind.c - back to any earlier position, exactly as if no more had been read.
 *
 * Blocks keep every earlier page; what is lost as a timeline grows is the streaming heads' older rows and the
 * raw tail of earlier pages. So:
 *   near   the ring still holds the R tokens before the page of the wanted end: that page's tokens are
 * computed again, which brings back tail and logits far    rings and tail come from a checkpoint at or before
 * the wanted end, and the tokens after it are appended again Invariant: what is left after any failure is a
 * whole timeline, or an empty one; never a wrong one.
 */
#include "engine/session_internal.h"

#include <stdlib.h>
#include <string.h>

/* Where computing again begins when all is in memory: what a proof computes again, when the raw rows before
 * it are in the tail, else the page. */
static size_t near_start(const struct session *s, size_t position)
{
    size_t page = (position - 1) / KV_PAGE;
    return page == (s->position - 1) / KV_PAGE ? position - cache_replay(position) : page * KV_PAGE;
}

/* The ring holds what the page of position - 1 and a later save there need. */
static int ring_reaches(const struct session *s, size_t position)
{
    const struct cache_layout *y = &s->engine->layout;
    size_t page = (position - 1) / KV_PAGE, seen = page * KV_PAGE + 1;
    size_t first = seen > y->R ? (seen - y->R) / KV_PAGE : 0;
    first = first > y->sink_pages ? first : y->sink_pages;
    return first >= page || first >= s->cache.ring_low;
}

static int empty(struct session *s, int rc)
{
    struct err second; /* the first failure is the one to tell */
    session_reset(s, &second);
    return rc;
}

static int rewind_near(struct session *s, size_t position, struct err *e)
{
    size_t start = near_start(s, position);
    int rc = session_cut(s, position, e);
    if (rc)
        return rc;
    if (s->device) {
        s->position = position;
        rc = session_device_repeat(s, start, position - start, e);
        return rc ? empty(s, rc) : 0;
    }
    s->position = start;
    s->proving = 1; /* the page's record is there already: final, and perhaps read-only */
    rc = forward_chunk(s, s->tokens + start, position - start, NULL, e);
    s->proving = 0;
    if (rc)
        return empty(s, rc);
    forward_keep_witness(s, start, position - start);
    s->cache.cur = !s->cache.cur;
    s->position = position;
    return 0;
}

/* Rings, tail and logits from the checkpoint at c; blocks before c are in memory. */
static int load_checkpoint(struct session *s, const struct kv_source *source, size_t c, struct err *e)
{
    const struct cache_layout *y = &s->engine->layout;
    uint8_t key[KV_KEY_BYTES];
    struct checkpoint checkpoint;
    struct restore_report report = {.miss = RESTORE_NO_MISS};
    const uint8_t *data = NULL;
    size_t size = 0, bytes = cache_state_bytes(y, c, 1), part = cache_state_bytes(y, c, 0);
    void *handle = NULL;
    engine_chain_key(s->engine, s->tokens, c, key);
    int rc = source->map(source->arg, KV_KIND_CHECKPOINT, key, &data, &size, &handle, e);
    if (rc)
        return rc;
    rc = checkpoint_read(s->engine, data, size, c, &checkpoint, e);
    if (!rc && size - CHECKPOINT_HEADER_BYTES != bytes)
        rc = err_set(e, ERR_FORMAT, "a checkpoint of %zu tokens has %zu bytes instead of %zu", c,
                     size - CHECKPOINT_HEADER_BYTES, bytes);
    if (!rc)
        rc = cache_state_read(&s->cache, c, 0, data + CHECKPOINT_HEADER_BYTES + (bytes - part), part, e);
    source->unmap(source->arg, handle);
    if (rc)
        return rc;
    s->cache.ring_low = cache_ring_first(y, c);
    s->position = c;
    if (s->device) {
        device_session_truncate(s->device, c);
        rc = device_session_push(s->device, c, 0, &s->cache, e);
        if (rc)
            return rc;
    }
    s->have_logits = 0;
    return session_prove(s, &checkpoint, &report, e);
}

/* The largest candidate below `bound`; 0 when there is none but the start. */
static size_t candidate(size_t bound, size_t interval, const size_t *stops, size_t n_stops)
{
    size_t best = bound ? (bound - 1) / interval * interval : 0;
    for (size_t i = 0; i < n_stops; i++)
        if (stops[i] < bound && stops[i] > best)
            best = stops[i];
    return best;
}

/* The session becomes the timeline of a checkpoint at most `interval` before `position`, or the empty one. */
static int go_back(struct session *s, const struct kv_source *source, size_t position, const size_t *stops,
                   size_t n_stops, struct err *e)
{
    size_t interval = engine_checkpoint_interval(s->engine), bound = position + 1;
    int rc = ERR_NOT_FOUND;
    while (source && (rc == ERR_NOT_FOUND || rc == ERR_FORMAT) && bound) {
        size_t c = candidate(bound, interval, stops, n_stops);
        if (!c || position - c > interval)
            break;
        rc = load_checkpoint(s, source, c, e);
        bound = c;
    }
    if (!rc)
        rc = session_cut(s, s->position, e);
    if (!rc)
        return 0;
    if (rc != ERR_NOT_FOUND && rc != ERR_FORMAT)
        return empty(s, rc);
    if (position <= interval)
        return session_reset(s, e);
    return empty(s, err_set(e, ERR_REBUILD,
                            "no checkpoint is near enough to go back to %zu tokens; the text is read again",
                            position));
}

int session_rewind(struct session *s, const struct kv_source *source, size_t position, const size_t *stops,
                   size_t n_stops, const struct append_options *options, struct err *e)
{
    if (position > s->position)
        return err_set(e, ERR_USAGE, "cannot go back to %zu tokens from %zu", position, s->position);
    if (position == s->position && s->have_logits)
        return 0;
    if (!position)
        return session_reset(s, e);
    int watching = s->watching, rc;
    s->watching = 0;
    if (ring_reaches(s, position)) {
        rc = rewind_near(s, position, e);
    } else {
        size_t bytes = position * sizeof *s->tokens;
        uint32_t *ids = malloc(bytes);
        rc = ids ? 0 : err_memory(e, "token ids");
        if (!rc) {
            memcpy(ids, s->tokens, bytes);
            rc = go_back(s, source, position, stops, n_stops, e);
        }
        struct append_options o = {.progress = options ? options->progress : NULL,
                                   .cancel = options ? options->cancel : NULL};
        if (!rc && s->position < position)
            rc = session_append(s, ids + s->position, position - s->position, &o, e);
        free(ids);
    }
    s->watching = watching;
    return rc;
}
