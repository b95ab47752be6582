/* SPDX-License-Identifier: Apache-2.0 */
/* golden_store.h - what the frozen samples of tests/golden/store are made of, and how they are made. */
#ifndef LECTERN_TESTS_SUPPORT_GOLDEN_STORE_H
#define LECTERN_TESTS_SUPPORT_GOLDEN_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "app/reader.h"
#include "data/store/store.h"
#include "kernels/kernels.h"

enum { GOLDEN_PAGE_D = 32, GOLDEN_FORMATS = 6 };

struct golden {
    char *folder; /* of the samples */
    char *work;
    char *model, *heads, *data;
};

extern const char golden_question[];
extern const int golden_formats[GOLDEN_FORMATS];

struct golden golden_open(const char *folder, const char *work);
void golden_close(struct golden *g); /* removes work, too */

/* Writes model and head pattern into work. */
void golden_model(const struct golden *g);
int golden_engine(const struct golden *g, struct engine **out, struct err *e);
int golden_reader(const struct engine *engine, struct store *s, int create, struct reader **r, struct err *e);

/* The record of a fixed page and its scan summary, one behind the other; freed by the caller. */
uint8_t *golden_page(const struct kernels *kernels, int format, size_t *n);
/* A hash of what a record decodes to. */
uint64_t golden_page_meaning(const struct kernels *kernels, int format, const void *record);
/* The sample's path; freed by the caller. */
char *golden_page_file(const struct golden *g, int format);

char *golden_hex(const uint8_t *bytes, size_t n);

/* Writes all samples into the folder; 0, or 1 with a line on stderr. */
int golden_make(const char *folder);

#endif
