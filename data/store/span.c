/* SPDX-License-Identifier: Apache-2.0 */
/* span.c - spans: put, find, map, drop, list.
 *
 * Invariant: a row's numbers are believed only after they fit the file, and a payload only after all its
 * group checksums fit. The row itself carries a seal (XXH3 over its columns), so a flipped bit in the
 * database is a miss as well. Rows written by somebody hostile can make misses, not crashes.
 */
#include "data/store/store_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "engine/base/bytes.h"
#include "engine/base/clock.h"

#define READ_AGAIN "it will be read again from the document"

/* A row as read, before any of it is believed but the types. */
struct row {
    int64_t id, segment;
    uint64_t offset;
    uint8_t uuid[16];
    struct span_info info;
    uint8_t *sums; /* [groups] u64 little-endian; owned */
    size_t sums_bytes;
};

/* One live mapping. */
struct hold {
    int64_t id;
    struct segment *segment;
    uint64_t offset, size;
    void *base; /* page-aligned */
    size_t length;
    struct hold *next;
};

static size_t groups_of(uint64_t size)
{
    return (size_t)((size + SEGMENT_GROUP - 1) / SEGMENT_GROUP);
}

static int64_t seal_of(const struct span_info *info, int64_t segment, uint64_t offset, const void *sums,
                       size_t sums_bytes, int *failed)
{
    struct buf b = {0};
    put_u64(&b, (uint64_t)info->kind);
    put_u64(&b, (uint64_t)segment);
    put_u64(&b, offset);
    put_u64(&b, info->size);
    put_u64(&b, (uint64_t)info->has_parent);
    buf_add(&b, info->key, sizeof info->key);
    buf_add(&b, info->parent, sizeof info->parent);
    put_u64(&b, info->meta_size);
    buf_add(&b, info->meta, info->meta_size);
    buf_add(&b, sums, sums_bytes);
    *failed = b.failed;
    int64_t seal = b.failed ? 0 : (int64_t)XXH3_64bits(b.data, b.len);
    buf_free(&b);
    return seal;
}

/* ---- rows -----------------------------------------------------------------------------------------------
 */

#define ROW_COLUMNS                                                                                          \
    "SELECT p.id, p.kind, p.key, p.parent, p.segment, p.offset, p.size, p.meta, p.sums, p.seal, g.uuid"      \
    " FROM spans p LEFT JOIN segments g ON g.id=p.segment "

static int row_damaged(struct store *s, const struct row *r, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s has a damaged row (span %lld); " READ_AGAIN, s->db_path,
                   (long long)r->id);
}

static int row_take(struct store *s, sqlite3_stmt *st, struct row *r, struct err *e)
{
    struct span_info *info = &r->info;
    r->id = sqlite3_column_int64(st, 0);
    int64_t kind = sqlite3_column_int64(st, 1), offset = sqlite3_column_int64(st, 5);
    int64_t size = sqlite3_column_int64(st, 6);
    r->segment = sqlite3_column_int64(st, 4);
    int bad = !sql_key_copy(st, 2, info->key) || !sql_key_copy(st, 10, r->uuid);
    info->has_parent = sql_key_copy(st, 3, info->parent);
    bad |= !info->has_parent && sqlite3_column_type(st, 3) != SQLITE_NULL;
    bad |= kind < 0 || kind > INT32_MAX || r->segment <= 0 || size < 0 || (uint64_t)size > SPAN_MAX;
    bad |= offset < SEGMENT_HEADER || offset % SEGMENT_ALIGN || offset > INT64_MAX / 2;
    if (bad)
        return row_damaged(s, r, e);
    size_t meta_size = (size_t)sqlite3_column_bytes(st, 7);
    const void *meta = sqlite3_column_blob(st, 7);
    r->sums_bytes = (size_t)sqlite3_column_bytes(st, 8);
    const void *sums = sqlite3_column_blob(st, 8);
    if (meta_size > STORE_META_MAX || (meta_size && !meta) || (r->sums_bytes && !sums) ||
        r->sums_bytes != 8 * groups_of((uint64_t)size))
        return row_damaged(s, r, e);
    info->kind = (int)kind;
    info->size = (uint64_t)size;
    info->meta_size = meta_size;
    r->offset = (uint64_t)offset;
    if (meta_size)
        memcpy(info->meta, meta, meta_size);
    r->sums = malloc(r->sums_bytes + 1);
    if (!r->sums)
        return err_memory(e, "checksums");
    if (r->sums_bytes)
        memcpy(r->sums, sums, r->sums_bytes);
    int failed;
    int64_t seal = seal_of(info, r->segment, r->offset, r->sums, r->sums_bytes, &failed);
    if (failed)
        return err_memory(e, "a checksum");
    return seal == sqlite3_column_int64(st, 9) ? 0 : row_damaged(s, r, e);
}

/* ERR_NOT_FOUND, or ERR_FORMAT with r->id set. row_free afterwards in every case. */
static int row_read(struct store *s, const char *text, const struct sql_arg *args, int n, struct row *r,
                    struct err *e)
{
    memset(r, 0, sizeof *r);
    sqlite3_stmt *st;
    int more = 0;
    int rc = sql_query(s, &st, text, args, n, e);
    if (!rc)
        rc = sql_step(s, st, &more, e);
    if (!rc)
        rc = more ? row_take(s, st, r, e) : err_set(e, ERR_NOT_FOUND, "%s has no such span", s->db_path);
    sqlite3_finalize(st);
    return rc;
}

static int row_of_key(struct store *s, int kind, const uint8_t *key, struct row *r, struct err *e)
{
    return row_read(s, ROW_COLUMNS "WHERE p.kind=?1 AND p.key=?2", SQL_ARGS(sql_int(kind), sql_key(key)), r,
                    e);
}

static void row_free(struct row *r)
{
    free(r->sums);
    r->sums = NULL;
}

/* The payload lies inside the file. */
static int fits_file(const struct row *r, const struct segment *seg, struct err *e)
{
    struct stat st;
    if (fstat(seg->fd, &st))
        return err_errno(e, errno, "cannot look at %s", seg->path);
    /* An empty payload takes no room: it may stand behind the end. */
    if (r->info.size && r->offset + r->info.size > (uint64_t)st.st_size)
        return err_set(e, ERR_FORMAT, "%s is cut short; " READ_AGAIN, seg->path);
    return 0;
}

/* Remembers the damage, so that the next put of the key replaces the row. */
static int note_damage(struct store *s, int64_t id, int rc, struct err *e)
{
    if (rc == ERR_FORMAT && id && id_set_add(&s->damaged, id))
        return err_memory(e, "a list of damaged spans");
    return rc;
}

int store_span_find(struct store *s, int kind, const uint8_t *key, struct span_info *out, struct err *e)
{
    struct row r;
    int rc = row_of_key(s, kind, key, &r, e);
    row_free(&r);
    if (!rc && out)
        *out = r.info;
    return note_damage(s, r.id, rc, e);
}

/* ---- map ------------------------------------------------------------------------------------------------
 */

/* By pread, not through the mapping: a bad sector is then an error and not a signal. */
static int verify(const struct row *r, const struct segment *seg, struct err *e)
{
    uint8_t *group = malloc(SEGMENT_GROUP);
    if (!group)
        return err_memory(e, "a page group");
    struct reader sums = reader_over(r->sums, r->sums_bytes);
    int rc = 0;
    for (uint64_t at = 0; !rc && at < r->info.size; at += SEGMENT_GROUP) {
        size_t want = r->info.size - at < SEGMENT_GROUP ? (size_t)(r->info.size - at) : SEGMENT_GROUP;
        size_t have = 0;
        while (have < want) {
            ssize_t n = pread(seg->fd, group + have, want - have, (off_t)(r->offset + at + have));
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                break;
            have += (size_t)n;
        }
        if (have < want || XXH3_64bits(group, want) != read_u64(&sums))
            rc = err_set(e, ERR_FORMAT, "%s is damaged at byte %llu; " READ_AGAIN, seg->path,
                         (unsigned long long)(r->offset + at));
    }
    free(group);
    return rc;
}

/* After the range lock: is the row still there? See store_internal.h for why in this order. */
static int still_there(struct store *s, int64_t id, struct err *e)
{
    int64_t one;
    return sql_number(s, &one, "SELECT 1 FROM spans WHERE id=?1", SQL_ARGS(sql_int(id)), e);
}

static int map_pages(struct hold *h, struct span_map *out, struct err *e)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE); /* may be larger than our alignment */
    uint64_t skip = h->offset % page;
    if (h->size) {
        h->length = (size_t)(h->size + skip);
        h->base = mmap(NULL, h->length, PROT_READ, MAP_SHARED, h->segment->fd, (off_t)(h->offset - skip));
        if (h->base == MAP_FAILED) {
            h->base = NULL;
            return err_errno(e, errno, "cannot map %s", h->segment->path);
        }
    }
    out->data = h->base ? (const uint8_t *)h->base + skip : NULL;
    out->size = (size_t)h->size;
    out->hold = h;
    return 0;
}

static void hold_end(struct store *s, struct hold *h)
{
    if (h->base)
        munmap(h->base, h->length);
    int shared = 0;
    for (struct hold **at = &s->holds; *at;) {
        if (*at == h) {
            *at = h->next;
            continue;
        }
        shared |= (*at)->id == h->id && (*at)->segment == h->segment;
        at = &(*at)->next;
    }
    if (!shared && h->segment->fd >= 0)
        segment_range_release(h->segment, h->offset, h->size);
    segment_return(s, h->segment);
    free(h);
}

static int map_row(struct store *s, const struct row *r, struct span_map *out, struct err *e)
{
    struct hold *h = calloc(1, sizeof *h);
    if (!h)
        return err_memory(e, "a mapping");
    int rc = segment_borrow(s, r->segment, r->uuid, &h->segment, e);
    if (rc) {
        free(h);
        return rc;
    }
    *h = (struct hold){
        .id = r->id, .segment = h->segment, .offset = r->offset, .size = r->info.size, .next = s->holds};
    s->holds = h;
    int gone = 0;
    rc = segment_range_hold(h->segment, h->offset, h->size, &gone, e);
    if (!rc && gone)
        rc = err_set(e, ERR_NOT_FOUND, "the span has just been deleted by another process");
    if (!rc)
        rc = still_there(s, r->id, e);
    if (!rc)
        rc = fits_file(r, h->segment, e);
    if (!rc && !id_set_has(&s->verified, r->id)) {
        rc = verify(r, h->segment, e);
        if (!rc)
            (void)id_set_add(&s->verified, r->id); /* if it fails, the next map checks again */
    }
    if (!rc)
        rc = map_pages(h, out, e);
    if (rc)
        hold_end(s, h);
    return rc;
}

int store_span_map(struct store *s, int kind, const uint8_t *key, struct span_map *out, struct err *e)
{
    *out = (struct span_map){0};
    struct row r;
    int rc = row_of_key(s, kind, key, &r, e);
    if (!rc)
        rc = map_row(s, &r, out, e);
    row_free(&r);
    return note_damage(s, r.id, rc, e);
}

void store_span_unmap(struct store *s, struct span_map *m)
{
    if (m->hold)
        hold_end(s, m->hold);
    *m = (struct span_map){0};
}

void span_release_all(struct store *s)
{
    while (s->holds)
        hold_end(s, s->holds);
}

/* ---- put ------------------------------------------------------------------------------------------------
 */

/* *state: 0 no row, 1 a row that stands, 2 a row to replace (*old and the segment it was in). The payload's
 * checksums are looked at by map alone; what map found is remembered. */
static int existing(struct store *s, const struct span_put *put, int *state, struct row *old, struct err *e)
{
    int rc = row_of_key(s, put->kind, put->key, old, e);
    if (!rc) {
        struct segment *seg;
        rc = segment_borrow(s, old->segment, old->uuid, &seg, e);
        if (!rc)
            rc = fits_file(old, seg, e);
        segment_return(s, seg);
        if (!rc && id_set_has(&s->damaged, old->id))
            rc = ERR_FORMAT;
    }
    row_free(old);
    *state = rc == ERR_NOT_FOUND ? 0 : rc == ERR_FORMAT ? 2 : 1;
    return rc == ERR_NOT_FOUND || rc == ERR_FORMAT ? 0 : rc;
}

static int check_put(const struct span_put *put, uint64_t *size, struct err *e)
{
    *size = 0;
    if (put->kind < 0 || !put->key || put->n < 0 || (put->n && !put->parts))
        return err_set(e, ERR_USAGE, "a span needs a kind, a key and its parts");
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

static int insert_row(struct store *s, const struct span_info *info, uint64_t offset, const struct buf *sums,
                      struct err *e)
{
    int failed;
    int64_t seal = seal_of(info, s->writer.id, offset, sums->data, sums->len, &failed);
    if (failed)
        return err_memory(e, "a checksum");
    return sql_run(s,
                   "INSERT INTO spans(kind, key, parent, segment, offset, size, meta, sums, seal, created)"
                   " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                   SQL_ARGS(sql_int(info->kind), sql_key(info->key),
                            info->has_parent ? sql_key(info->parent) : sql_null(), sql_int(s->writer.id),
                            sql_int((int64_t)offset), sql_int((int64_t)info->size),
                            sql_blob(info->meta, info->meta_size), sql_blob(sums->data, sums->len),
                            sql_int(seal), sql_int(clock_unix())),
                   e);
}

/* The payload is on the disk; now it begins to exist. *old_segment: to be tidied, 0 = none. */
static int commit_row(struct store *s, const struct span_put *put, const struct span_info *info,
                      uint64_t offset, const struct buf *sums, int64_t *old_segment, struct err *e)
{
    struct row old;
    int state = 0;
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = existing(s, put, &state, &old, e); /* another process may have put it meanwhile */
    if (!rc && state == 2) {
        *old_segment = old.segment;
        rc = sql_run(s, "DELETE FROM spans WHERE kind=?1 AND key=?2",
                     SQL_ARGS(sql_int(put->kind), sql_key(put->key)), e);
    }
    if (!rc && state != 1)
        rc = insert_row(s, info, offset, sums, e);
    rc = sql_end(s, rc, e);
    if (rc)
        segment_writer_close(s); /* did the commit reach the disk? the rows will tell the next writer */
    else if (state != 1)
        segment_advance(s, offset + info->size);
    return rc;
}

int store_span_put(struct store *s, const struct span_put *put, struct err *e)
{
    struct span_info info = {.kind = put->kind, .has_parent = put->parent != NULL};
    struct row old;
    int state = 0;
    int rc = check_put(put, &info.size, e);
    if (!rc)
        rc = existing(s, put, &state, &old, e);
    if (rc || state == 1)
        return rc;
    memcpy(info.key, put->key, sizeof info.key);
    if (put->parent)
        memcpy(info.parent, put->parent, sizeof info.parent);
    info.meta_size = put->meta_size;
    if (put->meta_size)
        memcpy(info.meta, put->meta, put->meta_size);
    struct buf sums = {0};
    uint64_t offset = 0;
    int64_t old_segment = 0;
    rc = segment_append(s, put, info.size, &sums, &offset, e);
    if (!rc)
        rc = commit_row(s, put, &info, offset, &sums, &old_segment, e);
    buf_free(&sums);
    /* The span is safe; space that cannot be given back now is found by store_collect. */
    struct err ignored;
    if (!rc && old_segment > 0)
        (void)segment_tidy(s, old_segment, &ignored);
    return rc;
}

/* ---- drop and list --------------------------------------------------------------------------------------
 */

int store_span_drop(struct store *s, int kind, const uint8_t *key, struct err *e)
{
    int64_t segment = 0;
    int rc = sql_begin(s, e);
    if (rc)
        return rc;
    rc = sql_number(s, &segment, "SELECT segment FROM spans WHERE kind=?1 AND key=?2",
                    SQL_ARGS(sql_int(kind), sql_key(key)), e);
    if (!rc)
        rc = sql_run(s, "DELETE FROM spans WHERE kind=?1 AND key=?2", SQL_ARGS(sql_int(kind), sql_key(key)),
                     e);
    rc = sql_end(s, rc, e);
    return rc ? rc : segment_tidy(s, segment, e);
}

/* Spans that session ?1 references and no other one does; spans that none does. */
#define OWN_SPANS                                                                                            \
    "SELECT p.id FROM session_refs r JOIN spans p ON p.kind=r.kind AND p.key=r.key WHERE r.session=?1"       \
    " AND NOT EXISTS(SELECT 1 FROM session_refs o WHERE o.kind=r.kind AND o.key=r.key AND o.session<>?1)"
#define FREE_SPANS                                                                                           \
    "SELECT p.id FROM spans p WHERE NOT EXISTS"                                                              \
    " (SELECT 1 FROM session_refs o WHERE o.kind=p.kind AND o.key=p.key)"

int span_drop_unshared(struct store *s, int64_t session, int64_t **segments, size_t *n, struct err *e)
{
    static const char list_own[] = "SELECT DISTINCT segment FROM spans WHERE id IN (" OWN_SPANS ")";
    static const char drop_own[] = "DELETE FROM spans WHERE id IN (" OWN_SPANS ")";
    static const char list_free[] = "SELECT DISTINCT segment FROM spans WHERE id IN (" FREE_SPANS ")";
    static const char drop_free[] = "DELETE FROM spans WHERE id IN (" FREE_SPANS ")";
    const struct sql_arg id = sql_int(session);
    int n_args = session ? 1 : 0;
    int rc = sql_numbers(s, segments, n, session ? list_own : list_free, &id, n_args, e);
    if (!rc)
        rc = sql_run(s, session ? drop_own : drop_free, &id, n_args, e);
    if (rc) {
        free(*segments);
        *segments = NULL;
        *n = 0;
    }
    return rc;
}

int span_tidy_all(struct store *s, const int64_t *segments, size_t n, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < n; i++) { /* all of them, the first error is told */
        struct err one = {0};
        int failed = segment_tidy(s, segments[i], &one);
        if (failed && !rc) {
            rc = failed;
            if (e)
                *e = one;
        }
    }
    return rc;
}

int store_span_list(struct store *s, int kind, int (*visit)(void *arg, const struct span_info *info),
                    void *arg, struct err *e)
{
    /* Ids first: no statement is open while visit runs, so it may map. */
    int64_t *ids;
    size_t n;
    int rc = sql_numbers(s, &ids, &n, "SELECT id FROM spans WHERE ?1<0 OR kind=?1 ORDER BY id",
                         SQL_ARGS(sql_int(kind)), e);
    for (size_t i = 0; !rc && i < n; i++) {
        struct row r;
        rc = row_read(s, ROW_COLUMNS "WHERE p.id=?1", SQL_ARGS(sql_int(ids[i])), &r, e);
        row_free(&r);
        if (!rc)
            rc = visit(arg, &r.info);
        else if (rc == ERR_NOT_FOUND || rc == ERR_FORMAT)
            rc = note_damage(s, r.id, rc, e) == ERR_MEMORY ? (int)ERR_MEMORY : 0;
    }
    free(ids);
    return rc;
}
