/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.h - text to token ids and back, for byte-level BPE and SentencePiece vocabularies.
 *
 * The ids are those of llama.cpp (BPE) and of the sentencepiece library. A tokenizer is immutable once open:
 * any number of threads may use it. With allow_special = 0 no text whatever yields a control token; that is
 * how documents and questions are encoded, so none of them can end a turn or begin one.
 */
#ifndef LECTERN_ENGINE_TOKEN_TOKENIZER_H
#define LECTERN_ENGINE_TOKEN_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/base/clock.h"
#include "engine/base/err.h"
#include "engine/model/gguf.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tokenizer;

#define TOKEN_NONE UINT32_MAX

/* Zero-initialise to begin; token_list_fini at the end. ids and ends are [n], parallel. */
struct token_list {
    uint32_t *ids;
    uint32_t *ends; /* byte offset in the encoded text just past the token; never descending */
    size_t n, cap;
};

int token_list_add(struct token_list *list, uint32_t id, uint32_t end, struct err *e); /* ERR_MEMORY */
void token_list_clear(struct token_list *list);                                        /* keeps the memory */
void token_list_fini(struct token_list *list);

/* Takes everything it needs from the file: g may be closed afterwards. ERR_UNSUPPORTED names a vocabulary or
 * pre-tokenizer that is not handled; ERR_FORMAT a damaged one. */
int tokenizer_open(const struct gguf *g, struct tokenizer **out, struct err *e);

/* A SentencePiece `tokenizer.model` file. */
int tokenizer_open_spm_file(const char *path, struct tokenizer **out, struct err *e);

void tokenizer_close(struct tokenizer *t); /* NULL is legal */

/* Appends the tokens of text[0..n) to `out`; takes time linear in n (times log n in a single long word). No
 * BOS is added. The text must be valid UTF-8 (NUL bytes are text): else ERR_FORMAT names the offset.
 * n <= UINT32_MAX - 1, else ERR_LIMIT. The last token's end is n. After an error (ERR_CANCELLED too) `out`
 * has what it had before the call.
 *
 * allow_special: 0: control tokens' text is plain text; user-defined tokens are still recognised, as
 * llama.cpp does. 1: control tokens' text becomes the control token.
 *
 * Encoding a whole and encoding its parts give different ids where a cut splits a word; SentencePiece
 * vocabularies also put their leading space before each text. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int allow_special,
                     struct token_list *out, struct cancel *cancel, struct err *e);

/* Copies the bytes of one token to out (at most cap; no NUL) and returns how many it has. A character can
 * stretch over several tokens, so the bytes alone need not be UTF-8. Control tokens have none unless
 * show_special, when their name is given. An id outside the vocabulary has none. */
size_t tokenizer_piece(const struct tokenizer *t, uint32_t id, char *out, size_t cap, int show_special);

/* Appends the text of n tokens to `out` (sticky errors, see buf.h), without the space that a SentencePiece
 * vocabulary put before the text. */
void tokenizer_decode(const struct tokenizer *t, const uint32_t *ids, size_t n, int show_special,
                      struct buf *out);

uint32_t tokenizer_vocab(const struct tokenizer *t); /* V: number of tokens */

/* Is id a control token (of a BPE vocabulary also the unknown one): one that text never yields? */
int tokenizer_is_control(const struct tokenizer *t, uint32_t id);

/* Does id end an answer (end of text, of turn, of message)? */
int tokenizer_is_stop(const struct tokenizer *t, uint32_t id);

uint32_t tokenizer_bos(const struct tokenizer *t); /* TOKEN_NONE when there is none */
uint32_t tokenizer_eos(const struct tokenizer *t); /* TOKEN_NONE when there is none */
int tokenizer_adds_bos(const struct tokenizer *t); /* should a prompt begin with it? */

/* The token with exactly this name in the vocabulary ("<|im_start|>"), TOKEN_NONE when there is none. */
uint32_t tokenizer_find(const struct tokenizer *t, const char *name);

/* XXH3-128 (canonical) over everything that decides ids: names, types, scores, merges, pre-tokenizer. */
void tokenizer_hash(const struct tokenizer *t, uint8_t out[16]);

#ifdef __cplusplus
}
#endif
#endif
