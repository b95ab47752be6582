/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_manifest.c - the manifest and the turns as JSON, and back from somebody else's JSON.
 *
 * Texts may be any bytes: what is no UTF-8 is written in hex under NAME_hex. Reading checks the type and
 * range of everything that is used; members that this version does not know are passed over.
 */
#include "data/transfer/transfer_internal.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char format_name[] = "lectern session";

static void document_free(struct manifest_document *d)
{
    free(d->row.path);
    free(d->row.title);
    free(d->row.kind);
}

void manifest_free(struct manifest *m)
{
    store_session_free(&m->session);
    for (size_t i = 0; i < m->n_spans; i++)
        free(m->spans[i].meta);
    free(m->spans);
    for (size_t i = 0; i < m->n_documents; i++)
        document_free(&m->documents[i]);
    free(m->documents);
    *m = (struct manifest){0};
}

void part_digest(const void *bytes, size_t n, uint8_t out[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(n ? bytes : "", n));
    memcpy(out, canonical.digest, 16);
}

uint64_t manifest_file_size(const struct manifest *m, uint64_t manifest_bytes)
{
    uint64_t total = 1024;
    uint64_t sizes[] = {manifest_bytes, CHECK_BYTES, m->turns.size};
#define ADD_MEMBER(size)                                                                                     \
    do {                                                                                                     \
        uint64_t padded = 512 + ((size) > UINT64_MAX / 4 ? UINT64_MAX / 4 : ((size) + 511) / 512 * 512);     \
        total = total > UINT64_MAX / 2 ? UINT64_MAX / 2 : total + padded;                                    \
    } while (0)
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        ADD_MEMBER(sizes[i]);
    for (size_t i = 0; i < m->n_spans; i++)
        ADD_MEMBER(m->spans[i].payload.size);
    for (size_t i = 0; i < m->n_documents; i++)
        for (int part = 0; part < STORE_PARTS; part++)
            ADD_MEMBER(m->documents[i].parts[part].size);
#undef ADD_MEMBER
    return total;
}

/* ---- values -------------------------------------------------------------------------------------------- */

static json_t *hex_json(const void *bytes, size_t n)
{
    static const char digits[] = "0123456789abcdef";
    char *text = malloc(2 * n + 1);
    if (!text)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        text[2 * i] = digits[((const uint8_t *)bytes)[i] >> 4];
        text[2 * i + 1] = digits[((const uint8_t *)bytes)[i] & 15];
    }
    json_t *value = json_stringn(text, 2 * n);
    free(text);
    return value;
}

void part_hex(const uint8_t digest[16], char out[33])
{
    for (int i = 0; i < 16; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

/* json_object_set_new takes NULL for a failure, so its result alone says whether all went well. */
static int set_number(json_t *object, const char *name, uint64_t value)
{
    return value > INT64_MAX || json_object_set_new(object, name, json_integer((json_int_t)value));
}

static int set_hex(json_t *object, const char *name, const void *bytes, size_t n)
{
    return json_object_set_new(object, name, hex_json(bytes, n));
}

static int set_text(json_t *object, const char *name, const char *text)
{
    char other[32];
    text = text ? text : "";
    json_t *value = json_string(text);
    if (value)
        return json_object_set_new(object, name, value);
    snprintf(other, sizeof other, "%s_hex", name);
    return set_hex(object, other, text, strlen(text));
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Non-zero unless the value is the hex of exactly n bytes. */
static int unhex(const json_t *value, uint8_t *out, size_t n)
{
    const char *text = json_string_value(value);
    if (!text || json_string_length(value) != 2 * n)
        return 1;
    for (size_t i = 0; i < n; i++) {
        int high = digit(text[2 * i]), low = digit(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return 1;
        out[i] = (uint8_t)(16 * high + low);
    }
    return 0;
}

static int get_hex(const json_t *object, const char *name, uint8_t *out, size_t n)
{
    return unhex(json_object_get(object, name), out, n);
}

static int get_number(const json_t *object, const char *name, uint64_t most, uint64_t *out)
{
    const json_t *value = json_object_get(object, name);
    json_int_t number = json_integer_value(value);
    *out = number > 0 ? (uint64_t)number : 0;
    return !json_is_integer(value) || number < 0 || *out > most;
}

/* *out stays NULL when memory ran out or nothing of that name is a text. */
static int get_text(const json_t *object, const char *name, char **out)
{
    const json_t *value = json_object_get(object, name);
    char other[32];
    if (json_is_string(value)) {
        const char *text = json_string_value(value);
        *out = strlen(text) == json_string_length(value) ? strdup(text) : NULL;
        return !*out;
    }
    snprintf(other, sizeof other, "%s_hex", name);
    value = json_object_get(object, other);
    size_t n = json_string_length(value) / 2;
    *out = json_is_string(value) ? calloc(1, n + 1) : NULL;
    return !*out || unhex(value, (uint8_t *)*out, n) || strlen(*out) != n;
}

static int set_part(json_t *object, const struct manifest_part *part)
{
    return set_number(object, "size", part->size) || set_hex(object, "sum", part->sum, sizeof part->sum);
}

static int get_part(const json_t *object, uint64_t most, struct manifest_part *part)
{
    return get_number(object, "size", most, &part->size) ||
           get_hex(object, "sum", part->sum, sizeof part->sum);
}

/* ---- writing the manifest ------------------------------------------------------------------------------ */

static json_t *session_json(const struct store_session *session)
{
    json_t *o = json_object();
    if (set_text(o, "name", session->name) || set_text(o, "model", session->model_path) ||
        set_hex(o, "model_hash", session->model_hash, sizeof session->model_hash) ||
        set_text(o, "options", session->options) || set_number(o, "tokens", session->tokens) ||
        (session->has_chain && set_hex(o, "chain", session->chain, sizeof session->chain))) {
        json_decref(o);
        return NULL;
    }
    return o;
}

/* No fractions: every version of jansson writes them its own way. */
static uint64_t microseconds(double seconds)
{
    return seconds > 0 && seconds < 1e12 ? (uint64_t)llround(seconds * 1e6) : 0;
}

static json_t *span_json(const struct manifest_span *span)
{
    json_t *o = json_object();
    if (set_number(o, "kind", (uint64_t)span->kind) || set_hex(o, "key", span->key, sizeof span->key) ||
        (span->has_parent && set_hex(o, "parent", span->parent, sizeof span->parent)) ||
        set_number(o, "position", span->position) ||
        set_number(o, "microseconds", microseconds(span->seconds)) ||
        (span->meta_size && set_hex(o, "meta", span->meta, span->meta_size)) || set_part(o, &span->payload)) {
        json_decref(o);
        return NULL;
    }
    return o;
}

static json_t *document_json(const struct manifest_document *d)
{
    json_t *o = json_object(), *parts = json_array();
    int failed = set_text(o, "path", d->row.path) || set_text(o, "title", d->row.title) ||
                 set_text(o, "kind", d->row.kind) || set_number(o, "size", d->row.size) ||
                 json_object_set_new(o, "mtime_ns", json_integer(d->row.mtime_ns)) ||
                 set_hex(o, "hash", d->row.hash, sizeof d->row.hash) ||
                 set_number(o, "pages", d->row.pages) || set_number(o, "token_start", d->row.token_start) ||
                 set_number(o, "token_count", d->row.token_count);
    for (int part = 0; !failed && part < STORE_PARTS; part++) {
        json_t *one = json_object();
        failed = set_part(one, &d->parts[part]) || json_array_append(parts, one);
        json_decref(one);
    }
    if (failed || json_object_set(o, "parts", parts)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(parts);
    return o;
}

static json_t *manifest_json(const struct manifest *m)
{
    json_t *root = json_pack("{s:s, s:i}", "format", format_name, "version", TRANSFER_VERSION);
    json_t *spans = json_array(), *documents = json_array(), *turns = json_object();
    int failed = json_object_set_new(root, "session", session_json(&m->session)) ||
                 set_number(turns, "count", m->n_turns) || set_part(turns, &m->turns);
    for (size_t i = 0; !failed && i < m->n_spans; i++)
        failed = json_array_append_new(spans, span_json(&m->spans[i]));
    for (size_t i = 0; !failed && i < m->n_documents; i++)
        failed = json_array_append_new(documents, document_json(&m->documents[i]));
    failed = failed || json_object_set(root, "documents", documents) ||
             json_object_set(root, "turns", turns) || json_object_set(root, "spans", spans);
    json_decref(spans);
    json_decref(documents);
    json_decref(turns);
    if (failed) {
        json_decref(root);
        return NULL;
    }
    return root;
}

static int add_bytes(const char *bytes, size_t n, void *arg)
{
    struct buf *out = arg;
    buf_add(out, bytes, n);
    return out->failed ? -1 : 0;
}

int manifest_write(const struct manifest *m, struct buf *out, struct err *e)
{
    json_t *root = manifest_json(m);
    int failed = !root || json_dump_callback(root, add_bytes, out, JSON_COMPACT);
    json_decref(root);
    if (failed)
        return err_memory(e, "the manifest");
    buf_putc(out, '\n');
    return out->len > MANIFEST_MAX
               ? err_set(e, ERR_LIMIT,
                         "session %s has more parts than one file lists (%zu bytes of manifest)",
                         m->session.name, out->len)
               : 0;
}

/* ---- reading it ---------------------------------------------------------------------------------------- */

/* A text that could not be copied looks like none; errno tells (parse_json clears it). */
static int bad(struct err *e, const char *what)
{
    if (errno == ENOMEM)
        return err_memory(e, what);
    return err_set(e, ERR_FORMAT, "its manifest makes no sense (%s)", what);
}

struct rest {
    const char *at;
    size_t left;
};

static int is_next(const char *bytes, size_t n, void *arg)
{
    struct rest *rest = arg;
    if (n > rest->left || memcmp(bytes, rest->at, n) != 0)
        return -1;
    rest->at += n;
    rest->left -= n;
    return 0;
}

/* NULL and 0 for what is no JSON as we write it. Where memory runs out jansson may leave bytes out of a text
 * and say that all went well, so what was read is written again and compared. */
static int parse_json(json_t **out, const char *bytes, size_t n, struct err *e)
{
    struct rest rest = {bytes, n};
    errno = 0;
    *out = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, NULL);
    if (*out && !json_dump_callback(*out, is_next, &rest, JSON_COMPACT) &&
        (!rest.left || (rest.left == 1 && *rest.at == '\n'))) {
        errno = 0;
        return 0;
    }
    int memory = errno == ENOMEM, differs = *out != NULL;
    json_decref(*out);
    *out = NULL;
    if (memory)
        return err_memory(e, "a manifest");
    return differs ? err_set(e, ERR_FORMAT, "its manifest is not as lectern writes it, or memory ran out")
                   : 0;
}

static int session_parse(const json_t *o, struct store_session *session, struct err *e)
{
    const json_t *chain = json_object_get(o, "chain");
    if (get_text(o, "name", &session->name) || get_text(o, "model", &session->model_path) ||
        get_text(o, "options", &session->options) ||
        get_hex(o, "model_hash", session->model_hash, sizeof session->model_hash) ||
        get_number(o, "tokens", INT64_MAX, &session->tokens) ||
        (chain && unhex(chain, session->chain, sizeof session->chain)))
        return bad(e, "session");
    session->has_chain = chain != NULL;
    return 0;
}

static int span_parse(const json_t *o, struct manifest_span *span, struct err *e)
{
    const json_t *parent = json_object_get(o, "parent"), *meta = json_object_get(o, "meta");
    uint64_t kind, us;
    if (get_number(o, "kind", INT_MAX, &kind) || get_hex(o, "key", span->key, sizeof span->key) ||
        (parent && unhex(parent, span->parent, sizeof span->parent)) ||
        get_number(o, "position", INT64_MAX, &span->position) ||
        get_number(o, "microseconds", INT64_MAX, &us) || get_part(o, TRANSFER_SPAN_MAX, &span->payload))
        return bad(e, "span");
    span->kind = (int)kind;
    span->has_parent = parent != NULL;
    span->seconds = (double)us / 1e6;
    size_t n = json_string_length(meta) / 2;
    if (!meta)
        return 0;
    if (!n || n > STORE_META_MAX)
        return bad(e, "meta of a span");
    span->meta = malloc(n);
    if (!span->meta)
        return err_memory(e, "a span");
    span->meta_size = n;
    return unhex(meta, span->meta, n) ? bad(e, "meta of a span") : 0;
}

static int document_parse(const json_t *o, struct manifest_document *d, struct err *e)
{
    const json_t *parts = json_object_get(o, "parts"), *mtime = json_object_get(o, "mtime_ns");
    struct store_document *row = &d->row;
    if (get_text(o, "path", &row->path) || get_text(o, "title", &row->title) ||
        get_text(o, "kind", &row->kind) || get_number(o, "size", INT64_MAX, &row->size) ||
        !json_is_integer(mtime) || get_hex(o, "hash", row->hash, sizeof row->hash) ||
        get_number(o, "pages", INT_MAX, &row->pages) ||
        get_number(o, "token_start", INT64_MAX, &row->token_start) ||
        get_number(o, "token_count", INT64_MAX, &row->token_count) || json_array_size(parts) != STORE_PARTS)
        return bad(e, "document");
    row->mtime_ns = json_integer_value(mtime);
    for (size_t part = 0; part < STORE_PARTS; part++)
        if (get_part(json_array_get(parts, part), PART_MAX, &d->parts[part]))
            return bad(e, "part of a document");
    return 0;
}

static int lists_parse(const json_t *root, struct manifest *m, struct err *e)
{
    const json_t *spans = json_object_get(root, "spans"), *documents = json_object_get(root, "documents");
    if (!json_is_array(spans) || !json_is_array(documents) || json_array_size(documents) >= INT_MAX)
        return bad(e, "lists");
    size_t n_spans = json_array_size(spans), n_documents = json_array_size(documents);
    m->spans = calloc(n_spans + 1, sizeof *m->spans);
    m->documents = calloc(n_documents + 1, sizeof *m->documents);
    if (!m->spans || !m->documents)
        return err_memory(e, "the manifest");
    m->n_spans = n_spans;
    m->n_documents = n_documents;
    int rc = 0;
    for (size_t i = 0; !rc && i < n_spans; i++)
        rc = span_parse(json_array_get(spans, i), &m->spans[i], e);
    for (size_t i = 0; !rc && i < n_documents; i++)
        rc = document_parse(json_array_get(documents, i), &m->documents[i], e);
    return rc;
}

int manifest_parse(struct manifest *m, const char *bytes, size_t n, struct err *e)
{
    *m = (struct manifest){0};
    json_t *root;
    int rc = parse_json(&root, bytes, n, e);
    if (rc)
        return rc;
    const json_t *turns = json_object_get(root, "turns");
    const char *format = json_string_value(json_object_get(root, "format"));
    uint64_t version;
    if (!format || strcmp(format, format_name) != 0 || get_number(root, "version", INT64_MAX, &version) ||
        !version)
        rc = bad(e, "format");
    else if (version > TRANSFER_VERSION)
        rc = err_set(e, ERR_UNSUPPORTED,
                     "it was written by a newer lectern (format %llu, this one knows %d); use that one",
                     (unsigned long long)version, TRANSFER_VERSION);
    else if (get_number(turns, "count", INT_MAX - 1, &m->n_turns) || get_part(turns, PART_MAX, &m->turns))
        rc = bad(e, "turns");
    if (!rc)
        rc = session_parse(json_object_get(root, "session"), &m->session, e);
    if (!rc)
        rc = lists_parse(root, m, e);
    json_decref(root);
    return rc;
}

/* ---- turns --------------------------------------------------------------------------------------------- */

int turns_write(const struct store_turn_list *turns, struct buf *out, struct err *e)
{
    for (size_t i = 0; i < turns->n; i++) {
        const struct store_turn *t = &turns->items[i];
        json_t *o = json_object();
        size_t before = out->len;
        int failed = set_text(o, "question", t->question) || set_text(o, "answer", t->answer) ||
                     set_text(o, "json", t->json) || json_object_set_new(o, "time", json_integer(t->time)) ||
                     json_dump_callback(o, add_bytes, out, JSON_COMPACT);
        json_decref(o);
        buf_putc(out, '\n');
        if (failed || out->failed)
            return err_memory(e, "the conversation");
        if (out->len - before > TURN_MAX || out->len > PART_MAX)
            return err_set(e, ERR_LIMIT, "turn %zu of the session is too long for a file", i + 1);
    }
    return 0;
}

int turns_parse(const char *bytes, size_t n, uint64_t *count,
                int (*add)(void *arg, const struct store_turn *turn, struct err *e), void *arg, struct err *e)
{
    *count = 0;
    for (size_t at = 0; at < n; ++*count) {
        const char *end = memchr(bytes + at, '\n', n - at);
        if (!end || end - (bytes + at) > TURN_MAX)
            return err_set(e, ERR_FORMAT, "its turns make no sense (line %llu)",
                           (unsigned long long)*count + 1);
        json_t *o;
        int rc = parse_json(&o, bytes + at, (size_t)(end - (bytes + at)), e);
        const json_t *time = json_object_get(o, "time");
        struct store_turn turn = {0};
        if (!rc && (get_text(o, "question", &turn.question) || get_text(o, "answer", &turn.answer) ||
                    get_text(o, "json", &turn.json) || !json_is_integer(time)))
            rc = bad(e, "turns");
        turn.time = json_integer_value(time);
        if (!rc)
            rc = add(arg, &turn, e);
        free(turn.question);
        free(turn.answer);
        free(turn.json);
        json_decref(o);
        if (rc)
            return rc;
        at = (size_t)(end - bytes) + 1;
    }
    return 0;
}
