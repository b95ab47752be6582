/* SPDX-License-Identifier: Apache-2.0 */
/* temp.h - a private folder for one test program, and small files in it. Failures abort the test program. */
#ifndef LECTERN_TESTS_SUPPORT_TEMP_H
#define LECTERN_TESTS_SUPPORT_TEMP_H

#include <stddef.h>

/* A new empty folder under $TMPDIR or /tmp, which temp_remove deletes with everything in it. */
char *temp_folder(void);
void temp_remove(char *folder);

/* folder/name; the caller frees. */
char *temp_path(const char *folder, const char *name);

/* Writes the bytes as folder/name. */
void temp_write(const char *folder, const char *name, const void *bytes, size_t n);
void temp_text(const char *folder, const char *name, const char *text);

#endif
