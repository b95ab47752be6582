/* SPDX-License-Identifier: Apache-2.0 */
/* device_engine.c - opens a device with a model's weights on it, and tells what it takes.
 *
 * Invariant: everything that lives as long as the engine is in `taken` or in the weights, so closing is one
 * walk whatever failed before.
 */
#include "engine/device/device_internal.h"

#include <stdlib.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 65536 };

int shared_take(struct device_shared *g, size_t bytes, void **out, struct err *e)
{
    *out = NULL;
    if (g->n_taken == g->cap_taken) {
        size_t cap = g->cap_taken * 2 + 32;
        void **taken = realloc(g->taken, cap * sizeof *taken);
        if (!taken)
            return err_memory(e, "the device's tables");
        g->taken = taken;
        g->cap_taken = cap;
    }
    int rc = g->ops->alloc(g->device, bytes, out, e);
    if (!rc)
        g->taken[g->n_taken++] = *out;
    return rc;
}

int shared_take_copy(struct device_shared *g, const void *from, size_t bytes, void **out, struct err *e)
{
    int rc = shared_take(g, bytes, out, e);
    if (!rc) {
        g->ops->upload(g->device, DEVICE_COMPUTE, *out, from, bytes);
        rc = g->ops->sync(g->device, DEVICE_COMPUTE, e);
    }
    return rc;
}

static void shared_free(struct device_shared *g)
{
    if (!g)
        return;
    if (g->device) {
        weights_free(g);
        work_fini(g);
        for (size_t i = 0; i < g->n_taken; i++)
            g->ops->release(g->device, g->taken[i]);
        device_close(g->device);
    }
    free(g->taken);
    free(g->layers);
    free(g);
}

/* The device, opened or taken over, and what does not hang on the weights. */
static int shared_open(struct device_shared **out, const struct device_options *o, struct err *e)
{
    struct device_shared *g = calloc(1, sizeof *g);
    *out = g;
    if (!g) {
        device_close(o->opened);
        return err_memory(e, "the device engine");
    }
    g->device = o->opened;
    g->ops = g->device ? g->device->ops : NULL;
    g->chunk = o->chunk ? o->chunk : DEVICE_CHUNK_T;
    g->context = o->context ? o->context : DEFAULT_CONTEXT;
    g->kv_bytes = o->kv_bytes;
    if (g->chunk % KV_PAGE_TOKENS || g->chunk > DEVICE_CHUNK_T)
        return err_set(e, ERR_USAGE, "a pass of %zu tokens: choose a multiple of 64 up to %d", g->chunk,
                       DEVICE_CHUNK_T);
    int rc = g->device ? 0 : device_open(&g->device, o->device, o->library, o->index, e);
    if (rc)
        return rc;
    g->ops = g->device->ops;
    return 0;
}

static int open_rope(struct device_shared *g, const struct rope_table *rope, struct err *e)
{
    void *steps;
    int rc = shared_take_copy(g, rope->steps, rope->pairs * sizeof *rope->steps, &steps, e);
    g->rope = (struct device_rope){
        .steps = steps, .half = rope->pairs, .kind = rope->kind, .attn_factor = rope->attn_factor};
    return rc;
}

/* The layout's tables as 32-bit numbers, on both sides. */
static int open_heads(struct device_engine *g, struct err *e)
{
    const struct cache_layout *y = g->layout;
    struct device_shared *shared = g->shared;
    g->heads = calloc(3 * y->L + y->L * y->HK, sizeof *g->heads);
    if (!g->heads)
        return err_memory(e, "the head split");
    uint32_t *of = g->heads + 3 * y->L;
    for (size_t l = 0; l < y->L; l++) {
        g->heads[l] = (uint32_t)y->hr[l];
        g->heads[y->L + l] = (uint32_t)y->hr_before[l];
        g->heads[2 * y->L + l] = (uint32_t)y->hs_before[l];
        for (size_t h = 0; h < y->HK; h++) {
            size_t at = y->slot[l * y->HK + h] + (y->retrieval[l * y->HK + h] ? 0 : y->hr[l]);
            of[l * y->HK + at] = (uint32_t)h;
        }
    }
    size_t bytes = y->L * y->HK * sizeof *of;
    void *device = NULL;
    int rc = shared->ops->alloc(shared->device, bytes, &device, e);
    g->heads_device = device;
    if (rc)
        return rc;
    shared->ops->upload(shared->device, DEVICE_COMPUTE, device, of, bytes);
    return shared->ops->sync(shared->device, DEVICE_COMPUTE, e);
}

/* What the card's kernels were not written for; the host device takes everything. */
static int check_layout(const struct device_shared *g, const struct cache_layout *y, struct err *e)
{
    if (strcmp(g->ops->name, "cuda"))
        return 0;
    if (y->D != 64 && y->D != 128)
        return err_set(
            e, ERR_UNSUPPORTED,
            "heads of this model are %zu wide, and the card's kernels are for 64 and 128: take --device "
            "cpu",
            y->D);
    if (y->format != KV_RAW && y->format != KV_8 && y->format != KV_K8V4 && y->format != KV_4)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s pages are not handled on the card: take kv4, k8v4, kv8 or raw, or --device cpu",
                       kv_format_name(y->format) ? kv_format_name(y->format) : "such");
    return 0;
}

static int engine_new(struct device_engine **out, struct device_shared *shared,
                      const struct cache_layout *layout, struct err *e)
{
    const struct device_shape *p = &shared->shape;
    if (layout->L != p->L || layout->HK != p->HK || layout->D != p->D)
        return err_set(e, ERR_USAGE, "a cache of %zu x %zu heads does not fit a model of %zu x %zu",
                       layout->L, layout->HK, p->L, p->HK);
    int rc = check_layout(shared, layout, e);
    if (rc)
        return rc;
    struct device_engine *g = calloc(1, sizeof *g);
    if (!g)
        return err_memory(e, "the device engine");
    g->shared = shared;
    g->layout = layout;
    *out = g;
    return open_heads(g, e);
}

static struct device_shape shape_of(const struct model *m)
{
    const struct model_params *p = model_params(m);
    return (struct device_shape){.name = p->name,
                                 .L = p->L,
                                 .C = p->C,
                                 .H = p->H,
                                 .HK = p->HK,
                                 .D = p->D,
                                 .F = p->F,
                                 .V = p->V,
                                 .norm_eps = p->norm_eps,
                                 .qkv_bias = p->has_qkv_bias};
}

/* What both ways of opening end with. */
static int finish(struct device_engine **out, struct device_shared *shared, const struct cache_layout *layout,
                  int rc, struct err *e)
{
    struct device_engine *g = NULL;
    if (!rc)
        rc = work_init(shared, e);
    if (!rc)
        rc = engine_new(&g, shared, layout, e);
    if (rc && g) {
        device_engine_close(g);
        return rc;
    }
    if (rc) {
        shared_free(shared);
        return rc;
    }
    *out = g;
    return 0;
}

/* Refuses what will not fit before anything is loaded. The host device has no card to run out of. */
static int check_plan(struct device_shared *g, const struct device_options *o,
                      const struct cache_layout *layout, uint64_t weights, size_t lora_columns, struct err *e)
{
    struct device_plan_input in = {.shape = g->shape,
                                   .layout = layout,
                                   .weights = weights,
                                   .chunk = g->chunk,
                                   .lora_columns = lora_columns,
                                   .context = o->context,
                                   .kv_bytes = g->kv_bytes};
    if (strcmp(g->ops->name, "cuda"))
        return 0;
    int rc = check_layout(g, layout, e);
    if (!rc)
        rc = device_plan_ask(g->device, &in, &g->plan, e);
    g->planned = !rc;
    return rc ? rc : device_plan_check(&in, &g->plan, e);
}

int device_engine_open(struct device_engine **out, const struct device_options *o, const struct model *m,
                       const struct lora *lora, const struct rope_table *rope,
                       const struct cache_layout *layout, struct err *e)
{
    *out = NULL;
    struct device_shared *shared;
    int rc = shared_open(&shared, o, e);
    if (!rc) {
        shared->shape = shape_of(m);
        rc = open_rope(shared, rope, e);
    }
    if (!rc) {
        size_t columns;
        uint64_t bytes = plan_weights_of_lora(lora, &shared->shape, &columns) +
                         plan_weights_of_file(model_gguf(m), &shared->shape, o->weights);
        rc = check_plan(shared, o, layout, bytes, columns, e);
    }
    if (!rc)
        rc = weights_upload(shared, o->weights, m, lora, e);
    return finish(out, shared, layout, rc, e);
}

int device_engine_open_shape(struct device_engine **out, const struct device_options *o,
                             const struct device_shape *shape, const struct cache_layout *layout,
                             uint64_t seed, struct err *e)
{
    *out = NULL;
    struct device_shared *shared;
    struct rope_table rope;
    struct model_rope how = {.kind = shape->rope, .dims = shape->D, .base = shape->rope_base, .scale = 1};
    int rc = shared_open(&shared, o, e);
    if (!rc)
        rc = rope_table_make(&how, 0, &rope, e);
    if (!rc) {
        shared->shape = *shape;
        rc = open_rope(shared, &rope, e);
    }
    if (!rc)
        rc = check_plan(shared, o, layout, plan_weights_of_shape(shape, o->weights), 0, e);
    if (!rc)
        rc = weights_random(shared, o->weights, seed, e);
    return finish(out, shared, layout, rc, e);
}

int device_engine_variant(struct device_engine **out, const struct device_engine *base,
                          const struct cache_layout *layout, struct err *e)
{
    *out = NULL;
    struct device_engine *g = NULL;
    int rc = engine_new(&g, base->shared, layout, e);
    if (g)
        g->base = base;
    if (rc) {
        device_engine_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

void device_engine_close(struct device_engine *g)
{
    if (!g)
        return;
    g->shared->ops->release(g->shared->device, g->heads_device);
    free(g->heads);
    if (!g->base)
        shared_free(g->shared);
    free(g);
}

struct device *device_engine_device(const struct device_engine *g)
{
    return g->shared->device;
}
const char *device_engine_name(const struct device_engine *g)
{
    return g->shared->ops->name;
}
const struct cache_layout *device_engine_layout(const struct device_engine *g)
{
    return g->layout;
}
size_t device_engine_chunk(const struct device_engine *g)
{
    return g->shared->chunk;
}
uint64_t device_engine_weight_bytes(const struct device_engine *g)
{
    return g->shared->weight_bytes;
}
uint64_t device_engine_step_bytes(const struct device_engine *g)
{
    return g->shared->step_bytes;
}
const struct device_plan *device_engine_plan(const struct device_engine *g)
{
    return g->shared->planned ? &g->shared->plan : NULL;
}
uint64_t device_engine_work_bytes(const struct device_engine *g)
{
    return g->shared->work.bytes + g->shared->work.scratch_bytes;
}

/* Sizes as the makers published them. */
static const struct device_shape shapes[] = {
    {.name = "llama-3-8b",
     .L = 32,
     .C = 4096,
     .H = 32,
     .HK = 8,
     .D = 128,
     .F = 14336,
     .V = 128256,
     .norm_eps = 1e-5f,
     .rope_base = 500000},
    {.name = "llama-2-7b",
     .L = 32,
     .C = 4096,
     .H = 32,
     .HK = 32,
     .D = 128,
     .F = 11008,
     .V = 32000,
     .norm_eps = 1e-5f,
     .rope_base = 10000},
    {.name = "mistral-7b",
     .L = 32,
     .C = 4096,
     .H = 32,
     .HK = 8,
     .D = 128,
     .F = 14336,
     .V = 32000,
     .norm_eps = 1e-5f,
     .rope_base = 1000000},
    {.name = "qwen2.5-7b",
     .L = 28,
     .C = 3584,
     .H = 28,
     .HK = 4,
     .D = 128,
     .F = 18944,
     .V = 152064,
     .norm_eps = 1e-6f,
     .rope_base = 1000000,
     .rope = ROPE_HALVES,
     .qkv_bias = 1},
    {.name = "smollm2-135m",
     .L = 30,
     .C = 576,
     .H = 9,
     .HK = 3,
     .D = 64,
     .F = 1536,
     .V = 49152,
     .norm_eps = 1e-5f,
     .rope_base = 100000},
};

const struct device_shape *device_shapes(size_t *n)
{
    *n = sizeof shapes / sizeof shapes[0];
    return shapes;
}

const struct device_shape *device_shape_find(const char *name)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        if (!strcmp(shapes[i].name, name))
            return &shapes[i];
    return NULL;
}
