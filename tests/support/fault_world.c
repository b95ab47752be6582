/* SPDX-License-Identifier: Apache-2.0 */
/* fault_world.c - see fault_world.h. */
#include "tests/support/fault_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/store/store.h"
#include "engine/session.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

static const char *const step_names[STEPS] = {"add",   "ask",    "delete", "gc",
                                              "strip", "export", "import", "verify"};
static const char question[] = "Who kept the log?";

const char *step_name(enum step step)
{
    return step_names[step];
}

const char *step_start(const struct world *w, enum step step)
{
    return step == STEP_ADD || step == STEP_IMPORT ? w->plain : w->read;
}

void step_command(const struct world *w, enum step step, const struct place *p, const char *argv[WORLD_ARGS])
{
    int n = 0;
#define ARG(x) argv[n++] = (x)
    ARG("lectern");
    switch (step) {
    case STEP_ADD:
        ARG("add"), ARG(w->documents[0]), ARG(w->documents[1]), ARG(w->documents[2]);
        break;
    case STEP_ASK:
        ARG("ask"), ARG("--json"), ARG("--max-tokens"), ARG("3"), ARG(question);
        break;
    case STEP_DELETE:
        ARG("sessions"), ARG("delete"), ARG("--yes"), ARG("x");
        break;
    case STEP_GC:
        ARG("store"), ARG("gc"), ARG("--budget"), ARG("1K");
        break;
    case STEP_STRIP:
        ARG("store"), ARG("strip"), ARG("x");
        break;
    case STEP_EXPORT:
        ARG("store"), ARG("export"), ARG("x"), ARG(p->file);
        break;
    case STEP_IMPORT:
        ARG("store"), ARG("import"), ARG(w->exported);
        break;
    default:
        ARG("store"), ARG("verify");
        break;
    }
    if (step == STEP_ADD || step == STEP_ASK) {
        ARG("-s"), ARG("x"), ARG("--model"), ARG(w->model), ARG("--heads"), ARG(w->heads);
        ARG("--sparsity"), ARG("0.5"), ARG("--threads"), ARG("1");
    }
    ARG("--data-dir"), ARG(p->data), ARG("--quiet"), ARG(NULL);
#undef ARG
}

void step_run(const struct world *w, enum step step, const struct place *p, const struct fault *f,
              double kill_after, struct run *r)
{
    const char *argv[WORLD_ARGS];
    step_command(w, step, p, argv);
    fault_run(argv, f, p->scratch, kill_after, r);
}

void place_make(const struct world *w, int worker, struct place *p)
{
    char name[32];
    snprintf(name, sizeof name, "data%d", worker);
    p->data = temp_path(w->root, name);
    snprintf(name, sizeof name, "scratch%d", worker);
    p->scratch = temp_path(w->root, name);
    snprintf(name, sizeof name, "x%d.lectern", worker);
    p->file = temp_path(w->root, name);
    tree_remove(p->scratch); /* of a case that failed */
    if (mkdir(p->scratch, 0700))
        abort();
}

void place_free(struct place *p)
{
    if (!getenv("LECTERN_FAULT_KEEP")) {
        tree_remove(p->data);
        tree_remove(p->scratch);
        unlink(p->file);
    }
    free(p->data);
    free(p->scratch);
    free(p->file);
}

/* ---- what is left -----------------------------------------------------------------------------------------
 */

struct lines {
    char *text;
    size_t size;
};

static void first_problem(void *arg, const char *line)
{
    struct lines *l = arg;
    if (!l->text[0])
        snprintf(l->text, l->size, "verify: %s", line);
}

/* ERR_NOT_FOUND when there is no such session. */
static int digest_of(struct store *s, const char *name, uint8_t out[16], struct store_session *row,
                     struct err *e)
{
    int rc = store_session_get(s, name, row, e);
    return rc ? rc : store_session_digest(s, row->id, out, e);
}

static int keep_is_kept(const struct world *w, struct store *s, char *why, size_t size)
{
    struct store_session row = {0};
    struct err e = {0};
    uint8_t digest[16];
    int rc = digest_of(s, "keep", digest, &row, &e);
    if (rc)
        snprintf(why, size, "keep: %s", e.text);
    else if (memcmp(digest, w->keep, 16) != 0)
        rc = 1, snprintf(why, size, "keep is not what it was");
    store_session_free(&row);
    return !rc;
}

int world_holds(const struct world *w, const struct place *p, char *why, size_t size)
{
    struct store *s;
    struct err e = {0};
    why[0] = '\0';
    if (store_open(p->data, &s, &e)) {
        snprintf(why, size, "the store does not open: %s", e.text);
        return 0;
    }
    struct lines lines = {why, size};
    struct store_verify_options o = {.problem = first_problem, .arg = &lines};
    struct store_verify_result found = {0};
    int good = 1;
    if (store_verify(s, &o, &found, &e))
        good = 0, snprintf(why, size, "verify stopped: %s", e.text);
    else if (found.problems)
        good = 0;
    good = good && keep_is_kept(w, s, why, size);
    store_close(s);
    return good;
}

/* ---- what a finished step leaves --------------------------------------------------------------------------
 */

struct key_list {
    uint8_t (*keys)[16];
    size_t n;
};

static void key_add(struct key_list *list, const uint8_t key[16])
{
    if (!(list->keys = realloc(list->keys, (list->n + 1) * sizeof *list->keys)))
        abort();
    memcpy(list->keys[list->n++], key, 16);
}

static int list_span(void *arg, const struct span_info *info, const uint8_t digest[16])
{
    (void)digest;
    key_add(arg, info->key);
    return 0;
}

struct extra {
    const struct world *w;
    struct key_list list;
};

static int list_extra(void *arg, const struct span_info *info, const uint8_t digest[16])
{
    struct extra *x = arg;
    (void)digest;
    for (size_t i = 0; i < x->w->n_spans; i++)
        if (!memcmp(x->w->spans[i], info->key, 16))
            return 0;
    if (info->kind == KV_KIND_CHECKPOINT)
        key_add(&x->list, info->key);
    return 0;
}

/* A run that was stopped may leave a checkpoint that an undisturbed one would have dropped as it went on; it
 * costs disk space and nothing else. Without these x must be what it should be. */
static int drop_extra(const struct world *w, struct store *s, int64_t id, struct err *e)
{
    struct extra x = {.w = w};
    int rc = store_session_spans(s, id, list_extra, &x, e);
    for (size_t i = 0; !rc && i < x.list.n; i++)
        rc = store_span_drop(s, KV_KIND_CHECKPOINT, x.list.keys[i], e);
    free(x.list.keys);
    return rc;
}

static int x_is_whole(const struct world *w, struct store *s, char *why, size_t size)
{
    struct store_session row = {0};
    struct err e = {0};
    uint8_t digest[16];
    int rc = store_session_get(s, "x", &row, &e);
    if (!rc)
        rc = drop_extra(w, s, row.id, &e);
    if (!rc)
        rc = store_session_digest(s, row.id, digest, &e);
    if (rc)
        snprintf(why, size, "x: %s", e.text);
    else if (memcmp(digest, w->x, 16) != 0)
        rc = 1, snprintf(why, size, "x is not what an undisturbed run makes");
    store_session_free(&row);
    return !rc;
}

static int x_answered(const struct world *w, struct store *s, char *why, size_t size)
{
    struct store_session row = {0};
    struct store_turn_list turns = {0};
    struct err e = {0};
    int rc = store_session_get(s, "x", &row, &e);
    if (!rc)
        rc = store_turn_list(s, row.id, &turns, &e);
    if (rc)
        snprintf(why, size, "x: %s", e.text);
    else if (!turns.n)
        rc = 1, snprintf(why, size, "the turn is not there");
    for (size_t i = 0; !rc && i < turns.n; i++)
        if (strcmp(turns.items[i].question, question) != 0 ||
            (w->answer && strcmp(turns.items[i].answer, w->answer) != 0))
            rc = 1, snprintf(why, size, "turn %zu is another one: %.100s", i, turns.items[i].answer);
    store_turn_list_free(&turns);
    store_session_free(&row);
    return !rc;
}

static int x_is_gone(const struct world *w, struct store *s, char *why, size_t size)
{
    struct store_session row = {0};
    struct store_stats stats;
    struct err e = {0};
    int rc = store_session_get(s, "x", &row, &e);
    store_session_free(&row);
    if (rc != ERR_NOT_FOUND) {
        snprintf(why, size, "x is still there");
        return 0;
    }
    if (store_stats(s, &stats, &e) || stats.spans != w->plain_spans) {
        snprintf(why, size, "%llu spans instead of %llu", (unsigned long long)stats.spans,
                 (unsigned long long)w->plain_spans);
        return 0;
    }
    return 1;
}

/* After gc and strip: x has its documents and turns, and no span. */
static int x_has_no_kv(const struct world *w, struct store *s, char *why, size_t size)
{
    struct store_session row = {0};
    struct store_stats stats;
    struct err e = {0};
    int rc = store_session_get(s, "x", &row, &e);
    if (!rc)
        rc = store_stats(s, &stats, &e);
    if (rc)
        snprintf(why, size, "x: %s", e.text);
    else if (row.documents != WORLD_DOCUMENTS || row.turns != 0)
        rc = 1, snprintf(why, size, "x has %llu documents and %llu turns", (unsigned long long)row.documents,
                         (unsigned long long)row.turns);
    else if (stats.spans != w->plain_spans)
        rc = 1, snprintf(why, size, "%llu spans instead of %llu", (unsigned long long)stats.spans,
                         (unsigned long long)w->plain_spans);
    store_session_free(&row);
    return !rc;
}

/* The file opens elsewhere: imported into a new folder it is x again. */
static int file_is_x(const struct world *w, const struct place *p, char *why, size_t size)
{
    char *other = temp_path(p->scratch, "other");
    const char *argv[] = {"lectern", "store", "import", p->file, "--data-dir", other, "--quiet", NULL};
    struct run r;
    struct store *s;
    struct err e = {0};
    tree_remove(other);
    fault_run(argv, NULL, p->scratch, -1, &r);
    int good = run_exit(&r) == 0;
    if (!good)
        snprintf(why, size, "the exported file: %.300s", r.err);
    run_free(&r);
    if (good && store_open(other, &s, &e)) {
        good = 0;
        snprintf(why, size, "%s", e.text);
    } else if (good) {
        good = x_is_whole(w, s, why, size);
        store_close(s);
    }
    tree_remove(other);
    free(other);
    return good;
}

int step_is_done(const struct world *w, enum step step, const struct place *p, char *why, size_t size)
{
    struct store *s;
    struct err e = {0};
    if (store_open(p->data, &s, &e)) {
        snprintf(why, size, "the store does not open: %s", e.text);
        return 0;
    }
    int good = 1;
    switch (step) {
    case STEP_ADD:
    case STEP_IMPORT:
    case STEP_VERIFY:
        good = x_is_whole(w, s, why, size);
        break;
    case STEP_ASK:
        good = x_answered(w, s, why, size);
        break;
    case STEP_DELETE:
        good = x_is_gone(w, s, why, size);
        break;
    case STEP_GC:
    case STEP_STRIP:
        good = x_has_no_kv(w, s, why, size);
        break;
    default:
        good = file_is_x(w, p, why, size);
        break;
    }
    store_close(s);
    return good;
}

int step_may_refuse(enum step step)
{
    return step == STEP_DELETE || step == STEP_IMPORT;
}

int step_goes_on(const struct world *w, enum step step, const struct place *p, char *why, size_t size)
{
    struct run r;
    step_run(w, step, p, NULL, -1, &r);
    int good = run_exit(&r) == 0 || (step_may_refuse(step) && run_exit(&r) > 0);
    if (!good)
        snprintf(why, size, "the next run: exit %d, %.300s", run_exit(&r), r.err);
    run_free(&r);
    return good && step_is_done(w, step, p, why, size) && world_holds(w, p, why, size);
}

/* ---- making it
 * ---------------------------------------------------------------------------------------------- */

static char *make_text(unsigned seed, unsigned lines)
{
    static const char *const words[] = {"harbour", "log",   "master", "ship",  "fair", "the", "wind", "of",
                                        "a",       "north", "cargo",  "noted", "salt", "in",  "lamp", "tide"};
    size_t cap = lines * 64 + 1, n = 0;
    char *text = calloc(1, cap);
    uint64_t random = seed;
    for (unsigned i = 0; text && i < lines; i++) {
        n += (size_t)snprintf(text + n, cap - n, "%u.", i + seed);
        for (int k = 0; k < 5; k++)
            n += (size_t)snprintf(text + n, cap - n, " %s", words[fault_random(&random) % 16]);
        n += (size_t)snprintf(text + n, cap - n, ".\n");
    }
    if (!text)
        abort();
    return text;
}

static void make_files(struct world *w)
{
    static const unsigned lines[] = {14, 40, 3, 6};
    w->model = temp_path(w->root, "tiny.gguf");
    w->heads = temp_path(w->root, "heads");
    struct tiny_model m = tiny_model_default();
    m.L = 2, m.H = 2, m.HK = 2, m.D = 16, m.C = 32, m.F = 32;
    if (tiny_model_write(&m, w->model) || mkdir(w->heads, 0700))
        abort();
    temp_text(w->heads, "full_attention_heads.tsv", "0.9\t0.1\n0.2\t0.8\n");
    temp_text(w->heads, "config.json", "{\"sink_size\": 16, \"recent_size\": 64}\n");
    for (unsigned i = 0; i <= WORLD_DOCUMENTS; i++) {
        char name[16], *text = make_text(100 * i + 1, lines[i]);
        snprintf(name, sizeof name, "text%u.txt", i);
        temp_text(w->root, name, text);
        w->documents[i] = temp_path(w->root, name);
        free(text);
    }
}

/* Runs a command that must do. */
static int must(const char *const *argv, const char *scratch)
{
    struct run r;
    fault_run(argv, NULL, scratch, -1, &r);
    int good = run_exit(&r) == 0;
    if (!good)
        printf("%s %s, undisturbed: exit %d, %s\n", argv[1], argv[2], run_exit(&r), r.err);
    run_free(&r);
    return good;
}

static int measure(struct world *w, const char *data, const char *name, uint8_t digest[16])
{
    struct store *s;
    struct err e = {0};
    struct store_session row = {0};
    struct store_stats stats;
    int rc = store_open(data, &s, &e);
    if (!rc)
        rc = digest_of(s, name, digest, &row, &e);
    if (!rc)
        rc = store_stats(s, &stats, &e);
    if (!rc && data == w->plain)
        w->plain_spans = stats.spans;
    struct key_list list = {0};
    if (!rc && data == w->read)
        rc = store_session_spans(s, row.id, list_span, &list, &e);
    if (list.n) {
        w->spans = list.keys;
        w->n_spans = list.n;
    }
    if (rc)
        printf("%s: %s\n", name, e.text);
    store_session_free(&row);
    store_close(s);
    return !rc;
}

/* As it is kept: what is printed is made fit for a terminal or for JSON. */
static void take_answer(struct world *w, const char *data)
{
    struct store *s;
    struct err e;
    struct store_session row = {0};
    struct store_turn_list turns = {0};
    if (!store_open(data, &s, &e) && !store_session_get(s, "x", &row, &e) &&
        !store_turn_list(s, row.id, &turns, &e) && turns.n == 1)
        w->answer = strdup(turns.items[0].answer);
    store_turn_list_free(&turns);
    store_session_free(&row);
    store_close(s);
}

static int make_states(struct world *w, struct place *p)
{
    const char *const keep[] = {"lectern",   "ask",        w->documents[WORLD_DOCUMENTS],
                                question,    "-s",         "keep",
                                "--model",   w->model,     "--heads",
                                w->heads,    "--sparsity", "0.5",
                                "--threads", "1",          "--max-tokens",
                                "2",         "--data-dir", p->data,
                                "--quiet",   NULL};
    const char *const pin[] = {"lectern", "store", "pin", "keep", "--data-dir", p->data, NULL};
    const char *add[WORLD_ARGS], *export[WORLD_ARGS], *ask[WORLD_ARGS];
    step_command(w, STEP_ADD, p, add);
    step_command(w, STEP_EXPORT, p, export);
    step_command(w, STEP_ASK, p, ask);
    if (!must(keep, p->scratch) || !must(pin, p->scratch))
        return 0;
    tree_copy(p->data, w->plain);
    if (!measure(w, w->plain, "keep", w->keep) || !must(add, p->scratch))
        return 0;
    tree_copy(p->data, w->read);
    if (!measure(w, w->read, "x", w->x) || !must(export, p->scratch) || rename(p->file, w->exported))
        return 0;
    if (!must(ask, p->scratch))
        return 0;
    take_answer(w, p->data);
    return w->answer != NULL;
}

struct world *world_make(void)
{
    struct world *w = calloc(1, sizeof *w);
    if (!w)
        abort();
    w->root = temp_folder();
    w->plain = temp_path(w->root, "plain");
    w->read = temp_path(w->root, "read");
    w->exported = temp_path(w->root, "x.lectern");
    make_files(w);
    struct place p;
    place_make(w, 99, &p);
    int good = make_states(w, &p);
    place_free(&p);
    if (good)
        return w;
    world_free(w);
    return NULL;
}

void world_free(struct world *w)
{
    if (!w)
        return;
    for (int i = 0; i <= WORLD_DOCUMENTS; i++)
        free(w->documents[i]);
    free(w->model);
    free(w->heads);
    free(w->plain);
    free(w->read);
    free(w->exported);
    free(w->answer);
    free(w->spans);
    if (getenv("LECTERN_FAULT_KEEP"))
        printf("left: %s\n", w->root), free(w->root);
    else
        temp_remove(w->root);
    free(w);
}
