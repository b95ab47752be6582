/* SPDX-License-Identifier: Apache-2.0 */
/* linear_avx2.c - linear with vpmaddubsw, 8 outputs a vector, 4 tokens a tile.
 *
 * vpmaddubsw saturates at 16 bits, so codes are taken as nibbles: 8 sums of two products of at most 15 * 127
 * are 30,480 and fit. An 8-bit code is 16 * high + low nibble, two such sums. All integers are exact, hence
 * equal to every other backend's.
 */
#if defined(__x86_64__)
#include "kernels/cpu/simd_avx2.h"

#include "kernels/cpu/linear_body.h"

enum { TILE_TOKENS = 4 };

INLINE __m256i low_part(__m256i q)
{
    const __m256i half = _mm256_set1_epi32(64);
    return _mm256_sub_epi32(_mm256_and_si256(_mm256_add_epi32(q, half), _mm256_set1_epi32(127)), half);
}

/* 32 numbers that fit a byte, in order. */
INLINE void store_bytes(int8_t *to, const __m256i c[4])
{
    const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    _mm256_storeu_si256((void *)to, _mm256_permutevar8x32_epi32(bytes, order));
}

static void quantise(const float *x, size_t K, int8_t *codes, struct act_block *block)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    for (size_t b = 0; b < K / QUANT_BLOCK; b++, x += QUANT_BLOCK, codes += QUANT_BLOCK) {
        vf v[4];
        __m256i top = _mm256_setzero_si256(), c[4], low[4], sum = top;
        for (size_t i = 0; i < 4; i++) {
            v[i] = vf_load(x + i * VW);
            top = _mm256_max_epu32(top, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
        }
        __m128i half = _mm_max_epu32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
        half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
        half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1));
        struct act_scale scale = act_scale_of(float_from_bits((uint32_t)_mm_cvtsi128_si32(half)));
        for (size_t i = 0; i < 4; i++) {
            c[i] = _mm256_setzero_si256();
            if (scale.inverse > 0)
                c[i] = _mm256_cvtps_epi32(vf_mul(v[i], vf_set1(scale.inverse)));
            sum = _mm256_add_epi32(sum, c[i]);
        }
        for (size_t i = 0; i < 4; i++) {
            low[i] = low_part(c[i]);
            c[i] = _mm256_srai_epi32(_mm256_sub_epi32(c[i], low[i]), 7);
        }
        store_bytes(codes, c);
        store_bytes(codes + K, low);
        half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
        half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
        half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
        int32_t total = _mm_cvtsi128_si32(half);
        block[b] = (struct act_block){.d = scale.d, .s = scale.d * (float)total, .sum = total};
    }
}

INLINE __m256i four_codes(const int8_t *codes)
{
    int32_t word;
    memcpy(&word, codes, sizeof word);
    return _mm256_set1_epi32(word);
}

/* 16-bit sums of nibble * one plane of codes over the block: `low` and, for 8-bit weights, `high` nibbles. */
INLINE void dot_plane(const int n, const int bits, const uint8_t *lines, const int8_t *codes, size_t K,
                      __m256i low[TILE_TOKENS], __m256i high[TILE_TOKENS])
{
    const __m256i mask = _mm256_set1_epi8(15);
    const int count = bits == 4 ? 4 : 8;
#pragma GCC unroll 4
    for (int r = 0; r < n; r++)
        low[r] = high[r] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
        __m256i w = _mm256_loadu_si256((const void *)(lines + (size_t)i * LINE_BYTES));
        __m256i first = _mm256_and_si256(w, mask);
        __m256i second = _mm256_and_si256(_mm256_srli_epi16(w, 4), mask);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) {
            const int8_t *at = codes + (size_t)r * 2 * K;
            if (bits == 4) {
                low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(first, four_codes(at + 8 * i)));
                low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(second, four_codes(at + 8 * i + 4)));
            } else {
                __m256i x = four_codes(at + 4 * i);
                low[r] = _mm256_add_epi16(low[r], _mm256_maddubs_epi16(first, x));
                high[r] = _mm256_add_epi16(high[r], _mm256_maddubs_epi16(second, x));
            }
        }
    }
}

/* dot[r] = the block's exact integer product, 128 * high plane + low plane. */
INLINE void dot_block(const int n, const int bits, const uint8_t *lines, const int8_t *codes, size_t K,
                      __m256i dot[TILE_TOKENS])
{
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 2
    for (int plane = 0; plane < 2; plane++) {
        __m256i low[TILE_TOKENS], high[TILE_TOKENS];
        dot_plane(n, bits, lines, codes + (size_t)plane * K, K, low, high);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) {
            __m256i part = _mm256_madd_epi16(low[r], ones);
            if (bits == 8)
                part = _mm256_add_epi32(part, _mm256_slli_epi32(_mm256_madd_epi16(high[r], ones), 4));
            dot[r] = plane ? _mm256_add_epi32(dot[r], part) : _mm256_slli_epi32(part, 7);
        }
    }
}

INLINE void tile_rows(const struct linear_tile *a, const int n, const int bits, size_t panel, size_t t)
{
    const struct weight *w = a->out->w;
    size_t K = a->acts->K, blocks = K / QUANT_BLOCK, line_bytes = type_block_lines(w->type) * LINE_BYTES;
    const struct act_block *act = a->acts->block + t * blocks;
    const int offset = type_code_offset(w->type);
    vf sum[TILE_TOKENS][PANEL_VECTORS];
#pragma GCC unroll 2
    for (int p = 0; p < PANEL_VECTORS; p++) {
        const uint8_t *lines = weight_panel(w, panel) + p * 32;
        const uint16_t *params = weight_params(w, panel) + p * VW;
        const int8_t *codes = a->acts->codes + t * 2 * K;
#pragma GCC unroll 4
        for (int r = 0; r < n; r++)
            sum[r][p] = vf_zero();
        for (size_t b = 0; b < blocks; b++) {
            __m256i dot[TILE_TOKENS];
            dot_block(n, bits, lines, codes, K, dot);
            vf scale = vf_load_half(params);
#pragma GCC unroll 4
            for (int r = 0; r < n; r++) {
                const struct act_block *x = act + (size_t)r * blocks + b;
                __m256i whole = _mm256_sub_epi32(dot[r], _mm256_set1_epi32(offset * x->sum));
                sum[r][p] = vf_fma(_mm256_cvtepi32_ps(whole), vf_mul(scale, vf_set1(x->d)), sum[r][p]);
                if (w->type == TENSOR_Q4_1)
                    sum[r][p] = vf_fma(vf_load_half(params + PANEL_ROWS), vf_set1(x->s), sum[r][p]);
            }
            lines += line_bytes;
            params += type_block_params(w->type);
            codes += QUANT_BLOCK;
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < n; r++)
        store_outputs(a->out, t + (size_t)r, panel, sum[r]);
}

INLINE void tile_panel(const struct linear_tile *a, const int bits, size_t panel)
{
    size_t t = a->t0;
    for (; t + TILE_TOKENS <= a->t1; t += TILE_TOKENS)
        tile_rows(a, TILE_TOKENS, bits, panel, t);
    for (; t < a->t1; t++)
        tile_rows(a, 1, bits, panel, t);
}

static void tile_quantised(const struct linear_tile *a)
{
    for (size_t panel = a->panel0; panel < a->panel1; panel++) {
        if (a->out->w->type == TENSOR_Q8_0)
            tile_panel(a, 8, panel);
        else
            tile_panel(a, 4, panel);
    }
}

void linear_avx2(const struct linear_args *a)
{
    static const struct linear_isa isa = {
        .quantise = quantise, .tile_quantised = tile_quantised, .tile_float = tile_float};
    linear_run(&isa, a);
}

void lora_avx2(const struct lora_args *a)
{
    lora_run(linear_avx2, a);
}

#endif
