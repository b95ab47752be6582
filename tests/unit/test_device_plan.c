/* SPDX-License-Identifier: Apache-2.0 */
/* test_device_plan.c - the memory planner: sizes by hand, what fits in 80 GB, refusals, and its numbers
 * against what an engine on the host device, and on a card where there is one, really takes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device/device_plan.h"

#define GB UINT64_C(1000000000)

static uint64_t some_scratch(void *arg, size_t tokens)
{
    return *(uint64_t *)arg + tokens * 2;
}

/* Every `keep`-th head of the pattern retrieves. */
static void make_layout(struct cache_layout *y, const struct device_shape *s, int format, size_t keep)
{
    struct err e = {0};
    uint8_t *retrieval = calloc(s->L, s->HK);
    assert_non_null(retrieval);
    for (size_t i = 0; keep && i < s->L * s->HK; i++)
        retrieval[i] = i % keep == 0;
    assert_int_equal(cache_layout_init(y, s->L, s->HK, s->D, 64, 256, format, retrieval, &e), 0);
    free(retrieval);
}

static void test_matrices(void **state)
{
    (void)state;
    assert_int_equal(plan_matrix_bytes(DEVICE_W_F16, TENSOR_F32, 16, 128), 4096);
    assert_int_equal(plan_matrix_bytes(DEVICE_W_F16, TENSOR_F32, 17, 129), 4 * 4096);
    assert_int_equal(plan_matrix_bytes(DEVICE_W_W8, TENSOR_F32, 16, 256), 2 * 2048 + 64);
    assert_int_equal(plan_matrix_bytes(DEVICE_W_AUTO, TENSOR_Q8_0, 4096, 4096), 4096 * 4096 / 32 * 34);
    assert_int_equal(plan_matrix_bytes(DEVICE_W_AUTO, TENSOR_Q4_1, 4096, 4096), 4096 * 4096 / 32 * 20);
    assert_int_equal(plan_matrix_bytes(DEVICE_W_W4, TENSOR_F16, 4096, 4096), 4096 * 4096 / 128 * 68);
    assert_int_equal(plan_matrix_bytes(DEVICE_W_AUTO, TENSOR_BF16, 1, 1), 4096);
    assert_int_equal(plan_matrix_bytes(DEVICE_W_F16, TENSOR_F32, SIZE_MAX / 2, SIZE_MAX / 2), UINT64_MAX);
    const struct device_shape *s = device_shape_find("llama-3-8b");
    uint64_t f16 = plan_weights_of_shape(s, DEVICE_W_F16), w8 = plan_weights_of_shape(s, DEVICE_W_W8),
             w4 = plan_weights_of_shape(s, DEVICE_W_W4);
    assert_in_range(f16, 16 * GB, 17 * GB);
    assert_in_range(w8, 8 * GB + GB / 2, 9 * GB + GB / 4);
    assert_in_range(w4, 5 * GB, 6 * GB);
}

static void test_a_card_of_80_gb(void **state)
{
    (void)state;
    const struct device_shape *s = device_shape_find("llama-3-8b");
    struct cache_layout y;
    make_layout(&y, s, KV_4, 2);
    uint64_t base = GB;
    struct device_plan_input in = {.shape = *s,
                                   .layout = &y,
                                   .weights = plan_weights_of_shape(s, DEVICE_W_W8),
                                   .context = 1 << 20,
                                   .card_free = (uint64_t)79 << 30,
                                   .host_free = 50 * GB,
                                   .scratch = some_scratch,
                                   .scratch_arg = &base};
    struct device_plan p;
    struct err e = {0};
    device_plan_make(&in, &p);
    assert_int_equal(device_plan_check(&in, &p, &e), 0);
    assert_int_equal(p.kv_host, 0);
    assert_int_equal(p.kv_card, 1024 * p.block_bytes);
    assert_int_equal(p.block_bytes, 16 * 128 * (8960 + 144));
    assert_in_range(p.fit_card, 3800000, 4300000);
    assert_true(p.fit_all > p.fit_card + 2000000);
    /* at the edge: all on the card, and one block more is not */
    in.context = p.fit_card;
    device_plan_make(&in, &p);
    assert_int_equal(p.kv_host, 0);
    assert_int_equal(p.fit_card, in.context);
    uint64_t all = p.weights + p.work + p.scratch + p.rows + p.tables + p.reserve + p.kv_card;
    assert_true(all <= p.card_free && all + 2 * p.block_bytes > p.card_free);
    in.context = p.fit_card + 1;
    device_plan_make(&in, &p);
    assert_true(p.kv_host > 0 && device_plan_check(&in, &p, &e) == 0);
    /* at the other edge */
    in.context = p.fit_all;
    device_plan_make(&in, &p);
    assert_true(p.kv_host <= p.host_free && p.fit_all == in.context);
    assert_int_equal(device_plan_check(&in, &p, &e), 0);
    in.context++;
    device_plan_make(&in, &p);
    assert_int_equal(device_plan_check(&in, &p, &e), ERR_LIMIT);
    assert_non_null(strstr(e.text, "--context"));
    /* a budget for blocks */
    in.context = 1 << 20;
    in.kv_bytes = 10 * p.block_bytes + 5;
    device_plan_make(&in, &p);
    assert_int_equal(p.kv_card, 10 * p.block_bytes);
    assert_int_equal(p.fit_card, 10 * 1024);
    cache_layout_fini(&y);
}

static void test_small_cards(void **state)
{
    (void)state;
    const struct device_shape *s = device_shape_find("llama-3-8b");
    struct cache_layout y;
    make_layout(&y, s, KV_8, 1);
    struct device_plan_input in = {.shape = *s, .layout = &y, .card_free = 16 * GB};
    struct device_plan p;
    struct err e = {0};
    in.weights = plan_weights_of_shape(s, DEVICE_W_F16);
    device_plan_make(&in, &p);
    assert_int_equal(device_plan_check(&in, &p, &e), ERR_MEMORY);
    assert_non_null(strstr(e.text, "--weights"));
    assert_null(strchr(e.text, '\n'));
    assert_int_equal(p.fit_card, 0);
    in.weights = plan_weights_of_shape(s, DEVICE_W_W4);
    device_plan_make(&in, &p);
    assert_int_equal(device_plan_check(&in, &p, &e), 0);
    assert_true(p.fit_card > 10000);
    /* numbers out of a hostile file wrap nowhere */
    in.weights = UINT64_MAX - 5;
    in.context = SIZE_MAX;
    device_plan_make(&in, &p);
    assert_int_equal(device_plan_check(&in, &p, &e), ERR_MEMORY);
    cache_layout_fini(&y);
    make_layout(&y, s, KV_8, 0); /* every head streams: length costs nothing */
    in = (struct device_plan_input){.shape = *s, .layout = &y, .card_free = 80 * GB, .context = 1 << 30};
    device_plan_make(&in, &p);
    assert_true(p.fit_card == SIZE_MAX && !p.kv_card && !p.kv_host);
    assert_int_equal(device_plan_check(&in, &p, &e), 0);
    cache_layout_fini(&y);
}

/* What the plan says of buffers is what the engine takes. */
static void against_engine(const char *device)
{
    struct err e = {0};
    const struct device_shape small = {.name = "small",
                                       .L = 2,
                                       .C = 256,
                                       .H = 4,
                                       .HK = 2,
                                       .D = 64,
                                       .F = 384,
                                       .V = 515,
                                       .norm_eps = 1e-5f,
                                       .rope_base = 10000,
                                       .rope = ROPE_HALVES,
                                       .qkv_bias = 1};
    struct cache_layout y;
    make_layout(&y, &small, KV_4, 2);
    struct device *d;
    if (device_open(&d, device, NULL, 0, &e)) {
        cache_layout_fini(&y);
        print_message("%s\n", e.text);
        skip();
    }
    static const enum device_weight_format formats[] = {
        DEVICE_W_F16, DEVICE_W_BF16, DEVICE_W_FP8, DEVICE_W_W8, DEVICE_W_W8G32, DEVICE_W_W4, DEVICE_W_W4G32};
    int card = !strcmp(device, "cuda");
    for (size_t i = 0; card && i < sizeof formats / sizeof formats[0]; i++) {
        struct device_weight *w;
        if (d->ops->weight_random(d, formats[i], 72, 416, 1, &w, &e))
            fail_msg("%s", e.text);
        assert_int_equal(d->ops->weight_bytes(w), plan_matrix_bytes(formats[i], TENSOR_F16, 72, 416));
        d->ops->weight_free(d, w);
    }
    struct device_plan_input in = {.shape = small,
                                   .layout = &y,
                                   .weights = plan_weights_of_shape(&small, DEVICE_W_W8),
                                   .chunk = 128,
                                   .context = 4096};
    struct device_plan p;
    assert_int_equal(device_plan_ask(d, &in, &p, &e), 0);
    assert_true(p.card_free > 0 && p.host_free > 0 && p.scratch > 0);
    struct device_engine *g;
    struct device_session *s;
    struct device_options o = {.weights = DEVICE_W_W8, .context = 4096, .chunk = 128, .opened = d};
    if (device_engine_open_shape(&g, &o, &small, &y, 1, &e))
        fail_msg("%s", e.text);
    assert_int_equal(device_session_create(&s, g, &e), 0);
    uint64_t vectors = 4 * (2 * (2 * 256 + 8 * 64) + 256);
    if (card)
        assert_in_range(p.weights, device_engine_weight_bytes(g) + vectors,
                        device_engine_weight_bytes(g) + vectors + 16384);
    assert_in_range(device_engine_work_bytes(g), p.work + p.scratch, p.work + p.scratch + 256);
    assert_int_equal(device_session_card_bytes(s), p.rows);
    assert_int_equal(device_session_reserve(s, 4096, &e), 0);
    assert_true(device_session_card_bytes(s) + device_session_host_bytes(s) >=
                p.rows + p.kv_card + p.kv_host);
    device_session_free(s);
    device_engine_close(g);
    cache_layout_fini(&y);
}

static void test_against_engine_host(void **state)
{
    (void)state;
    against_engine("host");
}

static void test_against_engine_cuda(void **state)
{
    (void)state;
    against_engine("cuda");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matrices),
        cmocka_unit_test(test_a_card_of_80_gb),
        cmocka_unit_test(test_small_cards),
        cmocka_unit_test(test_against_engine_host),
        cmocka_unit_test(test_against_engine_cuda),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
