/* SPDX-License-Identifier: Apache-2.0 */
/* readers.h - the document readers of lectern-ingest; each emits a document head, its blocks and warnings.
 *
 * None emits END or ERROR: main does, by the result. `path` is the path as given, `name` the same made clean
 * UTF-8 for texts and blocks.
 */
#ifndef LECTERN_INGEST_WORKER_READERS_H
#define LECTERN_INGEST_WORKER_READERS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "ingest/worker/emit.h"

/* Looks at what `path` is and reads it: a PDF, a text, or a folder. */
int read_document(struct emit *m, const char *path, const char *name, struct err *e);

/* `bytes` live until the return. */
int read_pdf(struct emit *m, const uint8_t *bytes, size_t n, const char *name, struct err *e);
int read_text(struct emit *m, const uint8_t *bytes, size_t n, const char *name, struct err *e);
int read_folder(struct emit *m, const char *path, const char *name, struct err *e);

/* Does it start like a PDF? (One with junk before its header is known by its name alone.) */
int looks_like_pdf(const uint8_t *bytes, size_t n);

#endif
