/* SPDX-License-Identifier: Apache-2.0 */
/* test_ui_wrap.c - lines fit, break where they may, and lose nothing but white space. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/base/buf.h"
#include "ui/filter.h"
#include "ui/wrap.h"

/* `expected` has the lines joined by '|'. */
static void expect(const char *text, int columns, const char *expected)
{
    struct wrap w = {0};
    struct buf b = {0};
    assert_int_equal(wrap_text(&w, text, strlen(text), columns), 0);
    for (size_t i = 0; i < w.n; i++) {
        if (i)
            buf_putc(&b, '|');
        buf_add(&b, text + w.lines[i].first, w.lines[i].last - w.lines[i].first);
    }
    assert_string_equal(b.data ? b.data : "", expected);
    buf_free(&b);
    wrap_free(&w);
}

static void test_words(void **state)
{
    (void)state;
    expect("", 10, "");
    expect("one", 10, "one");
    expect("one two three", 7, "one two|three");
    expect("one two three", 8, "one two|three");
    expect("one two  three", 7, "one two|three");
    expect("one two three", 3, "one|two|thr|ee");
    expect("abcdefgh", 3, "abc|def|gh");
    expect("a abcdefgh b", 4, "a|abcd|efgh|b");
    expect("one\ntwo", 10, "one|two");
    expect("one\r\n\r\ntwo\n", 10, "one||two");
    expect("  indented text", 10, "  indented|text");
    expect("          x", 4, "    |    |  x");
    expect("well-known fact", 6, "well-|known|fact");
    expect("-5 -6 -7", 3, "-5|-6|-7");
    expect("a/long/path", 7, "a/long/|path");
    expect("x", 0, "x"); /* nonsense widths are one column */
}

static void test_wide(void **state)
{
    (void)state;
    expect("\xE4\xBD\xA0\xE5\xA5\xBD\xE5\x90\x97", 4, "\xE4\xBD\xA0\xE5\xA5\xBD|\xE5\x90\x97");
    expect("\xE4\xBD\xA0\xE5\xA5\xBD", 3, "\xE4\xBD\xA0|\xE5\xA5\xBD");
    expect("\xE4\xBD\xA0\xE5\xA5\xBD", 1, "\xE4\xBD\xA0|\xE5\xA5\xBD"); /* wider than the line: one each */
    expect("ab\xE4\xBD\xA0"
           "cd",
           4, "ab\xE4\xBD\xA0|cd");
    /* the full stop does not begin a line: the ideograph before it comes along */
    expect("\xE4\xBD\xA0\xE5\xA5\xBD\xE3\x80\x82", 4, "\xE4\xBD\xA0|\xE5\xA5\xBD\xE3\x80\x82");
    expect("e\xCC\x81"
           "e\xCC\x81"
           "e\xCC\x81",
           2,
           "e\xCC\x81"
           "e\xCC\x81|e\xCC\x81"); /* marks stay */
}

/* Over random text at every width: lines are in order, fit, and everything between them is white space. */
static void test_invariants(void **state)
{
    (void)state;
    static const char *const parts[] = {"a",
                                        "word",
                                        " ",
                                        "  ",
                                        "\n",
                                        "\t",
                                        "-",
                                        "\xE4\xBD\xA0",
                                        "\xCC\x81",
                                        "\033",
                                        "\xFF",
                                        "/",
                                        "\xF0\x9F\x98\x80",
                                        "\xC2\xAD",
                                        "longerword",
                                        "\r\n",
                                        "\xE3\x80\x82"};
    uint32_t seed = 7;
    for (int round = 0; round < 3000; round++) {
        struct buf b = {0};
        struct wrap w = {0};
        for (int i = 0; i < 30; i++) {
            seed = seed * 1664525u + 1013904223u;
            buf_puts(&b, parts[(seed >> 16) % (sizeof parts / sizeof *parts)]);
        }
        int columns = 1 + (int)(seed >> 8) % 20;
        assert_int_equal(wrap_text(&w, b.data, b.len, columns), 0);
        size_t end = 0;
        for (size_t i = 0; i <= w.n; i++) {
            size_t next = i < w.n ? w.lines[i].first : b.len;
            assert_true(next >= end);
            struct glyph g = {0};
            for (size_t k = end; k < next; k += g.bytes) {
                filter_glyph(b.data + k, next - k, &g);
                assert_true(g.width == 0 || g.newline || g.codepoint == '\t' || strcmp(g.text, " ") == 0);
            }
            if (i == w.n)
                break;
            end = w.lines[i].last;
            assert_true(end >= next);
            size_t width = 0, glyphs = 0;
            for (size_t k = next; k < end; k += g.bytes) {
                filter_glyph(b.data + k, end - k, &g);
                if (g.codepoint == '\t' || strcmp(g.text, " ") == 0)
                    continue;
                width = filter_width(b.data + next, k + g.bytes - next);
                glyphs += g.width > 0;
            }
            assert_true(width <= (size_t)columns || glyphs <= 1);
        }
        buf_free(&b);
        wrap_free(&w);
    }
}

/* A megabyte without a space, and one with: both in linear time. */
static void test_large(void **state)
{
    (void)state;
    size_t n = 1 << 20;
    char *text = malloc(n);
    assert_non_null(text);
    struct wrap w = {0};
    memset(text, 'x', n);
    assert_int_equal(wrap_text(&w, text, n, 64), 0);
    assert_int_equal(w.n, n / 64);
    memset(text, ' ', n);
    assert_int_equal(wrap_text(&w, text, n, 64), 0);
    assert_true(w.n > 0);
    wrap_free(&w);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_invariants),
        cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests_name("ui wrap", tests, NULL, NULL);
}
