/* SPDX-License-Identifier: Apache-2.0 */
/* git_folder.c - the index and the ignore rules through libgit2. */
#include "ingest/worker/git_folder.h"

#include <git2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/buf.h"

struct git_folder {
    git_repository *repository;
    struct buf prefix; /* of the folder inside the work tree, "" or "a/b/" */
};

/* A repository may belong to somebody else: nothing of it is run, so git's check of owners guards nothing
 * here, and the user's own configuration is not looked at. */
static void keep_to_the_repository(void)
{
    git_libgit2_opts(GIT_OPT_SET_OWNER_VALIDATION, 0);
    static const int levels[] = {GIT_CONFIG_LEVEL_SYSTEM, GIT_CONFIG_LEVEL_XDG, GIT_CONFIG_LEVEL_GLOBAL,
                                 GIT_CONFIG_LEVEL_PROGRAMDATA};
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
        git_libgit2_opts(GIT_OPT_SET_SEARCH_PATH, levels[i], "");
}

/* The folder's place in the work tree; 0 when it is outside (or the repository is bare). */
static int find_prefix(struct git_folder *g, const char *path)
{
    const char *tree = git_repository_workdir(g->repository);
    char *real_tree = tree ? realpath(tree, NULL) : NULL;
    char *real = realpath(path, NULL);
    int inside = 0;
    if (real_tree && real) {
        size_t n = strlen(real_tree);
        if (n == 1) /* "/" */
            n = 0;
        inside = strncmp(real, real_tree, n) == 0 && (real[n] == '/' || real[n] == '\0');
        const char *rest = inside && real[n] == '/' ? real + n + 1 : "";
        buf_puts(&g->prefix, rest);
        if (*rest)
            buf_putc(&g->prefix, '/');
    }
    free(real_tree);
    free(real);
    return inside && !g->prefix.failed;
}

int git_folder_open(struct git_folder **out, const char *path, struct err *e)
{
    *out = NULL;
    if (git_libgit2_init() < 0)
        return err_set(e, ERR_UNSUPPORTED, "libgit2 does not start; install it again");
    keep_to_the_repository();
    struct git_folder *g = calloc(1, sizeof *g);
    if (!g) {
        git_libgit2_shutdown();
        return err_memory(e, "a repository");
    }
    if (git_repository_open_ext(&g->repository, path, 0, NULL) == 0 && find_prefix(g, path))
        *out = g;
    else
        git_folder_close(g);
    return 0;
}

void git_folder_close(struct git_folder *g)
{
    if (!g)
        return;
    git_repository_free(g->repository);
    buf_free(&g->prefix);
    free(g);
    git_libgit2_shutdown();
}

static int wanted(const git_index_entry *entry, const char *prefix, size_t prefix_bytes, const char *last)
{
    return S_ISREG(entry->mode) && strncmp(entry->path, prefix, prefix_bytes) == 0 &&
           (!last || strcmp(last, entry->path) != 0); /* a conflict has a path up to three times */
}

int git_folder_tracked(struct git_folder *g, struct folder_list *list, const char *name, struct err *e)
{
    git_index *index = NULL;
    if (git_repository_index(&index, g->repository))
        return 0; /* damaged: the folder can still be walked */
    int rc = 0;
    const char *last = NULL;
    size_t n = git_index_entrycount(index);
    for (size_t i = 0; !rc && i < n; i++) {
        const git_index_entry *entry = git_index_get_byindex(index, i);
        if (!entry || !wanted(entry, g->prefix.data, g->prefix.len, last))
            continue;
        last = entry->path;
        rc = folder_list_add(list, entry->path + g->prefix.len, name, e);
    }
    git_index_free(index);
    return rc;
}

int git_folder_ignores(struct git_folder *g, const char *inner)
{
    if (!g)
        return 0;
    struct buf path = {0};
    buf_add(&path, g->prefix.data, g->prefix.len);
    buf_puts(&path, inner);
    int ignored = 0;
    if (path.failed || path.len == 0 || git_ignore_path_is_ignored(&ignored, g->repository, path.data))
        ignored = 0;
    buf_free(&path);
    return ignored;
}
