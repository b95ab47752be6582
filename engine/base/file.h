/* SPDX-License-Identifier: Apache-2.0 */
/* file.h - whole files, mappings, folders and XDG paths. */
#ifndef LECTERN_ENGINE_BASE_FILE_H
#define LECTERN_ENGINE_BASE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

/* A read-only mapping of a whole regular file; `data` is NULL for an empty file. */
struct mapping {
    const uint8_t *data;
    size_t size; /* bytes */
};

int mapping_open(struct mapping *m, const char *path, struct err *e);
void mapping_close(struct mapping *m); /* legal on a zeroed mapping */

/* Reads a regular file of at most `limit` bytes; *out is NUL-terminated and freed by the caller. */
int file_read(const char *path, size_t limit, char **out, size_t *size, struct err *e);

/* Writes all bytes to a temporary beside `path`, syncs and renames it there: the old or the new, never a
 * mixture. */
int file_write(const char *path, const void *bytes, size_t n, struct err *e);

/* Writes all n bytes at the offset, going on after short writes and EINTR. `path` is for the error text. */
int file_pwrite_all(int fd, const void *bytes, size_t n, uint64_t offset, const char *path, struct err *e);

/* mkdir -p with mode 0700 for what it makes. */
int dir_make(const char *path, struct err *e);

/* "a/b" joined with exactly one slash; the caller frees. NULL when out of memory. */
char *path_join(const char *a, const char *b);

/* $VARIABLE/lectern, or ~/fallback/lectern when the variable is unset or not absolute; the caller frees.
 * Example: path_xdg("XDG_DATA_HOME", ".local/share"). NULL when out of memory or HOME is missing. */
char *path_xdg(const char *variable, const char *fallback);

/* The last component of a path; points into it. */
const char *path_base(const char *path);

#endif
