/* SPDX-License-Identifier: Apache-2.0 */
/* reader_read.c - brings the timeline to the corpus' end: restore, read on, save as it goes.
 *
 * Saves come every SAVE_TOKENS, at every checkpoint that is kept and at the corpus' end, and are written
 * while the next part is read. The session's row names the last durable one, so a kill at any moment loses at
 * most what was read since the one before it.
 */
#include "app/reader_internal.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/clock.h"

enum {
    SAVE_TOKENS = 4096,
    DEVICE_SAVE_TOKENS = 32768 /* a card reads so many in about the same time */
};

int reader_leave_conversation(struct reader *r, struct err *e)
{
    r->in_conversation = 0;
    if (!r->timeline || !r->end)
        return 0;
    return session_return(r->timeline, r->end, e);
}

/* Where to save next after `position`. */
static size_t next_stop(const struct reader *r, size_t position)
{
    size_t interval = engine_checkpoint_interval(r->o.engine);
    size_t every = strcmp(engine_device(r->o.engine), "cpu") ? DEVICE_SAVE_TOKENS : SAVE_TOKENS;
    size_t stop = (position / every + 1) * every, kept = (position / interval + 1) * interval;
    stop = kept < stop ? kept : stop;
    for (size_t i = 0; i < r->documents.n; i++) {
        size_t end = (size_t)(r->documents.items[i].token_start + r->documents.items[i].token_count);
        if (end > position && end < stop)
            stop = end;
    }
    return stop < r->corpus.n ? stop : r->corpus.n;
}

static void drop_timeline(struct reader *r)
{
    session_mark_free(r->end);
    r->end = NULL;
    session_free(r->timeline);
    r->timeline = NULL;
}

/* The timeline is a prefix of the corpus after this. */
static int begin(struct reader *r, const struct progress *progress, struct cancel *cancel,
                 struct reader_usage *usage, struct err *e)
{
    int rc = reader_leave_conversation(r, e);
    size_t at = r->timeline ? session_position(r->timeline) : 0;
    int prefix =
        at && at <= r->corpus.n && !memcmp(session_tokens(r->timeline), r->corpus.ids, at * sizeof(uint32_t));
    if (!rc && prefix) {
        if (at < r->corpus.n)
            snprintf(usage->reason, sizeof usage->reason, "%s",
                     reader_is_document_end(r, at) ? "new" : "the last reading stopped there");
        return 0;
    }
    drop_timeline(r);
    rc = session_create(&r->timeline, r->o.engine, e);
    if (!rc)
        rc = reader_restore(r, progress, cancel, usage, e);
    if (rc)
        drop_timeline(r);
    return rc;
}

static void report_shifted(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)total;
    const struct reader_shifted *s = arg;
    progress_report(s->to, what, s->base + done, s->total);
}

struct progress reader_shifted_port(struct reader_shifted *s)
{
    return (struct progress){.report = report_shifted, .arg = s};
}

/* Up to the next save, which is begun. What was read before a cancel is saved too. */
static int read_part(struct reader *r, const struct progress *progress, struct cancel *cancel,
                     struct reader_usage *usage, struct err *e)
{
    size_t at = session_position(r->timeline), stop = next_stop(r, at);
    struct reader_shifted shifted = {.to = progress, .base = at, .total = r->corpus.n};
    struct progress port = reader_shifted_port(&shifted);
    progress_report(progress, "reading", at, r->corpus.n);
    struct append_options options = {.progress = &port, .cancel = cancel};
    double begun = clock_seconds();
    int rc = session_append(r->timeline, r->corpus.ids + at, stop - at, &options, e);
    size_t now = session_position(r->timeline);
    double seconds = clock_seconds() - begun;
    usage->prefilled += now - at;
    usage->prefill_seconds += seconds;
    if (now > at && (!rc || rc == ERR_CANCELLED)) {
        struct err failed;
        int saved = reader_save_begin(r, seconds / (double)(now - at), &failed);
        if (saved) {
            *e = failed;
            rc = saved;
        }
    }
    return rc;
}

static int read_rest(struct reader *r, const struct progress *progress, struct cancel *cancel,
                     struct reader_usage *usage, struct err *e)
{
    int rc = 0;
    while (!rc && session_position(r->timeline) < r->corpus.n)
        rc = read_part(r, progress, cancel, usage, e);
    struct err failed;
    int saved = reader_save_wait(r, &failed);
    if (saved && (!rc || rc == ERR_CANCELLED)) {
        *e = failed;
        rc = saved;
    }
    if (rc == ERR_CANCELLED)
        err_set(e, rc, "stopped after %zu of %zu tokens, which are kept; the next reading goes on from there",
                session_position(r->timeline), r->corpus.n);
    return rc;
}

static int mark_end(struct reader *r, struct err *e)
{
    session_mark_free(r->end);
    r->end = NULL;
    return session_mark(r->timeline, &r->end, e);
}

int reader_room(const struct reader *r, size_t tokens, struct err *e)
{
    size_t on_card, in_all;
    engine_room(r->o.engine, &on_card, &in_all);
    if (tokens <= in_all)
        return 0;
    return err_set(
        e, ERR_LIMIT,
        "%zu tokens have no room: %zu fit on the card and in the memory beside it; leave documents "
        "out, or choose a smaller --kv, smaller --weights, more --sparsity or --device cpu",
        tokens, in_all);
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
    int rc = reader_room(r, r->corpus.n, e);
    if (!rc)
        rc = begin(r, progress, cancel, usage, e);
    if (!rc)
        rc = read_rest(r, progress, cancel, usage, e);
    if (!rc && (!r->end || usage->prefilled))
        rc = mark_end(r, e);
    if (!rc) {
        r->edited = 0;
        r->remade = 0;
    }
    if (!rc && r->o.restored && (usage->restored || usage->prefilled))
        r->o.restored(r->o.arg, usage);
    return rc;
}
