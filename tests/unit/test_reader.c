/* SPDX-License-Identifier: Apache-2.0 */
/* test_reader.c - sessions of text documents over a tiny model and a real store: what is read, what is kept,
 * what is shared, what is read again, and that the outcome equals an uninterrupted reading's bit for bit.
 *
 * The worker: $LECTERN_INGEST, or lectern-ingest in the folder above this program's.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "app/reader.h"
#include "engine/base/file.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

enum { WORDS_A = 1500, WORDS_B = 1450 };

static char worker[4096];
static char *model_folder, *model;
static struct engine *engine;

struct world {
    char *folder; /* documents */
    char *data;   /* the store */
    struct store *store;
    struct reader *reader;
    struct reader_usage usage; /* of the last read */
    char notices[4000];
    struct err e;
};

#define OK(call)                                                                                             \
    do {                                                                                                     \
        int rc_ = (call);                                                                                    \
        if (rc_)                                                                                             \
            fail_msg("%s: %d %s", #call, rc_, w->e.text);                                                    \
    } while (0)

static struct engine *open_engine(int format)
{
    struct engine *g = NULL;
    struct err e = {0};
    struct engine_options o = {.model_path = model,
                               .heads_path = model_folder,
                               .sparsity = 0.5,
                               .sink = 64,
                               .recent = 64,
                               .kv_format = format,
                               .threads = 2};
    if (engine_open(&g, &o, &e))
        fail_msg("%s", e.text);
    return g;
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
    model_folder = temp_folder();
    model = temp_path(model_folder, "tiny.gguf");
    struct tiny_model m = tiny_model_default();
    m.L = 2;
    m.H = m.HK = 2;
    m.D = 16;
    m.C = m.F = 32;
    m.context = 65536;
    if (tiny_model_write(&m, model))
        return -1;
    temp_text(model_folder, "full_attention_heads.tsv", "0.9\t0.1\n0.2\t0.8\n");
    temp_text(model_folder, "config.json", "{\"sink_size\": 64, \"recent_size\": 64}");
    engine = open_engine(8);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    engine_close(engine);
    free(model);
    temp_remove(model_folder);
    return 0;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    w->folder = temp_folder();
    w->data = temp_folder();
    *state = w;
    return store_open(w->data, &w->store, &w->e);
}

static int teardown(void **state)
{
    struct world *w = *state;
    reader_close(w->reader);
    store_close(w->store);
    temp_remove(w->folder);
    temp_remove(w->data);
    free(w);
    return 0;
}

/* ---- documents and sessions ---- */

/* Words that follow from a seed; word `other` (if not negative) is another one. */
static char *make_words(unsigned seed, int n, int other)
{
    char *text = malloc((size_t)n * 9 + 1), *p = text;
    uint32_t x = seed * 2654435761u + 1;
    for (int i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        int length = 2 + (int)(x >> 28) % 5;
        for (int k = 0; k < length; k++)
            *p++ = (char)('a' + (x >> (5 * k)) % 26);
        if (i == other)
            p[-1] = p[-1] == 'z' ? 'y' : 'z';
        *p++ = i % 12 == 11 ? '\n' : ' ';
    }
    *p = '\0';
    return text;
}

static char *write_words(struct world *w, const char *name, unsigned seed, int n, int other)
{
    char *text = make_words(seed, n, other);
    temp_text(w->folder, name, text);
    free(text);
    return temp_path(w->folder, name);
}

static void take_notice(void *arg, const char *line)
{
    struct world *w = arg;
    size_t at = strlen(w->notices);
    snprintf(w->notices + at, sizeof w->notices - at, "%s\n", line);
}

static void open_reader(struct world *w, const char *name)
{
    reader_close(w->reader);
    w->reader = NULL;
    w->notices[0] = '\0';
    struct reader_options o = {.engine = engine,
                               .store = w->store,
                               .worker = worker,
                               .name = name,
                               .create = 1,
                               .notice = take_notice,
                               .arg = w};
    OK(reader_open(&w->reader, &o, &w->e));
}

static void add(struct world *w, const char *path)
{
    OK(reader_add(w->reader, path, NULL, NULL, NULL, &w->e));
}

/* The reading, and that its parts make the whole. */
static void read_all(struct world *w)
{
    w->usage = (struct reader_usage){0};
    OK(reader_read(w->reader, NULL, NULL, &w->usage, &w->e));
    assert_int_equal(reader_position(w->reader), reader_corpus_tokens(w->reader));
    assert_int_equal(w->usage.restored + w->usage.prefilled, reader_corpus_tokens(w->reader));
}

/* A new handle: what the old one has checked is checked again. */
static void reopen_store(struct world *w)
{
    reader_close(w->reader);
    w->reader = NULL;
    store_close(w->store);
    w->store = NULL;
    OK(store_open(w->data, &w->store, &w->e));
}

static void assert_line(const struct world *w, const char *begin, const char *reason)
{
    char line[400];
    reader_usage_line(&w->usage, line, sizeof line);
    print_message("  %s\n", line);
    if (strncmp(line, begin, strlen(begin)) != 0 || !strstr(line, reason))
        fail_msg("\"%s\" does not begin with \"%s\" or lacks \"%s\"", line, begin, reason);
}

/* ---- spans ---- */

struct spans {
    struct span_info items[512];
    size_t n;
};

static int take_span(void *arg, const struct span_info *info, const uint8_t digest[16])
{
    struct spans *s = arg;
    (void)digest;
    assert_true(s->n < sizeof s->items / sizeof s->items[0]);
    s->items[s->n++] = *info;
    return 0;
}

static struct spans spans_of(struct world *w)
{
    struct spans s = {.n = 0};
    OK(store_session_spans(w->store, reader_session(w->reader), take_span, &s, &w->e));
    return s;
}

static size_t count_spans(struct world *w)
{
    struct store_stats stats;
    OK(store_stats(w->store, &stats, &w->e));
    return (size_t)stats.spans;
}

static const struct span_info *span_at(const struct spans *s, int kind, uint64_t position)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->items[i].kind == kind && s->items[i].position == position)
            return &s->items[i];
    return NULL;
}

struct digest {
    uint8_t bytes[16];
};

static struct digest digest_of(struct world *w)
{
    struct digest d;
    OK(store_session_digest(w->store, reader_session(w->reader), d.bytes, &w->e));
    return d;
}

/* An uninterrupted reading of these documents in a store of its own. */
static struct digest digest_fresh(const char *const *paths, size_t n)
{
    struct world fresh = {.data = temp_folder()}, *w = &fresh;
    OK(store_open(w->data, &w->store, &w->e));
    open_reader(w, "fresh");
    for (size_t i = 0; i < n; i++)
        add(w, paths[i]);
    read_all(w);
    struct digest d = digest_of(w);
    reader_close(w->reader);
    store_close(w->store);
    temp_remove(w->data);
    return d;
}

/* Flips a byte of the span's payload where it lies in its segment file. */
static void damage(struct world *w, const struct span_info *span, size_t at)
{
    struct span_map map;
    OK(store_span_map(w->store, span->kind, span->key, &map, &w->e));
    char *segments = temp_path(w->data, "segments");
    int done = 0;
    for (int number = 1; !done && number < 20; number++) {
        char name[40], *path;
        snprintf(name, sizeof name, "%06d.seg", number);
        path = temp_path(segments, name);
        char *bytes = NULL;
        size_t size = 0;
        struct err e;
        if (!access(path, R_OK) && !file_read(path, 1u << 30, &bytes, &size, &e)) {
            for (size_t i = 4096; !done && i + map.size <= size; i += 4096)
                if (!memcmp(bytes + i, map.data, map.size)) {
                    int fd = open(path, O_WRONLY | O_CLOEXEC);
                    char flipped = (char)(bytes[i + at] ^ 4);
                    assert_int_equal(pwrite(fd, &flipped, 1, (off_t)(i + at)), 1);
                    close(fd);
                    done = 1;
                }
            free(bytes);
        }
        free(path);
    }
    free(segments);
    store_span_unmap(w->store, &map);
    assert_true(done);
}

static char *answer(struct world *w)
{
    struct reader_answer a;
    struct reader_question q = {.text = "What is it?", .top_p = 1, .max_tokens = 12};
    int rc = reader_ask(w->reader, &q, NULL, NULL, &a, &w->e);
    if (rc)
        fail_msg("ask: %s", w->e.text);
    char *text = strdup(a.text);
    w->usage = a.usage;
    reader_answer_fini(&a);
    return text;
}

/* ---- tests ---- */

static void read_then_restored(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1), *b = write_words(w, "b.txt", 2, WORDS_B, -1);
    size_t interval = engine_checkpoint_interval(engine);
    open_reader(w, "s");
    add(w, a);
    add(w, b);
    read_all(w);
    size_t total = reader_corpus_tokens(w->reader), end = (size_t)reader_document(w->reader, 1)->token_start;
    print_message("  %zu + %zu tokens, a checkpoint every %zu\n", end, total - end, interval);
    assert_true(end > interval && total > 2 * interval);
    assert_line(w, "read ", "(new)");
    assert_int_equal(w->usage.restored, 0);

    /* Checkpoints stay at multiples of the interval and at documents' ends, nowhere else. */
    struct spans s = spans_of(w);
    size_t checkpoints = 0, blocks = 0;
    uint64_t checkpoint_bytes = 0;
    for (size_t i = 0; i < s.n; i++) {
        uint64_t at = s.items[i].position;
        blocks += s.items[i].kind == KV_KIND_BLOCK;
        if (s.items[i].kind != KV_KIND_CHECKPOINT)
            continue;
        checkpoints++;
        checkpoint_bytes += s.items[i].size;
        assert_true(at % interval == 0 || at == end || at == total);
    }
    assert_int_equal(blocks, total / KV_BLOCK);
    assert_int_equal(checkpoints, total / interval + 2);
    assert_true(checkpoint_bytes > 0);

    open_reader(w, "s");
    read_all(w);
    char begin[60];
    snprintf(begin, sizeof begin, "restored %zu, verified, ", total);
    assert_line(w, begin, " s");
    assert_int_equal(w->usage.prefilled, 0);
    assert_true(w->usage.replayed >= 1 && w->usage.replayed <= 8);
    assert_string_equal(w->notices, "");
    free(a);
    free(b);
}

/* Document 2 has another word late: only from the checkpoint before it on is it read again, what the old text
 * alone had is gone, and the session is as if it had never been otherwise. */
static void late_change_is_read_from_there(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1), *b = write_words(w, "b.txt", 2, WORDS_B, -1);
    const char *paths[] = {a, b};
    open_reader(w, "s");
    add(w, a);
    add(w, b);
    read_all(w);
    size_t start = (size_t)reader_document(w->reader, 1)->token_start;
    free(write_words(w, "b.txt", 2, WORDS_B, WORDS_B - 30));

    open_reader(w, "s");
    assert_int_equal(reader_file(w->reader, 0), READER_FILE_SAME);
    assert_int_equal(reader_file(w->reader, 1), READER_FILE_CHANGED);
    reader_tell_changed(w->reader);
    assert_non_null(strstr(w->notices, "b.txt changed on disk"));
    read_all(w); /* nothing happens to it unasked */
    assert_int_equal(w->usage.prefilled, 0);
    size_t taken = 0;
    OK(reader_refresh(w->reader, NULL, NULL, &taken, &w->e));
    assert_int_equal(taken, 1);
    assert_int_equal(reader_file(w->reader, 1), READER_FILE_SAME);
    read_all(w);
    size_t total = reader_corpus_tokens(w->reader), interval = engine_checkpoint_interval(engine);
    assert_line(w, "restored ", "(the text changed at ");
    assert_true(w->usage.restored >= start && w->usage.restored % interval == 0);
    assert_true(w->usage.prefilled <= interval + 400);
    assert_true(total - w->usage.restored == w->usage.prefilled);
    struct digest now = digest_of(w), fresh = digest_fresh(paths, 2);
    assert_memory_equal(&now, &fresh, sizeof now);
    size_t spans = count_spans(w);
    assert_int_equal(spans, spans_of(w).n); /* nothing else is in the store */
    open_reader(w, "s");
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    free(a);
    free(b);
}

/* An early change takes all that follows; documents keep their order; a document with the same words and
 * another file time costs nothing. */
static void first_document_changes(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, 900, -1), *b = write_words(w, "b.txt", 2, 900, -1);
    char *c = write_words(w, "c.txt", 3, 300, -1);
    const char *paths[] = {a, b, c};
    open_reader(w, "s");
    for (int i = 0; i < 3; i++)
        add(w, paths[i]);
    read_all(w);
    struct timespec times[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000}};
    assert_int_equal(utimensat(AT_FDCWD, c, times, 0), 0);
    free(write_words(w, "a.txt", 1, 905, 2));
    free(write_words(w, "b.txt", 2, 900, 880));
    open_reader(w, "s");
    assert_int_equal(reader_file(w->reader, 0), READER_FILE_CHANGED);
    assert_int_equal(reader_file(w->reader, 1), READER_FILE_CHANGED);
    assert_int_equal(reader_file(w->reader, 2), READER_FILE_SAME);
    size_t taken = 0;
    OK(reader_refresh(w->reader, NULL, NULL, &taken, &w->e));
    assert_int_equal(taken, 2);
    read_all(w);
    assert_int_equal(w->usage.restored, 0);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(reader_document(w->reader, i)->path, paths[i]);
    struct digest now = digest_of(w), fresh = digest_fresh(paths, 3);
    assert_memory_equal(&now, &fresh, sizeof now);

    assert_int_equal(unlink(b), 0);
    open_reader(w, "s");
    assert_int_equal(reader_file(w->reader, 1), READER_FILE_MISSING);
    OK(reader_refresh(w->reader, NULL, NULL, &taken, &w->e));
    assert_int_equal(taken, 0);
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    free(a);
    free(b);
    free(c);
}

static void a_file_of_a_folder_changes(void **state)
{
    struct world *w = *state;
    char *inner = temp_path(w->folder, "notes");
    assert_int_equal(mkdir(inner, 0700), 0);
    temp_text(inner, "one.txt", "The first file of the folder.\n");
    temp_text(inner, "two.txt", "The second file of the folder.\n");
    open_reader(w, "s");
    add(w, inner);
    read_all(w);
    open_reader(w, "s");
    assert_int_equal(reader_file(w->reader, 0), READER_FILE_SAME);
    temp_text(inner, "two.txt", "The second file in the folder.\n"); /* of the same size */
    open_reader(w, "s");
    assert_int_equal(reader_file(w->reader, 0), READER_FILE_CHANGED);
    size_t taken = 0;
    OK(reader_refresh(w->reader, NULL, NULL, &taken, &w->e));
    assert_int_equal(taken, 1);
    read_all(w);
    open_reader(w, "s");
    assert_int_equal(reader_file(w->reader, 0), READER_FILE_SAME);
    free(inner);
}

/* Two sessions that begin alike store it once; a fork stores nothing. */
static void shared_and_forked(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1), *b = write_words(w, "b.txt", 2, 700, -1);
    char *c = write_words(w, "c.txt", 3, 700, -1);
    open_reader(w, "first");
    add(w, a);
    add(w, b);
    read_all(w);
    size_t alone = count_spans(w), start = (size_t)reader_document(w->reader, 1)->token_start;
    int64_t first = reader_session(w->reader);

    open_reader(w, "second");
    add(w, a);
    add(w, c);
    read_all(w);
    assert_line(w, "restored ", "(new)");
    assert_int_equal(w->usage.restored, start);
    size_t total = reader_corpus_tokens(w->reader), interval = engine_checkpoint_interval(engine);
    size_t own = (total / KV_BLOCK - start / KV_BLOCK) + (total / interval - start / interval) + 1;
    assert_int_equal(count_spans(w), alone + own);
    struct spans s = spans_of(w); /* it references what it shares */
    assert_int_equal(s.n, total / KV_BLOCK + total / interval + 2);

    int64_t fork_id = 0;
    OK(store_session_fork(w->store, first, "third", &fork_id, &w->e));
    assert_int_equal(count_spans(w), alone + own);
    open_reader(w, "third");
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    assert_int_equal(count_spans(w), alone + own);

    /* The first goes: what the others have stays. */
    OK(store_session_delete(w->store, first, &w->e));
    open_reader(w, "second");
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    free(a);
    free(b);
    free(c);
}

/* A block in the middle: its own range is read again, from the checkpoint before it. */
static void damaged_block_is_repaired(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1), *b = write_words(w, "b.txt", 2, WORDS_B, -1);
    size_t interval = engine_checkpoint_interval(engine);
    open_reader(w, "s");
    add(w, a);
    add(w, b);
    read_all(w);
    char *wanted = answer(w);
    size_t total = reader_corpus_tokens(w->reader);
    struct digest before = digest_of(w);
    struct spans s = spans_of(w);
    uint64_t end = (interval / KV_BLOCK + 2) * KV_BLOCK; /* the second block after the first interval */
    const struct span_info *block = span_at(&s, KV_KIND_BLOCK, end);
    assert_non_null(block);
    damage(w, block, (size_t)block->size / 2);

    reopen_store(w);
    open_reader(w, "s");
    read_all(w);
    char reason[80];
    snprintf(reason, sizeof reason, "(block at %zu was damaged)", (size_t)end - KV_BLOCK);
    assert_line(w, "restored ", reason);
    assert_int_equal(w->usage.prefilled, 2 * KV_BLOCK);
    assert_int_equal(w->usage.restored, total - 2 * KV_BLOCK);
    char *got = answer(w);
    assert_string_equal(got, wanted);
    open_reader(w, "s");
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    free(got);
    got = answer(w);
    assert_string_equal(got, wanted);

    /* The digest counts turns: the same session without the two later ones. */
    struct store_turn_list turns = {0};
    OK(store_turn_list(w->store, reader_session(w->reader), &turns, &w->e));
    assert_int_equal(turns.n, 3);
    for (size_t i = 1; i < turns.n; i++) {
        assert_string_equal(turns.items[i].answer, turns.items[0].answer);
        assert_string_equal(turns.items[i].json, turns.items[0].json);
    }
    store_turn_list_free(&turns);
    struct spans after = spans_of(w);
    assert_int_equal(after.n, s.n);
    (void)before;
    free(wanted);
    free(got);
    free(a);
    free(b);
}

/* Blocks that are gone, one after the other and apart; the first and the last among them. */
static void lost_blocks_are_repaired(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1);
    open_reader(w, "s");
    add(w, a);
    read_all(w);
    struct digest before = digest_of(w);
    struct spans s = spans_of(w);
    size_t total = reader_corpus_tokens(w->reader), last = total / KV_BLOCK;
    const size_t lost[] = {1, 2, 5, last};
    for (size_t i = 0; i < 4; i++) {
        const struct span_info *block = span_at(&s, KV_KIND_BLOCK, lost[i] * KV_BLOCK);
        OK(store_span_drop(w->store, KV_KIND_BLOCK, block->key, &w->e));
    }
    open_reader(w, "s");
    read_all(w);
    assert_line(w, "restored ", "(block at 0 was gone)");
    assert_true(w->usage.prefilled < total);
    struct digest after = digest_of(w);
    assert_memory_equal(&before, &after, sizeof after);
    assert_int_equal(count_spans(w), s.n);
    open_reader(w, "s");
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    free(a);
}

static void damaged_checkpoint_costs_one_interval(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1);
    open_reader(w, "s");
    add(w, a);
    read_all(w);
    struct digest before = digest_of(w);
    struct spans s = spans_of(w);
    size_t total = reader_corpus_tokens(w->reader), interval = engine_checkpoint_interval(engine);
    damage(w, span_at(&s, KV_KIND_CHECKPOINT, total), 1000);
    reopen_store(w);
    open_reader(w, "s");
    read_all(w);
    assert_line(w, "restored ", "was damaged)");
    assert_int_equal(w->usage.restored, total / interval * interval);
    struct digest after = digest_of(w);
    assert_memory_equal(&before, &after, sizeof after);

    for (size_t i = 0; i < s.n; i++) /* all of them are gone */
        if (s.items[i].kind == KV_KIND_CHECKPOINT)
            OK(store_span_drop(w->store, KV_KIND_CHECKPOINT, s.items[i].key, &w->e));
    open_reader(w, "s");
    read_all(w);
    assert_line(w, "read ", "(checkpoint at ");
    after = digest_of(w);
    assert_memory_equal(&before, &after, sizeof after);
    free(a);
}

/* Right checksums over wrong numbers: the proof finds it, and the next reading writes it anew. */
static void wrong_numbers_are_found_and_replaced(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1);
    open_reader(w, "s");
    add(w, a);
    read_all(w);
    struct digest before = digest_of(w);
    struct spans s = spans_of(w);
    size_t total = reader_corpus_tokens(w->reader);
    const struct span_info *block = span_at(&s, KV_KIND_BLOCK, total / KV_BLOCK * KV_BLOCK);
    struct span_map map;
    OK(store_span_map(w->store, block->kind, block->key, &map, &w->e));
    uint8_t *wrong = malloc(map.size);
    memcpy(wrong, map.data, map.size);
    for (size_t i = 0; i < map.size; i++)
        wrong[i] ^= i % 7 == 3;
    store_span_unmap(w->store, &map);
    OK(store_span_drop(w->store, block->kind, block->key, &w->e));
    struct iovec part = {.iov_base = wrong, .iov_len = (size_t)block->size};
    struct span_put put = {.kind = block->kind,
                           .key = block->key,
                           .parent = block->has_parent ? block->parent : NULL,
                           .parts = &part,
                           .n = 1,
                           .position = block->position};
    OK(store_span_put(w->store, &put, &w->e));
    free(wrong);

    reopen_store(w);
    open_reader(w, "s");
    read_all(w);
    assert_line(w, "restored ", "did not prove itself)");
    struct digest after = digest_of(w);
    assert_memory_equal(&before, &after, sizeof after);
    open_reader(w, "s");
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    free(a);
}

/* ---- stopped and killed ---- */

struct stop {
    struct cancel cancel;
    uint64_t at;
    int kill;
};

static void stop_there(void *arg, const char *what, uint64_t done, uint64_t total)
{
    struct stop *stop = arg;
    (void)total;
    if (strcmp(what, "reading") != 0 || done < stop->at)
        return;
    if (stop->kill)
        _exit(9); /* nothing is flushed, closed or waited for */
    atomic_store(&stop->cancel.requested, 1);
}

static void cancelled_reading_goes_on(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1);
    const char *paths[] = {a};
    open_reader(w, "s");
    add(w, a);
    size_t total = reader_corpus_tokens(w->reader), kept = 0;
    for (uint64_t at = 1500; at < total; at += 2777) {
        struct stop stop = {.at = at};
        struct progress port = {.report = stop_there, .arg = &stop};
        w->usage = (struct reader_usage){0};
        int rc = reader_read(w->reader, &port, &stop.cancel, &w->usage, &w->e);
        assert_int_equal(rc, ERR_CANCELLED);
        assert_non_null(strstr(w->e.text, "which are kept"));
        assert_int_equal(w->usage.restored, kept);
        kept = reader_position(w->reader);
        assert_true(kept >= at && kept < total);
        open_reader(w, "s");
    }
    read_all(w);
    assert_line(w, "restored ", "(the last reading stopped there)");
    assert_int_equal(w->usage.restored, kept);
    struct digest now = digest_of(w), fresh = digest_fresh(paths, 1);
    assert_memory_equal(&now, &fresh, sizeof now);
    assert_int_equal(count_spans(w), spans_of(w).n);
    free(a);
}

static void killed_child(const struct world *w, const char *path, uint64_t at)
{
    struct world child = {.data = w->data};
    struct stop stop = {.at = at, .kill = 1};
    struct progress port = {.report = stop_there, .arg = &stop};
    struct err e;
    struct engine *g = open_engine(8); /* threads do not come through a fork */
    engine = g;
    if (store_open(child.data, &child.store, &e))
        _exit(1);
    open_reader(&child, "s");
    if (reader_add(child.reader, path, NULL, NULL, NULL, &e))
        _exit(2);
    reader_read(child.reader, &port, NULL, NULL, &e);
    _exit(3); /* it was to be killed */
}

static void killed_reading_goes_on(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, WORDS_A, -1);
    const char *paths[] = {a};
    size_t before = 0;
    store_close(w->store);
    w->store = NULL;
    for (uint64_t at = 100; at < 6500; at += 2100) {
        pid_t pid = fork();
        if (!pid)
            killed_child(w, a, at);
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    }
    OK(store_open(w->data, &w->store, &w->e));
    open_reader(w, "s");
    add(w, a);
    read_all(w);
    assert_true(w->usage.restored >= 4096 && w->usage.restored > before);
    assert_line(w, "restored ", "(the last reading stopped there)");
    struct digest now = digest_of(w), fresh = digest_fresh(paths, 1);
    assert_memory_equal(&now, &fresh, sizeof now);
    assert_int_equal(count_spans(w), spans_of(w).n);
    free(a);
}

/* Another page format is another chain: it is told, and both are kept. */
static void other_settings_are_told(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, 900, -1);
    open_reader(w, "s");
    add(w, a);
    read_all(w);
    struct engine *usual = engine;
    engine = open_engine(4);
    open_reader(w, "s");
    read_all(w);
    assert_line(w, "read ", "other settings)");
    reader_close(w->reader);
    w->reader = NULL;
    engine_close(engine);
    engine = usual;
    open_reader(w, "s");
    read_all(w);
    assert_int_equal(w->usage.prefilled, 0);
    free(a);
}

static void stripped_session_is_read_again(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, 900, -1);
    open_reader(w, "s");
    add(w, a);
    read_all(w);
    struct digest before = digest_of(w);
    int64_t id = reader_session(w->reader);
    reader_close(w->reader);
    w->reader = NULL;
    OK(store_session_strip(w->store, id, NULL, &w->e));
    assert_int_equal(count_spans(w), 0);
    open_reader(w, "s");
    read_all(w);
    assert_int_equal(w->usage.restored, 0);
    struct digest after = digest_of(w);
    assert_memory_equal(&before, &after, sizeof after);
    free(a);
}

struct stopper {
    size_t after; /* pieces; 0: never */
    size_t seen;
};

static int stop_after(void *arg, const char *piece, size_t n)
{
    struct stopper *s = arg;
    (void)piece, (void)n;
    return ++s->seen == s->after;
}

static void answer_both_ways(struct world *w, struct reader_question q, size_t stop)
{
    struct reader_answer a[2];
    size_t position[2];
    for (int i = 0; i < 2; i++) {
        struct stopper stopper = {.after = stop};
        q.one_by_one = i;
        q.token = stop_after;
        q.arg = &stopper;
        OK(reader_ask(w->reader, &q, NULL, NULL, &a[i], &w->e));
        position[i] = reader_position(w->reader);
    }
    assert_string_equal(a[0].text, a[1].text);
    assert_int_equal(position[0], position[1]);
    assert_int_equal(a[0].usage.generated, a[1].usage.generated);
    assert_int_equal(a[0].usage.appended, a[1].usage.appended);
    assert_int_equal(a[1].usage.passes, a[1].usage.appended);
    assert_true(a[0].usage.passes <= a[1].usage.passes);
    assert_true(a[0].cancelled == a[1].cancelled && a[0].truncated == a[1].truncated);
    assert_int_equal(a[0].n_citations, a[1].n_citations);
    for (size_t i = 0; i < a[0].n_citations; i++) {
        assert_string_equal(a[0].citations[i].quote, a[1].citations[i].quote);
        assert_memory_equal(&a[0].citations[i].score, &a[1].citations[i].score, sizeof(double));
    }
    reader_answer_fini(&a[0]);
    reader_answer_fini(&a[1]);
}

static void guesses_change_no_answer(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, 600, -1);
    open_reader(w, "s");
    add(w, a);
    for (int hot = 0; hot < 2; hot++)
        for (int max = 1; max < 100; max = max * 3 + 1) {
            struct reader_question q = {
                .text = "What is it?", .temperature = 0.4 * hot, .top_p = 1, .seed = 5, .max_tokens = max};
            answer_both_ways(w, q, 0);
            answer_both_ways(w, q, 1);
            answer_both_ways(w, q, (size_t)max / 2 + 1);
        }
    free(a);
}

static void selection_needs_a_card(void **state)
{
    struct world *w = *state;
    char *a = write_words(w, "a.txt", 1, 60, -1);
    struct reader_answer answer;
    struct reader_question q = {.text = "What is it?", .top_p = 1, .max_tokens = 5, .select = 8};
    open_reader(w, "s");
    add(w, a);
    assert_int_equal(reader_ask(w->reader, &q, NULL, NULL, &answer, &w->e), ERR_UNSUPPORTED);
    assert_non_null(strstr(w->e.text, "--select"));
    reader_answer_fini(&answer);
    free(a);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(read_then_restored),
        TEST(late_change_is_read_from_there),
        TEST(first_document_changes),
        TEST(a_file_of_a_folder_changes),
        TEST(shared_and_forked),
        TEST(damaged_block_is_repaired),
        TEST(lost_blocks_are_repaired),
        TEST(damaged_checkpoint_costs_one_interval),
        TEST(wrong_numbers_are_found_and_replaced),
        TEST(cancelled_reading_goes_on),
        TEST(killed_reading_goes_on),
        TEST(other_settings_are_told),
        TEST(stripped_session_is_read_again),
        TEST(guesses_change_no_answer),
        TEST(selection_needs_a_card),
    };
    return cmocka_run_group_tests_name("reader", tests, group_setup, group_teardown);
}
