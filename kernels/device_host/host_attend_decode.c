/* SPDX-License-Identifier: Apache-2.0 */
/* host_attend_decode.c - attention of one layer over the up to four tokens of a decode step, in plain C: the
 * specification.
 *
 * The step's keys and values go to the tail or the stream first; then every KV head goes over a list of
 * pages, records of earlier pages and the own page raw for retrieval heads, raw sink and window pages for
 * streaming ones; a page that the step has filled becomes its record last. Invariant: the blocks are read for
 * pages before the own one, and written for a page that is full alone.
 */
#include "kernels/device_host/device_host.h"
#include "kernels/device_host/host_kv.h"

#include <string.h>

#include "kernels/page.h"

enum { PAGE = KV_PAGE_TOKENS };

/* The arguments with all that they point to on the host, so that a recorded step keeps them. */
struct call {
    struct device_attend_decode_args a;
    struct device_kv kv;
    struct device_page_list list, audit;
};

/* Where the scratch is cut; all parts 64-byte aligned. */
struct room {
    float *cos, *sin; /* [T][half] */
    float *qk;        /* [T][(H + HK) * D], rotated */
    float *out;       /* [T][G * D] */
    struct attend_block *blocks;
    float *shares; /* [blocks] */
    void *attend;
    size_t attend_bytes;
    size_t bytes; /* in all */
};

struct job {
    const struct device_attend_decode_args *a;
    const struct device_kv *kv;
    const struct kernels *k;
    struct room room;
    size_t G, hr, T;
    size_t pos, own; /* position of row 0; its page */
};

static void *take(uint8_t *base, size_t *at, size_t bytes)
{
    void *p = base ? base + *at : NULL;
    *at += (bytes + 63) / 64 * 64;
    return p;
}

/* With base NULL only `bytes` means something. `pages`: the longest list. */
static struct room carve(const struct device_kv *kv, size_t pages, int shares, uint8_t *base)
{
    struct room y = {0};
    size_t D = kv->D, G = kv->H / kv->HK, T = DEVICE_DECODE_T;
    y.cos = take(base, &y.bytes, T * (D / 2) * sizeof(float));
    y.sin = take(base, &y.bytes, T * (D / 2) * sizeof(float));
    y.qk = take(base, &y.bytes, T * (kv->H + kv->HK) * D * sizeof(float));
    y.out = take(base, &y.bytes, T * G * D * sizeof(float));
    y.blocks = take(base, &y.bytes, pages * sizeof *y.blocks);
    y.shares = take(base, &y.bytes, shares ? pages * sizeof(float) : 0);
    y.attend_bytes = attend_scratch_bytes(T, G, D, shares ? pages : 0);
    y.attend = take(base, &y.bytes, y.attend_bytes);
    return y;
}

static size_t longest_list(const struct device_kv *kv, size_t pages)
{
    size_t streamed = kv->sink_pages + kv->ring_pages;
    return pages > streamed ? pages : streamed;
}

size_t host_attend_decode_scratch_bytes(struct device *d, const struct device_kv *kv, size_t tokens, int mass)
{
    (void)d;
    return carve(kv, longest_list(kv, (tokens + PAGE - 1) / PAGE), mass, NULL).bytes;
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

/* Raw page of a head; `head` counts retrieval slots, then streaming ones. */
static uint8_t *raw_page(const struct job *j, size_t head, size_t page)
{
    const struct device_kv *kv = j->kv;
    return head < j->hr ? kv->tail + host_kv_tail_at(kv, j->a->layer, page, head)
                        : kv->stream + host_kv_stream_at(kv, j->a->layer, page, head - j->hr);
}

/* ---- the step's own rows ------------------------------------------------------------------------------ */

static void rotate(const struct job *j)
{
    const struct device_attend_decode_args *a = j->a;
    host_rotate(j->k, j->kv, a->qkv, a->ldqkv, j->pos, j->T, &a->rope, j->room.cos, j->room.sin, j->room.qk);
}

static int finite(const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((x[i] & 0x7c00) == 0x7c00)
            return 0;
    return 1;
}

/* Keys and values of the step into the head's own page; 0 when one is not finite. */
static int append(const struct job *j, size_t head)
{
    size_t D = j->kv->D, H = j->kv->H, HK = j->kv->HK, r0 = j->pos % PAGE;
    size_t kv_head = j->kv->heads_host[j->a->layer * HK + head];
    uint16_t *k = (uint16_t *)(void *)raw_page(j, head, j->own) + r0 * D, *v = k + PAGE * D;
    for (size_t t = 0; t < j->T; t++) {
        j->k->half_encode(&(struct half_encode_args){
            .x = j->room.qk + (t * (H + HK) + H + kv_head) * D, .y = k + t * D, .n = D});
        j->k->half_encode(&(struct half_encode_args){
            .x = j->a->qkv + t * j->a->ldqkv + (H + HK + kv_head) * D, .y = v + t * D, .n = D});
    }
    return finite(k, j->T * D) && finite(v, j->T * D);
}

static void close_page(const struct job *j, size_t slot)
{
    size_t D = j->kv->D;
    const uint16_t *k = (const uint16_t *)(const void *)raw_page(j, slot, j->own);
    j->k->kv_page_pack(&(struct kv_page_pack_args){.k = k,
                                                   .ldk = D,
                                                   .v = k + PAGE * D,
                                                   .ldv = D,
                                                   .D = D,
                                                   .format = j->kv->format,
                                                   .record = record(j, j->own, slot),
                                                   .scan = summary(j, j->own, slot)});
}

/* ---- attention ---------------------------------------------------------------------------------------- */

static struct attend_block raw_block(const struct job *j, size_t head, size_t page)
{
    size_t end = j->pos + j->T - page * PAGE;
    return (struct attend_block){.data = raw_page(j, head, page),
                                 .format = KV_RAW,
                                 .base = page * PAGE,
                                 .hi = end < PAGE ? (int)end : PAGE};
}

/* Full pages that a retrieval head visits, and the i-th of them. */
static size_t visits(const struct job *j, size_t slot)
{
    return j->a->list ? j->a->list->counts[slot] : j->own;
}

static size_t visit(const struct job *j, size_t slot, size_t i)
{
    return j->a->list ? j->a->list->pages[slot * j->a->list->stride + i] : i;
}

static size_t retrieval_blocks(const struct job *j, size_t slot)
{
    size_t n = visits(j, slot);
    for (size_t i = 0; i < n; i++) {
        size_t page = visit(j, slot, i);
        j->room.blocks[i] = (struct attend_block){
            .data = record(j, page, slot), .format = j->kv->format, .base = page * PAGE, .hi = PAGE};
    }
    j->room.blocks[n] = raw_block(j, slot, j->own);
    return n + 1;
}

static size_t streaming_blocks(const struct job *j, size_t head)
{
    size_t R = j->kv->R, sinks = j->kv->sink_pages, n = 0;
    size_t oldest = j->pos + 1 > R ? (j->pos + 1 - R) / PAGE : 0;
    oldest = oldest > sinks ? oldest : sinks;
    for (size_t p = 0; p <= j->own; p++) {
        if (p >= sinks && p < oldest)
            p = oldest; /* <= the own page: a query sees itself */
        j->room.blocks[n++] = raw_block(j, head, p);
    }
    return n;
}

/* Row t's shares of a retrieval head's blocks to who asked for them. */
static void add_shares(const struct job *j, size_t slot, size_t n, size_t t)
{
    const struct device_page_list *audit = j->a->audit;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t page = i + 1 < n ? visit(j, slot, i) : j->own;
        float share = j->room.shares[i];
        if (j->a->mass)
            j->a->mass[t * j->a->mass_stride + page] += share;
        if (!audit)
            continue;
        while (at < audit->counts[slot] && audit->pages[slot * audit->stride + at] < page)
            at++;
        if (page == j->own || (at < audit->counts[slot] && audit->pages[slot * audit->stride + at] == page))
            j->a->visited[0] += share;
        j->a->visited[1] += share;
    }
}

/* Rows [t, t + T) of a head over n blocks. */
static void attend_rows(const struct job *j, size_t head, size_t n, size_t t, size_t T, float *shares)
{
    size_t D = j->kv->D, G = j->G, heads = j->kv->H + j->kv->HK;
    size_t kv_head = j->kv->heads_host[j->a->layer * j->kv->HK + head];
    j->k->attend(&(struct attend_args){.q = j->room.qk + (t * heads + kv_head * G) * D,
                                       .ldq = heads * D,
                                       .out = j->room.out + t * G * D,
                                       .ldout = G * D,
                                       .T = T,
                                       .pos0 = j->pos + t,
                                       .G = G,
                                       .D = D,
                                       .scale = j->a->scale,
                                       .blocks = j->room.blocks,
                                       .n_blocks = n,
                                       .streaming = head >= j->hr,
                                       .S = j->kv->S,
                                       .R = j->kv->R,
                                       .mass = shares,
                                       .scratch = j->room.attend,
                                       .scratch_bytes = j->room.attend_bytes});
}

static void attend_head(const struct job *j, size_t head)
{
    const struct device_attend_decode_args *a = j->a;
    size_t D = j->kv->D, G = j->G, kv_head = j->kv->heads_host[a->layer * j->kv->HK + head];
    size_t n = head < j->hr ? retrieval_blocks(j, head) : streaming_blocks(j, head);
    if (head < j->hr && (a->mass || a->audit))
        for (size_t t = 0; t < j->T; t++) {
            memset(j->room.shares, 0, n * sizeof(float));
            attend_rows(j, head, n, t, 1, j->room.shares);
            add_shares(j, head, n, t);
        }
    else
        attend_rows(j, head, n, 0, j->T, NULL);
    for (size_t t = 0; t < j->T; t++) {
        float *row = j->room.out + t * G * D;
        for (size_t i = 0; i < G * D; i++)
            row[i] = row[i] > 65504 ? 65504 : row[i] < -65504 ? -65504 : row[i];
        j->k->half_encode(
            &(struct half_encode_args){.x = row, .y = a->out + t * a->ldout + kv_head * G * D, .n = G * D});
    }
}

/* What of the arguments is wrong, or NULL. */
static const char *refusal(const struct job *j)
{
    const struct device_attend_decode_args *a = j->a;
    const struct device_kv *kv = j->kv;
    if (!j->T || j->T > DEVICE_DECODE_T || a->layer >= kv->L || (j->pos + j->T - 1) / PAGE != j->own)
        return "attend_decode: no such layer, or rows that are not of one page";
    if (kv->D > HEAD_DIM_MAX || kv->D % 16 || !kv->HK || kv->H % kv->HK || a->rope.half * 2 > kv->D ||
        a->ldqkv < (kv->H + 2 * kv->HK) * kv->D || a->ldout < kv->H * kv->D)
        return "attend_decode: a shape that is not handled";
    if (kv->hr[a->layer] && j->own / DEVICE_BLOCK_PAGES >= kv->cap_blocks)
        return "attend_decode: no blocks for these positions";
    if (kv->ring_pages < kv->R / PAGE + 3)
        return "attend_decode: the ring of streaming heads is too short";
    if (!a->audit != !a->visited || (a->audit && a->list))
        return "attend_decode: an audit goes with `visited` and without a list";
    return NULL;
}

static void run(struct device *d, const void *args)
{
    const struct call *c = args;
    struct device_attend_decode_args a = c->a;
    a.kv = &c->kv;
    a.list = a.list ? &c->list : NULL;
    a.audit = a.audit ? &c->audit : NULL;
    struct job j = {.a = &a, .kv = a.kv, .k = kernels_get(NULL), .T = a.T, .pos = a.step->position};
    j.own = j.pos / PAGE;
    const char *why = refusal(&j);
    if (!why) {
        j.G = j.kv->H / j.kv->HK;
        j.hr = j.kv->hr[a.layer];
        size_t pages = longest_list(j.kv, j.own + 1);
        j.room = carve(j.kv, pages, a.mass || a.audit, a.scratch);
        if (j.room.bytes > a.scratch_bytes)
            why = "attend_decode: too little scratch";
    }
    if (why) {
        host_keep(d, ERR_USAGE, why);
        return;
    }
    int good = 1;
    rotate(&j);
    for (size_t head = 0; head < j.kv->HK; head++)
        good &= append(&j, head);
    if (!good)
        *a.failed = 1; /* the page is not closed: there is no answer */
    for (size_t head = 0; head < j.kv->HK; head++)
        attend_head(&j, head);
    for (size_t slot = 0; good && slot < j.hr && (j.pos + j.T) % PAGE == 0; slot++)
        close_page(&j, slot);
}

void host_attend_decode(struct device *d, const struct device_attend_decode_args *a)
{
    struct call c = {.a = *a, .kv = *a->kv};
    if (a->list)
        c.list = *a->list;
    if (a->audit)
        c.audit = *a->audit;
    host_run(d, run, &c, sizeof c);
}
