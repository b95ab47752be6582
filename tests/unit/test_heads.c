/* SPDX-License-Identifier: Apache-2.0 */
/* Head patterns: reading, the split at every sparsity, ties, the hash, damaged files. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/duo/heads.h"
#include "tests/support/temp.h"

static char *folder;

static int setup(void **state)
{
    (void)state;
    folder = temp_folder();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    temp_remove(folder);
    return 0;
}

static void write_pattern(const char *table, const char *config)
{
    temp_text(folder, "full_attention_heads.tsv", table);
    temp_text(folder, "config.json", config);
}

static size_t count(const uint8_t *bits, size_t n)
{
    size_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(bits[i] <= 1);
        sum += bits[i];
    }
    return sum;
}

static void reads_table_and_sizes(void **state)
{
    (void)state;
    struct err e;
    struct heads *h;
    write_pattern("0.5\t-1e-4 1\r\n\n  0.25  1.0001\t0",
                  "{\"sink_size\": 128, \"recent_size\": 256,"
                  "\"deploy_sink_size\": 64, \"deploy_recent_size\": null}");
    assert_int_equal(heads_open(folder, 2, 3, &h, &e), 0);
    const float want[6] = {0.5f, 0, 1, 0.25f, 1, 0};
    for (int i = 0; i < 6; i++)
        assert_true(h->alpha[i] == want[i]);
    assert_int_equal(h->S, 64);
    assert_int_equal(h->R, 256);
    heads_close(h);
}

static void every_sparsity_splits_by_rank(void **state)
{
    (void)state;
    struct heads *h;
    uint8_t bits[35], before[35];
    struct err e;
    assert_int_equal(heads_all_retrieval(5, 7, &h, &e), 0);
    h->alpha = calloc(35, sizeof *h->alpha);
    assert_non_null(h->alpha);
    for (size_t i = 0; i < 35; i++)
        h->alpha[i] = (float)(i * 17 % 35) / 35; /* a permutation */
    memset(before, 1, sizeof before);
    for (size_t n = 0; n <= 35; n++) {
        assert_int_equal(heads_split(h, (double)n / 35, bits, &e), 0);
        assert_int_equal(count(bits, 35), 35 - n);
        for (size_t i = 0; i < 35; i++) {
            assert_int_equal(bits[i], i * 17 % 35 >= n);
            assert_true(bits[i] <= before[i]); /* a sparser split only takes heads away */
        }
        memcpy(before, bits, sizeof bits);
    }
    heads_close(h);
}

static void ties_stream_in_order_of_layer_and_head(void **state)
{
    (void)state;
    struct heads *h;
    struct err e;
    uint8_t bits[6];
    write_pattern("1 0 0.5\n0.5 0.5 1\n", "{}");
    assert_int_equal(heads_open(folder, 2, 3, &h, &e), 0);
    const uint8_t half[6] = {1, 0, 0, 0, 1, 1}, most[6] = {0, 0, 0, 0, 0, 1};
    assert_int_equal(heads_split(h, 0.5, bits, &e), 0);
    assert_memory_equal(bits, half, 6);
    assert_int_equal(heads_split(h, 5.0 / 6, bits, &e), 0);
    assert_memory_equal(bits, most, 6);
    heads_close(h);
}

static void without_a_pattern_all_retrieve(void **state)
{
    (void)state;
    struct heads *h;
    struct err e;
    uint8_t bits[90];
    assert_int_equal(heads_all_retrieval(30, 3, &h, &e), 0);
    assert_int_equal(heads_split(h, 0, bits, &e), 0);
    assert_int_equal(count(bits, 90), 90);
    assert_int_equal(heads_split(h, 1, bits, &e), 0);
    assert_int_equal(count(bits, 90), 0);
    assert_int_equal(heads_split(h, 0.5, bits, &e), ERR_NOT_FOUND);
    assert_int_equal(heads_split(h, -0.1, bits, &e), ERR_USAGE);
    assert_int_equal(heads_split(h, 1.1, bits, &e), ERR_USAGE);
    assert_int_equal(heads_split(h, (double)__builtin_nanf(""), bits, &e), ERR_USAGE);
    heads_close(h);
}

static void hash_names_the_split(void **state)
{
    (void)state;
    uint8_t bits[8] = {1, 1, 1, 1, 1, 1, 1, 1}, a[16], b[16];
    heads_hash(bits, 4, 2, 64, 256, a);
    heads_hash(bits, 4, 2, 0, 1, b); /* nobody streams: S and R mean nothing */
    assert_memory_equal(a, b, 16);
    heads_hash(bits, 2, 4, 64, 256, b);
    assert_memory_not_equal(a, b, 16);
    bits[3] = 0;
    heads_hash(bits, 4, 2, 64, 256, b);
    assert_memory_not_equal(a, b, 16);
    heads_hash(bits, 4, 2, 65, 256, a);
    assert_memory_not_equal(a, b, 16);
    heads_hash(bits, 4, 2, 64, 257, a);
    assert_memory_not_equal(a, b, 16);
    heads_hash(bits, 4, 2, 64, 256, a);
    assert_memory_equal(a, b, 16);
}

static void damaged_patterns_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *table, *config;
        int code;
    } cases[] = {
        {"", "{}", ERR_FORMAT},
        {"1 1\n", "{}", ERR_FORMAT},           /* too few lines */
        {"1 1\n1 1\n1 1\n", "{}", ERR_FORMAT}, /* too many */
        {"1 1\n1\n", "{}", ERR_FORMAT},        /* too few columns */
        {"1 1\n1 1 1\n", "{}", ERR_FORMAT},    /* too many */
        {"1 1\n1 x\n", "{}", ERR_FORMAT},      /* no number */
        {"1 1\n1 0.5x\n", "{}", ERR_FORMAT},   /* a number and more */
        {"1 1\n1 nan\n", "{}", ERR_FORMAT},    /* not finite */
        {"1 inf\n1 1\n", "{}", ERR_FORMAT},    /* not finite */
        {"1 7\n1 1\n", "{}", ERR_FORMAT},      /* no gate */
        {"1,1\n1,1\n", "{}", ERR_FORMAT},      /* other separator */
        {"1 1\n1 1\n", "", ERR_FORMAT},        /* no JSON */
        {"1 1\n1 1\n", "[]", ERR_FORMAT},      /* no object */
        {"1 1\n1 1\n", "{\"sink_size\": -1}", ERR_FORMAT},
        {"1 1\n1 1\n", "{\"sink_size\": \"64\"}", ERR_FORMAT},
        {"1 1\n1 1\n", "{\"recent_size\": 0}", ERR_FORMAT}, /* a token always sees itself */
        {"1 1\n1 1\n", "{\"recent_size\": 1e9}", ERR_FORMAT},
        {"1 1\n1 1\n", "{\"recent_size\": 99999999999}", ERR_FORMAT},
        {"1 1\n1 1\n", "{\"sink_size\": 0, \"recent_size\": 1}", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct heads *h = (struct heads *)folder;
        struct err e = {0};
        write_pattern(cases[i].table, cases[i].config);
        int rc = heads_open(folder, 2, 2, &h, &e);
        if (rc != cases[i].code)
            fail_msg("case %zu gave %d: %s", i, rc, e.text);
        assert_int_equal(rc != 0, h == NULL);
        heads_close(h);
    }
    struct heads *h;
    struct err e;
    temp_write(folder, "full_attention_heads.tsv", "1 1\n1\0001\n", 8);
    assert_int_equal(heads_open(folder, 2, 2, &h, &e), ERR_FORMAT);
    assert_int_equal(heads_open("/nonexistent", 2, 2, &h, &e), ERR_NOT_FOUND);
    assert_int_equal(heads_open(folder, 0, 2, &h, &e), ERR_USAGE);
}

static void the_shipped_pattern_halves(void **state)
{
    (void)state;
    struct heads *h;
    struct err e;
    uint8_t bits[90];
    const char *root = getenv("LECTERN_ROOT");
    char *path = temp_path(root ? root : ".", "data/adapters/SmolLM2-135M-Instruct-128k");
    assert_int_equal(heads_open(path, 30, 3, &h, &e), 0);
    free(path);
    assert_int_equal(h->S, 64);
    assert_int_equal(h->R, 256);
    assert_int_equal(heads_split(h, 0.5, bits, &e), 0);
    assert_int_equal(count(bits, 90), 45);
    float least = 2, most = -1; /* of retrieval and of streaming heads */
    for (int i = 0; i < 90; i++) {
        if (bits[i] && h->alpha[i] < least)
            least = h->alpha[i];
        if (!bits[i] && h->alpha[i] > most)
            most = h->alpha[i];
    }
    assert_true(least >= most);
    heads_close(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_table_and_sizes),
        cmocka_unit_test(every_sparsity_splits_by_rank),
        cmocka_unit_test(ties_stream_in_order_of_layer_and_head),
        cmocka_unit_test(without_a_pattern_all_retrieve),
        cmocka_unit_test(hash_names_the_split),
        cmocka_unit_test(damaged_patterns_are_refused),
        cmocka_unit_test(the_shipped_pattern_halves),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
