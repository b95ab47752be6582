/* SPDX-License-Identifier: Apache-2.0 */
/* simd_avx2.h - the few vector words that the shared bodies (*_body.h) are written in, 8 floats wide. */
#ifndef LECTERN_KERNELS_CPU_SIMD_AVX2_H
#define LECTERN_KERNELS_CPU_SIMD_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define OP(name) name##_avx2
#define INLINE static inline __attribute__((always_inline))

enum { FUSED_VECTORS = 2 /* accumulators a row of fused decode */ };
enum { VW = 8, TILE_VECTORS = 2 /* accumulators a row of an attention tile */ };
typedef __m256 vf;
typedef __m256i vi;

INLINE vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
INLINE vf vf_set1(float f)
{
    return _mm256_set1_ps(f);
}
INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
INLINE float vf_first(vf v)
{
    return _mm256_cvtss_f32(v);
}
INLINE float vf_sum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float vf_top(vf v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* v where the bit of the lane is set, else -infinity. */
INLINE vf vf_keep(vf v, uint64_t bits)
{
    const __m256i each = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)(bits & 255)), each), each);
    return _mm256_blendv_ps(vf_set1(-__builtin_inff()), v, _mm256_castsi256_ps(set));
}

INLINE vf vf_load_half(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
INLINE void vf_store_half(uint16_t *p, vf v)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE vf vf_load_bfloat(const uint16_t *p)
{
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

/* rint(v) held to 0..top, as whole numbers */
INLINE vi vf_codes(vf v, float top)
{
    return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(v, vf_set1(top)), vf_zero()));
}

/* e^v: relative error below 3e-7, exactly 1 at 0 and 0 below -87.3365; NaN stays. Cody-Waite + degree 5. */
INLINE vf vf_exp(vf v)
{
    vf x = _mm256_min_ps(vf_set1(89.0f), _mm256_max_ps(vf_set1(-88.0f), v));
    vf n = _mm256_round_ps(_mm256_mul_ps(x, vf_set1(1.44269504f)),
                           _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vf r = _mm256_fnmadd_ps(n, vf_set1(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, vf_set1(-2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_add(vf_fma(p, vf_mul(r, r), r), vf_set1(1.0f));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    vf tiny = _mm256_cmp_ps(v, vf_set1(-87.3365f), _CMP_LT_OQ);
    return _mm256_andnot_ps(tiny, vf_mul(p, _mm256_castsi256_ps(power)));
}

/* The VW words of part `part` (16 / VW parts) of a 64-byte line, its halves swapped when `swap`. */
INLINE vi vi_line(const uint8_t *line, size_t swap, size_t part)
{
    return _mm256_loadu_si256((const void *)(line + (part ^ swap) * 32));
}
INLINE void vi_store_line(uint8_t *line, size_t swap, size_t part, vi v)
{
    _mm256_storeu_si256((void *)(line + (part ^ swap) * 32), v);
}

INLINE vi vi_zero(void)
{
    return _mm256_setzero_si256();
}
INLINE vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
INLINE vi vi_and(vi v, int mask)
{
    return _mm256_and_si256(v, _mm256_set1_epi32(mask));
}
/* Words shifted by n bits, 0..31. */
INLINE vi vi_right(vi v, int n)
{
    return (vi)((__v8su)v >> n);
}
INLINE vi vi_left(vi v, int n)
{
    return (vi)((__v8su)v << n);
}

/* min + scale * code of the code in the lowest bits of each word, one fma. */
struct grid {
    vf scale, min;
};
INLINE struct grid grid_make(const int bits, float scale, float min)
{
    (void)bits;
    return (struct grid){vf_set1(scale), vf_set1(min)};
}
INLINE vf grid_value(const int bits, vi words, struct grid g)
{
    return vf_fma(_mm256_cvtepi32_ps(vi_and(words, (1 << bits) - 1)), g.scale, g.min);
}

/* r[i][j] <-> r[j][i] */
INLINE void vf_transpose(vf r[8])
{
    vf s[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm256_shuffle_ps(s[i + j], s[i + 2 + j], 0x44);
            r[i + 2 * j + 1] = _mm256_shuffle_ps(s[i + j], s[i + 2 + j], 0xee);
        }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        s[c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x20);
        s[c + 4] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x31);
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        r[i] = s[i];
}

/* Rotates VW / 2 neighbouring pairs in place by VW / 2 angles. */
INLINE void vf_rotate_pairs(float *x, const float *c, const float *s)
{
    const __m256i twice = _mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0);
    vf cc = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(c)), twice);
    vf ss = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(s)), twice);
    vf v = vf_load(x), swapped = _mm256_permute_ps(v, 0xb1);
    vf_store(x, _mm256_addsub_ps(vf_mul(v, cc), vf_mul(swapped, ss)));
}

#endif
