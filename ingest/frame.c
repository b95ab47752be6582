/* SPDX-License-Identifier: Apache-2.0 */
/* frame.c - frames written, and frames of a sender nobody trusts read. */
#include "ingest/frame.h"

#include <string.h>

#include "engine/base/bytes.h"
#include "ingest/utf8_repair.h"

static const char hello_magic[4] = {'L', 'C', 'T', 'I'};

/* ---- writing ---- */

static size_t begin(struct buf *out, enum frame_type type)
{
    put_u8(out, (uint8_t)type);
    put_u32(out, 0);
    return out->len;
}

static void finish(struct buf *out, size_t start)
{
    if (out->failed)
        return;
    size_t n = out->len - start;
    for (size_t i = 0; i < 4; i++)
        out->data[start - 4 + i] = (char)(n >> (8 * i));
}

static void put_string(struct buf *out, const char *text)
{
    size_t n = strlen(text);
    put_u16(out, (uint16_t)n);
    buf_add(out, text, n);
}

void frame_put_hello(struct buf *out)
{
    buf_add(out, hello_magic, sizeof hello_magic);
    put_u16(out, FRAME_VERSION);
    put_u16(out, 0);
}

void frame_put_document(struct buf *out, const struct ingest_document *document)
{
    size_t start = begin(out, FRAME_DOCUMENT);
    put_string(out, document->kind);
    put_string(out, document->title);
    put_string(out, document->author);
    put_u32(out, document->pages);
    put_u64(out, document->source_bytes);
    finish(out, start);
}

void frame_put_block(struct buf *out, const struct ingest_block *block)
{
    size_t start = begin(out, FRAME_BLOCK);
    put_u8(out, (uint8_t)block->flags);
    put_u32(out, (uint32_t)block->page_index);
    put_u32(out, block->line_first);
    put_u64(out, block->byte_first);
    put_u64(out, block->byte_len);
    put_string(out, block->file);
    put_string(out, block->page_label);
    put_u32(out, (uint32_t)block->n);
    buf_add(out, block->text, block->n);
    finish(out, start);
}

void frame_put_warning(struct buf *out, const char *line)
{
    size_t start = begin(out, FRAME_WARNING);
    put_string(out, line);
    finish(out, start);
}

void frame_put_progress(struct buf *out, uint64_t done, uint64_t total)
{
    size_t start = begin(out, FRAME_PROGRESS);
    put_u64(out, done);
    put_u64(out, total);
    finish(out, start);
}

void frame_put_error(struct buf *out, enum err_code code, const char *line)
{
    size_t start = begin(out, FRAME_ERROR);
    put_u8(out, (uint8_t)code);
    put_string(out, line);
    finish(out, start);
}

void frame_put_end(struct buf *out, const struct ingest_totals *totals)
{
    size_t start = begin(out, FRAME_END);
    put_u64(out, totals->text_bytes);
    put_u32(out, totals->blocks);
    put_u32(out, totals->pages_without_text);
    put_u32(out, totals->files);
    put_u32(out, totals->files_skipped);
    put_u64(out, totals->replaced);
    finish(out, start);
}

/* ---- reading ---- */

struct ingest_limits frame_limits(const struct ingest_limits *limits)
{
    struct ingest_limits l = *limits;
    if (!l.text_bytes)
        l.text_bytes = UINT64_C(1) << 30;
    if (!l.blocks)
        l.blocks = 4000000;
    if (!l.warnings)
        l.warnings = 10000;
    if (!l.idle_seconds)
        l.idle_seconds = 60;
    if (!l.memory_bytes)
        l.memory_bytes = UINT64_C(4) << 30;
    if (!l.cpu_seconds)
        l.cpu_seconds = 1800;
    return l;
}

void frame_stream_init(struct frame_stream *s, const char *name, const struct ingest_sink *sink,
                       const struct ingest_limits *limits)
{
    *s = (struct frame_stream){.name = name, .sink = sink, .last_page = -1};
    s->limits = frame_limits(limits);
}

void frame_stream_fini(struct frame_stream *s)
{
    buf_free(&s->pending);
    buf_free(&s->text);
    buf_free(&s->file);
    buf_free(&s->label);
    buf_free(&s->verdict_text);
}

static int broken(const struct frame_stream *s, struct err *e, const char *what)
{
    return err_set(e, ERR_CHILD, "%s: lectern-ingest broke its protocol (%s)", s->name, what);
}

/* Copies a string of n bytes when it is clean: UTF-8 without control characters. Returns 0 when it is not. */
static int take_clean(struct reader *r, size_t n, struct buf *out)
{
    buf_clear(out);
    const uint8_t *p = n <= FRAME_STRING_MAX ? read_bytes(r, n) : NULL;
    if (!p || utf8_valid_prefix(p, n) != n)
        return 0;
    for (size_t i = 0; i < n; i++)
        if (p[i] < 0x20 || p[i] == 0x7f || (p[i] == 0xc2 && p[i + 1] < 0xa0))
            return 0;
    buf_add(out, p, n);
    return !out->failed;
}

static int take_string(struct reader *r, struct buf *out)
{
    uint16_t n = read_u16(r);
    return !r->bad && take_clean(r, n, out);
}

static int known_kind(const char *kind)
{
    static const char *const kinds[] = {"pdf", "text", "markdown", "folder", "git"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kind, kinds[i]) == 0)
            return 1;
    return 0;
}

static int on_document(struct frame_stream *s, struct reader *r, struct err *e)
{
    if (s->have_document)
        return broken(s, e, "a second document");
    struct ingest_document d = {0};
    int strings = take_string(r, &s->text) && take_string(r, &s->file) && take_string(r, &s->label);
    d.pages = read_u32(r);
    d.source_bytes = read_u64(r);
    if (!strings || r->bad || r->left || d.pages > INT32_MAX || !known_kind(s->text.data))
        return broken(s, e, "a malformed document head");
    d.kind = s->text.data;
    d.title = s->file.data;
    d.author = s->label.data;
    s->have_document = 1;
    s->pages = d.pages;
    return s->sink->document ? s->sink->document(s->sink->arg, &d, e) : 0;
}

/* Does the range of source bytes fit what the flags say about it? */
static int flags_fit(const struct ingest_block *b)
{
    if (b->byte_first > UINT64_MAX - b->byte_len)
        return 0;
    switch (b->flags) {
    case 0:
        return 1;
    case INGEST_EXACT:
        return b->byte_len == b->n;
    case INGEST_CRLF:
        return b->byte_len >= b->n && b->byte_len <= 2 * (uint64_t)b->n;
    case INGEST_MADE:
        return b->byte_len == 0;
    default:
        return 0;
    }
}

static int deliver_block(struct frame_stream *s, const struct ingest_block *b, struct err *e)
{
    if (b->n > s->limits.text_bytes - s->seen.text_bytes)
        return err_set(e, ERR_LIMIT, "%s holds more than %llu bytes of text; split it", s->name,
                       (unsigned long long)s->limits.text_bytes);
    if (s->seen.blocks >= s->limits.blocks)
        return err_set(e, ERR_LIMIT, "%s falls into more than %u blocks; split it", s->name,
                       s->limits.blocks);
    s->seen.text_bytes += b->n;
    s->seen.blocks++;
    s->last_page = b->page_index;
    return s->sink->block ? s->sink->block(s->sink->arg, b, e) : 0;
}

static int on_block(struct frame_stream *s, struct reader *r, struct err *e)
{
    if (!s->have_document)
        return broken(s, e, "a block before the document head");
    struct ingest_block b = {0};
    b.flags = read_u8(r);
    uint32_t page = read_u32(r);
    b.line_first = read_u32(r);
    b.byte_first = read_u64(r);
    b.byte_len = read_u64(r);
    int strings = take_string(r, &s->file) && take_string(r, &s->label);
    b.n = read_u32(r);
    const uint8_t *text = strings && b.n <= INGEST_BLOCK_MAX ? read_bytes(r, b.n) : NULL;
    if (!text || r->bad || r->left || b.n == 0 || b.line_first == 0 || !flags_fit(&b))
        return broken(s, e, "a malformed block");
    if (memchr(text, 0, b.n) || utf8_valid_prefix(text, b.n) != b.n)
        return broken(s, e, "text that is not UTF-8");
    b.page_index = page == UINT32_MAX ? -1 : (int32_t)(page & INT32_MAX);
    int paged = s->pages > 0;
    if (paged ? page >= s->pages || b.page_index < s->last_page : b.page_index != -1)
        return broken(s, e, "a page out of order");
    buf_clear(&s->text); /* a copy: the text must end in a NUL, which the frame does not have */
    buf_add(&s->text, text, b.n);
    if (s->text.failed)
        return err_memory(e, "a block of text");
    b.text = s->text.data;
    b.file = s->file.data;
    b.page_label = s->label.data;
    return deliver_block(s, &b, e);
}

static int on_warning(struct frame_stream *s, struct reader *r, struct err *e)
{
    if (!take_string(r, &s->text) || r->left)
        return broken(s, e, "a malformed warning");
    if (++s->warnings > s->limits.warnings)
        return err_set(e, ERR_LIMIT, "%s causes more than %u warnings; look at it by itself", s->name,
                       s->limits.warnings);
    if (s->sink->warning)
        s->sink->warning(s->sink->arg, s->text.data);
    return 0;
}

static int on_progress(struct frame_stream *s, struct reader *r, struct err *e)
{
    uint64_t done = read_u64(r);
    uint64_t total = read_u64(r);
    if (r->bad || r->left || (total && done > total))
        return broken(s, e, "a malformed progress frame");
    if (s->sink->progress)
        s->sink->progress(s->sink->arg, done, total);
    return 0;
}

/* What a parser may say of a document; the rest (cancelled, busy, ...) is for the parent alone. */
static int allowed_verdict(uint8_t code)
{
    return code == ERR_IO || code == ERR_FORMAT || code == ERR_UNSUPPORTED || code == ERR_LIMIT ||
           code == ERR_MEMORY || code == ERR_NOT_FOUND || code == ERR_USAGE;
}

static int on_error(struct frame_stream *s, struct reader *r, struct err *e)
{
    uint8_t code = read_u8(r);
    if (!take_string(r, &s->verdict_text) || r->left || !allowed_verdict(code))
        return broken(s, e, "a malformed error frame");
    s->verdict = code;
    s->ended = 1;
    return 0;
}

static int on_end(struct frame_stream *s, struct reader *r, struct err *e)
{
    struct ingest_totals t = {0};
    t.text_bytes = read_u64(r);
    t.blocks = read_u32(r);
    t.pages_without_text = read_u32(r);
    t.files = read_u32(r);
    t.files_skipped = read_u32(r);
    t.replaced = read_u64(r);
    if (r->bad || r->left || !s->have_document)
        return broken(s, e, "a malformed end");
    if (t.text_bytes != s->seen.text_bytes || t.blocks != s->seen.blocks || t.pages_without_text > s->pages)
        return broken(s, e, "counts that do not add up");
    s->seen = t;
    s->ended = 1;
    return 0;
}

static int on_frame(struct frame_stream *s, unsigned type, const uint8_t *payload, size_t n, struct err *e)
{
    struct reader r = reader_over(payload, n);
    s->frames++;
    switch (type) {
    case FRAME_DOCUMENT:
        return on_document(s, &r, e);
    case FRAME_BLOCK:
        return on_block(s, &r, e);
    case FRAME_WARNING:
        return on_warning(s, &r, e);
    case FRAME_PROGRESS:
        return on_progress(s, &r, e);
    case FRAME_ERROR:
        return on_error(s, &r, e);
    case FRAME_END:
        return on_end(s, &r, e);
    default:
        return broken(s, e, "an unknown frame");
    }
}

/* Takes the hello off the front of r; *more is cleared when it is not complete yet. */
static int greet(struct frame_stream *s, struct reader *r, int *more, struct err *e)
{
    if (r->left < FRAME_HELLO_BYTES) {
        *more = 0;
        return 0;
    }
    const uint8_t *magic = read_bytes(r, sizeof hello_magic);
    unsigned version = read_u16(r);
    unsigned zero = read_u16(r);
    if (memcmp(magic, hello_magic, sizeof hello_magic) != 0 || zero != 0)
        return broken(s, e, "no greeting");
    if (version != FRAME_VERSION)
        return err_set(e, ERR_CHILD,
                       "%s: lectern-ingest speaks version %u, not %d; install both programs together",
                       s->name, version, FRAME_VERSION);
    s->greeted = 1;
    return 0;
}

/* Takes one whole frame off the front of r; *more is cleared when it is not complete yet. */
static int next_frame(struct frame_stream *s, struct reader *r, int *more, struct err *e)
{
    if (s->ended)
        return broken(s, e, "bytes after the end");
    struct reader look = *r;
    unsigned type = read_u8(&look);
    size_t n = read_u32(&look);
    /* Before its payload is waited for: a length must not make us collect more than one frame. */
    if (!look.bad && n > FRAME_PAYLOAD_MAX)
        return broken(s, e, "an oversized frame");
    const uint8_t *payload = read_bytes(&look, n);
    if (!payload) {
        *more = 0;
        return 0;
    }
    *r = look;
    return on_frame(s, type, payload, n, e);
}

int frame_stream_feed(struct frame_stream *s, const void *bytes, size_t n, struct err *e)
{
    buf_add(&s->pending, bytes, n);
    if (s->pending.failed)
        return err_memory(e, "a frame of lectern-ingest");
    struct reader r = reader_over(s->pending.data, s->pending.len);
    int rc = 0, more = 1;
    while (!rc && more && r.left)
        rc = s->greeted ? next_frame(s, &r, &more, e) : greet(s, &r, &more, e);
    if (rc)
        return rc;
    memmove(s->pending.data, r.at, r.left);
    s->pending.len = r.left;
    return 0;
}

int frame_stream_finish(const struct frame_stream *s, struct err *e)
{
    if (s->verdict)
        return err_set(e, (enum err_code)s->verdict, "%s", s->verdict_text.data);
    if (!s->ended)
        return err_set(e, ERR_CHILD, "%s: lectern-ingest stopped before the end", s->name);
    if (s->pending.len)
        return broken(s, e, "bytes after the end");
    return 0;
}
