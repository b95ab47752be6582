/* SPDX-License-Identifier: Apache-2.0 */
/* source_map.h - from a byte of a document's text back to file, page, line and source bytes.
 *
 * One record per block, in text order and without gaps: record i covers [start i, start i+1), the last one up
 * to the text's end. Lines are not stored: they are counted in the text from the record's start, so look-ups
 * take the text. A map belongs to one text and is useless with another.
 */
#ifndef LECTERN_INGEST_SOURCE_MAP_H
#define LECTERN_INGEST_SOURCE_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/err.h"
#include "ingest/ingest.h"

#ifdef __cplusplus
extern "C" {
#endif

struct source_map;

/* An empty map. */
int source_map_create(struct source_map **out, struct err *e);
void source_map_free(struct source_map *m); /* NULL is legal */

/* Appends a block: its text starts where the text so far ends. Copies what it keeps. */
int source_map_add(struct source_map *m, const struct ingest_block *block, struct err *e);

/* Bytes of text covered. */
uint64_t source_map_text_bytes(const struct source_map *m);
size_t source_map_records(const struct source_map *m);

/* Strings are owned by the map. */
struct source_place {
    const char *file;
    int32_t page_index;     /* -1: no pages */
    const char *page_label; /* or "" */
    uint32_t line;          /* from 1, of the page (PDF) or the file */
    uint64_t byte; /* in the source file, when byte_exact; else the start of the range it came from */
    int byte_exact;
    unsigned flags; /* enum ingest_block_flag of the block */
};

/* The place of the text byte at `offset` < text bytes. `text` holds source_map_text_bytes() bytes. Beyond the
 * end: ERR_USAGE. */
int source_map_lookup(const struct source_map *m, const char *text, uint64_t offset, struct source_place *out,
                      struct err *e);

/* The source bytes that text [first, end) came from, as the smallest range that is known to contain them,
 * when both ends lie in one file; `*bytes` = 0 when there are none (PDF, added text) or the ends differ in
 * file. */
int source_map_bytes(const struct source_map *m, const char *text, uint64_t first, uint64_t end,
                     uint64_t *byte_first, uint64_t *bytes, struct err *e);

/* The text [*first, *end) of the page (or, without pages, the file) that `offset` lies in. */
int source_map_page(const struct source_map *m, uint64_t offset, uint64_t *first, uint64_t *end,
                    struct err *e);

/* The text of the page with this index; ERR_NOT_FOUND when it has none. */
int source_map_find_page(const struct source_map *m, int32_t page_index, uint64_t *first, uint64_t *end,
                         struct err *e);

/* Appends the map as a versioned little-endian blob. */
int source_map_write(const struct source_map *m, struct buf *out, struct err *e);

/* Reads a blob that may be damaged or hostile: everything is checked before a map exists (ERR_FORMAT). */
int source_map_parse(const void *blob, size_t n, struct source_map **out, struct err *e);

#ifdef __cplusplus
}
#endif
#endif
