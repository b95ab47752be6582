/* SPDX-License-Identifier: Apache-2.0 */
/* test_ingest_map.c - text offset to source and back; the blob, whole and damaged. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "engine/base/buf.h"
#include "ingest/source_map.h"
#include "ingest/text_cut.h"

struct made {
    struct source_map *map;
    struct buf text;
};

static int add(void *arg, const struct ingest_block *b, struct err *e)
{
    struct made *m = arg;
    buf_add(&m->text, b->text, b->n);
    return source_map_add(m->map, b, e);
}

static void add_text(struct made *m, const char *file, const char *source, size_t n)
{
    struct err e = {0};
    struct text_cut_result r;
    struct ingest_block like = {.file = file, .page_index = -1, .page_label = ""};
    assert_int_equal(text_cut((const uint8_t *)source, n, &like, add, m, &r, &e), 0);
}

static void add_block(struct made *m, struct ingest_block b)
{
    struct err e = {0};
    b.n = strlen(b.text);
    assert_int_equal(add(m, &b, &e), 0);
}

static struct made make_empty(void)
{
    struct made m = {0};
    struct err e = {0};
    assert_int_equal(source_map_create(&m.map, &e), 0);
    return m;
}

static void unmake(struct made *m)
{
    source_map_free(m->map);
    buf_free(&m->text);
}

static const char crlf_source[] = "\xef\xbb\xbf"
                                  "first\r\nsecond \xc3\xa4\r\n\r\nfourth\nbad \xff\xff here\r\nlast";

/* A folder of two files and a three-page PDF's shape, both in one text. */
static struct made make_mixed(void)
{
    struct made m = make_empty();
    add_block(&m, (struct ingest_block){.text = "==== a.c ====\n",
                                        .file = "a.c",
                                        .page_index = -1,
                                        .page_label = "",
                                        .line_first = 1,
                                        .flags = INGEST_MADE});
    add_text(&m, "a.c", crlf_source, sizeof crlf_source - 1);
    add_block(&m, (struct ingest_block){.text = "\n\n",
                                        .file = "a.c",
                                        .page_index = -1,
                                        .page_label = "",
                                        .line_first = 6,
                                        .flags = INGEST_MADE});
    add_text(&m, "b.c", "x\ny\nz\n", 6);
    add_block(
        &m,
        (struct ingest_block){
            .text = "one\ntwo\n\n", .file = "p.pdf", .page_index = 0, .page_label = "i", .line_first = 1});
    add_block(&m,
              (struct ingest_block){
                  .text = "three\n", .file = "p.pdf", .page_index = 2, .page_label = "1", .line_first = 1});
    add_block(&m,
              (struct ingest_block){
                  .text = "four\n\n", .file = "p.pdf", .page_index = 2, .page_label = "1", .line_first = 2});
    return m;
}

static struct source_place place(const struct made *m, const char *needle)
{
    struct err e = {0};
    struct source_place p;
    const char *at = strstr(m->text.data, needle);
    assert_non_null(at);
    assert_int_equal(source_map_lookup(m->map, m->text.data, (uint64_t)(at - m->text.data), &p, &e), 0);
    return p;
}

static uint64_t source_offset(const char *needle)
{
    const char *at = memmem(crlf_source, sizeof crlf_source - 1, needle, strlen(needle));
    assert_non_null(at);
    return (uint64_t)(at - crlf_source);
}

static void check_mixed(const struct made *m)
{
    struct source_place p = place(m, "first");
    assert_string_equal(p.file, "a.c");
    assert_int_equal(p.page_index, -1);
    assert_int_equal(p.line, 1);
    assert_true(p.byte_exact);
    assert_int_equal(p.byte, 3);
    p = place(m, "\xc3\xa4");
    assert_int_equal(p.line, 2);
    assert_int_equal(p.byte, source_offset("\xc3\xa4"));
    p = place(m, "fourth");
    assert_int_equal(p.line, 4);
    assert_true(p.byte_exact);
    assert_int_equal(p.byte, source_offset("fourth"));
    p = place(m, "here");
    assert_int_equal(p.line, 5);
    assert_false(p.byte_exact);
    assert_int_equal(p.byte, source_offset("bad "));
    p = place(m, "last");
    assert_int_equal(p.line, 6);
    assert_int_equal(p.byte, source_offset("last"));
    p = place(m, "z\n");
    assert_string_equal(p.file, "b.c");
    assert_int_equal(p.line, 3);
    assert_int_equal(p.byte, 4);
    p = place(m, "two");
    assert_string_equal(p.file, "p.pdf");
    assert_string_equal(p.page_label, "i");
    assert_int_equal(p.page_index, 0);
    assert_int_equal(p.line, 2);
    assert_false(p.byte_exact);
    p = place(m, "four\n\n");
    assert_string_equal(p.page_label, "1");
    assert_int_equal(p.page_index, 2);
    assert_int_equal(p.line, 2);
    p = place(m, "==== a.c");
    assert_int_equal(p.flags, INGEST_MADE);
}

static void test_lookup(void **state)
{
    (void)state;
    struct made m = make_mixed();
    check_mixed(&m);
    struct err e = {0};
    struct source_place p;
    assert_int_equal(source_map_lookup(m.map, m.text.data, m.text.len, &p, &e), ERR_USAGE);
    assert_int_equal(source_map_lookup(m.map, m.text.data, UINT64_MAX, &p, &e), ERR_USAGE);
    assert_int_equal(source_map_text_bytes(m.map), m.text.len);
    unmake(&m);
}

static void range(const struct made *m, const char *from, const char *to, uint64_t want_first,
                  uint64_t want_bytes)
{
    struct err e = {0};
    uint64_t first, bytes;
    const char *a = strstr(m->text.data, from), *b = strstr(m->text.data, to);
    assert_true(a && b);
    assert_int_equal(source_map_bytes(m->map, m->text.data, (uint64_t)(a - m->text.data),
                                      (uint64_t)(b - m->text.data) + strlen(to), &first, &bytes, &e),
                     0);
    assert_int_equal(bytes, want_bytes);
    assert_int_equal(first, want_first);
}

static void test_source_bytes(void **state)
{
    (void)state;
    struct made m = make_mixed();
    range(&m, "second", "fourth", source_offset("second"),
          source_offset("fourth") + 6 - source_offset("second"));
    range(&m, "first\n", "first\n", 3, 7); /* with its "\r\n" */
    range(&m, "here", "here", source_offset("bad "), source_offset("last") - source_offset("bad "));
    range(&m, "fourth", "last", source_offset("fourth"), sizeof crlf_source - 1 - source_offset("fourth"));
    range(&m, "==== a.c ====\n", "first", 3, 5); /* added text adds nothing */
    range(&m, "one", "two", 0, 0);               /* a PDF has none */
    range(&m, "last", "x\ny", 0, 0);             /* two files */
    struct err e = {0};
    uint64_t first, bytes;
    assert_int_equal(source_map_bytes(m.map, m.text.data, 5, 5, &first, &bytes, &e), ERR_USAGE);
    assert_int_equal(source_map_bytes(m.map, m.text.data, 0, m.text.len + 1, &first, &bytes, &e), ERR_USAGE);
    unmake(&m);
}

static void test_pages(void **state)
{
    (void)state;
    struct made m = make_mixed();
    struct err e = {0};
    uint64_t first, end;
    assert_int_equal(source_map_find_page(m.map, 2, &first, &end, &e), 0);
    assert_int_equal(end - first, strlen("three\nfour\n\n"));
    assert_memory_equal(m.text.data + first, "three\nfour\n\n", end - first);
    assert_int_equal(source_map_find_page(m.map, 1, &first, &end, &e), ERR_NOT_FOUND);
    uint64_t y = (uint64_t)(strstr(m.text.data, "y\n") - m.text.data);
    assert_int_equal(source_map_page(m.map, y, &first, &end, &e), 0);
    assert_memory_equal(m.text.data + first, "x\ny\nz\n", 6);
    assert_int_equal(end - first, 6);
    unmake(&m);
}

static struct buf blob_of(const struct made *m)
{
    struct buf blob = {0};
    struct err e = {0};
    assert_int_equal(source_map_write(m->map, &blob, &e), 0);
    return blob;
}

static void test_blob_round_trip(void **state)
{
    (void)state;
    struct made m = make_mixed();
    struct buf blob = blob_of(&m);
    struct made back = {.text = m.text};
    struct err e = {0};
    assert_int_equal(source_map_parse(blob.data, blob.len, &back.map, &e), 0);
    assert_int_equal(source_map_records(back.map), source_map_records(m.map));
    check_mixed(&back);
    struct buf again = blob_of(&back);
    assert_int_equal(again.len, blob.len);
    assert_memory_equal(again.data, blob.data, blob.len);
    add_text(&back, "c.c", "more\n", 5); /* a parsed map goes on */
    m.text = back.text;
    buf_free(&again);
    buf_free(&blob);
    source_map_free(back.map);
    unmake(&m);
}

static void test_empty_map(void **state)
{
    (void)state;
    struct made m = make_empty();
    struct buf blob = blob_of(&m);
    struct source_map *back;
    struct source_place p;
    struct err e = {0};
    assert_int_equal(source_map_parse(blob.data, blob.len, &back, &e), 0);
    assert_int_equal(source_map_lookup(back, "", 0, &p, &e), ERR_USAGE);
    source_map_free(back);
    source_map_free(NULL);
    buf_free(&blob);
    unmake(&m);
}

/* Whatever parses must be safe to use with a text of its size. */
static void use_everything(const struct source_map *map, const struct made *m)
{
    struct err e = {0};
    if (source_map_text_bytes(map) != m->text.len)
        return;
    for (uint64_t i = 0; i < m->text.len; i++) {
        struct source_place p;
        uint64_t a, b;
        assert_int_equal(source_map_lookup(map, m->text.data, i, &p, &e), 0);
        assert_true(strlen(p.file) <= 4096 && strlen(p.page_label) <= 4096);
        assert_int_equal(source_map_bytes(map, m->text.data, i, m->text.len, &a, &b, &e), 0);
        assert_int_equal(source_map_page(map, i, &a, &b, &e), 0);
        assert_true(a <= i && i < b && b <= m->text.len);
    }
}

static void test_blob_damaged(void **state)
{
    (void)state;
    struct made m = make_mixed();
    struct buf blob = blob_of(&m);
    struct err e = {0};
    struct source_map *map;
    for (size_t n = 0; n < blob.len; n++) {
        struct buf cut = {0}; /* its own memory, so that ASan sees a read past it */
        buf_add(&cut, blob.data, n);
        assert_int_equal(source_map_parse(cut.data, n, &map, &e), ERR_FORMAT);
        assert_null(map);
        buf_free(&cut);
    }
    buf_putc(&blob, 0);
    assert_int_equal(source_map_parse(blob.data, blob.len, &map, &e), ERR_FORMAT);
    blob.len--;
    static const unsigned char values[] = {0, 1, 2, 0x7f, 0x80, 0xfe, 0xff};
    size_t refused = 0;
    for (size_t at = 0; at < blob.len; at++)
        for (size_t v = 0; v < sizeof values; v++) {
            char old = blob.data[at];
            blob.data[at] = (char)values[v];
            if (source_map_parse(blob.data, blob.len, &map, &e) == 0)
                use_everything(map, &m);
            else
                refused++;
            source_map_free(map);
            blob.data[at] = old;
        }
    assert_true(refused > blob.len);
    buf_free(&blob);
    unmake(&m);
}

static void test_version_and_bad_blocks(void **state)
{
    (void)state;
    struct made m = make_mixed();
    struct buf blob = blob_of(&m);
    struct err e = {0};
    struct source_map *map;
    blob.data[4] = 9;
    assert_int_equal(source_map_parse(blob.data, blob.len, &map, &e), ERR_UNSUPPORTED);
    struct ingest_block b = {
        .text = "abc", .n = 3, .file = "f", .page_index = -1, .page_label = "", .line_first = 1};
    b.byte_len = 2;
    b.flags = INGEST_EXACT; /* three bytes of text cannot be two bytes of source */
    assert_int_equal(source_map_add(m.map, &b, &e), ERR_USAGE);
    b.flags = 0;
    b.line_first = 0;
    assert_int_equal(source_map_add(m.map, &b, &e), ERR_USAGE);
    b.line_first = 1;
    b.n = 0;
    assert_int_equal(source_map_add(m.map, &b, &e), ERR_USAGE);
    buf_free(&blob);
    unmake(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_source_bytes),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_blob_round_trip),
        cmocka_unit_test(test_empty_map),
        cmocka_unit_test(test_blob_damaged),
        cmocka_unit_test(test_version_and_bad_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
