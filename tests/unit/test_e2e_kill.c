/* SPDX-License-Identifier: Apache-2.0 */
/* test_e2e_kill.c - the real program, killed at any moment: the store opens, verify finds nothing, the other
 * session is untouched, and the same command goes on to what an undisturbed run makes, bit for bit.
 *
 * Half of the kills come after a random time, half at a random call that changes a file (before it, or in the
 * middle of a write). LECTERN_FAULT_SEED chooses other moments; LECTERN_FAULT_SCALE more or fewer of them.
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

#include "tests/support/fault_world.h"

enum { WORKERS = 2, WHY = 600 };

static const char changes[] = "write,sync,space,name,open,close,lock,map";

struct plan {
    const struct world *w;
    enum step step;
    int kills;
    uint64_t seed;
    double seconds; /* an undisturbed run takes */
    uint64_t calls; /* of the classes above that it makes */
};

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

/* One kill; the data folder is new, or what the kill before left (every third goes on from there). */
static int kill_once(const struct plan *plan, const struct place *p, int i, uint64_t *random, int *killed)
{
    char why[WHY];
    struct run r;
    struct fault f = {.classes = changes, .how = i % 4 == 1 ? "TORN" : "KILL", .times = 1, .under = p->data};
    double after = -1;
    if (i % 2)
        f.at = 1 + fault_random(random) % plan->calls;
    else
        after = plan->seconds * (double)(fault_random(random) % 1000) / 1000;
    step_run(plan->w, plan->step, p, i % 2 ? &f : NULL, after, &r);
    *killed = WIFSIGNALED(r.status) && WTERMSIG(r.status) == SIGKILL;
    int good = *killed || run_exit(&r) == 0 || step_may_refuse(plan->step);
    if (!good)
        snprintf(why, sizeof why, "exit %d, %.300s", run_exit(&r), r.err);
    run_free(&r);
    good = good && world_holds(plan->w, p, why, sizeof why);
    if (good && i % 3 != 2) {
        good = step_goes_on(plan->w, plan->step, p, why, sizeof why);
        if (good)
            tree_copy(step_start(plan->w, plan->step), p->data);
    }
    if (good)
        return 0;
    if (i % 2)
        printf("%s, %s at call %llu of %llu: %s\n", step_name(plan->step), f.how, (unsigned long long)f.at,
               (unsigned long long)plan->calls, why);
    else
        printf("%s, killed after %.4f of %.4f s: %s\n", step_name(plan->step), after, plan->seconds, why);
    return 1;
}

static int kill_many(void *arg, int k, int n)
{
    const struct plan *plan = arg;
    struct place p;
    uint64_t random = plan->seed * 1000 + (uint64_t)k + 17 * (uint64_t)plan->step;
    int bad = 0, all = 0;
    place_make(plan->w, k, &p);
    tree_copy(step_start(plan->w, plan->step), p.data);
    for (int i = k; i < plan->kills && !bad; i += n) {
        int killed;
        bad += kill_once(plan, &p, i, &random, &killed);
        all += killed;
    }
    char why[WHY];
    if (!bad && !step_goes_on(plan->w, plan->step, &p, why, sizeof why))
        bad = 1, printf("%s, at last: %s\n", step_name(plan->step), why);
    place_free(&p);
    printf("%s: worker %d, %d of %d killed before their end\n", step_name(plan->step), k, all,
           (plan->kills - k + n - 1) / n);
    return bad || !all;
}

static void killed(const struct world *w, enum step step, int kills)
{
    struct plan plan = {.w = w, .step = step};
    plan.seed = from_environment("LECTERN_FAULT_SEED", 20240607);
    plan.kills = (int)((uint64_t)kills * from_environment("LECTERN_FAULT_SCALE", 100) / 100);
    struct place p;
    char why[WHY];
    place_make(w, 98, &p);
    for (int counted = 0; counted < 2; counted++) { /* once for the time, once for the calls */
        struct fault f = {.classes = changes, .under = p.data};
        struct run r;
        tree_copy(step_start(w, step), p.data);
        step_run(w, step, &p, counted ? &f : NULL, -1, &r);
        if (run_exit(&r) != 0 || !step_is_done(w, step, &p, why, sizeof why))
            fail_msg("%s, undisturbed: exit %d, %s %s", step_name(step), run_exit(&r), r.err, why);
        if (counted)
            plan.calls = r.chosen;
        else
            plan.seconds = r.seconds;
        run_free(&r);
    }
    place_free(&p);
    assert_true(plan.calls > 0);
    printf("%s: %d kills over %.3f s and %llu calls, seed %llu\n", step_name(step), plan.kills, plan.seconds,
           (unsigned long long)plan.calls, (unsigned long long)plan.seed);
    assert_int_equal(fault_parallel(WORKERS, kill_many, &plan), 0);
}

static void killed_while_adding(void **state)
{
    killed(*state, STEP_ADD, 100);
}
static void killed_while_asking(void **state)
{
    killed(*state, STEP_ASK, 60);
}
static void killed_while_deleting(void **state)
{
    killed(*state, STEP_DELETE, 60);
}
static void killed_while_collecting(void **state)
{
    killed(*state, STEP_GC, 60);
}
static void killed_while_stripping(void **state)
{
    killed(*state, STEP_STRIP, 20);
}
static void killed_while_exporting(void **state)
{
    killed(*state, STEP_EXPORT, 20);
}
static void killed_while_importing(void **state)
{
    killed(*state, STEP_IMPORT, 60);
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

/* An argument picks cases by name, with * for any letters. */
int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_while_adding),    cmocka_unit_test(killed_while_asking),
        cmocka_unit_test(killed_while_deleting),  cmocka_unit_test(killed_while_collecting),
        cmocka_unit_test(killed_while_stripping), cmocka_unit_test(killed_while_exporting),
        cmocka_unit_test(killed_while_importing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
