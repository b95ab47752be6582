/* SPDX-License-Identifier: Apache-2.0 */
/* reader.c - opens a session, loads its documents, joins them to the corpus. */
#include "app/reader_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"

void reader_notice(const struct reader *r, const char *format, ...)
{
    if (!r->o.notice)
        return;
    char line[500];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    r->o.notice(r->o.arg, line);
}

void reader_text_fini(struct reader_text *t)
{
    free(t->text);
    free(t->ids);
    free(t->ends);
    source_map_free(t->map);
    *t = (struct reader_text){0};
}

static void drop_texts(struct reader *r)
{
    for (size_t i = 0; r->texts && i < r->documents.n; i++)
        reader_text_fini(&r->texts[i]);
    free(r->texts);
    free(r->files);
    r->texts = NULL;
    r->files = NULL;
    store_document_list_free(&r->documents);
    r->documents = (struct store_document_list){0};
}

static int misfit(const struct store_document *d, struct err *e)
{
    return err_set(e, ERR_FORMAT,
                   "what is stored of %s does not fit together; delete the session and add it again",
                   d->path);
}

int reader_load_words(struct reader *r, const struct store_document *d, struct reader_text *t, struct err *e)
{
    void *map = NULL;
    size_t map_bytes = 0;
    int rc =
        store_document_read(r->o.store, r->row.id, d->ordinal, STORE_TEXT, (void **)&t->text, &t->bytes, e);
    if (!rc)
        rc = store_document_read(r->o.store, r->row.id, d->ordinal, STORE_MAP, &map, &map_bytes, e);
    if (!rc)
        rc = source_map_parse(map, map_bytes, &t->map, e);
    free(map);
    return !rc && source_map_text_bytes(t->map) != t->bytes ? misfit(d, e) : rc;
}

/* One document's parts, checked against each other: what the database holds is not believed unseen. */
static int load_text(struct reader *r, const struct store_document *d, struct reader_text *t, struct err *e)
{
    int64_t id = r->row.id;
    size_t ids_bytes = 0, ends_bytes = 0;
    int rc = reader_load_words(r, d, t, e);
    if (!rc)
        rc = store_document_read(r->o.store, id, d->ordinal, STORE_TOKENS, (void **)&t->ids, &ids_bytes, e);
    if (!rc)
        rc = store_document_read(r->o.store, id, d->ordinal, STORE_ENDS, (void **)&t->ends, &ends_bytes, e);
    if (rc)
        return rc;
    t->tokens = ids_bytes / sizeof *t->ids;
    int bad = ids_bytes != ends_bytes || ids_bytes % sizeof *t->ids || t->tokens != d->token_count;
    for (size_t k = 0; !bad && k < t->tokens; k++)
        bad = t->ends[k] > t->bytes || (k && t->ends[k] < t->ends[k - 1]);
    return bad ? misfit(d, e) : 0;
}

static int join_corpus(struct reader *r, struct err *e)
{
    token_list_clear(&r->corpus);
    int rc = chat_corpus_open(r->chat, NULL, &r->corpus, e);
    r->opening = r->corpus.n;
    for (size_t i = 0; !rc && i < r->documents.n; i++) {
        const struct store_document *d = &r->documents.items[i];
        if (d->token_start != r->corpus.n)
            return err_set(e, ERR_FORMAT,
                           "%s lies at token %llu instead of %zu; delete the session and add it again",
                           d->path, (unsigned long long)d->token_start, r->corpus.n);
        for (size_t k = 0; !rc && k < r->texts[i].tokens; k++)
            rc = token_list_add(&r->corpus, r->texts[i].ids[k], 0, e);
    }
    return rc;
}

int reader_load(struct reader *r, struct err *e)
{
    drop_texts(r);
    int rc = store_document_list(r->o.store, r->row.id, &r->documents, e);
    if (!rc && r->documents.n) {
        r->texts = calloc(r->documents.n, sizeof *r->texts);
        r->files = calloc(r->documents.n, sizeof *r->files);
        if (!r->texts || !r->files)
            rc = err_memory(e, "the documents");
    }
    for (size_t i = 0; !rc && i < r->documents.n; i++) {
        rc = load_text(r, &r->documents.items[i], &r->texts[i], e);
        if (!rc)
            r->files[i] = reader_file_state(&r->documents.items[i], r->texts[i].map, r->texts[i].text);
    }
    return rc ? rc : join_corpus(r, e);
}

static int open_row(struct reader *r, struct err *e)
{
    int rc = store_session_open(r->o.store, r->name, &r->row, e);
    if (rc == ERR_NOT_FOUND && r->o.create) {
        rc = store_session_create(r->o.store, r->name, NULL, NULL, e);
        if (!rc)
            rc = store_session_open(r->o.store, r->name, &r->row, e);
    }
    if (!rc)
        rc = store_session_lock(r->o.store, r->row.id, &r->lock, e);
    if (!rc)
        rc = store_session_touch(r->o.store, r->row.id, e);
    return rc;
}

int reader_open(struct reader **out, const struct reader_options *options, struct err *e)
{
    *out = NULL;
    struct reader *r = calloc(1, sizeof *r);
    if (!r)
        return err_memory(e, "a session");
    r->o = *options;
    r->name = strdup(options->name);
    int rc = r->name ? open_row(r, e) : err_memory(e, "a session");
    if (!rc)
        rc = chat_open(engine_tokenizer(r->o.engine), engine_gguf(r->o.engine), &r->chat, e);
    if (!rc)
        rc = reader_take_model(r, e);
    if (!rc)
        rc = reader_load(r, e);
    if (rc) {
        reader_close(r);
        return rc;
    }
    *out = r;
    return 0;
}

void reader_close(struct reader *r)
{
    if (!r)
        return;
    reader_save_wait(r, NULL); /* a step that failed has left none; its own failure was told */
    session_mark_free(r->end);
    guesser_free(r->guesser);
    session_free(r->timeline);
    drop_texts(r);
    token_list_fini(&r->corpus);
    buf_free(&r->mapped);
    buf_free(&r->doubted);
    chat_close(r->chat);
    store_session_unlock(r->lock);
    store_session_free(&r->row);
    free(r->name);
    free(r);
}

int64_t reader_session(const struct reader *r)
{
    return r->row.id;
}
int reader_is_named(const struct reader *r, const char *name)
{
    return !strcmp(r->name, name);
}
size_t reader_documents(const struct reader *r)
{
    return r->documents.n;
}
const struct store_document *reader_document(const struct reader *r, size_t i)
{
    return &r->documents.items[i];
}
enum reader_file reader_file(const struct reader *r, size_t i)
{
    return r->files[i];
}

void reader_tell_changed(const struct reader *r)
{
    size_t n = 0, first = 0;
    for (size_t i = r->documents.n; i-- > 0;)
        if (r->files[i] == READER_FILE_CHANGED) {
            n++;
            first = i;
        }
    if (!n)
        return;
    const char *name = path_base(r->documents.items[first].path);
    char more[60] = "";
    if (n > 1)
        snprintf(more, sizeof more, " and %zu more", n - 1);
    reader_notice(
        r,
        "%s%s changed on disk since it was read, and answers are from the text as it was; to read it "
        "again from there: lectern add --changed -s '%s'",
        name, more, r->name);
}

size_t reader_corpus_tokens(const struct reader *r)
{
    return r->corpus.n;
}
size_t reader_position(const struct reader *r)
{
    return r->timeline ? session_position(r->timeline) : 0;
}
size_t reader_kv_bytes(const struct reader *r)
{
    return r->timeline ? session_kv_bytes(r->timeline) : 0;
}

int reader_source(struct reader *r, size_t document, uint64_t first, uint64_t end, char **text, size_t *bytes,
                  size_t *mark_first, size_t *mark_end, struct err *e)
{
    *text = NULL;
    if (document >= r->documents.n || first >= r->texts[document].bytes || end > r->texts[document].bytes ||
        end < first)
        return err_set(e, ERR_NOT_FOUND, "the cited text is not in this session any more");
    const struct reader_text *t = &r->texts[document];
    uint64_t from, to;
    int rc = source_map_page(t->map, first, &from, &to, e);
    if (rc)
        return rc;
    to = to > t->bytes ? t->bytes : to < end ? end : to;
    *bytes = (size_t)(to - from);
    *mark_first = (size_t)(first - from);
    *mark_end = (size_t)(end - from);
    *text = malloc(*bytes + 1);
    if (!*text)
        return err_memory(e, "a page of text");
    memcpy(*text, t->text + from, *bytes);
    (*text)[*bytes] = '\0';
    return 0;
}

int reader_default_name(const char *const *paths, size_t n, char **name, struct err *e)
{
    *name = NULL;
    struct buf all = {0}, out = {0};
    for (size_t i = 0; i < n; i++) {
        char *full = realpath(paths[i], NULL);
        if (!full) {
            buf_free(&all);
            return err_errno(e, errno, "cannot find %s", paths[i]);
        }
        buf_add(&all, full, strlen(full) + 1);
        if (!i)
            for (const char *p = path_base(full); *p && out.len < 60; p++)
                buf_putc(&out, (unsigned char)*p < 0x20 || *p == 0x7f || *p == '/' ? '_' : *p);
        free(full);
    }
    while (out.len && ((unsigned char)out.data[out.len - 1] & 0x80)) /* never half a character at the cut */
        out.data[--out.len] = '\0';
    buf_printf(&out, "-%06llx", (unsigned long long)(XXH3_64bits(all.data, all.len) & 0xffffff));
    buf_free(&all);
    *name = buf_take(&out);
    return *name ? 0 : err_memory(e, "a name");
}
