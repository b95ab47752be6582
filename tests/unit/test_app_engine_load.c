/* SPDX-License-Identifier: Apache-2.0 */
/* test_app_engine_load.c - the policy: which model, adapter, pattern and sparsity a command line means; and
 * the inputs of the checking commands. Works on small GGUF heads in a folder of its own; loads no model. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/engine_load.h"
#include "app/input.h"
#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/duo/heads.h"
#include "tests/support/gguf_writer.h"

static char home[500]; /* where the tests were started: the root, unless LECTERN_ROOT says it */

#define ADAPTER "shipped/adapters/SmolLM2-135M-Instruct-128k"

static void make_folder(const char *path)
{
    struct err e;
    assert_int_equal(dir_make(path, &e), 0);
}

static void make_file(const char *path, const char *text)
{
    struct err e;
    assert_int_equal(file_write(path, text, strlen(text), &e), 0);
}

static void make_gguf(const char *path, const char *name, uint32_t layers, uint32_t kv_heads, uint32_t width)
{
    struct gguf_writer *w = gguf_writer_open(path);
    assert_non_null(w);
    const uint64_t dims[2] = {4, 1};
    const float data[4] = {0};
    gguf_writer_add_str(w, "general.architecture", "llama");
    if (name)
        gguf_writer_add_str(w, "general.name", name);
    gguf_writer_add_u32(w, "llama.block_count", layers);
    gguf_writer_add_u32(w, "llama.embedding_length", width);
    gguf_writer_add_u32(w, "llama.attention.head_count", 32);
    if (kv_heads)
        gguf_writer_add_u32(w, "llama.attention.head_count_kv", kv_heads);
    gguf_writer_add_tensor(w, "t", 0, 2, dims, data, sizeof data);
    assert_int_equal(gguf_writer_close(w), 0);
}

static void make_pattern(const char *folder)
{
    char path[300];
    make_folder(folder);
    snprintf(path, sizeof path, "%s/full_attention_heads.tsv", folder);
    make_file(path, "0.5\n");
}

struct room {
    char folder[64];
    struct config c;
};

static int set_up(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    assert_non_null(r);
    strcpy(r->folder, "/tmp/lectern-load-XXXXXX");
    assert_non_null(mkdtemp(r->folder));
    assert_int_equal(chdir(r->folder), 0);
    make_folder("models");
    make_pattern(ADAPTER);
    make_file(ADAPTER "/adapter.safetensors", "x");
    make_pattern("shipped/heads/Meta-Llama-3.1-8B-Instruct");
    make_pattern("shipped/heads/Mistral-7B");
    make_pattern("shipped/heads/Mistral-7B-Instruct-v0.2");
    config_init(&r->c);
    r->c.models_dir = strdup("models");
    r->c.shipped = strdup("shipped");
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct room *r = *state;
    char command[128];
    config_fini(&r->c);
    assert_int_equal(chdir("/"), 0);
    snprintf(command, sizeof command, "rm -rf %s", r->folder);
    int rc = system(command);
    free(r);
    return rc;
}

/* What is chosen, against model, adapter and heads ("" for none). */
static void chooses(const struct config *c, const char *model, const char *adapter, const char *heads,
                    double sparsity)
{
    struct app_choice choice;
    struct err e = {0};
    if (app_choose(c, &choice, NULL, &e))
        fail_msg("%s", e.text);
    assert_string_equal(choice.model, model);
    assert_string_equal(choice.adapter ? choice.adapter : "", adapter);
    assert_string_equal(choice.heads ? choice.heads : "", heads);
    assert_true(choice.sparsity == sparsity);
    app_choice_free(&choice);
}

static void refuses(const struct config *c, int code, const char *part)
{
    struct app_choice choice;
    struct gguf *g = (struct gguf *)&choice;
    struct err e = {0};
    assert_int_equal(app_choose(c, &choice, &g, &e), code);
    assert_null(g);
    assert_null(choice.model);
    if (!strstr(e.text, part))
        fail_msg("‘%s’ lacks ‘%s’", e.text, part);
}

static void the_default_model_has_its_adapter(void **state)
{
    struct config *c = &((struct room *)*state)->c;
    refuses(c, ERR_NOT_FOUND, "fetch it (92 MB) with `lectern models get` or `make model`");
    make_gguf("models/" DEFAULT_MODEL_FILE, "any", 30, 3, 576);
    chooses(c, "models/" DEFAULT_MODEL_FILE, ADAPTER, ADAPTER, 0.5);
    c->sparsity = 0.25;
    chooses(c, "models/" DEFAULT_MODEL_FILE, ADAPTER, ADAPTER, 0.25);
    c->sparsity = 0;
    chooses(c, "models/" DEFAULT_MODEL_FILE, ADAPTER, ADAPTER, 0);
    c->sparsity = -1;
    c->heads = "none";
    chooses(c, "models/" DEFAULT_MODEL_FILE, ADAPTER, "", 0);
    c->heads = "auto";
    c->adapter = "none"; /* the pattern belongs to the adapter */
    chooses(c, "models/" DEFAULT_MODEL_FILE, "", "", 0);
    c->heads = ADAPTER;
    chooses(c, "models/" DEFAULT_MODEL_FILE, "", ADAPTER, 0.5);
}

static void another_quantisation_of_it_has_it_too(void **state)
{
    struct config *c = &((struct room *)*state)->c;
    make_gguf("models/SmolLM2-135M-Instruct.Q8_0.gguf", "any", 30, 3, 576);
    c->model_option = "SmolLM2-135M-Instruct.Q8_0";
    chooses(c, "models/SmolLM2-135M-Instruct.Q8_0.gguf", ADAPTER, ADAPTER, 0.5);
}

static void a_name_without_the_shape_does_not(void **state)
{
    struct config *c = &((struct room *)*state)->c;
    make_gguf("models/" DEFAULT_MODEL_FILE, "any", 24, 3, 576);
    chooses(c, "models/" DEFAULT_MODEL_FILE, "", "", 0);
}

static void a_missing_adapter_is_an_error(void **state)
{
    struct config *c = &((struct room *)*state)->c;
    make_gguf("models/" DEFAULT_MODEL_FILE, "any", 30, 3, 576);
    assert_int_equal(unlink(ADAPTER "/adapter.safetensors"), 0);
    refuses(c, ERR_NOT_FOUND, "--adapter none");
    c->adapter = ADAPTER;
    refuses(c, ERR_NOT_FOUND, "is no adapter");
    c->adapter = "none";
    chooses(c, "models/" DEFAULT_MODEL_FILE, "", "", 0);
    c->heads = "models";
    refuses(c, ERR_NOT_FOUND, "holds no head pattern");
}

static void other_models_find_their_pattern_by_name(void **state)
{
    struct config *c = &((struct room *)*state)->c;
    make_gguf("a.gguf", "Meta Llama 3.1 8B Instruct", 32, 8, 4096);
    c->model_option = "a.gguf";
    chooses(c, "a.gguf", "", "shipped/heads/Meta-Llama-3.1-8B-Instruct", 0.5);
    make_gguf("mistral-7b-instruct-v0.2.Q4_K_M.gguf", NULL, 32, 8, 4096);
    c->model_option = "mistral-7b-instruct-v0.2.Q4_K_M.gguf";
    chooses(c, "mistral-7b-instruct-v0.2.Q4_K_M.gguf", "", "shipped/heads/Mistral-7B-Instruct-v0.2", 0.5);
    make_gguf("mha.gguf", "Mistral 7B", 32, 32, 4096); /* no grouped heads: a quarter retrieves */
    c->model_option = "mha.gguf";
    chooses(c, "mha.gguf", "", "shipped/heads/Mistral-7B", 0.75);
    make_gguf("b.gguf", "Meta Llama 3.15 8B", 32, 8, 4096);
    c->model_option = "b.gguf";
    chooses(c, "b.gguf", "", "", 0);
    make_gguf("Mistral-7Bx.gguf", NULL, 32, 8, 4096);
    c->model_option = "Mistral-7Bx.gguf";
    chooses(c, "Mistral-7Bx.gguf", "", "", 0);
}

static void heads_without_kv_count_are_all_heads(void **state)
{
    struct config *c = &((struct room *)*state)->c;
    struct app_choice choice;
    struct gguf *g;
    struct err e;
    make_gguf("a.gguf", NULL, 2, 0, 64);
    c->model_option = "./a.gguf";
    assert_int_equal(app_choose(c, &choice, &g, &e), 0);
    assert_int_equal(choice.L, 2);
    assert_int_equal(choice.HK, 32);
    assert_int_equal(choice.C, 64);
    gguf_close(g);
    app_choice_free(&choice);
}

static void models_that_are_not_there(void **state)
{
    struct config *c = &((struct room *)*state)->c;
    c->model_option = "nothing";
    refuses(c, ERR_NOT_FOUND, "no model ‘nothing’ here or in models");
    c->model_option = "some/where.gguf";
    refuses(c, ERR_NOT_FOUND, "no model some/where.gguf");
    make_file("broken.gguf", "GGUFxxxx");
    c->model_option = "broken.gguf";
    refuses(c, ERR_FORMAT, "broken.gguf");
}

static void every_shipped_pattern_opens(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t HK;
    } patterns[] = {
        {"Llama-2-7B-32K-Instruct", 32},           {"Llama-3-8B-Instruct-Gradient-1048k", 8},
        {"Llama-3-8B-Instruct-Gradient-4194k", 8}, {"Meta-Llama-3.1-8B-Instruct", 8},
        {"Mistral-7B-Instruct-v0.2", 8},           {"Mistral-7B-Instruct-v0.3", 8},
    };
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++) {
        const char *root = getenv("LECTERN_ROOT");
        char path[600];
        struct heads *h;
        struct err e;
        uint8_t split[32 * 32];
        size_t n = 32 * patterns[i].HK, retrieval = 0;
        snprintf(path, sizeof path, "%s/data/heads/%s", root ? root : home, patterns[i].name);
        if (heads_open(path, 32, patterns[i].HK, &h, &e))
            fail_msg("%s", e.text);
        assert_int_equal(h->S, 128);
        assert_int_equal(h->R, 256);
        assert_int_equal(heads_split(h, 0.5, split, &e), 0);
        for (size_t k = 0; k < n; k++)
            retrieval += split[k];
        assert_int_equal(retrieval, n / 2);
        heads_close(h);
    }
}

/* ---- inputs ---- */

static void ids_are_checked(void **state)
{
    (void)state;
    struct token_list list = {0};
    struct err e = {0};
    make_file("ids", " 1\n2\r\n\n 99\t0");
    assert_int_equal(input_ids("ids", 100, &list, &e), 0);
    assert_int_equal(list.n, 4);
    assert_int_equal(list.ids[2], 99);
    assert_int_equal(list.ids[3], 0);
    static const char *const wrong[][2] = {
        {"1\n100\n", "line 2: token 100, but the model has only 100"},
        {"1\n\n-1\n", "line 3: not a token id"},
        {"1x", "line 1: not a token id"},
        {"99999999999999999999999", "line 1: not a token id"},
        {"4294967297", "line 1: token 4294967297"},
        {"1.5", "line 1: not a token id"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        make_file("ids", wrong[i][0]);
        assert_int_equal(input_ids("ids", 100, &list, &e), ERR_FORMAT);
        if (!strstr(e.text, wrong[i][1]))
            fail_msg("‘%s’ lacks ‘%s’", e.text, wrong[i][1]);
    }
    token_list_clear(&list);
    make_file("ids", "");
    assert_int_equal(input_ids("ids", 100, &list, &e), 0);
    assert_int_equal(list.n, 0);
    assert_int_equal(input_ids("nothing", 100, &list, &e), ERR_NOT_FOUND);
    token_list_fini(&list);
}

static void text_is_made_utf8(void **state)
{
    struct config *c = &((struct room *)*state)->c;
    struct err e;
    char *text;
    size_t n;
    c->quiet = 1;
    make_file("t", "caf\xe9 \xf0\x9f\x99\x82");
    assert_int_equal(input_text(c, "t", &text, &n, &e), 0);
    assert_string_equal(text, "caf\xef\xbf\xbd \xf0\x9f\x99\x82");
    assert_int_equal(n, strlen(text));
    free(text);
    make_file("t", "");
    assert_int_equal(input_text(c, "t", &text, &n, &e), 0);
    assert_int_equal(n, 0);
    free(text);
    assert_int_equal(input_text(c, "nothing", &text, &n, &e), ERR_NOT_FOUND);
    assert_null(text);
}

int main(void)
{
    if (!getcwd(home, sizeof home))
        return 1;
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(the_default_model_has_its_adapter),
        TEST(another_quantisation_of_it_has_it_too),
        TEST(a_name_without_the_shape_does_not),
        TEST(a_missing_adapter_is_an_error),
        TEST(other_models_find_their_pattern_by_name),
        TEST(heads_without_kv_count_are_all_heads),
        TEST(models_that_are_not_there),
        TEST(every_shipped_pattern_opens),
        TEST(ids_are_checked),
        TEST(text_is_made_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
