/* SPDX-License-Identifier: Apache-2.0 */
/* test_session_formats.c - the own-page rule in every page format: whatever the pieces, whoever stopped in
 * between and came back from a store, the same text gives the same records, scan summaries, checkpoints and
 * logits, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "kernels/kernels.h"
#include "tests/support/session_fixture.h"

enum { D = 32 };

#ifdef __SANITIZE_ADDRESS__
enum { LONG = 1101, SHORT = 1100, HEAVY = 0 };
#else
enum { LONG = 4500, SHORT = 1500, HEAVY = 1 };
#endif

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

/* Everything that n tokens read in pieces of `step` leave behind. */
struct reading {
    struct shelf shelf;
    float *logits;
};

static void finish(const struct engine *g, struct session *s, struct reading *r)
{
    size_t bytes = engine_params(g)->V * sizeof(float);
    r->logits = malloc(bytes);
    memcpy(r->logits, session_logits(s), bytes);
    lab_save(s, &r->shelf);
    session_free(s);
}

static void reading_clear(struct reading *r)
{
    shelf_clear(&r->shelf);
    free(r->logits);
}

/* The spans of `got` that `want` has too are all of want's, and have the same bytes. */
static void check_same(const struct engine *g, const struct reading *want, struct reading *got,
                       const char *what, size_t step)
{
    const char *format = kv_format_name(engine_kv_format(g));
    if (memcmp(want->logits, got->logits, engine_params(g)->V * sizeof(float)) != 0)
        fail_msg("%s, %s %zu: other logits", format, what, step);
    for (size_t i = 0; i < want->shelf.n; i++) {
        const struct shelf_item *a = &want->shelf.items[i], *b = shelf_find(&got->shelf, a->kind, a->key);
        assert_non_null(b);
        assert_int_equal(a->size, b->size);
        for (size_t k = 0; k < a->size; k++)
            if (a->data[k] != b->data[k])
                fail_msg("%s, %s %zu: byte %zu of the %s that ends at %zu", format, what, step, k,
                         a->kind == KV_KIND_BLOCK ? "block" : "checkpoint", a->position);
    }
}

static uint32_t random_below(uint64_t *x, uint32_t n)
{
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return (uint32_t)(*x % n);
}

/* Reads n tokens with random stops; at some of them saves, gives everything up, and comes back. */
static void read_with_stops(const struct engine *g, size_t n, uint64_t seed, struct reading *r)
{
    struct err e = {0};
    struct kv_source source = shelf_source(&r->shelf);
    struct session *s = lab_session(g);
    for (size_t at = 0; at < n;) {
        size_t stop = at + 1 + random_below(&seed, random_below(&seed, 2) ? 700 : 70);
        stop = stop < n ? stop : n;
        lab_append(&lab, s, at, stop, 0);
        at = stop;
        if (random_below(&seed, 3) == 0 && at < n) {
            struct restore_report report;
            lab_save(s, &r->shelf);
            session_free(s);
            s = lab_session(g);
            if (session_restore(s, &source, lab.ids, at, &report, &e))
                fail_msg("at %zu: %s", at, e.text);
            assert_int_equal(report.proof, RESTORE_VERIFIED_BITS);
        }
    }
    finish(g, s, r);
}

static void pieces_and_stops(double sparsity, int format, const char *kernels, size_t n, int all)
{
    static const size_t steps[] = {64, 100, 4096, 7, 1};
    struct engine *g = lab_engine(&lab, sparsity, format, 2, kernels, 1);
    struct reading want = {.logits = NULL}, got;
    assert_int_equal(engine_kv_format(g), format);
    struct session *s = lab_session(g);
    lab_append(&lab, s, 0, n, 0);
    finish(g, s, &want);
    assert_int_equal(want.shelf.n, n / KV_BLOCK + 1);
    for (size_t i = 0; i < (all ? 4u + (n == LONG) : 2u); i++) {
        got = (struct reading){.logits = NULL};
        s = lab_session(g);
        lab_append(&lab, s, 0, n, steps[i]);
        finish(g, s, &got);
        check_same(g, &want, &got, "pieces of", steps[i]);
        reading_clear(&got);
    }
    for (uint64_t seed = 1; seed <= (all && HEAVY ? 3u : 1u); seed++) {
        got = (struct reading){.logits = NULL};
        read_with_stops(g, n, seed * 88172645463325252ull, &got);
        check_same(g, &want, &got, "random stops", seed);
        reading_clear(&got);
    }
    reading_clear(&want);
    engine_close(g);
}

static void test_every_format_is_one_text_one_result(void **state)
{
    (void)state;
    size_t n;
    const int *formats = kv_formats(&n);
    assert_int_equal(n, 6);
    for (size_t i = 0; i < n; i++)
        pieces_and_stops(0.5, formats[i], NULL, formats[i] == KV_4 ? LONG : SHORT, HEAVY || i % 2);
}

static void test_also_on_other_kernels(void **state)
{
    (void)state;
    static const char *const names[] = {"ref", "avx2", "avx512"};
    for (size_t k = !HEAVY; k < (HEAVY ? sizeof names / sizeof names[0] : 2); k++)
        if (kernels_get(names[k])) {
            pieces_and_stops(0.5, KV_4, names[k], 1300, 0);
            pieces_and_stops(0.0, KV_K8V4, names[k], 1300, 0);
        }
}

/* Every summary in a block says what its page's keys are: radius and mean against the stored keys. */
static void test_scan_summaries_fit_their_pages(void **state)
{
    (void)state;
    struct engine *g = lab_engine(&lab, 0.0, KV_RAW, 2, NULL, 1);
    struct reading r = {.logits = NULL};
    struct session *s = lab_session(g);
    lab_append(&lab, s, 0, 1024, 0);
    finish(g, s, &r);
    size_t record = kv_page_bytes(KV_RAW, D), scan = kv_scan_bytes(D), pages = 16 * 6;
    assert_int_equal(r.shelf.items[0].size, pages * (record + scan));
    const struct kernels *k = kernels_get(NULL);
    float key[64 * D], value[64 * D];
    for (size_t p = 0; p < pages; p++) {
        const uint8_t *at = r.shelf.items[0].data, *summary = at + pages * record + p * scan;
        k->kv_page_unpack(&(struct kv_page_unpack_args){
            .record = at + p * record, .format = KV_RAW, .D = D, .k = key, .v = value});
        float two[2];
        uint16_t halves[2];
        memcpy(halves, summary + D, sizeof halves);
        k->half_decode(&(struct half_decode_args){.x = halves, .y = two, .n = 2});
        double furthest = 0;
        for (size_t c = 0; c < D; c++) {
            double mean = 0, point = (double)two[0] * (int8_t)summary[c];
            for (size_t t = 0; t < 64; t++)
                mean += (double)key[t * D + c] / 64;
            assert_true(fabs(mean - point) <= 0.51 * (double)two[0] + 1e-6);
        }
        for (size_t t = 0; t < 64; t++) {
            double sum = 0;
            for (size_t c = 0; c < D; c++) {
                double d = (double)key[t * D + c] - (double)two[0] * (int8_t)summary[c];
                sum += d * d;
            }
            furthest = sum > furthest ? sum : furthest;
        }
        assert_true(sqrt(furthest) <= (double)two[1] * 1.00001);
        assert_true(sqrt(furthest) >= (double)two[1] * 0.99);
        for (size_t i = D + 4; i < scan; i++)
            assert_int_equal(summary[i], 0);
    }
    reading_clear(&r);
    engine_close(g);
}

/* Fewer bits, further from raw; the order of the formats by what they cost. */
static void test_coarser_pages_are_further_from_raw(void **state)
{
    (void)state;
    struct engine *raw = lab_engine(&lab, 0.0, KV_RAW, 2, NULL, 1);
    size_t V = engine_params(raw)->V, bytes = engine_kv_bytes_per_token(raw), n;
    const int *formats = kv_formats(&n);
    struct session *s = lab_session(raw);
    lab_append(&lab, s, 0, 1000, 0);
    double distance[100] = {0};
    for (size_t i = 1; i < n; i++) {
        struct err e = {0};
        struct engine *g = NULL;
        assert_int_equal(engine_variant(&g, raw, formats[i], &e), 0);
        assert_true(engine_kv_bytes_per_token(g) <= bytes);
        bytes = engine_kv_bytes_per_token(g);
        struct session *t = lab_session(g);
        lab_append(&lab, t, 0, 1000, 0);
        for (size_t v = 0; v < V; v++) {
            double d = (double)session_logits(s)[v] - (double)session_logits(t)[v];
            distance[formats[i]] += d * d;
        }
        print_message("%-5s %4zu bytes a token, distance %.2e\n", kv_format_name(formats[i]), bytes,
                      sqrt(distance[formats[i]]));
        session_free(t);
        engine_close(g);
    }
    assert_true(distance[KV_8] > 0);
    assert_true(distance[KV_8] < distance[KV_4]);
    assert_true(distance[KV_K8V4] < distance[KV_K4V2]);
    assert_true(distance[KV_4] < distance[KV_3]);
    session_free(s);
    engine_close(raw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_format_is_one_text_one_result),
        cmocka_unit_test(test_also_on_other_kernels),
        cmocka_unit_test(test_scan_summaries_fit_their_pages),
        cmocka_unit_test(test_coarser_pages_are_further_from_raw),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
