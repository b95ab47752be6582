/* SPDX-License-Identifier: Apache-2.0 */
/* test_reader_model.c - a session that one model made is opened with another one whose tokenizer differs: the
 * text is read again, everything else stays, and a stop or a kill leaves it wholly with the one or the other.
 *
 * The worker: $LECTERN_INGEST, or lectern-ingest in the folder above this program's.
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

#include "app/reader.h"
#include "data/transfer/transfer.h"
#include "engine/base/buf.h"
#include "tests/support/fault_run.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

enum { DOCUMENTS = 3, REPORTS = 2 * DOCUMENTS };
enum which { FIRST, SECOND, MODELS };

static char worker[4096];
static char *root;
static char *models[MODELS];
static struct engine *engines[MODELS];
static char *paths[DOCUMENTS];
static char *made; /* data folder: "s", made and read with the first model, one question asked */

struct digest {
    uint8_t bytes[16];
};
static struct digest before;

struct world {
    char *data;
    struct store *store;
    struct reader *reader;
    struct reader_usage usage; /* of the last read */
    char notices[2000];
    struct err e;
};

#define OK(call)                                                                                             \
    do {                                                                                                     \
        int rc_ = (call);                                                                                    \
        if (rc_)                                                                                             \
            fail_msg("%s: %d %s", #call, rc_, w->e.text);                                                    \
    } while (0)

/* ---- sessions ---- */

static struct engine *open_engine(enum which which)
{
    struct engine *g = NULL;
    struct err e = {0};
    struct engine_options o = {.model_path = models[which],
                               .heads_path = root,
                               .sparsity = 0.5,
                               .sink = 64,
                               .recent = 64,
                               .kv_format = 8,
                               .threads = 2};
    if (engine_open(&g, &o, &e))
        fail_msg("%s", e.text);
    return g;
}

static void take_notice(void *arg, const char *line)
{
    struct world *w = arg;
    size_t at = strlen(w->notices);
    snprintf(w->notices + at, sizeof w->notices - at, "%s\n", line);
}

static int try_reader(struct world *w, const char *name, const struct engine *g, const struct progress *p,
                      struct cancel *cancel)
{
    reader_close(w->reader);
    w->reader = NULL;
    w->notices[0] = '\0';
    struct reader_options o = {.engine = g,
                               .store = w->store,
                               .worker = worker,
                               .name = name,
                               .create = 1,
                               .notice = take_notice,
                               .progress = p,
                               .cancel = cancel,
                               .arg = w};
    return reader_open(&w->reader, &o, &w->e);
}

static void open_reader(struct world *w, const char *name, enum which which)
{
    OK(try_reader(w, name, engines[which], NULL, NULL));
}

static void read_all(struct world *w)
{
    w->usage = (struct reader_usage){0};
    OK(reader_read(w->reader, NULL, NULL, &w->usage, &w->e));
    assert_int_equal(reader_position(w->reader), reader_corpus_tokens(w->reader));
}

static char *answer(struct world *w)
{
    struct reader_answer a;
    struct reader_question q = {.text = "What is it?", .top_p = 1, .max_tokens = 12};
    int rc = reader_ask(w->reader, &q, NULL, NULL, &a, &w->e);
    if (rc)
        fail_msg("ask: %s", w->e.text);
    char *text = strdup(a.text);
    reader_answer_fini(&a);
    return text;
}

/* Of documents, ids and turns without what was read of them: a copy of the session gives that up. */
static struct digest digest_of_session(struct world *w, int64_t id)
{
    struct digest d;
    int64_t copy;
    OK(store_session_fork(w->store, id, "copy", &copy, &w->e));
    OK(store_session_unref_all(w->store, copy, &w->e));
    OK(store_session_digest(w->store, copy, d.bytes, &w->e));
    OK(store_session_delete(w->store, copy, &w->e));
    return d;
}

static struct digest digest_of(struct world *w)
{
    return digest_of_session(w, reader_session(w->reader));
}

static void world_open(struct world *w, const char *from)
{
    *w = (struct world){.data = temp_folder()};
    if (from)
        tree_copy(from, w->data);
    OK(store_open(w->data, &w->store, &w->e));
}

static void world_close(struct world *w)
{
    reader_close(w->reader);
    w->reader = NULL;
    store_close(w->store);
    w->store = NULL;
}

static void world_end(struct world *w)
{
    world_close(w);
    temp_remove(w->data);
}

/* Nothing is in the store but what its sessions have, and all of it is whole. */
static void assert_clean(struct world *w)
{
    struct store_verify_result v;
    struct store_gc_result gc;
    struct store_budget all = {.bytes = STORE_NO_LIMIT};
    OK(store_verify(w->store, NULL, &v, &w->e));
    assert_int_equal(v.problems, 0);
    assert_int_equal(v.missing, 0);
    OK(store_gc(w->store, &all, NULL, NULL, &gc, &w->e));
    assert_int_equal(gc.spans, 0);
}

/* What this model makes of the documents in a store of its own, with the turns of `s` in `from`. */
static struct digest digest_fresh(enum which which, struct world *from)
{
    struct world fresh, *w = &fresh;
    struct store_turn_list turns;
    world_open(w, NULL);
    open_reader(w, "fresh", which);
    for (int i = 0; i < DOCUMENTS; i++)
        OK(reader_add(w->reader, paths[i], NULL, NULL, NULL, &w->e));
    OK(store_turn_list(from->store, reader_session(from->reader), &turns, &w->e));
    for (size_t i = 0; i < turns.n; i++)
        OK(store_turn_add(w->store, reader_session(w->reader), &turns.items[i], NULL, &w->e));
    store_turn_list_free(&turns);
    struct digest d = digest_of(w);
    world_end(w);
    return d;
}

static void assert_equal(struct digest a, struct digest b)
{
    assert_memory_equal(&a, &b, sizeof a);
}

static int is_equal(struct digest a, struct digest b)
{
    return !memcmp(&a, &b, sizeof a);
}

/* The first model finds its session as it left it. */
static void assert_untouched(struct world *w)
{
    open_reader(w, "s", FIRST);
    assert_string_equal(w->notices, "");
    assert_equal(digest_of(w), before);
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
}

/* ---- setup ---- */

static void make_models(void)
{
    static const char *const names[MODELS] = {"first.gguf", "second.gguf"};
    for (int i = 0; i < MODELS; i++) {
        struct tiny_model m = tiny_model_default();
        m.L = 2;
        m.H = m.HK = 2;
        m.D = 16;
        m.C = m.F = 32;
        m.context = 65536;
        m.seed = (uint64_t)i + 1;
        m.merges = i ? 7 : TINY_MERGES;
        models[i] = temp_path(root, names[i]);
        assert_int_equal(tiny_model_write(&m, models[i]), 0);
    }
    temp_text(root, "full_attention_heads.tsv", "0.9\t0.1\n0.2\t0.8\n");
    temp_text(root, "config.json", "{\"sink_size\": 64, \"recent_size\": 64}");
    for (int i = 0; i < MODELS; i++)
        engines[i] = open_engine((enum which)i);
}

/* Words of merges that only the first model knows among others, and characters of several bytes. */
static void make_documents(void)
{
    static const char *const words[] = {"the", "and", "thing",  "rest", "bear",  "\xc3\xa9t\xc3\xa9", "in",
                                        "her", "wat", "string", "on",   "ninth", "\xe2\x82\xac"};
    static const char *const names[DOCUMENTS] = {"one.txt", "two and more.txt", "three.txt"};
    static const int counts[DOCUMENTS] = {700, 1, 400};
    uint32_t x = 7;
    for (int i = 0; i < DOCUMENTS; i++) {
        struct buf text = {0};
        for (int k = 0; k < counts[i]; k++) {
            x = x * 1664525u + 1013904223u;
            buf_printf(&text, "%s%s", words[(x >> 16) % (sizeof words / sizeof *words)],
                       k % 11 == 10 ? "\n" : " ");
        }
        char *all = buf_take(&text);
        temp_text(root, names[i], all);
        free(all);
        paths[i] = temp_path(root, names[i]);
    }
}

static int group_setup(void **state)
{
    (void)state;
    const char *given = getenv("LECTERN_INGEST");
    ssize_t n = given ? 0 : readlink("/proc/self/exe", worker, sizeof worker - 32);
    worker[n > 0 ? n : 0] = '\0';
    for (int up = 0; !given && up < 2; up++) {
        char *slash = strrchr(worker, '/');
        if (slash)
            *slash = '\0';
    }
    if (given)
        snprintf(worker, sizeof worker, "%s", given);
    else
        strcat(worker, "/lectern-ingest");
    root = temp_folder();
    make_models();
    make_documents();
    struct world made_world, *w = &made_world;
    world_open(w, NULL);
    open_reader(w, "s", FIRST);
    for (int i = 0; i < DOCUMENTS; i++)
        OK(reader_add(w->reader, paths[i], NULL, NULL, NULL, &w->e));
    free(answer(w));
    before = digest_of(w);
    world_close(w);
    made = w->data;
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        engine_close(engines[i]);
        free(models[i]);
    }
    for (int i = 0; i < DOCUMENTS; i++)
        free(paths[i]);
    temp_remove(made);
    temp_remove(root);
    return 0;
}

/* ---- tests ---- */

static void other_model_reads_the_text_again(void **state)
{
    (void)state;
    struct world other, *w = &other;
    struct store_document_list was, now;
    char line[400];
    world_open(w, made);
    assert_untouched(w);
    size_t tokens = reader_corpus_tokens(w->reader);
    int64_t id = reader_session(w->reader);
    OK(store_document_list(w->store, id, &was, &w->e));

    open_reader(w, "s", SECOND);
    assert_non_null(strstr(w->notices, "session 's' was made with another model (first.gguf)"));
    assert_true(reader_corpus_tokens(w->reader) > tokens);
    OK(store_document_list(w->store, id, &now, &w->e));
    assert_int_equal(now.n, DOCUMENTS);
    for (int i = 0; i < DOCUMENTS; i++) {
        const struct store_document *a = &was.items[i], *b = &now.items[i];
        assert_string_equal(a->path, b->path);
        assert_string_equal(a->title, b->title);
        assert_true(a->size == b->size && a->mtime_ns == b->mtime_ns && a->pages == b->pages);
        assert_memory_equal(a->hash, b->hash, sizeof a->hash);
        assert_int_equal(reader_file(w->reader, (size_t)i), READER_FILE_SAME);
    }
    store_document_list_free(&was);
    store_document_list_free(&now);
    assert_equal(digest_of(w), digest_fresh(SECOND, w));
    struct store_session row;
    OK(store_session_get_id(w->store, id, &row, &w->e));
    assert_string_equal(row.model_path, models[SECOND]);
    assert_true(!row.has_chain && !row.tokens && row.kv_bytes && row.turns == 1);
    store_session_free(&row);

    read_all(w);
    reader_usage_line(&w->usage, line, sizeof line);
    assert_non_null(strstr(line, "(the session was made with another model)"));
    assert_int_equal(w->usage.prefilled, reader_corpus_tokens(w->reader));
    assert_equal(digest_of(w), digest_fresh(SECOND, w));
    assert_clean(w);

    open_reader(w, "s", SECOND);
    assert_string_equal(w->notices, "");
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    open_reader(w, "s", FIRST); /* and back */
    assert_non_null(strstr(w->notices, "another model (second.gguf)"));
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0); /* its reading was kept */
    assert_equal(digest_of(w), before);
    assert_clean(w);
    world_end(w);
}

static void answers_as_a_fresh_session_does(void **state)
{
    (void)state;
    struct world other, fresh, *w = &other;
    world_open(w, made);
    open_reader(w, "s", SECOND);
    char *a = answer(w);
    struct store_turn_list turns;
    OK(store_turn_list(w->store, reader_session(w->reader), &turns, &w->e));
    assert_int_equal(turns.n, 2);
    store_turn_list_free(&turns);
    world_end(w);
    w = &fresh;
    world_open(w, NULL);
    open_reader(w, "s", SECOND);
    for (int i = 0; i < DOCUMENTS; i++)
        OK(reader_add(w->reader, paths[i], NULL, NULL, NULL, &w->e));
    char *b = answer(w);
    assert_string_equal(a, b);
    free(a);
    free(b);
    world_end(w);
}

/* A fork shares documents and spans with the session that stays with the first model. */
static void a_fork_goes_its_own_way(void **state)
{
    (void)state;
    struct world other, *w = &other;
    int64_t id;
    world_open(w, made);
    open_reader(w, "s", FIRST);
    OK(store_session_fork(w->store, reader_session(w->reader), "f", &id, &w->e));
    open_reader(w, "f", SECOND);
    assert_non_null(strstr(w->notices, "session 'f' was made with another model"));
    read_all(w);
    assert_equal(digest_of(w), digest_fresh(SECOND, w));
    assert_untouched(w);
    assert_clean(w);
    world_end(w);
}

static void an_imported_session_is_opened(void **state)
{
    (void)state;
    struct world from, to, *w = &from;
    struct transfer_result result;
    char *file = temp_path(root, "s.lectern");
    world_open(w, made);
    open_reader(w, "s", FIRST);
    OK(transfer_export(w->store, reader_session(w->reader), file, NULL, &result, &w->e));
    world_end(w);
    w = &to;
    world_open(w, NULL);
    OK(transfer_import(w->store, file, NULL, NULL, &result, &w->e));
    open_reader(w, "s", SECOND);
    assert_non_null(strstr(w->notices, "another model (first.gguf)"));
    read_all(w);
    assert_equal(digest_of(w), digest_fresh(SECOND, w));
    assert_clean(w);
    unlink(file);
    free(file);
    world_end(w);
}

/* ---- stopped and killed ---- */

struct stop {
    struct cancel cancel;
    int at, seen;
    int kill;
};

static void stop_there(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct stop *stop = arg;
    (void)what;
    assert_true(done < total);
    if (++stop->seen < stop->at)
        return;
    if (stop->kill)
        _exit(9); /* nothing is flushed, closed or rolled back */
    atomic_store(&stop->cancel.requested, 1);
}

static void stopped_at_any_document_nothing_changes(void **state)
{
    (void)state;
    struct world other, *w = &other;
    world_open(w, made);
    for (int at = 1; at <= REPORTS; at++) {
        struct stop stop = {.at = at};
        struct progress port = {.report = stop_there, .arg = &stop};
        assert_int_equal(try_reader(w, "s", engines[SECOND], &port, &stop.cancel), ERR_CANCELLED);
        assert_non_null(strstr(w->e.text, "stays as the other model left it"));
        assert_null(w->reader);
        assert_untouched(w);
    }
    struct stop never = {.at = 1000};
    struct progress port = {.report = stop_there, .arg = &never};
    OK(try_reader(w, "s", engines[SECOND], &port, &never.cancel));
    assert_int_equal(never.seen, REPORTS); /* so every place was tried */
    world_end(w);
}

static void child(const char *data, int at, int ready)
{
    struct world w = {.reader = NULL};
    struct stop stop = {.at = at, .kill = 1};
    struct progress port = {.report = stop_there, .arg = &stop};
    struct engine *g = open_engine(SECOND); /* threads do not come through a fork */
    if (store_open(data, &w.store, &w.e) || write(ready, "", 1) != 1)
        _exit(1);
    _exit(try_reader(&w, "s", g, &port, NULL) ? 2 : 0);
}

/* What a kill left is the first model's or the second's, never a mix. Returns whether the second has it. */
static int is_second(struct world *w, struct digest second)
{
    store_close(w->store);
    w->store = NULL;
    OK(store_open(w->data, &w->store, &w->e));
    struct store_session row;
    OK(store_session_get(w->store, "s", &row, &w->e));
    struct digest d = digest_of_session(w, row.id);
    int is = is_equal(d, second);
    assert_true(is || is_equal(d, before));
    assert_string_equal(row.model_path, models[is ? SECOND : FIRST]);
    assert_int_equal(row.has_chain, !is);
    store_session_free(&row);
    assert_clean(w);
    return is;
}

/* The child is killed at report `at`, or `delay` microseconds after it has begun to open the session. */
static int run_child(struct world *w, int at, unsigned delay)
{
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid)
        child(w->data, at, ends[1]);
    close(ends[1]);
    int begun = read(ends[0], &byte, 1) == 1;
    close(ends[0]);
    assert_true(begun);
    if (delay) {
        usleep(delay);
        kill(pid, SIGKILL);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void killed_it_is_one_or_the_other(void **state)
{
    (void)state;
    struct world other, *w = &other;
    int seconds = 0, tries = 40;
    world_open(w, made);
    open_reader(w, "s", FIRST);
    struct digest second = digest_fresh(SECOND, w);
    world_close(w);
    for (int at = 1; at <= REPORTS; at++) {
        int status = run_child(w, at, 0);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 9);
        assert_false(is_second(w, second));
        world_close(w);
    }
    for (int i = 0; i < tries; i++) {
        int status = run_child(w, 1000, 50 + 400 * (unsigned)i);
        assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && !WEXITSTATUS(status)));
        int is = is_second(w, second);
        assert_true(is || WIFSIGNALED(status));
        seconds += is;
        world_close(w);
        if (is)
            tree_copy(made, w->data);
    }
    print_message("  killed %d times: %d left the first model's, %d the second's\n", tries, tries - seconds,
                  seconds);
    world_end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_model_reads_the_text_again),
        cmocka_unit_test(answers_as_a_fresh_session_does),
        cmocka_unit_test(a_fork_goes_its_own_way),
        cmocka_unit_test(an_imported_session_is_opened),
        cmocka_unit_test(stopped_at_any_document_nothing_changes),
        cmocka_unit_test(killed_it_is_one_or_the_other),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
