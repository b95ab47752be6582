/* SPDX-License-Identifier: Apache-2.0 */
/* test_transfer.c - a session goes through a file whole; any other file is refused and imports nothing.
 *
 * test_transfer_hostile.c has the files that somebody made on purpose.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/transfer/transfer.h"
#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/progress.h"
#include "tests/support/store_fixture.h"
#include "tests/support/transfer_fixture.h"

struct world {
    struct transfer_world a, b; /* from, to */
    char *file;                 /* in a's folder */
    struct transfer_result out;
    struct err e;
};

static int setup_with(void **state, unsigned spans, size_t text)
{
    struct world *w = calloc(1, sizeof *w);
    *state = w;
    transfer_world_open(&w->a);
    transfer_fill(&w->a, spans, text);
    transfer_world_open(&w->b);
    w->file = path_join(w->a.dir, "it.lectern");
    return !w->file;
}

static int setup(void **state)
{
    return setup_with(state, 12, 1500000);
}

static int setup_small(void **state)
{
    return setup_with(state, 7, 20000);
}

static int teardown(void **state)
{
    struct world *w = *state;
    transfer_world_close(&w->a);
    transfer_world_close(&w->b);
    free(w->file);
    free(w);
    return 0;
}

static void export_it(struct world *w, int without_kv)
{
    const struct transfer_options o = {.without_kv = without_kv};
    int rc = transfer_export(w->a.s, w->a.id, w->file, &o, &w->out, &w->e);
    if (rc)
        print_error("%s\n", w->e.text);
    assert_int_equal(rc, 0);
}

static int import_it(struct world *w, const char *name)
{
    memset(&w->e, 0, sizeof w->e);
    return transfer_import(w->b.s, w->file, name, NULL, &w->out, &w->e);
}

/* How many names of the folder begin like the exported file. */
static int files(const struct world *w)
{
    int n = 0;
    DIR *dir = opendir(w->a.dir);
    for (const struct dirent *entry; (entry = readdir(dir));)
        n += strncmp(entry->d_name, "it.lectern", 10) == 0;
    closedir(dir);
    return n;
}

/* ---- round trips --------------------------------------------------------------------------------------- */

static void expect_same_session(struct world *w, int with_kv)
{
    struct store_session a, b;
    assert_int_equal(store_session_get_id(w->a.s, w->a.id, &a, &w->e), 0);
    assert_int_equal(store_session_get_id(w->b.s, w->out.session, &b, &w->e), 0);
    assert_string_equal(a.name, b.name);
    assert_string_equal(a.model_path, b.model_path);
    assert_string_equal(a.options, b.options);
    assert_memory_equal(a.model_hash, b.model_hash, sizeof a.model_hash);
    assert_int_equal(b.has_chain, with_kv);
    assert_int_equal(b.tokens, with_kv ? a.tokens : 0);
    assert_int_equal(b.kv_bytes, with_kv ? a.kv_bytes : 0);
    if (with_kv)
        assert_memory_equal(a.chain, b.chain, sizeof a.chain);
    store_session_free(&a);
    store_session_free(&b);
}

static void expect_same_documents(struct world *w)
{
    struct store_document_list a, b;
    assert_int_equal(store_document_list(w->a.s, w->a.id, &a, &w->e), 0);
    assert_int_equal(store_document_list(w->b.s, w->out.session, &b, &w->e), 0);
    assert_int_equal(a.n, b.n);
    assert_true(a.n > 1);
    for (size_t i = 0; i < a.n; i++) {
        assert_string_equal(a.items[i].path, b.items[i].path);
        assert_string_equal(a.items[i].title, b.items[i].title);
        assert_string_equal(a.items[i].kind, b.items[i].kind);
        assert_int_equal(a.items[i].size, b.items[i].size);
        assert_int_equal(a.items[i].mtime_ns, b.items[i].mtime_ns);
        assert_memory_equal(a.items[i].hash, b.items[i].hash, 16);
        assert_int_equal(a.items[i].pages, b.items[i].pages);
        assert_int_equal(a.items[i].token_start, b.items[i].token_start);
        assert_int_equal(a.items[i].token_count, b.items[i].token_count);
        for (int part = 0; part < STORE_PARTS; part++) {
            void *x, *y;
            size_t nx, ny;
            assert_int_equal(
                store_document_read(w->a.s, w->a.id, (int)i, (enum store_part)part, &x, &nx, &w->e), 0);
            assert_int_equal(
                store_document_read(w->b.s, w->out.session, (int)i, (enum store_part)part, &y, &ny, &w->e),
                0);
            assert_int_equal(nx, ny);
            assert_memory_equal(x, y, nx + 1);
            free(x);
            free(y);
        }
    }
    store_document_list_free(&a);
    store_document_list_free(&b);
}

static void expect_same_turns(struct world *w)
{
    struct store_turn_list a, b;
    assert_int_equal(store_turn_list(w->a.s, w->a.id, &a, &w->e), 0);
    assert_int_equal(store_turn_list(w->b.s, w->out.session, &b, &w->e), 0);
    assert_int_equal(a.n, b.n);
    assert_true(a.n > 1);
    for (size_t i = 0; i < a.n; i++) {
        assert_string_equal(a.items[i].question, b.items[i].question);
        assert_string_equal(a.items[i].answer, b.items[i].answer);
        assert_string_equal(a.items[i].json, b.items[i].json);
        assert_int_equal(a.items[i].time, b.items[i].time);
    }
    store_turn_list_free(&a);
    store_turn_list_free(&b);
}

static void expect_same_spans(struct world *w)
{
    for (unsigned i = 0; i < w->a.spans; i++) {
        uint8_t key[STORE_KEY_BYTES];
        struct span_info a, b;
        fixture_key(i, key);
        assert_int_equal(store_span_find(w->a.s, 1, key, &a, &w->e), 0);
        assert_int_equal(store_span_find(w->b.s, 1, key, &b, &w->e), 0);
        assert_int_equal(a.has_parent, b.has_parent);
        assert_memory_equal(a.parent, b.parent, STORE_KEY_BYTES);
        assert_int_equal(a.size, b.size);
        assert_int_equal(a.position, b.position);
        assert_true(fabs(a.seconds - b.seconds) < 1e-6);
        assert_int_equal(a.meta_size, b.meta_size);
        assert_memory_equal(a.meta, b.meta, a.meta_size);
        assert_int_equal(fixture_check(w->b.s, i, &w->e), 0);
    }
}

static void a_session_goes_through_a_file_whole(void **state)
{
    struct world *w = *state;
    export_it(w, 0);
    struct transfer_result exported = w->out;
    struct stat st;
    assert_int_equal(stat(w->file, &st), 0);
    assert_int_equal(exported.file_bytes, st.st_size);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(exported.spans, w->a.spans);
    assert_int_equal(exported.session, w->a.id);
    assert_string_equal(exported.name, "a book, read");
    assert_int_equal(files(w), 1);
    assert_int_equal(import_it(w, NULL), 0);
    assert_int_equal(w->out.spans, w->a.spans);
    assert_int_equal(w->out.new_spans, w->a.spans);
    assert_int_equal(w->out.span_bytes, exported.span_bytes);
    assert_int_equal(w->out.documents, exported.documents);
    assert_int_equal(w->out.turns, exported.turns);
    assert_string_equal(w->out.name, "a book, read");
    expect_same_session(w, 1);
    expect_same_documents(w);
    expect_same_turns(w);
    expect_same_spans(w);
    transfer_expect_digest(&w->b, w->out.session, w->a.digest);
    transfer_expect_clean(&w->b);
    /* What arrived is exported to the same bytes. */
    char *again = path_join(w->b.dir, "again");
    assert_int_equal(transfer_export(w->b.s, w->out.session, again, NULL, &w->out, &w->e), 0);
    char *x, *y;
    size_t nx, ny;
    assert_int_equal(file_read(w->file, 1 << 28, &x, &nx, &w->e), 0);
    assert_int_equal(file_read(again, 1 << 28, &y, &ny, &w->e), 0);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x);
    free(y);
    free(again);
}

static void text_alone_goes_too(void **state)
{
    struct world *w = *state;
    export_it(w, 1);
    assert_int_equal(w->out.spans, 0);
    assert_int_equal(import_it(w, NULL), 0);
    assert_int_equal(w->out.spans, 0);
    expect_same_session(w, 0);
    expect_same_documents(w);
    expect_same_turns(w);
    transfer_expect_clean(&w->b);
    assert_int_equal(store_session_delete(w->b.s, w->out.session, &w->e), 0);
    /* A file with KV of which only the text is wanted. */
    export_it(w, 0);
    const struct transfer_options o = {.without_kv = 1};
    assert_int_equal(transfer_import(w->b.s, w->file, NULL, &o, &w->out, &w->e), 0);
    assert_int_equal(w->out.spans, 0);
    expect_same_session(w, 0);
    expect_same_documents(w);
    expect_same_turns(w);
    transfer_expect_clean(&w->b);
    struct store_stats stats;
    assert_int_equal(store_stats(w->b.s, &stats, &w->e), 0);
    assert_int_equal(stats.spans, 0);
}

static void an_empty_session_goes_too(void **state)
{
    struct world *w = *state;
    int64_t id;
    uint8_t digest[16];
    assert_int_equal(store_session_create(w->a.s, "empty", NULL, &id, &w->e), 0);
    assert_int_equal(store_session_digest(w->a.s, id, digest, &w->e), 0);
    assert_int_equal(transfer_export(w->a.s, id, w->file, NULL, &w->out, &w->e), 0);
    assert_int_equal(import_it(w, NULL), 0);
    assert_string_equal(w->out.name, "empty");
    transfer_expect_digest(&w->b, w->out.session, digest);
}

static void a_taken_name_is_told_and_another_one_shares_the_spans(void **state)
{
    struct world *w = *state;
    export_it(w, 0);
    assert_int_equal(import_it(w, NULL), 0);
    assert_int_equal(import_it(w, NULL), ERR_USAGE);
    assert_non_null(strstr(w->e.text, "a session named a book, read exists; give another name"));
    assert_int_equal(import_it(w, "a book, read"), ERR_USAGE);
    assert_int_equal(import_it(w, "no/slash"), ERR_USAGE);
    assert_int_equal(import_it(w, ""), ERR_USAGE);
    assert_int_equal(import_it(w, "other"), 0);
    assert_string_equal(w->out.name, "other");
    assert_int_equal(w->out.spans, w->a.spans);
    assert_int_equal(w->out.new_spans, 0);
    transfer_expect_digest(&w->b, w->out.session, w->a.digest);
    struct store_stats stats;
    assert_int_equal(store_stats(w->b.s, &stats, &w->e), 0);
    assert_int_equal(stats.sessions, 2);
    assert_int_equal(stats.spans, w->a.spans);
    transfer_expect_clean(&w->b);
}

static void spans_that_were_given_up_are_left_out(void **state)
{
    struct world *w = *state;
    uint8_t key[STORE_KEY_BYTES], digest[16];
    fixture_key(2, key);
    assert_int_equal(store_span_drop(w->a.s, 1, key, &w->e), 0);
    assert_int_equal(store_session_digest(w->a.s, w->a.id, digest, &w->e), 0);
    export_it(w, 0);
    assert_int_equal(w->out.spans, w->a.spans - 1);
    assert_int_equal(import_it(w, NULL), 0);
    transfer_expect_digest(&w->b, w->out.session, digest);
    transfer_expect_clean(&w->b);
}

/* ---- damage -------------------------------------------------------------------------------------------- */

/* A refusal that says why and leaves nothing, or the same session. */
static int expect_refused_or_equal(struct world *w)
{
    int rc = import_it(w, NULL);
    if (rc) {
        assert_int_equal(w->e.code, rc);
        assert_true(rc == ERR_FORMAT || rc == ERR_UNSUPPORTED);
        assert_non_null(strstr(w->e.text, "it.lectern"));
    } else {
        transfer_expect_digest(&w->b, w->out.session, w->a.digest);
        expect_same_session(w, 1);
        expect_same_documents(w);
        expect_same_turns(w);
        assert_int_equal(store_session_delete(w->b.s, w->out.session, &w->e), 0);
    }
    transfer_expect_nothing(&w->b);
    return rc;
}

static void cut(struct world *w, off_t n)
{
    assert_int_equal(truncate(w->file, n), 0);
    assert_int_not_equal(expect_refused_or_equal(w), 0);
}

static void a_truncated_file_is_refused(void **state)
{
    struct world *w = *state;
    export_it(w, 0);
    assert_int_equal(expect_refused_or_equal(w), 0);
    off_t n = (off_t)w->out.file_bytes; /* from the end to the start */
    for (off_t k = 0; k < 60; k++)
        cut(w, n - 1 - k * 41);
    for (off_t k = 63; k > 0; k--)
        cut(w, n / 64 * k);
    for (off_t at = 6000; at > 0; at -= 250)
        cut(w, at);
    cut(w, 0);
}

static void no_flipped_bit_passes(void **state)
{
    struct world *w = *state;
    export_it(w, 0);
    long n = (long)w->out.file_bytes;
    int refused = 0, equal = 0;
    uint32_t random = 7;
    for (int i = 0; i < 700; i++) {
        random = random * 1664525 + 1013904223;
        /* Headers and manifest first, then anywhere, then the end, where the text and the turns are. */
        long range = i < 300 ? 9000 : i < 400 ? n : 16000;
        long at = (long)((uint64_t)random * (uint64_t)range >> 32);
        at = i < 400 ? at : n - 1 - at;
        transfer_flip(w->file, at, 1 << i % 8);
        if (expect_refused_or_equal(w))
            refused++;
        else
            equal++;
        transfer_flip(w->file, at, 1 << i % 8);
    }
    print_message("700 bits: %d refused, %d without meaning\n", refused, equal);
    assert_true(refused > 200);
    assert_int_equal(expect_refused_or_equal(w), 0);
}

/* ---- what the system refuses --------------------------------------------------------------------------- */

static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes < limit.rlim_max ? bytes : limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void an_export_without_room_leaves_no_file(void **state)
{
    struct world *w = *state;
    static const rlim_t limits[] = {0, 100, 512, 5000, 300000};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        limit_files(limits[i]);
        int rc = transfer_export(w->a.s, w->a.id, w->file, NULL, &w->out, &w->e);
        limit_files(RLIM_INFINITY);
        assert_int_equal(rc, ERR_IO);
        assert_non_null(strstr(w->e.text, "it.lectern"));
        assert_int_equal(files(w), 0);
    }
    /* And an old file stays as it was. */
    assert_int_equal(file_write(w->file, "old", 3, &w->e), 0);
    limit_files(5000);
    assert_int_equal(transfer_export(w->a.s, w->a.id, w->file, NULL, &w->out, &w->e), ERR_IO);
    limit_files(RLIM_INFINITY);
    char *bytes;
    size_t n;
    assert_int_equal(file_read(w->file, 100, &bytes, &n, &w->e), 0);
    assert_string_equal(bytes, "old");
    assert_int_equal(files(w), 1);
    free(bytes);
    export_it(w, 0);
    assert_int_equal(import_it(w, NULL), 0);
}

static void an_import_without_room_leaves_nothing(void **state)
{
    struct world *w = *state;
    export_it(w, 0);
    static const rlim_t limits[] = {4096, 20000, 120000, 400000};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        limit_files(limits[i]);
        int rc = import_it(w, NULL);
        limit_files(RLIM_INFINITY);
        assert_int_equal(rc, ERR_IO);
        transfer_world_reopen(&w->b);
        assert_int_equal(store_collect(w->b.s, &w->e), 0);
        transfer_expect_nothing(&w->b);
        transfer_expect_clean(&w->b);
    }
    assert_int_equal(import_it(w, NULL), 0);
    transfer_expect_digest(&w->b, w->out.session, w->a.digest);
}

static void a_target_that_is_no_file_is_refused(void **state)
{
    struct world *w = *state;
    assert_int_equal(mkdir(w->file, 0700), 0);
    assert_int_equal(transfer_export(w->a.s, w->a.id, w->file, NULL, &w->out, &w->e), ERR_USAGE);
    assert_int_equal(import_it(w, NULL), ERR_IO);
    assert_int_equal(rmdir(w->file), 0);
    assert_int_equal(mkfifo(w->file, 0600), 0);
    assert_int_equal(transfer_export(w->a.s, w->a.id, w->file, NULL, &w->out, &w->e), ERR_USAGE);
    assert_int_equal(import_it(w, NULL), ERR_IO); /* and does not wait for a writer */
    assert_int_equal(unlink(w->file), 0);
    assert_int_equal(symlink("/dev/null", w->file), 0);
    assert_int_equal(transfer_export(w->a.s, w->a.id, w->file, NULL, &w->out, &w->e), ERR_USAGE);
    assert_int_equal(unlink(w->file), 0);
    assert_int_equal(import_it(w, NULL), ERR_NOT_FOUND);
    assert_int_equal(transfer_export(w->a.s, w->a.id, "/nowhere/at/all", NULL, &w->out, &w->e),
                     ERR_NOT_FOUND);
    assert_int_equal(transfer_export(w->a.s, 4711, w->file, NULL, &w->out, &w->e), ERR_NOT_FOUND);
    assert_int_equal(files(w), 0);
}

static void a_damaged_span_is_not_exported(void **state)
{
    struct world *w = *state;
    uint8_t key[STORE_KEY_BYTES];
    struct span_map m;
    fixture_key(7, key);
    assert_int_equal(store_span_map(w->a.s, 1, key, &m, &w->e), 0);
    struct buf text = {0};
    for (size_t k = 0; k < 64; k++)
        buf_putc(&text, m.data[k + 300]);
    store_span_unmap(w->a.s, &m);
    transfer_world_shut(&w->a);
    transfer_damage(w->a.dir, text.data, text.len);
    buf_free(&text);
    transfer_world_reopen(&w->a);
    assert_int_equal(transfer_export(w->a.s, w->a.id, w->file, NULL, &w->out, &w->e), ERR_FORMAT);
    assert_non_null(strstr(w->e.text, "repair the store first"));
    assert_int_equal(files(w), 0);
    export_it(w, 1); /* its text is whole */
}

/* ---- stopped, killed ----------------------------------------------------------------------------------- */

struct watch {
    int calls, stop_after, kill_after;
    uint64_t last, total;
    struct cancel cancel;
};

static void watch_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct watch *watch = arg;
    assert_non_null(what);
    assert_true(done >= watch->last && done <= total);
    watch->last = done;
    watch->total = total;
    watch->calls++;
    if (watch->calls == watch->kill_after)
        raise(SIGKILL);
    if (watch->calls == watch->stop_after)
        atomic_store(&watch->cancel.requested, 1);
}

static void it_stops_when_asked_and_leaves_nothing(void **state)
{
    struct world *w = *state;
    struct watch watch = {0};
    const struct progress progress = {watch_progress, &watch};
    const struct transfer_options o = {.progress = &progress, .cancel = &watch.cancel};
    assert_int_equal(transfer_export(w->a.s, w->a.id, w->file, &o, &w->out, &w->e), 0);
    assert_int_equal(watch.last, watch.total);
    assert_int_equal(watch.total, w->out.file_bytes);
    int calls = watch.calls;
    assert_true(calls > 10);
    for (int i = 1; i < calls; i += 2) {
        assert_int_equal(unlink(w->file), 0);
        watch = (struct watch){.stop_after = i};
        assert_int_equal(transfer_export(w->a.s, w->a.id, w->file, &o, &w->out, &w->e), ERR_CANCELLED);
        assert_int_equal(files(w), 0);
        export_it(w, 0);
    }
    watch = (struct watch){0};
    assert_int_equal(transfer_import(w->b.s, w->file, NULL, &o, &w->out, &w->e), 0);
    calls = watch.calls;
    assert_true(calls > 5);
    assert_int_equal(store_session_delete(w->b.s, w->out.session, &w->e), 0);
    for (int i = 1; i < calls; i++) {
        watch = (struct watch){.stop_after = i};
        assert_int_equal(transfer_import(w->b.s, w->file, NULL, &o, &w->out, &w->e), ERR_CANCELLED);
        transfer_expect_nothing(&w->b);
    }
}

/* Killed at the n-th report; returns 0 when it came to its end before. */
static int killed_import(struct world *w, int n)
{
    transfer_world_shut(&w->b);
    pid_t child = fork();
    if (child == 0) {
        struct watch watch = {.kill_after = n};
        const struct progress progress = {watch_progress, &watch};
        const struct transfer_options o = {.progress = &progress};
        struct store *s;
        struct transfer_result out;
        struct err e;
        if (store_open(w->b.dir, &s, &e))
            _exit(2);
        int rc = transfer_import(s, w->file, NULL, &o, &out, &e);
        store_close(s);
        _exit(rc ? 3 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    transfer_world_reopen(&w->b);
    assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

static void a_killed_import_leaves_what_a_clean_up_takes(void **state)
{
    struct world *w = *state;
    export_it(w, 0);
    int n = 1;
    for (; killed_import(w, n); n++) {
        transfer_expect_clean(&w->b);
        struct store_stats stats;
        assert_int_equal(store_stats(w->b.s, &stats, &w->e), 0);
        assert_int_equal(stats.sessions + stats.documents + stats.turns, 0);
        assert_int_equal(store_collect(w->b.s, &w->e), 0);
        transfer_expect_nothing(&w->b);
    }
    assert_true(n > 5);
    int64_t id;
    assert_int_equal(store_session_find(w->b.s, "a book, read", &id, &w->e), 0);
    transfer_expect_digest(&w->b, id, w->a.digest);
}

struct sweeper {
    const char *dir;
    int calls, found; /* found: the report at which there were spans */
};

/* Another process cleans up whenever there is something that nobody references. */
static void sweep(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct sweeper *sweeper = arg;
    struct store *s;
    struct store_stats stats;
    struct err e;
    (void)what;
    (void)done;
    (void)total;
    sweeper->calls++;
    if (sweeper->found)
        return;
    assert_int_equal(store_open(sweeper->dir, &s, &e), 0);
    assert_int_equal(store_stats(s, &stats, &e), 0);
    if (stats.spans) {
        sweeper->found = sweeper->calls;
        assert_int_equal(store_collect(s, &e), 0);
    }
    store_close(s);
}

static void a_clean_up_meanwhile_is_told(void **state)
{
    struct world *w = *state;
    struct sweeper sweeper = {.dir = w->b.dir};
    const struct progress progress = {sweep, &sweeper};
    const struct transfer_options o = {.progress = &progress};
    export_it(w, 0);
    assert_int_equal(transfer_import(w->b.s, w->file, NULL, &o, &w->out, &w->e), ERR_BUSY);
    assert_true(sweeper.found > 1);
    assert_non_null(strstr(w->e.text, "try again"));
    transfer_expect_nothing(&w->b);
    assert_int_equal(import_it(w, NULL), 0);
    transfer_expect_digest(&w->b, w->out.session, w->a.digest);
    transfer_expect_clean(&w->b);
}

static int setup_many(void **state)
{
    return setup_with(state, 70, 100);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define SMALL(f) cmocka_unit_test_setup_teardown(f, setup_small, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_session_goes_through_a_file_whole),
        TEST(text_alone_goes_too),
        TEST(an_empty_session_goes_too),
        TEST(a_taken_name_is_told_and_another_one_shares_the_spans),
        TEST(spans_that_were_given_up_are_left_out),
        SMALL(a_truncated_file_is_refused),
        SMALL(no_flipped_bit_passes),
        TEST(an_export_without_room_leaves_no_file),
        TEST(an_import_without_room_leaves_nothing),
        TEST(a_target_that_is_no_file_is_refused),
        TEST(a_damaged_span_is_not_exported),
        TEST(it_stops_when_asked_and_leaves_nothing),
        TEST(a_killed_import_leaves_what_a_clean_up_takes),
        cmocka_unit_test_setup_teardown(a_clean_up_meanwhile_is_told, setup_many, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
