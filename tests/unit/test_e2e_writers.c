/* SPDX-License-Identifier: Apache-2.0 */
/* test_e2e_writers.c - several processes on one data folder: readers go on, a second writer of a session is
 * told who has it, writers of different sessions take turns, and a holder that died holds nothing.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/store/store.h"
#include "tests/support/fault_world.h"

enum { WHY = 600 };

enum held { HELD_SESSION, HELD_DATABASE };

/* Another process that holds x's lock, or has a transaction open, until it is killed or the pipe is closed;
 * then it gives it back. */
struct holder {
    pid_t pid;
    int go; /* write end: closing it ends the holder in order */
};

static void hold(const char *data, enum held held, int ready, int go)
{
    struct store *s;
    struct store_session row;
    struct store_lock *lock = NULL;
    struct err e;
    char byte = 0;
    if (store_open(data, &s, &e) || store_session_get(s, "x", &row, &e))
        _exit(10);
    if (held == HELD_SESSION ? store_session_lock(s, row.id, &lock, &e) : store_begin(s, &e))
        _exit(11);
    if (held == HELD_DATABASE && store_session_touch(s, row.id, &e))
        _exit(12);
    if (write(ready, &byte, 1) != 1 || read(go, &byte, 1) != 0)
        _exit(13);
    if (held == HELD_DATABASE && store_end(s, 0, &e))
        _exit(14);
    store_session_unlock(lock);
    store_session_free(&row);
    store_close(s);
    _exit(0);
}

static struct holder start_holder(const char *data, enum held held)
{
    int ready[2], go[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(go), 0);
    struct holder h = {.pid = fork(), .go = go[1]};
    assert_true(h.pid >= 0);
    if (!h.pid) {
        close(ready[0]);
        close(go[1]);
        hold(data, held, ready[1], go[0]);
    }
    close(ready[1]);
    close(go[0]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    return h;
}

static void end_holder(struct holder *h, int by_force)
{
    int status;
    if (by_force)
        assert_int_equal(kill(h->pid, SIGKILL), 0);
    close(h->go);
    assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
    if (by_force)
        assert_true(WIFSIGNALED(status));
    else
        assert_int_equal(status, 0);
}

static void must_run(const struct place *p, const char *const *argv)
{
    struct run r;
    fault_run(argv, NULL, p->scratch, -1, &r);
    if (run_exit(&r) != 0)
        fail_msg("%s %s: exit %d, %s", argv[1], argv[2], run_exit(&r), r.err);
    run_free(&r);
}

static void readers_go_on(const struct world *w, const struct place *p)
{
    const char *const list[] = {"lectern", "sessions", "list", "--json", "--data-dir", p->data, NULL};
    const char *const show[] = {"lectern", "sessions", "show", "x", "--data-dir", p->data, NULL};
    const char *const stats[] = {"lectern", "store", "stats", "--data-dir", p->data, NULL};
    const char *const verify[] = {"lectern", "store", "verify", "--data-dir", p->data, NULL};
    char why[WHY];
    must_run(p, list);
    must_run(p, show);
    must_run(p, stats);
    must_run(p, verify);
    if (!world_holds(w, p, why, sizeof why))
        fail_msg("%s", why);
}

/* Says who: exit 1, one line with the number of the process. */
static void is_told_who(const struct world *w, enum step step, const struct place *p, pid_t who)
{
    struct run r;
    char pid[32], why[WHY];
    snprintf(pid, sizeof pid, "process %ld", (long)who);
    step_run(w, step, p, NULL, -1, &r);
    if (run_exit(&r) != 1 || !run_is_clear(&r, why, sizeof why) || !strstr(r.err, pid))
        fail_msg("%s while %s has it: exit %d, %s", step_name(step), pid, run_exit(&r), r.err);
    run_free(&r);
}

static void a_second_writer_is_told_who(void **state)
{
    const struct world *w = *state;
    struct place p;
    char why[WHY];
    place_make(w, 0, &p);
    static const enum step steps[] = {STEP_ASK, STEP_ADD, STEP_DELETE, STEP_STRIP};
    tree_copy(w->read, p.data);
    struct holder h = start_holder(p.data, HELD_SESSION);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        is_told_who(w, steps[i], &p, h.pid);
    readers_go_on(w, &p);
    end_holder(&h, 0);
    if (!step_goes_on(w, STEP_ASK, &p, why, sizeof why))
        fail_msg("%s", why);
    place_free(&p);
}

/* gc may run beside it and leaves the held session's reading alone. */
static void a_clean_up_spares_what_is_open(void **state)
{
    const struct world *w = *state;
    struct place p;
    struct run r;
    char why[WHY];
    place_make(w, 0, &p);
    tree_copy(w->read, p.data);
    struct holder h = start_holder(p.data, HELD_SESSION);
    step_run(w, STEP_GC, &p, NULL, -1, &r);
    assert_int_equal(run_exit(&r), 0);
    run_free(&r);
    if (!step_is_done(w, STEP_VERIFY, &p, why, sizeof why)) /* x is whole */
        fail_msg("%s", why);
    end_holder(&h, 1);
    if (!step_goes_on(w, STEP_GC, &p, why, sizeof why))
        fail_msg("%s", why);
    place_free(&p);
}

static void a_dead_holder_holds_nothing(void **state)
{
    const struct world *w = *state;
    struct place p;
    char why[WHY];
    place_make(w, 0, &p);
    static const enum held kinds[] = {HELD_SESSION, HELD_DATABASE};
    static const enum step steps[] = {STEP_ASK, STEP_STRIP, STEP_DELETE};
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
            tree_copy(w->read, p.data);
            struct holder h = start_holder(p.data, kinds[k]);
            end_holder(&h, 1);
            if (!step_goes_on(w, steps[i], &p, why, sizeof why))
                fail_msg("%s: %s", step_name(steps[i]), why);
        }
    place_free(&p);
}

/* Somebody's transaction is open: readers see the state before it, a writer waits for its end. */
static void a_writer_waits_for_a_transaction(void **state)
{
    const struct world *w = *state;
    struct place p;
    char why[WHY];
    place_make(w, 0, &p);
    tree_copy(w->read, p.data);
    struct holder h = start_holder(p.data, HELD_DATABASE);
    readers_go_on(w, &p);
    pid_t helper = fork();
    assert_true(helper >= 0);
    if (!helper) { /* the holder ends while the command waits */
        usleep(300000);
        close(h.go);
        _exit(0);
    }
    close(h.go);
    int good = step_goes_on(w, STEP_STRIP, &p, why, sizeof why), status;
    assert_int_equal(waitpid(helper, &status, 0), helper);
    assert_int_equal(waitpid(h.pid, &status, 0), h.pid);
    assert_int_equal(status, 0);
    if (!good)
        fail_msg("%s", why);
    place_free(&p);
}

struct pair {
    const struct world *w;
    const char *data;
};

/* Each of four processes makes a session of its own from the same texts; then everybody has the same blocks.
 */
static int add_beside(void *arg, int k, int n)
{
    const struct pair *pair = arg;
    const struct world *w = pair->w;
    char name[16];
    struct place p;
    struct run r;
    (void)n;
    place_make(w, k + 1, &p);
    snprintf(name, sizeof name, "beside%d", k);
    const char *const argv[] = {"lectern",
                                "add",
                                w->documents[0],
                                w->documents[1],
                                w->documents[2],
                                "-s",
                                name,
                                "--model",
                                w->model,
                                "--heads",
                                w->heads,
                                "--sparsity",
                                "0.5",
                                "--threads",
                                "1",
                                "--quiet",
                                "--data-dir",
                                pair->data,
                                NULL};
    fault_run(argv, NULL, p.scratch, -1, &r);
    int bad = run_exit(&r) != 0;
    if (bad)
        printf("%s: exit %d, %s\n", name, run_exit(&r), r.err);
    run_free(&r);
    place_free(&p);
    return bad;
}

static void writers_of_several_sessions(void **state)
{
    const struct world *w = *state;
    struct place p;
    struct store *s;
    struct err e;
    char why[WHY];
    place_make(w, 0, &p);
    tree_copy(w->plain, p.data);
    struct pair pair = {w, p.data};
    assert_int_equal(fault_parallel(4, add_beside, &pair), 0);
    if (!world_holds(w, &p, why, sizeof why))
        fail_msg("%s", why);
    assert_int_equal(store_open(p.data, &s, &e), 0);
    for (int k = 0; k < 4; k++) {
        struct store_session row;
        uint8_t digest[16];
        snprintf(why, sizeof why, "beside%d", k);
        assert_int_equal(store_session_get(s, why, &row, &e), 0);
        assert_int_equal(store_session_digest(s, row.id, digest, &e), 0);
        assert_memory_equal(digest, w->x, 16);
        store_session_free(&row);
    }
    store_close(s);
    place_free(&p);
}

static int setup(void **state)
{
    return !(*state = world_make());
}

static int teardown(void **state)
{
    world_free(*state);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_writer_is_told_who), cmocka_unit_test(a_clean_up_spares_what_is_open),
        cmocka_unit_test(a_dead_holder_holds_nothing), cmocka_unit_test(a_writer_waits_for_a_transaction),
        cmocka_unit_test(writers_of_several_sessions),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
