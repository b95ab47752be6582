/* SPDX-License-Identifier: Apache-2.0 */
/* model.c - opens a GGUF model: finds every tensor, checks its shape, packs it.
 *
 * Invariants: a matrix [rows][cols] is a tensor of dims {cols, rows} exactly; a vector is {n}. Every tensor
 * of the file is used: one that is not known here would be left out of the sum silently, so it is refused.
 * The embedding stays in the mapping; everything else is copied.
 */
#include "engine/model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/bytes.h"
#include "engine/model/model_internal.h"

/* One matrix on its way from the file into the kernels' packing; the pack owns `packed`. */
struct matrix {
    const struct gguf_tensor *tensor;
    size_t rows, cols;
    struct weight *packed;
};

enum { MATRICES_PER_LAYER = MODEL_PARTS }; /* in that order */
enum { VECTORS_PER_LAYER = 5 };            /* attn_norm ffn_norm bq bk bv */

struct model {
    struct gguf *gguf;
    const struct kernels *kernels;
    char arch[16];
    char name[128];
    uint8_t hash[16];
    struct model_params params;
    struct model_weights weights;
    struct model_layer *layers; /* [L] */
    struct matrix *matrices;    /* [L*7 + 1], the last is the output */
    float **vectors;            /* [L*5 + 2], owned */
    size_t n_vectors;
    size_t used; /* tensors of the file that have a place */
};

/* ---- finding and checking ---- */

static const struct gguf_tensor *find(struct model *m, const char *name, int ndims, size_t d0, size_t d1,
                                      struct err *e)
{
    const struct gguf_tensor *t = gguf_tensor(m->gguf, name);
    if (!t) {
        err_set(e, ERR_FORMAT, "%s: tensor %s is missing", model_path(m), name);
        return NULL;
    }
    if (t->ndims != ndims || t->dims[0] != d0 || (ndims == 2 && t->dims[1] != d1)) {
        err_set(e, ERR_FORMAT, "%s: tensor %s is %d-dimensional, %llu x %llu; expected %zu x %zu",
                model_path(m), name, t->ndims, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1],
                d0, ndims == 2 ? d1 : 1);
        return NULL;
    }
    m->used++;
    return t;
}

static int find_matrix(struct model *m, const char *name, size_t rows, size_t cols, struct matrix *out,
                       struct err *e)
{
    const struct gguf_tensor *t = find(m, name, 2, cols, rows, e);
    if (!t)
        return ERR_FORMAT;
    size_t row = tensor_row_bytes((enum tensor_type)t->type, cols), all;
    if (!row) {
        char room[24];
        return err_set(e, ERR_UNSUPPORTED, "%s: tensor %s has type %s, which is not handled", model_path(m),
                       name, gguf_tensor_type_name(t->type, room));
    }
    if (size_mul(row, rows, &all) || all != t->bytes)
        return err_set(e, ERR_FORMAT, "%s: tensor %s has %zu bytes", model_path(m), name, t->bytes);
    *out = (struct matrix){.tensor = t, .rows = rows, .cols = cols};
    return 0;
}

/* A vector of n as f32 in memory that the model owns. */
static int load_vector(struct model *m, const char *name, size_t n, const float **out, struct err *e)
{
    const struct gguf_tensor *t = find(m, name, 1, n, 1, e);
    if (!t)
        return ERR_FORMAT;
    float *v = calloc(n, sizeof *v);
    if (!v)
        return err_memory(e, name);
    m->vectors[m->n_vectors++] = v;
    struct reader r = reader_over(t->data, t->bytes);
    int finite = 1;
    for (size_t i = 0; i < n; i++) {
        if (t->type == TENSOR_F32) {
            v[i] = read_f32(&r);
        } else if (t->type == TENSOR_BF16) {
            uint32_t bits = (uint32_t)read_u16(&r) << 16;
            memcpy(&v[i], &bits, sizeof bits);
        } else if (t->type == TENSOR_F16) {
            uint16_t half = read_u16(&r);
            m->kernels->half_decode(&(struct half_decode_args){.x = &half, .y = &v[i], .n = 1});
        } else {
            char room[24];
            return err_set(e, ERR_UNSUPPORTED, "%s: vector %s has type %s; F32, F16 and BF16 are handled",
                           model_path(m), name, gguf_tensor_type_name(t->type, room));
        }
        finite &= isfinite(v[i]) != 0;
    }
    if (r.bad || !finite)
        return err_set(e, ERR_FORMAT, "%s: tensor %s has values that are no numbers", model_path(m), name);
    *out = v;
    return 0;
}

static const char *layer_name(char room[64], size_t layer, const char *suffix)
{
    snprintf(room, 64, "blk.%zu.%s", layer, suffix);
    return room;
}

static int find_layer(struct model *m, size_t l, struct err *e)
{
    const struct model_params *p = &m->params;
    struct model_layer *y = &m->layers[l];
    size_t q = p->H * p->D, kv = p->HK * p->D;
    const struct {
        const char *suffix;
        size_t rows, cols;
    } matrices[MATRICES_PER_LAYER] = {
        {"attn_q.weight", q, p->C},      {"attn_k.weight", kv, p->C},     {"attn_v.weight", kv, p->C},
        {"attn_output.weight", p->C, q}, {"ffn_gate.weight", p->F, p->C}, {"ffn_up.weight", p->F, p->C},
        {"ffn_down.weight", p->C, p->F},
    };
    char room[64];
    int rc = 0;
    for (size_t i = 0; !rc && i < MATRICES_PER_LAYER; i++)
        rc = find_matrix(m, layer_name(room, l, matrices[i].suffix), matrices[i].rows, matrices[i].cols,
                         &m->matrices[l * MATRICES_PER_LAYER + i], e);
    const struct {
        const char *suffix;
        size_t n;
        const float **out;
        int wanted;
    } vectors[VECTORS_PER_LAYER] = {
        {"attn_norm.weight", p->C, &y->attn_norm, 1}, {"ffn_norm.weight", p->C, &y->ffn_norm, 1},
        {"attn_q.bias", q, &y->bq, p->has_qkv_bias},  {"attn_k.bias", kv, &y->bk, p->has_qkv_bias},
        {"attn_v.bias", kv, &y->bv, p->has_qkv_bias},
    };
    for (size_t i = 0; !rc && i < VECTORS_PER_LAYER; i++)
        if (vectors[i].wanted)
            rc = load_vector(m, layer_name(room, l, vectors[i].suffix), vectors[i].n, vectors[i].out, e);
    return rc;
}

/* Divisors of the frequencies, which Llama 3.1 and later carry as a tensor. */
static int find_rope_factors(struct model *m, struct err *e)
{
    if (!gguf_tensor(m->gguf, "rope_freqs.weight"))
        return 0;
    size_t pairs = m->params.rope.dims / 2;
    int rc = load_vector(m, "rope_freqs.weight", pairs, &m->params.rope.factors, e);
    for (size_t i = 0; !rc && i < pairs; i++)
        if (!(m->params.rope.factors[i] > 0.2f))
            rc = err_set(e, ERR_FORMAT, "%s: rope_freqs.weight has a factor of %g", model_path(m),
                         (double)m->params.rope.factors[i]);
    return rc;
}

static int find_tensors(struct model *m, struct err *e)
{
    struct model_params *p = &m->params;
    struct matrix embed = {0};
    int rc = find_matrix(m, "token_embd.weight", p->V, p->C, &embed, e);
    if (rc)
        return rc;
    m->weights.embed = embed.tensor->data;
    m->weights.embed_type = (enum tensor_type)embed.tensor->type;
    struct matrix *output = &m->matrices[p->L * MATRICES_PER_LAYER];
    p->tied_output = !gguf_tensor(m->gguf, "output.weight");
    if (p->tied_output)
        *output = embed;
    else
        rc = find_matrix(m, "output.weight", p->V, p->C, output, e);
    if (!rc)
        rc = load_vector(m, "output_norm.weight", p->C, &m->weights.output_norm, e);
    if (!rc)
        rc = find_rope_factors(m, e);
    for (size_t l = 0; !rc && l < p->L; l++)
        rc = find_layer(m, l, e);
    if (!rc && m->used != gguf_tensor_count(m->gguf))
        rc = err_set(e, ERR_UNSUPPORTED, "%s: has %zu tensors, of which a plain %s model uses %zu",
                     model_path(m), gguf_tensor_count(m->gguf), p->arch, m->used);
    return rc;
}

/* ---- packing ---- */

struct pack_job {
    const struct kernels *kernels;
    struct matrix *matrices;
    struct err errors[MATRICES_PER_LAYER];
};

static void pack_one(void *arg, int index, int thread)
{
    (void)thread;
    struct pack_job *job = arg;
    struct matrix *x = &job->matrices[index];
    /* The status is the code in errors[index]. */
    if (weight_pack(job->kernels, (enum tensor_type)x->tensor->type, x->rows, x->cols, x->tensor->data,
                    &x->packed, &job->errors[index]) == 0)
        job->errors[index].code = ERR_NONE;
}

static int pack_all(struct model *m, struct pool *pool, const struct progress *progress, struct err *e)
{
    size_t n = m->params.L * MATRICES_PER_LAYER + 1;
    for (size_t at = 0; at < n; at += MATRICES_PER_LAYER) {
        int now = n - at < MATRICES_PER_LAYER ? (int)(n - at) : MATRICES_PER_LAYER;
        struct pack_job job = {.kernels = m->kernels, .matrices = m->matrices + at};
        pool_run(pool, now, pack_one, &job);
        for (int i = 0; i < now; i++)
            if (job.errors[i].code) {
                err_set(e, job.errors[i].code, "%s: %s", model_path(m), job.errors[i].text);
                return job.errors[i].code;
            }
        progress_report(progress, "loading the model", at + (size_t)now, n);
    }
    for (size_t l = 0; l < m->params.L; l++) {
        const struct matrix *x = m->matrices + l * MATRICES_PER_LAYER;
        struct model_layer *y = &m->layers[l];
        y->q = x[0].packed;
        y->k = x[1].packed;
        y->v = x[2].packed;
        y->o = x[3].packed;
        y->gate = x[4].packed;
        y->up = x[5].packed;
        y->down = x[6].packed;
    }
    m->weights.output = m->matrices[n - 1].packed;
    return 0;
}

/* ---- open and close ---- */

static int load(struct model *m, const char *path, int pack, struct pool *pool,
                const struct progress *progress, struct err *e)
{
    int rc = gguf_open(path, &m->gguf, e);
    if (rc || (rc = model_read_params(m->gguf, m->arch, m->name, &m->params, e)))
        return rc;
    size_t L = m->params.L;
    m->layers = calloc(L, sizeof *m->layers);
    m->matrices = calloc(L * MATRICES_PER_LAYER + 1, sizeof *m->matrices);
    m->vectors = calloc(L * VECTORS_PER_LAYER + 2, sizeof *m->vectors);
    if (!m->layers || !m->matrices || !m->vectors)
        return err_memory(e, "the model's tables");
    if ((rc = find_tensors(m, e)) || (pack && (rc = pack_all(m, pool, progress, e))))
        return rc;
    m->weights.layers = m->layers;
    size_t size;
    const uint8_t *bytes = gguf_bytes(m->gguf, &size);
    model_hash_file(path, bytes, size, m->hash);
    return 0;
}

static int open_model(const char *path, const struct kernels *kernels, int pack, struct pool *pool,
                      const struct progress *progress, struct model **out, struct err *e)
{
    *out = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        return err_memory(e, "the model");
    m->kernels = kernels;
    int rc = load(m, path, pack, pool, progress, e);
    if (rc) {
        model_close(m);
        return rc;
    }
    *out = m;
    return 0;
}

int model_open(const char *path, const struct kernels *kernels, struct pool *pool,
               const struct progress *progress, struct model **out, struct err *e)
{
    return open_model(path, kernels, 1, pool, progress, out, e);
}

int model_map(const char *path, const struct kernels *kernels, struct model **out, struct err *e)
{
    return open_model(path, kernels, 0, NULL, NULL, out, e);
}

static struct model_matrix matrix_of(const struct matrix *x)
{
    return (struct model_matrix){
        .type = (enum tensor_type)x->tensor->type, .rows = x->rows, .cols = x->cols, .raw = x->tensor->data};
}

struct model_matrix model_matrix(const struct model *m, size_t layer, enum model_part part)
{
    return matrix_of(&m->matrices[layer * MATRICES_PER_LAYER + (size_t)part]);
}

struct model_matrix model_output(const struct model *m)
{
    return matrix_of(&m->matrices[m->params.L * MATRICES_PER_LAYER]);
}

void model_close(struct model *m)
{
    if (!m)
        return;
    for (size_t i = 0; m->matrices && i < m->params.L * MATRICES_PER_LAYER + 1; i++)
        weight_free(m->matrices[i].packed);
    for (size_t i = 0; i < m->n_vectors; i++)
        free(m->vectors[i]);
    free(m->vectors);
    free(m->matrices);
    free(m->layers);
    gguf_close(m->gguf);
    free(m);
}

const struct model_params *model_params(const struct model *m)
{
    return &m->params;
}

const struct model_weights *model_weights(const struct model *m)
{
    return &m->weights;
}

const struct gguf *model_gguf(const struct model *m)
{
    return m->gguf;
}

const char *model_path(const struct model *m)
{
    return gguf_path(m->gguf);
}

uint64_t model_bytes(const struct model *m)
{
    size_t size;
    gguf_bytes(m->gguf, &size);
    return size;
}

void model_hash(const struct model *m, uint8_t out[16])
{
    memcpy(out, m->hash, 16);
}
