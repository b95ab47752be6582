/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_writer.h - writes small GGUF v3 files for tests, honest or (through gguf_writer_raw) not.
 *
 * Keys and tensors are collected in memory; gguf_writer_close writes the file. Errors are sticky: check the
 * return of close alone. Keys and tensors may be added in any order.
 */
#ifndef LECTERN_TESTS_SUPPORT_GGUF_WRITER_H
#define LECTERN_TESTS_SUPPORT_GGUF_WRITER_H

#include <stddef.h>
#include <stdint.h>

struct gguf_writer;

/* NULL when out of memory. Nothing is written before close. */
struct gguf_writer *gguf_writer_open(const char *path);

void gguf_writer_add_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_writer_add_u64(struct gguf_writer *w, const char *key, uint64_t v);
void gguf_writer_add_i32(struct gguf_writer *w, const char *key, int32_t v);
void gguf_writer_add_f32(struct gguf_writer *w, const char *key, float v);
void gguf_writer_add_bool(struct gguf_writer *w, const char *key, int v);
void gguf_writer_add_str(struct gguf_writer *w, const char *key, const char *v);
void gguf_writer_add_arr_str(struct gguf_writer *w, const char *key, const char *const *v, size_t n);
void gguf_writer_add_arr_i32(struct gguf_writer *w, const char *key, const int32_t *v, size_t n);
void gguf_writer_add_arr_f32(struct gguf_writer *w, const char *key, const float *v, size_t n);

/* A key whose value (type and bytes) the caller has spelt out: for files that lie. */
void gguf_writer_add_raw(struct gguf_writer *w, const char *key, uint32_t type, const void *bytes, size_t n);

/* dims[0] runs fastest. The bytes are copied; they need not match dims and type (for files that lie). */
void gguf_writer_add_tensor(struct gguf_writer *w, const char *name, uint32_t type, int ndims,
                            const uint64_t *dims, const void *data, size_t bytes);

/* Writes the file and frees w; 0 when all went well. The second form hands the bytes to the caller (who frees
 * them) and writes nothing. */
int gguf_writer_close(struct gguf_writer *w);
int gguf_writer_take(struct gguf_writer *w, uint8_t **bytes, size_t *size);

#endif
