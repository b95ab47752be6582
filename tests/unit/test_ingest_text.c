/* SPDX-License-Identifier: Apache-2.0 */
/* test_ingest_text.c - UTF-8 repair and cutting text into blocks: every block is held against its source
 * bytes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "ingest/text_cut.h"
#include "ingest/utf8_repair.h"

#define FFFD "\xef\xbf\xbd"

static void repaired(const char *in, size_t n, const char *want, uint64_t count)
{
    struct buf out = {0};
    assert_int_equal(utf8_repair(&out, in, n), count);
    assert_int_equal(out.len, strlen(want));
    assert_memory_equal(out.data, want, out.len);
    assert_int_equal(utf8_valid_prefix(out.data, out.len), out.len);
    buf_free(&out);
}

#define REPAIRED(in, want, count) repaired(in, sizeof(in) - 1, want, count)

static void test_repair_maximal_subparts(void **state)
{
    (void)state;
    REPAIRED("plain ascii, longer than a word", "plain ascii, longer than a word", 0);
    REPAIRED("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", 0);
    /* Unicode 3.9, tables 3-8 to 3-11 */
    REPAIRED("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A", 8);
    REPAIRED("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", FFFD FFFD FFFD FFFD FFFD FFFD FFFD FFFD "A", 8);
    REPAIRED("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", FFFD FFFD FFFD FFFD FFFD "A" FFFD FFFD "B", 7);
    REPAIRED("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", FFFD FFFD FFFD FFFD "A", 4);
    REPAIRED("end\xf0\x9f\x98", "end" FFFD, 1);
    REPAIRED("\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf", 0); /* U+10FFFF */
    REPAIRED("\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80", 0);
}

static void label(const char *in, size_t limit, const char *want)
{
    struct buf out = {0};
    utf8_clean_label(&out, in, limit);
    assert_string_equal(out.data, want);
    buf_free(&out);
}

static void test_clean_label(void **state)
{
    (void)state;
    label("", 10, "");
    label("a\x1b[2Jb\n\x7f\xc2\x9b", 100, "a" FFFD "[2Jb" FFFD FFFD FFFD);
    label("\xc3\xa4\xc3\xb6\xc3\xbc", 5, "\xc3\xa4\xc3\xb6"); /* never half a character */
    label("bad\xff", 100, "bad" FFFD);
    label("bad\xff", 5, "bad");
}

/* Collects blocks; checks each against the source at once. */
struct seen {
    const uint8_t *source;
    size_t n;
    struct buf text;
    size_t blocks, exact, crlf, whole, biggest;
    uint64_t covered; /* end of the last block's source bytes */
    uint64_t lines;
    int stop_at;
};

/* The source range as a block of these flags must show it. */
static void expected_text(struct buf *out, const uint8_t *p, size_t n)
{
    struct buf lf = {0};
    for (size_t i = 0; i < n; i++)
        if (!(p[i] == '\r' && i + 1 < n && p[i + 1] == '\n'))
            buf_putc(&lf, p[i]);
    utf8_repair(out, lf.data ? lf.data : "", lf.len);
    buf_free(&lf);
}

static int collect(void *arg, const struct ingest_block *b, struct err *e)
{
    struct seen *s = arg;
    (void)e;
    assert_true(b->n >= 1 && b->n <= INGEST_BLOCK_MAX);
    assert_int_equal(b->text[b->n], 0);
    assert_int_equal(utf8_valid_prefix(b->text, b->n), b->n);
    assert_int_equal(b->line_first, s->lines + 1);
    assert_true(b->byte_first == s->covered || (s->covered == 0 && b->byte_first == 3));
    assert_true(b->byte_len >= 1 && b->byte_first + b->byte_len <= s->n);
    struct buf want = {0};
    expected_text(&want, s->source + b->byte_first, b->byte_len);
    assert_int_equal(want.len, b->n);
    assert_memory_equal(want.data, b->text, b->n);
    buf_free(&want);
    if (b->flags == INGEST_EXACT) {
        assert_int_equal(b->byte_len, b->n);
        assert_memory_equal(b->text, s->source + b->byte_first, b->n);
    }
    uint64_t newlines = 0;
    for (size_t i = 0; i < b->n; i++)
        newlines += b->text[i] == '\n';
    if (b->flags == INGEST_CRLF)
        assert_int_equal(b->byte_len, b->n + newlines);
    s->exact += b->flags == INGEST_EXACT;
    s->crlf += b->flags == INGEST_CRLF;
    s->whole += b->flags == 0;
    s->lines += newlines;
    s->covered = b->byte_first + b->byte_len;
    s->biggest = b->n > s->biggest ? b->n : s->biggest;
    s->blocks++;
    buf_add(&s->text, b->text, b->n);
    return s->stop_at && (int)s->blocks == s->stop_at ? ERR_CANCELLED : 0;
}

static struct text_cut_result cut(struct seen *s, const void *bytes, size_t n)
{
    struct ingest_block like = {.file = "f", .page_index = -1, .page_label = ""};
    struct text_cut_result result;
    struct err e = {0};
    s->source = bytes;
    s->n = n;
    assert_int_equal(text_cut(bytes, n, &like, collect, s, &result, &e), 0);
    assert_int_equal(result.lines, s->lines);
    if (s->blocks)
        assert_int_equal(s->covered, n); /* no byte is lost */
    return result;
}

static void test_small_texts(void **state)
{
    (void)state;
    static const struct {
        const char *in, *want;
        size_t exact, crlf, whole;
        uint64_t replaced;
        int ends_in_line;
    } cases[] = {
        {"", "", 0, 0, 0, 0, 0},
        {"\xef\xbb\xbf", "", 0, 0, 0, 0, 0},
        {"one", "one", 1, 0, 0, 0, 1},
        {"one\n", "one\n", 1, 0, 0, 0, 0},
        {"\xef\xbb\xbfone\ntwo", "one\ntwo", 1, 0, 0, 0, 1},
        {"\n\n\n", "\n\n\n", 1, 0, 0, 0, 0},
        {"a\r\nb\r\n", "a\nb\n", 0, 1, 0, 0, 0},
        {"a\r\nb", "a\nb", 0, 1, 0, 0, 1},
        {"a\r\nb\nc\r\n", "a\nb\nc\n", 1, 2, 0, 0, 0},
        {"a\rb\n", "a\rb\n", 1, 0, 0, 0, 0},
        {"\r\n", "\n", 0, 1, 0, 0, 0},
        {"\r", "\r", 1, 0, 0, 0, 1},
        {"good\nb\xff"
         "d\r\ngood\n",
         "good\nb" FFFD "d\ngood\n", 2, 0, 1, 1, 0},
        {"\xff\n\xff\n", FFFD "\n" FFFD "\n", 0, 0, 2, 2, 0},
        {"half \xe2\x82", "half " FFFD, 0, 0, 1, 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct seen s = {0};
        struct text_cut_result r = cut(&s, cases[i].in, strlen(cases[i].in));
        assert_string_equal(s.text.data ? s.text.data : "", cases[i].want);
        assert_int_equal(s.exact, cases[i].exact);
        assert_int_equal(s.crlf, cases[i].crlf);
        assert_int_equal(s.whole, cases[i].whole);
        assert_int_equal(r.replaced, cases[i].replaced);
        assert_int_equal(r.ends_in_line, cases[i].ends_in_line);
        buf_free(&s.text);
    }
}

/* One line of three-byte characters, at every alignment: cut between characters, nothing replaced. */
static void test_long_line(void **state)
{
    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        struct buf in = {0};
        for (size_t i = 0; i < shift; i++)
            buf_putc(&in, 'x');
        while (in.len < 3 * INGEST_BLOCK_MAX)
            buf_puts(&in, "\xe2\x82\xac");
        buf_puts(&in, "\r\nlast\r\n");
        struct seen s = {0};
        struct text_cut_result r = cut(&s, in.data, in.len);
        assert_int_equal(r.replaced, 0);
        assert_int_equal(r.lines, 2);
        assert_true(s.blocks >= 3);
        assert_true(s.biggest > INGEST_BLOCK_MAX / 2);
        buf_free(&s.text);
        buf_free(&in);
    }
}

/* "\r\n" across the edge of a piece stays one line end; stray continuation bytes across it stay bounded. */
static void test_edges_of_pieces(void **state)
{
    (void)state;
    for (size_t before = TEXT_PIECE_MAX - 5; before <= TEXT_PIECE_MAX + 1; before++) {
        struct buf in = {0};
        for (size_t i = 0; i < before; i++)
            buf_putc(&in, 'x');
        buf_puts(&in, "\r\ny\n");
        struct seen s = {0};
        struct text_cut_result r = cut(&s, in.data, in.len);
        assert_int_equal(r.lines, 2);
        assert_int_equal(s.text.len, before + 3);
        buf_free(&s.text);
        buf_clear(&in);
        for (size_t i = 0; i < before; i++)
            buf_putc(&in, 'x');
        buf_puts(&in, "\xf0\x9f\x98\x80\x80\x80\x80 end");
        struct seen t = {0};
        r = cut(&t, in.data, in.len);
        assert_int_equal(r.replaced, 3);
        buf_free(&t.text);
        buf_free(&in);
    }
    char *bad = malloc(4 * INGEST_BLOCK_MAX);
    assert_non_null(bad);
    memset(bad, 0x80, 4 * INGEST_BLOCK_MAX);
    struct seen s = {0};
    struct text_cut_result r = cut(&s, bad, 4 * INGEST_BLOCK_MAX);
    assert_int_equal(r.replaced, 4 * INGEST_BLOCK_MAX);
    buf_free(&s.text);
    free(bad);
}

/* Line ends that change at every line: exact until the bound on changes, then ranges; never more blocks. */
static void test_many_switches(void **state)
{
    (void)state;
    struct buf in = {0};
    for (uint32_t i = 0; i < TEXT_SWITCHES_MAX + 50000; i++)
        buf_puts(&in, i % 2 ? "a\r\n" : "b\n");
    struct seen s = {0};
    struct text_cut_result r = cut(&s, in.data, in.len);
    assert_int_equal(r.lines, TEXT_SWITCHES_MAX + 50000);
    assert_true(s.blocks <= TEXT_SWITCHES_MAX + 2);
    assert_int_equal(s.whole, 1);
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

static void test_random_texts(void **state)
{
    (void)state;
    static const char *const parts[] = {
        "word ", "\n",       "\r\n", "\r",           "\xc3\xa4", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
        "\xff",  "\xe2\x82", "\x80", "\xef\xbb\xbf", "\x1b[0m"};
    uint32_t x = 2463534242u;
    for (int round = 0; round < 2000; round++) {
        struct buf in = {0};
        buf_add(&in, "", 0);
        uint32_t kinds = 1 + next_random(&x) % 12;
        for (uint32_t i = next_random(&x) % 200; i; i--)
            buf_puts(&in, parts[next_random(&x) % kinds]);
        struct seen s = {0};
        cut(&s, in.data, in.len);
        buf_free(&s.text);
        buf_free(&in);
    }
}

static void test_emit_stops(void **state)
{
    (void)state;
    const char *in = "a\nb\r\nc\n";
    struct seen s = {.source = (const uint8_t *)in, .n = strlen(in), .stop_at = 2};
    struct ingest_block like = {.file = "f", .page_index = -1, .page_label = ""};
    struct text_cut_result result;
    struct err e = {0};
    assert_int_equal(text_cut(s.source, s.n, &like, collect, &s, &result, &e), ERR_CANCELLED);
    assert_int_equal(s.blocks, 2);
    buf_free(&s.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repair_maximal_subparts),
        cmocka_unit_test(test_clean_label),
        cmocka_unit_test(test_small_texts),
        cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_edges_of_pieces),
        cmocka_unit_test(test_many_switches),
        cmocka_unit_test(test_random_texts),
        cmocka_unit_test(test_emit_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
