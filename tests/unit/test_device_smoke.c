/* SPDX-License-Identifier: Apache-2.0 */
/* test_device_smoke.c - every op of a device once, in its place: small engines of made-up weights read and
 * answer; reading at once, in pieces and token by token agree, two runs give the same bits. Small enough for
 * compute-sanitizer, which wants many times the time: arguments pick a case by its
 * number, a length, and (any third one) few steps. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/device/device_engine.h"

static const struct smoke {
    size_t H, HK, D;
    int format;
    enum device_weight_format weights;
} cases[] = {
    {4, 2, 64, KV_4, DEVICE_W_W8},      {8, 2, 128, KV_4, DEVICE_W_W4},      {3, 3, 64, KV_8, DEVICE_W_FP8},
    {7, 1, 128, KV_K8V4, DEVICE_W_F16}, {4, 4, 128, KV_RAW, DEVICE_W_W4G32},
};
enum { CASES = sizeof cases / sizeof cases[0], V = 300, MOST = 150 };

/* The sanitizers make arithmetic ten times slower. */
#ifdef __SANITIZE_ADDRESS__
enum { RUN = 2 };
#else
enum { RUN = CASES };
#endif

static int only = -1;        /* the case that an argument picked */
static size_t length = MOST; /* of the text; a second argument */
static int brief;            /* a third one */

struct world {
    struct cache_layout layout;
    struct device_engine *engine;
    struct device_session *session;
};

static void open_world(struct world *w, const struct smoke *c, const char *device)
{
    struct err e = {0};
    const struct device_shape shape = {.name = "smoke",
                                       .L = 2,
                                       .C = 256,
                                       .H = c->H,
                                       .HK = c->HK,
                                       .D = c->D,
                                       .F = 320,
                                       .V = V,
                                       .norm_eps = 1e-5f,
                                       .rope_base = 10000,
                                       .rope = ROPE_HALVES,
                                       .qkv_bias = 1};
    uint8_t retrieval[2 * 4];
    for (size_t i = 0; i < 2 * c->HK; i++)
        retrieval[i] = i % 2 == 0 || c->HK == 1;
    assert_int_equal(cache_layout_init(&w->layout, 2, c->HK, c->D, 16, 40, c->format, retrieval, &e), 0);
    struct device_options o = {.device = device, .weights = c->weights, .context = 1024, .chunk = 128};
    if (device_engine_open_shape(&w->engine, &o, &shape, &w->layout, 7, &e))
        fail_msg("%s", e.text);
    assert_int_equal(device_session_create(&w->session, w->engine, &e), 0);
}

static void close_world(struct world *w)
{
    device_session_free(w->session);
    device_engine_close(w->engine);
    cache_layout_fini(&w->layout);
}

static void pass(struct world *w, const uint32_t *ids, size_t n, struct device_pass p)
{
    struct err e = {0};
    if (device_session_pass(w->session, ids, n, &p, &e))
        fail_msg("%s", e.text);
}

/* ids in passes of at most `step` tokens that stay in a page when they are few; the last token's logits. */
static void read_all(struct world *w, const uint32_t *ids, size_t step, float *last, double *mass)
{
    device_session_reset(w->session);
    for (size_t at = 0; at < length;) {
        size_t n = length - at < step ? length - at : step, page = 64 - at % 64;
        if (step <= DEVICE_DECODE_T && n > page)
            n = page;
        pass(w, ids + at, n, (struct device_pass){.last = last, .mass = step == 1 ? mass : NULL});
        at += n;
    }
}

/* Codes of pages may round otherwise; FP8 weights meet rounded rows when a pass is long. */
static void close_enough(const float *a, const float *b, double tolerance)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < V; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += (double)a[i] * a[i];
    }
    assert_true(size > 0 && difference <= tolerance * tolerance * size);
}

/* Four rows, a listed step and an audited one. */
static void steps_of_all_kinds(struct world *w, const uint32_t *ids)
{
    uint32_t best[4];
    float last[V];
    double visited[2] = {0};
    pass(w, ids, 4, (struct device_pass){.best = best});
    for (int i = 0; i < 4; i++)
        assert_true(best[i] < V);
    device_session_select(w->session, &(struct device_selection){.budget = 2, .recent = 1});
    pass(w, ids, 1, (struct device_pass){.last = last});
    device_session_select(w->session, &(struct device_selection){.budget = 2, .recent = 1, .audit = 1});
    pass(w, ids, 1, (struct device_pass){.last = last, .visited = visited});
    assert_true(visited[0] > 0 && visited[0] <= visited[1] * 1.0001);
}

static void one_case(const struct smoke *c, const char *device)
{
    uint32_t ids[MOST];
    float whole[V], pieces[V], steps[V], again[V];
    double mass[3] = {0};
    struct world w;
    open_world(&w, c, device);
    for (size_t i = 0; i < length; i++)
        ids[i] = (uint32_t)(i * 131 + i / 7 * 17) % V;
    read_all(&w, ids, 128, whole, NULL);
    if (brief) { /* one step with shares instead */
        pass(&w, ids, 1, (struct device_pass){.last = again, .mass = mass});
        assert_true(fabs(mass[0] + mass[1] + mass[2] - 1) < 0.01);
        steps_of_all_kinds(&w, ids);
        close_world(&w);
        return;
    }
    read_all(&w, ids, 4, pieces, NULL);
    read_all(&w, ids, 1, steps, mass);
    read_all(&w, ids, 128, again, NULL);
    assert_memory_equal(whole, again, sizeof whole);
    assert_memory_equal(pieces, steps, sizeof pieces); /* a row does not hang on T */
    close_enough(whole, steps, c->weights == DEVICE_W_FP8 ? 0.15 : 0.05);
    assert_true(fabs(mass[0] + mass[1] + mass[2] - (double)length) < 0.1);
    steps_of_all_kinds(&w, ids);
    close_world(&w);
}

static void all_cases(const char *device)
{
    for (int i = 0; i < CASES; i++)
        if (only == i || (only < 0 && i < RUN))
            one_case(&cases[i], device);
}

static void test_host(void **state)
{
    (void)state;
    all_cases("host");
}

static void test_cuda(void **state)
{
    (void)state;
    struct err e = {0};
    struct device *d;
    if (device_open(&d, "cuda", NULL, 0, &e)) {
        print_message("%s\n", e.text);
        skip();
    }
    device_close(d);
    all_cases("cuda");
}

int main(int argc, char **argv)
{
    only = argc > 1 ? atoi(argv[1]) : -1;
    brief = argc > 3;
    length = argc > 2 && atoi(argv[2]) > 64 && atoi(argv[2]) < MOST ? (size_t)atoi(argv[2]) : MOST;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_host), cmocka_unit_test(test_cuda)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
