/* SPDX-License-Identifier: Apache-2.0 */
/* test_session_rewind.c - going back to any position gives what a fresh read of that much gives, bit for bit:
 * pages, scan summaries, rings, tail and logits, as a save shows them all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "kernels/kernels.h"
#include "tests/support/session_fixture.h"

enum { N = 2400, FAR = 5400 };

/* The sanitizers make arithmetic ten times slower: there every third case. */
#ifdef __SANITIZE_ADDRESS__
enum { EACH = 3 };
#else
enum { EACH = 1 };
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

/* What a fresh read of n tokens saves: all spans, and its logits. */
struct fresh {
    struct shelf shelf;
    float *logits;
};

static void read_fresh(const struct engine *g, size_t n, struct fresh *f)
{
    struct session *s = lab_session(g);
    size_t bytes = engine_params(g)->V * sizeof(float);
    *f = (struct fresh){.logits = malloc(bytes)};
    lab_append(&lab, s, 0, n, 0);
    lab_save(s, &f->shelf);
    memcpy(f->logits, session_logits(s), bytes);
    session_free(s);
}

static void fresh_clear(struct fresh *f)
{
    shelf_clear(&f->shelf);
    free(f->logits);
}

/* Everything that s would save now, as if it had never saved before. */
static void peek(struct session *s, struct shelf *shelf)
{
    struct err e = {0};
    struct kv_sink sink = shelf_sink(shelf);
    struct session_save *save;
    if (session_save_begin(s, &save, &e) || session_save_put(save, &sink, &e))
        fail_msg("%s", e.text);
    session_save_end(s, save, ERR_IO);
}

/* s, which has stored nothing yet, is as a fresh read of n. */
static void check_equal(struct session *s, size_t n, const struct engine *g, const char *what)
{
    struct fresh f;
    struct shelf now = {.n = 0};
    read_fresh(g, n, &f);
    assert_int_equal(session_position(s), n);
    assert_memory_equal(session_tokens(s), lab.ids, n * sizeof *lab.ids);
    if (memcmp(session_logits(s), f.logits, engine_params(g)->V * sizeof(float)) != 0)
        fail_msg("%s, at %zu: other logits", what, n);
    peek(s, &now);
    assert_int_equal(now.n, f.shelf.n);
    for (size_t i = 0; i < f.shelf.n; i++) {
        struct shelf_item *want = &f.shelf.items[i], *got = shelf_find(&now, want->kind, want->key);
        assert_non_null(got);
        assert_int_equal(got->size, want->size);
        if (memcmp(got->data, want->data, want->size) != 0)
            fail_msg("%s, at %zu: other bytes in the %s that ends at %zu", what, n,
                     want->kind == KV_KIND_BLOCK ? "block" : "checkpoint", want->position);
    }
    shelf_clear(&now);
    fresh_clear(&f);
}

/* Checkpoints at these places, by a session of its own. */
static void store_stops(const struct engine *g, const size_t *stops, size_t n, struct shelf *shelf)
{
    struct session *s = lab_session(g);
    for (size_t i = 0, at = 0; i < n; at = stops[i++]) {
        lab_append(&lab, s, at, stops[i], 0);
        lab_save(s, shelf);
    }
    session_free(s);
}

static uint32_t random_below(uint64_t *x, uint32_t n)
{
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return (uint32_t)(*x % n);
}

static const size_t stops[] = {300, 1024, 1111, 1700, 2112};
enum { STOPS = sizeof stops / sizeof stops[0] };

/* Down in random steps, with a little of another text read at each place. */
static void walk_down(double sparsity, int format, uint64_t seed)
{
    struct err e = {0};
    struct shelf shelf = {.n = 0};
    struct kv_source source = shelf_source(&shelf);
    struct engine *g = lab_engine(&lab, sparsity, format, 2, NULL, 1);
    struct session *s = lab_session(g);
    store_stops(g, stops, STOPS, &shelf);
    lab_append(&lab, s, 0, N, 0);
    size_t position = N;
    for (int i = 0; position > 1; i++) {
        size_t step = 1 + random_below(&seed, (i % 3 == 0 ? 60 : i % 3 == 1 ? 200 : 1200) * EACH);
        position = position > step ? position - step : 1;
        if (session_rewind(s, &source, position, stops, STOPS, NULL, &e))
            fail_msg("to %zu: %s", position, e.text);
        check_equal(s, position, g, "on the way down");
        lab_append(&lab, s, position + 7, position + 7 + random_below(&seed, 150), 0);
        assert_int_equal(session_rewind(s, &source, position, stops, STOPS, NULL, &e), 0);
        check_equal(s, position, g, "after other tokens");
    }
    lab_append(&lab, s, 1, N, 100);
    check_equal(s, N, g, "and up again");
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

static void test_any_position_equals_a_fresh_read(void **state)
{
    (void)state;
    walk_down(0.5, 8, 88172645463325252ull);
    if (EACH > 1)
        return;
    walk_down(0.5, 4, 362436069362436069ull);
    walk_down(0.0, 16, 521288629521288629ull);
    walk_down(1.0, 8, 123456789123456789ull);
}

static void test_borders_of_pages_and_blocks(void **state)
{
    (void)state;
    static const size_t places[] = {2399, 2368, 2305, 2304, 2303, 2049, 2048, 2047, 1985, 1984, 1025,
                                    1024, 1023, 961,  960,  129,  128,  127,  65,   64,   63,   1};
    struct err e = {0};
    struct shelf shelf = {.n = 0};
    struct kv_source source = shelf_source(&shelf);
    struct engine *g = lab_engine(&lab, 0.5, 8, 2, NULL, 1);
    struct session *s = lab_session(g);
    store_stops(g, stops, STOPS, &shelf);
    lab_append(&lab, s, 0, N, 0);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i += EACH) {
        if (session_rewind(s, &source, places[i], stops, STOPS, NULL, &e))
            fail_msg("to %zu: %s", places[i], e.text);
        check_equal(s, places[i], g, "at a border");
    }
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

/* Mapped blocks are the store's: never written, given back when they lie past the end. */
static void test_mapped_blocks_stay_as_they_are(void **state)
{
    (void)state;
    static const size_t places[] = {2200, 2100, 2048, 2040, 1500, 1024, 1000, 10};
    struct err e = {0};
    struct engine *g = lab_engine(&lab, 0.5, 8, 2, NULL, 1);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i += 2 * EACH - 1) {
        struct shelf shelf = {.n = 0}, copy = {.n = 0};
        struct kv_source source = shelf_source(&shelf);
        struct session *s = lab_session(g), *fresh = lab_session(g);
        store_stops(g, stops, STOPS, &shelf);
        store_stops(g, stops, STOPS, &copy);
        lab_append(&lab, fresh, 0, N, 0);
        lab_save(fresh, &shelf);
        lab_save(fresh, &copy);
        assert_int_equal(session_restore(s, &source, lab.ids, N, NULL, &e), 0);
        assert_int_equal(shelf.mapped, 2);
        if (session_rewind(s, &source, places[i], stops, STOPS, NULL, &e))
            fail_msg("to %zu: %s", places[i], e.text);
        assert_true(shelf.mapped <= places[i] / 1024);
        lab_append(&lab, s, places[i] + 3, N, 0); /* other tokens */
        assert_int_equal(session_rewind(s, &source, places[i], stops, STOPS, NULL, &e), 0);
        lab_append(&lab, s, places[i], N, 0);
        assert_memory_equal(session_logits(s), session_logits(fresh), engine_params(g)->V * sizeof(float));
        for (size_t k = 0; k < copy.n; k++)
            assert_memory_equal(shelf.items[k].data, copy.items[k].data, copy.items[k].size);
        session_free(s);
        session_free(fresh);
        shelf_clear(&shelf);
        shelf_clear(&copy);
    }
    engine_close(g);
}

static void damage(const struct engine *g, struct shelf *shelf, size_t at)
{
    uint8_t key[KV_KEY_BYTES];
    engine_chain_key(g, lab.ids, at, key);
    shelf_find(shelf, KV_KIND_CHECKPOINT, key)->data[70] ^= 4; /* the digest of the logits */
}

/* Kept checkpoints are found by themselves; a bad one is passed over; too far is a refusal, not a wrong end.
 */
static void test_far_ends_need_a_checkpoint(void **state)
{
    (void)state;
    static const size_t kept[] = {900, 4096};
    struct err e = {0};
    struct shelf shelf = {.n = 0};
    struct kv_source source = shelf_source(&shelf);
    struct engine *g = lab_engine(&lab, 0.17, 8, 2, NULL, 1);
    struct session *s = lab_session(g);
    assert_int_equal(engine_checkpoint_interval(g), 4096);
    store_stops(g, kept, 2, &shelf);
    lab_append(&lab, s, 0, FAR, 0);
    assert_int_equal(session_rewind(s, &source, 4300, NULL, 0, NULL, &e), 0);
    if (EACH == 1)
        check_equal(s, 4300, g, "from the kept checkpoint");
    lab_append(&lab, s, 4300, FAR, 0);
    if (EACH > 1)
        goto done;
    damage(g, &shelf, 4096);
    assert_int_equal(session_rewind(s, &source, 4300, kept, 1, NULL, &e), 0);
    check_equal(s, 4300, g, "past a damaged one");
    lab_append(&lab, s, 4300, FAR, 0);
    assert_int_equal(session_rewind(s, &source, 4000, NULL, 0, NULL, &e), 0);
    check_equal(s, 4000, g, "from the start");
    lab_append(&lab, s, 4000, FAR, 0);
    damage(g, &shelf, 900);
    assert_int_equal(session_rewind(s, &source, 4300, kept, 1, NULL, &e), ERR_REBUILD);
    assert_int_equal(session_position(s), 0);
    assert_null(session_logits(s));
    lab_append(&lab, s, 0, FAR, 0);
    assert_int_equal(session_rewind(s, NULL, 4300, kept, 2, NULL, &e), ERR_REBUILD);
    lab_append(&lab, s, 0, 200, 0);
    check_equal(s, 200, g, "after a refusal");
done:
    assert_int_equal(shelf.mapped, 0);
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

static void cancel_from_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    (void)what;
    (void)total;
    if (done >= 300)
        atomic_store(&((struct cancel *)arg)->requested, 1);
}

static void test_a_cancelled_way_back_is_a_whole_timeline(void **state)
{
    (void)state;
    struct err e = {0};
    struct shelf shelf = {.n = 0};
    struct kv_source source = shelf_source(&shelf);
    struct engine *g = lab_engine(&lab, 0.5, 8, 2, NULL, 1);
    struct session *s = lab_session(g);
    struct cancel cancel = {.requested = 0};
    struct progress progress = {.report = cancel_from_progress, .arg = &cancel};
    struct append_options o = {.progress = &progress, .cancel = &cancel};
    store_stops(g, stops, 1, &shelf);
    lab_append(&lab, s, 0, N, 0);
    assert_int_equal(session_rewind(s, &source, 1400, stops, 1, &o, &e), ERR_CANCELLED);
    size_t at = session_position(s);
    assert_true(at >= 600 && at < 1400);
    check_equal(s, at, g, "cancelled");
    lab_append(&lab, s, at, 1400, 0);
    check_equal(s, 1400, g, "and gone on");
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

static void test_ends_that_are_none(void **state)
{
    (void)state;
    struct err e = {0};
    struct engine *g = lab_engine(&lab, 0.5, 8, 1, NULL, 1);
    struct session *s = lab_session(g);
    size_t pages;
    assert_int_equal(session_rewind(s, NULL, 0, NULL, 0, NULL, &e), 0);
    assert_int_equal(session_rewind(s, NULL, 1, NULL, 0, NULL, &e), ERR_USAGE);
    assert_int_equal(session_watch(s, 1, &e), 0);
    lab_append(&lab, s, 0, 200, 0);
    double first = session_mass(s, &pages)[0];
    assert_int_equal(session_rewind(s, NULL, 201, NULL, 0, NULL, &e), ERR_USAGE);
    assert_int_equal(session_rewind(s, NULL, 200, NULL, 0, NULL, &e), 0);
    assert_int_equal(session_rewind(s, NULL, 100, NULL, 0, NULL, &e), 0);
    assert_true(session_mass(s, &pages)[0] == first);
    check_equal(s, 100, g, "while watched");
    assert_int_equal(session_rewind(s, NULL, 0, NULL, 0, NULL, &e), 0);
    assert_int_equal(session_position(s), 0);
    assert_null(session_logits(s));
    lab_append(&lab, s, 0, 100, 0);
    check_equal(s, 100, g, "after nothing was left");
    session_free(s);
    engine_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_position_equals_a_fresh_read),
        cmocka_unit_test(test_borders_of_pages_and_blocks),
        cmocka_unit_test(test_mapped_blocks_stay_as_they_are),
        cmocka_unit_test(test_far_ends_need_a_checkpoint),
        cmocka_unit_test(test_a_cancelled_way_back_is_a_whole_timeline),
        cmocka_unit_test(test_ends_that_are_none),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
