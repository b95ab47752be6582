/* SPDX-License-Identifier: Apache-2.0 */
/* reader_restore.c - the longest stored prefix of the corpus becomes the timeline, and what is damaged in it
 * is read again.
 *
 * Candidates are the places where a checkpoint may lie: the corpus' end, the last save, ends of documents and
 * multiples of the interval. A block that is damaged or gone is computed again from the checkpoint before it
 * and put; then the whole is restored, so damage in the middle costs its own range. A checkpoint that is
 * damaged or gone costs the way from the one before it. Each such thing leaves its reason.
 */
#include "app/reader_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"

/* The first reason is the one to tell. */
static void because(struct reader_usage *u, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void because(struct reader_usage *u, const char *format, ...)
{
    if (u->reason[0])
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(u->reason, sizeof u->reason, format, args);
    va_end(args);
}

/* Nothing usable is stored there: try a shorter prefix, or read. Everything else is a failure to be told. */
static int is_miss(int rc)
{
    return rc == ERR_NOT_FOUND || rc == ERR_FORMAT;
}

/* ---- candidates ---- */

struct places {
    size_t *at; /* descending, each once */
    size_t n;
};

static int descending(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x < y) - (x > y);
}

static int find_places(const struct reader *r, struct places *out, struct err *e)
{
    size_t interval = engine_checkpoint_interval(r->o.engine), most = r->corpus.n / interval;
    out->n = 0;
    out->at = malloc((most + r->documents.n + 2) * sizeof *out->at);
    if (!out->at)
        return err_memory(e, "the places of checkpoints");
    out->at[out->n++] = r->corpus.n;
    if (r->row.has_chain)
        out->at[out->n++] = (size_t)r->row.tokens;
    for (size_t i = 1; i <= most; i++)
        out->at[out->n++] = i * interval;
    for (size_t i = 0; i < r->documents.n; i++)
        out->at[out->n++] = (size_t)(r->documents.items[i].token_start + r->documents.items[i].token_count);
    qsort(out->at, out->n, sizeof *out->at, descending);
    size_t n = 0;
    for (size_t i = 0; i < out->n; i++)
        if (out->at[i] && out->at[i] <= r->corpus.n && (!n || out->at[n - 1] != out->at[i]))
            out->at[n++] = out->at[i];
    out->n = n;
    return 0;
}

/* Is a checkpoint there? 0, ERR_NOT_FOUND, ERR_FORMAT (its row is damaged), or a failure. */
static int look(struct reader *r, size_t n, uint8_t key[KV_KEY_BYTES], struct err *e)
{
    engine_chain_key(r->o.engine, r->corpus.ids, n, key);
    return store_span_find(r->o.store, KV_KIND_CHECKPOINT, key, NULL, e);
}

/* ---- taking another session's reading over ---- */

/* The checkpoints before n that are kept: a later change or damage begins at one of them. */
static int adopt_checkpoints(struct reader *r, size_t n, const struct places *places, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < places->n; i++) {
        uint8_t key[KV_KEY_BYTES];
        struct err none;
        if (places->at[i] >= n || !reader_keeps(r, places->at[i]))
            continue;
        rc = look(r, places->at[i], key, &none);
        if (!rc)
            rc = store_session_ref(r->o.store, r->row.id, KV_KIND_CHECKPOINT, key, e);
        else if (is_miss(rc))
            rc = 0;
        else
            *e = none;
    }
    return rc;
}

/* The spans that the restore mapped are this session's from now on, and it stands at n. */
static int adopt(struct reader *r, size_t n, const uint8_t key[KV_KEY_BYTES], const struct places *places,
                 struct err *e)
{
    int rc = store_begin(r->o.store, e);
    if (rc)
        return rc;
    struct store_session row = r->row;
    memcpy(row.chain, key, sizeof row.chain);
    row.has_chain = 1;
    row.tokens = n;
    for (size_t at = 0; !rc && at < r->mapped.len; at += sizeof(struct reader_mapped)) {
        struct reader_mapped one;
        memcpy(&one, r->mapped.data + at, sizeof one);
        rc = store_session_ref(r->o.store, row.id, one.kind, one.key, e);
    }
    if (!rc)
        rc = adopt_checkpoints(r, n, places, e);
    if (!rc)
        rc = store_session_update(r->o.store, &row, e);
    rc = store_end(r->o.store, rc, e);
    if (!rc)
        r->row = row;
    return rc;
}

static int restore_session(struct reader *r, struct session *s, size_t n, struct restore_report *report,
                           struct err *e)
{
    struct kv_source source = reader_source_port(r);
    *report = (struct restore_report){.miss = RESTORE_NO_MISS};
    buf_free(&r->mapped);
    return session_restore(s, &source, r->corpus.ids, n, report, e);
}

/* ---- repair ---- */

struct repair {
    struct places places;
    struct reader_last last; /* the checkpoint at `end`, which only helps the next repair */
    size_t end;              /* where the last repair ended; 0: none yet */
    size_t first;            /* of the block that was repaired last */
    size_t blocks;
};

/* `s` (empty) comes to the nearest place at or before `first` that can be restored; perhaps the start. */
static int restore_before(struct reader *r, struct session *s, const struct repair *p, size_t first,
                          struct err *e)
{
    struct restore_report report;
    struct err miss;
    int rc = ERR_NOT_FOUND, tried = !p->end || p->end > first;
    for (size_t i = 0; is_miss(rc) && i < p->places.n; i++) {
        uint8_t key[KV_KEY_BYTES];
        size_t at = p->places.at[i];
        if (at > first)
            continue;
        if (!tried && p->end >= at) { /* the last repair's own checkpoint comes in its order */
            tried = 1;
            rc = restore_session(r, s, p->end, &report, &miss);
            if (!is_miss(rc))
                break;
        }
        rc = look(r, at, key, &miss);
        if (!rc)
            rc = restore_session(r, s, at, &report, &miss);
    }
    if (is_miss(rc) && !tried)
        rc = restore_session(r, s, p->end, &report, &miss);
    if (rc && !is_miss(rc)) {
        *e = miss;
        return rc;
    }
    return 0;
}

/* Computes the tokens up to `end` again and puts the blocks that the store has lost. */
static int repair_range(struct reader *r, struct repair *p, size_t first, size_t end,
                        const struct progress *progress, struct cancel *cancel, struct reader_usage *u,
                        struct err *e)
{
    struct session *s = NULL;
    int rc = session_create(&s, r->o.engine, e);
    if (!rc)
        rc = restore_before(r, s, p, first, e);
    if (!rc) {
        size_t at = session_position(s);
        double begun = clock_seconds();
        struct reader_shifted shifted = {.to = progress, .base = at, .total = end};
        struct progress port = reader_shifted_port(&shifted);
        struct append_options options = {.progress = &port, .cancel = cancel};
        rc = session_append(s, r->corpus.ids + at, end - at, &options, e);
        double seconds = clock_seconds() - begun;
        u->prefilled += session_position(s) - at;
        u->prefill_seconds += seconds;
        r->saver.token_seconds = end > at ? seconds / (double)(end - at) : 0;
    }
    if (!rc)
        rc = reader_save_aside(r, s, &p->last, e);
    session_free(s);
    if (rc == ERR_CANCELLED)
        err_set(e, rc, "stopped while the damaged block at token %zu was read again; everything else is kept",
                first);
    if (rc)
        return rc;
    p->end = end;
    p->first = first;
    p->blocks++;
    return 0;
}

/* The checkpoint that only helped the repairs goes. */
static int repair_done(struct reader *r, struct repair *p, struct err *e)
{
    return p->last.droppable ? store_session_unref(r->o.store, r->row.id, KV_KIND_CHECKPOINT, p->last.key, e)
                             : 0;
}

/* ---- one place ---- */

static void tell_block(struct reader_usage *u, const struct restore_report *report)
{
    because(u, "block at %zu was %s", report->damaged_first,
            report->miss == RESTORE_BAD_BLOCK ? "damaged" : "gone");
}

/* What lies behind the reason of a place that could not be had. */
static void tell_miss(struct reader *r, struct reader_usage *u, size_t n, const struct restore_report *report)
{
    if (report->miss == RESTORE_NO_PROOF) {
        because(u, "what was stored before %zu did not prove itself", n);
        buf_add(&r->doubted, r->mapped.data, r->mapped.len);
    } else if (report->damaged_end) {
        tell_block(u, report);
    } else {
        because(u, "checkpoint at %zu was %s", n, report->miss == RESTORE_NO_CHECKPOINT ? "gone" : "damaged");
    }
}

/* As often as a damaged block can be read again. */
static int restore_repairing(struct reader *r, size_t n, struct repair *p, const struct progress *progress,
                             struct cancel *cancel, struct reader_usage *u, struct restore_report *report,
                             struct err *e)
{
    for (;;) {
        double begun = clock_seconds();
        int rc = restore_session(r, r->timeline, n, report, e);
        u->restore_seconds = clock_seconds() - begun;
        int repairable = is_miss(rc) && report->damaged_end > report->damaged_first &&
                         report->damaged_end <= n && (!p->blocks || report->damaged_first > p->first);
        if (!repairable)
            return rc;
        tell_block(u, report);
        rc = repair_range(r, p, report->damaged_first, report->damaged_end, progress, cancel, u, e);
        if (rc)
            return rc;
    }
}

/* Restores to n, repairing on the way. 0, or a miss: n cannot be had. */
static int restore_at(struct reader *r, size_t n, struct repair *p, const struct progress *progress,
                      struct cancel *cancel, struct reader_usage *u, struct err *e)
{
    uint8_t key[KV_KEY_BYTES];
    struct restore_report report = {.miss = RESTORE_NO_MISS};
    int rc = look(r, n, key, e);
    if (rc == ERR_FORMAT)
        because(u, "checkpoint at %zu was damaged", n);
    if (rc)
        return rc;
    int adopting = !r->row.has_chain || r->row.tokens != n || memcmp(r->row.chain, key, sizeof key) != 0;
    rc = restore_repairing(r, n, p, progress, cancel, u, &report, e);
    if (!rc && adopting)
        rc = adopt(r, n, key, &p->places, e);
    if (is_miss(rc))
        tell_miss(r, u, n, &report);
    if (rc)
        return rc;
    u->proof = report.proof == RESTORE_VERIFIED_BITS ? "verified" : "close";
    u->replayed = report.replayed;
    return 0;
}

/* ---- why ---- */

/* `was`: the row before the restore. */
static void explain(const struct reader *r, const struct store_session *was, size_t restored,
                    struct reader_usage *u)
{
    uint8_t key[KV_KEY_BYTES];
    size_t tokens = (size_t)was->tokens;
    if (restored == r->corpus.n || u->reason[0])
        return;
    if (r->remade) {
        because(u, "the session was made with another model");
    } else if (r->edited) {
        because(u, "the text changed at %zu", r->edited);
    } else if (was->has_chain && tokens <= r->corpus.n && tokens != restored) {
        engine_chain_key(r->o.engine, r->corpus.ids, tokens, key);
        if (memcmp(key, was->chain, sizeof key) != 0)
            because(u, "the last reading was by another model or with other settings");
        else
            because(u, "checkpoint at %zu was gone", tokens);
    } else if (was->has_chain && restored && !reader_is_document_end(r, restored)) {
        because(u, "the last reading stopped there");
    } else {
        because(u, "new");
    }
}

/* Spans whose checksums were right and whose meaning was not, beyond what could be had: they go, so that the
 * next save writes them anew. */
static int drop_doubted(struct reader *r, size_t kept, struct err *e)
{
    if (!r->doubted.len)
        return 0;
    int rc = store_begin(r->o.store, e);
    if (rc)
        return rc;
    for (size_t at = 0; !rc && at < r->doubted.len; at += sizeof(struct reader_mapped)) {
        struct reader_mapped one;
        struct span_info info;
        memcpy(&one, r->doubted.data + at, sizeof one);
        rc = store_span_find(r->o.store, one.kind, one.key, &info, e);
        if (!rc && info.position > kept)
            rc = store_span_drop(r->o.store, one.kind, one.key, e);
        rc = is_miss(rc) ? 0 : rc;
    }
    buf_free(&r->doubted);
    return store_end(r->o.store, rc, e);
}

int reader_restore(struct reader *r, const struct progress *progress, struct cancel *cancel,
                   struct reader_usage *u, struct err *e)
{
    struct repair repair = {.end = 0};
    struct err miss = {0};
    struct store_session was = r->row; /* for its numbers */
    int rc = find_places(r, &repair.places, e);
    if (rc)
        return rc;
    reader_save_last(r);
    rc = ERR_NOT_FOUND;
    for (size_t i = 0; is_miss(rc) && i < repair.places.n; i++)
        rc = restore_at(r, repair.places.at[i], &repair, progress, cancel, u, &miss);
    free(repair.places.at);
    if (rc && !is_miss(rc)) {
        *e = miss;
        return rc;
    }
    size_t restored = rc ? 0 : session_position(r->timeline);
    u->restored = restored > u->prefilled ? restored - u->prefilled : 0;
    explain(r, &was, restored, u);
    rc = repair_done(r, &repair, e);
    return rc ? rc : drop_doubted(r, restored, e);
}
