/* SPDX-License-Identifier: Apache-2.0 */
/* verify.c - looks at everything that lasts and names what is damaged.
 *
 * Damage is what contradicts itself: bytes against their checksum, rows against their seal, types or order.
 * A span that is not there is no damage, it is read again from the text; a file that no row names is what a
 * killed process leaves. Repair removes what can be had again (spans, references that cannot name one, index
 * entries, files without a row), never text or turns.
 */
#include "data/store/store_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/clock.h"
#include "engine/base/progress.h"

struct run {
    struct store *s;
    const struct store_verify_options *o;
    struct store_verify_result *out;
    struct id_set touched; /* segments that lost a span */
    uint64_t done, total;  /* bytes of spans */
};

static void __attribute__((format(printf, 2, 3))) problem(struct run *r, const char *format, ...)
{
    r->out->problems++;
    if (!r->o->problem)
        return;
    struct err line = {0};
    char text[sizeof line.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err_set(&line, ERR_FORMAT, "%s", text); /* no control byte of a damaged row reaches a terminal */
    r->o->problem(r->o->arg, line.text);
}

/* What a statement says of a damaged database is a finding; the other checks go on. */
static int note(struct run *r, int rc, const struct err *said, struct err *e)
{
    if (rc == ERR_FORMAT) {
        problem(r, "%s", said->text);
        return 0;
    }
    if (rc && e)
        *e = *said;
    return rc;
}

static int stopped(const struct run *r, struct err *e)
{
    return cancel_requested(r->o->cancel) ? err_set(e, ERR_CANCELLED, "stopped before all was looked at") : 0;
}

/* ---- the database itself ------------------------------------------------------------------------------- */

static int integrity(struct run *r, int tell, uint64_t *found, struct err *e)
{
    sqlite3_stmt *st;
    int more = 1;
    *found = 0;
    int rc = sql_query(r->s, &st, "PRAGMA integrity_check", SQL_NO_ARGS, e);
    if (rc)
        return rc;
    while (!(rc = sql_step(r->s, st, &more, e)) && more) {
        const char *line = (const char *)sqlite3_column_text(st, 0);
        if (line && strcmp(line, "ok") == 0)
            continue;
        ++*found;
        if (tell)
            problem(r, "%s: %s", r->s->db_path, line ? line : "damaged");
    }
    sqlite3_finalize(st);
    return rc;
}

/* Index entries follow from the tables. */
static int rebuild_indexes(struct run *r, uint64_t found, struct err *e)
{
    struct err said = {0};
    uint64_t left = 0;
    int rc = sql_begin(r->s, e);
    if (rc)
        return rc;
    rc = sql_end(r->s, sql_run(r->s, "REINDEX", SQL_NO_ARGS, &said), &said);
    if (!rc)
        rc = integrity(r, 0, &left, &said);
    if (!rc)
        r->out->repaired += left < found ? found - left : 0;
    if (rc == ERR_FORMAT || rc == ERR_USAGE) /* more than the indexes; told already */
        return 0;
    if (rc && e)
        *e = said;
    return rc;
}

static int check_database(struct run *r, struct err *e)
{
    struct err said = {0};
    uint64_t found = 0;
    /* Told at the second look alone: memory that ran out for a moment reads like damage there. */
    int rc = note(r, integrity(r, 0, &found, &said), &said, e);
    if (!rc && found)
        rc = note(r, integrity(r, 1, &found, &said), &said, e);
    return rc || !found || !r->o->repair ? rc : rebuild_indexes(r, found, e);
}

/* Rows of `table` that belong to a record that is not there. */
static int check_owners(struct run *r, const char *table, struct err *e)
{
    char text[80];
    snprintf(text, sizeof text, "PRAGMA foreign_key_check(%s)", table);
    sqlite3_stmt *st;
    int more = 1;
    int rc = sql_query(r->s, &st, text, SQL_NO_ARGS, e);
    if (rc)
        return rc;
    while (!(rc = sql_step(r->s, st, &more, e)) && more) {
        const char *parent = (const char *)sqlite3_column_text(st, 2);
        problem(r, "%s: a row of %s belongs to none of %s", r->s->db_path, table, parent ? parent : "?");
    }
    sqlite3_finalize(st);
    return rc;
}

/* ---- spans --------------------------------------------------------------------------------------------- */

struct span_name {
    int64_t id, kind, segment, size;
    int typed, has_key, has_parent;
    uint8_t key[STORE_KEY_BYTES], parent[STORE_KEY_BYTES];
};

static int span_name(struct store *s, int64_t id, struct span_name *out, int *found, struct err *e)
{
    sqlite3_stmt *st;
    int rc = sql_query(s, &st, "SELECT kind, key, parent, segment, size FROM spans WHERE id=?1",
                       SQL_ARGS(sql_int(id)), e);
    *found = 0;
    if (!rc)
        rc = sql_step(s, st, found, e);
    memset(out, 0, sizeof *out);
    if (!rc && *found) {
        out->id = id;
        out->typed = sqlite3_column_type(st, 0) == SQLITE_INTEGER;
        out->kind = sqlite3_column_int64(st, 0);
        out->has_key = sql_key_copy(st, 1, out->key);
        out->has_parent = sql_key_copy(st, 2, out->parent);
        out->segment = sqlite3_column_int64(st, 3);
        out->size = sqlite3_column_int64(st, 4);
    }
    sqlite3_finalize(st);
    return rc;
}

static int drop_span(struct run *r, const struct span_name *name, struct err *e)
{
    int rc = sql_begin(r->s, e);
    if (rc)
        return rc;
    rc = sql_run(r->s, "DELETE FROM spans WHERE id=?1", SQL_ARGS(sql_int(name->id)), e); /* never another's */
    rc = sql_end(r->s, rc, e);
    if (rc)
        return rc;
    r->out->repaired++;
    return name->segment > 0 && id_set_add(&r->touched, name->segment) ? err_memory(e, "a list of segments")
                                                                       : 0;
}

/* A chain grows: the parent, where it is of the same kind, ends before its child. */
static int check_parent(struct store *s, int64_t id, struct err *said)
{
    int64_t wrong = 0;
    int rc = sql_number(s, &wrong,
                        "SELECT count(*) FROM spans p JOIN spans q ON q.kind=p.kind AND q.key=p.parent"
                        " WHERE p.id=?1 AND p.position>0 AND q.position>=p.position",
                        SQL_ARGS(sql_int(id)), said);
    return rc || !wrong ? rc : err_set(said, ERR_FORMAT, "its parent lies behind it in %s", s->db_path);
}

/* ERR_FORMAT and the reason in `said` when the span cannot be what was put. */
static int read_span(struct run *r, const struct span_name *name, struct err *said)
{
    if (!name->typed || !name->has_key || name->kind < 0 || name->kind > INT32_MAX)
        return err_set(said, ERR_FORMAT, "%s has a damaged row", r->s->db_path);
    if (name->has_parent && memcmp(name->key, name->parent, STORE_KEY_BYTES) == 0)
        return err_set(said, ERR_FORMAT, "it is its own parent in %s", r->s->db_path);
    struct span_map m;
    int rc = store_span_map(r->s, (int)name->kind, name->key, &m, said);
    if (!rc)
        r->out->bytes += m.size;
    store_span_unmap(r->s, &m);
    if (!rc && name->has_parent)
        return check_parent(r->s, name->id, said);
    if (rc != ERR_NOT_FOUND)
        return rc;
    struct span_name again;
    int found;
    rc = span_name(r->s, name->id, &again, &found, said); /* or has somebody just dropped it? */
    if (!rc && found)
        rc = err_set(said, ERR_FORMAT, "%s does not find it by its key", r->s->db_path);
    return rc;
}

static int check_span(struct run *r, int64_t id, struct err *e)
{
    struct span_name name;
    struct err said = {0};
    int found;
    int rc = span_name(r->s, id, &name, &found, &said);
    if (rc || !found)
        return note(r, rc, &said, e);
    r->out->spans++;
    rc = read_span(r, &name, &said);
    r->done += name.size > 0 ? (uint64_t)name.size : 0;
    progress_report(r->o->progress, "checking", r->done, r->total);
    if (rc != ERR_FORMAT)
        return note(r, rc, &said, e);
    char hex[2 * STORE_KEY_BYTES + 1] = "?";
    for (int i = 0; name.has_key && i < STORE_KEY_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", name.key[i]);
    problem(r, "span %lld (kind %lld, key %s): %s", (long long)id, (long long)name.kind, hex, said.text);
    return r->o->repair ? drop_span(r, &name, e) : 0;
}

static int check_spans(struct run *r, struct err *e)
{
    struct err said = {0};
    int64_t *ids = NULL, total = 0;
    size_t n = 0;
    /* In the order of the disk. */
    int rc = sql_numbers(r->s, &ids, &n, "SELECT id FROM spans ORDER BY segment, offset", SQL_NO_ARGS, &said);
    if (!rc)
        rc = sql_number(r->s, &total,
                        "SELECT coalesce(sum(size), 0) FROM spans WHERE size BETWEEN 0 AND 17179869184",
                        SQL_NO_ARGS, &said);
    rc = note(r, rc, &said, e);
    r->total = (uint64_t)total;
    r->s->verified.n = 0; /* what this handle has seen once is looked at again */
    for (size_t i = 0; !rc && i < n && !(rc = stopped(r, e)); i++)
        rc = check_span(r, ids[i], e);
    free(ids);
    return rc;
}

/* ---- references ---------------------------------------------------------------------------------------- */

#define BAD_REFERENCE                                                                                        \
    " typeof(kind)<>'integer' OR kind<0 OR typeof(key)<>'blob' OR length(key)<>16"                           \
    " OR session NOT IN (SELECT id FROM sessions)"

static int check_references(struct run *r, struct err *e)
{
    struct err said = {0};
    int64_t bad = 0, missing = 0, parents = 0;
    int rc =
        sql_number(r->s, &bad, "SELECT count(*) FROM session_refs WHERE" BAD_REFERENCE, SQL_NO_ARGS, &said);
    if (!rc && bad) {
        problem(r, "%s: %lld references of sessions to spans are damaged", r->s->db_path, (long long)bad);
        r->out->problems += (uint64_t)bad - 1;
        if (r->o->repair) {
            rc = sql_begin(r->s, &said);
            if (!rc)
                rc = sql_end(
                    r->s, sql_run(r->s, "DELETE FROM session_refs WHERE" BAD_REFERENCE, SQL_NO_ARGS, &said),
                    &said);
            r->out->repaired += rc ? 0 : (uint64_t)bad;
        }
    }
    if (!rc)
        rc = sql_number(r->s, &missing,
                        "SELECT count(*) FROM session_refs r WHERE NOT EXISTS"
                        " (SELECT 1 FROM spans p WHERE p.kind=r.kind AND p.key=r.key)",
                        SQL_NO_ARGS, &said);
    if (!rc)
        rc = sql_number(r->s, &parents,
                        "SELECT count(*) FROM spans p WHERE p.parent IS NOT NULL AND NOT EXISTS"
                        " (SELECT 1 FROM spans q WHERE q.kind IN (SELECT DISTINCT kind FROM spans)"
                        "  AND q.key=p.parent)",
                        SQL_NO_ARGS, &said);
    r->out->missing = (uint64_t)missing + (uint64_t)parents;
    return note(r, rc, &said, e);
}

/* ---- sessions, documents, turns ------------------------------------------------------------------------ */

/* Ordinals are 0, 1, 2, ... */
static int check_order(struct run *r, int64_t session, const char *what, const char *text, struct err *e)
{
    int64_t wrong = 0;
    int rc = sql_number(r->s, &wrong, text, SQL_ARGS(sql_int(session)), e);
    if (!rc && wrong)
        problem(r, "session %lld: its %s are not numbered 0, 1, 2, ...; some are lost", (long long)session,
                what);
    return rc;
}

static int check_session(struct run *r, int64_t id, struct err *e)
{
    static const char documents[] =
        "SELECT count(*)<>coalesce(max(ordinal)+1, 0) OR coalesce(min(ordinal), 0)<>0"
        " FROM session_documents WHERE session=?1";
    static const char turns[] = "SELECT count(*)<>coalesce(max(ordinal)+1, 0) OR coalesce(min(ordinal), 0)<>0"
                                " FROM turns WHERE session=?1";
    int64_t wrong = 0, count = 0;
    int rc = sql_number(r->s, &wrong,
                        "SELECT NOT (typeof(name)='text' AND length(CAST(name AS BLOB)) BETWEEN 1 AND 100"
                        " AND typeof(created)='integer' AND typeof(opened)='integer'"
                        " AND typeof(model_path)='text' AND typeof(model_hash)='blob'"
                        " AND length(model_hash)=16 AND typeof(options)='text'"
                        " AND (chain IS NULL OR (typeof(chain)='blob' AND length(chain)=16))"
                        " AND typeof(tokens)='integer' AND tokens>=0 AND seal IS " SEAL_OF_SESSION
                        ") FROM sessions WHERE id=?1",
                        SQL_ARGS(sql_int(id)), e);
    if (rc == ERR_NOT_FOUND) /* just deleted */
        return 0;
    if (!rc && wrong)
        problem(r, "session %lld: its row is damaged", (long long)id);
    if (!rc)
        rc = check_order(r, id, "documents", documents, e);
    if (!rc)
        rc = check_order(r, id, "turns", turns, e);
    if (!rc)
        rc = sql_number(
            r->s, &wrong,
            "SELECT count(*) FROM session_documents WHERE session=?1 AND seal IS NOT " SEAL_OF_LINK,
            SQL_ARGS(sql_int(id)), e);
    if (!rc && wrong)
        problem(r, "session %lld: %lld rows that name its documents are damaged", (long long)id,
                (long long)wrong);
    if (!rc)
        rc = sql_number(r->s, &wrong,
                        "SELECT count(*) FROM turns WHERE session=?1 AND NOT (typeof(question)='text'"
                        " AND typeof(answer)='text' AND typeof(json)='text' AND typeof(time)='integer'"
                        " AND seal IS " SEAL_OF_TURN ")",
                        SQL_ARGS(sql_int(id)), e);
    if (!rc && wrong)
        problem(r, "session %lld: %lld of its turns are damaged", (long long)id, (long long)wrong);
    if (!rc)
        rc =
            sql_number(r->s, &count, "SELECT count(*) FROM turns WHERE session=?1", SQL_ARGS(sql_int(id)), e);
    r->out->turns += (uint64_t)count;
    r->out->sessions++;
    return rc;
}

/* *fits: the blob is as long as its row says and has its checksum. */
static int check_part(struct store *s, int64_t document, int part, int *fits, struct err *e)
{
    sqlite3_stmt *st;
    int more = 0;
    *fits = 0;
    int rc = sql_query(s, &st, "SELECT data, size, sum FROM document_parts WHERE document=?1 AND part=?2",
                       SQL_ARGS(sql_int(document), sql_int(part)), e);
    if (!rc)
        rc = sql_step(s, st, &more, e);
    if (!rc && more && sqlite3_column_type(st, 0) == SQLITE_BLOB) {
        size_t n = (size_t)sqlite3_column_bytes(st, 0);
        const void *data = sqlite3_column_blob(st, 0);
        if (n && !data)
            rc = err_memory(e, "a document's text");
        else
            *fits = sqlite3_column_int64(st, 1) == (int64_t)n &&
                    sqlite3_column_int64(st, 2) == (int64_t)XXH3_64bits(n ? data : "", n);
    }
    sqlite3_finalize(st);
    return rc;
}

static int check_document(struct run *r, int64_t id, struct err *e)
{
    static const char *const names[STORE_PARTS] = {"text", "source map", "tokens", "ends"};
    int64_t wrong = 0;
    int rc = sql_number(
        r->s, &wrong,
        "SELECT NOT (typeof(path)='text' AND typeof(title)='text' AND typeof(kind)='text'"
        " AND typeof(size)='integer' AND size>=0 AND typeof(mtime_ns)='integer' AND typeof(hash)='blob'"
        " AND length(hash)=16 AND typeof(pages)='integer' AND pages BETWEEN 0 AND 2147483647"
        " AND typeof(token_count)='integer' AND token_count>=0 AND seal IS " SEAL_OF_DOCUMENT
        ") FROM documents WHERE id=?1",
        SQL_ARGS(sql_int(id)), e);
    if (rc == ERR_NOT_FOUND)
        return 0;
    if (!rc && wrong)
        problem(r, "document %lld: its row is damaged; add the document again", (long long)id);
    for (int part = 0; !rc && part < STORE_PARTS; part++) {
        int fits;
        struct err said = {0};
        rc = check_part(r->s, id, part, &fits, &said);
        if (rc == ERR_FORMAT || (!rc && !fits))
            problem(r, "document %lld: its %s is damaged in %s; add the document again", (long long)id,
                    names[part], r->s->db_path);
        rc = rc == ERR_FORMAT ? 0 : rc;
        if (rc && e)
            *e = said;
    }
    if (!rc)
        rc = sql_number(r->s, &wrong,
                        "SELECT count(*) FROM document_parts WHERE document=?1 AND (typeof(part)<>'integer'"
                        " OR part NOT BETWEEN 0 AND 3)",
                        SQL_ARGS(sql_int(id)), e);
    if (!rc && wrong)
        problem(r, "document %lld: it has parts that no version knows", (long long)id);
    r->out->documents++;
    return rc;
}

static int each(struct run *r, const char *list, int (*check)(struct run *r, int64_t id, struct err *e),
                struct err *e)
{
    int64_t *ids = NULL;
    size_t n = 0;
    struct err said = {0};
    int rc = note(r, sql_numbers(r->s, &ids, &n, list, SQL_NO_ARGS, &said), &said, e);
    for (size_t i = 0; !rc && i < n && !(rc = stopped(r, e)); i++)
        rc = note(r, check(r, ids[i], &said), &said, e);
    free(ids);
    return rc;
}

/* ---- files --------------------------------------------------------------------------------------------- */

static int count_orphans(struct run *r, struct err *e)
{
    DIR *dir = opendir(r->s->segments_dir);
    if (!dir)
        return err_errno(e, errno, "cannot list %s", r->s->segments_dir);
    int rc = 0;
    for (const struct dirent *entry; !rc && (entry = readdir(dir));) {
        char *end;
        long long id = strtoll(entry->d_name, &end, 10);
        int64_t known = 0;
        if (id <= 0 || strcmp(end, ".seg") != 0)
            continue;
        rc = sql_number(r->s, &known, "SELECT count(*) FROM segments WHERE id=?1", SQL_ARGS(sql_int(id)), e);
        r->out->orphans += !rc && !known;
    }
    closedir(dir);
    return rc;
}

/* Removing them under the write lock: nobody is just making a segment. Looking waits for no writer. */
static int check_files(struct run *r, struct err *e)
{
    if (!r->o->repair)
        return count_orphans(r, e);
    int rc = sql_begin(r->s, e);
    if (rc)
        return rc;
    rc = count_orphans(r, e);
    if (!rc && r->out->orphans)
        rc = segment_remove_orphans(r->s, e);
    rc = sql_end(r->s, rc, e);
    if (!rc)
        rc = segment_tidy_all(r->s, r->touched.ids, r->touched.n, e);
    return rc;
}

int store_verify(struct store *s, const struct store_verify_options *o, struct store_verify_result *out,
                 struct err *e)
{
    static const struct store_verify_options nothing;
    static const char *const owned[] = {"document_parts", "session_documents", "turns"};
    struct run r = {.s = s, .o = o ? o : &nothing, .out = out};
    struct err said = {0};
    *out = (struct store_verify_result){0};
    int rc = check_database(&r, e);
    if (!rc)
        rc = check_spans(&r, e);
    if (!rc)
        rc = check_references(&r, e);
    for (size_t i = 0; !rc && i < sizeof owned / sizeof owned[0]; i++)
        rc = note(&r, check_owners(&r, owned[i], &said), &said, e);
    if (!rc)
        rc = each(&r, "SELECT id FROM sessions ORDER BY id", check_session, e);
    if (!rc)
        rc = each(&r, "SELECT id FROM documents ORDER BY id", check_document, e);
    if (!rc)
        rc = check_files(&r, e);
    free(r.touched.ids);
    return rc;
}
