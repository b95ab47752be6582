/* SPDX-License-Identifier: Apache-2.0 */
/* host_attend_prefill.c - attention of one layer over a chunk of tokens, in plain C: the specification.
 *
 * The chunk's keys and values first become raw pages of their own (rows before the chunk come from the tail
 * or the stream), full pages become records, then every tile of queries, the chunk's rows of one page, goes
 * over a list of pages: records of earlier pages and the own page raw for retrieval heads, raw sink and
 * window pages for streaming ones.
 * Invariant: kv->tail and kv->stream are only read. Of what the chunk overwrites, only records of pages that
 * were not full before are written, so that a chunk may be given up.
 */
#include "kernels/device_host/device_host.h"
#include "kernels/device_host/host_kv.h"

#include <string.h>

#include "kernels/page.h"

enum { PAGE = KV_PAGE_TOKENS };

/* Where the scratch is cut; all parts 64-byte aligned. */
struct room {
    float *cos, *sin; /* [T][half] */
    float *qk;        /* [T][(H + HK) * D], rotated */
    uint8_t *pages;   /* [HK][n_pages] raw records, by KV head slot: retrieval first */
    float *out;       /* [64][G * D] */
    struct attend_block *list;
    void *attend;
    size_t attend_bytes;
    size_t bytes; /* in all */
};

struct job {
    const struct device_attend_prefill_args *a;
    const struct device_kv *kv;
    const struct kernels *k;
    struct room room;
    size_t G, hr;                /* query heads of a KV head; retrieval heads of the layer */
    size_t first, last, n_pages; /* pages of the chunk */
    int bad;
};

static void *take(uint8_t *base, size_t *at, size_t bytes)
{
    void *p = base ? base + *at : NULL;
    *at += (bytes + 63) / 64 * 64;
    return p;
}

/* With base NULL only `bytes` means something. */
static struct room carve(const struct device_kv *kv, size_t T, size_t pages_seen, uint8_t *base)
{
    struct room y = {0};
    size_t D = kv->D, G = kv->H / kv->HK;
    y.cos = take(base, &y.bytes, T * (D / 2) * sizeof(float));
    y.sin = take(base, &y.bytes, T * (D / 2) * sizeof(float));
    y.qk = take(base, &y.bytes, T * (kv->H + kv->HK) * D * sizeof(float));
    y.pages = take(base, &y.bytes, kv->HK * (T / PAGE + 2) * kv->raw_bytes);
    y.out = take(base, &y.bytes, PAGE * G * D * sizeof(float));
    y.list = take(base, &y.bytes, (pages_seen + kv->sink_pages + kv->R / PAGE + 4) * sizeof *y.list);
    y.attend_bytes = attend_scratch_bytes(PAGE, G, D, 0);
    y.attend = take(base, &y.bytes, y.attend_bytes);
    return y;
}

size_t host_attend_prefill_scratch_bytes(struct device *d, const struct device_kv *kv, size_t T)
{
    (void)d;
    return carve(kv, T, kv->cap_blocks * DEVICE_BLOCK_PAGES, NULL).bytes;
}

/* ---- where things lie --------------------------------------------------------------------------------- */

static uint8_t *record(const struct job *j, size_t page, size_t slot)
{
    return host_kv_record(j->kv, j->a->layer, page, slot);
}

static uint8_t *summary(const struct job *j, size_t page, size_t slot)
{
    return host_kv_summary(j->kv, j->a->layer, page, slot);
}

/* Offset of a page of a retrieval slot in kv->tail and tail_next. */
static size_t tail_at(const struct job *j, size_t slot, size_t page)
{
    return host_kv_tail_at(j->kv, j->a->layer, page, slot);
}

/* Offset of a page of a streaming slot in kv->stream and stream_next. */
static size_t stream_at(const struct job *j, size_t slot, size_t page)
{
    return host_kv_stream_at(j->kv, j->a->layer, page, slot);
}

/* Raw page of the chunk; `head` counts retrieval slots, then streaming ones. */
static uint8_t *own_page(const struct job *j, size_t head, size_t page)
{
    return j->room.pages + (head * j->n_pages + page - j->first) * j->kv->raw_bytes;
}

/* ---- the chunk's pages -------------------------------------------------------------------------------- */

static void rotate(const struct job *j)
{
    const struct device_attend_prefill_args *a = j->a;
    host_rotate(j->k, j->kv, a->qkv, a->ldqkv, a->pos0, a->T, &a->rope, j->room.cos, j->room.sin, j->room.qk);
}

/* Token t's key and value of a KV head into row r of a raw page. */
static void store_row(struct job *j, uint8_t *page, size_t r, size_t t, size_t kv_head)
{
    size_t D = j->kv->D, H = j->kv->H, HK = j->kv->HK;
    uint16_t *k = (uint16_t *)(void *)page + r * D, *v = k + PAGE * D;
    const float *key = j->room.qk + (t * (H + HK) + H + kv_head) * D;
    const float *value = j->a->qkv + t * j->a->ldqkv + (H + HK + kv_head) * D;
    j->k->half_encode(&(struct half_encode_args){.x = key, .y = k, .n = D});
    j->k->half_encode(&(struct half_encode_args){.x = value, .y = v, .n = D});
    for (size_t d = 0; d < D; d++)
        j->bad |= (k[d] & 0x7c00u) == 0x7c00u || (v[d] & 0x7c00u) == 0x7c00u;
}

static void close_page(const struct job *j, size_t slot, size_t page)
{
    size_t D = j->kv->D;
    const uint16_t *k = (const uint16_t *)(const void *)own_page(j, slot, page);
    j->k->kv_page_pack(&(struct kv_page_pack_args){.k = k,
                                                   .ldk = D,
                                                   .v = k + PAGE * D,
                                                   .ldv = D,
                                                   .D = D,
                                                   .format = j->kv->format,
                                                   .record = record(j, page, slot),
                                                   .scan = summary(j, page, slot)});
}

/* Rows [*lo, *hi) of a page are the chunk's. */
static void rows_of(const struct job *j, size_t page, size_t *lo, size_t *hi)
{
    size_t end = j->a->pos0 + j->a->T - page * PAGE;
    *lo = page == j->first ? j->a->pos0 % PAGE : 0;
    *hi = end < PAGE ? end : PAGE;
}

/* The chunk's rows of a page out of its raw page into where the timeline keeps them. */
static void keep_rows(const struct job *j, size_t head, size_t page, uint8_t *to)
{
    size_t D = j->kv->D, lo, hi;
    const uint8_t *from = own_page(j, head, page);
    rows_of(j, page, &lo, &hi);
    memcpy(to + lo * D * 2, from + lo * D * 2, (hi - lo) * D * 2);
    memcpy(to + (PAGE + lo) * D * 2, from + (PAGE + lo) * D * 2, (hi - lo) * D * 2);
}

static void fill_pages(struct job *j, size_t head)
{
    size_t kv_head = j->kv->heads_host[j->a->layer * j->kv->HK + head], streaming = head >= j->hr;
    if (j->a->pos0 % PAGE)
        memcpy(own_page(j, head, j->first),
               streaming ? j->kv->stream + stream_at(j, head - j->hr, j->first)
                         : j->kv->tail + tail_at(j, head, j->first),
               j->kv->raw_bytes);
    for (size_t page = j->first; page <= j->last; page++) {
        size_t lo, hi;
        rows_of(j, page, &lo, &hi);
        for (size_t r = lo; r < hi; r++)
            store_row(j, own_page(j, head, page), r, page * PAGE + r - j->a->pos0, kv_head);
        if (!streaming && hi == PAGE && !j->bad)
            close_page(j, head, page);
    }
}

/* tail_next and stream_next of a head: all of the old, then what of the chunk stays. */
static void keep_head(const struct job *j, size_t head)
{
    const struct device_kv *kv = j->kv;
    if (head < j->hr) {
        memcpy(j->a->tail_next + tail_at(j, head, 0), kv->tail + tail_at(j, head, 0), 2 * kv->raw_bytes);
        for (size_t page = j->first; page <= j->last; page++)
            if (page + 2 > j->last)
                keep_rows(j, head, page, j->a->tail_next + tail_at(j, head, page));
        return;
    }
    size_t slot = head - j->hr, all = kv->sink_pages + kv->ring_pages;
    size_t at = (kv->hs_before[j->a->layer] + slot) * all * kv->raw_bytes;
    memcpy(j->a->stream_next + at, kv->stream + at, all * kv->raw_bytes);
    for (size_t page = j->first; page <= j->last; page++)
        if (page < kv->sink_pages || page + kv->ring_pages > j->last)
            keep_rows(j, head, page, j->a->stream_next + stream_at(j, slot, page));
}

/* ---- attention ---------------------------------------------------------------------------------------- */

static struct attend_block raw_block(const struct job *j, const uint8_t *data, size_t page)
{
    size_t end = j->a->pos0 + j->a->T - page * PAGE;
    return (struct attend_block){
        .data = data, .format = KV_RAW, .base = page * PAGE, .hi = end < PAGE ? (int)end : PAGE};
}

static size_t retrieval_list(const struct job *j, size_t slot, size_t page)
{
    for (size_t p = 0; p < page; p++)
        j->room.list[p] = (struct attend_block){
            .data = record(j, p, slot), .format = j->kv->format, .base = p * PAGE, .hi = PAGE};
    j->room.list[page] = raw_block(j, own_page(j, slot, page), page);
    return page + 1;
}

/* q0: position of the tile's first query, which sees furthest back. */
static size_t streaming_list(const struct job *j, size_t slot, size_t page, size_t q0)
{
    size_t R = j->kv->R, sinks = j->kv->sink_pages, n = 0;
    size_t oldest = q0 + 1 > R ? (q0 + 1 - R) / PAGE : 0;
    oldest = oldest > sinks ? oldest : sinks;
    for (size_t p = 0; p <= page; p++) {
        if (p >= sinks && p < oldest)
            p = oldest; /* <= page: a query sees its own page */
        j->room.list[n++] = raw_block(
            j, p < j->first ? j->kv->stream + stream_at(j, slot, p) : own_page(j, j->hr + slot, p), p);
    }
    return n;
}

static void attend_tile(const struct job *j, size_t head, size_t page)
{
    const struct device_attend_prefill_args *a = j->a;
    size_t D = j->kv->D, G = j->G, heads = j->kv->H + j->kv->HK, lo, hi;
    size_t kv_head = j->kv->heads_host[a->layer * j->kv->HK + head];
    rows_of(j, page, &lo, &hi);
    size_t q0 = page * PAGE + lo, t0 = q0 - a->pos0, T = hi - lo;
    size_t n = head < j->hr ? retrieval_list(j, head, page) : streaming_list(j, head - j->hr, page, q0);
    j->k->attend(&(struct attend_args){.q = j->room.qk + (t0 * heads + kv_head * G) * D,
                                       .ldq = heads * D,
                                       .out = j->room.out,
                                       .ldout = G * D,
                                       .T = T,
                                       .pos0 = q0,
                                       .G = G,
                                       .D = D,
                                       .scale = a->scale,
                                       .blocks = j->room.list,
                                       .n_blocks = n,
                                       .streaming = head >= j->hr,
                                       .S = j->kv->S,
                                       .R = j->kv->R,
                                       .scratch = j->room.attend,
                                       .scratch_bytes = j->room.attend_bytes});
    for (size_t t = 0; t < T; t++)
        j->k->half_encode(&(struct half_encode_args){
            .x = j->room.out + t * G * D, .y = a->out + (t0 + t) * a->ldout + kv_head * G * D, .n = G * D});
}

/* What of the arguments is wrong, or NULL. */
static const char *refusal(const struct device_attend_prefill_args *a)
{
    const struct device_kv *kv = a->kv;
    size_t heads = kv->H + 2 * kv->HK;
    if (!a->T || a->T > DEVICE_CHUNK_T || a->layer >= kv->L)
        return "attend_prefill: no such layer, or a chunk of a size that is not handled";
    if (kv->D > HEAD_DIM_MAX || kv->D % 16 || kv->H % kv->HK || a->rope.half * 2 > kv->D ||
        a->ldqkv < heads * kv->D)
        return "attend_prefill: a shape that is not handled";
    if (a->pos0 + a->T > kv->cap_blocks * DEVICE_BLOCK_PAGES * PAGE && kv->hr[a->layer])
        return "attend_prefill: no blocks for these positions";
    if (kv->ring_pages < kv->R / PAGE + 3)
        return "attend_prefill: the ring of streaming heads is too short";
    if (a->scratch_bytes < carve(kv, a->T, (a->pos0 + a->T + PAGE - 1) / PAGE, NULL).bytes)
        return "attend_prefill: too little scratch";
    return NULL;
}

static void run(struct device *d, const void *args)
{
    const struct device_attend_prefill_args *a = args;
    const char *why = refusal(a);
    if (why) {
        host_keep(d, ERR_USAGE, why);
        return;
    }
    const struct device_kv *kv = a->kv;
    struct job j = {.a = a, .kv = kv, .k = kernels_get(NULL), .G = kv->H / kv->HK, .hr = kv->hr[a->layer]};
    j.first = a->pos0 / PAGE;
    j.last = (a->pos0 + a->T - 1) / PAGE;
    j.n_pages = j.last - j.first + 1;
    j.room = carve(kv, a->T, j.last + 1, a->scratch);
    rotate(&j);
    for (size_t head = 0; head < kv->HK; head++) {
        fill_pages(&j, head);
        keep_head(&j, head);
    }
    if (j.bad)
        *a->failed = 1; /* records may be missing: there is no answer */
    for (size_t head = 0; head < kv->HK; head++)
        for (size_t page = j.first; page <= j.last && !j.bad; page++)
            attend_tile(&j, head, page);
}

void host_attend_prefill(struct device *d, const struct device_attend_prefill_args *a)
{
    host_run(d, run, a, sizeof *a);
}
