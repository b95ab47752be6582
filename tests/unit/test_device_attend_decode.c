/* SPDX-License-Identifier: Apache-2.0 */
/* test_device_attend_decode.c - attention of a decode step on the host device and, where there is one, the
 * card: against the CPU's plain attend over a history kept apart, in every format, at the edges of pages and
 * blocks; what it appends and closes; shares and audits; rows and runs bit for bit. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/device.h"
#include "tests/support/kernels_support.h"

enum { PAGE = 64, LAYERS = 2, HEADS_MAX = 8, ROWS = DEVICE_DECODE_T };

struct shape {
    size_t G, HK, D, S, R;
    uint32_t hr[LAYERS];
};

/* One timeline on a device, and its history on the host: token t of KV head h of layer l at [l][h][t][D],
 * keys rotated. */
struct world {
    struct device *d;
    struct shape s;
    struct device_kv kv;
    size_t tokens;   /* room of the history, whole pages */
    uint16_t *k, *v; /* fp16 */
    uint32_t hr_before[LAYERS], hs_before[LAYERS], heads[LAYERS * HEADS_MAX];
    uint64_t steps[64];
    uint64_t *steps_d;
    uint8_t *slab;
    uint64_t *table; /* of blocks, on the device */
    size_t tail_bytes, stream_bytes;
    struct device_step *step;
    float *qkv, *mass, *visited;
    uint16_t *out;
    uint32_t *failed, *heads_d, *list_pages, *list_counts;
    void *scratch;
    size_t scratch_bytes;
};

static void *take(struct device *d, size_t bytes)
{
    struct err e = {0};
    void *p;
    if (d->ops->alloc(d, bytes, &p, &e))
        fail_msg("%s", e.text);
    return p;
}

static void settle(struct device *d)
{
    struct err e = {0};
    if (d->ops->sync(d, DEVICE_COMPUTE, &e))
        fail_msg("%s", e.text);
}

static void put(struct device *d, void *to, const void *from, size_t bytes)
{
    d->ops->upload(d, DEVICE_COMPUTE, to, from, bytes);
    settle(d);
}

static void get(struct device *d, void *to, const void *from, size_t bytes)
{
    d->ops->download(d, DEVICE_COMPUTE, to, from, bytes);
    settle(d);
}

static uint16_t *history(const struct world *w, uint16_t *of, size_t l, size_t head, size_t t)
{
    return of + ((l * w->s.HK + head) * w->tokens + t) * w->s.D;
}

static void pack(const struct world *w, int format, size_t l, size_t head, size_t page, void *record,
                 void *scan)
{
    kernels_get(NULL)->kv_page_pack(&(struct kv_page_pack_args){.k = history(w, w->k, l, head, page * PAGE),
                                                                .ldk = w->s.D,
                                                                .v = history(w, w->v, l, head, page * PAGE),
                                                                .ldv = w->s.D,
                                                                .D = w->s.D,
                                                                .format = format,
                                                                .record = record,
                                                                .scan = scan});
}

static void world_layout(struct world *w, int format)
{
    struct device_kv *kv = &w->kv;
    const struct shape *s = &w->s;
    *kv = (struct device_kv){.L = LAYERS, .H = s->G * s->HK, .HK = s->HK, .D = s->D, .S = s->S, .R = s->R};
    for (size_t l = 0; l < LAYERS; l++) {
        w->hr_before[l] = (uint32_t)kv->HR;
        w->hs_before[l] = (uint32_t)kv->HS;
        kv->HR += s->hr[l];
        kv->HS += s->HK - s->hr[l];
        for (size_t i = 0; i < s->HK; i++) /* some order that is not the heads' own */
            w->heads[l * s->HK + i] = (uint32_t)((s->HK - 1 - i + l) % s->HK);
    }
    kv->format = format;
    kv->record_bytes = kv_page_bytes(format, s->D);
    kv->scan_bytes = kv_scan_bytes(s->D);
    kv->raw_bytes = kv_page_bytes(KV_RAW, s->D);
    kv->block_bytes = DEVICE_BLOCK_PAGES * kv->HR * (kv->record_bytes + kv->scan_bytes);
    kv->sink_pages = (s->S + PAGE - 1) / PAGE;
    kv->ring_pages = s->R / PAGE + 3;
    kv->hr = w->s.hr;
    kv->hr_before = w->hr_before;
    kv->hs_before = w->hs_before;
    kv->heads_host = w->heads;
    kv->cap_blocks = w->tokens / PAGE / DEVICE_BLOCK_PAGES + 1;
    w->tail_bytes = kv->HR * 2 * kv->raw_bytes;
    w->stream_bytes = kv->HS * (kv->sink_pages + kv->ring_pages) * kv->raw_bytes;
}

/* The blocks lie in one slab, last block first, each aligned to 256. */
static uint8_t *block_at(const struct world *w, size_t block)
{
    size_t stride = (w->kv.block_bytes + 255) / 256 * 256;
    return w->slab + (w->kv.cap_blocks - 1 - block) * stride;
}

static size_t mass_bytes(const struct world *w)
{
    return ROWS * w->kv.cap_blocks * 16 * sizeof(float);
}

static void world_buffers(struct world *w)
{
    struct device_kv *kv = &w->kv;
    struct device *d = w->d;
    size_t heads = kv->H + 2 * kv->HK;
    w->slab = take(d, kv->cap_blocks * ((kv->block_bytes + 255) / 256 * 256));
    w->table = take(d, kv->cap_blocks * 8);
    uint64_t *table = calloc(kv->cap_blocks, 8);
    assert_non_null(table);
    for (size_t b = 0; b < kv->cap_blocks; b++)
        table[b] = (uint64_t)(uintptr_t)block_at(w, b);
    put(d, w->table, table, kv->cap_blocks * 8);
    free(table);
    kv->blocks = w->table;
    kv->tail = take(d, w->tail_bytes);
    kv->stream = take(d, w->stream_bytes);
    w->heads_d = take(d, sizeof w->heads);
    put(d, w->heads_d, w->heads, LAYERS * w->s.HK * 4);
    kv->heads = w->heads_d;
    w->steps_d = take(d, sizeof w->steps);
    put(d, w->steps_d, w->steps, sizeof w->steps);
    w->step = take(d, sizeof *w->step);
    w->qkv = take(d, ROWS * (heads * kv->D + 7) * sizeof(float));
    w->out = take(d, ROWS * (kv->H * kv->D + 8) * 2);
    w->mass = take(d, mass_bytes(w));
    w->visited = take(d, 2 * sizeof(float));
    w->failed = take(d, 4);
    w->list_pages = take(d, w->s.HK * (w->tokens / PAGE) * 4);
    w->list_counts = take(d, w->s.HK * 4);
    w->scratch_bytes = d->ops->attend_decode_scratch_bytes(d, kv, w->tokens, 1);
    w->scratch = take(d, w->scratch_bytes);
}

static void world_open(struct world *w, struct device *d, struct shape s, int format, size_t tokens,
                       uint64_t seed)
{
    struct random r = {seed};
    *w = (struct world){.d = d, .s = s, .tokens = (tokens + PAGE - 1) / PAGE * PAGE};
    size_t n = LAYERS * s.HK * w->tokens * s.D;
    w->k = malloc(n * 2);
    w->v = malloc(n * 2);
    assert_true(w->k && w->v);
    for (size_t i = 0; i < n; i++) {
        w->k[i] = half_from_float(random_normal(&r) + (i % s.D == 5 ? 3 : 0));
        w->v[i] = half_from_float(random_normal(&r) + (i % s.D == 7 ? 1 : 0));
    }
    for (size_t i = 0; i < s.D / 2; i++) /* like frequencies of a base of 10,000 */
        w->steps[i] = (uint64_t)(pow(10000, -2.0 * (double)i / (double)s.D) * 0x1p64 / 6.283185307179586);
    world_layout(w, format);
    world_buffers(w);
}

static void world_close(struct world *w)
{
    void *all[] = {w->slab,    w->table,  w->kv.tail,    w->kv.stream,   w->heads_d,
                   w->steps_d, w->step,   w->qkv,        w->out,         w->mass,
                   w->visited, w->failed, w->list_pages, w->list_counts, w->scratch};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        w->d->ops->release(w->d, all[i]);
    free(w->k);
    free(w->v);
}

/* Rows of one page of the history up to `upto` into a raw record; what follows is NaN. */
static void raw_rows(const struct world *w, size_t l, size_t head, size_t page, size_t upto, uint8_t *to)
{
    size_t D = w->s.D, n = upto > page * PAGE ? upto - page * PAGE : 0;
    n = n < PAGE ? n : PAGE;
    memset(to, 0xff, w->kv.raw_bytes);
    memcpy(to, history(w, w->k, l, head, page * PAGE), n * D * 2);
    memcpy(to + PAGE * D * 2, history(w, w->v, l, head, page * PAGE), n * D * 2);
}

/* The device holds the first `pos` tokens; all else that it may read or write is NaN. */
static void world_set(struct world *w, size_t pos)
{
    struct device_kv *kv = &w->kv;
    size_t page = pos / PAGE, stride = (kv->block_bytes + 255) / 256 * 256,
           all = kv->sink_pages + kv->ring_pages;
    uint8_t *slab = malloc(kv->cap_blocks * stride + 1), *tail = malloc(w->tail_bytes + 1),
            *stream = malloc(w->stream_bytes + 1);
    assert_true(slab && tail && stream);
    memset(slab, 0xff, kv->cap_blocks * stride);
    memset(tail, 0xff, w->tail_bytes);
    memset(stream, 0xff, w->stream_bytes);
    for (size_t l = 0; l < LAYERS; l++)
        for (size_t i = 0; i < w->s.HK; i++) {
            size_t head = w->heads[l * w->s.HK + i], hr = w->s.hr[l];
            if (i < hr) {
                for (size_t p = 0; p < page; p++) {
                    uint8_t *block = slab + (block_at(w, p / 16) - w->slab);
                    size_t at = w->hr_before[l] * 16 + p % 16 * hr + i;
                    pack(w, kv->format, l, head, p, block + at * kv->record_bytes,
                         block + 16 * kv->HR * kv->record_bytes + at * kv->scan_bytes);
                }
                raw_rows(w, l, head, page, pos,
                         tail + ((w->hr_before[l] + i) * 2 + (page & 1)) * kv->raw_bytes);
                continue;
            }
            for (size_t p = 0; p <= page; p++) {
                size_t at = p < kv->sink_pages ? p : kv->sink_pages + p % kv->ring_pages;
                raw_rows(w, l, head, p, pos,
                         stream + ((w->hs_before[l] + i - hr) * all + at) * kv->raw_bytes);
            }
        }
    put(w->d, w->slab, slab, kv->cap_blocks * stride);
    put(w->d, kv->tail, tail, w->tail_bytes);
    put(w->d, kv->stream, stream, w->stream_bytes);
    free(slab);
    free(tail);
    free(stream);
}

/* ---- one call ------------------------------------------------------------------------------------------ */

struct call {
    size_t layer, pos, T;
    const float *qkv;      /* [T][ldqkv] */
    const uint32_t *pages; /* of a list or an audit: [HK][n_pages] */
    size_t n_pages;
    int list, audit, mass; /* mass 2: a row apart */
    enum rope_kind kind;
};

struct answer {
    float *out; /* [T][H * D] */
    float *mass;
    float visited[2];
    uint32_t failed;
};

static size_t ldqkv(const struct world *w)
{
    return (w->kv.H + 2 * w->kv.HK) * w->s.D + 5;
}

static struct device_rope rope_of(const struct world *w, const struct call *c, const uint64_t *steps)
{
    return (struct device_rope){.steps = steps,
                                .half = w->s.D / 2 - (c->kind == ROPE_PAIRS ? 8 : 0),
                                .kind = c->kind,
                                .attn_factor = c->kind == ROPE_PAIRS ? 1.25f : 1};
}

static void prepare(struct world *w, const struct call *c)
{
    struct device_step step = {.position = c->pos};
    put(w->d, w->step, &step, sizeof step);
    put(w->d, w->qkv, c->qkv, c->T * ldqkv(w) * sizeof(float));
    w->d->ops->fill(w->d, DEVICE_COMPUTE, w->out, 0xff, ROWS * (w->kv.H * w->s.D + 8) * 2);
    w->d->ops->fill(w->d, DEVICE_COMPUTE, w->mass, 0, mass_bytes(w));
    w->d->ops->fill(w->d, DEVICE_COMPUTE, w->visited, 0, 2 * sizeof(float));
    w->d->ops->fill(w->d, DEVICE_COMPUTE, w->failed, 0, 4);
    w->d->ops->fill(w->d, DEVICE_COMPUTE, w->scratch, 0xff, w->scratch_bytes);
    if (c->pages) {
        uint32_t counts[HEADS_MAX];
        for (size_t i = 0; i < w->s.HK; i++)
            counts[i] = (uint32_t)(c->n_pages > i ? c->n_pages - i : 0); /* lists of unequal lengths */
        put(w->d, w->list_pages, c->pages, w->s.HK * c->n_pages * 4);
        put(w->d, w->list_counts, counts, w->s.HK * 4);
    }
}

static void decode(struct world *w, const struct call *c)
{
    struct device_page_list list = {.pages = w->list_pages, .counts = w->list_counts, .stride = c->n_pages};
    w->d->ops->attend_decode(
        w->d, &(struct device_attend_decode_args){.kv = &w->kv,
                                                  .layer = c->layer,
                                                  .qkv = w->qkv,
                                                  .ldqkv = ldqkv(w),
                                                  .step = w->step,
                                                  .T = c->T,
                                                  .rope = rope_of(w, c, w->steps_d),
                                                  .scale = 1 / sqrtf((float)w->s.D),
                                                  .out = w->out,
                                                  .ldout = w->kv.H * w->s.D + 8,
                                                  .mass = c->mass ? w->mass : NULL,
                                                  .mass_stride = c->mass == 2 ? w->kv.cap_blocks * 16 : 0,
                                                  .list = c->list ? &list : NULL,
                                                  .audit = c->audit ? &list : NULL,
                                                  .visited = c->audit ? w->visited : NULL,
                                                  .failed = w->failed,
                                                  .scratch = w->scratch,
                                                  .scratch_bytes = w->scratch_bytes});
}

/* Raw bits of the answer, [T][H * D]; the caller frees. Columns beyond are untouched. */
static uint16_t *bits_of(struct world *w, const struct call *c)
{
    size_t n = w->kv.H * w->s.D;
    uint16_t *all = malloc(ROWS * (n + 8) * 2);
    assert_non_null(all);
    get(w->d, all, w->out, ROWS * (n + 8) * 2);
    for (size_t t = 0; t < ROWS; t++)
        for (size_t i = t < c->T ? n : 0; i < n + 8; i++)
            assert_int_equal(all[t * (n + 8) + i], 0xffff);
    for (size_t t = 1; t < c->T; t++)
        memmove(all + t * n, all + t * (n + 8), n * 2);
    return all;
}

static struct answer run(struct world *w, const struct call *c)
{
    struct answer y = {0};
    size_t n = w->kv.H * w->s.D;
    prepare(w, c);
    decode(w, c);
    settle(w->d);
    uint16_t *bits = bits_of(w, c);
    y.out = malloc(c->T * n * sizeof(float));
    y.mass = malloc(mass_bytes(w));
    assert_true(y.out && y.mass);
    for (size_t i = 0; i < c->T * n; i++)
        y.out[i] = half_to_float(bits[i]);
    free(bits);
    get(w->d, y.mass, w->mass, mass_bytes(w));
    get(w->d, y.visited, w->visited, sizeof y.visited);
    get(w->d, &y.failed, w->failed, 4);
    return y;
}

static void answer_free(struct answer *y)
{
    free(y->out);
    free(y->mass);
}

/* ---- what must come out -------------------------------------------------------------------------------- */

/* Rotates the call's q and k, puts its keys and values into the history; returns q, f32 [T][H * D]. */
static float *rotated(struct world *w, const struct call *c)
{
    const struct kernels *ref = kernels_get("ref");
    size_t D = w->s.D, H = w->kv.H, HK = w->s.HK, heads = H + HK;
    float cos[ROWS * 64], sin[ROWS * 64], *x = malloc(c->T * heads * D * sizeof(float));
    struct device_rope r = rope_of(w, c, w->steps);
    assert_non_null(x);
    for (size_t t = 0; t < c->T; t++)
        memcpy(x + t * heads * D, c->qkv + t * ldqkv(w), heads * D * sizeof(float));
    ref->rope_table(&(struct rope_table_args){.pos0 = c->pos,
                                              .T = c->T,
                                              .steps = r.steps,
                                              .half = r.half,
                                              .attn_factor = r.attn_factor,
                                              .cos = cos,
                                              .sin = sin});
    ref->rope_apply(&(struct rope_apply_args){.kind = r.kind,
                                              .x = x,
                                              .ldx = heads * D,
                                              .T = c->T,
                                              .heads = heads,
                                              .D = D,
                                              .half = r.half,
                                              .cos = cos,
                                              .sin = sin});
    for (size_t t = 0; t < c->T; t++)
        for (size_t h = 0; h < HK; h++)
            for (size_t i = 0; i < D; i++) {
                history(w, w->k, c->layer, h, c->pos + t)[i] =
                    half_from_float(x[(t * heads + H + h) * D + i]);
                history(w, w->v, c->layer, h, c->pos + t)[i] =
                    half_from_float(c->qkv[t * ldqkv(w) + (H + HK + h) * D + i]);
            }
    for (size_t t = 1; t < c->T; t++)
        memmove(x + t * H * D, x + t * heads * D, H * D * sizeof(float));
    return x;
}

struct pages {
    uint8_t *bytes; /* room of a record each */
    struct attend_block *blocks;
    size_t n;
};

static void add_page(struct world *w, struct pages *p, const struct call *c, size_t head, size_t page,
                     int format)
{
    uint8_t *at = p->bytes + p->n * w->kv.raw_bytes;
    size_t left = c->pos + c->T - page * PAGE;
    if (format == KV_RAW)
        raw_rows(w, c->layer, head, page, c->pos + c->T, at);
    else
        pack(w, format, c->layer, head, page, at, NULL);
    p->blocks[p->n++] = (struct attend_block){
        .data = at, .format = format, .base = page * PAGE, .hi = left < PAGE ? (int)left : PAGE};
}

static void gather(struct world *w, struct pages *p, const struct call *c, size_t slot, int streaming)
{
    size_t own = c->pos / PAGE, head = w->heads[c->layer * w->s.HK + slot];
    size_t n_list = c->n_pages > slot ? c->n_pages - slot : 0;
    p->n = 0;
    for (size_t i = 0; c->list && !streaming && i < n_list; i++)
        add_page(w, p, c, head, c->pages[slot * c->n_pages + i], w->kv.format);
    for (size_t page = 0; (!c->list || streaming) && page < own; page++)
        add_page(w, p, c, head, page, streaming ? KV_RAW : w->kv.format);
    add_page(w, p, c, head, own, KV_RAW);
}

/* Adds a head's shares to the expected mass and audit. */
static void expect_shares(const struct world *w, const struct call *c, const struct pages *p, size_t slot,
                          const float *shares, size_t t, struct answer *y)
{
    size_t n_list = c->n_pages > slot ? c->n_pages - slot : 0;
    for (size_t b = 0; b < p->n; b++) {
        size_t page = p->blocks[b].base / PAGE;
        int on = page == c->pos / PAGE;
        for (size_t i = 0; c->audit && i < n_list; i++)
            on |= c->pages[slot * c->n_pages + i] == page;
        y->mass[(c->mass == 2 ? t * w->kv.cap_blocks * 16 : 0) + page] += shares[b];
        y->visited[0] += on ? shares[b] : 0;
        y->visited[1] += shares[b];
    }
}

static struct answer expected(struct world *w, const struct call *c)
{
    size_t D = w->s.D, G = w->s.G, H = w->kv.H, n_pages = c->pos / PAGE + 1;
    struct answer y = {.out = malloc(c->T * H * D * sizeof(float)), .mass = calloc(1, mass_bytes(w))};
    float *q = rotated(w, c), *shares = malloc(n_pages * sizeof(float));
    struct pages p = {.bytes = aligned_zero(n_pages * w->kv.raw_bytes),
                      .blocks = malloc(n_pages * sizeof *p.blocks)};
    size_t bytes = attend_scratch_bytes(c->T, G, D, n_pages);
    void *scratch = aligned_zero(bytes);
    assert_true(y.out && y.mass && shares && p.blocks);
    for (size_t slot = 0; slot < w->s.HK; slot++) {
        int streaming = slot >= w->s.hr[c->layer];
        size_t head = w->heads[c->layer * w->s.HK + slot];
        gather(w, &p, c, slot, streaming);
        for (size_t t = 0; t < c->T; t++) {
            memset(shares, 0, n_pages * sizeof(float));
            kernels_get("ref")->attend(&(struct attend_args){.q = q + (t * H + head * G) * D,
                                                             .ldq = H * D,
                                                             .out = y.out + (t * H + head * G) * D,
                                                             .ldout = H * D,
                                                             .T = 1,
                                                             .pos0 = c->pos + t,
                                                             .G = G,
                                                             .D = D,
                                                             .scale = 1 / sqrtf((float)D),
                                                             .blocks = p.blocks,
                                                             .n_blocks = p.n,
                                                             .streaming = streaming,
                                                             .S = w->s.S,
                                                             .R = w->s.R,
                                                             .mass = shares,
                                                             .scratch = scratch,
                                                             .scratch_bytes = bytes});
            if (!streaming)
                expect_shares(w, c, &p, slot, shares, t, &y);
        }
    }
    free(q);
    free(shares);
    free(p.bytes);
    free(p.blocks);
    free(scratch);
    return y;
}

/* |got - want| / |want|; infinite with a NaN. */
static double distance(const float *got, const float *want, size_t n)
{
    double d = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        all += (double)want[i] * want[i];
    }
    d = sqrt(d / (all > 0 ? all : 1));
    return isnan(d) ? (double)INFINITY : d;
}

static void assert_row(const struct world *w, const struct call *c, const float *got, const float *want,
                       size_t t)
{
    size_t D = w->s.D;
    for (size_t h = 0; h < w->kv.H; h++) {
        const float *g = got + (t * w->kv.H + h) * D, *x = want + (t * w->kv.H + h) * D;
        double off = distance(g, x, D);
        if (!(off <= 3e-3))
            fail_msg("%s %s D %zu G %zu layer %zu position %zu T %zu list %d: row %zu head %zu is off by %g "
                     "(%g %g %g %g, not %g %g %g %g)",
                     w->d->ops->name, kv_format_name(w->kv.format), D, w->s.G, c->layer, c->pos, c->T,
                     c->list, t, h, off, (double)g[0], (double)g[1], (double)g[2], (double)g[3], (double)x[0],
                     (double)x[1], (double)x[2], (double)x[3]);
    }
}

/* ---- what the device keeps ----------------------------------------------------------------------------- */

/* The raw page of a slot as the device holds it; the caller frees. */
static uint8_t *kept_page(struct world *w, size_t l, size_t slot, size_t page)
{
    struct device_kv *kv = &w->kv;
    size_t hr = w->s.hr[l], at = page < kv->sink_pages ? page : kv->sink_pages + page % kv->ring_pages;
    const uint8_t *from =
        slot < hr ? kv->tail + ((w->hr_before[l] + slot) * 2 + (page & 1)) * kv->raw_bytes
                  : kv->stream + ((w->hs_before[l] + slot - hr) * (kv->sink_pages + kv->ring_pages) + at) *
                                     kv->raw_bytes;
    uint8_t *y = aligned_zero(kv->raw_bytes);
    get(w->d, y, from, kv->raw_bytes);
    return y;
}

/* Old rows are as they were, new ones within a rounding of the expected. */
static void assert_kept(struct world *w, const struct call *c, size_t slot)
{
    size_t page = c->pos / PAGE, D = w->s.D, head = w->heads[c->layer * w->s.HK + slot];
    uint8_t *got = kept_page(w, c->layer, slot, page), *want = aligned_zero(w->kv.raw_bytes);
    raw_rows(w, c->layer, head, page, c->pos + c->T, want);
    for (size_t r = 0; r < c->pos % PAGE + c->T; r++)
        for (size_t part = 0; part < 2; part++) {
            const uint16_t *g = (const uint16_t *)(void *)got + (part * PAGE + r) * D;
            const uint16_t *x = (const uint16_t *)(void *)want + (part * PAGE + r) * D;
            if (r < c->pos % PAGE || part == 1) {
                assert_memory_equal(g, x, D * 2);
                continue;
            }
            for (size_t i = 0; i < D; i++)
                assert_true(fabsf(half_to_float(g[i]) - half_to_float(x[i])) <=
                            2e-3f * (1 + fabsf(half_to_float(x[i]))));
        }
    free(got);
    free(want);
}

/* A page that the call has filled: its record and summary are those of the rows that the device keeps, bit
 * for bit; otherwise they are untouched. */
static void assert_closed(struct world *w, const struct call *c, size_t slot)
{
    struct device_kv *kv = &w->kv;
    size_t page = c->pos / PAGE, hr = w->s.hr[c->layer], D = w->s.D;
    size_t at = w->hr_before[c->layer] * 16 + page % 16 * hr + slot;
    uint8_t *record = aligned_zero(kv->record_bytes), *scan = aligned_zero(kv->scan_bytes);
    uint8_t *want = aligned_zero(kv->record_bytes), *want_scan = aligned_zero(kv->scan_bytes);
    get(w->d, record, block_at(w, page / 16) + at * kv->record_bytes, kv->record_bytes);
    get(w->d, scan, block_at(w, page / 16) + 16 * kv->HR * kv->record_bytes + at * kv->scan_bytes,
        kv->scan_bytes);
    if ((c->pos + c->T) % PAGE) {
        memset(want, 0xff, kv->record_bytes);
        memset(want_scan, 0xff, kv->scan_bytes);
    } else {
        uint8_t *raw = kept_page(w, c->layer, slot, page);
        const uint16_t *k = (const uint16_t *)(void *)raw;
        kernels_get("ref")->kv_page_pack(&(struct kv_page_pack_args){.k = k,
                                                                     .ldk = D,
                                                                     .v = k + PAGE * D,
                                                                     .ldv = D,
                                                                     .D = D,
                                                                     .format = kv->format,
                                                                     .record = want,
                                                                     .scan = want_scan});
        free(raw);
    }
    assert_memory_equal(record, want, kv->record_bytes);
    assert_memory_equal(scan, want_scan, kv->scan_bytes);
    free(record);
    free(scan);
    free(want);
    free(want_scan);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static float *random_qkv(const struct world *w, struct random *r)
{
    size_t n = ROWS * ldqkv(w), D = w->s.D;
    float *x = malloc(n * sizeof(float));
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_normal(r) * (i % ldqkv(w) < w->kv.H * D ? 1.5f : 1);
    return x;
}

static void check(struct world *w, const struct call *c)
{
    world_set(w, c->pos);
    struct answer got = run(w, c), want = expected(w, c);
    for (size_t t = 0; t < c->T; t++)
        assert_row(w, c, got.out, want.out, t);
    assert_int_equal(got.failed, 0);
    for (size_t slot = 0; slot < w->s.HK; slot++) {
        assert_kept(w, c, slot);
        if (slot < w->s.hr[c->layer])
            assert_closed(w, c, slot);
    }
    if (c->mass)
        for (size_t p = 0; p < mass_bytes(w) / 4; p++)
            assert_true(fabsf(got.mass[p] - want.mass[p]) <= 2e-3f * (0.01f + want.mass[p]));
    for (int i = 0; c->audit && i < 2; i++)
        assert_true(fabsf(got.visited[i] - want.visited[i]) <= 2e-3f * (0.01f + want.visited[i]));
    answer_free(&got);
    answer_free(&want);
}

static const struct shape shapes[] = {
    {.G = 3, .HK = 3, .D = 64, .S = 64, .R = 128, .hr = {2, 0}},
    {.G = 4, .HK = 2, .D = 128, .S = 100, .R = 256, .hr = {1, 2}},
    {.G = 1, .HK = 5, .D = 64, .S = 1, .R = 65, .hr = {5, 3}},
    {.G = 7, .HK = 2, .D = 128, .S = 128, .R = 192, .hr = {1, 1}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static const size_t positions[] = {0, 1, 61, 63, 64, 127, 320, 1023, 1024, 1145};
enum { POSITIONS = sizeof positions / sizeof *positions, TOKENS = 1200 };

static void answers_of(struct device *d, const int *formats, size_t n_formats)
{
    struct random r = {11};
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t f = 0; f < n_formats; f++) {
            struct world w;
            world_open(&w, d, shapes[s], formats[f], TOKENS, s * 10 + f);
            for (size_t i = 0; i < POSITIONS; i++) {
                float *qkv = random_qkv(&w, &r);
                size_t room = PAGE - positions[i] % PAGE, T = 1 + (i + s + f) % ROWS;
                check(&w, &(struct call){.layer = i % LAYERS,
                                         .pos = positions[i],
                                         .T = T < room ? T : room,
                                         .qkv = qkv,
                                         .mass = (int)(i % 3 == 0),
                                         .kind = i % 2 ? ROPE_PAIRS : ROPE_HALVES});
                free(qkv);
            }
            world_close(&w);
        }
}

/* Lists of a few pages, and the same as an audit of a dense step. */
static void lists(struct device *d)
{
    struct random r = {12};
    struct world w;
    world_open(&w, d, shapes[1], KV_4, TOKENS, 77);
    static const uint32_t few[2 * 5] = {0, 3, 4, 9, 15, 0, 1, 2, 14, 0 /* beyond the second's count */};
    for (int audit = 0; audit < 2; audit++)
        for (size_t T = 1; T <= ROWS; T += 3) {
            float *qkv = random_qkv(&w, &r);
            check(&w, &(struct call){.layer = 1,
                                     .pos = 1050,
                                     .T = T,
                                     .qkv = qkv,
                                     .pages = few,
                                     .n_pages = 5,
                                     .list = !audit,
                                     .audit = audit,
                                     .mass = 1});
            free(qkv);
        }
    world_close(&w);
}

/* A row's bits are the same in a call of four rows and in four calls of one; two runs are the same. */
static void rows(struct device *d)
{
    static const int formats[] = {KV_4, KV_8, KV_RAW, KV_K8V4};
    struct random r = {13};
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t f = 0; f < 4; f++) {
            struct world w;
            world_open(&w, d, shapes[s], formats[f], TOKENS, 5);
            float *qkv = random_qkv(&w, &r);
            struct call c = {.pos = 1084, .T = ROWS, .qkv = qkv};
            size_t n = w.kv.H * w.s.D;
            uint16_t *all[2];
            for (int again = 0; again < 2; again++) {
                world_set(&w, c.pos);
                prepare(&w, &c);
                decode(&w, &c);
                all[again] = bits_of(&w, &c);
            }
            assert_memory_equal(all[0], all[1], ROWS * n * 2);
            world_set(&w, c.pos);
            for (size_t t = 0; t < ROWS; t++) {
                struct call one = {.pos = c.pos + t, .T = 1, .qkv = qkv + t * ldqkv(&w)};
                prepare(&w, &one);
                decode(&w, &one);
                uint16_t *row = bits_of(&w, &one);
                assert_memory_equal(row, all[0] + t * n, n * 2);
                free(row);
            }
            free(all[0]);
            free(all[1]);
            free(qkv);
            world_close(&w);
        }
}

/* One recorded step serves every position. */
static void recorded(struct device *d)
{
    struct err e = {0};
    struct random r = {14};
    struct world w;
    struct device_graph *g;
    world_open(&w, d, shapes[1], KV_8, TOKENS, 6);
    float *qkv = random_qkv(&w, &r);
    struct call c = {.pos = 0, .T = 1, .qkv = qkv};
    assert_int_equal(d->ops->capture_begin(d, &e), 0);
    decode(&w, &c);
    assert_int_equal(d->ops->capture_end(d, &g, &e), 0);
    for (size_t i = 0; i < POSITIONS; i++) {
        c.pos = positions[i];
        world_set(&w, c.pos);
        prepare(&w, &c);
        d->ops->graph_launch(d, g);
        uint16_t *got = bits_of(&w, &c);
        world_set(&w, c.pos);
        prepare(&w, &c);
        decode(&w, &c);
        uint16_t *want = bits_of(&w, &c);
        assert_memory_equal(got, want, w.kv.H * w.s.D * 2);
        free(got);
        free(want);
    }
    d->ops->graph_free(d, g);
    free(qkv);
    world_close(&w);
}

/* A key or a value that fp16 cannot hold is told; a hot key among equal ones is found. */
static void extremes(struct device *d)
{
    struct random r = {15};
    struct world w;
    for (size_t part = 0; part < 2; part++) {
        world_open(&w, d, shapes[1], KV_4, TOKENS, 7);
        float *qkv = random_qkv(&w, &r);
        size_t at = (w.kv.H + part * w.kv.HK + 1) * w.s.D + 3;
        qkv[ldqkv(&w) + at] = part ? 7e4f : NAN;
        world_set(&w, 100);
        struct answer y = run(&w, &(struct call){.pos = 100, .T = 2, .qkv = qkv});
        assert_int_equal(y.failed, 1);
        answer_free(&y);
        free(qkv);
        world_close(&w);
    }
    for (size_t f = 0; f < 2; f++) {
        world_open(&w, d, shapes[3], f ? KV_8 : KV_4, TOKENS, 8);
        size_t D = w.s.D, n = LAYERS * w.s.HK * w.tokens * D;
        for (size_t i = 0; i < n; i++) {
            int hot = i / D % w.tokens == 777;
            w.k[i] = half_from_float(hot ? 30 : i % D == 3 ? -60000 : 1); /* a channel of one large value */
            w.v[i] = half_from_float(hot ? 60000 : (float)(i % 7));
        }
        float *qkv = random_qkv(&w, &r);
        for (size_t i = 0; i < ldqkv(&w) * ROWS; i++)
            if (i % ldqkv(&w) < w.kv.H * D)
                qkv[i] = i % ldqkv(&w) % D == 3 ? 0 : 0.5f;
        struct call c = {.pos = 1000, .T = 3, .qkv = qkv};
        world_set(&w, c.pos);
        memset(w.steps, 0, sizeof w.steps); /* nothing turns, so that channel 3 of q stays 0 */
        put(d, w.steps_d, w.steps, sizeof w.steps);
        struct answer got = run(&w, &c), want = expected(&w, &c);
        for (size_t t = 0; t < c.T; t++)
            assert_row(&w, &c, got.out, want.out, t);
        answer_free(&got);
        answer_free(&want);
        free(qkv);
        world_close(&w);
    }
}

static void refusals(struct device *d)
{
    struct err e = {0};
    struct random r = {16};
    struct world w;
    world_open(&w, d, shapes[0], KV_8, 128, 9);
    float *qkv = random_qkv(&w, &r);
    world_set(&w, 0);
    struct call c = {.T = 1, .qkv = qkv};
    prepare(&w, &c);
    w.scratch_bytes = 64;
    decode(&w, &c);
    assert_int_not_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
    assert_non_null(strstr(e.text, "scratch"));
    assert_int_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
    free(qkv);
    world_close(&w);
}

static void answers(struct device *d)
{
    static const int common[] = {KV_4, KV_8, KV_RAW, KV_K8V4};
    answers_of(d, common, 4);
}

/* What the card refuses. */
static void experimental(struct device *d)
{
    static const int rest[] = {KV_K4V2, KV_3};
    answers_of(d, rest, 2);
}

static void on_host(void (*test)(struct device *d))
{
    struct err e = {0};
    struct device *d;
    assert_int_equal(device_open(&d, "host", NULL, 0, &e), 0);
    test(d);
    assert_int_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
    device_close(d);
}

static void on_card(void (*test)(struct device *d))
{
    struct err e = {0};
    struct device *d;
    if (device_open(&d, "cuda", NULL, 0, &e)) {
        print_message("%s\n", e.text);
        skip();
    }
    if (!d->ops->attend_decode) {
        device_close(d);
        skip();
    }
    test(d);
    assert_int_equal(d->ops->sync(d, DEVICE_COMPUTE, &e), 0);
    device_close(d);
}

#define BOTH(name)                                                                                           \
    static void name##_host(void **state)                                                                    \
    {                                                                                                        \
        (void)state;                                                                                         \
        on_host(name);                                                                                       \
    }                                                                                                        \
    static void name##_card(void **state)                                                                    \
    {                                                                                                        \
        (void)state;                                                                                         \
        on_card(name);                                                                                       \
    }
BOTH(answers)
BOTH(lists)
BOTH(rows)
BOTH(recorded)
BOTH(extremes)
BOTH(refusals)

static void experimental_host(void **state)
{
    (void)state;
    on_host(experimental);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_host),      cmocka_unit_test(answers_card),  cmocka_unit_test(lists_host),
        cmocka_unit_test(lists_card),        cmocka_unit_test(rows_host),     cmocka_unit_test(rows_card),
        cmocka_unit_test(recorded_host),     cmocka_unit_test(recorded_card), cmocka_unit_test(extremes_host),
        cmocka_unit_test(extremes_card),     cmocka_unit_test(refusals_host), cmocka_unit_test(refusals_card),
        cmocka_unit_test(experimental_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
