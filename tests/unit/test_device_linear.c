/* SPDX-License-Identifier: Apache-2.0 */
/* test_device_linear.c - weights and linear of the devices: the host's against the CPU kernels' own numbers
 * and naive sums, a card's against the host's; every format, type, epilogue, awkward shapes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/device.h"
#include "kernels/weight_code.h"
#include "tests/support/kernels_support.h"

/* One product, in host memory. */
struct job {
    enum device_weight_format format;
    enum device_weight_order order;
    struct device_weight_part part[3];
    size_t n_parts, N, K, T;
    const float *x; /* [T][K]; rounded to fp16 when there is no norm */
    const float *norm_w, *bias;
    enum device_epilogue epilogue;
};

static size_t out_columns(const struct job *j)
{
    return j->epilogue == DEVICE_SILU_MUL ? j->N / 2 : j->N;
}

static void *to_device(struct device *d, const void *from, size_t bytes)
{
    void *p;
    struct err e = {0};
    assert_int_equal(d->ops->alloc(d, bytes, &p, &e), 0);
    if (from)
        d->ops->upload(d, DEVICE_COMPUTE, p, from, bytes);
    else
        d->ops->fill(d, DEVICE_COMPUTE, p, 0xff, bytes); /* NaNs */
    assert_int_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
    return p;
}

static struct device_weight *create(struct device *d, const struct job *j)
{
    struct device_weight *w;
    struct err e = {0};
    int rc = d->ops->weight_create(d, j->format, j->K, j->part, j->n_parts, j->order, &w, &e);
    if (rc)
        print_error("weight_create: %s\n", e.text);
    assert_int_equal(rc, 0);
    assert_true(d->ops->weight_bytes(w) > 0);
    return w;
}

enum { PAD = 8 }; /* columns past the row, which must stay */

/* y [T][columns + PAD] as f32, whatever its type; what is added to lies at 0.5 first. */
static float *run_with(struct device *d, const struct device_weight *w, const struct job *j)
{
    size_t ldx = j->K + PAD, ldy = out_columns(j) + PAD, count = j->T * ldy;
    int half_out = j->epilogue == DEVICE_STORE_F16 || j->epilogue == DEVICE_SILU_MUL;
    float *x = calloc(j->T * ldx, sizeof *x), *y = malloc(count * sizeof *y);
    uint16_t *h = malloc((j->T * ldx + count) * sizeof *h);
    assert_true(x && y && h);
    for (size_t t = 0; t < j->T; t++)
        for (size_t k = 0; k < ldx; k++) {
            x[t * ldx + k] = k < j->K ? j->x[t * j->K + k] : NAN;
            h[t * ldx + k] = half_from_float(x[t * ldx + k]);
        }
    for (size_t i = 0; i < count; i++)
        y[i] = j->epilogue == DEVICE_ADD_F32 ? 0.5f : NAN;
    void *dx = j->norm_w ? to_device(d, x, j->T * ldx * sizeof *x) : to_device(d, h, j->T * ldx * sizeof *h);
    void *dy = half_out ? to_device(d, NULL, count * sizeof *h) : to_device(d, y, count * sizeof *y);
    void *norm = j->norm_w ? to_device(d, j->norm_w, j->K * sizeof(float)) : NULL;
    void *bias = j->bias ? to_device(d, j->bias, j->N * sizeof(float)) : NULL;
    size_t scratch_bytes = d->ops->linear_scratch_bytes(d, j->T, j->K, j->N);
    void *scratch = scratch_bytes ? to_device(d, NULL, scratch_bytes) : NULL;
    struct err e = {0};
    d->ops->linear(d, &(struct device_linear_args){.w = w,
                                                   .x = dx,
                                                   .ldx = ldx,
                                                   .T = j->T,
                                                   .norm_w = norm,
                                                   .eps = 1e-5f,
                                                   .bias = bias,
                                                   .epilogue = j->epilogue,
                                                   .y = dy,
                                                   .ldy = ldy,
                                                   .scratch = scratch,
                                                   .scratch_bytes = scratch_bytes});
    d->ops->download(d, DEVICE_COMPUTE, half_out ? (void *)h : (void *)y, dy, count * (half_out ? 2 : 4));
    int rc = d->ops->sync(d, DEVICE_COMPUTE, &e);
    if (rc)
        print_error("linear: %s\n", e.text);
    assert_int_equal(rc, 0);
    for (size_t i = 0; half_out && i < count; i++)
        y[i] = half_to_float(h[i]);
    void *all[] = {dx, dy, norm, bias, scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        d->ops->release(d, all[i]);
    free(x);
    free(h);
    for (size_t t = 0; t < j->T; t++)
        for (size_t n = ldy - PAD; n < ldy; n++)
            if (j->epilogue == DEVICE_ADD_F32 ? y[t * ldy + n] != 0.5f : !isnan(y[t * ldy + n]))
                fail_msg("column %zu of row %zu lies outside and was written", n, t);
    return y;
}

static float *run(struct device *d, const struct job *j)
{
    struct device_weight *w = create(d, j);
    float *y = run_with(d, w, j);
    d->ops->weight_free(d, w);
    return y;
}

/* ||got - want|| / ||want|| over the written columns; infinite with a NaN. */
static double distance(const struct job *j, const float *got, const float *want)
{
    size_t columns = out_columns(j), ldy = columns + PAD;
    double diff = 0, size = 1e-30;
    for (size_t t = 0; t < j->T; t++)
        for (size_t n = 0; n < columns; n++) {
            double d = (double)got[t * ldy + n] - (double)want[t * ldy + n];
            diff += d * d;
            size += (double)want[t * ldy + n] * (double)want[t * ldy + n];
        }
    double r = sqrt(diff / size);
    return r >= 0 ? r : (double)INFINITY;
}

/* The same product in double, from the CPU kernels' view of the raw rows. */
static float *naive(const struct job *j)
{
    const struct kernels *k = kernels_get("ref");
    size_t columns = out_columns(j), ldy = columns + PAD;
    float *w = malloc(j->N * j->K * sizeof *w), *x = malloc(j->K * sizeof *x);
    float *y = calloc(j->T * ldy, sizeof *y), *acc = malloc(j->N * sizeof *acc);
    assert_true(w && x && y && acc);
    for (size_t p = 0, at = 0; p < j->n_parts; at += j->part[p++].rows)
        for (uint32_t n = 0; n < j->part[p].rows; n++) {
            size_t row = j->order == DEVICE_ROWS_INTERLEAVED ? 2 * n + p : at + n;
            k->embed(&(struct embed_args){.type = j->part[p].type,
                                          .raw = j->part[p].raw,
                                          .C = j->K,
                                          .ids = &n,
                                          .T = 1,
                                          .y = w + row * j->K,
                                          .ldy = j->K});
        }
    for (size_t t = 0; t < j->T; t++) {
        memcpy(x, j->x + t * j->K, j->K * sizeof *x);
        if (j->norm_w)
            k->rms_norm(&(struct rms_norm_args){
                .x = x, .ldx = j->K, .w = j->norm_w, .T = 1, .C = j->K, .eps = 1e-5f, .y = x, .ldy = j->K});
        for (size_t n = 0; n < j->N; n++) {
            double sum = j->bias ? (double)j->bias[n] : 0;
            for (size_t c = 0; c < j->K; c++)
                sum += (double)half_to_float(half_from_float(x[c])) * (double)w[n * j->K + c];
            acc[n] = (float)sum + (j->epilogue == DEVICE_ADD_F32 ? 0.5f : 0);
        }
        for (size_t n = 0; n < columns; n++) {
            float v = acc[n];
            if (j->epilogue == DEVICE_SILU_MUL)
                v = acc[2 * n] / (1 + expf(-acc[2 * n])) * acc[2 * n + 1];
            y[t * ldy + n] = v;
        }
    }
    free(w);
    free(x);
    free(acc);
    return y;
}

static float *normals(struct random *r, size_t n, float size)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = size * random_normal(r);
    return x;
}

/* ---- the host's ops against the CPU kernels ------------------------------------------------------------ */

static struct device *host(void)
{
    struct device *d;
    struct err e = {0};
    assert_int_equal(device_open(&d, "host", NULL, 0, &e), 0);
    return d;
}

static void types_are_exact(void **state)
{
    static const enum tensor_type types[] = {TENSOR_F16, TENSOR_BF16, TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q8_0};
    static const enum device_epilogue epilogues[] = {DEVICE_STORE_F32, DEVICE_ADD_F32, DEVICE_STORE_F16,
                                                     DEVICE_SILU_MUL};
    (void)state;
    struct device *d = host();
    struct random r = {7};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (size_t v = 0; v < 8; v++) {
            enum { K = 96, N = 36, T = 5 };
            struct job j = {.N = N, .K = K, .T = v % 2 ? T : 3, .epilogue = epilogues[v / 2], .n_parts = 2};
            j.order = j.epilogue == DEVICE_SILU_MUL ? DEVICE_ROWS_INTERLEAVED : DEVICE_ROWS_APPENDED;
            size_t first = j.order == DEVICE_ROWS_INTERLEAVED ? N / 2 : 5;
            uint8_t *a = random_tensor(&r, types[i], first, K),
                    *b = random_tensor(&r, types[i], N - first, K);
            float *x = normals(&r, T * K, 2), *norm = normals(&r, K, 1), *bias = normals(&r, N, 1);
            for (size_t k = 0; k < T * K; k++)
                x[k] = half_to_float(half_from_float(x[k]));
            j.part[0] = (struct device_weight_part){types[i], first, a};
            j.part[1] = (struct device_weight_part){types[i], N - first, b};
            j.x = x;
            j.norm_w = i % 2 ? norm : NULL;
            j.bias = v == 2 || v == 7 ? bias : NULL;
            float *got = run(d, &j), *want = naive(&j);
            double tolerance = j.epilogue == DEVICE_STORE_F16 || j.epilogue == DEVICE_SILU_MUL ? 5e-4 : 2e-6;
            if (types[i] == TENSOR_BF16 && j.T > DEVICE_DECODE_T)
                tolerance = 5e-3;
            double off = distance(&j, got, want);
            if (!(off <= tolerance))
                fail_msg("type %d, epilogue %d, T %zu: off by %g", (int)types[i], (int)j.epilogue, j.T, off);
            free(got);
            free(want);
            free(a);
            free(b);
            free(x);
            free(norm);
            free(bias);
        }
    device_close(d);
}

/* What rounding to a format costs; the bounds are those of its step sizes on normal weights. */
static void formats_are_close(void **state)
{
    static const struct {
        enum device_weight_format format;
        double most;
    } cases[] = {{DEVICE_W_F16, 3e-4},   {DEVICE_W_BF16, 3e-3},   {DEVICE_W_FP8, 0.035},
                 {DEVICE_W_W8, 0.015},   {DEVICE_W_W8G32, 0.008}, {DEVICE_W_W4, 0.13},
                 {DEVICE_W_W4G32, 0.10}, {DEVICE_W_AUTO, 3e-4}};
    (void)state;
    struct device *d = host();
    struct random r = {8};
    enum { K = 416, N = 24, T = 3 };
    float *raw = normals(&r, N * K, 0.05f), *x = normals(&r, T * K, 1);
    memset(raw + 3 * K, 0, K * sizeof *raw); /* a row of zeros */
    for (size_t k = 0; k < T * K; k++)
        x[k] = half_to_float(half_from_float(x[k]));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job j = {.format = cases[i].format, .N = N, .K = K, .T = T, .x = x, .n_parts = 1};
        j.part[0] = (struct device_weight_part){TENSOR_F32, N, raw};
        float *got = run(d, &j), *want = naive(&j);
        double off = distance(&j, got, want);
        if (!(off <= cases[i].most))
            fail_msg("format %d: off by %g", (int)cases[i].format, off);
        assert_true(got[3] == 0);
        free(got);
        free(want);
    }
    free(raw);
    free(x);
    device_close(d);
}

static void e4m3_rounds(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 256; c++)
        if ((c & 0x7fu) != 0x7fu) {
            float v = e4m3_to_float(c);
            assert_int_equal(e4m3_from_float(v), c);
            if ((c & 0x7fu) == 0x7eu)
                continue;
            float next = e4m3_to_float(c + 1), middle = (v + next) / 2;
            assert_int_equal(e4m3_from_float(middle), c % 2 ? c + 1 : c); /* ties to even */
            assert_int_equal(e4m3_from_float(v + 0.51f * (next - v)), c + 1);
        }
    assert_int_equal(e4m3_from_float(1e9f), 0x7e);
    assert_int_equal(e4m3_from_float(-INFINITY), 0xfe);
    assert_int_equal(e4m3_from_float(NAN), 0x7f);
}

static void bad_weights_are_refused(void **state)
{
    (void)state;
    struct device *d = host();
    struct device_weight *w = (void *)d;
    struct err e = {0};
    float raw[64] = {0};
    struct device_weight_part part[2] = {{TENSOR_F32, 2, raw}, {TENSOR_F32, 1, raw}};
    assert_int_equal(d->ops->weight_create(d, DEVICE_W_AUTO, 32, part, 0, DEVICE_ROWS_APPENDED, &w, &e),
                     ERR_UNSUPPORTED);
    assert_null(w);
    assert_int_equal(d->ops->weight_create(d, DEVICE_W_AUTO, 32, part, 2, DEVICE_ROWS_INTERLEAVED, &w, &e),
                     ERR_UNSUPPORTED);
    assert_int_equal(
        d->ops->weight_create(d, (enum device_weight_format)99, 32, part, 1, DEVICE_ROWS_APPENDED, &w, &e),
        ERR_UNSUPPORTED);
    part[0].type = TENSOR_Q8_0;
    assert_int_equal(d->ops->weight_create(d, DEVICE_W_AUTO, 31, part, 1, DEVICE_ROWS_APPENDED, &w, &e),
                     ERR_UNSUPPORTED);
    part[0].type = TENSOR_F32;
    raw[40] = INFINITY;
    assert_int_equal(d->ops->weight_create(d, DEVICE_W_W4, 32, part, 1, DEVICE_ROWS_APPENDED, &w, &e),
                     ERR_FORMAT);
    assert_null(w);
    device_close(d);
}

/* ---- every device's promises, and a card against the host ------------------------------------------------
 */

static void same_bits(const struct job *j, const float *a, size_t rows_of_a, const float *b)
{
    size_t ldy = out_columns(j) + PAD;
    for (size_t t = 0; t < rows_of_a; t++)
        assert_memory_equal(a + t * ldy, b + t * ldy, out_columns(j) * sizeof *a);
}

/* Two runs give the same bits, and rows of T = 4 are those of T = 1..3. */
static void rows_stand_alone(struct device *d)
{
    struct random r = {9};
    enum { K = 736, N = 52, T = DEVICE_DECODE_T };
    float *raw = normals(&r, N * K, 0.05f), *x = normals(&r, T * K, 1), *norm = normals(&r, K, 1);
    for (int f = DEVICE_W_F16; f <= DEVICE_W_W4G32; f++) {
        struct job j = {.format = f, .N = N, .K = K, .T = T, .x = x, .n_parts = 1};
        j.part[0] = (struct device_weight_part){TENSOR_F32, N, raw};
        j.norm_w = f % 2 ? norm : NULL;
        struct device_weight *w = create(d, &j);
        float *four = run_with(d, w, &j), *again = run_with(d, w, &j);
        same_bits(&j, again, T, four);
        free(again);
        for (j.T = 1; j.T < T; j.T++) {
            float *fewer = run_with(d, w, &j);
            same_bits(&j, fewer, j.T, four);
            free(fewer);
        }
        d->ops->weight_free(d, w);
        free(four);
    }
    free(raw);
    free(x);
    free(norm);
}

static void host_rows_stand_alone(void **state)
{
    (void)state;
    struct device *d = host();
    rows_stand_alone(d);
    device_close(d);
}

static double tolerance_of(const struct job *j)
{
    if (j->T <= DEVICE_DECODE_T)
        return 1e-3;
    return j->format == DEVICE_W_FP8 ? 4e-2 : 5e-3; /* a card may leave x in fp16 where fp8 does not fit */
}

/* One product on both devices; returns 1 when they differ by too much. */
static int differs(struct device *cuda, struct device *plain, struct job *j)
{
    float *got = run(cuda, j), *want = run(plain, j);
    double off = distance(j, got, want);
    int bad = !(off <= tolerance_of(j));
    if (bad) {
        size_t ldy = out_columns(j) + PAD;
        print_error("format %d type %d N %zu K %zu T %zu epilogue %d norm %d bias %d: off by %g\n",
                    (int)j->format, (int)j->part[0].type, j->N, j->K, j->T, (int)j->epilogue, !!j->norm_w,
                    !!j->bias, off);
        for (size_t t = 0, shown = 0; t < j->T; t++)
            for (size_t n = 0; n < out_columns(j); n++) {
                double a = (double)got[t * ldy + n], b = (double)want[t * ldy + n];
                if (!(fabs(a - b) <= 1e-2 * (1 + fabs(b))) && shown++ < 6)
                    print_error("  [%zu][%zu] %g, not %g\n", t, n, a, b);
            }
    }
    free(got);
    free(want);
    return bad;
}

static int shape_differs(struct device *cuda, struct device *plain, struct random *r, size_t N, size_t K,
                         size_t T)
{
    static const enum tensor_type exact[] = {TENSOR_Q4_0, TENSOR_Q4_1, TENSOR_Q8_0, TENSOR_BF16, TENSOR_F16};
    float *x = normals(r, T * K, 1), *norm = normals(r, K, 1), *bias = normals(r, N, 1);
    float *raw = normals(r, N * K, 1 / sqrtf((float)K));
    int bad = 0;
    for (int f = DEVICE_W_F16; f <= DEVICE_W_W4G32; f++)
        for (int v = 0; v < 4; v++) {
            struct job j = {.format = f, .N = N, .K = K, .T = T, .x = x, .n_parts = 1};
            j.part[0] = (struct device_weight_part){TENSOR_F32, N, raw};
            j.epilogue = (enum device_epilogue)v;
            j.norm_w = (v + f) % 2 ? norm : NULL;
            j.bias = (v + f) % 3 ? NULL : bias;
            if (v == DEVICE_SILU_MUL && N % 2)
                continue;
            if (v == DEVICE_SILU_MUL) {
                j.order = DEVICE_ROWS_INTERLEAVED;
                j.part[0].rows /= 2;
                j.part[1] = j.part[0];
                j.part[1].raw = raw + N / 2 * K;
                j.n_parts = 2;
            }
            bad += differs(cuda, plain, &j);
        }
    for (size_t i = 0; i < sizeof exact / sizeof *exact && K % 32 == 0; i++) {
        uint8_t *q = random_tensor(r, exact[i], N, K);
        struct job j = {.N = N, .K = K, .T = T, .x = x, .n_parts = 1};
        j.part[0] = (struct device_weight_part){exact[i], N, q};
        bad += differs(cuda, plain, &j);
        free(q);
    }
    free(x);
    free(norm);
    free(bias);
    free(raw);
    return bad;
}

static void card_is_the_host(void **state)
{
    static const size_t shapes[][3] = {{48, 64, 1},    {16, 128, 2},   {50, 576, 3},   {1536, 576, 4},
                                       {96, 1536, 1},  {33, 2048, 4},  {8, 40, 4},     {130, 3584, 2},
                                       {576, 1536, 5}, {64, 128, 64},  {96, 576, 65},  {40, 72, 63},
                                       {192, 576, 17}, {22, 512, 200}, {16, 11008, 1}, {512, 16, 7},
                                       {16, 4096, 6},  {64, 32, 4},    {6144, 256, 1}};
    (void)state;
    struct device *d, *h;
    struct err e = {0};
    if (device_open(&d, "cuda", NULL, 0, &e)) {
        print_message("no card: %s\n", e.text);
        skip();
    }
    h = host();
    struct random r = {10};
    int bad = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bad += shape_differs(d, h, &r, shapes[i][0], shapes[i][1], shapes[i][2]);
    assert_int_equal(bad, 0);
    rows_stand_alone(d);
    device_close(h);
    device_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_are_exact),       cmocka_unit_test(formats_are_close),
        cmocka_unit_test(e4m3_rounds),           cmocka_unit_test(bad_weights_are_refused),
        cmocka_unit_test(host_rows_stand_alone), cmocka_unit_test(card_is_the_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
