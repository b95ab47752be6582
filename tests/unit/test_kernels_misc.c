/* SPDX-License-Identifier: Apache-2.0 */
/* test_kernels_misc.c - fp16, rope, norm, SiLU and add on every backend, against long double or plain C. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/kernels_support.h"

/* Every half there and back, and every float's nearest half by brute force around each boundary. */
static void halves(const struct kernels *k)
{
    static uint16_t h[65536], back[65536];
    static float f[65536];
    for (uint32_t i = 0; i < 65536; i++)
        h[i] = (uint16_t)i;
    k->half_decode(&(struct half_decode_args){.x = h, .y = f, .n = 65536});
    k->half_encode(&(struct half_encode_args){.x = f, .y = back, .n = 65536});
    for (uint32_t i = 0; i < 65536; i++) {
        int nan = (i & 0x7fffu) > 0x7c00u;
        assert_int_equal(back[i], nan ? i | 0x200u : i);
        assert_true(nan ? isnan(f[i]) : float_bits(f[i]) == float_bits(half_to_float(h[i])));
        if (!nan && (i & 0x7c00u) != 0x7c00u)
            assert_true(f[i] == (i & 0x8000u ? -1.0f : 1.0f) *
                                    ldexpf((float)((i & 0x3ffu) | (i & 0x7c00u ? 0x400u : 0)),
                                           (int)(i >> 10 & 31u ? i >> 10 & 31u : 1) - 25));
    }
    struct random r = {30};
    for (size_t round = 0; round < 8; round++) {
        for (size_t i = 0; i < 65536; i++) { /* any bit pattern; every second one near a tie */
            uint32_t bits = (uint32_t)random_u64(&r);
            if (i % 2)
                bits = (bits & ~0x1fffu) | (0x1000u + (uint32_t)(i % 3) - 1u);
            f[i] = float_from_bits(bits);
        }
        k->half_encode(&(struct half_encode_args){.x = f, .y = back, .n = 65536});
        for (size_t i = 0; i < 65536; i++)
            assert_int_equal(back[i], half_from_float(f[i]));
    }
    for (size_t n = 0; n < 40; n++) { /* tails stop where they should */
        uint16_t small[48];
        memset(small, 0xab, sizeof small);
        k->half_encode(&(struct half_encode_args){.x = f, .y = small, .n = n});
        assert_int_equal(small[n], 0xabab);
    }
}

static void test_halves(void **state)
{
    (void)state;
    each_backend(halves);
}

static void test_bfloat(void **state)
{
    (void)state;
    assert_int_equal(bfloat_from_float(1.0f), 0x3f80);
    assert_int_equal(bfloat_from_float(float_from_bits(0x3f808000)), 0x3f80); /* tie to even */
    assert_int_equal(bfloat_from_float(float_from_bits(0x3f818000)), 0x3f82);
    assert_int_equal(bfloat_from_float(INFINITY), 0x7f80);
    assert_true(isnan(bfloat_to_float(bfloat_from_float(NAN))));
}

/* Angles at far positions, against long double (64-bit mantissa): 1e-6 rad. */
static void rope_far(const struct kernels *k)
{
    enum { HALF = 32, T = 3 };
    static const uint64_t positions[] = {0, 1, 8191, 131072, 3300000, 9999997};
    const long double turn = 6.28318530717958647692528676655900577L;
    uint64_t steps[HALF];
    long double freq[HALF];
    for (int i = 0; i < HALF; i++) {
        freq[i] = powl(100000.0L, -2.0L * i / 64);
        steps[i] = (uint64_t)roundl(freq[i] / turn * 0x1p64L);
    }
    for (size_t p = 0; p < sizeof positions / sizeof *positions; p++) {
        float c[T * HALF], s[T * HALF];
        k->rope_table(&(struct rope_table_args){.pos0 = positions[p],
                                                .T = T,
                                                .steps = steps,
                                                .half = HALF,
                                                .attn_factor = 1,
                                                .cos = c,
                                                .sin = s});
        for (int t = 0; t < T; t++)
            for (int i = 0; i < HALF; i++) {
                long double angle = fmodl((long double)(positions[p] + (uint64_t)t) * freq[i], turn);
                assert_true(fabsl(cosl(angle) - (long double)c[t * HALF + i]) <= 1e-6L);
                assert_true(fabsl(sinl(angle) - (long double)s[t * HALF + i]) <= 1e-6L);
            }
    }
}

static void test_rope_far(void **state)
{
    (void)state;
    each_backend(rope_far);
}

static void rope_turns(const struct kernels *k)
{
    static const size_t dims[][2] = {{64, 32}, {128, 64}, {20, 7}, {80, 40}, {64, 13}};
    struct random r = {31};
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (int kind = 0; kind < 2; kind++) {
            enum { T = 37, HEADS = 3 };
            size_t D = dims[i][0], half = dims[i][1], ld = HEADS * D + 5;
            float *x = malloc(T * ld * sizeof *x), *y = malloc(T * ld * sizeof *y);
            float *c = malloc(T * half * sizeof *c), *s = malloc(T * half * sizeof *s);
            for (size_t n = 0; n < T * half; n++) {
                float angle = random_float(&r) * 3.14f;
                c[n] = cosf(angle);
                s[n] = sinf(angle);
            }
            for (size_t n = 0; n < T * ld; n++)
                x[n] = y[n] = random_normal(&r);
            struct rope_apply_args a = {.kind = kind ? ROPE_HALVES : ROPE_PAIRS,
                                        .x = y,
                                        .ldx = ld,
                                        .T = T,
                                        .heads = HEADS,
                                        .D = D,
                                        .half = half,
                                        .cos = c,
                                        .sin = s};
            k->rope_apply(&a);
            for (size_t t = 0; t < T; t++)
                for (size_t n = 0; n < ld; n++) {
                    size_t h = n / D, d = n % D, pair = kind ? d % half : d / 2;
                    float want = x[t * ld + n];
                    if (h < HEADS && d < 2 * half) {
                        int second = kind ? d >= half : (int)(d % 2);
                        size_t other = kind ? (second ? n - half : n + half) : n ^ 1;
                        if (!kind)
                            other = h * D + (d ^ 1);
                        float o = x[t * ld + other], cc = c[t * half + pair], ss = s[t * half + pair];
                        want = second ? o * ss + want * cc : want * cc - o * ss;
                    }
                    assert_true(y[t * ld + n] == want);
                }
            free(x);
            free(y);
            free(c);
            free(s);
        }
}

static void test_rope_turns(void **state)
{
    (void)state;
    each_backend(rope_turns);
}

static void norms(const struct kernels *k)
{
    static const size_t widths[] = {1, 7, 16, 63, 64, 65, 576, 2048};
    struct random r = {32};
    struct err e = {0};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int threads = 1; threads <= 3; threads++) {
            enum { T = 35 };
            size_t C = widths[i], ld = C + 3;
            float *x = malloc(T * ld * sizeof *x), *w = malloc(C * sizeof *w),
                  *y = malloc(T * ld * sizeof *y);
            float *one = malloc(C * sizeof *one);
            for (size_t n = 0; n < C; n++)
                w[n] = random_normal(&r);
            for (size_t n = 0; n < T * ld; n++)
                x[n] = random_normal(&r) * (n / ld == 2 ? 0 : n / ld == 3 ? 60000.0f : 1);
            poison(y, T * ld);
            struct pool *pool;
            assert_int_equal(pool_create(&pool, threads, &e), 0);
            struct rms_norm_args a = {
                .pool = pool, .x = x, .ldx = ld, .w = w, .T = T, .C = C, .eps = 1e-5f, .y = y, .ldy = ld};
            k->rms_norm(&a);
            pool_free(pool);
            for (size_t t = 0; t < T; t++) {
                double sum = 0;
                for (size_t c = 0; c < C; c++)
                    sum += (double)x[t * ld + c] * (double)x[t * ld + c];
                double scale = 1 / sqrt(sum / (double)C + 1e-5);
                for (size_t c = 0; c < C; c++) {
                    double want = (double)x[t * ld + c] * scale * (double)w[c];
                    assert_true(fabs((double)y[t * ld + c] - want) <= 2e-6 * (1 + fabs(want)));
                }
                assert_true(isnan(y[t * ld + C]));
                k->rms_norm(&(struct rms_norm_args){
                    .x = x + t * ld, .ldx = ld, .w = w, .T = 1, .C = C, .eps = 1e-5f, .y = one, .ldy = C});
                assert_memory_equal(one, y + t * ld, C * sizeof *one);
            }
            free(x);
            free(w);
            free(y);
            free(one);
        }
}

static void test_norms(void **state)
{
    (void)state;
    each_backend(norms);
}

/* SiLU over every size of gate, which also bounds the exponential; in place; tails equal bodies. */
static void silu(const struct kernels *k)
{
    enum { N = 4001, LD = 4010 };
    static float gate[2 * LD], up[2 * LD], y[2 * LD];
    struct random r = {33};
    for (size_t i = 0; i < 2 * LD; i++) {
        gate[i] = ((float)(i % LD) - 2000) * 0.05f; /* -100..100 */
        up[i] = random_normal(&r);
    }
    gate[17] = -INFINITY;
    gate[18] = NAN;
    gate[19] = -1e30f;
    gate[20] = 1e30f;
    poison(y, 2 * LD);
    struct silu_mul_args a = {.gate = gate, .up = up, .y = y, .ld = LD, .T = 2, .F = N};
    k->silu_mul(&a);
    for (size_t t = 0; t < 2; t++)
        for (size_t i = t ? 0 : 21; i < N; i++) {
            double g = (double)gate[t * LD + i], want = g / (1 + exp(-g)) * (double)up[t * LD + i];
            assert_true(fabs((double)y[t * LD + i] - want) <= 1e-6 * fabs(want) + 1e-34);
        }
    assert_true(isnan(y[18]));
    assert_true(y[19] == 0 && isfinite(y[20]));
    float tail[3] = {0.5f, -3, 4}, ones[3] = {1, 1, 1}, body[16];
    a = (struct silu_mul_args){.gate = tail, .up = ones, .y = tail, .ld = 3, .T = 1, .F = 3};
    float wide[16], wide_ones[16];
    for (size_t i = 0; i < 16; i++) {
        wide[i] = tail[i % 3];
        wide_ones[i] = 1;
    }
    k->silu_mul(&(struct silu_mul_args){.gate = wide, .up = wide_ones, .y = body, .ld = 16, .T = 1, .F = 16});
    k->silu_mul(&a);
    for (size_t i = 0; i < 16; i++)
        assert_true(float_bits(tail[i % 3]) == float_bits(body[i]));
}

static void test_silu(void **state)
{
    (void)state;
    each_backend(silu);
}

static void adds(const struct kernels *k)
{
    float a[37], b[37], y[38];
    for (size_t i = 0; i < 37; i++) {
        a[i] = (float)i;
        b[i] = 0.5f * (float)i;
    }
    poison(y, 38);
    k->add(&(struct add_args){.a = a, .b = b, .y = y, .n = 37});
    for (size_t i = 0; i < 37; i++)
        assert_true(y[i] == 1.5f * (float)i);
    assert_true(isnan(y[37]));
}

static void test_adds(void **state)
{
    (void)state;
    each_backend(adds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_halves),     cmocka_unit_test(test_bfloat), cmocka_unit_test(test_rope_far),
        cmocka_unit_test(test_rope_turns), cmocka_unit_test(test_norms),  cmocka_unit_test(test_silu),
        cmocka_unit_test(test_adds),
    };
    return cmocka_run_group_tests_name("kernels_misc", tests, NULL, NULL);
}
