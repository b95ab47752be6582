/* SPDX-License-Identifier: Apache-2.0 */
/* page.h - where every code and parameter of an 8-bit KV record lies (README.md draws it); kernels/ alone.
 *
 * Line = 64 bytes = 16 rows x 4 bytes. The XOR swaps the halves of every second pair of lines, which frees a
 * card's shared memory of bank conflicts; here it costs one permutation.
 */
#ifndef LECTERN_KERNELS_PAGE_H
#define LECTERN_KERNELS_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

enum { HEAD_DIM_MAX = 256 };

/* Byte of the word of channels 4cg..4cg+3 of one token, in the K codes. */
static inline size_t page_k_word(size_t D, size_t cg, size_t token)
{
    return token / 16 * (D / 4 * 64) + cg * 64 + ((token % 16 * 4) ^ ((cg >> 1 & 1) * 32));
}

/* Byte of the word of one channel, tokens b, b+1, b+16, b+17 with b = 32u + 4j + 2h, in the V codes. */
static inline size_t page_v_word(size_t D, size_t u, size_t h, size_t j, size_t channel)
{
    size_t line = ((u * (D / 16) + channel / 16) * 2 + h) * 4 + j;
    return line * 64 + ((channel % 16 * 4) ^ ((j >> 1 & 1) * 32));
}

static inline size_t page_v_codes(size_t D)
{
    return 64 * D;
}

/* fp16[D] scales at k_params, mins D later; fp16[64] scales at v_params, mins 64 later. */
static inline size_t page_k_params(size_t D)
{
    return 128 * D;
}

static inline size_t page_v_params(size_t D)
{
    return 128 * D + 4 * D;
}

static inline size_t page_k_param_index(size_t D, size_t channel)
{
    size_t cg = channel / 4;
    return ((cg & 3) * (D / 16) + (cg >> 2)) * 4 + channel % 4;
}

static inline size_t page_v_param_index(size_t token)
{
    return token % 16 / 2 * 8 + token / 16 * 2 + token % 2;
}

/* fp16 scale for codes 0..255 over `range` >= 0: the nearest fp16, or the next above when 255 steps of it
 * would not reach. 0 only when range is 0. */
uint16_t page_scale(float range);

/* Codes k[64][D] and v[64][D] in natural order into the record's lines. */
void page_place_codes(size_t D, const uint8_t *k, const uint8_t *v, uint8_t *record);

#endif
