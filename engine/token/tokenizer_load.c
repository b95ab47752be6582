/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_load.c - makes a tokenizer out of a GGUF vocabulary or a SentencePiece model file. */
#include "engine/token/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "engine/base/file.h"

enum { MAX_VOCAB = 1 << 22, MAX_MODEL_FILE = 256 << 20 };

/* Names that end an answer wherever they occur, as llama.cpp has it. Their tokens are control tokens even if
 * a careless conversion called them something else. */
static const char *const stop_names[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>",   "<|endoftext|>",      "</s>",
    "<|eom_id|>", "<EOT>",      "_<EOT>",  "<|end_of_text|>", "<end_of_utterance>", "<eos>",
};

/* Names that begin a turn or a text: control tokens too, so that no text can forge one. */
static const char *const frame_names[] = {
    "<|im_start|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|begin_of_text|>",
};

static void hash_add(XXH3_state_t *state, const void *bytes, size_t n)
{
    uint8_t size[8];
    for (unsigned i = 0; i < 8; i++)
        size[i] = (uint8_t)((uint64_t)n >> (8 * i));
    XXH3_128bits_update(state, size, sizeof size);
    XXH3_128bits_update(state, bytes, n);
}

static void hash_strings(XXH3_state_t *state, const struct gguf_array *a)
{
    for (size_t i = 0; i < a->n; i++) {
        struct gguf_str s = gguf_array_str(a, i);
        hash_add(state, s.data, s.len);
    }
}

/* `parts` adds to the state whatever decides ids beside the types and the flag. */
static int make_hash(struct tokenizer *t, void (*parts)(XXH3_state_t *state, const void *arg),
                     const void *arg, struct err *e)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        return err_memory(e, "the vocabulary's hash");
    XXH3_128bits_reset(state);
    parts(state, arg);
    hash_add(state, t->types, t->V);
    uint8_t flag = (uint8_t)t->adds_bos;
    hash_add(state, &flag, 1);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    memcpy(t->hash, canonical.digest, sizeof t->hash);
    XXH3_freeState(state);
    return 0;
}

static int add_name(struct tokenizer *t, struct gguf_str name, struct err *e)
{
    uint32_t id;
    int fresh;
    char empty[32];
    if (!name.len) { /* llama.cpp's name for it; text never matches */
        struct buf b = {0};
        buf_printf(&b, "[EMPTY_%u]", (unsigned)t->names.n);
        if (b.failed)
            return err_memory(e, "the vocabulary");
        memccpy(empty, b.data, 0, sizeof empty - 1);
        name = (struct gguf_str){empty, b.len};
        buf_free(&b);
    }
    int rc = strtab_intern(&t->names, name.data, name.len, &id, &fresh, e);
    if (!rc && !fresh)
        rc = err_set(e, ERR_FORMAT, "the vocabulary has the token '%.*s' twice; download the model again",
                     (int)(name.len > 60 ? 60 : name.len), name.data);
    if (!rc && t->names.n > MAX_VOCAB)
        rc = err_set(e, ERR_LIMIT, "the vocabulary has more than %d tokens", MAX_VOCAB);
    return rc;
}

static int make_tables(struct tokenizer *t, struct err *e)
{
    t->V = t->names.n;
    t->types = malloc(t->V ? t->V : 1);
    t->stops = calloc(t->V ? t->V : 1, 1);
    if (!t->types || !t->stops)
        return err_memory(e, "the vocabulary");
    memset(t->types, SPM_NORMAL, t->V);
    return t->V ? 0 : err_set(e, ERR_FORMAT, "the vocabulary is empty; download the model again");
}

static void mark_stop(struct tokenizer *t, uint32_t id, int control)
{
    if (id >= t->V)
        return;
    t->stops[id] = 1;
    if (control)
        t->types[id] = SPM_CONTROL;
}

static void mark_stops(struct tokenizer *t)
{
    for (size_t i = 0; i < sizeof stop_names / sizeof *stop_names; i++)
        mark_stop(t, tokenizer_find(t, stop_names[i]), 1);
    for (size_t i = 0; i < sizeof frame_names / sizeof *frame_names; i++) {
        uint32_t id = tokenizer_find(t, frame_names[i]);
        if (id < t->V)
            t->types[id] = SPM_CONTROL;
    }
    mark_stop(t, t->eos, 0);
}

static uint32_t read_id(const struct gguf *g, const char *key, uint32_t V)
{
    uint64_t id;
    return gguf_u64(g, key, &id) && id < V ? (uint32_t)id : TOKEN_NONE;
}

static int read_types(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_array types;
    if (gguf_array(g, "tokenizer.ggml.token_type", &types)) {
        if (types.n < t->V || types.type == GGUF_STRING)
            return err_set(e, ERR_FORMAT,
                           "%s: the vocabulary has not a type for every token; download it again",
                           gguf_path(g));
        for (uint32_t i = 0; i < t->V; i++) {
            int64_t type = gguf_array_i64(&types, i);
            t->types[i] = type >= SPM_NORMAL && type <= SPM_BYTE ? (uint8_t)type : SPM_NORMAL;
        }
    }
    t->bos = read_id(g, "tokenizer.ggml.bos_token_id", t->V);
    t->eos = read_id(g, "tokenizer.ggml.eos_token_id", t->V);
    mark_stops(t);
    mark_stop(t, read_id(g, "tokenizer.ggml.eot_token_id", t->V), 0);
    mark_stop(t, read_id(g, "tokenizer.ggml.eom_token_id", t->V), 0);
    return 0;
}

/* Which tokens are looked for in a text as a whole. The library finds user-defined pieces of SentencePiece by
 * itself. */
static int make_special(struct tokenizer *t, struct err *e)
{
    uint32_t *ids = malloc((size_t)t->V * sizeof *ids);
    if (!ids)
        return err_memory(e, "the special tokens");
    size_t n = 0;
    for (uint32_t i = 0; i < t->V && t->bpe; i++)
        if (t->types[i] == SPM_USER_DEFINED)
            ids[n++] = i;
    int rc = special_init(&t->text_special, &t->names, ids, n, e);
    for (uint32_t i = 0; i < t->V; i++)
        if (t->types[i] == SPM_CONTROL || (t->bpe && t->types[i] == SPM_UNKNOWN))
            ids[n++] = i;
    if (!rc)
        rc = special_init(&t->all_special, &t->names, ids, n, e);
    free(ids);
    return rc;
}

struct bpe_parts {
    const struct gguf_array *names, *merges;
    struct gguf_str pre;
};

static void hash_bpe(XXH3_state_t *state, const void *arg)
{
    const struct bpe_parts *parts = arg;
    hash_add(state, "gpt2", 4);
    hash_add(state, parts->pre.data, parts->pre.len);
    hash_strings(state, parts->names);
    hash_strings(state, parts->merges);
}

static int load_bpe(struct tokenizer *t, const struct gguf *g, const struct gguf_array *names, struct err *e)
{
    struct gguf_array merges;
    struct gguf_str pre = {"", 0};
    gguf_str(g, "tokenizer.ggml.pre", &pre);
    if (!gguf_array(g, "tokenizer.ggml.merges", &merges) || merges.type != GGUF_STRING)
        return err_set(e, ERR_FORMAT, "%s: the vocabulary has no merges; download the model again",
                       gguf_path(g));
    int rc = split_create(pre, &t->split, e);
    if (rc)
        return err_prefix(e, "%s", gguf_path(g));
    uint8_t *hidden = malloc(t->V);
    if (!hidden)
        return err_memory(e, "the vocabulary");
    for (uint32_t i = 0; i < t->V; i++)
        hidden[i] = t->types[i] == SPM_CONTROL || t->types[i] == SPM_UNKNOWN;
    rc = bpe_create(&t->names, hidden, &merges, split_ignores_merges(t->split), &t->bpe, e);
    free(hidden);
    if (rc)
        return rc;
    t->adds_bos = split_adds_bos(t->split);
    gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->adds_bos);
    struct bpe_parts parts = {names, &merges, pre};
    return make_hash(t, hash_bpe, &parts, e);
}

static void hash_proto(XXH3_state_t *state, const void *arg)
{
    const struct buf *proto = arg;
    hash_add(state, "spm", 3);
    hash_add(state, proto->data, proto->len);
}

static int no_piece(void *arg, struct gguf_str name, float score, int type)
{
    (void)arg, (void)name, (void)score, (void)type;
    return 0;
}

static int load_spm(struct tokenizer *t, const struct gguf *g, const struct gguf_array *names, struct err *e)
{
    struct buf proto = {0};
    int rc = spm_proto_from_gguf(g, names, t->types, &proto, e);
    if (!rc)
        rc = spm_proto_read(proto.data, proto.len, &t->facts, no_piece, NULL, e);
    if (!rc && (rc = spm_load(proto.data, proto.len, &t->spm, e)))
        err_prefix(e, "%s", gguf_path(g));
    t->adds_bos = 1;
    gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->adds_bos);
    if (!rc)
        rc = make_hash(t, hash_proto, &proto, e);
    buf_free(&proto);
    return rc;
}

static int load_gguf(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_str kind;
    struct gguf_array names;
    if (!gguf_str(g, "tokenizer.ggml.model", &kind) || !gguf_array(g, "tokenizer.ggml.tokens", &names) ||
        names.type != GGUF_STRING)
        return err_set(e, ERR_FORMAT, "%s has no vocabulary; download it again or choose another model",
                       gguf_path(g));
    int is_bpe = gguf_str_is(kind, "gpt2");
    if (!is_bpe && !gguf_str_is(kind, "llama"))
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s has a vocabulary of kind '%.*s'; Lectern reads gpt2 and llama: choose another model",
            gguf_path(g), (int)(kind.len > 100 ? 100 : kind.len), kind.data);
    int rc = 0;
    for (size_t i = 0; !rc && i < names.n; i++)
        rc = add_name(t, gguf_array_str(&names, i), e);
    if (!rc)
        rc = make_tables(t, e);
    if (rc)
        return err_prefix(e, "%s", gguf_path(g));
    rc = read_types(t, g, e);
    if (!rc)
        rc = is_bpe ? load_bpe(t, g, &names, e) : load_spm(t, g, &names, e);
    return rc ? rc : make_special(t, e);
}

/* Checks nothing yet to be checked and hands the tokenizer over, or frees it. */
static int finish(struct tokenizer *t, int rc, struct tokenizer **out)
{
    if (rc) {
        tokenizer_close(t);
        return rc;
    }
    t->cuttable = t->spm && tokenizer_spm_cuttable(t);
    if (t->bos == TOKEN_NONE)
        t->adds_bos = 0;
    *out = t;
    return 0;
}

int tokenizer_open(const struct gguf *g, struct tokenizer **out, struct err *e)
{
    *out = NULL;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return err_memory(e, "the vocabulary");
    t->bos = t->eos = TOKEN_NONE;
    return finish(t, load_gguf(t, g, e), out);
}

struct piece_sink {
    struct tokenizer *t;
    struct buf types;
    struct err *e;
};

static int take_piece(void *arg, struct gguf_str name, float score, int type)
{
    struct piece_sink *sink = arg;
    (void)score;
    buf_putc(&sink->types, type);
    if (sink->types.failed)
        return err_memory(sink->e, "the vocabulary");
    return add_name(sink->t, name, sink->e);
}

static int load_proto(struct tokenizer *t, struct buf *proto, struct err *e)
{
    struct piece_sink sink = {.t = t, .e = e};
    int rc = spm_proto_read(proto->data, proto->len, &t->facts, take_piece, &sink, e);
    if (!rc)
        rc = make_tables(t, e);
    if (!rc)
        memcpy(t->types, sink.types.data, t->V);
    buf_free(&sink.types);
    if (!rc)
        rc = spm_load(proto->data, proto->len, &t->spm, e);
    if (rc)
        return rc;
    t->bos = t->facts.bos < t->V ? t->facts.bos : TOKEN_NONE;
    t->eos = t->facts.eos < t->V ? t->facts.eos : TOKEN_NONE;
    t->adds_bos = t->bos != TOKEN_NONE;
    mark_stop(t, t->eos, 0);
    rc = make_hash(t, hash_proto, proto, e);
    return rc ? rc : make_special(t, e);
}

int tokenizer_open_spm_file(const char *path, struct tokenizer **out, struct err *e)
{
    *out = NULL;
    struct buf proto = {0};
    int rc = file_read(path, MAX_MODEL_FILE, &proto.data, &proto.len, e);
    if (rc)
        return rc;
    proto.cap = proto.len + 1;
    struct tokenizer *t = calloc(1, sizeof *t);
    rc = t ? load_proto(t, &proto, e) : err_memory(e, "the vocabulary");
    buf_free(&proto);
    if (!t)
        return rc;
    if (rc)
        err_prefix(e, "%s", path);
    return finish(t, rc, out);
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    special_fini(&t->text_special);
    special_fini(&t->all_special);
    bpe_free(t->bpe);
    split_free(t->split);
    spm_free(t->spm);
    strtab_fini(&t->names);
    free(t->types);
    free(t->stops);
    free(t);
}
