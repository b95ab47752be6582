/* SPDX-License-Identifier: Apache-2.0 */
/* store_show.c - `lectern store stats`: where the bytes are, by session, document and chain, and what it
 * would take to read them again. Tables fit 80 columns. */
#include <stdlib.h>
#include <string.h>

#include "app/cmd_store.h"
#include "app/columns.h"
#include "app/output.h"
#include "app/store_care.h"
#include "engine/base/clock.h"
#include "ui/human.h"

enum { NAME_COLUMNS = 21 };

struct shown_session {
    struct store_session *row; /* borrowed */
    struct store_usage usage;
    struct store_document_list documents;
    struct store_usage *parts; /* [documents.n] */
};

static void shown_free(struct shown_session *v)
{
    store_document_list_free(&v->documents);
    free(v->parts);
    *v = (struct shown_session){0};
}

/* A document has the spans that end within it, the first one also what comes before it (the chat frame), the
 * last one all that follows, so that the parts make the whole. */
static int documents_usage(struct store *s, struct shown_session *v, struct err *e)
{
    size_t n = v->documents.n;
    int rc = 0;
    v->parts = calloc(n ? n : 1, sizeof *v->parts);
    if (!v->parts)
        return err_memory(e, "the table");
    for (size_t i = 0; i < n && !rc; i++) {
        uint64_t from = i ? v->documents.items[i].token_start : 0;
        uint64_t to = i + 1 < n ? v->documents.items[i + 1].token_start : UINT64_MAX;
        if (to >= from)
            rc = store_session_usage(s, v->row->id, from, to, &v->parts[i], e);
    }
    return rc;
}

static int shown_load(struct store *s, struct store_session *row, struct shown_session *v, struct err *e)
{
    *v = (struct shown_session){.row = row};
    if (row->damaged)
        return 0;
    int rc = store_session_usage(s, row->id, 0, UINT64_MAX, &v->usage, e);
    if (!rc)
        rc = store_document_list(s, row->id, &v->documents, e);
    if (!rc)
        rc = documents_usage(s, v, e);
    v->usage.bytes = row->kv_bytes; /* also spans without a position, of an older program */
    if (rc)
        shown_free(v);
    return rc;
}

/* ---- JSON ---- */

static json_t *document_json(const struct store_document *d, const struct store_usage *u)
{
    return json_pack("{s:i, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:f}", "ordinal", d->ordinal, "path",
                     column_json(d->path), "title", column_json(d->title), "token_start",
                     (json_int_t)d->token_start, "tokens", (json_int_t)d->token_count, "spans",
                     (json_int_t)u->spans, "kv_bytes", (json_int_t)u->bytes, "shared_bytes",
                     (json_int_t)u->shared_bytes, "rebuild_seconds", u->seconds);
}

static json_t *session_json(const struct shown_session *v)
{
    const struct store_session *s = v->row;
    json_t *documents = json_array();
    int bad = !documents;
    for (size_t i = 0; i < v->documents.n && !bad; i++)
        bad = json_array_append_new(documents, document_json(&v->documents.items[i], &v->parts[i]));
    if (bad) {
        json_decref(documents);
        return NULL;
    }
    return json_pack(
        "{s:I, s:o, s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "id", (json_int_t)s->id, "name",
        column_json(s->name), "pinned", s->pinned, "damaged", s->damaged, "created", (json_int_t)s->created,
        "opened", (json_int_t)s->opened, "turns", (json_int_t)s->turns, "tokens", (json_int_t)s->tokens,
        "spans", (json_int_t)v->usage.spans, "kv_bytes", (json_int_t)v->usage.bytes, "shared_bytes",
        (json_int_t)v->usage.shared_bytes, "rebuild_seconds", v->usage.seconds, "documents", documents);
}

static json_t *chain_json(const struct store_chain *k)
{
    char key[65];
    output_hex(k->key, sizeof k->key, key);
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:f, s:b}", "key", key, "tokens",
                     (json_int_t)k->position, "spans", (json_int_t)k->spans, "kv_bytes", (json_int_t)k->bytes,
                     "sessions", (json_int_t)k->sessions, "opened", (json_int_t)k->opened, "rebuild_seconds",
                     k->seconds, "pinned", k->pinned);
}

struct everything {
    struct store_stats stats;
    struct store_session_list sessions;
    struct shown_session *shown; /* [sessions.n] */
    struct store_chain_list chains;
};

static json_t *all_json(const struct config *c, const struct everything *a)
{
    json_t *sessions = json_array(), *chains = json_array();
    int bad = !sessions || !chains;
    for (size_t i = 0; i < a->sessions.n && !bad; i++)
        bad = json_array_append_new(sessions, session_json(&a->shown[i]));
    for (size_t i = 0; i < a->chains.n && !bad; i++)
        bad = json_array_append_new(chains, chain_json(&a->chains.items[i]));
    if (bad) {
        json_decref(sessions);
        json_decref(chains);
        return NULL;
    }
    json_t *budget = c->budget == CONFIG_NOT_GIVEN ? json_null() : json_integer((json_int_t)c->budget);
    const struct store_stats *t = &a->stats;
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:o, s:o}", "spans",
                     (json_int_t)t->spans, "kv_bytes", (json_int_t)t->span_bytes, "segment_files",
                     (json_int_t)t->segment_files, "segment_disk_bytes", (json_int_t)t->segment_disk_bytes,
                     "index_bytes", (json_int_t)t->db_bytes, "free_bytes", (json_int_t)t->free_bytes,
                     "budget", budget, "leave_free", (json_int_t)c->leave_free, "documents",
                     (json_int_t)t->documents, "turns", (json_int_t)t->turns, "sessions", sessions, "chains",
                     chains);
}

/* ---- text ---- */

static void amounts(struct buf *out, uint64_t tokens, const struct store_usage *u)
{
    column_number(out, human_count, tokens, 11);
    column_number(out, human_bytes, u->bytes, 9);
    column_number(out, human_bytes, u->shared_bytes, 9);
    column_seconds(out, u->seconds, 9);
}

static void document_row(struct buf *out, const struct store_document *d, const struct store_usage *u)
{
    const char *base = strrchr(d->path, '/');
    buf_puts(out, "    ");
    column_text(out, base && base[1] ? base + 1 : d->path, NAME_COLUMNS + 4, NAME_COLUMNS + 4);
    amounts(out, d->token_count, u);
    buf_putc(out, '\n');
}

static void session_row(struct buf *out, const struct shown_session *v)
{
    const struct store_session *s = v->row;
    buf_puts(out, s->pinned ? "* " : "  ");
    column_text(out, s->name ? s->name : "?", NAME_COLUMNS, NAME_COLUMNS);
    if (s->damaged) {
        buf_puts(out, "  damaged; `lectern store verify` says more\n");
        return;
    }
    column_number(out, human_count, s->documents, 6);
    amounts(out, s->tokens, &v->usage);
    buf_puts(out, "  ");
    human_when(out, s->opened, clock_unix());
    buf_putc(out, '\n');
    for (size_t i = 0; i < v->documents.n; i++)
        document_row(out, &v->documents.items[i], &v->parts[i]);
}

static void sessions_head(struct buf *out)
{
    buf_puts(out, "  ");
    column_text(out, "SESSION", NAME_COLUMNS, 0);
    buf_puts(out, "  DOCS     TOKENS       KV   SHARED  REBUILD  OPENED\n");
}

static void chain_row(struct buf *out, const struct store_chain *k)
{
    static const uint8_t none[STORE_KEY_BYTES];
    char key[65];
    output_hex(k->key, 8, key);
    buf_puts(out, k->pinned ? "* " : "  ");
    column_text(out, memcmp(k->key, none, sizeof none) ? key : "(unfinished)", NAME_COLUMNS, 0);
    column_number(out, human_count, k->sessions, 9);
    column_number(out, human_count, k->position, 12);
    column_number(out, human_bytes, k->bytes, 10);
    column_seconds(out, k->seconds, 11);
    buf_puts(out, "  ");
    human_when(out, k->opened, clock_unix());
    buf_putc(out, '\n');
}

static void chains_table(struct buf *out, const struct store_chain_list *chains)
{
    if (!chains->n)
        return;
    buf_puts(out, "\n  ");
    column_text(out, "CHAIN", NAME_COLUMNS, 0);
    buf_puts(out, " SESSIONS      TOKENS        KV    REBUILD  OPENED\n");
    for (size_t i = 0; i < chains->n; i++)
        chain_row(out, &chains->items[i]);
}

static void totals(struct buf *out, const struct config *c, const struct store_stats *t)
{
    buf_puts(out, "readings  ");
    human_bytes(out, t->span_bytes);
    buf_puts(out, " in ");
    human_count(out, t->spans);
    buf_puts(out, t->spans == 1 ? " span, " : " spans, ");
    human_bytes(out, t->segment_disk_bytes);
    buf_puts(out, " of disk in ");
    human_count(out, t->segment_files);
    buf_puts(out, t->segment_files == 1 ? " file\nindex     " : " files\nindex     ");
    human_bytes(out, t->db_bytes);
    buf_puts(out, ", with all text and turns\nfree      ");
    human_bytes(out, t->free_bytes);
    if (c->budget != CONFIG_NOT_GIVEN) {
        buf_puts(out, "\nbudget    ");
        human_bytes(out, c->budget);
    }
    if (c->leave_free) {
        buf_puts(out, "\nto leave  ");
        human_bytes(out, c->leave_free);
        buf_puts(out, " free");
    }
    buf_putc(out, '\n');
}

static int all_text(const struct config *c, const struct everything *a, struct err *e)
{
    struct buf out = {0};
    int pins = 0;
    totals(&out, c, &a->stats);
    if (a->sessions.n) {
        buf_putc(&out, '\n');
        sessions_head(&out);
    }
    for (size_t i = 0; i < a->sessions.n; i++) {
        session_row(&out, &a->shown[i]);
        pins |= a->sessions.items[i].pinned;
    }
    chains_table(&out, &a->chains);
    if (pins)
        buf_puts(&out, "\n* pinned: no clean-up drops its reading\n");
    return columns_put(&out, e);
}

int store_show_all(const struct config *c, struct store *s, struct err *e)
{
    struct everything a = {0};
    int rc = store_stats(s, &a.stats, e);
    if (!rc)
        rc = store_session_list(s, &a.sessions, e);
    if (!rc && !(a.shown = calloc(a.sessions.n ? a.sessions.n : 1, sizeof *a.shown)))
        rc = err_memory(e, "the table");
    for (size_t i = 0; i < a.sessions.n && !rc; i++)
        rc = shown_load(s, &a.sessions.items[i], &a.shown[i], e);
    if (!rc)
        rc = store_chain_list(s, &a.chains, e);
    if (!rc)
        rc = c->json ? output_json(all_json(c, &a), e) : all_text(c, &a, e);
    for (size_t i = 0; a.shown && i < a.sessions.n; i++)
        shown_free(&a.shown[i]);
    free(a.shown);
    store_chain_list_free(&a.chains);
    store_session_list_free(&a.sessions);
    return rc;
}

int store_show_session(const struct config *c, struct store *s, struct err *e)
{
    struct store_session session = {0};
    struct shown_session v = {0};
    struct buf out = {0};
    int rc = store_named(s, c->args[0], &session, e);
    if (!rc)
        rc = shown_load(s, &session, &v, e);
    if (!rc && c->json) {
        rc = output_json(session_json(&v), e);
    } else if (!rc) {
        sessions_head(&out);
        session_row(&out, &v);
        if (session.pinned)
            buf_puts(&out, "\n* pinned: no clean-up drops its reading\n");
        rc = columns_put(&out, e);
    }
    shown_free(&v);
    store_session_free(&session);
    return rc;
}
