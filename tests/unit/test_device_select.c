/* SPDX-License-Identifier: Apache-2.0 */
/* test_device_select.c - page selection: the host op against plain sums in double, the card's against the
 * host's. Two lists may differ only in pages whose scores lie within rounding of the last one kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/half.h"

enum { D_MAX = 128, COLUMNS_MAX = 32, GUARD = 0x5a5a5a5a };

struct shape {
    size_t D, HK, G, T;
    size_t position, budget, recent, sink_pages;
    enum rope_kind kind;
    int content; /* of the summaries: 0 random, 1 all equal, 2 few values, 3 one giant, 4 zeros */
};

/* One layer behind another of as many heads (to have an offset), in a device's memory and in the test's. */
struct world {
    struct device *d;
    struct shape s;
    struct device_kv kv;
    uint32_t hr[2], hr_before[2], hs_before[2], heads[64];
    size_t blocks;
    uint8_t *host; /* [blocks][block_bytes] */
    float *qkv;    /* [T][ld] */
    size_t ld;
    uint64_t steps[D_MAX / 2];
    struct device_select_args a;
    void *block_memory, *table, *step, *qkv_memory, *step_memory;
};

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 33;
}

static float random_float(void)
{
    return (float)next_random() / 0x1p30f - 1;
}

static void *take(struct device *d, size_t bytes)
{
    struct err e = {0};
    void *p = NULL;
    if (d->ops->alloc(d, bytes, &p, &e))
        fail_msg("%s", e.text);
    return p;
}

static void put(struct device *d, void *to, const void *from, size_t bytes)
{
    struct err e = {0};
    d->ops->upload(d, DEVICE_COMPUTE, to, from, bytes);
    assert_int_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
}

static const uint8_t *summary(const struct world *w, size_t page, size_t slot)
{
    const struct device_kv *kv = &w->kv;
    return w->host + page / DEVICE_BLOCK_PAGES * kv->block_bytes +
           DEVICE_BLOCK_PAGES * kv->HR * kv->record_bytes +
           (kv->hr_before[1] * DEVICE_BLOCK_PAGES + page % DEVICE_BLOCK_PAGES * kv->hr[1] + slot) *
               kv->scan_bytes;
}

static void fill_summaries(struct world *w)
{
    size_t D = w->s.D;
    memset(w->host, 0, w->blocks * w->kv.block_bytes);
    for (size_t p = 0; p < w->blocks * DEVICE_BLOCK_PAGES; p++)
        for (size_t slot = 0; slot < w->kv.hr[1]; slot++) {
            uint8_t *x = (uint8_t *)(uintptr_t)summary(w, p, slot);
            float scale = 0.01f + fabsf(random_float()) * 0.02f;
            for (size_t c = 0; c < D; c++)
                switch (w->s.content) {
                case 0:
                    x[c] = (uint8_t)(int8_t)(next_random() % 255 - 127);
                    break;
                case 1:
                    x[c] = (uint8_t)(int8_t)(c % 200 - 60);
                    break;
                case 2:
                    x[c] = (uint8_t)(p % 3);
                    break;
                case 3:
                    x[c] = (uint8_t)(int8_t)(next_random() % 3 - 1);
                    break;
                default:
                    break;
                }
            if (w->s.content == 3 && p == 7)
                scale = 60000;
            uint16_t h = half_from_float(w->s.content == 1 || w->s.content == 2 ? 0.01f : scale);
            memcpy(x + D, &h, 2);
        }
}

static void world_shape(struct world *w, const struct shape *s)
{
    struct device_kv *kv = &w->kv;
    w->hr[0] = w->hr[1] = w->hr_before[1] = (uint32_t)s->HK;
    for (size_t i = 0; i < s->HK; i++)
        w->heads[i] = w->heads[2 * s->HK - 1 - i] = (uint32_t)i; /* the second layer's in another order */
    *kv = (struct device_kv){.L = 2, .H = s->HK * s->G, .HK = s->HK, .D = s->D, .HR = 2 * s->HK};
    kv->format = KV_4;
    kv->record_bytes = 64; /* select looks at no record */
    kv->scan_bytes = kv_scan_bytes(s->D);
    kv->block_bytes = DEVICE_BLOCK_PAGES * kv->HR * (kv->record_bytes + kv->scan_bytes);
    kv->sink_pages = s->sink_pages;
    kv->hr = w->hr;
    kv->hr_before = w->hr_before;
    kv->hs_before = w->hs_before;
    kv->heads_host = w->heads;
    w->blocks = s->position / KV_PAGE_TOKENS / DEVICE_BLOCK_PAGES + 1;
    kv->cap_blocks = w->blocks;
}

static void world_open(struct world *w, struct device *d, const struct shape *s, uint64_t seed)
{
    *w = (struct world){.d = d, .s = *s};
    random_state = seed;
    world_shape(w, s);
    struct device_kv *kv = &w->kv;
    w->host = malloc(w->blocks * kv->block_bytes);
    w->ld = (s->HK * s->G + 2 * s->HK) * s->D + 8;
    w->qkv = malloc(s->T * w->ld * sizeof *w->qkv);
    uint64_t *table = malloc(w->blocks * sizeof *table);
    assert_true(w->host && w->qkv && table);
    fill_summaries(w);
    for (size_t i = 0; i < s->T * w->ld; i++)
        w->qkv[i] = random_float() * 3;
    for (size_t i = 0; i < s->D / 2; i++)
        w->steps[i] =
            (uint64_t)(pow(10000, -2.0 * (double)i / (double)s->D) / 6.283185307179586 * 0x1p63) * 2;
    struct device_step step = {.position = s->position};
    w->block_memory = take(d, w->blocks * kv->block_bytes);
    w->table = take(d, w->blocks * sizeof *table);
    w->step = take(d, sizeof step);
    w->qkv_memory = take(d, s->T * w->ld * sizeof *w->qkv);
    w->step_memory = take(d, sizeof w->steps);
    kv->heads = take(d, sizeof w->heads);
    for (size_t b = 0; b < w->blocks; b++)
        table[b] = (uint64_t)(uintptr_t)w->block_memory + b * kv->block_bytes;
    put(d, w->block_memory, w->host, w->blocks * kv->block_bytes);
    put(d, w->table, table, w->blocks * sizeof *table);
    put(d, w->step, &step, sizeof step);
    put(d, w->qkv_memory, w->qkv, s->T * w->ld * sizeof *w->qkv);
    put(d, w->step_memory, w->steps, sizeof w->steps);
    put(d, (void *)(uintptr_t)kv->heads, w->heads, sizeof w->heads);
    kv->blocks = w->table;
    free(table);
}

static void world_close(struct world *w)
{
    const struct device_ops *ops = w->d->ops;
    void *all[] = {w->block_memory, w->table,       w->step,
                   w->qkv_memory,   w->step_memory, (void *)(uintptr_t)w->kv.heads};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ops->release(w->d, all[i]);
    free(w->host);
    free(w->qkv);
}

/* pages [HK][stride] and counts [HK] as the device makes them. */
static void run_select(struct world *w, uint32_t *pages, uint32_t *counts)
{
    struct device *d = w->d;
    const struct shape *s = &w->s;
    size_t stride = s->budget + 3, bytes = s->HK * stride * sizeof *pages;
    size_t scratch = d->ops->select_scratch_bytes(d, &w->kv, s->position);
    struct device_select_args a = {
        .kv = &w->kv,
        .layer = 1,
        .qkv = w->qkv_memory,
        .ldqkv = w->ld,
        .step = w->step,
        .T = s->T,
        .rope = {.steps = w->step_memory, .half = s->D / 2, .kind = s->kind, .attn_factor = 1},
        .budget = s->budget,
        .recent = s->recent,
        .pages = take(d, bytes),
        .counts = take(d, s->HK * sizeof *counts),
        .stride = stride,
        .scratch = take(d, scratch + 256),
        .scratch_bytes = scratch,
    };
    struct err e = {0};
    d->ops->fill(d, DEVICE_COMPUTE, a.pages, GUARD & 0xff, bytes);
    d->ops->fill(d, DEVICE_COMPUTE, a.counts, 0xff, s->HK * sizeof *counts);
    d->ops->fill(d, DEVICE_COMPUTE, a.scratch, 0xff, scratch + 256); /* NaN */
    d->ops->select(d, &a);
    d->ops->download(d, DEVICE_COMPUTE, pages, a.pages, bytes);
    d->ops->download(d, DEVICE_COMPUTE, counts, a.counts, s->HK * sizeof *counts);
    if (d->ops->sync(d, DEVICE_COMPUTE, &e))
        fail_msg("%s", e.text);
    d->ops->release(d, a.pages);
    d->ops->release(d, a.counts);
    d->ops->release(d, a.scratch);
}

/* q of (slot, row, g), rotated in double. */
static void rotated(const struct world *w, size_t slot, size_t t, size_t g, double *q)
{
    const struct shape *s = &w->s;
    size_t head = w->heads[s->HK + slot], half = s->D / 2;
    const float *x = w->qkv + t * w->ld + (head * s->G + g) * s->D;
    for (size_t i = 0; i < half; i++) {
        size_t at = s->kind == ROPE_PAIRS ? 2 * i : i, to = s->kind == ROPE_PAIRS ? at + 1 : i + half;
        uint64_t phase = (s->position + t) * w->steps[i];
        double angle = (double)(int64_t)phase * (6.283185307179586476925 * 0x1p-64);
        q[at] = (double)x[at] * cos(angle) - (double)x[to] * sin(angle);
        q[to] = (double)x[at] * sin(angle) + (double)x[to] * cos(angle);
    }
}

static void true_scores(const struct world *w, size_t slot, size_t n, double *scores)
{
    static double q[COLUMNS_MAX][D_MAX];
    const struct shape *s = &w->s;
    for (size_t i = 0; i < s->T * s->G; i++)
        rotated(w, slot, i / s->G, i % s->G, q[i]);
    for (size_t p = 0; p < n; p++) {
        const uint8_t *x = summary(w, p, slot);
        uint16_t h;
        memcpy(&h, x + s->D, 2);
        scores[p] = -INFINITY;
        for (size_t i = 0; i < s->T * s->G; i++) {
            double sum = 0;
            for (size_t c = 0; c < s->D; c++)
                sum += q[i][c] * (int8_t)x[c];
            sum *= (double)half_to_float(h);
            scores[p] = sum > scores[p] ? sum : scores[p];
        }
    }
}

/* The list's form, and that no page was left out that is clearly better than one that was taken. */
static void check_list(const struct world *w, size_t slot, const uint32_t *pages, size_t count)
{
    const struct shape *s = &w->s;
    size_t n = s->position / KV_PAGE_TOKENS, want = n < s->budget ? n : s->budget;
    size_t first = s->sink_pages ? s->sink_pages : 1;
    first = first < want ? first : want;
    size_t last = s->recent < want - first ? s->recent : want - first;
    assert_int_equal(count, want);
    for (size_t i = 0; i < count; i++) {
        assert_true(pages[i] < n && (!i || pages[i] > pages[i - 1]));
        if (i < first)
            assert_int_equal(pages[i], i);
        if (i >= count - last)
            assert_int_equal(pages[i], n - (count - i));
    }
    for (size_t i = count; i < s->budget + 3; i++)
        assert_int_equal(pages[i], GUARD);
    if (count == n)
        return;
    double *scores = malloc(n * sizeof *scores), worst_in = INFINITY, best_out = -INFINITY, size = 0;
    true_scores(w, slot, n, scores);
    for (size_t p = first, i = first; p < n - last; p++) {
        int in = i < count && pages[i] == p;
        i += (size_t)in;
        if (in && scores[p] < worst_in)
            worst_in = scores[p];
        if (!in && scores[p] > best_out)
            best_out = scores[p];
        if (p != 7 || s->content != 3)
            size = fabs(scores[p]) > size ? fabs(scores[p]) : size;
    }
    if (!(worst_in >= best_out - size * 1e-4))
        fail_msg("slot %zu: a page of %g was taken, one of %g left out (scale %g)", slot, worst_in, best_out,
                 size);
    free(scores);
}

static void check_shape(struct device *d, const struct shape *s, uint64_t seed)
{
    struct world w;
    world_open(&w, d, s, seed);
    size_t stride = s->budget + 3, cells = s->HK * stride;
    uint32_t *pages = malloc(cells * sizeof *pages), *again = malloc(cells * sizeof *again);
    uint32_t counts[64], counts_again[64];
    assert_true(pages && again && s->HK <= 32 && s->G * s->T <= COLUMNS_MAX);
    run_select(&w, pages, counts);
    run_select(&w, again, counts_again);
    assert_memory_equal(pages, again, cells * sizeof *pages);
    assert_memory_equal(counts, counts_again, s->HK * sizeof *counts);
    for (size_t slot = 0; slot < s->HK; slot++)
        check_list(&w, slot, pages + slot * stride, counts[slot]);
    free(pages);
    free(again);
    world_close(&w);
}

static const struct shape shapes[] = {
    {64, 1, 1, 1, 0, 4, 1, 1, ROPE_HALVES, 0},
    {64, 2, 3, 1, 63, 4, 1, 1, ROPE_HALVES, 0},
    {128, 2, 4, 1, 64, 4, 1, 1, ROPE_PAIRS, 0},
    {64, 3, 3, 1, 64 * 8 + 5, 8, 2, 1, ROPE_HALVES, 0},
    {64, 3, 3, 2, 64 * 9, 8, 2, 1, ROPE_HALVES, 0},
    {128, 2, 4, 4, 64 * 100 + 63, 16, 4, 2, ROPE_PAIRS, 0},
    {128, 8, 4, 1, 64 * 333 + 1, 40, 4, 1, ROPE_PAIRS, 0},
    {128, 4, 7, 2, 64 * 257, 33, 1, 1, ROPE_HALVES, 0},
    {64, 2, 8, 4, 64 * 1023 + 9, 129, 0, 0, ROPE_HALVES, 0},
    {128, 1, 1, 3, 64 * 5000, 64, 4, 1, ROPE_PAIRS, 0},
    {64, 1, 3, 1, 64 * 40, 1, 4, 1, ROPE_HALVES, 0},  /* a budget for the sink alone */
    {64, 1, 3, 1, 64 * 40, 5, 90, 2, ROPE_HALVES, 0}, /* and for the last pages */
    {64, 2, 3, 1, 64 * 700, 100, 4, 1, ROPE_HALVES, 1},
    {64, 2, 3, 1, 64 * 4000, 600, 4, 1, ROPE_HALVES, 2},
    {64, 2, 3, 1, 64 * 3000, 200, 4, 1, ROPE_HALVES, 3},
    {64, 2, 3, 1, 64 * 3000, 200, 4, 1, ROPE_HALVES, 4},
};

static struct device *open_named(const char *name)
{
    struct err e = {0};
    struct device *d = NULL;
    if (device_open(&d, name, NULL, 0, &e)) {
        print_message("%s: %s\n", name, e.text);
        return NULL;
    }
    if (!d->ops->select) {
        print_message("%s has no select\n", name);
        device_close(d);
        return NULL;
    }
    return d;
}

static void test_host(void **state)
{
    (void)state;
    struct device *d = open_named("host");
    assert_non_null(d);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_shape(d, &shapes[i], 77 + i);
    device_close(d);
}

/* Equal scores everywhere: the lowest pages. */
static void check_ties(const char *name)
{
    struct device *d = open_named(name);
    if (!d)
        skip();
    static const struct shape s = {64, 1, 3, 1, 64 * 3000 + 7, 50, 4, 1, ROPE_HALVES, 1};
    struct world w;
    uint32_t pages[53], count;
    world_open(&w, d, &s, 5);
    run_select(&w, pages, &count);
    assert_int_equal(count, 50);
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(pages[i], i < 46 ? i : 3000 - (50 - i));
    world_close(&w);
    device_close(d);
}

static void test_ties_go_to_the_lower_page(void **state)
{
    (void)state;
    check_ties("host");
}

static void test_wrong_shapes_are_refused(void **state)
{
    (void)state;
    struct device *d = open_named("host");
    assert_non_null(d);
    struct err e = {0};
    struct device_kv kv = {.D = 64};
    d->ops->select(d, &(struct device_select_args){.kv = &kv, .T = 1, .budget = 5, .stride = 4});
    assert_int_not_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
    device_close(d);
}

static void test_cuda_ties(void **state)
{
    (void)state;
    check_ties("cuda");
}

static void test_cuda(void **state)
{
    (void)state;
    struct device *d = open_named("cuda"), *host;
    if (!d)
        skip();
    host = open_named("host");
    assert_non_null(host);
    static const struct shape large[] = {
        {128, 1, 4, 1, 64 * 60000 + 5, 600, 4, 1, ROPE_HALVES, 0},
        {128, 2, 4, 4, 64 * 20000 + 63, 2000, 4, 1, ROPE_HALVES, 3},
        {128, 2, 4, 1, 64 * 20000, 2000, 4, 1, ROPE_HALVES, 2},
    };
    size_t n = sizeof shapes / sizeof *shapes, more = sizeof large / sizeof *large, differ = 0;
    for (size_t i = 0; i < n + more; i++) {
        const struct shape *s = i < n ? &shapes[i] : &large[i - n];
        check_shape(d, s, 77 + i);
        struct world w[2];
        size_t cells = s->HK * (s->budget + 3);
        uint32_t *pages[2], counts[2][64];
        for (int k = 0; k < 2; k++) {
            pages[k] = malloc(cells * sizeof **pages);
            assert_non_null(pages[k]);
            world_open(&w[k], k ? d : host, s, 77 + i);
            run_select(&w[k], pages[k], counts[k]);
            world_close(&w[k]);
        }
        for (size_t c = 0; c < cells; c++)
            differ += pages[0][c] != pages[1][c];
        free(pages[0]);
        free(pages[1]);
    }
    print_message("entries that differ from the host's: %zu\n", differ);
    device_close(host);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),      cmocka_unit_test(test_ties_go_to_the_lower_page),
        cmocka_unit_test(test_cuda),      cmocka_unit_test(test_wrong_shapes_are_refused),
        cmocka_unit_test(test_cuda_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
