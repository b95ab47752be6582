/* SPDX-License-Identifier: Apache-2.0 */
/* session_fixture.c - see session_fixture.h. */
#include "tests/support/session_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/temp.h"
#include "tests/support/tiny_model.h"

static void give_up(const char *what, const char *why)
{
    fprintf(stderr, "%s: %s\n", what, why);
    abort();
}

static void *need(void *p)
{
    if (!p)
        give_up("session_fixture", "out of memory");
    return p;
}

void lab_open(struct lab *lab)
{
    lab->folder = temp_folder();
    lab->model = temp_path(lab->folder, "tiny.gguf");
    lab->model_q4 = temp_path(lab->folder, "tiny-q4.gguf");
    lab->heads = temp_path(lab->folder, ".");
    struct tiny_model m = tiny_model_default(), q = m;
    q.type = 3;
    q.embed_type = 8;
    if (tiny_model_write(&m, lab->model) || tiny_model_write(&q, lab->model_q4))
        give_up(lab->folder, "cannot write the tiny models");
    temp_text(lab->folder, "full_attention_heads.tsv", "0.9\t0.1\n0.4\t0.6\n0.2\t0.8\n");
    temp_text(lab->folder, "config.json", "{\"sink_size\": 70, \"recent_size\": 130}");
    uint64_t x = 88172645463325252ull;
    for (int i = 0; i < LAB_TOKENS; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        lab->ids[i] = (uint32_t)(x % 250) + 3;
    }
}

void lab_close(struct lab *lab)
{
    free(lab->model);
    free(lab->model_q4);
    free(lab->heads);
    temp_remove(lab->folder);
}

struct engine *lab_engine(const struct lab *lab, double sparsity, int format, int threads,
                          const char *kernels, int q4)
{
    struct err e = {0};
    struct engine *g = NULL;
    struct engine_options o = {.model_path = q4 ? lab->model_q4 : lab->model,
                               .heads_path = lab->heads,
                               .sparsity = sparsity,
                               .sink = -1,
                               .recent = -1,
                               .kv_format = format,
                               .threads = threads,
                               .kernels = kernels};
    if (engine_open(&g, &o, &e))
        give_up("engine_open", e.text);
    return g;
}

struct session *lab_session(const struct engine *g)
{
    struct err e = {0};
    struct session *s = NULL;
    if (session_create(&s, g, &e))
        give_up("session_create", e.text);
    return s;
}

void lab_append(const struct lab *lab, struct session *s, size_t from, size_t to, size_t step)
{
    struct err e = {0};
    step = step ? step : to - from;
    for (size_t at = from; at < to; at += step)
        if (session_append(s, lab->ids + at, (at + step < to ? at + step : to) - at, NULL, &e))
            give_up("session_append", e.text);
}

static void shelf_add(struct shelf *shelf, const struct kv_put *put)
{
    size_t at = 0;
    struct shelf_item item = {
        .kind = put->kind, .has_parent = put->parent != NULL, .position = put->position};
    memcpy(item.key, put->key, KV_KEY_BYTES);
    if (put->parent)
        memcpy(item.parent, put->parent, KV_KEY_BYTES);
    for (int i = 0; i < put->n; i++)
        item.size += put->parts[i].iov_len;
    item.data = need(aligned_alloc(64, (item.size + 63) / 64 * 64));
    for (int i = 0; i < put->n; at += put->parts[i++].iov_len)
        memcpy(item.data + at, put->parts[i].iov_base, put->parts[i].iov_len);
    shelf->items = need(realloc(shelf->items, (shelf->n + 1) * sizeof *shelf->items));
    shelf->items[shelf->n++] = item;
}

static int shelf_put(void *arg, const struct kv_put *puts, size_t n, struct err *e)
{
    struct shelf *shelf = arg;
    if (shelf->fail)
        return err_set(e, (enum err_code)shelf->fail, "the shelf takes nothing now");
    shelf->batches++;
    for (size_t i = 0; i < n; i++)
        if (!shelf_find(shelf, puts[i].kind, puts[i].key))
            shelf_add(shelf, &puts[i]);
    return 0;
}

static int shelf_map(void *arg, enum kv_kind kind, const uint8_t *key, const uint8_t **data, size_t *size,
                     void **handle, struct err *e)
{
    struct shelf *shelf = arg;
    struct shelf_item *item = shelf_find(shelf, kind, key);
    if (!item)
        return err_set(e, ERR_NOT_FOUND, "not on the shelf");
    *data = item->data;
    *size = item->size;
    *handle = shelf;
    shelf->mapped++;
    return 0;
}

static void shelf_unmap(void *arg, void *handle)
{
    if (arg != handle)
        give_up("shelf_unmap", "not this shelf's");
    ((struct shelf *)arg)->mapped--;
}

struct kv_sink shelf_sink(struct shelf *shelf)
{
    return (struct kv_sink){.put = shelf_put, .arg = shelf};
}

struct kv_source shelf_source(struct shelf *shelf)
{
    return (struct kv_source){.map = shelf_map, .unmap = shelf_unmap, .arg = shelf};
}

struct shelf_item *shelf_find(struct shelf *shelf, enum kv_kind kind, const uint8_t *key)
{
    for (size_t i = 0; i < shelf->n; i++)
        if (shelf->items[i].kind == kind && !memcmp(shelf->items[i].key, key, KV_KEY_BYTES))
            return &shelf->items[i];
    return NULL;
}

void shelf_drop(struct shelf *shelf, struct shelf_item *item)
{
    free(item->data);
    *item = shelf->items[--shelf->n];
}

void shelf_clear(struct shelf *shelf)
{
    if (shelf->mapped)
        give_up("shelf_clear", "something is still mapped");
    for (size_t i = 0; i < shelf->n; i++)
        free(shelf->items[i].data);
    free(shelf->items);
    *shelf = (struct shelf){.n = 0};
}

struct shelf_item *lab_save(struct session *s, struct shelf *shelf)
{
    struct err e = {0};
    struct kv_sink sink = shelf_sink(shelf);
    uint8_t key[KV_KEY_BYTES];
    if (session_save(s, &sink, key, &e))
        give_up("session_save", e.text);
    return shelf_find(shelf, KV_KIND_CHECKPOINT, key);
}
