/* SPDX-License-Identifier: Apache-2.0 */
/* gc.c - makes room: what nobody references, then least recently opened chains from their deep ends.
 *
 * Invariant: a span of a session that is pinned, or locked by a living process, is never taken, and this is
 * asked again in the very transaction that deletes. Rows go first, then their space; a crash in between
 * leaves marks (segments.untidy) by which the next call finds it.
 */
#include "data/store/store_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "engine/base/clock.h"
#include "engine/base/progress.h"

enum { BATCH = 256, SETTLE_MS = 2000, BUSY_MS = 10000, MEMORY_MAX = 256 << 20 };
#define BATCH_BYTES ((uint64_t)256 << 20)

/* ---- what deletes owe -----------------------------------------------------------------------------------
 */

/* secure_delete zeroes what is deleted, but not what SQLite left behind when it moved rows from page to page.
 * So the database is written anew after text was deleted. */
static int write_anew(struct store *s, struct err *e)
{
    int64_t rows = 0;
    int rc = sql_number(s, &rows, "SELECT n FROM debts", SQL_NO_ARGS, e);
    if (rc || !rows)
        return rc;
    struct stat st;
    int large =
        !stat(s->db_path, &st) && st.st_size > MEMORY_MAX; /* the copy is made in memory or beside /tmp */
    if (large)
        rc = sql_run(s, "PRAGMA temp_store=FILE", SQL_NO_ARGS, e);
    if (!rc)
        rc = sql_run(s, "VACUUM", SQL_NO_ARGS, e);
    if (large)
        (void)sql_run(s, "PRAGMA temp_store=MEMORY", SQL_NO_ARGS, NULL);
    return rc ? rc : sql_run(s, "UPDATE debts SET n=0 WHERE n=?1", SQL_ARGS(sql_int(rows)), e);
}

/* Best effort on purpose: the delete is committed, another process may just be reading. The next settling
 * does what could not be done now. */
void store_settle_text(struct store *s)
{
    sqlite3_busy_timeout(s->db, SETTLE_MS);
    struct err ignored;
    int failed = write_anew(s, &ignored);
    failed |= sqlite3_exec(s->db, "PRAGMA incremental_vacuum", NULL, NULL, NULL);
    /* The log has old pages. */
    failed |= sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    sqlite3_busy_timeout(s->db, BUSY_MS);
    s->owes_text = failed != 0;
}

int store_settle(struct store *s, struct err *e)
{
    if (s->depth)
        return 0;
    int rc = 0;
    if (s->owes_space) {
        int64_t *ids = NULL;
        size_t n = 0;
        rc = sql_numbers(s, &ids, &n, "SELECT id FROM segments WHERE untidy<>0", SQL_NO_ARGS, e);
        if (!rc)
            rc = segment_tidy_all(s, ids, n, e);
        free(ids);
        s->owes_space = rc != 0;
    }
    if (s->owes_text)
        store_settle_text(s);
    return rc;
}

/* ---- unreferenced ---------------------------------------------------------------------------------------
 */

/* Spans that session ?1 references and no other one does; spans that none does. */
#define OWN_SPANS                                                                                            \
    "SELECT p.id FROM session_refs r JOIN spans p ON p.kind=r.kind AND p.key=r.key WHERE r.session=?1"       \
    " AND NOT EXISTS(SELECT 1 FROM session_refs o WHERE o.kind=r.kind AND o.key=r.key AND o.session<>?1)"
#define FREE_SPANS                                                                                           \
    "SELECT p.id FROM spans p WHERE NOT EXISTS"                                                              \
    " (SELECT 1 FROM session_refs o WHERE o.kind=p.kind AND o.key=p.key)"

int span_drop_unshared(struct store *s, int64_t session, struct err *e)
{
    const struct sql_arg id = sql_int(session);
    s->owes_space = 1;
    return sql_run(s,
                   session ? "DELETE FROM spans WHERE id IN (" OWN_SPANS ")"
                           : "DELETE FROM spans WHERE id IN (" FREE_SPANS ")",
                   &id, session ? 1 : 0, e);
}

/* Count, bytes and seconds of the spans that `where` names. */
static int measure(struct store *s, const char *where, uint64_t *spans, uint64_t *bytes, double *seconds,
                   struct err *e)
{
    struct buf text = {0};
    buf_printf(&text,
               "SELECT count(*), coalesce(sum(%s), 0), coalesce(sum(p.seconds), 0.0) FROM spans p WHERE %s",
               SPAN_BYTES(p), where);
    sqlite3_stmt *st = NULL;
    int more = 0;
    int rc = text.failed ? err_memory(e, "a statement") : sql_query(s, &st, text.data, SQL_NO_ARGS, e);
    if (!rc)
        rc = sql_step(s, st, &more, e);
    if (!rc && more) {
        int64_t n = sqlite3_column_int64(st, 0), b = sqlite3_column_int64(st, 1);
        *spans += n < 0 ? 0 : (uint64_t)n;
        *bytes += b < 0 ? 0 : (uint64_t)b;
        double cost = sqlite3_column_double(st, 2);
        *seconds += isfinite(cost) && cost > 0 ? cost : 0;
    }
    sqlite3_finalize(st);
    buf_free(&text);
    return rc;
}

static int tidy_everything(struct store *s, struct err *e)
{
    int64_t *all = NULL;
    size_t n = 0;
    segment_writer_close(s); /* its reserve is room, too */
    int rc = sql_numbers(s, &all, &n, "SELECT id FROM segments", SQL_NO_ARGS, e);
    if (!rc)
        rc = segment_tidy_all(s, all, n, e);
    free(all);
    store_settle_text(s);
    return rc;
}

struct dropped {
    uint64_t spans, bytes;
    double seconds;
};

static int drop_unreferenced(struct store *s, struct dropped *d, struct err *e)
{
    struct dropped more = *d;
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = measure(s, "p.id IN (" FREE_SPANS ")", &more.spans, &more.bytes, &more.seconds, e);
    if (!rc)
        rc = span_drop_unshared(s, 0, e);
    if (!rc)
        rc = document_drop_unlinked(s, e);
    if (!rc)
        rc = segment_remove_orphans(s, e);
    rc = sql_end(s, rc, e);
    if (!rc)
        *d = more;
    return rc;
}

static int refuse_inside(const struct store *s, struct err *e)
{
    return s->depth ? err_set(e, ERR_USAGE, "room cannot be made inside of another change") : 0;
}

int store_collect(struct store *s, struct err *e)
{
    struct dropped d = {0};
    int rc = refuse_inside(s, e);
    if (!rc)
        rc = drop_unreferenced(s, &d, e);
    return rc ? rc : tidy_everything(s, e);
}

/* ---- by budget ------------------------------------------------------------------------------------------
 */

struct candidate {
    int64_t id;
    uint64_t bytes;
};

struct gc {
    struct store *s;
    const struct store_budget *budget;
    struct candidate *list; /* in the order in which they go */
    size_t n, cap, next;
    struct buf open; /* "1,5,9": sessions that somebody has locked */
    struct dropped dropped;
    uint64_t bytes;       /* of payload now */
    uint64_t space_owed;  /* still to drop for the file system's sake, by payload */
    uint64_t goal, begun; /* for the progress: bytes to drop, bytes dropped before */
};

static int list_open(struct gc *g, struct err *e)
{
    int64_t *ids;
    size_t n;
    int rc = sql_numbers(g->s, &ids, &n, "SELECT id FROM sessions", SQL_NO_ARGS, e);
    if (rc)
        return rc;
    buf_clear(&g->open);
    buf_puts(&g->open, "0"); /* no session has it */
    for (size_t i = 0; i < n; i++)
        if (lock_in_use(g->s, ids[i]))
            buf_printf(&g->open, ",%lld", (long long)ids[i]);
    free(ids);
    return g->open.failed ? err_memory(e, "a list of sessions") : 0;
}

/* A span is as old as the session that had it open last; sessions opened in the same second go one by one. */
static int list_candidates(struct gc *g, struct err *e)
{
    sqlite3_stmt *st;
    int more = 1;
    int rc = sql_query(g->s, &st,
                       "SELECT p.id, " SPAN_BYTES(
                           p) " FROM spans p"
                              " JOIN session_refs r ON r.kind=p.kind AND r.key=p.key"
                              " JOIN sessions x ON x.id=r.session GROUP BY p.id"
                              " ORDER BY max(x.opened * 2147483648 + x.id), p.position DESC, p.id DESC",
                       SQL_NO_ARGS, e);
    while (!rc && !(rc = sql_step(g->s, st, &more, e)) && more) {
        if (g->n == g->cap) {
            size_t cap = g->cap ? 2 * g->cap : 1024;
            struct candidate *grown = realloc(g->list, cap * sizeof *grown);
            if (!grown) {
                rc = err_memory(e, "a list of spans");
                break;
            }
            g->list = grown;
            g->cap = cap;
        }
        g->list[g->n++] = (struct candidate){.id = sqlite3_column_int64(st, 0),
                                             .bytes = (uint64_t)sqlite3_column_int64(st, 1)};
    }
    sqlite3_finalize(st);
    return rc;
}

/* Payload that has to go for the budget's sake, given what is there now. */
static uint64_t over(const struct gc *g)
{
    uint64_t too_much = g->bytes > g->budget->bytes ? g->bytes - g->budget->bytes : 0;
    return too_much > g->space_owed ? too_much : g->space_owed;
}

/* How much the file system lacks. */
static int lacking(struct store *s, uint64_t leave_free, uint64_t *bytes, struct err *e)
{
    struct statvfs fs;
    *bytes = 0;
    if (!leave_free)
        return 0;
    int status;
    do
        status = statvfs(s->segments_dir, &fs);
    while (status && errno == EINTR);
    if (status)
        return err_errno(e, errno, "cannot ask for the free space of %s", s->segments_dir);
    uint64_t there = (uint64_t)fs.f_bavail * fs.f_frsize;
    *bytes = leave_free > there ? leave_free - there : 0;
    return 0;
}

#define KEPT                                                                                                 \
    "SELECT 1 FROM session_refs r JOIN sessions x ON x.id=r.session WHERE r.kind=p.kind AND r.key=p.key"

/* Deletes the next candidates, as many as the goal asks for, less those that have become untouchable. */
static int drop_batch(struct gc *g, struct err *e)
{
    struct buf where = {0}, text = {0};
    struct dropped more = {0};
    uint64_t goal = over(g), sum = 0;
    int rc = sql_begin(g->s, e);
    if (rc)
        return rc;
    rc = list_open(g, e);
    buf_puts(&where, "p.id IN (0");
    for (int i = 0; i < BATCH && g->next < g->n && sum < goal && sum < BATCH_BYTES; i++) {
        buf_printf(&where, ",%lld", (long long)g->list[g->next].id);
        sum += g->list[g->next++].bytes;
    }
    buf_printf(&where, ") AND NOT EXISTS(" KEPT " AND (x.pinned<>0 OR x.id IN (%s)))",
               g->open.data ? g->open.data : "0");
    buf_printf(&text, "DELETE FROM spans AS p WHERE %s", where.data ? where.data : "0");
    if (!rc && (where.failed || text.failed))
        rc = err_memory(e, "a statement");
    if (!rc)
        rc = measure(g->s, where.data, &more.spans, &more.bytes, &more.seconds, e);
    if (!rc)
        rc = sql_run(g->s, text.data, SQL_NO_ARGS, e);
    rc = sql_end(g->s, rc, e);
    buf_free(&where);
    buf_free(&text);
    if (rc)
        return rc;
    g->s->owes_space |= more.spans != 0;
    g->dropped.spans += more.spans;
    g->dropped.bytes += more.bytes;
    g->dropped.seconds += more.seconds;
    g->bytes -= more.bytes < g->bytes ? more.bytes : g->bytes;
    g->space_owed -= more.bytes < g->space_owed ? more.bytes : g->space_owed;
    return 0;
}

/* A reader that holds a dropped span keeps its space for a while, so what was dropped counts, not only what
 * the file system says: else a budget would eat everything in vain. */
static int drop_by_age(struct gc *g, const struct progress *p, struct cancel *c, struct err *e)
{
    int rc = store_settle(g->s, e);
    if (!rc)
        rc = lacking(g->s, g->budget->leave_free, &g->space_owed, e);
    if (!rc && over(g))
        rc = list_candidates(g, e);
    g->goal = over(g);
    g->begun = g->dropped.bytes;
    while (!rc && over(g) && g->next < g->n) {
        progress_report(p, "making room", g->dropped.bytes - g->begun, g->goal);
        if (cancel_requested(c))
            return err_set(e, ERR_CANCELLED, "stopped; what was dropped so far stays so");
        rc = drop_batch(g, e);
        if (!rc)
            rc = store_settle(g->s, e);
        uint64_t lack = 0;
        if (!rc)
            rc = lacking(g->s, g->budget->leave_free, &lack, e);
        g->space_owed = lack < g->space_owed ? lack : g->space_owed;
    }
    return rc;
}

static int kept(struct gc *g, struct store_gc_result *out, struct err *e)
{
    uint64_t spans = 0;
    double seconds = 0;
    int rc = list_open(g, e);
    struct buf open = {0}, pinned = {0};
    buf_printf(&open, "EXISTS(" KEPT " AND x.id IN (%s))", g->open.data ? g->open.data : "0");
    buf_printf(&pinned, "EXISTS(" KEPT " AND x.pinned<>0) AND NOT %s", open.data ? open.data : "0");
    if (!rc && (open.failed || pinned.failed))
        rc = err_memory(e, "a statement");
    if (!rc)
        rc = measure(g->s, open.data, &spans, &out->kept_because_open, &seconds, e);
    if (!rc)
        rc = measure(g->s, pinned.data, &spans, &out->kept_because_pinned, &seconds, e);
    buf_free(&open);
    buf_free(&pinned);
    return rc;
}

int store_gc(struct store *s, const struct store_budget *b, const struct progress *p, struct cancel *c,
             struct store_gc_result *out, struct err *e)
{
    static const struct store_budget none = {.bytes = STORE_NO_LIMIT};
    struct store_gc_result result = {0};
    struct gc g = {.s = s, .budget = b ? b : &none};
    uint64_t spans = 0;
    double seconds = 0;
    int rc = refuse_inside(s, e);
    if (!rc)
        rc = measure(s, "1", &spans, &result.bytes_before, &seconds, e);
    g.bytes = result.bytes_before;
    if (!rc)
        rc = drop_unreferenced(s, &g.dropped, e);
    g.bytes -= g.dropped.bytes < g.bytes ? g.dropped.bytes : g.bytes;
    if (!rc)
        rc = drop_by_age(&g, p, c, e);
    if (!rc)
        rc = kept(&g, &result, e);
    if (!rc)
        rc = tidy_everything(s, e);
    result.spans = g.dropped.spans;
    result.bytes_after = g.bytes;
    result.seconds_to_rebuild =
        g.dropped.seconds < 1e18 ? (uint64_t)ceil(g.dropped.seconds) : (uint64_t)1000000000000000000;
    if (!rc)
        progress_report(p, "making room", g.goal, g.goal);
    if (out)
        *out = result;
    free(g.list);
    buf_free(&g.open);
    return rc;
}
