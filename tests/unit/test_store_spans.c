/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_spans.c - spans on a good day: round trips, reopening, segments, space given back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
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

/* ---- batches and room ---------------------------------------------------------------------------------- */

enum { BATCH_MAX = 64 };

/* Spans first ... first+n-1 of the fixture as one batch; `spoil` (< n) gets a wrong argument. */
static int put_batch(struct world *w, unsigned first, unsigned n, unsigned spoil)
{
    struct span_put puts[BATCH_MAX];
    struct iovec parts[BATCH_MAX][2];
    static uint8_t keys[BATCH_MAX][16];
    unsigned meta[BATCH_MAX];
    assert_true(n <= BATCH_MAX);
    for (unsigned k = 0; k < n; k++) {
        size_t size = fixture_size(first + k), cut = size / 3;
        uint8_t *bytes = malloc(size + 1);
        assert_non_null(bytes);
        fixture_bytes(first + k, bytes);
        fixture_key(first + k, keys[k]);
        meta[k] = first + k;
        parts[k][0] = (struct iovec){bytes, cut};
        parts[k][1] = (struct iovec){bytes + cut, size - cut};
        puts[k] = (struct span_put){.kind = 1,
                                    .key = keys[k],
                                    .meta = &meta[k],
                                    .meta_size = sizeof meta[k],
                                    .parts = parts[k],
                                    .n = 2,
                                    .position = 10 * (first + k),
                                    .seconds = k == spoil ? (double)NAN : 0.25};
    }
    int rc = store_spans_put(w->s, puts, n, &w->e);
    for (unsigned k = 0; k < n; k++)
        free(parts[k][0].iov_base);
    return rc;
}

static void a_batch_is_many_puts(void **state)
{
    struct world *w = *state;
    assert_int_equal(store_spans_put(w->s, NULL, 0, &w->e), 0);
    assert_int_equal(fixture_put(w->s, 14, &w->e), 0); /* one of them is there already */
    assert_int_equal(put_batch(w, 0, 36, 99), 0);
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < 36; i++) {
            uint8_t key[16];
            struct span_info info;
            fixture_key(i, key);
            assert_int_equal(fixture_check(w->s, i, &w->e), 0);
            assert_int_equal(store_span_find(w->s, 1, key, &info, &w->e), 0);
            assert_int_equal(info.position, i == 14 ? 0 : 10 * i);
            assert_true(info.seconds == (i == 14 ? 0 : 0.25));
        }
        reopen(w);
    }
    /* One file, one run: the payloads lie behind each other. */
    int64_t n, wrong;
    assert_int_equal(sql_number(w->s, &n, "SELECT count(DISTINCT segment) FROM spans", SQL_NO_ARGS, &w->e),
                     0);
    assert_int_equal(n, 1);
    assert_int_equal(
        sql_number(w->s, &wrong,
                   "SELECT count(*) FROM spans a JOIN spans b ON b.id=a.id+1 WHERE a.id>1 AND a.size>0"
                   " AND b.size>0 AND b.offset<>(a.offset+a.size+4095)/4096*4096",
                   SQL_NO_ARGS, &w->e),
        0);
    assert_int_equal(wrong, 0);
    struct store_stats stats;
    assert_int_equal(put_batch(w, 0, 36, 99), 0); /* all there: nothing is written */
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 36);
}

static void a_key_twice_in_a_batch_counts_once(void **state)
{
    struct world *w = *state;
    uint8_t a[16], b[16];
    fixture_key(1, a);
    fixture_key(2, b);
    static uint8_t bytes[9000];
    const struct iovec part = {bytes, sizeof bytes};
    const struct span_put puts[] = {{.kind = 1, .key = a, .parts = &part, .n = 1},
                                    {.kind = 1, .key = a, .parts = &part, .n = 1},
                                    {.kind = 1, .key = b, .parts = &part, .n = 1},
                                    {.kind = 2, .key = a, .parts = &part, .n = 1}};
    assert_int_equal(store_spans_put(w->s, puts, 4, &w->e), 0);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 3);
    struct span_map m;
    assert_int_equal(store_span_map(w->s, 1, b, &m, &w->e), 0);
    assert_int_equal(m.size, sizeof bytes);
    store_span_unmap(w->s, &m);
}

static void a_batch_is_all_or_none(void **state)
{
    struct world *w = *state;
    assert_int_equal(fixture_put(w->s, 50, &w->e), 0);
    assert_int_equal(put_batch(w, 0, 12, 7), ERR_USAGE); /* seen before anything is written */
    assert_int_equal(fixture_sql(w->dir, "CREATE TRIGGER no BEFORE INSERT ON spans WHEN NEW.position=80"
                                         " BEGIN SELECT RAISE(ABORT, 'no'); END"),
                     0);
    assert_int_not_equal(put_batch(w, 0, 12, 99), 0); /* seen when rows are written already */
    for (unsigned i = 0; i < 12; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), ERR_NOT_FOUND);
    assert_int_equal(fixture_check(w->s, 50, &w->e), 0);
    assert_int_equal(fixture_sql(w->dir, "DROP TRIGGER no"), 0);
    assert_int_equal(put_batch(w, 0, 12, 99), 0);
    for (unsigned i = 0; i < 12; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), 0);
    uint64_t payload = fixture_size(50);
    for (unsigned i = 0; i < 12; i++)
        payload += fixture_size(i) + 4096;
    store_close(w->s);
    w->s = NULL;
    assert_true(disk_bytes(w->dir, 1) <= payload + 3 * 4096); /* what failed takes no room */
}

static void a_large_batch_goes_the_other_way(void **state)
{
    struct world *w = *state;
    for (unsigned first = 0; first < 192; first += BATCH_MAX) /* about 20 MB each */
        assert_int_equal(put_batch(w, 100 + first, BATCH_MAX, 99), 0);
    assert_int_equal(fixture_put(w->s, 9, &w->e), 0); /* and a small one behind it */
    reopen(w);
    for (unsigned i = 100; i < 292; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), 0);
    assert_int_equal(fixture_check(w->s, 9, &w->e), 0);
}

/* Pieces of the file on the disk, or 0 when the file system does not tell. */
static unsigned extents_of(const char *dir, int segment)
{
    struct {
        struct fiemap map;
        struct fiemap_extent room[1];
    } ask = {.map = {.fm_length = ~0ull, .fm_flags = FIEMAP_FLAG_SYNC}}; /* only counts */
    char *path = fixture_segment(dir, segment);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    unsigned n = ioctl(fd, FS_IOC_FIEMAP, &ask.map) ? 0 : ask.map.fm_mapped_extents;
    close(fd);
    free(path);
    return n;
}

static void small_spans_do_not_fragment(void **state)
{
    struct world *w = *state;
    enum { N = 200 };
    struct store *other; /* two writers take turns, as two documents that are read at once */
    assert_int_equal(store_open(w->dir, &other, &w->e), 0);
    for (unsigned i = 0; i < N; i++) {
        static uint8_t bytes[5000];
        uint8_t key[16];
        const struct iovec part = {bytes, sizeof bytes};
        fixture_key(i, key);
        const struct span_put put = {.kind = 1, .key = key, .parts = &part, .n = 1};
        assert_int_equal(store_span_put(i % 2 ? other : w->s, &put, &w->e), 0);
    }
    assert_true(disk_bytes(w->dir, 1) > SEGMENT_RESERVE / 2); /* room is reserved ... */
    store_close(other);
    store_close(w->s);
    w->s = NULL;
    for (int segment = 1; segment <= 2; segment++) {
        assert_true(disk_bytes(w->dir, segment) <= (N / 2 + 2) * 8192); /* ... and given back */
        assert_true(extents_of(w->dir, segment) <= 8);                  /* of 100 appends */
    }
}

static void a_killed_writers_reserve_comes_back(void **state)
{
    struct world *w = *state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        struct store *s;
        if (store_open(w->dir, &s, &w->e) || fixture_put(s, 5, &w->e))
            _exit(1);
        _exit(0); /* closes nothing */
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(disk_bytes(w->dir, 1) > SEGMENT_RESERVE / 2);
    int64_t id;
    uint8_t key[16];
    fixture_key(5, key);
    assert_int_equal(store_session_create(w->s, "a", NULL, &id, &w->e), 0);
    assert_int_equal(store_session_ref(w->s, id, 1, key, &w->e), 0);
    assert_int_equal(store_collect(w->s, &w->e), 0);
    assert_true(disk_bytes(w->dir, 1) < 1 << 20);
    assert_int_equal(fixture_check(w->s, 5, &w->e), 0);
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
        CASE(a_batch_is_many_puts),
        CASE(a_key_twice_in_a_batch_counts_once),
        CASE(a_batch_is_all_or_none),
        CASE(a_large_batch_goes_the_other_way),
        CASE(small_spans_do_not_fragment),
        CASE(a_killed_writers_reserve_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
