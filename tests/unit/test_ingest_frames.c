/* SPDX-License-Identifier: Apache-2.0 */
/* test_ingest_frames.c - the frame stream against senders that are wrong in every way we can think of. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "ingest/frame.h"
#include "ingest/utf8_repair.h"

/* Checks what every sink may rely on, whatever the sender does. */
struct seen {
    struct buf text;
    uint32_t pages, documents, blocks, warnings, progress;
    int32_t last_page;
    int stop;
};

static void clean(const char *s)
{
    size_t n = strlen(s);
    assert_true(n <= FRAME_STRING_MAX);
    assert_int_equal(utf8_valid_prefix(s, n), n);
    for (size_t i = 0; i < n; i++)
        assert_true((unsigned char)s[i] >= 0x20 && s[i] != 0x7f);
}

static int on_document(void *arg, const struct ingest_document *d, struct err *e)
{
    struct seen *s = arg;
    (void)e;
    assert_int_equal(s->documents, 0);
    clean(d->kind);
    clean(d->title);
    clean(d->author);
    s->documents++;
    s->pages = d->pages;
    s->last_page = -1;
    return 0;
}

static int on_block(void *arg, const struct ingest_block *b, struct err *e)
{
    struct seen *s = arg;
    assert_int_equal(s->documents, 1);
    assert_true(b->n >= 1 && b->n <= INGEST_BLOCK_MAX && b->line_first >= 1);
    assert_int_equal(strlen(b->text), b->n);
    assert_int_equal(utf8_valid_prefix(b->text, b->n), b->n);
    clean(b->file);
    clean(b->page_label);
    if (s->pages)
        assert_true(b->page_index >= 0 && (uint32_t)b->page_index < s->pages);
    else
        assert_int_equal(b->page_index, -1);
    assert_true(b->page_index >= s->last_page);
    assert_true(b->byte_first <= UINT64_MAX - b->byte_len);
    s->last_page = b->page_index;
    s->blocks++;
    buf_add(&s->text, b->text, b->n);
    return s->stop ? err_set(e, ERR_BUSY, "the sink has enough") : 0;
}

static void on_warning(void *arg, const char *line)
{
    struct seen *s = arg;
    clean(line);
    s->warnings++;
}

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct seen *s = arg;
    assert_true(total == 0 || done <= total);
    s->progress++;
}

static struct ingest_sink sink_of(struct seen *s)
{
    return (struct ingest_sink){
        .arg = s, .document = on_document, .block = on_block, .warning = on_warning, .progress = on_progress};
}

/* Feeds all in chunks of `chunk` bytes, each in memory of its own size. */
static int feed(const void *bytes, size_t n, size_t chunk, const struct ingest_limits *limits, struct seen *s,
                struct err *e)
{
    struct ingest_sink sink = sink_of(s);
    struct ingest_limits none = {0};
    struct frame_stream stream;
    frame_stream_init(&stream, "book.pdf", &sink, limits ? limits : &none);
    int rc = 0;
    for (size_t at = 0; !rc && at < n; at += chunk) {
        size_t size = n - at < chunk ? n - at : chunk;
        char *copy = malloc(size);
        assert_non_null(copy);
        memcpy(copy, (const char *)bytes + at, size);
        rc = frame_stream_feed(&stream, copy, size, e);
        free(copy);
    }
    if (!rc)
        rc = frame_stream_finish(&stream, e);
    frame_stream_fini(&stream);
    if (rc) {
        assert_int_equal(e->code, rc);
        assert_null(strchr(e->text, '\n'));
        assert_true(strlen(e->text) > 0);
    }
    return rc;
}

static void put_page(struct buf *out, int32_t page, const char *label, const char *text)
{
    struct ingest_block b = {.text = text,
                             .n = strlen(text),
                             .file = "book.pdf",
                             .page_index = page,
                             .page_label = label,
                             .line_first = 1};
    frame_put_block(out, &b);
}

static void put_head(struct buf *out, uint32_t pages)
{
    struct ingest_document d = {.kind = pages ? "pdf" : "text",
                                .title = "T\xc3\xa4",
                                .author = "A",
                                .pages = pages,
                                .source_bytes = 99};
    frame_put_document(out, &d);
}

static struct buf good_stream(void)
{
    struct buf out = {0};
    frame_put_hello(&out);
    frame_put_warning(&out, "early");
    put_head(&out, 3);
    put_page(&out, 0, "i", "one \xe2\x82\xac\n\n");
    frame_put_progress(&out, 1, 3);
    put_page(&out, 0, "i", "still one\n\n");
    put_page(&out, 2, "1", "three\n\n");
    frame_put_warning(&out, "1 of 3 pages has no text layer");
    struct ingest_totals t = {.text_bytes = strlen("one \xe2\x82\xac\n\nstill one\n\nthree\n\n"),
                              .blocks = 3,
                              .pages_without_text = 1,
                              .files = 1};
    frame_put_end(&out, &t);
    return out;
}

static void test_good_stream_any_chunks(void **state)
{
    (void)state;
    struct buf in = good_stream();
    for (size_t chunk = 1; chunk <= in.len; chunk++) {
        struct seen s = {0};
        struct err e = {0};
        assert_int_equal(feed(in.data, in.len, chunk, NULL, &s, &e), 0);
        assert_string_equal(s.text.data, "one \xe2\x82\xac\n\nstill one\n\nthree\n\n");
        assert_int_equal(s.blocks, 3);
        assert_int_equal(s.warnings, 2);
        assert_int_equal(s.progress, 1);
        buf_free(&s.text);
    }
    buf_free(&in);
}

static void test_truncated_everywhere(void **state)
{
    (void)state;
    struct buf in = good_stream();
    for (size_t n = 0; n < in.len; n++) {
        struct seen s = {0};
        struct err e = {0};
        assert_int_equal(feed(in.data, n, 7, NULL, &s, &e), ERR_CHILD);
        assert_non_null(strstr(e.text, "book.pdf"));
        buf_free(&s.text);
    }
    buf_free(&in);
}

/* Feeds hello + what `more` holds and frees it. */
static void refused(struct buf *more, int code)
{
    struct buf in = {0};
    frame_put_hello(&in);
    buf_add(&in, more->data, more->len);
    struct seen s = {0};
    struct err e = {0};
    assert_int_equal(feed(in.data, in.len, 1000, NULL, &s, &e), code);
    assert_non_null(strstr(e.text, "book.pdf"));
    buf_free(&s.text);
    buf_free(&in);
    buf_free(more);
}

static void test_wrong_hello(void **state)
{
    (void)state;
    static const char *const hellos[] = {"LCTX\1\0\0\0", "LCTI\2\0\0\0", "LCTI\1\0\1\0", "Hello, world"};
    for (size_t i = 0; i < 4; i++) {
        struct seen s = {0};
        struct err e = {0};
        assert_int_equal(feed(hellos[i], 8, 3, NULL, &s, &e), ERR_CHILD);
    }
}

static void test_wrong_order(void **state)
{
    (void)state;
    struct buf b = {0};
    put_page(&b, -1, "", "text");
    refused(&b, ERR_CHILD); /* block before document */
    put_head(&b, 3);
    put_head(&b, 3);
    refused(&b, ERR_CHILD); /* two documents */
    put_head(&b, 3);
    put_page(&b, 1, "", "a");
    put_page(&b, 0, "", "b");
    refused(&b, ERR_CHILD); /* pages backwards */
    put_head(&b, 3);
    put_page(&b, 3, "", "a");
    refused(&b, ERR_CHILD); /* page 4 of 3 */
    put_head(&b, 3);
    put_page(&b, -1, "", "a");
    refused(&b, ERR_CHILD); /* no page in a paged document */
    put_head(&b, 3);
    put_page(&b, INT32_MIN, "", "a");
    refused(&b, ERR_CHILD);
    put_head(&b, 0);
    put_page(&b, 0, "", "a");
    refused(&b, ERR_CHILD); /* a page in a document without pages */
    struct ingest_totals t = {0};
    frame_put_end(&b, &t);
    refused(&b, ERR_CHILD); /* end without document */
    put_head(&b, 0);
    frame_put_end(&b, &t);
    frame_put_warning(&b, "afterwards");
    refused(&b, ERR_CHILD); /* a frame after the end */
    put_head(&b, 0);
    t.blocks = 1;
    frame_put_end(&b, &t);
    refused(&b, ERR_CHILD); /* counts that do not add up */
    t = (struct ingest_totals){.pages_without_text = 4};
    put_head(&b, 3);
    frame_put_end(&b, &t);
    refused(&b, ERR_CHILD);
}

static void test_wrong_sizes(void **state)
{
    (void)state;
    struct buf b = {0};
    put_u8(&b, FRAME_WARNING);
    put_u32(&b, (uint32_t)FRAME_PAYLOAD_MAX + 1);
    refused(&b, ERR_CHILD); /* at once, no payload is waited for */
    put_u8(&b, FRAME_BLOCK);
    put_u32(&b, UINT32_MAX);
    refused(&b, ERR_CHILD);
    put_u8(&b, 99);
    put_u32(&b, 0);
    refused(&b, ERR_CHILD);
    put_head(&b, 0);
    char *big = malloc(INGEST_BLOCK_MAX + 2);
    assert_non_null(big);
    memset(big, 'x', INGEST_BLOCK_MAX + 1);
    big[INGEST_BLOCK_MAX + 1] = '\0';
    put_page(&b, -1, "", big);
    refused(&b, ERR_CHILD); /* a block larger than blocks are */
    put_head(&b, 0);
    put_page(&b, -1, "", "");
    refused(&b, ERR_CHILD); /* and one of nothing */
    big[5000] = '\0';
    frame_put_warning(&b, big);
    refused(&b, ERR_CHILD);
    put_head(&b, 0);
    b.data[1]++; /* one byte more in the payload than the fields hold */
    buf_putc(&b, 0);
    refused(&b, ERR_CHILD);
    free(big);
}

static void put_flagged(struct buf *b, unsigned flags, uint64_t first, uint64_t length, uint32_t line)
{
    struct ingest_block k = {.text = "a\nb\n",
                             .n = 4,
                             .file = "f",
                             .page_index = -1,
                             .page_label = "",
                             .line_first = line,
                             .byte_first = first,
                             .byte_len = length,
                             .flags = flags};
    put_head(b, 0);
    frame_put_block(b, &k);
}

static void test_wrong_contents(void **state)
{
    (void)state;
    struct buf b = {0};
    frame_put_warning(&b, "bad \xff");
    refused(&b, ERR_CHILD);
    frame_put_warning(&b, "esc \x1b[2J");
    refused(&b, ERR_CHILD);
    frame_put_warning(&b, "csi \xc2\x9b"
                          "2J");
    refused(&b, ERR_CHILD);
    frame_put_progress(&b, 2, 1);
    refused(&b, ERR_CHILD);
    put_head(&b, 1);
    put_page(&b, 0, "1\n2", "text");
    refused(&b, ERR_CHILD);
    put_head(&b, 1);
    put_page(&b, 0, "1", "text \xe2\x82");
    refused(&b, ERR_CHILD);
    struct ingest_block nul = {
        .text = "a\0b", .n = 3, .file = "f", .page_index = -1, .page_label = "", .line_first = 1};
    put_head(&b, 0);
    frame_put_block(&b, &nul);
    refused(&b, ERR_CHILD);
    struct ingest_document d = {.kind = "spell", .title = "", .author = ""};
    frame_put_document(&b, &d);
    refused(&b, ERR_CHILD);
    put_flagged(&b, INGEST_EXACT, 0, 5, 1);
    refused(&b, ERR_CHILD);
    put_flagged(&b, INGEST_CRLF, 0, 9, 1);
    refused(&b, ERR_CHILD);
    put_flagged(&b, INGEST_MADE, 0, 1, 1);
    refused(&b, ERR_CHILD);
    put_flagged(&b, 8, 0, 4, 1);
    refused(&b, ERR_CHILD);
    put_flagged(&b, 0, UINT64_MAX, 1, 1);
    refused(&b, ERR_CHILD);
    put_flagged(&b, 0, 0, 1, 0);
    refused(&b, ERR_CHILD);
}

static void test_verdicts(void **state)
{
    (void)state;
    struct buf b = {0};
    frame_put_error(&b, ERR_FORMAT, "book.pdf is damaged");
    refused(&b, ERR_FORMAT);
    put_head(&b, 0);
    frame_put_error(&b, ERR_UNSUPPORTED, "book.pdf is encrypted");
    refused(&b, ERR_UNSUPPORTED);
    frame_put_error(&b, ERR_FORMAT, "book.pdf is damaged");
    frame_put_error(&b, ERR_FORMAT, "book.pdf is damaged");
    refused(&b, ERR_CHILD);
    frame_put_error(&b, ERR_CANCELLED, "not for a parser to say");
    refused(&b, ERR_CHILD);
    frame_put_error(&b, ERR_NONE, "");
    refused(&b, ERR_CHILD);
    frame_put_error(&b, (enum err_code)200, "");
    refused(&b, ERR_CHILD);
}

static void test_limits(void **state)
{
    (void)state;
    struct buf in = good_stream();
    const struct ingest_limits limits[] = {{.text_bytes = 20}, {.blocks = 2}, {.warnings = 1}};
    for (size_t i = 0; i < 3; i++) {
        struct seen s = {0};
        struct err e = {0};
        assert_int_equal(feed(in.data, in.len, 64, &limits[i], &s, &e), ERR_LIMIT);
        assert_non_null(strstr(e.text, "book.pdf"));
        assert_true(s.text.len <= 20 || limits[i].text_bytes != 20);
        buf_free(&s.text);
    }
    const struct ingest_limits enough = {.text_bytes = 28, .blocks = 3, .warnings = 2};
    struct seen s = {0};
    struct err e = {0};
    assert_int_equal(feed(in.data, in.len, 64, &enough, &s, &e), 0);
    buf_free(&s.text);
    s = (struct seen){.stop = 1};
    assert_int_equal(feed(in.data, in.len, 64, NULL, &s, &e), ERR_BUSY);
    assert_int_equal(s.blocks, 1);
    buf_free(&s.text);
    buf_free(&in);
}

static uint32_t next_random(uint32_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 17;
    *x ^= *x << 5;
    return *x;
}

/* Damages a stream in one to four places: bytes changed, removed, doubled or added. */
static void mutate(struct buf *b, uint32_t *x)
{
    for (uint32_t k = 1 + next_random(x) % 4; k && b->len > 16; k--) {
        size_t at = next_random(x) % b->len;
        size_t n = 1 + next_random(x) % 9;
        n = n < b->len - at ? n : b->len - at;
        switch (next_random(x) % 5) {
        case 0:
            b->data[at] = (char)next_random(x);
            break;
        case 1:
            b->data[at] = (char)(b->data[at] ^ (1 << next_random(x) % 8));
            break;
        case 2:
            memmove(b->data + at, b->data + at + n, b->len - at - n);
            b->len -= n;
            break;
        case 3:
            buf_reserve(b, n);
            memmove(b->data + at + n, b->data + at, b->len - at);
            b->len += n;
            break;
        default:
            b->len = at + 1;
            break;
        }
    }
}

static void test_fuzz(void **state)
{
    (void)state;
    struct buf good = good_stream();
    uint32_t x = 88172645u;
    size_t whole = 0;
    for (int round = 0; round < 20000; round++) {
        struct buf b = {0};
        buf_add(&b, good.data, good.len);
        mutate(&b, &x);
        struct seen s = {0};
        struct err e = {0};
        int rc = feed(b.data, b.len, 1 + next_random(&x) % 100, NULL, &s, &e);
        whole += rc == 0;
        buf_free(&s.text);
        buf_free(&b);
    }
    assert_true(whole < 10000); /* most damage is noticed; a changed letter of text is not */
    buf_free(&good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_stream_any_chunks),
        cmocka_unit_test(test_truncated_everywhere),
        cmocka_unit_test(test_wrong_hello),
        cmocka_unit_test(test_wrong_order),
        cmocka_unit_test(test_wrong_sizes),
        cmocka_unit_test(test_wrong_contents),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
