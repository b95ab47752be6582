/* SPDX-License-Identifier: Apache-2.0 */
/* source_map.c - the map in memory and as a blob.
 *
 * Blob, little-endian, nothing before or after:
 *   "LSMP" u32 version=1  u64 text_bytes  u32 strings  u32 records
 *   strings x { u16 length  bytes }                  UTF-8 without control characters; string 0 is ""
 *   records x { u64 start u64 byte_first u64 byte_len u32 file u32 label u32 page u32 line u8 flags }
 * Invariant: the first record starts at 0, starts rise strictly and lie below text_bytes; no record means no
 * text.
 */
#include "ingest/source_map.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "ingest/frame.h"
#include "ingest/utf8_repair.h"

#define MAP_VERSION 1
#define MAP_RECORD_BYTES 41

static const char map_magic[4] = {'L', 'S', 'M', 'P'};

struct record {
    uint64_t start; /* in the text */
    uint64_t byte_first, byte_len;
    uint32_t file, label; /* string indices */
    int32_t page;
    uint32_t line;
    uint8_t flags;
};

struct source_map {
    struct record *records;
    size_t n, cap;
    size_t *strings; /* offsets of NUL-terminated strings in pool */
    size_t n_strings, cap_strings;
    struct buf pool;
    uint64_t text_bytes;
};

static const char *string_at(const struct source_map *m, uint32_t i)
{
    return m->pool.data + m->strings[i];
}

/* Doubles an array when it is full. */
static int grow(void *array, size_t *cap, size_t n, size_t size)
{
    if (n < *cap)
        return 0;
    size_t want = *cap ? *cap * 2 : 16;
    size_t bytes;
    if (size_mul(want, size, &bytes))
        return ERR_MEMORY;
    void **slot = array;
    void *data = realloc(*slot, bytes);
    if (!data)
        return ERR_MEMORY;
    *slot = data;
    *cap = want;
    return 0;
}

static int add_string(struct source_map *m, const char *text, size_t n, uint32_t *index, struct err *e)
{
    void *array = m->strings;
    int rc = m->n_strings < UINT32_MAX ? grow(&array, &m->cap_strings, m->n_strings, sizeof *m->strings)
                                       : ERR_MEMORY;
    m->strings = array;
    size_t at = m->pool.len;
    buf_add(&m->pool, text, n);
    buf_putc(&m->pool, 0);
    if (rc || m->pool.failed)
        return err_memory(e, "the source map");
    m->strings[m->n_strings] = at;
    *index = (uint32_t)m->n_strings++;
    return 0;
}

/* Files come in runs and labels mostly differ, so only the newest record's strings and "" are compared. */
static int intern(struct source_map *m, const char *text, uint32_t *index, struct err *e)
{
    const struct record *last = m->n ? &m->records[m->n - 1] : NULL;
    const uint32_t tries[] = {0, last ? last->file : 0, last ? last->label : 0};
    for (size_t i = 0; i < 3; i++)
        if (strcmp(string_at(m, tries[i]), text) == 0) {
            *index = tries[i];
            return 0;
        }
    return add_string(m, text, strlen(text), index, e);
}

static int add_record(struct source_map *m, const struct record *r, struct err *e)
{
    void *array = m->records;
    int rc = grow(&array, &m->cap, m->n, sizeof *m->records);
    m->records = array;
    if (rc)
        return err_memory(e, "the source map");
    m->records[m->n++] = *r;
    return 0;
}

static int create_bare(struct source_map **out, struct err *e)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_memory(e, "the source map");
}

int source_map_create(struct source_map **out, struct err *e)
{
    uint32_t zero;
    int rc = create_bare(out, e);
    if (!rc)
        rc = add_string(*out, "", 0, &zero, e);
    if (rc) {
        source_map_free(*out);
        *out = NULL;
    }
    return rc;
}

void source_map_free(struct source_map *m)
{
    if (!m)
        return;
    free(m->records);
    free(m->strings);
    buf_free(&m->pool);
    free(m);
}

static int flags_known(unsigned flags)
{
    return flags == 0 || flags == INGEST_EXACT || flags == INGEST_CRLF || flags == INGEST_MADE;
}

/* Exactness is arithmetic on lengths, so they must agree. */
static int lengths_fit(unsigned flags, uint64_t text_bytes, uint64_t byte_len)
{
    if (flags == INGEST_EXACT)
        return byte_len == text_bytes;
    if (flags == INGEST_CRLF)
        return byte_len >= text_bytes && byte_len - text_bytes <= text_bytes;
    return 1;
}

int source_map_add(struct source_map *m, const struct ingest_block *block, struct err *e)
{
    if (block->n == 0 || block->page_index < -1 || block->line_first == 0 || !flags_known(block->flags) ||
        block->byte_first > UINT64_MAX - block->byte_len ||
        !lengths_fit(block->flags, block->n, block->byte_len) || strlen(block->file) > FRAME_STRING_MAX ||
        strlen(block->page_label) > FRAME_STRING_MAX)
        return err_set(e, ERR_USAGE, "%s: a block that no source map can hold", block->file);
    struct record r = {.start = m->text_bytes,
                       .byte_first = block->byte_first,
                       .byte_len = block->byte_len,
                       .page = block->page_index,
                       .line = block->line_first,
                       .flags = (uint8_t)block->flags};
    int rc = intern(m, block->file, &r.file, e);
    if (!rc)
        rc = intern(m, block->page_label, &r.label, e);
    if (!rc)
        rc = add_record(m, &r, e);
    if (!rc)
        m->text_bytes += block->n;
    return rc;
}

uint64_t source_map_text_bytes(const struct source_map *m)
{
    return m->text_bytes;
}

size_t source_map_records(const struct source_map *m)
{
    return m->n;
}

/* ---- looking up ---- */

/* The record that covers `offset` < text_bytes: the last one that starts at or before it. */
static size_t record_over(const struct source_map *m, uint64_t offset)
{
    size_t low = 0, high = m->n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (m->records[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static uint64_t record_end(const struct source_map *m, size_t i)
{
    return i + 1 < m->n ? m->records[i + 1].start : m->text_bytes;
}

static int check_offset(const struct source_map *m, uint64_t offset, struct err *e)
{
    if (offset < m->text_bytes)
        return 0;
    return err_set(e, ERR_USAGE, "text offset %llu lies beyond the document's %llu bytes",
                   (unsigned long long)offset, (unsigned long long)m->text_bytes);
}

static uint64_t newlines(const char *text, uint64_t n)
{
    uint64_t count = 0;
    const char *end = text + n;
    for (const char *p = text; (p = memchr(p, '\n', (size_t)(end - p))) != NULL; p++)
        count++;
    return count;
}

int source_map_lookup(const struct source_map *m, const char *text, uint64_t offset, struct source_place *out,
                      struct err *e)
{
    *out = (struct source_place){.file = "", .page_index = -1, .page_label = ""};
    int rc = check_offset(m, offset, e);
    if (rc)
        return rc;
    const struct record *r = &m->records[record_over(m, offset)];
    uint64_t into = offset - r->start;
    uint64_t lines = newlines(text + r->start, into);
    out->file = string_at(m, r->file);
    out->page_index = r->page;
    out->page_label = string_at(m, r->label);
    uint64_t line = r->line + lines;
    out->line = line < UINT32_MAX ? (uint32_t)line : UINT32_MAX;
    out->flags = r->flags;
    out->byte_exact = r->flags == INGEST_EXACT || r->flags == INGEST_CRLF;
    out->byte = r->byte_first;
    if (out->byte_exact)
        out->byte += into + (r->flags == INGEST_CRLF ? lines : 0);
    return 0;
}

/* The source bytes of text [first, end) inside record i; 0 bytes when it has none. */
static void bytes_inside(const struct source_map *m, const char *text, size_t i, uint64_t first, uint64_t end,
                         uint64_t *low, uint64_t *high)
{
    const struct record *r = &m->records[i];
    *low = r->byte_first;
    *high = r->byte_first + r->byte_len;
    if (r->flags != INGEST_EXACT && r->flags != INGEST_CRLF)
        return;
    int crlf = r->flags == INGEST_CRLF;
    const char *base = text + r->start;
    uint64_t before = crlf ? newlines(base, first - r->start) : 0;
    uint64_t within = crlf ? newlines(text + first, end - first) : 0;
    *low = r->byte_first + (first - r->start) + before;
    *high = *low + (end - first) + within;
}

int source_map_bytes(const struct source_map *m, const char *text, uint64_t first, uint64_t end,
                     uint64_t *byte_first, uint64_t *bytes, struct err *e)
{
    *byte_first = 0;
    *bytes = 0;
    if (first >= end || end > m->text_bytes)
        return err_set(e, ERR_USAGE, "text %llu..%llu is no part of the document's %llu bytes",
                       (unsigned long long)first, (unsigned long long)end, (unsigned long long)m->text_bytes);
    size_t from = record_over(m, first), to = record_over(m, end - 1);
    uint64_t low = UINT64_MAX, high = 0;
    for (size_t i = from; i <= to; i++) {
        if (m->records[i].file != m->records[from].file)
            return 0;
        uint64_t a = i == from ? first : m->records[i].start;
        uint64_t b = i == to ? end : record_end(m, i);
        uint64_t l, h;
        bytes_inside(m, text, i, a, b, &l, &h);
        if (h > l) {
            low = l < low ? l : low;
            high = h > high ? h : high;
        }
    }
    if (high > low) {
        *byte_first = low;
        *bytes = high - low;
    }
    return 0;
}

static int same_page(const struct record *a, const struct record *b)
{
    return a->page == b->page && a->file == b->file;
}

static void page_around(const struct source_map *m, size_t i, uint64_t *first, uint64_t *end)
{
    size_t low = i, high = i;
    while (low > 0 && same_page(&m->records[low - 1], &m->records[i]))
        low--;
    while (high + 1 < m->n && same_page(&m->records[high + 1], &m->records[i]))
        high++;
    *first = m->records[low].start;
    *end = record_end(m, high);
}

int source_map_page(const struct source_map *m, uint64_t offset, uint64_t *first, uint64_t *end,
                    struct err *e)
{
    *first = *end = 0;
    int rc = check_offset(m, offset, e);
    if (!rc)
        page_around(m, record_over(m, offset), first, end);
    return rc;
}

int source_map_find_page(const struct source_map *m, int32_t page_index, uint64_t *first, uint64_t *end,
                         struct err *e)
{
    *first = *end = 0;
    for (size_t i = 0; i < m->n; i++)
        if (m->records[i].page == page_index) {
            page_around(m, i, first, end);
            return 0;
        }
    return err_set(e, ERR_NOT_FOUND, "page %ld has no text", (long)page_index + 1);
}

/* ---- the blob ---- */

int source_map_write(const struct source_map *m, struct buf *out, struct err *e)
{
    if (m->n > UINT32_MAX)
        return err_set(e, ERR_LIMIT, "a source map of %zu records; split the document", m->n);
    buf_add(out, map_magic, sizeof map_magic);
    put_u32(out, MAP_VERSION);
    put_u64(out, m->text_bytes);
    put_u32(out, (uint32_t)m->n_strings);
    put_u32(out, (uint32_t)m->n);
    for (uint32_t i = 0; i < m->n_strings; i++) {
        size_t n = strlen(string_at(m, i));
        put_u16(out, (uint16_t)n);
        buf_add(out, string_at(m, i), n);
    }
    for (size_t i = 0; i < m->n; i++) {
        const struct record *r = &m->records[i];
        put_u64(out, r->start);
        put_u64(out, r->byte_first);
        put_u64(out, r->byte_len);
        put_u32(out, r->file);
        put_u32(out, r->label);
        put_u32(out, (uint32_t)r->page);
        put_u32(out, r->line);
        put_u8(out, r->flags);
    }
    return out->failed ? err_memory(e, "the source map") : 0;
}

static int damaged(struct err *e, const char *what)
{
    return err_set(e, ERR_FORMAT, "damaged source map (%s); add the document again", what);
}

static int parse_string(struct source_map *m, struct reader *r, struct err *e)
{
    size_t n = read_u16(r);
    const uint8_t *p = read_bytes(r, n);
    if (!p || n > FRAME_STRING_MAX || utf8_valid_prefix(p, n) != n)
        return damaged(e, "a name");
    for (size_t i = 0; i < n; i++)
        if (p[i] < 0x20 || p[i] == 0x7f)
            return damaged(e, "a name");
    uint32_t index;
    return add_string(m, (const char *)p, n, &index, e);
}

static int parse_record(struct source_map *m, struct reader *in, struct err *e)
{
    struct record r = {0};
    r.start = read_u64(in);
    r.byte_first = read_u64(in);
    r.byte_len = read_u64(in);
    r.file = read_u32(in);
    r.label = read_u32(in);
    uint32_t page = read_u32(in);
    r.line = read_u32(in);
    r.flags = read_u8(in);
    int in_order = m->n ? r.start > m->records[m->n - 1].start : r.start == 0;
    if (in->bad || !in_order || r.start >= m->text_bytes)
        return damaged(e, "its order");
    if (r.file >= m->n_strings || r.label >= m->n_strings || (page > INT32_MAX && page != UINT32_MAX) ||
        r.line == 0 || !flags_known(r.flags) || r.byte_first > UINT64_MAX - r.byte_len)
        return damaged(e, "a record");
    r.page = page == UINT32_MAX ? -1 : (int32_t)page;
    return add_record(m, &r, e);
}

static int check_lengths(const struct source_map *m, struct err *e)
{
    for (size_t i = 0; i < m->n; i++)
        if (!lengths_fit(m->records[i].flags, record_end(m, i) - m->records[i].start, m->records[i].byte_len))
            return damaged(e, "a length");
    return 0;
}

static int parse_body(struct source_map *m, struct reader *r, struct err *e)
{
    const uint8_t *magic = read_bytes(r, sizeof map_magic);
    if (!magic || memcmp(magic, map_magic, sizeof map_magic) != 0)
        return damaged(e, "its head");
    uint32_t version = read_u32(r);
    if (!r->bad && version != MAP_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "source map of version %u; add the document again", version);
    m->text_bytes = read_u64(r);
    uint32_t strings = read_u32(r);
    uint32_t records = read_u32(r);
    if (r->bad || strings == 0 || strings > r->left / 2 || records > r->left / MAP_RECORD_BYTES ||
        (records == 0) != (m->text_bytes == 0))
        return damaged(e, "its head");
    int rc = 0;
    for (uint32_t i = 0; !rc && i < strings; i++)
        rc = parse_string(m, r, e);
    if (!rc && r->left != (size_t)records * MAP_RECORD_BYTES)
        rc = damaged(e, "its size");
    for (uint32_t i = 0; !rc && i < records; i++)
        rc = parse_record(m, r, e);
    return rc ? rc : check_lengths(m, e);
}

int source_map_parse(const void *blob, size_t n, struct source_map **out, struct err *e)
{
    int rc = create_bare(out, e);
    if (rc)
        return rc;
    struct reader r = reader_over(blob, n);
    rc = parse_body(*out, &r, e);
    if (!rc && (*out)->pool.data[0] != '\0')
        rc = damaged(e, "a name");
    if (rc) {
        source_map_free(*out);
        *out = NULL;
    }
    return rc;
}
