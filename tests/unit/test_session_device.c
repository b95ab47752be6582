/* SPDX-License-Identifier: Apache-2.0 */
/* test_session_device.c - timelines whose layers run on a device, against the processor's: logits over every
 * sparsity, format and cut; cancel, attention sums, guesses, selected pages, an adapter. On the "host" device
 * always, on a card where there is one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "engine/model/model.h"
#include "engine/session.h"
#include "tests/support/device_lab.h"
#include "tests/support/temp.h"

/* The sanitizers make arithmetic ten times slower. */
#ifdef __SANITIZE_ADDRESS__
enum { N = 1100, BASE = 140, CUT = 230, EACH = 3 };
#else
enum { N = 2200, BASE = 1000, CUT = 1100, EACH = 1 };
#endif

static void against_processor(const char *device, const char *path, double sparsity, int format)
{
    struct engine *cpu = device_lab_engine(NULL, path, sparsity, format),
                  *g = device_lab_engine(device, path, sparsity, format);
    assert_string_equal(engine_device(g), device);
    assert_string_equal(engine_device(cpu), "cpu");
    uint8_t a[KV_KEY_BYTES], b[KV_KEY_BYTES];
    engine_identity(cpu, a);
    engine_identity(g, b);
    assert_memory_equal(a, b, sizeof a);
    struct session *want = lab_session(cpu), *got = lab_session(g);
    static const size_t stops[] = {1, 3, 64, 65, 127, 300, 512, 513, 1024, 1090, 1096, N};
    size_t at = 0;
    for (size_t i = 0; i < sizeof stops / sizeof stops[0] - (EACH > 1 ? 6 : 0); i++) {
        lab_append(&device_lab.lab, want, at, stops[i], 0);
        lab_append(&device_lab.lab, got, at, stops[i], 0);
        at = stops[i];
        float *logits = device_lab_logits(want, cpu);
        device_lab_close(logits, got, g, device_lab_bound(format), path, at);
        free(logits);
    }
    assert_int_equal(session_position(got), at);
    session_free(got);
    session_free(want);
    engine_close(g);
    engine_close(cpu);
}

static void test_equals_the_processor(void **state)
{
    (void)state;
    static const int formats[] = {16, 8, 4, 84};
    for (int d = 0; d < 2; d++)
        for (int i = EACH / 2; device_lab.has[d] && i < 4; i += EACH) {
            against_processor(device_names[d], device_lab.model, i / 3.0, formats[i]);
            if (EACH == 1)
                against_processor(device_names[d], device_lab.model_q4, 0.5, formats[i]);
            against_processor(device_names[d], device_lab.model_bias, 1 - i / 3.0, formats[i]);
        }
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

/* Every token's logits, in passes of many tokens and token by token. */
static void test_rows_of_logits(void **state)
{
    (void)state;
    enum { SHORT = 200 };
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct engine *cpu = device_lab_engine(NULL, device_lab.model, 0.5, 16),
                      *g = device_lab_engine(device_names[d], device_lab.model, 0.5, 16);
        size_t V = engine_params(g)->V;
        struct collect c[3];
        for (int i = 0; i < 3; i++) {
            struct session *s = lab_session(i ? g : cpu);
            c[i] = (struct collect){.rows = malloc(SHORT * V * sizeof(float)), .V = V};
            struct append_options o = {.logits = take_row, .arg = &c[i]};
            for (size_t at = 0; at < SHORT; at += i == 2 ? 1 : SHORT)
                assert_int_equal(session_append(s, device_lab.lab.ids + at, i == 2 ? 1 : SHORT, &o, &e), 0);
            assert_int_equal(c[i].n, SHORT);
            session_free(s);
        }
        for (size_t t = 0; t < SHORT; t++)
            for (int i = 1; i < 3; i++)
                if (!(device_lab_distance(c[0].rows + t * V, c[i].rows + t * V, V) <= 5e-3))
                    fail_msg("way %d, token %zu", i, t);
        for (int i = 0; i < 3; i++)
            free(c[i].rows);
        engine_close(g);
        engine_close(cpu);
    }
}

/* Two runs with the same cuts give the same bits; other cuts agree within rounding. */
static void test_cuts(void **state)
{
    (void)state;
    static const size_t steps[] = {0, 0, 700, 64, 37, 4};
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct engine *g = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 8);
        float *want = NULL;
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i += i ? 2 * EACH - 1 : 1) {
            struct session *s = lab_session(g);
            lab_append(&device_lab.lab, s, 0, CUT, steps[i]);
            if (!want)
                want = device_lab_logits(s, g);
            else if (!steps[i])
                device_lab_same(want, s, g);
            else
                device_lab_close(want, s, g, 5e-3, "steps of", steps[i]);
            session_free(s);
        }
        free(want);
        engine_close(g);
    }
}

static int stop_soon(void *arg, size_t position, const float *row)
{
    (void)arg;
    (void)row;
    return position == 700;
}

static void test_cancel_leaves_whole_chunks(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct cancel cancel = {.requested = 1};
        struct engine *g = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 4);
        struct session *s = lab_session(g), *plain = lab_session(g);
        struct append_options never = {.cancel = &cancel}, later = {.logits = stop_soon};
        assert_int_equal(session_append(s, device_lab.lab.ids, 100, &never, &e), ERR_CANCELLED);
        assert_int_equal(session_position(s), 0);
        assert_int_equal(session_append(s, device_lab.lab.ids, 720, &later, &e), ERR_CANCELLED);
        assert_int_equal(session_position(s), 512); /* the chunk that was cut short is not there */
        lab_append(&device_lab.lab, s, 512, 720, 0);
        lab_append(&device_lab.lab, plain, 0, 720, 0);
        float *want = device_lab_logits(plain, g);
        device_lab_same(want, s, g);
        free(want);
        session_free(plain);
        session_free(s);
        engine_close(g);
    }
}

static void test_attention_sums(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct engine *cpu = device_lab_engine(NULL, device_lab.model, 0.5, 8),
                      *g = device_lab_engine(device_names[d], device_lab.model, 0.5, 8);
        struct session *a = lab_session(cpu), *b = lab_session(g);
        lab_append(&device_lab.lab, a, 0, BASE, 0);
        lab_append(&device_lab.lab, b, 0, BASE, 0);
        assert_int_equal(session_watch(a, 1, &e), 0);
        assert_int_equal(session_watch(b, 1, &e), 0);
        lab_append(&device_lab.lab, a, BASE, BASE + 80, 0);
        lab_append(&device_lab.lab, b, BASE, BASE + 80, 0);
        size_t n, m;
        const double *want = session_mass(a, &n), *got = session_mass(b, &m);
        assert_int_equal(n, m);
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            if (!(fabs(want[i] - got[i]) <= 2e-3 * (want[i] + 1)))
                fail_msg("page %zu has %g instead of %g", i, got[i], want[i]);
            sum += got[i];
        }
        assert_true(fabs(sum - 80) < 0.1); /* a token's shares sum to one */
        session_free(b);
        session_free(a);
        engine_close(g);
        engine_close(cpu);
    }
}

/* Says yes to the guesses up to the one that is wrong. */
struct guessing {
    size_t right;
};

static int is_right(void *arg, size_t i, const float *logits)
{
    assert_true(logits[0] == logits[0]);
    return i < ((struct guessing *)arg)->right;
}

/* Guesses leave what one by one leaves, bit for bit, the attention sums included. */
static void test_guesses(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct engine *g = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 8);
        struct session *s = lab_session(g), *plain = lab_session(g);
        lab_append(&device_lab.lab, s, 0, BASE, 0);
        lab_append(&device_lab.lab, plain, 0, BASE, 0);
        assert_int_equal(session_watch(s, 1, &e), 0);
        assert_int_equal(session_watch(plain, 1, &e), 0);
        for (size_t at = BASE, round = 0; at < BASE + 60; round++) {
            struct guessing how = {.right = round % 4};
            size_t n = 2 + round % 3, kept, room = KV_PAGE - at % KV_PAGE;
            uint32_t ids[SESSION_GUESSES];
            for (size_t i = 0; i < n; i++)
                ids[i] = i <= how.right ? device_lab.lab.ids[at + i] : 7;
            assert_int_equal(session_append_guesses(s, ids, n, NULL, is_right, &how, &kept, &e), 0);
            size_t want = how.right + 1 < n ? how.right + 1 : n;
            assert_int_equal(kept, want < room ? want : room);
            lab_append(&device_lab.lab, plain, at, at + kept, 1);
            float *logits = device_lab_logits(plain, g);
            device_lab_same(logits, s, g);
            free(logits);
            at += kept;
            assert_int_equal(session_position(s), at);
        }
        size_t n, m;
        const double *a = session_mass(s, &n), *b = session_mass(plain, &m);
        assert_int_equal(n, m);
        for (size_t i = 0; i < n; i++)
            if (!(fabs(a[i] - b[i]) <= 1e-6 * (1 + b[i])))
                fail_msg("page %zu: %g, one by one %g", i, a[i], b[i]);
        session_free(plain);
        session_free(s);
        engine_close(g);
    }
}

/* A list that holds every page changes nothing but rounding, and its audit says so. */
static void test_selected_pages(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct engine *g = device_lab_engine(device_names[d], device_lab.model, 0.5, 8),
                      *cpu = device_lab_engine(NULL, device_lab.model, 0.5, 8);
        struct session *s = lab_session(g), *dense = lab_session(g), *none = lab_session(cpu);
        lab_append(&device_lab.lab, s, 0, 1000, 0);
        lab_append(&device_lab.lab, dense, 0, 1000, 0);
        assert_int_equal(session_select(none, 10, 2, 8, &e), ERR_UNSUPPORTED);
        assert_int_equal(session_select(s, 3, 8, 8, &e), ERR_USAGE);
        assert_int_equal(session_select(s, 64, 2, 4, &e), 0);
        lab_append(&device_lab.lab, s, 1000, 1010, 1);
        lab_append(&device_lab.lab, dense, 1000, 1010, 1);
        float *want = device_lab_logits(dense, g);
        device_lab_close(want, s, g, 1e-3, "all pages listed", 1010);
        size_t audits;
        double all = session_visited(s, &audits);
        assert_int_equal(audits, 3);
        assert_true(fabs(all - 1) < 1e-4);
        assert_int_equal(session_select(s, 6, 2, 1, &e), 0);
        lab_append(&device_lab.lab, s, 1010, 1012, 1);
        double some = session_visited(s, &audits);
        assert_int_equal(audits, 2);
        assert_true(some > 0.2 && some < 1);
        print_message("%s: 6 of 15 pages hold %.2f of the softmax\n", device_names[d], some);
        free(want);
        session_free(none);
        session_free(dense);
        session_free(s);
        engine_close(cpu);
        engine_close(g);
    }
}

/* One pair of an adapter: ranks that no product likes, in each of the three types. */
struct pair {
    const char *name, *type;
    size_t rank, N, K;
};

static void add_tensor(struct buf *header, struct buf *data, const char *name, const char *half,
                       const char *type, size_t rows, size_t cols, uint64_t *x)
{
    size_t begin = data->len;
    for (size_t i = 0; i < rows * cols; i++) {
        *x = *x * 6364136223846793005u + 1442695040888963407u;
        uint32_t sign = (uint32_t)(*x >> 63);
        if (!strcmp(type, "F32"))
            put_f32(data, (sign ? -1.0f : 1.0f) * (float)(*x >> 40 & 0xffff) / 400000.0f);
        else if (!strcmp(type, "BF16"))
            put_u16(data, (uint16_t)(sign << 15 | 0x3d00u | (*x >> 40 & 0xff))); /* 0.03 .. 0.12 */
        else
            put_u16(data, (uint16_t)(sign << 15 | 0x2800u | (*x >> 40 & 0x3ff))); /* 0.03 .. 0.06 */
    }
    buf_printf(header, "%s\"%s.lora_%s\":{\"dtype\":\"%s\",\"shape\":[%zu,%zu],\"data_offsets\":[%zu,%zu]}",
               begin ? "," : "", name, half, type, rows, cols, begin, data->len);
}

static char *write_adapter(void)
{
    static const struct pair pairs[] = {{"blk.0.attn_q.weight", "BF16", 8, 256, 128},
                                        {"blk.0.attn_v.weight", "F16", 3, 128, 128},
                                        {"blk.1.attn_k.weight", "F32", 33, 128, 128},
                                        {"blk.2.attn_output.weight", "BF16", 1, 128, 256}};
    struct buf header = {0}, data = {0}, all = {0};
    uint64_t x = 1;
    buf_puts(&header, "{");
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        add_tensor(&header, &data, pairs[i].name, "a", pairs[i].type, pairs[i].rank, pairs[i].K, &x);
        add_tensor(&header, &data, pairs[i].name, "b", pairs[i].type, pairs[i].N, pairs[i].rank, &x);
    }
    buf_puts(&header, "}");
    put_u64(&all, header.len);
    buf_add(&all, header.data, header.len);
    buf_add(&all, data.data, data.len);
    assert_false(header.failed || data.failed || all.failed);
    temp_write(device_lab.lab.folder, "adapter.safetensors", all.data, all.len);
    buf_free(&header);
    buf_free(&data);
    buf_free(&all);
    return device_lab.lab.folder;
}

static void test_adapter(void **state)
{
    (void)state;
    struct engine_options o = {.model_path = device_lab.model_q4,
                               .adapter_path = write_adapter(),
                               .heads_path = device_lab.lab.heads,
                               .sparsity = 0.5,
                               .sink = -1,
                               .recent = -1,
                               .kv_format = 16,
                               .context = 1000,
                               .chunk = 512};
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct engine *cpu = NULL, *g = NULL,
                      *bare = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 16);
        o.device = NULL;
        if (engine_open(&cpu, &o, &e))
            fail_msg("%s", e.text);
        o.device = device_names[d];
        if (engine_open(&g, &o, &e))
            fail_msg("%s", e.text);
        struct session *want = lab_session(cpu), *got = lab_session(g), *without = lab_session(bare);
        lab_append(&device_lab.lab, without, 0, 200, 0);
        lab_append(&device_lab.lab, want, 0, 200, 0);
        lab_append(&device_lab.lab, got, 0, 200, 0);
        float *logits = device_lab_logits(want, cpu);
        device_lab_close(logits, got, g, device_lab_bound(16), "with an adapter", 200);
        double moved = device_lab_distance(logits, session_logits(without), engine_params(g)->V);
        print_message("%s: the adapter moves logits by %.2f of their spread\n", device_names[d], moved);
        assert_true(moved > 0.1);
        free(logits);
        lab_append(&device_lab.lab, want, 200, 203, 1);
        lab_append(&device_lab.lab, got, 200, 203, 1);
        logits = device_lab_logits(want, cpu);
        device_lab_close(logits, got, g, device_lab_bound(16), "with an adapter", 203);
        free(logits);
        session_free(without);
        session_free(got);
        session_free(want);
        engine_close(bare);
        engine_close(g);
        engine_close(cpu);
    }
}

static void test_variants_and_names(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct engine *g = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 4), *v = NULL;
        struct engine *raw = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 16);
        assert_int_equal(engine_variant(&v, g, 16, &e), 0);
        struct session *a = lab_session(v), *b = lab_session(raw), *c = lab_session(g);
        lab_append(&device_lab.lab, a, 0, 300, 0);
        lab_append(&device_lab.lab, c, 0, 300, 0); /* between: they share buffers */
        lab_append(&device_lab.lab, b, 0, 300, 0);
        for (size_t at = 300; at < 303; at++) {
            lab_append(&device_lab.lab, c, at, at + 1, 0);
            lab_append(&device_lab.lab, a, at, at + 1, 0);
            lab_append(&device_lab.lab, b, at, at + 1, 0);
        }
        float *want = device_lab_logits(b, raw);
        device_lab_same(want, a, v);
        free(want);
        session_free(c);
        session_free(b);
        session_free(a);
        engine_close(v);
        engine_close(raw);
        engine_close(g);
    }
    struct err e = {0};
    struct engine *g = NULL;
    struct engine_options o = {
        .model_path = device_lab.model, .sparsity = -1, .sink = -1, .recent = -1, .device = "abacus"};
    assert_int_not_equal(engine_open(&g, &o, &e), 0);
    assert_null(g);
    o.device = "auto";
    assert_int_equal(engine_open(&g, &o, &e), 0);
    assert_string_equal(engine_device(g), device_lab.has[1] ? "cuda" : "cpu");
    engine_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_the_processor),
        cmocka_unit_test(test_rows_of_logits),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_cancel_leaves_whole_chunks),
        cmocka_unit_test(test_attention_sums),
        cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_selected_pages),
        cmocka_unit_test(test_adapter),
        cmocka_unit_test(test_variants_and_names),
    };
    return cmocka_run_group_tests(tests, device_lab_setup, device_lab_teardown);
}
