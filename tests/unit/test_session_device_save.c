/* SPDX-License-Identifier: Apache-2.0 */
/* test_session_device_save.c - what a timeline on a device saves either side restores; marks, rewinding;
 * blocks beyond the card's budget give the same bits. On the "host" device always, on a card where there is
 * one. */
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
#include "tests/support/device_lab.h"

/* The sanitizers make arithmetic ten times slower. */
#ifdef __SANITIZE_ADDRESS__
enum { N = 1100, BASE = 140, EACH = 3 };
#else
enum { N = 2200, BASE = 1000, EACH = 1 };
#endif

static void save_and_restore(const char *from, const char *to, double sparsity, int format, size_t cut)
{
    struct err e = {0};
    struct shelf shelf = {.n = 0};
    struct kv_source source = shelf_source(&shelf);
    struct kv_sink sink = shelf_sink(&shelf);
    struct engine *a = device_lab_engine(from, device_lab.model_q4, sparsity, format),
                  *b = device_lab_engine(to, device_lab.model_q4, sparsity, format);
    struct session *s = lab_session(a), *back = lab_session(b);
    lab_append(&device_lab.lab, s, 0, cut, 0);
    lab_save(s, &shelf);
    struct restore_report report;
    if (session_restore(back, &source, device_lab.lab.ids, cut, &report, &e))
        fail_msg("%s to %s at %zu: %s", from ? from : "cpu", to ? to : "cpu", cut, e.text);
    assert_int_equal(session_position(back), cut);
    assert_memory_equal(session_tokens(back), device_lab.lab.ids, cut * sizeof *device_lab.lab.ids);
    lab_append(&device_lab.lab, s, cut, cut + 70, 0);
    lab_append(&device_lab.lab, back, cut, cut + 70, 0);
    float *want = device_lab_logits(s, a);
    device_lab_close(want, back, b, device_lab_bound(format), "restored", cut);
    free(want);
    /* What came back can be saved again; nothing of it is stored twice. */
    size_t batches = shelf.batches, items = shelf.n;
    uint8_t key[KV_KEY_BYTES];
    assert_int_equal(session_save(back, &sink, key, &e), 0);
    assert_int_equal(shelf.batches, batches + 1);
    assert_true(shelf.n <= items + 2);
    session_free(back);
    assert_int_equal(shelf.mapped, 0);
    session_free(s);
    engine_close(b);
    engine_close(a);
    shelf_clear(&shelf);
}

static void test_either_side_restores_the_other(void **state)
{
    (void)state;
    static const size_t cuts[] = {3, 64, 700, 1087, 1024};
    for (int d = 0; d < 2; d++)
        for (size_t i = 0; device_lab.has[d] && i < sizeof cuts / sizeof cuts[0]; i += EACH) {
            int format = i % 2 ? 4 : 8;
            double sparsity = (double)(i % 4) / 3;
            save_and_restore(device_names[d], NULL, sparsity, format, cuts[i]);
            save_and_restore(NULL, device_names[d], sparsity, format, cuts[i]);
            save_and_restore(device_names[d], device_names[d], sparsity, format, cuts[i]);
        }
}

/* The blocks of a timeline that is saved while it grows are those of one that is saved at its end. */
static void test_saving_while_reading(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct shelf early = {.n = 0}, late = {.n = 0};
        struct kv_sink sink = shelf_sink(&early);
        struct engine *g = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 4);
        struct session *s = lab_session(g), *t = lab_session(g);
        for (size_t at = 0; at < N; at += 512) {
            struct session_save *v;
            lab_append(&device_lab.lab, s, at, at + 512 < N ? at + 512 : N, 0);
            assert_int_equal(session_save_begin(s, &v, &e), 0);
            int rc = at == 512 ? ERR_IO : session_save_put(v, &sink, &e); /* one is lost, and comes again */
            session_save_end(s, v, rc);
        }
        lab_append(&device_lab.lab, t, 0, N, 0);
        lab_save(t, &late);
        size_t blocks = 0;
        for (size_t i = 0; i < late.n; i++) {
            struct shelf_item *item = shelf_find(&early, late.items[i].kind, late.items[i].key);
            assert_non_null(item);
            assert_int_equal(item->size, late.items[i].size);
            blocks += item->kind == KV_KIND_BLOCK;
            assert_memory_equal(item->data, late.items[i].data, item->size);
        }
        assert_int_equal(blocks, N / KV_BLOCK);
        session_free(t);
        session_free(s);
        engine_close(g);
        shelf_clear(&early);
        shelf_clear(&late);
    }
}

static void test_marks_and_rewinding(void **state)
{
    (void)state;
    static const size_t back[] = {BASE + 90, BASE + 85, BASE + 30, BASE + 24, BASE};
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct engine *g = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 8);
        struct session *s = lab_session(g), *plain = lab_session(g);
        struct session_mark *m;
        lab_append(&device_lab.lab, s, 0, BASE, 0);
        assert_int_equal(session_mark(s, &m, &e), 0);
        float *at_mark = device_lab_logits(s, g);
        lab_append(&device_lab.lab, s, BASE, BASE + 100, 0);
        float *want = device_lab_logits(s, g);
        assert_int_equal(session_return(s, m, &e), 0);
        device_lab_same(at_mark, s, g);
        lab_append(&device_lab.lab, s, BASE, BASE + 100, 0);
        device_lab_same(want, s, g);
        for (size_t i = 0; i < sizeof back / sizeof back[0]; i += EACH) {
            assert_int_equal(session_rewind(s, NULL, back[i], NULL, 0, NULL, &e), 0);
            assert_int_equal(session_position(s), back[i]);
            session_free(plain);
            plain = lab_session(g);
            lab_append(&device_lab.lab, plain, 0, back[i], 0);
            float *fresh = device_lab_logits(plain, g);
            device_lab_close(fresh, s, g, 5e-3, "back", back[i]);
            free(fresh);
        }
        assert_int_equal(session_rewind(s, NULL, BASE, NULL, 0, NULL, &e), 0);
        lab_append(&device_lab.lab, s, BASE, BASE + 100, 0);
        device_lab_close(want, s, g, 5e-3, "forward again", BASE + 100);
        assert_int_equal(session_rewind(s, NULL, 0, NULL, 0, NULL, &e), 0);
        lab_append(&device_lab.lab, s, 0, BASE, 0);
        device_lab_same(at_mark, s, g);
        session_mark_free(m);
        free(want);
        free(at_mark);
        session_free(plain);
        session_free(s);
        engine_close(g);
    }
}

/* Far behind the ring there is a checkpoint. */
static void test_rewinding_to_a_checkpoint(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct shelf shelf = {.n = 0};
        struct kv_source source = shelf_source(&shelf);
        struct engine *g = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 8);
        struct session *s = lab_session(g), *plain = lab_session(g);
        size_t stop = 100;
        lab_append(&device_lab.lab, s, 0, stop, 0);
        lab_save(s, &shelf);
        lab_append(&device_lab.lab, s, stop, N, 0);
        if (session_rewind(s, &source, 120, &stop, 1, NULL, &e))
            fail_msg("%s", e.text);
        lab_append(&device_lab.lab, plain, 0, 120, 0);
        float *want = device_lab_logits(plain, g);
        device_lab_close(want, s, g, 5e-3, "back", 120);
        free(want);
        session_free(plain);
        session_free(s);
        engine_close(g);
        shelf_clear(&shelf);
    }
}

/* No block on the card at all: the same bits, and both formats of saves. */
static void test_blocks_in_host_memory(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        if (!device_lab.has[d])
            continue;
        struct err e = {0};
        struct shelf shelf = {.n = 0};
        struct kv_source source = shelf_source(&shelf);
        struct engine *g = device_lab_engine(device_names[d], device_lab.model_q4, 0.5, 4), *h = NULL;
        struct engine_options o = {.model_path = device_lab.model_q4,
                                   .heads_path = device_lab.lab.heads,
                                   .sparsity = 0.5,
                                   .sink = -1,
                                   .recent = -1,
                                   .kv_format = 4,
                                   .device = device_names[d],
                                   .chunk = 512,
                                   .context = 1000,
                                   .kv_bytes = 1};
        assert_int_equal(engine_open(&h, &o, &e), 0);
        struct session *s = lab_session(g), *t = lab_session(h), *back = lab_session(h);
        lab_append(&device_lab.lab, s, 0, 1090, 0);
        lab_append(&device_lab.lab, t, 0, 1090, 0);
        for (size_t at = 1090; at < 1100; at++) {
            lab_append(&device_lab.lab, s, at, at + 1, 0);
            lab_append(&device_lab.lab, t, at, at + 1, 0);
        }
        float *want = device_lab_logits(s, g);
        device_lab_same(want, t, h);
        lab_save(t, &shelf);
        if (session_restore(back, &source, device_lab.lab.ids, 1100, NULL, &e))
            fail_msg("%s", e.text);
        device_lab_close(want, back, h, 5e-3, "restored into host memory", 1100);
        free(want);
        session_free(back);
        session_free(t);
        session_free(s);
        engine_close(h);
        engine_close(g);
        shelf_clear(&shelf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_either_side_restores_the_other),
        cmocka_unit_test(test_saving_while_reading),
        cmocka_unit_test(test_marks_and_rewinding),
        cmocka_unit_test(test_rewinding_to_a_checkpoint),
        cmocka_unit_test(test_blocks_in_host_memory),
    };
    return cmocka_run_group_tests(tests, device_lab_setup, device_lab_teardown);
}
