/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_ask.c - lectern ask: one question, answered from the corpus alone; the answer streams, its sources
 * follow. */
#include "app/commands.h"

#include <stdlib.h>
#include <string.h>

#include "app/byte_progress.h"
#include "app/interrupt.h"
#include "app/output.h"
#include "app/store_care.h"
#include "app/workbench.h"

struct asking {
    const struct config *config;
    struct output_stream stream;
    struct err failed;
    struct progress_line line; /* ends when the answer begins */
};

static void tell(void *arg, const char *line)
{
    const struct asking *a = arg;
    output_notice(a->config, "%s", line);
}

/* Before the answer, so the progress line must make room. */
static void tell_restored(void *arg, const struct reader_usage *u)
{
    struct asking *a = arg;
    char line[400];
    progress_line_end(&a->line);
    reader_usage_line(u, line, sizeof line);
    output_notice(a->config, "%s", line);
}

static int on_token(void *arg, const char *piece, size_t n)
{
    struct asking *s = arg;
    progress_line_end(&s->line);
    return output_stream(&s->stream, piece, n, 0, &s->failed) != 0;
}

/* "[1] guide.pdf, page iv (4 of the file), lines 3-5: \"...\"" */
static int print_citation(size_t number, const struct reader_citation *c, struct err *e)
{
    struct buf line = {0};
    buf_printf(&line, "[%zu] %s", number, c->name);
    if (c->page_index >= 0)
        buf_printf(&line, ", page %s (sheet %d)", *c->page_label ? c->page_label : "?", c->page_index + 1);
    if (c->line_first && c->line_last > c->line_first)
        buf_printf(&line, ", lines %u-%u", c->line_first, c->line_last);
    else if (c->line_first)
        buf_printf(&line, ", line %u", c->line_first);
    buf_puts(&line, ": \"");
    for (const char *p = c->quote; *p; p++)
        buf_putc(&line, *p == '\n' ? ' ' : *p);
    buf_puts(&line, "\"");
    int rc = line.failed ? err_memory(e, "a citation") : output_text(line.data, line.len, e);
    buf_free(&line);
    return rc ? rc : output_puts("\n", e);
}

static int print_sources(const struct reader_answer *a, struct err *e)
{
    int rc =
        output_puts(a->n_citations ? "\n\nSources:\n" : "\n\nSources: none found in the documents.\n", e);
    for (size_t i = 0; !rc && i < a->n_citations; i++)
        rc = print_citation(i + 1, &a->citations[i], e);
    return rc ? rc : output_flush(e);
}

/* The answer with what the session says of its files. */
static json_t *answer_json(const struct reader *r, const struct reader_answer *a)
{
    json_t *object = reader_answer_json(a);
    if (object && (json_object_set_new(object, "changed", reader_files_json(r, READER_FILE_CHANGED)) ||
                   json_object_set_new(object, "missing", reader_files_json(r, READER_FILE_MISSING)))) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static int answer(struct asking *s, struct workbench *w, struct err *e)
{
    const struct config *c = s->config;
    struct reader_answer a;
    struct reader_question q = {.text = c->args[c->n_args - 1],
                                .select = (size_t)c->select,
                                .one_by_one = c->no_drafts,
                                .temperature = c->temperature,
                                .top_p = c->top_p,
                                .seed = c->seed,
                                .max_tokens = c->max_tokens,
                                .token = c->json ? NULL : on_token,
                                .arg = s};
    progress_line_begin(&s->line, c, "tokens");
    struct progress port = progress_line_port(&s->line);
    int rc = reader_ask(w->reader, &q, &port, interrupt_watch(), &a, e);
    progress_line_end(&s->line);
    int stream_rc = output_stream(&s->stream, "", 0, 1, &s->failed);
    if (!rc && stream_rc) {
        *e = s->failed;
        rc = stream_rc;
    }
    if (!rc && c->json)
        rc = output_json(answer_json(w->reader, &a), e);
    else if (!rc)
        rc = print_sources(&a, e);
    if (!rc && a.usage.audits)
        output_notice(
            c, "answered from %d pages a head, which held %.1f %% of the attention (passes audited: %zu)",
            c->select, a.usage.visited * 100, a.usage.audits);
    if (!rc && a.truncated)
        output_notice(c, "the answer was cut at %d tokens; --max-tokens allows more", c->max_tokens);
    if (!rc && a.cancelled)
        rc = err_set(e, ERR_CANCELLED, "stopped; the answer so far is kept in the session");
    if (!rc && a.usage.prefilled)
        rc = store_care(c, w->store, e);
    reader_answer_fini(&a);
    return rc;
}

static int open_session(struct asking *s, struct workbench *w, const char *name, int create, struct err *e)
{
    struct byte_progress bytes;
    struct progress port = byte_progress_begin(&bytes, s->config);
    int rc = workbench_session(w, name, create, &port, interrupt_watch(), tell, tell_restored, s, e);
    byte_progress_end(&bytes);
    return rc;
}

int cmd_ask(const struct config *c, struct err *e)
{
    struct workbench w = {0};
    char *name = NULL;
    if (!c->n_args || !*c->args[c->n_args - 1])
        return err_set(e, ERR_USAGE, "no question; lectern ask FILE \"QUESTION\"");
    size_t n_paths = c->n_args - 1;
    struct asking asking = {.config = c};
    struct err left = {0};
    int rc = workbench_name(c, c->args, n_paths, &name, e);
    if (!rc)
        rc = workbench_open(&w, c, e);
    if (!rc)
        rc = open_session(&asking, &w, name, n_paths > 0, e);
    if (!rc)
        rc = workbench_add(&w, c->args, n_paths, NULL, interrupt_watch(), tell, &asking, &left, e);
    if (!rc) {
        reader_tell_changed(w.reader);
        rc = answer(&asking, &w, e);
    }
    if (!rc && (rc = left.code))
        *e = left;
    workbench_close(&w);
    free(name);
    return rc;
}
