/* SPDX-License-Identifier: Apache-2.0 */
/* span_put.c - puts spans, many at once, and drops them.
 *
 * Invariant: payloads are written and synced first, then all rows of the batch are committed in one
 * transaction.
 */
#include "data/store/store_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"

enum { NEW, STANDS, REPLACE };

/* What is known of a key. The payload's checksums are looked at by map alone; what map found is remembered.
 */
static int existing(struct store *s, const struct span_put *put, int *state, struct err *e)
{
    struct span_row old;
    int rc = span_row_of_key(s, put->kind, put->key, &old, e);
    if (!rc) {
        struct segment *seg;
        rc = segment_borrow(s, old.segment, old.uuid, &seg, e);
        if (!rc)
            rc = span_row_fits(&old, seg, e);
        segment_return(s, seg);
        if (!rc && id_set_has(&s->damaged, old.id))
            rc = ERR_FORMAT;
    }
    span_row_free(&old);
    *state = rc == ERR_NOT_FOUND ? NEW : rc == ERR_FORMAT ? REPLACE : STANDS;
    return rc == ERR_NOT_FOUND || rc == ERR_FORMAT ? 0 : rc;
}

static int check_put(const struct span_put *put, uint64_t *size, struct err *e)
{
    *size = 0;
    if (put->kind < 0 || !put->key || put->n < 0 || (put->n && !put->parts))
        return err_set(e, ERR_USAGE, "a span needs a kind, a key and its parts");
    if (!isfinite(put->seconds) || put->seconds < 0 || put->position > INT64_MAX)
        return err_set(e, ERR_USAGE, "a span needs a position and seconds that are numbers");
    if (put->meta_size > STORE_META_MAX || (put->meta_size && !put->meta))
        return err_set(e, ERR_LIMIT, "a span's meta has %zu bytes; at most %d fit", put->meta_size,
                       STORE_META_MAX);
    for (int i = 0; i < put->n; i++) {
        if (put->parts[i].iov_len > SPAN_MAX - *size)
            return err_set(e, ERR_LIMIT, "a span has more than %llu bytes; split it",
                           (unsigned long long)SPAN_MAX);
        *size += put->parts[i].iov_len;
    }
    return 0;
}

static int insert_row(struct store *s, const struct span_put *put, const struct placed *at,
                      const struct buf *sums, struct err *e)
{
    struct span_info info = {.kind = put->kind,
                             .has_parent = put->parent != NULL,
                             .size = at->size,
                             .position = put->position,
                             .seconds = put->seconds + 0.0, /* no negative zero: SQLite keeps none */
                             .meta_size = put->meta_size};
    memcpy(info.key, put->key, sizeof info.key);
    if (put->parent)
        memcpy(info.parent, put->parent, sizeof info.parent);
    if (put->meta_size)
        memcpy(info.meta, put->meta, put->meta_size);
    const char *own = at->sums_bytes ? sums->data + at->sums_at : "";
    int failed;
    int64_t seal = span_seal(&info, s->writer.id, at->offset, own, at->sums_bytes, &failed);
    if (failed)
        return err_memory(e, "a checksum");
    return sql_run(s,
                   "INSERT INTO spans(kind, key, parent, segment, offset, size, meta, sums, seal, created,"
                   " position, seconds) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
                   SQL_ARGS(sql_int(info.kind), sql_key(info.key),
                            info.has_parent ? sql_key(info.parent) : sql_null(), sql_int(s->writer.id),
                            sql_int((int64_t)at->offset), sql_int((int64_t)info.size),
                            sql_blob(info.meta, info.meta_size), sql_blob(own, at->sums_bytes), sql_int(seal),
                            sql_int(clock_unix()), sql_int((int64_t)info.position), sql_real(info.seconds)),
                   e);
}

/* One row of the batch. Another process may have put the key meanwhile, or an earlier one of the batch: then
 * what was written for this one is to be given back. */
static int commit_one(struct store *s, const struct span_put *put, const struct placed *at,
                      const struct buf *sums, struct err *e)
{
    int state;
    int rc = existing(s, put, &state, e);
    if (rc)
        return rc;
    if (state == STANDS) {
        s->owes_space = 1;
        return sql_run(s, "UPDATE segments SET untidy=untidy+1 WHERE id=?1", SQL_ARGS(sql_int(s->writer.id)),
                       e);
    }
    if (state == REPLACE) {
        s->owes_space = 1;
        rc = sql_run(s, "DELETE FROM spans WHERE kind=?1 AND key=?2",
                     SQL_ARGS(sql_int(put->kind), sql_key(put->key)), e);
    }
    return rc ? rc : insert_row(s, put, at, sums, e);
}

/* The payloads are on the disk; now they begin to exist. */
static int commit(struct store *s, const struct span_put *puts, size_t n, const struct placed *placed,
                  const struct buf *sums, uint64_t end, struct err *e)
{
    int rc = sql_begin(s, e);
    if (rc) {
        segment_writer_close(s); /* cuts what no row will name */
        return rc;
    }
    s->put_inside = 1;
    segment_advance(s, end);
    for (size_t i = 0; !rc && i < n; i++)
        if (!placed[i].skip)
            rc = commit_one(s, &puts[i], &placed[i], sums, e);
    return sql_end(s, rc, e);
}

int store_spans_put(struct store *s, const struct span_put *puts, size_t n, struct err *e)
{
    struct placed *placed = calloc(n ? n : 1, sizeof *placed);
    if (!placed)
        return err_memory(e, "a batch of spans");
    int rc = 0;
    size_t wanted = 0;
    for (size_t i = 0; !rc && i < n; i++) { /* all are looked at before anything is written */
        int state = NEW;
        rc = check_put(&puts[i], &placed[i].size, e);
        if (!rc)
            rc = existing(s, &puts[i], &state, e);
        placed[i].skip = state == STANDS;
        wanted += state != STANDS;
    }
    struct buf sums = {0};
    uint64_t end = 0;
    if (!rc && wanted)
        rc = segment_append(s, puts, n, placed, &sums, &end, e);
    if (!rc && wanted)
        rc = commit(s, puts, n, placed, &sums, end, e);
    buf_free(&sums);
    free(placed);
    struct err ignored; /* the spans are safe; what cannot be given back now is found again */
    if (!rc && wanted)
        (void)store_settle(s, &ignored);
    return rc;
}

int store_span_put(struct store *s, const struct span_put *put, struct err *e)
{
    return store_spans_put(s, put, 1, e);
}

int store_span_drop(struct store *s, int kind, const uint8_t *key, struct err *e)
{
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = sql_run(s, "DELETE FROM spans WHERE kind=?1 AND key=?2", SQL_ARGS(sql_int(kind), sql_key(key)), e);
    if (!rc && !sqlite3_changes(s->db))
        rc = err_set(e, ERR_NOT_FOUND, "%s has no such span", s->db_path);
    s->owes_space |= !rc;
    rc = sql_end(s, rc, e);
    return rc ? rc : store_settle(s, e);
}
