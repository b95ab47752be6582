/* SPDX-License-Identifier: Apache-2.0 */
/* test_ui_edit.c - the input line: cursor on characters, nothing lost, any length. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/base/clock.h"
#include "ui/edit.h"
#include "ui/filter.h"
#include "ui/keys.h"
#include "ui/ui.h"

#define E_ACUTE "e\xCC\x81"
#define FAMILY "\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA7" /* man, joiner, girl */
#define NI "\xE4\xBD\xA0"

static void type(struct edit *e, const char *text)
{
    assert_int_equal(edit_insert(e, text, strlen(text)), 0);
}

static void test_insert_and_move(void **state)
{
    (void)state;
    struct edit e = {0};
    assert_string_equal(edit_text(&e), "");
    assert_true(edit_is_blank(&e));
    type(&e, "a" E_ACUTE NI FAMILY);
    size_t n = e.text.len;
    assert_int_equal(e.cursor, n);
    size_t stops[] = {1 + 3 + 3, 1 + 3, 1, 0, 0};
    for (size_t i = 0; i < 5; i++) {
        edit_do(&e, EDIT_LEFT);
        assert_int_equal(e.cursor, stops[i]);
    }
    for (size_t i = 4; i-- > 0;) {
        edit_do(&e, EDIT_RIGHT);
        assert_int_equal(e.cursor, i ? stops[i - 1] : n);
    }
    edit_do(&e, EDIT_RIGHT);
    assert_int_equal(e.cursor, n);
    edit_do(&e, EDIT_BACKSPACE);
    assert_string_equal(edit_text(&e), "a" E_ACUTE NI);
    edit_do(&e, EDIT_HOME);
    edit_do(&e, EDIT_DELETE);
    edit_do(&e, EDIT_DELETE);
    assert_string_equal(edit_text(&e), NI);
    edit_do(&e, EDIT_BACKSPACE);
    assert_string_equal(edit_text(&e), NI);
    edit_do(&e, EDIT_END);
    type(&e, "x");
    assert_string_equal(edit_text(&e), NI "x");
    edit_free(&e);
}

/* A mark typed after its base makes one character with it, wherever the cursor is. */
static void test_joining(void **state)
{
    (void)state;
    struct edit e = {0};
    type(&e, "ex");
    edit_do(&e, EDIT_LEFT);
    type(&e, "\xCC\x81");
    assert_int_equal(e.cursor, 3);
    edit_do(&e, EDIT_BACKSPACE);
    assert_string_equal(edit_text(&e), "x");
    edit_free(&e);
}

static void test_cleaning(void **state)
{
    (void)state;
    struct edit e = {0};
    assert_int_equal(edit_insert(&e, "a\r\nb\rc\0d\xFF\xC3", 10), 0);
    assert_string_equal(edit_text(&e), "a\nb\nc\xEF\xBF\xBD"
                                       "d\xEF\xBF\xBD\xEF\xBF\xBD");
    edit_clear(&e);
    type(&e, " \n\t ");
    assert_true(edit_is_blank(&e));
    type(&e, ".");
    assert_false(edit_is_blank(&e));
    edit_free(&e);
}

static void test_words_and_cutting(void **state)
{
    (void)state;
    struct edit e = {0};
    type(&e, "one two-three  gr\xC3\xBC\xC3\x9F");
    edit_do(&e, EDIT_WORD_LEFT);
    assert_int_equal(e.cursor, 15);
    edit_do(&e, EDIT_WORD_LEFT);
    assert_int_equal(e.cursor, 8);
    edit_do(&e, EDIT_WORD_RIGHT);
    assert_int_equal(e.cursor, 13);
    edit_do(&e, EDIT_KILL_WORD); /* back to white space, as in a shell */
    assert_string_equal(edit_text(&e), "one   gr\xC3\xBC\xC3\x9F");
    edit_do(&e, EDIT_YANK);
    assert_string_equal(edit_text(&e), "one two-three  gr\xC3\xBC\xC3\x9F");
    edit_do(&e, EDIT_KILL_TO_END);
    assert_string_equal(edit_text(&e), "one two-three");
    edit_do(&e, EDIT_KILL_TO_END); /* nothing to cut: what was cut stays */
    edit_do(&e, EDIT_YANK);
    assert_string_equal(edit_text(&e), "one two-three  gr\xC3\xBC\xC3\x9F");
    edit_do(&e, EDIT_HOME);
    edit_do(&e, EDIT_WORD_LEFT);
    assert_int_equal(e.cursor, 0);
    edit_do(&e, EDIT_WORD_RIGHT);
    edit_do(&e, EDIT_KILL_TO_START);
    assert_string_equal(edit_text(&e), " two-three  gr\xC3\xBC\xC3\x9F");
    assert_int_equal(e.cursor, 0);
    edit_free(&e);
}

static void test_history(void **state)
{
    (void)state;
    struct edit e = {0};
    edit_do(&e, EDIT_OLDER);
    edit_do(&e, EDIT_NEWER);
    assert_int_equal(edit_remember(&e, "first"), 0);
    assert_int_equal(edit_remember(&e, "second"), 0);
    assert_int_equal(edit_remember(&e, "second"), 0);
    assert_int_equal(edit_remember(&e, ""), 0);
    assert_int_equal(e.n_history, 2);
    type(&e, "draft");
    edit_do(&e, EDIT_OLDER);
    assert_string_equal(edit_text(&e), "second");
    edit_do(&e, EDIT_OLDER);
    edit_do(&e, EDIT_OLDER);
    assert_string_equal(edit_text(&e), "first");
    edit_do(&e, EDIT_NEWER);
    edit_do(&e, EDIT_NEWER);
    edit_do(&e, EDIT_NEWER);
    assert_string_equal(edit_text(&e), "draft"); /* what was being written is back */
    for (int i = 0; i < 1200; i++) {
        char line[32];
        snprintf(line, sizeof line, "line %d", i);
        assert_int_equal(edit_remember(&e, line), 0);
    }
    assert_int_equal(e.n_history, 500);
    assert_string_equal(e.history[499], "line 1199");
    edit_free(&e);
}

/* The cursor is always inside the visible part, whatever is done. */
static void test_view(void **state)
{
    (void)state;
    struct edit e = {0};
    uint32_t seed = 99;
    for (int i = 0; i < 20000; i++) {
        static const char *const parts[] = {"a", NI, "\n", E_ACUTE, "\033", "long words here ", FAMILY};
        seed = seed * 1664525u + 1013904223u;
        uint32_t what = (seed >> 16) % 20;
        if (what < 7)
            type(&e, parts[what]);
        else
            assert_int_equal(edit_do(&e, (enum edit_command)((seed >> 20) % 12)), 0);
        size_t first;
        int column, columns = 1 + (int)(seed >> 8) % 40;
        edit_view(&e, columns, &first, &column);
        assert_true(e.cursor <= e.text.len && first <= e.cursor);
        assert_true(column >= 0 && column < columns);
        if (columns > 8)
            assert_int_equal(column, filter_width(edit_text(&e) + first, e.cursor - first));
        if (e.text.len > 4000)
            edit_clear(&e);
    }
    edit_free(&e);
}

/* A paste of four megabytes, of ideographs too, is taken whole and stays usable. */
static void test_long_paste(void **state)
{
    (void)state;
    struct buf b = {0};
    for (int i = 0; i < 1 << 20; i++)
        buf_puts(&b, i % 50 ? NI : "x");
    struct edit e = {0};
    double start = clock_seconds();
    assert_int_equal(edit_insert(&e, b.data, b.len), 0);
    assert_int_equal(e.text.len, b.len);
    for (int i = 0; i < 100; i++) {
        size_t first;
        int column;
        edit_do(&e, EDIT_LEFT);
        edit_view(&e, 80, &first, &column);
    }
    edit_do(&e, EDIT_HOME);
    type(&e, "y");
    assert_int_equal(e.text.len, b.len + 1);
    assert_true(clock_seconds() - start < 20); /* seconds, under sanitizers on a busy machine */
    edit_free(&e);
    buf_free(&b);
}

static void test_keys(void **state)
{
    (void)state;
    assert_int_equal(keys_find(IN_LIBRARY, 'q'), DO_QUIT);
    assert_int_equal(keys_find(IN_TALK | IN_TALK_EMPTY, 'q'), DO_NOTHING); /* printable keys are text */
    assert_int_equal(keys_find(IN_TALK | IN_TALK_EMPTY, '?'), DO_HELP);
    assert_int_equal(keys_find(IN_TALK, '?'), DO_NOTHING);
    assert_int_equal(keys_find(IN_TALK, UIK_ENTER), DO_ASK);
    assert_int_equal(keys_find(IN_TALK | IN_TALK_EMPTY, UIK_ENTER), DO_OPEN_CHOSEN);
    assert_int_equal(keys_find(IN_TALK, UIK_ALT('3')), DO_NUMBER);
    assert_int_equal(keys_find(IN_SOURCE, ']'), DO_NEXT);
    assert_int_equal(keys_find(IN_PROMPT, UIK_TAB), DO_NOTHING);
    assert_int_equal(keys_find(IN_HELP, UIK_ESC), DO_STOP);
    for (uint32_t c = ' '; c < 0x7F; c++) {
        assert_int_equal(keys_find(IN_TALK, c), DO_NOTHING);
        assert_int_equal(keys_find(IN_PROMPT, c), DO_NOTHING);
    }
}

/* Every row with a label is in the text once. */
static void test_keys_text(void **state)
{
    (void)state;
    struct buf b = {0};
    ui_keys_text(&b);
    size_t lines = 0, rows = 0;
    for (size_t i = 0; i < b.len; i++)
        lines += b.data[i] == '\t';
#define COUNT(contexts, command, a, k2, c, label, meaning) rows += label[0] != 0;
    KEYS_TABLE(COUNT)
#undef COUNT
    assert_int_equal(lines, rows);
    assert_non_null(strstr(b.data, "# Library\n"));
    assert_non_null(strstr(b.data, "Ctrl-O\topen the source"));
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_insert_and_move), cmocka_unit_test(test_joining),
        cmocka_unit_test(test_cleaning),        cmocka_unit_test(test_words_and_cutting),
        cmocka_unit_test(test_history),         cmocka_unit_test(test_view),
        cmocka_unit_test(test_long_paste),      cmocka_unit_test(test_keys),
        cmocka_unit_test(test_keys_text),
    };
    return cmocka_run_group_tests_name("ui edit", tests, NULL, NULL);
}
