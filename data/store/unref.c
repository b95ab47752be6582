/* SPDX-License-Identifier: Apache-2.0 */
/* unref.c - a session gives up single references; a span goes with the last one. */
#include <stdlib.h>
#include <string.h>

#include "data/store/store_internal.h"

static int unref(struct store *s, int64_t id, int kind, const uint8_t *key, struct err *e)
{
    int64_t left = 0;
    int rc = sql_run(s, "DELETE FROM session_refs WHERE session=?1 AND kind=?2 AND key=?3",
                     SQL_ARGS(sql_int(id), sql_int(kind), sql_key(key)), e);
    if (!rc)
        rc = sql_number(s, &left, "SELECT count(*) FROM session_refs WHERE kind=?1 AND key=?2",
                        SQL_ARGS(sql_int(kind), sql_key(key)), e);
    if (!rc && !left) {
        struct err none;
        rc = store_span_drop(s, kind, key, &none);
        if (rc == ERR_NOT_FOUND)
            rc = 0;
        else if (rc && e)
            *e = none;
    }
    return rc;
}

int store_session_unref(struct store *s, int64_t id, int kind, const uint8_t *key, struct err *e)
{
    int rc = store_begin(s, e);
    return rc ? rc : store_end(s, unref(s, id, kind, key, e), e);
}

/* The references to give up: kinds and keys, read before anything is changed. */
struct span_name {
    int kind;
    uint8_t key[STORE_KEY_BYTES];
};

static int list_after(struct store *s, int64_t id, uint64_t position, struct buf *out, struct err *e)
{
    sqlite3_stmt *st;
    int more = 0;
    int rc =
        sql_query(s, &st,
                  "SELECT r.kind, r.key FROM session_refs r LEFT JOIN spans p"
                  " ON p.kind=r.kind AND p.key=r.key"
                  " WHERE r.session=?1 AND (p.id IS NULL OR p.position>?2)",
                  SQL_ARGS(sql_int(id), sql_int((int64_t)(position > INT64_MAX ? INT64_MAX : position))), e);
    if (rc)
        return rc;
    while (!(rc = sql_step(s, st, &more, e)) && more) {
        struct span_name name = {.kind = sqlite3_column_int(st, 0)};
        if (sql_key_copy(st, 1, name.key))
            buf_add(out, &name, sizeof name);
    }
    sqlite3_finalize(st);
    return !rc && out->failed ? err_memory(e, "references") : rc;
}

int store_session_unref_after(struct store *s, int64_t id, uint64_t position, struct err *e)
{
    struct buf names = {0};
    int rc = store_begin(s, e);
    if (rc)
        return rc;
    rc = list_after(s, id, position, &names, e);
    for (size_t at = 0; !rc && at < names.len; at += sizeof(struct span_name)) {
        struct span_name name;
        memcpy(&name, names.data + at, sizeof name);
        rc = unref(s, id, name.kind, name.key, e);
    }
    buf_free(&names);
    return store_end(s, rc, e);
}
