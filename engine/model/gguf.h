/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.h - a GGUF file (versions 2 and 3, little-endian), mapped read-only and checked whole when opened.
 *
 * After gguf_open succeeds every key, string, array element and tensor byte that these functions hand out
 * lies inside the mapping; nothing here can fail later for a reason that lies in the file. Keys and names are
 * unique, valid without a NUL inside. Everything returned is borrowed and lives until gguf_close. A struct
 * gguf is immutable, so any number of threads may read it.
 *
 *   file:  magic, version, counts | keys and values | tensor table | padding | tensor data, each aligned
 */
#ifndef LECTERN_ENGINE_MODEL_GGUF_H
#define LECTERN_ENGINE_MODEL_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

#ifdef __cplusplus
extern "C" {
#endif

struct gguf;

/* Types of metadata values, as the file numbers them. */
enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STRING = 8,
    GGUF_ARRAY = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12,
};

/* Types of tensors, as the file numbers them: those whose size is known here. The first columns of a tensor
 * (dims[0]) are stored in whole blocks. */
enum gguf_tensor_type {
    GGUF_TENSOR_F32 = 0,
    GGUF_TENSOR_F16 = 1,
    GGUF_TENSOR_Q4_0 = 2,
    GGUF_TENSOR_Q4_1 = 3,
    GGUF_TENSOR_Q5_0 = 6,
    GGUF_TENSOR_Q5_1 = 7,
    GGUF_TENSOR_Q8_0 = 8,
    GGUF_TENSOR_Q2_K = 10,
    GGUF_TENSOR_Q3_K = 11,
    GGUF_TENSOR_Q4_K = 12,
    GGUF_TENSOR_Q5_K = 13,
    GGUF_TENSOR_Q6_K = 14,
    GGUF_TENSOR_I8 = 24,
    GGUF_TENSOR_I16 = 25,
    GGUF_TENSOR_I32 = 26,
    GGUF_TENSOR_BF16 = 30,
};

/* Bytes of the file, NOT NUL-terminated. */
struct gguf_str {
    const char *data;
    size_t len;
};

/* An array value; element access below. */
struct gguf_array {
    enum gguf_type type; /* of its elements; never GGUF_ARRAY */
    size_t n;
    const uint8_t *data;    /* first element (for strings: its length field); unaligned */
    const uint64_t *offset; /* strings only: [n] where each string's length field stands, from data */
};

struct gguf_tensor {
    struct gguf_str name;
    uint32_t type;       /* enum gguf_tensor_type */
    int ndims;           /* 1..4 */
    uint64_t dims[4];    /* dims[0] runs fastest (columns); unused ones are 1; none is 0 */
    const uint8_t *data; /* aligned as the file says (at least 8; 32 unless the file differs) */
    size_t bytes;
};

/* Maps and checks the file. *out is NULL after failure; the caller closes it. ERR_IO / ERR_NOT_FOUND from the
 * system, ERR_FORMAT for a damaged file, ERR_UNSUPPORTED for another version, byte order or tensor type. */
int gguf_open(const char *path, struct gguf **out, struct err *e);
void gguf_close(struct gguf *g); /* NULL is legal */

const char *gguf_path(const struct gguf *g);
uint32_t gguf_version(const struct gguf *g);

/* The whole mapped file, for hashing. */
const uint8_t *gguf_bytes(const struct gguf *g, size_t *size);

/* Metadata. Each getter returns 1 and sets *v when the key exists and its value fits, else returns 0 and
 * leaves *v alone (so that *v may hold the default). `key` is NUL-terminated. */
int gguf_has(const struct gguf *g, const char *key);
int gguf_u64(const struct gguf *g, const char *key, uint64_t *v); /* any integer type, not negative */
int gguf_i64(const struct gguf *g, const char *key, int64_t *v);  /* any integer type that fits */
int gguf_f64(const struct gguf *g, const char *key, double *v);   /* F32, F64 or any integer; finite */
int gguf_bool(const struct gguf *g, const char *key, int *v);     /* BOOL */
int gguf_str(const struct gguf *g, const char *key, struct gguf_str *v);
int gguf_array(const struct gguf *g, const char *key, struct gguf_array *v);

/* As gguf_u64, but a missing key takes `fallback`, and a value of another type or outside [lo, hi] is
 * ERR_FORMAT naming file, key and limits. */
int gguf_u64_in(const struct gguf *g, const char *key, uint64_t fallback, uint64_t lo, uint64_t hi,
                uint64_t *v, struct err *e);
/* The same, where the key must be there. */
int gguf_u64_need(const struct gguf *g, const char *key, uint64_t lo, uint64_t hi, uint64_t *v,
                  struct err *e);

/* Elements; i < a->n (asserted). A number of a string array is 0, a string of a number array is empty.
 * Floats are truncated by gguf_array_i64 when they fit and are 0 otherwise. All are O(1). */
struct gguf_str gguf_array_str(const struct gguf_array *a, size_t i);
int64_t gguf_array_i64(const struct gguf_array *a, size_t i);
double gguf_array_f64(const struct gguf_array *a, size_t i);

/* Tensors, in the file's order; by name is a binary search, NULL when missing. */
size_t gguf_tensor_count(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name);

/* "Q4_1", or "type 99" for one not known here; static storage or `room`. */
const char *gguf_tensor_type_name(uint32_t type, char room[24]);

/* Does s hold exactly this NUL-terminated text? */
int gguf_str_is(struct gguf_str s, const char *text);

#ifdef __cplusplus
}
#endif
#endif
