/* SPDX-License-Identifier: Apache-2.0 */
/* test_ingest_worker_folder.c - which files of a folder are read: by git's index, or by walking. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <git2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "ingest/worker/folder_list.h"
#include "tests/support/temp.h"

static void make_file(const char *root, const char *path, const char *text)
{
    char *full = temp_path(root, path);
    char *slash = strrchr(full, '/');
    struct err e;
    *slash = '\0';
    assert_int_equal(dir_make(full, &e), 0);
    free(full);
    temp_text(root, path, text);
}

/* The list as one string, "a|b|". */
static void lists(const char *root, const char *inner, int tracked, const char *want)
{
    char *path = *inner ? temp_path(root, inner) : strdup(root);
    struct folder_list list = {0};
    struct err e = {0};
    assert_int_equal(folder_list_make(&list, path, path, &e), 0);
    struct buf got = {0};
    buf_puts(&got, "");
    for (size_t i = 0; i < list.n; i++) {
        buf_puts(&got, list.paths[i]);
        buf_putc(&got, '|');
    }
    assert_string_equal(got.data, want);
    assert_int_equal(list.tracked, tracked);
    buf_free(&got);
    folder_list_free(&list);
    free(path);
}

static char *make_tree(void)
{
    char *root = temp_folder();
    make_file(root, "zeta.c", "z\n");
    make_file(root, "src/a.c", "a\n");
    make_file(root, "src/deep/b.c", "b\n");
    make_file(root, "docs/guide.md", "g\n");
    make_file(root, "README", "r\n");
    make_file(root, "build/out.o", "o\n");
    make_file(root, "notes.tmp", "n\n");
    make_file(root, ".hidden/secret", "s\n");
    make_file(root, ".gitignore", "*.tmp\nbuild/\n");
    char *link = temp_path(root, "src/link.c");
    assert_int_equal(symlink("a.c", link), 0);
    free(link);
    link = temp_path(root, "outside");
    assert_int_equal(symlink("/", link), 0);
    free(link);
    link = temp_path(root, "pipe");
    assert_int_equal(mkfifo(link, 0600), 0);
    free(link);
    return root;
}

static void test_plain_walk(void **state)
{
    (void)state;
    char *root = make_tree();
    /* no repository: .gitignore is a file like others */
    lists(root, "", 0, "README|docs/guide.md|.gitignore|build/out.o|notes.tmp|src/a.c|src/deep/b.c|zeta.c|");
    lists(root, "src", 0, "a.c|deep/b.c|");
    temp_remove(root);
}

static void add_to_index(git_repository *repo, const char *const *paths, size_t n)
{
    git_index *index = NULL;
    assert_int_equal(git_repository_index(&index, repo), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(git_index_add_bypath(index, paths[i]), 0);
    assert_int_equal(git_index_write(index), 0);
    git_index_free(index);
}

static void test_repository(void **state)
{
    (void)state;
    char *root = make_tree();
    git_repository *repo = NULL;
    assert_true(git_libgit2_init() > 0);
    assert_int_equal(git_repository_init(&repo, root, 0), 0);
    /* nothing tracked yet: a walk, with the ignore rules */
    lists(root, "", 0, "README|docs/guide.md|.gitignore|src/a.c|src/deep/b.c|zeta.c|");
    lists(root, "build", 0, "out.o|"); /* ignored, but named */
    static const char *const paths[] = {"README", "src/a.c", "src/deep/b.c", "docs/guide.md", "src/link.c"};
    add_to_index(repo, paths, 5);
    lists(root, "", 1, "README|docs/guide.md|src/a.c|src/deep/b.c|"); /* untracked and links are out */
    lists(root, "src", 1, "a.c|deep/b.c|");
    lists(root, "src/deep", 1, "b.c|");
    lists(root, "build", 0, "out.o|");
    lists(root, ".hidden", 0, "secret|");
    git_repository_free(repo);
    git_libgit2_shutdown();
    temp_remove(root);
}

/* "src2" is not inside "src"; a damaged index or HEAD leaves the walk. */
static void test_neighbours_and_damage(void **state)
{
    (void)state;
    char *root = make_tree();
    make_file(root, "src2/c.c", "c\n");
    git_repository *repo = NULL;
    assert_true(git_libgit2_init() > 0);
    assert_int_equal(git_repository_init(&repo, root, 0), 0);
    static const char *const paths[] = {"src/a.c", "src2/c.c"};
    add_to_index(repo, paths, 2);
    lists(root, "src", 1, "a.c|");
    lists(root, "src2", 1, "c.c|");
    git_repository_free(repo);
    temp_text(root, ".git/index", "DIRC this is no index");
    lists(root, "src", 0, "a.c|deep/b.c|");
    git_libgit2_shutdown();
    temp_remove(root);
}

static void test_deep_folders(void **state)
{
    (void)state;
    char *root = temp_folder();
    struct buf path = {0};
    buf_puts(&path, root);
    for (int i = 0; i < FOLDER_DEPTH_MAX + 5; i++)
        buf_puts(&path, "/d");
    struct err e = {0};
    assert_int_equal(dir_make(path.data, &e), 0);
    make_file(root, "top.txt", "t\n");
    struct folder_list list = {0};
    assert_int_equal(folder_list_make(&list, root, root, &e), 0);
    assert_int_equal(list.n, 1);
    assert_int_equal(list.too_deep, 1);
    folder_list_free(&list);
    buf_free(&path);
    temp_remove(root);
}

static void test_no_folder(void **state)
{
    (void)state;
    struct folder_list list = {0};
    struct err e = {0};
    assert_int_equal(folder_list_make(&list, "/nonexistent", "/nonexistent", &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "/nonexistent"));
    folder_list_free(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_walk),
        cmocka_unit_test(test_repository),
        cmocka_unit_test(test_neighbours_and_damage),
        cmocka_unit_test(test_deep_folders),
        cmocka_unit_test(test_no_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
