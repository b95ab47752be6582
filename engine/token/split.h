/* SPDX-License-Identifier: Apache-2.0 */
/* split.h - cuts text into the words that byte-level BPE merges within: the vocabulary's "pre-tokenizer".
 *
 * A pre-tokenizer is a list of regular expressions. The first cuts the text into its matches and what lies
 * between them; each piece is cut by the next expression as if it were a text of its own, and so on. The
 * pieces of the last one are the words.
 */
#ifndef LECTERN_ENGINE_TOKEN_SPLIT_H
#define LECTERN_ENGINE_TOKEN_SPLIT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/model/gguf.h"

struct split;

/* `pre` is tokenizer.ggml.pre ("" when the file has none). ERR_UNSUPPORTED names one that is not known. */
int split_create(struct gguf_str pre, struct split **out, struct err *e);
void split_free(struct split *s); /* NULL is legal */

int split_ignores_merges(const struct split *s); /* a word that is itself a token is not merged up */
int split_adds_bos(const struct split *s);       /* BOS where the file does not say */

/* Called for each word in order, which covers text[from..to); non-zero stops and is returned. */
typedef int split_word(void *arg, size_t from, size_t to);

/* A scratch is for one thread at a time; the split itself may be shared. */
struct split_scratch;
int split_scratch_create(struct split_scratch **out, struct err *e);
void split_scratch_free(struct split_scratch *scratch); /* NULL is legal */

/* Cuts text[from..to), valid UTF-8 with both ends between characters, as a text of its own. */
int split_run(const struct split *s, struct split_scratch *scratch, const char *text, size_t from, size_t to,
              split_word *word, void *arg, struct err *e);

#endif
