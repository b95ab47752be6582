/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer_internal.h - what tokenizer_load.c makes and tokenizer.c uses; for engine/token alone.
 *
 * Invariants: names holds the V tokens' names first, in order of id; types[id] is what the tokenizer does
 * with the token (a stop token is CONTROL whatever the file says); every id kept here is < V or TOKEN_NONE.
 */
#ifndef LECTERN_ENGINE_TOKEN_TOKENIZER_INTERNAL_H
#define LECTERN_ENGINE_TOKEN_TOKENIZER_INTERNAL_H

#include "engine/token/bpe.h"
#include "engine/token/special.h"
#include "engine/token/split.h"
#include "engine/token/spm.h"
#include "engine/token/strtab.h"
#include "engine/token/tokenizer.h"

struct tokenizer {
    uint32_t V;
    struct strtab names;
    uint8_t *types; /* [V] enum spm_type */
    uint8_t *stops; /* [V] 1: ends an answer */
    uint32_t bos, eos;
    int adds_bos;
    uint8_t hash[16];

    struct special text_special; /* found in text with allow_special 0 */
    struct special all_special;  /* and with 1 */

    /* byte-level BPE, else NULL */
    struct bpe *bpe;
    struct split *split;

    /* SentencePiece, else NULL */
    struct spm *spm;
    struct spm_facts facts;
    int cuttable; /* no piece continues over a space: a long text may be encoded in parts */
};

/* SentencePiece: appends the tokens of text[from..to). */
int tokenizer_spm_run(const struct tokenizer *t, const char *text, size_t from, size_t to,
                      struct token_list *out, struct cancel *cancel, struct err *e);

/* May a text be cut before a space between letters without changing its pieces? */
int tokenizer_spm_cuttable(const struct tokenizer *t);

#endif
