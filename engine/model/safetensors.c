/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.c - reads the JSON header with jansson and proves every range before keeping it.
 *
 *   u64 n | n bytes of JSON: {"name":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}, ...} | data
 */
#include "engine/model/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "engine/base/file.h"

#define MAX_HEADER ((size_t)64 << 20) /* bytes; larger ones are hostile */

struct safetensors {
    struct mapping map;
    json_t *header;                            /* owns the names and metadata strings */
    struct safetensors_tensor *tensors;        /* [n], by offset */
    const struct safetensors_tensor **by_name; /* [n] */
    size_t n;
};

static const struct {
    const char *name;
    enum safetensors_dtype dtype;
    size_t bytes;
} dtypes[] = {
    {"F32", ST_F32, 4}, {"F16", ST_F16, 2}, {"BF16", ST_BF16, 2}, {"F64", ST_F64, 8}, {"I64", ST_I64, 8},
    {"I32", ST_I32, 4}, {"I16", ST_I16, 2}, {"I8", ST_I8, 1},     {"U8", ST_U8, 1},   {"BOOL", ST_BOOL, 1},
};

/* A JSON integer that is not negative and fits. */
static int size_of(const json_t *v, size_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > SIZE_MAX)
        return 0;
    *out = (size_t)json_integer_value(v);
    return 1;
}

static int read_dtype(const json_t *v, enum safetensors_dtype *dtype, size_t *bytes)
{
    const char *text = json_string_value(v);
    for (size_t i = 0; text && i < sizeof dtypes / sizeof *dtypes; i++)
        if (strcmp(text, dtypes[i].name) == 0) {
            *dtype = dtypes[i].dtype;
            *bytes = dtypes[i].bytes;
            return 1;
        }
    return 0;
}

static int read_tensor(const char *path, const char *name, const json_t *v, const uint8_t *data,
                       size_t data_size, struct safetensors_tensor *t, struct err *e)
{
    size_t element = 0, begin, end;
    *t = (struct safetensors_tensor){.name = name};
    if (!read_dtype(json_object_get(v, "dtype"), &t->dtype, &element))
        return err_set(e, ERR_UNSUPPORTED, "%s: tensor %s has no dtype that is handled", path, name);
    const json_t *shape = json_object_get(v, "shape"), *range = json_object_get(v, "data_offsets");
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_MAX_DIMS)
        return err_set(e, ERR_FORMAT, "%s: tensor %s has no shape", path, name);
    size_t bytes = element;
    t->n_dims = json_array_size(shape);
    for (size_t i = 0; i < t->n_dims; i++)
        if (!size_of(json_array_get(shape, i), &t->shape[i]) || size_mul(bytes, t->shape[i], &bytes))
            return err_set(e, ERR_FORMAT, "%s: tensor %s has an impossible shape", path, name);
    if (!json_is_array(range) || json_array_size(range) != 2 || !size_of(json_array_get(range, 0), &begin) ||
        !size_of(json_array_get(range, 1), &end) || begin > end || end > data_size || end - begin != bytes)
        return err_set(e, ERR_FORMAT, "%s: tensor %s does not lie inside the file as its shape demands", path,
                       name);
    t->data = data + begin;
    t->bytes = bytes;
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_name(const void *a, const void *b)
{
    const struct safetensors_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int read_tensors(struct safetensors *s, const char *path, const uint8_t *data, size_t data_size,
                        struct err *e)
{
    size_t room = json_object_size(s->header);
    s->tensors = calloc(room ? room : 1, sizeof *s->tensors);
    s->by_name = calloc(room ? room : 1, sizeof *s->by_name);
    if (!s->tensors || !s->by_name)
        return err_memory(e, "the table of tensors");
    const char *name;
    json_t *v;
    json_object_foreach(s->header, name, v)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        int rc = read_tensor(path, name, v, data, data_size, &s->tensors[s->n], e);
        if (rc)
            return rc;
        s->n++;
    }
    if (s->n)
        qsort(s->tensors, s->n, sizeof *s->tensors, by_offset);
    for (size_t i = 0; i < s->n; i++) {
        if (i && s->tensors[i].data < s->tensors[i - 1].data + s->tensors[i - 1].bytes)
            return err_set(e, ERR_FORMAT, "%s: tensors %s and %s overlap", path, s->tensors[i - 1].name,
                           s->tensors[i].name);
        s->by_name[i] = &s->tensors[i];
    }
    if (s->n)
        qsort(s->by_name, s->n, sizeof *s->by_name, by_name);
    return 0;
}

static int load(struct safetensors *s, const char *path, struct err *e)
{
    int rc = mapping_open(&s->map, path, e);
    if (rc)
        return rc;
    struct reader r = reader_over(s->map.data, s->map.size);
    uint64_t n = read_u64(&r);
    const uint8_t *text = n <= MAX_HEADER ? read_bytes(&r, (size_t)n) : NULL;
    if (!text || r.bad)
        return err_set(e, ERR_FORMAT, "%s: is no safetensors file, or cut short", path);
    json_error_t why;
    s->header = json_loadb((const char *)text, (size_t)n, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(s->header))
        return err_set(e, ERR_FORMAT, "%s: damaged header: %s", path, s->header ? "no object" : why.text);
    return read_tensors(s, path, r.at, r.left, e);
}

int safetensors_open(const char *path, struct safetensors **out, struct err *e)
{
    *out = NULL;
    struct safetensors *s = calloc(1, sizeof *s);
    if (!s)
        return err_memory(e, path);
    int rc = load(s, path, e);
    if (rc) {
        safetensors_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    free(s->tensors);
    free(s->by_name);
    json_decref(s->header);
    mapping_close(&s->map);
    free(s);
}

size_t safetensors_count(const struct safetensors *s)
{
    return s->n;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *s, size_t i)
{
    return i < s->n ? &s->tensors[i] : NULL;
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    struct safetensors_tensor key = {.name = name};
    const struct safetensors_tensor *wanted = &key;
    const struct safetensors_tensor **found =
        s->n ? bsearch(&wanted, s->by_name, s->n, sizeof *s->by_name, by_name) : NULL;
    return found ? *found : NULL;
}

const char *safetensors_metadata(const struct safetensors *s, const char *key)
{
    return json_string_value(json_object_get(json_object_get(s->header, "__metadata__"), key));
}

const uint8_t *safetensors_bytes(const struct safetensors *s, size_t *size)
{
    *size = s->map.size;
    return s->map.data;
}
