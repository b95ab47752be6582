/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_erase.c - what was deleted is nowhere in the data folder: every byte of every file is looked at.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/store/store_internal.h"
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

/* ---- the search ---------------------------------------------------------------------------------------- */

/* How often `marker` stands in files below `dir`; their names go to the log. */
static unsigned count_in(const char *dir, const char *marker)
{
    unsigned found = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        if (entry->d_name[0] == '.')
            continue;
        char *path = path_join(dir, entry->d_name);
        struct stat st;
        assert_int_equal(lstat(path, &st), 0);
        if (S_ISDIR(st.st_mode)) {
            found += count_in(path, marker);
        } else {
            char *bytes;
            size_t n;
            struct err e;
            assert_int_equal(file_read(path, (size_t)1 << 30, &bytes, &n, &e), 0);
            for (char *at = bytes; (at = memmem(at, n - (size_t)(at - bytes), marker, strlen(marker))); at++)
                found++;
            free(bytes);
        }
        free(path);
    }
    closedir(d);
    return found;
}

/* Text of n bytes that is full of the marker. */
static char *text_of(const char *marker, size_t n)
{
    char *text = malloc(n + 1);
    assert_non_null(text);
    size_t m = strlen(marker);
    for (size_t i = 0; i < n; i++)
        text[i] = marker[i % m];
    text[n] = '\0';
    return text;
}

static void add_document(struct world *w, int64_t id, const char *marker, size_t n, unsigned number)
{
    char *text = text_of(marker, n);
    struct store_document d = {.path = text_of(marker, 40),
                               .title = text_of(marker, 30),
                               .kind = text_of(marker, 25),
                               .size = n,
                               .token_count = 1};
    d.hash[0] = (uint8_t)number;
    d.hash[1] = (uint8_t)marker[0];
    const struct iovec parts[STORE_PARTS] = {{text, n}, {text, n / 3}, {text, n / 2}, {text, n / 4}};
    assert_int_equal(store_document_add(w->s, id, &d, parts, NULL, &w->e), 0);
    free(d.path);
    free(d.title);
    free(d.kind);
    free(text);
}

static void add_turn(struct world *w, int64_t id, const char *marker, size_t n)
{
    struct store_turn t = {.question = text_of(marker, n),
                           .answer = text_of(marker, n / 2 + 20),
                           .json = text_of(marker, n / 3)};
    assert_int_equal(store_turn_add(w->s, id, &t, NULL, &w->e), 0);
    free(t.question);
    free(t.answer);
    free(t.json);
}

static void put_span(struct world *w, int64_t id, const char *marker, size_t n, unsigned number)
{
    char *bytes = text_of(marker, n);
    const struct iovec part = {bytes, n};
    uint8_t key[16];
    fixture_key(number, key);
    const struct span_put put = {
        .kind = 1, .key = key, .parts = &part, .n = 1, .meta = bytes, .meta_size = n < 100 ? n : 100};
    assert_int_equal(store_session_ref(w->s, id, 1, key, &w->e), 0);
    assert_int_equal(store_span_put(w->s, &put, &w->e), 0);
    free(bytes);
}

static uint32_t next_random(uint32_t *random)
{
    *random = *random * 1664525u + 1013904223u;
    return *random >> 8;
}

static int64_t make(struct world *w, const char *name, const char *marker)
{
    int64_t id;
    char options[200];
    snprintf(options, sizeof options, "{\"%s\":1}", marker);
    const struct store_session from = {.model_path = (char *)(uintptr_t)marker, .options = options};
    assert_int_equal(store_session_create(w->s, name, &from, &id, &w->e), 0);
    return id;
}

/* Two sessions, their rows interleaved, so that pages of the database hold both. */
static void fill(struct world *w, int64_t gone, int64_t stays, uint32_t seed)
{
    uint32_t random = seed;
    for (unsigned i = 0; i < 60; i++) {
        size_t n = next_random(&random) % (i % 7 ? 700 : 20000);
        add_turn(w, gone, "SECRET-one-", n);
        add_turn(w, stays, "OPEN-two-", next_random(&random) % 900);
        if (i % 6 == 0)
            add_document(w, gone, "SECRET-one-", 30 + next_random(&random) % 40000, i);
        if (i % 9 == 0)
            add_document(w, stays, "OPEN-two-", 30 + next_random(&random) % 9000, i);
        if (i % 5 == 0) {
            put_span(w, gone, "SECRET-one-", 30 + next_random(&random) % 30000, 1000 + i);
            put_span(w, stays, "OPEN-two-", 30 + next_random(&random) % 9000, 2000 + i);
        }
    }
}

/* ---- the cases ----------------------------------------------------------------------------------------- */

static void a_deleted_session_is_nowhere(void **state)
{
    struct world *w = *state;
    static const uint32_t seeds[] = {1, 9, 28}; /* 9 and 28: SQLite left copies when it moved rows */
    for (size_t k = 0; k < sizeof seeds / sizeof seeds[0]; k++) {
        int64_t gone = make(w, "SECRET-one-name", "SECRET-one-"), stays = make(w, "kept", "OPEN-two-");
        fill(w, gone, stays, seeds[k]);
        assert_true(count_in(w->dir, "SECRET-one-") > 1000);
        assert_int_equal(store_session_delete(w->s, gone, &w->e), 0);
        assert_int_equal(count_in(w->dir, "SECRET-one-"), 0); /* while the store is open */
        assert_int_equal(count_in(w->dir, "SECRET"), 0);
        assert_true(count_in(w->dir, "OPEN-two-") > 1000);
        assert_int_equal(store_session_delete(w->s, stays, &w->e), 0);
        assert_int_equal(count_in(w->dir, "OPEN-two-"), 0);
    }
}

static void documents_that_are_dropped_are_nowhere(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "a", "OPEN-two-");
    for (unsigned i = 0; i < 12; i++) {
        add_document(w, id, i < 6 ? "OPEN-two-" : "SECRET-one-", 50 + 3000 * i, i);
        add_turn(w, id, "OPEN-two-", 60 * i);
    }
    /* Replaced within one transaction: it goes when the whole is committed. */
    assert_int_equal(store_begin(w->s, &w->e), 0);
    assert_int_equal(store_document_drop_from(w->s, id, 6, &w->e), 0);
    add_document(w, id, "OPEN-two-", 500, 99);
    assert_int_equal(store_end(w->s, 0, &w->e), 0);
    assert_int_equal(count_in(w->dir, "SECRET"), 0);
    struct store_document_list list;
    assert_int_equal(store_document_list(w->s, id, &list, &w->e), 0);
    assert_int_equal(list.n, 7);
    store_document_list_free(&list);
}

static void spans_go_with_strip_and_gc(void **state)
{
    struct world *w = *state;
    int64_t gone = make(w, "a", "OPEN-two-"), stays = make(w, "b", "OPEN-two-");
    const struct store_budget nothing = {.bytes = 0};
    struct store_gc_result result;
    uint64_t bytes;
    for (unsigned i = 0; i < 10; i++) {
        put_span(w, gone, "SECRET-one-", 5000 + 777 * i, i);
        put_span(w, stays, "OPEN-two-", 5000 + 777 * i, 100 + i);
    }
    assert_true(count_in(w->dir, "SECRET") > 100);
    assert_int_equal(store_session_strip(w->s, gone, &bytes, &w->e), 0);
    assert_int_equal(bytes, 10 * 5000 + 777 * 45);
    assert_int_equal(count_in(w->dir, "SECRET"), 0);
    assert_true(count_in(w->dir, "OPEN-two-OPEN") > 100);
    assert_int_equal(store_gc(w->s, &nothing, NULL, NULL, &result, &w->e), 0);
    assert_int_equal(result.bytes_after, 0);
    assert_true(count_in(w->dir, "OPEN-two-OPEN") == 0);
}

/* A child that opens the folder, says so, waits to be told, and ends. */
struct child {
    pid_t pid;
    int up[2], down[2];
};

static void child_start(struct child *c, void (*work)(const char *dir, const struct child *c),
                        const char *dir)
{
    assert_int_equal(pipe(c->up), 0);
    assert_int_equal(pipe(c->down), 0);
    c->pid = fork();
    assert_true(c->pid >= 0);
    if (!c->pid) {
        close(c->up[0]);
        close(c->down[1]);
        work(dir, c);
        _exit(0);
    }
    close(c->up[1]); /* so that a child that fails is not waited for */
    close(c->down[0]);
    char byte;
    if (read(c->up[0], &byte, 1) != 1) {
        int status = 0;
        waitpid(c->pid, &status, 0);
        fail_msg("the child ended with %d", WEXITSTATUS(status));
    }
}

static void child_waits(const struct child *c)
{
    char byte = 1;
    if (write(c->up[1], &byte, 1) != 1 || read(c->down[0], &byte, 1) != 1)
        _exit(9);
}

static void child_end(struct child *c)
{
    int status;
    assert_int_equal(write(c->down[1], "x", 1), 1);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(c->up[0]);
    close(c->down[1]);
}

static void hold_span_7(const char *dir, const struct child *c)
{
    struct store *s;
    struct err e;
    struct span_map m;
    uint8_t key[16];
    fixture_key(7, key);
    if (store_open(dir, &s, &e) || store_span_map(s, 1, key, &m, &e))
        _exit(3);
    child_waits(c);
    for (size_t i = 0; i < m.size; i++) /* not a byte has changed */
        if (m.data[i] != "SECRET-one-"[i % 11])
            _exit(4);
    store_span_unmap(s, &m);
    store_close(s);
}

static void a_reader_keeps_its_bytes_and_no_more(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "a", "OPEN-two-");
    int64_t other = make(w, "b", "OPEN-two-");
    for (unsigned i = 0; i < 10; i++)
        put_span(w, id, "SECRET-one-", 9000, i);
    put_span(w, other, "OPEN-two-", 9000, 50); /* so that the file itself stays */
    struct child c;
    child_start(&c, hold_span_7, w->dir);
    assert_int_equal(store_session_delete(w->s, id, &w->e), 0);
    unsigned held = count_in(w->dir, "SECRET");
    assert_true(held >= 800 && held <= 900); /* one span of ten */
    assert_int_equal(store_collect(w->s, &w->e), 0);
    assert_int_equal(count_in(w->dir, "SECRET"), held);
    child_end(&c); /* it found its bytes */
    assert_int_equal(store_collect(w->s, &w->e), 0);
    assert_int_equal(count_in(w->dir, "SECRET"), 0);
}

static void read_for_a_while(const char *dir, const struct child *c)
{
    struct store *s;
    struct err e;
    int64_t n;
    if (store_open(dir, &s, &e) || sql_run(s, "BEGIN", SQL_NO_ARGS, &e) ||
        sql_number(s, &n, "SELECT count(*) FROM turns", SQL_NO_ARGS, &e))
        _exit(3);
    child_waits(c);
    if (sql_run(s, "COMMIT", SQL_NO_ARGS, &e))
        _exit(4);
    store_close(s);
}

static void a_log_that_a_reader_needs_is_cut_later(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "a", "SECRET-one-"), other = make(w, "b", "OPEN-two-");
    add_turn(w, id, "SECRET-one-", 3000);
    struct child c;
    child_start(&c, read_for_a_while, w->dir);
    assert_int_equal(store_session_delete(w->s, id, &w->e), 0);
    child_end(&c);
    add_turn(w, other, "OPEN-two-", 100);
    assert_int_equal(store_collect(w->s, &w->e), 0);
    assert_int_equal(count_in(w->dir, "SECRET"), 0);
}

static void a_process_killed_while_deleting_leaves_a_debt(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "a", "SECRET-one-"), other = make(w, "b", "OPEN-two-");
    fill(w, id, other, 7);
    /* As if it was killed right after the commit: the rows are gone, nothing else was done. */
    assert_int_equal(sql_run(w->s, "DELETE FROM sessions WHERE id=?1", SQL_ARGS(sql_int(id)), &w->e), 0);
    store_close(w->s);
    assert_int_equal(store_open(w->dir, &w->s, &w->e), 0);
    assert_int_equal(store_collect(w->s, &w->e), 0);
    assert_int_equal(count_in(w->dir, "SECRET"), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_deleted_session_is_nowhere),
        CASE(documents_that_are_dropped_are_nowhere),
        CASE(spans_go_with_strip_and_gc),
        CASE(a_reader_keeps_its_bytes_and_no_more),
        CASE(a_log_that_a_reader_needs_is_cut_later),
        CASE(a_process_killed_while_deleting_leaves_a_debt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
