/* SPDX-License-Identifier: Apache-2.0 */
/* emit.h - what the worker says: frames for the parent, or plain text for a person (--text).
 *
 * The readers call these in the order that frame.h demands. Output failures are kept in `failed` and end the
 * work at the next block.
 */
#ifndef LECTERN_INGEST_WORKER_EMIT_H
#define LECTERN_INGEST_WORKER_EMIT_H

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "ingest/ingest.h"

/* More warnings than this are only counted. */
#define EMIT_WARNINGS_MAX 500u

struct emit {
    int as_text; /* for people: page heads, no frames; warnings and errors on stderr */
    int to_terminal;
    int failed;   /* errno of the first failed write */
    int32_t page; /* last shown, in text mode */
    uint32_t warnings;
    struct buf out;
    struct ingest_totals totals; /* text_bytes and blocks are counted here; readers count the rest */
};

void emit_init(struct emit *m, int as_text);
void emit_fini(struct emit *m);

int emit_document(struct emit *m, const struct ingest_document *document, struct err *e);

/* The signature of text_cut's callback; arg is the struct emit. */
int emit_block(void *arg, const struct ingest_block *block, struct err *e);

/* A block of added text (heading, blank line) for `file`. */
int emit_made(struct emit *m, const char *file, const char *text, size_t n, uint32_t line, struct err *e);

void emit_warning(struct emit *m, const char *format, ...) __attribute__((format(printf, 2, 3)));
void emit_progress(struct emit *m, uint64_t done, uint64_t total);

int emit_end(struct emit *m, struct err *e);
void emit_error(struct emit *m, const struct err *error);

#endif
