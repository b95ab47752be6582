/* SPDX-License-Identifier: Apache-2.0 */
/* bpe.h - byte-level byte-pair merging of one word.
 *
 * A word starts as its bytes, each a symbol. While any two neighbours are a known pair, the pair of lowest
 * rank (of these the leftmost) becomes one symbol. Symbols are numbers of a string table: tokens first, then
 * the strings that merges name but the vocabulary lacks ("extras"), which fall apart into bytes at the end.
 */
#ifndef LECTERN_ENGINE_TOKEN_BPE_H
#define LECTERN_ENGINE_TOKEN_BPE_H

#include "engine/token/strtab.h"
#include "engine/token/tokenizer.h"

struct bpe;

/* strings holds the vocabulary's V = strings->n names in GPT-2's writing; the merges' extras are interned
 * after them, and bpe borrows the table. hidden [V]: 1 for tokens that text must never yield (control). */
int bpe_create(struct strtab *strings, const uint8_t *hidden, const struct gguf_array *merges,
               int ignore_merges, struct bpe **out, struct err *e);
void bpe_free(struct bpe *b); /* NULL is legal */

/* Working memory, for one thread at a time. Zero-initialise. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    size_t symbols_cap;
    struct bpe_pair *heap;
    size_t heap_len, heap_cap;
    struct buf name;
};
void bpe_scratch_fini(struct bpe_scratch *scratch);

/* Appends the tokens of word[0..n), which stands at byte `base` of the text. A byte that has no token of
 * its own (only where a vocabulary lacks it) yields nothing. Time is O(n log n). */
int bpe_word(const struct bpe *b, struct bpe_scratch *scratch, const char *word, size_t n, size_t base,
             struct token_list *out, struct cancel *cancel, struct err *e);

/* The text of a token's name: GPT-2's characters become bytes again, others stay. At most cap bytes are
 * written to out; returns how many there are. */
size_t bpe_decode_name(struct gguf_str name, char *out, size_t cap);

#endif
