/* SPDX-License-Identifier: Apache-2.0 */
/* sample.h - the next token from logits: greedy, or temperature and top-p with a seeded generator.
 *
 * The same logits, options and seed give the same token on every machine. NaN logits are never chosen.
 */
#ifndef LECTERN_ENGINE_SAMPLE_H
#define LECTERN_ENGINE_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

struct sample_options {
    double temperature; /* 0 = greedy */
    double top_p;       /* (0, 1]; smallest set of tokens whose probability reaches it; 1 = all */
    uint64_t seed;
};

struct sampler;

/* Holds scratch for V logits: nothing is allocated while decoding. ERR_USAGE for options out of range. */
int sampler_create(const struct sample_options *options, size_t V, struct sampler **out, struct err *e);
void sampler_free(struct sampler *s); /* NULL is legal */

/* Returns the chosen id, or V when no logit is a number (all NaN or -inf). One draw of the generator per call
 * unless greedy. */
size_t sampler_next(struct sampler *s, const float *logits);

/* The id of the largest logit, the lower of equals; V when none is a number. */
size_t sample_greedy(const float *logits, size_t V);

#endif
