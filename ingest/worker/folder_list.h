/* SPDX-License-Identifier: Apache-2.0 */
/* folder_list.h - which files of a folder are read, and in which order.
 *
 * Inside a git repository: the tracked files below the folder (from the index; submodules and links left
 * out). Without one, or when it tracks nothing there: a walk over regular files that skips hidden folders and
 * links, and what .gitignore names. Order: README* at the top, then docs/, then the rest by path.
 */
#ifndef LECTERN_INGEST_WORKER_FOLDER_LIST_H
#define LECTERN_INGEST_WORKER_FOLDER_LIST_H

#include <stddef.h>

#include "engine/base/err.h"

#define FOLDER_FILES_MAX ((size_t)500000)
#define FOLDER_DEPTH_MAX 64

struct folder_list {
    char **paths; /* relative to the folder, '/' between; owned */
    size_t n, cap;
    int tracked;       /* they come from a git index */
    size_t too_deep;   /* folders below FOLDER_DEPTH_MAX that were not entered */
    size_t unreadable; /* folders that could not be opened */
};

/* Fills the zeroed list. Free it after failure, too. */
int folder_list_make(struct folder_list *list, const char *path, const char *name, struct err *e);
void folder_list_free(struct folder_list *list);

/* Adds a copy of the path. */
int folder_list_add(struct folder_list *list, const char *path, const char *name, struct err *e);

#endif
