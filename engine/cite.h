/* SPDX-License-Identifier: Apache-2.0 */
/* cite.h - which sentences of the documents an answer came from.
 *
 * Two witnesses: the retrieval heads' attention while the answer was decoded (session_mass, a share for each
 * 64-token page), and the words: a sentence is scored by the rarity-weighted words that it shares with the
 * answer, and half as much with the question. Attention scales the words' score between a half and one, so a
 * sentence that shares nothing is never cited, however hard the heads looked at it: no page is better than a
 * wrong page.
 */
#ifndef LECTERN_ENGINE_CITE_H
#define LECTERN_ENGINE_CITE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

/* A document as it lies in the context; all borrowed. */
struct cite_text {
    const char *text;
    size_t bytes;
    const uint32_t *ends; /* [tokens]: byte offset in text just past the token, never descending */
    size_t tokens;
    size_t position; /* of its first token in the timeline */
};

struct cite_found {
    size_t text;       /* which one */
    size_t first, end; /* bytes of the sentence in it, trimmed, half open */
    double score;      /* 0..1 */
};

/* Writes the best sentences, best first, at most `max`, to found[] and their number to *n (0 is an honest
 * answer). mass [pages] of 64 tokens may be NULL: words alone. ERR_MEMORY. */
int cite_find(const struct cite_text *texts, size_t n_texts, const double *mass, size_t pages,
              const char *question, const char *answer, struct cite_found *found, size_t max, size_t *n,
              struct err *e);

#endif
