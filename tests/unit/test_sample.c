/* SPDX-License-Identifier: Apache-2.0 */
/* Sampling: ties, numbers that are none, the nucleus, frequencies, the seed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "engine/sample.h"

static struct sampler *make(double temperature, double top_p, uint64_t seed, size_t V)
{
    struct sampler *s;
    struct err e;
    struct sample_options o = {.temperature = temperature, .top_p = top_p, .seed = seed};
    assert_int_equal(sampler_create(&o, V, &s, &e), 0);
    return s;
}

static void greedy_takes_the_lower_of_equals(void **state)
{
    (void)state;
    const float a[5] = {-1, 3, 2, 3, -INFINITY}, b[4] = {NAN, -5, NAN, -4}, c[3] = {NAN, -INFINITY, NAN};
    const float d[3] = {1, INFINITY, INFINITY};
    assert_int_equal(sample_greedy(a, 5), 1);
    assert_int_equal(sample_greedy(b, 4), 3);
    assert_int_equal(sample_greedy(c, 3), 3);
    assert_int_equal(sample_greedy(d, 3), 1);
    struct sampler *s = make(0, 0.9, 1, 5);
    assert_int_equal(sampler_next(s, a), 1);
    sampler_free(s);
}

static void what_is_no_number_is_never_drawn(void **state)
{
    (void)state;
    const float some[6] = {NAN, 1, -INFINITY, 1, NAN, -INFINITY},
                none[6] = {NAN, NAN, NAN, -INFINITY, NAN, NAN};
    const float certain[6] = {0, NAN, 5, INFINITY, 1, 2};
    for (int p = 0; p < 2; p++) {
        struct sampler *s = make(1, p ? 1.0 : 0.9, 7, 6);
        int seen = 0;
        for (int i = 0; i < 200; i++) {
            size_t id = sampler_next(s, some);
            assert_true(id == 1 || id == 3);
            seen |= 1 << id;
        }
        assert_int_equal(seen, 1 << 1 | 1 << 3);
        assert_int_equal(sampler_next(s, none), 6);
        assert_int_equal(sampler_next(s, certain), 3);
        sampler_free(s);
    }
}

static void frequencies_follow_the_softmax(void **state)
{
    (void)state;
    enum { V = 5, N = 40000 };
    const float logits[V] = {0, 1, -2, 0.5f, 3};
    const double temperatures[3] = {0.5, 1, 2};
    for (int k = 0; k < 3; k++) {
        double p[V], sum = 0;
        int hits[V] = {0};
        for (int i = 0; i < V; i++)
            sum += p[i] = exp((double)logits[i] / temperatures[k]);
        struct sampler *s = make(temperatures[k], 1, (uint64_t)k, V);
        for (int i = 0; i < N; i++)
            hits[sampler_next(s, logits)]++;
        for (int i = 0; i < V; i++) {
            double want = p[i] / sum, sigma = sqrt(want * (1 - want) / N);
            assert_true(fabs((double)hits[i] / N - want) <= 5 * sigma + 1e-9);
        }
        sampler_free(s);
    }
}

/* The nucleus by definition: a full sort. */
static void the_nucleus_is_the_smallest(void **state)
{
    (void)state;
    enum { V = 64 };
    float logits[V];
    for (int i = 0; i < V; i++)
        logits[i] = (float)(i * 37 % V) / 8; /* all different */
    const double tops[4] = {0.1, 0.5, 0.9, 0.999};
    for (int k = 0; k < 4; k++) {
        double sum = 0, kept = 0;
        int allowed[V] = {0}, size = 0;
        for (int i = 0; i < V; i++)
            sum += exp((double)logits[i]);
        for (int rank = V - 1; rank >= 0 && kept < tops[k] * sum; rank--)
            for (int i = 0; i < V; i++)
                if (i * 37 % V == rank) {
                    allowed[i] = 1;
                    size++;
                    kept += exp((double)logits[i]);
                }
        struct sampler *s = make(1, tops[k], 11, V);
        int seen[V] = {0}, found = 0;
        for (int i = 0; i < 60000; i++) {
            size_t id = sampler_next(s, logits);
            assert_true(id < V && allowed[id]);
            found += !seen[id];
            seen[id] = 1;
        }
        if (k < 3)
            assert_int_equal(found, size);
        sampler_free(s);
    }
}

static void a_flat_row_and_a_tiny_temperature(void **state)
{
    (void)state;
    enum { V = 1000 };
    static float flat[V];
    struct sampler *s = make(1, 0.1, 3, V);
    for (int i = 0; i < 500; i++)
        assert_true(sampler_next(s, flat) < 101); /* of equals the lower ids are kept */
    sampler_free(s);
    flat[617] = 0.001f;
    s = make(1e-9, 1, 3, V);
    for (int i = 0; i < 100; i++)
        assert_int_equal(sampler_next(s, flat), 617);
    sampler_free(s);
    s = make(1, 1, 3, 1);
    assert_int_equal(sampler_next(s, flat), 0);
    sampler_free(s);
}

static void the_seed_decides(void **state)
{
    (void)state;
    enum { V = 300, N = 50 };
    float logits[V];
    for (int i = 0; i < V; i++)
        logits[i] = sinf((float)i);
    struct sampler *a = make(0.8, 0.95, 42, V), *b = make(0.8, 0.95, 42, V), *c = make(0.8, 0.95, 43, V);
    int differ = 0;
    for (int i = 0; i < N; i++) {
        size_t x = sampler_next(a, logits);
        assert_int_equal(x, sampler_next(b, logits));
        differ += x != sampler_next(c, logits);
    }
    assert_true(differ > N / 2);
    sampler_free(a);
    sampler_free(b);
    sampler_free(c);
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    const double bad[][2] = {{-1, 1}, {NAN, 1}, {INFINITY, 1}, {101, 1},
                             {1, 0},  {1, -1},  {1, 1.01},     {1, NAN}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sampler *s = (struct sampler *)1;
        struct err e;
        struct sample_options o = {.temperature = bad[i][0], .top_p = bad[i][1]};
        assert_int_equal(sampler_create(&o, 10, &s, &e), ERR_USAGE);
        assert_null(s);
    }
    struct sampler *s;
    assert_int_equal(sampler_create(&(struct sample_options){.top_p = 1}, 0, &s, NULL), ERR_USAGE);
    sampler_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_lower_of_equals),
        cmocka_unit_test(what_is_no_number_is_never_drawn),
        cmocka_unit_test(frequencies_follow_the_softmax),
        cmocka_unit_test(the_nucleus_is_the_smallest),
        cmocka_unit_test(a_flat_row_and_a_tiny_temperature),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
