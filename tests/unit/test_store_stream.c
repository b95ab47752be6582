/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_stream.c - batches that are written around the page cache: the same bytes and rows as through
 * it, for awkward sizes and many small parts; a write that fails in the helper thread changes nothing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "data/store/store_internal.h"
#include "tests/support/store_fixture.h"

enum { BIG = (9 << 20) + 12345 };

static void key_of(unsigned i, uint8_t key[STORE_KEY_BYTES])
{
    memset(key, 0, STORE_KEY_BYTES);
    memcpy(key, &i, sizeof i);
    key[15] = 77;
}

/* Bytes that hang on the place. */
static uint8_t *pattern(size_t n, unsigned seed)
{
    void *memory = NULL;
    assert_int_equal(posix_memalign(&memory, SEGMENT_ALIGN, n + 1), 0); /* so that it can be borrowed */
    uint8_t *bytes = memory;
    uint32_t x = seed * 2654435761u + 1;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(x >> 24);
    }
    return bytes;
}

static void check(struct store *s, unsigned i, const uint8_t *bytes, size_t n)
{
    struct span_map map;
    struct err e = {0};
    uint8_t key[STORE_KEY_BYTES];
    key_of(i, key);
    assert_int_equal(store_span_map(s, 3, key, &map, &e), 0);
    assert_int_equal(map.size, n);
    if (n)
        assert_memory_equal(map.data, bytes, n);
    store_span_unmap(s, &map);
}

static const size_t sizes[] = {BIG, 1, 0, 4096, 4095, 262144, 4 << 20, 262145, 0};
enum { SPANS = sizeof sizes / sizeof sizes[0] };

/* One batch of all sizes, each cut into parts of `step` bytes. */
static int put_all(struct store *s, uint8_t *const *bytes, size_t step, struct err *e)
{
    struct span_put puts[SPANS];
    uint8_t keys[SPANS][STORE_KEY_BYTES];
    struct iovec *parts[SPANS];
    for (unsigned i = 0; i < SPANS; i++) {
        size_t n = (sizes[i] + step - 1) / step;
        parts[i] = calloc(n + 1, sizeof *parts[i]);
        assert_non_null(parts[i]);
        for (size_t p = 0; p < n; p++) {
            size_t left = sizes[i] - p * step;
            parts[i][p] =
                (struct iovec){.iov_base = bytes[i] + p * step, .iov_len = left < step ? left : step};
        }
        key_of(i, keys[i]);
        puts[i] = (struct span_put){.kind = 3, .key = keys[i], .parts = parts[i], .n = (int)n};
    }
    int rc = store_spans_put(s, puts, SPANS, e);
    for (unsigned i = 0; i < SPANS; i++)
        free(parts[i]);
    return rc;
}

static void with_parts_of(size_t step, uint64_t limit)
{
    struct err e = {0};
    char *dir = fixture_dir_make();
    uint8_t *bytes[SPANS];
    for (unsigned i = 0; i < SPANS; i++)
        bytes[i] = pattern(sizes[i], i);
    struct store *s = NULL;
    assert_int_equal(store_open(dir, &s, &e), 0);
    s->segment_direct = limit;
    assert_int_equal(put_all(s, bytes, step, &e), 0);
    for (unsigned i = 0; i < SPANS; i++)
        check(s, i, bytes[i], sizes[i]);
    /* What follows goes behind it, whatever the padding was. */
    assert_int_equal(fixture_put(s, 5, &e), 0);
    assert_int_equal(fixture_check(s, 5, &e), 0);
    store_close(s);
    assert_int_equal(store_open(dir, &s, &e), 0);
    s->segment_direct = limit;
    assert_int_equal(fixture_put(s, 6, &e), 0);
    for (unsigned i = 0; i < SPANS; i++)
        check(s, i, bytes[i], sizes[i]);
    assert_int_equal(fixture_check(s, 5, &e), 0);
    assert_int_equal(fixture_check(s, 6, &e), 0);
    /* The flag is gone: later writes of the handle need no aligned memory. */
    assert_true(s->writer.fd >= 0);
    assert_int_equal(fcntl(s->writer.fd, F_GETFL) & O_DIRECT, 0);
    store_close(s);
    for (unsigned i = 0; i < SPANS; i++)
        free(bytes[i]);
    fixture_dir_remove(dir);
}

static void around_the_cache(void **state)
{
    (void)state;
    with_parts_of(1 << 30, 0);
    with_parts_of(5000, 0);
    with_parts_of(262144, 0);
    with_parts_of((1 << 20) + 3 * SEGMENT_ALIGN, 0); /* borrowed, and copied at the end */
    with_parts_of((2 << 20) + 5, 0);                 /* the first alone is aligned */
}

static void through_the_cache(void **state)
{
    (void)state;
    with_parts_of(1 << 30, UINT64_MAX);
    with_parts_of(5000, UINT64_MAX);
}

static void a_failed_write_changes_nothing(void **state)
{
    (void)state;
    struct err e = {0};
    char *dir = fixture_dir_make();
    uint8_t *bytes[SPANS];
    for (unsigned i = 0; i < SPANS; i++)
        bytes[i] = pattern(sizes[i], i);
    struct store *s = NULL;
    struct store_stats stats;
    assert_int_equal(store_open(dir, &s, &e), 0);
    assert_int_equal(fixture_put(s, 5, &e), 0);
    s->segment_direct = 0;
    struct rlimit before, low;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    /* Fails at the first buffer, in the middle (a write cut short there), at the last one. */
    for (rlim_t at = 3 << 20; at <= (rlim_t)15 << 20; at += (4 << 20) + 1000) {
        low = before;
        low.rlim_cur = at;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
        int rc = put_all(s, bytes, 1 << 30, &e);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(rc, ERR_IO);
        assert_int_equal(store_stats(s, &stats, &e), 0);
        assert_int_equal(stats.spans, 1);
        assert_int_equal(fixture_check(s, 5, &e), 0);
    }
    assert_int_equal(put_all(s, bytes, 1 << 30, &e), 0);
    for (unsigned i = 0; i < SPANS; i++)
        check(s, i, bytes[i], sizes[i]);
    store_close(s);
    for (unsigned i = 0; i < SPANS; i++)
        free(bytes[i]);
    fixture_dir_remove(dir);
}

static void flip(const char *dir, uint64_t at)
{
    char *path = fixture_segment(dir, 1);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
    free(path);
}

/* Several threads check a long span; what they say is what one would: the first damage, wherever others are.
 */
static void the_first_damage_is_told(void **state)
{
    (void)state;
    struct err e = {0};
    char *dir = fixture_dir_make();
    uint8_t *bytes[SPANS];
    for (unsigned i = 0; i < SPANS; i++)
        bytes[i] = pattern(sizes[i], i);
    static const uint64_t places[][3] = {{BIG - 1, BIG - 1, BIG - 1},
                                         {5 << 20, 4 << 20, 9 << 20},
                                         {SEGMENT_GROUP, 1 << 20, (1 << 20) - 1},
                                         {0, 1, 2}};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct store *s = NULL;
        struct span_map map;
        uint8_t key[STORE_KEY_BYTES];
        char *own = fixture_dir_make();
        assert_int_equal(store_open(own, &s, &e), 0);
        assert_int_equal(put_all(s, bytes, 1 << 30, &e), 0);
        uint64_t first = UINT64_MAX;
        for (int k = 0; k < 3; k++) { /* the same place thrice is flipped thrice, which is once */
            flip(own, SEGMENT_HEADER + places[i][k]);
            first = places[i][k] < first ? places[i][k] : first;
        }
        char *wanted = NULL;
        assert_true(asprintf(&wanted, "damaged at byte %llu;",
                             (unsigned long long)(SEGMENT_HEADER + first / SEGMENT_GROUP * SEGMENT_GROUP)) >
                    0);
        for (int run = 0; run < 5; run++) {
            key_of(0, key);
            assert_int_equal(store_span_map(s, 3, key, &map, &e), ERR_FORMAT);
            assert_non_null(strstr(e.text, wanted));
        }
        check(s, 6, bytes[6], sizes[6]); /* its neighbours are whole */
        free(wanted);
        store_close(s);
        fixture_dir_remove(own);
    }
    for (unsigned i = 0; i < SPANS; i++)
        free(bytes[i]);
    fixture_dir_remove(dir);
}

/* What opening needs of a session's row comes without counting what was read. */
static void opening_counts_nothing(void **state)
{
    (void)state;
    struct err e = {0};
    char *dir = fixture_dir_make();
    struct store *s = NULL;
    struct store_session all, alone;
    uint8_t key[STORE_KEY_BYTES];
    int64_t id;
    assert_int_equal(store_open(dir, &s, &e), 0);
    assert_int_equal(store_session_create(s, "book", NULL, &id, &e), 0);
    fixture_key(7, key);
    assert_int_equal(store_session_ref(s, id, 1, key, &e), 0);
    assert_int_equal(fixture_put(s, 7, &e), 0);
    assert_int_equal(store_session_get(s, "book", &all, &e), 0);
    assert_int_equal(store_session_open(s, "book", &alone, &e), 0);
    assert_int_equal(alone.id, all.id);
    assert_int_equal(alone.created, all.created);
    assert_string_equal(alone.options, all.options);
    assert_int_equal(alone.kv_bytes, 0);
    store_session_free(&all);
    store_session_free(&alone);
    assert_int_equal(store_session_open(s, "none", &alone, &e), ERR_NOT_FOUND);
    /* A row that is not as it was written is refused here too. */
    store_close(s);
    assert_int_equal(fixture_sql(dir, "UPDATE sessions SET tokens=9"), 0);
    assert_int_equal(store_open(dir, &s, &e), 0);
    assert_int_equal(store_session_open(s, "book", &alone, &e), ERR_FORMAT);
    store_close(s);
    fixture_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(around_the_cache),
        cmocka_unit_test(through_the_cache),
        cmocka_unit_test(a_failed_write_changes_nothing),
        cmocka_unit_test(the_first_damage_is_told),
        cmocka_unit_test(opening_counts_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
