/* SPDX-License-Identifier: Apache-2.0 */
/* digest.c - what a session consists of: its spans in order, and one number over all of it.
 *
 * Nothing here depends on row ids, on the order of work or on where the bytes lie, so equal work in two
 * stores has equal digests.
 */
#include "data/store/store_internal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/bytes.h"

static void digest_take(XXH128_hash_t hash, uint8_t out[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, hash);
    memcpy(out, canonical.digest, 16);
}

int store_payload_digest(const void *bytes, size_t n, uint8_t out[16], struct err *e)
{
    struct buf sums = {0};
    const uint8_t *at = bytes;
    for (size_t left = n; left;) {
        size_t take = left < SEGMENT_GROUP ? left : SEGMENT_GROUP;
        put_u64(&sums, XXH3_64bits(at, take));
        at += take;
        left -= take;
    }
    int failed = sums.failed;
    if (!failed)
        digest_take(XXH3_128bits(sums.len ? sums.data : "", sums.len), out);
    buf_free(&sums);
    return failed ? err_memory(e, "checksums") : 0;
}

/* ---- spans --------------------------------------------------------------------------------------------- */

/* By row: the seal is checked by store_span_find. ERR_NOT_FOUND when it has just been dropped. */
static int span_of(struct store *s, int64_t id, struct span_info *info, uint8_t digest[16], struct err *e)
{
    sqlite3_stmt *st;
    int more = 0;
    uint8_t key[STORE_KEY_BYTES];
    int64_t kind = 0;
    memset(digest, 0, 16);
    int rc = sql_query(s, &st, "SELECT kind, key, sums FROM spans WHERE id=?1", SQL_ARGS(sql_int(id)), e);
    if (!rc)
        rc = sql_step(s, st, &more, e);
    if (!rc && !more)
        rc = err_set(e, ERR_NOT_FOUND, "%s has no such span", s->db_path);
    if (!rc) {
        kind = sqlite3_column_int64(st, 0);
        size_t n = (size_t)sqlite3_column_bytes(st, 2);
        const void *sums = sqlite3_column_blob(st, 2);
        if (!sql_key_copy(st, 1, key) || kind < 0 || kind > INT32_MAX || (n && !sums))
            rc = err_set(e, ERR_FORMAT, "%s has a damaged row (span %lld)", s->db_path, (long long)id);
        else
            digest_take(XXH3_128bits(n ? sums : "", n), digest);
    }
    sqlite3_finalize(st);
    return rc ? rc : store_span_find(s, (int)kind, key, info, e);
}

static int each_span(struct store *s, int64_t session, const char *order,
                     int (*visit)(void *arg, const struct span_info *info, const uint8_t digest[16]),
                     void *arg, struct err *e)
{
    struct buf text = {0};
    buf_printf(&text,
               "SELECT p.id FROM session_refs r JOIN spans p ON p.kind=r.kind AND p.key=r.key"
               " WHERE r.session=?1 ORDER BY %s",
               order);
    int64_t *ids = NULL;
    size_t n = 0;
    int rc = session_exists(s, session, e);
    if (!rc)
        rc = text.failed ? err_memory(e, "a list of spans")
                         : sql_numbers(s, &ids, &n, text.data, SQL_ARGS(sql_int(session)), e);
    buf_free(&text);
    for (size_t i = 0; !rc && i < n; i++) {
        struct span_info info;
        uint8_t digest[16];
        rc = span_of(s, ids[i], &info, digest, e);
        if (!rc)
            rc = visit(arg, &info, digest);
        else if (rc == ERR_NOT_FOUND)
            rc = 0;
    }
    free(ids);
    return rc;
}

int store_session_spans(struct store *s, int64_t id,
                        int (*visit)(void *arg, const struct span_info *info, const uint8_t digest[16]),
                        void *arg, struct err *e)
{
    return each_span(s, id, "p.id", visit, arg, e);
}

/* ---- the session --------------------------------------------------------------------------------------- */

static void add_text(struct buf *b, const char *text)
{
    size_t n = strlen(text);
    put_u64(b, n);
    buf_add(b, text, n);
}

static int add_span(void *arg, const struct span_info *info, const uint8_t digest[16])
{
    struct buf *b = arg;
    put_u64(b, (uint64_t)info->kind);
    buf_add(b, info->key, sizeof info->key);
    put_u64(b, (uint64_t)info->has_parent);
    buf_add(b, info->parent, sizeof info->parent);
    put_u64(b, info->size);
    put_u64(b, info->meta_size);
    buf_add(b, info->meta, info->meta_size);
    buf_add(b, digest, 16);
    return 0;
}

static int add_documents(struct store *s, int64_t id, struct buf *b, struct err *e)
{
    struct store_document_list list;
    int rc = store_document_list(s, id, &list, e);
    put_u64(b, rc ? 0 : list.n);
    for (size_t i = 0; !rc && i < list.n; i++) {
        const struct store_document *d = &list.items[i];
        add_text(b, d->title);
        add_text(b, d->kind);
        put_u64(b, d->size);
        buf_add(b, d->hash, sizeof d->hash);
        put_u64(b, d->pages);
        put_u64(b, d->token_start);
        put_u64(b, d->token_count);
        for (int part = 0; !rc && part < STORE_PARTS; part++) {
            void *bytes;
            size_t n;
            uint8_t sum[16];
            rc = store_document_read(s, id, d->ordinal, (enum store_part)part, &bytes, &n, e);
            if (rc)
                break;
            digest_take(XXH3_128bits(bytes, n), sum);
            put_u64(b, n);
            buf_add(b, sum, sizeof sum);
            free(bytes);
        }
    }
    store_document_list_free(&list);
    return rc;
}

static int add_turns(struct store *s, int64_t id, struct buf *b, struct err *e)
{
    struct store_turn_list list;
    int rc = store_turn_list(s, id, &list, e);
    put_u64(b, rc ? 0 : list.n);
    for (size_t i = 0; !rc && i < list.n; i++) {
        add_text(b, list.items[i].question);
        add_text(b, list.items[i].answer);
    }
    store_turn_list_free(&list);
    return rc;
}

int store_session_digest(struct store *s, int64_t id, uint8_t out[16], struct err *e)
{
    struct buf b = {0};
    memset(out, 0, 16);
    int rc = each_span(s, id, "p.kind, p.key", add_span, &b, e);
    if (!rc)
        rc = add_documents(s, id, &b, e);
    if (!rc)
        rc = add_turns(s, id, &b, e);
    if (!rc && b.failed)
        rc = err_memory(e, "a digest");
    if (!rc)
        digest_take(XXH3_128bits(b.data, b.len), out);
    buf_free(&b);
    return rc;
}
