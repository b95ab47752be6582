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
#include <stdio.h>
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

/* ---- killed while it makes room, deletes, strips, puts batches ----------------------------------------- */

enum { CARE_ROUNDS = 40, GROUP = 8 };

/* Batch b has spans 8b ... 8b+7, all sessions have their own. */
static int put_group(struct store *s, int64_t id, unsigned b, struct err *e)
{
    struct span_put puts[GROUP];
    struct iovec parts[GROUP];
    uint8_t keys[GROUP][16];
    unsigned meta[GROUP];
    int rc = store_begin(s, e);
    if (rc)
        return rc;
    for (unsigned k = 0; !rc && k < GROUP; k++) {
        meta[k] = b * GROUP + k;
        fixture_key(meta[k], keys[k]);
        rc = store_session_ref(s, id, 1, keys[k], e);
    }
    rc = store_end(s, rc, e);
    memset(parts, 0, sizeof parts);
    for (unsigned k = 0; !rc && k < GROUP; k++) {
        size_t n = fixture_size(meta[k]);
        uint8_t *bytes = malloc(n + 1);
        if (!bytes)
            rc = err_memory(e, "test bytes");
        else
            fixture_bytes(meta[k], bytes);
        parts[k] = (struct iovec){bytes, n};
        puts[k] = (struct span_put){.kind = 1,
                                    .key = keys[k],
                                    .meta = &meta[k],
                                    .meta_size = sizeof meta[k],
                                    .parts = &parts[k],
                                    .n = 1,
                                    .position = k + 1};
    }
    if (!rc)
        rc = store_spans_put(s, puts, GROUP, e);
    for (unsigned k = 0; k < GROUP; k++)
        free(parts[k].iov_base);
    return rc;
}

/* Sessions come and go for ever; numbers follow from the round, so that no key comes twice. */
static void care_for_ever(const char *dir, unsigned round)
{
    struct store *s;
    struct err e = {0};
    if (store_open(dir, &s, &e))
        _exit(10);
    s->segment_limit = ROLL;
    s->segment_reserve = ROLL / 2;
    s->segment_direct = ROLL / 8; /* both ways of writing */
    for (unsigned k = 0; k < 1000; k++) {
        char name[40];
        int64_t id;
        const struct store_budget b = {.bytes = 12 << 20};
        snprintf(name, sizeof name, "s %u %u", round, k);
        struct store_turn t = {.question = name, .answer = name};
        int rc = store_session_create(s, name, NULL, &id, &e);
        if (!rc)
            rc = store_turn_add(s, id, &t, NULL, &e);
        for (unsigned g = 0; !rc && g < 3; g++)
            rc = put_group(s, id, 10000 + 3000 * round + 3 * k + g, &e);
        if (!rc && k % 3 == 0)
            rc = store_session_strip(s, id, NULL, &e);
        if (!rc && k % 3 == 1)
            rc = store_session_delete(s, id, &e);
        if (!rc)
            rc = store_gc(s, &b, NULL, NULL, NULL, &e);
        if (rc)
            _exit(11);
    }
    _exit(0);
}

static void tell(void *arg, const char *line)
{
    (void)arg;
    print_message("%s\n", line);
}

static void killed_while_it_cares(void **state)
{
    const char *dir = *state;
    unsigned random = 99;
    for (unsigned round = 0; round < CARE_ROUNDS; round++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (!pid)
            care_for_ever(dir, round);
        random = random * 1664525u + 1013904223u;
        usleep(3000 + (random >> 8) % 150000);
        assert_int_equal(kill(pid, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        struct store *s;
        struct err e = {0};
        if (store_open(dir, &s, &e))
            fail_msg("open: %s", e.text);
        struct store_verify_result seen;
        const struct store_verify_options o = {.problem = tell};
        assert_int_equal(store_verify(s, &o, &seen, &e), 0);
        assert_int_equal(seen.problems, 0);
        struct all all = {.s = s};
        assert_int_equal(store_span_list(s, -1, check_one, &all, &e), 0);
        assert_int_equal(all.bad, 0);
        if (round % 10 == 9) { /* what nobody has any more comes back whole */
            struct store_gc_result r;
            const struct store_budget nothing = {.bytes = 0};
            struct store_stats stats;
            assert_int_equal(store_gc(s, &nothing, NULL, NULL, &r, &e), 0);
            assert_int_equal(r.bytes_after, 0);
            assert_int_equal(store_stats(s, &stats, &e), 0);
            assert_int_equal(stats.segment_files, 0);
            assert_int_equal(stats.segment_disk_bytes, 0);
        }
        store_close(s);
    }
}

/* A batch is killed at its 1st, 2nd, ... moment: all of it is there, or nothing. */
static void a_killed_batch_is_all_or_none(void **state)
{
    const char *dir = *state;
    struct store *s;
    struct err e = {0};
    int64_t id;
    unsigned whole = 0, none = 0;
    assert_int_equal(store_open(dir, &s, &e), 0);
    assert_int_equal(store_session_create(s, "a", NULL, &id, &e), 0);
    assert_int_equal(put_group(s, id, 0, &e), 0);
    store_close(s);
    for (unsigned round = 1; round <= 40; round++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (!pid) {
            if (store_open(dir, &s, &e) || put_group(s, id, round, &e))
                _exit(1);
            _exit(0);
        }
        usleep(1500 * round);
        (void)kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_int_equal(store_open(dir, &s, &e), 0);
        unsigned there = 0;
        for (unsigned k = 0; k < GROUP; k++) {
            int rc = fixture_check(s, round * GROUP + k, &e);
            assert_true(rc == 0 || rc == ERR_NOT_FOUND);
            there += !rc;
        }
        assert_true(there == 0 || there == GROUP);
        whole += there == GROUP;
        none += there == 0;
        store_close(s);
    }
    print_message("%u whole, %u not there\n", whole, none);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(killed_at_any_moment),  CASE(two_processes_write_at_once),   CASE(a_full_disk_loses_nothing),
        CASE(killed_while_it_cares), CASE(a_killed_batch_is_all_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
