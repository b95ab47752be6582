/* SPDX-License-Identifier: Apache-2.0 */
/* message.c - building and freeing the messages of the port.
 *
 * Invariant: a failed add leaves the message exactly as it was, so the caller has one thing to free.
 */
#include "ui/message.h"

#include <stdlib.h>
#include <string.h>

static int copy_text(char **to, const char *from)
{
    *to = NULL;
    if (!from)
        return 0;
    *to = strdup(from);
    return *to ? 0 : -1;
}

/* Makes room for one more element of `size` bytes in *array; the lengths used are powers of two. */
static void *grow(void **array, size_t n, size_t size)
{
    if (n == 0 || (n & (n - 1)) == 0) {
        size_t bytes;
        if (__builtin_mul_overflow(n ? n * 2 : 1, size, &bytes))
            return NULL;
        void *larger = realloc(*array, bytes);
        if (!larger)
            return NULL;
        *array = larger;
    }
    return (char *)*array + n * size;
}

static void citation_fini(struct ui_citation *c)
{
    free(c->file);
    free(c->page_label);
    free(c->quote);
    memset(c, 0, sizeof *c);
}

static int citation_copy(struct ui_citation *to, const struct ui_citation *from)
{
    *to = *from;
    to->page_label = to->quote = NULL;
    if (copy_text(&to->file, from->file) || copy_text(&to->page_label, from->page_label) ||
        copy_text(&to->quote, from->quote)) {
        citation_fini(to);
        return -1;
    }
    return 0;
}

static int citations_add(struct ui_citation **array, size_t *n, const struct ui_citation *citation)
{
    struct ui_citation copy;
    if (citation_copy(&copy, citation))
        return -1;
    void *list = *array;
    struct ui_citation *slot = grow(&list, *n, sizeof *slot);
    *array = list;
    if (!slot) {
        citation_fini(&copy);
        return -1;
    }
    *slot = copy;
    ++*n;
    return 0;
}

static void turn_fini(struct ui_turn *turn)
{
    free(turn->question);
    free(turn->answer);
    ui_citations_free(turn->citations, turn->n_citations);
    memset(turn, 0, sizeof *turn);
}

static void document_fini(struct ui_document *document)
{
    free(document->title);
    free(document->path);
}

static void row_fini(struct ui_library_row *row)
{
    free(row->name);
    free(row->title);
}

int ui_event_text(struct ui_event *event, const char *text, size_t n)
{
    char *copy = malloc(n + 1);
    if (!copy)
        return -1;
    if (n)
        memcpy(copy, text, n);
    copy[n] = 0;
    free(event->text);
    event->text = copy;
    event->n_text = n;
    return 0;
}

int ui_event_name(struct ui_event *event, const char *name)
{
    char *copy;
    if (copy_text(&copy, name))
        return -1;
    free(event->name);
    event->name = copy;
    return 0;
}

int ui_event_add_row(struct ui_event *event, const struct ui_library_row *row)
{
    struct ui_library_row copy = *row;
    copy.title = NULL;
    void *list = event->rows;
    if (copy_text(&copy.name, row->name) || copy_text(&copy.title, row->title)) {
        row_fini(&copy);
        return -1;
    }
    struct ui_library_row *slot = grow(&list, event->n_rows, sizeof *slot);
    event->rows = list;
    if (!slot) {
        row_fini(&copy);
        return -1;
    }
    *slot = copy;
    event->n_rows++;
    return 0;
}

int ui_event_add_document(struct ui_event *event, const struct ui_document *document)
{
    struct ui_document copy = *document;
    copy.path = NULL;
    void *list = event->documents;
    if (copy_text(&copy.title, document->title) || copy_text(&copy.path, document->path)) {
        document_fini(&copy);
        return -1;
    }
    struct ui_document *slot = grow(&list, event->n_documents, sizeof *slot);
    event->documents = list;
    if (!slot) {
        document_fini(&copy);
        return -1;
    }
    *slot = copy;
    event->n_documents++;
    return 0;
}

int ui_event_add_citation(struct ui_event *event, const struct ui_citation *citation)
{
    return citations_add(&event->citations, &event->n_citations, citation);
}

int ui_event_add_turn(struct ui_event *event, const struct ui_turn *turn)
{
    struct ui_turn copy = {.ordinal = turn->ordinal, .cancelled = turn->cancelled};
    if (copy_text(&copy.question, turn->question) || copy_text(&copy.answer, turn->answer))
        goto fail;
    for (size_t i = 0; i < turn->n_citations; i++)
        if (citations_add(&copy.citations, &copy.n_citations, &turn->citations[i]))
            goto fail;
    void *list = event->turns;
    struct ui_turn *slot = grow(&list, event->n_turns, sizeof *slot);
    event->turns = list;
    if (!slot)
        goto fail;
    *slot = copy;
    event->n_turns++;
    return 0;
fail:
    turn_fini(&copy);
    return -1;
}

int ui_request_text(struct ui_request *request, const char *text)
{
    char *copy;
    if (copy_text(&copy, text))
        return -1;
    free(request->text);
    request->text = copy;
    return 0;
}

int ui_request_name(struct ui_request *request, const char *name)
{
    char *copy;
    if (copy_text(&copy, name))
        return -1;
    free(request->name);
    request->name = copy;
    return 0;
}

int ui_request_add_path(struct ui_request *request, const char *path)
{
    char *copy = strdup(path ? path : "");
    if (!copy)
        return -1;
    void *list = request->paths;
    char **slot = grow(&list, request->n_paths, sizeof *slot);
    request->paths = list;
    if (!slot) {
        free(copy);
        return -1;
    }
    *slot = copy;
    request->n_paths++;
    return 0;
}

void ui_citations_free(struct ui_citation *citations, size_t n)
{
    for (size_t i = 0; i < n; i++)
        citation_fini(&citations[i]);
    free(citations);
}

void ui_turns_free(struct ui_turn *turns, size_t n)
{
    for (size_t i = 0; i < n; i++)
        turn_fini(&turns[i]);
    free(turns);
}

void ui_documents_free(struct ui_document *documents, size_t n)
{
    for (size_t i = 0; i < n; i++)
        document_fini(&documents[i]);
    free(documents);
}

void ui_rows_free(struct ui_library_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        row_fini(&rows[i]);
    free(rows);
}

void ui_event_fini(struct ui_event *event)
{
    free(event->name);
    free(event->text);
    ui_rows_free(event->rows, event->n_rows);
    ui_documents_free(event->documents, event->n_documents);
    ui_turns_free(event->turns, event->n_turns);
    ui_citations_free(event->citations, event->n_citations);
    memset(event, 0, sizeof *event);
}

void ui_request_fini(struct ui_request *request)
{
    free(request->name);
    free(request->text);
    for (size_t i = 0; i < request->n_paths; i++)
        free(request->paths[i]);
    free(request->paths);
    memset(request, 0, sizeof *request);
}
