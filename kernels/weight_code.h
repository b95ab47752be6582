/* SPDX-License-Identifier: Apache-2.0 */
/* weight_code.h - raw tensor rows as the codes of enum device_weight_format; shared by every device, so that
 * a weight has the same values on each.
 *
 *   F16, BF16       code = the 16 bits
 *   FP8             value = row_scale * e4m3(code)
 *   W8, W8G32       value = scale * (code - 128), code in 1..255 (Q8_0 may use 0)
 *   W4, W4G32       value = min + scale * code, code in 0..15
 *
 * scale and min are fp16, one for each group of columns (W8: one a row, widened to row_scale). Rows that the
 * format holds exactly (Q8_0 in W8G32, Q4_0 and Q4_1 in W4G32, F16, BF16) are copied, others are rounded to
 * nearest. C and C++; reads raw bytes inside tensor_row_bytes alone.
 */
#ifndef LECTERN_KERNELS_WEIGHT_CODE_H
#define LECTERN_KERNELS_WEIGHT_CODE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/device.h"
#include "kernels/half.h"

#define E4M3_MAX 448.0f
#define HALF_MAX 65504.0f

/* A row as codes; arrays of at least K (codes, values) and K / 32 rounded up (scale, min). */
struct weight_row {
    uint16_t *codes;
    uint16_t *scale, *min; /* fp16, by group */
    float row_scale;       /* FP8, W8 */
    float *values;         /* room for the row as f32 */
};

static inline float e4m3_to_float(unsigned code)
{
    unsigned exponent = code >> 3 & 15u, mantissa = code & 7u;
    float v =
        exponent ? float_from_bits((exponent + 120u) << 23 | mantissa << 20) : (float)mantissa * 0x1p-9f;
    if ((code & 0x7fu) == 0x7fu)
        v = float_from_bits(0x7fc00000u);
    return code & 0x80u ? -v : v;
}

/* Nearest even; what is larger than 448 becomes 448; NaN stays. */
static inline unsigned e4m3_from_float(float f)
{
    uint32_t u = float_bits(f), sign = u >> 24 & 0x80u;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return sign | 0x7fu;
    if (u >= 0x43e00000u) /* 448 */
        return sign | 0x7eu;
    if (u < 0x3c800000u) { /* below 2^-6: a multiple of 2^-9, rounded by the float unit */
        float magic = float_from_bits(u) + 0x1p14f;
        return sign | (float_bits(magic) - float_bits(0x1p14f));
    }
    u += 0x7ffffu + (u >> 20 & 1u);
    return sign | (u - 0x3c000000u) >> 20;
}

static inline float half_clamped(float f)
{
    return f > HALF_MAX ? HALF_MAX : f < -HALF_MAX ? -HALF_MAX : f;
}

/* Columns that share a scale; 0: none do (F16, BF16), or the row does (FP8, W8). */
static inline size_t weight_group(enum device_weight_format format)
{
    return format == DEVICE_W_W4 ? 128 : format == DEVICE_W_W4G32 || format == DEVICE_W_W8G32 ? 32 : 0;
}

/* AUTO resolved: what holds every part. Parts of several kinds become F16. */
static inline enum device_weight_format weight_format_of(enum device_weight_format wanted,
                                                         const struct device_weight_part *parts, size_t n)
{
    if (wanted != DEVICE_W_AUTO)
        return wanted;
    for (size_t i = 0; i < n; i++) {
        enum device_weight_format own = DEVICE_W_F16;
        if (parts[i].type == TENSOR_Q4_0 || parts[i].type == TENSOR_Q4_1)
            own = DEVICE_W_W4G32;
        else if (parts[i].type == TENSOR_Q8_0)
            own = DEVICE_W_W8G32;
        else if (parts[i].type == TENSOR_BF16)
            own = DEVICE_W_BF16;
        if (i && own != wanted)
            return DEVICE_W_F16;
        wanted = own;
    }
    return wanted;
}

/* Rows in all of the parts of a weight of `format`; refuses what does not fit the rules of device.h. */
static inline int weight_parts_rows(enum device_weight_format format, size_t K,
                                    const struct device_weight_part *parts, size_t n_parts,
                                    enum device_weight_order order, size_t *rows, struct err *e)
{
    size_t sum = 0;
    if (!n_parts || (unsigned)format > DEVICE_W_W4G32)
        return err_set(e, ERR_UNSUPPORTED, "a weight of format %d from %zu parts is not handled", (int)format,
                       n_parts);
    if (order == DEVICE_ROWS_INTERLEAVED && (n_parts != 2 || parts[0].rows != parts[1].rows))
        return err_set(e, ERR_UNSUPPORTED, "interleaved rows need two parts of equal size");
    for (size_t i = 0; i < n_parts; i++) {
        size_t bytes = tensor_row_bytes(parts[i].type, K);
        if (!bytes || !parts[i].rows)
            return err_set(e, ERR_UNSUPPORTED, "weights of type %d and shape %zu x %zu are not handled",
                           (int)parts[i].type, parts[i].rows, K);
        if (K > 1u << 24 || parts[i].rows > (1u << 30) - sum)
            return err_set(e, ERR_LIMIT, "a weight of %zu x %zu is too large", parts[i].rows, K);
        sum += parts[i].rows;
    }
    *rows = sum;
    return 0;
}

/* Raw bytes of row n of the whole weight. */
static inline const uint8_t *weight_parts_row(const struct device_weight_part *parts,
                                              enum device_weight_order order, size_t K, size_t n,
                                              enum tensor_type *type)
{
    if (order == DEVICE_ROWS_INTERLEAVED) {
        parts += n % 2;
        n /= 2;
    } else {
        while (n >= parts->rows)
            n -= parts++->rows;
    }
    *type = parts->type;
    return (const uint8_t *)parts->raw + n * tensor_row_bytes(parts->type, K);
}

static inline uint16_t weight_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Code of column i of a block of 32: low nibbles are columns 0..15, high ones 16..31. */
static inline unsigned weight_nibble(const uint8_t *codes, size_t i)
{
    return i < 16 ? codes[i] & 15u : codes[i - 16] >> 4;
}

static inline void weight_values(enum tensor_type type, const uint8_t *raw, size_t K, float *v)
{
    for (size_t k = 0; k < K; k++) {
        size_t i = k % 32;
        const uint8_t *p = raw + k / 32 * (type == TENSOR_Q4_0 ? 18 : type == TENSOR_Q4_1 ? 20 : 34);
        uint16_t h;
        switch (type) {
        case TENSOR_F32:
            memcpy(v + k, raw + 4 * k, 4);
            break;
        case TENSOR_F16:
        case TENSOR_BF16:
            h = weight_u16(raw + 2 * k);
            v[k] = type == TENSOR_F16 ? half_to_float(h) : bfloat_to_float(h);
            break;
        case TENSOR_Q4_0:
            v[k] = half_to_float(weight_u16(p)) * ((float)weight_nibble(p + 2, i) - 8.0f);
            break;
        case TENSOR_Q4_1:
            v[k] = half_to_float(weight_u16(p)) * (float)weight_nibble(p + 4, i) +
                   half_to_float(weight_u16(p + 2));
            break;
        case TENSOR_Q8_0:
            v[k] = half_to_float(weight_u16(p)) * (float)(int8_t)p[2 + i];
            break;
        }
    }
}

/* The row's own codes where the format is the file's; 0 when it is not. */
static inline int weight_copy(enum device_weight_format format, enum tensor_type type, const uint8_t *raw,
                              size_t K, struct weight_row *row)
{
    if ((format == DEVICE_W_F16 && type == TENSOR_F16) || (format == DEVICE_W_BF16 && type == TENSOR_BF16)) {
        memcpy(row->codes, raw, 2 * K);
        return 1;
    }
    int four = format == DEVICE_W_W4G32 && (type == TENSOR_Q4_0 || type == TENSOR_Q4_1);
    if (!four && !(format == DEVICE_W_W8G32 && type == TENSOR_Q8_0))
        return 0;
    size_t head = type == TENSOR_Q4_1 ? 4 : 2, bytes = head + (four ? 16 : 32);
    for (size_t b = 0; b < K / 32; b++) {
        const uint8_t *p = raw + b * bytes;
        row->scale[b] = weight_u16(p);
        row->min[b] = 0;
        if (type == TENSOR_Q4_1)
            row->min[b] = weight_u16(p + 2);
        else if (four) /* exact: eight times an fp16 that is below 8192 */
            row->min[b] = half_from_float(-8.0f * half_to_float(row->scale[b]));
        for (size_t i = 0; i < 32; i++)
            row->codes[b * 32 + i] = (uint16_t)(four ? weight_nibble(p + head, i) : p[head + i] ^ 0x80u);
    }
    return 1;
}

static inline float weight_amax(const float *v, size_t n)
{
    float amax = 0;
    for (size_t i = 0; i < n; i++)
        amax = fabsf(v[i]) > amax ? fabsf(v[i]) : amax;
    return amax;
}

static inline uint16_t weight_code_in(float x, float low, float high)
{
    float r = rintf(x);
    return (uint16_t)(r < low ? low : r > high ? high : r);
}

/* n values with one symmetric 8-bit scale; returns the scale. */
static inline uint16_t weight_code8(const float *v, size_t n, uint16_t *codes)
{
    uint16_t scale = half_from_float(half_clamped(weight_amax(v, n) / 127.0f));
    float d = half_to_float(scale), inverse = d > 0 ? 1.0f / d : 0;
    for (size_t i = 0; i < n; i++)
        codes[i] = weight_code_in(v[i] * inverse + 128.0f, 1, 255);
    return scale;
}

static inline void weight_code4(const float *v, size_t n, uint16_t *codes, uint16_t *scale, uint16_t *min)
{
    float low = v[0], high = v[0];
    for (size_t i = 1; i < n; i++) {
        low = v[i] < low ? v[i] : low;
        high = v[i] > high ? v[i] : high;
    }
    *min = half_from_float(half_clamped(low));
    *scale = half_from_float(half_clamped((high - low) / 15.0f));
    float d = half_to_float(*scale), m = half_to_float(*min), inverse = d > 0 ? 1.0f / d : 0;
    for (size_t i = 0; i < n; i++)
        codes[i] = weight_code_in((v[i] - m) * inverse, 0, 15);
}

/* One raw row as codes. ERR_FORMAT: a value is not finite. */
static inline int weight_code_row(enum device_weight_format format, enum tensor_type type, const uint8_t *raw,
                                  size_t K, struct weight_row *row, struct err *e)
{
    size_t group = weight_group(format);
    row->row_scale = 1.0f;
    weight_values(type, raw, K, row->values);
    float *v = row->values;
    for (size_t k = 0; k < K; k++)
        if (!isfinite(v[k]))
            return err_set(e, ERR_FORMAT, "a weight holds a value that is not finite");
    if (weight_copy(format, type, raw, K, row))
        return 0;
    if (format == DEVICE_W_F16 || format == DEVICE_W_BF16) {
        for (size_t k = 0; k < K; k++)
            row->codes[k] =
                format == DEVICE_W_F16 ? half_from_float(half_clamped(v[k])) : bfloat_from_float(v[k]);
    } else if (format == DEVICE_W_FP8) {
        float amax = weight_amax(v, K);
        row->row_scale = amax > 1e-30f ? amax / E4M3_MAX : 1.0f;
        for (size_t k = 0; k < K; k++)
            row->codes[k] = (uint16_t)e4m3_from_float(v[k] / row->row_scale);
    } else if (format == DEVICE_W_W8) {
        row->row_scale = half_to_float(weight_code8(v, K, row->codes));
    } else {
        for (size_t k = 0, g = 0; k < K; k += group, g++) {
            size_t n = K - k < group ? K - k : group;
            row->min[g] = 0;
            if (format == DEVICE_W_W8G32)
                row->scale[g] = weight_code8(v + k, n, row->codes + k);
            else
                weight_code4(v + k, n, row->codes + k, row->scale + g, row->min + g);
        }
    }
    return 0;
}

/* What a coded row stands for, in f32. */
static inline void weight_decode_row(enum device_weight_format format, const struct weight_row *row, size_t K,
                                     float *v)
{
    size_t group = weight_group(format);
    for (size_t k = 0; k < K; k++) {
        uint16_t c = row->codes[k];
        if (format == DEVICE_W_F16)
            v[k] = half_to_float(c);
        else if (format == DEVICE_W_BF16)
            v[k] = bfloat_to_float(c);
        else if (format == DEVICE_W_FP8)
            v[k] = row->row_scale * e4m3_to_float(c);
        else if (format == DEVICE_W_W8)
            v[k] = row->row_scale * ((float)c - 128.0f);
        else if (format == DEVICE_W_W8G32)
            v[k] = half_to_float(row->scale[k / group]) * ((float)c - 128.0f);
        else
            v[k] = half_to_float(row->scale[k / group]) * (float)c + half_to_float(row->min[k / group]);
    }
}

#endif
