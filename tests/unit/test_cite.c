/* SPDX-License-Identifier: Apache-2.0 */
/* test_cite.c - which sentence is cited, and that none is when nothing is shared. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cite.h"

enum { MAX = 3, TOKENS_MAX = 4000 };

static const char LIBRARY[] = "About the library\n"
                              "The library opens at nine. Its cat is named Quire and sleeps on the\n"
                              "atlas table. Visitors may borrow three books.\n\n"
                              "Opening hours\n"
                              "The fine for a late book is two herrings. Nobody has ever paid it!\n\n"
                              "The harbour is deep. Ships come in the evening. The pilot waits.";

struct fixture {
    struct cite_text text;
    uint32_t ends[TOKENS_MAX];
};

/* One token for every four bytes, from position `position`. */
static void make(struct fixture *f, const char *text, size_t position)
{
    size_t n = strlen(text);
    f->text = (struct cite_text){.text = text, .bytes = n, .ends = f->ends, .position = position};
    for (size_t at = 0; at < n; at += 4)
        f->ends[f->text.tokens++] = (uint32_t)(at + 4 < n ? at + 4 : n);
}

static size_t find(const struct cite_text *texts, size_t n_texts, const double *mass, size_t pages,
                   const char *question, const char *answer, struct cite_found found[MAX])
{
    struct err e = {0};
    size_t n = 99;
    assert_int_equal(cite_find(texts, n_texts, mass, pages, question, answer, found, MAX, &n, &e), 0);
    assert_true(n <= MAX);
    return n;
}

static void expect_first(const char *question, const char *answer, const char *quote)
{
    struct fixture f;
    struct cite_found found[MAX];
    make(&f, LIBRARY, 30);
    size_t n = find(&f.text, 1, NULL, 0, question, answer, found);
    assert_true(n >= 1);
    size_t bytes = found[0].end - found[0].first;
    if (bytes != strlen(quote) || memcmp(LIBRARY + found[0].first, quote, bytes))
        fail_msg("cited \"%.*s\"", (int)bytes, LIBRARY + found[0].first);
    assert_true(found[0].score > 0 && found[0].score <= 1);
}

static void test_finds_the_sentence(void **state)
{
    (void)state;
    expect_first("What is the name of the cat?", "The cat is named Quire.",
                 "Its cat is named Quire and sleeps on the\natlas table.");
    expect_first("What is the fine?", "Two herrings.", "The fine for a late book is two herrings.");
    expect_first("Who waits?", "The pilot waits.", "The pilot waits.");
}

static void test_headings_are_no_part_of_a_sentence(void **state)
{
    (void)state;
    expect_first("When does the library open?", "The library opens at nine.", "The library opens at nine.");
}

static void test_a_long_answer_is_cited_by_its_beginning(void **state)
{
    (void)state;
    char answer[6000] = "The cat is named Quire. ";
    while (strlen(answer) < 5000)
        strcat(answer, "Many unrelated remarks concerning gardens, mountains and clouds follow. ");
    expect_first("What is the name of the cat?", answer,
                 "Its cat is named Quire and sleeps on the\natlas table.");
}

static void test_nothing_shared_is_not_cited(void **state)
{
    (void)state;
    struct fixture f;
    struct cite_found found[MAX];
    double mass[64];
    for (size_t i = 0; i < 64; i++)
        mass[i] = 1;
    make(&f, LIBRARY, 0);
    assert_int_equal(find(&f.text, 1, mass, 64, "Wie alt?", "Zweiundvierzig Jahre", found), 0);
    assert_int_equal(find(&f.text, 1, mass, 64, "", "", found), 0);
    assert_int_equal(find(NULL, 0, NULL, 0, "cat", "cat", found), 0);
    make(&f, "", 0);
    assert_int_equal(find(&f.text, 1, mass, 64, "cat", "cat", found), 0);
}

static void test_attention_decides_between_equal_words(void **state)
{
    (void)state;
    static char text[8000];
    struct fixture f;
    struct cite_found found[MAX];
    strcpy(text, "The gate is red.\n\n");
    while (strlen(text) < 4000)
        strcat(text, "Rain fell over the fields again.\n\n");
    size_t second = strlen(text);
    strcat(text, "The gate is red.\n\n");
    while (strlen(text) < 6000)
        strcat(text, "Rain fell over the fields again.\n\n");
    for (int which = 0; which < 2; which++) {
        double mass[64] = {0};
        make(&f, text, 128);
        mass[which ? (128 + second / 4) / 64 : 2] = 0.5;
        assert_true(find(&f.text, 1, mass, 64, "What colour is the gate?", "The gate is red.", found) >= 1);
        assert_int_equal(found[0].first, which ? second : 0);
    }
}

static void test_odd_bytes_and_scripts(void **state)
{
    (void)state;
    struct fixture f;
    struct cite_found found[MAX];
    make(&f, "\xff\xfe broken \xc3. \xe7\x8c\xab\xe3\x81\xaf\xe5\xaf\x9d\xe3\x82\x8b. Straße der Katzen.", 0);
    assert_true(find(&f.text, 1, NULL, 0, "Wo?", "STRAßE DER KATZEN", found) >= 1);
    assert_memory_equal(f.text.text + found[0].first, "Straße", 7);
    assert_true(find(&f.text, 1, NULL, 0, "?", "\xe7\x8c\xab\xe5\xaf\x9d", found) >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_the_sentence),
        cmocka_unit_test(test_headings_are_no_part_of_a_sentence),
        cmocka_unit_test(test_a_long_answer_is_cited_by_its_beginning),
        cmocka_unit_test(test_nothing_shared_is_not_cited),
        cmocka_unit_test(test_attention_decides_between_equal_words),
        cmocka_unit_test(test_odd_bytes_and_scripts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
