/* SPDX-License-Identifier: Apache-2.0 */
/* RoPE steps: exactness in fixed point, and each scaling against its own published formula. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "engine/model/rope_table.h"

#define TWO_PI 6.283185307179586476925286766559

static struct model_rope plain(size_t dims, double base)
{
    return (struct model_rope){
        .kind = ROPE_PAIRS, .dims = dims, .base = base, .scale = 1, .beta_fast = 32, .beta_slow = 1};
}

static void near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * fabs(want)))
        fail_msg("%.17g, expected %.17g", got, want);
}

static double turns(uint64_t step)
{
    return ldexp((double)step, -64);
}

static void steps_are_turns(void **state)
{
    (void)state;
    struct err e;
    struct rope_table t;
    struct model_rope r = plain(64, 100000);
    assert_int_equal(rope_table_make(&r, 0, &t, &e), 0);
    assert_int_equal(t.pairs, 32);
    assert_int_equal(t.kind, ROPE_PAIRS);
    assert_true(t.attn_factor == 1);
    for (size_t i = 0; i < 32; i++) {
        near(turns(t.steps[i]) * TWO_PI, pow(100000, -(double)i / 32));
        /* At 10 million tokens the phase is still right to a ten-millionth of a turn. */
        long double exact = powl(100000, -(long double)i / 32) / 6.283185307179586476925286766559L * 10000000;
        uint64_t phase = t.steps[i] * 10000000u;
        long double off = fabsl(exact - floorl(exact) - (long double)phase / 0x1p64L);
        assert_true(fminl(off, 1 - off) < 1e-7L);
    }
}

static void an_adapter_moves_the_base(void **state)
{
    (void)state;
    struct err e;
    struct rope_table a, b;
    struct model_rope r = plain(64, 100000), s = plain(64, 8600000);
    assert_int_equal(rope_table_make(&r, 8600000, &a, &e), 0);
    assert_int_equal(rope_table_make(&s, 0, &b, &e), 0);
    assert_memory_equal(a.steps, b.steps, sizeof a.steps);
}

static void linear_and_ntk(void **state)
{
    (void)state;
    struct model_rope r = plain(128, 10000);
    r.scaling = MODEL_SCALING_LINEAR;
    r.scale = 4;
    for (size_t i = 0; i < 64; i++)
        near(rope_frequency(&r, r.base, i), pow(10000, -(double)i / 64) / 4);
    r.scaling = MODEL_SCALING_NTK;
    near(rope_frequency(&r, r.base, 0),
         1); /* the fastest pair stays, the slowest is stretched by the factor */
    near(rope_frequency(&r, r.base, 63), pow(10000, -63.0 / 64) / 4);
}

/* The values that the Hugging Face implementation gives for Llama 3.1: ends kept or divided, a ramp between.
 */
static void llama3_by_wavelength(void **state)
{
    (void)state;
    struct model_rope r = plain(128, 500000);
    r.scaling = MODEL_SCALING_LLAMA3;
    r.scale = 8;
    r.original_context = 8192;
    r.low_freq_factor = 1;
    r.high_freq_factor = 4;
    int kept = 0, divided = 0, ramp = 0;
    for (size_t i = 0; i < 64; i++) {
        double f = pow(500000, -(double)i / 64), wavelength = TWO_PI / f, got = rope_frequency(&r, r.base, i);
        if (wavelength < 8192.0 / 4) {
            near(got, f);
            kept++;
        } else if (wavelength > 8192.0) {
            near(got, f / 8);
            divided++;
        } else {
            double smooth = (8192 / wavelength - 1) / 3;
            near(got, (1 - smooth) * f / 8 + smooth * f);
            assert_true(got < f && got > f / 8);
            ramp++;
        }
    }
    assert_true(kept == 29 && divided == 29 && ramp == 6);
    /* The same given as divisors, as GGUF files carry it. */
    float factors[64];
    struct model_rope g = plain(128, 500000);
    for (size_t i = 0; i < 64; i++)
        factors[i] = (float)(rope_frequency(&g, g.base, i) / rope_frequency(&r, r.base, i));
    g.factors = factors;
    for (size_t i = 0; i < 64; i++)
        assert_true(fabs(rope_frequency(&g, g.base, i) / rope_frequency(&r, r.base, i) - 1) < 1e-6);
}

static void yarn_keeps_the_fast_and_divides_the_slow(void **state)
{
    (void)state;
    struct err e;
    struct rope_table t;
    struct model_rope r = plain(128, 10000);
    r.scaling = MODEL_SCALING_YARN;
    r.scale = 16;
    r.original_context = 4096;
    assert_int_equal(rope_table_make(&r, 0, &t, &e), 0);
    assert_true(fabs((double)t.attn_factor - (1 + 0.1 * log(16))) < 1e-6);
    /* Pairs up to 20 turn more than 32 times in 4096 tokens, from 46 on less than once: 128 ln(4096 / (2 pi
     * b)) / (2 ln 10000) = 20.94 and 45.03. */
    for (size_t i = 0; i < 64; i++) {
        double f = pow(10000, -(double)i / 64), got = rope_frequency(&r, r.base, i);
        double keep = i <= 20 ? 1 : i >= 46 ? 0 : 1 - ((double)i - 20) / 26;
        near(got, f / 16 * (1 - keep) + f * keep);
    }
    r.attn_factor = 0.5;
    assert_int_equal(rope_table_make(&r, 0, &t, &e), 0);
    assert_true(fabs((double)t.attn_factor - 0.5 * (1 + 0.1 * log(16))) < 1e-6);
}

static void what_makes_no_rotation_is_refused(void **state)
{
    (void)state;
    struct rope_table t;
    const float aliasing[4] = {1, 1, 0.1f, 1}, none[4] = {1, NAN, 1, 1};
    struct model_rope ok = plain(8, 10000), bad[12];
    for (size_t i = 0; i < 12; i++)
        bad[i] = ok;
    bad[0].base = 1;
    bad[1].base = NAN;
    bad[2].base = INFINITY;
    bad[3].dims = 0;
    bad[4].dims = 7;
    bad[5].dims = 2 * ROPE_MAX_PAIRS + 2;
    bad[6].scaling = MODEL_SCALING_LINEAR;
    bad[6].scale = 0;
    bad[7].scaling = MODEL_SCALING_YARN; /* original_context 0 */
    bad[7].scale = 4;
    bad[8].scaling = MODEL_SCALING_LLAMA3;
    bad[8].original_context = 8192;
    bad[8].low_freq_factor = bad[8].high_freq_factor = 4;
    bad[9].scaling = MODEL_SCALING_LINEAR;
    bad[9].scale = NAN;
    bad[10].base = 1.1;
    bad[10].factors = aliasing;
    bad[11].factors = none;
    assert_int_equal(rope_table_make(&ok, 0, &t, NULL), 0);
    for (size_t i = 0; i < 12; i++)
        if (rope_table_make(&bad[i], 0, &t, NULL) != ERR_FORMAT)
            fail_msg("case %zu was taken", i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_turns),
        cmocka_unit_test(an_adapter_moves_the_base),
        cmocka_unit_test(linear_and_ntk),
        cmocka_unit_test(llama3_by_wavelength),
        cmocka_unit_test(yarn_keeps_the_fast_and_divides_the_slow),
        cmocka_unit_test(what_makes_no_rotation_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
