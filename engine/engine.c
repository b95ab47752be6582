/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - opens what never changes: kernels, threads, model, tokenizer, adapter, head split, and their
 * identity. */
#include "engine/session_internal.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/bytes.h"
#include "engine/device/device_plan.h"
#include "engine/duo/heads.h"

enum {
    DEFAULT_FORMAT = KV_4,
    MIN_INTERVAL = 4096,       /* tokens between kept checkpoints */
    STREAMING_INTERVAL = 65536 /* when there are no blocks to compare with */
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pages and hashes are little-endian in memory");

/* Everything that decides a KV byte goes in; the kernels do not (their rounding is checked at restore). */
static int make_identity(struct engine *g, struct err *e)
{
    const struct cache_layout *y = &g->layout;
    struct buf all = {0};
    uint8_t part[16];
    buf_puts(&all, "lectern kv 2");
    model_hash(g->model, part);
    buf_add(&all, part, sizeof part);
    tokenizer_hash(g->tokenizer, part);
    buf_add(&all, part, sizeof part);
    memset(part, 0, sizeof part);
    if (g->lora)
        lora_hash(g->lora, part);
    buf_add(&all, part, sizeof part);
    heads_hash(y->retrieval, y->L, y->HK, y->S, y->R, part);
    buf_add(&all, part, sizeof part);
    put_u32(&all, (uint32_t)y->format);
    put_u32(&all, (uint32_t)g->rope.kind);
    put_f32(&all, g->rope.attn_factor);
    for (size_t i = 0; i < g->rope.pairs; i++)
        put_u64(&all, g->rope.steps[i]);
    if (g->weights > DEVICE_W_F16) { /* other numbers than the file's */
        buf_puts(&all, "weights");
        put_u32(&all, (uint32_t)g->weights);
    }
    if (all.failed) {
        buf_free(&all);
        return err_memory(e, "the engine's identity");
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(all.data, all.len));
    memcpy(g->identity, canonical.digest, sizeof g->identity);
    buf_free(&all);
    return 0;
}

/* The pattern's split into the cache layout, and the identity that follows from it. */
static int open_heads(struct engine *g, const struct engine_options *o, int weights, struct err *e)
{
    const struct model_params *p = model_params(g->model);
    struct heads *heads = NULL;
    uint8_t *retrieval = calloc(p->L, p->HK);
    int rc = retrieval ? 0 : err_memory(e, "the head pattern");
    if (!rc)
        rc = o->heads_path ? heads_open(o->heads_path, p->L, p->HK, &heads, e)
                           : heads_all_retrieval(p->L, p->HK, &heads, e);
    double sparsity = o->sparsity >= 0 ? o->sparsity : o->heads_path ? 0.5 : 0.0;
    if (!rc)
        rc = heads_split(heads, sparsity, retrieval, e);
    if (!rc) {
        size_t S = o->sink >= 0 ? (size_t)o->sink : heads->S,
               R = o->recent >= 0 ? (size_t)o->recent : heads->R;
        rc = cache_layout_init(&g->layout, p->L, p->HK, p->D, S, R,
                               o->kv_format ? o->kv_format : DEFAULT_FORMAT, retrieval, e);
        g->weights = weights;
        if (!rc)
            rc = make_identity(g, e);
    }
    heads_close(heads);
    free(retrieval);
    return rc;
}

/* The device that the options name, or none. */
static int open_device(const struct engine_options *o, struct device **out, struct err *e)
{
    *out = NULL;
    if (!o->device || !strcmp(o->device, "cpu"))
        return 0;
    int either = !strcmp(o->device, "auto");
    struct err why = {0};
    int rc = device_open(out, either ? "cuda" : o->device, o->device_library, o->device_index, &why);
    if (either && rc == ERR_UNSUPPORTED)
        return 0; /* no failure, so *e stays as it was */
    if (rc)
        *e = why;
    return rc;
}

/* Weights, buffers and caches go onto the device, which is given away. */
static int use_device(struct engine *g, const struct engine_options *o, struct device *device, struct err *e)
{
    struct device_options options = {.weights = (enum device_weight_format)o->weights,
                                     .context = o->context,
                                     .chunk = o->chunk,
                                     .kv_bytes = o->kv_bytes,
                                     .opened = device};
    return device_engine_open(&g->device, &options, g->model, g->lora, &g->rope, &g->layout, e);
}

int engine_open(struct engine **out, const struct engine_options *o, struct err *e)
{
    *out = NULL;
    struct engine *g = calloc(1, sizeof *g);
    if (!g)
        return err_memory(e, "the engine");
    struct device *device = NULL;
    int rc = open_device(o, &device, e);
    if (!rc && !(g->kernels = kernels_get(o->kernels)))
        rc = err_set(e, ERR_USAGE, "kernels '%s' do not run on this processor; see lectern doctor",
                     o->kernels);
    if (!rc)
        rc = pool_create(&g->pool, o->threads, e);
    if (!rc)
        rc = device ? model_map(o->model_path, g->kernels, &g->model, e)
                    : model_open(o->model_path, g->kernels, g->pool, NULL, &g->model, e);
    if (!rc)
        rc = tokenizer_open(model_gguf(g->model), &g->tokenizer, e);
    if (!rc && tokenizer_vocab(g->tokenizer) > model_params(g->model)->V)
        rc = err_set(e, ERR_FORMAT, "%s has %u tokens but logits for %zu; download it again", o->model_path,
                     tokenizer_vocab(g->tokenizer), model_params(g->model)->V);
    if (!rc && o->adapter_path)
        rc = lora_open(o->adapter_path, g->model, g->kernels, &g->lora, e);
    if (!rc)
        rc = rope_table_make(&model_params(g->model)->rope, g->lora ? lora_rope_base(g->lora) : 0, &g->rope,
                             e);
    if (!rc)
        rc = open_heads(g, o, device ? o->weights : 0, e);
    if (!rc && device) {
        rc = use_device(g, o, device, e);
        device = NULL;
    }
    if (rc) {
        device_close(device);
        engine_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

int engine_variant(struct engine **out, const struct engine *base, int format, struct err *e)
{
    const struct cache_layout *y = &base->layout;
    *out = NULL;
    struct engine *g = malloc(sizeof *g);
    if (!g)
        return err_memory(e, "the engine");
    *g = *base;
    g->base = base;
    g->device = NULL;
    int rc = cache_layout_init(&g->layout, y->L, y->HK, y->D, y->S, y->R, format, y->retrieval, e);
    if (!rc)
        rc = make_identity(g, e);
    if (!rc && base->device)
        rc = device_engine_variant(&g->device, base->device, &g->layout, e);
    if (rc) {
        engine_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

void engine_close(struct engine *g)
{
    if (!g)
        return;
    device_engine_close(g->device);
    cache_layout_fini(&g->layout);
    if (g->base) {
        free(g);
        return;
    }
    lora_close(g->lora);
    tokenizer_close(g->tokenizer);
    model_close(g->model);
    pool_free(g->pool);
    free(g);
}

const struct tokenizer *engine_tokenizer(const struct engine *g)
{
    return g->tokenizer;
}
const struct model_params *engine_params(const struct engine *g)
{
    return model_params(g->model);
}
const struct gguf *engine_gguf(const struct engine *g)
{
    return model_gguf(g->model);
}
const char *engine_model_path(const struct engine *g)
{
    return model_path(g->model);
}

void engine_model_hash(const struct engine *g, uint8_t hash[16])
{
    model_hash(g->model, hash);
}

const char *engine_kernels(const struct engine *g)
{
    return g->device ? device_engine_name(g->device) : g->kernels->name;
}
const char *engine_device(const struct engine *g)
{
    return g->device ? device_engine_name(g->device) : "cpu";
}
void engine_room(const struct engine *g, size_t *on_card, size_t *in_all)
{
    const struct device_plan *plan = g->device ? device_engine_plan(g->device) : NULL;
    *on_card = plan ? plan->fit_card : SIZE_MAX;
    *in_all = plan ? plan->fit_all : SIZE_MAX;
}
int engine_threads(const struct engine *g)
{
    return pool_threads(g->pool);
}
const uint8_t *engine_heads(const struct engine *g)
{
    return g->layout.retrieval;
}
int engine_sink(const struct engine *g)
{
    return (int)g->layout.S;
}
int engine_recent(const struct engine *g)
{
    return (int)g->layout.R;
}
int engine_kv_format(const struct engine *g)
{
    return g->layout.format;
}

size_t engine_context(const struct engine *g)
{
    size_t adapted = g->lora ? lora_context(g->lora) : 0;
    return adapted ? adapted : model_params(g->model)->context_train;
}

void engine_identity(const struct engine *g, uint8_t key[KV_KEY_BYTES])
{
    memcpy(key, g->identity, KV_KEY_BYTES);
}

size_t engine_kv_bytes_per_token(const struct engine *g)
{
    const struct cache_layout *y = &g->layout;
    return (y->HR * (y->record_bytes + y->scan_bytes) + KV_PAGE - 1) / KV_PAGE;
}

size_t engine_kv_bytes_fixed(const struct engine *g)
{
    const struct cache_layout *y = &g->layout;
    return (2 * y->HR + y->HS * (y->sink_pages + y->ring_pages)) * y->raw_bytes;
}

size_t engine_checkpoint_interval(const struct engine *g)
{
    /* At a multiple of KV_BLOCK no block is open, so only tails, sinks and rings are in a checkpoint. */
    const struct cache_layout *y = &g->layout;
    size_t far = (y->S + y->R) / KV_BLOCK * KV_BLOCK + 2 * KV_BLOCK; /* sinks and rings are full */
    if (!y->block_bytes)
        return STREAMING_INTERVAL;
    size_t bytes = CHECKPOINT_HEADER_BYTES + cache_state_bytes(y, far, 1);
    size_t blocks = (10 * bytes + y->block_bytes - 1) / y->block_bytes;
    return blocks * KV_BLOCK > MIN_INTERVAL ? blocks * KV_BLOCK : MIN_INTERVAL;
}
