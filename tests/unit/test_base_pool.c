/* SPDX-License-Identifier: Apache-2.0 */
/* test_base_pool.c - every task runs exactly once, on any number of threads, after rests long enough to
 * sleep. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <time.h>

#include "engine/base/pool.h"

enum { TASKS = 97, ROUNDS = 600 };

struct tally {
    int runs[TASKS];
    int threads;
    int bad_thread;
};

static void count(void *arg, int index, int thread)
{
    struct tally *t = arg;
    t->runs[index]++; /* one task, one writer: a second one would be a race and a wrong count */
    if (thread < 0 || thread >= t->threads)
        t->bad_thread = 1;
}

static void test_each_task_once(void **state)
{
    (void)state;
    struct err e = {0};
    for (int threads = 1; threads <= 5; threads++) {
        struct pool *p;
        assert_int_equal(pool_create(&p, threads, &e), 0);
        assert_int_equal(pool_threads(p), threads);
        for (int round = 0; round < ROUNDS; round++) {
            struct tally t = {.threads = threads};
            int tasks = round % (TASKS + 1);
            pool_run(p, tasks, count, &t);
            for (int i = 0; i < TASKS; i++)
                assert_int_equal(t.runs[i], i < tasks);
            assert_int_equal(t.bad_thread, 0);
            if (round % 200 == 0)
                nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        }
        pool_free(p);
    }
    struct tally alone = {.threads = 1};
    pool_run(NULL, TASKS, count, &alone);
    for (int i = 0; i < TASKS; i++)
        assert_int_equal(alone.runs[i], 1);
}

static void test_limits(void **state)
{
    (void)state;
    struct err e = {0};
    struct pool *p = (struct pool *)(uintptr_t)1;
    assert_int_equal(pool_create(&p, -1, &e), ERR_USAGE);
    assert_null(p);
    assert_int_equal(pool_create(&p, 100000, &e), ERR_USAGE);
    assert_int_equal(pool_create(&p, 0, &e), 0);
    assert_true(pool_threads(p) >= 1);
    pool_free(p);
    pool_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_task_once),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests_name("base_pool", tests, NULL, NULL);
}
