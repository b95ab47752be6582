/* SPDX-License-Identifier: Apache-2.0 */
/* test_session_save.c - what a timeline saves and what comes back: every bit, from any cut, in one step or
 * with a writer thread; and a wrong byte in any layer's keys or values does not pass for the right one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/model.h"
#include "kernels/kernels.h"
#include "tests/support/session_fixture.h"

enum { N = 1100, S = LAB_SINK, R = LAB_RECENT, D = 32, L = 3, HK = 2, HEADER = 384 };

/* The sanitizers make arithmetic ten times slower: there fewer cases of a kind. */
#ifdef __SANITIZE_ADDRESS__
enum { EACH = 4 };
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

static void same_logits(const struct engine *g, const struct session *a, const struct session *b)
{
    assert_non_null(session_logits(a));
    assert_non_null(session_logits(b));
    assert_memory_equal(session_logits(a), session_logits(b), engine_params(g)->V * sizeof(float));
}

static void save_and_restore(double sparsity, int format, size_t cut)
{
    struct err e = {0};
    struct shelf shelf = {.n = 0};
    struct kv_source source = shelf_source(&shelf);
    struct engine *g = lab_engine(&lab, sparsity, format, 2, NULL, 1);
    struct session *s = lab_session(g), *back = lab_session(g);
    uint8_t named[KV_KEY_BYTES];
    lab_append(&lab, s, 0, cut, 0);
    struct shelf_item *checkpoint = lab_save(s, &shelf);
    engine_chain_key(g, lab.ids, cut, named);
    assert_memory_equal(checkpoint->key, named, sizeof named);
    assert_int_equal(checkpoint->position, cut);
    struct restore_report report;
    if (session_restore(back, &source, lab.ids, cut, &report, &e))
        fail_msg("restore at %zu: %s", cut, e.text);
    assert_int_equal(report.proof, RESTORE_VERIFIED_BITS);
    assert_int_equal(report.miss, RESTORE_NO_MISS);
    assert_int_equal(report.damaged_end, 0);
    size_t last = (cut - 1) % KV_PAGE + 1;
    assert_int_equal(report.replayed, last < 8 ? last : 8);
    same_logits(g, s, back);
    lab_append(&lab, s, cut, N, 0);
    lab_append(&lab, back, cut, N, 0);
    same_logits(g, s, back);
    session_free(back);
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

static void test_restore_changes_no_bit(void **state)
{
    (void)state;
    static const size_t cuts[] = {1, 7, 63, 64, 65, S + R, 512, 1000, 1023, 1024, 1025, 1087, 1088, 1089};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i += EACH) {
        save_and_restore(0.5, 8, cuts[i]);
        save_and_restore(i % 2 ? 0.0 : 1.0, i % 3 ? 16 : 8, cuts[i]);
    }
}

/* ---- the sink ------------------------------------------------------------------------------------------ */

static void test_a_save_is_one_batch_of_what_is_new(void **state)
{
    (void)state;
    struct shelf shelf = {.n = 0};
    struct engine *g = lab_engine(&lab, 0.5, 8, 1, NULL, 1);
    struct session *s = lab_session(g);
    lab_append(&lab, s, 0, 2100, 0);
    lab_save(s, &shelf);
    assert_int_equal(shelf.batches, 1);
    assert_int_equal(shelf.n, 3); /* two blocks, then the checkpoint */
    assert_int_equal(shelf.items[0].position, 1024);
    assert_int_equal(shelf.items[0].has_parent, 0);
    assert_int_equal(shelf.items[1].position, 2048);
    assert_memory_equal(shelf.items[1].parent, shelf.items[0].key, KV_KEY_BYTES);
    assert_int_equal(shelf.items[2].kind, KV_KIND_CHECKPOINT);
    assert_int_equal(shelf.items[0].size, 16 * 3 * (kv_page_bytes(8, D) + kv_scan_bytes(D)));
    lab_append(&lab, s, 2100, 2200, 0);
    lab_save(s, &shelf);
    assert_int_equal(shelf.n, 4); /* no block again */
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

static void test_a_failed_put_is_put_again(void **state)
{
    (void)state;
    struct err e = {0};
    struct shelf shelf = {.fail = ERR_IO};
    struct kv_sink sink = shelf_sink(&shelf);
    struct engine *g = lab_engine(&lab, 0.5, 8, 1, NULL, 1);
    struct session *s = lab_session(g);
    uint8_t key[KV_KEY_BYTES];
    assert_int_equal(session_save(s, &sink, key, &e), ERR_USAGE); /* nothing to save yet */
    lab_append(&lab, s, 0, N, 0);
    assert_int_equal(session_save(s, &sink, key, &e), ERR_IO);
    assert_int_equal(shelf.n, 0);
    shelf.fail = 0;
    lab_save(s, &shelf);
    assert_int_equal(shelf.n, 2);
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

struct writer {
    struct session_save *save;
    struct kv_sink sink;
    int rc;
};

static void *write_save(void *arg)
{
    struct writer *w = arg;
    struct err e;
    w->rc = session_save_put(w->save, &w->sink, &e);
    return NULL;
}

static void test_another_thread_writes_while_this_one_reads_on(void **state)
{
    (void)state;
    struct err e = {0};
    struct shelf threaded = {.n = 0}, plain = {.n = 0};
    struct engine *g = lab_engine(&lab, 0.5, 8, 2, NULL, 1);
    struct session *a = lab_session(g), *b = lab_session(g);
    struct writer w = {.sink = shelf_sink(&threaded)};
    struct session_mark *mark;
    for (size_t at = 0; at < 2600; at += 650) {
        pthread_t thread;
        lab_append(&lab, a, at, at + 650, 0);
        lab_append(&lab, b, at, at + 650, 0);
        lab_save(b, &plain);
        assert_int_equal(session_save_begin(a, &w.save, &e), 0);
        assert_int_equal(session_save_position(w.save), at + 650);
        assert_memory_equal(session_save_key(w.save), plain.items[plain.n - 1].key, KV_KEY_BYTES);
        assert_true(session_save_bytes(w.save) >= plain.items[plain.n - 1].size);
        assert_int_equal(session_mark(a, &mark, &e), 0);
        assert_int_equal(pthread_create(&thread, NULL, write_save, &w), 0);
        lab_append(&lab, a, at + 650, at + 2000, 0); /* a branch, and back to where the save was taken */
        assert_int_equal(session_return(a, mark, &e), 0);
        pthread_join(thread, NULL);
        assert_int_equal(w.rc, 0);
        session_save_end(a, w.save, w.rc);
        session_mark_free(mark);
    }
    assert_int_equal(threaded.n, plain.n);
    for (size_t i = 0; i < plain.n; i++) {
        assert_int_equal(threaded.items[i].size, plain.items[i].size);
        assert_memory_equal(threaded.items[i].data, plain.items[i].data, plain.items[i].size);
    }
    session_free(a);
    session_free(b);
    engine_close(g);
    shelf_clear(&threaded);
    shelf_clear(&plain);
}

static void test_a_save_that_failed_marks_nothing(void **state)
{
    (void)state;
    struct err e = {0};
    struct shelf shelf = {.n = 0};
    struct engine *g = lab_engine(&lab, 0.5, 8, 1, NULL, 1);
    struct session *s = lab_session(g);
    struct session_save *save;
    lab_append(&lab, s, 0, N, 0);
    assert_int_equal(session_save_begin(s, &save, &e), 0);
    session_save_end(s, save, ERR_IO); /* never put */
    session_save_end(s, NULL, 0);
    lab_save(s, &shelf);
    assert_int_equal(shelf.n, 2);
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

/* ---- identity ------------------------------------------------------------------------------------------ */

static void test_variants_share_the_model_and_no_key(void **state)
{
    (void)state;
    struct err e = {0};
    struct engine *g = lab_engine(&lab, 0.5, 16, 2, NULL, 1), *own = lab_engine(&lab, 0.5, 8, 2, NULL, 1);
    struct engine *v = NULL;
    uint8_t a[KV_KEY_BYTES], b[KV_KEY_BYTES], c[KV_KEY_BYTES];
    assert_int_equal(engine_variant(&v, g, 8, &e), 0);
    assert_int_equal(engine_kv_format(v), 8);
    assert_int_equal(engine_kv_format(g), 16);
    assert_ptr_equal(engine_tokenizer(v), engine_tokenizer(g));
    engine_identity(g, a);
    engine_identity(v, b);
    engine_identity(own, c);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_equal(b, c, sizeof b);
    struct session *s = lab_session(v), *t = lab_session(own);
    lab_append(&lab, s, 0, 700, 64);
    lab_append(&lab, t, 0, 700, 64);
    same_logits(own, s, t);
    session_free(s);
    session_free(t);
    engine_close(v);
    assert_int_equal(engine_variant(&v, g, 5, &e), ERR_USAGE);
    assert_null(v);
    engine_close(g);
    engine_close(own);
}

static void test_kept_checkpoints_take_a_tenth(void **state)
{
    (void)state;
    static const double sparsities[] = {0, 0.3, 0.5, 0.9, 1};
    for (size_t i = 0; i < sizeof sparsities / sizeof sparsities[0]; i++) {
        struct shelf shelf = {.n = 0};
        struct engine *g = lab_engine(&lab, sparsities[i], 8, 2, NULL, 1);
        struct session *s = lab_session(g);
        size_t interval = engine_checkpoint_interval(g);
        assert_int_equal(interval % KV_BLOCK, 0);
        assert_true(interval >= 4096);
        lab_append(&lab, s, 0, 2048, 0);
        size_t checkpoint = lab_save(s, &shelf)->size, blocks = 0;
        for (size_t k = 0; k + 1 < shelf.n; k++)
            blocks += shelf.items[k].size;
        if (blocks)
            assert_true(10 * checkpoint * 2048 <= blocks * interval);
        else
            assert_true(sparsities[i] >= 0.9);
        session_free(s);
        engine_close(g);
        shelf_clear(&shelf);
    }
}

/* ---- damage -------------------------------------------------------------------------------------------- */

static int restore_fails(struct session *s, struct shelf *shelf, size_t n, struct restore_report *report)
{
    struct err e = {0};
    struct kv_source source = shelf_source(shelf);
    int rc = session_restore(s, &source, lab.ids, n, report, &e);
    assert_int_equal(shelf->mapped, rc || shelf->n == 1 ? 0 : n / KV_BLOCK); /* 1: all heads stream */
    assert_int_equal(session_position(s), rc ? 0 : n);
    return rc;
}

static void test_the_damaged_block_is_named(void **state)
{
    (void)state;
    struct shelf shelf = {.n = 0};
    struct engine *g = lab_engine(&lab, 0.5, 8, 1, NULL, 1);
    struct session *s = lab_session(g);
    struct restore_report report;
    lab_append(&lab, s, 0, 2100, 0);
    struct shelf_item *checkpoint = lab_save(s, &shelf);
    session_free(s);
    s = lab_session(g);
    for (size_t i = 0; i < 2; i++) {
        shelf.items[i].size -= 64;
        assert_int_equal(restore_fails(s, &shelf, 2100, &report), ERR_FORMAT);
        assert_int_equal(report.miss, RESTORE_BAD_BLOCK);
        assert_int_equal(report.damaged_first, i * 1024);
        assert_int_equal(report.damaged_end, (i + 1) * 1024);
        shelf.items[i].size += 64;
        shelf.items[i].key[3] ^= 1;
        assert_int_equal(restore_fails(s, &shelf, 2100, &report), ERR_NOT_FOUND);
        assert_int_equal(report.miss, RESTORE_NO_BLOCK);
        assert_int_equal(report.damaged_first, i * 1024);
        shelf.items[i].key[3] ^= 1;
    }
    checkpoint->size -= 64;
    assert_int_equal(restore_fails(s, &shelf, 2100, &report), ERR_FORMAT);
    assert_int_equal(report.miss, RESTORE_BAD_CHECKPOINT);
    assert_int_equal(report.damaged_end, 0);
    checkpoint->size += 64;
    assert_int_equal(restore_fails(s, &shelf, 2099, &report), ERR_NOT_FOUND);
    assert_int_equal(report.miss, RESTORE_NO_CHECKPOINT);
    assert_int_equal(restore_fails(s, &shelf, 2100, &report), 0);
    session_free(s);
    s = lab_session(g);
    lab_append(&lab, s, 0, 70, 0); /* and a session is usable after all that */
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

static void test_no_size_of_a_checkpoint_leads_astray(void **state)
{
    (void)state;
    struct shelf shelf = {.n = 0};
    struct engine *g = lab_engine(&lab, 0.5, 8, 1, NULL, 1);
    struct session *s = lab_session(g);
    struct restore_report report;
    lab_append(&lab, s, 0, 700, 0);
    struct shelf_item *checkpoint = lab_save(s, &shelf);
    size_t size = checkpoint->size;
    uint8_t *whole = checkpoint->data;
    session_free(s);
    s = lab_session(g);
    for (size_t n = 0; n < HEADER + 130;
         n += n < HEADER + 2 ? 1 : 64) { /* memory of just that size: ASan sees */
        void *exact;
        assert_int_equal(posix_memalign(&exact, 64, n ? n : 1), 0);
        checkpoint->data = exact;
        memcpy(checkpoint->data, whole, n);
        checkpoint->size = n;
        assert_int_equal(restore_fails(s, &shelf, 700, &report), ERR_FORMAT);
        free(checkpoint->data);
    }
    checkpoint->data = whole;
    checkpoint->size = size;
    for (size_t i = 0; i < 352; i++) /* no byte of the header is idle */
        for (int bit = (int)i % EACH; bit < 8; bit += i < 96 ? EACH : 4) {
            whole[i] ^= (uint8_t)(1 << bit);
            int rc = restore_fails(s, &shelf, 700, &report);
            /* under the writer's kernels the largest logits add nothing to the digest, and the name of the
             * kernels decides only how strict the proof is */
            if (i >= 96 || (i >= 32 && i < 48))
                assert_true(rc == 0 || rc == ERR_FORMAT);
            else if (rc != ERR_FORMAT && i / 4 != 60 / 4 && i / 4 != 56 / 4)
                fail_msg("bit %d of header byte %zu went unnoticed", bit, i);
            whole[i] ^= (uint8_t)(1 << bit);
            session_free(s);
            s = lab_session(g);
        }
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

/* One byte in the middle of what layer l's head h holds for page `page`, on the shelf. */
struct spot {
    uint8_t *byte;
    const char *what;
    size_t l;
};

/* All kinds of places in all layers: records of an early and a late block page, of an open page, tail, sink
 * and ring; keys (odd i) and values. */
static size_t spots(const struct engine *g, struct shelf *shelf, struct shelf_item *checkpoint, size_t n,
                    struct spot *out)
{
    const uint8_t *retrieval = engine_heads(g);
    int format = engine_kv_format(g);
    size_t record = kv_page_bytes(format, D), raw = kv_page_bytes(16, D), count = 0, hr_all = 0,
           hr_before = 0;
    size_t open = n / KV_PAGE % 16, sinks = (S + 63) / 64, first = (n - 8 + 1 - R) / KV_PAGE,
           end = n / KV_PAGE + 1;
    for (size_t i = 0; i < L * HK; i++)
        hr_all += retrieval[i];
    uint8_t *state = checkpoint->data + HEADER;
    uint8_t *tail = state + open * hr_all * (record + kv_scan_bytes(D));
    uint8_t *stream = tail + hr_all * raw;
    for (size_t l = 0; l < L; l++) {
        size_t hr = 0, pages = sinks + end - first;
        for (size_t h = 0; h < HK; h++)
            hr += retrieval[l * HK + h];
        for (size_t half = 0; half < 2; half++) {
            size_t code = (half * record / 2 + record / 5) | 1,
                   row = half * raw / 2 + 2 * D * (n % KV_PAGE - 3) + 3;
            for (size_t p = 0; hr && p < 16; p += 15)
                out[count++] = (struct spot){
                    shelf->items[0].data + (hr_before * 16 + p * hr + hr - 1) * record + code, "block", l};
            if (hr) {
                out[count++] = (struct spot){state + (hr_all + hr_before) * record + code, "open page", l};
                out[count++] = (struct spot){tail + hr_before * raw + row, "tail", l};
            }
            if (hr < HK) {
                out[count++] = (struct spot){stream + half * raw / 2 + 2 * D * 9 + 3, "sink", l};
                out[count++] = (struct spot){stream + (pages - 1) * raw + row, "ring", l};
                out[count++] =
                    (struct spot){stream + (pages - 2) * raw + half * raw / 2 + 2 * D * 50 + 3, "ring", l};
            }
        }
        stream += (HK - hr) * pages * raw;
        hr_before += hr;
    }
    return count;
}

/* A byte whose token has no weight that a float can hold changes nothing, here and in any answer: so of a few
 * bytes at each place one must be noticed, and nearly all in all. (Every byte is under the store's checksum.)
 */
static void wrong_bytes(double sparsity, int format, int q4)
{
    enum { CUT = 1500, TRIES = EACH == 1 ? 4 : 2 };
    struct shelf shelf = {.n = 0};
    struct engine *g = lab_engine(&lab, sparsity, format, 2, NULL, q4);
    struct session *s = lab_session(g);
    struct restore_report report;
    struct spot spot[128];
    lab_append(&lab, s, 0, CUT, 0);
    struct shelf_item *checkpoint = lab_save(s, &shelf);
    session_free(s);
    s = lab_session(g);
    size_t n = spots(g, &shelf, checkpoint, CUT, spot);
    assert_true(n > 10);
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        size_t here = 0;
        for (size_t k = 0; k < TRIES; k++) {
            uint8_t *byte = spot[i].byte + 2 * k;
            *byte ^= 0xbd;
            int rc = restore_fails(s, &shelf, CUT, &report);
            here += rc == ERR_FORMAT && report.miss == RESTORE_NO_PROOF;
            *byte ^= 0xbd;
            if (!rc) {
                session_free(s);
                s = lab_session(g);
            }
        }
        if (!here)
            fail_msg("sparsity %.1f format %d: place %zu (%s, layer %zu) went unnoticed", sparsity, format, i,
                     spot[i].what, spot[i].l);
        found += here;
    }
    print_message("sparsity %.1f format %2d: %zu of %zu wrong bytes fail the proof\n", sparsity, format,
                  found, TRIES * n);
    assert_true(found * 100 >= TRIES * n * 99);
    assert_int_equal(restore_fails(s, &shelf, CUT, &report), 0);
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

static void test_a_wrong_byte_in_any_layer_fails_the_proof(void **state)
{
    (void)state;
    for (int q4 = EACH > 1; q4 < 2; q4++) {
        wrong_bytes(0.5, 8, q4);
        wrong_bytes(0.5, 4, q4);
        wrong_bytes(0.0, 16, q4);
        wrong_bytes(0.0, 4, q4);
        wrong_bytes(1.0, 8, q4);
    }
}

/* ---- other kernels ------------------------------------------------------------------------------------- */

static void test_other_kernels_agree_within_rounding(void **state)
{
    (void)state;
    static const char *const names[] = {"ref", "avx2", "avx512", "avx512vnni"};
    struct shelf shelf = {.n = 0};
    struct engine *g = lab_engine(&lab, 0.5, 8, 2, "ref", 1);
    struct session *s = lab_session(g);
    struct restore_report report;
    lab_append(&lab, s, 0, N, 0);
    struct shelf_item *checkpoint = lab_save(s, &shelf);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!kernels_get(names[i]))
            continue;
        struct engine *other = lab_engine(&lab, 0.5, 8, 2, names[i], 1);
        struct session *t = lab_session(other);
        assert_int_equal(restore_fails(t, &shelf, N, &report), 0);
        assert_true(report.proof == RESTORE_VERIFIED_BITS || (i && report.proof == RESTORE_VERIFIED_CLOSE));
        session_free(t);
        t = lab_session(other);
        for (size_t b = 0; b < 4; b++) /* the largest logit is another one's */
            checkpoint->data[100 + b] ^= 0x41;
        if (report.proof == RESTORE_VERIFIED_CLOSE)
            assert_int_equal(restore_fails(t, &shelf, N, &report), ERR_FORMAT);
        for (size_t b = 0; b < 4; b++)
            checkpoint->data[100 + b] ^= 0x41;
        session_free(t);
        engine_close(other);
    }
    session_free(s);
    engine_close(g);
    shelf_clear(&shelf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restore_changes_no_bit),
        cmocka_unit_test(test_a_save_is_one_batch_of_what_is_new),
        cmocka_unit_test(test_a_failed_put_is_put_again),
        cmocka_unit_test(test_another_thread_writes_while_this_one_reads_on),
        cmocka_unit_test(test_a_save_that_failed_marks_nothing),
        cmocka_unit_test(test_variants_share_the_model_and_no_key),
        cmocka_unit_test(test_kept_checkpoints_take_a_tenth),
        cmocka_unit_test(test_the_damaged_block_is_named),
        cmocka_unit_test(test_no_size_of_a_checkpoint_leads_astray),
        cmocka_unit_test(test_a_wrong_byte_in_any_layer_fails_the_proof),
        cmocka_unit_test(test_other_kernels_agree_within_rounding),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
