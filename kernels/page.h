/* SPDX-License-Identifier: Apache-2.0 */
/* page.h - where every code and parameter of a coded KV record lies (README.md draws it), and the grid that
 * a run of values is coded on; kernels/ alone.
 *
 * Codes lie in planes of 8, 4, 2 or 1 bits; 3 bits are a plane of 2, then one of 1. A line = 64 bytes = 16
 * words of 32 bits; the words of a K line are 16 tokens, those of a V line 16 channels. The XOR swaps the
 * halves of every second pair of lines, which frees a card's shared memory of bank conflicts; here it costs
 * one permutation.
 */
#ifndef LECTERN_KERNELS_PAGE_H
#define LECTERN_KERNELS_PAGE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

enum { HEAD_DIM_MAX = 256 };

/* Byte offsets of the parts of a coded record. */
struct page_layout {
    int k_bits, v_bits; /* 8, 4, 3 or 2; 0 for a raw or unknown format */
    size_t v_codes;     /* K codes start at 0 */
    size_t k_params;    /* scale fp16[D], min fp16[D], ordered by page_k_param_index */
    size_t v_params;    /* scale fp16[64], min fp16[64], ordered by page_v_param_index */
    size_t bytes;
};
struct page_layout page_layout(int format, size_t D);

/* Bytes of the 64 x D codes of one plane. */
static inline size_t page_plane_bytes(size_t D, int bits)
{
    return KV_PAGE_TOKENS * D / 8 * (size_t)bits;
}

/* Where one code of a plane is: bits [shift, shift + bits) of the little-endian word at byte `word`. */
struct page_place {
    size_t word;
    int shift;
};

/* Lines of K: [token / 16][channel group]; a word has 32 / bits channels of a token. Of 1 bit: [token / 32]
 * [channel / 16]; a word has 16 channels of token t, then of token t + 16. */
static inline size_t page_k_line(size_t D, int bits, size_t t16, size_t group)
{
    return bits == 1 ? t16 / 2 * (D / 16) + group : t16 * (D * (size_t)bits / 32) + group;
}

static inline struct page_place page_k_place(size_t D, int bits, size_t token, size_t channel)
{
    size_t per = bits == 1 ? 16 : 32 / (size_t)bits, group = channel / per;
    size_t line = page_k_line(D, bits, token / 16, group);
    return (struct page_place){.word = line * 64 + ((token % 16 * 4) ^ ((group >> 1 & 1) * 32)),
                               .shift = (int)(channel % per) * bits +
                                        (bits == 1 ? (int)(token / 16 % 2) * 16 : 0)};
}

/* The 64 tokens in the order of V's words: with j = token % 16 / 4, word by word of column j, number
 * i = 0..15 is token 32 (i / 8) + 4 j + {0, 1, 16, 17, 2, 3, 18, 19}[i % 8]. */
static inline size_t page_v_token(size_t j, size_t i)
{
    return i / 8 * 32 + 4 * j + (i >> 2 & 1) * 2 + (i >> 1 & 1) * 16 + (i & 1);
}

/* Line of V that holds number i of column j for channels 16 mt .. 16 mt + 15. 8 bits: [u][mt][h][j], 4 codes
 * a word; 4 bits: [u][mt][j], 8; 2 bits: [mt][j], 16; 1 bit: [mt][j / 2], 16 of each j. (u = i / 8, h = i /
 * 4 % 2) */
static inline size_t page_v_line(size_t D, int bits, size_t mt, size_t j, size_t i)
{
    switch (bits) {
    case 8:
        return ((i / 8 * (D / 16) + mt) * 2 + i / 4 % 2) * 4 + j;
    case 4:
        return (i / 8 * (D / 16) + mt) * 4 + j;
    case 2:
        return mt * 4 + j;
    default:
        return mt * 2 + j / 2;
    }
}

static inline int page_v_shift(int bits, size_t j, size_t i)
{
    return bits == 1 ? (int)(j % 2 * 16 + i) : (int)(i % (32 / (size_t)bits)) * bits;
}

static inline struct page_place page_v_place(size_t D, int bits, size_t token, size_t channel)
{
    size_t r = token % 32, j = r % 16 / 4, i = token / 32 * 8 + r % 4 / 2 * 4 + r / 16 * 2 + r % 2;
    size_t line = page_v_line(D, bits, channel / 16, j, i);
    return (struct page_place){.word = line * 64 + ((channel % 16 * 4) ^ ((line >> 1 & 1) * 32)),
                               .shift = page_v_shift(bits, j, i)};
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

/* The grid for values between lo and hi (finite, lo <= hi): value(code) = min + scale * code. */
struct page_grid {
    uint16_t scale, min; /* fp16; scale is 0 only when lo = hi */
};
struct page_grid page_grid(float lo, float hi, int bits);

/* The code of x on a grid given as floats. */
uint8_t page_code(float x, float scale, float min, int bits);

/* Nearest fp16 that is not below x >= 0; infinity when there is none. */
uint16_t page_half_up(float x);

/* Writes a scan summary in two steps: the mean keys, whose stored values come back as point[D], then the
 * largest squared distance of a key from that point. */
void page_scan_means(const float *mean, size_t D, uint8_t *scan, float *point);
void page_scan_radius(float squared, size_t D, uint8_t *scan);

#endif
