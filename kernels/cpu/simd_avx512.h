/* SPDX-License-Identifier: Apache-2.0 */
/* simd_avx512.h - the few vector words that the shared bodies (*_body.h) are written in, 16 floats wide. */
#ifndef LECTERN_KERNELS_CPU_SIMD_AVX512_H
#define LECTERN_KERNELS_CPU_SIMD_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define OP(name) name##_avx512
#define INLINE static inline __attribute__((always_inline))

enum { FUSED_VECTORS = 4 /* accumulators a row of fused decode */ };
enum { VW = 16, TILE_VECTORS = 4 /* accumulators a row of an attention tile */ };
typedef __m512 vf;
typedef __m512i vi;

INLINE vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE vf vf_set1(float f)
{
    return _mm512_set1_ps(f);
}
INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE float vf_sum(vf v)
{
    return _mm512_reduce_add_ps(v);
}
INLINE float vf_top(vf v)
{
    return _mm512_reduce_max_ps(v);
}
INLINE float vf_first(vf v)
{
    return _mm512_cvtss_f32(v);
}

/* v where the bit of the lane is set, else -infinity. */
INLINE vf vf_keep(vf v, uint64_t bits)
{
    return _mm512_mask_mov_ps(vf_set1(-__builtin_inff()), (__mmask16)bits, v);
}

INLINE vf vf_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
INLINE void vf_store_half(uint16_t *p, vf v)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE vf vf_load_bfloat(const uint16_t *p)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

/* rint(v) held to 0..top, as whole numbers */
INLINE vi vf_codes(vf v, float top)
{
    return _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(v, vf_set1(top)), vf_zero()));
}

/* e^v: relative error below 3e-7, exactly 1 at 0 and 0 below -87.3365; NaN stays. Cody-Waite + degree 5. */
INLINE vf vf_exp(vf v)
{
    vf x = _mm512_min_ps(vf_set1(89.0f), _mm512_max_ps(vf_set1(-88.0f), v));
    vf n = _mm512_roundscale_ps(_mm512_mul_ps(x, vf_set1(1.44269504f)), 0);
    vf r = _mm512_fnmadd_ps(n, vf_set1(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, vf_set1(-2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f));
    __mmask16 tiny = _mm512_cmp_ps_mask(v, vf_set1(-87.3365f), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_scalef_ps(p, n), tiny, vf_zero());
}

/* The VW words of part `part` (16 / VW parts) of a 64-byte line, its halves swapped when `swap`. */
INLINE vi vi_line(const uint8_t *line, size_t swap, size_t part)
{
    (void)part;
    vi v = _mm512_loadu_si512(line);
    return swap ? _mm512_shuffle_i64x2(v, v, 0x4e) : v;
}
INLINE void vi_store_line(uint8_t *line, size_t swap, size_t part, vi v)
{
    (void)part;
    _mm512_storeu_si512(line, swap ? _mm512_shuffle_i64x2(v, v, 0x4e) : v);
}

INLINE vi vi_zero(void)
{
    return _mm512_setzero_si512();
}
INLINE vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
INLINE vi vi_and(vi v, int mask)
{
    return _mm512_and_si512(v, _mm512_set1_epi32(mask));
}
/* Words shifted by n bits, 0..31. */
INLINE vi vi_right(vi v, int n)
{
    return (vi)((__v16su)v >> n);
}
INLINE vi vi_left(vi v, int n)
{
    return (vi)((__v16su)v << n);
}

/* min + scale * code of the code in the lowest bits of each word, one fma: a table for 4 bits and fewer,
 * whose lookup takes no mask, as it reads 4 bits only and the table repeats. */
struct grid {
    vf scale, min; /* min has the table */
};
INLINE struct grid grid_make(const int bits, float scale, float min)
{
    if (bits == 8)
        return (struct grid){vf_set1(scale), vf_set1(min)};
    const vi each = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    vf code = _mm512_cvtepi32_ps(vi_and(each, (1 << bits) - 1));
    return (struct grid){vf_zero(), vf_fma(code, vf_set1(scale), vf_set1(min))};
}
INLINE vf grid_value(const int bits, vi words, struct grid g)
{
    if (bits == 8)
        return vf_fma(_mm512_cvtepi32_ps(vi_and(words, 255)), g.scale, g.min);
    return _mm512_permutexvar_ps(words, g.min);
}

/* r[i][j] <-> r[j][i] */
INLINE void vf_transpose(vf r[16])
{
    vf s[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            __m512d a = _mm512_castps_pd(s[i + j]), b = _mm512_castps_pd(s[i + 2 + j]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
        /* r[4g + c]: rows 4g..4g+3 of columns c, c+4, c+8, c+12 in its four 128-bit lanes */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        vf a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88),
           b = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
        vf d = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd),
           e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
        s[c] = _mm512_shuffle_f32x4(a, b, 0x88);
        s[c + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        s[c + 4] = _mm512_shuffle_f32x4(d, e, 0x88);
        s[c + 12] = _mm512_shuffle_f32x4(d, e, 0xdd);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        r[i] = s[i];
}

/* Rotates VW / 2 neighbouring pairs in place by VW / 2 angles. */
INLINE void vf_rotate_pairs(float *x, const float *c, const float *s)
{
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    vf cc = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(c)));
    vf ss = _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(s)));
    vf v = vf_load(x), swapped = _mm512_permute_ps(v, 0xb1);
    vf a = vf_mul(v, cc), b = vf_mul(swapped, ss);
    vf_store(x, _mm512_mask_sub_ps(vf_add(b, a), 0x5555, a, b));
}

#endif
