/* SPDX-License-Identifier: Apache-2.0 */
/* room_events.c - makes the events; texts are copied into them by ui/message.h. */
#include "app/room_events.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"

static const double SEND_EVERY = 0.1; /* seconds between two progress events */

static int send_or_free(struct ui_port *port, struct ui_event *event, int failed, struct err *e)
{
    if (!failed)
        return port_send_event(port, event, e);
    ui_event_fini(event);
    return err_memory(e, "an event");
}

int room_send_library(struct ui_port *port, struct store *store, struct err *e)
{
    struct store_session_list list = {0};
    struct ui_event event = {.kind = UI_EVENT_LIBRARY};
    int rc = store_session_list(store, &list, e), failed = 0;
    for (size_t i = 0; !rc && !failed && i < list.n; i++) {
        const struct store_session *s = &list.items[i];
        struct store_document_list documents = {0};
        rc = store_document_list(store, s->id, &documents, e);
        struct ui_library_row row = {.name = s->name,
                                     .title = documents.n ? documents.items[0].title : NULL,
                                     .documents = (uint32_t)s->documents,
                                     .pages = (uint32_t)s->pages,
                                     .tokens = s->tokens,
                                     .kv_bytes = s->kv_bytes,
                                     .last_opened = s->opened};
        if (row.title && !*row.title)
            row.title = (char *)(uintptr_t)path_base(documents.items[0].path);
        failed = !rc && ui_event_add_row(&event, &row);
        store_document_list_free(&documents);
    }
    store_session_list_free(&list);
    if (rc) {
        ui_event_fini(&event);
        return rc;
    }
    return send_or_free(port, &event, failed, e);
}

/* The interface's view of a citation; it borrows everything. */
static struct ui_citation borrow_citation(const struct reader_citation *c, size_t i)
{
    return (struct ui_citation){.number = (int)i + 1,
                                .file = c->name,
                                .page_index = c->page_index,
                                .page_label = *c->page_label ? c->page_label : NULL,
                                .line_first = c->line_first,
                                .line_last = c->line_last,
                                .quote = c->quote,
                                .score = c->score,
                                .state = UI_CITATION_PASSAGE};
}

static int add_turn(struct ui_event *event, const struct store_turn *t)
{
    struct reader_citation *citations;
    size_t n;
    struct buf marked = {0}; /* damaged on the disk: never shown as if it had been said */
    if (t->damaged)
        buf_printf(&marked, "(damaged: this is not what was written)\n%s", t->answer);
    reader_citations_parse(t->damaged ? "" : t->json, &citations, &n);
    struct ui_citation *shown = calloc(n ? n : 1, sizeof *shown);
    for (size_t i = 0; shown && i < n; i++)
        shown[i] = borrow_citation(&citations[i], i);
    struct ui_turn turn = {.ordinal = t->ordinal,
                           .question = t->question,
                           .answer = t->damaged ? marked.data : t->answer,
                           .citations = shown,
                           .n_citations = shown ? n : 0};
    int failed = !shown || marked.failed || ui_event_add_turn(event, &turn);
    buf_free(&marked);
    free(shown);
    reader_citations_free(citations, n);
    return failed;
}

int room_send_session(struct ui_port *port, struct store *store, struct reader *r, const char *name,
                      struct err *e)
{
    struct store_turn_list turns = {0};
    int rc = store_turn_list(store, reader_session(r), &turns, e);
    if (rc)
        return rc;
    struct ui_event event = {.kind = UI_EVENT_SESSION};
    int failed = ui_event_name(&event, name);
    for (size_t i = 0; !failed && i < reader_documents(r); i++) {
        const struct store_document *d = reader_document(r, i);
        struct ui_document document = {
            .title = d->title, .path = d->path, .pages = (uint32_t)d->pages, .tokens = d->token_count};
        failed = ui_event_add_document(&event, &document);
    }
    for (size_t i = 0; !failed && i < turns.n; i++)
        failed = add_turn(&event, &turns.items[i]);
    store_turn_list_free(&turns);
    return send_or_free(port, &event, failed, e);
}

int room_send_answer(struct ui_port *port, const struct reader_answer *a, struct err *e)
{
    struct ui_event event = {.kind = UI_EVENT_ANSWER, .turn = a->turn, .cancelled = a->cancelled};
    if (a->usage.generated > 1 && a->usage.decode_seconds > 0)
        event.rate = (double)(a->usage.generated - 1) / a->usage.decode_seconds;
    int failed = 0;
    for (size_t i = 0; !failed && i < a->n_citations; i++) {
        struct ui_citation c = borrow_citation(&a->citations[i], i);
        failed = ui_event_add_citation(&event, &c);
    }
    return send_or_free(port, &event, failed, e);
}

int room_send_status(struct ui_port *port, const struct engine *g, const struct reader *r, const char *what,
                     const char *line, struct err *e)
{
    struct ui_event event = {.kind = UI_EVENT_STATUS, .tokens_limit = engine_context(g)};
    if (r) {
        event.tokens = reader_position(r);
        event.kv_bytes = reader_kv_bytes(r);
    }
    int failed = what ? ui_event_text(&event, what, strlen(what)) : 0;
    failed = failed || (line && ui_event_name(&event, line));
    return send_or_free(port, &event, failed, e);
}

static int find_citation(struct store *store, struct reader *r, int64_t ordinal, int number,
                         struct reader_citation **all, size_t *n, struct err *e)
{
    struct store_turn_list turns = {0};
    int rc = store_turn_list(store, reader_session(r), &turns, e);
    *all = NULL;
    *n = 0;
    for (size_t i = 0; !rc && i < turns.n; i++)
        if (turns.items[i].ordinal == ordinal && !*all)
            reader_citations_parse(turns.items[i].json, all, n);
    store_turn_list_free(&turns);
    if (!rc && (number < 1 || (size_t)number > *n)) {
        reader_citations_free(*all, *n);
        *all = NULL;
        rc = err_set(e, ERR_NOT_FOUND, "this answer has no source number %d", number);
    }
    return rc;
}

int room_send_source(struct ui_port *port, struct store *store, struct reader *r, int64_t turn, int number,
                     struct err *e)
{
    struct reader_citation *all;
    size_t n, bytes;
    if (!r)
        return err_set(e, ERR_USAGE, "open a session first");
    int rc = find_citation(store, r, turn, number, &all, &n, e);
    if (rc)
        return rc;
    const struct reader_citation *c = &all[number - 1];
    struct ui_event event = {.kind = UI_EVENT_SOURCE, .turn = turn, .number = number};
    char *text = NULL;
    rc = reader_source(r, c->document, c->text_first, c->text_end, &text, &bytes, &event.mark_first,
                       &event.mark_last, e);
    if (!rc) {
        struct buf title = {0};
        buf_puts(&title, c->name);
        if (c->page_index >= 0)
            buf_printf(&title, ", page %s (sheet %d)", *c->page_label ? c->page_label : "?",
                       c->page_index + 1);
        int failed = title.failed || ui_event_name(&event, title.data) || ui_event_text(&event, text, bytes);
        buf_free(&title);
        rc = send_or_free(port, &event, failed, e);
    }
    free(text);
    reader_citations_free(all, n);
    return rc;
}

static void report(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct room_rate *rate = arg;
    double now = clock_seconds();
    if (!rate->unit_what || strcmp(rate->unit_what, what) != 0) {
        rate->unit_what = what;
        rate->begun = now;
        rate->first = done;
        rate->sent = 0;
    }
    if (now - rate->sent < SEND_EVERY && done < total)
        return;
    rate->sent = now;
    double speed = now > rate->begun ? (double)(done - rate->first) / (now - rate->begun) : 0;
    double eta = speed > 0 && total > done ? (double)(total - done) / speed : -1;
    struct err ignored; /* the interface has gone; the step's cancel flag is set by then */
    /* The interface shows a rate of tokens; other steps count bytes. */
    int tokens = !strcmp(what, "reading");
    port_send_progress(rate->port, what, done, total, tokens ? speed : 0, eta, &ignored);
}

struct progress room_rate_port(struct room_rate *rate, struct ui_port *port)
{
    *rate = (struct room_rate){.port = port};
    return (struct progress){.report = report, .arg = rate};
}
