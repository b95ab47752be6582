/* SPDX-License-Identifier: Apache-2.0 */
/* reader_add.c - documents on their way in: ingest, token ids, store; and what happens when files have
 * changed.
 *
 * Everything new is in memory before the store is touched, so a document that fails costs only itself. Then
 * one transaction takes it over: documents, what the session stands at, and the end of what only the old text
 * had.
 */
#include "app/reader_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "ingest/ingest.h"

/* A document as ingest hands it over, until it is stored. */
struct incoming {
    struct reader *r;
    char *path;     /* absolute */
    size_t at;      /* its place among the documents */
    int same_text;  /* as the document that it replaces: the tokens stay, only the stamp is new */
    int same_stamp; /* and that is the same, too */
    struct buf text;
    struct source_map *map;
    char *title, *kind;
    uint64_t pages;
    const struct progress *progress;
    struct token_list tokens;
    struct reader_stamp stamp;
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
    free(in->path);
    buf_free(&in->text);
    source_map_free(in->map);
    free(in->title);
    free(in->kind);
    token_list_fini(&in->tokens);
}

static int run_ingest(struct incoming *in, struct cancel *cancel, struct err *e)
{
    int rc = source_map_create(&in->map, e);
    if (rc)
        return rc;
    struct ingest_options options = {.worker = in->r->o.worker, .path = in->path, .cancel = cancel};
    struct ingest_sink sink = {.arg = in,
                               .document = on_document,
                               .block = on_block,
                               .warning = on_warning,
                               .progress = on_progress};
    rc = ingest_run(&options, &sink, e);
    if (!rc && (!in->kind || !in->text.len))
        rc = err_set(e, ERR_FORMAT, "%s has no text to read%s", in->path,
                     in->pages ? "; if its pages are pictures, run OCR over it first" : "");
    return rc;
}

/* What stands between a document and the one before it, in the context, is not part of the document's text:
 * its tokens end at byte 0. */
int reader_encode(const struct reader *r, size_t at, const char *path, const char *text, size_t bytes,
                  struct token_list *out, struct cancel *cancel, struct err *e)
{
    const struct tokenizer *t = engine_tokenizer(r->o.engine);
    int rc = 0;
    if (at) {
        struct buf joint = {0};
        buf_printf(&joint, "\n\n==== %s ====\n\n", path_base(path));
        rc = joint.failed ? err_memory(e, "a heading")
                          : tokenizer_encode(t, joint.data, joint.len, 0, out, cancel, e);
        buf_free(&joint);
        for (size_t i = 0; i < out->n; i++)
            out->ends[i] = 0;
    }
    return rc ? rc : tokenizer_encode(t, text, bytes, 0, out, cancel, e);
}

/* Adds the document at its place. */
static int store_incoming(struct incoming *in, size_t token_start, struct err *e)
{
    struct reader *r = in->r;
    struct buf map = {0};
    int rc = source_map_write(in->map, &map, e);
    struct store_document row = {.path = in->path,
                                 .title = in->title,
                                 .kind = in->kind,
                                 .size = in->stamp.size,
                                 .mtime_ns = in->stamp.mtime_ns,
                                 .pages = in->pages,
                                 .token_start = token_start,
                                 .token_count = in->tokens.n};
    memcpy(row.hash, in->stamp.hash, sizeof row.hash);
    struct iovec parts[STORE_PARTS] = {
        [STORE_TEXT] = {.iov_base = in->text.data, .iov_len = in->text.len},
        [STORE_MAP] = {.iov_base = map.data, .iov_len = map.len},
        [STORE_TOKENS] = {.iov_base = in->tokens.ids, .iov_len = in->tokens.n * sizeof(uint32_t)},
        [STORE_ENDS] = {.iov_base = in->tokens.ends, .iov_len = in->tokens.n * sizeof(uint32_t)},
    };
    if (!rc)
        rc = store_document_add(r->o.store, r->row.id, &row, parts, NULL, e);
    buf_free(&map);
    return rc;
}

int reader_store_again(struct reader *r, size_t i, const struct reader_stamp *stamp, size_t token_start,
                       struct err *e)
{
    struct store_document d = r->documents.items[i];
    struct reader_text *t = &r->texts[i];
    struct buf map = {0};
    int rc = source_map_write(t->map, &map, e);
    struct iovec parts[STORE_PARTS] = {
        [STORE_TEXT] = {.iov_base = t->text, .iov_len = t->bytes},
        [STORE_MAP] = {.iov_base = map.data, .iov_len = map.len},
        [STORE_TOKENS] = {.iov_base = t->ids, .iov_len = t->tokens * sizeof *t->ids},
        [STORE_ENDS] = {.iov_base = t->ends, .iov_len = t->tokens * sizeof *t->ends},
    };
    d.token_start = token_start;
    d.token_count = t->tokens;
    if (stamp) {
        d.size = stamp->size;
        d.mtime_ns = stamp->mtime_ns;
        memcpy(d.hash, stamp->hash, sizeof d.hash);
    }
    if (!rc)
        rc = store_document_add(r->o.store, r->row.id, &d, parts, NULL, e);
    buf_free(&map);
    return rc;
}

static size_t find_document(const struct reader *r, const char *path)
{
    size_t i = 0;
    while (i < r->documents.n && strcmp(r->documents.items[i].path, path) != 0)
        i++;
    return i;
}

/* A stamp that is no older than the text: one taken before a file is read, or, for a folder, whose files are
 * known only afterwards, one that says nothing when something changed while it was read. */
static int stamp_folder(struct incoming *in, struct timespec begun)
{
    int rc = reader_stamp_take(in->path, in->map, in->text.data, &in->stamp);
    if (!rc && in->stamp.mtime_ns >= (int64_t)begun.tv_sec * 1000000000 + begun.tv_nsec) {
        in->stamp.mtime_ns = 0;
        memset(in->stamp.hash, 0, sizeof in->stamp.hash);
    }
    return rc;
}

/* Ingests in->path and holds it against the document that it replaces, if any. */
static int take_in(struct incoming *in, struct cancel *cancel, struct err *e)
{
    struct reader *r = in->r;
    struct stat st;
    struct timespec begun;
    clock_gettime(CLOCK_REALTIME, &begun);
    int failed = stat(in->path, &st) ? errno : 0, folder = !failed && S_ISDIR(st.st_mode);
    if (!failed && !folder)
        failed = reader_stamp_take(in->path, NULL, NULL, &in->stamp);
    if (failed)
        return err_errno(e, failed, "cannot read %s", in->path);
    int rc = run_ingest(in, cancel, e);
    if (!rc && folder && (failed = stamp_folder(in, begun)))
        rc = err_errno(e, failed, "cannot read the files of %s", in->path);
    if (rc)
        return rc;
    if (in->at < r->documents.n) {
        const struct reader_text *was = &r->texts[in->at];
        const struct store_document *d = &r->documents.items[in->at];
        in->same_text = was->bytes == in->text.len && !memcmp(was->text, in->text.data, in->text.len);
        in->same_stamp = d->size == in->stamp.size && d->mtime_ns == in->stamp.mtime_ns &&
                         !memcmp(d->hash, in->stamp.hash, sizeof d->hash);
    }
    return in->same_text
               ? 0
               : reader_encode(r, in->at, in->path, in->text.data, in->text.len, &in->tokens, cancel, e);
}

/* ---- taking over ---- */

struct change {
    struct incoming *list; /* [n], by place; at most one for each, a new document last */
    size_t n;
    size_t taken; /* how many have another text, or are new */
};

static void change_fini(struct change *c)
{
    for (size_t i = 0; i < c->n; i++)
        incoming_fini(&c->list[i]);
    free(c->list);
    *c = (struct change){0};
}

/* The corpus up to here is as it was: tokens before the first that differs. */
static size_t common_tokens(const struct reader *r, const struct change *c)
{
    for (size_t i = 0; i < c->n; i++) {
        const struct incoming *in = &c->list[i];
        if (in->same_text)
            continue;
        if (in->at >= r->documents.n)
            return r->corpus.n;
        const struct reader_text *was = &r->texts[in->at];
        size_t k = 0;
        while (k < was->tokens && k < in->tokens.n && was->ids[k] == in->tokens.ids[k])
            k++;
        return (size_t)r->documents.items[in->at].token_start + k;
    }
    return r->corpus.n;
}

/* Documents from the first that is replaced on, in their order, the new ones in the old ones' places. */
static int replace_documents(struct reader *r, const struct change *c, struct err *e)
{
    size_t from = c->list[0].at, next = 0;
    size_t start = from < r->documents.n ? (size_t)r->documents.items[from].token_start : r->corpus.n;
    int rc = from < r->documents.n ? store_document_drop_from(r->o.store, r->row.id, (int)from, e) : 0;
    for (size_t i = from; !rc && (i < r->documents.n || next < c->n); i++) {
        struct incoming *in = next < c->n && c->list[next].at == i ? &c->list[next++] : NULL;
        if (in && !in->same_text) {
            rc = store_incoming(in, start, e);
            start += in->tokens.n;
        } else {
            rc = reader_store_again(r, i, in ? &in->stamp : NULL, start, e);
            start += r->texts[i].tokens;
        }
    }
    return rc;
}

/* All or nothing. What the old text alone had goes with it; what comes before the change stays. */
static int take_over(struct reader *r, const struct change *c, struct err *e)
{
    size_t common = common_tokens(r, c);
    int cuts = common < r->corpus.n;
    int rc = store_begin(r->o.store, e);
    if (rc)
        return rc;
    struct store_session row = r->row;
    rc = replace_documents(r, c, e);
    if (!rc && cuts) {
        rc = store_session_unref_after(r->o.store, row.id, common, e);
        if (row.tokens > common) {
            row.has_chain = 0;
            row.tokens = 0;
        }
    }
    if (!rc && cuts)
        rc = store_session_update(r->o.store, &row, e);
    rc = store_end(r->o.store, rc, e);
    if (rc)
        return rc;
    r->row = row;
    if (cuts)
        r->edited = common;
    rc = reader_leave_conversation(r, e);
    return rc ? rc : reader_load(r, e);
}

/* Folders are taken in anew and compared by their text: files may have come that no stamp knows. */
static int seems_unchanged(const struct reader *r, size_t i)
{
    const struct store_document *d = &r->documents.items[i];
    struct stat st;
    return !stat(d->path, &st) && S_ISREG(st.st_mode) &&
           reader_file_state(d, r->texts[i].map, r->texts[i].text) == READER_FILE_SAME;
}

int reader_add(struct reader *r, const char *path, const struct progress *progress, struct cancel *cancel,
               int *added, struct err *e)
{
    int unused;
    added = added ? added : &unused;
    *added = 0;
    char *full = realpath(path, NULL);
    if (!full)
        return err_errno(e, errno, "cannot read %s", path);
    size_t at = find_document(r, full);
    if (at < r->documents.n && seems_unchanged(r, at)) {
        free(full);
        return 0;
    }
    struct incoming in = {.r = r, .path = full, .at = at, .progress = progress};
    struct change c = {.list = &in, .n = 1};
    int rc = take_in(&in, cancel, e);
    if (!rc && at < r->documents.n && !in.same_text)
        reader_notice(r, "%s has changed since it was read: it is read again from there", full);
    if (!rc && !(in.same_text && in.same_stamp))
        rc = take_over(r, &c, e);
    *added = !rc && !in.same_text;
    incoming_fini(&in);
    return rc;
}

/* Every changed document that can be had, into `c`. */
static int take_in_changed(struct reader *r, const struct progress *progress, struct cancel *cancel,
                           struct change *c, struct err *e)
{
    c->list = calloc(r->documents.n ? r->documents.n : 1, sizeof *c->list);
    if (!c->list)
        return err_memory(e, "the changed documents");
    for (size_t i = 0; i < r->documents.n; i++) {
        r->files[i] = reader_file_state(&r->documents.items[i], r->texts[i].map, r->texts[i].text);
        if (r->files[i] != READER_FILE_CHANGED)
            continue;
        struct incoming in = {.r = r, .at = i, .progress = progress};
        struct err one = {0};
        in.path = strdup(r->documents.items[i].path);
        int rc = in.path ? take_in(&in, cancel, &one) : err_memory(&one, "a path");
        if (rc) {
            incoming_fini(&in);
            *e = one;
            if (rc == ERR_CANCELLED || rc == ERR_MEMORY)
                return rc;
            reader_notice(r, "%s; what was read of it before is kept", one.text);
            continue;
        }
        c->taken += !in.same_text;
        c->list[c->n++] = in;
    }
    return 0;
}

int reader_refresh(struct reader *r, const struct progress *progress, struct cancel *cancel, size_t *taken,
                   struct err *e)
{
    struct change c = {0};
    int rc = take_in_changed(r, progress, cancel, &c, e);
    for (size_t i = 0; !rc && i < c.n; i++)
        if (!c.list[i].same_text)
            reader_notice(r, "%s has changed since it was read: it is read again from there", c.list[i].path);
    if (!rc && c.n)
        rc = take_over(r, &c, e);
    if (taken)
        *taken = rc ? 0 : c.taken;
    change_fini(&c);
    return rc;
}
