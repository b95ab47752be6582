/* SPDX-License-Identifier: Apache-2.0 */
/* test_golden_store.c - the frozen samples of tests/golden/store: every later version opens the good ones
 * with all that is in them, or refuses them clearly and says so here; it refuses or finds the bad ones as
 * bad.txt says.
 *
 * `test_golden_store --make FOLDER` writes the samples anew. They are made once for a format and then kept: a
 * change of the format gets a folder beside them.
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
#include <unistd.h>

#include "data/store/store.h"
#include "data/transfer/transfer.h"
#include "engine/base/file.h"
#include "tests/support/fault_run.h"
#include "tests/support/golden_store.h"
#include "tests/support/temp.h"

enum { LINE = 400 };

/* ---- the samples ------------------------------------------------------------------------------------- */

/* facts.txt's word for a name; the caller frees. */
static char *fact(const struct golden *g, const char *name)
{
    char line[LINE], *found = NULL, *path = temp_path(g->folder, "facts.txt");
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (!found && fgets(line, sizeof line, f)) {
        char *space = strchr(line, ' ');
        if (space && (size_t)(space - line) == strlen(name) && !strncmp(line, name, strlen(name))) {
            found = strdup(space + 1);
            found[strcspn(found, "\n")] = '\0';
        }
    }
    fclose(f);
    free(path);
    assert_non_null(found);
    return found;
}

static void expect_fact(const struct golden *g, const char *name, const uint8_t *bytes, size_t n)
{
    char *want = fact(g, name), *have = golden_hex(bytes, n);
    assert_string_equal(have, want);
    free(want);
    free(have);
}

static void take_book(const struct golden *g)
{
    char *book = temp_path(g->folder, "book");
    tree_copy(book, g->data);
    free(book);
}

static void the_good_folder_opens(void **state)
{
    const struct golden *g = *state;
    struct store *s;
    struct store_session row;
    struct store_verify_result found;
    struct store_turn_list turns;
    struct err e = {0};
    uint8_t digest[16];
    void *text;
    size_t n;
    take_book(g);
    if (store_open(g->data, &s, &e))
        fail_msg("%s", e.text);
    assert_int_equal(store_verify(s, NULL, &found, &e), 0);
    assert_int_equal(found.problems, 0);
    assert_int_equal(found.missing, 0);
    assert_int_equal(store_session_get(s, "golden", &row, &e), 0);
    assert_int_equal(row.documents, 1);
    assert_int_equal(store_session_digest(s, row.id, digest, &e), 0);
    expect_fact(g, "digest", digest, 16);
    assert_int_equal(store_turn_list(s, row.id, &turns, &e), 0);
    assert_int_equal(turns.n, 1);
    assert_int_equal(turns.items[0].damaged, 0);
    assert_string_equal(turns.items[0].question, golden_question);
    assert_int_equal(store_document_read(s, row.id, 0, STORE_TEXT, &text, &n, &e), 0);
    assert_int_equal(strncmp(text, "1. ", 3), 0);
    free(text);
    store_turn_list_free(&turns);
    store_session_free(&row);
    store_close(s);
}

/* Nothing is read again: the stored reading is this version's own. */
static void the_good_folder_is_resumed(void **state)
{
    const struct golden *g = *state;
    struct engine *engine;
    struct store *s;
    struct reader *r;
    struct reader_usage usage = {0};
    struct err e = {0};
    uint8_t hash[16];
    char *tokens = fact(g, "tokens");
    take_book(g);
    assert_int_equal(golden_engine(g, &engine, &e), 0);
    engine_model_hash(engine, hash);
    expect_fact(g, "model", hash, 16); /* else tiny_model.c writes another model than it did */
    assert_int_equal(store_open(g->data, &s, &e), 0);
    if (golden_reader(engine, s, 0, &r, &e) || reader_read(r, NULL, NULL, &usage, &e))
        fail_msg("%s", e.text);
    assert_int_equal(usage.prefilled, 0);
    assert_int_equal(usage.restored, strtoul(tokens, NULL, 10));
    assert_true(usage.restored > KV_BLOCK); /* a block and a checkpoint */
    reader_close(r);
    store_close(s);
    engine_close(engine);
    free(tokens);
}

static void the_good_export_is_imported(void **state)
{
    const struct golden *g = *state;
    struct store *s;
    struct transfer_result result;
    struct err e = {0};
    uint8_t digest[16];
    char *path = temp_path(g->folder, "book.lectern");
    tree_remove(g->data);
    assert_int_equal(store_open(g->data, &s, &e), 0);
    if (transfer_import(s, path, "other", NULL, &result, &e))
        fail_msg("%s", e.text);
    assert_int_equal(store_session_digest(s, result.session, digest, &e), 0);
    expect_fact(g, "digest", digest, 16);
    store_close(s);
    free(path);
}

static void pages_keep_their_bytes_and_meaning(void **state)
{
    const struct golden *g = *state;
    static const char *const names[] = {"ref", "avx2", "avx512", "avx512vnni"};
    for (int i = 0; i < GOLDEN_FORMATS; i++) {
        char *path = golden_page_file(g, golden_formats[i]), *frozen, name[32];
        size_t size, n;
        struct err e = {0};
        if (file_read(path, 1 << 20, &frozen, &size, &e))
            fail_msg("%s", e.text);
        snprintf(name, sizeof name, "page-%s", kv_format_name(golden_formats[i]));
        char *want = fact(g, name);
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
            const struct kernels *kernels = kernels_get(names[k]);
            if (!kernels)
                continue;
            uint8_t *bytes = golden_page(kernels, golden_formats[i], &n);
            char meaning[32];
            assert_int_equal(n, size);
            assert_memory_equal(bytes, frozen, n);
            memcpy(bytes, frozen, n);
            snprintf(meaning, sizeof meaning, "%016llx",
                     (unsigned long long)golden_page_meaning(kernels, golden_formats[i], bytes));
            assert_string_equal(meaning, want);
            free(bytes);
        }
        free(want);
        free(frozen);
        free(path);
    }
}

/* ---- bad ones ---------------------------------------------------------------------------------------- */

struct bad {
    char name[64], file[64], way[16], bytes[100], who[16], code[32], word[64];
    unsigned long long at;
};

static void spoil(const char *path, const struct bad *b)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    if (!strcmp(b->way, "cut"))
        assert_int_equal(ftruncate(fd, (off_t)b->at), 0);
    for (size_t i = 0; strcmp(b->way, "cut") != 0 && b->bytes[2 * i]; i++) {
        char digits[3] = {b->bytes[2 * i], b->bytes[2 * i + 1], 0};
        uint8_t old = 0, byte = (uint8_t)strtoul(digits, NULL, 16);
        assert_int_equal(pread(fd, &old, 1, (off_t)(b->at + i)), 1);
        byte = !strcmp(b->way, "xor") ? (uint8_t)(byte ^ old) : byte;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)(b->at + i)), 1);
    }
    close(fd);
}

static void take_line(void *arg, const char *line)
{
    char *text = arg;
    if (!text[0])
        snprintf(text, 500, "%s", line);
}

/* Opens, looks over or imports what was spoiled; the error, or verify's first line. */
static int meet(const struct golden *g, const struct bad *b, const char *file, struct err *e)
{
    struct store *s = NULL;
    struct transfer_result result;
    struct store_verify_result found = {0};
    struct store_verify_options o = {.problem = take_line, .arg = e->text};
    int rc = store_open(g->data, &s, e);
    if (!rc && !strcmp(b->who, "import"))
        rc = transfer_import(s, file, NULL, NULL, &result, e);
    if (!rc && !strcmp(b->who, "verify")) {
        struct err stopped = {0};
        rc = store_verify(s, &o, &found, &stopped);
        assert_true(rc || found.problems > 0);
        if (rc)
            *e = stopped;
    }
    store_close(s);
    return rc;
}

static void bad_ones_are_told(void **state)
{
    const struct golden *g = *state;
    char *list = temp_path(g->folder, "bad.txt"), *export = temp_path(g->folder, "book.lectern"),
         *copy = temp_path(g->work, "copy.lectern"), line[LINE], last[64] = "";
    FILE *f = fopen(list, "r");
    unsigned n = 0;
    assert_non_null(f);
    struct bad b = {0}, one;
    int more = 1;
    while (more) {
        more = fgets(line, sizeof line, f) != NULL;
        if (more && line[0] == '#')
            continue;
        if (more)
            assert_int_equal(sscanf(line, "%63s %63s %15s %llu %99s %15s %31s %63s", one.name, one.file,
                                    one.way, &one.at, one.bytes, one.who, one.code, one.word),
                             8);
        if (last[0] && (!more || strcmp(one.name, last) != 0)) { /* the one before is complete */
            struct err e = {0};
            int rc = meet(g, &b, copy, &e);
            if (strcmp(b.code, "-") != 0 && (!rc || strcmp(err_name((enum err_code)rc), b.code) != 0))
                fail_msg("%s: %d, %s", b.name, rc, e.text);
            if (strcmp(b.word, "-") != 0 && !strstr(e.text, b.word))
                fail_msg("%s: %s", b.name, e.text);
            assert_true(strlen(e.text) > 8);
            n++;
        }
        if (more && strcmp(one.name, last) != 0) {
            struct err e;
            char *bytes;
            size_t size;
            take_book(g);
            if (!strcmp(one.who, "import"))
                tree_remove(g->data);
            assert_int_equal(file_read(export, 1 << 24, &bytes, &size, &e), 0);
            assert_int_equal(file_write(copy, bytes, size, &e), 0);
            free(bytes);
        }
        if (more) {
            char *in_data = temp_path(g->data, strchr(one.file, '/') ? strchr(one.file, '/') + 1 : "");
            spoil(strcmp(one.who, "import") ? in_data : copy, &one);
            free(in_data);
            memcpy(last, one.name, sizeof last);
            b = one;
        }
    }
    fclose(f);
    assert_true(n >= 15);
    free(list);
    free(export);
    free(copy);
}

static int setup(void **state)
{
    struct golden *g = calloc(1, sizeof *g);
    const char *root = getenv("LECTERN_ROOT");
    char *folder = temp_path(root ? root : ".", "tests/golden/store"), *work = temp_folder();
    if (!g)
        abort();
    *g = golden_open(folder, work);
    free(folder);
    free(work);
    golden_model(g);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    golden_close(*state);
    free(*state);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "--make"))
        return golden_make(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_good_folder_opens),       cmocka_unit_test(the_good_folder_is_resumed),
        cmocka_unit_test(the_good_export_is_imported), cmocka_unit_test(pages_keep_their_bytes_and_meaning),
        cmocka_unit_test(bad_ones_are_told),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
