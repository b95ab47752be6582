/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_writer.c - see gguf_writer.h. */
#include "tests/support/gguf_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "engine/model/gguf.h"

enum { ALIGN = 32 };

struct gguf_writer {
    char *path;
    struct buf keys, table, data;
    uint64_t n_keys, n_tensors;
};

struct gguf_writer *gguf_writer_open(const char *path)
{
    struct gguf_writer *w = calloc(1, sizeof *w);
    if (w && !(w->path = strdup(path))) {
        free(w);
        return NULL;
    }
    return w;
}

static void put_str(struct buf *b, const char *s)
{
    put_u64(b, strlen(s));
    buf_add(b, s, strlen(s));
}

static void key(struct gguf_writer *w, const char *name, uint32_t type)
{
    put_str(&w->keys, name);
    put_u32(&w->keys, type);
    w->n_keys++;
}

static void array(struct gguf_writer *w, const char *name, uint32_t type, size_t n)
{
    key(w, name, GGUF_ARRAY);
    put_u32(&w->keys, type);
    put_u64(&w->keys, n);
}

void gguf_writer_add_u32(struct gguf_writer *w, const char *name, uint32_t v)
{
    key(w, name, GGUF_U32);
    put_u32(&w->keys, v);
}

void gguf_writer_add_u64(struct gguf_writer *w, const char *name, uint64_t v)
{
    key(w, name, GGUF_U64);
    put_u64(&w->keys, v);
}

void gguf_writer_add_i32(struct gguf_writer *w, const char *name, int32_t v)
{
    key(w, name, GGUF_I32);
    put_u32(&w->keys, (uint32_t)v);
}

void gguf_writer_add_f32(struct gguf_writer *w, const char *name, float v)
{
    key(w, name, GGUF_F32);
    put_f32(&w->keys, v);
}

void gguf_writer_add_bool(struct gguf_writer *w, const char *name, int v)
{
    key(w, name, GGUF_BOOL);
    put_u8(&w->keys, v != 0);
}

void gguf_writer_add_str(struct gguf_writer *w, const char *name, const char *v)
{
    key(w, name, GGUF_STRING);
    put_str(&w->keys, v);
}

void gguf_writer_add_arr_str(struct gguf_writer *w, const char *name, const char *const *v, size_t n)
{
    array(w, name, GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        put_str(&w->keys, v[i]);
}

void gguf_writer_add_arr_i32(struct gguf_writer *w, const char *name, const int32_t *v, size_t n)
{
    array(w, name, GGUF_I32, n);
    for (size_t i = 0; i < n; i++)
        put_u32(&w->keys, (uint32_t)v[i]);
}

void gguf_writer_add_arr_f32(struct gguf_writer *w, const char *name, const float *v, size_t n)
{
    array(w, name, GGUF_F32, n);
    for (size_t i = 0; i < n; i++)
        put_f32(&w->keys, v[i]);
}

void gguf_writer_add_raw(struct gguf_writer *w, const char *name, uint32_t type, const void *bytes, size_t n)
{
    key(w, name, type);
    buf_add(&w->keys, bytes, n);
}

static void pad(struct buf *b)
{
    while (b->len % ALIGN && !b->failed)
        buf_putc(b, 0);
}

void gguf_writer_add_tensor(struct gguf_writer *w, const char *name, uint32_t type, int ndims,
                            const uint64_t *dims, const void *data, size_t bytes)
{
    pad(&w->data);
    put_str(&w->table, name);
    put_u32(&w->table, (uint32_t)ndims);
    for (int i = 0; i < ndims; i++)
        put_u64(&w->table, dims[i]);
    put_u32(&w->table, type);
    put_u64(&w->table, w->data.len);
    buf_add(&w->data, data, bytes);
    w->n_tensors++;
}

int gguf_writer_take(struct gguf_writer *w, uint8_t **bytes, size_t *size)
{
    struct buf b = {0};
    buf_add(&b, "GGUF", 4);
    put_u32(&b, 3);
    put_u64(&b, w->n_tensors);
    put_u64(&b, w->n_keys);
    buf_add(&b, w->keys.data, w->keys.len);
    buf_add(&b, w->table.data, w->table.len);
    pad(&b);
    buf_add(&b, w->data.data, w->data.len);
    int failed = b.failed | w->keys.failed | w->table.failed | w->data.failed;
    *size = b.len;
    *bytes = failed ? NULL : (uint8_t *)buf_take(&b);
    buf_free(&b);
    buf_free(&w->keys);
    buf_free(&w->table);
    buf_free(&w->data);
    free(w->path);
    free(w);
    return failed;
}

int gguf_writer_close(struct gguf_writer *w)
{
    FILE *f = fopen(w->path, "wb");
    uint8_t *bytes;
    size_t size;
    int failed = gguf_writer_take(w, &bytes, &size);
    if (!f) {
        free(bytes);
        return 1;
    }
    if (!failed)
        failed = fwrite(bytes, 1, size, f) != size;
    failed |= fclose(f) != 0;
    free(bytes);
    return failed;
}
