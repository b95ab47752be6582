/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_verify.c - each kind of damage is found and named, repair drops it and only it; equal work has
 * equal digests. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/store/store.h"
#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/progress.h"
#include "tests/support/store_fixture.h"

enum { SPANS = 12 };

struct world {
    char *dir;
    struct store *s;
    int64_t id;
    struct err e;
    struct buf lines; /* of the last verify */
    struct store_verify_result out;
};

static void add_document(struct store *s, int64_t id, const char *path, const char *text, int64_t mtime)
{
    const struct store_document d = {.path = (char *)(uintptr_t)path,
                                     .title = (char *)(uintptr_t) "a title",
                                     .kind = (char *)(uintptr_t) "text",
                                     .size = strlen(text),
                                     .mtime_ns = mtime,
                                     .hash = {1, 2, (uint8_t)strlen(text)},
                                     .pages = 1,
                                     .token_count = 3};
    const struct iovec parts[STORE_PARTS] = {{(void *)(uintptr_t)text, strlen(text)},
                                             {(void *)(uintptr_t) "map of it", 9},
                                             {(void *)(uintptr_t) "aaaabbbbcccc", 12},
                                             {NULL, 0}};
    struct err e;
    assert_int_equal(store_document_add(s, id, &d, parts, NULL, &e), 0);
}

static void add_turn(struct store *s, int64_t id, const char *question, const char *answer, int64_t time)
{
    const struct store_turn t = {.question = (char *)(uintptr_t)question,
                                 .answer = (char *)(uintptr_t)answer,
                                 .json = (char *)(uintptr_t) "{}",
                                 .time = time};
    struct err e;
    assert_int_equal(store_turn_add(s, id, &t, NULL, &e), 0);
}

static void ref_and_put(struct store *s, int64_t id, unsigned i)
{
    uint8_t key[STORE_KEY_BYTES];
    struct err e;
    fixture_key(i, key);
    assert_int_equal(store_session_ref(s, id, 1, key, &e), 0);
    assert_int_equal(fixture_put(s, i, &e), 0);
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    *state = w;
    if (!access("/dev/shm", W_OK)) /* nothing here is about the disk */
        setenv("TMPDIR", "/dev/shm", 0);
    w->dir = fixture_dir_make();
    assert_int_equal(store_open(w->dir, &w->s, &w->e), 0);
    assert_int_equal(store_session_create(w->s, "one", NULL, &w->id, &w->e), 0);
    for (unsigned i = 0; i < SPANS; i++)
        ref_and_put(w->s, w->id, i);
    add_document(w->s, w->id, "/books/a.txt", "the text of a", 5);
    add_document(w->s, w->id, "/books/b.txt", "another text, of b", 6);
    add_turn(w->s, w->id, "what is a?", "a text", 7);
    add_turn(w->s, w->id, "and b?", "another", 8);
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    store_close(w->s);
    fixture_dir_remove(w->dir);
    buf_free(&w->lines);
    free(w);
    return 0;
}

static void take_line(void *arg, const char *line)
{
    struct world *w = arg;
    for (const char *at = line; *at; at++)
        assert_true((unsigned char)*at >= 0x20);
    buf_puts(&w->lines, line);
    buf_putc(&w->lines, '\n');
}

static int verify(struct world *w, int repair)
{
    const struct store_verify_options o = {.repair = repair, .problem = take_line, .arg = w};
    buf_clear(&w->lines);
    return store_verify(w->s, &o, &w->out, &w->e);
}

static void expect_clean(struct world *w)
{
    assert_int_equal(verify(w, 0), 0);
    if (w->out.problems)
        print_error("%s", w->lines.data);
    assert_int_equal(w->out.problems, 0);
    assert_int_equal(w->out.repaired, 0);
}

/* Exactly so many problems, and the word in one of their lines. */
static void expect_problems(struct world *w, int repair, uint64_t n, const char *word)
{
    assert_int_equal(verify(w, repair), 0);
    if (w->out.problems != n || !w->lines.data || !strstr(w->lines.data, word))
        print_error("wanted %d with \"%s\":\n%s", (int)n, word, w->lines.data ? w->lines.data : "");
    assert_int_equal(w->out.problems, n);
    assert_non_null(w->lines.data);
    assert_non_null(strstr(w->lines.data, word));
}

static void text_and_turns_are_there(struct world *w)
{
    void *bytes;
    size_t n;
    assert_int_equal(store_document_read(w->s, w->id, 1, STORE_TEXT, &bytes, &n, &w->e), 0);
    assert_string_equal(bytes, "another text, of b");
    free(bytes);
    struct store_turn_list turns;
    assert_int_equal(store_turn_list(w->s, w->id, &turns, &w->e), 0);
    assert_int_equal(turns.n, 2);
    assert_string_equal(turns.items[1].answer, "another");
    store_turn_list_free(&turns);
}

static void open_again(struct world *w)
{
    store_close(w->s);
    w->s = NULL;
    assert_int_equal(store_open(w->dir, &w->s, &w->e), 0);
}

static void sql(struct world *w, const char *text)
{
    assert_int_equal(fixture_sql(w->dir, text), 0);
}

static void flip(const char *path, off_t at, uint8_t mask)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_true(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte ^= mask;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static int64_t number(struct world *w, const char *text)
{
    char *path = path_join(w->dir, "lectern.db");
    sqlite3 *db;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(path, &db), 0);
    assert_int_equal(sqlite3_prepare_v2(db, text, -1, &st, NULL), 0);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    free(path);
    return value;
}

static off_t offset_of(struct world *w, unsigned i)
{
    uint8_t key[STORE_KEY_BYTES];
    struct buf text = {0};
    fixture_key(i, key);
    buf_puts(&text, "SELECT offset FROM spans WHERE key=x'");
    for (int k = 0; k < STORE_KEY_BYTES; k++)
        buf_printf(&text, "%02x", key[k]);
    buf_puts(&text, "'");
    off_t offset = (off_t)number(w, text.data);
    buf_free(&text);
    return offset;
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static void a_whole_store_is_clean(void **state)
{
    struct world *w = *state;
    expect_clean(w);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < SPANS; i++)
        bytes += fixture_size(i);
    assert_int_equal(w->out.spans, SPANS);
    assert_int_equal(w->out.bytes, bytes);
    assert_int_equal(w->out.sessions, 1);
    assert_int_equal(w->out.documents, 2);
    assert_int_equal(w->out.turns, 2);
    assert_int_equal(w->out.missing, 0);
    assert_int_equal(w->out.orphans, 0);
    assert_int_equal(verify(w, 1), 0); /* nothing to repair */
    assert_int_equal(w->out.repaired, 0);
    assert_int_equal(store_verify(w->s, NULL, &w->out, &w->e), 0);
    expect_clean(w);
}

static void a_flipped_bit_is_named_and_only_its_span_goes(void **state)
{
    struct world *w = *state;
    char *path = fixture_segment(w->dir, 1);
    expect_clean(w); /* this handle has seen the span whole: it must look again */
    flip(path, offset_of(w, 9) + 300000, 4);
    expect_problems(w, 0, 1, "000001.seg is damaged at byte");
    assert_non_null(strstr(w->lines.data, "kind 1, key "));
    expect_problems(w, 0, 1, "000001.seg"); /* looking changes nothing */
    expect_problems(w, 1, 1, "000001.seg");
    assert_int_equal(w->out.repaired, 1);
    expect_clean(w);
    assert_int_equal(w->out.spans, SPANS - 1);
    assert_int_equal(w->out.missing, 1); /* the session still wants it */
    text_and_turns_are_there(w);
    for (unsigned i = 0; i < SPANS; i++)
        assert_int_equal(fixture_check(w->s, i, &w->e), i == 9 ? ERR_NOT_FOUND : 0);
    assert_int_equal(fixture_put(w->s, 9, &w->e), 0);
    expect_clean(w);
    assert_int_equal(w->out.spans, SPANS);
    assert_int_equal(w->out.missing, 0);
    free(path);
}

static void cut_and_lost_segments_are_named(void **state)
{
    struct world *w = *state;
    char *path = fixture_segment(w->dir, 1);
    store_close(w->s); /* a writer would cut the tail itself */
    w->s = NULL;
    off_t cut = offset_of(w, 11) + 5;
    assert_int_equal(truncate(path, cut), 0);
    open_again(w);
    expect_problems(w, 1, 1, "is cut short");
    assert_int_equal(w->out.repaired, 1);
    expect_clean(w);
    store_close(w->s);
    w->s = NULL;
    flip(path, 20, 1); /* the header: nothing in the file can be believed */
    open_again(w);
    expect_problems(w, 0, SPANS - 1, "damaged header");
    flip(path, 20, 1);
    open_again(w);
    expect_clean(w);
    store_close(w->s);
    w->s = NULL;
    assert_int_equal(unlink(path), 0);
    open_again(w);
    expect_problems(w, 1, SPANS - 1, "000001.seg is missing");
    assert_int_equal(w->out.repaired, SPANS - 1);
    expect_clean(w);
    assert_int_equal(w->out.missing, SPANS);
    text_and_turns_are_there(w);
    for (unsigned i = 0; i < SPANS; i++)
        assert_int_equal(fixture_put(w->s, i, &w->e), 0);
    expect_clean(w);
    assert_int_equal(w->out.missing, 0);
    free(path);
}

static void damaged_rows_of_spans_are_named(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *change, *word;
    } kinds[] = {
        {"UPDATE spans SET size=size+1 WHERE id=4", "row"},
        {"UPDATE spans SET size=-1 WHERE id=4", "row"},
        {"UPDATE spans SET offset=offset+4096 WHERE id=4", "row"},
        {"UPDATE spans SET offset=1 WHERE id=4", "row"},
        {"UPDATE spans SET seal=seal+1 WHERE id=4", "row"},
        {"UPDATE spans SET kind=-3 WHERE id=4", "row"},
        {"UPDATE spans SET kind='one' WHERE id=4", "row"},
        {"UPDATE spans SET kind=5000000000 WHERE id=4", "row"},
        {"UPDATE spans SET key=x'0011' WHERE id=4", "row"},
        {"UPDATE spans SET key=zeroblob(16) WHERE id=4", "row"},
        {"UPDATE spans SET parent=x'00' WHERE id=4", "row"},
        {"UPDATE spans SET parent=key WHERE id=4", "parent"},
        {"UPDATE spans SET meta=x'ff' WHERE id=4", "row"},
        {"UPDATE spans SET sums=zeroblob(length(sums)) WHERE id=4", "row"},
        {"UPDATE spans SET sums=x'' WHERE id=4", "row"},
        {"UPDATE spans SET segment=77 WHERE id=4", "row"},
        {"UPDATE spans SET position=position+1 WHERE id=4", "row"},
        {"UPDATE spans SET seconds=seconds+1 WHERE id=4", "row"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        sql(w, kinds[i].change);
        expect_problems(w, 0, 1, kinds[i].word);
        assert_non_null(strstr(w->lines.data, "span 4 "));
        expect_problems(w, 1, 1, kinds[i].word);
        assert_int_equal(w->out.repaired, 1);
        expect_clean(w);
        assert_int_equal(w->out.spans, SPANS - 1);
        /* The next case's victim: the same bytes under the same row number. */
        assert_int_equal(fixture_put(w->s, 3, &w->e), 0);
        struct buf text = {0};
        buf_printf(&text, "UPDATE spans SET id=4 WHERE id=(SELECT max(id) FROM spans)");
        sql(w, text.data);
        buf_free(&text);
        open_again(w);
        expect_clean(w);
        assert_int_equal(w->out.spans, SPANS);
    }
    text_and_turns_are_there(w);
}

static void references_are_checked(void **state)
{
    struct world *w = *state;
    sql(w, "INSERT INTO session_refs SELECT id, 1, x'0102' FROM sessions;"
           "INSERT INTO session_refs SELECT id, -1, zeroblob(16) FROM sessions;"
           "INSERT INTO session_refs SELECT id, 1, 'sixteen letters!' FROM sessions;"
           "INSERT INTO session_refs VALUES(4711, 1, zeroblob(16));");
    expect_problems(w, 0, 4, "4 references");
    expect_problems(w, 1, 4, "4 references");
    assert_int_equal(w->out.repaired, 4);
    expect_clean(w);
    assert_int_equal(w->out.missing, 0);
    /* A reference before its span is how a session writes: no damage. */
    uint8_t key[STORE_KEY_BYTES];
    fixture_key(99, key);
    assert_int_equal(store_session_ref(w->s, w->id, 1, key, &w->e), 0);
    expect_clean(w);
    assert_int_equal(w->out.missing, 1);
}

static void a_missing_parent_is_counted(void **state)
{
    struct world *w = *state;
    uint8_t key[STORE_KEY_BYTES], parent[STORE_KEY_BYTES];
    fixture_key(40, key);
    fixture_key(3, parent);
    struct iovec part = {(void *)(uintptr_t) "child", 5};
    struct span_put put = {
        .kind = 2, .key = key, .parent = parent, .parts = &part, .n = 1, .position = 64, .seconds = 0.5};
    assert_int_equal(store_span_put(w->s, &put, &w->e), 0);
    expect_clean(w); /* another kind's span may be the parent */
    assert_int_equal(w->out.missing, 0);
    assert_int_equal(store_span_drop(w->s, 1, parent, &w->e), 0);
    expect_clean(w);
    assert_int_equal(w->out.missing, 2); /* the reference and the child */
    /* A parent that ends behind its child is damage, of whoever wrote it. */
    fixture_key(41, parent);
    put.key = parent;
    struct span_put behind = put;
    uint8_t later[STORE_KEY_BYTES];
    fixture_key(42, later);
    behind.key = later;
    behind.parent = NULL;
    behind.position = 64;
    put.parent = later;
    assert_int_equal(store_span_put(w->s, &behind, &w->e), 0);
    assert_int_equal(store_span_put(w->s, &put, &w->e), 0);
    expect_problems(w, 1, 1, "its parent lies behind it");
    assert_int_equal(w->out.repaired, 1);
    expect_clean(w);
    put.position = 65;
    assert_int_equal(store_span_put(w->s, &put, &w->e), 0);
    expect_clean(w);
}

static void damaged_documents_are_named_and_left(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *change, *back, *word;
    } kinds[] = {
        {"UPDATE document_parts SET data=CAST('the text oF a' AS BLOB) WHERE document=1 AND part=0",
         "UPDATE document_parts SET data=CAST('the text of a' AS BLOB) WHERE document=1 AND part=0",
         "document 1: its text is damaged"},
        {"UPDATE document_parts SET size=size+1 WHERE document=1 AND part=1",
         "UPDATE document_parts SET size=size-1 WHERE document=1 AND part=1",
         "document 1: its source map is damaged"},
        {"UPDATE document_parts SET sum=sum+1 WHERE document=2 AND part=2",
         "UPDATE document_parts SET sum=sum-1 WHERE document=2 AND part=2",
         "document 2: its tokens is damaged"},
        {"UPDATE document_parts SET part=9 WHERE document=2 AND part=3",
         "UPDATE document_parts SET part=3 WHERE document=2 AND part=9", "document 2: its ends is damaged"},
        {"UPDATE documents SET title='other' WHERE id=1", "UPDATE documents SET title='a title' WHERE id=1",
         "document 1: its row is damaged"},
        {"UPDATE documents SET token_count=-2 WHERE id=1", "UPDATE documents SET token_count=3 WHERE id=1",
         "document 1: its row is damaged"},
        {"UPDATE session_documents SET token_start=7 WHERE ordinal=0",
         "UPDATE session_documents SET token_start=0 WHERE ordinal=0", "documents"},
        {"UPDATE session_documents SET ordinal=5 WHERE ordinal=0",
         "UPDATE session_documents SET ordinal=0 WHERE ordinal=5", "documents"},
        {"PRAGMA foreign_keys=OFF;INSERT INTO document_parts VALUES(55, 0, 0, 0, x'')",
         "DELETE FROM document_parts WHERE document=55", "belongs to none of documents"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        sql(w, kinds[i].change);
        assert_int_equal(verify(w, 1), 0);
        if (!w->out.problems || !strstr(w->lines.data, kinds[i].word))
            print_error("case %zu, wanted \"%s\":\n%s", i, kinds[i].word, w->lines.data ? w->lines.data : "");
        assert_true(w->out.problems >= 1);
        assert_non_null(strstr(w->lines.data, kinds[i].word));
        assert_int_equal(w->out.repaired, 0);
        sql(w, kinds[i].back); /* repair did not touch it, so this heals it */
        expect_clean(w);
    }
    text_and_turns_are_there(w);
}

static void damaged_sessions_and_turns_are_named_and_left(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *change, *back, *word;
    } kinds[] = {
        {"UPDATE turns SET answer='a tExt' WHERE ordinal=0",
         "UPDATE turns SET answer='a text' WHERE ordinal=0", "turns are damaged"},
        {"UPDATE turns SET question=x'61' WHERE ordinal=1",
         "UPDATE turns SET question='and b?' WHERE ordinal=1", "turns are damaged"},
        {"UPDATE turns SET ordinal=3 WHERE ordinal=0", "UPDATE turns SET ordinal=0 WHERE ordinal=3",
         "turns are not numbered"},
        {"UPDATE sessions SET tokens=-5", "UPDATE sessions SET tokens=0", "session 1: its row is damaged"},
        {"UPDATE sessions SET model_hash=x'00'", "UPDATE sessions SET model_hash=zeroblob(16)",
         "session 1: its row is damaged"},
        {"UPDATE sessions SET options='{}'", "UPDATE sessions SET options=''",
         "session 1: its row is damaged"},
        {"PRAGMA foreign_keys=OFF;INSERT INTO turns(session, ordinal, question, answer, json, time)"
         " VALUES(9, 0, 'q', 'a', '', 0)",
         "DELETE FROM turns WHERE session=9", "belongs to none of sessions"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        sql(w, kinds[i].change);
        assert_int_equal(verify(w, 1), 0);
        if (!w->out.problems || !strstr(w->lines.data, kinds[i].word))
            print_error("case %zu, wanted \"%s\":\n%s", i, kinds[i].word, w->lines.data ? w->lines.data : "");
        assert_true(w->out.problems >= 1);
        assert_non_null(strstr(w->lines.data, kinds[i].word));
        assert_int_equal(w->out.repaired, 0);
        sql(w, kinds[i].back);
        expect_clean(w);
    }
    text_and_turns_are_there(w);
}

static void a_damaged_index_is_rebuilt(void **state)
{
    struct world *w = *state;
    char *path = path_join(w->dir, "lectern.db");
    int64_t root = number(w, "SELECT rootpage FROM sqlite_schema WHERE name='documents_hash'");
    int64_t page = number(w, "PRAGMA page_size");
    store_close(w->s); /* the log is in the file now */
    w->s = NULL;
    flip(path, (off_t)(root * page - 1), 0x40); /* the last byte of the index's first entry: a row number */
    open_again(w);
    assert_int_equal(verify(w, 0), 0);
    assert_true(w->out.problems > 0);
    assert_non_null(strstr(w->lines.data, "documents_hash"));
    uint64_t found = w->out.problems;
    assert_int_equal(verify(w, 1), 0);
    assert_int_equal(w->out.problems, found);
    assert_int_equal(w->out.repaired, found);
    expect_clean(w);
    text_and_turns_are_there(w);
    free(path);
}

static void files_without_a_row_are_counted_and_removed(void **state)
{
    struct world *w = *state;
    char *orphan = fixture_segment(w->dir, 99), *mine = fixture_segment(w->dir, 1);
    assert_int_equal(file_write(orphan, "left by a crash", 15, &w->e), 0);
    expect_clean(w);
    assert_int_equal(w->out.orphans, 1);
    assert_int_equal(access(orphan, F_OK), 0);
    assert_int_equal(verify(w, 1), 0);
    assert_int_equal(w->out.orphans, 1);
    assert_int_not_equal(access(orphan, F_OK), 0);
    assert_int_equal(access(mine, F_OK), 0);
    expect_clean(w);
    assert_int_equal(w->out.orphans, 0);
    free(orphan);
    free(mine);
}

struct watch {
    uint64_t calls, last, total;
    struct cancel cancel;
    int stop_after; /* 0 = never */
};

static void watch_progress(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct watch *watch = arg;
    assert_non_null(what);
    assert_true(done >= watch->last && done <= total);
    watch->last = done;
    watch->total = total;
    if (++watch->calls == (uint64_t)watch->stop_after)
        atomic_store(&watch->cancel.requested, 1);
}

static void it_tells_how_far_it_is_and_stops(void **state)
{
    struct world *w = *state;
    struct watch watch = {.stop_after = 5};
    const struct progress progress = {watch_progress, &watch};
    struct store_verify_options o = {.progress = &progress, .cancel = &watch.cancel};
    assert_int_equal(store_verify(w->s, &o, &w->out, &w->e), ERR_CANCELLED);
    assert_int_equal(w->out.spans, 5);
    watch = (struct watch){0};
    assert_int_equal(store_verify(w->s, &o, &w->out, &w->e), 0);
    assert_int_equal(watch.calls, SPANS);
    assert_int_equal(watch.last, watch.total);
    assert_int_equal(watch.total, w->out.bytes);
}

/* ---- the digest ---------------------------------------------------------------------------------------- */

static void expect_digest(struct world *w, int64_t id, const uint8_t want[16], int same)
{
    uint8_t have[16];
    assert_int_equal(store_session_digest(w->s, id, have, &w->e), 0);
    assert_int_equal(memcmp(have, want, 16) == 0, same);
}

static void equal_work_has_equal_digests(void **state)
{
    struct world *w = *state;
    uint8_t digest[16];
    assert_int_equal(store_session_digest(w->s, w->id, digest, &w->e), 0);
    /* Another store: other order, other rows before it, other paths and times, and the chain in one batch. */
    struct world two = {.dir = fixture_dir_make()};
    assert_int_equal(store_open(two.dir, &two.s, &two.e), 0);
    int64_t other;
    assert_int_equal(store_session_create(two.s, "other", NULL, &other, &two.e), 0);
    add_turn(two.s, other, "who?", "me", 1);
    ref_and_put(two.s, other, 30);
    add_document(two.s, other, "/x/a.txt", "the text of a", 50);
    assert_int_equal(store_session_create(two.s, "name", NULL, &two.id, &two.e), 0);
    add_turn(two.s, two.id, "what is a?", "a text", 70);
    add_document(two.s, two.id, "/y/a.txt", "the text of a", 50);
    for (unsigned i = SPANS; i--;)
        ref_and_put(two.s, two.id, i);
    add_document(two.s, two.id, "/y/b.txt", "another text, of b", 60);
    add_turn(two.s, two.id, "and b?", "another", 80);
    expect_digest(&two, two.id, digest, 1);
    expect_digest(&two, other, digest, 0);
    /* A reference to what is not there does not count; one more span does. */
    uint8_t key[STORE_KEY_BYTES];
    fixture_key(31, key);
    assert_int_equal(store_session_ref(two.s, two.id, 1, key, &two.e), 0);
    expect_digest(&two, two.id, digest, 1);
    assert_int_equal(fixture_put(two.s, 31, &two.e), 0);
    expect_digest(&two, two.id, digest, 0);
    assert_int_equal(store_span_drop(two.s, 1, key, &two.e), 0);
    expect_digest(&two, two.id, digest, 1);
    int64_t fork;
    assert_int_equal(store_session_fork(two.s, two.id, "fork", &fork, &two.e), 0);
    expect_digest(&two, fork, digest, 1);
    add_turn(two.s, fork, "more?", "more", 0);
    expect_digest(&two, fork, digest, 0);
    assert_int_equal(store_document_drop_from(two.s, two.id, 1, &two.e), 0);
    expect_digest(&two, two.id, digest, 0);
    add_document(two.s, two.id, "/y/b.txt", "another text, of B", 60);
    expect_digest(&two, two.id, digest, 0);
    assert_int_equal(store_session_digest(two.s, 999, key, &two.e), ERR_NOT_FOUND);
    store_close(two.s);
    fixture_dir_remove(two.dir);
}

struct list {
    unsigned n;
    int stop_at;
};

static int take_span(void *arg, const struct span_info *info, const uint8_t digest[16])
{
    struct list *list = arg;
    uint8_t key[STORE_KEY_BYTES], want[16];
    struct err e;
    fixture_key(list->n, key);
    assert_memory_equal(info->key, key, sizeof key);
    assert_int_equal(info->size, fixture_size(list->n));
    if (info->size == 0) {
        assert_int_equal(store_payload_digest(NULL, 0, want, &e), 0);
        assert_memory_equal(digest, want, 16);
    }
    return (int)++list->n == list->stop_at ? 77 : 0;
}

static void its_spans_come_in_order(void **state)
{
    struct world *w = *state;
    ref_and_put(w->s, w->id, SPANS);
    struct list list = {0};
    assert_int_equal(store_session_spans(w->s, w->id, take_span, &list, &w->e), 0);
    assert_int_equal(list.n, SPANS + 1);
    list = (struct list){.stop_at = 3};
    assert_int_equal(store_session_spans(w->s, w->id, take_span, &list, &w->e), 77);
    /* The digest by the row's word is the one of the bytes. */
    struct span_map m;
    uint8_t key[STORE_KEY_BYTES], a[16], b[16];
    fixture_key(11, key);
    assert_int_equal(store_span_map(w->s, 1, key, &m, &w->e), 0);
    assert_int_equal(store_payload_digest(m.data, m.size, a, &w->e), 0);
    assert_int_equal(store_payload_digest(m.data, m.size - 1, b, &w->e), 0);
    assert_memory_not_equal(a, b, 16);
    store_span_unmap(w->s, &m);
}

/* ---- any byte of the database -------------------------------------------------------------------------- */

static void overwrite(const char *path, const char *bytes, size_t n)
{
    int fd = open(path, O_RDWR | O_TRUNC);
    assert_true(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
    close(fd);
}

/* A flipped bit is a refusal to open, a named problem, or without meaning; never another content. */
static void no_flipped_bit_of_the_database_passes(void **state)
{
    struct world *w = *state;
    char *path = path_join(w->dir, "lectern.db");
    uint8_t digest[16], now[16];
    assert_int_equal(store_session_digest(w->s, w->id, digest, &w->e), 0);
    store_close(w->s);
    w->s = NULL;
    char *bytes;
    size_t n;
    assert_int_equal(file_read(path, 1 << 24, &bytes, &n, &w->e), 0);
    uint32_t random = 12345;
    int refused = 0, named = 0, meaningless = 0;
    for (int i = 0; i < 250; i++) {
        random = random * 1664525 + 1013904223;
        size_t at = (size_t)((uint64_t)random * n >> 32);
        while (!bytes[at]) /* most of a page is empty */
            at = (at + 1) % n;
        bytes[at] ^= (char)(1 << (i % 8));
        overwrite(path, bytes, n);
        int64_t id = 0;
        if (store_open(w->dir, &w->s, &w->e)) {
            refused++;
        } else if (verify(w, 0) || w->out.problems) {
            named++;
        } else {
            meaningless++;
            assert_int_equal(store_session_find(w->s, "one", &id, &w->e), 0);
            assert_int_equal(store_session_digest(w->s, id, now, &w->e), 0);
            assert_memory_equal(now, digest, 16);
            struct store_session row;
            assert_int_equal(store_session_get_id(w->s, id, &row, &w->e), 0);
            assert_string_equal(row.name, "one");
            store_session_free(&row);
        }
        store_close(w->s);
        w->s = NULL;
        bytes[at] ^= (char)(1 << (i % 8));
    }
    print_message("250 bits: %d refused, %d named, %d without meaning\n", refused, named, meaningless);
    assert_true(named > 0);
    overwrite(path, bytes, n);
    open_again(w);
    expect_clean(w);
    free(bytes);
    free(path);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_whole_store_is_clean),
        TEST(a_flipped_bit_is_named_and_only_its_span_goes),
        TEST(cut_and_lost_segments_are_named),
        TEST(damaged_rows_of_spans_are_named),
        TEST(references_are_checked),
        TEST(a_missing_parent_is_counted),
        TEST(damaged_documents_are_named_and_left),
        TEST(damaged_sessions_and_turns_are_named_and_left),
        TEST(a_damaged_index_is_rebuilt),
        TEST(files_without_a_row_are_counted_and_removed),
        TEST(it_tells_how_far_it_is_and_stops),
        TEST(equal_work_has_equal_digests),
        TEST(its_spans_come_in_order),
        TEST(no_flipped_bit_of_the_database_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
