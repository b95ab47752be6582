/* SPDX-License-Identifier: Apache-2.0 */
/* model_params.c - hyper-parameters out of GGUF metadata, each held to a range before anything uses it.
 *
 * The upper limits are far above every known model of these families and low enough that no product of two of
 * them overflows size_t.
 */
#include "engine/model/model_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/model/rope_table.h"

enum {
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024,
    MAX_WIDTH = 1 << 17,
    MAX_FFN = 1 << 19,
    MAX_VOCAB = 1 << 22,
    MAX_CONTEXT = 1 << 30,
};

/* "llama.block_count" for the file's own architecture. */
struct key {
    char text[96];
};

static struct key key_of(const struct model_params *p, const char *suffix)
{
    struct key k;
    snprintf(k.text, sizeof k.text, "%s.%s", p->arch, suffix);
    return k;
}

static int need(const struct gguf *g, const struct model_params *p, const char *suffix, uint64_t hi,
                size_t *out, struct err *e)
{
    uint64_t v = 0;
    int rc = gguf_u64_need(g, key_of(p, suffix).text, 1, hi, &v, e);
    *out = (size_t)v;
    return rc;
}

static int maybe(const struct gguf *g, const struct model_params *p, const char *suffix, size_t fallback,
                 uint64_t hi, size_t *out, struct err *e)
{
    uint64_t v = fallback;
    int rc = gguf_u64_in(g, key_of(p, suffix).text, fallback, 1, hi, &v, e);
    *out = (size_t)v;
    return rc;
}

/* A real number in (lo, hi); a missing key keeps *v. */
static int real_in(const struct gguf *g, const struct model_params *p, const char *suffix, double lo,
                   double hi, double *v, struct err *e)
{
    struct key k = key_of(p, suffix);
    if (!gguf_has(g, k.text))
        return 0;
    double got;
    if (!gguf_f64(g, k.text, &got) || !(got > lo && got < hi))
        return err_set(e, ERR_FORMAT, "%s: %s is not a number between %g and %g", gguf_path(g), k.text, lo,
                       hi);
    *v = got;
    return 0;
}

static int read_arch(const struct gguf *g, char arch[16], struct model_params *p, struct err *e)
{
    struct gguf_str s;
    if (!gguf_str(g, "general.architecture", &s))
        return err_set(e, ERR_FORMAT, "%s: general.architecture is missing; is this a language model?",
                       gguf_path(g));
    /* Mistral's files call themselves llama. */
    if (gguf_str_is(s, "llama"))
        p->rope.kind = ROPE_PAIRS;
    else if (gguf_str_is(s, "qwen2"))
        p->rope.kind = ROPE_HALVES;
    else
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s: architecture \"%.*s\" is not handled; llama (also Mistral, SmolLM2) and qwen2 are",
            gguf_path(g), (int)(s.len < 40 ? s.len : 40), s.data);
    snprintf(arch, 16, "%.*s", (int)s.len, s.data);
    p->arch = arch;
    return 0;
}

static void read_name(const struct gguf *g, char name[128], struct model_params *p)
{
    struct gguf_str s;
    if (gguf_str(g, "general.name", &s) && s.len > 0) {
        snprintf(name, 128, "%.*s", (int)(s.len < 127 ? s.len : 127), s.data);
    } else {
        const char *slash = strrchr(gguf_path(g), '/');
        snprintf(name, 128, "%.127s", slash ? slash + 1 : gguf_path(g));
    }
    p->name = name;
}

/* How many heads, how wide. */
static int read_heads(const struct gguf *g, struct model_params *p, struct err *e)
{
    int rc;
    if ((rc = need(g, p, "attention.head_count", MAX_HEADS, &p->H, e)) ||
        (rc = maybe(g, p, "attention.head_count_kv", p->H, MAX_HEADS, &p->HK, e)))
        return rc;
    if (p->H % p->HK)
        return err_set(e, ERR_FORMAT, "%s: %zu query heads cannot share %zu KV heads", gguf_path(g), p->H,
                       p->HK);
    size_t natural = p->C % p->H ? 0 : p->C / p->H, value = 0;
    if (!natural && !gguf_has(g, key_of(p, "attention.key_length").text))
        return err_set(e, ERR_FORMAT, "%s: width %zu does not divide into %zu heads", gguf_path(g), p->C,
                       p->H);
    if ((rc = maybe(g, p, "attention.key_length", natural, MAX_WIDTH, &p->D, e)) ||
        (rc = maybe(g, p, "attention.value_length", natural ? natural : p->D, MAX_WIDTH, &value, e)))
        return rc;
    if (value != p->D)
        return err_set(e, ERR_UNSUPPORTED, "%s: keys of %zu and values of %zu per head are not handled",
                       gguf_path(g), p->D, value);
    if (!kv_page_bytes(16, p->D))
        return err_set(e, ERR_UNSUPPORTED, "%s: heads of width %zu are not handled", gguf_path(g), p->D);
    return 0;
}

static int read_scaling(const struct gguf *g, struct model_params *p, struct err *e)
{
    struct model_rope *r = &p->rope;
    struct gguf_str type;
    r->scale = 1;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->low_freq_factor = 1;
    r->high_freq_factor = 4;
    int typed = gguf_str(g, key_of(p, "rope.scaling.type").text, &type);
    int rc;
    if ((rc = real_in(g, p, "rope.scale_linear", 0, 1e6, &r->scale, e)) || /* the key of old files */
        (rc = real_in(g, p, "rope.scaling.factor", 0, 1e6, &r->scale, e)))
        return rc;
    if (typed && gguf_str_is(type, "none"))
        r->scaling = MODEL_SCALING_NONE;
    else if (!typed || gguf_str_is(type, "linear"))
        r->scaling = r->scale == 1 ? MODEL_SCALING_NONE : MODEL_SCALING_LINEAR;
    else if (gguf_str_is(type, "ntk"))
        r->scaling = MODEL_SCALING_NTK;
    else if (gguf_str_is(type, "yarn"))
        r->scaling = MODEL_SCALING_YARN;
    else if (gguf_str_is(type, "llama3"))
        r->scaling = MODEL_SCALING_LLAMA3;
    else
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: RoPE scaling \"%.*s\" is not handled; none, linear, ntk, yarn and llama3 are",
                       gguf_path(g), (int)(type.len < 40 ? type.len : 40), type.data);
    if (r->scaling == MODEL_SCALING_NONE)
        r->scale = 1;
    size_t original = 0;
    if ((rc = maybe(g, p, "rope.scaling.original_context_length", p->context_train, MAX_CONTEXT, &original,
                    e)) ||
        (rc = real_in(g, p, "rope.scaling.attn_factor", 0, 1e3, &r->attn_factor, e)) ||
        (rc = real_in(g, p, "rope.scaling.yarn_attn_factor", 0, 1e3, &r->attn_factor, e)) ||
        (rc = real_in(g, p, "rope.scaling.yarn_beta_fast", 0, 1e6, &r->beta_fast, e)) ||
        (rc = real_in(g, p, "rope.scaling.yarn_beta_slow", 0, 1e6, &r->beta_slow, e)) ||
        (rc = real_in(g, p, "rope.scaling.low_freq_factor", 0, 1e6, &r->low_freq_factor, e)) ||
        (rc = real_in(g, p, "rope.scaling.high_freq_factor", 0, 1e6, &r->high_freq_factor, e)))
        return rc;
    r->original_context = (double)original;
    return 0;
}

static int read_rope(const struct gguf *g, struct model_params *p, struct err *e)
{
    struct model_rope *r = &p->rope;
    r->base = 10000;
    int rc;
    if ((rc = maybe(g, p, "rope.dimension_count", p->D, MAX_WIDTH, &r->dims, e)) ||
        (rc = real_in(g, p, "rope.freq_base", 1, 1e15, &r->base, e)) || (rc = read_scaling(g, p, e)))
        return rc;
    if (r->dims > p->D || r->dims % 2 || r->dims / 2 > ROPE_MAX_PAIRS)
        return err_set(e, ERR_FORMAT, "%s: %zu rotated dimensions in heads of %zu", gguf_path(g), r->dims,
                       p->D);
    /* Numbers that make no rotation are refused here, not at the first token. */
    struct rope_table table;
    if ((rc = rope_table_make(r, 0, &table, e)))
        err_prefix(e, "%s", gguf_path(g));
    return rc;
}

int model_read_params(const struct gguf *g, char arch[16], char name[128], struct model_params *p,
                      struct err *e)
{
    *p = (struct model_params){0};
    int rc = read_arch(g, arch, p, e);
    if (rc)
        return rc;
    read_name(g, name, p);
    if ((rc = need(g, p, "block_count", MAX_LAYERS, &p->L, e)) ||
        (rc = need(g, p, "embedding_length", MAX_WIDTH, &p->C, e)) ||
        (rc = need(g, p, "feed_forward_length", MAX_FFN, &p->F, e)) ||
        (rc = need(g, p, "context_length", MAX_CONTEXT, &p->context_train, e)) || (rc = read_heads(g, p, e)))
        return rc;
    uint64_t experts = 0;
    if (gguf_u64(g, key_of(p, "expert_count").text, &experts) && experts)
        return err_set(e, ERR_UNSUPPORTED, "%s: mixtures of experts are not handled", gguf_path(g));
    double eps = 0;
    if ((rc = real_in(g, p, "attention.layer_norm_rms_epsilon", 0, 1, &eps, e)))
        return rc;
    p->norm_eps = (float)eps;
    if (!(p->norm_eps > 0))
        return err_set(e, ERR_FORMAT, "%s: attention.layer_norm_rms_epsilon is missing", gguf_path(g));

    const struct gguf_tensor *embed = gguf_tensor(g, "token_embd.weight");
    if (!embed)
        return err_set(e, ERR_FORMAT, "%s: tensor token_embd.weight is missing", gguf_path(g));
    if (embed->dims[1] > MAX_VOCAB)
        return err_set(e, ERR_FORMAT, "%s: a vocabulary of %llu tokens", gguf_path(g),
                       (unsigned long long)embed->dims[1]);
    p->V = (size_t)embed->dims[1];
    struct gguf_array tokens;
    if (gguf_array(g, "tokenizer.ggml.tokens", &tokens) && tokens.n != p->V)
        return err_set(e, ERR_FORMAT, "%s: %zu tokens in the tokenizer, %zu rows of embeddings", gguf_path(g),
                       tokens.n, p->V);
    p->has_qkv_bias = gguf_tensor(g, "blk.0.attn_q.bias") != NULL;
    return read_rope(g, p, e);
}
