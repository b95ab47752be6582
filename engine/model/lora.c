/* SPDX-License-Identifier: Apache-2.0 */
/* lora.c - loads an adapter folder; every tensor must fit a matrix of the model, and each pair be whole. */
#include "engine/model/lora.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "engine/base/bytes.h"
#include "engine/base/file.h"
#include "engine/model/safetensors.h"

enum { MAX_RANK = 1024 };

struct lora_slot {
    struct weight *a, *b;
    const void *raw_a, *raw_b; /* in the mapping */
    struct lora_pair pair;     /* what is handed out */
};

struct lora {
    size_t L;
    struct safetensors *tensors;
    struct lora_slot *slots; /* [L][LORA_TARGETS] */
    size_t max_rank;
    double rope_base;
    size_t context;
    uint8_t hash[16];
};

static const char *const target_names[LORA_TARGETS] = {"attn_q", "attn_k", "attn_v", "attn_output"};

/* Rows N and columns K of the model's matrix that a target adapts. */
static void target_shape(const struct model_params *p, enum lora_target target, size_t *N, size_t *K)
{
    size_t q = p->H * p->D, kv = p->HK * p->D;
    *N = target == LORA_Q ? q : target == LORA_O ? p->C : kv;
    *K = target == LORA_O ? q : p->C;
}

/* "blk.7.attn_q.weight.lora_a" -> 7, LORA_Q, a. */
static int parse_name(const char *name, size_t L, size_t *layer, enum lora_target *target, int *is_b)
{
    char want[80];
    if (strncmp(name, "blk.", 4) || name[4] < '0' || name[4] > '9')
        return 0;
    unsigned long l = strtoul(name + 4, NULL, 10);
    if (l >= L)
        return 0;
    for (int t = 0; t < LORA_TARGETS; t++)
        for (int b = 0; b < 2; b++) {
            snprintf(want, sizeof want, "blk.%lu.%s.weight.lora_%c", l, target_names[t], b ? 'b' : 'a');
            if (strcmp(name, want) == 0) {
                *layer = l;
                *target = (enum lora_target)t;
                *is_b = b;
                return 1;
            }
        }
    return 0;
}

/* The kernels' type of a tensor whose values are all finite; -1 otherwise. */
static int checked_type(const struct safetensors_tensor *t)
{
    struct reader r = reader_over(t->data, t->bytes);
    if (t->dtype != ST_F32 && t->dtype != ST_F16 && t->dtype != ST_BF16)
        return -1;
    /* All exponent bits set means infinity or NaN, in each of the three formats. */
    uint32_t exponent = t->dtype == ST_F32 ? 0x7f800000u : t->dtype == ST_BF16 ? 0x7f80u : 0x7c00u;
    while (r.left) {
        uint32_t bits = t->dtype == ST_F32 ? read_u32(&r) : read_u16(&r);
        if ((bits & exponent) == exponent)
            return -1;
    }
    return t->dtype == ST_F32 ? TENSOR_F32 : t->dtype == ST_F16 ? TENSOR_F16 : TENSOR_BF16;
}

static int load_tensor(struct lora *l, const char *folder, const struct model_params *p,
                       const struct kernels *kernels, const struct safetensors_tensor *t, struct err *e)
{
    size_t layer = 0, N, K;
    enum lora_target target = LORA_Q;
    int is_b = 0;
    if (!parse_name(t->name, p->L, &layer, &target, &is_b))
        return err_set(e, ERR_UNSUPPORTED, "%s: tensor %s adapts nothing in model %s", folder, t->name,
                       p->name);
    target_shape(p, target, &N, &K);
    size_t fixed = is_b ? N : K, rank = t->n_dims == 2 ? t->shape[is_b ? 1 : 0] : 0;
    if (t->n_dims != 2 || t->shape[is_b ? 0 : 1] != fixed || rank < 1 || rank > MAX_RANK)
        return err_set(e, ERR_FORMAT, "%s: tensor %s does not fit a matrix [%zu][%zu] of model %s", folder,
                       t->name, N, K, p->name);
    int type = checked_type(t);
    if (type < 0)
        return err_set(e, ERR_FORMAT, "%s: tensor %s must hold finite F32, F16 or BF16 numbers", folder,
                       t->name);
    struct lora_slot *slot = &l->slots[layer * LORA_TARGETS + target];
    struct weight **where = is_b ? &slot->b : &slot->a;
    *(is_b ? &slot->raw_b : &slot->raw_a) = t->data;
    int rc = weight_pack(kernels, (enum tensor_type)type, t->shape[0], t->shape[1], t->data, where, e);
    return rc ? err_prefix(e, "%s: tensor %s", folder, t->name) : 0;
}

static int pair_up(struct lora *l, const char *folder, struct err *e)
{
    for (size_t i = 0; i < l->L * LORA_TARGETS; i++) {
        struct lora_slot *s = &l->slots[i];
        if (!s->a && !s->b)
            continue;
        if (!s->a || !s->b || weight_rows(s->a) != weight_cols(s->b))
            return err_set(e, ERR_FORMAT, "%s: layer %zu %s: lora_a and lora_b are not a pair of one rank",
                           folder, i / LORA_TARGETS, target_names[i % LORA_TARGETS]);
        s->pair = (struct lora_pair){.a = s->a, .b = s->b, .rank = weight_rows(s->a)};
        if (s->pair.rank > l->max_rank)
            l->max_rank = s->pair.rank;
    }
    if (!l->max_rank)
        return err_set(e, ERR_FORMAT, "%s: the adapter holds no tensors", folder);
    return 0;
}

static int read_config(struct lora *l, const char *path, struct err *e)
{
    char *text = NULL;
    size_t size = 0;
    int rc = file_read(path, (size_t)1 << 20, &text, &size, e);
    if (rc == ERR_NOT_FOUND)
        return 0; /* an adapter that changes neither RoPE nor context needs none */
    if (rc)
        return rc;
    json_error_t why;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    free(text);
    json_t *base = json_object_get(root, "rope_theta"), *context = json_object_get(root, "context_length");
    if (!json_is_object(root))
        rc = err_set(e, ERR_FORMAT, "%s: is not a JSON object", path);
    else if (base && !json_is_null(base) && !(json_number_value(base) > 1 && json_number_value(base) < 1e15))
        rc = err_set(e, ERR_FORMAT, "%s: rope_theta must be a number above 1", path);
    else if (context && !json_is_null(context) &&
             !(json_integer_value(context) >= 1 && json_integer_value(context) <= 1 << 30))
        rc = err_set(e, ERR_FORMAT, "%s: context_length must be a count of tokens", path);
    if (!rc) {
        l->rope_base = json_number_value(base);
        l->context = (size_t)json_integer_value(context);
    }
    json_decref(root);
    return rc;
}

static int hash_all(struct lora *l, const struct safetensors *s, struct err *e)
{
    size_t size;
    const uint8_t *bytes = safetensors_bytes(s, &size);
    struct buf tail = {0};
    XXH3_state_t *state = XXH3_createState();
    put_f64(&tail, l->rope_base);
    int rc = 0;
    if (!state || tail.failed || XXH3_128bits_reset(state) || XXH3_128bits_update(state, bytes, size) ||
        XXH3_128bits_update(state, tail.data, tail.len)) {
        rc = err_memory(e, "the adapter's hash");
    } else {
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
        memcpy(l->hash, canonical.digest, 16);
    }
    XXH3_freeState(state);
    buf_free(&tail);
    return rc;
}

static int load(struct lora *l, const char *folder, const struct model *model, const struct kernels *kernels,
                struct err *e)
{
    const struct model_params *p = model_params(model);
    char *tensors = path_join(folder, "adapter.safetensors"), *config = path_join(folder, "config.json");
    l->L = p->L;
    l->slots = calloc(p->L * LORA_TARGETS, sizeof *l->slots);
    int rc = tensors && config && l->slots ? 0 : err_memory(e, "the adapter");
    if (!rc)
        rc = read_config(l, config, e);
    if (!rc)
        rc = safetensors_open(tensors, &l->tensors, e);
    for (size_t i = 0; !rc && i < safetensors_count(l->tensors); i++)
        rc = load_tensor(l, folder, p, kernels, safetensors_at(l->tensors, i), e);
    if (!rc)
        rc = pair_up(l, folder, e);
    if (!rc)
        rc = hash_all(l, l->tensors, e);
    free(tensors);
    free(config);
    return rc;
}

int lora_open(const char *folder, const struct model *model, const struct kernels *kernels, struct lora **out,
              struct err *e)
{
    *out = NULL;
    struct lora *l = calloc(1, sizeof *l);
    if (!l)
        return err_memory(e, "the adapter");
    int rc = load(l, folder, model, kernels, e);
    if (rc) {
        lora_close(l);
        return rc;
    }
    *out = l;
    return 0;
}

void lora_close(struct lora *l)
{
    if (!l)
        return;
    for (size_t i = 0; l->slots && i < l->L * LORA_TARGETS; i++) {
        weight_free(l->slots[i].a);
        weight_free(l->slots[i].b);
    }
    free(l->slots);
    safetensors_close(l->tensors);
    free(l);
}

struct lora_raw lora_raw(const struct lora *l, size_t layer, enum lora_target target)
{
    const struct lora_slot *s = &l->slots[layer * LORA_TARGETS + (size_t)target];
    if (!s->pair.a)
        return (struct lora_raw){.a = NULL};
    return (struct lora_raw){.a_type = weight_type(s->a),
                             .b_type = weight_type(s->b),
                             .a = s->raw_a,
                             .b = s->raw_b,
                             .N = weight_rows(s->b),
                             .K = weight_cols(s->a),
                             .rank = s->pair.rank};
}

const struct lora_pair *lora_pair(const struct lora *l, size_t layer, enum lora_target target)
{
    return &l->slots[layer * LORA_TARGETS + target].pair;
}

size_t lora_max_rank(const struct lora *l)
{
    return l->max_rank;
}

double lora_rope_base(const struct lora *l)
{
    return l->rope_base;
}

size_t lora_context(const struct lora *l)
{
    return l->context;
}

void lora_hash(const struct lora *l, uint8_t out[16])
{
    memcpy(out, l->hash, 16);
}
