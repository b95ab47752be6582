/* SPDX-License-Identifier: Apache-2.0 */
/* test_fault_store.c - random bit flips, cuts and overwritten runs over the files of a data folder: segments,
 * checkpoints in them, the database, its log. Each is detected (an error that says so, or a miss that is read
 * again) or harmless; none crashes, none changes what a person sees or what is answered.
 *
 * A damaged log may lose its tail: then an earlier state is seen, whole. LECTERN_FAULT_SEED and
 * LECTERN_FAULT_SCALE (percent) choose others, or more.
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

#include "data/store/store.h"
#include "tests/support/fault_book.h"
#include "tests/support/fault_run.h"
#include "tests/support/temp.h"

enum { WORKERS = 2, TELL_MAX = 4 };

struct tally {
    atomic_uint refused;  /* an error */
    atomic_uint found;    /* answered right, and verify names the damage */
    atomic_uint earlier;  /* an earlier state */
    atomic_uint harmless; /* nobody sees a difference */
};

struct plan {
    const struct book *b;
    const char *from; /* data folder */
    const char *file; /* in it */
    uint64_t first, end;
    int may_be_earlier;
    unsigned times;
    uint64_t seed;
    struct tally *tally; /* shared */
};

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

/* What a damaged folder shows: 0 = as it was, 1 = an earlier state, 2 = a named error, -1 = wrong. */
static int seen(const struct plan *plan, const char *data, uint64_t problems, char *why, size_t size)
{
    struct look look;
    struct err e = {0};
    int rc = book_look(data, &look, &e);
    if (rc && !err_is_named(&e)) {
        snprintf(why, size, "an error without a name: %d, %s", e.code, e.text);
        return -1;
    }
    if (rc)
        return 2;
    if (look_is_equal(&look, &plan->b->look))
        return 0;
    /* A turn that is gone is verify's to find; a document that is gone would change the answer. */
    if (problems && look.documents == plan->b->look.documents && look_is_prefix(&look, &plan->b->look))
        return 0;
    if (plan->may_be_earlier && look_is_prefix(&look, &plan->b->look))
        return 1;
    snprintf(why, size, "other rows are seen: %zu documents, %zu turns", look.documents, look.turns);
    return -1;
}

/* The same for the answer to a question; an earlier state may answer from fewer documents. */
static int answered(const struct plan *plan, const struct engine *g, const char *data, int state, char *why,
                    size_t size)
{
    struct err e = {0};
    char *answer;
    int rc = book_answer(g, data, &answer, &e), result = 2;
    if (rc && !err_is_named(&e)) {
        snprintf(why, size, "an error without a name: %d, %s", e.code, e.text);
        result = -1;
    } else if (!rc && strcmp(answer, plan->b->answer) != 0 && state != 1) {
        snprintf(why, size, "another answer: %.200s", answer);
        result = -1;
    } else if (!rc) {
        result = state;
    }
    free(answer);
    return result;
}

static int damage_once(const struct plan *plan, const struct engine *g, const char *data, uint64_t *random)
{
    char what[200], why[700] = "";
    uint64_t problems = 0;
    struct err e = {0};
    tree_copy(plan->from, data);
    char *path = temp_path(data, plan->file);
    file_damage(path, plan->first, plan->end, random, what, sizeof what);
    free(path);
    int unread = book_verify(data, &problems, &e);
    int state = seen(plan, data, problems, why, sizeof why);
    int answer = state < 0 ? -1 : answered(plan, g, data, state, why, sizeof why);
    if (unread && !err_is_named(&e)) {
        state = -1;
        snprintf(why, sizeof why, "verify: an error without a name: %d, %s", e.code, e.text);
    }
    if (state < 0 || answer < 0) {
        printf("%s, %s: %s (verify: %llu problems%s)\n", plan->file, what, why, (unsigned long long)problems,
               unread ? ", stopped" : "");
        return 1;
    }
    if (state == 2 || answer == 2)
        atomic_fetch_add(&plan->tally->refused, 1);
    else if (problems || unread)
        atomic_fetch_add(&plan->tally->found, 1);
    else if (state == 1)
        atomic_fetch_add(&plan->tally->earlier, 1);
    else
        atomic_fetch_add(&plan->tally->harmless, 1);
    return 0;
}

static int damage_many(void *arg, int k, int n)
{
    const struct plan *plan = arg;
    struct engine *g;
    struct err e;
    char name[16];
    int bad = 0;
    uint64_t random = plan->seed + 1000003 * (uint64_t)k;
    if (book_engine(plan->b, plan->b->model, plan->b->heads, &g, &e))
        return 1;
    snprintf(name, sizeof name, "worker%d", k);
    char *data = temp_path(plan->b->root, name);
    for (unsigned i = (unsigned)k; i < plan->times && bad < TELL_MAX; i += (unsigned)n)
        bad += damage_once(plan, g, data, &random);
    tree_remove(data);
    free(data);
    engine_close(g);
    return bad;
}

static void damaged(struct plan *plan, const char *name)
{
    plan->seed = from_environment("LECTERN_FAULT_SEED", 20240607);
    plan->times = (unsigned)(plan->times * from_environment("LECTERN_FAULT_SCALE", 100) / 100);
    plan->tally = mmap(NULL, sizeof *plan->tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(plan->tally != MAP_FAILED);
    int bad = fault_parallel(WORKERS, damage_many, plan);
    printf("%s: %u times damaged: %u refused, %u found and read again, %u an earlier state, %u harmless; "
           "seed %llu\n",
           name, plan->times, plan->tally->refused, plan->tally->found, plan->tally->earlier,
           plan->tally->harmless, (unsigned long long)plan->seed);
    munmap(plan->tally, sizeof *plan->tally);
    assert_int_equal(bad, 0);
}

static void undamaged(void **state)
{
    const struct book *b = *state;
    char *data = temp_path(b->root, "undamaged"), *answer;
    struct engine *g;
    struct err e = {0};
    uint64_t problems = 1;
    struct look look;
    tree_copy(b->running, data);
    assert_int_equal(book_engine(b, b->model, b->heads, &g, &e), 0);
    assert_int_equal(book_look(data, &look, &e), 0);
    assert_true(look_is_equal(&look, &b->look));
    assert_int_equal(look.documents, BOOK_DOCUMENTS);
    assert_int_equal(look.turns, 1);
    assert_int_equal(book_verify(data, &problems, &e), 0);
    assert_int_equal(problems, 0);
    assert_int_equal(book_answer(g, data, &answer, &e), 0);
    assert_string_equal(answer, b->answer);
    free(answer);
    engine_close(g);
    free(data);
}

static void damaged_segments(void **state)
{
    struct plan plan = {.b = *state, .file = "segments/000001.seg", .times = 160};
    plan.from = plan.b->whole;
    damaged(&plan, "segment");
}

static void damaged_database(void **state)
{
    struct plan plan = {.b = *state, .file = "lectern.db", .times = 320};
    plan.from = plan.b->whole;
    damaged(&plan, "database");
}

/* Most of the log is text and tokens: its frames' headers alone get their share too. */
static void damaged_log(void **state)
{
    struct plan plan = {.b = *state, .file = "lectern.db-wal", .times = 140, .may_be_earlier = 1};
    plan.from = plan.b->running;
    damaged(&plan, "log");
    plan.end = 32 + 24 + 4096;
    plan.times = 50;
    damaged(&plan, "log's first frame");
}

static void damaged_database_beside_its_log(void **state)
{
    struct plan plan = {.b = *state, .file = "lectern.db", .times = 40, .may_be_earlier = 1};
    plan.from = plan.b->running;
    damaged(&plan, "database beside its log");
    plan.file = "lectern.db-shm";
    plan.times = 40;
    plan.may_be_earlier = 0;
    damaged(&plan, "the log's index");
}

static int setup(void **state)
{
    return !(*state = book_make());
}

static int teardown(void **state)
{
    book_free(*state);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(undamaged),
        cmocka_unit_test(damaged_segments),
        cmocka_unit_test(damaged_database),
        cmocka_unit_test(damaged_log),
        cmocka_unit_test(damaged_database_beside_its_log),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
