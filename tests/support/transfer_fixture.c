/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_fixture.c - see the header. */
#include "tests/support/transfer_fixture.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/store/store_internal.h"
#include "engine/base/file.h"
#include "tests/support/store_fixture.h"

enum { RESERVE = 1 << 20 }; /* a file system in memory really takes what is reserved */

static void must(int rc, const struct err *e)
{
    if (rc)
        print_error("%s\n", e->text);
    assert_int_equal(rc, 0);
}

void transfer_world_open(struct transfer_world *w)
{
    struct err e;
    *w = (struct transfer_world){0};
    if (!access("/dev/shm", W_OK))
        setenv("TMPDIR", "/dev/shm", 0);
    w->dir = fixture_dir_make();
    assert_non_null(w->dir);
    must(store_open(w->dir, &w->s, &e), &e);
    w->s->segment_reserve = RESERVE;
}

void transfer_world_shut(struct transfer_world *w)
{
    store_close(w->s);
    w->s = NULL;
}

void transfer_world_reopen(struct transfer_world *w)
{
    struct err e;
    transfer_world_shut(w);
    must(store_open(w->dir, &w->s, &e), &e);
    w->s->segment_reserve = RESERVE;
}

void transfer_world_close(struct transfer_world *w)
{
    transfer_world_shut(w);
    fixture_dir_remove(w->dir);
}

static void put(struct transfer_world *w, unsigned i)
{
    uint8_t key[STORE_KEY_BYTES], parent[STORE_KEY_BYTES], meta[STORE_META_MAX];
    struct err e;
    fixture_key(i, key);
    fixture_key(i - 1, parent);
    memset(meta, (int)i, sizeof meta);
    /* The bytes as fixture_put makes them, the row with all that a row can have. */
    must(fixture_put(w->s, i, &e), &e);
    struct span_map m;
    must(store_span_map(w->s, 1, key, &m, &e), &e);
    void *copy = malloc(m.size + 1);
    assert_non_null(copy);
    if (m.size)
        memcpy(copy, m.data, m.size);
    const struct iovec part = {copy, m.size};
    store_span_unmap(w->s, &m);
    must(store_span_drop(w->s, 1, key, &e), &e);
    const struct span_put span = {.kind = 1,
                                  .key = key,
                                  .parent = i ? parent : NULL,
                                  .meta = i == 5 ? meta : (void *)&i,
                                  .meta_size = i == 5 ? sizeof meta : i % 3,
                                  .position = 1024 * (i + 1),
                                  .seconds = 0.1 * i,
                                  .parts = &part,
                                  .n = 1};
    must(store_session_ref(w->s, w->id, 1, key, &e), &e);
    must(store_span_put(w->s, &span, &e), &e);
    free(copy);
}

static void add_document(struct transfer_world *w, int i, const char *path, const char *title,
                         const char *text, size_t n)
{
    struct err e;
    const struct store_document d = {.path = (char *)(uintptr_t)path,
                                     .title = (char *)(uintptr_t)title,
                                     .kind = (char *)(uintptr_t) "pdf",
                                     .size = n + 100,
                                     .mtime_ns = i ? -1 : 1700000000123456789,
                                     .hash = {9, 8, (uint8_t)i},
                                     .pages = 3 + (uint64_t)i,
                                     .token_start = 12 * (uint64_t)i,
                                     .token_count = 3};
    const struct iovec parts[STORE_PARTS] = {{(void *)(uintptr_t)text, n},
                                             {(void *)(uintptr_t) "map\0of it", 9},
                                             {(void *)(uintptr_t) "aaaabbbbcccc", 12},
                                             {NULL, 0}};
    must(store_document_add(w->s, w->id, &d, parts, NULL, &e), &e);
}

static void add_turn(struct transfer_world *w, const char *question, const char *answer, const char *json,
                     int64_t time)
{
    struct err e;
    const struct store_turn t = {.question = (char *)(uintptr_t)question,
                                 .answer = (char *)(uintptr_t)answer,
                                 .json = (char *)(uintptr_t)json,
                                 .time = time};
    must(store_turn_add(w->s, w->id, &t, NULL, &e), &e);
}

void transfer_fill(struct transfer_world *w, unsigned spans, size_t n)
{
    struct err e;
    const struct store_session from = {.model_path = (char *)(uintptr_t) "/models/m\xff.gguf",
                                       .model_hash = {1, 2, 3, 255},
                                       .options = (char *)(uintptr_t) "{\"tokenizer\":\"00ff\"}",
                                       .has_chain = 1,
                                       .chain = {7, 7, 7},
                                       .tokens = 12288};
    must(store_session_create(w->s, "a book, read", &from, &w->id, &e), &e);
    for (unsigned i = 0; i < spans; i++)
        put(w, i);
    char *text = malloc(n);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = (char)(i * 131 + (i >> 8));
    add_document(w, 0, "/books/\xe9t\xe9.pdf", "\xc3\xa9t\xc3\xa9 \"quoted\"", text, n);
    add_document(w, 1, "", "", "", 0);
    add_document(w, 2, "/a/b", "b\nc", "short", 5);
    free(text);
    add_turn(w, "what?", "that \xf0\x9f\x98\x80\n", "{\"citations\":[]}", 1700000000);
    add_turn(w, "\xff\xfe", "", "", 1);
    add_turn(w, "a\tb\\\"", "\x01", "not json", 2);
    w->spans = spans;
    must(store_session_digest(w->s, w->id, w->digest, &e), &e);
}

void transfer_expect_digest(struct transfer_world *w, int64_t id, const uint8_t want[16])
{
    uint8_t have[16];
    struct err e;
    must(store_session_digest(w->s, id, have, &e), &e);
    assert_memory_equal(have, want, 16);
}

static void tell(void *arg, const char *line)
{
    (void)arg;
    print_error("%s\n", line);
}

void transfer_expect_clean(struct transfer_world *w)
{
    const struct store_verify_options o = {.problem = tell};
    struct store_verify_result out;
    struct err e;
    must(store_verify(w->s, &o, &out, &e), &e);
    assert_int_equal(out.problems, 0);
}

void transfer_expect_nothing(struct transfer_world *w)
{
    struct store_stats stats;
    struct err e;
    must(store_stats(w->s, &stats, &e), &e);
    assert_int_equal(stats.sessions, 0);
    assert_int_equal(stats.documents, 0);
    assert_int_equal(stats.turns, 0);
    assert_int_equal(stats.spans, 0);
    assert_int_equal(stats.span_bytes, 0);
}

void transfer_overwrite(const char *path, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    for (size_t done = 0; done < n;) {
        ssize_t k = write(fd, (const char *)bytes + done, n - done);
        assert_true(k > 0);
        done += (size_t)k;
    }
    close(fd);
}

void transfer_flip(const char *path, long at, int mask)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    assert_true(fd >= 0 && pread(fd, &byte, 1, at) == 1);
    byte = (uint8_t)(byte ^ mask);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

void transfer_damage(const char *dir, const void *bytes, size_t n)
{
    char *folder = path_join(dir, "segments");
    DIR *list = opendir(folder);
    int found = 0;
    assert_non_null(list);
    for (const struct dirent *entry; !found && (entry = readdir(list));) {
        struct mapping m;
        char *path = path_join(folder, entry->d_name);
        if (entry->d_name[0] != '.' && !mapping_open(&m, path, NULL)) {
            const uint8_t *at = m.data ? memmem(m.data, m.size, bytes, n) : NULL;
            found = at != NULL;
            long offset = found ? at - m.data : 0;
            mapping_close(&m);
            if (found)
                transfer_flip(path, offset, 16);
        }
        free(path);
    }
    closedir(list);
    free(folder);
    assert_true(found);
}
