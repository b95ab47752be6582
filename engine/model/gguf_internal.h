/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_internal.h - what gguf.c fills and gguf_get.c reads; for those two files alone. */
#ifndef LECTERN_ENGINE_MODEL_GGUF_INTERNAL_H
#define LECTERN_ENGINE_MODEL_GGUF_INTERNAL_H

#include "engine/base/file.h"
#include "engine/model/gguf.h"

struct gguf_entry {
    struct gguf_str key;
    uint32_t type;
    const uint8_t *scalar;   /* number or BOOL: its bytes, unaligned */
    struct gguf_str string;  /* GGUF_STRING */
    struct gguf_array array; /* GGUF_ARRAY */
    uint64_t *offset;        /* owned; what array.offset borrows */
};

struct gguf {
    char *path;
    struct mapping map;
    uint32_t version;
    struct gguf_entry *entries; /* [n_entries], ascending by key once read */
    size_t n_entries;
    struct gguf_tensor *tensors;        /* [n_tensors], in the file's order */
    const struct gguf_tensor **by_name; /* [n_tensors], ascending by name */
    size_t n_tensors;
};

/* Bytewise, the shorter first when one begins the other. */
int gguf_str_compare(struct gguf_str a, struct gguf_str b);

#endif
