/* SPDX-License-Identifier: Apache-2.0 */
/* page_body.h - packing of a KV page in vectors; included once by page_avx2.c and page_avx512.c.
 *
 * The very bytes of the plain C op: the same float operations on each value, sums in the same order. Words of
 * a K line are tokens and those of a V line channels, so K is transposed and then both kinds are built lane
 * by lane: code vectors shifted into place and joined.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/half.h"
#include "kernels/page.h"
#include "kernels/ref/ref.h"

enum { LINE_PARTS = 16 / VW };

/* Grids of a run of channels or tokens as floats; step is 1 where the scale is 0: all codes are then 0. */
struct grids {
    float step[HEAD_DIM_MAX], min[HEAD_DIM_MAX];
};

static void put_grid(struct grids *g, size_t at, struct page_grid grid, uint16_t *scale, uint16_t *min)
{
    *scale = grid.scale;
    *min = grid.min;
    g->step[at] = grid.scale ? half_to_float(grid.scale) : 1;
    g->min[at] = half_to_float(grid.min);
}

static void key_grids(const struct kv_page_pack_args *a, const struct page_layout *y, struct grids *g)
{
    uint16_t *params = (uint16_t *)(void *)((uint8_t *)a->record + y->k_params);
    for (size_t c = 0; c < a->D; c += VW) {
        float lo[VW], hi[VW];
        vf low = vf_set1(INFINITY), high = vf_set1(-INFINITY);
        for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
            vf v = vf_load_half(a->k + t * a->ldk + c);
            low = vf_min(low, v);
            high = vf_max(high, v);
        }
        vf_store(lo, vf_add(low, vf_zero()));
        vf_store(hi, vf_add(high, vf_zero()));
        for (size_t i = 0; i < VW; i++) {
            uint16_t *at = params + page_k_param_index(a->D, c + i);
            put_grid(g, c + i, page_grid(lo[i], hi[i], y->k_bits), at, at + a->D);
        }
    }
}

static void value_grids(const struct kv_page_pack_args *a, const struct page_layout *y, struct grids *g)
{
    uint16_t *params = (uint16_t *)(void *)((uint8_t *)a->record + y->v_params);
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
        vf low = vf_set1(INFINITY), high = vf_set1(-INFINITY);
        for (size_t c = 0; c < a->D; c += VW) {
            vf v = vf_load_half(a->v + t * a->ldv + c);
            low = vf_min(low, v);
            high = vf_max(high, v);
        }
        float lo = -vf_top(vf_sub(vf_zero(), low)) + 0.0f, hi = vf_top(high) + 0.0f;
        uint16_t *at = params + page_v_param_index(t);
        put_grid(g, t, page_grid(lo, hi, y->v_bits), at, at + KV_PAGE_TOKENS);
    }
}

/* Joins `n` code vectors (bits [from, from + bits) of each) into the words of a line's part. */
INLINE vi join_codes(const vi *codes, size_t n, int from, int bits, int shift)
{
    vi words = vi_zero();
    for (size_t i = 0; i < n; i++)
        words =
            vi_or(words, vi_left(vi_and(vi_right(codes[i], from), (1 << bits) - 1), shift + (int)i * bits));
    return words;
}

/* VW tokens from t0 on: keys[channel] has a lane for each. */
static void transpose_keys(const struct kv_page_pack_args *a, size_t t0, vf *keys)
{
    for (size_t c = 0; c < a->D; c += VW) {
        for (size_t i = 0; i < VW; i++)
            keys[c + i] = vf_load_half(a->k + (t0 + i) * a->ldk + c);
        vf_transpose(keys + c);
    }
}

/* One plane of the keys of VW tokens; the two halves of a word of 1 bit come from t16 even, then odd. */
static void put_key_plane(const vi *codes, size_t D, int from, int bits, size_t t16, size_t part, uint8_t *to)
{
    size_t per = bits == 1 ? 16 : 32 / (size_t)bits;
    for (size_t group = 0; group < D / per; group++) {
        uint8_t *line = to + page_k_line(D, bits, t16, group) * 64;
        size_t swap = group >> 1 & 1;
        int second = bits == 1 && t16 % 2;
        vi words = join_codes(codes + group * per, per, from, bits, second ? 16 : 0);
        if (second)
            words = vi_or(words, vi_line(line, swap, part));
        vi_store_line(line, swap, part, words);
    }
}

static void pack_keys(const struct kv_page_pack_args *a, const struct page_layout *y)
{
    size_t D = a->D;
    struct grids g;
    key_grids(a, y, &g);
    float top = (float)((1 << y->k_bits) - 1);
    vf keys[HEAD_DIM_MAX];
    vi codes[HEAD_DIM_MAX];
    for (size_t t0 = 0; t0 < KV_PAGE_TOKENS; t0 += VW) {
        transpose_keys(a, t0, keys);
        for (size_t c = 0; c < D; c++)
            codes[c] = vf_codes(vf_div(vf_sub(keys[c], vf_set1(g.min[c])), vf_set1(g.step[c])), top);
        size_t t16 = t0 / 16, part = t0 % 16 / VW;
        int low = y->k_bits == 3 ? 2 : y->k_bits;
        put_key_plane(codes, D, 0, low, t16, part, a->record);
        if (y->k_bits == 3)
            put_key_plane(codes, D, 2, 1, t16, part, (uint8_t *)a->record + page_plane_bytes(D, 2));
    }
}

/* One plane of column j of VW channels, vector `x` of the head. */
static void put_value_plane(const vi codes[16], size_t D, int from, int bits, size_t x, size_t j, uint8_t *to)
{
    size_t per = bits == 1 ? 16 : 32 / (size_t)bits, mt = x / LINE_PARTS, part = x % LINE_PARTS;
    for (size_t i = 0; i < 16; i += per) {
        size_t number = page_v_line(D, bits, mt, j, i);
        uint8_t *line = to + number * 64;
        int second = bits == 1 && j % 2;
        vi words = join_codes(codes + i, per, from, bits, second ? 16 : 0);
        if (second)
            words = vi_or(words, vi_line(line, number >> 1 & 1, part));
        vi_store_line(line, number >> 1 & 1, part, words);
    }
}

static void pack_values(const struct kv_page_pack_args *a, const struct page_layout *y)
{
    size_t D = a->D;
    struct grids g;
    value_grids(a, y, &g);
    float top = (float)((1 << y->v_bits) - 1);
    uint8_t *to = (uint8_t *)a->record + y->v_codes;
    for (size_t x = 0; x < D / VW; x++)
        for (size_t j = 0; j < 4; j++) {
            vi codes[16];
            for (size_t i = 0; i < 16; i++) {
                size_t t = page_v_token(j, i);
                vf v = vf_sub(vf_load_half(a->v + t * a->ldv + x * VW), vf_set1(g.min[t]));
                codes[i] = vf_codes(vf_div(v, vf_set1(g.step[t])), top);
            }
            int low = y->v_bits == 3 ? 2 : y->v_bits;
            put_value_plane(codes, D, 0, low, x, j, to);
            if (y->v_bits == 3)
                put_value_plane(codes, D, 2, 1, x, j, to + page_plane_bytes(D, 2));
        }
}

static void scan_keys(const struct kv_page_pack_args *a)
{
    size_t D = a->D;
    float mean[HEAD_DIM_MAX], point[HEAD_DIM_MAX];
    for (size_t c = 0; c < D; c += VW) {
        vf sum = vf_zero();
        for (size_t t = 0; t < KV_PAGE_TOKENS; t++)
            sum = vf_add(sum, vf_load_half(a->k + t * a->ldk + c));
        vf_store(mean + c, vf_div(sum, vf_set1(KV_PAGE_TOKENS)));
    }
    page_scan_means(mean, D, a->scan, point);
    vf furthest = vf_zero(), keys[HEAD_DIM_MAX];
    for (size_t t0 = 0; t0 < KV_PAGE_TOKENS; t0 += VW) {
        transpose_keys(a, t0, keys);
        vf sum = vf_zero();
        for (size_t c = 0; c < D; c++) {
            vf d = vf_sub(keys[c], vf_set1(point[c]));
            sum = vf_fma(d, d, sum);
        }
        furthest = vf_max(furthest, sum);
    }
    page_scan_radius(vf_top(furthest), D, a->scan);
}

void OP(kv_page_pack)(const struct kv_page_pack_args *a)
{
    assert(kv_page_bytes(a->format, a->D));
    if (a->D % 16) {
        ref_kv_page_pack(a);
        return;
    }
    if (a->format == KV_RAW) {
        ref_kv_page_pack_raw(a);
    } else {
        struct page_layout y = page_layout(a->format, a->D);
        pack_keys(a, &y);
        pack_values(a, &y);
    }
    if (a->scan)
        scan_keys(a);
}
