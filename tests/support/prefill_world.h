/* SPDX-License-Identifier: Apache-2.0 */
/* prefill_world.h - a layer's timeline as it must be, for tests of attend_prefill: rows, raw pages, records
 * and summaries by the plain C kernels, and attention by the rule of visibility, key by key, in double.
 * Include after cmocka.h. */
#ifndef LECTERN_TESTS_PREFILL_WORLD_H
#define LECTERN_TESTS_PREFILL_WORLD_H

#include "kernels/device.h"
#include "tests/support/kernels_support.h"

enum { LAYERS = 2, PAGE = 64 };

struct shape {
    size_t H, HK, D, S, R;
    int format;
    uint32_t hr[LAYERS]; /* retrieval heads */
    enum rope_kind kind;
    size_t half;
    size_t past; /* tokens that are there before the first chunk */
    size_t N;    /* tokens in all */
};

/* One layer's timeline as it must be: rows past..N come out of qkv, earlier ones are random. */
struct world {
    struct shape s;
    size_t layer, G, pages;
    uint32_t heads[LAYERS][64];
    uint32_t hr_before[LAYERS], hs_before[LAYERS];
    size_t HR, HS;
    uint64_t steps[128];
    float scale;
    float *qkv, *q;  /* [N - past][(H + 2 HK) D], [N - past][H D] rotated */
    uint16_t *raw;   /* [HK][pages] raw records by slot */
    float *k, *v;    /* [HK][pages * 64][D] by slot: what a query of a later page sees */
    uint8_t *record; /* [hr][pages] */
    uint8_t *scan;   /* [hr][pages] */
};

static inline size_t record_bytes(const struct world *w)
{
    return kv_page_bytes(w->s.format, w->s.D);
}

static inline uint16_t *raw_row(const struct world *w, size_t slot, size_t position, int value)
{
    return w->raw + ((slot * w->pages + position / PAGE) * 2 + (size_t)value) * PAGE * w->s.D +
           position % PAGE * w->s.D;
}

static inline void world_rows(struct world *w, struct random *r)
{
    struct shape s = w->s;
    size_t T = s.N - s.past, cols = (s.H + 2 * s.HK) * s.D;
    const struct kernels *ref = kernels_get("ref");
    for (size_t i = 0; i < T * cols; i++)
        w->qkv[i] = random_normal(r) + (i % s.D == 3 ? 2.0f : 0.0f);
    float *cos = malloc(T * s.half * sizeof(float)), *sin = malloc(T * s.half * sizeof(float));
    float *all = malloc(T * cols * sizeof(float));
    memcpy(all, w->qkv, T * cols * sizeof(float));
    ref->rope_table(&(struct rope_table_args){.pos0 = s.past,
                                              .T = T,
                                              .steps = w->steps,
                                              .half = s.half,
                                              .attn_factor = 1.25f,
                                              .cos = cos,
                                              .sin = sin});
    ref->rope_apply(&(struct rope_apply_args){.kind = s.kind,
                                              .x = all,
                                              .ldx = cols,
                                              .T = T,
                                              .heads = s.H + s.HK,
                                              .D = s.D,
                                              .half = s.half,
                                              .cos = cos,
                                              .sin = sin});
    for (size_t t = 0; t < T; t++) {
        memcpy(w->q + t * s.H * s.D, all + t * cols, s.H * s.D * sizeof(float));
        for (size_t slot = 0; slot < s.HK; slot++)
            for (int value = 0; value < 2; value++) {
                size_t column = (s.H + (value ? s.HK : 0) + w->heads[w->layer][slot]) * s.D;
                for (size_t d = 0; d < s.D; d++)
                    raw_row(w, slot, s.past + t, value)[d] = half_from_float(all[t * cols + column + d]);
            }
    }
    free(cos);
    free(sin);
    free(all);
}

static inline void world_page(struct world *w, size_t slot, size_t page)
{
    const struct kernels *ref = kernels_get("ref");
    size_t D = w->s.D, at = (slot * w->pages + page) * PAGE * D, i = slot * w->pages + page;
    const uint16_t *raw = w->raw + 2 * at;
    struct kv_page_unpack_args u = {.record = raw, .format = KV_RAW, .D = D, .k = w->k + at, .v = w->v + at};
    if (slot < w->s.hr[w->layer]) {
        ref->kv_page_pack(&(struct kv_page_pack_args){.k = raw,
                                                      .ldk = D,
                                                      .v = raw + PAGE * D,
                                                      .ldv = D,
                                                      .D = D,
                                                      .format = w->s.format,
                                                      .record = w->record + i * record_bytes(w),
                                                      .scan = w->scan + i * kv_scan_bytes(D)});
        u.record = w->record + i * record_bytes(w);
        u.format = w->s.format;
    }
    ref->kv_page_unpack(&u);
}

static inline void world_make(struct world *w, struct shape s, size_t layer, uint64_t seed)
{
    struct random r = {seed};
    *w = (struct world){.s = s, .layer = layer, .G = s.H / s.HK, .pages = (s.N + PAGE - 1) / PAGE};
    for (size_t l = 0; l < LAYERS; l++) {
        w->hr_before[l] = (uint32_t)w->HR;
        w->hs_before[l] = (uint32_t)w->HS;
        w->HR += s.hr[l];
        w->HS += s.HK - s.hr[l];
        for (size_t i = 0; i < s.HK; i++) /* not in order: 1, 2, .. 0 */
            w->heads[l][i] = (uint32_t)((i + 1) % s.HK);
    }
    for (size_t i = 0; i < s.half; i++)
        w->steps[i] = (uint64_t)(0x1p64 / 6.283185307179586 * pow(10000, -(double)i / (double)s.half));
    w->scale = 1 / sqrtf((float)s.D);
    size_t T = s.N - s.past, rows = s.HK * w->pages * PAGE;
    w->qkv = malloc(T * (s.H + 2 * s.HK) * s.D * sizeof(float));
    w->q = malloc(T * s.H * s.D * sizeof(float));
    w->raw = aligned_zero(rows * 2 * s.D * sizeof(uint16_t));
    w->k = malloc(rows * s.D * sizeof(float));
    w->v = malloc(rows * s.D * sizeof(float));
    w->record = aligned_zero(s.HK * w->pages * record_bytes(w));
    w->scan = aligned_zero(s.HK * w->pages * kv_scan_bytes(s.D));
    for (size_t slot = 0; slot < s.HK; slot++)
        for (size_t p = 0; p < s.past; p++)
            for (size_t d = 0; d < 2 * s.D; d++)
                raw_row(w, slot, p, d >= s.D)[d % s.D] = half_from_float(random_normal(&r));
    world_rows(w, &r);
    for (size_t slot = 0; slot < s.HK; slot++)
        for (size_t page = 0; page < w->pages; page++)
            world_page(w, slot, page);
}

static inline void world_free(struct world *w)
{
    free(w->qkv);
    free(w->q);
    free(w->raw);
    free(w->k);
    free(w->v);
    free(w->record);
    free(w->scan);
}

/* Query head g of a slot at `position`, by the rule, in double. */
static inline void plain(const struct world *w, size_t slot, size_t g, size_t position, double *score,
                         double *out)
{
    size_t D = w->s.D, streaming = slot >= w->s.hr[w->layer], own = position / PAGE;
    const float *q = w->q + ((position - w->s.past) * w->s.H + w->heads[w->layer][slot] * w->G + g) * D;
    double top = -INFINITY, sum = 0;
    memset(out, 0, D * sizeof *out);
    for (int pass = 0; pass < 2; pass++)
        for (size_t p = 0; p <= position; p++) {
            if (streaming && p >= w->s.S && position - p >= w->s.R)
                continue;
            size_t at = (slot * w->pages * PAGE + p) * D;
            int raw = p / PAGE == own;
            if (!pass) {
                double s = 0;
                for (size_t d = 0; d < D; d++)
                    s += (double)q[d] *
                         (double)(raw ? half_to_float(raw_row(w, slot, p, 0)[d]) : w->k[at + d]);
                score[p] = s * (double)w->scale;
                top = score[p] > top ? score[p] : top;
                continue;
            }
            double e = exp(score[p] - top);
            sum += e;
            for (size_t d = 0; d < D; d++)
                out[d] += e * (double)(raw ? half_to_float(raw_row(w, slot, p, 1)[d]) : w->v[at + d]);
        }
    for (size_t d = 0; d < D; d++)
        out[d] /= sum;
}

#endif
