/* SPDX-License-Identifier: Apache-2.0 */
/* test_app_bench.c - the store's benchmark: what a shape costs, its scratch folder, the disk's own passes,
 * and a small made-up session written, opened, read back, damaged and deleted. No speed is asserted. */
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

#include "app/bench_report.h"
#include "app/bench_scratch.h"
#include "engine/base/file.h"
#include "kernels/kernels.h"
#include "tests/support/store_fixture.h"

/* 16 pages x 2 heads x (4,608 + 80) bytes a block. */
static const struct bench_shape small = {.L = 2, .HK = 2, .HR = 2, .D = 64, .S = 64, .R = 64, .format = KV_4};

static int exists(const char *folder, const char *inside)
{
    char *path = path_join(folder, inside);
    assert_non_null(path);
    int yes = access(path, F_OK) == 0;
    free(path);
    return yes;
}

static void test_shapes(void **state)
{
    (void)state;
    assert_int_equal(bench_block_bytes(&bench_llama_8b), 16 * 128 * (8960 + 144));
    assert_int_equal(bench_interval(&bench_llama_8b), 16384);
    assert_int_equal(bench_block_bytes(&small), 16 * 2 * (4608 + 80));
    size_t n;
    const int *formats = kv_formats(&n);
    for (size_t i = 0; i < n; i++) {
        struct bench_shape s = bench_llama_8b;
        s.format = formats[i];
        size_t interval = bench_interval(&s);
        assert_true(interval >= 4096 && interval % 1024 == 0);
        assert_true(10 * bench_checkpoint_bytes(&s) <= interval / 1024 * bench_block_bytes(&s));
    }
    struct bench_shape odd = small;
    odd.D = 7;
    assert_int_equal(bench_block_bytes(&odd), 0);
    /* 9 blocks a checkpoint */
    assert_int_equal(bench_interval(&small), 9 * 1024);
    assert_int_equal(bench_session_bytes(&small, 1), bench_block_bytes(&small));
    assert_int_equal(bench_session_bytes(&small, 9 * 1024),
                     9 * bench_block_bytes(&small) + bench_checkpoint_bytes(&small));
}

static void test_scratch(void **state)
{
    (void)state;
    struct err e = {0};
    char *dir = fixture_dir_make();
    assert_non_null(dir);
    char *data = path_join(dir, "new/data");
    char *outside = path_join(dir, "outside"), *stale = path_join(dir, "new/data/bench-AAAAAA");
    char *link = path_join(dir, "new/data/bench-AAAAAA/link"),
         *other = path_join(dir, "new/data/bench-notours");
    assert_true(data && outside && stale && link && other);
    assert_int_equal(dir_make(outside, &e), 0);
    char *kept = path_join(outside, "kept");
    assert_int_equal(file_write(kept, "x", 1, &e), 0);
    assert_int_equal(dir_make(stale, &e), 0);
    assert_int_equal(symlink(outside, link), 0);
    assert_int_equal(dir_make(other, &e), 0);

    struct bench_scratch a, b;
    assert_int_equal(bench_scratch_make(&a, data, &e), 0);
    assert_false(exists(data, "bench-AAAAAA")); /* what a dead one left */
    assert_true(exists(data, "bench-notours"));
    assert_true(exists(outside, "kept")); /* a link is not followed */
    assert_int_equal(bench_scratch_make(&b, data, &e), 0);
    assert_int_equal(access(a.path, F_OK), 0); /* a living one is left alone */
    assert_string_not_equal(a.path, b.path);
    char *deep = path_join(a.path, "x/y");
    assert_int_equal(dir_make(deep, &e), 0);
    char *gone = strdup(a.path);
    assert_int_equal(bench_scratch_remove(&a, &e), 0);
    assert_int_not_equal(access(gone, F_OK), 0);
    assert_int_equal(bench_scratch_remove(&a, &e), 0); /* twice is legal */
    assert_int_equal(bench_scratch_remove(&b, &e), 0);
    free(gone);
    free(deep);
    free(kept);
    free(other);
    free(link);
    free(stale);
    free(outside);
    free(data);
    fixture_dir_remove(dir);
}

static void test_disk(void **state)
{
    (void)state;
    struct err e = {0};
    char *dir = fixture_dir_make();
    void *data = NULL;
    assert_int_equal(posix_memalign(&data, 4096, 8192), 0);
    memset(data, 1, 8192);
    struct cancel cancel = {0};
    struct bench_disk d = {
        .folder = dir, .bytes = 5 * 8192, .request = 8192, .data = data, .cancel = &cancel};
    for (int i = 0; i < DISK_ROUNDS + 2; i++) /* more than are kept */
        assert_int_equal(bench_disk_round(&d, &e), 0);
    assert_int_equal(d.rounds[DISK_WRITE_CACHED], DISK_ROUNDS);
    assert_true(bench_disk_write(&d) > 0 && bench_disk_read(&d) > 0);
    assert_true(bench_disk_write(&d) >= bench_disk_speed(&d, DISK_WRITE_CACHED));
    assert_false(exists(dir, "disk.bin"));
    atomic_store(&cancel.requested, 1);
    assert_int_equal(bench_disk_round(&d, &e), ERR_CANCELLED);
    assert_false(exists(dir, "disk.bin"));
    free(data);
    fixture_dir_remove(dir);
}

static void test_median(void **state)
{
    (void)state;
    double odd[] = {3, 1, 2}, even[] = {4, 1, 3, 2};
    assert_true(bench_median(odd, 3) == 2);
    assert_true(bench_median(even, 4) == 2.5);
    assert_true(bench_median(NULL, 0) == 0);
}

static void flip(const char *dir, off_t at)
{
    char *path = fixture_segment(dir, 1);
    int fd = open(path, O_RDWR);
    char byte;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    free(path);
}

static void test_session(void **state)
{
    (void)state;
    struct err e = {0};
    char *dir = fixture_dir_make();
    struct cancel cancel = {0};
    struct bench_store b = {.shape = small, .folder = dir, .cancel = &cancel};
    struct bench_stage stage = {0};
    assert_int_equal(bench_store_begin(&b, &e), 0);
    assert_int_equal(bench_store_write(&b, 10000, &stage, &e),
                     0); /* 10 blocks: a checkpoint behind the 9th */
    assert_int_equal(stage.tokens, 10240);
    assert_int_equal(stage.written, 10240);
    assert_int_equal(stage.write.bytes, bench_session_bytes(&small, 10240));
    assert_int_equal(bench_store_write(&b, 20 * 1024, &stage, &e), 0);
    assert_int_equal(stage.written, 10240);
    assert_int_equal(bench_store_open(&b, &stage, &e), 0);
    assert_int_equal(stage.rows, 20 + 2);
    assert_true(stage.index_bytes > 0 && stage.disk_bytes >= bench_session_bytes(&small, 20 * 1024));
    assert_int_equal(bench_store_read(&b, &stage, &e), 0);
    assert_int_equal(stage.checked.bytes, bench_session_bytes(&small, 20 * 1024));
    assert_int_equal(stage.unchecked.bytes, stage.checked.bytes);

    flip(dir, 4096 + 100);
    assert_int_equal(bench_store_read(&b, &stage, &e), ERR_FORMAT);
    atomic_store(&cancel.requested, 1);
    assert_int_equal(bench_store_write(&b, 30 * 1024, &stage, &e), ERR_CANCELLED);
    atomic_store(&cancel.requested, 0);
    double seconds = 0;
    uint64_t left = 1;
    assert_int_equal(bench_store_delete(&b, &seconds, &left, &e), 0);
    assert_int_equal(left, 0);
    bench_store_end(&b);
    fixture_dir_remove(dir);
}

static void test_report(void **state)
{
    (void)state;
    struct bench_result *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->shape = bench_llama_8b;
    r->wanted = 3300000;
    r->tokens = 102400;
    r->free_bytes = (uint64_t)4e9;
    r->n_stages = 1;
    r->disk.rounds[DISK_WRITE_CACHED] = r->disk.rounds[DISK_READ_CACHED] = 1;
    r->disk.speed[DISK_WRITE_CACHED][0] = 1e9;
    r->disk.speed[DISK_READ_CACHED][0] = 2e9;
    struct bench_stage *s = &r->stages[0];
    s->tokens = s->written = 102400;
    s->write = (struct bench_pass){.bytes = 1800000000, .seconds = 2, .cpu = 0.9};
    s->checked = (struct bench_pass){.bytes = 1800000000, .seconds = 1, .cpu = 0.9};
    s->rows = 106;
    struct buf text = {0};
    bench_report_text(r, &text);
    assert_false(text.failed);
    assert_non_null(
        strstr(text.data, "3,300,000 tokens do not fit in the 4.0 GB that are free: scaled to 102,400"));
    assert_non_null(strstr(text.data, "no O_DIRECT here, 1.00 GB/s"));
    assert_non_null(strstr(text.data, "0.90 (90 %)"));
    assert_non_null(strstr(text.data, "1.80 (90 %)"));
    assert_non_null(strstr(text.data, "51,200\n")); /* tokens a second */
    buf_free(&text);
    json_t *json = bench_report_json(r), *stages = json_object_get(json, "stages");
    assert_int_equal(json_array_size(stages), 1);
    json_t *write = json_object_get(json_array_get(stages, 0), "write");
    assert_true(json_real_value(json_object_get(write, "of_disk")) == 0.9);
    json_decref(json);
    free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_scratch), cmocka_unit_test(test_disk),
        cmocka_unit_test(test_median), cmocka_unit_test(test_session), cmocka_unit_test(test_report),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
