/* SPDX-License-Identifier: Apache-2.0 */
/* git_folder.h - what git knows of a folder: its tracked files and what it ignores. Reads no configuration of
 * the user and runs nothing of the repository's (no hooks, filters or helpers). */
#ifndef LECTERN_INGEST_WORKER_GIT_FOLDER_H
#define LECTERN_INGEST_WORKER_GIT_FOLDER_H

#include "engine/base/err.h"
#include "ingest/worker/folder_list.h"

struct git_folder;

/* *out stays NULL, with 0 returned, when the folder is in no work tree that can be read. */
int git_folder_open(struct git_folder **out, const char *path, struct err *e);
void git_folder_close(struct git_folder *g); /* NULL is legal */

/* Adds the tracked regular files below the folder, paths relative to it. */
int git_folder_tracked(struct git_folder *g, struct folder_list *list, const char *name, struct err *e);

/* Does .gitignore exclude this path below the folder? ("" is the folder itself.) 0 with g NULL. */
int git_folder_ignores(struct git_folder *g, const char *inner);

#endif
