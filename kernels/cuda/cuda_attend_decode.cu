/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_attend_decode.cu - attention of a decode step on the card: checks, scratch, and the two launches that
 * decode_attend.h describes. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/decode_attend.h"

/* Scratch; all parts 256-byte aligned. */
struct room {
    float *partial, *partial_ml, *head_lse, *lse;
    size_t lse_pages, bytes;
};

static void *take(uint8_t *base, size_t *at, size_t bytes)
{
    void *p = base ? base + *at : NULL;
    *at += (bytes + 255) / 256 * 256;
    return p;
}

/* Most retrieval heads of a layer; 1 when there are none. */
static size_t widest(const struct device_kv *kv)
{
    size_t hr = 1;
    for (size_t l = 0; l < kv->L; l++)
        hr = kv->hr[l] > hr ? kv->hr[l] : hr;
    return hr;
}

static size_t columns_max(const struct device_kv *kv)
{
    return kv->H / kv->HK * DEVICE_DECODE_T;
}

/* What a card with `grid` blocks needs for `pages` pages; with base NULL only `bytes` means something. */
static struct room carve(const struct device_kv *kv, int grid, size_t pages, int shares, uint8_t *base)
{
    struct room y = {};
    size_t hr = widest(kv), columns = columns_max(kv), slots = (size_t)grid + 2 * hr;
    y.partial = (float *)take(base, &y.bytes, slots * columns * kv->D * sizeof(float));
    y.partial_ml = (float *)take(base, &y.bytes, slots * columns * 2 * sizeof(float));
    if (shares) {
        y.head_lse = (float *)take(base, &y.bytes, hr * columns * sizeof(float));
        y.lse = (float *)take(base, &y.bytes, hr * columns * pages * sizeof(float));
    }
    return y;
}

static int grid_of(struct device *d)
{
    int sms = cuda_of(d)->sms;
    return sms < decode::GRID_MAX ? sms : decode::GRID_MAX;
}

size_t cuda_attend_decode_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens, int mass)
{
    size_t pages = (tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    return carve(kv, grid_of(d), pages, mass, NULL).bytes;
}

/* What of the arguments is wrong, or NULL. */
static const char *refusal(const struct device_attend_decode_args *a)
{
    const struct device_kv *kv = a->kv;
    if (!a->T || a->T > DEVICE_DECODE_T || a->layer >= kv->L)
        return "no such layer, or a number of rows that is not handled";
    if ((kv->D != 64 && kv->D != 128) || !kv->HK || kv->HK > decode::HEADS_MAX || kv->H % kv->HK ||
        a->rope.half * 2 > kv->D || a->ldqkv < (kv->H + 2 * kv->HK) * kv->D || a->ldout < kv->H * kv->D)
        return "a shape that is not handled (heads are 64 or 128 wide)";
    if (kv->format != KV_4 && kv->format != KV_8 && kv->format != KV_K8V4 && kv->format != KV_RAW)
        return "this KV format is not handled on the card (kv4, kv8, k8v4 and raw are)";
    if (kv->ring_pages < kv->R / KV_PAGE_TOKENS + 3)
        return "the ring of streaming heads is too short";
    if (!a->audit != !a->visited || (a->audit && a->list))
        return "an audit goes with `visited` and without a list";
    return NULL;
}

/* Microseconds of one block, in full pages at the pace of a block when all read. */
static int pages_of_time(const struct device_kv *kv, double us)
{
    return (int)(us * 23500 / (double)kv->record_bytes) + 1;
}

static struct decode::args arguments(struct device *d, const struct device_attend_decode_args *a)
{
    const struct device_kv *kv = a->kv;
    struct decode::args y = {};
    size_t l = a->layer, hr = kv->hr[l];
    y.qkv = a->qkv;
    y.ldqkv = a->ldqkv;
    y.step = a->step;
    y.rope_steps = a->rope.steps;
    y.rope_half = (int)a->rope.half;
    y.rope_pairs = a->rope.kind == ROPE_PAIRS;
    y.rope_factor = a->rope.attn_factor;
    y.q_scale = a->scale * 1.44269504088896f;
    y.T = (int)a->T;
    y.G = (int)(kv->H / kv->HK);
    y.H = (int)kv->H;
    y.HK = (int)kv->HK;
    y.hr = (int)hr;
    y.hs = (int)(kv->HK - hr);
    y.columns = y.T * y.G;
    y.out = a->out;
    y.ldout = a->ldout;
    for (size_t i = 0; i < kv->HK; i++)
        y.heads[i] = (uint8_t)kv->heads_host[l * kv->HK + i];
    y.blocks = kv->blocks;
    y.cap_blocks = kv->cap_blocks;
    y.record_bytes = kv->record_bytes;
    y.raw_bytes = kv->raw_bytes;
    y.scan_bytes = kv->scan_bytes;
    y.first_record = (size_t)kv->hr_before[l] * DEVICE_BLOCK_PAGES;
    y.first_summary = DEVICE_BLOCK_PAGES * kv->HR * kv->record_bytes + y.first_record * kv->scan_bytes;
    y.format = kv->format;
    y.tail = kv->tail + (size_t)kv->hr_before[l] * 2 * kv->raw_bytes;
    y.stream = kv->stream + (size_t)kv->hs_before[l] * (kv->sink_pages + kv->ring_pages) * kv->raw_bytes;
    y.sink_pages = (int)kv->sink_pages;
    y.ring_pages = (int)kv->ring_pages;
    y.S = (int64_t)kv->S;
    y.R = (int64_t)kv->R;
    if (a->list) {
        y.list = a->list->pages;
        y.list_counts = a->list->counts;
        y.list_stride = a->list->stride;
    }
    y.failed = a->failed;
    y.grid = grid_of(d);
    /* of the first rows, the pieces of sixteen tokens and the merge: as measured on an H100 */
    y.own_cost = pages_of_time(kv, 4.5);
    y.stream_cost = pages_of_time(kv, 4 + 0.6 * (double)(kv->sink_pages + kv->R / KV_PAGE_TOKENS + 1));
    y.cross_cost = pages_of_time(kv, 16);
    return y;
}

static cudaError_t attend(struct device *d, struct decode::args *y, int format, int D)
{
    const struct cuda_device *c = cuda_of(d);
    cudaStream_t stream = cuda_compute(d);
    switch (format) {
    case KV_4:
        return decode::attend_kv4(y, D, c->smem_block, c->hopper, stream);
    case KV_8:
        return decode::attend_kv8(y, D, c->smem_block, c->hopper, stream);
    case KV_K8V4:
        return decode::attend_k8v4(y, D, c->smem_block, c->hopper, stream);
    default:
        return decode::attend_raw(y, D, c->smem_block, c->hopper, stream);
    }
}

void cuda_attend_decode(struct device *d, const struct device_attend_decode_args *a)
{
    const char *why = refusal(a);
    int shares = a->mass || a->audit;
    struct room room = {};
    if (!why)
        room = carve(a->kv, grid_of(d), 0, shares, (uint8_t *)a->scratch);
    if (!why && room.bytes > a->scratch_bytes)
        why = "too little scratch";
    if (!why && room.lse) { /* the rest of the scratch tells how many pages it was asked for */
        room.lse_pages =
            (a->scratch_bytes - room.bytes) / (widest(a->kv) * columns_max(a->kv) * sizeof(float));
        if (!room.lse_pages)
            why = "too little scratch for shares";
    }
    if (why) {
        cuda_refuse(d, "attend_decode", why);
        return;
    }
    struct decode::args y = arguments(d, a);
    y.partial = room.partial;
    y.partial_ml = room.partial_ml;
    if (shares && y.hr) {
        y.lse = room.lse;
        y.head_lse = room.head_lse;
        y.lse_pages = room.lse_pages;
    }
    cudaStream_t stream = cuda_compute(d);
    if (y.lse && y.list) /* pages that are not visited stay NaN */
        cuda_keep(
            d, cudaMemsetAsync(y.lse, 0xff, (size_t)y.hr * y.lse_pages * y.columns * sizeof(float), stream),
            "attend_decode");
    cuda_keep(d, attend(d, &y, a->kv->format, (int)a->kv->D), "attend_decode");
    if (!y.hr)
        return;
    cuda_keep(d, decode::finish(y, (int)a->kv->D, cuda_of(d)->hopper, stream), "attend_decode");
    if (y.lse)
        cuda_keep(d, decode::shares(y, a->mass, a->mass_stride, a->audit, a->visited, stream),
                  "attend_decode");
}
