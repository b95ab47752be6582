/* SPDX-License-Identifier: Apache-2.0 */
/* test_e2e_faults.c - the real program with a system that refuses: the n-th call of a kind fails, for every n
 * (or for so many of them, spread evenly with a printed seed, where there are too many).
 *
 * Every time: one clear line and exit status 1, or no matter at all; the store is whole, the other session is
 * untouched, and the next run, undisturbed, ends where it should have. LECTERN_FAULT_SCALE in percent: more
 * or fewer calls of each kind.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/support/fault_world.h"

enum { WORKERS = 2, WHY = 600, ROWS_MAX = 96, TELL_MAX = 6 };
enum where { DATA, MODEL, ANYWHERE };

struct kind {
    const char *classes, *how;
    enum where where;
    int sticky;      /* from the n-th call on, all of them */
    int transparent; /* must be no matter at all */
    unsigned cap;    /* calls tried, at most */
};

/* What can happen to any of the commands. */
static const struct kind everywhere[] = {
    {"write", "ENOSPC", DATA, 1, 0, 24},      {"write", "EIO", DATA, 0, 0, 24},
    {"write", "SHORT", DATA, 0, 1, 10},       {"write", "EINTR", DATA, 0, 1, 10},
    {"space", "ENOSPC", DATA, 1, 0, 12},      {"space", "EINTR", DATA, 0, 0, 6},
    {"sync", "EIO", DATA, 0, 0, 24},          {"sync", "EIO", DATA, 1, 0, 8},
    {"read", "EIO", DATA, 0, 0, 24},          {"read", "SHORT", DATA, 0, 1, 10},
    {"read", "EINTR", DATA, 0, 1, 10},        {"map", "ENOMEM", DATA, 0, 0, 12},
    {"open", "EMFILE", DATA, 0, 0, 16},       {"name", "EIO", DATA, 0, 0, 12},
    {"lock", "ENOLCK", DATA, 0, 0, 16},       {"close", "EIO", DATA, 0, 0, 8},
    {"stat", "EIO", DATA, 0, 0, 16},          {"memory", "ENOMEM", ANYWHERE, 0, 0, 44},
    {"memory", "ENOMEM", ANYWHERE, 1, 0, 20},
};
/* What besides can happen to those that load a model. */
static const struct kind with_model[] = {
    {"open", "EMFILE", MODEL, 0, 0, 8},
    {"map", "ENOMEM", MODEL, 0, 0, 8},
    {"read", "EIO", MODEL, 0, 0, 8},
    {"stat", "EIO", MODEL, 0, 0, 8},
    {"process", "EAGAIN", ANYWHERE, 0, 0, 12},
    {"open,stat,close", "EACCES", ANYWHERE, 0, 0, 24},
    {"read,write", "EINTR", ANYWHERE, 0, 1, 16},
    {"read,write", "SHORT", ANYWHERE, 0, 1, 16},
};
struct row {
    enum step step;
    struct kind kind;
    uint64_t calls, tried;
    atomic_uint failed, harmless;
};

struct plan {
    const struct world *w;
    struct row *rows; /* shared between the workers */
    size_t n;
    uint64_t seed;
};

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

static struct fault fault_of(const struct plan *plan, const struct row *row, const struct place *p)
{
    struct fault f = {.classes = row->kind.classes, .how = row->kind.how, .times = !row->kind.sticky};
    if (row->kind.where == DATA)
        f.under = p->data;
    if (row->kind.where == MODEL)
        f.under = plan->w->model;
    return f;
}

/* The i-th of the calls tried: all of them, or one out of each of `tried` equal parts. */
static uint64_t call_of(const struct row *row, uint64_t i, uint64_t seed)
{
    if (row->tried == row->calls)
        return i + 1;
    uint64_t first = i * row->calls / row->tried, end = (i + 1) * row->calls / row->tried;
    uint64_t state = seed + i;
    return 1 + first + fault_random(&state) % (end - first);
}

static int fail_once(const struct plan *plan, struct row *row, uint64_t at, const struct place *p)
{
    char why[WHY];
    struct run r;
    struct fault f = fault_of(plan, row, p);
    f.at = at;
    tree_copy(step_start(plan->w, row->step), p->data);
    step_run(plan->w, row->step, p, &f, -1, &r);
    int failed = run_exit(&r) != 0;
    int good = run_is_clear(&r, why, sizeof why);
    if (good && failed && row->kind.transparent) {
        good = 0;
        snprintf(why, sizeof why, "must not matter, but: %.300s", r.err);
    }
    /* Where it blamed a document it went on with the next: then their order is another one. */
    int reordered = strstr(r.err, "documents could not be added") != NULL;
    char said[160];
    snprintf(said, sizeof said, "%s", r.err);
    run_free(&r);
    good = good && world_holds(plan->w, p, why, sizeof why);
    /* A clean-up spares whom it cannot ask, and says how much is left. */
    int spared = row->step == STEP_GC && !failed && !step_is_done(plan->w, row->step, p, why, sizeof why);
    if (good && !failed && !spared && !step_is_done(plan->w, row->step, p, why, sizeof why)) {
        char was[WHY];
        good = 0;
        memcpy(was, why, sizeof was);
        snprintf(why, sizeof why, "exit 0, but %.500s", was);
    }
    if (good && reordered) {
        step_run(plan->w, row->step, p, NULL, -1, &r);
        good = run_exit(&r) == 0 && world_holds(plan->w, p, why, sizeof why);
        run_free(&r);
    } else if (good && (failed || spared))
        good = step_goes_on(plan->w, row->step, p, why, sizeof why);
    atomic_fetch_add(failed ? &row->failed : &row->harmless, 1);
    if (good)
        return 0;
    printf("%s, call %llu of %llu of %s, %s%s: %s\n", step_name(row->step), (unsigned long long)at,
           (unsigned long long)row->calls, f.classes, f.how, f.times ? "" : " from there on", why);
    if (failed)
        printf("    it had said: %s", said);
    return 1;
}

static int fail_many(void *arg, int k, int n)
{
    const struct plan *plan = arg;
    struct place p;
    int bad = 0, turn = 0, tell = getenv("LECTERN_FAULT_KEEP") ? 1 : TELL_MAX;
    place_make(plan->w, k, &p);
    for (size_t i = 0; i < plan->n; i++)
        for (uint64_t c = 0; c < plan->rows[i].tried && bad < tell; c++)
            if (turn++ % n == k)
                bad += fail_once(plan, &plan->rows[i], call_of(&plan->rows[i], c, plan->seed + 1000 * i), &p);
    place_free(&p);
    return bad;
}

static void add_rows(struct plan *plan, enum step step, const struct kind *kinds, size_t n)
{
    uint64_t scale = from_environment("LECTERN_FAULT_SCALE", 100);
    struct place p;
    place_make(plan->w, 98, &p);
    for (size_t i = 0; i < n && plan->n < ROWS_MAX; i++) {
        struct row *row = &plan->rows[plan->n];
        row->step = step;
        row->kind = kinds[i];
        struct fault f = fault_of(plan, row, &p);
        struct run r;
        tree_copy(step_start(plan->w, step), p.data);
        step_run(plan->w, step, &p, &f, -1, &r);
        if (run_exit(&r) != 0)
            fail_msg("%s, undisturbed: exit %d, %s", step_name(step), run_exit(&r), r.err);
        row->calls = r.chosen;
        run_free(&r);
        uint64_t cap = (kinds[i].cap * scale + 99) / 100;
        row->tried = row->calls < cap ? row->calls : cap;
        plan->n += row->calls > 0;
    }
    place_free(&p);
}

static void run_rows(struct plan *plan)
{
    int bad = fault_parallel(WORKERS, fail_many, plan);
    uint64_t all = 0;
    for (size_t i = 0; i < plan->n; i++) {
        const struct row *row = &plan->rows[i];
        static const char *const where[] = {"data", "model", "anywhere"};
        printf("%s: %s %s%s (%s): %llu of %llu calls, %u told, %u no matter\n", step_name(row->step),
               row->kind.classes, row->kind.how, row->kind.sticky ? " and on" : "", where[row->kind.where],
               (unsigned long long)row->tried, (unsigned long long)row->calls, row->failed, row->harmless);
        all += row->tried;
    }
    printf("%llu faults, seed %llu\n", (unsigned long long)all, (unsigned long long)plan->seed);
    assert_int_equal(bad, 0);
}

static void disturbed(void **state, enum step step)
{
    struct plan plan = {.w = *state, .seed = from_environment("LECTERN_FAULT_SEED", 20240607)};
    size_t size = ROWS_MAX * sizeof *plan.rows;
    plan.rows = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(plan.rows != MAP_FAILED);
    add_rows(&plan, step, everywhere, sizeof everywhere / sizeof everywhere[0]);
    if (step == STEP_ADD || step == STEP_ASK)
        add_rows(&plan, step, with_model, sizeof with_model / sizeof with_model[0]);
    run_rows(&plan);
    munmap(plan.rows, size);
}

static void faults_of_add(void **state)
{
    disturbed(state, STEP_ADD);
}
static void faults_of_ask(void **state)
{
    disturbed(state, STEP_ASK);
}
static void faults_of_delete(void **state)
{
    disturbed(state, STEP_DELETE);
}
static void faults_of_gc(void **state)
{
    disturbed(state, STEP_GC);
}
static void faults_of_strip(void **state)
{
    disturbed(state, STEP_STRIP);
}
static void faults_of_export(void **state)
{
    disturbed(state, STEP_EXPORT);
}
static void faults_of_import(void **state)
{
    disturbed(state, STEP_IMPORT);
}
static void faults_of_verify(void **state)
{
    disturbed(state, STEP_VERIFY);
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
        cmocka_unit_test(faults_of_add),    cmocka_unit_test(faults_of_ask),
        cmocka_unit_test(faults_of_delete), cmocka_unit_test(faults_of_gc),
        cmocka_unit_test(faults_of_strip),  cmocka_unit_test(faults_of_export),
        cmocka_unit_test(faults_of_import), cmocka_unit_test(faults_of_verify),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
