/* SPDX-License-Identifier: Apache-2.0 */
/* reader_ask.c - a question becomes a branch behind the corpus: answer, citations, a kept turn.
 *
 * The attention watch runs from the question's last token, whose pass chooses the first word of the answer,
 * to the end. A question that fails or is stopped before its answer began leaves the conversation as it was.
 */
#include "app/reader_internal.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/cite.h"

enum { CITATIONS_MAX = 3 };

static int check_room(const struct reader *r, size_t question, int max_tokens, struct err *e)
{
    size_t limit = engine_context(r->o.engine), used = session_position(r->timeline);
    size_t need = used + question + (size_t)max_tokens;
    if (need <= limit || r->o.allow_long)
        return reader_room(r, need, e);
    return err_set(
        e, ERR_LIMIT,
        "%zu tokens of documents and conversation, %zu of question and up to %d of answer are more than the "
        "%zu that the model was trained for: lower --max-tokens, leave documents out, or use --long",
        used, question, max_tokens, limit);
}

enum { RECENT_PAGES = 4, AUDIT_EVERY = 32 }; /* of selected pages: always kept; steps from one audit on */

/* The question's tokens but the last, then the last one watched, with which the selection of pages begins. */
static int append_question(struct reader *r, const struct reader_question *q, const struct token_list *ids,
                           const struct append_options *options, struct err *e)
{
    int rc = session_watch(r->timeline, 0, e);
    if (!rc && ids->n > 1)
        rc = session_append(r->timeline, ids->ids, ids->n - 1, options, e);
    if (!rc)
        rc = session_watch(r->timeline, 1, e);
    if (!rc && q->select)
        rc = session_select(r->timeline, q->select, RECENT_PAGES, AUDIT_EVERY, e);
    return rc ? rc : session_append(r->timeline, ids->ids + ids->n - 1, 1, options, e);
}

static int place_citation(struct reader *r, const struct cite_found *f, struct reader_citation *c,
                          struct err *e)
{
    const struct reader_text *t = &r->texts[f->text];
    const struct store_document *d = &r->documents.items[f->text];
    struct source_place from, to;
    int rc = source_map_lookup(t->map, t->text, f->first, &from, e);
    if (!rc)
        rc = source_map_lookup(t->map, t->text, f->end - 1, &to, e);
    if (!rc)
        rc = source_map_bytes(t->map, t->text, f->first, f->end, &c->byte_first, &c->byte_length, e);
    if (rc)
        return rc;
    int inside = !strcmp(d->kind, "folder") || !strcmp(d->kind, "git");
    struct buf file = {0};
    buf_puts(&file, d->path);
    if (inside)
        buf_printf(&file, "/%s", from.file);
    c->document = f->text;
    c->file = buf_take(&file);
    c->name = strdup(inside ? from.file : path_base(d->path));
    c->page_index = from.page_index;
    c->page_label = strdup(from.page_label);
    c->line_first = from.line;
    c->line_last = to.page_index == from.page_index && !strcmp(to.file, from.file) ? to.line : from.line;
    c->text_first = f->first;
    c->text_end = f->end;
    c->quote = strndup(t->text + f->first, f->end - f->first);
    c->score = f->score;
    return c->file && c->name && c->page_label && c->quote ? 0 : err_memory(e, "a citation");
}

static int cite(struct reader *r, const char *question, struct reader_answer *out, struct err *e)
{
    struct cite_found found[CITATIONS_MAX];
    size_t n = 0, pages;
    const double *mass = session_mass(r->timeline, &pages);
    struct cite_text *texts = calloc(r->documents.n ? r->documents.n : 1, sizeof *texts);
    out->citations = calloc(CITATIONS_MAX, sizeof *out->citations);
    int rc = texts && out->citations ? 0 : err_memory(e, "citations");
    for (size_t i = 0; !rc && i < r->documents.n; i++)
        texts[i] = (struct cite_text){.text = r->texts[i].text,
                                      .bytes = r->texts[i].bytes,
                                      .ends = r->texts[i].ends,
                                      .tokens = r->texts[i].tokens,
                                      .position = (size_t)r->documents.items[i].token_start};
    if (!rc)
        rc = cite_find(texts, r->documents.n, mass, pages, question, out->text, found, CITATIONS_MAX, &n, e);
    for (size_t i = 0; !rc && i < n; i++) {
        rc = place_citation(r, &found[i], &out->citations[i], e);
        out->n_citations = i + 1;
    }
    free(texts);
    return rc;
}

static int keep_turn(struct reader *r, const char *question, struct reader_answer *out, struct err *e)
{
    json_t *object = reader_turn_json(out);
    char *json = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!json)
        return err_memory(e, "an answer");
    struct store_turn turn = {.question = (char *)(uintptr_t)question, .answer = out->text, .json = json};
    int rc = store_turn_add(r->o.store, r->row.id, &turn, &out->turn, e);
    free(json);
    return rc;
}

/* The branch itself; the corpus is in the timeline. */
static int answer(struct reader *r, const struct reader_question *q, struct cancel *cancel,
                  struct reader_answer *out, struct err *e)
{
    double begun = clock_seconds();
    struct token_list ids = {0};
    struct session_mark *before = NULL;
    struct buf text = {0};
    struct append_options options = {.progress = NULL, .cancel = cancel};
    int rc = chat_question(r->chat, !r->in_conversation, r->answer_ended, q->text, strlen(q->text), &ids, e);
    if (!rc)
        rc = check_room(r, ids.n, q->max_tokens, e);
    if (!rc)
        rc = session_mark(r->timeline, &before, e);
    if (!rc) {
        out->usage.question = ids.n;
        rc = append_question(r, q, &ids, &options, e);
        if (!rc)
            rc = reader_decode(r, q, &options, &text, out, begun, e);
        struct err second;
        out->usage.visited = session_visited(r->timeline, &out->usage.audits);
        session_select(r->timeline, 0, 0, 0, &second);
        if (rc && session_return(r->timeline, before, &second))
            r->in_conversation = 0;
        if (!rc)
            r->in_conversation = 1;
    }
    if (!rc && !(out->text = buf_take(&text)))
        rc = err_memory(e, "an answer");
    if (!rc)
        rc = cite(r, q->text, out, e);
    session_mark_free(before);
    token_list_fini(&ids);
    buf_free(&text);
    return rc;
}

int reader_ask(struct reader *r, const struct reader_question *q, const struct progress *progress,
               struct cancel *cancel, struct reader_answer *out, struct err *e)
{
    *out = (struct reader_answer){0};
    if (!r->documents.n)
        return err_set(e, ERR_USAGE, "session '%s' has no documents; add one: lectern add -s '%s' FILE",
                       r->name, r->name);
    if (q->select && !strcmp(engine_device(r->o.engine), "cpu"))
        return err_set(e, ERR_UNSUPPORTED, "pages are selected on a card alone; answer without --select");
    int rc = 0;
    if (!q->follow_up || !r->in_conversation)
        rc = reader_read(r, progress, cancel, &out->usage, e);
    else
        out->usage.proof = "none";
    if (!rc)
        rc = answer(r, q, cancel, out, e);
    return rc ? rc : keep_turn(r, q->text, out, e);
}

void reader_answer_fini(struct reader_answer *a)
{
    free(a->text);
    reader_citations_free(a->citations, a->n_citations);
    *a = (struct reader_answer){0};
}

void reader_citations_free(struct reader_citation *citations, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(citations[i].file);
        free(citations[i].name);
        free(citations[i].page_label);
        free(citations[i].quote);
    }
    free(citations);
}
