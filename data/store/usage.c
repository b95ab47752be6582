/* SPDX-License-Identifier: Apache-2.0 */
/* usage.c - numbers: over all of the store, of a session, and chain by chain. */
#include "data/store/store_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

static uint64_t file_bytes(const char *path, const char *suffix)
{
    struct buf name = {0};
    buf_printf(&name, "%s%s", path, suffix);
    struct stat st;
    uint64_t size = !name.failed && !stat(name.data, &st) ? (uint64_t)st.st_size : 0;
    buf_free(&name);
    return size;
}

static int count_segments(struct store *s, struct store_stats *out, struct err *e)
{
    int64_t *ids;
    size_t n;
    int rc = sql_numbers(s, &ids, &n, "SELECT id FROM segments", SQL_NO_ARGS, e);
    for (size_t i = 0; !rc && i < n; i++) {
        char *path = segment_path(s, ids[i]);
        struct stat st;
        if (!path)
            rc = err_memory(e, "a segment's path");
        else if (!stat(path, &st)) { /* a missing file is the reader's to report */
            out->segment_files++;
            out->segment_disk_bytes += (uint64_t)st.st_blocks * 512;
        }
        free(path);
    }
    free(ids);
    return rc;
}

int store_stats(struct store *s, struct store_stats *out, struct err *e)
{
    memset(out, 0, sizeof *out);
    const struct {
        uint64_t *to;
        const char *text;
    } counts[] = {
        {&out->sessions, "SELECT count(*) FROM sessions"},
        {&out->documents, "SELECT count(*) FROM documents"},
        {&out->turns, "SELECT count(*) FROM turns"},
        {&out->spans, "SELECT count(*) FROM spans"},
        {&out->span_bytes, "SELECT coalesce(sum(size), 0) FROM spans WHERE size BETWEEN 0 AND 17179869184"},
    };
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof counts / sizeof counts[0]; i++) {
        int64_t value = 0;
        rc = sql_number(s, &value, counts[i].text, SQL_NO_ARGS, e);
        *counts[i].to = (uint64_t)value;
    }
    if (!rc)
        rc = count_segments(s, out, e);
    out->db_bytes = file_bytes(s->db_path, "") + file_bytes(s->db_path, "-wal");
    struct statvfs fs;
    if (!rc && statvfs(s->segments_dir, &fs))
        rc = err_errno(e, errno, "cannot ask for the free space of %s", s->segments_dir);
    else if (!rc)
        out->free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    return rc;
}

static uint64_t not_negative(int64_t v)
{
    return v < 0 ? 0 : (uint64_t)v;
}

/* ---- of a session ---------------------------------------------------------------------------------------
 */

int store_session_usage(struct store *s, int64_t id, uint64_t from, uint64_t to, struct store_usage *out,
                        struct err *e)
{
    *out = (struct store_usage){0};
    int rc = session_exists(s, id, e);
    if (rc)
        return rc;
    sqlite3_stmt *st;
    int more = 0;
    rc = sql_query(
        s, &st,
        "SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(CASE WHEN shared THEN bytes ELSE 0 END), 0),"
        " coalesce(sum(seconds), 0.0), coalesce(max(position), 0) FROM"
        " (SELECT " SPAN_BYTES(
            p) " bytes, p.seconds seconds, p.position position, EXISTS(SELECT 1 FROM"
               "  session_refs o WHERE o.kind=r.kind AND o.key=r.key AND o.session<>?1) shared"
               "  FROM session_refs r JOIN spans p ON p.kind=r.kind AND p.key=r.key"
               "  WHERE r.session=?1 AND p.position>?2 AND p.position<=?3)",
        SQL_ARGS(sql_int(id), sql_int(from > INT64_MAX ? INT64_MAX : (int64_t)from),
                 sql_int(to > INT64_MAX ? INT64_MAX : (int64_t)to)),
        e);
    if (!rc)
        rc = sql_step(s, st, &more, e);
    if (!rc && more)
        *out = (struct store_usage){.spans = not_negative(sqlite3_column_int64(st, 0)),
                                    .bytes = not_negative(sqlite3_column_int64(st, 1)),
                                    .shared_bytes = not_negative(sqlite3_column_int64(st, 2)),
                                    .seconds = sqlite3_column_double(st, 3),
                                    .position = not_negative(sqlite3_column_int64(st, 4))};
    sqlite3_finalize(st);
    return rc;
}

/* ---- chains ---------------------------------------------------------------------------------------------
 */

/* Sessions by their end; one without an end is a chain of its own when it has spans. */
static const char chains[] =
    "WITH ends AS (SELECT id, opened, pinned,"
    "  CASE WHEN typeof(chain)='blob' AND length(chain)=16 THEN chain ELSE id END AS leaf FROM sessions),"
    " own AS (SELECT DISTINCT ends.leaf AS leaf, p.id AS id, " SPAN_BYTES(
        p) " AS bytes,"
           "  p.position AS position, p.seconds AS seconds FROM ends"
           "  JOIN session_refs r ON r.session=ends.id JOIN spans p ON p.kind=r.kind AND p.key=r.key),"
           " sums AS (SELECT leaf, count(*) AS spans, sum(bytes) AS bytes, max(position) AS position,"
           "  sum(seconds) AS seconds FROM own GROUP BY leaf)"
           " SELECT g.leaf, g.sessions, g.opened, g.pinned, coalesce(u.spans, 0), coalesce(u.bytes, 0),"
           "  coalesce(u.position, 0), coalesce(u.seconds, 0.0) FROM"
           "  (SELECT leaf, count(*) AS sessions, max(opened) AS opened, max(pinned<>0) AS pinned, max(id) "
           "AS last"
           "   FROM ends GROUP BY leaf) g LEFT JOIN sums u ON u.leaf=g.leaf"
           " WHERE typeof(g.leaf)='blob' OR u.spans>0 ORDER BY g.opened DESC, g.last DESC";

int store_chain_list(struct store *s, struct store_chain_list *out, struct err *e)
{
    *out = (struct store_chain_list){0};
    sqlite3_stmt *st;
    int more = 1;
    size_t cap = 0;
    int rc = sql_query(s, &st, chains, SQL_NO_ARGS, e);
    while (!rc && !(rc = sql_step(s, st, &more, e)) && more) {
        if (out->n == cap) {
            cap = cap ? 2 * cap : 16;
            struct store_chain *grown = realloc(out->items, cap * sizeof *grown);
            if (!grown) {
                rc = err_memory(e, "the list of chains");
                break;
            }
            out->items = grown;
        }
        struct store_chain *c = &out->items[out->n++];
        *c = (struct store_chain){.sessions = not_negative(sqlite3_column_int64(st, 1)),
                                  .opened = sqlite3_column_int64(st, 2),
                                  .pinned = sqlite3_column_int(st, 3) != 0,
                                  .spans = not_negative(sqlite3_column_int64(st, 4)),
                                  .bytes = not_negative(sqlite3_column_int64(st, 5)),
                                  .position = not_negative(sqlite3_column_int64(st, 6)),
                                  .seconds = sqlite3_column_double(st, 7)};
        (void)sql_key_copy(st, 0, c->key); /* zeros when there is none */
    }
    sqlite3_finalize(st);
    if (rc)
        store_chain_list_free(out);
    return rc;
}

void store_chain_list_free(struct store_chain_list *list)
{
    free(list->items);
    *list = (struct store_chain_list){0};
}
