/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_export.c - writes a session into one file: a temporary beside it, synced and renamed.
 *
 * The manifest comes first, so everything is looked at twice: once for its size and checksum, once to be
 * written, when it must still be the same. No lock is needed, and whoever has the session open goes on.
 */
#include "data/transfer/transfer_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/file.h"

struct exporting {
    struct store *s;
    int64_t id;
    const struct transfer_options *o;
    struct manifest m;
    size_t spans_cap;
    struct buf turns, manifest;
    struct err *e;
};

/* ---- what there is ------------------------------------------------------------------------------------- */

static int take_span(void *arg, const struct span_info *info, const uint8_t digest[16])
{
    struct exporting *x = arg;
    struct manifest *m = &x->m;
    if (cancel_requested(x->o->cancel))
        return err_set(x->e, ERR_CANCELLED, "stopped before session %s was exported", m->session.name);
    if (info->size > TRANSFER_SPAN_MAX)
        return err_set(x->e, ERR_LIMIT,
                       "session %s has a part of %llu bytes, too large to be imported; export it without KV",
                       m->session.name, (unsigned long long)info->size);
    if (m->n_spans == x->spans_cap) {
        size_t cap = x->spans_cap ? 2 * x->spans_cap : 64;
        struct manifest_span *grown = realloc(m->spans, cap * sizeof *grown);
        if (!grown)
            return err_memory(x->e, "a list of spans");
        m->spans = grown;
        x->spans_cap = cap;
    }
    struct manifest_span *span = &m->spans[m->n_spans];
    *span = (struct manifest_span){.kind = info->kind,
                                   .has_parent = info->has_parent,
                                   .position = info->position,
                                   .seconds = info->seconds,
                                   .payload = {.size = info->size}};
    memcpy(span->key, info->key, sizeof span->key);
    memcpy(span->parent, info->parent, sizeof span->parent);
    memcpy(span->payload.sum, digest, 16);
    if (info->meta_size && !(span->meta = malloc(info->meta_size)))
        return err_memory(x->e, "a list of spans");
    if (info->meta_size)
        memcpy(span->meta, info->meta, info->meta_size);
    span->meta_size = info->meta_size;
    m->n_spans++;
    return 0;
}

static int take_document(struct exporting *x, struct store_document *d, struct err *e)
{
    struct manifest_document *to = &x->m.documents[x->m.n_documents++];
    to->row = *d; /* its texts are ours now */
    d->path = d->title = d->kind = NULL;
    for (int part = 0; part < STORE_PARTS; part++) {
        void *bytes;
        size_t n;
        int rc = store_document_read(x->s, x->id, to->row.ordinal, (enum store_part)part, &bytes, &n, e);
        if (rc)
            return rc;
        to->parts[part].size = n;
        part_digest(bytes, n, to->parts[part].sum);
        free(bytes);
    }
    return 0;
}

static int take_documents(struct exporting *x, struct err *e)
{
    struct store_document_list list;
    int rc = store_document_list(x->s, x->id, &list, e);
    if (!rc && !(x->m.documents = calloc(list.n + 1, sizeof *x->m.documents)))
        rc = err_memory(e, "the list of documents");
    for (size_t i = 0; !rc && i < list.n; i++)
        rc = take_document(x, &list.items[i], e);
    store_document_list_free(&list);
    return rc;
}

static int take_turns(struct exporting *x, struct err *e)
{
    struct store_turn_list list;
    int rc = store_turn_list(x->s, x->id, &list, e);
    for (size_t i = 0; !rc && i < list.n; i++)
        if (list.items[i].damaged)
            rc = err_set(e, ERR_FORMAT, "turn %d of session %s is damaged; it cannot be exported as it was",
                         list.items[i].ordinal + 1, x->m.session.name);
    if (!rc)
        rc = turns_write(&list, &x->turns, e);
    if (!rc) {
        x->m.n_turns = list.n;
        x->m.turns.size = x->turns.len;
        part_digest(x->turns.data, x->turns.len, x->m.turns.sum);
    }
    store_turn_list_free(&list);
    return rc;
}

static int look(struct exporting *x, struct err *e)
{
    int rc = store_session_get_id(x->s, x->id, &x->m.session, e);
    if (!rc)
        rc = take_documents(x, e);
    if (!rc)
        rc = take_turns(x, e);
    if (!rc && x->o->without_kv) {
        x->m.session.has_chain = 0; /* as after store_session_strip */
        x->m.session.tokens = 0;
    } else if (!rc) {
        x->e = e;
        rc = store_session_spans(x->s, x->id, take_span, x, e);
    }
    return rc ? rc : manifest_write(&x->m, &x->manifest, e);
}

/* ---- writing ------------------------------------------------------------------------------------------- */

static int changed(const struct exporting *x, struct err *e)
{
    return err_set(e, ERR_BUSY, "session %s changed while it was exported; try again", x->m.session.name);
}

static int write_span(struct exporting *x, struct tar_writer *w, size_t i, struct err *e)
{
    const struct manifest_span *span = &x->m.spans[i];
    char name[MEMBER_NAME];
    snprintf(name, sizeof name, "span/%zu", i);
    struct span_map map;
    uint8_t sum[16];
    int rc = store_span_map(x->s, span->kind, span->key, &map, e);
    if (rc == ERR_NOT_FOUND)
        return changed(x, e);
    if (rc == ERR_FORMAT) {
        err_prefix(e, "session %s cannot be exported with its KV (repair the store first)",
                   x->m.session.name);
        return rc;
    }
    if (!rc)
        rc = store_payload_digest(map.data, map.size, sum, e);
    if (!rc && (map.size != span->payload.size || memcmp(sum, span->payload.sum, sizeof sum) != 0))
        rc = changed(x, e);
    if (!rc)
        rc = tar_write(w, name, map.data, map.size, e);
    store_span_unmap(x->s, &map);
    return rc;
}

static int write_document(struct exporting *x, struct tar_writer *w, size_t i, struct err *e)
{
    static const char *const names[STORE_PARTS] = {"text", "map", "tokens", "ends"};
    const struct manifest_document *d = &x->m.documents[i];
    int rc = 0;
    for (int part = 0; !rc && part < STORE_PARTS; part++) {
        char name[MEMBER_NAME];
        snprintf(name, sizeof name, "document/%zu/%s", i, names[part]);
        void *bytes;
        size_t n;
        uint8_t sum[16];
        rc = store_document_read(x->s, x->id, d->row.ordinal, (enum store_part)part, &bytes, &n, e);
        if (rc)
            return rc == ERR_NOT_FOUND ? changed(x, e) : rc;
        part_digest(bytes, n, sum);
        if (n != d->parts[part].size || memcmp(sum, d->parts[part].sum, sizeof sum) != 0)
            rc = changed(x, e);
        if (!rc)
            rc = tar_write(w, name, bytes, n, e);
        free(bytes);
    }
    return rc;
}

static int write_all(struct exporting *x, struct tar_writer *w, struct err *e)
{
    char check[CHECK_BYTES + 1];
    uint8_t sum[16];
    part_digest(x->manifest.data, x->manifest.len, sum);
    part_hex(sum, check);
    check[CHECK_BYTES - 1] = '\n';
    int rc = tar_write(w, "manifest.json", x->manifest.data, x->manifest.len, e);
    if (!rc)
        rc = tar_write(w, "manifest.check", check, CHECK_BYTES, e);
    for (size_t i = 0; !rc && i < x->m.n_spans; i++)
        rc = write_span(x, w, i, e);
    for (size_t i = 0; !rc && i < x->m.n_documents; i++)
        rc = write_document(x, w, i, e);
    return rc ? rc : tar_write(w, "turns.json", x->turns.data, x->turns.len, e);
}

static int write_file(struct exporting *x, int fd, const char *path, uint64_t *bytes, struct err *e)
{
    struct tar_care care = {.progress = x->o->progress,
                            .cancel = x->o->cancel,
                            .what = "exporting",
                            .path = path,
                            .total = manifest_file_size(&x->m, x->manifest.len)};
    /* A full disk is told now and not after an hour; file systems that cannot reserve say nothing. */
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)care.total) && (errno == ENOSPC || errno == EDQUOT))
        return err_errno(e, errno, "%s needs %llu bytes; free disk space and try again", path,
                         (unsigned long long)care.total);
    struct tar_writer *w;
    int rc = tar_writer_open(&w, fd, &care, e);
    if (rc)
        return rc;
    rc = write_all(x, w, e);
    if (!rc)
        rc = tar_writer_finish(w, bytes, e);
    tar_writer_free(w);
    if (!rc && fsync(fd))
        rc = err_errno(e, errno, "cannot sync %s; check the disk", path);
    return rc;
}

/* The folder of a path, by malloc. */
static char *folder_of(const char *path)
{
    const char *base = path_base(path);
    return base == path ? strdup(".") : strndup(path, (size_t)(base - path));
}

/* Opened before anything is written: it is synced after the rename, when it is too late to fail for less. */
static int open_folder(const char *path, int *fd, struct err *e)
{
    char *folder = folder_of(path);
    if (!folder)
        return err_memory(e, "a path");
    *fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = *fd < 0 ? err_errno(e, errno, "cannot open the folder of %s", path) : 0;
    free(folder);
    return rc;
}

static int write_and_rename(struct exporting *x, int folder, const char *path, uint64_t *bytes, struct err *e)
{
    struct buf part = {0};
    buf_printf(&part, "%s.part-XXXXXX", path);
    if (part.failed) {
        buf_free(&part);
        return err_memory(e, "a path");
    }
    int fd = mkostemp(part.data, O_CLOEXEC); /* 0600 */
    if (fd < 0) {
        int rc = err_errno(e, errno, "cannot make a file beside %s", path);
        buf_free(&part);
        return rc;
    }
    int rc = write_file(x, fd, path, bytes, e);
    if (close(fd) && !rc)
        rc = err_errno(e, errno, "cannot close %s", path);
    if (!rc && rename(part.data, path))
        rc = err_errno(e, errno, "cannot rename %s to %s", part.data, path);
    if (rc)
        unlink(part.data); /* the failure is what counts */
    else if (fsync(folder))
        rc = err_errno(e, errno, "%s is written, but its folder cannot be synced; check the disk", path);
    buf_free(&part);
    return rc;
}

static int write_beside(struct exporting *x, const char *path, uint64_t *bytes, struct err *e)
{
    struct stat st;
    int folder = -1;
    if (!lstat(path, &st) && !S_ISREG(st.st_mode))
        return err_set(e, ERR_USAGE, "%s exists and is not a regular file; choose another name", path);
    int rc = open_folder(path, &folder, e);
    if (!rc)
        rc = write_and_rename(x, folder, path, bytes, e);
    if (folder >= 0)
        close(folder);
    return rc;
}

static void report(const struct exporting *x, uint64_t bytes, struct transfer_result *out)
{
    out->session = x->id;
    snprintf(out->name, sizeof out->name, "%s", x->m.session.name);
    out->file_bytes = bytes;
    out->spans = x->m.n_spans;
    for (size_t i = 0; i < x->m.n_spans; i++)
        out->span_bytes += x->m.spans[i].payload.size;
    out->documents = x->m.n_documents;
    out->turns = x->m.n_turns;
}

int transfer_export(struct store *s, int64_t id, const char *path, const struct transfer_options *o,
                    struct transfer_result *out, struct err *e)
{
    static const struct transfer_options nothing;
    struct exporting x = {.s = s, .id = id, .o = o ? o : &nothing};
    uint64_t bytes = 0;
    *out = (struct transfer_result){0};
    int rc = look(&x, e);
    if (!rc)
        rc = write_beside(&x, path, &bytes, e);
    if (!rc)
        report(&x, bytes, out);
    manifest_free(&x.m);
    buf_free(&x.turns);
    buf_free(&x.manifest);
    return rc;
}
