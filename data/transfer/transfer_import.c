/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_import.c - makes a session from a file of somebody else's.
 *
 * Spans are put first, referenced by nobody, so that a kill leaves what the next clean-up takes. Session,
 * references, documents and turns then appear in one transaction, which fails when another process's clean-up
 * was faster than it.
 */
#include "data/transfer/transfer_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BATCH_SPANS = 64, BATCH_BYTES = 64 << 20 };

struct importing {
    struct store *s;
    const struct transfer_options *o;
    const char *path, *name;
    struct tar_reader *tar;
    struct manifest m;
    struct {
        struct span_put puts[BATCH_SPANS];
        struct iovec parts[BATCH_SPANS];
        size_t n, bytes;
    } batch;
    int64_t session;
    uint64_t new_spans;
};

static int damaged(const struct importing *x, const char *name, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s is damaged (%s does not fit its checksum); make it again", x->path,
                   name);
}

/* A member that the manifest describes, checked; *bytes is freed by the caller. */
static int read_part(struct importing *x, const char *name, const struct manifest_part *part, char **bytes,
                     struct err *e)
{
    uint64_t size = part->size;
    uint8_t sum[16];
    int rc = tar_read(x->tar, name, 1, &size, bytes, e);
    if (rc)
        return rc;
    part_digest(*bytes, (size_t)size, sum);
    if (memcmp(sum, part->sum, sizeof sum) == 0)
        return 0;
    free(*bytes);
    *bytes = NULL;
    return damaged(x, name, e);
}

/* ---- the manifest -------------------------------------------------------------------------------------- */

static int read_manifest(struct importing *x, uint64_t file_bytes, struct err *e)
{
    uint64_t size = MANIFEST_MAX, check_size = CHECK_BYTES;
    char *text = NULL, *check = NULL, want[CHECK_BYTES + 1];
    uint8_t sum[16];
    int rc = tar_read(x->tar, "manifest.json", 0, &size, &text, e);
    if (!rc)
        rc = tar_read(x->tar, "manifest.check", 1, &check_size, &check, e);
    if (!rc) {
        part_digest(text, (size_t)size, sum);
        part_hex(sum, want);
        want[CHECK_BYTES - 1] = '\n';
        if (memcmp(check, want, CHECK_BYTES) != 0)
            rc = damaged(x, "manifest.json", e);
    }
    if (!rc && (rc = manifest_parse(&x->m, text, (size_t)size, e)))
        err_prefix(e, "%s cannot be imported", x->path);
    uint64_t least = rc ? 0 : manifest_file_size(&x->m, size);
    if (!rc && least > file_bytes)
        rc = err_set(e, ERR_FORMAT, "%s is cut short: it has %llu of at least %llu bytes; copy it again",
                     x->path, (unsigned long long)file_bytes, (unsigned long long)least);
    free(text);
    free(check);
    return rc;
}

/* Asked before the long part; asked again when the session is made. */
static int check_name(struct importing *x, const char *name, struct err *e)
{
    x->name = name ? name : x->m.session.name;
    size_t n = strlen(x->name);
    int bad = n < 1 || n > STORE_NAME_MAX;
    for (size_t i = 0; !bad && i < n; i++)
        bad = (unsigned char)x->name[i] < 0x20 || x->name[i] == 0x7f || x->name[i] == '/';
    if (bad)
        return err_set(e, name ? ERR_USAGE : ERR_FORMAT,
                       "%s cannot be imported under that name (1 to %d bytes, no control characters, no '/');"
                       " give another after the file",
                       x->path, STORE_NAME_MAX);
    int64_t id;
    int rc = store_session_find(x->s, x->name, &id, e);
    if (!rc)
        return err_set(e, ERR_USAGE,
                       "a session named %s exists; give another name after the file, or delete that session",
                       x->name);
    return rc == ERR_NOT_FOUND ? 0 : rc;
}

/* ---- spans --------------------------------------------------------------------------------------------- */

static void batch_clear(struct importing *x)
{
    for (size_t i = 0; i < x->batch.n; i++)
        free(x->batch.parts[i].iov_base);
    x->batch.n = 0;
    x->batch.bytes = 0;
}

static int batch_put(struct importing *x, struct err *e)
{
    int rc = x->batch.n ? store_spans_put(x->s, x->batch.puts, x->batch.n, e) : 0;
    batch_clear(x);
    return rc;
}

static int read_span(struct importing *x, size_t i, struct err *e)
{
    const struct manifest_span *span = &x->m.spans[i];
    char name[MEMBER_NAME], *bytes;
    uint64_t size = span->payload.size;
    uint8_t sum[16];
    snprintf(name, sizeof name, "span/%zu", i);
    int rc = tar_read(x->tar, name, 1, &size, &bytes, e);
    if (rc)
        return rc;
    rc = store_payload_digest(bytes, (size_t)size, sum, e);
    if (!rc && memcmp(sum, span->payload.sum, sizeof sum) != 0)
        rc = damaged(x, name, e);
    if (rc || x->o->without_kv) {
        free(bytes);
        return rc;
    }
    struct iovec *part = &x->batch.parts[x->batch.n];
    *part = (struct iovec){.iov_base = bytes, .iov_len = (size_t)size};
    x->batch.puts[x->batch.n++] = (struct span_put){.kind = span->kind,
                                                    .key = span->key,
                                                    .parent = span->has_parent ? span->parent : NULL,
                                                    .meta = span->meta,
                                                    .meta_size = span->meta_size,
                                                    .position = span->position,
                                                    .seconds = span->seconds,
                                                    .parts = part,
                                                    .n = 1};
    x->batch.bytes += (size_t)size;
    rc = store_span_find(x->s, span->kind, span->key, NULL, e);
    x->new_spans += rc == ERR_NOT_FOUND || rc == ERR_FORMAT;
    if (rc == ERR_NOT_FOUND || rc == ERR_FORMAT)
        rc = 0;
    if (!rc && (x->batch.n == BATCH_SPANS || x->batch.bytes >= BATCH_BYTES))
        rc = batch_put(x, e);
    return rc;
}

static int read_spans(struct importing *x, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < x->m.n_spans; i++)
        rc = read_span(x, i, e);
    if (!rc)
        rc = batch_put(x, e);
    batch_clear(x);
    return rc;
}

/* ---- all the rest, in one transaction ------------------------------------------------------------------ */

static int reference_spans(struct importing *x, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < x->m.n_spans; i++) {
        const struct manifest_span *span = &x->m.spans[i];
        rc = store_session_ref(x->s, x->session, span->kind, span->key, e);
        if (!rc)
            rc = store_span_find(x->s, span->kind, span->key, NULL, e);
        if (rc == ERR_NOT_FOUND)
            rc = err_set(e, ERR_BUSY, "another lectern cleaned up while %s was imported; try again", x->path);
    }
    return rc;
}

static int read_document(struct importing *x, size_t i, struct err *e)
{
    static const char *const names[STORE_PARTS] = {"text", "map", "tokens", "ends"};
    const struct manifest_document *d = &x->m.documents[i];
    char *bytes[STORE_PARTS] = {0};
    struct iovec parts[STORE_PARTS];
    int rc = 0;
    for (int part = 0; !rc && part < STORE_PARTS; part++) {
        char name[MEMBER_NAME];
        snprintf(name, sizeof name, "document/%zu/%s", i, names[part]);
        rc = read_part(x, name, &d->parts[part], &bytes[part], e);
        parts[part] = (struct iovec){.iov_base = bytes[part], .iov_len = (size_t)d->parts[part].size};
    }
    if (!rc)
        rc = store_document_add(x->s, x->session, &d->row, parts, NULL, e);
    for (int part = 0; part < STORE_PARTS; part++)
        free(bytes[part]);
    return rc;
}

static int add_turn(void *arg, const struct store_turn *turn, struct err *e)
{
    struct importing *x = arg;
    return store_turn_add(x->s, x->session, turn, NULL, e);
}

static int read_turns(struct importing *x, struct err *e)
{
    char *bytes;
    uint64_t count;
    int rc = read_part(x, "turns.json", &x->m.turns, &bytes, e);
    if (rc)
        return rc;
    rc = turns_parse(bytes, (size_t)x->m.turns.size, &count, add_turn, x, e);
    if (rc == ERR_FORMAT)
        err_prefix(e, "%s cannot be imported", x->path);
    else if (!rc && count != x->m.n_turns)
        rc = err_set(e, ERR_FORMAT, "%s is damaged: it has %llu turns of %llu", x->path,
                     (unsigned long long)count, (unsigned long long)x->m.n_turns);
    free(bytes);
    return rc;
}

static int make_session(struct importing *x, struct err *e)
{
    struct store_session row = x->m.session;
    if (x->o->without_kv) {
        row.has_chain = 0; /* as after store_session_strip */
        row.tokens = 0;
    }
    int rc = store_begin(x->s, e);
    if (rc)
        return rc;
    rc = store_session_create(x->s, x->name, &row, &x->session, e);
    if (!rc && !x->o->without_kv)
        rc = reference_spans(x, e);
    for (size_t i = 0; !rc && i < x->m.n_documents; i++)
        rc = read_document(x, i, e);
    if (!rc)
        rc = read_turns(x, e);
    if (!rc)
        rc = tar_reader_end(x->tar, e);
    return store_end(x->s, rc, e);
}

static int import_from(struct importing *x, const char *name, uint64_t file_bytes, struct err *e)
{
    int rc = read_manifest(x, file_bytes, e);
    if (!rc)
        rc = check_name(x, name, e);
    if (rc)
        return rc;
    rc = read_spans(x, e);
    if (!rc)
        rc = make_session(x, e);
    /* What was put for nothing goes; where it cannot go now, a later clean-up takes it. */
    struct err ignored;
    if (rc && x->new_spans)
        (void)store_collect(x->s, &ignored);
    return rc;
}

static void report(const struct importing *x, uint64_t bytes, struct transfer_result *out)
{
    out->session = x->session;
    snprintf(out->name, sizeof out->name, "%s", x->name);
    out->file_bytes = bytes;
    out->spans = x->o->without_kv ? 0 : x->m.n_spans;
    for (size_t i = 0; i < out->spans; i++)
        out->span_bytes += x->m.spans[i].payload.size;
    out->new_spans = x->new_spans;
    out->documents = x->m.n_documents;
    out->turns = x->m.n_turns;
}

int transfer_import(struct store *s, const char *path, const char *name, const struct transfer_options *o,
                    struct transfer_result *out, struct err *e)
{
    static const struct transfer_options nothing;
    *out = (struct transfer_result){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    if (fd < 0)
        return err_errno(e, errno, "cannot open %s", path);
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, ERR_IO, "%s is not a regular file; name a file", path);
    }
    struct importing *x = calloc(1, sizeof *x); /* too large for a stack */
    if (!x) {
        close(fd);
        return err_memory(e, "an import");
    }
    x->s = s;
    x->o = o ? o : &nothing;
    x->path = path;
    struct tar_care care = {.progress = x->o->progress,
                            .cancel = x->o->cancel,
                            .what = "importing",
                            .path = path,
                            .total = (uint64_t)st.st_size};
    int rc = tar_reader_open(&x->tar, fd, &care, e);
    if (!rc)
        rc = import_from(x, name, (uint64_t)st.st_size, e);
    if (!rc)
        report(x, (uint64_t)st.st_size, out);
    tar_reader_free(x->tar);
    manifest_free(&x->m);
    free(x);
    close(fd);
    return rc;
}
