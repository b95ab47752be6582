/* SPDX-License-Identifier: Apache-2.0 */
/* transfer.h - a session as one file: another machine with the same model opens it without reading the text
 * again; one with another model reads it again from the text that is in it.
 *
 * The file is an uncompressed tar of regular files in a fixed order:
 *
 *   manifest.json     what follows: session, spans, documents, each with its size and checksum
 *   manifest.check    XXH3-128 of manifest.json, in hex
 *   span/N            payload of the N-th span (none of them with without_kv)
 *   document/N/PART   text, map, tokens, ends
 *   turns.json        questions and answers
 *
 * Invariant: an imported file is untrusted. Its names are compared and never used as paths, every size is
 * held against the file's own before it is used, every byte is checked before it counts. All or nothing: the
 * session appears in one transaction at the end; spans written before it are referenced by nobody and are
 * collected, after a kill by the next store_collect or store_gc.
 */
#ifndef LECTERN_DATA_TRANSFER_TRANSFER_H
#define LECTERN_DATA_TRANSFER_TRANSFER_H

#include "data/store/store.h"

#ifdef __cplusplus
extern "C" {
#endif

struct transfer_options {
    int without_kv;                  /* text and turns alone: the documents are read again from the text */
    const struct progress *progress; /* in bytes */
    struct cancel *cancel;
};

struct transfer_result {
    int64_t session; /* its row id in `s` */
    char name[STORE_NAME_MAX + 1];
    uint64_t file_bytes;
    uint64_t spans, span_bytes; /* import: of the file, those that were here already too */
    uint64_t new_spans;         /* import: written */
    uint64_t documents, turns;
};

/* Writes session `id` to a temporary file beside `path`, syncs it and renames it there, replacing a regular
 * file of that name. On failure (ERR_IO on a full disk, ERR_FORMAT for damage in the store, ERR_BUSY when the
 * session changed meanwhile, ERR_CANCELLED) there is no new file and an old one is as before;
 * but the very last step, syncing the folder, may fail with the whole file in place. `o` may be
 * NULL. */
int transfer_export(struct store *s, int64_t id, const char *path, const struct transfer_options *o,
                    struct transfer_result *out, struct err *e);

/* Makes a session from the file, under `name` (NULL: the name it had). ERR_USAGE when that name exists,
 * ERR_FORMAT for a damaged, truncated or foreign file, ERR_UNSUPPORTED for one of a newer program: then
 * nothing was imported. Not inside store_begin. `o` may be NULL; without_kv leaves the file's spans out. */
int transfer_import(struct store *s, const char *path, const char *name, const struct transfer_options *o,
                    struct transfer_result *out, struct err *e);

#ifdef __cplusplus
}
#endif
#endif
