/* SPDX-License-Identifier: Apache-2.0 */
/* document.c - documents: one row and four checked blobs each, linked from sessions.
 *
 * Invariant: a document row is never changed, so sessions share it; equal content and origin is one row.
 * Blobs have their own rows, so that a list of documents does not walk through their text.
 */
#include "data/store/store_internal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { PART_MAX = 900000000 }; /* SQLite's own limit for a row is 10^9 */

static int64_t sum_of(const void *bytes, size_t n)
{
    return (int64_t)XXH3_64bits(n ? bytes : "", n);
}

/* ---- add ------------------------------------------------------------------------------------------------
 */

/* Does the stored part still read back as these bytes? A damaged twin is not shared. */
static int same_part(struct store *s, int64_t document, int part, const struct iovec *want, int *same,
                     struct err *e)
{
    sqlite3_stmt *st;
    int more = 0;
    int rc = sql_query(s, &st,
                       "SELECT data FROM document_parts WHERE document=?1 AND part=?2 AND size=?3 AND sum=?4",
                       SQL_ARGS(sql_int(document), sql_int(part), sql_int((int64_t)want->iov_len),
                                sql_int(sum_of(want->iov_base, want->iov_len))),
                       e);
    if (!rc)
        rc = sql_step(s, st, &more, e);
    *same = 0;
    if (!rc && more && sqlite3_column_type(st, 0) == SQLITE_BLOB) {
        const void *have = sqlite3_column_blob(st, 0);
        *same = (size_t)sqlite3_column_bytes(st, 0) == want->iov_len &&
                (!want->iov_len || (have && memcmp(have, want->iov_base, want->iov_len) == 0));
    }
    sqlite3_finalize(st);
    return rc;
}

/* *id = 0 when no document is the same in everything. */
static int find_same(struct store *s, const struct store_document *d, const struct iovec *parts, int64_t *id,
                     struct err *e)
{
    int64_t *ids;
    size_t n;
    *id = 0;
    int rc =
        sql_numbers(s, &ids, &n,
                    "SELECT id FROM documents WHERE hash=?1 AND path=?2 AND title=?3 AND kind=?4 AND size=?5"
                    " AND mtime_ns=?6 AND pages=?7 AND token_count=?8 AND seal IS " SEAL_OF_DOCUMENT,
                    SQL_ARGS(sql_blob(d->hash, 16), sql_text(d->path), sql_text(d->title), sql_text(d->kind),
                             sql_int((int64_t)d->size), sql_int(d->mtime_ns), sql_int((int64_t)d->pages),
                             sql_int((int64_t)d->token_count)),
                    e);
    for (size_t i = 0; !rc && !*id && i < n; i++) {
        int same = 1;
        for (int part = 0; !rc && same && part < STORE_PARTS; part++)
            rc = same_part(s, ids[i], part, &parts[part], &same, e);
        if (!rc && same)
            *id = ids[i];
    }
    free(ids);
    return rc;
}

static int insert(struct store *s, const struct store_document *d, const struct iovec *parts, int64_t *id,
                  struct err *e)
{
    int rc =
        sql_run(s,
                "INSERT INTO documents(path, title, kind, size, mtime_ns, hash, pages, token_count, seal)"
                " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, lectern_seal(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8))",
                SQL_ARGS(sql_text(d->path), sql_text(d->title), sql_text(d->kind), sql_int((int64_t)d->size),
                         sql_int(d->mtime_ns), sql_blob(d->hash, 16), sql_int((int64_t)d->pages),
                         sql_int((int64_t)d->token_count)),
                e);
    *id = sqlite3_last_insert_rowid(s->db);
    for (int part = 0; !rc && part < STORE_PARTS; part++)
        rc = sql_run(s,
                     "INSERT INTO document_parts(document, part, size, sum, data) VALUES(?1, ?2, ?3, ?4, ?5)",
                     SQL_ARGS(sql_int(*id), sql_int(part), sql_int((int64_t)parts[part].iov_len),
                              sql_int(sum_of(parts[part].iov_base, parts[part].iov_len)),
                              sql_blob(parts[part].iov_base, parts[part].iov_len)),
                     e);
    return rc;
}

static int check(const struct store_document *d, const struct iovec *parts, struct err *e)
{
    for (int part = 0; part < STORE_PARTS; part++)
        if (parts[part].iov_len > PART_MAX)
            return err_set(e, ERR_LIMIT, "%s has %zu bytes of text or tokens; at most %d fit, split it",
                           d->path ? d->path : "a document", parts[part].iov_len, PART_MAX);
    if (d->size > INT64_MAX || d->pages > INT_MAX || d->token_count > INT64_MAX || d->token_start > INT64_MAX)
        return err_set(e, ERR_LIMIT, "%s is too large", d->path ? d->path : "a document");
    return 0;
}

int store_document_add(struct store *s, int64_t session, const struct store_document *d,
                       const struct iovec *parts, int *ordinal, struct err *e)
{
    int64_t next = 0, id = 0;
    int rc = check(d, parts, e);
    if (!rc)
        rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = session_exists(s, session, e);
    if (!rc)
        rc = sql_number(s, &next,
                        "SELECT coalesce(max(ordinal) + 1, 0) FROM session_documents WHERE session=?1",
                        SQL_ARGS(sql_int(session)), e);
    if (!rc && (next < 0 || next >= INT_MAX))
        rc = err_set(e, ERR_LIMIT, "session %lld has no room for another document", (long long)session);
    if (!rc)
        rc = find_same(s, d, parts, &id, e);
    if (!rc && !id)
        rc = insert(s, d, parts, &id, e);
    if (!rc)
        rc = sql_run(s,
                     "INSERT INTO session_documents(session, ordinal, document, token_start, seal)"
                     " VALUES(?1, ?2, ?3, ?4, lectern_seal(?1, ?2, ?3, ?4))",
                     SQL_ARGS(sql_int(session), sql_int(next), sql_int(id), sql_int((int64_t)d->token_start)),
                     e);
    rc = sql_end(s, rc, e);
    if (!rc && ordinal)
        *ordinal = (int)next;
    return rc;
}

/* ---- list -----------------------------------------------------------------------------------------------
 */

static void document_free(struct store_document *d)
{
    free(d->path);
    free(d->title);
    free(d->kind);
}

static int take(struct store *s, sqlite3_stmt *st, struct store_document *out, struct err *e)
{
    int64_t numbers[9]; /* size, pages, token_start, token_count, four part sizes, ordinal */
    int bad = 0;
    for (int i = 0; i < 9; i++) {
        numbers[i] = sqlite3_column_int64(st, i);
        bad |= numbers[i] < 0;
    }
    bad |= numbers[8] > INT_MAX || numbers[1] > INT_MAX;
    *out = (struct store_document){
        .ordinal = (int)numbers[8],
        .size = (uint64_t)numbers[0],
        .pages = (uint64_t)numbers[1],
        .token_start = (uint64_t)numbers[2],
        .token_count = (uint64_t)numbers[3],
        .mtime_ns = sqlite3_column_int64(st, 9),
    };
    bad |= !sql_key_copy(st, 10, out->hash) || !sqlite3_column_int(st, 14);
    if (bad)
        return err_set(e, ERR_FORMAT, "%s has a damaged document row; delete the session and add it again",
                       s->db_path);
    for (int part = 0; part < STORE_PARTS; part++)
        out->part_bytes[part] = (uint64_t)numbers[4 + part];
    out->path = sql_text_copy(st, 11);
    out->title = sql_text_copy(st, 12);
    out->kind = sql_text_copy(st, 13);
    if (out->path && out->title && out->kind)
        return 0;
    document_free(out);
    return err_memory(e, "a document");
}

#define PART_SIZE(part)                                                                                      \
    " coalesce((SELECT b.size FROM document_parts b WHERE b.document=d.id AND b.part=" #part "), -1),"

/* SQLite believes a page that says it has fewer rows than it had. The index is another tree, so it still
 * counts what the table has lost: an answer from some of the documents would be a wrong one. */
#define COUNT_BY_INDEX                                                                                       \
    "SELECT count(*) FROM session_documents INDEXED BY session_documents_document WHERE session=?1"

static int check_count(struct store *s, int64_t session, size_t n, int64_t counted, struct err *e)
{
    int rc = n ? 0 : sql_number(s, &counted, COUNT_BY_INDEX, SQL_ARGS(sql_int(session)), e);
    if (!rc && (uint64_t)counted != n)
        rc = err_set(
            e, ERR_FORMAT,
            "%s is damaged: it gives %zu of %lld documents of session %lld; delete the session and add"
            " it again",
            s->db_path, n, (long long)counted, (long long)session);
    return rc;
}

int store_document_list(struct store *s, int64_t session, struct store_document_list *out, struct err *e)
{
    *out = (struct store_document_list){0};
    int rc = session_exists(s, session, e);
    if (rc)
        return rc;
    sqlite3_stmt *st;
    int64_t counted = 0;
    int more = 1;
    size_t cap = 0;
    rc = sql_query(
        s, &st,
        "SELECT d.size, d.pages, l.token_start, d.token_count," PART_SIZE(0) PART_SIZE(1) PART_SIZE(2)
            PART_SIZE(3) " l.ordinal, d.mtime_ns, d.hash, d.path, d.title, d.kind,"
                         " d.seal IS " SEAL_OF_DOCUMENT " AND l.seal IS " SEAL_OF_LINK ", (" COUNT_BY_INDEX
                         ") FROM session_documents l JOIN documents d ON d.id=l.document"
                         " WHERE l.session=?1 ORDER BY l.ordinal",
        SQL_ARGS(sql_int(session)), e);
    while (!rc && !(rc = sql_step(s, st, &more, e)) && more) {
        if (out->n == cap) {
            cap = cap ? 2 * cap : 16;
            struct store_document *grown = realloc(out->items, cap * sizeof *grown);
            if (!grown) {
                rc = err_memory(e, "the list of documents");
                break;
            }
            out->items = grown;
        }
        counted = sqlite3_column_int64(st, 15);
        rc = take(s, st, &out->items[out->n], e);
        out->n += !rc;
    }
    sqlite3_finalize(st);
    if (!rc)
        rc = check_count(s, session, out->n, counted, e);
    if (rc)
        store_document_list_free(out);
    return rc;
}

void store_document_list_free(struct store_document_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        document_free(&list->items[i]);
    free(list->items);
    *list = (struct store_document_list){0};
}

/* ---- read and drop --------------------------------------------------------------------------------------
 */

static int part_take(struct store *s, sqlite3_stmt *st, void **bytes, size_t *size, struct err *e)
{
    int is_blob = sqlite3_column_type(st, 0) == SQLITE_BLOB;
    size_t n = (size_t)sqlite3_column_bytes(st, 0);
    const void *data = sqlite3_column_blob(st, 0);
    /* An index may be damaged so that it names another part: the row itself has the last word. */
    if (!is_blob || (n && !data) || !sqlite3_column_int(st, 4) || sqlite3_column_int64(st, 1) != (int64_t)n ||
        sqlite3_column_int64(st, 2) != sum_of(data, n))
        return err_set(e, ERR_FORMAT, "the text of %s in %s is damaged; add the document again",
                       (const char *)sqlite3_column_text(st, 3), s->db_path);
    char *copy = malloc(n + 1);
    if (!copy)
        return err_memory(e, "a document's text");
    if (n)
        memcpy(copy, data, n);
    copy[n] = '\0';
    *bytes = copy;
    *size = n;
    return 0;
}

int store_document_read(struct store *s, int64_t session, int ordinal, enum store_part part, void **bytes,
                        size_t *size, struct err *e)
{
    *bytes = NULL;
    *size = 0;
    sqlite3_stmt *st;
    int more = 0;
    int rc = sql_query(s, &st,
                       "SELECT b.data, b.size, b.sum, coalesce(d.path, ''), b.document=d.id AND b.part=?3"
                       " FROM session_documents l JOIN documents d ON d.id=l.document JOIN document_parts b"
                       " ON b.rowid=(SELECT rowid FROM document_parts WHERE document=d.id AND part=?3)"
                       " WHERE l.session=?1 AND l.ordinal=?2",
                       SQL_ARGS(sql_int(session), sql_int(ordinal), sql_int((int64_t)part)), e);
    if (!rc)
        rc = sql_step(s, st, &more, e);
    if (!rc && !more)
        rc = err_set(e, ERR_NOT_FOUND, "session %lld has no document %d", (long long)session, ordinal);
    if (!rc)
        rc = part_take(s, st, bytes, size, e);
    sqlite3_finalize(st);
    return rc;
}

int document_drop_unlinked(struct store *s, struct err *e)
{
    return sql_run(s,
                   "DELETE FROM documents WHERE NOT EXISTS"
                   " (SELECT 1 FROM session_documents l WHERE l.document=documents.id)",
                   SQL_NO_ARGS, e);
}

int store_document_drop_from(struct store *s, int64_t session, int from, struct err *e)
{
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = session_exists(s, session, e);
    if (!rc)
        rc = sql_run(s, "DELETE FROM session_documents WHERE session=?1 AND ordinal>=?2",
                     SQL_ARGS(sql_int(session), sql_int(from)), e);
    if (!rc)
        rc = document_drop_unlinked(s, e);
    rc = sql_end(s, rc, e);
    s->owes_text |= !rc;
    return rc ? rc : store_settle(s, e);
}
