/* SPDX-License-Identifier: Apache-2.0 */
/* reader_add.c - a document on its way in: ingest, token ids, store; and what happens when a file has
 * changed.
 *
 * Everything of the new document is in memory before the store is touched, so a document that fails costs
 * only itself.
 */
#include "app/reader_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "ingest/ingest.h"

/* A document as ingest hands it over, until it is stored. */
struct incoming {
    struct reader *r;
    struct buf text;
    struct source_map *map;
    char *title, *kind;
    uint64_t pages;
    const struct progress *progress;
    struct token_list tokens;
    struct store_document row; /* its strings are borrowed from above and from the caller */
};

static int on_document(void *arg, const struct ingest_document *d, struct err *e)
{
    struct incoming *in = arg;
    in->title = strdup(d->title);
    in->kind = strdup(d->kind);
    in->pages = d->pages;
    return in->title && in->kind ? 0 : err_memory(e, "a document");
}

static int on_block(void *arg, const struct ingest_block *b, struct err *e)
{
    struct incoming *in = arg;
    buf_add(&in->text, b->text, b->n);
    if (in->text.failed)
        return err_memory(e, "a document's text");
    return source_map_add(in->map, b, e);
}

static void on_warning(void *arg, const char *line)
{
    struct incoming *in = arg;
    reader_notice(in->r, "%s", line);
}

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct incoming *in = arg;
    progress_report(in->progress, "opening", done, total);
}

static void incoming_fini(struct incoming *in)
{
    buf_free(&in->text);
    source_map_free(in->map);
    free(in->title);
    free(in->kind);
    token_list_fini(&in->tokens);
}

static int run_ingest(struct incoming *in, const char *path, struct cancel *cancel, struct err *e)
{
    int rc = source_map_create(&in->map, e);
    if (rc)
        return rc;
    struct ingest_options options = {.worker = in->r->o.worker, .path = path, .cancel = cancel};
    struct ingest_sink sink = {.arg = in,
                               .document = on_document,
                               .block = on_block,
                               .warning = on_warning,
                               .progress = on_progress};
    rc = ingest_run(&options, &sink, e);
    if (!rc && (!in->kind || !in->text.len))
        rc = err_set(e, ERR_FORMAT, "%s has no text to read%s", path,
                     in->pages ? "; if its pages are pictures, run OCR over it first" : "");
    return rc;
}

/* What stands between a document and the one before it, in the context. It is not part of the document's
 * text: its tokens end at byte 0. */
static int join_tokens(struct incoming *in, size_t ordinal, const char *path, struct cancel *cancel,
                       struct err *e)
{
    const struct tokenizer *t = engine_tokenizer(in->r->o.engine);
    int rc = 0;
    if (ordinal) {
        struct buf joint = {0};
        buf_printf(&joint, "\n\n==== %s ====\n\n", path_base(path));
        rc = joint.failed ? err_memory(e, "a heading")
                          : tokenizer_encode(t, joint.data, joint.len, 0, &in->tokens, cancel, e);
        buf_free(&joint);
        for (size_t i = 0; i < in->tokens.n; i++)
            in->tokens.ends[i] = 0;
    }
    return rc ? rc : tokenizer_encode(t, in->text.data, in->text.len, 0, &in->tokens, cancel, e);
}

static int store_incoming(struct incoming *in, size_t token_start, struct err *e)
{
    struct reader *r = in->r;
    struct buf map = {0};
    int rc = source_map_write(in->map, &map, e);
    in->row.title = in->title;
    in->row.kind = in->kind;
    in->row.pages = in->pages;
    in->row.token_start = token_start;
    in->row.token_count = in->tokens.n;
    struct iovec parts[STORE_PARTS] = {
        [STORE_TEXT] = {.iov_base = in->text.data, .iov_len = in->text.len},
        [STORE_MAP] = {.iov_base = map.data, .iov_len = map.len},
        [STORE_TOKENS] = {.iov_base = in->tokens.ids, .iov_len = in->tokens.n * sizeof(uint32_t)},
        [STORE_ENDS] = {.iov_base = in->tokens.ends, .iov_len = in->tokens.n * sizeof(uint32_t)},
    };
    if (!rc)
        rc = store_document_add(r->o.store, r->row.id, &in->row, parts, NULL, e);
    buf_free(&map);
    return rc;
}

/* Puts documents `from`.. (still in memory) behind what the store now has. */
static int store_again(struct reader *r, size_t from, size_t token_start, struct err *e)
{
    int rc = 0;
    for (size_t i = from; !rc && i < r->documents.n; i++) {
        struct store_document d = r->documents.items[i];
        struct reader_text *t = &r->texts[i];
        struct buf map = {0};
        rc = source_map_write(t->map, &map, e);
        struct iovec parts[STORE_PARTS] = {
            [STORE_TEXT] = {.iov_base = t->text, .iov_len = t->bytes},
            [STORE_MAP] = {.iov_base = map.data, .iov_len = map.len},
            [STORE_TOKENS] = {.iov_base = t->ids, .iov_len = t->tokens * sizeof *t->ids},
            [STORE_ENDS] = {.iov_base = t->ends, .iov_len = t->tokens * sizeof *t->ends},
        };
        d.token_start = token_start;
        token_start += t->tokens;
        if (!rc)
            rc = store_document_add(r->o.store, r->row.id, &d, parts, NULL, e);
        buf_free(&map);
    }
    return rc;
}

static size_t find_document(const struct reader *r, const char *path)
{
    size_t i = 0;
    while (i < r->documents.n && strcmp(r->documents.items[i].path, path) != 0)
        i++;
    return i;
}

/* Folders have no time of change of their own: they are taken in anew and compared by their text. */
static int seems_unchanged(const struct store_document *d, const struct stat *st)
{
    return S_ISREG(st->st_mode) && d->size == (uint64_t)st->st_size &&
           d->mtime_ns == (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static int take_in(struct reader *r, struct incoming *in, size_t at, const char *path, struct cancel *cancel,
                   int *added, struct err *e)
{
    int rc = run_ingest(in, path, cancel, e);
    if (rc)
        return rc;
    XXH128_canonical_t hash;
    XXH128_canonicalFromHash(&hash, XXH3_128bits(in->text.data, in->text.len));
    memcpy(in->row.hash, hash.digest, sizeof in->row.hash);
    int replaces = at < r->documents.n;
    if (replaces && !memcmp(r->documents.items[at].hash, in->row.hash, sizeof in->row.hash))
        return 0;
    rc = join_tokens(in, at, path, cancel, e);
    if (rc)
        return rc;
    size_t start = replaces ? (size_t)r->documents.items[at].token_start : r->corpus.n;
    if (replaces) {
        reader_notice(r, "%s has changed since it was read: it and what follows it are read again", path);
        rc = store_document_drop_from(r->o.store, r->row.id, (int)at, e);
    }
    if (!rc)
        rc = store_incoming(in, start, e);
    if (!rc && replaces)
        rc = store_again(r, at + 1, start + in->tokens.n, e);
    *added = 1;
    return rc;
}

int reader_add(struct reader *r, const char *path, const struct progress *progress, struct cancel *cancel,
               int *added, struct err *e)
{
    int unused;
    added = added ? added : &unused;
    *added = 0;
    char *full = realpath(path, NULL);
    struct stat st;
    if (!full || stat(full, &st)) {
        int rc = err_errno(e, errno, "cannot read %s", path);
        free(full);
        return rc;
    }
    size_t at = find_document(r, full);
    if (at < r->documents.n && seems_unchanged(&r->documents.items[at], &st)) {
        free(full);
        return 0;
    }
    struct incoming in = {.r = r, .progress = progress};
    in.row.path = full;
    in.row.size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    in.row.mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    int rc = take_in(r, &in, at, full, cancel, added, e);
    incoming_fini(&in);
    free(full);
    if (rc || !*added)
        return rc;
    rc = reader_leave_conversation(r, e);
    return rc ? rc : reader_load(r, e);
}
