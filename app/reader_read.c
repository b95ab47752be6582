/* SPDX-License-Identifier: Apache-2.0 */
/* reader_read.c - brings the timeline to the corpus' end: restore, read on, save as it goes.
 *
 * Saves come every SAVE_TOKENS, at each document's end and at the corpus' end; the session's row names the
 * last one, so a kill at any moment loses at most the tokens since then. A save that is neither a document's
 * nor the corpus' end is dropped again when the next one is durable.
 */
#include "app/reader_internal.h"

#include <stdlib.h>
#include <string.h>

enum { SAVE_TOKENS = 4096 };

static int put_spans(void *arg, const struct kv_put *puts, size_t n, struct err *e)
{
    struct reader *r = arg;
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        struct span_put put = {.kind = puts[i].kind,
                               .key = puts[i].key,
                               .parent = puts[i].parent,
                               .parts = puts[i].parts,
                               .n = puts[i].n};
        rc = store_session_ref(r->o.store, r->row.id, put.kind, put.key, e);
        if (!rc)
            rc = store_span_put(r->o.store, &put, e);
    }
    return rc;
}

static int map_span(void *arg, enum kv_kind kind, const uint8_t key[KV_KEY_BYTES], const uint8_t **data,
                    size_t *size, void **handle, struct err *e)
{
    struct reader *r = arg;
    struct span_map *map = calloc(1, sizeof *map);
    if (!map)
        return err_memory(e, "a mapping");
    int rc = r->adopting ? store_session_ref(r->o.store, r->row.id, kind, key, e) : 0;
    if (!rc)
        rc = store_span_map(r->o.store, kind, key, map, e);
    if (rc) {
        free(map);
        return rc;
    }
    *data = map->data;
    *size = map->size;
    *handle = map;
    return 0;
}

static void unmap_span(void *arg, void *handle)
{
    struct reader *r = arg;
    store_span_unmap(r->o.store, handle);
    free(handle);
}

static int is_document_end(const struct reader *r, size_t position)
{
    for (size_t i = 0; i < r->documents.n; i++)
        if (r->documents.items[i].token_start + r->documents.items[i].token_count == position)
            return 1;
    return 0;
}

/* Where to save next after `position`. */
static size_t next_stop(const struct reader *r, size_t position)
{
    size_t stop = (position / SAVE_TOKENS + 1) * SAVE_TOKENS;
    for (size_t i = 0; i < r->documents.n; i++) {
        size_t end = (size_t)(r->documents.items[i].token_start + r->documents.items[i].token_count);
        if (end > position && end < stop)
            stop = end;
    }
    return stop < r->corpus.n ? stop : r->corpus.n;
}

struct saved {
    uint8_t key[KV_KEY_BYTES]; /* of the last save of this call that may be dropped */
    int droppable;
};

static int save(struct reader *r, struct saved *last, struct err *e)
{
    struct kv_sink sink = {.put = put_spans, .arg = r};
    uint8_t key[KV_KEY_BYTES];
    size_t position = session_position(r->timeline);
    int rc = session_save(r->timeline, &sink, key, e);
    if (rc)
        return rc;
    memcpy(r->row.chain, key, sizeof r->row.chain);
    r->row.has_chain = 1;
    r->row.tokens = position;
    rc = store_session_update(r->o.store, &r->row, e);
    struct err ignored; /* a checkpoint too many costs disk space, no answer */
    if (!rc && last->droppable && memcmp(last->key, key, sizeof key) != 0)
        store_span_drop(r->o.store, KV_KIND_CHECKPOINT, last->key, &ignored);
    memcpy(last->key, key, sizeof last->key);
    last->droppable = !is_document_end(r, position) && position < r->corpus.n;
    return rc;
}

/* One candidate; 0 when it was restored, ERR_NOT_FOUND when there is nothing at that place. */
static int restore_at(struct reader *r, size_t n, struct restore_report *report, struct err *e)
{
    uint8_t key[KV_KEY_BYTES];
    if (!n || n > r->corpus.n)
        return ERR_NOT_FOUND;
    engine_chain_key(r->o.engine, r->corpus.ids, n, key);
    int rc = store_span_find(r->o.store, KV_KIND_CHECKPOINT, key, NULL, e);
    if (rc)
        return rc;
    struct kv_source source = {.map = map_span, .unmap = unmap_span, .arg = r};
    r->adopting = !r->row.has_chain || r->row.tokens != n || memcmp(r->row.chain, key, sizeof key) != 0;
    rc = session_restore(r->timeline, &source, r->corpus.ids, n, report, e);
    if (!rc && r->adopting) {
        memcpy(r->row.chain, key, sizeof key);
        r->row.has_chain = 1;
        r->row.tokens = n;
        rc = store_session_update(r->o.store, &r->row, e);
    }
    r->adopting = 0;
    if (rc == ERR_FORMAT)
        reader_notice(r, "%s", e->text);
    return rc;
}

/* Nothing usable is stored there: try a shorter prefix, or read. Everything else is a failure to be told. */
static int is_miss(int rc)
{
    return rc == ERR_NOT_FOUND || rc == ERR_FORMAT;
}

/* The longest stored prefix of the corpus, or nothing; only a failure that is no miss is an error. */
static int restore(struct reader *r, struct reader_usage *usage, struct err *e)
{
    double begun = clock_seconds();
    struct restore_report report = {.proof = RESTORE_VERIFIED_BITS};
    struct err miss;
    int rc = restore_at(r, r->corpus.n, &report, &miss);
    if (is_miss(rc) && r->row.tokens && r->row.tokens < r->corpus.n)
        rc = restore_at(r, (size_t)r->row.tokens, &report, &miss);
    for (size_t i = r->documents.n; is_miss(rc) && i-- > 0;)
        rc = restore_at(r, (size_t)(r->documents.items[i].token_start + r->documents.items[i].token_count),
                        &report, &miss);
    if (!rc) {
        usage->restored = session_position(r->timeline);
        usage->restore_seconds = clock_seconds() - begun;
        usage->proof = report.proof == RESTORE_VERIFIED_BITS ? "verified" : "close";
    }
    if (rc && !is_miss(rc)) {
        *e = miss;
        return rc;
    }
    return 0;
}

int reader_leave_conversation(struct reader *r, struct err *e)
{
    r->in_conversation = 0;
    if (!r->timeline || !r->end)
        return 0;
    return session_return(r->timeline, r->end, e);
}

/* The timeline is a prefix of the corpus after this. */
static int begin(struct reader *r, struct reader_usage *usage, struct err *e)
{
    int rc = reader_leave_conversation(r, e);
    size_t at = r->timeline ? session_position(r->timeline) : 0;
    int prefix =
        at && at <= r->corpus.n && !memcmp(session_tokens(r->timeline), r->corpus.ids, at * sizeof(uint32_t));
    if (!rc && prefix)
        return 0;
    session_mark_free(r->end);
    r->end = NULL;
    session_free(r->timeline);
    r->timeline = NULL;
    rc = session_create(&r->timeline, r->o.engine, e);
    return rc ? rc : restore(r, usage, e);
}

struct shifted {
    const struct progress *to;
    size_t base, total;
};

static void report_shifted(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)total;
    const struct shifted *s = arg;
    progress_report(s->to, what, s->base + done, s->total);
}

static int read_rest(struct reader *r, const struct progress *progress, struct cancel *cancel,
                     struct reader_usage *usage, struct err *e)
{
    struct saved last = {.droppable = 0};
    size_t at = session_position(r->timeline), n = r->corpus.n;
    int rc = 0;
    while (!rc && at < n) {
        size_t stop = next_stop(r, at);
        struct shifted shifted = {.to = progress, .base = at, .total = n};
        struct progress port = {.report = report_shifted, .arg = &shifted};
        progress_report(progress, "reading", at, n);
        struct append_options options = {.progress = &port, .cancel = cancel};
        double begun = clock_seconds();
        rc = session_append(r->timeline, r->corpus.ids + at, stop - at, &options, e);
        size_t now = session_position(r->timeline);
        usage->prefilled += now - at;
        usage->prefill_seconds += clock_seconds() - begun;
        if (now > at && (!rc || rc == ERR_CANCELLED)) {
            struct err failed;
            int saved = save(r, &last, &failed);
            if (saved) {
                *e = failed;
                rc = saved;
            }
        }
        at = now;
    }
    return rc;
}

int reader_read(struct reader *r, const struct progress *progress, struct cancel *cancel,
                struct reader_usage *usage, struct err *e)
{
    struct reader_usage unused = {0};
    usage = usage ? usage : &unused;
    if (!usage->proof)
        usage->proof = "none";
    size_t limit = engine_context(r->o.engine);
    if (r->corpus.n > limit && !r->o.allow_long)
        return err_set(
            e, ERR_LIMIT,
            "the documents make %zu tokens and the model was trained for %zu: leave documents out, choose a "
            "model with a longer context (--model), or go on at your own risk with --long",
            r->corpus.n, limit);
    int rc = begin(r, usage, e);
    if (!rc)
        rc = read_rest(r, progress, cancel, usage, e);
    if (!rc && !r->end)
        rc = session_mark(r->timeline, &r->end, e);
    else if (!rc && usage->prefilled) {
        session_mark_free(r->end);
        r->end = NULL;
        rc = session_mark(r->timeline, &r->end, e);
    }
    return rc;
}
