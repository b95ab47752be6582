/* SPDX-License-Identifier: Apache-2.0 */
/* test_speculate.c - guesses: the index against a plain search over every place, growing and cut back; passes
 * of a token with guesses against one token a pass, bit for bit: logits, attention sums, saved bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>

#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "engine/sample.h"
#include "engine/session.h"
#include "engine/speculate.h"
#include "kernels/kernels.h"
#include "tests/support/session_fixture.h"

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

/* ---- the index ------------------------------------------------------------------------------------------
 */

static uint64_t random_state = 9;

static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

/* Any place will do that agrees as long as the best one; returns the length, 0 when the guess is wrong. */
static size_t longest_agreement(const uint32_t *ids, size_t n)
{
    size_t best = 0;
    for (size_t place = 1; place < n; place++) {
        size_t k = 0;
        while (k < place && ids[place - 1 - k] == ids[n - 1 - k])
            k++;
        best = k > best ? k : best;
    }
    return best;
}

static int follows_an_agreement(const uint32_t *ids, size_t n, size_t length, const uint32_t *guess, size_t m)
{
    for (size_t place = length; place < n; place++)
        if (!memcmp(ids + place - length, ids + n - length, length * sizeof *ids)) {
            size_t k = 0;
            while (k < m && guess[k] == (place + k < n ? ids[place + k] : guess[place + k - n]))
                k++;
            if (k == m)
                return 1;
        }
    return 0;
}

static void check_guess(const struct guesser *g, const uint32_t *ids, size_t n)
{
    uint32_t guess[3];
    size_t length = longest_agreement(ids, n), m = guesser_guess(g, guess, 3);
    size_t want = length < 2 ? 0 : length - 1 < 3 ? length - 1 : 3;
    assert_int_equal(m, want);
    if (m)
        assert_true(follows_an_agreement(ids, n, length < 24 ? length : 24, guess, m));
}

static void test_index_equals_a_plain_search(void **state)
{
    (void)state;
    enum { N = 700 };
    struct err e = {0};
    uint32_t ids[N];
    for (uint32_t words = 3; words < 60; words += 8) { /* few of them: chains are long */
        struct guesser *g = NULL;
        assert_int_equal(guesser_create(&g, &e), 0);
        size_t n = 0;
        for (int round = 0; round < 40; round++) {
            size_t keep = n ? next_random((uint32_t)n + 1) : 0, to = keep + next_random(120);
            to = to < N ? to : N;
            for (size_t i = keep; i < to; i++)
                ids[i] = next_random(4) && i > 50 ? ids[i - 41] : next_random(words);
            assert_int_equal(guesser_follow(g, ids, to, &e), 0);
            n = to;
            if (words > 20) /* else more places than are looked at */
                check_guess(g, ids, n);
            while (n < N && next_random(8)) {
                ids[n] = next_random(words);
                assert_int_equal(guesser_add(g, ids[n++], &e), 0);
            }
        }
        guesser_free(g);
    }
}

static void test_index_of_a_long_text(void **state)
{
    (void)state;
    enum { N = 300000 };
    struct err e = {0};
    uint32_t *ids = malloc(N * sizeof *ids), guess[3];
    struct guesser *g = NULL;
    assert_non_null(ids);
    for (size_t i = 0; i < N; i++)
        ids[i] = next_random(50000);
    memcpy(ids + N - 10, ids + 1234, 10 * sizeof *ids); /* a quotation */
    assert_int_equal(guesser_create(&g, &e), 0);
    assert_int_equal(guesser_guess(g, guess, 3), 0);
    assert_int_equal(guesser_follow(g, ids, N, &e), 0);
    assert_int_equal(guesser_guess(g, guess, 3), 3);
    assert_memory_equal(guess, ids + 1244, sizeof guess);
    assert_int_equal(guesser_follow(g, ids, 2, &e), 0);
    assert_int_equal(guesser_guess(g, guess, 3), 0);
    assert_int_equal(guesser_follow(g, NULL, 0, &e), 0);
    guesser_free(g);
    guesser_free(NULL);
    free(ids);
}

static void test_a_repetition_goes_on(void **state)
{
    (void)state;
    static const uint32_t ids[] = {9, 8, 5, 6, 5, 6, 5, 6};
    struct err e = {0};
    struct guesser *g = NULL;
    uint32_t guess[3];
    assert_int_equal(guesser_create(&g, &e), 0);
    assert_int_equal(guesser_follow(g, ids, sizeof ids / sizeof *ids, &e), 0);
    assert_int_equal(guesser_guess(g, guess, 3), 3);
    assert_true(guess[0] == 5 && guess[1] == 6 && guess[2] == 5);
    guesser_free(g);
}

/* ---- passes ---------------------------------------------------------------------------------------------
 */

/* Knows what follows; everything it is shown must be the plain path's. */
struct oracle {
    struct session *plain; /* appends what is shown */
    const uint32_t *ids;   /* of the pass */
    size_t V;
    size_t right; /* so many guesses are said to be right */
    size_t asked;
};

static int says(void *arg, size_t i, const float *logits)
{
    struct oracle *o = arg;
    struct err e = {0};
    assert_int_equal(i, o->asked);
    o->asked++;
    assert_int_equal(session_append(o->plain, o->ids + i, 1, NULL, &e), 0);
    assert_memory_equal(session_logits(o->plain), logits, o->V * sizeof *logits);
    return i < o->right;
}

static void same_timelines(const struct engine *g, struct session *a, struct session *b)
{
    size_t pages_a, pages_b, V = engine_params(g)->V;
    assert_int_equal(session_position(a), session_position(b));
    assert_memory_equal(session_tokens(a), session_tokens(b), session_position(a) * sizeof(uint32_t));
    assert_memory_equal(session_logits(a), session_logits(b), V * sizeof(float));
    const double *x = session_mass(a, &pages_a), *y = session_mass(b, &pages_b);
    assert_int_equal(pages_a, pages_b);
    if (pages_a)
        assert_memory_equal(x, y, pages_a * sizeof *x);
    struct shelf shelf_a = {.n = 0}, shelf_b = {.n = 0};
    struct shelf_item *save_a = lab_save(a, &shelf_a), *save_b = lab_save(b, &shelf_b);
    assert_int_equal(save_a->size, save_b->size);
    assert_memory_equal(save_a->key, save_b->key, sizeof save_a->key);
    assert_memory_equal(save_a->data, save_b->data, save_a->size);
    shelf_clear(&shelf_a);
    shelf_clear(&shelf_b);
}

/* Over page edges with every number of right guesses; the wrong ones are other ids. */
static void check_passes(const struct engine *g, size_t start, int watch)
{
    struct err e = {0};
    struct session *a = lab_session(g), *b = lab_session(g);
    size_t V = engine_params(g)->V, kept, at = start;
    lab_append(&lab, a, 0, start, 0);
    lab_append(&lab, b, 0, start, 0);
    assert_int_equal(session_watch(a, watch, &e) | session_watch(b, watch, &e), 0);
    for (size_t step = 0; step < 40; step++) {
        size_t n = 1 + step % SESSION_GUESSES, room = KV_PAGE - at % KV_PAGE;
        uint32_t ids[SESSION_GUESSES];
        for (size_t i = 0; i < n; i++)
            ids[i] = lab.ids[at + i];
        struct oracle o = {.plain = b, .V = V, .ids = ids, .right = step / 3 % SESSION_GUESSES};
        size_t tried = n < room ? n : room, want = o.right + 1 < tried ? o.right + 1 : tried;
        for (size_t i = want; i < n; i++)
            ids[i] = (uint32_t)((ids[i] + 1 + step) % V);
        assert_int_equal(session_append_guesses(a, ids, n, NULL, says, &o, &kept, &e), 0);
        assert_int_equal(kept, want);
        assert_int_equal(o.asked, want < tried ? want : tried - 1);
        for (size_t i = o.asked; i < kept; i++)
            assert_int_equal(session_append(b, ids + i, 1, NULL, &e), 0);
        at += kept;
        if (step % 5 == 4)
            same_timelines(g, a, b);
    }
    same_timelines(g, a, b);
    session_free(a);
    session_free(b);
}

static void test_passes_equal_one_by_one(void **state)
{
    (void)state;
    for (int i = 0; i <= 2; i++) {
        struct engine *g = lab_engine(&lab, 0.5 * i, i == 1 ? KV_4 : KV_8, 2, NULL, i != 0);
        check_passes(g, 1, 1);
        check_passes(g, 1000, i != 1);
        engine_close(g);
    }
    struct engine *raw = lab_engine(&lab, 0.5, KV_RAW, 1, "ref", 0);
    check_passes(raw, 100, 1);
    engine_close(raw);
}

/* What an answer does: the sampler's choice, guesses out of the index. */
struct answering {
    struct guesser *guesser;
    struct sampler *sampler;
    uint32_t ids[SESSION_GUESSES], id;
    uint32_t *out;
    size_t n;
    int pending;
};

static void take_next(struct answering *w, const float *logits)
{
    struct err e = {0};
    w->id = (uint32_t)sampler_next(w->sampler, logits);
    w->out[w->n++] = w->id;
    assert_int_equal(guesser_add(w->guesser, w->id, &e), 0);
}

static int is_right(void *arg, size_t i, const float *logits)
{
    struct answering *w = arg;
    take_next(w, logits);
    w->pending = w->id != w->ids[i + 1];
    return !w->pending;
}

/* Returns the passes that N tokens took. `hint` [N] is a text that the index has before the timeline's. */
static size_t answer(const struct engine *g, double temperature, const uint32_t *hint, uint32_t *out,
                     size_t N)
{
    struct err e = {0};
    struct session *s = lab_session(g);
    struct answering w = {.out = out};
    struct sample_options how = {.temperature = temperature, .top_p = 0.9, .seed = 3};
    assert_int_equal(sampler_create(&how, engine_params(g)->V, &w.sampler, &e), 0);
    assert_int_equal(guesser_create(&w.guesser, &e), 0);
    lab_append(&lab, s, 0, 500, 0);
    assert_int_equal(guesser_follow(w.guesser, hint, hint ? N : 0, &e), 0);
    for (size_t i = 0; i < session_position(s); i++)
        assert_int_equal(guesser_add(w.guesser, session_tokens(s)[i], &e), 0);
    size_t most = hint ? SESSION_GUESSES - 1 : 0, passes = 0, kept;
    while (w.n < N || w.pending) {
        if (!w.pending)
            take_next(&w, session_logits(s));
        size_t left = N - w.n, n = 1;
        w.ids[0] = w.id;
        w.pending = 0;
        n += guesser_guess(w.guesser, w.ids + 1, left < most ? left : most);
        assert_int_equal(session_append_guesses(s, w.ids, n, NULL, is_right, &w, &kept, &e), 0);
        passes++;
    }
    assert_int_equal(session_position(s), 500 + N);
    assert_memory_equal(session_tokens(s) + 500, out, N * sizeof *out);
    guesser_free(w.guesser);
    sampler_free(w.sampler);
    session_free(s);
    return passes;
}

static void test_answers_are_the_same(void **state)
{
    (void)state;
    enum { N = 300 };
    static uint32_t plain[N], guessed[N], hint[N];
    struct engine *g = lab_engine(&lab, 0.5, 0, 2, NULL, 1);
    for (int i = 0; i < 3; i++) {
        double temperature = 0.3 * i;
        assert_int_equal(answer(g, temperature, NULL, plain, N), N);
        for (size_t t = 0; t < N; t++) /* a source that is quoted with changes */
            hint[t] = t % 17 == 5 ? plain[t] + 1 : plain[t];
        size_t passes = answer(g, temperature, hint, guessed, N);
        assert_true(passes < N * 2 / 3);
        assert_memory_equal(plain, guessed, sizeof plain);
        print_message("temperature %.1f: %.2f tokens a pass\n", temperature, (double)N / (double)passes);
    }
    engine_close(g);
}

static int never(void *arg, size_t i, const float *logits)
{
    (void)arg, (void)i, (void)logits;
    fail();
    return 0;
}

static void test_failures_change_nothing(void **state)
{
    (void)state;
    struct err e = {0};
    struct engine *g = lab_engine(&lab, 0.5, 0, 2, NULL, 1);
    struct session *a = lab_session(g), *b = lab_session(g);
    lab_append(&lab, a, 0, 200, 0);
    lab_append(&lab, b, 0, 200, 0);
    struct cancel stop = {0};
    atomic_store(&stop.requested, 1);
    struct append_options o = {.cancel = &stop};
    uint32_t bad[2] = {lab.ids[200], UINT32_MAX};
    size_t kept = 9;
    assert_int_equal(session_append_guesses(a, lab.ids, 4, &o, never, NULL, &kept, &e), ERR_CANCELLED);
    assert_int_equal(kept, 0);
    assert_int_equal(session_append_guesses(a, bad, 2, NULL, never, NULL, &kept, &e), ERR_USAGE);
    assert_int_equal(session_append_guesses(a, lab.ids, 0, NULL, never, NULL, &kept, &e), ERR_USAGE);
    assert_int_equal(session_append_guesses(a, lab.ids, 5, NULL, never, NULL, &kept, &e), ERR_USAGE);
    same_timelines(g, a, b);
    session_free(a);
    session_free(b);
    engine_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index_equals_a_plain_search), cmocka_unit_test(test_index_of_a_long_text),
        cmocka_unit_test(test_a_repetition_goes_on),        cmocka_unit_test(test_passes_equal_one_by_one),
        cmocka_unit_test(test_answers_are_the_same),        cmocka_unit_test(test_failures_change_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
