/* SPDX-License-Identifier: Apache-2.0 */
/* The default model's vocabulary: ids equal to llama.cpp's, frozen in tests/golden/text with their
 * provenance, and the frame of a conversation with it. Skipped without the model. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/token/chat.h"

static struct gguf *model;
static struct tokenizer *tokenizer;

static int setup(void **state)
{
    (void)state;
    struct err e = {0};
    const char *given = getenv("LECTERN_TEST_MODEL");
    char *cache = path_xdg("XDG_CACHE_HOME", ".cache");
    char *path = given   ? strdup(given)
                 : cache ? path_join(cache, "models/SmolLM2-135M-Instruct.Q4_1.gguf")
                         : NULL;
    free(cache);
    if (path && !access(path, R_OK)) {
        if (gguf_open(path, &model, &e) || tokenizer_open(model, &tokenizer, &e)) {
            print_error("%s\n", e.text);
            free(path);
            return 1;
        }
    }
    free(path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    gguf_close(model);
    return 0;
}

static void need_model(void)
{
    if (!tokenizer) {
        print_message("the default model is not here: run make model\n");
        skip();
    }
}

static char *golden(const char *name, size_t *n)
{
    const char *root = getenv("LECTERN_ROOT");
    char *folder = path_join(root ? root : ".", "tests/golden/text"), *path = path_join(folder, name), *bytes;
    struct err e = {0};
    if (file_read(path, 1 << 24, &bytes, n, &e))
        fail_msg("%s", e.text);
    free(folder);
    free(path);
    return bytes;
}

/* Bytes that this vocabulary has a token for; text loses the others, in llama.cpp as here. */
static void writable_bytes(int have[256])
{
    for (uint32_t id = 0; id < tokenizer_vocab(tokenizer); id++) {
        char byte;
        if (tokenizer_piece(tokenizer, id, &byte, 1, 0) == 1)
            have[(unsigned char)byte] = 1;
    }
}

static void check_golden(const char *text_name, const char *ids_name)
{
    size_t n, n_ids;
    char *text = golden(text_name, &n), *ids = golden(ids_name, &n_ids);
    struct token_list list = {0};
    struct err e = {0};
    if (tokenizer_encode(tokenizer, text, n, 0, &list, NULL, &e))
        fail_msg("%s", e.text);
    assert_int_equal(list.n, n_ids / 2);
    for (size_t i = 0; i < list.n; i++) {
        uint32_t want = (uint32_t)(unsigned char)ids[2 * i] | (uint32_t)(unsigned char)ids[2 * i + 1] << 8;
        if (list.ids[i] != want)
            fail_msg("%s: token %zu (to byte %u) is %u, not %u", text_name, i, list.ends[i], list.ids[i],
                     want);
        assert_true(!i || list.ends[i] >= list.ends[i - 1]);
        assert_false(tokenizer_is_control(tokenizer, list.ids[i]));
    }
    assert_int_equal(list.ends[list.n - 1], n);
    int have[256] = {0};
    writable_bytes(have);
    struct buf want = {0}, got = {0};
    for (size_t i = 0; i < n; i++)
        if (have[(unsigned char)text[i]])
            buf_putc(&want, text[i]);
    tokenizer_decode(tokenizer, list.ids, list.n, 0, &got);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.data, want.data, want.len);
    buf_free(&want);
    buf_free(&got);
    token_list_fini(&list);
    free(text);
    free(ids);
}

static void ids_equal_llama_cpp(void **state)
{
    (void)state;
    need_model();
    check_golden("mixed.txt", "mixed.ids.u16");
    check_golden("invalid.repaired.txt", "invalid.ids.u16");
    check_golden("prose.txt", "prose.ids.u16");
}

static void a_megabyte_without_a_space_takes_seconds(void **state)
{
    (void)state;
    need_model();
    size_t n = 1 << 20;
    char *text = malloc(n);
    static const char units[] = {'a', ' ', '\n', '='};
    for (size_t u = 0; u < sizeof units; u++) {
        memset(text, units[u], n);
        struct token_list list = {0};
        struct err e = {0};
        double start = clock_seconds();
        assert_int_equal(tokenizer_encode(tokenizer, text, n, 0, &list, NULL, &e), 0);
        assert_true(clock_seconds() - start < 10);
        assert_int_equal(list.ends[list.n - 1], n);
        token_list_fini(&list);
    }
    free(text);
}

static void expect_text(const struct token_list *list, const char *want)
{
    struct buf b = {0};
    tokenizer_decode(tokenizer, list->ids, list->n, 1, &b);
    assert_string_equal(b.data, want);
    buf_free(&b);
}

#define IM_SYSTEM                                                                                            \
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"

static void frames_a_conversation(void **state)
{
    (void)state;
    need_model();
    struct chat *c;
    struct err e = {0};
    struct token_list list = {0}, whole = {0};
    assert_int_equal(chat_open(tokenizer, model, &c, &e), 0);
    assert_int_equal(chat_kind(c), CHAT_CHATML);
    assert_int_equal(chat_corpus_open(c, NULL, &list, &e), 0);
    expect_text(&list, IM_SYSTEM "<|im_start|>user\n");
    assert_int_equal(chat_question(c, 1, 0, "Who?", 4, &list, &e), 0);
    const char *all = IM_SYSTEM "<|im_start|>user\n\n\nQuestion: Who?<|im_end|>\n<|im_start|>assistant\n";
    expect_text(&list, all);
    size_t starts = 0;
    for (size_t i = 0; i < list.n; i++)
        starts += list.ids[i] == tokenizer_find(tokenizer, "<|im_start|>");
    assert_int_equal(starts, 3);
    token_list_clear(&list);
    /* A template filled in and encoded as a whole, control tokens allowed, gives the same ids where no text
     * was cut in two. */
    assert_int_equal(chat_corpus_open(c, "Be brief.", &list, &e), 0);
    const char *opening = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n";
    assert_int_equal(tokenizer_encode(tokenizer, opening, strlen(opening), 1, &whole, NULL, &e), 0);
    assert_int_equal(list.n, whole.n);
    assert_memory_equal(list.ids, whole.ids, list.n * sizeof *list.ids);
    token_list_fini(&list);
    token_list_fini(&whole);
    chat_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_llama_cpp),
        cmocka_unit_test(a_megabyte_without_a_space_takes_seconds),
        cmocka_unit_test(frames_a_conversation),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
