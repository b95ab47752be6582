/* SPDX-License-Identifier: Apache-2.0 */
/* host_select.c - page selection in plain C, the specification.
 *
 * A page's score is the largest q . mean of the KV head's G query heads and T rows, out of its scan summary
 * (kernels/kv_page.h). q is rotated in f32 as rope_apply does and rounded to 16 bits, code =
 * rint(q * 32512 / max|q|), so that the sum over channels is one of integers, the same in any order, here and
 * on a card: score = (float)sum * (max|q| / 32512), the largest of all columns, * the summary's scale. A
 * query that has no numbers to offer (zeros, a NaN, an infinity) counts as zeros.
 *
 * Kept are first pages and last pages, then the best of the rest; among equals the lower page.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device_host/device_host.h"
#include "kernels/device_host/host_kv.h"
#include "kernels/half.h"
#include "kernels/page.h"

enum { CODE_MAX = 32512 };

struct scored {
    float score;
    uint32_t page;
};

static size_t pages_of(const struct device_kv *kv, size_t tokens)
{
    size_t most = kv->cap_blocks * DEVICE_BLOCK_PAGES, pages = tokens / KV_PAGE_TOKENS;
    return pages < most ? pages : most;
}

size_t host_select_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens)
{
    (void)d;
    return pages_of(kv, tokens) * sizeof(struct scored);
}

/* q [D] into codes; returns what one unit of them is worth. */
static float quantise(const float *q, size_t D, int32_t *codes)
{
    float top = 0;
    int number = 1;
    for (size_t c = 0; c < D; c++) {
        number &= isfinite(q[c]) != 0;
        top = fabsf(q[c]) > top ? fabsf(q[c]) : top;
    }
    memset(codes, 0, D * sizeof *codes);
    if (!number || !(top > 1e-30f))
        return 0;
    float per = CODE_MAX / top;
    for (size_t c = 0; c < D; c++)
        codes[c] = (int32_t)rintf(q[c] * per);
    return top / CODE_MAX;
}

/* Raises the scores of pages [0, n) to those of one query. */
static void score_column(const struct device_select_args *a, size_t slot, const float *q, size_t n,
                         struct scored *to)
{
    size_t D = a->kv->D;
    int32_t codes[HEAD_DIM_MAX];
    float unit = quantise(q, D, codes);
    for (size_t p = 0; p < n; p++) {
        const int8_t *mean = (const int8_t *)host_kv_summary(a->kv, a->layer, p, slot);
        int32_t sum = 0;
        for (size_t c = 0; c < D; c++)
            sum += codes[c] * mean[c];
        float score = (float)sum * unit;
        to[p].score = score > to[p].score ? score : to[p].score;
    }
}

static void score_head(const struct device_select_args *a, size_t slot, size_t n, struct scored *to)
{
    const struct device_kv *kv = a->kv;
    const struct kernels *ref = kernels_get("ref");
    size_t G = kv->H / kv->HK, head = kv->heads_host[a->layer * kv->HK + slot];
    float q[HEAD_DIM_MAX], cosines[HEAD_DIM_MAX / 2], sines[HEAD_DIM_MAX / 2];
    for (size_t p = 0; p < n; p++)
        to[p] = (struct scored){.score = -INFINITY, .page = (uint32_t)p};
    for (size_t t = 0; t < a->T; t++) {
        ref->rope_table(&(struct rope_table_args){.pos0 = a->step->position + t,
                                                  .T = 1,
                                                  .steps = a->rope.steps,
                                                  .half = a->rope.half,
                                                  .attn_factor = a->rope.attn_factor,
                                                  .cos = cosines,
                                                  .sin = sines});
        for (size_t g = 0; g < G; g++) {
            memcpy(q, a->qkv + t * a->ldqkv + (head * G + g) * kv->D, kv->D * sizeof *q);
            ref->rope_apply(&(struct rope_apply_args){.kind = a->rope.kind,
                                                      .x = q,
                                                      .ldx = kv->D,
                                                      .T = 1,
                                                      .heads = 1,
                                                      .D = kv->D,
                                                      .half = a->rope.half,
                                                      .cos = cosines,
                                                      .sin = sines});
            score_column(a, slot, q, n, to);
        }
    }
    for (size_t p = 0; p < n; p++) {
        uint16_t scale;
        memcpy(&scale, host_kv_summary(a->kv, a->layer, p, slot) + kv->D, sizeof scale);
        to[p].score *= half_to_float(scale);
    }
}

static int by_score(const void *x, const void *y)
{
    const struct scored *a = x, *b = y;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->page < b->page ? -1 : a->page > b->page;
}

static int by_page(const void *x, const void *y)
{
    const uint32_t *a = x, *b = y;
    return *a < *b ? -1 : *a > *b;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void select_head(const struct device_select_args *a, size_t slot, size_t n, struct scored *scored)
{
    uint32_t *pages = a->pages + slot * a->stride;
    size_t keep = min_size(a->budget, n), k = 0;
    if (keep < n)
        score_head(a, slot, n, scored);
    size_t first = keep == n ? n : min_size(a->kv->sink_pages ? a->kv->sink_pages : 1, keep);
    size_t last = min_size(a->recent, keep - first), best = keep - first - last;
    for (size_t p = 0; p < first; p++)
        pages[k++] = (uint32_t)p;
    if (best)
        qsort(scored + first, n - first - last, sizeof *scored, by_score);
    for (size_t i = 0; i < best; i++)
        pages[k++] = scored[first + i].page;
    qsort(pages + first, best, sizeof *pages, by_page);
    for (size_t p = n - last; p < n; p++)
        pages[k++] = (uint32_t)p;
    a->counts[slot] = (uint32_t)k;
}

/* What a graph keeps: the caller's struct device_kv may be gone at its replay. */
struct call {
    struct device_select_args a;
    struct device_kv kv;
};

static void run(struct device *d, const void *args)
{
    const struct call *call = args;
    const struct device_kv *kv = &call->kv;
    struct device_select_args args_here = call->a, *a = &args_here;
    a->kv = kv;
    size_t n = (size_t)(a->step->position / KV_PAGE_TOKENS);
    if (n > kv->cap_blocks * DEVICE_BLOCK_PAGES || n * sizeof(struct scored) > a->scratch_bytes) {
        host_keep(d, ERR_LIMIT, "select: the position is past its blocks or its scratch");
        return;
    }
    for (size_t slot = 0; slot < kv->hr[a->layer]; slot++)
        select_head(a, slot, n, a->scratch);
}

void host_select(struct device *d, const struct device_select_args *a)
{
    if (a->T < 1 || a->T > DEVICE_DECODE_T || !a->budget || a->stride < a->budget || !a->kv->D ||
        a->kv->D > HEAD_DIM_MAX || 2 * a->rope.half > a->kv->D) {
        host_keep(d, ERR_USAGE, "select: shapes");
        return;
    }
    struct call call = {.a = *a, .kv = *a->kv};
    host_run(d, run, &call, sizeof call);
}
