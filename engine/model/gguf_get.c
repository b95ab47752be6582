/* SPDX-License-Identifier: Apache-2.0 */
/* gguf_get.c - typed access to the keys, arrays and tensors of an opened (hence checked) GGUF file. */
#include "engine/model/gguf_internal.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "engine/base/bytes.h"

/* A number of any type; integers keep all their bits. */
struct number {
    enum { NUMBER_NONE, NUMBER_UNSIGNED, NUMBER_SIGNED, NUMBER_FLOAT } kind;
    uint64_t u;
    int64_t i;
    double f;
};

static struct number number_signed(int64_t i)
{
    return (struct number){.kind = NUMBER_SIGNED, .i = i};
}

static struct number number_at(uint32_t type, const uint8_t *at)
{
    struct reader r = reader_over(at, 8); /* scalar_bytes() of them were checked at open; no more are read */
    switch (type) {
    case GGUF_U8:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = read_u8(&r)};
    case GGUF_U16:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = read_u16(&r)};
    case GGUF_U32:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = read_u32(&r)};
    case GGUF_U64:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = read_u64(&r)};
    case GGUF_I8:
        return number_signed((int8_t)read_u8(&r));
    case GGUF_I16:
        return number_signed((int16_t)read_u16(&r));
    case GGUF_I32:
        return number_signed((int32_t)read_u32(&r));
    case GGUF_I64:
        return number_signed((int64_t)read_u64(&r));
    case GGUF_F32:
        return (struct number){.kind = NUMBER_FLOAT, .f = (double)read_f32(&r)};
    case GGUF_F64:
        return (struct number){.kind = NUMBER_FLOAT, .f = read_f64(&r)};
    case GGUF_BOOL:
        return (struct number){.kind = NUMBER_UNSIGNED, .u = read_u8(&r) != 0};
    default:
        return (struct number){.kind = NUMBER_NONE};
    }
}

static int as_i64(struct number n, int64_t *v)
{
    if (n.kind == NUMBER_UNSIGNED && n.u <= INT64_MAX)
        *v = (int64_t)n.u;
    else if (n.kind == NUMBER_SIGNED)
        *v = n.i;
    else
        return 0;
    return 1;
}

static double as_f64(struct number n)
{
    if (n.kind == NUMBER_UNSIGNED)
        return (double)n.u;
    return n.kind == NUMBER_SIGNED ? (double)n.i : n.f;
}

static const struct gguf_entry *find(const struct gguf *g, const char *key)
{
    struct gguf_str wanted = {key, strlen(key)};
    size_t lo = 0, hi = g->n_entries;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = gguf_str_compare(g->entries[mid].key, wanted);
        if (!c)
            return &g->entries[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static struct number find_number(const struct gguf *g, const char *key)
{
    const struct gguf_entry *entry = find(g, key);
    if (!entry || !entry->scalar || entry->type == GGUF_BOOL)
        return (struct number){.kind = NUMBER_NONE};
    return number_at(entry->type, entry->scalar);
}

int gguf_has(const struct gguf *g, const char *key)
{
    return find(g, key) != NULL;
}

int gguf_u64(const struct gguf *g, const char *key, uint64_t *v)
{
    struct number n = find_number(g, key);
    if (n.kind == NUMBER_UNSIGNED)
        *v = n.u;
    else if (n.kind == NUMBER_SIGNED && n.i >= 0)
        *v = (uint64_t)n.i;
    else
        return 0;
    return 1;
}

int gguf_i64(const struct gguf *g, const char *key, int64_t *v)
{
    return as_i64(find_number(g, key), v);
}

int gguf_f64(const struct gguf *g, const char *key, double *v)
{
    struct number n = find_number(g, key);
    if (n.kind == NUMBER_NONE || !isfinite(as_f64(n)))
        return 0;
    *v = as_f64(n);
    return 1;
}

int gguf_bool(const struct gguf *g, const char *key, int *v)
{
    const struct gguf_entry *entry = find(g, key);
    if (!entry || entry->type != GGUF_BOOL)
        return 0;
    *v = entry->scalar[0] != 0;
    return 1;
}

int gguf_str(const struct gguf *g, const char *key, struct gguf_str *v)
{
    const struct gguf_entry *entry = find(g, key);
    if (!entry || entry->type != GGUF_STRING)
        return 0;
    *v = entry->string;
    return 1;
}

int gguf_array(const struct gguf *g, const char *key, struct gguf_array *v)
{
    const struct gguf_entry *entry = find(g, key);
    if (!entry || entry->type != GGUF_ARRAY)
        return 0;
    *v = entry->array;
    return 1;
}

int gguf_u64_need(const struct gguf *g, const char *key, uint64_t lo, uint64_t hi, uint64_t *v, struct err *e)
{
    uint64_t found = 0;
    if (!gguf_u64(g, key, &found))
        return err_set(e, ERR_FORMAT,
                       "%s: the number '%s' is missing; download the model again or choose another", g->path,
                       key);
    if (found < lo || found > hi)
        return err_set(e, ERR_FORMAT,
                       "%s: '%s' is %llu, outside %llu to %llu; download the model again or choose another",
                       g->path, key, (unsigned long long)found, (unsigned long long)lo,
                       (unsigned long long)hi);
    *v = found;
    return 0;
}

int gguf_u64_in(const struct gguf *g, const char *key, uint64_t fallback, uint64_t lo, uint64_t hi,
                uint64_t *v, struct err *e)
{
    if (gguf_has(g, key))
        return gguf_u64_need(g, key, lo, hi, v, e);
    *v = fallback;
    return 0;
}

/* The number at index i, or NUMBER_NONE for a string array. */
static struct number element(const struct gguf_array *a, size_t i)
{
    static const uint8_t bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    assert(i < a->n);
    if (a->type >= sizeof bytes || !bytes[a->type])
        return (struct number){.kind = NUMBER_NONE};
    return number_at(a->type, a->data + i * bytes[a->type]);
}

struct gguf_str gguf_array_str(const struct gguf_array *a, size_t i)
{
    assert(i < a->n);
    if (a->type != GGUF_STRING)
        return (struct gguf_str){"", 0};
    const uint8_t *at = a->data + a->offset[i];
    struct reader r = reader_over(at, 8);
    return (struct gguf_str){(const char *)at + 8, (size_t)read_u64(&r)};
}

int64_t gguf_array_i64(const struct gguf_array *a, size_t i)
{
    struct number n = element(a, i);
    int64_t v = 0;
    if (as_i64(n, &v))
        return v;
    if (n.kind == NUMBER_FLOAT && n.f > -9.2e18 && n.f < 9.2e18)
        return (int64_t)n.f;
    return 0;
}

double gguf_array_f64(const struct gguf_array *a, size_t i)
{
    struct number n = element(a, i);
    return n.kind == NUMBER_NONE ? 0 : as_f64(n);
}

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

const uint8_t *gguf_bytes(const struct gguf *g, size_t *size)
{
    *size = g->map.size;
    return g->map.data;
}

size_t gguf_tensor_count(const struct gguf *g)
{
    return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
    struct gguf_str wanted = {name, strlen(name)};
    size_t lo = 0, hi = g->n_tensors;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = gguf_str_compare(g->by_name[mid]->name, wanted);
        if (!c)
            return g->by_name[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

int gguf_str_is(struct gguf_str s, const char *text)
{
    return strlen(text) == s.len && !memcmp(s.data, text, s.len);
}
