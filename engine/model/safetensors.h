/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - a mapped safetensors file; every offset is inside the file and no two tensors overlap.
 *
 * Layout: u64 little-endian header length, JSON header, data. Names map to dtype, shape and a byte range of
 * the data whose length is exactly that of the shape.
 */
#ifndef LECTERN_ENGINE_MODEL_SAFETENSORS_H
#define LECTERN_ENGINE_MODEL_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

#define SAFETENSORS_MAX_DIMS 8

enum safetensors_dtype {
    ST_F32,
    ST_F16,
    ST_BF16,
    ST_F64,
    ST_I64,
    ST_I32,
    ST_I16,
    ST_I8,
    ST_U8,
    ST_BOOL,
};

struct safetensors_tensor {
    const char *name;
    enum safetensors_dtype dtype;
    size_t n_dims;
    size_t shape[SAFETENSORS_MAX_DIMS];
    const uint8_t *data; /* in the mapping; unaligned in general */
    size_t bytes;
};

struct safetensors;

int safetensors_open(const char *path, struct safetensors **out, struct err *e);
void safetensors_close(struct safetensors *s); /* NULL is legal */

size_t safetensors_count(const struct safetensors *s);
const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i); /* by file offset */
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name);
/* A string of "__metadata__", or NULL. */
const char *safetensors_metadata(const struct safetensors *s, const char *key);
/* The whole file. */
const uint8_t *safetensors_bytes(const struct safetensors *s, size_t *size);

#endif
