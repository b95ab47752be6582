/* SPDX-License-Identifier: Apache-2.0 */
/* reader_model.c - which model reads a session, and what becomes of it when that is another one.
 *
 * Documents are kept as one tokenizer's ids. A model with another tokenizer begins from the kept text: all of
 * it is encoded in memory, then one transaction replaces the ids and names the model. So a session is wholly
 * the one model's or wholly the other's, whatever stops the program. Turns stay; what they cite are places in
 * the text. What the other model has read stays the session's as well: it is found again by its ids when that
 * model comes back, and goes with gc, strip or the session.
 */
#include "app/reader_internal.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "app/output.h"
#include "engine/base/file.h"

enum { HEX_BYTES = 65 };

/* Writes down which model reads the session now. */
static int name_model(struct reader *r, const char *tokenizer, struct err *e)
{
    json_t *fresh = json_pack("{s:s}", "tokenizer", tokenizer);
    char *options = fresh ? json_dumps(fresh, JSON_COMPACT) : NULL;
    char *path = strdup(engine_model_path(r->o.engine));
    json_decref(fresh);
    if (!options || !path) {
        free(options);
        free(path);
        return err_memory(e, "the session's options");
    }
    free(r->row.options);
    free(r->row.model_path);
    r->row.options = options;
    r->row.model_path = path;
    engine_model_hash(r->o.engine, r->row.model_hash);
    return store_session_update(r->o.store, &r->row, e);
}

/* Do the options name this tokenizer? *same is 0 when they name none. They are read twice, because jansson's
 * reader leaves out characters, and succeeds, when it cannot grow its buffer; a hash read wrong would cost a
 * long reading. */
static int compare_tokenizer(const struct reader *r, const char *hex, int *same, struct err *e)
{
    const char *text = r->row.options && *r->row.options ? r->row.options : "{}";
    json_t *options = json_loads(text, 0, NULL), *again = json_loads(text, 0, NULL);
    int sure = (!options && !again) || (options && again && json_equal(options, again));
    const char *was = json_string_value(json_object_get(options, "tokenizer"));
    *same = was && !strcmp(was, hex);
    json_decref(options);
    json_decref(again);
    return sure ? 0 : err_memory(e, "the session's options");
}

static uint64_t text_bytes(const struct reader *r)
{
    uint64_t all = 0;
    for (size_t i = 0; i < r->documents.n; i++)
        all += r->documents.items[i].part_bytes[STORE_TEXT];
    return all;
}

/* All texts into r->texts with this tokenizer's ids. */
static int encode_all(struct reader *r, struct err *e)
{
    uint64_t done = 0, all = text_bytes(r);
    r->texts = calloc(r->documents.n, sizeof *r->texts);
    if (!r->texts)
        return err_memory(e, "the documents");
    int rc = 0;
    for (size_t i = 0; !rc && i < r->documents.n; i++) {
        const struct store_document *d = &r->documents.items[i];
        struct reader_text *t = &r->texts[i];
        struct token_list ids = {0};
        progress_report(r->o.progress, "encoding", done, all);
        rc = reader_load_words(r, d, t, e);
        if (!rc)
            rc = reader_encode(r, i, d->path, t->text, t->bytes, &ids, r->o.cancel, e);
        t->ids = ids.ids; /* the text's from here on, after a failure too */
        t->ends = ids.ends;
        t->tokens = ids.n;
        done += t->bytes;
    }
    return rc;
}

static int replace_all(struct reader *r, size_t token_start, struct err *e)
{
    uint64_t done = 0, all = text_bytes(r);
    int rc = store_document_drop_from(r->o.store, r->row.id, 0, e);
    for (size_t i = 0; !rc && i < r->documents.n; i++) {
        progress_report(r->o.progress, "storing", done, all);
        rc = cancel_requested(r->o.cancel) ? ERR_CANCELLED : reader_store_again(r, i, NULL, token_start, e);
        token_start += r->texts[i].tokens;
        done += r->texts[i].bytes;
    }
    return rc;
}

/* All or nothing. */
static int take_over(struct reader *r, const char *hex, size_t token_start, struct err *e)
{
    int rc = store_begin(r->o.store, e);
    if (rc)
        return rc;
    rc = replace_all(r, token_start, e);
    if (!rc) {
        r->row.has_chain = 0;
        r->row.tokens = 0;
        rc = name_model(r, hex, e);
    }
    return store_end(r->o.store, rc, e);
}

static int remake(struct reader *r, const char *hex, struct err *e)
{
    struct token_list opening = {0};
    const char *model = r->row.model_path && *r->row.model_path ? path_base(r->row.model_path) : "unknown";
    reader_notice(r,
                  "session '%s' was made with another model (%s); its text is read again with this one, "
                  "questions and answers stay",
                  r->name, model);
    int rc = chat_corpus_open(r->chat, NULL, &opening, e);
    if (!rc)
        rc = encode_all(r, e);
    if (!rc)
        rc = take_over(r, hex, opening.n, e);
    token_list_fini(&opening);
    if (rc == ERR_CANCELLED)
        err_set(e, rc, "stopped; session '%s' stays as the other model left it", r->name);
    r->remade = !rc;
    return rc;
}

int reader_take_model(struct reader *r, struct err *e)
{
    uint8_t hash[16];
    char hex[HEX_BYTES];
    int same = 0;
    tokenizer_hash(engine_tokenizer(r->o.engine), hash);
    output_hex(hash, sizeof hash, hex);
    int rc = compare_tokenizer(r, hex, &same, e);
    if (!rc && !same)
        rc = store_document_list(r->o.store, r->row.id, &r->documents, e);
    if (rc)
        return rc;
    return r->documents.n ? remake(r, hex, e) : name_model(r, hex, e);
}
