/* SPDX-License-Identifier: Apache-2.0 */
/* bytes.h - little-endian reads and writes with a remaining-bytes budget.
 *
 * Everything from disk or from a pipe is read through struct reader: after the first read past the end every
 * read yields 0 and `bad` is set, so a parser checks once per record and can never run outside the bytes it
 * was given.
 */
#ifndef LECTERN_ENGINE_BASE_BYTES_H
#define LECTERN_ENGINE_BASE_BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/buf.h"

struct reader {
    const uint8_t *at;
    size_t left; /* bytes */
    int bad;
};

static inline struct reader reader_over(const void *bytes, size_t n)
{
    return (struct reader){.at = bytes, .left = n, .bad = 0};
}

/* The next n bytes inside the underlying memory, or NULL (and bad) when fewer are left. */
static inline const uint8_t *read_bytes(struct reader *r, size_t n)
{
    if (r->bad || n > r->left) {
        r->bad = 1;
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += n;
    r->left -= n;
    return p;
}

static inline uint64_t read_le(struct reader *r, size_t n)
{
    const uint8_t *p = read_bytes(r, n);
    uint64_t v = 0;
    for (size_t i = 0; p && i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static inline uint8_t read_u8(struct reader *r)
{
    return (uint8_t)read_le(r, 1);
}
static inline uint16_t read_u16(struct reader *r)
{
    return (uint16_t)read_le(r, 2);
}
static inline uint32_t read_u32(struct reader *r)
{
    return (uint32_t)read_le(r, 4);
}
static inline uint64_t read_u64(struct reader *r)
{
    return read_le(r, 8);
}

static inline float read_f32(struct reader *r)
{
    uint32_t bits = read_u32(r);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline double read_f64(struct reader *r)
{
    uint64_t bits = read_u64(r);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline void put_le(struct buf *b, uint64_t v, size_t n)
{
    uint8_t bytes[8];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(v >> (8 * i));
    buf_add(b, bytes, n);
}

static inline void put_u8(struct buf *b, uint8_t v)
{
    put_le(b, v, 1);
}
static inline void put_u16(struct buf *b, uint16_t v)
{
    put_le(b, v, 2);
}
static inline void put_u32(struct buf *b, uint32_t v)
{
    put_le(b, v, 4);
}
static inline void put_u64(struct buf *b, uint64_t v)
{
    put_le(b, v, 8);
}

static inline void put_f32(struct buf *b, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_u32(b, bits);
}

static inline void put_f64(struct buf *b, double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_u64(b, bits);
}

/* a*b into *out; returns non-zero when it does not fit size_t (then *out = 0). */
static inline int size_mul(size_t a, size_t b, size_t *out)
{
    if (__builtin_mul_overflow(a, b, out)) {
        *out = 0;
        return 1;
    }
    return 0;
}

#endif
