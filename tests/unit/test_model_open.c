/* SPDX-License-Identifier: Apache-2.0 */
/* Opening models: what an honest file gives, and that a file which lies is refused, never believed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/model/model.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

static char *folder, *path;

static int setup(void **state)
{
    (void)state;
    folder = temp_folder();
    path = temp_path(folder, "tiny.gguf");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    temp_remove(folder);
    free(path);
    return 0;
}

static void count_reports(void *arg, const char *what, uint64_t done, uint64_t total)
{
    assert_non_null(what);
    assert_true(done <= total);
    ++*(int *)arg;
}

static void check_matrix(const struct weight *w, size_t rows, size_t cols)
{
    assert_non_null(w);
    assert_int_equal(weight_rows(w), rows);
    assert_int_equal(weight_cols(w), cols);
}

static void check_model(const struct tiny_model *t, const struct model *m)
{
    const struct model_params *p = model_params(m);
    const struct model_weights *w = model_weights(m);
    size_t q = (size_t)(t->H * t->D), kv = (size_t)(t->HK * t->D), C = (size_t)t->C, F = (size_t)t->F;
    assert_int_equal(p->L, t->L);
    assert_int_equal(p->H, t->H);
    assert_int_equal(p->HK, t->HK);
    assert_int_equal(p->D, t->D);
    assert_int_equal(p->C, C);
    assert_int_equal(p->F, F);
    assert_int_equal(p->V, TINY_VOCAB);
    assert_int_equal(p->context_train, t->context);
    assert_int_equal(p->tied_output, t->tied);
    assert_int_equal(p->has_qkv_bias, t->qkv_bias);
    assert_string_equal(p->arch, t->qkv_bias ? "qwen2" : "llama");
    assert_int_equal(p->rope.kind, t->qkv_bias ? ROPE_HALVES : ROPE_PAIRS);
    assert_int_equal(p->rope.dims, t->D);
    assert_true(p->rope.base == (double)t->rope_base);
    assert_true(p->norm_eps > 0);
    for (int l = 0; l < t->L; l++) {
        const struct model_layer *y = &w->layers[l];
        check_matrix(y->q, q, C);
        check_matrix(y->k, kv, C);
        check_matrix(y->v, kv, C);
        check_matrix(y->o, C, q);
        check_matrix(y->gate, F, C);
        check_matrix(y->up, F, C);
        check_matrix(y->down, C, F);
        assert_int_equal(y->bq != NULL && y->bk != NULL && y->bv != NULL, t->qkv_bias);
        for (size_t i = 0; i < C; i++)
            assert_true(fabsf(y->attn_norm[i] - 1) < 1 && fabsf(y->ffn_norm[i] - 1) < 1);
    }
    check_matrix(w->output, TINY_VOCAB, C);
    const struct gguf_tensor *embed = gguf_tensor(model_gguf(m), "token_embd.weight");
    assert_ptr_equal(w->embed, embed->data);
    assert_int_equal(w->embed_type, t->embed_type);
    const struct gguf_tensor *norm = gguf_tensor(model_gguf(m), "output_norm.weight");
    assert_memory_equal(w->output_norm, norm->data, C * 4);
}

static void honest_files_open(void **state)
{
    (void)state;
    struct tiny_model kinds[5];
    for (int i = 0; i < 5; i++)
        kinds[i] = tiny_model_default();
    kinds[1].type = 3;
    kinds[1].embed_type = 8;
    kinds[2].type = 8;
    kinds[2].tied = 0;
    kinds[2].HK = 4; /* MHA */
    kinds[3].qkv_bias = 1;
    kinds[3].HK = 1; /* MQA */
    kinds[4].type = kinds[4].embed_type = 1;
    kinds[4].D = 64; /* not C / H */
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 3, NULL), 0);
    for (int i = 0; i < 5; i++) {
        struct model *m;
        struct err e = {0};
        int reports = 0;
        struct progress progress = {.report = count_reports, .arg = &reports};
        assert_int_equal(tiny_model_write(&kinds[i], path), 0);
        int rc = model_open(path, kernels_get("ref"), i % 2 ? pool : NULL, &progress, &m, &e);
        if (rc)
            fail_msg("kind %d: %s", i, e.text);
        assert_int_equal(reports, kinds[i].L + 1);
        check_model(&kinds[i], m);
        model_close(m);
    }
    pool_free(pool);
    model_close(NULL);
}

static void the_hash_follows_the_bytes(void **state)
{
    (void)state;
    struct tiny_model t = tiny_model_default();
    uint8_t hash[3][16];
    for (int i = 0; i < 3; i++) {
        struct model *m;
        t.seed = i < 2 ? 1 : 2;
        assert_int_equal(tiny_model_write(&t, path), 0);
        assert_int_equal(model_open(path, kernels_get("ref"), NULL, NULL, &m, NULL), 0);
        model_hash(m, hash[i]);
        model_close(m);
    }
    assert_memory_equal(hash[0], hash[1], 16);
    assert_memory_not_equal(hash[0], hash[2], 16);
}

/* ---- files that lie ---- */

static struct {
    char *bytes;
    size_t size;
} tiny;

static void load_tiny(const struct tiny_model *t)
{
    assert_int_equal(tiny_model_write(t, path), 0);
    free(tiny.bytes);
    assert_int_equal(file_read(path, 1 << 26, &tiny.bytes, &tiny.size, NULL), 0);
}

/* Opens the file with n bytes at `at` replaced; returns the status, with nothing kept. */
static int open_patched(size_t at, const void *bytes, size_t n, struct err *e)
{
    char *copy = malloc(tiny.size);
    assert_non_null(copy);
    memcpy(copy, tiny.bytes, tiny.size);
    memcpy(copy + at, bytes, n);
    temp_write(folder, "bad.gguf", copy, tiny.size);
    free(copy);
    char *bad = temp_path(folder, "bad.gguf");
    struct model *m = (struct model *)folder;
    *e = (struct err){0};
    int rc = model_open(bad, kernels_get("ref"), NULL, NULL, &m, e);
    assert_int_equal(rc != 0, m == NULL);
    assert_int_equal(rc, e->code);
    model_close(m);
    free(bad);
    return rc;
}

static size_t find_text(const char *text)
{
    const char *at = memmem(tiny.bytes, tiny.size, text, strlen(text));
    assert_non_null(at);
    return (size_t)(at - tiny.bytes);
}

static int open_with_u32(const char *key, uint32_t v, struct err *e)
{
    return open_patched(find_text(key) + strlen(key) + 4, &v, 4, e);
}

static int open_with_f32(const char *key, float v, struct err *e)
{
    return open_patched(find_text(key) + strlen(key) + 4, &v, 4, e);
}

static void numbers_that_cannot_be_are_refused(void **state)
{
    (void)state;
    struct tiny_model t = tiny_model_default();
    load_tiny(&t);
    struct err e;
    static const struct {
        const char *key;
        uint32_t values[5];
    } cases[] = {
        {"llama.block_count", {0, 2, 4, 100000, UINT32_MAX}}, /* 2: tensors would be left out */
        {"llama.embedding_length", {0, 63, 65, 128, UINT32_MAX}},
        {"llama.feed_forward_length", {0, 95, 97, 192, UINT32_MAX}},
        {"llama.attention.head_count", {0, 3, 5, 8, UINT32_MAX}},
        {"llama.attention.head_count_kv", {0, 3, 4, 1, UINT32_MAX}},
        {"llama.context_length", {0, 0, 0, 0, UINT32_MAX}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int j = 0; j < 5; j++) {
            int rc = open_with_u32(cases[i].key, cases[i].values[j], &e);
            if (rc != ERR_FORMAT && rc != ERR_UNSUPPORTED)
                fail_msg("%s = %u gave %d: %s", cases[i].key, cases[i].values[j], rc, e.text);
        }
    const float reals[5] = {0, -1, NAN, INFINITY, 1};
    for (int j = 0; j < 5; j++) {
        assert_int_equal(open_with_f32("llama.attention.layer_norm_rms_epsilon", reals[j], &e), ERR_FORMAT);
        assert_int_equal(open_with_f32("llama.rope.freq_base", reals[j], &e), ERR_FORMAT);
    }
    assert_int_equal(open_with_u32("llama.context_length", 4096, &e), 0); /* the patching itself is sound */
}

static void missing_or_wrong_tensors_are_refused(void **state)
{
    (void)state;
    struct tiny_model t = tiny_model_default();
    load_tiny(&t);
    struct err e;
    static const char *const names[] = {"blk.0.attn_q.weight", "blk.2.ffn_down.weight",
                                        "blk.1.ffn_norm.weight", "output_norm.weight", "token_embd.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t at = find_text(names[i]);
        assert_int_equal(open_patched(at, "X", 1, &e), ERR_FORMAT);
        if (i != 4)
            assert_non_null(strstr(e.text, names[i]));
        /* Behind the name: u32 dimensions, u64 each, u32 type. */
        size_t dims = at + strlen(names[i]) + 4;
        uint64_t other = 32;
        assert_int_not_equal(open_patched(dims, &other, 8, &e), 0);
    }
    /* A bias in a model said to have none is not ignored. */
    t.qkv_bias = 1;
    load_tiny(&t);
    assert_int_not_equal(open_patched(find_text("blk.0.attn_q.bias"), "X", 1, &e), 0);
    assert_int_not_equal(open_patched(find_text("blk.1.attn_k.bias"), "X", 1, &e), 0);
    assert_int_equal(open_patched(find_text("qwen2") + 4, "9", 1, &e), ERR_UNSUPPORTED); /* qwen9 */
    assert_non_null(strstr(e.text, "qwen9"));
}

static void a_norm_with_nan_is_refused(void **state)
{
    (void)state;
    struct tiny_model t = tiny_model_default();
    load_tiny(&t);
    struct model *m;
    struct err e;
    assert_int_equal(model_open(path, kernels_get("ref"), NULL, NULL, &m, &e), 0);
    size_t size;
    size_t at = (size_t)(gguf_tensor(model_gguf(m), "blk.1.attn_norm.weight")->data -
                         gguf_bytes(model_gguf(m), &size));
    model_close(m);
    const float nan = NAN;
    assert_int_equal(open_patched(at + 4, &nan, 4, &e), ERR_FORMAT);
}

/* Cut anywhere, or with any byte of the header changed, the file is refused or opens; nothing worse. */
static void damage_is_survived(void **state)
{
    (void)state;
    struct tiny_model t = tiny_model_default();
    t.L = 1;
    load_tiny(&t);
    struct err e;
    size_t header = find_text("output_norm.weight") + 200; /* everything before the tensors' bytes */
    uint64_t x = 88172645463325252u;
    int refused = 0;
    for (int i = 0; i < 600; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint8_t byte = (uint8_t)(x >> 40);
        refused += open_patched((size_t)(x % header), &byte, 1, &e) != 0;
    }
    assert_true(refused > 20);
    char *cut = temp_path(folder, "cut.gguf");
    for (size_t n = 0; n < tiny.size; n += 1 + tiny.size / 200) {
        struct model *m;
        temp_write(folder, "cut.gguf", tiny.bytes, n);
        assert_int_not_equal(model_open(cut, kernels_get("ref"), NULL, NULL, &m, &e), 0);
        assert_null(m);
    }
    free(cut);
    struct model *m;
    assert_int_equal(model_open("/nonexistent/m.gguf", kernels_get("ref"), NULL, NULL, &m, &e),
                     ERR_NOT_FOUND);
}

static int free_tiny(void **state)
{
    free(tiny.bytes);
    tiny.bytes = NULL;
    return teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(honest_files_open),
        cmocka_unit_test(the_hash_follows_the_bytes),
        cmocka_unit_test(numbers_that_cannot_be_are_refused),
        cmocka_unit_test(missing_or_wrong_tensors_are_refused),
        cmocka_unit_test(a_norm_with_nan_is_refused),
        cmocka_unit_test(damage_is_survived),
    };
    return cmocka_run_group_tests(tests, setup, free_tiny);
}
