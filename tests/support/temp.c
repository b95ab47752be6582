/* SPDX-License-Identifier: Apache-2.0 */
/* temp.c - see temp.h. */
#include "tests/support/temp.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *temp_path(const char *folder, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0)
        abort();
    return path;
}

char *temp_folder(void)
{
    const char *base = getenv("TMPDIR");
    char *path = temp_path(base && *base ? base : "/tmp", "lectern-XXXXXX");
    if (!mkdtemp(path))
        abort();
    return path;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *f)
{
    (void)st;
    (void)kind;
    (void)f;
    return remove(path);
}

void temp_remove(char *folder)
{
    if (folder)
        nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(folder);
}

void temp_write(const char *folder, const char *name, const void *bytes, size_t n)
{
    char *path = temp_path(folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || (n && fwrite(bytes, 1, n, f) != n) || fclose(f))
        abort();
    free(path);
}

void temp_text(const char *folder, const char *name, const char *text)
{
    temp_write(folder, name, text, strlen(text));
}
