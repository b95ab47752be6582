/* SPDX-License-Identifier: Apache-2.0 */
/* linear_avx512vnni.c - linear with vpdpbusd: unsigned weight codes x signed activation codes, 16 outputs a
 * vector, 6 tokens x 32 outputs a tile.
 *
 * Many tokens: 4-bit panels are first spread to 8-bit lines in this thread's scratch. Few tokens (decode):
 * nibbles are split in registers, so that only the packed bytes move. Both feed the same integers to the same
 * float operations. Limits: 4 * 16 multiply-adds per vpdpbusd; or the bytes of W.
 */
#if defined(__x86_64__)
#include "kernels/cpu/simd_avx512.h"

#include "kernels/cpu/linear_body.h"

enum { TILE_TOKENS = 6, PANELS = 2, FEW_TOKENS = 12 };

/* Where a tile's weights come from: 8-bit lines `step` bytes apart, or packed 4-bit lines. */
struct lines {
    const uint8_t *at[PANELS];
    size_t step; /* bytes from one line to the next */
    const uint16_t *params[PANELS];
    size_t params_step; /* fp16 values per block */
    int offset;         /* of the codes */
    int has_min;
};

INLINE __m512i low_part(__m512i q)
{
    const __m512i half = _mm512_set1_epi32(64);
    return _mm512_sub_epi32(_mm512_and_si512(_mm512_add_epi32(q, half), _mm512_set1_epi32(127)), half);
}

INLINE __m512i high_part(__m512i q, __m512i low)
{
    return _mm512_srai_epi32(_mm512_sub_epi32(q, low), 7);
}

static void quantise(const float *x, size_t K, int8_t *codes, struct act_block *block)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    for (size_t b = 0; b < K / QUANT_BLOCK; b++, x += QUANT_BLOCK, codes += QUANT_BLOCK) {
        __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
        __m512i top = _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x0), magnitude),
                                       _mm512_and_si512(_mm512_castps_si512(x1), magnitude));
        struct act_scale scale = act_scale_of(float_from_bits(_mm512_reduce_max_epu32(top)));
        __m512i c0 = _mm512_setzero_si512(), c1 = c0;
        if (scale.inverse > 0) {
            c0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, _mm512_set1_ps(scale.inverse)));
            c1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, _mm512_set1_ps(scale.inverse)));
        }
        __m512i low0 = low_part(c0), low1 = low_part(c1);
        _mm_storeu_si128((void *)codes, _mm512_cvtepi32_epi8(high_part(c0, low0)));
        _mm_storeu_si128((void *)(codes + 16), _mm512_cvtepi32_epi8(high_part(c1, low1)));
        _mm_storeu_si128((void *)(codes + K), _mm512_cvtepi32_epi8(low0));
        _mm_storeu_si128((void *)(codes + K + 16), _mm512_cvtepi32_epi8(low1));
        int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(c0, c1));
        block[b] = (struct act_block){.d = scale.d, .s = scale.d * (float)sum, .sum = sum};
    }
}

INLINE __m512i four_codes(const int8_t *codes)
{
    int32_t word;
    memcpy(&word, codes, sizeof word);
    return _mm512_set1_epi32(word);
}

/* One 64-byte line group of both panels times the codes of n tokens. */
INLINE void dot_lines(const int n, __m512i acc[TILE_TOKENS][PANELS], const __m512i w[PANELS],
                      const int8_t *codes, size_t K)
{
#pragma GCC unroll 6
    for (int r = 0; r < n; r++) {
        __m512i x = four_codes(codes + (size_t)r * 2 * K);
        acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], w[0], x);
        acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], w[1], x);
    }
}

/* acc += the 32 columns of block b times one plane of codes, integers only. */
INLINE void dot_block(const int n, const int packed, const struct lines *l, size_t b, const int8_t *codes,
                      size_t K, __m512i acc[TILE_TOKENS][PANELS])
{
    const __m512i low = _mm512_set1_epi8(15);
    const size_t lines = packed ? 4 : 8;
#pragma GCC unroll 8
    for (size_t i = 0; i < lines; i++) {
        size_t at = (b * lines + i) * l->step;
        __m512i w[PANELS] = {_mm512_loadu_si512(l->at[0] + at), _mm512_loadu_si512(l->at[1] + at)};
        if (packed) {
            __m512i first[PANELS] = {_mm512_and_si512(w[0], low), _mm512_and_si512(w[1], low)};
            __m512i second[PANELS] = {_mm512_and_si512(_mm512_srli_epi16(w[0], 4), low),
                                      _mm512_and_si512(_mm512_srli_epi16(w[1], 4), low)};
            dot_lines(n, acc, first, codes + 8 * i, K);
            dot_lines(n, acc, second, codes + 8 * i + 4, K);
        } else {
            dot_lines(n, acc, w, codes + 4 * i, K);
        }
    }
}

INLINE void tile_rows(const struct linear_tile *a, const int n, const int packed, const struct lines *l,
                      size_t t)
{
    size_t K = a->acts->K, blocks = K / QUANT_BLOCK;
    const int8_t *codes = a->acts->codes + t * 2 * K;
    const struct act_block *act = a->acts->block + t * blocks;
    vf sum[TILE_TOKENS][PANELS];
#pragma GCC unroll 6
    for (int r = 0; r < n; r++)
        sum[r][0] = sum[r][1] = vf_zero();
    for (size_t b = 0; b < blocks; b++) {
        __m512i acc[TILE_TOKENS][PANELS];
#pragma GCC unroll 6
        for (int r = 0; r < n; r++)
            acc[r][0] = acc[r][1] = _mm512_setzero_si512();
        dot_block(n, packed, l, b, codes + b * QUANT_BLOCK, K, acc);
#pragma GCC unroll 6
        for (int r = 0; r < n; r++) { /* 128 * high - offset * sum, then the low plane on top */
            __m512i shift = _mm512_set1_epi32(-l->offset * act[(size_t)r * blocks + b].sum);
            acc[r][0] = _mm512_add_epi32(_mm512_slli_epi32(acc[r][0], 7), shift);
            acc[r][1] = _mm512_add_epi32(_mm512_slli_epi32(acc[r][1], 7), shift);
        }
        dot_block(n, packed, l, b, codes + K + b * QUANT_BLOCK, K, acc);
#pragma GCC unroll 2
        for (int p = 0; p < PANELS; p++) {
            const uint16_t *params = l->params[p] + b * l->params_step;
            vf scale = vf_load_half(params);
#pragma GCC unroll 6
            for (int r = 0; r < n; r++)
                sum[r][p] = vf_fma(_mm512_cvtepi32_ps(acc[r][p]),
                                   vf_mul(scale, vf_set1(act[(size_t)r * blocks + b].d)), sum[r][p]);
            if (!l->has_min)
                continue;
            vf min = vf_load_half(params + PANEL_ROWS);
#pragma GCC unroll 6
            for (int r = 0; r < n; r++)
                sum[r][p] = vf_fma(min, vf_set1(act[(size_t)r * blocks + b].s), sum[r][p]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < n; r++) {
        store_outputs(a->out, t + (size_t)r, a->panel0, &sum[r][0]);
        if (a->panel1 - a->panel0 == PANELS)
            store_outputs(a->out, t + (size_t)r, a->panel0 + 1, &sum[r][1]);
    }
}

INLINE void tile_any(const struct linear_tile *a, const int packed, const struct lines *l, size_t t)
{
    switch (a->t1 - t) {
    case 1:
        tile_rows(a, 1, packed, l, t);
        break;
    case 2:
        tile_rows(a, 2, packed, l, t);
        break;
    case 3:
        tile_rows(a, 3, packed, l, t);
        break;
    case 4:
        tile_rows(a, 4, packed, l, t);
        break;
    case 5:
        tile_rows(a, 5, packed, l, t);
        break;
    default:
        tile_rows(a, 6, packed, l, t);
    }
}

/* 4-bit lines of two panels -> 8-bit lines, interleaved. */
static void expand(struct lines *l, size_t blocks, uint8_t *to)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t i = 0; i < blocks * 4; i++)
        for (size_t p = 0; p < PANELS; p++) {
            __m512i w = _mm512_loadu_si512(l->at[p] + i * LINE_BYTES);
            uint8_t *line = to + (4 * i + p) * LINE_BYTES;
            _mm512_storeu_si512(line, _mm512_and_si512(w, low));
            _mm512_storeu_si512(line + 2 * LINE_BYTES, _mm512_and_si512(_mm512_srli_epi16(w, 4), low));
        }
    l->at[0] = to;
    l->at[1] = to + LINE_BYTES;
    l->step = 2 * LINE_BYTES;
}

static void tile_quantised(const struct linear_tile *a)
{
    const struct weight *w = a->out->w;
    size_t second = a->panel1 - 1; /* a lone panel is computed twice and stored once */
    struct lines l = {
        .at = {weight_panel(w, a->panel0), weight_panel(w, second)},
        .step = LINE_BYTES,
        .params = {weight_params(w, a->panel0), weight_params(w, second)},
        .params_step = type_block_params(w->type),
        .offset = type_code_offset(w->type),
        .has_min = w->type == TENSOR_Q4_1,
    };
    int packed = w->type != TENSOR_Q8_0;
    if (packed && a->t1 - a->t0 >= FEW_TOKENS) {
        expand(&l, w->cols / QUANT_BLOCK, a->expanded);
        packed = 0;
    }
    for (size_t t = a->t0; t < a->t1; t += TILE_TOKENS) {
        if (packed)
            tile_any(a, 1, &l, t);
        else
            tile_any(a, 0, &l, t);
    }
}

void linear_avx512vnni(const struct linear_args *a)
{
    static const struct linear_isa isa = {
        .quantise = quantise, .tile_quantised = tile_quantised, .tile_float = tile_float};
    linear_run(&isa, a);
}

void lora_avx512vnni(const struct lora_args *a)
{
    lora_run(linear_avx512vnni, a);
}

#endif
