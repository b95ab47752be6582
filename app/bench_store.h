/* SPDX-License-Identifier: Apache-2.0 */
/* bench_store.h - a made-up session of a model's shape, put into a store as a reading puts it, opened and
 * read back: the store's public face alone, no model.
 *
 * A block is 1,024 tokens of retrieval heads: 16 pages of (record + scan summary) each. A batch is 4 blocks;
 * a checkpoint (sinks, recent tokens and the raw page of all heads) comes as often as takes at most a tenth
 * of the blocks' bytes. Every 4,096 bytes are stamped with their place, and what is read is held against it.
 */
#ifndef LECTERN_APP_BENCH_STORE_H
#define LECTERN_APP_BENCH_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "engine/base/progress.h"

struct bench_shape {
    size_t L, HK, HR, D; /* layers, KV heads of a layer, retrieval heads of all layers, width */
    size_t S, R;         /* sinks and recent tokens of a streaming head */
    int format;          /* enum kv_format */
};

/* Llama-3-8B with half of its KV heads retrieving. */
extern const struct bench_shape bench_llama_8b;

size_t bench_block_bytes(const struct bench_shape *shape);      /* 0: format and D do not go together */
size_t bench_checkpoint_bytes(const struct bench_shape *shape); /* at a block's end */
size_t bench_interval(const struct bench_shape *shape);         /* tokens between checkpoints */
uint64_t bench_session_bytes(const struct bench_shape *shape, uint64_t tokens); /* of whole blocks */

/* One pass over the spans. */
struct bench_pass {
    uint64_t bytes;
    double seconds, cpu;
    double cached; /* of reading: share of the pages that could not be dropped from the cache before, 0..1 */
};

struct bench_stage {
    uint64_t tokens;             /* of the session by now */
    uint64_t written;            /* tokens that this stage added */
    struct bench_pass write;     /* of these */
    double open_cold, open_warm; /* seconds, medians: folder, session, last checkpoint found and checked */
    double find;                 /* seconds: the row of every block found, none read */
    struct bench_pass checked;   /* everything read by a fresh handle, which checks every byte */
    struct bench_pass unchecked; /* again by the same handle, through the mappings alone */
    uint64_t rows;               /* of spans, and as many references */
    uint64_t index_bytes;        /* the database with its log */
    uint64_t segment_files, disk_bytes;
};

struct bench_store {
    struct bench_shape shape;
    const char *folder; /* the store's; borrowed */
    const struct progress *progress;
    struct cancel *cancel;
    uint64_t blocks; /* written so far */
    uint64_t tokens;
    int64_t session;
    uint8_t *memory; /* [4 blocks][checkpoint], at a page boundary */
};

/* Makes the store and its session. */
int bench_store_begin(struct bench_store *b, struct err *e);
void bench_store_end(struct bench_store *b); /* legal on a zeroed one; leaves the files */

/* Goes on to `tokens` (rounded up to whole blocks), measured as out->write. */
int bench_store_write(struct bench_store *b, uint64_t tokens, struct bench_stage *out, struct err *e);
/* Everything else of *out. ERR_FORMAT when a byte came back wrong. */
int bench_store_open(struct bench_store *b, struct bench_stage *out, struct err *e);
int bench_store_read(struct bench_store *b, struct bench_stage *out, struct err *e);

/* Deletes the session; *left: bytes that its spans still take on the disk after that. */
int bench_store_delete(struct bench_store *b, double *seconds, uint64_t *left, struct err *e);

#endif
