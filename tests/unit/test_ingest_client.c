/* SPDX-License-Identifier: Apache-2.0 */
/* test_ingest_client.c - the parent against the real lectern-ingest and against programs that misbehave.
 *
 * The worker: $LECTERN_INGEST, or lectern-ingest in the folder above this program's. The sample PDF is read
 * from data/sample below the current folder; its tests are skipped without it.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "ingest/frame.h"
#include "ingest/ingest.h"
#include "ingest/source_map.h"
#include "tests/support/temp.h"

#define SAMPLE "data/sample/guide.pdf"

static char *folder; /* of this program, made and removed by the group */
static char worker[4096];

/* Everything that a document gives. */
struct got {
    struct source_map *map;
    struct buf text, warnings;
    char kind[16], title[400];
    uint32_t pages;
    struct ingest_totals totals;
    int documents, finished;
    int kill_worker; /* at the first block */
};

static int on_document(void *arg, const struct ingest_document *d, struct err *e)
{
    struct got *g = arg;
    (void)e;
    g->documents++;
    snprintf(g->kind, sizeof g->kind, "%s", d->kind);
    snprintf(g->title, sizeof g->title, "%s", d->title);
    g->pages = d->pages;
    return 0;
}

/* Kills our children; the only one is the worker. */
static void kill_children(void)
{
    DIR *proc = opendir("/proc");
    assert_non_null(proc);
    struct dirent *d;
    while ((d = readdir(proc)) != NULL) {
        char path[300];
        snprintf(path, sizeof path, "/proc/%s/stat", d->d_name);
        FILE *f = d->d_name[0] >= '1' && d->d_name[0] <= '9' ? fopen(path, "r") : NULL;
        long parent = 0;
        if (f && fscanf(f, "%*d (%*[^)]) %*c %ld", &parent) == 1 && parent == (long)getpid())
            kill((pid_t)atol(d->d_name), SIGKILL);
        if (f)
            fclose(f);
    }
    closedir(proc);
}

static int on_block(void *arg, const struct ingest_block *b, struct err *e)
{
    struct got *g = arg;
    if (g->kill_worker)
        kill_children();
    g->kill_worker = 0;
    buf_add(&g->text, b->text, b->n);
    return source_map_add(g->map, b, e);
}

static int on_finished(void *arg, const struct ingest_totals *t, struct err *e)
{
    struct got *g = arg;
    (void)e;
    g->finished++;
    g->totals = *t;
    return 0;
}

static void on_warning(void *arg, const char *line)
{
    struct got *g = arg;
    buf_puts(&g->warnings, line);
    buf_putc(&g->warnings, '\n');
}

static int run_with(const struct ingest_options *o, struct got *g, struct err *e)
{
    struct ingest_sink sink = {
        .arg = g, .document = on_document, .block = on_block, .finished = on_finished, .warning = on_warning};
    *e = (struct err){0};
    assert_int_equal(source_map_create(&g->map, e), 0);
    buf_puts(&g->text, "");
    buf_puts(&g->warnings, "");
    int rc = ingest_run(o, &sink, e);
    assert_int_equal(g->finished, rc == 0);
    assert_int_equal(rc, rc ? (int)e->code : 0);
    if (!rc) {
        assert_int_equal(g->documents, 1);
        assert_int_equal(source_map_text_bytes(g->map), g->text.len);
        assert_int_equal(g->totals.text_bytes, g->text.len);
    } else {
        assert_true(strlen(e->text) > 0 && !strchr(e->text, '\n'));
    }
    return rc;
}

static int run(const char *program, const char *path, struct got *g, struct err *e)
{
    struct ingest_options o = {.worker = program, .path = path, .limits = {.idle_seconds = 20}};
    return run_with(&o, g, e);
}

static void got_free(struct got *g)
{
    source_map_free(g->map);
    buf_free(&g->text);
    buf_free(&g->warnings);
    *g = (struct got){0};
}

/* A program in the temporary folder that says or does something else than lectern-ingest. */
static char *fake(const char *name, const char *script)
{
    struct buf text = {0};
    buf_printf(&text, "#!/bin/sh\n%s\n", script);
    temp_text(folder, name, text.data);
    buf_free(&text);
    char *path = temp_path(folder, name);
    assert_int_equal(chmod(path, 0755), 0);
    return path;
}

static void fails(const char *name, const char *script, int code, const char *says)
{
    char *program = fake(name, script);
    struct got g = {0};
    struct err e;
    struct ingest_options o = {.worker = program, .path = "some/book.pdf", .limits = {.idle_seconds = 1}};
    assert_int_equal(run_with(&o, &g, &e), code);
    if (!strstr(e.text, says) || !strstr(e.text, "book.pdf"))
        fail_msg("%s: \"%s\" does not say \"%s\"", name, e.text, says);
    got_free(&g);
    free(program);
}

static void test_programs_that_fail(void **state)
{
    (void)state;
    fails("silent", "exit 0", ERR_CHILD, "before the end");
    fails("exit3", "echo 'the parser gave up' >&2; exit 3", ERR_CHILD, "exit 3): the parser gave up");
    fails("crash", "kill -SEGV $$", ERR_CHILD, "crashed");
    fails("garbage", "echo 'Content-Type: text/html'", ERR_CHILD, "no greeting");
    fails("endless", "cat /dev/zero", ERR_CHILD, "no greeting");
    fails("hung", "exec sleep 100", ERR_CHILD, "no sign for 1 s");
    fails("noisy", "head -c 3000000 /dev/zero | tr '\\0' 'x' >&2; exit 4", ERR_CHILD, "exit 4");
    fails("lingers", "exec >&-; exec sleep 100", ERR_CHILD, "crashed (Killed)");
    fails("version", "printf 'LCTI\\2\\0\\0\\0'", ERR_CHILD, "install both programs together");
    fails("huge", "printf 'LCTI\\1\\0\\0\\0\\2\\377\\377\\377\\377'", ERR_CHILD, "oversized");
    fails("colours", "printf '\\033[31mred\\n' >&2; exit 1", ERR_CHILD, "mred");
}

/* A parser in an endless loop that still shows life ends by its processor time. */
static void test_processor_time(void **state)
{
    (void)state;
    char *program = fake("loops", "printf 'LCTI\\1\\0\\0\\0'; while :; do :; done");
    struct got g = {0};
    struct err e;
    struct ingest_options o = {
        .worker = program, .path = "book.pdf", .limits = {.cpu_seconds = 1, .idle_seconds = 30}};
    assert_int_equal(run_with(&o, &g, &e), ERR_CHILD);
    assert_non_null(strstr(e.text, "book.pdf"));
    assert_non_null(strstr(e.text, "1 s of processor time"));
    got_free(&g);
    free(program);
}

static void test_program_that_is_not_there(void **state)
{
    (void)state;
    struct got g = {0};
    struct err e;
    assert_int_equal(run("/nonexistent/lectern-ingest", "book.pdf", &g, &e), ERR_CHILD);
    assert_non_null(strstr(e.text, "/nonexistent/lectern-ingest"));
    got_free(&g);
    assert_int_equal(run(NULL, "book.pdf", &g, &e), ERR_USAGE);
    got_free(&g);
}

/* A whole stream from a fake: the protocol and not the program is what counts. */
static void test_program_that_speaks_well(void **state)
{
    (void)state;
    struct buf out = {0};
    frame_put_hello(&out);
    struct ingest_document d = {.kind = "text", .title = "t", .author = ""};
    frame_put_document(&out, &d);
    struct ingest_block b = {
        .text = "hello\n", .n = 6, .file = "f", .page_index = -1, .page_label = "", .line_first = 1};
    frame_put_block(&out, &b);
    struct ingest_totals t = {.text_bytes = 6, .blocks = 1, .files = 1};
    frame_put_end(&out, &t);
    temp_write(folder, "frames", out.data, out.len);
    char *frames = temp_path(folder, "frames");
    struct buf script = {0};
    buf_printf(&script, "cat '%s'", frames);
    char *program = fake("good", script.data);
    struct got g = {0};
    struct err e;
    assert_int_equal(run(program, "book", &g, &e), 0);
    assert_string_equal(g.text.data, "hello\n");
    got_free(&g);
    buf_puts(&script, "; exit 9"); /* all said, but the exit disowns it */
    free(program);
    program = fake("good9", script.data);
    assert_int_equal(run(program, "book", &g, &e), ERR_CHILD);
    got_free(&g);
    free(program);
    free(frames);
    buf_free(&script);
    buf_free(&out);
}

static void test_child_inherits_nothing(void **state)
{
    (void)state;
    assert_int_equal(dup2(1, 77), 77); /* no FD_CLOEXEC */
    setenv("LECTERN_TEST_SECRET", "x", 1);
    fails("inherits",
          "[ -e /proc/self/fd/77 ] && { echo leaked a descriptor >&2; exit 1; }\n"
          "[ -n \"$LECTERN_TEST_SECRET\" ] && { echo leaked the environment >&2; exit 1; }\n"
          "[ \"$(cat /proc/self/fd/0 | wc -c)\" -eq 0 ] || { echo has input >&2; exit 1; }\n"
          "[ \"$(ulimit -c)\" = 0 ] || { echo may dump core >&2; exit 1; }\n"
          "[ \"$1 $2 $3\" = '--frames -- some/book.pdf' ] || { echo wrong arguments >&2; exit 1; }\n"
          "echo all is well >&2; exit 1",
          ERR_CHILD, "all is well");
    close(77);
    unsetenv("LECTERN_TEST_SECRET");
}

static void *cancel_soon(void *arg)
{
    struct timespec t = {.tv_nsec = 300000000};
    nanosleep(&t, NULL);
    atomic_store(&((struct cancel *)arg)->requested, 1);
    return NULL;
}

/* Is the process gone, or dead and only waiting to be reaped by whoever adopted it? */
static int is_dead(long pid)
{
    char path[64], status = 'Z';
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return 1;
    int n = fscanf(f, "%*d (%*[^)]) %c", &status);
    fclose(f);
    return n != 1 || status == 'Z' || status == 'X';
}

static void test_cancel_kills_the_group(void **state)
{
    (void)state;
    char *note = temp_path(folder, "grandchild");
    struct buf script = {0};
    buf_printf(&script, "sleep 100 & echo $! > '%s'; wait", note);
    char *program = fake("waits", script.data);
    struct cancel cancel = {0};
    struct ingest_options o = {.worker = program, .path = "book.pdf", .cancel = &cancel};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &cancel), 0);
    struct got g = {0};
    struct err e;
    double before = clock_seconds();
    assert_int_equal(run_with(&o, &g, &e), ERR_CANCELLED);
    assert_true(clock_seconds() - before < 5);
    pthread_join(thread, NULL);
    char *text;
    size_t n;
    assert_int_equal(file_read(note, 100, &text, &n, &e), 0);
    long pid = atol(text);
    assert_true(pid > 0);
    int dead = 0;
    for (int i = 0; i < 100 && !(dead = is_dead(pid)); i++) {
        struct timespec t = {.tv_nsec = 20000000};
        nanosleep(&t, NULL);
    }
    assert_true(dead);
    free(text);
    free(program);
    free(note);
    buf_free(&script);
    got_free(&g);
}

/* ---- the real program ---- */

static void need_worker(void)
{
    if (access(worker, X_OK)) {
        print_message("no worker at %s\n", worker);
        skip();
    }
}

static void test_text_file(void **state)
{
    (void)state;
    need_worker();
    static const char text[] = "\xef\xbb\xbf# The Title \r\n\r\nline \xff three\r\nline four\n";
    temp_write(folder, "note.md", text, sizeof text - 1);
    char *path = temp_path(folder, "note.md");
    struct got g = {0};
    struct err e;
    assert_int_equal(run(worker, path, &g, &e), 0);
    assert_string_equal(g.kind, "markdown");
    assert_string_equal(g.title, "The Title");
    assert_string_equal(g.text.data, "# The Title \n\nline \xef\xbf\xbd three\nline four\n");
    assert_int_equal(g.totals.replaced, 1);
    assert_non_null(strstr(g.warnings.data, "1 invalid sequence is shown"));
    struct source_place p;
    uint64_t at = (uint64_t)(strstr(g.text.data, "four") - g.text.data);
    assert_int_equal(source_map_lookup(g.map, g.text.data, at, &p, &e), 0);
    assert_int_equal(p.line, 4);
    assert_true(p.byte_exact);
    assert_memory_equal(text + p.byte, "four", 4);
    assert_string_equal(p.file, path);
    got_free(&g);
    free(path);
}

static void test_files_that_are_refused(void **state)
{
    (void)state;
    need_worker();
    static const struct {
        const char *name, *bytes;
        size_t n;
        int code;
        const char *says;
    } cases[] = {
        {"binary.txt", "abc\0def", 7, ERR_UNSUPPORTED, "binary"},
        {"utf16.txt",
         "\xff\xfe"
         "a\0b\0",
         6, ERR_UNSUPPORTED, "UTF-16"},
        {"empty.txt", "", 0, ERR_FORMAT, "empty"},
        {"empty.pdf", "", 0, ERR_FORMAT, "empty"},
        {"no.pdf", "this is no PDF", 14, ERR_FORMAT, "damaged or no PDF"},
        {"head.pdf", "%PDF-1.7\n%%EOF\n", 15, ERR_FORMAT, "damaged"},
        {"line\nbreak.txt", "\0", 1, ERR_UNSUPPORTED, "binary"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        temp_write(folder, cases[i].name, cases[i].bytes, cases[i].n);
        char *path = temp_path(folder, cases[i].name);
        struct got g = {0};
        struct err e;
        assert_int_equal(run(worker, path, &g, &e), cases[i].code);
        if (!strstr(e.text, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", e.text, cases[i].says);
        got_free(&g);
        free(path);
    }
    struct got g = {0};
    struct err e;
    assert_int_equal(run(worker, "/nonexistent/book.pdf", &g, &e), ERR_NOT_FOUND);
    got_free(&g);
    assert_int_equal(run(worker, "--help", &g, &e), ERR_NOT_FOUND); /* a path, not an option */
    got_free(&g);
}

static void test_large_text_and_limits(void **state)
{
    (void)state;
    need_worker();
    struct buf text = {0};
    for (int i = 0; text.len < 8 * INGEST_BLOCK_MAX; i++)
        buf_printf(&text, "line %d of a text that needs several blocks\n", i);
    temp_write(folder, "large.txt", text.data, text.len);
    char *path = temp_path(folder, "large.txt");
    struct got g = {0};
    struct err e;
    assert_int_equal(run(worker, path, &g, &e), 0);
    assert_int_equal(g.text.len, text.len);
    assert_memory_equal(g.text.data, text.data, text.len);
    assert_true(source_map_records(g.map) >= 8);
    got_free(&g);
    struct ingest_options o = {.worker = worker, .path = path, .limits = {.text_bytes = 1000000}};
    assert_int_equal(run_with(&o, &g, &e), ERR_LIMIT);
    assert_true(g.text.len <= 1000000);
    got_free(&g);
    g.kill_worker = 1; /* mid-way: it waits for the pipe to empty */
    assert_int_equal(run(worker, path, &g, &e), ERR_CHILD);
    assert_non_null(strstr(e.text, "crashed (Killed)"));
    assert_non_null(strstr(e.text, "large.txt"));
    got_free(&g);
    free(path);
    buf_free(&text);
}

static void test_plain_folder(void **state)
{
    (void)state;
    need_worker();
    char *root = temp_path(folder, "tree");
    char *sub = temp_path(root, "src"), *docs = temp_path(root, "docs"),
         *hidden = temp_path(root, ".git-not");
    struct err e;
    assert_int_equal(dir_make(sub, &e) || dir_make(docs, &e) || dir_make(hidden, &e), 0);
    temp_text(sub, "b.c", "int b;");
    temp_text(sub, "a.c", "int a;\r\n");
    temp_text(docs, "guide.md", "# Guide\n");
    temp_text(root, "README.md", "read me\n");
    temp_text(root, "empty.txt", "");
    temp_text(hidden, "secret", "hidden\n");
    temp_write(root, "image.bin", "\x89PNG\0\0", 6);
    temp_text(root, "paper.pdf", "%PDF-1.4\n");
    char *link = temp_path(root, "link.txt");
    assert_int_equal(symlink("/etc/passwd", link), 0);
    struct got g = {0};
    assert_int_equal(run(worker, root, &g, &e), 0);
    assert_string_equal(g.kind, "folder");
    assert_string_equal(g.title, "tree");
    assert_string_equal(g.text.data, "==== README.md ====\nread me\n\n==== docs/guide.md ====\n# Guide\n\n"
                                     "==== empty.txt ====\n\n==== src/a.c ====\nint a;\n\n"
                                     "==== src/b.c ====\nint b;\n\n");
    assert_int_equal(g.totals.files, 5);
    assert_int_equal(g.totals.files_skipped, 2);
    assert_non_null(strstr(g.warnings.data, "paper.pdf is a PDF"));
    assert_non_null(strstr(g.warnings.data, "1 binary file was left out"));
    struct source_place p;
    uint64_t at = (uint64_t)(strstr(g.text.data, "b;") - g.text.data);
    assert_int_equal(source_map_lookup(g.map, g.text.data, at, &p, &e), 0);
    assert_string_equal(p.file, "src/b.c");
    assert_int_equal(p.byte, 4);
    assert_int_equal(p.line, 1);
    got_free(&g);
    assert_int_equal(run(worker, hidden, &g, &e), 0); /* named, it is read */
    got_free(&g);
    assert_int_equal(unlink(link), 0);
    free(link);
    free(sub);
    free(docs);
    free(hidden);
    free(root);
}

static void need_sample(void)
{
    need_worker();
    if (access(SAMPLE, R_OK)) {
        print_message("no %s here\n", SAMPLE);
        skip();
    }
}

/* One row of facts.tsv: question, words, page index, page label. The words stand on that page and no other.
 */
static int check_fact(const struct got *g, char *row)
{
    char *save = NULL;
    strtok_r(row, "\t", &save);
    const char *words = strtok_r(NULL, "\t", &save), *index = strtok_r(NULL, "\t", &save),
               *label = strtok_r(NULL, "\t", &save);
    assert_non_null(label);
    const char *at = strstr(g->text.data, words);
    if (!at)
        return 0; /* broken by a line end */
    struct source_place p;
    struct err e;
    assert_int_equal(source_map_lookup(g->map, g->text.data, (uint64_t)(at - g->text.data), &p, &e), 0);
    if (p.page_index != atoi(index) || strcmp(p.page_label, label) != 0)
        fail_msg("\"%s\" is on index %ld, label %s, not %s, %s", words, (long)p.page_index, p.page_label,
                 index, label);
    return 1;
}

static void test_sample_pdf(void **state)
{
    (void)state;
    need_sample();
    struct got g = {0};
    struct err e;
    assert_int_equal(run(worker, SAMPLE, &g, &e), 0);
    assert_string_equal(g.kind, "pdf");
    assert_string_equal(g.title, "A Guide to Lectern");
    assert_true(g.pages >= 20);
    assert_int_equal(g.totals.blocks, g.pages - g.totals.pages_without_text);
    static const char *const labels[] = {"i", "ii", "iii", "iv", "1", "2"};
    for (int i = 0; i < 6; i++) {
        uint64_t first, end;
        struct source_place p;
        assert_int_equal(source_map_find_page(g.map, i, &first, &end, &e), 0);
        assert_int_equal(source_map_lookup(g.map, g.text.data, first, &p, &e), 0);
        assert_string_equal(p.page_label, labels[i]);
        assert_int_equal(p.line, 1);
        assert_memory_equal(g.text.data + end - 2, "\n\n", 2); /* one blank line and not more */
        assert_true(g.text.data[end - 3] != '\n');
    }
    assert_null(strstr(g.text.data, " \n"));
    assert_non_null(strstr(g.text.data, "Installing 3\n")); /* far apart on the line, yet two words */
    char *facts;
    size_t n;
    assert_int_equal(file_read("data/sample/facts.tsv", 100000, &facts, &n, &e), 0);
    char *save = NULL;
    int rows = 0, found = 0;
    for (char *row = strtok_r(facts, "\n", &save); row; row = strtok_r(NULL, "\n", &save), rows++)
        found += check_fact(&g, row);
    assert_true(rows > 0 && found > rows / 2);
    free(facts);
    got_free(&g);
}

/* A PDF by hand, one page for each string ("" = a page without text), labels from iv. poppler finds the
 * objects without a cross-reference table. */
static void write_pdf(const char *name, const char *const *pages, int n, const char *trailer)
{
    struct buf b = {0};
    buf_puts(
        &b, "%PDF-1.4\n1 0 obj\n<</Type/Catalog/Pages 2 0 R/PageLabels<</Nums[0<</S/r/St 4>>]>>>>\nendobj\n");
    buf_printf(&b, "2 0 obj\n<</Type/Pages/Count %d/Kids[", n);
    for (int i = 0; i < n; i++)
        buf_printf(&b, "%d 0 R ", 10 + 2 * i);
    buf_puts(&b, "]>>\nendobj\n3 0 obj\n<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>\nendobj\n");
    for (int i = 0; i < n; i++) {
        struct buf content = {0};
        if (*pages[i])
            buf_printf(&content, "BT /F1 12 Tf 14 TL 72 700 Td %s ET", pages[i]);
        else
            buf_puts(&content, "10 10 m 90 90 l S");
        buf_printf(&b,
                   "%d 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</Font<</F1 3 0 "
                   "R>>>>/Contents "
                   "%d 0 R>>\nendobj\n%d 0 obj\n<</Length %zu>>\nstream\n%s\nendstream\nendobj\n",
                   10 + 2 * i, 11 + 2 * i, 11 + 2 * i, content.len, content.data);
        buf_free(&content);
    }
    buf_printf(&b, "trailer\n<</Root 1 0 R/Size %d%s>>\n%%%%EOF\n", 10 + 2 * n, trailer);
    temp_write(folder, name, b.data, b.len);
    buf_free(&b);
}

static void test_pages_without_text(void **state)
{
    (void)state;
    need_worker();
    static const char *const pages[] = {"(first page) Tj T* (its second line  ) Tj", "", "(third) Tj", ""};
    write_pdf("some.pdf", pages, 4, "/Info<</Title(A\\033[2J title)/Author(Nobody)>>");
    char *path = temp_path(folder, "some.pdf");
    struct got g = {0};
    struct err e;
    assert_int_equal(run(worker, path, &g, &e), 0);
    assert_string_equal(g.text.data, "first page\nits second line\n\nthird\n\n");
    assert_int_equal(g.pages, 4);
    assert_int_equal(g.totals.pages_without_text, 2);
    assert_non_null(strstr(g.warnings.data, "2 of 4 pages have no text layer"));
    assert_null(strchr(g.title, '\033'));
    struct source_place p;
    uint64_t at = (uint64_t)(strstr(g.text.data, "second") - g.text.data);
    assert_int_equal(source_map_lookup(g.map, g.text.data, at, &p, &e), 0);
    assert_int_equal(p.line, 2);
    assert_string_equal(p.page_label, "iv");
    at = (uint64_t)(strstr(g.text.data, "third") - g.text.data);
    assert_int_equal(source_map_lookup(g.map, g.text.data, at, &p, &e), 0);
    assert_int_equal(p.page_index, 2);
    assert_string_equal(p.page_label, "vi");
    got_free(&g);
    write_pdf("some.pdf", (const char *const[]){"", ""}, 2, "");
    assert_int_equal(run(worker, path, &g, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "none of the 2 pages"));
    got_free(&g);
    write_pdf("some.pdf", pages, 4,
              "/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/P -4"
              "/O<0000000000000000000000000000000000000000000000000000000000000000>"
              "/U<0000000000000000000000000000000000000000000000000000000000000000>>>");
    assert_int_equal(run(worker, path, &g, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "encrypted"));
    got_free(&g);
    free(path);
}

/* Damaged copies: read, or refused in one line; the parent is never harmed. */
static void test_damaged_pdf(void **state)
{
    (void)state;
    need_sample();
    char *bytes;
    size_t n;
    struct err e;
    assert_int_equal(file_read(SAMPLE, 50000000, &bytes, &n, &e), 0);
    char *path = temp_path(folder, "damaged.pdf");
    uint32_t x = 12345;
    int refused = 0;
    for (int round = 0; round < 16; round++) {
        char *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, bytes, n);
        size_t size = round < 4 ? n * (size_t)round / 5 + 20 : n;
        for (int k = 0; round >= 4 && k < 1 << (round - 3); k++) {
            x = x * 1664525u + 1013904223u;
            copy[x % n] = (char)(x >> 24);
        }
        temp_write(folder, "damaged.pdf", copy, size);
        struct got g = {0};
        int rc = run(worker, path, &g, &e);
        refused += rc != 0;
        if (rc)
            assert_non_null(strstr(e.text, "damaged.pdf"));
        if (round == 0)
            assert_int_equal(rc, ERR_FORMAT);
        got_free(&g);
        free(copy);
    }
    assert_true(refused >= 1);
    free(path);
    free(bytes);
}

static int make_folder(void **state)
{
    (void)state;
    folder = temp_folder();
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
        strncat(worker, "/lectern-ingest", sizeof worker - strlen(worker) - 1);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    temp_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_programs_that_fail),
        cmocka_unit_test(test_program_that_is_not_there),
        cmocka_unit_test(test_processor_time),
        cmocka_unit_test(test_program_that_speaks_well),
        cmocka_unit_test(test_child_inherits_nothing),
        cmocka_unit_test(test_cancel_kills_the_group),
        cmocka_unit_test(test_text_file),
        cmocka_unit_test(test_files_that_are_refused),
        cmocka_unit_test(test_large_text_and_limits),
        cmocka_unit_test(test_plain_folder),
        cmocka_unit_test(test_sample_pdf),
        cmocka_unit_test(test_pages_without_text),
        cmocka_unit_test(test_damaged_pdf),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
