/* SPDX-License-Identifier: Apache-2.0 */
/* test_ui_filter.c - nothing that a terminal obeys gets through, and widths are what the screen needs. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ui/filter.h"
#include "ui/frame.h"
#include "ui/human.h"

static void expect(const char *in, size_t n, const char *out)
{
    struct buf b = {0};
    assert_int_equal(filter_text(&b, in, n, 1), n);
    assert_string_equal(b.data ? b.data : "", out);
    buf_free(&b);
}

#define EXPECT(in, out) expect(in, sizeof(in) - 1, out)
#define FFFD "\xEF\xBF\xBD"

static void test_controls(void **state)
{
    (void)state;
    EXPECT("plain text", "plain text");
    EXPECT("a\033[2Jb", "a^[[2Jb");
    EXPECT("\033]0;title\007", "^[]0;title^G");
    EXPECT("nul\0nul", "nul^@nul");
    EXPECT("del\x7F", "del^?");
    EXPECT("a\tb\nc", "a\tb\nc");
    EXPECT("a\r\nb\rc", "a\nb^Mc");
    EXPECT("c1 \xC2\x9B"
           "31m",
           "c1 " FFFD "31m"); /* U+009B is CSI in eight bits */
    EXPECT("\x9B"
           "31m",
           FFFD "31m"); /* and as a lone byte */
    EXPECT("bidi \xE2\x80\xAE"
           "abc\xE2\x80\xAC",
           "bidi " FFFD "abc" FFFD);
    EXPECT("\xE2\x81\xA6x\xE2\x81\xA9", FFFD "x" FFFD);         /* isolates */
    EXPECT("\xD8\x9C\xE2\x80\x8E\xE2\x80\x8F", FFFD FFFD FFFD); /* ALM, LRM, RLM */
    EXPECT("\xF3\xA0\x81\x81", FFFD);                           /* a tag */
    EXPECT("\xEE\x80\x80", FFFD);                               /* private use */
    EXPECT("so\xC2\xAD" "ft", "soft");
    EXPECT("\xEF\xBB\xBF"
           "bom",
           "bom");
    EXPECT("l\xE2\x80\xA8p\xE2\x80\xA9q", "l\np\nq");
}

static void test_bad_utf8(void **state)
{
    (void)state;
    EXPECT("\xC0\xAF", FFFD FFFD);          /* overlong */
    EXPECT("\xED\xA0\x80", FFFD FFFD FFFD); /* a surrogate */
    EXPECT("\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD);
    EXPECT("a\xE4\xBD", "a" FFFD FFFD); /* cut short */
    EXPECT("\xFF\xFE", FFFD FFFD);
    EXPECT("gr\xC3\xBC\xC3\x9F", "gr\xC3\xBC\xC3\x9F");
}

/* Any split of a stream gives the same as the whole. */
static void test_stream(void **state)
{
    (void)state;
    const char text[] = "a\xE4\xBD\xA0\xF0\x9F\x98\x80\r\nb\xE4\xBD\033\xC3\xBC\xF0\x9Fz";
    size_t n = sizeof text - 1;
    struct buf whole = {0};
    filter_text(&whole, text, n, 1);
    for (size_t cut = 0; cut <= n; cut++) {
        struct buf b = {0};
        size_t used = filter_text(&b, text, cut, 0);
        assert_true(used <= cut && cut - used <= 3);
        assert_int_equal(filter_text(&b, text + used, n - used, 1), n - used);
        assert_string_equal(b.data, whole.data);
        buf_free(&b);
    }
    buf_free(&whole);
}

static void test_glyphs(void **state)
{
    (void)state;
    struct glyph g;
    filter_glyph("e\xCC\x81x", 4, &g); /* e and a combining acute */
    assert_int_equal(g.bytes, 3);
    assert_int_equal(g.width, 1);
    assert_string_equal(g.text, "e\xCC\x81");
    filter_glyph("\xE4\xBD\xA0", 3, &g);
    assert_int_equal(g.width, 2);
    filter_glyph("\xCC\x81", 2, &g); /* a mark alone stands on a circle */
    assert_int_equal(g.width, 1);
    assert_string_equal(g.text, "\xE2\x97\x8C\xCC\x81");
    filter_glyph("\r\n", 2, &g);
    assert_true(g.newline && g.bytes == 2);
    filter_glyph("\033", 1, &g);
    assert_string_equal(g.text, "^[");
    assert_int_equal(g.width, 2);
    assert_int_equal(filter_width("a\xE4\xBD\xA0\xCC\x81\xC2\xAD\t", 9), 7);
    /* a tower of marks is cut into several glyphs, none larger than its cell */
    char tower[1 + 2 * 50];
    tower[0] = 'z';
    for (int i = 0; i < 50; i++)
        memcpy(tower + 1 + 2 * i, "\xCC\x81", 2);
    for (size_t at = 0; at < sizeof tower; at += g.bytes) {
        filter_glyph(tower + at, sizeof tower - at, &g);
        assert_true(g.n_text < sizeof g.text && g.bytes > 0 && g.width == 1);
    }
}

/* Random bytes: no byte below 0x20 or C1 in any glyph, everything is consumed, text and glyphs agree. */
static void test_noise(void **state)
{
    (void)state;
    uint32_t seed = 12345;
    for (int round = 0; round < 2000; round++) {
        char noise[64];
        struct buf b = {0};
        for (size_t i = 0; i < sizeof noise; i++) {
            seed = seed * 1664525u + 1013904223u;
            noise[i] = (char)(seed >> 24);
        }
        struct glyph g;
        for (size_t at = 0; at < sizeof noise; at += g.bytes) {
            filter_glyph(noise + at, sizeof noise - at, &g);
            assert_true(g.bytes >= 1 && at + g.bytes <= sizeof noise);
            for (size_t i = 0; i < g.n_text; i++)
                assert_true((unsigned char)g.text[i] >= 0x20 && g.text[i] != 0x7F);
            assert_null(strstr(g.text, "\xE2\x80\xAE"));
        }
        assert_int_equal(filter_text(&b, noise, sizeof noise, 1), sizeof noise);
        for (size_t i = 0; i < b.len; i++)
            assert_true((unsigned char)b.data[i] >= 0x20 || b.data[i] == '\n' || b.data[i] == '\t');
        buf_free(&b);
    }
}

static void test_frame(void **state)
{
    (void)state;
    struct frame f = {0};
    assert_int_equal(frame_size(&f, 2, 6), 0);
    assert_int_equal(frame_puts(&f, 0, 0, FRAME_PLAIN, "ab\xE4\xBD\xA0\xE5\xA5\xBD\xE5\x90\x97"), 6);
    assert_string_equal(f.cells[2].text, "\xE4\xBD\xA0");
    assert_int_equal(f.cells[3].width, 0);
    frame_puts(&f, 0, 3, FRAME_PLAIN, "x"); /* over the right half: the left one goes */
    assert_string_equal(f.cells[2].text, " ");
    assert_int_equal(f.cells[2].width, 1);
    frame_put(&f, 0, 4, 5, FRAME_PLAIN, "\xE4\xBD\xA0",
              3); /* does not fit: nothing is put, no half remains */
    assert_string_equal(f.cells[4].text, "\xE5\xA5\xBD");
    frame_puts(&f, 0, 4, FRAME_PLAIN, "y");
    assert_int_equal(f.cells[5].width, 1);
    frame_puts(&f, 7, 0, FRAME_PLAIN, "outside");
    frame_puts(&f, -1, 0, FRAME_PLAIN, "outside");
    frame_puts(&f, 1, 0, FRAME_PLAIN, "\033[A");
    assert_string_equal(f.cells[6].text, "^");
    assert_string_equal(f.cells[7].text, "[");
    frame_free(&f);
}

static void expect_human(void (*write)(struct buf *, uint64_t), uint64_t n, const char *text)
{
    struct buf b = {0};
    write(&b, n);
    assert_string_equal(b.data, text);
    buf_free(&b);
}

static void test_human(void **state)
{
    (void)state;
    expect_human(human_count, 0, "0");
    expect_human(human_count, 999, "999");
    expect_human(human_count, 1234567, "1,234,567");
    expect_human(human_count, UINT64_MAX, "18,446,744,073,709,551,615");
    expect_human(human_bytes, 999, "999 B");
    expect_human(human_bytes, 1000, "1.0 kB");
    expect_human(human_bytes, 45234567, "45.2 MB");
    expect_human(human_bytes, 999999, "999 kB");
    expect_human(human_bytes, UINT64_MAX, "18.4 EB");
    struct buf b = {0};
    human_duration(&b, 32.4);
    human_duration(&b, 3725);
    human_duration(&b, -1.0);
    assert_string_equal(b.data, "0:321:02:050:00");
    buf_clear(&b);
    human_when(&b, 0, 100);
    assert_string_equal(b.data, "never");
    buf_clear(&b);
    human_when(&b, 86400 * 365, 86400LL * 365 * 30); /* long ago, or in the future: with its year */
    assert_non_null(strstr(b.data, " Jan 1971"));
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_controls), cmocka_unit_test(test_bad_utf8), cmocka_unit_test(test_stream),
        cmocka_unit_test(test_glyphs),   cmocka_unit_test(test_noise),    cmocka_unit_test(test_frame),
        cmocka_unit_test(test_human),
    };
    return cmocka_run_group_tests_name("ui filter", tests, NULL, NULL);
}
