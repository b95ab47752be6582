/* SPDX-License-Identifier: Apache-2.0 */
/* test_app_store.c - `lectern store` and the pins of `lectern sessions` on a small store: what is printed,
 * what is returned, what is left. Commands run in this process; their standard output is caught in a file. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/cli.h"
#include "app/commands.h"
#include "app/interrupt.h"
#include "app/store_care.h"
#include "data/store/store.h"
#include "engine/base/file.h"
#include "tests/support/store_fixture.h"

enum { BLOCK = 1000, BLOCKS_A = 6, BLOCKS_SHARED = 4, KIND = 1 };

struct world {
    char *dir, *out; /* data folder, caught output */
    struct err e;
};

/* ---- a store ---- */

static void block_key(unsigned i, uint8_t key[STORE_KEY_BYTES])
{
    memset(key, 0, STORE_KEY_BYTES);
    key[0] = (uint8_t)i;
    key[15] = 0x5a;
}

/* Block i of a chain: BLOCK bytes, ten tokens, 2 seconds. */
static void put_block(struct store *s, int64_t session, unsigned i, unsigned parent, uint64_t position)
{
    struct err e;
    uint8_t key[STORE_KEY_BYTES], before[STORE_KEY_BYTES], bytes[BLOCK];
    block_key(i, key);
    block_key(parent, before);
    memset(bytes, (int)i, sizeof bytes);
    const struct iovec part = {bytes, sizeof bytes};
    const struct span_put put = {.kind = KIND,
                                 .key = key,
                                 .parent = parent ? before : NULL,
                                 .parts = &part,
                                 .n = 1,
                                 .position = position,
                                 .seconds = 2};
    assert_int_equal(store_session_ref(s, session, KIND, key, &e), 0);
    if (store_span_put(s, &put, &e))
        fail_msg("%s", e.text);
}

static void add_document(struct store *s, int64_t session, const char *path, uint64_t start, uint64_t count)
{
    struct err e;
    char text[] = "Some text.";
    uint32_t ids[2] = {1, 2};
    const struct store_document d = {.path = (char *)(uintptr_t)path,
                                     .title = (char *)(uintptr_t) "",
                                     .kind = (char *)(uintptr_t) "text",
                                     .size = 10,
                                     .token_start = start,
                                     .token_count = count};
    const struct iovec parts[STORE_PARTS] = {{text, 10}, {text, 4}, {ids, 8}, {ids, 8}};
    if (store_document_add(s, session, &d, parts, NULL, &e))
        fail_msg("%s", e.text);
}

static int64_t new_session(struct store *s, const char *name, unsigned leaf, uint64_t tokens)
{
    struct err e;
    int64_t id = 0;
    struct store_session row = {0};
    assert_int_equal(store_session_create(s, name, NULL, &id, &e), 0);
    assert_int_equal(store_session_get(s, name, &row, &e), 0);
    row.has_chain = 1;
    row.tokens = tokens;
    block_key(leaf, row.chain);
    assert_int_equal(store_session_update(s, &row, &e), 0);
    store_session_free(&row);
    return id;
}

/* "alpha" has blocks 1..6 and two documents, "beta" shares blocks 1..4 and has 11, 12 of its own. */
static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct store *s = NULL;
    struct err e;
    w->dir = fixture_dir_make();
    if (!w->dir || asprintf(&w->out, "%s-out", w->dir) < 0 || store_open(w->dir, &s, &e))
        return -1;
    int64_t a = new_session(s, "alpha", 6, 60), b = new_session(s, "beta", 12, 60);
    add_document(s, a, "/books/one.txt", 2, 38);
    add_document(s, a, "/books/a rather long name of a second document.txt", 40, 20);
    add_document(s, b, "/books/one.txt", 2, 58);
    for (unsigned i = 1; i <= BLOCKS_A; i++)
        put_block(s, a, i, i - 1, i * 10);
    for (unsigned i = 1; i <= BLOCKS_SHARED; i++)
        put_block(s, b, i, i - 1, i * 10);
    put_block(s, b, 11, 4, 50);
    put_block(s, b, 12, 11, 60);
    const struct store_turn turn = {.question = (char *)(uintptr_t) "Why?",
                                    .answer = (char *)(uintptr_t) "So.",
                                    .json = (char *)(uintptr_t) "{}"};
    int rc = store_turn_add(s, a, &turn, NULL, &e);
    store_close(s);
    /* Opened long ago, beta before alpha. */
    rc |= fixture_sql(w->dir, "UPDATE sessions SET opened = 1000000 WHERE name = 'beta'");
    *state = w;
    return rc;
}

static int teardown(void **state)
{
    struct world *w = *state;
    fixture_dir_remove(w->dir);
    unlink(w->out);
    free(w->out);
    free(w);
    return 0;
}

/* ---- running a command ---- */

/* As main does: words separated by '|'. Leaves stdout in w->out. */
static int command(struct world *w, const char *line)
{
    char room[400], *rest = room, *word;
    char *argv[20] = {(char *)(uintptr_t) "lectern"};
    int argc = 1;
    const struct cli_command *cli;
    struct config c;
    snprintf(room, sizeof room, "%s", line);
    while ((word = strsep(&rest, "|")) && argc < 20)
        argv[argc++] = word;
    config_init(&c);
    w->e = (struct err){0};
    int rc = cli_parse(argc, argv, &c, &cli, &w->e);
    if (rc)
        fail_msg("%s: %s", line, w->e.text);
    c.data_dir_option = w->dir;
    c.quiet = 1;
    assert_int_equal(config_resolve(&c, &w->e), 0);
    fflush(stdout);
    int keep = dup(STDOUT_FILENO), fd = open(w->out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(keep >= 0 && fd >= 0 && dup2(fd, STDOUT_FILENO) >= 0);
    rc = cli->id == CLI_STORE ? cmd_store(&c, &w->e) : cmd_sessions(&c, &w->e);
    fflush(stdout);
    dup2(keep, STDOUT_FILENO);
    close(keep);
    close(fd);
    config_fini(&c);
    return rc;
}

static char *text_of(struct world *w)
{
    char *text = NULL;
    size_t n;
    struct err e;
    assert_int_equal(file_read(w->out, 1 << 20, &text, &n, &e), 0);
    return text;
}

/* Succeeds (or fails with `code`) and prints one JSON value, the caller's. */
static json_t *json_of(struct world *w, const char *line, int code)
{
    int rc = command(w, line);
    if (rc != code)
        fail_msg("%s: %d %s", line, rc, w->e.text);
    char *text = text_of(w);
    json_error_t where;
    json_t *v = json_loads(text, 0, &where);
    if (!v)
        fail_msg("%s: %s in %s", line, where.text, text);
    free(text);
    return v;
}

static long long number(const json_t *v, const char *key)
{
    const json_t *n = json_object_get(v, key);
    if (!json_is_number(n) && !json_is_boolean(n))
        fail_msg("no number ‘%s’", key);
    return json_is_boolean(n) ? json_is_true(n) : (long long)json_number_value(n);
}

static const json_t *named(const json_t *list, const char *name)
{
    size_t i;
    json_t *v;
    json_array_foreach(list, i,
                       v) if (strcmp(json_string_value(json_object_get(v, "name")), name) == 0) return v;
    fail_msg("no ‘%s’", name);
    return NULL;
}

static void says(struct world *w, const char *line, const char *expected)
{
    int rc = command(w, line);
    char *text = text_of(w);
    if (rc || strcmp(text, expected) != 0)
        fail_msg("%s: %d %s‘%s’, expected ‘%s’", line, rc, w->e.text, text, expected);
    free(text);
}

/* ---- stats ---- */

static void stats_add_up(void **state)
{
    struct world *w = *state;
    json_t *v = json_of(w, "store|stats|--json", 0);
    assert_int_equal(number(v, "spans"), 8);
    assert_int_equal(number(v, "kv_bytes"), 8 * BLOCK);
    assert_int_equal(number(v, "turns"), 1);
    assert_true(json_is_null(json_object_get(v, "budget")));
    assert_true(number(v, "free_bytes") > 0 && number(v, "index_bytes") > 0);
    const json_t *sessions = json_object_get(v, "sessions"), *a = named(sessions, "alpha");
    assert_int_equal(json_array_size(sessions), 2);
    assert_int_equal(number(a, "kv_bytes"), 6 * BLOCK);
    assert_int_equal(number(a, "shared_bytes"), 4 * BLOCK);
    assert_int_equal(number(a, "rebuild_seconds"), 12);
    assert_int_equal(number(a, "pinned"), 0);
    const json_t *documents = json_object_get(a, "documents");
    assert_int_equal(json_array_size(documents), 2);
    assert_int_equal(number(json_array_get(documents, 0), "kv_bytes"), 4 * BLOCK);
    assert_int_equal(number(json_array_get(documents, 0), "shared_bytes"), 4 * BLOCK);
    assert_int_equal(number(json_array_get(documents, 1), "kv_bytes"), 2 * BLOCK);
    assert_int_equal(number(json_array_get(documents, 1), "shared_bytes"), 0);
    assert_int_equal(number(json_array_get(documents, 1), "rebuild_seconds"), 4);
    const json_t *chains = json_object_get(v, "chains");
    assert_int_equal(json_array_size(chains), 2);
    assert_int_equal(number(json_array_get(chains, 1), "opened"), 1000000);
    assert_int_equal(number(json_array_get(chains, 0), "tokens"), 60);
    assert_int_equal(number(json_array_get(chains, 0), "kv_bytes"), 6 * BLOCK);
    json_decref(v);
    v = json_of(w, "store|stats|beta|--json|--budget|9G", 0);
    assert_int_equal(number(v, "opened"), 1000000);
    assert_int_equal(number(json_array_get(json_object_get(v, "documents"), 0), "kv_bytes"), 6 * BLOCK);
    json_decref(v);
}

static void tables_fit_the_terminal(void **state)
{
    struct world *w = *state;
    static const char *const lines[] = {"store", "store|stats|alpha", "sessions|list"};
    assert_int_equal(command(w, "sessions|rename|beta|a name that is much too long for the table, äöü 漢字"),
                     0);
    assert_int_equal(command(w, "store|pin|alpha"), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(command(w, lines[i]), 0);
        char *text = text_of(w), *rest = text, *line;
        assert_non_null(strstr(text, "alpha"));
        assert_non_null(strstr(text, i < 2 ? "0:12" : "PINNED"));
        while ((line = strsep(&rest, "\n"))) {
            size_t columns = 0;
            for (const char *p = line; *p; p++)
                columns += (*p & 0xc0) != 0x80;
            if (i < 2 && columns > 80)
                fail_msg("%zu columns: %s", columns, line);
        }
        free(text);
    }
}

/* ---- pins and room ---- */

static void pins(void **state)
{
    struct world *w = *state;
    says(w, "store|pin|beta", "beta: pinned; no clean-up drops its reading\n");
    json_t *v = json_of(w, "sessions|--json", 0);
    assert_int_equal(number(named(v, "beta"), "pinned"), 1);
    assert_int_equal(number(named(v, "alpha"), "pinned"), 0);
    json_decref(v);
    v = json_of(w, "store|gc|--budget|1K|--json", 0);
    assert_int_equal(number(v, "bytes_before"), 8 * BLOCK);
    assert_int_equal(number(v, "bytes_after"), 6 * BLOCK);
    assert_int_equal(number(v, "dropped_spans"), 2);
    assert_int_equal(number(v, "dropped_bytes"), 2 * BLOCK);
    assert_int_equal(number(v, "kept_because_pinned"), 6 * BLOCK);
    assert_int_equal(number(v, "seconds_to_rebuild"), 4);
    assert_int_equal(number(v, "met"), 0);
    json_decref(v);
    v = json_of(w, "store|unpin|beta|--json", 0);
    assert_int_equal(number(v, "pinned"), 0);
    json_decref(v);
    v = json_of(w, "store|gc|--budget|1K|--json", 0);
    assert_int_equal(number(v, "met"), 1);
    assert_true(number(v, "bytes_after") <= BLOCK);
    json_decref(v);
}

static void the_least_recently_opened_goes_first(void **state)
{
    struct world *w = *state;
    says(w, "store|gc", "nothing to drop; 8.0 kB in use\n");
    says(w, "store|gc|--budget|7500",
         "dropped 1 span, 1.0 kB; 7.0 kB remain\nto read what was dropped again takes about 0:02\n");
    json_t *v = json_of(w, "store|stats|--json", 0);
    const json_t *sessions = json_object_get(v, "sessions");
    assert_int_equal(number(named(sessions, "alpha"), "kv_bytes"), 6 * BLOCK);
    assert_int_equal(number(named(sessions, "beta"), "kv_bytes"), 5 * BLOCK);
    json_decref(v);
}

static void care(void **state)
{
    struct world *w = *state;
    struct store *s = NULL;
    struct store_stats stats;
    struct store_lock *lock = NULL;
    struct config c;
    config_init(&c);
    c.quiet = 1;
    assert_int_equal(store_open(w->dir, &s, &w->e), 0);
    assert_int_equal(store_care(&c, s, &w->e), 0); /* no limit */
    assert_int_equal(store_stats(s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 8);
    assert_int_equal(store_session_lock(s, 1, &lock, &w->e), 0); /* alpha is open here */
    c.budget = 3 * BLOCK;
    c.leave_free = 0;
    assert_int_equal(store_care(&c, s, &w->e), 0);
    assert_int_equal(store_stats(s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 6);
    store_session_unlock(lock);
    struct buf line = {0}; /* where the terminal is the room's */
    assert_int_equal(store_care_quiet(&c, s, NULL, &line, &w->e), 0);
    assert_non_null(line.data);
    assert_non_null(strstr(line.data, " of older readings dropped to keep the budget; their text stays"));
    assert_null(strstr(line.data, "not met"));
    assert_int_equal(store_stats(s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 3);
    buf_free(&line);
    store_close(s);
    config_fini(&c);
}

static void strip(void **state)
{
    struct world *w = *state;
    says(w, "store|strip|alpha",
         "alpha: 2.0 kB of readings dropped, text and turns kept; 4.0 kB stay for other sessions; to read it "
         "again takes about 0:12\n");
    json_t *v = json_of(w, "sessions|show|alpha|--json", 0);
    assert_int_equal(number(v, "tokens"), 0);
    assert_int_equal(number(v, "kv_bytes"), 0);
    assert_int_equal(json_array_size(json_object_get(v, "documents")), 2);
    assert_int_equal(json_array_size(json_object_get(v, "turns")), 1);
    json_decref(v);
    v = json_of(w, "store|strip|alpha|--json", 0);
    assert_int_equal(number(v, "freed_bytes"), 0);
    json_decref(v);
}

/* ---- proof ---- */

static void flip(struct world *w)
{
    char *segment = fixture_segment(w->dir, 1);
    /* The first byte of the last block's payload, wherever it lies. */
    int fd = open(segment, O_RDWR);
    assert_true(fd >= 0);
    char bytes[BLOCK], twelve[BLOCK];
    memset(twelve, 12, sizeof twelve);
    off_t at = 0;
    while (pread(fd, bytes, BLOCK, at) == BLOCK && memcmp(bytes, twelve, BLOCK) != 0)
        at += 8;
    assert_int_equal(pwrite(fd, "!", 1, at + 17), 1);
    close(fd);
    free(segment);
}

static void verify_finds_and_repairs(void **state)
{
    struct world *w = *state;
    says(w, "store|verify", "sound: 8 spans (8.0 kB), 2 sessions, 3 documents and 1 turn\n");
    flip(w);
    assert_int_equal(command(w, "store|verify"), ERR_FORMAT);
    assert_non_null(strstr(w->e.text, "`lectern store verify --repair`"));
    char *text = text_of(w);
    assert_non_null(strstr(text, "\nlooked at "));
    free(text);
    json_t *v = json_of(w, "store|verify|--json", ERR_FORMAT);
    assert_true(number(v, "problems") >= 1);
    assert_int_equal(number(v, "repaired"), 0);
    assert_true(json_array_size(json_object_get(v, "lines")) == (size_t)number(v, "problems"));
    json_decref(v);
    v = json_of(w, "store|verify|--repair|--json", 0);
    assert_true(number(v, "repaired") == number(v, "problems"));
    json_decref(v);
    v = json_of(w, "store|verify|--json", 0);
    assert_int_equal(number(v, "problems"), 0);
    assert_int_equal(number(v, "spans"), 7);
    assert_int_equal(number(v, "missing"), 1);
    json_decref(v);
}

/* ---- files ---- */

static void out_and_in(void **state)
{
    struct world *w = *state;
    char line[300];
    snprintf(line, sizeof line, "store|export|alpha|%s/x.lectern|--json", w->dir);
    json_t *v = json_of(w, line, 0);
    assert_int_equal(number(v, "documents"), 2);
    assert_int_equal(number(v, "spans"), 6);
    assert_int_equal(number(v, "span_bytes"), 6 * BLOCK);
    json_decref(v);
    snprintf(line, sizeof line, "store|import|%s/x.lectern", w->dir);
    assert_int_equal(command(w, line), ERR_USAGE); /* the name is taken */
    snprintf(line, sizeof line, "store|import|%s/x.lectern|gamma", w->dir);
    says(w, line, "gamma: imported; 2 documents, 1 turn, 6.0 kB of readings, all of it here already\n");
    snprintf(line, sizeof line, "store|export|gamma|%s/y.lectern|--without-kv", w->dir);
    assert_int_equal(command(w, line), 0);
    assert_int_equal(command(w, "sessions|delete|gamma|--yes"), 0);
    snprintf(line, sizeof line, "store|import|%s/y.lectern|--json", w->dir);
    v = json_of(w, line, 0);
    assert_string_equal(json_string_value(json_object_get(v, "name")), "gamma");
    assert_int_equal(number(v, "spans"), 0);
    json_decref(v);
    v = json_of(w, "sessions|show|gamma|--json", 0);
    assert_int_equal(json_array_size(json_object_get(v, "turns")), 1);
    json_decref(v);
}

static void contains(struct world *w, const char *line, const char *expected)
{
    int rc = command(w, line);
    char *text = text_of(w);
    if (rc || !strstr(text, expected))
        fail_msg("%s: %d %s‘%s’, expected ‘%s’", line, rc, w->e.text, text, expected);
    free(text);
}

/* A row that is not as it was written is shown as such, stops nothing else, and can be deleted. */
static void damaged_rows(void **state)
{
    struct world *w = *state;
    assert_int_equal(fixture_sql(w->dir, "UPDATE sessions SET tokens = tokens + 1 WHERE name = 'beta'"), 0);
    assert_int_equal(fixture_sql(w->dir, "UPDATE turns SET answer = 'No.'"), 0);
    contains(w, "sessions", "beta   ");
    contains(w, "sessions", "damaged; `lectern store verify` says more, or delete it\n");
    contains(w, "store", "damaged; `lectern store verify` says more\n");
    contains(w, "sessions|show|alpha", "(damaged: this is not what was written)");
    json_t *v = json_of(w, "store|stats|--json", 0);
    assert_int_equal(number(named(json_object_get(v, "sessions"), "beta"), "damaged"), 1);
    assert_int_equal(number(named(json_object_get(v, "sessions"), "alpha"), "damaged"), 0);
    json_decref(v);
    assert_int_equal(command(w, "store|stats|beta"), ERR_FORMAT);
    v = json_of(w, "store|verify|--repair|--json", ERR_FORMAT);
    assert_true(number(v, "problems") >= 2 && number(v, "repaired") == 0);
    json_decref(v);
    assert_non_null(strstr(w->e.text, "text and turns are never dropped"));
    assert_int_equal(command(w, "sessions|delete|beta|alpha|--yes"), 0);
    says(w, "store|verify", "sound: 0 spans (0 B), 0 sessions, 0 documents and 0 turns\n");
}

/* Ctrl-C before the first step, in a process of its own: what is said, and that nothing is lost. */
static void stopping(void **state)
{
    struct world *w = *state;
    char to_file[300], from_file[300];
    snprintf(from_file, sizeof from_file, "store|export|alpha|%s/a.lectern", w->dir);
    assert_int_equal(command(w, from_file), 0);
    snprintf(from_file, sizeof from_file, "store|import|%s/a.lectern|other", w->dir);
    snprintf(to_file, sizeof to_file, "store|export|alpha|%s/z.lectern", w->dir);
    const struct {
        const char *line, *said;
    } cases[] = {{"store|verify", "stopped; "},
                 {"store|gc|--budget|0", "stopped; 0 spans were dropped, and the same command goes on"},
                 {from_file, "stopped; nothing was imported"},
                 {to_file, "was not written"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *line = cases[i].line;
        pid_t child = fork();
        if (!child) {
            interrupt_watch();
            raise(SIGINT);
            int rc = command(w, line);
            if (rc != ERR_CANCELLED || !strstr(w->e.text, cases[i].said))
                fprintf(stderr, "%s: %d %s\n", line, rc, w->e.text);
            _exit(rc == ERR_CANCELLED && strstr(w->e.text, cases[i].said) ? 0 : 1);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        json_t *v = json_of(w, "store|verify|--json", 0);
        assert_int_equal(number(v, "spans"), 8);
        assert_int_equal(number(v, "sessions"), 2);
        json_decref(v);
    }
    char path[300];
    snprintf(path, sizeof path, "%s/z.lectern", w->dir);
    assert_int_equal(access(path, F_OK), -1);
}

/* jansson's allocations: the n-th fails. */
static size_t json_calls, json_fails_at;

static void *json_allocate(size_t n)
{
    return ++json_calls == json_fails_at ? NULL : malloc(n);
}

/* Whichever allocation fails: the same text, or an error; never another text. */
static void json_without_memory(void **state)
{
    struct world *w = *state;
    static const char *const lines[] = {"sessions|show|alpha|--json", "sessions|--json", "store|stats|--json",
                                        "store|verify|--json"};
    struct store *s = NULL;
    const struct store_turn turn = {
        .question = (char *)(uintptr_t) "Why is the ferry of Vesterholm late on Thursdays?",
        .answer = (char *)(uintptr_t) "It waits for the post.",
        .json = (char *)(uintptr_t) "{\"answer\": \"It waits for the post.\", \"usage\": {\"tokens\": 7}}"};
    assert_int_equal(store_open(w->dir, &s, &w->e), 0);
    assert_int_equal(store_turn_add(s, 1, &turn, NULL, &w->e), 0);
    store_close(s);
    json_set_alloc_funcs(json_allocate, free);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        json_calls = json_fails_at = 0;
        assert_int_equal(command(w, lines[i]), 0);
        char *whole = text_of(w);
        size_t calls = json_calls;
        assert_true(calls > 20);
        for (size_t at = 1; at <= calls; at++) {
            json_calls = 0;
            json_fails_at = at;
            int rc = command(w, lines[i]);
            char *text = text_of(w);
            /* Free space and the database's size may differ between two runs. */
            if (rc ? rc != ERR_MEMORY : i != 2 && strcmp(text, whole) != 0)
                fail_msg("%s, allocation %zu: %d %s", lines[i], at, rc, text);
            free(text);
        }
        free(whole);
    }
    json_set_alloc_funcs(malloc, free);
}

static void unknown_sessions_are_named(void **state)
{
    struct world *w = *state;
    static const char *const lines[] = {"store|stats|nobody", "store|strip|nobody", "store|pin|nobody",
                                        "store|unpin|nobody", "store|export|nobody|/tmp/x"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        assert_int_equal(command(w, lines[i]), ERR_NOT_FOUND);
        assert_string_equal(w->e.text, "there is no session ‘nobody’; `lectern sessions` lists them");
    }
}

int main(void)
{
    setenv("XDG_CONFIG_HOME", "/nonexistent", 1);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(stats_add_up),
        TEST(tables_fit_the_terminal),
        TEST(pins),
        TEST(the_least_recently_opened_goes_first),
        TEST(care),
        TEST(strip),
        TEST(out_and_in),
        TEST(verify_finds_and_repairs),
        TEST(json_without_memory),
        TEST(damaged_rows),
        TEST(stopping),
        TEST(unknown_sessions_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
