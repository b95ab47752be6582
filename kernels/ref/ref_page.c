/* SPDX-License-Identifier: Apache-2.0 */
/* ref_page.c - the 8-bit KV record: pack, unpack, and the layout helpers of page.h.
 *
 * K is quantised per channel over the page's 64 tokens, V per token over the channels. min is one of the fp16
 * inputs, so it is exact; the scale is rounded to fp16 before coding and reaches the maximum, so nothing is
 * clipped and |x - (min + scale * code)| <= scale / 2 up to the rounding of one fma.
 */
#include "kernels/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/half.h"
#include "kernels/page.h"

size_t kv_page_bytes(int bits, size_t D)
{
    if (!D || D > HEAD_DIM_MAX)
        return 0;
    if (bits == 16 && D % 8 == 0)
        return 2 * KV_PAGE_TOKENS * D * 2;
    if (bits == 8 && D % 16 == 0)
        return 2 * KV_PAGE_TOKENS * D + 4 * D + 4 * KV_PAGE_TOKENS;
    return 0;
}

uint16_t page_scale(float range)
{
    if (!(range > 0))
        return 0;
    uint16_t h = half_from_float(range / 255.0f);
    while (half_to_float(h) * 255.0f < range)
        h++;
    return h;
}

void page_place_codes(size_t D, const uint8_t *k, const uint8_t *v, uint8_t *record)
{
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++)
        for (size_t cg = 0; cg < D / 4; cg++)
            memcpy(record + page_k_word(D, cg, t), k + t * D + 4 * cg, 4);
    uint8_t *lines = record + page_v_codes(D);
    for (size_t u = 0; u < 2; u++)
        for (size_t h = 0; h < 2; h++)
            for (size_t j = 0; j < 4; j++) {
                const uint8_t *row = v + (32 * u + 4 * j + 2 * h) * D;
                for (size_t c = 0; c < D; c++) {
                    uint8_t *word = lines + page_v_word(D, u, h, j, c);
                    word[0] = row[c];
                    word[1] = row[D + c];
                    word[2] = row[16 * D + c];
                    word[3] = row[17 * D + c];
                }
            }
}

/* Range of n values `stride` apart, then their codes. */
static void code_run(const uint16_t *x, size_t n, size_t stride, uint16_t *scale, uint16_t *min,
                     uint8_t *codes, size_t code_stride)
{
    float lo = INFINITY, hi = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        float f = half_to_float(x[i * stride]);
        lo = f < lo ? f : lo;
        hi = f > hi ? f : hi;
    }
    lo += 0.0f; /* -0 becomes +0: the record depends on values alone */
    *scale = page_scale(hi - lo);
    *min = half_from_float(lo);
    float step = half_to_float(*scale);
    for (size_t i = 0; i < n; i++) {
        float c = step > 0 ? rintf((half_to_float(x[i * stride]) - lo) / step) : 0;
        codes[i * code_stride] = (uint8_t)(c > 255 ? 255 : c);
    }
}

void ref_kv_page_pack(const struct kv_page_pack_args *a)
{
    size_t D = a->D;
    assert(kv_page_bytes(8, D));
    uint8_t *record = a->record;
    uint16_t *kp = (uint16_t *)(void *)(record + page_k_params(D));
    uint16_t *vp = (uint16_t *)(void *)(record + page_v_params(D));
    uint8_t k[KV_PAGE_TOKENS * HEAD_DIM_MAX], v[KV_PAGE_TOKENS * HEAD_DIM_MAX];
    for (size_t c = 0; c < D; c++) {
        size_t at = page_k_param_index(D, c);
        code_run(a->k + c, KV_PAGE_TOKENS, a->ldk, &kp[at], &kp[D + at], k + c, D);
    }
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
        size_t at = page_v_param_index(t);
        code_run(a->v + t * a->ldv, D, 1, &vp[at], &vp[KV_PAGE_TOKENS + at], v + t * D, 1);
    }
    page_place_codes(D, k, v, record);
}

static float value(const uint16_t *params, size_t n, size_t at, uint8_t code)
{
    return fmaf((float)code, half_to_float(params[at]), half_to_float(params[n + at]));
}

void ref_kv_page_unpack(const struct kv_page_unpack_args *a)
{
    size_t D = a->D;
    assert(kv_page_bytes(a->bits, D));
    if (a->bits == 16) {
        const uint16_t *k = a->record;
        for (size_t i = 0; i < KV_PAGE_TOKENS * D; i++) {
            a->k[i] = half_to_float(k[i]);
            a->v[i] = half_to_float(k[KV_PAGE_TOKENS * D + i]);
        }
        return;
    }
    const uint8_t *record = a->record;
    const uint16_t *kp = (const uint16_t *)(const void *)(record + page_k_params(D));
    const uint16_t *vp = (const uint16_t *)(const void *)(record + page_v_params(D));
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
        size_t u = t / 32, i = t % 32, j = i % 16 / 4, h = i % 4 / 2, byte = i / 16 * 2 + i % 2;
        for (size_t c = 0; c < D; c++) {
            uint8_t code = record[page_k_word(D, c / 4, t) + c % 4];
            a->k[t * D + c] = value(kp, D, page_k_param_index(D, c), code);
            code = record[page_v_codes(D) + page_v_word(D, u, h, j, c) + byte];
            a->v[t * D + c] = value(vp, KV_PAGE_TOKENS, page_v_param_index(t), code);
        }
    }
}
