/* SPDX-License-Identifier: Apache-2.0 */
/* fault_book.c - see fault_book.h. */
#include "tests/support/fault_book.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "app/reader.h"
#include "data/store/store.h"
#include "data/transfer/transfer.h"
#include "engine/base/buf.h"
#include "tests/support/fault_run.h"
#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

static const char question[] = "What came first?";

static void make_text(const char *folder, const char *name, unsigned seed, unsigned lines)
{
    static const char *const words[] = {"the ", "salt ", "of ", "wind ", "harbour ", "and ", "lamp ", "a "};
    struct buf text = {0};
    uint64_t random = seed;
    for (unsigned i = 0; i < lines; i++) {
        buf_printf(&text, "%u ", seed + i);
        for (int k = 0; k < 6; k++)
            buf_puts(&text, words[fault_random(&random) % 8]);
        buf_puts(&text, "stood.\n");
    }
    temp_write(folder, name, text.data, text.len);
    buf_free(&text);
}

int book_engine(const struct book *b, const char *model, const char *heads, struct engine **out,
                struct err *e)
{
    (void)b;
    struct engine_options o = {.model_path = model,
                               .heads_path = heads,
                               .sparsity = 0.5,
                               .sink = -1,
                               .recent = -1,
                               .threads = 1,
                               .kernels = "ref"};
    return engine_open(out, &o, e);
}

static int open_reader(const struct engine *g, struct store *s, int create, struct reader **r, struct err *e)
{
    static char worker[4096]; /* the reader borrows it */
    const char *build = getenv("LECTERN_BUILD");
    snprintf(worker, sizeof worker, "%s/lectern-ingest", build ? build : ".");
    struct reader_options o = {.engine = g, .store = s, .worker = worker, .name = "x", .create = create};
    return reader_open(r, &o, e);
}

static int ask(struct reader *r, struct buf *said, struct err *e)
{
    struct reader_question q = {.text = question, .top_p = 1, .seed = 1, .max_tokens = 3};
    struct reader_answer a = {0};
    int rc = reader_ask(r, &q, NULL, NULL, &a, e);
    if (!rc) {
        buf_printf(said, "%s", a.text);
        for (size_t i = 0; i < a.n_citations; i++)
            buf_printf(said, "|%s %u %s", a.citations[i].name, a.citations[i].line_first,
                       a.citations[i].quote);
    }
    reader_answer_fini(&a);
    return rc;
}

int book_answer(const struct engine *g, const char *data, char **answer, struct err *e)
{
    struct store *s;
    struct reader *r = NULL;
    struct buf said = {0};
    *answer = NULL;
    int rc = store_open(data, &s, e);
    if (!rc)
        rc = open_reader(g, s, 0, &r, e);
    if (!rc)
        rc = ask(r, &said, e);
    reader_close(r);
    store_close(s);
    if (!rc)
        *answer = buf_take(&said);
    buf_free(&said);
    return rc;
}

int book_verify(const char *data, uint64_t *problems, struct err *e)
{
    struct store *s;
    struct store_verify_result found = {0};
    int rc = store_open(data, &s, e);
    if (!rc)
        rc = store_verify(s, NULL, &found, e);
    *problems = found.problems;
    store_close(s);
    return rc;
}

/* ---- looking
 * ------------------------------------------------------------------------------------------------ */

static int look_documents(struct store *s, int64_t id, struct look *out, struct err *e)
{
    struct store_document_list list = {0};
    int rc = store_document_list(s, id, &list, e);
    for (size_t i = 0; !rc && i < list.n && i < BOOK_ITEMS; i++) {
        const struct store_document *d = &list.items[i];
        struct buf all = {0};
        buf_printf(&all, "%s|%s|%s|%llu|%llu|%llu|%lld|", d->path, d->title, d->kind,
                   (unsigned long long)d->size, (unsigned long long)d->token_start,
                   (unsigned long long)d->token_count, (long long)d->mtime_ns);
        for (int part = 0; !rc && part < STORE_PARTS; part++) {
            void *bytes;
            size_t n;
            rc = store_document_read(s, id, d->ordinal, (enum store_part)part, &bytes, &n, e);
            if (!rc)
                buf_add(&all, bytes, n);
            free(rc ? NULL : bytes);
        }
        out->document[out->documents++] = XXH3_64bits(all.data, all.len);
        buf_free(&all);
    }
    store_document_list_free(&list);
    return rc;
}

static int look_turns(struct store *s, int64_t id, struct look *out, struct err *e)
{
    struct store_turn_list list = {0};
    int rc = store_turn_list(s, id, &list, e);
    for (size_t i = 0; !rc && i < list.n && i < BOOK_ITEMS; i++) {
        struct buf all = {0};
        if (list.items[i].damaged)
            rc = err_set(e, ERR_FORMAT, "turn %zu is marked as damaged", i);
        buf_printf(&all, "%d|%s|%s|%s|%lld", list.items[i].ordinal, list.items[i].question,
                   list.items[i].answer, list.items[i].json, (long long)list.items[i].time);
        out->turn[out->turns++] = XXH3_64bits(all.data, all.len);
        buf_free(&all);
    }
    store_turn_list_free(&list);
    return rc;
}

int book_look(const char *data, struct look *out, struct err *e)
{
    struct store *s;
    struct store_session row = {0};
    *out = (struct look){0};
    int rc = store_open(data, &s, e);
    if (!rc)
        rc = store_session_get(s, "x", &row, e);
    if (!rc)
        rc = look_documents(s, row.id, out, e);
    if (!rc)
        rc = look_turns(s, row.id, out, e);
    store_session_free(&row);
    store_close(s);
    return rc;
}

int look_is_prefix(const struct look *a, const struct look *b)
{
    return a->documents <= b->documents && a->turns <= b->turns &&
           !memcmp(a->document, b->document, a->documents * sizeof a->document[0]) &&
           !memcmp(a->turn, b->turn, a->turns * sizeof a->turn[0]);
}

int look_is_equal(const struct look *a, const struct look *b)
{
    return look_is_prefix(a, b) && look_is_prefix(b, a);
}

/* ---- damage
 * ------------------------------------------------------------------------------------------------- */

void file_damage(const char *path, uint64_t first, uint64_t end, uint64_t *random, char *what, size_t size)
{
    struct stat st;
    uint8_t bytes[64];
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) || st.st_size < 1)
        abort();
    uint64_t whole = (uint64_t)st.st_size;
    end = end && end < whole ? end : whole;
    uint64_t at = first + fault_random(random) % (end - first), way = fault_random(random) % 8;
    /* Much of a database's page is empty: a place in use is looked for. */
    for (int i = 0; i < 6 && pread(fd, bytes, 1, (off_t)at) == 1 && !bytes[0]; i++)
        at = first + fault_random(random) % (end - first);
    size_t n = (size_t)(end - at < sizeof bytes ? end - at : sizeof bytes);
    if (way == 6) {
        snprintf(what, size, "cut to %llu of %llu", (unsigned long long)at, (unsigned long long)whole);
        if (ftruncate(fd, (off_t)at))
            abort();
    } else if (way == 7) {
        uint64_t from = fault_random(random) % whole;
        snprintf(what, size, "%zu bytes at %llu overwritten (%llu)", n, (unsigned long long)at,
                 (unsigned long long)from);
        memset(bytes, from % 3 == 0 ? 0 : 0xff, sizeof bytes);
        if ((from % 3 == 2 && pread(fd, bytes, n, (off_t)from) < 0) ||
            pwrite(fd, bytes, n, (off_t)at) != (ssize_t)n)
            abort();
    } else {
        unsigned bit = fault_random(random) % 8;
        snprintf(what, size, "bit %u of byte %llu of %llu", bit, (unsigned long long)at,
                 (unsigned long long)whole);
        if (pread(fd, bytes, 1, (off_t)at) != 1)
            abort();
        bytes[0] ^= (uint8_t)(1u << bit);
        if (pwrite(fd, bytes, 1, (off_t)at) != 1)
            abort();
    }
    close(fd);
}

int err_is_named(const struct err *e)
{
    return e->code != ERR_NONE && strlen(e->text) > 8 && !strchr(e->text, '\n');
}

/* ---- making
 * ------------------------------------------------------------------------------------------------- */

static void make_files(struct book *b)
{
    struct tiny_model m = tiny_model_default();
    m.L = 2, m.H = 2, m.HK = 2, m.D = 16, m.C = 32, m.F = 32;
    b->model = temp_path(b->root, "tiny.gguf");
    b->heads = temp_path(b->root, "heads");
    if (tiny_model_write(&m, b->model) || mkdir(b->heads, 0700))
        abort();
    temp_text(b->heads, "full_attention_heads.tsv", "0.9\t0.1\n0.2\t0.8\n");
    temp_text(b->heads, "config.json", "{\"sink_size\": 16, \"recent_size\": 64}\n");
    static const unsigned lines[BOOK_DOCUMENTS] = {8, 20, 3};
    for (unsigned i = 0; i < BOOK_DOCUMENTS; i++) {
        char name[16];
        snprintf(name, sizeof name, "text%u.txt", i);
        make_text(b->root, name, 1000 * i + 7, lines[i]);
        b->documents[i] = temp_path(b->root, name);
    }
}

/* The folder is copied while the store is open, then when it is closed. */
static int make_store(struct book *b, const struct engine *g, struct err *e)
{
    char *data = temp_path(b->root, "data");
    struct store *s = NULL;
    struct reader *r = NULL;
    struct buf said = {0};
    int rc = store_open(data, &s, e);
    if (!rc)
        rc = open_reader(g, s, 1, &r, e);
    for (int i = 0; !rc && i < BOOK_DOCUMENTS; i++) {
        rc = reader_add(r, b->documents[i], NULL, NULL, NULL, e);
        if (!rc)
            rc = reader_read(r, NULL, NULL, NULL, e);
    }
    if (!rc)
        rc = ask(r, &said, e);
    int64_t id = rc ? 0 : reader_session(r);
    reader_close(r);
    if (!rc)
        tree_copy(data, b->running);
    struct transfer_result result;
    if (!rc)
        rc = store_session_digest(s, id, b->digest, e);
    if (!rc)
        rc = transfer_export(s, id, b->exported, NULL, &result, e);
    store_close(s);
    if (!rc)
        tree_copy(data, b->whole);
    buf_free(&said);
    free(data);
    return rc;
}

struct book *book_make(void)
{
    struct book *b = calloc(1, sizeof *b);
    if (!b)
        abort();
    struct err e = {0};
    struct engine *g = NULL;
    b->root = temp_folder();
    b->whole = temp_path(b->root, "whole");
    b->running = temp_path(b->root, "running");
    b->exported = temp_path(b->root, "x.lectern");
    make_files(b);
    char *copy = temp_path(b->root, "copy");
    int rc = book_engine(b, b->model, b->heads, &g, &e);
    if (!rc)
        rc = make_store(b, g, &e);
    if (!rc)
        rc = book_look(b->whole, &b->look, &e);
    if (!rc) {
        tree_copy(b->whole, copy);
        rc = book_answer(g, copy, &b->answer, &e);
    }
    engine_close(g);
    free(copy);
    if (!rc)
        return b;
    printf("the undisturbed book: %s\n", e.text);
    book_free(b);
    return NULL;
}

void book_free(struct book *b)
{
    if (!b)
        return;
    for (int i = 0; i < BOOK_DOCUMENTS; i++)
        free(b->documents[i]);
    free(b->model);
    free(b->heads);
    free(b->whole);
    free(b->running);
    free(b->exported);
    free(b->answer);
    temp_remove(b->root);
    free(b);
}
