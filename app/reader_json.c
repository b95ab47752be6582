/* SPDX-License-Identifier: Apache-2.0 */
/* reader_json.c - what a reading and an answer say of themselves: a line, JSON (for scripts and for the kept
 * turn), and its citations back again. */
#include "app/reader.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/output.h"
#include "engine/base/buf.h"

static double per_second(size_t tokens, double seconds)
{
    return seconds > 0 ? (double)tokens / seconds : 0;
}

/* "0.04 s", "3.1 s", "40 s" */
static void add_seconds(struct buf *b, double seconds)
{
    buf_printf(b, "%.*f s", seconds < 0.1 ? 2 : seconds < 10 ? 1 : 0, seconds);
}

void reader_usage_line(const struct reader_usage *u, char *line, size_t n)
{
    struct buf b = {0};
    if (u->restored) {
        int close = u->proof && !strcmp(u->proof, "close");
        buf_printf(&b, "restored %zu, verified%s, ", u->restored, close ? " within rounding" : "");
        add_seconds(&b, u->restore_seconds);
    }
    if (u->prefilled) {
        buf_printf(&b, "%sread %zu (%s), ", b.len ? "; " : "", u->prefilled,
                   u->reason[0] ? u->reason : "new");
        add_seconds(&b, u->prefill_seconds);
    }
    snprintf(line, n, "%s", b.data && !b.failed ? b.data : "");
    buf_free(&b);
}

static json_t *text_json(const char *text)
{
    return output_json_text(text, strlen(text));
}

static json_t *citation_json(const struct reader_citation *c)
{
    json_t *bytes = c->byte_length ? json_pack("[I,I]", (json_int_t)c->byte_first,
                                               (json_int_t)(c->byte_first + c->byte_length))
                                   : json_null();
    json_t *page = c->page_index >= 0 ? json_integer(c->page_index) : json_null();
    return json_pack("{s:I, s:o, s:o, s:o, s:o, s:[I,I], s:o, s:[I,I], s:o, s:f}", "document",
                     (json_int_t)c->document, "file", text_json(c->file), "name", text_json(c->name),
                     "page_index", page, "page_label", text_json(c->page_label), "lines",
                     (json_int_t)c->line_first, (json_int_t)c->line_last, "bytes", bytes, "text_bytes",
                     (json_int_t)c->text_first, (json_int_t)c->text_end, "quote", text_json(c->quote),
                     "score", c->score);
}

json_t *reader_restore_json(const struct reader_usage *u)
{
    char line[400];
    reader_usage_line(u, line, sizeof line);
    return json_pack("{s:I, s:s, s:f, s:I, s:I, s:f, s:o, s:s}", "restored", (json_int_t)u->restored, "proof",
                     u->proof ? u->proof : "none", "seconds", u->restore_seconds, "replayed",
                     (json_int_t)u->replayed, "read", (json_int_t)u->prefilled, "read_seconds",
                     u->prefill_seconds, "reason", u->reason[0] ? json_string(u->reason) : json_null(),
                     "line", line);
}

json_t *reader_files_json(const struct reader *r, enum reader_file state)
{
    json_t *paths = json_array();
    for (size_t i = 0; paths && i < reader_documents(r); i++)
        if (reader_file(r, i) == state &&
            json_array_append_new(paths, text_json(reader_document(r, i)->path))) {
            json_decref(paths);
            return NULL;
        }
    return paths;
}

static json_t *citations_json(const struct reader_answer *a)
{
    json_t *citations = json_array();
    for (size_t i = 0; citations && i < a->n_citations; i++)
        if (json_array_append_new(citations, citation_json(&a->citations[i]))) {
            json_decref(citations);
            return NULL;
        }
    return citations;
}

json_t *reader_turn_json(const struct reader_answer *a)
{
    json_t *usage = json_pack("{s:I, s:I}", "question", (json_int_t)a->usage.question, "generated",
                              (json_int_t)a->usage.generated);
    return json_pack("{s:o, s:o, s:b, s:b, s:o}", "answer", text_json(a->text), "citations",
                     citations_json(a), "cancelled", a->cancelled, "truncated", a->truncated, "usage", usage);
}

json_t *reader_answer_json(const struct reader_answer *a)
{
    const struct reader_usage *u = &a->usage;
    json_t *usage = json_pack("{s:I, s:I, s:I, s:I, s:s}", "restored", (json_int_t)u->restored, "prefilled",
                              (json_int_t)u->prefilled, "question", (json_int_t)u->question, "generated",
                              (json_int_t)u->generated, "proof", u->proof ? u->proof : "none");
    json_t *timing = json_pack("{s:f, s:f, s:f, s:f, s:f}", "tokens_per_pass",
                               u->passes ? (double)u->appended / (double)u->passes : 0.0, "restore_seconds",
                               u->restore_seconds, "first_token_seconds", u->first_token_seconds,
                               "prefill_tokens_per_second", per_second(u->prefilled, u->prefill_seconds),
                               "decode_tokens_per_second",
                               u->generated > 1 ? per_second(u->generated - 1, u->decode_seconds) : 0.0);
    json_t *selection =
        u->audits ? json_pack("{s:I, s:f}", "audits", (json_int_t)u->audits, "visited_share", u->visited)
                  : json_null();
    return json_pack("{s:o, s:o, s:b, s:b, s:o, s:o, s:o, s:o}", "answer", text_json(a->text), "citations",
                     citations_json(a), "cancelled", a->cancelled, "truncated", a->truncated, "usage", usage,
                     "restore", reader_restore_json(u), "timing", timing, "selection", selection);
}

static uint64_t range_at(const json_t *object, const char *name, size_t i)
{
    json_int_t v = json_integer_value(json_array_get(json_object_get(object, name), i));
    return v > 0 ? (uint64_t)v : 0;
}

static char *copy_string(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return strdup(text ? text : "");
}

void reader_citations_parse(const char *json, struct reader_citation **out, size_t *n)
{
    *out = NULL;
    *n = 0;
    json_t *root = json_loads(json ? json : "", 0, NULL);
    const json_t *list = json_object_get(root, "citations");
    size_t count = json_array_size(list);
    if (count && count < 1000)
        *out = calloc(count, sizeof **out);
    for (size_t i = 0; *out && i < count; i++) {
        const json_t *c = json_array_get(list, i), *page = json_object_get(c, "page_index");
        struct reader_citation *to = &(*out)[i];
        to->document = (size_t)json_integer_value(json_object_get(c, "document"));
        to->page_index = json_is_integer(page) ? (int32_t)json_integer_value(page) : -1;
        to->line_first = (uint32_t)range_at(c, "lines", 0);
        to->line_last = (uint32_t)range_at(c, "lines", 1);
        to->byte_first = range_at(c, "bytes", 0);
        to->byte_length = range_at(c, "bytes", 1) - to->byte_first;
        to->text_first = range_at(c, "text_bytes", 0);
        to->text_end = range_at(c, "text_bytes", 1);
        to->score = json_number_value(json_object_get(c, "score"));
        to->file = copy_string(c, "file");
        to->name = copy_string(c, "name");
        to->page_label = copy_string(c, "page_label");
        to->quote = copy_string(c, "quote");
        *n = i + 1;
        if (!to->file || !to->name || !to->page_label || !to->quote) {
            reader_citations_free(*out, *n);
            *out = NULL;
            *n = 0;
        }
    }
    json_decref(root);
}
