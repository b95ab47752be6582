/* SPDX-License-Identifier: Apache-2.0 */
/* test_kernels_linear.c - linear, lora and embed: against plain C and against a naive double product, and the
 * promise that a row's bits depend on that row alone. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/kernels_support.h"

static const enum tensor_type types[] = {TENSOR_F32,  TENSOR_F16,  TENSOR_BF16,
                                         TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q8_0};
enum { N_TYPES = sizeof types / sizeof *types, T_MAX = 130 };

static int quantised(enum tensor_type t)
{
    return t == TENSOR_Q4_0 || t == TENSOR_Q4_1 || t == TENSOR_Q8_0;
}

/* y [T][N] with the given pool; y is poisoned first when not accumulating. */
static void product(const struct kernels *k, struct pool *pool, const struct weight *w, const float *x,
                    size_t T, float *y, const float *bias, int accumulate)
{
    size_t K = weight_cols(w), N = weight_rows(w);
    size_t bytes = linear_scratch_bytes(T, K, pool_threads(pool));
    void *scratch = aligned_zero(bytes);
    memset(scratch, 0xff, bytes); /* NaNs: nothing may lean on old scratch */
    if (!accumulate)
        poison(y, T * N);
    struct linear_out out = {.w = w, .bias = bias, .y = y, .ldy = N, .accumulate = accumulate};
    k->linear(&(struct linear_args){.pool = pool,
                                    .x = x,
                                    .ldx = K,
                                    .T = T,
                                    .outs = &out,
                                    .n_outs = 1,
                                    .scratch = scratch,
                                    .scratch_bytes = bytes});
    free(scratch);
}

static struct weight *packed(enum tensor_type type, size_t N, size_t K, const uint8_t *raw)
{
    struct weight *w;
    struct err e = {0};
    assert_int_equal(weight_pack(kernels_get(NULL), type, N, K, raw, &w, &e), 0);
    assert_int_equal(weight_rows(w), N);
    assert_int_equal(weight_cols(w), K);
    return w;
}

/* Activations with a zero block, a huge value and tiny ones. */
static float *activations(struct random *r, size_t T, size_t K)
{
    float *x = malloc(T * K * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < T * K; i++)
        x[i] = random_normal(r);
    for (size_t t = 0; t < T; t++) {
        if (t % 5 == 1)
            memset(x + t * K, 0, (K < 32 ? K : 32) * sizeof *x);
        if (t % 5 == 2)
            x[t * K + t % K] = 60000;
        if (t % 5 == 3)
            x[t * K + K - 1] = -60000;
        if (t % 5 == 4)
            for (size_t i = 0; i < K; i++)
                x[t * K + i] *= 1e-7f;
    }
    return x;
}

/* Raw dequantised weights through embed, x through a plain restatement of its quantisation, summed in double.
 */
static void naive_matches(const struct kernels *k)
{
    struct random r = {1};
    enum { N = 37, K = 96, T = 7 };
    for (size_t i = 0; i < N_TYPES; i++) {
        uint8_t *raw = random_tensor(&r, types[i], N, K);
        float *x = activations(&r, T, K), w[N * K], y[T * N], want[T * N];
        uint32_t ids[N];
        for (uint32_t n = 0; n < N; n++)
            ids[n] = n;
        k->embed(
            &(struct embed_args){.type = types[i], .raw = raw, .C = K, .ids = ids, .T = N, .y = w, .ldy = K});
        for (size_t t = 0; t < T; t++)
            for (size_t n = 0; n < N; n++) {
                double sum = 0;
                for (size_t b = 0; b < K; b += 32) {
                    float top = 0;
                    for (size_t c = b; c < b + 32; c++)
                        top = fabsf(x[t * K + c]) > top ? fabsf(x[t * K + c]) : top;
                    float d = top / 16256;
                    for (size_t c = b; c < b + 32; c++) {
                        double v = (double)x[t * K + c];
                        if (quantised(types[i]))
                            v = d > 0 ? (double)d * rint((double)(x[t * K + c] * (16256 / top))) : 0;
                        sum += v * (double)w[n * K + c];
                    }
                }
                want[t * N + n] = (float)sum;
            }
        struct weight *p = packed(types[i], N, K, raw);
        product(k, NULL, p, x, T, y, NULL, 0);
        for (size_t t = 0; t < T; t++) {
            double size = 0, diff = 0;
            for (size_t n = 0; n < N; n++) {
                size = fmax(size, fabs((double)want[t * N + n]));
                double d = fabs((double)y[t * N + n] - (double)want[t * N + n]);
                assert_true(d >= 0); /* not NaN */
                diff = fmax(diff, d);
            }
            assert_true(diff <= 2e-5 * size + 1e-12);
        }
        weight_free(p);
        free(raw);
        free(x);
    }
}

static void test_naive(void **state)
{
    (void)state;
    each_backend(naive_matches);
}

/* Same integers, same float operations in the same order: the very bits of plain C. */
static void equals_ref(const struct kernels *k)
{
    static const size_t shapes[][2] = {{1, 32},   {5, 64},   {16, 32},   {17, 96},
                                       {31, 128}, {33, 576}, {192, 576}, {50, 1536}};
    const struct kernels *ref = kernels_get("ref");
    struct random r = {2};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (size_t i = 0; i < N_TYPES; i++) {
            size_t N = shapes[s][0], K = shapes[s][1], T = 19;
            uint8_t *raw = random_tensor(&r, types[i], N, K);
            struct weight *w = packed(types[i], N, K, raw);
            float *x = activations(&r, T, K);
            float *y = malloc(T * N * sizeof *y), *want = malloc(T * N * sizeof *want);
            float *bias = malloc(N * sizeof *bias);
            for (size_t n = 0; n < N; n++)
                bias[n] = random_normal(&r);
            product(ref, NULL, w, x, T, want, bias, 0);
            product(k, NULL, w, x, T, y, bias, 0);
            assert_memory_equal(y, want, T * N * sizeof *y);
            product(ref, NULL, w, x, T, want, NULL, 1);
            product(k, NULL, w, x, T, y, NULL, 1);
            assert_memory_equal(y, want, T * N * sizeof *y);
            free(raw);
            free(x);
            free(y);
            free(want);
            free(bias);
            weight_free(w);
        }
}

static void test_equals_ref(void **state)
{
    (void)state;
    each_fast_backend(equals_ref);
}

/* Every T, every start, every thread count: a row keeps its bits. */
static void rows_alone(const struct kernels *k)
{
    static const size_t counts[] = {1, 2, 5, 6, 7, 63, 64, 65, T_MAX};
    enum { N = 75, K = 160 };
    struct random r = {3};
    struct err e = {0};
    float *y = malloc(T_MAX * N * sizeof *y), *whole = malloc(T_MAX * N * sizeof *whole);
    for (size_t i = 0; i < N_TYPES; i++) {
        uint8_t *raw = random_tensor(&r, types[i], N, K);
        struct weight *w = packed(types[i], N, K, raw);
        float *x = activations(&r, T_MAX, K);
        for (size_t t = 0; t < T_MAX; t++)
            product(k, NULL, w, x + t * K, 1, whole + t * N, NULL, 0);
        for (int threads = 1; threads <= 3; threads++) {
            struct pool *pool;
            assert_int_equal(pool_create(&pool, threads, &e), 0);
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                size_t first = T_MAX - counts[c];
                product(k, pool, w, x, counts[c], y, NULL, 0);
                assert_memory_equal(y, whole, counts[c] * N * sizeof *y);
                product(k, pool, w, x + first * K, counts[c], y, NULL, 0);
                assert_memory_equal(y, whole + first * N, counts[c] * N * sizeof *y);
            }
            pool_free(pool);
        }
        free(raw);
        free(x);
        weight_free(w);
    }
    free(y);
    free(whole);
}

static void test_rows_alone(void **state)
{
    (void)state;
    each_backend(rows_alone);
}

/* Three weights of different kinds in one call equal three calls; columns between ldy stay untouched. */
static void many_outs(const struct kernels *k)
{
    enum { K = 64, T = 14, LD = 100 };
    static const size_t rows[3] = {40, 16, 97};
    static const enum tensor_type kinds[3] = {TENSOR_Q4_1, TENSOR_Q8_0, TENSOR_F16};
    struct random r = {4};
    struct err e = {0};
    struct pool *pool;
    assert_int_equal(pool_create(&pool, 2, &e), 0);
    float *x = activations(&r, T, K), *y = malloc(3 * T * LD * sizeof *y), want[T * LD];
    struct linear_out outs[3];
    for (size_t i = 0; i < 3; i++) {
        uint8_t *raw = random_tensor(&r, kinds[i], rows[i], K);
        outs[i] = (struct linear_out){.w = packed(kinds[i], rows[i], K, raw), .y = y + i * T * LD, .ldy = LD};
        free(raw);
    }
    for (size_t i = 0; i < 3 * T * LD; i++)
        y[i] = -7;
    size_t bytes = linear_scratch_bytes(T, K, 2);
    void *scratch = aligned_zero(bytes);
    k->linear(&(struct linear_args){.pool = pool,
                                    .x = x,
                                    .ldx = K,
                                    .T = T,
                                    .outs = outs,
                                    .n_outs = 3,
                                    .scratch = scratch,
                                    .scratch_bytes = bytes});
    for (size_t i = 0; i < 3; i++) {
        product(k, NULL, outs[i].w, x, T, want, NULL, 0);
        for (size_t t = 0; t < T; t++) {
            assert_memory_equal(outs[i].y + t * LD, want + t * rows[i], rows[i] * sizeof *y);
            for (size_t n = rows[i]; n < LD; n++)
                assert_true(outs[i].y[t * LD + n] == -7);
        }
    }
    for (size_t i = 0; i < 3; i++)
        weight_free((struct weight *)(uintptr_t)outs[i].w);
    free(scratch);
    free(x);
    free(y);
    pool_free(pool);
}

static void test_many_outs(void **state)
{
    (void)state;
    each_backend(many_outs);
}

/* A NaN or an infinity in a row shows in that row and in no other; huge finite values stay finite. */
static void not_finite(const struct kernels *k)
{
    enum { N = 20, K = 64, T = 8 };
    struct random r = {5};
    for (size_t i = 0; i < N_TYPES; i++) {
        uint8_t *raw = random_tensor(&r, types[i], N, K);
        struct weight *w = packed(types[i], N, K, raw);
        float x[T * K], y[T * N];
        for (size_t j = 0; j < T * K; j++)
            x[j] = random_normal(&r);
        x[3 * K + 40] = NAN;
        x[5 * K + 7] = INFINITY;
        x[6 * K + 7] = 3e38f;
        product(k, NULL, w, x, T, y, NULL, 0);
        for (size_t t = 0; t < T; t++)
            for (size_t n = 0; n < N; n++) {
                if (t == 3 || (t == 5 && quantised(types[i])))
                    assert_true(isnan(y[t * N + n]));
                else if (t == 5)
                    assert_true(!isfinite(y[t * N + n]));
                else if (t != 6)
                    assert_true(isfinite(y[t * N + n]));
            }
        free(raw);
        weight_free(w);
    }
}

static void test_not_finite(void **state)
{
    (void)state;
    each_backend(not_finite);
}

/* The most extreme codes and activations: no intermediate may saturate. */
static void extreme_codes(const struct kernels *k)
{
    enum { N = 16, K = 64 };
    static const uint8_t fills[] = {0x00, 0xff, 0x80, 0x7f, 0xf0, 0x0f};
    for (size_t i = 0; i < N_TYPES; i++)
        for (size_t f = 0; quantised(types[i]) && f < sizeof fills; f++)
            for (float sign = -1; sign <= 1; sign += 2) {
                size_t bytes = tensor_row_bytes(types[i], K), unit = tensor_row_bytes(types[i], 32);
                uint8_t *raw = malloc(N * bytes);
                memset(raw, fills[f], N * bytes);
                uint16_t one = half_from_float(1), zero = 0;
                for (size_t b = 0; b < N * bytes; b += unit) {
                    memcpy(raw + b, &one, 2);
                    if (types[i] == TENSOR_Q4_1)
                        memcpy(raw + b + 2, &zero, 2);
                }
                struct weight *w = packed(types[i], N, K, raw);
                float x[K], y[N], row[K];
                for (size_t c = 0; c < K; c++)
                    x[c] = sign * 127;
                uint32_t id = 0;
                k->embed(&(struct embed_args){
                    .type = types[i], .raw = raw, .C = K, .ids = &id, .T = 1, .y = row, .ldy = K});
                double want = 0;
                for (size_t c = 0; c < K; c++)
                    want += (double)(row[c] * x[c]);
                product(k, NULL, w, x, 1, y, NULL, 0);
                for (size_t n = 0; n < N; n++)
                    assert_true((double)y[n] == want);
                free(raw);
                weight_free(w);
            }
}

static void test_extreme_codes(void **state)
{
    (void)state;
    each_backend(extreme_codes);
}

static void lora_adds(const struct kernels *k)
{
    enum { N = 50, K = 96, R = 8, T = 11 };
    struct random r = {6};
    uint8_t *raw_a = random_tensor(&r, TENSOR_F32, R, K), *raw_b = random_tensor(&r, TENSOR_BF16, N, R);
    struct weight *a = packed(TENSOR_F32, R, K, raw_a), *b = packed(TENSOR_BF16, N, R, raw_b);
    float *x = activations(&r, T, K), y[T * N], middle[T * R], want[T * N], one[N];
    for (size_t i = 0; i < T * N; i++)
        y[i] = want[i] = random_normal(&r);
    memcpy(one, y + 4 * N, sizeof one);
    product(k, NULL, a, x, T, middle, NULL, 0);
    product(k, NULL, b, middle, T, want, NULL, 1);
    size_t bytes = lora_scratch_bytes(T, K, R, 1);
    void *scratch = aligned_zero(bytes);
    struct lora_args args = {.x = x,
                             .ldx = K,
                             .T = T,
                             .a = a,
                             .b = b,
                             .y = y,
                             .ldy = N,
                             .scratch = scratch,
                             .scratch_bytes = bytes};
    k->lora(&args);
    assert_memory_equal(y, want, sizeof y);
    args.x = x + 4 * K; /* one row alone gives the same bits */
    args.T = 1;
    args.y = one;
    k->lora(&args);
    assert_memory_equal(one, want + 4 * N, sizeof one);
    free(scratch);
    free(x);
    free(raw_a);
    free(raw_b);
    weight_free(a);
    weight_free(b);
}

static void test_lora(void **state)
{
    (void)state;
    each_backend(lora_adds);
}

static void test_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct weight *w = (struct weight *)(uintptr_t)1;
    const struct kernels *k = kernels_get(NULL);
    uint8_t raw[64] = {0};
    assert_int_equal(tensor_row_bytes(TENSOR_Q4_1, 576), 18 * 20);
    assert_int_equal(tensor_row_bytes(TENSOR_Q8_0, 576), 18 * 34);
    assert_int_equal(tensor_row_bytes(TENSOR_Q4_0, 48), 0);
    assert_int_equal(tensor_row_bytes(TENSOR_F32, 0), 0);
    assert_int_equal(tensor_row_bytes(TENSOR_F32, SIZE_MAX / 2), 0);
    assert_int_equal(tensor_row_bytes((enum tensor_type)14, 256), 0);
    assert_int_equal(weight_pack(k, (enum tensor_type)14, 1, 256, raw, &w, &e), ERR_UNSUPPORTED);
    assert_null(w);
    assert_int_equal(weight_pack(k, TENSOR_Q4_0, 1, 33, raw, &w, &e), ERR_UNSUPPORTED);
    assert_int_equal(weight_pack(k, TENSOR_Q4_0, 0, 32, raw, &w, &e), ERR_UNSUPPORTED);
    assert_int_equal(weight_pack(k, TENSOR_F32, SIZE_MAX / 8, 4, raw, &w, &e), ERR_LIMIT);
    assert_null(w);
    weight_free(NULL);
    assert_null(kernels_get("no such backend"));
    assert_string_equal(kernels_get("ref")->name, "ref");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_naive),
        cmocka_unit_test(test_equals_ref), cmocka_unit_test(test_rows_alone),
        cmocka_unit_test(test_many_outs),  cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_lora),       cmocka_unit_test(test_extreme_codes),
    };
    return cmocka_run_group_tests_name("kernels_linear", tests, NULL, NULL);
}
