/* SPDX-License-Identifier: Apache-2.0 */
/* transfer_internal.h - what export and import share: the manifest and the two ends of a tar file. */
#ifndef LECTERN_DATA_TRANSFER_TRANSFER_INTERNAL_H
#define LECTERN_DATA_TRANSFER_TRANSFER_INTERNAL_H

#include "data/transfer/transfer.h"
#include "engine/base/buf.h"

enum {
    TRANSFER_VERSION = 1,
    MANIFEST_MAX = 8 << 20, /* its parsed form takes some forty times as much at worst */
    TURN_MAX = 16 << 20,    /* one line of turns.json */
    PART_MAX = 900000000,   /* the store's own limit for a part of a document; for all turns too */
    CHECK_BYTES = 33,       /* manifest.check: 32 hex digits and a newline */
    MEMBER_NAME = 64,
};
#define TRANSFER_SPAN_MAX ((uint64_t)1 << 30) /* a span is held in memory when it is imported */

/* ---- transfer_manifest.c ------------------------------------------------------------------------------- */

struct manifest_part {
    uint64_t size;
    uint8_t sum[16];
};

struct manifest_span {
    int kind, has_parent;
    uint8_t key[STORE_KEY_BYTES], parent[STORE_KEY_BYTES];
    uint64_t position;
    double seconds;
    uint8_t *meta; /* owned; NULL when meta_size is 0 */
    size_t meta_size;
    struct manifest_part payload; /* sum: store_payload_digest */
};

struct manifest_document {
    struct store_document row; /* owns its texts */
    struct manifest_part parts[STORE_PARTS];
};

struct manifest {
    struct store_session session; /* name, model, options, chain, tokens; owns its texts */
    struct manifest_span *spans;
    size_t n_spans;
    struct manifest_document *documents;
    size_t n_documents;
    struct manifest_part turns;
    uint64_t n_turns;
};

void manifest_free(struct manifest *m); /* legal on a zeroed one */

/* XXH3-128. */
void part_digest(const void *bytes, size_t n, uint8_t out[16]);
void part_hex(const uint8_t digest[16], char out[33]);

/* Appends the JSON to `out`. ERR_LIMIT when it has more than MANIFEST_MAX bytes. */
int manifest_write(const struct manifest *m, struct buf *out, struct err *e);

/* Every number is within what the store takes. ERR_FORMAT, ERR_UNSUPPORTED, ERR_MEMORY. manifest_free
 * afterwards in every case. */
int manifest_parse(struct manifest *m, const char *bytes, size_t n, struct err *e);

/* The bytes of the tar file, its end mark included, when manifest.json has `manifest` bytes. Sizes are within
 * their limits, so nothing overflows; saturates all the same. */
uint64_t manifest_file_size(const struct manifest *m, uint64_t manifest_bytes);

/* Turns as lines of JSON, and back: add is called once a turn. */
int turns_write(const struct store_turn_list *turns, struct buf *out, struct err *e);
int turns_parse(const char *bytes, size_t n, uint64_t *count,
                int (*add)(void *arg, const struct store_turn *turn, struct err *e), void *arg,
                struct err *e);

/* ---- transfer_tar.c ------------------------------------------------------------------------------------ */

/* Both ends report the bytes moved, and stop with ERR_CANCELLED. */
struct tar_care {
    const struct progress *progress;
    struct cancel *cancel;
    const char *what;
    const char *path; /* for error texts */
    uint64_t total;   /* bytes of the whole file */
};

struct tar_writer;
int tar_writer_open(struct tar_writer **out, int fd, const struct tar_care *care, struct err *e);
/* One regular file of n bytes. */
int tar_write(struct tar_writer *w, const char *name, const void *bytes, size_t n, struct err *e);
/* Writes the end mark; *bytes: all that was written. */
int tar_writer_finish(struct tar_writer *w, uint64_t *bytes, struct err *e);
void tar_writer_free(struct tar_writer *w); /* NULL is legal; writes nothing */

struct tar_reader;
int tar_reader_open(struct tar_reader **out, int fd, const struct tar_care *care, struct err *e);
/* The next member must be a regular file of this name; *bytes is freed by the caller. With `exact` it has
 * *size bytes, else at most so many (and *size says). Memory grows with what is really there. */
int tar_read(struct tar_reader *r, const char *name, int exact, uint64_t *size, char **bytes, struct err *e);
/* ERR_FORMAT unless the archive ends here. */
int tar_reader_end(struct tar_reader *r, struct err *e);
void tar_reader_free(struct tar_reader *r); /* NULL is legal */

#endif
