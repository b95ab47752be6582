/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_gc.c - making room: in which order, what is spared, readers and other processes meanwhile. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "data/store/store_internal.h"
#include "engine/base/clock.h"
#include "engine/base/progress.h"
#include "tests/support/store_fixture.h"

enum { UNIT = 8192 }; /* bytes of every span here */

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
    int rc = store_open(w->dir, &w->s, &w->e);
    if (!rc) {
        w->s->segment_limit = 5 * UNIT; /* several files */
        w->s->segment_reserve = 3 * UNIT;
    }
    return rc;
}

static int teardown(void **state)
{
    struct world *w = *state;
    store_close(w->s);
    fixture_dir_remove(w->dir);
    free(w);
    return 0;
}

/* ---- a small library ----------------------------------------------------------------------------------- */

static void put(struct world *w, unsigned i, uint64_t position)
{
    uint8_t bytes[UNIT], key[16];
    memset(bytes, (int)i, sizeof bytes);
    fixture_key(i, key);
    const struct iovec part = {bytes, sizeof bytes};
    const struct span_put span = {
        .kind = 1, .key = key, .parts = &part, .n = 1, .position = position, .seconds = 1.5};
    assert_int_equal(store_span_put(w->s, &span, &w->e), 0);
}

static void ref(struct world *w, int64_t id, unsigned i)
{
    uint8_t key[16];
    fixture_key(i, key);
    assert_int_equal(store_session_ref(w->s, id, 1, key, &w->e), 0);
}

static int there(struct world *w, unsigned i)
{
    uint8_t key[16];
    struct span_map m;
    fixture_key(i, key);
    int rc = store_span_map(w->s, 1, key, &m, &w->e);
    if (!rc) {
        assert_int_equal(m.size, UNIT);
        for (size_t k = 0; k < UNIT; k++)
            assert_int_equal(m.data[k], (uint8_t)i);
    } else {
        assert_int_equal(rc, ERR_NOT_FOUND);
    }
    store_span_unmap(w->s, &m);
    return !rc;
}

/* As a line of digits: which of the spans first, first+1, ... are there. */
static const char *which(struct world *w, unsigned first, unsigned n, char out[32])
{
    for (unsigned i = 0; i < n; i++)
        out[i] = there(w, first + i) ? '1' : '.';
    out[n] = '\0';
    return out;
}

static int64_t make(struct world *w, const char *name, int age)
{
    int64_t id;
    char text[100];
    assert_int_equal(store_session_create(w->s, name, NULL, &id, &w->e), 0);
    snprintf(text, sizeof text, "UPDATE sessions SET opened=1000000-%d WHERE id=%lld", age, (long long)id);
    assert_int_equal(fixture_sql(w->dir, text), 0);
    return id;
}

static void chain(struct world *w, int64_t id, unsigned end)
{
    struct store_session row;
    assert_int_equal(store_session_get_id(w->s, id, &row, &w->e), 0);
    row.has_chain = 1;
    row.tokens = end;
    fixture_key(end, row.chain);
    assert_int_equal(store_session_update(w->s, &row, &w->e), 0);
    store_session_free(&row);
}

struct library {
    int64_t old, mid, new;
};

/*  old: 10 11 12 13 14    mid: 10 11 22 23    new: 30 31 32; put in no order at all; 90 is nobody's. */
static struct library library(struct world *w)
{
    static const unsigned order[] = {13, 30, 11, 23, 10, 90, 32, 14, 22, 12, 31};
    struct library l = {make(w, "old", 300), make(w, "mid", 200), make(w, "new", 100)};
    for (unsigned i = 10; i < 15; i++)
        ref(w, l.old, i);
    for (unsigned i = 10; i < 14; i++)
        ref(w, l.mid, i < 12 ? i : i + 10);
    for (unsigned i = 30; i < 33; i++)
        ref(w, l.new, i);
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
        put(w, order[i], 100 * (order[i] % 10 + 1));
    chain(w, l.old, 14);
    chain(w, l.mid, 23);
    chain(w, l.new, 32);
    return l;
}

static struct store_gc_result gc(struct world *w, uint64_t units)
{
    struct store_gc_result r;
    const struct store_budget b = {.bytes = units == STORE_NO_LIMIT ? units : units * UNIT};
    assert_int_equal(store_gc(w->s, &b, NULL, NULL, &r, &w->e), 0);
    return r;
}

static uint64_t disk_bytes(struct world *w)
{
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    return stats.segment_disk_bytes;
}

/* ---- order --------------------------------------------------------------------------------------------- */

static void the_oldest_goes_first_from_its_deep_end(void **state)
{
    struct world *w = *state;
    char out[32];
    (void)library(w);
    struct store_gc_result r = gc(w, STORE_NO_LIMIT); /* nothing but what nobody has */
    assert_int_equal(r.spans, 1);
    assert_int_equal(r.bytes_before, 11 * UNIT);
    assert_int_equal(r.bytes_after, 10 * UNIT);
    assert_int_equal(r.seconds_to_rebuild, 2);
    assert_false(there(w, 90));
    r = gc(w, 10);
    assert_int_equal(r.spans, 0);
    r = gc(w, 9);
    assert_int_equal(r.spans, 1);
    assert_string_equal(which(w, 10, 5, out), "1111.");
    r = gc(w, 7); /* the two that it shares are as new as mid */
    assert_string_equal(which(w, 10, 5, out), "11...");
    assert_string_equal(which(w, 20, 4, out), "..11");
    r = gc(w, 5);
    assert_string_equal(which(w, 10, 5, out), "11...");
    assert_string_equal(which(w, 20, 4, out), "....");
    assert_int_equal(r.seconds_to_rebuild, 3);
    r = gc(w, 4);
    assert_string_equal(which(w, 10, 5, out), "1....");
    assert_string_equal(which(w, 30, 3, out), "111");
    r = gc(w, 1);
    assert_string_equal(which(w, 10, 5, out), ".....");
    assert_string_equal(which(w, 30, 3, out), "1..");
    r = gc(w, 0);
    assert_int_equal(r.bytes_after, 0);
    struct store_stats stats;
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    assert_int_equal(stats.sessions, 3);
    assert_int_equal(stats.spans, 0);
    assert_int_equal(stats.segment_files, 0);
}

static void a_dropped_span_is_a_miss_and_may_come_again(void **state)
{
    struct world *w = *state;
    char out[32];
    struct library l = library(w);
    struct store_session row;
    (void)gc(w, 0);
    assert_int_equal(store_session_get_id(w->s, l.old, &row, &w->e), 0);
    assert_int_equal(row.kv_bytes, 0);
    assert_int_equal(row.has_chain, 1); /* the text is there, and so is the place */
    store_session_free(&row);
    put(w, 10, 100);
    assert_int_equal(gc(w, STORE_NO_LIMIT).spans, 0); /* the reference has stayed */
    assert_string_equal(which(w, 10, 2, out), "1.");
    assert_int_equal(store_session_get_id(w->s, l.mid, &row, &w->e), 0);
    assert_int_equal(row.kv_bytes, UNIT);
    store_session_free(&row);
}

static void an_opened_session_is_new_again(void **state)
{
    struct world *w = *state;
    char out[32];
    struct library l = library(w);
    assert_int_equal(store_session_touch(w->s, l.old, &w->e), 0);
    (void)gc(w, 5);
    assert_string_equal(which(w, 10, 5, out), "11111");
    assert_string_equal(which(w, 20, 4, out), "....");
    assert_string_equal(which(w, 30, 3, out), "...");
}

/* ---- what is spared ------------------------------------------------------------------------------------ */

static void pinned_sessions_are_spared(void **state)
{
    struct world *w = *state;
    char out[32];
    struct library l = library(w);
    struct store_session row;
    assert_int_equal(store_session_pin(w->s, l.old, 1, &w->e), 0);
    assert_int_equal(store_session_pin(w->s, 999, 1, &w->e), ERR_NOT_FOUND);
    assert_int_equal(store_session_get_id(w->s, l.old, &row, &w->e), 0);
    assert_int_equal(row.pinned, 1);
    store_session_free(&row);
    struct store_gc_result r = gc(w, 0);
    assert_string_equal(which(w, 10, 5, out), "11111");
    assert_string_equal(which(w, 20, 4, out), "....");
    assert_string_equal(which(w, 30, 3, out), "...");
    assert_int_equal(r.bytes_after, 5 * UNIT);
    assert_int_equal(r.kept_because_pinned, 5 * UNIT);
    assert_int_equal(r.kept_because_open, 0);
    assert_int_equal(store_session_pin(w->s, l.old, 0, &w->e), 0);
    r = gc(w, 0);
    assert_int_equal(r.kept_because_pinned, 0);
    assert_int_equal(r.bytes_after, 0);
}

static void open_sessions_are_spared(void **state)
{
    struct world *w = *state;
    char out[32];
    struct library l = library(w);
    struct store_lock *lock;
    assert_int_equal(store_session_lock(w->s, l.mid, &lock, &w->e), 0);
    struct store_gc_result r = gc(w, 0); /* open here */
    assert_string_equal(which(w, 10, 5, out), "11...");
    assert_string_equal(which(w, 20, 4, out), "..11");
    assert_int_equal(r.kept_because_open, 4 * UNIT);
    assert_int_equal(r.bytes_after, 4 * UNIT);
    /* By another handle of this process: the lock counts, not who asks. */
    struct store *other;
    const struct store_budget nothing = {.bytes = 0};
    assert_int_equal(store_open(w->dir, &other, &w->e), 0);
    assert_int_equal(store_gc(other, &nothing, NULL, NULL, &r, &w->e), 0);
    assert_int_equal(r.bytes_after, 4 * UNIT);
    store_close(other);
    store_session_unlock(lock);
    assert_int_equal(gc(w, 0).bytes_after, 0);
}

static pid_t locked_elsewhere(const char *dir, int64_t id, int64_t span, int down)
{
    int up[2];
    assert_int_equal(pipe(up), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        struct store *s;
        struct store_lock *lock;
        struct span_map m = {0};
        struct err e;
        uint8_t key[16];
        char byte = 1;
        close(up[0]);
        fixture_key((unsigned)span, key);
        if (store_open(dir, &s, &e) || (id && store_session_lock(s, id, &lock, &e)) ||
            (span && store_span_map(s, 1, key, &m, &e)) || write(up[1], &byte, 1) != 1)
            _exit(3);
        if (read(down, &byte, 1) != 1)
            _exit(4);
        for (size_t i = 0; i < m.size; i++)
            if (m.data[i] != (uint8_t)span)
                _exit(5);
        _exit(0); /* without a word to the store: as good as a crash */
    }
    char byte;
    close(up[1]);
    if (read(up[0], &byte, 1) != 1)
        fail_msg("the other process failed");
    close(up[0]);
    return pid;
}

static void sessions_open_in_another_process_are_spared(void **state)
{
    struct world *w = *state;
    char out[32];
    struct library l = library(w);
    int down[2], status;
    assert_int_equal(pipe(down), 0);
    pid_t pid = locked_elsewhere(w->dir, l.old, 0, down[0]);
    struct store_gc_result r = gc(w, 0);
    assert_string_equal(which(w, 10, 5, out), "11111");
    assert_int_equal(r.kept_because_open, 5 * UNIT);
    assert_int_equal(store_session_strip(w->s, l.old, NULL, &w->e), ERR_BUSY);
    /* Asking took nothing: the other one is still who has it, and a third is told so. */
    struct store_lock *lock;
    char number[20];
    snprintf(number, sizeof number, "%ld", (long)pid);
    assert_int_equal(store_session_lock(w->s, l.old, &lock, &w->e), ERR_BUSY);
    assert_non_null(strstr(w->e.text, number));
    assert_int_equal(kill(pid, SIGKILL), 0); /* a crashed holder holds nothing */
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(gc(w, 0).bytes_after, 0);
    close(down[0]);
    close(down[1]);
}

static void readers_keep_their_bytes_while_gc_runs(void **state)
{
    struct world *w = *state;
    struct library l = library(w);
    assert_int_equal(store_session_pin(w->s, l.mid, 1, &w->e), 0); /* files stay, with holes in them */
    int down[2], status;
    assert_int_equal(pipe(down), 0);
    uint8_t key[16];
    struct span_map here;
    fixture_key(31, key);
    pid_t pid = locked_elsewhere(w->dir, 0, 13, down[0]); /* maps, without having the session open */
    assert_int_equal(store_span_map(w->s, 1, key, &here, &w->e), 0);
    assert_int_equal(gc(w, 0).bytes_after, 4 * UNIT);
    for (unsigned i = 60; i < 75; i++) { /* new spans do not come to lie there */
        int64_t id = i == 60 ? make(w, "more", 0) : 4;
        ref(w, id, i);
        put(w, i, 1);
    }
    for (size_t i = 0; i < here.size; i++)
        assert_int_equal(here.data[i], 31);
    assert_int_equal(write(down[1], "x", 1), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    store_span_unmap(w->s, &here);
    for (unsigned i = 60; i < 75; i++)
        assert_true(there(w, i));
    (void)gc(w, STORE_NO_LIMIT); /* now what they held comes back as well */
    assert_true(disk_bytes(w) <= 19 * UNIT + 19 * SEGMENT_HEADER);
    close(down[0]);
    close(down[1]);
}

/* ---- how ----------------------------------------------------------------------------------------------- */

static void free_space_is_left(void **state)
{
    struct world *w = *state;
    char out[32];
    (void)library(w);
    struct store_stats stats;
    struct store_gc_result r;
    (void)gc(w, STORE_NO_LIMIT);
    assert_int_equal(store_stats(w->s, &stats, &w->e), 0);
    struct store_budget b = {.bytes = STORE_NO_LIMIT, .leave_free = 1};
    assert_int_equal(store_gc(w->s, &b, NULL, NULL, &r, &w->e), 0);
    assert_int_equal(r.spans, 0);
    b.leave_free = UINT64_MAX; /* cannot be: takes what may be taken and says what is left */
    assert_int_equal(store_gc(w->s, &b, NULL, NULL, &r, &w->e), 0);
    assert_int_equal(r.bytes_after, 0);
    assert_string_equal(which(w, 10, 5, out), ".....");
}

struct watch {
    struct cancel *cancel;
    unsigned calls;
    uint64_t last, total;
};

static void watch(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct watch *seen = arg;
    assert_string_equal(what, "making room");
    assert_true(done <= total && done >= seen->last);
    seen->last = done;
    seen->total = total;
    if (++seen->calls == 2 && seen->cancel)
        atomic_store(&seen->cancel->requested, 1);
}

static void it_reports_and_can_be_stopped(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "a", 1);
    static const uint8_t bytes[1000];
    enum { N = 600 }; /* more than one transaction */
    struct span_put *puts = calloc(N, sizeof *puts);
    uint8_t(*keys)[16] = calloc(N, 16);
    const struct iovec part = {(void *)(uintptr_t)bytes, sizeof bytes};
    for (unsigned i = 0; i < N; i++) {
        fixture_key(i, keys[i]);
        puts[i] = (struct span_put){.kind = 1, .key = keys[i], .parts = &part, .n = 1, .position = i + 1};
    }
    assert_int_equal(store_begin(w->s, &w->e), 0);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(store_session_ref(w->s, id, 1, keys[i], &w->e), 0);
    assert_int_equal(store_end(w->s, 0, &w->e), 0);
    assert_int_equal(store_spans_put(w->s, puts, N, &w->e), 0);
    struct cancel cancel = {0};
    struct watch seen = {.cancel = &cancel};
    const struct progress p = {watch, &seen};
    const struct store_budget nothing = {.bytes = 0};
    struct store_gc_result r;
    assert_int_equal(store_gc(w->s, &nothing, &p, &cancel, &r, &w->e), ERR_CANCELLED);
    assert_true(r.spans > 0 && r.spans < N);
    assert_int_equal(r.bytes_after, (N - r.spans) * sizeof bytes);
    struct store_usage use; /* the deep end is gone, the beginning is not */
    assert_int_equal(store_session_usage(w->s, id, 0, UINT64_MAX, &use, &w->e), 0);
    assert_int_equal(use.spans, N - r.spans);
    assert_int_equal(use.position, N - r.spans);
    seen = (struct watch){0};
    assert_int_equal(store_gc(w->s, &nothing, &p, NULL, &r, &w->e), 0);
    assert_int_equal(seen.last, seen.total);
    assert_int_equal(r.bytes_after, 0);
    assert_int_equal(store_begin(w->s, &w->e), 0);
    assert_int_equal(store_gc(w->s, &nothing, NULL, NULL, &r, &w->e), ERR_USAGE);
    assert_int_equal(store_collect(w->s, &w->e), ERR_USAGE);
    assert_int_equal(store_end(w->s, 0, &w->e), 0);
    free(puts);
    free(keys);
}

/* The database refuses in the middle: an error, and nothing but whole batches is gone. */
static void a_failure_half_way_keeps_the_rest(void **state)
{
    struct world *w = *state;
    char out[32];
    (void)library(w);
    const struct store_budget b = {.bytes = 6 * UNIT};
    struct store_gc_result r;
    assert_int_equal(fixture_sql(w->dir, "CREATE TRIGGER no BEFORE DELETE ON spans WHEN OLD.position=300"
                                         " BEGIN SELECT RAISE(ABORT, 'no'); END"),
                     0);
    assert_int_not_equal(store_gc(w->s, &b, NULL, NULL, &r, &w->e), 0);
    assert_int_equal(r.spans, 1); /* 90, which is nobody's */
    assert_int_equal(r.bytes_after, 10 * UNIT);
    assert_string_equal(which(w, 10, 5, out), "11111");
    assert_int_equal(fixture_sql(w->dir, "DROP TRIGGER no"), 0);
    assert_int_equal(gc(w, 6).bytes_after, 6 * UNIT);
}

/* Another process reads a session into the store, as `add` does, while this one makes all the room it can. */
static void a_writer_at_work_loses_nothing(void **state)
{
    struct world *w = *state;
    int64_t id = make(w, "a", 1000), idle = make(w, "idle", 10);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        struct world mine = {.dir = w->dir};
        struct store_lock *lock;
        if (store_open(w->dir, &mine.s, &mine.e) || store_session_lock(mine.s, id, &lock, &mine.e))
            _exit(2);
        mine.s->segment_limit = 5 * UNIT;
        for (unsigned i = 100; i < 160; i++) {
            ref(&mine, id, i);
            put(&mine, i, i);
            for (unsigned k = 100; k <= i; k += 7)
                if (!there(&mine, k))
                    _exit(3);
        }
        store_session_unlock(lock);
        store_close(mine.s);
        _exit(0);
    }
    int status = 0;
    unsigned rounds = 0;
    while (!waitpid(pid, &status, WNOHANG) && !lock_in_use(w->s, id)) /* until it has begun */
        usleep(1000);
    for (; !status && !waitpid(pid, &status, WNOHANG); rounds++) {
        ref(w, idle, 300 + rounds % 5);
        put(w, 300 + rounds % 5, 1);
        (void)gc(w, 0);
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_true(rounds > 0);
}

/* The same within one process: the thread that saves has its own handle. */
struct saver {
    const char *dir;
    int64_t id;
    atomic_uint saved; /* spans 400 ... 400+saved-1 are there */
    int failed;
};

static void *save_on_a_thread(void *arg)
{
    struct saver *v = arg;
    struct err e;
    struct store *s;
    v->failed = store_open(v->dir, &s, &e);
    if (v->failed)
        return NULL;
    s->segment_limit = 7 * UNIT;
    s->segment_direct = 2 * UNIT; /* with its helper */
    for (unsigned i = 400; !v->failed && i < 460; i += 3) {
        static const uint8_t nothing[16];
        uint8_t bytes[3][UNIT], keys[3][16];
        struct iovec parts[3];
        struct span_put puts[3];
        for (unsigned k = 0; !v->failed && k < 3; k++) {
            memset(bytes[k], (int)(i + k), UNIT);
            fixture_key(i + k, keys[k]);
            parts[k] = (struct iovec){bytes[k], UNIT};
            puts[k] = (struct span_put){
                .kind = 1, .key = keys[k], .parent = nothing, .parts = &parts[k], .n = 1, .position = i + k};
            v->failed = store_session_ref(s, v->id, 1, keys[k], &e);
        }
        if (!v->failed)
            v->failed = store_spans_put(s, puts, 3, &e);
        atomic_store(&v->saved, i + 3 - 400);
    }
    store_close(s);
    return NULL;
}

static void a_saving_thread_loses_nothing(void **state)
{
    struct world *w = *state;
    struct saver v = {.dir = w->dir, .id = make(w, "a", 1000)};
    struct store_lock *lock;
    pthread_t thread;
    assert_int_equal(store_session_lock(w->s, v.id, &lock, &w->e), 0);
    assert_int_equal(pthread_create(&thread, NULL, save_on_a_thread, &v), 0);
    unsigned saved = 0, seen = 0;
    for (int ended = 0; !ended; seen = saved) {
        ended = !pthread_tryjoin_np(thread, NULL);
        saved = atomic_load(&v.saved);
        for (unsigned i = 0; i < saved; i += 5)
            assert_true(there(w, 400 + i));
        if (saved != seen)
            (void)gc(w, 0);
        usleep(2000);
    }
    assert_int_equal(v.failed, 0);
    for (unsigned i = 0; i < 60; i++)
        assert_true(there(w, 400 + i));
    store_session_unlock(lock);
}

/* ---- strip, usage, chains ------------------------------------------------------------------------------ */

static void strip_keeps_text_and_what_is_shared(void **state)
{
    struct world *w = *state;
    char out[32];
    struct library l = library(w);
    struct store_turn t = {.question = (char *)(uintptr_t) "q", .answer = (char *)(uintptr_t) "a"};
    struct store_document d = {.size = 3, .token_count = 1, .token_start = 7};
    const struct iovec parts[STORE_PARTS] = {{(void *)(uintptr_t) "abc", 3}, {NULL, 0}, {NULL, 0}, {NULL, 0}};
    assert_int_equal(store_turn_add(w->s, l.old, &t, NULL, &w->e), 0);
    assert_int_equal(store_document_add(w->s, l.old, &d, parts, NULL, &w->e), 0);
    uint64_t bytes;
    assert_int_equal(store_session_strip(w->s, l.old, &bytes, &w->e), 0);
    assert_int_equal(bytes, 3 * UNIT);
    assert_string_equal(which(w, 10, 5, out), "11...");
    struct store_session row;
    assert_int_equal(store_session_get_id(w->s, l.old, &row, &w->e), 0);
    assert_int_equal(row.has_chain, 0);
    assert_int_equal(row.tokens, 0);
    assert_int_equal(row.kv_bytes, 0);
    assert_int_equal(row.turns, 1);
    assert_int_equal(row.documents, 1);
    store_session_free(&row);
    assert_int_equal(store_session_strip(w->s, l.old, &bytes, &w->e), 0); /* again: nothing to do */
    assert_int_equal(bytes, 0);
    assert_int_equal(store_session_strip(w->s, 999, &bytes, &w->e), ERR_NOT_FOUND);
    struct store_lock *lock; /* its holder may */
    assert_int_equal(store_session_lock(w->s, l.mid, &lock, &w->e), 0);
    assert_int_equal(store_session_strip(w->s, l.mid, &bytes, &w->e), 0);
    assert_int_equal(bytes, 4 * UNIT);
    store_session_unlock(lock);
    assert_string_equal(which(w, 30, 3, out), "111");
}

static void usage_is_counted_by_position(void **state)
{
    struct world *w = *state;
    struct library l = library(w);
    struct store_usage u;
    assert_int_equal(store_session_usage(w->s, l.old, 0, UINT64_MAX, &u, &w->e), 0);
    assert_int_equal(u.spans, 5);
    assert_int_equal(u.bytes, 5 * UNIT);
    assert_int_equal(u.shared_bytes, 2 * UNIT);
    assert_int_equal(u.position, 500);
    assert_true(u.seconds > 7.49 && u.seconds < 7.51);
    assert_int_equal(store_session_usage(w->s, l.old, 200, 400, &u, &w->e), 0); /* 300 and 400 */
    assert_int_equal(u.spans, 2);
    assert_int_equal(u.shared_bytes, 0);
    assert_int_equal(u.position, 400);
    assert_int_equal(store_session_usage(w->s, l.old, 500, 600, &u, &w->e), 0);
    assert_int_equal(u.spans, 0);
    assert_int_equal(store_session_usage(w->s, 999, 0, 1, &u, &w->e), ERR_NOT_FOUND);
}

static void chains_are_listed(void **state)
{
    struct world *w = *state;
    struct library l = library(w);
    int64_t fork;
    assert_int_equal(store_session_fork(w->s, l.mid, "fork", &fork, &w->e), 0);
    int64_t begun = make(w, "begun", 900); /* has spans, but no end yet */
    (void)make(w, "empty", 50);            /* has nothing */
    ref(w, begun, 30);
    struct store_chain_list list;
    assert_int_equal(store_chain_list(w->s, &list, &w->e), 0);
    assert_int_equal(list.n, 4);
    uint8_t key[16];
    fixture_key(23, key);
    assert_memory_equal(list.items[0].key, key, 16); /* the fork was made just now */
    assert_int_equal(list.items[0].sessions, 2);
    assert_int_equal(list.items[0].spans, 4); /* once, not once a session */
    assert_int_equal(list.items[0].bytes, 4 * UNIT);
    assert_int_equal(list.items[0].position, 400);
    assert_true(list.items[0].seconds > 5.99 && list.items[0].seconds < 6.01);
    fixture_key(32, key);
    assert_memory_equal(list.items[1].key, key, 16);
    assert_int_equal(list.items[1].opened, 1000000 - 100);
    fixture_key(14, key);
    assert_memory_equal(list.items[2].key, key, 16);
    assert_int_equal(list.items[2].spans, 5);
    memset(key, 0, sizeof key);
    assert_memory_equal(list.items[3].key, key, 16);
    assert_int_equal(list.items[3].spans, 1);
    store_chain_list_free(&list);
    (void)gc(w, 0); /* the chains stay, to be read again */
    assert_int_equal(store_chain_list(w->s, &list, &w->e), 0);
    assert_int_equal(list.n, 3);
    assert_int_equal(list.items[0].bytes, 0);
    store_chain_list_free(&list);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(the_oldest_goes_first_from_its_deep_end),
        CASE(a_dropped_span_is_a_miss_and_may_come_again),
        CASE(an_opened_session_is_new_again),
        CASE(pinned_sessions_are_spared),
        CASE(open_sessions_are_spared),
        CASE(sessions_open_in_another_process_are_spared),
        CASE(readers_keep_their_bytes_while_gc_runs),
        CASE(free_space_is_left),
        CASE(it_reports_and_can_be_stopped),
        CASE(a_failure_half_way_keeps_the_rest),
        CASE(a_writer_at_work_loses_nothing),
        CASE(a_saving_thread_loses_nothing),
        CASE(strip_keeps_text_and_what_is_shared),
        CASE(usage_is_counted_by_position),
        CASE(chains_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
