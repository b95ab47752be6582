/* SPDX-License-Identifier: Apache-2.0 */
/* half.h - IEEE binary16 and bfloat16 <-> float, bit for bit what F16C does (round to nearest even,
 * subnormals kept, NaN stays a quiet NaN with the top of its payload).
 */
#ifndef LECTERN_KERNELS_HALF_H
#define LECTERN_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float float_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    if (exponent == 0x1f) /* infinity, or NaN made quiet */
        return float_from_bits(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0));
    if (exponent)
        return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float f = (float)mantissa * 0x1p-24f; /* exact: zero or subnormal */
    return float_from_bits(sign | float_bits(f));
}

static inline uint16_t half_from_float(float f)
{
    uint32_t u = float_bits(f);
    uint32_t sign = u >> 16 & 0x8000u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (u >> 13 & 0x3ffu));
    if (u >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (u < 0x38800000u) { /* below 2^-14: the float unit rounds to a multiple of 2^-24 for us */
        float magic = float_from_bits(u) + 0.5f;
        return (uint16_t)(sign | (float_bits(magic) - 0x3f000000u));
    }
    u += 0xfffu + (u >> 13 & 1u); /* ties to even; a carry into the exponent is right */
    return (uint16_t)(sign | (u - 0x38000000u) >> 13);
}

static inline float bfloat_to_float(uint16_t b)
{
    return float_from_bits((uint32_t)b << 16);
}

static inline uint16_t bfloat_from_float(float f)
{
    uint32_t u = float_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

#endif
