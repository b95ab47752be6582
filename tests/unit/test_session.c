/* SPDX-License-Identifier: Apache-2.0 */
/* test_session.c - timelines on tiny models: against the plain forward pass, and against themselves, bit for
 * bit, over every cut, thread count, mark and return, cancel. Saves: test_session_save.c; rewinding:
 * test_session_rewind.c; page formats: test_session_formats.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "engine/session.h"
#include "kernels/kernels.h"
#include "tests/support/naive_llama.h"
#include "tests/support/session_fixture.h"

enum { N = 1100, S = LAB_SINK, R = LAB_RECENT };

static struct lab lab;

static int setup(void **state)
{
    (void)state;
    lab_open(&lab);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    lab_close(&lab);
    return 0;
}

static struct engine *open_engine(double sparsity, int format, int threads, const char *kernels, int q4)
{
    return lab_engine(&lab, sparsity, format, threads, kernels, q4);
}

static void append(struct session *s, size_t from, size_t to)
{
    lab_append(&lab, s, from, to, 0);
}

static float *copy_logits(const struct session *s, const struct engine *g)
{
    size_t bytes = engine_params(g)->V * sizeof(float);
    float *copy = malloc(bytes);
    assert_non_null(session_logits(s));
    memcpy(copy, session_logits(s), bytes);
    return copy;
}

struct collect {
    float *rows;
    size_t V, n;
};

static int take_row(void *arg, size_t position, const float *row)
{
    struct collect *c = arg;
    assert_int_equal(position, c->n);
    memcpy(c->rows + c->n++ * c->V, row, c->V * sizeof *row);
    return 0;
}

static void against_naive(double sparsity, const char *kernels)
{
    enum { SHORT = 330 };
    struct err e = {0};
    struct engine *g = open_engine(sparsity, 16, 2, kernels, 0);
    struct session *s = lab_session(g);
    size_t V = engine_params(g)->V;
    struct collect c = {.rows = malloc(SHORT * V * sizeof(float)), .V = V};
    struct append_options o = {.logits = take_row, .arg = &c};
    assert_int_equal(session_append(s, lab.ids, SHORT, &o, &e), 0);
    assert_int_equal(c.n, SHORT);
    double *want = malloc(SHORT * V * sizeof *want), worst = 0, size = 0;
    assert_int_equal(naive_llama(lab.model, engine_heads(g), S, R, lab.ids, SHORT, want, V), 0);
    for (size_t i = 0; i < SHORT * V; i++) {
        double d = fabs(want[i] - (double)c.rows[i]);
        if (!(d <= 1e-2 * (1 + fabs(want[i]))))
            fail_msg("sparsity %.2f %s: logit %zu of token %zu is %g instead of %g", sparsity, kernels, i % V,
                     i / V, (double)c.rows[i], want[i]);
        worst = d > worst ? d : worst;
        size += fabs(want[i]);
    }
    assert_true(size > 1);
    print_message("sparsity %.2f %s: worst difference %.2e\n", sparsity, kernels, worst);
    free(want);
    free(c.rows);
    session_free(s);
    engine_close(g);
}

static void test_equals_plain_pass_at_every_sparsity(void **state)
{
    (void)state;
    static const char *const names[] = {"ref", "avx2", "avx512", "avx512vnni"};
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
        if (kernels_get(names[k]))
            for (int i = 0; i <= 6; i++) /* of six heads */
                if (k == 3 || i % 3 == 0)
                    against_naive(i / 6.0, names[k]);
}

/* What the whole text gives, for comparison. */
static float *one_pass(const struct engine *g)
{
    struct session *s = lab_session(g);
    append(s, 0, N);
    float *logits = copy_logits(s, g);
    session_free(s);
    return logits;
}

static void check_same(const float *want, const struct session *s, const struct engine *g, const char *what,
                       size_t cut)
{
    if (memcmp(want, session_logits(s), engine_params(g)->V * sizeof *want))
        fail_msg("%s, cut at %zu: other bits than in one pass", what, cut);
}

/* `all`: every awkward cut; otherwise each third of them and one step. */
static void cuts_with(double sparsity, int format, const char *kernels, int quantised, int all)
{
    static const size_t cuts[] = {1,   2,     63,  64,  65,  S - 1, S,    S + 1, 127,  128,  R,
                                  199, S + R, 201, 511, 512, 513,   1023, 1024,  1025, N - 1};
    struct engine *g = open_engine(sparsity, format, 2, kernels, quantised);
    float *want = one_pass(g);
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i += all ? 1 : 3) {
        struct session *s = lab_session(g);
        append(s, 0, cuts[i]);
        append(s, cuts[i], N);
        check_same(want, s, g, kernels, cuts[i]);
        session_free(s);
    }
    for (size_t step = all ? 1 : 100; step <= 100; step = step == 1    ? 7
                                                          : step == 7  ? 64
                                                          : step == 64 ? 100
                                                                       : 101) {
        struct session *s = lab_session(g);
        for (size_t at = 0; at < N; at += step)
            append(s, at, at + step < N ? at + step : N);
        check_same(want, s, g, "steps", step);
        session_free(s);
    }
    free(want);
    engine_close(g);
}

static void test_cuts_change_no_bit(void **state)
{
    (void)state;
    static const char *const names[] = {"avx2", "avx512", "avx512vnni"};
    cuts_with(0.5, 8, "ref", 1, 0);
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
        if (kernels_get(names[k])) {
            cuts_with(0.5, 8, names[k], 1, k == 2);
            cuts_with(0.0, 16, names[k], 0, 0);
            cuts_with(1.0, 8, names[k], 1, 0);
        }
}

static void test_threads_change_no_bit(void **state)
{
    (void)state;
    struct engine *one = open_engine(0.5, 8, 1, NULL, 1);
    float *want = one_pass(one);
    for (int threads = 2; threads <= 5; threads++) {
        struct engine *g = open_engine(0.5, 8, threads, NULL, 1);
        struct session *s = lab_session(g);
        append(s, 0, N);
        check_same(want, s, g, "threads", (size_t)threads);
        session_free(s);
        engine_close(g);
    }
    free(want);
    engine_close(one);
}

static void test_mark_and_return(void **state)
{
    (void)state;
    static const size_t marks[] = {0, 1, 64, 300, 1023, 1024, 1030};
    struct err e = {0};
    struct engine *g = open_engine(0.5, 8, 2, NULL, 1);
    float *want = one_pass(g);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        struct session *s = lab_session(g);
        struct session_mark *mark = NULL;
        append(s, 0, marks[i]);
        assert_int_equal(session_mark(s, &mark, &e), 0);
        append(s, 5, 1060); /* a branch of other tokens */
        assert_int_equal(session_return(s, mark, &e), 0);
        assert_int_equal(session_position(s), marks[i]);
        append(s, marks[i], N);
        check_same(want, s, g, "after a return", marks[i]);
        session_mark_free(mark);
        session_free(s);
    }
    free(want);
    engine_close(g);
}

/* Cancels itself after `left` looks: progress is called between chunks, so the flag is set from there. */
static void cancel_from_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    (void)done;
    (void)total;
    atomic_store(&((struct cancel *)arg)->requested, 1);
}

static void test_cancel_keeps_whole_chunks(void **state)
{
    (void)state;
    struct err e = {0};
    struct engine *g = open_engine(0.5, 8, 2, NULL, 1);
    float *want = one_pass(g);
    struct session *s = lab_session(g);
    struct cancel cancel = {.requested = 0};
    struct progress progress = {.report = cancel_from_progress, .arg = &cancel};
    struct append_options o = {.progress = &progress, .cancel = &cancel};
    assert_int_equal(session_append(s, lab.ids, N, &o, &e), ERR_CANCELLED);
    size_t at = session_position(s);
    assert_true(at > 0 && at < N);
    assert_int_equal(session_append(s, lab.ids + at, N - at, &o, &e),
                     ERR_CANCELLED); /* still set: nothing moves */
    assert_int_equal(session_position(s), at);
    append(s, at, N);
    check_same(want, s, g, "after a cancel", at);
    free(want);
    session_free(s);
    engine_close(g);
}

static void test_watch_sums_to_the_number_of_tokens(void **state)
{
    (void)state;
    struct err e = {0};
    struct engine *g = open_engine(0.5, 8, 2, NULL, 1);
    float *want = one_pass(g);
    struct session *s = lab_session(g);
    append(s, 0, 1000);
    assert_int_equal(session_watch(s, 1, &e), 0);
    append(s, 1000, N);
    check_same(want, s, g, "watched", 1000);
    size_t pages;
    const double *mass = session_mass(s, &pages);
    double sum = 0;
    for (size_t i = 0; i < pages; i++)
        sum += mass[i];
    assert_int_equal(pages, (N + 63) / 64);
    assert_true(fabs(sum - (N - 1000)) < 1e-2);
    free(want);
    session_free(s);
    engine_close(g);
}

static void test_wrong_tokens_are_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct engine *g = open_engine(0.5, 8, 1, NULL, 0);
    struct session *s = lab_session(g);
    uint32_t wrong = (uint32_t)engine_params(g)->V;
    assert_int_equal(session_append(s, &wrong, 1, NULL, &e), ERR_USAGE);
    assert_int_equal(session_position(s), 0);
    assert_null(session_logits(s));
    session_free(s);
    engine_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_plain_pass_at_every_sparsity),
        cmocka_unit_test(test_cuts_change_no_bit),
        cmocka_unit_test(test_threads_change_no_bit),
        cmocka_unit_test(test_mark_and_return),
        cmocka_unit_test(test_cancel_keeps_whole_chunks),
        cmocka_unit_test(test_watch_sums_to_the_number_of_tokens),
        cmocka_unit_test(test_wrong_tokens_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
