/* SPDX-License-Identifier: Apache-2.0 */
/* SentencePiece: models trained here, our ids against the library's own, from a model file and from a GGUF
 * vocabulary made of it; offsets; long texts in parts; model files that lie. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/token/spm.h"
#include "engine/token/tokenizer_internal.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/temp.h"
#include "tests/unit/spm_trainer.h"

static char *folder;
static char *bpe_path, *unigram_path, *gguf_path_;

static const char *const texts[] = {
    "",
    " ",
    "the lantern in the harbour",
    "  leading and trailing  ",
    "two  spaces   three",
    "line one\nline two\r\n\ttabbed",
    "Unseen: caf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xf0\x9f\x99\x82 \xc2\xbd \xef\xbc\xa1\xef\xbc\xa2",
    "<s>not a control</s> <unk> <0x0A>",
    "numbers 12345 and 3.14",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "a special <mark> inside<mark>",
};

#define OPTIONS_BPE                                                                                          \
    "--vocab_size=420 --model_type=bpe --byte_fallback=true --normalization_rule_name=identity "             \
    "--remove_extra_whitespaces=false --user_defined_symbols=<mark> --hard_vocab_limit=false"

static int train(void)
{
    static const char *const who[] = {"keeper", "captain", "gardener", "printer", "reader"};
    static const char *const did[] = {"lit", "painted", "found", "mended", "described"};
    static const char *const what[] = {"the lantern", "an old harbour", "that letter", "the northern window",
                                       "a map"};
    static char lines[250][120];
    const char *pointers[250];
    for (int i = 0; i < 250; i++) {
        snprintf(lines[i], sizeof lines[i], "The %s %s %s on day %d, and the %s saw it%s", who[i % 5],
                 did[i / 5 % 5], what[i / 25 % 5], i * 7, who[i / 3 % 5], i % 2 ? "." : "  twice!");
        pointers[i] = lines[i];
    }
    return spm_trainer_train(pointers, 250, OPTIONS_BPE, bpe_path) ||
           spm_trainer_train(pointers, 250, "--vocab_size=200 --model_type=unigram --hard_vocab_limit=false",
                             unigram_path);
}

struct piece_list {
    char *names[1000];
    float scores[1000];
    int32_t types[1000];
    size_t n;
};

static int take_piece(void *arg, struct gguf_str name, float score, int type)
{
    struct piece_list *list = arg;
    assert_true(list->n < 1000);
    list->names[list->n] = strndup(name.data, name.len);
    list->scores[list->n] = score;
    list->types[list->n++] = type;
    return 0;
}

/* The BPE model's pieces as a GGUF `llama` vocabulary. skip_unknown: leaves out what it cannot do without. */
static void write_gguf(int skip_unknown)
{
    char *bytes;
    size_t n;
    struct err e = {0};
    struct spm_facts facts;
    struct piece_list *list = calloc(1, sizeof *list);
    assert_int_equal(file_read(bpe_path, 1 << 24, &bytes, &n, &e), 0);
    assert_int_equal(spm_proto_read(bytes, n, &facts, take_piece, list, &e), 0);
    assert_int_equal(facts.model_type, 2);
    assert_true(facts.bos == 1 && facts.eos == 2 && facts.dummy_prefix);
    struct gguf_writer *w = gguf_writer_open(gguf_path_);
    if (skip_unknown)
        list->types[0] = SPM_CONTROL;
    gguf_writer_add_str(w, "tokenizer.ggml.model", "llama");
    gguf_writer_add_arr_str(w, "tokenizer.ggml.tokens", (const char *const *)list->names, list->n);
    gguf_writer_add_arr_f32(w, "tokenizer.ggml.scores", list->scores, list->n);
    gguf_writer_add_arr_i32(w, "tokenizer.ggml.token_type", list->types, list->n);
    gguf_writer_add_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_writer_add_u32(w, "tokenizer.ggml.eos_token_id", 2);
    assert_int_equal(gguf_writer_close(w), 0);
    for (size_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list);
    free(bytes);
}

static struct tokenizer *open_file(const char *path)
{
    struct tokenizer *t;
    struct err e = {0};
    if (tokenizer_open_spm_file(path, &t, &e))
        fail_msg("%s", e.text);
    return t;
}

static struct tokenizer *open_gguf(void)
{
    struct gguf *g;
    struct tokenizer *t;
    struct err e = {0};
    write_gguf(0);
    if (gguf_open(gguf_path_, &g, &e) || tokenizer_open(g, &t, &e))
        fail_msg("%s", e.text);
    gguf_close(g);
    return t;
}

static void check_against_library(const struct tokenizer *t, const char *model, const char *text, size_t n)
{
    size_t cap = n + 16;
    uint32_t *want = malloc(cap * sizeof *want);
    long n_want = spm_trainer_encode(model, text, n, want, cap);
    struct token_list list = {0};
    struct err e = {0};
    if (tokenizer_encode(t, text, n, 0, &list, NULL, &e))
        fail_msg("%s", e.text);
    assert_int_equal((long)list.n, n_want);
    for (size_t i = 0; i < list.n; i++) {
        if (list.ids[i] != want[i])
            fail_msg("'%.40s': token %zu is %u, not %u", text, i, list.ids[i], want[i]);
        assert_true(list.ends[i] <= n && (!i || list.ends[i] >= list.ends[i - 1]));
        assert_false(tokenizer_is_control(t, list.ids[i]));
    }
    if (list.n)
        assert_int_equal(list.ends[list.n - 1], n);
    token_list_fini(&list);
    free(want);
}

static void ids_equal_the_librarys(void **state)
{
    (void)state;
    struct tokenizer *bpe = open_file(bpe_path), *unigram = open_file(unigram_path), *gguf = open_gguf();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        check_against_library(bpe, bpe_path, texts[i], strlen(texts[i]));
        check_against_library(unigram, unigram_path, texts[i], strlen(texts[i]));
        check_against_library(gguf, bpe_path, texts[i], strlen(texts[i]));
    }
    assert_int_equal(tokenizer_vocab(bpe), tokenizer_vocab(gguf));
    tokenizer_close(bpe);
    tokenizer_close(unigram);
    tokenizer_close(gguf);
}

/* An identity normaliser keeps every byte: the text comes back, and a token's end is where its text ends. */
static void gives_the_text_back(void **state)
{
    (void)state;
    struct tokenizer *t = open_gguf();
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        size_t n = strlen(texts[i]);
        struct token_list list = {0};
        struct err e = {0};
        struct buf b = {0};
        assert_int_equal(tokenizer_encode(t, texts[i], n, 0, &list, NULL, &e), 0);
        tokenizer_decode(t, list.ids, list.n, 0, &b);
        assert_int_equal(b.len, n);
        assert_memory_equal(n ? b.data : "", texts[i], n);
        buf_clear(&b);
        for (size_t k = 0; k < list.n; k++) {
            tokenizer_decode(t, list.ids, k + 1, 0, &b);
            /* the bytes of a character that no piece has end where its last byte does */
            assert_true(b.len >= list.ends[k] && b.len - list.ends[k] < 4);
            buf_clear(&b);
        }
        buf_free(&b);
        token_list_fini(&list);
    }
    tokenizer_close(t);
}

static void knows_its_special_tokens(void **state)
{
    (void)state;
    struct tokenizer *both[] = {open_file(bpe_path), open_gguf()};
    for (size_t i = 0; i < 2; i++) {
        struct tokenizer *t = both[i];
        assert_true(tokenizer_bos(t) == 1 && tokenizer_eos(t) == 2 && tokenizer_adds_bos(t));
        assert_true(tokenizer_is_control(t, 1) && tokenizer_is_control(t, 2) && !tokenizer_is_control(t, 0));
        assert_true(tokenizer_is_stop(t, 2) && !tokenizer_is_stop(t, 1));
        uint32_t mark = tokenizer_find(t, "<mark>");
        assert_true(mark != TOKEN_NONE && !tokenizer_is_control(t, mark));
        struct token_list list = {0};
        struct err e = {0};
        const char *text = "<s>the<mark></s>";
        assert_int_equal(tokenizer_encode(t, text, strlen(text), 1, &list, NULL, &e), 0);
        assert_true(list.ids[0] == 1 && list.ends[0] == 3);
        assert_true(list.ids[list.n - 2] == mark && list.ends[list.n - 2] == 12 && list.ids[list.n - 1] == 2);
        char piece[8];
        assert_int_equal(tokenizer_piece(t, 1, piece, sizeof piece, 0), 0);
        assert_int_equal(tokenizer_piece(t, 1, piece, sizeof piece, 1), 3);
        assert_int_equal(tokenizer_piece(t, tokenizer_find(t, "<0xE6>"), piece, sizeof piece, 0), 1);
        assert_int_equal((unsigned char)piece[0], 0xe6);
        token_list_fini(&list);
        tokenizer_close(t);
    }
}

/* Longer than the parts that tokenizer_spm.c cuts: the same ids as the library gives for the whole. */
static void long_texts_equal_the_whole(void **state)
{
    (void)state;
    struct tokenizer *t = open_gguf();
    assert_true(t->cuttable);
    size_t n = 3u << 20, at = 0;
    char *text = malloc(n + 64);
    uint32_t seed = 3;
    static const char *const words[] = {
        "the ", "keeper ", "of  ", "light,\n", "harbour ", "\xc3\xa9t\xc3\xa9 ", "a b c "};
    while (at < n) {
        seed = seed * 1664525u + 1013904223u;
        const char *word = words[(seed >> 16) % 7];
        memcpy(text + at, word, strlen(word));
        at += strlen(word);
    }
    check_against_library(t, bpe_path, text, at);
    struct cancel cancel = {0};
    atomic_store(&cancel.requested, 1);
    struct token_list list = {0};
    struct err e = {0};
    assert_int_equal(tokenizer_encode(t, text, at, 0, &list, &cancel, &e), ERR_CANCELLED);
    assert_int_equal(list.n, 0);
    token_list_fini(&list);
    free(text);
    tokenizer_close(t);
}

static void hash_follows_the_model(void **state)
{
    (void)state;
    struct tokenizer *a = open_file(bpe_path), *b = open_file(bpe_path), *c = open_file(unigram_path);
    uint8_t x[16], y[16], z[16];
    tokenizer_hash(a, x);
    tokenizer_hash(b, y);
    tokenizer_hash(c, z);
    assert_memory_equal(x, y, 16);
    assert_memory_not_equal(x, z, 16);
    tokenizer_close(a);
    tokenizer_close(b);
    tokenizer_close(c);
}

static void refuses_models_that_lie(void **state)
{
    (void)state;
    char *bytes, *path = temp_path(folder, "bad.model");
    size_t n;
    struct err e = {0};
    struct tokenizer *t;
    assert_int_equal(tokenizer_open_spm_file(path, &t, &e), ERR_NOT_FOUND);
    assert_int_equal(file_read(bpe_path, 1 << 24, &bytes, &n, &e), 0);
    size_t refused = 0;
    for (size_t cut = 0; cut < n; cut += cut < 60 || cut + 60 > n ? 1 : 97) {
        struct spm_facts facts;
        struct piece_list *list = calloc(1, sizeof *list);
        char *exact = malloc(cut ? cut : 1); /* so that a sanitizer sees one byte too far */
        memcpy(exact, bytes, cut);
        int rc = spm_proto_read(exact, cut, &facts, take_piece, list, &e);
        refused += rc != 0;
        assert_true(!rc || rc == ERR_FORMAT);
        for (size_t i = 0; i < list->n; i++)
            free(list->names[i]);
        free(list);
        free(exact);
    }
    assert_true(refused > 50);
    temp_write(folder, "bad.model", "", 0);
    assert_int_equal(tokenizer_open_spm_file(path, &t, &e), ERR_FORMAT);
    temp_write(folder, "bad.model", bytes, n / 2);
    assert_int_equal(tokenizer_open_spm_file(path, &t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, path));
    assert_null(t);
    free(bytes);
    free(path);

    struct gguf *g;
    write_gguf(1);
    assert_int_equal(gguf_open(gguf_path_, &g, &e), 0);
    assert_int_equal(tokenizer_open(g, &t, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, "0 unknown tokens"));
    gguf_close(g);
}

static int setup(void **state)
{
    (void)state;
    folder = temp_folder();
    bpe_path = temp_path(folder, "bpe.model");
    unigram_path = temp_path(folder, "unigram.model");
    gguf_path_ = temp_path(folder, "spm.gguf");
    return train();
}

static int teardown(void **state)
{
    (void)state;
    free(bpe_path);
    free(unigram_path);
    free(gguf_path_);
    temp_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_librarys),   cmocka_unit_test(gives_the_text_back),
        cmocka_unit_test(knows_its_special_tokens), cmocka_unit_test(long_texts_equal_the_whole),
        cmocka_unit_test(hash_follows_the_model),   cmocka_unit_test(refuses_models_that_lie),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
