/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_spans.c - spans on a good day: round trips, reopening, segments, space given back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/store/store_internal.h"
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
    return store_open(w->dir, &w->s, &w->e);
}

static int teardown(void **state)
{
    struct world *w = *state;
    store_close(w->s);
    fixture_dir_remove(w->dir);
    free(w);
    return 0;
}

static void reopen(struct world *w)
{
    store_close(w->s);
    assert_int_equal(store_open(w->dir, &w->s, &w->e), 0);
}

static uint64_t disk_bytes(const char *dir, int segment)
{
    char *path = fixture_segment(dir, segment);
    struct stat st;
    uint64_t n = stat(path, &st) ? 0 : (uint64_t)st.st_blocks * 512;
    free(path);
    return n;
}

static void modes_are_private(void **state)
{
    struct world *w = *state;
    static const char *const names[] = {"lectern.db", "lectern.db-wal", "segments/000001.seg"};
    assert_int_equal(fixture_put(w->s, 1, &w->e), 0);
    struct stat st;
    for (size_t i = 0; i < 3; i++) {
        char *path = path_join(w->dir, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        free(path);
    }
    char *path = path_join(w->dir, "segments");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    free(path);
}

static void round_trips(void **state)
{
    struct world *w = *state;
    for (unsigned i = 0; i < 24; i++)
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
    for (unsigned i = 0; i < 24; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), 0);
    reopen(w);
    for (unsigned i = 24; i-- > 0;)
        assert_int_equal(fixture_check(w->s, i, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 24, &w->e), ERR_NOT_FOUND);
}

static void info_is_kept(void **state)
{
    struct world *w = *state;
    uint8_t key[16] = {1}, parent[16] = {2}, meta[STORE_META_MAX];
    memset(meta, 0xa5, sizeof meta);
    struct span_put put = {.kind = 3, .key = key, .parent = parent, .meta = meta, .meta_size = sizeof meta};
    assert_int_equal(store_span_put(w->s, &put, &w->e), 0);
    struct span_info info;
    assert_int_equal(store_span_find(w->s, 3, key, &info, &w->e), 0);
    assert_true(info.has_parent);
    assert_memory_equal(info.parent, parent, 16);
    assert_int_equal(info.meta_size, sizeof meta);
    assert_memory_equal(info.meta, meta, sizeof meta);
    assert_int_equal(info.size, 0);
    struct span_map m;
    assert_int_equal(store_span_map(w->s, 3, key, &m, &w->e), 0);
    assert_null(m.data);
    assert_int_equal(m.size, 0);
    store_span_unmap(w->s, &m);
    assert_int_equal(store_span_find(w->s, 4, key, NULL, &w->e), ERR_NOT_FOUND);
    put.kind = 4; /* the kind belongs to the key */
    put.parent = NULL;
    put.meta_size = 0;
    assert_int_equal(store_span_put(w->s, &put, &w->e), 0);
    assert_int_equal(store_span_find(w->s, 4, key, &info, &w->e), 0);
    assert_false(info.has_parent);
    assert_int_equal(info.meta_size, 0);
}

static void wrong_arguments(void **state)
{
    struct world *w = *state;
    uint8_t key[16] = {1}, meta[STORE_META_MAX + 1] = {0};
    struct span_put put = {.kind = -1, .key = key};
    assert_int_equal(store_span_put(w->s, &put, &w->e), ERR_USAGE);
    put = (struct span_put){.kind = 1};
    assert_int_equal(store_span_put(w->s, &put, &w->e), ERR_USAGE);
    put = (struct span_put){.kind = 1, .key = key, .meta = meta, .meta_size = sizeof meta};
    assert_int_equal(store_span_put(w->s, &put, &w->e), ERR_LIMIT);
    const struct iovec huge[] = {{meta, SIZE_MAX / 2}, {meta, SIZE_MAX / 2 + 9}};
    put = (struct span_put){.kind = 1, .key = key, .parts = huge, .n = 2};
    assert_int_equal(store_span_put(w->s, &put, &w->e), ERR_LIMIT);
}

static void put_twice_writes_once(void **state)
{
    struct world *w = *state;
    assert_int_equal(fixture_put(w->s, 9, &w->e), 0);
    char *path = fixture_segment(w->dir, 1);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(fixture_put(w->s, 9, &w->e), 0);
    reopen(w);
    assert_int_equal(fixture_put(w->s, 9, &w->e), 0);
    assert_int_equal(stat(path, &after), 0);
    free(path);
    assert_int_equal(before.st_size, after.st_size);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 1);
    assert_int_equal(stats.span_bytes, fixture_size(9));
    assert_int_equal(stats.segment_files, 1);
    assert_true(stats.free_bytes > 0 && stats.db_bytes > 0);
}

static void segments_roll_over(void **state)
{
    struct world *w = *state;
    w->s->segment_limit = 2 << 20;
    for (unsigned i = 0; i < 36; i++)
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_true(stats.segment_files > 3);
    reopen(w);
    for (unsigned i = 0; i < 36; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), 0);
}

static void a_new_handle_goes_on_in_the_same_file(void **state)
{
    struct world *w = *state;
    for (unsigned i = 0; i < 12; i++) {
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
        reopen(w);
    }
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.segment_files, 1);
    for (unsigned i = 0; i < 12; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), 0);
}

/* It takes no room, so it may stand behind the file's end: once that was told as "cut short". */
static void an_empty_span_at_the_end(void **state)
{
    struct world *w = *state;
    assert_int_equal(fixture_size(0), 0);
    assert_int_equal(fixture_put(w->s, 1, &w->e), 0);
    assert_int_equal(fixture_put(w->s, 0, &w->e), 0);
    reopen(w);
    assert_int_equal(fixture_check(w->s, 0, &w->e), 0);
    assert_int_equal(fixture_put(w->s, 2, &w->e), 0);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.segment_files, 1);
    uint8_t key[16];
    for (unsigned i = 1; i < 3; i++) {
        fixture_key(i, key);
        assert_int_equal(store_span_drop(w->s, 1, key, &w->e), 0);
    }
    reopen(w);
    assert_int_equal(fixture_check(w->s, 0, &w->e), 0);
    fixture_key(0, key);
    assert_int_equal(store_span_drop(w->s, 1, key, &w->e), 0);
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.segment_files, 0);
}

static void two_handles_do_not_share_a_file(void **state)
{
    struct world *w = *state;
    struct store *other;
    assert_int_equal(store_open(w->dir, &other, &w->e), 0);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(fixture_put(i % 2 ? other : w->s, i, &w->e), 0);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.segment_files, 2);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(fixture_check(i % 3 ? other : w->s, i, &w->e), 0);
    store_close(other);
}

static void drop_gives_space_back(void **state)
{
    struct world *w = *state;
    uint8_t key[16];
    for (unsigned i = 9; i < 12; i++)
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
    uint64_t full = disk_bytes(w->dir, 1);
    fixture_key(10, key);
    assert_int_equal(store_span_drop(w->s, 1, key, &w->e), 0);
    assert_int_equal(store_span_drop(w->s, 1, key, &w->e), ERR_NOT_FOUND);
    assert_true(disk_bytes(w->dir, 1) + 900000 < full);
    assert_int_equal(fixture_check(w->s, 9, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 11, &w->e), 0);
    fixture_key(11, key); /* the tail is cut */
    assert_int_equal(store_span_drop(w->s, 1, key, &w->e), 0);
    assert_true(disk_bytes(w->dir, 1) < 800000);
    assert_int_equal(fixture_put(w->s, 11, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 11, &w->e), 0);
    for (unsigned i = 9; i < 12; i += 2) {
        fixture_key(i, key);
        assert_int_equal(store_span_drop(w->s, 1, key, &w->e), 0);
    }
    char *path = fixture_segment(w->dir, 1);
    assert_int_not_equal(access(path, F_OK), 0);
    free(path);
    assert_int_equal(fixture_put(w->s, 9, &w->e), 0); /* and a new file is begun */
    assert_int_equal(fixture_check(w->s, 9, &w->e), 0);
}

/* Same bytes to the reader although another handle drops the span, collects and writes on. */
static void a_mapped_span_keeps_its_bytes(void **state)
{
    struct world *w = *state;
    struct store *other;
    uint8_t key[16];
    for (unsigned i = 9; i < 12; i++)
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
    reopen(w); /* nobody appends: the others could take the file */
    assert_int_equal(store_open(w->dir, &other, &w->e), 0);
    for (unsigned i = 11; i > 9; i--) { /* the tail, then a hole */
        struct span_map m, again;
        fixture_key(i, key);
        assert_int_equal(store_span_map(w->s, 1, key, &m, &w->e), 0);
        assert_int_equal(store_span_map(w->s, 1, key, &again, &w->e), 0);
        uint8_t *copy = malloc(m.size);
        memcpy(copy, m.data, m.size);
        store_span_unmap(w->s, &again); /* the first one still protects */
        assert_int_equal(store_span_drop(other, 1, key, &w->e), 0);
        assert_int_equal(fixture_put(other, 20 + i, &w->e), 0);
        assert_memory_equal(copy, m.data, m.size);
        store_span_unmap(w->s, &m);
        free(copy);
        assert_int_equal(fixture_check(w->s, i, &w->e), ERR_NOT_FOUND);
    }
    assert_int_equal(fixture_check(w->s, 9, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 30, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 31, &w->e), 0);
    store_close(other);
}

static void collect_takes_what_nobody_needs(void **state)
{
    struct world *w = *state;
    int64_t id;
    uint8_t key[16];
    for (unsigned i = 9; i < 12; i++)
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
    assert_int_equal(store_session_create(w->s, "a", NULL, &id, &w->e), 0);
    fixture_key(11, key);
    assert_int_equal(store_session_ref(w->s, id, 1, key, &w->e), 0);
    char *orphan = fixture_segment(w->dir, 77);
    assert_int_equal(file_write(orphan, "rest", 4, &w->e), 0);
    assert_int_equal(store_collect(w->s, &w->e), 0);
    assert_int_not_equal(access(orphan, F_OK), 0);
    free(orphan);
    assert_int_equal(fixture_check(w->s, 9, &w->e), ERR_NOT_FOUND);
    assert_int_equal(fixture_check(w->s, 11, &w->e), 0);
    assert_true(disk_bytes(w->dir, 1) < 1400000);
}

struct seen {
    struct store *s;
    unsigned n, stop_at;
    int bad;
};

static int visit(void *arg, const struct span_info *info)
{
    struct seen *seen = arg;
    unsigned i;
    struct err e;
    memcpy(&i, info->meta, sizeof i);
    seen->bad |=
        info->meta_size != sizeof i || info->size != fixture_size(i) || fixture_check(seen->s, i, &e);
    return ++seen->n == seen->stop_at ? 42 : 0;
}

static void list_visits_all(void **state)
{
    struct world *w = *state;
    for (unsigned i = 0; i < 12; i++)
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
    struct seen seen = {.s = w->s};
    assert_int_equal(store_span_list(w->s, -1, visit, &seen, &w->e), 0);
    assert_int_equal(seen.n, 12);
    assert_false(seen.bad);
    assert_int_equal(store_span_list(w->s, 2, visit, &seen, &w->e), 0);
    assert_int_equal(seen.n, 12);
    seen = (struct seen){.s = w->s, .stop_at = 3};
    assert_int_equal(store_span_list(w->s, 1, visit, &seen, &w->e), 42);
    assert_int_equal(seen.n, 3);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(modes_are_private),
        CASE(round_trips),
        CASE(info_is_kept),
        CASE(wrong_arguments),
        CASE(put_twice_writes_once),
        CASE(segments_roll_over),
        CASE(a_new_handle_goes_on_in_the_same_file),
        CASE(an_empty_span_at_the_end),
        CASE(two_handles_do_not_share_a_file),
        CASE(drop_gives_space_back),
        CASE(a_mapped_span_keeps_its_bytes),
        CASE(collect_takes_what_nobody_needs),
        CASE(list_visits_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
