/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.c - encoding and decoding over the two kinds of vocabulary. */
#include "engine/token/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

enum { CANCEL_WORDS = 4096 };

int token_list_add(struct token_list *list, uint32_t id, uint32_t end, struct err *e)
{
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap + list->cap / 2 : 64;
        uint32_t *ids = realloc(list->ids, cap * sizeof *ids);
        if (!ids)
            return err_memory(e, "the tokens");
        list->ids = ids;
        uint32_t *ends = realloc(list->ends, cap * sizeof *ends);
        if (!ends)
            return err_memory(e, "the tokens");
        list->ends = ends;
        list->cap = cap;
    }
    list->ids[list->n] = id;
    list->ends[list->n++] = end;
    return 0;
}

void token_list_clear(struct token_list *list)
{
    list->n = 0;
}

void token_list_fini(struct token_list *list)
{
    free(list->ids);
    free(list->ends);
    *list = (struct token_list){0};
}

/* Length of the UTF-8 character at s (at most n bytes are there), 0 when it is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    unsigned char c = s[0];
    size_t len = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (!len || len > n)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && s[1] < 0xa0) || (c == 0xed && s[1] > 0x9f) || (c == 0xf0 && s[1] < 0x90) ||
        (c == 0xf4 && s[1] > 0x8f))
        return 0;
    return len;
}

static int check_text(const char *text, size_t n, struct err *e)
{
    if (n >= UINT32_MAX)
        return err_set(e, ERR_LIMIT, "a text of %zu bytes is too long; split it into files below 4 GiB", n);
    for (size_t i = 0; i < n;) {
        size_t len = utf8_length((const unsigned char *)text + i, n - i);
        if (!len)
            return err_set(e, ERR_FORMAT, "the text is not UTF-8 at byte %zu; convert it first", i);
        i += len;
    }
    return 0;
}

/* One call of tokenizer_encode on a BPE vocabulary. */
struct encoding {
    const struct tokenizer *t;
    const char *text;
    struct token_list *out;
    size_t before; /* tokens that out had */
    struct bpe_scratch scratch;
    struct cancel *cancel;
    struct err *e;
    unsigned words;
};

static int take_word(void *arg, size_t from, size_t to)
{
    struct encoding *x = arg;
    if (++x->words % CANCEL_WORDS == 0 && cancel_requested(x->cancel))
        return err_set(x->e, ERR_CANCELLED, "stopped while cutting the text into tokens");
    int rc = bpe_word(x->t->bpe, &x->scratch, x->text + from, to - from, from, x->out, x->cancel, x->e);
    if (!rc && x->out->n > x->before)
        x->out->ends[x->out->n - 1] = (uint32_t)to; /* bytes without a token belong to the one before */
    return rc;
}

static int encode_run(struct encoding *x, struct split_scratch *scratch, size_t from, size_t to)
{
    if (from == to)
        return 0;
    if (x->t->spm)
        return tokenizer_spm_run(x->t, x->text, from, to, x->out, x->cancel, x->e);
    return split_run(x->t->split, scratch, x->text, from, to, take_word, x, x->e);
}

static int encode_all(struct encoding *x, size_t n, const struct special *special)
{
    struct special_hit *hits;
    size_t n_hits, at = 0;
    struct split_scratch *scratch = NULL;
    int rc = special_find(special, x->text, n, &hits, &n_hits, x->e);
    if (!rc && x->t->split)
        rc = split_scratch_create(&scratch, x->e);
    for (size_t i = 0; !rc && i < n_hits; i++) {
        rc = encode_run(x, scratch, at, hits[i].from);
        if (!rc)
            rc = token_list_add(x->out, hits[i].id, (uint32_t)hits[i].to, x->e);
        at = hits[i].to;
    }
    if (!rc)
        rc = encode_run(x, scratch, at, n);
    split_scratch_free(scratch);
    free(hits);
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int allow_special,
                     struct token_list *out, struct cancel *cancel, struct err *e)
{
    int rc = check_text(text, n, e);
    if (rc || !n)
        return rc;
    struct encoding x = {.t = t, .text = text, .out = out, .before = out->n, .cancel = cancel, .e = e};
    rc = encode_all(&x, n, allow_special ? &t->all_special : &t->text_special);
    bpe_scratch_fini(&x.scratch);
    if (rc)
        out->n = x.before;
    else if (out->n > x.before)
        out->ends[out->n - 1] = (uint32_t)n; /* white space at the end that SentencePiece drops */
    return rc;
}

static size_t copy(char *out, size_t cap, const char *bytes, size_t n)
{
    if (n && cap)
        memcpy(out, bytes, n < cap ? n : cap);
    return n;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

static size_t spm_piece(const struct tokenizer *t, uint32_t id, char *out, size_t cap)
{
    struct gguf_str name = strtab_get(&t->names, id);
    if (t->types[id] == SPM_UNKNOWN)
        return copy(out, cap, " \xe2\x81\x87 ", 5); /* the library's own */
    if (t->types[id] == SPM_BYTE) {                 /* <0xAB> */
        if (name.len != 6 || hex(name.data[3]) < 0 || hex(name.data[4]) < 0)
            return 0;
        char byte = (char)(hex(name.data[3]) << 4 | hex(name.data[4]));
        return copy(out, cap, &byte, 1);
    }
    size_t n = 0;
    for (size_t i = 0; i < name.len; n++) {
        int space = i + 3 <= name.len && !memcmp(name.data + i, "\xe2\x96\x81", 3);
        if (n < cap)
            out[n] = space ? ' ' : name.data[i];
        i += space ? 3 : 1;
    }
    return n;
}

size_t tokenizer_piece(const struct tokenizer *t, uint32_t id, char *out, size_t cap, int show_special)
{
    if (id >= t->V || t->types[id] == SPM_UNUSED)
        return 0;
    struct gguf_str name = strtab_get(&t->names, id);
    if (tokenizer_is_control(t, id))
        return show_special ? copy(out, cap, name.data, name.len) : 0;
    if (t->spm)
        return spm_piece(t, id, out, cap);
    if (t->types[id] == SPM_USER_DEFINED)
        return copy(out, cap, name.data, name.len);
    return bpe_decode_name(name, out, cap);
}

void tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, int show_special,
                      struct buf *out)
{
    size_t before = out->len;
    for (size_t i = 0; i < n; i++) {
        size_t len = tokenizer_piece(t, ids[i], NULL, 0, show_special);
        char *to = buf_reserve(out, len);
        if (!to)
            return;
        out->len += tokenizer_piece(t, ids[i], to, len, show_special);
        out->data[out->len] = 0;
    }
    if (t->spm && t->facts.dummy_prefix && !t->facts.whitespace_suffix && out->len > before &&
        out->data[before] == ' ') {
        memmove(out->data + before, out->data + before + 1, out->len - before);
        out->len--;
    }
}

uint32_t tokenizer_vocab(const struct tokenizer *t)
{
    return t->V;
}

int tokenizer_is_control(const struct tokenizer *t, uint32_t id)
{
    return id < t->V && (t->types[id] == SPM_CONTROL || (t->bpe && t->types[id] == SPM_UNKNOWN));
}

int tokenizer_is_stop(const struct tokenizer *t, uint32_t id)
{
    return id < t->V && t->stops[id];
}

uint32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

uint32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

int tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos;
}

uint32_t tokenizer_find(const struct tokenizer *t, const char *name)
{
    uint32_t id = strtab_find(&t->names, name, strlen(name));
    return id < t->V ? id : TOKEN_NONE;
}

void tokenizer_hash(const struct tokenizer *t, uint8_t out[16])
{
    memcpy(out, t->hash, 16);
}
