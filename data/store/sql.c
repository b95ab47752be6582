/* SPDX-License-Identifier: Apache-2.0 */
/* sql.c - runs statements and turns SQLite's statuses into one line with a remedy. */
#include "data/store/store_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* SQLite calls a disk that cannot be read a damaged database. */
static int disk_failed(struct store *s)
{
    int last = 0;
    return s->db && !sqlite3_file_control(s->db, "main", SQLITE_FCNTL_LAST_ERRNO, &last) &&
           (last == EIO || last == ENXIO);
}

int sql_fail(struct store *s, int status, struct err *e)
{
    const char *path = s->db_path;
    int saved = s->db ? sqlite3_system_errno(s->db) : 0;
    switch (status & 0xff) {
    case SQLITE_FULL:
        return err_set(e, ERR_IO, "%s cannot grow, the disk is full; free disk space and try again", path);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        if (disk_failed(s))
            return err_set(e, ERR_IO, "%s cannot be read: %s; check the disk", path, strerror(EIO));
        return err_set(e, ERR_FORMAT, "%s is damaged; move it away and add the documents again", path);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return err_set(e, ERR_BUSY, "%s is in use by another lectern; try again in a moment", path);
    case SQLITE_NOMEM:
        return err_memory(e, path);
    case SQLITE_TOOBIG:
        return err_set(e, ERR_LIMIT, "%s cannot take a record of this size; add a smaller document", path);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_CANTOPEN:
        return err_set(e, ERR_IO, "%s cannot be opened for writing%s%s; check who owns it and its folder",
                       path, saved ? ": " : "", saved ? strerror(saved) : "");
    case SQLITE_CONSTRAINT:
        if (status == SQLITE_CONSTRAINT_FOREIGNKEY)
            return err_set(e, ERR_NOT_FOUND, "that session does not exist in %s (any more)", path);
        return err_set(e, ERR_USAGE, "%s has such a record already; choose another name", path);
    case SQLITE_IOERR: /* the errno behind it is not always known */
        if (saved == ENOSPC || saved == EDQUOT)
            return err_set(e, ERR_IO, "%s cannot grow, the disk is full; free disk space and try again",
                           path);
        if (status == SQLITE_IOERR_WRITE || status == SQLITE_IOERR_FSYNC || status == SQLITE_IOERR_SHMSIZE)
            return err_set(e, ERR_IO, "%s cannot be written%s%s; free disk space or check the disk", path,
                           saved ? ": " : "", saved ? strerror(saved) : "");
        return err_set(e, ERR_IO, "%s cannot be read or written%s%s; check the disk", path, saved ? ": " : "",
                       saved ? strerror(saved) : "");
    default:
        /* Statements are ours and constant: an unknown table or column means a file that was altered. */
        return err_set(e, ERR_FORMAT, "%s: %s; move it away and add the documents again", path,
                       s->db ? sqlite3_errmsg(s->db) : sqlite3_errstr(status));
    }
}

static int bind(sqlite3_stmt *st, int i, const struct sql_arg *a)
{
    switch (a->type) {
    case SQL_INT:
        return sqlite3_bind_int64(st, i, a->value);
    case SQL_REAL:
        return sqlite3_bind_double(st, i, a->real);
    case SQL_TEXT:
        return sqlite3_bind_text(st, i, a->bytes ? a->bytes : "", -1, SQLITE_STATIC);
    case SQL_BLOB: /* a NULL pointer would bind NULL */
        return a->n ? sqlite3_bind_blob64(st, i, a->bytes, a->n, SQLITE_STATIC)
                    : sqlite3_bind_zeroblob(st, i, 0);
    case SQL_NULL:
        break;
    }
    return sqlite3_bind_null(st, i);
}

int sql_query(struct store *s, sqlite3_stmt **st, const char *text, const struct sql_arg *args, int n,
              struct err *e)
{
    int status = sqlite3_prepare_v2(s->db, text, -1, st, NULL);
    for (int i = 0; !status && i < n; i++)
        status = bind(*st, i + 1, &args[i]);
    if (!status)
        return 0;
    sqlite3_finalize(*st);
    *st = NULL;
    return sql_fail(s, status, e);
}

int sql_step(struct store *s, sqlite3_stmt *st, int *more, struct err *e)
{
    int status = sqlite3_step(st);
    *more = status == SQLITE_ROW;
    return status == SQLITE_ROW || status == SQLITE_DONE ? 0 : sql_fail(s, status, e);
}

int sql_run(struct store *s, const char *text, const struct sql_arg *args, int n, struct err *e)
{
    sqlite3_stmt *st;
    int rc = sql_query(s, &st, text, args, n, e);
    int more = 1;
    while (!rc && more)
        rc = sql_step(s, st, &more, e);
    sqlite3_finalize(st);
    return rc;
}

int sql_number(struct store *s, int64_t *out, const char *text, const struct sql_arg *args, int n,
               struct err *e)
{
    *out = 0;
    sqlite3_stmt *st;
    int more = 0;
    int rc = sql_query(s, &st, text, args, n, e);
    if (!rc)
        rc = sql_step(s, st, &more, e);
    if (!rc && !more)
        rc = err_set(e, ERR_NOT_FOUND, "no such record in %s", s->db_path);
    if (!rc)
        *out = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return rc;
}

int sql_numbers(struct store *s, int64_t **ids, size_t *count, const char *text, const struct sql_arg *args,
                int n, struct err *e)
{
    *ids = NULL;
    *count = 0;
    struct id_set list = {0};
    sqlite3_stmt *st;
    int more = 1;
    int rc = sql_query(s, &st, text, args, n, e);
    while (!rc) {
        rc = sql_step(s, st, &more, e);
        if (rc || !more)
            break;
        if (list.n == list.cap) {
            size_t cap = list.cap ? 2 * list.cap : 16;
            int64_t *grown = realloc(list.ids, cap * sizeof *grown);
            if (!grown) {
                rc = err_memory(e, "a list of records");
                break;
            }
            list.ids = grown;
            list.cap = cap;
        }
        list.ids[list.n++] = sqlite3_column_int64(st, 0);
    }
    sqlite3_finalize(st);
    if (rc) {
        free(list.ids);
        return rc;
    }
    *ids = list.ids;
    *count = list.n;
    return 0;
}

/* ---- transactions: the outermost is one of SQLite's, those inside are savepoints ----------------------- */

int sql_begin(struct store *s, struct err *e)
{
    if (s->depth && sqlite3_get_autocommit(s->db)) /* a full disk and the like end the whole */
        return err_set(e, ERR_IO, "%s: the change around this one has failed already; begin again",
                       s->db_path);
    int rc = sql_run(s, s->depth ? "SAVEPOINT inner" : "BEGIN IMMEDIATE", SQL_NO_ARGS, e);
    s->depth += !rc;
    return rc;
}

/* Best effort: SQLite rolls back by itself what is still open when the handle goes. Row ids and file ends may
 * come again with other bytes behind them, so nothing that was learned inside stays. */
static void roll_back(struct store *s)
{
    if (!sqlite3_get_autocommit(s->db))
        sqlite3_exec(s->db, s->depth ? "ROLLBACK TO inner; RELEASE inner" : "ROLLBACK", NULL, NULL, NULL);
    if (!s->put_inside)
        return;
    s->verified.n = s->damaged.n = 0;
    segment_writer_close(s);
}

int sql_end(struct store *s, int rc, struct err *e)
{
    if (s->depth)
        s->depth--;
    /* Some failures roll back by themselves. The first error is the one to tell. */
    if (!rc && sqlite3_get_autocommit(s->db))
        rc = err_set(e, ERR_IO, "%s: a part of this change has failed; try again", s->db_path);
    if (!rc)
        rc = sql_run(s, s->depth ? "RELEASE inner" : "COMMIT", SQL_NO_ARGS, e);
    if (rc)
        roll_back(s);
    if (!s->depth)
        s->put_inside = 0;
    return rc;
}

/* ---- seals of rows ------------------------------------------------------------------------------------- */

static void seal_value(XXH3_state_t *state, sqlite3_value *v)
{
    int type = sqlite3_value_type(v);
    const void *bytes = NULL;
    size_t n = 0;
    sqlite3_int64 number = 0;
    double real = 0;
    switch (type) {
    case SQLITE_INTEGER:
        number = sqlite3_value_int64(v);
        bytes = &number;
        n = sizeof number;
        break;
    case SQLITE_FLOAT:
        real = sqlite3_value_double(v);
        bytes = &real;
        n = sizeof real;
        break;
    case SQLITE_BLOB:
        bytes = sqlite3_value_blob(v);
        n = (size_t)sqlite3_value_bytes(v);
        break;
    case SQLITE_TEXT:
        bytes = sqlite3_value_text(v);
        n = (size_t)sqlite3_value_bytes(v);
        break;
    default:
        break;
    }
    uint64_t head[2] = {(uint64_t)type, n};
    XXH3_64bits_update(state, head, sizeof head);
    if (n && bytes)
        XXH3_64bits_update(state, bytes, n);
}

/* lectern_seal(values...): XXH3 over types, lengths and bytes. */
static void seal_function(sqlite3_context *context, int n, sqlite3_value **values)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state) {
        sqlite3_result_error_nomem(context);
        return;
    }
    XXH3_64bits_reset(state);
    for (int i = 0; i < n; i++)
        seal_value(state, values[i]);
    sqlite3_result_int64(context, (sqlite3_int64)XXH3_64bits_digest(state));
    XXH3_freeState(state);
}

int sql_functions(struct store *s, struct err *e)
{
    enum { FLAGS = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY };
    int status = sqlite3_create_function(s->db, "lectern_seal", -1, FLAGS, NULL, seal_function, NULL, NULL);
    if (!status)
        status = sqlite3_create_function(s->db, "lectern_seal_migrate", 1, FLAGS, NULL, span_seal_migrate,
                                         NULL, NULL);
    return status ? sql_fail(s, status, e) : 0;
}

/* ---- columns --------------------------------------------------------------------------------------------
 */

char *sql_text_copy(sqlite3_stmt *st, int column)
{
    const unsigned char *text = sqlite3_column_text(st, column);
    return strdup(text ? (const char *)text : "");
}

int sql_key_copy(sqlite3_stmt *st, int column, uint8_t out[16])
{
    memset(out, 0, 16);
    if (sqlite3_column_type(st, column) != SQLITE_BLOB || sqlite3_column_bytes(st, column) != 16)
        return 0;
    const void *bytes = sqlite3_column_blob(st, column);
    if (!bytes)
        return 0;
    memcpy(out, bytes, 16);
    return 1;
}
