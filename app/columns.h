/* SPDX-License-Identifier: Apache-2.0 */
/* columns.h - tables of text for people, and JSON of texts that are not ours. All append to `out`. */
#ifndef LECTERN_APP_COLUMNS_H
#define LECTERN_APP_COLUMNS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"

/* The text on one line, padded to `width` columns (0: as long as it is); cut with an ellipsis when it is
 * longer than a `most` that is not 0. */
void column_text(struct buf *out, const char *text, size_t width, size_t most);

/* A number by one of the writers of ui/human.h, at the right of `width` columns. */
void column_number(struct buf *out, void (*write)(struct buf *, uint64_t), uint64_t n, size_t width);

/* 0:32 at the right of `width` columns; "-" when nothing is known (0). */
void column_seconds(struct buf *out, double seconds, size_t width);

/* The columns of the widest text, at least those of `least`, at most `most`. */
size_t column_width(size_t width, const char *text, size_t most);

/* Writes `out` to stdout through the filter and frees it. */
int columns_put(struct buf *out, struct err *e);

/* A JSON string of a C string, NULL being "". */
json_t *column_json(const char *text);

#endif
