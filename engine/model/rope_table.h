/* SPDX-License-Identifier: Apache-2.0 */
/* rope_table.h - rotation per token of each dimension pair, in 64-bit fixed point.
 *
 * Unit: turns / 2^64. The phase of pair i at position p is p * step[i] mod 2^64, exact for every position; a
 * float product would be off by 0.1 rad at 3.3 million tokens.
 */
#ifndef LECTERN_ENGINE_MODEL_ROPE_TABLE_H
#define LECTERN_ENGINE_MODEL_ROPE_TABLE_H

#include <stdint.h>

#include "engine/base/err.h"
#include "engine/model/model.h"

#define ROPE_MAX_PAIRS 512

struct rope_table {
    enum rope_kind kind;
    size_t pairs;      /* dims / 2, at most ROPE_MAX_PAIRS */
    float attn_factor; /* multiplies cosine and sine: 1 but for YaRN */
    uint64_t steps[ROPE_MAX_PAIRS];
};

/* `base_override` > 0 replaces rope->base (an adapter's); 0 keeps it. ERR_FORMAT for numbers that make no
 * rotation (base <= 1, scale < 1, a factor <= 0, NaN). */
int rope_table_make(const struct model_rope *rope, double base_override, struct rope_table *out,
                    struct err *e);

/* Frequency of pair i in radians per token, after scaling; what steps[] is rounded from. */
double rope_frequency(const struct model_rope *rope, double base, size_t i);

#endif
