/* SPDX-License-Identifier: Apache-2.0 */
/* heads.h - which KV heads see everything (retrieval) and which a sink and a window (streaming).
 *
 * alpha[L][HK] is the learned gate of each head, higher = needs the far past. DuoAttention, arXiv 2410.10819.
 * A pattern has one meaning: ties are broken by (layer, head), never at random.
 */
#ifndef LECTERN_ENGINE_DUO_HEADS_H
#define LECTERN_ENGINE_DUO_HEADS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

struct heads {
    size_t L, HK;
    size_t S, R;  /* sink and recent tokens of streaming heads */
    float *alpha; /* [L][HK]; NULL in heads_all_retrieval's */
};

/* Reads DIR/full_attention_heads.tsv (L lines of HK numbers in [0, 1], checked) and DIR/config.json
 * (sink_size, recent_size; deploy_sink_size and deploy_recent_size win when given). */
int heads_open(const char *dir, size_t L, size_t HK, struct heads **out, struct err *e);

/* No pattern at all: every split of it is all retrieval. S = 64, R = 256. */
int heads_all_retrieval(size_t L, size_t HK, struct heads **out, struct err *e);

void heads_close(struct heads *h); /* NULL is legal */

/* is_retrieval[L][HK] becomes 0 or 1: the round(sparsity * L * HK) heads with the lowest alpha stream, of
 * equal ones the lower (layer, head) first. 0 = all retrieval, 1 = all streaming. ERR_USAGE outside [0, 1];
 * ERR_NOT_FOUND when the answer hangs on a pattern and there is none. */
int heads_split(const struct heads *h, double sparsity, uint8_t *is_retrieval, struct err *e);

/* Names a split: XXH3-128 over L, HK, the bitmap, S and R. S and R count only when some head streams, so that
 * all-retrieval is one thing whatever they are. */
void heads_hash(const uint8_t *is_retrieval, size_t L, size_t HK, size_t S, size_t R, uint8_t out[16]);

#endif
