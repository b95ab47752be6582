/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_select.cu - page selection: a scan of the summaries (select_scan.cu), then the best pages of each head
 * in order (select_top.cu). host_select.c is the specification.
 */
#include "kernels/cuda/select_pages.h"

static select_pages::params params_of(const struct device_select_args *x)
{
    const struct device_kv *kv = x->kv;
    const size_t hr = kv->hr[x->layer], most = kv->cap_blocks * DEVICE_BLOCK_PAGES;
    const size_t ranges = hr * select_pages::RANGES * sizeof(uint2);
    const size_t room = (x->scratch_bytes - ranges) / (sizeof(float) * hr);
    select_pages::params a = {};
    a.blocks = kv->blocks;
    a.qkv = x->qkv;
    a.step = x->step;
    a.rope_steps = x->rope.steps;
    a.heads = kv->heads + x->layer * kv->HK;
    a.ranges = (uint2 *)x->scratch;
    a.scores = (float *)((uint8_t *)x->scratch + ranges);
    a.pages = x->pages;
    a.counts = x->counts;
    a.ldqkv = x->ldqkv;
    a.scan_bytes = kv->scan_bytes;
    a.first_summary =
        DEVICE_BLOCK_PAGES * (kv->HR * kv->record_bytes + kv->hr_before[x->layer] * kv->scan_bytes);
    a.stride = x->stride;
    a.max_pages = room < most ? room : most;
    a.hr = (int)hr;
    a.G = (int)(kv->H / kv->HK);
    a.T = (int)x->T;
    a.rope_half = (int)x->rope.half;
    a.rope_halves = x->rope.kind == ROPE_HALVES;
    a.attn_factor = x->rope.attn_factor;
    a.budget = (uint32_t)x->budget;
    a.recent = (uint32_t)(x->recent < x->budget ? x->recent : x->budget);
    a.sink = (uint32_t)(kv->sink_pages ? kv->sink_pages : 1);
    return a;
}

static const char *refusal(const struct device_select_args *a)
{
    const struct device_kv *kv = a->kv;
    if (kv->D != 64 && kv->D != 128)
        return "heads of 64 or 128 channels alone";
    if (a->T < 1 || a->T > DEVICE_DECODE_T || kv->H / kv->HK * a->T > select_pages::COLUMNS_MAX)
        return "too many query heads";
    if (a->scratch_bytes < kv->HK * select_pages::RANGES * sizeof(uint2))
        return "too little scratch";
    if (!a->budget || a->budget > UINT32_MAX / 2 || a->stride < a->budget || 2 * a->rope.half > kv->D)
        return "shapes";
    return NULL;
}

size_t cuda_select_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens)
{
    (void)d;
    const size_t most = kv->cap_blocks * DEVICE_BLOCK_PAGES, pages = tokens / KV_PAGE_TOKENS;
    return kv->HK * ((pages < most ? pages : most) * sizeof(float) + select_pages::RANGES * sizeof(uint2));
}

void cuda_select(struct device *d, const struct device_select_args *x)
{
    const char *why = refusal(x);
    if (why) {
        cuda_refuse(d, "select", why);
        return;
    }
    if (!x->kv->hr[x->layer])
        return;
    select_pages::params a = params_of(x);
    if (!select_pages::run_scan(d, x->kv->D, a))
        select_pages::run_top(d, a);
}
