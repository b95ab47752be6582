/* SPDX-License-Identifier: Apache-2.0 */
/* folder_list.c - the list by git or by walking, and its order. */
#include "ingest/worker/folder_list.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "ingest/worker/git_folder.h"

int folder_list_add(struct folder_list *list, const char *path, const char *name, struct err *e)
{
    if (list->n == FOLDER_FILES_MAX)
        return err_set(e, ERR_LIMIT, "%s holds more than %zu files; name a folder inside it", name,
                       FOLDER_FILES_MAX);
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 64;
        char **paths = realloc(list->paths, cap * sizeof *paths);
        if (!paths)
            return err_memory(e, "a folder's list");
        list->paths = paths;
        list->cap = cap;
    }
    list->paths[list->n] = strdup(path);
    if (!list->paths[list->n])
        return err_memory(e, "a folder's list");
    list->n++;
    return 0;
}

void folder_list_free(struct folder_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->paths[i]);
    free(list->paths);
    *list = (struct folder_list){0};
}

struct walk {
    struct folder_list *list;
    struct git_folder *git; /* whose ignore rules hold; may be NULL */
    const char *name;
    struct buf inner; /* path of what is looked at, below the folder */
};

static int walk_folder(struct walk *w, int fd, int depth, struct err *e);

/* Enters the folder at w->inner; what cannot be opened is counted. */
static int walk_into(struct walk *w, int parent, const char *entry, int depth, struct err *e)
{
    if (depth == FOLDER_DEPTH_MAX) {
        w->list->too_deep++;
        return 0;
    }
    int fd = openat(parent, entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        w->list->unreadable++;
        return 0;
    }
    return walk_folder(w, fd, depth + 1, e);
}

static int walk_entry(struct walk *w, int fd, const char *entry, int depth, struct err *e)
{
    struct stat st;
    if (fstatat(fd, entry, &st, AT_SYMLINK_NOFOLLOW))
        return 0; /* gone meanwhile */
    if (!S_ISREG(st.st_mode) && (!S_ISDIR(st.st_mode) || entry[0] == '.'))
        return 0;
    size_t before = w->inner.len;
    buf_puts(&w->inner, entry);
    if (S_ISDIR(st.st_mode))
        buf_putc(&w->inner, '/');
    int rc = w->inner.failed ? err_memory(e, "a folder's list") : 0;
    if (!rc && !git_folder_ignores(w->git, w->inner.data))
        rc = S_ISDIR(st.st_mode) ? walk_into(w, fd, entry, depth, e)
                                 : folder_list_add(w->list, w->inner.data, w->name, e);
    if (!w->inner.failed)
        w->inner.data[w->inner.len = before] = '\0';
    return rc;
}

/* Takes fd. */
static int walk_folder(struct walk *w, int fd, int depth, struct err *e)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return err_memory(e, "a folder's list");
    }
    int rc = 0;
    struct dirent *d;
    while (!rc && (d = readdir(dir)) != NULL)
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            rc = walk_entry(w, dirfd(dir), d->d_name, depth, e);
    closedir(dir);
    return rc;
}

static int rank(const char *path)
{
    if (strncasecmp(path, "README", 6) == 0 && !strchr(path, '/'))
        return 0;
    return strncmp(path, "docs/", 5) == 0 ? 1 : 2;
}

static int by_rank_and_path(const void *a, const void *b)
{
    const char *left = *(char *const *)a, *right = *(char *const *)b;
    int by_rank = rank(left) - rank(right);
    return by_rank ? by_rank : strcmp(left, right);
}

static int walk_all(struct folder_list *list, struct git_folder *git, const char *path, const char *name,
                    struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(e, errno, "cannot open the folder %s", name);
    /* A person who names an ignored folder wants it read. */
    struct walk w = {.list = list, .git = git_folder_ignores(git, "") ? NULL : git, .name = name};
    int rc = walk_folder(&w, fd, 0, e);
    buf_free(&w.inner);
    return rc;
}

int folder_list_make(struct folder_list *list, const char *path, const char *name, struct err *e)
{
    struct git_folder *git = NULL;
    int rc = git_folder_open(&git, path, e);
    if (!rc && git)
        rc = git_folder_tracked(git, list, name, e);
    list->tracked = list->n > 0;
    if (!rc && list->n == 0)
        rc = walk_all(list, git, path, name, e);
    git_folder_close(git);
    if (!rc && list->n)
        qsort(list->paths, list->n, sizeof *list->paths, by_rank_and_path);
    return rc;
}
