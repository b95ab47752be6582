/* SPDX-License-Identifier: Apache-2.0 */
/* kernels_support.h - what the kernel tests share: a fixed random stream, the backends that run here, aligned
 * scratch, NaN-safe comparison, and raw tensors of random numbers. Include after cmocka.h. */
#ifndef LECTERN_TESTS_KERNELS_SUPPORT_H
#define LECTERN_TESTS_KERNELS_SUPPORT_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/kernels.h"

struct random {
    uint64_t state;
};

static inline uint64_t random_u64(struct random *r)
{
    uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* -1..1 */
static inline float random_float(struct random *r)
{
    return (float)((double)(int64_t)random_u64(r) * 0x1p-63);
}

/* Roughly normal, deviation 1. */
static inline float random_normal(struct random *r)
{
    float s = 0;
    for (int i = 0; i < 6; i++)
        s += random_float(r);
    return s * 0.70710678f;
}

/* Zeroed, 64-byte aligned, exactly n bytes as far as a sanitizer is concerned only when n % 64 == 0. */
static inline void *aligned_zero(size_t n)
{
    size_t padded = (n + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, padded ? padded : 64);
    assert_non_null(p);
    memset(p, 0, padded ? padded : 64);
    return p;
}

static inline void poison(float *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = NAN;
}

/* The largest difference relative to 1 + |want|; infinite when any pair has a NaN. */
static inline double worst(const float *got, const float *want, size_t n)
{
    double top = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]) / (1 + fabs((double)want[i]));
        if (!(d <= top))
            top = isnan(d) ? (double)INFINITY : d;
    }
    return top;
}

/* Calls test(table) for every vector backend of this processor. */
static inline void each_fast_backend(void (*test)(const struct kernels *k))
{
    static const char *const names[] = {"avx2", "avx512", "avx512vnni"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct kernels *k = kernels_get(names[i]);
        if (k)
            test(k);
    }
}

/* As each_fast_backend, the plain one first. */
static inline void each_backend(void (*test)(const struct kernels *k))
{
    test(kernels_get("ref"));
    each_fast_backend(test);
}

/* rows * tensor_row_bytes random bytes that mean finite numbers; the caller frees. */
static inline uint8_t *random_tensor(struct random *r, enum tensor_type type, size_t rows, size_t cols)
{
    size_t bytes = tensor_row_bytes(type, cols), at = 0;
    assert_true(bytes > 0);
    uint8_t *raw = malloc(rows * bytes);
    assert_non_null(raw);
    size_t unit = tensor_row_bytes(type, 32);
    int quantised = type == TENSOR_Q4_0 || type == TENSOR_Q4_1 || type == TENSOR_Q8_0;
    while (at < rows * bytes) {
        if (quantised) {
            for (size_t i = 0; i < unit; i++)
                raw[at + i] = (uint8_t)random_u64(r);
            uint16_t d = half_from_float(random_float(r) * 0.02f),
                     m = half_from_float(random_float(r) * 0.1f);
            memcpy(raw + at, &d, 2);
            if (type == TENSOR_Q4_1)
                memcpy(raw + at + 2, &m, 2);
            at += unit;
        } else if (type == TENSOR_F32) {
            float f = random_float(r) * 0.1f;
            memcpy(raw + at, &f, 4);
            at += 4;
        } else {
            float f = random_float(r) * 0.1f;
            uint16_t h = type == TENSOR_F16 ? half_from_float(f) : bfloat_from_float(f);
            memcpy(raw + at, &h, 2);
            at += 2;
        }
    }
    return raw;
}

#endif
