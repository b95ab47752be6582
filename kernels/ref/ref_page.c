/* SPDX-License-Identifier: Apache-2.0 */
/* ref_page.c - KV records in plain C: pack, unpack and the scan summary, code by code.
 *
 * K is quantised per channel over the page's 64 tokens, V per token over the channels. Parameters are rounded
 * to fp16 before coding, and the grid (page.c) reaches every value, so nothing is clipped and
 * |x - (min + scale * code)| <= scale / 2 up to the rounding of one fma.
 */
#include "kernels/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/page.h"

/* The planes of a code of `bits` bits: 3 bits are 2 and 1. */
static int planes(int bits, int plane[2])
{
    plane[0] = bits == 3 ? 2 : bits;
    plane[1] = 1;
    return bits == 3 ? 2 : 1;
}

static struct page_place place(int keys, size_t D, int bits, size_t token, size_t channel)
{
    return keys ? page_k_place(D, bits, token, channel) : page_v_place(D, bits, token, channel);
}

/* codes[64][D] into zeroed planes. */
static void put_codes(int keys, size_t D, int bits, const uint8_t *codes, uint8_t *to)
{
    int width[2], n = planes(bits, width), below = 0;
    for (int i = 0; i < n; i++) {
        for (size_t t = 0; t < KV_PAGE_TOKENS; t++)
            for (size_t c = 0; c < D; c++) {
                struct page_place p = place(keys, D, width[i], t, c);
                unsigned code = codes[t * D + c] >> below & ((1u << width[i]) - 1);
                to[p.word + (size_t)p.shift / 8] |= (uint8_t)(code << p.shift % 8);
            }
        to += page_plane_bytes(D, width[i]);
        below += width[i];
    }
}

static unsigned get_code(int keys, size_t D, int bits, const uint8_t *from, size_t t, size_t c)
{
    int width[2], n = planes(bits, width), below = 0;
    unsigned code = 0;
    for (int i = 0; i < n; i++) {
        struct page_place p = place(keys, D, width[i], t, c);
        unsigned byte = from[p.word + (size_t)p.shift / 8];
        code |= (byte >> p.shift % 8 & ((1u << width[i]) - 1)) << below;
        from += page_plane_bytes(D, width[i]);
        below += width[i];
    }
    return code;
}

/* Grid of n values `stride` apart, then their codes. */
static struct page_grid code_run(const uint16_t *x, size_t n, size_t stride, int bits, uint8_t *codes,
                                 size_t code_stride)
{
    float lo = INFINITY, hi = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        float f = half_to_float(x[i * stride]);
        lo = f < lo ? f : lo;
        hi = f > hi ? f : hi;
    }
    /* -0 becomes +0: the record depends on values alone */
    struct page_grid grid = page_grid(lo + 0.0f, hi + 0.0f, bits);
    float scale = half_to_float(grid.scale), min = half_to_float(grid.min);
    for (size_t i = 0; i < n; i++)
        codes[i * code_stride] = page_code(half_to_float(x[i * stride]), scale, min, bits);
    return grid;
}

static void pack_codes(const struct kv_page_pack_args *a)
{
    size_t D = a->D;
    struct page_layout y = page_layout(a->format, D);
    uint8_t *record = a->record;
    uint16_t *kp = (uint16_t *)(void *)(record + y.k_params);
    uint16_t *vp = (uint16_t *)(void *)(record + y.v_params);
    uint8_t codes[KV_PAGE_TOKENS * HEAD_DIM_MAX];
    memset(record, 0, y.k_params);
    for (size_t c = 0; c < D; c++) {
        struct page_grid g = code_run(a->k + c, KV_PAGE_TOKENS, a->ldk, y.k_bits, codes + c, D);
        kp[page_k_param_index(D, c)] = g.scale;
        kp[D + page_k_param_index(D, c)] = g.min;
    }
    put_codes(1, D, y.k_bits, codes, record);
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
        struct page_grid g = code_run(a->v + t * a->ldv, D, 1, y.v_bits, codes + t * D, 1);
        vp[page_v_param_index(t)] = g.scale;
        vp[KV_PAGE_TOKENS + page_v_param_index(t)] = g.min;
    }
    put_codes(0, D, y.v_bits, codes, record + y.v_codes);
}

static void scan(const struct kv_page_pack_args *a)
{
    size_t D = a->D;
    float mean[HEAD_DIM_MAX], point[HEAD_DIM_MAX], furthest = 0;
    for (size_t c = 0; c < D; c++) {
        mean[c] = 0;
        for (size_t t = 0; t < KV_PAGE_TOKENS; t++)
            mean[c] += half_to_float(a->k[t * a->ldk + c]);
        mean[c] /= KV_PAGE_TOKENS;
    }
    page_scan_means(mean, D, a->scan, point);
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
        float sum = 0;
        for (size_t c = 0; c < D; c++) {
            float d = half_to_float(a->k[t * a->ldk + c]) - point[c];
            sum = fmaf(d, d, sum);
        }
        furthest = sum > furthest ? sum : furthest;
    }
    page_scan_radius(furthest, D, a->scan);
}

void ref_kv_page_pack_raw(const struct kv_page_pack_args *a)
{
    uint16_t *record = a->record;
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
        memcpy(record + t * a->D, a->k + t * a->ldk, a->D * 2);
        memcpy(record + (KV_PAGE_TOKENS + t) * a->D, a->v + t * a->ldv, a->D * 2);
    }
}

void ref_kv_page_pack(const struct kv_page_pack_args *a)
{
    assert(kv_page_bytes(a->format, a->D));
    if (a->format == KV_RAW)
        ref_kv_page_pack_raw(a);
    else
        pack_codes(a);
    if (a->scan)
        scan(a);
}

static float value(const uint16_t *params, size_t n, size_t at, unsigned code)
{
    return fmaf((float)code, half_to_float(params[at]), half_to_float(params[n + at]));
}

void ref_kv_page_unpack(const struct kv_page_unpack_args *a)
{
    size_t D = a->D;
    assert(kv_page_bytes(a->format, D));
    if (a->format == KV_RAW) {
        const uint16_t *k = a->record;
        for (size_t i = 0; i < KV_PAGE_TOKENS * D; i++) {
            a->k[i] = half_to_float(k[i]);
            a->v[i] = half_to_float(k[KV_PAGE_TOKENS * D + i]);
        }
        return;
    }
    struct page_layout y = page_layout(a->format, D);
    const uint8_t *record = a->record;
    const uint16_t *kp = (const uint16_t *)(const void *)(record + y.k_params);
    const uint16_t *vp = (const uint16_t *)(const void *)(record + y.v_params);
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++)
        for (size_t c = 0; c < D; c++) {
            a->k[t * D + c] = value(kp, D, page_k_param_index(D, c), get_code(1, D, y.k_bits, record, t, c));
            a->v[t * D + c] = value(vp, KV_PAGE_TOKENS, page_v_param_index(t),
                                    get_code(0, D, y.v_bits, record + y.v_codes, t, c));
        }
}
