/* SPDX-License-Identifier: Apache-2.0 */
/* store_session.c - the rows of sessions and what they reference.
 *
 * Invariant: a span or document that some session references is never deleted; one that the last session let
 * go is deleted in the same transaction.
 */
#include "data/store/store_internal.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"

#define SEALED " x.pinned, x.seal IS " SEAL_OF_SESSION " FROM sessions x "
#define SESSION_COLUMNS                                                                                      \
    "SELECT x.id, x.name, x.created, x.opened, x.model_path, x.model_hash, x.options, x.chain, x.tokens,"    \
    " (SELECT count(*) FROM session_documents d WHERE d.session=x.id),"                                      \
    " (SELECT coalesce(sum(d.pages), 0) FROM session_documents l JOIN documents d ON d.id=l.document"        \
    "  WHERE l.session=x.id AND d.pages BETWEEN 0 AND 4294967296),"                                          \
    " (SELECT count(*) FROM turns t WHERE t.session=x.id),"                                                  \
    " (SELECT coalesce(sum(p.size), 0) FROM session_refs r JOIN spans p ON p.kind=r.kind AND p.key=r.key"    \
    "  WHERE r.session=x.id AND p.size BETWEEN 0 AND 17179869184)," SEALED
/* The counts are not asked for. */
#define SESSION_ALONE                                                                                        \
    "SELECT x.id, x.name, x.created, x.opened, x.model_path, x.model_hash, x.options, x.chain, x.tokens,"    \
    " 0, 0, 0, 0," SEALED

static int check_name(const char *name, struct err *e)
{
    size_t n = name ? strlen(name) : 0;
    int bad = n < 1 || n > STORE_NAME_MAX;
    for (size_t i = 0; !bad && i < n; i++)
        bad = (unsigned char)name[i] < 0x20 || name[i] == 0x7f || name[i] == '/';
    return bad ? err_set(
                     e, ERR_USAGE,
                     "a session's name has 1 to %d bytes, no control characters and no '/'; choose another",
                     STORE_NAME_MAX)
               : 0;
}

static int damaged(int64_t id, const char *name, struct err *e)
{
    return err_set(e, ERR_FORMAT,
                   "the record of session %lld (%s) is damaged; delete it and add its documents again",
                   (long long)id, name);
}

static int no_session(int64_t id, struct err *e)
{
    return err_set(e, ERR_NOT_FOUND, "session %lld does not exist", (long long)id);
}

int session_exists(struct store *s, int64_t id, struct err *e)
{
    int64_t one;
    int rc = sql_number(s, &one, "SELECT 1 FROM sessions WHERE id=?1", SQL_ARGS(sql_int(id)), e);
    return rc == ERR_NOT_FOUND ? no_session(id, e) : rc;
}

/* Inside sql_begin, so that two processes cannot both find it free. */
static int check_free(struct store *s, const char *name, int64_t except, struct err *e)
{
    int64_t other;
    int rc = sql_number(s, &other, "SELECT id FROM sessions WHERE name=?1 AND id<>?2",
                        SQL_ARGS(sql_text(name), sql_int(except)), e);
    if (rc == ERR_NOT_FOUND)
        return 0;
    return rc ? rc : err_set(e, ERR_USAGE, "a session named %s exists; choose another name", name);
}

/* Inside sql_begin, after the row was written. */
static int seal(struct store *s, int64_t id, struct err *e)
{
    return sql_run(s, "UPDATE sessions SET seal=" SEAL_OF_SESSION " WHERE id=?1", SQL_ARGS(sql_int(id)), e);
}

int store_session_create(struct store *s, const char *name, const struct store_session *from, int64_t *id,
                         struct err *e)
{
    static const struct store_session nothing;
    from = from ? from : &nothing;
    int rc = check_name(name, e);
    if (!rc)
        rc = sql_begin(s, e);
    if (rc)
        return rc;
    int64_t now = clock_unix();
    rc = check_free(s, name, 0, e);
    if (!rc)
        rc = sql_run(
            s,
            "INSERT INTO sessions(name, created, opened, model_path, model_hash, options, chain, tokens)"
            " VALUES(?1, ?2, ?2, ?3, ?4, ?5, ?6, ?7)",
            SQL_ARGS(sql_text(name), sql_int(now), sql_text(from->model_path), sql_blob(from->model_hash, 16),
                     sql_text(from->options), from->has_chain ? sql_key(from->chain) : sql_null(),
                     sql_int((int64_t)from->tokens)),
            e);
    int64_t made = sqlite3_last_insert_rowid(s->db);
    if (!rc)
        rc = seal(s, made, e);
    rc = sql_end(s, rc, e);
    if (!rc && id)
        *id = made;
    return rc;
}

static uint64_t not_negative(int64_t v)
{
    return v < 0 ? 0 : (uint64_t)v;
}

static int take(sqlite3_stmt *st, struct store_session *out, struct err *e)
{
    *out = (struct store_session){
        .id = sqlite3_column_int64(st, 0),
        .name = sql_text_copy(st, 1),
        .created = sqlite3_column_int64(st, 2),
        .opened = sqlite3_column_int64(st, 3),
        .model_path = sql_text_copy(st, 4),
        .options = sql_text_copy(st, 6),
        .tokens = not_negative(sqlite3_column_int64(st, 8)),
        .documents = not_negative(sqlite3_column_int64(st, 9)),
        .pages = not_negative(sqlite3_column_int64(st, 10)),
        .turns = not_negative(sqlite3_column_int64(st, 11)),
        .kv_bytes = not_negative(sqlite3_column_int64(st, 12)),
        .pinned = sqlite3_column_int64(st, 13) != 0,
        .damaged = !sqlite3_column_int(st, 14),
    };
    (void)sql_key_copy(st, 5, out->model_hash); /* zeros otherwise: matches no model */
    out->has_chain = sql_key_copy(st, 7, out->chain);
    if (out->name && out->model_path && out->options)
        return 0;
    store_session_free(out);
    return err_memory(e, "a session");
}

static int read_one(struct store *s, const char *text, const struct sql_arg *arg, struct store_session *out,
                    int *found, struct err *e)
{
    *out = (struct store_session){0};
    sqlite3_stmt *st;
    *found = 0;
    int rc = sql_query(s, &st, text, arg, 1, e);
    if (!rc)
        rc = sql_step(s, st, found, e);
    if (!rc && *found)
        rc = take(st, out, e);
    sqlite3_finalize(st);
    if (!rc && *found && out->damaged) {
        rc = damaged(out->id, out->name, e);
        store_session_free(out);
    }
    return rc;
}

/* A damaged index may lead to another session's row. */
static int check_own_name(const char *name, struct store_session *out, struct err *e)
{
    if (!strcmp(out->name, name))
        return 0;
    int rc = damaged(out->id, name, e);
    store_session_free(out);
    return rc;
}

int store_session_get(struct store *s, const char *name, struct store_session *out, struct err *e)
{
    int found;
    const struct sql_arg arg = sql_text(name);
    int rc = read_one(s, SESSION_COLUMNS "WHERE x.name=?1", &arg, out, &found, e);
    rc = rc || !found ? rc : check_own_name(name, out, e);
    return rc || found ? rc : err_set(e, ERR_NOT_FOUND, "there is no session named %s", name);
}

int store_session_open(struct store *s, const char *name, struct store_session *out, struct err *e)
{
    int found;
    const struct sql_arg arg = sql_text(name);
    int rc = read_one(s, SESSION_ALONE "WHERE x.name=?1", &arg, out, &found, e);
    rc = rc || !found ? rc : check_own_name(name, out, e);
    return rc || found ? rc : err_set(e, ERR_NOT_FOUND, "there is no session named %s", name);
}

int store_session_get_id(struct store *s, int64_t id, struct store_session *out, struct err *e)
{
    int found;
    const struct sql_arg arg = sql_int(id);
    int rc = read_one(s, SESSION_COLUMNS "WHERE x.id=?1", &arg, out, &found, e);
    return rc || found ? rc : no_session(id, e);
}

int store_session_find(struct store *s, const char *name, int64_t *id, struct err *e)
{
    int rc = sql_number(s, id, "SELECT id FROM sessions WHERE name=?1", SQL_ARGS(sql_text(name)), e);
    return rc == ERR_NOT_FOUND ? err_set(e, ERR_NOT_FOUND, "there is no session named %s", name) : rc;
}

void store_session_free(struct store_session *out)
{
    free(out->name);
    free(out->model_path);
    free(out->options);
    *out = (struct store_session){0};
}

int store_session_list(struct store *s, struct store_session_list *out, struct err *e)
{
    *out = (struct store_session_list){0};
    sqlite3_stmt *st;
    int more = 1;
    int rc = sql_query(s, &st, SESSION_COLUMNS "ORDER BY x.opened DESC, x.id DESC", SQL_NO_ARGS, e);
    while (!rc && !(rc = sql_step(s, st, &more, e)) && more) {
        struct store_session *grown = realloc(out->items, (out->n + 1) * sizeof *grown);
        if (!grown) {
            rc = err_memory(e, "the list of sessions");
            break;
        }
        out->items = grown;
        rc = take(st, &out->items[out->n], e);
        out->n += !rc;
    }
    sqlite3_finalize(st);
    if (rc)
        store_session_list_free(out);
    return rc;
}

void store_session_list_free(struct store_session_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        store_session_free(&list->items[i]);
    free(list->items);
    *list = (struct store_session_list){0};
}

/* ---- changes --------------------------------------------------------------------------------------------
 */

/* Is the row of this session as it was written? A change must not seal damage. */
static int check_seal(struct store *s, int64_t id, struct err *e)
{
    int64_t whole = 0;
    int rc = sql_number(s, &whole, "SELECT seal IS " SEAL_OF_SESSION " FROM sessions WHERE id=?1",
                        SQL_ARGS(sql_int(id)), e);
    if (rc == ERR_NOT_FOUND)
        return no_session(id, e);
    return rc || whole ? rc : damaged(id, "its name may be wrong", e);
}

/* Inside sql_begin: an UPDATE of session ?1, which is checked before and sealed afterwards. */
static int update(struct store *s, int64_t id, const char *text, const struct sql_arg *args, int n,
                  struct err *e)
{
    int rc = check_seal(s, id, e);
    if (!rc)
        rc = sql_run(s, text, args, n, e);
    return rc ? rc : seal(s, id, e);
}

static int update_alone(struct store *s, int64_t id, const char *text, const struct sql_arg *args, int n,
                        struct err *e)
{
    int rc = sql_begin(s, e);
    return rc ? rc : sql_end(s, update(s, id, text, args, n, e), e);
}

int store_session_update(struct store *s, const struct store_session *row, struct err *e)
{
    return update_alone(
        s, row->id,
        "UPDATE sessions SET model_path=?2, model_hash=?3, options=?4, chain=?5, tokens=?6 WHERE id=?1",
        SQL_ARGS(sql_int(row->id), sql_text(row->model_path), sql_blob(row->model_hash, 16),
                 sql_text(row->options), row->has_chain ? sql_key(row->chain) : sql_null(),
                 sql_int((int64_t)row->tokens)),
        e);
}

int store_session_touch(struct store *s, int64_t id, struct err *e)
{
    return update_alone(s, id, "UPDATE sessions SET opened=?2 WHERE id=?1",
                        SQL_ARGS(sql_int(id), sql_int(clock_unix())), e);
}

int store_session_pin(struct store *s, int64_t id, int on, struct err *e)
{
    return update_alone(s, id, "UPDATE sessions SET pinned=?2 WHERE id=?1",
                        SQL_ARGS(sql_int(id), sql_int(on != 0)), e);
}

int store_session_rename(struct store *s, int64_t id, const char *name, struct err *e)
{
    int rc = check_name(name, e);
    if (!rc)
        rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = check_free(s, name, id, e);
    if (!rc)
        rc = update(s, id, "UPDATE sessions SET name=?2 WHERE id=?1", SQL_ARGS(sql_int(id), sql_text(name)),
                    e);
    return sql_end(s, rc, e);
}

int store_session_fork(struct store *s, int64_t id, const char *name, int64_t *out, struct err *e)
{
    static const char *const copies[] = {
        "INSERT INTO session_refs SELECT ?2, kind, key FROM session_refs WHERE session=?1",
        /* a damaged row stays one */
        "INSERT INTO session_documents(session, ordinal, document, token_start, seal)"
        " SELECT ?2, ordinal, document, token_start,"
        " lectern_seal(?2, ordinal, document, token_start) + (seal IS NOT " SEAL_OF_LINK ")"
        " FROM session_documents WHERE session=?1",
        "INSERT INTO turns(session, ordinal, question, answer, json, time, seal)"
        " SELECT ?2, ordinal, question, answer, json, time,"
        " lectern_seal(?2, ordinal, question, answer, json, time) + (seal IS NOT " SEAL_OF_TURN ")"
        " FROM turns WHERE session=?1",
    };
    int rc = check_name(name, e);
    if (!rc)
        rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = check_seal(s, id, e);
    if (!rc)
        rc = check_free(s, name, 0, e);
    if (!rc)
        rc = sql_run(
            s,
            "INSERT INTO sessions(name, created, opened, model_path, model_hash, options, chain, tokens)"
            " SELECT ?2, ?3, ?3, model_path, model_hash, options, chain, tokens FROM sessions"
            " WHERE id=?1",
            SQL_ARGS(sql_int(id), sql_text(name), sql_int(clock_unix())), e);
    int64_t made = sqlite3_last_insert_rowid(s->db);
    for (size_t i = 0; !rc && i < sizeof copies / sizeof copies[0]; i++)
        rc = sql_run(s, copies[i], SQL_ARGS(sql_int(id), sql_int(made)), e);
    if (!rc)
        rc = seal(s, made, e);
    rc = sql_end(s, rc, e);
    if (!rc && out)
        *out = made;
    return rc;
}

static int delete_locked(struct store *s, int64_t id, struct err *e)
{
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = session_exists(s, id, e);
    if (!rc)
        rc = span_drop_unshared(s, id, e);
    if (!rc)
        rc = sql_run(s, "DELETE FROM sessions WHERE id=?1", SQL_ARGS(sql_int(id)), e);
    if (!rc)
        rc = document_drop_unlinked(s, e);
    s->owes_text |= !rc;
    rc = sql_end(s, rc, e);
    return rc ? rc : store_settle(s, e);
}

int store_session_delete(struct store *s, int64_t id, struct err *e)
{
    if (lock_held_here(s, id))
        return delete_locked(s, id, e); /* a lock file left behind locks nothing */
    struct store_lock *lock;
    int rc = store_session_lock(s, id, &lock, e);
    if (rc)
        return rc;
    rc = delete_locked(s, id, e);
    struct err ignored;
    if (rc && session_exists(s, id, &ignored) != ERR_NOT_FOUND)
        store_session_unlock(lock);
    else
        lock_remove(lock);
    return rc;
}

/* ---- references -----------------------------------------------------------------------------------------
 */

int store_session_ref(struct store *s, int64_t id, int kind, const uint8_t *key, struct err *e)
{
    return sql_run(s, "INSERT INTO session_refs VALUES(?1, ?2, ?3) ON CONFLICT DO NOTHING",
                   SQL_ARGS(sql_int(id), sql_int(kind), sql_key(key)), e);
}

/* Inside sql_begin. */
static int forget_spans(struct store *s, int64_t id, struct err *e)
{
    int rc = session_exists(s, id, e);
    if (!rc)
        rc = span_drop_unshared(s, id, e);
    return rc ? rc : sql_run(s, "DELETE FROM session_refs WHERE session=?1", SQL_ARGS(sql_int(id)), e);
}

int store_session_unref_all(struct store *s, int64_t id, struct err *e)
{
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = sql_end(s, forget_spans(s, id, e), e);
    return rc ? rc : store_settle(s, e);
}

static int strip_locked(struct store *s, int64_t id, uint64_t *bytes, struct err *e)
{
    static const char total[] = "SELECT coalesce(sum(" SPAN_BYTES(spans) "), 0) FROM spans";
    int64_t before = 0, after = 0;
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = sql_number(s, &before, total, SQL_NO_ARGS, e);
    if (!rc)
        rc = forget_spans(s, id, e);
    if (!rc)
        rc = update(s, id, "UPDATE sessions SET chain=NULL, tokens=0 WHERE id=?1", SQL_ARGS(sql_int(id)), e);
    if (!rc)
        rc = sql_number(s, &after, total, SQL_NO_ARGS, e);
    s->owes_text |= !rc;
    rc = sql_end(s, rc, e);
    if (!rc && bytes)
        *bytes = (uint64_t)(before - after);
    return rc ? rc : store_settle(s, e);
}

int store_session_strip(struct store *s, int64_t id, uint64_t *bytes, struct err *e)
{
    if (bytes)
        *bytes = 0;
    if (lock_held_here(s, id))
        return strip_locked(s, id, bytes, e);
    struct store_lock *lock;
    int rc = store_session_lock(s, id, &lock, e);
    if (rc)
        return rc;
    rc = strip_locked(s, id, bytes, e);
    store_session_unlock(lock);
    return rc;
}
