/* SPDX-License-Identifier: Apache-2.0 */
/* span.c - spans: rows and their seals, find, map, list.
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

#define READ_AGAIN "it will be read again from the document"

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

/* The inner sum is what format 1 kept, so that a migration seals rows without knowing them. */
static int64_t seal_outer(int64_t inner, uint64_t position, double seconds)
{
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    uint8_t bytes[24];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)((uint64_t)inner >> (8 * i));
        bytes[8 + i] = (uint8_t)(position >> (8 * i));
        bytes[16 + i] = (uint8_t)(bits >> (8 * i));
    }
    return (int64_t)XXH3_64bits(bytes, sizeof bytes);
}

void span_seal_migrate(sqlite3_context *context, int n, sqlite3_value **values)
{
    (void)n;
    sqlite3_result_int64(context, seal_outer(sqlite3_value_int64(values[0]), 0, 0));
}

int64_t span_seal(const struct span_info *info, int64_t segment, uint64_t offset, const void *sums,
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
    int64_t inner = b.failed ? 0 : (int64_t)XXH3_64bits(b.data, b.len);
    buf_free(&b);
    return seal_outer(inner, info->position, info->seconds);
}

/* ---- rows -----------------------------------------------------------------------------------------------
 */

#define ROW_COLUMNS                                                                                          \
    "SELECT p.id, p.kind, p.key, p.parent, p.segment, p.offset, p.size, p.meta, p.sums, p.seal, g.uuid,"     \
    " p.position, p.seconds FROM spans p LEFT JOIN segments g ON g.id=p.segment "

static int row_damaged(struct store *s, const struct span_row *r, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s has a damaged row (span %lld); " READ_AGAIN, s->db_path,
                   (long long)r->id);
}

static int row_take(struct store *s, sqlite3_stmt *st, struct span_row *r, struct err *e)
{
    struct span_info *info = &r->info;
    r->id = sqlite3_column_int64(st, 0);
    int64_t kind = sqlite3_column_int64(st, 1), offset = sqlite3_column_int64(st, 5);
    int64_t size = sqlite3_column_int64(st, 6);
    int64_t position = sqlite3_column_int64(st, 11);
    r->segment = sqlite3_column_int64(st, 4);
    int bad = !sql_key_copy(st, 2, info->key) || !sql_key_copy(st, 10, r->uuid);
    info->has_parent = sql_key_copy(st, 3, info->parent);
    bad |= !info->has_parent && sqlite3_column_type(st, 3) != SQLITE_NULL;
    bad |= kind < 0 || kind > INT32_MAX || r->segment <= 0 || size < 0 || (uint64_t)size > SPAN_MAX;
    bad |= position < 0 || offset < SEGMENT_HEADER || offset % SEGMENT_ALIGN || offset > INT64_MAX / 2;
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
    info->position = (uint64_t)position;
    info->seconds = sqlite3_column_double(st, 12);
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
    int64_t seal = span_seal(info, r->segment, r->offset, r->sums, r->sums_bytes, &failed);
    if (failed)
        return err_memory(e, "a checksum");
    return seal == sqlite3_column_int64(st, 9) ? 0 : row_damaged(s, r, e);
}

static int row_read(struct store *s, const char *text, const struct sql_arg *args, int n, struct span_row *r,
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

int span_row_of_key(struct store *s, int kind, const uint8_t *key, struct span_row *r, struct err *e)
{
    int rc =
        row_read(s, ROW_COLUMNS "WHERE p.kind=?1 AND p.key=?2", SQL_ARGS(sql_int(kind), sql_key(key)), r, e);
    /* A damaged index may lead to another span's row. */
    if (!rc && (r->info.kind != kind || memcmp(r->info.key, key, STORE_KEY_BYTES) != 0))
        rc = row_damaged(s, r, e);
    return rc;
}

int span_row_of_id(struct store *s, int64_t id, struct span_row *r, struct err *e)
{
    return row_read(s, ROW_COLUMNS "WHERE p.id=?1", SQL_ARGS(sql_int(id)), r, e);
}

void span_row_free(struct span_row *r)
{
    free(r->sums);
    r->sums = NULL;
}

/* The payload lies inside the file. */
int span_row_fits(const struct span_row *r, const struct segment *seg, struct err *e)
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
    struct span_row r;
    int rc = span_row_of_key(s, kind, key, &r, e);
    span_row_free(&r);
    if (!rc && out)
        *out = r.info;
    return note_damage(s, r.id, rc, e);
}

/* ---- map ------------------------------------------------------------------------------------------------
 */

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

static int map_row(struct store *s, const struct span_row *r, struct span_map *out, struct err *e)
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
        rc = span_row_fits(r, h->segment, e);
    if (!rc && id_set_has(&s->verified, r->id)) {
        span_row_ahead(r, h->segment);
    } else if (!rc) {
        rc = span_row_payload(r, h->segment, e);
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
    struct span_row r;
    int rc = span_row_of_key(s, kind, key, &r, e);
    if (!rc)
        rc = map_row(s, &r, out, e);
    span_row_free(&r);
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

/* ---- list ------------------------------------------------------------------------------------------------
 */

int store_span_list(struct store *s, int kind, int (*visit)(void *arg, const struct span_info *info),
                    void *arg, struct err *e)
{
    /* Ids first: no statement is open while visit runs, so it may map. */
    int64_t *ids;
    size_t n;
    int rc = sql_numbers(s, &ids, &n, "SELECT id FROM spans WHERE ?1<0 OR kind=?1 ORDER BY id",
                         SQL_ARGS(sql_int(kind)), e);
    for (size_t i = 0; !rc && i < n; i++) {
        struct span_row r;
        rc = span_row_of_id(s, ids[i], &r, e);
        span_row_free(&r);
        if (!rc)
            rc = visit(arg, &r.info);
        else if (rc == ERR_NOT_FOUND || rc == ERR_FORMAT)
            rc = note_damage(s, r.id, rc, e) == ERR_MEMORY ? (int)ERR_MEMORY : 0;
    }
    free(ids);
    return rc;
}
