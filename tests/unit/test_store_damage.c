/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_damage.c - bytes that are not what was written: a miss that names the file, and nothing else
 * lost. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/store/store.h"
#include "engine/base/file.h"
#include "tests/support/store_fixture.h"

struct world {
    char *dir;
    struct store *s;
    struct err e;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->dir = fixture_dir_make();
    *state = w;
    int rc = store_open(w->dir, &w->s, &w->e);
    for (unsigned i = 0; !rc && i < 12; i++)
        rc = fixture_put(w->s, i, &w->e);
    store_close(w->s);
    w->s = NULL;
    return rc;
}

static int teardown(void **state)
{
    struct world *w = *state;
    store_close(w->s);
    fixture_dir_remove(w->dir);
    free(w);
    return 0;
}

static void open_again(struct world *w)
{
    store_close(w->s);
    assert_int_equal(store_open(w->dir, &w->s, &w->e), 0);
}

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_true(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* Where span i begins, as the spans of setup were put one after the other into one file. */
static off_t offset_of(unsigned i)
{
    off_t end = 4096, start = 4096;
    for (unsigned k = 0; k <= i; k++) {
        start = (end + 4095) / 4096 * 4096;
        end = start + (off_t)fixture_size(k);
    }
    return start;
}

static void expect_miss(struct world *w, unsigned i, const char *word)
{
    memset(&w->e, 0, sizeof w->e);
    int rc = fixture_check(w->s, i, &w->e);
    assert_int_equal(rc, ERR_FORMAT);
    assert_int_equal(w->e.code, ERR_FORMAT);
    assert_non_null(strstr(w->e.text, word));
    assert_non_null(strstr(w->e.text, "read again from the document"));
}

static void expect_all_but(struct world *w, unsigned damaged)
{
    for (unsigned i = 0; i < 12; i++)
        if (i != damaged)
            assert_int_equal(fixture_check(w->s, i, &w->e), 0);
}

static void a_flipped_bit_is_a_miss(void **state)
{
    struct world *w = *state;
    char *path = fixture_segment(w->dir, 1);
    static const unsigned spans[] = {1, 7, 11};
    for (size_t k = 0; k < 3; k++) {
        off_t at = offset_of(spans[k]) + (off_t)fixture_size(spans[k]) - 1; /* the last byte of all */
        flip(path, at);
        open_again(w);
        expect_miss(w, spans[k], "000001.seg");
        expect_all_but(w, spans[k]);
        flip(path, at);
        open_again(w);
        expect_all_but(w, 99);
    }
    free(path);
}

static void a_put_heals_the_damage(void **state)
{
    struct world *w = *state;
    char *path = fixture_segment(w->dir, 1);
    flip(path, offset_of(9) + 300000);
    open_again(w);
    expect_miss(w, 9, "000001.seg");
    assert_int_equal(fixture_put(w->s, 9, &w->e), 0);
    expect_all_but(w, 99);
    open_again(w);
    expect_all_but(w, 99);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 12);
    free(path);
}

static void a_cut_segment_misses_its_tail(void **state)
{
    struct world *w = *state;
    char *path = fixture_segment(w->dir, 1);
    assert_int_equal(truncate(path, offset_of(11) + 5), 0);
    open_again(w);
    expect_miss(w, 11, "000001.seg");
    expect_all_but(w, 11);
    assert_int_equal(fixture_put(w->s, 11, &w->e), 0);
    expect_all_but(w, 99);
    open_again(w);
    expect_all_but(w, 99);
    assert_int_equal(truncate(path, 100), 0);
    open_again(w);
    expect_miss(w, 0, "damaged header");
    expect_miss(w, 5, "damaged header");
    assert_int_equal(fixture_check(w->s, 11, &w->e), 0); /* lives in another file by now */
    for (unsigned i = 0; i < 12; i++)
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
    expect_all_but(w, 99);
    assert_int_not_equal(access(path, F_OK), 0); /* no row names the bad file any more */
    free(path);
}

static void header_damage_misses_all(void **state)
{
    struct world *w = *state;
    char *path = fixture_segment(w->dir, 1);
    static const off_t places[] = {0, 8, 12, 16, 31, 32, 100, 4095};
    for (size_t k = 0; k < sizeof places / sizeof places[0]; k++) {
        flip(path, places[k]);
        open_again(w);
        expect_miss(w, 3, "damaged header");
        assert_int_equal(fixture_put(w->s, 100 + (unsigned)k, &w->e), 0); /* into another file */
        flip(path, places[k]);
    }
    open_again(w);
    expect_all_but(w, 99);
    free(path);
}

static void a_missing_or_strange_file_is_a_miss(void **state)
{
    struct world *w = *state;
    char *path = fixture_segment(w->dir, 1);
    assert_int_equal(unlink(path), 0);
    open_again(w);
    expect_miss(w, 3, "missing");
    assert_int_equal(mkfifo(path, 0600), 0); /* must not hang */
    expect_miss(w, 3, "not a file");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(fixture_put(w->s, 3, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 3, &w->e), 0);
    free(path);
}

/* Numbers that a hostile database may hold: every one must be an error, none a crash, and puts go on. */
static void hostile_rows_are_misses(void **state)
{
    struct world *w = *state;
    static const char *const edits[] = {
        "offset=0",
        "offset=-4096",
        "offset=4097",
        "offset=1<<40",
        "offset=9223372036854771712",
        "offset='x'",
        "offset=1e300",
        "size=-1",
        "size=size+1",
        "size=size-1",
        "size=1<<34",
        "size=9223372036854775807",
        "size=0",
        "size='many'",
        "sums=x''",
        "sums=zeroblob(8)",
        "sums=zeroblob(9)",
        "sums='text'",
        "sums=zeroblob(1000000)",
        "meta=zeroblob(5000)",
        "meta=x'00'",
        "meta='text'",
        "parent='short'",
        "parent=zeroblob(16)",
        "parent=zeroblob(15)",
        "seal=seal+1",
        "seal='x'",
        "segment=0",
        "segment=-1",
        "segment=99",
        "segment=9223372036854775807",
        "offset=9223372036854771712, size=9223372036854775807",
        "size=1<<34, sums=zeroblob(524288)",
        "key=zeroblob(3)",
        "kind=-5",
        "kind=9223372036854775807",
    };
    open_again(w);
    for (size_t k = 0; k < sizeof edits / sizeof edits[0]; k++) {
        char text[300];
        snprintf(text, sizeof text,
                 "PRAGMA foreign_keys=OFF; UPDATE spans SET %s WHERE id=(SELECT id FROM spans WHERE kind=1"
                 " ORDER BY id DESC LIMIT 1)",
                 edits[k]);
        assert_int_equal(fixture_put(w->s, 11, &w->e), 0);
        store_close(w->s);
        w->s = NULL;
        assert_int_equal(fixture_sql(w->dir, text), 0);
        open_again(w);
        struct store_stats stats;
        struct store_session_list sessions;
        assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
        assert_int_equal(store_session_list(w->s, &sessions, &w->e), 0);
        store_session_list_free(&sessions);
        int rc = fixture_check(w->s, 11, &w->e);
        if (rc != ERR_FORMAT && rc != ERR_NOT_FOUND)
            fail_msg("%s gave %d", edits[k], rc);
        for (unsigned i = 0; i < 11; i++)
            assert_int_equal(fixture_check(w->s, i, &w->e), 0);
        int put = fixture_put(w->s, 11, &w->e);
        if (put)
            fail_msg("after %s: %s", edits[k], w->e.text);
        assert_int_equal(fixture_check(w->s, 11, &w->e), 0);
        open_again(w);
        assert_int_equal(fixture_check(w->s, 11, &w->e), 0);
        assert_int_equal(fixture_put(w->s, 12 + (unsigned)k, &w->e), 0);
        uint8_t key[16];
        fixture_key(12 + (unsigned)k, key);
        assert_int_equal(store_span_drop(w->s, 1, key, &w->e), 0);
    }
    assert_int_equal(store_collect(w->s, &w->e), 0);
}

static void a_hostile_uuid_or_swapped_file_is_a_miss(void **state)
{
    struct world *w = *state;
    assert_int_equal(fixture_sql(w->dir, "UPDATE segments SET uuid='x'"), 0);
    open_again(w);
    expect_miss(w, 1, "lectern.db");
    assert_int_equal(fixture_sql(w->dir, "UPDATE segments SET uuid=zeroblob(16)"), 0);
    expect_miss(w, 1, "damaged header");
    assert_int_equal(fixture_put(w->s, 1, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 1, &w->e), 0);
}

static void databases_that_are_refused(void **state)
{
    struct world *w = *state;
    struct store *s;
    assert_int_equal(fixture_sql(w->dir, "PRAGMA user_version=3"), 0);
    assert_int_equal(store_open(w->dir, &s, &w->e), ERR_UNSUPPORTED);
    assert_null(s);
    assert_non_null(strstr(w->e.text, "newer"));
    assert_int_equal(fixture_sql(w->dir, "PRAGMA user_version=2; PRAGMA application_id=7"), 0);
    assert_int_equal(store_open(w->dir, &s, &w->e), ERR_FORMAT);
    assert_int_equal(fixture_sql(w->dir, "PRAGMA user_version=0; PRAGMA application_id=0"), 0);
    assert_int_equal(store_open(w->dir, &s, &w->e), ERR_FORMAT);
    char *path = path_join(w->dir, "lectern.db");
    assert_int_equal(file_write(path, "this is no database at all, but it is long enough", 49, &w->e), 0);
    assert_int_equal(store_open(w->dir, &s, &w->e), ERR_FORMAT);
    assert_non_null(strstr(w->e.text, "move it away"));
    assert_int_equal(unlink(path), 0);
    free(path);
    open_again(w); /* as the text says: moved away, and on it goes */
    assert_int_equal(fixture_check(w->s, 1, &w->e), ERR_NOT_FOUND);
    assert_int_equal(fixture_put(w->s, 1, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 1, &w->e), 0);
}

/* Any page of the database overwritten: errors or right answers, no crash. */
static void a_damaged_database_never_lies(void **state)
{
    struct world *w = *state;
    char *path = path_join(w->dir, "lectern.db"), *whole;
    size_t size;
    assert_int_equal(file_read(path, 1 << 24, &whole, &size, &w->e), 0);
    for (size_t page = 0; page < size / 4096; page++)
        for (int way = 0; way < 3; way++) {
            char *copy = malloc(size);
            memcpy(copy, whole, size);
            if (way == 0)
                memset(copy + page * 4096, 0xff, 4096);
            else
                for (size_t i = 0; i < 40; i++)
                    copy[page * 4096 + (way == 1 ? i * 97 % 4096 : i)] ^= (char)(1 << (i % 8));
            assert_int_equal(file_write(path, copy, size, &w->e), 0);
            free(copy);
            struct store *s;
            if (store_open(w->dir, &s, &w->e))
                continue;
            for (unsigned i = 0; i < 12; i++) {
                int rc = fixture_check(s, i, &w->e);
                assert_true(rc == 0 || rc == ERR_NOT_FOUND || rc == ERR_FORMAT);
            }
            store_close(s);
        }
    assert_int_equal(file_write(path, whole, size, &w->e), 0);
    open_again(w);
    expect_all_but(w, 99);
    free(whole);
    free(path);
}

static void damaged_text_is_told(void **state)
{
    struct world *w = *state;
    int64_t id;
    open_again(w);
    assert_int_equal(store_session_create(w->s, "s", NULL, &id, &w->e), 0);
    char text[] = "It was the best of times";
    const struct iovec parts[STORE_PARTS] = {{text, sizeof text}, {text, 0}, {text, 8}, {text, 4}};
    struct store_document d = {.path = "a.txt", .title = "A", .kind = "text", .pages = 1};
    assert_int_equal(store_document_add(w->s, id, &d, parts, NULL, &w->e), 0);
    static const char *const edits[] = {"UPDATE document_parts SET data=x'00' WHERE part=0",
                                        "UPDATE document_parts SET data='It' WHERE part=0",
                                        "UPDATE document_parts SET size=-1 WHERE part=0",
                                        "UPDATE document_parts SET sum=sum+1 WHERE part=0"};
    void *bytes;
    size_t n;
    for (size_t k = 0; k < 4; k++) {
        assert_int_equal(fixture_sql(w->dir, "CREATE TABLE keep AS SELECT * FROM document_parts"), 0);
        assert_int_equal(fixture_sql(w->dir, edits[k]), 0);
        assert_int_equal(store_document_read(w->s, id, 0, STORE_TEXT, &bytes, &n, &w->e), ERR_FORMAT);
        assert_null(bytes);
        assert_non_null(strstr(w->e.text, "a.txt"));
        assert_int_equal(store_document_read(w->s, id, 0, STORE_TOKENS, &bytes, &n, &w->e), 0);
        free(bytes);
        /* Added again, it is not taken for the damaged one. */
        int ordinal;
        assert_int_equal(store_document_add(w->s, id, &d, parts, &ordinal, &w->e), 0);
        assert_int_equal(store_document_read(w->s, id, ordinal, STORE_TEXT, &bytes, &n, &w->e), 0);
        assert_string_equal(bytes, text);
        free(bytes);
        assert_int_equal(store_document_drop_from(w->s, id, 1, &w->e), 0);
        assert_int_equal(
            fixture_sql(w->dir, "DELETE FROM document_parts; INSERT INTO document_parts SELECT * FROM keep;"
                                " DROP TABLE keep"),
            0);
    }
    assert_int_equal(fixture_sql(w->dir, "UPDATE documents SET pages=-7"), 0);
    struct store_document_list list;
    assert_int_equal(store_document_list(w->s, id, &list, &w->e), ERR_FORMAT);
    assert_int_equal(list.n, 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_flipped_bit_is_a_miss),
        CASE(a_put_heals_the_damage),
        CASE(a_cut_segment_misses_its_tail),
        CASE(header_damage_misses_all),
        CASE(a_missing_or_strange_file_is_a_miss),
        CASE(hostile_rows_are_misses),
        CASE(a_hostile_uuid_or_swapped_file_is_a_miss),
        CASE(databases_that_are_refused),
        CASE(a_damaged_database_never_lies),
        CASE(damaged_text_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
