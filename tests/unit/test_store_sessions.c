/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_sessions.c - sessions, their documents, turns and references: what is shared, what goes, who may
 * write. */
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
#include "engine/base/file.h"
#include "tests/support/store_fixture.h"

struct world {
    char *dir;
    struct store *s;
    struct err e;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->dir = fixture_dir_make();
    *state = w;
    return store_open(w->dir, &w->s, &w->e);
}

static int teardown(void **state)
{
    struct world *w = *state;
    store_close(w->s);
    fixture_dir_remove(w->dir);
    free(w);
    return 0;
}

static void reopen(struct world *w)
{
    store_close(w->s);
    assert_int_equal(store_open(w->dir, &w->s, &w->e), 0);
}

static int64_t make(struct world *w, const char *name)
{
    int64_t id = 0;
    assert_int_equal(store_session_create(w->s, name, NULL, &id, &w->e), 0);
    assert_true(id > 0);
    return id;
}

static void put_and_ref(struct world *w, int64_t id, unsigned i)
{
    uint8_t key[16];
    fixture_key(i, key);
    assert_int_equal(store_session_ref(w->s, id, 1, key, &w->e), 0);
    assert_int_equal(store_session_ref(w->s, id, 1, key, &w->e), 0);
    assert_int_equal(fixture_put(w->s, i, &w->e), 0);
}

static void add_document(struct world *w, int64_t id, char *text, int expect)
{
    const struct iovec parts[STORE_PARTS] = {
        {text, strlen(text)}, {"", 0}, {"\1\0\0\0\2\0\0\0", 8}, {"\3\0\0\0\4\0\0\0", 8}};
    struct store_document d = {.path = "/books/a.pdf",
                               .title = "A \xe2\x82\xac",
                               .kind = "pdf",
                               .size = 1234,
                               .mtime_ns = 1600000000123456789,
                               .hash = {7},
                               .pages = 20,
                               .token_start = 30,
                               .token_count = 2};
    int ordinal = -1;
    assert_int_equal(store_document_add(w->s, id, &d, parts, &ordinal, &w->e), 0);
    assert_int_equal(ordinal, expect);
}

static uint64_t documents(struct world *w)
{
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    return stats.documents;
}

static void a_session_round_trips(void **state)
{
    struct world *w = *state;
    struct store_session from = {.model_path = "/m.gguf", .model_hash = {1, 2}, .options = "{\"s\":0.5}"},
                         got;
    int64_t id;
    assert_int_equal(store_session_create(w->s, "War and Peace", &from, &id, &w->e), 0);
    assert_int_equal(store_session_get(w->s, "War and Peace", &got, &w->e), 0);
    assert_int_equal(got.id, id);
    assert_string_equal(got.model_path, "/m.gguf");
    assert_string_equal(got.options, "{\"s\":0.5}");
    assert_memory_equal(got.model_hash, from.model_hash, 16);
    assert_false(got.has_chain);
    assert_true(got.created > 1600000000 && got.opened == got.created);
    got.has_chain = 1;
    memset(got.chain, 0x5a, 16);
    got.tokens = 131072;
    assert_int_equal(store_session_update(w->s, &got, &w->e), 0);
    store_session_free(&got);
    reopen(w);
    assert_int_equal(store_session_get_id(w->s, id, &got, &w->e), 0);
    assert_string_equal(got.name, "War and Peace");
    assert_true(got.has_chain && got.chain[15] == 0x5a);
    assert_int_equal(got.tokens, 131072);
    store_session_free(&got);
    assert_int_equal(store_session_get(w->s, "none", &got, &w->e), ERR_NOT_FOUND);
    assert_null(got.name);
    assert_int_equal(store_session_get_id(w->s, id + 1, &got, &w->e), ERR_NOT_FOUND);
}

static void names_are_checked(void **state)
{
    struct world *w = *state;
    char longest[STORE_NAME_MAX + 2];
    memset(longest, 'n', sizeof longest);
    longest[STORE_NAME_MAX + 1] = '\0';
    const char *const bad[] = {"", "a/b", "a\nb", "\x1b[2J", "a\x7f", longest};
    int64_t id = make(w, "good");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(store_session_create(w->s, bad[i], NULL, NULL, &w->e), ERR_USAGE);
        assert_int_equal(store_session_rename(w->s, id, bad[i], &w->e), ERR_USAGE);
        assert_int_equal(store_session_fork(w->s, id, bad[i], NULL, &w->e), ERR_USAGE);
    }
    longest[STORE_NAME_MAX] = '\0';
    make(w, longest);
    make(w, "Krieg & Frieden '; DROP TABLE sessions; -- \xe6\x88\xb0");
    assert_int_equal(store_session_create(w->s, "good", NULL, NULL, &w->e), ERR_USAGE);
    assert_non_null(strstr(w->e.text, "choose another name"));
    assert_int_equal(store_session_rename(w->s, id, longest, &w->e), ERR_USAGE);
    assert_int_equal(store_session_rename(w->s, id, "good", &w->e), 0);
    assert_int_equal(store_session_rename(w->s, id, "better", &w->e), 0);
    assert_int_equal(store_session_rename(w->s, 999, "free", &w->e), ERR_NOT_FOUND);
    assert_int_equal(store_session_fork(w->s, 999, "free", NULL, &w->e), ERR_NOT_FOUND);
    make(w, "good");
}

static void the_list_is_last_opened_first(void **state)
{
    struct world *w = *state;
    int64_t a = make(w, "a"), b = make(w, "b");
    put_and_ref(w, a, 9);
    put_and_ref(w, b, 9);
    put_and_ref(w, b, 10);
    add_document(w, b, "text", 0);
    assert_int_equal(fixture_sql(w->dir, "UPDATE sessions SET opened=opened-100, created=created-100"), 0);
    assert_int_equal(store_session_touch(w->s, a, &w->e), 0);
    assert_int_equal(store_session_touch(w->s, 99, &w->e), ERR_NOT_FOUND);
    struct store_session_list list;
    assert_int_equal(store_session_list(w->s, &list, &w->e), 0);
    assert_int_equal(list.n, 2);
    assert_int_equal(list.items[0].id, a);
    assert_int_equal(list.items[0].kv_bytes, fixture_size(9));
    assert_int_equal(list.items[1].kv_bytes, fixture_size(9) + fixture_size(10));
    assert_int_equal(list.items[1].documents, 1);
    assert_int_equal(list.items[1].pages, 20);
    store_session_list_free(&list);
}

static void documents_round_trip(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "s");
    add_document(w, id, "Call me Ishmael.", 0);
    add_document(w, id, "", 1);
    reopen(w);
    struct store_document_list list;
    assert_int_equal(store_document_list(w->s, id, &list, &w->e), 0);
    assert_int_equal(list.n, 2);
    const struct store_document *d = &list.items[0];
    assert_string_equal(d->path, "/books/a.pdf");
    assert_string_equal(d->title, "A \xe2\x82\xac");
    assert_string_equal(d->kind, "pdf");
    assert_int_equal(d->size, 1234);
    assert_int_equal(d->mtime_ns, 1600000000123456789);
    assert_int_equal(d->hash[0], 7);
    assert_int_equal(d->pages, 20);
    assert_int_equal(d->token_start, 30);
    assert_int_equal(d->token_count, 2);
    assert_int_equal(d->part_bytes[STORE_TEXT], 16);
    assert_int_equal(d->part_bytes[STORE_MAP], 0);
    assert_int_equal(list.items[1].ordinal, 1);
    store_document_list_free(&list);
    void *bytes;
    size_t n;
    assert_int_equal(store_document_read(w->s, id, 0, STORE_TEXT, &bytes, &n, &w->e), 0);
    assert_int_equal(n, 16);
    assert_string_equal(bytes, "Call me Ishmael.");
    free(bytes);
    assert_int_equal(store_document_read(w->s, id, 1, STORE_TEXT, &bytes, &n, &w->e), 0);
    assert_int_equal(n, 0);
    assert_string_equal(bytes, "");
    free(bytes);
    assert_int_equal(store_document_read(w->s, id, 1, STORE_ENDS, &bytes, &n, &w->e), 0);
    assert_memory_equal(bytes, "\3\0\0\0\4\0\0\0", 8);
    free(bytes);
    assert_int_equal(store_document_read(w->s, id, 2, STORE_ENDS, &bytes, &n, &w->e), ERR_NOT_FOUND);
    assert_int_equal(store_document_list(w->s, 99, &list, &w->e), ERR_NOT_FOUND);
    const struct iovec huge[STORE_PARTS] = {{"", (size_t)1 << 40}};
    assert_int_equal(
        store_document_add(w->s, id, d = &(struct store_document){.path = "x"}, huge, NULL, &w->e),
        ERR_LIMIT);
    const struct iovec none[STORE_PARTS] = {{0}};
    assert_int_equal(store_document_add(w->s, 99, d, none, NULL, &w->e), ERR_NOT_FOUND);
}

static void a_large_document(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "s");
    size_t n = 20 << 20, got;
    char *text = malloc(n);
    for (size_t i = 0; i < n; i++)
        text[i] = (char)(i * i >> 7);
    const struct iovec parts[STORE_PARTS] = {{text, n}};
    const struct store_document d = {.path = "large"};
    void *bytes;
    assert_int_equal(store_document_add(w->s, id, &d, parts, NULL, &w->e), 0);
    assert_int_equal(store_document_read(w->s, id, 0, STORE_TEXT, &bytes, &got, &w->e), 0);
    assert_int_equal(got, n);
    assert_memory_equal(bytes, text, n);
    free(bytes);
    free(text);
    assert_int_equal(store_session_delete(w->s, id, &w->e), 0);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_true(stats.db_bytes < 1 << 20); /* the text's room is given back */
}

static void equal_documents_are_one(void **state)
{
    struct world *w = *state;
    int64_t a = make(w, "a"), b = make(w, "b");
    add_document(w, a, "the same", 0);
    add_document(w, b, "the same", 0);
    add_document(w, b, "the sama", 1); /* as long, with the same hash of the source */
    assert_int_equal(documents(w), 2);
    assert_int_equal(store_document_drop_from(w->s, b, 1, &w->e), 0);
    assert_int_equal(documents(w), 1);
    assert_int_equal(store_document_drop_from(w->s, b, 0, &w->e), 0);
    assert_int_equal(documents(w), 1);
    add_document(w, b, "the same", 0);
    assert_int_equal(store_session_delete(w->s, a, &w->e), 0);
    assert_int_equal(documents(w), 1);
    assert_int_equal(store_session_delete(w->s, b, &w->e), 0);
    assert_int_equal(documents(w), 0);
}

static void turns_round_trip(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "s");
    struct store_turn t = {.question = "Who?", .answer = "Ahab.\n\xe2\x80\x94", .json = "{}", .time = 5};
    int ordinal;
    assert_int_equal(store_turn_add(w->s, id, &t, &ordinal, &w->e), 0);
    assert_int_equal(ordinal, 0);
    assert_int_equal(store_turn_add(w->s, id, &(struct store_turn){0}, &ordinal, &w->e), 0);
    assert_int_equal(ordinal, 1);
    assert_int_equal(store_turn_add(w->s, 99, &t, NULL, &w->e), ERR_NOT_FOUND);
    reopen(w);
    struct store_turn_list list;
    assert_int_equal(store_turn_list(w->s, id, &list, &w->e), 0);
    assert_int_equal(list.n, 2);
    assert_string_equal(list.items[0].question, "Who?");
    assert_string_equal(list.items[0].answer, "Ahab.\n\xe2\x80\x94");
    assert_string_equal(list.items[0].json, "{}");
    assert_int_equal(list.items[0].time, 5);
    assert_string_equal(list.items[1].answer, "");
    assert_true(list.items[1].time > 1600000000);
    store_turn_list_free(&list);
    assert_int_equal(store_turn_list(w->s, 99, &list, &w->e), ERR_NOT_FOUND);
}

static void a_fork_shares(void **state)
{
    struct world *w = *state;
    int64_t a = make(w, "a"), b;
    for (unsigned i = 9; i < 12; i++)
        put_and_ref(w, a, i);
    add_document(w, a, "text", 0);
    assert_int_equal(store_turn_add(w->s, a, &(struct store_turn){.question = "q"}, NULL, &w->e), 0);
    struct store_stats before, after;
    assert_int_equal(store_stats(w->s, &before, &w->e), 0);
    assert_int_equal(store_session_fork(w->s, a, "b", &b, &w->e), 0);
    assert_int_equal(store_stats(w->s, &after, &w->e), 0);
    assert_int_equal(after.spans, before.spans);
    assert_int_equal(after.documents, 1);
    assert_int_equal(after.segment_disk_bytes, before.segment_disk_bytes);
    /* The branch goes its own way; the other one does not see it. */
    assert_int_equal(store_turn_add(w->s, b, &(struct store_turn){.question = "r"}, NULL, &w->e), 0);
    struct store_session x;
    assert_int_equal(store_session_get(w->s, "a", &x, &w->e), 0);
    assert_int_equal(x.turns, 1);
    store_session_free(&x);
    assert_int_equal(store_session_delete(w->s, a, &w->e), 0);
    assert_int_equal(store_session_get(w->s, "b", &x, &w->e), 0);
    assert_int_equal(x.turns, 2);
    assert_int_equal(x.documents, 1);
    assert_int_equal(x.kv_bytes, fixture_size(9) + fixture_size(10) + fixture_size(11));
    store_session_free(&x);
    for (unsigned i = 9; i < 12; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), 0);
    void *bytes;
    size_t n;
    assert_int_equal(store_document_read(w->s, b, 0, STORE_TEXT, &bytes, &n, &w->e), 0);
    free(bytes);
}

static void delete_drops_what_is_not_shared(void **state)
{
    struct world *w = *state;
    int64_t a = make(w, "a"), b = make(w, "b");
    for (unsigned i = 4; i < 12; i++)
        put_and_ref(w, i % 2 ? a : b, i);
    put_and_ref(w, b, 5);
    put_and_ref(w, a, 20);
    add_document(w, a, "secret text of a", 0);
    assert_int_equal(
        store_turn_add(w->s, a, &(struct store_turn){.question = "secret question"}, NULL, &w->e), 0);
    assert_int_equal(store_session_delete(w->s, a, &w->e), 0);
    assert_int_equal(store_session_delete(w->s, a, &w->e), ERR_NOT_FOUND);
    for (unsigned i = 4; i < 12; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), i % 2 && i != 5 ? ERR_NOT_FOUND : 0);
    assert_int_equal(fixture_check(w->s, 20, &w->e), ERR_NOT_FOUND);
    int64_t again = make(w, "a"); /* the name is free, the number is new */
    assert_true(again > a);
    store_close(w->s);
    /* Nothing of it stays in the database's free pages or its log. */
    char *path = path_join(w->dir, "lectern.db"), *bytes;
    size_t n;
    assert_int_equal(file_read(path, 1 << 24, &bytes, &n, &w->e), 0);
    assert_null(memmem(bytes, n, "secret", 6));
    free(bytes);
    free(path);
    assert_int_equal(store_open(w->dir, &w->s, &w->e), 0);
    assert_int_equal(store_session_unref_all(w->s, b, &w->e), 0);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 0);
    assert_int_equal(stats.segment_files, 0);
    uint8_t key[16] = {0};
    assert_int_equal(store_session_ref(w->s, a, 1, key, &w->e), ERR_NOT_FOUND);
}

static void the_lock_names_its_holder(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "s");
    int up[2], down[2];
    char byte = 'x';
    assert_int_equal(pipe(up) | pipe(down), 0);
    pid_t pid = fork();
    if (!pid) {
        struct store *s;
        struct store_lock *lock;
        struct err e;
        int rc = store_open(w->dir, &s, &e);
        if (!rc)
            rc = store_session_lock(s, id, &lock, &e);
        _exit(rc || write(up[1], &byte, 1) != 1 || read(down[0], &byte, 1) != 1);
    }
    assert_int_equal(read(up[0], &byte, 1), 1);
    struct store_lock *lock;
    char number[32];
    snprintf(number, sizeof number, "process %ld;", (long)pid);
    assert_int_equal(store_session_lock(w->s, id, &lock, &w->e), ERR_BUSY);
    assert_null(lock);
    assert_non_null(strstr(w->e.text, number));
    assert_int_equal(store_session_delete(w->s, id, &w->e), ERR_BUSY);
    assert_int_equal(kill(pid, SIGKILL), 0); /* a crash leaves no lock behind */
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(store_session_lock(w->s, id, &lock, &w->e), 0);
    struct store_lock *second;
    assert_int_equal(store_session_lock(w->s, id, &second, &w->e), ERR_BUSY);
    store_session_unlock(lock);
    assert_int_equal(store_session_lock(w->s, id, &second, &w->e), 0);
    assert_int_equal(store_session_lock(w->s, 99, &lock, &w->e), ERR_NOT_FOUND);
    assert_int_equal(store_session_delete(w->s, id, &w->e), 0); /* by its holder */
    store_session_unlock(second);
    for (int i = 0; i < 2; i++) {
        close(up[i]);
        close(down[i]);
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_session_round_trips),     CASE(names_are_checked), CASE(the_list_is_last_opened_first),
        CASE(documents_round_trip),      CASE(a_large_document),  CASE(equal_documents_are_one),
        CASE(turns_round_trip),          CASE(a_fork_shares),     CASE(delete_drops_what_is_not_shared),
        CASE(the_lock_names_its_holder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
