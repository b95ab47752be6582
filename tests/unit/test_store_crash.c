/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_crash.c - processes that are killed, disks that are full, writers at the same time.
 *
 * A killed process stands for a crash of the program; that what was synced survives a loss of power is the
 * commit order's promise and the disk's.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/store/store_internal.h"
#include "tests/support/store_fixture.h"

enum { ROUNDS = 40, ROLL = 4 << 20 };

static int setup(void **state)
{
    *state = fixture_dir_make();
    return *state == NULL;
}

static int teardown(void **state)
{
    fixture_dir_remove(*state);
    return 0;
}

/* Puts first, first+step, ... ; announces each finished put with its number down the pipe. */
static void put_for_ever(const char *dir, unsigned first, unsigned step, unsigned count, int pipe_fd)
{
    struct store *s;
    struct err e;
    if (store_open(dir, &s, &e))
        _exit(10);
    s->segment_limit = ROLL;
    for (unsigned k = 0; k < count; k++) {
        unsigned i = first + k * step;
        if (fixture_put(s, i, &e))
            _exit(11);
        if (write(pipe_fd, &i, sizeof i) != (ssize_t)sizeof i)
            _exit(12);
        if (k % 5 == 4) { /* holes, unlinked segments and reuse are part of the crash */
            uint8_t key[STORE_KEY_BYTES];
            fixture_key(i - step, key);
            (void)store_span_drop(s, 1, key, &e);
        }
    }
    store_close(s);
    _exit(0);
}

struct all {
    struct store *s;
    unsigned n;
    int bad;
};

static int check_one(void *arg, const struct span_info *info)
{
    struct all *all = arg;
    unsigned i;
    struct err e;
    memcpy(&i, info->meta, sizeof i);
    if (info->meta_size != sizeof i || fixture_check(all->s, i, &e))
        all->bad++, print_message("span %u: %s\n", i, e.text);
    all->n++;
    return 0;
}

/* Every row's span is right; the files hold no orphans after a collect and writing goes on. */
static void check_all(const char *dir, unsigned next, unsigned *count)
{
    struct store *s;
    struct err e = {0};
    if (store_open(dir, &s, &e))
        fail_msg("open: %s", e.text);
    struct all all = {.s = s};
    assert_int_equal(store_span_list(s, -1, check_one, &all, &e), 0);
    assert_int_equal(all.bad, 0);
    *count = all.n;
    s->segment_limit = ROLL;
    if (fixture_put(s, next, &e))
        fail_msg("put after the crash: %s", e.text);
    assert_int_equal(fixture_check(s, next, &e), 0);
    store_close(s);
}

static void killed_at_any_moment(void **state)
{
    const char *dir = *state;
    unsigned done_total = 0, random = 12345;
    for (unsigned round = 0; round < ROUNDS; round++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (!pid)
            put_for_ever(dir, 1000 * round, 1, 1000, ends[1]);
        close(ends[1]);
        random = random * 1664525u + 1013904223u;
        usleep(2000 + random % 60000);
        assert_int_equal(kill(pid, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        /* What was announced is there, unless it is one that the child dropped again. */
        struct store *s;
        struct err e;
        assert_int_equal(store_open(dir, &s, &e), 0);
        unsigned i, done = 0;
        for (; read(ends[0], &i, sizeof i) == (ssize_t)sizeof i; done++)
            if (i % 5 != 3)
                assert_int_equal(fixture_check(s, i, &e), 0);
        store_close(s);
        close(ends[0]);
        done_total += done;
        unsigned count;
        check_all(dir, 500000 + round, &count);
    }
    assert_true(done_total > 0); /* the kills were not all too early to mean anything */
    struct store *s;
    struct err e;
    assert_int_equal(store_open(dir, &s, &e), 0);
    struct store_stats stats;
    assert_int_equal(store_collect(s, &e), 0); /* no session references anything */
    assert_int_equal(store_stats(s, &stats, &e), 0);
    assert_int_equal(stats.spans, 0);
    assert_int_equal(stats.segment_files, 0);
    store_close(s);
}

static void two_processes_write_at_once(void **state)
{
    const char *dir = *state;
    enum { WRITERS = 3, EACH = 40 };
    pid_t pids[WRITERS];
    int sink = open("/dev/null", O_WRONLY);
    assert_true(sink >= 0);
    for (unsigned p = 0; p < WRITERS; p++) {
        pids[p] = fork();
        assert_true(pids[p] >= 0);
        /* Writer 2 puts what writer 1 puts. They begin with the making of the database. */
        if (!pids[p])
            put_for_ever(dir, p == 2 ? 1 : p, 2, EACH, sink);
    }
    for (unsigned p = 0; p < WRITERS; p++) {
        int status;
        assert_int_equal(waitpid(pids[p], &status, 0), pids[p]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    close(sink);
    unsigned count;
    check_all(dir, 999, &count);
    assert_true(count >= 2 * EACH * 4 / 5);
}

/* The limit on a file's size stands for a full disk: EFBIG comes from the same calls as ENOSPC. */
static void a_full_disk_loses_nothing(void **state)
{
    const char *dir = *state;
    signal(SIGXFSZ, SIG_IGN);
    struct store *s;
    struct err e = {0};
    assert_int_equal(store_open(dir, &s, &e), 0);
    struct rlimit old, tight;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight = old;
    tight.rlim_cur = 3 << 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    unsigned fit = 0;
    int rc = 0;
    while (fit < 100 && !(rc = fixture_put(s, fit, &e)))
        fit++;
    assert_int_equal(rc, ERR_IO);
    assert_non_null(strstr(e.text, "free disk space"));
    assert_true(fit > 5 && fit < 100);
    char *path = fixture_segment(dir, 1);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    uint64_t after = (uint64_t)st.st_size;
    free(path);
    assert_int_equal(fixture_put(s, fit, &e), ERR_IO); /* again and again */
    for (unsigned i = 0; i < fit; i++)
        assert_int_equal(fixture_check(s, i, &e), 0);
    assert_int_equal(fixture_check(s, fit, &e), ERR_NOT_FOUND);
    assert_true(after <= 3 << 20);
    tight.rlim_cur = 8192; /* now the database cannot grow either */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    int64_t id;
    rc = store_session_create(s, "full", NULL, &id, &e);
    assert_int_equal(rc, ERR_IO);
    assert_non_null(strstr(e.text, "free disk space"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(fixture_put(s, fit, &e), 0);
    assert_int_equal(store_session_create(s, "full", NULL, &id, &e), 0);
    store_close(s);
    assert_int_equal(store_open(dir, &s, &e), 0);
    for (unsigned i = 0; i <= fit; i++)
        assert_int_equal(fixture_check(s, i, &e), 0);
    store_close(s);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(killed_at_any_moment),
        CASE(two_processes_write_at_once),
        CASE(a_full_disk_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
