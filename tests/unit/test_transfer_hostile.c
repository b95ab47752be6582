/* SPDX-License-Identifier: Apache-2.0 */
/* test_transfer_hostile.c - files that somebody made on purpose: manifests that lie, members that are no
 * plain files, other formats. Each is refused in words, imports nothing and writes nowhere.
 *
 * The files are built here byte by byte, with right checksums wherever the lie is elsewhere.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/transfer/transfer.h"
#include "data/transfer/transfer_internal.h"
#include "engine/base/file.h"
#include "tests/support/transfer_fixture.h"

struct world {
    struct transfer_world b;
    char *file;
    struct transfer_result out;
    struct err e;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    *state = w;
    transfer_world_open(&w->b);
    w->file = path_join(w->b.dir, "it.lectern");
    return !w->file;
}

static int teardown(void **state)
{
    struct world *w = *state;
    transfer_world_close(&w->b);
    free(w->file);
    free(w);
    return 0;
}

/* ---- tar by hand --------------------------------------------------------------------------------------- */

struct member {
    const char *name;
    char type;          /* '0' a file, '1' hard link, '2' symbolic link, '3' device, '5' folder */
    uint64_t told_size; /* in the header, when not the real one */
    const char *link;
};

static void add_member(struct buf *tar, const struct member *m, const void *bytes, size_t n)
{
    char header[512] = {0};
    uint64_t size = m->told_size ? m->told_size : n;
    snprintf(header, 100, "%s", m->name);
    memcpy(header + 100, "0000600\0000000000\0000000000", 24);
    if (size < (uint64_t)1 << 33) {
        snprintf(header + 124, 12, "%011llo", (unsigned long long)size);
    } else { /* base 256 */
        header[124] = (char)0x80;
        for (int i = 0; i < 8; i++)
            header[135 - i] = (char)(size >> (8 * i));
    }
    memcpy(header + 136, "00000000000", 12);
    header[156] = m->type ? m->type : '0';
    if (m->link)
        snprintf(header + 157, 100, "%s", m->link);
    memcpy(header + 257, "ustar\00000", 8);
    memset(header + 148, ' ', 8);
    unsigned sum = 0;
    for (int i = 0; i < 512; i++)
        sum += (unsigned char)header[i];
    snprintf(header + 148, 8, "%06o", sum);
    buf_add(tar, header, 512);
    buf_add(tar, bytes, n);
    while (tar->len % 512)
        buf_putc(tar, 0);
}

static void add_file(struct buf *tar, const char *name, const void *bytes, size_t n)
{
    const struct member m = {.name = name};
    add_member(tar, &m, bytes, n);
}

static void add_manifest(struct buf *tar, const char *json, size_t n)
{
    uint8_t sum[16];
    char check[34];
    part_digest(json, n, sum);
    part_hex(sum, check);
    check[32] = '\n';
    add_file(tar, "manifest.json", json, n);
    add_file(tar, "manifest.check", check, 33);
}

static void add_end(struct buf *tar)
{
    static const char zeros[1024];
    buf_add(tar, zeros, sizeof zeros);
}

static void hex_of(const void *bytes, size_t n, char out[33])
{
    uint8_t sum[16];
    part_digest(bytes, n, sum);
    part_hex(sum, out);
}

/* ---- a good manifest, of which tests change one thing -------------------------------------------------- */

static const char payload[] = "the payload of a span";
static const char text[] = "some text";

static const char session_json[] =
    "{\"name\":\"n\",\"model\":\"\",\"options\":\"\",\"tokens\":0,\"model_hash\":"
    "\"00000000000000000000000000000000\"}";

static char *span_json(void)
{
    uint8_t sum[16];
    char hex[33];
    struct err e;
    struct buf b = {0};
    assert_int_equal(store_payload_digest(payload, sizeof payload, sum, &e), 0);
    part_hex(sum, hex);
    buf_printf(
        &b,
        "{\"kind\":1,\"key\":\"000102030405060708090a0b0c0d0e0f\",\"position\":64,\"microseconds\":500000,"
        "\"size\":%zu,\"sum\":\"%s\"}",
        sizeof payload, hex);
    return buf_take(&b);
}

static char *document_json(void)
{
    char full[33], empty[33];
    struct buf b = {0};
    hex_of(text, sizeof text, full);
    hex_of("", 0, empty);
    buf_printf(&b,
               "{\"path\":\"/p\",\"title\":\"t\",\"kind\":\"text\",\"size\":9,\"mtime_ns\":-5,\"pages\":1,"
               "\"token_start\":0,\"token_count\":2,\"hash\":\"ffffffffffffffffffffffffffffffff\",\"parts\":"
               "[{\"size\":%zu,\"sum\":\"%s\"},{\"size\":0,\"sum\":\"%s\"},{\"size\":0,\"sum\":\"%s\"},"
               "{\"size\":0,\"sum\":\"%s\"}]}",
               sizeof text, full, empty, empty, empty);
    return buf_take(&b);
}

static char *turns_json(const char *turns, int count)
{
    char hex[33];
    struct buf b = {0};
    hex_of(turns, strlen(turns), hex);
    buf_printf(&b, "{\"count\":%d,\"size\":%zu,\"sum\":\"%s\"}", count, strlen(turns), hex);
    return buf_take(&b);
}

static const char one_turn[] = "{\"question\":\"q\",\"answer\":\"a\",\"json\":\"\",\"time\":3}\n";

/* The whole manifest, with the first `from` in it replaced by `to`. */
static char *manifest_json(const char *from, const char *to)
{
    char *span = span_json(), *document = document_json(), *turns = turns_json(one_turn, 1);
    struct buf all = {0}, out = {0};
    buf_printf(&all,
               "{\"format\":\"lectern session\",\"version\":1,\"session\":%s,\"spans\":[%s],"
               "\"documents\":[%s],\"turns\":%s}",
               session_json, span, document, turns);
    const char *at = from ? strstr(all.data, from) : NULL;
    if (from && !at)
        print_error("no %s in %s\n", from, all.data);
    assert_true(!from || at);
    if (at) {
        buf_add(&out, all.data, (size_t)(at - all.data));
        buf_puts(&out, to);
        buf_puts(&out, at + strlen(from));
    } else {
        buf_puts(&out, all.data);
    }
    buf_free(&all);
    free(span);
    free(document);
    free(turns);
    return buf_take(&out);
}

static void add_rest(struct buf *tar, const char *turns)
{
    add_file(tar, "span/0", payload, sizeof payload);
    add_file(tar, "document/0/text", text, sizeof text);
    add_file(tar, "document/0/map", "", 0);
    add_file(tar, "document/0/tokens", "", 0);
    add_file(tar, "document/0/ends", "", 0);
    add_file(tar, "turns.json", turns, strlen(turns));
    add_end(tar);
}

static struct buf whole_file(const char *from, const char *to)
{
    struct buf tar = {0};
    char *json = manifest_json(from, to);
    add_manifest(&tar, json, strlen(json));
    add_rest(&tar, one_turn);
    free(json);
    return tar;
}

static int import_bytes(struct world *w, const struct buf *tar)
{
    memset(&w->e, 0, sizeof w->e);
    assert_false(tar->failed);
    transfer_overwrite(w->file, tar->data, tar->len);
    return transfer_import(w->b.s, w->file, NULL, NULL, &w->out, &w->e);
}

static void expect_refused(struct world *w, struct buf *tar, int code, const char *what)
{
    int rc = import_bytes(w, tar);
    if (rc != code)
        print_error("%s: %d, not %d (%s)\n", what, rc, code, rc ? w->e.text : "imported");
    assert_int_equal(rc, code);
    assert_int_equal(w->e.code, code);
    assert_non_null(strstr(w->e.text, "it.lectern"));
    for (const char *at = w->e.text; *at; at++)
        assert_true((unsigned char)*at >= 0x20);
    transfer_expect_nothing(&w->b);
    buf_free(tar);
}

static void the_file_of_these_tests_is_a_good_one(void **state)
{
    struct world *w = *state;
    struct buf tar = whole_file(NULL, NULL);
    int rc = import_bytes(w, &tar);
    if (rc)
        print_error("%s\n", w->e.text);
    assert_int_equal(rc, 0);
    assert_int_equal(w->out.spans, 1);
    assert_int_equal(w->out.documents, 1);
    assert_int_equal(w->out.turns, 1);
    transfer_expect_clean(&w->b);
    buf_free(&tar);
}

/* ---- manifests that lie -------------------------------------------------------------------------------- */

static void manifests_that_lie_are_refused(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *from, *to;
        int code;
    } lies[] = {
        {"lectern session", "something else", ERR_FORMAT},
        {"\"version\":1", "\"version\":2", ERR_UNSUPPORTED},
        {"\"version\":1", "\"version\":0", ERR_FORMAT},
        {"\"version\":1", "\"version\":-1", ERR_FORMAT},
        {"\"version\":1", "\"version\":\"1\"", ERR_FORMAT},
        {"\"version\":1", "\"version\":1,\"version\":1", ERR_FORMAT},
        {"\"name\":\"n\"", "\"name\":\"../../n\"", ERR_FORMAT},
        {"\"name\":\"n\"", "\"name\":\"\"", ERR_FORMAT},
        {"\"name\":\"n\"", "\"name\":\"a\\u0007b\"", ERR_FORMAT},
        {"\"name\":\"n\"", "\"name\":\"a\\u0000b\"", ERR_FORMAT},
        {"\"name\":\"n\"", "\"name_hex\":\"610062\"", ERR_FORMAT},
        {"\"name\":\"n\"", "\"name_hex\":\"6\"", ERR_FORMAT},
        {"\"name\":\"n\"", "\"name_hex\":\"6G\"", ERR_FORMAT},
        {"\"name\":\"n\"", "\"name\":7", ERR_FORMAT},
        {"\"name\":\"n\"", "\"no\":7", ERR_FORMAT},
        {"\"tokens\":0", "\"tokens\":-1", ERR_FORMAT},
        {"\"tokens\":0", "\"tokens\":99999999999999999999", ERR_FORMAT},
        {"\"tokens\":0", "\"tokens\":0,\"chain\":\"00\"", ERR_FORMAT},
        {"\"tokens\":0", "\"tokens\":0,\"chain\":null", ERR_FORMAT},
        {"\"00000000000000000000000000000000\"", "\"0000\"", ERR_FORMAT},
        {"\"kind\":1", "\"kind\":-1", ERR_FORMAT},
        {"\"kind\":1", "\"kind\":2147483648", ERR_FORMAT},
        {"\"kind\":1", "\"kind\":1.5", ERR_FORMAT},
        {"\"key\":\"0001", "\"key\":\"01", ERR_FORMAT},
        {"\"key\":\"0001", "\"key\":\"XY01", ERR_FORMAT},
        {"\"key\":", "\"parent\":\"00\",\"key\":", ERR_FORMAT},
        {"\"key\":", "\"parent\":12,\"key\":", ERR_FORMAT},
        {"\"key\":", "\"meta\":\"\",\"key\":", ERR_FORMAT},
        {"\"key\":", "\"meta\":\"abc\",\"key\":", ERR_FORMAT},
        {"\"key\":", "\"meta\":[],\"key\":", ERR_FORMAT},
        {"\"position\":64", "\"position\":-64", ERR_FORMAT},
        {"\"position\":64", "\"position\":6.5e300", ERR_FORMAT},
        {"\"microseconds\":5", "\"microseconds\":-5", ERR_FORMAT},
        {"\"microseconds\":500000", "\"microseconds\":1e999", ERR_FORMAT},
        {"\"microseconds\":500000", "\"microseconds\":null", ERR_FORMAT},
        {"\"version\":1", "\"version\": 1", ERR_FORMAT}, /* not as it is written */
        {"\"size\":22", "\"size\":21", ERR_FORMAT},
        {"\"size\":22", "\"size\":-22", ERR_FORMAT},
        {"\"size\":22", "\"size\":1073741824", ERR_FORMAT}, /* the file is not so long */
        {"\"size\":22", "\"size\":1073741825", ERR_FORMAT},
        {"\"size\":22", "\"size\":9223372036854775807", ERR_FORMAT},
        {"\"size\":10", "\"size\":9", ERR_FORMAT},
        {"\"size\":10", "\"size\":900000001", ERR_FORMAT},
        {"\"size\":10", "\"size\":900000000", ERR_FORMAT},
        {"\"pages\":1", "\"pages\":2147483648", ERR_FORMAT},
        {"\"token_start\":0", "\"token_start\":-1", ERR_FORMAT},
        {"\"mtime_ns\":-5", "\"mtime_ns\":1.0", ERR_FORMAT},
        {"\"parts\":[{", "\"parts\":[{},{", ERR_FORMAT},
        {"\"parts\":[{", "\"parts\":{},\"x\":[{", ERR_FORMAT},
        {"\"spans\":[{", "\"spans\":[[],{", ERR_FORMAT},
        {"\"spans\":[{", "\"spans\":{},\"x\":[{", ERR_FORMAT},
        {"\"documents\":[{", "\"documents\":[null,{", ERR_FORMAT},
        {"\"count\":1", "\"count\":2", ERR_FORMAT},
        {"\"count\":1", "\"count\":-1", ERR_FORMAT},
        {"\"turns\":{", "\"turns\":[],\"x\":{", ERR_FORMAT},
        {"{\"format\"", "[{\"format\"", ERR_FORMAT},
        {"{\"format\"", "\xff{\"format\"", ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        struct buf tar = whole_file(lies[i].from, lies[i].to);
        expect_refused(w, &tar, lies[i].code, lies[i].to);
    }
}

static void a_wrong_checksum_is_refused(void **state)
{
    struct world *w = *state;
    struct buf tar = whole_file(NULL, NULL);
    static const char *const places[] = {payload, text, one_turn, "lectern session"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct buf copy = {0};
        buf_add(&copy, tar.data, tar.len);
        char *at = memmem(copy.data, copy.len, places[i], strlen(places[i]));
        assert_non_null(at);
        at[2] ^= 1;
        expect_refused(w, &copy, ERR_FORMAT, places[i]);
    }
    buf_free(&tar);
}

static void a_meta_beyond_the_limit_is_refused(void **state)
{
    struct world *w = *state;
    struct buf meta = {0};
    buf_puts(&meta, "\"meta\":\"");
    for (size_t i = 0; i < STORE_META_MAX; i++)
        buf_puts(&meta, "ab");
    size_t most = meta.len;
    buf_puts(&meta, "cd\",\"key\":");
    struct buf tar = whole_file("\"key\":", meta.data);
    expect_refused(w, &tar, ERR_FORMAT, "meta");
    memcpy(meta.data + most, "\",\"key\":", 9); /* the longest that is allowed */
    tar = whole_file("\"key\":", meta.data);
    assert_int_equal(import_bytes(w, &tar), 0);
    buf_free(&tar);
    buf_free(&meta);
}

static void a_huge_or_deep_manifest_is_refused(void **state)
{
    struct world *w = *state;
    struct buf json = {0}, tar = {0};
    while (json.len <= MANIFEST_MAX)
        buf_puts(&json, "                                                                ");
    add_manifest(&tar, json.data, json.len);
    add_end(&tar);
    expect_refused(w, &tar, ERR_FORMAT, "huge");
    buf_clear(&json);
    for (int i = 0; i < 1000000; i++)
        buf_putc(&json, '[');
    add_manifest(&tar, json.data, json.len);
    add_end(&tar);
    expect_refused(w, &tar, ERR_FORMAT, "deep");
    buf_free(&json);
}

static void turns_that_lie_are_refused(void **state)
{
    struct world *w = *state;
    static const char *const lies[] = {
        "{\"question\":\"q\",\"answer\":\"a\",\"json\":\"\",\"time\":3}", /* no end of line */
        "{\"question\":\"q\",\"answer\":\"a\",\"json\":\"\"}\n",
        "{\"question\":\"q\",\"answer\":\"a\",\"json\":\"\",\"time\":\"3\"}\n",
        "{\"question\":1,\"answer\":\"a\",\"json\":\"\",\"time\":3}\n",
        "{\"question\":\"q\\u0000\",\"answer\":\"a\",\"json\":\"\",\"time\":3}\n",
        "\n",
        "[]\n",
        "{\"question\":\"q\",\"answer\":\"a\",\"json\":\"\",\"time\":3}\n\n",
        "{\"question\":\"q\",\"answer\":\"a\",\"json\":\"\",\"time\":3}\n"
        "{\"question\":\"q\",\"answer\":\"a\",\"json\":\"\",\"time\":3}\n", /* two of one */
    };
    char *good = turns_json(one_turn, 1);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        char *bad = turns_json(lies[i], 1), *json = manifest_json(good, bad);
        struct buf tar = {0};
        add_manifest(&tar, json, strlen(json));
        add_rest(&tar, lies[i]);
        expect_refused(w, &tar, ERR_FORMAT, lies[i]);
        free(bad);
        free(json);
    }
    free(good);
}

/* ---- members that are none ----------------------------------------------------------------------------- */

static void odd_members_are_refused(void **state)
{
    struct world *w = *state;
    static const struct member odd[] = {
        {.name = "span/1"},
        {.name = "../../../tmp/span/0"},
        {.name = "/tmp/span/0"},
        {.name = ""},
        {.name = "span/0", .type = '1', .link = "manifest.json"},
        {.name = "span/0", .type = '2', .link = "/etc/passwd"},
        {.name = "span/0", .type = '3'},
        {.name = "span/0", .type = '5'},
        {.name = "span/0", .type = '6'},
        {.name = "span/0", .told_size = 23},
        {.name = "span/0", .told_size = 1 << 20},
        {.name = "span/0", .told_size = (uint64_t)1 << 40},
        {.name = "span/0", .told_size = INT64_MAX},
        {.name = "span/0", .told_size = UINT64_MAX},
    };
    char *json = manifest_json(NULL, NULL);
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        struct buf tar = {0};
        add_manifest(&tar, json, strlen(json));
        add_member(&tar, &odd[i], payload, odd[i].type == '2' || odd[i].type == '5' ? 0 : sizeof payload);
        add_rest(&tar, one_turn);
        expect_refused(w, &tar, ERR_FORMAT, odd[i].name);
    }
    free(json);
}

static void too_few_many_or_mixed_members_are_refused(void **state)
{
    struct world *w = *state;
    char *json = manifest_json(NULL, NULL);
    struct buf tar = {0};
    add_file(&tar, "manifest.json", json, strlen(json));
    add_rest(&tar, one_turn);
    expect_refused(w, &tar, ERR_FORMAT, "no check");
    add_rest(&tar, one_turn);
    expect_refused(w, &tar, ERR_FORMAT, "no manifest");
    add_file(&tar, "turns.json", one_turn, strlen(one_turn));
    add_manifest(&tar, json, strlen(json));
    add_rest(&tar, one_turn);
    expect_refused(w, &tar, ERR_FORMAT, "turns first");
    tar = whole_file(NULL, NULL);
    tar.len -= 1024;
    add_file(&tar, "more", "more", 4);
    add_end(&tar);
    expect_refused(w, &tar, ERR_FORMAT, "one more");
    tar = whole_file(NULL, NULL);
    memset(tar.data + tar.len - 1024 - 512 - 512, 0, 512); /* the last header */
    expect_refused(w, &tar, ERR_FORMAT, "an end before the end");
    tar = whole_file(NULL, NULL); /* bytes behind the end are nobody's */
    buf_puts(&tar, "and more");
    assert_int_equal(import_bytes(w, &tar), 0);
    buf_free(&tar);
    free(json);
}

/* ---- other formats ------------------------------------------------------------------------------------- */

static void pack(struct buf *to, const struct buf *tar, int (*format)(struct archive *),
                 int (*filter)(struct archive *))
{
    size_t used = 0, cap = tar->len + 100000;
    struct archive *a = archive_write_new();
    struct archive_entry *entry = archive_entry_new();
    char *room = buf_reserve(to, cap);
    assert_non_null(room);
    assert_int_equal(format(a), 0);
    assert_int_equal(filter(a), 0);
    assert_int_equal(archive_write_open_memory(a, room, cap, &used), 0);
    archive_entry_set_pathname(entry, "manifest.json");
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_size(entry, (la_int64_t)tar->len);
    assert_int_equal(archive_write_header(a, entry), 0);
    assert_int_equal(archive_write_data(a, tar->data, tar->len), tar->len);
    assert_int_equal(archive_write_close(a), 0);
    archive_write_free(a);
    archive_entry_free(entry);
    to->len += used;
}

static void other_formats_are_refused(void **state)
{
    struct world *w = *state;
    struct buf tar = whole_file(NULL, NULL), packed = {0};
    pack(&packed, &tar, archive_write_set_format_zip, archive_write_add_filter_none);
    expect_refused(w, &packed, ERR_FORMAT, "zip");
    pack(&packed, &tar, archive_write_set_format_cpio, archive_write_add_filter_none);
    expect_refused(w, &packed, ERR_FORMAT, "cpio");
    pack(&packed, &tar, archive_write_set_format_ustar, archive_write_add_filter_gzip);
    expect_refused(w, &packed, ERR_FORMAT, "tar.gz");
    pack(&packed, &tar, archive_write_set_format_pax, archive_write_add_filter_none);
    expect_refused(w, &packed, ERR_FORMAT, "another tar");
    buf_puts(&packed, "plain words and nothing else\n");
    expect_refused(w, &packed, ERR_FORMAT, "text");
    buf_add(&packed, "\0\0\0\0", 4);
    expect_refused(w, &packed, ERR_FORMAT, "zeros");
    add_end(&packed);
    expect_refused(w, &packed, ERR_FORMAT, "an end alone");
    buf_reserve(&packed, 1);
    expect_refused(w, &packed, ERR_FORMAT, "nothing");
    buf_free(&tar);
}

/* Members may bring headers of their own (pax), with sizes and sparse maps that are not the file's. */
static void extended_headers_are_no_way_around(void **state)
{
    struct world *w = *state;
    static const char *const records[] = {
        "30 size=99999999999999999999\n\0\0\0\0",
        "24 GNU.sparse.major=1\n\n\0",
        "18 path=/tmp/aaaa\n",
        "21 linkpath=/etc/aa\n\n",
        "999999999 comment=x\n",
        "-1 comment=x\n",
        "nonsense",
    };
    char *json = manifest_json(NULL, NULL);
    const struct member pax = {.name = "pax", .type = 'x'};
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++) {
        struct buf tar = {0};
        add_manifest(&tar, json, strlen(json));
        add_member(&tar, &pax, records[i], strlen(records[i]));
        add_rest(&tar, one_turn);
        int rc = import_bytes(w, &tar);
        if (!rc) { /* libarchive passed over it: then it was the session all the same */
            transfer_expect_clean(&w->b);
            assert_int_equal(store_session_delete(w->b.s, w->out.session, &w->e), 0);
        } else {
            assert_int_equal(rc, ERR_FORMAT);
        }
        transfer_expect_nothing(&w->b);
        buf_free(&tar);
    }
    free(json);
}

static void a_text_that_is_no_utf8_comes_as_hex(void **state)
{
    struct world *w = *state;
    struct buf tar = whole_file("\"name\":\"n\"", "\"name_hex\":\"e974e9\"");
    assert_int_equal(import_bytes(w, &tar), 0);
    assert_string_equal(w->out.name, "\xe9t\xe9");
    buf_free(&tar);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(the_file_of_these_tests_is_a_good_one),
        TEST(manifests_that_lie_are_refused),
        TEST(a_wrong_checksum_is_refused),
        TEST(a_meta_beyond_the_limit_is_refused),
        TEST(a_huge_or_deep_manifest_is_refused),
        TEST(turns_that_lie_are_refused),
        TEST(odd_members_are_refused),
        TEST(too_few_many_or_mixed_members_are_refused),
        TEST(other_formats_are_refused),
        TEST(extended_headers_are_no_way_around),
        TEST(a_text_that_is_no_utf8_comes_as_hex),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
