/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors: what is read, and every kind of lie in the header. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "engine/model/safetensors.h"
#include "tests/support/temp.h"

static char *folder, *path;

static int setup(void **state)
{
    (void)state;
    folder = temp_folder();
    path = temp_path(folder, "x.safetensors");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    temp_remove(folder);
    free(path);
    return 0;
}

/* A file of the header and n bytes 0, 1, 2, ... of data. */
static void write_file(const char *header, size_t n)
{
    struct buf b = {0};
    put_u64(&b, strlen(header));
    buf_puts(&b, header);
    for (size_t i = 0; i < n; i++)
        put_u8(&b, (uint8_t)i);
    assert_false(b.failed);
    temp_write(folder, "x.safetensors", b.data, b.len);
    buf_free(&b);
}

static void reads_what_is_there(void **state)
{
    (void)state;
    struct safetensors *s;
    struct err e;
    write_file("{\"__metadata__\":{\"made\":\"by hand\"},"
               "\"b\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[6,14]},"
               "\"a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
               "\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[14,15]},"
               "\"none\":{\"dtype\":\"I64\",\"shape\":[0,5],\"data_offsets\":[15,15]}}",
               15);
    assert_int_equal(safetensors_open(path, &s, &e), 0);
    assert_int_equal(safetensors_count(s), 4);
    assert_string_equal(safetensors_at(s, 0)->name, "a");
    assert_null(safetensors_at(s, 4));
    const struct safetensors_tensor *b = safetensors_find(s, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, ST_F32);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 1);
    assert_int_equal(b->bytes, 8);
    assert_int_equal(b->data[0], 6);
    assert_int_equal(b->data[7], 13);
    assert_int_equal(safetensors_find(s, "scalar")->bytes, 1);
    assert_int_equal(safetensors_find(s, "none")->bytes, 0);
    assert_null(safetensors_find(s, "c"));
    assert_null(safetensors_find(s, "__metadata__"));
    assert_string_equal(safetensors_metadata(s, "made"), "by hand");
    assert_null(safetensors_metadata(s, "other"));
    size_t size;
    assert_non_null(safetensors_bytes(s, &size));
    safetensors_close(s);
    safetensors_close(NULL);
}

static void an_empty_table_is_one(void **state)
{
    (void)state;
    struct safetensors *s;
    write_file("{}", 0);
    assert_int_equal(safetensors_open(path, &s, NULL), 0);
    assert_int_equal(safetensors_count(s), 0);
    assert_null(safetensors_find(s, "a"));
    assert_null(safetensors_metadata(s, "a"));
    safetensors_close(s);
}

#define T(dtype, shape, offsets)                                                                             \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void lies_are_refused(void **state)
{
    (void)state;
    static const char *const headers[] = {
        "",
        "[]",
        "{",
        "{\"a\":1}",
        "{\"a\":{}}",
        T("F31", "[2]", "[0,8]"),
        T("F32", "2", "[0,8]"),
        T("F32", "[3]", "[0,8]"),                     /* more than its bytes */
        T("F32", "[1]", "[0,8]"),                     /* fewer */
        T("F32", "[-2]", "[0,8]"),                    /* negative */
        T("F32", "[2.0]", "[0,8]"),                   /* no integer */
        T("F32", "[4611686018427387905]", "[0,4]"),   /* 4 times this is 4 */
        T("F32", "[4294967296,4294967296]", "[0,0]"), /* the product wraps to 0 */
        T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"),     /* too many dimensions */
        T("F32", "[2]", "[4,12]"),                    /* past the end */
        T("F32", "[2]", "[8,0]"),                     /* backwards */
        T("F32", "[2]", "[-8,0]"),                    /* before the data */
        T("F32", "[2]", "[18446744073709551608,0]"),  /* no int64 */
        T("F32", "[2]", "[0,8,16]"),
        T("F32", "[2]", "[0]"),
        T("F32", "[2]", "\"0\""),
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]}}", /* overlap */
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", /* the same bytes twice */
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", /* a name twice */
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        struct safetensors *s = (struct safetensors *)folder;
        struct err e = {0};
        write_file(headers[i], 8);
        int rc = safetensors_open(path, &s, &e);
        if (rc != ERR_FORMAT && rc != ERR_UNSUPPORTED)
            fail_msg("taken (%d): %s", rc, headers[i]);
        assert_null(s);
        assert_true(e.text[0]);
    }
}

static void a_cut_file_is_refused(void **state)
{
    (void)state;
    struct safetensors *s;
    write_file(T("F32", "[2]", "[0,8]"), 8);
    assert_int_equal(safetensors_open(path, &s, NULL), 0);
    size_t size;
    const uint8_t *bytes = safetensors_bytes(s, &size);
    uint8_t *copy = malloc(size);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    safetensors_close(s);
    for (size_t n = 0; n < size; n++) {
        temp_write(folder, "x.safetensors", copy, n);
        assert_int_equal(safetensors_open(path, &s, NULL), ERR_FORMAT);
    }
    memset(copy, 0xff, 8); /* a header of 2^64 - 1 bytes */
    temp_write(folder, "x.safetensors", copy, size);
    assert_int_equal(safetensors_open(path, &s, NULL), ERR_FORMAT);
    free(copy);
    assert_int_equal(safetensors_open("/nonexistent/x", &s, NULL), ERR_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_is_there),
        cmocka_unit_test(an_empty_table_is_one),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(a_cut_file_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
