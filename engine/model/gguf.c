/* SPDX-License-Identifier: Apache-2.0 */
/* gguf.c - opening a GGUF file: every count, length and range is checked against the bytes that are there.
 *
 * The file is hostile until gguf_open returns 0. Nothing is allocated from a count before that count was
 * compared with what the remaining bytes can hold: a key and value take at least 13 bytes, a tensor's entry
 * at least 32, a string 8. The getters are in gguf_get.c.
 */
#include "engine/model/gguf_internal.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"

enum { MIN_KV = 13, MIN_TENSOR = 32, MAX_KEY = 65535, MAX_ALIGN = 1 << 20 };

static int damaged(const struct gguf *g, struct err *e, const char *what)
{
    return err_set(e, ERR_FORMAT, "%s: %s; the file is damaged or incomplete, download it again", g->path,
                   what);
}

/* Bytes of a scalar value, 0 for strings, arrays and unknown types. */
static size_t scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return type < sizeof bytes ? bytes[type] : 0;
}

static struct gguf_str read_str(struct reader *r)
{
    uint64_t n = read_u64(r);
    if (r->bad || n > r->left) {
        r->bad = 1;
        return (struct gguf_str){"", 0};
    }
    return (struct gguf_str){(const char *)read_bytes(r, (size_t)n), (size_t)n};
}

static int read_name(const struct gguf *g, struct reader *r, struct gguf_str *name, struct err *e)
{
    *name = read_str(r);
    if (r->bad || !name->len || name->len > MAX_KEY || memchr(name->data, 0, name->len))
        return damaged(g, e, "a name in the header is not one");
    return 0;
}

static int read_array(const struct gguf *g, struct reader *r, struct gguf_entry *entry, struct err *e)
{
    uint32_t type = read_u32(r);
    uint64_t n = read_u64(r);
    if (r->bad)
        return damaged(g, e, "the header ends early");
    if (type == GGUF_ARRAY)
        return err_set(e, ERR_UNSUPPORTED, "%s: '%.*s' is an array of arrays, which Lectern does not read",
                       g->path, (int)entry->key.len, entry->key.data);
    size_t each = type == GGUF_STRING ? 8 : scalar_bytes(type);
    if (!each || n > r->left / each)
        return damaged(g, e, "an array is longer than the file");
    entry->array = (struct gguf_array){.type = (enum gguf_type)type, .n = (size_t)n, .data = r->at};
    if (type != GGUF_STRING) {
        read_bytes(r, (size_t)n * each);
        return 0;
    }
    if (!n)
        return 0;
    entry->offset = malloc((size_t)n * sizeof *entry->offset);
    if (!entry->offset)
        return err_memory(e, "the index of a string array");
    for (size_t i = 0; i < n; i++) {
        entry->offset[i] = (uint64_t)(r->at - entry->array.data);
        read_str(r);
        if (r->bad)
            return damaged(g, e, "a string array is longer than the file");
    }
    entry->array.offset = entry->offset;
    return 0;
}

static int read_entry(const struct gguf *g, struct reader *r, struct gguf_entry *entry, struct err *e)
{
    int rc = read_name(g, r, &entry->key, e);
    if (rc)
        return rc;
    entry->type = read_u32(r);
    if (r->bad)
        return damaged(g, e, "the header ends early");
    if (entry->type == GGUF_ARRAY)
        return read_array(g, r, entry, e);
    if (entry->type == GGUF_STRING) {
        entry->string = read_str(r);
    } else {
        size_t n = scalar_bytes(entry->type);
        if (!n)
            return damaged(g, e, "a value has a type that does not exist");
        entry->scalar = read_bytes(r, n);
    }
    return r->bad ? damaged(g, e, "the header ends early") : 0;
}

int gguf_str_compare(struct gguf_str a, struct gguf_str b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = memcmp(a.data, b.data, n);
    return c ? c : (a.len > b.len) - (a.len < b.len);
}

static int by_key(const void *a, const void *b)
{
    return gguf_str_compare(((const struct gguf_entry *)a)->key, ((const struct gguf_entry *)b)->key);
}

static int by_name(const void *a, const void *b)
{
    return gguf_str_compare((*(const struct gguf_tensor *const *)a)->name,
                            (*(const struct gguf_tensor *const *)b)->name);
}

static int read_entries(struct gguf *g, struct reader *r, uint64_t n, struct err *e)
{
    if (n > r->left / MIN_KV)
        return damaged(g, e, "it names more keys than it can hold");
    g->entries = calloc(n ? (size_t)n : 1, sizeof *g->entries);
    if (!g->entries)
        return err_memory(e, "the model file's keys");
    for (; g->n_entries < n; g->n_entries++) {
        /* Counted before it is read, so that gguf_close frees a half-read array. */
        int rc = read_entry(g, r, &g->entries[g->n_entries], e);
        if (rc) {
            g->n_entries++;
            return rc;
        }
    }
    qsort(g->entries, g->n_entries, sizeof *g->entries, by_key);
    for (size_t i = 1; i < g->n_entries; i++)
        if (!by_key(&g->entries[i - 1], &g->entries[i]))
            return damaged(g, e, "a key stands twice in the header");
    return 0;
}

/* How a type is stored: `block` values in `bytes` bytes. */
static const struct tensor_layout {
    uint32_t type;
    uint16_t block, bytes;
    const char *name;
} layouts[] = {
    {GGUF_TENSOR_F32, 1, 4, "F32"},       {GGUF_TENSOR_F16, 1, 2, "F16"},
    {GGUF_TENSOR_BF16, 1, 2, "BF16"},     {GGUF_TENSOR_Q4_0, 32, 18, "Q4_0"},
    {GGUF_TENSOR_Q4_1, 32, 20, "Q4_1"},   {GGUF_TENSOR_Q5_0, 32, 22, "Q5_0"},
    {GGUF_TENSOR_Q5_1, 32, 24, "Q5_1"},   {GGUF_TENSOR_Q8_0, 32, 34, "Q8_0"},
    {GGUF_TENSOR_Q2_K, 256, 84, "Q2_K"},  {GGUF_TENSOR_Q3_K, 256, 110, "Q3_K"},
    {GGUF_TENSOR_Q4_K, 256, 144, "Q4_K"}, {GGUF_TENSOR_Q5_K, 256, 176, "Q5_K"},
    {GGUF_TENSOR_Q6_K, 256, 210, "Q6_K"}, {GGUF_TENSOR_I8, 1, 1, "I8"},
    {GGUF_TENSOR_I16, 1, 2, "I16"},       {GGUF_TENSOR_I32, 1, 4, "I32"},
};

static const struct tensor_layout *layout_of(uint32_t type)
{
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].type == type)
            return &layouts[i];
    return NULL;
}

const char *gguf_tensor_type_name(uint32_t type, char room[24])
{
    const struct tensor_layout *layout = layout_of(type);
    if (layout)
        return layout->name;
    struct buf b = {0};
    buf_printf(&b, "type %u", (unsigned)type);
    room[0] = 0;
    if (b.data)
        memccpy(room, b.data, 0, 23);
    room[23] = 0;
    buf_free(&b);
    return room;
}

static int tensor_bytes(const struct gguf *g, struct gguf_tensor *t, struct err *e)
{
    const struct tensor_layout *layout = layout_of(t->type);
    char room[24];
    if (!layout)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s: tensor '%.*s' is stored as %s, which Lectern does not read; take a Q4_0, Q4_1, Q8_0 "
            "or F16 file of the model",
            g->path, (int)t->name.len, t->name.data, gguf_tensor_type_name(t->type, room));
    if (t->dims[0] % layout->block)
        return damaged(g, e, "a tensor's rows do not fill whole blocks");
    size_t n = t->dims[0] / layout->block;
    int over = size_mul(n, layout->bytes, &n);
    for (int i = 1; i < 4; i++)
        over |= size_mul(n, t->dims[i], &n);
    if (over)
        return damaged(g, e, "a tensor is larger than any file");
    t->bytes = n;
    return 0;
}

static int read_tensor(struct gguf *g, struct reader *r, struct gguf_tensor *t, uint64_t *offset,
                       struct err *e)
{
    int rc = read_name(g, r, &t->name, e);
    if (rc)
        return rc;
    uint32_t n = read_u32(r);
    if (r->bad || n < 1 || n > 4)
        return damaged(g, e, "a tensor has not one to four dimensions");
    t->ndims = (int)n;
    for (uint32_t i = 0; i < 4; i++) {
        t->dims[i] = i < n ? read_u64(r) : 1;
        if (!t->dims[i])
            return damaged(g, e, "a tensor is empty");
    }
    t->type = read_u32(r);
    *offset = read_u64(r);
    if (r->bad)
        return damaged(g, e, "the tensor table ends early");
    return tensor_bytes(g, t, e);
}

static int read_tensors(struct gguf *g, struct reader *r, uint64_t n, struct err *e)
{
    if (n > r->left / MIN_TENSOR)
        return damaged(g, e, "it names more tensors than it can hold");
    g->tensors = calloc(n ? (size_t)n : 1, sizeof *g->tensors);
    g->by_name = calloc(n ? (size_t)n : 1, sizeof *g->by_name);
    uint64_t *offset = calloc(n ? (size_t)n : 1, sizeof *offset);
    int rc = g->tensors && g->by_name && offset ? 0 : err_memory(e, "the model file's tensor table");
    for (size_t i = 0; !rc && i < n; i++) {
        rc = read_tensor(g, r, &g->tensors[i], &offset[i], e);
        g->by_name[i] = &g->tensors[i];
    }
    uint64_t align = 32;
    if (!rc && gguf_has(g, "general.alignment"))
        rc = gguf_u64_need(g, "general.alignment", 8, MAX_ALIGN, &align, e);
    if (!rc && (align & (align - 1)))
        rc = damaged(g, e, "its alignment is not a power of two");
    size_t start = (size_t)(r->at - g->map.data);
    start = (start + (size_t)align - 1) & ~((size_t)align - 1);
    for (size_t i = 0; !rc && i < n; i++) {
        size_t room = start < g->map.size ? g->map.size - start : 0;
        struct gguf_tensor *t = &g->tensors[i];
        if (offset[i] & (align - 1))
            rc = damaged(g, e, "a tensor is not aligned");
        else if (offset[i] > room || t->bytes > room - offset[i])
            rc = damaged(g, e, "a tensor ends outside the file");
        else
            t->data = g->map.data + start + offset[i];
    }
    free(offset);
    if (rc)
        return rc;
    g->n_tensors = (size_t)n;
    qsort(g->by_name, g->n_tensors, sizeof(*g->by_name), by_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (!by_name(&g->by_name[i - 1], &g->by_name[i]))
            return damaged(g, e, "a tensor stands twice in the table");
    return 0;
}

static int read_file(struct gguf *g, struct err *e)
{
    struct reader r = reader_over(g->map.data, g->map.size);
    const uint8_t *magic = read_bytes(&r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0)
        return err_set(e, ERR_FORMAT, "%s is not a GGUF model file; choose another or download it again",
                       g->path);
    g->version = read_u32(&r);
    uint64_t n_tensors = read_u64(&r);
    uint64_t n_entries = read_u64(&r);
    if (r.bad)
        return damaged(g, e, "the header ends early");
    if (g->version && !(g->version & 0xffff))
        return err_set(e, ERR_UNSUPPORTED, "%s is a big-endian GGUF file; take the usual little-endian one",
                       g->path);
    if (g->version != 2 && g->version != 3)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s is GGUF version %u; Lectern reads versions 2 and 3: take a newer file", g->path,
                       (unsigned)g->version);
    int rc = read_entries(g, &r, n_entries, e);
    return rc ? rc : read_tensors(g, &r, n_tensors, e);
}

int gguf_open(const char *path, struct gguf **out, struct err *e)
{
    *out = NULL;
    struct gguf *g = calloc(1, sizeof *g);
    if (!g)
        return err_memory(e, "the model file's index");
    g->path = strdup(path);
    int rc = g->path ? mapping_open(&g->map, path, e) : err_memory(e, "the model file's name");
    if (!rc)
        rc = read_file(g, e);
    if (rc) {
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_entries; i++)
        free(g->entries[i].offset);
    free(g->entries);
    free(g->tensors);
    free(g->by_name);
    mapping_close(&g->map);
    free(g->path);
    free(g);
}
