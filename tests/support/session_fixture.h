/* SPDX-License-Identifier: Apache-2.0 */
/* session_fixture.h - tiny models, token ids, and a store in memory, for tests of engine/session.h. Failures
 * print why and abort the test program. */
#ifndef LECTERN_TESTS_SUPPORT_SESSION_FIXTURE_H
#define LECTERN_TESTS_SUPPORT_SESSION_FIXTURE_H

#include "engine/session.h"

/* Sink and recent tokens of the head pattern; neither is a whole number of pages. */
enum { LAB_SINK = 70, LAB_RECENT = 130, LAB_TOKENS = 8192 };

struct lab {
    char *folder;
    char *model, *model_q4;   /* the same weights as F32 and as Q4_1 */
    char *heads;              /* a folder with a pattern of 3 layers x 2 heads */
    uint32_t ids[LAB_TOKENS]; /* any text */
};
void lab_open(struct lab *lab);
void lab_close(struct lab *lab);

/* format: enum kv_format, 0 the default. kernels: NULL the fastest. */
struct engine *lab_engine(const struct lab *lab, double sparsity, int format, int threads,
                          const char *kernels, int q4);
struct session *lab_session(const struct engine *g);

/* Appends ids[from..to) in pieces of `step` (0: all at once). */
void lab_append(const struct lab *lab, struct session *s, size_t from, size_t to, size_t step);

/* A store in memory: what the sink puts the source gives back. */
struct shelf_item {
    enum kv_kind kind;
    int has_parent;
    uint8_t key[KV_KEY_BYTES], parent[KV_KEY_BYTES];
    size_t position;
    uint8_t *data; /* 64-byte aligned, size bytes in memory of its own */
    size_t size;
};
struct shelf {
    struct shelf_item *items;
    size_t n;
    size_t batches; /* calls of put */
    size_t mapped;  /* now */
    int fail;       /* puts fail with this code while it is set */
};
struct kv_sink shelf_sink(struct shelf *shelf);
struct kv_source shelf_source(struct shelf *shelf);
struct shelf_item *shelf_find(struct shelf *shelf, enum kv_kind kind, const uint8_t *key); /* or NULL */
void shelf_drop(struct shelf *shelf, struct shelf_item *item);
void shelf_clear(struct shelf *shelf); /* nothing may be mapped */

/* Saves and returns the checkpoint on the shelf. */
struct shelf_item *lab_save(struct session *s, struct shelf *shelf);

#endif
