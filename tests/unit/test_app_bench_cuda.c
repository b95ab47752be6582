/* SPDX-License-Identifier: Apache-2.0 */
/* test_app_bench_cuda.c - `lectern bench cuda` without a card: every measure on the host device at a tiny
 * shape, plans that fail, which plans are meant, shapes, CSV and drawing. No times are judged. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/bench_cuda_measure.h"

static const struct card_shape tiny = {"tiny", 2, 4, 2, 64, 128, 128, 320, 10000, 0, 1, 0.5, 1};

/* ---- shapes and plans ------------------------------------------------------------------------------------
 */

static void shapes_spread_their_heads(void **state)
{
    (void)state;
    size_t n;
    const struct card_shape *s = card_shapes(&n);
    for (size_t i = 0; i < n; i++) {
        size_t half = 0, all = 0, quarter = 0;
        for (size_t l = 0; l < s[i].L; l++) {
            assert_true(card_shape_retrieval(&s[i], 0.5, l) <= s[i].HK);
            quarter += card_shape_retrieval(&s[i], 0.25, l);
            half += card_shape_retrieval(&s[i], 0.5, l);
            all += card_shape_retrieval(&s[i], 1, l);
        }
        assert_int_equal(all, s[i].L * s[i].HK);
        assert_int_equal(half, s[i].L * s[i].HK / 2);
        assert_int_equal(quarter, s[i].L * s[i].HK / 4);
        assert_ptr_equal(card_shape_find(s[i].name), &s[i]);
    }
    assert_null(card_shape_find("llama"));
    const struct card_shape *llama = card_shape_find("llama-3-8b");
    assert_true(card_shape_flops(llama) > 13.9e9 && card_shape_flops(llama) < 14.0e9);
    /* 262,144 for each pair of a token and a past one when half of the heads retrieve */
    assert_true(card_attention_flops(llama, 0.5, 1000, 1) == 262144.0 * 1001);
    assert_true(card_attention_flops(llama, 0.5, 0, 3) == 262144.0 * 6);
}

static int wanted(const char *rows, const char *plan, int minutes)
{
    size_t n;
    const struct card_plan *p = card_plans(&n);
    struct card_options o = {.rows = rows, .shape = card_shape_find("llama-3-8b"), .minutes = minutes};
    for (size_t i = 0; i < n; i++) {
        char name[48];
        card_plan_name(&p[i], o.shape, name);
        if (!strcmp(name, plan))
            return card_plan_wanted(&p[i], &o);
    }
    fail_msg("no plan %s", plan);
    return 0;
}

static void names_choose_plans(void **state)
{
    (void)state;
    assert_true(wanted(NULL, "decode.w8.kv4.half", 0));
    assert_true(wanted("decode", "decode.w8.kv4.half", 0));
    assert_true(wanted("linear,decode.w8", "decode.w8.kv4.half", 0));
    assert_false(wanted("decode.w", "decode.w8.kv4.half", 0));
    assert_false(wanted("linear,verify", "decode.w8.kv4.half", 0));
    assert_true(wanted("prefill", "prefill.w8.kv4.half", 0));
    assert_false(wanted("prefill", "prefill-attention.kv4.all", 0));
    assert_false(wanted("prefill", "prefill.w8.kv4.half.1m", 0));
    assert_true(wanted("prefill", "prefill.w8.kv4.half.1m", 2));
    assert_true(wanted("prefill.w8.kv4.half.1m", "prefill.w8.kv4.half.1m", 0));
}

static void names_are_unique(void **state)
{
    (void)state;
    size_t n, shapes;
    const struct card_plan *p = card_plans(&n);
    const struct card_shape *s = card_shapes(&shapes);
    for (size_t k = 0; k < shapes; k++)
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i; j++) {
                char a[48], b[48];
                card_plan_name(&p[i], &s[k], a);
                card_plan_name(&p[j], &s[k], b);
                if (!strcmp(a, b))
                    fail_msg("%s twice", a);
            }
}

/* ---- every measure ---------------------------------------------------------------------------------------
 */

struct seen {
    size_t rows, limits;
};

static void on_limits(void *arg, const struct card_result *r)
{
    struct seen *s = arg;
    s->limits++;
    assert_true(r->limits[DEVICE_LIMIT_READ] > 0);
}

static void on_row(void *arg, const struct card_result *r, const struct card_row *row)
{
    struct seen *s = arg;
    s->rows++;
    assert_ptr_equal(row, &r->rows[r->n_rows - 1]);
}

static struct card_options host_options(const struct card_plan *plans, size_t n)
{
    return (struct card_options){
        .device = "host", .shape = &tiny, .minutes = 2, .chunk = 128, .plans = plans, .n_plans = n};
}

static const struct card_plan every[] = {
    {CARD_DECODE, "w8", KV_RAW, 1, {1024}, 0, 1, 0},
    {CARD_DECODE, "w8", KV_4, -1, {1024, 2048}, 0, 1, 0},
    {CARD_ATTENTION, "", KV_8, -1, {1024}, 0, 1, 0},
    {CARD_LINEAR, "w4", 0, 1, {0}, 0, 1, 0},
    {CARD_PREFILL_ATTENTION, "", KV_4, 1, {256}, 0, 1, 0},
    {CARD_PREFILL, "f16", KV_RAW, 1, {192}, 0, 1, 0},
    {CARD_PREFILL, "f16", KV_4, -1, {128, 192}, 0, 1, 0},
    {CARD_CAPACITY, "w8", KV_4, -1, {8192}, 0, 1, 0},
    {CARD_VERIFY, "w8", KV_4, -1, {1024}, 0, 1, 0},
    {CARD_SELECTION, "w8", KV_4, -1, {16384}, 0, 1, 0},
    {CARD_ENGINE, "w8", KV_4, -1, {256}, 0, 1, 0},
    {CARD_RESTORE, "w8", KV_4, -1, {4096}, 0, 1, 0},
};
enum { EVERY = sizeof every / sizeof every[0] };

static size_t rows_of(const struct card_result *r, const char *work)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_rows; i++)
        n += !strcmp(r->rows[i].work, work) && !r->rows[i].failed;
    return n;
}

static void check_rows(const struct card_result *r)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct card_row *row = &r->rows[i];
        if (row->failed)
            fail_msg("%s: %s", row->plan, row->note);
        if (!(row->ms > 0) || !(row->low <= row->ms) || !(row->high >= row->ms) ||
            !(row->flops > 0 || row->bytes > 0))
            fail_msg("%s: %g ms, %g .. %g", row->plan, row->ms, row->low, row->high);
    }
}

static void check_texts(const struct card_result *r)
{
    struct buf out = {0};
    card_text_head(r, "2020-01-02", &out);
    card_text_columns(&out);
    for (size_t i = 0; i < r->n_rows; i++)
        card_text_row(r, &r->rows[i], &out);
    card_text_others(r, &out);
    assert_non_null(strstr(out.data, "host"));
    buf_clear(&out);
    card_csv(r, "2020-01-02", &out);
    size_t lines = 0, commas = 0, quoted = 0;
    for (const char *p = out.data; *p; p++) {
        quoted ^= *p == '"';
        commas += *p == ',' && !quoted;
        lines += *p == '\n';
    }
    assert_int_equal(lines, 1 + CARD_LIMIT_KINDS + r->n_rows);
    assert_int_equal(commas, lines * 26); /* every line has the 27 columns of the first */
    buf_clear(&out);
    card_svg(r, "2020-01-02", &out);
    assert_non_null(strstr(out.data, "decode.w8.kv4.half"));
    assert_null(strstr(out.data, "nan"));
    assert_null(strstr(out.data, "inf"));
    buf_free(&out);
}

static void every_measure_runs(void **state)
{
    (void)state;
    struct card_options o = host_options(every, EVERY);
    struct seen seen = {0};
    struct card_listener listener = {on_limits, on_row, &seen};
    struct card_result r;
    struct err e = {0};
    if (card_bench_run(&o, &listener, &r, &e))
        fail_msg("%s", e.text);
    check_rows(&r);
    assert_int_equal(seen.rows, r.n_rows);
    assert_int_equal(seen.limits, 1);
    assert_int_equal(rows_of(&r, "decode"), 3);
    assert_int_equal(rows_of(&r, "attention"), 2);
    assert_int_equal(rows_of(&r, "linear"), 14);
    assert_int_equal(rows_of(&r, "prefill-attention"), 1);
    assert_int_equal(rows_of(&r, "prefill"), 3);
    assert_int_equal(rows_of(&r, "capacity"), 2);
    assert_int_equal(rows_of(&r, "verify"), 4);
    assert_int_equal(rows_of(&r, "selection"), 1);
    assert_int_equal(rows_of(&r, "engine"), 2);
    assert_int_equal(rows_of(&r, "restore"), 2);
    assert_ptr_equal(card_full(&r, &r.rows[1]), &r.rows[0]); /* raw, all heads, 1,024 tokens */
    assert_null(card_full(&r, &r.rows[2]));
    check_texts(&r);
    card_result_fini(&r);
}

/* ---- failures --------------------------------------------------------------------------------------------
 */

static void a_failing_plan_loses_no_other(void **state)
{
    (void)state;
    static const struct card_plan plans[] = {
        {CARD_DECODE, "w8", KV_4, -1, {1024, UINT64_C(1) << 40}, 0, 1, 0}, /* the longer one cannot fit */
        {CARD_DECODE, "w8", KV_4, 1, {UINT64_C(1) << 40}, 0, 1, 0},
        {CARD_LIMITS, "w8", KV_4, 1, {64}, 0, 1, 0}, /* nothing measures it */
        {CARD_ATTENTION, "", KV_4, -1, {1024}, 0, 1, 0},
    };
    struct card_options o = host_options(plans, 4);
    struct card_result r;
    struct err e = {0};
    assert_int_equal(card_bench_run(&o, NULL, &r, &e), 0);
    assert_int_equal(r.n_rows, 6);
    assert_true(r.rows[0].failed && strstr(r.rows[0].note, "does not fit"));
    assert_false(r.rows[1].failed);
    assert_true(r.rows[2].failed && r.rows[3].failed);
    assert_false(r.rows[4].failed || r.rows[5].failed);
    struct buf out = {0};
    card_text_row(&r, &r.rows[0], &out);
    assert_non_null(strstr(out.data, "not measured: does not fit"));
    buf_free(&out);
    card_result_fini(&r);
}

static void no_card_is_told(void **state)
{
    (void)state;
    struct card_options o = host_options(every, EVERY);
    struct card_result r;
    struct err e = {0};
    o.device = "cuda";
    o.library = "/nowhere/liblectern_cuda.so";
    assert_int_not_equal(card_bench_run(&o, NULL, &r, &e), 0);
    assert_int_equal(r.n_rows, 0);
    assert_true(strlen(e.text) > 0);
    card_result_fini(&r);
}

static void an_unknown_row_is_a_usage_error(void **state)
{
    (void)state;
    struct card_options o = host_options(every, EVERY);
    struct card_result r;
    struct err e = {0};
    o.rows = "decoder";
    assert_int_equal(card_bench_run(&o, NULL, &r, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "decoder"));
    card_result_fini(&r);
}

static void medians_and_spread(void **state)
{
    (void)state;
    struct card_samples s = {0};
    struct card_row row = {0};
    for (int i = 20; i >= 1; i--)
        card_sample(&s, i);
    card_row_samples(&row, &s);
    assert_true(row.ms == 10.5 && row.low == 3 && row.high == 18 && row.n == 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_spread_their_heads),
        cmocka_unit_test(names_choose_plans),
        cmocka_unit_test(names_are_unique),
        cmocka_unit_test(every_measure_runs),
        cmocka_unit_test(a_failing_plan_loses_no_other),
        cmocka_unit_test(no_card_is_told),
        cmocka_unit_test(an_unknown_row_is_a_usage_error),
        cmocka_unit_test(medians_and_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
