/* SPDX-License-Identifier: Apache-2.0 */
/* The GGUF reader: what an honest file says, and files that lie about every count, length and place. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/bytes.h"
#include "engine/base/file.h"
#include "engine/model/gguf.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/tiny_model.h"

static char path[64];

static int setup(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/lectern-gguf-XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 || close(fd);
}

static int teardown(void **state)
{
    (void)state;
    return unlink(path);
}

static void put_file(const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Opens `path`, which must fail with this code and say this. */
static void expect_refused(int code, const char *says)
{
    struct gguf *g = (struct gguf *)1;
    struct err e = {0};
    assert_int_equal(gguf_open(path, &g, &e), code);
    assert_null(g);
    assert_int_equal(e.code, code);
    assert_non_null(strstr(e.text, path));
    if (!strstr(e.text, says))
        fail_msg("'%s' does not say '%s'", e.text, says);
}

/* Reads every byte that the file's index names. */
static uint64_t touch_all(const struct gguf *g)
{
    static const char *const keys[] = {"u32", "i32", "f32", "bool", "str", "strs", "ints", "floats", "empty"};
    uint64_t sum = 0;
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        struct gguf_str s;
        struct gguf_array a;
        uint64_t u = 0;
        double f = 0;
        gguf_u64(g, keys[k], &u);
        gguf_f64(g, keys[k], &f);
        sum += u + (f != 0);
        if (gguf_str(g, keys[k], &s))
            for (size_t i = 0; i < s.len; i++)
                sum += (uint8_t)s.data[i];
        if (!gguf_array(g, keys[k], &a))
            continue;
        for (size_t i = 0; i < a.n; i++) {
            s = gguf_array_str(&a, i);
            for (size_t j = 0; j < s.len; j++)
                sum += (uint8_t)s.data[j];
            sum += (uint64_t)gguf_array_i64(&a, i) + (gguf_array_f64(&a, i) > 0);
        }
    }
    for (size_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        for (size_t j = 0; j < t->bytes; j++)
            sum += t->data[j];
    }
    return sum;
}

static struct gguf_writer *honest(void)
{
    struct gguf_writer *w = gguf_writer_open(path);
    static uint8_t data[4096];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)i;
    gguf_writer_add_u32(w, "u32", 4000000000u);
    gguf_writer_add_i32(w, "i32", -7);
    gguf_writer_add_f32(w, "f32", 0.25f);
    gguf_writer_add_bool(w, "bool", 1);
    gguf_writer_add_str(w, "str", "a string");
    gguf_writer_add_u64(w, "u64", UINT64_MAX);
    gguf_writer_add_arr_str(w, "strs", (const char *[]){"one", "", "three"}, 3);
    gguf_writer_add_arr_i32(w, "ints", (int32_t[]){5, -6, 7}, 3);
    gguf_writer_add_arr_f32(w, "floats", (float[]){1.5f, -2.5f}, 2);
    gguf_writer_add_arr_i32(w, "empty", NULL, 0);
    gguf_writer_add_tensor(w, "b", GGUF_TENSOR_Q4_1, 2, (uint64_t[]){64, 3}, data, 120);
    gguf_writer_add_tensor(w, "a", GGUF_TENSOR_F32, 1, (uint64_t[]){5}, data, 20);
    gguf_writer_add_tensor(w, "c", GGUF_TENSOR_F16, 4, (uint64_t[]){2, 3, 4, 5}, data, 240);
    return w;
}

static void reads_an_honest_file(void **state)
{
    (void)state;
    assert_int_equal(gguf_writer_close(honest()), 0);
    struct gguf *g;
    struct err e = {0};
    assert_int_equal(gguf_open(path, &g, &e), 0);
    assert_int_equal(gguf_version(g), 3);
    uint64_t u = 1;
    int64_t i = 1;
    double f = 1;
    int b = 5;
    struct gguf_str s = {"", 0};
    struct gguf_array a;
    assert_true(gguf_u64(g, "u32", &u) && u == 4000000000u);
    assert_true(gguf_i64(g, "u32", &i) && i == 4000000000);
    assert_true(gguf_i64(g, "i32", &i) && i == -7);
    assert_true(gguf_u64(g, "u64", &u) && u == UINT64_MAX);
    assert_false(gguf_i64(g, "u64", &i));
    assert_false(gguf_u64(g, "i32", &u) || gguf_u64(g, "f32", &u) || gguf_u64(g, "bool", &u) ||
                 gguf_u64(g, "no", &u));
    assert_true(u == UINT64_MAX && i == -7);
    assert_true(gguf_f64(g, "f32", &f) && f == 0.25);
    assert_true(gguf_f64(g, "i32", &f) && f == -7);
    assert_true(gguf_bool(g, "bool", &b) && b == 1);
    assert_false(gguf_bool(g, "u32", &b));
    assert_true(gguf_str(g, "str", &s) && gguf_str_is(s, "a string") && !gguf_str_is(s, "a strin"));
    assert_false(gguf_str(g, "strs", &s) || gguf_array(g, "str", &a));
    assert_true(gguf_array(g, "strs", &a) && a.type == GGUF_STRING && a.n == 3);
    assert_true(gguf_str_is(gguf_array_str(&a, 0), "one") && gguf_str_is(gguf_array_str(&a, 1), "") &&
                gguf_str_is(gguf_array_str(&a, 2), "three"));
    assert_int_equal(gguf_array_i64(&a, 0), 0);
    assert_true(gguf_array(g, "ints", &a) && a.n == 3 && gguf_array_i64(&a, 1) == -6);
    assert_true(gguf_array(g, "floats", &a) && gguf_array_f64(&a, 1) == -2.5 && gguf_array_i64(&a, 1) == -2);
    assert_true(gguf_array(g, "empty", &a) && a.n == 0);

    assert_int_equal(gguf_tensor_count(g), 3);
    assert_null(gguf_tensor_at(g, 3));
    assert_null(gguf_tensor(g, "d"));
    const struct gguf_tensor *t = gguf_tensor(g, "a");
    assert_true(t == gguf_tensor_at(g, 1) && t->bytes == 20 && t->ndims == 1 && t->dims[0] == 5 &&
                t->dims[3] == 1);
    assert_true(t->data[19] == 19 && (uintptr_t)t->data % 32 == 0);
    assert_int_equal(gguf_tensor(g, "b")->bytes, 120);
    assert_int_equal(gguf_tensor(g, "c")->bytes, 240);
    char room[24];
    assert_string_equal(gguf_tensor_type_name(GGUF_TENSOR_Q4_1, room), "Q4_1");
    assert_string_equal(gguf_tensor_type_name(4294967295u, room), "type 4294967295");

    assert_int_equal(gguf_u64_need(g, "u32", 0, UINT64_MAX, &u, &e), 0);
    assert_int_equal(gguf_u64_in(g, "absent", 12, 13, 14, &u, &e), 0);
    assert_int_equal(u, 12);
    assert_int_equal(gguf_u64_in(g, "u32", 12, 13, 14, &u, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, "outside 13 to 14"));
    assert_int_equal(gguf_u64_need(g, "absent", 0, 9, &u, &e), ERR_FORMAT);
    assert_true(u == 12 && touch_all(g) > 0);
    gguf_close(g);
    gguf_close(NULL);
}

static void reads_the_tiny_model(void **state)
{
    (void)state;
    static const uint32_t types[] = {0, 1, 3, 8};
    for (size_t i = 0; i < 4; i++) {
        struct tiny_model m = tiny_model_default();
        m.type = m.embed_type = types[i];
        m.tied = i % 2 == 0;
        m.qkv_bias = i > 1;
        assert_int_equal(tiny_model_write(&m, path), 0);
        struct gguf *g;
        struct err e = {0};
        assert_int_equal(gguf_open(path, &g, &e), 0);
        assert_int_equal(gguf_tensor_count(g), 2 + !m.tied + 3 * (9 + (m.qkv_bias ? 3 : 0)));
        assert_int_equal(gguf_tensor(g, "blk.2.ffn_down.weight")->dims[0], m.F);
        assert_true(touch_all(g) > 0);
        gguf_close(g);
    }
}

/* The data reaches the file's last byte, so no shorter file is whole. */
static void refuses_every_truncation(void **state)
{
    (void)state;
    uint8_t *bytes;
    size_t size;
    assert_int_equal(gguf_writer_take(honest(), &bytes, &size), 0);
    for (size_t n = 0; n < size; n++) {
        struct gguf *g;
        struct err e = {0};
        put_file(bytes, n);
        int rc = gguf_open(path, &g, &e);
        if (rc != ERR_FORMAT || !strstr(e.text, "download it again"))
            fail_msg("cut at %zu: %d '%s'", n, rc, e.text);
    }
    free(bytes);
}

/* Any byte may be anything: refused or read, never outside the file. The file fills its pages, so that one
 * byte too far faults. */
static void survives_every_changed_byte(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size, fill = 1;
    uint8_t *bytes, *zeros = calloc(2, page);
    for (int twice = 0; twice < 2; twice++) { /* the second time the last tensor ends at the page's end */
        struct gguf_writer *w = honest();
        gguf_writer_add_tensor(w, "fill", GGUF_TENSOR_I8, 1, (uint64_t[]){fill}, zeros, fill);
        assert_int_equal(gguf_writer_take(w, &bytes, &size), 0);
        fill = 1 + (page - size % page) % page;
        if (!twice)
            free(bytes);
    }
    free(zeros);
    assert_int_equal(size % page, 0);
    size_t index_bytes = 600; /* keys, values and the table */
    static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
    size_t opened = 0, refused = 0;
    for (size_t at = 0; at < index_bytes; at++) {
        for (size_t v = 0; v < sizeof values; v++) {
            uint8_t kept = bytes[at];
            struct gguf *g;
            struct err e = {0};
            bytes[at] = values[v];
            put_file(bytes, size);
            bytes[at] = kept;
            if (gguf_open(path, &g, &e)) {
                refused++;
                assert_null(g);
                assert_true(e.code == ERR_FORMAT || e.code == ERR_UNSUPPORTED);
                continue;
            }
            opened++;
            touch_all(g);
            gguf_close(g);
        }
    }
    assert_true(opened > 100 && refused > 1000);
    free(bytes);
}

static void header(struct buf *b, uint32_t version, uint64_t tensors, uint64_t keys)
{
    buf_clear(b);
    buf_add(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, tensors);
    put_u64(b, keys);
}

static void name(struct buf *b, const char *s)
{
    put_u64(b, strlen(s));
    buf_puts(b, s);
}

static void refuses_lying_headers(void **state)
{
    (void)state;
    struct buf b = {0};
    put_file("", 0);
    expect_refused(ERR_FORMAT, "not a GGUF");
    put_file("PK\3\4 and more than enough of it", 30);
    expect_refused(ERR_FORMAT, "not a GGUF");
    header(&b, 1, 0, 0);
    put_file(b.data, b.len);
    expect_refused(ERR_UNSUPPORTED, "version 1");
    header(&b, 0x03000000, 0, 0);
    put_file(b.data, b.len);
    expect_refused(ERR_UNSUPPORTED, "big-endian");

    static const uint64_t counts[] = {1, 1000000, 1ull << 32, 1ull << 60, UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        header(&b, 3, 0, counts[i]);
        put_file(b.data, b.len);
        expect_refused(ERR_FORMAT, "more keys");
        header(&b, 3, counts[i], 0);
        put_file(b.data, b.len);
        expect_refused(ERR_FORMAT, "more tensors");
        header(&b, 3, 0, 1); /* a key's length */
        put_u64(&b, counts[i] < 9 ? 9 : counts[i]);
        buf_add(&b, "12345678", 8);
        put_file(b.data, b.len);
        expect_refused(ERR_FORMAT, "a name");
        header(&b, 3, 0, 1); /* a string's length */
        name(&b, "k");
        put_u32(&b, GGUF_STRING);
        put_u64(&b, counts[i]);
        put_file(b.data, b.len);
        expect_refused(ERR_FORMAT, "ends early");
        for (uint32_t type = 0; type <= GGUF_F64; type++) { /* an array's */
            header(&b, 3, 0, 1);
            name(&b, "k");
            put_u32(&b, GGUF_ARRAY);
            put_u32(&b, type);
            put_u64(&b, counts[i]);
            put_file(b.data, b.len);
            if (type == GGUF_ARRAY)
                expect_refused(ERR_UNSUPPORTED, "array of arrays");
            else
                expect_refused(ERR_FORMAT, "longer than the file");
        }
    }
    header(&b, 3, 0, 1);
    name(&b, "k");
    put_u32(&b, 77);
    put_u64(&b, 0);
    put_file(b.data, b.len);
    expect_refused(ERR_FORMAT, "a type that does not exist");
    header(&b, 3, 0, 1); /* the second of two strings runs out */
    name(&b, "k");
    put_u32(&b, GGUF_ARRAY);
    put_u32(&b, GGUF_STRING);
    put_u64(&b, 2);
    name(&b, "12345678");
    put_u64(&b, 1);
    put_file(b.data, b.len);
    expect_refused(ERR_FORMAT, "longer than the file");
    header(&b, 3, 0, 1); /* a NUL in a key */
    put_u64(&b, 3);
    buf_add(&b, "a\0b", 3);
    put_u32(&b, GGUF_U8);
    put_u8(&b, 1);
    put_file(b.data, b.len);
    expect_refused(ERR_FORMAT, "a name");
    header(&b, 2, 0, 0); /* nothing in it, but sound */
    put_file(b.data, b.len);
    struct gguf *g;
    struct err e = {0};
    assert_int_equal(gguf_open(path, &g, &e), 0);
    assert_int_equal(gguf_tensor_count(g), 0);
    gguf_close(g);
    buf_free(&b);
}

static void refuses_a_key_twice(void **state)
{
    (void)state;
    struct gguf_writer *w = honest();
    gguf_writer_add_u32(w, "str", 1);
    assert_int_equal(gguf_writer_close(w), 0);
    expect_refused(ERR_FORMAT, "a key stands twice");
}

/* One tensor as said; NULL says = it must open. */
static void try_tensor(uint32_t type, int ndims, const uint64_t *dims, size_t bytes, int code,
                       const char *says)
{
    struct gguf_writer *w = gguf_writer_open(path);
    uint8_t data[512] = {0};
    gguf_writer_add_tensor(w, "the.tensor", type, ndims, dims, data, bytes);
    assert_int_equal(gguf_writer_close(w), 0);
    if (says) {
        expect_refused(code, says);
        return;
    }
    struct gguf *g;
    struct err e = {0};
    assert_int_equal(gguf_open(path, &g, &e), 0);
    assert_int_equal(gguf_tensor_at(g, 0)->bytes, bytes);
    gguf_close(g);
}

static void refuses_lying_tensors(void **state)
{
    (void)state;
    uint64_t d[8] = {32, 2, 1, 1, 1, 1, 1, 1};
    try_tensor(GGUF_TENSOR_F32, 2, d, 256, 0, NULL);
    try_tensor(GGUF_TENSOR_F32, 2, d, 255, ERR_FORMAT, "ends outside");
    try_tensor(GGUF_TENSOR_Q8_0, 2, d, 68, 0, NULL);
    try_tensor(GGUF_TENSOR_Q8_0, 2, d, 67, ERR_FORMAT, "ends outside");
    try_tensor(GGUF_TENSOR_Q4_0, 2, d, 36, 0, NULL);
    try_tensor(GGUF_TENSOR_Q5_0, 2, d, 44, 0, NULL);
    try_tensor(GGUF_TENSOR_Q5_1, 2, d, 48, 0, NULL);
    try_tensor(GGUF_TENSOR_BF16, 2, d, 128, 0, NULL);
    try_tensor(GGUF_TENSOR_Q4_K, 2, d, 256, ERR_FORMAT, "whole blocks");
    try_tensor(GGUF_TENSOR_F32, 0, d, 256, ERR_FORMAT, "one to four");
    try_tensor(GGUF_TENSOR_F32, 5, d, 256, ERR_FORMAT, "one to four");
    try_tensor(99, 2, d, 256, ERR_UNSUPPORTED, "'the.tensor' is stored as type 99");
    d[1] = 0;
    try_tensor(GGUF_TENSOR_F32, 2, d, 256, ERR_FORMAT, "is empty");
    d[0] = 256, d[1] = 1;
    try_tensor(GGUF_TENSOR_Q2_K, 1, d, 84, 0, NULL);
    try_tensor(GGUF_TENSOR_Q3_K, 1, d, 110, 0, NULL);
    try_tensor(GGUF_TENSOR_Q4_K, 1, d, 144, 0, NULL);
    try_tensor(GGUF_TENSOR_Q5_K, 1, d, 176, 0, NULL);
    try_tensor(GGUF_TENSOR_Q6_K, 1, d, 210, 0, NULL);
    d[0] = 33;
    try_tensor(GGUF_TENSOR_Q4_1, 1, d, 256, ERR_FORMAT, "whole blocks");
    static const uint64_t huge[][4] = {{1ull << 62, 1, 1, 1},
                                       {1ull << 32, 1ull << 32, 1, 1},
                                       {1ull << 63, 2, 1, 1},
                                       {1ull << 20, 1ull << 20, 1ull << 20, 1ull << 20},
                                       {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++)
        try_tensor(GGUF_TENSOR_F32, 4, huge[i], 256, ERR_FORMAT, "larger than any file");
    try_tensor(GGUF_TENSOR_I8, 1, huge[0], 256, ERR_FORMAT, "ends outside");
}

static void refuses_lying_places(void **state)
{
    (void)state;
    static const struct {
        uint64_t offset;
        const char *says;
    } cases[] = {{32, "ends outside"},
                 {1, "not aligned"},
                 {16, "not aligned"},
                 {1ull << 40, "ends outside"},
                 {UINT64_MAX - 31, "ends outside"}};
    struct buf b = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        header(&b, 3, 1, 0);
        name(&b, "t");
        put_u32(&b, 1);
        put_u64(&b, 8);
        put_u32(&b, GGUF_TENSOR_F32);
        put_u64(&b, cases[i].offset);
        while (b.len % 32)
            buf_putc(&b, 0);
        for (int j = 0; j < 32; j++)
            buf_putc(&b, 0);
        put_file(b.data, b.len);
        expect_refused(ERR_FORMAT, cases[i].says);
    }
    buf_free(&b);
    struct gguf_writer *w = honest();
    gguf_writer_add_tensor(w, "a", GGUF_TENSOR_I8, 1, (uint64_t[]){1}, "x", 1);
    assert_int_equal(gguf_writer_close(w), 0);
    expect_refused(ERR_FORMAT, "a tensor stands twice");
    static const uint32_t aligns[] = {0, 1, 4, 24, 48, 1u << 21, UINT32_MAX};
    for (size_t i = 0; i < sizeof aligns / sizeof *aligns; i++) {
        w = honest();
        gguf_writer_add_u32(w, "general.alignment", aligns[i]);
        assert_int_equal(gguf_writer_close(w), 0);
        expect_refused(ERR_FORMAT, "alignment");
    }
}

static void names_a_missing_file(void **state)
{
    (void)state;
    struct gguf *g;
    struct err e = {0};
    assert_int_equal(gguf_open("/no/such/model.gguf", &g, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "/no/such/model.gguf"));
    assert_int_equal(gguf_open("/", &g, &e), ERR_IO);
    assert_null(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_an_honest_file, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_the_tiny_model, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_every_truncation, setup, teardown),
        cmocka_unit_test_setup_teardown(survives_every_changed_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_lying_headers, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_a_key_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_lying_tensors, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_lying_places, setup, teardown),
        cmocka_unit_test(names_a_missing_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
