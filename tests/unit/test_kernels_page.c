/* SPDX-License-Identifier: Apache-2.0 */
/* test_kernels_page.c - the 8-bit KV record: error bound on ordinary and hostile pages, the written layout,
 * and equal bytes from every backend. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/kernels_support.h"

enum { D_MAX = 256, KINDS = 9 };
static const size_t widths[] = {16, 64, 80, 128, 256};
enum { N_WIDTHS = sizeof widths / sizeof *widths };

/* One value of a page of the given temper. */
static float sample(struct random *r, int kind, size_t t, size_t c)
{
    switch (kind) {
    case 0:
        return random_normal(r);
    case 1:
        return random_float(r) * 60000;
    case 2:
        return (t + c) % 2 ? 65504 : -65504;
    case 3:
        return c % 3 ? 5.25f : random_normal(r); /* constant channels */
    case 4:
        return t % 3 ? -0.0f : 0; /* zeros of both signs */
    case 5:
        return (float)(random_u64(r) % 4) * 0x1p-24f; /* the smallest subnormals */
    case 6:
        return 60000 + random_float(r) * 100;
    case 7:
        return t == 17 && c == 3 ? 60000 : random_float(r) * 1e-3f; /* one outlier */
    default:
        return random_float(r) * 0.01f; /* scales near the subnormal range */
    }
}

static void fill(struct random *r, int kind, size_t D, size_t ld, uint16_t *k, uint16_t *v)
{
    for (size_t t = 0; t < 64; t++)
        for (size_t c = 0; c < ld; c++) {
            k[t * ld + c] = c < D ? half_from_float(sample(r, kind, t, c)) : 0x7e00;
            v[t * ld + c] = c < D ? half_from_float(sample(r, kind, t, c)) : 0x7e00;
        }
}

/* |x - y| <= step / 2 and a rounding, where step is the fp16 scale; equal when the range is 0. */
static void check_run(const uint16_t *x, size_t stride, const float *y, size_t y_stride, size_t n)
{
    float lo = INFINITY, hi = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        lo = fminf(lo, half_to_float(x[i * stride]));
        hi = fmaxf(hi, half_to_float(x[i * stride]));
    }
    double step = (double)(hi - lo) / 255 * (1 + 0x1p-9) + 0x1p-24; /* an upper bound of the fp16 scale */
    if (!(hi > lo))
        step = 0;
    for (size_t i = 0; i < n; i++) {
        double want = (double)half_to_float(x[i * stride]);
        assert_true(fabs((double)y[i * y_stride] - want) <= step / 2 + fabs(want) * 0x1p-22);
    }
}

static void bounded(const struct kernels *k)
{
    struct random r = {11};
    for (size_t w = 0; w < N_WIDTHS; w++)
        for (int kind = 0; kind < KINDS; kind++) {
            size_t D = widths[w], ld = D + 8, bytes = kv_page_bytes(8, D);
            uint16_t *key = malloc(64 * ld * 2), *value = malloc(64 * ld * 2);
            float *kf = malloc(64 * D * 4), *vf = malloc(64 * D * 4);
            uint8_t *record = aligned_zero(bytes);
            fill(&r, kind, D, ld, key, value);
            memset(record, 0xee, bytes);
            k->kv_page_pack(&(struct kv_page_pack_args){
                .k = key, .ldk = ld, .v = value, .ldv = ld, .D = D, .format = 8, .record = record});
            poison(kf, 64 * D);
            poison(vf, 64 * D);
            k->kv_page_unpack(
                &(struct kv_page_unpack_args){.record = record, .format = 8, .D = D, .k = kf, .v = vf});
            for (size_t c = 0; c < D; c++)
                check_run(key + c, ld, kf + c, D, 64);
            for (size_t t = 0; t < 64; t++)
                check_run(value + t * ld, 1, vf + t * D, 1, D);
            free(key);
            free(value);
            free(kf);
            free(vf);
            free(record);
        }
}

static void test_bounded(void **state)
{
    (void)state;
    each_backend(bounded);
}

static void same_bytes(const struct kernels *k)
{
    struct random r = {12};
    for (size_t w = 0; w < N_WIDTHS; w++)
        for (int kind = 0; kind < KINDS; kind++) {
            size_t D = widths[w], bytes = kv_page_bytes(8, D);
            uint16_t *key = malloc(64 * D * 2), *value = malloc(64 * D * 2);
            uint8_t *a = aligned_zero(bytes), *b = aligned_zero(bytes);
            fill(&r, kind, D, D, key, value);
            memset(b, 0xff, bytes); /* every byte must be written */
            struct kv_page_pack_args args = {
                .k = key, .ldk = D, .v = value, .ldv = D, .D = D, .format = 8, .record = a};
            kernels_get("ref")->kv_page_pack(&args);
            args.record = b;
            k->kv_page_pack(&args);
            assert_memory_equal(a, b, bytes);
            free(key);
            free(value);
            free(a);
            free(b);
        }
}

static void test_same_bytes(void **state)
{
    (void)state;
    each_fast_backend(same_bytes);
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* The layout as the README words it, restated: codes that name their own place. K of channel c runs from 0
 * (one token) to 255 (another), so scale is 1 and min 0; the others carry (token + 3 channel) mod 256. */
static void test_layout(void **state)
{
    (void)state;
    enum { D = 64 };
    static uint16_t k[64 * D], v[64 * D];
    uint8_t want_k[64][D], want_v[64][D];
    for (size_t t = 0; t < 64; t++)
        for (size_t c = 0; c < D; c++) {
            want_k[t][c] = (uint8_t)(t == 62 ? 0 : t == 63 ? 255 : t + 3 * c);
            want_v[t][c] = (uint8_t)(c == 62 ? 0 : c == 63 ? 255 : 5 * t + c);
            k[t * D + c] = half_from_float(want_k[t][c] * 1.0f + (float)c);
            v[t * D + c] = half_from_float(want_v[t][c] * 2.0f + (float)t);
        }
    uint8_t *record = aligned_zero(kv_page_bytes(8, D));
    kernels_get(NULL)->kv_page_pack(&(struct kv_page_pack_args){
        .k = k, .ldk = D, .v = v, .ldv = D, .D = D, .format = 8, .record = record});
    for (size_t t16 = 0; t16 < 4; t16++)
        for (size_t cg = 0; cg < D / 4; cg++)
            for (size_t tok = 0; tok < 16; tok++) {
                size_t at = t16 * (D / 4 * 64) + cg * 64 + ((tok * 4) ^ (((cg >> 1) & 1) * 32));
                for (size_t i = 0; i < 4; i++)
                    assert_int_equal(record[at + i], want_k[16 * t16 + tok][4 * cg + i]);
            }
    for (size_t u = 0; u < 2; u++)
        for (size_t mt = 0; mt < D / 16; mt++)
            for (size_t h = 0; h < 2; h++)
                for (size_t j = 0; j < 4; j++)
                    for (size_t ch = 0; ch < 16; ch++) {
                        size_t line = ((u * (D / 16) + mt) * 2 + h) * 4 + j, b = 32 * u + 4 * j + 2 * h;
                        size_t at = 64 * D + line * 64 + ((ch * 4) ^ (((j >> 1) & 1) * 32));
                        const size_t token[4] = {b, b + 1, b + 16, b + 17};
                        for (size_t i = 0; i < 4; i++)
                            assert_int_equal(record[at + i], want_v[token[i]][16 * mt + ch]);
                    }
    const uint8_t *kp = record + 128 * D, *vp = kp + 4 * D;
    size_t n = 0;
    for (size_t j = 0; j < 4; j++)
        for (size_t i = 0; i < D / 16; i++)
            for (size_t c = 0; c < 4; c++, n++) {
                size_t channel = 4 * (4 * i + j) + c;
                assert_int_equal(u16_at(kp + 2 * n), half_from_float(1));
                assert_int_equal(u16_at(kp + 2 * (D + n)), half_from_float((float)channel));
            }
    for (size_t r = 0; r < 8; r++)
        for (size_t mt = 0; mt < 4; mt++)
            for (size_t half = 0; half < 2; half++) {
                size_t at = r * 8 + mt * 2 + half, token = 16 * mt + 2 * r + half;
                assert_int_equal(u16_at(vp + 2 * at), half_from_float(2));
                assert_int_equal(u16_at(vp + 2 * (64 + at)), half_from_float((float)token));
            }
    free(record);
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(kv_page_bytes(16, 64), 16384);
    assert_int_equal(kv_page_bytes(8, 64), 8704);
    assert_int_equal(kv_page_bytes(8, 128), 17152);
    assert_int_equal(kv_page_bytes(16, 72), 18432);
    assert_int_equal(kv_page_bytes(8, 72), 0);
    assert_int_equal(kv_page_bytes(5, 64), 0);
    assert_int_equal(kv_page_bytes(8, 0), 0);
    assert_int_equal(kv_page_bytes(8, 512), 0);
}

static void raw_unpacks(const struct kernels *k)
{
    enum { D = 24 };
    struct random r = {13};
    uint16_t raw[2 * 64 * D];
    float kf[64 * D], vf[64 * D];
    for (size_t i = 0; i < 2 * 64 * D; i++)
        raw[i] = half_from_float(random_normal(&r));
    k->kv_page_unpack(&(struct kv_page_unpack_args){.record = raw, .format = 16, .D = D, .k = kf, .v = vf});
    for (size_t i = 0; i < 64 * D; i++) {
        assert_true(kf[i] == half_to_float(raw[i]));
        assert_true(vf[i] == half_to_float(raw[64 * D + i]));
    }
}

static void test_raw(void **state)
{
    (void)state;
    each_backend(raw_unpacks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_layout), cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_raw),
    };
    return cmocka_run_group_tests_name("kernels_page", tests, NULL, NULL);
}
